//! The index says what a fresh count of all headers says: after any operations, at every unmount, and
//! with a recount under way meanwhile. One that is damaged, cut, older or another volume's is never
//! taken for certain.
#![allow(clippy::unwrap_used)]

mod bench;
mod count;
#[path = "../common/unmounted.rs"]
mod unmounted;

use std::ffi::OsStr;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use bench::{Bench, me, mode};
use count::count;
use kmsfs::fs::{Fs, KEY_XATTR, REENCRYPT_XATTR, ROOT_INO, RenameMode, Requester, SetAttr, WRAP_XATTR};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

#[derive(Debug, Clone)]
enum Op {
    Create(usize),
    Write { at: usize, offset: u64, len: usize },
    Truncate { at: usize, size: u64 },
    Hold(usize),
    LetGo,
    Unlink(usize),
    Rename { from: usize, to: usize, how: RenameMode },
    Link(usize, usize),
    Rewrap { at: usize, other: bool },
    Reencrypt { at: usize, other: bool, steps: u8 },
    Rotate,
    Settle,
    Recount,
    Remount,
}

/// Three names in the root, and the same three in `dir`.
fn place(at: usize) -> (&'static str, String) {
    (if at < 3 { "" } else { "dir" }, ["a".to_owned(), "b".to_owned(), "n".repeat(200)][at % 3].clone())
}

fn op() -> impl Strategy<Value = Op> {
    let at = || 0..6usize;
    let how = prop_oneof![Just(RenameMode::Replace), Just(RenameMode::NoReplace), Just(RenameMode::Exchange)];
    prop_oneof![
        5 => at().prop_map(Op::Create),
        5 => (at(), 0..20_000u64, 1..9000usize).prop_map(|(at, offset, len)| Op::Write { at, offset, len }),
        2 => (at(), 0..20_000u64).prop_map(|(at, size)| Op::Truncate { at, size }),
        2 => at().prop_map(Op::Hold),
        1 => Just(Op::LetGo),
        3 => at().prop_map(Op::Unlink),
        4 => (at(), at(), how).prop_map(|(from, to, how)| Op::Rename { from, to, how }),
        2 => (at(), at()).prop_map(|(from, to)| Op::Link(from, to)),
        4 => (at(), any::<bool>()).prop_map(|(at, other)| Op::Rewrap { at, other }),
        3 => (at(), any::<bool>(), 0u8..4)
            .prop_map(|(at, other, steps)| Op::Reencrypt { at, other, steps }),
        1 => Just(Op::Rotate),
        2 => Just(Op::Settle),
        1 => Just(Op::Recount),
        2 => Just(Op::Remount),
    ]
}

fn look_up(fs: &Fs, at: usize) -> Option<u64> {
    let (dir, name) = place(at);
    Some(fs.lookup(parent(fs, at, dir)?, OsStr::new(&name)).ok()?.ino)
}

fn parent(fs: &Fs, _: usize, dir: &str) -> Option<u64> {
    if dir.is_empty() { Some(ROOT_INO) } else { Some(fs.lookup(ROOT_INO, OsStr::new(dir)).ok()?.ino) }
}

