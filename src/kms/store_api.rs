//! The store's own operations as messages: what AWS KMS has no name for.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::encoding::SecretBytes;
use super::error::KmsError;
use super::id::KeyId;
use super::store::UnlockSecret;
use super::watch::CutReport;
use crate::secret::Passphrase;

/// Answer of Kmsfs.StoreInfo.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct StoreInfo {
    /// The key store's id.
    pub store_id: String,
    /// Its directory.
    pub directory: PathBuf,
    /// Its region.
    pub region: String,
    /// Its account.
    pub account: String,
    /// Version of the program that has it open.
    pub program: String,
    /// Master keys, internal ones left out.
    pub keys: u64,
    /// Versions of all master keys, internal ones included.
    pub versions: u64,
    /// What opens it.
    pub slots: Vec<UnlockSlot>,
    /// The keys of volumes.
    pub internal_keys: Vec<InternalKey>,
    /// What receipts of deleted keys are verified with: an Ed25519 public key in base64.
    pub receipt_public_key: String,
    /// The backup that is kept up to date.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup: Option<PathBuf>,
    /// Why that backup is behind, if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup_behind: Option<String>,
}

/// What opens a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct UnlockSlot {
    /// The slot's number, never used twice.
    pub number: u32,
    /// `Passphrase`, `KeyFile` or `RecoveryKey`.
    pub kind: String,
}

/// A key that a volume made for itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct InternalKey {
    /// Its id.
    pub key_id: KeyId,
    /// What it is for.
    pub description: String,
}

/// Parameters of Kmsfs.BackUpStore.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct BackUpStoreRequest {
    /// Absolute path of the file to write.
    pub path: PathBuf,
    /// Whether a file that is there may be replaced.
    #[serde(default)]
    pub force: bool,
}

/// Answer of Kmsfs.BackUpStore.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct BackUpStoreResponse {
    /// The file.
    pub path: PathBuf,
    /// The key store's id.
    pub store_id: String,
    /// Master keys in it, internal ones included.
    pub keys: u64,
    /// Versions of their material.
    pub versions: u64,
    /// Length of the file.
    pub bytes: u64,
    /// Its SHA-256, in hexadecimal.
    pub sha256: String,
    /// When it was made.
    pub created: Timestamp,
}

/// Parameters of Kmsfs.KeepBackup.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct KeepBackupRequest {
    /// Absolute path of the backup to keep; absent for none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub path: Option<PathBuf>,
    /// Whether a file that is there, and is no backup of this store, may be replaced.
    #[serde(default)]
    pub force: bool,
}

/// Parameters of Kmsfs.CheckStore.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CheckStoreRequest {
    /// A backup to check against the store, instead of the one that is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup: Option<PathBuf>,
}

/// Answer of Kmsfs.CheckStore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct CheckStoreResponse {
    /// Master keys, internal ones included.
    pub keys: u64,
    /// Versions of their material.
    pub versions: u64,
    /// Aliases.
    pub aliases: u64,
    /// Unlock slots.
    pub slots: u64,
    /// The backup that was checked too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup: Option<PathBuf>,
}

/// Parameters of Kmsfs.VerifyAudit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct VerifyAuditRequest {
    /// Absolute paths of segments, such as those of an archive; the whole log if there are none.
    pub files: Vec<PathBuf>,
}

/// An unlock secret on its way to the process that has the store open.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct SecretMessage {
    /// `Passphrase`, `KeyFile` or `RecoveryKey`.
    pub kind: String,
    /// The secret.
    pub plaintext: SecretBytes,
}

/// Parameters of Kmsfs.AddUnlockSlot.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct AddUnlockSlotRequest {
    /// A secret that opens the store now.
    pub current: SecretMessage,
    /// The one that is to.
    pub new: SecretMessage,
    /// Whether the current one is to stop opening it.
    #[serde(default)]
    pub replace_current: bool,
}

/// Answer of Kmsfs.AddUnlockSlot.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct AddUnlockSlotResponse {
    /// The new slot.
    pub number: u32,
    /// The slot that was removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub removed: Option<u32>,
}

/// Parameters of Kmsfs.RemoveUnlockSlot.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RemoveUnlockSlotRequest {
    /// A secret that opens the store now.
    pub current: SecretMessage,
    /// The slot to remove.
    pub number: u32,
}

/// Why a key store is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LockReason {
    /// Somebody said so.
    Command,
    /// Nobody used a key for so long.
    Idle,
    /// The machine had been suspended.
    Suspend,
}

impl std::fmt::Display for LockReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Command => "by command",
            Self::Idle => "as nobody used it",
            Self::Suspend => "as the machine had been suspended",
        })
    }
}

/// That a key store is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Locked {
    /// Since when.
    pub since: Timestamp,
    /// Why.
    pub reason: LockReason,
}

/// Parameters of Kmsfs.LockStore.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockStoreRequest {}

/// Answer of Kmsfs.LockStore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct LockStoreResponse {
    /// Since when, and why.
    pub locked: Locked,
    /// Whether it was locked before.
    pub was_locked: bool,
    /// What was cut off, and the mounts that did not answer.
    pub mounts: Vec<CutReport>,
}

/// Parameters of Kmsfs.UnlockStore.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct UnlockStoreRequest {
    /// A secret that opens the store.
    pub secret: SecretMessage,
}

/// Answer of Kmsfs.UnlockStore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct UnlockStoreResponse {
    /// Whether it was locked. If not, the secret was not looked at.
    pub was_locked: bool,
    /// Mounts that did not answer; they follow when they do.
    pub silent: Vec<String>,
}

impl SecretMessage {
    pub(super) fn to_secret(&self) -> Result<UnlockSecret, KmsError> {
        let secret = Passphrase::new(self.plaintext.to_vec());
        match self.kind.as_str() {
            "Passphrase" => Ok(UnlockSecret::Passphrase(secret)),
            "KeyFile" => Ok(UnlockSecret::KeyFile(secret)),
            "RecoveryKey" => Ok(UnlockSecret::RecoveryKey(secret)),
            // What was said instead may be the secret.
            _ => Err(KmsError::validation("Kind must be Passphrase, KeyFile or RecoveryKey")),
        }
    }
}

impl From<&UnlockSecret> for SecretMessage {
    fn from(secret: &UnlockSecret) -> Self {
        let (kind, bytes) = match secret {
            UnlockSecret::Passphrase(bytes) => ("Passphrase", bytes),
            UnlockSecret::KeyFile(bytes) => ("KeyFile", bytes),
            UnlockSecret::RecoveryKey(bytes) => ("RecoveryKey", bytes),
        };
        Self { kind: kind.to_owned(), plaintext: SecretBytes::new(bytes.to_vec()) }
    }
}
