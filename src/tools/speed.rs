//! The engine of `kmsfs bench`: how fast this machine seals and opens, in process and on one
//! thread, without a disk or a mount in the way. It prints nothing.

use std::hint::black_box;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::crypto::aead::{self, Aead, Nonce, Open, OpenError, Seal, Tag};
use crate::secret::{KEY_LEN, Key};

/// Shortest time that a measurement may be given: below it the clock is what is measured.
pub const MIN_TIME: Duration = Duration::from_millis(10);
/// Time given to each measurement unless the caller says otherwise.
pub const DEFAULT_TIME: Duration = Duration::from_millis(250);
/// Most plaintext bytes that one call handles; a batch of larger chunks is cut down to it.
pub const MAX_BATCH_LEN: usize = 64 << 20;

/// What to measure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpeedOptions {
    /// Implementations of the AEAD, by name; those that do not run here are passed over.
    pub implementations: Vec<&'static str>,
    /// Plaintext bytes in a chunk; each size is measured. Zero counts as one.
    pub chunk_sizes: Vec<usize>,
    /// Chunks handed over at a time; each number is measured. Zero counts as one.
    pub batches: Vec<usize>,
    /// Time per measurement; at least [`MIN_TIME`].
    pub time: Duration,
}

/// All implementations on chunks of 4, 16 and 64 KiB, one at a time and sixteen together.
impl Default for SpeedOptions {
    fn default() -> Self {
        Self {
            implementations: aead::all().iter().map(|aead| aead.name()).collect(),
            chunk_sizes: vec![4064, 16_352, 65_504],
            batches: vec![1, 16],
            time: DEFAULT_TIME,
        }
    }
}

impl SpeedOptions {
    /// The implementations that are wanted, in the order of [`aead::all`].
    pub(super) fn aeads(&self) -> impl Iterator<Item = &'static dyn Aead> {
        aead::all().iter().copied().filter(|aead| self.implementations.contains(&aead.name()))
    }
}

/// One measurement.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SpeedRow {
    /// What is computed, such as `AES-256-GCM-SIV`.
    pub algorithm: &'static str,
    /// Which code computes it.
    pub implementation: &'static str,
    /// In which direction.
    pub operation: Operation,
    /// Plaintext bytes in a chunk.
    pub chunk_size_bytes: usize,
    /// Chunks handed over at a time.
    pub batch: usize,
    /// Plaintext bytes per second.
    pub bytes_per_second: f64,
    /// How long it was measured.
    pub seconds: f64,
}

/// The direction of a measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// Encrypting.
    Seal,
    /// Decrypting.
    Open,
}

/// Something whose speed can be measured: an AEAD, or a longer path through kmsfs.
pub trait Subject {
    /// What is computed.
    fn algorithm(&self) -> &'static str;

    /// Which code computes it.
    fn implementation(&self) -> &'static str;

    /// Sets up for batches of `batch` chunks of `chunk_size` bytes, neither of them zero.
    fn prepare(&self, chunk_size: usize, batch: usize) -> Box<dyn Workload + '_>;
}

/// A [`Subject`] with its buffers, ready to run again and again.
pub trait Workload {
    /// Runs one batch in one direction. Opening comes after at least one sealing and opens what
    /// that one made.
    fn run(&mut self, operation: Operation);
}

/// Measures the AEAD.
pub fn run(options: &SpeedOptions) -> Vec<SpeedRow> {
    let subjects: Vec<AeadSubject> = options.aeads().map(AeadSubject).collect();
    let subjects: Vec<&dyn Subject> = subjects.iter().map(|subject| subject as &dyn Subject).collect();
    run_on(&subjects, options)
}

