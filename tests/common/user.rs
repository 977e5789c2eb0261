//! Doing something as another user.

use std::panic::resume_unwind;
use std::thread;

use rustix::fs::Mode;
use rustix::process::{Gid, Uid, umask};
use rustix::thread::{
    UnshareFlags, set_thread_groups, set_thread_res_gid, set_thread_res_uid, unshare_unsafe,
};

/// Somebody: user, group and supplementary groups.
#[derive(Debug, Clone, Copy)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: &'static [u32],
}

pub(crate) const ROOT: User = User { uid: 0, gid: 0, groups: &[] };
/// Two users without a group in common.
pub(crate) const ADA: User = User { uid: 70_001, gid: 70_101, groups: &[] };
pub(crate) const BOB: User = User { uid: 70_002, gid: 70_102, groups: &[] };
/// A group that neither has as its own.
pub(crate) const TEAM: u32 = 70_200;
/// Ada, with the group as a supplementary one.
pub(crate) const ADA_OF_TEAM: User = User { groups: &[70_300, TEAM, 70_301], ..ADA };
pub(crate) const BOB_OF_TEAM: User = User { groups: &[TEAM], ..BOB };

impl User {
    /// Runs `f` in a thread with this user's credentials and no other rights, a umask of its own,
    /// which is 022, and a working directory of its own. Credentials belong to threads on Linux;
    /// only libc changes those of a whole process.
    pub(crate) fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        let user = *self;
        let in_thread = move || {
            // SAFETY: separates the thread's umask and working directory, and no memory or descriptors.
            unsafe { unshare_unsafe(UnshareFlags::FS) }.unwrap();
            umask(Mode::from_raw_mode(0o022));
            let groups: Vec<Gid> = user.groups.iter().map(|&gid| Gid::from_raw(gid)).collect();
            set_thread_groups(&groups).unwrap();
            let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
            set_thread_res_gid(gid, gid, gid).unwrap();
            set_thread_res_uid(uid, uid, uid).unwrap();
            f()
        };
        thread::scope(|scope| scope.spawn(in_thread).join().unwrap_or_else(|panic| resume_unwind(panic)))
    }
}
