//! The store's file, a database of four tables:
//!
//! ```text
//! meta      "header"    -> magic, format version, store id, region, account   plain
//!           "next slot" -> number of the next unlock slot                     plain
//!           "backup"    -> path of the backup that is kept up to date         sealed
//!           "audit"     -> what the store remembers of the audit log          sealed
//!           "scrub"     -> nothing; there while the file is to be scrubbed    plain
//! slots     number      -> unlock slot                                        see `slot`
//! records   place       -> sealed record: a key's state, an alias             see `record`
//! material  place       -> sealed version of a master key, 32 bytes
//! ```

use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use redb::{
    Builder, Database, Durability, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition,
    WriteTransaction,
};

use super::disk::{Boxed, Disk};
use super::erase;
use super::error::StoreError;
use super::image::{Edit, Image, Place};

pub(super) const FILE: &str = "store.redb";
/// What takes the place of a file that a write failed on, or that is restored; then the old one.
pub(super) const NEW_FILE: &str = "store.redb.new";
/// What takes the place of a file that is scrubbed, while that is in use; then the old one.
pub(super) const SCRUBBED_FILE: &str = "store.redb.scrubbed";
/// The database's page cache, in bytes. The store keeps everything in memory itself.
const CACHE: usize = 1 << 20;

const META: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("meta");
const SLOTS: TableDefinition<'static, u32, &[u8]> = TableDefinition::new("slots");
const RECORDS: SealedTable = TableDefinition::new("records");
const MATERIAL: SealedTable = TableDefinition::new("material");
type SealedTable = TableDefinition<'static, Place, &'static [u8]>;

/// Opens the store's file in `dir`.
pub(super) fn open(disk: &dyn Disk, dir: &Path) -> Result<Database, StoreError> {
    open_as(disk, &dir.join(FILE))
}

/// Opens what [`write_aside`] wrote.
pub(super) fn open_aside(disk: &dyn Disk, dir: &Path, name: &str) -> Result<Database, StoreError> {
    open_as(disk, &dir.join(name))
}

/// The database panics over some damage to its file, which it may only come to when it writes.
fn caught<T>(work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    let done = catch_unwind(AssertUnwindSafe(work));
    done.unwrap_or_else(|_| Err(StoreError::damaged("its file cannot be read")))
}

fn open_as(disk: &dyn Disk, path: &Path) -> Result<Database, StoreError> {
    let backend = disk.open(path).map_err(StoreError::io("open the key store"))?;
    // An empty file would be taken for a database to be.
    if backend.len().map_err(StoreError::io("open the key store"))? == 0 {
        return Err(StoreError::NotAStore(path.to_owned()));
    }
    let mut builder = builder();
    // Else a file that was damaged is trusted, and the database panics on what it finds.
    builder.set_check_integrity_on_open(true);
    let opened = caught(|| Ok(builder.create_with_backend(Boxed(backend))))?;
    opened.map_err(|error| match error {
        redb::DatabaseError::Storage(redb::StorageError::Io(error))
            if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
        {
            StoreError::NotAStore(path.to_owned())
        }
        other => StoreError::database(other),
    })
}

/// Reads everything.
pub(super) fn read(database: &Database, path: impl Fn() -> PathBuf) -> Result<Image, StoreError> {
    caught(|| read_tables(database, path))
}

fn read_tables(database: &Database, path: impl Fn() -> PathBuf) -> Result<Image, StoreError> {
    let read = database.begin_read().map_err(StoreError::database)?;
    let foreign = |_| StoreError::NotAStore(path());
    let mut image = Image::default();
    let meta = read.open_table(META).map_err(foreign)?;
    for entry in meta.iter().map_err(StoreError::database)? {
        let (name, value) = entry.map_err(StoreError::database)?;
        image.meta.insert(name.value().to_owned(), value.value().to_vec());
    }
    let slots = read.open_table(SLOTS).map_err(foreign)?;
    for entry in slots.iter().map_err(StoreError::database)? {
        let (id, slot) = entry.map_err(StoreError::database)?;
        image.slots.insert(id.value(), slot.value().to_vec());
    }
    image.records = sealed_rows(&read, RECORDS)?;
    image.material = sealed_rows(&read, MATERIAL)?;
    image.check_bounds()?;
    Ok(image)
}

