//! A backup: one file with all that a key store holds, still sealed, and the unlock slots that
//! open it. So it opens with what opened the store when it was made.
//!
//! ```text
//!  0   8  magic
//!  8   4  format version
//! 12   8  when it was made, milliseconds since 1970
//! 20   .  version of the program that made it, behind its 16-bit length
//!      .  the store's plain header, behind its 16-bit length
//!      4  number of the next unlock slot
//!      4  count of unlock slots; for each: number (4), length (4), slot
//!      4  count of records; for each: place (32), length (4), sealed record
//!      4  count of material; for each: place (32), length (4), sealed material
//!     28  seal: nonce and tag, over the digest of all before it
//!     32  SHA-256 of all before it
//! ```
//!
//! The checksum finds damage without a secret, the seal forgery. The records are sealed as in the
//! store; the seal binds them together, so that none is missing or older than the others.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use redb::StorageBackend;

use super::disk::Disk;
use super::error::StoreError;
use super::header;
use super::image::{HEADER, Image, MAX_SEALED, NEXT_SLOT, Place};
use super::sealing::{Contents, Sealing};
use super::slot::{MAX_SLOTS, UnlockSecret};
use crate::codec::{Reader, Truncated};
use crate::crypto::kdf::{DIGEST_LEN, sha256};
use crate::crypto::{NONCE_LEN, TAG_LEN};

const MAGIC: &[u8; 8] = b"KMSFSBAK";
const FORMAT: u32 = 1;
/// Largest backup that is read: far above what a store grows to.
const MAX_LEN: u64 = 1 << 30;
/// Longest slot.
const MAX_SLOT: usize = 1024;
const SEAL_LEN: usize = NONCE_LEN + TAG_LEN;
/// Suffix of a backup that is not finished.
const UNFINISHED: &str = ".kmsfs-unfinished";

/// A backup, parsed and undamaged, but not yet opened.
pub(super) struct Backup {
    pub(super) created: Timestamp,
    pub(super) program: String,
    pub(super) image: Image,
    digest: [u8; DIGEST_LEN],
    seal: Vec<u8>,
    file: PathBuf,
}

/// What a backup may be written over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::kms) enum Over {
    /// No file at all.
    Nothing,
    /// A backup of the same store, damaged ones included.
    OwnBackup,
    /// Any file.
    Anything,
}

/// What was written.
#[derive(Debug, Clone, Copy)]
pub(in crate::kms) struct Written {
    pub(in crate::kms) len: u64,
    pub(in crate::kms) checksum: [u8; DIGEST_LEN],
    pub(in crate::kms) created: Timestamp,
    pub(in crate::kms) keys: u64,
    pub(in crate::kms) versions: u64,
}

/// Writes a backup of `image` aside, opens it again, and only then gives it its name, durably.
pub(super) fn write(
    disk: &dyn Disk,
    sealing: &Sealing,
    image: &Image,
    path: &Path,
    over: Over,
) -> Result<Written, StoreError> {
    if disk.exists(path) && !may_replace(disk, sealing, path, over) {
        return Err(StoreError::BackupExists(path.to_owned()));
    }
    let created = Timestamp::now();
    let bytes = encode(sealing, image, created)?;
    let mut aside = OsString::from(path);
    aside.push(UNFINISHED);
    let aside = PathBuf::from(aside);
    let written = write_aside(disk, &aside, &bytes).and_then(|()| {
        let opened = read(disk, &aside)?.open_with(sealing)?;
        name(disk, &aside, path, over != Over::Nothing)?;
        Ok(opened)
    });
    let Contents { keys, .. } = written.inspect_err(|_| {
        let _ = disk.remove(&aside);
    })?;
    Ok(Written {
        len: bytes.len() as u64,
        checksum: sha256(&[&bytes]),
        created,
        keys: keys.len() as u64,
        versions: keys.iter().map(|(_, versions)| versions.len() as u64).sum(),
    })
}

/// Reads a backup and finds out any damage.
pub(super) fn read(disk: &dyn Disk, path: &Path) -> Result<Backup, StoreError> {
    let bytes = disk.read(path, MAX_LEN).map_err(StoreError::io_on("read the backup", path))?;
    let damaged = |why: &str| StoreError::BackupDamaged { path: path.to_owned(), what: why.to_owned() };
    let mut r = Reader::new(&bytes);
    if r.array().ok() != Some(*MAGIC) {
        return Err(StoreError::NotABackup(path.to_owned()));
    }
    // Before the checksum, which another version may keep elsewhere.
    match r.u32() {
        Ok(FORMAT) => {}
        Ok(found) => return Err(StoreError::BackupVersion { path: path.to_owned(), found, known: FORMAT }),
        Err(Truncated) => return Err(damaged("cut")),
    }
    let (covered, checksum) = bytes.split_at(bytes.len().saturating_sub(DIGEST_LEN));
    if sha256(&[covered]) != checksum {
        return Err(damaged("its checksum is wrong"));
    }
    let (body, seal) = covered.split_at(covered.len().saturating_sub(SEAL_LEN));
    match parse(body) {
        Ok(Some((created, program, image))) => Ok(Backup {
            created,
            program,
            image,
            digest: sha256(&[body]),
            seal: seal.to_vec(),
            file: path.to_owned(),
        }),
        _ => Err(damaged("its contents are of no known form")),
    }
}

impl Backup {
    /// Whether it holds what a store with this image holds.
    pub(super) fn has_all_of(&self, image: &Image) -> bool {
        let tables = |image: &Image| (image.slots.clone(), image.records.clone(), image.material.clone());
        tables(&self.image) == tables(image)
    }

