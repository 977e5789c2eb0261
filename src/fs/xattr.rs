//! Extended attributes.
//!
//! User attributes are sealed, a file's values under its own key. Attributes that the kernel
//! interprets are stored as they are. Five names are the filesystem's own: `user.kmsfs.key`, a directory's
//! assigned master key; `user.kmsfs.info`, a description of a file; `user.kmsfs.wrap`, what wraps its
//! data key; `user.kmsfs.reencrypt`, how far it is with another data key; and on the root `user.kmsfs.index`,
//! what wraps how many. Only the first is listed.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use rustix::fs::XattrFlags;
use serde::Serialize;

use super::absent::{self, Absent, CAPABILITY};
use super::inode::Inode;
use super::keys::Access;
use super::privileges::drop_foreign_set_gid;
use super::recount::INDEX_XATTR;
use super::reencrypt::REENCRYPT_XATTR;
use super::rewrap::WRAP_XATTR;
use super::sealed_xattr::{self, is_sealed};
use super::{Asker, FileKind, Fs, FsError, FsResult, Requester};
use crate::format::head::Kind;
use crate::format::page::Page;
use crate::format::{Id, PAGE_LEN};
use crate::kms::FileAccess;
use crate::secret::Key;

/// A directory's assigned master key; readable and settable.
pub const KEY_XATTR: &str = "user.kmsfs.key";
/// A description of a file as JSON; readable.
pub const INFO_XATTR: &str = "user.kmsfs.info";

/// The permissions of users and groups; the kernel enforces them, where permissions are checked.
const ACCESS_ACL: &[u8] = b"system.posix_acl_access";
const OWN_PREFIX: &[u8] = b"user.kmsfs.";
const USER_PREFIX: &[u8] = b"user.";
/// Attributes that only privileged processes see.
const TRUSTED_PREFIX: &[u8] = b"trusted.";
/// Largest value in bytes, as the kernel has it (`XATTR_SIZE_MAX`).
const MAX_VALUE_LEN: usize = 65_536;

/// What [`INFO_XATTR`] shows.
#[derive(Debug, Serialize)]
struct FileInfo {
    volume_id: String,
    file_id: String,
    key_arn: String,
    key_version: u32,
    chunk_size: u64,
    size: u64,
    stored_size: u64,
    /// Absent when the file's key is not usable.
    #[serde(skip_serializing_if = "Option::is_none")]
    settled: Option<bool>,
    /// Parts of it are still under the data key before this one.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    being_reencrypted: bool,
}

#[derive(Debug, Serialize)]
struct DirectoryInfo {
    volume_id: String,
    directory_id: String,
    assigned_key: String,
    default_key: String,
    /// What wraps the volume's own key: whoever is to mount the volume needs it too.
    volume_key: String,
}

impl Fs {
    /// The value of an attribute, for the mount itself.
    ///
    /// # Errors
    /// As [`Fs::getxattr_for`].
    pub fn getxattr(&self, ino: u64, name: &OsStr) -> FsResult<Vec<u8>> {
        self.getxattr_as(ino, name, |_| Ok(self.itself()))
    }

    /// The value of an attribute.
    ///
    /// # Errors
    /// As getxattr(2); a user attribute of a file needs the file's key.
    pub fn getxattr_for(&self, by: Requester, ino: u64, name: &OsStr) -> FsResult<Vec<u8>> {
        self.getxattr_as(ino, name, |inode| self.asker(by, inode, FileAccess::Read))
    }

