//! Having the kernel pass on and drop the pages that it holds of files, within a time, on a thread of its
//! own, for the kernel may wait for us in turn; and storing what could not be stored when it did.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use super::inode::Inode;
use super::keys::Access;
use super::watcher::Which;
use super::{Fs, FsError, FsResult, KernelCache};
use crate::kms::Unwritten;
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::sync::{Instant, mpsc, thread};
use crate::sys;

/// Bytes that the kernel passes on at a time where a failure ends it: what it then has is kept by the
/// kernel, and what it had passed on by us.
const STEP: u64 = 16 << 20;
/// Such steps behind the end of a file as we know it, where the kernel may have gathered more.
const STEPS_BEHIND: u64 = 64;
/// Threads that go over files at once.
const MOST_WORKERS: usize = 2;
/// Files for each of which it is worth another thread.
const WORTH_A_WORKER: usize = 256;

/// What is done when something cannot be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnFailure {
    /// The kernel keeps its other pages.
    Stop,
    /// It passes on and drops all of them.
    GoOn,
}

/// One pass over files, by a few threads.
struct Pass {
    fs: Arc<Fs>,
    kernel: Arc<dyn KernelCache>,
    on_failure: OnFailure,
    files: Vec<Arc<Inode>>,
    /// The file to be taken next.
    next: AtomicUsize,
    /// Files that were come to the end of.
    over: Vec<AtomicBool>,
    /// No file is begun any more.
    stopped: AtomicBool,
}

impl Pass {
    fn work(&self) {
        while !self.stopped.load(Ordering::SeqCst) {
            let this = self.next.fetch_add(1, Ordering::SeqCst);
            let Some(inode) = self.files.get(this) else { return };
            self.drop_pages_of(inode);
            self.over[this].store(true, Ordering::SeqCst);
            if self.has_failed(inode) {
                self.stopped.store(true, Ordering::SeqCst);
            }
        }
    }

    fn has_failed(&self, inode: &Inode) -> bool {
        self.on_failure == OnFailure::Stop && inode.lacking().is_some()
    }

    fn drop_pages_of(&self, inode: &Arc<Inode>) {
        self.fs.store_kept(inode);
        // Looked at before the requests are: the last thing that a handle's pages do is to be written.
        let has_writers = inode.has_writers();
        let gathers = has_writers && self.kernel.gathers_writes();
        let Some(dropping) = inode.pages.begin_to_drop(gathers) else { return };
        let size = inode.opening().file.as_ref().map_or(0, |open| open.sealed.size());
        let steps = match self.on_failure {
            OnFailure::Stop if gathers => size / STEP + STEPS_BEHIND,
            OnFailure::Stop if has_writers => size / STEP,
            OnFailure::Stop | OnFailure::GoOn => 0,
        };
        for (from, len) in (0..steps).map(|step| (step * STEP, Some(STEP))).chain([(steps * STEP, None)]) {
            if self.has_failed(inode) {
                return;
            }
            if let Err(error) = self.kernel.invalidate(inode.ino, from, len) {
                tracing::warn!("inode {}: cached pages could not be dropped: {error}", inode.ino);
                return;
            }
        }
        dropping.done();
    }
}

impl Fs {
    /// Files of which programs may reach pages that the kernel has: those that are open, and those whose
    /// pages could not be stored.
    pub(super) fn cached(&self, which: Which<'_>) -> Vec<Arc<Inode>> {
        let is_meant = |inode: &Arc<Inode>| {
            let opening = inode.opening();
            match (&opening.file, &opening.wrapping) {
                (Some(open), _) => which.takes_in(&open.gate()),
                (None, Some(wrapping)) => {
                    inode.lacking().is_some() && which.takes_in(&self.gates.of(&wrapping.key_arn))
                }
                (None, None) => false,
            }
        };
        let mut files = self.inodes.open();
        // One that has just been closed is in the other list, if it lacks anything.
        files.extend(self.lacking.lock().values().cloned());
        files.sort_unstable_by_key(|inode| inode.ino);
        files.dedup_by_key(|inode| inode.ino);
        files.retain(is_meant);
        files
    }

