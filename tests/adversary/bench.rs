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

/// Descriptors that a mount may hold: few, so that inodes are opened again by name.
const DESCRIPTORS: u64 = 64;

pub(crate) struct Bench {
    dir: TempDir,
    provider: Arc<dyn Provider>,
    pub(crate) keys: [String; 2],
}

impl Bench {
    pub(crate) fn new() -> Self {
        let dir = memory_dir();
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

/// In memory where that has extended attributes.
fn memory_dir() -> TempDir {
    let make = |dir: &str| tempfile::Builder::new().prefix("kmsfs-adversary-").tempdir_in(dir);
    let has_attributes = |dir: &TempDir| {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(dir.path(), "user.kmsfs.try", b"", flags).is_ok()
    };
    match make("/dev/shm") {
        Ok(dir) if has_attributes(&dir) => dir,
        _ => make("/var/tmp").unwrap(),
    }
}

/// Random numbers from a seed.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        // Seeds in a row give sequences that have nothing in common.
        Self(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 8
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }

    /// None of them is zero.
    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8 | 1).collect()
    }
}
