//! Counting every file anew: what the index is made of when it cannot be believed.
//!
//! One walk over the tree, while everything else goes on. It is the walk of recovery too, where that
//! is due. See [`super::index`] for why no file is missed and none is counted twice.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::OFlags;

use super::attr::keyless_size;
use super::inode::{Inode, Opening};
use super::open_file::open_as_owner;
use super::{Census, DirEntry, FileKind, Fs, FsResult, ROOT_INO, Wrapping};
use crate::chunk::ClosedHeader;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{RwLockWriteGuard, thread};

/// How long changes are held up at a time by a recount that begins or ends.
const MOMENT: Duration = Duration::from_millis(20);

/// What became of a walk.
struct Walked {
    /// Everything that a crash may have left was looked at.
    recovered: bool,
    /// Every file was counted.
    counted: bool,
}

impl Fs {
    /// Looks at everything that a crash may have left, and counts every file by the way; returns when
    /// done or when `stop` is set. Files that cannot be opened now, because their key is not usable,
    /// keep the volume marked as interrupted.
    pub fn recover(&self, stop: &AtomicBool) {
        if self.volume.read_only || self.recovered.load(Ordering::Acquire) {
            return;
        }
        let _walking = self.walking.lock();
        let walked = self.walk(stop);
        if walked.recovered {
            self.recovered.store(true, Ordering::Release);
        }
        tracing::info!("recovery {}", if walked.recovered { "complete" } else { "incomplete" });
    }

    /// Counts every file anew; answers whether that could be done before `stop` was set.
    ///
    /// # Errors
    /// `EROFS` on a volume that is not to be written: its index could not be kept.
    pub fn recount(&self, stop: &AtomicBool) -> FsResult<bool> {
        self.check_writable()?;
        let _walking = self.walking.lock();
        Ok(self.walk(stop).counted)
    }

    /// What wraps how many files, and how many bytes of them, as of now.
    pub fn census(&self) -> Census {
        let mut census = self.index.census();
        for (inode, open) in self.files_in_use() {
            let counted = inode.opening().bytes;
            if let Some(count) = census.counts.get_mut(&open.sealed.with_wrapped(Wrapping::of)) {
                count.bytes = (count.bytes + open.sealed.size()).saturating_sub(counted);
            }
        }
        census
    }

    fn walk(&self, stop: &AtomicBool) -> Walked {
        {
            let _nothing_changes = self.nothing_changes();
            self.index.begin_count();
        }
        let mut walked = Walked { recovered: true, counted: true };
        // Also those that have no name any more.
        for inode in self.inodes.all() {
            if inode.opening().file.is_some() {
                self.count(&inode);
            }
        }
        match self.inodes.find(ROOT_INO) {
            Ok(root) => self.to_visit.lock().push(root),
            Err(_) => walked = Walked { recovered: false, counted: false },
        }
        loop {
            let next = self.to_visit.lock().pop();
            let Some(inode) = next else {
                let _nothing_changes = self.nothing_changes();
                // Something may have moved before nothing could any more.
                if self.to_visit.lock().is_empty() {
                    let unreadable = std::mem::take(&mut *self.unreadable.lock());
                    unreadable.iter().for_each(|inode| self.count_unreadable(inode));
                    return Walked { counted: self.index.end_count(walked.counted), ..walked };
                }
                continue;
            };
            if stop.load(Ordering::Relaxed) {
                walked = Walked { recovered: false, counted: false };
            } else if let Err(error) = self.walk_directory(&inode, &mut walked, stop) {
                tracing::error!("looking through {}: {error}", inode.path());
                walked = Walked { recovered: false, counted: false };
            }
            self.forget(inode.ino, 1);
        }
    }

