//! Who may do what: policies and grants, as callers meet them.

use serde_json::{Value, json};

use super::*;
use crate::kms::wire::dispatch;

const ALICE: u32 = 61_000;
const BOB: u32 = 61_001;

/// A user of this machine without a name, who is known by number.
pub(super) fn user(uid: u32) -> Caller {
    Caller::local(uid, uid, 1, "app".to_owned())
}

pub(super) fn arn(name: &str) -> String {
    format!("arn:aws:iam::000000000000:{name}")
}

/// The default policy and `statement`, without its braces.
fn with(statement: &str) -> String {
    let root = arn("root");
    format!(
        r#"{{"Version": "2012-10-17", "Statement": [
            {{"Effect": "Allow", "Principal": {{"AWS": "{root}"}}, "Action": "kms:*", "Resource": "*"}},
            {{"Sid": "more", "Resource": "*", {statement}}}]}}"#
    )
}

fn allow(uid: u32, actions: &str) -> String {
    with(&format!(
        r#""Effect": "Allow", "Principal": {{"AWS": "{}"}}, "Action": {actions}"#,
        arn(&format!("user/{uid}"))
    ))
}

impl World {
    fn put(&self, key: &KeyMetadata, policy: &str) {
        let request = PutKeyPolicyRequest {
            key_id: key.arn.clone(),
            policy: policy.to_owned(),
            ..PutKeyPolicyRequest::default()
        };
        self.service().put_key_policy(&self.caller, &request).unwrap();
    }

    fn call_as(&self, caller: &Caller, operation: &str, body: Value) -> Result<Value, KmsError> {
        dispatch(self.service(), caller, &format!("TrentService.{operation}"), &body)
    }
}

fn kind<T: std::fmt::Debug>(result: Result<T, KmsError>) -> ErrorKind {
    result.unwrap_err().kind()
}

