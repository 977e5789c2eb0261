//! The end of a key: its receipt, and what is left of it.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use jiff::SignedDuration;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::*;
use crate::kms::receipt::{ReceiptKey, SignedReceipt};
use crate::kms::watch::{VolumeFiles, WrappedFiles};

const MATERIAL: TableDefinition<'static, [u8; 32], &'static [u8]> = TableDefinition::new("material");

impl World {
    fn schedule_deletion(&self, key: &KeyMetadata) {
        let request = ScheduleKeyDeletionRequest {
            key_id: key.key_id.to_string(),
            pending_window_in_days: Some(7),
            stop_if_unwritten: false,
        };
        self.service().schedule_key_deletion(&self.caller, &request).unwrap();
    }

    fn pass_window(&self) {
        self.clock.advance(SignedDuration::from_hours(7 * 24));
    }

    fn receipt(&self, key: &str) -> Result<SignedReceipt, KmsError> {
        let request = KeyRequest { key_id: key.to_owned() };
        self.service().deletion_receipt(&self.caller, &request)
    }

    fn receipts(&self) -> Vec<String> {
        let request = ListDeletionReceiptsRequest::default();
        let listed = self.service().list_deletion_receipts(&self.caller, &request).unwrap();
        listed.receipts.into_iter().map(|entry| entry.key_arn).collect()
    }

    /// The sealed rows of material in the store's file, which is not open.
    fn sealed(&self) -> Vec<Vec<u8>> {
        let database = Database::open(self.path().join("store.redb")).unwrap();
        let table = database.begin_read().unwrap().open_table(MATERIAL).unwrap();
        table.iter().unwrap().map(|row| row.unwrap().1.value().to_vec()).collect()
    }
}

fn holds(file: &File, bytes: &[u8]) -> bool {
    let mut all = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut all, 0).unwrap();
    all.windows(bytes.len()).any(|found| found == bytes)
}

/// Whether any file of the directory has the bytes.
fn dir_holds(dir: &Path, bytes: &[u8]) -> bool {
    fs::read_dir(dir).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() { dir_holds(&path, bytes) } else { holds(&File::open(path).unwrap(), bytes) }
    })
}

#[test]
fn a_receipt_says_what_was_deleted_by_whom_and_what_is_lost() {
    let mut world = World::new();
    let request = CreateKeyRequest { description: "photos".to_owned(), ..CreateKeyRequest::default() };
    let key = world.service().create_key(&world.caller, &request).unwrap();
    world.service().create_alias(&world.caller, &alias("alias/photos", &key)).unwrap();
    world.service().rotate_key_on_demand(&world.caller, &named(&key)).unwrap();
    let fingerprints: Vec<String> = {
        let entry = world.service().entry(&key.key_id).unwrap();
        [1, 2].map(|version| entry.fingerprint(version)).into()
    };
    world.note_files(&key, 3);
    let scheduled = world.service().clock.now();
    world.schedule_deletion(&key);
    assert_eq!(world.receipt(&key.arn).unwrap_err().kind(), ErrorKind::InvalidState);
    // Who scheduled it survives a restart.
    world.reopen();
    world.note_files(&key, 2);
    world.pass_window();
    let destroyed = world.service().clock.now();
    assert!(world.service().describe_key(&world.caller, &named(&key)).is_err());
    let signed = world.receipt(&key.arn).unwrap();
    let receipt = &signed.receipt;
    assert_eq!((&receipt.key_arn, &*receipt.description), (&key.arn, "photos"));
    assert_eq!(receipt.aliases, ["alias/photos"]);
    assert_eq!((&*receipt.key_spec, &*receipt.origin), ("SYMMETRIC_DEFAULT", "AWS_KMS"));
    let versions: Vec<_> = receipt.versions.iter().map(|version| version.key_material_id.clone()).collect();
    assert_eq!(versions, fingerprints);
    assert!(receipt.versions.iter().all(|version| version.present));
    let asked = receipt.scheduled.as_ref().unwrap();
    assert_eq!((asked.at, &*asked.by), (scheduled, "arn:aws:iam::000000000000:root"));
    assert_eq!((asked.loss.files, asked.loss.certain, asked.pending_window_in_days), (3, true, 7));
    assert_eq!((receipt.destroyed.at, receipt.destroyed.due), (destroyed, Some(destroyed)));
    assert_eq!((receipt.destroyed.loss.files, receipt.destroyed.loss.bytes), (2, 200));
    assert!(receipt.scrubbed.as_ref().unwrap().audit_sequence > 0);
    assert_eq!(receipt.copies.kept_backup, None);

    // It verifies, with the key that the store shows, for ever.
    let shown = world.service().store_info().unwrap().receipt_public_key;
    let text = signed.to_text().unwrap();
    assert_eq!(SignedReceipt::verify(text.as_bytes(), ReceiptKey::parse(&shown)).unwrap(), signed);
    world.reopen();
    for name in ["alias/photos", &key.arn, &key.key_id.to_string()] {
        assert_eq!(world.receipt(name).unwrap(), signed, "{name}");
    }
    assert_eq!(world.receipts(), [key.arn]);
}

