//! What another implementation makes of our keys: `openssl` verifies our signatures, reads our data
//! key pairs, encrypts for our keys, and wraps material for import.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use data_encoding::{BASE64, HEXLOWER};
use kmsfs::clock::SystemClock;
use kmsfs::kms::wire::dispatch;
use kmsfs::kms::{Caller, Costs, KmsError, Service, StoreOptions, UnlockSecret};
use kmsfs::secret::Passphrase;
use serde_json::{Value, json};

/// A key service, and a directory for files.
struct World {
    service: Arc<Service>,
    dir: tempfile::TempDir,
}

impl World {
    /// `None`, said on standard error, where there is no `openssl`.
    fn new(test: &str) -> Option<Self> {
        if Command::new("openssl").arg("version").output().is_err() {
            eprintln!("{test} needs openssl: skipped");
            return None;
        }
        let dir = tempfile::Builder::new().prefix("kmsfs-").tempdir_in("/var/tmp").unwrap();
        let secret = UnlockSecret::Passphrase(Passphrase::new(b"p".to_vec()));
        let costs = Costs { memory_kib: 32, passes: 1, lanes: 1 };
        let options = StoreOptions { costs, ..StoreOptions::default() };
        let service = Service::create(&dir.path().join("keys"), &secret, &options, Arc::new(SystemClock));
        Some(Self { service: service.unwrap(), dir })
    }

    fn try_call(&self, operation: &str, body: &Value) -> Result<Value, KmsError> {
        dispatch(&self.service, &Caller::current(), &format!("TrentService.{operation}"), body)
    }

    fn call(&self, operation: &str, body: &Value) -> Value {
        self.try_call(operation, body).unwrap_or_else(|error| panic!("{operation}: {error}"))
    }

    fn key(&self, body: &Value) -> Value {
        self.call("CreateKey", body)["KeyMetadata"]["KeyId"].clone()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).unwrap();
    }

    fn openssl(&self, arguments: &[&str]) -> Output {
        Command::new("openssl").args(arguments).current_dir(self.dir.path()).output().unwrap()
    }

    #[track_caller]
    fn openssl_ok(&self, arguments: &[&str]) -> Vec<u8> {
        let output = self.openssl(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }
}

fn bytes(value: &Value) -> Vec<u8> {
    BASE64.decode(value.as_str().unwrap().as_bytes()).unwrap()
}

fn base64(bytes: &[u8]) -> Value {
    json!(BASE64.encode(bytes))
}

#[test]
fn openssl_verifies_every_signature_that_it_knows() {
    let Some(world) = World::new("openssl_verifies_every_signature_that_it_knows") else { return };
    let message = b"to be signed".repeat(20);
    world.write("message", &message);
    for (spec, hashes) in [
        ("RSA_2048", &["256", "384", "512"][..]),
        ("ECC_NIST_P256", &["256"]),
        ("ECC_NIST_P384", &["384"]),
        ("ECC_NIST_P521", &["512"]),
        ("ECC_SECG_P256K1", &["256"]),
    ] {
        let key = world.key(&json!({ "KeySpec": spec, "KeyUsage": "SIGN_VERIFY" }));
        world.write("public", &bytes(&world.call("GetPublicKey", &json!({ "KeyId": key }))["PublicKey"]));
        let families: &[&str] =
            if spec == "RSA_2048" { &["RSASSA_PSS_SHA", "RSASSA_PKCS1_V1_5_SHA"] } else { &["ECDSA_SHA"] };
        for family in families {
            for hash in hashes {
                let algorithm = format!("{family}_{hash}");
                let digest = world.openssl_ok(&["dgst", &format!("-sha{hash}"), "-binary", "message"]);
                for (kind, signed) in [("RAW", &message), ("DIGEST", &digest)] {
                    let body = json!({
                        "KeyId": key, "Message": base64(signed), "MessageType": kind,
                        "SigningAlgorithm": algorithm,
                    });
                    let signature = bytes(&world.call("Sign", &body)["Signature"]);
                    world.write("signature", &signature);
                    let hash = format!("-sha{hash}");
                    let mut verify = vec!["dgst", &hash, "-keyform", "DER", "-verify", "public"];
                    if *family == "RSASSA_PSS_SHA" {
                        // A salt as long as the digest, and no other.
                        verify.extend([
                            "-sigopt",
                            "rsa_padding_mode:pss",
                            "-sigopt",
                            "rsa_pss_saltlen:digest",
                        ]);
                    }
                    verify.extend(["-signature", "signature"]);
                    let ok = world.openssl_ok(&[&verify[..], &["message"]].concat());
                    assert!(
                        String::from_utf8_lossy(&ok).contains("Verified OK"),
                        "{spec} {algorithm} {kind}"
                    );
                    world.write("other", b"something else");
                    let other = world.openssl(&[&verify[..], &["other"]].concat());
                    assert!(!other.status.success(), "{spec} {algorithm} {kind}");
                }
            }
        }
    }
    let key = world.key(&json!({ "KeySpec": "ECC_NIST_EDWARDS25519", "KeyUsage": "SIGN_VERIFY" }));
    world.write("public", &bytes(&world.call("GetPublicKey", &json!({ "KeyId": key }))["PublicKey"]));
    let body = json!({ "KeyId": key, "Message": base64(&message), "SigningAlgorithm": "ED25519_SHA_512" });
    world.write("signature", &bytes(&world.call("Sign", &body)["Signature"]));
    let verify = ["pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-inkey", "public", "-rawin"];
    world.openssl_ok(&[&verify[..], &["-sigfile", "signature", "-in", "message"]].concat());
}

