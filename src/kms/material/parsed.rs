//! Material of any kind, parsed once and ready for use from any thread.

use zeroize::Zeroizing;

use super::algorithm::{EncryptionAlgorithm, MacAlgorithm, SigningAlgorithm};
use super::curve::{self, CurveKey};
use super::edwards::{self, EdwardsKey};
use super::lattice::{self, LatticeKey, ParameterSet};
use super::mac::{self, MacKey};
use super::message::Signed;
use super::{NotMaterial, failed, rsa};
use crate::kms::error::{ErrorKind, KmsError};
use crate::kms::spec::{KeySpec, KeyUsage};
use crate::secret::KEY_LEN;

/// Material ready for use.
pub(in crate::kms) struct Parsed {
    spec: KeySpec,
    kind: Kind,
    /// SubjectPublicKeyInfo, empty where there is no public half.
    public: Vec<u8>,
}

enum Kind {
    /// Used as it is stored.
    Symmetric,
    Mac(Box<MacKey>),
    RsaEncrypting(rsa::Encrypting),
    RsaSigning(rsa::Signing),
    Curve(CurveKey),
    Edwards(EdwardsKey),
    Lattice(LatticeKey),
}

/// Fresh material of `spec`, as it is stored. Takes up to seconds for RSA.
///
/// # Errors
/// Internal.
pub(in crate::kms) fn generate(spec: KeySpec) -> Result<Zeroizing<Vec<u8>>, KmsError> {
    let made = if spec == KeySpec::SymmetricDefault {
        return random(KEY_LEN);
    } else if let Some(algorithm) = spec.mac_algorithms().first() {
        return random(mac::len(*algorithm));
    } else if let Some(bits) = rsa::bits(spec) {
        return rsa::generate(bits);
    } else if let Some(curve) = curve::curve(spec) {
        curve::generate(curve)
    } else if let Some(set) = ParameterSet::of(spec) {
        lattice::generate(set)
    } else {
        edwards::generate()
    };
    made.ok_or_else(|| failed("make a key"))
}

impl Parsed {
    /// Parses stored material, or material that comes from elsewhere.
    ///
    /// # Errors
    /// [`NotMaterial`] when the bytes are of another spec, or no key at all.
    pub(in crate::kms) fn new(spec: KeySpec, usage: KeyUsage, bytes: &[u8]) -> Result<Self, NotMaterial> {
        let kind = if let Some(algorithm) = spec.mac_algorithms().first() {
            Kind::Mac(Box::new(MacKey::parse(*algorithm, bytes)?))
        } else if let Some(bits) = rsa::bits(spec) {
            match usage {
                KeyUsage::EncryptDecrypt => Kind::RsaEncrypting(rsa::Encrypting::parse(bits, bytes)?),
                _ => Kind::RsaSigning(rsa::Signing::parse(bits, bytes)?),
            }
        } else if let Some(curve) = curve::curve(spec) {
            Kind::Curve(CurveKey::parse(curve, bytes)?)
        } else if let Some(set) = ParameterSet::of(spec) {
            Kind::Lattice(LatticeKey::parse(set, bytes)?)
        } else if spec == KeySpec::EccNistEdwards25519 {
            Kind::Edwards(EdwardsKey::parse(bytes)?)
        } else {
            Kind::Symmetric
        };
        Ok(Self { spec, kind, public: Self::canonical(spec, bytes)?.1 })
    }

    /// The one form in which material of `spec` is stored, and its public half as SPKI, which is
    /// empty where there is none.
    ///
    /// # Errors
    /// [`NotMaterial`].
    pub(in crate::kms) fn canonical(
        spec: KeySpec,
        bytes: &[u8],
    ) -> Result<(Zeroizing<Vec<u8>>, Vec<u8>), NotMaterial> {
        if let Some(bits) = rsa::bits(spec) {
            rsa::canonical(bits, bytes)
        } else if let Some(curve) = curve::curve(spec) {
            curve::canonical(curve, bytes)
        } else if let Some(set) = ParameterSet::of(spec) {
            lattice::canonical(set, bytes)
        } else if spec == KeySpec::EccNistEdwards25519 {
            edwards::canonical(bytes)
        } else {
            let len = spec.mac_algorithms().first().map_or(KEY_LEN, |algorithm| mac::len(*algorithm));
            if bytes.len() != len {
                return Err(NotMaterial);
            }
            Ok((Zeroizing::new(bytes.to_vec()), Vec::new()))
        }
    }

    /// The public half as SPKI, where there is one.
    pub(in crate::kms) fn public(&self) -> Option<&[u8]> {
        Some(&*self.public).filter(|spki| !spki.is_empty())
    }

