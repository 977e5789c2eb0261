//! The engine of `kmsfs bench DIRECTORY`: how fast a live mount is, measured as a program sees it,
//! with plain system calls in a directory of its own that goes afterwards. It prints nothing.
//!
//! A round goes through `STEPS` once; every figure is the median of some rounds. One thread, as
//! most programs: what a mount does for several at a time shows elsewhere.

mod cold;
mod scratch;
mod steps;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde::Serialize;
use thiserror::Error;

use cold::Ciphertext;
use scratch::Scratch;
use steps::Bench;

pub use cold::{DROP_CACHES, Left};
pub use scratch::PREFIX;

/// Bytes in a large request and in a small one.
pub const LARGE: u64 = 1 << 20;
/// See [`LARGE`]; also the bytes in a small file.
pub const SMALL: u64 = 4 << 10;
/// Space that has to be left for whatever a filesystem needs beside the data.
const SPARE: u64 = 16 << 20;
/// Bytes that a small file is expected to take, its header and directory entry included.
const FOOTPRINT: u64 = 16 << 10;

/// How much to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MountSpeedOptions {
    /// Bytes in the file that is streamed, at least [`LARGE`]; cut down to a multiple of that.
    pub size: u64,
    /// Small files, at least one.
    pub files: u32,
    /// How often everything is measured, at least once.
    pub rounds: u32,
    /// Have the kernel empty all of its caches before everything that is measured cold. Only root may.
    pub drop_caches: bool,
}

/// Where a mount is and what it shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// The directory with the ciphertext.
    pub volume: PathBuf,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MountOperation {
    /// Writing a new file from end to end, and fsync(2).
    SequentialWrite,
    /// Reading it from end to end.
    SequentialRead,
    /// Reads at random places of it.
    RandomRead,
    /// Overwriting at random places of it, and fsync(2) at the end.
    RandomWrite,
    /// Making small files: open, write, close.
    Create,
    /// stat(2) of each.
    Stat,
    /// Reading each: open, read, close.
    ReadSmall,
    /// Removing each.
    Unlink,
}

/// Whether the kernel could answer from its own cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CacheState {
    /// Nothing of what is read was there, which was checked.
    Cold,
    /// It was to be cold, but something stayed or it could not be looked at.
    NotCold,
    /// It was read, or written, just before.
    Warm,
}

/// One figure.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MountSpeedRow {
    /// What was measured.
    pub operation: MountOperation,
    /// Of what reads.
    pub cache: Option<CacheState>,
    /// Bytes in a request, of what moves data.
    pub request_bytes: Option<u64>,
    /// Bytes that were moved in a round.
    pub bytes: u64,
    /// Requests, or files, in a round.
    pub operations: u64,
    /// How long it took, round by round.
    pub seconds: Vec<f64>,
    /// The median of these.
    pub median_seconds: f64,
    /// By the median.
    pub bytes_per_second: f64,
    /// By the median.
    pub operations_per_second: f64,
}

/// All figures of a mount.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MountSpeed {
    /// Bytes in the file that was streamed.
    pub size: u64,
    /// Small files.
    pub files: u32,
    /// How often everything was measured.
    pub rounds: u32,
    /// What was left of the ciphertext in memory where something was measured cold; `unknown` also
    /// where there is none.
    pub ciphertext_in_memory: Left,
    /// In the order in which they were measured.
    pub rows: Vec<MountSpeedRow>,
}

