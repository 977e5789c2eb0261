//! What the store remembers of the audit log, in one sealed row that every commit renews: how far
//! the log reached, and the events of changes that may not be in it yet.
//!
//! *A change and its event are one commit.* A call says before it begins what its event is; if it
//! commits, the event is in the same transaction. The log follows; only when the event is durable
//! there is it left out of the next commit. So whatever a crash leaves, every change has its event
//! in one of the two places, and opening the store brings it into the log.
//!
//! A call runs on one thread, so that is how a commit finds its event: no operation has to hand it
//! down, and none can forget to.

use std::thread::{self, ThreadId};

use crate::sync::Mutex;
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use super::error::StoreError;
use crate::kms::audit::{EventId, Head};

/// Most bytes of events in the row. What is beyond that is long in the log, unless that cannot be
/// written and calls are carried out all the same.
const MAX_PENDING: usize = 512 * 1024;

/// The event of a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::kms) struct Pending {
    /// Its id.
    pub(in crate::kms) id: String,
    /// The event as it was before the change, as JSON.
    pub(in crate::kms) event: String,
    /// What was changed: ARNs.
    pub(in crate::kms) resources: Vec<String>,
}

/// The row.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Row {
    /// [`Head::to_bytes`] in hexadecimal; empty for none.
    anchor: String,
    pending: Vec<Pending>,
}

#[derive(Default)]
pub(super) struct Ledger(Mutex<State>);

#[derive(Default)]
struct State {
    anchor: Option<Head>,
    /// Committed, and not in the log yet.
    pending: Vec<Pending>,
    under_way: Vec<UnderWay>,
}

struct UnderWay {
    thread: ThreadId,
    pending: Pending,
    committed: bool,
}

/// A call that may commit. Until this is dropped, commits of its thread carry its event.
#[must_use]
pub(in crate::kms) struct Accompanied<'s> {
    ledger: &'s Ledger,
    id: EventId,
}

impl Ledger {
    /// Of what [`Ledger::row`] made.
    pub(super) fn parse(row: &[u8]) -> Result<Self, StoreError> {
        let damaged = || StoreError::damaged("what it knows of the audit log");
        let row: Row = serde_json::from_slice(row).map_err(|_| damaged())?;
        let anchor = match row.anchor.as_str() {
            "" => None,
            hex => {
                let bytes = HEXLOWER.decode(hex.as_bytes()).map_err(|_| damaged())?;
                Some(Head::from_bytes(&bytes).ok_or_else(damaged)?)
            }
        };
        Ok(Self(Mutex::new(State { anchor, pending: row.pending, under_way: Vec::new() })))
    }

    /// How far the log reached, as far as is known.
    pub(super) fn anchor(&self) -> Head {
        self.0.lock().anchor.unwrap_or(Head::START)
    }

    /// Events of changes that may not be in the log.
    pub(super) fn pending(&self) -> Vec<Pending> {
        self.0.lock().pending.clone()
    }

    /// The log is durable up to here.
    pub(super) fn log_reached(&self, head: Head) {
        let mut state = self.0.lock();
        if state.anchor.is_none_or(|anchor| anchor.sequence < head.sequence) {
            state.anchor = Some(head);
        }
    }

    /// These events are in the log.
    pub(super) fn are_logged(&self, logged: &[Pending]) {
        self.0.lock().pending.retain(|pending| !logged.contains(pending));
    }

