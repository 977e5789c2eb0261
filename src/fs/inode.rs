//! Inodes that the kernel knows, by number.

use std::collections::HashMap;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock, Weak};

use rustix::fs::Stat;

use super::absent::Absent;
use super::attr::{FileKind, keyless_size};
use super::descriptors::{Counted, Descriptors};
use super::directory::Directory;
use super::open_file::OpenFile;
use super::pages::Pages;
use super::unwritten::{Held, Lacking, Room, UnwrittenData};
use super::volume::Volume;
use super::{FsError, FsResult, ROOT_INO, Wrapping};
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Mutex, MutexGuard, RwLock};
use crate::sys;

/// An inode of the backing filesystem.
pub(super) struct Inode {
    /// The number that the kernel knows it by.
    pub(super) ino: u64,
    pub(super) kind: FileKind,
    /// Backing device and inode number.
    identity: (u64, u64),
    /// Refers to the inode without opening it. Taken away when there are too many, and opened
    /// again by `place`.
    descriptor: Mutex<Option<Arc<OwnedFd>>>,
    /// Where the inode was found last; `None` for the root.
    place: Mutex<Option<Place>>,
    /// The descriptor must stay: the inode may have no name by which to open it again.
    pinned: AtomicBool,
    /// The descriptor was wanted since it was last considered for taking away.
    used: AtomicBool,
    descriptors: Arc<Descriptors>,
    me: Weak<Self>,
    /// Look-ups that the kernel has not forgotten.
    lookups: AtomicU64,
    directory: Mutex<Option<Arc<Directory>>>,
    /// Held while attributes are set, and while settling puts them back.
    pub(super) attributes: Mutex<()>,
    /// Attributes that the inode is known not to have.
    pub(super) absent: Absent,
    /// Protects opening, closing and the count of handles of a regular file.
    open: Mutex<Opening>,
    /// What of the kernel's pages could not be stored. It is the inode's, for the kernel keeps the pages
    /// of a file that nobody has open any more.
    unwritten: OnceLock<Box<UnwrittenData>>,
    /// Whether the kernel may have pages of a regular file.
    pub(super) pages: Pages,
}

#[derive(Clone)]
struct Place {
    parent: Arc<Inode>,
    stored: String,
}

/// A regular file's open state.
#[derive(Default)]
pub(super) struct Opening {
    /// There while handles are open, and from then until the file is settled.
    pub(super) file: Option<Arc<OpenFile>>,
    pub(super) handles: u64,
    /// Those of them that may write.
    pub(super) writers: u64,
    /// What wraps the file's data key, once that was looked at.
    pub(super) wrapping: Option<Arc<Wrapping>>,
    /// Bytes that the index counts an open file with.
    pub(super) bytes: u64,
    /// The file has lost its last name.
    pub(super) gone: bool,
}

impl Opening {
    /// The open file, with a handle more, if there is one.
    pub(super) fn join(&mut self, write: bool) -> Option<Arc<OpenFile>> {
        let file = self.file.clone()?;
        self.count(write);
        Some(file)
    }

    /// Counts a handle, which may write or not.
    pub(super) fn count(&mut self, write: bool) {
        self.handles += 1;
        self.writers += u64::from(write);
    }
}

impl Inode {
    fn new(
        ino: u64,
        fd: OwnedFd,
        stat: &Stat,
        place: Option<Place>,
        descriptors: &Arc<Descriptors>,
    ) -> FsResult<Arc<Self>> {
        let kind = FileKind::of_mode(stat.st_mode).ok_or(FsError::new(libc::EIO))?;
        Ok(Arc::new_cyclic(|me| Self {
            ino,
            kind,
            identity: (stat.st_dev, stat.st_ino),
            descriptor: Mutex::new(Some(Arc::new(fd))),
            pinned: AtomicBool::new(place.is_none()),
            place: Mutex::new(place),
            used: AtomicBool::new(true),
            descriptors: Arc::clone(descriptors),
            me: Weak::clone(me),
            lookups: AtomicU64::new(0),
            directory: Mutex::new(None),
            attributes: Mutex::default(),
            absent: Absent::default(),
            open: Mutex::default(),
            unwritten: OnceLock::new(),
            pages: Pages::default(),
        }))
    }

