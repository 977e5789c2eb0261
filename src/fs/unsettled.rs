//! Files that this mount has changed, let go of, and could not settle.
//!
//! Most of them were met while their master key was disabled or the key store locked. Those are handed to the
//! settler again as soon as their key may be used: until then each stays in the table of inodes, by a look-up
//! counted for it. What could not be settled for another reason, as damage, is left to the next mount.

use std::collections::HashMap;
use std::sync::Arc;

use super::Fs;
use super::inode::Inode;
use super::keys::Gate;
use super::open_file::OpenFile;
use crate::sync::Mutex;

/// Those files, by inode number; with a look-up counted for each that waits.
#[derive(Default)]
pub(super) struct Unsettled(Mutex<HashMap<u64, Option<Waiting>>>);

/// A file whose key was not usable.
struct Waiting {
    inode: Arc<Inode>,
    gate: Arc<Gate>,
}

impl Unsettled {
    /// Whether a file is one of them.
    pub(super) fn contains(&self, ino: u64) -> bool {
        self.0.lock().contains_key(&ino)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    /// Notes a file that is being let go of; `refused` says that its key was not usable. The caller holds
    /// the file's lock, so that its inode is not forgotten before its look-up counts.
    pub(super) fn add(&self, inode: &Arc<Inode>, open: &OpenFile, refused: bool) {
        let mut files = self.0.lock();
        let entry = files.entry(inode.ino).or_default();
        if refused && entry.is_none() {
            inode.count_lookup();
            *entry = Some(Waiting { inode: Arc::clone(inode), gate: open.gate() });
        }
    }

    /// A file is settled, or gone. Answers whether a look-up is to be taken back.
    #[must_use]
    pub(super) fn remove(&self, ino: u64) -> bool {
        self.0.lock().remove(&ino).flatten().is_some()
    }

    /// A file that waits and whose key may be used; it waits no more, but counts as unsettled. Its look-up
    /// is the caller's.
    fn take_ready(&self) -> Option<(Arc<Inode>, Arc<Gate>)> {
        let mut files = self.0.lock();
        let is_ready = |entry: &Option<Waiting>| {
            entry.as_ref().is_some_and(|waiting| waiting.gate.check_program().is_ok())
        };
        let ready = files.values_mut().find(|entry| is_ready(entry))?;
        ready.take().map(|waiting| (waiting.inode, waiting.gate))
    }

    /// A file's key was not usable after all.
    fn put_back(&self, inode: &Arc<Inode>, gate: Arc<Gate>) {
        if let Some(entry @ None) = self.0.lock().get_mut(&inode.ino) {
            inode.count_lookup();
            *entry = Some(Waiting { inode: Arc::clone(inode), gate });
        }
    }
}

impl Fs {
    /// Hands files to the settler that could not be settled when their keys were not usable, and can be now.
    pub(super) fn settle_what_waited(&self) {
        while let Some((inode, gate)) = self.unsettled.take_ready() {
            let opened = self.open_file(&inode, true, &self.itself());
            let refused = match opened {
                Ok(_) => {
                    self.close_file(&inode, true);
                    false
                }
                Err(error) => {
                    tracing::debug!("{}: not settled yet: {error}", inode.path());
                    error.is_refusal()
                }
            };
            if refused {
                self.unsettled.put_back(&inode, gate);
            }
            self.forget(inode.ino, 1);
            if refused {
                // The key service may be slow to say no.
                return;
            }
        }
    }
}
