//! Reading: one pread per run of units, then straight into the caller's buffer.

use std::ops::Range;

use arrayvec::ArrayVec;

use super::buffer::{with_ciphertext, with_plaintext};
use super::file::{SealedFile, Shape};
use super::map::Floors;
use super::{Backing, ChunkError};
use crate::crypto::aead::{Aead, Open};
use crate::format::FormatError;
use crate::format::floors::{ENTRIES, INLINE};
use crate::format::layout::UNIT_HEAD_LEN;
use crate::format::schedule::FileKeys;
use crate::format::unit::{AAD_LEN, EpochBounds, UnitHead, chunk_aad};

/// Chunks opened in one call of the cipher.
pub(super) const BATCH: usize = 32;

/// One chunk as found on disk.
pub(super) enum Found<'a> {
    Hole,
    Sealed { head: UnitHead, aad: [u8; AAD_LEN], ciphertext: &'a [u8] },
}

impl Found<'_> {
    /// Zero for a hole.
    pub(super) fn epoch(&self) -> u32 {
        match self {
            Self::Hole => 0,
            Self::Sealed { head, .. } => head.epoch,
        }
    }

    /// What opens it; nothing for a hole.
    pub(super) fn open<'o>(&'o self, plaintext: &'o mut [u8]) -> Option<Open<'o>> {
        match self {
            Self::Hole => None,
            Self::Sealed { head, aad, ciphertext } => {
                Some(Open { nonce: &head.nonce, aad, ciphertext, plaintext, tag: &head.tag })
            }
        }
    }
}

/// Chunks to be opened together, each under the key that its epoch has.
pub(super) struct Openings<'o> {
    keys: &'o FileKeys,
    current: ArrayVec<Open<'o>, BATCH>,
    /// Those that a re-encryption has not come to yet.
    previous: ArrayVec<Open<'o>, BATCH>,
}

impl<'o> Openings<'o> {
    pub(super) fn new(keys: &'o FileKeys) -> Self {
        Self { keys, current: ArrayVec::new(), previous: ArrayVec::new() }
    }

    /// Adds a chunk; a hole has nothing to open. At most [`BATCH`] of them.
    pub(super) fn add(&mut self, found: &'o Found<'_>, plaintext: &'o mut [u8]) {
        let previous = self.keys.is_previous(found.epoch());
        let list = if previous { &mut self.previous } else { &mut self.current };
        list.extend(found.open(plaintext));
    }

    pub(super) fn open(mut self, aead: &dyn Aead) -> Result<(), FormatError> {
        aead.open(&self.keys.content, &mut self.current)?;
        match &self.previous[..] {
            [] => Ok(()),
            [..] => Ok(aead.open(self.keys.content_at(0), &mut self.previous)?),
        }
    }
}

impl<B: Backing> SealedFile<B> {
    /// Reads from `offset` until `out` is full or the file ends; returns the bytes read. On an
    /// error `out` may hold plaintext of chunks that were authentic.
    ///
    /// # Errors
    /// [`ChunkError::Io`], or what is wrong with a chunk or map page.
    pub fn read(&self, keys: &FileKeys, offset: u64, out: &mut [u8]) -> Result<usize, ChunkError> {
        let shape = self.shape.read();
        let len = shape.size.saturating_sub(offset).min(out.len() as u64) as usize;
        if len == 0 {
            return Ok(0);
        }
        let payload = self.layout.payload();
        let chunks = offset / payload..(offset + len as u64).div_ceil(payload);
        let _guard = self.ranges.shared(chunks.clone());
        let mut floors = Floors::new(self, &shape, keys);
        let mut skip = (offset % payload) as usize;
        let mut rest = &mut out[..len];
        for run in runs(chunks) {
            let bytes = ((run.end - run.start) * payload) as usize - skip;
            let (part, tail) = rest.split_at_mut(bytes.min(rest.len()));
            self.read_run(&mut floors, keys, run, skip, part)?;
            rest = tail;
            skip = 0;
        }
        Ok(len)
    }

    /// Opens one whole chunk into `plaintext`, a hole as zeros.
    pub(super) fn read_chunk(
        &self,
        shape: &Shape,
        keys: &FileKeys,
        chunk: u64,
        plaintext: &mut [u8],
    ) -> Result<(), ChunkError> {
        let mut floors = Floors::new(self, shape, keys);
        self.read_run(&mut floors, keys, chunk..chunk + 1, 0, plaintext)
    }

    /// The epoch of a chunk after authenticating it; zero for a hole.
    pub(super) fn verify_chunk(&self, shape: &Shape, keys: &FileKeys, chunk: u64) -> Result<u32, ChunkError> {
        let bounds = Floors::new(self, shape, keys).of_chunk(chunk)?;
        let verified = with_ciphertext(self.layout.unit_len(), |unit| {
            let read = self.backing.read_at(unit, self.layout.unit_offset(chunk))?;
            unit[read..].fill(0);
            let found = find(unit, chunk, bounds);
            Ok(found.and_then(|found| {
                with_plaintext(self.layout.payload_len(), |plaintext| {
                    open_found(self.aead, keys, &found, plaintext)
                })?;
                Ok(found.epoch())
            }))
        });
        verified.and_then(|verified| verified.map_err(|error| ChunkError::Chunk { chunk, error }))
    }

