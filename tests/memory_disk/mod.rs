//! A disk in memory under a key store. It remembers what was done to it, so that any state can be
//! built that a crash may leave, and it can fail at any call.
//!
//! What a crash leaves: of every file what was synced; of what was not, any part, sector by
//! sector, but for lengths, which change in order; and the names up to the last sync of the
//! directory, or to any later moment. A sync that failed vouches for nothing: what was written
//! before it is only in memory from then on.
//!
//! The audit log beside a store is passed over, unless a test asks for it: it is there, but no call
//! to it counts, fails or is remembered. So tests of the store see the store's own calls.
#![allow(dead_code, clippy::unwrap_used, reason = "every test binary includes it and uses a part")]

pub(crate) mod history;
pub(crate) mod place;

use std::collections::BTreeMap;
use std::io::{self, BufRead};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use kmsfs::kms::Disk;
use kmsfs::kms::audit::DIRECTORY;
use redb::StorageBackend;

const PAGE: usize = 4096;
/// What is written whole or not at all.
const SECTOR: usize = 512;

/// A file's contents; pages are shared between copies.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Contents {
    len: usize,
    pages: Vec<Arc<[u8; PAGE]>>,
}

impl Contents {
    fn set_len(&mut self, len: usize) {
        self.pages.resize_with(len.div_ceil(PAGE), || Arc::new([0; PAGE]));
        if len < self.len && !len.is_multiple_of(PAGE) {
            Arc::make_mut(&mut self.pages[len / PAGE])[len % PAGE..].fill(0);
        }
        self.len = len;
    }

    fn read(&self, offset: usize, out: &mut [u8]) -> io::Result<()> {
        if offset + out.len() > self.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (at, byte) in (offset..).zip(out.iter_mut()) {
            *byte = self.pages[at / PAGE][at % PAGE];
        }
        Ok(())
    }

    /// Whether these bytes are anywhere in it; they are not all zeros.
    fn has(&self, bytes: &[u8]) -> bool {
        // Most pages have nothing in them.
        let runs = self.pages.split(|page| **page == [0; PAGE]);
        runs.filter(|run| !run.is_empty()).any(|run| {
            let run: Vec<&[u8]> = run.iter().map(|page| page.as_slice()).collect();
            contains(&run.concat(), bytes)
        })
    }

    fn write(&mut self, offset: usize, data: &[u8]) {
        if offset + data.len() > self.len {
            self.set_len(offset + data.len());
        }
        for piece in pieces(offset, data, PAGE) {
            let start = piece.0 % PAGE;
            Arc::make_mut(&mut self.pages[piece.0 / PAGE])[start..start + piece.1.len()]
                .copy_from_slice(piece.1);
        }
    }
}

/// Whether bytes are part of others.
pub(crate) fn contains(mut all: &[u8], bytes: &[u8]) -> bool {
    loop {
        if all.skip_until(bytes[0]).unwrap() == 0 {
            return false;
        }
        if all.starts_with(&bytes[1..]) {
            return true;
        }
    }
}

/// A write cut at the boundaries of `unit` bytes.
fn pieces(offset: usize, data: &[u8], unit: usize) -> Vec<(usize, &[u8])> {
    let (mut at, mut rest, mut pieces) = (offset, data, Vec::new());
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rest.len().min(unit - at % unit));
        pieces.push((at, piece));
        at += piece.len();
        rest = after;
    }
    pieces
}

type FileId = usize;

#[derive(Clone)]
enum Event {
    Write { file: FileId, offset: usize, data: Vec<u8> },
    SetLen { file: FileId, len: usize },
    Sync(FileId),
    SyncFailed(FileId),
    Name(Naming),
    SyncDirectory,
}

#[derive(Clone)]
enum Naming {
    Create(PathBuf, FileId),
    Rename(PathBuf, PathBuf),
    Exchange(PathBuf, PathBuf),
    Link(PathBuf, PathBuf),
    Remove(PathBuf),
}

/// Names and contents.
#[derive(Clone, Default)]
pub(crate) struct Tree {
    names: BTreeMap<PathBuf, FileId>,
    files: Vec<Contents>,
}

impl Tree {
    /// Whether any file has these bytes, those that have lost their names included.
    pub(crate) fn has(&self, bytes: &[u8]) -> bool {
        self.files.iter().any(|file| file.has(bytes))
    }

    /// As [`Tree::has`], of files that have names.
    pub(crate) fn has_named(&self, bytes: &[u8]) -> bool {
        self.names.values().any(|file| self.files[*file].has(bytes))
    }

