//! Open handles by number. To find one takes no lock that it shares with another one: every request on
//! a file begins here.

use std::array;
use std::sync::{Arc, OnceLock};

use crate::sync::{Mutex, RwLock};

/// Slots in the first segment; each further one has twice as many as the one before.
const FIRST: usize = 16;
/// Segments that there can be. All of them hold 2³² slots.
const SEGMENTS: usize = 28;

/// Handles, each under a number that no other one ever had.
pub(super) struct HandleTable<T> {
    /// Made when they are first needed, and never moved.
    segments: [OnceLock<Box<[Slot<T>]>>; SEGMENTS],
    /// Taken to open and to close a handle.
    vacant: Mutex<Vacant>,
}

/// A cache line, so that two threads with two handles do not write to the same one.
#[repr(align(64))]
struct Slot<T>(RwLock<Entry<T>>);

struct Entry<T> {
    /// How many handles the slot has held. The upper half of the present one's number.
    uses: u32,
    handle: Option<Arc<T>>,
}

#[derive(Default)]
struct Vacant {
    /// Slots that held a handle and do not now.
    left: Vec<u32>,
    /// Slots below this one were used.
    used: u32,
}

impl<T> Default for HandleTable<T> {
    fn default() -> Self {
        Self { segments: array::from_fn(|_| OnceLock::new()), vacant: Mutex::default() }
    }
}

impl<T> HandleTable<T> {
    /// The handle of a number, unless it was closed.
    pub(super) fn find(&self, number: u64) -> Option<Arc<T>> {
        let entry = self.slot(number as u32)?.0.read();
        if entry.uses == uses(number) { entry.handle.clone() } else { None }
    }

    /// Adds a handle; answers its number.
    pub(super) fn add(&self, handle: T) -> u64 {
        let index = self.vacant.lock().take();
        let (segment, at) = place(index);
        let slots = self.segments[segment].get_or_init(|| {
            let empty = || Slot(RwLock::new(Entry { uses: 0, handle: None }));
            std::iter::repeat_with(empty).take(FIRST << segment).collect()
        });
        let mut entry = slots[at].0.write();
        entry.uses = entry.uses.wrapping_add(1);
        entry.handle = Some(Arc::new(handle));
        u64::from(entry.uses) << 32 | u64::from(index)
    }

    /// Takes a handle out.
    pub(super) fn remove(&self, number: u64) -> Option<Arc<T>> {
        let index = number as u32;
        let mut entry = self.slot(index)?.0.write();
        if entry.uses != uses(number) {
            return None;
        }
        let handle = entry.handle.take()?;
        drop(entry);
        self.vacant.lock().left.push(index);
        Some(handle)
    }

    /// Every handle that there is. Those that come or go meanwhile may be among them or not.
    pub(super) fn all(&self) -> Vec<Arc<T>> {
        self.present().map(|(_, handle)| handle).collect()
    }

    /// Takes every handle out.
    pub(super) fn clear(&self) {
        let numbers: Vec<u64> = self.present().map(|(number, _)| number).collect();
        numbers.into_iter().for_each(|number| drop(self.remove(number)));
    }

    fn present(&self) -> impl Iterator<Item = (u64, Arc<T>)> {
        let used = self.vacant.lock().used;
        (0..used).filter_map(|index| {
            let entry = self.slot(index)?.0.read();
            let handle = entry.handle.clone()?;
            Some((u64::from(entry.uses) << 32 | u64::from(index), handle))
        })
    }

    fn slot(&self, index: u32) -> Option<&Slot<T>> {
        let (segment, at) = place(index);
        self.segments.get(segment)?.get()?.get(at)
    }
}

impl Vacant {
    fn take(&mut self) -> u32 {
        self.left.pop().unwrap_or_else(|| {
            let index = self.used;
            // Memory ends long before they do.
            self.used += 1;
            index
        })
    }
}

/// The upper half of a number.
fn uses(number: u64) -> u32 {
    (number >> 32) as u32
}

/// Which segment a slot lies in, and where.
fn place(index: u32) -> (usize, usize) {
    let index = index as usize + FIRST;
    let segment = (index / FIRST).ilog2() as usize;
    (segment, index - (FIRST << segment))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn slots_lie_side_by_side() {
        let mut expected = (0, 0);
        for index in 0..10_000 {
            assert_eq!(place(index), expected);
            expected.1 += 1;
            if expected.1 == FIRST << expected.0 {
                expected = (expected.0 + 1, 0);
            }
        }
        let (segment, at) = place(u32::MAX - FIRST as u32);
        assert!(segment < SEGMENTS && at < FIRST << segment);
    }

    proptest! {
        #[test]
        fn agrees_with_a_map(steps in proptest::collection::vec((0u8..5, any::<prop::sample::Index>()), 1..200)) {
            let table = HandleTable::default();
            let mut map: HashMap<u64, usize> = HashMap::new();
            let mut numbers = Vec::new();
            for (value, (step, which)) in steps.into_iter().enumerate() {
                if step < 3 {
                    let number = table.add(value);
                    prop_assert!(!numbers.contains(&number), "a number came again");
                    numbers.push(number);
                    map.insert(number, value);
                } else if !numbers.is_empty() {
                    let number = numbers[which.index(numbers.len())];
                    prop_assert_eq!(table.remove(number).map(|handle| *handle), map.remove(&number));
                }
                for number in &numbers {
                    prop_assert_eq!(table.find(*number).map(|handle| *handle), map.get(number).copied());
                }
                let mut all: Vec<usize> = table.all().iter().map(|handle| **handle).collect();
                let mut expected: Vec<usize> = map.values().copied().collect();
                all.sort_unstable();
                expected.sort_unstable();
                prop_assert_eq!(all, expected);
            }
            table.clear();
            prop_assert!(numbers.iter().all(|&number| table.find(number).is_none()) && table.all().is_empty());
        }
    }

    #[test]
    fn threads_find_their_own_handles() {
        let table = HandleTable::default();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let table = &table;
                scope.spawn(move || {
                    for step in 0..500 {
                        let number = table.add((thread, step));
                        assert_eq!(table.find(number).as_deref(), Some(&(thread, step)));
                        if step % 3 != 0 {
                            assert_eq!(table.remove(number).as_deref(), Some(&(thread, step)));
                            assert!(table.find(number).is_none());
                        }
                    }
                });
            }
        });
        assert_eq!(table.all().len(), 4 * 167);
    }
}
