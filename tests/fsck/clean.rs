//! A volume that is in order has no findings, whatever was done to it through mounts.

use std::ffi::OsStr;

use kmsfs::check::Options;
use kmsfs::fs::{Allocate, ROOT_INO, RenameMode, SetAttr};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::bench::{Bench, FILES, PAYLOAD, fingerprint, long_name, lookup, me, mode, sample};

#[test]
fn a_volume_with_something_of_everything_has_no_findings() {
    let bench = sample();
    let before = fingerprint(&bench.volume());
    let found = bench.check(Options::default());
    assert!(found.findings.is_empty(), "{:#?}", found.findings);
    // The root, `dir`, `dir/sub`, `void` and `plain`; the long name and `plain/file` too.
    assert_eq!((found.counts.directories, found.counts.files), (5, FILES.len() as u64 + 2));
    assert_eq!((found.counts.links, found.counts.others), (3, 1));
    assert_eq!(found.exit_code(), 0);
    let headers = bench.check(Options { headers_only: true, ..Options::default() });
    assert!(headers.findings.is_empty() && headers.counts.bytes == 0, "{headers:#?}");
    let keyless = bench.check_without_keys();
    assert!(keyless.findings.is_empty(), "{:#?}", keyless.findings);
    assert!(keyless.keyless && keyless.counts.files == found.counts.files);
    // Where there is nothing to repair, a repair is no more than a look.
    assert_eq!(bench.repair().exit_code(), 0);
    assert_eq!(fingerprint(&bench.volume()), before);
}

#[derive(Debug, Clone)]
enum Op {
    Create(usize),
    Write { at: usize, offset: u64, len: usize },
    Truncate { at: usize, size: u64 },
    Punch { at: usize, offset: u64, len: u64 },
    Unlink(usize),
    Rename { from: usize, to: usize, how: RenameMode },
    Link(usize, usize),
    Symlink { at: usize, len: usize },
    Mkdir(usize),
    Rmdir(usize),
    Xattr(usize),
    Remount,
}

/// Places: three names in the root, one of them long, and the same three in the directory `dir`.
fn place(at: usize) -> (&'static str, String) {
    let name = ["a".to_owned(), "b".to_owned(), long_name()][at % 3].clone();
    (if at < 3 { "" } else { "dir" }, name)
}

fn op() -> impl Strategy<Value = Op> {
    let at = || 0..6usize;
    let offset = || prop_oneof![0..40_000u64, 500_000..600_000u64, Just(32_640 * PAYLOAD)];
    prop_oneof![
        4 => at().prop_map(Op::Create),
        6 => (at(), offset(), 1..9000usize).prop_map(|(at, offset, len)| Op::Write { at, offset, len }),
        3 => (at(), offset()).prop_map(|(at, size)| Op::Truncate { at, size }),
        3 => (at(), offset(), 1..100_000u64).prop_map(|(at, offset, len)| Op::Punch { at, offset, len }),
        2 => at().prop_map(Op::Unlink),
        4 => (at(), at(), rename_mode()).prop_map(|(from, to, how)| Op::Rename { from, to, how }),
        2 => (at(), at()).prop_map(|(from, to)| Op::Link(from, to)),
        2 => (at(), 1..4096usize).prop_map(|(at, len)| Op::Symlink { at, len }),
        1 => at().prop_map(Op::Mkdir),
        1 => at().prop_map(Op::Rmdir),
        2 => at().prop_map(Op::Xattr),
        2 => Just(Op::Remount),
    ]
}

fn rename_mode() -> impl Strategy<Value = RenameMode> {
    prop_oneof![
        2 => Just(RenameMode::Replace),
        1 => Just(RenameMode::NoReplace),
        2 => Just(RenameMode::Exchange),
    ]
}

/// Carries an operation out, after looking up what it is about, as the kernel does. What cannot be
/// done, as on a file that is not there, is not.
fn apply(fs: &kmsfs::fs::Fs, op: &Op) {
    let parent = |at: usize| lookup(fs, place(at).0);
    let file = |at: usize| {
        let (dir, name) = place(at);
        lookup(fs, &format!("{dir}/{name}"))
    };
    let name = |at: usize| std::ffi::OsString::from(place(at).1);
    let with_file = |at: usize, f: &dyn Fn(u64)| {
        if let Some(Ok(fh)) = file(at).map(|ino| fs.open(ino, true)) {
            f(fh);
            fs.release(fh);
        }
    };
    match *op {
        Op::Create(at) => {
            if let Some(Ok((_, fh))) = parent(at).map(|dir| fs.create(me(), dir, &name(at), mode(0o600))) {
                fs.release(fh);
            }
        }
        Op::Write { at, offset, len } => with_file(at, &|fh| {
            fs.write(fh, offset, &vec![7; len], false, None).unwrap();
        }),
        Op::Truncate { at, size } => {
            let set = SetAttr { size: Some(size), ..SetAttr::default() };
            let _ = file(at).map(|ino| fs.setattr(me(), ino, None, &set));
        }
        Op::Punch { at, offset, len } => with_file(at, &|fh| {
            fs.fallocate(me(), fh, offset, len, Allocate::PunchHole).unwrap();
        }),
        Op::Unlink(at) => {
            let _looked_up = file(at);
            let _ = parent(at).map(|dir| fs.unlink(dir, &name(at)));
        }
        Op::Rename { from, to, how } => {
            let _looked_up = (file(from), file(to));
            if let (Some(dir), Some(new)) = (parent(from), parent(to)) {
                let _ = fs.rename(dir, &name(from), new, &name(to), how);
            }
        }
        Op::Link(from, to) => {
            if let (Some(ino), Some(dir)) = (file(from), parent(to)) {
                let _ = fs.link(ino, dir, &name(to));
            }
        }
        Op::Symlink { at, len } => {
            let target = "t".repeat(len);
            let _ = parent(at).map(|dir| fs.symlink(me(), dir, &name(at), OsStr::new(&target)));
        }
        Op::Mkdir(at) => _ = parent(at).map(|dir| fs.mkdir(me(), dir, &name(at), mode(0o700))),
        Op::Rmdir(at) => _ = parent(at).map(|dir| fs.rmdir(dir, &name(at))),
        Op::Xattr(at) => _ = file(at).map(|ino| fs.setxattr(me(), ino, OsStr::new("user.x"), b"value", 0)),
        Op::Remount => {}
    }
}

#[test]
fn no_sequence_of_operations_leaves_a_finding() {
    let config = Config { cases: 48, max_shrink_iters: 40, failure_persistence: None, ..Config::default() };
    let strategy = proptest::collection::vec(op(), 1..60);
    let result = TestRunner::new(config).run(&strategy, |ops| {
        let bench = Bench::new();
        let mut fs = bench.mount();
        fs.mkdir(me(), ROOT_INO, OsStr::new("dir"), mode(0o700)).unwrap();
        for op in &ops {
            if matches!(op, Op::Remount) {
                fs.shut_down().unwrap();
                drop(fs);
                fs = bench.mount();
            }
            apply(&fs, op);
        }
        fs.shut_down().unwrap();
        drop(fs);
        let found = bench.check(Options::default());
        prop_assert!(found.findings.is_empty() && found.exit_code() == 0, "{:#?}", found.findings);
        let keyless = bench.check_without_keys();
        prop_assert!(keyless.findings.is_empty(), "{:#?}", keyless.findings);
        Ok(())
    });
    result.unwrap();
}
