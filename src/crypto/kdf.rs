//! HKDF-SHA256 (RFC 5869) and the hashes that stand beside it.

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
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

/// HMAC-SHA256 (RFC 2104) over the concatenation of `parts`.
pub fn hmac(key: &Key, parts: &[&[u8]]) -> [u8; DIGEST_LEN] {
    keyed(key, parts).finalize().into_bytes().into()
}

/// Whether `tag` is the [`hmac()`] of `parts`; takes the same time wherever they differ.
pub fn hmac_is(key: &Key, parts: &[&[u8]], tag: &[u8; DIGEST_LEN]) -> bool {
    keyed(key, parts).verify_slice(tag).is_ok()
}

fn keyed(key: &Key, parts: &[&[u8]]) -> Hmac<Sha256> {
    match <Hmac<Sha256> as KeyInit>::new_from_slice(key.expose()) {
        Ok(mac) => parts.iter().fold(mac, |mac, part| mac.chain_update(part)),
        Err(_) => unreachable!("HMAC takes keys of any length"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hmac_gives_the_values_of_rfc_4231() {
        // Case 2's key is shorter than 32 bytes; padding it with zeros does not change it.
        let mut padded = [0; 32];
        padded[..4].copy_from_slice(b"Jefe");
        let key = Key::take_from(&mut padded);
        let tag = hmac(&key, &[b"what do ya want ", b"for nothing?"]);
        let hex = data_encoding::HEXLOWER.encode(&tag);
        assert_eq!(hex, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
        assert!(hmac_is(&key, &[b"what do ya want for nothing?"], &tag));
        assert!(!hmac_is(&key, &[b"what do ya want for nothing!"], &tag));
    }
}
