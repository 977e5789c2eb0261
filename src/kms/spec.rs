//! What kind of key a key is: its spec, its use, and where its material came from.
//!
//! The names are those of the AWS KMS API; the order of the variants is part of the key store's
//! format.

use super::named::named;

named! {
    /// The cryptography that a key is made for.
    KeySpec, "key spec" {
        /// AES-256-GCM-SIV.
        SymmetricDefault = "SYMMETRIC_DEFAULT",
        /// RSA with a modulus of 2048 bits.
        Rsa2048 = "RSA_2048",
        /// RSA with a modulus of 3072 bits.
        Rsa3072 = "RSA_3072",
        /// RSA with a modulus of 4096 bits.
        Rsa4096 = "RSA_4096",
        /// NIST P-256.
        EccNistP256 = "ECC_NIST_P256",
        /// NIST P-384.
        EccNistP384 = "ECC_NIST_P384",
        /// NIST P-521.
        EccNistP521 = "ECC_NIST_P521",
        /// secp256k1.
        EccSecgP256k1 = "ECC_SECG_P256K1",
        /// Ed25519.
        EccNistEdwards25519 = "ECC_NIST_EDWARDS25519",
        /// HMAC with SHA-224.
        Hmac224 = "HMAC_224",
        /// HMAC with SHA-256.
        Hmac256 = "HMAC_256",
        /// HMAC with SHA-384.
        Hmac384 = "HMAC_384",
        /// HMAC with SHA-512.
        Hmac512 = "HMAC_512",
        /// ML-DSA-44 of FIPS 204.
        MlDsa44 = "ML_DSA_44",
        /// ML-DSA-65 of FIPS 204.
        MlDsa65 = "ML_DSA_65",
        /// ML-DSA-87 of FIPS 204.
        MlDsa87 = "ML_DSA_87",
    }
}

named! {
    /// What a key may be used for.
    KeyUsage, "key usage" {
        /// Encrypt, Decrypt, ReEncrypt and data keys.
        EncryptDecrypt = "ENCRYPT_DECRYPT",
        /// Sign and Verify.
        SignVerify = "SIGN_VERIFY",
        /// GenerateMac and VerifyMac.
        GenerateVerifyMac = "GENERATE_VERIFY_MAC",
    }
}

named! {
    /// Where a key's material comes from.
    Origin, "key origin" {
        /// The service made it.
        AwsKms = "AWS_KMS",
        /// It was imported, or is to be.
        External = "EXTERNAL",
        /// The service made one half, and a key manager elsewhere has the other.
        ExternalKeyStore = "EXTERNAL_KEY_STORE",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_read_back() {
        for spec in KeySpec::ALL {
            assert_eq!(spec.name().parse(), Ok(*spec));
            assert_eq!(
                serde_json::from_value::<KeySpec>(serde_json::to_value(spec).unwrap()).unwrap(),
                *spec
            );
            let config = bincode::config::standard();
            let stored = bincode::serde::encode_to_vec(spec, config).unwrap();
            assert_eq!(stored, [*spec as u8]);
            assert_eq!(bincode::serde::decode_from_slice::<KeySpec, _>(&stored, config).unwrap().0, *spec);
        }
        assert!("SM2".parse::<KeySpec>().is_err());
    }
}
