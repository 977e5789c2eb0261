//! What the sealed records say. The order of fields and variants is the format: append variants,
//! never reorder, and give a changed record a new variant of [`Record`].

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::error::StoreError;
use crate::crypto::kdf::DIGEST_LEN;
use crate::kms::context::EncryptionContext;
use crate::kms::custom_store::ConnectionErrorCode;
use crate::kms::id::{AliasName, KeyId};
use crate::kms::spec::{KeySpec, KeyUsage, Origin};
use crate::kms::state::{KeyManager, KeyState};

/// Longest record in bytes: far above what the limits of the service allow.
pub(super) const MAX_RECORD: usize = 1 << 20;

/// A record of the `records` table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(in crate::kms) enum Record {
    /// As it was before keys had specs, policies and tags. Never written.
    KeyV1(KeyRecordV1),
    AliasV1(AliasRecord),
    KeyV2(KeyRecord),
    GrantV1(GrantRecord),
    AccessKeyV1(AccessKeyRecord),
    ImportV1(ImportRecord),
    CustomStoreV1(CustomStoreRecord),
    ExternalKeyV1(ExternalKeyRecord),
    VolumeV1(VolumeRecord),
    ReceiptV1(ReceiptRecord),
}

/// A master key, without its material.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(in crate::kms) struct KeyRecord {
    pub(in crate::kms) id: KeyId,
    pub(in crate::kms) manager: KeyManager,
    pub(in crate::kms) state: KeyState,
    pub(in crate::kms) spec: KeySpec,
    pub(in crate::kms) usage: KeyUsage,
    pub(in crate::kms) origin: Origin,
    pub(in crate::kms) description: String,
    #[serde(with = "millis")]
    pub(in crate::kms) created: Timestamp,
    pub(in crate::kms) deletion: Option<Deletion>,
    /// Oldest first; version `n` is at `n - 1`. Empty until material is imported.
    pub(in crate::kms) versions: Vec<VersionRecord>,
    /// When new material is made by itself.
    pub(in crate::kms) rotation: Option<RotationRecord>,
    /// The key policy as it was put; `None` for the default one.
    pub(in crate::kms) policy: Option<String>,
    pub(in crate::kms) tags: BTreeMap<String, String>,
    /// The last use of the key, as far as it has been written.
    pub(in crate::kms) last_use: Option<LastUse>,
}

/// When a key's material is to be destroyed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(in crate::kms) struct Deletion {
    #[serde(with = "millis")]
    pub(in crate::kms) at: Timestamp,
    pub(in crate::kms) window_days: u32,
}

/// Automatic rotation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(in crate::kms) struct RotationRecord {
    pub(in crate::kms) period_days: u32,
    #[serde(with = "millis")]
    pub(in crate::kms) next: Timestamp,
}

/// The last use of a key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(in crate::kms) struct LastUse {
    pub(in crate::kms) operation: String,
    #[serde(with = "millis")]
    pub(in crate::kms) at: Timestamp,
}

/// One version of a key's material, without the material.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(in crate::kms) struct VersionRecord {
    pub(in crate::kms) fingerprint: [u8; DIGEST_LEN],
    #[serde(with = "millis")]
    pub(in crate::kms) created: Timestamp,
    pub(in crate::kms) cause: VersionCause,
    /// Whether the store has the material. Imported material can be deleted and come back; of another
    /// key, a version without it was retired.
    pub(in crate::kms) present: bool,
    /// When imported material goes by itself, in milliseconds since 1970.
    pub(in crate::kms) expires: Option<i64>,
    /// Wraps that may have been made with it: reserved in blocks, so never too few.
    pub(in crate::kms) wraps_reserved: u64,
}

/// Why a version was made. The order is part of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::kms) enum VersionCause {
    Creation,
    OnDemand,
    Automatic,
    Import,
}

/// A permission for one principal, beside the key's policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(in crate::kms) struct GrantRecord {
    pub(in crate::kms) id: [u8; 32],
    pub(in crate::kms) key: KeyId,
    pub(in crate::kms) name: Option<String>,
    pub(in crate::kms) issuer: String,
    pub(in crate::kms) grantee: String,
    pub(in crate::kms) retiring: Option<String>,
    /// Names of operations, in order.
    pub(in crate::kms) operations: Vec<String>,
    pub(in crate::kms) context_equals: Option<EncryptionContext>,
    pub(in crate::kms) context_subset: Option<EncryptionContext>,
    #[serde(with = "millis")]
    pub(in crate::kms) created: Timestamp,
}

