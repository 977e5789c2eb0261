//! Directory records: which id a directory has and which master key new files in it get.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use super::disk::Disk;
use super::error::{FsError, FsResult};
use super::inode::Inode;
use super::sealed_xattr::proves;
use super::volume::Volume;
use crate::chunk::Backing;
use crate::format::head::{Head, Kind};
use crate::format::page::Page;
use crate::format::slot::Wrapped;
use crate::format::state::DirectoryState;
use crate::format::{DIRECTORY_NAME, FormatError, Id, PAGE_LEN, RESERVED_PREFIX};
use crate::names::{self, Entry, LONG_PREFIX, MAX_SIDECAR_LEN, SIDECAR_SUFFIX, sidecar_of};
use crate::secret::Key;
use crate::sync::RwLock;
use crate::sys;

/// Backing attribute that repeats a directory's id.
pub const ID_XATTR: &[u8] = b"user.kmsfs.dir";

/// An open directory.
pub(super) struct Directory {
    /// Its id.
    pub id: Id,
    /// Seals the names in it.
    pub names: Key,
    record: RwLock<Record>,
}

#[derive(Clone)]
struct Record {
    birth: Id,
    sequence: u64,
    state: DirectoryState,
}

impl Directory {
    /// The volume's root, which needs no record: its id is the volume's.
    pub(super) fn root(volume: &Volume) -> Self {
        let record = Record { birth: volume.id, sequence: 0, state: DirectoryState::default() };
        Self { id: volume.id, names: volume.keys.names(volume.id), record: RwLock::new(record) }
    }

    /// Gives a new backing directory its record. It inherits its parent's assignment.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub(super) fn create(volume: &Volume, fd: impl AsFd, parent: &Self) -> FsResult<Self> {
        let record = Record { birth: parent.id, sequence: 1, state: parent.record.read().state.clone() };
        Self::create_with(volume, fd, Id::random()?, record)
    }

    /// Reads a directory's record; one that is lost is rebuilt from what repeats its id.
    ///
    /// # Errors
    /// `EIO` when the record is damaged and cannot be rebuilt.
    pub(super) fn open(volume: &Volume, fd: impl AsFd, parent: Option<&Arc<Inode>>) -> FsResult<Self> {
        match read_record(volume, fd.as_fd()) {
            Ok((id, record)) => Ok(Self { id, names: volume.keys.names(id), record: RwLock::new(record) }),
            Err(ReadError::Lost(why)) => recover(volume, fd.as_fd(), parent, why),
            Err(ReadError::Io(error)) => Err(error),
        }
    }

    /// ARN of the master key assigned here; empty for the volume's default.
    pub(super) fn assigned_key(&self) -> String {
        self.record.read().state.assigned_key.clone()
    }

    /// Assigns a master key by ARN, or none with an empty one, durably.
    ///
    /// # Errors
    /// When the record cannot be written; the old assignment stays.
    pub(super) fn assign_key(&self, volume: &Volume, fd: impl AsFd, arn: &str) -> FsResult<()> {
        let mut record = self.record.write();
        let mut next = record.clone();
        arn.clone_into(&mut next.state.assigned_key);
        next.sequence += 1;
        let page = build(volume, self.id, &next)?;
        let file = volume.disk.open(fd, DIRECTORY_NAME, OFlags::RDWR)?;
        file.write_at(&page, 0)?;
        file.sync(true)?;
        *record = next;
        Ok(())
    }

    /// Makes the record durable.
    ///
    /// # Errors
    /// As fsync(2).
    pub(super) fn sync_record(volume: &Volume, fd: impl AsFd) -> FsResult<()> {
        Ok(volume.disk.open(fd, DIRECTORY_NAME, OFlags::RDONLY)?.sync(false)?)
    }

    /// Writes the record again, after a removal that failed halfway.
    ///
    /// # Errors
    /// As [`Directory::create`].
    pub(super) fn restore_record(&self, volume: &Volume, fd: impl AsFd) -> FsResult<()> {
        write_record(volume, fd.as_fd(), self.id, &self.record.read())
    }

    fn create_with(volume: &Volume, fd: impl AsFd, id: Id, record: Record) -> FsResult<Self> {
        write_record(volume, fd.as_fd(), id, &record)?;
        Ok(Self { id, names: volume.keys.names(id), record: RwLock::new(record) })
    }
}

