//! What a key's custom key store means for its state.

use kmsfs::kms::api::{
    AliasRequest, CreateGrantRequest, EnableKeyRotationRequest, GetParametersForImportRequest, KeyRequest,
    PutKeyPolicyRequest, ScheduleKeyDeletionRequest, Tag, TagResourceRequest, UpdateKeyDescriptionRequest,
};
use kmsfs::kms::{ErrorKind, KeyState, KmsError};

use super::{World, named, of};

#[test]
fn while_disconnected_keys_are_unavailable_and_otherwise_managed() {
    let (mut world, store, key) = World::with_key();
    let blob = world.encrypt(&key, b"secret").unwrap();
    world.disconnect(&store);
    for _ in 0..2 {
        assert_eq!(world.state(&key), KeyState::Unavailable);
        let shown = world.service().describe_key(&world.caller, &named(&key)).unwrap();
        assert!(!shown.enabled);
        for error in [world.encrypt(&key, b"x").unwrap_err(), world.decrypt(&blob).unwrap_err()] {
            let is = (error.kind(), error.key_state());
            assert_eq!(is, (ErrorKind::InvalidState, Some(KeyState::Unavailable)));
        }
        // A restart changes nothing about it.
        world.reopen();
    }
    let (service, caller) = (world.service(), &world.caller);
    let kind = |result: Result<(), KmsError>| result.map_err(|error| error.kind());
    let id = key.key_id.to_string();
    let request = KeyRequest { key_id: id.clone() };
    let grant = CreateGrantRequest {
        key_id: id.clone(),
        grantee_principal: Some("arn:aws:iam::000000000000:user/a".to_owned()),
        operations: vec!["Decrypt".to_owned()],
        ..Default::default()
    };
    let import = GetParametersForImportRequest {
        key_id: id.clone(),
        wrapping_algorithm: "RSAES_OAEP_SHA_256".to_owned(),
        wrapping_key_spec: "RSA_2048".to_owned(),
    };
    let rotation = EnableKeyRotationRequest { key_id: id.clone(), rotation_period_in_days: None };
    let tags = vec![Tag { tag_key: "a".to_owned(), tag_value: "b".to_owned() }];
    let description = UpdateKeyDescriptionRequest { key_id: id.clone(), description: "far".to_owned() };
    // The column "Unavailable" of what each state refuses.
    let rows = [
        ("CreateGrant", kind(service.create_grant(caller, &grant).map(drop)), Ok(())),
        ("DisableKey", kind(service.disable_key(caller, &request).map(drop)), Ok(())),
        ("EnableKey", kind(service.enable_key(caller, &request).map(drop)), Ok(())),
        (
            "CancelKeyDeletion",
            kind(service.cancel_key_deletion(caller, &request).map(drop)),
            Err(ErrorKind::InvalidState),
        ),
        (
            "EnableKeyRotation",
            kind(service.enable_key_rotation(caller, &rotation).map(drop)),
            Err(ErrorKind::UnsupportedOperation),
        ),
        (
            "RotateKeyOnDemand",
            kind(service.rotate_key_on_demand(caller, &request).map(drop)),
            Err(ErrorKind::UnsupportedOperation),
        ),
        (
            "GetParametersForImport",
            kind(service.get_parameters_for_import(caller, &import).map(drop)),
            Err(ErrorKind::UnsupportedOperation),
        ),
        (
            "CreateAlias",
            kind(
                service
                    .create_alias(
                        caller,
                        &AliasRequest { alias_name: "alias/far".to_owned(), target_key_id: id.clone() },
                    )
                    .map(drop),
            ),
            Ok(()),
        ),
        (
            "TagResource",
            kind(service.tag_resource(caller, &TagResourceRequest { key_id: id, tags }).map(drop)),
            Ok(()),
        ),
        (
            "UpdateKeyDescription",
            kind(service.update_key_description(caller, &description).map(drop)),
            Ok(()),
        ),
    ];
    for (operation, found, expected) in rows {
        assert_eq!(found, expected, "{operation}");
    }
    assert_eq!(world.state(&key), KeyState::Unavailable);
    service.connect_custom_key_store(caller, &of(&store)).unwrap();
    assert_eq!(world.state(&key), KeyState::Enabled);
    assert_eq!(&*world.decrypt(&blob).unwrap().plaintext, b"secret");
}

