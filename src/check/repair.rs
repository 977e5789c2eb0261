//! Repairs. Nothing is destroyed: what is rewritten has a copy that is authentic, what is removed
//! has lost what it was for, and what cannot be proven is put aside.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, XattrFlags};

use super::file::{is_settled, read_page};
use super::finding::Finding;
use super::index;
use super::names::{Form, form};
use super::page::{self, PageBytes};
use super::quarantine::{Quarantine, open_dir, split};
use super::report::{Found, Report};
use super::scene::{Keyed, Ledger};
use super::settle;
use crate::chunk::{Backing, Integrity};
use crate::format::head::{Head, Kind};
use crate::format::page::Page;
use crate::format::slot::Wrapped;
use crate::format::state::DirectoryState;
use crate::format::{DIRECTORY_NAME, Id};
use crate::fs::disk::{Disk, DiskFile};
use crate::fs::{Counts, Fs, ID_XATTR, Volume, volume_files};
use crate::kms::api::NoteVolumeRequest;
use crate::provider::Provider;

/// What can be done about a finding.
#[derive(Debug, Clone)]
pub(super) enum Remedy {
    /// Write both volume pages anew.
    VolumePage,
    /// Note that the volume is in order.
    Marks,
    /// Make the index anew.
    Index,
    /// Reserve epochs above all that are used.
    RaiseEpochs,
    /// Write a page that was put together from the good parts.
    WritePage(Box<PageBytes>),
    /// Write the record of the directory with this id.
    RebuildRecord(Id),
    /// Write the attribute that repeats a directory's id.
    RepeatId(Id),
    /// Settle a file, as a mount does.
    Settle,
    /// Remove what has lost what it was for.
    Remove,
    /// Put it aside.
    Quarantine,
}

/// The order in which remedies are applied: what needs an entry in its place comes before what moves
/// entries away.
fn order(remedy: &Remedy) -> u8 {
    match remedy {
        Remedy::VolumePage | Remedy::RaiseEpochs => 0,
        Remedy::WritePage(_) => 1,
        Remedy::RebuildRecord(_) | Remedy::RepeatId(_) => 2,
        Remedy::Remove => 3,
        Remedy::Quarantine => 4,
        Remedy::Settle => 5,
        Remedy::Marks | Remedy::Index => 6,
    }
}

/// Applies the remedies and notes in the report what was done. The volume has to be open for it.
///
/// # Errors
/// When it cannot be noted that the volume is being written, or that it is in order again.
pub(super) fn repair(
    dir: &Path,
    mut volume: Volume,
    provider: &Arc<dyn Provider>,
    ledger: Ledger,
) -> io::Result<Report> {
    let Ledger { mut report, mut remedies, misplaced, newest_epoch, incomplete, .. } = ledger;
    if remedies.is_empty() {
        return Ok(report);
    }
    let depth = |number: usize| report.findings[number].place.backing.iter().count();
    remedies.sort_by_key(|(number, remedy)| (order(remedy), std::cmp::Reverse(depth(*number))));
    note(dir, &volume, &**provider, None)?;
    volume.begin_repair()?;
    // What follows happens behind its back.
    volume.discard_counts()?;
    volume.next_epoch(newest_epoch)?;
    let (later, now): (Vec<_>, Vec<_>) =
        remedies.into_iter().partition(|(_, remedy)| order(remedy) >= order(&Remedy::Settle));
    let mut workshop = Workshop {
        disk: volume.disk.clone(),
        root: &volume.root,
        volume: &volume,
        misplaced: &misplaced,
        quarantine: Quarantine::new(&volume.disk, &volume.root),
        moved: HashMap::new(),
    };
    for (number, remedy) in now {
        let found = &mut report.findings[number];
        match workshop.apply(found, &remedy) {
            Ok(done) => found.repaired = Some(done),
            Err(error) => report.notes.push(format!("{}: not repaired: {error}", shown(found))),
        }
    }
    let moved: BTreeSet<PathBuf> = workshop.moved.into_keys().collect();
    volume.sync()?;
    let settle: Vec<usize> =
        later.iter().filter(|(_, remedy)| matches!(remedy, Remedy::Settle)).map(|(n, _)| *n).collect();
    let volume = Settled::new(volume, provider, &settle, &mut report)?;
    let counts = rebuild_index(volume.get(), &mut report);
    finish(volume.get(), &**provider, &settle, &moved, incomplete, &mut report)?;
    note(dir, volume.get(), &**provider, counts.as_ref())?;
    Ok(report)
}

