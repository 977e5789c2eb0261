//! Hard links: several names of one inode, with one key.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use common::pair::{Pair, errno, outcome, seen};
use rustix::fs::{AtFlags, CWD, FileType, Mode, mknodat};

#[test]
fn hard_links_share_one_inode_and_one_key() {
    let Some(pair) = Pair::new("hard_links_share_one_inode_and_one_key", "") else { return };
    let world = &pair.world;
    world.run(&["key", "create", "--alias", "other"]);
    let dir = pair.mount.join("other");
    fs::create_dir(&dir).unwrap();
    world.run(&["key", "assign", "alias/other", dir.to_str().unwrap()]);
    let (first, second) = (pair.mount.join("first"), dir.join("second"));
    fs::write(&first, "contents").unwrap();
    fs::hard_link(&first, &second).unwrap();

    let info = |path: &Path| world.json(&["file", "info", path.to_str().unwrap()])[0].clone();
    for field in ["file_id", "key_arn"] {
        assert!(info(&first)[field].is_string());
        assert_eq!(info(&first)[field], info(&second)[field], "{field}");
    }
    File::options().append(true).open(&second).unwrap().write_all(b" and more").unwrap();
    assert_eq!(fs::read(&first).unwrap(), b"contents and more");
    for _ in 0..2 {
        let (a, b) = (first.metadata().unwrap(), second.metadata().unwrap());
        assert_eq!((a.ino(), a.nlink()), (b.ino(), 2));
        pair.remount();
    }
    fs::remove_file(&first).unwrap();
    assert_eq!(second.metadata().unwrap().nlink(), 1);
    assert_eq!(fs::read(&second).unwrap(), b"contents and more");
}

#[test]
fn everything_but_a_directory_can_be_linked() {
    let Some(pair) = Pair::new("everything_but_a_directory_can_be_linked", "") else { return };
    let made = pair.answer_alike("links", |dir| {
        let mode = Mode::from_raw_mode(0o640);
        fs::write(dir.join("file"), "x").unwrap();
        symlink("nowhere", dir.join("symlink")).unwrap();
        mknodat(CWD, dir.join("fifo"), FileType::Fifo, mode, 0).unwrap();
        mknodat(CWD, dir.join("socket"), FileType::Socket, mode, 0).unwrap();
        mknodat(CWD, dir.join("device"), FileType::CharacterDevice, mode, rustix::fs::makedev(1, 3)).unwrap();
        fs::create_dir(dir.join("directory")).unwrap();
        let mut said = Vec::new();
        for name in ["file", "symlink", "fifo", "socket", "device", "directory"] {
            let (from, to) = (dir.join(name), dir.join(format!("{name}-2")));
            said.push((name, outcome(fs::hard_link(&from, &to)), seen(&from), seen(&to)));
            if name != "directory" {
                assert_eq!(from.symlink_metadata().unwrap().ino(), to.symlink_metadata().unwrap().ino());
                assert_eq!(outcome(fs::remove_file(&from)), Ok(()));
                said.push((name, Ok(()), seen(&from), seen(&to)));
            }
        }
        (said, fs::read_link(dir.join("symlink-2")).unwrap())
    });
    assert_eq!(made.0[0].2.clone().unwrap().nlink, 2);
    assert_eq!(made.0.last().unwrap().1, Err(libc::EPERM));
}

#[test]
fn a_link_follows_a_symlink_only_when_told_to() {
    let Some(pair) = Pair::new("a_link_follows_a_symlink_only_when_told_to", "") else { return };
    pair.alike("linkat", |dir| {
        fs::write(dir.join("file"), "x").unwrap();
        symlink("file", dir.join("symlink")).unwrap();
        [AtFlags::empty(), AtFlags::SYMLINK_FOLLOW].map(|flags| {
            let to = dir.join(format!("{}", flags.bits()));
            rustix::fs::linkat(CWD, dir.join("symlink"), CWD, &to, flags).unwrap();
            to.symlink_metadata().unwrap().is_symlink()
        })
    });
}

#[test]
fn a_link_takes_no_name_away_and_needs_a_living_source() {
    let Some(pair) = Pair::new("a_link_takes_no_name_away", "") else { return };
    pair.alike("refused links", |dir| {
        fs::write(dir.join("file"), "x").unwrap();
        fs::write(dir.join("taken"), "y").unwrap();
        let open = File::create(dir.join("gone")).unwrap();
        fs::remove_file(dir.join("gone")).unwrap();
        let again = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&open));
        let to = dir.join("back");
        (
            outcome(fs::hard_link(dir.join("file"), dir.join("taken"))),
            outcome(fs::hard_link(dir.join("absent"), dir.join("new"))),
            outcome(rustix::fs::linkat(CWD, again, CWD, &to, AtFlags::SYMLINK_FOLLOW)),
            errno(fs::read(dir.join("taken"))),
            seen(dir.join("file")),
        )
    });
}
