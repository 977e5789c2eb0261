//! A sealed file with two data keys: what an attacker who knows one of them may do, and what a failing
//! disk may. `chunk_crash` has its crashes.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kmsfs::chunk::{Backing, ChunkError, Integrity, Memory, Opened, Reencryption, SealedFile, Step};
use kmsfs::crypto::aead::seal_one;
use kmsfs::format::head::{Head, Kind};
use kmsfs::format::layout::Layout;
use kmsfs::format::schedule::FileKeys;
use kmsfs::format::slot::Wrapped;
use kmsfs::format::unit::chunk_aad;
use kmsfs::format::{FormatError, Id, PAGE_LEN};
use kmsfs::secret::Key;

const PAYLOAD: usize = 4064;
/// Chunks of the sample; those from 128 on have their floors in a map page.
const CHUNKS: u64 = 140;

/// A disk of which some calls that change it fail.
#[derive(Clone, Default)]
struct Disk {
    memory: Arc<Memory>,
    calls: Arc<AtomicU64>,
    /// Bit *n*: the call *n* fails.
    failing: Arc<AtomicU64>,
}

impl Disk {
    fn call(&self) -> io::Result<()> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        let fails = call < 64 && self.failing.load(Ordering::SeqCst) >> call & 1 == 1;
        if fails { Err(io::Error::from_raw_os_error(libc::EIO)) } else { Ok(()) }
    }

    fn fail(&self, calls: u64) {
        self.calls.store(0, Ordering::SeqCst);
        self.failing.store(calls, Ordering::SeqCst);
    }

    fn unit(&self, chunk: u64) -> Vec<u8> {
        let mut unit = vec![0; PAGE_LEN];
        self.memory.read_at(&mut unit, Layout::default().unit_offset(chunk)).unwrap();
        unit
    }

    fn put_unit(&self, chunk: u64, unit: &[u8]) {
        self.memory.write_at(unit, Layout::default().unit_offset(chunk)).unwrap();
    }

    fn header(&self) -> Vec<u8> {
        self.memory.snapshot()[..PAGE_LEN].to_vec()
    }
}

impl Backing for Disk {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.memory.read_at(buffer, offset)
    }
    fn write_at(&self, buffer: &[u8], offset: u64) -> io::Result<()> {
        self.call()?;
        self.memory.write_at(buffer, offset)
    }
    fn length(&self) -> io::Result<u64> {
        self.memory.length()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.call()?;
        self.memory.set_len(len)
    }
    fn sync(&self, data_only: bool) -> io::Result<()> {
        self.call()?;
        self.memory.sync(data_only)
    }
    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.memory.punch(offset, len)
    }
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.memory.allocate(offset, len)
    }
    fn seek_data(&self, offset: u64) -> io::Result<Option<u64>> {
        self.memory.seek_data(offset)
    }
    fn seek_hole(&self, offset: u64) -> io::Result<u64> {
        self.memory.seek_hole(offset)
    }
}

/// A file on such a disk, and the data keys that it has had.
struct Bench {
    disk: Disk,
    data_keys: Vec<Arc<Key>>,
    file: SealedFile<Disk>,
    keys: FileKeys,
}

fn epoch(newest: u32) -> Result<u32, ChunkError> {
    Ok(newest + 1)
}

fn wrapped(number: usize) -> Wrapped {
    Wrapped { blob: vec![number as u8], ..Wrapped::default() }
}

fn pattern(seed: u8) -> Vec<u8> {
    (0..CHUNKS as usize * PAYLOAD).map(|i| (i as u8).wrapping_mul(7).wrapping_add(seed) | 1).collect()
}

