//! The key store: a sealed file and its unlock slots, held exclusively by one process.
//!
//! | module | |
//! |---|---|
//! | `file` | the tables of `DIR/store.redb` |
//! | `image` | these tables in memory: what was acknowledged |
//! | `sealing`, `record` | what the sealed rows say |
//! | `slot`, `recovery` | what opens the store |
//! | `vault` | whether it is unlocked |
//! | `writer` | the one place that changes it |
//! | `ledger` | what it remembers of the audit log |
//! | `backup`, `restore` | one file with all of it, and the way back |
//! | `scrub`, `erase` | nothing is left of what was destroyed |
//! | `disk` | the files underneath |

mod backup;
mod disk;
mod envelope;
mod erase;
mod error;
mod file;
mod header;
mod image;
mod ledger;
mod lock;
mod record;
mod recovery;
mod restore;
mod scrub;
mod sealing;
mod slot;
mod unlocking;
mod vault;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
#[cfg(test)]
use std::sync::atomic::AtomicBool;

use redb::Database;

use super::audit::{EventId, Head};
use super::id::{Realm, StoreId};
use super::schedule::Costs;
use crate::secret::Key;
use crate::sync::Mutex;
use file::FILE;
use image::{AUDIT, Edit, Image, SCRUB};
use ledger::Ledger;
use lock::OwnerLock;
use sealing::Sealing;
use slot::Slot;
use unlocking::unlock;
use vault::Vault;
use writer::{Importance, Writer};

pub(super) use backup::{Over, Written};
pub use disk::{Disk, SystemDisk};
pub use envelope::{open_key, seal_key};
pub use error::StoreError;
pub(super) use ledger::{Accompanied, Pending};
pub(super) use record::{
    AccessKeyRecord, AliasRecord, Connection, CustomStoreRecord, Deletion, ExternalKeyRecord, GrantRecord,
    ImportRecord, KeyRecord, LastUse, ReceiptRecord, ReceiptStage, Record, RecordName, RotationRecord,
    VersionCause, VersionRecord, VolumeRecord, WrappedRecord,
};
pub use recovery::{NotARecoveryKey, new_recovery_key, parse_recovery_key};
pub use restore::{Restored, restore};
pub(super) use sealing::{Change, Contents, Material};
pub use slot::{MIN_KEY_FILE, SlotInfo, SlotKind, UnlockSecret};

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

/// An open key store, held exclusively. May be used from any thread; commits are serialized. While it
/// is locked, everything that seals or opens a row fails with [`StoreError::Locked`], before anything is
/// changed.
pub(super) struct Store {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    id: StoreId,
    realm: Realm,
    vault: Arc<Vault>,
    audit_key: Arc<Key>,
    ledger: Ledger,
    /// One secret is tried at a time: that takes memory and time.
    trying: Mutex<()>,
    /// Held during I/O; nothing else is taken inside.
    writer: Mutex<Writer>,
    /// Held by the one scrub that is under way; `writer` is taken inside, now and then.
    scrubbing: Mutex<()>,
    /// Given up last.
    lock: OwnerLock,
    #[cfg(test)]
    pub(super) fail_commits: Arc<AtomicBool>,
}

/// What an inspection found.
#[derive(Debug, Clone)]
pub(super) struct Checked {
    pub(super) keys: u64,
    pub(super) versions: u64,
    pub(super) aliases: u64,
    pub(super) slots: u64,
    /// Whether a backup was looked at too.
    pub(super) backup: Option<PathBuf>,
}

/// A backup that is kept up to date.
#[derive(Debug, Clone, Default)]
pub(super) struct Kept {
    pub(super) path: Option<PathBuf>,
    /// Why it is behind, if it is.
    pub(super) behind: Option<String>,
}

impl Store {
    /// Creates a store in `dir`, which is created too if need be; it is there whole or not at all.
    pub(super) fn create(
        disk: Arc<dyn Disk>,
        dir: &Path,
        secret: &UnlockSecret,
        options: &StoreOptions,
    ) -> Result<Self, StoreError> {
        if !options.realm.is_valid() {
            return Err(StoreError::Invalid(
                "the region must be letters, digits and '-', the account 12 digits",
            ));
        }
        disk.make_directory(dir).map_err(StoreError::io("create the key store's directory"))?;
        let lock = OwnerLock::take(dir)?;
        if disk.exists(&dir.join(FILE)) {
            return Err(StoreError::AlreadyExists(dir.to_owned()));
        }
        let id = StoreId::random()?;
        let header = header::encode(&id, &options.realm);
        let root = Key::random()?;
        let slot = slot::seal(&header, 0, secret, options.costs, &root)?;
        file::write_aside(&*disk, dir, file::NEW_FILE, &Image::new(header, slot))?;
        name_new(&*disk, dir)?;
        let named = Arc::clone(&disk);
        let open = || {
            disk.sync_directory(dir).map_err(StoreError::io("create the key store"))?;
            let open = file::open(&*disk, dir)?;
            let image = file::read(&open, || dir.join(FILE))?;
            Self::assemble(Arc::clone(&disk), dir, lock, Sealing::new(root, id), open, image)
        };
        // Nobody was told that it is there, and it holds no key.
        open().inspect_err(|_| drop(named.remove(&dir.join(FILE))))
    }

