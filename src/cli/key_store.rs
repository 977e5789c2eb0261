//! Reaching the key store: through the process that has it open, or by opening it ourselves.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::args::Global;
use super::exit::{CliError, CliResult, Code};
use super::secret::{Purpose, secret};
use crate::clock::SystemClock;
use crate::kms::api::{AliasRequest, CreateKeyRequest, KeyRequest, KeyResponse};
use crate::kms::audit::Mode;
use crate::kms::wire::{self, KMSFS, TRENT};
use crate::kms::{
    Caller, KeyMetadata, KmsError, Realm, Service, StoreError, StoreOptions, UnlockSecret, socket,
    store_exists,
};
use crate::provider::{Embedded, Provider, SocketClient};

/// Alias of the master key that is created with a key store.
pub(super) const DEFAULT_ALIAS: &str = "alias/default";
/// How long changes of a key's state may take: they wait for mounts to write back.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long to wait for a process that has just opened the store to answer.
const START_TIMEOUT: Duration = Duration::from_secs(5);

/// A key store that can be used.
pub(super) enum KeyStore {
    /// This process has it open.
    Own(Arc<Service>),
    /// Another process has it open.
    Served(SocketClient),
}

impl KeyStore {
    /// Reaches the key store, asking for its secret only if no other process has it open.
    pub(super) fn open(global: &Global) -> CliResult<Self> {
        Reach::new(global).open()
    }

    /// Opens the key store with a secret, unless another process is faster.
    pub(super) fn unlock(dir: &Path, secret: &UnlockSecret, audit: Mode) -> CliResult<Self> {
        let store = Self::unlock_or_reach(dir, secret)?;
        if let Self::Own(service) = &store {
            service.set_audit_mode(audit);
        }
        Ok(store)
    }

    fn unlock_or_reach(dir: &Path, secret: &UnlockSecret) -> CliResult<Self> {
        match Service::open(dir, secret, Arc::new(SystemClock)) {
            Ok(service) => Ok(Self::Own(service)),
            Err(error @ StoreError::InUse { .. }) => {
                // Its owner is just starting or ending, or it is a command like this one.
                let deadline = Instant::now() + START_TIMEOUT;
                while Instant::now() < deadline {
                    if is_served(dir) {
                        return Ok(Self::Served(SocketClient::new(dir)));
                    }
                    match Service::open(dir, secret, Arc::new(SystemClock)) {
                        Err(StoreError::InUse { .. }) => std::thread::sleep(Duration::from_millis(50)),
                        opened => return Ok(Self::Own(opened?)),
                    }
                }
                Err(error.into())
            }
            Err(StoreError::NotFound(_)) => Err(no_store(dir)),
            Err(error) => Err(error.into()),
        }
    }

    /// Creates a key store and its default key.
    pub(super) fn create(dir: &Path, secret: &UnlockSecret, audit: Mode) -> CliResult<Self> {
        Self::create_in(dir, secret, Realm::default(), audit)
    }

    /// As [`KeyStore::create`], for a region of an account.
    pub(super) fn create_in(dir: &Path, secret: &UnlockSecret, realm: Realm, audit: Mode) -> CliResult<Self> {
        let options = StoreOptions { realm, ..StoreOptions::default() };
        let service = Service::create(dir, secret, &options, Arc::new(SystemClock))?;
        service.set_audit_mode(audit);
        let store = Self::Own(service);
        store.create_key("Default key of new volumes", Some(DEFAULT_ALIAS))?;
        Ok(store)
    }

    /// Creates a master key, with an alias if one is given.
    pub(super) fn create_key(&self, description: &str, alias: Option<&str>) -> CliResult<KeyMetadata> {
        let request = CreateKeyRequest { description: description.to_owned(), ..CreateKeyRequest::default() };
        self.create_key_of(&request, alias)
    }

    /// Creates the master key that is asked for, with an alias if one is given.
    pub(super) fn create_key_of(
        &self,
        request: &CreateKeyRequest,
        alias: Option<&str>,
    ) -> CliResult<KeyMetadata> {
        let made: KeyResponse = self.call("CreateKey", request)?;
        if let Some(alias) = alias {
            let request = AliasRequest {
                alias_name: alias.to_owned(),
                target_key_id: made.key_metadata.key_id.to_string(),
            };
            self.call::<Value>("CreateAlias", &request)?;
        }
        Ok(made.key_metadata)
    }

    /// What is known about a key that a person named.
    pub(super) fn describe(&self, key: &str) -> CliResult<KeyMetadata> {
        let response: KeyResponse = self.call("DescribeKey", &KeyRequest { key_id: key.to_owned() })?;
        Ok(response.key_metadata)
    }

