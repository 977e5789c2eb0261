//! Whether the store is unlocked: its root key and all keys that are derived from it, or none of them.
//!
//! Whoever seals or opens a row takes the keys for so long and no longer: they are zeroized with the
//! last reference. The key of the audit log is not among them, for refused calls are logged too.

use std::sync::{Arc, Weak};

use super::error::StoreError;
use super::sealing::Sealing;
use crate::sync::Mutex;

/// The keys of a store, while it is unlocked.
#[derive(Debug)]
pub(super) struct Vault(Mutex<Option<Arc<Sealing>>>);

impl Vault {
    pub(super) fn unlocked(sealing: Sealing) -> Self {
        Self(Mutex::new(Some(Arc::new(sealing))))
    }

    /// The keys, for one operation.
    ///
    /// # Errors
    /// [`StoreError::Locked`].
    pub(super) fn sealing(&self) -> Result<Arc<Sealing>, StoreError> {
        self.0.lock().clone().ok_or(StoreError::Locked)
    }

    /// Lets go of the keys; answers what is left of them as long as an operation has them.
    pub(super) fn lock(&self) -> Weak<Sealing> {
        let sealing = self.0.lock().take();
        sealing.map_or_else(Weak::new, |sealing| Arc::downgrade(&sealing))
    }

    pub(super) fn unlock(&self, sealing: Sealing) {
        *self.0.lock() = Some(Arc::new(sealing));
    }
}
