//! The chunk path, and how much of it is not the cipher: reading and writing a sealed file in requests of
//! 4 KiB to 1 MiB.
//!
//! Beside each row stand two parts of it, measured in turn with it: the *cipher* alone over as many
//! chunks, sealed and opened in batches as the path does, and the *backing* alone, which is the very
//! calls that the path made for these requests, made again. What is left over is ours: cutting
//! requests into chunks, edges, epochs and locks. Times are the thread's own, in the kernel too, and not
//! the clock's.
//!
//! ```text
//! cargo bench --bench chunk                             # over memory
//! KMSFS_BENCH_DIR=/mnt cargo bench --bench chunk        # over a file in that directory
//! cargo bench --bench chunk -- append                   # rows whose name contains that
//! ```
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot start should stop")]
#![allow(clippy::print_stdout, reason = "a benchmark prints")]

use std::fs::File;
use std::hint::black_box;
use std::io;
use std::sync::Mutex;

use kmsfs::chunk::{Backing, ChunkError, Memory, Opened, SealedFile};
use kmsfs::crypto::aead::{self, Nonce, Open, Seal, TAG_LEN, Tag};
use kmsfs::format::head::{Head, Kind};
use kmsfs::format::layout::Layout;
use kmsfs::format::schedule::FileKeys;
use kmsfs::format::slot::Wrapped;
use kmsfs::format::{Id, PAGE_LEN};
use kmsfs::secret::Key;
use rustix::time::{ClockId, clock_gettime};

/// Bytes in a request.
const REQUEST_LENS: [usize; 6] = [4 << 10, 16 << 10, 64 << 10, 128 << 10, 256 << 10, 1 << 20];
/// Bytes in the file.
const FILE_LEN: usize = 32 << 20;
/// Bytes that a round moves, and requests in it at most.
const ROUND_LEN: usize = 8 << 20;
const ROUND_REQUESTS: usize = 512;
/// Rounds, each of which measures the path and its parts in turn.
const ROUNDS: usize = 15;
/// Chunks that the path seals or opens in one call of the cipher.
const BATCH: usize = 32;

fn main() {
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    println!("cipher {}; medians of {ROUNDS} rounds, and the quartiles of the path", aead::best().name());
    println!(
        "{:<22} {:>9} {:>17} {:>9} {:>9} {:>9} {:>8} {:>14}",
        "", "us", "quartiles", "cipher", "backing", "ours", "MB/s", "not the cipher"
    );
    match std::env::var_os("KMSFS_BENCH_DIR") {
        None => run(&filter, Memory::default),
        Some(dir) => run(&filter, || {
            let path = std::path::Path::new(&dir).join("kmsfs-bench-chunk");
            let file =
                File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
            std::fs::remove_file(path).unwrap();
            file
        }),
    }
}

