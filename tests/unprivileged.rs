//! A mount by a user who is nothing but the owner of the volume.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Command;

use common::{World, has_program, run};

/// The user and group that every system has for this.
const NOBODY: u32 = 65534;

/// Gives everybody a /dev/fuse, as common distributions do, for what it runs alone; then runs a
/// script as nobody. Mounts of others are let go of: they could not end while this one has them.
const AS_NOBODY: &str = r#"
    umount --lazy --all --types fuse.kmsfs
    mknod fuse c 10 229 && chmod 666 fuse && mount --bind fuse /dev/fuse &&
    exec setpriv --reuid=65534 --regid=65534 --clear-groups sh -euxc "$1"
"#;

#[test]
fn an_unprivileged_mount_writes_files_whatever_their_mode() {
    let test = "an_unprivileged_mount_writes_files_whatever_their_mode";
    let needed =
        |_: &World| ["fusermount3", "setpriv", "fallocate"].iter().all(|name| has_program(test, name));
    let Some(world) = World::new(test).filter(needed) else { return };
    let dir = world.dir.path();
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    chown(dir, Some(NOBODY), Some(NOBODY)).unwrap();
    chown(world.path("volume.mnt"), Some(NOBODY), Some(NOBODY)).unwrap();
    // The tests' own binary may be where nobody gets.
    fs::copy(env!("CARGO_BIN_EXE_kmsfs"), world.path("kmsfs")).unwrap();
    fs::set_permissions(world.path("key-file"), fs::Permissions::from_mode(0o644)).unwrap();
    let script = "
        kmsfs() { ./kmsfs --keystore keys --key-file key-file \"$@\"; }
        kmsfs init volume
        kmsfs mount volume volume.mnt
        cd volume.mnt
        echo one > file
        echo two >> file
        fallocate --length 100000 file
        truncate --size 8 file
        (umask 0577 && echo kept > write-only)
        chmod 0200 file
        echo three >> file
        cd ..
        kmsfs umount volume.mnt
        kmsfs mount volume volume.mnt
        stat --format '%a %s' volume.mnt/file volume.mnt/write-only
        chmod 600 volume.mnt/file volume.mnt/write-only
        cat volume.mnt/file volume.mnt/write-only
        kmsfs umount volume.mnt
    ";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", AS_NOBODY, "sh", script]).current_dir(dir);
    let ran = run(command).ok();
    let end = "200 14\n200 5\none\ntwo\nthree\nkept\n";
    assert!(ran.stdout.ends_with(end), "{ran:?}");
}