    fn getxattr_as(
        &self,
        ino: u64,
        name: &OsStr,
        asker: impl FnOnce(&Inode) -> FsResult<Asker>,
    ) -> FsResult<Vec<u8>> {
        let inode = self.inodes.find(ino)?;
        match name.as_bytes() {
            n if n == KEY_XATTR.as_bytes() => {
                let assigned = self.assigned_key(&inode)?;
                if assigned.is_empty() { Err(FsError::new(libc::ENODATA)) } else { Ok(assigned.into_bytes()) }
            }
            n if n == INFO_XATTR.as_bytes() => self.info(&inode),
            n if n == WRAP_XATTR.as_bytes() => to_json(&self.wrapping(&inode)?),
            n if n == REENCRYPT_XATTR.as_bytes() => to_json(&self.reencryption(&inode)?),
            n if n == INDEX_XATTR.as_bytes() => to_json(&self.index_info(&inode)?),
            n if n.starts_with(USER_PREFIX) => {
                let stored = sealed_xattr::backing_name(&self.volume, n);
                // One that is not there needs no key.
                self.read_backing(&inode, &stored)?;
                // Read with the keys held: a value that is sealed anew meanwhile needs other ones.
                self.with_value_keys(&inode, asker, |keys, object| {
                    sealed_xattr::open_value(keys, object, n, &self.read_backing(&inode, &stored)?)
                })
            }
            n => match std::str::from_utf8(n) {
                Ok(n) if Absent::concerns(n) => {
                    let found = absent::find(&self.volume.disk, &inode, n)?;
                    found.ok_or(FsError::new(libc::ENODATA))
                }
                _ => self.read_backing(&inode, n),
            },
        }
    }

    /// Sets an attribute. `flags` are setxattr(2)'s.
    ///
    /// # Errors
    /// As setxattr(2); `EPERM` for the filesystem's own names but [`KEY_XATTR`] on a directory,
    /// [`WRAP_XATTR`], [`REENCRYPT_XATTR`], and [`INDEX_XATTR`] on the root.
    pub fn setxattr(&self, by: Requester, ino: u64, name: &OsStr, value: &[u8], flags: i32) -> FsResult<()> {
        self.check_writable()?;
        let inode = self.inodes.find(ino)?;
        let flags = XattrFlags::from_bits_retain(flags.cast_unsigned());
        let (disk, fd) = (&self.volume.disk, inode.fd()?);
        let rare = name.to_str().filter(|name| Absent::concerns(name));
        let _guard = rare.map(|_| inode.attributes.lock());
        if let Some(name) = rare {
            inode.absent.note(name, false);
        }
        match name.as_bytes() {
            n if n == KEY_XATTR.as_bytes() => self.assign_key(by, &inode, value),
            n if n == WRAP_XATTR.as_bytes() => self.set_wrapping(by, &inode, value),
            n if n == REENCRYPT_XATTR.as_bytes() => self.set_reencryption(by, &inode, value),
            n if n == INDEX_XATTR.as_bytes() => self.ask_for_recount(by, &inode, value),
            n if n.starts_with(OWN_PREFIX) => Err(FsError::new(libc::EPERM)),
            USER_PREFIX => Err(FsError::new(libc::EINVAL)),
            n if n.starts_with(USER_PREFIX) => {
                if value.len() > MAX_VALUE_LEN {
                    return Err(FsError::new(libc::E2BIG));
                }
                let asker = |inode: &Inode| self.asker(by, inode, FileAccess::Write);
                // Stored with the keys held: they may be other ones afterwards.
                self.with_value_keys(&inode, asker, |keys, object| {
                    let sealed = sealed_xattr::seal(&self.volume, keys[0], object, n, value)?;
                    Ok(disk.set_xattr(&*fd, &sealed_xattr::backing_name(&self.volume, n), &sealed, flags)?)
                })
            }
            n => {
                disk.set_xattr(&*fd, n, value, flags)?;
                if n == ACCESS_ACL {
                    let dropped = drop_foreign_set_gid(disk, by, &inode);
                    self.forget_attributes(ino);
                    dropped?;
                }
                Ok(())
            }
        }
    }

