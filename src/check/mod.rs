//! Checking a volume: all of its backing directory, entry by entry, and what to do about what is
//! found there.
//!
//! [`check`] looks at a volume that is not mounted; `docs/FSCK.md` lists what it finds. The parts:
//! [`finding`] says what there is to find, `walk` goes over the tree, one module for each kind of
//! object looks at it, and `repair` applies the remedies afterwards. While it looks, nothing is
//! written. [`scrub`] reads the files of a volume through a mount.

mod attributes;
mod directory;
mod file;
pub mod finding;
mod index;
mod links;
mod names;
mod page;
mod progress;
mod quarantine;
mod repair;
pub mod report;
mod scene;
pub mod scrub;
mod settle;
mod volume;
mod walk;

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::sync_channel;

use parking_lot::Mutex;
use rustix::fs::{FileType, OFlags};
use thiserror::Error;

use crate::chunk::Integrity;
use crate::format::FormatError;
use crate::fs::disk::Disk;
use crate::fs::{Volume, VolumeError};
use crate::provider::{Provider, ProviderError};

pub use finding::{Finding, Severity};
pub use names::LOST_NAME;
pub use progress::{Moment, Progress};
pub use report::{Found, Place, Report};

use scene::{Keyed, Ledger, Scene};

/// Threads that check files, beside the one that walks.
const THREADS: usize = 2;
/// Files that wait to be checked; each holds a descriptor.
const QUEUE: usize = 64;

/// What to check.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Leave the contents of files out.
    pub headers_only: bool,
    /// Repair what can be repaired. Needs keys, and all of the contents.
    pub repair: bool,
}

/// Why there is no report.
#[derive(Debug, Error)]
pub enum CheckError {
    /// The volume cannot be opened.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// A repair could not be noted in the volume's page.
    #[error("repairing: {0}; run it again")]
    Repair(#[source] io::Error),
    /// A thread broke off.
    #[error("a part of the check broke off; this is a bug, please report it")]
    Broken,
}

/// Checks the volume in a directory. Without a provider of keys, only what shows without them.
///
/// # Errors
/// Any [`CheckError`]; what is wrong with the volume is in the report.
pub fn check(
    dir: &Path,
    provider: Option<&Arc<dyn Provider>>,
    options: Options,
    progress: &Progress,
    stop: &AtomicBool,
) -> Result<Report, CheckError> {
    let disk = Disk::default();
    let Some(provider) = provider else {
        let (root, _lock) = Volume::lock_to_check(dir)?;
        let pages = volume::read(&disk, &root);
        return without_keys(&disk, &root, &pages, false, progress, stop);
    };
    // As they are now: opening the volume for a repair makes a missing one anew.
    let before = rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY, rustix::fs::Mode::empty());
    let pages = before.map(|root| volume::read(&disk, &root));
    let volume = match Volume::open_to_check(dir, &**provider, options.repair) {
        Err(VolumeError::Format(_, error)) if !is_newer(error) => return page_lost(dir, progress, stop),
        Err(VolumeError::Provider(ProviderError::InvalidCiphertext(_))) => {
            return page_lost(dir, progress, stop);
        }
        opened => opened?,
    };
    let pages = pages.unwrap_or_else(|_| volume::read(&disk, &volume.root));
    let integrity = match (volume.is_recovering(), volume.began_settled()) {
        (true, _) => Integrity::Recovering,
        (false, true) => Integrity::Settled,
        (false, false) => Integrity::Strict,
    };
    let scene = Scene {
        disk,
        root: &volume.root,
        volume: Some(volume.id),
        keyed: Some(Keyed { volume: &volume, provider: &**provider, integrity }),
        headers_only: options.headers_only,
        progress,
        stop,
        ledger: Mutex::default(),
    };
    let ledger = look(&scene, &pages)?;
    drop(scene);
    let mut report = if options.repair && !ledger.report.cancelled {
        repair::repair(dir, volume, provider, ledger).map_err(CheckError::Repair)?
    } else {
        ledger.report
    };
    report.sort();
    Ok(report)
}

fn is_newer(error: FormatError) -> bool {
    matches!(error, FormatError::UnknownVersion(_) | FormatError::UnknownFeatures(_))
}

/// Without the volume key nothing else opens, but what needs none can still be looked at.
fn page_lost(dir: &Path, progress: &Progress, stop: &AtomicBool) -> Result<Report, CheckError> {
    let (root, _lock) = Volume::lock_to_check(dir)?;
    let disk = Disk::default();
    let pages = volume::read(&disk, &root);
    without_keys(&disk, &root, &pages, true, progress, stop)
}

fn without_keys(
    disk: &Disk,
    root: &OwnedFd,
    pages: &volume::Pages,
    forged: bool,
    progress: &Progress,
    stop: &AtomicBool,
) -> Result<Report, CheckError> {
    let scene = Scene {
        disk: disk.clone(),
        root,
        volume: pages.id(),
        keyed: None,
        headers_only: true,
        progress,
        stop,
        ledger: Mutex::default(),
    };
    if forged {
        pages.note_forged(&scene);
    }
    let mut report = look(&scene, pages)?.report;
    report.sort();
    Ok(report)
}

/// Looks at everything.
fn look(scene: &Scene<'_>, pages: &volume::Pages) -> Result<Ledger, CheckError> {
    if scene.progress.is_wanted() {
        count(scene);
    }
    pages.check(scene);
    let (sender, receiver) = sync_channel(QUEUE);
    let receiver = Mutex::new(receiver);
    let work = || {
        loop {
            let job = receiver.lock().recv();
            let Ok(job) = job else { return };
            // After a signal the queue still has to be emptied, or the walk would wait.
            if !scene.is_stopped() {
                let _ = file::check(scene, job);
            }
        }
    };
    let whole = std::thread::scope(|s| {
        let workers: Vec<_> = (0..THREADS).map(|_| s.spawn(work)).collect();
        let _ = walk::walk(scene, sender);
        workers.into_iter().all(|worker| worker.join().is_ok())
    });
    if !whole {
        return Err(CheckError::Broken);
    }
    index::check(scene);
    let mut ledger = std::mem::take(&mut *scene.ledger.lock());
    ledger.report.volume = scene.volume;
    ledger.report.keyless = scene.keyed.is_none();
    ledger.report.cancelled = scene.is_stopped();
    Ok(ledger)
}

/// Counts what there is to do, for whoever wants to know how long it will take.
fn count(scene: &Scene<'_>) {
    let Ok(top) = scene.open(scene.root, ".", OFlags::DIRECTORY) else { return };
    let (mut entries, mut bytes) = (0, 0);
    walk::everything_below(scene, top, |_, _, stat| {
        entries += 1;
        if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && !scene.headers_only {
            bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        }
    });
    scene.progress.set_total(entries, bytes);
}
