//! The writing end of the log: groups of events become durable lines, in order.
//!
//! *What a group was acknowledged for is never taken back.* A file that a write failed on is never
//! written to again, as after a failed flush the kernel may take pages for clean that never
//! reached the disk. It is replaced by a new file with what was acknowledged; the same goes for a
//! file whose last writer did not close the log. See `kms::store::writer` for the same rule.
//!
//! *What was made durable is not forgotten.* Opening takes an [`Head`] from the key store, the
//! anchor: the log had at least these lines. If they are not there any more, a line says so, and
//! numbering goes on after them, so that the gap stays.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use data_encoding::HEXLOWER;
use jiff::Timestamp;
use redb::StorageBackend;

use super::chain::{self, Head, Line};
use super::error::AuditError;
use super::event::{EventIds, Parameter};
use super::segment::{self, First, MAX_READ, Owner, Previous};
use crate::crypto::kdf::sha256;
use crate::kms::store::Disk;
use crate::secret::Key;

/// Name of the event that says that an unfinished end was cut off.
pub const RECOVERED: &str = "RecoverAuditLog";
/// Name of the event that says that lines are gone that were durable.
pub const LOST: &str = "LoseAuditEvents";
/// Suffix of the copy that is kept of a segment that lost something.
const DAMAGED: &str = ".damaged";
/// Longest line that opening looks for at the end of a segment.
const LAST_LINE: u64 = 2 * super::event::MAX_EVENT as u64;

/// When a new segment is begun.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes in a segment. One is longer by at most a group.
    pub bytes: u64,
    /// Time from a segment's first line.
    pub age: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 16 << 20, age: Duration::from_secs(24 * 3600) }
    }
}

/// What a log is written with.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The disk.
    pub disk: Arc<dyn Disk>,
    /// The log's directory.
    pub dir: PathBuf,
    /// Whose log it is.
    pub owner: Owner,
    /// Authenticates the lines.
    pub key: Arc<Key>,
    /// When a new segment is begun.
    pub limits: Limits,
    /// Names of events.
    pub ids: Arc<EventIds>,
}

/// An open log. One at a time; the key store's lock sees to that.
#[derive(Debug)]
pub struct Journal {
    setup: Setup,
    /// `None` before the first line.
    segment: Option<Segment>,
    /// The last durable line.
    head: Head,
    /// What opening has to say, to be written before anything else.
    notices: Vec<Vec<u8>>,
    /// Whether the file may be written to. See the module's first rule.
    sound: bool,
}

#[derive(Debug)]
struct Segment {
    first: u64,
    /// Durable bytes.
    len: u64,
    begun: Option<Timestamp>,
    file: Box<dyn StorageBackend>,
}

/// What is found at the end of a log may be taken over, or not.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// Whole lines after the anchor are the log's: its last writer may have died before it could
    /// anchor them.
    AllLines,
    /// Lines after the anchor were not acknowledged, and their events will come again.
    AnchoredLines,
}

impl Journal {
    /// Opens the log, or begins one. `anchor` is what the key store remembers of it.
    ///
    /// # Errors
    /// When the directory cannot be made, or its last segment not be read or replaced.
    pub fn open(setup: Setup, anchor: Head, now: Timestamp) -> Result<Self, AuditError> {
        let made = setup.disk.make_directory(&setup.dir);
        made.map_err(AuditError::io("make the directory", &setup.dir))?;
        Self::recover(setup, anchor, Trust::AllLines, now)
    }

    /// The last durable line.
    pub fn head(&self) -> Head {
        self.head
    }

    /// The segment that is being written, by its first line, and how long it is.
    pub fn end(&self) -> Option<(u64, u64)> {
        self.segment.as_ref().map(|segment| (segment.first, segment.len))
    }

