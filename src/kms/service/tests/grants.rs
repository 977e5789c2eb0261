//! Grants: what they permit, and how they come and go.

use serde_json::{Value, json};

use super::access::{arn, user};
use super::*;
use crate::kms::wire::dispatch;

pub(super) const ALICE: u32 = 61_000;
pub(super) const BOB: u32 = 61_001;

pub(super) fn person(uid: u32) -> String {
    arn(&format!("user/{uid}"))
}

pub(super) fn call(world: &World, caller: &Caller, operation: &str, body: &Value) -> Result<Value, KmsError> {
    dispatch(world.service(), caller, &format!("TrentService.{operation}"), body)
}

/// CreateGrant by the owner for Alice, with further members.
pub(super) fn grant(
    world: &World,
    key: &KeyMetadata,
    operations: &[&str],
    more: &Value,
) -> Result<Value, KmsError> {
    give(world, &world.caller, key, ALICE, operations, more)
}

fn give(
    world: &World,
    caller: &Caller,
    key: &KeyMetadata,
    to: u32,
    operations: &[&str],
    more: &Value,
) -> Result<Value, KmsError> {
    let mut body = json!({"KeyId": key.key_id, "GranteePrincipal": person(to), "Operations": operations});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    call(world, caller, "CreateGrant", &body)
}

fn kind<T: std::fmt::Debug>(result: Result<T, KmsError>) -> ErrorKind {
    result.unwrap_err().kind()
}

#[test]
fn a_grant_permits_its_operations_to_its_grantee_until_it_is_revoked() {
    let mut world = World::new();
    let (key, other) = (world.key(), world.key());
    let made = grant(&world, &key, &["GenerateDataKey", "Decrypt"], &json!({})).unwrap();
    let id = made["GrantId"].as_str().unwrap().to_owned();
    assert_eq!(id.len(), 64);
    let mut blob = Vec::new();
    for reopened in [false, true] {
        if reopened {
            world.reopen();
        }
        let service = world.service();
        blob = service.generate_data_key(&user(ALICE), &key.arn, &context()).unwrap().blob;
        assert!(service.decrypt_data_key(&user(ALICE), &blob, &context()).is_ok());
        assert_eq!(kind(service.decrypt_data_key(&user(BOB), &blob, &context())), ErrorKind::AccessDenied);
        assert_eq!(kind(service.describe_key(&user(ALICE), &named(&key))), ErrorKind::AccessDenied);
        assert_eq!(
            kind(service.generate_data_key(&user(ALICE), &other.arn, &context())),
            ErrorKind::AccessDenied
        );
    }
    let revocation = json!({"KeyId": key.key_id, "GrantId": id});
    assert_eq!(kind(call(&world, &user(ALICE), "RevokeGrant", &revocation)), ErrorKind::AccessDenied);
    let dry = json!({"KeyId": key.key_id, "GrantId": id, "DryRun": true});
    assert_eq!(kind(call(&world, &world.caller, "RevokeGrant", &dry)), ErrorKind::DryRun);
    call(&world, &world.caller, "RevokeGrant", &revocation).unwrap();
    assert_eq!(kind(call(&world, &world.caller, "RevokeGrant", &revocation)), ErrorKind::NotFound);
    for reopened in [false, true] {
        if reopened {
            world.reopen();
        }
        let refused = world.service().decrypt_data_key(&user(ALICE), &blob, &context());
        assert_eq!(kind(refused), ErrorKind::AccessDenied);
    }
}

#[test]
fn an_explicit_deny_beats_a_grant() {
    let world = World::new();
    let key = world.key();
    grant(&world, &key, &["Decrypt", "GenerateDataKey", "RetireGrant"], &json!({})).unwrap();
    let policy = format!(
        r#"{{"Statement": [
            {{"Effect": "Allow", "Principal": {{"AWS": "{}"}}, "Action": "kms:*", "Resource": "*"}},
            {{"Effect": "Deny", "Principal": {{"AWS": "{}"}}, "Action": ["kms:Decrypt", "kms:RetireGrant"], "Resource": "*"}}]}}"#,
        arn("root"),
        person(ALICE)
    );
    let request = PutKeyPolicyRequest { key_id: key.arn.clone(), policy, ..Default::default() };
    world.service().put_key_policy(&world.caller, &request).unwrap();
    let made = world.service().generate_data_key(&user(ALICE), &key.arn, &context()).unwrap();
    let refused = world.service().decrypt_data_key(&user(ALICE), &made.blob, &context()).unwrap_err();
    assert!(refused.message().contains("explicit deny"), "{refused}");
    let id = list(&world, &key, &json!({}))[0]["GrantId"].clone();
    let retire = call(&world, &user(ALICE), "RetireGrant", &json!({"KeyId": key.key_id, "GrantId": id}));
    assert_eq!(kind(retire), ErrorKind::AccessDenied);
}

