//! Cutting a master key's files off and letting them back in, as the key service orders.
//!
//! *Draining* refuses programs but still takes what the kernel writes back; the caches of every
//! file of the key are written back and dropped, until no more writes arrive. *Cutting* refuses
//! everything, takes the data keys away and drops what was cached in between. When the key store is
//! locked, both are done to the files of all keys at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::error::errno_of_state;
use super::inode::Inode;
use super::keys::{Door, Gate};
use super::open_file::OpenFile;
use super::{Counts, Fs, Wrapping};
use crate::kms::{
    CutReport, KeyId, KeyState, KeyWatcher, MountStatus, OpenHandles, Unwritten, VolumeFiles, WrappedFiles,
};
use crate::sync::{Instant, mpsc, thread};

/// Versions of keys, and users of keys, that are listed at most: a status has to fit into a message.
const MOST_LISTED: usize = 2000;
/// Passes over a key's files while writes keep arriving.
const MAX_PASSES: u32 = 3;
/// How long files that are just being made or wrapped anew are waited for.
const VOUCH_BUDGET: Duration = Duration::from_secs(10);
/// How long the last dropping of caches may take.
const CUT_BUDGET: Duration = Duration::from_secs(5);

/// A mounted filesystem, as the key service sees it.
pub struct Watcher(pub Arc<Fs>);

impl KeyWatcher for Watcher {
    fn describe(&self) -> MountStatus {
        let fs = &self.0;
        // Keys of this store have the ARN of the volume's own key but for the last part.
        let own_key = fs.volume.own_key();
        let realm = own_key.rsplit_once('/').map_or("", |(realm, _)| realm);
        let cut = fs.gates.cut().into_iter().map(|key| (format!("{realm}/{key}"), 0));
        let mut open_files: BTreeMap<String, u64> = cut.collect();
        for (_, open) in fs.files_in_use() {
            *open_files.entry(open.sealed.with_wrapped(|wrapped| wrapped.key_arn.clone())).or_default() += 1;
        }
        MountStatus {
            mountpoint: fs.mountpoint.display().to_string(),
            volume: fs.volume.id.to_string(),
            pid: std::process::id(),
            read_only: fs.volume.read_only,
            open_files,
            locked: fs.gates.whole().is_cut(),
            unused_ms: u64::try_from(fs.unused().as_millis()).ok(),
            lease_ms: u64::try_from(fs.key_ttl.as_millis()).ok(),
            handles: fs.open_handles(),
            files: fs.volume_files(),
        }
    }

    fn vouch(&self) -> Option<MountStatus> {
        let fs = &self.0;
        // Whoever has just got a data key wrapped, by a version that was the newest then, counts after
        // this.
        drop(fs.changes_are_over(Some(VOUCH_BUDGET))?);
        // What is made durable afterwards can only be more.
        let status = self.describe();
        (fs.volume.read_only || fs.volume.sync().is_ok() && fs.volume.is_sound()).then_some(status)
    }

    fn drain(&self, key: &KeyId, budget: Duration) -> CutReport {
        let fs = &self.0;
        let gate = fs.gates.of_key(&key.to_string());
        gate.door().drain(errno_of_state(Some(KeyState::Disabled)));
        let late = fs.drain(gate.door(), budget, || fs.files_of(&gate));
        fs.report(&fs.files_of(&gate), &late)
    }

    fn cut(&self, key: &KeyId, state: Option<KeyState>) -> CutReport {
        let fs = &self.0;
        let gate = fs.gates.of_key(&key.to_string());
        gate.door().cut(errno_of_state(state));
        fs.cache.evict_key(key);
        fs.take_keys(&fs.files_of(&gate))
    }

    fn restore(&self, key: &KeyId) {
        self.0.gates.of_key(&key.to_string()).door().open();
    }

    fn lock(&self, budget: Duration) -> CutReport {
        let fs = &self.0;
        let door = fs.gates.whole();
        door.drain(LOCKED);
        let late = fs.drain(door, budget, || fs.open_files());
        door.cut(LOCKED);
        fs.cache.clear();
        let mut report = fs.take_keys(&fs.open_files());
        report.unwritten = unwritten(&late);
        report
    }

    fn unlock(&self) {
        self.0.gates.whole().open();
    }
}

/// What a program sees of a file while the key store is locked.
const LOCKED: i32 = libc::ENOKEY;

fn unwritten(late: &[Arc<Inode>]) -> Vec<Unwritten> {
    late.iter().map(|inode| Unwritten { file: inode.path(), bytes: 0 }).collect()
}

pub(super) type OpenInode = (Arc<Inode>, Arc<OpenFile>);

