//! `fsck`: checks a volume that is not mounted, and says what it found.

use std::fmt::Write;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Serialize;

use super::args::{Fsck, Global};
use super::exit::{CliError, CliResult};
use super::handover;
use super::key_store::{KeyStore, dir};
use super::output::{Output, count};
use crate::check::report::{Found, exit};
use crate::check::{self, CheckError, Moment, Options, Progress, Report, Severity};
use crate::fs::VolumeError;
use crate::sys::process;

/// How often progress is shown on a terminal, and otherwise.
const PERIOD: Duration = Duration::from_millis(500);
const QUIET_PERIOD: Duration = Duration::from_secs(10);

pub(super) fn fsck(global: &Global, fsck: &Fsck, output: &Output) -> CliResult<ExitCode> {
    let report =
        check(global, fsck).map_err(|error| CliError::relayed(code_of(&error), error.to_string()))?;
    let shown = Shown::new(&fsck.dir, &report, fsck);
    output.print(&shown, |shown| shown.lines())?;
    Ok(ExitCode::from(shown.exit_code))
}

/// All errors that keep a check from running are operational ones, but a bug.
fn code_of(error: &Failure) -> u8 {
    match error {
        Failure::Check(CheckError::Broken) => exit::LIBRARY,
        _ => exit::OPERATIONAL,
    }
}

/// Why there is no report.
enum Failure {
    Cli(CliError),
    Check(CheckError),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cli(error) => error.fmt(f),
            Self::Check(CheckError::Volume(error @ VolumeError::InUse { .. })) => {
                write!(f, "{error}; unmount it first, or check it as it is with 'kmsfs scrub'")
            }
            Self::Check(error) => error.fmt(f),
        }
    }
}

fn check(global: &Global, fsck: &Fsck) -> Result<Report, Failure> {
    let cli = |error: CliError| Failure::Cli(error);
    let volume = fsck.dir.canonicalize().map_err(|e| cli(CliError::io(&fsck.dir, &e)))?;
    // For the files of a deep tree and those that wait to be checked.
    process::raise_descriptor_limit().map_err(|e| cli(CliError::io(&volume, &e)))?;
    handover::wait(&volume);
    let provider = match fsck.keyless {
        true => None,
        false => {
            let store = dir(global).map_err(cli)?;
            Some(KeyStore::open(global).map_err(cli)?.provider(&store))
        }
    };
    let options = Options { headers_only: fsck.headers_only, repair: fsck.repair || fsck.preen || fsck.yes };
    let stop = stop_flag().map_err(|e| cli(CliError::io(&volume, &e)))?;
    let showing = Showing::wanted(global);
    let progress = Progress::new(showing.is_some());
    let checked = showing.around(&|| progress_line(&progress.now()), || {
        check::check(&volume, provider.as_ref(), options, &progress, &stop)
    });
    checked.map_err(|error| match error {
        CheckError::Volume(error) if !matches!(error, VolumeError::InUse { .. }) => cli(error.into()),
        error => Failure::Check(error),
    })
}

/// A flag that SIGINT and SIGTERM set.
///
/// # Errors
/// When the signals cannot be caught.
pub(super) fn stop_flag() -> std::io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}

/// How progress is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Showing {
    /// Not at all.
    Nowhere,
    /// On one line of a terminal.
    Terminal,
    /// A line now and then.
    Lines,
}

impl Showing {
    pub(super) fn wanted(global: &Global) -> Self {
        match (std::io::stderr().is_terminal(), global.verbose) {
            (true, _) => Self::Terminal,
            (false, 0) => Self::Nowhere,
            (false, _) => Self::Lines,
        }
    }

    /// On a terminal, and else not at all.
    pub(super) fn on_terminal() -> Self {
        if std::io::stderr().is_terminal() { Self::Terminal } else { Self::Nowhere }
    }

    pub(super) fn is_some(self) -> bool {
        self != Self::Nowhere
    }