#[test]
fn openssl_reads_every_data_key_pair() {
    let Some(world) = World::new("openssl_reads_every_data_key_pair") else { return };
    let key = world.key(&json!({}));
    for spec in [
        "RSA_2048",
        "ECC_NIST_P256",
        "ECC_NIST_P384",
        "ECC_NIST_P521",
        "ECC_SECG_P256K1",
        "ECC_NIST_EDWARDS25519",
    ] {
        let body = json!({ "KeyId": key, "KeyPairSpec": spec, "EncryptionContext": { "for": "openssl" } });
        let made = world.call("GenerateDataKeyPair", &body);
        world.write("private", &bytes(&made["PrivateKeyPlaintext"]));
        let public =
            world.openssl_ok(&["pkey", "-inform", "DER", "-in", "private", "-pubout", "-outform", "DER"]);
        assert_eq!(public, bytes(&made["PublicKey"]), "{spec}");
    }
}

#[test]
fn openssl_encrypts_for_our_rsa_keys() {
    let Some(world) = World::new("openssl_encrypts_for_our_rsa_keys") else { return };
    let key = world.key(&json!({ "KeySpec": "RSA_2048", "KeyUsage": "ENCRYPT_DECRYPT" }));
    world.write("public", &bytes(&world.call("GetPublicKey", &json!({ "KeyId": key }))["PublicKey"]));
    world.write("secret", b"a secret");
    for (algorithm, hash) in [("RSAES_OAEP_SHA_1", "sha1"), ("RSAES_OAEP_SHA_256", "sha256")] {
        let sealed = oaep(&world, hash, "public", "secret");
        let body =
            json!({ "KeyId": key, "CiphertextBlob": base64(&sealed), "EncryptionAlgorithm": algorithm });
        assert_eq!(bytes(&world.call("Decrypt", &body)["Plaintext"]), b"a secret", "{algorithm}");
    }
}

#[test]
fn openssl_agrees_about_macs_of_imported_keys_that_it_wrapped_in_every_way() {
    let test = "openssl_agrees_about_macs_of_imported_keys_that_it_wrapped_in_every_way";
    let Some(world) = World::new(test) else { return };
    let material = world.openssl_ok(&["rand", "32"]);
    world.write("material", &material);
    world.write("message", b"a message");
    for (algorithm, hash) in [
        ("RSAES_OAEP_SHA_1", "sha1"),
        ("RSAES_OAEP_SHA_256", "sha256"),
        ("RSA_AES_KEY_WRAP_SHA_1", "sha1"),
        ("RSA_AES_KEY_WRAP_SHA_256", "sha256"),
    ] {
        let spec = json!({ "KeySpec": "HMAC_256", "KeyUsage": "GENERATE_VERIFY_MAC", "Origin": "EXTERNAL" });
        let key = world.key(&spec);
        import(&world, &key, algorithm, hash, &material);
        let body = json!({ "KeyId": key, "Message": base64(b"a message"), "MacAlgorithm": "HMAC_SHA_256" });
        let mac = bytes(&world.call("GenerateMac", &body)["Mac"]);
        let option = format!("hexkey:{}", HEXLOWER.encode(&material));
        let theirs =
            world.openssl_ok(&["dgst", "-sha256", "-mac", "HMAC", "-macopt", &option, "-binary", "message"]);
        assert_eq!(mac, theirs, "{algorithm}");
    }
}