#[test]
fn constraints_hold_for_the_operations_that_have_a_context() {
    let world = World::new();
    let contexts =
        [json!({}), json!({"a": "1"}), json!({"a": "1", "b": "2"}), json!({"a": "2"}), json!({"A": "1"})];
    for (constraints, allowed) in [
        (json!({}), [true; 5]),
        (json!({"EncryptionContextEquals": {"a": "1"}}), [false, true, false, false, false]),
        (json!({"EncryptionContextSubset": {"a": "1"}}), [false, true, true, false, false]),
        (json!({"EncryptionContextSubset": {"a": "1", "b": "2"}}), [false, false, true, false, false]),
        (json!({"EncryptionContextSubset": {"a": "1"}, "EncryptionContextEquals": {"a": "2"}}), [false; 5]),
    ] {
        let key = world.key();
        let operations =
            ["Encrypt", "Decrypt", "GenerateDataKey", "ReEncryptTo", "ReEncryptFrom", "DescribeKey"];
        grant(&world, &key, &operations, &json!({"Constraints": constraints})).unwrap();
        for (context, allowed) in contexts.iter().zip(allowed) {
            let encrypt = json!({"KeyId": key.key_id, "Plaintext": "AAAA", "EncryptionContext": context});
            let blob = call(&world, &world.caller, "Encrypt", &encrypt).unwrap()["CiphertextBlob"].clone();
            let decrypt = json!({"CiphertextBlob": blob, "EncryptionContext": context});
            let data_key = json!({"KeyId": key.key_id, "KeySpec": "AES_256", "EncryptionContext": context});
            let moved = json!({"CiphertextBlob": blob, "SourceEncryptionContext": context, "DestinationKeyId": key.key_id,
                "DestinationEncryptionContext": context});
            for (operation, body) in [
                ("Encrypt", encrypt),
                ("Decrypt", decrypt),
                ("GenerateDataKey", data_key),
                ("ReEncrypt", moved),
            ] {
                let answer = call(&world, &user(ALICE), operation, &body);
                assert_eq!(answer.is_ok(), allowed, "{constraints} {operation} {context}: {answer:?}");
            }
        }
        assert!(world.service().describe_key(&user(ALICE), &named(&key)).is_ok(), "{constraints}");
    }
}

#[test]
fn re_encrypting_is_two_permissions() {
    let world = World::new();
    let (from, to) = (world.key(), world.key());
    let made =
        world.service().generate_data_key(&world.caller, &from.arn, &EncryptionContext::new()).unwrap();
    let body =
        json!({"CiphertextBlob": data_encoding::BASE64.encode(&made.blob), "DestinationKeyId": to.key_id});
    let attempt = || call(&world, &user(ALICE), "ReEncrypt", &body).map(drop);
    assert_eq!(kind(attempt()), ErrorKind::AccessDenied);
    grant(&world, &from, &["ReEncryptFrom"], &json!({})).unwrap();
    grant(&world, &to, &["ReEncryptFrom"], &json!({})).unwrap();
    assert_eq!(kind(attempt()), ErrorKind::AccessDenied);
    grant(&world, &to, &["ReEncryptTo"], &json!({})).unwrap();
    attempt().unwrap();
}

#[test]
fn a_repeated_request_with_a_name_makes_no_second_grant() {
    let world = World::new();
    let key = world.key();
    let id = |more: Value, operations: &[&str]| {
        grant(&world, &key, operations, &more).unwrap()["GrantId"].as_str().unwrap().to_owned()
    };
    let first = id(json!({"Name": "n"}), &["Decrypt", "Encrypt"]);
    assert_eq!(id(json!({"Name": "n"}), &["Encrypt", "Decrypt"]), first);
    assert_ne!(id(json!({"Name": "m"}), &["Decrypt", "Encrypt"]), first);
    assert_ne!(id(json!({"Name": "n"}), &["Decrypt"]), first);
    assert_ne!(id(json!({"Name": "n", "RetiringPrincipal": person(BOB)}), &["Decrypt", "Encrypt"]), first);
    // Without a name every request makes one.
    assert_ne!(id(json!({}), &["Decrypt"]), id(json!({}), &["Decrypt"]));
    let tokens: Vec<_> = (0..2)
        .map(|_| grant(&world, &key, &["Decrypt"], &json!({"Name": "t"})).unwrap()["GrantToken"].clone())
        .collect();
    assert_ne!(tokens[0], tokens[1]);
}

