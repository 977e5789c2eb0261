//! What each failure of a proxy is called, and how long it takes to be told.

use std::time::{Duration, Instant};

use kmsfs::kms::{ErrorKind, KeyState};

use super::World;
use super::xks_proxy::Mood;

/// A call's time and what a busy machine adds.
const IN_TIME: Duration = Duration::from_millis(2500);

#[test]
fn each_failure_has_the_exceptions_that_aws_documents() {
    use ErrorKind as Kind;
    let (world, store, key) = World::with_key();
    let blob = world.encrypt(&key, b"secret").unwrap();
    // What CreateCustomKeyStore and CreateKey answer; all else answers KMSInvalidStateException.
    let named = [
        (400, "ValidationException", Kind::XksProxyInvalidResponse, Kind::CustomKeyStoreInvalidState),
        (400, "InvalidStateException", Kind::XksProxyInvalidResponse, Kind::XksKeyInvalidConfiguration),
        (400, "InvalidCiphertextException", Kind::XksProxyInvalidResponse, Kind::CustomKeyStoreInvalidState),
        (400, "InvalidKeyUsageException", Kind::XksProxyInvalidResponse, Kind::XksKeyInvalidConfiguration),
        (
            401,
            "AuthenticationFailedException",
            Kind::XksProxyIncorrectCredential,
            Kind::CustomKeyStoreInvalidState,
        ),
        (403, "AccessDeniedException", Kind::XksProxyInvalidResponse, Kind::InvalidState),
        (404, "KeyNotFoundException", Kind::XksProxyInvalidResponse, Kind::XksKeyNotFound),
        (
            404,
            "InvalidUriPathException",
            Kind::XksProxyInvalidConfiguration,
            Kind::CustomKeyStoreInvalidState,
        ),
        (429, "ThrottlingException", Kind::XksProxyUriUnreachable, Kind::CustomKeyStoreInvalidState),
        (
            501,
            "UnsupportedOperationException",
            Kind::XksProxyInvalidResponse,
            Kind::CustomKeyStoreInvalidState,
        ),
        (503, "DependencyTimeoutException", Kind::XksProxyUriUnreachable, Kind::CustomKeyStoreInvalidState),
        (500, "InternalException", Kind::XksProxyInvalidResponse, Kind::CustomKeyStoreInvalidState),
        (418, "TeapotException", Kind::XksProxyInvalidResponse, Kind::CustomKeyStoreInvalidState),
    ];
    let other = kmsfs::kms::api::CreateCustomKeyStoreRequest {
        xks_proxy_uri_path: Some("/tests-2/kms/xks/v1".to_owned()),
        ..world.request("other")
    };
    for (status, name, of_store, of_key) in named {
        world.proxy.feel(Mood::Refuses(status, name));
        assert_eq!(world.create(&other).unwrap_err().kind(), of_store, "{name}");
        assert_eq!(world.key(&store, "two").unwrap_err().kind(), of_key, "{name}");
        for error in [world.encrypt(&key, b"x").unwrap_err(), world.decrypt(&blob).unwrap_err()] {
            assert_eq!(error.kind(), Kind::InvalidState, "{name}");
            let of_ciphertext = name == "InvalidCiphertextException";
            assert_eq!(error.key_state(), (!of_ciphertext).then_some(KeyState::Unavailable), "{name}");
            assert!(!error.message().contains("as it likes"), "the proxy's words are its own: {error}");
        }
    }
    world.proxy.feel(Mood::Well);
    assert_eq!(&*world.decrypt(&blob).unwrap().plaintext, b"secret");
}

#[test]
fn what_cannot_be_understood_is_refused() {
    let (world, _, key) = World::with_key();
    let blob = world.encrypt(&key, b"secret").unwrap();
    let lies = [
        serde_json::json!({ "ciphertext": "AAAA" }),
        serde_json::json!({ "ciphertext": 7 }),
        serde_json::json!({ "ciphertextDataIntegrityValue": null }),
        serde_json::json!({ "ciphertextDataIntegrityValue": "AAAA" }),
        serde_json::json!({ "initializationVector": "AAAA" }),
        serde_json::json!({ "authenticationTag": "AAAA" }),
        serde_json::json!({ "ciphertextMetadata": "A".repeat(28) }),
    ];
    for lie in lies {
        world.proxy.feel(Mood::Lies(lie.clone()));
        assert_eq!(world.encrypt(&key, b"x").unwrap_err().kind(), ErrorKind::InvalidState, "{lie}");
    }
    for (status, body) in [
        (200, String::new()),
        (200, "null".to_owned()),
        (200, "{}".to_owned()),
        (200, format!("{{\"plaintext\": \"{}\"}}", "A".repeat(100_000))),
        (302, String::new()),
        (404, "<html>not found</html>".to_owned()),
        (500, "{\"errorName\": 7}".to_owned()),
    ] {
        world.proxy.feel(Mood::Says(status, body.clone()));
        let error = world.decrypt(&blob).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidState, "{status} {body:.40}");
        assert!(error.message().contains("cannot interpret"), "{error}");
    }
    world.proxy.feel(Mood::Well);
    assert!(world.decrypt(&blob).is_ok());
}

#[test]
fn whatever_a_proxy_does_a_call_ends_in_time() {
    for mood in [Mood::Silent, Mood::Dripping, Mood::Slow(Duration::from_secs(5)), Mood::HangsUp] {
        let (world, _, key) = World::with_key();
        let blob = world.encrypt(&key, b"secret").unwrap();
        world.proxy.feel(mood.clone());
        let start = Instant::now();
        let error = world.decrypt(&blob).unwrap_err();
        assert!(start.elapsed() < IN_TIME, "{mood:?}: {:?}", start.elapsed());
        assert_eq!((error.kind(), error.key_state()), (ErrorKind::InvalidState, Some(KeyState::Unavailable)));
        // It is not asked again right away, if it took long.
        let start = Instant::now();
        assert!(world.decrypt(&blob).is_err());
        if mood != Mood::HangsUp {
            assert!(start.elapsed() < Duration::from_millis(500), "{mood:?}: {:?}", start.elapsed());
        }
        world.proxy.feel(Mood::Well);
        std::thread::sleep(Duration::from_millis(1100));
        assert_eq!(&*world.decrypt(&blob).unwrap().plaintext, b"secret", "{mood:?}");
    }
}

#[test]
fn a_proxy_that_was_restarted_is_found_again() {
    let (world, _, key) = World::with_key();
    let blob = world.encrypt(&key, b"secret").unwrap();
    let before = world.proxy.accepted();
    for _ in 0..10 {
        world.decrypt(&blob).unwrap();
    }
    assert_eq!(world.proxy.accepted(), before, "a connection is kept");
    world.proxy.die();
    let error = world.decrypt(&blob).unwrap_err();
    assert!(error.message().contains("cannot communicate"), "{error}");
    world.proxy.revive();
    world.decrypt(&blob).unwrap();
    world.proxy.feel(Mood::Forgets);
    for _ in 0..10 {
        world.decrypt(&blob).unwrap();
    }
}
