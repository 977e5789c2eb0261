//! What the kernel passed on of a file's pages and could not be stored.
//!
//! The kernel takes a page for written when its write was answered, with an error too, and drops it when it
//! likes. So it is kept here: reads are answered from it, and it is stored as soon as that is possible.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard, RangeSet};

/// Bytes that a mount keeps at most, of all files. What fails beyond that is lost.
const MOST_KEPT: u64 = 64 << 20;

/// How much more may be kept, of all files together.
#[derive(Clone)]
pub(super) struct Room(Arc<AtomicU64>);

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(AtomicU64::new(MOST_KEPT)))
    }
}

impl Room {
    fn take(&self, bytes: u64) -> bool {
        self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(bytes)).is_ok()
    }

    fn give(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::SeqCst);
    }
}

/// Bytes of one file. All of it is about whole writes: a part of one that failed may be stored.
pub(super) struct UnwrittenData {
    state: Mutex<State>,
    room: Room,
}

#[derive(Default)]
struct State {
    /// By offset; none overlaps another.
    kept: BTreeMap<u64, Zeroizing<Vec<u8>>>,
    /// Nobody has these, unless the kernel still does.
    lost: RangeSet,
    /// Why the last write failed.
    errno: i32,
}

/// What one file lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lacking {
    pub(super) bytes: u64,
    /// Those of them that are not kept.
    pub(super) lost: u64,
    pub(super) errno: i32,
}

/// A range of which a part is lacking. Nothing of it is stored meanwhile but by the holder, so that what
/// was kept never comes to lie over something newer. Taken before the file's keys.
pub(super) struct Held<'a> {
    state: MutexGuard<'a, State>,
    room: &'a Room,
}

impl UnwrittenData {
    pub(super) fn new(room: &Room) -> Self {
        Self { state: Mutex::default(), room: room.clone() }
    }

    /// Holds a range that is to be read, written or cut off, if any of it is lacking. Whoever asks about a
    /// write that failed asks after it was answered: that is noted by then.
    pub(super) fn hold(&self, range: &Range<u64>) -> Option<Held<'_>> {
        let state = self.state.lock();
        let overlaps = |lacking: Range<u64>| lacking.start < range.end && range.start < lacking.end;
        let kept = state.kept.range(..range.end).next_back();
        let is_lacking = kept.is_some_and(|(&at, data)| overlaps(at..at + data.len() as u64))
            || state.lost.iter().any(overlaps);
        is_lacking.then_some(Held { state, room: &self.room })
    }

    /// Notes a write from the kernel's cache that failed, and keeps its data if it may be kept and there
    /// is room.
    pub(super) fn failed(&self, offset: u64, data: &[u8], errno: i32, may_keep: bool) {
        let mut held = Held { state: self.state.lock(), room: &self.room };
        let range = offset..offset + data.len() as u64;
        held.settle(range.clone());
        held.state.errno = errno;
        if may_keep && self.room.take(data.len() as u64) {
            held.state.kept.insert(offset, Zeroizing::new(data.to_vec()));
        } else {
            held.state.lost.insert(range);
        }
    }

    /// Stores what is kept, piece by piece, until that fails with an errno.
    pub(super) fn store(&self, mut write: impl FnMut(u64, &[u8]) -> Result<(), i32>) {
        let mut next = 0;
        loop {
            let mut state = self.state.lock();
            let Some((&at, data)) = state.kept.range(next..).next() else { return };
            if let Err(errno) = write(at, data) {
                state.errno = errno;
                return;
            }
            let len = data.len() as u64;
            state.kept.remove(&at);
            self.room.give(len);
            next = at + len;
        }
    }

    /// Whether something is kept.
    pub(super) fn keeps(&self) -> bool {
        !self.state.lock().kept.is_empty()
    }

    /// What is lacking now.
    pub(super) fn lacking(&self) -> Option<Lacking> {
        let state = self.state.lock();
        let lost = state.lost.iter().map(|range| range.end - range.start).sum::<u64>();
        let bytes = lost + state.kept.values().map(|data| data.len() as u64).sum::<u64>();
        (bytes > 0).then_some(Lacking { bytes, lost, errno: state.errno })
    }

    /// Forgets what is lacking, once it was told.
    pub(super) fn forget(&self) {
        let mut held = Held { state: self.state.lock(), room: &self.room };
        held.settle(0..u64::MAX);
    }
}

