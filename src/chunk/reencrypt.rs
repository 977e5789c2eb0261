//! Giving a file another data key, in place and while it is used.
//!
//! From [`SealedFile::begin_reencryption`] on the file has two: the header holds the new one, wrapped,
//! and the previous one, sealed under it. Everything is written under the new one, in epochs from
//! `new_key_since` on; what is older opens under the previous one. That header is durable before
//! anything relies on it. [`SealedFile::reencrypt`] then seals every older chunk and map page anew, a
//! few at a time, under the same locks as reads and writes. When nothing is left and everything is
//! durable, [`SealedFile::finish_reencryption`] writes a header that knows the previous key no more.
//!
//! So any crash leaves a file that reads as before: whichever units were lost are there in the older
//! form, and the key for that is in the header until the newer one is durable. Whether the file is
//! settled is another matter: it may be settled while it is being re-encrypted, and finished unsettled.

use std::ops::Range;
use std::sync::Arc;

use arrayvec::ArrayVec;

use super::buffer::{with_ciphertext, with_plaintext};
use super::file::{SealedFile, Shape};
use super::map::Floors;
use super::read::{BATCH, Found, Openings, find, first_forged, runs};
use super::{Backing, ChunkError};
use crate::format::floors::INLINE;
use crate::format::layout::MapPage;
use crate::format::schedule::{FileKeys, seal_previous};
use crate::format::slot::Wrapped;
use crate::format::unit::seal_map;
use crate::format::{FormatError, PAGE_LEN};
use crate::secret::Key;
use crate::sync::atomic::Ordering;
use crate::sync::{RwLockReadGuard, RwLockWriteGuard};

/// Bytes of units sealed anew together.
const SPAN: usize = BATCH * PAGE_LEN;
/// Map pages that one step looks for.
const PAGES: u32 = 64;

/// How far a re-encryption has come. Dropping it abandons the work without harm.
#[derive(Debug)]
pub struct Reencryption {
    next: Next,
    /// What is under the new key already is written once more. Whether it reached the disk is not
    /// known, and what is there instead would be lost with the previous key.
    again: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Chunk(u64),
    Map(MapPage),
    Nothing,
}

impl Reencryption {
    fn from_start(again: bool) -> Self {
        Self { next: Next::Chunk(0), again }
    }

    /// Whether everything was sealed anew, and only has to be made durable.
    pub fn is_through(&self) -> bool {
        self.next == Next::Nothing
    }

    /// The first chunk that is still to be looked at; none when all were.
    pub fn chunk(&self) -> Option<u64> {
        match self.next {
            Next::Chunk(chunk) => Some(chunk),
            _ => None,
        }
    }
}

impl<B: Backing> SealedFile<B> {
    /// Whether the file has two data keys.
    pub fn is_being_reencrypted(&self) -> bool {
        self.shape.read().state.new_key_since != 0
    }

    /// Gives the file the data key `new`, which is wrapped in `wrapped`. `present` is the one that it
    /// has. Answers the keys that count from now on: nobody may be using the earlier ones, nor use
    /// them again. Durable when it returns.
    ///
    /// # Errors
    /// [`FormatError::Forged`] if the file has another data key than `present`; [`FormatError::Impossible`]
    /// if it is being re-encrypted already or its header has no room for two; what `next_epoch` returns;
    /// and when the header cannot be written, durably. The file has the keys that it had then.
    pub fn begin_reencryption<E: From<ChunkError>>(
        &self,
        present: &Key,
        new: &Key,
        wrapped: Wrapped,
        next_epoch: impl FnOnce(u32) -> Result<u32, E>,
    ) -> Result<(FileKeys, Reencryption), E> {
        let (volume, file) = (self.head.volume, self.head.object);
        let mut shape = self.shape.write();
        let earlier = FileKeys::derive_checked(present, volume, file, &shape.commitment);
        let earlier = earlier.map_err(ChunkError::Header)?;
        if shape.state.new_key_since != 0 || !wrapped.fits_with_previous() {
            return Err(ChunkError::Header(FormatError::Impossible).into());
        }
        let sealed = seal_previous(new, volume, file, present).map_err(ChunkError::Header)?;
        let before = shape.clone();
        let epoch = next_epoch(shape.state.epoch)?;
        if !shape.state.unsettled {
            shape.state.min_size = shape.state.size;
            shape.state.unsettled = true;
        }
        shape.state.epoch = epoch;
        shape.state.new_key_since = epoch;
        shape.ceiling = shape.ceiling.max(epoch);
        // A session that is running goes on: its first epoch is a floor for what it wrote so far.
        if !shape.in_session {
            shape.in_session = true;
            shape.session_began = epoch;
        }
        let keys = FileKeys::derive(new, volume, file);
        shape.wrapped = wrapped;
        shape.commitment = keys.commitment;
        shape.previous = Some(sealed);
        if let Err(error) = self.write_header(&mut shape, &keys).and_then(|()| self.sync(true)) {
            self.take_back(&mut shape, before, &earlier);
            return Err(error.into());
        }
        shape.in_doubt = false;
        // A settling that is under way would write map pages in an epoch of the previous key.
        self.changes.fetch_add(1, Ordering::Relaxed);
        Ok((keys.with_previous(earlier, epoch), Reencryption::from_start(false)))
    }

