//! New material for symmetric keys: on demand, by the clock, or because a version was used so
//! often. The newest version wraps, every version unwraps.
//!
//! Keys whose material was imported, asymmetric keys and those of HMAC have one material for life.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::book::{Entry, Spelling};
use super::held::Held;
use super::keys::{MAX_DESCRIPTION, version};
use super::{Caller, Service, creation};
use crate::kms::api::{
    Empty, EnableKeyRotationRequest, KeyRequest, RotateKeyOnDemandResponse, RotationStatusResponse,
    UpdateKeyDescriptionRequest,
};
use crate::kms::error::{ErrorKind, KmsError};
use crate::kms::id::{AliasName, KeyId};
use crate::kms::spec::{KeySpec, KeyUsage, Origin};
use crate::kms::state::{KeyManager, KeyState, Operation};
use crate::kms::store::{AliasRecord, Change, KeyRecord, Record, RotationRecord, VersionCause};

/// Name of the key that the service manages for volumes that ask for none of their own.
pub(super) const AWS_MANAGED_ALIAS: &str = "alias/aws/kmsfs";

const MAX_ON_DEMAND_ROTATIONS: usize = 25;
const MIN_PERIOD_DAYS: u32 = 90;
const MAX_PERIOD_DAYS: u32 = 2560;
const DEFAULT_PERIOD_DAYS: u32 = 365;

impl Service {
    /// RotateKeyOnDemand: new material wraps from now on, all earlier material still unwraps. The
    /// schedule stays as it is.
    ///
    /// # Errors
    /// NotFound, Disabled, InvalidState, UnsupportedOperation, LimitExceeded after 25,
    /// AccessDenied, Internal.
    pub fn rotate_key_on_demand(
        &self,
        caller: &Caller,
        request: &KeyRequest,
    ) -> Result<RotateKeyOnDemandResponse, KmsError> {
        self.run(caller, Operation::RotateKeyOnDemand, request, |call| {
            let old = self.book.read().resolve(&request.key_id, Spelling::IdOrArn, self.realm())?.clone();
            let _turn = self.turns.take(old.record.id);
            let old = self.entry(&old.record.id)?;
            self.admit(call, &old)?;
            check_rotatable(&old)?;
            // A volume's own key has no schedule: its owner decides.
            if old.record.manager != KeyManager::Internal {
                old.check_customer_managed()?;
            }
            let made = old.record.versions.iter().filter(|v| v.cause == VersionCause::OnDemand).count();
            if made >= MAX_ON_DEMAND_ROTATIONS {
                let message = format!("{} has been rotated on demand 25 times, which is the limit", old.arn);
                return Err(KmsError::new(ErrorKind::LimitExceeded, message));
            }
            let new = self.add_version(&old.record.id, call.now, VersionCause::OnDemand, |_| {})?;
            Ok(RotateKeyOnDemandResponse {
                key_id: new.arn.clone(),
                current_key_material_version: new.newest(),
            })
        })
    }

    /// EnableKeyRotation: the first rotation is a whole period from now. A key that rotates already
    /// gets the new period, if one is given.
    ///
    /// # Errors
    /// NotFound, Disabled, InvalidState, AccessDenied; UnsupportedOperation for keys that do not
    /// rotate; Validation for a period that is not of 90 to 2560 days; Internal.
    pub fn enable_key_rotation(
        &self,
        caller: &Caller,
        request: &EnableKeyRotationRequest,
    ) -> Result<Empty, KmsError> {
        self.run(caller, Operation::EnableKeyRotation, request, |call| {
            let asked = request.rotation_period_in_days;
            let entry = self.rotating(call, &request.key_id)?;
            if asked.is_some_and(|days| !(MIN_PERIOD_DAYS..=MAX_PERIOD_DAYS).contains(&days)) {
                return Err(KmsError::validation("RotationPeriodInDays must be 90 to 2560"));
            }
            let period_days = asked.unwrap_or(DEFAULT_PERIOD_DAYS);
            self.publish(&entry.record.id, Vec::new(), |record, _| {
                if record.rotation.is_none() || asked.is_some() {
                    let next = after_days(call.now, period_days);
                    record.rotation = Some(RotationRecord { period_days, next });
                }
            })?;
            Ok(Empty {})
        })
    }

