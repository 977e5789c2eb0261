//! The service as its callers see it.

mod access;
mod access_keys;
mod behalf;
mod destruction;
mod grants;
mod imports;
mod kinds;
mod large;
mod locking;
mod retirement;
mod revocation;
mod rotation;
mod states;
mod storage;
mod tags;

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;

use super::*;
use crate::clock::ManualClock;
use crate::kms::Costs;
use crate::kms::api::*;
use crate::kms::error::ErrorKind;
use crate::kms::state::KeyManager;
use crate::kms::{EncryptionContext, KeyMetadata};
use crate::secret::Passphrase;

/// A service on a directory of its own, a clock that stands still and a caller.
struct World {
    service: Option<Arc<Service>>,
    clock: Arc<ManualClock>,
    caller: Caller,
    dir: tempfile::TempDir,
}

fn passphrase(text: &str) -> UnlockSecret {
    UnlockSecret::Passphrase(Passphrase::new(text.as_bytes().to_vec()))
}

fn cheap() -> StoreOptions {
    StoreOptions { costs: Costs { memory_kib: 32, passes: 1, lanes: 1 }, ..StoreOptions::default() }
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new(Timestamp::from_second(1_700_000_000).unwrap()));
        let service = Service::create(dir.path(), &passphrase("p"), &cheap(), clock.clone()).unwrap();
        Self { service: Some(service), clock, caller: Caller::current(), dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn service(&self) -> &Arc<Service> {
        self.service.as_ref().unwrap()
    }

    fn try_reopen(&mut self) -> Result<(), StoreError> {
        // A thread that brings a mount up to date has the store for a moment longer than its mount.
        wait_until(|| self.service.as_ref().is_none_or(|service| Arc::strong_count(service) == 1));
        self.service = None;
        self.service = Some(Service::open(self.path(), &passphrase("p"), self.clock.clone())?);
        Ok(())
    }

    fn reopen(&mut self) {
        self.try_reopen().unwrap();
    }

    fn key(&self) -> KeyMetadata {
        self.service().create_key(&self.caller, &CreateKeyRequest::default()).unwrap()
    }

    fn state(&self, key: &KeyMetadata) -> state::KeyState {
        self.service().describe_key(&self.caller, &named(key)).unwrap().key_state
    }

    /// Puts the key into any state, past the rules.
    fn force(&self, key: &KeyMetadata, state: state::KeyState) {
        self.service().force_state(&key.key_id, state);
    }
}

