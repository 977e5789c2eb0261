//! What a deletion's receipt says, stage by stage, and who gets to see it.

use std::ops::Bound;

use jiff::Timestamp;
use serde::de::DeserializeOwned;

use super::book::{Book, Entry};
use super::keys::{page, page_limit, parse_marker};
use super::volumes::{Known, impact};
use super::{Call, Caller, Service};
use crate::kms::api::{
    KeyRequest, ListDeletionReceiptsRequest, ListDeletionReceiptsResponse, ReceiptListEntry,
};
use crate::kms::audit::EventId;
use crate::kms::error::{ErrorKind, KmsError};
use crate::kms::id::{AliasName, KeyId, KeyRef, Realm, Resource};
use crate::kms::receipt::{
    Copies, DeletedVersion, Destroyed, FORMAT, Loss, MAX_VOLUMES, Receipt, ReceiptKey, Scheduled, Scrubbed,
    SignedReceipt, VolumeLoss, canonical, hex,
};
use crate::kms::state::Operation;
use crate::kms::store::{ReceiptRecord, ReceiptStage, Record, VersionCause};

impl Service {
    /// The signed receipt of a key that was deleted, for the account's root: whose else it was to know,
    /// the key's policy said, which is gone with it. An alias names the key that was deleted last of
    /// those that had it.
    ///
    /// # Errors
    /// AccessDenied; NotFound for a key that was never there or is there; InvalidState for one that is
    /// to be deleted; Internal while the store's file cannot be scrubbed.
    pub fn deletion_receipt(&self, caller: &Caller, request: &KeyRequest) -> Result<SignedReceipt, KmsError> {
        self.run(caller, Operation::GetDeletionReceipt, request, |call| {
            self.demand_root(call.caller, call.operation.name())?;
            let key = self.book.read().deleted_key(&request.key_id, self.realm())?;
            if self.book.read().receipts.get(&key).is_some_and(ReceiptRecord::is_destroyed) {
                self.scrub();
            }
            let stage = self.book.read().receipts.get(&key).map(|receipt| receipt.stage.clone());
            let arn = self.realm().key_arn(&key);
            match stage {
                Some(ReceiptStage::Signed(text)) => parse(&text),
                Some(ReceiptStage::Destroyed(_)) => {
                    let message = format!(
                        "{arn} is deleted, but the key store's file could not be scrubbed yet; \
                         see the log, then ask again"
                    );
                    Err(KmsError::new(ErrorKind::Internal, message))
                }
                Some(ReceiptStage::Scheduled(_)) => {
                    let message = format!("{arn} is pending deletion; there is a receipt when it is deleted");
                    Err(KmsError::new(ErrorKind::InvalidState, message))
                }
                None => Err(no_receipt(&arn.to_string())),
            }
        })
    }

    /// The keys that were deleted, for the account's root.
    ///
    /// # Errors
    /// AccessDenied, Validation, InvalidMarker.
    pub fn list_deletion_receipts(
        &self,
        caller: &Caller,
        request: &ListDeletionReceiptsRequest,
    ) -> Result<ListDeletionReceiptsResponse, KmsError> {
        self.run(caller, Operation::ListDeletionReceipts, request, |call| {
            self.demand_root(call.caller, call.operation.name())?;
            let limit = page_limit(request.limit, 100, 1000)?;
            let after: Option<KeyId> = request.marker.as_deref().map(parse_marker).transpose()?;
            let from = after.map_or(Bound::Unbounded, Bound::Excluded);
            let book = self.book.read();
            let behind = book.receipts.range((from, Bound::Unbounded));
            let deleted = behind.filter(|(_, receipt)| !matches!(receipt.stage, ReceiptStage::Scheduled(_)));
            let (listed, truncated) = page(deleted, limit);
            let next_marker = listed.last().filter(|_| truncated).map(|(key, _)| key.to_string());
            let receipts =
                listed.into_iter().map(|(_, receipt)| entry_of(receipt)).collect::<Result<_, _>>()?;
            Ok(ListDeletionReceiptsResponse { receipts, next_marker, truncated })
        })
    }

