//! The thread that settles files after their last handle was closed, many with one flush.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::inode::Inode;
use super::keep::keep_attributes;
use super::keys::Access;
use super::open_file::OpenFile;
use super::{Fs, FsResult};
use crate::chunk::{Settling, Step};
use crate::sync::atomic::Ordering;
use crate::sync::{Condvar, Instant, Mutex};

/// Seconds that a file rests after its last use before it is settled.
const REST: i64 = 3;
/// Files settled together.
const BATCH: usize = 512;
/// Files up to which each is flushed by itself rather than the whole backing filesystem.
const FEW: usize = 4;
/// How long closing a file is held up at most when too many wait.
const MOST_DELAY: Duration = Duration::from_secs(2);
/// How often the thread looks.
const PERIOD: Duration = Duration::from_secs(1);
/// Rounds over everything that is left, at the end of a mount.
const LAST_ROUNDS: u32 = 3;

/// Files that wait to be settled. The work is done by [`Fs::run_settler`], on a thread that
/// whoever mounts provides.
pub(super) struct Settler {
    begin: Instant,
    waiting: Mutex<HashMap<u64, Arc<Inode>>>,
    wake: Condvar,
    /// Something was taken from `waiting`.
    taken: Condvar,
    stopped: Mutex<bool>,
    /// Files waiting beyond which they are settled without rest: each holds a descriptor.
    many: usize,
    /// Files waiting beyond which closing another one waits.
    most: usize,
}

impl Settler {
    /// A settler that lets about `most` files wait.
    pub(super) fn new(most: usize) -> Self {
        Self {
            begin: Instant::now(),
            waiting: Mutex::default(),
            wake: Condvar::new(),
            taken: Condvar::new(),
            stopped: Mutex::new(false),
            many: (most / 4).clamp(1, BATCH),
            most: most.max(1),
        }
    }

    pub(super) fn add(&self, inode: &Arc<Inode>) {
        let mut waiting = self.waiting.lock();
        waiting.insert(inode.ino, Arc::clone(inode));
        if waiting.len() >= self.many {
            self.wake.notify_one();
        }
        if waiting.len() > self.most {
            self.taken.wait_for(&mut waiting, MOST_DELAY);
        }
    }

    /// Has a file wait no longer.
    pub(super) fn remove(&self, ino: u64) {
        self.waiting.lock().remove(&ino);
    }

    /// Seconds since the mount.
    pub(super) fn now(&self) -> i64 {
        self.begin.elapsed().as_secs().cast_signed()
    }

    /// Takes the files that have rested, or all when `rested` is false or there are many.
    fn take(&self, rested: bool) -> Vec<Arc<Inode>> {
        let mut waiting = self.waiting.lock();
        let latest = if rested && waiting.len() < self.many { self.now() - REST } else { i64::MAX };
        let ready: Vec<u64> = waiting
            .iter()
            .filter(|(_, inode)| {
                let opening = inode.opening();
                opening.file.as_ref().is_none_or(|f| f.last_use.load(Ordering::Relaxed) <= latest)
            })
            .map(|(ino, _)| *ino)
            .take(BATCH)
            .collect();
        let taken = ready.iter().filter_map(|ino| waiting.remove(ino)).collect();
        self.taken.notify_all();
        taken
    }
}

/// One file of a batch.
struct Job {
    inode: Arc<Inode>,
    open: Arc<OpenFile>,
    settling: Settling,
}

impl Fs {
    /// Settles files until [`Fs::stop_settler`]; returns then.
    pub fn run_settler(&self) {
        loop {
            let mut stopped = self.settler.stopped.lock();
            if !*stopped {
                self.settler.wake.wait_for(&mut stopped, PERIOD);
            }
            if *stopped {
                return;
            }
            drop(stopped);
            self.store_all_kept();
            self.settle_what_waited();
            self.settle_batch(self.settler.take(true));
            self.inodes.give_memory_back();
        }
    }

