//! Ed25519 keys. AWS-LC signs messages; Ed25519ph, which its Rust interface lacks, is done by
//! `ed25519-dalek`.

use aws_lc_rs::encoding::{AsBigEndian, AsDer, Curve25519SeedBin, PublicKeyX509Der};
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, ParsedPublicKey};
use ed25519_dalek::hazmat::{ExpandedSecretKey, raw_sign_prehashed};
use ed25519_dalek::{Sha512, Signature, VerifyingKey};
use sha2::digest::typenum::U64;
use sha2::digest::{FixedOutput, HashMarker, Output, OutputSizeUser, Update};
use zeroize::Zeroizing;

use super::NotMaterial;
use super::message::Signed;

/// An Ed25519 key, ready for use.
pub(super) struct EdwardsKey {
    private: Ed25519KeyPair,
    public: ParsedPublicKey,
    for_digests: VerifyingKey,
}

/// A fresh private key as PKCS#8.
pub(super) fn generate() -> Option<Zeroizing<Vec<u8>>> {
    Ed25519KeyPair::generate().ok().as_ref().and_then(pkcs8)
}

impl EdwardsKey {
    pub(super) fn parse(pkcs8: &[u8]) -> Result<Self, NotMaterial> {
        let private = Ed25519KeyPair::from_pkcs8(pkcs8).map_err(|_| NotMaterial)?;
        let raw = private.public_key().as_ref();
        let public = ParsedPublicKey::new(&ED25519, raw).map_err(|_| NotMaterial)?;
        let raw: &[u8; 32] = raw.try_into().map_err(|_| NotMaterial)?;
        let for_digests = VerifyingKey::from_bytes(raw).map_err(|_| NotMaterial)?;
        Ok(Self { private, public, for_digests })
    }

    pub(super) fn sign(&self, signed: Signed<'_>) -> Option<Vec<u8>> {
        match signed {
            Signed::Message(message) => Some(self.private.try_sign(message).ok()?.as_ref().to_vec()),
            Signed::Digest(digest) => {
                let seed: Curve25519SeedBin<'_> = self.private.seed().ok()?.as_be_bytes().ok()?;
                let seed: &[u8; 32] = seed.as_ref().try_into().ok()?;
                let key = ExpandedSecretKey::from(seed);
                let digest = Digested::of(digest)?;
                let signature = raw_sign_prehashed::<Sha512, _>(&key, digest, &self.for_digests, None);
                Some(signature.ok()?.to_bytes().to_vec())
            }
            Signed::Representative(_) => None,
        }
    }

    pub(super) fn verifies(&self, signed: Signed<'_>, signature: &[u8]) -> Option<()> {
        match signed {
            Signed::Message(message) => self.public.verify_sig(message, signature).ok(),
            Signed::Digest(digest) => {
                let signature = Signature::from_slice(signature).ok()?;
                self.for_digests.verify_prehashed(Digested::of(digest)?, None, &signature).ok()
            }
            Signed::Representative(_) => None,
        }
    }
}

/// A private key in the one form that it is stored in, and its public half as SPKI.
pub(super) fn canonical(bytes: &[u8]) -> Result<(Zeroizing<Vec<u8>>, Vec<u8>), NotMaterial> {
    let key = Ed25519KeyPair::from_pkcs8(bytes).map_err(|_| NotMaterial)?;
    let spki: PublicKeyX509Der<'_> = key.public_key().as_der().map_err(|_| NotMaterial)?;
    Ok((pkcs8(&key).ok_or(NotMaterial)?, spki.as_ref().to_vec()))
}

fn pkcs8(key: &Ed25519KeyPair) -> Option<Zeroizing<Vec<u8>>> {
    Some(Zeroizing::new(key.to_pkcs8v1().ok()?.as_ref().to_vec()))
}

/// A SHA-512 that was computed elsewhere, in the shape of a hash that has been fed already: the
/// only shape in which `ed25519-dalek` takes one.
#[derive(Clone)]
struct Digested([u8; 64]);

impl Digested {
    fn of(digest: &[u8]) -> Option<Self> {
        digest.try_into().ok().map(Self)
    }
}

impl Default for Digested {
    fn default() -> Self {
        Self([0; 64])
    }
}

impl OutputSizeUser for Digested {
    type OutputSize = U64;
}

impl HashMarker for Digested {}

impl Update for Digested {
    /// Nobody feeds it: it is handed over finished.
    fn update(&mut self, _data: &[u8]) {}
}

impl FixedOutput for Digested {
    fn finalize_into(self, out: &mut Output<Self>) {
        out.copy_from_slice(&self.0);
    }
}
