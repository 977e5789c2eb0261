//! The files that a key store and its backups are made of, behind a trait: a test puts a disk in
//! its place that fails or that loses what was not synced.

use std::fmt::Debug;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::ops::Bound;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

/// What a key store does with files. Contents are durable after their `sync_data`, names after
/// [`Disk::sync_directory`].
pub trait Disk: Debug + Send + Sync {
    /// Whether there is a file of this name.
    fn exists(&self, path: &Path) -> bool;

    /// A directory that only its owner may enter, durably; nothing if it is there.
    ///
    /// # Errors
    /// As mkdir(2) and fsync(2).
    fn make_directory(&self, path: &Path) -> io::Result<()>;

    /// A new, empty file that only its owner may read and write.
    ///
    /// # Errors
    /// As open(2); `AlreadyExists` if there is one.
    fn create(&self, path: &Path) -> io::Result<Box<dyn StorageBackend>>;

    /// A file that is there, for reading and writing.
    ///
    /// # Errors
    /// As open(2).
    fn open(&self, path: &Path) -> io::Result<Box<dyn StorageBackend>>;

    /// The contents of a file of at most `most` bytes.
    ///
    /// # Errors
    /// As open(2) and read(2); `FileTooLarge`.
    fn read(&self, path: &Path, most: u64) -> io::Result<Vec<u8>>;

    /// The names in a directory, in any order.
    ///
    /// # Errors
    /// As readdir(3).
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Gives a file another name, in place of a file that has it.
    ///
    /// # Errors
    /// As rename(2).
    fn replace(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Gives each of two files the name of the other, in one step.
    ///
    /// # Errors
    /// As renameat2(2); `Unsupported` where the filesystem cannot do it.
    fn exchange(&self, one: &Path, other: &Path) -> io::Result<()>;

    /// Gives a file another name that no file has.
    ///
    /// # Errors
    /// As rename(2); `AlreadyExists`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Gives a file a second name that no file has.
    ///
    /// # Errors
    /// As link(2); `AlreadyExists`.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file; nothing if there is none.
    ///
    /// # Errors
    /// As unlink(2).
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// As fsync(2).
    fn sync_directory(&self, path: &Path) -> io::Result<()>;
}

/// The operating system's files.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemDisk;

impl Disk for SystemDisk {
    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }

    fn make_directory(&self, path: &Path) -> io::Result<()> {
        if path.exists() {
            return Ok(());
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        self.make_directory(parent)?;
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => self.sync_directory(parent),
        }
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn StorageBackend>> {
        backend(OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn StorageBackend>> {
        backend(OpenOptions::new().read(true).write(true).open(path)?)
    }

    fn read(&self, path: &Path, most: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > most { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let names = fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        names.collect()
    }

    fn replace(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn exchange(&self, one: &Path, other: &Path) -> io::Result<()> {
        match rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Err(io::ErrorKind::Unsupported.into()),
            done => Ok(done?),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // Not every filesystem can look and rename in one step.
            Err(Errno::INVAL | Errno::NOSYS) if !to.exists() => fs::rename(from, to),
            Err(Errno::INVAL | Errno::NOSYS) => Err(io::ErrorKind::AlreadyExists.into()),
            done => Ok(done?),
        }
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }
}

fn backend(file: File) -> io::Result<Box<dyn StorageBackend>> {
    Ok(Box::new(FileBackend::new(file).map_err(io::Error::other)?))
}

/// A boxed backend, as the database takes none.
#[derive(Debug)]
pub(super) struct Boxed(pub(super) Box<dyn StorageBackend>);

impl StorageBackend for Boxed {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }
    /// What is cut off is overwritten first: it may be what an old row was in.
    fn set_len(&self, len: u64) -> io::Result<()> {
        let before = self.0.len()?;
        if len < before {
            super::erase::overwrite(&*self.0, len..before)?;
        }
        self.0.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }
    fn close(&self) -> io::Result<()> {
        self.0.close()
    }
    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.try_lock_range(start, end)
    }
    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.try_lock_shared_range(start, end)
    }
    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.lock_range(start, end)
    }
    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.lock_shared_range(start, end)
    }
    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.unlock_range(start, end)
    }
    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.query_lock_range(start, end)
    }
}
