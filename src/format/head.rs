//! The immutable head of a page: what the object is. Public, protected by a checksum against
//! accidents and, being associated data of every slot, by the header key against forgery.

use super::layout::{DEFAULT_UNIT_SHIFT, Layout};
use super::{FormatError, Id, KNOWN_FEATURES, VERSION};
use crate::codec::{Reader, Writer};
use crate::crypto::kdf::sha256;

/// Bytes of a head on disk.
pub const HEAD_LEN: usize = 512;
/// First bytes of every head. The CR-LF and ^Z show a transfer that mangled line ends.
pub const MAGIC: [u8; 8] = *b"KMSFS\r\n\x1a";
/// Bytes that the checksum covers.
pub const CHECKED_LEN: usize = HEAD_LEN - CHECKSUM_LEN;
/// SHA-256 of the bytes before it.
pub const CHECKSUM_LEN: usize = 32;

/// What kind of object a page describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A regular file; its chunks follow the page.
    File = 1,
    /// The volume: `kmsfs.volume` and its copy.
    Volume = 2,
    /// A directory: `kmsfs.dir`.
    Directory = 3,
}

/// What an object is; fixed for its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// What kind of object this is.
    pub kind: Kind,
    /// log₂ of the unit of a file's chunks; the default's for other kinds.
    pub unit_shift: u8,
    /// The volume it belongs to.
    pub volume: Id,
    /// Its own identity.
    pub object: Id,
    /// The directory it was created in, from which a lost directory record can be recovered.
    pub birth_directory: Id,
}

impl Head {
    /// A head with the default chunk size.
    pub fn new(kind: Kind, volume: Id, object: Id, birth_directory: Id) -> Self {
        Self { kind, unit_shift: DEFAULT_UNIT_SHIFT, volume, object, birth_directory }
    }

    /// Chunk geometry.
    pub fn layout(&self) -> Layout {
        Layout::new(self.unit_shift).unwrap_or_default()
    }

    /// The head's bytes on disk.
    pub fn encode(&self) -> [u8; HEAD_LEN] {
        let mut out = [0; HEAD_LEN];
        Writer::new(&mut out)
            .bytes(&MAGIC)
            .u16(VERSION)
            .u8(self.kind as u8)
            .u8(self.unit_shift)
            .u32(0)
            .bytes(&self.volume.0)
            .bytes(&self.object.0)
            .bytes(&self.birth_directory.0);
        let checksum = sha256(&[&out[..CHECKED_LEN]]);
        out[CHECKED_LEN..].copy_from_slice(&checksum);
        out
    }

    /// Reads a head.
    ///
    /// # Errors
    /// [`FormatError::NotKmsfs`], [`FormatError::UnknownVersion`],
    /// [`FormatError::UnknownFeatures`] or [`FormatError::Impossible`].
    pub fn parse(bytes: &[u8; HEAD_LEN]) -> Result<Self, FormatError> {
        let mut r = Reader::new(bytes);
        let magic: [u8; 8] = r.array()?;
        if magic != MAGIC || sha256(&[&bytes[..CHECKED_LEN]]) != bytes[CHECKED_LEN..] {
            return Err(FormatError::NotKmsfs);
        }
        let version = r.u16()?;
        if version != VERSION {
            return Err(FormatError::UnknownVersion(version));
        }
        let kind = match r.u8()? {
            1 => Kind::File,
            2 => Kind::Volume,
            3 => Kind::Directory,
            _ => return Err(FormatError::Impossible),
        };
        let unit_shift = r.u8()?;
        let features = r.u32()?;
        if features & !KNOWN_FEATURES != 0 {
            return Err(FormatError::UnknownFeatures(features));
        }
        if Layout::new(unit_shift).is_none() {
            return Err(FormatError::Impossible);
        }
        Ok(Self {
            kind,
            unit_shift,
            volume: Id(r.array()?),
            object: Id(r.array()?),
            birth_directory: Id(r.array()?),
        })
    }
}
