//! What is refused, and with which error: as ext4 does.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use common::pair::{Pair, errno, outcome, seen};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, mknodat};

/// What each operation on a pair of paths can come to.
fn refusals(a: &Path, b: &Path) -> Vec<(&'static str, Result<(), i32>)> {
    vec![
        ("rename", outcome(fs::rename(a, b))),
        ("link", outcome(fs::hard_link(a, b))),
        ("rmdir", outcome(fs::remove_dir(a))),
        ("mkdir", outcome(fs::create_dir(a))),
        ("symlink", outcome(symlink("x", a))),
        ("mknod", outcome(mknodat(CWD, a, FileType::Fifo, Mode::RWXU, 0))),
        ("read", outcome(fs::read(a))),
        ("list", outcome(fs::read_dir(a))),
        ("readlink", outcome(fs::read_link(a))),
        ("open for writing", outcome(File::options().write(true).open(a))),
        ("create new", outcome(File::options().write(true).create_new(true).open(a))),
        ("open a directory", outcome(File::options().read(true).custom_flags(libc::O_DIRECTORY).open(a))),
        ("stat", outcome(fs::metadata(a))),
        ("lstat", outcome(fs::symlink_metadata(a))),
        ("truncate", outcome(File::options().write(true).open(a).and_then(|file| file.set_len(0)))),
        ("chown", outcome(chown(a, None, None))),
        ("chmod", outcome(fs::metadata(a).and_then(|of| fs::set_permissions(a, of.permissions())))),
        ("unlink", outcome(fs::remove_file(a))),
    ]
}

