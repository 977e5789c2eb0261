//! Calls that a mount makes for the users of its files.

use serde_json::json;

use super::access::{arn, user};
use super::*;
use crate::kms::wire::{AUTHORIZE_OPEN, Request, dispatch_request};

const ALICE: u32 = 61_000;
const BOB: u32 = 61_001;
const TEAM: u32 = 61_100;

fn whom(uid: u32, path: &str, access: FileAccess) -> OnBehalf {
    let program = "app".to_owned();
    OnBehalf { uid, gid: uid, pid: 0, program, groups: vec![uid, TEAM], path: path.to_owned(), access }
}

/// A policy of the owner's rights and these statements.
fn put(world: &World, key: &KeyMetadata, statements: &[serde_json::Value]) {
    let mut all = vec![json!({"Effect": "Allow", "Principal": {"AWS": arn("root")}, "Action": "kms:*",
        "Resource": "*"})];
    all.extend_from_slice(statements);
    let request = PutKeyPolicyRequest {
        key_id: key.arn.clone(),
        policy: json!({"Version": "2012-10-17", "Statement": all}).to_string(),
        ..PutKeyPolicyRequest::default()
    };
    world.service().put_key_policy(&world.caller, &request).unwrap();
}

fn statement(effect: &str, principal: &str, condition: serde_json::Value) -> serde_json::Value {
    json!({"Effect": effect, "Principal": {"AWS": arn(principal)}, "Action": ["kms:Decrypt",
        "kms:GenerateDataKey"], "Resource": "*", "Condition": condition})
}

/// What becomes of an opening that `by` asks about for `whom`.
fn open(world: &World, by: &Caller, whom: &OnBehalf, key: &KeyMetadata) -> Result<(), ErrorKind> {
    let request = AuthorizeOpenRequest {
        key_id: key.arn.clone(),
        encryption_context: context(),
        key_material_version: 1,
    };
    let speaking = world.service().on_behalf(by, whom).map_err(|error| error.kind())?;
    world.service().authorize_open(&speaking, &request).map(drop).map_err(|error| error.kind())
}

const DENIED: Result<(), ErrorKind> = Err(ErrorKind::AccessDenied);

#[test]
fn the_owner_speaks_for_everybody_and_others_for_themselves() {
    let world = World::new();
    let key = world.key();
    put(&world, &key, &[statement("Allow", &format!("user/{ALICE}"), json!({}))]);
    let alice = whom(ALICE, "/f", FileAccess::Read);
    assert_eq!(open(&world, &world.caller, &alice, &key), Ok(()));
    assert_eq!(open(&world, &user(ALICE), &alice, &key), Ok(()));
    assert_eq!(open(&world, &user(BOB), &alice, &key), DENIED);
    assert_eq!(open(&world, &world.caller, &whom(BOB, "/f", FileAccess::Read), &key), DENIED);
    // Nobody speaks for somebody who speaks for another, nor from the network.
    let speaking = world.service().on_behalf(&world.caller, &alice).unwrap();
    assert_eq!(open(&world, &speaking, &alice, &key), DENIED);
    let mut remote = world.caller.clone();
    remote.remote = Some(Remote {
        user: "root".to_owned(),
        access_key_id: "k".to_owned(),
        address: [127, 0, 0, 1].into(),
        secure: true,
    });
    assert_eq!(open(&world, &remote, &alice, &key), DENIED);
    let endless = "/".repeat(MAX_PATH + 1);
    let refused = world.service().on_behalf(&world.caller, &whom(ALICE, &endless, FileAccess::Read));
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Validation);
}

#[test]
fn a_grant_in_the_files_context_counts_until_it_is_revoked() {
    let world = World::new();
    let key = world.key();
    let alice = whom(ALICE, "/f", FileAccess::Read);
    let grant = |volume: &str| CreateGrantRequest {
        key_id: key.arn.clone(),
        grantee_principal: Some(arn(&format!("user/{ALICE}"))),
        operations: vec!["Decrypt".to_owned()],
        constraints: Some(GrantConstraints {
            encryption_context_subset: Some(EncryptionContext::new().with("kmsfs:volume", volume)),
            ..GrantConstraints::default()
        }),
        ..CreateGrantRequest::default()
    };
    world.service().create_grant(&world.caller, &grant("another")).unwrap();
    assert_eq!(open(&world, &world.caller, &alice, &key), DENIED);
    let made = world.service().create_grant(&world.caller, &grant("v")).unwrap();
    assert_eq!(open(&world, &world.caller, &alice, &key), Ok(()));
    world.force(&key, state::KeyState::Disabled);
    assert_eq!(open(&world, &world.caller, &alice, &key), Err(ErrorKind::Disabled));
    world.force(&key, state::KeyState::Enabled);
    let revoke = RevokeGrantRequest { key_id: key.arn.clone(), grant_id: made.grant_id, dry_run: false };
    world.service().revoke_grant(&world.caller, &revoke).unwrap();
    assert_eq!(open(&world, &world.caller, &alice, &key), DENIED);
}

