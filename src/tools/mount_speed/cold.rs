//! Making the kernel forget files, so that reading them asks the mount, and finding out whether it did.
//!
//! A file in a mount is cached twice: its plaintext by the kernel for the mount, and its ciphertext by
//! the kernel for the backing filesystem. `POSIX_FADV_DONTNEED` drops what is clean of one file and
//! needs no rights beyond opening it. The ciphertext of a file is found by its inode number, which
//! the mount passes on; whoever may not read the volume's directory measures with it in memory.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirEntryExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::Advice;
use serde::Serialize;

use crate::sys::residency::residency;

/// How long to wait for pages that are being written.
const PATIENCE: Duration = Duration::from_millis(20);
/// Where root has the kernel empty all of its caches.
pub const DROP_CACHES: &str = "/proc/sys/vm/drop_caches";

/// What is left of something in the kernel's cache. The order is from the best case to the worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Left {
    /// Nothing, which was checked.
    Nothing,
    /// A part, or all of it: of a tmpfs nothing can be dropped.
    Some,
    /// It could not be looked at.
    Unknown,
}

/// Where a mount keeps the ciphertext of one directory.
#[derive(Debug)]
pub(super) struct Ciphertext(PathBuf);

impl Ciphertext {
    /// The backing directory of `dir`, which lies below `mountpoint`, where `volume` is mounted.
    /// `None` if it is not to be found.
    pub(super) fn of(dir: &Path, mountpoint: &Path, volume: &Path) -> Option<Self> {
        let mut shown = mountpoint.to_owned();
        let mut stored = volume.to_owned();
        for component in dir.strip_prefix(mountpoint).ok()? {
            shown.push(component);
            let ino = shown.symlink_metadata().ok()?.ino();
            let mut entries = fs::read_dir(&stored).ok()?.filter_map(Result::ok);
            stored = entries.find(|entry| entry.ino() == ino)?.path();
        }
        Some(Self(stored))
    }

    /// Drops the ciphertext of every file of the directory.
    pub(super) fn forget(&self) -> Left {
        let Ok(entries) = fs::read_dir(&self.0) else { return Left::Unknown };
        let files = entries.filter_map(Result::ok).filter(|e| e.file_type().is_ok_and(|kind| kind.is_file()));
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let open = |path: PathBuf| OpenOptions::new().read(true).custom_flags(flags).open(path);
        files
            .map(|file| open(file.path()).map_or(Left::Unknown, |file| forget(&file)))
            .max()
            .unwrap_or(Left::Nothing)
    }
}

/// Drops what the kernel has of a file. Dirty pages are written for that.
pub(super) fn forget(file: &File) -> Left {
    let mut before = u64::MAX;
    loop {
        if rustix::fs::fadvise(file, 0, None, Advice::DontNeed).is_err() {
            return Left::Unknown;
        }
        match residency(file).map(|pages| pages.resident) {
            Ok(0) => return Left::Nothing,
            // Those that are being written go the next time.
            Ok(left) if left < before => before = left,
            Ok(_) => return Left::Some,
            Err(_) => return Left::Unknown,
        }
        thread::sleep(PATIENCE);
    }
}

/// Has the kernel forget everything, names and attributes included. Only root may.
pub(super) fn drop_all() -> io::Result<()> {
    rustix::fs::sync();
    fs::write(DROP_CACHES, "3")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_forgotten_on_a_disk() {
        // Not in /tmp, which may be a tmpfs.
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = dir.path().join("file");
        fs::write(&path, vec![1; 100_000]).unwrap();
        let file = File::open(&path).unwrap();
        file.sync_all().unwrap();
        assert_eq!(forget(&file), Left::Nothing);
        assert_eq!(residency(&file).unwrap().resident, 0);
    }

    #[test]
    fn the_backing_directory_is_found_by_inode_numbers() {
        // A bind mount would have the same numbers; so do hard links, but directories have none. The
        // directory itself stands for its own mount.
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let below = dir.path().join("a/b");
        fs::create_dir_all(&below).unwrap();
        fs::create_dir(dir.path().join("c")).unwrap();
        let found = Ciphertext::of(&below, dir.path(), dir.path()).unwrap();
        assert_eq!(found.0, below);
        assert!(Ciphertext::of(&below, dir.path(), &below).is_none(), "another directory was taken for it");
        assert!(Ciphertext::of(dir.path(), &below, dir.path()).is_none());
    }

    #[test]
    fn the_worst_of_a_directory_counts() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let here = Ciphertext(dir.path().to_owned());
        assert_eq!(here.forget(), Left::Nothing);
        let path = dir.path().join("file");
        fs::write(&path, vec![1; 100_000]).unwrap();
        File::open(&path).unwrap().sync_all().unwrap();
        assert_eq!(here.forget(), Left::Nothing);
        assert_eq!(Ciphertext(dir.path().join("none")).forget(), Left::Unknown);
    }
}
