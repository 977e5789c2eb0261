//! How long a mount goes on with the keys that it has while it hears nothing of their key service.

use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::sync::Instant;

/// A time that begins anew whenever the service is heard. May be used from any thread.
pub(super) struct Lease {
    length: Duration,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    heard: Instant,
    /// It ran out, and the service was not heard since.
    lapsed: bool,
    ended: bool,
}

impl Lease {
    /// One that begins now.
    pub(super) fn new(length: Duration) -> Self {
        let state = State { heard: Instant::now(), lapsed: false, ended: false };
        Self { length, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// The service was heard.
    pub(super) fn renew(&self) {
        let mut state = self.state.lock();
        (state.heard, state.lapsed) = (Instant::now(), false);
        self.changed.notify_all();
    }

    /// Whether it has run out.
    pub(super) fn has_lapsed(&self) -> bool {
        self.state.lock().lapsed
    }

    /// Waits until it has run out; `false` if it was ended before.
    pub(super) fn wait(&self) -> bool {
        let mut state = self.state.lock();
        while !state.ended {
            let silence = state.heard.elapsed();
            if state.lapsed {
                self.changed.wait(&mut state);
            } else if silence >= self.length {
                state.lapsed = true;
                return true;
            } else {
                self.changed.wait_for(&mut state, self.length - silence);
            }
        }
        false
    }

    /// Nobody needs it any more.
    pub(super) fn end(&self) {
        self.state.lock().ended = true;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: Duration = Duration::from_millis(50);

    #[test]
    fn it_runs_out_once_after_the_last_that_was_heard() {
        let lease = Lease::new(LENGTH);
        let begin = Instant::now();
        std::thread::sleep(LENGTH / 2);
        lease.renew();
        assert!(lease.wait() && lease.has_lapsed());
        assert!(begin.elapsed() >= LENGTH * 3 / 2);
        lease.renew();
        assert!(!lease.has_lapsed());
        assert!(lease.wait());
        // Not again without having been heard.
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| lease.wait());
            std::thread::sleep(LENGTH * 2);
            assert!(!waiting.is_finished());
            lease.end();
            assert!(!waiting.join().unwrap());
        });
    }
}
