//! Changes of a key's state, and how the mounts follow.
//!
//! Revoking is: every mount writes back what is dirty under the key (*drain*) → the new state is
//! durable and published, so that nothing is unwrapped any more → every mount drops what it holds
//! (*cut*) → the caller is answered. Restoring is: durable, published, mounts told.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::book::{Entry, Spelling};
use super::facts::Facts;
use super::held::Held;
use super::{CUT_BUDGET, Call, Caller, Service};
use crate::kms::api::{DisableKeyRequest, KeyRequest, ScheduleKeyDeletionRequest, StateResponse};
use crate::kms::error::{ErrorKind, KmsError};
use crate::kms::id::{Arn, KeyId, Resource};
use crate::kms::state::{KeyState, Operation};
use crate::kms::store::{Change, Deletion, KeyRecord, Record, RecordName};
use crate::kms::watch::{CutReport, KeyWatcher, merge};
use crate::sync::atomic::Ordering;
use crate::sync::{Condvar, Mutex, thread};

const MIN_WINDOW_DAYS: u32 = 7;
const MAX_WINDOW_DAYS: u32 = 30;
/// The part of the time for draining that a mount has for the draining itself.
const WORKING: f32 = 0.9;

impl Service {
    /// EnableKey. Mounts take the key back before this returns.
    ///
    /// # Errors
    /// NotFound, InvalidState, AccessDenied, Internal.
    pub fn enable_key(&self, caller: &Caller, request: &KeyRequest) -> Result<StateResponse, KmsError> {
        let go_on = IfUnwritten::GoOn;
        self.change_state(caller, Operation::EnableKey, request, &request.key_id, go_on, |record, _| {
            record.state = KeyState::Enabled;
        })
    }

    /// DisableKey. When this returns, nothing under the key can be read; the answer says what
    /// was cut off on every mount, and names mounts that could not be told.
    ///
    /// # Errors
    /// NotFound, InvalidState, AccessDenied, UnsupportedOperation for internal keys, Internal.
    /// The key is as it was then.
    pub fn disable_key(&self, caller: &Caller, request: &KeyRequest) -> Result<StateResponse, KmsError> {
        let key_id = request.key_id.clone();
        self.disable_key_as(caller, &DisableKeyRequest { key_id, stop_if_unwritten: false })
    }

    /// DisableKey with its parameter about what cannot be written back.
    ///
    /// # Errors
    /// As [`Service::disable_key`], and Unwritten.
    pub fn disable_key_as(
        &self,
        caller: &Caller,
        request: &DisableKeyRequest,
    ) -> Result<StateResponse, KmsError> {
        let unwritten = IfUnwritten::of(request.stop_if_unwritten);
        let key = &request.key_id;
        self.change_state(caller, Operation::DisableKey, request, key, unwritten, |record, _| {
            record.state = KeyState::Disabled;
        })
    }

    /// ScheduleKeyDeletion: revoked now, destroyed after the window of 7 to 30 days.
    ///
    /// # Errors
    /// As [`Service::disable_key_as`], and Validation.
    pub fn schedule_key_deletion(
        &self,
        caller: &Caller,
        request: &ScheduleKeyDeletionRequest,
    ) -> Result<StateResponse, KmsError> {
        let window_days = request.pending_window_in_days.unwrap_or(MAX_WINDOW_DAYS);
        let operation = Operation::ScheduleKeyDeletion;
        if !(MIN_WINDOW_DAYS..=MAX_WINDOW_DAYS).contains(&window_days) {
            let refusal = KmsError::validation("PendingWindowInDays must be 7 to 30");
            return self.run(caller, operation, request, |_| Err(refusal));
        }
        let unwritten = IfUnwritten::of(request.stop_if_unwritten);
        self.change_state(caller, operation, request, &request.key_id, unwritten, |record, now| {
            let window = SignedDuration::from_hours(24 * i64::from(window_days));
            let at = now.checked_add(window).unwrap_or(Timestamp::MAX);
            record.state = KeyState::PendingDeletion;
            record.deletion = Some(Deletion { at, window_days });
        })
    }

