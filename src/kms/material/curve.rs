//! ECDSA keys: the NIST curves and secp256k1.

use aws_lc_rs::digest::{self, Digest};
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{self as sig, EcdsaKeyPair, EcdsaSigningAlgorithm, KeyPair, ParsedPublicKey};
use zeroize::Zeroizing;

use super::NotMaterial;
use super::algorithm::SigningAlgorithm;
use super::message::Signed;
use crate::kms::spec::KeySpec;

/// An ECDSA key, ready for use.
pub(super) struct CurveKey {
    private: EcdsaKeyPair,
    public: ParsedPublicKey,
}

/// The curve and hash of a spec; `None` for a spec that is not ECDSA.
pub(super) fn curve(spec: KeySpec) -> Option<&'static EcdsaSigningAlgorithm> {
    match spec {
        KeySpec::EccNistP256 => Some(&sig::ECDSA_P256_SHA256_ASN1_SIGNING),
        KeySpec::EccNistP384 => Some(&sig::ECDSA_P384_SHA384_ASN1_SIGNING),
        KeySpec::EccNistP521 => Some(&sig::ECDSA_P521_SHA512_ASN1_SIGNING),
        KeySpec::EccSecgP256k1 => Some(&sig::ECDSA_P256K1_SHA256_ASN1_SIGNING),
        _ => None,
    }
}

/// A fresh private key as PKCS#8.
pub(super) fn generate(curve: &'static EcdsaSigningAlgorithm) -> Option<Zeroizing<Vec<u8>>> {
    EcdsaKeyPair::generate(curve).ok().as_ref().and_then(pkcs8)
}

impl CurveKey {
    pub(super) fn parse(curve: &'static EcdsaSigningAlgorithm, pkcs8: &[u8]) -> Result<Self, NotMaterial> {
        let private = EcdsaKeyPair::from_pkcs8(curve, pkcs8).map_err(|_| NotMaterial)?;
        // A signing algorithm derefs to the one that verifies.
        let public =
            ParsedPublicKey::new(&**curve, private.public_key().as_ref()).map_err(|_| NotMaterial)?;
        Ok(Self { private, public })
    }

    pub(super) fn sign(&self, algorithm: SigningAlgorithm, signed: Signed<'_>) -> Option<Vec<u8>> {
        let signature = match signed {
            Signed::Message(message) => self.private.sign(&SystemRandom::new(), message),
            Signed::Digest(digest) => {
                let digest = Digest::import_less_safe(digest, digest_algorithm(algorithm)?).ok()?;
                self.private.sign_digest(&digest)
            }
            Signed::Representative(_) => return None,
        };
        signature.ok().map(|signature| signature.as_ref().to_vec())
    }

    pub(super) fn verifies(
        &self,
        algorithm: SigningAlgorithm,
        signed: Signed<'_>,
        signature: &[u8],
    ) -> Option<()> {
        verify(&self.public, algorithm, signed, signature)
    }
}

/// A private key in the one form that it is stored in, and its public half as SPKI.
pub(super) fn canonical(
    curve: &'static EcdsaSigningAlgorithm,
    bytes: &[u8],
) -> Result<(Zeroizing<Vec<u8>>, Vec<u8>), NotMaterial> {
    let key = EcdsaKeyPair::from_pkcs8(curve, bytes).map_err(|_| NotMaterial)?;
    let spki: PublicKeyX509Der<'_> = key.public_key().as_der().map_err(|_| NotMaterial)?;
    Ok((pkcs8(&key).ok_or(NotMaterial)?, spki.as_ref().to_vec()))
}

fn pkcs8(key: &EcdsaKeyPair) -> Option<Zeroizing<Vec<u8>>> {
    Some(Zeroizing::new(key.to_pkcs8v1().ok()?.as_ref().to_vec()))
}

/// Verifies with a key that was parsed for `algorithm`.
pub(super) fn verify(
    key: &ParsedPublicKey,
    algorithm: SigningAlgorithm,
    signed: Signed<'_>,
    signature: &[u8],
) -> Option<()> {
    match signed {
        Signed::Message(message) => key.verify_sig(message, signature).ok(),
        Signed::Digest(digest) => {
            let digest = Digest::import_less_safe(digest, digest_algorithm(algorithm)?).ok()?;
            key.verify_digest_sig(&digest, signature).ok()
        }
        Signed::Representative(_) => None,
    }
}

/// The hash of an algorithm that signs digests.
pub(super) fn digest_algorithm(algorithm: SigningAlgorithm) -> Option<&'static digest::Algorithm> {
    use SigningAlgorithm as S;
    match algorithm {
        S::RsassaPssSha256 | S::RsassaPkcs1Sha256 | S::EcdsaSha256 => Some(&digest::SHA256),
        S::RsassaPssSha384 | S::RsassaPkcs1Sha384 | S::EcdsaSha384 => Some(&digest::SHA384),
        S::RsassaPssSha512 | S::RsassaPkcs1Sha512 | S::EcdsaSha512 => Some(&digest::SHA512),
        S::Ed25519Sha512 | S::Ed25519PhSha512 | S::MlDsaShake256 => None,
    }
}