    /// RSA-OAEP. Takes tens of microseconds.
    ///
    /// # Errors
    /// InvalidKeyUsage for an algorithm of other keys; Validation for a plaintext that is too long.
    pub(in crate::kms) fn encrypt(
        &self,
        algorithm: EncryptionAlgorithm,
        plaintext: &[u8],
    ) -> Result<Vec<u8>, KmsError> {
        let Kind::RsaEncrypting(key) = &self.kind else { return Err(self.incompatible(algorithm.name())) };
        if algorithm.oaep_overhead().is_none() {
            return Err(self.incompatible(algorithm.name()));
        }
        let most = key.most(algorithm);
        if plaintext.len() > most {
            let spec = self.spec;
            return Err(KmsError::validation(format!(
                "Algorithm {algorithm} and key spec {spec} cannot encrypt data larger than {most} bytes."
            )));
        }
        key.encrypt(algorithm, plaintext)
    }

    /// Opens what [`Parsed::encrypt`] made. Takes about a millisecond.
    ///
    /// # Errors
    /// InvalidKeyUsage for an algorithm of other keys; InvalidCiphertext.
    pub(in crate::kms) fn decrypt(
        &self,
        algorithm: EncryptionAlgorithm,
        ciphertext: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, KmsError> {
        let Kind::RsaEncrypting(key) = &self.kind else { return Err(self.incompatible(algorithm.name())) };
        if algorithm.oaep_overhead().is_none() {
            return Err(self.incompatible(algorithm.name()));
        }
        let opened = key.decrypt(algorithm, ciphertext);
        opened.ok_or_else(|| {
            KmsError::new(
                ErrorKind::InvalidCiphertext,
                "the ciphertext was not made for this key with this algorithm",
            )
        })
    }

    /// Signs.
    ///
    /// # Errors
    /// InvalidKeyUsage for an algorithm of other keys; Internal.
    pub(in crate::kms) fn sign(
        &self,
        algorithm: SigningAlgorithm,
        signed: Signed<'_>,
    ) -> Result<Vec<u8>, KmsError> {
        self.check_signing(algorithm)?;
        let signature = match &self.kind {
            Kind::RsaSigning(key) => key.sign(algorithm, signed),
            Kind::Curve(key) => key.sign(algorithm, signed),
            Kind::Edwards(key) => key.sign(signed),
            Kind::Lattice(key) => key.sign(signed),
            _ => return Err(self.incompatible(algorithm.name())),
        };
        signature.ok_or_else(|| failed("sign"))
    }

    /// Whether `signature` is this key's.
    ///
    /// # Errors
    /// InvalidKeyUsage for an algorithm of other keys.
    pub(in crate::kms) fn verifies(
        &self,
        algorithm: SigningAlgorithm,
        signed: Signed<'_>,
        signature: &[u8],
    ) -> Result<bool, KmsError> {
        self.check_signing(algorithm)?;
        let valid = match &self.kind {
            Kind::RsaSigning(key) => key.verifies(algorithm, signed, signature),
            Kind::Curve(key) => key.verifies(algorithm, signed, signature),
            Kind::Edwards(key) => key.verifies(signed, signature),
            Kind::Lattice(key) => key.verifies(signed, signature),
            _ => return Err(self.incompatible(algorithm.name())),
        };
        Ok(valid.is_some())
    }

    /// Authenticates a message.
    ///
    /// # Errors
    /// InvalidKeyUsage for an algorithm of other keys.
    pub(in crate::kms) fn mac(&self, algorithm: MacAlgorithm, message: &[u8]) -> Result<Vec<u8>, KmsError> {
        self.mac_key(algorithm).map(|key| key.authenticate(message))
    }

    /// Whether `mac` is this key's, in constant time.
    ///
    /// # Errors
    /// InvalidKeyUsage for an algorithm of other keys.
    pub(in crate::kms) fn verifies_mac(
        &self,
        algorithm: MacAlgorithm,
        message: &[u8],
        mac: &[u8],
    ) -> Result<bool, KmsError> {
        self.mac_key(algorithm).map(|key| key.verifies(message, mac))
    }

    fn mac_key(&self, algorithm: MacAlgorithm) -> Result<&MacKey, KmsError> {
        match &self.kind {
            Kind::Mac(key) if self.spec.mac_algorithms().contains(&algorithm) => Ok(key),
            _ => Err(self.incompatible(algorithm.name())),
        }
    }

    fn check_signing(&self, algorithm: SigningAlgorithm) -> Result<(), KmsError> {
        if self.spec.signing_algorithms().contains(&algorithm) {
            return Ok(());
        }
        Err(self.incompatible(algorithm.name()))
    }

    fn incompatible(&self, algorithm: &str) -> KmsError {
        let message = format!("Algorithm {algorithm} is incompatible with key spec {}.", self.spec);
        KmsError::new(ErrorKind::InvalidKeyUsage, message)
    }
}

impl std::fmt::Debug for Parsed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parsed").field("spec", &self.spec).finish_non_exhaustive()
    }
}

fn random(len: usize) -> Result<Zeroizing<Vec<u8>>, KmsError> {
    let mut bytes = Zeroizing::new(vec![0; len]);
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}
