//! Second names for keys.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::kms::encoding::seconds;
use crate::kms::id::KeyId;

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
