//! Directory records, and which directory a backing directory really is.
//!
//! A record can be authentic and still be another directory's. What proves a directory's id are the
//! names in it: they open under no other.

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::attributes;
use super::file::read_page;
use super::finding::Finding;
use super::names::{Form, form, opens};
use super::page::{self, Candidate};
use super::repair::Remedy;
use super::report::Place;
use super::scene::{Keyed, Scene};
use crate::chunk::Integrity;
use crate::format::head::{Head, Kind};
use crate::format::{DIRECTORY_NAME, FormatError, Id};
use crate::fs::ID_XATTR;
use crate::fs::disk::DiskFile;
use crate::secret::Key;

/// Names of a directory that are tried, to prove its id.
const SAMPLE: usize = 16;

/// A directory whose id is known.
pub(super) struct Known {
    /// Opens the names in it.
    pub(super) names: Key,
}

/// Checks a directory's record and attributes. Answers what opens its names, if there are keys.
pub(super) fn check(scene: &Scene<'_>, dir: &DiskFile, place: &Place, ino: u64) -> Option<Known> {
    scene.ledger.lock().report.counts.directories += 1;
    if place.backing.as_os_str().is_empty() {
        let keyed = scene.keyed?;
        let keys = &keyed.volume.keys;
        attributes::check(scene, place, dir, Some((&[&keys.directory_xattr], keyed.volume.id)));
        return Some(Known { names: keys.names(keyed.volume.id) });
    }
    let record = Place { backing: place.backing.join(DIRECTORY_NAME), path: place.path.clone() };
    let found = read(scene, dir, &record)?;
    let Some(keyed) = scene.keyed else {
        check_without_keys(scene, dir, &record, found, ino);
        attributes::check(scene, place, dir, None);
        return None;
    };
    let id = identify(scene, keyed, dir, place, &record, found)?;
    if scene.is_copy(id, ino) {
        scene.found(place, Finding::DuplicateId(id), None);
    }
    attributes::check(scene, place, dir, Some((&[&keyed.volume.keys.directory_xattr], id)));
    Some(Known { names: keyed.volume.keys.names(id) })
}

/// A directory's record as it lies there: its bytes and what they may be.
type Found = Result<(page::PageBytes, Vec<Candidate>), FormatError>;

/// Reads a record; `None` if the operating system does not let us.
fn read(scene: &Scene<'_>, dir: &DiskFile, record: &Place) -> Option<Found> {
    let file = match scene.open(dir, DIRECTORY_NAME, OFlags::empty()) {
        Err(Errno::NOENT) => return Some(Err(FormatError::Blank)),
        Err(error) => {
            scene.not_readable(record, &error.into());
            return None;
        }
        Ok(file) => file,
    };
    match read_page(&file) {
        Ok(bytes) => Some(page::candidates(&bytes, Kind::Directory).map(|found| (bytes, found))),
        Err(error) => {
            scene.not_readable(record, &error);
            None
        }
    }
}

fn check_without_keys(scene: &Scene<'_>, dir: &DiskFile, record: &Place, found: Found, ino: u64) {
    let (bytes, candidates) = match found {
        Ok(found) => found,
        Err(error) => return scene.found(record, Finding::RecordLost(error), None),
    };
    let Some(first) = candidates.first() else { return };
    for part in page::differences(&bytes, &first.bytes) {
        scene.found(record, Finding::PartDamaged(part), None);
    }
    let head = &first.page.head;
    if scene.volume.is_some_and(|volume| volume != head.volume) {
        scene.found(record, Finding::OtherVolume(head.volume), None);
    }
    if repeated_id(scene, dir).is_some_and(|repeated| repeated != head.object) {
        scene.found(record, Finding::DirectoryIdDiffers, None);
    }
    if scene.is_copy(head.object, ino) {
        scene.found(record, Finding::DuplicateId(head.object), None);
    }
}