    /// Goes back to the header that there was. Which one is on the disk may stay unknown: then
    /// nothing is written in later epochs, which that one would take for the new key's, before
    /// another header is durable.
    fn take_back(&self, shape: &mut Shape, before: Shape, keys: &FileKeys) {
        *shape = Shape { sequence: shape.sequence, interrupted: true, in_session: false, ..before };
        let restored = self.write_header(shape, keys).and_then(|()| self.sync(true));
        shape.in_doubt = restored.is_err();
    }

    /// From where to go on with a re-encryption that somebody else began; `None` if the file is not
    /// being re-encrypted.
    pub fn resume_reencryption(&self) -> Option<Reencryption> {
        self.is_being_reencrypted().then(|| Reencryption::from_start(true))
    }

    /// Seals some of what is left anew, under the file's newer keys: chunks of about `bytes` bytes, or a
    /// few map pages. Everybody else may go on reading and writing. Calls after everything was sealed
    /// anew do nothing.
    ///
    /// # Errors
    /// What is wrong with a chunk or map page, [`ChunkError::Io`], and what `next_epoch` returns. What
    /// was not sealed anew is as it was.
    pub fn reencrypt<E: From<ChunkError>>(
        &self,
        keys: &FileKeys,
        work: &mut Reencryption,
        bytes: u64,
        next_epoch: impl FnOnce(u32) -> Result<u32, E>,
    ) -> Result<(), E> {
        let units = (bytes >> self.layout.unit_shift()).max(1);
        work.next = match work.next {
            Next::Chunk(chunk) => self.reencrypt_chunks(keys, chunk, units, work.again, next_epoch)?,
            Next::Map(page) => self.reencrypt_maps(keys, page, work.again, next_epoch)?,
            Next::Nothing => Next::Nothing,
        };
        Ok(())
    }

    /// Takes the previous data key out of the header, once everything that was written so far is
    /// durable under the new one, and answers whether that was so: if not, the work begins again.
    /// Nobody may be using the keys; the previous ones are needed no more.
    ///
    /// # Errors
    /// When it cannot be made durable, or the header cannot be written; the file has both keys then.
    pub fn finish_reencryption(&self, keys: &FileKeys, work: &mut Reencryption) -> Result<bool, ChunkError> {
        if !work.is_through() {
            return Ok(false);
        }
        // What failed earlier, in whoever's flush it was, does not fail again, and is not on the disk.
        let synced = self.sync(false);
        if self.flush_failed.swap(false, Ordering::SeqCst) {
            *work = Reencryption::from_start(true);
            return synced.map(|()| false);
        }
        let mut shape = self.shape.write();
        let before = (shape.state.new_key_since, shape.previous.take());
        shape.state.new_key_since = 0;
        if let Err(error) = self.write_header(&mut shape, keys) {
            (shape.state.new_key_since, shape.previous) = before;
            return Err(error);
        }
        Ok(true)
    }

