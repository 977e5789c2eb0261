//! The volumes that use the key store: what they were like when they were last heard of, and with
//! that, what depends on a key.
//!
//! Every volume has a key of its own here, whose description names it: so none is unknown, whether or
//! not it ever said where it is.
//!
//! *What is not certain is not nothing.* A volume that is open without answering, or that was never
//! heard of, makes every number uncertain that it could have a part in.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::book::{Book, Spelling};
use super::facts::Facts;
use super::permit::Asked;
use super::{Caller, Service};
use crate::kms::api::{
    Empty, ForgetVolumeRequest, KeyImpactResponse, KeyRequest, KnownVolume, ListVolumesResponse,
    NoteVolumeRequest, UserImpact, VersionImpact, VolumeImpact, VolumeState,
};
use crate::kms::context::EncryptionContext;
use crate::kms::error::{ErrorKind, KmsError};
use crate::kms::id::KeyId;
use crate::kms::policy::{Action, Verdict};
use crate::kms::state::{KeyManager, Operation};
use crate::kms::store::{Change, Record, VolumeRecord, WrappedRecord};
use crate::kms::watch::{MountStatus, VolumeFiles, WrappedFiles};

/// What the description of a volume's own key begins with.
const OWN_KEY: &str = "kmsfs volume ";
/// Member of the encryption context of a volume's own key.
const VOLUME: &str = "kmsfs:volume";
/// Versions of keys that a volume's record lists at most; with more, nothing is known of its files.
const MAX_WRAPPED: usize = 4096;
/// Longest path that is remembered.
const MAX_PATH: usize = 4096;

impl Service {
    /// Notes that somebody has a volume open for writing, or has let go of it. Who may unwrap the
    /// volume's own key may do that.
    ///
    /// # Errors
    /// NotFound for a volume that was not made with this key store, AccessDenied, Validation, Internal.
    pub fn note_volume(&self, caller: &Caller, request: &NoteVolumeRequest) -> Result<Empty, KmsError> {
        let context = EncryptionContext::new().with(VOLUME, &*request.volume_id);
        let facts = NoteFacts { request, context: &context };
        self.run(caller, Operation::NoteVolume, &facts, |call| {
            let own_key = own_keys(&self.book.read()).remove(&request.volume_id);
            let own_key = own_key.ok_or_else(|| unknown(&request.volume_id))?;
            let entry = self.entry(&own_key)?;
            call.comes_to(&entry);
            self.permit(call, Some(&entry), "Decrypt")?;
            if request.path.len() > MAX_PATH {
                return Err(KmsError::validation("Path is too long"));
            }
            let fits = request.files.wrapped.len() <= MAX_WRAPPED;
            let wrapped = if fits { &*request.files.wrapped } else { &[] };
            self.keep_volume(VolumeRecord {
                id: request.volume_id.clone(),
                path: request.path.clone(),
                seen: call.now,
                open: request.open,
                forgotten: false,
                certain: request.files.certain && fits,
                wrapped: wrapped.iter().map(to_record).collect(),
            })?;
            Ok(Empty {})
        })
    }

    /// Whether what a mount says of a volume's files is to be believed: who may unwrap the volume's own
    /// key may say it, as in [`Service::note_volume`]. Of a volume that was made with another key store,
    /// anybody may: nothing is known of it that could be contradicted.
    pub fn speaks_for(&self, caller: &Caller, volume: &str) -> bool {
        let now = self.clock.now();
        let own_key = own_keys(&self.book.read()).remove(volume);
        let Some(entry) = own_key.and_then(|id| self.entry(&id).ok()) else { return true };
        let (Ok(identity), Some(action)) = (self.directory.identity(caller, now), Action::exact("Decrypt"))
        else {
            return false;
        };
        let context = EncryptionContext::new().with(VOLUME, volume);
        let asked = Asked {
            service: self,
            identity: &identity,
            action,
            entry: &entry,
            now,
            call: None,
            context: &context,
            assumed: &[],
        };
        match self.decide(&asked).verdict {
            Verdict::Allowed => true,
            Verdict::ExplicitlyDenied => false,
            Verdict::ImplicitlyDenied => {
                let rights = self.rights.read();
                rights.grants.allowing(&entry.record.id, &identity, action, &context).is_some()
            }
        }
    }

    /// The volumes that use this key store, and what is known of their files.
    ///
    /// # Errors
    /// None so far.
    pub fn list_volumes(&self) -> Result<ListVolumesResponse, KmsError> {
        let known = self.known_volumes(self.mounts());
        let volumes = known.into_iter().map(|known| known.volume).collect();
        Ok(ListVolumesResponse { volumes })
    }

