//! Looking up floors, in the header and in the tree of map pages behind it.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Arc;

use lru::LruCache;

use super::file::{SealedFile, Shape};
use super::{Backing, ChunkError};
use crate::format::PAGE_LEN;
use crate::format::floors::{ENTRIES, INLINE, MapTable};
use crate::format::layout::{FloorAt, MapPage};
use crate::format::schedule::FileKeys;
use crate::format::unit::{EpochBounds, UnitHead, open_map};
use crate::sync::Mutex;

/// Map pages kept per open file: 32 level-1 pages speak for 132 MB.
const CACHED_PAGES: NonZeroUsize = NonZeroUsize::new(32).unwrap();

/// Authenticated map pages of one file. Empty until a file of more than [`INLINE`] chunks is read.
#[derive(Default)]
pub(super) struct MapCache(Mutex<Option<LruCache<MapPage, Arc<MapTable>>>>);

impl MapCache {
    fn find(&self, page: MapPage) -> Option<Arc<MapTable>> {
        self.0.lock().as_mut()?.get(&page).cloned()
    }

    pub(super) fn insert(&self, page: MapPage, table: Arc<MapTable>) {
        self.0.lock().get_or_insert_with(|| LruCache::new(CACHED_PAGES)).put(page, table);
    }

    /// Forgets everything, after map pages may have been cut off or cleared.
    pub(super) fn clear(&self) {
        *self.0.lock() = None;
    }
}

/// Looks up floors of chunks that lie side by side.
pub(super) struct Floors<'a, B> {
    file: &'a SealedFile<B>,
    shape: &'a Shape,
    keys: &'a FileKeys,
    promised: u64,
    last: Option<(MapPage, Arc<MapTable>)>,
}

impl<'a, B: Backing> Floors<'a, B> {
    pub(super) fn new(file: &'a SealedFile<B>, shape: &'a Shape, keys: &'a FileKeys) -> Self {
        Self { file, shape, keys, promised: shape.promised_chunks(file.layout), last: None }
    }

    /// Which epochs `chunk` may have.
    pub(super) fn of_chunk(&mut self, chunk: u64) -> Result<EpochBounds, ChunkError> {
        if chunk >= self.promised {
            return Ok(self.bounds(0));
        }
        let at = self.file.layout.floor_of_chunk(chunk);
        self.look_up(at).map(|floor| self.bounds(floor))
    }

    /// The first of `chunks` that has a floor; their end if none has.
    pub(super) fn first_promised(&mut self, chunks: Range<u64>) -> Result<u64, ChunkError> {
        let mut chunk = chunks.start;
        while chunk < chunks.end.min(self.promised) {
            let floors = match self.file.layout.floor_of_chunk(chunk) {
                FloorAt::Header(entry) => &self.shape.state.floors[entry..INLINE as usize],
                FloorAt::Map(page, entry) => &self.table(page)?[entry..],
            };
            if let Some(at) = floors.iter().position(|&floor| floor != 0) {
                return Ok((chunk + at as u64).min(chunks.end));
            }
            chunk += floors.len() as u64;
        }
        Ok(chunks.end)
    }

    fn bounds(&self, floor: u32) -> EpochBounds {
        let state = &self.shape.state;
        let settled = if state.lowered { 0 } else { state.settled_epoch };
        EpochBounds { floor, settled, ceiling: self.shape.ceiling }
    }

    /// The floor of a map page.
    pub(super) fn of_map(&mut self, page: MapPage) -> Result<u32, ChunkError> {
        let at = self.file.layout.floor_of_map(page);
        self.look_up(at)
    }

    /// The floors in a map page; all zero for a page behind what the header promises.
    pub(super) fn table(&mut self, page: MapPage) -> Result<Arc<MapTable>, ChunkError> {
        if first_chunk(page) >= self.promised {
            return Ok(Arc::new([0; ENTRIES as usize]));
        }
        if let Some(table) = self.file.maps.find(page) {
            return Ok(table);
        }
        let floor = self.of_map(page)?;
        let mut bytes = [0; PAGE_LEN];
        self.file.backing.read_at(&mut bytes, self.file.layout.map_offset(page))?;
        let epoch = UnitHead::of(&bytes).epoch;
        let table = open_map(self.keys.header_at(epoch), page, &bytes, self.bounds(floor))
            .map_err(|error| ChunkError::Map { page, error })?;
        let table = Arc::new(table);
        self.file.maps.insert(page, Arc::clone(&table));
        Ok(table)
    }

    fn look_up(&mut self, at: FloorAt) -> Result<u32, ChunkError> {
        match at {
            FloorAt::Header(entry) => Ok(self.shape.state.floors[entry]),
            FloorAt::Map(page, entry) => {
                if let Some((last, table)) = &self.last
                    && *last == page
                {
                    return Ok(table[entry]);
                }
                let table = self.table(page)?;
                let floor = table[entry];
                self.last = Some((page, table));
                Ok(floor)
            }
        }
    }
}

/// The first chunk that a map page speaks of, through the pages below it.
pub(super) fn first_chunk(page: MapPage) -> u64 {
    use crate::format::floors::{DIRECT, ROOTS_2};
    let group = match page.level {
        1 => page.index,
        2 => DIRECT + page.index * ENTRIES,
        _ => DIRECT + (ROOTS_2 + page.index * ENTRIES) * ENTRIES,
    };
    INLINE + group * ENTRIES
}
