//! Where things lie in a file: all offset arithmetic, as pure functions.
//!
//! ```text
//! header page │ chunks 0..128 │ map │ 1016 chunks │ map │ 1016 chunks │ ... │ tail mark
//! ```
//!
//! A chunk fills a whole *unit* on disk, the last one too (its plaintext is padded with zeros).
//! What tells the size is the file's length: it ends at the end of the last unit when that chunk
//! is full, and else `r` bytes behind it, `r` being the number of plaintext bytes in that chunk.
//! The `r` bytes are a hole and take no space. So a size is read off `stat(2)` without a key, and
//! no crash can leave a chunk that is cut.

use super::PAGE_LEN;
use super::floors::{DIRECT, ENTRIES, INLINE, ROOTS_2, ROOTS_3};

/// [`PAGE_LEN`] for offset arithmetic.
pub const PAGE: u64 = PAGE_LEN as u64;
/// Bytes of a unit that are not ciphertext: nonce, tag, epoch.
pub const UNIT_HEAD_LEN: usize = 32;
/// log₂ of the default unit: 4096 bytes, of which 4064 are plaintext.
pub const DEFAULT_UNIT_SHIFT: u8 = 12;
/// The largest unit: 1 MiB.
pub const MAX_UNIT_SHIFT: u8 = 20;

/// Chunk geometry of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    unit_shift: u8,
}

/// A part of one chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Which chunk.
    pub chunk: u64,
    /// First plaintext byte within the chunk.
    pub start: usize,
    /// Plaintext bytes.
    pub len: usize,
}

/// A map page: its level above the chunks (1 to 3) and its number on that level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MapPage {
    /// 1 holds floors of chunks, 2 of level-1 pages, 3 of level-2 pages.
    pub level: u8,
    /// Number among the pages of its level.
    pub index: u64,
}

/// Where the floor epoch of a chunk or map page is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FloorAt {
    /// In the header's sealed state, at this position of its table.
    Header(usize),
    /// In a map page, at this entry.
    Map(MapPage, usize),
}

impl Default for Layout {
    fn default() -> Self {
        Self { unit_shift: DEFAULT_UNIT_SHIFT }
    }
}

impl Layout {
    /// Geometry for units of `2^unit_shift` bytes, if that size is allowed.
    pub fn new(unit_shift: u8) -> Option<Self> {
        (DEFAULT_UNIT_SHIFT..=MAX_UNIT_SHIFT).contains(&unit_shift).then_some(Self { unit_shift })
    }

    /// log₂ of the unit.
    pub fn unit_shift(self) -> u8 {
        self.unit_shift
    }

    /// Bytes of a unit on disk.
    pub fn unit(self) -> u64 {
        1 << self.unit_shift
    }

    /// Bytes of a unit on disk, as a buffer length.
    pub fn unit_len(self) -> usize {
        1 << self.unit_shift
    }

    /// Plaintext bytes of a chunk.
    pub fn payload(self) -> u64 {
        self.unit() - UNIT_HEAD_LEN as u64
    }

    /// Plaintext bytes of a chunk, as a buffer length.
    pub fn payload_len(self) -> usize {
        self.unit_len() - UNIT_HEAD_LEN
    }

    /// Number of chunks that hold `size` plaintext bytes.
    pub fn chunks(self, size: u64) -> u64 {
        size.div_ceil(self.payload())
    }

    /// Most chunks that a file can have.
    pub const MAX_CHUNKS: u64 = INLINE + MAX_GROUPS * ENTRIES;

    /// The largest file size in plaintext bytes (about 17 TB with the default unit).
    pub fn max_size(self) -> u64 {
        let by_map = u128::from(Self::MAX_CHUNKS) * u128::from(self.payload());
        u64::try_from(by_map).unwrap_or(u64::MAX).min(1 << 62)
    }

    /// Offset in the backing file of a chunk's unit.
    pub fn unit_offset(self, chunk: u64) -> u64 {
        match chunk.checked_sub(INLINE) {
            None => PAGE + chunk * self.unit(),
            Some(beyond) => {
                let group = beyond / ENTRIES;
                self.level_1_offset(group) + PAGE + (beyond % ENTRIES) * self.unit()
            }
        }
    }

