//! Who must be told when a key stops or starts being usable: the mounts.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::id::KeyId;
use super::state::KeyState;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Instant, Mutex, mpsc, thread};

/// A user of data keys that must let go of them when their master key is revoked. Methods are
/// called from threads of the service, for different keys also at once, and never while a lock
/// that [`Service`](super::Service) needs for data keys is held.
///
/// For one key the order is: `drain`, then `cut`, or `restore` if the new state could not be made durable
/// or is not to be, as something could not be written. `cut` may come without `drain` (the key was not
/// usable anyway) and twice. A `drain` that was not answered in time may still be running when `cut` arrives.
pub trait KeyWatcher: Send + Sync {
    /// What the mount is doing. `open_files` names every key that the mount holds open or cut,
    /// with 0 files if need be: the service brings just these keys up to date on a mount that
    /// comes back after losing it.
    fn describe(&self) -> MountStatus;

    /// As [`KeyWatcher::describe`], when all that the counts depend on is durable: no crash makes a file
    /// less than what it is counted as. `None` where that cannot be had.
    fn vouch(&self) -> Option<MountStatus> {
        None
    }

    /// Refuses new opens under `key` and writes back what is dirty, within `budget`. What could
    /// not be written goes into the report. If there is any, `keep` has it stop there and drop
    /// nothing: `restore` follows.
    fn drain(&self, key: &KeyId, budget: Duration, keep: bool) -> CutReport;

    /// Refuses everything under `key`, drops its data keys and cached pages. `state` says why; a key
    /// without one is destroyed.
    fn cut(&self, key: &KeyId, state: Option<KeyState>) -> CutReport;

    /// The key is usable (again).
    fn restore(&self, key: &KeyId);

    /// The store is locked: writes back what is dirty under any key, within `budget`, then refuses
    /// everything and drops all data keys and cached pages. May come twice.
    fn lock(&self, budget: Duration) -> CutReport;

    /// The store is unlocked (again). Keys that are cut by themselves stay so.
    fn unlock(&self);
}

/// What one mount cut off.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CutReport {
    /// The mount point.
    pub mount: String,
    /// Open files under the key.
    pub files: u64,
    /// Open handles of these files.
    pub handles: u64,
    /// What could not be written back.
    pub unwritten: Vec<Unwritten>,
    /// The mount did not answer: its files may still be readable.
    pub unreachable: bool,
}

/// Dirty data of one file that was not written back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Unwritten {
    /// Path of the file, in the mount if it could be found out.
    pub file: String,
    /// How many bytes may be missing from it; absent if that is not known, as the attempt still went on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Those of them that the kernel has dropped since, so that another attempt cannot write them.
    #[serde(skip_serializing_if = "is_none")]
    pub lost: u64,
    /// What the operating system said.
    pub error: String,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // As serde has it.
fn is_none(bytes: &u64) -> bool {
    *bytes == 0
}

impl fmt::Display for Unwritten {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bytes {
            Some(1) => write!(f, "{}: 1 byte could not be written: {}", self.file, self.error)?,
            Some(bytes) => write!(f, "{}: {bytes} bytes could not be written: {}", self.file, self.error)?,
            None => write!(f, "{}: changes could not be written: {}", self.file, self.error)?,
        }
        if self.lost > 0 { write!(f, " ({} of them are lost)", self.lost) } else { Ok(()) }
    }
}

/// What a mount says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct MountStatus {
    /// Where it is mounted.
    pub mountpoint: String,
    /// The volume's id.
    pub volume: String,
    /// The process that serves it.
    pub pid: u32,
    /// Whether it is mounted read-only.
    pub read_only: bool,
    /// Open files by the full name of their master key.
    pub open_files: BTreeMap<String, u64>,
    /// It refuses everything that needs a data key, for the store is or was locked.
    pub locked: bool,
    /// Milliseconds for which no file was opened, read or written; absent where nobody knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unused_ms: Option<u64>,
    /// Milliseconds for which it goes on with the keys that it has while it hears nothing of the service;
    /// absent where that is in the same process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_ms: Option<u64>,
    /// Open handles, by master key and user.
    pub handles: Vec<OpenHandles>,
    /// What wraps the volume's files.
    pub files: VolumeFiles,
}