    /// Runs `work` and meanwhile shows its progress, of which `line` tells.
    pub(super) fn around<R>(self, line: &(dyn Fn() -> String + Sync), work: impl FnOnce() -> R) -> R {
        if !self.is_some() {
            return work();
        }
        let done = AtomicBool::new(false);
        std::thread::scope(|s| {
            let shower = s.spawn(|| {
                let period = if self == Self::Terminal { PERIOD } else { QUIET_PERIOD };
                loop {
                    std::thread::park_timeout(period);
                    if done.load(Ordering::Acquire) {
                        break;
                    }
                    self.show(&line());
                }
                self.clear();
            });
            let result = work();
            done.store(true, Ordering::Release);
            shower.thread().unpark();
            result
        })
    }

    #[expect(clippy::print_stderr, reason = "progress is for whoever looks on")]
    fn show(self, line: &str) {
        match self {
            Self::Terminal => eprint!("\r\x1b[K{line}"),
            _ => eprintln!("{line}"),
        }
    }

    #[expect(clippy::print_stderr, reason = "as above")]
    fn clear(self) {
        if self == Self::Terminal {
            eprint!("\r\x1b[K");
        }
    }
}

pub(super) fn progress_line(moment: &Moment) -> String {
    let rate = moment.bytes as f64 / moment.elapsed.as_secs_f64().max(0.001);
    let mut line = match moment.done {
        Some(done) => format!("{:3.0}%  ", done * 100.0),
        None => String::new(),
    };
    let _ = write!(line, "{} entries, {}, {}/s", moment.entries, size(moment.bytes as f64), size(rate));
    if let Some(left) = moment.left() {
        let left = Duration::from_secs(left.as_secs().max(1));
        let _ = write!(line, ", {} left", humantime::format_duration(left));
    }
    if moment.findings > 0 {
        let _ = write!(line, ", {}", count(moment.findings, "finding"));
    }
    line
}

