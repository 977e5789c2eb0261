//! The cryptographic operations. None of them writes to the store.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::book::{Book, Entry, Spelling};
use super::facts::DataKeyFacts;
use super::oaep::algorithm;
use super::{Call, Caller, Service};
use crate::kms::api::{
    AuthorizeOpenRequest, DecryptRequest, DecryptResponse, Empty, EncryptRequest, EncryptResponse,
    GenerateDataKeyRequest, GenerateDataKeyResponse, GenerateRandomRequest, GenerateRandomResponse,
    ReEncryptRequest, ReEncryptResponse, SecretBytes,
};
use crate::kms::blob::{Blob, NotABlob};
use crate::kms::context::EncryptionContext;
use crate::kms::error::{ErrorKind, KmsError};
use crate::kms::id::KeyId;
use crate::kms::spec::{KeySpec, KeyUsage};
use crate::kms::state::{self, Operation};
use crate::secret::{KEY_LEN, Key};

/// Longest plaintext of Encrypt, in bytes.
const MAX_PLAINTEXT: usize = 4096;
/// Most bytes of GenerateRandom and longest data key.
const MAX_RANDOM: u32 = 1024;

/// A fresh data key.
#[derive(Debug)]
pub struct DataKey {
    /// The key, in locked memory.
    pub plaintext: Key,
    /// The key, wrapped: what to store.
    pub blob: Vec<u8>,
    /// Full name of the master key that wrapped it.
    pub key_arn: String,
    /// Number of the material that wrapped it.
    pub key_version: u32,
}

/// A data key that was unwrapped.
#[derive(Debug)]
pub struct UnwrappedDataKey {
    /// The key, in locked memory.
    pub plaintext: Key,
    /// Full name of the master key that had wrapped it.
    pub key_arn: String,
    /// Number of the material that had wrapped it.
    pub key_version: u32,
}

/// A ciphertext and what made it.
pub(super) struct Sealed {
    pub(super) blob: Vec<u8>,
    pub(super) arn: String,
    pub(super) version: u32,
    /// Empty for RSA.
    pub(super) fingerprint: String,
}

/// A plaintext and what had sealed it.
pub(super) struct Opened<P> {
    pub(super) plaintext: P,
    pub(super) arn: String,
    pub(super) version: u32,
    /// Empty for RSA.
    pub(super) fingerprint: String,
}

impl<P> Opened<P> {
    fn by(entry: &Entry, version: u32, plaintext: P) -> Self {
        Self { plaintext, arn: entry.arn.clone(), version, fingerprint: entry.fingerprint(version) }
    }
}

impl Service {
    /// A fresh 256-bit data key, wrapped by the newest material of `key` (id, ARN or alias) and
    /// bound to `context`. Takes microseconds and no I/O, unless the key is of an external key store.
    ///
    /// # Errors
    /// NotFound, Disabled, InvalidState, AccessDenied.
    pub fn generate_data_key(
        &self,
        caller: &Caller,
        key: &str,
        context: &EncryptionContext,
    ) -> Result<DataKey, KmsError> {
        let facts = DataKeyFacts { key: Some(key), context };
        self.run(caller, Operation::GenerateDataKey, &facts, |call| {
            let plaintext = Key::random()?;
            let sealed = self.seal(call, key, context, plaintext.expose())?;
            Ok(DataKey { plaintext, blob: sealed.blob, key_arn: sealed.arn, key_version: sealed.version })
        })
    }

    /// Unwraps a 256-bit data key into locked memory. Takes microseconds and no I/O, unless the key is
    /// of an external key store.
    ///
    /// # Errors
    /// InvalidCiphertext when the blob or the context is not authentic or not of a 256-bit key;
    /// IncorrectKey when another key store made it; NotFound when its key was deleted; Disabled,
    /// InvalidState, AccessDenied.
    pub fn decrypt_data_key(
        &self,
        caller: &Caller,
        blob: &[u8],
        context: &EncryptionContext,
    ) -> Result<UnwrappedDataKey, KmsError> {
        let facts = DataKeyFacts { key: None, context };
        self.run(caller, Operation::Decrypt, &facts, |call| {
            let opened = self.unseal(call, blob, None, context, |parsed, material| {
                if parsed.plaintext_len() != KEY_LEN {
                    return Err(invalid_ciphertext("not a 256-bit data key"));
                }
                Key::fill(|bytes| parsed.open(material, context, bytes)).map_err(|_| unauthentic())
            })?;
            Ok(UnwrappedDataKey {
                plaintext: opened.plaintext,
                key_arn: opened.arn,
                key_version: opened.version,
            })
        })
    }

