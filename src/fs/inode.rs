//! Inodes that the kernel knows, by number.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard, RwLock};
use rustix::fs::{Mode, OFlags, Stat};

use super::attr::{FileKind, keyless_size};
use super::directory::Directory;
use super::open_file::OpenFile;
use super::volume::Volume;
use super::{FsError, FsResult, ROOT_INO};

/// An inode of the backing filesystem, held so that its number stays its own.
pub(super) struct Inode {
    /// The number that the kernel knows it by.
    pub(super) ino: u64,
    pub(super) kind: FileKind,
    /// Backing device and inode number.
    pub(super) identity: (u64, u64),
    fd: OwnedFd,
    /// Look-ups that the kernel has not forgotten.
    lookups: AtomicU64,
    directory: Mutex<Option<Arc<Directory>>>,
    /// Protects opening, closing and the count of handles of a regular file.
    open: Mutex<Opening>,
}

/// A regular file's open state.
#[derive(Default)]
pub(super) struct Opening {
    /// There while handles are open, and from then until the file is settled.
    pub(super) file: Option<Arc<OpenFile>>,
    pub(super) handles: u64,
}

impl Inode {
    pub(super) fn root(volume: &Volume) -> FsResult<Arc<Self>> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&volume.root, ".", flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&fd)?;
        let root = Self::new(ROOT_INO, FileKind::Directory, fd, &stat);
        *root.directory.lock() = Some(Arc::new(Directory::root(volume)));
        root.lookups.store(1, Ordering::Relaxed);
        Ok(Arc::new(root))
    }

    fn new(ino: u64, kind: FileKind, fd: OwnedFd, stat: &Stat) -> Self {
        Self {
            ino,
            kind,
            identity: (stat.st_dev, stat.st_ino),
            fd,
            lookups: AtomicU64::new(0),
            directory: Mutex::new(None),
            open: Mutex::default(),
        }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The directory that this inode is.
    pub(super) fn directory(&self, volume: &Volume) -> FsResult<Arc<Directory>> {
        if self.kind != FileKind::Directory {
            return Err(FsError::new(libc::ENOTDIR));
        }
        let mut known = self.directory.lock();
        match &*known {
            Some(directory) => Ok(Arc::clone(directory)),
            None => {
                let directory = Arc::new(Directory::open(volume, &self.fd)?);
                *known = Some(Arc::clone(&directory));
                Ok(directory)
            }
        }
    }

    /// Notes the record that was just written for a new directory.
    pub(super) fn set_directory(&self, directory: Directory) {
        *self.directory.lock() = Some(Arc::new(directory));
    }

    /// The open state, locked.
    pub(super) fn opening(&self) -> MutexGuard<'_, Opening> {
        self.open.lock()
    }

    /// Size of a regular file's plaintext, given the length of its backing file.
    pub(super) fn plaintext_size(&self, physical: u64) -> u64 {
        match &self.open.lock().file {
            Some(file) => file.sealed.size(),
            None => keyless_size(physical),
        }
    }

    /// Number of names that the file has.
    pub(super) fn links(&self) -> u64 {
        rustix::fs::fstat(&self.fd).map_or(0, |stat| stat.st_nlink)
    }
}

/// The inodes that the kernel or a handle knows.
pub(super) struct InodeTable {
    root: Arc<Inode>,
    by_ino: RwLock<HashMap<u64, Arc<Inode>>>,
}

impl InodeTable {
    pub(super) fn new(root: Arc<Inode>) -> Self {
        Self { root, by_ino: RwLock::default() }
    }

    pub(super) fn find(&self, ino: u64) -> FsResult<Arc<Inode>> {
        if ino == ROOT_INO {
            return Ok(Arc::clone(&self.root));
        }
        self.by_ino.read().get(&ino).cloned().ok_or(FsError::new(libc::ESTALE))
    }

    /// The inode behind a fresh descriptor, with one look-up more.
    ///
    /// # Errors
    /// `EXDEV` for an inode of another filesystem than the volume's: something is mounted in the
    /// backing directory, and its inode numbers could clash.
    pub(super) fn enter(&self, fd: OwnedFd) -> FsResult<Arc<Inode>> {
        let stat = rustix::fs::fstat(&fd)?;
        let kind = FileKind::of_mode(stat.st_mode).ok_or(FsError::new(libc::EIO))?;
        if stat.st_dev != self.root.identity.0 || stat.st_ino == ROOT_INO {
            return Err(FsError::new(libc::EXDEV));
        }
        let mut table = self.by_ino.write();
        let inode =
            table.entry(stat.st_ino).or_insert_with(|| Arc::new(Inode::new(stat.st_ino, kind, fd, &stat)));
        inode.lookups.fetch_add(1, Ordering::Relaxed);
        Ok(Arc::clone(inode))
    }

    /// Takes look-ups back, and lets go of the inode when none are left and it is not open.
    pub(super) fn forget(&self, ino: u64, lookups: u64) {
        if ino == ROOT_INO {
            return;
        }
        let mut table = self.by_ino.write();
        let Some(inode) = table.get(&ino) else { return };
        let before = inode.lookups.load(Ordering::Relaxed);
        inode.lookups.store(before.saturating_sub(lookups), Ordering::Relaxed);
        if before <= lookups && inode.open.lock().file.is_none() {
            table.remove(&ino);
        }
    }

    /// Every inode known now, the root excepted.
    pub(super) fn all(&self) -> Vec<Arc<Inode>> {
        self.by_ino.read().values().cloned().collect()
    }
}
