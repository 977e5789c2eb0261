//! Attributes of inodes, and setting them.

use rustix::fs::{FileType, Gid, Mode, Stat, StatVfs, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid};

use super::inode::Inode;
use super::keys::Access;
use super::privileges::{drop_foreign_set_gid, drop_privileges};
use super::{Fs, FsError, FsResult, Requester};
use crate::format::layout::Layout;
use crate::kms::FileAccess;

/// What an inode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A FIFO.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

impl FileKind {
    /// The kind that a mode's type bits name, if any.
    pub fn of_mode(mode: u32) -> Option<Self> {
        Some(match FileType::from_raw_mode(mode) {
            FileType::RegularFile => Self::Regular,
            FileType::Directory => Self::Directory,
            FileType::Symlink => Self::Symlink,
            FileType::Fifo => Self::Fifo,
            FileType::Socket => Self::Socket,
            FileType::CharacterDevice => Self::CharDevice,
            FileType::BlockDevice => Self::BlockDevice,
            FileType::Unknown => return None,
        })
    }
}

/// A time as the kernel has it: seconds since 1970, which may be negative, and nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Time {
    /// Seconds.
    pub seconds: i64,
    /// Nanoseconds after them.
    pub nanoseconds: u32,
}

/// Attributes of an inode, as stat(2) shows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr {
    /// Inode number.
    pub ino: u64,
    /// What it is.
    pub kind: FileKind,
    /// Size of the plaintext in bytes.
    pub size: u64,
    /// Space in units of 512 bytes.
    pub blocks: u64,
    /// Permission bits.
    pub mode: u16,
    /// Number of hard links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node.
    pub rdev: u32,
    /// Preferred block size of I/O in bytes.
    pub blksize: u32,
    /// Last access.
    pub atime: Time,
    /// Last modification.
    pub mtime: Time,
    /// Last change of the inode.
    pub ctime: Time,
}

/// A time to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SetTime {
    /// Leave it.
    #[default]
    Omit,
    /// The current time.
    Now,
    /// This time.
    At(Time),
}

/// Attributes to set; `None` leaves one as it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct SetAttr {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size of the plaintext in bytes.
    pub size: Option<u64>,
    /// Last access.
    pub atime: SetTime,
    /// Last modification.
    pub mtime: SetTime,
}

/// What statfs(2) shows.
pub type StatFs = StatVfs;

/// Blocks of 512 bytes that a file's header page takes.
const HEADER_BLOCKS: u64 = 8;
/// Preferred size of I/O in bytes: many chunks at a time.
const BLKSIZE: u32 = 128 * 1024;

impl Fs {
    /// Attributes of an inode. Needs no key.
    ///
    /// # Errors
    /// As stat(2).
    pub fn getattr(&self, ino: u64) -> FsResult<Attr> {
        self.attr_of(&*self.inodes.find(ino)?)
    }

    /// Whether root may execute a file, or search a directory.
    ///
    /// # Errors
    /// As access(2): `EACCES` for a file that nobody may execute.
    pub fn check_executable(&self, ino: u64) -> FsResult<()> {
        let attr = self.getattr(ino)?;
        let by_somebody = attr.kind == FileKind::Directory || attr.mode & 0o111 != 0;
        if by_somebody { Ok(()) } else { Err(FsError::new(libc::EACCES)) }
    }

    /// Sets attributes; answers all of them. `fh` is a handle that the size is set through.
    ///
    /// # Errors
    /// As chmod(2), chown(2), truncate(2), utimensat(2); setting the size needs the file's key.
    pub fn setattr(&self, by: Requester, ino: u64, fh: Option<u64>, set: &SetAttr) -> FsResult<Attr> {
        self.check_writable()?;
        let inode = self.inodes.find(ino)?;
        // chown(2) that is given neither an owner nor a group still drops set-ID bits.
        let chown_nothing = set.is_nothing() && self.is_owner(by, &inode)?;
        if set.uid.is_some() || set.gid.is_some() || chown_nothing {
            let _guard = inode.attributes.lock();
            if inode.kind != FileKind::Directory {
                // First, so that nobody runs the file as its new group meanwhile.
                drop_foreign_set_gid(&self.volume.disk, by, &inode)?;
            }
            let (uid, gid) = (set.uid.map(Uid::from_raw), set.gid.map(Gid::from_raw));
            self.volume.disk.set_owner(&*inode.fd()?, uid, gid)?;
        }
        let mut mtime = set.mtime;
        if let Some(size) = set.size {
            let changed = self.set_size(by, &inode, fh, size)?;
            // A truncation that has nothing to do is a modification too.
            if !changed && mtime == SetTime::Omit {
                mtime = SetTime::Now;
            }
        }
        if let Some(mode) = set.mode {
            let _guard = inode.attributes.lock();
            self.volume.disk.set_mode(&*inode.fd()?, Mode::from_raw_mode(mode & 0o7777))?;
        }
        if set.atime != SetTime::Omit || mtime != SetTime::Omit {
            let _guard = inode.attributes.lock();
            let times = Timestamps { last_access: set.atime.raw(), last_modification: mtime.raw() };
            self.volume.disk.set_times(&*inode.fd()?, &times)?;
        }
        self.attr_of(&inode)
    }

