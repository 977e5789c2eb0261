//! Re-encrypting many files: a new data key for each, and its contents under that.
//!
//! A file does not say since when it has its data key. What one run has done is remembered until it
//! ends, and the next run does it again; a file that a run has left half done is gone on with. Walks over
//! the tree follow each other until one has met no file that is new to it: what was moved about
//! meanwhile is met by the next.

use std::collections::HashSet;
use std::io;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::{Left, MAX_NAMED, MAX_PASSES, NAP, Place, Tally, Tree, count, errno};
use crate::fs::FileKind;

/// Attempts at a step while other operations on the file do not end in time.
const ATTEMPTS: u32 = 20;

/// What came of it.
#[derive(Debug, Default)]
pub struct Reencrypted {
    /// Files whose contents are under a new data key.
    pub files: u64,
    /// Bytes of plaintext that were gone through.
    pub bytes: u64,
    /// Directories that were assigned the master key.
    pub assigned: u64,
    /// What could not be done; not all of it if that is much.
    pub left: Vec<Left>,
    /// How much that is.
    pub left_count: u64,
    /// Ended by a signal.
    pub cancelled: bool,
}

impl Reencrypted {
    /// Whether everything was done.
    pub fn is_complete(&self) -> bool {
        self.left_count == 0 && !self.cancelled
    }
}

/// Gives every file at and below `top` a new data key under the master key with this ARN, and
/// directories the master key for new files; at most so many bytes a second.
pub fn reencrypt(
    tree: &dyn Tree,
    top: &Place,
    key: &str,
    limit: Option<u64>,
    tally: &Tally,
    stop: &AtomicBool,
) -> Reencrypted {
    let begin = Instant::now();
    let outcome = Reencrypted::default();
    let mut work = Work { tree, key, limit, begin, tally, stop, met: HashSet::new(), outcome };
    if tally.is_wanted() {
        tally.set_total(count(tree, top, stop));
    }
    for _ in 0..MAX_PASSES {
        let before = work.met.len();
        work.outcome.assigned = 0;
        tally.begin_pass();
        work.outcome.cancelled = work.visit(top).is_break();
        if work.outcome.cancelled || work.met.len() == before {
            break;
        }
    }
    if work.outcome.assigned > 0
        && let Err(error) = tree.flush(top)
    {
        work.leave(top, &error);
    }
    work.outcome
}

struct Work<'a> {
    tree: &'a dyn Tree,
    key: &'a str,
    limit: Option<u64>,
    begin: Instant,
    tally: &'a Tally,
    stop: &'a AtomicBool,
    /// Inode numbers of the files that were done, or could not be.
    met: HashSet<u64>,
    outcome: Reencrypted,
}

impl Work<'_> {
    fn visit(&mut self, place: &Place) -> ControlFlow<()> {
        if self.stop.load(Ordering::Relaxed) {
            return ControlFlow::Break(());
        }
        match place.kind {
            FileKind::Directory => self.directory(place),
            FileKind::Regular => {
                self.tally.saw();
                // Others may be names of the same one.
                if self.met.insert(place.ino) { self.file(place) } else { ControlFlow::Continue(()) }
            }
            _ => ControlFlow::Continue(()),
        }
    }

    fn directory(&mut self, place: &Place) -> ControlFlow<()> {
        match self.tree.assign(place, self.key) {
            Ok(()) => self.outcome.assigned += 1,
            Err(error) if self.met.insert(place.ino) => self.leave(place, &error),
            Err(_) => {}
        }
        let tree = self.tree;
        match tree.each(place, &mut |entry| self.visit(&entry)) {
            Ok(flow) => flow,
            Err(error) => {
                self.leave(place, &error);
                ControlFlow::Continue(())
            }
        }
    }

    fn file(&mut self, place: &Place) -> ControlFlow<()> {
        match self.reencrypt(place) {
            Ok(ControlFlow::Continue(())) => {
                self.outcome.files += 1;
                self.tally.rewrapped();
                ControlFlow::Continue(())
            }
            Ok(stopped) => stopped,
            Err(error) => {
                self.leave(place, &error);
                ControlFlow::Continue(())
            }
        }
    }

    fn reencrypt(&mut self, place: &Place) -> io::Result<ControlFlow<()>> {
        let tree = self.tree;
        let held = tree.hold(place)?;
        self.retry(|| held.begin(self.key))?;
        let before = self.outcome.bytes;
        while let Some(progress) = self.retry(|| held.step())? {
            self.outcome.bytes = before + progress.done;
            self.tally.set_bytes(self.outcome.bytes);
            if self.wait().is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Tries again for a while what others hold up.
    fn retry<T>(&self, mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        let mut attempts = 1;
        loop {
            match attempt() {
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) && attempts < ATTEMPTS => {
                    attempts += 1;
                    std::thread::sleep(NAP);
                }
                done => return done,
            }
        }
    }

    /// Waits where too many bytes were done a second; breaks off when it is to stop.
    fn wait(&self) -> ControlFlow<()> {
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return ControlFlow::Break(());
            }
            let due = self.limit.map_or(0.0, |limit| self.outcome.bytes as f64 / limit.max(1) as f64);
            match Duration::from_secs_f64(due).checked_sub(self.begin.elapsed()) {
                Some(wait) if !wait.is_zero() => std::thread::sleep(wait.min(NAP)),
                _ => return ControlFlow::Continue(()),
            }
        }
    }

    fn leave(&mut self, place: &Place, error: &io::Error) {
        let errno = errno(error);
        // It went away meanwhile.
        if matches!(errno, libc::ENOENT | libc::ESTALE) {
            return;
        }
        self.outcome.left_count += 1;
        if self.outcome.left.len() < MAX_NAMED {
            let wrapping = self.tree.wrapping(place).ok();
            self.outcome.left.push(Left { path: place.path.clone(), wrapping, errno });
        }
    }
}
