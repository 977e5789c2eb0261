//! A mounted volume without the mount, with one file `file` of one chunk of zeros.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::Arc;

use kmsfs::fs::{Fs, NewMode, ROOT_INO, Requester, Volume};
use kmsfs::kms::Caller;
use kmsfs::provider::{Embedded, Provider};
use tempfile::TempDir;

use crate::explore::once;
use crate::master::Master;
use crate::sealed::PAYLOAD;

/// Open descriptors that a mount may hold: more than a test needs.
const DESCRIPTORS: u64 = 1000;

/// Where the volume lies: in memory, if there is such a place, for flushes cost nothing there.
pub(crate) fn temporary() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// A volume that is not mounted.
pub(crate) struct Unmounted {
    _dir: TempDir,
    path: PathBuf,
}

impl Unmounted {
    /// One under a [`Master`].
    pub(crate) fn new() -> Arc<Self> {
        once(|| Arc::new(Self::under(&(Arc::new(Master::new()) as Arc<dyn Provider>), "key")))
    }

    /// One whose file is under `key`.
    pub(crate) fn under(provider: &Arc<dyn Provider>, key: &str) -> Self {
        let dir = temporary();
        let path = dir.path().join("volume");
        std::fs::create_dir(&path).unwrap();
        Volume::create(&path, &**provider, key).unwrap();
        let volume = Self { _dir: dir, path };
        let fs = volume.mount(provider);
        let by = Requester { uid: 0, gid: 0, pid: 0 };
        let mode = NewMode { mode: 0o600, umask: 0 };
        let (_, fh) = fs.create(by, ROOT_INO, OsStr::new("file"), mode).unwrap();
        fs.write(fh, 0, &[0; PAYLOAD], false, None).unwrap();
        fs.release(fh);
        fs.shut_down().unwrap();
        volume
    }

    pub(crate) fn mount(&self, provider: &Arc<dyn Provider>) -> Arc<Fs> {
        let volume = Volume::open(&self.path, &**provider, false).unwrap();
        Arc::new(Fs::new(volume, Arc::clone(provider), &self.path, DESCRIPTORS).unwrap())
    }
}

/// The file's inode.
pub(crate) fn file(fs: &Fs) -> u64 {
    fs.lookup(ROOT_INO, OsStr::new("file")).unwrap().ino
}

/// What all of the file holds, as one byte.
pub(crate) fn read(fs: &Fs, fh: u64) -> Result<u8, i32> {
    let mut out = [0xff; PAYLOAD];
    let read = fs.read(fh, 0, &mut out).map_err(|error| error.errno())?;
    assert!(read == PAYLOAD && out.iter().all(|byte| *byte == out[0]), "a write was seen in part");
    Ok(out[0])
}

/// As [`read`], of a file that is opened for it.
pub(crate) fn open_and_read(fs: &Fs, ino: u64) -> Result<u8, i32> {
    let fh = fs.open(ino, false).map_err(|error| error.errno())?;
    let outcome = read(fs, fh);
    fs.release(fh);
    outcome
}

/// Fills the file with a byte. The kernel may do so later than the program.
pub(crate) fn write(fs: &Fs, fh: u64, byte: u8, from_cache: bool) -> Result<(), i32> {
    fs.write(fh, 0, &[byte; PAYLOAD], from_cache, None).map_err(|error| error.errno())
}

/// The provider for a service in this process.
pub(crate) fn embedded(service: &Arc<kmsfs::kms::Service>) -> Arc<dyn Provider> {
    Arc::new(Embedded::new(Arc::clone(service), Caller::current()))
}