    /// DisableKeyRotation.
    ///
    /// # Errors
    /// As [`Service::enable_key_rotation`].
    pub fn disable_key_rotation(&self, caller: &Caller, request: &KeyRequest) -> Result<Empty, KmsError> {
        self.run(caller, Operation::DisableKeyRotation, request, |call| {
            let entry = self.rotating(call, &request.key_id)?;
            self.publish(&entry.record.id, Vec::new(), |record, _| record.rotation = None)?;
            Ok(Empty {})
        })
    }

    /// GetKeyRotationStatus. While a key is about to be deleted it does not rotate; while it is
    /// disabled, its rotation waits.
    ///
    /// # Errors
    /// NotFound, AccessDenied; UnsupportedOperation for keys that do not rotate.
    pub fn get_key_rotation_status(
        &self,
        caller: &Caller,
        request: &KeyRequest,
    ) -> Result<RotationStatusResponse, KmsError> {
        self.run(caller, Operation::GetKeyRotationStatus, request, |call| {
            let book = self.book.read();
            let entry = book.resolve(&request.key_id, Spelling::IdOrArn, self.realm())?;
            self.admit(call, entry)?;
            check_rotatable(entry)?;
            let going = entry.record.state != KeyState::PendingDeletion;
            let rotation = entry.record.rotation.filter(|_| going);
            Ok(RotationStatusResponse {
                key_id: entry.arn.clone(),
                key_rotation_enabled: rotation.is_some(),
                rotation_period_in_days: rotation.map(|rotation| rotation.period_days),
                next_rotation_date: rotation.map(|rotation| rotation.next),
            })
        })
    }

    /// UpdateKeyDescription.
    ///
    /// # Errors
    /// NotFound, InvalidState, AccessDenied, UnsupportedOperation for keys of the service's own,
    /// Validation beyond 8192 characters, Internal.
    pub fn update_key_description(
        &self,
        caller: &Caller,
        request: &UpdateKeyDescriptionRequest,
    ) -> Result<Empty, KmsError> {
        self.run(caller, Operation::UpdateKeyDescription, request, |call| {
            let entry = self.book.read().resolve(&request.key_id, Spelling::IdOrArn, self.realm())?.clone();
            self.admit(call, &entry)?;
            entry.check_customer_managed()?;
            if request.description.chars().count() > MAX_DESCRIPTION {
                return Err(KmsError::validation("Description must be at most 8192 characters long"));
            }
            self.publish(&entry.record.id, Vec::new(), |record, _| {
                record.description.clone_from(&request.description);
            })?;
            Ok(Empty {})
        })
    }

    /// Rotates every key whose rotation is due by `now`. However long nobody looked, one rotation
    /// makes up for it, and the next is on the old schedule. What cannot be written now is tried
    /// again at the next call.
    pub(super) fn rotate_due(&self, now: Timestamp) {
        let due = |entry: &Entry| {
            let scheduled = entry.record.rotation.is_some_and(|rotation| rotation.next <= now);
            scheduled && entry.record.state == KeyState::Enabled
        };
        let keys: Vec<KeyId> =
            self.book.read().keys.values().filter(|entry| due(entry)).map(|entry| entry.record.id).collect();
        for id in keys {
            let _turn = self.turns.take(id);
            if self.entry(&id).is_ok_and(|entry| due(&entry)) {
                let arn = self.realm().key_arn(&id).to_string();
                log_rotation(self.by_itself("RotateKey", &arn, |_| {
                    self.add_version(&id, now, VersionCause::Automatic, |record| {
                        if let Some(rotation) = &mut record.rotation {
                            rotation.next = next_after(*rotation, now);
                        }
                    })
                }));
            }
        }
    }

    /// Rotates a key because its newest version was used often. The caller holds no lock.
    pub(super) fn rotate_worn(&self, id: KeyId, now: Timestamp) {
        let _turn = self.turns.take(id);
        let arn = self.realm().key_arn(&id).to_string();
        log_rotation(
            self.by_itself("RotateKey", &arn, |_| {
                self.add_version(&id, now, VersionCause::Automatic, |_| {})
            }),
        );
    }

