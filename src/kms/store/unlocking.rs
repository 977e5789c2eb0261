//! What opens the store: its unlock slots, and locking it while its owner goes on.

use std::sync::Weak;

use super::error::StoreError;
use super::image::{Edit, Image, NEXT_SLOT};
use super::sealing::Sealing;
use super::slot::{self, MAX_SLOTS, Slot, SlotInfo, UnlockSecret};
use super::writer::Importance;
use super::{NO_SUCH_SLOT, Store, to_be_scrubbed};
use crate::kms::schedule::Costs;
use crate::secret::Key;

impl Store {
    /// The unlock slots, by number.
    pub(in crate::kms) fn slots(&self) -> Result<Vec<SlotInfo>, StoreError> {
        let writer = self.writer.lock();
        let slots = writer.image().slots.iter();
        slots.map(|(id, bytes)| Ok(SlotInfo { id: *id, kind: Slot::parse(bytes)?.kind() })).collect()
    }

    /// Number of the unlock slot that `secret` opens.
    pub(in crate::kms) fn slot_of(&self, secret: &UnlockSecret) -> Result<Option<u32>, StoreError> {
        Ok(self.try_secret(secret)?.map(|(slot, _)| slot))
    }

    /// Lets go of the root key and all keys derived from it but the audit log's. Answers what is left of
    /// them as long as an operation that has begun has them.
    pub(in crate::kms) fn lock(&self) -> Weak<impl Sized> {
        // Whoever commits has the keys until it is done.
        let _writer = self.writer.lock();
        self.vault.lock()
    }

    /// Takes the keys back, with the secret of any slot.
    pub(in crate::kms) fn unlock(&self, secret: &UnlockSecret) -> Result<(), StoreError> {
        let (_, root) = self.try_secret(secret)?.ok_or(StoreError::WrongSecret)?;
        self.vault.unlock(Sealing::new(root, self.id));
        Ok(())
    }

    fn try_secret(&self, secret: &UnlockSecret) -> Result<Option<(u32, Key)>, StoreError> {
        let _trying = self.trying.lock();
        // A copy: stretching a passphrase takes its time.
        let image = self.writer.lock().image().clone();
        unlock(&image, secret)
    }

    /// Adds an unlock slot, in place of another if one is named; answers its number.
    pub(in crate::kms) fn add_slot(
        &self,
        secret: &UnlockSecret,
        costs: Costs,
        instead_of: Option<u32>,
    ) -> Result<u32, StoreError> {
        let sealing = self.vault.sealing()?;
        let mut writer = self.writer.lock();
        let image = writer.image();
        if instead_of.is_some_and(|old| !image.slots.contains_key(&old)) {
            return Err(NO_SUCH_SLOT);
        }
        if instead_of.is_none() && image.slots.len() >= MAX_SLOTS {
            return Err(StoreError::Invalid(
                "the key store has all of its 16 unlock slots: remove one first",
            ));
        }
        let numbers = image.next_slot().and_then(|id| Some((id, id.checked_add(1)?)));
        let (id, next) = numbers.ok_or(StoreError::Invalid("the numbers of unlock slots have run out"))?;
        let bytes = slot::seal(image.header(), id, secret, costs, &sealing.keys.root)?;
        let mut edits = vec![Edit::Slot(id, Some(bytes)), next_slot(next)];
        // Else the secret of then opens what is left of it in the file.
        edits.extend(instead_of.into_iter().flat_map(|old| [Edit::Slot(old, None), to_be_scrubbed()]));
        self.write(&mut writer, edits, &[], Importance::Vital)?;
        Ok(id)
    }

    /// Removes an unlock slot; the last one stays.
    pub(in crate::kms) fn remove_slot(&self, id: u32) -> Result<(), StoreError> {
        let mut writer = self.writer.lock();
        let image = writer.image();
        if image.slots.len() <= 1 {
            return Err(StoreError::Invalid("this is the only unlock slot: add another first"));
        }
        if !image.slots.contains_key(&id) {
            return Err(NO_SUCH_SLOT);
        }
        let next = image.next_slot().unwrap_or(u32::MAX);
        let edits = vec![Edit::Slot(id, None), to_be_scrubbed(), next_slot(next)];
        self.write(&mut writer, edits, &[], Importance::Ordinary)
    }
}

/// The slot that `secret` opens, and the root key in it.
pub(super) fn unlock(image: &Image, secret: &UnlockSecret) -> Result<Option<(u32, Key)>, StoreError> {
    for (id, bytes) in &image.slots {
        if let Some(root) = Slot::parse(bytes)?.open(image.header(), *id, secret) {
            return Ok(Some((*id, root)));
        }
    }
    Ok(None)
}

pub(super) fn next_slot(number: u32) -> Edit {
    Edit::Meta(NEXT_SLOT.to_owned(), Some(number.to_le_bytes().to_vec()))
}
