//! Directories: listings while entries come and go, inode numbers, link counts.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Seek, SeekFrom};
use std::mem::MaybeUninit;
use std::os::unix::fs::{DirEntryExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use common::RaiseOnDrop;
use common::pair::{Pair, outcome, seen};
use rustix::fs::{FileType, RawDir, RenameFlags};

/// How many entries a large directory has; enough for many requests.
const LARGE: usize = 20_000;

/// A listing that can be left and resumed: each entry with the position behind it.
struct Listing(File);

impl Listing {
    fn open(dir: &Path) -> Self {
        Self(File::open(dir).unwrap())
    }

    fn seek(&mut self, position: u64) {
        self.0.seek(SeekFrom::Start(position)).unwrap();
    }

    /// About as many entries as fit into `room` bytes, none at the end. May ask more than once.
    fn next(&mut self, room: usize) -> Vec<(String, u64)> {
        let mut buffer = vec![MaybeUninit::uninit(); room];
        let mut entries = RawDir::new(&self.0, &mut buffer);
        let mut found = Vec::new();
        while let Some(entry) = entries.next() {
            let entry = entry.unwrap();
            found.push((entry.file_name().to_str().unwrap().to_owned(), entry.next_entry_cookie()));
            if entries.is_buffer_empty() {
                break;
            }
        }
        found
    }

    fn rest(&mut self) -> Vec<(String, u64)> {
        let mut all = Vec::new();
        loop {
            let some = self.next(32 << 10);
            if some.is_empty() {
                return all;
            }
            all.extend(some);
        }
    }
}

fn count(names: impl IntoIterator<Item = String>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for name in names {
        *counts.entry(name).or_insert(0) += 1;
    }
    counts
}

fn populate(dir: &Path, entries: usize) {
    for i in 0..entries {
        // Nodes, for they are made fastest; some under long names.
        let name = if i % 97 == 0 { format!("stays-{i}-{}", "l".repeat(200)) } else { format!("stays-{i}") };
        let mode = rustix::fs::Mode::RWXU;
        rustix::fs::mknodat(rustix::fs::CWD, dir.join(name), FileType::Fifo, mode, 0).unwrap();
    }
}

/// Entries that are there throughout are listed once each, whatever happens beside them.
fn lists_each_once(dir: &Path, entries: usize, rounds: usize) {
    populate(dir, entries);
    let (done, changed) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut round = 0usize;
            while !done.load(Ordering::Relaxed) {
                let name = |kind: &str, i: usize| dir.join(format!("{kind}-{}", i % 500));
                let _ = symlink("target", name("comes", round));
                let _ = fs::rename(name("comes", round), name("moves", round));
                let _ = fs::remove_file(name("moves", round + 250));
                round += 1;
                changed.store(round, Ordering::Relaxed);
            }
        });
        let _end = RaiseOnDrop(&done);
        let mut round = 0;
        // Long enough for something to happen beside it.
        while round < rounds || changed.load(Ordering::Relaxed) < 100 {
            let mut listing = Listing::open(dir);
            let found = count(listing.rest().into_iter().map(|(name, _)| name));
            let staying = found.iter().filter(|(name, _)| name.starts_with("stays-"));
            let (mut seen, mut times) = (0, BTreeSet::new());
            for (_, &n) in staying {
                seen += 1;
                times.insert(n);
            }
            assert_eq!((seen, times), (entries, BTreeSet::from([1])), "listing {round}");
            assert_eq!((found["."], found[".."]), (1, 1));
            round += 1;
        }
    });
}

#[test]
fn an_entry_that_stays_is_listed_once_while_others_come_and_go() {
    let Some(pair) = Pair::new("an_entry_that_stays_is_listed_once", "") else { return };
    lists_each_once(&pair.fresh()[1], LARGE, 5);
}

/// Takes ten minutes; `cargo test --test posix_dirs -- --ignored`. `KMSFS_TEST_ENTRIES` makes it shorter.
#[test]
#[ignore = "takes ten minutes"]
fn a_million_entries_are_listed_once_while_others_come_and_go() {
    let Some(pair) = Pair::new("a_million_entries_are_listed_once", "") else { return };
    let entries = std::env::var("KMSFS_TEST_ENTRIES").map_or(1_000_000, |entries| entries.parse().unwrap());
    lists_each_once(&pair.fresh()[1], entries, 2);
}

#[test]
fn a_listing_resumes_at_every_position() {
    let Some(pair) = Pair::new("a_listing_resumes_at_every_position", "") else { return };
    let dir = pair.fresh()[1].clone();
    populate(&dir, 700);
    let mut listing = Listing::open(&dir);
    let all = listing.rest();
    assert_eq!(all.len(), 702);
    assert_eq!(
        all.iter().map(|(_, position)| position).collect::<BTreeSet<_>>().len(),
        702,
        "positions differ"
    );
    // Back and forth, in small and large steps, through the same handle and another.
    let mut other = Listing::open(&dir);
    for step in 0..300 {
        let at = step * 37 % all.len();
        for listing in [&mut listing, &mut other] {
            listing.seek(all[at].1);
            let some = listing.next(if step % 2 == 0 { 400 } else { 8192 });
            assert!(all[at + 1..].starts_with(&some), "after entry {at}");
            assert!(!some.is_empty() || at + 1 == all.len());
        }
    }
    listing.seek(0);
    assert_eq!(listing.rest(), all);
}