#[test]
fn openssl_signs_with_the_key_that_we_verify_with() {
    let Some(world) = World::new("openssl_signs_with_the_key_that_we_verify_with") else { return };
    world.write("message", b"a message");
    let rsa = ["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"];
    let curve = ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
    for (spec, algorithm, generate) in
        [("RSA_2048", "RSASSA_PKCS1_V1_5_SHA_256", &rsa[..]), ("ECC_NIST_P256", "ECDSA_SHA_256", &curve[..])]
    {
        world.openssl_ok(&[generate, &["-out", "private.pem"]].concat());
        let pkcs8 = ["pkcs8", "-topk8", "-nocrypt", "-in", "private.pem", "-outform", "DER"];
        let private = world.openssl_ok(&pkcs8);
        let key = world.key(&json!({ "KeySpec": spec, "KeyUsage": "SIGN_VERIFY", "Origin": "EXTERNAL" }));
        import(&world, &key, "RSA_AES_KEY_WRAP_SHA_256", "sha256", &private);
        let signature = world.openssl_ok(&["dgst", "-sha256", "-sign", "private.pem", "message"]);
        let mut body = json!({
            "KeyId": key, "Message": base64(b"a message"), "SigningAlgorithm": algorithm,
            "Signature": base64(&signature),
        });
        assert_eq!(world.call("Verify", &body)["SignatureValid"], true, "{spec}");
        body["Message"] = base64(b"another");
        assert!(world.try_call("Verify", &body).is_err(), "{spec}");
    }
}

/// Imports `material`, wrapped by `openssl` alone.
fn import(world: &World, key: &Value, algorithm: &str, hash: &str, material: &[u8]) {
    let ask = json!({ "KeyId": key, "WrappingAlgorithm": algorithm, "WrappingKeySpec": "RSA_2048" });
    let parameters = world.call("GetParametersForImport", &ask);
    world.write("wrapping", &bytes(&parameters["PublicKey"]));
    world.write("material", material);
    let wrapped = if algorithm.starts_with("RSAES") {
        oaep(world, hash, "wrapping", "material")
    } else {
        let aes = world.openssl_ok(&["rand", "32"]);
        world.write("aes", &aes);
        let aes = HEXLOWER.encode(&aes);
        // AES key wrap with padding (RFC 5649), whose alternative initial value is A65959A6.
        let inner = ["enc", "-id-aes256-wrap-pad", "-K", &aes, "-iv", "A65959A6", "-in", "material"];
        let inner = world.openssl_ok(&inner);
        [oaep(world, hash, "wrapping", "aes"), inner].concat()
    };
    let body = json!({
        "KeyId": key, "ImportToken": parameters["ImportToken"], "EncryptedKeyMaterial": base64(&wrapped),
        "ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE",
    });
    assert_eq!(world.call("ImportKeyMaterial", &body)["KeyState"], "Enabled", "{algorithm}");
}

fn oaep(world: &World, hash: &str, public: &str, plaintext: impl AsRef<Path>) -> Vec<u8> {
    let (oaep, mgf1) = (format!("rsa_oaep_md:{hash}"), format!("rsa_mgf1_md:{hash}"));
    let key = ["pkeyutl", "-encrypt", "-pubin", "-keyform", "DER", "-inkey", public];
    let padding = ["-pkeyopt", "rsa_padding_mode:oaep", "-pkeyopt", &oaep, "-pkeyopt", &mgf1];
    world.openssl_ok(&[&key[..], &padding[..], &["-in", plaintext.as_ref().to_str().unwrap()]].concat())
}