    /// Counts a volume no more that is not mounted, until it is opened again.
    ///
    /// # Errors
    /// NotFound; Validation for a volume that is mounted, or while it could be, for all that is known;
    /// Conflict when somebody opens it meanwhile; Internal.
    pub fn forget_volume(&self, request: &ForgetVolumeRequest) -> Result<Empty, KmsError> {
        let before = self.book.read().volumes.get(&request.volume_id).cloned();
        let known = self.known_volumes(self.mounts());
        let silent = known.iter().find(|known| known.volume.volume_id.is_empty());
        if let Some(mountpoint) = silent.and_then(|known| known.volume.mountpoint.as_ref()) {
            return Err(KmsError::validation(format!(
                "the mount at {mountpoint} does not say which volume it has; end it first"
            )));
        }
        let found = known.into_iter().find(|known| known.volume.volume_id == request.volume_id);
        let found = found.ok_or_else(|| unknown(&request.volume_id))?.volume;
        if let Some(mountpoint) = found.mountpoint {
            return Err(KmsError::validation(format!(
                "the volume is mounted at {mountpoint}; unmount it before it is forgotten"
            )));
        }
        let _writing = self.writes.lock();
        if self.book.read().volumes.get(&request.volume_id) != before.as_ref() {
            return Err(KmsError::new(ErrorKind::Conflict, "the volume was opened meanwhile"));
        }
        self.put_volume(VolumeRecord {
            id: found.volume_id,
            path: found.path,
            seen: found.last_seen.unwrap_or(Timestamp::UNIX_EPOCH),
            open: false,
            forgotten: true,
            certain: false,
            wrapped: Vec::new(),
        })?;
        Ok(Empty {})
    }

    /// What depends on a key: files, bytes, handles and users, over all known volumes. For whoever may
    /// describe the key; where files lie is for local callers alone, and where other volumes lie for the
    /// account root.
    ///
    /// # Errors
    /// NotFound, AccessDenied.
    pub fn key_impact(&self, caller: &Caller, request: &KeyRequest) -> Result<KeyImpactResponse, KmsError> {
        self.run(caller, Operation::GetKeyImpact, request, |call| {
            let entry = self.book.read().resolve(&request.key_id, Spelling::Any, self.realm())?.clone();
            self.admit_as(call, &entry, "DescribeKey")?;
            let is_root = call.identity()?.is_root();
            let known = self.known_volumes(self.mounts());
            let mut answer = KeyImpactResponse { certain: true, ..KeyImpactResponse::default() };
            for known in known {
                let mut volume = impact(&entry.arn, &known);
                answer.certain &= volume.certain;
                let handles = volume.users.iter().fold(0, |sum: u64, user| sum.saturating_add(user.handles));
                answer.files = answer.files.saturating_add(volume.files);
                answer.bytes = answer.bytes.saturating_add(volume.bytes);
                answer.handles = answer.handles.saturating_add(handles);
                let has_part = volume.files > 0 || handles > 0;
                if caller.remote.is_some() || !is_root && !has_part {
                    (volume.path, volume.mountpoint, volume.users) = (String::new(), None, Vec::new());
                    volume.last_seen = None;
                }
                answer.volumes.push(volume);
            }
            answer.key_id.clone_from(&entry.arn);
            Ok(answer)
        })
    }

    /// All volumes, as their mounts say, or else as they were when they were last heard of.
    pub(super) fn known_volumes(&self, mounts: Vec<MountStatus>) -> Vec<Known> {
        let (own_keys, records) = {
            let book = self.book.read();
            (own_keys(&book), book.volumes.clone())
        };
        let mut by_id: BTreeMap<&str, Option<&VolumeRecord>> =
            own_keys.keys().map(|id| (id.as_str(), None)).collect();
        by_id.extend(records.iter().map(|(id, record)| (id.as_str(), Some(record))));
        let mut known = Vec::new();
        for (id, record) in &by_id {
            let live: Vec<&MountStatus> = mounts.iter().filter(|mount| mount.volume == **id).collect();
            if live.is_empty() && !record.is_some_and(|record| record.forgotten) {
                known.push(Known { volume: remembered(id, *record), mount: None });
            }
            known.extend(live.into_iter().map(|mount| answered(mount, *record)));
        }
        // Those that did not answer, and those of volumes that were made elsewhere.
        let others = mounts.iter().filter(|mount| !by_id.contains_key(mount.volume.as_str()));
        known.extend(others.map(|mount| answered(mount, None)));
        known
    }

    fn keep_volume(&self, record: VolumeRecord) -> Result<(), KmsError> {
        let _writing = self.writes.lock();
        self.put_volume(record)
    }

    /// The caller holds `writes`.
    fn put_volume(&self, record: VolumeRecord) -> Result<(), KmsError> {
        let stored = Record::VolumeV1(record.clone());
        self.store.commit(&[Change::Put(&stored)])?;
        self.book.write().volumes.insert(record.id.clone(), record);
        Ok(())
    }
}

