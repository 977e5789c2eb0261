//! Re-encryption: a file's contents under another data key, in place, while programs go on using it.
//!
//! The work is done a step at a time, each at the request of whoever wants it done, so that no request
//! holds an inode for long and whoever asked may stop asking. A file that nobody goes on with keeps
//! both data keys, the previous one in its header, and reads as before.
//!
//! A step has the file's keys alone, so that nobody writes while times and capabilities are kept: a
//! program waits for a megabyte at most. User attributes are read and stored with the keys held, and so
//! need no lock of their own.

use std::sync::Arc;

use rustix::fs::XattrFlags;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::inode::Inode;
use super::keep::keep_attributes;
use super::keys::{Access, file_context};
use super::open_file::{OpenFile, open_as_owner};
use super::rewrap::{ATTEMPTS, Attempt, PATIENCE};
use super::sealed_xattr::{self, is_sealed};
use super::{Asker, FileKind, Fs, FsError, FsResult, Requester, Wrapping};
use crate::chunk::{ClosedHeader, Reencryption};
use crate::format::schedule::FileKeys;
use crate::format::slot::Wrapped;
use crate::kms::FileAccess;
use crate::secret::Key;
use crate::sync::write_within;

/// Setting it on a file to the name of a master key gives the file a new data key, wrapped by that
/// one; if the file is being re-encrypted already, that goes on, under that master key. Setting it to
/// nothing does one step of the work, which is done when there is no such attribute any more. Its
/// value says in JSON how far it is: a [`Progress`].
pub const REENCRYPT_XATTR: &str = "user.kmsfs.reencrypt";

/// Bytes of chunks that a step seals anew: for so long programs wait that use the file.
const STEP: u64 = 1 << 20;

/// What [`REENCRYPT_XATTR`] shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Bytes of plaintext that were gone through, as far as this mount knows.
    pub done: u64,
    /// Bytes of plaintext that there are, as far as this mount knows.
    pub size: u64,
}

impl Fs {
    /// How far a file's re-encryption is. Needs no key.
    ///
    /// # Errors
    /// `ENODATA` for what is not being re-encrypted.
    pub(super) fn reencryption(&self, inode: &Arc<Inode>) -> FsResult<Progress> {
        let none = || FsError::new(libc::ENODATA);
        if inode.kind != FileKind::Regular {
            return Err(none());
        }
        let known = inode.opening().file.clone();
        let Some(open) = known else {
            let file = open_as_owner(&self.volume.disk, inode, rustix::fs::OFlags::RDONLY)?;
            let under_way = ClosedHeader::read(&file)?.is_being_reencrypted();
            return under_way.then_some(Progress { done: 0, size: 0 }).ok_or_else(none);
        };
        if !open.sealed.is_being_reencrypted() {
            return Err(none());
        }
        let size = open.sealed.size();
        let payload = open.sealed.head().layout().payload();
        let done = match &*open.reencryption.lock() {
            Some(work) => work.chunk().map_or(size, |chunk| (chunk * payload).min(size)),
            None => 0,
        };
        Ok(Progress { done, size })
    }

    /// What setting [`REENCRYPT_XATTR`] does.
    ///
    /// # Errors
    /// `EPERM` unless the owner or root asks, and for what is no regular file; `EBUSY` when other operations
    /// on the file did not end in time; `EOVERFLOW` if the header has no room for two data keys; those
    /// of either master key, and `ENODATA` for a step where nothing is under way. The file can be used
    /// as before.
    pub(super) fn set_reencryption(&self, by: Requester, inode: &Arc<Inode>, key: &[u8]) -> FsResult<()> {
        let key = std::str::from_utf8(key).map_err(|_| FsError::new(libc::EINVAL))?;
        if inode.kind != FileKind::Regular {
            return Err(FsError::new(libc::EPERM));
        }
        self.check_chooses_key(by, inode)?;
        for _ in 0..ATTEMPTS {
            let attempt = if key.is_empty() {
                self.step_reencryption(by, inode)
            } else {
                self.begin_reencryption(by, inode, key)
            };
            match attempt.map_err(|error| self.name_damage(inode, error))? {
                Attempt::Done => return Ok(()),
                Attempt::Overtaken => {}
            }
        }
        Err(FsError::new(libc::EBUSY))
    }

