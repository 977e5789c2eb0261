//! Files get new data keys, in place, while programs use them: `file set-key --new-data-key` on real
//! mounts, undisturbed, under load, and interrupted.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::sys::Mapping;
use common::user::ADA;
use common::{RaiseOnDrop, World};
use rustix::fs::XattrFlags;

const NOT_REENCRYPTED: i32 = 39;
const USAGE: i32 = 2;
const UNIT: usize = 4096;

/// A mount with two more master keys, `a` and `b`, and a directory under the first.
fn two_keys(test: &str) -> Option<(World, PathBuf)> {
    let world = World::new(test)?;
    let mount = world.volume("vol");
    for name in ["a", "b"] {
        world.run(&["key", "create", "--alias", name]);
    }
    fs::create_dir(mount.join("a")).unwrap();
    world.run(&["key", "assign", "alias/a", text(&mount.join("a"))]);
    Some((world, mount))
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn arn(world: &World, name: &str) -> String {
    world.json(&["key", "describe", &format!("alias/{name}")])["Arn"].as_str().unwrap().to_owned()
}

fn key_of(world: &World, path: &Path) -> String {
    world.json(&["file", "info", text(path)])[0]["key_arn"].as_str().unwrap().to_owned()
}

fn is_half_done(world: &World, path: &Path) -> bool {
    world.json(&["file", "info", text(path)])[0]["being_reencrypted"] == true
}

fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(31).wrapping_add((i >> 8) as u8).wrapping_add(seed) | 1).collect()
}

/// What tells the units apart of every regular file that has some, by inode number; a hole has nothing.
fn units(volume: &Path) -> Vec<(u64, Vec<Option<Vec<u8>>>)> {
    let nonce_of = |unit: &[u8]| unit.iter().any(|&b| b != 0).then(|| unit[..28].to_vec());
    let files = common::tree(volume).into_keys();
    let mut found: Vec<_> = files
        .map(|path| (path.symlink_metadata().unwrap(), path))
        .filter(|(meta, path)| meta.is_file() && meta.len() > 4096 && !path.ends_with("kmsfs.index"))
        .map(|(meta, path)| {
            (meta.ino(), fs::read(path).unwrap()[UNIT..].chunks_exact(UNIT).map(nonce_of).collect())
        })
        .collect();
    found.sort();
    found.dedup();
    found
}

fn set(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::setxattr(path, name, value, XattrFlags::empty()).unwrap();
}

fn get(path: &Path, name: &str) -> Vec<u8> {
    let mut value = vec![0; 4096];
    let len = rustix::fs::getxattr(path, name, &mut value).unwrap();
    value.truncate(len);
    value
}

fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> i32 {
    result.unwrap_err().raw_os_error().unwrap()
}

