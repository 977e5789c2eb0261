//! A writer that keeps a ledger: what each call that returned has made of its files, and the one
//! call that was under way when the mount's process was killed.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::XattrFlags;

use crate::common::dice::Dice;
use crate::common::pair::pattern;
use crate::common::sys::fallocate;

/// Files of a writer.
const NAMES: usize = 5;
/// Bytes that a file has at most. A header says which chunks of the first 520,192 bytes there are;
/// of those behind, map pages do.
const LONGEST: usize = 900_000;
/// What a new version of a file is called until it replaces it.
const FRESH: &str = "fresh";
const TAG: &str = "user.tag";

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Contents {
    bytes: Vec<u8>,
    tag: Option<[u8; 8]>,
}

type Files = BTreeMap<String, Contents>;

/// One call that changes something, or makes it durable.
#[derive(Clone)]
enum Change {
    /// Makes it empty, if it is there: a kill may have left a new version unfinished.
    Create(String),
    Write {
        name: String,
        at: usize,
        bytes: Vec<u8>,
    },
    Append {
        name: String,
        bytes: Vec<u8>,
    },
    Cut {
        name: String,
        len: usize,
    },
    Punch {
        name: String,
        at: usize,
        len: usize,
    },
    Tag {
        name: String,
        tag: [u8; 8],
    },
    Sync(String),
    SyncDirectory,
    Rename {
        from: String,
        to: String,
    },
    Remove(String),
}

impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create(name) => write!(f, "create {name}"),
            Self::Write { name, at, bytes } => write!(f, "write {} bytes at {at} to {name}", bytes.len()),
            Self::Append { name, bytes } => write!(f, "append {} bytes to {name}", bytes.len()),
            Self::Cut { name, len } => write!(f, "truncate {name} to {len}"),
            Self::Punch { name, at, len } => write!(f, "punch {len} bytes at {at} out of {name}"),
            Self::Tag { name, .. } => write!(f, "set the attribute of {name}"),
            Self::Sync(name) => write!(f, "fsync {name}"),
            Self::SyncDirectory => write!(f, "fsync the directory"),
            Self::Rename { from, to } => write!(f, "rename {from} to {to}"),
            Self::Remove(name) => write!(f, "remove {name}"),
        }
    }
}

/// The files of one directory, as far as calls have returned.
pub(crate) struct Ledger {
    dir: PathBuf,
    files: Files,
    /// What is to be done before anything else is thought of.
    planned: VecDeque<Change>,
    /// The call that did not return.
    pending: Option<Change>,
    dice: Dice,
    calls: u64,
}

impl Ledger {
    /// Of an empty directory that is made here.
    pub(crate) fn new(dir: &Path, seed: u64) -> Self {
        fs::create_dir(dir).unwrap();
        let (files, planned) = (Files::new(), VecDeque::new());
        Self { dir: dir.to_owned(), files, planned, pending: None, dice: Dice::new(seed), calls: 0 }
    }

    /// Calls that returned so far.
    pub(crate) fn calls(&self) -> u64 {
        self.calls
    }

    /// Changes files until told to stop, or until a call fails, as all do once `killed`. Then no
    /// file is open any more.
    pub(crate) fn work(&mut self, stop: &AtomicBool, killed: &AtomicBool) {
        let mut open = BTreeMap::new();
        while !stop.load(Ordering::SeqCst) {
            let change = self.next();
            self.pending = Some(change.clone());
            match perform(&self.dir, &mut open, &change) {
                Ok(None) => enter(&mut self.files, &change),
                // The kernel has passed the rest on, and does not know what became of it.
                Ok(Some((taken, rest))) => {
                    assert!(killed.load(Ordering::SeqCst), "only a part was written: {rest:?}");
                    enter(&mut self.files, &taken);
                    self.pending = Some(rest);
                    break;
                }
                Err(error) => {
                    let expected = [libc::ENOTCONN, libc::ECONNABORTED].map(Some);
                    let expected = expected.contains(&error.raw_os_error()) && killed.load(Ordering::SeqCst);
                    assert!(expected, "{change:?}: {error}");
                    break;
                }
            }
            self.pending = None;
            self.calls += 1;
            // Most files stay open over many calls; those that are closed get settled.
            if self.dice.one_in(20) {
                open.clear();
            }
        }
    }

