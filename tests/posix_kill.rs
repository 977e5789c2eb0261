//! The mount's process is killed: everything that programs were told was done is there afterwards.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use common::RaiseOnDrop;
use common::pair::{Pair, outcome, pattern};
use rustix::fs::XattrFlags;

/// Kills the mount's process and mounts the volume anew.
fn kill_and_mount(pair: &Pair) {
    pair.world.kill(&pair.mount);
    pair.world.mount("vol", &[]);
}

#[test]
fn every_write_that_returned_is_there_after_a_kill() {
    let Some(pair) = Pair::new("every_write_that_returned_is_there_after_a_kill", "") else { return };
    const LEN: u64 = 777;
    let done: [AtomicU64; 3] = Default::default();
    let end = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _end = RaiseOnDrop(&end);
        for (worker, done) in done.iter().enumerate() {
            let (path, end) = (pair.mount.join(worker.to_string()), &end);
            scope.spawn(move || {
                let file = File::create(path).unwrap();
                for n in 0.. {
                    let written = file.write_all_at(&pattern(n, LEN as usize), n * LEN);
                    if written.is_err() || end.load(Ordering::SeqCst) {
                        break;
                    }
                    done.store(n + 1, Ordering::SeqCst);
                }
            });
        }
        common::wait_until("all have written", || done.iter().all(|n| n.load(Ordering::SeqCst) > 200));
        // In the midst of it, with the files open and nothing flushed.
        pair.world.kill(&pair.mount);
    });
    pair.world.mount("vol", &[]);
    for (worker, done) in done.iter().enumerate() {
        let found = fs::read(pair.mount.join(worker.to_string())).unwrap();
        let done = done.load(Ordering::SeqCst);
        let expected: Vec<u8> = (0..done).flat_map(|n| pattern(n, LEN as usize)).collect();
        assert!(
            found.len() >= expected.len() && found.starts_with(&expected),
            "worker {worker}: {} of {}",
            found.len(),
            expected.len()
        );
        // Of the last write, which did not return, any part may be there.
        let next = pattern(done, LEN as usize);
        assert!(found.len() <= expected.len() + next.len());
    }
}

#[test]
fn overwrites_truncations_and_direct_writes_are_there_after_a_kill() {
    let Some(pair) = Pair::new("overwrites_truncations_and_direct_writes", "") else { return };
    let path = |name: &str| pair.mount.join(name);
    let names = ["over", "cut", "grown", "punched", "direct", "synced", "appended"];
    for name in names {
        fs::write(path(name), pattern(1, 30_000)).unwrap();
    }
    // Settled, so that what follows changes files that say they are whole.
    pair.remount();
    let open = |name: &str, flags| {
        OpenOptions::new().read(true).write(true).custom_flags(flags).open(path(name)).unwrap()
    };
    let held = [
        ("over", 0),
        ("cut", 0),
        ("grown", 0),
        ("punched", 0),
        ("direct", libc::O_DIRECT),
        ("synced", libc::O_SYNC),
        ("appended", libc::O_APPEND),
    ];
    let held = held.map(|(name, flags)| open(name, flags));
    held[0].write_all_at(&pattern(2, 9000), 5000).unwrap();
    held[1].set_len(7777).unwrap();
    held[2].set_len(50_000).unwrap();
    common::sys::fallocate(&held[3], libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, 3000, 20_000)
        .unwrap();
    for file in &held[4..] {
        file.write_all_at(&common::sys::Aligned::new(&pattern(3, 8192)), 4096).unwrap();
    }
    let before = names.map(|name| fs::read(path(name)).unwrap());
    kill_and_mount(&pair);
    drop(held);
    for (name, before) in names.into_iter().zip(before) {
        assert!(fs::read(path(name)).unwrap() == before, "{name}");
    }
    // And it passes for whole from now on.
    pair.remount();
    assert_eq!(fs::read(path("cut")).unwrap(), pattern(1, 7777));
}

#[test]
fn names_and_attributes_are_there_after_a_kill() {
    let Some(pair) = Pair::new("names_and_attributes_are_there_after_a_kill", "") else { return };
    let path = |name: &str| pair.mount.join(name);
    let long = "l".repeat(250);
    fs::create_dir_all(path("a/b/c")).unwrap();
    fs::write(path("a/old"), "renamed").unwrap();
    fs::rename(path("a/old"), path("a/b").join(&long)).unwrap();
    fs::hard_link(path("a/b").join(&long), path("hard")).unwrap();
    symlink("target", path("link")).unwrap();
    fs::write(path("gone"), "").unwrap();
    fs::remove_file(path("gone")).unwrap();
    fs::set_permissions(path("hard"), fs::Permissions::from_mode(0o604)).unwrap();
    rustix::fs::setxattr(path("hard"), "user.a", b"value", XattrFlags::empty()).unwrap();
    kill_and_mount(&pair);
    assert_eq!(fs::read(path("a/b").join(&long)).unwrap(), b"renamed");
    assert_eq!(
        (path("hard").metadata().unwrap().nlink(), path("hard").metadata().unwrap().mode() & 0o777),
        (2, 0o604)
    );
    assert_eq!(fs::read_link(path("link")).unwrap(), Path::new("target"));
    assert_eq!(fs::read_dir(path("a/b/c")).unwrap().count(), 0);
    assert_eq!(outcome(fs::metadata(path("gone"))), Err(libc::ENOENT));
    let mut value = [0; 5];
    assert_eq!(rustix::fs::getxattr(path("hard"), "user.a", &mut value), Ok(5));
    assert_eq!(&value, b"value");
}

#[test]
fn what_uses_a_killed_mount_gets_errors_and_does_not_hang() {
    let Some(pair) = Pair::new("what_uses_a_killed_mount_gets_errors", "") else { return };
    fs::write(pair.mount.join("file"), "contents").unwrap();
    let file = File::options().read(true).write(true).open(pair.mount.join("file")).unwrap();
    pair.world.kill_process(&pair.mount);
    assert_eq!(outcome(file.write_at(b"x", 0)), Err(libc::ENOTCONN));
    assert_eq!(outcome(file.sync_all()), Err(libc::ENOTCONN));
    assert_eq!(outcome(fs::read_dir(&pair.mount)), Err(libc::ENOTCONN));
    assert_eq!(outcome(fs::metadata(pair.mount.join("other"))), Err(libc::ENOTCONN));
}

#[test]
fn the_next_mount_takes_the_place_of_a_killed_one() {
    let Some(pair) = Pair::new("the_next_mount_takes_the_place_of_a_killed_one", "") else { return };
    fs::write(pair.mount.join("file"), "contents").unwrap();
    pair.world.kill_process(&pair.mount);
    // No step in between.
    pair.world.run(&["mount", "vol", pair.mount.to_str().unwrap()]);
    assert_eq!(fs::read(pair.mount.join("file")).unwrap(), b"contents");
    pair.world.umount(&pair.mount);
    assert_eq!(fs::read_dir(&pair.mount).unwrap().count(), 0, "nothing is mounted there any more");
}
