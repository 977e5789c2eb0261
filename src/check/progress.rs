//! How far a check has come, for whoever shows it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Counters that may be read at any time, from any thread.
#[derive(Debug)]
pub struct Progress {
    begin: Instant,
    /// Entries and bytes that there are, once they were counted.
    total_entries: AtomicU64,
    total_bytes: AtomicU64,
    entries: AtomicU64,
    bytes: AtomicU64,
    findings: AtomicU64,
    /// Whether somebody wants to know how long it will take, which costs a look at every entry.
    wanted: bool,
}

/// The counters at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moment {
    /// Entries looked at.
    pub entries: u64,
    /// Bytes looked at.
    pub bytes: u64,
    /// Findings so far.
    pub findings: u64,
    /// Time since the beginning.
    pub elapsed: Duration,
    /// How much of everything is done, from 0 to 1; absent until everything was counted.
    pub done: Option<f64>,
}

impl Moment {
    /// Time that is left, if it goes on like this.
    pub fn left(&self) -> Option<Duration> {
        let done = self.done.filter(|done| *done > 0.01)?;
        Some(self.elapsed.mul_f64((1.0 - done).max(0.0) / done))
    }
}

/// Bytes whose reading takes about as long as looking at an entry.
const ENTRY_COST: u64 = 16 << 10;

impl Progress {
    /// Begins. With `wanted` everything is counted first.
    pub fn new(wanted: bool) -> Self {
        Self {
            begin: Instant::now(),
            total_entries: AtomicU64::new(0),
            total_bytes: AtomicU64::new(0),
            entries: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            findings: AtomicU64::new(0),
            wanted,
        }
    }

    /// The counters now.
    pub fn now(&self) -> Moment {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (entries, bytes) = (get(&self.entries), get(&self.bytes));
        let cost = |entries: u64, bytes: u64| entries.saturating_mul(ENTRY_COST).saturating_add(bytes) as f64;
        let total = cost(get(&self.total_entries), get(&self.total_bytes));
        let done = (total > 0.0).then(|| (cost(entries, bytes) / total).min(1.0));
        Moment { entries, bytes, findings: get(&self.findings), elapsed: self.begin.elapsed(), done }
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.wanted
    }

    pub(super) fn set_total(&self, entries: u64, bytes: u64) {
        self.total_entries.store(entries, Ordering::Relaxed);
        self.total_bytes.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn entry(&self) {
        self.entries.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn read(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn found(&self) {
        self.findings.fetch_add(1, Ordering::Relaxed);
    }
}
