//! What the housekeeping of a file leaves as it was.
//!
//! Settling writes to the backing file without changing what the file holds. To the kernel every
//! write is a modification: it moves the time of the last one and takes capabilities away, and
//! set-ID bits too where this process is unprivileged.

use rustix::fs::{Mode, Timespec, Timestamps, XattrFlags};

use super::FsResult;
use super::absent::{self, CAPABILITY};
use super::attr::SetTime;
use super::disk::Disk;
use super::inode::Inode;

const SET_ID: u32 = 0o6000;
const MODE_BITS: u32 = 0o7777;

/// Runs housekeeping, and puts the attributes back that it must not change. Nobody may be writing
/// to the file: what a write took away would come back.
pub(super) fn keep_attributes<R>(
    disk: &Disk,
    inode: &Inode,
    housekeeping: impl FnOnce() -> FsResult<R>,
) -> FsResult<R> {
    let _guard = inode.attributes.lock();
    let fd = inode.fd()?;
    let before = disk.stat(&*fd)?;
    let capability = absent::find_held(disk, inode, CAPABILITY).ok().flatten();
    let result = housekeeping();
    if before.st_mode & SET_ID != 0 && disk.stat(&*fd)?.st_mode != before.st_mode {
        disk.set_mode(&*fd, Mode::from_raw_mode(before.st_mode & MODE_BITS))?;
    }
    if let Some(capability) = capability {
        disk.set_xattr(&*fd, CAPABILITY.as_bytes(), &capability, XattrFlags::empty())?;
    }
    let times = Timestamps {
        last_access: SetTime::Omit.raw(),
        last_modification: Timespec { tv_sec: before.st_mtime, tv_nsec: before.st_mtime_nsec.cast_signed() },
    };
    disk.set_times(&*fd, &times)?;
    result
}
