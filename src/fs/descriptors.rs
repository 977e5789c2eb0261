//! Keeps the number of descriptors that inodes hold within bounds, so that a tree may be larger
//! than the limit of open files.
//!
//! The descriptors form a clock: the oldest is taken away, unless it was used since the hand last
//! passed it. An inode whose descriptor was taken away opens it again by its parent and name.

use std::collections::VecDeque;
use std::sync::Weak;

use super::disk::Disk;
use super::inode::Inode;
use crate::sync::Mutex;

/// Descriptors looked at for each one that is added, at most.
const STEPS: usize = 8;

/// The inodes that hold a descriptor.
pub(super) struct Descriptors {
    pub(super) disk: Disk,
    limit: usize,
    /// Oldest first; some may be gone by now.
    clock: Mutex<VecDeque<Weak<Inode>>>,
}

impl Descriptors {
    pub(super) fn new(disk: Disk, limit: usize) -> Self {
        Self { disk, limit, clock: Mutex::default() }
    }

    /// Notes that an inode has opened its descriptor, and has another one give up its own if there
    /// are too many.
    pub(super) fn note(&self, inode: Weak<Inode>) {
        // Dropped behind the lock: the last reference to an inode may be among them.
        let mut passed = Vec::new();
        let mut clock = self.clock.lock();
        clock.push_back(inode);
        for _ in 0..STEPS {
            if clock.len() <= self.limit {
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
