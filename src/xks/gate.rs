//! Not to wait for a proxy that does not answer.
//!
//! A proxy that took long to fail once is left alone for [`REST`]: calls fail at once meanwhile. After
//! that one call tries; the others fail until it has an answer. And there are never more than
//! [`MAX_CALLS`] under way. So a dead proxy holds all threads of a caller for one call's time at most, and
//! one thread from then on.

use std::time::{Duration, Instant};

use super::{CALL_TIME, ProxyError};
use crate::sync::Mutex;

/// Calls to one proxy at a time.
const MAX_CALLS: usize = 32;
/// How long a proxy that did not answer is left alone.
const REST: Duration = Duration::from_secs(1);
/// What counts as long.
const LONG: Duration = Duration::from_millis(CALL_TIME.as_millis() as u64 / 2);

/// Where calls to one proxy pass.
#[derive(Debug, Default)]
pub(super) struct Gate(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    under_way: usize,
    rest: Option<Rest>,
}

#[derive(Debug, Clone, Copy)]
struct Rest {
    until: Instant,
    error: ProxyError,
    is_tried: bool,
}

/// A call under way. Dropped without a result, it counts as one that was not made.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    gate: &'a Gate,
    since: Instant,
    tries: bool,
}

impl Gate {
    /// Lets a call begin.
    pub(super) fn enter(&self, now: Instant) -> Result<Pass<'_>, ProxyError> {
        let mut state = self.0.lock();
        if let Some(rest) = state.rest
            && (now < rest.until || rest.is_tried)
        {
            return Err(rest.error);
        }
        if state.under_way >= MAX_CALLS {
            return Err(ProxyError::Throttling);
        }
        let tries = state.rest.as_mut().map(|rest| rest.is_tried = true).is_some();
        state.under_way += 1;
        Ok(Pass { gate: self, since: now, tries })
    }

    /// The proxy answers, as was found out elsewhere.
    pub(super) fn open(&self) {
        self.0.lock().rest = None;
    }
}

impl Pass<'_> {
    /// Ends a call.
    pub(super) fn leave<T>(self, result: &Result<T, ProxyError>, now: Instant) {
        let failed = matches!(result, Err(ProxyError::Unreachable | ProxyError::Tls | ProxyError::TimedOut));
        let took_long = now.duration_since(self.since) >= LONG;
        let mut state = self.gate.0.lock();
        match result {
            Err(error) if failed && took_long => {
                state.rest = Some(Rest { until: now + REST, error: *error, is_tried: false });
            }
            _ if failed && !self.tries => {}
            _ => state.rest = None,
        }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        let mut state = self.gate.0.lock();
        state.under_way -= 1;
        if self.tries
            && let Some(rest) = state.rest.as_mut()
        {
            rest.is_tried = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEAD: Result<(), ProxyError> = Err(ProxyError::TimedOut);

    #[test]
    fn who_does_not_answer_is_left_alone_and_then_tried_by_one() {
        let (gate, start) = (Gate::default(), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        // Both were on their way when nobody knew yet.
        let (first, second) = (gate.enter(at(0)).unwrap(), gate.enter(at(0)).unwrap());
        first.leave(&DEAD, at(1000));
        assert_eq!(gate.enter(at(1500)).unwrap_err(), ProxyError::TimedOut);
        second.leave(&DEAD, at(1000));
        let third = gate.enter(at(2000)).unwrap();
        assert_eq!(gate.enter(at(2001)).unwrap_err(), ProxyError::TimedOut, "one tries");
        third.leave(&DEAD, at(3000));
        assert!(gate.enter(at(3500)).is_err());
        let fourth = gate.enter(at(4000)).unwrap();
        fourth.leave(&Ok(()), at(4001));
        assert!(gate.enter(at(4001)).is_ok());
    }

    #[test]
    fn a_call_that_was_given_up_lets_another_try() {
        let (gate, start) = (Gate::default(), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        gate.enter(at(0)).unwrap().leave(&DEAD, at(1000));
        drop(gate.enter(at(2000)).unwrap());
        assert!(gate.enter(at(2000)).is_ok());
    }

    #[test]
    fn whoever_answers_or_fails_at_once_is_not_left_alone() {
        let (gate, now) = (Gate::default(), Instant::now());
        for result in [Ok(()), Err(ProxyError::Unreachable), Err(ProxyError::KeyNotFound)] {
            gate.enter(now).unwrap().leave(&result, now);
            assert!(gate.enter(now).is_ok(), "{result:?}");
        }
        gate.enter(now).unwrap().leave(&Err::<(), _>(ProxyError::KeyNotFound), now + CALL_TIME);
        assert!(gate.enter(now).is_ok(), "it did answer");
    }

    #[test]
    fn there_are_so_many_calls_at_a_time() {
        let (gate, now) = (Gate::default(), Instant::now());
        let mut passes: Vec<_> = (0..MAX_CALLS).map(|_| gate.enter(now).unwrap()).collect();
        assert_eq!(gate.enter(now).unwrap_err(), ProxyError::Throttling);
        passes.pop();
        assert!(gate.enter(now).is_ok());
    }
}
