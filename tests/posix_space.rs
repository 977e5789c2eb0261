//! Space: sparse files, every fallocate mode, the largest file, and the figures of stat and statfs.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use common::World;
use common::pair::{Pair, errno, outcome, pattern};
use common::sys::fallocate;
use rustix::fs::{SeekFrom, seek};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE;
const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;
const COLLAPSE: i32 = libc::FALLOC_FL_COLLAPSE_RANGE;
const INSERT: i32 = libc::FALLOC_FL_INSERT_RANGE;
const UNSHARE: i32 = libc::FALLOC_FL_UNSHARE_RANGE;

const MAX_SIZE: u64 = 17_082_532_548_608;
const TIB: u64 = 1 << 40;
/// Bytes of the file in a unit of 4096.
const CHUNK: u64 = 4064;
/// What the kernel writes at a time, at least.
const PAGE: u64 = 4096;

fn create(path: &Path) -> File {
    File::options().read(true).write(true).create_new(true).open(path).unwrap()
}

fn allocated(file: &File) -> u64 {
    file.metadata().unwrap().blocks() * 512
}

#[test]
fn every_supported_fallocate_mode_shows_what_ext4_shows() {
    let Some(pair) = Pair::new("every_supported_fallocate_mode", "") else { return };
    let modes = [0, KEEP, PUNCH | KEEP, ZERO, ZERO | KEEP, PUNCH, PUNCH | ZERO | KEEP];
    let ranges = [
        (0, 1),
        (0, 20_000),
        (10, 4064),
        (4064, 8128),
        (8000, 30_000),
        (19_999, 1),
        (20_000, 5000),
        (90_000, 10),
    ];
    pair.alike("fallocate", |dir| {
        let mut said = Vec::new();
        for mode in modes {
            for (offset, len) in ranges {
                let path = dir.join(format!("{mode}-{offset}-{len}"));
                let file = create(&path);
                file.write_all_at(&pattern(1, 20_000), 0).unwrap();
                let done = outcome(fallocate(&file, mode, offset, len));
                // What a mode grew reads as zeros also after more was written behind it.
                let size = file.metadata().unwrap().len();
                file.write_all_at(b"x", 120_000).unwrap();
                said.push((done, size, fs::read(&path).unwrap()));
            }
        }
        said
    });
}

#[test]
fn an_unsupported_fallocate_mode_is_refused_and_changes_nothing() {
    let Some(pair) = Pair::new("an_unsupported_fallocate_mode_is_refused", "") else { return };
    let path = pair.mount.join("file");
    let file = create(&path);
    file.write_all_at(&pattern(1, 100_000), 0).unwrap();
    file.sync_all().unwrap();
    let before = (file.metadata().unwrap().modified().unwrap(), allocated(&file));
    for mode in [COLLAPSE, INSERT, UNSHARE, UNSHARE | KEEP, COLLAPSE | KEEP, INSERT | ZERO, PUNCH, 1 << 12] {
        let refused = outcome(fallocate(&file, mode, 4096, 8192));
        assert_eq!(refused, Err(libc::EOPNOTSUPP), "mode {mode:#x}");
    }
    assert_eq!((file.metadata().unwrap().modified().unwrap(), allocated(&file)), before);
    assert!(fs::read(&path).unwrap() == pattern(1, 100_000));
}

#[test]
fn fallocate_refuses_what_ext4_refuses() {
    let Some(pair) = Pair::new("fallocate_refuses_what_ext4_refuses", "") else { return };
    pair.alike("errors of fallocate", |dir| {
        let file = create(&dir.join("file"));
        file.write_all_at(b"contents", 0).unwrap();
        let reader = File::open(dir.join("file")).unwrap();
        let directory = File::open(dir).unwrap();
        (
            [(-1, 1), (0, 0), (0, -1), (i64::MAX, 1), (1 << 45, 10)]
                .map(|(at, len)| outcome(fallocate(&file, 0, at, len))),
            outcome(fallocate(&reader, 0, 0, 10)),
            outcome(fallocate(&directory, 0, 0, 10)),
            fs::read(dir.join("file")).unwrap(),
        )
    });
}

#[test]
fn reserved_space_is_there_and_punched_space_is_given_back() {
    let Some(pair) = Pair::new("reserved_space_is_there", "") else { return };
    let [_, dir] = pair.fresh();
    let file = create(&dir.join("file"));
    fallocate(&file, KEEP, 0, 10 << 20).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 0);
    assert!(allocated(&file) >= 10 << 20);
    file.write_all_at(&pattern(1, 4 << 20), 0).unwrap();
    file.sync_all().unwrap();
    assert!(allocated(&file) >= 10 << 20);
    // As on ext4, what lies behind the end is not punched.
    file.set_len(10 << 20).unwrap();
    fallocate(&file, PUNCH | KEEP, 0, 20 << 20).unwrap();
    let left = allocated(&file);
    assert!(left < 64 << 10, "{left} bytes are left");
    assert_eq!(file.metadata().unwrap().len(), 10 << 20);
}

