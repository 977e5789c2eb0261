//! The store's plain header: what it is, which format, whose.
//!
//! ```text
//! 0   8  magic
//! 8   4  format version
//! 12 16  store id
//! 28  .  region, then account, each behind its 16-bit length
//! ```

use std::path::Path;

use super::error::StoreError;
use crate::codec::{Reader, Truncated};
use crate::kms::id::{Realm, StoreId};

const MAGIC: &[u8; 8] = b"KMSFSKEY";
/// Version of the store's format.
pub(super) const FORMAT: u32 = 1;

pub(super) fn encode(id: &StoreId, realm: &Realm) -> Vec<u8> {
    let mut header = MAGIC.to_vec();
    header.extend(FORMAT.to_le_bytes());
    header.extend(id.as_bytes());
    for text in [&realm.region, &realm.account] {
        // `Realm::is_valid` bounds both to 64 bytes.
        header.extend((text.len() as u16).to_le_bytes());
        header.extend(text.as_bytes());
    }
    header
}

/// `file` is where the header was found.
pub(super) fn decode(file: &Path, header: &[u8]) -> Result<(StoreId, Realm), StoreError> {
    let cut = |Truncated| StoreError::damaged("cut header");
    let mut r = Reader::new(header);
    if r.array().ok() != Some(*MAGIC) {
        return Err(StoreError::NotAStore(file.to_owned()));
    }
    let found = r.u32().map_err(cut)?;
    if found != FORMAT {
        return Err(StoreError::UnknownVersion { found, known: FORMAT });
    }
    let id = StoreId::from_bytes(r.array().map_err(cut)?);
    let mut text = || r.string16().map(|text| String::from_utf8_lossy(text).into_owned()).map_err(cut);
    let realm = Realm { region: text()?, account: text()? };
    if realm.is_valid() { Ok((id, realm)) } else { Err(StoreError::damaged("header")) }
}
