//! GenerateDataKeyPair and GenerateDataKeyPairWithoutPlaintext.

use super::book::{Entry, Spelling};
use super::crypt::check_dry_run;
use super::{Caller, Service};
use crate::kms::api::{GenerateDataKeyPairRequest, GenerateDataKeyPairResponse, SecretBytes};
use crate::kms::error::{ErrorKind, KmsError};
use crate::kms::material::{self, Parsed};
use crate::kms::spec::{KeySpec, KeyUsage};
use crate::kms::state::Operation;

impl Service {
    /// GenerateDataKeyPair: the private key as PKCS#8, plain and wrapped, and the public one as
    /// SPKI. Takes up to seconds for RSA.
    ///
    /// # Errors
    /// NotFound, AccessDenied, Disabled, InvalidState; InvalidKeyUsage for a wrapping key that is
    /// not symmetric; UnsupportedOperation for pairs of another spec; DryRun, Internal.
    pub fn generate_data_key_pair(
        &self,
        caller: &Caller,
        request: &GenerateDataKeyPairRequest,
    ) -> Result<GenerateDataKeyPairResponse, KmsError> {
        self.generate_pair(caller, Operation::GenerateDataKeyPair, request)
    }

    /// GenerateDataKeyPairWithoutPlaintext.
    ///
    /// # Errors
    /// As [`Service::generate_data_key_pair`].
    pub fn generate_data_key_pair_without_plaintext(
        &self,
        caller: &Caller,
        request: &GenerateDataKeyPairRequest,
    ) -> Result<GenerateDataKeyPairResponse, KmsError> {
        let operation = Operation::GenerateDataKeyPairWithoutPlaintext;
        let mut response = self.generate_pair(caller, operation, request)?;
        response.private_key_plaintext = None;
        Ok(response)
    }

    fn generate_pair(
        &self,
        caller: &Caller,
        operation: Operation,
        request: &GenerateDataKeyPairRequest,
    ) -> Result<GenerateDataKeyPairResponse, KmsError> {
        self.run(caller, operation, request, |call| {
            let entry = self.book.read().resolve(&request.key_id, Spelling::Any, self.realm())?.clone();
            self.admit(call, &entry)?;
            entry.check_usage(KeyUsage::EncryptDecrypt, operation.name())?;
            check_here(&entry)?;
            let spec = pair_spec(&request.key_pair_spec)?;
            // Not while the keys are locked: it takes too long. Its wrapping looks at the state anew.
            let made = material::generate(spec)?;
            let canonical = Parsed::canonical(spec, &made);
            let (private, public_key) = canonical.map_err(|error| {
                KmsError::new(ErrorKind::Internal, format!("a fresh key pair was not usable: {error}"))
            })?;
            let sealed = self.seal_under(call, &entry.record.id, &request.encryption_context, &private)?;
            check_dry_run(request.dry_run)?;
            Ok(GenerateDataKeyPairResponse {
                private_key_ciphertext_blob: sealed.blob,
                private_key_plaintext: Some(SecretBytes::new(private.to_vec())),
                public_key,
                key_id: sealed.arn,
                key_pair_spec: spec,
                key_material_id: sealed.fingerprint,
            })
        })
    }
}

/// As in AWS, what a key manager elsewhere has to wrap is data keys, not pairs of them.
fn check_here(entry: &Entry) -> Result<(), KmsError> {
    if entry.link.is_none() {
        return Ok(());
    }
    let message = format!("{} is in a custom key store, which wraps no data key pairs.", entry.arn);
    Err(KmsError::new(ErrorKind::UnsupportedOperation, message))
}

fn pair_spec(name: &str) -> Result<KeySpec, KmsError> {
    if matches!(name, "SM2" | "ML_KEM_512" | "ML_KEM_768" | "ML_KEM_1024") {
        let message = format!("data key pairs of {name} are not supported");
        return Err(KmsError::new(ErrorKind::UnsupportedOperation, message));
    }
    let spec: Option<KeySpec> = name.parse().ok();
    spec.filter(|spec| spec.is_of_data_key_pairs())
        .ok_or_else(|| KmsError::validation(format!("{name} is not a KeyPairSpec")))
}
