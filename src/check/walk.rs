//! The walk over the backing tree: every entry once, what is a regular file handed to others.
//!
//! It holds one descriptor for each directory on the way to where it is, and the names of the
//! subdirectories that are still to come.

use std::ffi::OsString;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::mpsc::SyncSender;

use rustix::fs::{FileType, OFlags, Stat};

use super::directory::{self, Known};
use super::file::Job;
use super::finding::Finding;
use super::links;
use super::names::{self, Form, LOST_NAME, form};
use super::repair::Remedy;
use super::report::Place;
use super::scene::Scene;
use crate::fs::disk::DiskFile;
use crate::names::target::TARGETS_NAME;

/// A directory on the way.
struct Level {
    dir: DiskFile,
    /// Subdirectories that are still to come.
    pending: Vec<(String, Place, u64)>,
}

struct Walk<'a> {
    scene: &'a Scene<'a>,
    files: SyncSender<Job>,
    device: u64,
}

/// Walks over everything. Breaks off when a signal came.
pub(super) fn walk(scene: &Scene<'_>, files: SyncSender<Job>) -> ControlFlow<()> {
    let top = Place { backing: PathBuf::new(), path: scene.keyed.map(|_| PathBuf::from("/")) };
    let Ok(root) = scene.open(scene.root, ".", OFlags::DIRECTORY) else {
        scene.ledger.lock().report.out_of_reach.push((top, libc::EACCES));
        return ControlFlow::Continue(());
    };
    let Ok(stat) = scene.disk.stat(&root) else { return ControlFlow::Continue(()) };
    let walk = Walk { scene, files, device: stat.st_dev };
    let mut levels = vec![walk.enter(root, &top, stat.st_ino)?];
    while let Some(level) = levels.last_mut() {
        let Some((name, place, ino)) = level.pending.pop() else {
            levels.pop();
            continue;
        };
        match scene.open(&level.dir, &name, OFlags::DIRECTORY) {
            Ok(dir) => {
                let next = walk.enter(dir, &place, ino)?;
                levels.push(next);
            }
            Err(error) => {
                scene.not_readable(&place, &error.into());
                scene.ledger.lock().incomplete = true;
            }
        }
    }
    walk.note_links_of_lost();
    if let Ok(targets) = scene.open(scene.root, TARGETS_NAME, OFlags::DIRECTORY) {
        links::check_targets(scene, &targets);
    }
    ControlFlow::Continue(())
}

