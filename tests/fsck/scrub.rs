//! Scrubbing a mount: what it finds, how fast, and that it goes on where it ended.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::bench::flip;
use crate::common::World;

fn scrub(world: &World, arguments: &[&str]) -> (i32, Value) {
    let ran = world.try_run(&[&["--json", "scrub", "vol.mnt"], arguments].concat());
    (ran.code, serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{ran:?}")))
}

/// The backing file of this length.
fn backing(dir: &Path, length: u64) -> PathBuf {
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    files.into_iter().find(|path| path.is_file() && path.metadata().unwrap().len() == length).unwrap()
}

#[test]
fn damage_is_found_chunk_by_chunk_past_the_cache() {
    let Some(world) = World::new("damage_is_found_chunk_by_chunk_past_the_cache") else { return };
    let mountpoint = world.volume("vol");
    // 600 whole chunks, so that the damaged ones lie in different blocks.
    fs::write(mountpoint.join("large"), vec![1; 600 * 4064]).unwrap();
    fs::write(mountpoint.join("good"), "good").unwrap();
    std::os::unix::fs::symlink("good", mountpoint.join("link")).unwrap();
    assert_eq!(fs::read(mountpoint.join("large")).unwrap().len(), 600 * 4064);
    let (code, said) = scrub(&world, &[]);
    assert_eq!(code, 0, "{said:#}");
    assert_eq!((&said["Files"], &said["Bytes"]), (&Value::from(2), &Value::from(600 * 4064 + 4)));
    // The kernel has the pages, and the file is damaged behind its back.
    let file = backing(&world.path("vol"), 4096 * 602);
    flip(&file, 4096 * 4 + 99);
    flip(&file, 4096 * 5 + 99);
    flip(&file, 4096 * 602 - 5);
    let (code, said) = scrub(&world, &[]);
    assert_eq!(code, 4, "{said:#}");
    let findings = said["Findings"].as_array().unwrap();
    let place = |f: &Value| (f["FirstChunk"].as_u64().unwrap(), f["Chunks"].as_u64().unwrap());
    assert!(findings.iter().all(|f| f["Path"] == "large"), "{said:#}");
    assert_eq!(findings.iter().map(place).collect::<Vec<_>>(), [(3, 2), (599, 1)]);
    assert_eq!((&findings[0]["Offset"], &findings[0]["Bytes"]), (&Value::from(3 * 4064), &Value::from(8128)));
}

#[test]
fn files_whose_key_is_not_usable_are_counted_apart() {
    let Some(world) = World::new("files_whose_key_is_not_usable_are_counted_apart") else { return };
    let mountpoint = world.volume("vol");
    fs::write(mountpoint.join("a"), "a").unwrap();
    world.run(&["key", "disable", "alias/default", "--yes"]);
    let (code, said) = scrub(&world, &[]);
    assert_eq!((code, &said["NotChecked"], &said["Errors"]), (0, &Value::from(1), &Value::from(0)));
    world.run(&["key", "enable", "alias/default"]);
}

#[test]
fn what_is_no_mount_is_refused() {
    let Some(world) = World::new("what_is_no_mount_is_refused") else { return };
    world.try_run(&["scrub", "volume.mnt"]).fails(8, &["no mounted volume"]);
    world.try_run(&["scrub", "nowhere"]).fails(8, &["nowhere"]);
}

#[test]
fn it_keeps_to_its_limit_and_goes_on_after_a_signal() {
    let Some(world) = World::new("it_keeps_to_its_limit_and_goes_on_after_a_signal") else { return };
    let mountpoint = world.volume("vol");
    for directory in ["x", "y"] {
        fs::create_dir(mountpoint.join(directory)).unwrap();
        for index in 0..3 {
            let file = File::create(mountpoint.join(directory).join(index.to_string())).unwrap();
            file.set_len(4 << 20).unwrap();
        }
    }
    let all = 6 * (4u64 << 20);
    let begin = Instant::now();
    let mut command = world.command(&["--json", "scrub", "--limit", "8M", "vol.mnt"]);
    let child = command.stdout(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(1200));
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &said["Cancelled"]), (Some(32), &Value::from(true)), "{said:#}");
    let first = said["Bytes"].as_u64().unwrap();
    // A block more than the limit may have been read by then.
    let most = begin.elapsed().as_secs_f64() * f64::from(8 << 20) + f64::from(2 << 20);
    assert!(first > 0 && (first as f64) < most, "{first} bytes");
    let (code, said) = scrub(&world, &[]);
    assert_eq!((code, &said["Resumed"]), (0, &Value::from(true)), "{said:#}");
    assert_eq!(said["Bytes"].as_u64().unwrap(), all - first, "what was read is not read again");
    let (_, said) = scrub(&world, &[]);
    assert_eq!((&said["Resumed"], &said["Bytes"]), (&Value::from(false), &Value::from(all)));
}

#[test]
fn a_place_that_was_kept_is_gone_on_from_or_left_with_restart() {
    let Some(world) = World::new("a_place_that_was_kept_is_gone_on_from_or_left_with_restart") else {
        return;
    };
    let mountpoint = world.volume("vol");
    for name in ["a", "b", "c"] {
        fs::write(mountpoint.join(name), vec![1; 1000]).unwrap();
    }
    let (_, said) = scrub(&world, &[]);
    let volume = said["VolumeId"].as_str().unwrap();
    let inode = |name: &str| std::os::unix::fs::MetadataExt::ino(&mountpoint.join(name).metadata().unwrap());
    let mut inodes = ["a", "b", "c"].map(inode);
    inodes.sort_unstable();
    let memo = world.path("keys").join("scrub").join(format!("{volume}.json"));
    let place = serde_json::json!({
        "VolumeId": volume, "Inodes": [inodes[1]], "Offset": 400, "Errors": 2,
    });
    fs::create_dir_all(memo.parent().unwrap()).unwrap();
    fs::write(&memo, place.to_string()).unwrap();
    let (code, said) = scrub(&world, &[]);
    // Errors that were found before count.
    assert_eq!((code, &said["Bytes"], &said["Errors"]), (4, &Value::from(1600), &Value::from(2)));
    assert!(!memo.exists());
    fs::write(&memo, place.to_string()).unwrap();
    let (code, said) = scrub(&world, &["--restart"]);
    assert_eq!((code, &said["Bytes"]), (0, &Value::from(3000)));
}
