//! The store's file: what survives, what is found out, what does not show.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::*;
use crate::kms::store_exists;

type SealedTable = TableDefinition<'static, [u8; 32], &'static [u8]>;
const SEALED: [SealedTable; 2] = [TableDefinition::new("records"), TableDefinition::new("material")];

#[test]
fn everything_survives_a_restart() {
    let mut world = World::new();
    let request = CreateKeyRequest { description: "lasting".to_owned(), ..CreateKeyRequest::default() };
    let key = world.service().create_key(&world.caller, &request).unwrap();
    world.service().create_alias(&world.caller, &alias("alias/lasting", &key)).unwrap();
    world.service().rotate_key_on_demand(&world.caller, &named(&key)).unwrap();
    world.service().disable_key(&world.caller, &named(&key)).unwrap();
    let by_alias = KeyRequest { key_id: "alias/lasting".to_owned() };
    let before = world.service().describe_key(&world.caller, &by_alias).unwrap();
    world.reopen();
    let after = world.service().describe_key(&world.caller, &by_alias).unwrap();
    assert_eq!(after, before);
    assert_eq!((after.description.as_str(), after.current_key_material_version), ("lasting", 2));
}

#[test]
fn only_the_secrets_of_the_slots_open_the_store() {
    let mut world = World::new();
    let file = || UnlockSecret::KeyFile(Passphrase::new(vec![9; 32]));
    let slot = world.service().add_slot(&file(), cheap().costs).unwrap();
    assert_eq!(world.service().slots().unwrap().len(), 2);
    let short = UnlockSecret::KeyFile(Passphrase::new(vec![9; 31]));
    assert!(matches!(world.service().add_slot(&short, cheap().costs), Err(StoreError::Invalid(_))));
    let greedy = Costs { memory_kib: 1 << 30, passes: 1, lanes: 1 };
    assert!(matches!(world.service().add_slot(&passphrase("q"), greedy), Err(StoreError::Invalid(_))));
    world.service = None;
    let open = |secret: &UnlockSecret| Service::open(world.dir.path(), secret, world.clock.clone());
    drop(open(&file()).unwrap());
    for wrong in [passphrase("P"), passphrase(""), UnlockSecret::KeyFile(Passphrase::new(vec![8; 32]))] {
        assert!(matches!(open(&wrong), Err(StoreError::WrongSecret)));
    }
    let service = open(&passphrase("p")).unwrap();
    service.remove_slot(0).unwrap();
    assert!(matches!(service.remove_slot(slot), Err(StoreError::Invalid(_))), "the last slot was removed");
    drop(service);
    assert!(matches!(open(&passphrase("p")), Err(StoreError::WrongSecret)));
    assert!(open(&file()).is_ok());
}

#[test]
fn the_number_of_a_removed_slot_is_not_used_again() {
    let mut world = World::new();
    let file = || UnlockSecret::KeyFile(Passphrase::new(vec![9; 32]));
    let first = world.service().add_slot(&file(), cheap().costs).unwrap();
    world.service().remove_slot(first).unwrap();
    world.reopen();
    let second = world.service().add_slot(&file(), cheap().costs).unwrap();
    assert!(second > first, "{second} after {first}");
}

#[test]
fn a_store_whose_owner_died_is_written_anew_by_the_next() {
    let mut world = World::new();
    let key = world.key();
    world.service = None;
    let file = world.path().join("store.redb");
    let before = fs::metadata(&file).unwrap().ino();
    world.reopen();
    world.service = None;
    assert_eq!(fs::metadata(&file).unwrap().ino(), before);
    // What a killed process leaves.
    fs::write(world.path().join("lock"), "1\n").unwrap();
    assert!(Service::open(world.path(), &passphrase("wrong"), world.clock.clone()).is_err());
    assert_eq!(fs::metadata(&file).unwrap().ino(), before);
    world.reopen();
    assert_ne!(fs::metadata(&file).unwrap().ino(), before, "not written anew");
    assert_eq!(world.service().describe_key(&world.caller, &named(&key)).unwrap(), key);
}

#[test]
fn a_store_has_one_owner_and_is_created_once() {
    let mut world = World::new();
    let pid = Some(std::process::id());
    let again = Service::open(world.path(), &passphrase("p"), world.clock.clone());
    assert!(matches!(again, Err(StoreError::InUse { pid: found }) if found == pid));
    world.service = None;
    let over = Service::create(world.path(), &passphrase("q"), &cheap(), world.clock.clone());
    assert!(matches!(over, Err(StoreError::AlreadyExists(_))));
    world.reopen();
    let empty = tempfile::tempdir().unwrap();
    let absent = Service::open(empty.path(), &passphrase("p"), world.clock.clone());
    assert!(matches!(absent, Err(StoreError::NotFound(_))));
}

