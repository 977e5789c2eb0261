//! When a file was last used: opened, made, read or written.
//!
//! What the kernel answers from its caches is seen by nobody here, and looking at attributes or names is
//! no use of a key.

use std::time::Duration;

use super::Fs;
use crate::sync::Instant;
use crate::sync::atomic::{AtomicU64, Ordering};

/// The last use.
pub(super) struct Usage {
    begin: Instant,
    /// Milliseconds since `begin`.
    last: AtomicU64,
}

impl Default for Usage {
    fn default() -> Self {
        Self { begin: Instant::now(), last: AtomicU64::new(0) }
    }
}

impl Usage {
    fn now(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Notes one now.
    pub(super) fn note(&self) {
        let now = self.now();
        // Every reader would otherwise wait for every other one's write.
        if self.last.load(Ordering::Relaxed) != now {
            self.last.store(now, Ordering::Relaxed);
        }
    }
}

impl Fs {
    /// For how long no file was opened, made, read or written. Time that the machine slept is not counted.
    pub fn unused(&self) -> Duration {
        Duration::from_millis(self.usage.now().saturating_sub(self.usage.last.load(Ordering::Relaxed)))
    }
}
