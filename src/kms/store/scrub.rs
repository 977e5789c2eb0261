//! Scrubbing: after it, no byte of the store's files holds what was destroyed before it began.

use super::Store;
use super::error::StoreError;
use super::file::{self, SCRUBBED_FILE};

/// Copies that [`restore`](super::restore()) put aside.
const REPLACED: &str = "store.redb.replaced-";

impl Store {
    /// Replaces the store's file by one that was made of what is left, and overwrites the old one.
    /// Takes as long as writing the whole store; commits wait only for the first and the last moment
    /// of that. Answers whether there was anything to do. What fails is to be done still.
    pub(in crate::kms) fn scrub(&self) -> Result<bool, StoreError> {
        let _alone = self.scrubbing.lock();
        let image = {
            let mut writer = self.writer.lock();
            if !writer.is_to_be_scrubbed() {
                return Ok(false);
            }
            writer.begin_scrub()?
        };
        let (disk, dir) = (&*self.disk, &*self.dir);
        let scrubbed = file::write_aside(disk, dir, SCRUBBED_FILE, &image)
            .and_then(|()| file::open_aside(disk, dir, SCRUBBED_FILE));
        drop(image);
        let old = {
            let mut writer = self.writer.lock();
            match scrubbed {
                Ok(scrubbed) => writer.take_over(scrubbed)?,
                Err(error) => {
                    writer.give_up_scrub();
                    return Err(error);
                }
            }
        };
        old.erase(disk, dir, SCRUBBED_FILE).map_err(StoreError::io("overwrite an old key store file"))?;
        self.writer.lock().erased();
        Ok(true)
    }

    /// Names of files beside the store's own that may hold what was destroyed, and that a person asked
    /// for: stores that a restored one took the place of.
    pub(in crate::kms) fn stores_put_aside(&self) -> Vec<String> {
        let names = self.disk.list(&self.dir).unwrap_or_default();
        let mut aside: Vec<String> = names.into_iter().filter(|name| name.starts_with(REPLACED)).collect();
        aside.sort_unstable();
        aside
    }
}
