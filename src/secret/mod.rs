//! Key material in memory: locked, kept out of core dumps, zeroized, never printed.
//!
//! A [`Key`] lives in a slot of a small arena of pages that are `mlock(2)`ed and marked
//! `MADV_DONTDUMP`. It is *born* there: [`Key::fill`] hands the slot itself to whoever computes
//! the key, so no copy is left behind on a stack. Dropping a key zeroizes its slot.

mod arena;
mod bytes;

use std::fmt;
use std::ops::Deref;

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use arena::Slot;

pub use bytes::Secret;

/// Length in bytes of every symmetric key in kmsfs.
pub const KEY_LEN: usize = 32;

/// A 256-bit key in locked memory. Share it by reference or `Arc`; it cannot be cloned.
pub struct Key(Slot);

impl Key {
    /// A key whose bytes `fill` writes in place.
    ///
    /// # Errors
    /// Whatever `fill` returns; the slot is zeroized then.
    pub fn fill<E>(fill: impl FnOnce(&mut [u8; KEY_LEN]) -> Result<(), E>) -> Result<Self, E> {
        let mut slot = Slot::take();
        fill(slot.bytes_mut())?;
        Ok(Self(slot))
    }

    /// A fresh key from the operating system's random number generator.
    ///
    /// # Errors
    /// When the generator fails, which on Linux ≥ 5.6 happens only before it is seeded.
    pub fn random() -> Result<Self, getrandom::Error> {
        Self::fill(|bytes| getrandom::fill(bytes))
    }

    /// Copies a key out of ordinary memory and zeroizes the source.
    pub fn take_from(source: &mut [u8; KEY_LEN]) -> Self {
        let mut slot = Slot::take();
        slot.bytes_mut().copy_from_slice(source);
        source.zeroize();
        Self(slot)
    }

    /// The key's bytes, for the cipher that uses them. Do not copy them.
    pub fn expose(&self) -> &[u8; KEY_LEN] {
        self.0.bytes()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// Compares in constant time.
impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.expose().ct_eq(other.expose()).into()
    }
}

impl Eq for Key {}

/// A secret of any length that a person or a file supplied: a passphrase, a key file's contents.
/// Zeroized on drop, never printed.
#[derive(PartialEq, Eq)]
pub struct Passphrase(Zeroizing<Vec<u8>>);

impl Passphrase {
    /// Takes ownership of the secret's bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

impl Deref for Passphrase {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(..)")
    }
}

/// Whether every page of the arena so far could be locked into memory. When it could not
/// (`RLIMIT_MEMLOCK`), keys may reach swap; a mount says so in its log.
pub fn all_locked() -> bool {
    arena::all_locked()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_shows_no_bytes() {
        let key = Key::take_from(&mut [0x41; KEY_LEN]);
        assert_eq!(format!("{key:?}"), "Key(..)");
        assert_eq!(format!("{:?}", Passphrase::new(b"hunter2".to_vec())), "Passphrase(..)");
    }

    #[test]
    fn taking_a_key_zeroizes_the_source() {
        let mut source = [7; KEY_LEN];
        let key = Key::take_from(&mut source);
        assert_eq!(source, [0; KEY_LEN]);
        assert_eq!(key.expose(), &[7; KEY_LEN]);
    }

    #[test]
    fn a_failed_fill_returns_the_error() {
        assert_eq!(Key::fill(|_| Err("no")).err(), Some("no"));
    }

    #[test]
    fn many_keys_are_distinct_and_slots_are_reused_zeroed() {
        let keys: Vec<Key> = (0..3000u32)
            .map(|i| {
                Key::fill(|b| {
                    assert_eq!(b, &[0; KEY_LEN], "a slot was handed out with old contents");
                    b[..4].copy_from_slice(&i.to_le_bytes());
                    Ok::<_, ()>(())
                })
                .unwrap()
            })
            .collect();
        for (i, key) in keys.iter().enumerate() {
            assert_eq!(key.expose()[..4], u32::try_from(i).unwrap().to_le_bytes());
        }
        drop(keys);
        for _ in 0..3000 {
            let key = Key::fill(|_| Ok::<_, ()>(())).unwrap();
            assert_eq!(key.expose(), &[0; KEY_LEN]);
        }
    }
}
