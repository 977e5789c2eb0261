//! HKDF-SHA256 (RFC 5869) and the hashes that stand beside it.

use hkdf::Hkdf;
use sha2::{Digest, Sha256};

use crate::secret::Key;

/// Length in bytes of a SHA-256 digest.
pub const DIGEST_LEN: usize = 32;

/// Derives any number of keys from one input key: HKDF-Extract once, HKDF-Expand per label.
#[derive(Clone)]
pub struct Kdf(Hkdf<Sha256>);

impl Kdf {
    /// HKDF-Extract over `key` with `salt`.
    pub fn new(key: &Key, salt: &[u8]) -> Self {
        Self::from_bytes(key.expose(), salt)
    }

    /// HKDF-Extract over input key material of any length, such as a key file.
    pub fn from_bytes(material: &[u8], salt: &[u8]) -> Self {
        Self(Hkdf::new(Some(salt), material))
    }

    /// HKDF-Expand to a key in locked memory; `info` is the concatenation of the parts.
    pub fn key(&self, info: &[&[u8]]) -> Key {
        let filled = Key::fill(|bytes| self.0.expand_multi_info(info, bytes));
        match filled {
            Ok(key) => key,
            Err(_) => unreachable!("32 bytes are within HKDF's limit of 255 digests"),
        }
    }

    /// HKDF-Expand to 32 public bytes: a commitment to the input key.
    pub fn commitment(&self, info: &[&[u8]]) -> [u8; DIGEST_LEN] {
        *self.key(info).expose()
    }
}

impl std::fmt::Debug for Kdf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Kdf(..)")
    }
}

/// SHA-256 over the concatenation of `parts`.
pub fn sha256(parts: &[&[u8]]) -> [u8; DIGEST_LEN] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().into()
}
