//! Whether the kernel may have pages of a file, so that they are dropped once and not in every pass.
//!
//! The kernel gets a page by a request: it has the page, locked, before it asks. Whoever drops the pages of
//! a file forgets first that there were requests, and has the kernel drop them then. A request that came
//! before that is about pages that the kernel drops, or waits for and drops; one that comes later is noted
//! again. So where none is noted, and no dropping failed or is still under way, there are no pages.
//!
//! Where the kernel gathers writes, it makes pages without asking as long as a handle may write.

use crate::sync::atomic::{AtomicU32, Ordering};

/// A request may have left pages.
const NOTED: u32 = 1;
/// One dropping that has begun and is not over. There are never as many as would not fit.
const DROPPING: u32 = 2;

/// The kernel's pages of one inode, as far as requests tell. They outlive the handles of the file, for they
/// are kept for the next one who opens it.
#[derive(Default)]
pub(super) struct Pages(AtomicU32);

/// The dropping of a file's pages. Unless it is [`done`](Self::done), they may all be there still.
pub(super) struct Dropping<'a> {
    pages: &'a Pages,
    done: bool,
}

impl Pages {
    /// Notes a request by which the kernel may come to have pages: all but those of direct handles. To be called
    /// before the file's keys are taken, so that whoever takes them away knows of it.
    pub(super) fn note(&self) {
        // Almost always it is noted already: no cache line moves between readers then.
        if self.0.load(Ordering::SeqCst) & NOTED == 0 {
            self.0.fetch_or(NOTED, Ordering::SeqCst);
        }
    }

    /// Begins to drop the pages, if there may be any: that is certain where the kernel makes pages
    /// `unasked`.
    pub(super) fn begin_to_drop(&self, unasked: bool) -> Option<Dropping<'_>> {
        let begin = |state| (unasked || state != 0).then_some((state & !NOTED) + DROPPING);
        self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, begin).ok()?;
        Some(Dropping { pages: self, done: false })
    }
}

impl Dropping<'_> {
    /// The kernel has dropped every page.
    pub(super) fn done(mut self) {
        self.done = true;
    }
}

impl Drop for Dropping<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.pages.note();
        }
        self.pages.0.fetch_sub(DROPPING, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn may_be_there(pages: &Pages) -> bool {
        // Looking changes nothing: what is not done leaves it as it was.
        pages.0.load(Ordering::SeqCst) != 0
    }

    #[test]
    fn what_was_dropped_is_not_dropped_again_until_a_request_comes() {
        let pages = Pages::default();
        assert!(pages.begin_to_drop(false).is_none(), "nobody ever asked for any");
        pages.note();
        pages.begin_to_drop(false).unwrap().done();
        assert!(pages.begin_to_drop(false).is_none());
        pages.note();
        pages.note();
        pages.begin_to_drop(false).unwrap().done();
        assert!(!may_be_there(&pages));
    }

    #[test]
    fn a_request_that_comes_meanwhile_is_not_forgotten() {
        let pages = Pages::default();
        pages.note();
        let dropping = pages.begin_to_drop(false).unwrap();
        pages.note();
        dropping.done();
        assert!(may_be_there(&pages));
    }

    #[test]
    fn a_dropping_that_fails_or_is_under_way_leaves_pages() {
        let pages = Pages::default();
        pages.note();
        drop(pages.begin_to_drop(false).unwrap());
        let slow = pages.begin_to_drop(false).unwrap();
        pages.begin_to_drop(false).expect("the slow one may never be over").done();
        assert!(may_be_there(&pages));
        slow.done();
        assert!(!may_be_there(&pages));
    }

    #[test]
    fn pages_that_come_unasked_are_dropped_in_every_pass() {
        let pages = Pages::default();
        pages.begin_to_drop(true).unwrap().done();
        assert!(!may_be_there(&pages));
        assert!(pages.begin_to_drop(true).is_some());
    }
}
