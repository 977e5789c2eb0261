//! `kmsfs bench`: what it prints, and that a mount is as it was afterwards.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use common::{World, run, tree, wait_until};

/// Exit codes.
const USAGE: i32 = 2;
const NO_SPACE: i32 = 18;
const NOT_A_MOUNT: i32 = 21;
const INTERRUPTED: i32 = 34;

/// What directories begin with that are there while it runs.
const SCRATCH: &str = ".kmsfs-bench-";
const TINY: [&str; 6] = ["--size", "1M", "--files", "5", "--rounds", "2"];

#[test]
fn the_machine_is_measured_with_every_kernel_or_the_wanted_one() {
    let world = World::bare();
    let rows = world.json(&["bench", "--seconds", "0.01", "--chunk-size", "4K,8K", "--kernel", "portable"]);
    let named = |row: &Value| {
        let text = |name: &str| row[name].as_str().unwrap().to_owned();
        assert!(row["bytes_per_second"].as_f64().unwrap() > 0.0 && row["seconds"].as_f64().unwrap() > 0.0);
        assert!(row["batch"].as_u64().unwrap() > 0);
        assert_eq!(text("implementation"), "portable");
        (text("algorithm"), text("operation"), row["chunk_size_bytes"].as_u64().unwrap())
    };
    let found: Vec<_> = rows.as_array().unwrap().iter().map(named).collect();
    let mut expected = Vec::new();
    for algorithm in ["AES-256-GCM-SIV", "chunk path"] {
        for size in [4064, 8160] {
            for operation in ["seal", "open"] {
                expected.push((algorithm.to_owned(), operation.to_owned(), size));
            }
        }
    }
    assert_eq!(found, expected);
    // A table for a person; without a terminal it has no bars.
    let table = world.run(&["bench", "--seconds", "0.01", "--chunk-size", "4K", "--kernel", "portable"]);
    assert_eq!(table.lines().count(), 5, "{table}");
    assert!(table.starts_with("WHAT ") && table.lines().all(|line| !line.contains(['█', '#'])), "{table}");
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let world = World::bare();
    world.try_run(&["bench", "--kernel", "vax"]).fails(USAGE, &["no kernel 'vax'", "portable"]);
    // No mount, whatever it says of itself.
    let plain = world.path("volume.mnt");
    let mnt = plain.to_str().unwrap();
    let next = "--any-filesystem";
    world.try_run(&["bench", mnt]).fails(NOT_A_MOUNT, &["in no kmsfs mount", next]);
    let claim = rustix::fs::XattrFlags::empty();
    if rustix::fs::setxattr(&plain, "user.kmsfs.info", br#"{"volume_id": "1"}"#, claim).is_ok() {
        world.try_run(&["bench", mnt]).fails(NOT_A_MOUNT, &["in no kmsfs mount", next]);
    }
    let file = world.path("key-file");
    world.try_run(&["bench", file.to_str().unwrap()]).fails(USAGE, &["is not a directory"]);
    let huge = ["bench", mnt, "--any-filesystem", "--size", "1000000G"];
    world.try_run(&huge).fails(NO_SPACE, &["too little space", "--size"]);
    assert_eq!(plain.read_dir().unwrap().count(), 0);
    let other = world.try_run(&["bench", mnt, "--any-filesystem", "--kernel", "portable"]);
    assert_eq!(other.code, USAGE, "{other:?}");
}

#[test]
fn a_mount_is_measured_and_is_as_before() {
    let Some(world) = World::new("a_mount_is_measured_and_is_as_before") else { return };
    let mnt = world.volume("volume");
    fs::create_dir(mnt.join("below")).unwrap();
    fs::write(mnt.join("below/file"), "own").unwrap();
    let before = tree(&mnt);
    for dir in [mnt.clone(), mnt.join("below")] {
        let shown = world.json(&[&["bench", dir.to_str().unwrap()], &TINY[..]].concat());
        assert_eq!(shown["directory"], dir.to_str().unwrap());
        assert!(shown["volume_id"].is_string());
        check(&shown);
        // The ciphertext was found, whatever there is to drop of it.
        assert_ne!(shown["ciphertext_in_memory"], "unknown", "{shown}");
    }
    let table = world.run(&[&["bench", mnt.to_str().unwrap()], &TINY[..]].concat());
    assert!(table.contains("write 4 KiB requests, fsync") && table.contains("unlink files"), "{table}");
    assert!(!table.contains(['█', '#']), "{table}");
    assert!(tree(&mnt) == before, "the mount is not as it was");
}

