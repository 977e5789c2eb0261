//! A world for one test: temporary directories, a key store that opens with a key file, and the
//! `kmsfs` binary to try on them. Dropping it unmounts everything that is mounted in it.
#![allow(dead_code, clippy::unwrap_used, reason = "every test binary includes it and uses a part")]

pub(crate) mod child;
pub(crate) mod dice;
pub(crate) mod pair;
pub(crate) mod sys;
pub(crate) mod terminal;
pub(crate) mod user;

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::mount::UnmountFlags;
use serde_json::Value;
use tempfile::TempDir;

/// How long a command may take before it counts as hung.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);
/// How long something that happens in the background may take.
const SOON: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);
/// Exit code of an unmount while something uses the mount.
const MOUNT_BUSY: i32 = 26;
/// Variables that would unlock a key store or name one.
const SECRET_VARIABLES: [&str; 3] = ["KMSFS_PASSPHRASE", "KMSFS_KEYSTORE", "CREDENTIALS_DIRECTORY"];

/// What a command did.
#[derive(Debug)]
pub(crate) struct Ran {
    /// Exit code; -1 if a signal ended it.
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// Panics unless the command succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }

    /// Panics unless the command failed with `code` and one line on stderr that contains each of
    /// `words` and, after a `;` or `:`, goes on to what to do next.
    #[track_caller]
    pub(crate) fn fails(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        assert_eq!(self.stdout, "", "a failed command prints no result");
        let line = self.stderr.strip_suffix('\n').unwrap_or_default();
        assert!(!line.contains('\n'), "more than a line: {}", self.stderr);
        let text = line.strip_prefix("kmsfs: ").unwrap_or_default();
        let next = text.rsplit_once("; ").or_else(|| text.rsplit_once(": ")).unwrap_or_default().1;
        assert!(next.split(' ').count() >= 2, "does not say what to do next: {line}");
        for word in words {
            assert!(line.contains(word), "lacks '{word}': {line}");
        }
        self
    }
}

/// Directories for one test, and what is mounted there.
pub(crate) struct World {
    pub(crate) dir: TempDir,
}

impl World {
    /// A world in which volumes are mounted; `None`, said on standard error, where that is not
    /// possible.
    pub(crate) fn new(test: &str) -> Option<Self> {
        (is_root(test) && can_mount(test)).then(Self::bare)
    }

    /// A world with a key file for a key store that does not exist yet, and the empty directory
    /// `volume.mnt`.
    pub(crate) fn bare() -> Self {
        // Not in /tmp, which may be a tmpfs.
        let world = Self { dir: tempfile::Builder::new().prefix("kmsfs-").tempdir_in("/var/tmp").unwrap() };
        let mut key = [0; 64];
        getrandom::fill(&mut key).unwrap();
        std::fs::write(world.path("key-file"), key).unwrap();
        std::fs::create_dir(world.path("volume.mnt")).unwrap();
        world
    }

    /// A world with a key store and a volume `volume`, which is not mounted.
    pub(crate) fn with_volume() -> Self {
        let world = Self::bare();
        world.run(&["init", "volume"]);
        world
    }

    /// A path in the world.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A new ext4 of so many bytes in the image file `name.img`, mounted at the directory `name`.
    /// Without loop devices `None`, and just that directory.
    pub(crate) fn disk(&self, name: &str, bytes: u64) -> Option<PathBuf> {
        let (dir, image) = (self.path(name), self.path(&format!("{name}.img")));
        std::fs::create_dir(&dir).unwrap();
        std::fs::File::create(&image).unwrap().set_len(bytes).unwrap();
        let mut mkfs = Command::new("mkfs.ext4");
        mkfs.args(["-q", "-F", "-b", "4096"]).arg(&image);
        let made = mkfs.status().is_ok_and(|status| status.success());
        let mounted = made && mount(&["-o", "loop", image.to_str().unwrap()], &dir);
        mounted.then_some(dir)
    }

