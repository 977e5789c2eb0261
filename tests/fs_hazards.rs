//! Orders of events in which a volume once lost or showed what it must not.
#![allow(clippy::unwrap_used)]

#[path = "common/unmounted.rs"]
mod unmounted;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use kmsfs::format::PAGE_LEN;
use kmsfs::fs::{
    Fs, FsError, NewMode, ROOT_INO, Requester, SetAttr, SetTime, Time, WRAP_XATTR, Watcher, Wrapping,
};
use kmsfs::kms::api::KeyRequest;
use kmsfs::kms::{Caller, DataKey, EncryptionContext, KeyMetadata, KeyWatcher, UnwrappedDataKey};
use kmsfs::provider::{Provider, ProviderError};
use rustix::fs::XattrFlags;
use unmounted::Unmounted;

const PAYLOAD: usize = 4064;
/// Enough for another thread to go on, as a rule.
const MOMENT: Duration = Duration::from_millis(200);

impl Unmounted {
    /// The backing entries that are no record of kmsfs's own.
    fn entries(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path()).unwrap().map(|e| e.unwrap().path());
        entries.filter(|p| !p.file_name().unwrap().to_str().unwrap().starts_with("kmsfs.")).collect()
    }

    /// How many descriptors of files in the volume this process has.
    fn descriptors(&self) -> u64 {
        let of_volume = |entry: std::io::Result<fs::DirEntry>| {
            fs::read_link(entry.unwrap().path()).is_ok_and(|target| target.starts_with(self.path()))
        };
        fs::read_dir("/proc/self/fd").unwrap().map(of_volume).filter(|&ours| ours).count() as u64
    }

    fn key_request(&self) -> KeyRequest {
        KeyRequest { key_id: self.key.clone() }
    }
}

fn mode(mode: u32) -> NewMode {
    NewMode { mode, umask: 0 }
}

fn me() -> Requester {
    Requester {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        pid: std::process::id(),
    }
}

/// Creates a file, or opens it, and writes to it; leaves it open.
fn write(fs: &Fs, name: &str, at: u64, data: &[u8]) -> u64 {
    let fh = match fs.lookup(ROOT_INO, OsStr::new(name)) {
        Ok(attr) => fs.open(attr.ino, true).unwrap(),
        Err(_) => fs.create(me(), ROOT_INO, OsStr::new(name), mode(0o600)).unwrap().1,
    };
    fs.write(fh, at, data, false, None).unwrap();
    fh
}

fn read(fs: &Fs, name: &str, at: u64, len: usize) -> Result<Vec<u8>, FsError> {
    let fh = fs.open(fs.lookup(ROOT_INO, OsStr::new(name))?.ino, false)?;
    let mut out = vec![0; len];
    let outcome = fs.read(fh, at, &mut out);
    fs.release(fh);
    outcome.map(|_| out)
}

/// A volume with a file of four chunks of ones, settled and unmounted properly.
fn settled_file() -> (Unmounted, PathBuf) {
    let volume = Unmounted::new();
    let fs = volume.mount();
    fs.release(write(&fs, "a", 0, &[1; 4 * PAYLOAD]));
    fs.shut_down().unwrap();
    drop(fs);
    let file = volume.entries().remove(0);
    (volume, file)
}

/// Overwrites the second chunk with twos; then the machine stops, and the header on disk is still
/// the one from before.
fn crash_with_the_mark_lost(volume: &Unmounted, file: &PathBuf) {
    let header = fs::read(file).unwrap()[..PAGE_LEN].to_vec();
    let fs = volume.mount();
    write(&fs, "a", PAYLOAD as u64, &[2; PAYLOAD]);
    drop(fs);
    File::options().write(true).open(file).unwrap().write_all_at(&header, 0).unwrap();
}

#[test]
fn an_overwrite_whose_mark_was_lost_in_a_crash_stays_readable() {
    let (volume, file) = settled_file();
    crash_with_the_mark_lost(&volume, &file);
    let fs = volume.mount();
    fs.recover(&|| false);
    assert_eq!(read(&fs, "a", PAYLOAD as u64, 5).unwrap(), [2; 5]);
    fs.shut_down().unwrap();
    drop(fs);
    let fs = volume.mount();
    assert!(!fs.volume().is_recovering());
    assert_eq!(read(&fs, "a", PAYLOAD as u64, 5).unwrap(), [2; 5]);
}

