//! The primitives themselves: `parking_lot`'s and the standard library's.

pub use std::sync::{atomic, mpsc};
pub use std::thread;
pub use std::time::Instant;

use std::time::Duration;

pub use parking_lot::{
    Condvar, MappedRwLockReadGuard, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockUpgradableReadGuard,
    RwLockWriteGuard,
};

/// The lock, alone, if nobody else holds it for longer than `patience`.
pub fn write_within<T>(lock: &RwLock<T>, patience: Duration) -> Option<RwLockWriteGuard<'_, T>> {
    lock.try_write_for(patience)
}