    /// Statistics of the backing filesystem, which are the volume's.
    ///
    /// # Errors
    /// As statfs(2).
    pub fn statfs(&self) -> FsResult<StatFs> {
        Ok(self.volume.disk.stat_filesystem(&self.volume.root)?)
    }

    pub(super) fn attr_of(&self, inode: &Inode) -> FsResult<Attr> {
        self.attr_from(inode, &self.volume.disk.stat(&*inode.fd()?)?)
    }

    /// The attributes of an inode of which the backing filesystem has just said `stat`.
    pub(super) fn attr_from(&self, inode: &Inode, stat: &Stat) -> FsResult<Attr> {
        let mut attr = attr_of_stat(stat)?;
        attr.ino = inode.ino;
        match attr.kind {
            FileKind::Regular => {
                attr.size = inode.plaintext_size(stat.st_size.cast_unsigned());
                attr.blocks = attr.blocks.saturating_sub(HEADER_BLOCKS);
                if attr.blocks == 0 && attr.size > 0 && inode.has_writers() {
                    // The kernel may hold pages of a mapping. No blocks at all would tell archivers
                    // that there is nothing to read.
                    attr.blocks = 1;
                }
                attr.blksize = BLKSIZE;
            }
            // The length of a target needs the target; a damaged one is as long as it lies there.
            FileKind::Symlink => {
                if let Ok(target) = self.target_of(inode) {
                    attr.size = target.len() as u64;
                }
            }
            _ => {}
        }
        Ok(attr)
    }

    /// Whether an inode is somebody's, or he may do as if.
    fn is_owner(&self, by: Requester, inode: &Inode) -> FsResult<bool> {
        Ok(by.uid == 0 || self.volume.disk.stat(&*inode.fd()?)?.st_uid == by.uid)
    }

    /// Sets the size; answers whether it was another.
    fn set_size(
        &self,
        by: Requester,
        inode: &std::sync::Arc<Inode>,
        fh: Option<u64>,
        size: u64,
    ) -> FsResult<bool> {
        if inode.kind != FileKind::Regular {
            return Err(FsError::new(libc::EINVAL));
        }
        let (open, asker) = match fh {
            Some(fh) => {
                let handle = self.handle(fh)?;
                (std::sync::Arc::clone(&handle.open), handle.asker.clone())
            }
            None => {
                let asker = self.asker(by, inode, FileAccess::Write)?;
                (self.open_file(inode, true, &asker)?, asker)
            }
        };
        let changed = (|| {
            let disk = open.for_writing()?;
            let lacking = inode.hold_lacking(&(size..u64::MAX));
            let keys = open.keys(self, Access::Program, &asker)?;
            let before = disk.size();
            disk.truncate(&keys, size, |newest| self.next_epoch(newest))?;
            if let Some(mut lacking) = lacking {
                lacking.settle(size..u64::MAX);
            }
            Ok(before != size)
        })();
        if fh.is_none() {
            self.close_file(inode, true);
        }
        if changed.is_ok() && by.uid != 0 {
            drop_privileges(&self.volume.disk, by, inode)?;
        }
        changed
    }
}

/// Plaintext size for a backing length, without a key. Assumes the default chunk size, which is
/// the only one that files are created with.
pub(super) fn keyless_size(physical: u64) -> u64 {
    Layout::default().nearest_size(physical)
}

fn attr_of_stat(stat: &Stat) -> FsResult<Attr> {
    let time = |seconds: i64, nanoseconds: u64| Time { seconds, nanoseconds: nanoseconds as u32 };
    Ok(Attr {
        ino: stat.st_ino,
        kind: FileKind::of_mode(stat.st_mode).ok_or(FsError::new(libc::EIO))?,
        size: stat.st_size.cast_unsigned(),
        blocks: stat.st_blocks.cast_unsigned(),
        mode: (stat.st_mode & 0o7777) as u16,
        nlink: stat.st_nlink as u32,
        uid: stat.st_uid,
        gid: stat.st_gid,
        rdev: stat.st_rdev as u32,
        blksize: stat.st_blksize as u32,
        atime: time(stat.st_atime, stat.st_atime_nsec),
        mtime: time(stat.st_mtime, stat.st_mtime_nsec),
        ctime: time(stat.st_ctime, stat.st_ctime_nsec),
    })
}

impl SetAttr {
    fn is_nothing(&self) -> bool {
        let times = [self.atime, self.mtime];
        (self.mode, self.uid, self.gid, self.size) == (None, None, None, None)
            && times.iter().all(|time| *time == SetTime::Omit)
    }
}

impl SetTime {
    pub(super) fn raw(self) -> Timespec {
        match self {
            Self::Omit => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            Self::Now => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
            Self::At(time) => Timespec { tv_sec: time.seconds, tv_nsec: time.nanoseconds.into() },
        }
    }
}