/// Carries an operation out, where it makes sense.
fn apply(bench: &Bench, fs: &Fs, op: &Op, held: &mut Vec<u64>) -> Option<()> {
    match *op {
        Op::Create(at) => {
            let (dir, name) = place(at);
            let (_, fh) = fs.create(me(), parent(fs, at, dir)?, OsStr::new(&name), mode(0o600)).ok()?;
            fs.release(fh);
        }
        Op::Write { at, offset, len } => {
            let fh = fs.open(look_up(fs, at)?, true).ok()?;
            fs.write(fh, offset, &vec![7; len], false, None).unwrap();
            fs.release(fh);
        }
        Op::Truncate { at, size } => {
            let set = SetAttr { size: Some(size), ..SetAttr::default() };
            fs.setattr(me(), look_up(fs, at)?, None, &set).unwrap();
        }
        Op::Hold(at) => held.push(fs.open(look_up(fs, at)?, true).ok()?),
        Op::LetGo => fs.release(held.pop()?),
        Op::Unlink(at) => {
            let (dir, name) = place(at);
            let _ = fs.unlink(parent(fs, at, dir)?, OsStr::new(&name));
        }
        Op::Rename { from, to, how } => {
            let ((dir, name), (new_dir, new_name)) = (place(from), place(to));
            let (dir, new_dir) = (parent(fs, from, dir)?, parent(fs, to, new_dir)?);
            let _ = fs.rename(dir, OsStr::new(&name), new_dir, OsStr::new(&new_name), how);
        }
        Op::Link(from, to) => {
            let (dir, name) = place(to);
            let _ = fs.link(look_up(fs, from)?, parent(fs, to, dir)?, OsStr::new(&name));
        }
        Op::Rewrap { at, other } => {
            let key = bench.keys[usize::from(other)].as_bytes();
            fs.setxattr(me(), look_up(fs, at)?, OsStr::new(WRAP_XATTR), key, 0).unwrap();
        }
        Op::Reencrypt { at, other, steps } => {
            let (ino, name) = (look_up(fs, at)?, OsStr::new(REENCRYPT_XATTR));
            fs.setxattr(me(), ino, name, bench.keys[usize::from(other)].as_bytes(), 0).unwrap();
            // It may be done earlier.
            (0..steps).for_each(|_| drop(fs.setxattr(me(), ino, name, b"", 0)));
        }
        Op::Rotate => bench.rotate(0),
        Op::Settle => fs.settle_closed(),
        Op::Recount => assert!(fs.recount(&|| false).unwrap()),
        Op::Remount => {}
    }
    Some(())
}

#[test]
fn after_any_operations_the_index_says_what_the_headers_say() {
    let cases = std::env::var("KMSFS_INDEX_CASES").ok().map_or(60, |cases| cases.parse().unwrap());
    let config = Config { cases, max_shrink_iters: 100, failure_persistence: None, ..Config::default() };
    let result = TestRunner::new(config).run(&proptest::collection::vec(op(), 1..50), |ops| {
        let bench = Bench::new();
        let mut fs = bench.mount();
        fs.mkdir(me(), ROOT_INO, OsStr::new("dir"), mode(0o700)).unwrap();
        let mut held = Vec::new();
        for op in &ops {
            apply(&bench, &fs, op, &mut held);
            prop_assert!(fs.census().certain);
            if matches!(op, Op::Remount) {
                held.clear();
                fs.shut_down().unwrap();
                prop_assert_eq!(&fs.census().counts, &count(&bench.volume()), "when it was unmounted");
                drop(fs);
                fs = bench.mount();
                prop_assert!(fs.census().certain, "it was unmounted properly");
                prop_assert_eq!(&fs.census().counts, &count(&bench.volume()), "when it was mounted");
            }
            if held.is_empty() {
                let files =
                    |counts: &kmsfs::fs::Counts| counts.values().map(|count| count.files).sum::<u64>();
                prop_assert_eq!(files(&fs.census().counts), files(&count(&bench.volume())), "{:?}", op);
            }
        }
        held.into_iter().for_each(|fh| fs.release(fh));
        fs.settle_closed();
        prop_assert_eq!(&fs.census().counts, &count(&bench.volume()), "while it is mounted");
        Ok(())
    });
    result.unwrap();
}