impl Bench {
    /// A settled file.
    fn new() -> Self {
        let disk = Disk::default();
        let data_key = Arc::new(Key::random().unwrap());
        let head = Head::new(Kind::File, Id([1; 16]), Id([2; 16]), Id([3; 16]));
        let Opened { file, keys } = SealedFile::create(disk.clone(), head, &data_key, wrapped(0), 1).unwrap();
        let bench = Self { disk, data_keys: vec![data_key], file, keys };
        bench.write(0, &pattern(1));
        bench.settle();
        bench
    }

    fn write(&self, at: u64, data: &[u8]) {
        self.file.write(&self.keys, at, data, epoch).unwrap();
    }

    fn settle(&self) {
        let Some(mut settling) = self.file.begin_settling(&self.keys, epoch).unwrap() else { return };
        while self.file.settle(&self.keys, &mut settling).unwrap() != Step::Done {}
    }

    fn begin(&mut self) -> Result<Reencryption, ChunkError> {
        let new = Arc::new(Key::random().unwrap());
        let number = self.data_keys.len();
        self.data_keys.push(new);
        let [.., present, new] = &self.data_keys[..] else { unreachable!() };
        let (keys, work) = self.file.begin_reencryption(present, new, wrapped(number), epoch)?;
        self.keys = keys;
        Ok(work)
    }

    fn finish(&mut self, work: &mut Reencryption) -> Result<(), ChunkError> {
        loop {
            while !work.is_through() {
                self.file.reencrypt(&self.keys, work, 64 << 12, epoch)?;
            }
            if self.file.finish_reencryption(&self.keys, work)? {
                self.keys.previous = None;
                return Ok(());
            }
        }
    }

    fn reopen(&mut self, integrity: Integrity) -> Result<(), ChunkError> {
        let opened = SealedFile::open(self.disk.clone(), integrity, |_, wrapped| {
            Ok::<_, ChunkError>(Arc::clone(&self.data_keys[usize::from(wrapped.blob[0])]))
        })?;
        (self.file, self.keys) = (opened.file, opened.keys);
        Ok(())
    }

    fn read(&self, chunk: u64) -> Result<Vec<u8>, ChunkError> {
        let mut plaintext = vec![0; PAYLOAD];
        self.file.read(&self.keys, chunk * PAYLOAD as u64, &mut plaintext).map(|_| plaintext)
    }

    fn read_all(&self) -> Result<Vec<u8>, ChunkError> {
        let mut all = vec![0; self.file.size() as usize];
        self.file.read(&self.keys, 0, &mut all).map(|_| all)
    }
}

fn refused(read: Result<Vec<u8>, ChunkError>) -> FormatError {
    match read {
        Err(ChunkError::Chunk { error, .. }) => error,
        other => panic!("{other:?}"),
    }
}

/// A unit as somebody seals it who knows a data key.
fn forged(data_key: &Key, chunk: u64, epoch: u32) -> Vec<u8> {
    let keys = FileKeys::derive(data_key, Id([1; 16]), Id([2; 16]));
    let mut unit = vec![0; PAGE_LEN];
    let (head, ciphertext) = unit.split_at_mut(32);
    let tag = seal_one(&keys.content, &[7; 12], &chunk_aad(chunk, epoch), &[b'X'; PAYLOAD], ciphertext);
    head[..12].fill(7);
    head[12..28].copy_from_slice(&tag);
    head[28..].copy_from_slice(&epoch.to_le_bytes());
    unit
}

fn epoch_of(unit: &[u8]) -> u32 {
    u32::from_le_bytes(unit[28..32].try_into().unwrap())
}

