//! Counting every file anew: what the index is made of when it cannot be believed.
//!
//! One walk over the tree, while everything else goes on. It is the walk of recovery too, where that
//! is due. See [`super::index`] for why no file is missed and none is counted twice.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use super::attr::keyless_size;
use super::inode::{Inode, Opening};
use super::open_file::open_as_owner;
use super::{Census, Count, DirEntry, FileKind, Fs, FsError, FsResult, ROOT_INO, Requester, Wrapping};
use crate::chunk::ClosedHeader;
use crate::sync::atomic::Ordering;
use crate::sync::{Instant, RwLockWriteGuard, thread, write_within};

/// How long changes are held up at a time by a recount that begins or ends.
const MOMENT: Duration = Duration::from_millis(20);
/// How long that becomes at most: as long as a call to the key service may take.
const LONGEST_MOMENT: Duration = Duration::from_secs(5);

/// What is known of a volume's files, on its root, as JSON: an [`IndexInfo`]. Set to nothing, it has them
/// counted anew.
pub const INDEX_XATTR: &str = "user.kmsfs.index";

/// What [`INDEX_XATTR`] shows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct IndexInfo {
    /// Every file is counted.
    pub certain: bool,
    /// They are being counted.
    pub counting: bool,
    /// Files that are counted.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// How often somebody asked for a recount.
    pub asked: u64,
    /// The last of these that is answered.
    pub done: u64,
}

/// Recounts that were asked for. They are made by [`Fs::run_recounts`].
#[derive(Default)]
pub(super) struct Recounts {
    asked: u64,
    done: u64,
    stopped: bool,
}

/// What became of a walk.
struct Walked {
    /// Everything that a crash may have left was looked at.
    recovered: bool,
    /// Every file was counted.
    counted: bool,
}

impl Fs {
    /// Looks at everything that a crash may have left, and counts every file by the way; returns when
    /// done or when `stop` says so. Files that cannot be opened now, because their key is not usable,
    /// keep the volume marked as interrupted.
    pub fn recover(&self, stop: &dyn Fn() -> bool) {
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

    /// Counts every file anew; answers whether that could be done before `stop` said so.
    ///
    /// # Errors
    /// `EROFS` on a volume that is not to be written: its index could not be kept.
    pub fn recount(&self, stop: &dyn Fn() -> bool) -> FsResult<bool> {
        self.check_writable()?;
        let _walking = self.walking.lock();
        let walked = self.walk(stop);
        if walked.recovered {
            self.recovered.store(true, Ordering::Release);
        }
        Ok(walked.counted)
    }

    /// Recovers, and then counts whenever somebody asks for it, until [`Fs::stop_recounts`].
    pub fn run_recounts(&self, stop: &dyn Fn() -> bool) {
        self.recover(stop);
        loop {
            let mut recounts = self.recounts.lock();
            while recounts.done == recounts.asked && !recounts.stopped {
                self.recount_wanted.wait(&mut recounts);
            }
            if recounts.stopped {
                return;
            }
            let asked = recounts.asked;
            drop(recounts);
            if let Err(error) = self.recount(stop) {
                tracing::warn!("the volume's files could not be counted: {error}");
            }
            self.recounts.lock().done = asked;
        }
    }

    /// Has [`Fs::run_recounts`] return soon; a walk under way is stopped by its own flag.
    pub fn stop_recounts(&self) {
        self.recounts.lock().stopped = true;
        self.recount_wanted.notify_all();
    }

    /// What [`INDEX_XATTR`] shows.
    ///
    /// # Errors
    /// `ENODATA` but on the root.
    pub(super) fn index_info(&self, inode: &Inode) -> FsResult<IndexInfo> {
        if inode.ino != ROOT_INO {
            return Err(FsError::new(libc::ENODATA));
        }
        let census = self.census();
        let sum = |part: fn(&Count) -> u64| census.counts.values().map(part).sum();
        let recounts = self.recounts.lock();
        Ok(IndexInfo {
            certain: census.certain,
            counting: census.counting,
            files: sum(|count| count.files),
            bytes: sum(|count| count.bytes),
            asked: recounts.asked,
            done: recounts.done,
        })
    }

    /// What setting [`INDEX_XATTR`] does.
    ///
    /// # Errors
    /// `EPERM` but on the root, by its owner or root; `EINVAL` for a value.
    pub(super) fn ask_for_recount(&self, by: Requester, inode: &Inode, value: &[u8]) -> FsResult<()> {
        let owner = self.volume.disk.stat(&*inode.fd()?)?.st_uid;
        if inode.ino != ROOT_INO || (by.uid != 0 && by.uid != owner) {
            return Err(FsError::new(libc::EPERM));
        }
        if !value.is_empty() {
            return Err(FsError::new(libc::EINVAL));
        }
        self.recounts.lock().asked += 1;
        self.recount_wanted.notify_all();
        Ok(())
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

    fn walk(&self, stop: &dyn Fn() -> bool) -> Walked {
        {
            let _alone = self.changes_are_over(None);
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
                let _alone = self.changes_are_over(None);
                // Something may have moved before nothing could any more.
                if self.to_visit.lock().is_empty() {
                    let unreadable = std::mem::take(&mut *self.unreadable.lock());
                    unreadable.iter().for_each(|inode| self.count_unreadable(inode));
                    return Walked { counted: self.index.end_count(walked.counted), ..walked };
                }
                continue;
            };
            if stop() {
                walked = Walked { recovered: false, counted: false };
            } else if let Err(error) = self.walk_directory(&inode, &mut walked, stop) {
                tracing::error!("looking through {}: {error}", inode.path());
                walked = Walked { recovered: false, counted: false };
            }
            self.forget(inode.ino, 1);
        }
    }

    /// Waits until no file is just coming, going, or getting another name or wrapping; `None` if that
    /// takes longer than `patience`. Whoever makes one may be waiting for the key service; nobody else is
    /// held up by that for longer than a moment at first, and for ever longer ones so that this ends.
    pub(super) fn changes_are_over(&self, patience: Option<Duration>) -> Option<RwLockWriteGuard<'_, ()>> {
        let begin = Instant::now();
        let mut moment = MOMENT;
        while patience.is_none_or(|patience| begin.elapsed() < patience) {
            if let Some(alone) = write_within(&self.changing, moment) {
                return Some(alone);
            }
            thread::sleep(MOMENT);
            moment = LONGEST_MOMENT.min(moment * 2);
        }
        None
    }

    fn walk_directory(&self, inode: &Inode, walked: &mut Walked, stop: &dyn Fn() -> bool) -> FsResult<()> {
        let fh = match self.opendir(inode.ino) {
            // It was removed meanwhile.
            Err(error) if matches!(error.errno(), libc::ENOENT | libc::ESTALE) => return Ok(()),
            opened => opened?,
        };
        let listed = self.readdir(fh, 0, |entry| {
            if !entry.is_dot() {
                self.walk_entry(inode, entry, walked);
            }
            if stop() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        walked.counted &= !self.left_out(fh);
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
            Ok((inode, _)) if inode.kind == FileKind::Directory => self.to_visit.lock().push(inode),
            Ok((inode, _)) => {
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
