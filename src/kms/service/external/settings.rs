//! What a custom key store may be asked for.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{EXTERNAL_KEY_STORE, PUBLIC_ENDPOINT};
use crate::kms::api::{
    CreateCustomKeyStoreRequest, CustomKeyStoreRequest, DescribeCustomKeyStoresRequest,
    UpdateCustomKeyStoreRequest, XksProxyAuthenticationCredential,
};
use crate::kms::error::{ErrorKind, KmsError};
use crate::kms::service::facts::{Facts, parameters_of};
use crate::kms::store::{Connection, CustomStoreRecord};
use crate::xks::Trust;

/// Most characters of a name.
const MAX_NAME: usize = 256;
/// Longest certificates of authorities, together: three times what AWS takes for its own type.
const MAX_TRUST_ANCHOR: usize = 15_000;

/// The custom key store that `request` asks for, without an id. Whether it leads anywhere is not looked
/// at.
///
/// # Errors
/// UnsupportedOperation for types and ways of connecting that there are not; Validation.
pub(super) fn record(
    request: &CreateCustomKeyStoreRequest,
    created: Timestamp,
) -> Result<CustomStoreRecord, KmsError> {
    match request.custom_key_store_type.as_deref() {
        Some(EXTERNAL_KEY_STORE) => {}
        None | Some("AWS_CLOUDHSM") => {
            return unsupported(
                "Custom key stores of type AWS_CLOUDHSM are not supported; EXTERNAL_KEY_STORE is",
            );
        }
        Some(_) => return Err(KmsError::validation("CustomKeyStoreType must be EXTERNAL_KEY_STORE")),
    }
    check_name(&request.custom_key_store_name)?;
    check_connectivity(Some(request.xks_proxy_connectivity.as_deref().unwrap_or_default()))?;
    let required = |value: &Option<String>, name: &str| {
        value
            .clone()
            .ok_or_else(|| KmsError::validation(format!("{name} is required for an external key store")))
    };
    let credential = request.xks_proxy_authentication_credential.as_ref();
    let credential = credential.ok_or_else(|| {
        KmsError::validation("XksProxyAuthenticationCredential is required for an external key store")
    })?;
    check_credential(credential)?;
    Ok(CustomStoreRecord {
        id: String::new(),
        name: request.custom_key_store_name.clone(),
        endpoint: required(&request.xks_proxy_uri_endpoint, "XksProxyUriEndpoint")?,
        path: required(&request.xks_proxy_uri_path, "XksProxyUriPath")?,
        trust_anchor: trust_anchor(request.trust_anchor_certificate.as_deref())?,
        access_key_id: credential.access_key_id.clone(),
        secret: credential.raw_secret_access_key.clone(),
        created,
        connection: Connection::Disconnected,
    })
}

/// `old` as `request` asks for it.
///
/// # Errors
/// As [`record`].
pub(super) fn updated(
    old: &CustomStoreRecord,
    request: &UpdateCustomKeyStoreRequest,
) -> Result<CustomStoreRecord, KmsError> {
    if request.cloud_hsm_cluster_id.is_some() {
        return unsupported(
            "CloudHsmClusterId is of custom key stores of type AWS_CLOUDHSM, which are not supported",
        );
    }
    let mut new = old.clone();
    if let Some(name) = &request.new_custom_key_store_name {
        check_name(name)?;
        new.name.clone_from(name);
    }
    check_connectivity(request.xks_proxy_connectivity.as_deref())?;
    if let Some(endpoint) = &request.xks_proxy_uri_endpoint {
        new.endpoint.clone_from(endpoint);
    }
    if let Some(path) = &request.xks_proxy_uri_path {
        new.path.clone_from(path);
    }
    if let Some(credential) = &request.xks_proxy_authentication_credential {
        check_credential(credential)?;
        new.access_key_id.clone_from(&credential.access_key_id);
        new.secret.clone_from(&credential.raw_secret_access_key);
    }
    if let Some(anchor) = request.trust_anchor_certificate.as_deref() {
        new.trust_anchor = trust_anchor(Some(anchor).filter(|anchor| !anchor.is_empty()))?;
    }
    Ok(new)
}

/// An id as AWS makes them, that nobody had before.
pub(super) fn fresh_id() -> Result<String, KmsError> {
    let mut bytes = [0; 9];
    getrandom::fill(&mut bytes)?;
    Ok(format!("cks-{}", &data_encoding::HEXLOWER.encode(&bytes)[..17]))
}

