//! A disk that fails: at one call after the other of a workload, with every error that disks have.
//! The operation under way says so and leaves the names as they were; what was acknowledged is
//! there; and once the disk works again, so does everything.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use kmsfs::fs::disk::{Call, Probe};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rustix::io::Errno;

use crate::bench::Bench;
use crate::disk::Node;
use crate::see;
use crate::workload::{Op, REFUSALS, Run, Watch, ops};

const CASES: u32 = 60;
const PAGE: usize = 4096;
/// Calls of each workload that are made to fail, one at a time.
const FAULTS: usize = 12;

/// A disk of which one call fails.
struct Faulty {
    calls: AtomicUsize,
    fault: Mutex<Option<Fault>>,
}

#[derive(Debug, Clone, Copy)]
struct Fault {
    /// The call that fails.
    at: usize,
    errno: Errno,
    /// A write reaches the disk in part before the rest of it fails.
    short: bool,
}

const ERRORS: [Errno; 3] = [Errno::IO, Errno::NOSPC, Errno::ROFS];

impl Faulty {
    fn new() -> Self {
        Self { calls: AtomicUsize::new(0), fault: Mutex::new(None) }
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    /// Makes the disk fail, or with `None` work again.
    fn set(&self, fault: Option<Fault>) {
        *self.fault.lock().unwrap() = fault;
    }

    /// The fault that this call meets.
    fn meets(&self, index: usize) -> Option<Fault> {
        self.fault.lock().unwrap().filter(|fault| fault.at == index)
    }
}

impl Probe for Faulty {
    fn before(&self, call: &Call<'_>) -> rustix::io::Result<()> {
        let index = self.calls.fetch_add(1, Ordering::Relaxed);
        let Some(fault) = self.meets(index) else { return Ok(()) };
        // Only changes need room and a writable disk.
        let changes = !matches!(
            call,
            Call::Open { .. }
                | Call::Reopen { .. }
                | Call::Stat { .. }
                | Call::StatAt { .. }
                | Call::List { .. }
                | Call::ReadLink { .. }
                | Call::GetXattr { .. }
                | Call::Read { .. }
                | Call::Seek { .. }
        );
        if fault.errno == Errno::IO || changes { Err(fault.errno) } else { Ok(()) }
    }

    fn after(&self, _: &Call<'_>) {}

    fn portion(&self, len: usize) -> usize {
        // The call before the one that fails.
        let next = self.meets(self.calls() + 1);
        // Whole pages, as the kernel writes them.
        let half = len / 2 / PAGE * PAGE;
        if half > 0 && next.is_some_and(|fault| fault.short) { half } else { len }
    }
}

/// Nothing is asked of it but how far the workload is.
impl Watch for Faulty {
    fn position(&self) -> usize {
        self.calls()
    }

    fn node_of(&self, _: u64) -> Node {
        0
    }
}

#[test]
fn a_call_that_fails_costs_its_operation_and_nothing_else() {
    let cases = std::env::var("KMSFS_CRASH_CASES").ok().map_or(CASES, |cases| cases.parse().unwrap());
    let config = Config { cases, max_shrink_iters: 400, failure_persistence: None, ..Config::default() };
    let bench = Bench::new();
    let result = TestRunner::new(config).run(&(ops(), any::<u64>()), |(ops, seed)| {
        let calls = {
            let disk = bench.watched_by(|_| Faulty::new());
            let mut run = Run::new(&bench, Arc::clone(&disk) as _);
            let begin = disk.calls();
            ops.iter().for_each(|op| run.carry_out(op));
            begin..disk.calls()
        };
        let mut random = seed | 1;
        for _ in 0..FAULTS {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let at = calls.start + random as usize % calls.len().max(1);
            let errno = ERRORS[(random >> 40) as usize % ERRORS.len()];
            let fault = Fault { at, errno, short: random >> 50 & 1 == 1 };
            fail_once(&bench, &ops, fault).map_err(|why| TestCaseError::fail(format!("{fault:?}: {why}")))?;
        }
        Ok(())
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
}

fn fail_once(bench: &Bench, ops: &[Op], fault: Fault) -> Result<(), String> {
    let disk = bench.watched_by(|_| Faulty::new());
    let mut run = Run::new(bench, Arc::clone(&disk) as _);
    disk.set(Some(fault));
    for op in ops {
        if let Err(error) = run.try_out(op) {
            let errno = error.errno();
            let excused =
                REFUSALS.contains(&errno) || errno == fault.errno.raw_os_error() || errno == libc::EIO;
            if !excused {
                return Err(format!("{op:?}: {error}"));
            }
        }
    }
    disk.set(None);
    compare(&run, "at the end")?;
    run.remount().map_err(|e| format!("unmounting: {e}"))?;
    compare(&run, "on the next mount")
}

/// What is there is what was acknowledged; only a file that a failed operation was about may have
/// other contents, and those can be read.
fn compare(run: &Run<'_>, when: &str) -> Result<(), String> {
    let seen = see(run.fs(), run.model.names(), &|_| false).map_err(|why| format!("{when}: {why}"))?;
    for (file, contents) in &seen.contents {
        if !run.uncertain.contains(file) && contents != run.model.contents(*file) {
            return Err(format!("{when}: a file has other contents"));
        }
    }
    Ok(())
}
