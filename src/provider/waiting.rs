//! Which threads must not wait for a key service: those that everything else waits for.
//!
//! A mount has few threads that answer the kernel. A call of a key service elsewhere may take seconds, so
//! such a thread does not make it: it is refused with [`ProviderError::WouldWait`] before anything was
//! done, and what it was doing is done again by a thread that may wait.

use std::cell::Cell;

use super::ProviderError;

thread_local! {
    static MUST_NOT_WAIT: Cell<bool> = const { Cell::new(false) };
}

/// Carries something out on a thread that must not wait. It may be told that it would have to.
pub fn without_waiting<T>(something: impl FnOnce() -> T) -> T {
    /// Also after a panic, which ends one request and not the thread.
    struct Reset(bool);
    impl Drop for Reset {
        fn drop(&mut self) {
            MUST_NOT_WAIT.set(self.0);
        }
    }
    let _reset = Reset(MUST_NOT_WAIT.replace(true));
    something()
}

/// Refuses to go on where this thread would have to wait and must not.
///
/// # Errors
/// [`ProviderError::WouldWait`].
pub fn check(would_wait: impl FnOnce() -> bool) -> Result<(), ProviderError> {
    if MUST_NOT_WAIT.get() && would_wait() { Err(ProviderError::WouldWait) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_may_wait_unless_it_must_not() {
        assert_eq!(check(|| true), Ok(()));
        without_waiting(|| {
            assert_eq!(check(|| true), Err(ProviderError::WouldWait));
            assert_eq!(check(|| false), Ok(()));
            let _ = std::panic::catch_unwind(|| without_waiting(|| panic!("as a request might")));
            assert_eq!(check(|| true), Err(ProviderError::WouldWait));
        });
        assert_eq!(check(|| true), Ok(()));
    }
}
