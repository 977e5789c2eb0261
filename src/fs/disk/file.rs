//! Contents of open files.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::{Errno, Result};

use super::{Call, Disk};
use crate::chunk::Backing;

/// An open file of the backing filesystem.
#[derive(Debug)]
pub struct DiskFile {
    disk: Disk,
    fd: OwnedFd,
}

impl DiskFile {
    pub(super) fn new(disk: Disk, fd: OwnedFd) -> Self {
        Self { disk, fd }
    }

    /// A descriptor opened elsewhere.
    pub fn from_fd(disk: &Disk, fd: OwnedFd) -> Self {
        Self::new(disk.clone(), fd)
    }
}

impl AsFd for DiskFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Disk {
    /// Makes a file or directory durable.
    ///
    /// # Errors
    /// As fsync(2).
    pub fn sync(&self, file: impl AsFd) -> Result<()> {
        self.call(Call::Sync { file: file.as_fd(), data_only: false }, || rustix::fs::fsync(&file))
    }

    /// Makes everything in the filesystem that `file` lies in durable.
    ///
    /// # Errors
    /// As syncfs(2).
    pub fn sync_all(&self, file: impl AsFd) -> Result<()> {
        self.call(Call::SyncAll { file: file.as_fd() }, || rustix::fs::syncfs(&file))
    }

    fn portion(&self, len: usize) -> usize {
        self.probe.as_ref().map_or(len, |probe| probe.portion(len).clamp(1, len))
    }
}

impl Backing for DiskFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let call = Call::Read { file: self.as_fd(), offset, len: buffer.len() };
        let read = self.disk.call(call, || {
            let mut done = 0;
            while done < buffer.len() {
                match rustix::io::pread(&self.fd, &mut buffer[done..], offset + done as u64) {
                    Ok(0) => break,
                    Ok(n) => done += n,
                    Err(Errno::INTR) => {}
                    Err(e) => return Err(e),
                }
            }
            Ok(done)
        });
        Ok(read?)
    }

    fn write_at(&self, buffer: &[u8], offset: u64) -> io::Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            let rest = &buffer[done..];
            let data = &rest[..self.disk.portion(rest.len())];
            let at = offset + done as u64;
            let call = Call::Write { file: self.as_fd(), offset: at, data };
            match self.disk.call(call, || rustix::io::pwrite(&self.fd, data, at)) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.disk.stat(self)?.st_size.cast_unsigned())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let call = Call::SetLength { file: self.as_fd(), len };
        Ok(self.disk.call(call, || rustix::fs::ftruncate(&self.fd, len))?)
    }

    fn sync(&self, data_only: bool) -> io::Result<()> {
        let call = Call::Sync { file: self.as_fd(), data_only };
        Ok(self.disk.call(call, || {
            if data_only { rustix::fs::fdatasync(&self.fd) } else { rustix::fs::fsync(&self.fd) }
        })?)
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let call = Call::Punch { file: self.as_fd(), offset, len };
        Ok(self.disk.call(call, || rustix::fs::fallocate(&self.fd, flags, offset, len))?)
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        let call = Call::Allocate { file: self.as_fd(), offset, len };
        let flags = FallocateFlags::KEEP_SIZE;
        Ok(self.disk.call(call, || rustix::fs::fallocate(&self.fd, flags, offset, len))?)
    }

    fn seek_data(&self, offset: u64) -> io::Result<Option<u64>> {
        let call = Call::Seek { file: self.as_fd(), offset };
        match self.disk.call(call, || rustix::fs::seek(&self.fd, SeekFrom::Data(offset))) {
            Ok(at) => Ok(Some(at)),
            Err(Errno::NXIO) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    fn seek_hole(&self, offset: u64) -> io::Result<u64> {
        let call = Call::Seek { file: self.as_fd(), offset };
        match self.disk.call(call, || rustix::fs::seek(&self.fd, SeekFrom::Hole(offset))) {
            Ok(at) => Ok(at),
            Err(Errno::NXIO) => self.length(),
            Err(e) => Err(e.into()),
        }
    }
}
