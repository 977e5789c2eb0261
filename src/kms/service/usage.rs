//! How keys were used: the last time, and how often.
//!
//! Uses are noted in memory, for a cryptographic operation writes nothing, and are written every
//! [`INTERVAL`], and when the store is given up properly. So a crash loses the last uses of at most
//! some minutes.
//!
//! Of each version the store keeps a number of wraps that is *reserved*: what has been made, and
//! [`BLOCK`] more. Whoever opens the store counts on from there, so a crash makes the count too
//! large rather than too small: too small only by what was wrapped between the first wrap beyond a
//! reservation and the next tick. At [`BOUND`] the key is rotated.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use jiff::{SignedDuration, Timestamp};

use super::book::{Entry, Spelling};
use super::held::Held;
use super::{Call, Caller, Service};
use crate::kms::api::{KeyLastUsage, KeyLastUsageResponse, KeyRequest};
use crate::kms::error::KmsError;
use crate::kms::id::KeyId;
use crate::kms::spec::{KeySpec, Origin};
use crate::kms::state::Operation;
use crate::kms::store::{Change, Record};

/// Wraps after which a version is replaced. With a nonce of 96 random bits, 2³² messages of AES-GCM
/// keep a repeated nonce below one in 2³² (NIST SP 800-38D, 8.3); AES-GCM-SIV (RFC 8452, 9) survives
/// such a repetition, and bears more.
pub(super) const BOUND: u64 = 1 << 32;
/// Wraps that are reserved at a time.
const BLOCK: u64 = 1 << 20;
/// How long uses stay in memory alone.
const INTERVAL: SignedDuration = SignedDuration::from_mins(5);

impl Call<'_> {
    /// Notes that the call succeeded with the keys that it used.
    pub(super) fn note_uses(&self) {
        if self.operation == Operation::AuthorizeOpen {
            return;
        }
        for used in self.keys.borrow().iter() {
            if let Some(held) = used.version.and_then(|version| used.entry.held(version)) {
                held.used(self.operation, self.now);
            }
        }
    }
}

impl Service {
    /// GetKeyLastUsage. Uses are noted from the key's creation on.
    ///
    /// # Errors
    /// NotFound, AccessDenied.
    pub fn get_key_last_usage(
        &self,
        caller: &Caller,
        request: &KeyRequest,
    ) -> Result<KeyLastUsageResponse, KmsError> {
        self.run(caller, Operation::GetKeyLastUsage, request, |call| {
            let book = self.book.read();
            let entry = book.resolve(&request.key_id, Spelling::IdOrArn, self.realm())?;
            self.admit(call, entry)?;
            let last = entry.last_use();
            Ok(KeyLastUsageResponse {
                key_id: entry.arn.clone(),
                key_last_usage: KeyLastUsage {
                    operation: last.as_ref().map(|last| last.operation.clone()),
                    timestamp: last.map(|last| last.at),
                },
                tracking_start_date: entry.record.created,
                key_creation_date: entry.record.created,
            })
        })
    }

    /// A wrap of `entry`'s `version`.
    pub(super) fn count_wrap(&self, entry: &Entry, version: u32) {
        let Some(held) = entry.held(version) else { return };
        if held.count_wrap() {
            // Beyond what is reserved: the next tick reserves more.
            self.next_flush.store(i64::MIN, Ordering::Release);
        }
    }

    /// Writes down how keys were used, reserves wraps, and rotates keys that were used often. What
    /// cannot be written is tried again with the next interval.
    pub(super) fn write_usage(&self, now: Timestamp) {
        let next = now.checked_add(INTERVAL).unwrap_or(Timestamp::MAX);
        self.next_flush.store(next.as_millisecond(), Ordering::Release);
        self.write_used(|held, reserved| {
            let wraps = held.wraps();
            (wraps > reserved).then_some(wraps + BLOCK)
        });
        let worn: Vec<KeyId> = {
            let book = self.book.read();
            book.keys.values().filter(|entry| is_worn(entry)).map(|entry| entry.record.id).collect()
        };
        for id in worn {
            self.rotate_worn(id, now);
        }
    }

    /// As the store is given up: nothing more is wrapped, so nothing need be reserved.
    pub(super) fn write_final_usage(&self) {
        self.write_used(|held, reserved| {
            let wraps = held.wraps();
            (held.has_wrapped() && wraps != reserved).then_some(wraps)
        });
    }

    /// Writes the last uses of all keys, and what `reserve` makes of each version's reservation, in
    /// one commit.
    fn write_used(&self, reserve: impl Fn(&Held, u64) -> Option<u64>) {
        let _writing = self.writes.lock();
        let news: Vec<(Record, Arc<Entry>)> = {
            let book = self.book.read();
            book.keys.values().filter_map(|entry| self.news_of(entry, &reserve)).collect()
        };
        if news.is_empty() {
            return;
        }
        if !self.renewed.swap(true, Ordering::Relaxed) {
            self.store.start_anew();
        }
        let changes: Vec<_> = news.iter().map(|(record, _)| Change::Put(record)).collect();
        if let Err(error) = self.store.commit(&changes) {
            tracing::warn!(%error, "how keys were used could not be written down");
            return;
        }
        let mut book = self.book.write();
        for (_, entry) in news {
            for (version, held) in entry.record.versions.iter().zip(&entry.material) {
                held.iter().for_each(|held| held.reserve(version.wraps_reserved));
            }
            book.keys.insert(entry.record.id, entry);
        }
    }

    /// A key's new record and entry; `None` when there is nothing new.
    fn news_of(
        &self,
        entry: &Entry,
        reserve: &impl Fn(&Held, u64) -> Option<u64>,
    ) -> Option<(Record, Arc<Entry>)> {
        let mut record = entry.record.clone();
        record.last_use = entry.last_use();
        for (version, held) in record.versions.iter_mut().zip(&entry.material) {
            let reserved = held.as_deref().and_then(|held| reserve(held, version.wraps_reserved));
            version.wraps_reserved = reserved.unwrap_or(version.wraps_reserved);
        }
        if record == entry.record {
            return None;
        }
        let new = Arc::new(entry.successor(record.clone(), entry.material.clone(), self.realm()));
        Some((Record::KeyV2(record), new))
    }
}

fn is_worn(entry: &Entry) -> bool {
    let rotates = entry.record.spec == KeySpec::SymmetricDefault && entry.record.origin == Origin::AwsKms;
    rotates && entry.held(entry.newest()).is_some_and(|held| held.wraps() >= BOUND)
}