    /// Makes the key behind [`AWS_MANAGED_ALIAS`] when it is first used.
    pub(super) fn make_aws_managed(&self, key: &str) -> Result<(), KmsError> {
        let Ok(name) = AWS_MANAGED_ALIAS.parse::<AliasName>() else { return Ok(()) };
        let asked = key == AWS_MANAGED_ALIAS || key == self.realm().alias_arn(&name).to_string();
        if !asked || self.book.read().aliases.contains_key(&name) {
            return Ok(());
        }
        let _writing = self.writes.lock();
        if self.book.read().aliases.contains_key(&name) {
            return Ok(());
        }
        let (now, id) = (self.clock.now(), KeyId::random()?);
        let material = creation::generate(KeySpec::SymmetricDefault)?;
        let next = after_days(now, DEFAULT_PERIOD_DAYS);
        let record = KeyRecord {
            id,
            manager: KeyManager::Aws,
            state: KeyState::Enabled,
            spec: KeySpec::SymmetricDefault,
            usage: KeyUsage::EncryptDecrypt,
            origin: Origin::AwsKms,
            description: "Default key of the service, for whoever names no other".to_owned(),
            created: now,
            deletion: None,
            versions: vec![version(&material, &id, now, VersionCause::Creation)],
            rotation: Some(RotationRecord { period_days: DEFAULT_PERIOD_DAYS, next }),
            policy: None,
            tags: std::collections::BTreeMap::new(),
            last_use: None,
        };
        let alias = AliasRecord { name: name.to_string(), target: id, created: now, updated: now };
        self.by_itself("CreateKey", &self.realm().key_arn(&id).to_string(), |_| {
            let changes = [
                Change::PutMaterial { key: &id, version: 1, material: &material },
                Change::Put(&Record::KeyV2(record.clone())),
                Change::Put(&Record::AliasV1(alias.clone())),
            ];
            Ok(self.store.commit(&changes)?)
        })?;
        let held = vec![Some(Arc::new(Held::new(material, 0)))];
        let entry = Arc::new(Entry::new(record, held, self.realm()));
        let mut book = self.book.write();
        book.keys.insert(id, entry);
        self.rights.write().aliases.entry(id).or_default().insert(name.clone());
        book.aliases.insert(name, alias);
        self.next_due.store(book.next_due(), std::sync::atomic::Ordering::Release);
        Ok(())
    }

    /// The key whose schedule `call` changes.
    fn rotating(&self, call: &super::Call<'_>, key: &str) -> Result<Arc<Entry>, KmsError> {
        let entry = self.book.read().resolve(key, Spelling::IdOrArn, self.realm())?.clone();
        self.admit(call, &entry)?;
        check_rotatable(&entry)?;
        entry.check_customer_managed()?;
        Ok(entry)
    }

    /// Makes new material durable, then the newest. The caller holds the key's turn.
    fn add_version(
        &self,
        id: &KeyId,
        now: Timestamp,
        cause: VersionCause,
        edit: impl FnOnce(&mut KeyRecord),
    ) -> Result<Arc<Entry>, KmsError> {
        let made = creation::generate(KeySpec::SymmetricDefault)?;
        let number = self.entry(id)?.newest() + 1;
        let held = Arc::new(Held::new(made, 0));
        let change = Change::PutMaterial { key: id, version: number, material: held.material() };
        self.publish(id, vec![change], |record, material| {
            record.versions.push(version(held.material(), id, now, cause));
            material.push(Some(Arc::clone(&held)));
            edit(record);
        })
    }
}

/// Refuses keys that have one material for life.
fn check_rotatable(entry: &Entry) -> Result<(), KmsError> {
    let record = &entry.record;
    if record.spec == KeySpec::SymmetricDefault && record.origin == Origin::AwsKms {
        return Ok(());
    }
    let (arn, spec, origin) = (&entry.arn, record.spec, record.origin);
    let message = format!("{arn} is a {spec} key of origin {origin}, which does not rotate");
    Err(KmsError::new(ErrorKind::UnsupportedOperation, message))
}

fn log_rotation(rotated: Result<Arc<Entry>, KmsError>) {
    match rotated {
        Ok(entry) => tracing::info!(key = entry.arn, version = entry.newest(), "key rotated"),
        Err(error) => tracing::error!(%error, "a key that is due could not be rotated"),
    }
}

fn after_days(at: Timestamp, days: u32) -> Timestamp {
    at.checked_add(SignedDuration::from_hours(24 * i64::from(days))).unwrap_or(Timestamp::MAX)
}

/// The first date of the schedule after `now`.
fn next_after(rotation: RotationRecord, now: Timestamp) -> Timestamp {
    let period = 24 * 3600 * i64::from(rotation.period_days.max(1));
    let late = now.as_second() - rotation.next.as_second();
    let periods = late.max(0) / period + 1;
    rotation.next.checked_add(SignedDuration::from_secs(periods * period)).unwrap_or(Timestamp::MAX)
}