fn run<B: Backing>(filter: &str, backing: impl Fn() -> B) {
    for pattern in [Pattern::Sequential, Pattern::Random, Pattern::Append] {
        for operation in [Operation::Read, Operation::Write] {
            if (pattern, operation) == (Pattern::Append, Operation::Read) {
                continue;
            }
            for len in REQUEST_LENS {
                let name = name(pattern, operation, len);
                if name.contains(filter) {
                    Row::new(backing(), pattern, operation, len).print(&name);
                }
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Pattern {
    Sequential,
    Random,
    /// Sequential from the end of an empty file on.
    Append,
}

#[derive(Clone, Copy, PartialEq)]
enum Operation {
    Read,
    Write,
}

fn name(pattern: Pattern, operation: Operation, len: usize) -> String {
    let what = match (pattern, operation) {
        (Pattern::Append, _) => "append",
        (Pattern::Sequential, Operation::Read) => "read",
        (Pattern::Sequential, Operation::Write) => "overwrite",
        (Pattern::Random, Operation::Read) => "random read",
        (Pattern::Random, Operation::Write) => "random write",
    };
    format!("{what} {} KiB", len >> 10)
}

/// What a round takes in microseconds per request.
struct Timing {
    path: f64,
    cipher: f64,
    backing: f64,
}

/// One pattern of requests to one file.
struct Row<B> {
    file: SealedFile<Recorder<B>>,
    keys: FileKeys,
    pattern: Pattern,
    operation: Operation,
    buffer: Vec<u8>,
    cipher: Cipher,
    offsets: Offsets,
}

impl<B: Backing> Row<B> {
    fn new(backing: B, pattern: Pattern, operation: Operation, len: usize) -> Self {
        let head = Head::new(Kind::File, Id([1; 16]), Id([2; 16]), Id([3; 16]));
        let data_key = Key::take_from(&mut [0x42; 32]);
        let backing = Recorder { backing, calls: Mutex::new(None) };
        let Opened { file, keys } =
            SealedFile::create(backing, head, &data_key, Wrapped::default(), 1).unwrap();
        let cipher = Cipher::new();
        let mut row =
            Self { file, keys, pattern, operation, buffer: vec![0x71; 1 << 20], cipher, offsets: Offsets(1) };
        for at in (0..FILE_LEN).step_by(1 << 20) {
            row.request(Operation::Write, at as u64);
        }
        row.buffer.truncate(len);
        row
    }

    fn print(mut self, name: &str) {
        self.round();
        let mut timings: Vec<Timing> = (0..ROUNDS).map(|_| self.round()).collect();
        let cipher = median(&mut timings, |timing| timing.cipher);
        let backing = median(&mut timings, |timing| timing.backing);
        let path = median(&mut timings, |timing| timing.path);
        let (low, high) = (timings[ROUNDS / 4].path, timings[ROUNDS * 3 / 4].path);
        println!(
            "{name:<22} {path:>9.2} {:>17} {cipher:>9.2} {backing:>9.2} {:>9.2} {:>8.0} {:>13.0}%",
            format!("{low:.2}-{high:.2}"),
            path - cipher - backing,
            self.buffer.len() as f64 / path,
            (1.0 - cipher / path) * 100.0
        );
    }

    fn round(&mut self) -> Timing {
        let len = self.buffer.len();
        let count = (ROUND_LEN / len).min(ROUND_REQUESTS);
        let places = FILE_LEN / len;
        let first = self.offsets.next() as usize;
        let offsets: Vec<u64> = match self.pattern {
            Pattern::Append => (0..count).map(|index| (index * len) as u64).collect(),
            Pattern::Sequential => (first..first + count).map(|at| (at % places * len) as u64).collect(),
            Pattern::Random => (0..count).map(|_| self.offsets.next() % places as u64 * len as u64).collect(),
        };
        // Once to learn the calls, and as a warm-up.
        *self.file.backing().calls.lock().unwrap() = Some(Vec::new());
        self.begin();
        self.requests(&offsets);
        let calls = self.file.backing().calls.lock().unwrap().take().unwrap();

        self.begin();
        let per_request = 1e6 / count as f64;
        let path = timed(|| self.requests(&offsets)) * per_request;
        let (opened, sealed) = (chunks(&calls, true), chunks(&calls, false));
        let cipher = timed(|| self.cipher.run(&opened, &sealed)) * per_request;
        self.begin();
        let mut scratch = vec![0x5a; 2 << 20];
        let backing = timed(|| self.file.backing().repeat(&calls, &mut scratch)) * per_request;
        // That has put rubbish where units were.
        self.file.backing().restore(&calls);
        Timing { path, cipher, backing }
    }

    /// Where a round begins: at the end of an empty file, if it appends.
    fn begin(&self) {
        if self.pattern == Pattern::Append {
            self.file.truncate(&self.keys, 0, next_epoch).unwrap();
        }
    }

    fn requests(&mut self, offsets: &[u64]) {
        offsets.iter().for_each(|&at| self.request(self.operation, at));
    }

    fn request(&mut self, operation: Operation, at: u64) {
        match operation {
            Operation::Read => {
                let len = self.buffer.len();
                assert_eq!(self.file.read(&self.keys, at, black_box(&mut self.buffer)).unwrap(), len);
            }
            Operation::Write => self.file.write(&self.keys, at, black_box(&self.buffer), next_epoch).unwrap(),
        }
    }
}

fn next_epoch(newest: u32) -> Result<u32, ChunkError> {
    Ok(newest + 1)
}

/// Seconds that this thread was running: what else runs on the machine then counts little.
fn timed(run: impl FnOnce()) -> f64 {
    let now = || {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
    };
    let begin = now();
    run();
    now() - begin
}

/// Leaves `timings` sorted by it.
fn median(timings: &mut [Timing], of: impl Fn(&Timing) -> f64) -> f64 {
    timings.sort_by(|a, b| of(a).total_cmp(&of(b)));
    of(&timings[timings.len() / 2])
}

/// Xorshift (Marsaglia): the same in every run.
struct Offsets(u64);

impl Offsets {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 8
    }
}

/// A call that the path made to its backing file.
enum Call {
    Read { offset: u64, len: usize },
    Write { offset: u64, data: Vec<u8> },
    SetLen(u64),
}

/// Chunks that calls moved, by call.
fn chunks(calls: &[Call], read: bool) -> Vec<usize> {
    let of = |call: &Call| match call {
        Call::Read { len, .. } if read => Some(len / PAGE_LEN),
        Call::Write { data, .. } if !read => Some(data.len() / PAGE_LEN),
        _ => None,
    };
    calls.iter().filter_map(of).collect()
}

/// A backing file whose calls are noted, while that is wanted.
struct Recorder<B> {
    backing: B,
    calls: Mutex<Option<Vec<Call>>>,
}

impl<B: Backing> Recorder<B> {
    fn note(&self, call: impl FnOnce() -> Call) {
        if let Some(calls) = &mut *self.calls.lock().unwrap() {
            calls.push(call());
        }
    }

    fn repeat(&self, calls: &[Call], scratch: &mut [u8]) {
        for call in calls {
            match call {
                Call::Read { offset, len } => {
                    black_box(self.backing.read_at(&mut scratch[..*len], *offset).unwrap());
                }
                Call::Write { offset, data } => {
                    self.backing.write_at(&scratch[..data.len()], *offset).unwrap();
                }
                Call::SetLen(len) => self.backing.set_len(*len).unwrap(),
            }
        }
    }

    /// What a caller has written is there again.
    fn restore(&self, calls: &[Call]) {
        for call in calls {
            if let Call::Write { offset, data } = call {
                self.backing.write_at(data, *offset).unwrap();
            }
        }
    }
}

impl<B: Backing> Backing for Recorder<B> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.note(|| Call::Read { offset, len: buffer.len() });
        self.backing.read_at(buffer, offset)
    }
    fn write_at(&self, buffer: &[u8], offset: u64) -> io::Result<()> {
        self.note(|| Call::Write { offset, data: buffer.to_vec() });
        self.backing.write_at(buffer, offset)
    }
    fn length(&self) -> io::Result<u64> {
        self.backing.length()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.note(|| Call::SetLen(len));
        self.backing.set_len(len)
    }
    fn sync(&self, _data_only: bool) -> io::Result<()> {
        // The medium is not what is measured.
        Ok(())
    }
    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.backing.punch(offset, len)
    }
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.backing.allocate(offset, len)
    }
    fn seek_data(&self, offset: u64) -> io::Result<Option<u64>> {
        self.backing.seek_data(offset)
    }
    fn seek_hole(&self, offset: u64) -> io::Result<u64> {
        self.backing.seek_hole(offset)
    }
}

