//! After a crash: files that were being created or written when the last mount ended are brought
//! to a state that this mount can vouch for.
//!
//! An entry is looked at when it is first looked up, and in the background all are, once. A file
//! whose header was never durable begins anew, empty, under its directory's key. An interrupted
//! one is read through and settled. Only files that changed since the crashed mount began are
//! touched, and only on a volume that says it was not unmounted properly: elsewhere the same
//! findings are damage.

use std::ops::ControlFlow;
use std::sync::Arc;

use rustix::fs::OFlags;

use super::directory::Directory;
use super::inode::Inode;
use super::{DirEntry, FileKind, Fs, FsResult};
use crate::chunk::Backing;
use crate::format::PAGE_LEN;
use crate::sync::atomic::{AtomicBool, Ordering};

impl Fs {
    /// Looks at everything that a crash may have left; returns when done or when `stop` is set.
    /// Files that cannot be opened now, because their key is not usable, keep the volume marked
    /// as interrupted.
    pub fn recover(&self, stop: &AtomicBool) {
        if self.volume.read_only || self.recovered.load(Ordering::Acquire) {
            return;
        }
        let Ok(root) = self.inodes.find(super::ROOT_INO) else { return };
        let mut complete = true;
        let mut directories = vec![root];
        while let Some(inode) = directories.pop() {
            if stop.load(Ordering::Relaxed) {
                complete = false;
                break;
            }
            match self.recover_directory(&inode, &mut directories) {
                Ok(all) => complete &= all,
                Err(error) => {
                    tracing::error!("recovering {}: {error}", inode.path());
                    complete = false;
                }
            }
            self.forget(inode.ino, 1);
        }
        for rest in directories {
            self.forget(rest.ino, 1);
        }
        if complete {
            self.recovered.store(true, Ordering::Release);
        }
        tracing::info!("recovery {}", if complete { "complete" } else { "incomplete" });
    }

    /// Recovers the files in a directory; answers whether all could be, and pushes its
    /// subdirectories, each with a look-up counted.
    fn recover_directory(&self, inode: &Inode, below: &mut Vec<Arc<Inode>>) -> FsResult<bool> {
        let fh = self.opendir(inode.ino)?;
        let mut complete = true;
        let listed = self.readdir(fh, 0, |entry| {
            if !entry.is_dot() {
                complete &= self.recover_listed(inode, entry, below).is_ok();
            }
            ControlFlow::Continue(())
        });
        self.releasedir(fh);
        listed.map(|()| complete)
    }

    fn recover_listed(&self, parent: &Inode, entry: &DirEntry, below: &mut Vec<Arc<Inode>>) -> FsResult<()> {
        // The look-up itself begins the recovery of a file.
        let attr = self.lookup(parent.ino, &entry.name)?;
        let found = self.inodes.find(attr.ino)?;
        if found.kind == FileKind::Directory {
            below.push(found);
            return Ok(());
        }
        let recovered = self.recover_file(&found);
        self.forget(attr.ino, 1);
        recovered
    }

    /// What a look-up does about an entry that a crash may have interrupted. A file that cannot
    /// be recovered now says so when it is opened.
    pub(super) fn recover_entry(&self, directory: &Directory, inode: &Arc<Inode>) {
        if !self.may_be_interrupted(inode) {
            return;
        }
        let recovered = self.begin_anew(directory, inode).and_then(|()| self.recover_file(inode));
        if let Err(error) = recovered {
            tracing::debug!("{}: not recovered: {error}", inode.path());
        }
    }

    fn may_be_interrupted(&self, inode: &Inode) -> bool {
        if inode.kind != FileKind::Regular || self.volume.read_only || !self.volume.is_recovering() {
            return false;
        }
        let changed =
            inode.fd().and_then(|fd| Ok(self.volume.disk.stat(&*fd)?)).map_or(i64::MIN, |stat| stat.st_ctime);
        self.volume.may_be_interrupted(changed) && inode.opening().file.is_none()
    }

    /// Opens an interrupted file, which cuts off growth that was never durable, and hands it to
    /// the settler.
    fn recover_file(&self, inode: &Arc<Inode>) -> FsResult<()> {
        if self.may_be_interrupted(inode) {
            self.open_file(inode, true, &self.itself())?;
            self.close_file(inode, true);
        }
        Ok(())
    }

    /// Gives a file whose header was never durable a new one.
    fn begin_anew(&self, directory: &Directory, inode: &Arc<Inode>) -> FsResult<()> {
        let mut page = [0; PAGE_LEN];
        let file = self.volume.disk.reopen_file(&*inode.fd()?, OFlags::RDWR)?;
        // Held from the look at the header on: whoever opens the file writes one.
        let mut opening = inode.opening();
        file.read_at(&mut page, 0)?;
        if page.iter().any(|&b| b != 0) {
            return Ok(());
        }
        tracing::warn!("{}: its header was never durable; it is empty now", inode.path());
        file.set_len(0)?;
        self.remove_sealed_attributes(inode)?;
        opening.file = Some(Arc::new(self.begin_file(directory, file, &self.itself())?));
        opening.count(true);
        drop(opening);
        self.close_file(inode, true);
        Ok(())
    }
}
