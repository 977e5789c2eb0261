//! A key store with two master keys, and volumes that are used without a mount.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kmsfs::clock::SystemClock;
use kmsfs::fs::{Fs, Volume, VolumeError};
use kmsfs::kms::api::CreateKeyRequest;
use kmsfs::kms::{Caller, Costs, Service, StoreOptions, UnlockSecret};
use kmsfs::provider::{Embedded, Provider};
use kmsfs::secret::Passphrase;
use tempfile::TempDir;

use crate::memory_dir::memory_dir;

/// Descriptors that a mount may hold: few, so that inodes are opened again by name.
const DESCRIPTORS: u64 = 64;

pub(crate) struct Bench {
    dir: TempDir,
    provider: Arc<dyn Provider>,
    pub(crate) keys: [String; 2],
}

impl Bench {
    pub(crate) fn new() -> Self {
        let dir = memory_dir("kmsfs-adversary-");
        let secret = UnlockSecret::KeyFile(Passphrase::new(vec![7; 64]));
        let costs = Costs { memory_kib: 32, passes: 1, lanes: 1 };
        let options = StoreOptions { costs, ..StoreOptions::default() };
        let service =
            Service::create(&dir.path().join("keys"), &secret, &options, Arc::new(SystemClock)).unwrap();
        let key = || service.create_key(&Caller::current(), &CreateKeyRequest::default()).unwrap().arn;
        let keys = [key(), key()];
        let provider = Arc::new(Embedded::new(Arc::clone(&service), Caller::current()));
        Self { dir, provider, keys }
    }

    /// A place of this name for a directory.
    pub(crate) fn place(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn create(&self, root: &Path) {
        std::fs::create_dir(root).unwrap();
        Volume::create(root, &*self.provider, &self.keys[0]).unwrap();
    }

    pub(crate) fn mount(&self, root: &Path, read_only: bool) -> Result<Arc<Fs>, VolumeError> {
        let volume = Volume::open(root, &*self.provider, read_only)?;
        let fs = Fs::new(volume, Arc::clone(&self.provider), &self.place("mnt"), DESCRIPTORS);
        Ok(Arc::new(fs.unwrap()))
    }
}