/// Why there are no figures. Nothing is left behind.
#[derive(Debug, Error)]
pub enum MountSpeedError {
    /// The caller wanted it to end.
    #[error("ended before it was done")]
    Stopped,
    /// The figures would be of a full disk.
    #[error("there is too little space: {needed} bytes and {files} files are needed")]
    NoSpace {
        /// Bytes that are needed.
        needed: u64,
        /// Bytes that there are.
        free: u64,
        /// Files that are needed.
        files: u64,
    },
    /// The operating system refused something.
    #[error("{0}: {1}")]
    Io(PathBuf, #[source] io::Error),
}

/// One thing to measure.
#[derive(Debug, Clone, Copy)]
struct Step {
    operation: MountOperation,
    request: Option<u64>,
    /// Whether what the kernel has cached is dropped first; `None` where nothing is read.
    cold: Option<bool>,
}

const fn step(operation: MountOperation, request: Option<u64>, cold: Option<bool>) -> Step {
    Step { operation, request, cold }
}

/// A round, in order: each step finds what the one before it leaves.
const STEPS: [Step; 12] = [
    step(MountOperation::SequentialWrite, Some(SMALL), None),
    step(MountOperation::SequentialWrite, Some(LARGE), None),
    step(MountOperation::SequentialRead, Some(LARGE), Some(true)),
    step(MountOperation::SequentialRead, Some(LARGE), Some(false)),
    step(MountOperation::SequentialRead, Some(SMALL), Some(true)),
    step(MountOperation::SequentialRead, Some(SMALL), Some(false)),
    step(MountOperation::RandomRead, Some(SMALL), Some(true)),
    step(MountOperation::RandomWrite, Some(SMALL), None),
    step(MountOperation::Create, Some(SMALL), None),
    step(MountOperation::Stat, None, Some(false)),
    step(MountOperation::ReadSmall, Some(SMALL), Some(true)),
    step(MountOperation::Unlink, None, None),
];

/// How far it has come, for whoever shows it; may be read at any time, from any thread.
#[derive(Debug, Default)]
pub struct MountSpeedProgress {
    done: AtomicUsize,
}

impl MountSpeedProgress {
    /// The round that is under way, counted from one, and what is measured: the operation and the bytes in
    /// a request.
    pub fn now(&self) -> (usize, MountOperation, Option<u64>) {
        let done = self.done.load(Ordering::Relaxed);
        let step = STEPS[done % STEPS.len()];
        (done / STEPS.len() + 1, step.operation, step.request)
    }
}

/// Measures in a new directory in `directory`, which is removed in any case. `place` is needed to have
/// the ciphertext forgotten as well. Ends soon after `stop` was set.
///
/// # Errors
/// [`MountSpeedError`].
pub fn run(
    directory: &Path,
    place: Option<&Place>,
    options: &MountSpeedOptions,
    progress: &MountSpeedProgress,
    stop: &AtomicBool,
) -> Result<MountSpeed, MountSpeedError> {
    let options = MountSpeedOptions {
        size: (options.size / LARGE).max(1) * LARGE,
        files: options.files.max(1),
        rounds: options.rounds.max(1),
        ..*options
    };
    let failed = |path: &Path, error: io::Error| match stop.load(Ordering::Relaxed) {
        true => MountSpeedError::Stopped,
        false => MountSpeedError::Io(path.to_owned(), error),
    };
    check_space(directory, &options)?;
    let scratch = Scratch::new(directory).map_err(|error| failed(directory, error))?;
    let ciphertext = place.and_then(|at| Ciphertext::of(scratch.path(), &at.mountpoint, &at.volume));
    let mut bench = Bench::new(&scratch, ciphertext, options, stop).map_err(|e| failed(directory, e))?;
    let mut rows: Vec<MountSpeedRow> = Vec::new();
    for _ in 0..options.rounds {
        for (index, step) in STEPS.iter().enumerate() {
            let measured = bench.run(*step).map_err(|error| failed(scratch.path(), error))?;
            if stop.load(Ordering::Relaxed) {
                return Err(MountSpeedError::Stopped);
            }
            match rows.get_mut(index) {
                None => rows.push(MountSpeedRow {
                    operation: step.operation,
                    cache: measured.cache,
                    request_bytes: step.request,
                    bytes: measured.operations * step.request.unwrap_or(0),
                    operations: measured.operations,
                    seconds: vec![measured.seconds],
                    median_seconds: 0.0,
                    bytes_per_second: 0.0,
                    operations_per_second: 0.0,
                }),
                Some(row) => {
                    row.seconds.push(measured.seconds);
                    row.cache = row.cache.max(measured.cache);
                }
            }
            progress.done.fetch_add(1, Ordering::Relaxed);
        }
    }
    rows.iter_mut().for_each(MountSpeedRow::sum_up);
    let MountSpeedOptions { size, files, rounds, .. } = options;
    Ok(MountSpeed { size, files, rounds, ciphertext_in_memory: bench.ciphertext_left(), rows })
}

impl MountSpeedRow {
    fn sum_up(&mut self) {
        self.median_seconds = median(&self.seconds);
        self.bytes_per_second = self.bytes as f64 / self.median_seconds;
        self.operations_per_second = self.operations as f64 / self.median_seconds;
    }
}

/// The one in the middle, or halfway between the two there. Zero of none.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.get(sorted.len().saturating_sub(1) / 2), sorted.get(sorted.len() / 2)) {
        (Some(low), Some(high)) => f64::midpoint(*low, *high),
        _ => 0.0,
    }
}

