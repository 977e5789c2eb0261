//! Unlock slots: the root key, sealed once for each passphrase or key file.
//!
//! ```text
//! kind 1, passphrase: 1 | salt (16) | memory KiB (4) | passes (4) | lanes (4) | sealed root key (60)
//! kind 2, key file:   2 | salt (16) | sealed root key (60)
//! kind 3, recovery key: as kind 2
//! ```
//!
//! A slot's sealing authenticates the store's plain header, the slot's number and everything
//! before the sealed key.

use super::error::StoreError;
use crate::codec::{Reader, Truncated};
use crate::crypto::wrap::{WRAPPED_LEN, unwrap, wrap};
use crate::kms::schedule::{self, Costs, SALT_LEN};
use crate::secret::{Key, Passphrase};

/// Most slots of a store.
pub(super) const MAX_SLOTS: usize = 16;
/// Fewest bytes of a key file.
pub const MIN_KEY_FILE: usize = 32;

const PASSPHRASE: u8 = 1;
const KEY_FILE: u8 = 2;
const RECOVERY_KEY: u8 = 3;

/// What opens a key store.
#[derive(Debug)]
pub enum UnlockSecret {
    /// Something a person remembers.
    Passphrase(Passphrase),
    /// The contents of a file of random bytes, [`MIN_KEY_FILE`] or more.
    KeyFile(Passphrase),
    /// 32 random bytes that a person wrote down; see [`super::parse_recovery_key`].
    RecoveryKey(Passphrase),
}

/// What an unlock slot is opened with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotKind {
    /// A passphrase, at these costs.
    Passphrase(Costs),
    /// A key file.
    KeyFile,
    /// A recovery key on paper.
    RecoveryKey,
}

/// An unlock slot, without its secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotInfo {
    /// Number of the slot; never used again after it is removed.
    pub id: u32,
    /// What opens it.
    pub kind: SlotKind,
}

/// A slot's bytes, parsed.
pub(super) struct Slot<'a> {
    kind: SlotKind,
    salt: [u8; SALT_LEN],
    prefix: &'a [u8],
    sealed: [u8; WRAPPED_LEN],
}

impl<'a> Slot<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, StoreError> {
        let slot = Self::read(bytes).map_err(|Truncated| StoreError::damaged("cut unlock slot"))?;
        match slot {
            Some(slot) => Ok(slot),
            None => Err(StoreError::damaged("unlock slot of unknown kind or absurd cost")),
        }
    }

    pub(super) fn kind(&self) -> SlotKind {
        self.kind
    }

    /// The root key, if `secret` is the one of this slot.
    pub(super) fn open(&self, header: &[u8], id: u32, secret: &UnlockSecret) -> Option<Key> {
        let kek = slot_key(secret, self.kind, &self.salt)?;
        unwrap(&kek, &aad(header, id, self.prefix), &self.sealed).ok()
    }

    fn read(bytes: &'a [u8]) -> Result<Option<Self>, Truncated> {
        let mut r = Reader::new(bytes);
        let kind = r.u8()?;
        let salt = r.array()?;
        let kind = match kind {
            PASSPHRASE => {
                let costs = Costs { memory_kib: r.u32()?, passes: r.u32()?, lanes: r.u32()? };
                if !costs.are_sane() {
                    return Ok(None);
                }
                SlotKind::Passphrase(costs)
            }
            KEY_FILE => SlotKind::KeyFile,
            RECOVERY_KEY => SlotKind::RecoveryKey,
            _ => return Ok(None),
        };
        let prefix = &bytes[..bytes.len() - r.rest().len()];
        let sealed = r.array()?;
        Ok(r.rest().is_empty().then_some(Self { kind, salt, prefix, sealed }))
    }
}

/// The bytes of a new slot for `secret`.
pub(super) fn seal(
    header: &[u8],
    id: u32,
    secret: &UnlockSecret,
    costs: Costs,
    root: &Key,
) -> Result<Vec<u8>, StoreError> {
    let mut salt = [0; SALT_LEN];
    getrandom::fill(&mut salt)?;
    let (kind, tag) = match secret {
        UnlockSecret::Passphrase(text) if text.is_empty() => {
            return Err(StoreError::Invalid("the passphrase is empty: choose one"));
        }
        UnlockSecret::KeyFile(contents) | UnlockSecret::RecoveryKey(contents)
            if contents.len() < MIN_KEY_FILE =>
        {
            return Err(StoreError::Invalid(
                "the key file has fewer than 32 bytes: use 32 random ones or more",
            ));
        }
        UnlockSecret::Passphrase(_) if !costs.are_sane() => {
            return Err(StoreError::Invalid(
                "the passphrase's costs are out of bounds: stay below 1 GiB, 64 passes, 16 lanes",
            ));
        }
        UnlockSecret::Passphrase(_) => (SlotKind::Passphrase(costs), PASSPHRASE),
        UnlockSecret::KeyFile(_) => (SlotKind::KeyFile, KEY_FILE),
        UnlockSecret::RecoveryKey(_) => (SlotKind::RecoveryKey, RECOVERY_KEY),
    };
    let mut bytes = vec![tag];
    bytes.extend(salt);
    if let SlotKind::Passphrase(costs) = kind {
        for cost in [costs.memory_kib, costs.passes, costs.lanes] {
            bytes.extend(cost.to_le_bytes());
        }
    }
    let kek = slot_key(secret, kind, &salt)
        .ok_or(StoreError::Invalid("not enough memory for the passphrase's cost: lower it"))?;
    let sealed = wrap(&kek, &aad(header, id, &bytes), root)?;
    bytes.extend(sealed);
    Ok(bytes)
}

fn slot_key(secret: &UnlockSecret, kind: SlotKind, salt: &[u8; SALT_LEN]) -> Option<Key> {
    match (secret, kind) {
        (UnlockSecret::Passphrase(text), SlotKind::Passphrase(costs)) => {
            schedule::from_passphrase(text, salt, costs)
        }
        (UnlockSecret::KeyFile(contents), SlotKind::KeyFile)
        | (UnlockSecret::RecoveryKey(contents), SlotKind::RecoveryKey) => {
            Some(schedule::from_key_file(contents, salt))
        }
        _ => None,
    }
}

fn aad(header: &[u8], id: u32, prefix: &[u8]) -> Vec<u8> {
    [schedule::SLOT_LABEL, header, &id.to_le_bytes(), prefix].concat()
}
