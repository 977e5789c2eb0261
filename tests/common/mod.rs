//! A key store and volumes in a temporary directory, and the program run on them.
#![allow(dead_code, clippy::unwrap_used)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Everything that one test needs; unmounted and removed when dropped.
pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
    mounts: std::cell::RefCell<Vec<PathBuf>>,
}

impl World {
    /// A world with a key file; `None`, said on standard error, where mounting is not possible.
    pub(crate) fn new(test: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
            writeln!(std::io::stderr(), "skipped: {test}: needs root and /dev/fuse").unwrap();
            return None;
        }
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let mut key = [0; 64];
        getrandom::fill(&mut key).unwrap();
        std::fs::write(dir.path().join("key-file"), key).unwrap();
        Some(Self { dir, mounts: std::cell::RefCell::default() })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The program with this world's key store.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kmsfs"));
        command.current_dir(self.dir.path()).arg("--keystore").arg(self.path("keys"));
        command.arg("--key-file").arg(self.path("key-file")).args(args);
        command
    }

    /// Runs the program, whatever comes of it.
    pub(crate) fn try_run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs the program; it must succeed. Answers what it printed.
    pub(crate) fn run(&self, args: &[&str]) -> String {
        let output = self.try_run(args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "kmsfs {args:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// A new volume `name`, mounted at `name.mnt`.
    pub(crate) fn volume(&self, name: &str) -> PathBuf {
        self.run(&["init", name]);
        self.mount(name, &[])
    }

    /// Mounts the volume `name` at `name.mnt`.
    pub(crate) fn mount(&self, name: &str, args: &[&str]) -> PathBuf {
        let mountpoint = self.path(&format!("{name}.mnt"));
        std::fs::create_dir_all(&mountpoint).unwrap();
        self.run(&[&["mount", name, mountpoint.to_str().unwrap()], args].concat());
        self.mounts.borrow_mut().push(mountpoint.clone());
        mountpoint
    }

    /// Unmounts a mount point and waits for its data to be on disk.
    pub(crate) fn umount(&self, mountpoint: &Path) {
        self.run(&["umount", mountpoint.to_str().unwrap()]);
        self.mounts.borrow_mut().retain(|mounted| mounted != mountpoint);
    }

    /// Ends the process that serves `mountpoint` without warning, and takes the mount away.
    pub(crate) fn kill(&self, mountpoint: &Path) {
        let status = self.run(&["--json", "status"]);
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        let mounts = status["Service"]["Mounts"].as_array().unwrap();
        let mount = mounts.iter().find(|m| m["Mountpoint"] == mountpoint.to_str().unwrap()).unwrap();
        let pid = mount["Pid"].as_i64().unwrap();
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        let detach = rustix::mount::UnmountFlags::DETACH;
        rustix::mount::unmount(mountpoint, detach).unwrap();
        self.mounts.borrow_mut().retain(|mounted| mounted != mountpoint);
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for mountpoint in self.mounts.borrow().iter() {
            let _ = self.try_run(&["umount", mountpoint.to_str().unwrap()]);
            let _ = rustix::mount::unmount(mountpoint, rustix::mount::UnmountFlags::DETACH);
        }
    }
}
