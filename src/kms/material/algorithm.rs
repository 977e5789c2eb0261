//! The algorithms of the API, and which keys each is for.

use crate::kms::named::named;
use crate::kms::spec::{KeySpec, KeyUsage};

named! {
    /// How Encrypt and Decrypt do it.
    EncryptionAlgorithm, "encryption algorithm" {
        /// AES-256-GCM-SIV, with the encryption context authenticated.
        SymmetricDefault = "SYMMETRIC_DEFAULT",
        /// RSA-OAEP with SHA-1 and MGF1 with SHA-1.
        RsaesOaepSha1 = "RSAES_OAEP_SHA_1",
        /// RSA-OAEP with SHA-256 and MGF1 with SHA-256.
        RsaesOaepSha256 = "RSAES_OAEP_SHA_256",
    }
}

named! {
    /// How Sign and Verify do it.
    SigningAlgorithm, "signing algorithm" {
        /// RSASSA-PSS with SHA-256 and a salt as long as the digest.
        RsassaPssSha256 = "RSASSA_PSS_SHA_256",
        /// RSASSA-PSS with SHA-384.
        RsassaPssSha384 = "RSASSA_PSS_SHA_384",
        /// RSASSA-PSS with SHA-512.
        RsassaPssSha512 = "RSASSA_PSS_SHA_512",
        /// RSASSA-PKCS1-v1_5 with SHA-256.
        RsassaPkcs1Sha256 = "RSASSA_PKCS1_V1_5_SHA_256",
        /// RSASSA-PKCS1-v1_5 with SHA-384.
        RsassaPkcs1Sha384 = "RSASSA_PKCS1_V1_5_SHA_384",
        /// RSASSA-PKCS1-v1_5 with SHA-512.
        RsassaPkcs1Sha512 = "RSASSA_PKCS1_V1_5_SHA_512",
        /// ECDSA with SHA-256; DER.
        EcdsaSha256 = "ECDSA_SHA_256",
        /// ECDSA with SHA-384; DER.
        EcdsaSha384 = "ECDSA_SHA_384",
        /// ECDSA with SHA-512; DER.
        EcdsaSha512 = "ECDSA_SHA_512",
        /// Ed25519 of a message.
        Ed25519Sha512 = "ED25519_SHA_512",
        /// Ed25519ph of a message's SHA-512.
        Ed25519PhSha512 = "ED25519_PH_SHA_512",
        /// ML-DSA of FIPS 204.
        MlDsaShake256 = "ML_DSA_SHAKE_256",
    }
}

named! {
    /// How GenerateMac and VerifyMac do it.
    MacAlgorithm, "MAC algorithm" {
        /// HMAC with SHA-224.
        HmacSha224 = "HMAC_SHA_224",
        /// HMAC with SHA-256.
        HmacSha256 = "HMAC_SHA_256",
        /// HMAC with SHA-384.
        HmacSha384 = "HMAC_SHA_384",
        /// HMAC with SHA-512.
        HmacSha512 = "HMAC_SHA_512",
    }
}

named! {
    /// What Sign and Verify are given.
    MessageType, "message type" {
        /// The message itself, of 1 to 4096 bytes.
        Raw = "RAW",
        /// The digest of the message, by the hash of the algorithm.
        Digest = "DIGEST",
        /// ML-DSA's 64-byte representative of the message, called μ in FIPS 204.
        ExternalMu = "EXTERNAL_MU",
    }
}

