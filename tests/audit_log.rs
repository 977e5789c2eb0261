//! The audit log by itself: under crashes, under a disk that fails, and in the hands of somebody
//! who wants a line to be gone.
//!
//! `KMSFS_CRASH_SEED` repeats the crashes, `KMSFS_CRASH_STATES` says how many random states to
//! look at.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

mod memory_disk;
mod audit {
    pub(crate) mod adversary;
    pub(crate) mod callers;
    pub(crate) mod crash;
    pub(crate) mod faults;
    pub(crate) mod reading;
    pub(crate) mod workbench;
}
