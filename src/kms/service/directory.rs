//! Whom a caller is to policies and grants: the users and groups of this machine, by number.

use std::collections::BTreeSet;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;

use crate::sync::Mutex;
use jiff::{SignedDuration, Timestamp};
use lru::LruCache;
use nix::unistd::{Gid, Group, Uid, User, getgrouplist};

use super::Caller;
use crate::kms::error::{ErrorKind, KmsError};
use crate::kms::policy::Identity;

/// How many users are remembered.
const MAX_KNOWN: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1023);
/// How long what the user database said is believed.
const MAX_AGE: SignedDuration = SignedDuration::from_secs(60);
/// The name that stands for the account's root, for callers who have a name alone.
const ROOT: &str = "root";

/// A user of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LocalUser {
    pub(super) uid: u32,
    /// As the database has it; absent from a process whose user it does not know.
    pub(super) name: Option<String>,
    /// Numbers, and the names of those that have one.
    pub(super) groups: Vec<(u32, Option<String>)>,
}

/// How a user is looked up.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Who {
    Uid(u32),
    Name(String),
    /// A process of the user, which is in these groups, whatever the database says of him.
    Process(u32, Vec<u32>),
}

type LookUp = dyn Fn(&Who) -> io::Result<Option<LocalUser>> + Send + Sync;

/// Tells identities. The user database may be on the network, so it is asked before any lock of
/// the service is taken, and what it says is kept for a minute.
pub(super) struct Directory {
    account: String,
    /// Users who are the account's root.
    owners: Vec<u32>,
    root: Arc<Identity>,
    look_up: Box<LookUp>,
    /// Held for a look; never while the database is asked.
    known: Mutex<LruCache<Who, (Timestamp, Arc<Identity>)>>,
}

impl Directory {
    /// Of this machine. Root and `owners` are the account's root.
    pub(super) fn new(account: &str, owners: Vec<u32>) -> Self {
        Self::with(account, owners, Box::new(look_up))
    }

    pub(super) fn with(account: &str, owners: Vec<u32>, look_up: Box<LookUp>) -> Self {
        Self {
            account: account.to_owned(),
            owners,
            root: Arc::new(Identity::root(account)),
            look_up,
            known: Mutex::new(LruCache::new(MAX_KNOWN)),
        }
    }

    /// Whether the user is the account's root.
    pub(super) fn owns(&self, uid: u32) -> bool {
        uid == 0 || self.owners.contains(&uid)
    }

    /// Who `caller` is. A user or a group without a name, or with one that policies cannot spell,
    /// goes by number. What the user database does not answer is an error, not a user without groups:
    /// a policy may deny a group.
    pub(super) fn identity(&self, caller: &Caller, now: Timestamp) -> Result<Arc<Identity>, KmsError> {
        match &caller.remote {
            None if self.owns(caller.uid) => Ok(Arc::clone(&self.root)),
            None => {
                let groups = caller.behalf.iter().flat_map(|behalf| &behalf.groups).copied();
                let groups: Vec<u32> = groups.collect();
                let named =
                    if groups.is_empty() { Who::Uid(caller.uid) } else { Who::Process(caller.uid, groups) };
                self.of(named, now)
            }
            Some(remote) if remote.user == ROOT => Ok(Arc::clone(&self.root)),
            Some(remote) => self.of(Who::Name(remote.user.clone()), now),
        }
    }

    /// Who a user is, other than by what they call with.
    pub(super) fn of(&self, who: Who, now: Timestamp) -> Result<Arc<Identity>, KmsError> {
        if let Some((since, identity)) = self.known.lock().get(&who) {
            let age = now.duration_since(*since);
            if !age.is_negative() && age <= MAX_AGE {
                return Ok(Arc::clone(identity));
            }
        }
        let found = (self.look_up)(&who).map_err(|error| {
            let message = format!("the user database does not say who the caller is: {error}");
            KmsError::new(ErrorKind::DependencyTimeout, message)
        })?;
        let shown = |(gid, name): &(u32, Option<String>)| {
            name.clone().filter(|name| is_name(name)).unwrap_or_else(|| gid.to_string())
        };
        let groups: Vec<String> = found.iter().flat_map(|user| &user.groups).map(shown).collect();
        let identity = match (&who, found) {
            (Who::Uid(uid) | Who::Process(uid, _), found) => {
                let id = uid.to_string();
                let name = found.and_then(|user| user.name).filter(|name| is_name(name));
                Identity::user(&self.account, name.as_deref().unwrap_or(&id), &id, &groups)
            }
            (Who::Name(name), Some(user)) => {
                Identity::user(&self.account, name, &user.uid.to_string(), &groups)
            }
            (Who::Name(name), None) => Identity::user(&self.account, name, name, &groups),
        };
        let identity = Arc::new(identity);
        self.known.lock().put(who, (now, Arc::clone(&identity)));
        Ok(identity)
    }
}

