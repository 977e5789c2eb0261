//! `volume` and `reindex`: the volumes that the key store knows, and what is known of their files.

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::XattrFlags;
use serde::Serialize;

use super::args::Global;
use super::exit::{CliError, CliResult, Code};
use super::fsck::{printable, stop_flag};
use super::impact::{state, when};
use super::key_store::KeyStore;
use super::output::{Output, count, table};
use super::rewrap::Reached;
use super::volume_args::KnownCommand;
use crate::fs::{Census, INDEX_XATTR, IndexInfo};
use crate::kms::api::{Empty, ForgetVolumeRequest, KnownVolume, ListVolumesResponse};

/// How often to look whether a mount has counted.
const POLL: Duration = Duration::from_millis(50);
/// Bytes that the state of an index takes at most.
const MAX_LEN: usize = 4096;

pub(super) fn run(global: &Global, command: &KnownCommand, output: &Output) -> CliResult<()> {
    let store = KeyStore::open(global)?;
    match command {
        KnownCommand::List => {
            let known: ListVolumesResponse = store.look_after("ListVolumes", &Empty {})?;
            output.print(&known, |known| {
                let rows: Vec<_> = known.volumes.iter().map(row).collect();
                table(&["VOLUME", "STATE", "FILES", "LAST SEEN", "PLACE"], &rows)
            })
        }
        KnownCommand::Forget { volume } => {
            let request = ForgetVolumeRequest { volume_id: volume.clone() };
            let forgotten: Empty = store.look_after("ForgetVolume", &request)?;
            output.print(&forgotten, |_| vec![format!("forgot {volume}, until it is mounted again")])
        }
    }
}

fn row(volume: &KnownVolume) -> Vec<String> {
    let files: u64 = volume.files.wrapped.iter().map(|wrapped| wrapped.files).sum();
    let place = volume.mountpoint.as_deref().unwrap_or(&volume.path);
    vec![
        volume.volume_id.clone(),
        state(volume.state).to_owned(),
        if volume.files.certain { files.to_string() } else { format!("{files}?") },
        volume.last_seen.map_or_else(|| "-".to_owned(), |at| when(Some(at))),
        printable(place.as_ref()),
    ]
}

/// What counting came to.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Counted {
    certain: bool,
    files: u64,
    bytes: u64,
    exit_code: u8,
}

pub(super) fn reindex(global: &Global, path: &Path, output: &Output) -> CliResult<ExitCode> {
    let store = KeyStore::open(global)?;
    let failed = |e: io::Error| CliError::io(path, &e);
    let stop = stop_flag().map_err(failed)?;
    let counted = match Reached::at(global, &store, path)? {
        Reached::Mounted(_, top) => in_mount(&top.path, &stop).map_err(|e| refused(path, &e))?,
        Reached::Unmounted(tree, _) => {
            tree.recount(&stop).map_err(failed)?;
            let census = tree.census();
            tree.close().map_err(failed)?;
            of_census(&census)
        }
    };
    let interrupted = stop.load(Ordering::Relaxed);
    let code = match counted.certain {
        true => 0,
        false if interrupted => Code::Interrupted as u8,
        false => Code::Left as u8,
    };
    let counted = Counted { exit_code: code, ..counted };
    output.print(&counted, |counted| {
        let sum = format!("counted {}, {}", count(counted.files, "file"), count(counted.bytes, "byte"));
        vec![match (counted.certain, interrupted) {
            (true, _) => sum,
            (false, true) => "ended by a signal; what wraps the files stays unknown".to_owned(),
            (false, false) => format!("{sum}; some could not be looked at: 'kmsfs fsck' names them"),
        }]
    })?;
    Ok(ExitCode::from(code))
}

fn of_census(census: &Census) -> Counted {
    Counted {
        certain: census.certain,
        files: census.counts.values().map(|count| count.files).sum(),
        bytes: census.counts.values().map(|count| count.bytes).sum(),
        exit_code: 0,
    }
}

/// Has a mount count, and waits for it.
fn in_mount(root: &Path, stop: &AtomicBool) -> io::Result<Counted> {
    let asked = info(root)?.asked;
    rustix::fs::lsetxattr(root, INDEX_XATTR, b"", XattrFlags::empty())?;
    loop {
        let now = info(root)?;
        if now.done > asked || stop.load(Ordering::Relaxed) {
            let certain = now.certain && now.done > asked;
            return Ok(Counted { certain, files: now.files, bytes: now.bytes, exit_code: 0 });
        }
        std::thread::sleep(POLL);
    }
}

fn info(root: &Path) -> io::Result<IndexInfo> {
    let mut value = [0; MAX_LEN];
    let len = rustix::fs::lgetxattr(root, INDEX_XATTR, &mut value)?;
    Ok(serde_json::from_slice(&value[..len])?)
}

fn refused(path: &Path, error: &io::Error) -> CliError {
    match error.raw_os_error() {
        Some(libc::ENODATA) => CliError::new(
            Code::NotAMount,
            format!("{} is in a mount; name the mount point itself, or a volume", path.display()),
        ),
        _ => CliError::io(path, error),
    }
}
