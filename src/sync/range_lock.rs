//! A readers-writer lock over ranges of numbers.

use std::ops::Range;

use super::{Condvar, Mutex};

/// Lets any number of holders share overlapping ranges, and one holder have a range alone.
/// Not fair: a stream of readers of one range can hold up a writer of it.
#[derive(Debug, Default)]
pub struct RangeLock {
    held: Mutex<Vec<Held>>,
    released: Condvar,
}

#[derive(Debug, Clone, PartialEq)]
struct Held {
    range: Range<u64>,
    exclusive: bool,
}

/// Releases its range when dropped.
#[derive(Debug)]
pub struct RangeGuard<'a> {
    lock: &'a RangeLock,
    held: Held,
}

impl RangeLock {
    /// Waits until nobody holds any of `range` exclusively.
    pub fn shared(&self, range: Range<u64>) -> RangeGuard<'_> {
        self.acquire(Held { range, exclusive: false })
    }

    /// Waits until nobody holds any of `range`.
    pub fn exclusive(&self, range: Range<u64>) -> RangeGuard<'_> {
        self.acquire(Held { range, exclusive: true })
    }

    fn acquire(&self, wanted: Held) -> RangeGuard<'_> {
        let mut held = self.held.lock();
        while held.iter().any(|h| h.conflicts_with(&wanted)) {
            self.released.wait(&mut held);
        }
        held.push(wanted.clone());
        RangeGuard { lock: self, held: wanted }
    }
}

impl Held {
    fn conflicts_with(&self, other: &Self) -> bool {
        (self.exclusive || other.exclusive)
            && self.range.start < other.range.end
            && other.range.start < self.range.end
    }
}

impl Drop for RangeGuard<'_> {
    fn drop(&mut self) {
        let mut held = self.lock.held.lock();
        if let Some(at) = held.iter().position(|h| *h == self.held) {
            held.swap_remove(at);
        }
        drop(held);
        self.lock.released.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn overlapping_writers_never_meet_and_readers_do() {
        let lock = RangeLock::default();
        let inside: Vec<AtomicU32> = (0..8).map(|_| AtomicU32::new(0)).collect();
        std::thread::scope(|scope| {
            for t in 0..6u64 {
                let (lock, inside) = (&lock, &inside);
                scope.spawn(move || {
                    for i in 0..2000u64 {
                        let start = (i * 7 + t * 3) % 6;
                        let range = start..start + 2;
                        let cells = || (start..start + 2).map(|c| &inside[c as usize]);
                        if (i + t) % 3 == 0 {
                            let _guard = lock.exclusive(range);
                            for cell in cells() {
                                assert_eq!(cell.fetch_add(1000, Ordering::SeqCst), 0);
                            }
                            for cell in cells() {
                                cell.fetch_sub(1000, Ordering::SeqCst);
                            }
                        } else {
                            let _guard = lock.shared(range);
                            for cell in cells() {
                                assert!(cell.fetch_add(1, Ordering::SeqCst) < 1000);
                            }
                            for cell in cells() {
                                cell.fetch_sub(1, Ordering::SeqCst);
                            }
                        }
                    }
                });
            }
        });
        assert!(lock.held.lock().is_empty());
    }
}