#[test]
fn the_events_of_a_deletion_are_those_that_the_receipt_names() {
    let world = World::new();
    let key = world.key();
    world.schedule_deletion(&key);
    world.pass_window();
    let receipt = world.receipt(&key.arn).unwrap().receipt;
    world.service().flush_audit().unwrap();
    let log = fs::read_dir(world.path().join(DIRECTORY)).unwrap();
    let text: String =
        log.map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap_or_default()).collect();
    let named = |name: &str| text.lines().find(|line| line.contains(&format!("\"{name}\""))).unwrap();
    let sequence = |line: &str| {
        let rest = line.split("\"integrity\":{\"sequence\":").nth(1).unwrap();
        rest.split(',').next().unwrap().parse::<u64>().unwrap()
    };
    let (deletion, scrubbing) = (named("DeleteKey"), named("ScrubDeletedKey"));
    assert!(deletion.contains(&receipt.destroyed.event_id) && deletion.contains(&key.arn), "{deletion}");
    assert!(scrubbing.contains(&key.arn), "{scrubbing}");
    let scrubbed = receipt.scrubbed.unwrap();
    assert!(sequence(deletion) <= scrubbed.audit_sequence && scrubbed.audit_sequence < sequence(scrubbing));
    let last = text.lines().find(|line| sequence(line) == scrubbed.audit_sequence).unwrap();
    let digest = crate::crypto::kdf::sha256(&[last.as_bytes()]);
    assert_eq!(scrubbed.audit_digest, crate::kms::receipt::hex(&digest));
    assert!(text.contains("\"GetDeletionReceipt\""));
}

#[test]
fn a_cancelled_deletion_leaves_no_receipt() {
    let mut world = World::new();
    let key = world.key();
    world.schedule_deletion(&key);
    world.service().cancel_key_deletion(&world.caller, &named(&key)).unwrap();
    world.pass_window();
    for _ in 0..2 {
        assert_eq!(world.receipt(&key.arn).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(world.receipts(), [""; 0]);
        world.reopen();
    }
}

#[test]
fn receipts_are_for_the_accounts_root() {
    let world = World::new();
    let key = world.key();
    world.schedule_deletion(&key);
    world.pass_window();
    let somebody = super::access::user(61_000);
    let refused = world.service().deletion_receipt(&somebody, &named(&key)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::AccessDenied);
    let request = ListDeletionReceiptsRequest::default();
    let refused = world.service().list_deletion_receipts(&somebody, &request).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::AccessDenied);
    assert_eq!(world.receipts(), [key.arn]);
}

#[test]
fn receipts_are_listed_in_pages() {
    let world = World::new();
    let keys: Vec<KeyMetadata> = (0..5).map(|_| world.key()).collect();
    keys.iter().for_each(|key| world.schedule_deletion(key));
    world.pass_window();
    world.service().tick();
    let (mut listed, mut marker) = (Vec::new(), None);
    loop {
        let request = ListDeletionReceiptsRequest { limit: Some(2), marker };
        let page = world.service().list_deletion_receipts(&world.caller, &request).unwrap();
        assert!(page.receipts.iter().all(|entry| entry.scrubbed.is_some()));
        listed.extend(page.receipts.into_iter().map(|entry| entry.key_arn));
        assert_eq!(page.truncated, page.next_marker.is_some());
        marker = page.next_marker;
        if marker.is_none() {
            break;
        }
    }
    let mut expected: Vec<String> = keys.into_iter().map(|key| key.arn).collect();
    expected.sort();
    assert_eq!(listed, expected);
}

#[test]
fn a_version_that_was_retired_before_is_not_said_to_be_destroyed_now() {
    let world = World::new();
    let key = world.key();
    world.service().rotate_key_on_demand(&world.caller, &named(&key)).unwrap();
    let retire =
        RetireKeyVersionRequest { key_id: key.key_id.to_string(), key_version: 1, ..Default::default() };
    world.service().retire_key_version(&world.caller, &retire).unwrap();
    world.schedule_deletion(&key);
    world.pass_window();
    world.service().tick();
    let receipt = world.receipt(&key.arn).unwrap().receipt;
    assert_eq!(receipt.versions.iter().map(|version| version.present).collect::<Vec<_>>(), [false, true]);
}

