//! Finding entries by name.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{Mode, OFlags};

use super::directory::Directory;
use super::inode::Inode;
use super::{Attr, Fs, FsError, FsResult};
use crate::chunk::Backing;
use crate::names::{self, MAX_NAME_LEN, StoredName};

impl Fs {
    /// Finds an entry; counts a look-up of its inode.
    ///
    /// # Errors
    /// `ENOENT`, `ENAMETOOLONG`, and as open(2).
    pub fn lookup(&self, parent: u64, name: &OsStr) -> FsResult<Attr> {
        let parent = self.inodes.find(parent)?;
        let directory = parent.directory(&self.volume)?;
        let stored = seal_name(&directory, name)?;
        let (inode, stat) = self.inodes.enter(&parent, &stored.name)?;
        if self.recover_entry(&directory, &inode, &stat) {
            return self.attr_of(&inode);
        }
        self.attr_from(&inode, &stat)
    }

    /// Takes look-ups of an inode back.
    pub fn forget(&self, ino: u64, lookups: u64) {
        self.inodes.forget(ino, lookups);
    }

    /// Makes an entry, with the sidecar that a long name needs, durably, before it. Where the entry
    /// did not come to be, the sidecar goes again.
    pub(super) fn make_named<T>(
        &self,
        parent: &Inode,
        stored: &StoredName,
        make: impl FnOnce() -> FsResult<T>,
    ) -> FsResult<T> {
        self.write_sidecar(parent, stored)?;
        make().inspect_err(|_| self.remove_spare_sidecar(parent, stored))
    }

    /// Whether an entry is there.
    ///
    /// # Errors
    /// `ENOENT` when it is not; others leave it open.
    pub(super) fn exists(&self, parent: &Inode, stored: &StoredName) -> FsResult<()> {
        self.volume.disk.stat_at(&*parent.fd()?, &stored.name)?;
        Ok(())
    }

    /// Removes the sidecar of a name that is certainly not there.
    pub(super) fn remove_spare_sidecar(&self, parent: &Inode, stored: &StoredName) {
        if stored.sidecar.is_some() && self.exists(parent, stored).is_err_and(|e| e.errno() == libc::ENOENT) {
            self.remove_sidecar(parent, stored);
        }
    }

    /// Writes the sidecar of a long name, durably, before the entry that needs it.
    fn write_sidecar(&self, parent: &Inode, stored: &StoredName) -> FsResult<()> {
        let Some(sidecar) = &stored.sidecar else { return Ok(()) };
        let name = stored.sidecar_name();
        let file = self.volume.disk.create(&*parent.fd()?, &name, OFlags::empty(), Mode::from(0o600))?;
        file.write_at(sidecar, 0)?;
        Ok(file.sync(false)?)
    }

    /// Removes the sidecar of a long name after its entry. What is left of a removal that was
    /// interrupted does no harm.
    pub(super) fn remove_sidecar(&self, parent: &Inode, stored: &StoredName) {
        if stored.sidecar.is_some()
            && let Ok(fd) = parent.fd()
        {
            let _ = self.volume.disk.unlink(&*fd, &stored.sidecar_name());
        }
    }
}

/// Seals a name for looking it up.
pub(super) fn seal_name(directory: &Directory, name: &OsStr) -> FsResult<StoredName> {
    let bytes = name.as_bytes();
    match bytes.len() {
        0 => Err(FsError::new(libc::ENOENT)),
        1..=MAX_NAME_LEN => Ok(names::seal(&directory.names, bytes)),
        _ => Err(FsError::new(libc::ENAMETOOLONG)),
    }
}
