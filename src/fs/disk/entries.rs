//! Entries of directories: finding, making, removing and renaming them.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, Dev, Dir, FileType, Mode, OFlags, RenameFlags, Stat};
use rustix::io::{Errno, Result};

use super::{Call, Disk, DiskFile};
use crate::sys;

impl Disk {
    /// Refers to an entry without opening it.
    ///
    /// # Errors
    /// As open(2).
    pub fn find(&self, dir: impl AsFd, name: &str) -> Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        self.call(Call::Open { dir: dir.as_fd(), name }, || {
            rustix::fs::openat(&dir, name, flags, Mode::empty())
        })
    }

    /// Opens a regular file that exists, or with `O_DIRECTORY` a directory. Nothing else is opened:
    /// a FIFO would make the caller wait, and a device node or a symbolic link could lead anywhere.
    ///
    /// # Errors
    /// As open(2); `ENOTDIR` and `EIO` for an entry of another type.
    pub fn open(&self, dir: impl AsFd, name: &str, flags: OFlags) -> Result<DiskFile> {
        let found = self.find(dir, name)?;
        match FileType::from_raw_mode(self.stat(&found)?.st_mode) {
            FileType::Directory if flags.contains(OFlags::DIRECTORY) => self.reopen_file(&found, flags),
            _ if flags.contains(OFlags::DIRECTORY) => Err(Errno::NOTDIR),
            FileType::RegularFile => self.reopen_file(&found, flags),
            _ => Err(Errno::IO),
        }
    }

    /// Opens a regular file for reading and writing, created if it is not there; `flags` may add
    /// `O_EXCL`.
    ///
    /// # Errors
    /// As open(2); `EIO` where there is something else than a regular file.
    pub fn create(&self, dir: impl AsFd, name: &str, flags: OFlags, mode: Mode) -> Result<DiskFile> {
        let exclusive = flags.contains(OFlags::EXCL);
        if !exclusive {
            match self.open(dir.as_fd(), name, OFlags::RDWR | flags) {
                Err(Errno::NOENT) => {}
                opened => return opened,
            }
        }
        // Whoever is faster in between is refused: what is opened here was made here.
        let flags = flags | OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let call = Call::Create { dir: dir.as_fd(), name };
        let created = self.call(call, || rustix::fs::openat(&dir, name, flags, mode));
        Ok(DiskFile::new(self.clone(), created?))
    }

    /// Opens anew what a descriptor refers to, which may be an `O_PATH` one.
    ///
    /// # Errors
    /// As open(2).
    pub fn reopen(&self, file: impl AsFd, flags: OFlags) -> Result<OwnedFd> {
        self.call(Call::Reopen { file: file.as_fd() }, || sys::reopen(&file, flags))
    }

    /// The same, as a file to read and write.
    ///
    /// # Errors
    /// As open(2).
    pub fn reopen_file(&self, file: impl AsFd, flags: OFlags) -> Result<DiskFile> {
        Ok(DiskFile::new(self.clone(), self.reopen(file, flags)?))
    }

    /// Opens a directory for reading its entries.
    ///
    /// # Errors
    /// As open(2).
    pub fn list(&self, dir: impl AsFd) -> Result<Dir> {
        self.call(Call::List { dir: dir.as_fd() }, || {
            Dir::new(sys::reopen(&dir, OFlags::RDONLY | OFlags::DIRECTORY)?)
        })
    }

    /// # Errors
    /// As fstatat(2).
    pub fn stat_at(&self, dir: impl AsFd, name: &str) -> Result<Stat> {
        self.call(Call::StatAt { dir: dir.as_fd(), name }, || {
            rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)
        })
    }

    /// The target of a symbolic link that `file` refers to.
    ///
    /// # Errors
    /// As readlink(2).
    pub fn read_link(&self, file: impl AsFd) -> Result<Vec<u8>> {
        let read = self
            .call(Call::ReadLink { file: file.as_fd() }, || rustix::fs::readlinkat(&file, "", Vec::new()));
        Ok(read?.into_bytes())
    }

    /// # Errors
    /// As mkdir(2).
    pub fn make_dir(&self, dir: impl AsFd, name: &str, mode: Mode) -> Result<()> {
        self.call(Call::MakeDir { dir: dir.as_fd(), name }, || rustix::fs::mkdirat(&dir, name, mode))
    }

    /// # Errors
    /// As mknod(2).
    pub fn make_node(
        &self,
        dir: impl AsFd,
        name: &str,
        kind: FileType,
        mode: Mode,
        device: Dev,
    ) -> Result<()> {
        self.call(Call::MakeNode { dir: dir.as_fd(), name }, || {
            rustix::fs::mknodat(&dir, name, kind, mode, device)
        })
    }

    /// # Errors
    /// As symlink(2).
    pub fn symlink(&self, target: &str, dir: impl AsFd, name: &str) -> Result<()> {
        self.call(Call::Symlink { target, dir: dir.as_fd(), name }, || {
            rustix::fs::symlinkat(target, &dir, name)
        })
    }

    /// Gives what `file` refers to another name.
    ///
    /// # Errors
    /// As link(2).
    pub fn link(&self, file: impl AsFd, dir: impl AsFd, name: &str) -> Result<()> {
        let from = sys::proc_path(&file);
        self.call(Call::Link { file: file.as_fd(), dir: dir.as_fd(), name }, || {
            rustix::fs::linkat(CWD, from, &dir, name, AtFlags::SYMLINK_FOLLOW)
        })
    }

    /// # Errors
    /// As unlink(2).
    pub fn unlink(&self, dir: impl AsFd, name: &str) -> Result<()> {
        self.call(Call::Unlink { dir: dir.as_fd(), name }, || {
            rustix::fs::unlinkat(&dir, name, AtFlags::empty())
        })
    }

    /// # Errors
    /// As rmdir(2).
    pub fn remove_dir(&self, dir: impl AsFd, name: &str) -> Result<()> {
        self.call(Call::RemoveDir { dir: dir.as_fd(), name }, || {
            rustix::fs::unlinkat(&dir, name, AtFlags::REMOVEDIR)
        })
    }

    /// # Errors
    /// As renameat2(2).
    pub fn rename(
        &self,
        (dir, name): (impl AsFd, &str),
        (new_dir, new_name): (impl AsFd, &str),
        flags: RenameFlags,
    ) -> Result<()> {
        let exchange = flags.contains(RenameFlags::EXCHANGE);
        let call = Call::Rename { dir: dir.as_fd(), name, new_dir: new_dir.as_fd(), new_name, exchange };
        self.call(call, || rustix::fs::renameat_with(&dir, name, &new_dir, new_name, flags))
    }
}
