//! Mounts whose process was killed: the kernel keeps them, and answers every access with `ENOTCONN`.

use std::io;
use std::path::Path;
use std::process::Command;

use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::exit::{CliError, CliResult, Code, words};
use crate::mount::find_mount;

/// Takes a dead kmsfs away from a mount point, so that it can be mounted again without any step in
/// between. Whoever still uses the dead one gets errors as before.
pub(super) fn clear_dead_mount(mountpoint: &Path) -> CliResult<()> {
    // More than one may lie upon each other.
    while rustix::fs::stat(mountpoint).is_err_and(|error| error == Errno::NOTCONN) {
        let refused = |why: &str| {
            let shown = mountpoint.display();
            let next = format!("unmount it with 'umount -l {shown}'");
            Err(CliError::new(Code::MountPoint, format!("what is mounted at {shown} {why}; {next}")))
        };
        if !find_mount(mountpoint).is_ok_and(|found| found.is_some()) {
            return refused("is dead, and no kmsfs");
        }
        if let Err(error) = detach(mountpoint) {
            return refused(&format!("is dead: {}", words(&error)));
        }
        tracing::info!("took the dead mount at {} away", mountpoint.display());
    }
    Ok(())
}

fn detach(mountpoint: &Path) -> io::Result<()> {
    match rustix::mount::unmount(mountpoint, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Err(Errno::PERM) => {}
        done => return Ok(done?),
    }
    let output = Command::new("fusermount3").args(["-u", "-z", "--"]).arg(mountpoint).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(io::Error::other(said.trim().to_owned())) }
}
