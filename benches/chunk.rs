//! The chunk path beside the bare cipher: reading and writing a sealed file over memory, and the
//! AEAD alone over the same number of bytes in chunks of the same size. The distance between the
//! two lines of a group is what cutting requests into chunks, copying and bookkeeping cost.
//!
//! A random read or write of 4 KiB touches two chunks, and a write opens both before it seals
//! them; the bare cipher's line counts the 4 KiB alone.
#![allow(missing_docs, reason = "criterion's macros define public functions")]
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot start should stop")]

use std::hint::black_box;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use kmsfs::chunk::{ChunkError, Memory, Opened, SealedFile};
use kmsfs::crypto::aead::{self, Nonce, Open, Seal, TAG_LEN, Tag};
use kmsfs::format::Id;
use kmsfs::format::head::{Head, Kind};
use kmsfs::format::layout::Layout;
use kmsfs::format::schedule::FileKeys;
use kmsfs::format::slot::Wrapped;
use kmsfs::secret::Key;

/// Bytes in a sequential request.
const REQUEST_LENS: [usize; 3] = [4 << 10, 128 << 10, 1 << 20];
/// Bytes in a random request.
const RANDOM_LEN: usize = 4 << 10;
/// Bytes in the file that is read or overwritten.
const FILE_LEN: usize = 64 << 20;
/// Bytes in a file that is written for the first time.
const FRESH_LEN: usize = 8 << 20;

criterion_group!(name = benches; config = config(); targets = sequential, fresh, random);
criterion_main!(benches);

fn config() -> Criterion {
    Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2))
}

fn sequential(c: &mut Criterion) {
    let sealed = Sealed::filled();
    for len in REQUEST_LENS {
        let mut buffer = vec![0x17; len];
        let offsets = || (0..FILE_LEN / len).map(move |index| (index * len) as u64).cycle();

        let mut group = group(c, format!("read sequentially/{len} B"), len);
        let mut at = offsets();
        group.bench_function("chunk path", |b| b.iter(|| sealed.read(at.next().unwrap(), &mut buffer)));
        bench_cipher_opening(&mut group, len);
        group.finish();

        let mut group = self::group(c, format!("overwrite sequentially/{len} B"), len);
        let mut at = offsets();
        group.bench_function("chunk path", |b| b.iter(|| sealed.write(at.next().unwrap(), &buffer)));
        bench_cipher_sealing(&mut group, len);
        group.finish();
    }
}

fn fresh(c: &mut Criterion) {
    for len in REQUEST_LENS {
        let buffer = vec![0x17; len];
        let mut group = group(c, format!("write a fresh file/{len} B"), FRESH_LEN);
        group.sample_size(20);
        group.bench_function("chunk path", |b| {
            let write = |sealed: Sealed| {
                (0..FRESH_LEN).step_by(len).for_each(|at| sealed.write(at as u64, &buffer));
                sealed
            };
            b.iter_batched(Sealed::empty, write, BatchSize::PerIteration);
        });
        bench_cipher_sealing(&mut group, FRESH_LEN);
        group.finish();
    }
}

fn random(c: &mut Criterion) {
    let sealed = Sealed::filled();
    let mut buffer = vec![0x17; RANDOM_LEN];
    let mut offsets = Offsets(1);

    let mut group = group(c, format!("read at random/{RANDOM_LEN} B"), RANDOM_LEN);
    group.bench_function("chunk path", |b| b.iter(|| sealed.read(offsets.next_page(), &mut buffer)));
    bench_cipher_opening(&mut group, RANDOM_LEN);
    group.finish();

    let mut group = self::group(c, format!("write at random/{RANDOM_LEN} B"), RANDOM_LEN);
    group.bench_function("chunk path", |b| b.iter(|| sealed.write(offsets.next_page(), &buffer)));
    bench_cipher_sealing(&mut group, RANDOM_LEN);
    group.finish();
}

