//! Open regular files, shared by all handles of one inode.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};

use parking_lot::{MutexGuard, RwLock};
use rustix::fs::{Mode, OFlags};

use super::inode::{Inode, Opening};
use super::keys::{Gate, file_context};
use super::{Fs, FsError, FsResult};
use crate::chunk::{Backing, ChunkError, Integrity, Opened, SealedFile};
use crate::format::FormatError;
use crate::format::schedule::FileKeys;
use crate::sys;

/// A regular file while it has handles, and until it is settled after the last was closed.
pub(super) struct OpenFile {
    pub(super) sealed: SealedFile<Disk>,
    /// The gate of the file's master key.
    pub(super) gate: Arc<Gate>,
    /// The file's keys while they may be used. Held for reading by every operation that uses
    /// them, so that taking them away waits for those.
    pub(super) keys: RwLock<Option<Arc<FileKeys>>>,
    /// Handles that may write.
    pub(super) writers: AtomicU32,
    /// When the file was last used, in seconds of the settler's clock.
    pub(super) last_use: AtomicI64,
}

/// An open handle.
pub(super) struct Handle {
    pub(super) inode: Arc<Inode>,
    pub(super) open: Arc<OpenFile>,
    /// It may write.
    pub(super) write: bool,
}

/// A backing file, opened for writing as soon as that is wanted.
pub(super) struct Disk {
    read_only: Option<File>,
    writable: OnceLock<File>,
}

impl Disk {
    pub(super) fn writable(file: File) -> Self {
        Self { read_only: None, writable: OnceLock::from(file) }
    }

    /// Opens an inode's backing file, for writing too where that is allowed: the kernel reads the
    /// pages that it writes back, and writes through any handle.
    fn open(inode: &Inode, want_write: bool, read_only_volume: bool) -> FsResult<Self> {
        if read_only_volume {
            let file = File::from(sys::reopen(&*inode.fd()?, OFlags::RDONLY)?);
            return Ok(Self { read_only: Some(file), writable: OnceLock::new() });
        }
        match open_writable(inode) {
            Ok(file) => Ok(Self::writable(file)),
            Err(_) if !want_write => {
                let file = open_as_owner(inode, OFlags::RDONLY)?;
                Ok(Self { read_only: Some(file), writable: OnceLock::new() })
            }
            Err(error) => Err(error),
        }
    }

    fn make_writable(&self, inode: &Inode) -> FsResult<()> {
        if self.writable.get().is_none() {
            // Another thread may have been faster; its descriptor is as good.
            let _ = self.writable.set(open_writable(inode)?);
        }
        Ok(())
    }

    fn any(&self) -> io::Result<&File> {
        self.writable.get().or(self.read_only.as_ref()).ok_or_else(not_open)
    }

    fn for_writing(&self) -> io::Result<&File> {
        self.writable.get().ok_or_else(not_open)
    }
}

fn not_open() -> io::Error {
    io::Error::from_raw_os_error(libc::EBADF)
}

fn open_writable(inode: &Inode) -> FsResult<File> {
    open_as_owner(inode, OFlags::RDWR)
}

/// Opens a backing file for this process, whatever the file's mode says to its owner: the kernel
/// has decided who may open it, and an unprivileged mount must reach its own files.
fn open_as_owner(inode: &Inode, flags: OFlags) -> FsResult<File> {
    let refused = match sys::reopen(&*inode.fd()?, flags) {
        Ok(fd) => return Ok(File::from(fd)),
        Err(e) => e,
    };
    let stat = rustix::fs::fstat(&*inode.fd()?)?;
    let ours = stat.st_uid == rustix::process::geteuid().as_raw();
    if refused != rustix::io::Errno::ACCESS || !ours {
        return Err(refused.into());
    }
    let fd = inode.fd()?;
    let path = sys::proc_path(&*fd);
    rustix::fs::chmod(&path, Mode::from_raw_mode(stat.st_mode & 0o7777 | 0o600))?;
    let opened = sys::reopen(&*inode.fd()?, flags);
    rustix::fs::chmod(&path, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    Ok(File::from(opened?))
}

impl Backing for Disk {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        Backing::read_at(self.any()?, buffer, offset)
    }

    fn write_at(&self, buffer: &[u8], offset: u64) -> io::Result<()> {
        Backing::write_at(self.for_writing()?, buffer, offset)
    }

    fn length(&self) -> io::Result<u64> {
        Backing::length(self.any()?)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        Backing::set_len(self.for_writing()?, len)
    }

    fn sync(&self, data_only: bool) -> io::Result<()> {
        Backing::sync(self.any()?, data_only)
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.for_writing()?.punch(offset, len)
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.for_writing()?.allocate(offset, len)
    }

    fn seek_data(&self, offset: u64) -> io::Result<Option<u64>> {
        self.any()?.seek_data(offset)
    }

    fn seek_hole(&self, offset: u64) -> io::Result<u64> {
        self.any()?.seek_hole(offset)
    }
}

