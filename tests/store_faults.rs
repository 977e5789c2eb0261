//! A disk that fails under a key store, at each of its calls in turn: the operation answers an
//! error that says why, nothing acknowledged is lost, data keys go on being unwrapped, and when
//! the disk is well again everything works, also after a crash.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

mod memory_disk;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use kmsfs::kms::api::{
    AliasRequest, CreateKeyRequest, DeleteAliasRequest, KeyRequest, ScheduleKeyDeletionRequest,
};
use kmsfs::kms::store_api::{BackUpStoreRequest, CheckStoreRequest, KeepBackupRequest};
use kmsfs::kms::{
    Costs, EncryptionContext, KeyId, KeyManager, KmsError, Reason, Service, StoreError, restore,
};
use memory_disk::history::{History, Survives};
use memory_disk::place::{Place, View, secret, view};
use memory_disk::{Fault, MemoryDisk};

const BACKUP: &str = "/elsewhere/backup";
const FAULTS: [Fault; 3] = [Fault::Eio, Fault::Enospc, Fault::ShortWrite];

/// A store with something of everything.
struct World {
    place: Place,
    used: KeyId,
    disabled: KeyId,
    keys: Vec<KeyId>,
    blobs: Vec<(Vec<u8>, [u8; 32])>,
}

/// An operation and what it needs.
type Operation = fn(&World, &Service) -> Result<(), KmsError>;

impl World {
    fn new(keep_backup: bool) -> Self {
        let place = Place::new(MemoryDisk::default(), Timestamp::from_second(1_700_000_000).unwrap());
        let service = place.create();
        let create = |manager| {
            let request = CreateKeyRequest { manager, ..CreateKeyRequest::default() };
            service.create_key(&place.caller, &request).unwrap().key_id
        };
        let (used, disabled) = (create(KeyManager::Customer), create(KeyManager::Customer));
        let keys = vec![used, disabled, create(KeyManager::Internal)];
        let mut blobs = Vec::new();
        for _ in 0..2 {
            let made = service
                .generate_data_key(&place.caller, &used.to_string(), &EncryptionContext::new())
                .unwrap();
            blobs.push((made.blob, *made.plaintext.expose()));
            service.rotate_key_on_demand(&place.caller, &named(&used)).unwrap();
        }
        service.disable_key(&place.caller, &named(&disabled)).unwrap();
        let alias = AliasRequest { alias_name: "alias/old".to_owned(), target_key_id: used.to_string() };
        service.create_alias(&place.caller, &alias).unwrap();
        service.add_slot(&secret(1), Costs::default()).unwrap();
        if keep_backup {
            let request = KeepBackupRequest { path: Some(PathBuf::from(BACKUP)), force: false };
            service.keep_backup(&place.caller, &request).unwrap();
        }
        drop(service);
        Self { place, used, disabled, keys, blobs }
    }

    /// The same on a disk of its own. The directory of the lock is shared: one at a time.
    fn copy(&self) -> Self {
        let place = Place { disk: self.place.disk.copy(), ..self.place.clone() };
        Self { place, keys: self.keys.clone(), blobs: self.blobs.clone(), ..*self }
    }

    fn view(&self, service: &Service) -> View {
        view(service, &self.place.caller, &self.keys)
    }

    /// Everything that was wrapped is unwrapped, by this service.
    fn check_blobs(&self, service: &Service) {
        for (blob, plaintext) in &self.blobs {
            let opened =
                service.decrypt_data_key(&self.place.caller, blob, &EncryptionContext::new()).unwrap();
            assert_eq!(opened.plaintext.expose(), plaintext);
        }
        service
            .generate_data_key(&self.place.caller, &self.used.to_string(), &EncryptionContext::new())
            .unwrap();
    }

    /// As [`World::check_blobs`], for a store in whatever state, with its records and its backup.
    fn check(&self, service: &Service, view: &View) {
        service.check_store(&CheckStoreRequest::default()).unwrap();
        if view.keys[&self.used].contains("state: Enabled") {
            self.check_blobs(service);
        } else {
            service.enable_key(&self.place.caller, &named(&self.used)).unwrap();
            self.check_blobs(service);
        }
    }

