//! What AWS KMS has no shape for.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::kms::store_api::Locked;
use crate::kms::watch::MountStatus;

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
    /// Whether the root key is in memory.
    pub unlocked: bool,
    /// Since when it is not, and why.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub locked: Option<Locked>,
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
