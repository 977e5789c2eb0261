//! Putting a key store back from a backup.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::backup::{self, Backup};
use super::disk::Disk;
use super::error::StoreError;
use super::file::{self, FILE, NEW_FILE};
use super::header;
use super::image::Image;
use super::lock::OwnerLock;
use super::sealing::{LoadedKey, Sealing};
use super::slot::UnlockSecret;
use crate::kms::id::StoreId;

/// Most key versions that a refusal names.
const MAX_NAMED: usize = 5;

/// What was restored.
#[derive(Debug, Clone)]
pub struct Restored {
    /// The store's id.
    pub store_id: StoreId,
    /// When the backup was made.
    pub created: Timestamp,
    /// Version of the program that made it.
    pub program: String,
    /// Master keys in it, internal ones included.
    pub keys: u64,
    /// Versions of their material.
    pub versions: u64,
    /// Where the store that was there before is kept.
    pub kept: Option<PathBuf>,
    /// Key versions that are in that store and not in the backup.
    pub lost: Vec<String>,
}

/// Puts the backup `file` into `dir` as its key store. Everything is checked before anything is
/// changed. With `force` it takes the place of a store that is there, which is kept under another
/// name.
///
/// # Errors
/// [`StoreError::NotABackup`], [`StoreError::BackupVersion`], [`StoreError::BackupDamaged`],
/// [`StoreError::WrongSecret`]; [`StoreError::WouldReplace`] without `force`;
/// [`StoreError::InUse`], [`StoreError::NoSpace`], [`StoreError::Io`]. The store that was there,
/// or its absence, is as it was then.
pub fn restore(
    disk: &dyn Disk,
    file: &Path,
    dir: &Path,
    secret: &UnlockSecret,
    force: bool,
) -> Result<Restored, StoreError> {
    let backup = backup::read(disk, file)?;
    let sealing = backup.unlock(secret)?;
    let keys = backup.open_with(&sealing)?.keys;
    disk.make_directory(dir).map_err(StoreError::io("create the key store's directory"))?;
    let _lock = OwnerLock::take(dir)?;
    let replaced = disk.exists(&dir.join(FILE)).then(|| compare(disk, dir, &sealing, &keys));
    if let Some(replaced) = &replaced
        && !force
    {
        let (what, lost) = (replaced.what.clone(), replaced.lost.clone());
        return Err(StoreError::WouldReplace { dir: dir.to_owned(), what, lost: named(&lost) });
    }
    file::write_aside(disk, dir, NEW_FILE, &backup.image)?;
    let kept = put_in_place(disk, dir, replaced.is_some(), &backup.image).inspect_err(|_| {
        let _ = disk.remove(&dir.join(NEW_FILE));
    })?;
    Ok(Restored {
        store_id: sealing.id,
        created: backup.created,
        program: backup.program,
        keys: keys.len() as u64,
        versions: keys.iter().map(|(_, versions)| versions.len() as u64).sum(),
        kept,
        lost: replaced.map(|replaced| replaced.lost).unwrap_or_default(),
    })
}

/// Whether a backup opens with the store's keys and has all of `keys`; what it lacks.
pub(super) fn missing_from(
    backup: &Backup,
    sealing: &Sealing,
    keys: &[LoadedKey],
) -> Result<Vec<String>, StoreError> {
    Ok(lacking(&backup.open_with(sealing)?.keys, keys))
}

/// A store that is in the way.
struct Replaced {
    what: String,
    /// What it has and the backup lacks.
    lost: Vec<String>,
}

fn compare(disk: &dyn Disk, dir: &Path, sealing: &Sealing, saved: &[LoadedKey]) -> Replaced {
    let path = dir.join(FILE);
    let found = file::open(disk, dir)
        .and_then(|open| file::read(&open, || path.clone()))
        .and_then(|image| Ok((header::decode(&path, image.header())?.0, image)));
    let (id, image) = match found {
        Ok(found) => found,
        Err(error) => return Replaced { what: format!("something unreadable ({error})"), lost: Vec::new() },
    };
    if id != sealing.id {
        return Replaced { what: format!("another key store, {id}"), lost: Vec::new() };
    }
    match sealing.open_all(&image) {
        Ok(found) => Replaced { what: "this key store".to_owned(), lost: lacking(saved, &found.keys) },
        Err(error) => {
            let what = format!("this key store in a state that cannot be compared ({error})");
            Replaced { what, lost: Vec::new() }
        }
    }
}

/// The key versions of `keys` that are not in `saved`.
fn lacking(saved: &[LoadedKey], keys: &[LoadedKey]) -> Vec<String> {
    let known: BTreeSet<_> =
        saved.iter().flat_map(|(key, _)| key.versions.iter().map(|version| version.fingerprint)).collect();
    let mut lost = Vec::new();
    for (key, _) in keys {
        for (version, number) in key.versions.iter().zip(1..) {
            if !known.contains(&version.fingerprint) {
                lost.push(format!("{} version {number}", key.id));
            }
        }
    }
    lost
}

fn named(lost: &[String]) -> Vec<String> {
    let mut named: Vec<String> = lost.iter().take(MAX_NAMED).cloned().collect();
    if lost.len() > MAX_NAMED {
        named.push(format!("{} more", lost.len() - MAX_NAMED));
    }
    named
}

/// Gives the new file its name. The old one has a second name by then, so that there is a store at
/// every moment.
fn put_in_place(
    disk: &dyn Disk,
    dir: &Path,
    replace: bool,
    image: &Image,
) -> Result<Option<PathBuf>, StoreError> {
    let what = "put the restored key store in place";
    let (aside, path) = (dir.join(NEW_FILE), dir.join(FILE));
    let kept = if replace { Some(keep(disk, dir, &path)?) } else { None };
    let placed = if replace { disk.replace(&aside, &path) } else { disk.rename(&aside, &path) };
    placed.and_then(|()| disk.sync_directory(dir)).map_err(StoreError::io(what))?;
    let placed = file::open(disk, dir)?;
    if file::read(&placed, || path.clone())? != *image {
        return Err(StoreError::damaged("the restored key store did not read back as it was written"));
    }
    Ok(kept)
}

fn keep(disk: &dyn Disk, dir: &Path, path: &Path) -> Result<PathBuf, StoreError> {
    for number in 1..=u32::from(u16::MAX) {
        let kept = dir.join(format!("{FILE}.replaced-{number}"));
        match disk.link(path, &kept) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            linked => {
                linked
                    .and_then(|()| disk.sync_directory(dir))
                    .map_err(StoreError::io("keep the old key store aside"))?;
                return Ok(kept);
            }
        }
    }
    Err(StoreError::Invalid("too many replaced key stores are kept: remove some"))
}
