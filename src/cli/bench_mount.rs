//! `bench DIRECTORY`: how fast a live mount is.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use signal_hook::consts::SIGHUP;
use signal_hook::flag;

use super::bars::{Bars, Counts};
use super::bench_args::Bench;
use super::exit::{CliError, CliResult, Code};
use super::fsck::{Showing, printable, size, stop_flag};
use super::output::{Output, count, table};
use crate::check::scrub;
use crate::mount;
use crate::tools::mount_speed::{
    self, CacheState, DROP_CACHES, Left, MountOperation, MountSpeed, MountSpeedError, MountSpeedOptions,
    MountSpeedProgress, MountSpeedRow, Place,
};

/// The result, for printing. The figures' names are those of [`MountSpeed`].
#[derive(Serialize)]
struct Shown {
    directory: PathBuf,
    /// Absent where no kmsfs is mounted.
    #[serde(skip_serializing_if = "Option::is_none")]
    volume_id: Option<String>,
    #[serde(flatten)]
    speed: MountSpeed,
}

pub(super) fn bench(directory: &Path, bench: &Bench, output: &Output) -> CliResult<()> {
    let directory = directory.canonicalize().map_err(|e| CliError::io(directory, &e))?;
    if !directory.is_dir() {
        let next = "name a mount point or a directory in a mount";
        return Err(CliError::new(
            Code::Usage,
            format!("{} is not a directory; {next}", directory.display()),
        ));
    }
    let (volume_id, place) = find(&directory)?.unzip();
    if volume_id.is_none() && !bench.any_filesystem {
        return Err(CliError::new(
            Code::NotAMount,
            format!(
                "{} is in no kmsfs mount; mount a volume there, or measure what is there with --any-filesystem",
                directory.display()
            ),
        ));
    }
    if bench.drop_caches && !rustix::process::geteuid().is_root() {
        return Err(CliError::new(
            Code::Permission,
            format!("only root may write to {DROP_CACHES}; run it as root, or without --drop-caches"),
        ));
    }
    let options = MountSpeedOptions {
        size: bench.size,
        files: bench.files,
        rounds: bench.rounds,
        drop_caches: bench.drop_caches,
    };
    let stop = stop_flag().map_err(|e| CliError::io(&directory, &e))?;
    // Nor does a terminal that is closed leave anything behind.
    flag::register(SIGHUP, Arc::clone(&stop)).map_err(|e| CliError::io(&directory, &e))?;
    let progress = MountSpeedProgress::default();
    let line = || {
        let (round, operation, request) = progress.now();
        format!("round {} of {}: {}", round, options.rounds, words(operation, request))
    };
    let speed = Showing::on_terminal()
        .around(&line, || mount_speed::run(&directory, place.as_ref(), &options, &progress, &stop))
        .map_err(failed)?;
    output.print(&Shown { directory, volume_id, speed }, lines)
}

/// The id of the volume that a directory belongs to, and where that is mounted, as far as it shows.
fn find(directory: &Path) -> CliResult<Option<(String, Place)>> {
    let id = match scrub::volume_at(directory) {
        Ok(id) => id,
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENODATA | libc::EOPNOTSUPP)) => {
            return Ok(None);
        }
        Err(error) => return Err(CliError::io(directory, &error)),
    };
    let mounts = mount::mounts().map_err(|e| CliError::io("/proc/self/mountinfo".as_ref(), &e))?;
    let around = mounts.into_iter().filter(|entry| directory.starts_with(&entry.mountpoint));
    // The innermost, and of several at one place the topmost.
    let entry = around.max_by_key(|entry| entry.mountpoint.as_os_str().len());
    let place = entry.map(|entry| Place { mountpoint: entry.mountpoint, volume: entry.source });
    // Else anybody could give a directory of his own such an attribute.
    Ok(place.map(|place| (id, place)))
}

fn failed(error: MountSpeedError) -> CliError {
    match error {
        MountSpeedError::Stopped => {
            CliError::new(Code::Interrupted, "ended by a signal, and nothing is left behind; run it again")
        }
        MountSpeedError::NoSpace { needed, free, files } => CliError::new(
            Code::NoSpace,
            format!(
                "too little space: {} and {} are needed, {} are free; free some, or choose a smaller --size or \
                 fewer --files",
                size(needed as f64),
                count(files, "file"),
                size(free as f64)
            ),
        ),
        MountSpeedError::Io(path, error) => CliError::io(&path, &error),
    }
}

fn lines(shown: &Shown) -> Vec<String> {
    let speed = &shown.speed;
    let mut lines = vec![format!(
        "{}: a file of {}, {} of {}, median of {}",
        printable(&shown.directory),
        size(speed.size as f64),
        count(u64::from(speed.files), "file"),
        size(mount_speed::SMALL as f64),
        count(u64::from(speed.rounds), "round")
    )];
    let streams = |row: &&MountSpeedRow| {
        matches!(row.operation, MountOperation::SequentialRead | MountOperation::SequentialWrite)
    };
    let (fast, many): (Vec<_>, Vec<_>) = speed.rows.iter().partition(streams);
    for (rows, unit, rate) in [
        (fast, "MB/S", (|row, seconds| row.bytes as f64 / seconds / 1e6) as fn(&MountSpeedRow, f64) -> f64),
        (many, "PER SECOND", |row, seconds| row.operations as f64 / seconds),
    ] {
        let mut cells: Vec<Vec<String>> = rows
            .iter()
            .map(|row| {
                let each = row.seconds.iter().map(|seconds| rate(row, *seconds));
                let (low, high) = each.fold((f64::MAX, 0.0_f64), |(low, high), v| (low.min(v), high.max(v)));
                vec![
                    words(row.operation, row.request_bytes),
                    row.cache.map_or(String::new(), |cache| word(cache).to_owned()),
                    format!("{:.0}", rate(row, row.median_seconds)),
                    format!("{low:.0}-{high:.0}"),
                ]
            })
            .collect();
        // What the kernel answered alone must not make the mount's own bars short.
        let counts = |row: &&MountSpeedRow| match row.cache {
            Some(CacheState::Warm) => Counts::No,
            _ => Counts::Yes,
        };
        let values: Vec<_> = rows.iter().map(|row| (rate(row, row.median_seconds), counts(row))).collect();
        Bars::append(&mut cells, &values);
        lines.push(String::new());
        lines.extend(table(&["OPERATION", "CACHE", unit, "RANGE", ""], &cells));
    }
    lines.push(String::new());
    lines.extend(notes(shown));
    lines
}

