//! The index of the volume's files: whether it says what the headers say, and making it anew.

use std::collections::HashSet;
use std::io;
use std::os::fd::AsFd;

use rustix::fs::{FileType, OFlags};

use super::file::read_page;
use super::finding::Finding;
use super::names::{Form, form};
use super::page::{self, PageBytes};
use super::repair::Remedy;
use super::report::Place;
use super::scene::Scene;
use crate::format::head::Kind;
use crate::format::index::INDEX_NAME;
use crate::format::layout::Layout;
use crate::fs::disk::{Disk, DiskFile};
use crate::fs::{Counts, Volume, Wrapping};

/// Compares the index with the headers, which were all looked at. What else was found explains a
/// difference.
pub(super) fn check(scene: &Scene<'_>) {
    let Some(keyed) = scene.keyed else { return };
    let place = Place { backing: INDEX_NAME.into(), path: None };
    let kept = keyed.volume.kept_counts();
    let ledger = scene.ledger.lock();
    let whole = !ledger.incomplete && ledger.report.out_of_reach.is_empty() && !scene.is_stopped();
    let explained = !ledger.report.findings.is_empty();
    let differs = matches!(&kept, Ok(Some(counts)) if *counts != ledger.counts);
    drop(ledger);
    match kept {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            scene.found(&place, Finding::IndexDamaged, Remedy::Index);
        }
        Err(error) => scene.not_readable(&place, &error),
        Ok(_) if whole && differs && !explained => scene.found(&place, Finding::IndexDiffers, Remedy::Index),
        Ok(_) => {}
    }
}

/// Counts a file by its first page.
pub(super) fn count(counts: &mut Counts, page: &PageBytes, length: i64) {
    let slot = page::candidates(page, Kind::File).ok().and_then(|mut found| {
        let first = found.drain(..).next()?;
        first.page.slots().first().cloned()
    });
    let wrapping = slot.map_or_else(Wrapping::unreadable, |slot| Wrapping {
        key_arn: slot.wrapped.key_arn,
        key_version: slot.wrapped.key_version,
    });
    let count = counts.entry(wrapping).or_default();
    count.files += 1;
    count.bytes += Layout::default().nearest_size(length.cast_unsigned());
}

/// Makes the index anew from the headers; answers what is in it.
///
/// # Errors
/// When a directory or a file cannot be read, or the index not be written.
pub(super) fn rebuild(volume: &Volume) -> io::Result<Counts> {
    let mut counts = Counts::new();
    let mut linked = HashSet::new();
    let disk = &volume.disk;
    let top = disk.open(&volume.root, ".", OFlags::RDONLY | OFlags::DIRECTORY)?;
    let mut levels = vec![(list(disk, &top)?, top)];
    while let Some((names, dir)) = levels.last_mut() {
        let Some(name) = names.pop() else {
            levels.pop();
            continue;
        };
        if !matches!(form(&name, false), Form::Sealed | Form::Long) {
            continue;
        }
        let stat = disk.stat_at(&*dir, &name)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let below = disk.open(&*dir, &name, OFlags::RDONLY | OFlags::DIRECTORY)?;
                levels.push((list(disk, &below)?, below));
            }
            FileType::RegularFile if stat.st_nlink == 1 || linked.insert(stat.st_ino) => {
                let file = disk.open(&*dir, &name, OFlags::RDONLY | OFlags::NONBLOCK)?;
                count(&mut counts, &read_page(&file)?, stat.st_size);
            }
            _ => {}
        }
    }
    volume.keep_counts(&counts)?;
    Ok(counts)
}

fn list(disk: &Disk, dir: &DiskFile) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in disk.list(dir.as_fd())? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}
