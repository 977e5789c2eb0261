//! Re-wrapping many files: bringing the wrapping of every data key in a tree up to date, or under
//! another master key, without reading any data.
//!
//! Nothing is remembered between runs: a file that is wrapped as wanted is passed over after a look at
//! its header, so an interrupted run goes on where it ended. Passes follow each other until one has
//! found nothing to do; that one is the proof that nothing is left but what it names.

mod mounted;
mod reencrypt;
mod tally;
mod unmounted;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::fs::{FileKind, Progress, Wrapping};

pub use mounted::Mounted;
pub use reencrypt::{Reencrypted, reencrypt};
pub use tally::{Moment, Tally};
pub use unmounted::Unmounted;

/// Passes over everything; files that come in by other ways may need more than two.
const MAX_PASSES: u32 = 4;
/// Files named in the outcome; more are counted.
const MAX_NAMED: usize = 10_000;
/// How long to sleep at most before looking whether to stop.
const NAP: Duration = Duration::from_millis(100);

/// A file or directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// For people; in a mount also the way to reach it.
    pub path: PathBuf,
    /// Inode number.
    pub ino: u64,
    /// What it is.
    pub kind: FileKind,
}

/// What is done with each entry of a directory.
pub type Visit<'a> = dyn FnMut(Place) -> ControlFlow<()> + 'a;

/// A volume's files and directories, however they are reached.
pub trait Tree {
    /// Passes the entries of a directory on, without other filesystems that are mounted in it, until
    /// that breaks off.
    ///
    /// # Errors
    /// When the directory cannot be read.
    fn each(&self, directory: &Place, visit: &mut Visit<'_>) -> io::Result<ControlFlow<()>>;

    /// What wraps a file's data key; the volume's on its root.
    ///
    /// # Errors
    /// `ENODATA` where nothing is wrapped.
    fn wrapping(&self, place: &Place) -> io::Result<Wrapping>;

    /// Wraps a file's data key by a master key, or by the newest version of its own if that is empty.
    ///
    /// # Errors
    /// Those of the master keys; `EPERM` for whoever neither owns the file nor is root.
    fn wrap(&self, file: &Place, key: &str) -> io::Result<()>;

    /// Gives new files in a directory a master key.
    ///
    /// # Errors
    /// When that cannot be noted.
    fn assign(&self, directory: &Place, key: &str) -> io::Result<()>;

    /// How far the re-encryption of a file is; `None` if there is none under way.
    ///
    /// # Errors
    /// When that cannot be read.
    fn reencryption(&self, file: &Place) -> io::Result<Option<Progress>>;

    /// Gets hold of a file to re-encrypt it, by whatever name it has later.
    ///
    /// # Errors
    /// As open(2).
    fn hold<'t>(&'t self, file: &Place) -> io::Result<Box<dyn Held + 't>>;

    /// Makes everything that was wrapped at or below `top` durable. On a volume's root, the volume's
    /// own key is wrapped anew too.
    ///
    /// # Errors
    /// When it may not be durable.
    fn flush(&self, top: &Place) -> io::Result<()>;
}

/// A file that is being re-encrypted.
pub trait Held {
    /// Gives it a new data key under a master key, or goes on where that was begun.
    ///
    /// # Errors
    /// Those of the master keys; `EPERM` for whoever neither owns the file nor is root; `EBUSY` if it
    /// should be tried again.
    fn begin(&self, key: &str) -> io::Result<()>;

    /// Does some of the work. `None` when there is no more, and all of it is durable.
    ///
    /// # Errors
    /// As [`Held::begin`], and what is wrong with the file.
    fn step(&self) -> io::Result<Option<Progress>>;
}

/// How files are to be wrapped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Goal {
    /// By the newest version of the master key that they have.
    Newest {
        /// Only files of the master key with this ARN.
        key: Option<String>,
        /// Only files wrapped by an older version than this.
        older_than: Option<u32>,
    },
    /// By the newest version of the master key with this ARN; directories are assigned it.
    Under(String),
}

