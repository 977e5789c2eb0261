//! A volume of every released format opens for ever: `tests/volumes/` keeps them as they were
//! written, each with its key store, the public key file that opens that, and a listing of all that is in it.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use data_encoding::HEXLOWER;
use kmsfs::clock::SystemClock;
use kmsfs::crypto::kdf::sha256;
use kmsfs::fs::{
    Allocate, Attr, FileKind, Fs, KEY_XATTR, NewMode, REENCRYPT_XATTR, ROOT_INO, Requester, SetAttr, Volume,
};
use kmsfs::kms::api::{AliasRequest, CreateKeyRequest};
use kmsfs::kms::{Caller, Costs, Service, StoreOptions, UnlockSecret};
use kmsfs::provider::{Embedded, Provider};
use kmsfs::secret::Passphrase;

/// Plaintext bytes of a chunk.
const PAYLOAD: u64 = 4_064;
/// What opens the key stores. It is no secret.
const KEY_FILE: &[u8] =
    b"This key file is public; it opens the key stores of the golden volumes, and nothing else.";
/// Read around holes: as many chunks from every place where a file may have data.
const SAMPLES: [u64; 7] = [0, 127, 128, 1_143, 1_144, 32_639, 32_640];

#[test]
fn every_released_volume_reads_back_and_can_be_written() {
    for dir in fs::read_dir(volumes()).unwrap().map(|entry| entry.unwrap().path()) {
        let version = dir.file_name().unwrap().to_str().unwrap().to_owned();
        let world = World::unpack(&dir.join("volume.tar.gz"));
        let expected = fs::read_to_string(dir.join("listing")).unwrap();
        let fs = world.mount();
        assert!(!fs.volume().is_recovering(), "{version}: it was unmounted properly");
        same(&version, &listing(&fs), &expected);
        let finished = finish_reencryptions(&fs);
        assert_eq!(finished, expected.matches(" being re-encrypted").count(), "{version}");
        let afterwards = expected.replace(" being re-encrypted", "").replace(" unsettled", " settled");
        same(&version, &listing(&fs), &afterwards);
        write_everywhere(&fs, &version);
        fs.shut_down().unwrap();
        drop(fs);

        let fs = world.mount();
        assert!(fs.volume().began_settled() != expected.contains(" unsettled"), "{version}");
        for (path, attr) in walk(&fs) {
            if attr.kind == FileKind::Regular {
                let fh = fs.open(attr.ino, false).unwrap();
                let mut out = [0; 7];
                fs.read(fh, 0, &mut out).unwrap();
                assert_eq!(&out, b"written", "{version}: {path:?}");
                fs.release(fh);
            }
        }
    }
}

/// Goes on with every re-encryption to its end; answers how many there were.
fn finish_reencryptions(fs: &Fs) -> usize {
    let step = |attr: &Attr| fs.setxattr(me(), attr.ino, OsStr::new(REENCRYPT_XATTR), b"", 0);
    let files = walk(fs).into_values().filter(|attr| attr.kind == FileKind::Regular);
    let finished = files.filter(|attr| {
        let begun = fs.getxattr(attr.ino, OsStr::new(REENCRYPT_XATTR)).is_ok();
        while begun && step(attr).is_ok() {}
        begun
    });
    let finished = finished.count();
    fs.settle_closed();
    finished
}

/// Writes to every file, makes new ones, and settles.
fn write_everywhere(fs: &Fs, version: &str) {
    for (path, attr) in walk(fs) {
        match attr.kind {
            FileKind::Regular => {
                let fh = fs.open(attr.ino, true).unwrap_or_else(|e| panic!("{version}: {path:?}: {e}"));
                fs.write(fh, 0, b"written", false, None).unwrap();
                fs.release(fh);
            }
            FileKind::Directory => {
                let (_, fh) = fs.create(me(), attr.ino, OsStr::new("new"), mode(0o600)).unwrap();
                fs.write(fh, 0, b"written", false, None).unwrap();
                fs.release(fh);
            }
            _ => {}
        }
    }
    fs.settle_closed();
}

fn same(version: &str, found: &str, expected: &str) {
    for (found, expected) in found.lines().zip(expected.lines()) {
        assert_eq!(found, expected, "{version}");
    }
    assert_eq!(found.lines().count(), expected.lines().count(), "{version}");
}

/// A key store and a volume in a temporary directory.
struct World {
    dir: tempfile::TempDir,
    service: Arc<Service>,
    provider: Arc<dyn Provider>,
}

