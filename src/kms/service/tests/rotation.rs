//! Rotation by the clock, by hand and by wear; last uses; the key that the service manages.

use jiff::SignedDuration;
use serde_json::json;

use super::*;
use crate::kms::service::usage::BOUND;
use crate::kms::state::{KeyManager, KeyState};
use crate::kms::wire::dispatch;

const DAY: SignedDuration = SignedDuration::from_hours(24);

impl World {
    fn rotate_every(&self, key: &KeyMetadata, days: Option<u32>) -> Result<Empty, KmsError> {
        let request =
            EnableKeyRotationRequest { key_id: key.key_id.to_string(), rotation_period_in_days: days };
        self.service().enable_key_rotation(&self.caller, &request)
    }

    fn schedule(&self, key: &KeyMetadata) -> RotationStatusResponse {
        self.service().get_key_rotation_status(&self.caller, &named(key)).unwrap()
    }

    fn rotations(&self, key: &KeyMetadata) -> Vec<(String, Timestamp)> {
        let request = ListKeyRotationsRequest {
            key_id: key.key_id.to_string(),
            include_key_material: None,
            limit: None,
            marker: None,
        };
        let listed = self.service().list_key_rotations(&self.caller, &request).unwrap();
        let entry = |rotation: RotationEntry| (rotation.rotation_type.unwrap(), rotation.rotation_date);
        listed.rotations.into_iter().map(entry).collect()
    }
}

#[test]
fn a_key_rotates_yearly_for_ten_years_and_every_version_still_opens() {
    let mut world = World::new();
    let key = world.key();
    world.rotate_every(&key, None).unwrap();
    let start = world.clock.now();
    let mut blobs = Vec::new();
    for year in 1..=10 {
        let made = world.service().generate_data_key(&world.caller, &key.arn, &context()).unwrap();
        assert_eq!(made.key_version, year);
        blobs.push(made);
        assert_eq!(world.schedule(&key).next_rotation_date, Some(start + DAY * (365 * year as i32)));
        world.clock.advance(DAY * 365 - SignedDuration::from_millis(1));
        world.service().tick();
        assert_eq!(world.rotations(&key).len(), year as usize - 1);
        world.clock.advance(SignedDuration::from_millis(1));
        world.service().tick();
    }
    world.reopen();
    let due = |year: i32| ("AUTOMATIC".to_owned(), start + DAY * (365 * year));
    assert_eq!(world.rotations(&key), (1..=10).map(due).collect::<Vec<_>>());
    for made in blobs {
        let got = world.service().decrypt_data_key(&world.caller, &made.blob, &context()).unwrap();
        assert_eq!(got.plaintext, made.plaintext);
    }
}

#[test]
fn downtime_is_made_up_for_by_one_rotation_and_the_schedule_stays() {
    let mut world = World::new();
    let key = world.key();
    world.rotate_every(&key, Some(90)).unwrap();
    let start = world.clock.now();
    world.service = None;
    world.clock.advance(DAY * 1000);
    world.reopen();
    assert_eq!(world.rotations(&key), [("AUTOMATIC".to_owned(), start + DAY * 1000)]);
    assert_eq!(world.schedule(&key).next_rotation_date, Some(start + DAY * 1080));
}

#[test]
fn rotation_on_demand_does_not_shift_the_schedule() {
    let world = World::new();
    let key = world.key();
    world.rotate_every(&key, Some(100)).unwrap();
    let before = world.schedule(&key);
    world.clock.advance(DAY * 99);
    world.service().rotate_key_on_demand(&world.caller, &named(&key)).unwrap();
    assert_eq!(world.schedule(&key), before);
    world.clock.advance(DAY);
    let kinds: Vec<_> = world.rotations(&key).into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, ["ON_DEMAND", "AUTOMATIC"]);
}

