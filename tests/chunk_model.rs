//! Sealed files against a plain byte vector, through reopening, settling and interruption; and
//! against an adversary who owns the backing file.
#![allow(clippy::unwrap_used)]

use std::convert::Infallible;
use std::sync::Arc;

use kmsfs::chunk::{Backing, ChunkError, Integrity, Memory, Opened, SealedFile, Step};
use kmsfs::format::head::{Head, Kind};
use kmsfs::format::schedule::FileKeys;
use kmsfs::format::slot::Wrapped;
use kmsfs::format::{FormatError, Id, PAGE_LEN};
use kmsfs::secret::Key;
use proptest::prelude::*;

const PAYLOAD: u64 = 4064;

struct Shared(Arc<Memory>);

impl Backing for Shared {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
        self.0.read_at(buffer, offset)
    }
    fn write_at(&self, buffer: &[u8], offset: u64) -> std::io::Result<()> {
        assert!(
            offset + buffer.len() as u64 <= self.0.length()?.max(PAGE_LEN as u64),
            "write behind the end"
        );
        self.0.write_at(buffer, offset)
    }
    fn length(&self) -> std::io::Result<u64> {
        self.0.length()
    }
    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.0.set_len(len)
    }
    fn sync(&self, data_only: bool) -> std::io::Result<()> {
        self.0.sync(data_only)
    }
    fn punch(&self, offset: u64, len: u64) -> std::io::Result<()> {
        self.0.punch(offset, len)
    }
    fn allocate(&self, offset: u64, len: u64) -> std::io::Result<()> {
        self.0.allocate(offset, len)
    }
    fn seek_data(&self, offset: u64) -> std::io::Result<Option<u64>> {
        self.0.seek_data(offset)
    }
    fn seek_hole(&self, offset: u64) -> std::io::Result<u64> {
        self.0.seek_hole(offset)
    }
}

#[derive(Debug)]
struct Failed(String);

impl From<ChunkError> for Failed {
    fn from(error: ChunkError) -> Self {
        Self(error.to_string())
    }
}

impl From<Infallible> for Failed {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

struct Bench {
    disk: Arc<Memory>,
    data_key: Arc<Key>,
    file: SealedFile<Shared>,
    keys: FileKeys,
    next_epoch: u32,
}

impl Bench {
    fn new() -> Self {
        let disk = Arc::new(Memory::default());
        let data_key = Arc::new(Key::random().unwrap());
        let head = Head::new(Kind::File, Id([1; 16]), Id::random().unwrap(), Id([3; 16]));
        let Opened { file, keys } =
            SealedFile::create(Shared(Arc::clone(&disk)), head, &data_key, Wrapped::default(), 1).unwrap();
        Self { disk, data_key, file, keys, next_epoch: 2 }
    }

    fn epoch(&mut self) -> impl Fn(u32) -> Result<u32, Failed> + use<> {
        self.next_epoch += 1;
        let next = self.next_epoch;
        move |current| Ok(next.max(current + 1))
    }

    fn settle(&mut self) {
        if let Some(mut settling) =
            self.file.begin_settling(&self.keys, |newest| Ok::<_, ChunkError>(newest + 1)).unwrap()
        {
            while self.file.settle(&self.keys, &mut settling).unwrap() != Step::Done {}
        }
        assert!(self.file.is_settled());
    }

    fn reopen(&mut self, integrity: Integrity) -> Result<(), Failed> {
        let key = Arc::clone(&self.data_key);
        let backing = Shared(Arc::clone(&self.disk));
        let opened = SealedFile::open(backing, integrity, |_, _| Ok::<_, Failed>(key))?;
        self.file = opened.file;
        self.keys = opened.keys;
        Ok(())
    }

