//! Crashes of the machine under a sealed file. What was flushed is there; of what was not, any
//! part may be lost, page by page and in any order; only changes of the file's length reach the disk
//! in the order in which they were made, as on every filesystem with a journal. Then the file opens, every chunk reads as its
//! old or its new content, and after it was settled again it passes as undamaged.
#![allow(clippy::unwrap_used)]

use std::io;
use std::sync::{Arc, Mutex};

use kmsfs::chunk::{Backing, ChunkError, Integrity, Memory, Opened, Reencryption, SealedFile, Step};
use kmsfs::format::head::{Head, Kind};
use kmsfs::format::schedule::FileKeys;
use kmsfs::format::slot::Wrapped;
use kmsfs::format::{Id, PAGE_LEN};
use kmsfs::secret::Key;
use proptest::prelude::*;

const PAYLOAD: u64 = 4064;

#[derive(Debug, Clone)]
enum Event {
    /// Of one page at most.
    Write {
        offset: u64,
        bytes: Vec<u8>,
    },
    SetLen(u64),
    Punch {
        offset: u64,
        len: u64,
    },
    Sync,
}

/// A backing file that remembers everything that was done to it.
#[derive(Clone, Default)]
struct Recorder {
    disk: Arc<Memory>,
    log: Arc<Mutex<Vec<Event>>>,
}

impl Recorder {
    fn note(&self, event: Event) {
        self.log.lock().unwrap().push(event);
    }
}

impl Backing for Recorder {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.disk.read_at(buffer, offset)
    }
    fn write_at(&self, buffer: &[u8], offset: u64) -> io::Result<()> {
        let mut at = 0;
        while at < buffer.len() {
            let start = offset + at as u64;
            let len = (PAGE_LEN - start as usize % PAGE_LEN).min(buffer.len() - at);
            self.note(Event::Write { offset: start, bytes: buffer[at..at + len].to_vec() });
            at += len;
        }
        self.disk.write_at(buffer, offset)
    }
    fn length(&self) -> io::Result<u64> {
        self.disk.length()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.note(Event::SetLen(len));
        self.disk.set_len(len)
    }
    fn sync(&self, _data_only: bool) -> io::Result<()> {
        self.note(Event::Sync);
        Ok(())
    }
    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.note(Event::Punch { offset, len });
        self.disk.punch(offset, len)
    }
    fn allocate(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }
    fn seek_data(&self, offset: u64) -> io::Result<Option<u64>> {
        self.disk.seek_data(offset)
    }
    fn seek_hole(&self, offset: u64) -> io::Result<u64> {
        self.disk.seek_hole(offset)
    }
}

/// The disk after a crash at `log[at]`: `survives` says which of the unflushed events did.
fn crashed_disk(log: &[Event], at: usize, mut survives: impl FnMut() -> bool) -> Vec<u8> {
    let flushed = log[..at].iter().rposition(|event| matches!(event, Event::Sync)).unwrap_or(0);
    let mut disk: Vec<u8> = Vec::new();
    // Once a change of the length is lost, so are the later ones.
    let mut length_lost = false;
    for (index, event) in log[..at].iter().enumerate() {
        let is_length = matches!(event, Event::SetLen(_));
        if index > flushed && (!survives() || (is_length && length_lost)) {
            length_lost |= is_length;
            continue;
        }
        match event {
            Event::Write { offset, bytes } => {
                let end = *offset as usize + bytes.len();
                if end > disk.len() {
                    // A page's data without the length that was set before it; only the first page
                    // of a file is written without.
                    if *offset == 0 {
                        disk.resize(end, 0);
                    } else {
                        continue;
                    }
                }
                disk[*offset as usize..end].copy_from_slice(bytes);
            }
            Event::SetLen(len) => {
                disk.resize(*len as usize, 0);
            }
            Event::Punch { offset, len } => {
                let end = ((offset + len) as usize).min(disk.len());
                if let Some(range) = disk.get_mut(*offset as usize..end) {
                    range.fill(0);
                }
            }
            Event::Sync => {}
        }
    }
    disk
}