/// Makes all edits durable, or none; see [`super::writer`] for what a failure leaves.
pub(super) fn apply(database: &Database, edits: &[Edit]) -> Result<(), StoreError> {
    caught(|| {
        let transaction = begin(database)?;
        write_edits(&transaction, edits)?;
        transaction.commit().map_err(StoreError::database)
    })
}

/// Writes a file with the contents of `image` aside, durably. Gives it no other name.
pub(super) fn write_aside(disk: &dyn Disk, dir: &Path, name: &str, image: &Image) -> Result<(), StoreError> {
    let aside = dir.join(name);
    // One that was interrupted left it; the caller holds the store's lock.
    erase::discard(disk, dir, name).map_err(StoreError::io("remove an unfinished key store"))?;
    fill(disk, &aside, image).inspect_err(|_| {
        let _ = erase::discard(disk, dir, name);
    })
}

fn fill(disk: &dyn Disk, aside: &Path, image: &Image) -> Result<(), StoreError> {
    let backend = disk.create(aside).map_err(StoreError::io("create the key store"))?;
    let database = builder().create_with_backend(Boxed(backend)).map_err(StoreError::database)?;
    let transaction = begin(&database)?;
    write_edits(&transaction, &image.rows())?;
    transaction.commit().map_err(StoreError::database)?;
    database.close().map_err(StoreError::database)?;
    // Read back through the same door that will open it.
    let written = open_as(disk, aside)?;
    if read(&written, || aside.to_owned())? != *image {
        return Err(StoreError::damaged("the key store did not read back as it was written"));
    }
    written.close().map_err(StoreError::database)?;
    let synced = disk.open(aside).and_then(|backend| backend.sync_data().and_then(|()| backend.close()));
    synced.map_err(StoreError::io("create the key store"))
}

fn builder() -> Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE);
    builder
}

fn begin(database: &Database) -> Result<WriteTransaction, StoreError> {
    let mut transaction = database.begin_write().map_err(StoreError::database)?;
    transaction
        .set_durability(Durability::Immediate)
        .map_err(|error| StoreError::damaged(error.to_string()))?;
    Ok(transaction)
}

fn write_edits(transaction: &WriteTransaction, edits: &[Edit]) -> Result<(), StoreError> {
    let mut meta = transaction.open_table(META).map_err(StoreError::database)?;
    let mut slots = transaction.open_table(SLOTS).map_err(StoreError::database)?;
    let mut records = transaction.open_table(RECORDS).map_err(StoreError::database)?;
    let mut material = transaction.open_table(MATERIAL).map_err(StoreError::database)?;
    for edit in edits {
        let done = match edit {
            Edit::Meta(name, Some(value)) => meta.insert(name.as_str(), value.as_slice()).map(drop),
            Edit::Meta(name, None) => meta.remove(name.as_str()).map(drop),
            Edit::Slot(id, Some(slot)) => slots.insert(id, slot.as_slice()).map(drop),
            Edit::Slot(id, None) => slots.remove(id).map(drop),
            Edit::Record(place, Some(sealed)) => records.insert(place, sealed.as_slice()).map(drop),
            Edit::Record(place, None) => records.remove(place).map(drop),
            Edit::Material(place, Some(sealed)) => material.insert(place, sealed.as_slice()).map(drop),
            Edit::Material(place, None) => material.remove(place).map(drop),
        };
        done.map_err(StoreError::database)?;
    }
    Ok(())
}

fn sealed_rows(read: &ReadTransaction, table: SealedTable) -> Result<BTreeMap<Place, Vec<u8>>, StoreError> {
    let table = read.open_table(table).map_err(StoreError::database)?;
    let mut rows = BTreeMap::new();
    for entry in table.iter().map_err(StoreError::database)? {
        let (place, sealed) = entry.map_err(StoreError::database)?;
        rows.insert(place.value(), sealed.value().to_vec());
    }
    Ok(rows)
}
