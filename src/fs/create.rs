//! Making entries: files, directories, links, nodes.
//!
//! An entry has its owner, group, mode and ACL from its first moment: the backing filesystem gives
//! them, to the requester whom the thread acts as.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{Dev, FileType, Gid, Mode, OFlags};

use super::absent::{self, CAPABILITY, DEFAULT_ACL};
use super::directory::Directory;
use super::disk::DiskFile;
use super::inode::Inode;
use super::keys::file_context;
use super::lookup::seal_name;
use super::open_file::{Ciphertext, OpenFile};
use super::{Asker, Attr, FileKind, Fs, FsResult, Requester, Wrapping};
use crate::chunk::SealedFile;
use crate::format::head::{Head, Kind};
use crate::format::slot::Wrapped;
use crate::format::{DIRECTORY_NAME, Id};
use crate::names::StoredName;
use crate::provider::check_waiting;
use crate::sys::identity::{self, act_as};

/// Permission bits, and the three above them.
const MODE_BITS: u32 = 0o7777;
/// The permissions that a new directory's owner needs for its record.
const OWNER_BITS: u32 = 0o700;

/// The mode of a new entry, as the requester wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewMode {
    /// Type and permissions.
    pub mode: u32,
    /// Permissions to leave out, unless the directory has a default ACL.
    pub umask: u32,
}

impl Fs {
    /// Creates a regular file and opens it; answers its attributes and a handle. Counts a look-up.
    ///
    /// # Errors
    /// As open(2), and those of the directory's master key.
    pub fn create(&self, by: Requester, parent: u64, name: &OsStr, mode: NewMode) -> FsResult<(Attr, u64)> {
        let (attr, inode, open, asker) = self.create_file(by, parent, name, mode)?;
        Ok((attr, self.new_handle(by, inode, open, true, asker)))
    }

    /// Creates a regular file, FIFO, socket or device node. Counts a look-up.
    ///
    /// # Errors
    /// As mknod(2), and for a regular file those of the directory's master key.
    pub fn mknod(
        &self,
        by: Requester,
        parent: u64,
        name: &OsStr,
        mode: NewMode,
        rdev: u32,
    ) -> FsResult<Attr> {
        if FileKind::of_mode(mode.mode) == Some(FileKind::Regular) {
            let (attr, inode, ..) = self.create_file(by, parent, name, mode)?;
            self.close_file(&inode, true);
            return Ok(attr);
        }
        let kind = FileType::from_raw_mode(mode.mode);
        self.make_entry(by, parent, name, |parent, dir, stored| {
            let mode = self.permissions(parent, mode);
            self.volume.disk.make_node(dir, stored, kind, mode, Dev::from(rdev))
        })
    }

    /// Creates a directory. Counts a look-up.
    ///
    /// # Errors
    /// As mkdir(2).
    pub fn mkdir(&self, by: Requester, parent: u64, name: &OsStr, mode: NewMode) -> FsResult<Attr> {
        self.check_writable()?;
        let parent = self.inodes.find(parent)?;
        let directory = parent.directory(&self.volume)?;
        let stored = seal_name(&directory, name)?;
        let fd = parent.fd()?;
        let wanted = self.permissions(&parent, mode);
        self.make_named(&parent, &stored, || {
            on_behalf_of(by, || self.volume.disk.make_dir(&fd, &stored.name, wanted | Mode::RWXU))
        })?;
        let made = (|| {
            let (inode, _) = self.inodes.enter(&parent, &stored.name)?;
            let made = Directory::create(&self.volume, &*inode.fd()?, &directory)?;
            inode.set_directory(made);
            self.give_group(by, &*inode.fd()?)?;
            self.close_to_owner(&*inode.fd()?, wanted)?;
            self.unsynced_records.lock().push(Arc::clone(&inode));
            self.attr_of(&inode)
        })();
        if made.is_err() {
            self.undo_mkdir(&parent, &stored);
        }
        made
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
        let _changing = self.changing.read();
        if self.index.is_counting() {
            self.count(&inode);
        }
        self.make_named(&parent, &stored, || {
            Ok(self.volume.disk.link(&*inode.fd()?, &*parent.fd()?, &stored.name)?)
        })?;
        self.finish_entry(&parent, &stored, |_| Ok(()))
    }

