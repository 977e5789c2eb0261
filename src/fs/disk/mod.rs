//! Every call to the backing filesystem.
//!
//! The rest of the filesystem reaches what lies on disk through [`Disk`] alone, so that all of it
//! can be watched and made to fail: a [`Probe`] sees each call before and after. What a crash can
//! leave, and what a failing disk can do, is tested with one.

mod attributes;
mod entries;
mod file;

use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use rustix::io::Result;

pub use file::DiskFile;

/// A call to the backing filesystem. Descriptors name inodes: `dir` the directory in which `name`
/// is looked up, `file` what the call is about.
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "each is the system call of its name, and so are its fields")]
pub enum Call<'a> {
    Open { dir: BorrowedFd<'a>, name: &'a str },
    Reopen { file: BorrowedFd<'a> },
    Stat { file: BorrowedFd<'a> },
    StatAt { dir: BorrowedFd<'a>, name: &'a str },
    List { dir: BorrowedFd<'a> },
    ReadLink { file: BorrowedFd<'a> },
    GetXattr { file: BorrowedFd<'a> },
    Read { file: BorrowedFd<'a>, offset: u64, len: usize },
    Seek { file: BorrowedFd<'a>, offset: u64 },

    Create { dir: BorrowedFd<'a>, name: &'a str },
    MakeDir { dir: BorrowedFd<'a>, name: &'a str },
    MakeNode { dir: BorrowedFd<'a>, name: &'a str },
    Symlink { target: &'a str, dir: BorrowedFd<'a>, name: &'a str },
    Link { file: BorrowedFd<'a>, dir: BorrowedFd<'a>, name: &'a str },
    Unlink { dir: BorrowedFd<'a>, name: &'a str },
    RemoveDir { dir: BorrowedFd<'a>, name: &'a str },
    Rename { dir: BorrowedFd<'a>, name: &'a str, new_dir: BorrowedFd<'a>, new_name: &'a str, exchange: bool },
    Write { file: BorrowedFd<'a>, offset: u64, data: &'a [u8] },
    SetLength { file: BorrowedFd<'a>, len: u64 },
    Punch { file: BorrowedFd<'a>, offset: u64, len: u64 },
    Allocate { file: BorrowedFd<'a>, offset: u64, len: u64 },
    SetMode { file: BorrowedFd<'a> },
    SetOwner { file: BorrowedFd<'a> },
    SetTimes { file: BorrowedFd<'a> },
    SetXattr { file: BorrowedFd<'a>, name: &'a [u8], value: &'a [u8] },
    RemoveXattr { file: BorrowedFd<'a>, name: &'a [u8] },

    Sync { file: BorrowedFd<'a>, data_only: bool },
    SyncAll { file: BorrowedFd<'a> },
}

/// Watches calls to the backing filesystem, and can refuse them.
pub trait Probe: Send + Sync {
    /// Before a call is made.
    ///
    /// # Errors
    /// What the call is to fail with, without being made.
    fn before(&self, call: &Call<'_>) -> Result<()>;

    /// After a call succeeded.
    fn after(&self, call: &Call<'_>);

    /// How many of the `len` bytes of a write are to be written at once.
    fn portion(&self, len: usize) -> usize {
        len
    }
}

/// The backing filesystem. Cheap to clone; safe to use from many threads.
#[derive(Clone, Default)]
pub struct Disk {
    probe: Option<Arc<dyn Probe>>,
}

impl Disk {
    /// A disk whose calls `probe` sees.
    pub fn probed(probe: Arc<dyn Probe>) -> Self {
        Self { probe: Some(probe) }
    }

    fn call<T>(&self, call: Call<'_>, make: impl FnOnce() -> Result<T>) -> Result<T> {
        let Some(probe) = &self.probe else { return make() };
        probe.before(&call)?;
        let made = make()?;
        probe.after(&call);
        Ok(made)
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.probe.is_some() { "Disk (probed)" } else { "Disk" })
    }
}