    fn name(&mut self, naming: &Naming) {
        match naming {
            Naming::Create(path, file) => {
                if self.files.len() <= *file {
                    self.files.resize(file + 1, Contents::default());
                }
                self.names.insert(path.clone(), *file);
            }
            Naming::Rename(from, to) => {
                let file = self.names.remove(from).unwrap();
                self.names.insert(to.clone(), file);
            }
            Naming::Exchange(one, other) => {
                let (first, second) = (self.names[one], self.names[other]);
                self.names.insert(one.clone(), second);
                self.names.insert(other.clone(), first);
            }
            Naming::Link(from, to) => {
                let file = self.names[from];
                self.names.insert(to.clone(), file);
            }
            Naming::Remove(path) => drop(self.names.remove(path)),
        }
    }
}

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// This call alone, with an I/O error.
    Eio,
    /// This call and all that need room, until [`MemoryDisk::heal`].
    Enospc,
    /// A write puts half of its bytes down and then fails; other calls as `Eio`.
    ShortWrite,
}

#[derive(Default)]
struct State {
    /// As a running system sees it.
    seen: Tree,
    log: Vec<Event>,
    calls: u64,
    /// The number of the call that fails.
    fault: Option<(u64, Fault)>,
    hit: bool,
    /// Whether calls to the audit log are like others.
    with_audit: bool,
    /// Whether files cannot exchange their names.
    no_exchange: bool,
}

fn is_audit(path: &Path) -> bool {
    path.ends_with(DIRECTORY) || path.parent().is_some_and(|parent| parent.ends_with(DIRECTORY))
}

/// The disk; copies share it.
#[derive(Clone, Default)]
pub(crate) struct MemoryDisk(Arc<Mutex<State>>);

impl std::fmt::Debug for MemoryDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MemoryDisk")
    }
}

impl MemoryDisk {
    pub(crate) fn new(tree: Tree) -> Self {
        Self(Arc::new(Mutex::new(State { seen: tree, ..State::default() })))
    }

    /// A disk that looks at the audit log, too.
    pub(crate) fn with_audit() -> Self {
        Self(Arc::new(Mutex::new(State { with_audit: true, ..State::default() })))
    }

    /// A disk whose files cannot exchange their names, as on some filesystems.
    pub(crate) fn without_exchange() -> Self {
        Self(Arc::new(Mutex::new(State { no_exchange: true, ..State::default() })))
    }

    /// How much was done so far: a moment to crash at.
    pub(crate) fn moment(&self) -> usize {
        self.state().log.len()
    }

    /// Names and contents as a running system sees them.
    pub(crate) fn tree(&self) -> Tree {
        self.state().seen.clone()
    }

    /// What is in a file, if it is there.
    pub(crate) fn contents(&self, path: &str) -> Option<Vec<u8>> {
        Disk::read(self, Path::new(path), u64::MAX).ok()
    }

    /// Whether the call that was to fail was made.
    pub(crate) fn was_hit(&self) -> bool {
        self.state().hit
    }

    /// A disk with the same contents that goes its own way.
    pub(crate) fn copy(&self) -> Self {
        Self::new(self.state().seen.clone())
    }

    /// The `call`th call from now on fails.
    pub(crate) fn fail(&self, call: u64, fault: Fault) {
        let mut state = self.state();
        state.fault = Some((state.calls + call, fault));
        state.hit = false;
    }

    /// Whether the call that was to fail was made. All calls succeed from now on.
    pub(crate) fn heal(&self) -> bool {
        let mut state = self.state();
        state.fault = None;
        state.hit
    }

    fn log(&self) -> Vec<Event> {
        self.state().log.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn passes_over(&self, path: &Path) -> bool {
        is_audit(path) && !self.state().with_audit
    }

    /// Counts a call, and fails it if it is the one.
    fn call(
        &self,
        passed_over: bool,
        needs_room: bool,
    ) -> Result<MutexGuard<'_, State>, (MutexGuard<'_, State>, io::Error, Fault)> {
        let mut state = self.state();
        if passed_over {
            return Ok(state);
        }
        state.calls += 1;
        let calls = state.calls;
        match state.fault {
            Some((at, Fault::Enospc)) if calls >= at && needs_room => {
                state.hit = true;
                Err((state, io::Error::from_raw_os_error(libc::ENOSPC), Fault::Enospc))
            }
            Some((at, fault)) if calls == at && fault != Fault::Enospc => {
                state.hit = true;
                Err((state, io::Error::from_raw_os_error(libc::EIO), fault))
            }
            _ => Ok(state),
        }
    }