fn group(c: &mut Criterion, name: String, len: usize) -> BenchmarkGroup<'_, WallTime> {
    let mut group = c.benchmark_group(name);
    group.throughput(Throughput::Bytes(len as u64));
    group
}

fn bench_cipher_sealing(group: &mut BenchmarkGroup<'_, WallTime>, len: usize) {
    let mut cipher = Cipher::new(len);
    group.bench_function("cipher alone", |b| b.iter(|| cipher.seal()));
}

fn bench_cipher_opening(group: &mut BenchmarkGroup<'_, WallTime>, len: usize) {
    let mut cipher = Cipher::new(len);
    cipher.seal();
    group.bench_function("cipher alone", |b| b.iter(|| cipher.open()));
}

/// A sealed file over memory.
struct Sealed {
    file: SealedFile<Memory>,
    keys: FileKeys,
}

impl Sealed {
    fn empty() -> Self {
        let head = Head::new(Kind::File, Id([1; 16]), Id([2; 16]), Id([3; 16]));
        let data_key = Key::take_from(&mut [0x42; 32]);
        let Opened { file, keys } =
            SealedFile::create(Memory::default(), head, &data_key, Wrapped::default(), 1).unwrap();
        Self { file, keys }
    }

    fn filled() -> Self {
        let sealed = Self::empty();
        let buffer = vec![0x71; 1 << 20];
        (0..FILE_LEN).step_by(buffer.len()).for_each(|at| sealed.write(at as u64, &buffer));
        sealed
    }

    fn read(&self, offset: u64, out: &mut [u8]) {
        assert_eq!(self.file.read(&self.keys, offset, black_box(&mut *out)).unwrap(), out.len());
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let next_epoch = |newest: u32| Ok::<_, ChunkError>(newest + 1);
        self.file.write(&self.keys, offset, black_box(data), next_epoch).unwrap();
    }
}

/// Offsets of pages in the file, in an order that is the same in every run.
struct Offsets(u64);

impl Offsets {
    fn next_page(&mut self) -> u64 {
        // Xorshift (Marsaglia).
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % (FILE_LEN / RANDOM_LEN) as u64 * RANDOM_LEN as u64
    }
}

/// The cipher alone, over the same bytes in the same batches as one request of the chunk path.
struct Cipher {
    key: Key,
    plaintext: Vec<u8>,
    ciphertext: Vec<u8>,
    nonces: Vec<Nonce>,
    tags: Vec<Tag>,
}

impl Cipher {
    fn new(len: usize) -> Self {
        let count = len.div_ceil(Layout::default().payload_len());
        Self {
            key: Key::take_from(&mut [0x42; 32]),
            plaintext: vec![0x17; len],
            ciphertext: vec![0x71; len],
            nonces: vec![[7; 12]; count],
            tags: vec![[0; TAG_LEN]; count],
        }
    }

    fn seal(&mut self) {
        let payload = Layout::default().payload_len();
        let texts = self.plaintext.chunks(payload).zip(self.ciphertext.chunks_mut(payload));
        let mut batch: Vec<Seal<'_>> = texts
            .zip(self.nonces.iter().zip(&mut self.tags))
            .map(|((plaintext, ciphertext), (nonce, tag))| Seal {
                nonce,
                aad: &[0x5a; 16],
                plaintext,
                ciphertext,
                tag,
            })
            .collect();
        aead::best().seal(&self.key, black_box(&mut batch));
    }

    fn open(&mut self) {
        let payload = Layout::default().payload_len();
        let texts = self.plaintext.chunks_mut(payload).zip(self.ciphertext.chunks(payload));
        let mut batch: Vec<Open<'_>> = texts
            .zip(self.nonces.iter().zip(&self.tags))
            .map(|((plaintext, ciphertext), (nonce, tag))| Open {
                nonce,
                aad: &[0x5a; 16],
                ciphertext,
                plaintext,
                tag,
            })
            .collect();
        aead::best().open(&self.key, black_box(&mut batch)).unwrap();
    }
}