/// Whether policies can name it, and not take it for a user's number.
fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_+=,.@-".contains(c))
        && !name.bytes().all(|b| b.is_ascii_digit())
}

fn look_up(who: &Who) -> io::Result<Option<LocalUser>> {
    let user = match who {
        Who::Uid(uid) | Who::Process(uid, _) => User::from_uid(Uid::from_raw(*uid))?,
        Who::Name(name) => User::from_name(name)?,
    };
    let mut gids = BTreeSet::new();
    if let Some(user) = &user {
        let name = std::ffi::CString::new(user.name.clone())?;
        gids.extend(getgrouplist(&name, user.gid)?.into_iter().map(Gid::as_raw));
    }
    let uid = match (who, &user) {
        (_, Some(user)) => user.uid.as_raw(),
        (Who::Process(uid, _), None) => *uid,
        _ => return Ok(None),
    };
    if let Who::Process(_, own) = who {
        gids.extend(own);
    }
    let groups = gids.into_iter().map(|gid| Ok((gid, group_name(Gid::from_raw(gid))?)));
    Ok(Some(LocalUser { uid, name: user.map(|user| user.name), groups: groups.collect::<io::Result<_>>()? }))
}

fn group_name(gid: Gid) -> io::Result<Option<String>> {
    Ok(Group::from_gid(gid)?.map(|group| group.name))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const ACCOUNT: &str = "111122223333";

    fn caller(uid: u32) -> Caller {
        Caller::local(uid, uid, 1, "p".to_owned())
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn of_machine() -> (Directory, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        let look_up = move |who: &Who| {
            counted.fetch_add(1, Ordering::Relaxed);
            let user = |uid, name: &str, groups: &[(u32, &str)]| {
                let groups = groups.iter().map(|(gid, group)| (*gid, Some((*group).to_owned()))).collect();
                Ok(Some(LocalUser { uid, name: Some(name.to_owned()), groups }))
            };
            match who {
                Who::Uid(7) => Err(io::ErrorKind::TimedOut.into()),
                Who::Uid(8) => user(8, "9", &[]),
                Who::Uid(9) => user(9, "CORP\\eve", &[(30, "bad group"), (31, "good")]),
                Who::Uid(1000) => user(1000, "alice", &[(50, "staff")]),
                Who::Name(name) if name == "alice" => user(1000, "alice", &[(50, "staff")]),
                _ => Ok(None),
            }
        };
        (Directory::with(ACCOUNT, vec![500], Box::new(look_up)), asked)
    }

    #[test]
    fn root_and_owners_are_the_account_and_others_go_by_name_or_number() {
        let (directory, _) = of_machine();
        let arn = |uid| directory.identity(&caller(uid), at(0)).map(|identity| identity.arn().to_owned());
        let named = |name: &str| Ok(format!("arn:aws:iam::{ACCOUNT}:{name}"));
        assert_eq!(arn(0), named("root"));
        assert_eq!(arn(500), named("root"));
        assert_eq!(arn(1000), named("user/alice"));
        assert_eq!(arn(1001), named("user/1001"));
        // A name that is a number could be taken for somebody else.
        assert_eq!(arn(8), named("user/8"));
        assert_eq!(arn(9), named("user/9"));
        assert_eq!(arn(7).unwrap_err().kind(), ErrorKind::DependencyTimeout);
        let alice = directory.identity(&caller(1000), at(0)).unwrap();
        assert!(alice.is_named(&format!("arn:aws:iam::{ACCOUNT}:group/staff")));
        let eve = directory.identity(&caller(9), at(0)).unwrap();
        for (group, named) in [("good", true), ("31", false), ("bad group", false), ("30", true)] {
            assert_eq!(eve.is_named(&format!("arn:aws:iam::{ACCOUNT}:group/{group}")), named, "{group}");
        }
    }

    #[test]
    fn the_database_is_asked_once_a_minute() {
        let (directory, asked) = of_machine();
        for second in [0, 1, 59, 60, 61, 62, 122, 5] {
            directory.identity(&caller(1000), at(second)).unwrap();
        }
        // At 0, after a minute at 61, again at 122, and when the clock was set back.
        assert_eq!(asked.load(Ordering::Relaxed), 4);
    }

    #[test]
    fn this_machine_knows_its_root() {
        let root = look_up(&Who::Uid(0)).unwrap().unwrap();
        assert_eq!((root.uid, root.name.as_deref()), (0, Some("root")));
        assert!(root.groups.contains(&(0, Some("root".to_owned()))));
        assert_eq!(look_up(&Who::Uid(u32::MAX - 7)).unwrap(), None);
        // Of a process that is in groups which the database does not know.
        let process = look_up(&Who::Process(u32::MAX - 7, vec![u32::MAX - 8, 0])).unwrap().unwrap();
        assert_eq!((process.uid, process.name), (u32::MAX - 7, None));
        assert_eq!(process.groups, [(0, Some("root".to_owned())), (u32::MAX - 8, None)]);
    }
}