#[test]
fn a_key_that_is_not_enabled_waits_with_its_rotation() {
    let world = World::new();
    let key = world.key();
    world.rotate_every(&key, Some(90)).unwrap();
    world.service().disable_key(&world.caller, &named(&key)).unwrap();
    world.clock.advance(DAY * 91);
    assert!(world.rotations(&key).is_empty());
    assert!(world.schedule(&key).key_rotation_enabled);
    world.service().enable_key(&world.caller, &named(&key)).unwrap();
    world.service().tick();
    assert_eq!(world.rotations(&key).len(), 1);
    let schedule = ScheduleKeyDeletionRequest {
        key_id: key.arn.clone(),
        pending_window_in_days: None,
        stop_if_unwritten: false,
    };
    world.service().schedule_key_deletion(&world.caller, &schedule).unwrap();
    assert!(!world.schedule(&key).key_rotation_enabled);
}

#[test]
fn schedules_are_kept_changed_and_ended_as_asked() {
    let mut world = World::new();
    let key = world.key();
    assert!(!world.schedule(&key).key_rotation_enabled);
    for days in [0, 89, 2561] {
        assert_eq!(world.rotate_every(&key, Some(days)).unwrap_err().kind(), ErrorKind::Validation, "{days}");
    }
    world.rotate_every(&key, Some(2560)).unwrap();
    let first = world.schedule(&key);
    assert_eq!(first.rotation_period_in_days, Some(2560));
    world.clock.advance(DAY);
    world.rotate_every(&key, None).unwrap();
    world.reopen();
    assert_eq!(world.schedule(&key), first);
    world.rotate_every(&key, Some(90)).unwrap();
    assert_eq!(world.schedule(&key).next_rotation_date, Some(world.clock.now() + DAY * 90));
    world.service().disable_key_rotation(&world.caller, &named(&key)).unwrap();
    world.clock.advance(DAY * 3000);
    assert!(world.rotations(&key).is_empty());
}

#[test]
fn keys_with_one_material_for_life_do_not_rotate() {
    let world = World::new();
    let external = CreateKeyRequest { origin: Some("EXTERNAL".to_owned()), ..CreateKeyRequest::default() };
    let external = world.service().create_key(&world.caller, &external).unwrap();
    for key in [
        world.key_of("ECC_NIST_P256", "SIGN_VERIFY"),
        world.key_of("HMAC_256", "GENERATE_VERIFY_MAC"),
        external,
    ] {
        for operation in
            ["EnableKeyRotation", "DisableKeyRotation", "GetKeyRotationStatus", "RotateKeyOnDemand"]
        {
            let target = format!("TrentService.{operation}");
            let answer = dispatch(world.service(), &world.caller, &target, &json!({ "KeyId": key.key_id }));
            assert_eq!(answer.unwrap_err().kind(), ErrorKind::UnsupportedOperation, "{operation}");
        }
    }
}

#[test]
fn a_version_that_was_used_often_is_replaced_and_counts_survive() {
    let mut world = World::new();
    let key = world.key();
    let wrap = |world: &World| {
        world.service().generate_data_key(&world.caller, &key.arn, &context()).unwrap().key_version
    };
    let wraps = |world: &World| world.service().entry(&key.key_id).unwrap().held(1).unwrap().wraps();
    for _ in 0..5 {
        wrap(&world);
    }
    // Given up properly: exactly so many.
    world.reopen();
    assert_eq!(wraps(&world), 5);
    wrap(&world);
    world.service().tick();
    // As after a crash: what was reserved counts as made.
    let copy = tempfile::tempdir().unwrap();
    std::fs::copy(world.path().join("store.redb"), copy.path().join("store.redb")).unwrap();
    let crashed = Service::open(copy.path(), &passphrase("p"), world.clock.clone()).unwrap();
    assert!(crashed.entry(&key.key_id).unwrap().held(1).unwrap().wraps() > 1_000_000);
    drop(crashed);

    world.service().entry(&key.key_id).unwrap().held(1).unwrap().set_wraps(BOUND - 1);
    assert_eq!(wrap(&world), 1);
    world.clock.advance(SignedDuration::from_mins(5));
    world.service().tick();
    assert_eq!(wrap(&world), 2);
    assert_eq!(world.rotations(&key).len(), 1);
}

