//! Sign, Verify and GetPublicKey. As with every cryptographic operation the keys stay read-locked
//! meanwhile: once a state is published, nothing is signed that an earlier one allowed.

use std::sync::Arc;

use super::book::{Book, Entry, Spelling};
use super::crypt::check_dry_run;
use super::{Call, Caller, Service};
use crate::kms::api::{
    GetPublicKeyRequest, GetPublicKeyResponse, SignRequest, SignResponse, VerifyRequest, VerifyResponse,
};
use crate::kms::error::{ErrorKind, KmsError};
use crate::kms::material::Signed;
use crate::kms::spec::KeyUsage;
use crate::kms::state::Operation;

/// Longest signature that Verify takes.
const MAX_SIGNATURE: usize = 6144;

impl Service {
    /// Sign.
    ///
    /// # Errors
    /// NotFound, AccessDenied, Disabled, InvalidState; InvalidKeyUsage for a key or an algorithm
    /// that is not for this; Validation for a message of a wrong type or length; DryRun.
    pub fn sign(&self, caller: &Caller, request: &SignRequest) -> Result<SignResponse, KmsError> {
        self.run(caller, Operation::Sign, request, |call| {
            let book = self.book.read();
            let entry = self.usable(call, &book, &request.key_id, KeyUsage::SignVerify)?;
            let algorithm = request.signing_algorithm;
            let signed = Signed::new(algorithm, request.message_type, &request.message)?;
            let signature = entry.parsed()?.sign(algorithm, signed)?;
            call.uses(entry.newest());
            check_dry_run(request.dry_run)?;
            Ok(SignResponse { key_id: entry.arn.clone(), signature, signing_algorithm: algorithm })
        })
    }

    /// Verify. A signature that is not the key's is an error, never an answer.
    ///
    /// # Errors
    /// As [`Service::sign`], and InvalidSignature.
    pub fn verify(&self, caller: &Caller, request: &VerifyRequest) -> Result<VerifyResponse, KmsError> {
        self.run(caller, Operation::Verify, request, |call| {
            let book = self.book.read();
            let entry = self.usable(call, &book, &request.key_id, KeyUsage::SignVerify)?;
            let algorithm = request.signing_algorithm;
            if !(1..=MAX_SIGNATURE).contains(&request.signature.len()) {
                return Err(KmsError::validation("Signature must be 1 to 6144 bytes long"));
            }
            let signed = Signed::new(algorithm, request.message_type, &request.message)?;
            if !entry.parsed()?.verifies(algorithm, signed, &request.signature)? {
                let message = "the signature is not of this message under this key";
                return Err(KmsError::new(ErrorKind::InvalidSignature, message));
            }
            call.uses(entry.newest());
            check_dry_run(request.dry_run)?;
            let key_id = entry.arn.clone();
            Ok(VerifyResponse { key_id, signature_valid: true, signing_algorithm: algorithm })
        })
    }

    /// GetPublicKey: the public half of an asymmetric key as SPKI.
    ///
    /// # Errors
    /// NotFound, AccessDenied, Disabled, InvalidState; UnsupportedOperation for keys that have no
    /// public half.
    pub fn get_public_key(
        &self,
        caller: &Caller,
        request: &GetPublicKeyRequest,
    ) -> Result<GetPublicKeyResponse, KmsError> {
        self.run(caller, Operation::GetPublicKey, request, |call| {
            let book = self.book.read();
            let entry = book.resolve(&request.key_id, Spelling::Any, self.realm())?;
            self.admit(call, entry)?;
            let record = &entry.record;
            if !record.spec.is_asymmetric() {
                let message = format!("{} is a {} key, which has no public half", entry.arn, record.spec);
                return Err(KmsError::new(ErrorKind::UnsupportedOperation, message));
            }
            let public_key = entry.parsed()?.public().unwrap_or_default().to_vec();
            let metadata = entry.metadata(self.realm());
            Ok(GetPublicKeyResponse {
                key_id: entry.arn.clone(),
                public_key,
                key_spec: record.spec,
                customer_master_key_spec: record.spec,
                key_usage: record.usage,
                encryption_algorithms: metadata.encryption_algorithms,
                signing_algorithms: metadata.signing_algorithms,
            })
        })
    }

    /// The key that `call` uses: past permission, state and usage, in this order.
    pub(super) fn usable<'b>(
        &self,
        call: &Call<'_>,
        book: &'b Book,
        key: &str,
        usage: KeyUsage,
    ) -> Result<&'b Arc<Entry>, KmsError> {
        let entry = book.resolve(key, Spelling::Any, self.realm())?;
        self.admit(call, entry)?;
        entry.check_usage(usage, call.operation.name())?;
        Ok(entry)
    }
}
