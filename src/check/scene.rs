//! What all parts of a check share: the volume, its keys, and the ledger of what was found.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::finding::Finding;
use super::page::PageBytes;
use super::progress::Progress;
use super::repair::Remedy;
use super::report::{Found, Place, Report};
use crate::chunk::Integrity;
use crate::format::Id;
use crate::fs::disk::{Disk, DiskFile};
use crate::fs::{Counts, Volume};
use crate::provider::Provider;

/// What a check works with.
pub(super) struct Scene<'a> {
    pub(super) disk: Disk,
    pub(super) root: &'a OwnedFd,
    /// The volume's id, as far as it could be read.
    pub(super) volume: Option<Id>,
    /// Absent in a check without keys.
    pub(super) keyed: Option<Keyed<'a>>,
    /// Chunks are not opened.
    pub(super) headers_only: bool,
    pub(super) progress: &'a Progress,
    pub(super) stop: &'a AtomicBool,
    /// What was found so far. Held for moments only.
    pub(super) ledger: Mutex<Ledger>,
}

/// What opens what is sealed.
#[derive(Clone, Copy)]
pub(super) struct Keyed<'a> {
    pub(super) volume: &'a Volume,
    pub(super) provider: &'a dyn Provider,
    /// How far the volume's state lets files be believed.
    pub(super) integrity: Integrity,
}

/// What was found so far.
///
/// A file takes one entry of `owners`, 24 bytes in a table that is between 7/16 and 7/8 full; what
/// else is here grows with what is rare.
#[derive(Default)]
pub(super) struct Ledger {
    pub(super) report: Report,
    /// What to do about findings, by their number in the report.
    pub(super) remedies: Vec<(usize, Remedy)>,
    /// The inode that has each id.
    owners: HashMap<Id, u64>,
    /// Inodes with several names that were looked at.
    linked: HashSet<u64>,
    /// Stored targets that links have, and one inode that has each.
    pub(super) targets: HashMap<String, u64>,
    /// Authentic records of directories that were found in another directory.
    pub(super) misplaced: HashMap<Id, PageBytes>,
    /// What wraps the files, by their headers.
    pub(super) counts: Counts,
    /// The newest epoch of any file.
    pub(super) newest_epoch: u32,
    /// Some part of the tree could not be listed.
    pub(super) incomplete: bool,
}

impl Scene<'_> {
    /// Notes a finding.
    pub(super) fn found(&self, place: &Place, finding: Finding, remedy: impl Into<Option<Remedy>>) {
        let found = Found { place: place.clone(), finding, bytes: None, repaired: None };
        self.found_within(found, remedy);
    }

    /// Notes a finding about a part of a file.
    pub(super) fn found_within(&self, found: Found, remedy: impl Into<Option<Remedy>>) {
        let mut ledger = self.ledger.lock();
        let number = ledger.report.findings.len();
        ledger.report.findings.push(found);
        ledger.remedies.extend(remedy.into().map(|remedy| (number, remedy)));
        self.progress.found();
    }

    /// Notes that something could not be looked at: damage, if it is the disk that failed.
    pub(super) fn not_readable(&self, place: &Place, error: &io::Error) {
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        if errno == libc::EIO || errno == libc::EUCLEAN || errno == libc::EBADMSG {
            return self.found(place, Finding::Unreadable { chunks: 0..0, errno }, None);
        }
        self.ledger.lock().report.out_of_reach.push((place.clone(), errno));
    }

    /// Notes who has an id; answers whether somebody else has it too.
    pub(super) fn is_copy(&self, id: Id, ino: u64) -> bool {
        *self.ledger.lock().owners.entry(id).or_insert(ino) != ino
    }

    /// Notes an inode that has several names; answers whether another of them was met before.
    pub(super) fn is_known(&self, ino: u64) -> bool {
        !self.ledger.lock().linked.insert(ino)
    }

    /// Whether a signal asked to end.
    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Opens an entry for reading, leaving its access time as it is where that is allowed.
    ///
    /// # Errors
    /// As open(2).
    pub(super) fn open(&self, dir: impl AsFd, name: &str, flags: OFlags) -> rustix::io::Result<DiskFile> {
        let flags = flags | OFlags::RDONLY | OFlags::NONBLOCK;
        match self.disk.open(&dir, name, flags | OFlags::NOATIME) {
            Err(Errno::PERM) => self.disk.open(dir, name, flags),
            opened => opened,
        }
    }
}
