//! Each operation on custom key stores, and what it refuses.

use jiff::SignedDuration;
use kmsfs::kms::api::{
    CreateCustomKeyStoreRequest, CreateKeyRequest, DescribeCustomKeyStoresRequest, GenerateRandomRequest,
    ScheduleKeyDeletionRequest, UpdateCustomKeyStoreRequest,
};
use kmsfs::kms::{Caller, ErrorKind, KmsError};

use super::xks_proxy::{Mood, PATH, SECRET};
use super::{World, credential, key_request, named, of};

const OTHER_SECRET: &str = "YW5vdGhlciBzZWNyZXQgYWNjZXNzIGtleSBmb3IgaXQ=";

#[track_caller]
fn refused<T>(result: Result<T, KmsError>, kind: ErrorKind) {
    assert_eq!(result.map(|_| ()).unwrap_err().kind(), kind);
}

#[test]
fn a_custom_key_store_lives_and_ends() {
    let mut world = World::new();
    let store = world.create(&world.request("near")).unwrap();
    assert!(store.starts_with("cks-") && store.len() == 21, "{store}");
    let made = world.described(&store);
    assert_eq!(made.connection_state.name(), "DISCONNECTED");
    assert_eq!(made.xks_proxy_configuration.uri_endpoint, world.proxy.endpoint);
    refused(world.key(&store, "one"), ErrorKind::CustomKeyStoreInvalidState);

    let service = world.service().clone();
    service.connect_custom_key_store(&world.caller, &of(&store)).unwrap();
    assert_eq!(world.described(&store).connection_state.name(), "CONNECTED");
    service.connect_custom_key_store(&world.caller, &of(&store)).unwrap();
    let key = world.key(&store, "one").unwrap();
    assert_eq!(key.origin.name(), "EXTERNAL_KEY_STORE");
    assert_eq!(key.custom_key_store_id.as_deref(), Some(&*store));
    assert_eq!(key.xks_key_configuration.as_ref().unwrap().id, "one");
    assert_eq!(key.current_key_material_version, 1);

    let delete = |world: &World| world.service().delete_custom_key_store(&world.caller, &of(&store));
    refused(delete(&world), ErrorKind::CustomKeyStoreInvalidState);
    world.disconnect(&store);
    refused(
        service.disconnect_custom_key_store(&world.caller, &of(&store)),
        ErrorKind::CustomKeyStoreInvalidState,
    );
    refused(delete(&world), ErrorKind::CustomKeyStoreHasKeys);
    drop(service);
    let deletion = ScheduleKeyDeletionRequest {
        key_id: key.key_id.to_string(),
        pending_window_in_days: Some(7),
        stop_if_unwritten: false,
    };
    world.service().schedule_key_deletion(&world.caller, &deletion).unwrap();
    refused(delete(&world), ErrorKind::CustomKeyStoreHasKeys);
    world.clock.advance(SignedDuration::from_hours(24 * 8));
    delete(&world).unwrap();
    refused(delete(&world), ErrorKind::CustomKeyStoreNotFound);
    world.reopen();
    let left =
        world.service().describe_custom_key_stores(&world.caller, &DescribeCustomKeyStoresRequest::default());
    assert_eq!(left.unwrap().custom_key_stores, []);
    refused(world.service().describe_key(&world.caller, &named(&key)), ErrorKind::NotFound);
}

