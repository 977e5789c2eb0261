//! Crashes and failing disks around the end of a key. Whatever a crash leaves: either the key is there,
//! or the next owner of the store sees to it that no byte of it is. Once the scrub is done, no state
//! that a crash can leave has one, in any block that a file ever had.

use std::fs;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use kmsfs::clock::{Clock, ManualClock};
use kmsfs::kms::api::{CreateKeyRequest, KeyRequest, RetireKeyVersionRequest, ScheduleKeyDeletionRequest};
use kmsfs::kms::store_api::CheckStoreRequest;
use kmsfs::kms::{KeyId, NotAReceipt, ReceiptKey, Service, SignedReceipt};

use crate::memory_disk::history::{Dice, History, Survives};
use crate::memory_disk::place::{Place, secret};
use crate::memory_disk::{Fault, MemoryDisk, Tree};

/// Random states of each run.
const STATES: usize = 150;
const WINDOW: SignedDuration = SignedDuration::from_hours(7 * 24);

/// A store on a disk in memory with a key that will be kept and two that will be deleted.
struct World {
    place: Place,
    kept: KeyId,
    doomed: [KeyId; 2],
    /// The sealed material of the latter.
    sealed: Vec<Vec<u8>>,
    /// The same of the former.
    kept_sealed: Vec<Vec<u8>>,
}

fn named(key: &KeyId) -> KeyRequest {
    KeyRequest { key_id: key.to_string() }
}

fn sealed_rows(place: &Place) -> Vec<Vec<u8>> {
    let file = tempfile::NamedTempFile::new().unwrap();
    let store = place.dir().join("store.redb");
    fs::write(file.path(), place.disk.contents(store.to_str().unwrap()).unwrap()).unwrap();
    crate::sealed_material(file.path())
}

impl World {
    fn new(disk: MemoryDisk) -> Self {
        let place = Place::new(disk, Timestamp::from_second(1_700_000_000).unwrap());
        let create = |service: &Service| {
            service.create_key(&place.caller, &CreateKeyRequest::default()).unwrap().key_id
        };
        let service = place.create();
        let kept = create(&service);
        drop(service);
        let kept_sealed = sealed_rows(&place);
        let service = place.open(0);
        let doomed = [create(&service), create(&service)];
        service.rotate_key_on_demand(&place.caller, &named(&doomed[0])).unwrap();
        drop(service);
        let mut sealed = sealed_rows(&place);
        sealed.retain(|row| !kept_sealed.contains(row));
        assert_eq!((sealed.len(), kept_sealed.len()), (3, 1));
        Self { place, kept, doomed, sealed, kept_sealed }
    }

    /// The same on a disk of its own. The directory of the lock is shared: one at a time.
    fn copy(&self) -> Self {
        let clock = Arc::new(ManualClock::new(self.place.clock.now()));
        let place = Place { disk: self.place.disk.copy(), clock, ..self.place.clone() };
        Self { place, sealed: self.sealed.clone(), kept_sealed: self.kept_sealed.clone(), ..*self }
    }

    fn schedule(&self, service: &Service) {
        for key in &self.doomed {
            let request = ScheduleKeyDeletionRequest {
                key_id: key.to_string(),
                pending_window_in_days: Some(7),
                stop_if_unwritten: false,
            };
            service.schedule_key_deletion(&self.place.caller, &request).unwrap();
        }
    }

    /// Whether the disk, as a tree of it, has anything of a deleted key.
    fn is_clean(&self, tree: &Tree) -> bool {
        assert!(self.kept_sealed.iter().all(|row| tree.has(row)), "the key that is kept is gone");
        !self.sealed.iter().any(|row| tree.has(row))
    }

    /// The same of the files that have names.
    fn has_clean_files(&self, tree: &Tree) -> bool {
        !self.sealed.iter().any(|row| tree.has_named(row))
    }

    /// Opens what a crash has left and answers whether it is as it should be.
    fn check(&self, tree: Tree, blocks_too: bool) {
        let place = Place { disk: MemoryDisk::new(tree), ..self.place.clone() };
        let service = place.open(0);
        service.check_store(&CheckStoreRequest::default()).unwrap();
        let is_there = |key: &KeyId| service.describe_key(&place.caller, &named(key)).is_ok();
        assert!(is_there(&self.kept));
        let key = ReceiptKey::parse(&service.store_info().unwrap().receipt_public_key);
        for doomed in self.doomed.iter().filter(|doomed| !is_there(doomed)) {
            // Gone, so scrubbed and signed.
            let signed = service.deletion_receipt(&place.caller, &named(doomed)).unwrap();
            assert_eq!(SignedReceipt::verify(signed.to_text().unwrap().as_bytes(), key), Ok(signed));
        }
        let gone = self.doomed.iter().filter(|doomed| !is_there(doomed)).count();
        drop(service);
        if gone == self.doomed.len() {
            let tree = place.disk.tree();
            assert!(self.has_clean_files(&tree), "a file has the material of a deleted key");
            assert!(!blocks_too || self.is_clean(&tree), "a block has the material of a deleted key");
        }
    }
}

