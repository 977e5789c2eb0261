//! The filesystem: POSIX operations on inodes and handles over a backing directory of ciphertext.
//!
//! Nothing here knows how requests arrive. An inode is held by an `O_PATH` descriptor, so that its
//! number cannot be reused while the kernel or a handle knows it. Every operation may be called
//! from any thread; it is the caller's to keep two changes of the same directory entry apart, as
//! the kernel does.

mod absent;
mod asker;
mod attr;
mod create;
mod descriptors;
mod direct;
mod directory;
pub mod disk;
mod error;
mod handles;
mod index;
mod index_file;
mod inode;
mod io;
mod keep;
mod keys;
mod lookup;
mod objects;
mod open_file;
mod pages;
mod privileges;
mod readdir;
mod recount;
mod recover;
mod reencrypt;
mod remove;
mod rewrap;
mod sealed_xattr;
mod settler;
mod symlink;
mod unsettled;
mod unwritten;
mod usage;
mod volume;
mod volume_page;
mod watcher;
mod write_back;
mod xattr;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::kms::VolumeFiles;
use crate::kms::api::NoteVolumeRequest;
use crate::provider::{CacheSettings, KeyCache, Provider};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Condvar, Mutex, RwLock};

pub use asker::KeyAccess;
pub use attr::Time;
pub use attr::{Attr, FileKind, SetAttr, SetTime, StatFs};
pub use create::NewMode;
pub use direct::IoMode;
pub use directory::ID_XATTR;
pub use error::{FsError, FsResult};
pub use index::{Census, Count, Counts};
pub use io::{Allocate, Whence};
pub use keys::file_context;
pub use readdir::DirEntry;
pub use recount::{INDEX_XATTR, IndexInfo};
pub use reencrypt::{Progress, REENCRYPT_XATTR};
pub use remove::RenameMode;
pub use rewrap::{WRAP_XATTR, Wrapping};
pub use sealed_xattr::open_attribute;
pub use volume::{Volume, VolumeError};
pub use watcher::{Watcher, volume_files};
pub use xattr::{INFO_XATTR, KEY_XATTR};

use asker::Asker;
use handles::HandleTable;
use index::Index;
use inode::{Inode, InodeTable};
use keys::Gates;
use open_file::Handle;
use readdir::Listing;
use recount::Recounts;
use rewrap::KnownVersions;
use settler::Settler;
use unsettled::Unsettled;
use unwritten::Room;
use usage::Usage;

/// Inode number of the root, as FUSE wants it.
pub const ROOT_INO: u64 = 1;

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Requester {
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// Process id; 0 where the kernel acts by itself, or for a process that is not to be seen.
    pub pid: u32,
}

impl Requester {
    /// This process.
    pub fn own() -> Self {
        let (uid, gid) = crate::sys::identity::own();
        Self { uid, gid, pid: std::process::id() }
    }
}

/// The kernel's caches, as far as the filesystem has to reach into them. Never called by a thread that
/// serves the kernel: it may wait for pages that other requests read or write.
pub trait KernelCache: Send + Sync {
    /// Writes back and drops the cached pages of an inode from an offset on, so many bytes or all.
    ///
    /// # Errors
    /// When the kernel could not be told.
    fn invalidate(&self, ino: u64, from: u64, len: Option<u64>) -> std::io::Result<()>;

    /// Drops the attributes of an inode, which the kernel otherwise keeps as it was told them last.
    ///
    /// # Errors
    /// When the kernel could not be told.
    fn forget_attributes(&self, ino: u64) -> std::io::Result<()>;

    /// Whether the kernel may hold what programs wrote, and a size of the file, that no write has passed
    /// on yet. Else it does so with what is written through mappings only.
    fn gathers_writes(&self) -> bool;
}

/// A mounted volume.
pub struct Fs {
    volume: Volume,
    provider: Arc<dyn Provider>,
    key_access: KeyAccess,
    versions: KnownVersions,
    /// How long data keys are used without asking the key service again.
    key_ttl: Duration,
    cache: KeyCache,
    gates: Gates,
    usage: Usage,
    inodes: InodeTable,
    handles: HandleTable<Handle>,
    listings: Mutex<HashMap<u64, Arc<Listing>>>,
    next_handle: AtomicU64,
    settler: Settler,
    /// Directories whose records a later fsync has to make durable.
    unsynced_records: Mutex<Vec<Arc<Inode>>>,
    unsettled: Unsettled,
    /// Everything from an earlier crash has been looked at.
    recovered: AtomicBool,
    /// What wraps how many files.
    index: Index,
    /// Held for reading while a file comes, goes or gets another name, and alone for the moments at
    /// which a recount begins and ends.
    changing: RwLock<()>,
    recounts: Mutex<Recounts>,
    recount_wanted: Condvar,
    /// One walk over everything at a time.
    walking: Mutex<()>,
    /// Directories that the walk has yet to come to, each with a look-up counted.
    to_visit: Mutex<Vec<Arc<Inode>>>,
    /// Files that the walk could not tell what wraps.
    unreadable: Mutex<Vec<Arc<Inode>>>,
    kernel: RwLock<Option<Arc<dyn KernelCache>>>,
    /// Files of which something is lacking that the kernel passed on.
    lacking: Mutex<BTreeMap<u64, Arc<Inode>>>,
    room: Room,
    mountpoint: PathBuf,
}

