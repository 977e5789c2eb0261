//! Re-wrapping files by newer versions of their master key, and under other ones, in mounts that are
//! in use and without a mount. Nothing but headers changes.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::user::ADA;
use common::{RaiseOnDrop, World};
use serde_json::Value;

const LEFT: i32 = 33;
const IN_USE: i32 = 12;
const USAGE: i32 = 2;

/// A mount with two directories, each under a key of its own.
fn two_keys(test: &str) -> Option<(World, PathBuf)> {
    let world = World::new(test)?;
    let mount = world.volume("vol");
    for name in ["a", "b"] {
        world.run(&["key", "create", "--alias", name]);
        fs::create_dir(mount.join(name)).unwrap();
        world.run(&["key", "assign", &format!("alias/{name}"), text(&mount.join(name))]);
    }
    Some((world, mount))
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn arn(world: &World, name: &str) -> String {
    world.json(&["key", "describe", &format!("alias/{name}")])["Arn"].as_str().unwrap().to_owned()
}

/// The alias's key and its version that wrap a file, by its header.
fn wrapped_by(world: &World, path: &Path) -> (String, u64) {
    let listed = world.json(&["file", "list", text(path)]);
    (listed[0]["KeyArn"].as_str().unwrap().to_owned(), listed[0]["KeyVersion"].as_u64().unwrap())
}

fn stale(world: &World, path: &Path) -> Vec<String> {
    let listed = world.json(&["file", "list", "--stale", text(path)]);
    let name = |file: &Value| {
        let path = PathBuf::from(file["Path"].as_str().unwrap());
        path.file_name().unwrap().to_str().unwrap().to_owned()
    };
    let mut names: Vec<String> = listed.as_array().unwrap().iter().map(name).collect();
    names.sort();
    names
}

fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed)).collect()
}

/// The ciphertext of every regular file, by inode number.
fn stored(volume: &Path) -> Vec<(u64, Vec<u8>)> {
    let files = common::tree(volume).into_keys();
    let mut stored: Vec<_> = files
        .map(|path| (path.symlink_metadata().unwrap(), path))
        .filter(|(meta, _)| meta.is_file() && meta.len() > 4096)
        .map(|(meta, path)| (meta.ino(), fs::read(path).unwrap()))
        .collect();
    stored.sort();
    stored.dedup();
    stored
}

fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> i32 {
    result.unwrap_err().raw_os_error().unwrap()
}

#[test]
fn after_a_rotation_headers_follow_and_nothing_else_changes() {
    let Some((world, mount)) = two_keys("after_a_rotation_headers_follow") else { return };
    for (seed, len) in [(1, 0), (2, 10), (3, 5000), (4, 700_000)] {
        fs::write(mount.join(format!("a/{len}")), pattern(seed, len)).unwrap();
    }
    fs::hard_link(mount.join("a/10"), mount.join("b/second name")).unwrap();
    fs::write(mount.join("b/other"), "other").unwrap();
    let privileged = mount.join("a/5000");
    fs::set_permissions(&privileged, fs::Permissions::from_mode(0o6755)).unwrap();
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(&privileged, "security.capability", &capability, flags).unwrap();
    world.umount(&mount);
    let mount = world.mount("vol", &[]);
    let before = stored(&world.path("vol"));
    let modified = |name: &str| fs::metadata(mount.join(name)).unwrap().modified().unwrap();
    let times: Vec<_> = ["a/0", "a/5000", "a/700000"].map(modified).to_vec();
    let held = File::options().read(true).write(true).open(mount.join("a/700000")).unwrap();

    world.run(&["key", "rotate", "alias/a"]);
    world.run(&["key", "rotate", "alias/a"]);
    assert_eq!(stale(&world, &mount), ["0", "10", "5000", "700000", "second name"]);
    let said = world.json(&["rewrap", text(&mount)]);
    assert_eq!(said["Rewrapped"], 4, "{said}");
    assert_eq!((&said["LeftCount"], &said["ExitCode"]), (&0.into(), &0.into()));
    let found: Vec<_> = said["Found"].as_array().unwrap().iter().map(|f| f["Files"].as_u64()).collect();
    assert_eq!(found.iter().flatten().sum::<u64>(), 6, "every name was looked at: {said}");
    assert_eq!(wrapped_by(&world, &mount.join("a/10")), (arn(&world, "a"), 3));
    assert!(stale(&world, &mount).is_empty());
    assert_eq!(world.json(&["rewrap", text(&mount)])["Rewrapped"], 0, "it is done already");

    for ((ino, before), (_, after)) in before.iter().zip(stored(&world.path("vol"))) {
        assert!(before[4096..] == after[4096..], "chunks of {ino} were written");
    }
    assert_eq!(["a/0", "a/5000", "a/700000"].map(modified).to_vec(), times);
    assert_eq!(fs::metadata(&privileged).unwrap().mode() & 0o7777, 0o6755);
    let mut kept = [0; 20];
    rustix::fs::getxattr(&privileged, "security.capability", &mut kept).unwrap();
    assert_eq!(kept, capability);
    // What is open goes on, and is written as before.
    held.write_all_at(b"later", 4062).unwrap();
    drop(held);
    world.umount(&mount);
    let mount = world.mount("vol", &[]);
    for (seed, len) in [(1, 0), (2, 10), (3, 5000)] {
        assert!(fs::read(mount.join(format!("a/{len}"))).unwrap() == pattern(seed, len), "{len} bytes");
    }
    let mut expected = pattern(4, 700_000);
    expected[4062..4067].copy_from_slice(b"later");
    assert!(fs::read(mount.join("a/700000")).unwrap() == expected);
    assert_eq!(wrapped_by(&world, &mount.join("a/700000")).1, 3, "settling keeps the new wrapping");
}