    /// What the machine finds after a crash that loses all that was not synced.
    fn after_a_crash(&self, start: memory_disk::Tree) -> Self {
        let mut history = History::of(&self.place.disk, start);
        history.advance(self.place.disk.moment());
        let disk = MemoryDisk::new(history.crash(Survives::Nothing));
        Self {
            place: Place { disk, ..self.place.clone() },
            keys: self.keys.clone(),
            blobs: self.blobs.clone(),
            ..*self
        }
    }
}

fn named(key: &KeyId) -> KeyRequest {
    KeyRequest { key_id: key.to_string() }
}

const OPERATIONS: [(&str, Operation); 12] = [
    ("create a key", |world, service| {
        service.create_key(&world.place.caller, &CreateKeyRequest::default()).map(drop)
    }),
    ("create a volume's key", |world, service| {
        let request = CreateKeyRequest { manager: KeyManager::Internal, ..CreateKeyRequest::default() };
        service.create_key(&world.place.caller, &request).map(drop)
    }),
    ("rotate", |world, service| {
        service.rotate_key_on_demand(&world.place.caller, &named(&world.used)).map(drop)
    }),
    ("disable", |world, service| service.disable_key(&world.place.caller, &named(&world.used)).map(drop)),
    ("enable", |world, service| service.enable_key(&world.place.caller, &named(&world.disabled)).map(drop)),
    ("schedule deletion", |world, service| {
        let request = ScheduleKeyDeletionRequest {
            key_id: world.disabled.to_string(),
            pending_window_in_days: None,
            stop_if_unwritten: false,
        };
        service.schedule_key_deletion(&world.place.caller, &request).map(drop)
    }),
    ("create an alias", |world, service| {
        let request =
            AliasRequest { alias_name: "alias/new".to_owned(), target_key_id: world.used.to_string() };
        service.create_alias(&world.place.caller, &request).map(drop)
    }),
    ("update an alias", |world, service| {
        let request =
            AliasRequest { alias_name: "alias/old".to_owned(), target_key_id: world.disabled.to_string() };
        service.update_alias(&world.place.caller, &request).map(drop)
    }),
    ("delete an alias", |world, service| {
        let request = DeleteAliasRequest { alias_name: "alias/old".to_owned() };
        service.delete_alias(&world.place.caller, &request).map(drop)
    }),
    ("add an unlock slot", |_, service| Ok(service.add_slot(&secret(2), Costs::default()).map(drop)?)),
    ("remove an unlock slot", |_, service| Ok(service.remove_slot(1)?)),
    ("choose a backup", |world, service| {
        let request = KeepBackupRequest { path: Some(PathBuf::from("/elsewhere/second")), force: false };
        service.keep_backup(&world.place.caller, &request).map(drop)
    }),
];

/// What happens after the failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// The disk is well again and the same process goes on.
    LiveOn,
    /// The machine goes down at once.
    Crash,
}

#[test]
fn an_operation_that_fails_at_any_call_changes_nothing_and_works_when_the_disk_is_well() {
    let mut failures = 0;
    for keep_backup in [false, true] {
        let world = World::new(keep_backup);
        for (what, operation) in OPERATIONS {
            for (fault, then) in
                FAULTS.into_iter().flat_map(|fault| [(fault, Then::LiveOn), (fault, Then::Crash)])
            {
                let fail_at = |call| fail_at(&world, operation, call, fault, then);
                let failed = (1..).map_while(|call| {
                    explained(&format!("{what}, {fault:?} at call {call}, {then:?}"), || fail_at(call))
                });
                failures += failed.filter(|failed| *failed).count();
            }
        }
    }
    assert!(failures > 300, "only {failures} operations failed");
}

/// `None` if the operation has fewer calls; else whether it failed.
fn fail_at(world: &World, operation: Operation, call: u64, fault: Fault, then: Then) -> Option<bool> {
    let world = world.copy();
    let start = world.place.disk.tree();
    let service = world.place.open(0);
    let before = world.view(&service);
    world.place.disk.fail(call, fault);
    let done = operation(&world, &service);
    if !world.place.disk.was_hit() {
        done.unwrap();
        return None;
    }
    let failed = done.is_err();
    let after = match done {
        Err(error) => {
            assert_eq!(world.view(&service), before, "a refused operation left something: {error}");
            check_reason(&error, fault);
            // On a disk that may still be full.
            world.check_blobs(&service);
            before
        }
        // What failed could wait: the backup that follows, or tidying up.
        Ok(()) => world.view(&service),
    };
    match then {
        Then::LiveOn => {
            world.place.disk.heal();
            if failed {
                operation(&world, &service).unwrap();
            }
            let after = world.view(&service);
            drop(service);
            // All of it is durable: nothing relies on what a failed sync lost.
            let found = world.after_a_crash(start);
            let service = found.place.open(0);
            assert_eq!(found.view(&service), after);
            found.check(&service, &after);
        }
        Then::Crash => {
            drop(service);
            let found = world.after_a_crash(start);
            let service = found.place.open(0);
            let view = found.view(&service);
            // Nobody was told whether it was carried out. What was acknowledged is there.
            assert!(failed || view == after);
            found.check(&service, &view);
        }
    }
    Some(failed)
}