    /// The names of all attributes that the requester may know of, each ended by a zero byte.
    ///
    /// # Errors
    /// As listxattr(2).
    pub fn listxattr(&self, by: Requester, ino: u64) -> FsResult<Vec<u8>> {
        let inode = self.inodes.find(ino)?;
        let mut names = Vec::new();
        let mut add = |name: &[u8]| {
            names.extend_from_slice(name);
            names.push(0);
        };
        if inode.kind == FileKind::Directory && !self.assigned_key(&inode)?.is_empty() {
            add(KEY_XATTR.as_bytes());
        }
        for stored in
            self.volume.disk.list_xattrs(&*inode.fd()?)?.split(|&b| b == 0).filter(|name| !name.is_empty())
        {
            if is_sealed(stored) {
                let value = self.read_backing(&inode, stored)?;
                match sealed_xattr::open_name(&self.volume, stored, &value) {
                    Some(name) => add(&name),
                    None => tracing::warn!("{}: a damaged attribute is left out", inode.path()),
                }
            } else if !stored.starts_with(OWN_PREFIX) && (by.uid == 0 || !stored.starts_with(TRUSTED_PREFIX))
            {
                add(stored);
            }
        }
        Ok(names)
    }

    /// Removes an attribute.
    ///
    /// # Errors
    /// As removexattr(2).
    pub fn removexattr(&self, by: Requester, ino: u64, name: &OsStr) -> FsResult<()> {
        self.check_writable()?;
        let inode = self.inodes.find(ino)?;
        let (disk, fd) = (&self.volume.disk, inode.fd()?);
        let _guard = (name == CAPABILITY).then(|| inode.attributes.lock());
        match name.as_bytes() {
            n if n == KEY_XATTR.as_bytes() => self.assign_key(by, &inode, b""),
            n if n.starts_with(OWN_PREFIX) => Err(FsError::new(libc::EPERM)),
            n if n.starts_with(USER_PREFIX) => {
                Ok(disk.remove_xattr(&*fd, &sealed_xattr::backing_name(&self.volume, n))?)
            }
            n => Ok(disk.remove_xattr(&*fd, n)?),
        }
    }

    /// Removes the attributes that were sealed under a key that is lost.
    pub(super) fn remove_sealed_attributes(&self, inode: &Inode) -> FsResult<()> {
        let (disk, fd) = (&self.volume.disk, inode.fd()?);
        let names = disk.list_xattrs(&*fd)?;
        let sealed = names.split(|&b| b == 0).filter(|name| is_sealed(name));
        Ok(sealed.into_iter().try_for_each(|name| disk.remove_xattr(&*fd, name))?)
    }

    /// Has the kernel ask for a mode that an ACL changed: it does so by itself only where it decides by
    /// ACLs.
    fn forget_attributes(&self, ino: u64) {
        let kernel = self.kernel.read().clone();
        if let Some(Err(error)) = kernel.map(|kernel| kernel.forget_attributes(ino)) {
            tracing::debug!("the kernel could not be told of a new mode: {error}");
        }
    }

    fn assigned_key(&self, inode: &Inode) -> FsResult<String> {
        match inode.kind {
            FileKind::Directory if inode.ino == super::ROOT_INO => Ok(self.volume.default_key()),
            FileKind::Directory => Ok(inode.directory(&self.volume)?.assigned_key()),
            _ => Ok(String::new()),
        }
    }

    /// Assigns a master key, named in any way that the key service knows, to a directory. Its owner
    /// decides, not whoever may write in it: the key says who may read what others put there.
    fn assign_key(&self, by: Requester, inode: &Inode, key: &[u8]) -> FsResult<()> {
        let owner = self.volume.disk.stat(&*inode.fd()?)?.st_uid;
        if inode.kind != FileKind::Directory || by.uid != 0 && by.uid != owner {
            return Err(FsError::new(libc::EPERM));
        }
        let key = std::str::from_utf8(key).map_err(|_| FsError::new(libc::EINVAL))?;
        let is_root = inode.ino == super::ROOT_INO;
        let arn = match key {
            "" if is_root => return Err(FsError::new(libc::EPERM)),
            "" => String::new(),
            key => self.provider.describe_key(key)?.arn,
        };
        if is_root {
            return Ok(self.volume.set_default_key(&arn)?);
        }
        inode.directory(&self.volume)?.assign_key(&self.volume, &*inode.fd()?, &arn)
    }

