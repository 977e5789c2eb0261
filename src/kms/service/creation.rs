//! What kind of key CreateKey is asked for, and its first material.

use zeroize::Zeroizing;

use crate::kms::api::CreateKeyRequest;
use crate::kms::error::{ErrorKind, KmsError};
use crate::kms::material;
use crate::kms::spec::{KeySpec, KeyUsage, Origin};
use crate::kms::store::Material;
use crate::secret::{Key, Secret};

/// The kind of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) spec: KeySpec,
    pub(super) usage: KeyUsage,
    pub(super) origin: Origin,
}

/// The kind of key that is asked for.
///
/// # Errors
/// Validation for a name that the API does not know and for what does not fit together;
/// UnsupportedOperation for what AWS has and this service has not.
pub(super) fn kind(request: &CreateKeyRequest) -> Result<Kind, KmsError> {
    let spec = match (&request.key_spec, &request.customer_master_key_spec) {
        (Some(spec), Some(old)) if spec != old => {
            let message = "KeySpec and CustomerMasterKeySpec must not differ; give KeySpec alone";
            return Err(KmsError::validation(message));
        }
        (Some(spec), _) | (None, Some(spec)) => parse_spec(spec)?,
        (None, None) => KeySpec::SymmetricDefault,
    };
    let usage = match request.key_usage.as_deref() {
        Some(usage) => parse_usage(usage)?,
        None if spec == KeySpec::SymmetricDefault => KeyUsage::EncryptDecrypt,
        None => {
            return Err(KmsError::validation(
                "You must specify a KeyUsage value for all KMS keys except for symmetric encryption keys.",
            ));
        }
    };
    if !spec.usages().contains(&usage) {
        let message = format!("KeyUsage {usage} is not compatible with KeySpec {spec}");
        return Err(KmsError::validation(message));
    }
    let origin = match request.origin.as_deref() {
        None => Origin::AwsKms,
        Some("AWS_CLOUDHSM") => {
            return unsupported("keys of Origin AWS_CLOUDHSM are not supported".to_owned());
        }
        Some(origin) => origin.parse().map_err(|error| KmsError::validation(format!("{error}")))?,
    };
    Ok(Kind { spec, usage, origin })
}

/// Fresh material of `spec`. Takes up to seconds for RSA; no lock may be held.
///
/// # Errors
/// Internal.
pub(super) fn generate(spec: KeySpec) -> Result<Material, KmsError> {
    if spec == KeySpec::SymmetricDefault {
        return Ok(Material::Key(Key::random()?));
    }
    Ok(keep(spec, &material::generate(spec)?))
}

/// Canonical material of `spec` in locked memory.
pub(super) fn keep(spec: KeySpec, bytes: &Zeroizing<Vec<u8>>) -> Material {
    match <&[u8; crate::secret::KEY_LEN]>::try_from(bytes.as_slice()) {
        Ok(key) if spec == KeySpec::SymmetricDefault => {
            let mut key = *key;
            Material::Key(Key::take_from(&mut key))
        }
        _ => Material::Secret(Secret::copy_of(bytes)),
    }
}

fn parse_spec(spec: &str) -> Result<KeySpec, KmsError> {
    if matches!(spec, "SM2" | "ML_KEM_512" | "ML_KEM_768" | "ML_KEM_1024") {
        return unsupported(format!("keys of KeySpec {spec} are not supported"));
    }
    spec.parse().map_err(|error| KmsError::validation(format!("{error}")))
}

fn parse_usage(usage: &str) -> Result<KeyUsage, KmsError> {
    if matches!(usage, "KEY_AGREEMENT" | "ENCAPSULATE_DECAPSULATE") {
        return unsupported(format!("keys of KeyUsage {usage} are not supported"));
    }
    usage.parse().map_err(|error| KmsError::validation(format!("{error}")))
}

fn unsupported<T>(what: String) -> Result<T, KmsError> {
    Err(KmsError::new(ErrorKind::UnsupportedOperation, what))
}