#[test]
fn an_interrupted_creation_leaves_no_store_and_does_not_prevent_the_next() {
    let world = World::new();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("store.redb.new"), b"half a store").unwrap();
    assert!(!store_exists(dir.path()));
    drop(Service::create(dir.path(), &passphrase("p"), &cheap(), world.clock).unwrap());
    assert!(store_exists(dir.path()));
    assert!(!dir.path().join("store.redb.new").exists());
}

#[test]
fn files_are_for_the_owner_alone() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("a/b");
    let clock = World::new().clock;
    let _service = Service::create(&dir, &passphrase("p"), &cheap(), clock).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    assert_eq!(mode(&dir.join("store.redb")), 0o600);
    assert_eq!(mode(&dir.join("lock")), 0o600);
}

#[test]
fn the_file_shows_neither_names_nor_words_nor_material() {
    let mut world = World::new();
    let request =
        CreateKeyRequest { description: "CONSPICUOUS words".to_owned(), ..CreateKeyRequest::default() };
    let key = world.service().create_key(&world.caller, &request).unwrap();
    world.service().create_alias(&world.caller, &alias("alias/CONSPICUOUS", &key)).unwrap();
    world.service().rotate_key_on_demand(&world.caller, &named(&key)).unwrap();
    let mut hidden: Vec<Vec<u8>> = vec![b"CONSPICUOUS".to_vec(), key.key_id.as_bytes().to_vec()];
    hidden.push(key.key_id.to_string().into_bytes());
    for material in &world.service().entry(&key.key_id).unwrap().material {
        hidden.push(material.as_ref().unwrap().material().key().unwrap().expose()[..16].to_vec());
    }
    world.service = None;
    let file = fs::read(world.path().join("store.redb")).unwrap();
    for needle in hidden {
        assert!(!file.windows(needle.len()).any(|window| window == needle));
    }
}

#[test]
fn a_flipped_byte_in_any_record_is_found_out() {
    let mut world = World::new();
    let key = world.key();
    world.service().create_alias(&world.caller, &alias("alias/a", &key)).unwrap();
    world.service().rotate_key_on_demand(&world.caller, &named(&key)).unwrap();
    world.service = None;
    for table in SEALED {
        for (place, value) in all(world.path(), table) {
            for at in 0..place.len() + value.len() {
                let (mut forged_place, mut forged) = (place, value.clone());
                match at.checked_sub(place.len()) {
                    None => forged_place[at] ^= 0x20,
                    Some(at) => forged[at] ^= 0x20,
                }
                replace(world.path(), table, (&place, &forged_place), &forged);
                assert!(matches!(world.try_reopen(), Err(StoreError::Damaged(_))), "byte {at}");
                replace(world.path(), table, (&forged_place, &place), &value);
            }
        }
    }
    world.reopen();
}

#[test]
fn records_cannot_stand_in_for_each_other() {
    let mut world = World::new();
    world.key();
    world.key();
    world.service = None;
    for table in SEALED {
        let records = all(world.path(), table);
        let [(a, value_a), (_, value_b)] = &records[..] else { panic!("two records") };
        replace(world.path(), table, (a, a), value_b);
        assert!(matches!(world.try_reopen(), Err(StoreError::Damaged(_))));
        replace(world.path(), table, (a, a), value_a);
    }
    world.reopen();
}

#[test]
fn a_changed_header_or_slot_does_not_open() {
    let mut world = World::new();
    world.service = None;
    let meta: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
    let slots: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("slots");
    let database = || Database::open(world.dir.path().join("store.redb")).unwrap();
    let (header, slot) = {
        let database = database();
        let read = database.begin_read().unwrap();
        let header = read.open_table(meta).unwrap().get("header").unwrap().unwrap().value().to_vec();
        (header, read.open_table(slots).unwrap().get(0).unwrap().unwrap().value().to_vec())
    };
    let write = |header: &[u8], slot: &[u8]| {
        let database = database();
        let write = database.begin_write().unwrap();
        write.open_table(meta).unwrap().insert("header", header).unwrap();
        write.open_table(slots).unwrap().insert(0, slot).unwrap();
        write.commit().unwrap();
    };
    let open = || Service::open(world.dir.path(), &passphrase("p"), world.clock.clone());
    for at in 0..header.len() {
        let mut forged = header.clone();
        forged[at] ^= 1;
        write(&forged, &slot);
        let opened = open();
        assert!(opened.is_err(), "byte {at} of the header");
        if (8..12).contains(&at) {
            assert!(matches!(opened, Err(StoreError::UnknownVersion { .. })));
        }
    }
    for at in 0..slot.len() {
        let mut forged = slot.clone();
        // The highest bit of a cost asks for terabytes, and must be refused before it is tried.
        forged[at] ^= 0x80;
        write(&header, &forged);
        assert!(open().is_err(), "byte {at} of the slot");
    }
    write(&header, &slot);
    assert!(open().is_ok());
}

