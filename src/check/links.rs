//! Symbolic links and the targets that are stored apart from them, both ways.

use std::os::fd::AsFd;

use rustix::fs::{OFlags, Stat};
use rustix::io::Errno;

use super::finding::Finding;
use super::repair::Remedy;
use super::report::Place;
use super::scene::Scene;
use crate::chunk::Backing;
use crate::crypto::{NONCE_LEN, TAG_LEN};
use crate::fs::disk::DiskFile;
use crate::names::target::{self, Link, MAX_SEALED_LEN, TARGETS_NAME};

/// Targets are padded to a multiple of this.
const PAD: usize = 16;
/// Length of a stored target's name: an id in hexadecimal digits.
const STORED_NAME_LEN: usize = 32;

/// Checks a symbolic link and what is stored for it.
pub(super) fn check(scene: &Scene<'_>, place: &Place, link: impl AsFd, stat: &Stat) {
    let text = match scene.disk.read_link(link) {
        Ok(text) => text,
        Err(error) => return scene.not_readable(place, &error.into()),
    };
    let sealed = match Link::parse(&text) {
        Ok(Link::Sealed(sealed)) => sealed,
        Ok(Link::Stored(name)) => {
            let owner = *scene.ledger.lock().targets.entry(name.clone()).or_insert(stat.st_ino);
            if owner != stat.st_ino {
                scene.found(place, Finding::TargetShared, None);
            }
            match read_target(scene, &name) {
                Ok(sealed) => sealed,
                Err(Errno::NOENT) => return scene.found(place, Finding::TargetMissing, Remedy::Quarantine),
                Err(error) => return scene.not_readable(place, &error.into()),
            }
        }
        Err(_) => return scene.found(place, Finding::LinkForged, Remedy::Quarantine),
    };
    let padded = sealed.len().saturating_sub(NONCE_LEN + TAG_LEN);
    let well_formed = padded > 0 && padded.is_multiple_of(PAD) && sealed.len() <= MAX_SEALED_LEN;
    let opens = scene.keyed.is_none_or(|k| target::open(&k.volume.keys.symlinks, &sealed).is_ok());
    if !well_formed || !opens {
        scene.found(place, Finding::LinkForged, Remedy::Quarantine);
    }
}

/// Notes the stored target of a link that is not looked at otherwise, as one that a repair has put
/// aside: it is still needed.
pub(super) fn note(scene: &Scene<'_>, link: impl AsFd, stat: &Stat) {
    if let Ok(text) = scene.disk.read_link(link)
        && let Ok(Link::Stored(name)) = Link::parse(&text)
    {
        scene.ledger.lock().targets.entry(name).or_insert(stat.st_ino);
    }
}

/// Looks for stored targets that no link has. Every link has been met before, unless the walk was
/// not complete: then nothing can be said.
pub(super) fn check_targets(scene: &Scene<'_>, targets: &DiskFile) {
    let place = Place { backing: TARGETS_NAME.into(), path: None };
    let entries = match scene.disk.list(targets) {
        Ok(entries) => entries,
        Err(error) => return scene.not_readable(&place, &error.into()),
    };
    for entry in entries {
        let Ok(entry) = entry else { return };
        let name = entry.file_name().to_string_lossy().into_owned();
        let place = Place { backing: place.backing.join(&name), path: None };
        let is_digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if name == "." || name == ".." {
            continue;
        }
        if name.len() != STORED_NAME_LEN || !name.bytes().all(is_digit) {
            scene.found(&place, Finding::Foreign, None);
            continue;
        }
        let ledger = scene.ledger.lock();
        let orphaned = !ledger.incomplete && !ledger.targets.contains_key(&name);
        drop(ledger);
        if orphaned {
            scene.found(&place, Finding::TargetOrphaned, Remedy::Remove);
        }
    }
}

/// Longer ones are cut: one byte too many is enough to be refused.
fn read_target(scene: &Scene<'_>, name: &str) -> rustix::io::Result<Vec<u8>> {
    let file = scene.open(scene.root, &format!("{TARGETS_NAME}/{name}"), OFlags::empty())?;
    let mut sealed = vec![0; MAX_SEALED_LEN + 1];
    let read = file.read_at(&mut sealed, 0);
    let len = read.map_err(|e| e.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error))?;
    sealed.truncate(len);
    Ok(sealed)
}