#[test]
fn a_recount_misses_nothing_that_changes_meanwhile() {
    let bench = Bench::new();
    let fs = bench.mount();
    let dirs: Vec<u64> = (0..6)
        .map(|i| fs.mkdir(me(), ROOT_INO, OsStr::new(&format!("d{i}")), mode(0o700)).unwrap().ino)
        .collect();
    for i in 0..600 {
        let name = format!("f{i}");
        let (_, fh) = fs.create(me(), dirs[i % 6], OsStr::new(&name), mode(0o600)).unwrap();
        fs.write(fh, 0, &vec![1; i * 10], false, None).unwrap();
        fs.release(fh);
        if i % 100 == 0 {
            fs.settle_closed();
        }
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| fs.run_settler());
        for worker in 0..3usize {
            let (fs, dirs, stop, bench) = (&fs, &dirs, &stop, &bench);
            s.spawn(move || {
                // Each has files of its own, as the kernel keeps changes of one entry apart.
                for round in 0usize.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let i = (round * 7) % 200 * 3 + worker;
                    let name = format!("f{i}");
                    let Some(at) = dirs.iter().find(|dir| fs.lookup(**dir, OsStr::new(&name)).is_ok()) else {
                        continue;
                    };
                    let to = dirs[(round + worker) % 6];
                    match round % 4 {
                        0 => fs
                            .rename(*at, OsStr::new(&name), to, OsStr::new(&name), RenameMode::Replace)
                            .unwrap(),
                        1 => {
                            fs.unlink(*at, OsStr::new(&name)).unwrap();
                            let (_, fh) = fs.create(me(), to, OsStr::new(&name), mode(0o600)).unwrap();
                            fs.release(fh);
                        }
                        2 => {
                            let ino = fs.lookup(*at, OsStr::new(&name)).unwrap().ino;
                            let key = bench.keys[round / 4 % 2].as_bytes();
                            let how = OsStr::new([WRAP_XATTR, REENCRYPT_XATTR][round / 8 % 2]);
                            fs.setxattr(me(), ino, how, key, 0).unwrap();
                        }
                        _ => {
                            let ino = fs.lookup(*at, OsStr::new(&name)).unwrap().ino;
                            let second = format!("l{worker}");
                            let _ = fs.unlink(to, OsStr::new(&second));
                            fs.link(ino, to, OsStr::new(&second)).unwrap();
                            fs.unlink(*at, OsStr::new(&name)).unwrap();
                            fs.rename(to, OsStr::new(&second), to, OsStr::new(&name), RenameMode::Replace)
                                .unwrap();
                        }
                    }
                }
            });
        }
        for _ in 0..40 {
            assert!(fs.recount(&|| false).unwrap());
        }
        stop.store(true, Ordering::Relaxed);
        fs.stop_settler();
    });
    fs.settle_closed();
    let census = fs.census();
    assert!(census.certain);
    assert_eq!(census.counts, count(&bench.volume()));
    assert_eq!(census.counts.values().map(|count| count.files).sum::<u64>(), 600);
}

/// A volume with one file, and its index.
fn with_a_file() -> (Bench, std::path::PathBuf) {
    let bench = Bench::new();
    add(&bench, "a");
    let index = bench.volume().join("kmsfs.index");
    (bench, index)
}

fn add(bench: &Bench, name: &str) {
    let fs = bench.mount();
    let (_, fh) = fs.create(me(), ROOT_INO, OsStr::new(name), mode(0o600)).unwrap();
    fs.release(fh);
    fs.shut_down().unwrap();
}

fn is_certain(bench: &Bench) -> bool {
    let fs = bench.mount_read_only();
    let census = fs.census();
    assert!(!census.certain || census.counts == count(&bench.volume()), "a wrong count is called certain");
    census.certain
}

#[test]
fn no_damaged_or_cut_index_is_taken_for_certain() {
    let (bench, index) = with_a_file();
    assert!(is_certain(&bench));
    let whole = fs::read(&index).unwrap();
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x40;
        fs::write(&index, &damaged).unwrap();
        assert!(!is_certain(&bench), "byte {at}");
    }
    for len in [0, 1, 31, 32, whole.len() - 1] {
        fs::write(&index, &whole[..len]).unwrap();
        assert!(!is_certain(&bench), "cut to {len}");
    }
    fs::remove_file(&index).unwrap();
    assert!(!is_certain(&bench), "gone");
    fs::create_dir(&index).unwrap();
    assert!(!is_certain(&bench), "a directory");
    fs::remove_dir(&index).unwrap();
    // Whoever counts again knows again.
    let mounted = bench.mount();
    assert!(!mounted.census().certain);
    assert!(mounted.recount(&|| false).unwrap());
    mounted.shut_down().unwrap();
    drop(mounted);
    assert!(is_certain(&bench));
}

#[test]
fn no_older_index_and_none_of_another_volume_is_taken_for_certain() {
    let (bench, index) = with_a_file();
    let old = fs::read(&index).unwrap();
    add(&bench, "b");
    let new = fs::read(&index).unwrap();
    fs::write(&index, &old).unwrap();
    assert!(!is_certain(&bench), "of a mount before");
    let (_other, foreign) = with_a_file();
    fs::copy(&foreign, &index).unwrap();
    assert!(!is_certain(&bench), "of another volume");
    fs::write(&index, &new).unwrap();
    assert!(is_certain(&bench));
}

