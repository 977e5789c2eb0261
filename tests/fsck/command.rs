//! The command: its options, exit codes and output.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::bench::{fingerprint, flip};
use crate::common::{World, run};

/// A world with an unmounted volume `vol` in which are a directory and two files of several chunks.
fn world(test: &str) -> Option<World> {
    let world = World::new(test)?;
    let mountpoint = world.volume("vol");
    fs::create_dir(mountpoint.join("dir")).unwrap();
    fs::write(mountpoint.join("dir/a"), vec![1; 20_000]).unwrap();
    fs::write(mountpoint.join("b\u{1b}[31m"), vec![2; 20_000]).unwrap();
    world.umount(&mountpoint);
    Some(world)
}

/// The largest file below a backing directory.
fn largest(dir: &Path) -> std::path::PathBuf {
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    files.max_by_key(|path| path.metadata().unwrap().len()).unwrap()
}

#[test]
fn exit_codes_are_those_of_fsck() {
    let Some(world) = world("exit_codes_are_those_of_fsck") else { return };
    let ran = world.try_run(&["fsck", "vol"]);
    // No progress where nobody looks on.
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    let mountpoint = world.mount("vol", &[]);
    for arguments in [&["fsck", "vol"][..], &["fsck", "--keyless", "vol"], &["fsck", "-y", "vol"]] {
        world.try_run(arguments).fails(8, &["mounted already", "kmsfs scrub"]);
    }
    world.umount(&mountpoint);
    world.try_run(&["fsck", "nowhere"]).fails(8, &["nowhere"]);
    world.try_run(&["fsck", "."]).fails(8, &["not a kmsfs volume"]);
    for arguments in [
        &["fsck"][..],
        &["fsck", "--bogus", "vol"],
        &["fsck", "--repair", "--keyless", "vol"],
        &["fsck", "-y", "--headers-only", "vol"],
        &["fsck", "-n", "-p", "vol"],
        &["scrub", "--limit", "fast", "vol.mnt"],
        &["--json", "scrub"],
    ] {
        assert_eq!(world.try_run(arguments).code, 16, "{arguments:?}");
    }
    let file = largest(&world.path("vol"));
    flip(&file, 20);
    assert_eq!(world.try_run(&["fsck", "-n", "vol"]).code, 4);
    for (option, expected) in [("-p", 1), ("-a", 0), ("-y", 0), ("--repair", 0)] {
        assert_eq!(world.try_run(&["fsck", option, "vol"]).code, expected, "{option}");
    }
}

#[test]
fn without_keys_no_key_store_is_needed_and_nothing_is_written() {
    let Some(world) = world("without_keys_no_key_store_is_needed") else { return };
    let before = fingerprint(&world.path("vol"));
    fs::rename(world.path("keys"), world.path("elsewhere")).unwrap();
    let ran = run(world.locked_command(&["fsck", "--keyless", "vol"]));
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{ran:?}");
    run(world.locked_command(&["fsck", "vol"])).fails(8, &["no key store"]);
    assert_eq!(fingerprint(&world.path("vol")), before);
}

#[test]
fn one_json_document_has_everything() {
    let Some(world) = world("one_json_document_has_everything") else { return };
    let file = largest(&world.path("vol"));
    flip(&file, 4096 + 100);
    flip(&file, 2 * 4096 + 100);
    let ran = world.try_run(&["--json", "fsck", "vol"]);
    let said: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((ran.code, &said["ExitCode"]), (4, &Value::from(4)));
    assert_eq!(said["Counts"]["Files"], 2);
    assert_eq!(said["Counts"]["Errors"], 1);
    let finding = &said["Findings"][0];
    assert_eq!(finding["Path"], "/b\u{1b}[31m");
    assert_eq!(finding["BackingPath"], file.file_name().unwrap().to_str().unwrap());
    assert_eq!(finding["Kind"], "chunks");
    assert_eq!(finding["Severity"], "damage");
    assert_eq!((&finding["FirstChunk"], &finding["Chunks"]), (&Value::from(0), &Value::from(2)));
    assert_eq!((&finding["Offset"], &finding["Bytes"]), (&Value::from(0), &Value::from(8128)));
    assert_eq!(finding["Cause"], "chunks 0 to 1: authentication failed");
    assert_eq!(finding["Repaired"], false);
    // Names give no orders to a terminal.
    let text = world.try_run(&["fsck", "vol"]).stdout;
    assert!(text.contains("bytes 0 to 8127") && !text.contains('\u{1b}'), "{text}");
}

#[test]
fn a_signal_ends_a_check_cleanly() {
    let Some(world) = World::new("a_signal_ends_a_check_cleanly") else { return };
    let mountpoint = world.volume("vol");
    fs::write(mountpoint.join("large"), vec![3; 200 << 20]).unwrap();
    world.umount(&mountpoint);
    let before = fingerprint(&world.path("vol"));
    let mut command = world.command(&["--json", "fsck", "vol"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Once it reads the file, it has its handlers in place.
    let reads = format!("/proc/{}/io", child.id());
    let deadline = Instant::now() + Duration::from_secs(20);
    let read = || {
        let counters = fs::read_to_string(&reads).unwrap_or_default();
        let line = counters.lines().find_map(|line| line.strip_prefix("rchar: ").map(str::to_owned));
        line.and_then(|number| number.parse::<u64>().ok()).unwrap_or(0)
    };
    while read() < 8 << 20 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &said["Cancelled"]), (Some(32), &Value::from(true)), "{said:#}");
    assert_eq!(fingerprint(&world.path("vol")), before);
}
