//! The index of a volume on disk: how many files, with how many bytes, each version of a master key
//! wraps.
//!
//! It is sealed under a key of the volume's and bound to the end of one mount, which the volume's page
//! names by its reserved epochs: an index from before, of another volume, or one that was changed
//! counts for nothing. It is a summary of the headers and can always be made anew from them.

use super::schedule::labels;
use super::{FormatError, Id};
use crate::codec::{Reader, Writer};
use crate::crypto::wrap::{open_into, seal_into};
use crate::crypto::{NONCE_LEN, TAG_LEN};
use crate::secret::Key;

/// Name of the index in the volume's root.
pub const INDEX_NAME: &str = "kmsfs.index";
/// What an index begins with.
pub const MAGIC: [u8; 8] = *b"KMSFSIX\n";
/// Version of the index's own layout.
pub const INDEX_VERSION: u16 = 1;
/// Bytes before the sealed part: magic, version, six zeros, volume id.
pub const INDEX_HEAD_LEN: usize = 32;
/// Longest index in bytes; a volume with more versions than fit has none.
pub const MAX_INDEX_LEN: usize = 4 << 20;

/// Bytes of the session and the number of entries.
const FIXED_LEN: usize = 8;
/// Bytes of an entry beside the key's ARN.
const ENTRY_LEN: usize = 2 + 4 + 8 + 8;

/// What one version of a master key wraps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexEntry {
    /// ARN of the master key; empty for files whose headers cannot be read.
    pub key_arn: String,
    /// Version of its material.
    pub key_version: u32,
    /// Files.
    pub files: u64,
    /// Bytes of their plaintext.
    pub bytes: u64,
}

/// An index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexFile {
    /// The epochs that the volume's page had reserved when the mount ended that wrote this.
    pub session: u32,
    /// One for each version of a master key.
    pub entries: Vec<IndexEntry>,
}

impl IndexFile {
    /// The bytes on disk.
    ///
    /// # Errors
    /// [`FormatError::Impossible`] for more than fits, or without random numbers.
    pub fn seal(&self, key: &Key, volume: Id) -> Result<Vec<u8>, FormatError> {
        let len = self.entries.iter().map(|entry| ENTRY_LEN + entry.key_arn.len()).sum::<usize>() + FIXED_LEN;
        let whole = INDEX_HEAD_LEN + NONCE_LEN + len + TAG_LEN;
        if whole > MAX_INDEX_LEN {
            return Err(FormatError::Impossible);
        }
        let mut plaintext = vec![0; len];
        let mut w = Writer::new(&mut plaintext);
        w.u32(self.session).u32(self.entries.len() as u32);
        for entry in &self.entries {
            let arn = u16::try_from(entry.key_arn.len()).map_err(|_| FormatError::Impossible)?;
            w.u16(arn).bytes(entry.key_arn.as_bytes());
            w.u32(entry.key_version).u64(entry.files).u64(entry.bytes);
        }
        let mut out = vec![0; whole];
        let (head, sealed) = out.split_at_mut(INDEX_HEAD_LEN);
        Writer::new(head).bytes(&MAGIC).u16(INDEX_VERSION).bytes(&[0; 6]).bytes(&volume.0);
        seal_into(key, &aad(head), &plaintext, sealed).map_err(|_| FormatError::Impossible)?;
        Ok(out)
    }

    /// Reads what [`IndexFile::seal`] made.
    ///
    /// # Errors
    /// [`FormatError::NotKmsfs`], `UnknownVersion`, `Impossible`; `Forged` for what was changed, cut or
    /// is another volume's.
    pub fn open(bytes: &[u8], key: &Key, volume: Id) -> Result<Self, FormatError> {
        if bytes.len() > MAX_INDEX_LEN {
            return Err(FormatError::Impossible);
        }
        let (head, sealed) = bytes.split_at_checked(INDEX_HEAD_LEN).ok_or(FormatError::NotKmsfs)?;
        let mut r = Reader::new(head);
        if r.array()? != MAGIC {
            return Err(FormatError::NotKmsfs);
        }
        match r.u16()? {
            INDEX_VERSION => {}
            version => return Err(FormatError::UnknownVersion(version)),
        }
        r.bytes(6)?;
        if r.array()? != volume.0 {
            return Err(FormatError::Forged);
        }
        let len = sealed.len().checked_sub(NONCE_LEN + TAG_LEN).ok_or(FormatError::Forged)?;
        let mut plaintext = vec![0; len];
        open_into(key, &aad(head), sealed, &mut plaintext)?;
        Self::parse(&plaintext)
    }

