//! Importing key material.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::kms::encoding::{base64, seconds};
use crate::kms::named::named;
use crate::kms::state::KeyState;
use crate::kms::watch::CutReport;

named! {
    /// Whether imported material goes by itself.
    ExpirationModel, "expiration model" {
        /// At a set time.
        Expires = "KEY_MATERIAL_EXPIRES",
        /// Never.
        DoesNotExpire = "KEY_MATERIAL_DOES_NOT_EXPIRE",
    }
}

/// Parameters of GetParametersForImport.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct GetParametersForImportRequest {
    /// The key.
    pub key_id: String,
    /// How the material will be wrapped.
    pub wrapping_algorithm: String,
    /// `RSA_2048`, `RSA_3072` or `RSA_4096`.
    pub wrapping_key_spec: String,
}

/// Answer of GetParametersForImport.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct GetParametersForImportResponse {
    /// Full name of the key.
    pub key_id: String,
    /// What ImportKeyMaterial is to be given.
    #[serde(with = "base64")]
    pub import_token: Vec<u8>,
    /// The key to wrap the material with: SubjectPublicKeyInfo in DER.
    #[serde(with = "base64")]
    pub public_key: Vec<u8>,
    /// Until when both can be used.
    #[serde(with = "seconds")]
    pub parameters_valid_to: Timestamp,
}

/// Parameters of ImportKeyMaterial.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ImportKeyMaterialRequest {
    /// The key.
    pub key_id: String,
    /// What GetParametersForImport answered.
    #[serde(with = "base64")]
    pub import_token: Vec<u8>,
    /// The material, wrapped.
    #[serde(with = "base64")]
    pub encrypted_key_material: Vec<u8>,
    /// When the material goes by itself, at most 365 days from now.
    #[serde(default, with = "seconds::option", skip_serializing_if = "Option::is_none")]
    pub valid_to: Option<Timestamp>,
    /// Whether it does; it does if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiration_model: Option<ExpirationModel>,
    /// `NEW_KEY_MATERIAL` for a key that never had any, else `EXISTING_KEY_MATERIAL`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub import_type: Option<String>,
    /// The fingerprint that the material is to have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_material_id: Option<String>,
}

/// Parameters of DeleteImportedKeyMaterial.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DeleteImportedKeyMaterialRequest {
    /// The key.
    pub key_id: String,
    /// The fingerprint of the material, if it is to be made sure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_material_id: Option<String>,
    /// As of [`DisableKeyRequest`](super::DisableKeyRequest).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stop_if_unwritten: bool,
}

/// Answer of ImportKeyMaterial and DeleteImportedKeyMaterial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ImportResponse {
    /// Full name of the key.
    pub key_id: String,
    /// Fingerprint of the material of a symmetric key.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub key_material_id: String,
    /// The key's state now. Our extension.
    pub key_state: KeyState,
    /// What was cut off, per mount. Our extension.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<CutReport>,
}