    /// AuthorizeOpen: whether the caller may decrypt a file's data key now. It is not given, and
    /// whoever has it cached asks here before it lets him use it. Takes microseconds and no I/O.
    ///
    /// # Errors
    /// NotFound, AccessDenied, Disabled, InvalidState.
    pub fn authorize_open(&self, caller: &Caller, request: &AuthorizeOpenRequest) -> Result<Empty, KmsError> {
        self.run(caller, Operation::AuthorizeOpen, request, |call| {
            let book = self.book.read();
            let entry = book.resolve(&request.key_id, Spelling::IdOrArn, self.realm())?;
            self.admit_as(call, entry, Operation::Decrypt.name())?;
            check_symmetric(entry, call)?;
            if entry.version(request.key_material_version).is_some() {
                call.uses(request.key_material_version);
            }
            Ok(Empty {})
        })
    }

    /// GenerateDataKey of any length.
    ///
    /// # Errors
    /// As [`Service::generate_data_key`], and Validation.
    pub fn generate_data_key_bytes(
        &self,
        caller: &Caller,
        request: &GenerateDataKeyRequest,
    ) -> Result<GenerateDataKeyResponse, KmsError> {
        self.generate(caller, Operation::GenerateDataKey, request)
    }

    /// GenerateDataKeyWithoutPlaintext.
    ///
    /// # Errors
    /// As [`Service::generate_data_key`], and Validation.
    pub fn generate_data_key_without_plaintext(
        &self,
        caller: &Caller,
        request: &GenerateDataKeyRequest,
    ) -> Result<GenerateDataKeyResponse, KmsError> {
        let mut response = self.generate(caller, Operation::GenerateDataKeyWithoutPlaintext, request)?;
        response.plaintext = None;
        Ok(response)
    }

    /// Encrypt: 1 to 4096 bytes.
    ///
    /// # Errors
    /// As [`Service::generate_data_key`], and Validation.
    pub fn encrypt(&self, caller: &Caller, request: &EncryptRequest) -> Result<EncryptResponse, KmsError> {
        self.run(caller, Operation::Encrypt, request, |call| {
            let algorithm = algorithm(request.encryption_algorithm.as_deref())?;
            if !(1..=MAX_PLAINTEXT).contains(&request.plaintext.len()) {
                return Err(KmsError::validation("Plaintext must be 1 to 4096 bytes long"));
            }
            let context = &request.encryption_context;
            let sealed = self.close(call, &request.key_id, algorithm, context, &request.plaintext)?;
            check_dry_run(request.dry_run)?;
            Ok(EncryptResponse {
                ciphertext_blob: sealed.blob,
                key_id: sealed.arn,
                encryption_algorithm: algorithm.to_string(),
            })
        })
    }

    /// Decrypt.
    ///
    /// # Errors
    /// As [`Service::decrypt_data_key`], and Validation.
    pub fn decrypt(&self, caller: &Caller, request: &DecryptRequest) -> Result<DecryptResponse, KmsError> {
        self.run(caller, Operation::Decrypt, request, |call| {
            let algorithm = algorithm(request.encryption_algorithm.as_deref())?;
            let (blob, expected) = (&request.ciphertext_blob, request.key_id.as_deref());
            let opened = self.open_up(call, blob, expected, algorithm, &request.encryption_context)?;
            check_dry_run(request.dry_run)?;
            Ok(DecryptResponse {
                key_id: opened.arn,
                plaintext: opened.plaintext,
                encryption_algorithm: algorithm.to_string(),
                key_material_id: opened.fingerprint,
                key_material_version: opened.version,
            })
        })
    }

    /// ReEncrypt: from one key, version or context to another; the plaintext stays inside.
    ///
    /// # Errors
    /// As [`Service::decrypt_data_key`] for either key, and Validation.
    pub fn re_encrypt(
        &self,
        caller: &Caller,
        request: &ReEncryptRequest,
    ) -> Result<ReEncryptResponse, KmsError> {
        self.run(caller, Operation::ReEncrypt, request, |call| {
            let source = algorithm(request.source_encryption_algorithm.as_deref())?;
            let destination = algorithm(request.destination_encryption_algorithm.as_deref())?;
            // For the policy of the source, which may care where to.
            if let Ok(to) = self.book.read().resolve(&request.destination_key_id, Spelling::Any, self.realm())
            {
                call.goes_to(to.record.id);
            }
            let opened = self.open_up(
                call,
                &request.ciphertext_blob,
                request.source_key_id.as_deref(),
                source,
                &request.source_encryption_context,
            )?;
            let context = &request.destination_encryption_context;
            let plaintext = &opened.plaintext;
            let sealed = self.close(call, &request.destination_key_id, destination, context, plaintext)?;
            check_dry_run(request.dry_run)?;
            Ok(ReEncryptResponse {
                ciphertext_blob: sealed.blob,
                source_key_id: opened.arn,
                key_id: sealed.arn,
                source_encryption_algorithm: source.to_string(),
                destination_encryption_algorithm: destination.to_string(),
                source_key_material_id: opened.fingerprint,
                destination_key_material_id: sealed.fingerprint,
            })
        })
    }

