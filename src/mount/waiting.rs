//! Requests that wait for a key service, off the threads that answer the kernel: however many wait, and
//! however long, attributes, names and files whose keys are at hand are served.
//!
//! A request is tried first by the thread that it came to. If that would have to wait, the request is
//! done again, from its beginning, by a thread of its own; nothing has come of it until then.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use fuser::Errno;

use super::reply::{finish, run_raw};
use crate::fs::{FsError, FsResult};
use crate::provider::without_waiting;

/// Requests that may wait at a time; further ones are told that their key is not to be had.
const MAX_WAITING: usize = 256;
/// A request parses JSON and seals a header.
const STACK: usize = 512 * 1024;

static WAITING: AtomicUsize = AtomicUsize::new(0);

/// Takes one of the places until it is dropped.
struct Place;

impl Place {
    fn take() -> Option<Self> {
        let taken = WAITING.fetch_add(1, Ordering::AcqRel);
        // Given back by dropping it.
        let place = Self;
        (taken < MAX_WAITING).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        WAITING.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Carries out a request and answers it, here or, if it has to wait, on another thread.
pub(super) fn answer<T, R: Send + 'static>(
    reply: R,
    operation: impl Fn() -> FsResult<T> + Send + 'static,
    answer: impl FnOnce(R, Result<T, Errno>) + Send + 'static,
) {
    match attempt(&operation) {
        Some(done) => answer(reply, done),
        None => elsewhere(reply, operation, answer),
    }
}

/// The outcome of a request; `None` if it would have to wait.
pub(super) fn attempt<T>(operation: impl FnOnce() -> FsResult<T>) -> Option<Result<T, Errno>> {
    let done = without_waiting(|| run_raw(AssertUnwindSafe(operation)));
    let would_wait = matches!(&done, Ok(Err(error)) if error.would_wait());
    (!would_wait).then(|| finish(done))
}

/// Carries out a request on a thread that may wait, and answers it there.
pub(super) fn elsewhere<T, R: Send + 'static>(
    reply: R,
    operation: impl FnOnce() -> FsResult<T> + Send + 'static,
    answer: impl FnOnce(R, Result<T, Errno>) + Send + 'static,
) {
    let Some(place) = Place::take() else {
        tracing::warn!("{MAX_WAITING} requests wait for the key service; another one is refused");
        return answer(reply, Err(Errno::from_i32(libc::ENOKEY)));
    };
    let work = move || {
        let done = finish(run_raw(AssertUnwindSafe(operation)));
        // Whoever is answered may ask at once for the next.
        drop(place);
        answer(reply, done);
    };
    if let Err(error) = thread::Builder::new().name("kmsfs-waiting".to_owned()).stack_size(STACK).spawn(work)
    {
        // The reply went with the closure, which answers for it by being dropped.
        tracing::warn!("a thread to wait for the key service: {}", FsError::from(error));
    }
}
