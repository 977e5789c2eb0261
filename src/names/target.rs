//! Symbolic links' targets.
//!
//! A target is sealed under the volume's key with a random nonce. As text it is the backing link's
//! target, if the backing filesystem takes one that long. Otherwise it lies in a file of the
//! volume's directory of targets, and the backing link names that: a place that stays right
//! wherever the link is renamed or linked to.

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};

use super::{PAD, unpad};
use crate::crypto::wrap::{open_into, seal_into};
use crate::crypto::{NONCE_LEN, OpenError, TAG_LEN};
use crate::format::Id;
use crate::secret::Key;

/// Longest target in bytes, as everywhere on Linux.
pub const MAX_TARGET_LEN: usize = 4095;
/// Largest sealed target in bytes.
pub const MAX_SEALED_LEN: usize = MAX_TARGET_LEN.next_multiple_of(PAD) + NONCE_LEN + TAG_LEN;
/// The directory of targets, in the volume's root.
pub const TARGETS_NAME: &str = "kmsfs.targets";
/// What the backing target of a link begins with whose target lies in a file. No base64url text has
/// a dot.
const STORED_PREFIX: &str = "kmsfs.target.";
const LABEL: &[u8] = b"kmsfs v1 symlink";

/// What a backing link's target says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// The sealed target itself.
    Sealed(Vec<u8>),
    /// The sealed target lies in the file of this name in the directory of targets.
    Stored(String),
}

impl Link {
    /// A new place in the directory of targets.
    ///
    /// # Errors
    /// When the operating system's random number generator fails.
    pub fn new_stored() -> Result<Self, getrandom::Error> {
        Ok(Self::Stored(HEXLOWER.encode(&Id::random()?.0)))
    }

    /// Reads a backing link's target.
    ///
    /// # Errors
    /// [`OpenError`] if it is neither.
    pub fn parse(text: &[u8]) -> Result<Self, OpenError> {
        let Some(name) = text.strip_prefix(STORED_PREFIX.as_bytes()) else {
            return BASE64URL_NOPAD.decode(text).map(Self::Sealed).map_err(|_| OpenError);
        };
        let id = HEXLOWER.decode(name).map_err(|_| OpenError)?;
        if id.len() == size_of::<Id>() { Ok(Self::Stored(HEXLOWER.encode(&id))) } else { Err(OpenError) }
    }

    /// As a backing link's target.
    pub fn text(&self) -> String {
        match self {
            Self::Sealed(sealed) => BASE64URL_NOPAD.encode(sealed),
            Self::Stored(name) => format!("{STORED_PREFIX}{name}"),
        }
    }
}

/// Seals a target of at most [`MAX_TARGET_LEN`] bytes.
///
/// # Errors
/// When the operating system's random number generator fails.
pub fn seal(key: &Key, target: &[u8]) -> Result<Vec<u8>, getrandom::Error> {
    let mut padded = target.to_vec();
    padded.resize(target.len().next_multiple_of(PAD), 0);
    let mut sealed = vec![0; NONCE_LEN + padded.len() + TAG_LEN];
    seal_into(key, LABEL, &padded, &mut sealed)?;
    Ok(sealed)
}

/// Opens a sealed target.
///
/// # Errors
/// [`OpenError`] if it is not one of this volume's.
pub fn open(key: &Key, sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
    let len = sealed.len().checked_sub(NONCE_LEN + TAG_LEN).ok_or(OpenError)?;
    let mut padded = vec![0; len];
    open_into(key, LABEL, sealed, &mut padded)?;
    Ok(unpad(padded))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn targets_survive(target in proptest::collection::vec(1u8.., 1..=MAX_TARGET_LEN)) {
            let key = Key::take_from(&mut [1; 32]);
            let sealed = seal(&key, &target).unwrap();
            prop_assert!(sealed.len() <= MAX_SEALED_LEN);
            prop_assert_eq!(open(&key, &sealed), Ok(target));
            let link = Link::Sealed(sealed);
            prop_assert_eq!(Link::parse(link.text().as_bytes()), Ok(link));
        }

        #[test]
        fn foreign_links_never_panic(text in proptest::collection::vec(1u8.., 1..=MAX_TARGET_LEN)) {
            let key = Key::take_from(&mut [1; 32]);
            let _ = open(&key, &text);
            if let Ok(link) = Link::parse(&text) {
                prop_assert_eq!(link.text().into_bytes(), text);
            }
        }
    }

    #[test]
    fn a_stored_target_is_named_by_an_id_and_nothing_else() {
        let link = Link::new_stored().unwrap();
        assert_eq!(Link::parse(link.text().as_bytes()), Ok(link));
        for bad in ["kmsfs.target.", "kmsfs.target.00", "kmsfs.target.../../etc/passwd", "kmsfs.target.ZZ"] {
            assert_eq!(Link::parse(bad.as_bytes()), Err(OpenError));
        }
    }
}
