//! Every kind of key, with every algorithm and every type of message, and the standards' own
//! examples.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use data_encoding::HEXLOWER;

use super::message::Signed;
use super::*;
use crate::kms::error::ErrorKind;
use crate::kms::spec::{KeySpec, KeyUsage};

fn hex(text: &str) -> Vec<u8> {
    HEXLOWER.decode(text.as_bytes()).unwrap()
}

/// Material of every spec; RSA keys take long to make.
fn material(spec: KeySpec) -> &'static [u8] {
    static MADE: OnceLock<BTreeMap<KeySpec, Vec<u8>>> = OnceLock::new();
    &MADE.get_or_init(|| {
        let made = KeySpec::ALL.iter().map(|&spec| (spec, generate(spec).unwrap().to_vec()));
        made.collect()
    })[&spec]
}

fn parsed(spec: KeySpec, usage: KeyUsage) -> Parsed {
    Parsed::new(spec, usage, material(spec)).unwrap()
}

#[test]
fn every_spec_has_a_use_and_an_algorithm_for_it() {
    for &spec in KeySpec::ALL {
        for usage in spec.usages() {
            let count = match usage {
                KeyUsage::EncryptDecrypt => spec.encryption_algorithms().len(),
                KeyUsage::SignVerify => spec.signing_algorithms().len(),
                KeyUsage::GenerateVerifyMac => spec.mac_algorithms().len(),
            };
            assert!(count > 0, "{spec} for {usage}");
        }
        let both = spec.usages().len() == 2;
        assert_eq!(both, spec.name().starts_with("RSA"), "{spec}");
    }
    let pairs: Vec<_> = KeySpec::ALL.iter().filter(|spec| spec.is_of_data_key_pairs()).collect();
    assert_eq!(pairs.len(), 8, "{pairs:?}");
}

#[test]
fn what_one_key_signs_it_alone_verifies_for_every_algorithm_and_message_type() {
    for &spec in KeySpec::ALL {
        if !spec.usages().contains(&KeyUsage::SignVerify) {
            continue;
        }
        let key = parsed(spec, KeyUsage::SignVerify);
        let stranger = generate(spec).unwrap();
        let stranger = Parsed::new(spec, KeyUsage::SignVerify, &stranger).unwrap();
        for &algorithm in SigningAlgorithm::ALL {
            for &kind in algorithm.message_types() {
                let bytes = vec![7; if kind == MessageType::Raw { 4096 } else { algorithm.digest_len() }];
                let signed = Signed::new(algorithm, kind, &bytes).unwrap();
                let case = format!("{spec} {algorithm} {kind}");
                if !spec.signing_algorithms().contains(&algorithm) {
                    assert_eq!(key.sign(algorithm, signed).unwrap_err().kind(), ErrorKind::InvalidKeyUsage);
                    let verified = key.verifies(algorithm, signed, &[]);
                    assert_eq!(verified.unwrap_err().kind(), ErrorKind::InvalidKeyUsage, "{case}");
                    continue;
                }
                let signature = key.sign(algorithm, signed).unwrap();
                assert!(key.verifies(algorithm, signed, &signature).unwrap(), "{case}");
                assert!(!stranger.verifies(algorithm, signed, &signature).unwrap(), "{case}");
                let mut other = bytes.clone();
                other[0] ^= 1;
                let other = Signed::new(algorithm, kind, &other).unwrap();
                assert!(!key.verifies(algorithm, other, &signature).unwrap(), "{case}");
                let mut forged = signature.clone();
                *forged.last_mut().unwrap() ^= 1;
                assert!(!key.verifies(algorithm, signed, &forged).unwrap(), "{case}");
                assert!(!key.verifies(algorithm, signed, &[]).unwrap(), "{case}");
            }
        }
    }
}

