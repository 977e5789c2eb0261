//! Random operations on a volume, each noted in the model when it succeeded.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::sync::Arc;

use kmsfs::fs::{
    Fs, FsResult, KEY_XATTR, NewMode, REENCRYPT_XATTR, ROOT_INO, RenameMode, Requester, SetAttr, WRAP_XATTR,
};
use proptest::prelude::*;

use crate::bench::Bench;
use crate::disk::Node;
use crate::model::{Entry, Model, Names, What};

pub(crate) const PAYLOAD: u64 = 4064;
const NAMES: usize = 4;

/// What an operation that makes no sense is refused with.
pub(crate) const REFUSALS: [i32; 8] = [
    libc::ENOENT,
    libc::EEXIST,
    libc::EISDIR,
    libc::ENOTDIR,
    libc::ENOTEMPTY,
    libc::EINVAL,
    libc::EPERM,
    libc::ENODATA,
];

/// A path of at most two parts.
pub(crate) type Place = (Option<usize>, usize);

#[derive(Debug, Clone)]
pub(crate) enum Op {
    Create(Place),
    Write {
        at: Place,
        offset: u64,
        len: usize,
        seed: u8,
    },
    Append {
        at: Place,
        len: usize,
        seed: u8,
    },
    Truncate {
        at: Place,
        size: u64,
    },
    /// Cuts to nothing and writes anew, as `O_TRUNC` does.
    Rewrite {
        at: Place,
        len: usize,
        seed: u8,
    },
    /// Writes aside, flushes and renames over, as editors do.
    Save {
        at: Place,
        len: usize,
        seed: u8,
    },
    Hold(Place),
    Fsync(Place),
    FsyncDir(Option<usize>),
    Rename {
        from: Place,
        to: Place,
        how: u8,
    },
    Unlink(Place),
    Link {
        from: Place,
        to: Place,
    },
    Mkdir(usize),
    Rmdir(usize),
    Symlink {
        at: Place,
        len: usize,
    },
    SetXattr {
        at: Place,
        which: u8,
        len: usize,
    },
    RemoveXattr {
        at: Place,
        which: u8,
    },
    AssignKey(usize),
    /// Under the other master key, or under that of new files.
    Rewrap {
        at: Place,
        other: bool,
    },
    /// A new data key, and so many steps of what follows.
    Reencrypt {
        at: Place,
        other: bool,
        steps: u8,
    },
    /// The volume's own key under new material.
    RewrapVolume,
    Settle,
    Remount,
}

pub(crate) fn ops() -> impl Strategy<Value = Vec<Op>> {
    let place = || (prop_oneof![2 => Just(None), 1 => (0..NAMES).prop_map(Some)], 0..NAMES);
    let len = || prop_oneof![3 => 1usize..200, 2 => 3000usize..13_000];
    let offset = || prop_oneof![3 => 0..4 * PAYLOAD, 1 => (0u64..4).prop_map(|chunk| chunk * PAYLOAD)];
    let op = prop_oneof![
        12 => place().prop_map(Op::Create),
        6 => (place(), offset(), len(), any::<u8>())
            .prop_map(|(at, offset, len, seed)| Op::Write { at, offset, len, seed }),
        4 => (place(), len(), any::<u8>()).prop_map(|(at, len, seed)| Op::Append { at, len, seed }),
        3 => (place(), offset()).prop_map(|(at, size)| Op::Truncate { at, size }),
        2 => (place(), len(), any::<u8>()).prop_map(|(at, len, seed)| Op::Rewrite { at, len, seed }),
        3 => (place(), len(), any::<u8>()).prop_map(|(at, len, seed)| Op::Save { at, len, seed }),
        1 => place().prop_map(Op::Hold),
        3 => place().prop_map(Op::Fsync),
        1 => prop::option::of(0..NAMES).prop_map(Op::FsyncDir),
        4 => (place(), place(), 0u8..3).prop_map(|(from, to, how)| Op::Rename { from, to, how }),
        2 => place().prop_map(Op::Unlink),
        2 => (place(), place()).prop_map(|(from, to)| Op::Link { from, to }),
        5 => (0..NAMES).prop_map(Op::Mkdir),
        1 => (0..NAMES).prop_map(Op::Rmdir),
        1 => (place(), prop_oneof![1usize..100, 3000usize..4096])
            .prop_map(|(at, len)| Op::Symlink { at, len }),
        2 => (place(), 0u8..2, 0usize..300).prop_map(|(at, which, len)| Op::SetXattr { at, which, len }),
        1 => (place(), 0u8..2).prop_map(|(at, which)| Op::RemoveXattr { at, which }),
        1 => (0..NAMES).prop_map(Op::AssignKey),
        4 => (place(), any::<bool>()).prop_map(|(at, other)| Op::Rewrap { at, other }),
        3 => (place(), any::<bool>(), 0u8..4)
            .prop_map(|(at, other, steps)| Op::Reencrypt { at, other, steps }),
        1 => Just(Op::RewrapVolume),
        3 => Just(Op::Settle),
        1 => Just(Op::Remount),
    ];
    proptest::collection::vec(op, 1..40)
}