    fn next(&mut self) -> Change {
        if let Some(change) = self.planned.pop_front() {
            return change;
        }
        let dice = &mut self.dice;
        let name = format!("file-{}", dice.below(NAMES));
        let Some(contents) = self.files.get(&name) else { return Change::Create(name) };
        let (len, seed) = (contents.bytes.len(), dice.next());
        let amount = if dice.one_in(10) { dice.below(150_000) } else { dice.below(9_000) } + 1;
        match dice.below(20) {
            0..6 => {
                // Now and then behind the end, which leaves a hole.
                let end = if dice.one_in(8) { LONGEST } else { len + 1 };
                let at = dice.below(end.min(LONGEST));
                Change::Write { name, at, bytes: pattern(seed, amount.min(LONGEST - at)) }
            }
            6..11 if len < LONGEST => {
                Change::Append { name, bytes: pattern(seed, amount.min(LONGEST - len)) }
            }
            6..=11 => Change::Cut { name, len: dice.below(len + 1) },
            12 => Change::Cut { name, len: dice.below(LONGEST) },
            13 => Change::Punch { name, at: dice.below(len + 1), len: amount },
            14 => Change::Tag { name, tag: seed.to_le_bytes() },
            15 | 16 => Change::Sync(name),
            17 => Change::Remove(name),
            _ => {
                self.save(name, &pattern(seed, amount));
                Change::Create(FRESH.to_owned())
            }
        }
    }

    /// Plans what an editor does to save a file, carefully or not, once the new one was made.
    fn save(&mut self, name: String, bytes: &[u8]) {
        let fresh = || FRESH.to_owned();
        for part in bytes.chunks(30_000) {
            self.planned.push_back(Change::Append { name: fresh(), bytes: part.to_owned() });
        }
        let careful = self.dice.one_in(2);
        if careful {
            self.planned.push_back(Change::Sync(fresh()));
        }
        self.planned.push_back(Change::Rename { from: fresh(), to: name });
        if careful {
            self.planned.push_back(Change::SyncDirectory);
        }
    }

    /// What is wrong with the directory as it was found: everything that was acknowledged must be
    /// there, and nothing else but a part of what was under way. From now on what was found counts.
    pub(crate) fn settle(&mut self) -> Result<(), String> {
        let found = read(&self.dir)?;
        let pending = self.pending.take();
        self.planned.clear();
        let mut after = self.files.clone();
        if let Some(change) = &pending {
            enter(&mut after, change);
        }
        let wrong = |what: String| Err(format!("{}: {what}; under way: {pending:?}", self.dir.display()));
        let before = &self.files;
        // What changes names happens wholly or not at all.
        let (old, new) = match (same_names(&found, before), same_names(&found, &after)) {
            (true, true) => (before, &after),
            (true, false) => (before, before),
            (false, true) => (&after, &after),
            (false, false) => {
                let names = |files: &Files| files.keys().cloned().collect::<Vec<_>>();
                return wrong(format!("{:?} instead of {:?}", names(&found), names(before)));
            }
        };
        for (name, found) in &found {
            if let Some(what) = difference(found, &old[name], &new[name]) {
                return wrong(format!("{name}: {what}"));
            }
        }
        self.files = found;
        Ok(())
    }
}

fn same_names(files: &Files, others: &Files) -> bool {
    files.keys().eq(others.keys())
}

/// Carries a change out. If only a part of what is to be written was accepted, tells that and the rest.
fn perform(
    dir: &Path,
    open: &mut BTreeMap<String, File>,
    change: &Change,
) -> io::Result<Option<(Change, Change)>> {
    let path = |name: &String| dir.join(name);
    match change {
        Change::Create(name) => {
            open.insert(
                name.clone(),
                File::options().read(true).write(true).create(true).truncate(true).open(path(name))?,
            );
        }
        Change::Write { name, at, bytes } => {
            let taken = held(dir, open, name)?.write_at(bytes, *at as u64)?;
            let part = |at, bytes: &[u8]| Change::Write { name: name.clone(), at, bytes: bytes.to_owned() };
            let (first, rest) = bytes.split_at(taken);
            return Ok((!rest.is_empty()).then(|| (part(*at, first), part(at + taken, rest))));
        }
        Change::Append { name, bytes } => {
            let taken = File::options().append(true).open(path(name))?.write(bytes)?;
            let part = |bytes: &[u8]| Change::Append { name: name.clone(), bytes: bytes.to_owned() };
            let (first, rest) = bytes.split_at(taken);
            return Ok((!rest.is_empty()).then(|| (part(first), part(rest))));
        }
        Change::Cut { name, len } => held(dir, open, name)?.set_len(*len as u64)?,
        Change::Punch { name, at, len } => {
            let how = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            fallocate(held(dir, open, name)?, how, *at as i64, *len as i64)?;
        }
        Change::Tag { name, tag } => rustix::fs::setxattr(path(name), TAG, tag, XattrFlags::empty())?,
        Change::Sync(name) => held(dir, open, name)?.sync_all()?,
        Change::SyncDirectory => File::open(dir)?.sync_all()?,
        Change::Rename { from, to } => {
            fs::rename(path(from), path(to))?;
            open.remove(from);
            open.remove(to);
        }
        Change::Remove(name) => {
            fs::remove_file(path(name))?;
            open.remove(name);
        }
    }
    Ok(None)
}

