//! What a check answers: findings, counts and the exit code of fsck(8).

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::finding::{Finding, Severity};
use crate::format::Id;
use crate::format::layout::Layout;

/// Bits of the exit code, as in fsck(8).
pub mod exit {
    /// Errors were corrected.
    pub const CORRECTED: u8 = 1;
    /// Errors are left.
    pub const UNCORRECTED: u8 = 4;
    /// Something could not be looked at, or the check could not begin.
    pub const OPERATIONAL: u8 = 8;
    /// Wrong usage.
    pub const USAGE: u8 = 16;
    /// Ended by a signal.
    pub const CANCELLED: u8 = 32;
    /// The operating system or a library let the program down.
    pub const LIBRARY: u8 = 128;
}

/// An entry of the volume.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Place {
    /// Below the backing directory; empty for the volume itself.
    pub backing: PathBuf,
    /// As programs see it, from the root of a mount; unknown without keys, and where a name does
    /// not open.
    pub path: Option<PathBuf>,
}

/// A finding and where.
#[derive(Debug, Clone)]
pub struct Found {
    /// Where.
    pub place: Place,
    /// What.
    pub finding: Finding,
    /// Bytes of the file that it is about.
    pub bytes: Option<Bytes>,
    /// What was done about it.
    pub repaired: Option<String>,
}

/// A range of plaintext bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bytes {
    /// The first.
    pub offset: u64,
    /// How many.
    pub length: u64,
}

/// What was looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Directories, the root included.
    pub directories: u64,
    /// Regular files, each once however many names it has.
    pub files: u64,
    /// Symbolic links.
    pub links: u64,
    /// FIFOs, sockets and device nodes.
    pub others: u64,
    /// Bytes of chunks and map pages that were opened.
    pub bytes: u64,
}

/// The outcome of a check.
#[derive(Debug, Default)]
pub struct Report {
    /// The volume's id, where its page tells.
    pub volume: Option<Id>,
    /// Only what needs no key was looked at.
    pub keyless: bool,
    /// What was looked at.
    pub counts: Counts,
    /// What was found, by place.
    pub findings: Vec<Found>,
    /// Why files were not checked that are in order as far as that can be told, and how many.
    pub not_checked: BTreeMap<String, u64>,
    /// Entries that the operating system did not let us look at.
    pub out_of_reach: Vec<(Place, i32)>,
    /// What a repair did that belongs to no single finding, or why it left something.
    pub notes: Vec<String>,
    /// A signal ended it.
    pub cancelled: bool,
}

impl Report {
    /// The exit code, as fsck(8)'s.
    pub fn exit_code(&self) -> u8 {
        let errors = || self.findings.iter().filter(|found| found.finding.severity() > Severity::Note);
        let bit = |set: bool, bit: u8| if set { bit } else { 0 };
        bit(errors().any(|found| found.repaired.is_some()), exit::CORRECTED)
            | bit(errors().any(|found| found.repaired.is_none()), exit::UNCORRECTED)
            | bit(!self.out_of_reach.is_empty(), exit::OPERATIONAL)
            | bit(self.cancelled, exit::CANCELLED)
    }

    /// Number of files that were not checked because their key is not usable.
    pub fn not_checked(&self) -> u64 {
        self.not_checked.values().sum()
    }

    pub(super) fn sort(&mut self) {
        self.findings.sort_by(|a, b| {
            let first = |found: &Found| found.finding.chunks().map_or(0, |chunks| chunks.start);
            (&a.place, first(a)).cmp(&(&b.place, first(b)))
        });
    }
}

impl Found {
    /// A finding of a file of this layout and size.
    pub(super) fn within(place: Place, finding: Finding, layout: Layout, size: u64) -> Self {
        let bytes = finding.chunks().map(|chunks| {
            let offset = chunks.start * layout.payload();
            Bytes { offset, length: (chunks.end * layout.payload()).min(size).saturating_sub(offset) }
        });
        Self { place, finding, bytes, repaired: None }
    }
}
