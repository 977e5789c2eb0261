//! Attributes of inodes that descriptors refer to, `O_PATH` ones included.

use std::os::fd::AsFd;

use rustix::fs::{AtFlags, CWD, Gid, Mode, Stat, StatVfs, Timestamps, Uid, XattrFlags};
use rustix::io::{Errno, Result};

use super::{Call, Disk};
use crate::sys;

impl Disk {
    /// # Errors
    /// As fstat(2).
    pub fn stat(&self, file: impl AsFd) -> Result<Stat> {
        self.call(Call::Stat { file: file.as_fd() }, || rustix::fs::fstat(&file))
    }

    /// # Errors
    /// As fstatvfs(3).
    pub fn stat_filesystem(&self, file: impl AsFd) -> Result<StatVfs> {
        self.call(Call::Stat { file: file.as_fd() }, || rustix::fs::fstatvfs(&file))
    }

    /// # Errors
    /// As chmod(2).
    pub fn set_mode(&self, file: impl AsFd, mode: Mode) -> Result<()> {
        let path = sys::proc_path(&file);
        self.call(Call::SetMode { file: file.as_fd() }, || rustix::fs::chmod(path, mode))
    }

    /// # Errors
    /// As chown(2).
    pub fn set_owner(&self, file: impl AsFd, uid: Option<Uid>, gid: Option<Gid>) -> Result<()> {
        self.call(Call::SetOwner { file: file.as_fd() }, || {
            rustix::fs::chownat(&file, "", uid, gid, AtFlags::EMPTY_PATH)
        })
    }

    /// # Errors
    /// As utimensat(2).
    pub fn set_times(&self, file: impl AsFd, times: &Timestamps) -> Result<()> {
        let path = sys::proc_path(&file);
        self.call(Call::SetTimes { file: file.as_fd() }, || {
            rustix::fs::utimensat(CWD, path, times, AtFlags::empty())
        })
    }

    /// # Errors
    /// As getxattr(2).
    pub fn get_xattr(&self, file: impl AsFd, name: &[u8]) -> Result<Vec<u8>> {
        let path = sys::proc_path(&file);
        self.call(Call::GetXattr { file: file.as_fd() }, || {
            grow_until_it_fits(
                || rustix::fs::getxattr_query(&path, name),
                |value| rustix::fs::getxattr(&path, name, value),
            )
        })
    }

    /// The names of all attributes, each ended by a zero byte; none where there are no attributes.
    ///
    /// # Errors
    /// As listxattr(2).
    pub fn list_xattrs(&self, file: impl AsFd) -> Result<Vec<u8>> {
        let path = sys::proc_path(&file);
        let listed = self.call(Call::GetXattr { file: file.as_fd() }, || {
            grow_until_it_fits(
                || rustix::fs::listxattr_query(&path),
                |names| rustix::fs::listxattr(&path, names),
            )
        });
        if listed == Err(Errno::OPNOTSUPP) { Ok(Vec::new()) } else { listed }
    }

    /// # Errors
    /// As setxattr(2).
    pub fn set_xattr(&self, file: impl AsFd, name: &[u8], value: &[u8], flags: XattrFlags) -> Result<()> {
        let path = sys::proc_path(&file);
        self.call(Call::SetXattr { file: file.as_fd(), name, value }, || {
            rustix::fs::setxattr(path, name, value, flags)
        })
    }

    /// # Errors
    /// As removexattr(2).
    pub fn remove_xattr(&self, file: impl AsFd, name: &[u8]) -> Result<()> {
        let path = sys::proc_path(&file);
        self.call(Call::RemoveXattr { file: file.as_fd(), name }, || rustix::fs::removexattr(path, name))
    }
}

/// Asks for a length and then for as many bytes, again if there are more by then.
fn grow_until_it_fits(
    query: impl Fn() -> Result<usize>,
    read: impl Fn(&mut [u8]) -> Result<usize>,
) -> Result<Vec<u8>> {
    loop {
        let mut bytes = vec![0; query()?];
        match read(&mut bytes) {
            Ok(len) => {
                bytes.truncate(len);
                return Ok(bytes);
            }
            Err(Errno::RANGE) => {}
            Err(e) => return Err(e),
        }
    }
}