/// Finds out which directory this is, and notes what says otherwise.
fn identify(
    scene: &Scene<'_>,
    keyed: Keyed<'_>,
    dir: &DiskFile,
    place: &Place,
    record: &Place,
    found: Found,
) -> Option<Id> {
    let found = found.and_then(|(bytes, candidates)| Ok((bytes, authentic(keyed, candidates)?)));
    let (said, why) = match &found {
        Ok((_, good)) => (Some(good.page.head.object), FormatError::Forged),
        Err(error) => (None, *error),
    };
    if matches!(why, FormatError::UnknownVersion(_) | FormatError::UnknownFeatures(_)) {
        scene.found(record, Finding::RecordLost(why), None);
        return None;
    }
    let repeated = repeated_id(scene, dir);
    let sample = sample(scene, dir);
    let proves = |id: &Id| {
        let key = keyed.volume.keys.names(*id);
        sample.iter().any(|name| opens(scene, &key, dir, name))
    };
    let candidates = || repeated.into_iter().chain(birth_directories(scene, dir, &sample));
    let proven = if sample.is_empty() {
        said
    } else {
        said.filter(|id| proves(id)).or_else(|| candidates().find(proves))
    };
    match (found, proven) {
        (Ok((bytes, good)), proven) if proven.is_none() || proven == said => {
            // Without any name that opens, the names are what is wrong.
            for part in page::differences(&bytes, &good.bytes) {
                scene.found(record, Finding::PartDamaged(part), Remedy::WritePage(good.bytes.into()));
            }
            let id = good.page.head.object;
            if repeated.is_some_and(|repeated| repeated != id) {
                scene.found(place, Finding::DirectoryIdDiffers, Remedy::RepeatId(id));
            }
            Some(id)
        }
        (Ok((_, good)), Some(id)) => {
            let other = good.page.head.object;
            scene.ledger.lock().misplaced.insert(other, good.bytes);
            scene.found(record, Finding::RecordOfAnother(other), Remedy::RebuildRecord(id));
            Some(id)
        }
        (Err(_), Some(id)) => {
            scene.found(record, Finding::RecordLost(why), Remedy::RebuildRecord(id));
            Some(id)
        }
        (Err(_), None) if sample.is_empty() => {
            // No name depends on the id. After a crash this is a directory that was just being made
            // or removed.
            let id = repeated.or_else(|| Id::random().ok())?;
            let innocent = keyed.integrity == Integrity::Recovering && why == FormatError::Blank;
            let finding = if innocent { Finding::Unsettled } else { Finding::RecordLost(why) };
            scene.found(record, finding, Remedy::RebuildRecord(id));
            Some(id)
        }
        (_, None) => {
            scene.found(place, Finding::RecordLost(why), Remedy::Quarantine);
            None
        }
    }
}

/// The first candidate that is authentic.
fn authentic(keyed: Keyed<'_>, candidates: Vec<Candidate>) -> Result<Candidate, FormatError> {
    let opens = |candidate: &Candidate| {
        let key = &keyed.volume.keys.directory;
        let slot = candidate.page.slots().first();
        candidate.page.head.volume == keyed.volume.id
            && slot.is_some_and(|slot| candidate.page.open(slot, key).is_ok())
    };
    candidates.into_iter().find(opens).ok_or(FormatError::Forged)
}

/// What the directory's own attribute says.
fn repeated_id(scene: &Scene<'_>, dir: &DiskFile) -> Option<Id> {
    scene.disk.get_xattr(dir, ID_XATTR).ok()?.try_into().ok().map(Id)
}

/// Some of the names that could prove the id.
fn sample(scene: &Scene<'_>, dir: &DiskFile) -> Vec<String> {
    let Ok(entries) = scene.disk.list(dir) else { return Vec::new() };
    let names = entries.filter_map(Result::ok).map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| matches!(form(name, false), Form::Sealed | Form::Long)).take(SAMPLE).collect()
}

/// Where the files and directories of these names say that they were made.
fn birth_directories(scene: &Scene<'_>, dir: &DiskFile, names: &[String]) -> Vec<Id> {
    let mut found: Vec<Id> =
        names.iter().filter_map(|name| head_of(scene, dir, name)).map(|h| h.birth_directory).collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// The head of the file or subdirectory `name`.
pub(super) fn head_of(scene: &Scene<'_>, dir: &DiskFile, name: &str) -> Option<Head> {
    let entry = scene.open(dir, name, OFlags::empty()).ok()?;
    let (file, kind) = match scene.open(&entry, DIRECTORY_NAME, OFlags::empty()) {
        Ok(record) => (record, Kind::Directory),
        Err(_) => (entry, Kind::File),
    };
    let candidates = page::candidates(&read_page(&file).ok()?, kind).ok()?;
    candidates.first().map(|candidate| candidate.page.head)
}
