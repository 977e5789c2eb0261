//! Making, describing, listing, rotating and destroying keys.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::tags::Tag;
use super::{ExpirationModel, XksKeyConfiguration};
use crate::kms::encoding::seconds;
use crate::kms::id::KeyId;
use crate::kms::material::{EncryptionAlgorithm, MacAlgorithm, SigningAlgorithm};
use crate::kms::spec::{KeySpec, KeyUsage, Origin};
use crate::kms::state::{KeyManager, KeyState};
use crate::kms::watch::CutReport;

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
    /// What it may be used for.
    pub key_usage: KeyUsage,
    /// The key's state.
    pub key_state: KeyState,
    /// When it will be destroyed, while PendingDeletion.
    #[serde(default, with = "seconds::option", skip_serializing_if = "Option::is_none")]
    pub deletion_date: Option<Timestamp>,
    /// The whole window, while PendingDeletion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_deletion_window_in_days: Option<u32>,
    /// When imported material goes by itself.
    #[serde(default, with = "seconds::option", skip_serializing_if = "Option::is_none")]
    pub valid_to: Option<Timestamp>,
    /// Whether imported material goes by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiration_model: Option<ExpirationModel>,
    /// The cryptography that it is made for.
    pub key_spec: KeySpec,
    /// The older name of `key_spec`.
    pub customer_master_key_spec: KeySpec,
    /// Where its material comes from.
    pub origin: Origin,
    /// The custom key store that it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom_key_store_id: Option<String>,
    /// The key elsewhere that it stands for, in an external key store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xks_key_configuration: Option<XksKeyConfiguration>,
    /// Who manages it.
    pub key_manager: KeyManager,
    /// Always false.
    #[serde(default)]
    pub multi_region: bool,
    /// How it encrypts, if that is its use.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub encryption_algorithms: Vec<EncryptionAlgorithm>,
    /// How it signs, if that is its use.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signing_algorithms: Vec<SigningAlgorithm>,
    /// How it authenticates messages, if that is its use.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mac_algorithms: Vec<MacAlgorithm>,
    /// Fingerprint of the newest material of a symmetric key: 64 hexadecimal digits.
    #[serde(default, skip_serializing_if = "String::is_empty")]
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
    /// One that fits the spec; may be absent for symmetric keys.
    pub key_usage: Option<String>,
    /// `SYMMETRIC_DEFAULT` if absent.
    pub key_spec: Option<String>,
    /// As `key_spec`.
    pub customer_master_key_spec: Option<String>,
    /// `AWS_KMS` if absent; with `EXTERNAL` the key waits for its material; with `EXTERNAL_KEY_STORE` it
    /// stands for a key elsewhere.
    pub origin: Option<String>,
    /// The custom key store that it is to be in, with origin `EXTERNAL_KEY_STORE`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub custom_key_store_id: Option<String>,
    /// The key elsewhere that it is to stand for, with origin `EXTERNAL_KEY_STORE`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub xks_key_id: Option<String>,
    /// False or absent.
    pub multi_region: Option<bool>,
    /// The key policy; the default one if absent.
    pub policy: Option<String>,
    /// Whether the policy may lock the caller out.
    pub bypass_policy_lockout_safety_check: bool,
    /// Up to 50.
    pub tags: Vec<Tag>,
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

/// Parameters of DisableKey.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DisableKeyRequest {
    /// The key.
    pub key_id: String,
    /// Whether to leave the key as it is if a mount cannot write back what it holds under it. Our
    /// extension.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stop_if_unwritten: bool,
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
    /// As of [`DisableKeyRequest`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stop_if_unwritten: bool,
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