/// What the key service is told of a volume's files. Nothing is certain where that would be too much, or
/// where it is not known what wraps a file.
pub fn volume_files(counts: Counts, certain: bool) -> VolumeFiles {
    let is_known = counts.len() <= MOST_LISTED && !counts.keys().any(Wrapping::is_unreadable);
    let certain = certain && is_known;
    let wrapped = counts.into_iter().take(MOST_LISTED).map(|(wrapping, count)| WrappedFiles {
        key_arn: wrapping.key_arn,
        key_version: wrapping.key_version,
        files: count.files,
        bytes: count.bytes,
    });
    VolumeFiles { certain, counting: false, wrapped: wrapped.collect() }
}

impl Fs {
    fn open_handles(&self) -> Vec<OpenHandles> {
        let mut counted: BTreeMap<(String, u32), u64> = BTreeMap::new();
        for handle in self.handles.read().values() {
            let key = handle.open.sealed.with_wrapped(|wrapped| wrapped.key_arn.clone());
            *counted.entry((key, handle.uid)).or_default() += 1;
        }
        let counted = counted.into_iter().take(MOST_LISTED);
        counted.map(|((key_arn, uid), handles)| OpenHandles { key_arn, uid, handles }).collect()
    }

    /// What the key service is told of the files.
    pub(super) fn volume_files(&self) -> VolumeFiles {
        let census = self.census();
        let files = volume_files(census.counts, census.certain);
        VolumeFiles { counting: census.counting, ..files }
    }

    /// Files that have handles. Does not look at each inode that the kernel knows.
    pub(super) fn files_in_use(&self) -> Vec<OpenInode> {
        let handles = self.handles.read();
        let files: BTreeMap<u64, OpenInode> = handles
            .values()
            .map(|handle| (handle.inode.ino, (Arc::clone(&handle.inode), Arc::clone(&handle.open))))
            .collect();
        files.into_values().collect()
    }

    fn open_files(&self) -> Vec<OpenInode> {
        let inodes = self.inodes.all().into_iter();
        inodes
            .filter_map(|inode| {
                let open = inode.opening().file.clone()?;
                Some((inode, open))
            })
            .collect()
    }

    fn files_of(&self, gate: &Arc<Gate>) -> Vec<OpenInode> {
        self.open_files().into_iter().filter(|(_, open)| Arc::ptr_eq(&open.gate(), gate)).collect()
    }

    /// Has the kernel write back what it holds of files whose door is draining; answers those for which
    /// that took too long.
    fn drain(&self, door: &Door, budget: Duration, files: impl Fn() -> Vec<OpenInode>) -> Vec<Arc<Inode>> {
        let deadline = Instant::now() + budget;
        let mut late = Vec::new();
        for _ in 0..MAX_PASSES {
            let written = door.write_backs();
            late = self.invalidate(&files(), deadline);
            if door.write_backs() == written || Instant::now() >= deadline {
                break;
            }
        }
        late
    }

    /// Takes the keys of files away that are cut, and what was cached of them meanwhile.
    fn take_keys(&self, files: &[OpenInode]) -> CutReport {
        let report = self.report(files, &[]);
        for (_, open) in files {
            // Waits for the operations that hold the keys.
            open.keys.write().take();
        }
        let late = self.invalidate(files, Instant::now() + CUT_BUDGET);
        if !late.is_empty() {
            tracing::warn!("{} files may still have cached pages", late.len());
        }
        report
    }

    /// Writes back and drops the kernel's pages of files; answers those for which that took too
    /// long. On a thread of its own, for the kernel may wait for us in turn.
    fn invalidate(&self, files: &[OpenInode], deadline: Instant) -> Vec<Arc<Inode>> {
        let Some(kernel) = self.kernel.read().clone() else { return Vec::new() };
        let (done, answers) = mpsc::channel();
        let inos: Vec<u64> = files.iter().map(|(inode, _)| inode.ino).collect();
        thread::spawn(move || {
            for ino in inos {
                if let Err(error) = kernel.invalidate(ino) {
                    tracing::warn!("inode {ino}: cached pages could not be dropped: {error}");
                }
                if done.send(ino).is_err() {
                    return;
                }
            }
        });
        let mut late: BTreeMap<u64, Arc<Inode>> =
            files.iter().map(|(inode, _)| (inode.ino, Arc::clone(inode))).collect();
        while !late.is_empty() {
            match answers.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(ino) => _ = late.remove(&ino),
                Err(_) => break,
            }
        }
        late.into_values().collect()
    }

    fn report(&self, files: &[OpenInode], late: &[Arc<Inode>]) -> CutReport {
        let in_use = files.iter().map(|(inode, _)| inode.opening().handles).filter(|&n| n > 0);
        let (count, handles) = in_use.fold((0, 0), |(files, handles), n| (files + 1, handles + n));
        CutReport {
            mount: self.mountpoint.display().to_string(),
            files: count,
            handles,
            unwritten: unwritten(late),
            unreachable: false,
        }
    }
}
