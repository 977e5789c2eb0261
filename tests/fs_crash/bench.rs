//! A key store, and a volume on a disk that is watched.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use kmsfs::fs::disk::{Disk, Probe};
use kmsfs::fs::{Counts, Fs, Volume};
use kmsfs::kms::api::KeyRequest;
use kmsfs::kms::{Caller, Service};
use kmsfs::provider::{Embedded, Provider};
use tempfile::TempDir;

use crate::disk::Crash;
use crate::memory_dir::memory_dir;
use crate::unmounted::{key_store, new_key};

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
        let service = key_store(&dir.path().join("keys"));
        let [key, other] = [(); 2].map(|()| new_key(&service));
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
