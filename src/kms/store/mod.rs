//! The key store's file: `DIR/store.redb`.
//!
//! ```text
//! meta      "header" -> magic, format version, store id, region, account   plain
//! slots     number   -> unlock slot                                        see `slot`
//! records   place    -> sealed record: a key's state, an alias             see `record`
//! material  place    -> sealed version of a master key, 32 bytes
//! ```
//!
//! A *place* is a keyed hash of the record's name, so the file shows how many records there are
//! and how long, not what they are called. A sealed value is nonce, ciphertext, tag; its
//! associated data is a label, the store id, the table and the place, so that no record can stand
//! in for another.

mod error;
mod lock;
mod record;
mod slot;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
#[cfg(test)]
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use redb::{Database, Durability, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition};
use rustix::fs::{CWD, RenameFlags};
use zeroize::Zeroizing;

use super::id::{AliasName, KeyId, Realm, StoreId};
use super::schedule::{Costs, RECORD_LABEL, StoreKeys, fingerprint};
use crate::codec::{Reader, Truncated};
use crate::crypto::kdf::DIGEST_LEN;
use crate::crypto::wrap::{open_into, seal_into};
use crate::crypto::{NONCE_LEN, TAG_LEN};
use crate::secret::Key;
use lock::OwnerLock;
use slot::{MAX_SLOTS, Slot};

pub use error::StoreError;
pub(super) use record::{AliasRecord, Deletion, KeyRecord, Record, VersionCause, VersionRecord};
pub use slot::{MIN_KEY_FILE, SlotInfo, SlotKind, UnlockSecret};

const FILE: &str = "store.redb";
const NEW_FILE: &str = "store.redb.new";
const MAGIC: &[u8; 8] = b"KMSFSKEY";
const FORMAT: u32 = 1;
/// The database's page cache, in bytes. The service keeps everything in memory itself.
const CACHE: usize = 1 << 20;

type Place = [u8; DIGEST_LEN];
const META: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("meta");
const HEADER: &str = "header";
const SLOTS: TableDefinition<'static, u32, &[u8]> = TableDefinition::new("slots");
const RECORDS: SealedTable = TableDefinition::new("records");
const MATERIAL: SealedTable = TableDefinition::new("material");
type SealedTable = TableDefinition<'static, Place, &'static [u8]>;

/// Whether `dir` holds a key store.
pub fn store_exists(dir: &Path) -> bool {
    dir.join(FILE).exists()
}

/// How a new key store is to be called and guarded.
#[derive(Debug, Clone, Default)]
pub struct StoreOptions {
    /// Region and account of its ARNs.
    pub realm: Realm,
    /// What a guess at the passphrase is to cost.
    pub costs: Costs,
}

/// An open, unlocked key store, held exclusively. May be used from any thread; commits are
/// serialized.
pub(super) struct Store {
    id: StoreId,
    realm: Realm,
    dir: PathBuf,
    header: Vec<u8>,
    keys: StoreKeys,
    /// `None` after a failed commit: the database refuses to go on with a file it could not
    /// write, so the next commit opens it again.
    database: Mutex<Option<Database>>,
    _lock: OwnerLock,
    #[cfg(test)]
    pub(super) fail_commits: AtomicBool,
}

/// A key with its material, oldest version first.
pub(super) type LoadedKey = (KeyRecord, Vec<Key>);

