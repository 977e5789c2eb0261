//! Mounting with mount(2), as root: the mount's type is `fuse.kmsfs` and every flag is ours, which
//! `fuser` does not offer.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use fuser::MountOption;
use rustix::mount::MountFlags;

use super::SUBTYPE;
use super::options::MountOptions;

/// Whether users and groups are the machine's own, not those of a user namespace, whose root may do less
/// than root.
pub(super) fn is_initial_namespace() -> bool {
    const ALL: [&str; 3] = ["0", "0", "4294967295"];
    std::fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| map.split_whitespace().eq(ALL))
}

/// Mounts, with permissions to be checked by the kernel or not; answers the connection to serve.
///
/// # Errors
/// As mount(2).
pub(super) fn mount(
    source: &Path,
    mountpoint: &Path,
    options: &MountOptions,
    permissions: bool,
) -> io::Result<OwnedFd> {
    let device = File::options().read(true).write(true).open("/dev/fuse")?;
    let root_mode = rustix::fs::stat(mountpoint)?.st_mode & libc::S_IFMT;
    let mut data = format!(
        "fd={},rootmode={root_mode:o},user_id={},group_id={}",
        device.as_raw_fd(),
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    if permissions {
        data.push_str(",default_permissions");
    }
    if options.allow_other {
        data.push_str(",allow_other");
    }
    let data = std::ffi::CString::new(data)?;
    rustix::mount::mount(source, mountpoint, format!("fuse.{SUBTYPE}"), flags(options), Some(&*data))?;
    Ok(device.into())
}

fn flags(options: &MountOptions) -> MountFlags {
    // As mount.fuse: device nodes and set-ID bits only where they are asked for.
    let mut flags = MountFlags::NODEV | MountFlags::NOSUID;
    for option in options.kernel_options() {
        match option {
            MountOption::RO => flags |= MountFlags::RDONLY,
            MountOption::Dev => flags -= MountFlags::NODEV,
            MountOption::Suid => flags -= MountFlags::NOSUID,
            MountOption::NoExec => flags |= MountFlags::NOEXEC,
            MountOption::NoAtime => flags |= MountFlags::NOATIME,
            MountOption::Sync => flags |= MountFlags::SYNCHRONOUS,
            MountOption::DirSync => flags |= MountFlags::DIRSYNC,
            _ => {}
        }
    }
    flags
}
