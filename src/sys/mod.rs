//! The operating system, where the standard library and `rustix` do not reach or need a turn of
//! phrase.
#![allow(unsafe_code)]

pub mod activation;
pub mod identity;
pub mod process;
pub mod residency;

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Result;

/// The path under `/proc` by which a descriptor's file can be reached again, also one opened with
/// `O_PATH`, and without a race.
pub fn proc_path(fd: impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

/// Opens anew what an `O_PATH` descriptor refers to.
///
/// # Errors
/// As open(2).
pub fn reopen(fd: impl AsFd, flags: OFlags) -> Result<OwnedFd> {
    rustix::fs::openat(CWD, proc_path(fd), flags | OFlags::CLOEXEC, Mode::empty())
}

/// Where a descriptor's file lies in the backing filesystem, for messages.
pub fn path_of(fd: impl AsFd) -> String {
    match rustix::fs::readlink(proc_path(fd), Vec::new()) {
        Ok(path) => String::from_utf8_lossy(path.as_bytes()).into_owned(),
        Err(_) => "(unknown)".to_owned(),
    }
}

/// Has the allocator return memory that nothing uses to the system, where it can be told to.
pub fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointer, and may be called at any time from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// The groups of a process, its effective one first, from `/proc`; `None` if it is gone.
pub fn groups_of(pid: u32) -> Option<Vec<u32>> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    let effective = field("Gid:")?.split_whitespace().nth(1)?;
    let supplementary = field("Groups:")?.split_whitespace();
    std::iter::once(effective).chain(supplementary).map(|gid| gid.parse().ok()).collect()
}

/// What a process runs, and the groups that it is in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Running {
    /// The program's name, as the process calls itself.
    pub program: String,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// The same, of the process or thread of this number, from `/proc`; `None` if it is gone.
pub fn running(tid: u32) -> Option<Running> {
    let status = std::fs::read_to_string(format!("/proc/{tid}/status")).ok()?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let groups = field("Groups:")?.split_whitespace().map(|gid| gid.parse().ok()).collect::<Option<_>>()?;
    // A thread may have a name of its own.
    let program = match field("Tgid:")? {
        own if own == tid.to_string() => field("Name:")?.to_owned(),
        process => std::fs::read_to_string(format!("/proc/{process}/comm")).ok()?.trim_end().to_owned(),
    };
    Some(Running { program, groups })
}

/// The process that holds a lock on the file, for messages.
pub fn lock_holder(fd: impl AsFd) -> Option<u32> {
    lock_holders(fd).first().copied()
}

/// How often the holder of a lock is looked for.
const LOOKS: u32 = 5;

/// The processes that hold a lock on the file, from `/proc/locks`. One in another PID namespace
/// cannot be named, and some filesystems number their files differently there.
///
/// The kernel gives a long list in parts, between which a lock that stays may be passed over. So where none
/// is found it is looked for again.
pub fn lock_holders(fd: impl AsFd) -> Vec<u32> {
    let Ok(stat) = rustix::fs::fstat(fd) else { return Vec::new() };
    let (major, minor) = (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
    let wanted = format!("{major:02x}:{minor:02x}:{}", stat.st_ino);
    let holder = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let at = fields.iter().position(|field| *field == wanted)?;
        // Whoever only waits for the lock does not have it.
        if fields.get(1) == Some(&"->") { None } else { fields.get(at.checked_sub(1)?)?.parse().ok() }
    };
    let look = |_| -> Vec<u32> {
        let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
        locks.lines().filter_map(holder).collect()
    };
    (0..LOOKS).map(look).find(|holders| !holders.is_empty()).unwrap_or_default()
}

/// The C library's words for an error number.
pub fn words(errno: i32) -> String {
    let text = std::io::Error::from_raw_os_error(errno).to_string();
    text.split_once(" (os error").map_or(text.clone(), |(words, _)| words.to_owned())
}
