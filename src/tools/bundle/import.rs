//! Emptying a bundle: whatever in a volume is under master keys of another key store comes under one
//! of this one.

use std::collections::HashSet;
use std::io;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Adopting, AllMissing, Cause, Kind, MAX_NAMED};
use crate::format::Id;
use crate::fs::FileKind;
use crate::provider::ProviderError;
use crate::tools::rewrap::{Place, Tree, Unmounted};

/// What came of it.
#[derive(Debug, Default)]
pub struct Imported {
    /// Files wrapped anew.
    pub files: u64,
    /// Names of files that were under keys of this key store already.
    pub already: u64,
    /// Directories that were assigned the master key, the root for all that have none of their own.
    pub assigned: u64,
    /// What is still under keys of the other key store.
    pub missing: AllMissing,
    /// How many keys in the bundle are of files that the volume does not have.
    pub unused_count: u64,
    /// The ids of these files; not all of them if that is much.
    pub unused: Vec<Id>,
    /// What was wrapped anew may not be durable, as the operating system says it.
    pub not_durable: Option<i32>,
    /// Ended by a signal; the same command goes on.
    pub cancelled: bool,
}

/// Brings everything in a volume, whose root is `root`, under the master key `key` (ARN), as far as it
/// is under a key of another key store. `tree` unwraps through `keys`.
pub fn import(tree: &Unmounted, root: &Place, keys: &Adopting, key: &str, stop: &AtomicBool) -> Imported {
    let mut work = Import { tree, keys, key, stop, seen: HashSet::new(), imported: Imported::default() };
    work.imported.cancelled = work.directory(root).is_break();
    let (seen, mut imported) = (work.seen, work.imported);
    imported.not_durable = tree.flush(root).err().map(|error| error.raw_os_error().unwrap_or(libc::EIO));
    if !imported.cancelled {
        for id in keys.bundle().files().filter(|id| !seen.contains(id)) {
            imported.unused_count += 1;
            if imported.unused.len() < MAX_NAMED {
                imported.unused.push(id);
            }
        }
        imported.unused.sort();
    }
    imported
}

struct Import<'a> {
    tree: &'a Unmounted,
    keys: &'a Adopting,
    key: &'a str,
    stop: &'a AtomicBool,
    /// Files of the volume.
    seen: HashSet<Id>,
    imported: Imported,
}

impl Import<'_> {
    fn directory(&mut self, place: &Place) -> ControlFlow<()> {
        if let Err(error) = self.assign(place) {
            self.imported.missing.add_failed(place.path.clone(), &error);
        }
        let tree = self.tree;
        match tree.each(place, &mut |entry| self.visit(&entry)) {
            Ok(flow) => flow,
            Err(error) => {
                self.imported.missing.add_failed(place.path.clone(), &error);
                ControlFlow::Continue(())
            }
        }
    }

    /// Has new files in a directory be under the key, if they were to be under one of the other store.
    fn assign(&mut self, place: &Place) -> io::Result<()> {
        let Some(assigned) = self.tree.assigned(place)? else { return Ok(()) };
        if self.is_foreign(&assigned)? {
            self.tree.assign(place, self.key)?;
            self.imported.assigned += 1;
        }
        Ok(())
    }

    fn visit(&mut self, place: &Place) -> ControlFlow<()> {
        if self.stop.load(Ordering::Relaxed) {
            return ControlFlow::Break(());
        }
        match place.kind {
            FileKind::Directory => return self.directory(place),
            FileKind::Regular => {
                if let Err(error) = self.file(place) {
                    self.imported.missing.add_failed(place.path.clone(), &error);
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn file(&mut self, place: &Place) -> io::Result<()> {
        let id = self.tree.object_id(place)?;
        self.seen.insert(id);
        if !self.is_foreign(&self.tree.wrapping(place)?.key_arn)? {
            self.imported.already += 1;
        } else if self.keys.bundle().has(Kind::File, id) {
            self.tree.wrap(place, self.key)?;
            self.imported.files += 1;
        } else {
            self.imported.missing.add(place.path.clone(), Cause::NotInBundle);
        }
        Ok(())
    }

    fn is_foreign(&self, arn: &str) -> io::Result<bool> {
        self.keys.is_foreign(arn).map_err(|error| match error {
            ProviderError::AccessDenied(_) => io::Error::from_raw_os_error(libc::EACCES),
            _ => io::Error::from_raw_os_error(libc::ENOKEY),
        })
    }
}