    /// GenerateRandom: 1 to 1024 bytes.
    ///
    /// # Errors
    /// Validation, AccessDenied; UnsupportedOperation for a custom key store.
    pub fn generate_random(
        &self,
        caller: &Caller,
        request: &GenerateRandomRequest,
    ) -> Result<GenerateRandomResponse, KmsError> {
        self.run(caller, Operation::GenerateRandom, request, |call| {
            self.admit_general(call)?;
            self.check_makes_random(request.custom_key_store_id.as_deref())?;
            let count = request.number_of_bytes.unwrap_or(0);
            Ok(GenerateRandomResponse { plaintext: random(count)? })
        })
    }

    fn generate(
        &self,
        caller: &Caller,
        operation: Operation,
        request: &GenerateDataKeyRequest,
    ) -> Result<GenerateDataKeyResponse, KmsError> {
        self.run(caller, operation, request, |call| {
            let plaintext = random(data_key_len(request)?)?;
            let sealed = self.seal(call, &request.key_id, &request.encryption_context, &plaintext)?;
            check_dry_run(request.dry_run)?;
            Ok(GenerateDataKeyResponse {
                ciphertext_blob: sealed.blob,
                plaintext: Some(plaintext),
                key_id: sealed.arn,
                key_material_id: sealed.fingerprint,
                key_material_version: sealed.version,
            })
        })
    }

    pub(super) fn seal(
        &self,
        call: &Call<'_>,
        key: &str,
        context: &EncryptionContext,
        plaintext: &[u8],
    ) -> Result<Sealed, KmsError> {
        self.make_aws_managed(key)?;
        let reencrypts = call.operation == Operation::ReEncrypt;
        let book = self.book.read();
        let entry = book.resolve(key, Spelling::Any, self.realm())?;
        let action = if reencrypts { "ReEncryptTo" } else { call.operation.name() };
        self.admit_as(call, entry, action)?;
        if entry.link.is_some() {
            let entry = Arc::clone(entry);
            drop(book);
            return self.seal_outside(call, &entry, action, context, plaintext);
        }
        self.seal_with(call, entry, context, plaintext)
    }

    /// As [`Service::seal`], with a key that `call` was admitted to a while ago.
    pub(super) fn seal_under(
        &self,
        call: &Call<'_>,
        key: &KeyId,
        context: &EncryptionContext,
        plaintext: &[u8],
    ) -> Result<Sealed, KmsError> {
        let book = self.book.read();
        let entry = book.by_id(key, self.realm())?;
        state::check(call.operation, &entry.arn, entry.state_at(self.clock.now()))?;
        self.seal_with(call, entry, context, plaintext)
    }

    fn seal_with(
        &self,
        call: &Call<'_>,
        entry: &Entry,
        context: &EncryptionContext,
        plaintext: &[u8],
    ) -> Result<Sealed, KmsError> {
        check_symmetric(entry, call)?;
        let head = entry.head(self.store.id());
        let material = entry.version(head.version).ok_or_else(|| entry.no_material())?;
        call.uses(head.version);
        self.count_wrap(entry, head.version);
        Ok(Sealed {
            blob: head.seal(material, context, plaintext)?,
            arn: entry.arn.clone(),
            version: head.version,
            fingerprint: entry.fingerprint(head.version),
        })
    }

    pub(super) fn open_bytes(
        &self,
        call: &Call<'_>,
        blob: &[u8],
        expected: Option<&str>,
        context: &EncryptionContext,
    ) -> Result<Opened<SecretBytes>, KmsError> {
        self.unseal(call, blob, expected, context, |parsed, material| {
            let mut plaintext = Zeroizing::new(vec![0; parsed.plaintext_len()]);
            parsed.open(material, context, &mut plaintext).map_err(|_| unauthentic())?;
            Ok(SecretBytes::new(std::mem::take(&mut *plaintext)))
        })
    }

