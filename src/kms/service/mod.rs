//! The service itself: what is in memory, and the choke point that every call passes.

mod access_keys;
mod aliases;
mod audit;
mod behalf;
mod book;
mod creation;
mod crypt;
mod destruction;
mod directory;
mod external;
pub(super) mod facts;
mod grant_book;
mod grants;
mod held;
mod import;
mod keys;
mod locking;
mod mac;
mod oaep;
mod pairs;
mod permit;
mod policies;
mod receipts;
mod retirement;
mod rotation;
mod signing;
mod simulate;
mod tags;
mod ticking;
mod transition;
mod upkeep;
mod usage;
mod volumes;

#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;

use super::audit::{AuditLog, DIRECTORY, EventId, EventIds, Limits, Mode, Owner, Setup};
use super::error::KmsError;
use super::id::{KeyId, Realm, StoreId};
use super::policy::{self, Identity, Policy};
use super::receipt::ReceiptKey;
use super::state::{self, Operation};
use super::store::{Disk, Store, StoreError, StoreOptions, SystemDisk, UnlockSecret};
use super::watch::{CutReport, KeyWatcher, MountStatus, WatchGuard, Watchers};
use crate::clock::Clock;
use crate::sync::atomic::{AtomicBool, AtomicI64};
use crate::sync::{Mutex, RwLock};
use behalf::Behalf;
use book::{Book, Entry};
use directory::Directory;
use external::Network;
use facts::Facts;
use locking::Lockdown;
use permit::Rights;
use transition::Turns;

pub use access_keys::AccessKey;
pub use behalf::{FileAccess, MAX_PATH, OnBehalf};
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
    /// User id. Of a caller from the network: that of this process.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Process id.
    pub pid: u32,
    /// Name of the program, or of the user agent.
    pub program: String,
    /// Who it is that came over the network.
    pub remote: Option<Remote>,
    /// The mount that calls for this user, and for what.
    pub(super) behalf: Option<Arc<Behalf>>,
}

/// A caller from the network, who has proved to hold an access key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// The user that the access key belongs to.
    pub user: String,
    /// The access key's id.
    pub access_key_id: String,
    /// Where the request came from.
    pub address: IpAddr,
    /// Whether it came through TLS.
    pub secure: bool,
}

impl Caller {
    /// A local process.
    pub fn local(uid: u32, gid: u32, pid: u32, program: String) -> Self {
        Self { uid, gid, pid, program, remote: None, behalf: None }
    }

    /// This process.
    pub fn current() -> Self {
        let program = std::env::current_exe().ok();
        let program = program.as_deref().and_then(Path::file_name).unwrap_or_default();
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        let program = program.to_string_lossy().into_owned();
        Self::local(uid.as_raw(), gid.as_raw(), std::process::id(), program)
    }
}

/// An unlocked key store and the operations on it. May be used from any thread; share it in an
/// `Arc`. Dropping it zeroizes all key material and gives the store up.
///
/// Locks, in the order in which they are taken:
/// 0. `lockdown`: the store is locked or unlocked by one at a time; held while mounts are told.
/// 1. `turns`: one state change per key at a time; held while mounts are told.
/// 2. `writes`: orders validate, commit, publish; held during I/O.
/// 3. `book`: the keys. Read-locked for the microsecond that a cryptographic operation takes,
///    write-locked to publish what is durable. Never held during I/O. So once a state is
///    published, no operation that saw the old one is still under way.
/// 4. `rights`: grants, and whatever else permissions depend on. Never held during I/O.
pub struct Service {
    store: Store,
    clock: Arc<dyn Clock>,
    /// How long mounts may drain; [`DRAIN_BUDGET`] outside tests.
    drain_budget: Duration,
    lockdown: Lockdown,
    turns: Turns,
    writes: Mutex<()>,
    book: RwLock<Book>,
    rights: RwLock<Rights>,
    directory: Directory,
    /// Of keys that were given no other.
    default_policy: Policy,
    watchers: Arc<Watchers>,
    /// Milliseconds since 1970 of what the clock does to a key next; see [`Book::next_due`].
    next_due: AtomicI64,
    /// Whether the store's file was made anew for the first write that nobody asked for.
    renewed: AtomicBool,
    /// Milliseconds since 1970 when counts and last uses are to be written next.
    next_flush: AtomicI64,
    /// Milliseconds since 1970 before which a scrub that failed is not tried again.
    next_scrub: AtomicI64,
    /// Known while the store is locked, too.
    receipt_key: OnceLock<ReceiptKey>,
    audit: AuditLog,
    /// Leads to the proxies of external key stores. No lock is held while they are asked.
    network: Arc<Network>,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").field("store", self.store.id()).finish_non_exhaustive()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if !std::thread::panicking() && !self.is_locked() {
            self.write_final_usage();
            self.scrub();
        }
        self.close_audit();
    }
}