#[test]
fn the_last_use_is_known_at_once_and_after_a_restart() {
    let mut world = World::new();
    let key = world.key();
    let last = |world: &World| {
        world.service().get_key_last_usage(&world.caller, &named(&key)).unwrap().key_last_usage
    };
    assert_eq!(last(&world), KeyLastUsage::default());
    let made = world.service().generate_data_key(&world.caller, &key.arn, &context()).unwrap();
    world.clock.advance(DAY);
    // Refused uses do not count, nor does looking.
    let refused = world.service().decrypt_data_key(&world.caller, &made.blob, &EncryptionContext::new());
    refused.unwrap_err();
    assert_eq!(last(&world).operation.as_deref(), Some("GenerateDataKey"));
    world.service().decrypt_data_key(&world.caller, &made.blob, &context()).unwrap();
    let used = last(&world);
    assert_eq!((used.operation.as_deref(), used.timestamp), (Some("Decrypt"), Some(world.clock.now())));
    world.reopen();
    assert_eq!(last(&world), used);
}

#[test]
fn the_service_makes_its_own_key_on_first_use_and_lets_nobody_change_it() {
    let mut world = World::new();
    let name = KeyRequest { key_id: "alias/aws/kmsfs".to_owned() };
    let absent = world.service().describe_key(&world.caller, &name).unwrap_err();
    assert_eq!(absent.kind(), ErrorKind::NotFound);
    let made = world.service().generate_data_key(&world.caller, &name.key_id, &context()).unwrap();
    let key = world.service().describe_key(&world.caller, &name).unwrap();
    assert_eq!((key.key_manager, &key.arn), (KeyManager::Aws, &made.key_arn));
    let again = world.service().generate_data_key(&world.caller, &name.key_id, &context()).unwrap();
    assert_eq!(again.key_arn, made.key_arn);
    world.reopen();
    let id = json!(key.key_id);
    for (operation, body) in [
        ("DisableKey", json!({ "KeyId": id })),
        ("EnableKey", json!({ "KeyId": id })),
        ("ScheduleKeyDeletion", json!({ "KeyId": id })),
        ("DisableKeyRotation", json!({ "KeyId": id })),
        ("EnableKeyRotation", json!({ "KeyId": id })),
        ("RotateKeyOnDemand", json!({ "KeyId": id })),
        ("UpdateKeyDescription", json!({ "KeyId": id, "Description": "mine" })),
        ("CreateAlias", json!({ "AliasName": "alias/mine", "TargetKeyId": id })),
    ] {
        let target = format!("TrentService.{operation}");
        let refused = dispatch(world.service(), &world.caller, &target, &body).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::UnsupportedOperation, "{operation}");
    }
    world.clock.advance(DAY * 365);
    assert_eq!(world.rotations(&key).len(), 1);
    assert_eq!(world.state(&key), KeyState::Enabled);
}

#[test]
fn a_description_is_changed_and_kept() {
    let mut world = World::new();
    let key = world.key();
    let update = |world: &World, description: String| {
        let request = UpdateKeyDescriptionRequest { key_id: key.arn.clone(), description };
        world.service().update_key_description(&world.caller, &request)
    };
    update(&world, "für Fotos".to_owned()).unwrap();
    assert_eq!(update(&world, "x".repeat(8193)).unwrap_err().kind(), ErrorKind::Validation);
    world.reopen();
    let described = world.service().describe_key(&world.caller, &named(&key)).unwrap();
    assert_eq!(described.description, "für Fotos");
    world.force(&key, KeyState::PendingDeletion);
    assert_eq!(update(&world, String::new()).unwrap_err().kind(), ErrorKind::InvalidState);
}
