//! Locks and sets that the standard library lacks, and the choice of all other primitives.
//!
//! Whatever shares state between threads below the mounting takes its locks, atomics, channels, threads and
//! moments of time from here. Built with the feature `shuttle` it can be run under a scheduler that tries
//! one order of events after another (`tests/concurrency`); else these are `parking_lot`'s and the
//! standard library's own.

#[cfg(not(feature = "shuttle"))]
mod chosen;
#[cfg(feature = "shuttle")]
#[path = "modelled.rs"]
mod chosen;
mod range_lock;
mod range_set;

#[cfg(all(feature = "shuttle", not(debug_assertions)))]
compile_error!("the feature `shuttle` is for tests: its locks work only inside a model");

pub use chosen::*;
pub use range_lock::{RangeGuard, RangeLock};
pub use range_set::RangeSet;