#[test]
fn everything_is_sealed_anew_and_reads_as_before() {
    let Some((world, mount)) = two_keys("everything_is_sealed_anew") else { return };
    let dir = mount.join("a");
    let sizes = [0, 10, 5000, 700_000, 2_500_000];
    for (seed, len) in sizes.into_iter().enumerate() {
        fs::write(dir.join(len.to_string()), pattern(seed as u8, len)).unwrap();
    }
    fs::hard_link(dir.join("5000"), mount.join("second name")).unwrap();
    let sparse = File::create(dir.join("sparse")).unwrap();
    for at in [9, 1_000_000, 40_000_000, 140_000_000] {
        sparse.write_all_at(b"here", at).unwrap();
    }
    drop(sparse);
    let marked = dir.join("700000");
    let long = pattern(9, 900);
    for (name, value) in [("user.empty", &b""[..]), ("user.long", &long)] {
        set(&marked, name, value);
    }
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    set(&marked, "security.capability", &capability);
    fs::set_permissions(&marked, fs::Permissions::from_mode(0o6755)).unwrap();
    world.umount(&mount);
    let mount = world.mount("vol", &[]);
    let before = units(&world.path("vol"));
    let times =
        || ["0", "5000", "700000", "sparse"].map(|n| fs::metadata(dir.join(n)).unwrap().modified().unwrap());
    let space = || fs::metadata(dir.join("sparse")).unwrap().blocks();
    let (old_times, old_space) = (times(), space());
    let held = File::options().read(true).write(true).open(&marked).unwrap();

    world.try_run(&["file", "set-key", "--new-data-key", "alias/b", text(&dir)]).fails(USAGE, &["-r"]);
    let said = world.json(&["file", "set-key", "--new-data-key", "-r", "alias/b", text(&dir)]);
    assert_eq!((&said["Reencrypted"], &said["ExitCode"]), (&6.into(), &0.into()), "{said}");
    assert!(said["Bytes"].as_u64().unwrap() > 140_000_000, "{said}");
    assert_eq!((times(), space()), (old_times, old_space));
    assert_eq!(fs::metadata(&marked).unwrap().mode() & 0o7777, 0o6755);
    assert_eq!(get(&marked, "security.capability"), capability);
    fs::write(dir.join("new"), "new").unwrap();
    for name in ["0", "5000", "sparse", "new"] {
        assert_eq!(key_of(&world, &dir.join(name)), arn(&world, "b"), "{name}");
        assert!(!is_half_done(&world, &dir.join(name)));
    }
    let after: BTreeMap<u64, _> = units(&world.path("vol")).into_iter().collect();
    for (ino, before) in before {
        let after = &after[&ino];
        for (index, (before, after)) in before.iter().zip(after).enumerate() {
            assert_eq!(before == after, before.is_none(), "unit {index} of {ino}");
        }
    }
    // The master key from before has no say any more, open or not.
    world.run(&["key", "disable", "alias/a", "--yes"]);
    held.write_all_at(b"later", 4062).unwrap();
    drop(held);
    world.umount(&mount);
    world.run(&["fsck", "vol"]);
    world.mount("vol", &[]);
    for (seed, len) in sizes.into_iter().enumerate() {
        let mut expected = pattern(seed as u8, len);
        if len == 700_000 {
            expected[4062..4067].copy_from_slice(b"later");
        }
        assert!(fs::read(dir.join(len.to_string())).unwrap() == expected, "{len} bytes");
    }
    assert!(fs::read(mount.join("second name")).unwrap() == pattern(2, 5000));
    assert_eq!((get(&marked, "user.empty"), get(&marked, "user.long")), (Vec::new(), long));
    let sparse = File::open(dir.join("sparse")).unwrap();
    for at in [9, 1_000_000, 40_000_000, 140_000_000] {
        let mut read = [0; 6];
        let len = sparse.read_at(&mut read, at - 1).unwrap();
        assert_eq!(&read[..5], b"\0here", "{len} bytes at {at}");
    }
}

/// Changes a file in one way until told to stop; answers what it must hold then.
type Writer = fn(&Path, &AtomicBool) -> Vec<u8>;

/// Leaves the processor to others for a moment.
fn is_done(done: &AtomicBool) -> bool {
    std::thread::sleep(Duration::from_millis(1));
    done.load(Ordering::SeqCst)
}

fn overwrite(path: &Path, done: &AtomicBool) -> Vec<u8> {
    let mut expected = pattern(1, 900_000);
    fs::write(path, &expected).unwrap();
    let mut written = 0u64;
    while !is_done(done) {
        // Opened anew each time, so that there are settlings in between.
        let file = File::options().read(true).write(true).open(path).unwrap();
        for _ in 0..20 {
            let at = (written * 7919 % 880_000) as usize;
            let bytes = pattern(written as u8, 10_000);
            file.write_all_at(&bytes, at as u64).unwrap();
            expected[at..at + bytes.len()].copy_from_slice(&bytes);
            let (from, mut read) = ((written * 104_729 % 880_000) as usize, vec![0; 15_000]);
            file.read_exact_at(&mut read, from as u64).unwrap();
            assert!(read == expected[from..from + read.len()], "after write {written}");
            written += 1;
        }
    }
    expected
}

