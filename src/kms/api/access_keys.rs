//! Access keys, which sign the requests of users who come over the network. Operations of our own,
//! in the shapes of AWS IAM's.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::kms::encoding::seconds;

/// Parameters of Kmsfs.CreateAccessKey.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CreateAccessKeyRequest {
    /// Whom it is for.
    pub user_name: String,
    /// Bring this id instead of a fresh one; with `secret_access_key`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_key_id: Option<String>,
    /// Bring this secret instead of a fresh one; with `access_key_id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_access_key: Option<Zeroizing<String>>,
}

/// Answer of Kmsfs.CreateAccessKey.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct CreateAccessKeyResponse {
    /// What is known about it.
    pub access_key: AccessKeyMetadata,
    /// The secret; it is never shown again.
    pub secret_access_key: Zeroizing<String>,
}

/// What is known about an access key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct AccessKeyMetadata {
    /// Its id.
    pub access_key_id: String,
    /// Whose it is.
    pub user_name: String,
    /// `Active` or `Inactive`.
    pub status: String,
    /// When it was created.
    #[serde(with = "seconds")]
    pub create_date: Timestamp,
}

/// Answer of Kmsfs.ListAccessKeys: all of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ListAccessKeysResponse {
    /// In order of their ids.
    pub access_keys: Vec<AccessKeyMetadata>,
}

/// Parameters of Kmsfs.UpdateAccessKey.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct UpdateAccessKeyRequest {
    /// Which one.
    pub access_key_id: String,
    /// `Active` or `Inactive`.
    pub status: String,
}

/// Parameters of Kmsfs.DeleteAccessKey.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DeleteAccessKeyRequest {
    /// Which one.
    pub access_key_id: String,
}

/// Never shows the secret.
impl fmt::Debug for CreateAccessKeyRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreateAccessKeyRequest").field("user_name", &self.user_name).finish_non_exhaustive()
    }
}

/// Never shows the secret.
impl fmt::Debug for CreateAccessKeyResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreateAccessKeyResponse")
            .field("access_key", &self.access_key)
            .finish_non_exhaustive()
    }
}
