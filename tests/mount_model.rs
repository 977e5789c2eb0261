//! A mount against a plain directory: random operations must end alike on both, call by call, and
//! leave the same tree, also after the volume was unmounted or its process was killed.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{DirEntryExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use common::World;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rustix::fs::{AtFlags, CWD, FallocateFlags, RenameFlags, Timespec, Timestamps, XattrFlags};

/// Names, some of which are special to kmsfs and some of which are too long to be stored directly.
const NAMES: usize = 9;

fn name(index: usize) -> OsString {
    OsString::from_vec(match index {
        0 => b"a".to_vec(),
        1 => b"b c".to_vec(),
        2 => vec![0xff, 0xfe, 1, b'\n'],
        3 => b"kmsfs.dir".to_vec(),
        4 => vec![b'x'; 159],
        5 => vec![b'y'; 200],
        6 => vec![0xc3; 255],
        7 => "ünïcödé".as_bytes().to_vec(),
        _ => b"kmsfs.volume".to_vec(),
    })
}

/// A path of one to three names.
type Place = (usize, Option<usize>, Option<usize>);

fn path(root: &Path, place: Place) -> PathBuf {
    let mut path = root.join(name(place.0));
    for part in [place.1, place.2].into_iter().flatten() {
        path.push(name(part));
    }
    path
}

#[derive(Debug, Clone)]
enum Op {
    Create(Place),
    Write { at: Place, offset: u64, len: usize, seed: u8 },
    Append { at: Place, len: usize },
    Truncate { at: Place, size: u64 },
    Allocate { at: Place, offset: u64, len: u64, how: u8 },
    Read(Place),
    Mkdir(Place),
    Rmdir(Place),
    Unlink(Place),
    Rename { from: Place, to: Place, how: u8 },
    Link { from: Place, to: Place },
    Symlink { at: Place, len: usize },
    Fifo(Place),
    Chmod { at: Place, mode: u32 },
    Chown { at: Place, uid: u32 },
    Times { at: Place, seconds: i64, nanoseconds: u32 },
    SetXattr { at: Place, which: u8, len: usize },
    RemoveXattr { at: Place, which: u8 },
    List(Place),
    Sync(Place),
}

fn place() -> impl Strategy<Value = Place> {
    let part = 0..NAMES;
    (0..3usize, proptest::option::weighted(0.6, part.clone()), proptest::option::weighted(0.2, part))
        .prop_map(|(a, b, c)| (a, b, if b.is_some() { c } else { None }))
}

fn size() -> impl Strategy<Value = u64> {
    prop_oneof![0u64..20_000, Just(4064), Just(4096), 500_000u64..600_000]
}

fn op() -> impl Strategy<Value = Op> {
    let len = prop_oneof![1usize..200, 3000usize..20_000, Just(150_000)];
    prop_oneof![
        6 => place().prop_map(Op::Create),
        8 => (place(), size(), len.clone(), any::<u8>())
            .prop_map(|(at, offset, len, seed)| Op::Write { at, offset, len, seed }),
        3 => (place(), len).prop_map(|(at, len)| Op::Append { at, len }),
        4 => (place(), size()).prop_map(|(at, size)| Op::Truncate { at, size }),
        3 => (place(), size(), 1u64..100_000, 0u8..5)
            .prop_map(|(at, offset, len, how)| Op::Allocate { at, offset, len, how }),
        3 => place().prop_map(Op::Read),
        6 => place().prop_map(Op::Mkdir),
        2 => place().prop_map(Op::Rmdir),
        2 => place().prop_map(Op::Unlink),
        6 => (place(), place(), 0u8..3).prop_map(|(from, to, how)| Op::Rename { from, to, how }),
        3 => (place(), place()).prop_map(|(from, to)| Op::Link { from, to }),
        2 => (place(), 1usize..4096).prop_map(|(at, len)| Op::Symlink { at, len }),
        1 => place().prop_map(Op::Fifo),
        2 => (place(), 0u32..0o10000).prop_map(|(at, mode)| Op::Chmod { at, mode }),
        1 => (place(), 0u32..3).prop_map(|(at, uid)| Op::Chown { at, uid }),
        2 => (place(), -3_000_000_000i64..6_000_000_000, 0u32..1_000_000_000)
            .prop_map(|(at, seconds, nanoseconds)| Op::Times { at, seconds, nanoseconds }),
        // All of them together fit into what ext4 has for attributes, sealed too.
        3 => (place(), 0u8..4, 0usize..800).prop_map(|(at, which, len)| Op::SetXattr { at, which, len }),
        1 => (place(), 0u8..4).prop_map(|(at, which)| Op::RemoveXattr { at, which }),
        2 => place().prop_map(Op::List),
        1 => place().prop_map(Op::Sync),
    ]
}

fn xattr_name(which: u8) -> String {
    match which {
        0 => "user.a".to_owned(),
        1 => format!("user.{}", "l".repeat(250)),
        2 => "user.b.c".to_owned(),
        _ => "trusted.t".to_owned(),
    }
}

fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed) | 1).collect()
}

