//! A log on a disk in memory.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kmsfs::kms::audit::{
    AuditError, EventIds, Head, Journal, Limits, MAX_READ, Owner, Report, Setup, Verifier, file_name, list,
};
use kmsfs::kms::{Disk, Realm, StoreId};
use kmsfs::secret::Key;

use crate::memory_disk::MemoryDisk;

pub(crate) const DIR: &str = "/log";

/// What logs of one store are made with.
#[derive(Clone)]
pub(crate) struct Workbench {
    pub(crate) key: Arc<Key>,
    pub(crate) limits: Limits,
    pub(crate) ids: Arc<EventIds>,
}

pub(crate) fn now() -> Timestamp {
    Timestamp::from_second(1_700_000_000).unwrap()
}

/// An event that is recognized by its number.
pub(crate) fn event(number: usize) -> Vec<u8> {
    format!(
        "{{\"eventName\":\"Decrypt\",\"number\":\"<{number}>\",\"filler\":\"{}\"}}",
        "x".repeat(number * 37 % 400)
    )
    .into_bytes()
}

impl Workbench {
    pub(crate) fn new(segment: u64) -> Self {
        Self {
            key: Arc::new(Key::random().unwrap()),
            limits: Limits { bytes: segment, age: Duration::from_secs(3600) },
            ids: Arc::new(EventIds::random().unwrap()),
        }
    }

    pub(crate) fn setup(&self, disk: &MemoryDisk) -> Setup {
        Setup {
            disk: Arc::new(disk.clone()),
            dir: PathBuf::from(DIR),
            owner: Owner { store: StoreId::from_bytes([7; 16]), realm: Realm::default() },
            key: Arc::clone(&self.key),
            limits: self.limits,
            ids: Arc::clone(&self.ids),
        }
    }

    pub(crate) fn open(&self, disk: &MemoryDisk, anchor: Head) -> Result<Journal, AuditError> {
        Journal::open(self.setup(disk), anchor, now())
    }

    /// A log of as many events, appended in groups of one to four.
    pub(crate) fn log_of(&self, disk: &MemoryDisk, events: usize) -> Journal {
        let mut journal = self.open(disk, Head::START).unwrap();
        let all: Vec<Vec<u8>> = (0..events).map(event).collect();
        let mut rest = all.as_slice();
        let mut size = 0;
        while !rest.is_empty() {
            size = size % 4 + 1;
            let (group, after) = rest.split_at(size.min(rest.len()));
            append(&mut journal, group).unwrap();
            rest = after;
        }
        journal
    }

    pub(crate) fn verify(&self, disk: &MemoryDisk, anchor: Head) -> Report {
        verify_files(Some(&self.key), &files(disk), Some(anchor))
    }
}

pub(crate) fn append(journal: &mut Journal, events: &[Vec<u8>]) -> Result<(), AuditError> {
    journal.append(events.iter().map(Vec::as_slice), now())
}

/// Names and contents of the segments.
pub(crate) fn files(disk: &MemoryDisk) -> Vec<(String, Vec<u8>)> {
    let firsts = list(disk, Path::new(DIR)).unwrap();
    let read = |first| {
        let name = file_name(first);
        let bytes = disk.read(&Path::new(DIR).join(&name), MAX_READ).unwrap();
        (name, bytes)
    };
    firsts.into_iter().map(read).collect()
}

pub(crate) fn verify_files(key: Option<&Key>, files: &[(String, Vec<u8>)], anchor: Option<Head>) -> Report {
    let mut verifier = Verifier::new(key, anchor);
    for (name, bytes) in files {
        verifier.segment(name, bytes);
    }
    verifier.finish()
}

/// The numbers of the events in the log, in order.
pub(crate) fn numbers(files: &[(String, Vec<u8>)]) -> Vec<usize> {
    let lines = files.iter().flat_map(|(_, bytes)| bytes.split(|byte| *byte == b'\n'));
    let number = |line: &[u8]| {
        let event: serde_json::Value = serde_json::from_slice(line).ok()?;
        event["number"].as_str()?.trim_matches(['<', '>']).parse().ok()
    };
    lines.filter_map(number).collect()
}
