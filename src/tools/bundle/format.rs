//! The bundle's bytes: a volume's data keys, sealed for whoever knows a secret.
//!
//! ```text
//! offset  length  what
//!      0       8  "kmsfsbdl"
//!      8       4  version, 1
//!     12      16  volume id
//!     28       2  length s of the sealed bundle key, up to 89
//!     30       s  the bundle key (256 random bits), sealed as an unlock slot of a key store
//!                 seals its root key, and bound to what is before
//!   30+s    77·n  records
//! ```
//!
//! A record, of which the last one seals how many there are before it:
//!
//! ```text
//! offset  length  what
//!      0       1  kind: 1 volume, 2 file, 3 end
//!      1      16  id of the volume or file; zeros at the end
//!     17      12  nonce
//!     29      32  data key; at the end the number of records before it (8 bytes) and zeros
//!     61      16  tag
//! ```
//!
//! Records are sealed with AES-256-GCM-SIV under HKDF-SHA256(bundle key, salt = volume id, info =
//! "kmsfs v1 bundle record"), with random nonces. The associated data is that label, the volume id,
//! the kind, the id and the record's running number from 0. So records cannot be changed, moved,
//! repeated or left out, and a bundle that was cut is found. Numbers are little-endian.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::FileExt;

use thiserror::Error;

use crate::codec::Reader;
use crate::crypto::kdf::Kdf;
use crate::crypto::wrap::{WRAPPED_LEN, unwrap, wrap};
use crate::format::Id;
use crate::kms::{Costs, StoreError, UnlockSecret, open_key, seal_key};
use crate::secret::Key;

const MAGIC: [u8; 8] = *b"kmsfsbdl";
const VERSION: u32 = 1;
/// Bytes before the sealed bundle key.
const HEADER_LEN: usize = 8 + 4 + 16 + 2;
/// Longest sealed bundle key: an unlock slot for a passphrase.
const MAX_SLOT: usize = 1 + 16 + 3 * 4 + WRAPPED_LEN;
/// Bytes of a record, and so of what a bundle takes for a file.
pub const RECORD_LEN: usize = 1 + 16 + WRAPPED_LEN;
const LABEL: &[u8] = b"kmsfs v1 bundle record";
const END: u8 = 3;

/// What a data key is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// The volume: names, links, directories.
    Volume = 1,
    /// A file.
    File = 2,
}

