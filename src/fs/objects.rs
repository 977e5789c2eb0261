//! What has a wrapped key of its own, by id: for taking the keys to another key store.

use rustix::fs::OFlags;

use super::keys::file_context;
use super::open_file::open_as_owner;
use super::volume_page::context;
use super::{FileKind, Fs, FsError, FsResult, ROOT_INO};
use crate::chunk::{ChunkError, ClosedHeader};
use crate::format::slot::Wrapped;
use crate::format::{FormatError, Id};
use crate::kms::EncryptionContext;
use crate::secret::Key;

impl Fs {
    /// The id of a file that is not open, as its header says. Needs no key, and only the file's key
    /// can vouch for it.
    ///
    /// # Errors
    /// `ENODATA` for what has no wrapped key, `EIO` if the header is damaged.
    pub fn object_id(&self, ino: u64) -> FsResult<Id> {
        Ok(self.wrapped_object(ino)?.0)
    }

    /// The data key of a file that is not open, or the volume key on the root, unwrapped by the key
    /// service for nobody but the caller: it is not cached.
    ///
    /// # Errors
    /// As [`Fs::object_id`], and those of the master key.
    pub fn data_key(&self, ino: u64) -> FsResult<(Id, Key)> {
        let (id, wrapped, context) = self.wrapped_object(ino)?;
        Ok((id, self.provider.unwrap(&wrapped.blob, &context)?.plaintext))
    }

    fn wrapped_object(&self, ino: u64) -> FsResult<(Id, Wrapped, EncryptionContext)> {
        let (inode, volume) = (self.inodes.find(ino)?, self.volume.id);
        match inode.kind {
            FileKind::Directory if ino == ROOT_INO => Ok((volume, self.volume.wrapped(), context(volume))),
            FileKind::Regular => {
                let file = open_as_owner(&self.volume.disk, &inode, OFlags::RDONLY)?;
                let header = ClosedHeader::read(&file).map_err(|e| self.name_damage(&inode, e.into()))?;
                let head = header.head();
                if head.volume != volume {
                    return Err(ChunkError::Header(FormatError::Forged).into());
                }
                Ok((head.object, header.wrapped().clone(), file_context(volume, head.object)))
            }
            _ => Err(FsError::new(libc::ENODATA)),
        }
    }
}
