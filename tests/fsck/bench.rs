//! A volume with something of everything in it, used without a mount, and ways to damage it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use kmsfs::check::{self, Options, Progress, Report};
use kmsfs::crypto::kdf::sha256;
use kmsfs::format::head::Kind;
use kmsfs::format::layout::Layout;
use kmsfs::format::page::Page;
use kmsfs::fs::{Fs, KEY_XATTR, NewMode, ROOT_INO, Requester, Volume, VolumeError};
use kmsfs::kms::api::KeyRequest;
use kmsfs::kms::{Caller, Service};
use kmsfs::names;
use kmsfs::provider::{Embedded, Provider};
use tempfile::TempDir;

use crate::unmounted::{key_store, new_key};

pub(crate) const PAYLOAD: u64 = 4064;
pub(crate) const PAGE: usize = 4096;
/// The first chunk below a level-2 map page, and below a level-3 one.
pub(crate) const LEVEL_2_CHUNK: u64 = 32_640;
pub(crate) const LEVEL_3_CHUNK: u64 = 8_290_688;

/// Regular files of the sample, with the chunks that hold data. Other chunks are holes.
pub(crate) const FILES: [(&str, &[u64]); 9] = [
    ("empty", &[]),
    ("tiny", &[0]),
    ("small", &[0, 1, 2, 3]),
    ("mapped", &[5, 127, 128, 129, 1143, 1144]),
    ("deep", &[0, LEVEL_2_CHUNK, LEVEL_2_CHUNK + 1016, LEVEL_3_CHUNK]),
    ("dir/inside", &[0, 1]),
    ("dir/other", &[0]),
    ("dir/sub/below", &[0, 1, 2]),
    ("linked", &[0]),
];

/// A name that is too long to be stored directly.
pub(crate) fn long_name() -> String {
    "n".repeat(200)
}

/// Targets of symbolic links: one that the backing link holds, one that is stored apart.
pub(crate) const LINKS: [(&str, usize); 3] = [("short-link", 10), ("long-link", 4000), ("long-link-2", 4001)];

/// A key store, and volumes whose keys it has.
pub(crate) struct Bench {
    pub(crate) dir: TempDir,
    pub(crate) service: Arc<Service>,
    pub(crate) provider: Arc<dyn Provider>,
    /// The volume's default key, and that of `dir`.
    pub(crate) keys: [String; 2],
    /// What it is a copy of; kept for other copies.
    _original: Option<Arc<Bench>>,
}

impl Bench {
    /// A key store and an empty volume.
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("kmsfs-fsck-").tempdir_in("/var/tmp").unwrap();
        let service = key_store(&dir.path().join("keys"));
        let keys = [new_key(&service), new_key(&service)];
        let provider: Arc<dyn Provider> = Arc::new(Embedded::new(Arc::clone(&service), Caller::current()));
        fs::create_dir(dir.path().join("vol")).unwrap();
        Volume::create(&dir.path().join("vol"), &*provider, &keys[0]).unwrap();
        Self { dir, service, provider, keys, _original: None }
    }

    pub(crate) fn volume(&self) -> PathBuf {
        self.dir.path().join("vol")
    }

    pub(crate) fn mount(&self) -> Arc<Fs> {
        let volume = patiently(|| Volume::open(&self.volume(), &*self.provider, false)).unwrap();
        Arc::new(Fs::new(volume, Arc::clone(&self.provider), Path::new("/nowhere"), 1000).unwrap())
    }

    /// A mount that writes nothing.
    pub(crate) fn mount_read_only(&self) -> Arc<Fs> {
        let volume = patiently(|| Volume::open(&self.volume(), &*self.provider, true)).unwrap();
        Arc::new(Fs::new(volume, Arc::clone(&self.provider), Path::new("/nowhere"), 1000).unwrap())
    }

    pub(crate) fn disable(&self, key: usize) {
        let request = KeyRequest { key_id: self.keys[key].clone() };
        self.service.disable_key(&Caller::current(), &request).unwrap();
    }

    pub(crate) fn enable(&self, key: usize) {
        let request = KeyRequest { key_id: self.keys[key].clone() };
        self.service.enable_key(&Caller::current(), &request).unwrap();
    }

    pub(crate) fn check(&self, options: Options) -> Report {
        self.try_check(Some(&self.provider), options).unwrap()
    }

    pub(crate) fn check_without_keys(&self) -> Report {
        self.try_check(None, Options::default()).unwrap()
    }

    pub(crate) fn repair(&self) -> Report {
        self.check(Options { repair: true, ..Options::default() })
    }

    pub(crate) fn try_check(
        &self,
        provider: Option<&Arc<dyn Provider>>,
        options: Options,
    ) -> Result<Report, VolumeError> {
        patiently(|| {
            check::check(&self.volume(), provider, options, &Progress::new(false), &AtomicBool::new(false))
                .map_err(|error| match error {
                    check::CheckError::Volume(error) => error,
                    other => panic!("{other}"),
                })
        })
    }

    /// The backing path of a path in the volume, which is not mounted.
    pub(crate) fn backing(&self, path: &str) -> PathBuf {
        let volume = patiently(|| Volume::open_to_check(&self.volume(), &*self.provider, false)).unwrap();
        self.backing_of(&volume, path)
    }

    /// The backing path of a path in an open volume.
    pub(crate) fn backing_of(&self, volume: &Volume, path: &str) -> PathBuf {
        let mut at = self.volume();
        let mut id = volume.id;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            at.push(names::seal(&volume.keys.names(id), name.as_bytes()).name);
            let mut page = [0; PAGE];
            if let Ok(record) = File::open(at.join("kmsfs.dir")) {
                record.read_exact_at(&mut page, 0).unwrap();
                id = Page::parse(&page, Kind::Directory).unwrap().head.object;
            }
        }
        at
    }

    /// The sidecar of a path with a long name.
    pub(crate) fn sidecar(&self, path: &str) -> PathBuf {
        let entry = self.backing(path);
        entry.with_file_name(names::sidecar_of(entry.file_name().unwrap().to_str().unwrap()))
    }

    /// The file that holds the target of a symbolic link.
    pub(crate) fn target(&self, link: &str) -> PathBuf {
        let text = fs::read_link(self.backing(link)).unwrap();
        self.volume()
            .join("kmsfs.targets")
            .join(text.to_str().unwrap().strip_prefix("kmsfs.target.").unwrap())
    }
}

