//! What every state refuses, and the clock's part in it.

use jiff::SignedDuration;
use serde_json::{Value, json};

use super::*;
use crate::kms::state::KeyState;
use crate::kms::wire::dispatch;

/// Runs every operation on a key in `state`, each on a fresh key; answers the exceptions.
fn answers(world: &World, state: KeyState) -> Vec<(&'static str, Option<ErrorKind>)> {
    let other = world.key();
    let operations = [
        "DescribeKey",
        "EnableKey",
        "DisableKey",
        "ScheduleKeyDeletion",
        "CancelKeyDeletion",
        "RotateKeyOnDemand",
        "ListKeyRotations",
        "CreateAlias",
        "UpdateAlias",
        "DeleteAlias",
        "ListAliases",
        "GenerateDataKey",
        "GenerateDataKeyWithoutPlaintext",
        "Encrypt",
        "Decrypt",
        "ReEncrypt from",
        "ReEncrypt to",
    ];
    operations
        .into_iter()
        .map(|operation| {
            let key = world.key();
            let service = world.service();
            let id = &key.key_id;
            let old = format!("alias/old-{id}");
            service.create_alias(&world.caller, &alias(&old, &key)).unwrap();
            let elsewhere = format!("alias/elsewhere-{id}");
            service.create_alias(&world.caller, &alias(&elsewhere, &other)).unwrap();
            let blob = |key: &KeyMetadata| {
                let made =
                    service.generate_data_key(&world.caller, &key.arn, &EncryptionContext::new()).unwrap();
                data_encoding::BASE64.encode(&made.blob)
            };
            let (own_blob, other_blob) = (blob(&key), blob(&other));
            world.force(&key, state);
            let body = match operation {
                "CreateAlias" => json!({"AliasName": format!("alias/new-{id}"), "TargetKeyId": id}),
                "UpdateAlias" => json!({"AliasName": elsewhere, "TargetKeyId": id}),
                "DeleteAlias" => json!({"AliasName": old}),
                "GenerateDataKey" | "GenerateDataKeyWithoutPlaintext" => {
                    json!({"KeyId": id, "KeySpec": "AES_256"})
                }
                "Encrypt" => json!({"KeyId": id, "Plaintext": "AAAA"}),
                "Decrypt" => json!({"CiphertextBlob": own_blob}),
                "ReEncrypt from" => json!({"CiphertextBlob": own_blob, "DestinationKeyId": other.key_id}),
                "ReEncrypt to" => json!({"CiphertextBlob": other_blob, "DestinationKeyId": id}),
                _ => json!({"KeyId": id}),
            };
            let name = operation.split(' ').next().unwrap();
            let answer = dispatch(service, &world.caller, &format!("TrentService.{name}"), &body);
            (operation, answer.err().map(|error| error.kind()))
        })
        .collect()
}

#[test]
fn every_operation_answers_in_every_state_as_documented() {
    use ErrorKind::{Disabled, InvalidState, UnsupportedOperation};
    let world = World::new();
    // Columns: Disabled, PendingImport, PendingDeletion, Unavailable.
    let bad = Some(InvalidState);
    let crypto = [Some(Disabled), bad, bad, bad];
    let pending_deletion_only = [None, None, bad, None];
    let matrix = |operation: &str| match operation {
        "EnableKey" | "DisableKey" => [None, bad, bad, None],
        "CancelKeyDeletion" => [bad, bad, None, bad],
        "RotateKeyOnDemand" => [Some(Disabled), Some(UnsupportedOperation), bad, Some(UnsupportedOperation)],
        "ScheduleKeyDeletion" | "CreateAlias" | "UpdateAlias" => pending_deletion_only,
        "DescribeKey" | "ListKeyRotations" | "DeleteAlias" | "ListAliases" => [None; 4],
        _ => crypto,
    };
    let states =
        [KeyState::Disabled, KeyState::PendingImport, KeyState::PendingDeletion, KeyState::Unavailable];
    for (column, state) in states.into_iter().enumerate() {
        for (operation, answer) in answers(&world, state) {
            assert_eq!(answer, matrix(operation)[column], "{operation} on a key that is {state}");
        }
    }
    for (operation, answer) in answers(&world, KeyState::Enabled) {
        let expected = (operation == "CancelKeyDeletion").then_some(InvalidState);
        assert_eq!(answer, expected, "{operation} on an enabled key");
    }
}

#[test]
fn a_deleted_key_is_gone_after_its_window_and_not_before() {
    let mut world = World::new();
    let (key, kept) = (world.key(), world.key());
    let service = world.service().clone();
    service.create_alias(&world.caller, &alias("alias/doomed", &key)).unwrap();
    let made = service.generate_data_key(&world.caller, &key.arn, &context()).unwrap();
    let request = ScheduleKeyDeletionRequest {
        key_id: key.arn.clone(),
        pending_window_in_days: Some(7),
        stop_if_unwritten: false,
    };
    let answer = service.schedule_key_deletion(&world.caller, &request).unwrap();
    let due = world.clock.now() + SignedDuration::from_hours(7 * 24);
    assert_eq!(answer.deletion_date, Some(due));
    drop(service);

    world.clock.advance(SignedDuration::from_hours(7 * 24) - SignedDuration::from_secs(1));
    world.reopen();
    assert_eq!(world.state(&key), KeyState::PendingDeletion);
    // Downtime past the end: caught up with at the next start.
    world.clock.advance(SignedDuration::from_hours(24));
    world.reopen();
    let service = world.service();
    assert_eq!(service.describe_key(&world.caller, &named(&key)).unwrap_err().kind(), ErrorKind::NotFound);
    let unwrapped = service.decrypt_data_key(&world.caller, &made.blob, &context());
    assert_eq!(unwrapped.unwrap_err().kind(), ErrorKind::NotFound);
    assert!(service.list_aliases(&world.caller, &ListAliasesRequest::default()).unwrap().aliases.is_empty());
    world.reopen();
    assert_eq!(world.state(&kept), KeyState::Enabled);
}

