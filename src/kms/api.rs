//! Requests and answers in the shapes of the AWS KMS JSON 1.1 API, and the few of our own.
//! Unknown members are ignored; times are seconds since 1970; bytes are base64.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::context::EncryptionContext;
use super::encoding::{base64, seconds};
use super::id::KeyId;
use super::state::{KeyManager, KeyState};
use super::watch::{CutReport, MountStatus};

pub use super::encoding::SecretBytes;

/// The one algorithm that keys of this service encrypt with, under AWS's name.
pub const SYMMETRIC_DEFAULT: &str = "SYMMETRIC_DEFAULT";
/// The one use of keys of this service.
pub const ENCRYPT_DECRYPT: &str = "ENCRYPT_DECRYPT";
/// The origin of keys whose material the service made.
pub const AWS_KMS: &str = "AWS_KMS";

/// What is known about a master key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct KeyMetadata {
    /// The key's id.
    pub key_id: KeyId,
    /// The key's full name.
    pub arn: String,
    /// The store's account.
    #[serde(rename = "AWSAccountId")]
    pub account: String,
    /// When it was created.
    #[serde(with = "seconds")]
    pub creation_date: Timestamp,
    /// Whether `key_state` is Enabled.
    pub enabled: bool,
    /// The creator's words.
    #[serde(default)]
    pub description: String,
    /// `ENCRYPT_DECRYPT`.
    pub key_usage: String,
    /// The key's state.
    pub key_state: KeyState,
    /// When it will be destroyed, while PendingDeletion.
    #[serde(default, with = "seconds::option", skip_serializing_if = "Option::is_none")]
    pub deletion_date: Option<Timestamp>,
    /// `SYMMETRIC_DEFAULT`.
    pub key_spec: String,
    /// `SYMMETRIC_DEFAULT`; the older name of `key_spec`.
    #[serde(default, rename = "CustomerMasterKeySpec")]
    pub customer_master_key_spec: String,
    /// `AWS_KMS`.
    pub origin: String,
    /// Who manages it.
    pub key_manager: KeyManager,
    /// Always false.
    #[serde(default)]
    pub multi_region: bool,
    /// `SYMMETRIC_DEFAULT`.
    #[serde(default)]
    pub encryption_algorithms: Vec<String>,
    /// Fingerprint of the newest material: 64 hexadecimal digits.
    #[serde(default)]
    pub current_key_material_id: String,
    /// Number of the newest material, from 1. Our extension.
    #[serde(default)]
    pub current_key_material_version: u32,
}

/// Parameters of CreateKey.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CreateKeyRequest {
    /// Up to 8192 characters.
    pub description: String,
    /// `ENCRYPT_DECRYPT` or absent.
    pub key_usage: Option<String>,
    /// `SYMMETRIC_DEFAULT` or absent.
    pub key_spec: Option<String>,
    /// As `key_spec`.
    pub customer_master_key_spec: Option<String>,
    /// `AWS_KMS` or absent.
    pub origin: Option<String>,
    /// False or absent.
    pub multi_region: Option<bool>,
    /// Refused: silently dropping a policy would leave a key open that was meant to be closed.
    pub policy: Option<String>,
    /// Refused unless empty.
    pub tags: Vec<serde_json::Value>,
    /// CUSTOMER, or INTERNAL for a volume's bookkeeping key. Our extension.
    pub manager: KeyManager,
}

/// Answer of CreateKey and DescribeKey.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct KeyResponse {
    /// The key.
    pub key_metadata: KeyMetadata,
}

/// Parameters of the operations that take a key alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct KeyRequest {
    /// The key.
    pub key_id: String,
}

/// Parameters of ListKeys.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ListKeysRequest {
    /// Most keys to answer: 1 to 1000, 100 if absent.
    pub limit: Option<u32>,
    /// `next_marker` of the listing to go on with.
    pub marker: Option<String>,
}

/// One key of a listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct KeyListEntry {
    /// The key's id.
    pub key_id: KeyId,
    /// The key's full name.
    pub key_arn: String,
}

/// Answer of ListKeys.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ListKeysResponse {
    /// In order of their ids.
    pub keys: Vec<KeyListEntry>,
    /// Where to go on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_marker: Option<String>,
    /// Whether there are more.
    pub truncated: bool,
}

/// Parameters of ScheduleKeyDeletion.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ScheduleKeyDeletionRequest {
    /// The key.
    pub key_id: String,
    /// 7 to 30 days; 30 if absent.
    pub pending_window_in_days: Option<u32>,
}

