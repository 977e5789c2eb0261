//! What keys of an external key store encrypt: only both halves together open it, whole and in its context.

use data_encoding::BASE64;
use kmsfs::kms::api::{
    DecryptRequest, EncryptRequest, GenerateDataKeyPairRequest, GenerateDataKeyRequest, KeyRequest,
    ReEncryptRequest, SecretBytes,
};
use kmsfs::kms::{EncryptionContext, ErrorKind, KeyMetadata};

use super::xks_proxy::{Mood, PATH};
use super::{World, context, named};

/// Bytes of a blob before what the proxy made.
const HEADER_LEN: usize = 38;

#[test]
fn what_is_encrypted_is_decrypted_after_a_restart_too() {
    let (mut world, _, key) = World::with_key();
    let sizes = [1, 16, 4096];
    let made: Vec<_> = sizes.map(|len| world.encrypt(&key, &vec![7; len]).unwrap()).into();
    let data_key = world.service().generate_data_key(&world.caller, &key.arn, &context()).unwrap();
    assert_eq!((&data_key.key_arn, data_key.key_version), (&key.arn, 1));
    world.reopen();
    for (blob, len) in made.iter().zip(sizes) {
        let opened = world.decrypt(blob).unwrap();
        assert_eq!(&*opened.plaintext, vec![7; len]);
        assert_eq!(opened.key_id, key.arn);
        assert_eq!(blob.len(), HEADER_LEN + 2 + 13 + 12 + 16 + len + 28);
    }
    let opened = world.service().decrypt_data_key(&world.caller, &data_key.blob, &context()).unwrap();
    assert_eq!(opened.plaintext, data_key.plaintext);
}

#[test]
fn the_proxy_is_told_who_and_why_and_sees_no_plaintext() {
    let (world, _, key) = World::with_key();
    let plaintext = b"a plaintext that nobody else is to see";
    let blob = world.encrypt(&key, plaintext).unwrap();
    world.decrypt(&blob).unwrap();
    let seen = world.proxy.seen();
    let of = |end: &str| seen.iter().rev().find(|seen| seen.path.ends_with(end)).unwrap();
    let encrypted = of("/keys/one/encrypt");
    assert!(encrypted.path.starts_with(PATH));
    let about = &encrypted.body["requestMetadata"];
    assert_eq!(about["awsPrincipalArn"], "arn:aws:iam::000000000000:root");
    assert_eq!(about["kmsKeyArn"], key.arn.as_str());
    assert_eq!(about["kmsOperation"], "Encrypt");
    assert_eq!(about["kmsRequestId"].as_str().unwrap().len(), 36);
    assert_eq!(of("/keys/one/decrypt").body["requestMetadata"]["kmsOperation"], "Decrypt");
    assert_eq!(of("/keys/one/metadata").body["requestMetadata"]["kmsOperation"], "CreateKey");
    assert_eq!(of("/health").body["requestMetadata"]["kmsOperation"], "ConnectCustomKeyStore");
    let shown = BASE64.decode(encrypted.body["plaintext"].as_str().unwrap().as_bytes()).unwrap();
    assert_eq!(shown.len(), plaintext.len() + 28);
    for seen in &seen {
        let text = seen.body.to_string();
        assert!(!text.contains("kmsfs:volume"), "the context is the caller's own: {text}");
        for (_, member) in seen.body.as_object().unwrap() {
            let bytes = BASE64.decode(member.as_str().unwrap_or_default().as_bytes()).unwrap_or_default();
            assert!(!bytes.windows(12).any(|part| part == &plaintext[..12]));
        }
    }
}

#[test]
fn every_changed_byte_is_found_out_by_one_half_or_the_other() {
    let (world, _, key) = World::with_key();
    let blob = world.encrypt(&key, b"secret").unwrap();
    for at in 0..blob.len() {
        let mut damaged = blob.clone();
        damaged[at] ^= 1;
        let error = world.decrypt(&damaged).unwrap_err();
        let kinds: &[ErrorKind] = match at {
            1..17 => &[ErrorKind::IncorrectKey],
            17..33 => &[ErrorKind::NotFound],
            0 | 33..HEADER_LEN => &[ErrorKind::InvalidCiphertext],
            // What says how long the proxy's parts are may make it no blob at all.
            38 | 39 => &[ErrorKind::InvalidCiphertext, ErrorKind::InvalidState],
            _ => &[ErrorKind::InvalidState],
        };
        assert!(kinds.contains(&error.kind()), "byte {at}: {error}");
        // It is the ciphertext's fault, not that of a key which cannot be reached.
        assert_eq!(error.key_state(), None, "byte {at}: {error}");
    }
    for len in 0..blob.len() {
        assert!(world.decrypt(&blob[..len]).is_err(), "{len} bytes");
    }
    assert!(world.decrypt(&blob).is_ok());
}

#[test]
fn a_proxy_that_forges_is_found_out_by_the_inner_half() {
    let (world, store, key) = World::with_key();
    let blob = world.encrypt(&key, b"secret").unwrap();
    world.proxy.feel(Mood::DecryptsOther);
    assert_eq!(world.decrypt(&blob).unwrap_err().kind(), ErrorKind::InvalidCiphertext);
    world.proxy.feel(Mood::Lies(serde_json::json!({ "plaintext": BASE64.encode(&[0; 34]) })));
    assert_eq!(world.decrypt(&blob).unwrap_err().kind(), ErrorKind::InvalidCiphertext);
    // What it made of something else opens to nothing.
    world.proxy.feel(Mood::EncryptsOther);
    let forged = world.encrypt(&key, b"secret").unwrap();
    world.proxy.feel(Mood::Well);
    assert_eq!(world.decrypt(&forged).unwrap_err().kind(), ErrorKind::InvalidCiphertext);

    // One key's ciphertext under another key's name: neither half takes it.
    let other = world.key(&store, "two").unwrap();
    let mut renamed = blob.clone();
    renamed[17..33].copy_from_slice(&world.encrypt(&other, b"x").unwrap()[17..33]);
    assert_eq!(world.decrypt(&renamed).unwrap_err().kind(), ErrorKind::InvalidState);
    assert!(world.decrypt(&blob).is_ok());
}

