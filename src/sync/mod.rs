//! Locks and sets that the standard library lacks.

mod range_lock;
mod range_set;

pub use range_lock::{RangeGuard, RangeLock};
pub use range_set::RangeSet;