/// A file that is not as wanted, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// Which.
    pub path: PathBuf,
    /// How it is wrapped, if that could be told.
    pub wrapping: Option<Wrapping>,
    /// As the operating system says it.
    pub errno: i32,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Files wrapped anew.
    pub rewrapped: u64,
    /// Directories that were assigned the master key.
    pub assigned: u64,
    /// Files by what wraps them, as the last pass found them.
    pub found: HashMap<Wrapping, u64>,
    /// What the last pass could not bring to what was wanted; not all of it if that is much.
    pub left: Vec<Left>,
    /// How much that is.
    pub left_count: u64,
    /// What was wrapped anew may not be durable, as the operating system says it.
    pub not_durable: Option<i32>,
    /// Ended by a signal; the same command goes on.
    pub cancelled: bool,
}

impl Outcome {
    /// Whether everything is as wanted, durably, and was looked at.
    pub fn is_complete(&self) -> bool {
        self.left_count == 0 && self.not_durable.is_none() && !self.cancelled
    }
}

/// The newest version of a master key by its ARN, or the error of a file that is under it.
pub type Newest<'a> = dyn FnMut(&str) -> Result<u32, i32> + 'a;

/// Wraps everything at and below `top` as wanted, at most so many files a second.
pub fn rewrap(
    tree: &dyn Tree,
    top: &Place,
    goal: &Goal,
    newest: &mut Newest<'_>,
    rate: Option<u32>,
    tally: &Tally,
    stop: &AtomicBool,
) -> Outcome {
    let mut work = Work {
        tree,
        goal,
        newest,
        versions: BTreeMap::new(),
        rate,
        begin: Instant::now(),
        tally,
        stop,
        outcome: Outcome::default(),
    };
    if tally.is_wanted() {
        tally.set_total(count(tree, top, stop));
    }
    for _ in 0..MAX_PASSES {
        let before = work.outcome.rewrapped;
        work.begin_pass();
        if work.visit(top).is_break() {
            work.outcome.cancelled = true;
        }
        if work.outcome.rewrapped > before || work.outcome.not_durable.is_some() {
            work.outcome.not_durable = tree.flush(top).err().map(|error| errno(&error));
        }
        if work.outcome.cancelled || work.outcome.rewrapped == before {
            break;
        }
    }
    work.outcome
}

struct Work<'a, 'n> {
    tree: &'a dyn Tree,
    goal: &'a Goal,
    newest: &'a mut Newest<'n>,
    /// The newest versions as they were when they were first asked for: a rotation meanwhile is for
    /// another run.
    versions: BTreeMap<String, Result<u32, i32>>,
    rate: Option<u32>,
    begin: Instant,
    tally: &'a Tally,
    stop: &'a AtomicBool,
    outcome: Outcome,
}

impl Work<'_, '_> {
    fn begin_pass(&mut self) {
        self.outcome.found.clear();
        self.outcome.left.clear();
        self.outcome.left_count = 0;
        self.outcome.assigned = 0;
        self.tally.begin_pass();
    }

    fn visit(&mut self, place: &Place) -> ControlFlow<()> {
        if self.stop.load(Ordering::Relaxed) {
            return ControlFlow::Break(());
        }
        match place.kind {
            FileKind::Directory => self.directory(place),
            FileKind::Regular => {
                self.wait();
                self.tally.saw();
                self.file(place);
                ControlFlow::Continue(())
            }
            _ => ControlFlow::Continue(()),
        }
    }

    fn directory(&mut self, place: &Place) -> ControlFlow<()> {
        match self.goal {
            Goal::Under(key) => match self.tree.assign(place, key) {
                Ok(()) => self.outcome.assigned += 1,
                Err(error) => self.leave(place, None, &error),
            },
            // The root carries the volume's own key, which flushing wraps anew.
            Goal::Newest { .. } => {
                if let Ok(wrapping) = self.tree.wrapping(place)
                    && self.is_due(&wrapping) == Ok(true)
                {
                    match self.tree.flush(place) {
                        Ok(()) => self.outcome.rewrapped += 1,
                        Err(error) => self.leave(place, Some(wrapping), &error),
                    }
                }
            }
        }
        let tree = self.tree;
        match tree.each(place, &mut |entry| self.visit(&entry)) {
            Ok(flow) => flow,
            Err(error) => {
                self.leave(place, None, &error);
                ControlFlow::Continue(())
            }
        }
    }

