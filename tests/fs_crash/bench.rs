//! A key store, and a volume on a disk that is watched.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use kmsfs::clock::SystemClock;
use kmsfs::fs::disk::{Disk, Probe};
use kmsfs::fs::{Counts, Fs, Volume};
use kmsfs::kms::api::{CreateKeyRequest, KeyRequest};
use kmsfs::kms::{Caller, Costs, Service, StoreOptions, UnlockSecret};
use kmsfs::provider::{Embedded, Provider};
use kmsfs::secret::Passphrase;
use tempfile::TempDir;

use crate::disk::Crash;
use crate::memory_dir::memory_dir;

pub(crate) struct Bench {
    dir: TempDir,
    provider: Arc<dyn Provider>,
    service: Arc<Service>,
    /// Master key of new files.
    pub(crate) key: String,
    /// Another one.
    pub(crate) other: String,
    disk: Mutex<Disk>,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let dir = memory_dir("kmsfs-crash-");
        let secret = UnlockSecret::KeyFile(Passphrase::new(vec![7; 64]));
        let costs = Costs { memory_kib: 32, passes: 1, lanes: 1 };
        let options = StoreOptions { costs, ..StoreOptions::default() };
        let store = dir.path().join("keys");
        let service = Service::create(&store, &secret, &options, Arc::new(SystemClock)).unwrap();
        let [key, other] = [(); 2]
            .map(|()| service.create_key(&Caller::current(), &CreateKeyRequest::default()).unwrap().arn);
        let provider: Arc<dyn Provider> = Arc::new(Embedded::new(Arc::clone(&service), Caller::current()));
        Self { dir, provider, service, key, other, disk: Mutex::default() }
    }

    /// Gives a master key new material.
    pub(crate) fn rotate(&self, arn: &str) {
        let request = KeyRequest { key_id: arn.to_owned() };
        self.service.rotate_key_on_demand(&Caller::current(), &request).unwrap();
    }

    fn volume(&self) -> PathBuf {
        self.dir.path().join("volume")
    }

    /// Makes a new volume, watched from the beginning by what `probe` makes for its directory.
    pub(crate) fn watched_by<P: Probe + 'static>(&self, probe: impl FnOnce(&Path) -> P) -> Arc<P> {
        let _ = fs::remove_dir_all(self.volume());
        fs::create_dir(self.volume()).unwrap();
        let probe = Arc::new(probe(&self.volume()));
        let disk = Disk::probed(Arc::clone(&probe) as _);
        Volume::create_on(&disk, &self.volume(), &*self.provider, &self.key).unwrap();
        *self.disk.lock().unwrap() = disk;
        probe
    }

    pub(crate) fn mount(&self) -> Arc<Fs> {
        self.try_mount().unwrap()
    }

    pub(crate) fn try_mount(&self) -> Result<Arc<Fs>, String> {
        let disk = self.disk.lock().unwrap().clone();
        self.mount_at(disk, &self.volume())
    }

    /// Lays a crash out and opens the volume that it left.
    pub(crate) fn mount_crash(&self, crash: &Crash) -> Result<Arc<Fs>, String> {
        let root = self.dir.path().join("crashed");
        let _ = fs::remove_dir_all(&root);
        fs::create_dir(&root).unwrap();
        crash.lay_out(&root);
        self.remount_crash()
    }

    /// Opens it again.
    pub(crate) fn remount_crash(&self) -> Result<Arc<Fs>, String> {
        self.mount_at(Disk::default(), &self.dir.path().join("crashed"))
    }

    /// What the headers of the volume that a crash left say.
    pub(crate) fn count_crash(&self) -> Counts {
        crate::count::count(&self.dir.path().join("crashed"))
    }

    fn mount_at(&self, disk: Disk, root: &Path) -> Result<Arc<Fs>, String> {
        let volume =
            Volume::open_on(disk, root, &*self.provider, false).map_err(|e| format!("the volume: {e}"))?;
        let mountpoint = self.dir.path().join("mnt");
        let fs = Fs::new(volume, Arc::clone(&self.provider), &mountpoint, 1000);
        fs.map(Arc::new).map_err(|e| format!("the root: {e}"))
    }
}
