//! Custom key stores, which have their keys' material in a key manager elsewhere.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::kms::custom_store::{ConnectionErrorCode, ConnectionState};
use crate::kms::encoding::seconds;

/// What a proxy believes requests by.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct XksProxyAuthenticationCredential {
    /// 20 to 30 characters of `A` to `Z` and `2` to `7`.
    pub access_key_id: String,
    /// 43 to 64 characters of base64.
    pub raw_secret_access_key: Zeroizing<String>,
}

/// Parameters of CreateCustomKeyStore.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CreateCustomKeyStoreRequest {
    /// A name that no other has: 1 to 256 characters.
    pub custom_key_store_name: String,
    /// `EXTERNAL_KEY_STORE`; others are not supported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub custom_key_store_type: Option<String>,
    /// Where the proxy is: `https://` and a host. Our extension: `:PORT`, and `http://` for loopback.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub xks_proxy_uri_endpoint: Option<String>,
    /// `/kms/xks/v1`, perhaps with something before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub xks_proxy_uri_path: Option<String>,
    /// What requests are signed with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub xks_proxy_authentication_credential: Option<XksProxyAuthenticationCredential>,
    /// `PUBLIC_ENDPOINT`; others are not supported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub xks_proxy_connectivity: Option<String>,
    /// Certificates in PEM of the only authorities that the proxy's certificate may come from; those
    /// of the machine if absent. With this type of key store our extension.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trust_anchor_certificate: Option<String>,
}

/// Answer of CreateCustomKeyStore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct CreateCustomKeyStoreResponse {
    /// Its id.
    pub custom_key_store_id: String,
}

/// Parameters of the operations that take a custom key store alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct CustomKeyStoreRequest {
    /// Its id.
    pub custom_key_store_id: String,
}

/// Parameters of UpdateCustomKeyStore: what is absent stays.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct UpdateCustomKeyStoreRequest {
    /// Its id.
    pub custom_key_store_id: String,
    /// Another name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_custom_key_store_name: Option<String>,
    /// Another place of the proxy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub xks_proxy_uri_endpoint: Option<String>,
    /// Another path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub xks_proxy_uri_path: Option<String>,
    /// What requests are signed with from now on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub xks_proxy_authentication_credential: Option<XksProxyAuthenticationCredential>,
    /// `PUBLIC_ENDPOINT`; others are not supported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub xks_proxy_connectivity: Option<String>,
    /// Other authorities; empty for those of the machine. Our extension.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trust_anchor_certificate: Option<String>,
    /// Of another type of key store, which is not supported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cloud_hsm_cluster_id: Option<String>,
}

/// Parameters of DescribeCustomKeyStores: one by its id or its name, or all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DescribeCustomKeyStoresRequest {
    /// That of this id alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub custom_key_store_id: Option<String>,
    /// That of this name alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub custom_key_store_name: Option<String>,
    /// Most to answer: 1 to 1000, 100 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// `next_marker` of the listing to go on with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub marker: Option<String>,
}

/// Answer of DescribeCustomKeyStores.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DescribeCustomKeyStoresResponse {
    /// In order of their ids.
    pub custom_key_stores: Vec<CustomKeyStoresListEntry>,
    /// Where to go on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_marker: Option<String>,
    /// Whether there are more.
    pub truncated: bool,
}

/// What is known about a custom key store. Never its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct CustomKeyStoresListEntry {
    /// Its id.
    pub custom_key_store_id: String,
    /// Its name.
    pub custom_key_store_name: String,
    /// The authorities that were named for its proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust_anchor_certificate: Option<String>,
    /// Whether it can be used.
    pub connection_state: ConnectionState,
    /// Why it could not be connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_error_code: Option<ConnectionErrorCode>,
    /// When it was created.
    #[serde(with = "seconds")]
    pub creation_date: Timestamp,
    /// `EXTERNAL_KEY_STORE`.
    pub custom_key_store_type: String,
    /// Its proxy.
    pub xks_proxy_configuration: XksProxyConfiguration,
}

/// Where a proxy is, and as whom it is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct XksProxyConfiguration {
    /// `PUBLIC_ENDPOINT`.
    pub connectivity: String,
    /// Names the secret that requests are signed with.
    pub access_key_id: String,
    /// `https://` and a host.
    pub uri_endpoint: String,
    /// Ends with `/kms/xks/v1`.
    pub uri_path: String,
}

/// The key of a key manager elsewhere that a master key stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct XksKeyConfiguration {
    /// Its id there.
    pub id: String,
}

/// Never shows the secret.
impl fmt::Debug for XksProxyAuthenticationCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("XksProxyAuthenticationCredential").finish_non_exhaustive()
    }
}