/// A name, one of them too long to be stored directly.
fn name(index: usize) -> String {
    match index {
        0 => "n".repeat(200),
        index => format!("n{index}"),
    }
}

fn path((dir, last): Place) -> String {
    dir.map_or_else(|| name(last), |dir| format!("{}/{}", name(dir), name(last)))
}

fn bytes(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(7).wrapping_add(seed) | 1).collect()
}

/// A volume under a workload.
pub(crate) struct Run<'a> {
    bench: &'a Bench,
    watch: Arc<dyn Watch>,
    /// There except while the volume is opened again.
    fs: Option<Arc<Fs>>,
    pub(crate) model: Model,
    /// Files of which it is not known what a failed operation did to them.
    pub(crate) uncertain: BTreeSet<usize>,
}

/// What watches the disk under a workload.
pub(crate) trait Watch {
    /// How much was done to the disk so far.
    fn position(&self) -> usize;

    /// The inode behind a number.
    fn node_of(&self, ino: u64) -> Node;
}

impl<'a> Run<'a> {
    /// Begins with a new volume, mounted.
    pub(crate) fn new(bench: &'a Bench, watch: Arc<dyn Watch>) -> Self {
        let fs = Some(bench.mount());
        Self { bench, fs, model: Model::new(watch.position()), watch, uncertain: BTreeSet::new() }
    }

    pub(crate) fn fs(&self) -> &Fs {
        self.fs.as_deref().unwrap()
    }

    /// Carries an operation out. One that fails has done nothing that the user could tell.
    pub(crate) fn carry_out(&mut self, op: &Op) {
        let done = self.try_out(op);
        if let Err(error) = done {
            assert!(REFUSALS.contains(&error.errno()), "{op:?}: {error}");
        }
    }

    /// Unmounts and mounts again. Where unmounting fails, it is as after a crash.
    pub(crate) fn remount(&mut self) -> FsResult<()> {
        let ended = self.fs().shut_down();
        self.fs = None;
        // The disk may fail once.
        let fs = self.bench.try_mount().unwrap_or_else(|_| self.bench.mount());
        fs.recover(&|| false);
        self.fs = Some(fs);
        ended
    }