    /// CancelKeyDeletion. The key is Disabled afterwards, or waits for its material if it has none.
    ///
    /// # Errors
    /// NotFound, InvalidState, AccessDenied, Internal.
    pub fn cancel_key_deletion(
        &self,
        caller: &Caller,
        request: &KeyRequest,
    ) -> Result<StateResponse, KmsError> {
        let (operation, go_on) = (Operation::CancelKeyDeletion, IfUnwritten::GoOn);
        self.change_state(caller, operation, request, &request.key_id, go_on, |record, _| {
            let usable = record.versions.iter().any(|version| version.present);
            record.state = if usable { KeyState::Disabled } else { KeyState::PendingImport };
            record.deletion = None;
        })
    }

    fn change_state(
        &self,
        caller: &Caller,
        operation: Operation,
        facts: &dyn Facts,
        key: &str,
        unwritten: IfUnwritten,
        edit: impl Fn(&mut KeyRecord, Timestamp),
    ) -> Result<StateResponse, KmsError> {
        self.run(caller, operation, facts, |call| {
            let id = self.book.read().resolve(key, Spelling::IdOrArn, self.realm())?.record.id;
            let _turn = self.turns.take(id);
            let old = self.entry(&id)?;
            self.admit(call, &old)?;
            old.check_customer_managed()?;
            let mut wanted = old.record.clone();
            edit(&mut wanted, call.now);
            if wanted.state == old.record.state {
                return Ok(answer(&old, Vec::new()));
            }
            self.carry_out(call, &old, unwritten, &edit)
        })
    }

    /// A change that is allowed and changes the state. The caller holds the key's turn.
    fn carry_out(
        &self,
        call: &Call<'_>,
        old: &Entry,
        unwritten: IfUnwritten,
        edit: &dyn Fn(&mut KeyRecord, Timestamp),
    ) -> Result<StateResponse, KmsError> {
        let receipt = self.receipt_of(call, old, edit)?;
        let transited = self.transit(old, unwritten, || {
            // The window of a deletion counts from here, not from before the draining.
            let now = self.clock.now().max(call.now);
            let id = &old.record.id;
            let mut changes: Vec<_> = receipt.iter().map(Change::Put).collect();
            if receipt.is_none() && old.record.deletion.is_some() {
                changes.push(Change::Drop(RecordName::Receipt(id)));
            }
            self.publish(id, changes, |record, _| edit(record, now))
        });
        let (new, reports) = transited.map_err(|error| call.may_know(error))?;
        match receipt {
            Some(receipt) => self.book.write().keep_receipt(receipt),
            None => drop(self.book.write().receipts.remove(&old.record.id)),
        }
        call.answers("keyState", new.state().to_string());
        if let Some(deletion) = new.record.deletion {
            call.answers("deletionDate", deletion.at.to_string());
        }
        Ok(answer(&new, call.shows(reports)))
    }

    /// What is to be remembered for the receipt of a key that `edit` has deleted.
    fn receipt_of(
        &self,
        call: &Call<'_>,
        old: &Entry,
        edit: &dyn Fn(&mut KeyRecord, Timestamp),
    ) -> Result<Option<Record>, KmsError> {
        let mut wanted = old.record.clone();
        edit(&mut wanted, call.now);
        let scheduled = wanted.deletion.map(|deletion| self.scheduled(call, old, deletion.window_days));
        Ok(scheduled.transpose()?.map(Record::ReceiptV1))
    }

