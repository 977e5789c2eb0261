//! FUSE requests as calls of [`crate::fs`], and their answers back. Nothing is decided here.

use std::ffi::OsStr;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::SystemTime;

use fuser::{
    AccessFlags, BsdFileFlags, Errno, FileHandle, Filesystem, FopenFlags, INodeNo, IoctlFlags, KernelConfig,
    LockOwner, OpenAccMode, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite,
    ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::agreement::{self, Terms};
use super::convert::{file_type, requester, set_time, to_fuse};
use super::gate;
use super::reply::{self, GENERATION, TTL, break_if, run};
use super::waiting;
use crate::fs::{Allocate, Fs, FsError, IoMode, NewMode, RenameMode, SetAttr, Whence};

const NAME_MAX: u32 = 255;

thread_local! {
    /// What a read is answered from.
    static REPLY: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// The filesystem as `fuser` wants it.
pub(super) struct Adapter {
    fs: Arc<Fs>,
    terms: Terms,
    /// Handles that only write may go past the kernel's page cache.
    direct: bool,
}

impl Adapter {
    pub(super) fn new(fs: Arc<Fs>, terms: Terms) -> Self {
        Self { fs, terms, direct: false }
    }
}

impl Adapter {
    /// The mode that suits a handle with these flags.
    fn suiting(&self, flags: OpenFlags) -> IoMode {
        let only_writes = flags.acc_mode() == OpenAccMode::O_WRONLY;
        if self.direct && only_writes { IoMode::Direct } else { IoMode::Cached }
    }
}

fn open_flags(mode: IoMode) -> FopenFlags {
    // Pages from before stay what they are, either way.
    let kept = FopenFlags::FOPEN_KEEP_CACHE;
    match mode {
        IoMode::Cached => kept,
        IoMode::Direct => kept | FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES,
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        self.direct = agreement::settle(config, self.terms);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        reply::found(reply, || self.fs.lookup(parent.0, name));
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        let _ = gate::looking_if(true, || {
            run(|| {
                self.fs.forget(ino.0, nlookup);
                Ok(())
            })
        });
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        gate::looking_if(ino == INodeNo::ROOT, || reply::attr(reply, || self.fs.getattr(ino.0)));
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = SetAttr { mode, uid, gid, size, atime: set_time(atime), mtime: set_time(mtime) };
        let (fs, by) = (Arc::clone(&self.fs), requester(req));
        waiting::answer(reply, move || fs.setattr(by, ino.0, fh.map(|fh| fh.0), &set), reply::answer_attr);
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        match run(|| self.fs.readlink(ino.0)) {
            Ok(target) => reply.data(&target),
            Err(errno) => reply.error(errno),
        }
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let (fs, by, name) = (Arc::clone(&self.fs), requester(req), name.to_owned());
        let mode = NewMode { mode, umask };
        waiting::answer(reply, move || fs.mknod(by, parent.0, &name, mode, rdev), reply::answer_entry);
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let mode = NewMode { mode, umask };
        reply::entry(reply, || self.fs.mkdir(requester(req), parent.0, name, mode));
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply::empty(reply, || self.fs.unlink(parent.0, name));
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply::empty(reply, || self.fs.rmdir(parent.0, name));
    }

    fn symlink(&self, req: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        reply::entry(reply, || self.fs.symlink(requester(req), parent.0, name, target.as_os_str()));
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mode = if flags.is_empty() {
            RenameMode::Replace
        } else if flags == RenameFlags::RENAME_NOREPLACE {
            RenameMode::NoReplace
        } else if flags == RenameFlags::RENAME_EXCHANGE {
            RenameMode::Exchange
        } else {
            return reply.error(Errno::EINVAL);
        };
        reply::empty(reply, || self.fs.rename(parent.0, name, newparent.0, newname, mode));
    }

    fn link(&self, _req: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        reply::entry(reply, || self.fs.link(ino.0, newparent.0, newname));
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (fs, by) = (Arc::clone(&self.fs), requester(req));
        let write = flags.acc_mode() != OpenAccMode::O_RDONLY;
        let wanted = self.suiting(flags);
        let open = move || {
            let fh = fs.open_for(by, ino.0, write)?;
            Ok((fh, fs.choose_io_mode(fh, wanted)?))
        };
        waiting::answer(reply, open, |reply, opened| match opened {
            Ok((fh, mode)) => reply.opened(FileHandle(fh), open_flags(mode)),
            Err(errno) => reply.error(errno),
        });
    }

    /// Asked where the kernel does not check permissions: by root, that is.
    fn access(&self, _req: &Request, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        let execute = mask.contains(AccessFlags::X_OK);
        gate::looking_if(ino == INodeNo::ROOT, || {
            reply::empty(reply, || if execute { self.fs.check_executable(ino.0) } else { Ok(()) });
        });
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (fs, by, name) = (Arc::clone(&self.fs), requester(req), name.to_owned());
        let mode = NewMode { mode, umask };
        let wanted = self.suiting(OpenFlags(flags));
        let create = move || {
            let (attr, fh) = fs.create(by, parent.0, &name, mode)?;
            Ok((attr, fh, fs.choose_io_mode(fh, wanted)?))
        };
        waiting::answer(reply, create, |reply: ReplyCreate, created| match created {
            Ok((attr, fh, mode)) => {
                reply.created(&TTL, &to_fuse(&attr), GENERATION, FileHandle(fh), open_flags(mode));
            }
            Err(errno) => reply.error(errno),
        });
    }

    fn read(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        // The kernel names an owner of locks for what a program reads, and none for what it keeps.
        let read = if lock_owner.is_some() { Fs::read } else { Fs::read_pages };
        REPLY.with_borrow_mut(|buffer| {
            if buffer.len() < size as usize {
                buffer.resize(size as usize, 0);
            }
            match waiting::attempt(|| read(&self.fs, fh.0, offset, &mut buffer[..size as usize])) {
                Some(Ok(len)) => reply.data(&buffer[..len]),
                Some(Err(errno)) => reply.error(errno),
                None => {
                    let fs = Arc::clone(&self.fs);
                    let read_elsewhere = move || {
                        let mut buffer = vec![0; size as usize];
                        let len = read(&fs, fh.0, offset, &mut buffer)?;
                        buffer.truncate(len);
                        Ok(buffer)
                    };
                    waiting::elsewhere(reply, read_elsewhere, |reply: ReplyData, read| match read {
                        Ok(data) => reply.data(&data),
                        Err(errno) => reply.error(errno),
                    });
                }
            }
        });
    }

    fn write(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let from_cache = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        let drop_suid = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID).then(|| requester(req));
        let answer = |reply: ReplyWrite, written| match written {
            Ok(len) => reply.written(len),
            Err(errno) => reply.error(errno),
        };
        let len = data.len() as u32;
        match waiting::attempt(|| self.fs.write(fh.0, offset, data, from_cache, drop_suid)) {
            Some(written) => answer(reply, written.map(|()| len)),
            None => {
                let (fs, data) = (Arc::clone(&self.fs), data.to_vec());
                let write = move || fs.write(fh.0, offset, &data, from_cache, drop_suid).map(|()| len);
                waiting::elsewhere(reply, write, answer);
            }
        }
    }

    /// Nothing is held back here that a close could report: every write was answered. The kernel takes
    /// this answer for all closes to come, and spares itself the question; it still writes back the pages
    /// of mappings.
    fn flush(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        reply::empty(reply, || {
            self.fs.release(fh.0);
            Ok(())
        });
    }

    fn fsync(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        reply::empty(reply, || self.fs.fsync(fh.0, datasync));
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match gate::looking_if(ino == INodeNo::ROOT, || run(|| self.fs.opendir(ino.0))) {
            // A listing that began at the beginning and came to the end is kept until the directory changes.
            Ok(fh) => {
                let flags = FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE;
                reply.opened(FileHandle(fh), flags);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn readdir(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let filled = run(|| {
            self.fs.readdir(fh.0, offset, |entry| {
                break_if(reply.add(INodeNo(entry.ino), entry.next, file_type(entry.kind), &entry.name))
            })
        });
        match filled {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn readdirplus(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let filled = run(|| {
            self.fs.readdir(fh.0, offset, |entry| {
                // An entry that is gone by now need not be listed.
                let Ok(attr) = self.fs.entry_attr(fh.0, entry) else { return ControlFlow::Continue(()) };
                let ino = INodeNo(attr.ino);
                let full = reply.add(ino, entry.next, &entry.name, &TTL, &to_fuse(&attr), GENERATION);
                if full && !entry.is_dot() {
                    self.fs.forget(attr.ino, 1);
                }
                break_if(full)
            })
        });
        match filled {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn releasedir(&self, _req: &Request, ino: INodeNo, fh: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        gate::looking_if(ino == INodeNo::ROOT, || {
            reply::empty(reply, || {
                self.fs.releasedir(fh.0);
                Ok(())
            });
        });
    }

    fn fsyncdir(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply::empty(reply, || self.fs.fsyncdir(fh.0));
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        match gate::looking_if(true, || run(|| self.fs.statfs())) {
            Ok(s) => reply.statfs(
                s.f_blocks,
                s.f_bfree,
                s.f_bavail,
                s.f_files,
                s.f_ffree,
                s.f_bsize as u32,
                NAME_MAX,
                s.f_frsize as u32,
            ),
            Err(errno) => reply.error(errno),
        }
    }

    fn setxattr(
        &self,
        req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let (fs, by, name, value) = (Arc::clone(&self.fs), requester(req), name.to_owned(), value.to_vec());
        let set = move || fs.setxattr(by, ino.0, &name, &value, flags);
        waiting::answer(reply, set, reply::answer_empty);
    }

    fn getxattr(&self, req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let (fs, by, name) = (Arc::clone(&self.fs), requester(req), name.to_owned());
        let get = move || fs.getxattr_for(by, ino.0, &name);
        gate::looking_if(ino == INodeNo::ROOT, || {
            waiting::answer(reply, get, move |reply, value| reply::answer_xattr(reply, size, value));
        });
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let list = || self.fs.listxattr(requester(req), ino.0);
        gate::looking_if(ino == INodeNo::ROOT, || reply::xattr(reply, size, list));
    }

    fn removexattr(&self, req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply::empty(reply, || self.fs.removexattr(requester(req), ino.0, name));
    }

    fn fallocate(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
        const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | KEEP;
        const ZERO_KEEP: i32 = libc::FALLOC_FL_ZERO_RANGE | KEEP;
        let how = match mode {
            0 => Allocate::Reserve,
            KEEP => Allocate::ReserveKeepSize,
            PUNCH => Allocate::PunchHole,
            libc::FALLOC_FL_ZERO_RANGE => Allocate::ZeroRange,
            ZERO_KEEP => Allocate::ZeroRangeKeepSize,
            _ => return reply.error(Errno::EOPNOTSUPP),
        };
        let (fs, by) = (Arc::clone(&self.fs), requester(req));
        waiting::answer(reply, move || fs.fallocate(by, fh.0, offset, length, how), reply::answer_empty);
    }

    fn ioctl(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    fn lseek(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let fs = Arc::clone(&self.fs);
        let find = move || {
            let offset = u64::try_from(offset).map_err(|_| FsError::new(libc::ENXIO))?;
            let whence = match whence {
                libc::SEEK_DATA => Whence::Data,
                libc::SEEK_HOLE => Whence::Hole,
                _ => return Err(FsError::new(libc::EINVAL)),
            };
            fs.lseek(fh.0, offset, whence)
        };
        if !self.fs.has_writers(fh.0) {
            return reply::lseek(reply, find);
        }
        // The kernel may have pages that it has not passed on. Asking for them waits for writes, which
        // this thread may have to serve.
        let fs = Arc::clone(&self.fs);
        let written = move || fs.write_back(fh.0).and_then(|()| find());
        let spawned = thread::Builder::new().spawn(move || reply::lseek(reply, written));
        if let Err(error) = spawned {
            tracing::warn!("a thread for lseek: {error}");
        }
    }
}