    fn info(&self, inode: &Arc<Inode>) -> FsResult<Vec<u8>> {
        match inode.kind {
            FileKind::Regular => to_json(&self.file_info(inode)?),
            FileKind::Directory => to_json(&DirectoryInfo {
                volume_id: self.volume.id.to_string(),
                directory_id: inode.directory(&self.volume)?.id.to_string(),
                assigned_key: self.assigned_key(inode)?,
                default_key: self.volume.default_key(),
                volume_key: self.volume.wrapped().key_arn,
            }),
            _ => Err(FsError::new(libc::ENODATA)),
        }
    }

    /// What is known about a file; without its key, what its header says in public.
    fn file_info(&self, inode: &Arc<Inode>) -> FsResult<FileInfo> {
        let stored_size = self.volume.disk.stat(&*inode.fd()?)?.st_size.cast_unsigned();
        let opened = match self.open_file(inode, false, &self.itself()) {
            Err(error) if error.would_wait() => return Err(error),
            opened => opened.ok(),
        };
        if let Some(open) = opened {
            let (head, wrapped) = (open.sealed.head(), open.sealed.wrapped());
            let info = FileInfo {
                volume_id: head.volume.to_string(),
                file_id: head.object.to_string(),
                key_arn: wrapped.key_arn,
                key_version: wrapped.key_version,
                chunk_size: head.layout().unit(),
                size: open.sealed.size(),
                stored_size,
                settled: Some(open.sealed.is_settled()),
                being_reencrypted: open.sealed.is_being_reencrypted(),
            };
            self.close_file(inode, false);
            return Ok(info);
        }
        let file = self.volume.disk.reopen_file(&*inode.fd()?, rustix::fs::OFlags::RDONLY)?;
        let mut bytes = [0; PAGE_LEN];
        crate::chunk::Backing::read_at(&file, &mut bytes, 0)?;
        let page = Page::parse(&bytes, Kind::File)?;
        let slot = page.slots().first();
        let wrapped = slot.map(|slot| slot.wrapped.clone()).unwrap_or_default();
        Ok(FileInfo {
            volume_id: page.head.volume.to_string(),
            file_id: page.head.object.to_string(),
            key_arn: wrapped.key_arn,
            key_version: wrapped.key_version,
            chunk_size: page.head.layout().unit(),
            size: page.head.layout().nearest_size(stored_size),
            stored_size,
            settled: None,
            being_reencrypted: slot.is_some_and(|slot| slot.previous.is_some()),
        })
    }

    fn read_backing(&self, inode: &Inode, name: &[u8]) -> FsResult<Vec<u8>> {
        Ok(self.volume.disk.get_xattr(&*inode.fd()?, name)?)
    }

    /// Runs `f` with the keys that may open values, of which the first one seals them, a file's own or
    /// else the volume's, and the id of the file or directory. Values in a file are its contents: whoever asks for them must be permitted it.
    fn with_value_keys<R>(
        &self,
        inode: &Arc<Inode>,
        asker: impl FnOnce(&Inode) -> FsResult<Asker>,
        f: impl FnOnce(&[&Key], Id) -> FsResult<R>,
    ) -> FsResult<R> {
        if inode.kind != FileKind::Regular {
            return f(&[&self.volume.keys.directory_xattr], inode.directory(&self.volume)?.id);
        }
        let asker = asker(inode)?;
        let open = self.open_file(inode, false, &asker)?;
        let object = open.sealed.head().object;
        let result = open.keys(self, Access::Program, &asker).and_then(|keys| f(&keys.xattr_keys(), object));
        self.close_file(inode, false);
        result
    }
}

fn to_json(value: &impl Serialize) -> FsResult<Vec<u8>> {
    serde_json::to_vec(value).map_err(|_| FsError::new(libc::EIO))
}
