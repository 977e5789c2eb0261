//! Everything at once on one volume, for a bounded time: what `tests/concurrency` proves of each
//! part in every order, here in the orders that the machine happens to choose, with real locks.
//! `scripts/tsan` runs it under ThreadSanitizer.
#![allow(clippy::unwrap_used)]

#[path = "common/unmounted.rs"]
mod unmounted;

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kmsfs::fs::{Fs, NewMode, ROOT_INO, Requester, Watcher};
use kmsfs::kms::api::KeyRequest;
use kmsfs::kms::{Caller, Service};
use unmounted::Unmounted;

const FOR: Duration = Duration::from_secs(2);
const FILES: usize = 3;
/// Not a whole number of chunks, so that every append changes one.
const RECORD: usize = 1000;
/// What the files' records say, in order, over and over.
const RECORDS: [u8; 3] = [1, 2, 3];

/// A volume whose key may be disabled.
struct World {
    service: Arc<Service>,
    caller: Caller,
    key: KeyRequest,
    fs: Arc<Fs>,
    inodes: Vec<u64>,
    /// Records in each file.
    written: Vec<AtomicU64>,
    /// Odd while the key is disabled, for certain.
    cuts: AtomicU64,
    done: AtomicBool,
}

impl World {
    fn record(n: u64) -> [u8; RECORD] {
        [RECORDS[n as usize % RECORDS.len()]; RECORD]
    }

    /// Appends a record with a handle of its own, unless the key is cut. One thread for each file.
    fn append(&self, file: usize) {
        let Ok(fh) = self.fs.open(self.inodes[file], true).map_err(refused_for_the_key) else { return };
        let n = self.written[file].load(Ordering::SeqCst);
        let written = self.fs.write(fh, n * RECORD as u64, &Self::record(n), false, None);
        if written.map_err(refused_for_the_key).is_ok() {
            self.written[file].fetch_add(1, Ordering::SeqCst);
        }
        self.fs.release(fh);
    }

    /// Reads any record that is there, with a handle of its own.
    fn read(&self, file: usize, seed: u64) {
        let n = self.written[file].load(Ordering::SeqCst);
        let cuts = self.cuts.load(Ordering::SeqCst);
        let mut out = [0; RECORD];
        let opened = self.fs.open(self.inodes[file], false).map_err(refused_for_the_key);
        let read = opened.and_then(|fh| {
            let read = self.fs.read(fh, seed % n.max(1) * RECORD as u64, &mut out);
            self.fs.release(fh);
            read.map_err(refused_for_the_key)
        });
        if read.is_ok() {
            let disabled = cuts % 2 == 1 && cuts == self.cuts.load(Ordering::SeqCst);
            assert!(!disabled, "read while the key was disabled");
            assert!(n == 0 || out == Self::record(seed % n), "a record is not what was written");
        }
    }

    fn disable_and_enable(&self) {
        self.service.disable_key(&self.caller, &self.key).unwrap();
        self.cuts.fetch_add(1, Ordering::SeqCst);
        thread::sleep(Duration::from_millis(2));
        self.cuts.fetch_add(1, Ordering::SeqCst);
        self.service.enable_key(&self.caller, &self.key).unwrap();
        thread::sleep(Duration::from_millis(5));
    }

    fn until_done(&self, mut work: impl FnMut(u64)) {
        for round in 0.. {
            if self.done.load(Ordering::SeqCst) {
                return;
            }
            work(round);
        }
    }
}

fn refused_for_the_key(error: kmsfs::fs::FsError) {
    assert!(matches!(error.errno(), libc::EKEYREVOKED | libc::ENOKEY), "{error}");
}

#[test]
fn files_survive_many_threads_and_a_key_that_comes_and_goes() {
    let volume = Unmounted::new();
    let (service, caller) = (Arc::clone(&volume.service), Caller::current());
    let fs = volume.mount();
    let by = Requester { uid: 0, gid: 0, pid: std::process::id() };
    let names: Vec<String> = (0..FILES).map(|n| format!("file {n}")).collect();
    let create = |name: &String| {
        let mode = NewMode { mode: 0o600, umask: 0 };
        let (attr, fh) = fs.create(by, ROOT_INO, OsStr::new(name), mode).unwrap();
        fs.release(fh);
        attr.ino
    };
    let inodes = names.iter().map(create).collect();
    let guard = service.watch(Arc::new(Watcher(Arc::clone(&fs))));
    let written = (0..FILES).map(|_| AtomicU64::new(0)).collect();
    let (cuts, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let key = KeyRequest { key_id: volume.key.clone() };
    let world = World { service, caller, key, fs, inodes, written, cuts, done };

    thread::scope(|scope| {
        let world = &world;
        for file in 0..FILES {
            scope.spawn(move || world.until_done(|_| world.append(file)));
            scope.spawn(move || world.until_done(|round| world.read(file, round * 7)));
        }
        scope.spawn(|| world.until_done(|_| world.fs.settle_closed()));
        scope.spawn(|| world.fs.run_settler());
        scope.spawn(|| world.until_done(|_| world.disable_and_enable()));
        let begun = Instant::now();
        while begun.elapsed() < FOR {
            thread::sleep(FOR / 20);
        }
        world.done.store(true, Ordering::SeqCst);
        world.fs.stop_settler();
    });

    // A file that the settler could not settle while the key was disabled waits for its next use.
    (0..FILES).for_each(|file| world.append(file));
    world.fs.shut_down().unwrap();
    drop(guard);
    let World { fs, written, .. } = world;
    drop(fs);
    let fs = volume.mount();
    assert!(fs.volume().began_settled(), "every file was settled");
    for (name, written) in names.iter().zip(written) {
        let written = written.into_inner();
        assert!(written > 0, "{name} was never written");
        let attr = fs.lookup(ROOT_INO, OsStr::new(name)).unwrap();
        assert_eq!(attr.size, written * RECORD as u64);
        let fh = fs.open(attr.ino, false).unwrap();
        for n in 0..written {
            let mut out = [0; RECORD];
            fs.read(fh, n * RECORD as u64, &mut out).unwrap();
            assert_eq!(out, World::record(n), "record {n} of {name}");
        }
    }
}