/// One step of a commit.
pub(super) enum Change<'a> {
    /// Writes a record over the one of the same name.
    Put(&'a Record),
    /// Removes an alias.
    DropAlias(&'a AliasName),
    /// Writes a version of a key's material.
    PutMaterial { key: &'a KeyId, version: u32, material: &'a Key },
    /// Removes a key and all versions of its material.
    DropKey(&'a KeyRecord),
}

impl Store {
    /// Creates a store in `dir`, which is created too if need be; it is there whole or not at all.
    pub(super) fn create(
        dir: &Path,
        secret: &UnlockSecret,
        options: &StoreOptions,
    ) -> Result<Self, StoreError> {
        if !options.realm.is_valid() {
            return Err(StoreError::Invalid(
                "the region must be letters, digits and '-', the account 12 digits",
            ));
        }
        if !dir.exists() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir)
                .map_err(StoreError::io("create the key store's directory"))?;
        }
        let lock = OwnerLock::take(dir)?;
        if store_exists(dir) {
            return Err(StoreError::AlreadyExists(dir.to_owned()));
        }
        let id = StoreId::random()?;
        let header = encode_header(&id, &options.realm);
        let root = Key::random()?;
        let slot = slot::seal(&header, 0, secret, options.costs, &root)?;
        write_new(dir, &header, &slot).inspect_err(|_| {
            let _ = fs::remove_file(dir.join(NEW_FILE));
        })?;
        Self::assemble(dir, lock, header, root)
    }

    /// Opens the store in `dir` with the secret of any of its slots.
    pub(super) fn open(dir: &Path, secret: &UnlockSecret) -> Result<Self, StoreError> {
        if !store_exists(dir) {
            return Err(StoreError::NotFound(dir.to_owned()));
        }
        let lock = OwnerLock::take(dir)?;
        let (header, slots) = caught(|| read_plain(dir, &open_database(dir)?))?;
        decode_header(dir, &header)?;
        for (id, bytes) in slots {
            if let Some(root) = Slot::parse(&bytes)?.open(&header, id, secret) {
                return Self::assemble(dir, lock, header, root);
            }
        }
        Err(StoreError::WrongSecret)
    }

    pub(super) fn id(&self) -> &StoreId {
        &self.id
    }

    pub(super) fn realm(&self) -> &Realm {
        &self.realm
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Every key with its material, and every alias. Every record is authenticated.
    pub(super) fn load(&self) -> Result<(Vec<LoadedKey>, Vec<AliasRecord>), StoreError> {
        self.with_database(|database| {
            let read = database.begin_read().map_err(StoreError::database)?;
            let records = read.open_table(RECORDS).map_err(StoreError::database)?;
            let material = read.open_table(MATERIAL).map_err(StoreError::database)?;
            let (mut keys, mut aliases, mut versions) = (Vec::new(), Vec::new(), 0);
            for entry in records.iter().map_err(StoreError::database)? {
                let (place, sealed) = entry.map_err(StoreError::database)?;
                match self.open_record(&place.value(), sealed.value())? {
                    Record::KeyV1(record) => {
                        let loaded = self.open_versions(&record, &material)?;
                        versions += loaded.len() as u64;
                        keys.push((record, loaded));
                    }
                    Record::AliasV1(record) => aliases.push(record),
                }
            }
            if versions != material.len().map_err(StoreError::database)? {
                return Err(StoreError::damaged("material without its key"));
            }
            Ok((keys, aliases))
        })
    }

    /// Makes all changes durable, or none.
    pub(super) fn commit(&self, changes: &[Change<'_>]) -> Result<(), StoreError> {
        self.transact(|transaction| {
            let mut records = transaction.open_table(RECORDS).map_err(StoreError::database)?;
            let mut material = transaction.open_table(MATERIAL).map_err(StoreError::database)?;
            for change in changes {
                match change {
                    Change::Put(record) => {
                        let place = self.keys.place(&record.name());
                        let sealed = self.seal(&self.keys.records, b"records", &place, &record.encode()?)?;
                        records.insert(place, sealed.as_slice()).map_err(StoreError::database)?;
                    }
                    Change::DropAlias(alias) => {
                        let place = self.keys.place(&record::alias_name(alias.as_str()));
                        records.remove(place).map_err(StoreError::database)?;
                    }
                    Change::PutMaterial { key, version, material: key_bytes } => {
                        let place = self.keys.place(&record::material_name(key, *version));
                        let sealed =
                            self.seal(&self.keys.material, b"material", &place, key_bytes.expose())?;
                        material.insert(place, sealed.as_slice()).map_err(StoreError::database)?;
                    }
                    Change::DropKey(key) => {
                        for (_, version) in (0..key.versions.len()).zip(1..) {
                            let place = self.keys.place(&record::material_name(&key.id, version));
                            material.remove(place).map_err(StoreError::database)?;
                        }
                        let place = self.keys.place(&record::key_name(&key.id));
                        records.remove(place).map_err(StoreError::database)?;
                    }
                }
            }
            Ok(())
        })
    }

    /// The unlock slots, by number.
    pub(super) fn slots(&self) -> Result<Vec<SlotInfo>, StoreError> {
        let (_, slots) = self.with_database(|database| read_plain(&self.dir, database))?;
        slots.into_iter().map(|(id, bytes)| Ok(SlotInfo { id, kind: Slot::parse(&bytes)?.kind() })).collect()
    }

    /// Adds an unlock slot; answers its number.
    pub(super) fn add_slot(&self, secret: &UnlockSecret, costs: Costs) -> Result<u32, StoreError> {
        let slots = self.slots()?;
        if slots.len() >= MAX_SLOTS {
            return Err(StoreError::Invalid(
                "the key store has all of its 16 unlock slots: remove one first",
            ));
        }
        let id = slots.last().map_or(Some(0), |last| last.id.checked_add(1));
        let id = id.ok_or(StoreError::Invalid("the numbers of unlock slots have run out"))?;
        let bytes = slot::seal(&self.header, id, secret, costs, &self.keys.root)?;
        self.transact(|transaction| {
            let mut slots = transaction.open_table(SLOTS).map_err(StoreError::database)?;
            slots.insert(id, bytes.as_slice()).map_err(StoreError::database)?;
            Ok(())
        })?;
        Ok(id)
    }

    /// Removes an unlock slot; the last one stays.
    pub(super) fn remove_slot(&self, id: u32) -> Result<(), StoreError> {
        self.transact(|transaction| {
            let mut slots = transaction.open_table(SLOTS).map_err(StoreError::database)?;
            if slots.len().map_err(StoreError::database)? <= 1 {
                return Err(StoreError::Invalid("this is the only unlock slot: add another first"));
            }
            match slots.remove(id).map_err(StoreError::database)? {
                Some(_) => Ok(()),
                None => Err(StoreError::Invalid("no unlock slot of this number: list them")),
            }
        })
    }

    fn assemble(dir: &Path, lock: OwnerLock, header: Vec<u8>, root: Key) -> Result<Self, StoreError> {
        let (id, realm) = decode_header(dir, &header)?;
        Ok(Self {
            keys: StoreKeys::derive(root, &id),
            id,
            realm,
            dir: dir.to_owned(),
            header,
            database: Mutex::new(Some(open_database(dir)?)),
            _lock: lock,
            #[cfg(test)]
            fail_commits: AtomicBool::new(false),
        })
    }

    fn with_database<T>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut database = self.database.lock();
        caught(|| {
            let open = match database.take() {
                Some(open) => open,
                None => open_database(&self.dir)?,
            };
            work(database.insert(open))
        })
    }

    fn transact(
        &self,
        work: impl FnOnce(&redb::WriteTransaction) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let done = self.with_database(|database| {
            let mut transaction = database.begin_write().map_err(StoreError::database)?;
            transaction
                .set_durability(Durability::Immediate)
                .map_err(|error| StoreError::damaged(error.to_string()))?;
            work(&transaction)?;
            #[cfg(test)]
            if self.fail_commits.load(Ordering::SeqCst) {
                return Err(StoreError::NoSpace);
            }
            transaction.commit().map_err(StoreError::database)
        });
        if matches!(done, Err(StoreError::Io { .. } | StoreError::NoSpace | StoreError::Damaged(_))) {
            *self.database.lock() = None;
        }
        done
    }

    fn open_versions(
        &self,
        record: &KeyRecord,
        table: &impl ReadableTable<Place, &'static [u8]>,
    ) -> Result<Vec<Key>, StoreError> {
        if record.versions.is_empty() {
            return Err(StoreError::damaged("a key without material"));
        }
        let numbered = record.versions.iter().zip(1..);
        numbered
            .map(|(version, number)| {
                let place = self.keys.place(&record::material_name(&record.id, number));
                let sealed = table.get(place).map_err(StoreError::database)?;
                let sealed = sealed.ok_or_else(|| StoreError::damaged("missing material"))?;
                let aad = self.aad(b"material", &place);
                let key = Key::fill(|bytes| open_into(&self.keys.material, &aad, sealed.value(), bytes))
                    .map_err(|_| StoreError::damaged("a forged or broken material record"))?;
                if fingerprint(&key, &record.id) != version.fingerprint {
                    return Err(StoreError::damaged("material of another version"));
                }
                Ok(key)
            })
            .collect()
    }

    fn open_record(&self, place: &Place, sealed: &[u8]) -> Result<Record, StoreError> {
        let forged = || StoreError::damaged("a forged or broken record");
        let len = sealed.len().checked_sub(NONCE_LEN + TAG_LEN).filter(|len| *len <= record::MAX_RECORD);
        let mut plaintext = Zeroizing::new(vec![0; len.ok_or_else(forged)?]);
        open_into(&self.keys.records, &self.aad(b"records", place), sealed, &mut plaintext)
            .map_err(|_| forged())?;
        let record = Record::decode(&plaintext)?;
        if self.keys.place(&record.name()) == *place { Ok(record) } else { Err(forged()) }
    }

    fn seal(&self, key: &Key, table: &[u8], place: &Place, plaintext: &[u8]) -> Result<Vec<u8>, StoreError> {
        let mut sealed = vec![0; NONCE_LEN + plaintext.len() + TAG_LEN];
        seal_into(key, &self.aad(table, place), plaintext, &mut sealed)?;
        Ok(sealed)
    }

    fn aad(&self, table: &[u8], place: &Place) -> Vec<u8> {
        [RECORD_LABEL, self.id.as_bytes(), table, b"\0", place].concat()
    }
}

/// Writes the store's first contents aside, then gives the file its name.
fn write_new(dir: &Path, header: &[u8], slot: &[u8]) -> Result<(), StoreError> {
    let aside = dir.join(NEW_FILE);
    // A creation that was interrupted left it; this process holds the lock.
    match fs::remove_file(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(StoreError::io("remove an unfinished key store")(error));
        }
        _ => {}
    }
    let what = "create the key store";
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&aside)
        .map_err(StoreError::io(what))?;
    let database = Database::builder().set_cache_size(CACHE).create(&aside).map_err(StoreError::database)?;
    let mut transaction = database.begin_write().map_err(StoreError::database)?;
    transaction
        .set_durability(Durability::Immediate)
        .map_err(|error| StoreError::damaged(error.to_string()))?;
    transaction
        .open_table(META)
        .map_err(StoreError::database)?
        .insert(HEADER, header)
        .map_err(StoreError::database)?;
    transaction
        .open_table(SLOTS)
        .map_err(StoreError::database)?
        .insert(0, slot)
        .map_err(StoreError::database)?;
    transaction.open_table(RECORDS).map_err(StoreError::database)?;
    transaction.open_table(MATERIAL).map_err(StoreError::database)?;
    transaction.commit().map_err(StoreError::database)?;
    drop(database);
    file.sync_all().map_err(StoreError::io(what))?;
    match rustix::fs::renameat_with(CWD, &aside, CWD, dir.join(FILE), RenameFlags::NOREPLACE) {
        Ok(()) => {}
        Err(rustix::io::Errno::EXIST) => return Err(StoreError::AlreadyExists(dir.to_owned())),
        Err(error) => return Err(StoreError::io(what)(error.into())),
    }
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(StoreError::io(what))
}