#[test]
fn files_in_use_are_rewrapped_again_and_again_without_losing_a_byte() {
    let Some((world, mount)) = two_keys("files_in_use_are_rewrapped") else { return };
    let done = AtomicBool::new(false);
    let writer = |index: u8| {
        let (path, done) = (mount.join(format!("a/{index}")), &done);
        move || {
            let mut written = 0u64;
            let mut expected = vec![0; 60_000];
            while !done.load(Ordering::SeqCst) {
                // Opened anew each time, so that headers are written by sessions and settlings too.
                let file =
                    File::options().read(true).write(true).create(true).truncate(false).open(&path).unwrap();
                for _ in 0..20 {
                    let at = (written * 7919 % 59_000) as usize;
                    let bytes = pattern(written as u8, 1000);
                    file.write_all_at(&bytes, at as u64).unwrap();
                    expected[at..at + 1000].copy_from_slice(&bytes);
                    let mut read = vec![0; 1000];
                    file.read_exact_at(&mut read, at as u64).unwrap();
                    assert!(read == bytes, "write {written} of file {index}");
                    written += 1;
                }
            }
            expected.truncate(fs::metadata(&path).unwrap().len() as usize);
            (path, expected)
        }
    };
    let results: Vec<(PathBuf, Vec<u8>)> = std::thread::scope(|scope| {
        let raise = RaiseOnDrop(&done);
        let writers: Vec<_> = (0..4).map(|index| scope.spawn(writer(index))).collect();
        for round in 0..6 {
            world.run(&["key", "rotate", "alias/a"]);
            world.run(&["rewrap", text(&mount)]);
            let key = ["alias/b", "alias/a"][round % 2];
            world.run(&["file", "set-key", "-r", key, text(&mount.join("a"))]);
        }
        drop(raise);
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    world.umount(&mount);
    world.mount("vol", &[]);
    let newest = (arn(&world, "a"), 7);
    for (path, expected) in results {
        assert!(fs::read(&path).unwrap() == expected, "{}", path.display());
        assert_eq!(wrapped_by(&world, &path), newest);
    }
}

#[test]
fn a_volume_that_is_not_mounted_is_rewrapped_too() {
    let Some((world, mount)) = two_keys("a_volume_that_is_not_mounted_is_rewrapped") else { return };
    fs::create_dir(mount.join("a/below")).unwrap();
    for i in 0..20 {
        fs::write(mount.join(format!("a/below/{i}")), pattern(i, 3000)).unwrap();
    }
    world.run(&["key", "rotate", "alias/a"]);
    let volume = world.path("vol");
    world.try_run(&["rewrap", text(&volume)]).fails(IN_USE, &["mount point"]);
    world.umount(&mount);
    let said = world.json(&["rewrap", "vol"]);
    assert_eq!((&said["Rewrapped"], &said["ExitCode"]), (&20.into(), &0.into()), "{said}");
    assert_eq!(world.json(&["rewrap", "vol"])["Rewrapped"], 0);
    world.run(&["fsck", "vol"]);
    let mount = world.mount("vol", &[]);
    for i in 0..20 {
        let path = mount.join(format!("a/below/{i}"));
        assert!(fs::read(&path).unwrap() == pattern(i, 3000));
        assert_eq!(wrapped_by(&world, &path).1, 2);
    }
}

#[test]
fn files_that_cannot_be_rewrapped_are_named_and_the_rest_is_done() {
    let Some((world, mount)) = two_keys("files_that_cannot_be_rewrapped_are_named") else { return };
    for name in ["a/1", "b/2"] {
        fs::write(mount.join(name), name).unwrap();
    }
    for key in ["alias/a", "alias/b"] {
        world.run(&["key", "rotate", key]);
    }
    world.run(&["key", "disable", "alias/a", "--yes"]);
    let ran = world.try_run(&["rewrap", text(&mount)]);
    assert_eq!(ran.code, LEFT, "{ran:?}");
    assert!(ran.stdout.contains("a/1: Key has been revoked"), "{}", ran.stdout);
    assert_eq!(wrapped_by(&world, &mount.join("b/2")).1, 2);
    assert_eq!(wrapped_by(&world, &mount.join("a/1")).1, 1);
    // Only the other key's files: nothing is left of those.
    world.run(&["rewrap", "--key", "alias/b", text(&mount)]);
    world.run(&["key", "enable", "alias/a"]);
    world.run(&["rewrap", "--older-than", "1", text(&mount)]);
    assert_eq!(wrapped_by(&world, &mount.join("a/1")).1, 1, "version 1 is not below 1");
    world.run(&["rewrap", text(&mount)]);
    assert_eq!(wrapped_by(&world, &mount.join("a/1")).1, 2);
    assert_eq!(fs::read(mount.join("a/1")).unwrap(), b"a/1");
}

#[test]
fn a_killed_run_goes_on_where_it_ended() {
    let Some((world, mount)) = two_keys("a_killed_run_goes_on_where_it_ended") else { return };
    for i in 0..60 {
        fs::write(mount.join(format!("a/{i}")), "x").unwrap();
    }
    world.run(&["key", "rotate", "alias/a"]);
    let mut command = world.command(&["rewrap", "--rate", "50/s", text(&mount)]);
    let mut child = command.stdout(std::process::Stdio::null()).spawn().unwrap();
    common::wait_until("some files are done", || stale(&world, &mount).len() < 55);
    child.kill().unwrap();
    child.wait().unwrap();
    let left = stale(&world, &mount).len();
    assert!(left > 0, "it was too fast to be interrupted");
    assert_eq!(world.json(&["rewrap", text(&mount)])["Rewrapped"], left);
    assert!(stale(&world, &mount).is_empty());
}

#[test]
fn a_file_under_another_key_follows_that_one_from_then_on() {
    let Some((world, mount)) = two_keys("a_file_under_another_key_follows_that_one") else { return };
    let (moved, stays) = (mount.join("a/moved"), mount.join("a/stays"));
    for path in [&moved, &stays] {
        fs::write(path, "contents").unwrap();
    }
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(&moved, "user.note", b"kept", flags).unwrap();
    let held = File::options().read(true).write(true).open(&moved).unwrap();
    world.run(&["file", "set-key", "alias/b", text(&moved)]);
    assert_eq!(wrapped_by(&world, &moved), (arn(&world, "b"), 1));

    world.run(&["key", "disable", "alias/a", "--yes"]);
    assert_eq!(errno(fs::read(&stays)), libc::EKEYREVOKED);
    held.write_all_at(b"C", 0).unwrap();
    assert_eq!(fs::read(&moved).unwrap(), b"Contents", "it is no longer under the first key");
    world.run(&["key", "enable", "alias/a"]);
    world.run(&["key", "disable", "alias/b", "--yes"]);
    assert_eq!(errno(held.read_at(&mut [0; 8], 0)), libc::EKEYREVOKED, "the open file went with the second");
    assert_eq!(errno(fs::read(&moved)), libc::EKEYREVOKED);
    assert_eq!(fs::read(&stays).unwrap(), b"contents");
    // Neither to a key that is disabled nor from one.
    for (key, path) in [("alias/b", &stays), ("alias/a", &moved)] {
        let ran = world.try_run(&["file", "set-key", key, text(path)]);
        assert_eq!(ran.code, LEFT, "{ran:?}");
    }
    world.run(&["key", "enable", "alias/b"]);
    drop(held);
    world.umount(&mount);
    world.mount("vol", &[]);
    assert_eq!(fs::read(&moved).unwrap(), b"Contents");
    let mut note = [0; 4];
    rustix::fs::getxattr(&moved, "user.note", &mut note).unwrap();
    assert_eq!(&note, b"kept");
}

#[test]
fn a_directory_takes_its_files_and_new_ones_to_another_key() {
    let Some((world, mount)) = two_keys("a_directory_takes_its_files_and_new_ones") else { return };
    let dir = mount.join("a");
    fs::create_dir(dir.join("below")).unwrap();
    fs::write(dir.join("below/old"), "old").unwrap();
    world.try_run(&["file", "set-key", "alias/b", text(&dir)]).fails(USAGE, &["-r"]);
    world.run(&["file", "set-key", "-r", "alias/b", text(&dir)]);
    fs::write(dir.join("below/new"), "new").unwrap();
    for name in ["below/old", "below/new"] {
        assert_eq!(wrapped_by(&world, &dir.join(name)).0, arn(&world, "b"));
    }
    // Moving keeps the key, also between directories of different keys.
    fs::rename(dir.join("below/old"), mount.join("moved")).unwrap();
    assert_eq!(wrapped_by(&world, &mount.join("moved")).0, arn(&world, "b"));
    let of_b = world.json(&["file", "list", "--key", "alias/b", text(&mount)]);
    assert_eq!(of_b.as_array().unwrap().len(), 2);
}

#[test]
fn only_the_owner_and_root_choose_a_files_key() {
    let Some(world) = World::new("only_the_owner_and_root_choose") else { return };
    world.run(&["init", "vol"]);
    let mount = world.mount("vol", &["-o", "allow_other"]);
    let path = mount.join("file");
    fs::write(&path, "x").unwrap();
    fs::set_permissions(world.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&mount, fs::Permissions::from_mode(0o755)).unwrap();
    for (mode, owner, allowed) in [(0o666, 0, false), (0o600, ADA.uid, true)] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        std::os::unix::fs::chown(&path, Some(owner), None).unwrap();
        let value = arn(&world, "default");
        let tried = ADA.run(|| {
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::setxattr(&path, "user.kmsfs.wrap", value.as_bytes(), flags)
        });
        let expected = if allowed { Ok(()) } else { Err(rustix::io::Errno::PERM) };
        assert_eq!(tried, expected, "owned by {owner}");
    }
}

#[test]
fn a_mount_that_gets_its_keys_from_another_process_can_rewrap() {
    let Some((world, _first)) = two_keys("a_mount_that_gets_its_keys_from_another_process") else { return };
    let second = world.volume("other");
    world.run(&["key", "assign", "alias/a", text(&second)]);
    fs::write(second.join("file"), "contents").unwrap();
    world.run(&["key", "rotate", "alias/a"]);
    assert_eq!(world.json(&["rewrap", text(&second)])["Rewrapped"], 1);
    assert_eq!(wrapped_by(&world, &second.join("file")).1, 2);
    world.umount(&second);
    world.mount("other", &[]);
    assert_eq!(fs::read(second.join("file")).unwrap(), b"contents");
}

/// As many small files as `KMSFS_REWRAP_FILES` says, mounted and unmounted; says how fast.
#[test]
fn many_small_files_take_one_header_each() {
    let files: usize = std::env::var("KMSFS_REWRAP_FILES").map_or(300, |files| files.parse().unwrap());
    let Some((world, mount)) = two_keys("many_small_files_take_one_header_each") else { return };
    for i in 0..files {
        if i % 1000 == 0 {
            fs::create_dir(mount.join(format!("a/{}", i / 1000))).unwrap();
        }
        fs::write(mount.join(format!("a/{}/{i}", i / 1000)), "small").unwrap();
    }
    let measure = |what: &str, path: &Path| {
        world.run(&["key", "rotate", "alias/a"]);
        let begin = std::time::Instant::now();
        let command = world.command(&["--json", "rewrap", text(path)]);
        let ran = common::run_within(Duration::from_secs(500), command).ok();
        let took = begin.elapsed();
        let said: Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!(said["Rewrapped"], files);
        eprintln!("{what}: {files} files in {took:.1?}: {:.0} a second", files as f64 / took.as_secs_f64());
    };
    measure("mounted", &mount);
    world.umount(&mount);
    measure("unmounted", Path::new("vol"));
}
