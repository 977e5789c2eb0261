//! Makes the seeds: genuine inputs of every parser.

use std::path::Path;

use data_encoding::BASE64;
use kmsfs::format::Id;
use kmsfs::format::head::{Head, Kind};
use kmsfs::format::layout::MapPage;
use kmsfs::format::page::Page;
use kmsfs::format::slot::Wrapped;
use kmsfs::format::state::{DirectoryState, FileState, VolumeState};
use kmsfs::format::unit::seal_map;
use kmsfs::kms::EncryptionContext;
use kmsfs::kms::wire::{self, Event, EventReply, Reply, Request};
use kmsfs::names::{self, target};
use kmsfs::provider::Provider;
use serde_json::json;

use super::targets::key;
use super::world::world;

/// Run it when a format changes: `cargo test --test parsers -- --ignored`.
#[test]
#[ignore = "writes fuzz/corpus"]
fn write_seeds() {
    pages();
    texts();
    policies();
    kept_in_stores();
    messages();
}

fn put(target: &str, name: &str, bytes: impl AsRef<[u8]>) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join(name), bytes).unwrap();
}

fn pages() {
    let arn = "arn:aws:kms:local:000000000000:key/04eb2118-6bc5-4196-b96d-fb7f8999317b".to_owned();
    let mut file = FileState::new(7);
    (file.size, file.min_size, file.settled_epoch) = (40_000, 4_064, 6);
    file.floors[..9].fill(6);
    let volume = VolumeState {
        epochs_reserved: 257,
        clean: true,
        all_settled: true,
        unclean_since: -1,
        default_key: arn.clone(),
    };
    let directory = DirectoryState { assigned_key: arn.clone() };
    let states = [
        ("file", Kind::File, file.encode()),
        ("volume", Kind::Volume, volume.encode().unwrap()),
        ("directory", Kind::Directory, directory.encode().unwrap()),
    ];
    for (name, kind, state) in states {
        put("state", name, state);
        let head = Head::new(kind, Id([1; 16]), Id([2; 16]), Id([3; 16]));
        let wrapped = Wrapped { key_arn: arn.clone(), key_version: 2, blob: vec![9; 98] };
        put("page", name, Page::build(&head, 3, &wrapped, &[6; 32], None, &state, &key()).unwrap());
    }
    let page = MapPage { level: 1, index: 0 };
    put("map", "sealed", seal_map(&key(), page, 5, &[4; 1_016]).unwrap());
    put("map", "hole", [0; 64]);
}

fn texts() {
    let long = [b'n'; 161];
    for name in [&b"a"[..], b"caf\xe9 \xff", &long[..160], &long] {
        let sealed = names::seal(&key(), name);
        let mut stored = sealed.name.into_bytes();
        stored.extend(sealed.sidecar.unwrap_or_default());
        put("name", &format!("{}", name.len()), stored);
    }
    put("name", "reserved", "kmsfs.volume");
    let sealed = target::seal(&key(), b"../elsewhere").unwrap();
    put("link", "sealed", target::Link::Sealed(sealed.clone()).text());
    put("link", "raw", sealed);
    put("link", "stored", "kmsfs.target.00112233445566778899aabbccddeeff");
    for (name, options) in [
        (
            "many",
            "ro,noexec,rw,threads=3,exec,allow_other,default_permissions,low_latency,x-systemd.automount,nofail,comment=a b",
        ),
        ("lists", "ro\nthreads=64,nosuid\nremount"),
        ("bad", "threads=0,frob,=,threads=99999999999999999999"),
    ] {
        put("options", name, options);
    }
}

fn policies() {
    for (name, policy) in [
        (
            "default",
            r#"{"Version": "2012-10-17", "Id": "key-default-1", "Statement": [{"Sid": "Enable IAM User Permissions", "Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::000000000000:root"}, "Action": "kms:*", "Resource": "*"}]}"#,
        ),
        (
            "conditions",
            r#"{"Statement": [{"Effect": "Deny", "NotPrincipal": {"AWS": ["000000000000", "arn:aws:iam::000000000000:group/staff"], "Service": "a.b"}, "NotAction": ["kms:De*", "kms:?ign"], "NotResource": "arn:aws:kms:*:*:alias/*", "Condition": {"ForAnyValue:StringLikeIfExists": {"kms:EncryptionContextKeys": ["p*y", "?"]}, "NumericLessThan": {"kms:RotationPeriodInDays": 8.5}, "DateGreaterThan": {"aws:CurrentTime": "2024-06-01"}, "IpAddress": {"aws:SourceIp": "2001:db8::/32"}, "ArnLike": {"aws:PrincipalArn": "arn:*:*:*:*:*"}, "BinaryEquals": {"kms:KeySpec": "cGF5"}, "Null": {"kms:ViaService": true}}}, {"Effect": "Allow", "Principal": "*", "Action": "*", "Resource": "*"}]}"#,
        ),
        (
            "variables",
            r#"{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Principal": "*", "Action": "kms:Decrypt", "Resource": ["arn:aws:kms:*:${aws:PrincipalAccount}:key/*"], "Condition": {"StringLike": {"kms:EncryptionContext:owner": "${aws:username, 'nobody'}/${*}*"}}}}"#,
        ),
        (
            "malformed",
            r#"{"Statement": {"Sid": "a", "Sid": "b", "Effect": "allow", "Action": [], "Condition": {"StringEqual": {"": {}}}}}"#,
        ),
    ] {
        put("policy", name, policy);
    }
}

