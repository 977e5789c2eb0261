//! Opening: appending, truncating, exclusive creation, direct I/O.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt, symlink};
use std::path::Path;

use common::child::{self, Child};
use common::pair::{Pair, errno, outcome, pattern, seen};
use common::sys::Aligned;

const WRITERS: usize = 4;
const RECORDS: usize = 150;

#[test]
fn child() {
    child::play(&[("append", append_records)]);
}

/// Appends records that name their writer and number and can be checked.
fn append_records(path: &Path) {
    child::say("ready");
    let writer: u64 = child::listen().parse().unwrap();
    let mut file = File::options().append(true).open(path).unwrap();
    for number in 0..RECORDS as u64 {
        file.write_all(&record(writer, number)).unwrap();
    }
}

fn record(writer: u64, number: u64) -> Vec<u8> {
    let seed = writer * 1000 + number;
    let body = pattern(seed, 20 + (seed * 7919 % 6000) as usize);
    [&b"\0"[..], &(writer as u32).to_le_bytes(), &(number as u32).to_le_bytes(), &body].concat()
}

#[test]
fn appending_processes_lose_and_tear_no_record() {
    let Some(pair) = Pair::new("appending_processes_lose_and_tear_no_record", "") else { return };
    let path = pair.mount.join("log");
    File::create(&path).unwrap();
    let mut children: Vec<Child> = (0..WRITERS).map(|_| Child::start("append", &path)).collect();
    children.iter_mut().for_each(|child| assert_eq!(child.hear(), "ready"));
    for (writer, child) in children.iter_mut().enumerate() {
        child.tell(&writer.to_string());
    }
    for child in children {
        assert!(child.end().success());
    }
    pair.remount();
    let log = fs::read(&path).unwrap();
    let mut next = BTreeMap::new();
    let mut rest = &log[..];
    while !rest.is_empty() {
        let number = |at: usize| u64::from(u32::from_le_bytes(rest[at..at + 4].try_into().unwrap()));
        let (writer, sequence) = (number(1), number(5));
        let expected = next.entry(writer).or_insert(0);
        assert_eq!(sequence, *expected, "writer {writer}'s records are in order and none is lost");
        *expected += 1;
        let record = record(writer, sequence);
        assert!(rest.starts_with(&record), "a torn record at {}", log.len() - rest.len());
        rest = &rest[record.len()..];
    }
    assert!(next.len() == WRITERS && next.values().all(|&records| records == RECORDS as u64));
}

#[test]
fn append_overrides_every_position() {
    let Some(pair) = Pair::new("append_overrides_every_position", "") else { return };
    pair.alike("O_APPEND", |dir| {
        let path = dir.join("file");
        fs::write(&path, pattern(1, 5000)).unwrap();
        let mut file = File::options().read(true).append(true).open(&path).unwrap();
        file.rewind().unwrap();
        file.write_all(b"first").unwrap();
        let position = file.stream_position().unwrap();
        // Linux appends here too, whatever POSIX says.
        file.write_all_at(b"second", 10).unwrap();
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(100).unwrap();
        file.write_all(b"third").unwrap();
        (position, fs::read(&path).unwrap())
    });
}

