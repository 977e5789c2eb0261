//! The index on disk: read when a volume is opened, written when it is let go of.
//!
//! Nothing has to mark it as out of date while the volume is mounted: it names the epochs that the
//! volume's page had reserved when it was written, and a mount reserves further ones, durably, before
//! anything else.

use std::io;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::volume::Volume;
use super::volume_page::write_new;
use crate::chunk::Backing;
use crate::format::FormatError;
use crate::format::index::{INDEX_NAME, IndexFile, MAX_INDEX_LEN};

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
