//! A key store and a volume that are used without a mount.
#![allow(dead_code, clippy::unwrap_used, reason = "every test binary includes it and uses a part")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kmsfs::clock::SystemClock;
use kmsfs::fs::{Fs, Volume};
use kmsfs::kms::api::CreateKeyRequest;
use kmsfs::kms::{Caller, Costs, Service, StoreOptions, UnlockSecret};
use kmsfs::provider::{Embedded, Provider};
use kmsfs::secret::Passphrase;
use tempfile::TempDir;

/// Descriptors that a mount may hold unless a test says otherwise.
const DESCRIPTORS: u64 = 1000;

/// A new key store; the passphrase costs little.
pub(crate) fn key_store(path: &Path) -> Arc<Service> {
    let secret = UnlockSecret::KeyFile(Passphrase::new(vec![7; 64]));
    let costs = Costs { memory_kib: 32, passes: 1, lanes: 1 };
    let options = StoreOptions { costs, ..StoreOptions::default() };
    Service::create(path, &secret, &options, Arc::new(SystemClock)).unwrap()
}

/// The ARN of a new master key.
pub(crate) fn new_key(service: &Service) -> String {
    service.create_key(&Caller::current(), &CreateKeyRequest::default()).unwrap().arn
}

pub(crate) struct Unmounted {
    pub(crate) dir: TempDir,
    pub(crate) service: Arc<Service>,
    pub(crate) provider: Arc<dyn Provider>,
    /// The volume's default key.
    pub(crate) key: String,
}

impl Unmounted {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let service = key_store(&dir.path().join("keys"));
        let key = new_key(&service);
        let provider: Arc<dyn Provider> = Arc::new(Embedded::new(Arc::clone(&service), Caller::current()));
        std::fs::create_dir(dir.path().join("vol")).unwrap();
        Volume::create(&dir.path().join("vol"), &*provider, &key).unwrap();
        Self { dir, service, provider, key }
    }

    /// The backing directory.
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("vol")
    }

    pub(crate) fn mount(&self) -> Arc<Fs> {
        self.mount_within(DESCRIPTORS)
    }

    /// A mount that may hold about so many descriptors.
    pub(crate) fn mount_within(&self, descriptors: u64) -> Arc<Fs> {
        self.mount_of(Arc::clone(&self.provider), descriptors)
    }

    /// A mount whose keys come from `provider`.
    pub(crate) fn mount_with(&self, provider: Arc<dyn Provider>) -> Arc<Fs> {
        self.mount_of(provider, DESCRIPTORS)
    }

    fn mount_of(&self, provider: Arc<dyn Provider>, descriptors: u64) -> Arc<Fs> {
        let volume = Volume::open(&self.path(), &*provider, false).unwrap();
        Arc::new(Fs::new(volume, provider, &self.dir.path().join("mnt"), descriptors).unwrap())
    }
}
