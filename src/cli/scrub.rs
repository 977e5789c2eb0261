//! `scrub`: reads everything through a mount, and says what could not be read.

use std::fmt::Write;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;

use super::args::{Global, Scrub};
use super::exit::{CliError, CliResult};
use super::fsck::{Showing, printable, progress_line, size, stop_flag};
use super::key_store;
use super::output::{Output, count};
use crate::check::Progress;
use crate::check::report::exit;
use crate::check::scrub::{self, Position, Scrubbed, Unreadable};

pub(super) fn scrub(global: &Global, scrub: &Scrub, output: &Output) -> CliResult<ExitCode> {
    let failed = |error: CliError| CliError::relayed(exit::OPERATIONAL, error.to_string());
    let mountpoint = &scrub.mountpoint;
    let volume_id = scrub::volume_at(mountpoint).map_err(|e| failed(not_a_mount(mountpoint, &e)))?;
    let memo = Memo::new(global, &volume_id);
    let position = match scrub.restart {
        true => None,
        false => memo.read(&volume_id),
    };
    let resumed = position.is_some();
    let from = position.unwrap_or(Position { volume_id, ..Position::default() });
    let stop = stop_flag().map_err(|e| failed(CliError::io(mountpoint, &e)))?;
    let showing = Showing::wanted(global);
    let progress = Progress::new(showing != Showing::Nowhere);
    let mut keep = |position: &Position| {
        if let Err(error) = memo.write(position) {
            tracing::warn!("the place reached cannot be kept: {error}; the scrub cannot be resumed");
        }
    };
    let scrubbed = showing.around(&|| progress_line(&progress.now()), || {
        scrub::scrub(mountpoint, &from, scrub.limit, &progress, &stop, &mut keep)
    });
    let scrubbed = scrubbed.map_err(|e| failed(CliError::io(mountpoint, &e)))?;
    if !scrubbed.cancelled {
        memo.remove();
    }
    let shown = Shown::new(mountpoint, &scrubbed, resumed);
    output.print(&shown, |shown| shown.lines(&scrubbed))?;
    Ok(ExitCode::from(shown.exit_code))
}

fn not_a_mount(path: &Path, error: &io::Error) -> CliError {
    match error.raw_os_error() {
        Some(libc::ENODATA | libc::EOPNOTSUPP) => CliError::relayed(
            exit::OPERATIONAL,
            format!("{} is no mounted volume; mount it, or check it with 'kmsfs fsck'", path.display()),
        ),
        _ => CliError::io(path, error),
    }
}

/// Where the place reached is kept: in the key store's directory or, without one, where the user keeps
/// state; nowhere, if there is no such place.
struct Memo(Option<PathBuf>);

impl Memo {
    fn new(global: &Global, volume_id: &str) -> Self {
        let store = key_store::dir(global).ok().filter(|dir| dir.is_dir());
        let absolute =
            |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let home = || absolute("HOME").map(|home| home.join(".local/state"));
        let state = || absolute("XDG_STATE_HOME").or_else(home).map(|state| state.join("kmsfs"));
        let dir = store.or_else(state);
        Self(dir.map(|dir| dir.join("scrub").join(format!("{volume_id}.json"))))
    }

    /// What is not understood is as good as nothing.
    fn read(&self, volume_id: &str) -> Option<Position> {
        let position: Position = serde_json::from_slice(&fs::read(self.0.as_ref()?).ok()?).ok()?;
        Some(position).filter(|position| position.volume_id == volume_id)
    }

    /// Whole or not at all.
    fn write(&self, position: &Position) -> io::Result<()> {
        let Some(path) = &self.0 else { return Err(io::ErrorKind::NotFound.into()) };
        let aside = path.with_extension("new");
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
        fs::write(&aside, serde_json::to_vec(position)?)?;
        fs::rename(&aside, path)
    }

    fn remove(&self) {
        let _ = self.0.as_ref().map(fs::remove_file);
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Shown {
    mountpoint: PathBuf,
    volume_id: String,
    resumed: bool,
    cancelled: bool,
    files: u64,
    bytes: u64,
    errors: u64,
    not_checked: u64,
    out_of_reach: u64,
    findings: Vec<ShownFinding>,
    exit_code: u8,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ShownFinding {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_chunk: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chunks: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    cause: String,
}

impl Shown {
    fn new(mountpoint: &Path, scrubbed: &Scrubbed, resumed: bool) -> Self {
        Self {
            mountpoint: mountpoint.to_owned(),
            volume_id: scrubbed.volume_id.clone(),
            resumed,
            cancelled: scrubbed.cancelled,
            files: scrubbed.files,
            bytes: scrubbed.bytes,
            errors: scrubbed.errors(),
            not_checked: scrubbed.not_checked,
            out_of_reach: scrubbed.out_of_reach,
            findings: scrubbed.findings.iter().map(ShownFinding::new).collect(),
            exit_code: scrubbed.exit_code(),
        }
    }

    fn lines(&self, scrubbed: &Scrubbed) -> Vec<String> {
        let mut lines: Vec<String> = self.findings.iter().map(ShownFinding::line).collect();
        if self.not_checked > 0 {
            lines
                .push(format!("not checked: {}: their keys are not usable", count(self.not_checked, "file")));
        }
        if self.out_of_reach > 0 {
            lines.push(format!("could not be looked at: {} entries", self.out_of_reach));
        }
        let errors = if self.errors == 0 { "no errors".to_owned() } else { count(self.errors, "error") };
        let mut last = format!(
            "{}: {errors} in {}, {}",
            self.mountpoint.display(),
            count(self.files, "file"),
            size(self.bytes as f64)
        );
        if scrubbed.errors_before > 0 {
            let _ = write!(last, ", {} of them before it was resumed", scrubbed.errors_before);
        }
        if self.cancelled {
            last.push_str(" (ended by a signal; the same command goes on from here)");
        }
        lines.push(last);
        lines
    }
}

impl ShownFinding {
    fn new(found: &Unreadable) -> Self {
        let error = super::exit::words(&io::Error::from_raw_os_error(found.errno));
        Self {
            path: found.path.to_string_lossy().into_owned(),
            first_chunk: found.chunks.map(|chunks| chunks.0),
            chunks: found.chunks.map(|chunks| chunks.1),
            offset: found.bytes.map(|bytes| bytes.0),
            bytes: found.bytes.map(|bytes| bytes.1),
            cause: format!("{} cannot be read: {error}", found.what),
        }
    }

    fn line(&self) -> String {
        let path = printable(self.path.as_ref());
        match (self.first_chunk, self.chunks, self.offset, self.bytes) {
            (Some(first), Some(chunks), Some(offset), Some(bytes)) => format!(
                "{path}: chunks {first} to {}, bytes {offset} to {}: {}",
                first + chunks - 1,
                (offset + bytes).saturating_sub(1),
                self.cause
            ),
            _ => format!("{path}: {}", self.cause),
        }
    }
}
