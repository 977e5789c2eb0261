//! Signatures, MACs, public keys and data key pairs.

use serde::{Deserialize, Serialize};

use crate::kms::context::EncryptionContext;
use crate::kms::encoding::{SecretBytes, base64};
use crate::kms::material::{EncryptionAlgorithm, MacAlgorithm, MessageType, SigningAlgorithm};
use crate::kms::spec::{KeySpec, KeyUsage};

/// Parameters of Sign.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct SignRequest {
    /// The key.
    pub key_id: String,
    /// The message, its digest or its representative: 1 to 4096 bytes.
    pub message: SecretBytes,
    /// Which of them; the message itself if absent.
    #[serde(default = "raw")]
    pub message_type: MessageType,
    /// How to sign.
    pub signing_algorithm: SigningAlgorithm,
    /// Only check whether it would work.
    #[serde(default)]
    pub dry_run: bool,
    /// Tokens of grants that are to be considered; up to ten.
    #[serde(default)]
    pub grant_tokens: Vec<String>,
}

/// Answer of Sign.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct SignResponse {
    /// Full name of the key.
    pub key_id: String,
    /// The signature.
    #[serde(with = "base64")]
    pub signature: Vec<u8>,
    /// How it was made.
    pub signing_algorithm: SigningAlgorithm,
}

/// Parameters of Verify.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct VerifyRequest {
    /// The key.
    pub key_id: String,
    /// What was signed.
    pub message: SecretBytes,
    /// What that is; the message itself if absent.
    #[serde(default = "raw")]
    pub message_type: MessageType,
    /// The signature.
    #[serde(with = "base64")]
    pub signature: Vec<u8>,
    /// How it was made.
    pub signing_algorithm: SigningAlgorithm,
    /// Only check whether it would work.
    #[serde(default)]
    pub dry_run: bool,
    /// Tokens of grants that are to be considered; up to ten.
    #[serde(default)]
    pub grant_tokens: Vec<String>,
}

/// Answer of Verify.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct VerifyResponse {
    /// Full name of the key.
    pub key_id: String,
    /// Always true: an invalid signature is an error.
    pub signature_valid: bool,
    /// How it was made.
    pub signing_algorithm: SigningAlgorithm,
}

/// Parameters of GetPublicKey.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct GetPublicKeyRequest {
    /// The key.
    pub key_id: String,
    /// Tokens of grants that are to be considered; up to ten.
    #[serde(default)]
    pub grant_tokens: Vec<String>,
}

/// Answer of GetPublicKey.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct GetPublicKeyResponse {
    /// Full name of the key.
    pub key_id: String,
    /// SubjectPublicKeyInfo in DER.
    #[serde(with = "base64")]
    pub public_key: Vec<u8>,
    /// The cryptography that the key is made for.
    pub key_spec: KeySpec,
    /// The older name of `key_spec`.
    pub customer_master_key_spec: KeySpec,
    /// What the key may be used for.
    pub key_usage: KeyUsage,
    /// How it encrypts, if that is its use.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub encryption_algorithms: Vec<EncryptionAlgorithm>,
    /// How it signs, if that is its use.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signing_algorithms: Vec<SigningAlgorithm>,
}

/// Parameters of GenerateMac.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct GenerateMacRequest {
    /// The key.
    pub key_id: String,
    /// 1 to 4096 bytes.
    pub message: SecretBytes,
    /// How to do it.
    pub mac_algorithm: MacAlgorithm,
    /// Only check whether it would work.
    #[serde(default)]
    pub dry_run: bool,
    /// Tokens of grants that are to be considered; up to ten.
    #[serde(default)]
    pub grant_tokens: Vec<String>,
}

/// Answer of GenerateMac.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct GenerateMacResponse {
    /// The MAC, as long as the hash's output.
    #[serde(with = "base64")]
    pub mac: Vec<u8>,
    /// How it was made.
    pub mac_algorithm: MacAlgorithm,
    /// Full name of the key.
    pub key_id: String,
}

/// Parameters of VerifyMac.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct VerifyMacRequest {
    /// The key.
    pub key_id: String,
    /// 1 to 4096 bytes.
    pub message: SecretBytes,
    /// What GenerateMac answered.
    #[serde(with = "base64")]
    pub mac: Vec<u8>,
    /// How it was made.
    pub mac_algorithm: MacAlgorithm,
    /// Only check whether it would work.
    #[serde(default)]
    pub dry_run: bool,
    /// Tokens of grants that are to be considered; up to ten.
    #[serde(default)]
    pub grant_tokens: Vec<String>,
}

/// Answer of VerifyMac.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct VerifyMacResponse {
    /// Full name of the key.
    pub key_id: String,
    /// Always true: an invalid MAC is an error.
    pub mac_valid: bool,
    /// How it was made.
    pub mac_algorithm: MacAlgorithm,
}

/// Parameters of GenerateDataKeyPair and GenerateDataKeyPairWithoutPlaintext.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct GenerateDataKeyPairRequest {
    /// The symmetric key that is to wrap the private key.
    pub key_id: String,
    /// The pair's spec.
    pub key_pair_spec: String,
    /// What the pair is for.
    #[serde(default)]
    pub encryption_context: EncryptionContext,
    /// Only check whether it would work.
    #[serde(default)]
    pub dry_run: bool,
    /// Tokens of grants that are to be considered; up to ten.
    #[serde(default)]
    pub grant_tokens: Vec<String>,
}

/// Answer of GenerateDataKeyPair and GenerateDataKeyPairWithoutPlaintext.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct GenerateDataKeyPairResponse {
    /// The private key, wrapped: what Decrypt opens.
    #[serde(with = "base64")]
    pub private_key_ciphertext_blob: Vec<u8>,
    /// The private key as PKCS#8; absent from GenerateDataKeyPairWithoutPlaintext.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_key_plaintext: Option<SecretBytes>,
    /// SubjectPublicKeyInfo in DER.
    #[serde(with = "base64")]
    pub public_key: Vec<u8>,
    /// Full name of the key that wrapped it.
    pub key_id: String,
    /// The pair's spec.
    pub key_pair_spec: KeySpec,
    /// Fingerprint of the material that wrapped it.
    pub key_material_id: String,
}

fn raw() -> MessageType {
    MessageType::Raw
}
