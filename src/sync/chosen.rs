//! The primitives themselves: `parking_lot`'s and the standard library's.

pub use std::sync::{atomic, mpsc};
pub use std::thread;
pub use std::time::Instant;

pub use parking_lot::{
    Condvar, MappedRwLockReadGuard, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockUpgradableReadGuard,
    RwLockWriteGuard,
};
