//! What may be seen of an attacked volume: what was true once, at its place, as far back as
//! `docs/THREATS.md` says; or a documented error.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use kmsfs::fs::{Attr, FileKind, Fs, FsError, INFO_XATTR, ROOT_INO};

use crate::history::{Header, History, Id, PAYLOAD, me, slots};
use crate::tree;

/// Chunks read of a file that is longer than any that was written.
const SAMPLES: [u64; 12] = [0, 1, 2, 3, 8, 127, 128, 130, 131, 200, 1_300, 40_000];
/// Directories within each other that are looked into.
const DEPTH: usize = 8;

type Verdict<T> = Result<T, String>;

/// The header slots of all backing files, by inode number.
pub(crate) type Slots = HashMap<u64, Vec<Vec<u8>>>;

pub(crate) fn slots_of(root: &Path) -> Slots {
    let mut found = Slots::new();
    for path in tree::walk(root) {
        let path = root.join(path);
        let Ok(metadata) = path.symlink_metadata() else { continue };
        if metadata.is_file() {
            found.insert(metadata.ino(), slots(&File::open(&path).unwrap()));
        }
    }
    found
}

/// How much is known of what lies on disk.
pub(crate) enum Evidence<'a> {
    /// These headers lay there when the volume was opened, and nothing has changed since.
    Exact(&'a Slots),
    /// Something wrote since: anything that was ever at its place may be there.
    Vague,
}

/// What was seen, to be held against a later look.
#[derive(Default)]
pub(crate) struct Seen {
    /// Names by the path from the root, with what is known of the inode.
    pub(crate) entries: BTreeMap<Vec<u8>, (Attr, Option<Id>)>,
    /// Chunks that could be read, by inode number.
    pub(crate) chunks: HashMap<(u64, u64), Vec<u8>>,
    pub(crate) sizes: HashMap<u64, u64>,
    /// What failed.
    pub(crate) errors: Vec<String>,
}

pub(crate) struct Oracle<'a> {
    pub(crate) fs: &'a Fs,
    pub(crate) history: &'a History,
    pub(crate) evidence: Evidence<'a>,
    /// What the attacked mount itself wrote into chunks.
    pub(crate) written: &'a HashMap<(u64, u64), Vec<Vec<u8>>>,
    /// Files made on the attacked volume.
    pub(crate) own: &'a HashSet<Vec<u8>>,
    pub(crate) seen: Seen,
}

