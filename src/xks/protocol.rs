//! The shapes of requests and answers, and what an answer must be to be taken.

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{MAX_METADATA, ProxyError, TAG_LEN, is_iv_len};

/// The one algorithm of the API.
const AES_GCM: &str = "AES_GCM";
/// The one digest of the API.
const SHA_256: &str = "SHA_256";
/// Most key managers behind a proxy, and most uses of a key.
const MAX_LISTED: usize = 10;

/// Why a proxy is called: for its own log, and for its own decision.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Occasion<'a> {
    /// ARN of who called the key service. Absent where nobody in particular wants to know.
    #[serde(rename = "awsPrincipalArn", skip_serializing_if = "Option::is_none")]
    pub principal: Option<&'a str>,
    /// ARN of the master key, once there is one.
    #[serde(rename = "kmsKeyArn", skip_serializing_if = "Option::is_none")]
    pub key_arn: Option<&'a str>,
    /// The operation of the key service.
    #[serde(rename = "kmsOperation")]
    pub operation: &'a str,
    /// Id of the call in the key service's audit log.
    #[serde(rename = "kmsRequestId")]
    pub request_id: &'a str,
}

/// What a proxy says of itself and the key managers behind it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    xks_proxy_fleet_size: u32,
    #[serde(rename = "xksProxyVendor")]
    _proxy_vendor: String,
    #[serde(rename = "xksProxyModel")]
    _proxy_model: String,
    #[serde(rename = "ekmVendor")]
    _vendor: String,
    ekm_fleet_details: Vec<Manager>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manager {
    #[serde(rename = "id")]
    _id: String,
    #[serde(rename = "model")]
    _model: String,
    health_status: ManagerHealth,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum ManagerHealth {
    Active,
    Degraded,
    Unavailable,
}

impl Health {
    /// Whether there is a key manager that can be used.
    pub fn is_usable(&self) -> bool {
        self.ekm_fleet_details.iter().any(|manager| manager.health_status != ManagerHealth::Unavailable)
    }
}

/// What is known of an external key.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyFacts {
    key_spec: String,
    key_usage: Vec<String>,
    key_status: KeyStatus,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum KeyStatus {
    Enabled,
    Disabled,
}

impl KeyFacts {
    /// Whether it is AES with 256 bits.
    pub fn is_aes_256(&self) -> bool {
        self.key_spec == "AES_256"
    }

    /// Whether it may encrypt and decrypt.
    pub fn wraps_and_unwraps(&self) -> bool {
        ["ENCRYPT", "DECRYPT"].iter().all(|use_| self.key_usage.iter().any(|known| known == use_))
    }

    /// Whether it may be used now.
    pub fn is_enabled(&self) -> bool {
        self.key_status == KeyStatus::Enabled
    }
}

/// What a proxy made of a plaintext, apart from the plaintext's length.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wrapping {
    /// As long as the plaintext.
    pub ciphertext: Vec<u8>,
    /// For the proxy itself, up to [`MAX_METADATA`] bytes.
    pub metadata: Vec<u8>,
    /// 12 or 16 bytes.
    pub iv: Vec<u8>,
    /// The tag of AES-GCM.
    pub tag: [u8; TAG_LEN],
}