#[test]
fn a_damaged_interrupted_file_does_not_keep_a_mount_from_ending() {
    let (volume, file) = settled_file();
    crash_with_the_mark_lost(&volume, &file);
    File::options().write(true).open(&file).unwrap().write_all_at(b"x", 3 * PAGE_LEN as u64 + 99).unwrap();
    for _ in 0..2 {
        let fs = volume.mount();
        fs.recover(&|| false);
        assert_eq!(read(&fs, "a", 2 * PAYLOAD as u64, 5).unwrap_err().errno(), libc::EIO);
        assert_eq!(read(&fs, "a", PAYLOAD as u64, 5).unwrap(), [2; 5], "its other chunks are fine");
        fs.shut_down().unwrap();
        assert!(fs.volume().is_recovering(), "it is still to be recovered");
    }
}

#[test]
fn a_file_left_unsettled_under_a_disabled_key_is_readable_once_the_key_is_enabled() {
    let volume = Unmounted::new();
    let fs = volume.mount();
    let guard = volume.service.watch(Arc::new(Watcher(Arc::clone(&fs))));
    fs.release(write(&fs, "a", 0, &[1; PAYLOAD]));
    volume.service.disable_key(&Caller::current(), &volume.key_request()).unwrap();
    fs.shut_down().unwrap();
    drop((guard, fs));
    // A mount in between that does not touch the file.
    volume.mount().shut_down().unwrap();
    volume.service.enable_key(&Caller::current(), &volume.key_request()).unwrap();
    let fs = volume.mount();
    assert_eq!(read(&fs, "a", 0, 5).unwrap(), [1; 5]);
}

#[test]
fn a_file_that_could_not_be_settled_for_its_key_is_settled_when_that_is_enabled() {
    let volume = Unmounted::new();
    let fs = volume.mount();
    let guard = volume.service.watch(Arc::new(Watcher(Arc::clone(&fs))));
    fs.release(write(&fs, "a", 0, &[1; PAYLOAD]));
    let ino = fs.lookup(ROOT_INO, OsStr::new("a")).unwrap().ino;
    volume.service.disable_key(&Caller::current(), &volume.key_request()).unwrap();
    fs.settle_closed();
    fs.forget(ino, 2);
    volume.service.enable_key(&Caller::current(), &volume.key_request()).unwrap();
    fs.shut_down().unwrap();
    drop((guard, fs));
    assert!(volume.mount().volume().began_settled());
}

#[test]
fn an_old_header_is_refused_on_a_volume_where_every_file_was_settled() {
    let volume = Unmounted::new();
    let fs = volume.mount();
    let fh = write(&fs, "a", 0, &[1; PAYLOAD]);
    let file = volume.entries().remove(0);
    let unsettled = fs::read(&file).unwrap()[..PAGE_LEN].to_vec();
    fs.release(fh);
    fs.shut_down().unwrap();
    drop(fs);
    File::options().write(true).open(&file).unwrap().write_all_at(&unsettled, 0).unwrap();
    assert_eq!(read(&volume.mount(), "a", 0, 5).unwrap_err().errno(), libc::EIO);
}

#[test]
fn a_file_whose_header_was_erased_is_damaged_or_after_a_crash_empty() {
    let (volume, file) = settled_file();
    File::options().write(true).open(&file).unwrap().set_len(0).unwrap();
    let fs = volume.mount();
    assert_eq!(read(&fs, "a", 0, 5).unwrap_err().errno(), libc::EIO);
    drop(fs);
    // That mount ended in a crash: now the file may be one that was never durable.
    let fs = volume.mount();
    assert_eq!(fs.lookup(ROOT_INO, OsStr::new("a")).unwrap().size, 0);
    fs.release(write(&fs, "a", 0, b"anew"));
    fs.recover(&|| false);
    fs.shut_down().unwrap();
    drop(fs);
    assert_eq!(read(&volume.mount(), "a", 0, 4).unwrap(), b"anew");
}

