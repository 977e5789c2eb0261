//! Handles whose reads and writes the kernel passes on as they are, past its page cache.
//!
//! Whoever only writes has no use for pages: passed on directly, large writes are copied once less, and
//! the plaintext does not fill memory beside the ciphertext. But the kernel does not keep direct writes
//! and cached pages in step: it drops the pages of a range *before* it passes the write on, so a reader
//! can fetch one of them again before the write has arrived, and keep it. Therefore a file's handles
//! of one time are all cached or all direct; the first one decides.
//!
//! A mapping has pages whatever its handle is. So the first request for a page of a direct file marks
//! it as *paged*, before anything is read, and from then on every direct write drops the pages of its
//! range once more, after it has arrived and before it is answered. Should the kernel have such a page
//! to write back, it may have been fetched before the write arrived: what is being written directly is
//! left out of it.
//!
//! Dropping pages can wait for requests, and is not done by a thread that serves them.

use std::ops::Range;

use super::open_file::Handle;
use super::{Fs, FsResult};
use crate::provider::check_waiting;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};

/// How the kernel passes a handle's reads and writes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IoMode {
    /// By way of its page cache.
    Cached,
    /// As programs make them.
    Direct,
}

/// What direct handles need to know of each other.
#[derive(Default)]
pub(super) struct DirectIo {
    state: Mutex<State>,
    /// Since the first handle became direct, the kernel asked for a page.
    paged: AtomicBool,
}

#[derive(Default)]
struct State {
    cached: u64,
    /// Zero while there are cached ones.
    direct: u64,
    /// What is being written directly. Few at a time.
    writes: Vec<Range<u64>>,
}

/// A direct write, until it is answered.
pub(super) struct DirectWrite<'a> {
    io: &'a DirectIo,
    range: Range<u64>,
}

impl DirectIo {
    /// The mode of a new handle, for which `wanted` would do.
    fn enter(&self, wanted: IoMode) -> IoMode {
        let mut state = self.state.lock();
        if state.cached == 0 && (state.direct > 0 || wanted == IoMode::Direct) {
            state.direct += 1;
            IoMode::Direct
        } else {
            state.cached += 1;
            IoMode::Cached
        }
    }

    /// A handle is closed. None of its requests are under way any more.
    fn leave(&self, mode: IoMode) {
        let mut state = self.state.lock();
        match mode {
            IoMode::Cached => state.cached -= 1,
            IoMode::Direct => {
                state.direct -= 1;
                if state.direct == 0 {
                    self.paged.store(false, Ordering::SeqCst);
                }
            }
        }
    }

    /// The kernel asks for a page. Told before it is read: a write that arrives later drops it again.
    pub(super) fn note_page(&self) {
        self.paged.store(true, Ordering::SeqCst);
    }

    fn is_paged(&self) -> bool {
        self.paged.load(Ordering::SeqCst)
    }

    fn begin_write(&self, range: Range<u64>) -> DirectWrite<'_> {
        self.state.lock().writes.push(range.clone());
        DirectWrite { io: self, range }
    }

    /// The parts of a range that are not being written directly, in order; `None` for all of it.
    pub(super) fn without_writes(&self, range: &Range<u64>) -> Option<Vec<Range<u64>>> {
        let state = self.state.lock();
        if state.writes.is_empty() {
            return None;
        }
        let mut parts = vec![range.clone()];
        for write in &state.writes {
            let cut = |part: Range<u64>| {
                let before = part.start..part.end.min(write.start);
                let behind = part.start.max(write.end)..part.end;
                [before, behind].into_iter().filter(|part| !part.is_empty())
            };
            parts = parts.into_iter().flat_map(cut).collect();
        }
        Some(parts)
    }
}

impl Drop for DirectWrite<'_> {
    fn drop(&mut self) {
        let mut state = self.io.state.lock();
        if let Some(at) = state.writes.iter().position(|write| *write == self.range) {
            state.writes.swap_remove(at);
        }
    }
}

impl Handle {
    pub(super) fn is_direct(&self) -> bool {
        self.io_mode.get() == Some(&IoMode::Direct)
    }

    /// To be called when the handle is closed.
    pub(super) fn leave_io_mode(&self) {
        if let Some(mode) = self.io_mode.get() {
            self.open.direct.leave(*mode);
        }
    }

    /// Announces a write, if it is a direct one.
    ///
    /// # Errors
    /// That the thread would have to wait for pages to be dropped, and must not.
    pub(super) fn begin_direct_write(&self, range: Range<u64>) -> FsResult<Option<DirectWrite<'_>>> {
        if !self.is_direct() {
            return Ok(None);
        }
        check_waiting(|| self.open.direct.is_paged())?;
        Ok(Some(self.open.direct.begin_write(range)))
    }
}

impl Fs {
    /// Decides how the kernel is to pass on what is done through a new handle, which has not been used
    /// yet. `wanted` is what suits the handle; all handles of a file that are open at a time get the same.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn choose_io_mode(&self, fh: u64, wanted: IoMode) -> FsResult<IoMode> {
        let handle = self.handle(fh)?;
        Ok(*handle.io_mode.get_or_init(|| handle.open.direct.enter(wanted)))
    }

    /// Drops the pages that the kernel may have fetched in the range of a direct write before that had
    /// arrived.
    ///
    /// # Errors
    /// That the thread would have to wait, and must not: writing the same once more does no harm. Else
    /// when the kernel could not be told.
    pub(super) fn drop_overtaken_pages(&self, handle: &Handle, range: Range<u64>) -> FsResult<()> {
        if !handle.open.direct.is_paged() {
            return Ok(());
        }
        check_waiting(|| true)?;
        let kernel = self.kernel.read().clone();
        let len = range.end - range.start;
        Ok(kernel.map_or(Ok(()), |kernel| kernel.invalidate(handle.inode.ino, range.start, Some(len)))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_of_one_time_are_alike() {
        let io = DirectIo::default();
        assert_eq!(io.enter(IoMode::Direct), IoMode::Direct);
        assert_eq!(io.enter(IoMode::Cached), IoMode::Direct);
        io.leave(IoMode::Direct);
        assert_eq!(io.enter(IoMode::Cached), IoMode::Direct);
        io.leave(IoMode::Direct);
        io.leave(IoMode::Direct);
        assert_eq!(io.enter(IoMode::Cached), IoMode::Cached);
        assert_eq!(io.enter(IoMode::Direct), IoMode::Cached);
    }

    #[test]
    fn that_there_are_pages_is_known_as_long_as_direct_handles_are() {
        let io = DirectIo::default();
        io.enter(IoMode::Direct);
        io.enter(IoMode::Cached);
        io.note_page();
        io.leave(IoMode::Direct);
        assert!(io.is_paged());
        io.leave(IoMode::Direct);
        assert!(!io.is_paged());
    }

    #[test]
    fn what_is_being_written_is_left_out() {
        let io = DirectIo::default();
        let left = |range: Range<u64>| io.without_writes(&range);
        assert_eq!(left(0..4096), None);
        let first = io.begin_write(100..200);
        let second = io.begin_write(4000..9000);
        let third = io.begin_write(150..300);
        assert_eq!(left(0..4096), Some(vec![0..100, 300..4000]));
        assert_eq!(left(100..250), Some(vec![]));
        drop(first);
        assert_eq!(left(0..4096), Some(vec![0..150, 300..4000]));
        drop((second, third));
        assert_eq!(left(0..4096), None);
    }
}
