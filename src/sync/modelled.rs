//! The primitives of `chosen`, under the control of `shuttle`: whoever uses one may be interrupted
//! there, and which thread goes on is the scheduler's choice. They work only inside a model.

use std::cell::Cell;
use std::ops::Add;
use std::time::Duration;

pub use shuttle::sync::{atomic, mpsc};
pub use shuttle::thread;
pub use shuttle_parking_lot::{
    MappedRwLockReadGuard, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockUpgradableReadGuard,
    RwLockWriteGuard,
};

/// Who waits this long does so only not to wait for ever.
const FAR_AWAY: Duration = Duration::from_secs(1);

/// As `parking_lot::Condvar`, but that any mutex may go with it at any time.
#[derive(Debug, Default)]
pub struct Condvar {
    /// Held from before a waiter lets go of its own mutex until it sleeps, and by whoever wakes it.
    door: shuttle::sync::Mutex<()>,
    sleepers: shuttle::sync::Condvar,
}

/// Whether a wait ended because its time was over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    /// It did.
    pub fn timed_out(self) -> bool {
        self.0
    }
}

impl Condvar {
    /// One that nobody waits for.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets go of the mutex until somebody notifies.
    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let door = self.door.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        MutexGuard::unlocked(guard, || drop(self.sleepers.wait(door)));
    }

    /// Lets go of the mutex for as long as the scheduler pleases: time is over at any moment.
    pub fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, _timeout: Duration) -> WaitTimeoutResult {
        MutexGuard::unlocked(guard, thread::yield_now);
        WaitTimeoutResult(true)
    }

    /// As [`Condvar::wait_for`], until a moment. One that is far away does not come: the clock stands still.
    pub fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, deadline: Instant) -> WaitTimeoutResult {
        if deadline.saturating_duration_since(Instant::now()) < FAR_AWAY {
            return self.wait_for(guard, Duration::ZERO);
        }
        self.wait(guard);
        WaitTimeoutResult(false)
    }

    /// Wakes one waiter.
    pub fn notify_one(&self) {
        let _door = self.door.lock();
        self.sleepers.notify_one();
    }

    /// Wakes all waiters.
    pub fn notify_all(&self) {
        let _door = self.door.lock();
        self.sleepers.notify_all();
    }
}

/// The lock, if it is free by the time that the scheduler comes back: patience is over at any moment.
pub fn write_within<T>(lock: &RwLock<T>, _patience: Duration) -> Option<RwLockWriteGuard<'_, T>> {
    thread::yield_now();
    lock.try_write()
}

thread_local! {
    /// A model runs on one thread of the operating system.
    static NOW: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// A moment of a clock that stands still but for [`advance`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(Duration);

impl Instant {
    /// This moment.
    pub fn now() -> Self {
        Self(NOW.get())
    }

    /// Time since then.
    pub fn elapsed(&self) -> Duration {
        NOW.get().saturating_sub(self.0)
    }

    /// Time from `earlier` on.
    pub fn saturating_duration_since(&self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0 + duration)
    }
}

/// Lets time pass, for everyone.
pub fn advance(by: Duration) {
    NOW.set(NOW.get() + by);
}
