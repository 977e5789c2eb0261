//! The key schedule, on one page.
//!
//! ```text
//! data key ── HKDF-SHA256, salt = file id, info = label ‖ volume id
//!   ├─ "kmsfs v1 content"     chunks
//!   ├─ "kmsfs v1 header"      slots and map pages
//!   ├─ "kmsfs v1 xattr"       values of extended attributes
//!   ├─ "kmsfs v1 previous key"  the data key before this one, while the file is re-encrypted
//!   └─ "kmsfs v1 commitment"  stored in the header, checked before any other use
//!
//! volume key ── HKDF-SHA256, salt = volume id, info = label
//!   ├─ "kmsfs v1 volume header", "kmsfs v1 volume commitment"
//!   ├─ "kmsfs v1 directory record"   kmsfs.dir
//!   ├─ "kmsfs v1 names" ‖ directory id   one key per directory
//!   ├─ "kmsfs v1 symlinks"           targets of symbolic links
//!   ├─ "kmsfs v1 xattr names"        names of extended attributes, on any file
//!   ├─ "kmsfs v1 index"              kmsfs.index
//!   └─ "kmsfs v1 directory xattr"    values of extended attributes of what is no regular file
//! ```
//!
//! AES-GCM-SIV does not commit to its key: a ciphertext can be made that opens under two keys.
//! The commitment is what binds a header to one data key.

use arrayvec::ArrayVec;
use subtle::ConstantTimeEq;

use super::slot::{COMMITMENT_LEN, SealedKey};
use super::{FormatError, Id};
use crate::crypto::kdf::Kdf;
use crate::crypto::wrap;
use crate::secret::Key;

/// Domain labels of format version 1.
pub mod labels {
    /// Chunks.
    pub const CONTENT: &[u8] = b"kmsfs v1 content";
    /// Slots and map pages.
    pub const HEADER: &[u8] = b"kmsfs v1 header";
    /// Values of a file's extended attributes.
    pub const XATTR: &[u8] = b"kmsfs v1 xattr";
    /// The previous data key, while a file is being re-encrypted.
    pub const PREVIOUS_KEY: &[u8] = b"kmsfs v1 previous key";
    /// Commitment to a data key.
    pub const COMMITMENT: &[u8] = b"kmsfs v1 commitment";
    /// The volume's slots.
    pub const VOLUME_HEADER: &[u8] = b"kmsfs v1 volume header";
    /// Commitment to the volume key.
    pub const VOLUME_COMMITMENT: &[u8] = b"kmsfs v1 volume commitment";
    /// Directory records.
    pub const DIRECTORY_RECORD: &[u8] = b"kmsfs v1 directory record";
    /// Names in one directory.
    pub const NAMES: &[u8] = b"kmsfs v1 names";
    /// Symbolic links' targets.
    pub const SYMLINKS: &[u8] = b"kmsfs v1 symlinks";
    /// Names of extended attributes.
    pub const XATTR_NAMES: &[u8] = b"kmsfs v1 xattr names";
    /// Values of extended attributes of what is no regular file.
    pub const DIRECTORY_XATTR: &[u8] = b"kmsfs v1 directory xattr";
    /// The index of what wraps how many files.
    pub const INDEX: &[u8] = b"kmsfs v1 index";
}

/// What is derived from a file's data key. Everything is sealed under these keys; while the file is
/// being re-encrypted, what is older opens under the previous ones.
#[derive(Debug)]
pub struct FileKeys {
    /// Seals chunks.
    pub content: Key,
    /// Seals slots and map pages.
    pub header: Key,
    /// Seals values of extended attributes.
    pub xattr: Key,
    /// Binds the header to the data key.
    pub commitment: [u8; COMMITMENT_LEN],
    /// Those of the data key before this one, of a file that is being re-encrypted.
    pub previous: Option<PreviousKeys>,
}

/// The keys of older parts of a file that is being re-encrypted.
#[derive(Debug)]
pub struct PreviousKeys {
    keys: Box<FileKeys>,
    /// What has this epoch or a later one is under the present keys, and nothing else is. A unit
    /// so has one key, and none that fails is tried under another.
    until: u32,
}

impl FileKeys {
    /// Derives a file's keys.
    pub fn derive(data_key: &Key, volume: Id, file: Id) -> Self {
        let kdf = Kdf::new(data_key, &file.0);
        let key = |label: &[u8]| kdf.key(&[label, &volume.0]);
        Self {
            content: key(labels::CONTENT),
            header: key(labels::HEADER),
            xattr: key(labels::XATTR),
            commitment: kdf.commitment(&[labels::COMMITMENT, &volume.0]),
            previous: None,
        }
    }

    /// These keys, and `previous` ones for what is older than the epoch `until`.
    #[must_use]
    pub fn with_previous(self, previous: Self, until: u32) -> Self {
        Self { previous: Some(PreviousKeys { keys: Box::new(previous), until }), ..self }
    }