fn wait_until(mut done: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(std::time::Instant::now() < deadline, "waited in vain");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn named(key: &KeyMetadata) -> KeyRequest {
    KeyRequest { key_id: key.key_id.to_string() }
}

fn alias(name: &str, key: &KeyMetadata) -> AliasRequest {
    AliasRequest { alias_name: name.to_owned(), target_key_id: key.arn.clone() }
}

fn context() -> EncryptionContext {
    EncryptionContext::new().with("kmsfs:volume", "v").with("kmsfs:file", "f")
}

#[test]
fn a_data_key_unwraps_by_any_name_of_its_key_and_in_its_context_alone() {
    let world = World::new();
    let (service, caller, key) = (world.service(), &world.caller, world.key());
    service.create_alias(caller, &alias("alias/a", &key)).unwrap();
    let alias_arn = key.arn.replace(&format!("key/{}", key.key_id), "alias/a");
    for name in [key.key_id.to_string(), key.arn.clone(), "alias/a".to_owned(), alias_arn] {
        let made = service.generate_data_key(caller, &name, &context()).unwrap();
        assert_eq!((made.key_arn, made.key_version), (key.arn.clone(), 1));
        assert_eq!(made.blob.len(), crate::kms::DATA_KEY_BLOB_LEN);
        let got = service.decrypt_data_key(caller, &made.blob, &context()).unwrap();
        assert_eq!(got.plaintext, made.plaintext);
        let other = service.decrypt_data_key(caller, &made.blob, &EncryptionContext::new());
        assert_eq!(other.unwrap_err().kind(), ErrorKind::InvalidCiphertext);
    }
}

#[test]
fn rotation_keeps_every_older_version_readable() {
    let mut world = World::new();
    let key = world.key();
    let mut made = Vec::new();
    for version in 1..=26 {
        let service = world.service();
        let data_key = service.generate_data_key(&world.caller, &key.arn, &context()).unwrap();
        assert_eq!(data_key.key_version, version);
        made.push(data_key);
        let rotated = service.rotate_key_on_demand(&world.caller, &named(&key));
        match version {
            26 => assert_eq!(rotated.unwrap_err().kind(), ErrorKind::LimitExceeded),
            _ => assert_eq!(rotated.unwrap().current_key_material_version, version + 1),
        }
    }
    world.reopen();
    for data_key in &made {
        let got = world.service().decrypt_data_key(&world.caller, &data_key.blob, &context()).unwrap();
        assert_eq!(got.plaintext, data_key.plaintext);
        assert_eq!(got.key_version, data_key.key_version);
    }
    let mut request = ListKeyRotationsRequest {
        key_id: key.arn,
        include_key_material: Some("ALL_KEY_MATERIAL".to_owned()),
        limit: Some(10),
        marker: None,
    };
    let mut versions = Vec::new();
    loop {
        let listed = world.service().list_key_rotations(&world.caller, &request).unwrap();
        versions.extend(listed.rotations.iter().map(|rotation| rotation.key_material_version));
        assert_eq!(listed.truncated, listed.next_marker.is_some());
        match listed.next_marker {
            Some(marker) => request.marker = Some(marker),
            None => break,
        }
    }
    assert_eq!(versions, (1..=26).collect::<Vec<_>>());
}

#[test]
fn re_encrypt_moves_a_ciphertext_to_another_key_and_context() {
    let world = World::new();
    let (from, to) = (world.key(), world.key());
    let made = world.service().generate_data_key(&world.caller, &from.arn, &context()).unwrap();
    let request = ReEncryptRequest {
        ciphertext_blob: made.blob,
        source_encryption_context: context(),
        destination_key_id: to.arn.clone(),
        destination_encryption_context: EncryptionContext::new(),
        ..ReEncryptRequest::default()
    };
    let moved = world.service().re_encrypt(&world.caller, &request).unwrap();
    assert_eq!((moved.source_key_id, moved.key_id), (from.arn, to.arn.clone()));
    let blob = moved.ciphertext_blob;
    let got = world.service().decrypt_data_key(&world.caller, &blob, &EncryptionContext::new()).unwrap();
    assert_eq!(got.plaintext, made.plaintext);
    assert_eq!(got.key_arn, to.arn);
}

#[test]
fn a_blob_of_another_store_is_named_as_such() {
    let (here, there) = (World::new(), World::new());
    let key = there.key();
    let made = there.service().generate_data_key(&there.caller, &key.arn, &context()).unwrap();
    let error = here.service().decrypt_data_key(&here.caller, &made.blob, &context()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::IncorrectKey);
    assert!(error.message().contains("another key store"), "{error}");
}

#[test]
fn limits_are_enforced() {
    let world = World::new();
    let (service, caller, key) = (world.service(), &world.caller, world.key());
    for (len, allowed) in [(0, false), (1, true), (4096, true), (4097, false)] {
        let request = EncryptRequest {
            key_id: key.arn.clone(),
            plaintext: SecretBytes::new(vec![7; len]),
            encryption_context: context(),
            ..EncryptRequest::default()
        };
        let sealed = service.encrypt(caller, &request);
        assert_eq!(sealed.is_ok(), allowed, "{len} bytes");
        if let Ok(sealed) = sealed {
            let request = DecryptRequest {
                ciphertext_blob: sealed.ciphertext_blob,
                encryption_context: context(),
                key_id: Some(key.arn.clone()),
                ..DecryptRequest::default()
            };
            assert_eq!(service.decrypt(caller, &request).unwrap().plaintext.len(), len);
        }
    }
    for (count, allowed) in [(None, false), (Some(0), false), (Some(1024), true), (Some(1025), false)] {
        let random = service
            .generate_random(caller, &GenerateRandomRequest { number_of_bytes: count, ..Default::default() });
        assert_eq!(random.is_ok(), allowed, "{count:?}");
    }
    for (days, allowed) in [(0, false), (6, false), (31, false), (7, true)] {
        let request = ScheduleKeyDeletionRequest {
            key_id: key.arn.clone(),
            pending_window_in_days: Some(days),
            stop_if_unwritten: false,
        };
        assert_eq!(service.schedule_key_deletion(caller, &request).is_ok(), allowed, "{days} days");
    }
    let long = CreateKeyRequest { description: "d".repeat(8193), ..CreateKeyRequest::default() };
    assert_eq!(service.create_key(caller, &long).unwrap_err().kind(), ErrorKind::Validation);
    let dry = GenerateDataKeyRequest {
        key_id: world.key().arn,
        number_of_bytes: Some(32),
        dry_run: true,
        ..Default::default()
    };
    assert_eq!(service.generate_data_key_bytes(caller, &dry).unwrap_err().kind(), ErrorKind::DryRun);
}

#[test]
fn internal_keys_are_unlisted_and_cannot_be_revoked_but_rotate() {
    let world = World::new();
    let (service, caller) = (world.service(), &world.caller);
    let request = CreateKeyRequest { manager: KeyManager::Internal, ..CreateKeyRequest::default() };
    let internal = service.create_key(caller, &request).unwrap();
    let listed = world.key();
    let keys = service.list_keys(caller, &ListKeysRequest::default()).unwrap().keys;
    assert_eq!(keys.iter().map(|key| key.key_id).collect::<Vec<_>>(), [listed.key_id]);
    assert!(service.generate_data_key(caller, &internal.arn, &context()).is_ok());
    let unsupported = |result: Result<StateResponse, KmsError>| {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::UnsupportedOperation);
    };
    unsupported(service.disable_key(caller, &named(&internal)));
    let deletion = ScheduleKeyDeletionRequest {
        key_id: internal.arn.clone(),
        pending_window_in_days: None,
        stop_if_unwritten: false,
    };
    unsupported(service.schedule_key_deletion(caller, &deletion));
    assert!(service.create_alias(caller, &alias("alias/i", &internal)).is_err());
    assert_eq!(world.state(&internal), state::KeyState::Enabled);
    let rotated = service.rotate_key_on_demand(caller, &named(&internal)).unwrap();
    assert_eq!(rotated.current_key_material_version, 2);
}