    /// The first stage: a key is to be deleted.
    pub(super) fn scheduled(
        &self,
        call: &Call<'_>,
        entry: &Entry,
        window_days: u32,
    ) -> Result<ReceiptRecord, KmsError> {
        let scheduled = Scheduled {
            at: call.now,
            by: call.identity()?.arn().to_owned(),
            pending_window_in_days: window_days,
            loss: loss(&entry.arn, &self.known_volumes(self.mounts())),
        };
        let stage = ReceiptStage::Scheduled(canonical(&scheduled)?);
        Ok(ReceiptRecord { key: entry.record.id, stage })
    }

    /// The second: it is deleted by the commit that this is a part of.
    pub(super) fn destroyed(
        &self,
        entry: &Entry,
        aliases: &[AliasName],
        known: &[Known],
        event: &EventId,
        now: Timestamp,
    ) -> Result<ReceiptRecord, KmsError> {
        let record = &entry.record;
        let scheduled = match self.book.read().receipts.get(&record.id).map(|receipt| &receipt.stage) {
            Some(ReceiptStage::Scheduled(text)) => Some(parse(text)?),
            // By an older release.
            _ => None,
        };
        let versions = record.versions.iter().zip(1..).map(|(version, number)| DeletedVersion {
            key_version: number,
            key_material_id: hex(&version.fingerprint),
            created: version.created,
            cause: cause(version.cause).to_owned(),
            present: version.present,
        });
        let receipt = Receipt {
            format: FORMAT.to_owned(),
            program: env!("CARGO_PKG_VERSION").to_owned(),
            store_id: self.store.id().to_string(),
            public_key: self.receipt_key()?.to_base64(),
            key_arn: entry.arn.clone(),
            description: record.description.clone(),
            aliases: aliases.iter().map(AliasName::to_string).collect(),
            key_spec: record.spec.to_string(),
            key_usage: record.usage.to_string(),
            origin: record.origin.to_string(),
            created: record.created,
            versions: versions.collect(),
            scheduled,
            destroyed: Destroyed {
                at: now,
                due: record.deletion.map(|deletion| deletion.at),
                event_id: event.to_string(),
                loss: loss(&entry.arn, known),
            },
            scrubbed: None,
            copies: Copies::default(),
        };
        Ok(ReceiptRecord { key: record.id, stage: ReceiptStage::Destroyed(canonical(&receipt)?) })
    }

    /// What receipts are verified with.
    pub(super) fn receipt_key(&self) -> Result<ReceiptKey, KmsError> {
        if let Some(key) = self.receipt_key.get() {
            return Ok(*key);
        }
        let key = self.store.with_receipt_seed(ReceiptKey::of_seed)?;
        Ok(*self.receipt_key.get_or_init(|| key))
    }

    /// The last: nothing of it is in the store's files.
    pub(super) fn scrubbed(&self, receipt: ReceiptRecord) -> Result<ReceiptRecord, KmsError> {
        let ReceiptStage::Destroyed(text) = &receipt.stage else { return Ok(receipt) };
        let head = self.audit.head();
        let scrubbed =
            Scrubbed { at: self.clock.now(), audit_sequence: head.sequence, audit_digest: hex(&head.digest) };
        let copies = Copies {
            kept_backup: self.store.kept_backup_path().map(|path| path.display().to_string()),
            stores_put_aside: self.store.stores_put_aside(),
        };
        let full = Receipt { scrubbed: Some(scrubbed), copies, ..parse(text)? };
        let signed = self.store.with_receipt_seed(|seed| full.sign(seed))?;
        Ok(ReceiptRecord { stage: ReceiptStage::Signed(signed.to_text()?), ..receipt })
    }
}