    /// The id or ARN of a key that a person named, for the operations that take no alias. A key
    /// that is not named by an alias is not looked up: not everybody may.
    pub(super) fn key_id(&self, key: &str) -> CliResult<String> {
        let is_alias = key.starts_with("alias/") || key.contains(":alias/");
        if is_alias { Ok(self.describe(key)?.key_id.to_string()) } else { Ok(key.to_owned()) }
    }

    /// The full name of a principal that a person named in connection with a key.
    pub(super) fn principal(&self, key: &str, who: &str) -> CliResult<String> {
        if who.starts_with("arn:") {
            return Ok(who.to_owned());
        }
        let account = self.describe(key)?.account;
        let resource =
            if who == "root" || who.contains('/') { who.to_owned() } else { format!("user/{who}") };
        Ok(format!("arn:aws:iam::{account}:{resource}"))
    }

    /// Carries out an operation of the key service.
    pub(super) fn call<T: DeserializeOwned>(
        &self,
        operation: &str,
        request: &impl Serialize,
    ) -> CliResult<T> {
        self.call_target(&format!("{TRENT}{operation}"), request)
    }

    /// Carries out an operation on the store itself.
    pub(super) fn look_after<T: DeserializeOwned>(
        &self,
        operation: &str,
        request: &impl Serialize,
    ) -> CliResult<T> {
        self.call_target(&format!("{KMSFS}{operation}"), request)
    }

    fn call_target<T: DeserializeOwned>(&self, target: &str, request: &impl Serialize) -> CliResult<T> {
        let malformed = |e: serde_json::Error| CliError::new(Code::Unexpected, e.to_string());
        let mut body = serde_json::to_value(request).map_err(malformed)?;
        let answer = self.call_value(target, &body);
        wire::wipe(&mut body);
        T::deserialize(answer?).map_err(malformed)
    }

    fn call_value(&self, target: &str, body: &Value) -> Result<Value, KmsError> {
        match self {
            Self::Own(service) => wire::dispatch(service, &Caller::current(), target, body),
            Self::Served(client) => client.call_within(CHANGE_TIMEOUT, target, body),
        }
    }

    /// A source of data keys for a volume.
    pub(super) fn provider(&self, dir: &Path) -> Arc<dyn Provider> {
        match self {
            Self::Own(service) => Arc::new(Embedded::new(Arc::clone(service), Caller::current())),
            Self::Served(_) => Arc::new(SocketClient::new(dir)),
        }
    }
}

/// A key store that can be let go of and reached again without asking twice for its secret.
pub(super) struct Reach<'g> {
    global: &'g Global,
    secret: OnceCell<UnlockSecret>,
}

impl<'g> Reach<'g> {
    pub(super) fn new(global: &'g Global) -> Self {
        Self { global, secret: OnceCell::new() }
    }

    pub(super) fn open(&self) -> CliResult<KeyStore> {
        let dir = dir(self.global)?;
        if is_served(&dir) {
            return Ok(KeyStore::Served(SocketClient::new(&dir)));
        }
        if !store_exists(&dir) {
            return Err(no_store(&dir));
        }
        let secret = match self.secret.get() {
            Some(secret) => secret,
            None => {
                let asked = secret(self.global, Purpose::Unlock)?;
                self.secret.get_or_init(|| asked)
            }
        };
        KeyStore::unlock(&dir, secret, self.global.audit.into())
    }
}

/// The key store's directory.
pub(super) fn dir(global: &Global) -> CliResult<PathBuf> {
    let dir = match &global.keystore {
        Some(dir) => dir.clone(),
        None => default_dir()?,
    };
    std::path::absolute(&dir).map_err(|e| CliError::io(&dir, &e))
}

/// Whether a process has the key store open and answers for it.
pub(super) fn is_served(dir: &Path) -> bool {
    socket::connect(dir, Duration::from_secs(1)).is_ok()
}

fn default_dir() -> CliResult<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/kmsfs"));
    }
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_DATA_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
        .map(|data| data.join("kmsfs"))
        .ok_or_else(|| {
            CliError::new(
                Code::NoKeyStore,
                "HOME is not set; name the key store with --keystore DIR, or -o keystore=DIR in fstab",
            )
        })
}

/// What to say when there is no key store.
pub(super) fn no_store(dir: &Path) -> CliError {
    CliError::new(
        Code::NoKeyStore,
        format!(
            "there is no key store in {}; make one with 'kmsfs init', or name another with --keystore DIR",
            dir.display()
        ),
    )
}