/// A number of bytes for people.
pub(super) fn size(bytes: f64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut rest = bytes;
    let mut unit = 0;
    while rest >= 1024.0 && unit + 1 < UNITS.len() {
        rest /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{rest:.0} B") } else { format!("{rest:.1} {}", UNITS[unit]) }
}

/// A path without anything that a terminal would take for an order.
pub(super) fn printable(path: &Path) -> String {
    let text = path.to_string_lossy();
    if text.chars().any(char::is_control) { text.escape_debug().to_string() } else { text.into_owned() }
}

/// A report, for printing.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Shown {
    directory: PathBuf,
    volume_id: Option<String>,
    keyless: bool,
    headers_only: bool,
    repair: bool,
    cancelled: bool,
    counts: ShownCounts,
    findings: Vec<ShownFinding>,
    not_checked: Vec<NotChecked>,
    out_of_reach: Vec<OutOfReach>,
    notes: Vec<String>,
    exit_code: u8,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ShownCounts {
    directories: u64,
    files: u64,
    links: u64,
    others: u64,
    bytes: u64,
    not_checked: u64,
    errors: u64,
    repaired: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ShownFinding {
    path: Option<String>,
    backing_path: String,
    kind: &'static str,
    severity: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_chunk: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chunks: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    cause: String,
    repaired: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    how: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct NotChecked {
    why: String,
    files: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct OutOfReach {
    backing_path: String,
    cause: String,
}

impl Shown {
    fn new(dir: &Path, report: &Report, fsck: &Fsck) -> Self {
        let errors = || report.findings.iter().filter(|f| f.finding.severity() > Severity::Note);
        let counts = report.counts;
        Self {
            directory: dir.to_owned(),
            volume_id: report.volume.map(|id| id.to_string()),
            keyless: report.keyless,
            headers_only: fsck.headers_only,
            repair: fsck.repair || fsck.preen || fsck.yes,
            cancelled: report.cancelled,
            counts: ShownCounts {
                directories: counts.directories,
                files: counts.files,
                links: counts.links,
                others: counts.others,
                bytes: counts.bytes,
                not_checked: report.not_checked(),
                errors: errors().count() as u64,
                repaired: errors().filter(|f| f.repaired.is_some()).count() as u64,
            },
            findings: report.findings.iter().map(ShownFinding::new).collect(),
            not_checked: report
                .not_checked
                .iter()
                .map(|(why, files)| NotChecked { why: why.clone(), files: *files })
                .collect(),
            out_of_reach: report
                .out_of_reach
                .iter()
                .map(|(place, errno)| OutOfReach {
                    backing_path: place.backing.to_string_lossy().into_owned(),
                    cause: super::exit::words(&std::io::Error::from_raw_os_error(*errno)),
                })
                .collect(),
            notes: report.notes.clone(),
            exit_code: report.exit_code(),
        }
    }

    fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.findings.iter().map(ShownFinding::line).collect();
        for beyond in &self.out_of_reach {
            lines.push(format!("{}: could not be looked at: {}", beyond.backing_path, beyond.cause));
        }
        for not in &self.not_checked {
            lines.push(format!("not checked: {}: {}", count(not.files, "file"), not.why));
        }
        lines.extend(self.notes.iter().cloned());
        let c = &self.counts;
        let looked_at = format!(
            "{}, {}, {}, {}",
            count(c.directories, "directory").replace("directorys", "directories"),
            count(c.files, "file"),
            count(c.links, "link"),
            size(c.bytes as f64)
        );
        let outcome = match (c.errors, c.errors - c.repaired) {
            (0, _) => "no errors".to_owned(),
            (all, 0) => format!("{}, all corrected", count(all, "error")),
            (all, left) if left == all => format!("{} left", count(all, "error")),
            (all, left) => format!("{}, {left} of them left", count(all, "error")),
        };
        let part = match (self.cancelled, self.keyless, self.headers_only) {
            (true, ..) => " (ended by a signal)",
            (_, true, _) => " (without keys)",
            (.., true) => " (without contents)",
            _ => "",
        };
        lines.push(format!("{}: {outcome} in {looked_at}{part}", self.directory.display()));
        lines
    }
}

impl ShownFinding {
    fn new(found: &Found) -> Self {
        let chunks = found.finding.chunks();
        Self {
            path: found.place.path.as_ref().map(|path| path.to_string_lossy().into_owned()),
            backing_path: found.place.backing.to_string_lossy().into_owned(),
            kind: found.finding.kind(),
            severity: match found.finding.severity() {
                Severity::Note => "note",
                Severity::Interrupted => "interrupted",
                Severity::Damage => "damage",
            },
            first_chunk: chunks.map(|chunks| chunks.start),
            chunks: chunks.map(|chunks| chunks.end - chunks.start),
            offset: found.bytes.map(|bytes| bytes.offset),
            bytes: found.bytes.map(|bytes| bytes.length),
            cause: found.finding.to_string(),
            repaired: found.repaired.is_some(),
            how: found.repaired.clone(),
        }
    }

    fn line(&self) -> String {
        let backing = match self.backing_path.as_str() {
            "" => ".".to_owned(),
            path => printable(path.as_ref()),
        };
        let mut line = match &self.path {
            Some(path) => format!("{} ({backing}): {}", printable(path.as_ref()), self.cause),
            None => format!("{backing}: {}", self.cause),
        };
        if let (Some(offset), Some(bytes)) = (self.offset, self.bytes) {
            let _ = write!(line, "; bytes {offset} to {}", (offset + bytes).saturating_sub(1).max(offset));
        }
        if let Some(how) = &self.how {
            let _ = write!(line, "; repaired: {how}");
        }
        if self.severity == "note" { format!("note: {line}") } else { line }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_tells_how_long_it_will_take() {
        let elapsed = Duration::from_secs(60);
        let moment = Moment { entries: 12, bytes: 60 << 20, findings: 1, elapsed, done: Some(0.25) };
        let line = progress_line(&moment);
        assert_eq!(line, " 25%  12 entries, 60.0 MiB, 1.0 MiB/s, 3m left, 1 finding");
        let line = progress_line(&Moment { findings: 0, done: None, ..moment });
        assert_eq!(line, "12 entries, 60.0 MiB, 1.0 MiB/s");
    }

    #[test]
    fn paths_give_no_orders_to_a_terminal() {
        assert_eq!(printable(Path::new("/a b\u{fc}")), "/a bü");
        assert_eq!(printable(Path::new("/a\x1b[2J")), "/a\\u{1b}[2J");
    }
}