/// What signs the requests of a user who comes over the network.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub(in crate::kms) struct AccessKeyRecord {
    pub(in crate::kms) id: String,
    pub(in crate::kms) user: String,
    pub(in crate::kms) secret: Zeroizing<String>,
    pub(in crate::kms) enabled: bool,
    #[serde(with = "millis")]
    pub(in crate::kms) created: Timestamp,
}

/// An import of material that was begun: what unwraps the material that is to come.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub(in crate::kms) struct ImportRecord {
    pub(in crate::kms) key: KeyId,
    /// Name of the wrapping algorithm.
    pub(in crate::kms) algorithm: String,
    /// PKCS #8.
    pub(in crate::kms) wrapping_key: Zeroizing<Vec<u8>>,
    pub(in crate::kms) token: [u8; 32],
    #[serde(with = "millis")]
    pub(in crate::kms) valid_to: Timestamp,
}

/// A custom key store: a proxy, and what it believes requests by.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub(in crate::kms) struct CustomStoreRecord {
    pub(in crate::kms) id: String,
    pub(in crate::kms) name: String,
    pub(in crate::kms) endpoint: String,
    pub(in crate::kms) path: String,
    /// PEM; `None` for the authorities of the machine.
    pub(in crate::kms) trust_anchor: Option<String>,
    pub(in crate::kms) access_key_id: String,
    pub(in crate::kms) secret: Zeroizing<String>,
    #[serde(with = "millis")]
    pub(in crate::kms) created: Timestamp,
    pub(in crate::kms) connection: Connection,
}

/// Whether a custom key store is connected. The order is part of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::kms) enum Connection {
    Disconnected,
    Connected,
    Failed(ConnectionErrorCode),
}

/// What a key of a custom key store stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::kms) struct ExternalKeyRecord {
    pub(in crate::kms) key: KeyId,
    /// Id of the custom key store.
    pub(in crate::kms) store: String,
    /// Id of the key in the key manager.
    pub(in crate::kms) xks_key_id: String,
}

/// A volume that uses the store, as it was when it was last heard of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(in crate::kms) struct VolumeRecord {
    pub(in crate::kms) id: String,
    pub(in crate::kms) path: String,
    #[serde(with = "millis")]
    pub(in crate::kms) seen: Timestamp,
    /// Somebody had it open for writing then.
    pub(in crate::kms) open: bool,
    /// It counts no more, until it is opened again.
    pub(in crate::kms) forgotten: bool,
    /// Every file of it is in `wrapped`.
    pub(in crate::kms) certain: bool,
    pub(in crate::kms) wrapped: Vec<WrappedRecord>,
}

/// What one version of a key wraps in a volume.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(in crate::kms) struct WrappedRecord {
    pub(in crate::kms) key_arn: String,
    pub(in crate::kms) key_version: u32,
    pub(in crate::kms) files: u64,
    pub(in crate::kms) bytes: u64,
}

/// What is known of the end of a key. Each stage is JSON, of the shapes in [`crate::kms::receipt`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::kms) struct ReceiptRecord {
    pub(in crate::kms) key: KeyId,
    pub(in crate::kms) stage: ReceiptStage,
}