    fn begin_reencryption(&self, by: Requester, inode: &Arc<Inode>, key: &str) -> FsResult<Attempt> {
        let asker = self.asker(by, inode, FileAccess::Rewrap)?;
        // From the new wrapping on until it counts.
        let _changing = self.changing.read();
        let open = self.open_file(inode, true, &asker)?;
        let attempt = if open.sealed.is_being_reencrypted() {
            self.resume_reencryption(inode, &open, key, &asker)
        } else {
            self.give_new_data_key(inode, &open, key, &asker)
        };
        self.close_file(inode, true);
        attempt
    }

    /// Goes on with a re-encryption that was begun under this master key or another one.
    fn resume_reencryption(
        &self,
        inode: &Arc<Inode>,
        open: &OpenFile,
        key: &str,
        asker: &Asker,
    ) -> FsResult<Attempt> {
        let mut work = open.reencryption.lock();
        if work.is_none() {
            *work = open.sealed.resume_reencryption();
        }
        drop(work);
        self.rewrap_open(inode, open, key, asker)
    }

    fn give_new_data_key(
        &self,
        inode: &Arc<Inode>,
        open: &OpenFile,
        key: &str,
        asker: &Asker,
    ) -> FsResult<Attempt> {
        let (before, head) = (open.sealed.wrapped(), open.sealed.head());
        let wanted = self.provider.describe_key(key)?;
        let new_gate = self.gates.of(&wanted.arn);
        open.gate().check_program()?;
        new_gate.check_program()?;
        let context = file_context(head.volume, head.object);
        let present = asker.unwrap(self, &before.blob, &context)?;
        let made = asker.provider.generate_data_key(&wanted.arn, &context)?;
        let wrapped = Wrapped { key_arn: made.key_arn, key_version: made.key_version, blob: made.blob };
        if !wrapped.fits_with_previous() {
            return Err(FsError::new(libc::EOVERFLOW));
        }
        open.sealed.backing().make_writable(&self.volume.disk, inode)?;
        // Most of what a flush has to do, while programs go on.
        open.sealed.sync(true)?;
        let mut work = open.reencryption.lock();
        // As for re-wrapping: alone, and counted as what the header says.
        let mut keys = write_within(&open.keys, PATIENCE).ok_or(FsError::new(libc::EBUSY))?;
        let mut gate = open.gate.write();
        gate.check_program()?;
        new_gate.check_program()?;
        if open.sealed.wrapped() != before {
            return Ok(Attempt::Overtaken);
        }
        let after = self.index.share(Wrapping::of(&wrapped));
        let mut opening = inode.opening();
        let mut begun = None;
        let written = keep_attributes(&self.volume.disk, inode, || {
            let epoch = |newest| self.next_epoch(newest);
            let begin = open.sealed.begin_reencryption::<FsError>(&present, &made.plaintext, wrapped, epoch);
            begun = Some(begin?);
            Ok(())
        });
        if let Some((new_keys, new_work)) = begun {
            *keys = Some(Arc::new(new_keys));
            *work = Some(new_work);
            *gate = new_gate;
            // Whatever became of the attributes, that is what wraps the file now.
            self.count_rewrapped(inode, &mut opening, &before, after, None, Ok(()))?;
            return written.map(|()| Attempt::Done);
        }
        self.count_rewrapped(inode, &mut opening, &before, after, None, written)?;
        Ok(Attempt::Overtaken)
    }