#[test]
fn what_a_custom_key_store_may_not_be() {
    type Change = fn(&mut CreateCustomKeyStoreRequest);
    let world = World::new();
    let changes: &[(Change, ErrorKind)] = &[
        (|r| r.custom_key_store_type = None, ErrorKind::UnsupportedOperation),
        (|r| r.custom_key_store_type = Some("AWS_CLOUDHSM".into()), ErrorKind::UnsupportedOperation),
        (|r| r.custom_key_store_type = Some("ELSEWHERE".into()), ErrorKind::Validation),
        (|r| r.xks_proxy_connectivity = Some("VPC_ENDPOINT_SERVICE".into()), ErrorKind::UnsupportedOperation),
        (|r| r.xks_proxy_connectivity = Some("PIGEON".into()), ErrorKind::Validation),
        (|r| r.xks_proxy_connectivity = None, ErrorKind::Validation),
        (|r| r.custom_key_store_name = String::new(), ErrorKind::Validation),
        (|r| r.custom_key_store_name = "n".repeat(257), ErrorKind::Validation),
        (|r| r.custom_key_store_name = "a\nb".into(), ErrorKind::Validation),
        (|r| r.xks_proxy_uri_endpoint = None, ErrorKind::Validation),
        (|r| r.xks_proxy_uri_endpoint = Some("http://proxy.example.org".into()), ErrorKind::Validation),
        (|r| r.xks_proxy_uri_path = None, ErrorKind::Validation),
        (|r| r.xks_proxy_uri_path = Some("/a/../kms/xks/v1".into()), ErrorKind::Validation),
        (|r| r.xks_proxy_authentication_credential = None, ErrorKind::Validation),
        (|r| r.xks_proxy_authentication_credential = Some(credential("short")), ErrorKind::Validation),
        (
            |r| r.xks_proxy_authentication_credential = Some(credential(&"!".repeat(43))),
            ErrorKind::Validation,
        ),
        (
            |r| r.xks_proxy_authentication_credential.as_mut().unwrap().access_key_id = "a".repeat(20),
            ErrorKind::Validation,
        ),
        (|r| r.trust_anchor_certificate = Some("no certificate".into()), ErrorKind::Validation),
        (|r| r.trust_anchor_certificate = Some("c".repeat(15_001)), ErrorKind::Validation),
        (
            |r| r.xks_proxy_authentication_credential = Some(credential(OTHER_SECRET)),
            ErrorKind::XksProxyIncorrectCredential,
        ),
        (
            |r| r.xks_proxy_uri_path = Some("/other/kms/xks/v1".into()),
            ErrorKind::XksProxyInvalidConfiguration,
        ),
        (|r| r.xks_proxy_uri_endpoint = Some("http://127.0.0.1:1".into()), ErrorKind::XksProxyUriUnreachable),
    ];
    for (at, (change, kind)) in changes.iter().enumerate() {
        let mut request = world.request("near");
        change(&mut request);
        assert_eq!(world.create(&request).unwrap_err().kind(), *kind, "change {at}");
    }
    // Nothing is left of any of them.
    world.create(&world.request("near")).unwrap();
    refused(world.create(&world.request("near")), ErrorKind::CustomKeyStoreNameInUse);
    refused(world.create(&world.request("other")), ErrorKind::XksProxyUriInUse);
    let mut loud = world.request("loud");
    loud.xks_proxy_uri_endpoint = Some(world.proxy.endpoint.replace("http", "HTTP"));
    refused(world.create(&loud), ErrorKind::Validation);
    let stranger = Caller::local(12_345, 12_345, 1, "stranger".to_owned());
    let foreign = world.service().create_custom_key_store(&stranger, &world.request("mine"));
    refused(foreign, ErrorKind::AccessDenied);
}

#[test]
fn there_are_at_most_ten_and_they_are_listed_in_pages() {
    let world = World::new();
    let mut made = Vec::new();
    for number in 0..=10 {
        // Other paths are other proxies.
        let request = CreateCustomKeyStoreRequest {
            xks_proxy_uri_path: Some(format!("/tests-{number}/kms/xks/v1")),
            ..world.request(&format!("store {number}"))
        };
        match world.create(&request) {
            Ok(store) => made.push(store),
            Err(error) => {
                assert_eq!((number, error.kind()), (10, ErrorKind::LimitExceeded), "{error}");
            }
        }
    }
    made.sort();
    let mut request = DescribeCustomKeyStoresRequest { limit: Some(3), ..Default::default() };
    let mut listed = Vec::new();
    loop {
        let page = world.service().describe_custom_key_stores(&world.caller, &request).unwrap();
        listed.extend(page.custom_key_stores.into_iter().map(|store| store.custom_key_store_id));
        request.marker = page.next_marker;
        if !page.truncated {
            break;
        }
    }
    assert_eq!(listed, made);
    let by_name = DescribeCustomKeyStoresRequest {
        custom_key_store_name: Some("store 3".to_owned()),
        ..Default::default()
    };
    let found = world.service().describe_custom_key_stores(&world.caller, &by_name).unwrap();
    assert_eq!(found.custom_key_stores.len(), 1);
    let nobody = DescribeCustomKeyStoresRequest {
        custom_key_store_name: Some("nobody".to_owned()),
        ..Default::default()
    };
    refused(
        world.service().describe_custom_key_stores(&world.caller, &nobody),
        ErrorKind::CustomKeyStoreNotFound,
    );
}

