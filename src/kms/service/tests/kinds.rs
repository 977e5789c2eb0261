//! Keys of every kind, through the service as its callers see it.

use serde_json::{Value, json};

use super::*;
use crate::kms::spec::{KeySpec, KeyUsage, Origin};
use crate::kms::state::KeyState;
use crate::kms::wire::dispatch;

impl World {
    fn ask(&self, operation: &str, body: &Value) -> Result<Value, KmsError> {
        dispatch(self.service(), &self.caller, &format!("TrentService.{operation}"), body)
    }

    pub(super) fn key_of(&self, spec: &str, usage: &str) -> KeyMetadata {
        let request = CreateKeyRequest {
            key_spec: Some(spec.to_owned()),
            key_usage: Some(usage.to_owned()),
            ..CreateKeyRequest::default()
        };
        self.service().create_key(&self.caller, &request).unwrap()
    }
}

fn kind(error: Result<Value, KmsError>) -> ErrorKind {
    error.unwrap_err().kind()
}

#[test]
fn describing_a_key_names_the_algorithms_of_its_use_and_no_others() {
    let world = World::new();
    for (spec, usage, member, algorithms) in [
        ("SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT", "EncryptionAlgorithms", json!(["SYMMETRIC_DEFAULT"])),
        (
            "RSA_2048",
            "ENCRYPT_DECRYPT",
            "EncryptionAlgorithms",
            json!(["RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256"]),
        ),
        (
            "RSA_2048",
            "SIGN_VERIFY",
            "SigningAlgorithms",
            json!([
                "RSASSA_PKCS1_V1_5_SHA_256",
                "RSASSA_PKCS1_V1_5_SHA_384",
                "RSASSA_PKCS1_V1_5_SHA_512",
                "RSASSA_PSS_SHA_256",
                "RSASSA_PSS_SHA_384",
                "RSASSA_PSS_SHA_512"
            ]),
        ),
        ("ECC_NIST_P521", "SIGN_VERIFY", "SigningAlgorithms", json!(["ECDSA_SHA_512"])),
        ("ML_DSA_65", "SIGN_VERIFY", "SigningAlgorithms", json!(["ML_DSA_SHAKE_256"])),
        ("HMAC_384", "GENERATE_VERIFY_MAC", "MacAlgorithms", json!(["HMAC_SHA_384"])),
    ] {
        let key = world.key_of(spec, usage);
        let described = world.ask("DescribeKey", &json!({ "KeyId": key.key_id })).unwrap();
        let metadata = &described["KeyMetadata"];
        assert_eq!(metadata["KeySpec"], spec);
        assert_eq!(metadata["CustomerMasterKeySpec"], spec);
        assert_eq!(metadata["KeyUsage"], usage);
        for known in ["EncryptionAlgorithms", "SigningAlgorithms", "MacAlgorithms"] {
            let expected = if known == member { algorithms.clone() } else { Value::Null };
            assert_eq!(metadata[known], expected, "{spec} {usage} {known}");
        }
        let symmetric = spec == "SYMMETRIC_DEFAULT";
        assert_eq!(metadata["CurrentKeyMaterialId"].is_string(), symmetric, "{spec}");
        assert!(metadata.get("ExpirationModel").is_none());
    }
}

#[test]
fn kinds_that_do_not_fit_together_are_refused() {
    use ErrorKind::{UnsupportedOperation, Validation};
    let world = World::new();
    for (body, expected) in [
        (json!({ "KeySpec": "RSA_1024", "KeyUsage": "SIGN_VERIFY" }), Validation),
        (json!({ "KeySpec": "RSA_2048" }), Validation),
        (json!({ "KeySpec": "RSA_2048", "KeyUsage": "GENERATE_VERIFY_MAC" }), Validation),
        (json!({ "KeySpec": "HMAC_256", "KeyUsage": "ENCRYPT_DECRYPT" }), Validation),
        (json!({ "KeySpec": "ECC_NIST_P256", "KeyUsage": "ENCRYPT_DECRYPT" }), Validation),
        (json!({ "KeyUsage": "SIGN_VERIFY" }), Validation),
        (
            json!({ "KeySpec": "RSA_2048", "CustomerMasterKeySpec": "RSA_4096", "KeyUsage": "SIGN_VERIFY" }),
            Validation,
        ),
        (json!({ "Origin": "ELSEWHERE" }), Validation),
        (json!({ "KeySpec": "SM2", "KeyUsage": "SIGN_VERIFY" }), UnsupportedOperation),
        (json!({ "KeySpec": "ECC_NIST_P256", "KeyUsage": "KEY_AGREEMENT" }), UnsupportedOperation),
        (json!({ "Origin": "AWS_CLOUDHSM" }), UnsupportedOperation),
        (json!({ "Origin": "EXTERNAL_KEY_STORE" }), Validation),
        (json!({ "MultiRegion": true }), UnsupportedOperation),
    ] {
        assert_eq!(kind(world.ask("CreateKey", &body)), expected, "{body}");
    }
    let listed = world.ask("ListKeys", &json!({})).unwrap();
    assert_eq!(listed["Keys"], json!([]));
}