#[test]
fn a_running_service_destroys_keys_on_time_and_cancelling_prevents_it() {
    let world = World::new();
    let (doomed, saved) = (world.key(), world.key());
    let service = world.service();
    for key in [&doomed, &saved] {
        let request = ScheduleKeyDeletionRequest {
            key_id: key.arn.clone(),
            pending_window_in_days: None,
            stop_if_unwritten: false,
        };
        service.schedule_key_deletion(&world.caller, &request).unwrap();
    }
    service.cancel_key_deletion(&world.caller, &named(&saved)).unwrap();
    assert_eq!(world.state(&saved), KeyState::Disabled);
    world.clock.advance(SignedDuration::from_hours(30 * 24));
    let gone = service.describe_key(&world.caller, &named(&doomed)).unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    service.enable_key(&world.caller, &named(&saved)).unwrap();
    assert_eq!(world.state(&saved), KeyState::Enabled);
}

#[test]
fn the_wire_speaks_the_shapes_of_aws() {
    let world = World::new();
    let call = |target: &str, body: Value| dispatch(world.service(), &world.caller, target, &body);
    let created = call("TrentService.CreateKey", json!({"Description": "d", "NoSuchMember": 1})).unwrap();
    let metadata = &created["KeyMetadata"];
    let expected = json!({
        "KeyId": metadata["KeyId"], "Arn": metadata["Arn"], "AWSAccountId": "000000000000",
        "CreationDate": 1_700_000_000.0, "Enabled": true, "Description": "d", "KeyUsage": "ENCRYPT_DECRYPT",
        "KeyState": "Enabled", "KeySpec": "SYMMETRIC_DEFAULT", "CustomerMasterKeySpec": "SYMMETRIC_DEFAULT",
        "Origin": "AWS_KMS", "KeyManager": "CUSTOMER", "MultiRegion": false,
        "EncryptionAlgorithms": ["SYMMETRIC_DEFAULT"], "CurrentKeyMaterialVersion": 1,
        "CurrentKeyMaterialId": metadata["CurrentKeyMaterialId"],
    });
    assert_eq!(*metadata, expected);
    assert_eq!(metadata["CurrentKeyMaterialId"].as_str().unwrap().len(), 64);

    let context = json!({"a": "b"});
    let made = json!({"KeyId": metadata["KeyId"], "KeySpec": "AES_256", "EncryptionContext": context});
    let made = call("TrentService.GenerateDataKey", made).unwrap();
    assert_eq!(made["KeyId"], metadata["Arn"]);
    let wrapped = json!({"CiphertextBlob": made["CiphertextBlob"], "EncryptionContext": context});
    assert_eq!(call("TrentService.Decrypt", wrapped).unwrap()["Plaintext"], made["Plaintext"]);
    let hidden = json!({"KeyId": metadata["KeyId"], "NumberOfBytes": 7});
    let hidden = call("TrentService.GenerateDataKeyWithoutPlaintext", hidden).unwrap();
    assert!(hidden.get("Plaintext").is_none());

    let deletion = json!({"KeyId": metadata["KeyId"], "PendingWindowInDays": 7});
    let deletion = call("TrentService.ScheduleKeyDeletion", deletion).unwrap();
    assert_eq!(deletion["DeletionDate"], json!(1_700_000_000.0 + 7.0 * 86_400.0));
    assert_eq!(deletion["PendingWindowInDays"], json!(7));
    assert_eq!(deletion["Mounts"], json!([]));

    for (target, body, kind) in [
        ("TrentService.Encapsulate", json!({}), ErrorKind::UnsupportedOperation),
        ("DescribeKey", json!({}), ErrorKind::UnsupportedOperation),
        ("TrentService.DescribeKey", json!({}), ErrorKind::Validation),
        ("TrentService.DescribeKey", json!({"KeyId": 1}), ErrorKind::Serialization),
        ("TrentService.Encrypt", json!({"KeyId": "x", "Plaintext": "no base64"}), ErrorKind::Serialization),
        ("TrentService.Decrypt", json!({"CiphertextBlob": "AAAA"}), ErrorKind::InvalidCiphertext),
    ] {
        assert_eq!(call(target, body).unwrap_err().kind(), kind, "{target}");
    }
    let status: StatusResponse = serde_json::from_value(call("Kmsfs.Status", Value::Null).unwrap()).unwrap();
    assert_eq!(status.keys.get("PendingDeletion"), Some(&1));
}
