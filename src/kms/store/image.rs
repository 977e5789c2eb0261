//! All that a key store holds, as it is stored: sealed where it is secret. What is in memory is
//! what was acknowledged; the file and the backups are made from it.

use std::collections::BTreeMap;

use zeroize::Zeroize;

use super::error::StoreError;
use super::record::MAX_RECORD;
use super::slot::MAX_SLOTS;
use crate::crypto::kdf::DIGEST_LEN;
use crate::crypto::{NONCE_LEN, TAG_LEN};

/// Where a sealed record is filed: a keyed hash of its name.
pub(super) type Place = [u8; DIGEST_LEN];

/// Longest sealed value in bytes.
pub(super) const MAX_SEALED: usize = NONCE_LEN + MAX_RECORD + TAG_LEN;

/// Contents of the table `meta`.
pub(super) const HEADER: &str = "header";
/// Sealed path of the backup that is kept up to date; absent when there is none.
pub(super) const BACKUP: &str = "backup";
/// What is remembered of the audit log, sealed; absent before there is one.
pub(super) const AUDIT: &str = "audit";
/// There, and empty, from the commit that destroyed something until the file is scrubbed.
pub(super) const SCRUB: &str = "scrub";
/// Number of the next unlock slot; absent while it is one more than the last one's.
pub(super) const NEXT_SLOT: &str = "next slot";

/// The tables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Image {
    pub(super) meta: BTreeMap<String, Vec<u8>>,
    pub(super) slots: BTreeMap<u32, Vec<u8>>,
    pub(super) records: BTreeMap<Place, Vec<u8>>,
    pub(super) material: BTreeMap<Place, Vec<u8>>,
}

/// A change of one row: its new value, or `None` to remove it.
#[derive(Debug, Clone)]
pub(super) enum Edit {
    Meta(String, Option<Vec<u8>>),
    Slot(u32, Option<Vec<u8>>),
    Record(Place, Option<Vec<u8>>),
    Material(Place, Option<Vec<u8>>),
}

impl Image {
    /// An image of a store without keys.
    pub(super) fn new(header: Vec<u8>, slot: Vec<u8>) -> Self {
        let mut image = Self::default();
        image.meta.insert(HEADER.to_owned(), header);
        image.slots.insert(0, slot);
        image
    }

    /// The plain header; empty if it is missing.
    pub(super) fn header(&self) -> &[u8] {
        self.meta.get(HEADER).map_or(&[], Vec::as_slice)
    }

    /// Number of the next unlock slot: higher than that of any slot there ever was.
    pub(super) fn next_slot(&self) -> Option<u32> {
        let kept =
            self.meta.get(NEXT_SLOT).and_then(|bytes| Some(u32::from_le_bytes(bytes[..].try_into().ok()?)));
        let after_last = match self.slots.last_key_value() {
            Some((last, _)) => last.checked_add(1)?,
            None => 0,
        };
        Some(after_last.max(kept.unwrap_or(0)))
    }

    /// The edits that make this image of an empty one.
    pub(super) fn rows(&self) -> Vec<Edit> {
        let meta = self.meta.iter().map(|(name, value)| Edit::Meta(name.clone(), Some(value.clone())));
        let slots = self.slots.iter().map(|(id, slot)| Edit::Slot(*id, Some(slot.clone())));
        let records = self.records.iter().map(|(place, sealed)| Edit::Record(*place, Some(sealed.clone())));
        let material =
            self.material.iter().map(|(place, sealed)| Edit::Material(*place, Some(sealed.clone())));
        meta.chain(slots).chain(records).chain(material).collect()
    }

    /// Whether something was destroyed that the file may still hold in pages that are free.
    pub(super) fn is_to_be_scrubbed(&self) -> bool {
        self.meta.contains_key(SCRUB)
    }

    /// This image, as a file has it that was made of nothing else.
    pub(super) fn scrubbed(&self) -> Self {
        let mut image = self.clone();
        image.meta.remove(SCRUB);
        image
    }

    /// This image after `edits`.
    pub(super) fn with(&self, edits: &[Edit]) -> Self {
        let mut next = self.clone();
        next.apply(edits);
        next
    }

    /// Carries `edits` out.
    pub(super) fn apply(&mut self, edits: &[Edit]) {
        for edit in edits.iter().cloned() {
            match edit {
                Edit::Meta(name, value) => put(&mut self.meta, name, value),
                Edit::Slot(id, value) => put(&mut self.slots, id, value),
                Edit::Record(place, value) => put(&mut self.records, place, value),
                Edit::Material(place, value) => put(&mut self.material, place, value),
            }
        }
    }

    /// Whether what was read is within all bounds.
    pub(super) fn check_bounds(&self) -> Result<(), StoreError> {
        if self.slots.len() > MAX_SLOTS {
            return Err(StoreError::damaged("too many unlock slots"));
        }
        let too_long = |value: &Vec<u8>| value.len() > MAX_SEALED;
        if self.records.values().chain(self.material.values()).any(too_long) {
            return Err(StoreError::damaged("a record that is too long"));
        }
        Ok(())
    }
}

fn put<K: Ord>(table: &mut BTreeMap<K, Vec<u8>>, key: K, value: Option<Vec<u8>>) {
    let old = match value {
        Some(value) => table.insert(key, value),
        None => table.remove(&key),
    };
    // The root key, in the same memory, opens it.
    old.into_iter().for_each(|mut old| old.zeroize());
}
