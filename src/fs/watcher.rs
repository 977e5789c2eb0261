//! Cutting a master key's files off and letting them back in, as the key service orders.
//!
//! *Draining* has the kernel write back and drop the pages of every file of the key: if it may be called
//! off, at first while programs go on; then when programs are refused and only what the kernel writes back
//! is taken, until no more writes arrive. What cannot be stored is kept, so that nothing has changed when
//! it is called off. *Cutting* refuses everything, takes the data keys away and drops what was cached in
//! between and what was kept. When the key store is locked, both are done to the files of all keys at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::error::errno_of_state;
use super::inode::Inode;
use super::keys::{Door, Gate};
use super::open_file::OpenFile;
use super::write_back::OnFailure;
use super::{Counts, Fs, Wrapping};
use crate::kms::{
    CutReport, KeyId, KeyState, KeyWatcher, MountStatus, OpenHandles, VolumeFiles, WrappedFiles,
};
use crate::sync::Instant;

/// Versions of keys, and users of keys, that are listed at most: a status has to fit into a message.
const MOST_LISTED: usize = 2000;
/// Passes over a key's files while writes keep arriving.
const MAX_PASSES: u32 = 3;
/// How long files that are just being made or wrapped anew are waited for.
const VOUCH_BUDGET: Duration = Duration::from_secs(10);
/// How long the last dropping of caches may take.
const CUT_BUDGET: Duration = Duration::from_secs(5);
/// How long dropping caches may take when a key comes back.
const RESTORE_BUDGET: Duration = Duration::from_secs(1);

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

    fn drain(&self, key: &KeyId, budget: Duration, keep: bool) -> CutReport {
        let fs = &self.0;
        let gate = fs.gates.of_key(&key.to_string());
        fs.drain(Which::Under(&gate), errno_of_state(Some(KeyState::Disabled)), budget, keep)
    }

    fn cut(&self, key: &KeyId, state: Option<KeyState>) -> CutReport {
        let fs = &self.0;
        let gate = fs.gates.of_key(&key.to_string());
        gate.door().cut(errno_of_state(state));
        fs.cache.evict_key(key);
        fs.cut_off(Which::Under(&gate))
    }

    fn restore(&self, key: &KeyId) {
        let fs = &self.0;
        fs.let_back(Which::Under(&fs.gates.of_key(&key.to_string())));
    }

    fn lock(&self, budget: Duration) -> CutReport {
        let fs = &self.0;
        fs.drain(Which::All, LOCKED, budget, false);
        fs.gates.whole().cut(LOCKED);
        fs.cache.clear();
        fs.cut_off(Which::All)
    }

    fn unlock(&self) {
        self.0.let_back(Which::All);
    }
}

/// What a program sees of a file while the key store is locked.
const LOCKED: i32 = libc::ENOKEY;

/// Whose files an order is about.
#[derive(Clone, Copy)]
pub(super) enum Which<'a> {
    /// Those of one master key.
    Under(&'a Arc<Gate>),
    All,
}

impl Which<'_> {
    /// Whether it is about the files behind `gate`.
    pub(super) fn takes_in(self, gate: &Arc<Gate>) -> bool {
        match self {
            Self::Under(other) => Arc::ptr_eq(gate, other),
            Self::All => true,
        }
    }
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
        for handle in self.handles.all() {
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
        let files: BTreeMap<u64, OpenInode> = self
            .handles
            .all()
            .iter()
            .map(|handle| (handle.inode.ino, (Arc::clone(&handle.inode), Arc::clone(&handle.open))))
            .collect();
        files.into_values().collect()
    }

    fn open_files(&self, which: Which<'_>) -> Vec<OpenInode> {
        let inodes = self.inodes.open().into_iter();
        inodes
            .filter_map(|inode| {
                let open = inode.opening().file.clone()?;
                which.takes_in(&open.gate()).then_some((inode, open))
            })
            .collect()
    }

    /// Refuses programs with `errno`, and has the kernel write back what it holds; see
    /// [`KeyWatcher::drain`].
    fn drain(self: &Arc<Self>, which: Which<'_>, errno: i32, budget: Duration, keep: bool) -> CutReport {
        let begin = Instant::now();
        let deadline = begin + budget;
        let on_failure = if keep { OnFailure::Stop } else { OnFailure::GoOn };
        if keep {
            // What shows now to be impossible disturbs no program.
            let files = self.cached(which);
            let late = self.drop_pages(&files, begin + budget / 2, on_failure);
            let report = self.report(which, &files, &late);
            if !report.unwritten.is_empty() {
                return report;
            }
        }
        let door = self.door(which);
        door.drain(errno);
        let mut late = Vec::new();
        for _ in 0..MAX_PASSES {
            let written = door.write_backs();
            late = self.drop_pages(&self.cached(which), deadline, on_failure);
            if door.write_backs() == written || Instant::now() >= deadline {
                break;
            }
        }
        self.report(which, &self.cached(which), &late)
    }

    /// Takes the keys of files away whose door is closed, and what was cached and kept of them.
    fn cut_off(self: &Arc<Self>, which: Which<'_>) -> CutReport {
        for (_, open) in &self.open_files(which) {
            // Waits for the operations that hold the keys.
            open.keys.write().take();
        }
        let files = self.cached(which);
        let late = self.drop_pages(&files, Instant::now() + CUT_BUDGET, OnFailure::GoOn);
        if !late.is_empty() {
            tracing::warn!("{} files may still have cached pages", late.len());
        }
        // By now the kernel has passed everything on.
        let report = self.report(which, &files, &late);
        for inode in &files {
            if let Some(unwritten) = inode.unwritten_if_any() {
                unwritten.forget();
                self.store_kept(inode);
            }
        }
        report
    }

    /// Opens the door again.
    fn let_back(self: &Arc<Self>, which: Which<'_>) {
        let door = self.door(which);
        if !door.is_cut() {
            return door.open();
        }
        // Where the kernel gathers writes, it went on taking some. They were refused when it passed them
        // on, and are not to be seen in its pages any longer than in the file.
        let refused: Vec<_> =
            self.cached(which).into_iter().filter(|inode| inode.lacking().is_some()).collect();
        for unwritten in refused.iter().filter_map(|inode| inode.unwritten_if_any()) {
            unwritten.forget();
        }
        door.open();
        self.drop_pages(&refused, Instant::now() + RESTORE_BUDGET, OnFailure::GoOn);
    }

    fn door<'a>(&'a self, which: Which<'a>) -> &'a Door {
        match which {
            Which::Under(gate) => gate.door(),
            Which::All => self.gates.whole(),
        }
    }

    /// What programs have open, and what is not written of `files`.
    fn report(&self, which: Which<'_>, files: &[Arc<Inode>], late: &[Arc<Inode>]) -> CutReport {
        let open = self.open_files(which);
        let in_use = open.iter().map(|(inode, _)| inode.opening().handles).filter(|&n| n > 0);
        let (count, handles) = in_use.fold((0, 0), |(files, handles), n| (files + 1, handles + n));
        CutReport {
            mount: self.mountpoint.display().to_string(),
            files: count,
            handles,
            unwritten: self.unwritten(files, late),
            unreachable: false,
        }
    }
}