/// The body of a call that brings nothing else.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Asking<'a> {
    pub(super) request_metadata: Occasion<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Encrypting<'a> {
    request_metadata: Occasion<'a>,
    additional_authenticated_data: String,
    plaintext: Zeroizing<String>,
    encryption_algorithm: &'static str,
    ciphertext_data_integrity_value_algorithm: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Decrypting<'a> {
    request_metadata: Occasion<'a>,
    additional_authenticated_data: String,
    ciphertext: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    ciphertext_metadata: String,
    encryption_algorithm: &'static str,
    initialization_vector: String,
    authentication_tag: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Encrypted {
    ciphertext: String,
    ciphertext_metadata: Option<String>,
    initialization_vector: String,
    authentication_tag: String,
    ciphertext_data_integrity_value: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Decrypted {
    plaintext: Zeroizing<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Refused {
    error_name: String,
}

impl<'a> Encrypting<'a> {
    pub(super) fn new(occasion: Occasion<'a>, aad: &[u8], plaintext: &[u8]) -> Self {
        Self {
            request_metadata: occasion,
            additional_authenticated_data: BASE64.encode(aad),
            plaintext: Zeroizing::new(BASE64.encode(plaintext)),
            encryption_algorithm: AES_GCM,
            ciphertext_data_integrity_value_algorithm: SHA_256,
        }
    }
}

impl<'a> Decrypting<'a> {
    pub(super) fn new(occasion: Occasion<'a>, aad: &[u8], wrapping: &Wrapping) -> Self {
        Self {
            request_metadata: occasion,
            additional_authenticated_data: BASE64.encode(aad),
            ciphertext: BASE64.encode(&wrapping.ciphertext),
            ciphertext_metadata: BASE64.encode(&wrapping.metadata),
            encryption_algorithm: AES_GCM,
            initialization_vector: BASE64.encode(&wrapping.iv),
            authentication_tag: BASE64.encode(&wrapping.tag),
        }
    }
}

impl Encrypted {
    /// What was made of a plaintext of `len` bytes bound to `aad`. The proxy vouches for it by a
    /// digest: that it has decrypted it again.
    pub(super) fn into_wrapping(self, aad: &[u8], len: usize) -> Result<Wrapping, ProxyError> {
        let wrapping = Wrapping {
            ciphertext: decode(&self.ciphertext)?,
            metadata: decode(self.ciphertext_metadata.as_deref().unwrap_or_default())?,
            iv: decode(&self.initialization_vector)?,
            tag: decode(&self.authentication_tag)?.try_into().map_err(|_| ProxyError::Malformed)?,
        };
        let fits = wrapping.ciphertext.len() == len
            && wrapping.metadata.len() <= MAX_METADATA
            && is_iv_len(wrapping.iv.len());
        let vouched = decode(self.ciphertext_data_integrity_value.as_deref().unwrap_or_default())?;
        let Wrapping { ciphertext, metadata, iv, tag } = &wrapping;
        let parts = [aad, metadata, iv, ciphertext, tag];
        let digest = parts.iter().fold(Sha256::new(), |digest, part| digest.chain_update(part)).finalize();
        if fits && vouched == digest.as_slice() { Ok(wrapping) } else { Err(ProxyError::Malformed) }
    }
}

impl Decrypted {
    /// The plaintext of a ciphertext of `len` bytes.
    pub(super) fn into_plaintext(self, len: usize) -> Result<Zeroizing<Vec<u8>>, ProxyError> {
        let plaintext = Zeroizing::new(decode(&self.plaintext)?);
        if plaintext.len() == len { Ok(plaintext) } else { Err(ProxyError::Malformed) }
    }
}

/// Reads the body of an answer with this HTTP status.
pub(super) fn answer<'b, T: Deserialize<'b>>(status: u16, body: &'b [u8]) -> Result<T, ProxyError> {
    if status == 200 {
        return serde_json::from_slice(body).map_err(|_| ProxyError::Malformed);
    }
    let refused: Refused = serde_json::from_slice(body).map_err(|_| ProxyError::Malformed)?;
    Err(ProxyError::from_name(&refused.error_name))
}

impl Health {
    pub(super) fn check(self) -> Result<Self, ProxyError> {
        let managers = self.ekm_fleet_details.len();
        let fits = self.xks_proxy_fleet_size > 0 && (1..=MAX_LISTED).contains(&managers);
        if fits { Ok(self) } else { Err(ProxyError::Malformed) }
    }
}

impl KeyFacts {
    pub(super) fn check(self) -> Result<Self, ProxyError> {
        if self.key_usage.len() <= MAX_LISTED { Ok(self) } else { Err(ProxyError::Malformed) }
    }
}

fn decode(text: &str) -> Result<Vec<u8>, ProxyError> {
    BASE64.decode(text.as_bytes()).map_err(|_| ProxyError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification.
    const AAD: &[u8] = b"project=nile,department=marketing";
    const EXAMPLE: &str = r#"{
        "authenticationTag": "vBxN2ncH1oEkR8WVXpmyYQ==",
        "ciphertext": "ghxkK1txeDNn3q8Y",
        "ciphertextDataIntegrityValue": "qHA/ImC9h5HsLRXqCyPmWgYx7tzyoTplzILbP0fPXsc=",
        "ciphertextMetadata": "a2V5X3ZlcnNpb249MQ==",
        "initializationVector": "HMrlRw85cAJUd5Ax"
    }"#;

    fn wrapping(text: &str, aad: &[u8], len: usize) -> Result<Wrapping, ProxyError> {
        answer::<Encrypted>(200, text.as_bytes())?.into_wrapping(aad, len)
    }

    #[test]
    fn the_example_of_the_specification_is_taken() {
        let taken = wrapping(EXAMPLE, AAD, 12).unwrap();
        assert_eq!(taken.metadata, b"key_version=1");
        assert_eq!(taken.iv.len(), 12);
    }

    #[test]
    fn an_answer_that_is_not_what_was_vouched_for_is_refused() {
        assert!(wrapping(EXAMPLE, b"else", 12).is_err());
        assert!(wrapping(EXAMPLE, AAD, 13).is_err());
        for (from, to) in [
            ("ghxkK1txeDNn3q8Y", "ghxkK1txeDNn3q8Z"),
            ("vBxN2ncH1oEkR8WVXpmyYQ==", "vBxN2ncH1oEkR8WVXpmyYA=="),
            ("vBxN2ncH1oEkR8WVXpmyYQ==", "vBxN2ncH1oEkR8WVXpmy"),
            ("HMrlRw85cAJUd5Ax", "HMrlRw85cAJUd5Ay"),
            ("a2V5X3ZlcnNpb249MQ==", ""),
            ("qHA/", "qHB/"),
            ("\"ciphertextDataIntegrityValue\"", "\"somethingElse\""),
            ("ghxkK1txeDNn3q8Y", "!"),
        ] {
            let changed = EXAMPLE.replace(from, to);
            assert_ne!(changed, EXAMPLE);
            assert_eq!(wrapping(&changed, AAD, 12), Err(ProxyError::Malformed), "{from}");
        }
    }

    #[test]
    fn health_says_whether_any_key_manager_can_be_used() {
        let with = |size: u32, states: &[&str]| {
            let managers: Vec<_> = states
                .iter()
                .map(|state| serde_json::json!({ "id": "1", "model": "m", "healthStatus": state }))
                .collect();
            let health = serde_json::json!({
                "xksProxyFleetSize": size, "xksProxyVendor": "v", "xksProxyModel": "m", "ekmVendor": "e",
                "ekmFleetDetails": managers,
            });
            answer::<Health>(200, health.to_string().as_bytes()).and_then(Health::check)
        };
        assert!(with(1, &["UNAVAILABLE", "DEGRADED"]).unwrap().is_usable());
        assert!(!with(1, &["UNAVAILABLE"]).unwrap().is_usable());
        for (size, states) in [(0, &["ACTIVE"][..]), (1, &[]), (1, &["ACTIVE"; 11]), (1, &["FINE"])] {
            assert_eq!(with(size, states), Err(ProxyError::Malformed), "{size} {states:?}");
        }
    }

    #[test]
    fn refusals_have_names_and_nothing_else_counts() {
        let refused = |status, body: &str| answer::<KeyFacts>(status, body.as_bytes()).unwrap_err();
        assert_eq!(refused(404, r#"{"errorName":"KeyNotFoundException"}"#), ProxyError::KeyNotFound);
        for (status, body) in [
            (404, "not found"),
            (500, r#"{"errorName":"SomeException"}"#),
            (302, ""),
            (200, r#"{"keySpec":"AES_256"}"#),
            (200, ""),
        ] {
            assert_eq!(refused(status, body), ProxyError::Malformed, "{status} {body}");
        }
    }
}