    fn read_all(&self) -> Result<Vec<u8>, ChunkError> {
        let mut out = vec![0xaa; self.file.size() as usize];
        let read = self.file.read(&self.keys, 0, &mut out)?;
        assert_eq!(read, out.len());
        Ok(out)
    }
}

#[derive(Debug, Clone)]
enum Op {
    Write { at: u64, len: usize, seed: u8 },
    Truncate(u64),
    Punch { at: u64, len: u64 },
    Settle,
    Reopen,
    ReopenRecovering,
    Read { at: u64, len: usize },
    Seek(u64),
}

/// Offsets in small files, around the first map page, and around chunk boundaries everywhere.
fn offsets() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..6 * PAYLOAD,
        (0u64..6, 0u64..9).prop_map(|(chunk, by)| (chunk * PAYLOAD + by).saturating_sub(4)),
        (120u64..140, 0u64..PAYLOAD).prop_map(|(chunk, by)| chunk * PAYLOAD + by),
        (1140u64..1150, 0u64..9).prop_map(|(chunk, by)| chunk * PAYLOAD + by - 4),
    ]
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let lengths = prop_oneof![1usize..100, 3000usize..9000, 60_000usize..80_000];
    let op = prop_oneof![
        6 => (offsets(), lengths.clone(), any::<u8>()).prop_map(|(at, len, seed)| Op::Write { at, len, seed }),
        2 => offsets().prop_map(Op::Truncate),
        2 => (offsets(), 1u64..40_000).prop_map(|(at, len)| Op::Punch { at, len }),
        2 => Just(Op::Settle),
        1 => Just(Op::Reopen),
        1 => Just(Op::ReopenRecovering),
        2 => (offsets(), lengths).prop_map(|(at, len)| Op::Read { at, len }),
        1 => offsets().prop_map(Op::Seek),
    ];
    proptest::collection::vec(op, 1..30)
}

fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed) | 1).collect()
}

fn apply(bench: &mut Bench, model: &mut Vec<u8>, op: &Op) {
    let epoch = bench.epoch();
    match *op {
        Op::Write { at, len, seed } => {
            let data = pattern(seed, len);
            bench.file.write(&bench.keys, at, &data, epoch).unwrap();
            let end = at as usize + len;
            if model.len() < end {
                model.resize(end, 0);
            }
            model[at as usize..end].copy_from_slice(&data);
        }
        Op::Truncate(size) => {
            bench.file.truncate(&bench.keys, size, epoch).unwrap();
            model.resize(size as usize, 0);
        }
        Op::Punch { at, len } => {
            bench.file.punch(&bench.keys, at..at + len, epoch).unwrap();
            let end = model.len().min((at + len) as usize);
            if (at as usize) < end {
                model[at as usize..end].fill(0);
            }
        }
        Op::Settle => bench.settle(),
        Op::Reopen => bench.reopen(Integrity::Strict).unwrap(),
        Op::ReopenRecovering => bench.reopen(Integrity::Recovering).unwrap(),
        Op::Read { at, len } => {
            let mut out = vec![0; len];
            let read = bench.file.read(&bench.keys, at, &mut out).unwrap();
            let expected = model.get(at as usize..).unwrap_or_default();
            assert_eq!(&out[..read], &expected[..expected.len().min(len)]);
        }
        Op::Seek(at) => check_seek(bench, model, at),
    }
    assert_eq!(bench.file.size(), model.len() as u64);
}