#[test]
fn neither_the_directory_nor_the_old_file_holds_what_was_deleted() {
    let mut world = World::new();
    let kept = world.key();
    world.service = None;
    let before = world.sealed();
    world.service = Some(Service::open(world.path(), &passphrase("p"), world.clock.clone()).unwrap());
    let key = world.key();
    world.service().rotate_key_on_demand(&world.caller, &named(&key)).unwrap();
    world.service = None;
    let sealed: Vec<_> = world.sealed().into_iter().filter(|row| !before.contains(row)).collect();
    assert_eq!(sealed.len(), 2);
    // A second descriptor of what the store's file is now.
    let old = File::open(world.path().join("store.redb")).unwrap();
    for row in &sealed {
        assert!(holds(&old, row) && dir_holds(world.path(), row));
    }
    world.reopen();
    world.schedule_deletion(&key);
    world.pass_window();
    world.service().tick();
    for row in &sealed {
        assert!(!holds(&old, row) && !dir_holds(world.path(), row));
    }
    assert!(dir_holds(world.path(), &before[0]), "the key that is kept is gone");
    assert!(!world.path().join("store.redb.scrubbed").exists());
    assert_eq!(world.state(&kept), state::KeyState::Enabled);
    world.service().check_store(&Default::default()).unwrap();
}

#[test]
fn whatever_destroys_something_has_the_file_scrubbed() {
    /// Destroys something that is in the store's file.
    type Destroy = fn(&World, &KeyMetadata);
    let ways: [(&str, Destroy); 3] = [
        ("retire a version", |world, key| {
            let key_id = key.key_id.to_string();
            let retire = RetireKeyVersionRequest { key_id, key_version: 1, ..Default::default() };
            world.service().retire_key_version(&world.caller, &retire).unwrap();
        }),
        ("remove an unlock slot", |world, _| {
            let secret = UnlockSecret::KeyFile(Passphrase::new(vec![9; 32]));
            let slot = world.service().add_slot(&secret, cheap().costs).unwrap();
            world.service().remove_slot(slot).unwrap();
        }),
        ("replace an unlock slot", |world, _| {
            let secret = UnlockSecret::KeyFile(Passphrase::new(vec![8; 32]));
            world.service().store.add_slot(&secret, cheap().costs, Some(0)).unwrap();
        }),
    ];
    for (what, destroy) in ways {
        let world = World::new();
        let key = world.key();
        world.service().rotate_key_on_demand(&world.caller, &named(&key)).unwrap();
        world.service().tick();
        assert!(!world.service().store.scrub().unwrap(), "{what}: there was nothing to do");
        destroy(&world, &key);
        assert!(world.service().store.scrub().unwrap(), "{what}");
        assert!(!world.service().store.scrub().unwrap(), "{what}: once is enough");
    }
}

#[test]
fn calls_go_on_while_the_store_is_scrubbed_and_are_in_the_new_file() {
    let mut world = World::new();
    let doomed: Vec<KeyMetadata> = (0..20).map(|_| world.key()).collect();
    doomed.iter().for_each(|key| world.schedule_deletion(key));
    world.pass_window();
    let made: Vec<KeyMetadata> = std::thread::scope(|scope| {
        let ticking = scope.spawn(|| (0..20).for_each(|_| world.service().tick()));
        let made = (0..40)
            .map(|n| {
                let key = world.key();
                if n % 4 == 0 {
                    world.service().rotate_key_on_demand(&world.caller, &named(&key)).unwrap();
                    let key_id = key.key_id.to_string();
                    let retire = RetireKeyVersionRequest { key_id, key_version: 1, ..Default::default() };
                    world.service().retire_key_version(&world.caller, &retire).unwrap();
                }
                key
            })
            .collect();
        ticking.join().unwrap();
        made
    });
    world.service().check_store(&Default::default()).unwrap();
    world.reopen();
    for key in &made {
        assert_eq!(world.state(key), state::KeyState::Enabled);
    }
    assert_eq!(world.receipts().len(), doomed.len());
    assert!(!world.service().store.scrub().unwrap());
}

impl World {
    /// Makes a volume known that has so many files of 100 bytes under version 1 of a key.
    fn note_files(&self, key: &KeyMetadata, files: u64) {
        const VOLUME: &str = "6f0c5a0e-0000-4000-8000-000000000009";
        if self.service().list_volumes().unwrap().volumes.is_empty() {
            let request = CreateKeyRequest {
                description: format!("kmsfs volume {VOLUME}"),
                manager: KeyManager::Internal,
                ..CreateKeyRequest::default()
            };
            self.service().create_key(&self.caller, &request).unwrap();
        }
        let key_arn = key.arn.clone();
        let wrapped = WrappedFiles { key_arn, key_version: 1, files, bytes: 100 * files };
        let files = VolumeFiles { certain: true, counting: false, wrapped: vec![wrapped] };
        let (volume_id, path) = (VOLUME.to_owned(), "/v".to_owned());
        let note = NoteVolumeRequest { volume_id, path, open: false, files };
        self.service().note_volume(&self.caller, &note).unwrap();
    }
}
