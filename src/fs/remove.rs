//! Removing and renaming entries.

use std::ffi::OsStr;
use std::sync::Arc;

use rustix::fs::{OFlags, RenameFlags};

use super::attr::keyless_size;
use super::directory::{Directory, backing_names, is_own};
use super::disk::DiskFile;
use super::inode::{Inode, Opening};
use super::lookup::seal_name;
use super::{FileKind, Fs, FsError, FsResult, Wrapping};
use crate::format::DIRECTORY_NAME;
use crate::names::StoredName;

/// What rename(2) does about a target that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenameMode {
    /// Replaces it.
    Replace,
    /// Fails with `EEXIST` (`RENAME_NOREPLACE`).
    NoReplace,
    /// Swaps the two (`RENAME_EXCHANGE`).
    Exchange,
}

impl Fs {
    /// Removes a name of anything but a directory.
    ///
    /// # Errors
    /// As unlink(2).
    pub fn unlink(&self, parent: u64, name: &OsStr) -> FsResult<()> {
        self.check_writable()?;
        let parent = self.inodes.find(parent)?;
        let stored = seal_name(&*parent.directory(&self.volume)?, name)?;
        let _changing = self.changing.read();
        let removed = self.pin(&parent, &stored)?;
        self.volume.disk.unlink(&*parent.fd()?, &stored.name)?;
        self.remove_sidecar(&parent, &stored);
        self.free_if_gone(removed.inode());
        Ok(())
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// As rmdir(2).
    pub fn rmdir(&self, parent: u64, name: &OsStr) -> FsResult<()> {
        self.check_writable()?;
        let parent = self.inodes.find(parent)?;
        let stored = seal_name(&*parent.directory(&self.volume)?, name)?;
        let _removed = self.pin(&parent, &stored)?;
        let emptied = self.empty_directory(&parent, &stored)?;
        if let Err(error) = self.volume.disk.remove_dir(&*parent.fd()?, &stored.name) {
            self.refill_directory(Some(emptied));
            return Err(error.into());
        }
        self.remove_sidecar(&parent, &stored);
        Ok(())
    }

    /// Renames an entry. Its key stays with it.
    ///
    /// # Errors
    /// As renameat2(2).
    pub fn rename(
        &self,
        parent: u64,
        name: &OsStr,
        new_parent: u64,
        new_name: &OsStr,
        mode: RenameMode,
    ) -> FsResult<()> {
        self.check_writable()?;
        let (from, to) = (self.inodes.find(parent)?, self.inodes.find(new_parent)?);
        let source = seal_name(&*from.directory(&self.volume)?, name)?;
        let target = seal_name(&*to.directory(&self.volume)?, new_name)?;
        if source.name == target.name && Arc::ptr_eq(&from, &to) {
            // Both names are the same entry; only its absence or NOREPLACE makes a difference.
            self.exists(&from, &source)?;
            let refused = mode == RenameMode::NoReplace;
            return if refused { Err(FsError::new(libc::EEXIST)) } else { Ok(()) };
        }
        let _changing = self.changing.read();
        self.count_before_move(&from, &source.name);
        if mode == RenameMode::Exchange {
            self.count_before_move(&to, &target.name);
        }
        let moved = self.inodes.known(&from, &source.name)?;
        let pinned = match mode {
            RenameMode::Replace => Some(self.pin(&to, &target)?),
            _ => None,
        };
        let replaced = match &pinned {
            Some(pinned) => pinned.inode().cloned(),
            None => self.inodes.known(&to, &target.name)?,
        };
        let rename = || self.rename_entry(&from, &source, &to, &target, mode);
        self.make_named(&to, &target, || match mode {
            // Both names are targets, and either may be missing.
            RenameMode::Exchange => self.make_named(&from, &source, rename),
            _ => rename(),
        })?;
        if let Some(moved) = moved {
            moved.set_place(&to, &target.name);
        }
        if mode != RenameMode::Exchange {
            // Two names of one file both stay.
            self.remove_spare_sidecar(&from, &source);
        } else if let Some(replaced) = &replaced {
            replaced.set_place(&from, &source.name);
        }
        if mode == RenameMode::Replace {
            self.free_if_gone(replaced.as_ref());
        }
        Ok(())
    }

    /// Renames in the ciphertext directory, where the sidecars are the caller's matter.
    fn rename_entry(
        &self,
        from: &Inode,
        source: &StoredName,
        to: &Arc<Inode>,
        target: &StoredName,
        mode: RenameMode,
    ) -> FsResult<()> {
        let (flags, emptied) = match mode {
            RenameMode::Replace => (RenameFlags::empty(), self.make_way(from, source, to, target)?),
            RenameMode::NoReplace => (RenameFlags::NOREPLACE, None),
            RenameMode::Exchange => (RenameFlags::EXCHANGE, None),
        };
        let (old, new) = (from.fd()?, to.fd()?);
        let renamed = self.volume.disk.rename((&*old, &source.name), (&*new, &target.name), flags);
        Ok(renamed.inspect_err(|_| self.refill_directory(emptied))?)
    }

    /// Keeps the inode behind an entry usable for those who have it open when the entry is gone.
    fn pin(&self, parent: &Arc<Inode>, stored: &StoredName) -> FsResult<Pinned<'_>> {
        let (inode, lookups) = match self.inodes.known(parent, &stored.name)? {
            Some(known) => (Some(known), 0),
            // The kernel looks an entry up before it removes it; others need not.
            None => (self.inodes.enter(parent, &stored.name).ok().map(|(inode, _)| inode), 1),
        };
        inode.iter().try_for_each(|inode| inode.pin())?;
        Ok(Pinned { fs: self, inode, lookups })
    }