/// Makes the index anew. Without it, the next mount does not know what wraps its files.
fn rebuild_index(volume: &Volume, report: &mut Report) -> Option<Counts> {
    match index::rebuild(volume) {
        Ok(counts) => {
            let found = report.findings.iter_mut();
            found
                .filter(|found| matches!(found.finding, Finding::IndexDamaged | Finding::IndexDiffers))
                .for_each(|found| found.repaired = Some("made anew from the headers".to_owned()));
            Some(counts)
        }
        Err(error) => {
            report.notes.push(format!("the index was not made anew: {error}; 'kmsfs reindex' tries again"));
            None
        }
    }
}

/// Tells the key service that the volume is being changed, or what it holds now.
fn note(dir: &Path, volume: &Volume, provider: &dyn Provider, counts: Option<&Counts>) -> io::Result<()> {
    let files = counts.map(|counts| volume_files(counts.clone(), true)).unwrap_or_default();
    let dir = std::path::absolute(dir)?;
    let note = NoteVolumeRequest {
        volume_id: volume.id.to_string(),
        path: dir.display().to_string(),
        open: counts.is_none(),
        files,
    };
    provider.note_volume(&note).map_err(io::Error::other)
}

/// The volume after its interrupted files were settled; still locked.
enum Settled {
    Untouched(Box<Volume>),
    Used(Arc<Fs>),
}

impl Settled {
    fn new(
        volume: Volume,
        provider: &Arc<dyn Provider>,
        settle: &[usize],
        report: &mut Report,
    ) -> io::Result<Self> {
        if settle.is_empty() {
            return Ok(Self::Untouched(Box::new(volume)));
        }
        let paths = settle.iter().filter_map(|&number| report.findings[number].place.path.clone()).collect();
        let fs = settle::settle(volume, provider, paths).map_err(io::Error::other)?;
        Ok(Self::Used(fs))
    }

    fn get(&self) -> &Volume {
        match self {
            Self::Untouched(volume) => volume,
            Self::Used(fs) => fs.volume(),
        }
    }
}

/// Looks whether interrupted files are settled now, and gives the volume the marks that are true.
fn finish(
    volume: &Volume,
    provider: &dyn Provider,
    settle: &[usize],
    moved: &BTreeSet<PathBuf>,
    incomplete: bool,
    report: &mut Report,
) -> io::Result<()> {
    let keyed = Keyed { volume, provider, integrity: Integrity::Strict };
    for &number in settle {
        let found = &mut report.findings[number];
        let backing = &found.place.backing;
        let gone = moved.iter().any(|moved| backing.starts_with(moved));
        let settled = !gone
            && split(backing).is_ok_and(|(parent, name)| {
                let file = open_dir(&volume.disk, &volume.root, parent)
                    .and_then(|dir| Ok(volume.disk.open(dir, name, OFlags::RDONLY | OFlags::NONBLOCK)?));
                file.is_ok_and(|file| is_settled(keyed, file))
            });
        if settled {
            found.repaired = Some("settled".to_owned());
        }
    }
    let unknown =
        report.findings.iter().filter(|found| found.repaired.is_none() && hides_state(&found.finding));
    let left = unknown.count() as u64 + report.not_checked() + report.out_of_reach.len() as u64;
    let complete = left == 0 && !incomplete;
    // A volume that had the marks keeps them: no file was unsettled by this.
    let all_settled = complete || volume.began_settled();
    volume.end_mount(complete, all_settled)?;
    let marks = report
        .findings
        .iter_mut()
        .filter(|f| matches!(f.finding, Finding::NotClean | Finding::NotAllSettled));
    let mut lacks_marks = false;
    for found in marks {
        if complete {
            found.repaired = Some("every file was read and is settled; the volume says so again".to_owned());
        }
        lacks_marks = !complete;
    }
    if lacks_marks {
        report.notes.push(format!(
            "the volume does not count as settled: {left} files or directories could not be settled or checked"
        ));
    }
    Ok(())
}