impl World {
    fn unpack(tar: &Path) -> Self {
        // Names and holes survive in it; attributes of the user namespace too.
        let dir = tempfile::tempdir().unwrap();
        let unpacked = Command::new("tar")
            .args(["--xattrs", "--xattrs-include=user.*", "--no-same-owner", "-xzf"])
            .arg(tar)
            .arg("-C")
            .arg(dir.path())
            .status();
        assert!(unpacked.unwrap().success(), "{}", tar.display());
        let secret = UnlockSecret::KeyFile(Passphrase::new(KEY_FILE.to_vec()));
        let service = Service::open(&dir.path().join("keys"), &secret, Arc::new(SystemClock)).unwrap();
        Self::of(dir, service)
    }

    fn of(dir: tempfile::TempDir, service: Arc<Service>) -> Self {
        let provider = Arc::new(Embedded::new(Arc::clone(&service), Caller::current()));
        Self { dir, service, provider }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("volume")
    }

    fn mount(&self) -> Fs {
        let volume = Volume::open(&self.root(), &*self.provider, false).unwrap();
        Fs::new(volume, Arc::clone(&self.provider), &self.dir.path().join("mnt"), 1_000).unwrap()
    }
}

/// Everything in a volume, one line for each path: what it is, its size and sum, its attributes.
fn listing(fs: &Fs) -> String {
    let mut out = String::new();
    for (path, attr) in walk(fs) {
        let shown: String =
            path.iter().flat_map(|&b| std::ascii::escape_default(b)).map(char::from).collect();
        write!(out, "{} {:o} {shown:?}", kind_of(&attr), attr.mode).unwrap();
        match attr.kind {
            FileKind::Regular => out.push_str(&contents(fs, &attr)),
            FileKind::Symlink => {
                let target = fs.readlink(attr.ino).unwrap();
                write!(out, " to {} bytes {}", target.len(), HEXLOWER.encode(&sha256(&[&target]))).unwrap();
            }
            _ => {}
        }
        for (name, value) in xattrs(fs, attr.ino) {
            write!(out, " {name}={}", HEXLOWER.encode(&sha256(&[&value])[..8])).unwrap();
        }
        out.push('\n');
    }
    out
}

fn kind_of(attr: &Attr) -> &'static str {
    match attr.kind {
        FileKind::Regular => "file",
        FileKind::Directory => "directory",
        FileKind::Symlink => "link",
        FileKind::Fifo => "fifo",
        _ => "other",
    }
}

/// A file's size, whether it is settled, its key's alias, and the sum of its chunks that may have
/// data.
fn contents(fs: &Fs, attr: &Attr) -> String {
    let fh = fs.open(attr.ino, false).unwrap();
    let info = fs.getxattr(attr.ino, OsStr::new(kmsfs::fs::INFO_XATTR)).unwrap();
    let info: serde_json::Value = serde_json::from_slice(&info).unwrap();
    let mut all = Vec::new();
    let end = attr.size.div_ceil(PAYLOAD);
    let near = |chunk: u64| SAMPLES.iter().any(|sample| chunk.abs_diff(*sample) < 20);
    for chunk in (0..end).filter(|&chunk| near(chunk) || chunk + 1 == end) {
        let mut bytes = vec![0; PAYLOAD as usize];
        let len = fs.read(fh, chunk * PAYLOAD, &mut bytes).unwrap();
        all.extend_from_slice(&chunk.to_le_bytes());
        all.extend_from_slice(&bytes[..len]);
    }
    fs.release(fh);
    let state = if info["settled"] == true { "settled" } else { "unsettled" };
    let half_done = if info["being_reencrypted"] == true { " being re-encrypted" } else { "" };
    let (size, links) = (attr.size, attr.nlink);
    format!(" {size} bytes {state}{half_done} {links} links {}", HEXLOWER.encode(&sha256(&[&all])))
}

fn xattrs(fs: &Fs, ino: u64) -> BTreeMap<String, Vec<u8>> {
    let names = fs.listxattr(me(), ino).unwrap();
    let names = names.split(|&b| b == 0).filter(|name| name.starts_with(b"user."));
    let value = |name: &[u8]| {
        (String::from_utf8(name.to_vec()).unwrap(), fs.getxattr(ino, OsStr::from_bytes(name)).unwrap())
    };
    names.map(value).collect()
}

/// Every path with its attributes, in order; the root is the empty path.
fn walk(fs: &Fs) -> BTreeMap<Vec<u8>, Attr> {
    let mut found = BTreeMap::from([(Vec::new(), fs.getattr(ROOT_INO).unwrap())]);
    let mut pending = vec![(ROOT_INO, Vec::new())];
    while let Some((dir, path)) = pending.pop() {
        let fh = fs.opendir(dir).unwrap();
        let mut names = Vec::new();
        let take = |entry: &kmsfs::fs::DirEntry| {
            if !entry.is_dot() {
                names.push(entry.name.clone());
            }
            ControlFlow::Continue(())
        };
        fs.readdir(fh, 0, take).unwrap();
        fs.releasedir(fh);
        for name in names {
            let attr = fs.lookup(dir, &name).unwrap();
            let path = [&path[..], b"/", name.as_bytes()].concat();
            if attr.kind == FileKind::Directory {
                pending.push((attr.ino, path.clone()));
            }
            found.insert(path, attr);
        }
    }
    found
}