fn append(path: &Path, done: &AtomicBool) -> Vec<u8> {
    let mut expected = Vec::new();
    let mut file = File::options().append(true).create(true).open(path).unwrap();
    let mut round = 0;
    while !is_done(done) {
        if expected.len() > 3_000_000 {
            file.set_len(1000).unwrap();
            expected.truncate(1000);
        }
        let bytes = pattern(round, 300 + usize::from(round) * 37);
        file.write_all(&bytes).unwrap();
        expected.extend(bytes);
        round = round.wrapping_add(1);
    }
    expected
}

fn punch(path: &Path, done: &AtomicBool) -> Vec<u8> {
    let mut expected = pattern(3, 800_000);
    fs::write(path, &expected).unwrap();
    let file = File::options().write(true).open(path).unwrap();
    let mut round = 0u64;
    while !is_done(done) {
        let (hole, fill) = ((round * 7919 % 750_000) as usize, (round * 3_571 % 750_000) as usize);
        let holes = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&file, holes, hole as u64, 30_000).unwrap();
        expected[hole..hole + 30_000].fill(0);
        let bytes = pattern(round as u8, 9_000);
        file.write_all_at(&bytes, fill as u64).unwrap();
        expected[fill..fill + bytes.len()].copy_from_slice(&bytes);
        round += 1;
    }
    expected
}

fn map(path: &Path, done: &AtomicBool) -> Vec<u8> {
    const LEN: usize = 600_000;
    let file = File::options().read(true).write(true).create(true).truncate(false).open(path).unwrap();
    file.set_len(LEN as u64).unwrap();
    let mapping = Mapping::shared(&file, LEN).unwrap();
    let mut expected = vec![0; LEN];
    let mut round = 0usize;
    while !is_done(done) {
        let at = round * 104_729 % (LEN - 100);
        let bytes = pattern(round as u8, 100);
        mapping.write(at, &bytes);
        expected[at..at + 100].copy_from_slice(&bytes);
        if round.is_multiple_of(50) {
            mapping.sync().unwrap();
        }
        round += 1;
    }
    mapping.sync().unwrap();
    expected
}

