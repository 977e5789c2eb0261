//! A volume that is not mounted: this process has it alone, as a mount would, without one.

use std::ffi::OsStr;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Held, Place, Tree, Visit, present};
use crate::format::Id;
use crate::fs::{
    Census, FileKind, Fs, FsError, KEY_XATTR, Progress, REENCRYPT_XATTR, ROOT_INO, Requester, WRAP_XATTR,
    Wrapping,
};
use crate::secret::Key;

/// An open volume.
pub struct Unmounted {
    fs: Fs,
    by: Requester,
    volume: PathBuf,
}

impl Unmounted {
    /// The volume in `path`, which this process has open, and its root.
    ///
    /// # Errors
    /// Those of the key service, which is told; the volume is let go of then.
    pub fn new(fs: Fs, path: &Path) -> io::Result<(Self, Place)> {
        if let Err(error) = fs.announce(path) {
            let _ = fs.shut_down();
            return Err(into_io(error));
        }
        let root = Place { path: path.to_owned(), ino: ROOT_INO, kind: FileKind::Directory };
        Ok((Self { fs, by: Requester::own(), volume: path.to_owned() }, root))
    }

    /// Counts anew what wraps the files; answers whether that could be done.
    ///
    /// # Errors
    /// As [`Fs::recount`].
    pub fn recount(&self, stop: &AtomicBool) -> io::Result<bool> {
        self.fs.recount(&|| stop.load(Ordering::Relaxed)).map_err(into_io)
    }

    /// What wraps the files.
    pub fn census(&self) -> Census {
        self.fs.census()
    }

    /// Makes everything durable and lets go of the volume.
    ///
    /// # Errors
    /// When something may not be durable.
    pub fn close(self) -> io::Result<()> {
        self.fs.shut_down().map_err(into_io)?;
        self.fs.take_leave(&self.volume);
        Ok(())
    }

    /// The id of a file.
    ///
    /// # Errors
    /// When its header cannot be read.
    pub fn object_id(&self, file: &Place) -> io::Result<Id> {
        self.fs.object_id(file.ino).map_err(into_io)
    }

    /// A file's id and data key; on the root the volume's.
    ///
    /// # Errors
    /// When its header cannot be read, and those of its master key.
    pub fn data_key(&self, place: &Place) -> io::Result<(Id, Key)> {
        self.fs.data_key(place.ino).map_err(into_io)
    }

    /// The ARN of the master key that a directory itself is assigned; on the root the volume's default.
    ///
    /// # Errors
    /// When the directory's record cannot be read.
    pub fn assigned(&self, directory: &Place) -> io::Result<Option<String>> {
        let value = present(self.fs.getxattr(directory.ino, OsStr::new(KEY_XATTR)).map_err(into_io))?;
        Ok(value.map(|arn| String::from_utf8_lossy(&arn).into_owned()))
    }

    fn set(&self, place: &Place, name: &str, value: &str) -> io::Result<()> {
        self.fs.setxattr(self.by, place.ino, OsStr::new(name), value.as_bytes(), 0).map_err(into_io)
    }
}

impl Tree for Unmounted {
    fn each(&self, directory: &Place, visit: &mut Visit<'_>) -> io::Result<ControlFlow<()>> {
        let fh = self.fs.opendir(directory.ino).map_err(into_io)?;
        let mut flow = ControlFlow::Continue(());
        let mut failed = None;
        let listed = self.fs.readdir(fh, 0, |entry| {
            if entry.is_dot() {
                return ControlFlow::Continue(());
            }
            match self.fs.entry_attr(fh, entry) {
                Ok(attr) => {
                    let path = directory.path.join(&entry.name);
                    flow = visit(Place { path, ino: attr.ino, kind: attr.kind });
                    self.fs.forget(attr.ino, 1);
                }
                Err(error) => failed = failed.take().or(Some(error)),
            }
            flow
        });
        self.fs.releasedir(fh);
        match listed.err().or(failed) {
            Some(error) => Err(into_io(error)),
            None => Ok(flow),
        }
    }

    fn wrapping(&self, place: &Place) -> io::Result<Wrapping> {
        let value = self.fs.getxattr(place.ino, OsStr::new(WRAP_XATTR)).map_err(into_io)?;
        Ok(serde_json::from_slice(&value)?)
    }

    fn wrap(&self, file: &Place, key: &str) -> io::Result<()> {
        self.set(file, WRAP_XATTR, key)
    }

    fn assign(&self, directory: &Place, key: &str) -> io::Result<()> {
        self.set(directory, KEY_XATTR, key)
    }

    fn reencryption(&self, file: &Place) -> io::Result<Option<Progress>> {
        match present(self.fs.getxattr(file.ino, OsStr::new(REENCRYPT_XATTR)).map_err(into_io))? {
            Some(value) => Ok(Some(serde_json::from_slice(&value)?)),
            None => Ok(None),
        }
    }

    fn hold<'t>(&'t self, file: &Place) -> io::Result<Box<dyn Held + 't>> {
        Ok(Box::new(Known { tree: self, file: file.clone() }))
    }

    fn flush(&self, _: &Place) -> io::Result<()> {
        let root = Place { path: Path::new("/").to_owned(), ino: ROOT_INO, kind: FileKind::Directory };
        self.set(&root, WRAP_XATTR, "")
    }
}

/// A file of the volume. Nobody else is there to rename it.
struct Known<'t> {
    tree: &'t Unmounted,
    file: Place,
}

impl Held for Known<'_> {
    fn begin(&self, key: &str) -> io::Result<()> {
        self.tree.set(&self.file, REENCRYPT_XATTR, key)
    }

    fn step(&self) -> io::Result<Option<Progress>> {
        match present(self.tree.set(&self.file, REENCRYPT_XATTR, ""))? {
            Some(()) => self.tree.reencryption(&self.file),
            None => Ok(None),
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is what a Result maps its error with")]
fn into_io(error: FsError) -> io::Error {
    io::Error::from_raw_os_error(error.errno())
}