#[test]
fn listings_page_through_everything_once() {
    let world = World::new();
    let mut made: Vec<KeyId> = (0..7).map(|_| world.key().key_id).collect();
    made.sort();
    let mut listed = Vec::new();
    let mut request = ListKeysRequest { limit: Some(3), marker: None };
    loop {
        let page = world.service().list_keys(&world.caller, &request).unwrap();
        listed.extend(page.keys.iter().map(|key| key.key_id));
        request.marker = page.next_marker;
        if !page.truncated {
            break;
        }
    }
    assert_eq!(listed, made);
    request.marker = Some("nonsense".to_owned());
    let error = world.service().list_keys(&world.caller, &request).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidMarker);
}

#[test]
fn aliases_are_made_moved_listed_and_removed() {
    let mut world = World::new();
    let (a, b) = (world.key(), world.key());
    let service = world.service().clone();
    service.create_alias(&world.caller, &alias("alias/x", &a)).unwrap();
    let again = service.create_alias(&world.caller, &alias("alias/x", &b)).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AlreadyExists);
    for reserved in ["alias/aws/kmsfs", "alias/", "x", "alias/ä"] {
        let error = service.create_alias(&world.caller, &alias(reserved, &a)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidAliasName, "{reserved}");
    }
    service.update_alias(&world.caller, &alias("alias/x", &b)).unwrap();
    // Only a key of the same kind takes another's place.
    let kinds = [
        ("HMAC_256", "GENERATE_VERIFY_MAC"),
        ("ECC_NIST_P256", "SIGN_VERIFY"),
        ("RSA_2048", "ENCRYPT_DECRYPT"),
    ];
    for (spec, usage) in kinds {
        let request = CreateKeyRequest {
            key_spec: Some(spec.to_owned()),
            key_usage: Some(usage.to_owned()),
            ..CreateKeyRequest::default()
        };
        let other = service.create_key(&world.caller, &request).unwrap();
        let error = service.update_alias(&world.caller, &alias("alias/x", &other)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Validation, "{spec}");
    }
    drop(service);
    world.reopen();
    let service = world.service();
    let listed = service.list_aliases(&world.caller, &ListAliasesRequest::default()).unwrap().aliases;
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].target_key_id, b.key_id);
    let by_alias = KeyRequest { key_id: "alias/x".to_owned() };
    assert_eq!(service.describe_key(&world.caller, &by_alias).unwrap().key_id, b.key_id);
    assert!(service.disable_key(&world.caller, &by_alias).is_err(), "managed through an alias");
    let removal = DeleteAliasRequest { alias_name: "alias/x".to_owned() };
    service.delete_alias(&world.caller, &removal).unwrap();
    assert_eq!(service.delete_alias(&world.caller, &removal).unwrap_err().kind(), ErrorKind::NotFound);
}
