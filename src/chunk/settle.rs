//! Settling: once chunks are durable, sealing their epochs as floors, so that from then on a cut,
//! an erased chunk or an older copy of one is found.
//!
//! It runs off the hot path and for many files at once: [`SealedFile::begin_settling`] on each,
//! one flush for all, then [`SealedFile::settle`] on each; as long as any answers [`Step::Flush`]
//! another flush and another round. What a level of the map says must be durable before the level
//! above relies on it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::file::{SealedFile, Shape};
use super::map::{Floors, first_chunk};
use super::{Backing, ChunkError};
use crate::format::PAGE_LEN;
use crate::format::floors::{DIRECT, ENTRIES, INLINE, MapTable, ROOTS_2, ROOTS_3, RootTable};
use crate::format::layout::{FloorAt, MapPage};
use crate::format::schedule::FileKeys;
use crate::format::unit::{UnitHead, seal_map};
use crate::sync::RwLockWriteGuard;
use crate::sync::atomic::Ordering;

/// A settling under way. Dropping it abandons it without harm.
#[derive(Debug)]
pub struct Settling {
    /// The file's count of changes when it began.
    change: u64,
    /// Epoch to seal map pages and the header with.
    epoch: u32,
    /// The header's floors to be.
    floors: RootTable,
    level: Level,
}

/// One level of the map: chunks (0), or the map pages of a level.
#[derive(Debug)]
struct Level {
    /// 0 for chunks.
    number: u8,
    /// New floors, in order; zero for a hole.
    updates: Vec<(Range<u64>, u32)>,
    /// Items below this that have no update keep their floor; the others lose it.
    keep: u64,
    /// Whether some item that loses its floor shares a map page with one that keeps its own.
    cut_inside: bool,
    /// Every map page that is there is written anew: which were written last is not known.
    rebuild: bool,
}

/// What a settling wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Call again when everything written so far is durable.
    Flush,
    /// The file is settled.
    Done,
    /// The file changed meanwhile; begin again later.
    Busy,
}

impl<B: Backing> SealedFile<B> {
    /// Begins to settle; `None` if there is nothing to do. `next_epoch` is asked for another epoch,
    /// given the file's newest, where map pages are written that the session has written before. A
    /// file that was found unsettled is read through, to learn the epochs of its chunks.
    ///
    /// # Errors
    /// What is wrong with a chunk, and what `next_epoch` returns; the file stays unsettled then.
    pub fn begin_settling<E: From<ChunkError>>(
        &self,
        keys: &FileKeys,
        next_epoch: impl FnOnce(u32) -> Result<u32, E>,
    ) -> Result<Option<Settling>, E> {
        // Alone, so that no write is under way of which the flush to come would miss a part.
        let shape = self.shape.write();
        if !shape.state.unsettled && !shape.interrupted {
            return Ok(None);
        }
        let change = self.changes.load(Ordering::Relaxed);
        let shape = RwLockWriteGuard::downgrade(shape);
        let level = if shape.interrupted || self.uncertain.load(Ordering::Relaxed) {
            Level { number: 0, updates: self.scan(&shape, keys)?, keep: 0, cut_inside: false, rebuild: true }
        } else {
            let end = self.layout.chunks(shape.size);
            let keep = shape.promised_chunks(self.layout);
            let epoch = shape.session_began;
            let updates = self.written.lock().iter().map(|r| (r.start..r.end.min(end), epoch)).collect();
            let cut_inside = keep < self.layout.chunks(shape.state.size);
            Level { number: 0, updates, keep, cut_inside, rebuild: false }
        };
        let newest = level.updates.iter().map(|(_, epoch)| *epoch).max().unwrap_or(0);
        let newest = shape.state.epoch.max(newest);
        let again = !self.rewritten.lock().is_empty() || (level.rebuild && self.has_map_pages(&shape)?);
        drop(shape);
        let mut shape = self.shape.write();
        if again {
            self.renew_session(&mut shape, keys, newest, next_epoch)?;
        }
        let epoch = shape.state.epoch.max(newest);
        Ok(Some(Settling { change, epoch, floors: shape.state.floors, level }))
    }

    /// Gives the session another epoch, for map pages that it has written before and that are to be
    /// written again. With the same epoch the earlier ones could be put back in their place, and with
    /// them the floors of the settling before.
    fn renew_session<E: From<ChunkError>>(
        &self,
        shape: &mut Shape,
        keys: &FileKeys,
        newest: u32,
        next_epoch: impl FnOnce(u32) -> Result<u32, E>,
    ) -> Result<(), E> {
        if !shape.in_session {
            return self.join_session(shape, keys, |current| next_epoch(current.max(newest)));
        }
        let before = (shape.state.epoch, shape.ceiling);
        shape.state.epoch = next_epoch(newest)?;
        shape.ceiling = shape.ceiling.max(shape.state.epoch);
        if let Err(error) = self.write_header(shape, keys) {
            (shape.state.epoch, shape.ceiling) = before;
            return Err(error.into());
        }
        Ok(())
    }