    /// The shape, for sealing anew in the running session.
    fn shape_in_session<E: From<ChunkError>>(
        &self,
        keys: &FileKeys,
        next_epoch: impl FnOnce(u32) -> Result<u32, E>,
    ) -> Result<RwLockReadGuard<'_, Shape>, E> {
        let shape = self.shape.read();
        if shape.in_session {
            return Ok(shape);
        }
        drop(shape);
        let mut shape = self.shape.write();
        self.join_session(&mut shape, keys, next_epoch)?;
        Ok(RwLockWriteGuard::downgrade(shape))
    }

    fn reencrypt_chunks<E: From<ChunkError>>(
        &self,
        keys: &FileKeys,
        from: u64,
        most: u64,
        again: bool,
        next_epoch: impl FnOnce(u32) -> Result<u32, E>,
    ) -> Result<Next, E> {
        let shape = self.shape_in_session(keys, next_epoch)?;
        // What is added behind the end from now on is under the new key.
        let end = self.layout.chunks(shape.size);
        let together = most.min((SPAN >> self.layout.unit_shift()).max(1) as u64);
        let mut next = from;
        let mut looked_at = 0;
        while looked_at < most {
            next = self.skip_hole(&mut Floors::new(self, &shape, keys), next..end.max(next))?;
            let Some(span) = runs(next..(next + together).min(end)).next() else {
                let has_maps = end > INLINE;
                return Ok(if has_maps { Next::Map(MapPage { level: 1, index: 0 }) } else { Next::Nothing });
            };
            next = span.end;
            looked_at += span.end - span.start;
            let _guard = self.ranges.exclusive(span.clone());
            self.reencrypt_span(&shape, keys, span, again)?;
        }
        Ok(Next::Chunk(next))
    }

    /// Seals chunks anew whose units lie side by side.
    fn reencrypt_span(
        &self,
        shape: &Shape,
        keys: &FileKeys,
        chunks: Range<u64>,
        again: bool,
    ) -> Result<(), ChunkError> {
        let (unit, payload) = (self.layout.unit_len(), self.layout.payload_len());
        let count = (chunks.end - chunks.start) as usize;
        with_ciphertext(count * unit, |units| {
            let read = self.backing.read_at(units, self.layout.unit_offset(chunks.start))?;
            units[read..].fill(0);
            with_plaintext(count * payload, |plaintext| {
                let due = self.open_due(shape, keys, chunks.start, units, plaintext, again)?;
                for range in due {
                    let first = chunks.start + range.start as u64;
                    let units = &mut units[range.start * unit..range.end * unit];
                    let plaintexts = plaintext[range.start * payload..range.end * payload].chunks(payload);
                    self.seal_units(shape.state.epoch, keys, first, plaintexts, units)?;
                    if let Err(error) = self.backing.write_at(units, self.layout.unit_offset(first)) {
                        self.uncertain.store(true, Ordering::Relaxed);
                        return Err(error.into());
                    }
                    self.note_written(first..first + range.len() as u64);
                }
                Ok(())
            })
        })
    }

    /// Opens those of some units that have to be sealed anew; answers which, in runs.
    fn open_due(
        &self,
        shape: &Shape,
        keys: &FileKeys,
        first: u64,
        units: &[u8],
        plaintext: &mut [u8],
        again: bool,
    ) -> Result<ArrayVec<Range<usize>, BATCH>, ChunkError> {
        let mut floors = Floors::new(self, shape, keys);
        let mut found = ArrayVec::<Found<'_>, BATCH>::new();
        for (unit, chunk) in units.chunks(self.layout.unit_len()).zip(first..) {
            let one = find(unit, chunk, floors.of_chunk(chunk)?);
            found.push(one.map_err(|error| ChunkError::Chunk { chunk, error })?);
        }
        let mut due = ArrayVec::<Range<usize>, BATCH>::new();
        let mut batch = Openings::new(keys);
        for ((index, found), plaintext) in
            found.iter().enumerate().zip(plaintext.chunks_mut(self.layout.payload_len()))
        {
            let is_hole = matches!(found, Found::Hole);
            if is_hole || !again && !keys.is_previous(found.epoch()) {
                continue;
            }
            batch.add(found, plaintext);
            match due.last_mut() {
                Some(run) if run.end == index => run.end += 1,
                _ => due.push(index..index + 1),
            }
        }
        batch.open(self.aead).map_err(|_| first_forged(self.aead, keys, &found, first))?;
        Ok(due)
    }

    /// Seals map pages anew with the floors that they have.
    fn reencrypt_maps<E: From<ChunkError>>(
        &self,
        keys: &FileKeys,
        from: MapPage,
        again: bool,
        next_epoch: impl FnOnce(u32) -> Result<u32, E>,
    ) -> Result<Next, E> {
        // Alone: whoever punches a hole or settles writes them too.
        let mut shape = self.shape.write();
        self.join_session(&mut shape, keys, next_epoch)?;
        let mut from = from;
        for _ in 0..PAGES {
            let Some((page, epoch)) = self.next_map_page(&shape, from)? else {
                if from.level == 3 {
                    return Ok(Next::Nothing);
                }
                from = MapPage { level: from.level + 1, index: 0 };
                continue;
            };
            from.index = page.index + 1;
            if again || keys.is_previous(epoch) {
                self.reencrypt_map(&shape, keys, page)?;
            }
        }
        Ok(Next::Map(from))
    }

    fn reencrypt_map(&self, shape: &Shape, keys: &FileKeys, page: MapPage) -> Result<(), ChunkError> {
        let table = Floors::new(self, shape, keys).table(page)?;
        let sealed = seal_map(&keys.header, page, shape.state.epoch, &table)?;
        // As for a punched hole: the next settling writes it once more, in another epoch, lest this one
        // be put back in its place.
        self.rewritten.lock().insert(page);
        self.changes.fetch_add(1, Ordering::Relaxed);
        self.backing.write_at(&sealed, self.layout.map_offset(page))?;
        self.maps.insert(page, Arc::clone(&table));
        Ok(())
    }
}
