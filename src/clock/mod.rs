//! The time of day as a parameter, so that a test can live through a deletion window.

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;

/// A source of the time of day. May be read from any thread.
pub trait Clock: Send + Sync {
    /// The time now (UTC).
    fn now(&self) -> Timestamp;
}

/// The operating system's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// A clock that stands still until it is told to move.
#[derive(Debug)]
pub struct ManualClock(Mutex<Timestamp>);

impl ManualClock {
    /// Starts at `at`.
    pub fn new(at: Timestamp) -> Self {
        Self(Mutex::new(at))
    }

    /// Moves the clock by `by`, which may be negative. Beyond the calendar's ends it stays put.
    pub fn advance(&self, by: SignedDuration) {
        let mut at = self.0.lock();
        *at = at.checked_add(by).unwrap_or(*at);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *self.0.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_only_when_told() {
        let clock = ManualClock::new(Timestamp::UNIX_EPOCH);
        assert_eq!(clock.now(), Timestamp::UNIX_EPOCH);
        clock.advance(SignedDuration::from_hours(24));
        assert_eq!(clock.now().as_second(), 86_400);
    }
}