/// Options that do not wait at a FIFO.
fn patient() -> fs::OpenOptions {
    let mut options = File::options();
    options.custom_flags(libc::O_NONBLOCK);
    options
}

/// Carries an operation out below `root`. What it answers must not depend on where that is.
fn apply(root: &Path, op: &Op) -> io::Result<Vec<u8>> {
    let none = |_| Vec::new();
    let open = |at: &Place| File::options().read(true).write(true).open(path(root, *at));
    match op {
        Op::Create(at) => {
            File::options().write(true).create_new(true).open(path(root, *at)).map(|_| Vec::new())
        }
        Op::Write { at, offset, len, seed } => {
            open(at)?.write_all_at(&pattern(*seed, *len), *offset).map(none)
        }
        Op::Append { at, len } => {
            let mut file = patient().append(true).open(path(root, *at))?;
            io::Write::write_all(&mut file, &pattern(3, *len)).map(none)
        }
        Op::Truncate { at, size } => open(at)?.set_len(*size).map(none),
        Op::Allocate { at, offset, len, how } => {
            let flags = match how {
                0 => FallocateFlags::empty(),
                1 => FallocateFlags::KEEP_SIZE,
                2 => FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                3 => FallocateFlags::ZERO_RANGE,
                _ => FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
            };
            Ok(rustix::fs::fallocate(open(at)?, flags, *offset, *len).map(none)?)
        }
        Op::Read(at) => {
            let mut contents = Vec::new();
            let mut file = patient().read(true).open(path(root, *at))?;
            io::Read::read_to_end(&mut file, &mut contents)?;
            Ok(contents)
        }
        Op::Mkdir(at) => fs::create_dir(path(root, *at)).map(none),
        Op::Rmdir(at) => fs::remove_dir(path(root, *at)).map(none),
        Op::Unlink(at) => fs::remove_file(path(root, *at)).map(none),
        Op::Rename { from, to, how } => {
            let flags = [RenameFlags::empty(), RenameFlags::NOREPLACE, RenameFlags::EXCHANGE];
            let flags = flags[usize::from(*how)];
            Ok(rustix::fs::renameat_with(CWD, path(root, *from), CWD, path(root, *to), flags).map(none)?)
        }
        Op::Link { from, to } => fs::hard_link(path(root, *from), path(root, *to)).map(none),
        Op::Symlink { at, len } => {
            std::os::unix::fs::symlink(OsString::from_vec(pattern(5, *len)), path(root, *at)).map(none)
        }
        Op::Fifo(at) => {
            let mode = rustix::fs::Mode::from_raw_mode(0o640);
            Ok(rustix::fs::mknodat(CWD, path(root, *at), rustix::fs::FileType::Fifo, mode, 0).map(none)?)
        }
        Op::Chmod { at, mode } => {
            fs::set_permissions(path(root, *at), fs::Permissions::from_mode(*mode)).map(none)
        }
        Op::Chown { at, uid } => std::os::unix::fs::lchown(path(root, *at), Some(*uid), Some(*uid)).map(none),
        Op::Times { at, seconds, nanoseconds } => {
            let time = Timespec { tv_sec: *seconds, tv_nsec: (*nanoseconds).into() };
            let times = Timestamps { last_access: time, last_modification: time };
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            Ok(rustix::fs::utimensat(CWD, path(root, *at), &times, flags).map(none)?)
        }
        Op::SetXattr { at, which, len } => {
            let value = pattern(*which, *len);
            Ok(rustix::fs::lsetxattr(path(root, *at), xattr_name(*which), &value, XattrFlags::empty())
                .map(none)?)
        }
        Op::RemoveXattr { at, which } => {
            Ok(rustix::fs::lremovexattr(path(root, *at), xattr_name(*which)).map(none)?)
        }
        Op::List(at) => {
            let mut names: Vec<_> = fs::read_dir(path(root, *at))?
                .map(|entry| entry.map(|e| e.file_name().into_vec()))
                .collect::<io::Result<_>>()?;
            names.sort();
            Ok(names.concat())
        }
        Op::Sync(at) => {
            let path = path(root, *at);
            // A FIFO would wait for a writer.
            if fs::metadata(&path)?.file_type().is_fifo_or_other() {
                return Ok(Vec::new());
            }
            Ok(rustix::fs::fsync(File::open(path)?.as_fd()).map(none)?)
        }
    }
}

trait IsFifoOrOther {
    fn is_fifo_or_other(&self) -> bool;
}

impl IsFifoOrOther for fs::FileType {
    fn is_fifo_or_other(&self) -> bool {
        !self.is_file() && !self.is_dir()
    }
}

type Tree = BTreeMap<PathBuf, String>;

/// Everything that a program can see of a tree, but inode numbers and times of directories.
fn snapshot(root: &Path) -> Tree {
    let mut found = Tree::new();
    let mut links: BTreeMap<u64, usize> = BTreeMap::new();
    walk(root, root, &mut found, &mut links);
    found
}

