//! Keeps the number of descriptors that inodes hold within bounds, so that a tree may be larger
//! than the limit of open files. Files that programs have open cannot give theirs up: the more there are,
//! the fewer are left for inodes.
//!
//! The descriptors form a clock: the oldest is taken away, unless it was used since the hand last
//! passed it. An inode whose descriptor was taken away opens it again by its parent and name.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use super::disk::Disk;
use super::inode::Inode;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicUsize, Ordering};

/// Descriptors looked at for each one that is added, at most.
const STEPS: usize = 8;

/// The inodes that hold a descriptor.
pub(super) struct Descriptors {
    pub(super) disk: Disk,
    /// Of the process, as far as they are for this filesystem.
    total: usize,
    /// Open files.
    open_files: AtomicUsize,
    /// Oldest first; some may be gone by now.
    clock: Mutex<VecDeque<Weak<Inode>>>,
}

/// The descriptor of an open file, counted for as long as this lives.
pub(super) struct Counted(Arc<Descriptors>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.open_files.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Descriptors {
    pub(super) fn new(disk: Disk, total: usize) -> Self {
        Self { disk, total, open_files: AtomicUsize::new(0), clock: Mutex::default() }
    }

    /// Counts an open file, for which an inode gives up its descriptor if there are too many.
    pub(super) fn count(self: &Arc<Self>) -> Counted {
        self.open_files.fetch_add(1, Ordering::Relaxed);
        self.give_up(None);
        Counted(Arc::clone(self))
    }

    /// Most descriptors of inodes. An eighth of all is for what is held for a moment.
    fn limit(&self) -> usize {
        let left = (self.total - self.total / 8).saturating_sub(self.open_files.load(Ordering::Relaxed));
        left.min(self.total / 2)
    }

    /// Notes that an inode has opened its descriptor, and has another one give up its own if there
    /// are too many.
    pub(super) fn note(&self, inode: Weak<Inode>) {
        self.give_up(Some(inode));
    }

    fn give_up(&self, new: Option<Weak<Inode>>) {
        let limit = self.limit();
        // Dropped behind the lock: the last reference to an inode may be among them.
        let mut passed = Vec::new();
        let mut clock = self.clock.lock();
        clock.extend(new);
        for _ in 0..STEPS {
            if clock.len() <= limit {
                break;
            }
            let Some(oldest) = clock.pop_front() else { break };
            if let Some(inode) = oldest.upgrade() {
                if !inode.give_up_descriptor() {
                    clock.push_back(oldest);
                }
                passed.push(inode);
            }
        }
        drop(clock);
    }
}