impl Held<'_> {
    /// The range was written, or is no part of the file any more.
    pub(super) fn settle(&mut self, range: Range<u64>) {
        self.state.lost.remove(range.clone());
        let overlapping = |(&at, data): (&u64, &Zeroizing<Vec<u8>>)| {
            (at < range.end && range.start < at + data.len() as u64).then_some(at)
        };
        let pieces: Vec<u64> = self.state.kept.range(..range.end).rev().map_while(overlapping).collect();
        for at in pieces {
            let Some(data) = self.state.kept.remove(&at) else { continue };
            let end = at + data.len() as u64;
            let (start, stop) = (range.start.max(at), range.end.min(end));
            self.room.give(stop - start);
            if at < start {
                let before = data[..(start - at) as usize].to_vec();
                self.state.kept.insert(at, Zeroizing::new(before));
            }
            if stop < end {
                let behind = data[(stop - at) as usize..].to_vec();
                self.state.kept.insert(stop, Zeroizing::new(behind));
            }
        }
    }

    /// Puts what is kept over what was read, `len` bytes from `offset`. Answers how many there are then.
    pub(super) fn lay_over(&self, offset: u64, out: &mut [u8], len: usize) -> usize {
        let end = offset + out.len() as u64;
        let mut len = len;
        for (&at, data) in self.state.kept.range(..end) {
            let (start, stop) = (at.max(offset), (at + data.len() as u64).min(end));
            if start >= stop {
                continue;
            }
            let (from, to) = ((start - offset) as usize, (stop - offset) as usize);
            if len < from {
                out[len..from].fill(0);
            }
            out[from..to].copy_from_slice(&data[(start - at) as usize..][..to - from]);
            len = len.max(to);
        }
        len
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn data() -> UnwrittenData {
        UnwrittenData::new(&Room::default())
    }

    fn left(data: &UnwrittenData) -> u64 {
        data.room.0.load(Ordering::SeqCst)
    }

    #[test]
    fn what_cannot_be_kept_is_lost() {
        let data = data();
        data.failed(0, &[1; 10], libc::ENOSPC, false);
        assert!(data.room.take(MOST_KEPT - 10));
        data.failed(10, &[2; 10], libc::ENOSPC, true);
        data.failed(20, &[3; 1], libc::EIO, true);
        assert_eq!(data.lacking(), Some(Lacking { bytes: 21, lost: 11, errno: libc::EIO }));
        data.forget();
        assert_eq!(data.lacking(), None);
        assert_eq!(left(&data), 10);
    }

    #[test]
    fn storing_stops_where_it_fails_and_goes_on_there() {
        let data = data();
        for (offset, byte) in [(0, 1), (20, 2), (40, 3)] {
            data.failed(offset, &[byte; 10], libc::ENOSPC, true);
        }
        let mut stored = Vec::new();
        let mut store = |at| {
            stored.push(at);
            Ok(())
        };
        data.store(|at, _| if at == 20 { Err(libc::EIO) } else { store(at) });
        assert_eq!(data.lacking(), Some(Lacking { bytes: 20, lost: 0, errno: libc::EIO }));
        data.store(|at, _| store(at));
        assert_eq!(stored, [0, 20, 40]);
        assert_eq!((data.lacking(), left(&data)), (None, MOST_KEPT));
    }

    proptest! {
        /// A file of which every write fails reads as if it had been written, until it is.
        #[test]
        fn reads_show_what_is_kept(
            steps in proptest::collection::vec((0u8..3, 0usize..40, 1usize..12), 1..40)
        ) {
            let data = data();
            let mut plain = [0; 64];
            for (number, (step, at, len)) in steps.into_iter().enumerate() {
                let (offset, end) = (at as u64, (at + len) as u64);
                match step {
                    0 => {
                        plain[at..at + len].fill(number as u8 + 1);
                        data.failed(offset, &plain[at..at + len], libc::EIO, true);
                    }
                    1 => {
                        plain[at..at + len].fill(0);
                        if let Some(mut held) = data.hold(&(offset..end)) {
                            held.settle(offset..end);
                        }
                    }
                    _ => {
                        let mut out = vec![0; len];
                        let read = data.hold(&(offset..end)).map_or(0, |held| held.lay_over(offset, &mut out, 0));
                        prop_assert_eq!(&out[..], &plain[at..at + len]);
                        prop_assert!(out[read..].iter().all(|&byte| byte == 0));
                    }
                }
                let bytes = plain.iter().filter(|&&byte| byte != 0).count() as u64;
                prop_assert_eq!(data.lacking().map_or(0, |lacking| lacking.bytes), bytes);
                prop_assert_eq!(left(&data), MOST_KEPT - bytes);
            }
        }
    }
}