/// What somebody has to know to understand the figures.
fn notes(shown: &Shown) -> Vec<String> {
    let mut notes = Vec::new();
    if shown.speed.rows.iter().any(|row| row.cache == Some(CacheState::NotCold)) {
        notes.push("not cold: the kernel kept a part in its cache, or would not say".to_owned());
    }
    if shown.volume_id.is_some() {
        let ciphertext = match shown.speed.ciphertext_in_memory {
            Left::Nothing => "was dropped as well: it came from the disk",
            Left::Some => "stayed in memory: this is no measure of the disk",
            Left::Unknown => "may have stayed in memory: its cache could not be looked at",
        };
        notes.push(format!("cold: the kernel had no plaintext cached; the ciphertext {ciphertext}"));
    }
    notes.push("warm: answered by the kernel's cache, as far as it has one".to_owned());
    notes
}

fn words(operation: MountOperation, request: Option<u64>) -> String {
    let request = request.map_or(String::new(), |bytes| size(bytes as f64).replace(".0", ""));
    match operation {
        MountOperation::SequentialWrite => format!("write {request} requests, fsync"),
        MountOperation::SequentialRead => format!("read {request} requests"),
        MountOperation::RandomRead => format!("random {request} reads"),
        MountOperation::RandomWrite => format!("random {request} writes, fsync"),
        MountOperation::Create => format!("create {request} files"),
        MountOperation::Stat => "stat files".to_owned(),
        MountOperation::ReadSmall => format!("read {request} files"),
        MountOperation::Unlink => "unlink files".to_owned(),
    }
}

fn word(cache: CacheState) -> &'static str {
    match cache {
        CacheState::Cold => "cold",
        CacheState::NotCold => "not cold",
        CacheState::Warm => "warm",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(cache: CacheState) -> Shown {
        let row = MountSpeedRow {
            operation: MountOperation::SequentialRead,
            cache: Some(cache),
            request_bytes: Some(1 << 20),
            bytes: 2_000_000,
            operations: 2,
            seconds: vec![0.02, 0.01, 0.04],
            median_seconds: 0.02,
            bytes_per_second: 1e8,
            operations_per_second: 100.0,
        };
        let many = MountSpeedRow {
            operation: MountOperation::Unlink,
            cache: None,
            request_bytes: None,
            bytes: 0,
            ..row.clone()
        };
        Shown {
            directory: "/mnt".into(),
            volume_id: Some("v".into()),
            speed: MountSpeed {
                size: 1 << 20,
                files: 2,
                rounds: 3,
                ciphertext_in_memory: Left::Some,
                rows: vec![row, many],
            },
        }
    }

    #[test]
    fn a_person_gets_a_table_of_medians_and_what_they_mean() {
        let expected = "\
/mnt: a file of 1.0 MiB, 2 files of 4.0 KiB, median of 3 rounds

OPERATION            CACHE  MB/S  RANGE
read 1 MiB requests  cold   100   50-200

OPERATION     CACHE  PER SECOND  RANGE
unlink files         100         50-200

cold: the kernel had no plaintext cached; the ciphertext stayed in memory: this is no measure of the disk
warm: answered by the kernel's cache, as far as it has one";
        assert_eq!(lines(&shown(CacheState::Cold)).join("\n"), expected);
    }

    #[test]
    fn what_could_not_be_made_cold_is_said() {
        let lines = lines(&shown(CacheState::NotCold));
        assert!(lines.iter().any(|line| line.starts_with("read 1 MiB requests  not cold")), "{lines:?}");
        assert!(lines.iter().any(|line| line.starts_with("not cold: ")), "{lines:?}");
    }

    #[test]
    fn a_program_gets_stable_names() {
        let json = serde_json::to_value(shown(CacheState::NotCold)).unwrap();
        let expected = serde_json::json!({
            "directory": "/mnt",
            "volume_id": "v",
            "size": 1 << 20,
            "files": 2,
            "rounds": 3,
            "ciphertext_in_memory": "some",
            "rows": [
                {
                    "operation": "sequential_read", "cache": "not_cold", "request_bytes": 1 << 20,
                    "bytes": 2_000_000, "operations": 2, "seconds": [0.02, 0.01, 0.04],
                    "median_seconds": 0.02, "bytes_per_second": 1e8, "operations_per_second": 100.0,
                },
                {
                    "operation": "unlink", "cache": null, "request_bytes": null,
                    "bytes": 0, "operations": 2, "seconds": [0.02, 0.01, 0.04],
                    "median_seconds": 0.02, "bytes_per_second": 1e8, "operations_per_second": 100.0,
                },
            ],
        });
        assert_eq!(json, expected);
    }
}
