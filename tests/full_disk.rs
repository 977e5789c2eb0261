//! A backing filesystem without room: errors reach the program, nothing that was accepted is lost,
//! and after something was removed everything works again.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use common::World;
use common::pair::{outcome, pattern};
use rustix::fs::XattrFlags;
use rustix::mount::{MountFlags, UnmountFlags, unmount};

const NO_SPACE: Result<(), i32> = Err(libc::ENOSPC);

#[test]
fn a_full_tmpfs_is_reported_and_survived() {
    let Some(world) = World::new("a_full_tmpfs_is_reported_and_survived") else { return };
    let disk = world.path("disk");
    fs::create_dir(&disk).unwrap();
    rustix::mount::mount("none", &disk, "tmpfs", MountFlags::empty(), Some(c"size=8m")).unwrap();
    fills_up_and_goes_on(&world, &disk);
}

/// Unlike tmpfs it allocates late: what is accepted now finds its place on the disk when it is
/// written back.
#[test]
fn a_full_ext4_is_reported_and_survived() {
    let test = "a_full_ext4_is_reported_and_survived";
    let Some(world) = World::new(test) else { return };
    let Some(disk) = world.disk("disk", 24 << 20) else {
        return common::skipped(test, "no disk image could be mounted");
    };
    fills_up_and_goes_on(&world, &disk);
}

fn fills_up_and_goes_on(world: &World, disk: &Path) {
    let mount = world.volume("disk/vol");
    let path = |name: &str| mount.join(name);
    let contents = pattern(1, 3_000_000);
    save(&path("kept"), &contents).unwrap();

    let mut big = File::options().read(true).write(true).create_new(true).open(path("big")).unwrap();
    let accepted = fill(&mut big);
    // Flushing reports nothing that writing has not reported.
    big.sync_all().unwrap();
    assert_eq!(big.metadata().unwrap().len(), accepted.len() as u64);
    assert!(fs::read(path("big")).unwrap() == accepted);

    // Nothing that needs space is half done.
    assert_eq!(
        outcome(rustix::fs::fallocate(&big, rustix::fs::FallocateFlags::empty(), 0, 40_000_000)),
        NO_SPACE
    );
    assert_eq!(big.metadata().unwrap().len(), accepted.len() as u64);
    assert_eq!(outcome(save(&path("new"), &contents)), NO_SPACE);
    let large = vec![7; 3000];
    let tagged = outcome(rustix::fs::setxattr(path("kept"), "user.large", &large, XattrFlags::empty()));
    let mut value = vec![0; 3000];
    let found = rustix::fs::getxattr(path("kept"), "user.large", &mut value);
    assert_eq!(tagged.is_ok(), found == Ok(3000), "{tagged:?}, {found:?}");
    // What needs none goes on: reading, names, and space that a file has already.
    assert!(fs::read(path("kept")).unwrap() == contents);
    fs::rename(path("kept"), path("renamed")).unwrap();
    big.write_all_at(&pattern(2, 100_000), 50_000).unwrap();
    big.sync_all().unwrap();
    let mut changed = accepted;
    changed[50_000..150_000].copy_from_slice(&pattern(2, 100_000));
    assert!(fs::read(path("big")).unwrap() == changed);

    // Cutting gives space back for what comes next, in the same file and in others.
    big.set_len(1_000_000).unwrap();
    changed.truncate(1_000_000);
    let begin = Instant::now();
    // What was cut off is free once the kernel has let go of it.
    while let Err(error) = save(&path("after"), &contents) {
        assert!(begin.elapsed() < Duration::from_secs(5), "the space is not free: {error}");
        std::thread::sleep(Duration::from_millis(10));
    }
    big.write_all_at(&pattern(3, 50_000), 1_000_000).unwrap();
    changed.extend(pattern(3, 50_000));
    drop(big);
    world.umount(&mount);

    let checked = world.try_run(&["fsck", "disk/vol"]);
    assert_eq!(checked.code, 0, "{checked:?}");
    let mount = world.mount("disk/vol", &[]);
    for (name, expected) in [("renamed", &contents), ("after", &contents), ("big", &changed)] {
        assert!(fs::read(mount.join(name)).unwrap() == *expected, "{name}");
    }
    world.umount(&mount);
    world.wait_for_daemons();
    unmount(disk, UnmountFlags::empty()).unwrap();
}

fn save(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(contents)?;
    file.sync_all()
}

/// Writes until the disk is full. Answers what was accepted.
fn fill(file: &mut File) -> Vec<u8> {
    let mut accepted = Vec::new();
    for seed in 0.. {
        let part = pattern(seed, 100_000);
        match file.write(&part) {
            Ok(len) => accepted.extend_from_slice(&part[..len]),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
                break;
            }
        }
    }
    assert!(accepted.len() > 2_000_000, "the disk was full before");
    accepted
}
