//! What somebody does who owns the ciphertext directory and has kept all that was ever in it.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use kmsfs::chunk::Backing;
use kmsfs::format::PAGE_LEN;
use kmsfs::format::layout::{Layout, MapPage};
use kmsfs::format::slot::{SLOT_LEN, SLOT_OFFSETS};
use rustix::fs::{CWD, RenameFlags, XattrFlags};

use crate::dice::Dice;
use crate::history::{History, remove};
use crate::tree;

/// A length that takes for ever if every chunk of it is looked at, in bytes.
const HUGE: u64 = 1 << 37;

pub(crate) struct Attacker<'a> {
    pub(crate) root: &'a Path,
    /// A directory that the volume must have nothing to do with.
    pub(crate) outside: &'a Path,
    pub(crate) history: &'a History,
    pub(crate) dice: &'a mut Dice,
    /// Inodes of which something was changed: contents, attributes, or which entries there are.
    pub(crate) tainted: BTreeSet<u64>,
    /// Something was done to the volume's page or its copy.
    pub(crate) page_touched: bool,
    /// What was done, for whoever looks at a failure.
    pub(crate) done: Vec<String>,
}

impl Attacker<'_> {
    pub(crate) fn attack(&mut self) {
        let mut entries = tree::walk(self.root);
        let rank = |name: &OsStr| self.history.ranks.get(name).copied().unwrap_or(usize::MAX);
        entries.sort_by_cached_key(|path| path.iter().map(rank).collect::<Vec<_>>());
        if entries.is_empty() {
            return;
        }
        let is_file = |path: &&PathBuf| self.root.join(path).symlink_metadata().is_ok_and(|m| m.is_file());
        let files: Vec<&PathBuf> = entries.iter().filter(is_file).collect();
        let any = self.dice.of(&entries).clone();
        let other = self.dice.of(&entries).clone();
        if files.is_empty() || self.dice.one_in(3) {
            return self.attack_entry(&any, &other);
        }
        // Half of the attacks on the few files that everything hangs on.
        let special =
            |path: &&&PathBuf| path.file_name().is_some_and(|n| n.as_bytes().starts_with(b"kmsfs."));
        let special: Vec<&PathBuf> = files.iter().filter(special).copied().collect();
        let chosen = if special.is_empty() || !self.dice.one_in(3) { &files } else { &special };
        let (any, other) = ((*self.dice.of(chosen)).clone(), (*self.dice.of(&files)).clone());
        self.attack_file(&any, &other);
    }

    /// Notes that an attack changes these entries themselves.
    fn note(&mut self, paths: &[&PathBuf], what: String) {
        for path in paths {
            self.page_touched |= path.to_str().is_some_and(|path| path.starts_with("kmsfs.volume"));
            self.taint(path);
            // What all entries of a directory hang on.
            let name = path.file_name().unwrap().as_bytes();
            if name == b"kmsfs.dir" || name.ends_with(b".name") {
                self.taint(path.parent().unwrap());
            }
        }
        self.done.push(format!("{what}: {paths:?}"));
    }

    /// The inode that lies there now counts as changed.
    fn taint(&mut self, path: &Path) {
        self.tainted.extend(self.root.join(path).symlink_metadata().map(|metadata| metadata.ino()));
    }

    /// Notes that it also changes which entries their directories have.
    fn note_entries(&mut self, paths: &[&PathBuf], what: String) {
        self.note(paths, what);
        for path in paths {
            self.taint(path.parent().unwrap());
        }
    }

    fn attack_file(&mut self, path: &PathBuf, other: &PathBuf) {
        let full = self.root.join(path);
        let Ok(file) = File::options().read(true).write(true).open(&full) else { return };
        let len = file.metadata().unwrap().len();
        let what = self.dice.below(13);
        self.note(&[path], format!("attack {what} on a file of {len}"));
        match what {
            0 => {
                for _ in 0..=self.dice.below(3) {
                    let at = self.offset(len);
                    let mut byte = [0];
                    if Backing::read_at(&file, &mut byte, at).unwrap() == 1 {
                        byte[0] ^= 1 << self.dice.below(8);
                        file.write_all_at(&byte, at).unwrap();
                    }
                }
            }
            1 => {
                let (at, count) = (self.offset(len), 1 + self.dice.below(5_000));
                file.write_all_at(&vec![0; count.min((len - at.min(len)) as usize)], at).unwrap();
            }
            2 => {
                let (a, b) = (self.place(len), self.place(len));
                let (x, y) = (read(&file, a, PAGE_LEN), read(&file, b, PAGE_LEN));
                file.write_all_at(&x, b).unwrap();
                file.write_all_at(&y, a).unwrap();
            }
            3 => {
                // It may be the same file, or gone.
                let Ok(second) = File::options().read(true).write(true).open(self.root.join(other)) else {
                    return;
                };
                self.note(&[other], "and another".to_owned());
                let (a, b) = (self.place(len), self.place(second.metadata().unwrap().len()));
                let a = if self.dice.one_in(2) { b } else { a };
                let (x, y) = (read(&file, a, PAGE_LEN), read(&second, b, PAGE_LEN));
                file.write_all_at(&y, a).unwrap();
                second.write_all_at(&x, b).unwrap();
            }
            4..=7 => self.replay(path, &file, what),
            8 => {
                let sizes =
                    [0, 1, 511, 4_096, 4_097, len / 2, len.saturating_sub(4_096), len + 4_096, len + 1];
                file.set_len(*self.dice.of(&sizes)).unwrap();
            }
            9 => {
                let at = self.place(len);
                Backing::punch(&file, at, PAGE_LEN as u64 * (1 + self.dice.below(3) as u64)).unwrap();
            }
            10 => file.set_len(HUGE + self.dice.below(9_000) as u64).unwrap(),
            11 => self.replace(path),
            _ => self.attack_attributes(path, other),
        }
    }

    /// Puts back what was there at another time.
    fn replay(&mut self, path: &PathBuf, file: &File, what: usize) {
        let old = self.dice.of(&self.history.moments).root.join(path);
        if !old.symlink_metadata().is_ok_and(|m| m.is_file()) {
            return;
        }
        let old = File::open(&old).unwrap();
        let len = old.metadata().unwrap().len();
        match what {
            4 if len < 1 << 20 => {
                file.set_len(0).unwrap();
                file.write_all_at(&read(&old, 0, len as usize), 0).unwrap();
                file.set_len(len).unwrap();
            }
            5 => {
                file.write_all_at(&read(&old, 0, PAGE_LEN), 0).unwrap();
                if self.dice.one_in(2) {
                    file.set_len(len).unwrap();
                }
            }
            6 => {
                let (from, to) = (*self.dice.of(&SLOT_OFFSETS), *self.dice.of(&SLOT_OFFSETS));
                file.write_all_at(&read(&old, from as u64, SLOT_LEN), to as u64).unwrap();
            }
            _ => {
                for _ in 0..=self.dice.below(4) {
                    let at = self.place(len);
                    file.write_all_at(&read(&old, at, PAGE_LEN), at).unwrap();
                }
            }
        }
    }

    /// Puts something of another type in an entry's place.
    fn replace(&mut self, path: &PathBuf) {
        let full = self.root.join(path);
        self.taint(path.parent().unwrap());
        let (ours, secret) = (self.root.join("kmsfs.volume"), self.outside.join("secret"));
        if fs::remove_file(&full).is_err() {
            remove(&full);
        }
        let link = |to: &Path| std::os::unix::fs::symlink(to, &full).unwrap();
        match self.dice.below(8) {
            0 => fs::create_dir(&full).unwrap(),
            1 => tree::make_fifo(&full),
            2 => link(&secret),
            3 => link(self.outside),
            4 => link(&ours),
            5 => link(Path::new("kmsfs.target.../../outside/secret")),
            6 => link(Path::new(".")),
            _ => File::create(&full).map(drop).unwrap(),
        }
    }

    fn attack_entry(&mut self, path: &PathBuf, other: &PathBuf) {
        let what = self.dice.below(10);
        self.note_entries(&[path, other], format!("attack {what} on an entry"));
        let (full, target) = (self.root.join(path), self.root.join(other));
        let parent = full.parent().unwrap().to_owned();
        match what {
            0 | 1 => {
                let _ = rustix::fs::renameat_with(CWD, &full, CWD, &target, RenameFlags::EXCHANGE);
            }
            2 => drop(fs::rename(&full, &target)),
            3 => drop(fs::rename(&full, target.parent().unwrap().join(full.file_name().unwrap()))),
            4 => {
                if fs::remove_file(&full).is_err() {
                    remove(&full);
                }
            }
            5 => {
                let _ = fs::remove_file(&target);
                let _ = fs::hard_link(&full, &target);
            }
            6 => self.replace(path),
            7 => self.attack_attributes(path, other),
            8 => self.strange_names(&parent),
            _ => {
                let targets = self.root.join("kmsfs.targets");
                remove(&targets);
                let _ = fs::remove_file(&targets);
                match self.dice.below(3) {
                    0 => std::os::unix::fs::symlink(self.outside, &targets).unwrap(),
                    1 => std::os::unix::fs::symlink("..", &targets).unwrap(),
                    _ => File::create(&targets).map(drop).unwrap(),
                }
            }
        }
    }

    fn strange_names(&mut self, parent: &Path) {
        let many = if self.dice.one_in(20) { 600 } else { 3 };
        for _ in 0..many {
            let len = 1 + self.dice.below(250);
            let mut name = self.dice.bytes(len);
            name.iter_mut().for_each(|b| {
                if *b == b'/' {
                    *b = b'x';
                }
            });
            match self.dice.below(5) {
                0 => name.splice(0..0, *b"kmsfs.long.").for_each(drop),
                1 => name.splice(0..0, *b"kmsfs.").for_each(drop),
                2 => name.iter_mut().for_each(|b| *b = b'a' + *b % 26),
                3 => {
                    name = b"kmsfs.long.".to_vec();
                    name.extend((0..43).map(|_| b'A'));
                }
                _ => {}
            }
            name.truncate(255);
            drop(File::create(parent.join(OsStr::from_bytes(&name))));
        }
    }

    /// Exchanges, puts back, damages and removes extended attributes.
    fn attack_attributes(&mut self, path: &PathBuf, other: &PathBuf) {
        let old = self.dice.of(&self.history.moments).root.join(other);
        let from = if self.dice.one_in(2) { old } else { self.root.join(other) };
        let (full, found) = (self.root.join(path), tree::attributes(&from));
        if found.is_empty() || full.symlink_metadata().is_ok_and(|m| m.is_symlink()) {
            return;
        }
        let (name, mut value) = self.dice.of(&found).clone();
        let (rename, _) = self.dice.of(&found).clone();
        let name = if self.dice.one_in(3) { rename } else { name };
        match self.dice.below(5) {
            0 => value.truncate(self.dice.below(value.len() + 1)),
            1 if !value.is_empty() => {
                let at = self.dice.below(value.len());
                value[at] ^= 1;
            }
            2 => value = self.dice.bytes(16),
            _ => {}
        }
        let name = OsStr::from_bytes(&name);
        if self.dice.one_in(6) {
            let _ = rustix::fs::lremovexattr(&full, name);
        } else {
            let _ = rustix::fs::lsetxattr(&full, name, &value, XattrFlags::empty());
        }
    }

    /// Where an interesting page of a file of this length begins.
    fn place(&mut self, len: u64) -> u64 {
        let layout = Layout::default();
        let maps = [(1, 0), (1, 1), (1, 39), (2, 0)];
        match self.dice.below(4) {
            0 if len > 1 << 19 => {
                let (level, index) = *self.dice.of(&maps);
                layout.map_offset(MapPage { level, index })
            }
            1 if len > 1 << 19 => layout.unit_offset(*self.dice.of(&[130, 131, 200, 1_300, 40_000])),
            _ => self.dice.below((len.min(40_960) / 4_096 + 1) as usize) as u64 * 4_096,
        }
    }

    /// A byte of a file of this length: often of a header or of the head of a unit.
    fn offset(&mut self, len: u64) -> u64 {
        match self.dice.below(3) {
            0 => self.dice.below(len.min(4_096) as usize) as u64,
            1 => self.place(len) + self.dice.below(32) as u64,
            _ => self.place(len) + self.dice.below(4_096) as u64,
        }
    }
}

/// So many bytes at a place, zeros where the file has none.
fn read(file: &File, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let _ = Backing::read_at(file, &mut bytes, at).unwrap();
    bytes
}
