//! Making, describing, listing and rotating keys.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use jiff::Timestamp;

use super::book::{Entry, Spelling};
use super::held::Held;
use super::{Caller, Service, creation};
use crate::kms::api::{
    CreateKeyRequest, KeyListEntry, KeyMetadata, KeyRequest, ListKeyRotationsRequest,
    ListKeyRotationsResponse, ListKeysRequest, ListKeysResponse, RotationEntry,
};
use crate::kms::error::{ErrorKind, KmsError};
use crate::kms::id::KeyId;
use crate::kms::spec::Origin;
use crate::kms::state::{KeyManager, KeyState, Operation};
use crate::kms::store::{Change, KeyRecord, Material, Record, VersionCause, VersionRecord};

pub(super) const MAX_DESCRIPTION: usize = 8192;

impl Service {
    /// CreateKey. The key is durable when this returns, and Enabled unless its material is to be
    /// imported. Takes up to seconds for RSA.
    ///
    /// # Errors
    /// Validation, UnsupportedOperation, AccessDenied, Internal; with origin EXTERNAL_KEY_STORE
    /// CustomKeyStoreNotFound, CustomKeyStoreInvalidState, XksKeyAlreadyInUse, XksKeyNotFound and
    /// XksKeyInvalidConfiguration.
    pub fn create_key(&self, caller: &Caller, request: &CreateKeyRequest) -> Result<KeyMetadata, KmsError> {
        self.run(caller, Operation::CreateKey, request, |call| {
            self.admit_general(call)?;
            check_creation(request)?;
            let id = KeyId::random()?;
            let kind = creation::kind(request)?;
            let link = self.link_of_new(call, request, kind)?;
            let imports = kind.origin == Origin::External;
            let material = if imports { None } else { Some(creation::generate(kind.spec)?) };
            let first = material.as_ref().map(|made| version(made, &id, call.now, VersionCause::Creation));
            let record = KeyRecord {
                id,
                manager: request.manager,
                state: if imports { KeyState::PendingImport } else { KeyState::Enabled },
                spec: kind.spec,
                usage: kind.usage,
                origin: kind.origin,
                description: request.description.clone(),
                created: call.now,
                deletion: None,
                versions: first.into_iter().collect(),
                rotation: None,
                policy: None,
                tags: BTreeMap::new(),
                last_use: None,
            };
            let record = self.govern(call, request, record)?;
            let _writing = self.writes.lock();
            let link = link.map(|link| self.renewed(link)).transpose()?;
            let linked = link.as_ref().map(|link| Record::ExternalKeyV1(link.record_of(&id)));
            let stored = Record::KeyV2(record.clone());
            let mut changes = vec![Change::Put(&stored)];
            changes.extend(linked.iter().map(Change::Put));
            changes.extend(material.iter().map(|material| Change::PutMaterial {
                key: &id,
                version: 1,
                material,
            }));
            self.store.commit(&changes)?;
            let held = material.into_iter().map(|material| Some(Arc::new(Held::new(material, 0))));
            let entry = Arc::new(Entry::new(record, held.collect(), self.realm()).with_link(link));
            call.comes_to(&entry);
            self.book.write().keys.insert(id, Arc::clone(&entry));
            Ok(entry.metadata(self.realm()))
        })
    }

    /// DescribeKey, by any of its names.
    ///
    /// # Errors
    /// NotFound, AccessDenied.
    pub fn describe_key(&self, caller: &Caller, request: &KeyRequest) -> Result<KeyMetadata, KmsError> {
        self.run(caller, Operation::DescribeKey, request, |call| {
            let book = self.book.read();
            let entry = book.resolve(&request.key_id, Spelling::Any, self.realm())?;
            self.admit(call, entry)?;
            Ok(entry.metadata(self.realm()))
        })
    }

    /// ListKeys: all but internal ones, in order of their ids.
    ///
    /// # Errors
    /// Validation, InvalidMarker, AccessDenied.
    pub fn list_keys(
        &self,
        caller: &Caller,
        request: &ListKeysRequest,
    ) -> Result<ListKeysResponse, KmsError> {
        self.run(caller, Operation::ListKeys, request, |call| {
            self.admit_general(call)?;
            let limit = page_limit(request.limit, 100, 1000)?;
            let after: Option<KeyId> = request.marker.as_deref().map(parse_marker).transpose()?;
            let book = self.book.read();
            let from = after.map_or(Bound::Unbounded, Bound::Excluded);
            let behind = book.keys.range((from, Bound::Unbounded)).map(|(_, entry)| entry);
            let listed = behind.filter(|entry| entry.record.manager != KeyManager::Internal);
            let entries =
                listed.map(|entry| KeyListEntry { key_id: entry.record.id, key_arn: entry.arn.clone() });
            let (keys, truncated) = page(entries, limit);
            let next_marker = keys.last().filter(|_| truncated).map(|last| last.key_id.to_string());
            Ok(ListKeysResponse { keys, next_marker, truncated })
        })
    }

