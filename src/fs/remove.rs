//! Removing and renaming entries.

use std::ffi::OsStr;
use std::sync::Arc;

use rustix::fs::{OFlags, RenameFlags};

use super::directory::{Directory, backing_names};
use super::disk::DiskFile;
use super::inode::{Inode, Opening};
use super::lookup::seal_name;
use super::{FileKind, Fs, FsError, FsResult};
use crate::format::{DIRECTORY_NAME, RESERVED_PREFIX};
use crate::names::{LONG_PREFIX, SIDECAR_SUFFIX, StoredName};

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
        let removed = self.pin(&parent, &stored)?;
        self.volume.disk.unlink(&*parent.fd()?, &stored.name)?;
        self.remove_sidecar(&parent, &stored);
        self.free_if_gone(removed.as_ref());
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
        self.pin(&parent, &stored)?;
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
        let moved = self.inodes.known(&from, &source.name)?;
        let replaced = self.inodes.known(&to, &target.name)?;
        if let (RenameMode::Replace, Some(replaced)) = (mode, &replaced) {
            replaced.pin()?;
        }
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
    fn pin(&self, parent: &Inode, stored: &StoredName) -> FsResult<Option<Arc<Inode>>> {
        let known = self.inodes.known(parent, &stored.name)?;
        known.iter().try_for_each(|inode| inode.pin())?;
        Ok(known)
    }

    /// Frees the space of an inode that has lost its last name and that nobody has open: it does not
    /// have to be settled any more.
    fn free_if_gone(&self, inode: Option<&Arc<Inode>>) {
        let Some(inode) = inode else { return };
        self.free_target(inode);
        let is_idle = |opening: &Opening| opening.file.is_some() && opening.handles == 0;
        let idle = is_idle(&inode.opening());
        if idle && inode.links() == 0 {
            // Without the file's lock held, which the settler takes after its own.
            self.settler.remove(inode.ino);
            let opening = inode.opening();
            if is_idle(&opening) {
                self.let_go(inode, opening);
            }
        }
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
        let is_own = |name: &OsStr| {
            let name = name.as_encoded_bytes();
            let entry =
                name.starts_with(LONG_PREFIX.as_bytes()) && !name.ends_with(SIDECAR_SUFFIX.as_bytes());
            name.starts_with(RESERVED_PREFIX.as_bytes()) && !entry
        };
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

/// A directory whose record was taken away, and the record.
struct Emptied {
    fd: DiskFile,
    directory: Directory,
}
