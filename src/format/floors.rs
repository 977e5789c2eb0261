//! The table of *floor epochs*: for each chunk that a settled file holds, the oldest epoch that
//! its unit may have. Zero says that there is no chunk.
//!
//! The table's first [`TABLE_LEN`] entries are in the header's sealed state: the floors of the
//! first chunks, and those of the map pages at the top of the tree. The rest are in map pages.

/// Chunks whose floor is in the header (a file of up to 520,192 bytes needs no map page).
pub const INLINE: u64 = 128;
/// Level-1 map pages whose floor is in the header (a file of up to 132 MB needs one level).
pub const DIRECT: u64 = 32;
/// Level-2 map pages whose floor is in the header.
pub const ROOTS_2: u64 = 8;
/// Level-3 map pages; all have their floor in the header.
pub const ROOTS_3: u64 = 4;
/// Floors in a map page.
pub const ENTRIES: u64 = 1016;
/// Floors in the header.
pub const TABLE_LEN: usize = (INLINE + DIRECT + ROOTS_2 + ROOTS_3) as usize;

/// A map page's floors.
pub type MapTable = [u32; ENTRIES as usize];

/// The header's floors.
pub type RootTable = [u32; TABLE_LEN];
