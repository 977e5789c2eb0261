//! What the sealed records say. The order of fields and variants is the format: append variants,
//! never reorder, and give a changed record a new variant of [`Record`].

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::error::StoreError;
use crate::crypto::kdf::DIGEST_LEN;
use crate::kms::id::{AliasName, KeyId};
use crate::kms::state::{KeyManager, KeyState};

/// Longest record in bytes: far above what the limits of the service allow.
pub(super) const MAX_RECORD: usize = 1 << 20;

/// A record of the `records` table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(in crate::kms) enum Record {
    KeyV1(KeyRecord),
    AliasV1(AliasRecord),
}

/// A master key, without its material.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(in crate::kms) struct KeyRecord {
    pub(in crate::kms) id: KeyId,
    pub(in crate::kms) manager: KeyManager,
    pub(in crate::kms) state: KeyState,
    pub(in crate::kms) description: String,
    #[serde(with = "millis")]
    pub(in crate::kms) created: Timestamp,
    pub(in crate::kms) deletion: Option<Deletion>,
    /// Oldest first; version `n` is at `n - 1`. Never empty.
    pub(in crate::kms) versions: Vec<VersionRecord>,
}

/// When a key's material is to be destroyed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(in crate::kms) struct Deletion {
    #[serde(with = "millis")]
    pub(in crate::kms) at: Timestamp,
    pub(in crate::kms) window_days: u32,
}

/// One version of a key's material, without the material.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(in crate::kms) struct VersionRecord {
    pub(in crate::kms) fingerprint: [u8; DIGEST_LEN],
    #[serde(with = "millis")]
    pub(in crate::kms) created: Timestamp,
    pub(in crate::kms) cause: VersionCause,
}

/// Why a version was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::kms) enum VersionCause {
    Creation,
    OnDemand,
}

/// A second name for a key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(in crate::kms) struct AliasRecord {
    pub(in crate::kms) name: String,
    pub(in crate::kms) target: KeyId,
    #[serde(with = "millis")]
    pub(in crate::kms) created: Timestamp,
    #[serde(with = "millis")]
    pub(in crate::kms) updated: Timestamp,
}

impl Record {
    /// What the record is filed under.
    pub(super) fn name(&self) -> Vec<u8> {
        match self {
            Self::KeyV1(key) => key_name(&key.id),
            Self::AliasV1(alias) => alias_name(&alias.name),
        }
    }

    pub(super) fn encode(&self) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        let encoded = bincode::serde::encode_to_vec(self, bincode::config::standard());
        match encoded {
            Ok(bytes) if bytes.len() <= MAX_RECORD => Ok(Zeroizing::new(bytes)),
            _ => Err(StoreError::Invalid("a key store record is too long")),
        }
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        let bounded = bincode::config::standard().with_limit::<MAX_RECORD>();
        match bincode::serde::decode_from_slice(bytes, bounded) {
            Ok((record, used)) if used == bytes.len() => Ok(record),
            _ => Err(StoreError::damaged("record of an unknown form")),
        }
    }
}

pub(super) fn key_name(id: &KeyId) -> Vec<u8> {
    [b"key\0".as_slice(), id.as_bytes()].concat()
}

pub(super) fn alias_name(alias: &str) -> Vec<u8> {
    [b"alias\0", alias.as_bytes()].concat()
}

pub(super) fn material_name(id: &KeyId, version: u32) -> Vec<u8> {
    [b"material\0".as_slice(), id.as_bytes(), &version.to_le_bytes()].concat()
}

impl AliasRecord {
    pub(in crate::kms) fn alias(&self) -> Result<AliasName, StoreError> {
        self.name.parse().map_err(|_| StoreError::damaged("alias of an unknown form"))
    }
}

mod millis {
    use jiff::Timestamp;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i64(at.as_millisecond())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        Timestamp::from_millisecond(i64::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// With every field that has a length or a variant.
    fn key() -> Record {
        let created = Timestamp::UNIX_EPOCH;
        let version = |cause| VersionRecord { fingerprint: [3; DIGEST_LEN], created, cause };
        Record::KeyV1(KeyRecord {
            id: KeyId::from_bytes([7; 16]),
            manager: KeyManager::Customer,
            state: KeyState::PendingDeletion,
            description: "photos".to_owned(),
            created,
            deletion: Some(Deletion { at: created, window_days: 7 }),
            versions: vec![version(VersionCause::Creation), version(VersionCause::OnDemand)],
        })
    }

    proptest! {
        #[test]
        fn a_genuine_record_with_changes_decodes_without_panic(
            changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..4),
            cut: proptest::sample::Index,
            whole: bool,
        ) {
            let mut bytes = key().encode().unwrap().to_vec();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if !whole {
                bytes.truncate(cut.index(bytes.len()));
            }
            if let Ok(record) = Record::decode(&bytes) {
                prop_assert_eq!(Record::decode(&record.encode().unwrap()).unwrap(), record);
            }
        }

        #[test]
        fn any_bytes_decode_without_panic(mut bytes: Vec<u8>, kind in 0u8..3) {
            bytes.insert(0, kind);
            if let Ok(record) = Record::decode(&bytes) {
                prop_assert_eq!(Record::decode(&record.encode().unwrap()).unwrap(), record);
            }
        }

        #[test]
        fn absurd_lengths_are_refused(len: u64, kind in 0u8..2) {
            // An alias begins with its name's length, a key's description has one further on.
            let mut bytes = vec![kind];
            bytes.extend([0; 19]);
            bytes.push(253);
            bytes.extend(len.to_le_bytes());
            bytes.insert(1, 253);
            bytes.splice(2..10, len.to_le_bytes());
            prop_assert!(Record::decode(&bytes).is_err());
        }
    }
}
