//! Looking at everything that a file holds, and going on behind what is wrong.
//!
//! A program's read ends at the first chunk that is damaged. A check has to name every one, and
//! must neither read the holes of a sparse file nor take an erased chunk for a hole: the floors
//! tell which it is, also where the backing file has no data at all.

use std::io;
use std::ops::{ControlFlow, Range};

use arrayvec::ArrayVec;

use super::buffer::{with_ciphertext, with_plaintext};
use super::file::{SealedFile, Shape};
use super::map::{Floors, first_chunk};
use super::read::{BATCH, Found, Openings, find, open_found};
use super::{Backing, ChunkError};
use crate::format::FormatError;
use crate::format::floors::{ENTRIES, INLINE};
use crate::format::layout::MapPage;
use crate::format::schedule::FileKeys;
use crate::format::unit::EpochBounds;

/// Bytes of units looked at together.
const SPAN: usize = BATCH << 12;

/// What is wrong somewhere in a file that could be opened.
#[derive(Debug)]
pub enum Flaw {
    /// A chunk is forged or damaged.
    Chunk {
        /// Its number.
        chunk: u64,
        /// What is wrong with it.
        error: FormatError,
    },
    /// A map page is forged or damaged, and so nothing can be said about the chunks below it.
    Map {
        /// Which one.
        page: MapPage,
        /// The chunks whose floors it holds, itself or through pages below it.
        chunks: Range<u64>,
        /// What is wrong with it.
        error: FormatError,
    },
    /// The backing filesystem cannot read it.
    Unreadable {
        /// The chunks, or those below the map page that could not be read.
        chunks: Range<u64>,
        /// What it said.
        error: io::Error,
    },
}

/// Follows [`SealedFile::verify`].
pub trait Inspector {
    /// Something is wrong.
    fn flaw(&mut self, flaw: Flaw);

    /// So many bytes of units were looked at; answers whether to go on.
    fn looked_at(&mut self, bytes: u64) -> ControlFlow<()>;
}

/// What the header says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Chunks may have been written since it was sealed.
    pub unsettled: bool,
    /// The newest epoch that it knows of.
    pub epoch: u32,
    /// The file is being re-encrypted.
    pub reencrypting: bool,
}

impl<B: Backing> SealedFile<B> {
    /// What the header says of itself.
    pub fn mark(&self) -> Mark {
        let state = &self.shape.read().state;
        Mark { unsettled: state.unsettled, epoch: state.epoch, reencrypting: state.new_key_since != 0 }
    }

    /// Opens every map page and, with `data`, every chunk. Answers the newest epoch among the
    /// chunks. Nobody may be writing to the file.
    pub fn verify(&self, keys: &FileKeys, data: bool, inspector: &mut dyn Inspector) -> ControlFlow<(), u32> {
        let shape = self.shape.read();
        let mut pass = Pass {
            file: self,
            keys,
            shape: &shape,
            floors: Floors::new(self, &shape, keys),
            inspector,
            next_data: 0,
            newest: 0,
        };
        let end = self.layout.chunks(shape.size);
        let mut at = 0;
        while at < end {
            at = pass.group(at, end, data)?;
        }
        ControlFlow::Continue(pass.newest)
    }
}

/// One look at everything.
struct Pass<'a, B> {
    file: &'a SealedFile<B>,
    keys: &'a FileKeys,
    shape: &'a Shape,
    floors: Floors<'a, B>,
    inspector: &'a mut dyn Inspector,
    /// Before this offset the backing file is a hole, from where it was last asked.
    next_data: u64,
    newest: u32,
}