fn volumes() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/volumes")
}

fn mode(mode: u32) -> NewMode {
    NewMode { mode, umask: 0 }
}

fn me() -> Requester {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    Requester { uid: uid.as_raw(), gid: gid.as_raw(), pid: std::process::id() }
}

/// How the volumes were made. Run it once for each released format, with the program of that release:
/// `cargo test --test golden -- --ignored`. It never changes one that is there.
#[test]
#[ignore = "writes tests/volumes"]
fn make_a_volume_of_this_format() {
    let place = new_place("");
    let (world, keys) = World::new();
    let fs = world.mount();
    fill(&fs, &keys[1]);
    fs.shut_down().unwrap();
    drop(fs);
    // One file stays unsettled: its key is gone when the mount ends.
    let fs = world.mount();
    let found = fs.lookup(ROOT_INO, OsStr::new("unsettled")).unwrap();
    let fh = fs.open(found.ino, true).unwrap();
    fs.write(fh, PAYLOAD, &pattern(3, 500), false, None).unwrap();
    let guard = {
        let fs = Arc::new(fs);
        let guard = world.service.watch(Arc::new(kmsfs::fs::Watcher(Arc::clone(&fs))));
        world.switch(&keys[0], false);
        fs.shut_down().unwrap();
        guard
    };
    drop(guard);
    world.switch(&keys[0], true);
    pack(&world, &place);
}

/// The same with files that are in the midst of being re-encrypted, at every stage of it.
#[test]
#[ignore = "writes tests/volumes"]
fn make_a_volume_that_is_being_reencrypted() {
    let place = new_place("-reencrypting");
    let (world, keys) = World::new();
    let fs = world.mount();
    fill(&fs, &keys[1]);
    let reencrypt = |ino: u64, steps: usize| {
        let name = OsStr::new(REENCRYPT_XATTR);
        fs.setxattr(me(), ino, name, keys[1].as_bytes(), 0).unwrap();
        // One with two names comes twice, and may be done earlier.
        for _ in 0..steps {
            let _ = fs.setxattr(me(), ino, name, b"", 0);
        }
    };
    for (path, attr) in walk(&fs).into_iter().filter(|(_, attr)| attr.kind == FileKind::Regular) {
        // Some are only begun, some sealed anew and not finished, some are done.
        reencrypt(attr.ino, path.len() % 3);
        if path.ends_with(b"unsettled") {
            let fh = fs.open(attr.ino, true).unwrap();
            fs.write(fh, PAYLOAD, &pattern(3, 500), false, None).unwrap();
            fs.release(fh);
        }
    }
    let punched = fs.lookup(ROOT_INO, OsStr::new("sparse")).unwrap().ino;
    let fh = fs.open(punched, true).unwrap();
    // A map page under the new key, among others that are not.
    fs.fallocate(me(), fh, 128 * PAYLOAD, PAYLOAD, Allocate::PunchHole).unwrap();
    fs.release(fh);
    fs.shut_down().unwrap();
    drop(fs);
    pack(&world, &place);
}

fn new_place(what: &str) -> PathBuf {
    let place = volumes().join(format!("v{}{what}", kmsfs::format::VERSION));
    fs::create_dir_all(volumes()).unwrap();
    assert!(fs::create_dir(&place).is_ok(), "a released format stays as it is");
    place
}

impl World {
    /// A new one, with an empty volume under the first of two master keys.
    fn new() -> (Self, [String; 2]) {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let secret = UnlockSecret::KeyFile(Passphrase::new(KEY_FILE.to_vec()));
        let options =
            StoreOptions { costs: Costs { memory_kib: 32, passes: 1, lanes: 1 }, ..StoreOptions::default() };
        let service =
            Service::create(&dir.path().join("keys"), &secret, &options, Arc::new(SystemClock)).unwrap();
        let world = Self::of(dir, service);
        let keys = ["alias/first", "alias/second"].map(|alias| world.key(alias));
        fs::create_dir(world.root()).unwrap();
        Volume::create(&world.root(), &*world.provider, &keys[0]).unwrap();
        (world, keys)
    }

    fn key(&self, alias: &str) -> String {
        let caller = Caller::current();
        let made = self.service.create_key(&caller, &CreateKeyRequest::default()).unwrap();
        let (alias_name, target_key_id) = (alias.to_owned(), made.key_id.to_string());
        self.service.create_alias(&caller, &AliasRequest { alias_name, target_key_id }).unwrap();
        made.arn
    }

