//! The one place that writes to the store's file, and to the backup that is kept with it.
//!
//! *Every change is durable, whole, before it is acknowledged.* What was acknowledged is in
//! `image`. A file that a write failed on is never written to again: the kernel may take pages for
//! clean that never reached the disk, so a later flush would vouch for nothing. It is replaced by
//! a new one, made from the image, before the next change; the same goes for a file that was left
//! open by a process that died, as nobody knows why it did.
//!
//! *What was destroyed is not in the file.* A database leaves old rows in pages that are free. So a
//! commit that destroys something says so in a row of its own; the file is then scrubbed, which is
//! replacing it by one that was made of what is left, and overwriting the old one (see [`erase`]).
//! Commits go on meanwhile: they are noted, and made in the new file before it takes the old one's
//! place.
//!
//! *New material and new unlock slots are in the backup before they are in the store.* So the
//! backup opens whatever was wrapped, at every moment; it may be ahead by a version that was never
//! used. Other changes follow as soon as they can be written: disabling a key must not wait for
//! a disk that is not there.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
#[cfg(test)]
use std::sync::atomic::{AtomicBool, Ordering};

use redb::Database;

use super::backup::{self, Over};
use super::disk::Disk;
use super::erase::{self, LetGo};
use super::error::StoreError;
use super::file::{self, FILE, NEW_FILE, SCRUBBED_FILE};
use super::image::{BACKUP, Edit, Image, SCRUB};
use super::vault::Vault;

/// Which changes must be in the backup before they are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Importance {
    /// Without it, data would be lost with the store.
    Vital,
    /// The backup may follow later.
    Ordinary,
    /// Nothing that is in a backup.
    Bookkeeping,
}

/// The store's file, written by one thread at a time.
pub(super) struct Writer {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    vault: Arc<Vault>,
    /// What was acknowledged.
    image: Image,
    /// Absent after a failure; the file is not sound then.
    database: Option<Database>,
    /// Whether the file may be written to. See the module's first rule.
    sound: bool,
    /// The backup to keep.
    backup: Option<PathBuf>,
    /// Whether files may be there that were let go of and not overwritten.
    left: bool,
    /// What was committed since a scrub began; absent while there is none.
    since_scrub: Option<Vec<Edit>>,
    #[cfg(test)]
    pub(super) fail_commits: Arc<AtomicBool>,
}

