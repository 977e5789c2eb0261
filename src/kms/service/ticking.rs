//! What the service does when the clock says so, and not because somebody calls.

use super::Service;
use crate::sync::atomic::Ordering;

impl Service {
    /// Does what the clock asks for: destroys keys, deletes imported material and rotates keys when
    /// that is due, and writes down how keys were used. Then scrubs the store's file, if anything was
    /// destroyed. Operations other than cryptographic ones do the former by themselves; an owner calls
    /// this now and then. It may take as long as writing the whole store, without holding up others.
    ///
    /// Nothing of this can be done while the store is locked; it is made up for when it is unlocked.
    pub fn tick(&self) {
        self.follow_the_clock();
        if !self.is_locked() {
            self.scrub_if_due();
        }
    }

    /// As [`Service::tick`], short of what takes long.
    pub(super) fn follow_the_clock(&self) {
        if self.is_locked() {
            return;
        }
        let now = self.clock.now();
        if now.as_millisecond() >= self.next_due.load(Ordering::Acquire) {
            self.destroy_due(now);
            self.expire_due(now);
            self.rotate_due(now);
        }
        if now.as_millisecond() >= self.next_flush.load(Ordering::Acquire) {
            self.write_usage(now);
        }
    }
}