#[test]
fn seeking_never_takes_data_for_a_hole_and_finds_every_large_one() {
    let Some(pair) = Pair::new("seeking_never_takes_data_for_a_hole", "") else { return };
    let [plain, ours] = pair.fresh();
    let runs =
        [(0, 10_000), (1 << 20, 1), ((1 << 20) + 50_000, 4064), (5 << 20, 300_000), ((40 << 20) - 7, 7)];
    let [plain, ours] = [plain, ours].map(|dir| {
        let file = create(&dir.join("file"));
        for (i, (at, len)) in runs.into_iter().enumerate() {
            file.write_all_at(&pattern(i as u64, len), at).unwrap();
        }
        file.set_len(50 << 20).unwrap();
        file
    });
    for _ in 0..2 {
        let ends = runs.map(|(at, len)| at..at + len as u64);
        for at in
            ends.iter().flat_map(|run| [run.start, run.end - 1, run.end, run.start.saturating_sub(9000)])
        {
            let in_run = ends.iter().find(|run| run.contains(&at));
            // Data begins at `at`, or before the next run by no more than the chunk that the page
            // begins in which the run begins.
            let data = seek(&ours, SeekFrom::Data(at)).unwrap_or(u64::MAX);
            match in_run {
                Some(_) => assert_eq!(data, at),
                None => {
                    let next = ends.iter().map(|run| run.start).find(|&start| start >= at);
                    assert!(data <= next.unwrap_or(u64::MAX) && data >= at, "data {data} from {at}");
                    let near = next.is_none_or(|next| data + CHUNK + PAGE > next);
                    let same = ends.iter().any(|run| run.end + CHUNK + PAGE > data && run.start <= data);
                    assert!(near || same, "data {data} from {at}");
                }
            }
            let hole = seek(&ours, SeekFrom::Hole(at)).unwrap();
            assert!(ends.iter().all(|run| !run.contains(&hole)), "a hole at {hole}, where data is");
            let model = seek(&plain, SeekFrom::Hole(at)).unwrap();
            assert!(hole.abs_diff(model) <= CHUNK + PAGE, "a hole at {hole} instead of {model}");
        }
        let size = 50 << 20;
        for from in [size, size + 1] {
            assert_eq!(outcome(seek(&ours, SeekFrom::Data(from))), Err(libc::ENXIO));
            assert_eq!(outcome(seek(&ours, SeekFrom::Hole(from))), Err(libc::ENXIO));
        }
        assert_eq!(outcome(seek(&ours, SeekFrom::Data(45 << 20))), Err(libc::ENXIO));
        assert_eq!(seek(&ours, SeekFrom::Hole(45 << 20)), Ok(45 << 20));
        ours.sync_all().unwrap();
    }
    assert!(allocated(&ours) < 400_000 + 8 * 4096, "{} bytes", allocated(&ours));
}

#[test]
fn a_file_of_a_tebibyte_is_mostly_hole() {
    let Some(pair) = Pair::new("a_file_of_a_tebibyte_is_mostly_hole", "") else { return };
    let path = pair.mount.join("huge");
    let file = create(&path);
    file.set_len(TIB).unwrap();
    let places = [0, TIB / 2 - 3, TIB - 10];
    for at in places {
        file.write_all_at(b"0123456789", at).unwrap();
    }
    drop(file);
    for _ in 0..2 {
        let file = File::open(&path).unwrap();
        assert_eq!(file.metadata().unwrap().len(), TIB);
        assert!(allocated(&file) < 1 << 20, "{} bytes", allocated(&file));
        for at in places {
            let mut found = [0; 10];
            file.read_exact_at(&mut found, at).unwrap();
            assert_eq!(&found, b"0123456789");
        }
        let mut found = [1; 4096];
        file.read_exact_at(&mut found, TIB / 3).unwrap();
        assert_eq!(found, [0; 4096]);
        drop(file);
        pair.remount();
    }
    let file = File::options().read(true).write(true).open(&path).unwrap();
    file.set_len(TIB / 2 + 2).unwrap();
    file.set_len(TIB).unwrap();
    let mut found = [1; 10];
    file.read_exact_at(&mut found, TIB / 2 - 3).unwrap();
    assert_eq!(&found, b"01234\0\0\0\0\0");
    file.set_len(10).unwrap();
    drop(file);
    assert_eq!(fs::read(&path).unwrap(), b"0123456789");
}