    /// Makes a regular file, with one handle counted, for somebody who is permitted it.
    fn create_file(
        &self,
        by: Requester,
        parent: u64,
        name: &OsStr,
        mode: NewMode,
    ) -> FsResult<(Attr, Arc<Inode>, Arc<OpenFile>, Asker)> {
        self.check_writable()?;
        let parent = self.inodes.find(parent)?;
        let directory = parent.directory(&self.volume)?;
        let stored = seal_name(&directory, name)?;
        let asker = self.asker_to_create(by, &parent, name.as_encoded_bytes())?;
        // Before there is anything to be undone.
        check_waiting(|| asker.provider.may_wait(Some(&self.key_of_new(&directory))))?;
        let dir = parent.fd()?;
        let disk = &self.volume.disk;
        let _changing = self.changing.read();
        let create = || disk.create(&dir, &stored.name, OFlags::EXCL, self.permissions(&parent, mode));
        let file = self.make_named(&parent, &stored, || on_behalf_of(by, create))?;
        let made = (|| {
            self.give_group(by, &file)?;
            let open = Arc::new(self.begin_file(&directory, file, &asker)?);
            let (inode, stat) = self.inodes.enter(&parent, &stored.name)?;
            // A new file has none, and nobody but us can give it some.
            inode.absent.note(CAPABILITY, true);
            let wrapping = self.index.share(open.sealed.with_wrapped(Wrapping::of));
            let mut opening = inode.opening();
            self.index.add(inode.ino, &wrapping, 0);
            self.inodes.begin(&inode, &mut opening, Arc::clone(&open), wrapping, 0);
            opening.count(true);
            drop(opening);
            match self.attr_from(&inode, &stat) {
                Ok(attr) => Ok((attr, inode, open, asker)),
                Err(error) => {
                    self.close_file(&inode, true);
                    self.forget(inode.ino, 1);
                    Err(error)
                }
            }
        })();
        if made.is_err() {
            self.undo(&parent, &stored);
        }
        made
    }

    /// The master key of a new file in a directory.
    fn key_of_new(&self, directory: &Directory) -> String {
        let assigned = directory.assigned_key();
        if assigned.is_empty() { self.volume.default_key() } else { assigned }
    }

    /// Writes the header of a file in an empty backing file, under a new data key of the
    /// directory's master key.
    pub(super) fn begin_file(
        &self,
        directory: &Directory,
        file: DiskFile,
        asker: &Asker,
    ) -> FsResult<OpenFile> {
        let key = self.key_of_new(directory);
        let gate = self.gates.of(&key);
        gate.check_program()?;
        let head = Head::new(Kind::File, self.volume.id, Id::random()?, directory.id);
        let context = file_context(head.volume, head.object);
        let made = asker.provider.generate_data_key(&key, &context)?;
        let wrapped = Wrapped { key_arn: made.key_arn, key_version: made.key_version, blob: made.blob };
        let epoch = self.next_epoch(0)?;
        let opened = SealedFile::create(Ciphertext::writable(file), head, &made.plaintext, wrapped, epoch)?;
        gate.check_program()?;
        Ok(OpenFile::new(opened, gate, self.inodes.count_descriptor()))
    }

    /// Makes an entry that is neither a regular file nor a directory.
    pub(super) fn make_entry(
        &self,
        by: Requester,
        parent: u64,
        name: &OsStr,
        make: impl FnOnce(&Inode, &OwnedFd, &str) -> rustix::io::Result<()>,
    ) -> FsResult<Attr> {
        self.check_writable()?;
        let parent = self.inodes.find(parent)?;
        let stored = seal_name(&*parent.directory(&self.volume)?, name)?;
        let dir = parent.fd()?;
        self.make_named(&parent, &stored, || on_behalf_of(by, || make(&parent, &dir, &stored.name)))?;
        self.finish_entry(&parent, &stored, |inode| self.give_group(by, &*inode.fd()?))
    }

