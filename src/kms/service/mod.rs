//! The service itself: what is in memory, and the choke point that every call passes.

mod aliases;
mod book;
mod crypt;
mod keys;
mod transition;
mod upkeep;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::api::StatusResponse;
use super::error::KmsError;
use super::id::{KeyId, Realm, StoreId};
use super::state::{self, KeyManager, Operation};
use super::store::{Disk, Store, StoreError, StoreOptions, SystemDisk, UnlockSecret};
use super::watch::{KeyWatcher, MountStatus, WatchGuard, Watchers};
use crate::clock::Clock;
use crate::sync::atomic::{AtomicI64, Ordering};
use crate::sync::{Mutex, RwLock};
use book::{Book, Entry};
use transition::Turns;

pub use crypt::{DataKey, UnwrappedDataKey};

/// How long a mount may take to write back what is dirty under a key that is being revoked.
pub(super) const DRAIN_BUDGET: Duration = Duration::from_secs(10);
/// How long a mount may take to cut a key off, or to take it back.
pub(super) const CUT_BUDGET: Duration = Duration::from_secs(5);
/// How long a mount may take to describe itself.
pub(super) const DESCRIBE_BUDGET: Duration = Duration::from_secs(2);

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Process id.
    pub pid: u32,
    /// Name of the program.
    pub program: String,
}

impl Caller {
    /// This process.
    pub fn current() -> Self {
        let program = std::env::current_exe().ok();
        let program = program.as_deref().and_then(Path::file_name).unwrap_or_default();
        Self {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            pid: std::process::id(),
            program: program.to_string_lossy().into_owned(),
        }
    }
}

/// An unlocked key store and the operations on it. May be used from any thread; share it in an
/// `Arc`. Dropping it zeroizes all key material and gives the store up.
///
/// Locks, in the order in which they are taken:
/// 1. `turns`: one state change per key at a time; held while mounts are told.
/// 2. `writes`: orders validate, commit, publish; held during I/O.
/// 3. `book`: the keys. Read-locked for the microsecond that a cryptographic operation takes,
///    write-locked to publish what is durable. Never held during I/O. So once a state is
///    published, no operation that saw the old one is still under way.
pub struct Service {
    store: Store,
    clock: Arc<dyn Clock>,
    /// How long mounts may drain; [`DRAIN_BUDGET`] outside tests.
    drain_budget: Duration,
    turns: Turns,
    writes: Mutex<()>,
    book: RwLock<Book>,
    watchers: Arc<Watchers>,
    /// Milliseconds since 1970 of the next deletion; `i64::MAX` when there is none.
    next_deletion: AtomicI64,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").field("store", self.store.id()).finish_non_exhaustive()
    }
}

/// A call under way: who, what, when.
pub(super) struct Call<'a> {
    caller: &'a Caller,
    operation: Operation,
    now: Timestamp,
}

