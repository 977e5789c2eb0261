//! Disabling a master key under a live mount: its files are cut off at once, open descriptors and
//! mappings included; all others never notice; enabling brings everything back.
#![allow(clippy::unwrap_used)]

mod accesses;
#[path = "../common/mod.rs"]
mod common;
mod locking;
mod speed;
mod uses;
mod withdrawn;

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::World;

/// From the order to cut a key off to the last file of it being out of reach, when idle.
const BOUND: Duration = Duration::from_secs(1);

/// A mount with a directory under a key of its own beside one under the default.
fn two_keys(test: &str) -> Option<(World, PathBuf)> {
    two_keys_with(test, |world| _ = world.run(&["key", "create", "--alias", "secret"]))
}

/// As [`two_keys`]; `create` makes the key `alias/secret`.
fn two_keys_with(test: &str, create: impl FnOnce(&World)) -> Option<(World, PathBuf)> {
    let world = World::new(test)?;
    let mount = world.volume("vol");
    create(&world);
    for dir in ["secret", "open"] {
        fs::create_dir(mount.join(dir)).unwrap();
    }
    world.run(&["key", "assign", "alias/secret", mount.join("secret").to_str().unwrap()]);
    Some((world, mount))
}

fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> i32 {
    result.unwrap_err().raw_os_error().unwrap()
}

#[test]
fn child() {
    common::child::play(&uses::ROLES);
}

#[test]
fn a_disabled_key_cuts_off_exactly_its_files_and_enabling_restores_them() {
    let Some((world, mount)) = two_keys("a_disabled_key_cuts_off_exactly_its_files") else { return };
    let (secret, open) = (mount.join("secret"), mount.join("open"));
    fs::write(secret.join("file"), "before").unwrap();
    fs::write(open.join("file"), "before").unwrap();
    let held = File::options().read(true).write(true).open(secret.join("file")).unwrap();
    let other = File::options().read(true).write(true).open(open.join("file")).unwrap();
    let mut buffer = [0; 6];
    held.read_exact_at(&mut buffer, 0).unwrap();
    // Not on disk yet: the kernel has it.
    held.write_all_at(b"during", 0).unwrap();

    let begin = Instant::now();
    let said = world.run(&["key", "disable", "alias/secret", "--yes"]);
    let took = begin.elapsed();
    assert!(said.contains("1 open file"), "{said}");
    assert!(took < BOUND, "it took {took:?}");

    // Open descriptor, new open, new file, truncation, attributes.
    assert_eq!(errno(held.read_exact_at(&mut buffer, 0)), libc::EKEYREVOKED);
    assert_eq!(errno(fs::read(secret.join("file"))), libc::EKEYREVOKED);
    assert_eq!(errno(fs::write(secret.join("new"), "x")), libc::EKEYREVOKED);
    assert_eq!(errno(held.set_len(1)), libc::EKEYREVOKED);
    let attribute =
        rustix::fs::setxattr(secret.join("file"), "user.a", b"x", rustix::fs::XattrFlags::empty());
    assert_eq!(attribute.unwrap_err().raw_os_error(), libc::EKEYREVOKED);
    // A write reaches the kernel's cache at most; the next fsync tells.
    let written = held.write_all_at(b"after!", 0).and_then(|()| held.sync_all());
    assert_eq!(errno(written), libc::EKEYREVOKED);
    // What needs no key goes on: stat, list, rename, link, unlink.
    assert_eq!(fs::metadata(secret.join("file")).unwrap().len(), 6);
    assert_eq!(fs::read_dir(&secret).unwrap().count(), 1);
    fs::rename(secret.join("file"), secret.join("renamed")).unwrap();
    fs::hard_link(secret.join("renamed"), secret.join("linked")).unwrap();
    fs::remove_file(secret.join("linked")).unwrap();
    // The other key's files do not notice.
    other.write_all_at(b"always", 0).unwrap();
    other.sync_all().unwrap();
    assert_eq!(fs::read(open.join("file")).unwrap(), b"always");
    fs::write(open.join("new"), "x").unwrap();

    world.run(&["key", "enable", "alias/secret"]);
    held.read_exact_at(&mut buffer, 0).unwrap();
    assert_eq!(&buffer, b"during", "what was written before the cut was brought to disk");
    assert_eq!(fs::read(secret.join("renamed")).unwrap(), b"during");
    held.write_all_at(b"again!", 0).unwrap();
    held.sync_all().unwrap();
    drop((held, other));
    world.umount(&mount);
    let mount = world.mount("vol", &[]);
    assert_eq!(fs::read(mount.join("secret/renamed")).unwrap(), b"again!");
}

#[test]
fn a_key_disabled_before_the_mount_hides_contents_but_not_names() {
    let Some((world, mount)) = two_keys("a_key_disabled_before_the_mount") else { return };
    fs::write(mount.join("secret/file"), "contents").unwrap();
    world.umount(&mount);
    world.run(&["key", "disable", "alias/secret", "--yes"]);
    let mount = world.mount("vol", &[]);
    let file = mount.join("secret/file");
    assert_eq!(fs::metadata(&file).unwrap().len(), 8);
    assert_eq!(errno(fs::read(&file)), libc::EKEYREVOKED);
    let info = world.json(&["file", "info", file.to_str().unwrap()]);
    assert_eq!(info[0]["size"], 8);
    world.run(&["key", "enable", "alias/secret"]);
    assert_eq!(fs::read(&file).unwrap(), b"contents");
}