#[test]
fn what_was_disabled_or_deleted_meanwhile_stays_so() {
    let (world, store, key) = World::with_key();
    let other = world.key(&store, "two").unwrap();
    world.disconnect(&store);
    let disabled = world.service().disable_key(&world.caller, &named(&key)).unwrap();
    assert_eq!(disabled.key_state, KeyState::Unavailable);
    let deletion = ScheduleKeyDeletionRequest {
        key_id: other.key_id.to_string(),
        pending_window_in_days: Some(7),
        stop_if_unwritten: false,
    };
    let deleted = world.service().schedule_key_deletion(&world.caller, &deletion).unwrap();
    assert_eq!(deleted.key_state, KeyState::PendingDeletion);
    world.service().connect_custom_key_store(&world.caller, &of(&store)).unwrap();
    assert_eq!(world.state(&key), KeyState::Disabled);
    assert_eq!(world.state(&other), KeyState::PendingDeletion);
    assert_eq!(world.encrypt(&key, b"x").unwrap_err().kind(), ErrorKind::Disabled);
    world.disconnect(&store);
    let cancelled = world.service().cancel_key_deletion(&world.caller, &named(&other)).unwrap();
    assert_eq!(cancelled.key_state, KeyState::Unavailable);
    world.service().connect_custom_key_store(&world.caller, &of(&store)).unwrap();
    assert_eq!(world.state(&other), KeyState::Disabled);
}

#[test]
fn a_connection_outlives_a_restart_and_a_dead_proxy() {
    let (mut world, store, key) = World::with_key();
    let blob = world.encrypt(&key, b"secret").unwrap();
    world.proxy.die();
    world.reopen();
    assert_eq!(world.described(&store).connection_state.name(), "CONNECTED");
    assert_eq!(world.state(&key), KeyState::Enabled);
    assert_eq!(world.decrypt(&blob).unwrap_err().key_state(), Some(KeyState::Unavailable));
    world.proxy.revive();
    assert_eq!(&*world.decrypt(&blob).unwrap().plaintext, b"secret");
}

#[test]
fn policies_know_where_a_key_is_and_decide_before_the_proxy_is_asked() {
    let (world, store, key) = World::with_key();
    let blob = world.encrypt(&key, b"secret").unwrap();
    let policy = serde_json::json!({
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": { "AWS": "arn:aws:iam::000000000000:root" },
                "Action": "kms:*",
                "Resource": "*",
            },
            {
                "Effect": "Deny",
                "Principal": "*",
                "Action": "kms:Decrypt",
                "Resource": "*",
                "Condition": { "StringEquals": { "kms:KeyOrigin": "EXTERNAL_KEY_STORE" } },
            },
        ],
    });
    let near = world.plain_key();
    for key in [&key, &near] {
        let request = PutKeyPolicyRequest {
            key_id: key.key_id.to_string(),
            policy: policy.to_string(),
            ..Default::default()
        };
        world.service().put_key_policy(&world.caller, &request).unwrap();
    }
    let asked = world.proxy.seen().len();
    assert_eq!(world.decrypt(&blob).unwrap_err().kind(), ErrorKind::AccessDenied);
    assert_eq!(world.proxy.seen().len(), asked);
    assert!(world.encrypt(&key, b"x").is_ok());
    let own = world.encrypt(&near, b"at hand").unwrap();
    assert!(world.decrypt(&own).is_ok(), "that one is here");
    let stranger = kmsfs::kms::Caller::local(12_345, 12_345, 1, "stranger".to_owned());
    let refused = world.service().generate_data_key(&stranger, &key.arn, &super::context()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::AccessDenied);
    let elsewhere = world.service().create_key(&stranger, &super::key_request(&store, "three")).unwrap_err();
    assert_eq!(elsewhere.kind(), ErrorKind::AccessDenied);
}
