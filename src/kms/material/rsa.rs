//! RSA keys: to encrypt, or to sign.

use aws_lc_rs::digest::Digest;
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::{
    KeyPair, KeySize, OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepAlgorithm, OaepPrivateDecryptingKey,
    OaepPublicEncryptingKey, PrivateDecryptingKey,
};
use aws_lc_rs::signature::{self as sig, KeyPair as _, ParsedPublicKey, RsaEncoding, RsaParameters};
use zeroize::Zeroizing;

use super::algorithm::{EncryptionAlgorithm, SigningAlgorithm};
use super::curve::digest_algorithm;
use super::message::Signed;
use super::{NotMaterial, failed};
use crate::kms::error::KmsError;
use crate::kms::spec::KeySpec;

/// An RSA key to encrypt with.
pub(super) struct Encrypting {
    private: OaepPrivateDecryptingKey,
    public: OaepPublicEncryptingKey,
}

/// An RSA key to sign with.
pub(super) struct Signing {
    private: KeyPair,
    /// The public half, parsed for each of [`ENCODINGS`].
    public: Vec<ParsedPublicKey>,
}

/// How each algorithm signs and verifies.
type Encoding = (SigningAlgorithm, &'static dyn RsaEncoding, &'static RsaParameters);

static ENCODINGS: [Encoding; 6] = [
    (SigningAlgorithm::RsassaPssSha256, &sig::RSA_PSS_SHA256, &sig::RSA_PSS_2048_8192_SHA256),
    (SigningAlgorithm::RsassaPssSha384, &sig::RSA_PSS_SHA384, &sig::RSA_PSS_2048_8192_SHA384),
    (SigningAlgorithm::RsassaPssSha512, &sig::RSA_PSS_SHA512, &sig::RSA_PSS_2048_8192_SHA512),
    (SigningAlgorithm::RsassaPkcs1Sha256, &sig::RSA_PKCS1_SHA256, &sig::RSA_PKCS1_2048_8192_SHA256),
    (SigningAlgorithm::RsassaPkcs1Sha384, &sig::RSA_PKCS1_SHA384, &sig::RSA_PKCS1_2048_8192_SHA384),
    (SigningAlgorithm::RsassaPkcs1Sha512, &sig::RSA_PKCS1_SHA512, &sig::RSA_PKCS1_2048_8192_SHA512),
];

/// Bits of the modulus; `None` for a spec that is not RSA.
pub(super) fn bits(spec: KeySpec) -> Option<usize> {
    match spec {
        KeySpec::Rsa2048 => Some(2048),
        KeySpec::Rsa3072 => Some(3072),
        KeySpec::Rsa4096 => Some(4096),
        _ => None,
    }
}

/// A fresh private key as PKCS#8. Takes from tenths of a second to seconds.
pub(super) fn generate(bits: usize) -> Result<Zeroizing<Vec<u8>>, KmsError> {
    let size = match bits {
        2048 => KeySize::Rsa2048,
        3072 => KeySize::Rsa3072,
        _ => KeySize::Rsa4096,
    };
    let key = KeyPair::generate(size).map_err(|_| failed("make an RSA key"))?;
    pkcs8(&key).ok_or_else(|| failed("encode an RSA key"))
}

impl Encrypting {
    pub(super) fn parse(bits: usize, pkcs8: &[u8]) -> Result<Self, NotMaterial> {
        let key = PrivateDecryptingKey::from_pkcs8(pkcs8).map_err(|_| NotMaterial)?;
        if key.key_size_bits() != bits {
            return Err(NotMaterial);
        }
        let public = OaepPublicEncryptingKey::new(key.public_key()).map_err(|_| NotMaterial)?;
        let private = OaepPrivateDecryptingKey::new(key).map_err(|_| NotMaterial)?;
        Ok(Self { private, public })
    }

    /// Most bytes that `algorithm` encrypts.
    pub(super) fn most(&self, algorithm: EncryptionAlgorithm) -> usize {
        let overhead = algorithm.oaep_overhead().unwrap_or(usize::MAX);
        self.public.key_size_bytes().saturating_sub(overhead)
    }

