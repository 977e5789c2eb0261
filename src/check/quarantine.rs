//! Where repairs put what they cannot prove: `kmsfs.lost+found` in the volume's root.
//!
//! Each entry gets a directory of its own, numbered, in which it keeps its backing name, beside a
//! text that says where it was and why it is here. Moving it back by hand undoes the repair. The
//! text names no plaintext: it lies in the ciphertext.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::names::LOST_NAME;
use crate::chunk::Backing;
use crate::fs::disk::{Disk, DiskFile};
use crate::names::{LONG_PREFIX, sidecar_of};

/// The text beside each entry.
const WHY_NAME: &str = "why.txt";

/// The directory of what was put aside.
pub(super) struct Quarantine<'a> {
    disk: &'a Disk,
    root: &'a OwnedFd,
    next: u32,
}

impl<'a> Quarantine<'a> {
    pub(super) fn new(disk: &'a Disk, root: &'a OwnedFd) -> Self {
        Self { disk, root, next: 1 }
    }

    /// Puts an entry aside, the sidecar of its long name with it. Answers where it is now.
    ///
    /// # Errors
    /// When it cannot be moved; it stays then.
    pub(super) fn take(&mut self, backing: &Path, why: &str) -> io::Result<PathBuf> {
        let (parent, name) = split(backing)?;
        let from = open_dir(self.disk, self.root, parent)?;
        let (cell, number) = self.new_cell()?;
        let text = format!(
            "{}\nwas put here by 'kmsfs fsck --repair', because:\n{why}\n\n\
             To put it back, unmount the volume and move it to where it was, together with the file that has\n\
             the same name with '.name' behind it, if there is one here.\n",
            backing.display()
        );
        let note = self.disk.create(&cell, WHY_NAME, OFlags::EXCL, Mode::from(0o600))?;
        note.write_at(text.as_bytes(), 0)?;
        note.sync(false)?;
        if let Err(error) = self.disk.rename((&from, name), (&cell, name), RenameFlags::NOREPLACE) {
            self.disk.unlink(&cell, WHY_NAME)?;
            self.disk.remove_dir(self.root, &format!("{LOST_NAME}/{number:06}"))?;
            return Err(error.into());
        }
        if name.starts_with(LONG_PREFIX) {
            let sidecar = sidecar_of(name);
            match self.disk.rename((&from, &sidecar), (&cell, &sidecar), RenameFlags::NOREPLACE) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Path::new(LOST_NAME).join(format!("{number:06}")).join(name))
    }

    fn new_cell(&mut self) -> io::Result<(DiskFile, u32)> {
        match self.disk.make_dir(self.root, LOST_NAME, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        loop {
            let number = self.next;
            let path = format!("{LOST_NAME}/{number:06}");
            self.next += 1;
            match self.disk.make_dir(self.root, &path, Mode::RWXU) {
                Ok(()) => {
                    let cell = self.disk.open(self.root, &path, OFlags::RDONLY | OFlags::DIRECTORY)?;
                    return Ok((cell, number));
                }
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// The directory of a backing path, and its name there.
pub(super) fn split(backing: &Path) -> io::Result<(&Path, &str)> {
    let name = backing.file_name().and_then(|name| name.to_str());
    let parent = backing.parent();
    parent.zip(name).ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))
}

/// Opens a directory below the root, one step after the other: together they may be longer than a
/// path can be, and no step may be a symbolic link.
pub(super) fn open_dir(disk: &Disk, root: &OwnedFd, path: &Path) -> io::Result<DiskFile> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let mut dir = disk.open(root, ".", flags)?;
    for step in path.iter() {
        let step = step.to_str().ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
        dir = disk.open(&dir, step, flags)?;
    }
    Ok(dir)
}