    /// Carries an operation out, on a disk that may fail.
    pub(crate) fn try_out(&mut self, op: &Op) -> FsResult<()> {
        match op {
            Op::Create(at) => self.create(*at).map(drop),
            Op::Write { at, offset, len, seed } => self.write(*at, Some(*offset), &bytes(*len, *seed)),
            Op::Append { at, len, seed } => self.write(*at, None, &bytes(*len, *seed)),
            Op::Truncate { at, size } => self.truncate(*at, *size),
            Op::Rewrite { at, len, seed } => {
                self.truncate(*at, 0).and_then(|()| self.write(*at, Some(0), &bytes(*len, *seed)))
            }
            Op::Save { at, len, seed } => self.save(*at, &bytes(*len, *seed)),
            Op::Hold(at) => self.open(*at).map(drop),
            Op::Fsync(at) => self.open(*at).and_then(|fh| {
                let synced = self.fs().fsync(fh, true);
                self.fs().release(fh);
                synced
            }),
            Op::FsyncDir(dir) => self.fsync_dir(*dir),
            Op::Rename { from, to, how } => self.rename(*from, *to, *how),
            Op::Unlink(at) => self.unlink(*at),
            Op::Link { from, to } => self.link(*from, *to),
            Op::Mkdir(dir) => self.mkdir(*dir),
            Op::Rmdir(dir) => self.rmdir(*dir),
            Op::Symlink { at, len } => self.symlink(*at, &"t".repeat(*len)),
            Op::SetXattr { at, which, len } => self.set_xattr(*at, *which, Some(&bytes(*len, *which))),
            Op::RemoveXattr { at, which } => self.set_xattr(*at, *which, None),
            Op::AssignKey(dir) => self.ino(&name(*dir)).and_then(|ino| {
                let key = self.bench.key.as_bytes();
                self.fs().setxattr(me(), ino, OsStr::new(KEY_XATTR), key, 0)
            }),
            Op::Rewrap { at, other } => self.rewrap(*at, *other),
            Op::Reencrypt { at, other, steps } => self.reencrypt(*at, *other, *steps),
            Op::RewrapVolume => {
                self.bench.rotate(&self.fs().volume().own_key());
                self.fs().setxattr(me(), ROOT_INO, OsStr::new(WRAP_XATTR), b"", 0)
            }
            Op::Settle => {
                self.fs().settle_closed();
                Ok(())
            }
            Op::Remount => self.remount(),
        }
    }

    fn rewrap(&self, at: Place, other: bool) -> FsResult<()> {
        let ino = self.ino(&path(at))?;
        let name = OsStr::new(WRAP_XATTR);
        let key = if other { &self.bench.other } else { &self.bench.key };
        self.fs().setxattr(me(), ino, name, key.as_bytes(), 0)?;
        // The disk may fail under the look at it too.
        if let Ok(wrapping) = self.fs().getxattr(ino, name) {
            assert!(String::from_utf8(wrapping).unwrap().contains(key), "{at:?} is not under {key}");
        }
        Ok(())
    }

    fn reencrypt(&self, at: Place, other: bool, steps: u8) -> FsResult<()> {
        let ino = self.ino(&path(at))?;
        let set =
            |value: &str| self.fs().setxattr(me(), ino, OsStr::new(REENCRYPT_XATTR), value.as_bytes(), 0);
        set(if other { &self.bench.other } else { &self.bench.key })?;
        (0..steps).try_for_each(|_| set(""))
    }

    /// The names after the operation under way, to be changed.
    fn change(&mut self, change: impl FnOnce(&mut Names)) {
        let mut names = self.model.names().clone();
        change(&mut names);
        self.model.set_names(self.watch.position(), names);
    }

    fn ino(&self, path: &str) -> FsResult<u64> {
        let mut parts = path.split('/').filter(|part| !part.is_empty());
        parts.try_fold(ROOT_INO, |dir, part| Ok(self.fs().lookup(dir, OsStr::new(part))?.ino))
    }

    fn parent(&self, (dir, _): Place) -> FsResult<u64> {
        self.ino(&dir.map(name).unwrap_or_default())
    }

    fn file(&self, at: Place) -> FsResult<usize> {
        match self.model.names().get(&path(at)).map(|entry| &entry.what) {
            Some(What::File(file)) => Ok(*file),
            _ => Err(kmsfs::fs::FsError::new(libc::ENOENT)),
        }
    }

    fn open(&self, at: Place) -> FsResult<u64> {
        self.fs().open(self.ino(&path(at))?, true)
    }

