//! Encrypt, Decrypt and ReEncrypt with RSA keys: the other half of `crypt`.

use super::book::Spelling;
use super::crypt::{Opened, Sealed};
use super::{Call, Service};
use crate::kms::api::SecretBytes;
use crate::kms::context::EncryptionContext;
use crate::kms::error::{ErrorKind, KmsError};
use crate::kms::material::EncryptionAlgorithm;
use crate::kms::spec::KeyUsage;
use crate::kms::state::Operation;

impl Service {
    /// Encrypts with whatever `algorithm` asks for.
    pub(super) fn close(
        &self,
        call: &Call<'_>,
        key: &str,
        algorithm: EncryptionAlgorithm,
        context: &EncryptionContext,
        plaintext: &[u8],
    ) -> Result<Sealed, KmsError> {
        if algorithm == EncryptionAlgorithm::SymmetricDefault {
            return self.seal(call, key, context, plaintext);
        }
        check_no_context(context)?;
        let action =
            if call.operation == Operation::ReEncrypt { "ReEncryptTo" } else { call.operation.name() };
        let book = self.book.read();
        let entry = book.resolve(key, Spelling::Any, self.realm())?;
        self.admit_as(call, entry, action)?;
        entry.check_usage(KeyUsage::EncryptDecrypt, call.operation.name())?;
        let blob = entry.parsed()?.encrypt(algorithm, plaintext)?;
        call.uses(entry.newest());
        let (arn, version) = (entry.arn.clone(), entry.newest());
        Ok(Sealed { blob, arn, version, fingerprint: String::new() })
    }

    /// Decrypts with whatever `algorithm` asks for.
    pub(super) fn open_up(
        &self,
        call: &Call<'_>,
        ciphertext: &[u8],
        key: Option<&str>,
        algorithm: EncryptionAlgorithm,
        context: &EncryptionContext,
    ) -> Result<Opened<SecretBytes>, KmsError> {
        if algorithm == EncryptionAlgorithm::SymmetricDefault {
            return self.open_bytes(call, ciphertext, key, context);
        }
        check_no_context(context)?;
        // Unlike a blob, such a ciphertext does not say whose it is.
        let key = key
            .ok_or_else(|| KmsError::validation(format!("KeyId is required to decrypt with {algorithm}")))?;
        let action =
            if call.operation == Operation::ReEncrypt { "ReEncryptFrom" } else { call.operation.name() };
        let book = self.book.read();
        let entry = book.resolve(key, Spelling::Any, self.realm())?;
        self.admit_as(call, entry, action)?;
        entry.check_usage(KeyUsage::EncryptDecrypt, call.operation.name())?;
        let mut plaintext = entry.parsed()?.decrypt(algorithm, ciphertext)?;
        call.uses(entry.newest());
        Ok(Opened {
            plaintext: SecretBytes::new(std::mem::take(&mut *plaintext)),
            arn: entry.arn.clone(),
            version: entry.newest(),
            fingerprint: String::new(),
        })
    }
}

/// The algorithm that a request names.
pub(super) fn algorithm(name: Option<&str>) -> Result<EncryptionAlgorithm, KmsError> {
    match name {
        None => Ok(EncryptionAlgorithm::SymmetricDefault),
        Some("SM2PKE") => {
            Err(KmsError::new(ErrorKind::UnsupportedOperation, "EncryptionAlgorithm SM2PKE is not supported"))
        }
        Some(name) => name.parse().map_err(|error| KmsError::validation(format!("{error}"))),
    }
}

fn check_no_context(context: &EncryptionContext) -> Result<(), KmsError> {
    if context.is_empty() {
        return Ok(());
    }
    Err(KmsError::validation(
        "an encryption context is possible only with symmetric keys: RSA does not authenticate it",
    ))
}