/// Measures the given subjects: a row for each of them, chunk size, batch and operation, in this
/// order.
pub fn run_on(subjects: &[&dyn Subject], options: &SpeedOptions) -> Vec<SpeedRow> {
    let time = options.time.max(MIN_TIME);
    let mut rows = Vec::new();
    for subject in subjects {
        for chunk_size in options.chunk_sizes.iter().map(|size| (*size).clamp(1, MAX_BATCH_LEN)) {
            for batch in options.batches.iter().map(|batch| (*batch).clamp(1, MAX_BATCH_LEN / chunk_size)) {
                let mut workload = subject.prepare(chunk_size, batch);
                for operation in [Operation::Seal, Operation::Open] {
                    let (runs, seconds) = measure(time, || workload.run(operation));
                    rows.push(SpeedRow {
                        algorithm: subject.algorithm(),
                        implementation: subject.implementation(),
                        operation,
                        chunk_size_bytes: chunk_size,
                        batch,
                        bytes_per_second: runs as f64 * (chunk_size * batch) as f64 / seconds,
                        seconds,
                    });
                }
            }
        }
    }
    rows
}

/// How often `work` runs in at least `time`, and the seconds that took. One run before the clock
/// starts brings code and buffers into the caches.
fn measure(time: Duration, mut work: impl FnMut()) -> (u64, f64) {
    work();
    let start = Instant::now();
    let mut runs = 0;
    loop {
        work();
        runs += 1;
        let elapsed = start.elapsed();
        if elapsed >= time {
            return (runs, elapsed.as_secs_f64());
        }
    }
}

struct AeadSubject(&'static dyn Aead);

impl Subject for AeadSubject {
    fn algorithm(&self) -> &'static str {
        "AES-256-GCM-SIV"
    }

    fn implementation(&self) -> &'static str {
        self.0.name()
    }

    fn prepare(&self, chunk_size: usize, batch: usize) -> Box<dyn Workload + '_> {
        Box::new(AeadWorkload {
            aead: self.0,
            // Speed does not depend on the key, and nothing secret is encrypted.
            key: Key::take_from(&mut [0x6b; KEY_LEN]),
            chunk_size,
            plaintext: vec![0x6d; chunk_size * batch],
            ciphertext: vec![0; chunk_size * batch],
            heads: (0..batch as u64).map(ChunkHead::numbered).collect(),
        })
    }
}

/// A batch of chunks, contiguous as in a request.
struct AeadWorkload {
    aead: &'static dyn Aead,
    key: Key,
    chunk_size: usize,
    plaintext: Vec<u8>,
    ciphertext: Vec<u8>,
    heads: Vec<ChunkHead>,
}

/// What goes with each chunk. The associated data is about as long as a chunk's in a file.
struct ChunkHead {
    nonce: Nonce,
    aad: [u8; 16],
    tag: Tag,
}

impl ChunkHead {
    fn numbered(index: u64) -> Self {
        let mut head = Self { nonce: Nonce::default(), aad: [0; 16], tag: Tag::default() };
        head.nonce[..8].copy_from_slice(&index.to_le_bytes());
        head.aad[..8].copy_from_slice(&index.to_le_bytes());
        head
    }
}

impl Workload for AeadWorkload {
    fn run(&mut self, operation: Operation) {
        match operation {
            Operation::Seal => self.seal(),
            Operation::Open => {
                let opened = self.open();
                // A figure for work not done would be a lie.
                assert!(opened.is_ok(), "{} refuses what it sealed", self.aead.name());
            }
        }
    }
}

impl AeadWorkload {
    fn seal(&mut self) {
        let plaintexts = self.plaintext.chunks_exact(self.chunk_size);
        let ciphertexts = self.ciphertext.chunks_exact_mut(self.chunk_size);
        let mut batch: Vec<Seal<'_>> = plaintexts
            .zip(ciphertexts)
            .zip(&mut self.heads)
            .map(|((plaintext, ciphertext), head)| Seal {
                nonce: &head.nonce,
                aad: &head.aad,
                plaintext,
                ciphertext,
                tag: &mut head.tag,
            })
            .collect();
        self.aead.seal(&self.key, black_box(&mut batch));
    }