/// A call under way: who, what, when.
pub(super) struct Call<'a> {
    caller: &'a Caller,
    /// Who that is to policies, or why nobody knows.
    identity: Result<Arc<Identity>, KmsError>,
    operation: Operation,
    /// Of its event in the audit log.
    id: EventId,
    now: Timestamp,
    facts: &'a dyn Facts,
    /// The key that ReEncrypt moves a ciphertext to, before that key is come to.
    destination: Cell<Option<KeyId>>,
    /// The keys that it has come to, in this order.
    keys: RefCell<Vec<UsedKey>>,
    /// What the event tells of the answer, under the names of the answer's members.
    answered: RefCell<Vec<(&'static str, String)>>,
    /// What else the audit log is to say of it.
    notes: RefCell<Vec<(&'static str, String)>>,
}

/// A key that a call came to.
pub(super) struct UsedKey {
    entry: Arc<Entry>,
    /// The version of its material that was used, once it was.
    version: Option<u32>,
}

impl Call<'_> {
    /// Notes a key, whatever becomes of the call.
    fn comes_to(&self, entry: &Arc<Entry>) {
        self.keys.borrow_mut().push(UsedKey { entry: Arc::clone(entry), version: None });
    }

    /// Notes something for the audit log.
    fn note(&self, name: &'static str, value: impl Into<String>) {
        self.notes.borrow_mut().push((name, value.into()));
    }

    /// Notes which version of the last key was used.
    fn uses(&self, version: u32) {
        if let Some(last) = self.keys.borrow_mut().last_mut() {
            last.version = Some(version);
        }
    }

    /// Notes a part of the answer for the event.
    fn answers(&self, member: &'static str, value: String) {
        self.answered.borrow_mut().push((member, value));
    }

    /// What was cut off, for the answer: a caller from the network is not told of this machine's
    /// mounts.
    fn shows(&self, mounts: Vec<CutReport>) -> Vec<CutReport> {
        if self.caller.remote.is_some() { Vec::new() } else { mounts }
    }
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

    /// As [`Service::watch`], for a mount of another process, which has described itself. That is
    /// logged: revocations wait for whoever attaches.
    ///
    /// # Errors
    /// Internal, when it cannot be logged.
    pub fn attach(
        self: &Arc<Self>,
        caller: &Caller,
        status: MountStatus,
        watcher: Arc<dyn KeyWatcher>,
    ) -> Result<WatchGuard, KmsError> {
        let asked = json!({ "Path": status.mountpoint, "Volume": status.volume });
        self.look_after(caller, "AttachMount", &asked, false, || Ok(()))?;
        Ok(self.watch_described(status, watcher))
    }

    fn watch_described(self: &Arc<Self>, status: MountStatus, watcher: Arc<dyn KeyWatcher>) -> WatchGuard {
        let guard = self.watchers.add(status.mountpoint, Arc::clone(&watcher));
        self.bring_up_to_date(watcher, status.locked, status.open_files.into_keys().collect());
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

    /// The choke point: every operation of every front end runs inside.
    fn run<T>(
        &self,
        caller: &Caller,
        operation: Operation,
        facts: &dyn Facts,
        body: impl FnOnce(&Call<'_>) -> Result<T, KmsError>,
    ) -> Result<T, KmsError> {
        if !operation.is_cryptographic() {
            self.follow_the_clock();
        }
        let place = self.audit_place()?;
        let now = self.clock.now();
        let call = Call {
            caller,
            identity: self.directory.identity(caller, now),
            operation,
            id: self.audit.setup().ids.next(),
            now,
            facts,
            destination: Cell::new(None),
            keys: RefCell::default(),
            answered: RefCell::default(),
            notes: RefCell::default(),
        };
        let carried = self.carried(&call);
        if operation.is_cryptographic() {
            self.lockdown.note_call(now);
        }
        let result = self.unless_locked(operation, || body(&call));
        if result.is_ok() && operation.is_cryptographic() {
            call.note_uses();
        }
        self.record(&call, result.as_ref().err());
        self.log_call(&call, place, carried, result.as_ref().err())?;
        result
    }

    /// Whether `call` may use or manage `entry` now: permission first, then the key's state.
    fn admit(&self, call: &Call<'_>, entry: &Arc<Entry>) -> Result<(), KmsError> {
        self.admit_as(call, entry, call.operation.name())
    }

    /// As [`Service::admit`], under the name that policies know a part of an operation by.
    fn admit_as(&self, call: &Call<'_>, entry: &Arc<Entry>, action: &str) -> Result<(), KmsError> {
        call.comes_to(entry);
        self.permit(call, Some(entry), action)?;
        state::check(call.operation, &entry.arn, entry.state_at(call.now))
    }

    /// Whether `call`, which is not about one key, may be made.
    fn admit_general(&self, call: &Call<'_>) -> Result<(), KmsError> {
        self.permit(call, None, call.operation.name())
    }

    /// A finished call in the log for people, refused ones too.
    fn record(&self, call: &Call<'_>, error: Option<&KmsError>) {
        let (caller, operation) = (call.caller, call.operation);
        let keys = call.keys.borrow();
        let key = keys.last().map(|used| (&*used.entry.arn, used.version));
        match error {
            None => tracing::trace!(uid = caller.uid, pid = caller.pid, %operation, ?key, "key service call"),
            // The parameters are put together only for a log that wants them.
            Some(error) => {
                tracing::debug!(uid = caller.uid, pid = caller.pid, program = caller.program, %operation, ?key, asked = %call.facts.parameters(), %error, "key service call refused");
            }
        }
    }

    fn start(store: Store, clock: Arc<dyn Clock>) -> Result<Arc<Self>, StoreError> {
        let network = Arc::default();
        let (book, rights) = Book::load(&store, &network)?;
        let account = &store.realm().account;
        let default_policy = policy::default_policy(account);
        let default_policy = Policy::parse(&default_policy)
            .map_err(|_| StoreError::Invalid("the store's account cannot stand in a policy"))?;
        let setup = Setup {
            disk: Arc::clone(store.disk()),
            dir: store.dir().join(DIRECTORY),
            owner: Owner { store: *store.id(), realm: store.realm().clone() },
            key: store.audit_key(),
            limits: Limits::default(),
            ids: Arc::new(EventIds::random()?),
        };
        let audit = AuditLog::start(setup, store.audit_anchor(), Mode::Required, Arc::clone(&clock));
        let service = Self {
            audit: audit.map_err(StoreError::io("start the audit log"))?,
            directory: Directory::new(account, owners(store.dir())),
            default_policy,
            rights: RwLock::new(rights),
            next_due: AtomicI64::new(book.next_due()),
            renewed: AtomicBool::new(false),
            next_flush: AtomicI64::new(i64::MIN),
            next_scrub: AtomicI64::new(i64::MIN),
            receipt_key: OnceLock::new(),
            store,
            lockdown: Lockdown::new(clock.now()),
            clock,
            drain_budget: DRAIN_BUDGET,
            turns: Turns::default(),
            writes: Mutex::new(()),
            book: RwLock::new(book),
            watchers: Arc::default(),
            network,
        };
        service.receipt_key().map_err(|_| StoreError::Invalid("no key for receipts can be derived"))?;
        service.log_what_was_left();
        service.tick();
        Ok(Arc::new(service))
    }

    fn entry(&self, id: &KeyId) -> Result<Arc<Entry>, KmsError> {
        self.book.read().by_id(id, self.realm()).cloned()
    }
}

/// Who owns a store: whom this process runs as and, if that is root, whom its directory belongs to.
fn owners(dir: &Path) -> Vec<u32> {
    use std::os::unix::fs::MetadataExt;
    let own = rustix::process::geteuid().as_raw();
    // Nobody but root could vouch for somebody else's directory.
    let of_dir = std::fs::metadata(dir).ok().map(|found| found.uid()).filter(|_| own == 0);
    [own].into_iter().chain(of_dir).collect()
}
