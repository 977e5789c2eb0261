//! Open regular files, shared by all handles of one inode.

use std::io;
use std::sync::Arc;
use std::sync::OnceLock;

use rustix::fs::{Mode, OFlags};

use super::attr::keyless_size;
use super::descriptors::Counted;
use super::direct::{DirectIo, IoMode};
use super::disk::{Disk, DiskFile};
use super::inode::{Inode, Opening};
use super::keys::{Access, Gate, KeysInUse, file_context};
use super::volume::Volume;
use super::{Asker, Fs, FsError, FsResult, Wrapping};
use crate::chunk::{Backing, ChunkError, ClosedHeader, Integrity, Opened, Reencryption, SealedFile};
use crate::format::FormatError;
use crate::format::schedule::FileKeys;
use crate::secret::Key;
use crate::sync::atomic::{AtomicI64, Ordering};
use crate::sync::{Mutex, MutexGuard, RwLock};
use crate::sys::identity;

/// A regular file while it has handles, and until it is settled after the last was closed.
pub(super) struct OpenFile {
    pub(super) sealed: SealedFile<Ciphertext>,
    /// The gate of the file's master key. Another one when the file is re-wrapped under another
    /// master key, which is done with `keys` held alone.
    pub(super) gate: RwLock<Arc<Gate>>,
    /// The file's keys while they may be used. Held for reading by every operation that uses
    /// them, so that taking them away waits for those.
    pub(super) keys: RwLock<Option<Arc<FileKeys>>>,
    /// How far its re-encryption has come, if this mount is at it. Taken before `keys`.
    pub(super) reencryption: Mutex<Option<Reencryption>>,
    /// When the file was last used, in seconds of the settler's clock.
    pub(super) last_use: AtomicI64,
    pub(super) direct: DirectIo,
    _descriptor: Counted,
}

/// An open handle.
pub(super) struct Handle {
    pub(super) inode: Arc<Inode>,
    pub(super) open: Arc<OpenFile>,
    /// It may write.
    pub(super) write: bool,
    /// Whose it is.
    pub(super) uid: u32,
    /// By whose permission it was opened.
    pub(super) asker: Asker,
    /// How the kernel passes on what is done through it; nothing for a handle of the mount's own.
    pub(super) io_mode: OnceLock<IoMode>,
}

impl Handle {
    /// The file's keys, unwrapped for who opened it if they were taken away.
    pub(super) fn keys(&self, fs: &Fs, access: Access) -> FsResult<KeysInUse<'_>> {
        fs.usage.note();
        self.open.keys(fs, access, &self.asker)
    }
}

/// A regular file's backing file, opened for writing as soon as that is wanted.
pub(super) struct Ciphertext {
    read_only: Option<DiskFile>,
    writable: OnceLock<DiskFile>,
}

impl Ciphertext {
    pub(super) fn writable(file: DiskFile) -> Self {
        Self { read_only: None, writable: OnceLock::from(file) }
    }

    fn read_only(file: DiskFile) -> Self {
        Self { read_only: Some(file), writable: OnceLock::new() }
    }

    /// Opens an inode's backing file, for writing too where that is allowed: the kernel reads the
    /// pages that it writes back, and writes through any handle.
    fn open(volume: &Volume, inode: &Inode, want_write: bool) -> FsResult<Self> {
        if volume.read_only {
            let file = volume.disk.reopen_file(&*inode.fd()?, OFlags::RDONLY)?;
            return Ok(Self::read_only(file));
        }
        match open_as_owner(&volume.disk, inode, OFlags::RDWR) {
            Ok(file) => Ok(Self::writable(file)),
            Err(_) if !want_write => Ok(Self::read_only(open_as_owner(&volume.disk, inode, OFlags::RDONLY)?)),
            Err(error) => Err(error),
        }
    }

    pub(super) fn make_writable(&self, disk: &Disk, inode: &Inode) -> FsResult<()> {
        if self.writable.get().is_none() {
            // Another thread may have been faster; its descriptor is as good.
            let _ = self.writable.set(open_as_owner(disk, inode, OFlags::RDWR)?);
        }
        Ok(())
    }

    fn any(&self) -> io::Result<&DiskFile> {
        self.writable.get().or(self.read_only.as_ref()).ok_or_else(not_open)
    }

    fn for_writing(&self) -> io::Result<&DiskFile> {
        self.writable.get().ok_or_else(not_open)
    }
}

fn not_open() -> io::Error {
    io::Error::from_raw_os_error(libc::EBADF)
}