/// Looks at every crash around the end of two keys.
fn look_at_all(disk: MemoryDisk, blocks_too: bool) {
    let world = World::new(disk.clone());
    let start = disk.moment();
    let service = world.place.open(0);
    world.schedule(&service);
    world.place.clock.advance(WINDOW);
    // Any call destroys what is due; scrubbing is for the owner's tick.
    assert!(service.describe_key(&world.place.caller, &named(&world.doomed[0])).is_err());
    let destroyed = disk.moment();
    service.tick();
    let scrubbed = disk.moment();
    service.create_key(&world.place.caller, &CreateKeyRequest::default()).unwrap();
    drop(service);
    let end = disk.moment();
    assert!(!world.is_clean(&{
        let mut history = History::of(&disk, Tree::default());
        history.advance(destroyed);
        history.crash(Survives::Everything)
    }));

    let mut seed = [0; 8];
    getrandom::fill(&mut seed).unwrap();
    let seed = std::env::var("KMSFS_CRASH_SEED")
        .map_or_else(|_| u64::from_le_bytes(seed), |seed| seed.parse().unwrap());
    eprintln!("KMSFS_CRASH_SEED={seed}");
    let mut random = Dice::new(seed);
    let per_moment = STATES.div_ceil(end - start);
    let mut history = History::of(&disk, Tree::default());
    for moment in start..=end {
        history.advance(moment);
        let mut trees = vec![history.crash(Survives::Everything), history.crash(Survives::Nothing)];
        for _ in 0..per_moment {
            trees.push(history.crash(Survives::Some(&mut Dice::new(random.next()))));
        }
        for tree in trees {
            if moment >= scrubbed {
                assert!(world.has_clean_files(&tree), "a file at moment {moment} of {end}");
                assert!(!blocks_too || world.is_clean(&tree), "a block at moment {moment} of {end}");
            }
            world.check(tree, blocks_too);
        }
    }
}

#[test]
fn no_crash_brings_back_what_was_destroyed_or_loses_the_duty_to_scrub() {
    look_at_all(MemoryDisk::default(), true);
}

#[test]
fn where_names_cannot_be_exchanged_no_file_has_what_was_destroyed() {
    look_at_all(MemoryDisk::without_exchange(), false);
}

#[test]
fn a_scrub_that_fails_at_any_call_is_done_when_the_disk_is_well() {
    let mut failed = 0;
    let world = World::new(MemoryDisk::default());
    for fault in [Fault::Eio, Fault::Enospc, Fault::ShortWrite] {
        for call in 1.. {
            let world = world.copy();
            let start = world.place.disk.tree();
            let service = world.place.open(0);
            world.schedule(&service);
            world.place.clock.advance(WINDOW);
            assert!(service.describe_key(&world.place.caller, &named(&world.doomed[0])).is_err());
            world.place.disk.fail(call, fault);
            service.tick();
            if !world.place.disk.heal() {
                break;
            }
            failed += 1;
            let mut history = History::of(&world.place.disk, start);
            history.advance(world.place.disk.moment());
            let crashed = history.crash(Survives::Nothing);
            // A machine that goes on does it a while later, and what fails is not for callers to know.
            service.create_key(&world.place.caller, &CreateKeyRequest::default()).unwrap();
            world.place.clock.advance(SignedDuration::from_mins(2));
            service.tick();
            for key in &world.doomed {
                service.deletion_receipt(&world.place.caller, &named(key)).unwrap();
            }
            service.check_store(&CheckStoreRequest::default()).unwrap();
            assert!(world.has_clean_files(&world.place.disk.tree()), "{fault:?} at call {call}");
            drop(service);
            // One that went down then has lost nothing, and scrubs when it is up.
            world.check(crashed, false);
        }
    }
    assert!(failed > 30, "only {failed} calls failed");
}

#[test]
fn retired_versions_and_removed_slots_are_in_no_crash_either() {
    let disk = MemoryDisk::default();
    let world = World::new(disk.clone());
    let service = world.place.open(0);
    let slot = service.add_slot(&secret(1), kmsfs::kms::Costs::default()).unwrap();
    drop(service);
    let before = sealed_rows(&world.place);
    let service = world.place.open(0);
    let request = RetireKeyVersionRequest {
        key_id: world.doomed[0].to_string(),
        key_version: 1,
        ..RetireKeyVersionRequest::default()
    };
    service.retire_key_version(&world.place.caller, &request).unwrap();
    service.remove_slot(slot).unwrap();
    service.tick();
    let scrubbed = disk.moment();
    drop(service);
    let after = sealed_rows(&world.place);
    let retired: Vec<_> = before.into_iter().filter(|row| !after.contains(row)).collect();
    assert_eq!(retired.len(), 1);
    let mut history = History::of(&disk, Tree::default());
    let mut before_it = 0;
    for moment in 0..=disk.moment() {
        history.advance(moment);
        let found = history.crash(Survives::Nothing).has(&retired[0]);
        assert!(!found || moment < scrubbed, "moment {moment}");
        before_it += usize::from(found);
    }
    assert!(before_it > 0, "it was never there");
}

#[test]
fn another_stores_receipts_are_told_apart() {
    let [one, other] = [(); 2].map(|()| World::new(MemoryDisk::default()));
    let service = one.place.open(0);
    one.schedule(&service);
    one.place.clock.advance(WINDOW);
    service.tick();
    let text =
        service.deletion_receipt(&one.place.caller, &named(&one.doomed[1])).unwrap().to_text().unwrap();
    let key_of = |service: &Service| ReceiptKey::parse(&service.store_info().unwrap().receipt_public_key);
    assert!(SignedReceipt::verify(text.as_bytes(), key_of(&service)).is_ok());
    let foreign = key_of(&other.place.open(0));
    assert_eq!(SignedReceipt::verify(text.as_bytes(), foreign), Err(NotAReceipt::Foreign));
}
