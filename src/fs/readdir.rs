//! Listing directories: a snapshot per handle, so that positions stay valid while entries come and
//! go.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::OFlags;

use super::attr::FileKind;
use super::directory::{Directory, open_listing, read_sidecar};
use super::inode::Inode;
use super::{Attr, Fs, FsError, FsResult};
use crate::names::{self, Entry};
use crate::sys;

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// Its name.
    pub name: OsString,
    /// Inode number; zero where only a look-up would tell.
    pub ino: u64,
    /// What it is.
    pub kind: FileKind,
    /// Position behind it, for going on.
    pub next: u64,
}

/// An open directory handle.
pub(super) struct Listing {
    inode: Arc<Inode>,
    /// The entries as of the last reading from the beginning.
    entries: Mutex<Option<Arc<Vec<DirEntry>>>>,
}

impl Fs {
    /// Opens a directory for listing; answers a handle.
    ///
    /// # Errors
    /// As opendir(3), `EIO` if its record is damaged.
    pub fn opendir(&self, ino: u64) -> FsResult<u64> {
        let inode = self.inodes.find(ino)?;
        inode.directory(&self.volume)?;
        let fh = self.new_handle_number();
        let listing = Arc::new(Listing { inode, entries: Mutex::new(None) });
        self.listings.lock().insert(fh, listing);
        Ok(fh)
    }

    /// The entries from a position on. From 0 the directory is read anew.
    ///
    /// # Errors
    /// As readdir(3).
    pub fn readdir(&self, fh: u64, position: u64) -> FsResult<impl Iterator<Item = DirEntry> + use<>> {
        let listing = self.listing(fh)?;
        let mut entries = listing.entries.lock();
        let snapshot = match &*entries {
            Some(snapshot) if position != 0 => Arc::clone(snapshot),
            _ => {
                let fresh = Arc::new(self.list(&listing.inode)?);
                *entries = Some(Arc::clone(&fresh));
                fresh
            }
        };
        let mut at = usize::try_from(position).unwrap_or(usize::MAX);
        Ok(std::iter::from_fn(move || {
            let entry = snapshot.get(at)?.clone();
            at += 1;
            Some(entry)
        }))
    }

    /// The attributes of an entry that was listed. Counts a look-up, except for `.` and `..`.
    ///
    /// # Errors
    /// As [`Fs::lookup`].
    pub fn entry_attr(&self, fh: u64, entry: &DirEntry) -> FsResult<Attr> {
        let listing = self.listing(fh)?;
        if entry.name == "." || entry.name == ".." {
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
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        Ok(rustix::fs::fsync(sys::reopen(&*listing.inode.fd()?, flags)?)?)
    }

    fn listing(&self, fh: u64) -> FsResult<Arc<Listing>> {
        self.listings.lock().get(&fh).cloned().ok_or(FsError::new(libc::EBADF))
    }

    fn list(&self, inode: &Inode) -> FsResult<Vec<DirEntry>> {
        let directory = inode.directory(&self.volume)?;
        let mut entries = Vec::new();
        let mut add = |name: OsString, ino, kind| {
            let next = entries.len() as u64 + 1;
            entries.push(DirEntry { name, ino, kind, next });
        };
        add(".".into(), inode.ino, FileKind::Directory);
        add("..".into(), inode.ino, FileKind::Directory);
        for entry in open_listing(&*inode.fd()?)? {
            let entry = entry?;
            let stored = OsString::from_vec(entry.file_name().to_bytes().to_vec());
            if stored == "." || stored == ".." {
                continue;
            }
            let Some(name) = open_name(inode, &directory, &stored) else { continue };
            let kind = FileKind::of_mode(entry.file_type().as_raw_mode()).unwrap_or(FileKind::Regular);
            add(OsString::from_vec(name), entry.ino(), kind);
        }
        Ok(entries)
    }
}

/// The name of a backing entry; `None`, and a line in the log, for one that does not belong here.
fn open_name(parent: &Inode, directory: &Directory, stored: &OsStr) -> Option<Vec<u8>> {
    let foreign = |why: &str| {
        let path = parent.path();
        tracing::warn!("{path}/{}: {why}; it is left out", stored.display());
        None
    };
    match names::open(&directory.names, stored) {
        Entry::Name(name) => Some(name),
        Entry::Reserved => None,
        Entry::Foreign => foreign("not a name of this directory"),
        Entry::Long => match parent.fd().and_then(|fd| read_sidecar(&*fd, stored)) {
            Ok(sidecar) => names::open_sidecar(&directory.names, stored, &sidecar)
                .ok()
                .or_else(|| foreign("its sidecar is not its own")),
            Err(_) => foreign("its sidecar is missing"),
        },
    }
}
