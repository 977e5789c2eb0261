//! The end of one version of a key: its material is destroyed when nothing that is known needs it.
//!
//! Re-wrapped headers may be on their way to the disk still, and a crash would bring the old ones
//! back. So each mount makes durable what it counted before its word is taken.

use std::time::Duration;

use super::book::{Entry, Spelling};
use super::volumes::Known;
use super::{Caller, Service};
use crate::kms::api::{RetireKeyVersionRequest, RetireKeyVersionResponse, VolumeState};
use crate::kms::error::{ErrorKind, KmsError};
use crate::kms::spec::{KeySpec, Origin};
use crate::kms::state::{self, Operation};
use crate::kms::store::Change;
use crate::kms::watch::{MountStatus, VolumeFiles};

/// How long a mount may take to make its volume durable.
const VOUCH_BUDGET: Duration = Duration::from_secs(30);

impl Service {
    /// Destroys a version of a key's material. It stays listed, and nothing that it wrapped can be
    /// unwrapped again. Who may schedule the key's deletion may do this.
    ///
    /// What nobody counts is the caller's to know of: copies and snapshots of volumes, files that a
    /// check has put aside, and ciphertexts of Encrypt.
    ///
    /// # Errors
    /// NotFound, AccessDenied, InvalidState while the key is about to be deleted; UnsupportedOperation
    /// for keys that have one version, or are not the caller's to manage; Validation for the newest
    /// version, one that there is not, or a volume that cannot be left out; InvalidState while a known
    /// volume has files under the version, or may have; Internal.
    pub fn retire_key_version(
        &self,
        caller: &Caller,
        request: &RetireKeyVersionRequest,
    ) -> Result<RetireKeyVersionResponse, KmsError> {
        self.run(caller, Operation::RetireKeyVersion, request, |call| {
            let id = self.book.read().resolve(&request.key_id, Spelling::IdOrArn, self.realm())?.record.id;
            // Nothing changes the key's versions meanwhile.
            let _turn = self.turns.take(id);
            let entry = self.entry(&id)?;
            self.admit_as(call, &entry, "ScheduleKeyDeletion")?;
            entry.check_customer_managed()?;
            check_version(&entry, request.key_version)?;
            let version = request.key_version;
            let volumes = self.check_unused(&entry, request)?;
            let answer = RetireKeyVersionResponse {
                key_id: entry.arn.clone(),
                key_version: version,
                volumes,
                left_out: request.leave_out.clone(),
            };
            if entry.held(version).is_none() {
                return Ok(answer);
            }
            state::check(call.operation, &entry.arn, self.entry(&id)?.state_at(self.clock.now()))?;
            let index = version as usize - 1;
            self.publish(&id, vec![Change::DropMaterial { key: &id, version }], |record, material| {
                if let (Some(known), Some(held)) = (record.versions.get_mut(index), material.get_mut(index)) {
                    known.present = false;
                    *held = None;
                }
            })?;
            tracing::info!(key = entry.arn, version, "a version of a key was destroyed");
            Ok(answer)
        })
    }

    /// Refuses unless no known volume has anything under the version, durably; answers how many there
    /// are.
    fn check_unused(&self, entry: &Entry, request: &RetireKeyVersionRequest) -> Result<u64, KmsError> {
        let silent = |mount: &str| MountStatus { mountpoint: mount.to_owned(), ..MountStatus::default() };
        let vouched = self.watchers.ask(
            VOUCH_BUDGET,
            |watcher| {
                watcher.vouch().unwrap_or_else(|| MountStatus {
                    // What it counts is not durable, and so not certain.
                    files: VolumeFiles::default(),
                    ..watcher.describe()
                })
            },
            silent,
        );
        let known = self.known_volumes(vouched);
        for id in &request.leave_out {
            let of_id: Vec<&Known> = known.iter().filter(|k| k.volume.volume_id == *id).collect();
            if of_id.is_empty() {
                return Err(KmsError::validation(format!("no volume {id} uses this key store")));
            }
            if of_id.iter().any(|known| known.volume.mountpoint.is_some()) {
                let message = format!("volume {id} is mounted; only volumes that are away can be left out");
                return Err(KmsError::validation(message));
            }
        }
        let asked = known.iter().filter(|known| !request.leave_out.contains(&known.volume.volume_id));
        asked.clone().try_for_each(|known| check_volume(entry, request.key_version, known))?;
        Ok(asked.count() as u64)
    }
}

fn check_version(entry: &Entry, version: u32) -> Result<(), KmsError> {
    if entry.record.spec != KeySpec::SymmetricDefault || entry.record.origin != Origin::AwsKms {
        let message = format!("{} has one version for life; delete the key instead", entry.arn);
        return Err(KmsError::new(ErrorKind::UnsupportedOperation, message));
    }
    if version == 0 || version > entry.newest() {
        return Err(KmsError::validation(format!("{} has no version {version}", entry.arn)));
    }
    if version == entry.newest() {
        let message = format!("version {version} of {} is its newest; rotate the key first", entry.arn);
        return Err(KmsError::validation(message));
    }
    Ok(())
}

fn check_volume(entry: &Entry, version: u32, known: &Known) -> Result<(), KmsError> {
    let volume = &known.volume;
    let place = volume.mountpoint.as_deref().unwrap_or(&volume.path);
    let name =
        format!("volume {} ({})", volume.volume_id, if place.is_empty() { "never seen" } else { place });
    let refused = |message: String| Err(KmsError::new(ErrorKind::InvalidState, message));
    let files = known.files_of(&entry.arn, version);
    if files > 0 {
        return refused(format!(
            "{name} has {files} files under version {version} of {}; 'kmsfs rewrap' it first",
            entry.arn
        ));
    }
    if !volume.files.certain {
        let next = match volume.state {
            VolumeState::Mounted => "'kmsfs reindex' it first",
            _ => "mount it and 'kmsfs reindex' it, or 'kmsfs volume forget' it if it is gone for good",
        };
        return refused(format!("what {name} has under version {version} is not known; {next}"));
    }
    Ok(())
}
