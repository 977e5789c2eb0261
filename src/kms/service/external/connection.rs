//! Connecting and disconnecting custom key stores, and how the mounts follow: as when each of the keys
//! in it was enabled or disabled, but with one commit for all.
//!
//! A connection that has been made lasts until somebody ends it, over restarts too, whether or not the
//! proxy answers: as in AWS, a proxy that fails makes calls fail and nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{CustomStore, UnderWay, refusals};
use crate::kms::api::{CustomKeyStoreRequest, Empty};
use crate::kms::error::KmsError;
use crate::kms::id::KeyId;
use crate::kms::service::transition::{IfUnwritten, Turn};
use crate::kms::service::{CUT_BUDGET, Caller, Service};
use crate::kms::state::{KeyState, Operation};
use crate::kms::store::{Change, Connection, Record};

/// How long mounts are waited for at least.
const MOMENT: Duration = Duration::from_millis(50);
/// Numbers attempts to connect.
static ATTEMPTS: AtomicU64 = AtomicU64::new(0);

impl Service {
    /// ConnectCustomKeyStore. The proxy is asked for its health; whether that went well, the custom key
    /// store's connection state says. Mounts take its keys back before this returns.
    ///
    /// # Errors
    /// CustomKeyStoreNotFound; CustomKeyStoreInvalidState when it failed to connect before, for it must
    /// be disconnected then, or is about to be disconnected; AccessDenied; Internal.
    pub fn connect_custom_key_store(
        &self,
        caller: &Caller,
        request: &CustomKeyStoreRequest,
    ) -> Result<Empty, KmsError> {
        self.run(caller, Operation::ConnectCustomKeyStore, request, |call| {
            self.admit_general(call)?;
            let id = &request.custom_key_store_id;
            let Some((custom, attempt)) = self.begin_to_connect(id)? else { return Ok(Empty {}) };
            let found = self.check_health(call, &custom);
            let connection = match found {
                Ok(()) => Connection::Connected,
                Err(error) => Connection::Failed(refusals::of_connection(error)),
            };
            if let Connection::Failed(code) = connection {
                call.note("connectionErrorCode", code.name());
                tracing::info!(custom_key_store = id, %code, "an external key store could not be connected");
            }
            let turns = self.turns_of_keys_in(id);
            let done = self.publish_connection(id, connection, |custom| {
                // Disconnected meanwhile: that was said later.
                custom.under_way == Some(UnderWay::Connecting(attempt))
            });
            if done.inspect_err(|_| self.is_no_longer_under_way(id, UnderWay::Connecting(attempt)))?
                && connection == Connection::Connected
            {
                let usable = self.usable_of(&turns);
                self.for_each(&usable, |key, left| self.restore_within(key, left));
            }
            Ok(Empty {})
        })
    }

    /// DisconnectCustomKeyStore. When this returns, nothing under its keys can be read; they come back
    /// with it.
    ///
    /// # Errors
    /// CustomKeyStoreNotFound; CustomKeyStoreInvalidState when it is not connected; AccessDenied;
    /// Internal. It is as it was then.
    pub fn disconnect_custom_key_store(
        &self,
        caller: &Caller,
        request: &CustomKeyStoreRequest,
    ) -> Result<Empty, KmsError> {
        self.run(caller, Operation::DisconnectCustomKeyStore, request, |call| {
            self.admit_general(call)?;
            let id = &request.custom_key_store_id;
            self.begin_to_disconnect(id)?;
            let turns = self.turns_of_keys_in(id);
            let used = self.usable_of(&turns);
            self.drain_all(&used);
            let done = self.publish_connection(id, Connection::Disconnected, |_| true);
            if let Err(error) = done {
                self.is_no_longer_under_way(id, UnderWay::Disconnecting);
                self.for_each(&used, |key, left| self.restore_within(key, left));
                return Err(error);
            }
            self.for_each(&used, |key, left| {
                let reports = self.cut_within(key, Some(KeyState::Unavailable), left);
                for report in reports.iter().filter(|report| report.unreachable) {
                    tracing::warn!(
                        mount = report.mount,
                        "a mount did not answer: its files may still be readable"
                    );
                }
            });
            tracing::info!(custom_key_store = id, "external key store disconnected");
            Ok(Empty {})
        })
    }