    fn switch(&self, key: &str, on: bool) {
        let request = kmsfs::kms::api::KeyRequest { key_id: key.to_owned() };
        let caller = Caller::current();
        if on {
            self.service.enable_key(&caller, &request).unwrap();
        } else {
            self.service.disable_key(&caller, &request).unwrap();
        }
    }
}

fn pattern(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 251 + seed) as u8 | 1).collect()
}

/// Names, targets, attributes and files of every kind.
fn fill(fs: &Fs, second_key: &str) {
    let dir = fs.mkdir(me(), ROOT_INO, OsStr::new("second"), mode(0o750)).unwrap().ino;
    fs.setxattr(me(), dir, OsStr::new(KEY_XATTR), second_key.as_bytes(), 0).unwrap();
    fs.setxattr(me(), dir, OsStr::new("user.of a directory"), b"x", 0).unwrap();
    let inner = fs.mkdir(me(), dir, OsStr::new(&"d".repeat(200)), mode(0o700)).unwrap().ino;
    let not_utf8 = [b'n', 0xff, 0xfe, b' ', b'\n'];
    let long: Vec<String> = [160, 161, 255].iter().map(|len| "l".repeat(*len)).collect();
    let names: Vec<&OsStr> =
        [b"1".as_slice(), &not_utf8, b"kmsfs.volume", b"kmsfs.long.x", "\u{e9}\u{1f512}".as_bytes()]
            .into_iter()
            .map(OsStr::from_bytes)
            .chain(long.iter().map(OsStr::new))
            .collect();
    for (index, name) in names.iter().enumerate() {
        write(fs, [ROOT_INO, dir, inner][index % 3], name, &[(0, &pattern(index, index * 600))]);
    }
    let file = write(fs, inner, OsStr::new("with attributes"), &[(0, b"contents")]);
    for (name, value) in
        [("user.empty", &b""[..]), ("user.long", &pattern(1, 900)), ("user.\u{e9}", b"\0\xff")]
    {
        fs.setxattr(me(), file, OsStr::new(name), value, 0).unwrap();
    }
    fs.link(file, ROOT_INO, OsStr::new("linked")).unwrap();
    write(fs, ROOT_INO, OsStr::new("empty"), &[]);
    write(fs, ROOT_INO, OsStr::new("full chunk"), &[(0, &pattern(5, PAYLOAD as usize))]);
    write(fs, ROOT_INO, OsStr::new("unsettled"), &[(0, &pattern(6, 3 * PAYLOAD as usize))]);
    // Floors in the header, in pages of level 1, and of level 2.
    let some = pattern(9, 300);
    let places: Vec<(u64, &[u8])> = SAMPLES.iter().map(|chunk| (chunk * PAYLOAD + 9, &some[..])).collect();
    write(fs, ROOT_INO, OsStr::new("sparse"), &places);
    let cut = write(fs, dir, OsStr::new("cut and punched"), &[(0, &pattern(8, 6 * PAYLOAD as usize))]);
    fs.settle_closed();
    let fh = fs.open(cut, true).unwrap();
    fs.fallocate(me(), fh, PAYLOAD, 2 * PAYLOAD, Allocate::PunchHole).unwrap();
    fs.release(fh);
    fs.setattr(me(), cut, None, &SetAttr { size: Some(5 * PAYLOAD - 100), ..SetAttr::default() }).unwrap();
    for (index, len) in [1, 20, 2_900, 4_095].into_iter().enumerate() {
        let target = pattern(index, len);
        let name = format!("link {len}");
        fs.symlink(me(), [ROOT_INO, dir][index % 2], OsStr::new(&name), OsStr::from_bytes(&target)).unwrap();
    }
    fs.mknod(me(), dir, OsStr::new("fifo"), mode(libc::S_IFIFO | 0o600), 0).unwrap();
}

fn write(fs: &Fs, dir: u64, name: &OsStr, parts: &[(u64, &[u8])]) -> u64 {
    let (attr, fh) = fs.create(me(), dir, name, mode(0o640)).unwrap();
    for (at, data) in parts {
        fs.write(fh, *at, data, false, None).unwrap();
    }
    fs.release(fh);
    attr.ino
}

fn pack(world: &World, place: &Path) {
    fs::write(place.join("key-file"), KEY_FILE).unwrap();
    let packed = Command::new("tar")
        .args(["--sparse", "--xattrs", "--xattrs-include=user.*", "--sort=name", "--numeric-owner", "-C"])
        .arg(world.dir.path())
        .args(["-czf"])
        .arg(place.join("volume.tar.gz"))
        .args(["keys/store.redb", "volume"])
        .status();
    assert!(packed.unwrap().success());
    let unpacked = World::unpack(&place.join("volume.tar.gz"));
    fs::write(place.join("listing"), listing(&unpacked.mount())).unwrap();
}
