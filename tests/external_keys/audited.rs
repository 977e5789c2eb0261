//! What the audit log says of external key stores, and what it does not.

use std::fs;

use serde_json::Value;

use kmsfs::kms::api::UpdateCustomKeyStoreRequest;

use super::xks_proxy::{ACCESS_KEY_ID, Mood, SECRET};
use super::{World, credential, named};

#[test]
fn uses_name_the_external_key_and_no_event_has_a_secret() {
    let (world, store, key) = World::with_key();
    let blob = world.encrypt(&key, b"a plaintext").unwrap();
    world.proxy.feel(Mood::Refuses(403, "AccessDeniedException"));
    world.decrypt(&blob).unwrap_err();
    world.proxy.feel(Mood::Well);
    let update = UpdateCustomKeyStoreRequest {
        custom_key_store_id: store.clone(),
        xks_proxy_authentication_credential: Some(credential(SECRET)),
        ..Default::default()
    };
    world.service().update_custom_key_store(&world.caller, &update).unwrap();
    world.disconnect(&store);
    world.service().describe_key(&world.caller, &named(&key)).unwrap();
    world.service().flush_audit().unwrap();

    let mut text = String::new();
    for file in fs::read_dir(world.dir.path().join("audit")).unwrap() {
        text.push_str(&String::from_utf8_lossy(&fs::read(file.unwrap().path()).unwrap()));
    }
    for hidden in [SECRET, ACCESS_KEY_ID, "a plaintext"] {
        assert!(!text.contains(hidden), "{hidden}");
    }
    let lines: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let event = |name: &str| -> &Value {
        let found = lines.iter().rev().find_map(|line| find(line, name));
        found.unwrap_or_else(|| panic!("no {name} in {text}"))
    };
    let created = event("CreateCustomKeyStore");
    assert_eq!(created["responseElements"]["customKeyStoreId"], store.as_str());
    assert_eq!(created["requestParameters"]["customKeyStoreName"], "near");
    let encrypted = &event("Encrypt")["additionalEventData"];
    assert_eq!(encrypted["customKeyStoreId"], store.as_str());
    assert_eq!(encrypted["xksKeyId"], "one");
    assert_eq!(encrypted["xksProxyUriEndpoint"], world.proxy.endpoint.as_str());
    let decrypted = event("Decrypt");
    assert_eq!(decrypted["errorCode"], "KMSInvalidStateException");
    assert_eq!(decrypted["additionalEventData"]["xksProxyError"], "the proxy denied access");
    for operation in
        ["ConnectCustomKeyStore", "UpdateCustomKeyStore", "DisconnectCustomKeyStore", "CreateKey"]
    {
        event(operation);
    }
    // The proxy's log and this one are about the same calls.
    let seen = world.proxy.seen();
    let told = seen.iter().find(|seen| seen.path.ends_with("/encrypt")).unwrap();
    assert_eq!(event("Encrypt")["eventID"], told.body["requestMetadata"]["kmsRequestId"]);
}

/// The event of this name within a line of the log.
fn find<'v>(value: &'v Value, name: &str) -> Option<&'v Value> {
    if value["eventName"] == name {
        return Some(value);
    }
    match value {
        Value::Object(members) => members.values().find_map(|member| find(member, name)),
        _ => None,
    }
}

#[test]
fn nothing_that_is_shown_of_a_secret_is_the_secret() {
    let world = World::new();
    let request = world.request("near");
    let shown = format!("{request:?}{:?}", request.xks_proxy_authentication_credential);
    assert!(!shown.contains(SECRET), "{shown}");
    world.create(&request).unwrap();
    // What is on disk is sealed.
    for file in fs::read_dir(world.dir.path()).unwrap().map(|file| file.unwrap().path()) {
        if file.is_file() {
            let bytes = fs::read(&file).unwrap();
            assert!(!bytes.windows(SECRET.len()).any(|part| part == SECRET.as_bytes()), "{}", file.display());
        }
    }
}
