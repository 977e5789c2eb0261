//! The ciphertext blob: what Encrypt and GenerateDataKey hand out.
//!
//! ```text
//! offset  length  what
//!      0       1  version, 1
//!      1      16  key store id
//!     17      16  master key id
//!     33       4  material version, little-endian
//!     37       1  algorithm: 1 = AES-256-GCM-SIV, 2 = the same within what a key manager elsewhere made
//!     38      12  nonce
//!     50       n  ciphertext
//!   50+n      16  tag
//! ```
//!
//! With algorithm 2, what is from offset 38 on in a blob of algorithm 1 was encrypted once more, by
//! the proxy of an external key store:
//!
//! ```text
//! offset  length  what
//!     38       1  length of the proxy's metadata, 0 to 20
//!     39       1  length of the proxy's initialization vector, 12 or 16
//!     40       m  metadata
//!   40+m       v  initialization vector
//! 40+m+v      16  the proxy's tag
//! 56+m+v    n+28  the proxy's ciphertext
//! ```
//!
//! The first 38 bytes are authenticated, together with the encryption context: by both, where there
//! are two.

use thiserror::Error;

use super::context::EncryptionContext;
use super::id::{KeyId, StoreId};
use super::schedule;
use crate::codec::{Reader, Truncated, Writer};
use crate::crypto::kdf::{DIGEST_LEN, sha256};
use crate::crypto::wrap::{open_into, seal_into};
use crate::crypto::{NONCE_LEN, OpenError, TAG_LEN};
use crate::secret::{KEY_LEN, Key};

/// Longest ciphertext blob, in bytes.
pub const MAX_BLOB: usize = 6144;
/// Bytes that a blob is longer than what is in it.
pub const OVERHEAD: usize = HEADER_LEN + NONCE_LEN + TAG_LEN;
/// Length in bytes of the blob of a 256-bit data key.
pub const DATA_KEY_BLOB_LEN: usize = OVERHEAD + KEY_LEN;

const HEADER_LEN: usize = 1 + 16 + 16 + 4 + 1;
const VERSION: u8 = 1;
const AES_256_GCM_SIV: u8 = 1;
const WITHIN_EXTERNAL: u8 = 2;
/// Longest metadata of a proxy.
const MAX_METADATA: usize = 20;
/// Length of a proxy's tag.
const OUTER_TAG_LEN: usize = 16;

/// Which store, key and version made a blob: what a blob says without any key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlobHead {
    /// The key store.
    pub store: StoreId,
    /// The master key.
    pub key: KeyId,
    /// The material version, from 1.
    pub version: u32,
}

/// A blob, parsed and not yet authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blob<'a> {
    /// What made it, if it is authentic.
    pub head: BlobHead,
    algorithm: u8,
    /// What a proxy made of the sealed bytes, but for its ciphertext.
    outer: Option<Outer<'a>>,
    /// Nonce, ciphertext and tag; encrypted once more while there is an `outer`.
    sealed: &'a [u8],
}

/// What the proxy of an external key store made of sealed bytes, beside a ciphertext of their length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Outer<'a> {
    /// For the proxy itself, up to 20 bytes.
    pub(super) metadata: &'a [u8],
    /// 12 or 16 bytes.
    pub(super) iv: &'a [u8],
    pub(super) tag: [u8; OUTER_TAG_LEN],
}

/// Bytes that no version of this service made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not a ciphertext of a kmsfs key store")]
pub struct NotABlob;

impl From<Truncated> for NotABlob {
    fn from(_: Truncated) -> Self {
        Self
    }
}

