//! Locking the store while its owner goes on: the root key and all material of master keys leave the
//! memory, and every mount lets go of its data keys. Unlocking takes a secret of the store and brings
//! everything back.
//!
//! Locking refuses calls → lets calls under way end → writes down how keys were used → drops what is
//! secret → tells the mounts, which write back what is dirty with the data keys that they have, and drop
//! those. It is never refused, neither for want of room in the audit log nor because a mount is silent.
//! Unlocking goes the other way round, and does what the clock asked for meanwhile before the mounts hear
//! of it.
//!
//! What stays: the sealed rows, the records (states, policies, grants, aliases), what authenticates
//! requests and signs those to proxies, the lock on the store, the socket, and the log with its key.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;

use super::book::Entry;
use super::held::{Counts, Held};
use super::transition::unreachable;
use super::{CUT_BUDGET, Caller, Service};
use crate::kms::audit::Parameter;
use crate::kms::error::{ErrorKind, KmsError};
use crate::kms::id::KeyId;
use crate::kms::state::Operation;
use crate::kms::store_api::{LockReason, LockStoreResponse, Locked, UnlockStoreRequest, UnlockStoreResponse};
use crate::kms::watch::KeyWatcher;
use crate::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use crate::sync::{Instant, Mutex, thread};

/// Names of the operation in the audit log.
const LOCK: &str = "LockStore";
/// How long calls that had begun, such as one that waits for a proxy, are waited for.
const LAST_CALLS: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(1);

/// Whether the store is locked.
pub(super) struct Lockdown {
    /// Locking and unlocking come one at a time, and one secret is tried at a time.
    turn: Mutex<()>,
    /// Whether `now` is there: for those who ask at every call.
    is_locked: AtomicBool,
    now: Mutex<Option<Locked>>,
    /// How the material was used that is away.
    counts: Mutex<BTreeMap<(KeyId, usize), Arc<Counts>>>,
    /// Milliseconds since 1970 of the last call that wanted key material.
    last_call: AtomicI64,
}

impl Lockdown {
    pub(super) fn new(now: Timestamp) -> Self {
        Self {
            turn: Mutex::new(()),
            is_locked: AtomicBool::new(false),
            now: Mutex::new(None),
            counts: Mutex::default(),
            last_call: AtomicI64::new(now.as_millisecond()),
        }
    }

    /// Notes that somebody wanted key material.
    pub(super) fn note_call(&self, at: Timestamp) {
        self.last_call.store(at.as_millisecond(), Ordering::Relaxed);
    }

    fn set(&self, locked: Option<Locked>) {
        let mut now = self.now.lock();
        *now = locked;
        self.is_locked.store(now.is_some(), Ordering::SeqCst);
    }
}

impl Service {
    /// Whether the store is locked.
    pub fn is_locked(&self) -> bool {
        self.lockdown.is_locked.load(Ordering::SeqCst)
    }

    /// Since when the store is locked, and why.
    pub fn locked(&self) -> Option<Locked> {
        *self.lockdown.now.lock()
    }

    /// For how long nobody wanted key material: no call, and no use of a file on any mount, as far as
    /// those answer.
    pub fn unused(&self) -> Duration {
        let last = self.lockdown.last_call.load(Ordering::Relaxed);
        let own = self.clock.now().as_millisecond().saturating_sub(last);
        let own = Duration::from_millis(u64::try_from(own).unwrap_or(0));
        let mounts = self.mounts().into_iter().filter_map(|mount| mount.unused_ms);
        mounts.map(Duration::from_millis).chain([own]).min().unwrap_or(own)
    }

    /// LockStore, by the store's owner. When it returns, no key material is in this process, and no data
    /// key in any mount that answered.
    ///
    /// # Errors
    /// AccessDenied.
    pub fn lock_store(&self, caller: &Caller) -> Result<LockStoreResponse, KmsError> {
        self.demand_root(caller, LOCK).inspect_err(|error| self.log_refused_caller(caller, LOCK, error))?;
        let done = self.lock(LockReason::Command);
        let asked = json!({ "Reason": LockReason::Command });
        // It is done. That it cannot be logged must not keep keys in memory.
        if let Err(error) = self.look_after(caller, LOCK, &asked, true, || Ok(())) {
            tracing::error!(%error, "the key store is locked, and that is not in the audit log");
        }
        Ok(done)
    }

    /// Locks the store without being told to; says what came of it in the logs.
    pub fn lock_by_itself(&self, reason: LockReason) {
        let done = self.lock(reason);
        if done.was_locked {
            return;
        }
        let name = format!("{reason:?}");
        self.log_own_deed(LOCK, &[("Reason", Parameter::Text(&name))]);
        for mount in done.mounts.iter().filter(|mount| mount.unreachable) {
            tracing::warn!(mount = mount.mount, "a mount did not answer: its files may still be readable");
        }
    }

