//! A key store on a disk in memory, and what a caller can see of it.
#![allow(dead_code, clippy::unwrap_used, reason = "every test binary includes it and uses a part")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use kmsfs::clock::ManualClock;
use kmsfs::kms::api::{
    DescribeCustomKeyStoresRequest, GetKeyPolicyRequest, KeyRequest, ListAliasesRequest,
    ListDeletionReceiptsRequest, ListGrantsRequest, ListKeyRotationsRequest, ListKeysRequest,
    ListResourceTagsRequest,
};
use kmsfs::kms::{Caller, Costs, KeyId, Service, StoreError, StoreOptions, UnlockSecret};
use kmsfs::secret::Passphrase;

use super::MemoryDisk;

/// What a caller can see of a store.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct View {
    /// State, description, deletion, versions, tags, policy and grants of every key that ever was; `None` for none.
    pub(crate) keys: BTreeMap<KeyId, String>,
    pub(crate) listed: Vec<KeyId>,
    pub(crate) internal: usize,
    pub(crate) aliases: Vec<(String, KeyId)>,
    pub(crate) slots: Vec<u32>,
    pub(crate) backup: Option<PathBuf>,
    /// Id, user and state of every access key.
    pub(crate) access_keys: Vec<String>,
    /// All that is told of every custom key store.
    pub(crate) custom_key_stores: Vec<String>,
    /// What is remembered of volumes.
    pub(crate) volumes: String,
    /// Keys that were deleted.
    pub(crate) deleted: Vec<String>,
}

/// A store on a disk in memory. Its lock is in a directory of the real one, which also says where
/// its files are.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) lock: Arc<tempfile::TempDir>,
    pub(crate) disk: MemoryDisk,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) caller: Caller,
}

impl Place {
    pub(crate) fn new(disk: MemoryDisk, time: Timestamp) -> Self {
        let lock = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        Self {
            lock: Arc::new(lock),
            disk,
            clock: Arc::new(ManualClock::new(time)),
            caller: Caller::current(),
        }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.lock.path()
    }

    pub(crate) fn create(&self) -> Arc<Service> {
        self.try_create().unwrap()
    }

    pub(crate) fn try_create(&self) -> Result<Arc<Service>, StoreError> {
        let options =
            StoreOptions { costs: Costs { memory_kib: 32, passes: 1, lanes: 1 }, ..StoreOptions::default() };
        Service::create_on(Arc::new(self.disk.clone()), self.dir(), &secret(0), &options, self.clock.clone())
    }

    pub(crate) fn try_open(&self, slot: u32) -> Result<Arc<Service>, StoreError> {
        Service::open_on(Arc::new(self.disk.clone()), self.dir(), &secret(slot), self.clock.clone())
    }

    pub(crate) fn open(&self, slot: u32) -> Arc<Service> {
        self.try_open(slot).unwrap()
    }
}

/// The secret of the unlock slot of this number; that of slot 0 always opens the store.
pub(crate) fn secret(slot: u32) -> UnlockSecret {
    UnlockSecret::KeyFile(Passphrase::new(slot.to_le_bytes().repeat(8)))
}

pub(crate) fn view(service: &Service, caller: &Caller, keys: &[KeyId]) -> View {
    let describe = |key: &KeyId| {
        let Ok(metadata) = service.describe_key(caller, &KeyRequest { key_id: key.to_string() }) else {
            return "none".to_owned();
        };
        let request = ListKeyRotationsRequest {
            key_id: key.to_string(),
            include_key_material: Some("ALL_KEY_MATERIAL".to_owned()),
            limit: None,
            marker: None,
        };
        let key_id = key.to_string();
        let tags = ListResourceTagsRequest { key_id: key_id.clone(), ..Default::default() };
        let policy = GetKeyPolicyRequest { key_id: key_id.clone(), policy_name: None };
        let grants = ListGrantsRequest { key_id, limit: Some(100), ..Default::default() };
        format!(
            "{metadata:?} {:?} {:?} {} {:?}",
            service.list_key_rotations(caller, &request).unwrap().rotations,
            service.list_resource_tags(caller, &tags).unwrap().tags,
            service.get_key_policy(caller, &policy).unwrap().policy,
            service.list_grants(caller, &grants).unwrap().grants,
        )
    };
    let listed =
        service.list_keys(caller, &ListKeysRequest { limit: Some(1000), ..ListKeysRequest::default() });
    let aliases = service.list_aliases(caller, &ListAliasesRequest::default()).unwrap().aliases;
    let info = service.store_info().unwrap();
    let access_keys = service.list_access_keys(caller).unwrap().access_keys.into_iter();
    let custom_key_stores =
        service.describe_custom_key_stores(caller, &DescribeCustomKeyStoresRequest::default());
    let custom_key_stores = custom_key_stores.unwrap().custom_key_stores.into_iter();
    let deleted = service.list_deletion_receipts(caller, &ListDeletionReceiptsRequest::default());
    View {
        deleted: deleted.unwrap().receipts.into_iter().map(|receipt| receipt.key_arn).collect(),
        keys: keys.iter().map(|key| (*key, describe(key))).collect(),
        listed: listed.unwrap().keys.into_iter().map(|key| key.key_id).collect(),
        internal: info.internal_keys.len(),
        aliases: aliases.into_iter().map(|alias| (alias.alias_name, alias.target_key_id)).collect(),
        slots: info.slots.into_iter().map(|slot| slot.number).collect(),
        backup: info.backup,
        access_keys: access_keys.map(|key| format!("{key:?}")).collect(),
        custom_key_stores: custom_key_stores.map(|store| format!("{store:?}")).collect(),
        volumes: format!("{:?}", service.list_volumes().unwrap().volumes),
    }
}