/// Why a bundle cannot be written or read.
#[derive(Debug, Error)]
pub enum BundleError {
    /// It is something else.
    #[error("not a bundle of data keys")]
    NotABundle,
    /// Written by a newer program.
    #[error("bundle version {0} is not known to this program, which reads version 1")]
    UnknownVersion(u32),
    /// It does not open with this secret; a damaged start looks the same.
    #[error("wrong passphrase or key file for the bundle, or its start is damaged")]
    WrongSecret,
    /// Changed or cut since it was written.
    #[error("the bundle is damaged: {0}")]
    Damaged(&'static str),
    /// The secret cannot seal anything.
    #[error(transparent)]
    Secret(#[from] StoreError),
    /// The operating system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Writes a bundle, record by record.
pub struct Writer<W> {
    out: W,
    seal: Seal,
    count: u64,
}

impl<W: Write> Writer<W> {
    /// Begins the bundle of a volume, for whoever knows `secret`.
    ///
    /// # Errors
    /// [`BundleError::Secret`] and `Io`.
    pub fn begin(mut out: W, volume: Id, secret: &UnlockSecret, costs: Costs) -> Result<Self, BundleError> {
        let key = Key::random().map_err(io::Error::other)?;
        let slot_len = match secret {
            UnlockSecret::Passphrase(_) => MAX_SLOT,
            UnlockSecret::KeyFile(_) | UnlockSecret::RecoveryKey(_) => MAX_SLOT - 3 * 4,
        };
        let mut header = Vec::with_capacity(HEADER_LEN);
        header.extend(MAGIC);
        header.extend(VERSION.to_le_bytes());
        header.extend(volume.0);
        header.extend((slot_len as u16).to_le_bytes());
        let slot = seal_key(&header, secret, costs, &key)?;
        debug_assert_eq!(slot.len(), slot_len);
        out.write_all(&header)?;
        out.write_all(&slot)?;
        Ok(Self { out, seal: Seal::new(&key, volume), count: 0 })
    }

    /// Adds the data key of an object, which must not be in the bundle already.
    ///
    /// # Errors
    /// [`BundleError::Io`].
    pub fn add(&mut self, kind: Kind, object: Id, data_key: &Key) -> Result<(), BundleError> {
        self.write(kind as u8, object, data_key)?;
        self.count += 1;
        Ok(())
    }

    /// Writes the last record. Without it a bundle is none.
    ///
    /// # Errors
    /// [`BundleError::Io`].
    pub fn finish(mut self) -> Result<W, BundleError> {
        self.write(END, NOBODY, &number(self.count))?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn write(&mut self, kind: u8, object: Id, key: &Key) -> Result<(), BundleError> {
        let aad = self.seal.aad(kind, object, self.count);
        let sealed = wrap(&self.seal.key, &aad, key).map_err(io::Error::other)?;
        self.out.write_all(&[kind])?;
        self.out.write_all(&object.0)?;
        Ok(self.out.write_all(&sealed)?)
    }
}

/// A bundle that was read through once and found whole. Data keys are read from the file when they
/// are wanted; only where they are is kept.
pub struct Bundle {
    file: File,
    start: u64,
    seal: Seal,
    places: HashMap<(Kind, Id), u64>,
}

impl Bundle {
    /// Opens a bundle and authenticates all of it.
    ///
    /// # Errors
    /// Any [`BundleError`].
    pub fn open(file: File, secret: &UnlockSecret) -> Result<Self, BundleError> {
        let mut input = BufReader::new(&file);
        let mut header = [0; HEADER_LEN];
        read(&mut input, &mut header).map_err(|error| match error {
            BundleError::Damaged(_) => BundleError::NotABundle,
            error => error,
        })?;
        let mut fields = Reader::new(&header);
        let cut = |_| BundleError::NotABundle;
        if fields.array().map_err(cut)? != MAGIC {
            return Err(BundleError::NotABundle);
        }
        let version = fields.u32().map_err(cut)?;
        if version != VERSION {
            return Err(BundleError::UnknownVersion(version));
        }
        let volume = Id(fields.array().map_err(cut)?);
        let slot_len = usize::from(fields.u16().map_err(cut)?);
        if slot_len > MAX_SLOT {
            return Err(BundleError::Damaged("its sealed key is too long"));
        }
        let mut slot = vec![0; slot_len];
        read(&mut input, &mut slot)?;
        let key = match open_key(&header, &slot, secret) {
            Ok(Some(key)) => key,
            Ok(None) => return Err(BundleError::WrongSecret),
            Err(_) => return Err(BundleError::Damaged("its sealed key is none")),
        };
        let seal = Seal::new(&key, volume);
        let places = authenticate(&mut input, &seal)?;
        Ok(Self { file, start: (HEADER_LEN + slot_len) as u64, seal, places })
    }

    /// The volume whose keys these are.
    pub fn volume(&self) -> Id {
        self.seal.volume
    }

    /// Whether an object's data key is in it.
    pub fn has(&self, kind: Kind, object: Id) -> bool {
        self.places.contains_key(&(kind, object))
    }

    /// The files whose data keys are in it, in no order.
    pub fn files(&self) -> impl Iterator<Item = Id> {
        self.places.keys().filter(|(kind, _)| *kind == Kind::File).map(|(_, id)| *id)
    }

    /// The data key of an object, if it is in the bundle.
    ///
    /// # Errors
    /// [`BundleError::Io`], and `Damaged` if the file was changed since it was opened.
    pub fn data_key(&self, kind: Kind, object: Id) -> Result<Option<Key>, BundleError> {
        let Some(&number) = self.places.get(&(kind, object)) else { return Ok(None) };
        let mut record = [0; RECORD_LEN];
        self.file.read_exact_at(&mut record, self.start + number * RECORD_LEN as u64)?;
        self.seal.open(&record, number).map(Some)
    }
}

/// Reads all records; where each one's data key is.
fn authenticate(input: &mut impl Read, seal: &Seal) -> Result<HashMap<(Kind, Id), u64>, BundleError> {
    let mut places = HashMap::new();
    let mut record = [0; RECORD_LEN];
    for at in 0.. {
        read(input, &mut record)?;
        let key = seal.open(&record, at)?;
        let object = Id(Reader::new(&record[1..]).array().unwrap_or_default());
        let kind = match record[0] {
            kind if kind == Kind::Volume as u8 => Kind::Volume,
            kind if kind == Kind::File as u8 => Kind::File,
            END if key == number(at) && object == NOBODY => break,
            _ => return Err(BundleError::Damaged("a record is of an unknown kind")),
        };
        if places.insert((kind, object), at).is_some() {
            return Err(BundleError::Damaged("a record is there twice"));
        }
    }
    match input.read(&mut [0])? {
        0 => Ok(places),
        _ => Err(BundleError::Damaged("something is behind its end")),
    }
}

/// The id in the last record.
const NOBODY: Id = Id([0; 16]);

/// What seals the records of a bundle.
struct Seal {
    key: Key,
    volume: Id,
}

impl Seal {
    fn new(bundle_key: &Key, volume: Id) -> Self {
        Self { key: Kdf::new(bundle_key, &volume.0).key(&[LABEL]), volume }
    }

    fn aad(&self, kind: u8, object: Id, number: u64) -> Vec<u8> {
        [LABEL, &self.volume.0, &[kind], &object.0, &number.to_le_bytes()].concat()
    }

    fn open(&self, record: &[u8; RECORD_LEN], number: u64) -> Result<Key, BundleError> {
        let forged = || BundleError::Damaged("a record was changed");
        let mut fields = Reader::new(record);
        let kind = fields.u8().map_err(|_| forged())?;
        let object = Id(fields.array().map_err(|_| forged())?);
        let sealed = fields.array().map_err(|_| forged())?;
        unwrap(&self.key, &self.aad(kind, object, number), &sealed).map_err(|_| forged())
    }
}

/// A number in a key's place.
fn number(number: u64) -> Key {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    Key::take_from(&mut bytes)
}

fn read(input: &mut impl Read, bytes: &mut [u8]) -> Result<(), BundleError> {
    input.read_exact(bytes).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => BundleError::Damaged("it was cut"),
        _ => error.into(),
    })
}

#[cfg(test)]
mod tests;
