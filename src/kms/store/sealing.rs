//! Sealing and opening what the store keeps. A sealed value is nonce, ciphertext, tag; its
//! associated data is a label, the store id, the table and the place, so that no record can stand
//! in for another.

use zeroize::Zeroizing;

use super::error::StoreError;
use super::image::{BACKUP, Edit, Image, Place};
use super::record::{
    self, AccessKeyRecord, AliasRecord, CustomStoreRecord, ExternalKeyRecord, GrantRecord, ImportRecord,
    KeyRecord, ReceiptRecord, Record, RecordName, VolumeRecord,
};
use crate::crypto::kdf::DIGEST_LEN;
use crate::crypto::wrap::{open_into, seal_into};
use crate::crypto::{NONCE_LEN, TAG_LEN};
use crate::kms::id::{KeyId, StoreId};
use crate::kms::schedule::{BACKUP_LABEL, RECORD_LABEL, StoreKeys, fingerprint, fingerprint_of_bytes};
use crate::kms::spec::{KeySpec, Origin};
use crate::secret::{Key, Secret};

/// A key with its material, oldest version first; `None` where imported material was deleted.
pub(in crate::kms) type LoadedKey = (KeyRecord, Vec<Option<Material>>);

/// One version of a master key's material.
#[derive(Debug)]
pub(in crate::kms) enum Material {
    /// What AES-256-GCM-SIV takes.
    Key(Key),
    /// A private key (PKCS #8), or a key of HMAC.
    Secret(Secret),
}

/// Everything that a store keeps.
#[derive(Default)]
pub(in crate::kms) struct Contents {
    pub(in crate::kms) keys: Vec<LoadedKey>,
    pub(in crate::kms) aliases: Vec<AliasRecord>,
    pub(in crate::kms) grants: Vec<GrantRecord>,
    pub(in crate::kms) access_keys: Vec<AccessKeyRecord>,
    pub(in crate::kms) imports: Vec<ImportRecord>,
    pub(in crate::kms) custom_stores: Vec<CustomStoreRecord>,
    pub(in crate::kms) external_keys: Vec<ExternalKeyRecord>,
    pub(in crate::kms) volumes: Vec<VolumeRecord>,
    pub(in crate::kms) receipts: Vec<ReceiptRecord>,
}