#[test]
fn what_a_key_may_not_stand_for() {
    let (world, store, _) = World::with_key();
    let create = |request: &_| world.service().create_key(&world.caller, request);
    refused(world.key(&store, "one"), ErrorKind::XksKeyAlreadyInUse);
    refused(world.key(&store, "nothing"), ErrorKind::XksKeyNotFound);
    refused(world.key("cks-1234567890abcdef0", "two"), ErrorKind::CustomKeyStoreNotFound);
    for id in ["", ".", "..", "a/b", "a b", &"a".repeat(129)] {
        refused(world.key(&store, id), ErrorKind::Validation);
    }
    let plain = key_request(&store, "two");
    for (change, kind) in [
        (CreateKeyRequest { origin: None, ..plain.clone() }, ErrorKind::Validation),
        (CreateKeyRequest { origin: Some("EXTERNAL".into()), ..plain.clone() }, ErrorKind::Validation),
        (CreateKeyRequest { xks_key_id: None, ..plain.clone() }, ErrorKind::Validation),
        (CreateKeyRequest { custom_key_store_id: None, ..plain.clone() }, ErrorKind::Validation),
        (
            CreateKeyRequest {
                key_spec: Some("HMAC_256".into()),
                key_usage: Some("GENERATE_VERIFY_MAC".into()),
                ..plain.clone()
            },
            ErrorKind::UnsupportedOperation,
        ),
        (
            CreateKeyRequest { origin: Some("AWS_CLOUDHSM".into()), ..plain.clone() },
            ErrorKind::UnsupportedOperation,
        ),
        (CreateKeyRequest { multi_region: Some(true), ..plain }, ErrorKind::UnsupportedOperation),
    ] {
        refused(create(&change), kind);
    }
    world.proxy.key("two", |key| key.spec = "AES_128");
    refused(world.key(&store, "two"), ErrorKind::XksKeyInvalidConfiguration);
    world.proxy.key("two", |key| (key.spec, key.usage) = ("AES_256", vec!["ENCRYPT"]));
    refused(world.key(&store, "two"), ErrorKind::XksKeyInvalidConfiguration);
    world.proxy.key("two", |key| (key.usage, key.status) = (vec!["ENCRYPT", "DECRYPT"], "DISABLED"));
    refused(world.key(&store, "two"), ErrorKind::XksKeyInvalidConfiguration);
    world.proxy.key("two", |key| key.status = "ENABLED");
    world.key(&store, "two").unwrap();
    let random = GenerateRandomRequest { number_of_bytes: Some(8), custom_key_store_id: Some(store) };
    refused(world.service().generate_random(&world.caller, &random), ErrorKind::UnsupportedOperation);
}