    /// Opens the store in `dir` with the secret of any of its slots.
    pub(super) fn open(disk: Arc<dyn Disk>, dir: &Path, secret: &UnlockSecret) -> Result<Self, StoreError> {
        let path = dir.join(FILE);
        if !disk.exists(&path) {
            return Err(StoreError::NotFound(dir.to_owned()));
        }
        let lock = OwnerLock::take(dir)?;
        let open = file::open(&*disk, dir)?;
        let image = file::read(&open, || path.clone())?;
        let (id, _) = header::decode(&path, image.header())?;
        let root = unlock(&image, secret)?.ok_or(StoreError::WrongSecret)?.1;
        Self::assemble(disk, dir, lock, Sealing::new(root, id), open, image)
    }

    pub(super) fn id(&self) -> &StoreId {
        &self.id
    }

    pub(super) fn realm(&self) -> &Realm {
        &self.realm
    }

    pub(super) fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Everything. Every record is authenticated.
    pub(super) fn load(&self) -> Result<Contents, StoreError> {
        self.vault.sealing()?.open_all(self.writer.lock().image())
    }

    /// Makes all changes durable, or none. New material is in the backup first, if one is kept.
    pub(super) fn commit(&self, changes: &[Change<'_>]) -> Result<(), StoreError> {
        let mut edits = self.vault.sealing()?.edits(changes)?;
        let destroys =
            |change: &Change<'_>| matches!(change, Change::DropMaterial { .. } | Change::DropKey(_));
        if changes.iter().any(destroys) {
            edits.push(to_be_scrubbed());
        }
        let vital = changes.iter().any(|change| matches!(change, Change::PutMaterial { .. }));
        let importance = if vital { Importance::Vital } else { Importance::Ordinary };
        self.write(&mut self.writer.lock(), edits, &self.resources(changes), importance)
    }

    /// Lets the next commit go to a new file, made from what was acknowledged. For writes that
    /// nobody asked for: they must do no harm to a file that was damaged while it lay there, where
    /// it can still be read, and the database gives up whoever writes to it.
    pub(super) fn start_anew(&self) {
        self.writer.lock().distrust();
    }

    /// Writes a backup of what was acknowledged.
    pub(super) fn back_up(&self, path: &Path, over: Over) -> Result<Written, StoreError> {
        let sealing = self.vault.sealing()?;
        let image = self.writer.lock().image().clone();
        backup::write(&*self.disk, &sealing, &image, path, over)
    }

    /// Keeps a backup at `path` from now on, or none.
    pub(super) fn keep_backup(&self, path: Option<PathBuf>, over: Over) -> Result<(), StoreError> {
        self.writer.lock().keep_backup(path, over)
    }

    /// The backup that is kept.
    pub(super) fn kept_backup_path(&self) -> Option<PathBuf> {
        self.writer.lock().backup().map(Path::to_owned)
    }

    /// The backup that is kept, and whether it has everything.
    pub(super) fn kept_backup(&self) -> Kept {
        let (path, image) = {
            let writer = self.writer.lock();
            (writer.backup().map(Path::to_owned), writer.image().clone())
        };
        let behind = path.as_deref().and_then(|path| match backup::read(&*self.disk, path) {
            Ok(saved) if saved.has_all_of(&image) => None,
            Ok(_) => Some("it lacks the latest changes, and is written anew with the next one".to_owned()),
            Err(error) => Some(error.to_string()),
        });
        Kept { path, behind }
    }

    /// Reads everything again, opens every record and looks whether they fit together; the same
    /// for `backup`, or for the one that is kept.
    pub(super) fn check(&self, backup: Option<&Path>) -> Result<Checked, StoreError> {
        let sealing = self.vault.sealing()?;
        let mut writer = self.writer.lock();
        writer.check_file()?;
        let image = writer.image();
        let Contents { keys, aliases, .. } = sealing.open_all(image)?;
        let known = |alias: &AliasRecord| keys.iter().any(|(key, _)| key.id == alias.target);
        if let Some(lost) = aliases.iter().find(|alias| !known(alias)) {
            return Err(StoreError::damaged(format!("{} names a key that is not there", lost.name)));
        }
        for bytes in image.slots.values() {
            Slot::parse(bytes)?;
        }
        let backup = backup.or(writer.backup()).map(Path::to_owned);
        if let Some(path) = &backup {
            let saved = backup::read(&*self.disk, path)?;
            let missing = restore::missing_from(&saved, &sealing, &keys)?;
            if !missing.is_empty() {
                return Err(StoreError::BackupBehind { path: path.clone(), missing });
            }
        }
        Ok(Checked {
            keys: keys.len() as u64,
            versions: keys.iter().map(|(_, versions)| versions.len() as u64).sum(),
            aliases: aliases.len() as u64,
            slots: image.slots.len() as u64,
            backup,
        })
    }

    /// Authenticates the lines of the audit log.
    pub(super) fn audit_key(&self) -> Arc<Key> {
        Arc::clone(&self.audit_key)
    }

    /// What receipts of deleted keys are signed with.
    ///
    /// # Errors
    /// [`StoreError::Locked`], and those of `body`.
    pub(super) fn with_receipt_seed<T, E: From<StoreError>>(
        &self,
        body: impl FnOnce(&Key) -> Result<T, E>,
    ) -> Result<T, E> {
        body(&self.vault.sealing()?.keys.receipts)
    }

    /// How far the audit log reached, as far as the store knows.
    pub(super) fn audit_anchor(&self) -> Head {
        self.ledger.anchor()
    }

    /// The audit log is durable up to here. The next commit says so.
    pub(super) fn log_reached(&self, head: Head) {
        self.ledger.log_reached(head);
    }

    /// From now on, commits of this thread carry `event`; see [`ledger`].
    pub(super) fn accompany(&self, id: EventId, event: Vec<u8>) -> Accompanied<'_> {
        self.ledger.accompany(id, event)
    }

