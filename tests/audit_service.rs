//! The key service and its audit log: what is in it, what never is, and what a crash or a full
//! disk makes of both.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

mod memory_disk;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kmsfs::clock::ManualClock;
use kmsfs::kms::api::{CreateKeyRequest, KeyRequest, ScheduleKeyDeletionRequest};
use kmsfs::kms::audit::{DIRECTORY, MAX_READ, Mode, file_name, list};
use kmsfs::kms::store_api::VerifyAuditRequest;
use kmsfs::kms::{
    Caller, CutReport, Disk, EncryptionContext, ErrorKind, KeyId, KeyState, KeyWatcher, MountStatus, Reason,
    Service, wire,
};
use memory_disk::history::{Dice, History, Survives};
use memory_disk::place::Place;
use memory_disk::{Fault, MemoryDisk, Tree};
use serde_json::{Value, json};

fn place() -> Place {
    Place::new(MemoryDisk::with_audit(), Timestamp::from_second(1_700_000_000).unwrap())
}

/// All of the log's text.
fn text(place: &Place) -> String {
    let dir = place.dir().join(DIRECTORY);
    let read = |first| place.disk.read(&dir.join(file_name(first)), MAX_READ).unwrap();
    let bytes: Vec<u8> = list(&place.disk, &dir).unwrap().into_iter().flat_map(read).collect();
    String::from_utf8(bytes).unwrap()
}

