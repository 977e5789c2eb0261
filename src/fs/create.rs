//! Making entries: files, directories, links, nodes.
//!
//! A file made for another user belongs to him before anyone can see it: it is created closed to
//! everybody, given away, and opened up; the kernel answers nobody about the name before that.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Dev, FileType, Mode, OFlags, Uid};

use super::directory::Directory;
use super::inode::Inode;
use super::keys::file_context;
use super::lookup::seal_name;
use super::open_file::{Disk, OpenFile};
use super::{Attr, FileKind, Fs, FsError, FsResult, Requester};
use crate::chunk::SealedFile;
use crate::format::Id;
use crate::format::head::{Head, Kind};
use crate::format::slot::Wrapped;
use crate::names::{self, StoredName};
use crate::sys;

/// Permission bits, and the three above them.
const MODE_BITS: u32 = 0o7777;

impl Fs {
    /// Creates a regular file and opens it; answers its attributes and a handle. Counts a look-up.
    ///
    /// # Errors
    /// As open(2), and those of the directory's master key.
    pub fn create(&self, by: Requester, parent: u64, name: &OsStr, mode: u32) -> FsResult<(Attr, u64)> {
        let (inode, open) = self.create_file(by, parent, name, mode)?;
        let attr = self.attr_of(&inode)?;
        Ok((attr, self.new_handle(inode, open)))
    }

    /// Creates a regular file, FIFO, socket or device node. Counts a look-up.
    ///
    /// # Errors
    /// As mknod(2), and for a regular file those of the directory's master key.
    pub fn mknod(&self, by: Requester, parent: u64, name: &OsStr, mode: u32, rdev: u32) -> FsResult<Attr> {
        if FileKind::of_mode(mode) == Some(FileKind::Regular) {
            let (inode, open) = self.create_file(by, parent, name, mode)?;
            let attr = self.attr_of(&inode)?;
            drop(open);
            self.close_file(&inode);
            return Ok(attr);
        }
        let kind = FileType::from_raw_mode(mode);
        self.make_entry(by, parent, name, mode, |dir, stored| {
            Ok(rustix::fs::mknodat(&*dir.fd()?, stored, kind, Mode::empty(), Dev::from(rdev))?)
        })
    }

    /// Creates a directory. Counts a look-up.
    ///
    /// # Errors
    /// As mkdir(2).
    pub fn mkdir(&self, by: Requester, parent: u64, name: &OsStr, mode: u32) -> FsResult<Attr> {
        self.check_writable()?;
        let parent = self.inodes.find(parent)?;
        let directory = parent.directory(&self.volume)?;
        let stored = seal_name(&directory, name)?;
        self.write_sidecar(&parent, &stored)?;
        rustix::fs::mkdirat(&*parent.fd()?, &stored.name, Mode::RWXU)?;
        let made = (|| {
            let inode = self.inodes.enter(&parent, &stored.name)?;
            let made = Directory::create(&self.volume, &*inode.fd()?, &directory)?;
            inode.set_directory(made);
            give_to(by, &*inode.fd()?, mode)?;
            self.unsynced_records.lock().push(Arc::clone(&inode));
            self.attr_of(&inode)
        })();
        if made.is_err() {
            self.undo_mkdir(&parent, &stored);
        }
        made
    }

    /// Creates a symbolic link. Counts a look-up.
    ///
    /// # Errors
    /// As symlink(2); `ENAMETOOLONG` for a target that does not fit into the backing link.
    pub fn symlink(&self, by: Requester, parent: u64, name: &OsStr, target: &OsStr) -> FsResult<Attr> {
        let sealed = names::seal_target(&self.volume.keys.symlinks, target.as_bytes())?
            .ok_or(FsError::new(libc::ENAMETOOLONG))?;
        self.check_writable()?;
        let parent = self.inodes.find(parent)?;
        let stored = seal_name(&*parent.directory(&self.volume)?, name)?;
        self.write_sidecar(&parent, &stored)?;
        rustix::fs::symlinkat(sealed, &*parent.fd()?, &stored.name)?;
        self.finish_entry(&parent, &stored, |inode| {
            if by.uid == rustix::process::geteuid().as_raw() {
                return Ok(());
            }
            Ok(rustix::fs::chownat(
                &*inode.fd()?,
                "",
                Some(Uid::from_raw(by.uid)),
                None,
                AtFlags::EMPTY_PATH,
            )?)
        })
    }

    /// Makes another name for an inode. Counts a look-up.
    ///
    /// # Errors
    /// As link(2).
    pub fn link(&self, ino: u64, parent: u64, name: &OsStr) -> FsResult<Attr> {
        self.check_writable()?;
        let inode = self.inodes.find(ino)?;
        let parent = self.inodes.find(parent)?;
        let stored = seal_name(&*parent.directory(&self.volume)?, name)?;
        self.write_sidecar(&parent, &stored)?;
        let fd = inode.fd()?;
        let from = sys::proc_path(&*fd);
        rustix::fs::linkat(CWD, from, &*parent.fd()?, &stored.name, AtFlags::SYMLINK_FOLLOW)?;
        self.finish_entry(&parent, &stored, |_| Ok(()))
    }

