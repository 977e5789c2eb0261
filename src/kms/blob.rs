//! The ciphertext blob: what Encrypt and GenerateDataKey hand out.
//!
//! ```text
//! offset  length  what
//!      0       1  version, 1
//!      1      16  key store id
//!     17      16  master key id
//!     33       4  material version, little-endian
//!     37       1  algorithm, 1 = AES-256-GCM-SIV
//!     38      12  nonce
//!     50       n  ciphertext
//!   50+n      16  tag
//! ```
//!
//! Everything before the nonce is authenticated, together with the encryption context.

use thiserror::Error;

use super::context::EncryptionContext;
use super::id::{KeyId, StoreId};
use super::schedule;
use crate::codec::{Reader, Truncated, Writer};
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
    sealed: &'a [u8],
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
        let sealed = r.rest();
        let whole = bytes.len() <= MAX_BLOB && sealed.len() > NONCE_LEN + TAG_LEN;
        if version != VERSION || algorithm != AES_256_GCM_SIV || !whole {
            return Err(NotABlob);
        }
        Ok(Self { head, sealed })
    }

    /// Length in bytes of what is in it.
    pub fn plaintext_len(&self) -> usize {
        self.sealed.len() - NONCE_LEN - TAG_LEN
    }

    /// Opens it into `plaintext`, which must be [`Blob::plaintext_len`] bytes long.
    pub(super) fn open(
        &self,
        material: &Key,
        context: &EncryptionContext,
        plaintext: &mut [u8],
    ) -> Result<(), OpenError> {
        open_into(material, &self.head.aad(context), self.sealed, plaintext)
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
        header.copy_from_slice(&self.bytes());
        seal_into(material, &self.aad(context), plaintext, sealed)?;
        Ok(blob)
    }

    fn bytes(&self) -> [u8; HEADER_LEN] {
        let mut header = [0; HEADER_LEN];
        Writer::new(&mut header)
            .u8(VERSION)
            .bytes(self.store.as_bytes())
            .bytes(self.key.as_bytes())
            .u32(self.version)
            .u8(AES_256_GCM_SIV);
        header
    }

    fn aad(&self, context: &EncryptionContext) -> Vec<u8> {
        let label = schedule::BLOB_LABEL;
        let mut aad = Vec::with_capacity(label.len() + HEADER_LEN + context.canonical_len());
        aad.extend(label);
        aad.extend(self.bytes());
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