    /// Offset just behind the units of the first `chunks` chunks: where a file of that many full
    /// chunks ends.
    pub fn end_offset(self, chunks: u64) -> u64 {
        match chunks.checked_sub(1) {
            None => PAGE,
            Some(last) => self.unit_offset(last) + self.unit(),
        }
    }

    /// Length of the backing file for a plaintext size.
    pub fn physical_size(self, size: u64) -> u64 {
        self.end_offset(self.chunks(size)) + size % self.payload()
    }

    /// Plaintext size for a length of the backing file; `None` for a length that no writer
    /// produces. A file shorter than its header page is an empty one that was being created.
    pub fn logical_size(self, physical: u64) -> Option<u64> {
        let Some(beyond_header) = physical.checked_sub(PAGE) else { return Some(0) };
        let units = self.units_within(physical, beyond_header);
        let tail = physical - self.end_offset(units);
        match (units, tail) {
            (_, 0) => Some(units * self.payload()),
            (0, _) => None,
            (_, tail) if tail < self.payload() => Some((units - 1) * self.payload() + tail),
            _ => None,
        }
    }

    /// As [`Layout::logical_size`], with the nearest smaller valid size instead of `None`: what
    /// `stat(2)` shows of a damaged file.
    pub fn nearest_size(self, physical: u64) -> u64 {
        self.logical_size(physical)
            .unwrap_or_else(|| self.units_within(physical, physical.saturating_sub(PAGE)) * self.payload())
    }

    /// How many whole units end at or before `physical`: the inverse of [`Layout::end_offset`].
    fn units_within(self, physical: u64, beyond_header: u64) -> u64 {
        let bound = (beyond_header / self.unit()).min(Self::MAX_CHUNKS);
        if bound <= INLINE {
            return bound;
        }
        partition(INLINE, bound, |chunks| self.end_offset(chunks) <= physical)
    }

    /// First chunk whose unit ends behind `physical`: where an offset found in the backing file
    /// lies in the plaintext. An offset within a map page belongs to the chunk that follows.
    pub fn chunk_at(self, physical: u64) -> u64 {
        self.units_within(physical, physical.saturating_sub(PAGE))
    }

    /// The pieces of chunks that make up `len` plaintext bytes from `offset`.
    pub fn pieces(self, offset: u64, len: u64) -> impl Iterator<Item = Piece> {
        let payload = self.payload();
        let end = offset.saturating_add(len);
        let mut at = offset;
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let start = at % payload;
            let len = (payload - start).min(end - at);
            let piece = Piece { chunk: at / payload, start: start as usize, len: len as usize };
            at += len;
            Some(piece)
        })
    }

    /// Offset of a map page.
    pub fn map_offset(self, page: MapPage) -> u64 {
        let first_group = match page.level {
            1 => page.index,
            2 => DIRECT + page.index * ENTRIES,
            _ => DIRECT + ROOTS_2 * ENTRIES + page.index * ENTRIES * ENTRIES,
        };
        self.level_1_offset(first_group) - u64::from(page.level - 1) * PAGE
    }

    /// Where the floor of `chunk` is kept.
    pub fn floor_of_chunk(self, chunk: u64) -> FloorAt {
        match chunk.checked_sub(INLINE) {
            None => FloorAt::Header(chunk as usize),
            Some(beyond) => {
                let page = MapPage { level: 1, index: beyond / ENTRIES };
                FloorAt::Map(page, (beyond % ENTRIES) as usize)
            }
        }
    }

    /// Where the floor of a map page is kept.
    pub fn floor_of_map(self, page: MapPage) -> FloorAt {
        let MapPage { level, index } = page;
        let (direct, table) = match level {
            1 => (DIRECT, INLINE),
            2 => (ROOTS_2, INLINE + DIRECT),
            _ => (ROOTS_3, INLINE + DIRECT + ROOTS_2),
        };
        match index.checked_sub(direct) {
            None => FloorAt::Header((table + index) as usize),
            Some(beyond) => {
                let parent = MapPage { level: level + 1, index: beyond / ENTRIES };
                FloorAt::Map(parent, (beyond % ENTRIES) as usize)
            }
        }
    }

    fn level_1_offset(self, group: u64) -> u64 {
        let level_2 = group.checked_sub(DIRECT).map_or(0, |g| g / ENTRIES + 1);
        let level_3 =
            group.checked_sub(DIRECT + ROOTS_2 * ENTRIES).map_or(0, |g| g / (ENTRIES * ENTRIES) + 1);
        PAGE + INLINE * self.unit() + group * (PAGE + ENTRIES * self.unit()) + (level_2 + level_3) * PAGE
    }
}