impl<B: Backing> Pass<'_, B> {
    /// Looks at the chunks from `start` whose floors lie together; answers where the next ones
    /// begin.
    fn group(&mut self, start: u64, end: u64, data: bool) -> ControlFlow<(), u64> {
        let page = start.checked_sub(INLINE).map(|beyond| MapPage { level: 1, index: beyond / ENTRIES });
        let next = page.map_or(INLINE, |page| INLINE + (page.index + 1) * ENTRIES).min(end);
        if let Some(page) = page {
            match self.is_empty(page, next) {
                Ok(true) => return ControlFlow::Continue(next),
                Ok(false) => {}
                Err(error) => return ControlFlow::Continue(self.without_floors(error, start..next, end)),
            }
        }
        let mut at = start;
        while data && at < next {
            let len = (SPAN >> self.file.layout.unit_shift()).max(1) as u64;
            let span = at..(at + len).min(next);
            at = span.end;
            self.span(span)?;
        }
        ControlFlow::Continue(next)
    }

    /// Whether a map page promises nothing and nothing is stored where its chunks would be. Opens
    /// it otherwise.
    fn is_empty(&mut self, page: MapPage, next: u64) -> Result<bool, ChunkError> {
        let promised = first_chunk(page) < self.shape.promised_chunks(self.file.layout);
        let floor = if promised { self.floors.of_map(page)? } else { 0 };
        let offset = self.file.layout.map_offset(page);
        if floor == 0 && self.is_hole(offset, self.file.layout.end_offset(next)) {
            return Ok(true);
        }
        self.floors.table(page).map(|_| false)
    }

    /// Notes that floors are not to be had; answers the chunk from which on they are again.
    fn without_floors(&mut self, error: ChunkError, chunks: Range<u64>, end: u64) -> u64 {
        match error {
            ChunkError::Map { page, error } => {
                let behind = first_chunk(MapPage { index: page.index + 1, ..page }).min(end);
                let chunks = first_chunk(page)..behind;
                self.inspector.flaw(Flaw::Map { page, chunks, error });
                behind
            }
            other => {
                let behind = chunks.end;
                self.inspector.flaw(Flaw::Unreadable { chunks, error: as_io(other) });
                behind
            }
        }
    }

    /// Looks at chunks whose units lie side by side.
    fn span(&mut self, chunks: Range<u64>) -> ControlFlow<()> {
        let layout = self.file.layout;
        let (from, to) = (layout.unit_offset(chunks.start), layout.end_offset(chunks.end));
        if self.is_hole(from, to) {
            for chunk in chunks {
                let erased = self
                    .bounds(chunk)
                    .and_then(|bounds| bounds.check_hole().map_err(|error| Flaw::Chunk { chunk, error }));
                if let Err(flaw) = erased {
                    self.inspector.flaw(flaw);
                }
            }
            // Holes cost nothing, but a file may have a great many.
            return self.inspector.looked_at(0);
        }
        with_ciphertext((to - from) as usize, |units| match self.file.backing.read_at(units, from) {
            Ok(read) => {
                units[read..].fill(0);
                self.units(chunks, units);
            }
            // One bad sector is not to hide the chunks beside it.
            Err(error) if chunks.end - chunks.start == 1 => {
                self.inspector.flaw(Flaw::Unreadable { chunks, error });
            }
            Err(_) => {
                for (unit, chunk) in units.chunks_mut(layout.unit_len()).zip(chunks) {
                    match self.file.backing.read_at(unit, layout.unit_offset(chunk)) {
                        Ok(read) => {
                            unit[read..].fill(0);
                            self.units(chunk..chunk + 1, unit);
                        }
                        Err(error) => {
                            self.inspector.flaw(Flaw::Unreadable { chunks: chunk..chunk + 1, error });
                        }
                    }
                }
            }
        });
        self.inspector.looked_at(to - from)
    }

    /// Opens units that were read.
    fn units(&mut self, chunks: Range<u64>, units: &[u8]) {
        let mut sealed = ArrayVec::<(u64, Found<'_>), BATCH>::new();
        for (unit, chunk) in units.chunks(self.file.layout.unit_len()).zip(chunks) {
            let found = self
                .bounds(chunk)
                .and_then(|bounds| find(unit, chunk, bounds).map_err(|error| Flaw::Chunk { chunk, error }));
            match found {
                Ok(Found::Hole) => {}
                Ok(found) => sealed.push((chunk, found)),
                Err(flaw) => self.inspector.flaw(flaw),
            }
        }
        let (aead, keys, payload) = (self.file.aead, self.keys, self.file.layout.payload_len());
        let forged: ArrayVec<u64, BATCH> = with_plaintext(payload * sealed.len(), |plaintext| {
            let mut batch = Openings::new(keys);
            sealed.iter().zip(plaintext.chunks_mut(payload)).for_each(|((_, f), p)| batch.add(f, p));
            if batch.open(aead).is_ok() {
                return ArrayVec::new();
            }
            let is_forged = |found: &Found<'_>, p: &mut [u8]| open_found(aead, keys, found, p).is_err();
            let each = sealed.iter().zip(plaintext.chunks_mut(payload));
            each.filter_map(|((chunk, found), p)| is_forged(found, p).then_some(*chunk)).collect()
        });
        for (chunk, found) in &sealed {
            if forged.contains(chunk) {
                self.inspector.flaw(Flaw::Chunk { chunk: *chunk, error: FormatError::Forged });
            } else {
                self.newest = self.newest.max(found.epoch());
            }
        }
    }

    fn bounds(&mut self, chunk: u64) -> Result<EpochBounds, Flaw> {
        self.floors.of_chunk(chunk).map_err(|error| match error {
            ChunkError::Map { page, error } => Flaw::Map { page, chunks: chunk..chunk + 1, error },
            other => Flaw::Unreadable { chunks: chunk..chunk + 1, error: as_io(other) },
        })
    }

    /// Whether the backing file has no data in a range. Ranges are asked for in rising order.
    fn is_hole(&mut self, from: u64, to: u64) -> bool {
        if self.next_data <= from {
            // Where the backing filesystem cannot tell, everything is data.
            self.next_data = match self.file.backing.seek_data(from) {
                Ok(Some(at)) => at,
                Ok(None) => u64::MAX,
                Err(_) => from,
            };
        }
        self.next_data >= to
    }
}

fn as_io(error: ChunkError) -> io::Error {
    match error {
        ChunkError::Io(error) => error,
        other => io::Error::other(other),
    }
}
