//! A disk under the backing filesystem that fails: a loop device whose image file misses a part for a
//! while. Errors reach the program; what the disk still has, or has again, is all there.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;

use common::World;
use common::pair::pattern;
use rustix::mount::{UnmountFlags, unmount};

const DISK: u64 = 48 << 20;
const BLOCK: usize = 4096;
const MIB: usize = 1 << 20;

/// Takes the filesystem at `disk` away, and what the kernel remembers of it.
fn detach(world: &World) {
    world.wait_for_daemons();
    unmount(world.path("disk"), UnmountFlags::empty()).unwrap();
}

/// Puts it back, to write nothing of its own accord: its journal may be what the disk misses.
fn attach(world: &World) {
    assert!(common::mount(
        &["-o", "loop,noatime,commit=300", world.path("disk.img").to_str().unwrap()],
        &world.path("disk")
    ));
}

/// A place on the disk that half of `files` lie before, whole: ext4 divides and places them as it
/// likes, and what is sealed is like nothing else in `image`.
fn middle(image: &[u8], files: &[Vec<u8>]) -> u64 {
    let place: HashMap<&[u8], u64> = image.chunks_exact(BLOCK).zip((0..).step_by(BLOCK)).collect();
    let farthest = |file: &Vec<u8>| file.chunks_exact(BLOCK).map(|block| place[block]).max();
    let mut ends: Vec<u64> = files.iter().filter_map(farthest).collect();
    ends.sort_unstable();
    ends[ends.len() / 2]
}

#[test]
fn what_a_disk_cannot_read_is_an_error_and_the_rest_is_read() {
    let test = "what_a_disk_cannot_read_is_an_error_and_the_rest_is_read";
    let Some(world) = World::new(test) else { return };
    if world.disk("disk", DISK).is_none() {
        return common::skipped(test, "no disk image could be mounted");
    }
    let mount = world.volume("disk/vol");
    let contents: Vec<Vec<u8>> = (0..32).map(|n| pattern(n, MIB)).collect();
    let path = |n: usize| mount.join(format!("file-{n}"));
    for (n, contents) in contents.iter().enumerate() {
        fs::write(path(n), contents).unwrap();
    }
    world.umount(&mount);
    let sealed = common::tree(&world.path("disk/vol")).into_values().map(|(_, bytes)| bytes);
    let sealed: Vec<Vec<u8>> = sealed.filter(|bytes| bytes.len() > MIB).collect();
    assert_eq!(sealed.len(), contents.len());
    detach(&world);
    let cut = middle(&fs::read(world.path("disk.img")).unwrap(), &sealed);
    attach(&world);
    world.mount("disk/vol", &[]);
    rustix::fs::syncfs(fs::File::open(world.path("disk")).unwrap()).unwrap();

    // A loop device answers EIO behind its file's end.
    let image = OpenOptions::new().read(true).write(true).open(world.path("disk.img")).unwrap();
    let mut lost = vec![0; usize::try_from(DISK - cut).unwrap()];
    image.read_exact_at(&mut lost, cut).unwrap();
    image.set_len(cut).unwrap();
    let found: Vec<_> = (0..contents.len()).map(|n| fs::read(path(n))).collect();
    let is_lost = |n: &usize| found[*n].is_err();
    let (gone, there): (Vec<usize>, Vec<usize>) = (0..contents.len()).partition(is_lost);
    assert!(
        gone.len() > 4 && there.len() > 4,
        "{gone:?} are lost, {there:?} are there; {:?}",
        found[0].as_ref().err()
    );
    for &n in &gone {
        assert_eq!(found[n].as_ref().unwrap_err().raw_os_error(), Some(libc::EIO), "file-{n}");
    }
    for &n in &there {
        assert!(found[n].as_ref().unwrap() == &contents[n], "file-{n}");
    }
    // Names and sizes of all are still told. Nothing is written, for the disk gets its old half back.
    assert_eq!(fs::read_dir(&mount).unwrap().count(), contents.len());
    assert!(gone.iter().all(|&n| fs::metadata(path(n)).unwrap().len() == MIB as u64));

    // The disk is well again: so is everything, without a new mount.
    image.set_len(DISK).unwrap();
    image.write_all_at(&lost, cut).unwrap();
    for (n, contents) in contents.iter().enumerate() {
        assert!(fs::read(path(n)).unwrap() == *contents, "file-{n}");
    }
    fs::write(mount.join("new"), "new").unwrap();
    world.umount(&mount);
    let checked = world.try_run(&["fsck", "disk/vol"]);
    assert_eq!(checked.code, 0, "{checked:?}");
    detach(&world);
}
