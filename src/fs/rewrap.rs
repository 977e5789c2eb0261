//! Re-wrapping: a file's data key under the newest version of its master key, or under another one.
//!
//! The data key stays, so nothing but the header changes, and there is never more than one writer of
//! it: an open file's is written through its open state, with its keys held alone; that of a file
//! which is not open while nobody can open it.
//!
//! The key service wraps anew without giving the data key away. It is unwrapped from the *new*
//! wrapping all the same, before that takes the old one's place: the header's seal, which covers the
//! wrapping, is made with it, and what does not open must not be stored.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use super::attr::keyless_size;
use super::inode::{Inode, Opening};
use super::keep::keep_attributes;
use super::keys::file_context;
use super::open_file::{OpenFile, open_as_owner};
use super::{Asker, FileKind, Fs, FsError, FsResult, ROOT_INO, Requester};
use crate::chunk::{Backing, ChunkError, ClosedHeader};
use crate::format::FormatError;
use crate::format::head::Head;
use crate::format::schedule::FileKeys;
use crate::format::slot::Wrapped;
use crate::kms::FileAccess;
use crate::secret::Key;
use crate::sync::{Mutex, write_within};

/// Which master key wraps a file's data key, or on the root the volume's, as JSON: a [`Wrapping`].
/// Set on a file, it wraps the data key anew, by the named master key, or with an empty value by the
/// newest version of its own. Set to nothing on a directory, it makes what was wrapped so far
/// durable, and on the root it wraps the volume's key anew.
pub const WRAP_XATTR: &str = "user.kmsfs.wrap";

/// How long to wait for operations on an open file to end.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);
/// Attempts at a file that is opened, changed and closed again meanwhile.
pub(super) const ATTEMPTS: u32 = 8;

/// What [`WRAP_XATTR`] shows. It is what the header says, which only the file's key can vouch for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Wrapping {
    /// ARN of the master key.
    pub key_arn: String,
    /// Version of the master key's material.
    pub key_version: u32,
}

impl Wrapping {
    /// That of a wrapped key.
    pub(super) fn of(wrapped: &Wrapped) -> Self {
        Self { key_arn: wrapped.key_arn.clone(), key_version: wrapped.key_version }
    }
}

/// Versions that master keys are known to have, by the keys' ARNs. A key only gets newer ones, so what
/// is wrapped by an older one, or by another key, is to be wrapped anew without asking: an answer waits
/// for the audit log's disk.
#[derive(Default)]
pub(super) struct KnownVersions(Mutex<HashMap<String, u32>>);

impl KnownVersions {
    fn note(&self, arn: &str, version: u32) {
        let mut known = self.0.lock();
        let newest = known.entry(arn.to_owned()).or_default();
        *newest = version.max(*newest);
    }

    /// Whether it is certain that the newest version of `key` is not what wraps this.
    fn are_behind(&self, key: &str, wrapped: &Wrapped) -> bool {
        let known = self.0.lock().get(key).copied();
        known.is_some_and(|newest| key != wrapped.key_arn || newest > wrapped.key_version)
    }
}

/// Whether an attempt counts.
#[derive(PartialEq, Eq)]
pub(super) enum Attempt {
    Done,
    /// Somebody opened, closed or re-wrapped the file meanwhile.
    Overtaken,
}

impl Fs {
    /// Which master key wraps the key of a file, or the volume's on the root. Needs no key.
    ///
    /// # Errors
    /// `ENODATA` for what has no wrapped key, `EIO` if the header is damaged.
    pub(super) fn wrapping(&self, inode: &Arc<Inode>) -> FsResult<Wrapping> {
        let wrapped = match inode.kind {
            FileKind::Directory if inode.ino == ROOT_INO => Wrapping::of(&self.volume.wrapped()),
            FileKind::Regular => {
                let file = open_as_owner(&self.volume.disk, inode, OFlags::RDONLY)?;
                let header = ClosedHeader::read(&file).map_err(|e| self.name_damage(inode, e.into()))?;
                Wrapping::of(header.wrapped())
            }
            _ => return Err(FsError::new(libc::ENODATA)),
        };
        Ok(wrapped)
    }

    /// What setting [`WRAP_XATTR`] does.
    ///
    /// # Errors
    /// `EPERM` unless the owner or root asks, or for a master key on a directory; `EBUSY` when other
    /// operations on the file did not end in time; those of either master key, whose file is left as
    /// it was.
    pub(super) fn set_wrapping(&self, by: Requester, inode: &Arc<Inode>, key: &[u8]) -> FsResult<()> {
        let key = std::str::from_utf8(key).map_err(|_| FsError::new(libc::EINVAL))?;
        self.check_chooses_key(by, inode)?;
        match inode.kind {
            FileKind::Regular => {
                let asker = self.asker(by, inode, FileAccess::Rewrap)?;
                self.rewrap(inode, key, &asker)
            }
            FileKind::Directory if key.is_empty() => {
                self.volume.sync()?;
                if inode.ino == ROOT_INO { self.volume.rewrap(&*self.provider) } else { Ok(()) }
            }
            _ => Err(FsError::new(libc::EPERM)),
        }
    }

    /// Only the owner and root choose what a file's key is wrapped by.
    pub(super) fn check_chooses_key(&self, by: Requester, inode: &Inode) -> FsResult<()> {
        let owner = self.volume.disk.stat(&*inode.fd()?)?.st_uid;
        if by.uid == 0 || by.uid == owner { Ok(()) } else { Err(FsError::new(libc::EPERM)) }
    }

