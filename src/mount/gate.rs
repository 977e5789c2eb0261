//! The gate that every request comes through: it knows when the mount was last used, and it lets
//! nobody in once the mount has ended.
//!
//! There is one, for a process has one mount, and `fuser` starts the threads that come through it. Nobody
//! waits at it but who closes it: requests are counted, and none holds up another.

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::wakeful;

/// Requests under way, and [`CLOSED`].
static STATE: AtomicUsize = AtomicUsize::new(0);
/// No further request is let in.
const CLOSED: usize = 1 << (usize::BITS - 1);
/// How often who closes the gate looks whether the last request has ended.
const POLL: Duration = Duration::from_millis(1);
/// Milliseconds from [`begin`] to the last use.
static LAST_USE: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// The request on this thread is no use of the mount.
    static LOOKING: Cell<bool> = const { Cell::new(false) };
}

/// A request under way.
pub(super) struct Entered(());

impl Drop for Entered {
    fn drop(&mut self) {
        // What it did is seen by who finds that it has ended.
        STATE.fetch_sub(1, Ordering::Release);
    }
}

/// Lets a request in and notes that the mount is being used; `None` once the gate is closed.
pub(super) fn enter() -> Option<Entered> {
    let before = STATE.fetch_add(1, Ordering::Acquire);
    // Counted out by dropping it, if it may not enter too.
    let entered = Entered(());
    if !LOOKING.get() {
        LAST_USE.fetch_max(now(), Ordering::Relaxed);
        wakeful::used();
    }
    (before & CLOSED == 0).then_some(entered)
}

/// Answers a request that does not count as use if `looking`: what df(1), a listing of the
/// directory above and the kernel's housekeeping ask for.
pub(super) fn looking_if<T>(looking: bool, answer: impl FnOnce() -> T) -> T {
    LOOKING.set(looking);
    let answered = answer();
    LOOKING.set(false);
    answered
}

/// How long the mount has not been used.
pub(super) fn idle() -> Duration {
    Duration::from_millis(now().saturating_sub(LAST_USE.load(Ordering::Relaxed)))
}

/// Takes the mount for used now, as when it begins.
pub(super) fn touch() {
    LAST_USE.fetch_max(now(), Ordering::Relaxed);
}

/// Lets no further request in and waits for those under way; answers whether they ended in time.
pub(super) fn close(patience: Duration) -> bool {
    STATE.fetch_or(CLOSED, Ordering::AcqRel);
    let end = Instant::now() + patience;
    while STATE.load(Ordering::Acquire) != CLOSED {
        if Instant::now() >= end {
            return false;
        }
        thread::sleep(POLL);
    }
    true
}

/// Of the clock that stands still while the machine is suspended: a night's sleep is no disuse.
fn now() -> u64 {
    u64::try_from(begin().elapsed().as_millis()).unwrap_or(u64::MAX)
}

fn begin() -> Instant {
    static BEGIN: OnceLock<Instant> = OnceLock::new();
    *BEGIN.get_or_init(Instant::now)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One test, for there is one gate.
    #[test]
    fn looking_is_no_use_and_closing_waits_for_requests_under_way() {
        let rest = Duration::from_millis(30);
        touch();
        std::thread::sleep(rest);
        looking_if(true, || assert!(enter().is_some()));
        assert!(idle() >= rest, "looking counted as use");
        looking_if(false, || assert!(enter().is_some()));
        assert!(idle() < rest, "use did not count");

        let under_way = enter();
        std::thread::scope(|scope| {
            let closed = scope.spawn(|| close(Duration::from_millis(50)));
            assert!(!closed.join().unwrap(), "closed in spite of a request under way");
        });
        drop(under_way);
        assert!(close(Duration::from_secs(5)));
        assert!(enter().is_none(), "let in after closing");
    }
}