    pub(super) fn accompany(&self, id: EventId, event: Vec<u8>) -> Accompanied<'_> {
        let event = String::from_utf8(event).unwrap_or_default();
        let pending = Pending { id: id.to_string(), event, resources: Vec::new() };
        let thread = thread::current().id();
        self.0.lock().under_way.push(UnderWay { thread, pending, committed: false });
        Accompanied { ledger: self, id }
    }

    /// The row to commit with a change of `resources` by this thread.
    pub(super) fn row(&self, resources: &[String]) -> Result<Vec<u8>, StoreError> {
        let mut state = self.0.lock();
        let state = &mut *state;
        let mut pending = state.pending.clone();
        let own = state.under_way.iter_mut().rfind(|call| call.thread == thread::current().id());
        if let Some(call) = own {
            for resource in resources {
                if !call.pending.resources.contains(resource) {
                    call.pending.resources.push(resource.clone());
                }
            }
            pending.push(call.pending.clone());
        }
        let mut room = MAX_PENDING;
        let kept = pending.iter().rev().take_while(|pending| {
            let left = room.checked_sub(pending.event.len());
            room = left.unwrap_or(0);
            left.is_some()
        });
        let from = pending.len() - kept.count();
        if from > 0 {
            tracing::warn!(
                events = from,
                "the key store has no room for events that are not in the audit log"
            );
        }
        let anchor = state.anchor.map(|anchor| HEXLOWER.encode(&anchor.to_bytes())).unwrap_or_default();
        let row = Row { anchor, pending: pending.split_off(from) };
        serde_json::to_vec(&row).map_err(|error| StoreError::damaged(error.to_string()))
    }

    /// The row was committed.
    pub(super) fn committed(&self) {
        let mut state = self.0.lock();
        let own = state.under_way.iter_mut().rfind(|call| call.thread == thread::current().id());
        if let Some(call) = own {
            call.committed = true;
        }
    }
}

impl Accompanied<'_> {
    /// Whether the event is durable in the store, with a change.
    pub(in crate::kms) fn is_committed(&self) -> bool {
        let id = self.id.to_string();
        self.ledger.0.lock().under_way.iter().any(|call| call.pending.id == id && call.committed)
    }

    /// The event is in the log.
    pub(in crate::kms) fn logged(self) {
        self.take();
    }

    fn take(&self) -> Option<UnderWay> {
        let id = self.id.to_string();
        let mut state = self.ledger.0.lock();
        let at = state.under_way.iter().position(|call| call.pending.id == id)?;
        // In order: the last of a thread is the innermost.
        Some(state.under_way.remove(at))
    }
}

impl Drop for Accompanied<'_> {
    fn drop(&mut self) {
        if let Some(call) = self.take().filter(|call| call.committed) {
            self.ledger.0.lock().pending.push(call.pending);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kms::audit::EventIds;

    fn pending_of(row: &[u8]) -> Vec<Pending> {
        Ledger::parse(row).unwrap().pending()
    }

    #[test]
    fn a_commit_carries_the_event_of_its_own_call_until_that_is_logged() {
        let (ledger, ids) = (Ledger::default(), EventIds::random().unwrap());
        let call = ledger.accompany(ids.next(), b"{}".to_vec());
        let foreign = thread::scope(|scope| scope.spawn(|| ledger.row(&[]).unwrap()).join().unwrap());
        assert!(pending_of(&foreign).is_empty());
        let carried = pending_of(&ledger.row(&["arn".to_owned()]).unwrap());
        assert_eq!((carried.len(), &*carried[0].resources), (1, &["arn".to_owned()][..]));
        assert!(!call.is_committed());
        ledger.committed();
        assert!(call.is_committed());
        // The call could not be logged: the next commit carries it on.
        drop(call);
        assert_eq!(pending_of(&ledger.row(&[]).unwrap()), carried);
        ledger.are_logged(&carried);
        assert!(pending_of(&ledger.row(&[]).unwrap()).is_empty());
    }

    #[test]
    fn a_call_that_committed_nothing_leaves_nothing() {
        let (ledger, ids) = (Ledger::default(), EventIds::random().unwrap());
        drop(ledger.accompany(ids.next(), b"{}".to_vec()));
        let logged = ledger.accompany(ids.next(), b"{}".to_vec());
        ledger.committed();
        logged.logged();
        assert!(ledger.pending().is_empty());
    }

    #[test]
    fn the_row_stays_within_what_a_record_may_be() {
        let (ledger, ids) = (Ledger::default(), EventIds::random().unwrap());
        for _ in 0..20 {
            let call = ledger.accompany(ids.next(), vec![b'x'; 100_000]);
            ledger.committed();
            drop(call);
        }
        let row = ledger.row(&[]).unwrap();
        assert!(row.len() < MAX_PENDING + 4096 && pending_of(&row).len() == 5);
    }
}