impl OpenFile {
    pub(super) fn new(opened: Opened<Disk>, gate: Arc<Gate>) -> Self {
        Self {
            sealed: opened.file,
            gate,
            keys: RwLock::new(Some(Arc::new(opened.keys))),
            writers: AtomicU32::new(0),
            last_use: AtomicI64::new(0),
        }
    }

    /// The file, if its backing file could be opened for writing.
    pub(super) fn for_writing(&self) -> FsResult<&SealedFile<Disk>> {
        self.sealed.backing().for_writing()?;
        Ok(&self.sealed)
    }
}

impl Fs {
    /// The open file of an inode, opened if it is not, unwrapping its data key. Counts a handle,
    /// which [`Fs::close_file`] takes back.
    pub(super) fn open_file(&self, inode: &Arc<Inode>, want_write: bool) -> FsResult<Arc<OpenFile>> {
        let known = {
            let mut opening = inode.opening();
            opening.handles += u64::from(opening.file.is_some());
            opening.file.clone()
        };
        let open = match known {
            Some(open) => open,
            None => {
                // The key service is asked without any lock held; whoever is first keeps its
                // result.
                let opened = self.read_in(inode, want_write)?;
                let mut opening = inode.opening();
                opening.handles += 1;
                Arc::clone(opening.file.get_or_insert(opened))
            }
        };
        let writable = match want_write && !self.volume.read_only {
            true => open.sealed.backing().make_writable(inode),
            false => Ok(()),
        };
        // A cut that came while the key was being fetched has not seen this file.
        let usable = writable.and_then(|()| open.gate.check_program());
        match usable {
            Ok(()) => Ok(open),
            Err(error) => {
                if open.gate.is_cut() {
                    open.keys.write().take();
                }
                self.close_file(inode);
                Err(error)
            }
        }
    }

    /// Takes a handle of an open file back. When it was the last, a settled file is let go of at
    /// once, another one goes to the settler.
    pub(super) fn close_file(&self, inode: &Arc<Inode>) {
        let mut opening = inode.opening();
        opening.handles = opening.handles.saturating_sub(1);
        let Some(open) = &opening.file else { return };
        if opening.handles > 0 {
            return;
        }
        if open.sealed.is_settled() || self.volume.read_only || inode.links() == 0 {
            self.let_go(inode, opening);
        } else {
            open.last_use.store(self.settler.now(), Ordering::Relaxed);
            drop(opening);
            self.settler.add(inode);
        }
    }

    /// Lets go of an open file that nobody uses.
    pub(super) fn let_go(&self, inode: &Inode, mut opening: MutexGuard<'_, Opening>) {
        let settled = opening.file.take().is_none_or(|open| open.sealed.is_settled());
        let mut unsettled = self.unsettled.lock();
        if settled || inode.links() == 0 {
            unsettled.remove(&inode.ino);
        } else if !self.volume.read_only {
            unsettled.insert(inode.ino);
        }
        drop(unsettled);
        drop(opening);
        self.inodes.forget(inode.ino, 0);
    }

    /// How far a file that is not open now is to be believed.
    fn integrity_of(&self, inode: &Inode) -> Integrity {
        if !self.recovered.load(Ordering::Acquire) {
            Integrity::Recovering
        } else if self.volume.began_settled() && !self.unsettled.lock().contains(&inode.ino) {
            Integrity::Settled
        } else {
            Integrity::Strict
        }
    }

    /// Opens an inode's backing file and unwraps its data key.
    fn read_in(&self, inode: &Arc<Inode>, want_write: bool) -> FsResult<Arc<OpenFile>> {
        let disk = Disk::open(inode, want_write, self.volume.read_only)?;
        let integrity = self.integrity_of(inode);
        let mut gate = None;
        let opened = SealedFile::open(disk, integrity, |head, wrapped| {
            if head.volume != self.volume.id {
                return Err(FsError::from(ChunkError::Header(FormatError::Forged)));
            }
            let gate = gate.insert(self.gates.of(&wrapped.key_arn));
            gate.check_program()?;
            let context = file_context(head.volume, head.object);
            Ok(self.cache.unwrap(&*self.provider, &wrapped.blob, &context)?)
        });
        let opened = opened.map_err(|error| self.name_damage(inode, error))?;
        let Some(gate) = gate else { return Err(FsError::new(libc::EIO)) };
        Ok(Arc::new(OpenFile::new(opened, gate)))
    }

    pub(super) fn handle(&self, fh: u64) -> FsResult<Arc<Handle>> {
        self.handles.read().get(&fh).cloned().ok_or(FsError::new(libc::EBADF))
    }

    /// Says in the log which file is damaged.
    pub(super) fn name_damage(&self, inode: &Inode, error: FsError) -> FsError {
        if error.is_damage() {
            tracing::error!("file {}: {error}", inode.path());
        }
        error
    }
}