/// Whether a name in a backing directory is of something that kmsfs itself keeps there, no entry.
pub(super) fn is_own(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    let entry = name.starts_with(LONG_PREFIX.as_bytes()) && !name.ends_with(SIDECAR_SUFFIX.as_bytes());
    name.starts_with(RESERVED_PREFIX.as_bytes()) && !entry
}

/// The names of all entries of a backing directory but `.` and `..`.
///
/// # Errors
/// As getdents(2).
pub(super) fn backing_names(disk: &Disk, fd: impl AsFd) -> FsResult<Vec<String>> {
    let mut names = Vec::new();
    for entry in disk.list(fd)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy();
        if name != "." && name != ".." {
            names.push(name.into_owned());
        }
    }
    Ok(names)
}

enum ReadError {
    /// There is no valid record.
    Lost(FormatError),
    Io(FsError),
}

impl<E: Into<FsError>> From<E> for ReadError {
    fn from(error: E) -> Self {
        Self::Io(error.into())
    }
}

fn read_record(volume: &Volume, fd: impl AsFd) -> Result<(Id, Record), ReadError> {
    let file = match volume.disk.open(fd, DIRECTORY_NAME, OFlags::RDONLY) {
        Err(Errno::NOENT) => return Err(ReadError::Lost(FormatError::Blank)),
        opened => opened?,
    };
    let mut bytes = [0; PAGE_LEN];
    file.read_at(&mut bytes, 0)?;
    let page = match Page::parse(&bytes, Kind::Directory) {
        Err(e @ (FormatError::UnknownVersion(_) | FormatError::UnknownFeatures(_))) => return Err(e.into()),
        parsed => parsed.map_err(ReadError::Lost)?,
    };
    if page.head.volume != volume.id {
        return Err(ReadError::Lost(FormatError::Forged));
    }
    let mut why = FormatError::NoValidSlot;
    for slot in page.slots() {
        match page.open(slot, &volume.keys.directory).and_then(|state| DirectoryState::parse(&state)) {
            Ok(state) => {
                let record = Record { birth: page.head.birth_directory, sequence: slot.sequence, state };
                return Ok((page.head.object, record));
            }
            Err(error) => why = error,
        }
    }
    Err(ReadError::Lost(why))
}

fn write_record(volume: &Volume, fd: impl AsFd, id: Id, record: &Record) -> FsResult<()> {
    let page = build(volume, id, record)?;
    let file = volume.disk.create(fd.as_fd(), DIRECTORY_NAME, OFlags::empty(), Mode::from(0o600))?;
    file.write_at(&page, 0)?;
    // A second copy of the id, where the backing filesystem has attributes.
    let _ = volume.disk.set_xattr(fd, ID_XATTR, &id.0, XattrFlags::empty());
    Ok(())
}

fn build(volume: &Volume, id: Id, record: &Record) -> FsResult<[u8; PAGE_LEN]> {
    let head = Head::new(Kind::Directory, volume.id, id, record.birth);
    let state = record.state.encode()?;
    let none = Wrapped::default();
    Ok(Page::build(
        &head,
        record.sequence,
        &none,
        &volume.keys.commitment,
        None,
        &state,
        &volume.keys.directory,
    )?)
}

