//! The seam between sealed files and where their bytes lie.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{FallocateFlags, SeekFrom};

use crate::sync::RwLock;

/// A file of ciphertext. Safe to use from many threads; overlapping writes are the caller's to
/// order.
pub trait Backing: Send + Sync {
    /// Reads from `offset` until `buffer` is full or the file ends; returns the bytes read.
    ///
    /// # Errors
    /// As pread(2).
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `buffer` at `offset`.
    ///
    /// # Errors
    /// As pwrite(2); part of the buffer may have been written then.
    fn write_at(&self, buffer: &[u8], offset: u64) -> io::Result<()>;

    /// Length in bytes.
    ///
    /// # Errors
    /// As fstat(2).
    fn length(&self) -> io::Result<u64>;

    /// Cuts the file or extends it with a hole.
    ///
    /// # Errors
    /// As ftruncate(2).
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Makes everything written durable; with `data_only`, metadata only as far as reading the
    /// data back needs it.
    ///
    /// # Errors
    /// As fsync(2).
    fn sync(&self, data_only: bool) -> io::Result<()>;

    /// Turns a range into a hole; the length stays.
    ///
    /// # Errors
    /// As fallocate(2), `EOPNOTSUPP` where the filesystem has no holes.
    fn punch(&self, offset: u64, len: u64) -> io::Result<()>;

    /// Reserves space for a range; contents and length stay.
    ///
    /// # Errors
    /// As fallocate(2).
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()>;

    /// The first offset at or behind `offset` that holds data; `None` when only a hole follows.
    ///
    /// # Errors
    /// As lseek(2).
    fn seek_data(&self, offset: u64) -> io::Result<Option<u64>>;

    /// The first offset at or behind `offset` that lies in a hole or at the end.
    ///
    /// # Errors
    /// As lseek(2).
    fn seek_hole(&self, offset: u64) -> io::Result<u64>;
}

impl Backing for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match FileExt::read_at(self, &mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn write_at(&self, buffer: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(buffer, offset)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        Self::set_len(self, len)
    }

    fn sync(&self, data_only: bool) -> io::Result<()> {
        if data_only { self.sync_data() } else { self.sync_all() }
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(rustix::fs::fallocate(self.as_fd(), flags, offset, len)?)
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        Ok(rustix::fs::fallocate(self.as_fd(), FallocateFlags::KEEP_SIZE, offset, len)?)
    }

    fn seek_data(&self, offset: u64) -> io::Result<Option<u64>> {
        match rustix::fs::seek(self.as_fd(), SeekFrom::Data(offset)) {
            Ok(at) => Ok(Some(at)),
            Err(rustix::io::Errno::NXIO) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    fn seek_hole(&self, offset: u64) -> io::Result<u64> {
        match rustix::fs::seek(self.as_fd(), SeekFrom::Hole(offset)) {
            Ok(at) => Ok(at),
            Err(rustix::io::Errno::NXIO) => Backing::length(self),
            Err(e) => Err(e.into()),
        }
    }
}

/// A backing file in memory, for tests and benchmarks.
#[derive(Debug, Default)]
pub struct Memory(RwLock<Vec<u8>>);

/// Granularity in bytes at which [`Memory`] reports holes.
const MEMORY_PAGE: usize = 4096;

impl Memory {
    /// A copy of the contents.
    pub fn snapshot(&self) -> Vec<u8> {
        self.0.read().clone()
    }

    /// Replaces the contents, as an attacker would.
    pub fn replace(&self, bytes: Vec<u8>) {
        *self.0.write() = bytes;
    }

    fn scan(&self, offset: u64, want_data: bool) -> Option<u64> {
        let bytes = self.0.read();
        let mut at = offset as usize;
        while at < bytes.len() {
            let end = (at / MEMORY_PAGE * MEMORY_PAGE + MEMORY_PAGE).min(bytes.len());
            let page = &bytes[at / MEMORY_PAGE * MEMORY_PAGE..end];
            if page.iter().any(|&b| b != 0) == want_data {
                return Some(at as u64);
            }
            at = end;
        }
        None
    }
}

impl Backing for Memory {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let bytes = self.0.read();
        let available = bytes.get(offset as usize..).unwrap_or_default();
        let len = available.len().min(buffer.len());
        buffer[..len].copy_from_slice(&available[..len]);
        Ok(len)
    }

    fn write_at(&self, buffer: &[u8], offset: u64) -> io::Result<()> {
        let mut bytes = self.0.write();
        let end = offset as usize + buffer.len();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[offset as usize..end].copy_from_slice(buffer);
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.0.read().len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.write().resize(len as usize, 0);
        Ok(())
    }

    fn sync(&self, _data_only: bool) -> io::Result<()> {
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let mut bytes = self.0.write();
        let end = ((offset + len) as usize).min(bytes.len());
        if let Some(range) = bytes.get_mut(offset as usize..end) {
            range.fill(0);
        }
        Ok(())
    }

    fn allocate(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }

    fn seek_data(&self, offset: u64) -> io::Result<Option<u64>> {
        Ok(self.scan(offset, true))
    }

    fn seek_hole(&self, offset: u64) -> io::Result<u64> {
        Ok(self.scan(offset, false).unwrap_or(self.0.read().len() as u64))
    }
}
