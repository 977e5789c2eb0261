//! Attacks that once succeeded, one by one.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kmsfs::format::PAGE_LEN;
use kmsfs::format::layout::{Layout, MapPage};
use kmsfs::fs::{Allocate, Fs, ROOT_INO};

use crate::bench::Bench;
use crate::history::{PAYLOAD, me, mode};
use crate::outside::Outside;
use crate::tree;

const FIRST_MAP_PAGE: MapPage = MapPage { level: 1, index: 0 };

/// A new volume, mounted.
fn volume() -> (Bench, PathBuf, Arc<Fs>) {
    let bench = Bench::new();
    let root = bench.place("volume");
    bench.create(&root);
    let fs = bench.mount(&root, false).unwrap();
    (bench, root, fs)
}

fn unmount(fs: Arc<Fs>) {
    fs.shut_down().unwrap();
}

/// Writes a chunk full of one byte.
fn write(fs: &Fs, name: &str, chunk: u64, byte: u8) {
    let fh = match fs.lookup(ROOT_INO, OsStr::new(name)) {
        Ok(attr) => fs.open(attr.ino, true).unwrap(),
        Err(_) => fs.create(me(), ROOT_INO, OsStr::new(name), mode(0o600)).unwrap().1,
    };
    fs.write(fh, chunk * PAYLOAD, &[byte; PAYLOAD as usize], false, None).unwrap();
    fs.release(fh);
}

/// The first byte of a chunk, or the error's number.
fn read(fs: &Fs, name: &str, chunk: u64) -> Result<u8, i32> {
    let attr = fs.lookup(ROOT_INO, OsStr::new(name)).map_err(|e| e.errno())?;
    let fh = fs.open(attr.ino, false).map_err(|e| e.errno())?;
    let mut byte = [0];
    let read = fs.read(fh, chunk * PAYLOAD, &mut byte);
    fs.release(fh);
    read.map(|_| byte[0]).map_err(|e| e.errno())
}

/// The one backing entry that is no record of kmsfs's own.
fn only_entry(root: &Path) -> PathBuf {
    let mut paths = tree::walk(root).into_iter();
    root.join(paths.find(|path| !path.to_str().unwrap().contains("kmsfs.")).unwrap())
}

fn page(path: &Path, at: u64) -> Vec<u8> {
    let mut page = vec![0; PAGE_LEN];
    File::open(path).unwrap().read_exact_at(&mut page, at).unwrap();
    page
}

fn put(path: &Path, at: u64, page: &[u8]) {
    File::options().write(true).open(path).unwrap().write_all_at(page, at).unwrap();
}

#[test]
fn a_map_page_of_the_same_session_does_not_bring_older_floors_back() {
    let (bench, root, fs) = volume();
    write(&fs, "a", 130, 1);
    write(&fs, "a", 200, 1);
    fs.settle_closed();
    let file = only_entry(&root);
    let (unit, map) = (Layout::default().unit_offset(130), Layout::default().map_offset(FIRST_MAP_PAGE));
    let old_unit = page(&file, unit);
    write(&fs, "a", 130, 2);
    let fh = fs.open(fs.lookup(ROOT_INO, OsStr::new("a")).unwrap().ino, true).unwrap();
    fs.fallocate(me(), fh, 200 * PAYLOAD, PAYLOAD, Allocate::PunchHole).unwrap();
    fs.release(fh);
    // It has the floors of the settling before, and the session's epoch.
    let punched_map = page(&file, map);
    fs.settle_closed();
    unmount(fs);

    put(&file, map, &punched_map);
    put(&file, unit, &old_unit);
    assert_eq!(read(&bench.mount(&root, false).unwrap(), "a", 130), Err(libc::EIO));
}

#[test]
fn a_fifo_in_place_of_what_is_kmsfs_s_own_makes_nobody_wait() {
    let long = "n".repeat(200);
    let (bench, root, fs) = volume();
    fs.mkdir(me(), ROOT_INO, OsStr::new("d"), mode(0o700)).unwrap();
    fs.symlink(me(), ROOT_INO, OsStr::new("s"), OsStr::new(&"t".repeat(4_000))).unwrap();
    write(&fs, &long, 0, 1);
    unmount(fs);
    for path in tree::walk(&root) {
        let name = path.file_name().unwrap().to_str().unwrap();
        let own = name == "kmsfs.dir" || name.ends_with(".name") || path.starts_with("kmsfs.targets/");
        if own && root.join(&path).is_file() {
            fs::remove_file(root.join(&path)).unwrap();
            tree::make_fifo(&root.join(&path));
        }
    }
    let fs = bench.mount(&root, false).unwrap();
    let dir = fs.lookup(ROOT_INO, OsStr::new("d")).unwrap();
    assert_eq!(fs.opendir(dir.ino).unwrap_err().errno(), libc::EIO);
    let link = fs.lookup(ROOT_INO, OsStr::new("s")).unwrap();
    assert_eq!(fs.readlink(link.ino).unwrap_err().errno(), libc::EIO);
    let listing = fs.opendir(ROOT_INO).unwrap();
    fs.readdir(listing, 0, |_| std::ops::ControlFlow::Continue(())).unwrap();
    unmount(fs);
    for page in ["kmsfs.volume", "kmsfs.volume.copy"] {
        fs::remove_file(root.join(page)).unwrap();
        tree::make_fifo(&root.join(page));
    }
    assert!(bench.mount(&root, true).is_err());
}

#[test]
fn a_link_in_place_of_the_directory_of_targets_does_not_lead_out() {
    let (bench, root, fs) = volume();
    let target = "t".repeat(4_000);
    fs.symlink(me(), ROOT_INO, OsStr::new("s"), OsStr::new(&target)).unwrap();
    unmount(fs);
    let targets = root.join("kmsfs.targets");
    let outside = Outside::new(bench.place("outside"), |outside| {
        for entry in fs::read_dir(&targets).unwrap().map(Result::unwrap) {
            fs::copy(entry.path(), outside.join(entry.file_name())).unwrap();
        }
    });
    fs::remove_dir_all(&targets).unwrap();
    std::os::unix::fs::symlink(&outside.path, &targets).unwrap();
    let fs = bench.mount(&root, false).unwrap();
    let link = fs.lookup(ROOT_INO, OsStr::new("s")).unwrap();
    assert_eq!(fs.readlink(link.ino).unwrap_err().errno(), libc::EIO);
    assert!(fs.symlink(me(), ROOT_INO, OsStr::new("s2"), OsStr::new(&target)).is_err());
    fs.unlink(ROOT_INO, OsStr::new("s")).unwrap();
    assert!(!outside.was_touched());
}

#[test]
fn a_file_that_was_made_very_long_is_settled_in_no_time() {
    let (bench, root, fs) = volume();
    write(&fs, "a", 0, 1);
    write(&fs, "a", 300, 1);
    File::options().write(true).open(only_entry(&root)).unwrap().set_len(1 << 42).unwrap();
    // A crash; the file is found unsettled and read through.
    drop(fs);
    let begin = std::time::Instant::now();
    let fs = bench.mount(&root, false).unwrap();
    fs.recover(&|| false);
    assert_eq!(read(&fs, "a", 300), Ok(1));
    unmount(fs);
    assert!(begin.elapsed() < std::time::Duration::from_secs(5), "{:?}", begin.elapsed());
    assert_eq!(read(&bench.mount(&root, false).unwrap(), "a", 300), Ok(1));
}