#[test]
fn a_digest_is_signed_as_the_message_that_it_is_of() {
    use aws_lc_rs::digest::digest;
    let message = b"a message".as_slice();
    for &spec in KeySpec::ALL {
        for &algorithm in spec.signing_algorithms() {
            let Some(hash) = curve::digest_algorithm(algorithm) else { continue };
            let key = parsed(spec, KeyUsage::SignVerify);
            let digest = digest(hash, message);
            let raw = Signed::new(algorithm, MessageType::Raw, message).unwrap();
            let digested = Signed::new(algorithm, MessageType::Digest, digest.as_ref()).unwrap();
            let of_raw = key.sign(algorithm, raw).unwrap();
            let of_digest = key.sign(algorithm, digested).unwrap();
            assert!(key.verifies(algorithm, digested, &of_raw).unwrap(), "{spec} {algorithm}");
            assert!(key.verifies(algorithm, raw, &of_digest).unwrap(), "{spec} {algorithm}");
        }
    }
}

#[test]
fn message_types_and_lengths_that_an_algorithm_does_not_take_are_refused() {
    for &algorithm in SigningAlgorithm::ALL {
        for &kind in MessageType::ALL {
            for len in [0, 1, 31, 32, 33, 48, 64, 65, 4096, 4097] {
                let allowed = algorithm.message_types().contains(&kind)
                    && match kind {
                        MessageType::Raw => (1..=4096).contains(&len),
                        _ => len == algorithm.digest_len(),
                    };
                let made = Signed::new(algorithm, kind, &vec![0; len]).map(drop);
                assert_eq!(made.is_ok(), allowed, "{algorithm} {kind} {len}");
            }
        }
    }
}

#[test]
fn a_representative_is_signed_as_the_message_that_it_represents() {
    // Two independent implementations: AWS-LC signs messages, the other one representatives.
    fn mu<P: ml_dsa::MlDsaParams>(spki: &[u8], message: &[u8]) -> [u8; 64] {
        let raw = &spki[spki.len() - ml_dsa::EncodedVerifyingKey::<P>::default().len()..];
        let key = ml_dsa::VerifyingKey::<P>::decode(&raw.try_into().unwrap());
        let feed = |hash: &mut _| {
            sha3_update(hash, message);
            Ok(())
        };
        key.compute_mu(feed, &[]).unwrap().into()
    }
    fn sha3_update(hash: &mut impl sha2::digest::Update, message: &[u8]) {
        hash.update(message);
    }
    let algorithm = SigningAlgorithm::MlDsaShake256;
    let message = b"a message".as_slice();
    for spec in [KeySpec::MlDsa44, KeySpec::MlDsa65, KeySpec::MlDsa87] {
        let key = parsed(spec, KeyUsage::SignVerify);
        let spki = key.public().unwrap();
        let mu = match spec {
            KeySpec::MlDsa44 => mu::<ml_dsa::MlDsa44>(spki, message),
            KeySpec::MlDsa65 => mu::<ml_dsa::MlDsa65>(spki, message),
            _ => mu::<ml_dsa::MlDsa87>(spki, message),
        };
        let raw = Signed::new(algorithm, MessageType::Raw, message).unwrap();
        let represented = Signed::new(algorithm, MessageType::ExternalMu, &mu).unwrap();
        let of_raw = key.sign(algorithm, raw).unwrap();
        let of_mu = key.sign(algorithm, represented).unwrap();
        assert!(key.verifies(algorithm, represented, &of_raw).unwrap(), "{spec}");
        assert!(key.verifies(algorithm, raw, &of_mu).unwrap(), "{spec}");
    }
}

#[test]
fn rsa_encrypts_up_to_its_limit_and_for_its_own_key_alone() {
    let limits = [(KeySpec::Rsa2048, 214, 190), (KeySpec::Rsa3072, 342, 318), (KeySpec::Rsa4096, 470, 446)];
    for (spec, sha1, sha256) in limits {
        let key = parsed(spec, KeyUsage::EncryptDecrypt);
        let algorithms =
            [(EncryptionAlgorithm::RsaesOaepSha1, sha1), (EncryptionAlgorithm::RsaesOaepSha256, sha256)];
        for (algorithm, most) in algorithms {
            for len in [1, most] {
                let plaintext = vec![3; len];
                let ciphertext = key.encrypt(algorithm, &plaintext).unwrap();
                assert_eq!(*key.decrypt(algorithm, &ciphertext).unwrap(), plaintext);
                for (other, _) in algorithms.iter().filter(|(other, _)| *other != algorithm) {
                    let error = key.decrypt(*other, &ciphertext).unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::InvalidCiphertext);
                }
            }
            let error = key.encrypt(algorithm, &vec![3; most + 1]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Validation);
            assert!(error.message().contains(&format!("larger than {most} bytes")), "{error}");
            let error = key.decrypt(algorithm, &[1; 100]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidCiphertext);
        }
        let error = key.encrypt(EncryptionAlgorithm::SymmetricDefault, b"x").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidKeyUsage);
    }
}