    /// Reads units that lie side by side, of whose plaintext the first `skip` bytes are not
    /// wanted, nor what follows behind `out`.
    fn read_run(
        &self,
        floors: &mut Floors<'_, B>,
        keys: &FileKeys,
        run: Range<u64>,
        skip: usize,
        out: &mut [u8],
    ) -> Result<(), ChunkError> {
        let unit = self.layout.unit_len();
        let len = (run.end - run.start) as usize * unit;
        with_ciphertext(len, |units| {
            let read = self.backing.read_at(units, self.layout.unit_offset(run.start))?;
            units[read..].fill(0);
            let mut skip = skip;
            let mut rest = out;
            for (index, units) in units.chunks(BATCH * unit).enumerate() {
                let first = run.start + (index * BATCH) as u64;
                let wanted = units.len() / unit * self.layout.payload_len() - skip;
                let (part, tail) = rest.split_at_mut(wanted.min(rest.len()));
                self.open_units(floors, keys, first, units, skip, part)?;
                rest = tail;
                skip = 0;
            }
            Ok(())
        })
    }

    /// Opens at most [`BATCH`] units.
    fn open_units(
        &self,
        floors: &mut Floors<'_, B>,
        keys: &FileKeys,
        first: u64,
        units: &[u8],
        skip: usize,
        out: &mut [u8],
    ) -> Result<(), ChunkError> {
        let mut found = ArrayVec::<Found<'_>, BATCH>::new();
        for (unit, chunk) in units.chunks(self.layout.unit_len()).zip(first..) {
            let bounds = floors.of_chunk(chunk)?;
            let one = find(unit, chunk, bounds);
            found.push(one.map_err(|error| ChunkError::Chunk { chunk, error })?);
        }
        let mut batch = Openings::new(keys);
        let mut rest = out;
        let mut skip = skip;
        for (found, chunk) in found.iter().zip(first..) {
            let wanted = (self.layout.payload_len() - skip).min(rest.len());
            let (part, tail) = rest.split_at_mut(wanted);
            match found {
                Found::Hole => part.fill(0),
                Found::Sealed { ciphertext, .. } if part.len() == ciphertext.len() => batch.add(found, part),
                sealed => self.open_part(keys, chunk, sealed, skip, part)?,
            }
            rest = tail;
            skip = 0;
        }
        batch.open(self.aead).map_err(|_| first_forged(self.aead, keys, &found, first))
    }

    /// Opens a chunk of which only a part is wanted.
    fn open_part(
        &self,
        keys: &FileKeys,
        chunk: u64,
        found: &Found<'_>,
        skip: usize,
        out: &mut [u8],
    ) -> Result<(), ChunkError> {
        with_plaintext(self.layout.payload_len(), |plaintext| {
            open_found(self.aead, keys, found, plaintext)
                .map_err(|error| ChunkError::Chunk { chunk, error })?;
            out.copy_from_slice(&plaintext[skip..skip + out.len()]);
            Ok(())
        })
    }
}

/// Cuts a range of chunks where map pages lie between them.
pub(super) fn runs(chunks: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let mut at = chunks.start;
    std::iter::from_fn(move || {
        if at >= chunks.end {
            return None;
        }
        let boundary = match at.checked_sub(INLINE) {
            None => INLINE,
            Some(beyond) => INLINE + (beyond / ENTRIES + 1) * ENTRIES,
        };
        let run = at..boundary.min(chunks.end);
        at = run.end;
        Some(run)
    })
}

pub(super) fn find(unit: &[u8], chunk: u64, bounds: EpochBounds) -> Result<Found<'_>, FormatError> {
    let Some((head, ciphertext)) = unit.split_first_chunk::<UNIT_HEAD_LEN>() else {
        return Err(FormatError::Impossible);
    };
    let head = UnitHead::parse(head);
    if head.is_blank() && ciphertext.iter().all(|&b| b == 0) {
        return bounds.check_hole().map(|()| Found::Hole);
    }
    bounds.check(head.epoch)?;
    Ok(Found::Sealed { head, aad: chunk_aad(chunk, head.epoch), ciphertext })
}

pub(super) fn open_found(
    aead: &dyn Aead,
    keys: &FileKeys,
    found: &Found<'_>,
    plaintext: &mut [u8],
) -> Result<(), FormatError> {
    match found {
        Found::Hole => plaintext.fill(0),
        Found::Sealed { head, aad, ciphertext } => {
            let open = Open { nonce: &head.nonce, aad, ciphertext, plaintext, tag: &head.tag };
            aead.open(keys.content_at(head.epoch), &mut [open])?;
        }
    }
    Ok(())
}

/// Names the first chunk of a batch that is not authentic.
pub(super) fn first_forged(aead: &dyn Aead, keys: &FileKeys, found: &[Found<'_>], first: u64) -> ChunkError {
    let payload = found.iter().find_map(|f| match f {
        Found::Hole => None,
        Found::Sealed { ciphertext, .. } => Some(ciphertext.len()),
    });
    let forged = with_plaintext(payload.unwrap_or(0), |plaintext| {
        found.iter().zip(first..).find(|(f, _)| open_found(aead, keys, f, plaintext).is_err())
    });
    let chunk = forged.map_or(first, |(_, chunk)| chunk);
    ChunkError::Chunk { chunk, error: FormatError::Forged }
}