impl<'a> Blob<'a> {
    /// Takes a blob apart. Needs no key, and proves nothing: only opening it does.
    ///
    /// # Errors
    /// [`NotABlob`] when the bytes are too short, too long or of an unknown version or algorithm.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, NotABlob> {
        let mut r = Reader::new(bytes);
        let version = r.u8()?;
        let head = BlobHead {
            store: StoreId::from_bytes(r.array()?),
            key: KeyId::from_bytes(r.array()?),
            version: r.u32()?,
        };
        let algorithm = r.u8()?;
        let outer = if algorithm == WITHIN_EXTERNAL { Some(Outer::read(&mut r)?) } else { None };
        let sealed = r.rest();
        let whole = bytes.len() <= MAX_BLOB && sealed.len() > NONCE_LEN + TAG_LEN;
        if version != VERSION || !matches!(algorithm, AES_256_GCM_SIV | WITHIN_EXTERNAL) || !whole {
            return Err(NotABlob);
        }
        Ok(Self { head, algorithm, outer, sealed })
    }

    /// Length in bytes of what is in it.
    pub fn plaintext_len(&self) -> usize {
        self.sealed.len() - NONCE_LEN - TAG_LEN
    }

    /// What has to be asked of a proxy before it can be opened: the other parts, and the ciphertext.
    pub(super) fn outer(&self) -> Option<(Outer<'a>, &'a [u8])> {
        Some((self.outer?, self.sealed))
    }

    /// The blob once a proxy made `inner` of its ciphertext. Whether that is right, opening it shows.
    pub(super) fn unwrapped<'b>(&self, inner: &'b [u8]) -> Blob<'b> {
        Blob { head: self.head, algorithm: self.algorithm, outer: None, sealed: inner }
    }

    /// Opens it into `plaintext`, which must be [`Blob::plaintext_len`] bytes long.
    pub(super) fn open(
        &self,
        material: &Key,
        context: &EncryptionContext,
        plaintext: &mut [u8],
    ) -> Result<(), OpenError> {
        if self.outer.is_some() {
            return Err(OpenError);
        }
        open_into(material, &self.head.aad(self.algorithm, context), self.sealed, plaintext)
    }
}

impl<'a> Outer<'a> {
    fn read(r: &mut Reader<'a>) -> Result<Self, NotABlob> {
        let (metadata, iv) = (usize::from(r.u8()?), usize::from(r.u8()?));
        if metadata > MAX_METADATA || !matches!(iv, 12 | 16) {
            return Err(NotABlob);
        }
        Ok(Self { metadata: r.bytes(metadata)?, iv: r.bytes(iv)?, tag: r.array()? })
    }
}

impl BlobHead {
    /// Seals `plaintext` under `material`, the version that `self` names.
    pub(super) fn seal(
        &self,
        material: &Key,
        context: &EncryptionContext,
        plaintext: &[u8],
    ) -> Result<Vec<u8>, getrandom::Error> {
        let mut blob = vec![0; OVERHEAD + plaintext.len()];
        let (header, sealed) = blob.split_at_mut(HEADER_LEN);
        header.copy_from_slice(&self.bytes(AES_256_GCM_SIV));
        seal_into(material, &self.aad(AES_256_GCM_SIV, context), plaintext, sealed)?;
        Ok(blob)
    }

    /// Seals `plaintext` for a proxy that is to encrypt it once more.
    pub(super) fn seal_inner(
        &self,
        material: &Key,
        context: &EncryptionContext,
        plaintext: &[u8],
    ) -> Result<Vec<u8>, getrandom::Error> {
        let mut sealed = vec![0; NONCE_LEN + plaintext.len() + TAG_LEN];
        seal_into(material, &self.aad(WITHIN_EXTERNAL, context), plaintext, &mut sealed)?;
        Ok(sealed)
    }

    /// The blob of what a proxy made of [`BlobHead::seal_inner`].
    pub(super) fn with_outer(&self, outer: Outer<'_>, ciphertext: &[u8]) -> Vec<u8> {
        debug_assert!(outer.metadata.len() <= MAX_METADATA && matches!(outer.iv.len(), 12 | 16));
        let lengths = [outer.metadata.len() as u8, outer.iv.len() as u8];
        let header = self.bytes(WITHIN_EXTERNAL);
        [&header[..], &lengths, outer.metadata, outer.iv, &outer.tag, ciphertext].concat()
    }

    /// What a proxy is to authenticate: a digest, for the context is nothing that it needs to know.
    pub(super) fn outer_aad(&self, context: &EncryptionContext) -> [u8; DIGEST_LEN] {
        sha256(&[schedule::OUTER_LABEL, &self.aad(WITHIN_EXTERNAL, context)])
    }

    fn bytes(&self, algorithm: u8) -> [u8; HEADER_LEN] {
        let mut header = [0; HEADER_LEN];
        Writer::new(&mut header)
            .u8(VERSION)
            .bytes(self.store.as_bytes())
            .bytes(self.key.as_bytes())
            .u32(self.version)
            .u8(algorithm);
        header
    }

