//! Scrubbing: reading all of a mounted volume, through the mount and past the kernel's cache, so
//! that damage is found while there still is a backup.
//!
//! Entries of a directory are taken in the order of their inode numbers, which stay. The place
//! reached is the numbers on the way to a file and an offset in it: it names nothing, holds its
//! order when entries come and go, and so a scrub that was interrupted goes on there.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::{DirEntryExt, FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::Advice;
use serde::{Deserialize, Serialize};

use super::progress::Progress;
use super::report::exit;
use crate::fs::INFO_XATTR;

/// Bytes read at a time.
const BLOCK: usize = 1 << 20;
/// What memory for direct reads is aligned to.
const ALIGNMENT: usize = 4096;
/// Bytes of a chunk on disk where a file does not say.
const DEFAULT_UNIT: u64 = 4096;
/// Bytes of a chunk on disk that are no data.
const UNIT_OVERHEAD: u64 = 32;
/// How often the place reached is kept.
const KEEP_PERIOD: Duration = Duration::from_secs(5);
/// Largest attribute value and description.
const MAX_VALUE_LEN: usize = 64 << 10;

/// How far a scrub has come.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Position {
    /// The volume.
    pub volume_id: String,
    /// Inode numbers on the way to the entry that comes next or was being read.
    pub inodes: Vec<u64>,
    /// Bytes of it that were read.
    pub offset: u64,
    /// Errors found up to there.
    pub errors: u64,
}

/// Something that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// Where, from the mount point.
    pub path: PathBuf,
    /// Bytes of a file: the first, and how many.
    pub bytes: Option<(u64, u64)>,
    /// The first chunk, and how many.
    pub chunks: Option<(u64, u64)>,
    /// What cannot be read.
    pub what: &'static str,
    /// As the operating system says it.
    pub errno: i32,
}

/// The outcome of a scrub.
#[derive(Debug, Default)]
pub struct Scrubbed {
    /// The volume.
    pub volume_id: String,
    /// Regular files read.
    pub files: u64,
    /// Bytes read.
    pub bytes: u64,
    /// What cannot be read.
    pub findings: Vec<Unreadable>,
    /// Files whose key is not usable.
    pub not_checked: u64,
    /// Entries that we may not look at.
    pub out_of_reach: u64,
    /// Errors that an earlier part of the same scrub found.
    pub errors_before: u64,
    /// Ended by a signal; it goes on from here.
    pub cancelled: bool,
}

impl Scrubbed {
    /// The exit code, as fsck(8)'s.
    pub fn exit_code(&self) -> u8 {
        let bit = |set: bool, bit: u8| if set { bit } else { 0 };
        bit(self.errors() > 0, exit::UNCORRECTED)
            | bit(self.out_of_reach > 0, exit::OPERATIONAL)
            | bit(self.cancelled, exit::CANCELLED)
    }

    /// Errors found, those of earlier parts included.
    pub fn errors(&self) -> u64 {
        self.errors_before + self.findings.len() as u64
    }
}

/// The id of the volume that is mounted there.
///
/// # Errors
/// As getxattr(2): `ENODATA` or `EOPNOTSUPP` where no kmsfs is.
pub fn volume_at(mountpoint: &Path) -> io::Result<String> {
    text_of(&description(mountpoint)?, "volume_id").ok_or_else(|| io::Error::from_raw_os_error(libc::ENODATA))
}

fn description(path: &Path) -> io::Result<serde_json::Value> {
    let mut value = vec![0; MAX_VALUE_LEN];
    let len = rustix::fs::lgetxattr(path, INFO_XATTR, &mut value)?;
    Ok(serde_json::from_slice(&value[..len])?)
}

fn text_of(description: &serde_json::Value, field: &str) -> Option<String> {
    description.get(field)?.as_str().map(str::to_owned)
}

/// Reads everything below a mount point, from a position on, at most so many bytes a second. `keep`
/// is handed the place reached now and then, and at the end if a signal came.
///
/// # Errors
/// When the mount point itself cannot be read.
pub fn scrub(
    mountpoint: &Path,
    from: &Position,
    limit: Option<u64>,
    progress: &Progress,
    stop: &AtomicBool,
    keep: &mut dyn FnMut(&Position),
) -> io::Result<Scrubbed> {
    if progress.is_wanted() {
        count(mountpoint, stop, progress);
    }
    let device = mountpoint.symlink_metadata()?.dev();
    let outcome =
        Scrubbed { volume_id: from.volume_id.clone(), errors_before: from.errors, ..Scrubbed::default() };
    let mut pass = Pass {
        top: mountpoint,
        device,
        resume: from.inodes.clone(),
        resume_offset: from.offset,
        limit,
        begin: Instant::now(),
        progress,
        stop,
        keep,
        kept: Instant::now(),
        place: Vec::new(),
        outcome,
        buffer: vec![0; BLOCK + ALIGNMENT],
    };
    fs::read_dir(mountpoint)?;
    pass.attributes(mountpoint);
    if pass.directory(mountpoint).is_break() {
        pass.outcome.cancelled = true;
        pass.keep_place(pass.resume_offset);
    }
    Ok(pass.outcome)
}