    /// Shows it as connecting; `None` when there is nothing to do.
    fn begin_to_connect(&self, id: &str) -> Result<Option<(Arc<CustomStore>, u64)>, KmsError> {
        // A change of its settings is there after this, or sees it connecting.
        let _writing = self.writes.lock();
        let mut book = self.book.write();
        let custom = Arc::clone(book.custom_store(id)?);
        match (custom.under_way, custom.record.connection) {
            (Some(UnderWay::Disconnecting), _) | (None, Connection::Failed(_)) => {
                Err(custom.refused_in_state())
            }
            (Some(UnderWay::Connecting(_)), _) | (None, Connection::Connected) => Ok(None),
            (None, Connection::Disconnected) => {
                let attempt = ATTEMPTS.fetch_add(1, Ordering::Relaxed);
                let connecting = custom.with_under_way(Some(UnderWay::Connecting(attempt)));
                book.custom_stores.insert(id.to_owned(), Arc::new(connecting));
                Ok(Some((custom, attempt)))
            }
        }
    }

    fn begin_to_disconnect(&self, id: &str) -> Result<(), KmsError> {
        // A key that is just being made is there after this, or is not made.
        let _writing = self.writes.lock();
        let mut book = self.book.write();
        let custom = Arc::clone(book.custom_store(id)?);
        match (custom.under_way, custom.record.connection) {
            (Some(UnderWay::Disconnecting), _) | (None, Connection::Disconnected) => {
                Err(custom.refused_in_state())
            }
            _ => {
                let disconnecting = custom.with_under_way(Some(UnderWay::Disconnecting));
                book.custom_stores.insert(id.to_owned(), Arc::new(disconnecting));
                Ok(())
            }
        }
    }

    /// Shows it as it was, unless somebody else is at it by now.
    fn is_no_longer_under_way(&self, id: &str, what: UnderWay) {
        let mut book = self.book.write();
        let Some(custom) = book.custom_stores.get(id).filter(|custom| custom.under_way == Some(what)) else {
            return;
        };
        let custom = custom.with_under_way(None);
        book.custom_stores.insert(id.to_owned(), Arc::new(custom));
    }

    /// Makes a connection durable and visible, if it is still `wanted`; whether it was.
    fn publish_connection(
        &self,
        id: &str,
        connection: Connection,
        wanted: impl FnOnce(&CustomStore) -> bool,
    ) -> Result<bool, KmsError> {
        let _writing = self.writes.lock();
        let custom = Arc::clone(self.book.read().custom_store(id)?);
        if !wanted(&custom) {
            return Ok(false);
        }
        let new = custom.with_connection(connection);
        self.store.commit(&[Change::Put(&Record::CustomStoreV1(new.record.clone()))])?;
        self.book.write().put_custom_store(new, self.realm());
        Ok(true)
    }

    /// The turns of all keys of a custom key store, in their order, so that nobody waits for a circle.
    /// Keys that come later are made under a connection that somebody looks at under `writes`.
    fn turns_of_keys_in(&self, id: &str) -> Vec<Turn<'_>> {
        let keys = self.book.read().keys_in(id);
        keys.into_iter().map(|key| self.turns.take(key)).collect()
    }

    /// Those of the keys that can be used now.
    fn usable_of(&self, turns: &[Turn<'_>]) -> Vec<KeyId> {
        let book = self.book.read();
        let is_usable =
            |key: &KeyId| book.keys.get(key).is_some_and(|entry| entry.state() == KeyState::Enabled);
        turns.iter().map(Turn::key).filter(is_usable).collect()
    }

    /// Tells the mounts something of each of the keys, and waits for all answers together as long as for
    /// one, and a moment more for each key: a mount that does not answer must not add up.
    fn for_each(&self, keys: &[KeyId], tell: impl Fn(KeyId, Duration)) {
        let deadline = Instant::now() + CUT_BUDGET;
        for key in keys {
            tell(*key, deadline.saturating_duration_since(Instant::now()).max(MOMENT));
        }
    }

    /// Has what is dirty under the keys written back, in the time that one key has for that.
    fn drain_all(&self, keys: &[KeyId]) {
        let deadline = Instant::now() + self.drain_budget;
        for key in keys {
            let left = deadline.saturating_duration_since(Instant::now());
            if left == Duration::ZERO {
                tracing::warn!("not all mounts could write back in time");
                return;
            }
            self.drain_within(*key, left, IfUnwritten::GoOn);
        }
    }
}
