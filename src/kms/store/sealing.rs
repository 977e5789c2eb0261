//! Sealing and opening what the store keeps. A sealed value is nonce, ciphertext, tag; its
//! associated data is a label, the store id, the table and the place, so that no record can stand
//! in for another.

use zeroize::Zeroizing;

use super::error::StoreError;
use super::image::{BACKUP, Edit, Image, Place};
use super::record::{self, AliasRecord, KeyRecord, Record};
use crate::crypto::wrap::{open_into, seal_into};
use crate::crypto::{NONCE_LEN, TAG_LEN};
use crate::kms::id::{AliasName, KeyId, StoreId};
use crate::kms::schedule::{BACKUP_LABEL, RECORD_LABEL, StoreKeys, fingerprint};
use crate::secret::Key;

/// A key with its material, oldest version first.
pub(in crate::kms) type LoadedKey = (KeyRecord, Vec<Key>);

/// One step of a commit.
pub(in crate::kms) enum Change<'a> {
    /// Writes a record over the one of the same name.
    Put(&'a Record),
    /// Removes an alias.
    DropAlias(&'a AliasName),
    /// Writes a version of a key's material.
    PutMaterial { key: &'a KeyId, version: u32, material: &'a Key },
    /// Removes a key and all versions of its material.
    DropKey(&'a KeyRecord),
}

/// The keys of one store, and what binds sealed values to it.
#[derive(Debug)]
pub(super) struct Sealing {
    pub(super) id: StoreId,
    pub(super) keys: StoreKeys,
}

impl Sealing {
    pub(super) fn new(root: Key, id: StoreId) -> Self {
        Self { keys: StoreKeys::derive(root, &id), id }
    }

    /// The rows that `changes` write and remove.
    pub(super) fn edits(&self, changes: &[Change<'_>]) -> Result<Vec<Edit>, StoreError> {
        let mut edits = Vec::new();
        for change in changes {
            match change {
                Change::Put(record) => {
                    let place = self.keys.place(&record.name());
                    let sealed = self.seal(&self.keys.records, b"records", &place, &record.encode()?)?;
                    edits.push(Edit::Record(place, Some(sealed)));
                }
                Change::DropAlias(alias) => {
                    edits.push(Edit::Record(self.keys.place(&record::alias_name(alias.as_str())), None));
                }
                Change::PutMaterial { key, version, material } => {
                    let place = self.keys.place(&record::material_name(key, *version));
                    let sealed = self.seal(&self.keys.material, b"material", &place, material.expose())?;
                    edits.push(Edit::Material(place, Some(sealed)));
                }
                Change::DropKey(key) => {
                    for (_, version) in (0..key.versions.len()).zip(1..) {
                        let place = self.keys.place(&record::material_name(&key.id, version));
                        edits.push(Edit::Material(place, None));
                    }
                    edits.push(Edit::Record(self.keys.place(&record::key_name(&key.id)), None));
                }
            }
        }
        Ok(edits)
    }

    /// Every key with its material, and every alias. Every record is authenticated.
    pub(super) fn open_all(&self, image: &Image) -> Result<(Vec<LoadedKey>, Vec<AliasRecord>), StoreError> {
        let (mut keys, mut aliases, mut versions) = (Vec::new(), Vec::new(), 0);
        for (place, sealed) in &image.records {
            match self.open_record(place, sealed)? {
                Record::KeyV1(record) => {
                    let loaded = self.open_versions(&record, image)?;
                    versions += loaded.len();
                    keys.push((record, loaded));
                }
                Record::AliasV1(record) => aliases.push(record),
            }
        }
        if versions != image.material.len() {
            return Err(StoreError::damaged("material without its key"));
        }
        Ok((keys, aliases))
    }

    /// A tag that binds everything in a backup together, over its digest.
    pub(super) fn seal_backup(&self, digest: &[u8]) -> Result<Vec<u8>, StoreError> {
        let mut seal = vec![0; NONCE_LEN + TAG_LEN];
        seal_into(&self.keys.backup, &[BACKUP_LABEL, digest].concat(), &[], &mut seal)?;
        Ok(seal)
    }

    /// Whether [`Sealing::seal_backup`] of this store made `seal`.
    pub(super) fn is_backup_of_this_store(&self, digest: &[u8], seal: &[u8]) -> bool {
        open_into(&self.keys.backup, &[BACKUP_LABEL, digest].concat(), seal, &mut []).is_ok()
    }

    /// The path of the backup that is kept up to date, as it is stored.
    pub(super) fn seal_backup_path(&self, path: &[u8]) -> Result<Vec<u8>, StoreError> {
        self.seal(&self.keys.records, b"meta", &self.backup_place(), path)
    }

    /// What [`Sealing::seal_backup_path`] stored.
    pub(super) fn backup_path(&self, image: &Image) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        let Some(sealed) = image.meta.get(BACKUP) else { return Ok(None) };
        self.open(b"meta", &self.backup_place(), sealed).map(Some)
    }

    fn backup_place(&self) -> Place {
        self.keys.place(&[b"meta\0", BACKUP.as_bytes()].concat())
    }

    fn open_versions(&self, record: &KeyRecord, image: &Image) -> Result<Vec<Key>, StoreError> {
        if record.versions.is_empty() {
            return Err(StoreError::damaged("a key without material"));
        }
        let numbered = record.versions.iter().zip(1..);
        numbered
            .map(|(version, number)| {
                let place = self.keys.place(&record::material_name(&record.id, number));
                let sealed = image.material.get(&place);
                let sealed = sealed.ok_or_else(|| StoreError::damaged("missing material"))?;
                let aad = self.aad(b"material", &place);
                let key = Key::fill(|bytes| open_into(&self.keys.material, &aad, sealed, bytes))
                    .map_err(|_| StoreError::damaged("a forged or broken material record"))?;
                if fingerprint(&key, &record.id) != version.fingerprint {
                    return Err(StoreError::damaged("material of another version"));
                }
                Ok(key)
            })
            .collect()
    }

    fn open_record(&self, place: &Place, sealed: &[u8]) -> Result<Record, StoreError> {
        let record = Record::decode(&self.open(b"records", place, sealed)?)?;
        if self.keys.place(&record.name()) == *place { Ok(record) } else { Err(forged()) }
    }

    fn open(&self, table: &[u8], place: &Place, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        let len = sealed.len().checked_sub(NONCE_LEN + TAG_LEN).filter(|len| *len <= record::MAX_RECORD);
        let mut plaintext = Zeroizing::new(vec![0; len.ok_or_else(forged)?]);
        open_into(&self.keys.records, &self.aad(table, place), sealed, &mut plaintext)
            .map_err(|_| forged())?;
        Ok(plaintext)
    }

    fn seal(&self, key: &Key, table: &[u8], place: &Place, plaintext: &[u8]) -> Result<Vec<u8>, StoreError> {
        let mut sealed = vec![0; NONCE_LEN + plaintext.len() + TAG_LEN];
        seal_into(key, &self.aad(table, place), plaintext, &mut sealed)?;
        Ok(sealed)
    }

    fn aad(&self, table: &[u8], place: &Place) -> Vec<u8> {
        [RECORD_LABEL, self.id.as_bytes(), table, b"\0", place].concat()
    }
}

fn forged() -> StoreError {
    StoreError::damaged("a forged or broken record")
}
