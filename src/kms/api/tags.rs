//! Tags of keys.

use serde::{Deserialize, Serialize};

/// A word that somebody put on a key, and what it says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Tag {
    /// 1 to 128 characters.
    pub tag_key: String,
    /// Up to 256 characters.
    pub tag_value: String,
}

/// Parameters of TagResource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct TagResourceRequest {
    /// The key: id or ARN.
    pub key_id: String,
    /// What to add, over tags of the same keys.
    pub tags: Vec<Tag>,
}

/// Parameters of UntagResource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct UntagResourceRequest {
    /// The key: id or ARN.
    pub key_id: String,
    /// Keys of the tags to remove; those that are not there are passed over.
    pub tag_keys: Vec<String>,
}

/// Parameters of ListResourceTags.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ListResourceTagsRequest {
    /// The key: id or ARN.
    pub key_id: String,
    /// Most tags to answer: 1 to 50, 50 if absent.
    pub limit: Option<u32>,
    /// `next_marker` of the listing to go on with.
    pub marker: Option<String>,
}

/// Answer of ListResourceTags.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ListResourceTagsResponse {
    /// In order of their keys.
    pub tags: Vec<Tag>,
    /// Where to go on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_marker: Option<String>,
    /// Whether there are more.
    pub truncated: bool,
}
