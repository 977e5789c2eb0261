//! Rotation schedules, the last use of a key, its description.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::kms::encoding::seconds;

/// Parameters of EnableKeyRotation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct EnableKeyRotationRequest {
    /// The key.
    pub key_id: String,
    /// 90 to 2560 days; if absent as before, or 365.
    #[serde(default)]
    pub rotation_period_in_days: Option<u32>,
}

/// Answer of GetKeyRotationStatus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RotationStatusResponse {
    /// Full name of the key.
    pub key_id: String,
    /// Whether it rotates by itself.
    pub key_rotation_enabled: bool,
    /// How often.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation_period_in_days: Option<u32>,
    /// When next.
    #[serde(default, with = "seconds::option", skip_serializing_if = "Option::is_none")]
    pub next_rotation_date: Option<Timestamp>,
}

/// Answer of GetKeyLastUsage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct KeyLastUsageResponse {
    /// Full name of the key.
    pub key_id: String,
    /// The last successful use; empty if there was none.
    pub key_last_usage: KeyLastUsage,
    /// Since when uses are noted.
    #[serde(with = "seconds")]
    pub tracking_start_date: Timestamp,
    /// When the key was made.
    #[serde(with = "seconds")]
    pub key_creation_date: Timestamp,
}

/// The last successful use of a key.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct KeyLastUsage {
    /// What it was used for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// When.
    #[serde(default, with = "seconds::option", skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<Timestamp>,
}

/// Parameters of UpdateKeyDescription.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct UpdateKeyDescriptionRequest {
    /// The key.
    pub key_id: String,
    /// Up to 8192 characters.
    pub description: String,
}
