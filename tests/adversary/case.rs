//! One attacked volume, from a copy of one moment of a life to its last unmount.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use kmsfs::fs::{FileKind, Fs, FsError, ROOT_INO, RenameMode, SetAttr};

use crate::attack::Attacker;
use crate::bench::Bench;
use crate::dice::Dice;
use crate::history::{History, Moment, PAYLOAD, What, me, mode, remove};
use crate::oracle::{Evidence, Oracle, Seen, Slots, shown, slots_of};
use crate::outside::Outside;
use crate::tree;

struct Case<'a> {
    bench: &'a Bench,
    history: &'a History,
    moment: &'a Moment,
    dice: Dice,
    root: PathBuf,
    outside: Outside,
    tainted: BTreeSet<u64>,
    page_touched: bool,
    done: Vec<String>,
    /// Chunks that the attacked mount wrote.
    written: HashMap<(u64, u64), Vec<Vec<u8>>>,
    /// Names that the attacked mount made.
    own: HashSet<Vec<u8>>,
}

/// Attacks one volume; answers what was done and seen, or what should not have been seen.
pub(crate) fn run(bench: &Bench, history: &History, seed: u64) -> Result<String, String> {
    let mut dice = Dice::new(seed);
    let moment = dice.of(&history.moments);
    let (root, outside) = (bench.place("attacked"), bench.place("outside"));
    remove(&root);
    remove(&outside);
    tree::copy(&moment.root, &root);
    let targets = dice.of(&history.moments).root.join("kmsfs.targets");
    let outside = Outside::new(outside, |path| {
        // Genuine targets, so that whoever looked there would find one.
        for entry in std::fs::read_dir(targets).into_iter().flatten() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), path.join(entry.file_name())).unwrap();
        }
    });
    let mut case = Case {
        bench,
        history,
        moment,
        dice,
        root,
        outside,
        tainted: BTreeSet::new(),
        page_touched: false,
        done: Vec::new(),
        written: HashMap::new(),
        own: HashSet::new(),
    };
    let result = case.run();
    let report = case.done.join("\n  ");
    let result = result.and_then(|seen| {
        if case.outside.was_touched() { Err("something outside was touched".to_owned()) } else { Ok(seen) }
    });
    result.map(|seen| format!("{seen}\n  {report}")).map_err(|why| format!("{why}\n  {report}"))
}

