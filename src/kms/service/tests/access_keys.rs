//! Access keys.

use std::net::IpAddr;

use serde_json::json;

use super::*;
use crate::kms::wire::dispatch;
use crate::sync::atomic::Ordering;

fn create(world: &World, user: &str) -> Result<CreateAccessKeyResponse, KmsError> {
    let request = CreateAccessKeyRequest { user_name: user.to_owned(), ..CreateAccessKeyRequest::default() };
    world.service().create_access_key(&world.caller, &request)
}

fn status(world: &World, id: &str, status: &str) -> Result<Empty, KmsError> {
    let request = UpdateAccessKeyRequest { access_key_id: id.to_owned(), status: status.to_owned() };
    world.service().update_access_key(&world.caller, &request)
}

fn delete(world: &World, id: &str) -> Result<Empty, KmsError> {
    let request = DeleteAccessKeyRequest { access_key_id: id.to_owned() };
    world.service().delete_access_key(&world.caller, &request)
}

#[test]
fn an_access_key_lives_from_its_creation_to_its_deletion_across_restarts() {
    let mut world = World::new();
    let made = create(&world, "ada").unwrap();
    let id = made.access_key.access_key_id.clone();
    assert!(id.starts_with("AKFS") && id.len() == 20, "{id}");
    assert_eq!(made.secret_access_key.len(), 40);
    assert!(!format!("{made:?}").contains(made.secret_access_key.as_str()));
    for _ in 0..2 {
        let known = world.service().access_key(&id).unwrap();
        assert_eq!((known.user.as_str(), &known.secret), ("ada", &made.secret_access_key));
        assert!(!format!("{known:?}").contains(known.secret.as_str()));
        world.reopen();
    }
    assert_eq!(status(&world, &id, "Inactive"), Ok(Empty {}));
    assert!(world.service().access_key(&id).is_none(), "disabled");
    world.reopen();
    assert!(world.service().access_key(&id).is_none(), "disabled for good");
    let listed = world.service().list_access_keys(&world.caller).unwrap().access_keys;
    assert_eq!(listed, [AccessKeyMetadata { status: "Inactive".to_owned(), ..made.access_key }]);
    status(&world, &id, "Active").unwrap();
    assert!(world.service().access_key(&id).is_some());
    delete(&world, &id).unwrap();
    for _ in 0..2 {
        assert!(world.service().access_key(&id).is_none());
        assert_eq!(delete(&world, &id).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(status(&world, &id, "Active").unwrap_err().kind(), ErrorKind::NotFound);
        world.reopen();
    }
}

#[test]
fn one_can_be_brought_from_elsewhere_once() {
    let world = World::new();
    let bring = |id: &str, secret: &str| {
        let request = CreateAccessKeyRequest {
            user_name: "ada".to_owned(),
            access_key_id: Some(id.to_owned()),
            secret_access_key: Some(secret.to_owned().into()),
        };
        world.service().create_access_key(&world.caller, &request)
    };
    let secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
    bring("AKIAIOSFODNN7EXAMPLE", secret).unwrap();
    assert_eq!(world.service().access_key("AKIAIOSFODNN7EXAMPLE").unwrap().secret.as_str(), secret);
    assert_eq!(bring("AKIAIOSFODNN7EXAMPLE", secret).unwrap_err().kind(), ErrorKind::AlreadyExists);
    let (long_id, long_secret) = ("A".repeat(129), "s".repeat(129));
    for (id, secret) in [
        ("short", secret),
        ("AKIA/OSFODNN7EXAMPLE", secret),
        (&long_id, secret),
        ("AKIAIOSFODNN8EXAMPLE", "too short"),
        ("AKIAIOSFODNN8EXAMPLE", "with a space, however long it may be"),
        ("AKIAIOSFODNN8EXAMPLE", &long_secret),
    ] {
        assert_eq!(bring(id, secret).unwrap_err().kind(), ErrorKind::Validation, "{id} {secret}");
    }
    let half = json!({ "UserName": "ada", "AccessKeyId": "AKIAIOSFODNN8EXAMPLE" });
    let refused = dispatch(world.service(), &world.caller, "Kmsfs.CreateAccessKey", &half);
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Validation);
}

#[test]
fn bad_names_and_too_many_are_refused() {
    let world = World::new();
    for user in ["", "a b", "a/b", "\u{e9}", &"a".repeat(65)] {
        assert_eq!(create(&world, user).unwrap_err().kind(), ErrorKind::Validation, "{user}");
    }
    for _ in 0..10 {
        create(&world, "ada").unwrap();
    }
    assert_eq!(create(&world, "ada").unwrap_err().kind(), ErrorKind::LimitExceeded);
    create(&world, "a+=,.@_-9").unwrap();
    let id = world.service().list_access_keys(&world.caller).unwrap().access_keys[0].access_key_id.clone();
    assert_eq!(status(&world, &id, "Paused").unwrap_err().kind(), ErrorKind::Validation);
}

#[test]
fn nobody_from_elsewhere_manages_access_keys() {
    let world = World::new();
    let id = create(&world, "ada").unwrap().access_key.access_key_id;
    let remote = Remote {
        user: "ada".to_owned(),
        access_key_id: id.clone(),
        address: IpAddr::from([127, 0, 0, 1]),
        secure: true,
    };
    let from_elsewhere = Caller { remote: Some(remote), ..world.caller.clone() };
    let other_user = Caller { uid: world.caller.uid + 1, ..world.caller.clone() };
    for caller in [from_elsewhere, other_user] {
        for (operation, body) in [
            ("CreateAccessKey", json!({ "UserName": "eve" })),
            ("ListAccessKeys", json!({})),
            ("UpdateAccessKey", json!({ "AccessKeyId": id, "Status": "Inactive" })),
            ("DeleteAccessKey", json!({ "AccessKeyId": id })),
        ] {
            let refused = dispatch(world.service(), &caller, &format!("Kmsfs.{operation}"), &body);
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::AccessDenied, "{operation}");
        }
    }
    assert_eq!(world.service().list_access_keys(&world.caller).unwrap().access_keys.len(), 1);
    assert!(world.service().access_key(&id).is_some());
}

#[test]
fn what_cannot_be_written_did_not_happen() {
    let world = World::new();
    let id = create(&world, "ada").unwrap().access_key.access_key_id;
    world.service().store.fail_commits.store(true, Ordering::Relaxed);
    assert_eq!(create(&world, "ada").unwrap_err().kind(), ErrorKind::Internal);
    assert_eq!(status(&world, &id, "Inactive").unwrap_err().kind(), ErrorKind::Internal);
    assert_eq!(delete(&world, &id).unwrap_err().kind(), ErrorKind::Internal);
    world.service().store.fail_commits.store(false, Ordering::Relaxed);
    assert_eq!(world.service().list_access_keys(&world.caller).unwrap().access_keys.len(), 1);
    assert!(world.service().access_key(&id).is_some());
}