    /// Has the kernel write back and drop the pages of files, where it may have any, after what could not be
    /// stored before was tried again. Answers those for which that took too long.
    pub(super) fn drop_pages(
        self: &Arc<Self>,
        files: &[Arc<Inode>],
        deadline: Instant,
        on_failure: OnFailure,
    ) -> Vec<Arc<Inode>> {
        let Some(kernel) = self.kernel.read().clone() else { return Vec::new() };
        let pass = Arc::new(Pass {
            fs: Arc::clone(self),
            kernel,
            on_failure,
            over: files.iter().map(|_| AtomicBool::new(false)).collect(),
            files: files.to_vec(),
            next: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
        });
        let (end, ended) = mpsc::channel::<()>();
        for _ in 0..MOST_WORKERS.min(files.len().div_ceil(WORTH_A_WORKER)) {
            let (pass, end) = (Arc::clone(&pass), end.clone());
            thread::spawn(move || {
                pass.work();
                drop(end);
            });
        }
        drop(end);
        // Nothing is ever sent: the channel closes when the last of them is through.
        let left = deadline.saturating_duration_since(Instant::now());
        if ended.recv_timeout(left) == Err(mpsc::RecvTimeoutError::Disconnected) {
            return Vec::new();
        }
        let late = files.iter().zip(&pass.over).filter(|(_, over)| !over.load(Ordering::SeqCst));
        late.map(|(inode, _)| Arc::clone(inode)).collect()
    }

    /// Keeps what the kernel passed on of a file's pages and could not be stored, unless its key is cut.
    pub(super) fn keep(&self, inode: &Arc<Inode>, offset: u64, data: &[u8], errno: i32, may_keep: bool) {
        inode.unwritten(&self.room).failed(offset, data, errno, may_keep);
        self.lacking.lock().insert(inode.ino, Arc::clone(inode));
    }

    /// Tries to store what is kept of a file. What remains lacking, the inode knows.
    pub(super) fn store_kept(&self, inode: &Arc<Inode>) {
        let Some(unwritten) = inode.unwritten_if_any() else { return };
        if unwritten.keeps() && inode.links() == 0 && inode.opening().handles == 0 {
            // Nobody can ask for it any more.
            unwritten.forget();
        }
        if unwritten.keeps() {
            let itself = self.itself();
            let known = inode.opening().join(true);
            // One that is closed can only be opened while its key is usable.
            let Ok(open) = known.map_or_else(|| self.open_file(inode, true, &itself), Ok) else { return };
            // Once its key is cut, what is kept only waits for being told.
            let store = |offset: u64, data: &[u8]| {
                let stored: FsResult<()> = (|| {
                    open.sealed.backing().make_writable(&self.volume.disk, inode)?;
                    let keys = open.keys(self, Access::WriteBack, &itself)?;
                    open.sealed.write(&keys, offset, data, |newest| self.next_epoch(newest))
                })();
                stored.map_err(|error| error.errno())
            };
            if !open.gate().is_cut() {
                unwritten.store(store);
            }
            self.close_file(inode, true);
        }
        if inode.lacking().is_none() && self.lacking.lock().remove(&inode.ino).is_some() {
            // The kernel may have forgotten it meanwhile.
            self.inodes.forget(inode.ino, 0);
        }
    }

    /// The same, of every file.
    pub(super) fn store_all_kept(&self) {
        let lacking: Vec<Arc<Inode>> = self.lacking.lock().values().cloned().collect();
        lacking.iter().for_each(|inode| self.store_kept(inode));
    }

    /// The error of a flush of a file of which something is lacking that could be stored later.
    pub(super) fn check_stored(&self, inode: &Arc<Inode>) -> FsResult<()> {
        self.store_kept(inode);
        match inode.lacking() {
            Some(lacking) if lacking.bytes > lacking.lost => Err(FsError::new(lacking.errno)),
            _ => Ok(()),
        }
    }

    /// Says what is lost of each file, at the end of a mount.
    pub(super) fn say_what_is_lost(&self) {
        let files: Vec<Arc<Inode>> = std::mem::take(&mut *self.lacking.lock()).into_values().collect();
        self.unwritten(&files, &[]).iter().for_each(|unwritten| tracing::error!("{unwritten}"));
    }

    /// What is not written of `files`, `late` ones among them: about these, more may be found out.
    pub(super) fn unwritten(&self, files: &[Arc<Inode>], late: &[Arc<Inode>]) -> Vec<Unwritten> {
        let of = |inode: &Arc<Inode>| {
            if late.iter().any(|late| late.ino == inode.ino) {
                let error = "the disk takes too long".to_owned();
                return Some(Unwritten { file: self.name_in_mount(inode), bytes: None, lost: 0, error });
            }
            let lacking = inode.lacking()?;
            Some(Unwritten {
                file: self.name_in_mount(inode),
                bytes: Some(lacking.bytes),
                lost: lacking.lost,
                error: sys::words(lacking.errno),
            })
        };
        files.iter().filter_map(of).collect()
    }

    /// Where programs find an inode, for reports; else where it lies in the backing filesystem.
    fn name_in_mount(&self, inode: &Inode) -> String {
        let Ok(path) = self.path_of(inode) else { return inode.path() };
        let path = path.strip_prefix(b"/").unwrap_or(&path);
        self.mountpoint.join(OsStr::from_bytes(path)).display().to_string()
    }
}