impl Oracle<'_> {
    /// Looks at everything through every operation that reads.
    pub(crate) fn look(&mut self) -> Verdict<()> {
        let mut pending = vec![(ROOT_INO, Vec::new(), 0)];
        while let Some((dir, path, depth)) = pending.pop() {
            let Some(names) = self.list(dir, &path)? else { continue };
            for name in names {
                let mut path = path.clone();
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend(name.as_bytes());
                let found = self.fs.lookup(dir, &name);
                let errors = [libc::ENOENT, libc::EIO, libc::EXDEV, libc::ESTALE];
                let Some(attr) = self.allow("lookup", &path, found, &errors)? else { continue };
                let id = self.look_at(&path, &attr)?;
                self.seen.entries.insert(path.clone(), (attr, id));
                if attr.kind == FileKind::Directory && depth < DEPTH {
                    pending.push((attr.ino, path, depth + 1));
                }
            }
        }
        Ok(())
    }

    /// The result, or nothing if it failed with one of these errors.
    fn allow<T>(
        &mut self,
        what: &str,
        path: &[u8],
        result: Result<T, FsError>,
        errors: &[i32],
    ) -> Verdict<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) if errors.contains(&error.errno()) => {
                self.seen.errors.push(format!("{what} of {}: {error}", shown(path)));
                Ok(None)
            }
            Err(error) => Err(format!("{what} of {}: errno {}: {error}", shown(path), error.errno())),
        }
    }

    fn list(&mut self, dir: u64, path: &[u8]) -> Verdict<Option<Vec<OsString>>> {
        let opened = self.fs.opendir(dir);
        let Some(fh) = self.allow("opendir", path, opened, &[libc::EIO, libc::ESTALE])? else {
            return Ok(None);
        };
        let mut names = Vec::new();
        let listed = self.fs.readdir(fh, 0, |entry| {
            if !entry.is_dot() {
                names.push(entry.name.clone());
            }
            ControlFlow::Continue(())
        });
        self.fs.releasedir(fh);
        if self.allow("readdir", path, listed, &[libc::EIO])?.is_none() {
            return Ok(None);
        }
        let id = match self.info(dir, path)? {
            Some(info) => info["directory_id"].as_str().unwrap_or_default().to_owned(),
            None => return Ok(None),
        };
        let known = self.history.names.get(&id);
        for name in &names {
            let own = self.own.contains(name.as_bytes());
            if !own && known.is_none_or(|known| !known.contains(name.as_bytes())) {
                return Err(format!("{} lists {name:?}, which it never had", shown(path)));
            }
        }
        Ok(Some(names))
    }

    fn info(&mut self, ino: u64, path: &[u8]) -> Verdict<Option<serde_json::Value>> {
        let info = self.fs.getxattr(ino, OsStr::new(INFO_XATTR));
        let errors = [libc::EIO, libc::ESTALE, libc::ENODATA];
        let info = self.allow("description", path, info, &errors)?;
        Ok(info.map(|info| serde_json::from_slice(&info).unwrap()))
    }

    fn look_at(&mut self, path: &[u8], attr: &Attr) -> Verdict<Option<Id>> {
        let got = self.fs.getattr(attr.ino);
        self.allow("getattr", path, got, &[libc::ESTALE])?;
        match attr.kind {
            FileKind::Regular => self.look_at_file(path, attr),
            FileKind::Directory => {
                let id =
                    self.info(attr.ino, path)?.map(|info| info["directory_id"].as_str().unwrap().to_owned());
                if let Some(id) = &id {
                    self.look_at_xattrs(path, attr.ino, id)?;
                }
                Ok(id)
            }
            FileKind::Symlink => {
                let target = self.fs.readlink(attr.ino);
                match self.allow("readlink", path, target, &[libc::EIO])? {
                    Some(target) if !self.history.targets.contains(&target) => {
                        Err(format!("{} leads to where no link ever led", shown(path)))
                    }
                    _ => Ok(None),
                }
            }
            _ => Ok(None),
        }
    }

    fn look_at_xattrs(&mut self, path: &[u8], ino: u64, id: &Id) -> Verdict<()> {
        let names = self.fs.listxattr(me(), ino);
        let Some(names) = self.allow("listxattr", path, names, &[libc::EIO])? else { return Ok(()) };
        let listed = names.split(|&b| b == 0).filter(|name| name.starts_with(b"user.")).map(<[u8]>::to_vec);
        let mut names: Vec<Vec<u8>> = listed.filter(|name| !name.starts_with(b"user.kmsfs.")).collect();
        names.extend([b"user.a".to_vec(), b"user.b".to_vec()]);
        for name in names {
            let value = self.fs.getxattr(ino, OsStr::from_bytes(&name));
            let errors = [libc::EIO, libc::ENODATA];
            let Some(value) = self.allow("getxattr", path, value, &errors)? else { continue };
            let known = self.history.xattrs.get(&(id.clone(), name.clone()));
            if known.is_none_or(|known| !known.contains(&value)) {
                return Err(format!("{} of {} never had that value", shown(&name), shown(path)));
            }
        }
        Ok(())
    }

    fn look_at_file(&mut self, path: &[u8], attr: &Attr) -> Verdict<Option<Id>> {
        let opened = self.fs.open(attr.ino, false);
        let Some(fh) = self.allow("open", path, opened, &[libc::EIO, libc::ESTALE])? else { return Ok(None) };
        let result = self.look_into(path, attr.ino, fh);
        self.fs.release(fh);
        result
    }

    fn look_into(&mut self, path: &[u8], ino: u64, fh: u64) -> Verdict<Option<Id>> {
        let Some(info) = self.info(ino, path)? else { return Ok(None) };
        let id = info["file_id"].as_str().unwrap_or_default().to_owned();
        let size = info["size"].as_u64().unwrap_or_default();
        self.seen.sizes.insert(ino, size);
        let known = self.history.files().any(|file| *file == id);
        let header = match &self.evidence {
            _ if !known => None,
            Evidence::Vague => None,
            Evidence::Exact(slots) => Some(self.header_of(path, ino, &id, slots)?),
        };
        if let Some(header) = &header {
            self.check_size(path, header, size)?;
        }
        if known {
            self.look_at_xattrs(path, ino, &id)?;
        }
        let end = size.div_ceil(PAYLOAD);
        let all: Vec<u64> = if end <= 64 { (0..end).collect() } else { SAMPLES.to_vec() };
        for chunk in all.into_iter().filter(|chunk| *chunk < end) {
            let len = (size - chunk * PAYLOAD).min(PAYLOAD) as usize;
            let mut bytes = vec![0xaa; len];
            let read = self.fs.read(fh, chunk * PAYLOAD, &mut bytes);
            let Some(count) = self.allow("read", path, read, &[libc::EIO])? else { continue };
            if count != len {
                return Err(format!("{}: {count} bytes of {len} in chunk {chunk}", shown(path)));
            }
            let mut own = self.written.get(&(ino, chunk)).into_iter().flatten();
            if !own.any(|own| is_cut_from(&bytes, own)) {
                self.check_chunk(path, &id, known, header.as_ref(), chunk, &bytes)?;
            }
            self.seen.chunks.insert((ino, chunk), bytes);
        }
        Ok(Some(id))
    }

    /// The header that a file was opened with: the newest slot that is one of its own.
    fn header_of(&self, path: &[u8], ino: u64, id: &Id, slots: &Slots) -> Verdict<Header> {
        let slots = slots.get(&ino).ok_or_else(|| format!("{}: an unknown inode", shown(path)))?;
        let mut known = slots.iter().filter_map(|slot| self.history.headers.get(slot));
        let own = known.find(|header| header.file == *id).cloned();
        own.ok_or_else(|| format!("{} opened with a header that it never had", shown(path)))
    }

    fn check_size(&self, path: &[u8], header: &Header, size: u64) -> Verdict<()> {
        let unsettled_is_damage = self.fs.volume().began_settled();
        if header.settled && size != header.size {
            return Err(format!("{}: {size} bytes, settled with {}", shown(path), header.size));
        }
        if !header.settled && unsettled_is_damage {
            return Err(format!("{}: an unsettled header where every file was settled", shown(path)));
        }
        if !header.settled && size < header.min_size {
            return Err(format!("{}: {size} bytes, of {} promised", shown(path), header.min_size));
        }
        Ok(())
    }

    fn check_chunk(
        &self,
        path: &[u8],
        id: &Id,
        known: bool,
        header: Option<&Header>,
        chunk: u64,
        bytes: &[u8],
    ) -> Verdict<()> {
        let zeros = bytes.iter().all(|&b| b == 0);
        let versions = self.history.versions.get(&(id.clone(), chunk));
        let mut sessions = versions.into_iter().flatten().filter(|v| v.plaintext.starts_with(bytes));
        let wrong = |what: &str| {
            let sessions: Vec<u32> = versions.into_iter().flatten().map(|v| v.session).collect();
            let header = header.map(|h| (h.settled, h.settlings, h.lowered, h.floors.get(&chunk)));
            Err(format!(
                "{} chunk {chunk}: {what}; its versions are of sessions {sessions:?}; \
                 header (settled, settlings, lowered, floor) {header:?}",
                shown(path)
            ))
        };
        let Some(header) = header else {
            let mut versions = versions.into_iter().flatten();
            let was_there = known && versions.any(|version| is_cut_from(bytes, &version.plaintext));
            return if zeros || was_there { Ok(()) } else { wrong("never was there") };
        };
        let recovering = self.fs.volume().is_recovering();
        let promised = if header.settled { header.size } else { header.min_size };
        let floor = header.floors.get(&chunk).copied().filter(|_| chunk * PAYLOAD < promised);
        // Map pages of a session may be newer than the header that it began with.
        let later_map = chunk >= 128 && (recovering || !header.settled);
        let newest =
            if recovering { u32::MAX } else { header.settlings.saturating_sub(u32::from(header.settled)) };
        let may_be = |session: u32| {
            let oldest = match floor {
                Some(floor) if !(later_map && header.lowered) => floor,
                _ if header.lowered => 0,
                _ => header.settlings,
            };
            (oldest..=newest).contains(&session)
        };
        let zeros_may_be = floor.is_none() || later_map;
        if (zeros && zeros_may_be) || sessions.any(|version| may_be(version.session)) {
            return Ok(());
        }
        wrong(if zeros { "zeros in place of what was written" } else { "too old or too new, or never there" })
    }
}

/// Whether a chunk is what it held once, perhaps cut off and grown again since.
fn is_cut_from(bytes: &[u8], held: &[u8]) -> bool {
    let cut = bytes.iter().rposition(|&b| b != 0).map_or(0, |last| last + 1);
    held.starts_with(&bytes[..cut])
}

impl History {
    fn files(&self) -> impl Iterator<Item = &Id> {
        self.moments.iter().flat_map(|moment| moment.files.keys())
    }
}

pub(crate) fn shown(path: &[u8]) -> String {
    format!("{:.40}", String::from_utf8_lossy(path))
}
