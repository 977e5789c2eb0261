//! Crashes of the machine under a whole volume: random operations, and for every moment the states
//! that a crash could leave. Each opens; its names are those from before or after the operation
//! that was under way; what was flushed is there; every chunk of every file is old or new; and once
//! recovered, everything passes as undamaged and can be written again.
//!
//! `KMSFS_CRASH_CASES` sets the number of workloads; a failure prints the workload and the seed.
#![allow(clippy::unwrap_used)]

mod bench;
#[path = "../index/count.rs"]
mod count;
mod disk;
mod faults;
#[path = "../common/memory_dir.rs"]
mod memory_dir;
mod model;
#[path = "../common/unmounted.rs"]
mod unmounted;
mod workload;

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::ops::ControlFlow;
use std::sync::Arc;

use bench::Bench;
use disk::{Crash, Event, Recorder};
use kmsfs::fs::{Attr, FileKind, Fs, ROOT_INO};
use model::{Entry, Model, Names, What};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use workload::{Op, PAYLOAD, Run, me, ops};

const CASES: u32 = 100;
/// States looked at for each moment.
const STATES: usize = 3;

#[test]
fn every_crash_of_a_volume_leaves_old_or_new() {
    let cases = std::env::var("KMSFS_CRASH_CASES").ok().map_or(CASES, |cases| cases.parse().unwrap());
    let config = Config { cases, max_shrink_iters: 400, failure_persistence: None, ..Config::default() };
    let bench = Bench::new();
    let states = std::cell::Cell::new(0);
    let result = TestRunner::new(config).run(&(ops(), any::<u64>()), |(ops, seed)| {
        let run = try_crashes(&bench, &ops, seed)?;
        states.set(states.get() + run);
        Ok(())
    });
    let _ = writeln!(std::io::stderr(), "{} states", states.get());
    if let Err(failure) = result {
        panic!("{failure}");
    }
}

fn try_crashes(bench: &Bench, ops: &[Op], seed: u64) -> Result<usize, TestCaseError> {
    let recorder = bench.watched_by(Recorder::new);
    let mut run = Run::new(bench, Arc::clone(&recorder) as _);
    for op in ops {
        run.carry_out(op);
    }
    let log = recorder.log();
    let mut random = seed | 1;
    let mut choose = move |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % below as u64) as usize
    };
    for at in run.model.begin()..=log.len() {
        for _ in 0..STATES {
            let crash = Crash::at(&log, at, &mut choose);
            check(bench, &run.model, &log, at, &crash)
                .map_err(|why| TestCaseError::fail(format!("crash at {at} of {}: {why}", log.len())))?;
        }
    }
    Ok((log.len() + 1 - run.model.begin()) * STATES)
}

/// What can be seen of a volume.
struct Seen {
    names: Names,
    contents: HashMap<usize, Vec<u8>>,
}

fn check(bench: &Bench, model: &Model, log: &[Event], at: usize, crash: &Crash) -> Result<(), String> {
    let fs = bench.mount_crash(crash)?;
    fs.recover(&|| false);
    let mut refused = Vec::new();
    for (_, names) in model.possible_names(crash.names) {
        // A file whose header was never flushed begins anew, without the attributes that it sealed.
        let may_begin_anew = |file: usize| {
            let file = model.file(file);
            flushed(&log[..at], file.node) < file.versions[0].0
        };
        match see(&fs, names, &may_begin_anew) {
            Ok(seen) => {
                check_contents(model, log, at, &seen)?;
                check_index(bench, &fs)?;
                fs.shut_down().map_err(|e| format!("shutting down: {e}"))?;
                drop(fs);
                return check_again(bench, names, &seen);
            }
            Err(why) => refused.push(why),
        }
    }
    Err(refused.join("; or "))
}

/// A properly unmounted volume excuses nothing.
fn check_again(bench: &Bench, names: &Names, before: &Seen) -> Result<(), String> {
    let fs = bench.remount_crash()?;
    if !fs.census().certain {
        return Err("after recovery the index is not certain".to_owned());
    }
    check_index(bench, &fs)?;
    let seen = see(&fs, &before.names, &|_| false).map_err(|why| format!("after recovery: {why}"))?;
    if seen.contents != before.contents || seen.names != before.names {
        return Err("after recovery something reads otherwise".to_owned());
    }
    for (path, entry) in names {
        if let What::File(_) = entry.what {
            let ino = lookup(&fs, path)?.ino;
            let fh = fs.open(ino, true).map_err(|e| format!("{path}: {e}"))?;
            fs.write(fh, PAYLOAD + 1, b"again", false, None).map_err(|e| format!("{path}: {e}"))?;
            fs.release(fh);
        }
    }
    fs.shut_down().map_err(|e| format!("shutting down again: {e}"))
}

/// The index says what the headers say, and is certain when everything was recovered.
fn check_index(bench: &Bench, fs: &Fs) -> Result<(), String> {
    fs.settle_closed();
    let (census, counted) = (fs.census(), bench.count_crash());
    if census.certain && census.counts == counted {
        return Ok(());
    }
    Err(format!("the index: {census:?} instead of {counted:?}"))
}

fn lookup(fs: &Fs, path: &str) -> Result<Attr, String> {
    let mut ino = ROOT_INO;
    let mut attr = None;
    for part in path.split('/') {
        let found = fs.lookup(ino, OsStr::new(part)).map_err(|e| format!("{path:.40}: {e}"))?;
        ino = found.ino;
        attr = Some(found);
    }
    attr.ok_or_else(|| "no path".to_owned())
}