/// Answer of the operations that change a key's state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct StateResponse {
    /// The key's full name.
    pub key_id: String,
    /// Its state now.
    pub key_state: KeyState,
    /// When it will be destroyed, after ScheduleKeyDeletion.
    #[serde(default, with = "seconds::option", skip_serializing_if = "Option::is_none")]
    pub deletion_date: Option<Timestamp>,
    /// The window, after ScheduleKeyDeletion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_window_in_days: Option<u32>,
    /// What was cut off, per mount. Our extension.
    #[serde(default)]
    pub mounts: Vec<CutReport>,
}

/// Answer of RotateKeyOnDemand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RotateKeyOnDemandResponse {
    /// The key's full name.
    pub key_id: String,
    /// Number of the newest material. Our extension.
    pub current_key_material_version: u32,
}

/// Parameters of ListKeyRotations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ListKeyRotationsRequest {
    /// The key.
    pub key_id: String,
    /// `ALL_KEY_MATERIAL` to include the first material; `ROTATIONS_ONLY` if absent.
    pub include_key_material: Option<String>,
    /// Most rotations to answer: 1 to 1000, 100 if absent.
    pub limit: Option<u32>,
    /// `next_marker` of the listing to go on with.
    pub marker: Option<String>,
}

/// One version of a key's material.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RotationEntry {
    /// The key's full name.
    pub key_id: String,
    /// Fingerprint of the material.
    pub key_material_id: String,
    /// Number of the material, from 1. Our extension.
    pub key_material_version: u32,
    /// `CURRENT` or `NON_CURRENT`.
    pub key_material_state: String,
    /// When it became the newest.
    #[serde(with = "seconds")]
    pub rotation_date: Timestamp,
    /// `ON_DEMAND`; absent for the first material.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation_type: Option<String>,
}

/// Answer of ListKeyRotations.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ListKeyRotationsResponse {
    /// Oldest first.
    pub rotations: Vec<RotationEntry>,
    /// Where to go on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_marker: Option<String>,
    /// Whether there are more.
    pub truncated: bool,
}

/// Parameters of CreateAlias and UpdateAlias.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct AliasRequest {
    /// With its `alias/`.
    pub alias_name: String,
    /// Id or ARN of the key to name.
    pub target_key_id: String,
}

/// Parameters of DeleteAlias.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DeleteAliasRequest {
    /// With its `alias/`.
    pub alias_name: String,
}

/// Parameters of ListAliases.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ListAliasesRequest {
    /// List the aliases of this key alone.
    pub key_id: Option<String>,
    /// Most aliases to answer: 1 to 100, 50 if absent.
    pub limit: Option<u32>,
    /// `next_marker` of the listing to go on with.
    pub marker: Option<String>,
}

/// One alias of a listing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct AliasListEntry {
    /// With its `alias/`.
    pub alias_name: String,
    /// The alias's full name.
    pub alias_arn: String,
    /// The key that it names.
    pub target_key_id: KeyId,
    /// When it was created.
    #[serde(with = "seconds")]
    pub creation_date: Timestamp,
    /// When it was last given another key.
    #[serde(with = "seconds")]
    pub last_updated_date: Timestamp,
}

/// Answer of ListAliases.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ListAliasesResponse {
    /// In order of their names.
    pub aliases: Vec<AliasListEntry>,
    /// Where to go on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_marker: Option<String>,
    /// Whether there are more.
    pub truncated: bool,
}

/// Parameters of GenerateDataKey and GenerateDataKeyWithoutPlaintext.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct GenerateDataKeyRequest {
    /// The key.
    pub key_id: String,
    /// What the data key is for.
    pub encryption_context: EncryptionContext,
    /// 1 to 1024; either this or `key_spec`.
    pub number_of_bytes: Option<u32>,
    /// `AES_256` or `AES_128`.
    pub key_spec: Option<String>,
    /// Only check whether it would work.
    pub dry_run: bool,
}

/// Answer of GenerateDataKey and GenerateDataKeyWithoutPlaintext.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct GenerateDataKeyResponse {
    /// The data key, wrapped.
    #[serde(with = "base64")]
    pub ciphertext_blob: Vec<u8>,
    /// The data key; absent from GenerateDataKeyWithoutPlaintext.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plaintext: Option<SecretBytes>,
    /// Full name of the key that wrapped it.
    pub key_id: String,
    /// Fingerprint of the material that wrapped it.
    #[serde(default)]
    pub key_material_id: String,
    /// Number of the material that wrapped it. Our extension.
    #[serde(default)]
    pub key_material_version: u32,
}