fn walk(root: &Path, dir: &Path, found: &mut Tree, links: &mut BTreeMap<u64, usize>) {
    let mut entries: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap()).collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let meta = fs::symlink_metadata(&path).unwrap();
        let kind = meta.file_type();
        assert_eq!(entry.ino(), meta.ino(), "{path:?}");
        assert_eq!(entry.file_type().unwrap(), kind, "{path:?}");
        let next = links.len();
        let identity = *links.entry(meta.ino()).or_insert(next);
        let mut said = format!(
            "{:o} {}:{} links {} same as {identity}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.nlink()
        );
        if kind.is_file() {
            let contents = fs::read(&path).unwrap();
            assert_eq!(contents.len() as u64, meta.len(), "{path:?}");
            said += &format!(" size {} hash {:?}", meta.len(), kmsfs::crypto::kdf::sha256(&[&contents]));
        } else if kind.is_symlink() {
            let target = fs::read_link(&path).unwrap().into_os_string().into_vec();
            assert_eq!(meta.len(), target.len() as u64);
            said += &format!(" -> {target:?}");
        }
        if !kind.is_dir() {
            said += &format!(" mtime {}.{}", meta.mtime(), meta.mtime_nsec());
        }
        said += &format!(" {:?}", xattrs(&path));
        found.insert(path.strip_prefix(root).unwrap().to_owned(), said);
        if kind.is_dir() {
            walk(root, &path, found, links);
        }
    }
}

fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0; 8192];
    let len = rustix::fs::llistxattr(path, &mut names).unwrap();
    let names = names[..len].split(|&b| b == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = vec![0; 8192];
            let len = rustix::fs::lgetxattr(path, name, &mut value).unwrap();
            value.truncate(len);
            (String::from_utf8(name.to_vec()).unwrap(), value)
        })
        .collect()
}

/// Writes without setting times leave them to the clock; both sides get the same ones, so that
/// they can be compared.
fn fix_times(root: &Path, at: &Path) {
    let path = root.join(at);
    let time = Timespec { tv_sec: 1_000_000, tv_nsec: 7 };
    let times = Timestamps { last_access: time, last_modification: time };
    let _ = rustix::fs::utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW);
}

fn fix_all_times(root: &Path) {
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap().map(|e| e.unwrap()) {
            if entry.file_type().unwrap().is_dir() {
                dirs.push(entry.path());
            } else {
                fix_times(root, &entry.path());
            }
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Ending {
    Unmount,
    Kill,
}

#[test]
fn a_mount_behaves_like_a_plain_directory() {
    behaves_like_a_plain_directory("a_mount_behaves_like_a_plain_directory", &[]);
}

#[test]
fn a_mount_with_writeback_behaves_like_a_plain_directory() {
    behaves_like_a_plain_directory(
        "a_mount_with_writeback_behaves_like_a_plain_directory",
        &["-o", "writeback"],
    );
}

fn behaves_like_a_plain_directory(test: &str, options: &[&str]) {
    let Some(world) = World::new(test) else { return };
    let plain_root = world.path("plain");
    fs::create_dir(&plain_root).unwrap();
    world.run(&["init", "vol"]);
    let mounted = std::cell::RefCell::new(world.mount("vol", options));
    let writeback = options.contains(&"writeback");
    let cases = if std::env::var_os("CI").is_some() { 60 } else { 40 };
    let config = Config { cases, max_shrink_iters: 0, failure_persistence: None, ..Config::default() };
    let ending = prop_oneof![Just(None), Just(Some(Ending::Unmount)), Just(Some(Ending::Kill))];
    let case = std::cell::Cell::new(0);
    let strategy = (proptest::collection::vec(op(), 1..80), ending);
    let result = TestRunner::new(config).run(&strategy, |(ops, ending)| {
        case.set(case.get() + 1);
        let sub = format!("case-{}", case.get());
        let plain = plain_root.join(&sub);
        let ours = mounted.borrow().join(&sub);
        fs::create_dir(&plain).unwrap();
        fs::create_dir(&ours).unwrap();
        for (step, op) in ops.iter().enumerate() {
            let expected = apply(&plain, op).map_err(|e| e.raw_os_error());
            let found = apply(&ours, op).map_err(|e| e.raw_os_error());
            prop_assert_eq!(&found, &expected, "step {}: {:?}", step, op);
        }
        fix_all_times(&plain);
        fix_all_times(&ours);
        if let Some(ending) = ending {
            match ending {
                Ending::Unmount => world.umount(&mounted.borrow()),
                Ending::Kill => {
                    // Only what the kernel has gathered is lost with the process.
                    if writeback {
                        rustix::fs::syncfs(File::open(&*mounted.borrow()).unwrap()).unwrap();
                    }
                    world.kill(&mounted.borrow());
                }
            }
            mounted.replace(world.mount("vol", options));
        }
        let (found, expected) = (snapshot(&mounted.borrow().join(&sub)), snapshot(&plain));
        let differs = |(path, said): &(&PathBuf, &String)| expected.get(*path) != Some(*said);
        let different: Vec<_> = found.iter().filter(differs).collect();
        let wanted: Vec<_> = expected.iter().filter(|(path, said)| found.get(*path) != Some(*said)).collect();
        prop_assert!(different.is_empty() && wanted.is_empty(), "{different:#?} instead of {wanted:#?}");
        Ok(())
    });
    result.unwrap();
}