    fn rewrap(&self, inode: &Arc<Inode>, key: &str, asker: &Asker) -> FsResult<()> {
        for _ in 0..ATTEMPTS {
            // From the new wrapping on until it counts.
            let _changing = self.changing.read();
            let known = inode.opening().join(true);
            let attempt = match known {
                Some(open) => {
                    let attempt = self.rewrap_open(inode, &open, key, asker);
                    self.close_file(inode, true);
                    attempt
                }
                None => self.rewrap_closed(inode, key, asker),
            };
            match attempt.map_err(|error| self.name_damage(inode, error))? {
                Attempt::Done => return Ok(()),
                Attempt::Overtaken => {}
            }
        }
        Err(FsError::new(libc::EBUSY))
    }

    pub(super) fn rewrap_open(
        &self,
        inode: &Arc<Inode>,
        open: &OpenFile,
        key: &str,
        asker: &Asker,
    ) -> FsResult<Attempt> {
        let before = open.sealed.wrapped();
        let head = open.sealed.head();
        let Some((wrapped, data_key)) = self.wrap_anew(head, &before, key, asker)? else {
            return Ok(Attempt::Done);
        };
        let derived = open.sealed.derive_keys(&data_key)?;
        open.sealed.backing().make_writable(&self.volume.disk, inode)?;
        let new_gate = self.gates.of(&wrapped.key_arn);
        // Alone: nobody writes while attributes are kept.
        let mut keys = write_within(&open.keys, PATIENCE).ok_or(FsError::new(libc::EBUSY))?;
        // Whoever cuts a key closes its gate and then looks for its files by their gates. Held here,
        // that look waits: it finds the file where it belongs, or the file has been refused.
        let mut gate = open.gate.write();
        gate.check_program()?;
        new_gate.check_program()?;
        if open.sealed.wrapped() != before {
            return Ok(Attempt::Overtaken);
        }
        let after = self.index.share(Wrapping::of(&wrapped));
        // Held until the file counts as what its header says.
        let mut opening = inode.opening();
        let written =
            keep_attributes(&self.volume.disk, inode, || Ok(open.sealed.rewrap(&derived, wrapped)?));
        self.count_rewrapped(inode, &mut opening, &before, after, None, written)?;
        *gate = new_gate;
        *keys = Some(Arc::new(derived));
        Ok(Attempt::Done)
    }

    fn rewrap_closed(&self, inode: &Arc<Inode>, key: &str, asker: &Asker) -> FsResult<Attempt> {
        let file = open_as_owner(&self.volume.disk, inode, OFlags::RDWR)?;
        let header = ClosedHeader::read(&file)?;
        let head = header.head();
        if head.volume != self.volume.id {
            return Err(ChunkError::Header(FormatError::Forged).into());
        }
        let Some((wrapped, data_key)) = self.wrap_anew(head, header.wrapped(), key, asker)? else {
            return Ok(Attempt::Done);
        };
        let keys = FileKeys::derive(&data_key, head.volume, head.object);
        let page = header.rewrapped(&keys, &wrapped)?;
        let gates = [self.gates.of(&header.wrapped().key_arn), self.gates.of(&wrapped.key_arn)];
        // Held until the header is written: nobody opens the file meanwhile.
        let mut opening = inode.opening();
        if opening.file.is_some() || !header.is_still_there(&file)? {
            return Ok(Attempt::Overtaken);
        }
        gates.iter().try_for_each(|gate| gate.check_program())?;
        let after = self.index.share(Wrapping::of(&wrapped));
        let length = file.length()?;
        let written = keep_attributes(&self.volume.disk, inode, || Ok(file.write_at(&page, 0)?));
        self.count_rewrapped(inode, &mut opening, header.wrapped(), after, Some(length), written)?;
        Ok(Attempt::Done)
    }

    /// Counts a file as wrapped by something else from now on; `length` is that of the backing file of
    /// one that is not open.
    pub(super) fn count_rewrapped(
        &self,
        inode: &Inode,
        opening: &mut Opening,
        before: &Wrapped,
        after: Arc<Wrapping>,
        length: Option<u64>,
        written: FsResult<()>,
    ) -> FsResult<()> {
        if let Err(error) = written {
            self.index.lose(&error);
            opening.wrapping = None;
            return Err(error);
        }
        if opening.gone && opening.file.is_none() {
            // It counts no more.
            return Ok(());
        }
        let bytes = length.map_or(opening.bytes, keyless_size);
        self.index.rewrap(inode.ino, &Wrapping::of(before), &after, bytes);
        opening.wrapping = Some(after);
        Ok(())
    }

    /// Another wrapping of a file's data key, by the newest version of a master key, its own if none
    /// is named; and the data key, out of that. `None` if it is wrapped like that already. Who asks
    /// needs permission on both keys.
    fn wrap_anew(
        &self,
        head: &Head,
        before: &Wrapped,
        key: &str,
        asker: &Asker,
    ) -> FsResult<Option<(Wrapped, Key)>> {
        let key = if key.is_empty() { &before.key_arn } else { key };
        let wanted = if self.versions.are_behind(key, before) {
            key.to_owned()
        } else {
            let wanted = self.provider.describe_key(key)?;
            self.versions.note(&wanted.arn, wanted.current_key_material_version);
            if wanted.arn == before.key_arn && wanted.current_key_material_version == before.key_version {
                return Ok(None);
            }
            wanted.arn
        };
        for arn in [&before.key_arn, &wanted] {
            self.gates.of(arn).check_program()?;
        }
        let context = file_context(head.volume, head.object);
        let blob = asker.provider.rewrap(&before.blob, &context, &wanted)?;
        let opened = asker.provider.unwrap(&blob, &context)?;
        let wrapped = Wrapped { key_arn: opened.key_arn, key_version: opened.key_version, blob };
        Ok(Some((wrapped, opened.plaintext)))
    }
}