impl Case<'_> {
    fn run(&mut self) -> Result<String, String> {
        if !self.dice.one_in(25) {
            self.attack();
        }
        let slots = slots_of(&self.root);
        let read_only = self.dice.one_in(6);
        let fs = match self.bench.mount(&self.root, read_only) {
            Ok(fs) => fs,
            Err(error) if self.page_touched => return Ok(format!("not opened: {error}")),
            Err(error) => return Err(format!("an untouched volume page: {error}")),
        };
        if self.dice.one_in(3) {
            fs.recover(&|| false);
        }
        let first = self.look(&fs, Some(&slots))?;
        self.check_untouched(&fs, &first)?;
        if !read_only {
            self.change(&fs, &first)?;
        }
        if self.dice.one_in(2) {
            self.attack();
            self.look(&fs, None)?;
            if !read_only {
                self.change(&fs, &first)?;
                fs.settle_closed();
            }
            fs.recover(&|| false);
            let _ = fs.shut_down();
            drop(fs);
        } else {
            fs.recover(&|| false);
            if self.dice.one_in(4) {
                // A crash; what was written may be read or not, but nothing else.
                drop(fs);
            } else {
                fs.shut_down().map_err(|e| format!("shutting down: {e}"))?;
                drop(fs);
            }
        }
        match self.bench.mount(&self.root, false) {
            Ok(fs) => {
                let again = self.look(&fs, None)?;
                fs.shut_down().map_err(|e| format!("shutting down again: {e}"))?;
                Ok(format!(
                    "{} entries, {} errors, then {}",
                    first.entries.len(),
                    first.errors.len(),
                    again.errors.len()
                ))
            }
            Err(error) if self.page_touched => Ok(format!("not opened again: {error}")),
            Err(error) => Err(format!("mounting again: {error}")),
        }
    }

    fn attack(&mut self) {
        let mut attacker = Attacker {
            root: &self.root,
            outside: &self.outside.path,
            history: self.history,
            dice: &mut self.dice,
            tainted: std::mem::take(&mut self.tainted),
            page_touched: self.page_touched,
            done: std::mem::take(&mut self.done),
        };
        for _ in 0..=attacker.dice.below(4) {
            attacker.attack();
        }
        (self.tainted, self.page_touched) = (attacker.tainted, attacker.page_touched);
        self.done = attacker.done;
    }

    fn look(&self, fs: &Fs, slots: Option<&Slots>) -> Result<Seen, String> {
        let evidence = slots.map_or(Evidence::Vague, Evidence::Exact);
        let (written, own) = (&self.written, &self.own);
        let mut oracle = Oracle { fs, history: self.history, evidence, written, own, seen: Seen::default() };
        oracle.look()?;
        Ok(oracle.seen)
    }

    /// What nobody touched is all there and right.
    fn check_untouched(&self, fs: &Fs, seen: &Seen) -> Result<(), String> {
        if self.page_touched {
            return Ok(());
        }
        for (path, what) in &self.moment.tree {
            if self.is_tainted(fs, path) {
                continue;
            }
            let Some((attr, id)) = seen.entries.get(path) else {
                return Err(format!("{} is not there, and was not touched", shown(path)));
            };
            let right = match what {
                What::File(own) => id.as_ref() == Some(own) && self.reads_whole(seen, attr.ino, own),
                What::Directory(own) => id.as_ref() == Some(own),
                What::Link(_) => attr.kind == FileKind::Symlink,
                What::Fifo => attr.kind == FileKind::Fifo,
            };
            if !right {
                let (path, errors) = (shown(path), &seen.errors);
                return Err(format!("{path} does not read right, and was not touched: {id:?}, {errors:?}"));
            }
        }
        Ok(())
    }

    /// Whether an attack changed an entry, or something on the way to it.
    fn is_tainted(&self, fs: &Fs, path: &[u8]) -> bool {
        if self.tainted.contains(&self.root.metadata().unwrap().ino()) {
            return true;
        }
        let mut dir = ROOT_INO;
        for part in path.split(|&b| b == b'/') {
            match fs.lookup(dir, OsStr::from_bytes(part)) {
                Ok(attr) if self.tainted.contains(&attr.ino) => return true,
                Ok(attr) => dir = attr.ino,
                Err(_) => return false,
            }
        }
        false
    }

    fn reads_whole(&self, seen: &Seen, ino: u64, id: &str) -> bool {
        let (size, chunks) = &self.moment.files[id];
        let chunk_is_right = |(&chunk, plaintext): (&u64, &Vec<u8>)| {
            seen.chunks.get(&(ino, chunk)).is_some_and(|bytes| plaintext.starts_with(bytes))
        };
        seen.sizes.get(&ino) == Some(size) && chunks.iter().all(chunk_is_right)
    }

    /// Uses the attacked volume; what is written is read back.
    fn change(&mut self, fs: &Arc<Fs>, seen: &Seen) -> Result<(), String> {
        let paths: Vec<Vec<u8>> = seen.entries.keys().cloned().collect();
        for _ in 0..self.dice.below(6) {
            if paths.is_empty() {
                break;
            }
            let path = self.dice.of(&paths).clone();
            let done = self.change_one(fs, &path, seen.entries[&path].0.ino, seen.entries[&path].0.kind);
            match done {
                Ok(Ok(())) => {}
                Ok(Err(error)) if ALLOWED.contains(&error.errno()) => {}
                Ok(Err(error)) => {
                    return Err(format!("changing {}: errno {}: {error}", shown(&path), error.errno()));
                }
                Err(why) => return Err(format!("changing {}: {why}", shown(&path))),
            }
        }
        let name = format!("new {}", self.dice.below(1_000));
        self.own.insert(name.clone().into_bytes());
        match fs.create(me(), ROOT_INO, OsStr::new(&name), mode(0o600)) {
            Ok((attr, fh)) => {
                let data = self.dice.bytes(100);
                self.written.entry((attr.ino, 0)).or_default().push(data.clone());
                let written = fs.write(fh, 0, &data, false, None);
                fs.release(fh);
                written.map_err(|e| format!("writing to a new file: {e}"))
            }
            Err(error) if ALLOWED.contains(&error.errno()) => Ok(()),
            Err(error) => Err(format!("creating a file: {error}")),
        }
    }

    fn change_one(
        &mut self,
        fs: &Arc<Fs>,
        path: &[u8],
        ino: u64,
        kind: FileKind,
    ) -> Result<Result<(), FsError>, String> {
        let what = self.dice.below(8);
        let (parent, name) = match path.iter().rposition(|&b| b == b'/') {
            Some(_) if what >= 4 => return Ok(Ok(())),
            Some(at) => (ROOT_INO, OsStr::from_bytes(&path[at + 1..])),
            None => (ROOT_INO, OsStr::from_bytes(path)),
        };
        if kind == FileKind::Regular && what < 3 {
            return self.overwrite(fs, ino);
        }
        let fresh = format!("moved {}", self.dice.below(1_000));
        self.own.insert(fresh.clone().into_bytes());
        Ok(match what {
            3 if kind == FileKind::Regular => {
                let size = self.dice.below(20_000) as u64;
                fs.setattr(me(), ino, None, &SetAttr { size: Some(size), ..SetAttr::default() }).map(drop)
            }
            4 => fs.rename(parent, name, parent, OsStr::new(&fresh), RenameMode::Replace),
            5 if kind == FileKind::Directory => fs.rmdir(parent, name),
            5 => fs.unlink(parent, name),
            6 => fs.mkdir(me(), parent, OsStr::new(&fresh), mode(0o700)).map(drop),
            7 => {
                let target = self.history.targets.iter().max().unwrap();
                fs.symlink(me(), parent, OsStr::new(&fresh), OsStr::from_bytes(target)).map(drop)
            }
            _ => Ok(()),
        })
    }

    fn overwrite(&mut self, fs: &Arc<Fs>, ino: u64) -> Result<Result<(), FsError>, String> {
        let fh = match fs.open(ino, true) {
            Ok(fh) => fh,
            Err(error) => return Ok(Err(error)),
        };
        let chunk = self.dice.below(6) as u64;
        let data = self.dice.bytes(PAYLOAD as usize);
        let written = fs.write(fh, chunk * PAYLOAD, &data, false, None);
        let result = written.map(|()| {
            let mut back = vec![0; data.len()];
            fs.read(fh, chunk * PAYLOAD, &mut back).is_ok_and(|_| back == data)
        });
        fs.release(fh);
        match result {
            Ok(true) => {
                self.written.entry((ino, chunk)).or_default().push(data);
                Ok(Ok(()))
            }
            Ok(false) => Err("what was written is not read back".to_owned()),
            Err(error) => Ok(Err(error)),
        }
    }
}

/// What a change of an attacked volume may fail with.
const ALLOWED: [i32; 12] = [
    libc::EIO,
    libc::ENOENT,
    libc::ESTALE,
    libc::EXDEV,
    libc::EEXIST,
    libc::ENOTEMPTY,
    libc::EINVAL,
    libc::EISDIR,
    libc::ENOTDIR,
    libc::EFBIG,
    libc::ENOSPC,
    libc::EROFS,
];
