//! Everything that the store keeps, in memory: a copy of what is durable, with the material at hand.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::grant_book::Grant;
use super::permit::{KeyPolicy, Rights};
use crate::kms::api::{KeyMetadata, SYMMETRIC_DEFAULT};
use crate::kms::blob::BlobHead;
use crate::kms::error::{ErrorKind, KmsError};
use crate::kms::id::{AliasName, KeyId, KeyRef, Realm, Resource, StoreId};
use crate::kms::state::KeyState;
use crate::kms::store::{AccessKeyRecord, AliasRecord, ImportRecord, KeyRecord, Material, Store, StoreError};
use crate::secret::Key;

/// All of it.
#[derive(Default)]
pub(super) struct Book {
    pub(super) keys: BTreeMap<KeyId, Arc<Entry>>,
    pub(super) aliases: BTreeMap<AliasName, AliasRecord>,
    pub(super) access_keys: BTreeMap<String, AccessKeyRecord>,
    /// By their tokens.
    pub(super) imports: BTreeMap<[u8; 32], ImportRecord>,
}

/// One key. Never changed: a change replaces the entry.
pub(super) struct Entry {
    pub(super) record: KeyRecord,
    pub(super) arn: String,
    /// Oldest first, as many as `record.versions`; `None` where imported material was deleted.
    /// Shared with the entry's successors.
    pub(super) material: Vec<Option<Arc<Material>>>,
    /// `record.policy`, read.
    pub(super) policy: KeyPolicy,
}

/// Which spellings of a key an operation takes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    /// Id, ARN, alias, alias ARN.
    Any,
    /// Id or ARN: managing through an alias could hit the wrong key.
    IdOrArn,
}

impl Book {
    pub(super) fn load(store: &Store) -> Result<(Self, Rights), StoreError> {
        let contents = store.load()?;
        let (mut book, mut rights) = (Self::default(), Rights::default());
        for (record, material) in contents.keys {
            let material = material.into_iter().map(|version| version.map(Arc::new)).collect();
            book.keys.insert(record.id, Arc::new(Entry::new(record, material, store.realm())));
        }
        for record in contents.aliases {
            let alias = record.alias()?;
            rights.aliases.entry(record.target).or_default().insert(alias.clone());
            book.aliases.insert(alias, record);
        }
        contents.grants.into_iter().for_each(|record| rights.grants.insert(Grant::new(record)));
        book.access_keys = contents.access_keys.into_iter().map(|key| (key.id.clone(), key)).collect();
        book.imports = contents.imports.into_iter().map(|import| (import.token, import)).collect();
        Ok((book, rights))
    }

    /// The key that `text` names.
    pub(super) fn resolve(
        &self,
        text: &str,
        spelling: Spelling,
        realm: &Realm,
    ) -> Result<&Arc<Entry>, KmsError> {
        let reference: KeyRef = text.parse()?;
        let unknown = |what: &str| KmsError::new(ErrorKind::NotFound, format!("{what} is not found."));
        if reference.realm.as_ref().is_some_and(|named| named != realm) {
            return Err(unknown(text));
        }
        match &reference.resource {
            Resource::Key(id) => self.by_id(id, realm),
            Resource::Alias(_) if spelling == Spelling::IdOrArn => Err(KmsError::new(
                ErrorKind::NotFound,
                format!("Invalid keyId '{text}': this operation takes a key's id or ARN, not an alias"),
            )),
            Resource::Alias(alias) => {
                let target = self
                    .aliases
                    .get(alias)
                    .ok_or_else(|| unknown(&format!("Alias {}", realm.alias_arn(alias))))?;
                self.by_id(&target.target, realm)
            }
        }
    }

    pub(super) fn by_id(&self, id: &KeyId, realm: &Realm) -> Result<&Arc<Entry>, KmsError> {
        self.keys.get(id).ok_or_else(|| {
            let arn = realm.key_arn(id);
            KmsError::new(ErrorKind::NotFound, format!("Key '{arn}' does not exist"))
        })
    }

    /// Milliseconds since 1970 of the next deletion; `i64::MAX` when there is none.
    pub(super) fn next_deletion(&self) -> i64 {
        let due = self.keys.values().filter_map(|entry| entry.record.deletion);
        due.map(|deletion| deletion.at.as_millisecond()).min().unwrap_or(i64::MAX)
    }
}

impl Entry {
    pub(super) fn new(record: KeyRecord, material: Vec<Option<Arc<Material>>>, realm: &Realm) -> Self {
        debug_assert_eq!(record.versions.len(), material.len());
        let arn = realm.key_arn(&record.id).to_string();
        Self { policy: KeyPolicy::of(record.policy.as_deref(), &arn), arn, record, material }
    }

    /// Number of the newest version; 0 before any was imported.
    pub(super) fn newest(&self) -> u32 {
        // The limit on rotations keeps the count far below 2^32.
        self.material.len() as u32
    }

    /// The material of `version`.
    pub(super) fn material(&self, version: u32) -> Option<&Material> {
        let index = usize::try_from(version).ok()?.checked_sub(1)?;
        self.material.get(index)?.as_deref()
    }

    /// The symmetric key of `version`.
    pub(super) fn version(&self, version: u32) -> Option<&Key> {
        self.material(version)?.key()
    }

    /// The fingerprint of `version` in hexadecimal.
    pub(super) fn fingerprint(&self, version: u32) -> String {
        let index = (version as usize).wrapping_sub(1);
        let version = self.record.versions.get(index);
        version.map(|v| data_encoding::HEXLOWER.encode(&v.fingerprint)).unwrap_or_default()
    }

    /// The head of the blobs that this key makes now.
    pub(super) fn head(&self, store: &StoreId) -> BlobHead {
        BlobHead { store: *store, key: self.record.id, version: self.newest() }
    }

    pub(super) fn metadata(&self, realm: &Realm) -> KeyMetadata {
        KeyMetadata {
            key_id: self.record.id,
            arn: self.arn.clone(),
            account: realm.account.clone(),
            creation_date: self.record.created,
            enabled: self.record.state == KeyState::Enabled,
            description: self.record.description.clone(),
            key_usage: self.record.usage,
            key_state: self.record.state,
            deletion_date: self.record.deletion.map(|deletion| deletion.at),
            key_spec: self.record.spec,
            customer_master_key_spec: self.record.spec,
            origin: self.record.origin,
            key_manager: self.record.manager,
            multi_region: false,
            encryption_algorithms: vec![SYMMETRIC_DEFAULT.to_owned()],
            current_key_material_id: self.fingerprint(self.newest()),
            current_key_material_version: self.newest(),
        }
    }
}
