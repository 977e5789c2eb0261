//! Files that are let go of. Their bytes are overwritten, durably, before their names go: a file
//! that was only removed lies on the disk as it was until something else happens to be written there.
//!
//! *A name other than the store's own is never that of the live file.* The new file and the old one
//! exchange their names in one step, so whatever a crash leaves under another name may be erased by
//! whoever opens the store next. Where the filesystem cannot exchange names, the old file loses its
//! only one, and a crash in the moment before it is overwritten leaves its bytes in free blocks.

use std::io::{self, ErrorKind};
use std::ops::Range;
use std::path::Path;

use redb::StorageBackend;

use super::disk::Disk;
use super::file::FILE;

/// Bytes that are looked at together.
const BLOCK: u64 = 64 * 1024;
/// What a filesystem makes a hole of at least.
const PAGE: usize = 4096;
const ZEROS: [u8; PAGE] = [0; PAGE];

/// The file that has been replaced, still as it was.
#[must_use]
pub(super) enum LetGo {
    /// It has the name that the new one had.
    Named,
    /// It has none.
    Nameless(Box<dyn StorageBackend>),
    /// There was none.
    Nothing,
}

/// Gives the finished file `aside` the store's name, durably. The store's file is not open.
pub(super) fn put_in_place(disk: &dyn Disk, dir: &Path, aside: &str) -> io::Result<LetGo> {
    let (aside, live) = (dir.join(aside), dir.join(FILE));
    let old = match disk.exchange(&aside, &live) {
        Ok(()) => LetGo::Named,
        // Somebody has removed the live one.
        Err(error) if matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::NotFound) => {
            let old = disk.open(&live).map_or(LetGo::Nothing, LetGo::Nameless);
            disk.replace(&aside, &live)?;
            old
        }
        Err(error) => return Err(error),
    };
    disk.sync_directory(dir)?;
    Ok(old)
}

impl LetGo {
    /// Overwrites the file and lets it go. It has the name `aside` if it has one.
    pub(super) fn erase(self, disk: &dyn Disk, dir: &Path, aside: &str) -> io::Result<()> {
        match self {
            Self::Named => erase(disk, dir, aside),
            Self::Nameless(old) => overwrite_all(&*old),
            Self::Nothing => Ok(()),
        }
    }
}

/// Overwrites a file and removes it, both durably; nothing if there is none. It is not the store's.
pub(super) fn erase(disk: &dyn Disk, dir: &Path, name: &str) -> io::Result<()> {
    let path = dir.join(name);
    if !disk.exists(&path) {
        return Ok(());
    }
    // It may have been the store's until names were exchanged, and that not be durable yet.
    disk.sync_directory(dir)?;
    overwrite_all(&*disk.open(&path)?)?;
    disk.remove(&path)?;
    disk.sync_directory(dir)
}

/// As [`erase()`], but the name is free afterwards even if the disk does not let the file be
/// overwritten.
pub(super) fn discard(disk: &dyn Disk, dir: &Path, name: &str) -> io::Result<()> {
    erase(disk, dir, name).or_else(|error| {
        tracing::warn!(file = name, %error, "a file of the key store is removed without being overwritten");
        disk.remove(&dir.join(name))
    })
}

/// Overwrites a part of a file, durably. Zeros are left as they are: they may be holes, for which a full
/// disk has no room.
pub(super) fn overwrite(file: &dyn StorageBackend, part: Range<u64>) -> io::Result<()> {
    let mut block = vec![0; BLOCK as usize];
    let mut at = part.start;
    while at < part.end {
        let piece = BLOCK.min(part.end - at);
        let found = &mut block[..piece as usize];
        file.read(at, found)?;
        let used = |page: &[u8]| page != &ZEROS[..page.len()];
        if let Some(first) = found.chunks(PAGE).position(used) {
            let last = found.chunks(PAGE).rposition(used).unwrap_or(first);
            let used = first * PAGE..found.len().min((last + 1) * PAGE);
            found.fill(0);
            file.write(at + used.start as u64, &found[used])?;
        }
        at += piece;
    }
    file.sync_data()
}

fn overwrite_all(file: &dyn StorageBackend) -> io::Result<()> {
    overwrite(file, 0..file.len()?)?;
    file.close()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt};

    use redb::backends::FileBackend;

    use super::*;

    #[test]
    fn what_there_is_is_overwritten_and_holes_stay_holes() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(10 * BLOCK + 7).unwrap();
        for at in [3 * BLOCK - 1, 10 * BLOCK] {
            file.write_all_at(b"secret", at).unwrap();
        }
        file.sync_all().unwrap();
        let before = file.metadata().unwrap().blocks();
        let backend = FileBackend::new(file.try_clone().unwrap()).unwrap();
        overwrite_all(&backend).unwrap();
        let mut left = vec![1; 10 * BLOCK as usize + 7];
        file.read_exact_at(&mut left, 0).unwrap();
        assert!(left.iter().all(|byte| *byte == 0));
        assert!(file.metadata().unwrap().blocks() <= before, "holes have been filled");
    }

    #[test]
    fn what_is_cut_off_is_overwritten_first() {
        #[derive(Debug, Default)]
        struct Noting(redb::backends::InMemoryBackend, std::sync::Mutex<Vec<String>>);

        impl Noting {
            fn note(&self, what: String) {
                self.1.lock().unwrap().push(what);
            }
        }

        impl StorageBackend for &'static Noting {
            fn len(&self) -> io::Result<u64> {
                self.0.len()
            }
            fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
                self.0.read(offset, out)
            }
            fn set_len(&self, len: u64) -> io::Result<()> {
                self.note(format!("cut at {len}"));
                self.0.set_len(len)
            }
            fn sync_data(&self) -> io::Result<()> {
                self.note("flush".to_owned());
                self.0.sync_data()
            }
            fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
                self.note(format!("write {} at {offset}", data.len()));
                self.0.write(offset, data)
            }
        }

        let backend: &'static Noting = Box::leak(Box::default());
        backend.0.set_len(4 * BLOCK).unwrap();
        backend.0.write(3 * BLOCK, b"secret").unwrap();
        super::super::disk::Boxed(Box::new(backend)).set_len(BLOCK).unwrap();
        let noted = backend.1.lock().unwrap().clone();
        assert_eq!(noted, ["write 4096 at 196608", "flush", "cut at 65536"]);
    }
}