/// Finds a lost directory's id among what repeats it: the directory's own attribute and the files
/// that were created in it. Names and attributes prove it, for they open under no other id. A
/// directory with neither needs no old id. What the assignment was is lost: it is the parent's, as
/// for a new directory.
fn recover(
    volume: &Volume,
    fd: impl AsFd,
    parent: Option<&Arc<Inode>>,
    why: FormatError,
) -> FsResult<Directory> {
    let disk = &volume.disk;
    let names = backing_names(disk, fd.as_fd())?;
    let is_entry =
        |name: &String| !matches!(names::open(&volume.keys.directory, OsStr::new(name)), Entry::Reserved);
    let named = |id: Id| {
        let key = volume.keys.names(id);
        names.iter().any(|name| opens(disk, &key, fd.as_fd(), name))
    };
    let candidates = candidates(disk, fd.as_fd(), &names);
    let proven = candidates.into_iter().find(|id| named(*id) || proves(volume, fd.as_fd(), *id));
    let found = match proven {
        None if !names.iter().any(is_entry) => Some(Id::random()?),
        proven => proven,
    };
    let path = sys::path_of(fd.as_fd());
    let Some(id) = found else {
        return Err(FsError::damaged(format!("directory {path}: its record is lost: {why}")));
    };
    tracing::warn!("directory {path}: its record was lost ({why}); rebuilt it");
    let parent = parent.and_then(|parent| parent.directory(volume).ok());
    let (birth, state) = parent.map_or((volume.id, DirectoryState::default()), |parent| {
        (parent.id, parent.record.read().state.clone())
    });
    let record = Record { birth, sequence: 1, state };
    if volume.read_only {
        return Ok(Directory { id, names: volume.keys.names(id), record: RwLock::new(record) });
    }
    Directory::create_with(volume, fd, id, record)
}

/// Whether a backing name, or its sidecar, opens under a directory's key.
fn opens(disk: &Disk, key: &Key, fd: impl AsFd, name: &str) -> bool {
    let name = OsStr::new(name);
    match names::open(key, name) {
        Entry::Name(_) => true,
        Entry::Long => read_sidecar(disk, fd, name).is_ok_and(|s| names::open_sidecar(key, name, &s).is_ok()),
        Entry::Reserved | Entry::Foreign => false,
    }
}

/// The contents of the sidecar of an entry with a long name.
///
/// # Errors
/// As open(2) and read(2).
pub(super) fn read_sidecar(disk: &Disk, fd: impl AsFd, stored: &OsStr) -> FsResult<Vec<u8>> {
    let name = sidecar_of(&stored.to_string_lossy());
    let file = disk.open(fd, &name, OFlags::RDONLY)?;
    let mut sidecar = vec![0; MAX_SIDECAR_LEN];
    let len = file.read_at(&mut sidecar, 0)?;
    sidecar.truncate(len);
    Ok(sidecar)
}

fn candidates(disk: &Disk, fd: impl AsFd, names: &[String]) -> Vec<Id> {
    let mut found = Vec::new();
    let repeated = disk.get_xattr(fd.as_fd(), ID_XATTR).unwrap_or_default();
    if let Ok(id) = repeated.try_into() {
        found.push(Id(id));
    }
    for name in names {
        if let Some(head) = head_of(disk, fd.as_fd(), name)
            && !found.contains(&head.birth_directory)
        {
            found.push(head.birth_directory);
        }
    }
    found
}

/// The head of the file or subdirectory `name`.
fn head_of(disk: &Disk, fd: impl AsFd, name: &str) -> Option<Head> {
    let (file, kind) = match disk.open(&fd, name, OFlags::RDONLY) {
        Ok(file) => (file, Kind::File),
        Err(_) => {
            (disk.open(disk.find(&fd, name).ok()?, DIRECTORY_NAME, OFlags::RDONLY).ok()?, Kind::Directory)
        }
    };
    let mut bytes = [0; PAGE_LEN];
    file.read_at(&mut bytes, 0).ok()?;
    Some(Page::parse(&bytes, kind).ok()?.head)
}