#[test]
fn after_a_mount_that_did_not_end_nothing_is_certain_until_it_is_recovered() {
    let (bench, _) = with_a_file();
    let crashed = bench.mount();
    let (_, fh) = crashed.create(me(), ROOT_INO, OsStr::new("b"), mode(0o600)).unwrap();
    crashed.write(fh, 0, b"text", false, None).unwrap();
    drop(crashed);
    assert!(!is_certain(&bench));
    let fs = bench.mount();
    assert!(!fs.census().certain);
    fs.recover(&|| false);
    assert!(fs.census().certain);
    fs.settle_closed();
    assert_eq!(fs.census().counts, count(&bench.volume()));
}

#[test]
fn a_volume_of_an_older_release_is_counted_when_somebody_asks() {
    let (bench, index) = with_a_file();
    fs::remove_file(&index).unwrap();
    let fs = bench.mount();
    assert!(!fs.census().certain);
    fs.shut_down().unwrap();
    drop(fs);
    assert!(!is_certain(&bench), "what was not counted is not written as if it were");
    assert!(!index.exists());
}

#[test]
fn a_file_whose_header_cannot_be_read_makes_the_count_uncertain() {
    let (bench, _) = with_a_file();
    let file = fs::read_dir(bench.volume()).unwrap().map(|entry| entry.unwrap().path());
    let file = file.into_iter().find(|path| !path.to_str().unwrap().contains("kmsfs.")).unwrap();
    let mut bytes = fs::read(&file).unwrap();
    bytes[..4096].fill(0xa5);
    fs::write(&file, bytes).unwrap();
    let mounted = bench.mount();
    assert!(mounted.recount(&|| false).unwrap());
    assert!(!mounted.census().certain);
    // Without that file all is known.
    mounted.lookup(ROOT_INO, OsStr::new("a")).unwrap();
    mounted.unlink(ROOT_INO, OsStr::new("a")).unwrap();
    assert!(mounted.census().certain && mounted.census().counts.is_empty());
}

#[test]
fn a_new_volume_is_certain_to_be_empty() {
    let bench = Bench::new();
    assert!(is_certain(&bench));
}

#[test]
fn a_removed_file_that_is_wrapped_anew_takes_no_other_out_of_the_count() {
    let bench = Bench::new();
    add(&bench, "kept");
    add(&bench, "removed");
    bench.rotate(0);
    let fs = bench.mount();
    fs.lookup(ROOT_INO, OsStr::new("kept")).unwrap();
    // Somebody has it open by its path alone.
    let removed = fs.lookup(ROOT_INO, OsStr::new("removed")).unwrap().ino;
    fs.unlink(ROOT_INO, OsStr::new("removed")).unwrap();
    let before = fs.census().counts;
    fs.setxattr(me(), removed, OsStr::new(WRAP_XATTR), b"", 0).unwrap();
    assert_eq!(fs.census().counts, before);
    assert_eq!(fs.census().counts, count(&bench.volume()));
}

#[test]
fn what_lies_behind_a_damaged_name_makes_the_count_uncertain() {
    let bench = Bench::new();
    let name = "long".repeat(60);
    let mounted = bench.mount();
    let dir = mounted.mkdir(me(), ROOT_INO, OsStr::new(&name), mode(0o700)).unwrap().ino;
    let (_, fh) = mounted.create(me(), dir, OsStr::new("inside"), mode(0o600)).unwrap();
    mounted.release(fh);
    mounted.shut_down().unwrap();
    drop(mounted);
    let names = fs::read_dir(bench.volume()).unwrap().map(|entry| entry.unwrap().path());
    let sidecar = names.into_iter().find(|path| path.to_str().unwrap().ends_with(".name")).unwrap();
    fs::write(sidecar, "damage").unwrap();
    let mounted = bench.mount();
    mounted.recount(&|| false).unwrap();
    assert!(!mounted.census().certain);
}

#[test]
fn only_its_owner_says_which_key_a_directory_has() {
    let bench = Bench::new();
    let fs = bench.mount();
    let dir = fs.mkdir(me(), ROOT_INO, OsStr::new("shared"), mode(0o777)).unwrap().ino;
    let somebody = Requester { uid: me().uid + 1, ..me() };
    let (name, key) = (OsStr::new(KEY_XATTR), bench.keys[1].as_bytes());
    for by in [somebody, me()] {
        let expected = if by.uid == me().uid { None } else { Some(libc::EPERM) };
        for done in [fs.setxattr(by, dir, name, key, 0), fs.removexattr(by, dir, name)] {
            assert_eq!(done.err().map(|error| error.errno()), expected);
        }
    }
}