impl Fs {
    /// A filesystem over an open volume, to be mounted at `mountpoint` (which is only for
    /// reports). It keeps within `descriptors` open files, most of them for inodes.
    ///
    /// # Errors
    /// When the root directory cannot be opened.
    pub fn new(
        volume: Volume,
        provider: Arc<dyn Provider>,
        mountpoint: &Path,
        descriptors: u64,
    ) -> FsResult<Self> {
        let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
        Ok(Self {
            provider,
            key_access: KeyAccess::default(),
            versions: KnownVersions::default(),
            key_ttl: CacheSettings::default().max_age,
            cache: KeyCache::new(CacheSettings::default()),
            gates: Gates::default(),
            usage: Usage::default(),
            inodes: InodeTable::new(&volume, descriptors)?,
            handles: HandleTable::default(),
            listings: Mutex::default(),
            next_handle: AtomicU64::new(1),
            settler: Settler::new(descriptors / 4),
            unsynced_records: Mutex::default(),
            unsettled: Unsettled::default(),
            recovered: AtomicBool::new(!volume.is_recovering()),
            index: Index::of(&volume),
            changing: RwLock::new(()),
            recounts: Mutex::default(),
            recount_wanted: Condvar::new(),
            walking: Mutex::new(()),
            to_visit: Mutex::default(),
            unreadable: Mutex::default(),
            kernel: RwLock::new(None),
            lacking: Mutex::default(),
            room: Room::default(),
            mountpoint: mountpoint.to_owned(),
            volume,
        })
    }

    /// The volume.
    pub fn volume(&self) -> &Volume {
        &self.volume
    }

    /// Connects the kernel's caches, once mounted.
    pub fn set_kernel(&self, kernel: Arc<dyn KernelCache>) {
        *self.kernel.write() = Some(kernel);
    }

    /// Tells the key service that this process has the volume in `path` open for writing: until
    /// [`Fs::take_leave`], nobody can tell what it holds without asking.
    ///
    /// # Errors
    /// Those of the key service.
    pub fn announce(&self, path: &Path) -> FsResult<()> {
        self.note(path, true, VolumeFiles::default())
    }

    /// Tells the key service what the volume holds, now that it is shut down. Where it cannot be told,
    /// the volume's files stay unknown to it.
    pub fn take_leave(&self, path: &Path) {
        if let Err(error) = self.note(path, false, self.volume_files()) {
            tracing::warn!("the key service could not be told what the volume holds: {error}");
        }
    }

    fn note(&self, path: &Path, open: bool, files: VolumeFiles) -> FsResult<()> {
        if self.volume.read_only {
            return Ok(());
        }
        let path = path.display().to_string();
        let note = NoteVolumeRequest { volume_id: self.volume.id.to_string(), path, open, files };
        Ok(self.provider.note_volume(&note)?)
    }

    /// Settles every file, makes everything durable and marks the volume as properly unmounted,
    /// where it is. No operation may come after it.
    ///
    /// # Errors
    /// When something could not be made durable; the volume stays marked as interrupted then.
    pub fn shut_down(&self) -> FsResult<()> {
        self.kernel.write().take();
        self.handles.clear();
        if self.volume.read_only {
            return Ok(());
        }
        self.store_all_kept();
        self.say_what_is_lost();
        self.settle_what_waited();
        self.settle_all();
        self.volume.sync()?;
        self.keep_index();
        let unsettled = !self.unsettled.is_empty();
        // What a crash interrupted and could not be settled is still to be recovered.
        let recovered = self.recovered.load(Ordering::Acquire) && !(self.volume.is_recovering() && unsettled);
        // What an earlier mount left unsettled is not known by number; only a check of every file
        // could tell that nothing is left of it.
        let all_settled = !unsettled && self.volume.began_settled();
        Ok(self.volume.end_mount(recovered, all_settled)?)
    }

    /// Writes the index for the next mount. Without it, that one has to count.
    fn keep_index(&self) {
        if !self.volume.is_sound() {
            self.index.lose(&"something could not be made durable");
        }
        if !self.inodes.open().is_empty() {
            self.index.lose(&"a file could not be let go of");
        }
        if let Some(counts) = self.index.whole()
            && let Err(error) = self.volume.keep_counts(&counts)
        {
            tracing::warn!("the index of the volume's files could not be written: {error}");
        }
    }

    fn new_handle_number(&self) -> u64 {
        self.next_handle.fetch_add(1, Ordering::Relaxed)
    }

    /// Refuses a change of a read-only volume.
    fn check_writable(&self) -> FsResult<()> {
        if self.volume.read_only { Err(FsError::new(libc::EROFS)) } else { Ok(()) }
    }
}
