//! A key store and a volume with one file, for the parsers that are reached through them alone.

#[path = "../common/memory_dir.rs"]
mod memory_dir;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use kmsfs::clock::SystemClock;
use kmsfs::fs::{Fs, NewMode, ROOT_INO, Requester, Volume};
use kmsfs::kms::api::CreateKeyRequest;
use kmsfs::kms::{Caller, Costs, Service, StoreOptions, UnlockSecret};
use kmsfs::provider::Embedded;
use kmsfs::secret::Passphrase;
use memory_dir::memory_dir;
use redb::TableDefinition;

/// Keys and aliases that requests may make.
const MOST_MADE: u32 = 200;
const SLOTS: TableDefinition<'static, u32, &[u8]> = TableDefinition::new("slots");

pub(crate) struct World {
    _dir: tempfile::TempDir,
    pub(crate) service: Arc<Service>,
    pub(crate) provider: Embedded,
    pub(crate) fs: Fs,
    /// A file with an attribute `user.seed`.
    pub(crate) file: u64,
    /// Where it lies, and under which name its attribute does.
    pub(crate) backing: PathBuf,
    pub(crate) attribute: OsString,
    /// The bytes of a key store that opens.
    pub(crate) store_file: Vec<u8>,
    /// Where damaged key stores are put.
    damaged: Mutex<PathBuf>,
    made: AtomicU32,
}

/// The one of this process.
pub(crate) fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(World::new)
}

fn secret() -> UnlockSecret {
    UnlockSecret::KeyFile(Passphrase::new(vec![7; 64]))
}

pub(crate) fn me() -> Requester {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    Requester { uid: uid.as_raw(), gid: gid.as_raw(), pid: std::process::id() }
}

impl World {
    fn new() -> Self {
        let dir = memory_dir("kmsfs-parsers-");
        let at = |name: &str| dir.path().join(name);
        let options =
            StoreOptions { costs: Costs { memory_kib: 32, passes: 1, lanes: 1 }, ..StoreOptions::default() };
        let create = |name| Service::create(&at(name), &secret(), &options, Arc::new(SystemClock)).unwrap();
        let key = |service: &Service| {
            service.create_key(&Caller::current(), &CreateKeyRequest::default()).unwrap().arn
        };
        let spare = create("damaged");
        key(&spare);
        drop(spare);
        let store_file = std::fs::read(at("damaged/store.redb")).unwrap();
        let service = create("keys");
        let arn = key(&service);
        let provider = Embedded::new(Arc::clone(&service), Caller::current());
        std::fs::create_dir(at("volume")).unwrap();
        Volume::create(&at("volume"), &provider, &arn).unwrap();
        let volume = Volume::open(&at("volume"), &provider, false).unwrap();
        let embedded = Arc::new(Embedded::new(Arc::clone(&service), Caller::current()));
        let fs = Fs::new(volume, embedded, &at("mnt"), 1_000).unwrap();
        let mode = NewMode { mode: 0o600, umask: 0 };
        let (attr, _open) = fs.create(me(), ROOT_INO, OsStr::new("f"), mode).unwrap();
        fs.setxattr(me(), attr.ino, OsStr::new("user.seed"), b"a value", 0).unwrap();
        let entries = std::fs::read_dir(at("volume")).unwrap().map(|entry| entry.unwrap().path());
        let mut own = entries.filter(|path| !path.to_str().unwrap().contains("kmsfs.volume"));
        let backing = own.next().unwrap();
        let mut names = vec![0; 1_024];
        let len = rustix::fs::listxattr(&backing, &mut names).unwrap();
        let mut names = names[..len].split(|&b| b == 0);
        let attribute = names.find(|name| name.starts_with(b"user.kmsfs.x.")).unwrap().to_vec();
        Self {
            service,
            provider,
            fs,
            file: attr.ino,
            backing,
            attribute: OsString::from_vec(attribute),
            store_file,
            damaged: Mutex::new(at("damaged")),
            made: AtomicU32::new(0),
            _dir: dir,
        }
    }

    /// Opens a key store whose file has these bytes.
    pub(crate) fn open_store(&self, bytes: &[u8]) {
        let dir = self.damaged.lock().unwrap();
        std::fs::write(dir.join("store.redb"), bytes).unwrap();
        let _ = Service::open(&dir, &secret(), Arc::new(SystemClock));
    }

    /// Opens a key store whose one unlock slot has these bytes.
    pub(crate) fn open_slot(&self, slot: &[u8]) {
        let dir = self.damaged.lock().unwrap();
        std::fs::write(dir.join("store.redb"), &self.store_file).unwrap();
        let database = redb::Database::open(dir.join("store.redb")).unwrap();
        let change = database.begin_write().unwrap();
        change.open_table(SLOTS).unwrap().insert(0, slot).unwrap();
        change.commit().unwrap();
        drop(database);
        let _ = Service::open(&dir, &secret(), Arc::new(SystemClock));
    }

    /// Counts something that a request would make.
    pub(crate) fn may_make(&self) -> bool {
        self.made.fetch_add(1, Ordering::Relaxed) < MOST_MADE
    }
}