    fn unseal<P>(
        &self,
        call: &Call<'_>,
        blob: &[u8],
        expected: Option<&str>,
        context: &EncryptionContext,
        open: impl FnOnce(&Blob<'_>, &Key) -> Result<P, KmsError>,
    ) -> Result<Opened<P>, KmsError> {
        let parsed =
            Blob::parse(blob).map_err(|NotABlob| invalid_ciphertext("not a ciphertext of this service"))?;
        let version = parsed.head.version;
        let reencrypts = call.operation == Operation::ReEncrypt;
        let book = self.book.read();
        let entry = self.maker(&book, &parsed, expected)?;
        let action = if reencrypts { "ReEncryptFrom" } else { call.operation.name() };
        self.admit_as(call, entry, action)?;
        check_symmetric(entry, call)?;
        let material = entry.version(version).ok_or_else(|| without_material(entry, version))?;
        call.uses(version);
        if parsed.outer().is_some() != entry.link.is_some() {
            return Err(unauthentic());
        }
        if entry.link.is_none() {
            let plaintext = open(&parsed, material)?;
            return Ok(Opened::by(entry, version, plaintext));
        }
        let entry = Arc::clone(entry);
        drop(book);
        let inner = self.open_outside(call, &entry, action, &parsed, context)?;
        let material = entry.version(version).ok_or_else(unauthentic)?;
        let plaintext = open(&parsed.unwrapped(&inner), material)?;
        Ok(Opened::by(&entry, version, plaintext))
    }

    /// The key that says it made `blob`, if it is the expected one.
    fn maker<'b>(
        &self,
        book: &'b Book,
        blob: &Blob<'_>,
        expected: Option<&str>,
    ) -> Result<&'b Arc<Entry>, KmsError> {
        if blob.head.store != *self.store.id() {
            let message = format!(
                "The ciphertext was wrapped by another key store ({}), this one is {}",
                blob.head.store,
                self.store.id()
            );
            return Err(KmsError::new(ErrorKind::IncorrectKey, message));
        }
        if let Some(expected) = expected {
            let expected = book.resolve(expected, Spelling::Any, self.realm())?;
            if expected.record.id != blob.head.key {
                let message =
                    "The key ID in the request does not identify a CMK that can perform this operation.";
                return Err(KmsError::new(ErrorKind::IncorrectKey, message));
            }
        }
        book.by_id(&blob.head.key, self.realm())
    }
}

fn data_key_len(request: &GenerateDataKeyRequest) -> Result<u32, KmsError> {
    match (request.number_of_bytes, request.key_spec.as_deref()) {
        (Some(count), None) => Ok(count),
        (None, Some("AES_256")) => Ok(32),
        (None, Some("AES_128")) => Ok(16),
        (None, Some(_)) => Err(KmsError::validation("KeySpec must be AES_256 or AES_128")),
        _ => Err(KmsError::validation("Please specify either number of bytes or key spec.")),
    }
}

fn random(count: u32) -> Result<SecretBytes, KmsError> {
    if !(1..=MAX_RANDOM).contains(&count) {
        return Err(KmsError::validation("NumberOfBytes must be 1 to 1024"));
    }
    let mut bytes = Zeroizing::new(vec![0; count as usize]);
    getrandom::fill(&mut bytes)?;
    Ok(SecretBytes::new(std::mem::take(&mut *bytes)))
}

pub(super) fn check_dry_run(dry_run: bool) -> Result<(), KmsError> {
    if dry_run {
        let message = "The request would have succeeded, but the DryRun option is set.";
        return Err(KmsError::new(ErrorKind::DryRun, message));
    }
    Ok(())
}

fn invalid_ciphertext(message: &str) -> KmsError {
    KmsError::new(ErrorKind::InvalidCiphertext, message)
}

pub(super) fn unauthentic() -> KmsError {
    invalid_ciphertext("the ciphertext or the encryption context is not the one that was made")
}

/// The refusal of a version that is not there: it was retired, or there never was one.
fn without_material(entry: &Entry, version: u32) -> KmsError {
    if version == 0 || version > entry.newest() {
        return unauthentic();
    }
    let message = format!("Version {version} of {} was retired and is destroyed", entry.arn);
    KmsError::new(ErrorKind::NotFound, message)
}

/// Refuses keys that do not make blobs.
fn check_symmetric(entry: &Entry, call: &Call<'_>) -> Result<(), KmsError> {
    entry.check_usage(KeyUsage::EncryptDecrypt, call.operation.name())?;
    if entry.record.spec == KeySpec::SymmetricDefault {
        return Ok(());
    }
    let message = format!("Algorithm SYMMETRIC_DEFAULT is incompatible with key spec {}.", entry.record.spec);
    Err(KmsError::new(ErrorKind::InvalidKeyUsage, message))
}
