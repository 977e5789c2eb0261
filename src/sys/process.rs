//! What a process that holds keys does to itself, and how it goes to the background.

use std::io;
use std::os::fd::OwnedFd;

use rustix::process::{DumpableBehavior, Resource, Rlimit};

/// Keeps key material out of core dumps and away from debuggers of the same user: no dumps, not
/// traceable.
///
/// # Errors
/// As prctl(2) and setrlimit(2).
pub fn harden() -> io::Result<()> {
    rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}

/// Raises the limit of open descriptors as far as this process may, and returns it.
///
/// # Errors
/// As setrlimit(2).
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let mut limit = rustix::process::getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(Resource::Nofile, limit)?;
    Ok(limit.current.unwrap_or(u64::MAX))
}

/// The two processes after [`fork_daemon`].
#[derive(Debug)]
pub enum Forked {
    /// The one that the caller waits for; reads the outcome from the pipe.
    Parent(OwnedFd),
    /// The one that goes on in a session of its own; writes the outcome to the pipe.
    Child(OwnedFd),
}

/// Forks a child into a session of its own, connected by a pipe.
///
/// # Errors
/// As fork(2) and pipe(2); [`io::ErrorKind::Other`] if this process already has other threads.
pub fn fork_daemon() -> io::Result<Forked> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("a process with threads cannot go to the background"));
    }
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    // SAFETY: this thread is the only one, so that the child finds no lock held by a thread that
    // it does not have.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            rustix::process::setsid()?;
            Ok(Forked::Child(write))
        }
        _ => Ok(Forked::Parent(read)),
    }
}

/// Points the standard streams of a daemon to `/dev/null`.
///
/// # Errors
/// As open(2) and dup2(2).
pub fn detach_streams() -> io::Result<()> {
    let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_threads_is_not_forked() {
        // The test harness itself has threads.
        assert!(fork_daemon().is_err());
    }

    #[test]
    fn a_hardened_process_cannot_dump() {
        // In a child, for the harness should stay debuggable.
        // SAFETY: the child only makes system calls and exits.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let hardened = harden().is_ok()
                && rustix::process::getrlimit(Resource::Core).maximum == Some(0)
                && matches!(rustix::process::dumpable_behavior(), Ok(DumpableBehavior::NotDumpable));
            // SAFETY: ends the child at once, running no destructors of the parent's.
            unsafe { libc::_exit(i32::from(!hardened)) };
        }
        let mut status = 0;
        // SAFETY: waits for the child just made and writes to a local.
        assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
        assert_eq!(status, 0);
    }
}
