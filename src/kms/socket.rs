//! The Unix socket beside a key store: `DIR/socket`.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
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
/// the store.
///
/// # Errors
/// Those of the file system.
pub fn bind(dir: &Path) -> io::Result<UnixListener> {
    remove(dir)?;
    let (_anchor, path) = address(dir)?;
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(dir.join(NAME), Permissions::from_mode(0o600))?;
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
