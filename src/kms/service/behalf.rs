//! Calling for somebody else: a mount, for the users whose programs open its files.
//!
//! Such a call is decided and logged as the user's own, with what the mount says of the file. The
//! owner of the store may speak for everybody, who could act as anybody here anyway; every other
//! user for himself alone, and then nothing that he says of himself counts: neither his groups nor
//! the path can open to him what they are conditions of.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Caller, Service};
use crate::kms::error::{ErrorKind, KmsError};
use crate::kms::named::named;

/// Longest path in bytes that is decided on.
pub const MAX_PATH: usize = 32 * 1024;
/// Most groups of a process, as the kernel has it (`NGROUPS_MAX`).
const MAX_GROUPS: usize = 65_536;

named! {
    /// What a program is about to do with a file.
    FileAccess, "access" {
        /// Read it.
        Read = "read",
        /// Write to it, and maybe read.
        Write = "write",
        /// Make it.
        Create = "create",
        /// Have its data key wrapped anew.
        Rewrap = "rewrap",
    }
}

/// A user who wants something of a file, as a mount says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct OnBehalf {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Process id; 0 for one that cannot be seen.
    pub pid: u32,
    /// Name of the program; empty for one that cannot be seen.
    #[serde(default)]
    pub program: String,
    /// Numbers of the groups that the process is in, beside those that the user database knows.
    #[serde(default)]
    pub groups: Vec<u32>,
    /// The file's path in its volume, from `/` on.
    pub path: String,
    /// What is to be done with the file.
    pub access: FileAccess,
}

/// What the service knows of a call that a mount makes for a user.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::kms) struct Behalf {
    /// User and process that called.
    pub(super) mount: (u32, u32),
    /// Whether that one can be believed.
    pub(super) vouched: bool,
    pub(super) groups: Vec<u32>,
    pub(super) path: String,
    pub(super) access: FileAccess,
}

impl Service {
    /// `whom`, as whom `caller` may call for the sake of a file.
    ///
    /// # Errors
    /// AccessDenied to whoever may not speak for him, Validation for a path that is too long.
    pub fn on_behalf(&self, caller: &Caller, whom: &OnBehalf) -> Result<Caller, KmsError> {
        let is_owner = self.directory.owns(caller.uid);
        if caller.remote.is_some() || caller.behalf.is_some() || !(is_owner || caller.uid == whom.uid) {
            let message = format!("user {} may not ask on behalf of user {}", caller.uid, whom.uid);
            return Err(KmsError::new(ErrorKind::AccessDenied, message));
        }
        if whom.path.len() > MAX_PATH || whom.groups.len() > MAX_GROUPS {
            return Err(KmsError::validation("the path or the list of groups is too long"));
        }
        let behalf = Behalf {
            mount: (caller.uid, caller.pid),
            vouched: is_owner,
            groups: if is_owner { whom.groups.clone() } else { Vec::new() },
            path: whom.path.clone(),
            access: whom.access,
        };
        let user = Caller::local(whom.uid, whom.gid, whom.pid, whom.program.clone());
        Ok(Caller { behalf: Some(Arc::new(behalf)), ..user })
    }
}