    /// Makes `events` durable, in their order. Each is a JSON object on one line.
    ///
    /// # Errors
    /// [`AuditError`]; none of them is in the log then, and the log can be appended to again.
    pub fn append<'e>(
        &mut self,
        events: impl Iterator<Item = &'e [u8]> + Clone,
        now: Timestamp,
    ) -> Result<(), AuditError> {
        if !self.sound {
            let recovered = Self::recover(self.setup.clone(), self.head, Trust::AnchoredLines, now)?;
            let unsaid = std::mem::replace(self, recovered);
            self.notices.splice(..0, unsaid.notices);
        }
        if self.notices.is_empty() && events.clone().next().is_none() {
            return Ok(());
        }
        self.sound = false;
        self.write(events, now)?;
        self.sound = true;
        self.notices.clear();
        Ok(())
    }

    fn write<'e>(
        &mut self,
        events: impl Iterator<Item = &'e [u8]>,
        now: Timestamp,
    ) -> Result<(), AuditError> {
        let (setup, mut head, mut text) = (&self.setup, self.head, Vec::new());
        let begins = self.segment.as_ref().is_none_or(|segment| is_full(segment, &setup.limits, now));
        let first = head.sequence + 1;
        if begins {
            let previous = self.segment.as_ref().map_or(Ok(None), |segment| previous(setup, segment))?;
            let event = segment::first_event(&setup.owner, &setup.ids, previous.as_ref(), now);
            head = chain::append(&setup.key, head, &event, &mut text);
        }
        for event in &self.notices {
            head = chain::append(&setup.key, head, event, &mut text);
        }
        for event in events {
            head = chain::append(&setup.key, head, event, &mut text);
        }
        match &mut self.segment {
            Some(segment) if !begins => {
                let len = segment.len + text.len() as u64;
                let write = || {
                    segment.file.set_len(len)?;
                    segment.file.write(segment.len, &text)?;
                    segment.file.sync_data()
                };
                write().map_err(AuditError::io("write", &segment::path(&setup.dir, segment.first)))?;
                segment.len = len;
            }
            _ => {
                let file = segment::publish(&*setup.disk, &setup.dir, &segment::file_name(first), &text)?;
                self.segment = Some(Segment { first, len: text.len() as u64, begun: Some(now), file });
            }
        }
        self.head = head;
        Ok(())
    }

    /// Finds the end of the log and makes its last segment one that can be written to.
    fn recover(setup: Setup, anchor: Head, trust: Trust, now: Timestamp) -> Result<Self, AuditError> {
        let listed = segment::list(&*setup.disk, &setup.dir).map_err(AuditError::io("list", &setup.dir))?;
        let mut journal = Self { setup, segment: None, head: anchor, notices: Vec::new(), sound: true };
        let mut left = listed.as_slice();
        while let [rest @ .., first] = left {
            if journal.take_over(*first, anchor, trust, now)? {
                return Ok(journal);
            }
            left = rest;
        }
        if listed.is_empty() && anchor != Head::START {
            // Archived as a whole, or the store was moved without it: the chain goes on.
            tracing::warn!(last = anchor.sequence, "the audit log's earlier segments are not here");
        } else if anchor != Head::START {
            journal.note_loss(0, anchor, now);
        }
        Ok(journal)
    }

    /// Goes on in the segment that begins with the line `first`. Answers false if nothing in it is
    /// of the log; it is out of the way then.
    fn take_over(
        &mut self,
        first: u64,
        anchor: Head,
        trust: Trust,
        now: Timestamp,
    ) -> Result<bool, AuditError> {
        let path = segment::path(&self.setup.dir, first);
        if trust == Trust::AllLines && self.was_closed(&path, first, anchor)? {
            return Ok(true);
        }
        let disk = Arc::clone(&self.setup.disk);
        if trust == Trust::AnchoredLines && first > anchor.sequence {
            let remove = || disk.remove(&path).and_then(|()| disk.sync_directory(&self.setup.dir));
            return remove().map_err(AuditError::io("remove", &path)).map(|()| false);
        }
        let bytes = disk.read(&path, MAX_READ).map_err(AuditError::io("read", &path))?;
        let most = if trust == Trust::AnchoredLines { anchor.sequence } else { u64::MAX };
        let (len, end) = authentic_prefix(&self.setup.key, &bytes, first, most);
        if trust == Trust::AllLines && len < bytes.len() {
            self.note_cut(&path, &bytes[len..], now)?;
        }
        let Some(end) = end else {
            let remove = || disk.remove(&path).and_then(|()| disk.sync_directory(&self.setup.dir));
            return remove().map_err(AuditError::io("put aside", &path)).map(|()| false);
        };
        if end.sequence < anchor.sequence {
            self.note_loss(end.sequence, anchor, now);
        } else {
            self.head = end;
        }
        let file = segment::publish(&*disk, &self.setup.dir, &segment::file_name(first), &bytes[..len])?;
        let begun = First::read(first_text(&bytes)).and_then(|first| first.time);
        self.segment = Some(Segment { first, len: len as u64, begun, file });
        Ok(true)
    }

    /// Takes the last segment over as it is, if it ends where the anchor says. Then it was flushed
    /// without an error, and every byte of it has been acknowledged.
    fn was_closed(&mut self, path: &Path, first: u64, anchor: Head) -> Result<bool, AuditError> {
        let failed = || AuditError::io("read", path);
        let file = self.setup.disk.open(path).map_err(failed())?;
        let len = file.len().map_err(failed())?;
        let mut end = vec![0; len.min(LAST_LINE) as usize];
        file.read(len - end.len() as u64, &mut end).map_err(failed())?;
        let Some(text) = end.strip_suffix(b"\n") else { return Ok(false) };
        let start = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let Some(line) = Line::parse(&text[start..]) else { return Ok(false) };
        if line.head() != anchor || !line.is_authentic(&self.setup.key) {
            return Ok(false);
        }
        let mut start = vec![0; len.min(LAST_LINE) as usize];
        file.read(0, &mut start).map_err(failed())?;
        let begun = First::read(first_text(&start)).and_then(|first| first.time);
        self.segment = Some(Segment { first, len, begun, file });
        Ok(true)
    }

    /// Has the log say that an end was cut off. If there are lines in it, a crash may still be all
    /// there was, but it could also be the end that somebody broke off: the file is kept then.
    fn note_cut(&mut self, path: &Path, cut: &[u8], now: Timestamp) -> Result<(), AuditError> {
        let is_ours = |text: &[u8]| Line::parse(text).is_some_and(|line| line.is_authentic(&self.setup.key));
        let lines = cut.split(|byte| *byte == b'\n').filter(|text| is_ours(text)).count();
        if lines > 0 {
            let mut copy = path.as_os_str().to_owned();
            copy.push(DAMAGED);
            match self.setup.disk.link(path, Path::new(&copy)) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(AuditError::io("keep", path)(error));
                }
                _ => {}
            }
        }
        tracing::info!(bytes = cut.len(), lines, "the audit log ended unfinished; that end was cut off");
        let digest = HEXLOWER.encode(&sha256(&[cut]));
        let additional = [
            ("cutBytes", Parameter::Number(cut.len() as u64)),
            ("cutLines", Parameter::Number(lines as u64)),
            ("cutSha256", Parameter::Text(&digest)),
        ];
        let (owner, ids) = (&self.setup.owner, &self.setup.ids);
        self.notices.push(segment::service_event(owner, ids, RECOVERED, &additional, now));
        Ok(())
    }

    /// Has the log say that durable lines are gone.
    fn note_loss(&mut self, found: u64, anchor: Head, now: Timestamp) {
        tracing::error!(from = found + 1, to = anchor.sequence, "lines of the audit log are gone");
        let additional =
            [("firstLost", Parameter::Number(found + 1)), ("lastLost", Parameter::Number(anchor.sequence))];
        let (owner, ids) = (&self.setup.owner, &self.setup.ids);
        self.notices.push(segment::service_event(owner, ids, LOST, &additional, now));
    }
}

