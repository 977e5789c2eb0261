//! Mount options, as given with `-o`.

use fuser::MountOption;
use thiserror::Error;

use crate::fs::KeyAccess;

/// Event loops at least, so that a slow request does not hold up the others.
const MIN_THREADS: usize = 4;
/// Event loops at most; each has a request buffer.
const MAX_THREADS: usize = 16;

/// How to mount.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// Nothing may be changed.
    pub read_only: bool,
    /// Users other than the mounting one may use the mount.
    pub allow_other: bool,
    /// The kernel checks modes and ACLs, even where only root's processes get in.
    pub default_permissions: bool,
    /// The mount point need not be empty.
    pub nonempty: bool,
    /// The kernel gathers writes and passes them on later: faster for small ones, but those that it
    /// still has are lost if this process is killed.
    pub writeback: bool,
    /// The machine's processors stay awake while the mount is used: small operations take half to two
    /// thirds of the time, and power. Only root may.
    pub low_latency: bool,
    /// Whose permission on keys counts; `None` for what suits the users of the mount.
    pub key_access: Option<KeyAccess>,
    /// Event loops; `None` for as many as suit the machine.
    pub threads: Option<usize>,
    kernel: Vec<MountOption>,
}

/// An option that cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum OptionError {
    /// It does not exist, or cannot have this value.
    #[error("unknown mount option '{0}'")]
    Unknown(String),
    /// A mount that exists is to be changed.
    #[error("a mount cannot be changed by 'remount'; unmount it and mount it anew")]
    Remount,
}

/// Options for mount(8) and whoever reads fstab(5): when to mount and who may. Those about access
/// times are among them, for kmsfs keeps none. With a `=`, the beginning of an option counts.
const NOT_OURS: [&str; 28] = [
    "defaults",
    "auto",
    "noauto",
    "user",
    "user=",
    "nouser",
    "users",
    "nousers",
    "owner",
    "noowner",
    "group",
    "nogroup",
    "nofail",
    "fail",
    "_netdev",
    "comment=",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "lazytime",
    "nolazytime",
    "diratime",
    "nodiratime",
    "iversion",
    "noiversion",
    "silent",
    "loud",
];

impl MountOptions {
    /// Reads comma-separated options. Later ones win.
    ///
    /// # Errors
    /// [`OptionError`].
    pub fn parse(lists: &[String]) -> Result<Self, OptionError> {
        let mut options = Self::default();
        for option in lists.iter().flat_map(|list| list.split(',')).filter(|o| !o.is_empty()) {
            options.apply(option)?;
        }
        Ok(options)
    }

    fn apply(&mut self, option: &str) -> Result<(), OptionError> {
        if let Some(flag) = self.flag(option) {
            *flag = true;
            return Ok(());
        }
        let kernel = match option {
            "ro" | "rw" => {
                self.read_only = option == "ro";
                if self.read_only { MountOption::RO } else { MountOption::RW }
            }
            "dev" => MountOption::Dev,
            "nodev" => MountOption::NoDev,
            "suid" => MountOption::Suid,
            "nosuid" => MountOption::NoSuid,
            "exec" => MountOption::Exec,
            "noexec" => MountOption::NoExec,
            "atime" => MountOption::Atime,
            "noatime" => MountOption::NoAtime,
            "sync" => MountOption::Sync,
            "async" => MountOption::Async,
            "dirsync" => MountOption::DirSync,
            "remount" => return Err(OptionError::Remount),
            _ if is_not_ours(option) => return Ok(()),
            _ => return self.apply_value(option),
        };
        self.kernel.retain(|other| !excludes(&kernel, other));
        self.kernel.push(kernel);
        Ok(())
    }

    /// What an option that stands for itself sets.
    fn flag(&mut self, option: &str) -> Option<&mut bool> {
        match option {
            "allow_other" => Some(&mut self.allow_other),
            "default_permissions" => Some(&mut self.default_permissions),
            "low_latency" => Some(&mut self.low_latency),
            "nonempty" => Some(&mut self.nonempty),
            "writeback" => Some(&mut self.writeback),
            _ => None,
        }
    }