impl Walk<'_> {
    /// Checks a directory and all of its entries but those below its subdirectories.
    fn enter(&self, dir: DiskFile, place: &Place, ino: u64) -> ControlFlow<(), Level> {
        self.scene.progress.entry();
        let known = directory::check(self.scene, &dir, place, ino);
        let mut pending = Vec::new();
        let entries = match self.scene.disk.list(&dir) {
            Ok(entries) => entries,
            Err(error) => {
                self.cannot_list(place, error);
                return ControlFlow::Continue(Level { dir, pending });
            }
        };
        for entry in entries {
            if self.scene.is_stopped() {
                return ControlFlow::Break(());
            }
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    self.cannot_list(place, error);
                    break;
                }
            };
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            match std::str::from_utf8(name) {
                Ok(name) => pending.extend(self.entry(&dir, place, name, known.as_ref())),
                Err(_) => {
                    let name = String::from_utf8_lossy(name).into_owned();
                    self.scene.found(&self.below(place, &name, None), Finding::Foreign, None);
                }
            }
        }
        ControlFlow::Continue(Level { dir, pending })
    }

    fn cannot_list(&self, place: &Place, error: rustix::io::Errno) {
        self.scene.found(place, Finding::Unlistable(error.raw_os_error()), None);
        self.scene.ledger.lock().incomplete = true;
    }

    fn below(&self, parent: &Place, stored: &str, name: Option<OsString>) -> Place {
        let path = parent.path.as_ref().zip(name).map(|(parent, name)| parent.join(name));
        Place { backing: parent.backing.join(stored), path }
    }

    /// Checks one entry; answers it if it is a subdirectory.
    fn entry(
        &self,
        dir: &DiskFile,
        parent: &Place,
        stored: &str,
        known: Option<&Known>,
    ) -> Option<(String, Place, u64)> {
        let scene = self.scene;
        let bare = self.below(parent, stored, None);
        let found = form(stored, parent.backing.as_os_str().is_empty());
        match found {
            Form::Sealed | Form::Long => {}
            Form::Foreign => {
                scene.found(&bare, Finding::Foreign, None);
                return None;
            }
            Form::Leftover => {
                scene.found(&bare, Finding::Leftover, Remedy::Remove);
                return None;
            }
            Form::Sidecar => {
                names::check_sidecar(scene, dir, &bare, stored);
                return None;
            }
            Form::Own | Form::Targets | Form::Lost => {
                self.check_type_of_own(dir, &bare, stored, found);
                return None;
            }
        }
        let stat = match scene.disk.stat_at(dir, stored) {
            Ok(stat) => stat,
            Err(error) => {
                scene.not_readable(&bare, &error.into());
                return None;
            }
        };
        let name = names::check(scene, dir, &bare, stored, known.map(|known| &known.names));
        let place = self.below(parent, stored, name);
        if stat.st_dev != self.device {
            scene.found(&place, Finding::OtherFilesystem, None);
            return None;
        }
        self.object(dir, stored, place, stat)
    }

    /// Checks what lies under a name; answers it if it is a directory.
    fn object(&self, dir: &DiskFile, stored: &str, place: Place, stat: Stat) -> Option<(String, Place, u64)> {
        let scene = self.scene;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            return Some((stored.to_owned(), place, stat.st_ino));
        }
        scene.progress.entry();
        if stat.st_nlink > 1 && scene.is_known(stat.st_ino) {
            return None;
        }
        match kind {
            FileType::RegularFile => match scene.open(dir, stored, OFlags::empty()) {
                // Nobody is left to take it only when a signal came.
                Ok(file) => drop(self.files.send(Job { place, file, stat })),
                Err(error) => scene.not_readable(&place, &error.into()),
            },
            FileType::Symlink => {
                scene.ledger.lock().report.counts.links += 1;
                match scene.disk.find(dir, stored) {
                    Ok(link) => links::check(scene, &place, link, &stat),
                    Err(error) => scene.not_readable(&place, &error.into()),
                }
            }
            _ => scene.ledger.lock().report.counts.others += 1,
        }
        None
    }

    fn check_type_of_own(&self, dir: &DiskFile, place: &Place, stored: &str, form: Form) {
        let expected = if form == Form::Own { FileType::RegularFile } else { FileType::Directory };
        let found = self.scene.disk.stat_at(dir, stored);
        if found.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) != expected) {
            self.scene.found(place, Finding::WrongType, None);
        }
    }

    /// Links that a repair has put aside keep their targets, or they could not be put back.
    fn note_links_of_lost(&self) {
        let scene = self.scene;
        let Ok(lost) = scene.open(scene.root, LOST_NAME, OFlags::DIRECTORY) else { return };
        let whole = everything_below(scene, lost, |dir, name, stat| {
            if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink
                && let Ok(link) = scene.disk.find(dir, name)
            {
                links::note(scene, link, stat);
            }
        });
        scene.ledger.lock().incomplete |= !whole;
    }
}

/// Visits every entry below a directory, with the directory that it is in. Answers whether all
/// could be reached.
pub(super) fn everything_below(
    scene: &Scene<'_>,
    top: DiskFile,
    mut visit: impl FnMut(&DiskFile, &str, &Stat),
) -> bool {
    let mut whole = true;
    let mut list = |dir: &DiskFile, whole: &mut bool| {
        let mut directories = Vec::new();
        let Ok(entries) = scene.disk.list(dir) else {
            *whole = false;
            return directories;
        };
        for entry in entries.filter_map(Result::ok) {
            let Ok(name) = entry.file_name().to_str() else { continue };
            let Ok(stat) = scene.disk.stat_at(dir, name) else { continue };
            if name == "." || name == ".." || scene.is_stopped() {
                continue;
            }
            visit(dir, name, &stat);
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                directories.push(name.to_owned());
            }
        }
        directories
    };
    let first = list(&top, &mut whole);
    let mut levels = vec![(top, first)];
    while let Some((dir, pending)) = levels.last_mut() {
        let Some(name) = pending.pop() else {
            levels.pop();
            continue;
        };
        match scene.open(&*dir, &name, OFlags::DIRECTORY) {
            Ok(below) => {
                let next = list(&below, &mut whole);
                levels.push((below, next));
            }
            Err(_) => whole = false,
        }
    }
    whole
}