#[test]
fn files_in_use_get_new_data_keys_again_and_again_without_losing_a_byte() {
    let Some((world, mount)) = two_keys("files_in_use_get_new_data_keys") else { return };
    let writers: [(&str, Writer); 4] =
        [("overwritten", overwrite), ("appended", append), ("punched", punch), ("mapped", map)];
    let done = AtomicBool::new(false);
    let results: Vec<(PathBuf, Vec<u8>)> = std::thread::scope(|scope| {
        let raise = RaiseOnDrop(&done);
        let work = writers.map(|(name, write)| {
            let (path, done) = (mount.join("a").join(name), &done);
            scope.spawn(move || {
                let expected = write(&path, done);
                (path, expected)
            })
        });
        for round in 0..3 {
            let key = ["alias/b", "alias/a"][round % 2];
            let said = world.json(&["file", "set-key", "--new-data-key", "-r", key, text(&mount.join("a"))]);
            assert_eq!(said["ExitCode"], 0, "{said}");
        }
        drop(raise);
        work.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    let check = || {
        for (path, expected) in &results {
            assert!(fs::read(path).unwrap() == *expected, "{}", path.display());
            assert!(!is_half_done(&world, path));
        }
    };
    check();
    world.umount(&mount);
    world.run(&["fsck", "vol"]);
    world.mount("vol", &[]);
    check();
}

/// A re-encryption of `path` under the second key that will take a long time, and has begun.
fn slow(world: &World, path: &Path) -> Child {
    let mut command =
        world.command(&["file", "set-key", "--new-data-key", "--limit", "2M", "alias/b", text(path)]);
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    common::wait_until("it has begun", || is_half_done(world, path));
    child
}

#[test]
fn an_interrupted_reencryption_loses_nothing_and_is_gone_on_with() {
    let Some((world, mount)) = two_keys("an_interrupted_reencryption") else { return };
    let path = mount.join("a/file");
    let mut expected = pattern(4, 12_000_000);
    fs::write(&path, &expected).unwrap();
    set(&path, "user.note", b"kept");
    for round in 0..3 {
        let mut child = slow(&world, &path);
        if round > 0 {
            common::wait_until("some of it is done", || {
                let progress = get(&path, "user.kmsfs.reencrypt");
                let progress: serde_json::Value = serde_json::from_slice(&progress).unwrap();
                progress["done"].as_u64().unwrap() > 1_000_000
            });
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        let bytes = pattern(round, 5000);
        let at = 3_000_000 * usize::from(round + 1);
        file.write_all_at(&bytes, at as u64).unwrap();
        file.sync_all().unwrap();
        drop(file);
        expected[at..at + 5000].copy_from_slice(&bytes);
        assert!(is_half_done(&world, &path));
        assert!(fs::read(&path).unwrap() == expected, "round {round}");
        let listed = world.json(&["file", "list", "--stale", text(&mount)]);
        assert_eq!(listed[0]["BeingReencrypted"], true, "{listed}");
        match round {
            // The mount's process goes too, whatever it had in mind.
            0 => world.umount(&mount),
            _ => world.kill(&mount),
        }
        let ran = world.try_run(&["--json", "fsck", "vol"]);
        let said: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
        let kind = |finding: &serde_json::Value| finding["Kind"].as_str().unwrap().to_owned();
        let kinds: Vec<String> = said["Findings"].as_array().unwrap().iter().map(kind).collect();
        if round == 0 {
            assert_eq!((ran.code, &kinds[..]), (0, &["reencrypting".to_owned()][..]), "no error by itself");
        }
        let left_by_kills = ["reencrypting", "not-clean", "not-all-settled", "unsettled", "leftover"];
        assert!(kinds.iter().all(|kind| left_by_kills.contains(&kind.as_str())), "{kinds:?}");
        world.mount("vol", &[]);
        assert!(fs::read(&path).unwrap() == expected, "round {round}, mounted again");
        assert_eq!(get(&path, "user.note"), b"kept");
    }
    let data_key = |world: &World| world.json(&["file", "info", text(&path)])[0]["key_arn"].clone();
    assert_eq!(data_key(&world), arn(&world, "b"));
    // Under another master key: it is the one that was begun which is finished.
    world.run(&["file", "set-key", "--new-data-key", "alias/a", text(&path)]);
    assert_eq!(data_key(&world), arn(&world, "a"));
    assert!(!is_half_done(&world, &path));
    assert_eq!(world.json(&["file", "list", "--stale", text(&mount)]), serde_json::json!([]));
    world.umount(&mount);
    world.mount("vol", &[]);
    assert!(fs::read(&path).unwrap() == expected);
    assert_eq!(get(&path, "user.note"), b"kept");
}

#[test]
fn a_key_that_is_disabled_stops_it_and_it_goes_on_afterwards() {
    let Some((world, mount)) = two_keys("a_key_that_is_disabled_stops_it") else { return };
    let path = mount.join("a/file");
    let expected = pattern(5, 9_000_000);
    fs::write(&path, &expected).unwrap();
    let mut child = slow(&world, &path);
    // The old one has no say any more.
    world.run(&["key", "disable", "alias/a", "--yes"]);
    assert!(fs::read(&path).unwrap() == expected);
    world.run(&["key", "disable", "alias/b", "--yes"]);
    assert_eq!(child.wait().unwrap().code(), Some(NOT_REENCRYPTED));
    assert_eq!(errno(fs::read(&path)), libc::EKEYREVOKED);
    let ran = world.try_run(&["file", "set-key", "--new-data-key", "alias/b", text(&path)]);
    assert_eq!(ran.code, NOT_REENCRYPTED, "{ran:?}");
    world.run(&["key", "enable", "alias/b"]);
    assert!(fs::read(&path).unwrap() == expected);
    assert!(is_half_done(&world, &path));
    world.run(&["file", "set-key", "--new-data-key", "alias/b", text(&path)]);
    assert!(!is_half_done(&world, &path) && fs::read(&path).unwrap() == expected);
    // Neither from a key that is disabled nor to one.
    let other = mount.join("other");
    fs::write(&other, "other").unwrap();
    let ran = world.try_run(&["file", "set-key", "--new-data-key", "alias/a", text(&other), text(&path)]);
    assert_eq!(ran.code, NOT_REENCRYPTED, "{ran:?}");
    assert!(ran.stdout.contains("other: Key has been revoked"), "{}", ran.stdout);
    assert_eq!(fs::read(&other).unwrap(), b"other");
}

#[test]
fn damage_stops_it_and_is_still_damage_and_the_rest_reads() {
    let Some((world, mount)) = two_keys("damage_stops_it") else { return };
    let path = mount.join("a/file");
    let expected = pattern(6, 400_000);
    fs::write(&path, &expected).unwrap();
    world.umount(&mount);
    let (_, (_, stored)) = common::tree(&world.path("vol"))
        .into_iter()
        .filter(|(path, _)| path.is_file())
        .max_by_key(|(_, (_, bytes))| bytes.len())
        .unwrap();
    let backing = common::tree(&world.path("vol")).into_iter().find(|(_, (_, b))| *b == stored).unwrap().0;
    let at = (1 + 50) * UNIT as u64 + 100;
    let byte = stored[at as usize] ^ 1;
    File::options().write(true).open(&backing).unwrap().write_all_at(&[byte], at).unwrap();
    world.mount("vol", &[]);
    let ran = world.try_run(&["file", "set-key", "--new-data-key", "alias/b", text(&path)]);
    assert_eq!(ran.code, NOT_REENCRYPTED, "{ran:?}");
    assert!(ran.stdout.contains("file: Input/output error"), "{}", ran.stdout);
    let file = File::open(&path).unwrap();
    let mut read = vec![0; 4064];
    assert_eq!(errno(file.read_exact_at(&mut read, 50 * 4064)), libc::EIO);
    // A page of the kernel's has parts of two chunks.
    for chunk in [0, 40, 60, 90] {
        file.read_exact_at(&mut read, chunk * 4064).unwrap();
        assert!(read == expected[chunk as usize * 4064..][..4064]);
    }
    // Written anew it is whole, and can be finished.
    drop(file);
    fs::write(&path, &expected).unwrap();
    world.run(&["file", "set-key", "--new-data-key", "alias/b", text(&path)]);
    assert!(fs::read(&path).unwrap() == expected && !is_half_done(&world, &path));
}

#[test]
fn only_the_owner_and_root_give_a_file_another_data_key() {
    let Some(world) = World::new("only_the_owner_and_root_give") else { return };
    world.run(&["init", "vol"]);
    let mount = world.mount("vol", &["-o", "allow_other"]);
    let path = mount.join("file");
    fs::write(&path, "x").unwrap();
    for place in [world.dir.path(), &mount] {
        fs::set_permissions(place, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let name = "user.kmsfs.reencrypt";
    let value = arn(&world, "default");
    let begin = || ADA.run(|| rustix::fs::setxattr(&path, name, value.as_bytes(), XattrFlags::empty()));
    let step = || ADA.run(|| rustix::fs::setxattr(&path, name, b"", XattrFlags::empty()));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!((begin(), step()), (Err(rustix::io::Errno::PERM), Err(rustix::io::Errno::PERM)));
    world.let_everybody_use("alias/default");
    std::os::unix::fs::chown(&path, Some(ADA.uid), None).unwrap();
    assert_eq!(begin(), Ok(()));
    while step().is_ok() {}
    assert_eq!(step(), Err(rustix::io::Errno::NODATA));
    assert!(!is_half_done(&world, &path));
    assert_eq!(fs::read(&path).unwrap(), b"x");
    let on_directory = rustix::fs::setxattr(&mount, name, value.as_bytes(), XattrFlags::empty());
    assert_eq!(on_directory, Err(rustix::io::Errno::PERM));
}