/// Parameters of Encrypt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct EncryptRequest {
    /// The key.
    pub key_id: String,
    /// 1 to 4096 bytes.
    pub plaintext: SecretBytes,
    /// What the ciphertext is for.
    #[serde(default)]
    pub encryption_context: EncryptionContext,
    /// `SYMMETRIC_DEFAULT` or absent.
    #[serde(default)]
    pub encryption_algorithm: Option<String>,
    /// Only check whether it would work.
    #[serde(default)]
    pub dry_run: bool,
}

/// Answer of Encrypt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct EncryptResponse {
    /// The ciphertext.
    #[serde(with = "base64")]
    pub ciphertext_blob: Vec<u8>,
    /// Full name of the key.
    pub key_id: String,
    /// `SYMMETRIC_DEFAULT`.
    pub encryption_algorithm: String,
}

/// Parameters of Decrypt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DecryptRequest {
    /// What Encrypt or GenerateDataKey answered.
    #[serde(with = "base64")]
    pub ciphertext_blob: Vec<u8>,
    /// The pairs that it was made with.
    #[serde(default)]
    pub encryption_context: EncryptionContext,
    /// Refuse a ciphertext of any other key.
    #[serde(default)]
    pub key_id: Option<String>,
    /// `SYMMETRIC_DEFAULT` or absent.
    #[serde(default)]
    pub encryption_algorithm: Option<String>,
    /// Only check whether it would work.
    #[serde(default)]
    pub dry_run: bool,
}

/// Answer of Decrypt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DecryptResponse {
    /// Full name of the key.
    pub key_id: String,
    /// The plaintext.
    pub plaintext: SecretBytes,
    /// `SYMMETRIC_DEFAULT`.
    pub encryption_algorithm: String,
    /// Fingerprint of the material.
    #[serde(default)]
    pub key_material_id: String,
    /// Number of the material. Our extension.
    #[serde(default)]
    pub key_material_version: u32,
}

/// Parameters of ReEncrypt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ReEncryptRequest {
    /// What Encrypt or GenerateDataKey answered.
    #[serde(with = "base64")]
    pub ciphertext_blob: Vec<u8>,
    /// The pairs that it was made with.
    #[serde(default)]
    pub source_encryption_context: EncryptionContext,
    /// Refuse a ciphertext of any other key.
    #[serde(default)]
    pub source_key_id: Option<String>,
    /// The key to encrypt with.
    pub destination_key_id: String,
    /// The pairs to encrypt with.
    #[serde(default)]
    pub destination_encryption_context: EncryptionContext,
    /// `SYMMETRIC_DEFAULT` or absent.
    #[serde(default)]
    pub source_encryption_algorithm: Option<String>,
    /// `SYMMETRIC_DEFAULT` or absent.
    #[serde(default)]
    pub destination_encryption_algorithm: Option<String>,
    /// Only check whether it would work.
    #[serde(default)]
    pub dry_run: bool,
}

/// Answer of ReEncrypt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ReEncryptResponse {
    /// The new ciphertext.
    #[serde(with = "base64")]
    pub ciphertext_blob: Vec<u8>,
    /// Full name of the key that decrypted.
    pub source_key_id: String,
    /// Full name of the key that encrypted.
    pub key_id: String,
    /// `SYMMETRIC_DEFAULT`.
    pub source_encryption_algorithm: String,
    /// `SYMMETRIC_DEFAULT`.
    pub destination_encryption_algorithm: String,
    /// Fingerprint of the material that decrypted.
    pub source_key_material_id: String,
    /// Fingerprint of the material that encrypted.
    pub destination_key_material_id: String,
}

/// Parameters of GenerateRandom.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct GenerateRandomRequest {
    /// 1 to 1024.
    pub number_of_bytes: Option<u32>,
}

/// Answer of GenerateRandom.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct GenerateRandomResponse {
    /// The bytes.
    pub plaintext: SecretBytes,
}

/// Answer of Kmsfs.Status.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct StatusResponse {
    /// The key store's id.
    pub store_id: String,
    /// Its directory.
    pub directory: String,
    /// Its region.
    pub region: String,
    /// Its account.
    pub account: String,
    /// The process that owns it.
    pub pid: u32,
    /// Whether the root key is in memory; true of every service that answers.
    pub unlocked: bool,
    /// Whether all key material could be locked into memory.
    pub memory_locked: bool,
    /// Keys by state, internal ones left out.
    pub keys: BTreeMap<String, u64>,
    /// What every mount says of itself.
    pub mounts: Vec<MountStatus>,
}

/// An answer without members.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}
