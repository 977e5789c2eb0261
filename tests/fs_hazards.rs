#![allow(clippy::unwrap_used)]
use kmsfs::fs::{FileKind, Fs, Requester, Volume};
use kmsfs::kms::api::CreateKeyRequest;
use kmsfs::kms::*;
use kmsfs::provider::{Embedded, Provider};
use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

fn provider(dir: &Path) -> (Arc<dyn Provider>, String) {
    let costs = Costs { memory_kib: 32, passes: 1, lanes: 1 };
    let secret = UnlockSecret::KeyFile(kmsfs_passphrase());
    let s = Service::create(
        dir,
        &secret,
        &StoreOptions { costs, ..Default::default() },
        Arc::new(kmsfs::clock::SystemClock),
    )
    .unwrap();
    let caller = Caller::current();
    let key = s.create_key(&caller, &CreateKeyRequest::default()).unwrap();
    (Arc::new(Embedded::new(s, caller)), key.arn)
}
fn kmsfs_passphrase() -> kmsfs::secret::Passphrase {
    kmsfs::secret::Passphrase::new(vec![7; 64])
}
fn mount(dir: &Path, p: &Arc<dyn Provider>) -> Fs {
    Fs::new(Volume::open(dir, &**p, false).unwrap(), Arc::clone(p), Path::new("/x"), 1000).unwrap()
}
fn me() -> Requester {
    Requester { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() }
}
fn backing(dir: &Path) -> std::path::PathBuf {
    std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .find(|p| !p.file_name().unwrap().to_str().unwrap().starts_with("kmsfs."))
        .unwrap()
}

#[test]
fn overwrite_with_mark_lost() {
    let t = tempfile::tempdir().unwrap();
    let (p, arn) = provider(&t.path().join("store"));
    let dir = t.path().join("v");
    std::fs::create_dir(&dir).unwrap();
    Volume::create(&dir, &*p, &arn).unwrap();
    let fs = mount(&dir, &p);
    let (_, fh) = fs.create(me(), 1, OsStr::new("a"), 0o600).unwrap();
    fs.write(fh, 0, &vec![1; 16256], false, false).unwrap();
    fs.release(fh);
    fs.shut_down().unwrap();
    drop(fs);
    let file = backing(&dir);
    let header = std::fs::read(&file).unwrap()[..4096].to_vec();
    let fs = mount(&dir, &p);
    let ino = fs.lookup(1, OsStr::new("a")).unwrap().ino;
    let fh = fs.open(ino, true).unwrap();
    fs.write(fh, 4064, &vec![2; 4064], false, false).unwrap();
    drop(fs); // the machine stops
    {
        use std::os::unix::fs::FileExt;
        std::fs::File::options().write(true).open(&file).unwrap().write_all_at(&header, 0).unwrap();
    }
    let fs = mount(&dir, &p);
    println!("listing: {:?}", fs.readdir(fs.opendir(1).unwrap(), 0).map(|i| i.count()));
    fs.recover(&AtomicBool::new(false));
    let ino = fs.lookup(1, OsStr::new("a")).unwrap().ino;
    let fh = fs.open(ino, false).unwrap();
    let mut out = [0; 5];
    fs.read(fh, 4064, &mut out).unwrap();
    println!("recovering mount reads {out:?}");
    fs.release(fh);
    fs.shut_down().unwrap();
    drop(fs);
    let fs = mount(&dir, &p);
    assert!(!fs.volume().is_recovering());
    let ino = fs.lookup(1, OsStr::new("a")).unwrap().ino;
    let fh = fs.open(ino, false).unwrap();
    fs.read(fh, 4064, &mut out).unwrap();
}

#[test]
fn record_of_a_directory_with_long_names() {
    let t = tempfile::tempdir().unwrap();
    let (p, arn) = provider(&t.path().join("store"));
    let dir = t.path().join("v");
    std::fs::create_dir(&dir).unwrap();
    Volume::create(&dir, &*p, &arn).unwrap();
    let fs = mount(&dir, &p);
    let d = fs.mkdir(me(), 1, OsStr::new("d"), 0o700).unwrap();
    assert_eq!(d.kind, FileKind::Directory);
    let long = "n".repeat(200);
    let (_, fh) = fs.create(me(), d.ino, OsStr::new(&long), 0o600).unwrap();
    fs.release(fh);
    fs.shut_down().unwrap();
    drop(fs);
    std::fs::remove_file(backing(&dir).join("kmsfs.dir")).unwrap();
    let fs = mount(&dir, &p);
    let d = fs.lookup(1, OsStr::new("d")).unwrap();
    fs.lookup(d.ino, OsStr::new(&long)).unwrap();
}

#[test]
fn directory_attributes_are_bound_to_their_directory() {
    let t = tempfile::tempdir().unwrap();
    let (p, arn) = provider(&t.path().join("store"));
    let dir = t.path().join("v");
    std::fs::create_dir(&dir).unwrap();
    Volume::create(&dir, &*p, &arn).unwrap();
    let fs = mount(&dir, &p);
    let a = fs.mkdir(me(), 1, OsStr::new("a"), 0o700).unwrap();
    let before: Vec<_> =
        std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_dir()).collect();
    fs.setxattr(a.ino, OsStr::new("user.role"), b"admin", 0).unwrap();
    let b = fs.mkdir(me(), 1, OsStr::new("b"), 0o700).unwrap();
    let pb = std::fs::read_dir(&dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .find(|p| p.is_dir() && !before.contains(p))
        .unwrap();
    let pa = &before[0];
    let mut list = vec![0; 4096];
    let n = rustix::fs::listxattr(pa, &mut list).unwrap();
    let name = list[..n].split(|&c| c == 0).find(|n| n.starts_with(b"user.kmsfs.x.")).unwrap();
    let mut v = vec![0; 4096];
    let n = rustix::fs::getxattr(pa, name, &mut v).unwrap();
    rustix::fs::setxattr(&pb, name, &v[..n], rustix::fs::XattrFlags::empty()).unwrap();
    println!("own: {:?}", fs.getxattr(a.ino, OsStr::new("user.role")));
    let got = fs.getxattr(b.ino, OsStr::new("user.role"));
    println!("moved attribute: {got:?}");
    assert!(got.is_err());
}
