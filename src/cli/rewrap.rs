//! `rewrap`, `file set-key` and `file list`: which master key, in which version, wraps what.

use std::collections::HashMap;
use std::fmt::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde::Serialize;

use super::args::{Global, Rewrap, SetKey};
use super::exit::{CliError, CliResult, Code, words};
use super::fsck::{Showing, printable, stop_flag};
use super::handover;
use super::key_store::{KeyStore, dir};
use super::output::{Output, count, table};
use crate::fs::{FileKind, Fs, INFO_XATTR, Volume, VolumeError, Wrapping};
use crate::sys::process;
use crate::tools::rewrap::{self, Goal, Left, Moment, Mounted, Outcome, Place, Tally, Tree, Unmounted};

/// Bytes that a description of a file takes at most.
const MAX_LEN: usize = 8192;

pub(super) fn rewrap(global: &Global, asked: &Rewrap, output: &Output) -> CliResult<ExitCode> {
    let store = KeyStore::open(global)?;
    let key = asked.key.as_deref().map(|key| store.describe(key)).transpose()?.map(|key| key.arn);
    let goal = Goal::Newest { key, older_than: asked.older_than };
    let reached = Reached::at(global, &store, &asked.path)?;
    let outcome = work(global, &store, &reached, &goal, asked.rate)?;
    reached.close(&asked.path)?;
    finish(&Shown::new(vec![asked.path.clone()], outcome), output)
}

pub(super) fn set_key(global: &Global, asked: &SetKey, output: &Output) -> CliResult<ExitCode> {
    let store = KeyStore::open(global)?;
    let goal = Goal::Under(store.describe(&asked.key)?.arn);
    let tops = tops(asked)?;
    let mut whole = Outcome::default();
    for (tree, top) in tops {
        let outcome = work(global, &store, &Reached::Mounted(tree, top), &goal, None)?;
        add(&mut whole, outcome);
        if whole.cancelled {
            break;
        }
    }
    finish(&Shown::new(asked.paths.clone(), whole), output)
}

/// What `file set-key` is to work on.
pub(super) fn tops(asked: &SetKey) -> CliResult<Vec<(Mounted, Place)>> {
    let mut tops = Vec::new();
    for path in &asked.paths {
        let (tree, top) = mounted(path)?;
        if top.kind == FileKind::Directory && !asked.recursive {
            return Err(CliError::new(
                Code::Usage,
                format!(
                    "{} is a directory; take its files too with -r, or only new ones with 'kmsfs key assign'",
                    path.display()
                ),
            ));
        }
        tops.push((tree, top));
    }
    Ok(tops)
}

pub(super) fn list(
    global: &Global,
    path: &Path,
    key: Option<&str>,
    stale: bool,
    output: &Output,
) -> CliResult<()> {
    let store = KeyStore::open(global)?;
    let key = key.map(|key| store.describe(key)).transpose()?.map(|key| key.arn);
    let reached = Reached::at(global, &store, path)?;
    let mut newest = newest(&store);
    let mut known: HashMap<String, Option<u32>> = HashMap::new();
    let mut files = Vec::new();
    let mut unreadable = 0;
    let (tree, top) = reached.parts();
    let listed = rewrap::list(tree, top, &mut |place, wrapping| {
        let Ok(wrapping) = wrapping else {
            unreadable += 1;
            return;
        };
        let newest = *known.entry(wrapping.key_arn.clone()).or_insert_with_key(|arn| newest(arn).ok());
        let is_half_done = tree.reencryption(place).is_ok_and(|progress| progress.is_some());
        let is_stale = is_half_done || newest.is_some_and(|newest| wrapping.key_version < newest);
        if key.as_ref().is_none_or(|key| *key == wrapping.key_arn) && (is_stale || !stale) {
            files.push(ShownFile::new(&place.path, wrapping, newest, is_half_done));
        }
    });
    listed.map_err(|e| CliError::io(path, &e))?;
    reached.close(path)?;
    if unreadable > 0 {
        output.warn(&format!("the headers of {} could not be read", count(unreadable, "file")));
    }
    output.print(&files, |files| {
        let rows: Vec<Vec<String>> = files.iter().map(ShownFile::row).collect();
        table(&["KEY", "VERSION", "NEWEST", "PATH"], &rows)
    })
}

/// A volume's files, by way of its mount or without one.
pub(super) enum Reached {
    Mounted(Mounted, Place),
    Unmounted(Box<Unmounted>, Place),
}

impl Reached {
    /// For changing something.
    pub(super) fn at(global: &Global, store: &KeyStore, path: &Path) -> CliResult<Self> {
        Self::reach(global, store, path, false)
    }

