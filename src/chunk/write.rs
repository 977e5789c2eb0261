//! Writing: sealed from the caller's buffer straight into a pooled one, one pwrite per run of
//! units. The chunks at the two ends are read, changed and sealed again.

use std::ops::Range;

use arrayvec::ArrayVec;

use super::buffer::{with_ciphertext, with_plaintext};
use super::file::{SealedFile, Shape};
use super::read::{BATCH, runs};
use super::{Backing, ChunkError};
use crate::crypto::aead::Seal;
use crate::crypto::{NONCE_LEN, TAG_LEN, nonce};
use crate::format::layout::UNIT_HEAD_LEN;
use crate::format::schedule::FileKeys;
use crate::format::unit::chunk_aad;
use crate::sync::atomic::Ordering;
use crate::sync::{RangeGuard, RwLockReadGuard, RwLockWriteGuard};

/// The right to write some chunks.
struct Admission<'a> {
    shape: RwLockReadGuard<'a, Shape>,
    _chunks: RangeGuard<'a>,
    /// Chunks from here on were not there before this write: holes.
    fresh_from: u64,
    /// The size to go back to if this write, which made the file grow, fails.
    grown_from: Option<u64>,
}

impl<B: Backing> SealedFile<B> {
    /// Writes `data` at `offset`, growing the file as needed. `next_epoch` is asked for the
    /// session's epoch, given the file's newest, when this is the session's first change.
    ///
    /// # Errors
    /// [`ChunkError::TooBig`], [`ChunkError::Io`], what is wrong with a chunk of which only a part
    /// is overwritten, and what `next_epoch` returns. The file keeps its size then.
    pub fn write<E: From<ChunkError>>(
        &self,
        keys: &FileKeys,
        offset: u64,
        data: &[u8],
        next_epoch: impl FnOnce(u32) -> Result<u32, E>,
    ) -> Result<(), E> {
        if data.is_empty() {
            return Ok(());
        }
        let end = offset
            .checked_add(data.len() as u64)
            .filter(|&end| end <= self.layout.max_size())
            .ok_or(ChunkError::TooBig)?;
        let payload = self.layout.payload();
        let chunks = offset / payload..end.div_ceil(payload);
        let admission = self.admit(keys, chunks.clone(), end, next_epoch)?;
        let change = self.changes.load(Ordering::Relaxed);
        let written = self.write_admitted(&admission, keys, offset, data, chunks);
        if let (Err(_), Some(size)) = (&written, admission.grown_from) {
            drop(admission);
            self.take_growth_back(end, size, change);
        }
        Ok(written?)
    }

    /// Extends the file to `size` bytes with a hole. A no-op when it is that long.
    ///
    /// # Errors
    /// As [`SealedFile::write`].
    pub fn extend<E: From<ChunkError>>(
        &self,
        keys: &FileKeys,
        size: u64,
        next_epoch: impl FnOnce(u32) -> Result<u32, E>,
    ) -> Result<(), E> {
        let mut shape = self.shape.write();
        if size > shape.size {
            self.join_session(&mut shape, keys, next_epoch)?;
            self.grow(&mut shape, keys, size)?;
        }
        Ok(())
    }

