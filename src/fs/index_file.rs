//! The index on disk: read when a volume is opened, written when it is let go of.
//!
//! Nothing has to mark it as out of date while the volume is mounted: it names the epochs that the
//! volume's page had reserved when it was written, and a mount reserves further ones, durably, before
//! anything else.

use std::io;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::Wrapping;
use super::index::{Count, Counts};
use super::volume::Volume;
use super::volume_page::write_new;
use crate::chunk::Backing;
use crate::format::FormatError;
use crate::format::index::{INDEX_NAME, IndexEntry, IndexFile, MAX_INDEX_LEN};

impl Volume {
    /// What the last mount that ended properly counted; `None` where there was none, or it did not know.
    ///
    /// # Errors
    /// As read(2); `InvalidData` for an index that is not authentic.
    pub fn kept_counts(&self) -> io::Result<Option<Counts>> {
        let index = read(self)?.filter(|index| self.ended_with(index.session));
        let of_entry = |entry: IndexEntry| {
            let wrapping = Wrapping { key_arn: entry.key_arn, key_version: entry.key_version };
            (wrapping, Count { files: entry.files, bytes: entry.bytes })
        };
        Ok(index.map(|index| index.entries.into_iter().map(of_entry).collect()))
    }

    /// Keeps what was counted, for the mount that comes when this one has ended properly.
    ///
    /// # Errors
    /// When it cannot be written, or is too much.
    pub fn keep_counts(&self, counts: &Counts) -> io::Result<()> {
        let entries = counts.iter().map(|(wrapping, count)| IndexEntry {
            key_arn: wrapping.key_arn.clone(),
            key_version: wrapping.key_version,
            files: count.files,
            bytes: count.bytes,
        });
        write(self, &IndexFile { session: self.epochs_reserved(), entries: entries.collect() })
    }

    /// Removes the index, before the volume is changed in other ways than through [`Fs`](super::Fs).
    ///
    /// # Errors
    /// As unlink(2).
    pub fn discard_counts(&self) -> io::Result<()> {
        match self.disk.unlink(&self.root, INDEX_NAME) {
            Err(Errno::NOENT) => Ok(()),
            removed => Ok(removed?),
        }
    }
}

/// The index, of whatever time; `None` if there is none.
///
/// # Errors
/// As open(2) and read(2); `InvalidData` with the [`FormatError`] of one that is not authentic.
pub(super) fn read(volume: &Volume) -> io::Result<Option<IndexFile>> {
    let file = match volume.disk.open(&volume.root, INDEX_NAME, OFlags::RDONLY | OFlags::NONBLOCK) {
        Err(Errno::NOENT) => return Ok(None),
        opened => opened?,
    };
    let len = usize::try_from(file.length()?).ok().filter(|len| *len <= MAX_INDEX_LEN);
    let refused = |error: FormatError| io::Error::new(io::ErrorKind::InvalidData, error);
    let mut bytes = vec![0; len.ok_or_else(|| refused(FormatError::Impossible))?];
    let read = file.read_at(&mut bytes, 0)?;
    IndexFile::open(&bytes[..read], &volume.keys.index, volume.id).map(Some).map_err(refused)
}

/// Puts an index in place of the one before, durably.
///
/// # Errors
/// When it cannot be written, or does not fit. The one before is for an earlier time.
pub(super) fn write(volume: &Volume, index: &IndexFile) -> io::Result<()> {
    let bytes = index.seal(&volume.keys.index, volume.id).map_err(io::Error::other)?;
    write_new(&volume.disk, &volume.root, INDEX_NAME, &bytes)
}