    fn plain(&self, passed_over: bool, needs_room: bool) -> io::Result<MutexGuard<'_, State>> {
        self.call(passed_over, needs_room).map_err(|(_, error, _)| error)
    }

    fn naming(&self, naming: Naming, check: impl Fn(&Tree) -> io::Result<()>) -> io::Result<()> {
        let (Naming::Create(path, _)
        | Naming::Rename(_, path)
        | Naming::Exchange(_, path)
        | Naming::Link(_, path)
        | Naming::Remove(path)) = &naming;
        let passed_over = self.passes_over(path);
        let mut state = self.plain(passed_over, !matches!(naming, Naming::Remove(_)))?;
        check(&state.seen)?;
        state.seen.name(&naming);
        if !passed_over {
            state.log.push(Event::Name(naming));
        }
        Ok(())
    }
}

fn absent(path: &Path) -> impl Fn(&Tree) -> io::Result<()> {
    move |tree| if tree.names.contains_key(path) { Err(io::ErrorKind::AlreadyExists.into()) } else { Ok(()) }
}

fn present(path: &Path) -> impl Fn(&Tree) -> io::Result<()> {
    move |tree| if tree.names.contains_key(path) { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
}

impl Disk for MemoryDisk {
    fn exists(&self, path: &Path) -> bool {
        self.state().seen.names.contains_key(path)
    }

    fn make_directory(&self, path: &Path) -> io::Result<()> {
        self.plain(self.passes_over(path), true).map(drop)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn StorageBackend>> {
        let file = self.state().seen.files.len();
        self.naming(Naming::Create(path.to_owned(), file), absent(path))?;
        Ok(Box::new(MemoryFile { disk: self.clone(), file, passed_over: self.passes_over(path) }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn StorageBackend>> {
        let passed_over = self.passes_over(path);
        let state = self.plain(passed_over, false)?;
        let file = *state.seen.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(MemoryFile { disk: self.clone(), file, passed_over }))
    }

    fn read(&self, path: &Path, _most: u64) -> io::Result<Vec<u8>> {
        let state = self.plain(self.passes_over(path), false)?;
        let file = &state.seen.files[*state.seen.names.get(path).ok_or(io::ErrorKind::NotFound)?];
        let mut bytes = vec![0; file.len];
        file.read(0, &mut bytes)?;
        Ok(bytes)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.plain(self.passes_over(dir), false)?;
        let inside = state.seen.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(inside.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect())
    }

    fn replace(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.naming(Naming::Rename(from.to_owned(), to.to_owned()), present(from))
    }

    fn exchange(&self, one: &Path, other: &Path) -> io::Result<()> {
        if self.state().no_exchange {
            return Err(io::ErrorKind::Unsupported.into());
        }
        self.naming(Naming::Exchange(one.to_owned(), other.to_owned()), |tree| {
            present(one)(tree).and_then(|()| present(other)(tree))
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.naming(Naming::Rename(from.to_owned(), to.to_owned()), |tree| {
            present(from)(tree).and_then(|()| absent(to)(tree))
        })
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.naming(Naming::Link(from.to_owned(), to.to_owned()), |tree| {
            present(from)(tree).and_then(|()| absent(to)(tree))
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        match self.naming(Naming::Remove(path.to_owned()), present(path)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        let passed_over = self.passes_over(path);
        let mut state = self.plain(passed_over, false)?;
        if !passed_over {
            state.log.push(Event::SyncDirectory);
        }
        Ok(())
    }
}

#[derive(Debug)]
struct MemoryFile {
    disk: MemoryDisk,
    file: FileId,
    passed_over: bool,
}

impl StorageBackend for MemoryFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.plain(self.passed_over, false)?.seen.files[self.file].len as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.disk.plain(self.passed_over, false)?.seen.files[self.file].read(offset as usize, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.plain(self.passed_over, true)?;
        state.seen.files[self.file].set_len(len as usize);
        if self.passed_over {
            return Ok(());
        }
        state.log.push(Event::SetLen { file: self.file, len: len as usize });
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        match self.disk.call(self.passed_over, true) {
            Ok(_) if self.passed_over => {}
            Ok(mut state) => state.log.push(Event::Sync(self.file)),
            Err((mut state, error, _)) => {
                state.log.push(Event::SyncFailed(self.file));
                return Err(error);
            }
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let (mut state, data, failed) = match self.disk.call(self.passed_over, true) {
            Ok(state) => (state, data, None),
            Err((state, error, Fault::ShortWrite)) => (state, &data[..data.len() / 2], Some(error)),
            Err((_, error, _)) => return Err(error),
        };
        state.seen.files[self.file].write(offset as usize, data);
        if self.passed_over {
            return Ok(());
        }
        state.log.push(Event::Write { file: self.file, offset: offset as usize, data: data.to_vec() });
        failed.map_or(Ok(()), Err)
    }
}
