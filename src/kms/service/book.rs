//! Everything that the store keeps, in memory: a copy of what is durable, with the material at hand.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::external::{CustomStore, Link, Network};
use super::grant_book::Grant;
use super::held::Held;
use super::permit::{KeyPolicy, Rights};
use crate::kms::api::{ExpirationModel, KeyMetadata};
use crate::kms::blob::BlobHead;
use crate::kms::error::{ErrorKind, KmsError};
use crate::kms::id::{AliasName, KeyId, KeyRef, Realm, Resource, StoreId};
use crate::kms::material::Parsed;
use crate::kms::spec::{KeySpec, KeyUsage, Origin};
use crate::kms::state::{KeyManager, KeyState};
use crate::kms::store::{
    AccessKeyRecord, AliasRecord, ImportRecord, KeyRecord, LastUse, ReceiptRecord, Store, StoreError,
    VolumeRecord,
};
use crate::secret::Key;

/// All of it.
#[derive(Default)]
pub(super) struct Book {
    pub(super) keys: BTreeMap<KeyId, Arc<Entry>>,
    pub(super) aliases: BTreeMap<AliasName, AliasRecord>,
    pub(super) access_keys: BTreeMap<String, AccessKeyRecord>,
    /// By their tokens.
    pub(super) imports: BTreeMap<[u8; 32], ImportRecord>,
    /// By their ids.
    pub(super) custom_stores: BTreeMap<String, Arc<CustomStore>>,
    pub(super) volumes: BTreeMap<String, VolumeRecord>,
    /// By the keys that they are about; most of these are no more.
    pub(super) receipts: BTreeMap<KeyId, ReceiptRecord>,
}

/// One key. Never changed: a change replaces the entry.
pub(super) struct Entry {
    pub(super) record: KeyRecord,
    pub(super) arn: String,
    /// Oldest first, as many as `record.versions`; `None` where imported material was deleted.
    /// Shared with the entry's successors.
    pub(super) material: Vec<Option<Arc<Held>>>,
    /// `record.policy`, read.
    pub(super) policy: KeyPolicy,
    /// What leads to the other half of a key of an external key store.
    pub(super) link: Option<Link>,
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
    pub(super) fn load(store: &Store, network: &Arc<Network>) -> Result<(Self, Rights), StoreError> {
        let contents = store.load()?;
        let (mut book, mut rights) = (Self::default(), Rights::default());
        for record in contents.custom_stores {
            let custom = CustomStore::new(record, network, store.realm())
                .map_err(|_| StoreError::damaged("a custom key store that leads nowhere"))?;
            book.custom_stores.insert(custom.record.id.clone(), Arc::new(custom));
        }
        let mut links = book.links(contents.external_keys)?;
        for (record, material) in contents.keys {
            let held = material.into_iter().zip(&record.versions).map(|(material, version)| {
                material.map(|material| Arc::new(Held::new(material, version.wraps_reserved)))
            });
            let material = held.collect();
            let link = links.remove(&record.id);
            if link.is_some() != (record.origin == Origin::ExternalKeyStore) {
                return Err(StoreError::damaged("half of a key of an external key store"));
            }
            let entry = Entry::new(record, material, store.realm()).with_link(link);
            book.keys.insert(entry.record.id, Arc::new(entry));
        }
        for record in contents.aliases {
            let alias = record.alias()?;
            rights.aliases.entry(record.target).or_default().insert(alias.clone());
            book.aliases.insert(alias, record);
        }
        contents.grants.into_iter().for_each(|record| rights.grants.insert(Grant::new(record)));
        book.access_keys = contents.access_keys.into_iter().map(|key| (key.id.clone(), key)).collect();
        book.volumes = contents.volumes.into_iter().map(|volume| (volume.id.clone(), volume)).collect();
        book.receipts = contents.receipts.into_iter().map(|receipt| (receipt.key, receipt)).collect();
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

    /// Milliseconds since 1970 of the next thing that the clock does to a key: a deletion, the end
    /// of imported material or a rotation; `i64::MAX` when there is none.
    pub(super) fn next_due(&self) -> i64 {
        self.keys.values().filter_map(|entry| entry.next_due()).min().unwrap_or(i64::MAX)
    }
}

impl Entry {
    pub(super) fn new(record: KeyRecord, material: Vec<Option<Arc<Held>>>, realm: &Realm) -> Self {
        debug_assert_eq!(record.versions.len(), material.len());
        let arn = realm.key_arn(&record.id).to_string();
        Self { policy: KeyPolicy::of(record.policy.as_deref(), &arn), arn, record, material, link: None }
    }

    /// This entry, as one of a key of an external key store.
    pub(super) fn with_link(self, link: Option<Link>) -> Self {
        Self { link, ..self }
    }

    /// What replaces this entry when the key's record or material changes.
    pub(super) fn successor(
        &self,
        record: KeyRecord,
        material: Vec<Option<Arc<Held>>>,
        realm: &Realm,
    ) -> Self {
        Self::new(record, material, realm).with_link(self.link.clone())
    }

    /// Number of the newest version; 0 before any was imported.
    pub(super) fn newest(&self) -> u32 {
        // The limit on rotations keeps the count far below 2^32.
        self.material.len() as u32
    }

    /// The material of `version`.
    pub(super) fn held(&self, version: u32) -> Option<&Held> {
        let index = usize::try_from(version).ok()?.checked_sub(1)?;
        self.material.get(index)?.as_deref()
    }