#[test]
fn an_alias_is_moved_by_whom_both_keys_allow_it() {
    let world = World::new();
    let (a, b) = (world.key(), world.key());
    world.service().create_alias(&world.caller, &alias("alias/x", &a)).unwrap();
    let alice = user(ALICE);
    let moved =
        || world.call_as(&alice, "UpdateAlias", json!({ "AliasName": "alias/x", "TargetKeyId": b.arn }));
    world.put(&b, &allow(ALICE, r#""kms:UpdateAlias""#));
    assert_eq!(kind(moved()), ErrorKind::AccessDenied, "it is another key's");
    world.put(&a, &allow(ALICE, r#""kms:UpdateAlias""#));
    assert!(moved().is_ok());
    world.put(&b, &with(r#""Effect": "Deny", "Principal": "*", "Action": "kms:UpdateAlias""#));
    let back = world.call_as(&alice, "UpdateAlias", json!({ "AliasName": "alias/x", "TargetKeyId": a.arn }));
    assert_eq!(kind(back), ErrorKind::AccessDenied);
}

#[test]
fn a_user_may_do_nothing_until_the_policy_says_so() {
    let mut world = World::new();
    let key = world.key();
    let alice = user(ALICE);
    let refused = world.service().generate_data_key(&alice, &key.arn, &context()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::AccessDenied);
    assert_eq!(
        refused.message(),
        format!(
            "User: arn:aws:iam::000000000000:user/{ALICE} is not authorized to perform: kms:GenerateDataKey on \
             resource: {} because no resource-based policy allows the kms:GenerateDataKey action",
            key.arn
        )
    );
    world.put(&key, &allow(ALICE, r#"["kms:GenerateDataKey", "kms:Decrypt"]"#));
    for reopened in [false, true] {
        if reopened {
            world.reopen();
        }
        let service = world.service();
        let made = service.generate_data_key(&alice, &key.arn, &context()).unwrap();
        assert!(service.decrypt_data_key(&alice, &made.blob, &context()).is_ok());
        assert_eq!(kind(service.describe_key(&alice, &named(&key))), ErrorKind::AccessDenied);
        assert_eq!(
            kind(service.decrypt_data_key(&user(BOB), &made.blob, &context())),
            ErrorKind::AccessDenied
        );
        assert_eq!(kind(service.disable_key(&alice, &named(&key))), ErrorKind::AccessDenied);
    }
}

#[test]
fn permission_comes_before_state() {
    let world = World::new();
    let key = world.key();
    world.put(&key, &allow(ALICE, r#""kms:Decrypt""#));
    world.force(&key, state::KeyState::Disabled);
    let service = world.service();
    assert_eq!(kind(service.generate_data_key(&user(ALICE), &key.arn, &context())), ErrorKind::AccessDenied);
    assert_eq!(kind(service.generate_data_key(&world.caller, &key.arn, &context())), ErrorKind::Disabled);
}

#[test]
fn operations_on_no_key_are_the_owners_but_for_harmless_ones() {
    let world = World::new();
    let alice = user(ALICE);
    for (operation, body) in [("CreateKey", json!({})), ("ListKeys", json!({})), ("ListAliases", json!({}))] {
        let refused = world.call_as(&alice, operation, body.clone()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::AccessDenied, "{operation}");
        assert!(refused.message().contains("no identity-based policy allows"), "{refused}");
        assert!(world.call_as(&world.caller, operation, body).is_ok(), "{operation}");
    }
    assert!(world.call_as(&alice, "GenerateRandom", json!({"NumberOfBytes": 8})).is_ok());
    for target in ["Kmsfs.Status", "Kmsfs.StoreInfo", "Kmsfs.BackUpStore", "Kmsfs.AddUnlockSlot"] {
        let refused = dispatch(world.service(), &alice, target, &json!({}));
        assert_eq!(kind(refused), ErrorKind::AccessDenied, "{target}");
    }
}

#[test]
fn an_administrator_need_not_be_able_to_decrypt() {
    let world = World::new();
    let key = world.key();
    world.put(&key, &allow(ALICE, r#"["kms:Describe*", "kms:Enable*", "kms:Disable*", "kms:PutKeyPolicy"]"#));
    let service = world.service();
    let made = service.generate_data_key(&world.caller, &key.arn, &context()).unwrap();
    assert!(service.disable_key(&user(ALICE), &named(&key)).is_ok());
    assert!(service.enable_key(&user(ALICE), &named(&key)).is_ok());
    assert_eq!(kind(service.decrypt_data_key(&user(ALICE), &made.blob, &context())), ErrorKind::AccessDenied);
}

#[test]
fn the_owner_can_be_denied_too() {
    let world = World::new();
    let key = world.key();
    world.put(&key, &with(r#""Effect": "Deny", "Principal": "*", "Action": "kms:Decrypt""#));
    let made = world.service().generate_data_key(&world.caller, &key.arn, &context()).unwrap();
    let refused = world.service().decrypt_data_key(&world.caller, &made.blob, &context()).unwrap_err();
    assert!(refused.message().ends_with("with an explicit deny in a resource-based policy"), "{refused}");
}

#[test]
fn what_a_request_says_of_itself_reaches_the_conditions() {
    let world = World::new();
    let (key, other) = (world.key(), world.key());
    let id = &key.key_id;
    world.service().create_alias(&world.caller, &alias("alias/pay", &key)).unwrap();
    world
        .call_as(
            &world.caller,
            "TagResource",
            json!({"KeyId": id, "Tags": [{"TagKey": "team", "TagValue": "red"}]}),
        )
        .unwrap();
    world.put(&other, &allow(ALICE, r#""kms:*""#));
    let sealed = |context: Value| {
        let body = json!({"KeyId": id, "Plaintext": "AAAA", "EncryptionContext": context});
        world.call_as(&world.caller, "Encrypt", body).unwrap()["CiphertextBlob"].clone()
    };
    let (plain, app) = (sealed(json!({})), sealed(json!({"App": "pay"})));
    let decrypt = |blob: &Value, context: Value| {
        ("Decrypt", json!({"CiphertextBlob": blob, "EncryptionContext": context}))
    };
    let data_key = |context: Value| {
        ("GenerateDataKey", json!({"KeyId": id, "KeySpec": "AES_256", "EncryptionContext": context}))
    };
    let by_alias = ("Encrypt", json!({"KeyId": "alias/pay", "Plaintext": "AAAA"}));
    let away = ("ReEncrypt", json!({"CiphertextBlob": plain, "DestinationKeyId": other.key_id}));
    let within = ("ReEncrypt", json!({"CiphertextBlob": plain, "DestinationKeyId": id}));
    let moved = (
        "ReEncrypt",
        json!({"CiphertextBlob": plain, "DestinationKeyId": id, "DestinationEncryptionContext": {"App": "pay"}}),
    );
    let soon = ("ScheduleKeyDeletion", json!({"KeyId": "none", "PendingWindowInDays": 7}));
    let grant = |operations: Value| {
        ("CreateGrant", json!({"KeyId": id, "GranteePrincipal": arn("user/x"), "Operations": operations}))
    };
    let constrained = (
        "CreateGrant",
        json!({"KeyId": id, "GranteePrincipal": arn("user/x"), "Operations": ["Decrypt"],
        "Constraints": {"EncryptionContextSubset": {"a": "b"}}}),
    );
    let tag = |key: &str| ("TagResource", json!({"KeyId": id, "Tags": [{"TagKey": key, "TagValue": "v"}]}));
    for (condition, (operation, body), allowed) in [
        (
            r#""StringEquals": {"kms:EncryptionContext:App": "pay"}"#,
            decrypt(&app, json!({"App": "pay"})),
            true,
        ),
        (
            r#""StringEquals": {"kms:EncryptionContext:app": "pay"}"#,
            decrypt(&app, json!({"App": "pay"})),
            true,
        ),
        (r#""StringEquals": {"kms:EncryptionContext:App": "pay"}"#, decrypt(&plain, json!({})), false),
        // Names that differ in case alone do not smuggle a value in.
        (
            r#""StringEquals": {"kms:EncryptionContext:aPP": "pay"}"#,
            data_key(json!({"App": "x", "app": "pay"})),
            false,
        ),
        (
            r#""StringEquals": {"kms:EncryptionContext:App": "pay"}"#,
            data_key(json!({"App": "x", "app": "pay"})),
            false,
        ),
        (
            r#""ForAllValues:StringEquals": {"kms:EncryptionContextKeys": ["App"]}"#,
            data_key(json!({"App": "x", "b": "c"})),
            false,
        ),
        (r#""Null": {"kms:EncryptionContextKeys": "false"}"#, data_key(json!({"App": "x"})), true),
        (r#""Null": {"kms:EncryptionContextKeys": "false"}"#, data_key(json!({})), false),
        (r#""StringEquals": {"kms:EncryptionContext:App": "pay"}"#, moved, false),
        (r#""StringEquals": {"kms:RequestAlias": "alias/pay"}"#, by_alias, true),
        (r#""StringEquals": {"kms:RequestAlias": "alias/pay"}"#, data_key(json!({})), false),
        (r#""ForAnyValue:StringLike": {"kms:ResourceAliases": "alias/p*"}"#, data_key(json!({})), true),
        (r#""ForAnyValue:StringLike": {"kms:ResourceAliases": "alias/x*"}"#, data_key(json!({})), false),
        (r#""StringEquals": {"aws:ResourceTag/team": "red"}"#, data_key(json!({})), true),
        (r#""StringEquals": {"aws:ResourceTag/team": "blue"}"#, data_key(json!({})), false),
        (r#""Bool": {"kms:ReEncryptOnSameKey": "true"}"#, within.clone(), true),
        (r#""Bool": {"kms:ReEncryptOnSameKey": "true"}"#, away.clone(), false),
        (r#""Bool": {"kms:ReEncryptOnSameKey": "false"}"#, away, true),
        (r#""StringEquals": {"kms:EncryptionAlgorithm": "SYMMETRIC_DEFAULT"}"#, within, true),
        (
            r#""StringEquals": {"kms:KeySpec": "SYMMETRIC_DEFAULT", "kms:KeyUsage": "ENCRYPT_DECRYPT", "kms:KeyOrigin": "AWS_KMS"}"#,
            data_key(json!({})),
            true,
        ),
        (r#""NumericGreaterThanEquals": {"kms:ScheduleKeyDeletionPendingWindowInDays": "14"}"#, soon, false),
        (
            r#""ForAllValues:StringEquals": {"kms:GrantOperations": ["Decrypt", "Encrypt"]}"#,
            grant(json!(["Decrypt"])),
            true,
        ),
        (
            r#""ForAllValues:StringEquals": {"kms:GrantOperations": ["Decrypt"]}"#,
            grant(json!(["Decrypt", "Encrypt"])),
            false,
        ),
        (r#""StringEquals": {"kms:GrantConstraintType": "EncryptionContextSubset"}"#, constrained, true),
        (
            r#""StringEquals": {"kms:GrantConstraintType": "EncryptionContextSubset"}"#,
            grant(json!(["Decrypt"])),
            false,
        ),
        (r#""ArnLike": {"kms:GranteePrincipal": "arn:aws:iam::*:user/x"}"#, grant(json!(["Decrypt"])), true),
        (r#""ForAllValues:StringEquals": {"aws:TagKeys": ["team"]}"#, tag("team"), true),
        (r#""ForAllValues:StringEquals": {"aws:TagKeys": ["team"]}"#, tag("cost"), false),
        (r#""StringEquals": {"aws:RequestTag/cost": "v"}"#, tag("cost"), true),
        (r#""StringEquals": {"kms:CallerAccount": "000000000000"}"#, data_key(json!({})), true),
        (r#""StringEquals": {"aws:userid": "61000", "kmsfs:Program": "app"}"#, data_key(json!({})), true),
        (r#""StringEquals": {"kmsfs:Program": "other"}"#, data_key(json!({})), false),
        (r#""DateLessThan": {"aws:CurrentTime": "2023-11-14T22:13:21Z"}"#, data_key(json!({})), true),
        (r#""NumericLessThan": {"aws:EpochTime": 1700000000}"#, data_key(json!({})), false),
        // From the Unix socket there is neither an address nor a transport.
        (r#""Null": {"aws:SourceIp": "true", "aws:SecureTransport": "true"}"#, data_key(json!({})), true),
    ] {
        let statement = format!(
            r#""Effect": "Allow", "Principal": "*", "Action": "kms:*", "Condition": {{{condition}}}"#
        );
        let policy = with(&statement);
        world.put(&key, &policy);
        let body = match body.get("KeyId") {
            Some(Value::String(none)) if none == "none" => json!({"KeyId": id, "PendingWindowInDays": 7}),
            _ => body,
        };
        let answer = world.call_as(&user(ALICE), operation, body);
        let refused = answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::AccessDenied);
        assert_eq!(refused, !allowed, "{condition}: {operation}: {answer:?}");
        assert!(refused || answer.is_ok(), "{condition}: {operation}: {answer:?}");
    }
}

#[test]
fn a_remote_caller_brings_an_address_and_a_transport() {
    let world = World::new();
    let key = world.key();
    let remote = |user: &str, address: &str, secure| Caller {
        remote: Some(Remote {
            user: user.to_owned(),
            access_key_id: "AK".to_owned(),
            address: address.parse().unwrap(),
            secure,
        }),
        ..Caller::current()
    };
    world.put(
        &key,
        &with(&format!(
            r#""Effect": "Allow", "Principal": {{"AWS": "{}"}}, "Action": "kms:GenerateDataKey",
               "Condition": {{"IpAddress": {{"aws:SourceIp": "203.0.113.0/24"}}, "Bool": {{"aws:SecureTransport": true}}}}"#,
            arn("user/far-away")
        )),
    );
    let may = |caller: &Caller| world.service().generate_data_key(caller, &key.arn, &context()).is_ok();
    assert!(may(&remote("far-away", "203.0.113.9", true)));
    assert!(may(&remote("far-away", "::ffff:203.0.113.9", true)));
    assert!(!may(&remote("far-away", "203.0.113.9", false)));
    assert!(!may(&remote("far-away", "198.51.100.1", true)));
    assert!(!may(&remote("nearby", "203.0.113.9", true)));
    // The owner's process serves them, which makes them no owners.
    assert!(!may(&remote("someone", "127.0.0.1", true)));
    assert!(may(&remote("root", "127.0.0.1", true)));
}

#[test]
fn policies_are_put_read_and_listed() {
    let mut world = World::new();
    let key = world.key();
    let default = world.call_as(&world.caller, "GetKeyPolicy", json!({"KeyId": key.key_id})).unwrap();
    assert_eq!(default, json!({"Policy": policy::default_policy("000000000000"), "PolicyName": "default"}));
    let policy = allow(ALICE, r#""kms:Decrypt""#);
    world.put(&key, &policy);
    world.reopen();
    let read =
        world.call_as(&world.caller, "GetKeyPolicy", json!({"KeyId": key.key_id, "PolicyName": "default"}));
    assert_eq!(read.unwrap()["Policy"], policy);
    let listed = world.call_as(&world.caller, "ListKeyPolicies", json!({"KeyId": key.key_id})).unwrap();
    assert_eq!(listed, json!({"PolicyNames": ["default"], "Truncated": false}));
    for (operation, body, wanted) in [
        ("GetKeyPolicy", json!({"KeyId": key.key_id, "PolicyName": "other"}), ErrorKind::NotFound),
        ("GetKeyPolicy", json!({"KeyId": "alias/none"}), ErrorKind::NotFound),
        (
            "PutKeyPolicy",
            json!({"KeyId": key.key_id, "PolicyName": "other", "Policy": policy}),
            ErrorKind::Validation,
        ),
        ("PutKeyPolicy", json!({"KeyId": key.key_id, "Policy": "{}"}), ErrorKind::MalformedPolicy),
        (
            "PutKeyPolicy",
            json!({"KeyId": key.key_id, "Policy": policy.replace("more", "m\u{2014}e")}),
            ErrorKind::MalformedPolicy,
        ),
        (
            "PutKeyPolicy",
            json!({"KeyId": key.key_id, "Policy": " ".repeat(32_769)}),
            ErrorKind::LimitExceeded,
        ),
        ("CreateKey", json!({"Policy": "nonsense"}), ErrorKind::MalformedPolicy),
    ] {
        assert_eq!(kind(world.call_as(&world.caller, operation, body.clone())), wanted, "{operation} {body}");
    }
    let internal = CreateKeyRequest { manager: KeyManager::Internal, ..CreateKeyRequest::default() };
    let internal = world.service().create_key(&world.caller, &internal).unwrap();
    let put =
        world.call_as(&world.caller, "PutKeyPolicy", json!({"KeyId": internal.key_id, "Policy": policy}));
    assert_eq!(kind(put), ErrorKind::UnsupportedOperation);
}

#[test]
fn a_policy_that_locks_its_author_out_is_refused_unless_that_is_wanted() {
    let mut world = World::new();
    let key = world.key();
    let everybody_but_us = format!(
        r#"{{"Statement": {{"Effect": "Allow", "Principal": {{"AWS": "{}"}}, "Action": "kms:*", "Resource": "*"}}}}"#,
        arn(&format!("user/{ALICE}"))
    );
    let never = with(r#""Effect": "Deny", "Principal": "*", "Action": "kms:PutKeyPolicy""#);
    for policy in [&everybody_but_us, &never] {
        let put =
            world.call_as(&world.caller, "PutKeyPolicy", json!({"KeyId": key.key_id, "Policy": policy}));
        let refused = put.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::MalformedPolicy);
        assert!(refused.message().contains("will not allow you to update the key policy"), "{refused}");
        let made = world.call_as(&world.caller, "CreateKey", json!({"Policy": policy}));
        assert_eq!(kind(made), ErrorKind::MalformedPolicy);
    }
    let body = json!({"Policy": everybody_but_us, "BypassPolicyLockoutSafetyCheck": true});
    let made = world.call_as(&world.caller, "CreateKey", body).unwrap();
    let id = made["KeyMetadata"]["KeyId"].clone();
    world.reopen();
    assert_eq!(
        kind(world.call_as(&world.caller, "DescribeKey", json!({"KeyId": id}))),
        ErrorKind::AccessDenied
    );
    assert!(world.call_as(&user(ALICE), "DescribeKey", json!({"KeyId": id})).is_ok());
}

#[test]
fn a_policy_that_cannot_be_read_lets_nobody_in() {
    let world = World::new();
    let key = world.key();
    let old = world.service().entry(&key.key_id).unwrap();
    let mut record = old.record.clone();
    record.policy = Some("of a later release".to_owned());
    world.service().publish_record(&old, record).unwrap();
    assert_eq!(kind(world.service().describe_key(&world.caller, &named(&key))), ErrorKind::AccessDenied);
}

#[test]
fn simulation_names_the_statement_that_decides() {
    let world = World::new();
    let key = world.key();
    world.put(&key, &with(r#""Effect": "Allow", "Principal": "*", "Action": "kms:Decrypt",
        "Condition": {"StringEquals": {"kms:EncryptionContext:App": "pay"}, "IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}"#));
    let simulate = |caller: &Caller, body: Value| {
        let mut whole = json!({"KeyId": key.key_id, "Principal": ALICE.to_string(), "Action": "Decrypt"});
        whole.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
        dispatch(world.service(), caller, "Kmsfs.SimulateKeyPolicy", &whole)
    };
    let refused = simulate(&world.caller, json!({})).unwrap();
    assert_eq!((&refused["Allowed"], &refused["Statement"]), (&json!(false), &Value::Null));
    assert_eq!(refused["Statements"][0]["Because"], json!(["it is about other principals"]));
    assert_eq!(
        refused["Statements"][1]["Because"],
        json!([
            "its condition StringEquals kms:EncryptionContext:App is not met",
            "its condition IpAddress aws:SourceIp is not met"
        ])
    );
    let met = json!({"EncryptionContext": {"App": "pay"}, "Conditions": [{"Key": "aws:SourceIp", "Value": "10.1.2.3"}]});
    let allowed = simulate(&world.caller, met).unwrap();
    assert_eq!((&allowed["Allowed"], &allowed["Statement"]), (&json!(true), &json!(1)));
    assert_eq!(allowed["Reason"], "statement 1 (\"more\") allows it");
    assert_eq!(simulate(&world.caller, json!({"Principal": "root"})).unwrap()["Statement"], json!(0));
    let tried = with(r#""Effect": "Deny", "Principal": "*", "Action": "kms:Decrypt""#);
    let denied = simulate(&world.caller, json!({"Principal": "root", "Policy": tried})).unwrap();
    assert_eq!(denied["Reason"], "statement 1 (\"more\") denies it");
    for (wrong, wanted) in [
        (json!({"Action": "Fly"}), ErrorKind::Validation),
        (json!({"Principal": "a b"}), ErrorKind::Validation),
        (json!({"Principal": "arn:aws:iam::999999999999:user/x"}), ErrorKind::Validation),
        (json!({"Conditions": [{"Key": "x", "Value": "y"}]}), ErrorKind::Validation),
        (json!({"Policy": "{}"}), ErrorKind::MalformedPolicy),
    ] {
        assert_eq!(kind(simulate(&world.caller, wrong.clone())), wanted, "{wrong}");
    }
    // Whoever may not read the policy learns nothing of it.
    assert_eq!(kind(simulate(&user(ALICE), json!({}))), ErrorKind::AccessDenied);
}