#[test]
fn rotation_keeps_old_files_and_gives_new_ones_the_new_version() {
    let Some((world, mount)) = two_keys("rotation_keeps_old_files") else { return };
    let version = |name: &str| {
        let info = world.json(&["file", "info", mount.join(name).to_str().unwrap()]);
        info[0]["key_version"].as_u64().unwrap()
    };
    fs::write(mount.join("secret/old"), "old").unwrap();
    world.run(&["key", "rotate", "alias/secret"]);
    fs::write(mount.join("secret/new"), "new").unwrap();
    assert_eq!((version("secret/old"), version("secret/new")), (1, 2));
    assert_eq!(fs::read(mount.join("secret/old")).unwrap(), b"old");
    // Both versions are cut off together.
    world.run(&["key", "disable", "alias/secret", "--yes"]);
    for name in ["secret/old", "secret/new"] {
        assert_eq!(errno(fs::read(mount.join(name))), libc::EKEYREVOKED);
    }
}

#[test]
fn a_second_mount_gets_its_keys_from_the_first_and_is_cut_off_with_it() {
    let Some((world, first)) = two_keys("a_second_mount_gets_its_keys_from_the_first") else { return };
    let second = world.volume("other");
    world.run(&["key", "assign", "alias/secret", second.to_str().unwrap()]);
    fs::write(second.join("file"), "contents").unwrap();
    fs::write(first.join("secret/file"), "contents").unwrap();
    let held = File::open(second.join("file")).unwrap();
    world.run(&["key", "disable", "alias/secret", "--yes"]);
    assert_eq!(errno(held.read_at(&mut [0; 8], 0)), libc::EKEYREVOKED);
    assert_eq!(errno(fs::read(first.join("secret/file"))), libc::EKEYREVOKED);
    world.run(&["key", "enable", "alias/secret"]);
    assert_eq!(held.read_at(&mut [0; 8], 0).unwrap(), 8);
    // The owner of the keys outlives its own mount for the other's sake.
    world.umount(&first);
    fs::write(second.join("later"), "still served").unwrap();
    assert_eq!(fs::read(second.join("later")).unwrap(), b"still served");
    drop(held);
    world.umount(&second);
    world.wait_for_daemons();
}

#[test]
fn files_of_other_keys_are_never_disturbed() {
    let Some((world, mount)) = two_keys("files_of_other_keys_are_never_disturbed") else { return };
    for i in 0..200 {
        fs::write(mount.join(format!("secret/{i}")), vec![i as u8; 9000]).unwrap();
    }
    let held: Vec<File> = (0..200).map(|i| File::open(mount.join(format!("secret/{i}"))).unwrap()).collect();
    let (stop, calls) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for worker in 0..3u64 {
            let (open, stop, calls) = (mount.join("open"), &stop, &calls);
            scope.spawn(move || {
                let mut round = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    let name = open.join(format!("{worker}-{}", round % 7));
                    let contents = vec![round as u8; 5000 + (round % 9000) as usize];
                    fs::write(&name, &contents).unwrap();
                    assert!(fs::read(&name).unwrap() == contents, "worker {worker} round {round}");
                    calls.fetch_add(1, Ordering::Relaxed);
                    round += 1;
                }
            });
        }
        for _ in 0..10 {
            let begin = Instant::now();
            world.run(&["key", "disable", "alias/secret", "--yes"]);
            assert!(begin.elapsed() < BOUND * 2, "under load it took {:?}", begin.elapsed());
            for file in &held {
                assert_eq!(errno(file.read_at(&mut [0; 16], 0)), libc::EKEYREVOKED);
            }
            world.run(&["key", "enable", "alias/secret"]);
            for (i, file) in held.iter().enumerate() {
                let mut buffer = [0; 16];
                file.read_exact_at(&mut buffer, 4060).unwrap();
                assert_eq!(buffer, [i as u8; 16]);
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(calls.load(Ordering::Relaxed) > 20);
}

/// In a process of its own: maps `KMSFS_TEST_MAP` shared, says so, and touches it when told.
#[test]
fn child_touches_a_mapping() {
    let Some(path) = std::env::var_os("KMSFS_TEST_MAP") else { return };
    let file = File::options().read(true).write(true).open(Path::new(&path)).unwrap();
    use rustix::mm::{MapFlags, ProtFlags, mmap};
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a fresh mapping of a file that outlives it; only volatile accesses are made to it.
    let mapped = unsafe { mmap(std::ptr::null_mut(), 4096, protection, MapFlags::SHARED, &file, 0) };
    let byte: *mut u8 = mapped.unwrap().cast();
    // SAFETY: within the mapping.
    unsafe { byte.write_volatile(b'M') };
    writeln!(io::stderr(), "mapped").unwrap();
    io::stdin().read_line(&mut String::new()).unwrap();
    // SAFETY: within the mapping; a fault ends this process, as it is meant to.
    let read = unsafe { byte.read_volatile() };
    writeln!(io::stderr(), "read {read}").unwrap();
}

#[test]
fn a_shared_mapping_faults_after_the_cut_and_its_writes_are_kept() {
    let Some((world, mount)) = two_keys("a_shared_mapping_faults_after_the_cut") else { return };
    for (dir, survives) in [("secret", false), ("open", true)] {
        let path = mount.join(dir).join("mapped");
        fs::write(&path, [b'-'; 4096]).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_touches_a_mapping", "--nocapture"])
            .env("KMSFS_TEST_MAP", &path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
        assert!(said.any(|line| line.unwrap() == "mapped"));
        world.run(&["key", "disable", "alias/secret", "--yes"]);
        child.stdin.take().unwrap().write_all(b"\n").unwrap();
        let status = child.wait().unwrap();
        world.run(&["key", "enable", "alias/secret"]);
        if survives {
            assert!(status.success() && said.any(|line| line.unwrap().starts_with("read ")));
        } else {
            assert_eq!(status.signal(), Some(libc::SIGBUS));
        }
        assert_eq!(fs::read(&path).unwrap()[0], b'M', "written through the mapping before the cut");
    }
}