#[test]
fn a_lost_record_of_a_directory_is_rebuilt_from_its_long_names() {
    let volume = Unmounted::new();
    let long = "n".repeat(200);
    let fs = volume.mount();
    let dir = fs.mkdir(me(), ROOT_INO, OsStr::new("d"), mode(0o700)).unwrap();
    let (_, fh) = fs.create(me(), dir.ino, OsStr::new(&long), mode(0o600)).unwrap();
    fs.release(fh);
    fs.shut_down().unwrap();
    drop(fs);
    fs::remove_file(volume.entries().remove(0).join("kmsfs.dir")).unwrap();
    let fs = volume.mount();
    let dir = fs.lookup(ROOT_INO, OsStr::new("d")).unwrap();
    fs.lookup(dir.ino, OsStr::new(&long)).unwrap();
}

#[test]
fn either_copy_of_the_volume_page_is_enough() {
    for lost in ["kmsfs.volume", "kmsfs.volume.copy"] {
        let (volume, _) = settled_file();
        fs::remove_file(volume.path().join(lost)).unwrap();
        let fs = volume.mount();
        assert_eq!(read(&fs, "a", 0, 5).unwrap(), [1; 5]);
        fs.shut_down().unwrap();
        assert!(volume.path().join(lost).exists(), "{lost} was made anew");
    }
}

#[test]
fn settling_leaves_attributes_as_they_were() {
    let volume = Unmounted::new();
    let fs = volume.mount();
    let fh = write(&fs, "a", 0, b"program");
    let ino = fs.lookup(ROOT_INO, OsStr::new("a")).unwrap().ino;
    let long_ago = SetTime::At(Time { seconds: -1, nanoseconds: 5 });
    let set = SetAttr { mode: Some(0o6755), mtime: long_ago, ..SetAttr::default() };
    fs.setattr(me(), ino, Some(fh), &set).unwrap();
    // cap_net_raw=ep, as capabilities(7) lays it out.
    let capability = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let name = OsStr::new("security.capability");
    assert_eq!(fs.getxattr(ino, name).unwrap_err().errno(), libc::ENODATA);
    // Only root may.
    let capable = fs.setxattr(me(), ino, name, &capability, 0).is_ok();
    let before = fs.getattr(ino).unwrap();
    fs.release(fh);
    fs.shut_down().unwrap();
    drop(fs);

    let fs = volume.mount();
    let after = fs.lookup(ROOT_INO, OsStr::new("a")).unwrap();
    assert_eq!((after.mode, after.mtime), (0o6755, before.mtime));
    assert_eq!(fs.getxattr(ino, name).is_ok_and(|value| value == capability), capable);
}

#[test]
fn attributes_of_a_directory_are_bound_to_it() {
    let volume = Unmounted::new();
    let fs = volume.mount();
    let first = fs.mkdir(me(), ROOT_INO, OsStr::new("a"), mode(0o700)).unwrap();
    let from = volume.entries().remove(0);
    fs.setxattr(me(), first.ino, OsStr::new("user.role"), b"admin", 0).unwrap();
    let second = fs.mkdir(me(), ROOT_INO, OsStr::new("b"), mode(0o700)).unwrap();
    let to = volume.entries().into_iter().find(|entry| *entry != from).unwrap();
    let mut names = vec![0; 4096];
    let len = rustix::fs::listxattr(&from, &mut names).unwrap();
    let name = names[..len].split(|&b| b == 0).find(|name| name.starts_with(b"user.kmsfs.x.")).unwrap();
    let mut value = vec![0; 4096];
    let len = rustix::fs::getxattr(&from, name, &mut value).unwrap();
    rustix::fs::setxattr(&to, name, &value[..len], XattrFlags::empty()).unwrap();
    assert_eq!(fs.getxattr(first.ino, OsStr::new("user.role")).unwrap(), b"admin");
    assert_eq!(fs.getxattr(second.ino, OsStr::new("user.role")).unwrap_err().errno(), libc::EIO);
}