    fn parse(plaintext: &[u8]) -> Result<Self, FormatError> {
        let mut r = Reader::new(plaintext);
        let (session, count) = (r.u32()?, r.u32()?);
        let mut entries = Vec::new();
        for _ in 0..count {
            let arn = r.string16()?.to_vec();
            let key_arn = String::from_utf8(arn).map_err(|_| FormatError::Impossible)?;
            entries.push(IndexEntry { key_arn, key_version: r.u32()?, files: r.u64()?, bytes: r.u64()? });
        }
        if r.rest().is_empty() { Ok(Self { session, entries }) } else { Err(FormatError::Impossible) }
    }
}

fn aad(head: &[u8]) -> Vec<u8> {
    [labels::INDEX, head].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOLUME: Id = Id([3; 16]);

    fn key() -> Key {
        Key::take_from(&mut [7; 32])
    }

    fn sample() -> IndexFile {
        let entry = |arn: &str, key_version, files| IndexEntry {
            key_arn: arn.to_owned(),
            key_version,
            files,
            bytes: files * 100,
        };
        IndexFile {
            session: 512,
            entries: vec![entry("arn:a", 1, 7), entry("arn:b", 9, 1 << 40), entry("", 0, 2)],
        }
    }

    #[test]
    fn an_index_survives_the_round_trip() {
        for index in [sample(), IndexFile { session: 1, entries: Vec::new() }] {
            let bytes = index.seal(&key(), VOLUME).unwrap();
            assert_eq!(IndexFile::open(&bytes, &key(), VOLUME), Ok(index));
        }
    }

    #[test]
    fn no_changed_cut_or_lengthened_index_opens() {
        let bytes = sample().seal(&key(), VOLUME).unwrap();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(IndexFile::open(&changed, &key(), VOLUME).is_err(), "byte {at}");
            assert!(IndexFile::open(&bytes[..at], &key(), VOLUME).is_err(), "cut at {at}");
        }
        let longer = [bytes.as_slice(), &[0]].concat();
        assert_eq!(IndexFile::open(&longer, &key(), VOLUME), Err(FormatError::Forged));
    }

    #[test]
    fn the_index_of_another_volume_is_refused() {
        let bytes = sample().seal(&key(), Id([4; 16])).unwrap();
        assert_eq!(IndexFile::open(&bytes, &key(), VOLUME), Err(FormatError::Forged));
        let other = Key::take_from(&mut [8; 32]);
        let bytes = sample().seal(&other, VOLUME).unwrap();
        assert_eq!(IndexFile::open(&bytes, &key(), VOLUME), Err(FormatError::Forged));
    }

    #[test]
    fn what_does_not_fit_is_not_written() {
        let entry = IndexEntry { key_arn: "a".repeat(300), key_version: 1, files: 1, bytes: 1 };
        let index = IndexFile { session: 1, entries: vec![entry; MAX_INDEX_LEN / 300] };
        assert_eq!(index.seal(&key(), VOLUME), Err(FormatError::Impossible));
    }

    proptest::proptest! {
        #[test]
        fn authentic_nonsense_is_parsed_without_panic(bytes: Vec<u8>) {
            if let Ok(index) = IndexFile::parse(&bytes) {
                let sealed = index.seal(&key(), VOLUME).unwrap();
                proptest::prop_assert_eq!(IndexFile::open(&sealed, &key(), VOLUME), Ok(index));
            }
        }
    }
}