#[test]
fn another_filesystem_is_measured_for_comparison_only() {
    let world = World::bare();
    let dir = world.path("volume.mnt");
    let shown = world.json(&[&["bench", "--any-filesystem", dir.to_str().unwrap()], &TINY[..]].concat());
    assert!(shown["volume_id"].is_null());
    check(&shown);
    assert_eq!(dir.read_dir().unwrap().count(), 0);
}

#[test]
fn a_signal_ends_it_and_nothing_is_left() {
    let Some(world) = World::new("a_signal_ends_it_and_nothing_is_left") else { return };
    let mnt = world.volume("volume");
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let mut command =
            world.command(&["bench", mnt.to_str().unwrap(), "--size", "16M", "--rounds", "1000"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        wait_until("it is under way", || scratch_files(&mnt) > 0);
        kill_process(Pid::from_child(&child), signal).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(INTERRUPTED), "{signal:?}: {said}");
        assert!(said.contains("nothing is left behind") && output.stdout.is_empty(), "{said}");
        assert_eq!(mnt.read_dir().unwrap().count(), 0, "{signal:?} left something");
    }
}

#[test]
fn a_user_who_may_only_write_there_can_measure() {
    let test = "a_user_who_may_only_write_there_can_measure";
    let needed = |_: &World| common::has_program(test, "setpriv");
    let Some(world) = World::new(test).filter(needed) else { return };
    world.run(&["init", "volume"]);
    let mnt = world.mount("volume", &["-o", "allow_other,key_access=mount"]);
    fs::create_dir(mnt.join("own")).unwrap();
    std::os::unix::fs::chown(mnt.join("own"), Some(65534), Some(65534)).unwrap();
    let open = |path: &Path| fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755));
    open(world.dir.path()).unwrap();
    // The tests' own binary may be where nobody gets.
    fs::copy(env!("CARGO_BIN_EXE_kmsfs"), world.path("kmsfs")).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).current_dir(world.dir.path());
    command.arg("./kmsfs").args(["--json", "bench"]).arg(mnt.join("own")).args(TINY);
    let shown: Value = serde_json::from_str(&run(command).ok().stdout).unwrap();
    check(&shown);
    // He may not look into the volume's directory, and is told what that means.
    assert_eq!(shown["ciphertext_in_memory"], "unknown");
    assert_eq!(mnt.join("own").read_dir().unwrap().count(), 0);
}

/// Files that are being measured with.
fn scratch_files(dir: &Path) -> usize {
    let entries = dir.read_dir().unwrap().filter_map(Result::ok);
    let scratch = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(SCRATCH));
    scratch.filter_map(|entry| entry.path().read_dir().ok()).map(Iterator::count).sum()
}

/// Every operation has a figure, in bytes and seconds.
#[track_caller]
fn check(shown: &Value) {
    assert_eq!(
        (&shown["size"], &shown["files"], &shown["rounds"]),
        (&(1 << 20).into(), &5.into(), &2.into())
    );
    let rows = shown["rows"].as_array().unwrap();
    let mut found = Vec::new();
    for row in rows {
        let seconds = row["seconds"].as_array().unwrap();
        assert_eq!(seconds.len(), 2, "{row}");
        let median = row["median_seconds"].as_f64().unwrap();
        let rate = row["operations_per_second"].as_f64().unwrap();
        let operations = row["operations"].as_f64().unwrap();
        assert!(median > 0.0 && (rate * median / operations - 1.0).abs() < 0.01, "{row}");
        let warm = if row["cache"] == "warm" { " warm" } else { "" };
        found.push(format!("{} {}{warm}", row["operation"].as_str().unwrap(), row["request_bytes"]));
    }
    let expected = [
        "sequential_write 4096",
        "sequential_write 1048576",
        "sequential_read 1048576",
        "sequential_read 1048576 warm",
        "sequential_read 4096",
        "sequential_read 4096 warm",
        "random_read 4096",
        "random_write 4096",
        "create 4096",
        "stat null warm",
        "read_small 4096",
        "unlink null",
    ];
    assert_eq!(found, expected);
}
