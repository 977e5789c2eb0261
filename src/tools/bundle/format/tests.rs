//! What was written is read, and nothing else is.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::secret::Passphrase;

const CHEAP: Costs = Costs { memory_kib: 8, passes: 1, lanes: 1 };
const VOLUME: Id = Id([7; 16]);

fn key(byte: u8) -> Key {
    Key::take_from(&mut [byte; 32])
}

fn key_file(byte: u8) -> UnlockSecret {
    UnlockSecret::KeyFile(Passphrase::new(vec![byte; 64]))
}

fn passphrase(text: &str) -> UnlockSecret {
    UnlockSecret::Passphrase(Passphrase::new(text.into()))
}

/// The bundle of a volume with so many files, whose ids and keys are their numbers from 1.
fn bundle(secret: &UnlockSecret, files: u8) -> Vec<u8> {
    let mut writer = Writer::begin(Vec::new(), VOLUME, secret, CHEAP).unwrap();
    writer.add(Kind::Volume, VOLUME, &key(0xee)).unwrap();
    for file in 1..=files {
        writer.add(Kind::File, Id([file; 16]), &key(file)).unwrap();
    }
    writer.finish().unwrap()
}

fn open(bytes: &[u8], secret: &UnlockSecret) -> Result<Bundle, BundleError> {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(bytes, 0).unwrap();
    Bundle::open(file, secret)
}

#[test]
fn every_key_comes_back_by_its_id() {
    for secret in [key_file(1), passphrase("correct horse")] {
        let bytes = bundle(&secret, 5);
        let opened = open(&bytes, &secret).unwrap();
        assert_eq!(opened.volume(), VOLUME);
        assert_eq!(opened.data_key(Kind::Volume, VOLUME).unwrap(), Some(key(0xee)));
        for file in 1..=5 {
            assert_eq!(opened.data_key(Kind::File, Id([file; 16])).unwrap(), Some(key(file)));
        }
        assert_eq!(opened.data_key(Kind::File, VOLUME).unwrap(), None, "kinds are apart");
        assert!(opened.has(Kind::File, Id([5; 16])) && !opened.has(Kind::File, Id([6; 16])));
        let mut files: Vec<Id> = opened.files().collect();
        files.sort();
        assert_eq!(files, (1..=5).map(|file| Id([file; 16])).collect::<Vec<_>>());
    }
}

#[test]
fn a_file_costs_77_bytes_and_an_empty_volume_is_one_too() {
    let secret = key_file(1);
    let empty = bundle(&secret, 0);
    assert_eq!(open(&empty, &secret).unwrap().files().count(), 0);
    assert_eq!(bundle(&secret, 9).len() - empty.len(), 9 * 77);
}

#[test]
fn another_secret_opens_nothing() {
    let bytes = bundle(&passphrase("correct horse"), 1);
    for wrong in [passphrase("correct horsf"), key_file(1)] {
        assert!(matches!(open(&bytes, &wrong), Err(BundleError::WrongSecret)));
    }
    let bytes = bundle(&key_file(1), 1);
    assert!(matches!(open(&bytes, &key_file(2)), Err(BundleError::WrongSecret)));
}

#[test]
fn no_bit_can_be_changed() {
    let secret = key_file(1);
    let bytes = bundle(&secret, 2);
    for bit in 0..bytes.len() * 8 {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(open(&changed, &secret).is_err(), "bit {} of byte {}", bit % 8, bit / 8);
    }
}

#[test]
fn no_bit_of_a_passphrases_header_can_be_changed_and_absurd_costs_are_refused() {
    let secret = passphrase("correct horse");
    let bytes = bundle(&secret, 0);
    let costs = HEADER_LEN + 1 + 16;
    for byte in 0..HEADER_LEN + MAX_SLOT {
        let mut changed = bytes.clone();
        changed[byte] ^= 1;
        assert!(open(&changed, &secret).is_err(), "byte {byte}");
    }
    for cost in [costs, costs + 4, costs + 8] {
        let mut changed = bytes.clone();
        changed[cost..cost + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(open(&changed, &secret), Err(BundleError::Damaged(_))), "cost at {cost}");
    }
}

#[test]
fn a_cut_or_longer_bundle_is_refused() {
    let secret = key_file(1);
    let bytes = bundle(&secret, 3);
    for len in 0..bytes.len() {
        assert!(open(&bytes[..len], &secret).is_err(), "{len} of {} bytes", bytes.len());
    }
    assert!(open(&[&bytes[..], &[0]].concat(), &secret).is_err());
    let last = &bytes[bytes.len() - RECORD_LEN..];
    assert!(open(&[&bytes, last].concat(), &secret).is_err());
}

#[test]
fn records_cannot_change_places_or_be_left_out() {
    let secret = key_file(1);
    let bytes = bundle(&secret, 3);
    let start = bytes.len() - 5 * RECORD_LEN;
    let (header, records) = bytes.split_at(start);
    let records: Vec<&[u8]> = records.chunks(RECORD_LEN).collect();
    for order in
        [&[0, 2, 1, 3, 4][..], &[0, 1, 3, 4], &[0, 1, 2, 4], &[0, 1, 2, 3, 3, 4], &[1, 2, 3, 4], &[4]]
    {
        let picked: Vec<u8> = order.iter().flat_map(|&at| records[at]).copied().collect();
        assert!(open(&[header, &picked].concat(), &secret).is_err(), "{order:?}");
    }
}

#[test]
fn what_is_changed_after_it_was_opened_is_refused_when_it_is_read() {
    let (secret, file) = (key_file(1), tempfile::tempfile().unwrap());
    let bytes = bundle(&secret, 1);
    file.write_all_at(&bytes, 0).unwrap();
    let opened = Bundle::open(file.try_clone().unwrap(), &secret).unwrap();
    let at = bytes.len() - RECORD_LEN - 1;
    file.write_all_at(&[bytes[at] ^ 1], at as u64).unwrap();
    assert!(matches!(opened.data_key(Kind::File, Id([1; 16])), Err(BundleError::Damaged(_))));
}

#[test]
fn other_files_and_newer_bundles_are_told_apart() {
    let secret = key_file(1);
    assert!(matches!(open(b"", &secret), Err(BundleError::NotABundle)));
    assert!(matches!(open(&[b'x'; 4096], &secret), Err(BundleError::NotABundle)));
    let mut newer = bundle(&secret, 1);
    newer[8] = 2;
    assert!(matches!(open(&newer, &secret), Err(BundleError::UnknownVersion(2))));
}