#[test]
fn many_open_files_leave_fewer_descriptors_to_inodes() {
    const LIMIT: u64 = 400;
    let volume = Unmounted::new();
    let fs = volume.mount_within(LIMIT);
    let settling = Arc::clone(&fs);
    let settler = std::thread::spawn(move || settling.run_settler());
    let held = || volume.descriptors();
    let files: Vec<_> = (0..LIMIT * 3 / 4).map(|i| write(&fs, &i.to_string(), 0, b"contents")).collect();
    assert!(held() <= LIMIT, "{} descriptors", held());
    for fh in files {
        let mut found = [0; 8];
        assert_eq!(fs.read(fh, 0, &mut found).unwrap(), 8);
        fs.release(fh);
    }
    assert!(held() <= LIMIT, "{} descriptors", held());
    fs.stop_settler();
    settler.join().unwrap();
}

#[test]
fn a_tree_may_be_larger_than_the_limit_of_descriptors() {
    const LIMIT: u64 = 64;
    let volume = Unmounted::new();
    let fs = volume.mount_within(LIMIT);
    let settling = Arc::clone(&fs);
    let settler = std::thread::spawn(move || settling.run_settler());
    let held = || volume.descriptors();
    let before = held();
    let mut files = Vec::new();
    for d in 0..8 {
        let dir = fs.mkdir(me(), ROOT_INO, OsStr::new(&format!("d{d}")), mode(0o700)).unwrap();
        for f in 0..20 {
            let name = format!("f{f}");
            let (attr, fh) = fs.create(me(), dir.ino, OsStr::new(&name), mode(0o600)).unwrap();
            fs.write(fh, 0, format!("{d}/{f}").as_bytes(), false, None).unwrap();
            fs.release(fh);
            files.push((d, f, dir.ino, attr.ino, name));
        }
    }
    // The kernel knows every one of them; some are renamed, some removed while open.
    let mut open = Vec::new();
    for (d, f, dir, ino, name) in &mut files {
        match *f % 5 {
            0 => {
                let to = format!("renamed{f}");
                let mode = kmsfs::fs::RenameMode::Replace;
                fs.rename(*dir, OsStr::new(&name), ROOT_INO, OsStr::new(&format!("{d}{to}")), mode).unwrap();
            }
            1 if *d == 3 => {
                open.push((fs.open(*ino, false).unwrap(), *ino, format!("{d}/{f}")));
                fs.unlink(*dir, OsStr::new(&name)).unwrap();
            }
            _ => {}
        }
    }
    fs.rename(ROOT_INO, OsStr::new("d7"), ROOT_INO, OsStr::new("moved"), kmsfs::fs::RenameMode::Replace)
        .unwrap();
    for (d, f, _, ino, _) in &files {
        if open.iter().any(|(_, gone, _)| gone == ino) {
            continue;
        }
        let mut out = [0; 16];
        let fh = fs.open(*ino, false).unwrap();
        let len = fs.read(fh, 0, &mut out).unwrap();
        assert_eq!(&out[..len], format!("{d}/{f}").as_bytes());
        fs.release(fh);
        assert_eq!(fs.getattr(*ino).unwrap().nlink, 1);
    }
    for (fh, ino, contents) in open {
        let mut out = [0; 16];
        let len = fs.read(fh, 0, &mut out).unwrap();
        assert_eq!(&out[..len], contents.as_bytes());
        assert_eq!(fs.getattr(ino).unwrap().nlink, 0);
        fs.release(fh);
    }
    assert!(held() < before + LIMIT, "{} descriptors", held());
    fs.stop_settler();
    settler.join().unwrap();
}

/// A provider whose first data key is held back; a second one that is wanted meanwhile comes later.
struct Halting {
    provider: Arc<dyn Provider>,
    wanted: AtomicU32,
    described: AtomicU32,
    /// Met twice: when the first data key is wanted, and when it may be had.
    meeting: Barrier,
}

impl Provider for Halting {
    fn generate_data_key(&self, key: &str, context: &EncryptionContext) -> Result<DataKey, ProviderError> {
        match self.wanted.fetch_add(1, Ordering::SeqCst) {
            0 => {
                self.meeting.wait();
                self.meeting.wait();
            }
            _ => std::thread::sleep(3 * MOMENT),
        }
        self.provider.generate_data_key(key, context)
    }