fn check_name(name: &str) -> Result<(), KmsError> {
    let fits = (1..=MAX_NAME).contains(&name.chars().count()) && !name.chars().any(char::is_control);
    if fits {
        Ok(())
    } else {
        Err(KmsError::validation("CustomKeyStoreName must be 1 to 256 characters long"))
    }
}

fn check_connectivity(asked: Option<&str>) -> Result<(), KmsError> {
    match asked {
        None | Some(PUBLIC_ENDPOINT) => Ok(()),
        Some("VPC_ENDPOINT_SERVICE") => {
            unsupported("XksProxyConnectivity VPC_ENDPOINT_SERVICE is not supported")
        }
        Some(_) => Err(KmsError::validation("XksProxyConnectivity must be PUBLIC_ENDPOINT")),
    }
}

fn check_credential(credential: &XksProxyAuthenticationCredential) -> Result<(), KmsError> {
    let (id, secret) = (&credential.access_key_id, &credential.raw_secret_access_key);
    let is_id = |b: u8| b.is_ascii_uppercase() || (b'2'..=b'7').contains(&b);
    if !(20..=30).contains(&id.len()) || !id.bytes().all(is_id) {
        return Err(KmsError::validation("AccessKeyId must be 20 to 30 characters of A to Z and 2 to 7"));
    }
    let is_secret = |b: u8| b.is_ascii_alphanumeric() || b"/+=".contains(&b);
    if !(43..=64).contains(&secret.len()) || !secret.bytes().all(is_secret) {
        return Err(KmsError::validation("RawSecretAccessKey must be 43 to 64 characters of base64"));
    }
    Ok(())
}

fn trust_anchor(pem: Option<&str>) -> Result<Option<String>, KmsError> {
    match pem {
        Some(pem) if pem.len() > MAX_TRUST_ANCHOR => {
            Err(KmsError::validation("TrustAnchorCertificate must be at most 15000 characters long"))
        }
        Some(pem) => match Trust::anchors(pem) {
            Ok(_) => Ok(Some(pem.to_owned())),
            Err(error) => Err(KmsError::validation(error.to_string())),
        },
        None => Ok(None),
    }
}

fn unsupported<T>(what: &str) -> Result<T, KmsError> {
    Err(KmsError::new(ErrorKind::UnsupportedOperation, what))
}

/// Without the credential, which must not pass through anything that makes copies.
impl Facts for CreateCustomKeyStoreRequest {
    fn parameters(&self) -> Value {
        said([
            ("CustomKeyStoreName", Some(&self.custom_key_store_name)),
            ("CustomKeyStoreType", self.custom_key_store_type.as_ref()),
            ("XksProxyUriEndpoint", self.xks_proxy_uri_endpoint.as_ref()),
            ("XksProxyUriPath", self.xks_proxy_uri_path.as_ref()),
            ("XksProxyConnectivity", self.xks_proxy_connectivity.as_ref()),
            ("TrustAnchorCertificate", self.trust_anchor_certificate.as_ref()),
        ])
    }
}

/// Without the credential, which must not pass through anything that makes copies.
impl Facts for UpdateCustomKeyStoreRequest {
    fn parameters(&self) -> Value {
        let renewed = self.xks_proxy_authentication_credential.is_some();
        let mut members = said([
            ("CustomKeyStoreId", Some(&self.custom_key_store_id)),
            ("NewCustomKeyStoreName", self.new_custom_key_store_name.as_ref()),
            ("XksProxyUriEndpoint", self.xks_proxy_uri_endpoint.as_ref()),
            ("XksProxyUriPath", self.xks_proxy_uri_path.as_ref()),
            ("XksProxyConnectivity", self.xks_proxy_connectivity.as_ref()),
            ("TrustAnchorCertificate", self.trust_anchor_certificate.as_ref()),
        ]);
        if renewed {
            // As AWS writes it.
            members["XksProxyAuthenticationCredential"] = json!("HIDDEN_DUE_TO_SECURITY_REASONS");
        }
        members
    }
}

impl Facts for CustomKeyStoreRequest {
    fn parameters(&self) -> Value {
        parameters_of(self)
    }
}

impl Facts for DescribeCustomKeyStoresRequest {
    fn parameters(&self) -> Value {
        parameters_of(self)
    }
}

fn said<const N: usize>(members: [(&str, Option<&String>); N]) -> Value {
    let present = members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), json!(value?))));
    Value::Object(present.collect::<Map<_, _>>())
}