/// Looks at everything, which must have exactly these names.
fn see(fs: &Fs, expected: &Names, may_begin_anew: &dyn Fn(usize) -> bool) -> Result<Seen, String> {
    let mut listed = list(fs, ROOT_INO)?;
    for (path, entry) in expected {
        if entry.what == What::Directory {
            let below = list(fs, lookup(fs, path)?.ino)?;
            listed.extend(below.into_iter().map(|name| format!("{path}/{name}")));
        }
    }
    listed.sort();
    if !listed.iter().eq(expected.keys()) {
        return Err(format!("names {listed:.20?} instead of {:.20?}", expected.keys()));
    }
    let mut seen = Seen { names: Names::new(), contents: HashMap::new() };
    let mut inodes: HashMap<usize, u64> = HashMap::new();
    for (path, entry) in expected {
        let attr = lookup(fs, path)?;
        let what = match (attr.kind, &entry.what) {
            (FileKind::Directory, _) => What::Directory,
            (FileKind::Symlink, _) => {
                What::Symlink(fs.readlink(attr.ino).map_err(|e| format!("{path:.40}: {e}"))?)
            }
            (FileKind::Regular, What::File(file)) => {
                if *inodes.entry(*file).or_insert(attr.ino) != attr.ino {
                    return Err(format!("{path:.40} is another file than its other name"));
                }
                seen.contents.insert(*file, read(fs, path, attr)?);
                What::File(*file)
            }
            (kind, _) => return Err(format!("{path:.40} is a {kind:?}")),
        };
        let entry_seen = Entry { what, xattrs: xattrs(fs, path, attr.ino)? };
        let anew = match entry_seen.what {
            What::File(file) => may_begin_anew(file) && attr.size == 0 && entry_seen.xattrs.is_empty(),
            _ => false,
        };
        if entry_seen != *entry && !anew {
            return Err(format!("{path:.40} is {entry_seen:.200?} instead of {entry:.200?}"));
        }
        seen.names.insert(path.clone(), entry_seen);
    }
    Ok(seen)
}

fn list(fs: &Fs, ino: u64) -> Result<Vec<String>, String> {
    let fh = fs.opendir(ino).map_err(|e| format!("opening a directory: {e}"))?;
    let mut names: Vec<OsString> = Vec::new();
    let listed = fs.readdir(fh, 0, |entry| {
        if !entry.is_dot() {
            names.push(entry.name.clone());
        }
        ControlFlow::Continue(())
    });
    fs.releasedir(fh);
    listed.map_err(|e| format!("listing: {e}"))?;
    Ok(names.into_iter().map(|name| name.into_string().unwrap()).collect())
}

fn read(fs: &Fs, path: &str, attr: Attr) -> Result<Vec<u8>, String> {
    let explain = |e| format!("{path:.40}: {e}");
    let fh = fs.open(attr.ino, false).map_err(explain)?;
    let mut contents = vec![0; attr.size as usize + 1];
    let len = fs.read(fh, 0, &mut contents).map_err(explain)?;
    fs.release(fh);
    if len as u64 != attr.size {
        return Err(format!("{path:.40} has {len} bytes, not {}", attr.size));
    }
    contents.truncate(len);
    Ok(contents)
}

fn xattrs(fs: &Fs, path: &str, ino: u64) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, String> {
    let explain = |e| format!("{path:.40}: attributes: {e}");
    let names = fs.listxattr(me(), ino).map_err(explain)?;
    let own = |name: &&[u8]| name.starts_with(b"user.x");
    let names = names.split(|&b| b == 0).filter(own);
    names
        .map(|name| {
            let value = fs.getxattr(ino, std::os::unix::ffi::OsStrExt::from_bytes(name)).map_err(explain)?;
            Ok((name.to_vec(), value))
        })
        .collect()
}

/// Position in the log behind the last flush of an inode; 0 if there was none.
fn flushed(log: &[Event], inode: disk::Node) -> usize {
    let is_flush = |event: &Event| match event {
        Event::Sync(node) => *node == inode,
        Event::SyncAll => true,
        _ => false,
    };
    log.iter().rposition(is_flush).map_or(0, |index| index + 1)
}

fn check_contents(model: &Model, log: &[Event], at: usize, seen: &Seen) -> Result<(), String> {
    for (file, contents) in &seen.contents {
        let file = model.file(*file);
        let possible = file.possible(flushed(&log[..at], file.node), at);
        if possible.iter().all(|version| version.len() != contents.len()) {
            return Err(format!("a size of {} is neither old nor new", contents.len()));
        }
        for (index, chunk) in contents.chunks(PAYLOAD as usize).enumerate() {
            if !is_known(&possible, index, chunk) {
                return Err(format!("chunk {index} is neither old nor new"));
            }
        }
    }
    Ok(())
}

/// The part of a version that a chunk of `len` bytes may show: what it had there, and zeros behind
/// its end.
fn shown(version: &[u8], chunk: usize, len: usize) -> Vec<u8> {
    let start = (chunk * PAYLOAD as usize).min(version.len());
    let end = (start + len).min(version.len());
    let mut shown = version[start..end].to_vec();
    shown.resize(len, 0);
    shown
}

/// Whether a chunk is that of one version. Where a cut was lost but not a later write to the
/// chunk, what lies behind that version's end is another version's.
fn is_known(possible: &[&Vec<u8>], index: usize, chunk: &[u8]) -> bool {
    possible.iter().any(|version| {
        let own = version.len().saturating_sub(index * PAYLOAD as usize).min(chunk.len());
        chunk[..own] == shown(version, index, own)
            && possible.iter().any(|other| chunk[own..] == shown(other, index, chunk.len())[own..])
    })
}
