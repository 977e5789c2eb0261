//! One owner per key store: an exclusive lock on a file beside it.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::error::StoreError;

/// Held while the store is open; the kernel releases it with the process. The process's id stays in
/// the file of one that could not give it up itself.
#[derive(Debug)]
pub(super) struct OwnerLock {
    file: File,
    /// Whether the owner before died with the store open.
    pub(super) was_left: bool,
    /// Whether the next owner may rely on the store's file.
    pub(super) clean: bool,
}

impl OwnerLock {
    /// Takes the lock of the store in `dir`, which must exist, and leaves this process's id in it.
    pub(super) fn take(dir: &Path) -> Result<Self, StoreError> {
        let what = "key store lock";
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(dir.join("lock"))
            .map_err(StoreError::io(what))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(StoreError::InUse { pid: owner(&mut file) }),
            Err(error) => return Err(StoreError::io(what)(error.into())),
        }
        let was_left = file.metadata().is_ok_and(|metadata| metadata.len() > 0);
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(StoreError::io(what))?;
        Ok(Self { file, was_left, clean: !was_left })
    }
}

impl Drop for OwnerLock {
    fn drop(&mut self) {
        if self.clean {
            // If it fails, the next owner makes the file anew, which does no harm.
            let _ = self.file.set_len(0);
        }
        // Closing would not do it while a child that is just being started shares the descriptor.
        let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
    }
}

fn owner(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}