#[test]
fn signatures_and_macs_survive_a_restart_and_nobody_elses_pass() {
    let mut world = World::new();
    let signer = world.key_of("ECC_SECG_P256K1", "SIGN_VERIFY");
    let mac = world.key_of("HMAC_256", "GENERATE_VERIFY_MAC");
    let sign = json!({ "KeyId": signer.key_id, "Message": "aGk=", "SigningAlgorithm": "ECDSA_SHA_256" });
    let signed = world.ask("Sign", &sign).unwrap();
    let authenticate = json!({ "KeyId": mac.key_id, "Message": "aGk=", "MacAlgorithm": "HMAC_SHA_256" });
    let authenticated = world.ask("GenerateMac", &authenticate).unwrap();
    let public = world.ask("GetPublicKey", &json!({ "KeyId": signer.key_id })).unwrap();
    assert_eq!(public["SigningAlgorithms"], json!(["ECDSA_SHA_256"]));
    world.reopen();
    assert_eq!(world.ask("GetPublicKey", &json!({ "KeyId": signer.key_id })).unwrap(), public);

    let mut verify = sign;
    verify["Signature"] = signed["Signature"].clone();
    assert_eq!(world.ask("Verify", &verify).unwrap()["SignatureValid"], true);
    verify["Message"] = json!("aGo=");
    assert_eq!(kind(world.ask("Verify", &verify)), ErrorKind::InvalidSignature);
    let mut verify = authenticate;
    verify["Mac"] = authenticated["Mac"].clone();
    assert_eq!(world.ask("VerifyMac", &verify).unwrap()["MacValid"], true);
    verify["Message"] = json!("aGo=");
    assert_eq!(kind(world.ask("VerifyMac", &verify)), ErrorKind::InvalidMac);
}

/// A use of a key: the operation, the rest of its request, and the uses that allow it.
fn uses(symmetric_blob: &Value) -> Vec<(&'static str, Value, KeyUsage)> {
    use KeyUsage::{EncryptDecrypt, GenerateVerifyMac, SignVerify};
    let signing = json!({ "Message": "aGk=", "SigningAlgorithm": "ECDSA_SHA_256" });
    let verifying = json!({ "Message": "aGk=", "SigningAlgorithm": "ECDSA_SHA_256", "Signature": "aGk=" });
    vec![
        ("Encrypt", json!({ "Plaintext": "aGk=" }), EncryptDecrypt),
        ("Decrypt", json!({ "CiphertextBlob": symmetric_blob }), EncryptDecrypt),
        ("GenerateDataKey", json!({ "KeySpec": "AES_256" }), EncryptDecrypt),
        ("GenerateDataKeyWithoutPlaintext", json!({ "KeySpec": "AES_256" }), EncryptDecrypt),
        ("GenerateDataKeyPair", json!({ "KeyPairSpec": "ECC_NIST_P256" }), EncryptDecrypt),
        ("GenerateDataKeyPairWithoutPlaintext", json!({ "KeyPairSpec": "ECC_NIST_P256" }), EncryptDecrypt),
        ("Sign", signing, SignVerify),
        ("Verify", verifying, SignVerify),
        ("GenerateMac", json!({ "Message": "aGk=", "MacAlgorithm": "HMAC_SHA_256" }), GenerateVerifyMac),
        (
            "VerifyMac",
            json!({ "Message": "aGk=", "MacAlgorithm": "HMAC_SHA_256", "Mac": "aGk=" }),
            GenerateVerifyMac,
        ),
    ]
}

