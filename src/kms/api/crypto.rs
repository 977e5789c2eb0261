//! The cryptographic operations.

use serde::{Deserialize, Serialize};

use crate::kms::context::EncryptionContext;
use crate::kms::encoding::{SecretBytes, base64};

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
    /// Tokens of grants that are to be considered; up to ten.
    #[serde(default)]
    pub grant_tokens: Vec<String>,
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
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct EncryptRequest {
    /// The key.
    pub key_id: String,
    /// 1 to 4096 bytes.
    pub plaintext: SecretBytes,
    /// What the ciphertext is for.
    #[serde(default)]
    pub encryption_context: EncryptionContext,
    /// `SYMMETRIC_DEFAULT` if absent.
    #[serde(default)]
    pub encryption_algorithm: Option<String>,
    /// Only check whether it would work.
    #[serde(default)]
    pub dry_run: bool,
    /// Tokens of grants that are to be considered; up to ten.
    #[serde(default)]
    pub grant_tokens: Vec<String>,
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
    /// The algorithm that was used.
    pub encryption_algorithm: String,
}

/// Parameters of Decrypt.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
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
    /// `SYMMETRIC_DEFAULT` if absent.
    #[serde(default)]
    pub encryption_algorithm: Option<String>,
    /// Only check whether it would work.
    #[serde(default)]
    pub dry_run: bool,
    /// Tokens of grants that are to be considered; up to ten.
    #[serde(default)]
    pub grant_tokens: Vec<String>,
}

/// Answer of Decrypt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DecryptResponse {
    /// Full name of the key.
    pub key_id: String,
    /// The plaintext.
    pub plaintext: SecretBytes,
    /// The algorithm that was used.
    pub encryption_algorithm: String,
    /// Fingerprint of the material, if it is symmetric.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub key_material_id: String,
    /// Number of the material. Our extension.
    #[serde(default)]
    pub key_material_version: u32,
}

/// Parameters of ReEncrypt.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
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
    /// `SYMMETRIC_DEFAULT` if absent.
    #[serde(default)]
    pub source_encryption_algorithm: Option<String>,
    /// `SYMMETRIC_DEFAULT` if absent.
    #[serde(default)]
    pub destination_encryption_algorithm: Option<String>,
    /// Only check whether it would work.
    #[serde(default)]
    pub dry_run: bool,
    /// Tokens of grants that are to be considered; up to ten.
    #[serde(default)]
    pub grant_tokens: Vec<String>,
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
    /// The algorithm that was used.
    pub source_encryption_algorithm: String,
    /// The algorithm that was used.
    pub destination_encryption_algorithm: String,
    /// Fingerprint of the material that decrypted, if it is symmetric.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source_key_material_id: String,
    /// Fingerprint of the material that encrypted, if it is symmetric.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub destination_key_material_id: String,
}

/// Parameters of GenerateRandom.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct GenerateRandomRequest {
    /// 1 to 1024.
    pub number_of_bytes: Option<u32>,
    /// Of key stores that make random numbers; external ones do not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub custom_key_store_id: Option<String>,
}

/// Answer of GenerateRandom.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct GenerateRandomResponse {
    /// The bytes.
    pub plaintext: SecretBytes,
}
