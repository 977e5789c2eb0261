//! Operations on open files.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use super::directory::Directory;
use super::inode::Inode;
use super::keys::Access;
use super::open_file::{Handle, OpenFile};
use super::privileges::{drop_privileges, drop_set_ids};
use super::unwritten::UnwrittenData;
use super::{Asker, FileKind, Fs, FsError, FsResult, Requester};
use crate::kms::FileAccess;

/// Unsynced directory records beyond which one flush of the whole filesystem is cheaper.
const MANY_RECORDS: usize = 8;

/// What fallocate(2) is asked to do with a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allocate {
    /// Reserve space, growing the file as needed.
    Reserve,
    /// Reserve space, leaving the size (`FALLOC_FL_KEEP_SIZE`).
    ReserveKeepSize,
    /// Make it a hole (`FALLOC_FL_PUNCH_HOLE`).
    PunchHole,
    /// Make it read as zeros, growing the file as needed (`FALLOC_FL_ZERO_RANGE`).
    ZeroRange,
    /// The same, leaving the size.
    ZeroRangeKeepSize,
}

/// What lseek(2) is to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whence {
    /// `SEEK_DATA`.
    Data,
    /// `SEEK_HOLE`.
    Hole,
}

/// The bytes that a request is about.
fn range_of(offset: u64, len: usize) -> Range<u64> {
    offset..offset.saturating_add(len as u64)
}

impl Fs {
    /// Opens a regular file for the mount itself; answers a handle.
    ///
    /// # Errors
    /// As open(2), and those of the file's master key.
    pub fn open(&self, ino: u64, write: bool) -> FsResult<u64> {
        self.open_as(Requester::own(), ino, write, |_| Ok(self.itself()))
    }

    /// Opens a regular file; answers a handle. That modes and ACLs let him is the kernel's concern;
    /// that the key is usable, and by whom, is decided here.
    ///
    /// # Errors
    /// As open(2), and those of the file's master key.
    pub fn open_for(&self, by: Requester, ino: u64, write: bool) -> FsResult<u64> {
        let access = if write { FileAccess::Write } else { FileAccess::Read };
        self.open_as(by, ino, write, |inode| self.asker(by, inode, access))
    }

    fn open_as(
        &self,
        by: Requester,
        ino: u64,
        write: bool,
        asker: impl FnOnce(&Inode) -> FsResult<Asker>,
    ) -> FsResult<u64> {
        if write {
            self.check_writable()?;
        }
        let inode = self.inodes.find(ino)?;
        if inode.kind != FileKind::Regular {
            return Err(FsError::new(libc::EINVAL));
        }
        let asker = asker(&inode)?;
        let open = self.open_file(&inode, write, &asker)?;
        // The keys may have been taken while the file was waiting to be settled.
        if let Err(error) = open.keys(self, Access::Program, &asker) {
            self.close_file(&inode, write);
            return Err(error);
        }
        Ok(self.new_handle(by, inode, open, write, asker))
    }

    /// Reads into `out`; answers the number of bytes, fewer than asked for at the end only.
    ///
    /// # Errors
    /// As read(2); `EIO` for damage, which the log describes.
    pub fn read(&self, fh: u64, offset: u64, out: &mut [u8]) -> FsResult<usize> {
        let handle = self.handle(fh)?;
        if !handle.is_direct() {
            handle.inode.pages.note();
        }
        self.read_through(&handle, offset, out)
    }

    /// As [`Fs::read`], for pages that the kernel keeps.
    ///
    /// # Errors
    /// As [`Fs::read`].
    pub fn read_pages(&self, fh: u64, offset: u64, out: &mut [u8]) -> FsResult<usize> {
        let handle = self.handle(fh)?;
        handle.inode.pages.note();
        if handle.is_direct() {
            handle.open.direct.note_page();
        }
        self.read_through(&handle, offset, out)
    }

    fn read_through(&self, handle: &Handle, offset: u64, out: &mut [u8]) -> FsResult<usize> {
        let lacking = handle.inode.hold_lacking(&range_of(offset, out.len()));
        let read = handle
            .keys(self, Access::Program)
            .and_then(|keys| Ok(handle.open.sealed.read(&keys, offset, out)?));
        let read = read.map(|len| lacking.map_or(len, |lacking| lacking.lay_over(offset, out, len)));
        read.map_err(|error| self.name_damage(&handle.inode, error))
    }

    /// Writes all of `data`. `from_cache` says that the kernel writes back pages; `drop_suid` names a
    /// writer whose privileges do not let him keep the file's set-ID bits.
    ///
    /// # Errors
    /// As write(2); `EIO` for a damaged chunk that is overwritten in part.
    pub fn write(
        &self,
        fh: u64,
        offset: u64,
        data: &[u8],
        from_cache: bool,
        drop_suid: Option<Requester>,
    ) -> FsResult<()> {
        let handle = self.handle(fh)?;
        if from_cache || !handle.is_direct() {
            handle.inode.pages.note();
        }
        let range = range_of(offset, data.len());
        let access = if from_cache { Access::WriteBack } else { Access::Program };
        let direct = if from_cache { None } else { handle.begin_direct_write(range.clone())? };
        let mut lacking = handle.inode.hold_lacking(&range);
        let written = (|| {
            let file = handle.open.for_writing()?;
            let keys = handle.keys(self, access)?;
            if from_cache {
                handle.open.gate.read().count_write_back();
            }
            let write = |part: Range<u64>| {
                let data = &data[(part.start - offset) as usize..(part.end - offset) as usize];
                file.write(&keys, part.start, data, |newest| self.next_epoch(newest))
            };
            match from_cache.then(|| handle.open.direct.without_writes(&range)).flatten() {
                None => write(range.clone()),
                Some(parts) => parts.into_iter().try_for_each(write),
            }
        })();
        if let (Ok(()), Some(lacking)) = (&written, &mut lacking) {
            lacking.settle(range.clone());
        }
        drop(lacking);
        // Else the program knows.
        if let (Err(error), true) = (&written, from_cache) {
            let may_keep = !handle.open.gate().is_cut();
            self.keep(&handle.inode, offset, data, error.errno(), may_keep);
        }
        written.map_err(|error| self.name_damage(&handle.inode, error))?;
        if direct.is_some() {
            self.drop_overtaken_pages(&handle, range)?;
        }
        drop(direct);
        drop_suid.map_or(Ok(()), |by| drop_set_ids(&self.volume.disk, by, &handle.inode))
    }