    fn step_reencryption(&self, by: Requester, inode: &Arc<Inode>) -> FsResult<Attempt> {
        let asker = self.asker(by, inode, FileAccess::Rewrap)?;
        let known = inode.opening().join(true);
        // Whoever began was permitted it, and a step gives away nothing.
        let begun = known.filter(|open| {
            let begun = open.reencryption.lock().is_some();
            if !begun {
                self.close_file(inode, true);
            }
            begun
        });
        let open = match begun {
            Some(open) => open,
            None => self.open_file(inode, true, &asker)?,
        };
        let attempt = self.step_open(inode, &open, &asker);
        self.close_file(inode, true);
        attempt
    }

    fn step_open(&self, inode: &Arc<Inode>, open: &OpenFile, asker: &Asker) -> FsResult<Attempt> {
        let mut work = open.reencryption.lock();
        if work.is_none() {
            *work = open.sealed.resume_reencryption();
        }
        let Some(under_way) = &mut *work else { return Err(FsError::new(libc::ENODATA)) };
        open.sealed.backing().make_writable(&self.volume.disk, inode)?;
        // Fetched, should they have been taken away, and refused while the key is not usable.
        drop(open.keys(self, Access::Program, asker)?);
        if under_way.is_through() {
            // Most of what a flush has to do, while programs go on.
            open.sealed.sync(false)?;
        }
        let mut guard = write_within(&open.keys, PATIENCE).ok_or(FsError::new(libc::EBUSY))?;
        open.gate().check_program()?;
        let Some(keys) = guard.as_deref() else { return Ok(Attempt::Overtaken) };
        let finished = keep_attributes(&self.volume.disk, inode, || {
            if under_way.is_through() {
                return self.finish_reencryption(inode, open, keys, under_way);
            }
            open.sealed.reencrypt(keys, under_way, STEP, |newest| self.next_epoch(newest))?;
            Ok(false)
        })?;
        if finished {
            // The previous keys are gone from here on, also from memory. If somebody has them
            // in hand yet, whoever comes next fetches those that the header has.
            match guard.as_mut().and_then(Arc::get_mut) {
                Some(keys) => keys.previous = None,
                None => *guard = None,
            }
            *work = None;
            drop(guard);
            open.sealed.sync(true)?;
        }
        Ok(Attempt::Done)
    }

    fn finish_reencryption(
        &self,
        inode: &Inode,
        open: &OpenFile,
        keys: &FileKeys,
        work: &mut Reencryption,
    ) -> FsResult<bool> {
        self.reencrypt_attributes(inode, open, keys)?;
        Ok(open.sealed.finish_reencryption(keys, work)?)
    }

    /// Seals user attributes anew. One that is damaged stays as it is, and damaged.
    fn reencrypt_attributes(&self, inode: &Inode, open: &OpenFile, keys: &FileKeys) -> FsResult<()> {
        let (disk, fd, object) = (&self.volume.disk, inode.fd()?, open.sealed.head().object);
        let names = disk.list_xattrs(&*fd)?;
        for stored in names.split(|&b| b == 0).filter(|name| is_sealed(name)) {
            let sealed = match disk.get_xattr(&*fd, stored) {
                Ok(sealed) => sealed,
                // Removing one needs no key.
                Err(rustix::io::Errno::NODATA) => continue,
                Err(error) => return Err(error.into()),
            };
            let Some(name) = sealed_xattr::open_name(&self.volume, stored, &sealed) else { continue };
            let open_under = |keys: &[&Key]| sealed_xattr::open_value(keys, object, &name, &sealed);
            if open_under(&[&keys.xattr]).is_ok() {
                continue;
            }
            let Ok(value) = open_under(&keys.xattr_keys()).map(Zeroizing::new) else {
                tracing::warn!("{}: a damaged attribute was not sealed anew", inode.path());
                continue;
            };
            let anew = sealed_xattr::seal(&self.volume, &keys.xattr, object, &name, &value)?;
            match disk.set_xattr(&*fd, stored, &anew, XattrFlags::REPLACE) {
                Ok(()) | Err(rustix::io::Errno::NODATA) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
