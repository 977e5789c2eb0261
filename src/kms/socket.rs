//! The Unix socket beside a key store: `DIR/socket`.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

const NAME: &str = "socket";
/// Longest path that fits into a socket's address.
const MAX_PATH: usize = 107;

/// Connects to the owner of the key store in `dir`, within `timeout`.
///
/// # Errors
/// `NotFound` or `ConnectionRefused` when there is none, `WouldBlock` or `TimedOut` when it does
/// not answer in time.
pub fn connect(dir: &Path, timeout: Duration) -> io::Result<UnixStream> {
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // Bounds the wait for a place in the owner's queue, too.
    set_socket_timeout(&socket, Timeout::Send, Some(timeout))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(timeout))?;
    let (_anchor, path) = address(dir)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(&path)?)?;
    Ok(UnixStream::from(socket))
}

/// Listens beside the key store in `dir`, in place of whoever did so before: the caller must own
/// the store. Whom the directory lets through may connect: that choice is its owner's, and what
/// they may do is decided by policies and grants. A directory is made for its owner alone.
///
/// # Errors
/// Those of the file system.
pub fn bind(dir: &Path) -> io::Result<UnixListener> {
    remove(dir)?;
    let (_anchor, path) = address(dir)?;
    let listener = UnixListener::bind(path)?;
    let found = fs::metadata(dir)?;
    let mode = mode(found.mode());
    if mode & 0o060 != 0 {
        // Fails if the owner is not in that group; nobody gets in by mistake then.
        rustix::fs::chownat(CWD, dir.join(NAME), None, Some(Gid::from_raw(found.gid())), AtFlags::empty())?;
    }
    fs::set_permissions(dir.join(NAME), Permissions::from_mode(mode))?;
    Ok(listener)
}

/// Removes the socket, if there is one.
///
/// # Errors
/// Those of the file system.
pub fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_file(dir.join(NAME)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Reading and writing for whom a directory of this mode lets through.
fn mode(dir: u32) -> u32 {
    let passes = |bit: u32| dir & bit != 0;
    0o600 | if passes(0o010) { 0o060 } else { 0 } | if passes(0o001) { 0o006 } else { 0 }
}

/// A path to the socket that is short enough, and what keeps it valid.
fn address(dir: &Path) -> io::Result<(Option<OwnedFd>, PathBuf)> {
    let path = dir.join(NAME);
    if path.as_os_str().len() <= MAX_PATH {
        return Ok((None, path));
    }
    let anchor = rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let path = Path::new("/proc/self/fd").join(anchor.as_raw_fd().to_string()).join(NAME);
    Ok((Some(anchor), path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_open_to_whom_the_directory_lets_through() {
        for (dir, socket) in [(0o700, 0o600), (0o750, 0o660), (0o711, 0o666), (0o755, 0o666), (0o701, 0o606)]
        {
            assert_eq!(mode(dir), socket, "{dir:o}");
            let place = tempfile::tempdir().unwrap();
            fs::set_permissions(place.path(), Permissions::from_mode(dir)).unwrap();
            bind(place.path()).unwrap();
            let found = fs::metadata(place.path().join(NAME)).unwrap();
            assert_eq!(found.mode() & 0o777, socket);
        }
    }
}