fn check_reason(error: &KmsError, fault: Fault) {
    let expected: &[Reason] = match fault {
        Fault::Enospc => &[Reason::NoSpace, Reason::NotBackedUp],
        _ => &[Reason::Store, Reason::NotBackedUp, Reason::Damaged, Reason::NoSpace],
    };
    assert!(error.reason().is_some_and(|reason| expected.contains(&reason)), "{error:?}");
    let names_the_backup = error.message().contains(BACKUP) || error.message().contains("/elsewhere/second");
    assert!(error.reason() != Some(Reason::NotBackedUp) || names_the_backup, "{error}");
}

#[test]
fn a_store_whose_creation_fails_is_not_there_and_can_be_created_again() {
    for fault in FAULTS {
        let failed = (1..).map_while(|call| {
            let place = Place::new(MemoryDisk::default(), Timestamp::UNIX_EPOCH);
            place.disk.fail(call, fault);
            let created = place.try_create().map(drop);
            if !place.disk.heal() {
                return created.map_or_else(|error| panic!("{error}"), |()| None);
            }
            explained(&format!("{fault:?} at call {call}"), || {
                if created.is_err() {
                    assert!(matches!(place.try_open(0), Err(StoreError::NotFound(_))));
                    drop(place.create());
                }
                drop(place.open(0));
            });
            Some(created.is_err())
        });
        assert!(failed.filter(|failed| *failed).count() > 5);
    }
}

#[test]
fn a_store_that_could_not_be_opened_opens_when_the_disk_is_well() {
    for fault in FAULTS {
        let world = World::new(false);
        for call in 1.. {
            let world = world.copy();
            world.place.disk.fail(call, fault);
            let opened = world.place.try_open(0);
            if !world.place.disk.heal() {
                drop(opened.unwrap());
                break;
            }
            drop(opened);
            let service = world.place.open(0);
            world.check(&service, &world.view(&service));
        }
    }
}

#[test]
fn a_backup_that_fails_leaves_the_one_before_and_a_restore_that_fails_the_store() {
    let world = World::new(true);
    for fault in FAULTS {
        for call in 1.. {
            let world = world.copy();
            let service = world.place.open(0);
            let before = world.place.disk.contents(BACKUP);
            world.place.disk.fail(call, fault);
            let request = BackUpStoreRequest { path: PathBuf::from(BACKUP), force: true };
            let written = service.back_up(&world.place.caller, &request);
            let hit = world.place.disk.heal();
            if written.is_err() {
                assert!(hit);
                let left = world.place.disk.contents(BACKUP);
                // Its name may have changed hands before the failure; then it is whole.
                assert!(left == before || restorable(&world), "{fault:?} at call {call}");
            }
            if !hit {
                break;
            }
        }
        for call in 1.. {
            let world = world.copy();
            world.place.disk.fail(call, fault);
            let restored = restore(&world.place.disk, Path::new(BACKUP), world.place.dir(), &secret(0), true);
            let hit = world.place.disk.heal();
            let service = world.place.open(0);
            world.check(&service, &world.view(&service));
            if !hit {
                assert!(restored.unwrap().kept.is_some());
                break;
            }
        }
    }
}

fn restorable(world: &World) -> bool {
    let lock = Arc::new(tempfile::tempdir().unwrap());
    restore(&world.place.disk, Path::new(BACKUP), lock.path(), &secret(0), false).is_ok()
}

/// Runs `check` and says what it was about if it panics.
fn explained<T>(what: &str, check: impl FnOnce() -> T) -> T {
    match catch_unwind(AssertUnwindSafe(check)) {
        Ok(value) => value,
        Err(panic) => {
            eprintln!("{what}");
            resume_unwind(panic)
        }
    }
}