/// The database panics over some damage to its file.
fn caught<T>(work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    let done = catch_unwind(AssertUnwindSafe(work));
    done.unwrap_or_else(|_| Err(StoreError::damaged("its file cannot be read")))
}

fn open_database(dir: &Path) -> Result<Database, StoreError> {
    Database::builder().set_cache_size(CACHE).open(dir.join(FILE)).map_err(|error| match error {
        redb::DatabaseError::Storage(redb::StorageError::Io(error))
            if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
        {
            StoreError::NotAStore(dir.join(FILE))
        }
        other => StoreError::database(other),
    })
}

type PlainSlots = Vec<(u32, Vec<u8>)>;

/// The header and the slots: all that can be read without a secret.
fn read_plain(dir: &Path, database: &Database) -> Result<(Vec<u8>, PlainSlots), StoreError> {
    let foreign = || StoreError::NotAStore(dir.join(FILE));
    let read = database.begin_read().map_err(StoreError::database)?;
    let meta = read.open_table(META).map_err(|_| foreign())?;
    let header = meta.get(HEADER).map_err(StoreError::database)?.ok_or_else(foreign)?.value().to_vec();
    let table = read.open_table(SLOTS).map_err(|_| foreign())?;
    if table.len().map_err(StoreError::database)? > MAX_SLOTS as u64 {
        return Err(StoreError::damaged("too many unlock slots"));
    }
    let mut slots = Vec::new();
    for entry in table.iter().map_err(StoreError::database)? {
        let (id, bytes) = entry.map_err(StoreError::database)?;
        slots.push((id.value(), bytes.value().to_vec()));
    }
    Ok((header, slots))
}

fn encode_header(id: &StoreId, realm: &Realm) -> Vec<u8> {
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

fn decode_header(dir: &Path, header: &[u8]) -> Result<(StoreId, Realm), StoreError> {
    let cut = |Truncated| StoreError::damaged("cut header");
    let mut r = Reader::new(header);
    if r.array().ok() != Some(*MAGIC) {
        return Err(StoreError::NotAStore(dir.join(FILE)));
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
