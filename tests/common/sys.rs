//! System calls that tests use and no crate offers safely: mappings, record locks, file handles,
//! pseudo-terminals.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::ptr;

use rustix::mm::{MapFlags, MsyncFlags, ProtFlags, mmap, msync, munmap};

/// A part of a file in memory. Accesses are volatile: other processes and the kernel change it.
pub(crate) struct Mapping {
    at: *mut u8,
    len: usize,
}

// SAFETY: only volatile accesses within the mapping are made, from whatever thread.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps `len` bytes from the file's beginning for reading and writing.
    pub(crate) fn shared(file: &File, len: usize) -> io::Result<Self> {
        Self::new(file, len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED)
    }

    pub(crate) fn private(file: &File, len: usize) -> io::Result<Self> {
        Self::new(file, len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
    }

    pub(crate) fn new(file: &File, len: usize, protection: ProtFlags, flags: MapFlags) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice; nothing else refers to it.
        let at = unsafe { mmap(ptr::null_mut(), len, protection, flags, file, 0) }?;
        Ok(Self { at: at.cast(), len })
    }

    pub(crate) fn read(&self, offset: usize, len: usize) -> Vec<u8> {
        assert!(offset + len <= self.len);
        let byte = |i: usize| {
            let at = self.at.wrapping_add(i);
            // SAFETY: within the mapping.
            unsafe { at.read_volatile() }
        };
        (offset..offset + len).map(byte).collect()
    }

    pub(crate) fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.len);
        for (i, byte) in bytes.iter().enumerate() {
            let at = self.at.wrapping_add(offset + i);
            // SAFETY: within the mapping.
            unsafe { at.write_volatile(*byte) };
        }
    }

    /// Brings what was written to the file (`MS_SYNC`).
    pub(crate) fn sync(&self) -> io::Result<()> {
        // SAFETY: exactly the mapping.
        Ok(unsafe { msync(self.at.cast(), self.len, MsyncFlags::SYNC) }?)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping, which nobody uses any more.
        let _ = unsafe { munmap(self.at.cast(), self.len) };
    }
}

/// `F_RDLCK`, `F_WRLCK` or `F_UNLCK`.
pub(crate) type LockType = libc::c_int;

/// A record lock call of fcntl(2): `command` is one of `F_SETLK`, `F_SETLKW`, `F_GETLK` and their
/// `F_OFD_` forms. Answers what `F_GETLK` found: type, start, length, process.
pub(crate) fn record_lock(
    file: &File,
    command: libc::c_int,
    kind: LockType,
    start: i64,
    len: i64,
) -> io::Result<(LockType, i64, i64, i32)> {
    // SAFETY: plain integers, for which zeros are valid.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock.l_start = start;
    lock.l_len = len;
    // SAFETY: the descriptor is open, and the structure is what these commands take.
    let done = unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut lock) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((LockType::from(lock.l_type), lock.l_start, lock.l_len, lock.l_pid))
}

/// fallocate(2) with any mode, also ones that no library names.
pub(crate) fn fallocate(file: &File, mode: i32, offset: i64, len: i64) -> io::Result<()> {
    // SAFETY: takes integers alone.
    check(unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, len) })
}

/// Writes with the flags of pwritev2(2), such as `RWF_DSYNC`.
pub(crate) fn write_with(file: &File, bytes: &[u8], offset: i64, flags: libc::c_int) -> io::Result<usize> {
    let part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: one buffer, which is read only.
    let written = unsafe { libc::pwritev2(file.as_raw_fd(), &raw const part, 1, offset, flags) };
    usize::try_from(written).map_err(|_| io::Error::last_os_error())
}

/// A file handle of name_to_handle_at(2), as file servers keep them.
#[repr(C)]
pub(crate) struct FileHandle {
    bytes: u32,
    kind: i32,
    data: [u8; 128],
}

impl FileHandle {
    pub(crate) fn of(file: &File) -> io::Result<Self> {
        let mut handle = Self { bytes: 128, kind: 0, data: [0; 128] };
        let (path, mut mount) = (c"".as_ptr(), 0);
        let (fd, flags) = (file.as_raw_fd(), libc::AT_EMPTY_PATH);
        let at = (&raw mut handle).cast();
        // SAFETY: the handle has room for as many bytes as it says; the path is a string.
        check(unsafe { libc::name_to_handle_at(fd, path, at, &raw mut mount, flags) })?;
        Ok(handle)
    }

    /// Opens the file again, on the filesystem that `mount` is on.
    pub(crate) fn open(&mut self, mount: &File) -> io::Result<File> {
        let at = (&raw mut *self).cast();
        // SAFETY: a handle that `name_to_handle_at` filled in.
        let fd = unsafe { libc::open_by_handle_at(mount.as_raw_fd(), at, libc::O_RDONLY) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor that nobody else has.
        Ok(unsafe { File::from_raw_fd(fd) })
    }
}

/// A new pseudo-terminal: the end of the person, and that of the program.
pub(crate) fn pseudo_terminal() -> io::Result<(File, File)> {
    let (mut near, mut far) = (-1, -1);
    let (name, settings, size) = (ptr::null_mut(), ptr::null(), ptr::null());
    // SAFETY: two places for descriptors; the rest may be null.
    check(unsafe { libc::openpty(&raw mut near, &raw mut far, name, settings, size) })?;
    // SAFETY: a new descriptor that nobody else has.
    let near = unsafe { File::from_raw_fd(near) };
    // SAFETY: as the other.
    let far = unsafe { File::from_raw_fd(far) };
    // Not for the programs that are started, for which the terminal would not end then.
    for end in [&near, &far] {
        rustix::io::fcntl_setfd(end, rustix::io::FdFlags::CLOEXEC)?;
    }
    Ok((near, far))
}

/// A buffer whose address is a multiple of 4096, as `O_DIRECT` wants it on other filesystems.
pub(crate) struct Aligned {
    space: Vec<u8>,
    from: usize,
    len: usize,
}

impl Aligned {
    pub(crate) fn new(bytes: &[u8]) -> Self {
        let mut space = vec![0; bytes.len() + 4096];
        let from = space.as_ptr().align_offset(4096);
        space[from..from + bytes.len()].copy_from_slice(bytes);
        Self { space, from, len: bytes.len() }
    }
}

impl std::ops::Deref for Aligned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.space[self.from..self.from + self.len]
    }
}

impl std::ops::DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.space[self.from..self.from + self.len]
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Has this thread reach files as another user, and remain itself in all else.
pub(crate) fn set_fs_uid(uid: u32) {
    // SAFETY: changes a number of this thread in the kernel; touches no memory.
    let set = || unsafe { libc::setfsuid(uid) };
    set();
    // It tells the one from before, and no errors.
    assert_eq!(set().cast_unsigned(), uid);
}