/// Holes need not be found, but data must never be taken for one.
fn check_seek(bench: &Bench, model: &[u8], at: u64) {
    let zero = |from: u64, to: u64| model[from as usize..to as usize].iter().all(|&b| b == 0);
    let size = model.len() as u64;
    match bench.file.seek_data(at).unwrap() {
        Some(data) => assert!(data >= at && data < size && zero(at, data)),
        None => assert!(at >= size || zero(at, size)),
    }
    match bench.file.seek_hole(at).unwrap() {
        Some(hole) if hole < size => {
            assert!(hole >= at && zero(hole, (hole / PAYLOAD * PAYLOAD + PAYLOAD).min(size)));
        }
        Some(hole) => assert_eq!(hole, size),
        None => assert!(at >= size),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn reads_back_what_a_plain_file_would(ops in ops()) {
        let mut bench = Bench::new();
        let mut model = Vec::new();
        for op in &ops {
            apply(&mut bench, &mut model, op);
        }
        prop_assert!(bench.read_all().unwrap() == model);
        bench.settle();
        bench.reopen(Integrity::Strict).unwrap();
        prop_assert!(bench.read_all().unwrap() == model);
    }

    #[test]
    fn tampering_with_a_settled_file_never_yields_other_bytes(
        ops in ops(), attacks in proptest::collection::vec((0u8..7, any::<u64>(), any::<u64>()), 1..3),
    ) {
        let mut bench = Bench::new();
        let mut model = Vec::new();
        for op in &ops {
            apply(&mut bench, &mut model, op);
        }
        bench.settle();
        let (old, old_model) = (bench.disk.snapshot(), model.clone());
        // A later generation, so that there is something to replay.
        for at in (0..model.len()).step_by(PAYLOAD as usize * 3) {
            apply(&mut bench, &mut model, &Op::Write { at: at as u64, len: 50, seed: 77 });
        }
        bench.settle();
        let now = bench.disk.snapshot();
        let mut forged = now;
        for (kind, a, b) in attacks {
            tamper(&mut forged, &old, kind, a, b);
        }
        // An older header rolls the file back as far as it goes with it: that is outside of what
        // can be detected, but nothing else may be shown than what the file was then.
        let shown = if forged.get(..PAGE_LEN) == old.get(..PAGE_LEN) { &old_model } else { &model };
        bench.disk.replace(forged);
        if bench.reopen(Integrity::Settled).is_ok() {
            // Chunk by chunk, so that one refusal does not hide another chunk's forgery.
            prop_assert_eq!(bench.file.size(), shown.len() as u64);
            for (index, expected) in shown.chunks(PAYLOAD as usize).enumerate() {
                let mut out = vec![0; expected.len()];
                if bench.file.read(&bench.keys, index as u64 * PAYLOAD, &mut out).is_ok() {
                    prop_assert!(out == expected, "chunk {} is forged", index);
                }
            }
        }
    }
}

fn tamper(disk: &mut Vec<u8>, old: &[u8], kind: u8, a: u64, b: u64) {
    let pages = disk.len() / PAGE_LEN;
    if pages == 0 {
        return;
    }
    let page = |x: u64| (x as usize % pages) * PAGE_LEN;
    match kind {
        0 => {
            let at = a as usize % disk.len();
            disk[at] ^= 1 << (b % 8);
        }
        1 => disk[page(a)..page(a) + PAGE_LEN].fill(0),
        2 => {
            let copy = disk[page(a)..page(a) + PAGE_LEN].to_vec();
            disk[page(b)..page(b) + PAGE_LEN].copy_from_slice(&copy);
        }
        3 => {
            // An older copy of one page; of the header only together with everything else.
            let at = page(a);
            if at + PAGE_LEN <= old.len() {
                disk[at..at + PAGE_LEN].copy_from_slice(&old[at..at + PAGE_LEN]);
            }
        }
        4 => disk.truncate(a as usize % disk.len()),
        5 => disk.resize(disk.len() + a as usize % 20_000, 0),
        _ => disk.truncate(disk.len() - (a as usize % pages) * PAGE_LEN),
    }
}

#[test]
fn what_is_wrong_with_a_settled_file_is_named() {
    let mut bench = Bench::new();
    let data = pattern(1, 300 * PAYLOAD as usize);
    let epoch = bench.epoch();
    bench.file.write(&bench.keys, 0, &data, epoch).unwrap();
    bench.settle();
    let first = bench.disk.snapshot();
    let epoch = bench.epoch();
    bench.file.write(&bench.keys, 0, &data, epoch).unwrap();
    bench.settle();
    let now = bench.disk.snapshot();
    let unit_5 = 6 * PAGE_LEN..7 * PAGE_LEN;
    let map = 129 * PAGE_LEN..130 * PAGE_LEN;
    type Attack<'a> = Box<dyn Fn(&mut Vec<u8>) + 'a>;
    let cases: Vec<(Attack<'_>, &str)> = vec![
        (Box::new(|d| d[6 * PAGE_LEN + 99] ^= 1), "chunk 5: authentication failed"),
        (Box::new(|d| d[unit_5.clone()].fill(0)), "chunk 5: written data was erased"),
        (
            Box::new(|d| d[unit_5.clone()].copy_from_slice(&first[unit_5.clone()])),
            "chunk 5: an older copy was put in place of the current one",
        ),
        (
            Box::new(|d| d.copy_within(7 * PAGE_LEN..8 * PAGE_LEN, 6 * PAGE_LEN)),
            "chunk 5: authentication failed",
        ),
        (Box::new(|d| d[map.clone()].fill(0)), "map page 0 of level 1: written data was erased"),
        (
            Box::new(|d| d[map.clone()].copy_from_slice(&first[map.clone()])),
            "map page 0 of level 1: an older copy was put in place of the current one",
        ),
        (Box::new(|d| d.truncate(d.len() - PAGE_LEN)), "header: the file was cut or lengthened"),
        (Box::new(|d| d.extend([0; PAGE_LEN])), "header: the file was cut or lengthened"),
        (Box::new(|d| d.truncate(0)), "header: the header is empty"),
        (Box::new(|d| d[..PAGE_LEN].fill(0)), "header: the header is empty"),
        (Box::new(|d| d[..PAGE_LEN].copy_from_slice(&first[..PAGE_LEN])), "chunk 0: authentication failed"),
    ];
    for (attack, expected) in cases {
        let mut forged = now.clone();
        attack(&mut forged);
        bench.disk.replace(forged);
        let found = match bench.reopen(Integrity::Strict) {
            Ok(()) => bench.read_all().unwrap_err().to_string(),
            Err(Failed(message)) => message,
        };
        assert_eq!(found, expected);
    }
}

#[test]
fn growth_whose_mark_was_lost_is_absent_after_a_crash_and_damage_otherwise() {
    let mut bench = Bench::new();
    let epoch = bench.epoch();
    bench.file.write(&bench.keys, 0, &pattern(1, 5000), epoch).unwrap();
    bench.settle();
    let header = bench.disk.snapshot()[..PAGE_LEN].to_vec();
    let epoch = bench.epoch();
    bench.file.write(&bench.keys, 4990, &pattern(2, 9000), epoch).unwrap();
    let mut crashed = bench.disk.snapshot();
    crashed[..PAGE_LEN].copy_from_slice(&header);
    bench.disk.replace(crashed.clone());
    assert!(bench.reopen(Integrity::Strict).unwrap_err().0.contains("cut or lengthened"));
    bench.reopen(Integrity::Recovering).unwrap();
    let read = bench.read_all().unwrap();
    assert_eq!(read.len(), 5000);
    assert_eq!(read[..4990], pattern(1, 5000)[..4990]);
    bench.settle();
    bench.reopen(Integrity::Strict).unwrap();
    assert_eq!(bench.read_all().unwrap(), read);
}

#[test]
fn a_file_under_another_data_key_is_refused() {
    let mut bench = Bench::new();
    bench.data_key = Arc::new(Key::random().unwrap());
    assert_eq!(bench.reopen(Integrity::Strict).unwrap_err().0, "header: authentication failed");
    assert_eq!(bench.file.derive_keys(&Key::random().unwrap()).err(), Some(FormatError::Forged));
}

#[test]
fn many_threads_write_and_read_disjoint_records() {
    let bench = Bench::new();
    let (file, keys) = (&bench.file, &bench.keys);
    const RECORD: u64 = 1000;
    std::thread::scope(|scope| {
        for t in 0..8u64 {
            scope.spawn(move || {
                for i in 0..200u64 {
                    // Neighbouring records of different threads share chunks.
                    let at = (i * 8 + t) * RECORD;
                    let data = pattern(t as u8, RECORD as usize);
                    file.write(keys, at, &data, |e| Ok::<_, Failed>(e + 1)).unwrap();
                    let mut out = vec![0; RECORD as usize];
                    assert_eq!(file.read(keys, at, &mut out).unwrap(), RECORD as usize);
                    assert!(out == data, "thread {t} record {i}");
                }
            });
        }
    });
    for i in 0..200u64 {
        for t in 0..8u64 {
            let mut out = vec![0; RECORD as usize];
            file.read(keys, (i * 8 + t) * RECORD, &mut out).unwrap();
            assert!(out == pattern(t as u8, RECORD as usize), "thread {t} record {i}");
        }
    }
}