    /// An `O_PATH` descriptor of the inode. It stays valid while it is held.
    ///
    /// # Errors
    /// As open(2), when it has to be opened again; `ESTALE` if something else has taken its place
    /// behind our back.
    pub(super) fn fd(&self) -> FsResult<Arc<OwnedFd>> {
        self.used.store(true, Ordering::Relaxed);
        if let Some(fd) = &*self.descriptor.lock() {
            return Ok(Arc::clone(fd));
        }
        let place = self.place.lock().clone().ok_or(FsError::new(libc::ESTALE))?;
        let disk = &self.descriptors.disk;
        let fd = disk.find(&*place.parent.fd()?, &place.stored)?;
        let stat = disk.stat(&fd)?;
        if (stat.st_dev, stat.st_ino) != self.identity {
            return Err(FsError::new(libc::ESTALE));
        }
        let fd = Arc::clone(self.descriptor.lock().get_or_insert(Arc::new(fd)));
        self.descriptors.note(Weak::clone(&self.me));
        Ok(fd)
    }

    /// Makes sure that the inode can be used when its name is gone.
    pub(super) fn pin(&self) -> FsResult<()> {
        self.pinned.store(true, Ordering::SeqCst);
        self.fd().map(drop)
    }

    /// Notes where the inode is to be found from now on.
    pub(super) fn set_place(&self, parent: &Arc<Self>, stored: &str) {
        *self.place.lock() = Some(Place { parent: Arc::clone(parent), stored: stored.to_owned() });
    }

    /// Where the inode was found last: the directory, and the stored name in it. The root has none.
    pub(super) fn place(&self) -> Option<(Arc<Self>, String)> {
        self.place.lock().as_ref().map(|place| (Arc::clone(&place.parent), place.stored.clone()))
    }

    /// Number of the directory in which the inode was found last; the root is its own.
    pub(super) fn parent_ino(&self) -> u64 {
        self.place.lock().as_ref().map_or(self.ino, |place| place.parent.ino)
    }

    /// Takes the descriptor away, unless it has to stay or was used since the last call.
    pub(super) fn give_up_descriptor(&self) -> bool {
        let mut descriptor = self.descriptor.lock();
        if self.pinned.load(Ordering::SeqCst) || self.used.swap(false, Ordering::Relaxed) {
            return false;
        }
        *descriptor = None;
        true
    }

    /// Where it lies in the backing filesystem, for messages.
    pub(super) fn path(&self) -> String {
        self.fd().map_or_else(|_| format!("inode {}", self.ino), |fd| sys::path_of(&*fd))
    }

    /// The directory that this inode is.
    pub(super) fn directory(&self, volume: &Volume) -> FsResult<Arc<Directory>> {
        if self.kind != FileKind::Directory {
            return Err(FsError::new(libc::ENOTDIR));
        }
        let mut known = self.directory.lock();
        match &*known {
            Some(directory) => Ok(Arc::clone(directory)),
            None => {
                let parent = self.place.lock().as_ref().map(|place| Arc::clone(&place.parent));
                let directory = Arc::new(Directory::open(volume, &*self.fd()?, parent.as_ref())?);
                *known = Some(Arc::clone(&directory));
                Ok(directory)
            }
        }
    }

    /// Notes the record that was just written for a new directory.
    pub(super) fn set_directory(&self, directory: Directory) {
        *self.directory.lock() = Some(Arc::new(directory));
    }

