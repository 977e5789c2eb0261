//! What operations on names and attributes cost without the kernel's bridge: the processor time that
//! `fs` takes for each over a tmpfs, system calls included, with a key service in the same process.
//!
//! `cargo bench --bench metadata`; KMSFS_BENCH_FILES says how many files each row is measured with.
//! Other load on the machine makes caches colder, not the figures wrong: only this thread's time counts.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot start should stop")]
#![allow(clippy::print_stdout, reason = "its result is text")]

#[path = "../tests/common/unmounted.rs"]
mod unmounted;

use std::ffi::OsString;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kmsfs::fs::{Fs, NewMode, ROOT_INO, Requester, Volume};
use kmsfs::kms::Caller;
use kmsfs::provider::{Embedded, Provider};
use rustix::time::{ClockId, clock_gettime};
use unmounted::{key_store, new_key};

const ROUNDS: usize = 7;
const DESCRIPTORS: u64 = 100_000;
const NEW: NewMode = NewMode { mode: 0o100_644, umask: 0o022 };

struct World {
    dir: tempfile::TempDir,
    provider: Arc<dyn Provider>,
    names: Vec<OsString>,
    by: Requester,
}

fn main() {
    // `cargo test --benches` only wants to know whether it runs.
    let is_test = std::env::args().any(|argument| argument == "--test");
    let files = std::env::var("KMSFS_BENCH_FILES").ok().and_then(|text| text.parse().ok());
    let world = World::new(if is_test { 8 } else { files.unwrap_or(1000) });
    let mut rows: Vec<(&str, Vec<f64>)> = Vec::new();
    for _ in 0..ROUNDS {
        for (at, (row, cost)) in world.round().into_iter().enumerate() {
            if rows.len() == at {
                rows.push((row, Vec::new()));
            }
            rows[at].1.push(cost);
        }
    }
    println!("microseconds of processor time an operation; median of {ROUNDS} rounds (least, most)");
    for (row, mut costs) in rows {
        costs.sort_by(f64::total_cmp);
        println!("{row:<22}{:>8.2}  ({:.2}, {:.2})", costs[ROUNDS / 2], costs[0], costs[ROUNDS - 1]);
    }
}

impl World {
    fn new(files: usize) -> Self {
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        let service = key_store(&dir.path().join("keys"));
        let key = new_key(&service);
        let provider: Arc<dyn Provider> = Arc::new(Embedded::new(service, Caller::current()));
        std::fs::create_dir(dir.path().join("volume")).unwrap();
        Volume::create(&dir.path().join("volume"), &*provider, &key).unwrap();
        let names = (0..files).map(|number| format!("a file with number {number}").into()).collect();
        Self { dir, provider, names, by: Requester::own() }
    }

    fn mount(&self) -> Fs {
        let volume = Volume::open(&self.dir.path().join("volume"), &*self.provider, false).unwrap();
        Fs::new(volume, Arc::clone(&self.provider), Path::new("/nowhere"), DESCRIPTORS).unwrap()
    }

    /// Every row once, in an order in which the next one finds what it needs.
    fn round(&self) -> Vec<(&'static str, f64)> {
        let fs = self.mount();
        let dir = fs.mkdir(self.by, ROOT_INO, "d".as_ref(), NewMode { mode: 0o755, umask: 0 }).unwrap().ino;
        let data = [7; 4096];
        let mut handles = Vec::new();
        let mut rows = Vec::new();
        let mut row = |name, f: &mut dyn FnMut(&OsString)| rows.push((name, self.cost(f)));
        row("look-up, not there", &mut |name| drop(fs.lookup(dir, name)));
        row("create", &mut |name| handles.push(fs.create(self.by, dir, name, NEW).unwrap()));
        let mut open = handles.iter();
        row("capability asked for", &mut |_| {
            let (attr, _) = open.next().unwrap();
            drop(fs.getxattr_for(self.by, attr.ino, "security.capability".as_ref()));
        });
        let mut open = handles.iter();
        row("first 4 KiB written", &mut |_| {
            fs.write(open.next().unwrap().1, 0, &data, false, None).unwrap();
        });
        let mut open = handles.iter();
        row("release", &mut |_| fs.release(open.next().unwrap().1));
        row("settle", &mut |name| {
            // It takes several hundred at a time.
            if Some(name) == self.names.first() {
                (0..=self.names.len() / 500).for_each(|_| fs.settle_closed());
            }
        });
        fs.shut_down().unwrap();
        drop(fs);

        let fs = self.mount();
        let dir = fs.lookup(ROOT_INO, "d".as_ref()).unwrap().ino;
        let mut found = Vec::new();
        let mut row = |name, f: &mut dyn FnMut(&OsString)| rows.push((name, self.cost(f)));
        row("look-up", &mut |name| found.push(fs.lookup(dir, name).unwrap().ino));
        let mut inodes = found.iter();
        row("getattr", &mut |_| assert!(fs.getattr(*inodes.next().unwrap()).is_ok()));
        let mut buffer = vec![0; 8192];
        for what in ["first open, read, close", "open, read, close"] {
            let mut inodes = found.iter();
            row(what, &mut |_| {
                let fh = fs.open_for(self.by, *inodes.next().unwrap(), false).unwrap();
                assert_eq!(fs.read(fh, 0, &mut buffer).unwrap(), data.len());
                fs.release(fh);
            });
        }
        let mut inodes = found.iter();
        row("forget", &mut |_| fs.forget(*inodes.next().unwrap(), 1));
        let fh = fs.opendir(dir).unwrap();
        let mut entries = Vec::new();
        let mut listed = || {
            fs.readdir(fh, 0, |entry| {
                entries.push(fs.entry_attr(fh, entry).unwrap());
                ControlFlow::Continue(())
            })
            .unwrap();
        };
        row("list with attributes", &mut |name| {
            if Some(name) == self.names.first() {
                listed();
            }
        });
        fs.releasedir(fh);
        row("unlink", &mut |name| fs.unlink(dir, name).unwrap());
        fs.rmdir(ROOT_INO, "d".as_ref()).unwrap();
        fs.shut_down().unwrap();
        rows
    }

    /// Microseconds of this thread that `f` takes for each name, on the average.
    fn cost(&self, f: &mut dyn FnMut(&OsString)) -> f64 {
        let now = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap();
        let begun = now();
        self.names.iter().for_each(f);
        (now() - begun).as_secs_f64() * 1e6 / self.names.len() as f64
    }
}