    /// The program with this world's key store, nothing to unlock it with, and no terminal.
    pub(crate) fn locked_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kmsfs"));
        for variable in SECRET_VARIABLES {
            command.env_remove(variable);
        }
        command.current_dir(self.dir.path()).arg("--keystore").arg(self.path("keys")).args(args);
        command
    }

    /// The program with this world's key store and key file.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = self.locked_command(&[]);
        command.arg("--key-file").arg(self.path("key-file")).args(args);
        command
    }

    /// Runs the program, whatever comes of it.
    pub(crate) fn try_run(&self, args: &[&str]) -> Ran {
        run(self.command(args))
    }

    /// Runs the program; it must succeed. Answers what it printed.
    #[track_caller]
    pub(crate) fn run(&self, args: &[&str]) -> String {
        self.try_run(args).ok().stdout
    }

    /// Runs the program; it must succeed and print JSON and nothing else.
    #[track_caller]
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let ran = self.try_run(&[&["--json"], args].concat()).ok();
        assert_eq!(ran.stderr, "");
        serde_json::from_str(&ran.stdout).unwrap()
    }

    /// Puts a policy on a key: the owner's rights, and these statements about everything else.
    #[track_caller]
    pub(crate) fn put_policy(&self, key: &str, statements: &[Value]) {
        let owner = "arn:aws:iam::000000000000:root";
        let mut all = vec![serde_json::json!({"Effect": "Allow", "Principal": {"AWS": owner},
            "Action": "kms:*", "Resource": "*"})];
        all.extend(statements.iter().cloned());
        self.put_whole_policy(key, &all);
    }

    /// Puts a policy on a key: these statements and nothing else.
    #[track_caller]
    pub(crate) fn put_whole_policy(&self, key: &str, statements: &[Value]) {
        let policy = serde_json::json!({"Version": "2012-10-17", "Statement": statements});
        let file = tempfile::NamedTempFile::new_in(self.dir.path()).unwrap();
        std::fs::write(file.path(), policy.to_string()).unwrap();
        self.run(&["policy", "put", key, file.path().to_str().unwrap()]);
    }

    /// Lets every user have files under a key.
    #[track_caller]
    pub(crate) fn let_everybody_use(&self, key: &str) {
        let actions = ["kms:Decrypt", "kms:GenerateDataKey", "kms:ReEncrypt*"];
        self.put_policy(
            key,
            &[serde_json::json!({"Effect": "Allow", "Principal": "*", "Action": actions, "Resource": "*"})],
        );
    }

    /// A new volume `name`, mounted at `name.mnt`.
    #[track_caller]
    pub(crate) fn volume(&self, name: &str) -> PathBuf {
        self.run(&["init", name]);
        self.mount(name, &[])
    }

    /// Mounts the volume `name` at `name.mnt`.
    #[track_caller]
    pub(crate) fn mount(&self, name: &str, args: &[&str]) -> PathBuf {
        let mountpoint = self.path(&format!("{name}.mnt"));
        std::fs::create_dir_all(&mountpoint).unwrap();
        self.run(&[&["mount", name, mountpoint.to_str().unwrap()], args].concat());
        mountpoint
    }

    /// Unmounts a mount point and waits for its data to be on disk. Tries again while something
    /// still looks at the mount.
    #[track_caller]
    pub(crate) fn umount(&self, mountpoint: &Path) {
        let mut ran = None;
        wait_until("the mount is not busy", || {
            let last = self.try_run(&["umount", mountpoint.to_str().unwrap()]);
            let busy = last.code == MOUNT_BUSY;
            ran = Some(last);
            !busy
        });
        ran.unwrap().ok();
    }

    /// Ends the process that serves `mountpoint` without warning, and takes the mount away.
    pub(crate) fn kill(&self, mountpoint: &Path) {
        self.kill_process(mountpoint);
        rustix::mount::unmount(mountpoint, UnmountFlags::DETACH).unwrap();
    }

    /// Ends the process that serves `mountpoint` without warning; the mount stays behind.
    pub(crate) fn kill_process(&self, mountpoint: &Path) {
        let pid = self.process(mountpoint);
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        wait_for_release(pid);
    }

    /// The process that serves `mountpoint`.
    pub(crate) fn process(&self, mountpoint: &Path) -> rustix::process::Pid {
        let status = self.json(&["status"]);
        let mounts = status["Service"]["Mounts"].as_array().unwrap();
        let mount = mounts.iter().find(|m| m["Mountpoint"] == mountpoint.to_str().unwrap()).unwrap();
        let pid = mount["Pid"].as_i64().unwrap();
        rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()
    }

    /// Processes of mounts in this world; among them may be one that just mounted and ends.
    pub(crate) fn daemons(&self) -> Vec<u32> {
        let program = env!("CARGO_BIN_EXE_kmsfs").as_bytes();
        let root = self.dir.path().as_os_str().as_encoded_bytes();
        let is_ours = |pid: &u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.starts_with(program)
                && line.windows(root.len()).any(|part| part == root)
                && line.split(|&b| b == 0).any(|argument| argument == b"mount")
        };
        let entries = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_ours).collect()
    }

    /// Waits until the processes of this world's mounts are gone.
    #[track_caller]
    pub(crate) fn wait_for_daemons(&self) {
        wait_until("the mounts' processes end", || self.daemons().is_empty());
    }

    /// Mount points in this world, the last one first.
    fn mounts(&self) -> Vec<PathBuf> {
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
        let mut points: Vec<PathBuf> = points.filter(|point| point.starts_with(self.dir.path())).collect();
        points.reverse();
        points
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for mountpoint in self.mounts() {
            let _ = self.try_run(&["umount", mountpoint.to_str().unwrap()]);
            // A failed test may have left files open, or something else mounted.
            let _ = rustix::mount::unmount(&mountpoint, UnmountFlags::DETACH);
            let mut helper = Command::new("fusermount3");
            let _ = helper.arg("-uz").arg(&mountpoint).stderr(Stdio::null()).status();
        }
        let deadline = Instant::now() + SOON;
        while !self.daemons().is_empty() && Instant::now() < deadline {
            std::thread::sleep(POLL);
        }
    }
}