    fn file(&mut self, place: &Place) {
        let wrapping = match self.tree.wrapping(place) {
            Ok(wrapping) => wrapping,
            Err(error) => return self.leave(place, None, &error),
        };
        match self.is_due(&wrapping) {
            Ok(false) => *self.outcome.found.entry(wrapping).or_default() += 1,
            Ok(true) => {
                let key = if let Goal::Under(key) = self.goal { key } else { "" };
                match self.tree.wrap(place, key) {
                    Ok(()) => {
                        self.outcome.rewrapped += 1;
                        self.tally.rewrapped();
                    }
                    Err(error) => self.leave(place, Some(wrapping), &error),
                }
            }
            Err(errno) => {
                let unknown = io::Error::from_raw_os_error(errno);
                self.leave(place, Some(wrapping), &unknown);
            }
        }
    }

    /// Whether something that is wrapped like this has to be wrapped anew.
    ///
    /// # Errors
    /// When its master key's newest version is not known.
    fn is_due(&mut self, wrapping: &Wrapping) -> Result<bool, i32> {
        match self.goal {
            Goal::Newest { key: Some(key), .. } if *key != wrapping.key_arn => Ok(false),
            Goal::Newest { older_than, .. } => {
                let newest = self.newest_of(&wrapping.key_arn)?;
                Ok(wrapping.key_version < newest.min(older_than.unwrap_or(u32::MAX)))
            }
            Goal::Under(key) => {
                let newest = self.newest_of(key)?;
                Ok(wrapping.key_arn != *key || wrapping.key_version < newest)
            }
        }
    }

    fn newest_of(&mut self, arn: &str) -> Result<u32, i32> {
        if let Some(known) = self.versions.get(arn) {
            return *known;
        }
        let newest = (self.newest)(arn);
        self.versions.insert(arn.to_owned(), newest);
        newest
    }

    fn leave(&mut self, place: &Place, wrapping: Option<Wrapping>, error: &io::Error) {
        let errno = errno(error);
        // It went away meanwhile.
        if matches!(errno, libc::ENOENT | libc::ESTALE) {
            return;
        }
        self.outcome.left_count += 1;
        if self.outcome.left.len() < MAX_NAMED {
            self.outcome.left.push(Left { path: place.path.clone(), wrapping, errno });
        }
    }

    /// Waits where too many files were wrapped a second.
    fn wait(&self) {
        let Some(rate) = self.rate else { return };
        let due = Duration::from_secs_f64(self.outcome.rewrapped as f64 / f64::from(rate));
        while let Some(wait) = due.checked_sub(self.begin.elapsed()).filter(|wait| !wait.is_zero()) {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            std::thread::sleep(wait.min(NAP));
        }
    }
}

/// Passes every file at and below `top` on with what wraps it, or why that cannot be told.
///
/// # Errors
/// When `top` cannot be read.
pub fn list(
    tree: &dyn Tree,
    top: &Place,
    visit: &mut dyn FnMut(&Place, io::Result<Wrapping>),
) -> io::Result<()> {
    if top.kind == FileKind::Regular {
        visit(top, tree.wrapping(top));
        return Ok(());
    }
    tree.each(top, &mut |place| {
        match place.kind {
            FileKind::Regular => visit(&place, tree.wrapping(&place)),
            FileKind::Directory => {
                if let Err(error) = list(tree, &place, visit) {
                    visit(&place, Err(error));
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    })
    .map(drop)
}

/// Files at and below `top`, for whoever wants to know how long it will take.
fn count(tree: &dyn Tree, top: &Place, stop: &AtomicBool) -> u64 {
    let mut files = 0;
    if top.kind == FileKind::Regular {
        return 1;
    }
    let _ = tree.each(top, &mut |place| {
        match place.kind {
            FileKind::Directory => files += count(tree, &place, stop),
            FileKind::Regular => files += 1,
            _ => {}
        }
        if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    files
}

/// A description that may be absent.
fn present<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.raw_os_error() == Some(libc::ENODATA) => Ok(None),
        Err(error) => Err(error),
    }
}

fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

#[cfg(test)]
mod tests;
