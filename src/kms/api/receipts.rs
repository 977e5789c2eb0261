//! Receipts of deleted keys. Operations of our own.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::kms::encoding::seconds;

/// Parameters of Kmsfs.ListDeletionReceipts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ListDeletionReceiptsRequest {
    /// Most entries, 1 to 1000; 100 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Where the last answer stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub marker: Option<String>,
}

/// Answer of Kmsfs.ListDeletionReceipts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ListDeletionReceiptsResponse {
    /// In order of the keys' ids.
    pub receipts: Vec<ReceiptListEntry>,
    /// For the next request, if there are more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_marker: Option<String>,
    /// Whether there are more.
    pub truncated: bool,
}

/// A key that was deleted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ReceiptListEntry {
    /// ARN of the key.
    pub key_arn: String,
    /// Its aliases when it was deleted.
    pub aliases: Vec<String>,
    /// When it was deleted.
    #[serde(with = "seconds")]
    pub destroyed: Timestamp,
    /// When the last of its bytes in the store's files were overwritten; absent until then.
    #[serde(with = "seconds::option", default, skip_serializing_if = "Option::is_none")]
    pub scrubbed: Option<Timestamp>,
    /// Files that were lost with it, as far as was known.
    pub files: u64,
    /// Whether that is all.
    pub certain: bool,
}
