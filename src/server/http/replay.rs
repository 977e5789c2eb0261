//! Signatures that were used, so that a request that was overheard or found in a log is not carried
//! out again.
//!
//! AWS's clients write the time to the second and sign no number of their own, so two equal calls
//! within a second have equal signatures, and both are meant. A signature is therefore good for
//! [`GRACE`] from its first use, which is when such twins arrive, and is refused from then on until
//! its time is too old anyway. A client that tries again later signs again.
//!
//! The memory is bounded. What changes something has a memory of its own, so that any number of
//! other calls cannot push it out; when a memory is full, its oldest signature is forgotten.

use std::collections::{HashMap, VecDeque};

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;

use crate::sigv4::{SKEW, Sha256Digest};

/// How long after its first use a signature is good.
pub(super) const GRACE: SignedDuration = SignedDuration::from_secs(10);
/// Signatures remembered of calls that change something.
const MAX_CHANGES: usize = 1 << 16;
/// Signatures remembered of other calls.
const MAX_OTHERS: usize = 1 << 18;

/// All used signatures. May be used from any thread.
pub(super) struct Replays {
    changes: Mutex<Memory>,
    others: Mutex<Memory>,
}

struct Memory {
    most: usize,
    first_use: HashMap<Sha256Digest, Timestamp>,
    /// In the order of their first use.
    order: VecDeque<(Timestamp, Sha256Digest)>,
}

impl Default for Replays {
    fn default() -> Self {
        Self { changes: Mutex::new(Memory::new(MAX_CHANGES)), others: Mutex::new(Memory::new(MAX_OTHERS)) }
    }
}

impl Replays {
    /// Whether the signature with this fingerprint may be used at `now`; remembers its first use.
    pub(super) fn may_use(&self, changes: bool, fingerprint: Sha256Digest, now: Timestamp) -> bool {
        let memory = if changes { &self.changes } else { &self.others };
        memory.lock().may_use(fingerprint, now)
    }
}

impl Memory {
    fn new(most: usize) -> Self {
        Self { most, first_use: HashMap::new(), order: VecDeque::new() }
    }

    fn may_use(&mut self, fingerprint: Sha256Digest, now: Timestamp) -> bool {
        // A request may be dated as far ahead as behind, so it is good for twice the skew.
        self.forget(|first| now.duration_since(first) > SKEW * 2);
        if let Some(first) = self.first_use.get(&fingerprint) {
            return now.duration_since(*first) <= GRACE;
        }
        if self.order.len() >= self.most
            && let Some((_, oldest)) = self.order.pop_front()
        {
            self.first_use.remove(&oldest);
        }
        self.first_use.insert(fingerprint, now);
        self.order.push_back((now, fingerprint));
        true
    }

    fn forget(&mut self, is_old: impl Fn(Timestamp) -> bool) {
        while let Some((_, old)) = self.order.front().filter(|(first, _)| is_old(*first)) {
            self.first_use.remove(old);
            self.order.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }

    #[test]
    fn twins_are_let_through_and_a_late_copy_is_not() {
        let replays = Replays::default();
        for (seconds, good) in [(0, true), (1, true), (10, true), (11, false), (1800, false)] {
            assert_eq!(replays.may_use(true, [1; 32], at(seconds)), good, "after {seconds} s");
        }
        assert!(replays.may_use(true, [2; 32], at(1800)), "another signature");
        assert!(replays.may_use(true, [1; 32], at(1801)), "too old to pass the check of its time");
        assert!(replays.may_use(false, [2; 32], at(1900)), "a memory of its own");
    }

    #[test]
    fn the_memory_is_bounded_and_forgets_the_oldest() {
        let mut memory = Memory::new(3);
        for id in 0..5 {
            assert!(memory.may_use([id; 32], at(0)));
            assert!(memory.first_use.len() <= 3 && memory.order.len() <= 3);
        }
        assert!(memory.may_use([0; 32], at(60)), "forgotten");
        assert!(!memory.may_use([4; 32], at(60)), "remembered");
        assert!(memory.may_use([9; 32], at(4000)));
        assert_eq!((memory.first_use.len(), memory.order.len()), (1, 1), "the old ones are gone");
    }
}