    /// ListKeyRotations, oldest first.
    ///
    /// # Errors
    /// NotFound, Validation, InvalidMarker, AccessDenied.
    pub fn list_key_rotations(
        &self,
        caller: &Caller,
        request: &ListKeyRotationsRequest,
    ) -> Result<ListKeyRotationsResponse, KmsError> {
        self.run(caller, Operation::ListKeyRotations, request, |call| {
            let limit = page_limit(request.limit, 100, 1000)?;
            let after: u32 = request.marker.as_deref().map_or(Ok(0), parse_marker)?;
            let first = match request.include_key_material.as_deref() {
                None | Some("ROTATIONS_ONLY") => 2,
                Some("ALL_KEY_MATERIAL") => 1,
                Some(_) => {
                    return Err(KmsError::validation(
                        "IncludeKeyMaterial must be ALL_KEY_MATERIAL or ROTATIONS_ONLY",
                    ));
                }
            };
            let book = self.book.read();
            let entry = book.resolve(&request.key_id, Spelling::IdOrArn, self.realm())?;
            self.admit(call, entry)?;
            let numbered = (1..).zip(&entry.record.versions);
            let listed = numbered.filter(|(number, _)| *number >= first && *number > after);
            let (rotations, truncated) = page(listed.map(|(number, v)| rotation(entry, number, v)), limit);
            let next_marker =
                rotations.last().filter(|_| truncated).map(|last| last.key_material_version.to_string());
            Ok(ListKeyRotationsResponse { rotations, next_marker, truncated })
        })
    }
}

fn check_creation(request: &CreateKeyRequest) -> Result<(), KmsError> {
    let unsupported = |what: &str| Err(KmsError::new(ErrorKind::UnsupportedOperation, what));
    if request.description.chars().count() > MAX_DESCRIPTION {
        return Err(KmsError::validation("Description must be at most 8192 characters long"));
    }
    if request.multi_region == Some(true) {
        return unsupported("MultiRegion keys are not supported");
    }
    if request.manager == KeyManager::Aws {
        return Err(KmsError::validation("Manager must be CUSTOMER or INTERNAL"));
    }
    Ok(())
}

pub(super) fn version(
    material: &Material,
    id: &KeyId,
    created: Timestamp,
    cause: VersionCause,
) -> VersionRecord {
    VersionRecord {
        fingerprint: material.fingerprint(id),
        created,
        cause,
        present: true,
        expires: None,
        wraps_reserved: 0,
    }
}

fn rotation(entry: &Entry, number: u32, version: &VersionRecord) -> RotationEntry {
    let current = number == entry.newest();
    RotationEntry {
        key_id: entry.arn.clone(),
        key_material_id: entry.fingerprint(number),
        key_material_version: number,
        key_material_state: match entry.held(number) {
            // Of our own: the material was destroyed.
            None if entry.record.origin == Origin::AwsKms => "RETIRED",
            _ if current => "CURRENT",
            _ => "NON_CURRENT",
        }
        .to_owned(),
        rotation_date: version.created,
        rotation_type: match version.cause {
            VersionCause::Creation | VersionCause::Import => None,
            VersionCause::OnDemand => Some("ON_DEMAND".to_owned()),
            VersionCause::Automatic => Some("AUTOMATIC".to_owned()),
        },
    }
}

/// The page size that a caller asked for.
pub(super) fn page_limit(asked: Option<u32>, default: u32, most: u32) -> Result<usize, KmsError> {
    let limit = asked.unwrap_or(default);
    if !(1..=most).contains(&limit) {
        return Err(KmsError::validation(format!("Limit must be 1 to {most}")));
    }
    Ok(limit as usize)
}

/// The first `limit` of `all`, and whether there are more.
pub(super) fn page<T>(all: impl Iterator<Item = T>, limit: usize) -> (Vec<T>, bool) {
    let mut all = all;
    let page: Vec<T> = all.by_ref().take(limit).collect();
    (page, all.next().is_some())
}

/// A marker is the name of the last thing of the page before.
pub(super) fn parse_marker<T: std::str::FromStr>(marker: &str) -> Result<T, KmsError> {
    marker.parse().map_err(|_| KmsError::new(ErrorKind::InvalidMarker, "not a marker of this listing"))
}
