//! Finding what was done to a log.
//!
//! With the key, every line that was edited, dropped, put elsewhere or put in is found, and every
//! cut but one: the lines after the anchor, at the very end, may be gone without a trace if the
//! log is not being written at that time. Without the key only accidents are found: whoever
//! changes a line can recompute the digests after it.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::chain::{Head, Line};
use super::error::AuditError;
use super::journal::Setup;
use super::segment::{First, MAX_READ, Previous, file_name, first_line, list};
use crate::crypto::kdf::sha256;
use crate::secret::Key;

/// Most findings that are listed; all are counted.
const MAX_FINDINGS: usize = 1000;

/// What a verification looked at and found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Report {
    /// Files, in the order of their lines.
    pub segments: Vec<String>,
    /// Number of the first line that was there.
    pub first: u64,
    /// Number of the last.
    pub last: u64,
    /// Lines that were there.
    pub lines: u64,
    /// Time of the first line.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub since: Option<String>,
    /// Time of the last.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub until: Option<String>,
    /// Whether the lines were authenticated, not only the digests compared.
    pub authenticated: bool,
    /// Number of the line up to which the key store vouches for the end.
    pub anchor: u64,
    /// What is wrong; the first thousand.
    pub findings: Vec<Finding>,
    /// How much is wrong.
    pub wrong: u64,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.wrong == 0
    }
}

/// Something wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Finding {
    /// The file.
    pub file: String,
    /// The line in it, from 1; 0 for the file as a whole.
    pub line: u64,
    /// What.
    pub problem: Problem,
}

/// What can be wrong with a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // `Display` says what each means.
pub enum Problem {
    NotALine,
    Forged,
    Missing { first: u64, last: u64 },
    OutOfOrder { found: u64, expected: u64 },
    BeforeChanged,
    NoFirstLine,
    Misnamed { first: u64 },
    PreviousDiffers,
    Unfinished { bytes: u64 },
    EndLost { last: u64, anchor: u64 },
    AnchorDiffers { anchor: u64 },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file, self.problem),
            line => write!(f, "{}:{line}: {}", self.file, self.problem),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotALine => write!(f, "not a line of an audit log"),
            Self::Forged => write!(f, "edited, or not written by this key store"),
            Self::Missing { first, last } if first == last => write!(f, "line {first} is missing before it"),
            Self::Missing { first, last } => write!(f, "lines {first} to {last} are missing before it"),
            Self::OutOfOrder { found, expected } => {
                write!(f, "it is line {found}, and line {expected} belongs here")
            }
            Self::BeforeChanged => write!(f, "the line before it is not the one that was written there"),
            Self::NoFirstLine => write!(f, "its first line is not that of a segment"),
            Self::Misnamed { first } => write!(f, "by its first line it is {}", file_name(*first)),
            Self::PreviousDiffers => write!(f, "the file before it is not the one that it names"),
            Self::Unfinished { bytes } => write!(f, "{bytes} bytes at its end are no whole line"),
            Self::EndLost { last, anchor } => {
                write!(
                    f,
                    "the log ends with line {last}, and the key store knows of {anchor}: its end is gone"
                )
            }
            Self::AnchorDiffers { anchor } => {
                write!(f, "line {anchor} is not the one that the key store knows")
            }
        }
    }
}

/// Verifies a log, segment after segment.
pub struct Verifier<'k> {
    key: Option<&'k Key>,
    anchor: Option<Head>,
    end: Option<Head>,
    before: Option<Previous>,
    report: Report,
}

impl<'k> Verifier<'k> {
    /// With the key, lines are authenticated. With an anchor, the end is checked too.
    pub fn new(key: Option<&'k Key>, anchor: Option<Head>) -> Self {
        let report = Report {
            authenticated: key.is_some(),
            anchor: anchor.map_or(0, |anchor| anchor.sequence),
            ..Report::default()
        };
        Self { key, anchor, end: None, before: None, report }
    }

    /// The next segment in order.
    pub fn segment(&mut self, name: &str, bytes: &[u8]) {
        self.report.segments.push(name.to_owned());
        let (mut number, mut whole) = (0, 0);
        for text in bytes.split_inclusive(|byte| *byte == b'\n') {
            let Some(text) = text.strip_suffix(b"\n") else { break };
            whole += text.len() + 1;
            number += 1;
            self.line(name, number, text);
        }
        if whole < bytes.len() || bytes.is_empty() {
            self.found(name, number + 1, Problem::Unfinished { bytes: (bytes.len() - whole) as u64 });
        }
        let last = bytes[..whole].rsplit(|byte| *byte == b'\n').nth(1);
        self.report.until = last.and_then(time_of).or(self.report.until.take());
        self.before =
            Some(Previous { file: name.to_owned(), bytes: bytes.len() as u64, sha256: sha256(&[bytes]) });
    }

    /// What was found in all of them.
    pub fn finish(mut self) -> Report {
        let last = self.end.map_or(0, |end| end.sequence);
        if let Some(anchor) = self.anchor.filter(|anchor| anchor.sequence > last) {
            let name = self.report.segments.last().cloned().unwrap_or_default();
            self.found(&name, 0, Problem::EndLost { last, anchor: anchor.sequence });
        }
        self.report
    }

