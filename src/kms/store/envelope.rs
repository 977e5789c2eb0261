//! A key that leaves the key store, sealed for whoever knows a secret: as an unlock slot seals the
//! root key, so that a passphrase costs as much to guess there as here.

use super::error::StoreError;
use super::slot::{self, Slot, UnlockSecret};
use crate::kms::schedule::Costs;
use crate::secret::Key;

/// The number that stands in the associated data for the slot's.
const ONLY: u32 = 0;

/// Seals `key` for whoever knows `secret`, bound to `header`, which must not be one of a key store.
///
/// # Errors
/// [`StoreError::Invalid`] for a secret that is none or costs that this machine cannot pay, and when
/// there is no randomness.
pub fn seal_key(
    header: &[u8],
    secret: &UnlockSecret,
    costs: Costs,
    key: &Key,
) -> Result<Vec<u8>, StoreError> {
    slot::seal(header, ONLY, secret, costs, key)
}

/// Opens what [`seal_key`] sealed; `None` if it was with another secret, or for another header.
///
/// # Errors
/// [`StoreError::Damaged`] for bytes that it never made, or costs beyond [`Costs::MAX`].
pub fn open_key(header: &[u8], sealed: &[u8], secret: &UnlockSecret) -> Result<Option<Key>, StoreError> {
    Ok(Slot::parse(sealed)?.open(header, ONLY, secret))
}