    /// Makes a regular file, with one handle counted.
    fn create_file(
        &self,
        by: Requester,
        parent: u64,
        name: &OsStr,
        mode: u32,
    ) -> FsResult<(Arc<Inode>, Arc<OpenFile>)> {
        self.check_writable()?;
        let parent = self.inodes.find(parent)?;
        let directory = parent.directory(&self.volume)?;
        let stored = seal_name(&directory, name)?;
        self.write_sidecar(&parent, &stored)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&*parent.fd()?, &stored.name, flags, Mode::RUSR | Mode::WUSR)?;
        let made = (|| {
            give_to(by, &fd, mode)?;
            let open = Arc::new(self.begin_file(&directory, File::from(fd))?);
            let inode = self.inodes.enter(&parent, &stored.name)?;
            let mut opening = inode.opening();
            opening.file = Some(Arc::clone(&open));
            opening.handles = 1;
            drop(opening);
            Ok((inode, open))
        })();
        if made.is_err() {
            self.undo(&parent, &stored, AtFlags::empty());
        }
        made
    }

    /// Writes the header of a file in an empty backing file, under a new data key of the
    /// directory's master key.
    pub(super) fn begin_file(&self, directory: &Directory, file: File) -> FsResult<OpenFile> {
        let assigned = directory.assigned_key();
        let key = if assigned.is_empty() { self.volume.default_key() } else { assigned };
        let gate = self.gates.of(&key);
        gate.check_program()?;
        let head = Head::new(Kind::File, self.volume.id, Id::random()?, directory.id);
        let context = file_context(head.volume, head.object);
        let made = self.provider.generate_data_key(&key, &context)?;
        let wrapped = Wrapped { key_arn: made.key_arn, key_version: made.key_version, blob: made.blob };
        let epoch = self.next_epoch(0)?;
        let opened = SealedFile::create(Disk::writable(file), head, &made.plaintext, wrapped, epoch)?;
        gate.check_program()?;
        Ok(OpenFile::new(opened, gate))
    }

    /// Makes an entry that is no regular file, directory or symbolic link.
    fn make_entry(
        &self,
        by: Requester,
        parent: u64,
        name: &OsStr,
        mode: u32,
        make: impl FnOnce(&Inode, &str) -> FsResult<()>,
    ) -> FsResult<Attr> {
        self.check_writable()?;
        let parent = self.inodes.find(parent)?;
        let stored = seal_name(&*parent.directory(&self.volume)?, name)?;
        self.write_sidecar(&parent, &stored)?;
        make(&parent, &stored.name)?;
        self.finish_entry(&parent, &stored, |inode| give_to(by, &*inode.fd()?, mode))
    }

    /// Looks a new entry up and finishes it; removes it again if that fails.
    fn finish_entry(
        &self,
        parent: &Arc<Inode>,
        stored: &StoredName,
        finish: impl FnOnce(&Inode) -> FsResult<()>,
    ) -> FsResult<Attr> {
        let finished = self.inodes.enter(parent, &stored.name).and_then(|inode| {
            finish(&inode)?;
            self.attr_of(&inode)
        });
        if finished.is_err() {
            self.undo(parent, stored, AtFlags::empty());
        }
        finished
    }

    fn undo_mkdir(&self, parent: &Inode, stored: &StoredName) {
        let record = format!("{}/{}", stored.name, crate::format::DIRECTORY_NAME);
        if let Ok(fd) = parent.fd() {
            let _ = rustix::fs::unlinkat(&*fd, record, AtFlags::empty());
        }
        self.undo(parent, stored, AtFlags::REMOVEDIR);
    }

    /// Removes an entry that could not be finished.
    fn undo(&self, parent: &Inode, stored: &StoredName, flags: AtFlags) {
        if let Ok(fd) = parent.fd() {
            let _ = rustix::fs::unlinkat(&*fd, &stored.name, flags);
        }
        self.remove_sidecar(parent, stored);
    }

    pub(super) fn next_epoch(&self, newest: u32) -> FsResult<u32> {
        Ok(self.volume.next_epoch(newest)?)
    }
}

/// Gives a new entry its owner and mode. The group is the one that the kernel gave it in a
/// set-group-ID directory, else the requester's.
fn give_to(by: Requester, fd: impl AsFd, mode: u32) -> FsResult<()> {
    let stat = rustix::fs::fstat(fd.as_fd())?;
    let ours =
        Requester { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() };
    // A group other than this process's was inherited.
    let gid = (stat.st_gid == ours.gid && by.gid != ours.gid).then(|| rustix::fs::Gid::from_raw(by.gid));
    let uid = (by.uid != ours.uid).then(|| Uid::from_raw(by.uid));
    if uid.is_some() || gid.is_some() {
        rustix::fs::chownat(fd.as_fd(), "", uid, gid, AtFlags::EMPTY_PATH)?;
    }
    let inherited = stat.st_mode & 0o2000;
    let mode = Mode::from_raw_mode(mode & MODE_BITS | inherited);
    Ok(rustix::fs::chmod(sys::proc_path(fd), mode)?)
}