#[test]
fn what_cannot_be_granted_is_refused() {
    let world = World::new();
    let key = world.key();
    let nine: serde_json::Map<_, _> = (0..9).map(|number| (number.to_string(), json!("v"))).collect();
    for (operations, more, wanted) in [
        (vec![], json!({}), ErrorKind::Validation),
        (vec!["DisableKey"], json!({}), ErrorKind::Validation),
        (vec!["Sign"], json!({}), ErrorKind::Validation),
        (vec!["decrypt"], json!({}), ErrorKind::Validation),
        (vec!["Decrypt"], json!({"Name": "with space"}), ErrorKind::Validation),
        (vec!["Decrypt"], json!({"Name": "n".repeat(257)}), ErrorKind::Validation),
        (vec!["Decrypt"], json!({"GranteePrincipal": null}), ErrorKind::Validation),
        (vec!["Decrypt"], json!({"GranteePrincipal": "alice"}), ErrorKind::InvalidArn),
        (vec!["Decrypt"], json!({"RetiringPrincipal": "*"}), ErrorKind::InvalidArn),
        (vec!["Decrypt"], json!({"GranteeServicePrincipal": "a.b.c"}), ErrorKind::UnsupportedOperation),
        (vec!["Decrypt"], json!({"RetiringServicePrincipal": "a.b.c"}), ErrorKind::UnsupportedOperation),
        (vec!["Decrypt"], json!({"Constraints": {"SourceArn": "x"}}), ErrorKind::UnsupportedOperation),
        (vec!["Decrypt"], json!({"Constraints": {"EncryptionContextEquals": {}}}), ErrorKind::Validation),
        (vec!["Decrypt"], json!({"Constraints": {"EncryptionContextSubset": nine}}), ErrorKind::Validation),
        (
            vec!["Decrypt"],
            json!({"Constraints": {"EncryptionContextSubset": {"k": "v".repeat(384)}}}),
            ErrorKind::Validation,
        ),
        (vec!["Decrypt"], json!({"GrantTokens": ["nonsense"]}), ErrorKind::InvalidGrantToken),
        (vec!["Decrypt"], json!({"GrantTokens": vec!["t"; 11]}), ErrorKind::Validation),
        (vec!["Decrypt"], json!({"DryRun": true}), ErrorKind::DryRun),
    ] {
        let refused = grant(&world, &key, &operations, &more).map(drop);
        assert_eq!(kind(refused), wanted, "{operations:?} {more}");
    }
    assert!(list(&world, &key, &json!({})).is_empty());
    for (state, answer) in [
        (state::KeyState::Disabled, Some(ErrorKind::Disabled)),
        (state::KeyState::PendingImport, Some(ErrorKind::InvalidState)),
        (state::KeyState::PendingDeletion, Some(ErrorKind::InvalidState)),
        (state::KeyState::Unavailable, None),
    ] {
        let key = world.key();
        let kept = grant(&world, &key, &["Decrypt"], &json!({"RetiringPrincipal": person(BOB)})).unwrap();
        world.force(&key, state);
        let made = grant(&world, &key, &["Decrypt"], &json!({})).err().map(|error| error.kind());
        assert_eq!(made, answer, "{state}");
        // Taking back is possible in every state.
        assert!(!list(&world, &key, &json!({})).is_empty());
        call(&world, &user(BOB), "RetireGrant", &json!({"GrantToken": kept["GrantToken"]})).unwrap();
    }
}

pub(super) fn list(world: &World, key: &KeyMetadata, more: &Value) -> Vec<Value> {
    let mut body = json!({"KeyId": key.key_id, "Limit": 2});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    pages(world, &world.caller, "ListGrants", body)
}

fn pages(world: &World, caller: &Caller, operation: &str, mut body: Value) -> Vec<Value> {
    let mut found = Vec::new();
    loop {
        let page = call(world, caller, operation, &body).unwrap();
        let grants = page["Grants"].as_array().unwrap();
        assert!(grants.len() <= 2);
        found.extend(grants.iter().cloned());
        assert_eq!(page["Truncated"], json!(page.get("NextMarker").is_some()));
        match page.get("NextMarker") {
            Some(marker) => body["Marker"] = marker.clone(),
            None => return found,
        }
    }
}