    /// Looks a new entry up and finishes it; removes it again if that fails.
    fn finish_entry(
        &self,
        parent: &Arc<Inode>,
        stored: &StoredName,
        finish: impl FnOnce(&Inode) -> FsResult<()>,
    ) -> FsResult<Attr> {
        let finished = self.inodes.enter(parent, &stored.name).and_then(|(inode, _)| {
            finish(&inode)?;
            self.attr_of(&inode)
        });
        if finished.is_err() {
            self.undo(parent, stored);
        }
        finished
    }

    fn undo_mkdir(&self, parent: &Inode, stored: &StoredName) {
        let disk = &self.volume.disk;
        let removed = parent.fd().and_then(|fd| {
            if let Ok(made) = disk.find(&*fd, &stored.name) {
                let _ = disk.unlink(made, DIRECTORY_NAME);
            }
            Ok(disk.remove_dir(&*fd, &stored.name)?)
        });
        if removed.is_ok() {
            self.remove_sidecar(parent, stored);
        }
    }

    /// Removes an entry that could not be finished.
    fn undo(&self, parent: &Inode, stored: &StoredName) {
        let made = self.inodes.known(parent, &stored.name);
        let removed = parent.fd().and_then(|fd| Ok(self.volume.disk.unlink(&*fd, &stored.name)?));
        match removed {
            Ok(()) => {
                self.remove_sidecar(parent, stored);
                self.free_if_gone(made.ok().flatten().as_ref());
            }
            Err(error) => self.index.lose(&error),
        }
    }

    /// Gives a new entry the requester's group where this process has to do that itself: an
    /// unprivileged one may be a member of groups that it cannot act as. A group other than its own
    /// was inherited from the directory.
    fn give_group(&self, by: Requester, fd: impl AsFd) -> FsResult<()> {
        let (uid, own) = identity::own();
        let disk = &self.volume.disk;
        if uid == 0 || by.gid == own || disk.stat(&fd)?.st_gid != own {
            return Ok(());
        }
        Ok(disk.set_owner(fd, None, Some(Gid::from_raw(by.gid)))?)
    }

    /// The permissions to create an entry with. The backing filesystem applies a default ACL itself.
    fn permissions(&self, dir: &Inode, new: NewMode) -> Mode {
        let default_acl = || absent::find(&self.volume.disk, dir, DEFAULT_ACL).ok().flatten();
        let masked = new.mode & new.umask & MODE_BITS != 0 && default_acl().is_none();
        let left_out = if masked { new.umask } else { 0 };
        Mode::from_raw_mode(new.mode & MODE_BITS & !left_out)
    }

    /// Takes from a new directory's owner what only its record was written with.
    fn close_to_owner(&self, fd: impl AsFd, wanted: Mode) -> FsResult<()> {
        let surplus = OWNER_BITS & !wanted.as_raw_mode();
        if surplus == 0 {
            return Ok(());
        }
        let mode = self.volume.disk.stat(&fd)?.st_mode & MODE_BITS & !surplus;
        Ok(self.volume.disk.set_mode(fd, Mode::from_raw_mode(mode))?)
    }

    pub(super) fn next_epoch(&self, newest: u32) -> FsResult<u32> {
        Ok(self.volume.next_epoch(newest)?)
    }
}

/// Creates something that is to belong to the requester.
///
/// # Errors
/// Those of `create`; `EPERM` where an unprivileged mount would have to make another user's file.
fn on_behalf_of<R>(by: Requester, create: impl FnOnce() -> rustix::io::Result<R>) -> FsResult<R> {
    let (uid, own) = identity::own();
    let gid = if uid == 0 { by.gid } else { own };
    let _acting = act_as(by.uid, gid)?;
    Ok(create()?)
}