/// A user's open handles of files under one master key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct OpenHandles {
    /// The master key.
    pub key_arn: String,
    /// The user.
    pub uid: u32,
    /// How many.
    pub handles: u64,
}

/// What is known of a volume's files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct VolumeFiles {
    /// Every file is counted. Else the numbers are those that were known last.
    pub certain: bool,
    /// The files are being counted.
    pub counting: bool,
    /// What wraps how many.
    pub wrapped: Vec<WrappedFiles>,
}

/// Files that one version of a master key wraps.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct WrappedFiles {
    /// The master key; empty for files whose headers cannot be read.
    pub key_arn: String,
    /// The version of its material.
    pub key_version: u32,
    /// How many.
    pub files: u64,
    /// Bytes of plaintext in them.
    pub bytes: u64,
}

/// Keeps a watcher registered until it is dropped.
#[must_use = "dropping it unregisters the watcher"]
pub struct WatchGuard {
    watchers: Arc<Watchers>,
    id: u64,
}

impl Drop for WatchGuard {
    fn drop(&mut self) {
        self.watchers.list.lock().remove(&self.id);
    }
}

impl std::fmt::Debug for WatchGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WatchGuard").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A watcher and the mount point it named when it came, for reports about its silence.
struct Watching {
    mount: String,
    watcher: Arc<dyn KeyWatcher>,
}

/// Everyone who watches.
#[derive(Default)]
pub(super) struct Watchers {
    next: AtomicU64,
    list: Mutex<BTreeMap<u64, Arc<Watching>>>,
}

impl Watchers {
    pub(super) fn add(self: &Arc<Self>, mount: String, watcher: Arc<dyn KeyWatcher>) -> WatchGuard {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.list.lock().insert(id, Arc::new(Watching { mount, watcher }));
        WatchGuard { watchers: Arc::clone(self), id }
    }

    pub(super) fn count(&self) -> usize {
        self.list.lock().len()
    }

    /// Asks all at once. A watcher that does not answer within `budget` is left to itself and
    /// stands as `silent` in the result.
    pub(super) fn ask<T: Send + 'static>(
        &self,
        budget: Duration,
        question: impl Fn(&dyn KeyWatcher) -> T + Send + Sync + 'static,
        silent: impl Fn(&str) -> T,
    ) -> Vec<T> {
        let watchers: Vec<_> = self.list.lock().values().cloned().collect();
        let question = Arc::new(question);
        let asked: Vec<_> = watchers
            .into_iter()
            .map(|watching| {
                let (answer, answered) = mpsc::sync_channel(1);
                let (question, asked) = (Arc::clone(&question), Arc::clone(&watching));
                let thread = thread::Builder::new().name("kms-watch".to_owned()).spawn(move || {
                    // The asker may have given up.
                    let _ = answer.send(question(&*asked.watcher));
                });
                (watching, thread.is_ok().then_some(answered))
            })
            .collect();
        let deadline = Instant::now() + budget;
        asked
            .into_iter()
            .map(|(watching, answered)| {
                let left = deadline.saturating_duration_since(Instant::now());
                let answer = answered.and_then(|answered| answered.recv_timeout(left).ok());
                answer.unwrap_or_else(|| silent(&watching.mount))
            })
            .collect()
    }
}

/// The reports of draining and of cutting, one per mount.
pub(super) fn merge(drained: Vec<CutReport>, cut: Vec<CutReport>) -> Vec<CutReport> {
    let mut reports = cut;
    for report in drained {
        match reports.iter_mut().find(|r| r.mount == report.mount) {
            Some(merged) => {
                merged.files = merged.files.max(report.files);
                merged.handles = merged.handles.max(report.handles);
                // What the cutting says of a file is the last word.
                let told = |file: &Unwritten| merged.unwritten.iter().any(|last| last.file == file.file);
                let only: Vec<_> = report.unwritten.into_iter().filter(|file| !told(file)).collect();
                merged.unwritten.extend(only);
                merged.unreachable |= report.unreachable;
            }
            None => reports.push(report),
        }
    }
    reports
}