    /// Makes a file's data durable, and all of its metadata unless `data_only`; and with it the
    /// records of new directories, without which it could not be found again.
    ///
    /// # Errors
    /// As fsync(2).
    pub fn fsync(&self, fh: u64, data_only: bool) -> FsResult<()> {
        let handle = self.handle(fh)?;
        if self.volume.read_only {
            return Ok(());
        }
        self.check_stored(&handle.inode)?;
        handle.open.sealed.sync(data_only)?;
        self.sync_records()
    }

    /// Whether anyone has the handle's file open for writing, so that the kernel may hold pages of it
    /// that it has not passed on.
    pub fn has_writers(&self, fh: u64) -> bool {
        self.handle(fh).is_ok_and(|handle| handle.inode.has_writers())
    }

    /// Makes the kernel pass on what it holds of the handle's file. Waits for writes: not to be
    /// called by a thread that serves them.
    ///
    /// # Errors
    /// When the kernel could not be told, or a write failed.
    pub fn write_back(&self, fh: u64) -> FsResult<()> {
        let ino = self.handle(fh)?.inode.ino;
        let kernel = self.kernel.read().clone();
        Ok(kernel.map_or(Ok(()), |kernel| kernel.invalidate(ino, 0, None))?)
    }

    /// Closes a handle.
    pub fn release(&self, fh: u64) {
        let Some(handle) = self.handles.remove(fh) else { return };
        handle.leave_io_mode();
        self.close_file(&handle.inode, handle.write);
    }

    /// Manipulates the space of a file.
    ///
    /// # Errors
    /// As fallocate(2).
    pub fn fallocate(&self, by: Requester, fh: u64, offset: u64, len: u64, how: Allocate) -> FsResult<()> {
        let handle = self.handle(fh)?;
        let end = offset.checked_add(len).ok_or(FsError::new(libc::EFBIG))?;
        let file = handle.open.for_writing()?;
        let mut lacking = handle.inode.hold_lacking(&(offset..end));
        let keys = handle.keys(self, Access::Program)?;
        let epoch = |newest| self.next_epoch(newest);
        let mut settle = || lacking.as_mut().map_or((), |lacking| lacking.settle(offset..end));
        match how {
            Allocate::PunchHole | Allocate::ZeroRangeKeepSize => {
                file.punch(&keys, offset..end, epoch)?;
                settle();
            }
            Allocate::ZeroRange => {
                file.punch(&keys, offset..end, epoch)?;
                settle();
                file.extend(&keys, end, epoch)?;
            }
            Allocate::Reserve => {
                file.reserve(offset, len)?;
                file.extend(&keys, end, epoch)?;
            }
            Allocate::ReserveKeepSize => file.reserve(offset, len)?,
        }
        drop(keys);
        if by.uid == 0 { Ok(()) } else { drop_privileges(&self.volume.disk, by, &handle.inode) }
    }

    /// Finds data or a hole.
    ///
    /// # Errors
    /// As lseek(2), `ENXIO` when there is none.
    pub fn lseek(&self, fh: u64, offset: u64, whence: Whence) -> FsResult<u64> {
        let handle = self.handle(fh)?;
        if handle.inode.unwritten_if_any().is_some_and(UnwrittenData::keeps) {
            // Not on the disk yet, so all of the file is taken for data.
            let size = handle.open.sealed.size();
            let found = (offset < size).then_some(if whence == Whence::Data { offset } else { size });
            return found.ok_or(FsError::new(libc::ENXIO));
        }
        let found = match whence {
            Whence::Data => handle.open.sealed.seek_data(offset)?,
            Whence::Hole => handle.open.sealed.seek_hole(offset)?,
        };
        found.ok_or(FsError::new(libc::ENXIO))
    }

    /// A number for a handle of a file that [`Fs::open_file`] opened.
    pub(super) fn new_handle(
        &self,
        by: Requester,
        inode: Arc<Inode>,
        open: Arc<OpenFile>,
        write: bool,
        asker: Asker,
    ) -> u64 {
        self.usage.note();
        self.handles.add(Handle { inode, open, write, uid: by.uid, asker, io_mode: OnceLock::new() })
    }

    /// Makes the records of new directories durable.
    pub(super) fn sync_records(&self) -> FsResult<()> {
        let unsynced = std::mem::take(&mut *self.unsynced_records.lock());
        let synced = if unsynced.len() > MANY_RECORDS {
            self.volume.sync().map_err(FsError::from)
        } else {
            unsynced.iter().filter(|inode| inode.links() > 0).try_for_each(|inode| {
                match inode.fd().and_then(|fd| Directory::sync_record(&self.volume, &*fd)) {
                    // Removed meanwhile.
                    Err(e) if e.errno() == libc::ENOENT => Ok(()),
                    synced => synced,
                }
            })
        };
        if synced.is_err() {
            self.unsynced_records.lock().extend(unsynced);
        }
        synced
    }
}
