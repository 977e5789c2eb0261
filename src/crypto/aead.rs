//! AES-256-GCM-SIV (RFC 8452), many messages at a time.
//!
//! Callers hand over a batch of messages under one key, so that an implementation can run the
//! per-nonce key derivations, key expansions and hashes of several messages side by side. Input
//! and output are different buffers: ciphertext goes from where it was read straight to where the
//! plaintext is wanted.

use thiserror::Error;

use super::kernel;
use crate::secret::Key;

pub use kernel::{Portable, UnknownImplementation, VARIABLE};

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

/// Which implementations are used.
#[derive(Clone, Copy)]
pub struct Choice {
    /// For all but contents of files. Always a cipher.
    pub best: &'static dyn Aead,
    /// For contents of files: the same, unless they are not to be encrypted.
    pub for_contents: &'static dyn Aead,
}

impl Choice {
    /// One cipher for everything.
    pub(super) fn one(aead: &'static dyn Aead) -> Self {
        Self { best: aead, for_contents: aead }
    }

    /// Whether contents of files are encrypted; false only in a build with the feature
    /// `copy-cipher` that was told to copy them.
    pub fn encrypts_contents(&self) -> bool {
        self.best.name() == self.for_contents.name()
    }
}

/// The implementation to use: the fastest on this machine, unless [`VARIABLE`] in the
/// environment names another one. It is chosen once; call this before the first use of [`best`].
///
/// # Errors
/// [`UnknownImplementation`] when what it names does not run here.
pub fn choose() -> Result<Choice, UnknownImplementation> {
    kernel::choose()
}

/// The cipher of [`choose`], where it was called before, or in a test.
///
/// # Panics
/// When [`choose`] fails.
pub fn best() -> &'static dyn Aead {
    chosen().best
}

/// What seals and opens contents of files, as [`best`].
///
/// # Panics
/// As [`best`].
pub fn for_contents() -> &'static dyn Aead {
    chosen().for_contents
}

#[expect(
    clippy::panic,
    reason = "a program that did not choose at its start cannot go on with another cipher"
)]
fn chosen() -> Choice {
    choose().unwrap_or_else(|error| panic!("{error}"))
}

/// Every implementation that runs on this machine, the portable one first and the fastest last.
pub fn all() -> &'static [&'static dyn Aead] {
    kernel::all()
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