    fn has_map_pages(&self, shape: &Shape) -> Result<bool, ChunkError> {
        for level in 1..=3 {
            if !self.map_pages_there(shape, level)?.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Takes a settling one step further. Everything written before the call must be durable.
    ///
    /// # Errors
    /// When a map page or the header cannot be read or written; the file stays unsettled then.
    pub fn settle(&self, keys: &FileKeys, settling: &mut Settling) -> Result<Step, ChunkError> {
        let mut shape = self.shape.write();
        if self.changes.load(Ordering::Relaxed) != settling.change {
            return Ok(Step::Busy);
        }
        loop {
            settling.level.write_root(&mut settling.floors);
            if settling.level.number == 3 {
                break;
            }
            let above = self.write_level(&shape, keys, &settling.level, settling.epoch)?;
            let pages_written = !above.updates.is_empty();
            settling.level = above;
            if pages_written {
                return Ok(Step::Flush);
            }
        }
        self.seal_settled(&mut shape, keys, settling)?;
        Ok(Step::Done)
    }

    fn seal_settled(
        &self,
        shape: &mut Shape,
        keys: &FileKeys,
        settling: &Settling,
    ) -> Result<(), ChunkError> {
        let before = shape.state.clone();
        shape.state.size = shape.size;
        shape.state.min_size = shape.size;
        shape.state.unsettled = false;
        shape.state.epoch = settling.epoch;
        shape.state.lowered = false;
        shape.state.settled_epoch = settling.epoch;
        shape.state.floors = settling.floors;
        if let Err(error) = self.write_header(shape, keys) {
            shape.state = before;
            return Err(error);
        }
        // Another settling that is under way would seal what it found, over whatever comes now.
        self.changes.fetch_add(1, Ordering::Relaxed);
        shape.ceiling = settling.epoch;
        shape.in_session = false;
        shape.interrupted = false;
        self.uncertain.store(false, Ordering::Relaxed);
        self.written.lock().clear();
        self.rewritten.lock().clear();
        self.maps.clear();
        Ok(())
    }

    /// Writes the map pages above a level that have to change; returns them as updates of theirs.
    fn write_level(
        &self,
        shape: &Shape,
        keys: &FileKeys,
        level: &Level,
        epoch: u32,
    ) -> Result<Level, ChunkError> {
        let number = level.number + 1;
        let mut updates = Vec::new();
        let mut pages = level.by_page();
        for page in self.rewritten.lock().iter().filter(|page| page.level == number) {
            pages.entry(page.index).or_default();
        }
        if level.rebuild {
            for index in self.map_pages_there(shape, number)? {
                pages.entry(index).or_default();
            }
        }
        for (index, pieces) in pages {
            let page = MapPage { level: number, index };
            let table = if level.page_start(index) < level.keep {
                *Floors::new(self, shape, keys).table(page)?
            } else {
                [0; ENTRIES as usize]
            };
            let table = level.applied(index, table, &pieces);
            let sealed = seal_map(&keys.header, page, epoch, &table)?;
            if first_chunk(page) < self.layout.chunks(shape.size) {
                self.backing.write_at(&sealed, self.layout.map_offset(page))?;
                // What is on disk counts from now on, also if this settling is abandoned.
                self.maps.insert(page, Arc::new(table));
                self.rewritten.lock().insert(page);
                updates.push((index..index + 1, epoch));
            }
        }
        let keep = level.pages_kept();
        Ok(Level { number, updates, keep, cut_inside: level.cut_inside, rebuild: level.rebuild })
    }

    /// The map pages of a level that are no holes.
    fn map_pages_there(&self, shape: &Shape, level: u8) -> Result<Vec<u64>, ChunkError> {
        let mut there = Vec::new();
        let mut from = MapPage { level, index: 0 };
        while let Some((page, _)) = self.next_map_page(shape, from)? {
            there.push(page.index);
            from.index = page.index + 1;
        }
        Ok(there)
    }

    /// The first map page of a level, from `page` on, that is no hole, and when it was written.
    pub(super) fn next_map_page(
        &self,
        shape: &Shape,
        mut page: MapPage,
    ) -> Result<Option<(MapPage, u32)>, ChunkError> {
        let chunks = self.layout.chunks(shape.size);
        while first_chunk(page) < chunks {
            let offset = self.layout.map_offset(page);
            let Some(data) = self.backing.seek_data(offset)? else { break };
            if data >= offset + PAGE_LEN as u64 {
                page.index = (page.index + 1).max(self.page_near(page.level, self.layout.chunk_at(data)));
                continue;
            }
            let mut bytes = [0; PAGE_LEN];
            self.backing.read_at(&mut bytes, offset)?;
            if bytes.iter().any(|&b| b != 0) {
                return Ok(Some((page, UnitHead::of(&bytes).epoch)));
            }
            page.index += 1;
        }
        Ok(None)
    }

    /// The map page of a level that speaks of a chunk; the first one if none does.
    fn page_near(&self, level: u8, chunk: u64) -> u64 {
        let mut at = self.layout.floor_of_chunk(chunk);
        loop {
            match at {
                FloorAt::Header(_) => return 0,
                FloorAt::Map(page, _) if page.level == level => return page.index,
                FloorAt::Map(page, _) => at = self.layout.floor_of_map(page),
            }
        }
    }

    /// The epochs of all chunks, each authenticated.
    fn scan(&self, shape: &Shape, keys: &FileKeys) -> Result<Vec<(Range<u64>, u32)>, ChunkError> {
        let mut found: Vec<(Range<u64>, u32)> = Vec::new();
        let end = self.layout.chunks(shape.size);
        let mut floors = Floors::new(self, shape, keys);
        let mut next = 0;
        loop {
            next = self.skip_hole(&mut floors, next..end)?;
            if next >= end {
                break;
            }
            let chunk = next;
            next += 1;
            let _guard = self.ranges.shared(chunk..chunk + 1);
            match (self.verify_chunk(shape, keys, chunk)?, found.last_mut()) {
                (0, _) => {}
                (epoch, Some((run, last))) if *last == epoch && run.end == chunk => run.end += 1,
                (epoch, _) => found.push((chunk..chunk + 1, epoch)),
            }
        }
        Ok(found)
    }

    /// The first of `chunks` that has to be looked at: there is data, or should be. A hole may be as
    /// long as a file can be.
    pub(super) fn skip_hole(
        &self,
        floors: &mut Floors<'_, B>,
        chunks: Range<u64>,
    ) -> Result<u64, ChunkError> {
        if chunks.is_empty() {
            return Ok(chunks.end);
        }
        let data = self.backing.seek_data(self.layout.unit_offset(chunks.start))?;
        let data = data.map_or(chunks.end, |at| self.layout.chunk_at(at).clamp(chunks.start, chunks.end));
        floors.first_promised(chunks.start..data)
    }
}

impl Level {
    /// Items whose floor is in the header, and where its table has them.
    fn root(&self) -> (u64, usize) {
        match self.number {
            0 => (INLINE, 0),
            1 => (DIRECT, INLINE as usize),
            2 => (ROOTS_2, (INLINE + DIRECT) as usize),
            _ => (ROOTS_3, (INLINE + DIRECT + ROOTS_2) as usize),
        }
    }

    /// First item of a page above.
    fn page_start(&self, page: u64) -> u64 {
        self.root().0 + page * ENTRIES
    }

    /// Pages above that hold a floor which is kept.
    fn pages_kept(&self) -> u64 {
        self.keep.saturating_sub(self.root().0).div_ceil(ENTRIES)
    }

    /// Applies the updates of the items that have their floor in the header.
    fn write_root(&self, floors: &mut RootTable) {
        let (count, at) = self.root();
        let table = &mut floors[at..at + count as usize];
        self.apply(0, table, &self.updates);
    }

    fn applied(&self, page: u64, mut table: MapTable, updates: &[(Range<u64>, u32)]) -> MapTable {
        self.apply(self.page_start(page), &mut table, updates);
        table
    }

    fn apply(&self, first: u64, table: &mut [u32], updates: &[(Range<u64>, u32)]) {
        let end = first + table.len() as u64;
        let within = |item: u64| (item.clamp(first, end) - first) as usize;
        table[within(self.keep)..].fill(0);
        for (range, floor) in updates {
            table[within(range.start)..within(range.end).max(within(range.start))].fill(*floor);
        }
    }

    /// The updates behind the header's, by the page above that holds the floor; with an empty list
    /// for a page that only loses floors.
    fn by_page(&self) -> BTreeMap<u64, Vec<(Range<u64>, u32)>> {
        let root = self.root().0;
        let mut pages: BTreeMap<u64, Vec<_>> = BTreeMap::new();
        for (range, floor) in &self.updates {
            let mut at = range.start.max(root);
            while at < range.end {
                let page = (at - root) / ENTRIES;
                let end = self.page_start(page + 1).min(range.end);
                pages.entry(page).or_default().push((at..end, *floor));
                at = end;
            }
        }
        if self.cut_inside && self.keep > root && !(self.keep - root).is_multiple_of(ENTRIES) {
            pages.entry((self.keep - root) / ENTRIES).or_default();
        }
        pages
    }
}
