//! How many files, and bytes, each version of a master key wraps: kept in memory while the volume is
//! mounted, from what operations know anyway.
//!
//! A file counts from its creation until it has lost its last name and its last handle. Files are exact
//! at any time, bytes as of when a file was last closed; what open files have grown by since is added
//! when somebody asks.
//!
//! *A number is called certain only if every file was counted.* That is so after a mount that ended
//! properly (the index on disk says how it was then, see [`super::index_file`]), and after a recount.
//! During a recount an inode counts once it is in the set of those that were seen, wherever the walk
//! is; changes of others are found by the walk. What could be missed by it, for it moved from where
//! the walk will come to where it has been, is counted when it moves.
//!
//! The lock is held for a look into a table. Every change is made with the file's own lock held
//! ([`Inode::opening`](super::inode::Inode::opening)), so that a file is what it is counted as.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::Wrapping;
use super::index_file;
use super::volume::Volume;
use crate::format::index::{IndexEntry, IndexFile};
use crate::sync::Mutex;

/// Files, and bytes of plaintext in them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Files.
    pub files: u64,
    /// Bytes.
    pub bytes: u64,
}

/// What wraps how much. Files whose headers cannot be read are under [`Wrapping::unreadable`].
pub type Counts = BTreeMap<Wrapping, Count>;

/// What is known of the files of a volume.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Census {
    /// Every file is in `counts`, with what wraps it.
    pub certain: bool,
    /// They are being counted.
    pub counting: bool,
    /// If not certain, what was known last.
    pub counts: Counts,
}

impl Wrapping {
    /// Stands for what wraps a file whose header cannot be read.
    pub fn unreadable() -> Self {
        Self { key_arn: String::new(), key_version: 0 }
    }

    pub(super) fn is_unreadable(&self) -> bool {
        self.key_arn.is_empty()
    }
}

/// The index of a mounted volume.
pub(super) struct Index(Mutex<State>);

struct State {
    counts: HashMap<Arc<Wrapping>, Count>,
    knowledge: Knowledge,
}

enum Knowledge {
    /// Every file is counted.
    Whole,
    /// Those with these inode numbers are.
    Counting(HashSet<u64>),
    /// Nothing is counted; the counts are from before.
    None,
}

impl Index {
    /// Of a volume that has just been opened.
    pub(super) fn of(volume: &Volume) -> Self {
        let (counts, knowledge) = match index_file::read(volume) {
            Ok(Some(index)) if volume.ended_with(index.session) => (of_entries(index), Knowledge::Whole),
            Ok(Some(old)) => (of_entries(old), Knowledge::None),
            Ok(None) if volume.was_never_mounted() => (HashMap::new(), Knowledge::Whole),
            Ok(None) => (HashMap::new(), Knowledge::None),
            Err(error) => {
                tracing::warn!(
                    "the index of the volume's files cannot be used: {error}; 'kmsfs reindex' makes it anew"
                );
                (HashMap::new(), Knowledge::None)
            }
        };
        Self(Mutex::new(State { counts, knowledge }))
    }

    /// What is known now.
    pub(super) fn census(&self) -> Census {
        let state = self.0.lock();
        let counted = state.counts.iter().filter(|(_, count)| count.files > 0);
        let counts: Counts = counted.map(|(wrapping, count)| ((**wrapping).clone(), *count)).collect();
        let whole = matches!(state.knowledge, Knowledge::Whole);
        Census {
            certain: whole && !counts.keys().any(Wrapping::is_unreadable),
            counting: matches!(state.knowledge, Knowledge::Counting(_)),
            counts,
        }
    }

    /// For the disk: what is counted, if that is everything.
    pub(super) fn whole(&self) -> Option<Counts> {
        let whole = matches!(self.0.lock().knowledge, Knowledge::Whole);
        whole.then(|| self.census().counts)
    }

    /// The one copy of a wrapping that all files share which have it.
    pub(super) fn share(&self, wrapping: Wrapping) -> Arc<Wrapping> {
        let mut state = self.0.lock();
        if let Some((known, _)) = state.counts.get_key_value(&wrapping) {
            return Arc::clone(known);
        }
        let shared = Arc::new(wrapping);
        state.counts.insert(Arc::clone(&shared), Count::default());
        shared
    }

    /// What wraps every file that is counted, if it is the same for all: of one of them, its header need
    /// not be asked.
    pub(super) fn sole(&self) -> Option<Arc<Wrapping>> {
        let state = self.0.lock();
        let mut counted = state.counts.iter().filter(|(_, count)| count.files > 0);
        let (wrapping, _) = counted.next()?;
        counted.next().is_none().then(|| Arc::clone(wrapping))
    }

