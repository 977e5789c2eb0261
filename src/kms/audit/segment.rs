//! The files that the log is made of.
//!
//! A segment is called after the number of its first line, so that their names sort as their lines
//! do. That first line names the segment before it: its file, length and SHA-256, which
//! `sha256sum` can check after it was moved elsewhere. A segment gets its name when its first
//! lines are durable, so one that has a name has a first line.

use std::io;
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use jiff::Timestamp;
use redb::StorageBackend;
use serde_json::Value;

use super::chain::Line;
use super::error::AuditError;
use super::event::{Category, Event, EventIds, Origin, Parameter};
use crate::crypto::kdf::DIGEST_LEN;
use crate::kms::id::{Realm, StoreId};
use crate::kms::store::Disk;

/// The log's directory, beside the store.
pub const DIRECTORY: &str = "audit";
const PREFIX: &str = "audit-";
const SUFFIX: &str = ".jsonl";
const ASIDE: &str = "audit.unfinished";
const DIGITS: usize = 20;
/// Longest segment that is read: what one group of lines can add is far below the difference.
pub const MAX_READ: u64 = 1 << 30;
/// Name of the event in a segment's first line.
pub(super) const FIRST: &str = "StartAuditSegment";
const FORMAT: u64 = 1;

/// The store whose log it is.
#[derive(Debug, Clone)]
pub struct Owner {
    /// Its id.
    pub store: StoreId,
    /// Its region and account.
    pub realm: Realm,
}

/// The segment before another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Previous {
    pub(super) file: String,
    pub(super) bytes: u64,
    pub(super) sha256: [u8; DIGEST_LEN],
}

/// The name of the segment whose first line has this number.
pub fn file_name(first: u64) -> String {
    format!("{PREFIX}{first:0DIGITS$}{SUFFIX}")
}

/// The number of the first line of the segment of this name.
pub fn first_line(file_name: &str) -> Option<u64> {
    let digits = file_name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
    (digits.len() == DIGITS && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// The segments in `dir` by the numbers of their first lines, in order.
///
/// # Errors
/// As readdir(3).
pub fn list(disk: &dyn Disk, dir: &Path) -> io::Result<Vec<u64>> {
    let mut found: Vec<u64> = disk.list(dir)?.iter().filter_map(|name| first_line(name)).collect();
    found.sort_unstable();
    Ok(found)
}

/// Makes `bytes` the whole contents of the segment of this name, durably; the file is open then.
pub(super) fn publish(
    disk: &dyn Disk,
    dir: &Path,
    name: &str,
    bytes: &[u8],
) -> Result<Box<dyn StorageBackend>, AuditError> {
    let (aside, path) = (dir.join(ASIDE), dir.join(name));
    let write = || {
        disk.remove(&aside)?;
        let file = disk.create(&aside)?;
        file.set_len(bytes.len() as u64)?;
        file.write(0, bytes)?;
        file.sync_data()?;
        disk.replace(&aside, &path)?;
        disk.sync_directory(dir)?;
        Ok(file)
    };
    write().map_err(AuditError::io("write", &path))
}

/// The event of a segment's first line.
pub(super) fn first_event(
    owner: &Owner,
    ids: &EventIds,
    previous: Option<&Previous>,
    now: Timestamp,
) -> Vec<u8> {
    let store = owner.store.to_string();
    let hex = previous.map(|previous| HEXLOWER.encode(&previous.sha256));
    let mut additional =
        vec![("auditFormat", Parameter::Number(FORMAT)), ("keyStore", Parameter::Text(&store))];
    if let (Some(previous), Some(hex)) = (previous, &hex) {
        additional.push(("previousFile", Parameter::Text(&previous.file)));
        additional.push(("previousBytes", Parameter::Number(previous.bytes)));
        additional.push(("previousSha256", Parameter::Text(hex)));
    }
    service_event(owner, ids, FIRST, &additional, now)
}

/// An event of the log itself.
pub(super) fn service_event(
    owner: &Owner,
    ids: &EventIds,
    name: &str,
    additional: &[(&str, Parameter<'_>)],
    time: Timestamp,
) -> Vec<u8> {
    let event = Event {
        time,
        name,
        origin: Origin::Service,
        category: Category::Management,
        read_only: false,
        realm: &owner.realm,
        parameters: &[],
        response: &[],
        resources: &[],
        error: None,
        additional,
        id: ids.next(),
    };
    event.to_json()
}

/// What a segment's first line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct First {
    pub(super) time: Option<Timestamp>,
    pub(super) previous: Option<Previous>,
}

impl First {
    /// Reads a first line. `None` if it is another line.
    pub(super) fn read(line: &[u8]) -> Option<Self> {
        Line::parse(line)?;
        let event: Value = serde_json::from_slice(line).ok()?;
        if event["eventName"] != FIRST || event["eventType"] != "AwsServiceEvent" {
            return None;
        }
        let additional = &event["additionalEventData"];
        let previous = || {
            let mut sha256 = [0; DIGEST_LEN];
            let hex = additional["previousSha256"].as_str()?;
            (hex.len() == 2 * DIGEST_LEN).then_some(())?;
            HEXLOWER.decode_mut(hex.as_bytes(), &mut sha256).ok()?;
            let file = additional["previousFile"].as_str()?.to_owned();
            Some(Previous { file, bytes: additional["previousBytes"].as_u64()?, sha256 })
        };
        Some(Self {
            time: event["eventTime"].as_str().and_then(|text| text.parse().ok()),
            previous: previous(),
        })
    }
}

/// The path of the segment whose first line has this number.
pub(super) fn path(dir: &Path, first: u64) -> PathBuf {
    dir.join(file_name(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_as_lines_do() {
        assert_eq!(file_name(7), "audit-00000000000000000007.jsonl");
        assert_eq!(first_line(&file_name(u64::MAX)), Some(u64::MAX));
        for name in ["audit-7.jsonl", "audit-+0000000000000000007.jsonl", "audit.unfinished", "x"] {
            assert_eq!(first_line(name), None, "{name}");
        }
    }
}