#[test]
fn grants_are_listed_by_key_grantee_id_and_retiring_principal() {
    let world = World::new();
    let (key, other) = (world.key(), world.key());
    let more = json!({"Name": "n", "RetiringPrincipal": person(BOB), "Constraints": {"EncryptionContextEquals": {"a": "b"}}});
    let made = grant(&world, &key, &["Encrypt", "Decrypt"], &more).unwrap();
    for _ in 0..4 {
        give(&world, &world.caller, &key, BOB, &["Decrypt"], &json!({"RetiringPrincipal": person(BOB)}))
            .unwrap();
    }
    grant(&world, &other, &["Decrypt"], &json!({"RetiringPrincipal": person(BOB)})).unwrap();
    assert_eq!(list(&world, &key, &json!({})).len(), 5);
    assert_eq!(list(&world, &key, &json!({"GranteePrincipal": person(BOB)})).len(), 4);
    let only = list(&world, &key, &json!({"GrantId": made["GrantId"]}));
    assert_eq!(
        only,
        [json!({
            "KeyId": key.arn, "GrantId": made["GrantId"], "Name": "n", "CreationDate": 1_700_000_000.0,
            "GranteePrincipal": person(ALICE), "RetiringPrincipal": person(BOB), "IssuingAccount": arn("root"),
            "Operations": ["Decrypt", "Encrypt"], "Constraints": {"EncryptionContextEquals": {"a": "b"}},
        })]
    );
    let retirable = |caller: &Caller, principal: &str| {
        pages(&world, caller, "ListRetirableGrants", json!({"RetiringPrincipal": principal, "Limit": 2}))
    };
    assert_eq!(retirable(&user(BOB), &person(BOB)).len(), 6);
    assert_eq!(retirable(&world.caller, &person(BOB)).len(), 6);
    assert_eq!(retirable(&world.caller, &person(ALICE)).len(), 0);
    for (body, wanted) in [
        (json!({"RetiringPrincipal": person(BOB)}), ErrorKind::AccessDenied),
        (json!({"RetiringPrincipal": "bob"}), ErrorKind::InvalidArn),
        (json!({}), ErrorKind::Validation),
        (json!({"RetiringServicePrincipal": "a.b.c"}), ErrorKind::UnsupportedOperation),
        (json!({"RetiringPrincipal": person(ALICE), "Marker": "x"}), ErrorKind::InvalidMarker),
        (json!({"RetiringPrincipal": person(ALICE), "Limit": 101}), ErrorKind::Validation),
    ] {
        assert_eq!(kind(call(&world, &user(ALICE), "ListRetirableGrants", &body)), wanted, "{body}");
    }
    for (body, wanted) in [
        (json!({"KeyId": key.key_id, "GrantId": "x"}), ErrorKind::InvalidGrantId),
        (json!({"KeyId": key.key_id, "Marker": "x"}), ErrorKind::InvalidMarker),
        (json!({"KeyId": key.key_id, "Limit": 0}), ErrorKind::Validation),
        (json!({"KeyId": "alias/none"}), ErrorKind::NotFound),
    ] {
        assert_eq!(kind(call(&world, &world.caller, "ListGrants", &body)), wanted, "{body}");
    }
}

#[test]
fn a_grant_is_retired_by_whom_it_names() {
    let world = World::new();
    let key = world.key();
    let root = || world.caller.clone();
    // Retiring principal, operations, who tries, whether it works.
    for (retiring, operations, caller, works) in [
        (None, vec!["Decrypt"], root(), true),
        (None, vec!["Decrypt"], user(ALICE), false),
        (None, vec!["Decrypt", "RetireGrant"], user(ALICE), true),
        (None, vec!["Decrypt", "RetireGrant"], user(BOB), false),
        (Some(BOB), vec!["Decrypt"], user(BOB), true),
        (Some(BOB), vec!["Decrypt"], user(ALICE), false),
        (Some(BOB), vec!["Decrypt"], root(), true),
    ] {
        for by_token in [false, true] {
            let more = json!({"RetiringPrincipal": retiring.map(person)});
            let made = grant(&world, &key, &operations, &more).unwrap();
            let mut body = match by_token {
                true => json!({"GrantToken": made["GrantToken"]}),
                false => json!({"KeyId": key.arn, "GrantId": made["GrantId"]}),
            };
            body["DryRun"] = json!(true);
            let dry = kind(call(&world, &caller, "RetireGrant", &body));
            assert_eq!(dry, if works { ErrorKind::DryRun } else { ErrorKind::AccessDenied });
            body["DryRun"] = json!(false);
            let retired = call(&world, &caller, "RetireGrant", &body);
            assert_eq!(retired.is_ok(), works, "{retiring:?} {operations:?} {}", caller.uid);
            if works {
                let again = if by_token { ErrorKind::InvalidGrantToken } else { ErrorKind::NotFound };
                assert_eq!(kind(call(&world, &caller, "RetireGrant", &body)), again);
            }
        }
    }
    for body in
        [json!({}), json!({"KeyId": key.arn}), json!({"GrantToken": "t", "KeyId": key.arn, "GrantId": "x"})]
    {
        assert_eq!(kind(call(&world, &root(), "RetireGrant", &body)), ErrorKind::Validation, "{body}");
    }
}