fn check_space(directory: &Path, options: &MountSpeedOptions) -> Result<(), MountSpeedError> {
    let stat = rustix::fs::statvfs(directory)
        .map_err(|error| MountSpeedError::Io(directory.to_owned(), error.into()))?;
    let files = u64::from(options.files);
    // Ciphertext is longer by less than a tenth.
    let needed = options.size.saturating_add(options.size / 10).saturating_add(files * FOOTPRINT + SPARE);
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    // Filesystems without a fixed number of files say that they have none.
    let has_files = stat.f_files == 0 || stat.f_favail > files;
    match needed <= free && has_files {
        true => Ok(()),
        false => Err(MountSpeedError::NoSpace { needed, free, files }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TINY: MountSpeedOptions =
        MountSpeedOptions { size: LARGE, files: 3, rounds: 2, drop_caches: false };

    fn measure(directory: &Path, options: &MountSpeedOptions) -> Result<MountSpeed, MountSpeedError> {
        run(directory, None, options, &MountSpeedProgress::default(), &AtomicBool::new(false))
    }

    #[test]
    fn every_step_is_a_row_with_as_many_times_as_there_were_rounds() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let speed = measure(dir.path(), &TINY).unwrap();
        assert_eq!((speed.size, speed.files, speed.rounds), (LARGE, 3, 2));
        assert_eq!(speed.rows.len(), STEPS.len());
        for (row, step) in speed.rows.iter().zip(STEPS) {
            assert_eq!((row.operation, row.request_bytes), (step.operation, step.request));
            assert_eq!(row.cache.is_some(), step.cold.is_some(), "{row:?}");
            assert_eq!(row.seconds.len(), 2, "{row:?}");
            assert!(row.operations_per_second > 0.0 && row.operations_per_second.is_finite(), "{row:?}");
            let streams =
                matches!(row.operation, MountOperation::SequentialRead | MountOperation::SequentialWrite);
            assert_eq!(row.bytes == LARGE, streams, "{row:?}");
        }
        assert_eq!(dir.path().read_dir().unwrap().count(), 0, "something was left behind");
    }

    #[test]
    fn nothing_is_left_when_it_is_stopped() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let stopped = AtomicBool::new(true);
        let ended = run(dir.path(), None, &TINY, &MountSpeedProgress::default(), &stopped);
        assert!(matches!(ended, Err(MountSpeedError::Stopped)), "{ended:?}");
        assert_eq!(dir.path().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn what_does_not_fit_is_not_begun() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let huge = measure(dir.path(), &MountSpeedOptions { size: 1 << 60, ..TINY });
        assert!(matches!(huge, Err(MountSpeedError::NoSpace { needed, .. }) if needed > 1 << 60), "{huge:?}");
        assert_eq!(dir.path().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median(&[4.0, 1.0]) - 2.5).abs() < f64::EPSILON);
        assert!(median(&[]).abs() < f64::EPSILON);
    }

    #[test]
    fn the_worst_round_says_how_cold_it_was() {
        assert!(CacheState::Cold < CacheState::NotCold && Left::Nothing < Left::Some);
    }
}