/// Opens a volume again as long as it is locked: a program that another test starts inherits the lock
/// for a moment.
fn patiently<T>(open: impl Fn() -> Result<T, VolumeError>) -> Result<T, VolumeError> {
    let deadline = Instant::now() + Duration::from_secs(2);
    loop {
        match open() {
            Err(VolumeError::InUse { .. }) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            opened => return opened,
        }
    }
}

/// Fills an empty volume with something of everything, and unmounts it properly.
pub(crate) fn fill(bench: &Bench) {
    let fs = bench.mount();
    let mkdir = |parent, name: &str| fs.mkdir(me(), parent, OsStr::new(name), mode(0o755)).unwrap().ino;
    let dir = mkdir(ROOT_INO, "dir");
    fs.setxattr(me(), dir, OsStr::new(KEY_XATTR), bench.keys[1].as_bytes(), 0).unwrap();
    mkdir(dir, "sub");
    mkdir(ROOT_INO, "void");
    mkdir(ROOT_INO, "plain");
    for (path, chunks) in FILES {
        write(&fs, path, chunks);
    }
    write(&fs, &long_name(), &[0]);
    write(&fs, "plain/file", &[0]);
    let linked = lookup(&fs, "linked").unwrap();
    fs.link(linked, dir, OsStr::new("another-name")).unwrap();
    for (name, len) in LINKS {
        fs.symlink(me(), ROOT_INO, OsStr::new(name), OsStr::new(&"t".repeat(len))).unwrap();
    }
    fs.mknod(me(), ROOT_INO, OsStr::new("fifo"), mode(libc::S_IFIFO | 0o600), 0).unwrap();
    for ino in [ROOT_INO, dir, lookup(&fs, "small").unwrap()] {
        fs.setxattr(me(), ino, OsStr::new("user.color"), b"blue", 0).unwrap();
    }
    fs.shut_down().unwrap();
}

/// What a chunk of the sample's files holds: it differs from file to file and chunk to chunk.
fn contents(path: &str, chunk: u64) -> [u8; 8] {
    sha256(&[path.as_bytes(), &chunk.to_le_bytes()])[..8].try_into().unwrap()
}

/// Writes a few bytes to each of these chunks of a file, which is created if it is not there.
pub(crate) fn write(fs: &Fs, path: &str, chunks: &[u64]) {
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    let fh = match lookup(fs, path) {
        Some(ino) => fs.open(ino, true).unwrap(),
        None => fs.create(me(), lookup(fs, parent).unwrap(), OsStr::new(name), mode(0o644)).unwrap().1,
    };
    for &chunk in chunks {
        fs.write(fh, chunk * PAYLOAD + 100, &contents(path, chunk), false, None).unwrap();
    }
    fs.release(fh);
}

