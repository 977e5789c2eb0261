//! How far re-wrapping has come, for whoever shows it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Counters that may be read at any time, from any thread.
#[derive(Debug)]
pub struct Tally {
    begin: Instant,
    /// Files there are, once they were counted.
    total: AtomicU64,
    pass: AtomicU64,
    /// Files seen in this pass.
    seen: AtomicU64,
    rewrapped: AtomicU64,
    /// Bytes that were sealed anew.
    bytes: AtomicU64,
    /// Whether somebody wants to know how long it will take, which costs a look at every directory.
    wanted: bool,
}

/// The counters at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moment {
    /// The pass: from the second one on, headers are looked at only.
    pub pass: u64,
    /// Files there are; 0 until they were counted.
    pub total: u64,
    /// Files seen in this pass.
    pub seen: u64,
    /// Files wrapped anew.
    pub rewrapped: u64,
    /// Bytes of plaintext that were encrypted anew.
    pub bytes: u64,
    /// Time since the beginning.
    pub elapsed: Duration,
}

impl Moment {
    /// Time that is left of the first pass, if it goes on like this.
    pub fn left(&self) -> Option<Duration> {
        let known = self.pass == 1 && self.seen > 0 && self.total >= self.seen;
        known.then(|| self.elapsed.mul_f64((self.total - self.seen) as f64 / self.seen as f64))
    }
}

impl Tally {
    /// Begins. With `wanted` everything is counted first.
    pub fn new(wanted: bool) -> Self {
        Self {
            begin: Instant::now(),
            total: AtomicU64::new(0),
            pass: AtomicU64::new(0),
            seen: AtomicU64::new(0),
            rewrapped: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            wanted,
        }
    }

    /// The counters now.
    pub fn now(&self) -> Moment {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Moment {
            pass: get(&self.pass),
            total: get(&self.total),
            seen: get(&self.seen),
            rewrapped: get(&self.rewrapped),
            bytes: get(&self.bytes),
            elapsed: self.begin.elapsed(),
        }
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.wanted
    }

    pub(super) fn set_total(&self, files: u64) {
        self.total.store(files, Ordering::Relaxed);
    }

    pub(super) fn begin_pass(&self) {
        self.pass.fetch_add(1, Ordering::Relaxed);
        self.seen.store(0, Ordering::Relaxed);
    }

    pub(super) fn saw(&self) {
        self.seen.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn set_bytes(&self, bytes: u64) {
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn rewrapped(&self) {
        self.rewrapped.fetch_add(1, Ordering::Relaxed);
    }
}