#[derive(Debug, Clone)]
enum Op {
    Write {
        at: u64,
        len: usize,
        seed: u8,
    },
    Truncate(u64),
    Punch {
        at: u64,
        len: u64,
    },
    Sync,
    Settle,
    /// Begins a re-encryption, or does some of the one that is under way.
    Reencrypt(u64),
    /// Does all that is left of a re-encryption.
    Finish,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let at = || {
        prop_oneof![
            4 => 0..5 * PAYLOAD,
            2 => (0u64..5, 0u64..9).prop_map(|(chunk, by)| (chunk * PAYLOAD + by).saturating_sub(4)),
            1 => (126u64..131, 0u64..9).prop_map(|(chunk, by)| chunk * PAYLOAD + by - 4),
        ]
    };
    let op = prop_oneof![
        5 => (at(), prop_oneof![1usize..200, 3000usize..13_000], any::<u8>())
            .prop_map(|(at, len, seed)| Op::Write { at, len, seed }),
        3 => at().prop_map(Op::Truncate),
        1 => (at(), 1u64..15_000).prop_map(|(at, len)| Op::Punch { at, len }),
        2 => Just(Op::Sync),
        2 => Just(Op::Settle),
        3 => (1u64..5).prop_map(Op::Reencrypt),
        1 => Just(Op::Finish),
    ];
    proptest::collection::vec(op, 1..14)
}

struct Run {
    recorder: Recorder,
    file: SealedFile<Recorder>,
    keys: FileKeys,
    /// The data keys that the file has had; a wrapped one is its number.
    data_keys: Vec<Arc<Key>>,
    reencryption: Option<Reencryption>,
    /// The contents after each operation, and how long the log was then.
    versions: Vec<(usize, Vec<u8>)>,
}

fn epoch(current: u32) -> Result<u32, ChunkError> {
    Ok(current + 1)
}

fn carry_out(ops: &[Op]) -> Run {
    let recorder = Recorder::default();
    let data_key = Arc::new(Key::random().unwrap());
    let wrapped = wrapped(0);
    let head = Head::new(Kind::File, Id([1; 16]), Id([2; 16]), Id([3; 16]));
    let Opened { file, keys } = SealedFile::create(recorder.clone(), head, &data_key, wrapped, 1).unwrap();
    recorder.sync(true).unwrap();
    let start = recorder.log.lock().unwrap().len();
    let data_keys = vec![data_key];
    let versions = vec![(start, Vec::new())];
    let mut run = Run { recorder, file, keys, data_keys, reencryption: None, versions };
    for op in ops {
        let mut model = run.versions.last().unwrap().1.clone();
        match *op {
            Op::Write { at, len, seed } => {
                let data: Vec<u8> =
                    (0..len).map(|i| (i as u8).wrapping_mul(7).wrapping_add(seed) | 1).collect();
                run.file.write(&run.keys, at, &data, epoch).unwrap();
                model.resize(model.len().max(at as usize + len), 0);
                model[at as usize..at as usize + len].copy_from_slice(&data);
            }
            Op::Truncate(size) => {
                run.file.truncate(&run.keys, size, epoch).unwrap();
                model.resize(size as usize, 0);
            }
            Op::Punch { at, len } => {
                run.file.punch(&run.keys, at..at + len, epoch).unwrap();
                let end = model.len().min((at + len) as usize);
                if let Some(range) = model.get_mut(at as usize..end) {
                    range.fill(0);
                }
            }
            Op::Sync => run.file.sync(true).unwrap(),
            Op::Settle => settle(&run.file, &run.keys),
            Op::Reencrypt(units) => run.reencrypt(units),
            Op::Finish => run.finish(),
        }
        let len = run.recorder.log.lock().unwrap().len();
        run.versions.push((len, model));
    }
    run
}

fn wrapped(number: usize) -> Wrapped {
    Wrapped { blob: vec![number as u8], ..Wrapped::default() }
}

impl Run {
    fn reencrypt(&mut self, units: u64) {
        if let Some(work) = &mut self.reencryption {
            return self.file.reencrypt(&self.keys, work, units << 12, epoch).unwrap();
        }
        let new = Arc::new(Key::random().unwrap());
        let present = self.data_keys.last().unwrap();
        let wrapped = wrapped(self.data_keys.len());
        let (keys, work) = self.file.begin_reencryption(present, &new, wrapped, epoch).unwrap();
        (self.keys, self.reencryption) = (keys, Some(work));
        self.data_keys.push(new);
    }

    fn finish(&mut self) {
        if let Some(mut work) = self.reencryption.take() {
            finish(&self.file, &mut self.keys, &mut work);
        }
    }
}

/// Does all that is left of a re-encryption.
fn finish<B: Backing>(file: &SealedFile<B>, keys: &mut FileKeys, work: &mut Reencryption) {
    while !work.is_through() {
        file.reencrypt(keys, work, 16 << 12, epoch).unwrap();
    }
    assert!(file.finish_reencryption(keys, work).unwrap());
    keys.previous = None;
}

fn settle<B: Backing>(file: &SealedFile<B>, keys: &FileKeys) {
    if let Some(mut settling) = file.begin_settling(keys, |newest| Ok::<_, ChunkError>(newest + 1)).unwrap() {
        loop {
            file.sync(true).unwrap();
            if file.settle(keys, &mut settling).unwrap() == Step::Done {
                return;
            }
        }
    }
}