    fn create(&mut self, at: Place) -> FsResult<()> {
        let (attr, fh) = self.fs().create(me(), self.parent(at)?, OsStr::new(&name(at.1)), mode(0o600))?;
        self.fs().release(fh);
        let file = self.model.add_file(self.watch.position(), self.watch.node_of(attr.ino));
        self.change(|names| {
            names.insert(path(at), Entry { what: What::File(file), xattrs: BTreeMap::new() });
        });
        Ok(())
    }

    fn write(&mut self, at: Place, offset: Option<u64>, data: &[u8]) -> FsResult<()> {
        let file = self.file(at)?;
        let mut contents = self.model.contents(file).to_vec();
        let offset = offset.unwrap_or(contents.len() as u64);
        let fh = self.open(at)?;
        let written = self.fs().write(fh, offset, data, false, None);
        if written.is_err() {
            self.uncertain.insert(file);
        }
        contents.resize(contents.len().max(offset as usize + data.len()), 0);
        contents[offset as usize..offset as usize + data.len()].copy_from_slice(data);
        // The release may settle nothing: that is the settler's.
        self.model.set_contents(self.watch.position(), file, contents);
        self.fs().release(fh);
        written
    }

    fn truncate(&mut self, at: Place, size: u64) -> FsResult<()> {
        let file = self.file(at)?;
        let ino = self.ino(&path(at))?;
        let was_certain = self.uncertain.insert(file);
        self.fs().setattr(me(), ino, None, &SetAttr { size: Some(size), ..SetAttr::default() })?;
        if was_certain || size == 0 {
            self.uncertain.remove(&file);
        }
        let mut contents = self.model.contents(file).to_vec();
        contents.resize(size as usize, 0);
        self.model.set_contents(self.watch.position(), file, contents);
        Ok(())
    }

    fn save(&mut self, at: Place, data: &[u8]) -> FsResult<()> {
        // A place of its own beside it.
        let aside = (at.0, NAMES);
        self.create(aside)?;
        self.write(aside, Some(0), data)?;
        let fh = self.open(aside)?;
        let synced = self.fs().fsync(fh, false);
        self.fs().release(fh);
        synced?;
        self.rename(aside, at, 0).inspect_err(|_| drop(self.unlink(aside)))
    }

    fn fsync_dir(&self, dir: Option<usize>) -> FsResult<()> {
        let fh = self.fs().opendir(self.ino(&dir.map(name).unwrap_or_default())?)?;
        let synced = self.fs().fsyncdir(fh);
        self.fs().releasedir(fh);
        synced
    }

    fn rename(&mut self, from: Place, to: Place, how: u8) -> FsResult<()> {
        let how = [RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange][how as usize];
        let (source, target) = (path(from), path(to));
        let entry = |path: &String| self.model.names().get(path).map(|entry| entry.what.clone());
        let same = source == target || (entry(&source).is_some() && entry(&source) == entry(&target));
        // Whether a replaced directory is empty and whether one goes into itself, the kernel looks after.
        if source != target
            && (target.starts_with(&format!("{source}/")) || source.starts_with(&format!("{target}/")))
        {
            return Err(kmsfs::fs::FsError::new(libc::EINVAL));
        }
        let is_dir = |path: &String| matches!(entry(path), Some(What::Directory));
        let no_file = matches!(how, RenameMode::Replace)
            && entry(&target).is_some()
            && is_dir(&source) != is_dir(&target);
        if no_file || (same && matches!(entry(&source), Some(What::File(_) | What::Symlink(_)))) {
            return Err(kmsfs::fs::FsError::new(libc::EINVAL));
        }
        let (old, new) = (self.parent(from)?, self.parent(to)?);
        self.fs().rename(old, OsStr::new(&name(from.1)), new, OsStr::new(&name(to.1)), how)?;
        if source == target {
            return Ok(());
        }
        self.change(|names| {
            let moved = take(names, &source);
            let replaced = take(names, &target);
            put(names, &target, moved);
            if how == RenameMode::Exchange {
                put(names, &source, replaced);
            }
        });
        Ok(())
    }