    /// What opens a chunk of this epoch.
    pub fn content_at(&self, epoch: u32) -> &Key {
        &self.at(epoch).content
    }

    /// What opens a map page of this epoch.
    pub fn header_at(&self, epoch: u32) -> &Key {
        &self.at(epoch).header
    }

    /// Whether what has this epoch is under the previous keys.
    pub fn is_previous(&self, epoch: u32) -> bool {
        self.previous.as_ref().is_some_and(|previous| epoch < previous.until)
    }

    /// What may open the value of an extended attribute, which has no epoch; the first seals it.
    pub fn xattr_keys(&self) -> ArrayVec<&Key, 2> {
        let previous = self.previous.as_ref().map(|previous| &previous.keys.xattr);
        [&self.xattr].into_iter().chain(previous).collect()
    }

    fn at(&self, epoch: u32) -> &Self {
        match &self.previous {
            Some(previous) if epoch < previous.until => &previous.keys,
            _ => self,
        }
    }

    /// Derives a file's keys and checks them against the header's commitment.
    ///
    /// # Errors
    /// [`FormatError::Forged`].
    pub fn derive_checked(
        data_key: &Key,
        volume: Id,
        file: Id,
        commitment: &[u8; COMMITMENT_LEN],
    ) -> Result<Self, FormatError> {
        let keys = Self::derive(data_key, volume, file);
        check(&keys.commitment, commitment)?;
        Ok(keys)
    }
}

/// Seals the data key that a file has had so far under its new one.
///
/// # Errors
/// [`FormatError::Impossible`] when there is no randomness.
pub fn seal_previous(data_key: &Key, volume: Id, file: Id, previous: &Key) -> Result<SealedKey, FormatError> {
    let (key, aad) = previous_key(data_key, volume, file);
    wrap::wrap(&key, &aad, previous).map_err(|_| FormatError::Impossible)
}

/// Opens what [`seal_previous`] sealed.
///
/// # Errors
/// [`FormatError::Forged`].
pub fn open_previous(data_key: &Key, volume: Id, file: Id, sealed: &SealedKey) -> Result<Key, FormatError> {
    let (key, aad) = previous_key(data_key, volume, file);
    Ok(wrap::unwrap(&key, &aad, sealed)?)
}

fn previous_key(data_key: &Key, volume: Id, file: Id) -> (Key, Vec<u8>) {
    let key = Kdf::new(data_key, &file.0).key(&[labels::PREVIOUS_KEY, &volume.0]);
    (key, [labels::PREVIOUS_KEY, &volume.0, &file.0].concat())
}

/// What is derived from the volume key.
#[derive(Debug)]
pub struct VolumeKeys {
    /// Seals the volume's slots.
    pub header: Key,
    /// Seals directory records.
    pub directory: Key,
    /// Seals symbolic links' targets.
    pub symlinks: Key,
    /// Seals names of extended attributes.
    pub xattr_names: Key,
    /// Seals values of extended attributes of what is no regular file.
    pub directory_xattr: Key,
    /// Seals the index.
    pub index: Key,
    /// Binds the volume's page to the volume key.
    pub commitment: [u8; COMMITMENT_LEN],
    names: Kdf,
}

impl VolumeKeys {
    /// Derives a volume's keys.
    pub fn derive(volume_key: &Key, volume: Id) -> Self {
        let kdf = Kdf::new(volume_key, &volume.0);
        Self {
            header: kdf.key(&[labels::VOLUME_HEADER]),
            directory: kdf.key(&[labels::DIRECTORY_RECORD]),
            symlinks: kdf.key(&[labels::SYMLINKS]),
            xattr_names: kdf.key(&[labels::XATTR_NAMES]),
            directory_xattr: kdf.key(&[labels::DIRECTORY_XATTR]),
            index: kdf.key(&[labels::INDEX]),
            commitment: kdf.commitment(&[labels::VOLUME_COMMITMENT]),
            names: kdf,
        }
    }

    /// Derives a volume's keys and checks them against its page's commitment.
    ///
    /// # Errors
    /// [`FormatError::Forged`].
    pub fn derive_checked(
        volume_key: &Key,
        volume: Id,
        commitment: &[u8; COMMITMENT_LEN],
    ) -> Result<Self, FormatError> {
        let keys = Self::derive(volume_key, volume);
        check(&keys.commitment, commitment)?;
        Ok(keys)
    }

    /// The key for the names in one directory.
    pub fn names(&self, directory: Id) -> Key {
        self.names.key(&[labels::NAMES, &directory.0])
    }
}

fn check(ours: &[u8; COMMITMENT_LEN], theirs: &[u8; COMMITMENT_LEN]) -> Result<(), FormatError> {
    if ours.ct_eq(theirs).into() { Ok(()) } else { Err(FormatError::Forged) }
}