fn events(place: &Place) -> Vec<Value> {
    text(place).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn verify(service: &Service) {
    let report = service.verify_audit(&VerifyAuditRequest::default()).unwrap();
    assert!(report.is_sound() && report.authenticated, "{report:?}");
}

fn call(
    service: &Service,
    caller: &Caller,
    operation: &str,
    body: Value,
) -> Result<Value, kmsfs::kms::KmsError> {
    wire::dispatch(service, caller, &format!("TrentService.{operation}"), &body)
}

#[test]
fn every_call_is_logged_refused_ones_too() {
    let place = place();
    let service = place.create();
    let caller = Caller::local(place.caller.uid, 100, 42, "cat".to_owned());
    let key = call(&service, &caller, "CreateKey", json!({ "Description": "mine" })).unwrap();
    let arn = key["KeyMetadata"]["Arn"].clone();
    let context = EncryptionContext::new().with("kmsfs:volume", "v-1").with("kmsfs:file", "f-1");
    service.generate_data_key(&caller, arn.as_str().unwrap(), &context).unwrap();
    call(&service, &caller, "CreateAlias", json!({ "AliasName": "alias/a", "TargetKeyId": arn })).unwrap();
    call(&service, &caller, "DisableKey", json!({ "KeyId": arn })).unwrap();
    service.generate_data_key(&caller, arn.as_str().unwrap(), &context).unwrap_err();
    call(&service, &caller, "DescribeKey", json!({ "KeyId": 7 })).unwrap_err();
    call(&service, &caller, "Frobnicate", json!({})).unwrap_err();
    let stranger = Caller::local(3_999_999_999, 100, 43, "dog".to_owned());
    call(&service, &stranger, "DisableKey", json!({ "KeyId": arn })).unwrap_err();
    wire::dispatch(&service, &caller, "Kmsfs.Status", &json!({})).unwrap();
    wire::dispatch(&service, &caller, "Kmsfs.RemoveUnlockSlot", &json!({ "Number": 9 })).unwrap_err();
    verify(&service);
    drop(service);
    let events = events(&place);
    let said: Vec<_> = events
        .iter()
        .map(|event| (event["eventName"].as_str().unwrap(), event["errorCode"].as_str().unwrap_or("")))
        .collect();
    let expected = [
        ("StartAuditSegment", ""),
        ("CreateKey", ""),
        ("GenerateDataKey", ""),
        ("CreateAlias", ""),
        ("DisableKey", ""),
        ("GenerateDataKey", "DisabledException"),
        ("DescribeKey", "SerializationException"),
        ("Frobnicate", "UnsupportedOperationException"),
        ("DisableKey", "AccessDeniedException"),
        ("Status", ""),
        ("RemoveUnlockSlot", "ValidationException"),
    ];
    assert_eq!(said, expected);
    let data_key = &events[2];
    assert_eq!(
        data_key["additionalEventData"],
        json!({ "keyMaterialVersion": 1, "volumeId": "v-1", "fileId": "f-1" })
    );
    assert_eq!(data_key["eventCategory"], "Data");
    assert_eq!(data_key["userAgent"], "cat");
    assert_eq!(data_key["userIdentity"]["arn"], "arn:aws:iam::000000000000:root");
    assert_eq!(events[8]["userIdentity"]["arn"], "arn:aws:iam::000000000000:user/3999999999");
    assert_eq!(data_key["userIdentity"]["pid"], 42);
    assert_eq!(data_key["requestParameters"]["encryptionContext"]["kmsfs:file"], "f-1");
    assert_eq!(events[1]["requestParameters"]["description"], "mine");
    for event in &events[1..6] {
        let resources = event["resources"].as_array().unwrap();
        assert!(resources.iter().any(|resource| resource["ARN"] == arn), "{event}");
    }
    assert_eq!(events[3]["resources"][0]["type"], "AWS::KMS::Alias");
}

#[test]
fn an_event_tells_what_only_the_answer_names() {
    let place = place();
    let service = place.create();
    let key = call(&service, &place.caller, "CreateKey", json!({})).unwrap()["KeyMetadata"]["Arn"].clone();
    let grant = json!({ "KeyId": key, "GranteePrincipal": "arn:aws:iam::000000000000:user/a", "Operations": ["Decrypt"] });
    let grant = call(&service, &place.caller, "CreateGrant", grant).unwrap();
    let asked = json!({ "KeyId": key, "PendingWindowInDays": 7 });
    call(&service, &place.caller, "ScheduleKeyDeletion", asked).unwrap();
    let mount = MountStatus { mountpoint: "/m".to_owned(), volume: "v".to_owned(), ..MountStatus::default() };
    drop(service.attach(&place.caller, mount, Arc::new(Deaf)).unwrap());
    drop(service);
    let events = events(&place);
    let granted = &events[2]["responseElements"];
    assert_eq!(granted, &json!({ "keyId": key, "grantId": grant["GrantId"] }));
    let scheduled = &events[3]["responseElements"];
    assert_eq!(scheduled["keyState"], "PendingDeletion");
    assert_eq!(scheduled["deletionDate"], "2023-11-21T22:13:20Z");
    assert_eq!(events[4]["eventName"], "AttachMount");
    assert_eq!(events[4]["requestParameters"], json!({ "path": "/m", "volume": "v" }));
}

/// A mount that has nothing to do.
struct Deaf;

impl KeyWatcher for Deaf {
    fn describe(&self) -> MountStatus {
        MountStatus::default()
    }

    fn drain(&self, _: &KeyId, _: Duration, _: bool) -> CutReport {
        CutReport::default()
    }

    fn cut(&self, _: &KeyId, _: Option<KeyState>) -> CutReport {
        CutReport::default()
    }

    fn restore(&self, _: &KeyId) {}

    fn lock(&self, _: Duration) -> CutReport {
        CutReport::default()
    }

    fn unlock(&self) {}
}

#[test]
fn no_secret_is_ever_in_the_log() {
    use data_encoding::{BASE64, HEXLOWER};
    let place = place();
    let service = place.create();
    let caller = &place.caller;
    let mut secrets: Vec<Vec<u8>> = Vec::new();
    let key = call(&service, caller, "CreateKey", json!({})).unwrap()["KeyMetadata"]["KeyId"].clone();
    let plaintext = b"a plaintext nobody may see 1".to_vec();
    secrets.push(plaintext.clone());
    let text_of = BASE64.encode(&plaintext);
    let sealed = call(&service, caller, "Encrypt", json!({ "KeyId": key, "Plaintext": text_of })).unwrap();
    let blob = sealed["CiphertextBlob"].clone();
    let grant = json!({ "KeyId": key, "Operations": ["Decrypt"],
        "GranteePrincipal": "arn:aws:iam::000000000000:user/bob" });
    let token = call(&service, caller, "CreateGrant", grant).unwrap()["GrantToken"].clone();
    secrets.push(token.as_str().unwrap().as_bytes().to_vec());
    let with_token = json!({ "CiphertextBlob": blob, "GrantTokens": [token] });
    call(&service, caller, "Decrypt", with_token).unwrap();
    call(&service, caller, "RetireGrant", json!({ "GrantToken": token })).unwrap();
    let with_token = json!({ "CiphertextBlob": blob, "GrantTokens": ["grant-token-secret"] });
    call(&service, caller, "Decrypt", with_token).unwrap_err();
    secrets.push(b"grant-token-secret".to_vec());
    call(&service, caller, "RetireGrant", json!({ "GrantToken": "grant-token-secret" })).unwrap_err();
    call(&service, caller, "ReEncrypt", json!({ "CiphertextBlob": blob, "DestinationKeyId": key })).unwrap();
    for operation in ["GenerateDataKey", "GenerateRandom"] {
        let mut request = json!({ "NumberOfBytes": 32 });
        if operation == "GenerateDataKey" {
            request["KeyId"] = key.clone();
        }
        let made = call(&service, caller, operation, request).unwrap();
        secrets.push(BASE64.decode(made["Plaintext"].as_str().unwrap().as_bytes()).unwrap());
    }
    let made = service.generate_data_key(caller, key.as_str().unwrap(), &EncryptionContext::new()).unwrap();
    secrets.push(made.plaintext.expose().to_vec());
    // Requests that are refused, in every way that a secret could be at a wrong place.
    let passphrase = "correct horse battery 77";
    secrets.push(passphrase.as_bytes().to_vec());
    let encoded = BASE64.encode(passphrase.as_bytes());
    let slot = json!({ "Kind": "Passphrase", "Plaintext": encoded });
    for body in [
        json!({ "Current": slot, "New": slot }),
        json!({ "Current": slot, "New": passphrase }),
        json!({ "Current": passphrase }),
        json!({ "Current": { "Kind": passphrase, "Plaintext": encoded }, "New": slot }),
        json!({ "Current": { "Kind": "Passphrase", "Plaintext": passphrase }, "New": slot }),
    ] {
        wire::dispatch(&service, caller, "Kmsfs.AddUnlockSlot", &body).unwrap_err();
    }
    for body in [
        json!({ "KeyId": key, "Plaintext": passphrase }),
        json!({ "KeyId": key, "Plaintext": [passphrase] }),
        json!({ "KeyId": "alias/none", "Plaintext": encoded }),
        json!({ "KeyId": { "Plaintext": passphrase } }),
    ] {
        call(&service, caller, "Encrypt", body).unwrap_err();
    }
    call(&service, caller, "Decrypt", json!({ "CiphertextBlob": BASE64.encode(b"none"), "KeyId": key }))
        .unwrap_err();
    verify(&service);
    drop(service);
    let text = text(&place);
    assert!(text.lines().count() > 15);
    for secret in secrets {
        let shown =
            [String::from_utf8_lossy(&secret).into_owned(), BASE64.encode(&secret), HEXLOWER.encode(&secret)];
        for shown in shown {
            let line = text.lines().find(|line| line.contains(&shown));
            assert!(line.is_none(), "{line:?}");
        }
    }
}

#[test]
fn whatever_a_crash_leaves_no_change_is_without_its_event() {
    let place = place();
    let seed = std::env::var("KMSFS_CRASH_SEED").map_or(1, |text| text.parse().unwrap());
    let mut random = Dice::new(seed);
    let mut acknowledged = vec![(0, 0)];
    let (mut service, mut keys, mut calls) = (place.create(), Vec::new(), 0);
    acknowledged.push((place.disk.moment(), 0));
    for step in 0..24 {
        let key = keys.get(random.below(keys.len().max(1))).cloned();
        match (random.below(5), key) {
            (0, _) | (_, None) => {
                keys.push(
                    service
                        .create_key(&place.caller, &CreateKeyRequest::default())
                        .unwrap()
                        .key_id
                        .to_string(),
                );
            }
            (1, _) if step % 2 == 0 => {
                drop(service);
                service = place.open(0);
                continue;
            }
            (2, Some(key_id)) => drop(service.disable_key(&place.caller, &KeyRequest { key_id })),
            (3, Some(key_id)) => drop(service.enable_key(&place.caller, &KeyRequest { key_id })),
            (_, Some(key_id)) => drop(service.rotate_key_on_demand(&place.caller, &KeyRequest { key_id })),
        }
        calls += 1;
        acknowledged.push((place.disk.moment(), calls));
    }
    drop(service);
    let mut history = History::of(&place.disk, Tree::default());
    let mut states = 0;
    for moment in acknowledged[1].0..=place.disk.moment() {
        history.advance(moment);
        let choice = random.next();
        for survives in [Survives::Everything, Survives::Nothing, Survives::Some(&mut Dice::new(choice))] {
            let tree = history.crash(survives);
            let calls = acknowledged.iter().rfind(|(at, _)| *at <= moment).unwrap().1;
            check_crash(&place, tree, calls, &format!("seed {seed}, moment {moment}, {choice}"));
            states += 1;
        }
    }
    eprintln!("{states} states");
}

fn check_crash(place: &Place, tree: Tree, calls: usize, which: &str) {
    let after = Place {
        disk: MemoryDisk::new(tree),
        clock: Arc::new(ManualClock::new(Timestamp::now())),
        ..place.clone()
    };
    let service = after.open(0);
    verify(&service);
    let events = events(&after);
    let made: Vec<_> = events.iter().filter(|event| event["eventType"] == "AwsApiCall").collect();
    assert!(made.len() >= calls, "{which}: {} of {calls} events", made.len());
    let ids: std::collections::BTreeSet<_> = made.iter().map(|event| event["eventID"].to_string()).collect();
    assert_eq!(ids.len(), made.len(), "{which}: an event twice");
    // Every version of every key is there because of an event.
    let listed = service.list_keys(&after.caller, &Default::default()).unwrap().keys;
    for key in listed {
        let about = |name: &str| {
            let is = |event: &&&Value| {
                event["eventName"] == name
                    && event["errorCode"].is_null()
                    && event["resources"].to_string().contains(&key.key_arn)
            };
            made.iter().filter(is).count()
        };
        let metadata =
            service.describe_key(&after.caller, &KeyRequest { key_id: key.key_arn.clone() }).unwrap();
        assert_eq!(about("CreateKey"), 1, "{which}");
        assert!(about("RotateKeyOnDemand") + 1 >= metadata.current_key_material_version as usize, "{which}");
        if !metadata.enabled {
            assert!(about("DisableKey") > 0, "{which}");
        }
    }
}

#[test]
fn while_the_log_cannot_be_written_nothing_happens_unless_it_is_to_go_on() {
    let place = place();
    let service = place.create();
    let key = service.create_key(&place.caller, &CreateKeyRequest::default()).unwrap().key_id.to_string();
    place.disk.fail(1, Fault::Enospc);
    // The first call finds out; from then on nothing begins.
    let refusals: Vec<_> = (0..3)
        .map(|_| service.describe_key(&place.caller, &KeyRequest { key_id: key.clone() }).unwrap_err())
        .collect();
    for error in refusals {
        assert_eq!((error.kind(), error.reason()), (ErrorKind::Internal, Some(Reason::NoSpace)), "{error}");
    }
    let generate = || service.generate_data_key(&place.caller, &key, &EncryptionContext::new());
    assert_eq!(generate().unwrap_err().reason(), Some(Reason::NoSpace));
    service.set_audit_mode(Mode::BestEffort);
    generate().unwrap();
    service.describe_key(&place.caller, &KeyRequest { key_id: key.clone() }).unwrap();
    place.disk.heal();
    service.set_audit_mode(Mode::Required);
    drop(service);
    let text = text(&place);
    assert!(text.contains("MissAuditEvents"), "{text}");
    verify(&place.open(0));
}

#[test]
fn what_the_service_does_by_itself_is_logged() {
    let place = place();
    let service = place.create();
    let key = service.create_key(&place.caller, &CreateKeyRequest::default()).unwrap();
    let request = ScheduleKeyDeletionRequest {
        key_id: key.key_id.to_string(),
        pending_window_in_days: Some(7),
        stop_if_unwritten: false,
    };
    service.schedule_key_deletion(&place.caller, &request).unwrap();
    place.clock.advance(SignedDuration::from_hours(24 * 8));
    service.tick();
    drop(service);
    let events = events(&place);
    for (event, name) in events[events.len() - 2..].iter().zip(["DeleteKey", "ScrubDeletedKey"]) {
        assert_eq!((&event["eventName"], &event["eventType"]), (&json!(name), &json!("AwsServiceEvent")));
        assert_eq!(event["resources"][0]["ARN"], key.arn);
    }
}

#[test]
fn old_lines_go_on_verifying_when_the_store_is_opened_again_or_restored() {
    use kmsfs::kms::store_api::BackUpStoreRequest;
    let place = place();
    let service = place.create();
    let key = service.create_key(&place.caller, &CreateKeyRequest::default()).unwrap().key_id.to_string();
    let backup = Path::new("/elsewhere/backup");
    let request = BackUpStoreRequest { path: backup.to_owned(), force: false };
    service.back_up(&place.caller, &request).unwrap();
    service.describe_key(&place.caller, &KeyRequest { key_id: key.clone() }).unwrap();
    drop(service);
    for _ in 0..3 {
        let service = place.open(0);
        service.describe_key(&place.caller, &KeyRequest { key_id: key.clone() }).unwrap();
        verify(&service);
    }
    // The log is beside the store, not in the backup: it is the same one afterwards.
    let before = events(&place).len();
    let secret = memory_disk::place::secret(0);
    kmsfs::kms::restore(&place.disk, backup, place.dir(), &secret, true).unwrap();
    let service = place.open(0);
    service.describe_key(&place.caller, &KeyRequest { key_id: key }).unwrap();
    verify(&service);
    assert_eq!(events(&place).len(), before + 1);
}