#[test]
fn positions_stay_valid_while_entries_come_and_go() {
    let Some(pair) = Pair::new("positions_stay_valid_while_entries_come_and_go", "") else { return };
    let dir = pair.fresh()[1].clone();
    populate(&dir, 600);
    let mut listing = Listing::open(&dir);
    let all = listing.rest();
    for (round, &(ref at_name, position)) in all.iter().enumerate().step_by(61) {
        // The entry before the position goes, and others come.
        if at_name.starts_with("stays-") {
            fs::remove_file(dir.join(at_name)).unwrap();
        }
        for i in 0..20 {
            symlink("x", dir.join(format!("new-{round}-{i}"))).unwrap();
        }
        listing.seek(position);
        let rest = listing.rest().into_iter().map(|(name, _)| name).filter(|name| name.starts_with("stays-"));
        let expected: Vec<&String> =
            all[round + 1..].iter().map(|(name, _)| name).filter(|name| name.starts_with("stays-")).collect();
        assert_eq!(rest.collect::<Vec<_>>().iter().collect::<Vec<_>>(), expected, "after {at_name}");
    }
}

#[test]
fn rewinding_shows_the_directory_as_it_is_now() {
    let Some(pair) = Pair::new("rewinding_shows_the_directory_as_it_is_now", "") else { return };
    pair.alike("rewinddir", |dir| {
        fs::write(dir.join("old"), "").unwrap();
        let mut listing = Listing::open(dir);
        let names = |listing: &mut Listing| count(listing.rest().into_iter().map(|(name, _)| name));
        let first = names(&mut listing);
        fs::write(dir.join("new"), "").unwrap();
        fs::remove_file(dir.join("old")).unwrap();
        listing.seek(0);
        (first, names(&mut listing))
    });
}

#[test]
fn removing_while_listing_removes_everything() {
    let Some(pair) = Pair::new("removing_while_listing_removes_everything", "") else { return };
    let dir = pair.fresh()[1].clone();
    populate(&dir, 3000);
    let mut listing = Listing::open(&dir);
    loop {
        let some = listing.next(1000);
        if some.is_empty() {
            break;
        }
        for (name, _) in some.into_iter().filter(|(name, _)| name != "." && name != "..") {
            fs::remove_file(dir.join(name)).unwrap();
        }
    }
    fs::remove_dir(&dir).unwrap();
}

#[test]
fn a_listing_tells_kinds_and_inode_numbers_as_stat_does() {
    let Some(pair) = Pair::new("a_listing_tells_kinds_and_inode_numbers", "") else { return };
    let dir = pair.fresh()[1].clone();
    for (i, kind) in [
        FileType::RegularFile,
        FileType::Fifo,
        FileType::Socket,
        FileType::CharacterDevice,
        FileType::BlockDevice,
    ]
    .into_iter()
    .enumerate()
    {
        let mode = rustix::fs::Mode::RWXU;
        rustix::fs::mknodat(rustix::fs::CWD, dir.join(i.to_string()), kind, mode, rustix::fs::makedev(1, 3))
            .unwrap();
    }
    fs::create_dir(dir.join("dir")).unwrap();
    symlink("x", dir.join("link")).unwrap();
    let mut numbers = BTreeMap::new();
    for round in 0..2 {
        let mut found = 0;
        for entry in fs::read_dir(&dir).unwrap().map(Result::unwrap) {
            let of = entry.path().symlink_metadata().unwrap();
            assert_eq!(
                (entry.ino(), entry.file_type().unwrap()),
                (of.ino(), of.file_type()),
                "{:?}",
                entry.path()
            );
            let before = numbers.insert(entry.file_name(), of.ino());
            assert_eq!(before.unwrap_or(of.ino()), of.ino(), "the number stays over a remount");
            found += 1;
        }
        assert_eq!((found, numbers.values().collect::<BTreeSet<_>>().len()), (7, 7), "numbers are unique");
        if round == 0 {
            pair.remount();
        }
    }
    assert_eq!(pair.mount.metadata().unwrap().ino(), 1);
}

#[test]
fn an_inode_number_in_use_is_nobody_elses() {
    let Some(pair) = Pair::new("an_inode_number_in_use_is_nobody_elses", "") else { return };
    let dir = pair.fresh()[1].clone();
    let held: Vec<File> = (0..50).map(|i| File::create(dir.join(i.to_string())).unwrap()).collect();
    let numbers: BTreeSet<u64> = held.iter().map(|file| file.metadata().unwrap().ino()).collect();
    for i in 0..50 {
        fs::remove_file(dir.join(i.to_string())).unwrap();
    }
    for i in 0..300 {
        let path = dir.join(format!("new-{i}"));
        fs::write(&path, "x").unwrap();
        assert!(!numbers.contains(&path.metadata().unwrap().ino()));
    }
    let still: BTreeSet<u64> = held.iter().map(|file| file.metadata().unwrap().ino()).collect();
    assert_eq!(still, numbers);
}