    fn unwrap(&self, blob: &[u8], context: &EncryptionContext) -> Result<UnwrappedDataKey, ProviderError> {
        self.provider.unwrap(blob, context)
    }

    fn rewrap(&self, blob: &[u8], context: &EncryptionContext, key: &str) -> Result<Vec<u8>, ProviderError> {
        self.provider.rewrap(blob, context, key)
    }

    fn describe_key(&self, key: &str) -> Result<KeyMetadata, ProviderError> {
        self.described.fetch_add(1, Ordering::SeqCst);
        self.provider.describe_key(key)
    }

    fn create_internal_key(&self, description: &str) -> Result<KeyMetadata, ProviderError> {
        self.provider.create_internal_key(description)
    }

    fn attach(&self, watcher: Arc<dyn KeyWatcher>) -> Result<Box<dyn Send>, ProviderError> {
        self.provider.attach(watcher)
    }
}

#[test]
fn a_file_that_is_just_being_created_is_not_begun_a_second_time_by_the_recovery() {
    let volume = Unmounted::new();
    // That mount ends in a crash.
    drop(volume.mount());
    let provider = Arc::clone(&volume.provider);
    let halting = Arc::new(Halting {
        provider,
        wanted: AtomicU32::new(0),
        described: AtomicU32::new(0),
        meeting: Barrier::new(2),
    });
    let fs = volume.mount_with(Arc::<Halting>::clone(&halting));
    assert!(fs.volume().is_recovering());
    std::thread::scope(|scope| {
        let creating = scope.spawn(|| fs.create(me(), ROOT_INO, OsStr::new("a"), mode(0o600)).unwrap().1);
        halting.meeting.wait();
        // As the recovery does with every entry that it comes to.
        let recovering = scope.spawn(|| fs.lookup(ROOT_INO, OsStr::new("a")).unwrap());
        std::thread::sleep(MOMENT);
        halting.meeting.wait();
        let fh = creating.join().unwrap();
        fs.write(fh, 0, b"contents", false, None).unwrap();
        recovering.join().unwrap();
        assert_eq!(halting.wanted.load(Ordering::SeqCst), 1, "a second data key was made for it");
        assert_eq!(read(&fs, "a", 0, 8).unwrap(), b"contents");
        fs.fsync(fh, false).unwrap();
    });
    // In a crash.
    drop(fs);
    assert_eq!(read(&volume.mount(), "a", 0, 8).unwrap(), b"contents");
}

#[test]
fn wrapping_many_files_anew_asks_for_the_key_once() {
    let volume = Unmounted::new();
    let provider = Arc::clone(&volume.provider);
    let asked = Arc::new(Halting {
        provider,
        // None is held back.
        wanted: AtomicU32::new(1),
        described: AtomicU32::new(0),
        meeting: Barrier::new(2),
    });
    let fs = volume.mount_with(Arc::<Halting>::clone(&asked));
    let files: Vec<u64> = (0..5)
        .map(|i| {
            let (attr, fh) = fs.create(me(), ROOT_INO, OsStr::new(&i.to_string()), mode(0o600)).unwrap();
            fs.release(fh);
            attr.ino
        })
        .collect();
    let rewrap = |ino: u64| fs.setxattr(me(), ino, OsStr::new(WRAP_XATTR), b"", 0).unwrap();
    let version = |ino: u64| {
        let value = fs.getxattr(ino, OsStr::new(WRAP_XATTR)).unwrap();
        serde_json::from_slice::<Wrapping>(&value).unwrap().key_version
    };
    for round in 2..4 {
        let request = volume.key_request();
        volume.service.rotate_key_on_demand(&Caller::current(), &request).unwrap();
        let before = asked.described.swap(0, Ordering::SeqCst);
        assert!(before <= 1, "asked {before} times");
        for ino in &files {
            rewrap(*ino);
            assert_eq!(version(*ino), round);
        }
    }
    assert_eq!(asked.described.load(Ordering::SeqCst), 1);
    // What is not behind is asked about each time: there may be a newer version.
    rewrap(files[0]);
    assert_eq!(asked.described.load(Ordering::SeqCst), 2);
}