    /// UnlockStore. When it returns, every mount that answered has its keys back.
    ///
    /// # Errors
    /// AccessDenied for a wrong secret; Internal, when the store cannot be read. It stays locked then.
    pub fn unlock_store(&self, request: &UnlockStoreRequest) -> Result<UnlockStoreResponse, KmsError> {
        let _turn = self.lockdown.turn.lock();
        if !self.is_locked() {
            return Ok(UnlockStoreResponse { was_locked: false, silent: Vec::new() });
        }
        self.store.unlock(&request.secret.to_secret()?)?;
        if let Err(error) = self.take_back() {
            self.let_go();
            return Err(error);
        }
        self.lockdown.note_call(self.clock.now());
        self.lockdown.set(None);
        // What the clock took away meanwhile is cut before the mounts let anybody in.
        self.tick();
        let asked = self.watchers.ask(
            CUT_BUDGET,
            |watcher| {
                watcher.unlock();
                None
            },
            |mount| Some(mount.to_owned()),
        );
        tracing::info!("the key store is unlocked");
        Ok(UnlockStoreResponse { was_locked: true, silent: asked.into_iter().flatten().collect() })
    }

    /// Carries out the part of a call that may need the store unlocked.
    pub(super) fn unless_locked<T>(
        &self,
        operation: Operation,
        body: impl FnOnce() -> Result<T, KmsError>,
    ) -> Result<T, KmsError> {
        if !operation.needs_unlocked_store() {
            return body();
        }
        if self.is_locked() {
            return Err(KmsError::locked());
        }
        body().map_err(|error| {
            // One that found no material, as it was just being taken away.
            let is_overtaken = self.is_locked() && error.kind() != ErrorKind::AccessDenied;
            if is_overtaken { KmsError::locked() } else { error }
        })
    }

    /// Brings a mount that comes (back) into step with the whole store.
    pub(super) fn tell_whether_locked(&self, watcher: &dyn KeyWatcher, takes_for_locked: bool) {
        let _turn = self.lockdown.turn.lock();
        if self.is_locked() {
            drop(watcher.lock(self.drain_budget));
        } else if takes_for_locked {
            watcher.unlock();
        }
    }

    fn lock(&self, reason: LockReason) -> LockStoreResponse {
        let _turn = self.lockdown.turn.lock();
        let before = self.locked();
        let locked = before.unwrap_or_else(|| {
            let locked = Locked { since: self.clock.now(), reason };
            self.lockdown.set(Some(locked));
            // Whoever was let in before is out of the book when it can be had alone.
            drop(self.book.write());
            self.write_final_usage();
            self.let_go();
            tracing::info!("the key store is locked {reason}");
            locked
        });
        // Once more for one that was silent before.
        let drain = self.drain_budget;
        let mounts = self.watchers.ask(drain + CUT_BUDGET, move |watcher| watcher.lock(drain), unreachable);
        LockStoreResponse { locked, was_locked: before.is_some(), mounts }
    }

    /// Drops the root key and all material.
    fn let_go(&self) {
        let _writing = self.writes.lock();
        let keys = self.store.lock();
        let mut left = Vec::new();
        {
            let mut counts = self.lockdown.counts.lock();
            let mut book = self.book.write();
            for entry in book.keys.values_mut() {
                for (index, held) in entry.material.iter().enumerate() {
                    let Some(held) = held else { continue };
                    counts.insert((entry.record.id, index), Arc::clone(held.counts()));
                    left.push(Arc::downgrade(held));
                }
                let material = vec![None; entry.material.len()];
                *entry = Arc::new(entry.successor(entry.record.clone(), material, self.realm()));
            }
            // They have the private keys that material is wrapped for.
            book.imports.clear();
        }
        let deadline = Instant::now() + LAST_CALLS;
        let is_over = || Weak::strong_count(&keys) == 0 && left.iter().all(|held| held.strong_count() == 0);
        while !is_over() {
            if Instant::now() >= deadline {
                tracing::warn!("calls that began before the key store was locked still have key material");
                return;
            }
            thread::sleep(POLL);
        }
    }

    /// Loads all material. Nothing else has changed since it was let go of.
    fn take_back(&self) -> Result<(), KmsError> {
        let contents = self.store.load()?;
        let _writing = self.writes.lock();
        let mut counts = self.lockdown.counts.lock();
        let mut book = self.book.write();
        for (record, material) in contents.keys {
            let Some(entry) = book.keys.get_mut(&record.id) else { continue };
            let held =
                material.into_iter().zip(&record.versions).enumerate().map(|(index, (material, version))| {
                    let counts = counts.get(&(record.id, index)).cloned();
                    let held = |material| match counts {
                        Some(counts) => Held::counted(material, counts),
                        None => Held::new(material, version.wraps_reserved),
                    };
                    material.map(|material| Arc::new(held(material)))
                });
            let held = held.collect();
            *entry = Arc::new(Entry::successor(entry, entry.record.clone(), held, self.realm()));
        }
        book.imports = contents.imports.into_iter().map(|import| (import.token, import)).collect();
        counts.clear();
        Ok(())
    }
}