#[test]
fn truncating_and_exclusive_creation_do_what_they_say() {
    let Some(pair) = Pair::new("truncating_and_exclusive_creation", "") else { return };
    pair.alike("O_TRUNC, O_EXCL and others", |dir| {
        let path = dir.join("file");
        fs::write(&path, pattern(1, 9000)).unwrap();
        fs::create_dir(dir.join("dir")).unwrap();
        symlink("file", dir.join("link")).unwrap();
        symlink("absent", dir.join("dangling")).unwrap();
        let mut keeps = File::open(&path).unwrap();
        let open = |name: &str, flags: i32, set: fn(&mut OpenOptions) -> &mut OpenOptions| {
            outcome(set(OpenOptions::new().custom_flags(flags)).open(dir.join(name)))
        };
        let write: fn(&mut OpenOptions) -> &mut OpenOptions = |o| o.write(true);
        let read: fn(&mut OpenOptions) -> &mut OpenOptions = |o| o.read(true);
        let create: fn(&mut OpenOptions) -> &mut OpenOptions = |o| o.write(true).create(true).truncate(false);
        let said = [
            open("file", libc::O_CREAT | libc::O_EXCL, write),
            open("link", libc::O_CREAT | libc::O_EXCL, write),
            open("dangling", libc::O_CREAT | libc::O_EXCL, write),
            open("dir", libc::O_CREAT | libc::O_EXCL, write),
            open("new", libc::O_CREAT | libc::O_EXCL, write),
            open("new", libc::O_CREAT | libc::O_EXCL, write),
            open("dir", 0, create),
            open("dir", 0, write),
            open("dir", libc::O_TRUNC, read),
            open("link", libc::O_NOFOLLOW, read),
            open("file", libc::O_DIRECTORY, read),
            open("dangling", 0, create),
            open("absent/", 0, create),
            open("file", libc::O_TRUNC, write),
            open("absent2", libc::O_TRUNC, write),
        ];
        let mut rest = Vec::new();
        keeps.read_to_end(&mut rest).unwrap();
        (said, rest, seen(&path), seen(dir.join("absent")), seen(dir.join("new")))
    });
}

#[test]
fn a_handle_does_only_what_it_was_opened_for() {
    let Some(pair) = Pair::new("a_handle_does_only_what_it_was_opened_for", "") else { return };
    pair.alike("access modes", |dir| {
        fs::write(dir.join("file"), "contents").unwrap();
        let reader = File::open(dir.join("file")).unwrap();
        let writer = File::options().write(true).open(dir.join("file")).unwrap();
        let path = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(dir.join("file")).unwrap();
        (
            outcome(reader.write_at(b"x", 0)),
            outcome(reader.set_len(1)),
            outcome(writer.read_at(&mut [0; 4], 0)),
            // Needs what is there already.
            outcome(writer.write_at(b"x", 1)),
            outcome(path.read_at(&mut [0; 4], 0)),
            outcome(path.sync_all()),
            errno(fs::read(dir.join("file"))),
        )
    });
}

#[test]
fn direct_io_aligned_or_not_agrees_with_the_cache() {
    let Some(pair) = Pair::new("direct_io_aligned_or_not_agrees_with_the_cache", "") else { return };
    let path = pair.mount.join("file");
    let direct = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .custom_flags(libc::O_DIRECT)
        .open(&path)
        .unwrap();
    let cached = File::options().read(true).write(true).open(&path).unwrap();
    let mut model = vec![0; 3 << 20];
    let mut size = 0;
    let places =
        [(0, 1 << 20), (4096, 8192), (100, 5), (4063, 4099), (1 << 20, 70_001), (2_000_001, 900_000)];
    for (round, (at, len)) in places.into_iter().cycle().take(24).enumerate() {
        let at = at + round / 6 * 513;
        let bytes = pattern(round as u64, len);
        let (writer, reader) = if round % 2 == 0 { (&direct, &cached) } else { (&cached, &direct) };
        writer.write_all_at(&Aligned::new(&bytes), at as u64).unwrap();
        model[at..at + len].copy_from_slice(&bytes);
        size = size.max(at + len);
        // Somewhat more than was written, through the other.
        let from = at.saturating_sub(5000);
        let until = size.min(at + len + 5000);
        let mut found = Aligned::new(&vec![0; until - from]);
        reader.read_exact_at(&mut found, from as u64).unwrap();
        assert!(found[..] == model[from..until], "round {round}");
    }
    // At and behind the end.
    assert_eq!(direct.read_at(&mut Aligned::new(&[0; 4096]), size as u64).unwrap(), 0);
    assert_eq!(direct.read_at(&mut Aligned::new(&[0; 4096]), size as u64 - 5).unwrap(), 5);
    drop((direct, cached));
    pair.remount();
    assert!(fs::read(&path).unwrap() == model[..size]);
}
