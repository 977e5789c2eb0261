//! Two attributes of the backing filesystem that hardly anything has, and that are asked for all the time:
//! capabilities by the kernel before the first write to a file, a default ACL by us whenever something is
//! made in a directory. That one is not there is remembered with the inode, for nobody but this mount could
//! add it.
//!
//! Who finds one missing and remembers that, and who sets one, holds [`Inode::attributes`]; so a file that
//! was just given one never counts as having none.

use rustix::io::Errno;

use super::FsResult;
use super::disk::Disk;
use super::inode::Inode;
use crate::sync::atomic::{AtomicBool, Ordering};

/// What an executable may do more than its caller.
pub(super) const CAPABILITY: &str = "security.capability";
/// Permissions that a directory's new entries get, in place of the umask.
pub(super) const DEFAULT_ACL: &str = "system.posix_acl_default";

/// Which of the two an inode is known not to have.
#[derive(Default)]
pub(super) struct Absent {
    capability: AtomicBool,
    default_acl: AtomicBool,
}

impl Absent {
    fn of(&self, name: &str) -> Option<&AtomicBool> {
        match name {
            CAPABILITY => Some(&self.capability),
            DEFAULT_ACL => Some(&self.default_acl),
            _ => None,
        }
    }

    /// Whether an attribute is one of the two.
    pub(super) fn concerns(name: &str) -> bool {
        name == CAPABILITY || name == DEFAULT_ACL
    }

    /// Whether an attribute is known not to be there.
    pub(super) fn knows(&self, name: &str) -> bool {
        self.of(name).is_some_and(|known| known.load(Ordering::Acquire))
    }

    /// Notes whether it is known that an attribute is not there. The caller holds the inode's attributes,
    /// or has just made what it is.
    pub(super) fn note(&self, name: &str, absent: bool) {
        if let Some(known) = self.of(name) {
            known.store(absent, Ordering::Release);
        }
    }
}

/// One of the two attributes of an inode, if it has it. The caller does not hold `inode.attributes`.
///
/// # Errors
/// As getxattr(2).
pub(super) fn find(disk: &Disk, inode: &Inode, name: &str) -> FsResult<Option<Vec<u8>>> {
    if inode.absent.knows(name) {
        return Ok(None);
    }
    let _guard = inode.attributes.lock();
    find_held(disk, inode, name)
}

/// The same, for who holds `inode.attributes`.
///
/// # Errors
/// As getxattr(2).
pub(super) fn find_held(disk: &Disk, inode: &Inode, name: &str) -> FsResult<Option<Vec<u8>>> {
    if inode.absent.knows(name) {
        return Ok(None);
    }
    match disk.get_xattr(&*inode.fd()?, name.as_bytes()) {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NODATA) => {
            inode.absent.note(name, true);
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}