fn kept_in_stores() {
    let world = world();
    let mut value = vec![0; 4_096];
    let len = rustix::fs::getxattr(&world.backing, &world.attribute, &mut value).unwrap();
    put("xattr", "sealed", &value[..len]);
    put("xattr", "lengths", [0xff, 0xff, 0, 0]);
    let arn = world.service.list_keys(&kmsfs::kms::Caller::current(), &Default::default()).unwrap();
    let context = EncryptionContext::new().with("a", "b");
    let made = world.provider.generate_data_key(&arn.keys[0].key_arn, &context).unwrap();
    put("blob", "data-key", &made.blob);
    put("blob", "head", &made.blob[..50]);
    // Offsets of the header, of a page's head, and far behind.
    for (name, at) in [("magic", 0_u32), ("layout", 9), ("commit", 64), ("page", 4_096), ("far", 70_000)] {
        let mut damage = at.to_le_bytes().to_vec();
        damage.push(0xff);
        put("store", name, damage);
    }
    let mut slot = vec![2];
    slot.extend([8; 16 + 60]);
    put("slot", "key-file", &slot);
    slot[0] = 3;
    put("slot", "unknown", slot);
    put("receipt", "genuine", include_bytes!("../data/deletion-receipt.json"));
    put("receipt", "public-key", "6kpsY+KcUgq+9VB7Ey7F+ZVHdq6+vnuSQh7qaRRG0iw=");
}

fn messages() {
    let key_id = "04eb2118-6bc5-4196-b96d-fb7f8999317b";
    let framed = |name: &str, message: &dyn erased::Frame| put("frame", name, message.frame());
    let request = Request {
        target: "TrentService.DescribeKey".to_owned(),
        body: json!({ "KeyId": key_id }),
        on_behalf: None,
    };
    framed("request", &request);
    framed("reply", &Reply { status: 200, body: json!({ "KeyId": key_id }) });
    framed("event", &Event::Drain { id: 1, key_id: key_id.parse().unwrap(), budget_ms: 5, keep: true });
    framed("event-reply", &EventReply { id: 1, ..EventReply::default() });
    put("frame", "too-long", [0xff; 8]);
    let blob = BASE64.encode(&[1; 98]);
    let bodies = [
        ("CreateKey", json!({ "Description": "d", "KeySpec": "SYMMETRIC_DEFAULT", "Tags": [] })),
        ("DescribeKey", json!({ "KeyId": format!("alias/{key_id}") })),
        ("ListKeys", json!({ "Limit": 3, "Marker": "m" })),
        ("ScheduleKeyDeletion", json!({ "KeyId": key_id, "PendingWindowInDays": 7 })),
        ("ListKeyRotations", json!({ "KeyId": key_id, "IncludeKeyMaterial": "ALL_KEY_MATERIAL" })),
        ("CreateAlias", json!({ "AliasName": "alias/a", "TargetKeyId": key_id })),
        (
            "GenerateDataKey",
            json!({ "KeyId": key_id, "NumberOfBytes": 64, "EncryptionContext": { "a": "b" } }),
        ),
        ("Encrypt", json!({ "KeyId": key_id, "Plaintext": blob })),
        ("Decrypt", json!({ "CiphertextBlob": blob, "EncryptionContext": { "a": "b" } })),
        ("ReEncrypt", json!({ "CiphertextBlob": blob, "DestinationKeyId": key_id })),
        ("GenerateRandom", json!({ "NumberOfBytes": 16 })),
    ];
    for (operation, body) in bodies {
        put("request", operation, format!("{}{operation}\n{body}", wire::TRENT));
    }
    put("request", "status", format!("{}\n{{}}", wire::STATUS));
    let answers = [
        (
            "data-key",
            json!({ "CiphertextBlob": blob, "Plaintext": blob, "KeyId": key_id, "KeyMaterialVersion": 1 }),
        ),
        ("error", json!({ "__type": "DisabledException", "message": "no" })),
        ("foreign-error", json!({ "__type": "x#Y", "Message": 3 })),
    ];
    for (name, answer) in answers {
        put("answer", name, answer.to_string());
    }
}

/// Frames of messages of several types.
mod erased {
    pub(super) trait Frame {
        fn frame(&self) -> Vec<u8>;
    }

    impl<T: serde::Serialize> Frame for T {
        fn frame(&self) -> Vec<u8> {
            let mut frame = Vec::new();
            super::wire::write_frame(&mut frame, self).unwrap();
            frame
        }
    }
}
