//! Making a file hold less: cutting it and punching holes. The header durably promises less
//! before the file holds less, so that whoever finds it interrupted does not take it for damaged.

use std::ops::Range;
use std::sync::Arc;

use super::buffer::with_plaintext;
use super::file::{SealedFile, Shape};
use super::map::Floors;
use super::read::runs;
use super::{Backing, ChunkError};
use crate::format::floors::{INLINE, MapTable};
use crate::format::layout::{FloorAt, MapPage};
use crate::format::schedule::FileKeys;
use crate::format::unit::seal_map;
use crate::sync::atomic::Ordering;

impl<B: Backing> SealedFile<B> {
    /// Sets the size in bytes. Extending leaves a hole. Cutting below what an earlier settling
    /// promised costs a flush, once per session and lower mark.
    ///
    /// # Errors
    /// As [`SealedFile::write`]; the size is unchanged then.
    pub fn truncate<E: From<ChunkError>>(
        &self,
        keys: &FileKeys,
        size: u64,
        next_epoch: impl FnOnce(u32) -> Result<u32, E>,
    ) -> Result<(), E> {
        if size >= self.size() {
            return self.extend(keys, size, next_epoch);
        }
        let mut shape = self.shape.write();
        if size >= shape.size {
            drop(shape);
            return self.extend(keys, size, next_epoch);
        }
        self.join_session(&mut shape, keys, next_epoch)?;
        if shape.state.min_size > size {
            let promised = shape.state.min_size;
            shape.state.min_size = size;
            shape.state.lowered = true;
            let lowered = self.write_header(&mut shape, keys).and_then(|()| self.sync(true));
            if let Err(error) = lowered {
                shape.state.min_size = promised;
                return Err(error.into());
            }
        }
        if let Err(error) = self.backing.set_len(self.layout.physical_size(size)) {
            // What is still there is promised no more: settling has to look at it.
            self.uncertain.store(true, Ordering::Relaxed);
            return Err(ChunkError::Io(error).into());
        }
        shape.size = size;
        shape.tail_is_zero = size.is_multiple_of(self.layout.payload());
        self.written.lock().remove(self.layout.chunks(size)..u64::MAX);
        self.maps.clear();
        self.changes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Makes a range read as zeros, giving back the space of the chunks that lie wholly in it.
    /// The size stays; what lies behind the end is left alone.
    ///
    /// # Errors
    /// As [`SealedFile::write`], and `EOPNOTSUPP` where the backing filesystem has no holes.
    pub fn punch<E: From<ChunkError>>(
        &self,
        keys: &FileKeys,
        range: Range<u64>,
        next_epoch: impl Fn(u32) -> Result<u32, E>,
    ) -> Result<(), E> {
        let payload = self.layout.payload();
        let (mut shape, whole) = loop {
            let size = self.size();
            let range = range.start..range.end.min(size);
            if range.is_empty() {
                return Ok(());
            }
            // The last chunk lies wholly in the range when that reaches the end of the file.
            let end_chunk = if range.end == size { self.layout.chunks(size) } else { range.end / payload };
            let whole = range.start.div_ceil(payload)..end_chunk;
            if whole.is_empty() {
                return self.zero(keys, range, &next_epoch);
            }
            self.zero(keys, range.start..whole.start * payload, &next_epoch)?;
            if range.end > whole.end * payload {
                self.zero(keys, whole.end * payload..range.end, &next_epoch)?;
            }
            let shape = self.shape.write();
            if shape.size == size {
                break (shape, whole);
            }
            // Somebody cut the file or appended to it: what "wholly" meant may have changed.
        };
        self.join_session(&mut shape, keys, next_epoch)?;
        if let Err(error) = self.lower_floors(&mut shape, keys, whole.clone()) {
            // As above: some may be promised no more.
            self.uncertain.store(true, Ordering::Relaxed);
            return Err(error.into());
        }
        self.changes.fetch_add(1, Ordering::Relaxed);
        self.hole_pending.store(true, Ordering::SeqCst);
        for run in runs(whole.clone()) {
            let len = (run.end - run.start) * self.layout.unit();
            if let Err(error) = self.backing.punch(self.layout.unit_offset(run.start), len) {
                // Which chunks are holes now is not known.
                self.uncertain.store(true, Ordering::Relaxed);
                return Err(ChunkError::Io(error).into());
            }
        }
        self.written.lock().remove(whole);
        Ok(())
    }

    /// Writes zeros over parts of chunks, each with one write.
    fn zero<E: From<ChunkError>>(
        &self,
        keys: &FileKeys,
        range: Range<u64>,
        next_epoch: &impl Fn(u32) -> Result<u32, E>,
    ) -> Result<(), E> {
        for piece in self.layout.pieces(range.start, range.end - range.start) {
            let at = piece.chunk * self.layout.payload() + piece.start as u64;
            with_plaintext(piece.len, |zeros| self.write(keys, at, zeros, next_epoch))?;
        }
        Ok(())
    }

    /// Durably stops promising `chunks`. Free when nothing is promised of them.
    fn lower_floors(&self, shape: &mut Shape, keys: &FileKeys, chunks: Range<u64>) -> Result<(), ChunkError> {
        let end = chunks.end.min(shape.promised_chunks(self.layout));
        let chunks = chunks.start.min(end)..end;
        let inline = chunks.start.min(INLINE) as usize..chunks.end.min(INLINE) as usize;
        let promised = shape.state.floors;
        shape.state.floors[inline].fill(0);
        let tables = self.lowered_tables(shape, keys, chunks.start.max(INLINE)..chunks.end)?;
        if shape.state.floors == promised && tables.is_empty() {
            return self.finish_lowering();
        }
        // The header first: what has lost its floor, but is still there, needs its word.
        let was_lowered = std::mem::replace(&mut shape.state.lowered, true);
        if !was_lowered || shape.state.floors != promised {
            let lowered = self.write_header(shape, keys).and_then(|()| self.sync(true));
            if let Err(error) = lowered {
                shape.state.floors = promised;
                shape.state.lowered = was_lowered;
                return Err(error);
            }
        }
        for (page, table) in tables {
            self.lowering_pending.store(true, Ordering::SeqCst);
            let sealed = seal_map(&keys.header, page, shape.state.epoch, &table)?;
            self.rewritten.lock().insert(page);
            self.backing.write_at(&sealed, self.layout.map_offset(page))?;
            self.maps.insert(page, Arc::new(table));
        }
        self.finish_lowering()
    }

    fn finish_lowering(&self) -> Result<(), ChunkError> {
        if self.lowering_pending.load(Ordering::SeqCst) {
            self.sync(true)?;
            self.lowering_pending.store(false, Ordering::SeqCst);
        }
        Ok(())
    }

    /// The map pages that promise some of `chunks`, without those promises.
    fn lowered_tables(
        &self,
        shape: &Shape,
        keys: &FileKeys,
        chunks: Range<u64>,
    ) -> Result<Vec<(MapPage, MapTable)>, ChunkError> {
        let mut lowered = Vec::new();
        for run in runs(chunks) {
            let FloorAt::Map(page, first) = self.layout.floor_of_chunk(run.start) else { continue };
            let old = Floors::new(self, shape, keys).table(page)?;
            let entries = first..first + (run.end - run.start) as usize;
            if old[entries.clone()].iter().all(|&floor| floor == 0) {
                continue;
            }
            let mut table = *old;
            table[entries].fill(0);
            lowered.push((page, table));
        }
        Ok(lowered)
    }
}