#[test]
fn what_the_previous_key_sealed_is_refused_once_it_is_done() {
    for settled in [false, true] {
        let mut bench = Bench::new();
        let before: Vec<Vec<u8>> = (0..CHUNKS).map(|chunk| bench.disk.unit(chunk)).collect();
        let mut work = bench.begin().unwrap();
        let between = bench.disk.header();
        bench.finish(&mut work).unwrap();
        if settled {
            bench.settle();
        }
        bench.reopen(if settled { Integrity::Settled } else { Integrity::Strict }).unwrap();
        assert!(bench.read_all().unwrap() == pattern(1));
        for chunk in [0, 60, 127, 128, CHUNKS - 1] {
            let now = bench.disk.unit(chunk);
            bench.disk.put_unit(chunk, &before[chunk as usize]);
            let expected = if settled { FormatError::Replayed } else { FormatError::Forged };
            assert_eq!(refused(bench.read(chunk)), expected, "chunk {chunk}");
            // Nor what somebody seals under it now, in any epoch.
            let newest = epoch_of(&now);
            for epoch in [epoch_of(&before[chunk as usize]), newest, newest + 1] {
                bench.disk.put_unit(chunk, &forged(&bench.data_keys[0], chunk, epoch));
                refused(bench.read(chunk));
            }
            bench.disk.put_unit(chunk, &now);
        }
        // The header with both keys is an old one, which a settled file shows.
        bench.disk.memory.write_at(&between, 0).unwrap();
        let replayed =
            matches!(bench.reopen(Integrity::Settled), Err(ChunkError::Header(FormatError::Replayed)));
        assert!(replayed);
    }
}

#[test]
fn floors_hold_and_the_previous_key_seals_nothing_new_meanwhile() {
    let mut bench = Bench::new();
    let old = bench.disk.unit(5);
    bench.write(5 * PAYLOAD as u64, &[b'n'; PAYLOAD]);
    bench.settle();
    let mut work = bench.begin().unwrap();
    // Half of it is done.
    while work.chunk().is_some_and(|chunk| chunk < 64) {
        bench.file.reencrypt(&bench.keys, &mut work, 16 << 12, epoch).unwrap();
    }
    let since = epoch_of(&bench.disk.unit(0));
    let (done, due) = (5, 100);
    assert!(epoch_of(&bench.disk.unit(done)) == since && epoch_of(&bench.disk.unit(due)) < since);
    for settled in [false, true] {
        if settled {
            bench.settle();
        }
        bench.reopen(if settled { Integrity::Settled } else { Integrity::Strict }).unwrap();
        assert!(bench.file.is_being_reencrypted());
        let now = bench.disk.unit(done);
        bench.disk.put_unit(done, &old);
        assert_eq!(refused(bench.read(done)), FormatError::Replayed, "below the floor of the last settling");
        bench.disk.put_unit(done, &now);
        let now = bench.disk.unit(due);
        for (data_key, epoch) in [(0, since), (0, since + 1), (1, since - 1)] {
            bench.disk.put_unit(due, &forged(&bench.data_keys[data_key], due, epoch));
            assert_eq!(refused(bench.read(due)), FormatError::Forged, "key {data_key}, epoch {epoch}");
        }
        bench.disk.put_unit(due, &now);
        assert_eq!(bench.read(due).unwrap(), pattern(1)[due as usize * PAYLOAD..][..PAYLOAD]);
    }
    // Somebody else goes on.
    let mut work = bench.file.resume_reencryption().unwrap();
    bench.finish(&mut work).unwrap();
    let mut expected = pattern(1);
    expected[5 * PAYLOAD..6 * PAYLOAD].fill(b'n');
    assert!(bench.read_all().unwrap() == expected);
}

#[test]
fn neither_data_key_opens_a_header_that_is_not_whole() {
    let mut bench = Bench::new();
    bench.begin().unwrap();
    let good = bench.disk.header();
    // Any byte of the previous key, behind the blob, in both slots.
    for at in 0..62 {
        let mut bad = good.clone();
        for slot in [512, 2048] {
            bad[slot + 48 + 5 + at] ^= 1;
            let checksum = kmsfs::crypto::kdf::sha256(&[&bad[slot..slot + 1520]]);
            bad[slot + 1520..slot + 1536].copy_from_slice(&checksum[..16]);
        }
        bench.disk.memory.write_at(&bad, 0).unwrap();
        let refused = bench.reopen(Integrity::Strict);
        assert!(matches!(refused, Err(ChunkError::Header(_))), "byte {at}: {refused:?}");
    }
}