impl Writer {
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        dir: &Path,
        vault: Arc<Vault>,
        database: Database,
        image: Image,
        was_left_open: bool,
    ) -> Result<Self, StoreError> {
        let backup = vault
            .sealing()?
            .backup_path(&image)?
            .map(|path| PathBuf::from(std::ffi::OsStr::from_bytes(&path)));
        let left = [NEW_FILE, SCRUBBED_FILE].iter().any(|name| disk.exists(&dir.join(name)));
        let mut writer = Self {
            disk,
            dir: dir.to_owned(),
            vault,
            image,
            left,
            since_scrub: None,
            sound: !was_left_open,
            database: Some(database),
            backup,
            #[cfg(test)]
            fail_commits: Arc::default(),
        };
        // At once if that is possible; a store that cannot be written can still be used.
        if let Err(error) = writer.make_sound() {
            tracing::warn!(%error, "the key store was not closed properly and could not be made anew yet");
        }
        Ok(writer)
    }

    pub(super) fn image(&self) -> &Image {
        &self.image
    }

    /// Whether the file holds what was acknowledged, and durably.
    pub(super) fn is_sound(&self) -> bool {
        self.sound
    }

    /// The backup that is kept.
    pub(super) fn backup(&self) -> Option<&Path> {
        self.backup.as_deref()
    }

    /// Makes all edits durable, or none.
    pub(super) fn commit(&mut self, edits: &[Edit], importance: Importance) -> Result<(), StoreError> {
        self.make_sound()?;
        if importance == Importance::Vital && self.backup.is_some() {
            self.back_up_first(&self.image.with(edits))?;
        }
        if let Err(error) = self.apply(edits) {
            self.undo(importance);
            return Err(error);
        }
        // In place: a store may have a million rows, and a change few.
        self.image.apply(edits);
        self.note(edits);
        if importance == Importance::Ordinary {
            self.follow_with_backup();
        }
        Ok(())
    }

    /// Keeps a backup at `path` from now on, or none. The backup is there when this returns.
    pub(super) fn keep_backup(&mut self, path: Option<PathBuf>, over: Over) -> Result<(), StoreError> {
        let sealing = self.vault.sealing()?;
        let sealed = match &path {
            Some(path) => {
                backup::write(&*self.disk, &sealing, &self.image, path, over)?;
                Some(sealing.seal_backup_path(path.as_os_str().as_bytes())?)
            }
            None => None,
        };
        let edit = [Edit::Meta(BACKUP.to_owned(), sealed)];
        self.make_sound()?;
        let next = self.image.with(&edit);
        if let Err(error) = self.apply(&edit) {
            self.undo(Importance::Ordinary);
            return Err(error);
        }
        self.image = next;
        self.note(&edit);
        self.backup = path;
        Ok(())
    }

    /// Whether the disk may hold something that was destroyed.
    pub(super) fn is_to_be_scrubbed(&self) -> bool {
        self.left || self.image.is_to_be_scrubbed()
    }

    /// Begins a scrub: what is to be written aside. Commits are noted from now on.
    pub(super) fn begin_scrub(&mut self) -> Result<Image, StoreError> {
        for name in [NEW_FILE, SCRUBBED_FILE] {
            let erased = erase::erase(&*self.disk, &self.dir, name);
            erased.map_err(StoreError::io("overwrite an old key store file"))?;
        }
        self.since_scrub = Some(Vec::new());
        Ok(self.image.scrubbed())
    }

    /// Ends a scrub that came to nothing.
    pub(super) fn give_up_scrub(&mut self) {
        self.since_scrub = None;
    }

    /// Goes on with the file that was written aside since [`Writer::begin_scrub`].
    pub(super) fn take_over(&mut self, scrubbed: Database) -> Result<LetGo, StoreError> {
        let since = self.since_scrub.take().unwrap_or_default();
        if !since.is_empty() {
            file::apply(&scrubbed, &since)?;
        }
        // Closed before it is replaced.
        self.distrust();
        self.left = true;
        let placed = erase::put_in_place(&*self.disk, &self.dir, SCRUBBED_FILE);
        let old = placed.map_err(StoreError::io("replace the key store"))?;
        self.database = Some(scrubbed);
        self.sound = true;
        self.image.meta.remove(SCRUB);
        // A commit since may have destroyed more, and that is in free pages of the new file.
        self.image.apply(&since);
        Ok(old)
    }

    /// What [`Writer::take_over`] let go of is overwritten.
    pub(super) fn erased(&mut self) {
        self.left = false;
    }

    fn note(&mut self, edits: &[Edit]) {
        if let Some(since) = &mut self.since_scrub {
            since.extend_from_slice(edits);
        }
    }

    /// Reads the file again and answers whether it holds what was acknowledged.
    pub(super) fn check_file(&mut self) -> Result<(), StoreError> {
        self.make_sound()?;
        let Some(database) = &mut self.database else {
            return Err(StoreError::damaged("the file is not open"));
        };
        let intact = database.check_integrity().map_err(StoreError::database);
        let found = intact.and_then(|intact| Ok((intact, file::read(database, || self.dir.join(FILE))?)));
        match found {
            Ok((true, found)) if found == self.image => Ok(()),
            Ok(_) => {
                self.distrust();
                Err(StoreError::damaged("the file does not hold what was written to it"))
            }
            Err(error) => {
                self.distrust();
                Err(error)
            }
        }
    }

    fn back_up_first(&self, next: &Image) -> Result<(), StoreError> {
        let Some(path) = &self.backup else { return Ok(()) };
        let sealing = self.vault.sealing()?;
        backup::write(&*self.disk, &sealing, next, path, Over::OwnBackup)
            .map_err(|error| not_backed_up(path, error))?;
        Ok(())
    }

    /// Writes the backup of what was acknowledged, if there is one to keep.
    fn follow_with_backup(&self) {
        let Some(path) = &self.backup else { return };
        let written = self
            .vault
            .sealing()
            .and_then(|sealing| backup::write(&*self.disk, &sealing, &self.image, path, Over::OwnBackup));
        if let Err(why) = written {
            tracing::warn!(backup = %path.display(), %why, "the backup of the key store is behind");
        }
    }

    fn apply(&self, edits: &[Edit]) -> Result<(), StoreError> {
        #[cfg(test)]
        if self.fail_commits.load(Ordering::SeqCst) {
            return Err(StoreError::NoSpace);
        }
        match &self.database {
            Some(database) => file::apply(database, edits),
            None => Err(StoreError::damaged("the file is not open")),
        }
    }

    /// After a failed write: back to what was acknowledged, now or, if that fails too, before the
    /// next change.
    fn undo(&mut self, importance: Importance) {
        self.distrust();
        if let Err(error) = self.make_sound() {
            // The caller is told why; this says what follows from it.
            tracing::info!(%error, "the key store cannot be written; its file is made anew before the next change");
        }
        if importance == Importance::Vital {
            // It is ahead. That does no harm, so it may wait.
            self.follow_with_backup();
        }
    }

    /// The file is not written to any more.
    pub(super) fn distrust(&mut self) {
        self.database = None;
        self.sound = false;
    }

    /// Replaces a file that cannot be relied on by a new one.
    fn make_sound(&mut self) -> Result<(), StoreError> {
        if self.sound && self.database.is_some() {
            return Ok(());
        }
        // Closed before it is replaced.
        self.database = None;
        // What is made of nothing else needs no scrub.
        let scrub = self.image.meta.remove(SCRUB);
        let made = self.make_anew();
        if made.is_err() {
            self.image.meta.extend(scrub.map(|row| (SCRUB.to_owned(), row)));
        }
        made
    }

    fn make_anew(&mut self) -> Result<(), StoreError> {
        file::write_aside(&*self.disk, &self.dir, NEW_FILE, &self.image)?;
        let placed = erase::put_in_place(&*self.disk, &self.dir, NEW_FILE);
        let old = placed.map_err(StoreError::io("replace the key store"))?;
        self.database = Some(file::open(&*self.disk, &self.dir)?);
        if let Err(error) = old.erase(&*self.disk, &self.dir, NEW_FILE) {
            tracing::warn!(%error, "the key store's old file could not be overwritten yet");
            self.left = true;
        }
        self.sound = true;
        Ok(())
    }
}

fn not_backed_up(path: &Path, error: StoreError) -> StoreError {
    StoreError::NotBackedUp { path: path.to_owned(), source: Box::new(error) }
}