    /// Whether a file with this number is counted.
    pub(super) fn has(&self, ino: u64) -> bool {
        self.0.lock().has(ino)
    }

    /// Whether a recount is under way that may not have come to every file.
    pub(super) fn is_counting(&self) -> bool {
        matches!(self.0.lock().knowledge, Knowledge::Counting(_))
    }

    /// Counts a file that was not counted, as far as files are counted.
    pub(super) fn add(&self, ino: u64, wrapping: &Arc<Wrapping>, bytes: u64) {
        let mut state = self.0.lock();
        let new = match &mut state.knowledge {
            Knowledge::Whole => true,
            Knowledge::Counting(seen) => seen.insert(ino),
            Knowledge::None => false,
        };
        if new {
            let count = state.counts.entry(Arc::clone(wrapping)).or_default();
            (count.files, count.bytes) = (count.files + 1, count.bytes + bytes);
        }
    }

    /// Takes a file back.
    pub(super) fn remove(&self, ino: u64, wrapping: &Wrapping, bytes: u64) {
        let mut state = self.0.lock();
        if state.has(ino) {
            state.take(wrapping, Count { files: 1, bytes });
            if let Knowledge::Counting(seen) = &mut state.knowledge {
                seen.remove(&ino);
            }
        }
    }

    /// A file has another size.
    pub(super) fn resize(&self, ino: u64, wrapping: &Arc<Wrapping>, before: u64, after: u64) {
        let mut state = self.0.lock();
        if before != after && state.has(ino) {
            state.take(wrapping, Count { files: 0, bytes: before });
            state.counts.entry(Arc::clone(wrapping)).or_default().bytes += after;
        }
    }

    /// A file is wrapped by something else.
    pub(super) fn rewrap(&self, ino: u64, before: &Wrapping, after: &Arc<Wrapping>, bytes: u64) {
        let mut state = self.0.lock();
        if state.has(ino) {
            state.take(before, Count { files: 1, bytes });
            let count = state.counts.entry(Arc::clone(after)).or_default();
            (count.files, count.bytes) = (count.files + 1, count.bytes + bytes);
        }
    }

    /// It is not known any more what a file is wrapped by, or whether it is there.
    pub(super) fn lose(&self, why: &dyn std::fmt::Display) {
        self.0.lock().lose(why);
    }

    /// Begins to count every file anew.
    pub(super) fn begin_count(&self) {
        let mut state = self.0.lock();
        state.counts.values_mut().for_each(|count| *count = Count::default());
        state.knowledge = Knowledge::Counting(HashSet::new());
    }

    /// Ends what [`Index::begin_count`] began; answers whether everything is known now.
    pub(super) fn end_count(&self, complete: bool) -> bool {
        let mut state = self.0.lock();
        // Something may have been lost meanwhile.
        if matches!(state.knowledge, Knowledge::Counting(_)) {
            state.knowledge = if complete { Knowledge::Whole } else { Knowledge::None };
        }
        matches!(state.knowledge, Knowledge::Whole)
    }
}

impl State {
    fn has(&self, ino: u64) -> bool {
        match &self.knowledge {
            Knowledge::Whole => true,
            Knowledge::Counting(seen) => seen.contains(&ino),
            Knowledge::None => false,
        }
    }

    fn take(&mut self, wrapping: &Wrapping, what: Count) {
        let left = self.counts.get_mut(wrapping).and_then(|count| {
            let left = (count.files.checked_sub(what.files)?, count.bytes.checked_sub(what.bytes)?);
            (count.files, count.bytes) = left;
            Some(())
        });
        if left.is_none() {
            // Something changed the backing directory behind our back.
            self.lose(&"more was removed than had been counted");
        }
    }

    fn lose(&mut self, why: &dyn std::fmt::Display) {
        if !matches!(self.knowledge, Knowledge::None) {
            tracing::warn!("the index of the volume's files is not certain any more: {why}");
            self.knowledge = Knowledge::None;
        }
    }
}

fn of_entries(index: IndexFile) -> HashMap<Arc<Wrapping>, Count> {
    let entry = |entry: IndexEntry| {
        let wrapping = Wrapping { key_arn: entry.key_arn, key_version: entry.key_version };
        (Arc::new(wrapping), Count { files: entry.files, bytes: entry.bytes })
    };
    index.entries.into_iter().map(entry).collect()
}