#[test]
fn a_credential_is_replaced_while_connected_and_the_place_while_disconnected() {
    let (mut world, store, key) = World::with_key();
    let update = |world: &World, change: UpdateCustomKeyStoreRequest| {
        let request = UpdateCustomKeyStoreRequest { custom_key_store_id: store.clone(), ..change };
        world.service().update_custom_key_store(&world.caller, &request)
    };
    let renewed = || UpdateCustomKeyStoreRequest {
        xks_proxy_authentication_credential: Some(credential(OTHER_SECRET)),
        ..Default::default()
    };
    let blob = world.encrypt(&key, b"before").unwrap();
    refused(update(&world, renewed()), ErrorKind::XksProxyIncorrectCredential);
    assert!(world.decrypt(&blob).is_ok(), "the old one stays");
    world.proxy.demand(OTHER_SECRET);
    refused(world.decrypt(&blob), ErrorKind::InvalidState);
    update(&world, renewed()).unwrap();
    assert_eq!(&*world.decrypt(&blob).unwrap().plaintext, b"before");
    let name = UpdateCustomKeyStoreRequest {
        new_custom_key_store_name: Some("far".to_owned()),
        ..Default::default()
    };
    update(&world, name).unwrap();
    assert_eq!(world.described(&store).custom_key_store_name, "far");

    let moved = || UpdateCustomKeyStoreRequest {
        xks_proxy_uri_path: Some("/moved/kms/xks/v1".to_owned()),
        ..Default::default()
    };
    refused(update(&world, moved()), ErrorKind::CustomKeyStoreInvalidState);
    world.disconnect(&store);
    refused(update(&world, moved()), ErrorKind::XksProxyInvalidConfiguration);
    let endpoint = UpdateCustomKeyStoreRequest {
        xks_proxy_uri_endpoint: Some(world.proxy.endpoint.replace("127.0.0.1", "localhost")),
        ..Default::default()
    };
    update(&world, endpoint).unwrap();
    let unsupported = UpdateCustomKeyStoreRequest {
        xks_proxy_connectivity: Some("VPC_ENDPOINT_SERVICE".to_owned()),
        ..Default::default()
    };
    refused(update(&world, unsupported), ErrorKind::UnsupportedOperation);
    world.reopen();
    world.service().connect_custom_key_store(&world.caller, &of(&store)).unwrap();
    let known = world.described(&store);
    assert!(known.xks_proxy_configuration.uri_endpoint.starts_with("http://localhost:"));
    assert_eq!(known.xks_proxy_configuration.uri_path, PATH);
    assert_eq!(&*world.decrypt(&blob).unwrap().plaintext, b"before");
    world.proxy.demand(SECRET);
    refused(world.decrypt(&blob), ErrorKind::InvalidState);
}

#[test]
fn a_failed_connection_says_why_and_must_be_ended_first() {
    let world = World::new();
    let store = world.create(&world.request("near")).unwrap();
    let connect = || world.service().connect_custom_key_store(&world.caller, &of(&store));
    for (mood, code) in [
        (Mood::Refuses(401, "AuthenticationFailedException"), "INVALID_CREDENTIALS"),
        (Mood::Refuses(403, "AccessDeniedException"), "XKS_PROXY_ACCESS_DENIED"),
        (Mood::Refuses(404, "InvalidUriPathException"), "XKS_PROXY_INVALID_CONFIGURATION"),
        (Mood::Refuses(503, "DependencyTimeoutException"), "XKS_PROXY_TIMED_OUT"),
        (Mood::Refuses(500, "InternalException"), "XKS_PROXY_INVALID_RESPONSE"),
        (Mood::Says(200, "{}".to_owned()), "XKS_PROXY_INVALID_RESPONSE"),
        (Mood::Silent, "XKS_PROXY_TIMED_OUT"),
        (Mood::HangsUp, "XKS_PROXY_NOT_REACHABLE"),
        (Mood::WithoutManagers, "XKS_PROXY_NOT_REACHABLE"),
    ] {
        world.proxy.feel(mood.clone());
        connect().unwrap();
        let known = world.described(&store);
        assert_eq!(known.connection_state.name(), "FAILED", "{mood:?}");
        assert_eq!(known.connection_error_code.unwrap().name(), code, "{mood:?}");
        world.proxy.feel(Mood::Well);
        refused(connect(), ErrorKind::CustomKeyStoreInvalidState);
        refused(world.key(&store, "one"), ErrorKind::CustomKeyStoreInvalidState);
        world.disconnect(&store);
        assert_eq!(world.described(&store).connection_error_code, None);
    }
    connect().unwrap();
    world.key(&store, "one").unwrap();
}
