//! What a file loses when somebody without privileges changes it: set-ID bits and capabilities.
//!
//! On this process's own changes the kernel does that by itself, as far as they go: it takes
//! capabilities away whoever writes, and leaves a privileged process its set-ID bits.

use rustix::fs::{Mode, Stat};
use rustix::io::Errno;

use super::absent::CAPABILITY;
use super::disk::Disk;
use super::inode::Inode;
use super::{FsResult, Requester};
use crate::sys;

const SET_UID: u32 = 0o4000;
const SET_GID: u32 = 0o2000;
const GROUP_EXECUTES: u32 = 0o010;
const MODE_BITS: u32 = 0o7777;

/// Takes set-ID bits away from a file that somebody without privileges writes to. As elsewhere, a
/// member of its group leaves the set-group-ID bit where the group may not execute the file, for
/// there it means something else.
pub(super) fn drop_set_ids(disk: &Disk, by: Requester, inode: &Inode) -> FsResult<()> {
    let stat = disk.stat(&*inode.fd()?)?;
    let mut dropped = stat.st_mode & SET_UID;
    if stat.st_mode & SET_GID != 0 && (stat.st_mode & GROUP_EXECUTES != 0 || !is_member(by, stat.st_gid)) {
        dropped |= SET_GID;
    }
    // Else housekeeping under way would put them back.
    let _guard = (dropped != 0).then(|| inode.attributes.lock());
    remove_bits(disk, inode, &stat, dropped)
}

/// The same, and takes capabilities away where the change need not have been a write to the backing
/// file.
pub(super) fn drop_privileges(disk: &Disk, by: Requester, inode: &Inode) -> FsResult<()> {
    drop_set_ids(disk, by, inode)?;
    if inode.absent.knows(CAPABILITY) {
        return Ok(());
    }
    match disk.remove_xattr(&*inode.fd()?, CAPABILITY.as_bytes()) {
        Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
        // An unprivileged process may not, whether there is one or not.
        Err(Errno::PERM) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Takes the set-group-ID bit away when whoever changes permissions or owner is no member of the
/// group, as the kernel does where it knows the caller.
pub(super) fn drop_foreign_set_gid(disk: &Disk, by: Requester, inode: &Inode) -> FsResult<()> {
    let stat = disk.stat(&*inode.fd()?)?;
    let foreign = stat.st_mode & SET_GID != 0 && !is_member(by, stat.st_gid);
    remove_bits(disk, inode, &stat, if foreign { SET_GID } else { 0 })
}

fn remove_bits(disk: &Disk, inode: &Inode, stat: &Stat, bits: u32) -> FsResult<()> {
    if bits == 0 {
        return Ok(());
    }
    let mode = Mode::from_raw_mode(stat.st_mode & MODE_BITS & !bits);
    Ok(disk.set_mode(&*inode.fd()?, mode)?)
}

/// Whether somebody is in a group, or may do as if. Asks for his groups only where it must.
fn is_member(by: Requester, gid: u32) -> bool {
    let among = |groups: Vec<u32>| groups.contains(&gid);
    by.uid == 0 || by.gid == gid || sys::groups_of(by.pid).is_some_and(among)
}