    fn open(&mut self) -> Result<(), OpenError> {
        let plaintexts = self.plaintext.chunks_exact_mut(self.chunk_size);
        let ciphertexts = self.ciphertext.chunks_exact(self.chunk_size);
        let mut batch: Vec<Open<'_>> = plaintexts
            .zip(ciphertexts)
            .zip(&self.heads)
            .map(|((plaintext, ciphertext), head)| Open {
                nonce: &head.nonce,
                aad: &head.aad,
                ciphertext,
                plaintext,
                tag: &head.tag,
            })
            .collect();
        self.aead.open(&self.key, black_box(&mut batch))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn quick(chunk_sizes: &[usize], batches: &[usize]) -> SpeedOptions {
        SpeedOptions {
            chunk_sizes: chunk_sizes.to_vec(),
            batches: batches.to_vec(),
            time: Duration::ZERO,
            ..SpeedOptions::default()
        }
    }

    #[test]
    fn measures_every_combination_once_and_in_order() {
        let rows = run(&quick(&[64, 4064], &[1, 3]));
        let mut expected = Vec::new();
        for implementation in aead::all() {
            for size in [64, 4064] {
                for batch in [1, 3] {
                    for operation in [Operation::Seal, Operation::Open] {
                        expected.push((implementation.name(), size, batch, operation));
                    }
                }
            }
        }
        let measured: Vec<_> = rows
            .iter()
            .map(|row| (row.implementation, row.chunk_size_bytes, row.batch, row.operation))
            .collect();
        assert_eq!(measured, expected);
        for row in rows {
            assert!(row.bytes_per_second > 0.0 && row.bytes_per_second.is_finite(), "{row:?}");
            assert!(row.seconds >= MIN_TIME.as_secs_f64(), "{row:?}");
        }
    }

    #[test]
    fn a_row_serializes_under_the_documented_names() {
        let row = SpeedRow {
            algorithm: "AES-256-GCM-SIV",
            implementation: "portable",
            operation: Operation::Open,
            chunk_size_bytes: 4064,
            batch: 16,
            bytes_per_second: 2.5e9,
            seconds: 1.0,
        };
        let expected = serde_json::json!({
            "algorithm": "AES-256-GCM-SIV",
            "implementation": "portable",
            "operation": "open",
            "chunk_size_bytes": 4064,
            "batch": 16,
            "bytes_per_second": 2.5e9,
            "seconds": 1.0,
        });
        assert_eq!(serde_json::to_value(row).unwrap(), expected);
    }

    #[test]
    fn sizes_out_of_bounds_are_brought_into_them() {
        let probe = Probe::default();
        run_on(&[&probe], &quick(&[0, MAX_BATCH_LEN / 2], &[0, 3]));
        let half = MAX_BATCH_LEN / 2;
        assert_eq!(*probe.prepared.borrow(), [(1, 1), (1, 3), (half, 1), (half, 2)]);
    }

    #[test]
    fn nothing_to_measure_gives_no_rows() {
        assert_eq!(run(&SpeedOptions { implementations: vec!["vax"], ..quick(&[1], &[1]) }), []);
        assert_eq!(run(&quick(&[], &[1])), []);
        assert_eq!(run(&quick(&[1], &[])), []);
        assert_eq!(run_on(&[], &SpeedOptions::default()), []);
    }

    /// Records what it was asked to set up.
    #[derive(Default)]
    struct Probe {
        prepared: RefCell<Vec<(usize, usize)>>,
    }

    impl Subject for Probe {
        fn algorithm(&self) -> &'static str {
            "none"
        }

        fn implementation(&self) -> &'static str {
            "probe"
        }

        fn prepare(&self, chunk_size: usize, batch: usize) -> Box<dyn Workload + '_> {
            self.prepared.borrow_mut().push((chunk_size, batch));
            Box::new(Idle)
        }
    }

    struct Idle;

    impl Workload for Idle {
        fn run(&mut self, _: Operation) {}
    }
}
