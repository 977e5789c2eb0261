//! Grants.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::super::context::EncryptionContext;
use super::super::encoding::seconds;

/// What must hold of the encryption context of requests that a grant is to allow.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct GrantConstraints {
    /// It must have these pairs among others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encryption_context_subset: Option<EncryptionContext>,
    /// It must be this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encryption_context_equals: Option<EncryptionContext>,
    /// Refused: it is for services of AWS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_arn: Option<String>,
}

/// Parameters of CreateGrant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CreateGrantRequest {
    /// The key: id or ARN.
    pub key_id: String,
    /// Who gets the permission.
    pub grantee_principal: Option<String>,
    /// Who may end the grant, beside those who may revoke it.
    pub retiring_principal: Option<String>,
    /// What is permitted.
    pub operations: Vec<String>,
    /// For which encryption contexts.
    pub constraints: Option<GrantConstraints>,
    /// Tokens of grants that are to be considered; up to ten.
    pub grant_tokens: Vec<String>,
    /// A request that is repeated with its name makes no second grant.
    pub name: Option<String>,
    /// Only check whether it would work.
    pub dry_run: bool,
    /// Refused: no service calls this one.
    pub grantee_service_principal: Option<String>,
    /// Refused: no service calls this one.
    pub retiring_service_principal: Option<String>,
}

/// Answer of CreateGrant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct CreateGrantResponse {
    /// What RetireGrant takes.
    pub grant_token: String,
    /// 64 hexadecimal digits.
    pub grant_id: String,
}

/// Parameters of ListGrants.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ListGrantsRequest {
    /// The key: id or ARN.
    pub key_id: String,
    /// List this grant alone.
    pub grant_id: Option<String>,
    /// List the grants of this grantee alone.
    pub grantee_principal: Option<String>,
    /// Refused: no service calls this one.
    pub grantee_service_principal: Option<String>,
    /// Most grants to answer: 1 to 100, 50 if absent.
    pub limit: Option<u32>,
    /// `next_marker` of the listing to go on with.
    pub marker: Option<String>,
}

/// Parameters of ListRetirableGrants.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ListRetirableGrantsRequest {
    /// List the grants that this principal may retire.
    pub retiring_principal: Option<String>,
    /// Refused: no service calls this one.
    pub retiring_service_principal: Option<String>,
    /// Most grants to answer: 1 to 100, 50 if absent.
    pub limit: Option<u32>,
    /// `next_marker` of the listing to go on with.
    pub marker: Option<String>,
}

/// One grant of a listing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct GrantListEntry {
    /// The key's full name.
    pub key_id: String,
    /// 64 hexadecimal digits.
    pub grant_id: String,
    /// The name that it was created with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// When it was created.
    #[serde(with = "seconds")]
    pub creation_date: Timestamp,
    /// Who got the permission.
    pub grantee_principal: String,
    /// Who may retire it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retiring_principal: Option<String>,
    /// The account that it was created in.
    pub issuing_account: String,
    /// What is permitted.
    pub operations: Vec<String>,
    /// For which encryption contexts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub constraints: Option<GrantConstraints>,
}

/// Answer of ListGrants and ListRetirableGrants.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ListGrantsResponse {
    /// In order of their ids.
    pub grants: Vec<GrantListEntry>,
    /// Where to go on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_marker: Option<String>,
    /// Whether there are more.
    pub truncated: bool,
}

/// Parameters of RetireGrant: a token, or a key and a grant's id.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RetireGrantRequest {
    /// What CreateGrant answered.
    pub grant_token: Option<String>,
    /// The key's ARN or id.
    pub key_id: Option<String>,
    /// The grant.
    pub grant_id: Option<String>,
    /// Only check whether it would work.
    pub dry_run: bool,
}

/// Parameters of RevokeGrant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RevokeGrantRequest {
    /// The key: id or ARN.
    pub key_id: String,
    /// The grant.
    pub grant_id: String,
    /// Only check whether it would work.
    pub dry_run: bool,
}
