//! Deciding on the opening of a file, which AWS KMS has no operation for.

use serde::{Deserialize, Serialize};

use crate::kms::context::EncryptionContext;

/// Parameters of Kmsfs.AuthorizeOpen.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct AuthorizeOpenRequest {
    /// The master key that wraps the file's data key.
    pub key_id: String,
    /// What the data key is bound to.
    pub encryption_context: EncryptionContext,
    /// The version of the master key's material that wraps it; for the log.
    pub key_material_version: u32,
}