#[test]
fn whatever_is_done_to_whatever_ends_as_on_ext4() {
    let Some(pair) = Pair::new("whatever_is_done_to_whatever", "") else { return };
    let things = [
        "file",
        "file/",
        "file/x",
        "empty",
        "empty/",
        "full",
        "full/.",
        "full/..",
        "link",
        "link/",
        "dangling",
        "dangling/",
        "loop",
        "loop/x",
        "fifo/x",
        "dirlink",
        "dirlink/",
        "dirlink/inner",
        "absent",
        "absent/x",
        "absent/",
        ".",
        "..",
        "full/inner",
        "full/inner/x",
    ];
    for (i, thing) in things.into_iter().enumerate() {
        for (k, other) in things.into_iter().enumerate() {
            // All singles, and a third of the pairs.
            if k != 0 && (i + k) % 3 != 0 {
                continue;
            }
            pair.alike(&format!("{thing} and {other}"), |dir| {
                // Below, so that nothing reaches out of it.
                let dir = dir.join("top");
                for name in ["", "empty", "full"] {
                    fs::create_dir(dir.join(name)).unwrap();
                }
                fs::write(dir.join("file"), "x").unwrap();
                fs::write(dir.join("full/inner"), "x").unwrap();
                for (name, target) in
                    [("link", "file"), ("dangling", "nowhere"), ("loop", "loop"), ("dirlink", "full")]
                {
                    symlink(target, dir.join(name)).unwrap();
                }
                mknodat(CWD, dir.join("fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
                let path = |name: &str| PathBuf::from(format!("{}/{name}", dir.display()));
                (refusals(&path(thing), &path(other)), tree(&dir))
            });
        }
    }
}

fn tree(dir: &Path) -> Vec<(PathBuf, u32)> {
    let all = common::tree(dir).into_iter();
    all.map(|(path, (mode, _))| (path.strip_prefix(dir).unwrap().to_owned(), mode)).collect()
}

#[test]
fn handles_refuse_what_they_refuse_on_ext4() {
    let Some(pair) = Pair::new("handles_refuse_what_they_refuse", "") else { return };
    pair.alike("operations on handles", |dir| {
        fs::write(dir.join("file"), "contents").unwrap();
        let file = File::options().read(true).write(true).open(dir.join("file")).unwrap();
        let directory = File::open(dir).unwrap();
        let mut seeker = &file;
        vec![
            outcome(file.read_at(&mut [0; 4], u64::MAX)),
            outcome(file.read_at(&mut [0; 4], i64::MAX as u64 - 1)),
            outcome(file.write_at(b"x", u64::MAX)),
            outcome(file.set_len(u64::MAX)),
            outcome(seeker.seek(SeekFrom::Current(-100))),
            outcome(seeker.seek(SeekFrom::Start(1 << 43))),
            outcome((&directory).read(&mut [0; 4])),
            outcome((&directory).write(b"x")),
            outcome(directory.set_len(0)),
            outcome(directory.sync_all()),
            outcome(directory.sync_data()),
            outcome(rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::WillNeed)),
            outcome(rustix::io::ioctl_fionread(&file)),
        ]
    });
}

#[test]
fn a_path_through_a_removed_or_replaced_directory_is_not_found() {
    let Some(pair) = Pair::new("a_path_through_a_removed_directory", "") else { return };
    pair.alike("stale paths", |dir| {
        fs::create_dir_all(dir.join("a/b")).unwrap();
        fs::write(dir.join("a/b/file"), "old").unwrap();
        let held = File::open(dir.join("a/b")).unwrap();
        let open = |name: &str| rustix::fs::openat(&held, name, OFlags::RDONLY, Mode::empty()).map(drop);
        let before = (outcome(open("file")), outcome(open("absent")));
        fs::rename(dir.join("a"), dir.join("c")).unwrap();
        fs::create_dir_all(dir.join("a/b")).unwrap();
        fs::write(dir.join("a/b/file"), "new").unwrap();
        fs::write(dir.join("c/b/absent"), "").unwrap();
        (
            before,
            outcome(open("file")),
            outcome(open("absent")),
            errno(fs::read(dir.join("a/b/file"))),
            errno(fs::read(dir.join("c/b/file"))),
            outcome(fs::remove_dir(dir.join("c/b"))),
            seen(dir.join("c/b")),
            outcome(rustix::fs::unlinkat(&held, "file", AtFlags::empty())),
        )
    });
}

#[test]
fn an_entry_that_was_missed_is_found_once_it_is_made() {
    let Some(pair) = Pair::new("an_entry_that_was_missed_is_found", "") else { return };
    pair.alike("negative entries", |dir| {
        let mut said = Vec::new();
        for round in 0..3 {
            said.push(outcome(fs::metadata(dir.join("x"))));
            fs::write(dir.join("x"), round.to_string()).unwrap();
            said.push(outcome(fs::metadata(dir.join("x"))));
            fs::rename(dir.join("x"), dir.join("y")).unwrap();
            said.push(outcome(fs::metadata(dir.join("x"))));
            said.push(errno(fs::read(dir.join("y"))).map(|y| assert_eq!(y, round.to_string().into_bytes())));
        }
        said
    });
}

#[test]
fn whatever_was_missed_is_found_however_it_is_made_and_missed_again() {
    type Make = fn(&Path, &Path);
    let Some(pair) = Pair::new("whatever_was_missed_is_found", "") else { return };
    let made: [(&str, Make); 7] = [
        ("create", |_, at| fs::write(at, "x").unwrap()),
        ("create exclusively", |_, at| drop(File::create_new(at).unwrap())),
        ("mkdir", |_, at| fs::create_dir(at).unwrap()),
        ("symlink", |_, at| symlink("nowhere", at).unwrap()),
        ("mknod", |_, at| mknodat(CWD, at, FileType::Fifo, Mode::RWXU, 0).unwrap()),
        ("link", |dir, at| fs::hard_link(dir.join("there"), at).unwrap()),
        ("rename", |dir, at| fs::rename(dir.join("there"), at).unwrap()),
    ];
    // The longer one has a sidecar.
    for name in ["short".to_owned(), "n".repeat(250)] {
        for (how, make) in made {
            pair.alike(&format!("{how}, a name of {} bytes", name.len()), |dir| {
                let at = dir.join(&name);
                fs::write(dir.join("there"), "").unwrap();
                let look = || outcome(fs::symlink_metadata(&at));
                let mut said = vec![look(), look()];
                for _ in 0..2 {
                    make(dir, &at);
                    said.push(look());
                    outcome(fs::remove_file(&at).or_else(|_| fs::remove_dir(&at))).unwrap();
                    said.extend([look(), look()]);
                    fs::write(dir.join("there"), "").unwrap();
                }
                said
            });
        }
    }
}