    /// Takes a key to the state that `publish` makes durable and visible, and the mounts with it.
    /// The caller holds the key's turn. If it cannot be published, or is not to be, everything is as it
    /// was.
    pub(super) fn transit(
        &self,
        old: &Entry,
        unwritten: IfUnwritten,
        publish: impl FnOnce() -> Result<Arc<Entry>, KmsError>,
    ) -> Result<(Arc<Entry>, Vec<CutReport>), KmsError> {
        let id = old.record.id;
        let was_usable = old.state() == KeyState::Enabled;
        let drained =
            if was_usable { self.drain_within(id, self.drain_budget, unwritten) } else { Vec::new() };
        let all_written = drained.iter().all(|report| report.unwritten.is_empty());
        let published = match unwritten {
            IfUnwritten::Stop if !all_written => Err(stopped(&old.arn, drained.clone())),
            _ => publish(),
        };
        let new = match published {
            Ok(new) => new,
            Err(error) => {
                if was_usable {
                    self.restore(id);
                }
                return Err(error);
            }
        };
        let state = new.state();
        let reports = if state == KeyState::Enabled {
            self.restore(id);
            Vec::new()
        } else {
            merge(drained, self.cut(id, state))
        };
        for report in &reports {
            for file in &report.unwritten {
                tracing::warn!(key = new.arn, mount = report.mount, "{file}");
            }
        }
        tracing::info!(key = new.arn, %state, mounts = reports.len(), "key state changed");
        Ok((new, reports))
    }

    /// Makes a change of a key durable, together with `changes`, and then visible.
    pub(super) fn publish(
        &self,
        id: &KeyId,
        changes: Vec<Change<'_>>,
        edit: impl FnOnce(&mut KeyRecord, &mut Vec<Option<Arc<Held>>>),
    ) -> Result<Arc<Entry>, KmsError> {
        let _writing = self.writes.lock();
        let old = self.entry(id)?;
        let (mut record, mut material) = (old.record.clone(), old.material.clone());
        edit(&mut record, &mut material);
        let stored = Record::KeyV2(record.clone());
        let mut changes = changes;
        changes.push(Change::Put(&stored));
        self.store.commit(&changes)?;
        let new = Arc::new(old.successor(record, material, self.realm()));
        let mut book = self.book.write();
        book.keys.insert(*id, Arc::clone(&new));
        self.next_due.store(book.next_due(), Ordering::Release);
        Ok(new)
    }

    /// Brings a mount that comes (back) into step: what it holds of keys that are not usable is
    /// cut, what it still has cut of usable ones is restored; the same for all keys together, if the store
    /// is locked or the mount takes it for that.
    pub(super) fn bring_up_to_date(
        self: &Arc<Self>,
        watcher: Arc<dyn KeyWatcher>,
        takes_for_locked: bool,
        keys: Vec<String>,
    ) {
        let named = keys.into_iter().filter_map(|key| match key.parse::<Arn>() {
            Ok(Arn { realm, resource: Resource::Key(id) }) if realm == *self.realm() => Some(id),
            _ => None,
        });
        let named: Vec<KeyId> = named.collect();
        if named.is_empty() && !takes_for_locked && !self.is_locked() {
            return;
        }
        // Not to keep the store from being given up.
        let service = Arc::downgrade(self);
        let spawned = thread::Builder::new().name("kms-attach".to_owned()).spawn(move || {
            if let Some(service) = service.upgrade() {
                service.tell_whether_locked(&*watcher, takes_for_locked);
            }
            for id in named {
                let Some(service) = service.upgrade() else { return };
                // The turn keeps a state change from overtaking this look at the state.
                let _turn = service.turns.take(id);
                match service.entry(&id).map(|entry| entry.state()) {
                    Ok(KeyState::Enabled) => watcher.restore(&id),
                    Ok(state) => drop(watcher.cut(&id, Some(state))),
                    Err(_destroyed) => drop(watcher.cut(&id, None)),
                }
            }
        });
        if let Err(error) = spawned {
            tracing::error!(%error, "a mount could not be brought up to date");
        }
    }

    /// Puts a key into a state that no operation leads to.
    #[cfg(test)]
    pub(super) fn force_state(&self, id: &KeyId, state: KeyState) {
        self.publish(id, Vec::new(), |record, _| {
            record.state = state;
            let pending = state == KeyState::PendingDeletion;
            record.deletion = pending.then_some(Deletion { at: Timestamp::MAX, window_days: 30 });
        })
        .unwrap();
    }

