//! How fast the chunk path is: a sealed file over memory, written and read in requests. What lies
//! between these rows and the AEAD's is the cost of cutting requests into chunks, copying and
//! bookkeeping.

use std::hint::black_box;

use super::speed::{self, Operation, SpeedOptions, SpeedRow, Subject, Workload};
use crate::chunk::{ChunkError, Memory, Opened, SealedFile};
use crate::crypto::aead;
use crate::format::Id;
use crate::format::head::{Head, Kind};
use crate::format::layout::{DEFAULT_UNIT_SHIFT, Layout, MAX_UNIT_SHIFT};
use crate::format::schedule::FileKeys;
use crate::format::slot::Wrapped;
use crate::secret::{KEY_LEN, Key};

/// Plaintext bytes in a request: what the kernel reads ahead unless told otherwise.
pub const REQUEST_LEN: usize = 128 * 1024;
/// Requests in a file; it is read and overwritten from end to end.
const REQUESTS: usize = 64;

/// Measures the AEAD and, above it, the chunk path: all rows of `kmsfs bench`. The chunk path is
/// measured at those of the chunk sizes that the format allows (2ⁿ − 32 bytes), in requests of
/// [`REQUEST_LEN`], whatever the options' batches.
pub fn run_all(options: &SpeedOptions) -> Vec<SpeedRow> {
    let mut rows = speed::run(options);
    rows.extend(run(options));
    rows
}

/// Measures the chunk path alone. A row's `batch` is the number of chunks that a request spans.
pub fn run(options: &SpeedOptions) -> Vec<SpeedRow> {
    let sizes = options.chunk_sizes.iter().copied().filter(|size| layout_of(*size).is_some());
    let measure = |size| {
        let batches = vec![REQUEST_LEN.div_ceil(size)];
        speed::run_on(&[&ChunkPath], &SpeedOptions { chunk_sizes: vec![size], batches, time: options.time })
    };
    let mut rows: Vec<SpeedRow> = sizes.flat_map(measure).collect();
    for row in &mut rows {
        // Requests do not end where chunks do: the rate counts what was asked for.
        row.bytes_per_second *= REQUEST_LEN as f64 / (row.chunk_size_bytes * row.batch) as f64;
    }
    rows
}

/// The geometry whose chunks hold `size` plaintext bytes.
fn layout_of(size: usize) -> Option<Layout> {
    (DEFAULT_UNIT_SHIFT..=MAX_UNIT_SHIFT).filter_map(Layout::new).find(|layout| layout.payload_len() == size)
}

/// Writing and reading a sealed file over memory.
struct ChunkPath;

impl Subject for ChunkPath {
    fn algorithm(&self) -> &'static str {
        "chunk path"
    }

    fn implementation(&self) -> &'static str {
        aead::for_contents().name()
    }

    fn prepare(&self, chunk_size: usize, _batch: usize) -> Box<dyn Workload + '_> {
        let (file, keys) = sample_file(layout_of(chunk_size).unwrap_or_default());
        let mut workload = Box::new(Requests { file, keys, buffer: vec![0x6d; REQUEST_LEN], next: 0 });
        for _ in 0..REQUESTS {
            workload.run(Operation::Seal);
        }
        workload
    }
}

/// An empty file. Speed depends on neither key nor ids, and nothing secret is encrypted.
#[expect(clippy::panic, reason = "a sealed file over memory cannot fail but by a bug")]
fn sample_file(layout: Layout) -> (SealedFile<Memory>, FileKeys) {
    let mut head = Head::new(Kind::File, Id([1; 16]), Id([2; 16]), Id([3; 16]));
    head.unit_shift = layout.unit_shift();
    let data_key = Key::take_from(&mut [0x6b; KEY_LEN]);
    match SealedFile::create(Memory::default(), head, &data_key, Wrapped::default(), 1) {
        Ok(Opened { file, keys }) => (file, keys),
        Err(error) => panic!("cannot begin a file in memory: {error}"),
    }
}

/// A file, and the request that goes over it again and again.
struct Requests {
    file: SealedFile<Memory>,
    keys: FileKeys,
    buffer: Vec<u8>,
    /// Which request comes next.
    next: usize,
}

impl Workload for Requests {
    fn run(&mut self, operation: Operation) {
        let offset = (self.next * self.buffer.len()) as u64;
        self.next = (self.next + 1) % REQUESTS;
        let moved = match operation {
            Operation::Seal => self
                .file
                .write(&self.keys, offset, black_box(&self.buffer), |epoch| {
                    Ok::<_, ChunkError>(epoch.saturating_add(1))
                })
                .map(|()| self.buffer.len()),
            Operation::Open => self.file.read(&self.keys, offset, black_box(&mut self.buffer)),
        };
        // A figure for work not done would be a lie.
        assert!(matches!(moved, Ok(len) if len == self.buffer.len()), "a request failed: {moved:?}");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_allowed_chunk_size_is_written_and_read() {
        let chunk_sizes = vec![4064, 5000, 65_504];
        let rows = run(&SpeedOptions { chunk_sizes, batches: vec![1], time: Duration::ZERO });
        let measured: Vec<_> =
            rows.iter().map(|row| (row.algorithm, row.chunk_size_bytes, row.batch, row.operation)).collect();
        let expected = [(4064, 33), (65_504, 3)].into_iter().flat_map(|(size, batch)| {
            [Operation::Seal, Operation::Open].map(|operation| ("chunk path", size, batch, operation))
        });
        assert_eq!(measured, expected.collect::<Vec<_>>());
        assert!(rows.iter().all(|row| row.bytes_per_second > 0.0 && row.bytes_per_second.is_finite()));
    }

    #[test]
    fn all_rows_are_the_ciphers_and_then_the_chunk_paths() {
        let options = SpeedOptions { chunk_sizes: vec![4064], batches: vec![1], time: Duration::ZERO };
        let rows = run_all(&options);
        assert_eq!(rows.len(), 2 * aead::all().len() + 2);
        assert_eq!(rows.last().map(|row| row.algorithm), Some("chunk path"));
    }
}