/// Raises a flag when it is dropped, so that a thread that waits for the flag ends also when the
/// test fails.
pub(crate) struct RaiseOnDrop<'a>(pub(crate) &'a AtomicBool);

impl Drop for RaiseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Runs a command with no input to its end.
#[track_caller]
pub(crate) fn run(command: Command) -> Ran {
    run_within(COMMAND_TIMEOUT, command)
}

/// Runs a command with no input to its end, or for so long, after which it counts as hung.
#[track_caller]
pub(crate) fn run_within(time: Duration, command: Command) -> Ran {
    let output = assert_cmd::Command::from_std(command).timeout(time).write_stdin("").output().unwrap();
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Waits for something that happens in the background.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(POLL);
    }
}

/// Waits until a process that was killed has closed its files.
pub(crate) fn wait_for_release(pid: rustix::process::Pid) {
    // The last thread to go closes the files; the first one stays behind as a zombie.
    let threads = format!("/proc/{}/task", pid.as_raw_nonzero());
    let last = format!("/proc/{}/stat", pid.as_raw_nonzero());
    let gone = || {
        let zombie = std::fs::read_to_string(&last).map_or(true, |stat| stat.contains(") Z "));
        zombie && std::fs::read_dir(&threads).map_or(true, |threads| threads.count() <= 1)
    };
    wait_until("the killed process lets go of its files", gone);
}

/// Every file below a directory, itself included: its mode and, as far as it has any, its contents.
/// A directory that is not there has nothing in it.
pub(crate) fn tree(dir: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut pending = vec![dir.to_owned()];
    while let Some(path) = pending.pop() {
        let Ok(metadata) = path.symlink_metadata() else { continue };
        let kind = metadata.file_type();
        let mut contents = Vec::new();
        if kind.is_dir() {
            pending.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if kind.is_symlink() {
            contents = path.read_link().unwrap().into_os_string().into_encoded_bytes();
        } else if kind.is_file() {
            contents = std::fs::read(&path).unwrap();
        }
        found.insert(path, (metadata.mode(), contents));
    }
    found
}

/// Whether this process can mount; says why not, for `test`.
pub(crate) fn can_mount(test: &str) -> bool {
    let usable = std::fs::File::options().read(true).write(true).open("/dev/fuse").is_ok();
    let helper = Command::new("fusermount3").arg("-V").output().is_ok();
    if !usable {
        skipped(test, "/dev/fuse cannot be opened");
    } else if !rustix::process::geteuid().is_root() && !helper {
        skipped(test, "fusermount3 is not installed");
    } else {
        return true;
    }
    false
}

/// Whether this process is root and may mount anything; says why not, for `test`.
pub(crate) fn is_root(test: &str) -> bool {
    if !rustix::process::geteuid().is_root() {
        skipped(test, "not root");
        return false;
    }
    let dir = tempfile::tempdir().unwrap();
    let tried = mount(&["-t", "tmpfs", "tmpfs"], dir.path());
    if tried {
        let _ = Command::new("umount").arg(dir.path()).status();
    } else {
        skipped(test, "mount(2) is not allowed here");
    }
    tried
}

/// Whether a program is installed; says that it is not, for `test`.
pub(crate) fn has_program(test: &str, name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|dir| dir.join(name).is_file());
    if !found {
        skipped(test, &format!("{name} is not installed"));
    }
    found
}

/// Runs mount(8).
pub(crate) fn mount(arguments: &[&str], mountpoint: &Path) -> bool {
    Command::new("mount").args(arguments).arg(mountpoint).status().is_ok_and(|status| status.success())
}

/// Says that a test was skipped, past the test harness, which captures `eprintln!`.
pub(crate) fn skipped(test: &str, why: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {test}: {why}");
}