/// One step of a commit.
pub(in crate::kms) enum Change<'a> {
    /// Writes a record over the one of the same name.
    Put(&'a Record),
    /// Removes a record. Not that of a key.
    Drop(RecordName<'a>),
    /// Writes a version of a key's material.
    PutMaterial { key: &'a KeyId, version: u32, material: &'a Material },
    /// Removes a version of a key's material.
    DropMaterial { key: &'a KeyId, version: u32 },
    /// Removes a key and all versions of its material.
    DropKey(&'a KeyRecord),
}

impl Material {
    /// What names it in public.
    pub(in crate::kms) fn fingerprint(&self, key: &KeyId) -> [u8; DIGEST_LEN] {
        match self {
            Self::Key(own) => fingerprint(own, key),
            Self::Secret(own) => fingerprint_of_bytes(&own.expose(), key),
        }
    }

    /// The key of a symmetric master key.
    pub(in crate::kms) fn key(&self) -> Option<&Key> {
        match self {
            Self::Key(key) => Some(key),
            Self::Secret(_) => None,
        }
    }

    fn with_bytes<R>(&self, with: impl FnOnce(&[u8]) -> R) -> R {
        match self {
            Self::Key(key) => with(key.expose()),
            Self::Secret(secret) => with(&secret.expose()),
        }
    }
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
                    let place = self.keys.place(&record.name().bytes());
                    let sealed = self.seal(&self.keys.records, b"records", &place, &record.encode()?)?;
                    edits.push(Edit::Record(place, Some(sealed)));
                }
                Change::Drop(name) => edits.push(Edit::Record(self.keys.place(&name.bytes()), None)),
                Change::PutMaterial { key, version, material } => {
                    let place = self.keys.place(&record::material_name(key, *version));
                    let sealed = material
                        .with_bytes(|bytes| self.seal(&self.keys.material, b"material", &place, bytes))?;
                    edits.push(Edit::Material(place, Some(sealed)));
                }
                Change::DropMaterial { key, version } => {
                    let place = self.keys.place(&record::material_name(key, *version));
                    edits.push(Edit::Material(place, None));
                }
                Change::DropKey(key) => {
                    for (_, version) in (0..key.versions.len()).zip(1..) {
                        let place = self.keys.place(&record::material_name(&key.id, version));
                        edits.push(Edit::Material(place, None));
                    }
                    edits.push(Edit::Record(self.keys.place(&RecordName::Key(&key.id).bytes()), None));
                }
            }
        }
        Ok(edits)
    }

    /// Everything. Every record is authenticated.
    pub(super) fn open_all(&self, image: &Image) -> Result<Contents, StoreError> {
        let (mut contents, mut present) = (Contents::default(), 0);
        for (place, sealed) in &image.records {
            match self.open_record(place, sealed)? {
                Record::KeyV1(old) => contents.keys.push((old.into(), Vec::new())),
                Record::KeyV2(record) => contents.keys.push((record, Vec::new())),
                Record::AliasV1(record) => contents.aliases.push(record),
                Record::GrantV1(record) => contents.grants.push(record),
                Record::AccessKeyV1(record) => contents.access_keys.push(record),
                Record::ImportV1(record) => contents.imports.push(record),
                Record::CustomStoreV1(record) => contents.custom_stores.push(record),
                Record::ExternalKeyV1(record) => contents.external_keys.push(record),
                Record::VolumeV1(record) => contents.volumes.push(record),
                Record::ReceiptV1(record) => contents.receipts.push(record),
            }
        }
        for (record, material) in &mut contents.keys {
            *material = self.open_versions(record, image)?;
            present += material.iter().flatten().count();
        }
        if present != image.material.len() {
            return Err(StoreError::damaged("material without its key"));
        }
        Ok(contents)
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
        self.seal_meta(BACKUP, path)
    }

    /// What [`Sealing::seal_backup_path`] stored.
    pub(super) fn backup_path(&self, image: &Image) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        self.open_meta(image, BACKUP)
    }

    /// The value of a sealed row of the table `meta`.
    pub(super) fn seal_meta(&self, name: &str, value: &[u8]) -> Result<Vec<u8>, StoreError> {
        self.seal(&self.keys.records, b"meta", &self.meta_place(name), value)
    }

    /// What [`Sealing::seal_meta`] sealed, if the row is there.
    pub(super) fn open_meta(
        &self,
        image: &Image,
        name: &str,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        let Some(sealed) = image.meta.get(name) else { return Ok(None) };
        self.open(b"meta", &self.meta_place(name), sealed).map(Some)
    }

    fn meta_place(&self, name: &str) -> Place {
        self.keys.place(&[b"meta\0", name.as_bytes()].concat())
    }

    fn open_versions(&self, record: &KeyRecord, image: &Image) -> Result<Vec<Option<Material>>, StoreError> {
        if record.versions.is_empty() && record.origin != Origin::External {
            return Err(StoreError::damaged("a key without material"));
        }
        let numbered = record.versions.iter().zip(1..);
        numbered
            .map(|(version, number)| {
                let place = self.keys.place(&record::material_name(&record.id, number));
                if !version.present {
                    return Ok(None);
                }
                let sealed = image.material.get(&place);
                let sealed = sealed.ok_or_else(|| StoreError::damaged("missing material"))?;
                let material = self.open_material(record.spec, &place, sealed)?;
                if material.fingerprint(&record.id) != version.fingerprint {
                    return Err(StoreError::damaged("material of another version"));
                }
                Ok(Some(material))
            })
            .collect()
    }

    fn open_material(&self, spec: KeySpec, place: &Place, sealed: &[u8]) -> Result<Material, StoreError> {
        let aad = self.aad(b"material", place);
        let forged = |_| StoreError::damaged("a forged or broken material record");
        if spec == KeySpec::SymmetricDefault {
            let key = Key::fill(|bytes| open_into(&self.keys.material, &aad, sealed, bytes));
            return key.map(Material::Key).map_err(forged);
        }
        let len = sealed.len().saturating_sub(NONCE_LEN + TAG_LEN);
        let mut bytes = Zeroizing::new(vec![0; len]);
        open_into(&self.keys.material, &aad, sealed, &mut bytes).map_err(forged)?;
        Ok(Material::Secret(Secret::copy_of(&bytes)))
    }

    fn open_record(&self, place: &Place, sealed: &[u8]) -> Result<Record, StoreError> {
        let record = Record::decode(&self.open(b"records", place, sealed)?)?;
        if self.keys.place(&record.name().bytes()) == *place { Ok(record) } else { Err(forged()) }
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