    /// For looking.
    pub(super) fn to_read(global: &Global, store: &KeyStore, path: &Path) -> CliResult<Self> {
        Self::reach(global, store, path, true)
    }

    fn reach(global: &Global, store: &KeyStore, path: &Path, read_only: bool) -> CliResult<Self> {
        let path = path.canonicalize().map_err(|e| CliError::io(path, &e))?;
        if is_mounted(&path) || !Volume::exists(&path) {
            let (tree, top) = mounted(&path)?;
            return Ok(Self::Mounted(tree, top));
        }
        let descriptors = process::raise_descriptor_limit().map_err(|e| CliError::io(&path, &e))?;
        let provider = store.provider(&dir(global)?);
        let volume = handover::open(&path, &*provider, read_only).map_err(|error| match error {
            VolumeError::InUse { .. } => {
                CliError::new(Code::VolumeInUse, format!("{error}; name its mount point instead"))
            }
            error => error.into(),
        })?;
        let (tree, top) = Unmounted::new(Fs::new(volume, provider, &path, descriptors)?, &path)
            .map_err(|e| CliError::io(&path, &e))?;
        Ok(Self::Unmounted(Box::new(tree), top))
    }

    pub(super) fn parts(&self) -> (&dyn Tree, &Place) {
        match self {
            Self::Mounted(tree, top) => (tree, top),
            Self::Unmounted(tree, top) => (&**tree, top),
        }
    }

    pub(super) fn close(self, path: &Path) -> CliResult<()> {
        match self {
            Self::Mounted(..) => Ok(()),
            Self::Unmounted(tree, _) => tree.close().map_err(|e| CliError::io(path, &e)),
        }
    }
}

fn is_mounted(path: &Path) -> bool {
    rustix::fs::lgetxattr(path, INFO_XATTR, &mut [0; MAX_LEN]).is_ok()
}

fn mounted(path: &Path) -> CliResult<(Mounted, Place)> {
    let (tree, top) = Mounted::at(path).map_err(|e| CliError::io(path, &e))?;
    if is_mounted(path) {
        return Ok((tree, top));
    }
    Err(CliError::new(
        Code::NotAMount,
        format!("{} is no file or directory of a mounted volume; name one in a mount", path.display()),
    ))
}

/// Asks the key store for the newest version of a master key, as files under it would be told.
fn newest(store: &KeyStore) -> impl FnMut(&str) -> Result<u32, i32> {
    |arn| match store.describe(arn) {
        Ok(key) => Ok(key.current_key_material_version),
        Err(error) if error.code() == Code::NoSuchKey as u8 => Err(libc::EKEYREJECTED),
        Err(error) if error.code() == Code::Permission as u8 => Err(libc::EACCES),
        Err(_) => Err(libc::ENOKEY),
    }
}

fn work(
    global: &Global,
    store: &KeyStore,
    reached: &Reached,
    goal: &Goal,
    rate: Option<u32>,
) -> CliResult<Outcome> {
    let (tree, top) = reached.parts();
    let stop: std::sync::Arc<AtomicBool> = stop_flag().map_err(|e| CliError::io(&top.path, &e))?;
    let showing = Showing::wanted(global);
    let tally = Tally::new(showing.is_some());
    Ok(showing.around(&|| progress_line(&tally.now()), || {
        rewrap::rewrap(tree, top, goal, &mut newest(store), rate, &tally, &stop)
    }))
}

fn add(whole: &mut Outcome, part: Outcome) {
    whole.rewrapped += part.rewrapped;
    whole.assigned += part.assigned;
    for (wrapping, files) in part.found {
        *whole.found.entry(wrapping).or_default() += files;
    }
    whole.left.extend(part.left);
    whole.left_count += part.left_count;
    whole.not_durable = whole.not_durable.or(part.not_durable);
    whole.cancelled |= part.cancelled;
}

fn progress_line(moment: &Moment) -> String {
    let Moment { pass, total, seen, rewrapped, elapsed, .. } = *moment;
    if pass > 1 {
        return format!("looking at every header again: {seen} of {total}; {rewrapped} re-wrapped");
    }
    let rate = seen as f64 / elapsed.as_secs_f64().max(0.001);
    let percent = if total == 0 { 0.0 } else { 100.0 * seen as f64 / total as f64 };
    let mut line =
        format!("{percent:3.0}%  {seen} of {total} files, {rewrapped} re-wrapped, {rate:.0} files/s");
    if let Some(left) = moment.left() {
        let left = Duration::from_secs(left.as_secs().max(1));
        let _ = write!(line, ", {} left", humantime::format_duration(left));
    }
    line
}