    pub(super) fn encrypt(
        &self,
        algorithm: EncryptionAlgorithm,
        plaintext: &[u8],
    ) -> Result<Vec<u8>, KmsError> {
        let mut ciphertext = vec![0; self.public.ciphertext_size()];
        let oaep = oaep(algorithm).ok_or_else(|| failed("encrypt"))?;
        self.public.encrypt(oaep, plaintext, &mut ciphertext, None).map_err(|_| failed("encrypt"))?;
        Ok(ciphertext)
    }

    /// `None` when the ciphertext was not made for this key with this algorithm; AWS-LC says no
    /// more, and takes the same time whatever is wrong.
    pub(super) fn decrypt(
        &self,
        algorithm: EncryptionAlgorithm,
        ciphertext: &[u8],
    ) -> Option<Zeroizing<Vec<u8>>> {
        let mut plaintext = Zeroizing::new(vec![0; self.private.min_output_size()]);
        let len = self.private.decrypt(oaep(algorithm)?, ciphertext, &mut plaintext, None).ok()?.len();
        plaintext.truncate(len);
        Some(plaintext)
    }
}

impl Signing {
    pub(super) fn parse(bits: usize, pkcs8: &[u8]) -> Result<Self, NotMaterial> {
        let private = KeyPair::from_pkcs8(pkcs8).map_err(|_| NotMaterial)?;
        if private.public_modulus_len() * 8 != bits {
            return Err(NotMaterial);
        }
        let public = private.public_key().as_ref();
        let parsed = ENCODINGS.iter().map(|(_, _, verifying)| ParsedPublicKey::new(*verifying, public));
        let public = parsed.collect::<Result<_, _>>().map_err(|_| NotMaterial)?;
        Ok(Self { private, public })
    }

    pub(super) fn sign(&self, algorithm: SigningAlgorithm, signed: Signed<'_>) -> Option<Vec<u8>> {
        let (_, encoding, _) = ENCODINGS.iter().find(|(known, ..)| *known == algorithm)?;
        let mut signature = vec![0; self.private.public_modulus_len()];
        match signed {
            Signed::Message(message) => {
                let random = aws_lc_rs::rand::SystemRandom::new();
                self.private.sign(*encoding, &random, message, &mut signature).ok()?;
            }
            Signed::Digest(digest) => {
                let digest = Digest::import_less_safe(digest, digest_algorithm(algorithm)?).ok()?;
                self.private.sign_digest(*encoding, &digest, &mut signature).ok()?;
            }
            Signed::Representative(_) => return None,
        }
        Some(signature)
    }

    pub(super) fn verifies(
        &self,
        algorithm: SigningAlgorithm,
        signed: Signed<'_>,
        signature: &[u8],
    ) -> Option<()> {
        let known = ENCODINGS.iter().position(|(known, ..)| *known == algorithm)?;
        super::curve::verify(self.public.get(known)?, algorithm, signed, signature)
    }
}

/// A private key in the one form that it is stored in, and its public half as SPKI.
pub(super) fn canonical(bits: usize, bytes: &[u8]) -> Result<(Zeroizing<Vec<u8>>, Vec<u8>), NotMaterial> {
    let key = KeyPair::from_pkcs8(bytes).map_err(|_| NotMaterial)?;
    if key.public_modulus_len() * 8 != bits {
        return Err(NotMaterial);
    }
    let spki: PublicKeyX509Der<'_> = key.public_key().as_der().map_err(|_| NotMaterial)?;
    Ok((pkcs8(&key).ok_or(NotMaterial)?, spki.as_ref().to_vec()))
}

fn pkcs8(key: &KeyPair) -> Option<Zeroizing<Vec<u8>>> {
    let der: Pkcs8V1Der<'_> = key.as_der().ok()?;
    Some(Zeroizing::new(der.as_ref().to_vec()))
}

pub(super) fn oaep(algorithm: EncryptionAlgorithm) -> Option<&'static OaepAlgorithm> {
    match algorithm {
        EncryptionAlgorithm::SymmetricDefault => None,
        EncryptionAlgorithm::RsaesOaepSha1 => Some(&OAEP_SHA1_MGF1SHA1),
        EncryptionAlgorithm::RsaesOaepSha256 => Some(&OAEP_SHA256_MGF1SHA256),
    }
}
