//! ML-DSA keys. AWS-LC signs messages; signing the representative of a message that was computed
//! elsewhere, which its Rust interface lacks, is done by `ml-dsa`.
//!
//! A key is stored as its 32-byte seed in PKCS#8.

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::signature::{
    KeyPair, ML_DSA_44_SIGNING, ML_DSA_65_SIGNING, ML_DSA_87_SIGNING, ParsedPublicKey, PqdsaKeyPair,
    PqdsaSigningAlgorithm,
};
use ml_dsa::{
    EncodedVerifyingKey, MlDsa44, MlDsa65, MlDsa87, MlDsaParams, Signature, SigningKey, VerifyingKey,
};
use zeroize::Zeroizing;

use super::NotMaterial;
use super::message::Signed;
use crate::kms::spec::KeySpec;

/// Bytes of a seed.
const SEED_LEN: usize = 32;

/// An ML-DSA key, ready for use.
pub(super) struct LatticeKey {
    private: PqdsaKeyPair,
    public: ParsedPublicKey,
    set: ParameterSet,
}

/// The parameters of a spec.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ParameterSet {
    MlDsa44,
    MlDsa65,
    MlDsa87,
}

impl ParameterSet {
    /// `None` for a spec that is not ML-DSA.
    pub(super) fn of(spec: KeySpec) -> Option<Self> {
        match spec {
            KeySpec::MlDsa44 => Some(Self::MlDsa44),
            KeySpec::MlDsa65 => Some(Self::MlDsa65),
            KeySpec::MlDsa87 => Some(Self::MlDsa87),
            _ => None,
        }
    }

    fn signing(self) -> &'static PqdsaSigningAlgorithm {
        match self {
            Self::MlDsa44 => &ML_DSA_44_SIGNING,
            Self::MlDsa65 => &ML_DSA_65_SIGNING,
            Self::MlDsa87 => &ML_DSA_87_SIGNING,
        }
    }

    fn verifying(self) -> &'static aws_lc_rs::signature::PqdsaVerificationAlgorithm {
        match self {
            Self::MlDsa44 => &aws_lc_rs::signature::ML_DSA_44,
            Self::MlDsa65 => &aws_lc_rs::signature::ML_DSA_65,
            Self::MlDsa87 => &aws_lc_rs::signature::ML_DSA_87,
        }
    }
}

/// A fresh private key as PKCS#8.
pub(super) fn generate(set: ParameterSet) -> Option<Zeroizing<Vec<u8>>> {
    PqdsaKeyPair::generate(set.signing()).ok().as_ref().and_then(pkcs8)
}

impl LatticeKey {
    pub(super) fn parse(set: ParameterSet, pkcs8: &[u8]) -> Result<Self, NotMaterial> {
        let private = PqdsaKeyPair::from_pkcs8(set.signing(), pkcs8).map_err(|_| NotMaterial)?;
        let raw = private.public_key().as_ref();
        let public = ParsedPublicKey::new(set.verifying(), raw).map_err(|_| NotMaterial)?;
        Ok(Self { private, public, set })
    }

    pub(super) fn sign(&self, signed: Signed<'_>) -> Option<Vec<u8>> {
        match signed {
            Signed::Message(message) => {
                let mut signature = vec![0; self.private.algorithm().signature_len()];
                self.private.sign(message, &mut signature).ok()?;
                Some(signature)
            }
            Signed::Representative(mu) => {
                let seed = seed(&self.private)?;
                match self.set {
                    ParameterSet::MlDsa44 => sign_mu::<MlDsa44>(&seed, mu),
                    ParameterSet::MlDsa65 => sign_mu::<MlDsa65>(&seed, mu),
                    ParameterSet::MlDsa87 => sign_mu::<MlDsa87>(&seed, mu),
                }
            }
            Signed::Digest(_) => None,
        }
    }

    pub(super) fn verifies(&self, signed: Signed<'_>, signature: &[u8]) -> Option<()> {
        match signed {
            Signed::Message(message) => self.public.verify_sig(message, signature).ok(),
            Signed::Representative(mu) => {
                let key = self.private.public_key().as_ref();
                let valid = match self.set {
                    ParameterSet::MlDsa44 => verify_mu::<MlDsa44>(key, mu, signature),
                    ParameterSet::MlDsa65 => verify_mu::<MlDsa65>(key, mu, signature),
                    ParameterSet::MlDsa87 => verify_mu::<MlDsa87>(key, mu, signature),
                };
                valid?.then_some(())
            }
            Signed::Digest(_) => None,
        }
    }
}

/// A private key in the one form that it is stored in, and its public half as SPKI. A key whose
/// seed is not known has no such form.
pub(super) fn canonical(
    set: ParameterSet,
    bytes: &[u8],
) -> Result<(Zeroizing<Vec<u8>>, Vec<u8>), NotMaterial> {
    let key = PqdsaKeyPair::from_pkcs8(set.signing(), bytes).map_err(|_| NotMaterial)?;
    let spki: PublicKeyX509Der<'_> = key.public_key().as_der().map_err(|_| NotMaterial)?;
    Ok((pkcs8(&key).ok_or(NotMaterial)?, spki.as_ref().to_vec()))
}

fn pkcs8(key: &PqdsaKeyPair) -> Option<Zeroizing<Vec<u8>>> {
    Some(Zeroizing::new(key.to_pkcs8v1().ok()?.as_ref().to_vec()))
}

/// The seed is what PKCS#8 ends with: `[0] IMPLICIT OCTET STRING (SIZE (32))`.
fn seed(key: &PqdsaKeyPair) -> Option<Zeroizing<[u8; SEED_LEN]>> {
    const TAG: [u8; 2] = [0x80, SEED_LEN as u8];
    let pkcs8 = pkcs8(key)?;
    let (head, seed) = pkcs8.split_last_chunk::<SEED_LEN>()?;
    head.ends_with(&TAG).then(|| Zeroizing::new(*seed))
}

fn sign_mu<P: MlDsaParams>(seed: &[u8; SEED_LEN], mu: &[u8; 64]) -> Option<Vec<u8>> {
    let key = SigningKey::<P>::from_seed(&(*seed).into());
    let signature = key.expanded_key().sign_mu_randomized(&(*mu).into(), &mut getrandom::SysRng).ok()?;
    Some(signature.encode().to_vec())
}

fn verify_mu<P: MlDsaParams>(public: &[u8], mu: &[u8; 64], signature: &[u8]) -> Option<bool> {
    let public = EncodedVerifyingKey::<P>::try_from(public).ok()?;
    let signature = Signature::<P>::try_from(signature).ok()?;
    Some(VerifyingKey::<P>::decode(&public).verify_mu(&(*mu).into(), &signature))
}