#[test]
fn a_file_has_up_to_the_documented_size_and_no_byte_more() {
    let Some(pair) = Pair::new("a_file_has_up_to_the_documented_size", "") else { return };
    let path = pair.mount.join("largest");
    let file = create(&path);
    let synced = |done: std::io::Result<()>| outcome(done.and_then(|()| file.sync_all()));
    assert_eq!(outcome(file.set_len(MAX_SIZE + 1)), Err(libc::EFBIG));
    assert_eq!(outcome(file.set_len(i64::MAX as u64)), Err(libc::EFBIG));
    assert_eq!(outcome(fallocate(&file, 0, MAX_SIZE as i64 - 10, 11)), Err(libc::EFBIG));
    assert_eq!(file.metadata().unwrap().len(), 0);
    assert_eq!(synced(file.write_all_at(b"12345", MAX_SIZE - 5)), Ok(()));
    assert_eq!(file.metadata().unwrap().len(), MAX_SIZE);
    assert_eq!(synced(file.write_all_at(b"1", MAX_SIZE)), Err(libc::EFBIG));
    assert_eq!(
        outcome(file.write_all_at(b"1", i64::MAX as u64 - 1).and_then(|()| file.sync_all())),
        Err(libc::EFBIG)
    );
    let mut found = [0; 5];
    file.read_exact_at(&mut found, MAX_SIZE - 5).unwrap();
    assert_eq!(&found, b"12345");
    drop(file);
    pair.remount();
    assert_eq!(path.metadata().unwrap().len(), MAX_SIZE);
    File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
}

#[test]
fn statfs_counts_what_is_written_and_made() {
    let Some(world) = World::new("statfs_counts_what_is_written_and_made") else { return };
    let disk = world.path("disk");
    fs::create_dir(&disk).unwrap();
    // A filesystem of its own, in which nobody else writes.
    mount("none", &disk, "tmpfs", MountFlags::empty(), Some(c"size=64m,nr_inodes=1000")).unwrap();
    let mounted = world.volume("disk/vol");
    let figures = || {
        let s = rustix::fs::statvfs(&mounted).unwrap();
        assert_eq!(s.f_namemax, 255);
        assert!(s.f_bavail <= s.f_bfree && s.f_bfree <= s.f_blocks && s.f_ffree <= s.f_files);
        assert_eq!(s.f_blocks * s.f_frsize, 64 << 20);
        (s.f_bfree * s.f_frsize, s.f_ffree)
    };
    let (before, files) = figures();
    fs::write(mounted.join("file"), pattern(1, 10 << 20)).unwrap();
    File::open(mounted.join("file")).unwrap().sync_all().unwrap();
    let taken = before - figures().0;
    assert!((10 << 20..(10 << 20) * 102 / 100).contains(&taken), "{taken} bytes taken");
    assert_eq!(files - figures().1, 1);
    let shown = File::open(mounted.join("file")).map(|file| allocated(&file)).unwrap();
    assert!(taken.abs_diff(shown) <= 3 * 4096, "{shown} bytes shown, {taken} taken");
    for name in ["a", "b", "c"] {
        fs::write(mounted.join(name), "").unwrap();
    }
    assert_eq!(files - figures().1, 4);
    for name in ["file", "a", "b", "c"] {
        fs::remove_file(mounted.join(name)).unwrap();
    }
    common::wait_until("everything is free again", || figures() == (before, files));
    world.umount(&mounted);
    world.wait_for_daemons();
    unmount(&disk, UnmountFlags::empty()).unwrap();
}

#[test]
fn a_failed_write_leaves_the_size_at_what_was_accepted() {
    let Some(world) = World::new("a_failed_write_leaves_the_size") else { return };
    let disk = world.path("disk");
    fs::create_dir(&disk).unwrap();
    mount("none", &disk, "tmpfs", MountFlags::empty(), Some(c"size=8m")).unwrap();
    let mounted = world.volume("disk/vol");
    let path = mounted.join("file");
    let mut file = create(&path);
    let mut accepted = 0;
    // By a number of bytes that ends within a chunk and within a page.
    let error = loop {
        match file.write(&pattern(accepted as u64, 70_001)) {
            Ok(len) => accepted += len,
            Err(error) => break error,
        }
        assert!(accepted < 10 << 20);
    };
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    assert_eq!(path.metadata().unwrap().len(), accepted as u64);
    assert_eq!(fs::read(&path).unwrap().len(), accepted);
    // A hole at the end needs no space; then there is a later write that was not refused.
    file.set_len(20 << 20).unwrap();
    assert_eq!(path.metadata().unwrap().len(), 20 << 20);
    drop(file);
    fs::remove_file(&path).unwrap();
    world.umount(&mounted);
    world.wait_for_daemons();
    unmount(&disk, UnmountFlags::empty()).unwrap();
}

#[test]
fn block_counts_are_those_of_the_contents() {
    let Some(pair) = Pair::new("block_counts_are_those_of_the_contents", "") else { return };
    let path = pair.mount.join("file");
    for size in [0u64, 1, 4064, 4065, 100_000, 1_000_000] {
        fs::write(&path, pattern(size, size as usize)).unwrap();
        let file = File::open(&path).unwrap();
        file.sync_all().unwrap();
        let least = size.div_ceil(512) * 512;
        let most = size.div_ceil(CHUNK) * 4096 + size / 100;
        assert!((least..=most).contains(&allocated(&file)), "{} bytes for {size}", allocated(&file));
        assert_eq!(file.metadata().unwrap().blksize(), 131_072);
    }
    errno(fs::remove_file(&path)).unwrap();
}
