//! Who asks for a file's contents: whose permission on its master key counts.
//!
//! A mount for one user asks the key service as itself. On one for many users each is decided on
//! by his own permission, at every opening by name, and his data keys are unwrapped for him. What a
//! handle may go on doing was decided when it was opened; only if its keys were taken away
//! meanwhile, they are asked for on his behalf again.

use std::sync::Arc;

use super::inode::Inode;
use super::keys::file_context;
use super::open_file::OpenFile;
use super::readdir::open_name;
use super::{Fs, FsError, FsResult, Requester};
use crate::format::head::Head;
use crate::format::slot::Wrapped;
use crate::kms::{EncryptionContext, FileAccess, MAX_PATH, OnBehalf};
use crate::provider::{Provider, ProviderError};
use crate::secret::Key;
use crate::sys;

/// Whose permission on a master key counts when a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeyAccess {
    /// The mount's own, for everybody whom modes and ACLs let in.
    #[default]
    Mount,
    /// That of the user who opens it.
    User,
}

/// The key service, as it answers whoever asks.
#[derive(Clone)]
pub(super) struct Asker {
    pub(super) provider: Arc<dyn Provider>,
    /// He is a user, who has to be permitted what he opens.
    decides: bool,
}

impl Asker {
    /// Makes sure that he may use a file's data key now, whether it is cached or not.
    pub(super) fn authorize(&self, head: &Head, wrapped: &Wrapped) -> FsResult<()> {
        if self.decides {
            let context = file_context(head.volume, head.object);
            self.provider.authorize_open(&wrapped.key_arn, wrapped.key_version, &context)?;
        }
        Ok(())
    }

    /// The same, for a file that is open already.
    pub(super) fn authorize_open_file(&self, open: &OpenFile) -> FsResult<()> {
        if self.decides { self.authorize(open.sealed.head(), &open.sealed.wrapped()) } else { Ok(()) }
    }

    /// A data key, from the cache or unwrapped for him. A cached one is nobody's proof that he may
    /// have it.
    pub(super) fn unwrap(&self, fs: &Fs, blob: &[u8], context: &EncryptionContext) -> FsResult<Arc<Key>> {
        let unwrapped = if self.decides {
            fs.cache.unwrap_alone(&*self.provider, blob, context)
        } else {
            fs.cache.unwrap(&*self.provider, blob, context)
        };
        unwrapped.map_err(FsError::from)
    }
}

impl Fs {
    /// Decides by whose permission files are opened; by the mount's own, unless this says otherwise.
    #[must_use]
    pub fn with_key_access(mut self, access: KeyAccess) -> Self {
        self.key_access = access;
        self
    }

    /// The mount, for what it does by itself.
    pub(super) fn itself(&self) -> Asker {
        Asker { provider: Arc::clone(&self.provider), decides: false }
    }

    /// Somebody who wants something of a file.
    ///
    /// # Errors
    /// `EACCES` if this mount may not ask for him; those of finding out the path.
    pub(super) fn asker(&self, by: Requester, inode: &Inode, access: FileAccess) -> FsResult<Asker> {
        match self.key_access {
            KeyAccess::Mount => Ok(self.itself()),
            KeyAccess::User => self.asker_of(by, self.path_of(inode)?, access),
        }
    }

    /// Somebody who wants to make a file in a directory.
    ///
    /// # Errors
    /// As [`Fs::asker`].
    pub(super) fn asker_to_create(&self, by: Requester, parent: &Inode, name: &[u8]) -> FsResult<Asker> {
        match self.key_access {
            KeyAccess::Mount => Ok(self.itself()),
            KeyAccess::User => {
                let mut path = self.path_of(parent)?;
                if path.len() > 1 {
                    path.push(b'/');
                }
                path.extend_from_slice(name);
                self.asker_of(by, path, FileAccess::Create)
            }
        }
    }

    fn asker_of(&self, by: Requester, path: Vec<u8>, access: FileAccess) -> FsResult<Asker> {
        if path.len() > MAX_PATH {
            return Err(FsError::new(libc::ENAMETOOLONG));
        }
        // One that ended meanwhile, or is not to be seen from here, is in its own group at least.
        let running = sys::running(by.pid).unwrap_or_default();
        let mut groups = running.groups;
        if !groups.contains(&by.gid) {
            groups.push(by.gid);
        }
        let whom = OnBehalf {
            uid: by.uid,
            gid: by.gid,
            pid: by.pid,
            program: running.program,
            groups,
            path: String::from_utf8_lossy(&path).into_owned(),
            access,
        };
        let provider = self.provider.on_behalf(whom).map_err(|error| match error {
            // A key service that knows no users permits them nothing.
            ProviderError::Other(failure) => ProviderError::AccessDenied(failure.to_string()),
            error => error,
        })?;
        Ok(Asker { provider, decides: true })
    }

    /// The path in the volume by which an inode was found last.
    pub(super) fn path_of(&self, inode: &Inode) -> FsResult<Vec<u8>> {
        let mut names = Vec::new();
        let mut place = inode.place();
        while let Some((parent, stored)) = place {
            let directory = parent.directory(&self.volume)?;
            let name = open_name(&self.volume.disk, &parent, &directory, stored.as_ref());
            // Whoever is to be refused by a path must not get in where it cannot be told.
            names.push(name.ok_or_else(|| FsError::damaged("a name on the path of a file is damaged"))?);
            place = parent.place();
        }
        let mut path = Vec::new();
        for name in names.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        if path.is_empty() {
            path.push(b'/');
        }
        Ok(path)
    }
}
