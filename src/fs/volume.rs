//! The volume itself: its page in two copies, its lock, its epochs.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use thiserror::Error;

use super::FsResult;
use super::disk::{Disk, DiskFile};
use super::volume_page::{context, open_pages, read_pages, unwrap_any, write_new};
use crate::chunk::Backing;
use crate::format::head::{Head, Kind};
use crate::format::page::Page;
use crate::format::schedule::VolumeKeys;
use crate::format::slot::Wrapped;
use crate::format::state::VolumeState;
use crate::format::{FormatError, Id, VOLUME_COPY_NAME, VOLUME_NAME};
use crate::provider::{Provider, ProviderError};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use crate::sys;

/// Epochs reserved with one durable write. A file needs one per settling.
const EPOCH_BATCH: u32 = 256;
/// Seconds by which a clock may have been set back without making interrupted files look forged.
const CLOCK_SLACK: i64 = 3600;

/// Why a volume cannot be created or opened.
#[derive(Debug, Error)]
pub enum VolumeError {
    /// The directory has no volume page.
    #[error("{0} is not a kmsfs volume")]
    NotAVolume(String),
    /// The directory has something in it.
    #[error("{0} is not empty")]
    NotEmpty(String),
    /// It is a volume already.
    #[error("{0} is a kmsfs volume already")]
    AlreadyAVolume(String),
    /// Written by a newer program, or damaged.
    #[error("{0}: {1}")]
    Format(String, FormatError),
    /// Mounted elsewhere.
    #[error("{path} is mounted already{}", by.map(|pid| format!(" by process {pid}")).unwrap_or_default())]
    InUse {
        /// The backing directory.
        path: String,
        /// The process that holds it, if that can be told.
        by: Option<u32>,
    },
    /// The backing directory cannot be written.
    #[error("{0} is read-only")]
    ReadOnly(String),
    /// The backing filesystem has no room.
    #[error("no space left for {0}")]
    NoSpace(String),
    /// The key service refused.
    #[error(transparent)]
    Provider(#[from] ProviderError),
    /// The operating system refused.
    #[error("{0}: {1}")]
    Io(String, #[source] io::Error),
}

/// An open volume; holds its lock.
pub struct Volume {
    /// The volume's id, which is also the root directory's.
    pub id: Id,
    /// Keys for names, links, directory records.
    pub keys: VolumeKeys,
    /// Whether nothing may be written.
    pub read_only: bool,
    /// The backing filesystem.
    pub disk: Disk,
    /// The backing directory.
    pub root: OwnedFd,
    /// Files changed since then may have been interrupted by a crash; `None` on a volume that was
    /// unmounted properly.
    recover_since: Option<i64>,
    /// Every file was settled when this mount began.
    began_settled: bool,
    /// Least epoch for this mount: above all that were used before it.
    base_epoch: u32,
    reserved: AtomicU32,
    page: Mutex<VolumePage>,
    /// Something could not be made durable. The kernel says so only once.
    sync_failed: AtomicBool,
}

struct VolumePage {
    head: Head,
    sequence: u64,
    wrapped: Wrapped,
    state: VolumeState,
    /// The page and its copy. The first also carries the lock.
    files: [DiskFile; 2],
}

impl Volume {
    /// Makes an empty directory a volume whose new files get `default_key` (an id, ARN or alias).
    /// Nothing is written unless everything can be.
    ///
    /// # Errors
    /// Any [`VolumeError`] but `InUse`.
    pub fn create(path: &Path, provider: &dyn Provider, default_key: &str) -> Result<Id, VolumeError> {
        Self::create_on(&Disk::default(), path, provider, default_key)
    }

    /// As [`Volume::create`], reaching the backing filesystem through `disk`.
    ///
    /// # Errors
    /// Any [`VolumeError`] but `InUse`.
    pub fn create_on(
        disk: &Disk,
        path: &Path,
        provider: &dyn Provider,
        default_key: &str,
    ) -> Result<Id, VolumeError> {
        let shown = path.display().to_string();
        Self::check_creatable(path)?;
        let default_key = provider.describe_key(default_key)?.arn;
        let id = Id::random().map_err(|e| VolumeError::Io(shown.clone(), io::Error::other(e)))?;
        let own_key = provider.create_internal_key(&own_key_description(id))?;
        let made = provider.generate_data_key(&own_key.key_id.to_string(), &context(id))?;
        let keys = VolumeKeys::derive(&made.plaintext, id);
        let wrapped = Wrapped { key_arn: made.key_arn, key_version: made.key_version, blob: made.blob };
        let state =
            VolumeState { epochs_reserved: 1, clean: true, all_settled: true, unclean_since: 0, default_key };
        let page = state
            .encode()
            .and_then(|state| {
                let head = Head::new(Kind::Volume, id, id, id);
                Page::build(&head, 1, &wrapped, &keys.commitment, None, &state, &keys.header)
            })
            .map_err(|e| VolumeError::Format(shown.clone(), e))?;
        let root = open_root(path).map_err(|e| explain(&shown, e.into()))?;
        let names = [VOLUME_COPY_NAME, VOLUME_NAME];
        let written = names.iter().try_for_each(|name| write_new(disk, &root, name, &page));
        if let Err(error) = written {
            // A copy alone would pass for a volume.
            let _ = disk.unlink(&root, VOLUME_COPY_NAME);
            return Err(explain(&shown, error));
        }
        Ok(id)
    }

    /// Whether a directory can be made a volume: it is empty and can be written.
    ///
    /// # Errors
    /// [`VolumeError::AlreadyAVolume`], `NotEmpty`, `ReadOnly` or `Io`.
    pub fn check_creatable(path: &Path) -> Result<(), VolumeError> {
        let shown = path.display().to_string();
        let mut entries = std::fs::read_dir(path).map_err(|e| explain(&shown, e))?;
        if Self::exists(path) {
            return Err(VolumeError::AlreadyAVolume(shown));
        }
        if entries.next().is_some() {
            return Err(VolumeError::NotEmpty(shown));
        }
        rustix::fs::accessat(CWD, path, rustix::fs::Access::WRITE_OK, AtFlags::EACCESS)
            .map_err(|e| explain(&shown, e.into()))
    }

    /// Whether a directory holds a volume, as far as that shows without a key.
    pub fn exists(path: &Path) -> bool {
        path.join(VOLUME_NAME).exists() || path.join(VOLUME_COPY_NAME).exists()
    }

    /// Opens a volume and locks it: alone for writing, shared for `read_only`. For writing, it
    /// durably notes that it is mounted.
    ///
    /// # Errors
    /// Any [`VolumeError`] but those of creation.
    pub fn open(path: &Path, provider: &dyn Provider, read_only: bool) -> Result<Self, VolumeError> {
        Self::open_on(Disk::default(), path, provider, read_only)
    }

    /// As [`Volume::open`], reaching the backing filesystem through `disk`.
    ///
    /// # Errors
    /// Any [`VolumeError`] but those of creation.
    pub fn open_on(
        disk: Disk,
        path: &Path,
        provider: &dyn Provider,
        read_only: bool,
    ) -> Result<Self, VolumeError> {
        let volume = Self::open_locked(disk, path, provider, read_only, read_only)?;
        if !read_only {
            volume.begin_mount().map_err(|e| explain(&path.display().to_string(), e))?;
        }
        Ok(volume)
    }

    /// Opens a volume to look at it, alone. Nothing in it is written, also not that it is open.
    /// With `repair` the volume's page is made anew if it is missing, and the volume can be written
    /// after [`Volume::begin_repair`].
    ///
    /// # Errors
    /// Any [`VolumeError`] but those of creation.
    pub fn open_to_check(path: &Path, provider: &dyn Provider, repair: bool) -> Result<Self, VolumeError> {
        let volume = Self::open_locked(Disk::default(), path, provider, !repair, false)?;
        Ok(Self { read_only: true, ..volume })
    }

    /// From now on the volume can be written. It counts as mounted until [`Volume::end_mount`].
    ///
    /// # Errors
    /// When that cannot be noted durably.
    pub fn begin_repair(&mut self) -> io::Result<()> {
        self.read_only = false;
        self.begin_mount()
    }

    /// Locks a volume without any key, alone; answers its directory and what holds the lock.
    ///
    /// # Errors
    /// [`VolumeError::NotAVolume`], `InUse` or `Io`.
    pub fn lock_to_check(path: &Path) -> Result<(OwnedFd, DiskFile), VolumeError> {
        let shown = path.display().to_string();
        let root = open_root(path).map_err(|e| explain(&shown, e.into()))?;
        let [page, _] = open_pages(&Disk::default(), &root, &shown, true)?;
        lock(&page, &shown, false)?;
        Ok((root, page))
    }

    fn open_locked(
        disk: Disk,
        path: &Path,
        provider: &dyn Provider,
        read_only: bool,
        shared: bool,
    ) -> Result<Self, VolumeError> {
        let shown = path.display().to_string();
        let root = open_root(path).map_err(|e| explain(&shown, e.into()))?;
        let files = open_pages(&disk, &root, &shown, read_only)?;
        lock(&files[0], &shown, shared)?;
        let pages = read_pages(&files).map_err(|e| VolumeError::Format(shown.clone(), e))?;
        let (page, keys, opened) = unwrap_any(pages, provider, &shown)?;
        let id = page.head.object;
        let (sequence, wrapped, state) = opened;
        let recover_since = (!state.clean).then_some(state.unclean_since - CLOCK_SLACK);
        Ok(Self {
            id,
            keys,
            read_only,
            disk,
            root,
            recover_since,
            began_settled: state.clean && state.all_settled,
            base_epoch: state.epochs_reserved.max(1),
            reserved: AtomicU32::new(state.epochs_reserved),
            page: Mutex::new(VolumePage { head: page.head, sequence, wrapped, state, files }),
            sync_failed: AtomicBool::new(false),
        })
    }

    /// No file has an epoch at or above this, unless somebody put an old page of the volume back.
    pub fn epochs_reserved(&self) -> u32 {
        self.reserved.load(Ordering::Acquire)
    }

    /// The epoch for a new session of a file whose newest epoch is `newest`. Epochs are reserved
    /// durably ahead of use.
    ///
    /// # Errors
    /// When the reservation cannot be written; `EOVERFLOW` after four billion epochs.
    pub fn next_epoch(&self, newest: u32) -> io::Result<u32> {
        let overflow = || io::Error::from_raw_os_error(libc::EOVERFLOW);
        let epoch = newest.checked_add(1).ok_or_else(overflow)?.max(self.base_epoch);
        if epoch >= self.reserved.load(Ordering::Acquire) {
            let mut page = self.page.lock();
            if epoch >= page.state.epochs_reserved {
                let reserved = epoch.checked_add(EPOCH_BATCH).ok_or_else(overflow)?;
                self.update(&mut page, |state| state.epochs_reserved = reserved)?;
                self.reserved.store(reserved, Ordering::Release);
            }
        }
        Ok(epoch)
    }

    /// Whether a file that was last changed at `changed` (Unix time in seconds) may have been
    /// interrupted by a crash.
    pub fn may_be_interrupted(&self, changed: i64) -> bool {
        self.recover_since.is_some_and(|since| changed >= since)
    }

    /// Whether the volume was not unmounted properly before this mount.
    pub fn is_recovering(&self) -> bool {
        self.recover_since.is_some()
    }

    /// Whether a mount that had reserved these epochs was the last, and ended properly.
    pub(super) fn ended_with(&self, epochs_reserved: u32) -> bool {
        !self.is_recovering() && self.base_epoch == epochs_reserved
    }

    /// Whether the volume was made and never mounted for writing before this mount.
    pub(super) fn was_never_mounted(&self) -> bool {
        self.ended_with(1)
    }

    /// ARN of the master key that wraps the volume key.
    pub fn own_key(&self) -> String {
        self.page.lock().wrapped.key_arn.clone()
    }

    /// The wrapped volume key.
    pub(super) fn wrapped(&self) -> Wrapped {
        self.page.lock().wrapped.clone()
    }

    /// Wraps the volume key by the newest version of its master key, durably.
    ///
    /// # Errors
    /// Those of the key service, and when the page cannot be written; the old wrapping counts then.
    pub(super) fn rewrap(&self, provider: &dyn Provider) -> FsResult<()> {
        let before = self.wrapped();
        let newest = provider.describe_key(&before.key_arn)?.current_key_material_version;
        if newest == before.key_version {
            return Ok(());
        }
        self.rewrap_by(provider, &before, &before.key_arn)
    }

    /// Wraps the volume key by a new key of the volume's own in another key store, durably. `provider`
    /// opens what wraps it now, and wraps by the other store's keys.
    ///
    /// # Errors
    /// Those of the key service, and of writing the volume's page.
    pub fn move_to_own_key(&self, provider: &dyn Provider) -> FsResult<()> {
        let own_key = provider.create_internal_key(&own_key_description(self.id))?;
        self.rewrap_by(provider, &self.wrapped(), &own_key.arn)
    }

    fn rewrap_by(&self, provider: &dyn Provider, before: &Wrapped, key: &str) -> FsResult<()> {
        let blob = provider.rewrap(&before.blob, &context(self.id), key)?;
        let opened = provider.unwrap(&blob, &context(self.id))?;
        // What does not open must not take the place of what does.
        VolumeKeys::derive_checked(&opened.plaintext, self.id, &self.keys.commitment)?;
        let wrapped = Wrapped { key_arn: opened.key_arn, key_version: opened.key_version, blob };
        let mut page = self.page.lock();
        let before = std::mem::replace(&mut page.wrapped, wrapped);
        let updated = self.update(&mut page, |_| ());
        if updated.is_err() {
            page.wrapped = before;
        }
        Ok(updated?)
    }

    /// ARN of the master key for new files where no directory says otherwise.
    pub fn default_key(&self) -> String {
        self.page.lock().state.default_key.clone()
    }

    /// Sets the master key for new files, durably.
    ///
    /// # Errors
    /// When the page cannot be written; the old key stays.
    pub fn set_default_key(&self, arn: &str) -> io::Result<()> {
        self.update(&mut self.page.lock(), |state| arn.clone_into(&mut state.default_key))
    }

    /// Whether every file was settled when this mount began.
    pub fn began_settled(&self) -> bool {
        self.began_settled
    }

    /// Durably notes that the mount ended properly: everything is durable, and every file is
    /// settled if `all_settled`. `recovered` says that nothing from an earlier crash is left.
    ///
    /// # Errors
    /// When the page cannot be written.
    pub fn end_mount(&self, recovered: bool, all_settled: bool) -> io::Result<()> {
        if self.read_only || (self.is_recovering() && !recovered) {
            return Ok(());
        }
        self.update(&mut self.page.lock(), |state| {
            state.clean = true;
            state.all_settled = all_settled;
            state.unclean_since = 0;
        })
    }

    /// Writes everything in the backing filesystem to disk.
    ///
    /// # Errors
    /// As syncfs(2).
    pub fn sync(&self) -> io::Result<()> {
        let synced = self.disk.sync_all(&self.root);
        if synced.is_err() {
            self.sync_failed.store(true, Ordering::Release);
        }
        Ok(synced?)
    }

    /// Whether everything that [`Volume::sync`] was ever to make durable is.
    pub(super) fn is_sound(&self) -> bool {
        !self.sync_failed.load(Ordering::Acquire)
    }

    fn begin_mount(&self) -> io::Result<()> {
        let reserved = self.base_epoch.saturating_add(EPOCH_BATCH);
        self.update(&mut self.page.lock(), |state| {
            state.epochs_reserved = reserved;
            if state.clean {
                state.clean = false;
                state.unclean_since = jiff::Timestamp::now().as_second();
            }
        })?;
        self.reserved.store(reserved, Ordering::Release);
        Ok(())
    }

    /// Writes the page and then its copy, each durably; on failure the state in memory stays.
    fn update(&self, page: &mut VolumePage, change: impl FnOnce(&mut VolumeState)) -> io::Result<()> {
        let mut state = page.state.clone();
        change(&mut state);
        let sequence = page.sequence + 1;
        let commitment = &self.keys.commitment;
        let bytes = state
            .encode()
            .and_then(|state| {
                Page::build(&page.head, sequence, &page.wrapped, commitment, None, &state, &self.keys.header)
            })
            .map_err(io::Error::other)?;
        for file in &page.files {
            file.write_at(&bytes, 0)?;
            file.sync(true)?;
        }
        page.state = state;
        page.sequence = sequence;
        Ok(())
    }
}

/// How the master key of a volume's own is described.
fn own_key_description(volume: Id) -> String {
    format!("kmsfs volume {volume}")
}

fn open_root(path: &Path) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

fn lock(file: &DiskFile, shown: &str, read_only: bool) -> Result<(), VolumeError> {
    let operation = if read_only {
        FlockOperation::NonBlockingLockShared
    } else {
        FlockOperation::NonBlockingLockExclusive
    };
    match rustix::fs::flock(file, operation) {
        Ok(()) => Ok(()),
        Err(Errno::WOULDBLOCK) => {
            Err(VolumeError::InUse { path: shown.to_owned(), by: sys::lock_holder(file.as_fd()) })
        }
        Err(e) => Err(explain(shown, e.into())),
    }
}

pub(super) fn explain(shown: &str, error: io::Error) -> VolumeError {
    match error.raw_os_error() {
        Some(libc::EROFS) => VolumeError::ReadOnly(shown.to_owned()),
        Some(libc::ENOSPC | libc::EDQUOT) => VolumeError::NoSpace(shown.to_owned()),
        _ => VolumeError::Io(shown.to_owned(), error),
    }
}