struct Pass<'a> {
    top: &'a Path,
    device: u64,
    /// The place to go on at; what comes before it is passed over. Empty once it was reached.
    resume: Vec<u64>,
    resume_offset: u64,
    limit: Option<u64>,
    begin: Instant,
    progress: &'a Progress,
    stop: &'a AtomicBool,
    keep: &'a mut dyn FnMut(&Position),
    kept: Instant,
    /// Inode numbers on the way to where it is.
    place: Vec<u64>,
    outcome: Scrubbed,
    buffer: Vec<u8>,
}

impl Pass<'_> {
    /// Reads everything below a directory, in the order of inode numbers.
    fn directory(&mut self, path: &Path) -> ControlFlow<()> {
        let listed = fs::read_dir(path).and_then(|entries| entries.collect::<io::Result<Vec<_>>>());
        let mut entries = match listed {
            Ok(entries) => entries,
            Err(error) => {
                self.failed(path, "the directory", None, &error);
                return ControlFlow::Continue(());
            }
        };
        entries.sort_by_key(|entry| (entry.ino(), entry.file_name()));
        for entry in entries {
            let depth = self.place.len();
            match self.resume.get(depth) {
                Some(&reached) if entry.ino() < reached => continue,
                // Behind it, nothing is left to be passed over.
                Some(&reached) if entry.ino() > reached => self.reached(),
                _ => {}
            }
            self.place.push(entry.ino());
            self.entry(&entry.path())?;
            self.place.pop();
            if self.resume.len() > depth {
                self.reached();
            }
        }
        ControlFlow::Continue(())
    }

    fn reached(&mut self) {
        self.resume.clear();
        self.resume_offset = 0;
    }

    /// Whether the place to go on at is still further below, or has been read in part.
    fn is_passed_over(&self) -> bool {
        self.resume.len() > self.place.len()
    }

    fn entry(&mut self, path: &Path) -> ControlFlow<()> {
        if self.stop.load(Ordering::Relaxed) {
            return ControlFlow::Break(());
        }
        let meta = match path.symlink_metadata() {
            Ok(meta) => meta,
            Err(error) => {
                self.failed(path, "the entry", None, &error);
                return ControlFlow::Continue(());
            }
        };
        if meta.dev() != self.device {
            return ControlFlow::Continue(());
        }
        self.progress.entry();
        let kind = meta.file_type();
        if !self.is_passed_over() && !kind.is_symlink() && !kind.is_fifo() {
            self.attributes(path);
        }
        if kind.is_dir() {
            return self.directory(path);
        }
        if kind.is_symlink()
            && let Err(error) = fs::read_link(path)
        {
            self.failed(path, "the link's target", None, &error);
        }
        if kind.is_file() { self.file(path) } else { ControlFlow::Continue(()) }
    }

    /// Reads all extended attributes.
    fn attributes(&mut self, path: &Path) {
        let mut names = vec![0; MAX_VALUE_LEN];
        let Ok(len) = rustix::fs::llistxattr(path, &mut names) else { return };
        let mut value = vec![0; MAX_VALUE_LEN];
        for name in names[..len].split(|&b| b == 0).filter(|name| !name.is_empty()) {
            let read = rustix::fs::lgetxattr(path, name, &mut value);
            if let Err(error) = read.map_err(io::Error::from)
                && error.raw_os_error() == Some(libc::EIO)
            {
                self.failed(path, "an extended attribute", None, &error);
            }
        }
    }

    fn file(&mut self, path: &Path) -> ControlFlow<()> {
        let file = match open(path) {
            Ok(file) => file,
            Err(error) => {
                self.failed(path, "the file", None, &error);
                return ControlFlow::Continue(());
            }
        };
        self.outcome.files += 1;
        let unit = description(path).ok().and_then(|d| d.get("chunk_size")?.as_u64()).unwrap_or(DEFAULT_UNIT);
        let payload = unit.saturating_sub(UNIT_OVERHEAD).max(1);
        let mut at = std::mem::take(&mut self.resume_offset);
        self.resume.clear();
        loop {
            if self.stop.load(Ordering::Relaxed) {
                self.resume_offset = at;
                return ControlFlow::Break(());
            }
            match self.read(&file, at, BLOCK) {
                Ok(0) => break,
                Ok(read) => {
                    at += read as u64;
                    self.account(read as u64);
                }
                Err(error) if error.raw_os_error() == Some(libc::EIO) => {
                    at = self.search(path, &file, at, payload);
                }
                // The key was taken away meanwhile, say.
                Err(error) => {
                    self.failed(path, "the file", None, &error);
                    break;
                }
            }
            self.keep_now_and_then(at);
        }
        // What the cache was filled with after all is not needed.
        let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
        ControlFlow::Continue(())
    }

    /// Reads a block that cannot be read as a whole chunk by chunk, to tell which ones are damaged.
    /// Answers where the next block begins.
    fn search(&mut self, path: &Path, file: &File, from: u64, payload: u64) -> u64 {
        let size = file.metadata().map_or(u64::MAX, |meta| meta.len());
        let end = (from + BLOCK as u64).div_ceil(payload).saturating_mul(payload);
        let mut chunk = from / payload;
        let mut damaged: Option<(u64, u64)> = None;
        while chunk * payload < end.min(size) {
            let failed = self.read(file, chunk * payload, payload as usize);
            let failed = failed.is_err_and(|error| error.raw_os_error() == Some(libc::EIO));
            damaged = match damaged {
                Some((first, count)) if failed => Some((first, count + 1)),
                Some(run) => {
                    self.damaged(path, run, payload, size);
                    None
                }
                None => failed.then_some((chunk, 1)),
            };
            chunk += 1;
        }
        if let Some(run) = damaged {
            self.damaged(path, run, payload, size);
        }
        self.account((chunk * payload).saturating_sub(from));
        // Whatever happens, it goes on.
        (chunk * payload).max(from + 1)
    }

    fn damaged(&mut self, path: &Path, run: (u64, u64), payload: u64, size: u64) {
        let offset = run.0 * payload;
        let bytes = (offset, ((run.0 + run.1) * payload).min(size).saturating_sub(offset));
        let error = io::Error::from_raw_os_error(libc::EIO);
        self.failed(path, "chunks", Some((run, bytes)), &error);
    }

    fn read(&mut self, file: &File, at: u64, len: usize) -> io::Result<usize> {
        let misaligned = self.buffer.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT - 1);
        loop {
            match file.read_at(&mut self.buffer[misaligned..misaligned + len], at) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => return read,
            }
        }
    }

    /// Counts bytes, and waits where there are too many a second.
    fn account(&mut self, bytes: u64) {
        self.outcome.bytes += bytes;
        self.progress.read(bytes);
        let Some(limit) = self.limit else { return };
        let due = Duration::from_secs_f64(self.outcome.bytes as f64 / limit as f64);
        while let Some(wait) = due.checked_sub(self.begin.elapsed()).filter(|wait| !wait.is_zero()) {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            std::thread::sleep(wait.min(Duration::from_millis(100)));
        }
    }

    fn keep_now_and_then(&mut self, offset: u64) {
        if self.kept.elapsed() >= KEEP_PERIOD {
            self.keep_place(offset);
        }
    }

    fn keep_place(&mut self, offset: u64) {
        self.kept = Instant::now();
        // Ended before it came to where the last one had been: that still is the place.
        let inodes = if self.is_passed_over() { self.resume.clone() } else { self.place.clone() };
        let volume_id = self.outcome.volume_id.clone();
        (self.keep)(&Position { volume_id, inodes, offset, errors: self.outcome.errors() });
    }

    /// Sorts an error: damage, a key that is not usable, something that went away, or out of reach.
    fn failed(
        &mut self,
        path: &Path,
        what: &'static str,
        place: Option<((u64, u64), (u64, u64))>,
        error: &io::Error,
    ) {
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        match errno {
            libc::ENOENT | libc::ESTALE | libc::ENOTDIR | libc::ELOOP => {}
            libc::EKEYREVOKED | libc::EKEYEXPIRED | libc::EKEYREJECTED | libc::ENOKEY => {
                self.outcome.not_checked += 1;
            }
            libc::EIO => {
                let path = path.strip_prefix(self.top).unwrap_or(path).to_owned();
                let (chunks, bytes) = place.unzip();
                self.outcome.findings.push(Unreadable { path, bytes, chunks, what, errno });
                self.progress.found();
            }
            _ => self.outcome.out_of_reach += 1,
        }
    }
}

/// Opens a file past the kernel's cache, where the kernel lets us.
fn open(path: &Path) -> io::Result<File> {
    let open = |flags| {
        OpenOptions::new().read(true).custom_flags(flags | libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)
    };
    match open(libc::O_DIRECT) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            let file = open(0)?;
            let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
            Ok(file)
        }
        opened => opened,
    }
}

/// Counts what there is to read, for whoever wants to know how long it will take.
fn count(top: &Path, stop: &AtomicBool, progress: &Progress) {
    let (mut entries, mut bytes) = (0, 0);
    let mut pending = vec![top.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok) {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let Ok(meta) = entry.metadata() else { continue };
            entries += 1;
            if meta.is_dir() {
                pending.push(entry.path());
            } else if meta.is_file() {
                bytes += meta.len();
            }
        }
    }
    progress.set_total(entries, bytes);
}
