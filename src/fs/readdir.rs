//! Listing directories, straight from the backing directory.
//!
//! Positions are the backing filesystem's own. It keeps them valid while entries come and go, and
//! nothing has to be remembered per handle: a directory of any size is listed in little memory.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::mem::MaybeUninit;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::Arc;

use rustix::fs::{OFlags, RawDir, SeekFrom};

use super::attr::FileKind;
use super::directory::{Directory, is_own, read_sidecar};
use super::disk::Disk;
use super::inode::Inode;
use super::{Attr, Fs, FsError, FsResult};
use crate::names::{self, Entry};
use crate::sync::Mutex;

/// Bytes of backing entries to ask for at a time.
const BATCH: usize = 32 << 10;

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// Its name.
    pub name: OsString,
    /// Inode number.
    pub ino: u64,
    /// What it is.
    pub kind: FileKind,
    /// Position behind it, for going on.
    pub next: u64,
}

impl DirEntry {
    /// Whether it is the directory itself or its parent.
    pub fn is_dot(&self) -> bool {
        self.name == "." || self.name == ".."
    }
}

/// An open directory handle.
pub(super) struct Listing {
    inode: Arc<Inode>,
    stream: Mutex<Stream>,
}

/// The backing directory, and what was read of it and not yet taken.
struct Stream {
    fd: OwnedFd,
    /// Position of the first entry in `ahead`; of what is read next, if there is none.
    position: u64,
    ahead: VecDeque<DirEntry>,
    /// There was an entry whose name is damaged.
    left_out: bool,
}

impl Fs {
    /// Opens a directory for listing; answers a handle.
    ///
    /// # Errors
    /// As opendir(3), `EIO` if its record is damaged.
    pub fn opendir(&self, ino: u64) -> FsResult<u64> {
        let inode = self.inodes.find(ino)?;
        inode.directory(&self.volume)?;
        let fd = self.volume.disk.reopen(&*inode.fd()?, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let stream = Mutex::new(Stream { fd, position: 0, ahead: VecDeque::new(), left_out: false });
        let fh = self.new_handle_number();
        self.listings.lock().insert(fh, Arc::new(Listing { inode, stream }));
        Ok(fh)
    }

    /// Passes the entries from a position on to `take`, until that breaks off: the entry at which it
    /// does is the next one. A position is 0 or an entry's [`DirEntry::next`].
    ///
    /// # Errors
    /// As readdir(3), unless entries were taken before: then the next call reports it.
    pub fn readdir(
        &self,
        fh: u64,
        position: u64,
        mut take: impl FnMut(&DirEntry) -> ControlFlow<()>,
    ) -> FsResult<()> {
        let listing = self.listing(fh)?;
        let directory = listing.inode.directory(&self.volume)?;
        let mut stream = listing.stream.lock();
        let mut taken = false;
        // From the beginning, a program wants to see the directory as it is now.
        if position == 0 || stream.position != position {
            stream.seek(position)?;
        }
        loop {
            while let Some(entry) = stream.ahead.pop_front() {
                if take(&entry).is_break() {
                    stream.ahead.push_front(entry);
                    return Ok(());
                }
                stream.position = entry.next;
                taken = true;
            }
            match stream.read(&self.volume.disk, &listing.inode, &directory) {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(_) if taken => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether entries were left out so far because their names are damaged.
    pub(super) fn left_out(&self, fh: u64) -> bool {
        self.listing(fh).is_ok_and(|listing| listing.stream.lock().left_out)
    }

    /// The attributes of an entry that was listed. Counts a look-up, except for `.` and `..`.
    ///
    /// # Errors
    /// As [`Fs::lookup`].
    pub fn entry_attr(&self, fh: u64, entry: &DirEntry) -> FsResult<Attr> {
        let listing = self.listing(fh)?;
        if entry.is_dot() {
            return self.attr_of(&listing.inode);
        }
        self.lookup(listing.inode.ino, &entry.name)
    }

    /// Closes a directory handle.
    pub fn releasedir(&self, fh: u64) {
        self.listings.lock().remove(&fh);
    }

    /// Makes a directory's entries durable, and its record.
    ///
    /// # Errors
    /// As fsync(2).
    pub fn fsyncdir(&self, fh: u64) -> FsResult<()> {
        if self.volume.read_only {
            return Ok(());
        }
        let listing = self.listing(fh)?;
        self.sync_records()?;
        let disk = &self.volume.disk;
        Ok(disk.sync(disk.reopen(&*listing.inode.fd()?, OFlags::RDONLY | OFlags::DIRECTORY)?)?)
    }

    fn listing(&self, fh: u64) -> FsResult<Arc<Listing>> {
        self.listings.lock().get(&fh).cloned().ok_or(FsError::new(libc::EBADF))
    }
}

impl Stream {
    fn seek(&mut self, position: u64) -> FsResult<()> {
        self.ahead.clear();
        rustix::fs::seek(&self.fd, SeekFrom::Start(position))?;
        self.position = position;
        Ok(())
    }

    /// Reads on; answers whether there was anything left.
    fn read(&mut self, disk: &Disk, inode: &Inode, directory: &Directory) -> FsResult<bool> {
        let mut buffer = [MaybeUninit::uninit(); BATCH];
        let mut entries = RawDir::new(&self.fd, &mut buffer);
        let mut any = false;
        while let Some(entry) = entries.next() {
            let entry = entry?;
            any = true;
            let stored = OsStr::from_bytes(entry.file_name().to_bytes());
            let next = entry.next_entry_cookie();
            let kind = FileKind::of_mode(entry.file_type().as_raw_mode()).unwrap_or(FileKind::Regular);
            let listed = match stored.as_bytes() {
                b"." => Some((stored.to_owned(), inode.ino)),
                b".." => Some((stored.to_owned(), inode.parent_ino())),
                _ => open_name(disk, inode, directory, stored)
                    .map(|name| (OsString::from_vec(name), entry.ino())),
            };
            self.left_out |= listed.is_none() && !is_own(stored);
            if let Some((name, ino)) = listed {
                self.ahead.push_back(DirEntry { name, ino, kind, next });
            }
            if entries.is_buffer_empty() {
                break;
            }
        }
        Ok(any)
    }
}

/// The name of a backing entry; `None`, and a line in the log, for one that does not belong here.
pub(super) fn open_name(
    disk: &Disk,
    parent: &Inode,
    directory: &Directory,
    stored: &OsStr,
) -> Option<Vec<u8>> {
    let foreign = |why: &str| {
        let path = parent.path();
        tracing::warn!("{path}/{}: {why}; it is left out", stored.display());
        None
    };
    match names::open(&directory.names, stored) {
        Entry::Name(name) => Some(name),
        Entry::Reserved => None,
        Entry::Foreign => foreign("not a name of this directory"),
        Entry::Long => match parent.fd().and_then(|fd| read_sidecar(disk, &*fd, stored)) {
            Ok(sidecar) => names::open_sidecar(&directory.names, stored, &sidecar)
                .ok()
                .or_else(|| foreign("its sidecar is not its own")),
            Err(_) => foreign("its sidecar is missing"),
        },
    }
}
