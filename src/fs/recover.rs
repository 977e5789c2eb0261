//! After a crash: files that were being created or written when the last mount ended are brought
//! to a state that this mount can vouch for.
//!
//! An entry is looked at when it is first looked up, and in the background all are, once
//! ([`Fs::recover`](super::Fs::recover)). A file
//! whose header was never durable begins anew, empty, under its directory's key. An interrupted
//! one is read through and settled. Only files that changed since the crashed mount began are
//! touched, and only on a volume that says it was not unmounted properly: elsewhere the same
//! findings are damage.

use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{OFlags, Stat};

use super::attr::keyless_size;
use super::directory::Directory;
use super::disk::DiskFile;
use super::inode::Inode;
use super::{FileKind, Fs, FsError, FsResult, Wrapping};
use crate::chunk::Backing;
use crate::format::PAGE_LEN;

/// How long a file is waited for that is just being created.
const PATIENCE: Duration = Duration::from_secs(10);

impl Fs {
    /// What a look-up that has found `stat` does about an entry that a crash may have interrupted. A file
    /// that cannot be recovered now says so when it is opened. Answers whether there was anything to do.
    pub(super) fn recover_entry(&self, directory: &Directory, inode: &Arc<Inode>, stat: &Stat) -> bool {
        if !self.may_be_interrupted(inode, || Ok(stat.st_ctime)) {
            return false;
        }
        let recovered = self.begin_anew(directory, inode).and_then(|()| self.recover_file(inode));
        if let Err(error) = recovered {
            tracing::debug!("{}: not recovered: {error}", inode.path());
        }
        true
    }

    /// Whether a crash may have interrupted a file, given when its inode was changed.
    fn may_be_interrupted(&self, inode: &Inode, changed: impl FnOnce() -> FsResult<i64>) -> bool {
        if inode.kind != FileKind::Regular || self.volume.read_only || !self.volume.is_recovering() {
            return false;
        }
        self.volume.may_be_interrupted(changed().unwrap_or(i64::MIN)) && inode.opening().file.is_none()
    }

    /// Opens an interrupted file, which cuts off growth that was never durable, and hands it to
    /// the settler.
    pub(super) fn recover_file(&self, inode: &Arc<Inode>) -> FsResult<()> {
        let changed = || Ok(self.volume.disk.stat(&*inode.fd()?)?.st_ctime);
        if self.may_be_interrupted(inode, changed) {
            self.open_file(inode, true, &self.itself())?;
            self.close_file(inode, true);
        }
        Ok(())
    }

    /// Gives a file whose header was never durable a new one.
    fn begin_anew(&self, directory: &Directory, inode: &Arc<Inode>) -> FsResult<()> {
        let file = self.volume.disk.reopen_file(&*inode.fd()?, OFlags::RDWR)?;
        if !has_blank_header(&file)? {
            return Ok(());
        }
        // Whoever is just creating the file has written its header when that is over.
        drop(self.changes_are_over(Some(PATIENCE)).ok_or(FsError::new(libc::EBUSY))?);
        let changing = self.changing.read();
        // Held from the look at the header on: whoever opens the file writes one.
        let mut opening = inode.opening();
        if !has_blank_header(&file)? {
            return Ok(());
        }
        tracing::warn!("{}: its header was never durable; it is empty now", inode.path());
        let before = keyless_size(file.length()?);
        file.set_len(0)?;
        self.remove_sealed_attributes(inode)?;
        let open = Arc::new(self.begin_file(directory, file, &self.itself())?);
        let wrapping = self.index.share(open.sealed.with_wrapped(Wrapping::of));
        if self.index.has(inode.ino) {
            self.index.rewrap(inode.ino, &Wrapping::unreadable(), &wrapping, before);
            self.index.resize(inode.ino, &wrapping, before, 0);
        } else {
            self.index.add(inode.ino, &wrapping, 0);
        }
        self.inodes.begin(inode, &mut opening, open, wrapping, 0);
        opening.count(true);
        drop(opening);
        drop(changing);
        self.close_file(inode, true);
        Ok(())
    }
}

fn has_blank_header(file: &DiskFile) -> FsResult<bool> {
    let mut page = [0; PAGE_LEN];
    file.read_at(&mut page, 0)?;
    Ok(page.iter().all(|&b| b == 0))
}
