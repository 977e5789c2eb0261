//! Looking after the store itself: unlock slots, backups, inspection.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Caller, Service};
use crate::kms::api::{Empty, StatusResponse};
use crate::kms::error::{ErrorKind, KmsError, Reason};
use crate::kms::schedule::Costs;
use crate::kms::state::KeyManager;
use crate::kms::store::{Over, SlotInfo, SlotKind, StoreError, UnlockSecret, Written};
use crate::kms::store_api::{
    AddUnlockSlotRequest, AddUnlockSlotResponse, BackUpStoreRequest, BackUpStoreResponse, CheckStoreRequest,
    CheckStoreResponse, InternalKey, KeepBackupRequest, RemoveUnlockSlotRequest, StoreInfo, UnlockSlot,
};

impl Service {
    /// The number of keys in each state, internal ones left out.
    pub fn keys_by_state(&self) -> BTreeMap<String, u64> {
        let mut keys = BTreeMap::new();
        for entry in self.book.read().keys.values() {
            if entry.record.manager != KeyManager::Internal {
                *keys.entry(entry.state().to_string()).or_default() += 1;
            }
        }
        keys
    }

    /// The store, its keys by state, its mounts.
    pub fn status(&self) -> StatusResponse {
        StatusResponse {
            store_id: self.store.id().to_string(),
            directory: self.store.dir().display().to_string(),
            region: self.realm().region.clone(),
            account: self.realm().account.clone(),
            pid: std::process::id(),
            unlocked: !self.is_locked(),
            locked: self.locked(),
            memory_locked: crate::secret::all_locked(),
            keys: self.keys_by_state(),
            mounts: self.mounts(),
        }
    }

    /// The unlock slots, by number.
    ///
    /// # Errors
    /// [`StoreError::Damaged`].
    pub fn slots(&self) -> Result<Vec<SlotInfo>, StoreError> {
        self.store.slots()
    }

    /// Adds an unlock slot, so that `secret` opens the store too; answers its number.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] when the secret, its cost or the number of slots is out of bounds;
    /// else as any write to the store.
    pub fn add_slot(&self, secret: &UnlockSecret, costs: Costs) -> Result<u32, StoreError> {
        let _writing = self.writes.lock();
        self.store.add_slot(secret, costs, None)
    }

    /// Removes an unlock slot, so that its secret opens the store no more.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for an unknown slot or the only one; else as any write.
    pub fn remove_slot(&self, id: u32) -> Result<(), StoreError> {
        let _writing = self.writes.lock();
        self.store.remove_slot(id)
    }

    /// What is known about the store, without any secret.
    ///
    /// # Errors
    /// Internal.
    pub fn store_info(&self) -> Result<StoreInfo, KmsError> {
        let slots = self
            .store
            .slots()?
            .into_iter()
            .map(|slot| UnlockSlot { number: slot.id, kind: kind_name(slot.kind).to_owned() });
        let kept = self.store.kept_backup();
        let book = self.book.read();
        let of = |manager| book.keys.values().filter(move |entry| entry.record.manager == manager);
        let internal = of(KeyManager::Internal).map(|entry| InternalKey {
            key_id: entry.record.id,
            description: entry.record.description.clone(),
        });
        Ok(StoreInfo {
            store_id: self.store.id().to_string(),
            directory: self.store.dir().to_owned(),
            region: self.realm().region.clone(),
            account: self.realm().account.clone(),
            program: env!("CARGO_PKG_VERSION").to_owned(),
            keys: of(KeyManager::Customer).count() as u64,
            versions: book.keys.values().map(|entry| entry.material.len() as u64).sum(),
            slots: slots.collect(),
            internal_keys: internal.collect(),
            receipt_public_key: self.receipt_key()?.to_base64(),
            backup: kept.path,
            backup_behind: kept.behind,
        })
    }

    /// Writes a backup to a file of this process's file system.
    ///
    /// # Errors
    /// AlreadyExists if the file is there and not to be replaced; Validation for a relative path;
    /// Internal.
    pub fn back_up(
        &self,
        caller: &Caller,
        request: &BackUpStoreRequest,
    ) -> Result<BackUpStoreResponse, KmsError> {
        absolute(&request.path)?;
        let over = if request.force { Over::Anything } else { Over::Nothing };
        let written = self.store.back_up(&request.path, over)?;
        tracing::info!(uid = caller.uid, pid = caller.pid, backup = %request.path.display(), "backup written");
        Ok(self.backed_up(&request.path, written))
    }

    /// Keeps a backup up to date from now on, or none.
    ///
    /// # Errors
    /// As [`Service::back_up`]; a backup of this very store may be replaced without force.
    pub fn keep_backup(&self, caller: &Caller, request: &KeepBackupRequest) -> Result<Empty, KmsError> {
        request.path.as_deref().map_or(Ok(()), absolute)?;
        let over = if request.force { Over::Anything } else { Over::OwnBackup };
        let _writing = self.writes.lock();
        self.store.keep_backup(request.path.clone(), over)?;
        tracing::info!(uid = caller.uid, pid = caller.pid, backup = ?request.path, "kept backup chosen");
        Ok(Empty {})
    }