impl Service {
    /// Creates a key store in `dir`, opened by `secret`. The directory is created if need be.
    ///
    /// # Errors
    /// [`StoreError::AlreadyExists`] if there is one; nothing is changed then.
    /// [`StoreError::InUse`], [`StoreError::Invalid`], [`StoreError::NoSpace`] or
    /// [`StoreError::Io`], each leaving no store behind.
    pub fn create(
        dir: &Path,
        secret: &UnlockSecret,
        options: &StoreOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, StoreError> {
        Self::create_on(Arc::new(SystemDisk), dir, secret, options, clock)
    }

    /// As [`Service::create`], on another disk than the operating system's. The lock is in `dir`
    /// all the same.
    ///
    /// # Errors
    /// As [`Service::create`].
    pub fn create_on(
        disk: Arc<dyn Disk>,
        dir: &Path,
        secret: &UnlockSecret,
        options: &StoreOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, StoreError> {
        Self::start(Store::create(disk, dir, secret, options)?, clock)
    }

    /// Opens the key store in `dir` and holds it until the service is dropped. Deletions that
    /// came due meanwhile are carried out.
    ///
    /// # Errors
    /// Any [`StoreError`] but [`StoreError::AlreadyExists`].
    pub fn open(dir: &Path, secret: &UnlockSecret, clock: Arc<dyn Clock>) -> Result<Arc<Self>, StoreError> {
        Self::open_on(Arc::new(SystemDisk), dir, secret, clock)
    }

    /// As [`Service::open`], on another disk than the operating system's. The lock is in `dir`
    /// all the same.
    ///
    /// # Errors
    /// As [`Service::open`].
    pub fn open_on(
        disk: Arc<dyn Disk>,
        dir: &Path,
        secret: &UnlockSecret,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, StoreError> {
        Self::start(Store::open(disk, dir, secret)?, clock)
    }

    /// The store's id.
    pub fn store_id(&self) -> &StoreId {
        self.store.id()
    }

    /// The store's region and account.
    pub fn realm(&self) -> &Realm {
        self.store.realm()
    }

    /// The store's directory.
    pub fn dir(&self) -> &Path {
        self.store.dir()
    }

    /// Registers a mount. From now on it is told of every revocation; keys that it says it holds
    /// are brought up to date at once, in the background.
    pub fn watch(self: &Arc<Self>, watcher: Arc<dyn KeyWatcher>) -> WatchGuard {
        self.watch_described(watcher.describe(), watcher)
    }

    /// As [`Service::watch`], for a mount that has described itself.
    pub fn watch_described(
        self: &Arc<Self>,
        status: MountStatus,
        watcher: Arc<dyn KeyWatcher>,
    ) -> WatchGuard {
        let guard = self.watchers.add(status.mountpoint, Arc::clone(&watcher));
        if !status.open_files.is_empty() {
            self.bring_up_to_date(watcher, status.open_files.into_keys().collect());
        }
        guard
    }

    /// Number of mounts that watch.
    pub fn watchers(&self) -> usize {
        self.watchers.count()
    }

    /// What every mount says of itself. Waits up to two seconds for mounts that do not answer
    /// and lists these by name alone.
    pub fn mounts(&self) -> Vec<MountStatus> {
        self.watchers.ask(
            DESCRIBE_BUDGET,
            |watcher| watcher.describe(),
            |mount| MountStatus { mountpoint: mount.to_owned(), ..MountStatus::default() },
        )
    }

    /// The store, its keys by state, its mounts.
    pub fn status(&self) -> StatusResponse {
        let mut keys = BTreeMap::new();
        for entry in self.book.read().keys.values() {
            if entry.record.manager != KeyManager::Internal {
                *keys.entry(entry.record.state.to_string()).or_default() += 1;
            }
        }
        StatusResponse {
            store_id: self.store.id().to_string(),
            directory: self.store.dir().display().to_string(),
            region: self.realm().region.clone(),
            account: self.realm().account.clone(),
            pid: std::process::id(),
            unlocked: true,
            memory_locked: crate::secret::all_locked(),
            keys,
            mounts: self.mounts(),
        }
    }

    /// Destroys the keys whose deletion is due. Operations other than cryptographic ones do it
    /// by themselves; an owner that may be idle for long calls it now and then.
    pub fn tick(&self) {
        let now = self.clock.now();
        if now.as_millisecond() >= self.next_deletion.load(Ordering::Acquire) {
            self.destroy_due(now);
        }
    }

    /// The choke point: every operation of every front end runs inside.
    fn run<T>(
        &self,
        caller: &Caller,
        operation: Operation,
        body: impl FnOnce(&Call<'_>) -> Result<T, KmsError>,
    ) -> Result<T, KmsError> {
        if !operation.is_cryptographic() {
            self.tick();
        }
        let call = Call { caller, operation, now: self.clock.now() };
        let result = body(&call);
        self.record(&call, result.as_ref().err());
        result
    }

    /// Whether `call` may use or manage `entry` now: permission first, then the key's state.
    fn admit(&self, call: &Call<'_>, entry: &Entry) -> Result<(), KmsError> {
        self.permit(call, Some(entry))?;
        state::check(call.operation, &entry.arn, entry.record.state)
    }

    /// Permission. The front ends answer nobody but root and the store's owner, and these may do
    /// everything; policies and grants will decide here.
    #[allow(clippy::unused_self, clippy::unnecessary_wraps)]
    fn permit(&self, _call: &Call<'_>, _entry: Option<&Entry>) -> Result<(), KmsError> {
        Ok(())
    }

    /// Audit of a finished call, refused ones too.
    fn record(&self, call: &Call<'_>, error: Option<&KmsError>) {
        let (caller, operation) = (call.caller, call.operation);
        match error {
            None => tracing::trace!(uid = caller.uid, pid = caller.pid, %operation, "key service call"),
            Some(error) => {
                tracing::debug!(uid = caller.uid, pid = caller.pid, program = caller.program, %operation, %error, "key service call refused");
            }
        }
    }

    fn start(store: Store, clock: Arc<dyn Clock>) -> Result<Arc<Self>, StoreError> {
        let book = Book::load(&store)?;
        let service = Self {
            next_deletion: AtomicI64::new(book.next_deletion()),
            store,
            clock,
            drain_budget: DRAIN_BUDGET,
            turns: Turns::default(),
            writes: Mutex::new(()),
            book: RwLock::new(book),
            watchers: Arc::default(),
        };
        service.tick();
        Ok(Arc::new(service))
    }

    fn entry(&self, id: &KeyId) -> Result<Arc<Entry>, KmsError> {
        self.book.read().by_id(id, self.realm()).cloned()
    }
}
