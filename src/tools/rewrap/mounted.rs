//! A mounted volume, reached through its mount: its process does the work, so that files may be in
//! use, and the kernel sees to who may reach them.

use std::fs::{self, File};
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::{DirEntryExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::XattrFlags;

use super::{Held, Place, Tree, Visit, present};
use crate::fs::{FileKind, KEY_XATTR, Progress, REENCRYPT_XATTR, WRAP_XATTR, Wrapping};

/// Most bytes of a wrapping's description.
const MAX_LEN: usize = 4096;

/// The mount that a path is in.
#[derive(Debug)]
pub struct Mounted {
    device: u64,
}

impl Mounted {
    /// The mount that `path` is in, and `path` as a place.
    ///
    /// # Errors
    /// As stat(2).
    pub fn at(path: &Path) -> io::Result<(Self, Place)> {
        let meta = path.symlink_metadata()?;
        let place = Place { path: path.to_owned(), ino: meta.ino(), kind: kind_of(meta.file_type()) };
        Ok((Self { device: meta.dev() }, place))
    }
}

impl Tree for Mounted {
    fn each(&self, directory: &Place, visit: &mut Visit<'_>) -> io::Result<ControlFlow<()>> {
        for entry in fs::read_dir(&directory.path)? {
            let entry = entry?;
            let place = Place { path: entry.path(), ino: entry.ino(), kind: kind_of(entry.file_type()?) };
            let elsewhere = place.kind == FileKind::Directory
                && place.path.symlink_metadata().map_or(true, |meta| meta.dev() != self.device);
            if !elsewhere && visit(place).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn wrapping(&self, place: &Place) -> io::Result<Wrapping> {
        let mut value = [0; MAX_LEN];
        let len = rustix::fs::lgetxattr(&place.path, WRAP_XATTR, &mut value)?;
        Ok(serde_json::from_slice(&value[..len])?)
    }

    fn wrap(&self, file: &Place, key: &str) -> io::Result<()> {
        set(file, WRAP_XATTR, key)
    }

    fn assign(&self, directory: &Place, key: &str) -> io::Result<()> {
        set(directory, KEY_XATTR, key)
    }

    fn reencryption(&self, file: &Place) -> io::Result<Option<Progress>> {
        let mut value = [0; MAX_LEN];
        let read = rustix::fs::lgetxattr(&file.path, REENCRYPT_XATTR, &mut value);
        parsed(read.map(|len| &value[..len]))
    }

    fn hold<'t>(&'t self, file: &Place) -> io::Result<Box<dyn Held + 't>> {
        let opened = File::options().read(true).custom_flags(libc::O_NOFOLLOW).open(&file.path)?;
        // Another one may have taken its name.
        if opened.metadata()?.ino() != file.ino {
            return Err(io::Error::from_raw_os_error(libc::ESTALE));
        }
        Ok(Box::new(Open(opened)))
    }

    fn flush(&self, top: &Place) -> io::Result<()> {
        match top.kind {
            FileKind::Directory => set(top, WRAP_XATTR, ""),
            _ => File::open(&top.path)?.sync_all(),
        }
    }
}

/// A file in a mount, open.
struct Open(File);

impl Open {
    fn set(&self, key: &str) -> io::Result<()> {
        Ok(rustix::fs::fsetxattr(&self.0, REENCRYPT_XATTR, key.as_bytes(), XattrFlags::empty())?)
    }
}

impl Held for Open {
    fn begin(&self, key: &str) -> io::Result<()> {
        self.set(key)
    }

    fn step(&self) -> io::Result<Option<Progress>> {
        if present(self.set(""))?.is_none() {
            return Ok(None);
        }
        let mut value = [0; MAX_LEN];
        let read = rustix::fs::fgetxattr(&self.0, REENCRYPT_XATTR, &mut value);
        parsed(read.map(|len| &value[..len]))
    }
}

fn parsed(read: rustix::io::Result<&[u8]>) -> io::Result<Option<Progress>> {
    match present(read.map_err(io::Error::from))? {
        Some(json) => Ok(Some(serde_json::from_slice(json)?)),
        None => Ok(None),
    }
}

fn set(place: &Place, name: &str, value: &str) -> io::Result<()> {
    Ok(rustix::fs::lsetxattr(&place.path, name, value.as_bytes(), XattrFlags::empty())?)
}

fn kind_of(kind: fs::FileType) -> FileKind {
    if kind.is_dir() {
        FileKind::Directory
    } else if kind.is_file() {
        FileKind::Regular
    } else {
        // What else there is carries no key.
        FileKind::Symlink
    }
}