/// The part of a version that a chunk of `len` bytes may show: what it had there, and zeros behind
/// its end.
fn shown(version: &[u8], chunk: usize, len: usize) -> Vec<u8> {
    let start = (chunk * PAYLOAD as usize).min(version.len());
    let end = (start + len).min(version.len());
    let mut shown = version[start..end].to_vec();
    shown.resize(len, 0);
    shown
}

/// Whether a chunk is that of one version. Where a cut was lost but not a later write to the
/// chunk, what lies behind that version's end is another version's.
fn is_known(possible: &[&Vec<u8>], index: usize, chunk: &[u8]) -> bool {
    possible.iter().any(|version| {
        let own = version.len().saturating_sub(index * PAYLOAD as usize).min(chunk.len());
        chunk[..own] == shown(version, index, own)
            && possible.iter().any(|other| chunk[own..] == shown(other, index, chunk.len())[own..])
    })
}

fn check(run: &Run, at: usize, disk: Vec<u8>) -> Result<(), TestCaseError> {
    let log = run.recorder.log.lock().unwrap();
    let flushed = log[..at].iter().rposition(|event| matches!(event, Event::Sync)).unwrap_or(0);
    drop(log);
    // From the last version that was complete at the flush to the first that was complete at the
    // crash.
    let first = run.versions.iter().rposition(|(len, _)| *len <= flushed + 1).unwrap_or(0);
    let last =
        run.versions.iter().position(|(len, _)| *len >= at).unwrap_or(run.versions.len() - 1).max(first);
    let possible: Vec<&Vec<u8>> = run.versions[first..=last].iter().map(|(_, v)| v).collect();
    let memory = Memory::default();
    memory.replace(disk);
    let memory = Arc::new(memory);
    let recorder = Recorder { disk: Arc::clone(&memory), log: Arc::default() };
    let opened = open(run, &recorder, Integrity::Recovering);
    let Opened { file, mut keys } = match opened {
        Ok(opened) => opened,
        Err(error) => return Err(TestCaseError::fail(format!("does not open: {error}"))),
    };
    let size = file.size() as usize;
    prop_assert!(possible.iter().any(|v| v.len() == size), "size {} is neither old nor new", size);
    let mut read = vec![0; size];
    for (index, chunk) in read.chunks_mut(PAYLOAD as usize).enumerate() {
        let outcome = file.read(&keys, index as u64 * PAYLOAD, chunk);
        prop_assert!(outcome.is_ok(), "{}", outcome.unwrap_err());
        prop_assert!(is_known(&possible, index, chunk), "chunk {} is neither old nor new", index);
    }
    settle(&file, &keys);
    reads_settled(run, &recorder, &read)?;
    // What was left of a re-encryption can be done, also by somebody who has not begun it, and in
    // the end the newer key is enough.
    if let Some(mut work) = file.resume_reencryption() {
        finish(&file, &mut keys, &mut work);
        let mut again = vec![0; size];
        prop_assert!(file.read(&keys, 0, &mut again).is_ok() && again == read);
        settle(&file, &keys);
        prop_assert!(!reads_settled(run, &recorder, &read)?.is_being_reencrypted());
    }
    Ok(())
}

fn open(run: &Run, recorder: &Recorder, integrity: Integrity) -> Result<Opened<Recorder>, ChunkError> {
    SealedFile::open(recorder.clone(), integrity, |_, wrapped| {
        Ok(Arc::clone(&run.data_keys[usize::from(wrapped.blob[0])]))
    })
}

/// A settled file opens and reads like this.
fn reads_settled(run: &Run, recorder: &Recorder, read: &[u8]) -> Result<SealedFile<Recorder>, TestCaseError> {
    let Ok(Opened { file, keys }) = open(run, recorder, Integrity::Settled) else {
        return Err(TestCaseError::fail("damaged after it was settled again"));
    };
    let mut again = vec![0; read.len()];
    prop_assert!(file.read(&keys, 0, &mut again).is_ok_and(|len| len == read.len()) && again == read);
    Ok(file)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_crash_leaves_old_or_new(ops in ops(), seed in any::<u64>()) {
        let run = carry_out(&ops);
        let log = run.recorder.log.lock().unwrap().clone();
        let mut random = seed | 1;
        let mut next = move || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random
        };
        let begin = run.versions[0].0;
        for at in begin..=log.len() {
            // The process is killed: everything so far is there.
            check(&run, at, crashed_disk(&log, at, || true))?;
            check(&run, at, crashed_disk(&log, at, || false))?;
            for _ in 0..4 {
                let odds = 1 + next() % 7;
                check(&run, at, crashed_disk(&log, at, || next() % 8 < odds))?;
            }
        }
    }
}
