//! Names as they lie in the backing directory; symbolic links' targets in [`target`].
//!
//! A name is padded with zeros to a multiple of 16 bytes (it cannot contain one itself), sealed
//! with AES-256-GCM-SIV under its directory's key and a zero nonce, and written as base64url. The
//! same name in the same directory gives the same ciphertext, which is what a look-up needs; in
//! another directory it gives another, so that an entry moved between directories by hand does not
//! open. A name too long for the backing directory is stored under its hash, with its ciphertext
//! in a sidecar file.

pub mod target;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use data_encoding::BASE64URL_NOPAD;

use crate::crypto::kdf::sha256;
use crate::crypto::wrap::{open_into, seal_with};
use crate::crypto::{NONCE_LEN, OpenError, TAG_LEN};
use crate::format::RESERVED_PREFIX;
use crate::secret::Key;

/// Longest name in bytes, as everywhere on Linux.
pub const MAX_NAME_LEN: usize = 255;
/// What the backing name of an entry with a long name begins with.
pub const LONG_PREFIX: &str = "kmsfs.long.";
/// What its sidecar's name ends with.
pub const SIDECAR_SUFFIX: &str = ".name";
/// Largest sidecar in bytes.
pub const MAX_SIDECAR_LEN: usize = MAX_NAME_LEN.next_multiple_of(PAD) + TAG_LEN;

const PAD: usize = 16;
const MAX_BACKING_NAME_LEN: usize = 255;
const NAME_LABEL: &[u8] = b"kmsfs v1 name";
const ZERO_NONCE: [u8; NONCE_LEN] = [0; NONCE_LEN];

/// A name as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredName {
    /// Name of the backing entry.
    pub name: String,
    /// Contents of the sidecar, for a long name.
    pub sidecar: Option<Vec<u8>>,
}

/// What a backing entry's name says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// An encrypted name, opened.
    Name(Vec<u8>),
    /// An entry whose name is in its sidecar.
    Long,
    /// kmsfs's own: a directory record, a sidecar, the volume's page.
    Reserved,
    /// No name of this directory: foreign, moved here from elsewhere, or damaged.
    Foreign,
}

impl StoredName {
    /// Name of the sidecar file.
    pub fn sidecar_name(&self) -> String {
        sidecar_of(&self.name)
    }
}

/// Name of the sidecar of a backing entry with a long name.
pub fn sidecar_of(long: &str) -> String {
    format!("{long}{SIDECAR_SUFFIX}")
}

/// Seals a name under its directory's key. `name` must not be empty, hold a zero byte, or be
/// longer than [`MAX_NAME_LEN`]; the caller has checked.
pub fn seal(key: &Key, name: &[u8]) -> StoredName {
    let mut padded = name.to_vec();
    padded.resize(name.len().next_multiple_of(PAD), 0);
    let mut sealed = vec![0; NONCE_LEN + padded.len() + TAG_LEN];
    seal_with(key, &ZERO_NONCE, NAME_LABEL, &padded, &mut sealed);
    let sealed = &sealed[NONCE_LEN..];
    let name = BASE64URL_NOPAD.encode(sealed);
    if name.len() <= MAX_BACKING_NAME_LEN {
        return StoredName { name, sidecar: None };
    }
    let hash = BASE64URL_NOPAD.encode(&sha256(&[sealed]));
    StoredName { name: format!("{LONG_PREFIX}{hash}"), sidecar: Some(sealed.to_vec()) }
}

/// Reads the name of a backing entry.
pub fn open(key: &Key, stored: &OsStr) -> Entry {
    let stored = stored.as_bytes();
    if stored.starts_with(LONG_PREFIX.as_bytes()) && !stored.ends_with(SIDECAR_SUFFIX.as_bytes()) {
        return Entry::Long;
    }
    if stored.starts_with(RESERVED_PREFIX.as_bytes()) {
        return Entry::Reserved;
    }
    let sealed = BASE64URL_NOPAD.decode(stored).map_err(|_| OpenError);
    match sealed.and_then(|sealed| open_sealed(key, &sealed)) {
        Ok(name) => Entry::Name(name),
        Err(OpenError) => Entry::Foreign,
    }
}

/// Opens the contents of the sidecar of the backing entry `stored`.
///
/// # Errors
/// [`OpenError`] if it is not that entry's, or of another directory.
pub fn open_sidecar(key: &Key, stored: &OsStr, sidecar: &[u8]) -> Result<Vec<u8>, OpenError> {
    let name = open_sealed(key, sidecar)?;
    if seal(key, &name).name.as_bytes() == stored.as_bytes() { Ok(name) } else { Err(OpenError) }
}

fn open_sealed(key: &Key, sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
    let len = sealed.len().checked_sub(TAG_LEN).ok_or(OpenError)?;
    let mut padded = vec![0; len];
    open_into(key, NAME_LABEL, &[&ZERO_NONCE[..], sealed].concat(), &mut padded)?;
    Ok(unpad(padded))
}

fn unpad(mut padded: Vec<u8>) -> Vec<u8> {
    let len = padded.iter().rposition(|&b| b != 0).map_or(0, |last| last + 1);
    padded.truncate(len);
    padded
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(1u8.., 1..=MAX_NAME_LEN)
    }

    proptest! {
        #[test]
        fn names_of_any_bytes_survive_and_are_bound_to_their_directory(name in name()) {
            let key = Key::take_from(&mut [1; 32]);
            let other = Key::take_from(&mut [2; 32]);
            let stored = seal(&key, &name);
            prop_assert!(stored.name.len() <= MAX_BACKING_NAME_LEN);
            prop_assert!(stored.sidecar_name().len() <= MAX_BACKING_NAME_LEN);
            prop_assert_eq!(&stored, &seal(&key, &name));
            prop_assert_ne!(&stored.name, &seal(&other, &name).name);
            let entry = OsStr::new(&stored.name);
            match &stored.sidecar {
                None => {
                    prop_assert_eq!(open(&key, entry), Entry::Name(name));
                    prop_assert_eq!(open(&other, entry), Entry::Foreign);
                }
                Some(sidecar) => {
                    prop_assert!(sidecar.len() <= MAX_SIDECAR_LEN);
                    prop_assert_eq!(open(&key, entry), Entry::Long);
                    prop_assert_eq!(open(&key, OsStr::new(&stored.sidecar_name())), Entry::Reserved);
                    prop_assert_eq!(open_sidecar(&key, entry, sidecar), Ok(name));
                    prop_assert_eq!(open_sidecar(&other, entry, sidecar), Err(OpenError));
                }
            }
        }

        #[test]
        fn foreign_entries_never_panic(stored in proptest::collection::vec(1u8.., 1..=MAX_BACKING_NAME_LEN)) {
            let key = Key::take_from(&mut [1; 32]);
            let entry = OsStr::from_bytes(&stored);
            prop_assert!(!matches!(open(&key, entry), Entry::Name(_)));
            let _ = open_sidecar(&key, entry, &stored);
        }
    }

    #[test]
    fn reserved_names_are_no_names() {
        let key = Key::take_from(&mut [1; 32]);
        for reserved in ["kmsfs.dir", "kmsfs.volume", "kmsfs.volume.copy", "kmsfs.anything"] {
            assert_eq!(open(&key, OsStr::new(reserved)), Entry::Reserved);
        }
    }
}