    /// Events of changes that may not be in the audit log.
    pub(super) fn pending_events(&self) -> Vec<Pending> {
        self.ledger.pending()
    }

    /// These events are in the audit log, durably.
    pub(super) fn events_are_logged(&self, events: &[Pending]) {
        self.ledger.are_logged(events);
    }

    /// Remembers that the audit log has everything and ends here.
    pub(super) fn close_log(&self, head: Head) -> Result<(), StoreError> {
        self.ledger.log_reached(head);
        self.ledger.are_logged(&self.ledger.pending());
        let sealing = self.vault.sealing()?;
        let mut writer = self.writer.lock();
        let row = self.ledger.row(&[])?;
        if sealing.open_meta(writer.image(), AUDIT)?.is_some_and(|kept| *kept == row) {
            return Ok(());
        }
        let edit = Edit::Meta(AUDIT.to_owned(), Some(sealing.seal_meta(AUDIT, &row)?));
        writer.commit(&[edit], Importance::Bookkeeping)
    }

    /// A commit, with what the store is to remember of the audit log.
    fn write(
        &self,
        writer: &mut Writer,
        mut edits: Vec<Edit>,
        resources: &[String],
        importance: Importance,
    ) -> Result<(), StoreError> {
        let row = self.ledger.row(resources)?;
        edits.push(Edit::Meta(AUDIT.to_owned(), Some(self.vault.sealing()?.seal_meta(AUDIT, &row)?)));
        writer.commit(&edits, importance)?;
        self.ledger.committed();
        Ok(())
    }

    /// The ARNs of what is changed.
    fn resources(&self, changes: &[Change<'_>]) -> Vec<String> {
        let key = |id| self.realm.key_arn(id).to_string();
        let named = changes.iter().filter_map(|change| match change {
            Change::Put(Record::KeyV2(record)) => Some(key(&record.id)),
            Change::DropKey(record) => Some(key(&record.id)),
            Change::PutMaterial { key: id, .. } | Change::DropMaterial { key: id, .. } => Some(key(id)),
            Change::Put(Record::AliasV1(record)) => {
                Some(format!("arn:aws:kms:{}:{}:{}", self.realm.region, self.realm.account, record.name))
            }
            _ => None,
        });
        named.collect()
    }

    fn assemble(
        disk: Arc<dyn Disk>,
        dir: &Path,
        lock: OwnerLock,
        sealing: Sealing,
        open: Database,
        image: Image,
    ) -> Result<Self, StoreError> {
        let (_, realm) = header::decode(&dir.join(FILE), image.header())?;
        let (id, audit_key) = (sealing.id, Arc::clone(&sealing.keys.audit));
        let ledger = match sealing.open_meta(&image, AUDIT)? {
            Some(row) => Ledger::parse(&row)?,
            None => Ledger::default(),
        };
        let vault = Arc::new(Vault::unlocked(sealing));
        let writer = Writer::new(Arc::clone(&disk), dir, Arc::clone(&vault), open, image, lock.was_left)?;
        Ok(Self {
            #[cfg(test)]
            fail_commits: Arc::clone(&writer.fail_commits),
            disk,
            dir: dir.to_owned(),
            id,
            realm,
            vault,
            audit_key,
            ledger,
            trying: Mutex::new(()),
            writer: Mutex::new(writer),
            scrubbing: Mutex::new(()),
            lock,
        })
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.lock.clean = self.writer.get_mut().is_sound();
    }
}

const NO_SUCH_SLOT: StoreError = StoreError::Invalid("no unlock slot of this number: list them");

fn to_be_scrubbed() -> Edit {
    Edit::Meta(SCRUB.to_owned(), Some(Vec::new()))
}

/// Gives a new file the store's name.
fn name_new(disk: &dyn Disk, dir: &Path) -> Result<(), StoreError> {
    let aside = dir.join(file::NEW_FILE);
    let named = disk.rename(&aside, &dir.join(FILE)).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => StoreError::AlreadyExists(dir.to_owned()),
        _ => StoreError::io("create the key store")(error),
    });
    named.inspect_err(|_| drop(disk.remove(&aside)))
}