    fn apply_value(&mut self, option: &str) -> Result<(), OptionError> {
        let unknown = || OptionError::Unknown(option.to_owned());
        let (name, value) = option.split_once('=').ok_or_else(unknown)?;
        let threads = value.parse().ok().filter(|n| (1..=MAX_THREADS).contains(n));
        match name {
            "threads" => self.threads = Some(threads.ok_or_else(unknown)?),
            "key_access" => {
                self.key_access = Some(match value {
                    "mount" => KeyAccess::Mount,
                    "user" => KeyAccess::User,
                    _ => return Err(unknown()),
                });
            }
            _ => return Err(unknown()),
        }
        Ok(())
    }

    /// Whose permission on keys counts: on a mount for others each user's own, unless it was said
    /// otherwise.
    pub fn key_access(&self) -> KeyAccess {
        let suiting = if self.allow_other { KeyAccess::User } else { KeyAccess::Mount };
        self.key_access.unwrap_or(suiting)
    }

    /// Whether the kernel checks modes and ACLs of a mount that the machine's root makes, or somebody else.
    /// Where only root gets in they would stop hardly anybody, and checking takes a request more after
    /// each change in a directory.
    pub(super) fn checks_permissions(&self, by_true_root: bool) -> bool {
        !by_true_root || self.allow_other || self.default_permissions
    }

    pub(super) fn threads(&self) -> usize {
        self.threads.unwrap_or_else(|| {
            let cores = std::thread::available_parallelism().map_or(MIN_THREADS, usize::from);
            (2 * cores).clamp(MIN_THREADS, MAX_THREADS)
        })
    }

    pub(super) fn kernel_options(&self) -> impl Iterator<Item = MountOption> {
        self.kernel.iter().cloned()
    }
}

fn is_not_ours(option: &str) -> bool {
    let named = |name: &&str| option == *name || (name.ends_with('=') && option.starts_with(*name));
    option.starts_with("x-") || option.starts_with("X-") || NOT_OURS.iter().any(named)
}

/// Whether `new` replaces `old`: the same, or its opposite.
fn excludes(new: &MountOption, old: &MountOption) -> bool {
    use MountOption::{Async, Atime, Dev, Exec, NoAtime, NoDev, NoExec, NoSuid, RO, RW, Suid, Sync};
    let pairs = [(RO, RW), (Dev, NoDev), (Suid, NoSuid), (Exec, NoExec), (Atime, NoAtime), (Sync, Async)];
    new == old || pairs.iter().any(|(a, b)| (new == a && old == b) || (new == b && old == a))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<MountOptions, OptionError> {
        MountOptions::parse(&[text.to_owned()])
    }

    #[test]
    fn later_options_win() {
        let options = parse("ro,noexec,rw,threads=3,exec").unwrap();
        assert!(!options.read_only);
        assert_eq!(options.threads(), 3);
        assert_eq!(options.kernel, [MountOption::RW, MountOption::Exec]);
    }

    #[test]
    fn users_are_decided_on_where_others_get_in() {
        let access = |text| parse(text).unwrap().key_access();
        assert_eq!(access("ro"), KeyAccess::Mount);
        assert_eq!(access("allow_other"), KeyAccess::User);
        assert_eq!(access("key_access=mount,allow_other"), KeyAccess::Mount);
        assert_eq!(access("key_access=user"), KeyAccess::User);
    }

    #[test]
    fn the_kernel_checks_permissions_unless_root_alone_gets_in() {
        let checks = |text, by_true_root| parse(text).unwrap().checks_permissions(by_true_root);
        assert!(!checks("ro", true));
        assert!(checks("ro", false));
        assert!(checks("allow_other", true));
        assert!(checks("default_permissions", true));
    }

    #[test]
    fn options_for_whoever_mounts_change_nothing() {
        let for_others =
            "defaults,noauto,user=ada,nofail,_netdev,comment=a b,x-systemd.automount,X-mount.mkdir";
        assert_eq!(parse(for_others), Ok(MountOptions::default()));
        assert_eq!(parse("relatime,lazytime,ro"), parse("ro"));
    }

    #[test]
    fn unknown_options_are_named() {
        for bad in [
            "frob",
            "threads=0",
            "threads=x",
            "threads",
            "key_access=all",
            "ro=1",
            "defaults=1",
            "nosymfollow",
        ] {
            assert_eq!(parse(bad), Err(OptionError::Unknown(bad.to_owned())));
        }
        assert_eq!(parse("ro,remount"), Err(OptionError::Remount));
    }
}