#[test]
fn material_of_one_spec_is_not_taken_for_another() {
    for &spec in KeySpec::ALL {
        for &usage in spec.usages() {
            for &other in KeySpec::ALL {
                let taken = Parsed::new(spec, usage, material(other)).is_ok();
                // Any bytes are a symmetric key, if there are enough of them.
                let same = !spec.is_asymmetric() && material(spec).len() == material(other).len();
                assert_eq!(taken, spec == other || same, "{other} as {spec}");
            }
            assert!(Parsed::new(spec, usage, &[]).is_err());
        }
    }
}

#[test]
fn the_canonical_form_is_stable_and_shows_nothing() {
    for &spec in KeySpec::ALL {
        let (bytes, _) = Parsed::canonical(spec, material(spec)).unwrap();
        assert_eq!(Parsed::canonical(spec, &bytes).unwrap().0, bytes);
        assert_eq!(*bytes, material(spec), "{spec}: what is made is made in this form");
        let key = parsed(spec, spec.usages()[0]);
        assert_eq!(format!("{key:?}"), format!("Parsed {{ spec: {spec:?}, .. }}"));
        assert_eq!(key.public().is_some(), spec.is_asymmetric());
    }
}

#[test]
fn wrapped_material_unwraps_with_its_own_algorithm_alone() {
    let (pkcs8, spki) = WrappingKey::generate(KeySpec::Rsa2048).unwrap();
    let key = WrappingKey::parse(&pkcs8).unwrap();
    for &algorithm in WrappingAlgorithm::ALL {
        for len in [1, 31, 32, 33, 64] {
            let secret = vec![9; len];
            let wrapped = wrap_for_import(algorithm, &spki, &secret).unwrap();
            assert_eq!(*key.unwrap(algorithm, &wrapped).unwrap(), secret);
            for &other in WrappingAlgorithm::ALL {
                assert_eq!(key.unwrap(other, &wrapped).is_some(), other == algorithm, "{algorithm} {other}");
            }
            for at in [0, wrapped.len() / 2, wrapped.len() - 1] {
                let mut damaged = wrapped.clone();
                damaged[at] ^= 1;
                assert!(key.unwrap(algorithm, &damaged).is_none());
            }
            assert!(key.unwrap(algorithm, &wrapped[..wrapped.len() - 1]).is_none());
            assert!(key.unwrap(algorithm, &[]).is_none());
        }
        // A private RSA key is too long for RSA alone.
        let wrapped = wrap_for_import(algorithm, &spki, material(KeySpec::Rsa4096));
        let two_steps = algorithm.name().starts_with("RSA_AES");
        assert_eq!(wrapped.is_ok(), two_steps, "{algorithm}");
        if let Ok(wrapped) = wrapped {
            assert_eq!(*key.unwrap(algorithm, &wrapped).unwrap(), material(KeySpec::Rsa4096));
        }
        let refused = wrap_for_import(algorithm, b"no key", b"secret");
        assert_eq!(refused, Err(CannotWrap::NotAPublicKey));
    }
}

