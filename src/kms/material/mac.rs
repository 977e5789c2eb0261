//! HMAC keys.

use aws_lc_rs::hmac;

use super::NotMaterial;
use super::algorithm::MacAlgorithm;

/// An HMAC key, ready for use.
pub(super) struct MacKey(hmac::Key);

impl MacKey {
    /// The key of these bytes, as many as the hash's output.
    pub(super) fn parse(algorithm: MacAlgorithm, bytes: &[u8]) -> Result<Self, NotMaterial> {
        if bytes.len() != len(algorithm) {
            return Err(NotMaterial);
        }
        let hash = match algorithm {
            MacAlgorithm::HmacSha224 => hmac::HMAC_SHA224,
            MacAlgorithm::HmacSha256 => hmac::HMAC_SHA256,
            MacAlgorithm::HmacSha384 => hmac::HMAC_SHA384,
            MacAlgorithm::HmacSha512 => hmac::HMAC_SHA512,
        };
        Ok(Self(hmac::Key::new(hash, bytes)))
    }

    pub(super) fn authenticate(&self, message: &[u8]) -> Vec<u8> {
        hmac::sign(&self.0, message).as_ref().to_vec()
    }

    /// Compares in constant time.
    pub(super) fn verifies(&self, message: &[u8], mac: &[u8]) -> bool {
        hmac::verify(&self.0, message, mac).is_ok()
    }
}

/// Bytes of a key, and of the MACs that it makes.
pub(super) fn len(algorithm: MacAlgorithm) -> usize {
    match algorithm {
        MacAlgorithm::HmacSha224 => 28,
        MacAlgorithm::HmacSha256 => 32,
        MacAlgorithm::HmacSha384 => 48,
        MacAlgorithm::HmacSha512 => 64,
    }
}
