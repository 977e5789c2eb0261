//! Material on its way from elsewhere, wrapped under an RSA key that the service made for it:
//! directly by RSA-OAEP, which takes up to some hundred bytes, or under a 256-bit AES key of its
//! own (RFC 5649) which RSA-OAEP wraps.
//!
//! ```text
//! RSAES_OAEP_SHA_x         OAEP(material)
//! RSA_AES_KEY_WRAP_SHA_x   OAEP(AES key) ‖ AES-KWP(AES key, material)
//! ```

use aws_lc_rs::key_wrap::{AES_128, AES_256, AesBlockCipher, KeyEncryptionKey, KeyWrapPadded};
use aws_lc_rs::rsa::{
    OaepPrivateDecryptingKey, OaepPublicEncryptingKey, PrivateDecryptingKey, PublicEncryptingKey,
};
use thiserror::Error;
use zeroize::Zeroizing;

use super::algorithm::EncryptionAlgorithm;
use super::rsa::{self, oaep};
use super::{NotMaterial, failed};
use crate::kms::error::KmsError;
use crate::kms::named::named;
use crate::kms::spec::KeySpec;
use crate::secret::KEY_LEN;

/// Most bytes that RFC 5649 adds.
const KWP_OVERHEAD: usize = 15;

/// The specs of wrapping keys.
pub(in crate::kms) const WRAPPING_SPECS: [KeySpec; 3] =
    [KeySpec::Rsa2048, KeySpec::Rsa3072, KeySpec::Rsa4096];

named! {
    /// How material is wrapped for its import.
    WrappingAlgorithm, "wrapping algorithm" {
        /// RSA-OAEP with SHA-1.
        RsaesOaepSha1 = "RSAES_OAEP_SHA_1",
        /// RSA-OAEP with SHA-256.
        RsaesOaepSha256 = "RSAES_OAEP_SHA_256",
        /// AES key wrap with padding under a key that RSA-OAEP with SHA-1 wraps.
        RsaAesKeyWrapSha1 = "RSA_AES_KEY_WRAP_SHA_1",
        /// AES key wrap with padding under a key that RSA-OAEP with SHA-256 wraps.
        RsaAesKeyWrapSha256 = "RSA_AES_KEY_WRAP_SHA_256",
    }
}

impl WrappingAlgorithm {
    fn oaep(self) -> EncryptionAlgorithm {
        match self {
            Self::RsaesOaepSha1 | Self::RsaAesKeyWrapSha1 => EncryptionAlgorithm::RsaesOaepSha1,
            Self::RsaesOaepSha256 | Self::RsaAesKeyWrapSha256 => EncryptionAlgorithm::RsaesOaepSha256,
        }
    }

    fn is_in_two_steps(self) -> bool {
        matches!(self, Self::RsaAesKeyWrapSha1 | Self::RsaAesKeyWrapSha256)
    }
}

/// The key that material is wrapped under on its way to the service.
pub(in crate::kms) struct WrappingKey(OaepPrivateDecryptingKey);

impl WrappingKey {
    /// A fresh key: its private half as PKCS#8 and its public half as SPKI.
    ///
    /// # Errors
    /// Internal.
    pub(in crate::kms) fn generate(spec: KeySpec) -> Result<(Zeroizing<Vec<u8>>, Vec<u8>), KmsError> {
        let bits = rsa::bits(spec).ok_or_else(|| failed("make a wrapping key"))?;
        let pkcs8 = rsa::generate(bits)?;
        let (pkcs8, spki) = rsa::canonical(bits, &pkcs8).map_err(|_| failed("encode a wrapping key"))?;
        Ok((pkcs8, spki))
    }

    pub(in crate::kms) fn parse(pkcs8: &[u8]) -> Result<Self, NotMaterial> {
        let key = PrivateDecryptingKey::from_pkcs8(pkcs8).map_err(|_| NotMaterial)?;
        OaepPrivateDecryptingKey::new(key).map(Self).map_err(|_| NotMaterial)
    }

    /// What was wrapped; `None` when nothing was that opens.
    pub(in crate::kms) fn unwrap(
        &self,
        algorithm: WrappingAlgorithm,
        wrapped: &[u8],
    ) -> Option<Zeroizing<Vec<u8>>> {
        let outer = if algorithm.is_in_two_steps() { self.0.key_size_bytes() } else { wrapped.len() };
        let (outer, inner) = wrapped.split_at_checked(outer)?;
        let mut opened = Zeroizing::new(vec![0; self.0.min_output_size()]);
        let len = self.0.decrypt(oaep(algorithm.oaep())?, outer, &mut opened, None).ok()?.len();
        opened.truncate(len);
        if !algorithm.is_in_two_steps() {
            return Some(opened);
        }
        let mut material = Zeroizing::new(vec![0; inner.len()]);
        let len = kek(&opened)?.unwrap_with_padding(inner, &mut material).ok()?.len();
        material.truncate(len);
        Some(material)
    }
}

/// Why material could not be wrapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CannotWrap {
    /// The public key is not the SPKI of an RSA key.
    #[error("the wrapping key is not an RSA public key in DER")]
    NotAPublicKey,
    /// RSA-OAEP takes a few hundred bytes at most.
    #[error("the key material is longer than this algorithm takes; wrap it with RSA_AES_KEY_WRAP_SHA_256")]
    TooLong,
}

/// Wraps `material` under the public key (SPKI) that GetParametersForImport answered.
///
/// # Errors
/// [`CannotWrap`].
pub fn wrap_for_import(
    algorithm: WrappingAlgorithm,
    public_key: &[u8],
    material: &[u8],
) -> Result<Vec<u8>, CannotWrap> {
    let key = PublicEncryptingKey::from_der(public_key).map_err(|_| CannotWrap::NotAPublicKey)?;
    let key = OaepPublicEncryptingKey::new(key).map_err(|_| CannotWrap::NotAPublicKey)?;
    let seal = |plaintext: &[u8]| {
        let mut sealed = vec![0; key.ciphertext_size()];
        let oaep = oaep(algorithm.oaep()).ok_or(CannotWrap::TooLong)?;
        key.encrypt(oaep, plaintext, &mut sealed, None).map_err(|_| CannotWrap::TooLong)?;
        Ok(sealed)
    };
    if !algorithm.is_in_two_steps() {
        return seal(material);
    }
    let mut aes = Zeroizing::new([0; KEY_LEN]);
    aws_lc_rs::rand::fill(&mut *aes).map_err(|_| CannotWrap::TooLong)?;
    let mut wrapped = seal(&*aes)?;
    let mut inner = vec![0; material.len() + KWP_OVERHEAD + 1];
    let kek = kek(&*aes).ok_or(CannotWrap::TooLong)?;
    let inner = kek.wrap_with_padding(material, &mut inner).map_err(|_| CannotWrap::TooLong)?;
    wrapped.extend_from_slice(inner);
    Ok(wrapped)
}

fn kek(key: &[u8]) -> Option<KeyEncryptionKey<AesBlockCipher>> {
    let cipher = match key.len() {
        16 => &AES_128,
        32 => &AES_256,
        _ => return None,
    };
    KeyEncryptionKey::new(cipher, key).ok()
}