#[test]
fn link_counts_of_directories_count_their_subdirectories() {
    let Some(pair) = Pair::new("link_counts_of_directories", "") else { return };
    pair.alike("nlink of directories", |dir| {
        let mut said = Vec::new();
        let mut look = |what: &'static str| {
            said.push((
                what,
                ["", "a", "b", "a/x", "b/x", "b/y"].map(|name| seen(dir.join(name)).map(|s| s.nlink)),
            ));
        };
        look("empty");
        for name in ["a", "b", "a/x"] {
            fs::create_dir(dir.join(name)).unwrap();
            look("mkdir");
        }
        fs::write(dir.join("a/file"), "").unwrap();
        look("a file");
        fs::rename(dir.join("a/x"), dir.join("b/x")).unwrap();
        look("moved to another parent");
        fs::create_dir(dir.join("b/y")).unwrap();
        fs::rename(dir.join("b/x"), dir.join("b/y")).unwrap();
        look("over an empty one");
        rustix::fs::renameat_with(
            rustix::fs::CWD,
            dir.join("a/file"),
            rustix::fs::CWD,
            dir.join("b/y"),
            RenameFlags::EXCHANGE,
        )
        .unwrap();
        look("exchanged for a file");
        fs::remove_dir(dir.join("a/file")).unwrap();
        look("rmdir");
        said
    });
}

#[test]
fn a_directory_that_was_listed_shows_what_has_come_and_gone_since() {
    let Some(pair) = Pair::new("a_directory_that_was_listed_shows", "") else { return };
    pair.alike("listing again", |dir| {
        let names =
            || -> BTreeSet<_> { fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect() };
        let mut said = Vec::new();
        let mut look = || (0..2).for_each(|_| said.push(names()));
        fs::create_dir(dir.join("a")).unwrap();
        fs::create_dir(dir.join("b")).unwrap();
        look();
        fs::write(dir.join("file"), "x").unwrap();
        look();
        fs::hard_link(dir.join("file"), dir.join("linked")).unwrap();
        symlink("file", dir.join("symlink")).unwrap();
        look();
        fs::rename(dir.join("file"), dir.join("a/moved")).unwrap();
        look();
        fs::rename(dir.join("a/moved"), dir.join("back")).unwrap();
        look();
        fs::remove_file(dir.join("linked")).unwrap();
        fs::remove_dir(dir.join("b")).unwrap();
        look();
        // Through a handle that has listed it before, from the beginning again.
        let mut listing = Listing::open(dir);
        let before = count(listing.rest().into_iter().map(|(name, _)| name));
        fs::write(dir.join("late"), "").unwrap();
        listing.seek(0);
        (said, before, count(listing.rest().into_iter().map(|(name, _)| name)))
    });
}

#[test]
fn the_parent_of_a_moved_directory_is_its_new_one() {
    let Some(pair) = Pair::new("the_parent_of_a_moved_directory", "") else { return };
    let dir = pair.fresh()[1].clone();
    for name in ["a", "b", "a/moved"] {
        fs::create_dir(dir.join(name)).unwrap();
    }
    let ino = |path: &str| dir.join(path).metadata().unwrap().ino();
    let held = File::open(dir.join("a/moved")).unwrap();
    assert_eq!(ino("a/moved/.."), ino("a"));
    fs::rename(dir.join("a/moved"), dir.join("b/moved")).unwrap();
    assert_eq!(ino("b/moved/.."), ino("b"));
    let parent = rustix::fs::statat(&held, "..", rustix::fs::AtFlags::empty()).unwrap();
    assert_eq!(parent.st_ino, ino("b"));
    assert_eq!(dir.join("b/moved").canonicalize().unwrap(), dir.canonicalize().unwrap().join("b/moved"));
}

#[test]
fn what_is_not_the_volumes_is_not_listed() {
    let Some(pair) = Pair::new("what_is_not_the_volumes_is_not_listed", "") else { return };
    let dir = pair.fresh()[1].clone();
    fs::write(dir.join("ours"), "").unwrap();
    let backing = pair.backing(&dir);
    for foreign in ["foreign", "kmsfs.unknown", "Zm9yZWlnbg"] {
        fs::write(backing.join(foreign), "").unwrap();
    }
    let names: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["ours"]);
    assert_eq!(outcome(File::open(dir.join("foreign"))), Err(libc::ENOENT));
    let logs = fs::read_dir(pair.world.path("keys/log")).unwrap();
    let log: String = logs.map(|log| fs::read_to_string(log.unwrap().path()).unwrap()).collect();
    assert!(log.contains("foreign: not a name of this directory"), "{log}");
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
}
