//! The end of keys: their material leaves memory and the store when the clock says so, then the
//! store's files, and then there is a signed receipt.
//!
//! Destroying is one commit, with the event in the audit log and the receipt as far as it is known.
//! Scrubbing follows at the owner's next tick, for all that was destroyed until then; if the process
//! ends before, whoever opens the store next does it. Only after that is the receipt signed.

use crate::sync::atomic::Ordering;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::book::Entry;
use super::volumes::Known;
use super::{CUT_BUDGET, Service};
use crate::kms::error::KmsError;
use crate::kms::id::AliasName;
use crate::kms::store::{Change, ReceiptRecord, Record, RecordName};

/// How long a scrub that failed waits for the next.
const PATIENCE: SignedDuration = SignedDuration::from_mins(1);

impl Service {
    /// Destroys every key whose deletion is due by `now`, with its aliases. What cannot be
    /// written now is tried again at the next call.
    pub(super) fn destroy_due(&self, now: Timestamp) {
        let due = |entry: &Entry| entry.record.deletion.is_some_and(|deletion| deletion.at <= now);
        if self.book.read().keys.values().any(|entry| due(entry)) {
            // Before `writes` is held: a mount that is slow to answer may be waiting for it.
            let known = self.known_volumes(self.mounts());
            let mut destroyed = Vec::new();
            let writing = self.writes.lock();
            let keys: Vec<Arc<Entry>> = self.book.read().keys.values().filter(|e| due(e)).cloned().collect();
            for entry in keys {
                match self.destroy(&entry, &known, now) {
                    Ok(()) => {
                        tracing::info!(key = entry.arn, "key destroyed");
                        destroyed.push(entry.record.id);
                    }
                    Err(error) => {
                        tracing::error!(key = entry.arn, %error, "a key that is due could not be destroyed");
                    }
                }
            }
            drop(writing);
            // Mounts hold nothing of them any more, and are to refuse for good.
            for id in destroyed {
                self.cut_within(id, None, CUT_BUDGET);
            }
        }
        self.next_due.store(self.book.read().next_due(), Ordering::Release);
    }

    /// Destroys a key, in the store and then in memory. The caller holds `writes`.
    fn destroy(&self, entry: &Entry, known: &[Known], now: Timestamp) -> Result<(), KmsError> {
        let id = entry.record.id;
        let (aliases, grants) = {
            let rights = self.rights.read();
            let aliases: Vec<AliasName> = rights.aliases.get(&id).into_iter().flatten().cloned().collect();
            let grants: Vec<_> = rights.grants.of_key(&id, None).map(|grant| grant.record.id).collect();
            (aliases, grants)
        };
        let imports: Vec<_> = {
            let book = self.book.read();
            book.imports.values().filter(|import| import.key == id).map(|import| import.token).collect()
        };
        let receipt = self.by_itself("DeleteKey", &entry.arn, |event| {
            let receipt = Record::ReceiptV1(self.destroyed(entry, &aliases, known, &event, now)?);
            let mut changes = vec![Change::DropKey(&entry.record), Change::Put(&receipt)];
            changes.extend(aliases.iter().map(|alias| Change::Drop(RecordName::Alias(alias.as_str()))));
            changes.extend(grants.iter().map(|id| Change::Drop(RecordName::Grant(id))));
            changes.extend(imports.iter().map(|token| Change::Drop(RecordName::Import(token))));
            changes.extend(entry.link.is_some().then_some(Change::Drop(RecordName::ExternalKey(&id))));
            self.store.commit(&changes)?;
            Ok(receipt)
        });
        // The key is as it was, and tried again.
        let receipt = receipt?;
        let mut book = self.book.write();
        book.keys.remove(&id);
        book.imports.retain(|_, import| import.key != id);
        aliases.iter().for_each(|alias| drop(book.aliases.remove(alias)));
        book.keep_receipt(receipt);
        let mut rights = self.rights.write();
        rights.aliases.remove(&id);
        grants.iter().for_each(|grant| rights.grants.remove(&id, grant));
        Ok(())
    }

    /// Scrubs the store's file and signs receipts, unless there is nothing to do or it failed a
    /// moment ago.
    pub(super) fn scrub_if_due(&self) {
        if self.clock.now().as_millisecond() >= self.next_scrub.load(Ordering::Acquire) {
            self.scrub();
        }
    }

    /// Scrubs the store's file if anything was destroyed, and signs the receipts that wait for it.
    pub(super) fn scrub(&self) {
        // These were destroyed before the scrub begins; those that come meanwhile wait for the next.
        let waiting: Vec<ReceiptRecord> = {
            let book = self.book.read();
            book.receipts.values().filter(|receipt| receipt.is_destroyed()).cloned().collect()
        };
        let done = match self.store.scrub() {
            Ok(false) if waiting.is_empty() => return,
            Ok(_) => waiting.into_iter().try_for_each(|receipt| self.sign_receipt(receipt)),
            Err(error) => Err(error.into()),
        };
        let next = match done {
            Ok(()) => {
                tracing::info!("the key store's file was scrubbed of what was destroyed");
                Timestamp::MIN
            }
            Err(error) => {
                tracing::warn!(%error, "what was destroyed may still be in the key store's file; it is scrubbed later");
                self.clock.now().checked_add(PATIENCE).unwrap_or(Timestamp::MAX)
            }
        };
        self.next_scrub.store(next.as_millisecond(), Ordering::Release);
    }

    /// Signs the receipt of a key that is in none of the store's files any more.
    fn sign_receipt(&self, receipt: ReceiptRecord) -> Result<(), KmsError> {
        let signed = Record::ReceiptV1(self.scrubbed(receipt)?);
        let Record::ReceiptV1(ReceiptRecord { key, .. }) = &signed else { return Ok(()) };
        let arn = self.realm().key_arn(key).to_string();
        let _writing = self.writes.lock();
        self.by_itself("ScrubDeletedKey", &arn, |_| Ok(self.store.commit(&[Change::Put(&signed)])?))?;
        self.book.write().keep_receipt(signed);
        Ok(())
    }
}