#[test]
fn a_grantee_gives_away_no_more_than_it_has() {
    let world = World::new();
    let key = world.key();
    let alice = user(ALICE);
    let attempt =
        |operations: &[&str], more: Value| give(&world, &alice, &key, BOB, operations, &more).map(drop);
    assert_eq!(kind(attempt(&["Decrypt"], json!({}))), ErrorKind::AccessDenied);
    let own = json!({"Constraints": {"EncryptionContextSubset": {"a": "1"}}});
    grant(&world, &key, &["Decrypt", "CreateGrant"], &own).unwrap();
    for (operations, more, works) in [
        (vec!["Decrypt"], own.clone(), true),
        (vec!["Decrypt"], json!({"Constraints": {"EncryptionContextSubset": {"a": "1", "b": "2"}}}), true),
        (vec!["Decrypt"], json!({"Constraints": {"EncryptionContextEquals": {"a": "1", "b": "2"}}}), true),
        (vec!["Decrypt", "CreateGrant"], own.clone(), true),
        (vec!["Decrypt"], json!({}), false),
        (vec!["Decrypt"], json!({"Constraints": {"EncryptionContextEquals": {"b": "2"}}}), false),
        (vec!["Decrypt"], json!({"Constraints": {"EncryptionContextSubset": {"a": "2"}}}), false),
        (vec!["Decrypt", "Encrypt"], own, false),
    ] {
        let made = attempt(&operations, more.clone());
        assert_eq!(made.is_ok(), works, "{operations:?} {more}: {made:?}");
    }
}

#[test]
fn tokens_in_calls_must_be_of_living_grants() {
    let world = World::new();
    let key = world.key();
    let made = grant(&world, &key, &["Encrypt"], &json!({})).unwrap();
    let encrypt = |token: &Value| {
        let body = json!({"KeyId": key.key_id, "Plaintext": "AAAA", "GrantTokens": [token]});
        call(&world, &user(ALICE), "Encrypt", &body).map(drop)
    };
    encrypt(&made["GrantToken"]).unwrap();
    // A token permits nothing to somebody else.
    let body = json!({"KeyId": key.key_id, "Plaintext": "AAAA", "GrantTokens": [made["GrantToken"]]});
    assert_eq!(kind(call(&world, &user(BOB), "Encrypt", &body)), ErrorKind::AccessDenied);
    let revocation = json!({"KeyId": key.key_id, "GrantId": made["GrantId"]});
    call(&world, &world.caller, "RevokeGrant", &revocation).unwrap();
    assert_eq!(kind(encrypt(&made["GrantToken"])), ErrorKind::InvalidGrantToken);
}

#[test]
fn grants_go_with_their_key() {
    let mut world = World::new();
    let (doomed, kept) = (world.key(), world.key());
    for key in [&doomed, &kept] {
        grant(&world, key, &["Decrypt"], &json!({"RetiringPrincipal": person(BOB)})).unwrap();
    }
    let request = ScheduleKeyDeletionRequest {
        key_id: doomed.arn,
        pending_window_in_days: Some(7),
        stop_if_unwritten: false,
    };
    world.service().schedule_key_deletion(&world.caller, &request).unwrap();
    world.clock.advance(jiff::SignedDuration::from_hours(7 * 24));
    for reopened in [false, true] {
        if reopened {
            world.reopen();
        }
        let body = json!({"RetiringPrincipal": person(BOB)});
        let left = call(&world, &user(BOB), "ListRetirableGrants", &body).unwrap();
        assert_eq!(left["Grants"].as_array().unwrap().len(), 1);
        assert_eq!(left["Grants"][0]["KeyId"], json!(kept.arn));
    }
}
