//! A directory for files that are only there to be measured. Everything is reached through its
//! descriptor, so that nothing outside it is touched whatever becomes of its path.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, mkdirat, openat, statat, unlinkat};

/// What names of such directories begin with.
pub const PREFIX: &str = ".kmsfs-bench-";

/// An empty directory at first. It goes with all that is in it when it is dropped.
#[derive(Debug)]
pub(super) struct Scratch {
    parent: OwnedFd,
    name: String,
    dir: OwnedFd,
    path: PathBuf,
}

impl Scratch {
    /// Makes one that only its owner can look into.
    pub(super) fn new(parent: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let name = format!("{PREFIX}{:016x}", u64::from_le_bytes(random));
        let path = parent.join(&name);
        let parent = openat(CWD, parent, flags, Mode::empty())?;
        mkdirat(&parent, &name, Mode::RWXU)?;
        match openat(&parent, &name, flags | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(dir) => Ok(Self { parent, name, dir, path }),
            Err(error) => {
                let _ = unlinkat(&parent, &name, AtFlags::REMOVEDIR);
                Err(error.into())
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a file that is not there.
    pub(super) fn create(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        Ok(openat(&self.dir, name, flags, Mode::RUSR | Mode::WUSR)?.into())
    }

    pub(super) fn open(&self, name: &str) -> io::Result<File> {
        self.open_with(name, OFlags::RDONLY)
    }

    pub(super) fn open_for_writing(&self, name: &str) -> io::Result<File> {
        self.open_with(name, OFlags::RDWR)
    }

    fn open_with(&self, name: &str, flags: OFlags) -> io::Result<File> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(openat(&self.dir, name, flags, Mode::empty())?.into())
    }

    pub(super) fn size_of(&self, name: &str) -> io::Result<u64> {
        Ok(statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW)?.st_size.cast_unsigned())
    }

    pub(super) fn unlink(&self, name: &str) -> io::Result<()> {
        Ok(unlinkat(&self.dir, name, AtFlags::empty())?)
    }

    /// As [`Scratch::unlink`], where it may not be there.
    pub(super) fn unlink_if_any(&self, name: &str) -> io::Result<()> {
        match self.unlink(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }

    fn remove(&self) -> io::Result<()> {
        // Collected first: what a directory shows while it is changed, filesystems decide differently.
        let names: Vec<_> = Dir::read_from(&self.dir)?
            .map(|entry| entry.map(|entry| entry.file_name().to_owned()))
            .collect::<Result<_, _>>()?;
        for name in names.iter().filter(|name| !matches!(name.to_bytes(), b"." | b"..")) {
            unlinkat(&self.dir, name, AtFlags::empty())?;
        }
        Ok(unlinkat(&self.parent, &self.name, AtFlags::REMOVEDIR)?)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            tracing::warn!("{} could not be removed: {error}; remove it by hand", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_with_its_files_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("own"), "kept").unwrap();
        let scratch = Scratch::new(dir.path()).unwrap();
        for name in ["a", "b"] {
            scratch.create(name).unwrap();
        }
        assert!(scratch.create("a").is_err(), "a file was taken over");
        assert_eq!(scratch.path().read_dir().unwrap().count(), 2);
        scratch.unlink("a").unwrap();
        scratch.unlink_if_any("a").unwrap();
        drop(scratch);
        let left: Vec<_> = dir.path().read_dir().unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["own"]);
    }

    #[test]
    fn it_is_found_where_it_was_moved_to_and_its_place_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(dir.path()).unwrap();
        scratch.create("mine").unwrap();
        let moved = dir.path().join("moved");
        std::fs::rename(scratch.path(), &moved).unwrap();
        std::fs::create_dir(scratch.path()).unwrap();
        std::fs::write(scratch.path().join("other"), "kept").unwrap();
        let place = scratch.path().to_owned();
        drop(scratch);
        assert_eq!(moved.read_dir().unwrap().count(), 0);
        assert!(place.join("other").exists());
    }
}
