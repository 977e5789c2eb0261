//! Locking a key store by itself: when nobody uses its keys, and when the machine had been suspended.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::time::{ClockId, clock_gettime};

use crate::kms::Service;
use crate::kms::store_api::LockReason;

/// How often it is looked whether the machine slept.
const PERIOD: Duration = Duration::from_secs(1);
/// The two clocks are not read at the same moment.
const SLACK: Duration = Duration::from_millis(250);

/// When to lock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Vigilance {
    /// When no key was used for so long.
    pub lock_after: Option<Duration>,
    /// When the machine had been suspended.
    pub on_suspend: bool,
}

/// A thread that watches. Dropping it ends it, once it has done what it was about to do.
#[derive(Debug)]
pub struct Vigil {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    end: Mutex<bool>,
    ended: Condvar,
}

impl Vigil {
    /// Watches over `service`. `asleep` says for how long the machine has slept in all: see [`asleep`].
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(
        service: Arc<Service>,
        when: Vigilance,
        asleep: impl Fn() -> Duration + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        if when == Vigilance::default() {
            return Ok(Self { shared, thread: None });
        }
        let watching = Arc::clone(&shared);
        let watch = move || watching.watch(&service, when, &asleep);
        let thread = thread::Builder::new().name("kms-vigil".to_owned()).spawn(watch)?;
        Ok(Self { shared, thread: Some(thread) })
    }
}

impl Drop for Vigil {
    fn drop(&mut self) {
        *self.shared.end.lock() = true;
        self.shared.ended.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that locks the key store panicked");
        }
    }
}

impl Shared {
    fn watch(&self, service: &Service, when: Vigilance, asleep: &dyn Fn() -> Duration) {
        let mut slept = asleep();
        // Mounts are asked, so not more often than need be.
        let mut look = Instant::now();
        let mut end = self.end.lock();
        while !*end {
            self.ended.wait_for(&mut end, PERIOD.min(when.lock_after.unwrap_or(PERIOD)));
            if *end {
                return;
            }
            parking_lot::MutexGuard::unlocked(&mut end, || {
                let sleeping = asleep();
                if when.on_suspend && sleeping > slept + SLACK {
                    service.lock_by_itself(LockReason::Suspend);
                }
                slept = sleeping;
                if let Some(after) = when.lock_after
                    && !service.is_locked()
                    && Instant::now() >= look
                {
                    let unused = service.unused();
                    if unused >= after {
                        service.lock_by_itself(LockReason::Idle);
                    }
                    // Not before all of it can have passed again.
                    look = Instant::now() + after.saturating_sub(unused);
                }
            });
        }
    }
}

/// For how long the machine has been suspended since it started: what the clock that goes on in sleep is
/// ahead of the one that stands still.
pub fn asleep() -> Duration {
    let read = |clock| Duration::try_from(clock_gettime(clock)).unwrap_or_default();
    let awake = read(ClockId::Monotonic);
    read(ClockId::Boottime).saturating_sub(awake)
}