    /// The open state, locked.
    pub(super) fn opening(&self) -> MutexGuard<'_, Opening> {
        self.open.lock()
    }

    /// Size of a regular file's plaintext, given the length of its backing file.
    pub(super) fn plaintext_size(&self, physical: u64) -> u64 {
        match &self.open.lock().file {
            Some(file) => file.sealed.size(),
            None => keyless_size(physical),
        }
    }

    /// Whether a handle may write to the file.
    pub(super) fn has_writers(&self) -> bool {
        self.open.lock().writers > 0
    }

    /// What of the kernel's pages could not be stored, to be added to.
    pub(super) fn unwritten(&self, room: &Room) -> &UnwrittenData {
        self.unwritten.get_or_init(|| Box::new(UnwrittenData::new(room)))
    }

    /// The same, if there ever was any.
    pub(super) fn unwritten_if_any(&self) -> Option<&UnwrittenData> {
        self.unwritten.get().map(Box::as_ref)
    }

    /// Holds a range that is to be read, written or cut off, if anything of it is lacking.
    pub(super) fn hold_lacking(&self, range: &Range<u64>) -> Option<Held<'_>> {
        self.unwritten.get()?.hold(range)
    }

    /// What could not be stored, if anything is lacking now.
    pub(super) fn lacking(&self) -> Option<Lacking> {
        self.unwritten.get()?.lacking()
    }

    /// Counts a look-up more, of an inode whose `open` the caller has locked.
    pub(super) fn count_lookup(&self) {
        self.lookups.fetch_add(1, Ordering::Relaxed);
    }

    /// Number of names that the file has.
    pub(super) fn links(&self) -> u32 {
        let stat = self.fd().and_then(|fd| Ok(self.descriptors.disk.stat(&*fd)?));
        stat.map_or(0, |stat| stat.st_nlink as u32)
    }
}

/// The inodes that the kernel or a handle knows.
pub(super) struct InodeTable {
    root: Arc<Inode>,
    by_ino: RwLock<HashMap<u64, Arc<Inode>>>,
    /// Those of them whose file is open. It changes only while the inode's open state is locked.
    open: Mutex<HashMap<u64, Arc<Inode>>>,
    /// Most inodes that there were since memory was last given back.
    peak: AtomicUsize,
    descriptors: Arc<Descriptors>,
}

/// Inodes below which their memory is not worth giving back.
const WORTH_GIVING_BACK: usize = 1 << 16;

impl InodeTable {
    /// Counts an open file's descriptor.
    pub(super) fn count_descriptor(&self) -> Counted {
        self.descriptors.count()
    }

    /// A table that holds about half of `descriptors` at most, and fewer when many files are open.
    pub(super) fn new(volume: &Volume, descriptors: usize) -> FsResult<Self> {
        let fd = volume.disk.find(&volume.root, ".")?;
        let stat = volume.disk.stat(&fd)?;
        let descriptors = Arc::new(Descriptors::new(volume.disk.clone(), descriptors));
        let root = Inode::new(ROOT_INO, fd, &stat, None, &descriptors)?;
        root.set_directory(Directory::root(volume));
        let (by_ino, open) = (RwLock::default(), Mutex::default());
        Ok(Self { root, by_ino, open, peak: AtomicUsize::new(0), descriptors })
    }

    pub(super) fn find(&self, ino: u64) -> FsResult<Arc<Inode>> {
        if ino == ROOT_INO {
            return Ok(Arc::clone(&self.root));
        }
        self.by_ino.read().get(&ino).cloned().ok_or(FsError::new(libc::ESTALE))
    }