#[test]
fn hmac_agrees_with_rfc_4231_for_keys_of_the_length_of_the_hash() {
    // RFC 2104: a key is padded with zeros to the block, so a shorter key with zeros behind it is
    // the same key. Test case 2: "Jefe", "what do ya want for nothing?".
    let expected = [
        (KeySpec::Hmac224, "a30e01098bc6dbbf45690f3a7e9e6d0f8bbea2a39e6148008fd05e44"),
        (KeySpec::Hmac256, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
        (
            KeySpec::Hmac384,
            "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e8e2240ca5e69e2c78b3239ecfab21649",
        ),
        (
            KeySpec::Hmac512,
            "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549758bf75c05a994a6d034f65f8f0e6fd\
             caeab1a34d4a6b4b636e070a38bce737",
        ),
    ];
    for (spec, mac) in expected {
        let algorithm = spec.mac_algorithms()[0];
        let mut bytes = vec![0; mac::len(algorithm)];
        bytes[..4].copy_from_slice(b"Jefe");
        let key = Parsed::new(spec, KeyUsage::GenerateVerifyMac, &bytes).unwrap();
        let message = b"what do ya want for nothing?";
        assert_eq!(key.mac(algorithm, message).unwrap(), hex(&mac.replace(' ', "")), "{spec}");
        assert!(key.verifies_mac(algorithm, message, &hex(mac)).unwrap());
        assert!(!key.verifies_mac(algorithm, message, &hex(mac)[1..]).unwrap());
        for &other in MacAlgorithm::ALL.iter().filter(|other| **other != algorithm) {
            assert_eq!(key.mac(other, message).unwrap_err().kind(), ErrorKind::InvalidKeyUsage);
        }
    }
}

/// RFC 8410: a PKCS#8 Ed25519 key is 16 fixed bytes and the seed.
fn ed25519(seed: &str) -> Parsed {
    let pkcs8 = [hex("302e020100300506032b657004220420"), hex(seed)].concat();
    Parsed::new(KeySpec::EccNistEdwards25519, KeyUsage::SignVerify, &pkcs8).unwrap()
}

#[test]
fn ed25519_agrees_with_rfc_8032() {
    // Section 7.1, test 2.
    let key = ed25519("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb");
    let algorithm = SigningAlgorithm::Ed25519Sha512;
    let signature = key.sign(algorithm, Signed::new(algorithm, MessageType::Raw, &[0x72]).unwrap()).unwrap();
    assert_eq!(
        HEXLOWER.encode(&signature),
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c\
         387b2eaeb4302aeeb00d291612bb0c00"
            .replace(' ', "")
    );
    assert!(
        HEXLOWER
            .encode(key.public().unwrap())
            .ends_with("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
    );
}

#[test]
fn ed25519ph_agrees_with_rfc_8032() {
    use sha2::{Digest, Sha512};
    // Section 7.3.
    let key = ed25519("833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42");
    let algorithm = SigningAlgorithm::Ed25519PhSha512;
    let digest = Sha512::digest(b"abc");
    let signed = Signed::new(algorithm, MessageType::Digest, &digest).unwrap();
    assert_eq!(
        HEXLOWER.encode(&key.sign(algorithm, signed).unwrap()),
        "98a70222f0b8121aa9d30f813d683f809e462b469c7ff87639499bb94e6dae4131f85042463c2a355a2003d062adf5aa\
         a10b8c61e636062aaad11c2a26083406"
            .replace(' ', "")
    );
}

#[test]
fn ecdsa_agrees_with_rfc_6979() {
    // A.2.5, P-256, SHA-256, "sample"; the key in the fixed frame of RFC 5915 within PKCS#8.
    let pkcs8 = [
        hex("3041020100301306072a8648ce3d020106082a8648ce3d030107042730250201010420"),
        hex("c9afa9d845ba75166b5c215767b1d6934e50c3db36e89b127b8a622b120f6721"),
    ]
    .concat();
    let key = Parsed::new(KeySpec::EccNistP256, KeyUsage::SignVerify, &pkcs8).unwrap();
    let spki = HEXLOWER.encode(key.public().unwrap());
    assert!(spki.ends_with(
        "60fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb67903fe1008b8bc99a41ae9e95628bc64\
         f2f1b20c2d7e9f5177a3c294d4462299"
    ));
    let signature = hex(
        "3046022100efd48b2aacb6a8fd1140dd9cd45e81d69d2c877b56aaf991c34d0ea84eaf3716022100f7cb1c942d657c41\
         d436c7a1b6e29f65f3e900dbb9aff4064dc4ab2f843acda8",
    );
    let algorithm = SigningAlgorithm::EcdsaSha256;
    let signed = |message| Signed::new(algorithm, MessageType::Raw, message).unwrap();
    assert!(key.verifies(algorithm, signed(b"sample"), &signature).unwrap());
    assert!(!key.verifies(algorithm, signed(b"Sample"), &signature).unwrap());
}
