//! Service managers: what the program tells them, and the units in `scripts/systemd`.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::common::{World, skipped};
use crate::namespace::is_installed;

const UNITS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/systemd");
/// Where the units expect the program.
const PROGRAM: &str = "/usr/local/bin/kmsfs";

/// Everything that comes before `last`, and that.
fn messages_until(socket: &UnixDatagram, last: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    while !lines.iter().any(|line| line == last) {
        let mut buffer = [0; 4096];
        let len = socket.recv(&mut buffer).unwrap();
        lines.extend(std::str::from_utf8(&buffer[..len]).unwrap().lines().map(str::to_owned));
    }
    lines
}

#[test]
fn the_service_manager_is_told_when_the_mount_is_ready_and_when_it_ends() {
    let Some(world) = World::new("the_service_manager_is_told_when_the_mount_is_ready_and_when_it_ends")
    else {
        return;
    };
    world.run(&["init", "volume"]);
    let socket = UnixDatagram::bind(world.path("notify")).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mnt = world.path("volume.mnt");
    // As a unit does it: the secret as a credential.
    let credentials = world.path("credentials");
    std::fs::create_dir(&credentials).unwrap();
    std::fs::copy(world.path("key-file"), credentials.join("kmsfs.key-file")).unwrap();
    let mut command = world.locked_command(&["mount", "-f", "volume", mnt.to_str().unwrap()]);
    command.env("NOTIFY_SOCKET", world.path("notify")).env("CREDENTIALS_DIRECTORY", credentials);
    let mut child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();

    let said = messages_until(&socket, "READY=1");
    let status = format!("STATUS={} is mounted at {}", world.path("volume").display(), mnt.display());
    assert!(said.contains(&status), "{said:?}");
    // Ready means that it can be used.
    std::fs::write(mnt.join("file"), "data").unwrap();
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let said = messages_until(&socket, "STOPPING=1");
    assert!(said.iter().any(|line| line.starts_with("STATUS=")), "{said:?}");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_mount_in_the_background_tells_nobody() {
    let Some(world) = World::new("a_mount_in_the_background_tells_nobody") else { return };
    world.run(&["init", "volume"]);
    let socket = UnixDatagram::bind(world.path("notify")).unwrap();
    socket.set_nonblocking(true).unwrap();
    let mut command = world.command(&["mount", "volume", "volume.mnt"]);
    command.env("NOTIFY_SOCKET", world.path("notify"));
    crate::common::run(command).ok();
    world.umount(&world.path("volume.mnt"));
    world.wait_for_daemons();
    // The process that was started has ended by then, and the manager takes it for the service.
    assert_eq!(socket.recv(&mut [0; 64]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

/// A copy of a unit, with the program where it was built.
fn copy(world: &World, unit: &Path) -> PathBuf {
    let text = std::fs::read_to_string(unit).unwrap();
    assert!(unit.extension().is_some_and(|kind| kind != "service") || text.contains(PROGRAM));
    let copy = world.path(unit.file_name().unwrap().to_str().unwrap());
    std::fs::write(&copy, text.replace(PROGRAM, env!("CARGO_BIN_EXE_kmsfs"))).unwrap();
    copy
}

/// Has systemd look at a copied unit.
fn verify(world: &World, copy: &Path, flags: &[&str]) {
    // An instance of a template is verified by its own name.
    let name = copy.to_str().unwrap().replace('@', "@plain");
    let mut command = Command::new("systemd-analyze");
    command.arg("verify").args(flags).arg(&name).env("XDG_RUNTIME_DIR", world.dir.path());
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let ours: Vec<&str> =
        said.lines().filter(|line| line.contains("kmsfs") || line.contains("plain")).collect();
    assert!(output.status.success() && ours.is_empty(), "{}: {said}", copy.display());
}

#[test]
fn systemd_accepts_the_units() {
    const TEST: &str = "systemd_accepts_the_units";
    if !is_installed("systemd-analyze") {
        return skipped(TEST, "systemd-analyze is not installed");
    }
    let world = World::bare();
    let mut verified = 0;
    for (dir, flags) in [(UNITS.to_owned(), &[][..]), (format!("{UNITS}/user"), &["--user"][..])] {
        let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        // Units name each other: all of them are there before one is looked at.
        let copies: Vec<PathBuf> =
            entries.filter(|path| path.is_file()).map(|path| copy(&world, &path)).collect();
        for copy in &copies {
            verify(&world, copy, flags);
            verified += 1;
        }
    }
    assert_eq!(verified, 7);
}

#[test]
fn the_system_unit_lets_its_mount_be_seen() {
    let unit = std::fs::read_to_string(format!("{UNITS}/kmsfs@.service")).unwrap();
    let hides = [
        "Private",
        "Protect",
        "ReadOnly",
        "ReadWrite",
        "Inaccessible",
        "Bind",
        "TemporaryFileSystem",
        "Root",
    ];
    for line in unit.lines() {
        assert!(!hides.iter().any(|setting| line.starts_with(setting)), "makes a mount namespace: {line}");
    }
}