    /// The keys that open the store, by the secret of any slot.
    pub(super) fn unlock(&self, secret: &UnlockSecret) -> Result<Sealing, StoreError> {
        let (id, _) = header::decode(&self.file, self.image.header())?;
        let (_, root) = super::unlocking::unlock(&self.image, secret)?.ok_or(StoreError::WrongSecret)?;
        Ok(Sealing::new(root, id))
    }

    /// All that is in it, if the backup is whole and of this store.
    pub(super) fn open_with(&self, sealing: &Sealing) -> Result<Contents, StoreError> {
        let damaged = |why: &str| StoreError::BackupDamaged { path: self.file.clone(), what: why.to_owned() };
        let (id, _) = header::decode(&self.file, self.image.header())?;
        if id != sealing.id {
            return Err(damaged("it is of another key store"));
        }
        if !sealing.is_backup_of_this_store(&self.digest, &self.seal) {
            return Err(damaged("it is forged"));
        }
        sealing.open_all(&self.image).map_err(|error| damaged(&error.to_string()))
    }
}

fn may_replace(disk: &dyn Disk, sealing: &Sealing, path: &Path, over: Over) -> bool {
    match over {
        Over::Nothing => false,
        Over::Anything => true,
        Over::OwnBackup => match read(disk, path) {
            Ok(found) => header::decode(path, found.image.header()).is_ok_and(|(id, _)| id == sealing.id),
            // Whose it was cannot be told, and it is of no use to anyone.
            Err(StoreError::BackupDamaged { .. }) => true,
            Err(_) => false,
        },
    }
}

fn encode(sealing: &Sealing, image: &Image, created: Timestamp) -> Result<Vec<u8>, StoreError> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(FORMAT.to_le_bytes());
    bytes.extend(created.as_millisecond().to_le_bytes());
    for text in [env!("CARGO_PKG_VERSION").as_bytes(), image.header()] {
        bytes.extend((text.len() as u16).to_le_bytes());
        bytes.extend(text);
    }
    bytes.extend(image.next_slot().unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend((image.slots.len() as u32).to_le_bytes());
    for (number, slot) in &image.slots {
        bytes.extend(number.to_le_bytes());
        bytes.extend((slot.len() as u32).to_le_bytes());
        bytes.extend(slot);
    }
    for table in [&image.records, &image.material] {
        bytes.extend((table.len() as u32).to_le_bytes());
        for (place, sealed) in table {
            bytes.extend(place);
            bytes.extend((sealed.len() as u32).to_le_bytes());
            bytes.extend(sealed);
        }
    }
    let seal = sealing.seal_backup(&sha256(&[&bytes]))?;
    bytes.extend(seal);
    let checksum = sha256(&[&bytes]);
    bytes.extend(checksum);
    Ok(bytes)
}

/// `None` if a value is out of bounds.
fn parse(body: &[u8]) -> Result<Option<(Timestamp, String, Image)>, Truncated> {
    let mut r = Reader::new(body);
    r.bytes(MAGIC.len() + 4)?;
    let created = i64::from_le_bytes(r.array()?);
    let program = String::from_utf8_lossy(r.string16()?).into_owned();
    let mut image = Image::default();
    image.meta.insert(HEADER.to_owned(), r.string16()?.to_vec());
    image.meta.insert(NEXT_SLOT.to_owned(), r.u32()?.to_le_bytes().to_vec());
    let slots = r.u32()?;
    for _ in 0..slots {
        let (number, len) = (r.u32()?, r.u32()? as usize);
        if len > MAX_SLOT || image.slots.len() >= MAX_SLOTS {
            return Ok(None);
        }
        image.slots.insert(number, r.bytes(len)?.to_vec());
    }
    let (Some(records), Some(material)) = (sealed_rows(&mut r)?, sealed_rows(&mut r)?) else {
        return Ok(None);
    };
    (image.records, image.material) = (records, material);
    let Ok(created) = Timestamp::from_millisecond(created) else { return Ok(None) };
    Ok(r.rest().is_empty().then_some((created, program, image)))
}

fn sealed_rows(r: &mut Reader<'_>) -> Result<Option<BTreeMap<Place, Vec<u8>>>, Truncated> {
    let count = r.u32()?;
    let mut rows = BTreeMap::new();
    for _ in 0..count {
        let (place, len) = (r.array()?, r.u32()? as usize);
        if len > MAX_SEALED {
            return Ok(None);
        }
        rows.insert(place, r.bytes(len)?.to_vec());
    }
    Ok(Some(rows))
}

fn write_aside(disk: &dyn Disk, aside: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    // One that was interrupted left it.
    disk.remove(aside).map_err(StoreError::io_on("remove an unfinished backup", aside))?;
    let write = |backend: Box<dyn StorageBackend>| {
        backend.set_len(bytes.len() as u64)?;
        backend.write(0, bytes)?;
        backend.sync_data()?;
        backend.close()
    };
    disk.create(aside).and_then(write).map_err(StoreError::io_on("write the backup", aside))
}

fn name(disk: &dyn Disk, aside: &Path, path: &Path, replace: bool) -> Result<(), StoreError> {
    let named = if replace { disk.replace(aside, path) } else { disk.rename(aside, path) };
    match named {
        Err(error) if !replace && error.kind() == std::io::ErrorKind::AlreadyExists => {
            return Err(StoreError::BackupExists(path.to_owned()));
        }
        named => named.map_err(StoreError::io_on("name the backup", path))?,
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    match disk.sync_directory(directory.unwrap_or(Path::new("."))) {
        // As on filesystems without directories of their own to flush.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        synced => synced.map_err(StoreError::io_on("name the backup", path)),
    }
}
