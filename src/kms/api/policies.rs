//! Key policies.

use serde::{Deserialize, Serialize};

use super::super::context::EncryptionContext;

/// The one name of a key's policy.
pub const DEFAULT_POLICY_NAME: &str = "default";

/// Parameters of PutKeyPolicy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PutKeyPolicyRequest {
    /// The key: id or ARN.
    pub key_id: String,
    /// `default` or absent.
    pub policy_name: Option<String>,
    /// The document, up to 32 KiB.
    pub policy: String,
    /// Whether the policy may lock the caller out.
    pub bypass_policy_lockout_safety_check: bool,
}

/// Parameters of GetKeyPolicy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct GetKeyPolicyRequest {
    /// The key: id or ARN.
    pub key_id: String,
    /// `default` or absent.
    pub policy_name: Option<String>,
}

/// Answer of GetKeyPolicy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct GetKeyPolicyResponse {
    /// The document, as it was put.
    pub policy: String,
    /// `default`.
    pub policy_name: String,
}

/// Parameters of ListKeyPolicies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ListKeyPoliciesRequest {
    /// The key: id or ARN.
    pub key_id: String,
    /// Most names to answer: 1 to 1000.
    pub limit: Option<u32>,
    /// `next_marker` of the listing to go on with.
    pub marker: Option<String>,
}

/// Answer of ListKeyPolicies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ListKeyPoliciesResponse {
    /// `default` alone.
    pub policy_names: Vec<String>,
    /// False.
    pub truncated: bool,
}

/// Parameters of SimulateKeyPolicy. Our own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct SimulateKeyPolicyRequest {
    /// The key, by any of its names.
    pub key_id: String,
    /// A full name, or `root`, or the name or number of a user of the service's machine.
    pub principal: String,
    /// An action, with or without `kms:`.
    pub action: String,
    /// The encryption context of the request.
    pub encryption_context: EncryptionContext,
    /// Further condition keys and their values.
    pub conditions: Vec<AssumedCondition>,
    /// A policy to try in place of the key's own.
    pub policy: Option<String>,
}

/// A condition key that a simulated request has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct AssumedCondition {
    /// Such as `aws:SourceIp`.
    pub key: String,
    /// Its value.
    pub value: String,
}

/// Answer of SimulateKeyPolicy. Our own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct SimulateKeyPolicyResponse {
    /// Who was taken to call.
    pub principal: String,
    /// As policies write it.
    pub action: String,
    /// The key's full name.
    pub resource: String,
    /// Whether the request would be allowed.
    pub allowed: bool,
    /// What decided, in words.
    pub reason: String,
    /// Number of the policy's statement that decided, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statement: Option<usize>,
    /// The grant that decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant_id: Option<String>,
    /// What each statement made of the request.
    pub statements: Vec<SimulatedStatement>,
}

/// What one statement made of a simulated request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct SimulatedStatement {
    /// Its number, from 0.
    pub statement: usize,
    /// Its `Sid`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sid: Option<String>,
    /// `Allow` or `Deny`.
    pub effect: String,
    /// Whether it applies.
    pub applies: bool,
    /// Why not.
    pub because: Vec<String>,
}