#[test]
fn every_use_of_every_kind_answers_in_every_state_as_documented() {
    let world = World::new();
    let blob_of = |key: &KeyMetadata| {
        world.ask("Encrypt", &json!({ "KeyId": key.key_id, "Plaintext": "aGk=" })).unwrap()["CiphertextBlob"]
            .clone()
    };
    let symmetric = world.key();
    let keys = [
        symmetric.clone(),
        world.key_of("ECC_NIST_P256", "SIGN_VERIFY"),
        world.key_of("HMAC_256", "GENERATE_VERIFY_MAC"),
    ];
    let blob = blob_of(&symmetric);
    for key in &keys {
        for state in KeyState::ALL {
            world.force(key, state);
            for (operation, mut body, usage) in uses(&blob) {
                body["KeyId"] = json!(key.key_id);
                let answer = world.ask(operation, &body);
                let case = format!("{operation} with a {} that is {state}", key.key_spec);
                if operation == "Decrypt" && key.key_usage != usage {
                    // The blob names its own key, which is another one.
                    assert_eq!(kind(answer), ErrorKind::IncorrectKey, "{case}");
                    continue;
                }
                let expected = match state {
                    KeyState::Disabled => Some(ErrorKind::Disabled),
                    KeyState::Enabled if key.key_usage != usage => Some(ErrorKind::InvalidKeyUsage),
                    KeyState::Enabled if operation == "Verify" => Some(ErrorKind::InvalidSignature),
                    KeyState::Enabled if operation == "VerifyMac" => Some(ErrorKind::InvalidMac),
                    KeyState::Enabled => None,
                    _ => Some(ErrorKind::InvalidState),
                };
                assert_eq!(answer.err().map(|error| error.kind()), expected, "{case}");
            }
            let public = world.ask("GetPublicKey", &json!({ "KeyId": key.key_id }));
            let expected = match state {
                KeyState::Disabled => Some(ErrorKind::Disabled),
                KeyState::Enabled => {
                    (!key.key_spec.is_asymmetric()).then_some(ErrorKind::UnsupportedOperation)
                }
                _ => Some(ErrorKind::InvalidState),
            };
            assert_eq!(public.err().map(|error| error.kind()), expected, "{} {state}", key.key_spec);
        }
    }
}

#[test]
fn a_dry_run_answers_that_it_would_have_worked() {
    let world = World::new();
    let (symmetric, signer, mac) = (
        world.key(),
        world.key_of("ECC_NIST_P256", "SIGN_VERIFY"),
        world.key_of("HMAC_256", "GENERATE_VERIFY_MAC"),
    );
    for (operation, mut body, usage) in uses(&Value::Null) {
        let key = match usage {
            KeyUsage::EncryptDecrypt => &symmetric,
            KeyUsage::SignVerify => &signer,
            KeyUsage::GenerateVerifyMac => &mac,
        };
        body["KeyId"] = json!(key.key_id);
        // Such that it works.
        let made = match operation {
            "Decrypt" => world.ask("Encrypt", &json!({ "KeyId": key.key_id, "Plaintext": "aGk=" })),
            "Verify" => world.ask("Sign", &body),
            "VerifyMac" => world.ask("GenerateMac", &body),
            _ => Ok(Value::Null),
        };
        let made = made.unwrap();
        for member in ["CiphertextBlob", "Signature", "Mac"] {
            if let Some(value) = made.get(member) {
                body[member] = value.clone();
            }
        }
        world.ask(operation, &body).unwrap_or_else(|error| panic!("{operation}: {error}"));
        body["DryRun"] = json!(true);
        assert_eq!(kind(world.ask(operation, &body)), ErrorKind::DryRun, "{operation}");
    }
}