/// A volume, and what its mount says if it has one.
pub(super) struct Known {
    pub(super) volume: KnownVolume,
    mount: Option<MountStatus>,
}

impl Known {
    /// Files that a version of a key wraps.
    pub(super) fn files_of(&self, arn: &str, version: u32) -> u64 {
        let wrapped = self.volume.files.wrapped.iter();
        let wrapped = wrapped.filter(|w| w.key_arn == arn && w.key_version == version);
        wrapped.fold(0, |sum, w| sum.saturating_add(w.files))
    }
}

/// The volumes' own keys by the volumes' ids.
fn own_keys(book: &Book) -> BTreeMap<String, KeyId> {
    let internal = book.keys.values().filter(|entry| entry.record.manager == KeyManager::Internal);
    let named = internal.filter_map(|entry| {
        let id = entry.record.description.strip_prefix(OWN_KEY)?;
        Some((id.to_owned(), entry.record.id))
    });
    named.collect()
}

fn remembered(id: &str, record: Option<&VolumeRecord>) -> KnownVolume {
    let Some(record) = record else {
        return KnownVolume { volume_id: id.to_owned(), ..KnownVolume::default() };
    };
    let state = if record.open { VolumeState::Lost } else { VolumeState::Unmounted };
    KnownVolume {
        volume_id: id.to_owned(),
        path: record.path.clone(),
        state,
        last_seen: Some(record.seen),
        mountpoint: None,
        files: VolumeFiles {
            certain: record.certain && !record.open,
            counting: false,
            wrapped: record.wrapped.iter().map(of_record).collect(),
        },
    }
}

fn answered(mount: &MountStatus, record: Option<&VolumeRecord>) -> Known {
    // One that did not answer is known by its place alone.
    let state = if mount.volume.is_empty() { VolumeState::Lost } else { VolumeState::Mounted };
    let volume = KnownVolume {
        volume_id: mount.volume.clone(),
        path: record.map(|record| record.path.clone()).unwrap_or_default(),
        state,
        last_seen: record.map(|record| record.seen),
        mountpoint: Some(mount.mountpoint.clone()),
        files: mount.files.clone(),
    };
    Known { volume, mount: Some(mount.clone()) }
}

pub(super) fn impact(arn: &str, known: &Known) -> VolumeImpact {
    let volume = &known.volume;
    let wrapped = volume.files.wrapped.iter().filter(|wrapped| wrapped.key_arn == arn);
    let versions: Vec<VersionImpact> = wrapped
        .map(|w| VersionImpact { key_version: w.key_version, files: w.files, bytes: w.bytes })
        .collect();
    let mount = known.mount.as_ref();
    let users = mount.map(|mount| mount.handles.iter().filter(|open| open.key_arn == arn));
    let users = users.into_iter().flatten();
    VolumeImpact {
        volume_id: volume.volume_id.clone(),
        path: volume.path.clone(),
        state: volume.state,
        last_seen: volume.last_seen,
        mountpoint: volume.mountpoint.clone(),
        certain: volume.files.certain,
        files: versions.iter().fold(0, |sum, version| sum.saturating_add(version.files)),
        bytes: versions.iter().fold(0, |sum, version| sum.saturating_add(version.bytes)),
        versions,
        open_files: mount.and_then(|mount| mount.open_files.get(arn).copied()).unwrap_or_default(),
        users: users.map(|open| UserImpact { uid: open.uid, handles: open.handles }).collect(),
    }
}

fn to_record(wrapped: &WrappedFiles) -> WrappedRecord {
    WrappedRecord {
        key_arn: wrapped.key_arn.clone(),
        key_version: wrapped.key_version,
        files: wrapped.files,
        bytes: wrapped.bytes,
    }
}

fn of_record(record: &WrappedRecord) -> WrappedFiles {
    WrappedFiles {
        key_arn: record.key_arn.clone(),
        key_version: record.key_version,
        files: record.files,
        bytes: record.bytes,
    }
}

fn unknown(volume: &str) -> KmsError {
    KmsError::new(ErrorKind::NotFound, format!("No volume {volume} uses this key store"))
}

/// What NoteVolume is about, without the counts.
struct NoteFacts<'a> {
    request: &'a NoteVolumeRequest,
    context: &'a EncryptionContext,
}

impl Facts for NoteFacts<'_> {
    fn encryption_context(&self) -> Option<&EncryptionContext> {
        Some(self.context)
    }

    fn parameters(&self) -> Value {
        let NoteVolumeRequest { volume_id, path, open, .. } = self.request;
        json!({ "VolumeId": volume_id, "Path": path, "Open": open })
    }
}