/// The cipher alone.
struct Cipher {
    key: Key,
    plaintext: Vec<u8>,
    ciphertext: Vec<u8>,
    nonces: [Nonce; BATCH],
    tags: [Tag; BATCH],
    /// Those of a batch that was sealed, to be opened.
    sealed: (Vec<u8>, [Tag; BATCH]),
}

impl Cipher {
    fn new() -> Self {
        let len = BATCH * Layout::default().payload_len();
        let mut cipher = Self {
            key: Key::take_from(&mut [0x42; 32]),
            plaintext: vec![0x17; len],
            ciphertext: vec![0; len],
            nonces: [[7; 12]; BATCH],
            tags: [[0; TAG_LEN]; BATCH],
            sealed: (Vec::new(), [[0; TAG_LEN]; BATCH]),
        };
        cipher.seal(BATCH);
        cipher.sealed = (cipher.ciphertext.clone(), cipher.tags);
        cipher
    }

    /// Opens and seals so many chunks, call by call.
    fn run(&mut self, opened: &[usize], sealed: &[usize]) {
        let batches = |count: usize| (0..count).step_by(BATCH).map(move |at| BATCH.min(count - at));
        opened.iter().copied().flat_map(batches).for_each(|count| self.open(count));
        sealed.iter().copied().flat_map(batches).for_each(|count| self.seal(count));
    }

    fn seal(&mut self, count: usize) {
        let payload = Layout::default().payload_len();
        let texts = self.plaintext.chunks(payload).zip(self.ciphertext.chunks_mut(payload));
        let mut batch = arrayvec::ArrayVec::<Seal<'_>, BATCH>::new();
        for ((plaintext, ciphertext), (nonce, tag)) in
            texts.zip(self.nonces.iter().zip(&mut self.tags)).take(count)
        {
            batch.push(Seal { nonce, aad: &[0x5a; 16], plaintext, ciphertext, tag });
        }
        aead::best().seal(&self.key, black_box(&mut batch));
    }

    fn open(&mut self, count: usize) {
        let payload = Layout::default().payload_len();
        let texts = self.plaintext.chunks_mut(payload).zip(self.sealed.0.chunks(payload));
        let mut batch = arrayvec::ArrayVec::<Open<'_>, BATCH>::new();
        for ((plaintext, ciphertext), (nonce, tag)) in
            texts.zip(self.nonces.iter().zip(&self.sealed.1)).take(count)
        {
            batch.push(Open { nonce, aad: &[0x5a; 16], ciphertext, plaintext, tag });
        }
        aead::best().open(&self.key, black_box(&mut batch)).unwrap();
    }
}
