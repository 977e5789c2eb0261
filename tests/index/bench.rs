//! A key store and a volume.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kmsfs::fs::{Fs, NewMode, Requester, Volume};
use kmsfs::kms::api::KeyRequest;
use kmsfs::kms::{Caller, Service};
use kmsfs::provider::{Embedded, Provider};
use tempfile::TempDir;

use crate::unmounted::{key_store, new_key};

pub(crate) struct Bench {
    dir: TempDir,
    service: Arc<Service>,
    provider: Arc<dyn Provider>,
    /// The volume's default key, and another one.
    pub(crate) keys: [String; 2],
}

impl Bench {
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("kmsfs-index-").tempdir_in("/dev/shm").unwrap();
        let service = key_store(&dir.path().join("keys"));
        let keys = [new_key(&service), new_key(&service)];
        let provider: Arc<dyn Provider> = Arc::new(Embedded::new(Arc::clone(&service), Caller::current()));
        fs::create_dir(dir.path().join("vol")).unwrap();
        Volume::create(&dir.path().join("vol"), &*provider, &keys[0]).unwrap();
        Self { dir, service, provider, keys }
    }

    pub(crate) fn volume(&self) -> PathBuf {
        self.dir.path().join("vol")
    }

    pub(crate) fn mount(&self) -> Fs {
        self.open(false)
    }

    pub(crate) fn mount_read_only(&self) -> Fs {
        self.open(true)
    }

    fn open(&self, read_only: bool) -> Fs {
        let volume = Volume::open(&self.volume(), &*self.provider, read_only).unwrap();
        Fs::new(volume, Arc::clone(&self.provider), Path::new("/nowhere"), 1000).unwrap()
    }

    /// Gives a key new material, if it may have more.
    pub(crate) fn rotate(&self, key: usize) {
        let request = KeyRequest { key_id: self.keys[key].clone() };
        let _ = self.service.rotate_key_on_demand(&Caller::current(), &request);
    }
}

pub(crate) fn me() -> Requester {
    Requester::own()
}

pub(crate) fn mode(mode: u32) -> NewMode {
    NewMode { mode: mode | libc::S_IFREG, umask: 0 }
}