    /// Has mounts write back what is dirty under a key.
    pub(super) fn drain_within(&self, id: KeyId, budget: Duration, unwritten: IfUnwritten) -> Vec<CutReport> {
        let keep = unwritten == IfUnwritten::Stop;
        // Where a disk stands still, a mount works to the end and needs a moment more to say so.
        let working = budget.mul_f32(WORKING);
        self.watchers.ask(budget, move |watcher| watcher.drain(&id, working, keep), unreachable)
    }

    fn cut(&self, id: KeyId, state: KeyState) -> Vec<CutReport> {
        self.cut_within(id, Some(state), CUT_BUDGET)
    }

    /// Has mounts drop what they hold of a key. They all do, also those that take longer.
    pub(super) fn cut_within(&self, id: KeyId, state: Option<KeyState>, budget: Duration) -> Vec<CutReport> {
        let budget = budget.min(self.drain_budget);
        self.watchers.ask(budget, move |watcher| watcher.cut(&id, state), unreachable)
    }

    fn restore(&self, id: KeyId) {
        self.restore_within(id, CUT_BUDGET);
    }

    /// Has mounts take a key back.
    pub(super) fn restore_within(&self, id: KeyId, budget: Duration) {
        let budget = budget.min(self.drain_budget);
        self.watchers.ask(
            budget,
            move |watcher| watcher.restore(&id),
            |mount| {
                tracing::warn!(mount, "a mount could not be told that a key is usable again");
            },
        );
    }
}

/// What becomes of a revocation when mounts cannot write back what they hold under the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IfUnwritten {
    /// It is called off.
    Stop,
    /// It is reported.
    GoOn,
}

impl IfUnwritten {
    pub(super) fn of(stop: bool) -> Self {
        if stop { Self::Stop } else { Self::GoOn }
    }
}

impl Call<'_> {
    /// The error, without what the caller is not told of mounts.
    pub(super) fn may_know(&self, error: KmsError) -> KmsError {
        let mounts = self.shows(error.mounts().to_vec());
        error.at(mounts)
    }
}

/// One state change per key at a time; others wait their turn.
#[derive(Default)]
pub(super) struct Turns {
    taken: Mutex<BTreeSet<KeyId>>,
    freed: Condvar,
}

/// The right to change one key's state.
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    key: KeyId,
}

impl Turns {
    pub(super) fn take(&self, key: KeyId) -> Turn<'_> {
        let mut taken = self.taken.lock();
        while !taken.insert(key) {
            self.freed.wait(&mut taken);
        }
        Turn { turns: self, key }
    }
}

impl Turn<'_> {
    /// Whose turn it is.
    pub(super) fn key(&self) -> KeyId {
        self.key
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.turns.taken.lock().remove(&self.key);
        self.turns.freed.notify_all();
    }
}

fn answer(entry: &Entry, mounts: Vec<CutReport>) -> StateResponse {
    StateResponse {
        key_id: entry.arn.clone(),
        key_state: entry.state(),
        deletion_date: entry.record.deletion.map(|deletion| deletion.at),
        pending_window_in_days: entry.record.deletion.map(|deletion| deletion.window_days),
        mounts,
    }
}

/// The error of a revocation that was called off.
fn stopped(arn: &str, mut mounts: Vec<CutReport>) -> KmsError {
    mounts.retain(|mount| !mount.unwritten.is_empty());
    let files: usize = mounts.iter().map(|mount| mount.unwritten.len()).sum();
    let message = format!(
        "{arn} stays as it is: changes to {files} {} under it could not be written",
        if files == 1 { "file" } else { "files" }
    );
    KmsError::new(ErrorKind::Unwritten, message).at(mounts)
}

pub(super) fn unreachable(mount: &str) -> CutReport {
    CutReport { mount: mount.to_owned(), unreachable: true, ..CutReport::default() }
}