#[test]
fn paths_accesses_and_groups_are_conditions_on_the_owners_word_alone() {
    let world = World::new();
    let key = world.key();
    let read = json!({"StringLike": {"kmsfs:Path": "/public/*"}, "StringEquals": {"kmsfs:Access": "read"}});
    put(&world, &key, &[statement("Allow", &format!("user/{ALICE}"), read)]);
    let [public, secret] = ["/public/a/b", "/secret/a"].map(|path| whom(ALICE, path, FileAccess::Read));
    assert_eq!(open(&world, &world.caller, &public, &key), Ok(()));
    assert_eq!(open(&world, &world.caller, &secret, &key), DENIED);
    assert_eq!(open(&world, &world.caller, &whom(ALICE, "/public/a", FileAccess::Write), &key), DENIED);
    // She could name any path.
    assert_eq!(open(&world, &user(ALICE), &public, &key), DENIED);

    put(&world, &key, &[statement("Allow", &format!("group/{TEAM}"), json!({}))]);
    assert_eq!(open(&world, &world.caller, &secret, &key), Ok(()));
    assert_eq!(open(&world, &user(ALICE), &secret, &key), DENIED);
    let outside = OnBehalf { groups: vec![ALICE], ..secret.clone() };
    assert_eq!(open(&world, &world.caller, &outside, &key), DENIED);
    let everybody = statement("Allow", &format!("user/{ALICE}"), json!({}));
    put(&world, &key, &[everybody, statement("Deny", &format!("group/{TEAM}"), json!({}))]);
    assert_eq!(open(&world, &world.caller, &secret, &key), DENIED);
    assert_eq!(open(&world, &world.caller, &outside, &key), Ok(()));
}

#[test]
fn data_keys_are_made_and_unwrapped_for_users_and_nothing_else_is_done_for_them() {
    let world = World::new();
    let key = world.key();
    let in_reach = json!({"StringLike": {"kmsfs:Path": "/public/*"}});
    put(&world, &key, &[statement("Allow", &format!("user/{ALICE}"), in_reach)]);
    let service = world.service();
    let alice = |path, access| service.on_behalf(&world.caller, &whom(ALICE, path, access)).unwrap();
    let maker = alice("/public/new", FileAccess::Create);
    let made = service.generate_data_key(&maker, &key.arn, &context()).unwrap();
    let reader = alice("/public/new", FileAccess::Read);
    assert!(service.decrypt_data_key(&reader, &made.blob, &context()).is_ok());
    let elsewhere = alice("/secret", FileAccess::Read);
    assert!(service.decrypt_data_key(&elsewhere, &made.blob, &context()).is_err());
    // Past the mount there is no path.
    assert!(service.decrypt_data_key(&user(ALICE), &made.blob, &context()).is_err());

    let over_the_socket = |target: &str, body| {
        let on_behalf = Some(whom(0, "/public/new", FileAccess::Read));
        let request = Request { target: target.to_owned(), body, on_behalf };
        dispatch_request(service, &world.caller, &request).map_err(|error| error.kind())
    };
    let body = json!({"KeyId": key.arn, "EncryptionContext": context()});
    assert!(over_the_socket(AUTHORIZE_OPEN, body.clone()).is_ok());
    assert!(
        over_the_socket("TrentService.GenerateDataKey", json!({"KeyId": key.arn, "KeySpec": "AES_256"}))
            .is_ok()
    );
    for target in ["TrentService.DisableKey", "TrentService.PutKeyPolicy", "Kmsfs.Status", "Decrypt"] {
        assert_eq!(over_the_socket(target, body.clone()), Err(ErrorKind::Validation), "{target}");
    }
}

/// What a mount is told is what the policy engine says of the user.
#[test]
fn decisions_are_those_of_the_policy_for_any_policy() {
    use crate::kms::policy::{Action, Identity, Policy, Request, Value, Verdict};
    struct Known<'a>(&'a str, &'a str);
    impl policy::Facts for Known<'_> {
        fn values(&self, key: &policy::ConditionKey, found: &mut dyn FnMut(Value<'_>)) {
            match key {
                policy::ConditionKey::Path => found(Value::Text(self.0)),
                policy::ConditionKey::Access => found(Value::Text(self.1)),
                _ => {}
            }
        }
    }
    let world = World::new();
    let key = world.key();
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut pick = |count: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed >> 33) as usize % count
    };
    let mut allowed = 0;
    for round in 0..300 {
        let statements: Vec<_> = (0..1 + pick(4))
            .map(|_| {
                let effect = ["Allow", "Allow", "Deny"][pick(3)];
                let principal = [format!("user/{ALICE}"), format!("user/{BOB}"), format!("group/{TEAM}")];
                let operator = ["StringLike", "StringNotLike", "StringLikeIfExists"][pick(3)];
                let path = ["/a/*", "/*", "/a/?", "/b"][pick(4)];
                let access = ["read", "write", "*"][pick(3)];
                let condition = [
                    json!({}),
                    json!({operator: {"kmsfs:Path": path}}),
                    json!({operator: {"kmsfs:Path": path}, "StringLike": {"kmsfs:Access": access}}),
                ];
                statement(effect, &principal[pick(3)], condition[pick(3)].clone())
            })
            .collect();
        put(&world, &key, &statements);
        let text = json!({"Version": "2012-10-17", "Statement": statements}).to_string();
        let parsed = Policy::parse(&text).unwrap();
        for (path, access) in
            [("/a/1", FileAccess::Read), ("/a/22", FileAccess::Write), ("/b", FileAccess::Read)]
        {
            let uid = [ALICE, BOB][pick(2)];
            let groups = [vec![uid], vec![uid, TEAM]][pick(2)].clone();
            let names: Vec<String> = groups.iter().map(u32::to_string).collect();
            let identity = Identity::user("000000000000", &uid.to_string(), &uid.to_string(), &names);
            let facts = Known(path, access.name());
            let action = Action::exact("Decrypt").unwrap();
            let request = Request { identity: &identity, action, resource: &key.arn, facts: &facts };
            let expected = parsed.decide(&request).verdict == Verdict::Allowed;
            let asked = OnBehalf { groups, ..whom(uid, path, access) };
            assert_eq!(
                open(&world, &world.caller, &asked, &key).is_ok(),
                expected,
                "round {round}: {text} {asked:?}"
            );
            allowed += usize::from(expected);
        }
    }
    assert!((100..800).contains(&allowed), "{allowed} of 900 are allowed: not much of a test");
}