    /// Opens every record in the store's file, and in a backup if there is one.
    ///
    /// # Errors
    /// Internal, naming what is wrong.
    pub fn check_store(&self, request: &CheckStoreRequest) -> Result<CheckStoreResponse, KmsError> {
        request.backup.as_deref().map_or(Ok(()), absolute)?;
        let _writing = self.writes.lock();
        let checked = self.store.check(request.backup.as_deref())?;
        Ok(CheckStoreResponse {
            keys: checked.keys,
            versions: checked.versions,
            aliases: checked.aliases,
            slots: checked.slots,
            backup: checked.backup,
        })
    }

    /// Adds an unlock slot for whoever knows the secret of one, and may remove that one.
    ///
    /// # Errors
    /// AccessDenied for a wrong current secret; Validation; Internal.
    pub fn add_unlock_slot(
        &self,
        caller: &Caller,
        request: &AddUnlockSlotRequest,
    ) -> Result<AddUnlockSlotResponse, KmsError> {
        let current = self.slot_of(&request.current.to_secret()?)?;
        let instead_of = request.replace_current.then_some(current);
        let _writing = self.writes.lock();
        let number = self.store.add_slot(&request.new.to_secret()?, Costs::default(), instead_of)?;
        tracing::info!(uid = caller.uid, pid = caller.pid, number, ?instead_of, "unlock slot added");
        Ok(AddUnlockSlotResponse { number, removed: instead_of })
    }

    /// Removes an unlock slot for whoever knows the secret of one.
    ///
    /// # Errors
    /// As [`Service::add_unlock_slot`].
    pub fn remove_unlock_slot(
        &self,
        caller: &Caller,
        request: &RemoveUnlockSlotRequest,
    ) -> Result<Empty, KmsError> {
        self.slot_of(&request.current.to_secret()?)?;
        self.remove_slot(request.number)?;
        tracing::info!(uid = caller.uid, pid = caller.pid, number = request.number, "unlock slot removed");
        Ok(Empty {})
    }

    /// Being allowed to call does not suffice to change what opens the store for ever.
    fn slot_of(&self, secret: &UnlockSecret) -> Result<u32, KmsError> {
        self.store.slot_of(secret)?.ok_or_else(|| StoreError::WrongSecret.into())
    }

    fn backed_up(&self, path: &Path, written: Written) -> BackUpStoreResponse {
        BackUpStoreResponse {
            path: path.to_owned(),
            store_id: self.store.id().to_string(),
            keys: written.keys,
            versions: written.versions,
            bytes: written.len,
            sha256: data_encoding::HEXLOWER.encode(&written.checksum),
            created: written.created,
        }
    }
}

fn absolute(path: &Path) -> Result<(), KmsError> {
    // The caller's working directory is not this process's.
    if path.is_absolute() && path.file_name().is_some() {
        return Ok(());
    }
    Err(KmsError::validation(format!("{} is not an absolute path of a file", path.display())))
}

fn kind_name(kind: SlotKind) -> &'static str {
    match kind {
        SlotKind::Passphrase(_) => "Passphrase",
        SlotKind::KeyFile => "KeyFile",
        SlotKind::RecoveryKey => "RecoveryKey",
    }
}

/// A store that cannot be written refuses the operation and stays as it was.
impl From<StoreError> for KmsError {
    fn from(error: StoreError) -> Self {
        if matches!(error, StoreError::Locked) {
            return Self::locked();
        }
        let message = error.to_string();
        let (kind, reason) = match &error {
            StoreError::WrongSecret => (ErrorKind::AccessDenied, Some(Reason::WrongSecret)),
            StoreError::Invalid(_) => (ErrorKind::Validation, Some(Reason::Store)),
            StoreError::BackupExists(_) => (ErrorKind::AlreadyExists, Some(Reason::Store)),
            StoreError::NoSpace => (ErrorKind::Internal, Some(Reason::NoSpace)),
            StoreError::NotBackedUp { .. } => (ErrorKind::Internal, Some(Reason::NotBackedUp)),
            StoreError::Damaged(_) => (ErrorKind::Internal, Some(Reason::Damaged)),
            StoreError::NotABackup(_)
            | StoreError::BackupVersion { .. }
            | StoreError::BackupDamaged { .. }
            | StoreError::BackupBehind { .. } => (ErrorKind::Internal, Some(Reason::BadBackup)),
            StoreError::Io { source, .. } => match source.kind() {
                std::io::ErrorKind::ReadOnlyFilesystem => (ErrorKind::Internal, Some(Reason::ReadOnly)),
                std::io::ErrorKind::PermissionDenied => (ErrorKind::Internal, Some(Reason::Permission)),
                _ => (ErrorKind::Internal, Some(Reason::Store)),
            },
            _ => (ErrorKind::Internal, Some(Reason::Store)),
        };
        let error = Self::new(kind, message);
        match reason {
            Some(reason) => error.because(reason),
            None => error,
        }
    }
}
