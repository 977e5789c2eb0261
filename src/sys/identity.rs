//! Creating files for somebody else, on one thread.
//!
//! Linux keeps credentials per thread; the two numbers that decide to whom a new file belongs,
//! fsuid and fsgid, exist for file servers like this one (see setfsuid(2)). Whoever else uses the
//! process notices nothing, and a file has its owner from its first moment.

use std::marker::PhantomData;
use std::sync::OnceLock;

use rustix::io::{Errno, Result};
use rustix::process::{getegid, geteuid};
use rustix::thread::{capabilities, set_capabilities};

/// Whom this process acts as: its effective user and group, as numbers. Neither ever changes, so that it
/// is asked for once.
pub fn own() -> (u32, u32) {
    static OWN: OnceLock<(u32, u32)> = OnceLock::new();
    *OWN.get_or_init(|| (geteuid().as_raw(), getegid().as_raw()))
}

/// While it lives, what this thread creates belongs to somebody else.
#[must_use = "ends when it is dropped"]
#[derive(Debug)]
pub struct Acting {
    /// Something was changed.
    changed: bool,
    /// Credentials belong to the thread that took them on.
    _thread: PhantomData<*const ()>,
}

/// Lets new files belong to `uid` and `gid`. What this thread may do stays as it is: a privileged
/// process keeps its capabilities. A thread that is started meanwhile inherits all of it for good.
///
/// # Errors
/// `EPERM` if this process may not give files to them.
pub fn act_as(uid: u32, gid: u32) -> Result<Acting> {
    let changed = (uid, gid) != own();
    let acting = Acting { changed, _thread: PhantomData };
    if !changed {
        return Ok(acting);
    }
    // The group first: afterwards the privilege to change it could be gone.
    set_fsgid(gid)?;
    let capable = if uid == own().0 { None } else { Some(capabilities(None)?) };
    set_fsuid(uid)?;
    if let Some(capable) = capable {
        // The kernel has taken those away that override permissions on files.
        set_capabilities(None, capable)?;
    }
    Ok(acting)
}

impl Drop for Acting {
    fn drop(&mut self) {
        if !self.changed {
            return;
        }
        // A process may always return to its effective ids.
        let (uid, gid) = own();
        let _ = set_fsuid(uid);
        let _ = set_fsgid(gid);
    }
}

/// Not an id, hence always refused: asks for the present one.
const NONE: u32 = u32::MAX;

fn set_fsuid(uid: u32) -> Result<()> {
    let set = |uid| {
        // SAFETY: takes and returns numbers, and affects this thread alone.
        unsafe { libc::setfsuid(uid) }
    };
    set(uid);
    // A call that was refused changes nothing, which only another one tells.
    if set(NONE).cast_unsigned() == uid { Ok(()) } else { Err(Errno::PERM) }
}

fn set_fsgid(gid: u32) -> Result<()> {
    let set = |gid| {
        // SAFETY: as above.
        unsafe { libc::setfsgid(gid) }
    };
    set(gid);
    if set(NONE).cast_unsigned() == gid { Ok(()) } else { Err(Errno::PERM) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    #[test]
    fn new_files_have_their_owner_at_once_and_other_threads_notice_nothing() {
        if !geteuid().is_root() {
            let _ = writeln!(std::io::stderr(), "skipped: giving files away: not root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        // Nobody but a privileged process may create anything here.
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o000)).unwrap();
        let owner_of = |name: &str| {
            let file = std::fs::File::create(dir.path().join(name)).unwrap();
            let stat = file.metadata().unwrap();
            (stat.uid(), stat.gid())
        };
        let at_once = std::sync::Barrier::new(2);
        std::thread::scope(|s| {
            let beside = s.spawn(|| {
                at_once.wait();
                owner_of("beside")
            });
            let acting = act_as(4242, 2424).unwrap();
            assert_eq!(owner_of("theirs"), (4242, 2424));
            at_once.wait();
            assert_eq!(beside.join().unwrap(), (0, 0));
            drop(acting);
        });
        assert_eq!(owner_of("ours"), (0, 0));
        assert!(capabilities(None).unwrap().effective.contains(rustix::thread::CapabilitySet::DAC_OVERRIDE));
    }

    #[test]
    fn what_is_no_id_is_refused() {
        assert_eq!(act_as(NONE, getegid().as_raw()).err(), Some(Errno::PERM));
    }
}
