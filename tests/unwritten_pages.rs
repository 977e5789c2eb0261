//! What the kernel holds of a file and has not passed on is part of the file: a copy made at that
//! moment has it, also one made by a program that skips holes.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::process::Command;

use common::World;
use rustix::mm::{MapFlags, ProtFlags};

const LEN: usize = 1 << 20;
/// The second half is written, the first one is a hole.
const WRITTEN: usize = LEN / 2;

#[test]
fn pages_of_a_mapping_are_no_holes() {
    let Some(world) = World::new("pages_of_a_mapping_are_no_holes") else { return };
    world.run(&["init", "vol"]);
    let mnt = world.mount("vol", &[]);
    let file = empty_file(&mnt.join("mapped"));
    rustix::fs::ftruncate(&file, LEN as u64).unwrap();
    let (protection, shared) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
    // SAFETY: a new mapping, of the file's length.
    let at = unsafe { rustix::mm::mmap(std::ptr::null_mut(), LEN, protection, shared, &file, 0) };
    // SAFETY: all of that mapping; nobody truncates the file.
    let mapped = unsafe { std::slice::from_raw_parts_mut(at.unwrap().cast::<u8>(), LEN) };
    mapped[WRITTEN..].fill(b'x');
    copies_have_it(&mnt.join("mapped"));
    // SAFETY: the mapping made above, which is not used any more.
    unsafe { rustix::mm::munmap(mapped.as_mut_ptr().cast(), LEN).unwrap() };
}

#[test]
fn gathered_writes_are_no_holes() {
    let Some(world) = World::new("gathered_writes_are_no_holes") else { return };
    world.run(&["init", "vol"]);
    let mnt = world.mount("vol", &["-o", "writeback"]);
    let file = empty_file(&mnt.join("gathered"));
    rustix::io::pwrite(&file, &vec![b'x'; LEN - WRITTEN], WRITTEN as u64).unwrap();
    copies_have_it(&mnt.join("gathered"));
}

fn empty_file(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create_new(true).open(path).unwrap()
}

/// The file stays open for writing meanwhile.
fn copies_have_it(path: &Path) {
    let dir = path.parent().unwrap();
    let run = |program: &str, arguments: &[&str]| {
        let ran = Command::new(program).args(arguments).current_dir(dir).status().unwrap();
        assert!(ran.success(), "{program}: {ran}");
    };
    let name = path.file_name().unwrap().to_str().unwrap();
    run("cp", &[name, "copied"]);
    run("tar", &["--sparse", "-cf", "archive", "--transform=s/.*/packed/", name]);
    run("tar", &["-xf", "archive"]);
    let expected: Vec<u8> = [vec![0; WRITTEN], vec![b'x'; LEN - WRITTEN]].concat();
    for copy in ["copied", "packed"] {
        assert!(std::fs::read(dir.join(copy)).unwrap() == expected, "{copy}");
    }
}
