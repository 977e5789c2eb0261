//! AES-256-GCM-SIV (RFC 8452), many messages at a time.
//!
//! Callers hand over a batch of messages under one key, so that an implementation can run the
//! per-nonce key derivations, key expansions and hashes of several messages side by side. Input
//! and output are different buffers: ciphertext goes from where it was read straight to where the
//! plaintext is wanted.

use aes_gcm_siv::aead::inout::InOutBuf;
use aes_gcm_siv::aead::{AeadInOut, KeyInit};
use aes_gcm_siv::{Aes256GcmSiv, Key as RawKey};
use thiserror::Error;
use zeroize::Zeroize;

use crate::secret::Key;

/// Bytes in a nonce (RFC 8452, section 4).
pub const NONCE_LEN: usize = 12;
/// Bytes in an authentication tag.
pub const TAG_LEN: usize = 16;

/// A nonce. Repeating one under the same key reveals only whether two messages are equal.
pub type Nonce = [u8; NONCE_LEN];
/// An authentication tag.
pub type Tag = [u8; TAG_LEN];

/// A message is not authentic. Deliberately without detail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("authentication failed")]
pub struct OpenError;

/// One message to encrypt.
#[derive(Debug)]
pub struct Seal<'a> {
    /// Nonce; fresh and random unless the caller wants determinism.
    pub nonce: &'a Nonce,
    /// Associated data.
    pub aad: &'a [u8],
    /// What to encrypt.
    pub plaintext: &'a [u8],
    /// Where the ciphertext goes; as long as `plaintext`.
    pub ciphertext: &'a mut [u8],
    /// Where the tag goes.
    pub tag: &'a mut Tag,
}

/// One message to decrypt.
#[derive(Debug)]
pub struct Open<'a> {
    /// Nonce it was sealed with.
    pub nonce: &'a Nonce,
    /// Associated data it was sealed with.
    pub aad: &'a [u8],
    /// What to decrypt.
    pub ciphertext: &'a [u8],
    /// Where the plaintext goes; as long as `ciphertext`.
    pub plaintext: &'a mut [u8],
    /// Tag to check.
    pub tag: &'a Tag,
}

/// An implementation of AES-256-GCM-SIV. All are interchangeable byte for byte; they are
/// stateless and may be used from any thread.
pub trait Aead: Send + Sync {
    /// A short name for logs and benchmarks.
    fn name(&self) -> &'static str;

    /// Encrypts every message of the batch.
    ///
    /// # Panics
    /// When a message's two buffers differ in length or exceed 2³⁶ bytes (RFC 8452, section 6).
    fn seal(&self, key: &Key, batch: &mut [Seal<'_>]);

    /// Decrypts and authenticates every message of the batch.
    ///
    /// # Errors
    /// [`OpenError`] if any message is not authentic. Every plaintext buffer of the batch is
    /// zeroed then.
    ///
    /// # Panics
    /// As [`Aead::seal`].
    fn open(&self, key: &Key, batch: &mut [Open<'_>]) -> Result<(), OpenError>;
}

/// The implementation to use on this machine.
pub fn best() -> &'static dyn Aead {
    &Portable
}

/// Every implementation that runs on this machine, the portable one first.
pub fn all() -> &'static [&'static dyn Aead] {
    &[&Portable]
}

/// Encrypts one message with [`best`].
///
/// # Panics
/// As [`Aead::seal`].
pub fn seal_one(key: &Key, nonce: &Nonce, aad: &[u8], plaintext: &[u8], ciphertext: &mut [u8]) -> Tag {
    let mut tag = [0; TAG_LEN];
    best().seal(key, &mut [Seal { nonce, aad, plaintext, ciphertext, tag: &mut tag }]);
    tag
}

/// Decrypts one message with [`best`].
///
/// # Errors
/// [`OpenError`] if it is not authentic; `plaintext` is zeroed then.
///
/// # Panics
/// As [`Aead::seal`].
pub fn open_one(
    key: &Key,
    nonce: &Nonce,
    aad: &[u8],
    ciphertext: &[u8],
    plaintext: &mut [u8],
    tag: &Tag,
) -> Result<(), OpenError> {
    best().open(key, &mut [Open { nonce, aad, ciphertext, plaintext, tag }])
}

/// The `aes-gcm-siv` crate: the reference that every other implementation is tested against.
#[derive(Debug, Clone, Copy)]
pub struct Portable;

impl Aead for Portable {
    fn name(&self) -> &'static str {
        "portable"
    }

    fn seal(&self, key: &Key, batch: &mut [Seal<'_>]) {
        let cipher = expand(key);
        for message in batch {
            let buffer = in_out(message.plaintext, message.ciphertext);
            let sealed = cipher.encrypt_inout_detached(message.nonce.into(), message.aad, buffer);
            match sealed {
                Ok(tag) => *message.tag = tag.into(),
                Err(_) => unreachable!("in_out bounds the length"),
            }
        }
    }

    fn open(&self, key: &Key, batch: &mut [Open<'_>]) -> Result<(), OpenError> {
        let cipher = expand(key);
        let mut authentic = true;
        for message in &mut *batch {
            let buffer = in_out(message.ciphertext, message.plaintext);
            authentic &= cipher
                .decrypt_inout_detached(message.nonce.into(), message.aad, buffer, message.tag.into())
                .is_ok();
        }
        if authentic {
            return Ok(());
        }
        for message in batch {
            message.plaintext.zeroize();
        }
        Err(OpenError)
    }
}

fn expand(key: &Key) -> Aes256GcmSiv {
    Aes256GcmSiv::new(<&RawKey<Aes256GcmSiv>>::from(key.expose()))
}

fn in_out<'a>(input: &'a [u8], output: &'a mut [u8]) -> InOutBuf<'a, 'a, u8> {
    assert!(input.len() as u64 <= aes_gcm_siv::P_MAX, "message exceeds RFC 8452's limit");
    match InOutBuf::new(input, output) {
        Ok(buffer) => buffer,
        Err(_) => unreachable!("both buffers of a message have one length"),
    }
}