    fn unlink(&mut self, at: Place) -> FsResult<()> {
        if matches!(self.model.names().get(&path(at)), Some(Entry { what: What::Directory, .. })) {
            return Err(kmsfs::fs::FsError::new(libc::EISDIR));
        }
        self.fs().unlink(self.parent(at)?, OsStr::new(&name(at.1)))?;
        self.change(|names| {
            names.remove(&path(at));
        });
        Ok(())
    }

    fn link(&mut self, from: Place, to: Place) -> FsResult<()> {
        let entry = self.model.names().get(&path(from)).cloned();
        let Some(entry) = entry.filter(|entry| entry.what != What::Directory) else {
            return Err(kmsfs::fs::FsError::new(libc::EPERM));
        };
        self.fs().link(self.ino(&path(from))?, self.parent(to)?, OsStr::new(&name(to.1)))?;
        self.change(|names| {
            names.insert(path(to), entry);
        });
        Ok(())
    }

    fn mkdir(&mut self, dir: usize) -> FsResult<()> {
        self.fs().mkdir(me(), ROOT_INO, OsStr::new(&name(dir)), mode(0o700))?;
        self.change(|names| {
            names.insert(name(dir), Entry { what: What::Directory, xattrs: BTreeMap::new() });
        });
        Ok(())
    }

    fn rmdir(&mut self, dir: usize) -> FsResult<()> {
        self.fs().rmdir(ROOT_INO, OsStr::new(&name(dir)))?;
        self.change(|names| {
            names.remove(&name(dir));
        });
        Ok(())
    }

    fn symlink(&mut self, at: Place, target: &str) -> FsResult<()> {
        self.fs().symlink(me(), self.parent(at)?, OsStr::new(&name(at.1)), OsStr::new(target))?;
        let what = What::Symlink(target.as_bytes().to_vec());
        self.change(|names| {
            names.insert(path(at), Entry { what, xattrs: BTreeMap::new() });
        });
        Ok(())
    }

    fn set_xattr(&mut self, at: Place, which: u8, value: Option<&[u8]>) -> FsResult<()> {
        let xattr = format!("user.x{which}");
        let ino = self.ino(&path(at))?;
        let target = self.model.names()[&path(at)].what.clone();
        if matches!(target, What::Symlink(_)) {
            return Err(kmsfs::fs::FsError::new(libc::EPERM));
        }
        match value {
            Some(value) => self.fs().setxattr(me(), ino, OsStr::new(&xattr), value, 0)?,
            None => self.fs().removexattr(me(), ino, OsStr::new(&xattr))?,
        }
        self.change(|names| {
            // All names of a file show it.
            let own = path(at);
            let is_same = |(place, entry): &(&String, &mut Entry)| match target {
                What::File(_) => entry.what == target,
                _ => **place == own,
            };
            for (_, entry) in names.iter_mut().filter(is_same) {
                match value {
                    Some(value) => entry.xattrs.insert(xattr.clone().into_bytes(), value.to_vec()),
                    None => entry.xattrs.remove(xattr.as_bytes()),
                };
            }
        });
        Ok(())
    }
}

/// Takes an entry and everything below it out, each by its path behind that of the entry.
fn take(names: &mut Names, path: &str) -> Vec<(String, Entry)> {
    let below = format!("{path}/");
    let paths = names.keys().filter(|p| *p == path || p.starts_with(&below)).cloned();
    let paths: Vec<String> = paths.collect();
    paths.into_iter().map(|p| (p[path.len()..].to_owned(), names.remove(&p).unwrap())).collect()
}

fn put(names: &mut Names, path: &str, entries: Vec<(String, Entry)>) {
    names.extend(entries.into_iter().map(|(behind, entry)| (format!("{path}{behind}"), entry)));
}

fn mode(mode: u32) -> NewMode {
    NewMode { mode, umask: 0 }
}

pub(crate) fn me() -> Requester {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    Requester { uid: uid.as_raw(), gid: gid.as_raw(), pid: std::process::id() }
}
