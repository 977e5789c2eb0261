//! Files that programs only write go past the kernel's page cache; whoever reads or maps them meanwhile
//! sees every write as soon as it has returned, and loses none of his own.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::pair::{Pair, pattern};
use common::sys::Mapping;
use kmsfs::sys::residency::residency;
use rustix::fs::{Advice, fadvise};
use rustix::mm::{MapFlags, ProtFlags};

const PAGE: usize = 4096;
const PAGES: usize = 16;
const LEN: usize = PAGES * PAGE;
const TIME: Duration = Duration::from_secs(3);

/// The first kernel that lets programs map files whose handles are direct.
const FIRST_KERNEL: (u32, u32) = (6, 6);

fn writer(path: &Path) -> File {
    File::options().write(true).open(path).unwrap()
}

fn map_to_read(path: &Path) -> Mapping {
    Mapping::new(&File::open(path).unwrap(), LEN, ProtFlags::READ, MapFlags::SHARED).unwrap()
}

/// Pages of a file that the kernel has in memory.
fn resident(path: &Path) -> usize {
    residency(&File::open(path).unwrap()).unwrap().resident as usize
}

/// A file of `LEN` bytes that nobody has open, and of which the kernel has no page.
fn file(pair: &Pair) -> std::path::PathBuf {
    let path = pair.fresh()[1].join("file");
    fs::write(&path, vec![0; LEN]).unwrap();
    drop_pages(&File::open(&path).unwrap());
    path
}

fn drop_pages(file: &File) {
    fadvise(file, 0, None, Advice::DontNeed).unwrap();
}

fn kernel_can() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < FIRST_KERNEL {
        eprintln!("skipped: direct handles: kernel {release} does not let programs map such files");
    }
    version >= FIRST_KERNEL
}

#[test]
fn what_is_only_written_takes_no_page_cache() {
    let Some(pair) = Pair::new("what_is_only_written_takes_no_page_cache", "") else { return };
    if !kernel_can() {
        return;
    }
    let path = pair.fresh()[1].join("file");
    fs::write(&path, pattern(1, LEN)).unwrap();
    assert_eq!(resident(&path), 0);
    // Whoever reads it has pages, and they stay when it is written again.
    assert!(fs::read(&path).unwrap() == pattern(1, LEN));
    let mapping = map_to_read(&path);
    assert_eq!(resident(&path), PAGES);
    writer(&path).write_all_at(b"new", 5 * PAGE as u64).unwrap();
    assert_eq!(mapping.read(5 * PAGE, 3), b"new");
    assert!(resident(&path) > PAGES / 2);
}

#[test]
fn a_reader_beside_a_direct_writer_sees_what_is_appended() {
    let Some(pair) = Pair::new("a_reader_beside_a_direct_writer_sees", "") else { return };
    pair.alike("reading behind a writer", |dir| {
        let path = dir.join("log");
        let log = File::options().append(true).create(true).open(&path).unwrap();
        let (reader, mut seen) = (File::open(&path).unwrap(), Vec::new());
        for line in 0..200_u64 {
            let text = pattern(line, 10 + 37 * line as usize % 900);
            std::io::Write::write_all(&mut &log, &text).unwrap();
            let mut found = vec![0; 2000];
            let len = reader.read_at(&mut found, seen.len() as u64).unwrap();
            assert!(found[..len] == text, "line {line}");
            seen.extend_from_slice(&found[..len]);
        }
        drop((log, reader));
        fs::read(&path).unwrap() == seen
    });
}

#[test]
fn a_mapping_shows_every_direct_write_as_soon_as_it_returned() {
    let Some(pair) = Pair::new("a_mapping_shows_every_direct_write", "") else { return };
    let path = file(&pair);
    let writer = writer(&path);
    let (mapping, done) = (map_to_read(&path), AtomicBool::new(false));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| fetch_pages_until(&done, &path));
        }
        let end = Instant::now() + TIME;
        for round in 1_u32.. {
            if Instant::now() > end {
                break;
            }
            let (page, byte) = (round as usize % PAGES, round as u8);
            let at = page * PAGE + 500;
            writer.write_all_at(&[byte; 3000], at as u64).unwrap();
            let seen = [mapping.read(at, 1)[0], mapping.read(at + 2999, 1)[0]];
            if seen != [byte; 2] {
                done.store(true, Ordering::Relaxed);
                panic!("round {round}: page {page} shows {seen:?} instead of {byte}");
            }
        }
        done.store(true, Ordering::Relaxed);
    });
}

/// Makes the kernel fetch the pages of a mapping again and again.
fn fetch_pages_until(done: &AtomicBool, path: &Path) {
    let (file, mapping) = (File::open(path).unwrap(), map_to_read(path));
    while !done.load(Ordering::Relaxed) {
        drop_pages(&file);
        for page in 0..PAGES {
            mapping.read(page * PAGE, 1);
        }
    }
}

#[test]
fn direct_writes_and_those_to_a_mapping_of_the_same_pages_both_last() {
    let Some(pair) = Pair::new("direct_writes_and_those_to_a_mapping", "") else { return };
    let path = file(&pair);
    let writer = writer(&path);
    let (done, half) = (AtomicBool::new(false), PAGE / 2);
    // Of every page the mapping has the first half, and the writer the second.
    let (by_mapping, by_writer) = thread::scope(|scope| {
        scope.spawn(|| fetch_pages_until(&done, &path));
        let by_mapping = scope.spawn(|| {
            let file = File::options().read(true).write(true).open(&path).unwrap();
            let mapping = Mapping::shared(&file, LEN).unwrap();
            let mut last = [0; PAGES];
            for round in 1_u32.. {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                let page = round as usize * 7 % PAGES;
                last[page] = round as u8;
                mapping.write(page * PAGE, &[last[page]; 8]);
                if round.is_multiple_of(5) {
                    mapping.sync().unwrap();
                }
            }
            mapping.sync().unwrap();
            last
        });
        let (mut last, end) = ([0; PAGES], Instant::now() + TIME);
        for round in 1_u32.. {
            if Instant::now() > end {
                break;
            }
            let page = round as usize % PAGES;
            last[page] = round as u8;
            writer.write_all_at(&[last[page]; 2048], (page * PAGE + half) as u64).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        (by_mapping.join().unwrap(), last)
    });
    drop(writer);
    for read in [fs::read(&path).unwrap(), remounted(&pair, &path)] {
        for page in 0..PAGES {
            let at = page * PAGE;
            assert_eq!(read[at..at + 8], [by_mapping[page]; 8], "page {page}");
            assert!(read[at + half..at + PAGE] == [by_writer[page]; 2048], "page {page}");
        }
    }
}

fn remounted(pair: &Pair, path: &Path) -> Vec<u8> {
    pair.remount();
    fs::read(path).unwrap()
}