    fn admit<E: From<ChunkError>>(
        &self,
        keys: &FileKeys,
        chunks: Range<u64>,
        end: u64,
        next_epoch: impl FnOnce(u32) -> Result<u32, E>,
    ) -> Result<Admission<'_>, E> {
        let shape = self.shape.read();
        if shape.in_session && end <= shape.size {
            let fresh_from = self.layout.chunks(shape.size);
            return Ok(Admission {
                shape,
                _chunks: self.ranges.exclusive(chunks),
                fresh_from,
                grown_from: None,
            });
        }
        drop(shape);
        let mut shape = self.shape.write();
        self.join_session(&mut shape, keys, next_epoch)?;
        let before = shape.size;
        let grows = end > before;
        if grows {
            self.grow(&mut shape, keys, end)?;
        }
        // Taken while nobody else is in the file, so that nobody fills the fresh chunks between.
        let guard = self.ranges.exclusive(chunks);
        Ok(Admission {
            shape: RwLockWriteGuard::downgrade(shape),
            _chunks: guard,
            fresh_from: self.layout.chunks(before),
            grown_from: grows.then_some(before),
        })
    }

    /// Makes the file longer. The size is there before the data: a reader finds a hole until then,
    /// and so does whoever comes after a crash.
    fn grow(&self, shape: &mut Shape, keys: &FileKeys, size: u64) -> Result<(), ChunkError> {
        if size > self.layout.max_size() {
            return Err(ChunkError::TooBig);
        }
        self.clear_tail(shape, keys)?;
        self.backing.set_len(self.layout.physical_size(size))?;
        shape.size = size;
        self.changes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Makes sure that nothing shows up when the end of the file moves: zeros what the last chunk
    /// holds behind the end, left there by a shrink or by a write whose growth was lost in a crash,
    /// and what a shrink left of the next unit.
    fn clear_tail(&self, shape: &mut Shape, keys: &FileKeys) -> Result<(), ChunkError> {
        let used = (shape.size % self.layout.payload()) as usize;
        if !shape.tail_is_zero && used != 0 {
            // What looks cleared may be a hole that is not on disk yet.
            if self.hole_pending.load(Ordering::SeqCst) {
                self.sync(true)?;
            }
            // Durably, before the end moves: a crash must not bring back what was cut off, nor
            // make half a unit part of the file.
            if self.clear_last_chunk(shape, keys, used)? | self.clear_tail_mark(shape, used)? {
                self.sync(true)?;
            }
        }
        shape.tail_is_zero = true;
        Ok(())
    }

    /// Answers whether anything had to be cleared.
    fn clear_last_chunk(&self, shape: &Shape, keys: &FileKeys, used: usize) -> Result<bool, ChunkError> {
        let chunk = shape.size / self.layout.payload();
        with_plaintext(self.layout.payload_len(), |plaintext| {
            self.read_chunk(shape, keys, chunk, plaintext)?;
            if plaintext[used..].iter().all(|&b| b == 0) {
                return Ok(false);
            }
            plaintext[used..].fill(0);
            self.write_run(shape, keys, chunk..chunk + 1, &[], plaintext, &[])?;
            Ok(true)
        })
    }

    /// The bytes behind the last unit that stand for the size hold the beginning of the next unit
    /// after a shrink. They mean nothing there, but must be gone before that unit is part of the
    /// file again. Answers whether anything had to be cleared.
    fn clear_tail_mark(&self, shape: &Shape, len: usize) -> Result<bool, ChunkError> {
        let offset = self.layout.end_offset(self.layout.chunks(shape.size));
        with_ciphertext(len, |mark| {
            let read = self.backing.read_at(mark, offset)?;
            if mark[..read].iter().all(|&b| b == 0) {
                return Ok(false);
            }
            // Not before the shrink itself is durable: else a crash could leave the longer file with
            // a unit that begins with zeros.
            self.sync(true)?;
            mark.fill(0);
            self.backing.write_at(mark, offset)?;
            Ok(true)
        })
    }

    /// Undoes the growth of a failed write, unless somebody wrote since.
    fn take_growth_back(&self, end: u64, size: u64, change: u64) {
        let mut shape = self.shape.write();
        let untouched = self.changes.load(Ordering::Relaxed) == change;
        if shape.size == end && untouched && self.backing.set_len(self.layout.physical_size(size)).is_ok() {
            shape.size = size;
            shape.tail_is_zero = false;
            self.written.lock().remove(self.layout.chunks(size)..u64::MAX);
        }
    }

    fn write_admitted(
        &self,
        admission: &Admission<'_>,
        keys: &FileKeys,
        offset: u64,
        data: &[u8],
        chunks: Range<u64>,
    ) -> Result<(), ChunkError> {
        let payload = self.layout.payload();
        let end = offset + data.len() as u64;
        let head_is_partial = !offset.is_multiple_of(payload)
            || (chunks.end - chunks.start == 1 && !end.is_multiple_of(payload));
        let tail_is_partial = !end.is_multiple_of(payload) && chunks.end - chunks.start > 1;
        let edge_len = |partial| if partial { payload as usize } else { 0 };
        with_plaintext(edge_len(head_is_partial), |head| {
            with_plaintext(edge_len(tail_is_partial), |tail| {
                let mut middle = data;
                if head_is_partial {
                    let start = (offset % payload) as usize;
                    let len = data.len().min(head.len() - start);
                    self.read_edge(admission, keys, chunks.start, head)?;
                    head[start..start + len].copy_from_slice(&data[..len]);
                    middle = &middle[len..];
                }
                if tail_is_partial {
                    let len = (end % payload) as usize;
                    let (rest, edge) = middle.split_at(middle.len() - len);
                    self.read_edge(admission, keys, chunks.end - 1, tail)?;
                    tail[..len].copy_from_slice(edge);
                    middle = rest;
                }
                self.write_run(&admission.shape, keys, chunks, head, middle, tail)
            })
        })
    }

    fn read_edge(
        &self,
        admission: &Admission<'_>,
        keys: &FileKeys,
        chunk: u64,
        plaintext: &mut [u8],
    ) -> Result<(), ChunkError> {
        if chunk >= admission.fresh_from {
            plaintext.fill(0);
            return Ok(());
        }
        self.read_chunk(&admission.shape, keys, chunk, plaintext)
    }

    /// Seals and writes whole chunks: `head` (one or none), `middle`, `tail` (one or none).
    fn write_run(
        &self,
        shape: &Shape,
        keys: &FileKeys,
        chunks: Range<u64>,
        head: &[u8],
        middle: &[u8],
        tail: &[u8],
    ) -> Result<(), ChunkError> {
        let payload = self.layout.payload_len();
        let mut plaintexts =
            head.chunks_exact(payload).chain(middle.chunks_exact(payload)).chain(tail.chunks_exact(payload));
        for run in runs(chunks) {
            let len = (run.end - run.start) as usize * self.layout.unit_len();
            with_ciphertext(len, |units| {
                let mut first = run.start;
                for units in units.chunks_mut(BATCH * self.layout.unit_len()) {
                    let count = units.len() / self.layout.unit_len();
                    self.seal_units(shape.state.epoch, keys, first, plaintexts.by_ref().take(count), units)?;
                    first += count as u64;
                }
                let written = self.backing.write_at(units, self.layout.unit_offset(run.start));
                match written {
                    Ok(()) => self.note_written(run.clone()),
                    Err(_) => self.uncertain.store(true, Ordering::Relaxed),
                }
                Ok::<_, ChunkError>(written?)
            })?;
        }
        Ok(())
    }

    /// Seals at most [`BATCH`] chunks into their units.
    pub(super) fn seal_units<'p>(
        &self,
        epoch: u32,
        keys: &FileKeys,
        first: u64,
        plaintexts: impl Iterator<Item = &'p [u8]>,
        units: &mut [u8],
    ) -> Result<(), ChunkError> {
        let count = units.len() / self.layout.unit_len();
        let mut nonces = [[0; NONCE_LEN]; BATCH];
        nonce::fresh(&mut nonces[..count])?;
        let mut aads = [[0; 16]; BATCH];
        for (aad, chunk) in aads.iter_mut().zip(first..).take(count) {
            *aad = chunk_aad(chunk, epoch);
        }
        let mut batch = ArrayVec::<Seal<'_>, BATCH>::new();
        let ciphers = units.chunks_mut(self.layout.unit_len()).zip(nonces.iter().zip(&aads));
        for (plaintext, (unit, (nonce, aad))) in plaintexts.zip(ciphers) {
            let (head, ciphertext) = unit.split_at_mut(UNIT_HEAD_LEN);
            head[..NONCE_LEN].copy_from_slice(nonce);
            let Some((tag, stamp)) = head[NONCE_LEN..].split_first_chunk_mut::<TAG_LEN>() else { break };
            stamp.copy_from_slice(&epoch.to_le_bytes());
            batch.push(Seal { nonce, aad, plaintext, ciphertext, tag });
        }
        self.aead.seal(&keys.content, &mut batch);
        Ok(())
    }
}
