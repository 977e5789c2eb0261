//! Keys whose other half a key manager elsewhere has: the operations of AWS KMS on external key stores,
//! against a proxy that can be slow, wrong, forging and dead.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

mod audited;
mod ciphertexts;
#[path = "../common/mod.rs"]
mod common;
mod failures;
mod mounts;
mod operations;
mod states;
mod tls;
mod undisturbed;
#[path = "../xks_proxy/mod.rs"]
mod xks_proxy;

use std::sync::Arc;

use jiff::Timestamp;
use kmsfs::clock::ManualClock;
use kmsfs::kms::api::{
    CreateCustomKeyStoreRequest, CreateKeyRequest, CustomKeyStoreRequest, CustomKeyStoresListEntry,
    DecryptRequest, DecryptResponse, DescribeCustomKeyStoresRequest, EncryptRequest, KeyRequest, SecretBytes,
    XksProxyAuthenticationCredential,
};
use kmsfs::kms::{
    Caller, Costs, EncryptionContext, KeyMetadata, KeyState, KmsError, Service, StoreOptions, UnlockSecret,
};
use kmsfs::secret::Passphrase;
use xks_proxy::{ACCESS_KEY_ID, PATH, Proxy, SECRET};

/// A key service, a proxy, and who calls.
struct World {
    service: Option<Arc<Service>>,
    proxy: Proxy,
    clock: Arc<ManualClock>,
    caller: Caller,
    dir: tempfile::TempDir,
}

fn secret() -> UnlockSecret {
    UnlockSecret::KeyFile(Passphrase::new(vec![7; 64]))
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let clock = Arc::new(ManualClock::new(Timestamp::from_second(1_700_000_000).unwrap()));
        let costs = Costs { memory_kib: 32, passes: 1, lanes: 1 };
        let options = StoreOptions { costs, ..StoreOptions::default() };
        let service = Service::create(dir.path(), &secret(), &options, clock.clone()).unwrap();
        let proxy = Proxy::start(clock.clone());
        Self { service: Some(service), proxy, clock, caller: Caller::current(), dir }
    }

    /// With a custom key store that is connected, and a key in it that stands for `one`.
    fn with_key() -> (Self, String, KeyMetadata) {
        let world = Self::new();
        let store = world.connected("near");
        let key = world.key(&store, "one").unwrap();
        (world, store, key)
    }

    fn service(&self) -> &Arc<Service> {
        self.service.as_ref().unwrap()
    }

    fn reopen(&mut self) {
        self.service = None;
        self.service = Some(Service::open(self.dir.path(), &secret(), self.clock.clone()).unwrap());
    }

    /// What makes a custom key store of this name.
    fn request(&self, name: &str) -> CreateCustomKeyStoreRequest {
        CreateCustomKeyStoreRequest {
            custom_key_store_name: name.to_owned(),
            custom_key_store_type: Some("EXTERNAL_KEY_STORE".to_owned()),
            xks_proxy_uri_endpoint: Some(self.proxy.endpoint.clone()),
            xks_proxy_uri_path: Some(PATH.to_owned()),
            xks_proxy_authentication_credential: Some(credential(SECRET)),
            xks_proxy_connectivity: Some("PUBLIC_ENDPOINT".to_owned()),
            trust_anchor_certificate: None,
        }
    }

    fn create(&self, request: &CreateCustomKeyStoreRequest) -> Result<String, KmsError> {
        let made = self.service().create_custom_key_store(&self.caller, request)?;
        Ok(made.custom_key_store_id)
    }

    fn connected(&self, name: &str) -> String {
        let store = self.create(&self.request(name)).unwrap();
        self.service().connect_custom_key_store(&self.caller, &of(&store)).unwrap();
        assert_eq!(self.described(&store).connection_state.name(), "CONNECTED");
        store
    }

    fn disconnect(&self, store: &str) {
        self.service().disconnect_custom_key_store(&self.caller, &of(store)).unwrap();
    }

    fn described(&self, store: &str) -> CustomKeyStoresListEntry {
        let request = DescribeCustomKeyStoresRequest {
            custom_key_store_id: Some(store.to_owned()),
            ..DescribeCustomKeyStoresRequest::default()
        };
        let listed = self.service().describe_custom_key_stores(&self.caller, &request).unwrap();
        listed.custom_key_stores.into_iter().next().unwrap()
    }

    fn key(&self, store: &str, external: &str) -> Result<KeyMetadata, KmsError> {
        self.service().create_key(&self.caller, &key_request(store, external))
    }

    fn plain_key(&self) -> KeyMetadata {
        self.service().create_key(&self.caller, &CreateKeyRequest::default()).unwrap()
    }

    fn state(&self, key: &KeyMetadata) -> KeyState {
        self.service().describe_key(&self.caller, &named(key)).unwrap().key_state
    }

    fn encrypt(&self, key: &KeyMetadata, plaintext: &[u8]) -> Result<Vec<u8>, KmsError> {
        let request = EncryptRequest {
            key_id: key.arn.clone(),
            plaintext: SecretBytes::new(plaintext.to_vec()),
            encryption_context: context(),
            ..EncryptRequest::default()
        };
        Ok(self.service().encrypt(&self.caller, &request)?.ciphertext_blob)
    }

    fn decrypt(&self, blob: &[u8]) -> Result<DecryptResponse, KmsError> {
        let request = DecryptRequest {
            ciphertext_blob: blob.to_vec(),
            encryption_context: context(),
            ..DecryptRequest::default()
        };
        self.service().decrypt(&self.caller, &request)
    }
}

fn credential(secret: &str) -> XksProxyAuthenticationCredential {
    XksProxyAuthenticationCredential {
        access_key_id: ACCESS_KEY_ID.to_owned(),
        raw_secret_access_key: secret.to_owned().into(),
    }
}

fn key_request(store: &str, external: &str) -> CreateKeyRequest {
    CreateKeyRequest {
        origin: Some("EXTERNAL_KEY_STORE".to_owned()),
        custom_key_store_id: Some(store.to_owned()),
        xks_key_id: Some(external.to_owned()),
        ..CreateKeyRequest::default()
    }
}

fn of(store: &str) -> CustomKeyStoreRequest {
    CustomKeyStoreRequest { custom_key_store_id: store.to_owned() }
}

fn named(key: &KeyMetadata) -> KeyRequest {
    KeyRequest { key_id: key.key_id.to_string() }
}

fn context() -> EncryptionContext {
    EncryptionContext::new().with("kmsfs:volume", "v").with("kmsfs:file", "f")
}