    /// The symmetric key of `version`.
    pub(super) fn version(&self, version: u32) -> Option<&Key> {
        self.held(version)?.material().key()
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

    /// The newest material, ready for use.
    ///
    /// # Errors
    /// InvalidState when the key has none; Internal when it is not of the key's spec.
    pub(super) fn parsed(&self) -> Result<&Parsed, KmsError> {
        let held = self.held(self.newest()).ok_or_else(|| self.no_material())?;
        held.parsed(self.record.spec, self.record.usage)
    }

    /// The refusal of a use that needs material which is not there.
    pub(super) fn no_material(&self) -> KmsError {
        let state = KeyState::PendingImport;
        KmsError::new(ErrorKind::InvalidState, format!("{} is pending import.", self.arn)).in_state(state)
    }

    /// Refuses a use that the key is not for.
    pub(super) fn check_usage(&self, usage: KeyUsage, operation: &str) -> Result<(), KmsError> {
        if self.record.usage == usage {
            return Ok(());
        }
        let (arn, own) = (&self.arn, self.record.usage);
        let message = format!("{arn} key usage is {own} which is not valid for {operation}.");
        Err(KmsError::new(ErrorKind::InvalidKeyUsage, message))
    }

    /// Refuses what only a customer may do to a key of his own.
    pub(super) fn check_customer_managed(&self) -> Result<(), KmsError> {
        if self.record.manager == KeyManager::Customer {
            return Ok(());
        }
        let message = format!("{} is not a customer managed key; it cannot be changed", self.arn);
        Err(KmsError::new(ErrorKind::UnsupportedOperation, message))
    }

    /// The state at `now`: imported material is gone when its time is over, whether or not anybody
    /// came to delete it.
    pub(super) fn state_at(&self, now: Timestamp) -> KeyState {
        let over = self.expires().is_some_and(|at| at <= now.as_millisecond());
        match self.state() {
            KeyState::Enabled | KeyState::Disabled if over => KeyState::PendingImport,
            state => state,
        }
    }

    /// The state: a key of a custom key store that is not connected is unavailable, whatever it will
    /// be when that is connected again; one that is to be deleted goes on to be deleted.
    pub(super) fn state(&self) -> KeyState {
        let cut_off = self.link.as_ref().is_some_and(|link| !link.store.is_connected());
        match self.record.state {
            KeyState::Enabled | KeyState::Disabled if cut_off => KeyState::Unavailable,
            state => state,
        }
    }

    /// When imported material goes by itself, in milliseconds since 1970.
    pub(super) fn expires(&self) -> Option<i64> {
        let present = self.record.versions.iter().filter(|version| version.present);
        present.filter_map(|version| version.expires).min()
    }

    fn next_due(&self) -> Option<i64> {
        let deletion = self.record.deletion.map(|deletion| deletion.at.as_millisecond());
        // A key that is not enabled rotates when it is again.
        let enabled = self.record.state == KeyState::Enabled;
        let rotation = self.record.rotation.filter(|_| enabled).map(|r| r.next.as_millisecond());
        [deletion, self.expires(), rotation].into_iter().flatten().min()
    }

    /// The last use, of any version.
    pub(super) fn last_use(&self) -> Option<LastUse> {
        let held = self.material.iter().flatten().filter_map(|held| held.last_use());
        let newest = held.max_by_key(|(_, at)| *at);
        let newest = newest.map(|(operation, at)| LastUse { operation: operation.name().to_owned(), at });
        match (newest, self.record.last_use.clone()) {
            (Some(new), Some(old)) if old.at > new.at => Some(old),
            (new, old) => new.or(old),
        }
    }

    pub(super) fn metadata(&self, realm: &Realm) -> KeyMetadata {
        let record = &self.record;
        let symmetric = record.spec == KeySpec::SymmetricDefault;
        let names = |usage| record.usage == usage;
        let expires = self.expires().and_then(|at| Timestamp::from_millisecond(at).ok());
        let imported = record.origin == Origin::External && record.versions.iter().any(|v| v.present);
        KeyMetadata {
            key_id: record.id,
            arn: self.arn.clone(),
            account: realm.account.clone(),
            creation_date: record.created,
            enabled: self.state() == KeyState::Enabled,
            description: record.description.clone(),
            key_usage: record.usage,
            key_state: self.state(),
            deletion_date: record.deletion.map(|deletion| deletion.at),
            pending_deletion_window_in_days: record.deletion.map(|deletion| deletion.window_days),
            valid_to: expires,
            expiration_model: imported.then_some(if expires.is_some() {
                ExpirationModel::Expires
            } else {
                ExpirationModel::DoesNotExpire
            }),
            key_spec: record.spec,
            customer_master_key_spec: record.spec,
            origin: record.origin,
            custom_key_store_id: self.link.as_ref().map(|link| link.store.record.id.clone()),
            xks_key_configuration: self.link.as_ref().map(Link::configuration),
            key_manager: record.manager,
            multi_region: false,
            encryption_algorithms: if names(KeyUsage::EncryptDecrypt) {
                record.spec.encryption_algorithms().to_vec()
            } else {
                Vec::new()
            },
            signing_algorithms: if names(KeyUsage::SignVerify) {
                record.spec.signing_algorithms().to_vec()
            } else {
                Vec::new()
            },
            mac_algorithms: record.spec.mac_algorithms().to_vec(),
            current_key_material_id: if symmetric { self.fingerprint(self.newest()) } else { String::new() },
            current_key_material_version: self.newest(),
        }
    }
}