    /// What is to be done when an inode has lost a name. If it was the last one and nobody has it open,
    /// its space is freed, it does not have to be settled any more, and it counts no more.
    pub(super) fn free_if_gone(&self, inode: Option<&Arc<Inode>>) {
        let Some(inode) = inode else { return };
        self.free_target(inode);
        if inode.kind != FileKind::Regular {
            return;
        }
        let Ok(stat) = inode.fd().and_then(|fd| Ok(self.volume.disk.stat(&*fd)?)) else {
            return self.index.lose(&"a removed file could not be looked at");
        };
        if stat.st_nlink > 0 {
            return;
        }
        let is_idle = |opening: &Opening| opening.file.is_some() && opening.handles == 0;
        let mut opening = inode.opening();
        let known = std::mem::replace(&mut opening.gone, true);
        if opening.file.is_none() && !known {
            self.uncount(inode, &mut opening, keyless_size(stat.st_size.cast_unsigned()));
        } else if is_idle(&opening) {
            // Without the file's lock held, which the settler takes after its own.
            drop(opening);
            self.settler.remove(inode.ino);
            let opening = inode.opening();
            if is_idle(&opening) {
                self.let_go(inode, opening, false);
            }
            return;
        }
        drop(opening);
        if self.unsettled.remove(inode.ino) {
            self.forget(inode.ino, 1);
        }
    }

    /// Counts a file no more that nobody had open. Its header is still there to be read.
    fn uncount(&self, inode: &Inode, opening: &mut Opening, bytes: u64) {
        if !self.index.has(inode.ino) {
            return;
        }
        // Held against a re-wrapping of this very file: `opening` is its lock.
        let wrapping = self.index.sole().or_else(|| self.wrapping_of(inode, opening));
        let wrapping = wrapping.unwrap_or_else(|| self.index.share(Wrapping::unreadable()));
        self.index.remove(inode.ino, &wrapping, bytes);
    }

    /// When a directory is to replace an empty one, which the backing filesystem does not take for
    /// empty because of its record: empties it.
    fn make_way(
        &self,
        from: &Inode,
        source: &StoredName,
        to: &Arc<Inode>,
        target: &StoredName,
    ) -> FsResult<Option<Emptied>> {
        let kind = |parent: &Inode, stored: &StoredName| {
            let stat = self.volume.disk.stat_at(&*parent.fd().ok()?, &stored.name);
            FileKind::of_mode(stat.ok()?.st_mode)
        };
        let directory = Some(FileKind::Directory);
        if kind(from, source) == directory && kind(to, target) == directory {
            return self.empty_directory(to, target).map(Some);
        }
        Ok(None)
    }

    /// Removes what kmsfs itself keeps in a directory, if there is nothing else.
    fn empty_directory(&self, parent: &Arc<Inode>, stored: &StoredName) -> FsResult<Emptied> {
        let disk = &self.volume.disk;
        let fd = disk.open(&*parent.fd()?, &stored.name, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let names = backing_names(disk, &fd)?;
        if !names.iter().all(|name| is_own(OsStr::new(name))) {
            return Err(FsError::new(libc::ENOTEMPTY));
        }
        let directory = Directory::open(&self.volume, &fd, Some(parent))?;
        for name in names.iter().filter(|name| *name != DIRECTORY_NAME) {
            disk.unlink(&fd, name)?;
        }
        disk.unlink(&fd, DIRECTORY_NAME)?;
        Ok(Emptied { fd, directory })
    }

    /// Gives a directory its record back that was not removed after all.
    fn refill_directory(&self, emptied: Option<Emptied>) {
        let Some(Emptied { fd, directory }) = emptied else { return };
        if let Err(error) = directory.restore_record(&self.volume, &fd) {
            tracing::error!("directory {}: {error}", crate::sys::path_of(&fd));
        }
    }
}

/// An inode that can be used when its name is gone.
struct Pinned<'a> {
    fs: &'a Fs,
    inode: Option<Arc<Inode>>,
    /// Look-ups to take back.
    lookups: u64,
}

impl Pinned<'_> {
    fn inode(&self) -> Option<&Arc<Inode>> {
        self.inode.as_ref()
    }
}

impl Drop for Pinned<'_> {
    fn drop(&mut self) {
        if let Some(inode) = self.inode.as_ref().filter(|_| self.lookups > 0) {
            self.fs.forget(inode.ino, self.lookups);
        }
    }
}

/// A directory whose record was taken away, and the record.
struct Emptied {
    fd: DiskFile,
    directory: Directory,
}