/// Whether a finding leaves open if there is a file that is not settled.
fn hides_state(finding: &Finding) -> bool {
    match finding {
        Finding::Unsettled | Finding::Unlistable(_) | Finding::HeaderLost(_) | Finding::OtherVolume(_) => {
            true
        }
        Finding::KeyForged | Finding::WrongLength { .. } | Finding::RecordLost(_) => true,
        Finding::Unreadable { chunks, .. } => chunks.is_empty(),
        _ => false,
    }
}

fn shown(found: &Found) -> String {
    found.place.backing.display().to_string()
}

/// What repairs of single entries work with.
struct Workshop<'a> {
    disk: Disk,
    root: &'a OwnedFd,
    volume: &'a Volume,
    misplaced: &'a HashMap<Id, PageBytes>,
    quarantine: Quarantine<'a>,
    /// What was put aside, and where it is now.
    moved: HashMap<PathBuf, PathBuf>,
}

impl Workshop<'_> {
    fn apply(&mut self, found: &Found, remedy: &Remedy) -> io::Result<String> {
        let backing = &found.place.backing;
        match remedy {
            Remedy::VolumePage => Ok("written anew".to_owned()),
            Remedy::RaiseEpochs => Ok("later epochs are reserved".to_owned()),
            Remedy::WritePage(page) => self.write_page(backing, page),
            Remedy::RebuildRecord(id) => self.rebuild_record(backing, *id, &found.finding),
            Remedy::RepeatId(id) => {
                self.repeat_id(&open_dir(&self.disk, self.root, backing)?, *id)?;
                Ok("written anew from the directory's record".to_owned())
            }
            Remedy::Remove => {
                let (parent, name) = split(backing)?;
                self.disk.unlink(open_dir(&self.disk, self.root, parent)?, name)?;
                Ok("removed".to_owned())
            }
            Remedy::Quarantine => self.put_aside(backing, &found.finding),
            Remedy::Settle | Remedy::Marks | Remedy::Index => Err(io::Error::from_raw_os_error(libc::EINVAL)),
        }
    }

    fn put_aside(&mut self, backing: &Path, finding: &Finding) -> io::Result<String> {
        let to = match self.moved.get(backing) {
            Some(to) => to.clone(),
            None => {
                let to = self.quarantine.take(backing, &finding.to_string())?;
                self.moved.insert(backing.to_owned(), to.clone());
                to
            }
        };
        Ok(format!("moved to {}", to.display()))
    }

    /// Writes a page from parts that are good, leaving the file's attributes as they are.
    fn write_page(&self, backing: &Path, page: &PageBytes) -> io::Result<String> {
        let (parent, name) = split(backing)?;
        let dir = open_dir(&self.disk, self.root, parent)?;
        let file = self.disk.open(dir, name, OFlags::RDWR | OFlags::NONBLOCK)?;
        self.keep_attributes(&file, || {
            file.write_at(page, 0)?;
            file.sync(false)
        })?;
        Ok("written anew from its copy".to_owned())
    }

    /// A write takes set-ID bits and capabilities away, and is a modification.
    fn keep_attributes(&self, file: &DiskFile, write: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        const CAPABILITY: &[u8] = b"security.capability";
        const MODE_BITS: u32 = 0o7777;
        let before = self.disk.stat(file)?;
        let capability = self.disk.get_xattr(file, CAPABILITY).ok();
        let written = write();
        if self.disk.stat(file)?.st_mode != before.st_mode {
            self.disk.set_mode(file, Mode::from_raw_mode(before.st_mode & MODE_BITS))?;
        }
        if let Some(capability) = capability {
            self.disk.set_xattr(file, CAPABILITY, &capability, XattrFlags::empty())?;
        }
        let modified = Timespec { tv_sec: before.st_mtime, tv_nsec: before.st_mtime_nsec.cast_signed() };
        let omit = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        self.disk.set_times(file, &Timestamps { last_access: omit, last_modification: modified })?;
        written
    }

    fn repeat_id(&self, dir: &DiskFile, id: Id) -> io::Result<()> {
        Ok(self.disk.set_xattr(dir, ID_XATTR, &id.0, XattrFlags::empty())?)
    }

    /// Gives a directory its record back: its own, if it was found elsewhere, or else a new one.
    fn rebuild_record(&mut self, record: &Path, id: Id, why: &Finding) -> io::Result<String> {
        let (parent, _) = split(record)?;
        let dir = open_dir(&self.disk, self.root, parent)?;
        let (page, how) = match self.misplaced.get(&id) {
            Some(page) => (*page, "its own record was in another directory and is back".to_owned()),
            None => self.new_record(&dir, id)?,
        };
        if self.disk.stat_at(&dir, DIRECTORY_NAME).is_ok() {
            self.put_aside(record, why)?;
        }
        let file = self.disk.create(&dir, DIRECTORY_NAME, OFlags::EXCL, Mode::from(0o600))?;
        file.write_at(&page, 0)?;
        file.sync(false)?;
        // Not every backing filesystem has attributes.
        let _ = self.repeat_id(&dir, id);
        Ok(how)
    }

    /// A new record. What master key the directory was assigned is known from the files that were
    /// made in it, if they agree.
    fn new_record(&self, dir: &DiskFile, id: Id) -> io::Result<(PageBytes, String)> {
        let keys = self.keys_of_files(dir, id)?;
        let default = self.volume.default_key();
        let (assigned_key, how) = match keys.first_key_value() {
            Some((key, files)) if keys.len() == 1 => {
                let how =
                    format!("rebuilt; new files in it get {key}, as the {files} that were made in it have");
                (if *key == default { String::new() } else { key.clone() }, how)
            }
            _ => {
                let how = "rebuilt; which key it was assigned is not known: new files in it get the volume's \
                           default until 'kmsfs key assign'";
                (String::new(), how.to_owned())
            }
        };
        let head = Head::new(Kind::Directory, self.volume.id, id, self.volume.id);
        let state = DirectoryState { assigned_key }.encode().map_err(io::Error::other)?;
        let keys = &self.volume.keys;
        let page =
            Page::build(&head, 1, &Wrapped::default(), &keys.commitment, None, &state, &keys.directory);
        Ok((page.map_err(io::Error::other)?, how))
    }

    /// The master keys of the files that were made in a directory, each with their number.
    fn keys_of_files(&self, dir: &DiskFile, id: Id) -> io::Result<std::collections::BTreeMap<String, u64>> {
        let mut found = std::collections::BTreeMap::new();
        for entry in self.disk.list(dir)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if !matches!(form(&name, false), Form::Sealed | Form::Long) {
                continue;
            }
            let Ok(file) = self.disk.open(dir, &name, OFlags::RDONLY | OFlags::NONBLOCK) else { continue };
            let Ok(bytes) = read_page(&file) else { continue };
            let Ok(candidates) = page::candidates(&bytes, Kind::File) else { continue };
            let Some(first) = candidates.first().filter(|c| c.page.head.birth_directory == id) else {
                continue;
            };
            if let Some(slot) = first.page.slots().first() {
                *found.entry(slot.wrapped.key_arn.clone()).or_default() += 1;
            }
        }
        Ok(found)
    }
}
