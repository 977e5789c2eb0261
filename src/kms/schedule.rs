//! The key store's key schedule, all of it.
//!
//! ```text
//! passphrase ──Argon2id(slot's salt and costs)──┐
//! key file, recovery key ──HKDF(slot's salt)────┴─> slot key ──opens──> root key
//! root key ──HKDF(store id, "index")────> index key:    hides the names of records
//!          ──HKDF(store id, "records")──> record key:   seals keys' states, aliases, ...
//!          ──HKDF(store id, "material")─> material key: seals master key versions
//!          ──HKDF(store id, "backup")───> backup key:   seals backups as a whole
//!          ──HKDF(store id, "audit")────> audit key:    authenticates lines of the audit log
//!          ──HKDF(store id, "receipts")─> receipt seed: of the Ed25519 key that signs receipts
//! master key version ──HKDF(key id, "fingerprint")──> its public fingerprint
//! master key version ──seals──> blobs
//! ```

use std::sync::Arc;

use argon2::{Algorithm, Argon2, Block, Params, Version};
use zeroize::Zeroize;

use super::id::{KeyId, StoreId};
use crate::crypto::kdf::{DIGEST_LEN, Kdf};
use crate::secret::{KEY_LEN, Key};

/// Opens the associated data of every blob.
pub(super) const BLOB_LABEL: &[u8] = b"kmsfs kms blob v1\0";
/// Associated data of what a proxy makes of a sealed plaintext.
pub(super) const OUTER_LABEL: &[u8] = b"kmsfs kms external v1\0";
/// Opens the associated data of every sealed record.
pub(super) const RECORD_LABEL: &[u8] = b"kmsfs kms record v1\0";
/// Opens the associated data of every sealed root key.
pub(super) const SLOT_LABEL: &[u8] = b"kmsfs kms slot v1\0";

/// Opens the associated data of a backup's seal.
pub(super) const BACKUP_LABEL: &[u8] = b"kmsfs kms backup seal v1\0";

const KEY_FILE: &[u8] = b"kmsfs kms key file v1";
const INDEX: &[u8] = b"kmsfs kms index v1";
const RECORDS: &[u8] = b"kmsfs kms records v1";
const MATERIAL: &[u8] = b"kmsfs kms material v1";
const BACKUP: &[u8] = b"kmsfs kms backup v1";
const AUDIT: &[u8] = b"kmsfs kms audit v1";
const RECEIPTS: &[u8] = b"kmsfs kms receipts v1";
const NAME: &[u8] = b"kmsfs kms name v1\0";
const FINGERPRINT: &[u8] = b"kmsfs kms fingerprint v1";

/// Bytes of salt in an unlock slot.
pub(super) const SALT_LEN: usize = 16;

/// What the store's records are sealed with.
#[derive(Debug)]
pub(super) struct StoreKeys {
    /// Sealed anew for every slot that is added.
    pub(super) root: Key,
    pub(super) records: Key,
    pub(super) material: Key,
    pub(super) backup: Key,
    pub(super) audit: Arc<Key>,
    /// As the root key, the same for as long as there is the store, its backups included.
    pub(super) receipts: Key,
    index: Key,
}

impl StoreKeys {
    pub(super) fn derive(root: Key, store: &StoreId) -> Self {
        let kdf = Kdf::new(&root, store.as_bytes());
        let (records, material, index) = (kdf.key(&[RECORDS]), kdf.key(&[MATERIAL]), kdf.key(&[INDEX]));
        let audit = Arc::new(kdf.key(&[AUDIT]));
        let (backup, receipts) = (kdf.key(&[BACKUP]), kdf.key(&[RECEIPTS]));
        Self { root, records, material, backup, audit, receipts, index }
    }

    /// The place of the record `name` in its table: the same name finds it again, and nobody
    /// without the key can tell a name from its place.
    pub(super) fn place(&self, name: &[u8]) -> [u8; DIGEST_LEN] {
        Kdf::new(&self.index, &[]).commitment(&[NAME, name])
    }
}

/// The slot key of a passphrase. `None` when the costs are beyond what Argon2 or this machine's
/// memory allows.
pub(super) fn from_passphrase(passphrase: &[u8], salt: &[u8; SALT_LEN], costs: Costs) -> Option<Key> {
    let params = Params::new(costs.memory_kib, costs.passes, costs.lanes, Some(KEY_LEN)).ok()?;
    let mut memory = Vec::new();
    memory.try_reserve_exact(params.block_count()).ok()?;
    memory.resize(params.block_count(), Block::default());
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let key = Key::fill(|out| argon2.hash_password_into_with_memory(passphrase, salt, out, &mut memory[..]));
    memory.iter_mut().for_each(Zeroize::zeroize);
    key.ok()
}

/// The slot key of a key file's contents, or of a recovery key.
pub(super) fn from_key_file(contents: &[u8], salt: &[u8; SALT_LEN]) -> Key {
    Kdf::from_bytes(contents, salt).key(&[KEY_FILE])
}

/// What names a version of a master key in public.
pub(super) fn fingerprint(material: &Key, key: &KeyId) -> [u8; DIGEST_LEN] {
    Kdf::new(material, key.as_bytes()).commitment(&[FINGERPRINT])
}

/// As [`fingerprint`], of material that is not a 256-bit key.
pub(super) fn fingerprint_of_bytes(material: &[u8], key: &KeyId) -> [u8; DIGEST_LEN] {
    Kdf::from_bytes(material, key.as_bytes()).commitment(&[FINGERPRINT])
}

/// What a guess at a passphrase costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Costs {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl Costs {
    /// The most that a slot may ask for, so that a hostile file cannot take the machine down.
    pub const MAX: Self = Self { memory_kib: 1 << 20, passes: 64, lanes: 16 };

    /// Whether Argon2 can be run at these costs and none exceeds [`Costs::MAX`].
    pub fn are_sane(&self) -> bool {
        self.memory_kib <= Self::MAX.memory_kib
            && self.passes <= Self::MAX.passes
            && self.lanes <= Self::MAX.lanes
            && Params::new(self.memory_kib, self.passes, self.lanes, Some(KEY_LEN)).is_ok()
    }
}

impl Default for Costs {
    fn default() -> Self {
        Self { memory_kib: 64 * 1024, passes: 3, lanes: 4 }
    }
}