#[test]
fn a_context_binds() {
    let (world, _, key) = World::with_key();
    let blob = world.encrypt(&key, b"secret").unwrap();
    for context in [
        EncryptionContext::new(),
        context().with("more", "x"),
        EncryptionContext::new().with("kmsfs:volume", "v").with("kmsfs:file", "g"),
    ] {
        let request = DecryptRequest {
            ciphertext_blob: blob.clone(),
            encryption_context: context,
            ..Default::default()
        };
        let error = world.service().decrypt(&world.caller, &request).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidState, "{error}");
    }
    // Longer than what a proxy takes.
    let long = EncryptionContext::new().with("long", "x".repeat(20_000));
    let request = EncryptRequest {
        key_id: key.arn,
        plaintext: SecretBytes::new(b"secret".to_vec()),
        encryption_context: long.clone(),
        ..Default::default()
    };
    let blob = world.service().encrypt(&world.caller, &request).unwrap().ciphertext_blob;
    let request = DecryptRequest { ciphertext_blob: blob, encryption_context: long, ..Default::default() };
    assert_eq!(&*world.service().decrypt(&world.caller, &request).unwrap().plaintext, b"secret");
}

#[test]
fn a_ciphertext_moves_between_keys_of_all_kinds() {
    let (world, store, near) = World::with_key();
    let (far, plain) = (world.key(&store, "two").unwrap(), world.plain_key());
    for (from, to) in [(&near, &far), (&near, &plain), (&plain, &near), (&near, &near)] {
        let moved = world.service().re_encrypt(&world.caller, &moving(&world, from, to)).unwrap();
        assert_eq!((&moved.source_key_id, &moved.key_id), (&from.arn, &to.arn));
        let opened = world.decrypt(&moved.ciphertext_blob).unwrap();
        assert_eq!((&*opened.plaintext, &opened.key_id), (&b"secret"[..], &to.arn));
        let dry = ReEncryptRequest { dry_run: true, ..moving(&world, from, to) };
        let error = world.service().re_encrypt(&world.caller, &dry).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DryRun);
    }
}

fn moving(world: &World, from: &KeyMetadata, to: &KeyMetadata) -> ReEncryptRequest {
    ReEncryptRequest {
        ciphertext_blob: world.encrypt(from, b"secret").unwrap(),
        source_encryption_context: context(),
        destination_key_id: to.arn.clone(),
        destination_encryption_context: context(),
        ..ReEncryptRequest::default()
    }
}

#[test]
fn data_keys_of_any_length_and_no_pairs() {
    let (world, _, key) = World::with_key();
    let request = |dry_run| GenerateDataKeyRequest {
        key_id: key.arn.clone(),
        number_of_bytes: Some(1024),
        encryption_context: context(),
        dry_run,
        ..GenerateDataKeyRequest::default()
    };
    let made = world.service().generate_data_key_bytes(&world.caller, &request(false)).unwrap();
    assert_eq!(*world.decrypt(&made.ciphertext_blob).unwrap().plaintext, *made.plaintext.unwrap());
    let made = world.service().generate_data_key_without_plaintext(&world.caller, &request(false)).unwrap();
    assert_eq!(world.decrypt(&made.ciphertext_blob).unwrap().plaintext.len(), 1024);
    let dry = world.service().generate_data_key_bytes(&world.caller, &request(true)).unwrap_err();
    assert_eq!(dry.kind(), ErrorKind::DryRun);
    world.proxy.feel(Mood::Refuses(403, "AccessDeniedException"));
    let dry = world.service().generate_data_key_bytes(&world.caller, &request(true)).unwrap_err();
    assert_eq!(dry.kind(), ErrorKind::InvalidState, "it would not have worked");
    world.proxy.feel(Mood::Well);
    let pair = GenerateDataKeyPairRequest {
        key_id: key.arn.clone(),
        key_pair_spec: "ECC_NIST_P256".to_owned(),
        encryption_context: context(),
        ..Default::default()
    };
    let refused = world.service().generate_data_key_pair(&world.caller, &pair).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::UnsupportedOperation);
    let rotated =
        world.service().rotate_key_on_demand(&world.caller, &KeyRequest { key_id: key.arn.clone() });
    assert_eq!(rotated.unwrap_err().kind(), ErrorKind::UnsupportedOperation);
}

#[test]
fn losing_the_other_half_loses_everything() {
    let (world, _, key) = World::with_key();
    let blob = world.encrypt(&key, b"secret").unwrap();
    world.proxy.lose_key("one");
    assert_eq!(world.decrypt(&blob).unwrap_err().kind(), ErrorKind::InvalidState);
    // Another key of the same name is another key.
    world.proxy.key("one", |_| {});
    assert_eq!(world.decrypt(&blob).unwrap_err().kind(), ErrorKind::InvalidState);
    assert_eq!(world.service().describe_key(&world.caller, &named(&key)).unwrap().key_id, key.key_id);
}