/// Whether these chunks of a file read back as [`write`] wrote them.
pub(crate) fn reads_back(fs: &Fs, path: &str, chunks: &[u64]) -> bool {
    let Some(Ok(fh)) = lookup(fs, path).map(|ino| fs.open(ino, false)) else { return false };
    let good = chunks.iter().all(|&chunk| {
        let mut out = [0; 8];
        fs.read(fh, chunk * PAYLOAD + 100, &mut out).is_ok() && out == contents(path, chunk)
    });
    fs.release(fh);
    good
}

pub(crate) fn lookup(fs: &Fs, path: &str) -> Option<u64> {
    let mut names = path.split('/').filter(|name| !name.is_empty());
    names.try_fold(ROOT_INO, |ino, name| Some(fs.lookup(ino, OsStr::new(name)).ok()?.ino))
}

/// A copy of a filled volume, to be damaged. It is filled once for all tests that run at a time, and
/// shares the key store.
pub(crate) fn sample() -> Bench {
    static FILLED: Mutex<Weak<Bench>> = Mutex::new(Weak::new());
    let mut filled = FILLED.lock().unwrap();
    let original = filled.upgrade().unwrap_or_else(|| {
        let bench = Arc::new(Bench::new());
        fill(&bench);
        *filled = Arc::downgrade(&bench);
        bench
    });
    drop(filled);
    let dir = tempfile::Builder::new().prefix("kmsfs-fsck-").tempdir_in("/var/tmp").unwrap();
    let copied = Command::new("cp")
        .args(["-a", "--sparse=always"])
        .arg(original.volume())
        .arg(dir.path().join("vol"))
        .status();
    assert!(copied.unwrap().success());
    Bench {
        dir,
        service: Arc::clone(&original.service),
        provider: Arc::clone(&original.provider),
        keys: original.keys.clone(),
        _original: Some(original),
    }
}

/// Everything in a backing directory that a check must leave as it is: types, modes, owners, times of
/// modification and change, attributes, contents.
pub(crate) fn fingerprint(dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut pending = vec![dir.to_owned()];
    while let Some(path) = pending.pop() {
        let meta = path.symlink_metadata().unwrap();
        if meta.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        let contents = if meta.is_file() { digest(&path) } else { [0; 32] };
        let target = path.read_link().unwrap_or_default();
        let mut names = vec![0; 4096];
        let len = rustix::fs::llistxattr(&path, &mut names).unwrap();
        let times = (meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec());
        let said =
            (meta.mode(), meta.ino(), meta.nlink(), meta.len(), times, target, &names[..len], contents);
        found.insert(path.strip_prefix(dir).unwrap().to_owned(), format!("{said:?}"));
    }
    found
}

/// The contents of all regular files, wherever they are.
pub(crate) fn all_contents(dir: &Path) -> BTreeMap<[u8; 32], PathBuf> {
    let mut found = BTreeMap::new();
    let mut pending = vec![dir.to_owned()];
    while let Some(path) = pending.pop() {
        let meta = path.symlink_metadata().unwrap();
        if meta.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if meta.is_file() {
            found.insert(digest(&path), path.strip_prefix(dir).unwrap().to_owned());
        }
    }
    found
}

/// A digest of a file's data and where it is; holes are passed over.
fn digest(path: &Path) -> [u8; 32] {
    use kmsfs::chunk::Backing;
    let file = File::open(path).unwrap();
    let mut digest = [0; 32];
    let mut at = 0;
    while let Some(data) = file.seek_data(at).unwrap() {
        let hole = file.seek_hole(data).unwrap();
        let mut bytes = vec![0; (hole - data) as usize];
        file.read_exact_at(&mut bytes, data).unwrap();
        // A block that was allocated and never written is no more than a hole.
        for (block, offset) in bytes.chunks(PAGE).zip((data..).step_by(PAGE)) {
            if block.iter().any(|&b| b != 0) {
                digest = sha256(&[&digest, &offset.to_le_bytes(), block]);
            }
        }
        at = hole;
    }
    sha256(&[&digest, &file.metadata().unwrap().len().to_le_bytes()])
}

/// Where a chunk's unit lies.
pub(crate) fn unit(chunk: u64) -> u64 {
    Layout::default().unit_offset(chunk)
}

pub(crate) fn flip(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x40], at).unwrap();
}

pub(crate) fn overwrite(path: &Path, at: u64, bytes: &[u8]) {
    File::options().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
}

pub(crate) fn block(path: &Path, at: u64) -> Vec<u8> {
    let mut bytes = vec![0; PAGE];
    File::open(path).unwrap().read_exact_at(&mut bytes, at).unwrap();
    bytes
}

pub(crate) fn mode(mode: u32) -> NewMode {
    NewMode { mode, umask: 0 }
}

pub(crate) fn me() -> Requester {
    Requester {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        pid: std::process::id(),
    }
}
