//! Finding holes and data, and reserving space: the backing file's answers in plaintext offsets.

use super::file::SealedFile;
use super::{Backing, ChunkError};

impl<B: Backing> SealedFile<B> {
    /// The first offset at or behind `offset` in a chunk that holds data; `None` when only a hole
    /// follows (`SEEK_DATA` of lseek(2)).
    ///
    /// # Errors
    /// As lseek(2).
    pub fn seek_data(&self, offset: u64) -> Result<Option<u64>, ChunkError> {
        let shape = self.shape.read();
        let mut chunk = offset / self.layout.payload();
        while chunk < self.layout.chunks(shape.size) {
            let Some(found) = self.backing.seek_data(self.layout.unit_offset(chunk))? else { break };
            let at = self.layout.chunk_at(found);
            if found >= self.layout.unit_offset(at) {
                return Ok(Some(offset.max(at * self.layout.payload())).filter(|&at| at < shape.size));
            }
            // What was found is a map page.
            chunk = at;
            if self.backing.seek_data(self.layout.unit_offset(at))? == Some(self.layout.unit_offset(at)) {
                return Ok(Some(offset.max(at * self.layout.payload())).filter(|&at| at < shape.size));
            }
        }
        Ok(None)
    }

    /// The first offset at or behind `offset` in a chunk that is a hole, or the file's size
    /// (`SEEK_HOLE` of lseek(2)); `None` behind the end.
    ///
    /// # Errors
    /// As lseek(2).
    pub fn seek_hole(&self, offset: u64) -> Result<Option<u64>, ChunkError> {
        let shape = self.shape.read();
        if offset >= shape.size {
            return Ok(None);
        }
        let mut chunk = offset / self.layout.payload();
        while chunk < self.layout.chunks(shape.size) {
            let start = self.layout.unit_offset(chunk);
            let found = self.backing.seek_hole(start)?;
            let at = self.layout.chunk_at(found);
            if found == self.layout.unit_offset(at) || at >= self.layout.chunks(shape.size) {
                return Ok(Some(offset.max(at * self.layout.payload()).min(shape.size)));
            }
            // A missing map page, or a unit that is a hole in part, is none.
            chunk = if found < self.layout.unit_offset(at) { at } else { at + 1 };
        }
        Ok(Some(shape.size))
    }

    /// Reserves backing space for `len` bytes from `offset`, so that writing them cannot fail for
    /// want of it. Size and contents stay.
    ///
    /// # Errors
    /// As fallocate(2).
    pub fn reserve(&self, offset: u64, len: u64) -> Result<(), ChunkError> {
        let payload = self.layout.payload();
        let end = offset.checked_add(len).filter(|&end| end <= self.layout.max_size());
        let end = end.ok_or(ChunkError::TooBig)?;
        let start = self.layout.unit_offset(offset / payload);
        let stop = self.layout.end_offset(end.div_ceil(payload));
        Ok(self.backing.allocate(start, stop.saturating_sub(start))?)
    }
}