    /// Has [`Fs::run_settler`] return soon.
    pub fn stop_settler(&self) {
        *self.settler.stopped.lock() = true;
        self.settler.wake.notify_all();
    }

    /// Settles what was closed, without letting it rest.
    pub fn settle_closed(&self) {
        self.settle_batch(self.settler.take(false));
    }

    /// Settles everything that can be. Files under a key that is cut stay unsettled.
    pub(super) fn settle_all(&self) {
        for _ in 0..LAST_ROUNDS {
            loop {
                let batch = self.settler.take(false);
                if batch.is_empty() {
                    break;
                }
                self.settle_batch(batch);
            }
            // Files whose handles the end of the mount has closed.
            self.inodes.open().into_iter().for_each(|inode| {
                let mut opening = inode.opening();
                (opening.handles, opening.writers) = (0, 0);
                drop(opening);
                self.settler.add(&inode);
            });
            if self.settler.waiting.lock().is_empty() {
                return;
            }
        }
        self.settle_batch(self.settler.take(false));
    }

    fn settle_batch(&self, inodes: Vec<Arc<Inode>>) {
        let mut failed = HashMap::new();
        let mut jobs = Vec::new();
        for inode in &inodes {
            match self.begin_job(inode) {
                Ok(job) => jobs.extend(job),
                Err(error) => {
                    failed.insert(inode.ino, error.is_refusal());
                    self.name_damage(inode, error);
                }
            }
        }
        while !jobs.is_empty() {
            if let Err(error) = self.flush(&jobs) {
                tracing::error!("settling {} files: {error}", jobs.len());
                failed.extend(jobs.iter().map(|job| (job.inode.ino, false)));
                break;
            }
            jobs.retain_mut(|job| match self.step(job) {
                Ok(step) => step == Step::Flush,
                Err(error) => {
                    failed.insert(job.inode.ino, error.is_refusal());
                    self.name_damage(&job.inode, error);
                    false
                }
            });
        }
        for inode in inodes {
            self.finish_job(&inode, failed.get(&inode.ino).copied());
        }
    }

    fn begin_job(&self, inode: &Arc<Inode>) -> FsResult<Option<Job>> {
        let Some(open) = inode.opening().file.clone() else { return Ok(None) };
        if inode.links() == 0 {
            return Ok(None);
        }
        let keys = open.keys(self, Access::WriteBack, &self.itself())?;
        let settling = open.sealed.begin_settling(&keys, |newest| self.next_epoch(newest))?;
        drop(keys);
        Ok(settling.map(|settling| Job { inode: Arc::clone(inode), open, settling }))
    }

    fn flush(&self, jobs: &[Job]) -> FsResult<()> {
        if jobs.len() > FEW {
            return Ok(self.volume.sync()?);
        }
        Ok(jobs.iter().try_for_each(|job| job.open.sealed.sync(true))?)
    }

    fn step(&self, job: &mut Job) -> FsResult<Step> {
        let keys = job.open.keys(self, Access::WriteBack, &self.itself())?;
        // Nobody can begin to write meanwhile.
        let opening = job.inode.opening();
        if opening.writers > 0 {
            return Ok(Step::Busy);
        }
        keep_attributes(&self.volume.disk, &job.inode, || {
            Ok(job.open.sealed.settle(&keys, &mut job.settling)?)
        })
    }

    /// Lets go of a file that is settled, or that cannot be, `failed` saying whether for its key alone; one
    /// that changed meanwhile waits again.
    fn finish_job(&self, inode: &Arc<Inode>, failed: Option<bool>) {
        let opening = inode.opening();
        let Some(open) = &opening.file else { return };
        if opening.handles > 0 {
            return;
        }
        if failed.is_some() || open.sealed.is_settled() || inode.links() == 0 {
            self.let_go(inode, opening, failed == Some(true));
        } else {
            open.last_use.store(self.settler.now(), Ordering::Relaxed);
            drop(opening);
            self.settler.add(inode);
        }
    }
}