fn held<'a>(dir: &Path, open: &'a mut BTreeMap<String, File>, name: &str) -> io::Result<&'a File> {
    match open.entry(name.to_owned()) {
        Entry::Occupied(file) => Ok(file.into_mut()),
        Entry::Vacant(place) => {
            Ok(place.insert(OpenOptions::new().read(true).write(true).open(dir.join(name))?))
        }
    }
}

/// What a change makes of the files.
fn enter(files: &mut Files, change: &Change) {
    fn put(bytes: &mut Vec<u8>, at: usize, new: &[u8]) {
        bytes.resize(bytes.len().max(at + new.len()), 0);
        bytes[at..at + new.len()].copy_from_slice(new);
    }
    match change {
        Change::Create(name) => files.entry(name.clone()).or_default().bytes.clear(),
        Change::Write { name, at, bytes } => {
            put(&mut files.get_mut(name).unwrap().bytes, *at, bytes);
        }
        Change::Append { name, bytes } => {
            files.get_mut(name).unwrap().bytes.extend_from_slice(bytes);
        }
        Change::Cut { name, len } => files.get_mut(name).unwrap().bytes.resize(*len, 0),
        Change::Punch { name, at, len } => {
            let bytes = &mut files.get_mut(name).unwrap().bytes;
            let end = bytes.len().min(at + len);
            bytes[(*at).min(end)..end].fill(0);
        }
        Change::Tag { name, tag } => files.get_mut(name).unwrap().tag = Some(*tag),
        Change::Sync(_) | Change::SyncDirectory => {}
        Change::Rename { from, to } => {
            let contents = files.remove(from).unwrap();
            files.insert(to.clone(), contents);
        }
        Change::Remove(name) => drop(files.remove(name)),
    }
}

fn read(dir: &Path) -> Result<Files, String> {
    let mut files = Files::new();
    for entry in fs::read_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))? {
        let path = entry.map_err(|e| format!("{}: {e}", dir.display()))?.path();
        let wrong = |e: io::Error| format!("{}: {e}", path.display());
        let bytes = fs::read(&path).map_err(wrong)?;
        let mut tag = [0; 8];
        let tag = match rustix::fs::getxattr(&path, TAG, &mut tag) {
            Ok(_) => Some(tag),
            Err(rustix::io::Errno::NODATA) => None,
            Err(error) => return Err(wrong(error.into())),
        };
        files.insert(path.file_name().unwrap().to_str().unwrap().to_owned(), Contents { bytes, tag });
    }
    Ok(files)
}

/// Why a file is no mixture of its contents before and after the change that was under way.
fn difference(found: &Contents, old: &Contents, new: &Contents) -> Option<String> {
    if found.tag != old.tag && found.tag != new.tag {
        return Some(format!("its tag is {:?} instead of {:?}", found.tag, old.tag));
    }
    mixture(&found.bytes, &old.bytes, &new.bytes)
}

/// Why bytes are no mixture of old and new ones.
pub(crate) fn mixture(found: &[u8], old: &[u8], new: &[u8]) -> Option<String> {
    let (shorter, longer) = (old.len().min(new.len()), old.len().max(new.len()));
    if !(shorter..=longer).contains(&found.len()) {
        return Some(format!("{} bytes instead of {} or {}", found.len(), old.len(), new.len()));
    }
    let byte = |of: &[u8], at: usize| of.get(at).copied().unwrap_or(0);
    let is_wrong = |&at: &usize| found[at] != byte(old, at) && found[at] != byte(new, at);
    let first = (0..found.len()).find(is_wrong)?;
    let count = (first..found.len()).filter(is_wrong).count();
    let (is, was, would) = (found[first], byte(old, first), byte(new, first));
    Some(format!(
        "byte {first} of {} is {is:#x}, was {was:#x}, would be {would:#x}; {count} are wrong",
        found.len()
    ))
}
