//! Scripts in namespaces of their own, where anybody may open `/dev/fuse` and the machine's files
//! can be mounted over.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::common::{Ran, World, run, skipped};

/// What every script begins with. `$W` is the world, `$W/home` the home of the user 1500,
/// `ada`, and `kmsfs` the program, wherever it was built.
const PRELUDE: &str = r#"
set -eu
umask 022
# Mounts of tests that run beside this one would not end while they are in this namespace.
umount --all --lazy --types fuse.kmsfs
mknod "$W/fuse" c 10 229
chmod 666 "$W/fuse"
mount --bind "$W/fuse" /dev/fuse
cp /etc/passwd "$W/passwd"
echo "ada:x:1500:1500::$W/home:/bin/sh" >> "$W/passwd"
mount --bind "$W/passwd" /etc/passwd
mkdir "$W/bin" "$W/home"
touch "$W/bin/kmsfs"
mount --bind "$KMSFS" "$W/bin/kmsfs"
cp "$W/key-file" "$W/home/key"
chown -R 1500:1500 "$W/home"
chmod 700 "$W/home"
export PATH="$W/bin:/usr/sbin:/usr/bin:/sbin:/bin"
cd "$W"

# Runs a command as another user, without a terminal.
as() {
    local uid=$1
    shift
    setpriv --reuid "$uid" --regid "$uid" --clear-groups \
        env HOME="$W/home" XDG_DATA_HOME="$W/home/share" "$@" </dev/null
}

# Its two arguments are equal.
same() {
    [ "$1" = "$2" ] || { echo "'$1' is not '$2'" >&2; exit 99; }
}

# A command fails with a code, and what it says contains a text.
refused() {
    local code=$1 text=$2 said got=0
    shift 2
    said=$("$@" 2>&1 >/dev/null) || got=$?
    same "$got" "$code"
    case $said in *"$text"*) ;; *) echo "lacks '$text': $said" >&2; exit 99 ;; esac
}

# Waits until a command succeeds.
until_true() {
    for _ in $(seq 200); do
        if "$@" >/dev/null 2>&1; then return; fi
        sleep 0.05
    done
    echo "waited in vain: $*" >&2
    exit 99
}
"#;

/// A world that other users can enter, for scripts; `None`, said on standard error, where there
/// are no namespaces or not the `tools` that the script uses.
pub(crate) fn world(test: &str, tools: &[&str]) -> Option<World> {
    let world = World::new(test)?;
    let missing = ["unshare", "setpriv"].iter().chain(tools).find(|tool| !is_installed(tool));
    if let Some(tool) = missing {
        skipped(test, &format!("{tool} is not installed"));
        return None;
    }
    let probe = Command::new("unshare").args(["--mount", "--pid", "--fork", "--mount-proc", "true"]).status();
    if !probe.is_ok_and(|status| status.success()) {
        skipped(test, "namespaces cannot be made");
        return None;
    }
    std::fs::set_permissions(world.dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    Some(world)
}

/// Runs a script as root in mount and PID namespaces of its own. They end with it, and whatever it
/// mounted or started with them.
#[track_caller]
pub(crate) fn script(world: &World, text: &str) -> Ran {
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .args(["sh", "-c", &format!("{PRELUDE}{text}")])
        .env("W", world.dir.path())
        .env("KMSFS", env!("CARGO_BIN_EXE_kmsfs"))
        .env("KMSFS_KEYSTORE", world.path("keys"));
    for variable in ["KMSFS_PASSPHRASE", "CREDENTIALS_DIRECTORY"] {
        command.env_remove(variable);
    }
    run(command)
}

/// Whether there is a program of that name for root.
pub(crate) fn is_installed(tool: &str) -> bool {
    ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].iter().any(|dir| std::path::Path::new(dir).join(tool).exists())
}