fn finish(shown: &Shown, output: &Output) -> CliResult<ExitCode> {
    output.print(shown, Shown::lines)?;
    Ok(ExitCode::from(shown.exit_code))
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Shown {
    paths: Vec<PathBuf>,
    rewrapped: u64,
    directories_assigned: u64,
    /// What wraps how many files, as a last look at every header found it.
    found: Vec<ShownCount>,
    left_count: u64,
    left: Vec<ShownLeft>,
    durable: bool,
    cancelled: bool,
    exit_code: u8,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ShownCount {
    key_arn: String,
    key_version: u32,
    files: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ShownLeft {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_arn: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_version: Option<u32>,
    cause: String,
}

impl Shown {
    fn new(paths: Vec<PathBuf>, outcome: Outcome) -> Self {
        let exit_code = match &outcome {
            outcome if outcome.cancelled => Code::Interrupted as u8,
            outcome if outcome.is_complete() => 0,
            _ => Code::Left as u8,
        };
        let mut found: Vec<ShownCount> = outcome
            .found
            .into_iter()
            .map(|(wrapping, files)| ShownCount {
                key_arn: wrapping.key_arn,
                key_version: wrapping.key_version,
                files,
            })
            .collect();
        found.sort_by(|a, b| (&a.key_arn, a.key_version).cmp(&(&b.key_arn, b.key_version)));
        Self {
            paths,
            rewrapped: outcome.rewrapped,
            directories_assigned: outcome.assigned,
            found,
            left_count: outcome.left_count,
            left: outcome.left.into_iter().map(ShownLeft::new).collect(),
            durable: outcome.not_durable.is_none(),
            cancelled: outcome.cancelled,
            exit_code,
        }
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = left_lines(&self.left, self.left_count);
        for found in &self.found {
            let files = count(found.files, "file");
            lines.push(format!("{files} by version {} of {}", found.key_version, found.key_arn));
        }
        if !self.durable {
            lines.push("what was re-wrapped may not be on disk yet; run the command again".to_owned());
        }
        let mut last = format!("re-wrapped {}", count(self.rewrapped, "file"));
        last += &assigned(self.directories_assigned);
        if self.cancelled {
            last.push_str(" (ended by a signal; the same command goes on from here)");
        } else if self.left_count > 0 {
            let _ = write!(last, "; {} left as they were", self.left_count);
        }
        lines.push(last);
        lines
    }
}

/// A line for each file that was left, and one for those that are not listed.
pub(super) fn left_lines(left: &[ShownLeft], count: u64) -> Vec<String> {
    let mut lines: Vec<String> = left.iter().map(ShownLeft::to_string).collect();
    if count > left.len() as u64 {
        lines.push(format!("left: {} more", count - left.len() as u64));
    }
    lines
}

/// That directories were assigned the key, to be put behind what was done to files; empty for none.
pub(super) fn assigned(directories: u64) -> String {
    match directories {
        0 => String::new(),
        1 => ", assigned the key to 1 directory".to_owned(),
        many => format!(", assigned the key to {many} directories"),
    }
}

impl fmt::Display for ShownLeft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "left: {}: {}", printable(self.path.as_ref()), self.cause)
    }
}

impl ShownLeft {
    pub(super) fn new(left: Left) -> Self {
        let (key_arn, key_version) = left.wrapping.map(|w| (w.key_arn, w.key_version)).unzip();
        Self {
            path: left.path.to_string_lossy().into_owned(),
            key_arn,
            key_version,
            cause: words(&std::io::Error::from_raw_os_error(left.errno)),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ShownFile {
    path: String,
    key_arn: String,
    key_version: u32,
    /// Absent if the key store does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    newest_version: Option<u32>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    being_reencrypted: bool,
}

impl ShownFile {
    fn new(path: &Path, wrapping: Wrapping, newest_version: Option<u32>, being_reencrypted: bool) -> Self {
        let path = path.to_string_lossy().into_owned();
        let Wrapping { key_arn, key_version } = wrapping;
        Self { path, key_arn, key_version, newest_version, being_reencrypted }
    }

    fn row(&self) -> Vec<String> {
        let key = self.key_arn.rsplit('/').next().unwrap_or_default().to_owned();
        let newest = self.newest_version.map_or("?".to_owned(), |version| version.to_string());
        let mut path = printable(self.path.as_ref());
        if self.being_reencrypted {
            path.push_str(" (being re-encrypted)");
        }
        vec![key, self.key_version.to_string(), newest, path]
    }
}