impl KeySpec {
    /// What a key of this spec may be used for, the default first. A key has one use for life.
    pub fn usages(self) -> &'static [KeyUsage] {
        match self {
            Self::SymmetricDefault => &[KeyUsage::EncryptDecrypt],
            Self::Rsa2048 | Self::Rsa3072 | Self::Rsa4096 => {
                &[KeyUsage::EncryptDecrypt, KeyUsage::SignVerify]
            }
            Self::Hmac224 | Self::Hmac256 | Self::Hmac384 | Self::Hmac512 => &[KeyUsage::GenerateVerifyMac],
            _ => &[KeyUsage::SignVerify],
        }
    }

    /// Whether keys of this spec have a public half.
    pub fn is_asymmetric(self) -> bool {
        self.encryption_algorithms() != [EncryptionAlgorithm::SymmetricDefault]
            && self.mac_algorithms().is_empty()
    }

    /// Whether GenerateDataKeyPair makes pairs of this spec.
    pub fn is_of_data_key_pairs(self) -> bool {
        self.is_asymmetric() && !matches!(self, Self::MlDsa44 | Self::MlDsa65 | Self::MlDsa87)
    }

    /// How keys of this spec encrypt, if that is what they are for.
    pub fn encryption_algorithms(self) -> &'static [EncryptionAlgorithm] {
        match self {
            Self::SymmetricDefault => &[EncryptionAlgorithm::SymmetricDefault],
            Self::Rsa2048 | Self::Rsa3072 | Self::Rsa4096 => {
                &[EncryptionAlgorithm::RsaesOaepSha1, EncryptionAlgorithm::RsaesOaepSha256]
            }
            _ => &[],
        }
    }

    /// How keys of this spec sign, if that is what they are for.
    pub fn signing_algorithms(self) -> &'static [SigningAlgorithm] {
        use SigningAlgorithm as S;
        match self {
            Self::Rsa2048 | Self::Rsa3072 | Self::Rsa4096 => &[
                S::RsassaPkcs1Sha256,
                S::RsassaPkcs1Sha384,
                S::RsassaPkcs1Sha512,
                S::RsassaPssSha256,
                S::RsassaPssSha384,
                S::RsassaPssSha512,
            ],
            Self::EccNistP256 | Self::EccSecgP256k1 => &[S::EcdsaSha256],
            Self::EccNistP384 => &[S::EcdsaSha384],
            Self::EccNistP521 => &[S::EcdsaSha512],
            Self::EccNistEdwards25519 => &[S::Ed25519Sha512, S::Ed25519PhSha512],
            Self::MlDsa44 | Self::MlDsa65 | Self::MlDsa87 => &[S::MlDsaShake256],
            _ => &[],
        }
    }

    /// How keys of this spec authenticate messages.
    pub fn mac_algorithms(self) -> &'static [MacAlgorithm] {
        match self {
            Self::Hmac224 => &[MacAlgorithm::HmacSha224],
            Self::Hmac256 => &[MacAlgorithm::HmacSha256],
            Self::Hmac384 => &[MacAlgorithm::HmacSha384],
            Self::Hmac512 => &[MacAlgorithm::HmacSha512],
            _ => &[],
        }
    }
}

impl SigningAlgorithm {
    /// The message types that it signs.
    pub fn message_types(self) -> &'static [MessageType] {
        match self {
            Self::Ed25519Sha512 => &[MessageType::Raw],
            Self::Ed25519PhSha512 => &[MessageType::Digest],
            Self::MlDsaShake256 => &[MessageType::Raw, MessageType::ExternalMu],
            _ => &[MessageType::Raw, MessageType::Digest],
        }
    }

    /// Length in bytes of what stands for the message, where not the message itself is given:
    /// the digest or, for ML-DSA, the representative.
    pub fn digest_len(self) -> usize {
        match self {
            Self::RsassaPssSha256 | Self::RsassaPkcs1Sha256 | Self::EcdsaSha256 => 32,
            Self::RsassaPssSha384 | Self::RsassaPkcs1Sha384 | Self::EcdsaSha384 => 48,
            _ => 64,
        }
    }
}

impl EncryptionAlgorithm {
    /// Bytes that RSA-OAEP adds; `None` for what is not RSA-OAEP.
    pub(super) fn oaep_overhead(self) -> Option<usize> {
        match self {
            Self::SymmetricDefault => None,
            Self::RsaesOaepSha1 => Some(2 * 20 + 2),
            Self::RsaesOaepSha256 => Some(2 * 32 + 2),
        }
    }
}