#[test]
fn a_file_of_another_kind_is_named_as_such() {
    let world = World::new();
    let dir = tempfile::tempdir().unwrap();
    for contents in [&b""[..], b"hello", &[0; 8192]] {
        fs::write(dir.path().join("store.redb"), contents).unwrap();
        let opened = Service::open(dir.path(), &passphrase("p"), world.clock.clone());
        assert!(matches!(opened, Err(StoreError::NotAStore(_))), "{:?}", opened.err());
        assert_eq!(fs::read(dir.path().join("store.redb")).unwrap(), contents, "the file was changed");
    }
}

#[test]
fn a_damaged_file_is_refused_or_harmless_and_never_a_panic() {
    let mut world = World::new();
    let key = world.key();
    let made = world.service().generate_data_key(&world.caller, &key.arn, &context()).unwrap();
    world.service = None;
    let path = world.path().join("store.redb");
    let whole = fs::read(&path).unwrap();
    let stride = whole.len() / 199;
    for at in (0..320).chain((320..whole.len()).step_by(stride)) {
        let mut broken = whole.clone();
        broken[at] ^= 0x55;
        fs::write(&path, &broken).unwrap();
        if world.try_reopen().is_ok() {
            assert_eq!(world.service().describe_key(&world.caller, &named(&key)).unwrap(), key, "byte {at}");
            let got = world.service().decrypt_data_key(&world.caller, &made.blob, &context()).unwrap();
            assert_eq!(got.plaintext, made.plaintext, "byte {at}");
        }
    }
}

#[test]
fn a_failed_write_leaves_everything_as_it_was() {
    let mut world = World::new();
    let key = world.key();
    let made = world.service().generate_data_key(&world.caller, &key.arn, &context()).unwrap();
    let service = world.service().clone();
    service.store.fail_commits.store(true, std::sync::atomic::Ordering::SeqCst);
    let caller = &world.caller;
    assert!(service.create_key(caller, &CreateKeyRequest::default()).is_err());
    assert!(service.rotate_key_on_demand(caller, &named(&key)).is_err());
    assert!(service.create_alias(caller, &alias("alias/a", &key)).is_err());
    assert!(service.disable_key(caller, &named(&key)).is_err());
    let after = service.describe_key(caller, &named(&key)).unwrap();
    assert_eq!(after, key);
    assert_eq!(service.list_keys(caller, &ListKeysRequest::default()).unwrap().keys.len(), 1);
    assert!(service.decrypt_data_key(caller, &made.blob, &context()).is_ok());
    // The database is opened anew for the first write that can succeed again.
    service.store.fail_commits.store(false, std::sync::atomic::Ordering::SeqCst);
    service.create_alias(caller, &alias("alias/a", &key)).unwrap();
    drop(service);
    world.reopen();
    assert_eq!(world.service().describe_key(&world.caller, &named(&key)).unwrap(), key);
}

fn all(dir: &Path, table: SealedTable) -> Vec<([u8; 32], Vec<u8>)> {
    let database = Database::open(dir.join("store.redb")).unwrap();
    let read = database.begin_read().unwrap();
    let table = read.open_table(table).unwrap();
    let entries = table.iter().unwrap().map(|entry| entry.unwrap());
    entries.map(|(place, value)| (place.value(), value.value().to_vec())).collect()
}

fn replace(dir: &Path, table: SealedTable, (from, to): (&[u8; 32], &[u8; 32]), value: &[u8]) {
    let database = Database::open(dir.join("store.redb")).unwrap();
    let write = database.begin_write().unwrap();
    {
        let mut table = write.open_table(table).unwrap();
        table.remove(from).unwrap();
        table.insert(to, value).unwrap();
    }
    write.commit().unwrap();
}