fn is_full(segment: &Segment, limits: &Limits, now: Timestamp) -> bool {
    let age = segment
        .begun
        .map_or(Duration::ZERO, |begun| now.duration_since(begun).try_into().unwrap_or_default());
    segment.len >= limits.bytes || age >= limits.age
}

/// The segment that is full, for the one after it; `None` if it was archived already.
fn previous(setup: &Setup, full: &Segment) -> Result<Option<Previous>, AuditError> {
    let path = segment::path(&setup.dir, full.first);
    let bytes = match setup.disk.read(&path, MAX_READ) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(AuditError::io("read", &path))?,
    };
    // Should it have been cut meanwhile, neither length nor digest will fit: as it should be.
    let sha256 = sha256(&[&bytes[..bytes.len().min(full.len as usize)]]);
    Ok(Some(Previous { file: segment::file_name(full.first), bytes: full.len, sha256 }))
}

/// How far `bytes` are lines of this log, beginning with `first`, and where they end; not beyond
/// the line `most`.
fn authentic_prefix(key: &Key, bytes: &[u8], first: u64, most: u64) -> (usize, Option<Head>) {
    let (mut len, mut end) = (0, None::<Head>);
    for text in bytes.split_inclusive(|byte| *byte == b'\n') {
        let line = text.strip_suffix(b"\n").and_then(Line::parse);
        let Some(line) = line.filter(|line| line.sequence <= most) else { break };
        // A gap that was noticed before stays one.
        let follows = match &end {
            None => line.sequence == first,
            Some(end) => line.follows(end) || line.sequence > end.sequence + 1,
        };
        if !follows || !line.is_authentic(key) {
            break;
        }
        len += text.len();
        end = Some(line.head());
    }
    (len, end)
}

fn first_text(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == b'\n').next().unwrap_or_default()
}