impl ReceiptRecord {
    /// Whether the key is deleted and the receipt not signed.
    pub(super) fn is_destroyed(&self) -> bool {
        matches!(self.stage, ReceiptStage::Destroyed(_))
    }
}

impl Book {
    /// Remembers what was committed.
    pub(super) fn keep_receipt(&mut self, record: Record) {
        if let Record::ReceiptV1(receipt) = record {
            self.receipts.insert(receipt.key, receipt);
        }
    }

    /// The key that `text` names or, as an alias, named.
    fn deleted_key(&self, text: &str, realm: &Realm) -> Result<KeyId, KmsError> {
        let reference: KeyRef = text.parse()?;
        if reference.realm.as_ref().is_some_and(|named| named != realm) {
            return Err(no_receipt(text));
        }
        let alias = match reference.resource {
            Resource::Key(id) => return Ok(id),
            Resource::Alias(alias) => alias,
        };
        let mut last: Option<(Timestamp, KeyId)> = None;
        for receipt in self.receipts.values() {
            let Some(found) = content(receipt)? else { continue };
            if found.aliases.iter().any(|had| had == alias.as_str())
                && last.is_none_or(|(at, _)| at <= found.destroyed.at)
            {
                last = Some((found.destroyed.at, receipt.key));
            }
        }
        last.map(|(_, key)| key).ok_or_else(|| no_receipt(text))
    }
}

fn no_receipt(key: &str) -> KmsError {
    let message = format!("There is no receipt for {key}: no such key was deleted by this release");
    KmsError::new(ErrorKind::NotFound, message)
}

fn entry_of(receipt: &ReceiptRecord) -> Result<ReceiptListEntry, KmsError> {
    let found = content(receipt)?.ok_or_else(|| broken("it has no content"))?;
    Ok(ReceiptListEntry {
        key_arn: found.key_arn,
        aliases: found.aliases,
        destroyed: found.destroyed.at,
        scrubbed: found.scrubbed.map(|scrubbed| scrubbed.at),
        files: found.destroyed.loss.files,
        certain: found.destroyed.loss.certain,
    })
}

/// What a receipt says; `None` while the key is only to be deleted.
fn content(receipt: &ReceiptRecord) -> Result<Option<Receipt>, KmsError> {
    match &receipt.stage {
        ReceiptStage::Scheduled(_) => Ok(None),
        ReceiptStage::Destroyed(text) => parse(text).map(Some),
        ReceiptStage::Signed(text) => parse(text).map(|signed: SignedReceipt| Some(signed.receipt)),
    }
}

fn parse<T: DeserializeOwned>(text: &str) -> Result<T, KmsError> {
    serde_json::from_str(text).map_err(|error| broken(&error.to_string()))
}

fn broken(why: &str) -> KmsError {
    KmsError::new(ErrorKind::Internal, format!("a stored receipt cannot be read: {why}"))
}

/// What depends on a key, as far as is known.
fn loss(arn: &str, known: &[Known]) -> Loss {
    let mut loss = Loss { certain: true, ..Loss::default() };
    for known in known {
        let volume = impact(arn, known);
        loss.certain &= volume.certain;
        loss.files = loss.files.saturating_add(volume.files);
        loss.bytes = loss.bytes.saturating_add(volume.bytes);
        if volume.certain && volume.files == 0 {
            continue;
        }
        if loss.volumes.len() == MAX_VOLUMES {
            loss.more_volumes += 1;
            continue;
        }
        loss.volumes.push(VolumeLoss {
            volume_id: volume.volume_id,
            certain: volume.certain,
            files: volume.files,
            bytes: volume.bytes,
        });
    }
    loss
}

fn cause(cause: VersionCause) -> &'static str {
    match cause {
        VersionCause::Creation => "CREATION",
        VersionCause::OnDemand => "ON_DEMAND",
        VersionCause::Automatic => "AUTOMATIC",
        VersionCause::Import => "IMPORT",
    }
}