    fn aad(&self, algorithm: u8, context: &EncryptionContext) -> Vec<u8> {
        let label = schedule::BLOB_LABEL;
        let mut aad = Vec::with_capacity(label.len() + HEADER_LEN + context.canonical_len());
        aad.extend(label);
        aad.extend(self.bytes(algorithm));
        context.append_to(&mut aad);
        aad
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn head() -> BlobHead {
        BlobHead { store: StoreId::random().unwrap(), key: KeyId::random().unwrap(), version: 7 }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn a_blob_opens_only_whole_and_in_its_context(plaintext in proptest::collection::vec(any::<u8>(), 1..200), at: proptest::sample::Index) {
            let material = Key::random().unwrap();
            let context = EncryptionContext::new().with("kmsfs:file", "1");
            let mut blob = head().seal(&material, &context, &plaintext).unwrap();
            prop_assert_eq!(blob.len(), OVERHEAD + plaintext.len());
            let mut opened = vec![0; plaintext.len()];
            let parsed = Blob::parse(&blob).unwrap();
            parsed.open(&material, &context, &mut opened).unwrap();
            prop_assert_eq!(&opened, &plaintext);
            prop_assert!(parsed.open(&material, &EncryptionContext::new(), &mut opened).is_err());
            prop_assert!(parsed.open(&Key::random().unwrap(), &context, &mut opened).is_err());

            let at = at.index(blob.len());
            blob[at] ^= 1;
            let opens = Blob::parse(&blob).is_ok_and(|b| b.open(&material, &context, &mut opened).is_ok());
            prop_assert!(!opens, "byte {}", at);
        }

        #[test]
        fn a_blob_within_another_opens_once_that_is_gone(
            plaintext in proptest::collection::vec(any::<u8>(), 1..200),
            metadata in proptest::collection::vec(any::<u8>(), 0..=MAX_METADATA),
            long: bool,
            at: proptest::sample::Index,
        ) {
            let (head, material) = (head(), Key::random().unwrap());
            let context = EncryptionContext::new().with("kmsfs:file", "1");
            let inner = head.seal_inner(&material, &context, &plaintext).unwrap();
            let iv = vec![7; if long { 16 } else { 12 }];
            let mut ciphertext = inner.clone();
            ciphertext.reverse();
            let outer = Outer { metadata: &metadata, iv: &iv, tag: [9; OUTER_TAG_LEN] };
            let blob = head.with_outer(outer, &ciphertext);
            let parsed = Blob::parse(&blob).unwrap();
            prop_assert_eq!(parsed.head, head);
            prop_assert_eq!(parsed.outer(), Some((outer, &ciphertext[..])));
            prop_assert_eq!(parsed.plaintext_len(), plaintext.len());
            let mut opened = vec![0; plaintext.len()];
            prop_assert!(parsed.open(&material, &context, &mut opened).is_err());
            parsed.unwrapped(&inner).open(&material, &context, &mut opened).unwrap();
            prop_assert_eq!(&opened, &plaintext);

            // It is not one that was never in another's hands, nor the other way round.
            let plain = [&head.bytes(AES_256_GCM_SIV)[..], &inner].concat();
            let opens = Blob::parse(&plain).unwrap().open(&material, &context, &mut opened);
            prop_assert!(opens.is_err());
            let sealed = head.seal(&material, &context, &plaintext).unwrap();
            let opens = parsed.unwrapped(&sealed[HEADER_LEN..]).open(&material, &context, &mut opened);
            prop_assert!(opens.is_err());

            let mut damaged = inner;
            let at = at.index(damaged.len());
            damaged[at] ^= 1;
            let opens = parsed.unwrapped(&damaged).open(&material, &context, &mut opened);
            prop_assert!(opens.is_err(), "byte {}", at);
            prop_assert_ne!(head.outer_aad(&context), head.outer_aad(&EncryptionContext::new()));
        }

        #[test]
        fn any_bytes_parse_without_panic(bytes: Vec<u8>) {
            let _ = Blob::parse(&bytes);
        }
    }

    #[test]
    fn the_head_is_readable_without_a_key() {
        let head = head();
        let blob = head.seal(&Key::random().unwrap(), &EncryptionContext::new(), &[1; KEY_LEN]).unwrap();
        assert_eq!(blob.len(), DATA_KEY_BLOB_LEN);
        assert_eq!(Blob::parse(&blob).unwrap().head, head);
        assert_eq!(Blob::parse(&blob).unwrap().plaintext_len(), KEY_LEN);
        for cut in 0..=OVERHEAD {
            assert_eq!(Blob::parse(&blob[..cut]), Err(NotABlob), "{cut} bytes");
        }
    }
}