    /// Waits until no file is just coming, going or getting another name. Whoever makes one may be waiting
    /// for the key service; nobody else is held up by that for longer than a moment.
    fn nothing_changes(&self) -> RwLockWriteGuard<'_, ()> {
        loop {
            if let Some(alone) = self.changing.try_write_for(MOMENT) {
                return alone;
            }
            thread::sleep(MOMENT);
        }
    }

    fn walk_directory(&self, inode: &Inode, walked: &mut Walked, stop: &AtomicBool) -> FsResult<()> {
        let fh = match self.opendir(inode.ino) {
            // It was removed meanwhile.
            Err(error) if matches!(error.errno(), libc::ENOENT | libc::ESTALE) => return Ok(()),
            opened => opened?,
        };
        let listed = self.readdir(fh, 0, |entry| {
            if !entry.is_dot() {
                self.walk_entry(inode, entry, walked);
            }
            if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        self.releasedir(fh);
        listed
    }

    fn walk_entry(&self, parent: &Inode, entry: &DirEntry, walked: &mut Walked) {
        // The look-up itself begins the recovery of a file.
        let found = self.lookup(parent.ino, &entry.name).and_then(|attr| self.inodes.find(attr.ino));
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                walked.recovered = false;
                // What was renamed meanwhile was counted then, and what was removed need not be.
                walked.counted &= error.errno() == libc::ENOENT;
                return;
            }
        };
        match found.kind {
            // Its look-up is taken back when it was walked through.
            FileKind::Directory => return self.to_visit.lock().push(found),
            FileKind::Regular => {
                walked.recovered &= self.recover_file(&found).is_ok();
                self.count(&found);
            }
            _ => {}
        }
        self.forget(found.ino, 1);
    }

    /// What is about to get another name is counted first during a recount, for the walk may have passed
    /// the place where it comes to lie.
    pub(super) fn count_before_move(&self, parent: &Arc<Inode>, stored: &str) {
        if !self.index.is_counting() {
            return;
        }
        match self.inodes.enter(parent, stored) {
            Ok(inode) if inode.kind == FileKind::Directory => self.to_visit.lock().push(inode),
            Ok(inode) => {
                self.count(&inode);
                self.forget(inode.ino, 1);
            }
            Err(error) if error.errno() == libc::ENOENT => {}
            Err(error) => self.index.lose(&error),
        }
    }

    /// Counts a file, unless it is. One whose header cannot be read is looked at again at the end: it
    /// may be just being made.
    pub(super) fn count(&self, inode: &Arc<Inode>) {
        let mut opening = inode.opening();
        if inode.kind != FileKind::Regular || self.index.has(inode.ino) {
            return;
        }
        if let Some(open) = &opening.file {
            let wrapping = self.index.share(open.sealed.with_wrapped(Wrapping::of));
            return self.index.add(inode.ino, &wrapping, opening.bytes);
        }
        let Some(bytes) = self.stored_size(inode) else { return };
        match self.wrapping_of(inode, &mut opening) {
            Some(wrapping) => self.index.add(inode.ino, &wrapping, bytes),
            None => self.unreadable.lock().push(Arc::clone(inode)),
        }
    }

    fn count_unreadable(&self, inode: &Arc<Inode>) {
        let mut opening = inode.opening();
        if self.index.has(inode.ino) {
            return;
        }
        let Some(bytes) = self.stored_size(inode) else { return };
        let wrapping = self.wrapping_of(inode, &mut opening);
        let wrapping = wrapping.unwrap_or_else(|| self.index.share(Wrapping::unreadable()));
        self.index.add(inode.ino, &wrapping, bytes);
    }

    /// What wraps the key of a file that is not open, if its header can be read.
    pub(super) fn wrapping_of(&self, inode: &Inode, opening: &mut Opening) -> Option<Arc<Wrapping>> {
        if opening.wrapping.is_none() {
            let file = open_as_owner(&self.volume.disk, inode, OFlags::RDONLY).ok()?;
            let header = ClosedHeader::read(&file).ok()?;
            opening.wrapping = Some(self.index.share(Wrapping::of(header.wrapped())));
        }
        opening.wrapping.clone()
    }

    /// Size of the plaintext of a file that is not open; `None` if it has no name any more.
    fn stored_size(&self, inode: &Inode) -> Option<u64> {
        let stat = inode.fd().and_then(|fd| Ok(self.volume.disk.stat(&*fd)?));
        let stat = stat.ok().filter(|stat| stat.st_nlink > 0)?;
        Some(keyless_size(stat.st_size.cast_unsigned()))
    }
}