#[test]
fn a_header_without_room_for_two_keys_changes_nothing() {
    let mut bench = Bench::new();
    let before = bench.disk.memory.snapshot();
    let new = Key::random().unwrap();
    let room = |blob: usize| Wrapped { blob: vec![1; blob], ..Wrapped::default() };
    assert!(room(638).fits_with_previous() && !room(639).fits_with_previous() && room(700).fits());
    let present = Arc::clone(&bench.data_keys[0]);
    let refused = bench.file.begin_reencryption(&present, &new, room(639), epoch);
    assert!(matches!(refused, Err(ChunkError::Header(FormatError::Impossible))));
    assert!(bench.disk.memory.snapshot() == before);
    bench.begin().unwrap();
    let refused = bench.file.begin_reencryption(&bench.data_keys[1], &new, wrapped(2), epoch);
    assert!(matches!(refused, Err(ChunkError::Header(FormatError::Impossible))), "it is under way");
}

/// Every call fails, every two that are near, and every one with all that follow for a while.
fn failures(calls: u64) -> Vec<u64> {
    let one = |call: u64| 1u64 << call;
    let pairs = (0..calls).flat_map(|a| (a + 1..calls.min(a + 5)).map(move |b| one(a) | one(b)));
    let runs = (0..calls).map(|from| (0b1_1111 << from) & (one(calls) - 1));
    (0..calls).map(one).chain(pairs).chain(runs).collect()
}

#[test]
fn a_disk_that_fails_anywhere_leaves_a_file_that_reads_as_before() {
    let mut begun = 0;
    for failing in failures(12) {
        let mut bench = Bench::new();
        let mut expected = pattern(1);
        bench.disk.fail(failing);
        let mut work = bench.begin().ok();
        begun += u64::from(work.is_some());
        if work.is_none() {
            bench.data_keys.pop();
        }
        let read =
            |bench: &Bench, expected: &[u8]| assert!(bench.read_all().unwrap() == expected, "{failing:b}");
        read(&bench, &expected);
        // A write may fail too; what it reached is not known then.
        let at = 7 * PAYLOAD;
        let new = vec![b'w'; PAYLOAD];
        if bench.file.write(&bench.keys, at as u64, &new, epoch).is_ok() {
            expected[at..at + PAYLOAD].copy_from_slice(&new);
        }
        read(&bench, &expected);
        for _ in 0..8 {
            if let Some(under_way) = &mut work
                && bench.finish(under_way).is_ok()
            {
                work = None;
            }
            read(&bench, &expected);
        }
        bench.disk.fail(0);
        assert!(work.is_none(), "{failing:b}: it was tried again and again");
        bench.settle();
        bench.reopen(Integrity::Settled).unwrap_or_else(|error| panic!("{failing:b}: {error}"));
        read(&bench, &expected);
        assert!(!bench.file.is_being_reencrypted());
    }
    assert!(begun > 20, "{begun}");
}

#[test]
fn a_flush_that_failed_has_everything_written_once_more() {
    let mut bench = Bench::new();
    let mut work = bench.begin().unwrap();
    while !work.is_through() {
        bench.file.reencrypt(&bench.keys, &mut work, 16 << 12, epoch).unwrap();
    }
    let lost = bench.disk.unit(9);
    bench.disk.fail(1);
    bench.file.sync(true).unwrap_err();
    // A program was told of it. The kernel tells nobody else, and takes the pages for written.
    assert!(!bench.file.finish_reencryption(&bench.keys, &mut work).unwrap());
    assert!(bench.file.is_being_reencrypted() && !work.is_through());
    bench.finish(&mut work).unwrap();
    assert_ne!(bench.disk.unit(9), lost);
    assert!(bench.read_all().unwrap() == pattern(1));
}