    fn line(&mut self, name: &str, number: u64, text: &[u8]) {
        let Some(line) = Line::parse(text) else { return self.found(name, number, Problem::NotALine) };
        if self.key.is_some_and(|key| !line.is_authentic(key)) {
            // Nothing in it counts; what is after it will miss a line.
            return self.found(name, number, Problem::Forged);
        }
        if let Some(problem) = self.out_of_step(&line) {
            self.found(name, number, problem);
        }
        if number == 1 {
            self.first(name, text, line.sequence);
        }
        let head = line.head();
        if self.anchor.is_some_and(|anchor| anchor.sequence == head.sequence && anchor != head) {
            self.found(name, number, Problem::AnchorDiffers { anchor: head.sequence });
        }
        if self.report.lines == 0 {
            self.report.first = head.sequence;
            self.report.since = time_of(text);
        }
        self.report.lines += 1;
        self.report.last = self.report.last.max(head.sequence);
        self.end = Some(head);
    }

    fn out_of_step(&self, line: &Line<'_>) -> Option<Problem> {
        // A log may begin anywhere: what was before may be archived.
        let end = self.end.as_ref()?;
        let expected = end.sequence.saturating_add(1);
        if line.sequence > expected {
            return Some(Problem::Missing { first: expected, last: line.sequence - 1 });
        }
        if line.sequence < expected {
            return Some(Problem::OutOfOrder { found: line.sequence, expected });
        }
        (!line.follows(end)).then_some(Problem::BeforeChanged)
    }

    fn first(&mut self, name: &str, text: &[u8], sequence: u64) {
        let Some(first) = First::read(text) else { return self.found(name, 1, Problem::NoFirstLine) };
        if first_line(name).is_some_and(|named| named != sequence) {
            self.found(name, 1, Problem::Misnamed { first: sequence });
        }
        if let (Some(named), Some(before)) = (&first.previous, &self.before)
            && (named.bytes, named.sha256) != (before.bytes, before.sha256)
        {
            self.found(name, 1, Problem::PreviousDiffers);
        }
    }

    fn found(&mut self, file: &str, line: u64, problem: Problem) {
        self.report.wrong += 1;
        if self.report.findings.len() < MAX_FINDINGS {
            self.report.findings.push(Finding { file: file.to_owned(), line, problem });
        }
    }
}

impl fmt::Debug for Verifier<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("report", &self.report).finish_non_exhaustive()
    }
}

fn time_of(text: &[u8]) -> Option<String> {
    let event: serde_json::Value = serde_json::from_slice(text).ok()?;
    Some(event["eventTime"].as_str()?.to_owned())
}

/// Verifies all of a log that reached `head`, with its last segment and that one's length.
pub(super) fn log(setup: &Setup, head: Head, end: Option<(u64, u64)>) -> Result<Report, AuditError> {
    let listed = list(&*setup.disk, &setup.dir).map_err(AuditError::io("list", &setup.dir))?;
    let mut verifier = Verifier::new(Some(&setup.key), Some(head));
    for first in listed {
        let name = file_name(first);
        let path = setup.dir.join(&name);
        let mut bytes = setup.disk.read(&path, MAX_READ).map_err(AuditError::io("read", &path))?;
        match end {
            // Written meanwhile; it will be looked at the next time.
            Some((last, _)) if first > last => break,
            Some((last, len)) if first == last => bytes.truncate(usize::try_from(len).unwrap_or(usize::MAX)),
            _ => {}
        }
        verifier.segment(&name, &bytes);
    }
    Ok(verifier.finish())
}

/// Verifies some files of a log, in the order of their names.
pub(super) fn files(setup: &Setup, files: &[PathBuf]) -> Result<Report, AuditError> {
    let mut named: Vec<(String, &PathBuf)> = files
        .iter()
        .map(|path| (path.file_name().unwrap_or_default().to_string_lossy().into_owned(), path))
        .collect();
    named.sort();
    let mut verifier = Verifier::new(Some(&setup.key), None);
    for (name, path) in named {
        let bytes = setup.disk.read(path, MAX_READ).map_err(AuditError::io("read", path))?;
        verifier.segment(&name, &bytes);
    }
    Ok(verifier.finish())
}

/// Whether an event with this id is in a line after `anchor`.
///
/// # Errors
/// When the log cannot be read.
pub fn mentions(setup: &Setup, id: &str, anchor: Head) -> Result<bool, AuditError> {
    let listed = list(&*setup.disk, &setup.dir).map_err(AuditError::io("list", &setup.dir))?;
    // Within a string the quotes would be escaped.
    let wanted = format!("\"eventID\":\"{id}\"");
    for first in listed.into_iter().rev() {
        let path = setup.dir.join(file_name(first));
        let bytes = setup.disk.read(&path, MAX_READ).map_err(AuditError::io("read", &path))?;
        if memmem(&bytes, wanted.as_bytes()) {
            return Ok(true);
        }
        if first <= anchor.sequence {
            break;
        }
    }
    Ok(false)
}

fn memmem(text: &[u8], wanted: &[u8]) -> bool {
    text.windows(wanted.len()).any(|window| window == wanted)
}
