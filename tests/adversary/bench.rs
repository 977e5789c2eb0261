//! A key store with two master keys, and volumes that are used without a mount.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kmsfs::fs::{Fs, Volume, VolumeError};
use kmsfs::kms::Caller;
use kmsfs::provider::{Embedded, Provider};
use tempfile::TempDir;

use crate::memory_dir::memory_dir;
use crate::unmounted::{key_store, new_key};

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
        let service = key_store(&dir.path().join("keys"));
        let keys = [new_key(&service), new_key(&service)];
        let provider = Arc::new(Embedded::new(service, Caller::current()));
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