    /// The inode of a backing entry, with one look-up more, and what the backing filesystem says of it.
    ///
    /// # Errors
    /// As open(2); `EXDEV` for an inode of another filesystem than the volume's: something is
    /// mounted in the backing directory, and its inode numbers could clash.
    pub(super) fn enter(&self, parent: &Arc<Inode>, stored: &str) -> FsResult<(Arc<Inode>, Stat)> {
        let disk = &self.descriptors.disk;
        let fd = disk.find(&*parent.fd()?, stored)?;
        let stat = disk.stat(&fd)?;
        if stat.st_dev != self.root.identity.0 || stat.st_ino == ROOT_INO {
            return Err(FsError::new(libc::EXDEV));
        }
        let mut table = self.by_ino.write();
        if let Some(inode) = table.get(&stat.st_ino) {
            inode.set_place(parent, stored);
            inode.lookups.fetch_add(1, Ordering::Relaxed);
            return Ok((Arc::clone(inode), stat));
        }
        let place = Place { parent: Arc::clone(parent), stored: stored.to_owned() };
        let inode = Inode::new(stat.st_ino, fd, &stat, Some(place), &self.descriptors)?;
        inode.lookups.store(1, Ordering::Relaxed);
        table.insert(stat.st_ino, Arc::clone(&inode));
        drop(table);
        self.descriptors.note(Arc::downgrade(&inode));
        Ok((inode, stat))
    }

    /// The inode of a backing entry, if it is known.
    pub(super) fn known(&self, parent: &Inode, stored: &str) -> FsResult<Option<Arc<Inode>>> {
        match self.descriptors.disk.stat_at(&*parent.fd()?, stored) {
            Ok(stat) => Ok(self.by_ino.read().get(&stat.st_ino).cloned()),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Takes look-ups back, and lets go of the inode when none are left, it is not open and nothing of it
    /// is lacking.
    pub(super) fn forget(&self, ino: u64, lookups: u64) {
        if ino == ROOT_INO {
            return;
        }
        let mut table = self.by_ino.write();
        let Some(inode) = table.get(&ino) else { return };
        let left = |before: u64| Some(before.saturating_sub(lookups));
        let _ = inode.lookups.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left);
        let opening = inode.open.lock();
        // With the file locked: whoever lets go of it may count a look-up meanwhile.
        let known = inode.lookups.load(Ordering::Relaxed) > 0;
        let forgotten = !known && opening.file.is_none() && inode.lacking().is_none();
        drop(opening);
        if forgotten {
            let gone = table.remove(&ino);
            drop(table);
            // Outside the lock: it may be the last to hold a long chain of parents.
            drop(gone);
        }
    }

    /// Gives memory back to the system after the kernel has forgotten most of the inodes that it knew
    /// once, as at the end of a walk through a large tree. To be called now and then.
    pub(super) fn give_memory_back(&self) {
        let len = self.by_ino.read().len();
        let peak = self.peak.fetch_max(len, Ordering::Relaxed);
        if peak < WORTH_GIVING_BACK || len > peak / 4 {
            return;
        }
        self.by_ino.write().shrink_to_fit();
        self.peak.store(len, Ordering::Relaxed);
        sys::give_memory_back();
    }

    /// Notes that an inode's file is open from now on, and what it is counted as.
    pub(super) fn begin(
        &self,
        inode: &Arc<Inode>,
        opening: &mut Opening,
        file: Arc<OpenFile>,
        wrapping: Arc<Wrapping>,
        bytes: u64,
    ) {
        opening.file = Some(file);
        opening.wrapping = Some(wrapping);
        opening.bytes = bytes;
        self.open.lock().insert(inode.ino, Arc::clone(inode));
    }

    /// Takes an inode's file that is open no longer.
    pub(super) fn end(&self, inode: &Inode, opening: &mut Opening) -> Option<Arc<OpenFile>> {
        let known = self.open.lock().remove(&inode.ino);
        // Behind the lock: there may be no other reference left but the caller's.
        drop(known);
        opening.file.take()
    }

    /// The inodes whose file is open: the handles' and those that wait to be settled, however many the
    /// kernel knows.
    pub(super) fn open(&self) -> Vec<Arc<Inode>> {
        self.open.lock().values().cloned().collect()
    }

    /// Every inode known now, the root excepted.
    pub(super) fn all(&self) -> Vec<Arc<Inode>> {
        self.by_ino.read().values().cloned().collect()
    }
}