#[test]
fn rsa_ciphertexts_are_opened_and_reencrypted_by_name() {
    let world = World::new();
    let (rsa, symmetric) = (world.key_of("RSA_2048", "ENCRYPT_DECRYPT"), world.key());
    let algorithm = "RSAES_OAEP_SHA_256";
    let encrypt = json!({ "KeyId": rsa.key_id, "Plaintext": "aGk=", "EncryptionAlgorithm": algorithm });
    let made = world.ask("Encrypt", &encrypt).unwrap();
    assert_eq!(made["EncryptionAlgorithm"], algorithm);
    let blob = &made["CiphertextBlob"];
    let mut decrypt = json!({ "CiphertextBlob": blob, "EncryptionAlgorithm": algorithm });
    assert_eq!(kind(world.ask("Decrypt", &decrypt)), ErrorKind::Validation, "without a KeyId");
    decrypt["KeyId"] = json!(rsa.key_id);
    let opened = world.ask("Decrypt", &decrypt).unwrap();
    assert_eq!((&opened["Plaintext"], &opened["EncryptionAlgorithm"]), (&json!("aGk="), &json!(algorithm)));
    assert!(opened.get("KeyMaterialId").is_none());
    decrypt["EncryptionContext"] = json!({ "a": "b" });
    assert_eq!(kind(world.ask("Decrypt", &decrypt)), ErrorKind::Validation, "with a context");

    let over = json!({
        "CiphertextBlob": blob, "SourceKeyId": rsa.key_id, "SourceEncryptionAlgorithm": algorithm,
        "DestinationKeyId": symmetric.key_id, "DestinationEncryptionContext": { "a": "b" },
    });
    let moved = world.ask("ReEncrypt", &over).unwrap();
    let decrypt = json!({ "CiphertextBlob": moved["CiphertextBlob"], "EncryptionContext": { "a": "b" } });
    assert_eq!(world.ask("Decrypt", &decrypt).unwrap()["Plaintext"], "aGk=");
    let back = json!({
        "CiphertextBlob": moved["CiphertextBlob"], "SourceEncryptionContext": { "a": "b" },
        "DestinationKeyId": rsa.key_id, "DestinationEncryptionAlgorithm": algorithm,
    });
    let back = world.ask("ReEncrypt", &back).unwrap();
    assert_eq!(back["DestinationEncryptionAlgorithm"], algorithm);
    let wrong = json!({ "KeyId": rsa.key_id, "Plaintext": "aGk=" });
    assert_eq!(kind(world.ask("Encrypt", &wrong)), ErrorKind::InvalidKeyUsage);
}

#[test]
fn a_data_key_pair_opens_in_its_context_and_matches_its_public_half() {
    let world = World::new();
    let key = world.key();
    for spec in KeySpec::ALL.iter().filter(|spec| spec.is_of_data_key_pairs()) {
        let body = json!({ "KeyId": key.key_id, "KeyPairSpec": spec, "EncryptionContext": { "a": "b" } });
        let made = world.ask("GenerateDataKeyPair", &body).unwrap();
        let wrapped = json!({ "CiphertextBlob": made["PrivateKeyCiphertextBlob"] });
        assert_eq!(kind(world.ask("Decrypt", &wrapped)), ErrorKind::InvalidCiphertext, "{spec}");
        let wrapped =
            json!({ "CiphertextBlob": made["PrivateKeyCiphertextBlob"], "EncryptionContext": { "a": "b" } });
        let opened = world.ask("Decrypt", &wrapped).unwrap();
        assert_eq!(opened["Plaintext"], made["PrivateKeyPlaintext"], "{spec}");
        let private = data_encoding::BASE64.decode(opened["Plaintext"].as_str().unwrap().as_bytes()).unwrap();
        let (_, public) = crate::kms::material::Parsed::canonical(*spec, &private).unwrap();
        assert_eq!(made["PublicKey"], data_encoding::BASE64.encode(&public), "{spec}");
        let sealed_alone = world.ask("GenerateDataKeyPairWithoutPlaintext", &body).unwrap();
        assert!(sealed_alone.get("PrivateKeyPlaintext").is_none());
        if spec.name().starts_with("RSA") {
            break;
        }
    }
    for (spec, expected) in [
        ("SM2", ErrorKind::UnsupportedOperation),
        ("ML_DSA_44", ErrorKind::Validation),
        ("SYMMETRIC_DEFAULT", ErrorKind::Validation),
        ("HMAC_256", ErrorKind::Validation),
    ] {
        let body = json!({ "KeyId": key.key_id, "KeyPairSpec": spec });
        assert_eq!(kind(world.ask("GenerateDataKeyPair", &body)), expected, "{spec}");
    }
}

#[test]
fn keys_that_wait_for_their_material_say_so() {
    let world = World::new();
    let request = CreateKeyRequest { origin: Some("EXTERNAL".to_owned()), ..CreateKeyRequest::default() };
    let key = world.service().create_key(&world.caller, &request).unwrap();
    assert_eq!((key.origin, key.key_state), (Origin::External, KeyState::PendingImport));
    assert_eq!((key.enabled, key.current_key_material_version), (false, 0));
    let body = json!({ "KeyId": key.key_id, "KeySpec": "AES_256" });
    assert_eq!(kind(world.ask("GenerateDataKey", &body)), ErrorKind::InvalidState);
}