/// How far the end of a key has come. The order is part of the format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::kms) enum ReceiptStage {
    /// It is to be deleted: who said so, and when.
    Scheduled(String),
    /// It is deleted: the receipt, that is to be signed when the store's file is scrubbed.
    Destroyed(String),
    /// The receipt, signed.
    Signed(String),
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
    pub(super) fn name(&self) -> RecordName<'_> {
        match self {
            Self::KeyV1(key) => RecordName::Key(&key.id),
            Self::KeyV2(key) => RecordName::Key(&key.id),
            Self::AliasV1(alias) => RecordName::Alias(&alias.name),
            Self::GrantV1(grant) => RecordName::Grant(&grant.id),
            Self::AccessKeyV1(key) => RecordName::AccessKey(&key.id),
            Self::ImportV1(import) => RecordName::Import(&import.token),
            Self::CustomStoreV1(store) => RecordName::CustomStore(&store.id),
            Self::ExternalKeyV1(external) => RecordName::ExternalKey(&external.key),
            Self::VolumeV1(volume) => RecordName::Volume(&volume.id),
            Self::ReceiptV1(receipt) => RecordName::Receipt(&receipt.key),
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

/// What a record is filed under.
#[derive(Debug, Clone, Copy)]
pub(in crate::kms) enum RecordName<'a> {
    Key(&'a KeyId),
    Alias(&'a str),
    Grant(&'a [u8; 32]),
    AccessKey(&'a str),
    /// By its token.
    Import(&'a [u8; 32]),
    CustomStore(&'a str),
    /// By the key that stands for it.
    ExternalKey(&'a KeyId),
    Volume(&'a str),
    /// By the key that it is about.
    Receipt(&'a KeyId),
}

impl RecordName<'_> {
    pub(super) fn bytes(self) -> Vec<u8> {
        match self {
            Self::Key(id) => [b"key\0".as_slice(), id.as_bytes()].concat(),
            Self::Alias(alias) => [b"alias\0", alias.as_bytes()].concat(),
            Self::Grant(id) => [b"grant\0".as_slice(), id].concat(),
            Self::AccessKey(id) => [b"access key\0", id.as_bytes()].concat(),
            Self::Import(token) => [b"import\0".as_slice(), token].concat(),
            Self::CustomStore(id) => [b"custom key store\0", id.as_bytes()].concat(),
            Self::ExternalKey(id) => [b"external key\0".as_slice(), id.as_bytes()].concat(),
            Self::Volume(id) => [b"volume\0", id.as_bytes()].concat(),
            Self::Receipt(key) => [b"receipt\0".as_slice(), key.as_bytes()].concat(),
        }
    }
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

/// Never shows the secret.
impl fmt::Debug for AccessKeyRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessKeyRecord")
            .field("id", &self.id)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// Never shows the wrapping key.
impl fmt::Debug for ImportRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImportRecord").field("key", &self.key).finish_non_exhaustive()
    }
}

/// Never shows the secret.
impl fmt::Debug for CustomStoreRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CustomStoreRecord").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The first form of [`KeyRecord`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(in crate::kms) struct KeyRecordV1 {
    id: KeyId,
    manager: KeyManager,
    state: KeyState,
    description: String,
    #[serde(with = "millis")]
    created: Timestamp,
    deletion: Option<Deletion>,
    versions: Vec<VersionRecordV1>,
}

/// The first form of [`VersionRecord`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct VersionRecordV1 {
    fingerprint: [u8; DIGEST_LEN],
    #[serde(with = "millis")]
    created: Timestamp,
    cause: VersionCause,
}

impl From<KeyRecordV1> for KeyRecord {
    fn from(old: KeyRecordV1) -> Self {
        let version = |old: VersionRecordV1| VersionRecord {
            fingerprint: old.fingerprint,
            created: old.created,
            cause: old.cause,
            present: true,
            expires: None,
            wraps_reserved: 0,
        };
        Self {
            id: old.id,
            manager: old.manager,
            state: old.state,
            spec: KeySpec::SymmetricDefault,
            usage: KeyUsage::EncryptDecrypt,
            origin: Origin::AwsKms,
            description: old.description,
            created: old.created,
            deletion: old.deletion,
            versions: old.versions.into_iter().map(version).collect(),
            rotation: None,
            policy: None,
            tags: BTreeMap::new(),
            last_use: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// With every field that has a length or a variant.
    fn key() -> Record {
        let created = Timestamp::UNIX_EPOCH;
        let version = |cause| VersionRecord {
            fingerprint: [3; DIGEST_LEN],
            created,
            cause,
            present: true,
            expires: Some(9),
            wraps_reserved: 1 << 20,
        };
        Record::KeyV2(KeyRecord {
            id: KeyId::from_bytes([7; 16]),
            manager: KeyManager::Customer,
            state: KeyState::PendingDeletion,
            spec: KeySpec::SymmetricDefault,
            usage: KeyUsage::EncryptDecrypt,
            origin: Origin::AwsKms,
            description: "photos".to_owned(),
            created,
            deletion: Some(Deletion { at: created, window_days: 7 }),
            versions: vec![version(VersionCause::Creation), version(VersionCause::OnDemand)],
            rotation: Some(RotationRecord { period_days: 365, next: created }),
            policy: Some("{}".to_owned()),
            tags: BTreeMap::from([("team".to_owned(), "red".to_owned())]),
            last_use: Some(LastUse { operation: "Decrypt".to_owned(), at: created }),
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
        fn any_bytes_decode_without_panic(mut bytes: Vec<u8>, kind in 0u8..11) {
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
