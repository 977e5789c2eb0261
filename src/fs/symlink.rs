//! Symbolic links.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::disk::DiskFile;
use super::inode::Inode;
use super::{Attr, FileKind, Fs, FsError, FsResult, Requester};
use crate::chunk::Backing;
use crate::crypto::OpenError;
use crate::names::target::{self, Link, MAX_SEALED_LEN, MAX_TARGET_LEN, TARGETS_NAME};

/// Longest target of a backing link in bytes.
const MAX_BACKING_LEN: usize = 4095;

impl Fs {
    /// Creates a symbolic link. Counts a look-up.
    ///
    /// # Errors
    /// As symlink(2).
    pub fn symlink(&self, by: Requester, parent: u64, name: &OsStr, target: &OsStr) -> FsResult<Attr> {
        if target.len() > MAX_TARGET_LEN {
            return Err(FsError::new(libc::ENAMETOOLONG));
        }
        let sealed = target::seal(&self.volume.keys.symlinks, target.as_bytes())?;
        let text = Link::Sealed(sealed.clone()).text();
        if text.len() <= MAX_BACKING_LEN {
            let made = self
                .make_entry(by, parent, name, |_, dir, stored| self.volume.disk.symlink(&text, dir, stored));
            // Some filesystems take less.
            if !matches!(&made, Err(e) if e.errno() == libc::ENAMETOOLONG) {
                return made;
            }
        }
        let link = self.store_target(&sealed)?;
        let text = link.text();
        let made =
            self.make_entry(by, parent, name, |_, dir, stored| self.volume.disk.symlink(&text, dir, stored));
        if made.is_err() {
            self.remove_target(&link);
        }
        made
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// `EINVAL` if it is none, `EIO` if it is damaged.
    pub fn readlink(&self, ino: u64) -> FsResult<Vec<u8>> {
        let inode = self.inodes.find(ino)?;
        self.target_of(&inode).map_err(|error| self.name_damage(&inode, error))
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// As [`Fs::readlink`].
    pub(super) fn target_of(&self, inode: &Inode) -> FsResult<Vec<u8>> {
        let damaged = |why: &dyn std::fmt::Display| FsError::damaged(format!("{}: {why}", inode.path()));
        let sealed = match self.link_of(inode)?.map_err(|e| damaged(&e))? {
            Link::Sealed(sealed) => sealed,
            Link::Stored(name) => match self.read_target(&name) {
                Err(e) if e.errno() == libc::ENOENT => return Err(damaged(&"its stored target is missing")),
                read => read?,
            },
        };
        target::open(&self.volume.keys.symlinks, &sealed).map_err(|e| damaged(&e))
    }

    /// Removes what a symbolic link without any name left has in the directory of targets.
    pub(super) fn free_target(&self, inode: &Arc<Inode>) {
        if inode.kind == FileKind::Symlink
            && inode.links() == 0
            && let Ok(Ok(link)) = self.link_of(inode)
        {
            self.remove_target(&link);
        }
    }

    /// Writes a sealed target into the directory of targets, durably, before the link that needs
    /// it.
    fn store_target(&self, sealed: &[u8]) -> FsResult<Link> {
        let link = Link::new_stored()?;
        let Link::Stored(name) = &link else { return Err(FsError::new(libc::EIO)) };
        let (disk, root) = (&self.volume.disk, &self.volume.root);
        match disk.make_dir(root, TARGETS_NAME, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
        }
        let file = disk.create(self.targets()?, name, OFlags::EXCL, Mode::from(0o600))?;
        let written = file.write_at(sealed, 0).and_then(|()| file.sync(false));
        if let Err(error) = written {
            self.remove_target(&link);
            return Err(error.into());
        }
        Ok(link)
    }

    /// What a backing link says. It can still be read when the link has lost its last name.
    fn link_of(&self, inode: &Inode) -> FsResult<Result<Link, OpenError>> {
        Ok(Link::parse(&self.volume.disk.read_link(&*inode.fd()?)?))
    }

    fn read_target(&self, name: &str) -> FsResult<Vec<u8>> {
        let file = self.volume.disk.open(self.targets()?, name, OFlags::RDONLY)?;
        let mut sealed = vec![0; MAX_SEALED_LEN];
        let len = file.read_at(&mut sealed, 0)?;
        sealed.truncate(len);
        Ok(sealed)
    }

    /// What is left of a removal that was interrupted does no harm.
    fn remove_target(&self, link: &Link) {
        if let (Link::Stored(name), Ok(targets)) = (link, self.targets()) {
            let _ = self.volume.disk.unlink(targets, name);
        }
    }

    /// The directory of targets. Never by way of a symbolic link in its place: that could lead out
    /// of the volume.
    fn targets(&self) -> FsResult<DiskFile> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        match self.volume.disk.open(&self.volume.root, TARGETS_NAME, flags) {
            Err(Errno::NOTDIR) => Err(FsError::damaged(format!("{TARGETS_NAME} is no directory"))),
            opened => Ok(opened?),
        }
    }
}