/// Groups of [`ENTRIES`] chunks that the map can hold.
const MAX_GROUPS: u64 = DIRECT + ROOTS_2 * ENTRIES + ROOTS_3 * ENTRIES * ENTRIES;

/// Largest `n` in `low..=high` for which `holds(n)`, which holds for `low` and is monotone.
fn partition(mut low: u64, mut high: u64, holds: impl Fn(u64) -> bool) -> u64 {
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if holds(middle) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn layouts() -> impl Strategy<Value = Layout> {
        (DEFAULT_UNIT_SHIFT..=MAX_UNIT_SHIFT).prop_map(|shift| Layout::new(shift).unwrap())
    }

    /// Sizes of every magnitude.
    fn sizes() -> impl Strategy<Value = u64> {
        (0u32..44, any::<u64>()).prop_map(|(bits, x)| x & ((1 << bits) - 1))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn size_survives_the_round_trip(layout in layouts(), size in sizes()) {
            let size = size.min(layout.max_size());
            prop_assert_eq!(layout.logical_size(layout.physical_size(size)), Some(size));
        }

        #[test]
        fn a_physical_size_is_valid_only_if_a_size_maps_to_it(layout in layouts(), physical in sizes()) {
            let nearest = layout.nearest_size(physical);
            match layout.logical_size(physical) {
                Some(size) => {
                    prop_assert_eq!(size, nearest);
                    prop_assert_eq!(layout.physical_size(size), physical.max(PAGE));
                }
                None => prop_assert!(layout.physical_size(nearest) < physical),
            }
        }

        #[test]
        fn units_and_map_pages_do_not_overlap(layout in layouts(), chunk in 0..Layout::MAX_CHUNKS - 1) {
            let end = layout.end_offset(chunk + 1);
            let mut next = end;
            // The pages between this unit and the next are exactly the map pages that start there.
            if let FloorAt::Map(page, 0) = layout.floor_of_chunk(chunk + 1) {
                let mut pages = vec![page];
                let mut page = page;
                while let FloorAt::Map(parent, 0) = layout.floor_of_map(page) {
                    pages.push(parent);
                    page = parent;
                }
                for page in pages.into_iter().rev() {
                    prop_assert_eq!(layout.map_offset(page), next);
                    next += PAGE;
                }
            }
            prop_assert_eq!(layout.unit_offset(chunk + 1), next);
            prop_assert_eq!(layout.chunk_at(end), chunk + 1);
            prop_assert_eq!(layout.chunk_at(layout.unit_offset(chunk)), chunk);
            prop_assert_eq!(layout.chunk_at(end - 1), chunk);
        }

        #[test]
        fn pieces_cover_a_range_in_order(layout in layouts(), offset in sizes(), len in 0u64..1 << 20) {
            let mut at = offset;
            for piece in layout.pieces(offset, len) {
                prop_assert_eq!(piece.chunk * layout.payload() + piece.start as u64, at);
                prop_assert!(piece.len > 0 && piece.start + piece.len <= layout.payload_len());
                at += piece.len as u64;
            }
            prop_assert_eq!(at, offset + len);
        }
    }

    #[test]
    fn every_floor_has_its_own_place() {
        let layout = Layout::default();
        let mut seen = std::collections::HashSet::new();
        for chunk in 0..3 * ENTRIES {
            let at = layout.floor_of_chunk(chunk);
            assert!(seen.insert(format!("{at:?}")), "chunk {chunk}");
        }
        for level in 1..=3 {
            let pages = if level == 3 { ROOTS_3 } else { 3 * ENTRIES };
            for index in 0..pages {
                let at = layout.floor_of_map(MapPage { level, index });
                assert!(seen.insert(format!("{at:?}")), "level {level} page {index}");
            }
        }
    }

    #[test]
    fn the_last_chunk_is_rooted_in_the_header() {
        let FloorAt::Map(mut page, _) = Layout::default().floor_of_chunk(Layout::MAX_CHUNKS - 1) else {
            panic!("the last chunk has its floor in a map page");
        };
        while let FloorAt::Map(parent, _) = Layout::default().floor_of_map(page) {
            page = parent;
        }
        assert_eq!(page, MapPage { level: 3, index: ROOTS_3 - 1 });
    }
}