/// Opens a backing file for this process, whatever the file's mode says to its owner: the kernel
/// has decided who may open it, and an unprivileged mount must reach its own files.
pub(super) fn open_as_owner(disk: &Disk, inode: &Inode, flags: OFlags) -> FsResult<DiskFile> {
    let fd = inode.fd()?;
    let refused = match disk.reopen_file(&*fd, flags) {
        Ok(file) => return Ok(file),
        Err(e) => e,
    };
    let stat = disk.stat(&*fd)?;
    let ours = stat.st_uid == identity::own().0;
    if refused != rustix::io::Errno::ACCESS || !ours {
        return Err(refused.into());
    }
    disk.set_mode(&*fd, Mode::from_raw_mode(stat.st_mode & 0o7777 | 0o600))?;
    let opened = disk.reopen_file(&*fd, flags);
    disk.set_mode(&*fd, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    Ok(opened?)
}

impl Backing for Ciphertext {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.any()?.read_at(buffer, offset)
    }

    fn write_at(&self, buffer: &[u8], offset: u64) -> io::Result<()> {
        self.for_writing()?.write_at(buffer, offset)
    }

    fn length(&self) -> io::Result<u64> {
        self.any()?.length()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.for_writing()?.set_len(len)
    }

    fn sync(&self, data_only: bool) -> io::Result<()> {
        self.any()?.sync(data_only)
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
    pub(super) fn new(opened: Opened<Ciphertext>, gate: Arc<Gate>, descriptor: Counted) -> Self {
        Self {
            sealed: opened.file,
            gate: RwLock::new(gate),
            keys: RwLock::new(Some(Arc::new(opened.keys))),
            reencryption: Mutex::default(),
            last_use: AtomicI64::new(0),
            direct: DirectIo::default(),
            _descriptor: descriptor,
        }
    }

    /// The gate of the file's master key.
    pub(super) fn gate(&self) -> Arc<Gate> {
        Arc::clone(&self.gate.read())
    }

    /// The file, if its backing file could be opened for writing.
    pub(super) fn for_writing(&self) -> FsResult<&SealedFile<Ciphertext>> {
        self.sealed.backing().for_writing()?;
        Ok(&self.sealed)
    }
}

impl Fs {
    /// The open file of an inode, opened if it is not, unwrapping its data key. Whoever asks is
    /// permitted it now, by the key that wraps the file at the moment. Counts a handle, which
    /// [`Fs::close_file`] takes back.
    pub(super) fn open_file(
        &self,
        inode: &Arc<Inode>,
        want_write: bool,
        asker: &Asker,
    ) -> FsResult<Arc<OpenFile>> {
        let known = inode.opening().join(want_write);
        let open = match known {
            Some(open) => self.join_file(inode, want_write, asker, open)?,
            None => self.read_in(inode, want_write, asker)?,
        };
        let writable = match want_write && !self.volume.read_only {
            true => open.sealed.backing().make_writable(&self.volume.disk, inode),
            false => Ok(()),
        };
        // A cut that came while the key was being fetched has not seen this file.
        let usable = writable.and_then(|()| open.gate().check_program());
        match usable {
            Ok(()) => Ok(open),
            Err(error) => {
                if open.gate().is_cut() {
                    open.keys.write().take();
                }
                self.close_file(inode, want_write);
                Err(error)
            }
        }
    }

    /// A file that somebody else has opened, with a handle counted, if it is permitted.
    fn join_file(
        &self,
        inode: &Arc<Inode>,
        want_write: bool,
        asker: &Asker,
        open: Arc<OpenFile>,
    ) -> FsResult<Arc<OpenFile>> {
        let permitted = asker.authorize_open_file(&open);
        permitted.map(|()| open).inspect_err(|_| self.close_file(inode, want_write))
    }

    /// Takes a handle of an open file back, which could write or not. When it was the last, a
    /// settled file is let go of at once, another one goes to the settler.
    pub(super) fn close_file(&self, inode: &Arc<Inode>, write: bool) {
        let mut opening = inode.opening();
        opening.handles = opening.handles.saturating_sub(1);
        opening.writers = opening.writers.saturating_sub(u64::from(write));
        let Some(open) = &opening.file else { return };
        if opening.handles > 0 {
            return;
        }
        if open.sealed.is_settled() || self.volume.read_only || inode.links() == 0 {
            self.let_go(inode, opening, false);
        } else {
            open.last_use.store(self.settler.now(), Ordering::Relaxed);
            let size = open.sealed.size();
            if let Some(wrapping) = &opening.wrapping {
                self.index.resize(inode.ino, wrapping, opening.bytes, size);
                opening.bytes = size;
            }
            drop(opening);
            self.settler.add(inode);
        }
    }

    /// Lets go of an open file that nobody uses; `refused` says that it could not be settled because its
    /// key was not usable.
    pub(super) fn let_go(&self, inode: &Arc<Inode>, mut opening: MutexGuard<'_, Opening>, refused: bool) {
        let open = self.inodes.end(inode, &mut opening);
        if let Some(open) = &open {
            self.count_closed(inode, &mut opening, open);
        }
        let mut lookups = 0;
        match open.filter(|open| !open.sealed.is_settled() && inode.links() > 0) {
            None => lookups = u64::from(self.unsettled.remove(inode.ino)),
            Some(open) if !self.volume.read_only => self.unsettled.add(inode, &open, refused),
            Some(_) => {}
        }
        drop(opening);
        self.inodes.forget(inode.ino, lookups);
    }

    /// Brings the count of a file up to date that is not open any more.
    fn count_closed(&self, inode: &Inode, opening: &mut Opening, open: &OpenFile) {
        let Some(wrapping) = opening.wrapping.clone() else { return };
        if opening.gone {
            return self.index.remove(inode.ino, &wrapping, opening.bytes);
        }
        if open.sealed.backing().for_writing().is_ok() {
            // A settled file is as long as it says.
            let settled = open.sealed.is_settled().then(|| Ok(open.sealed.size()));
            match settled.unwrap_or_else(|| open.sealed.backing().length().map(keyless_size)) {
                Ok(bytes) => {
                    self.index.resize(inode.ino, &wrapping, opening.bytes, bytes);
                    opening.bytes = bytes;
                }
                Err(error) => self.index.lose(&error),
            }
        }
    }

    /// How far a file that is not open now is to be believed.
    fn integrity_of(&self, inode: &Inode) -> Integrity {
        if !self.recovered.load(Ordering::Acquire) {
            Integrity::Recovering
        } else if self.volume.began_settled() && !self.unsettled.contains(inode.ino) {
            Integrity::Settled
        } else {
            Integrity::Strict
        }
    }

    /// Opens an inode's backing file and unwraps its data key, unless somebody was faster. Counts a
    /// handle.
    fn read_in(&self, inode: &Arc<Inode>, want_write: bool, asker: &Asker) -> FsResult<Arc<OpenFile>> {
        loop {
            let disk = Ciphertext::open(&self.volume, inode, want_write)?;
            // The key service is asked without any lock held.
            let fetched = self.fetch_for(&disk, asker);
            // The file is judged with the lock held: whoever has opened it may be changing it by now.
            let mut opening = inode.opening();
            if let Some(open) = opening.join(want_write) {
                drop(opening);
                return self.join_file(inode, want_write, asker, open);
            }
            let (header, data_key, gate) = fetched.map_err(|error| self.name_damage(inode, error))?;
            let blob = header.wrapped().blob.clone();
            let mut current = true;
            let length = disk.length()?;
            let opened = SealedFile::open_read(disk, header, self.integrity_of(inode), |_, wrapped| {
                current = wrapped.blob == blob;
                if current { Ok(data_key) } else { Err(FsError::new(libc::EAGAIN)) }
            });
            if !current {
                continue;
            }
            let opened = opened.map_err(|error| self.name_damage(inode, error))?;
            let wrapping = self.index.share(opened.file.with_wrapped(Wrapping::of));
            // While files are being counted, an open one is; one without a name counts again.
            if opening.gone || self.index.is_counting() {
                let uncounted = opening.gone || !self.index.has(inode.ino);
                if uncounted {
                    self.index.add(inode.ino, &wrapping, keyless_size(length));
                }
            }
            let open = Arc::new(OpenFile::new(opened, gate, self.inodes.count_descriptor()));
            self.inodes.begin(inode, &mut opening, open, wrapping, keyless_size(length));
            if let Some(open) = opening.join(want_write) {
                return Ok(open);
            }
        }
    }

    /// A closed file's header, the data key in it, and the gate of its master key, for one who is
    /// permitted them.
    fn fetch_for(&self, disk: &Ciphertext, asker: &Asker) -> FsResult<(ClosedHeader, Arc<Key>, Arc<Gate>)> {
        let header = ClosedHeader::read(disk)?;
        let (head, wrapped) = (header.head(), header.wrapped());
        if head.volume != self.volume.id {
            return Err(ChunkError::Header(FormatError::Forged).into());
        }
        asker.authorize(head, wrapped)?;
        let gate = self.gates.of(&wrapped.key_arn);
        gate.check_program()?;
        let context = file_context(head.volume, head.object);
        let data_key = asker.unwrap(self, &wrapped.blob, &context)?;
        Ok((header, data_key, gate))
    }

    pub(super) fn handle(&self, fh: u64) -> FsResult<Arc<Handle>> {
        self.handles.find(fh).ok_or(FsError::new(libc::EBADF))
    }

    /// Says in the log which file is damaged.
    pub(super) fn name_damage(&self, inode: &Inode, error: FsError) -> FsError {
        if error.is_damage() {
            tracing::error!("file {}: {error}", inode.path());
        }
        error
    }
}
