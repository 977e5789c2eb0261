//! A unit: one sealed chunk, or one sealed map page. 12 bytes nonce, 16 bytes tag, 4 bytes
//! epoch, then ciphertext.

use super::floors::{ENTRIES, MapTable};
use super::layout::{MapPage, UNIT_HEAD_LEN};
use super::{FormatError, PAGE_LEN};
use crate::codec::Writer;
use crate::crypto::aead::{open_one, seal_one};
use crate::crypto::{NONCE_LEN, Nonce, TAG_LEN, Tag};
use crate::secret::Key;

/// Bytes of a unit's associated data: one POLYVAL block.
pub const AAD_LEN: usize = 16;
/// Domain label of chunks, format version 1.
pub const CHUNK_LABEL: [u8; 4] = *b"KMC1";
/// Domain label of map pages, format version 1.
pub const MAP_LABEL: [u8; 4] = *b"KMM1";

/// The clear bytes in front of a unit's ciphertext.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnitHead {
    /// Random nonce.
    pub nonce: Nonce,
    /// Authentication tag.
    pub tag: Tag,
    /// When it was written; never zero.
    pub epoch: u32,
}

impl UnitHead {
    /// Reads the head of a unit.
    pub fn parse(unit: &[u8; UNIT_HEAD_LEN]) -> Self {
        let mut nonce = [0; NONCE_LEN];
        let mut tag = [0; TAG_LEN];
        let mut epoch = [0; 4];
        nonce.copy_from_slice(&unit[..NONCE_LEN]);
        tag.copy_from_slice(&unit[NONCE_LEN..NONCE_LEN + TAG_LEN]);
        epoch.copy_from_slice(&unit[NONCE_LEN + TAG_LEN..]);
        Self { nonce, tag, epoch: u32::from_le_bytes(epoch) }
    }

    /// The head of a map page.
    pub fn of(page: &[u8; PAGE_LEN]) -> Self {
        page.first_chunk().map_or_else(|| unreachable!("a page is longer than a head"), Self::parse)
    }

    /// Whether these are the first bytes of a hole.
    pub fn is_blank(&self) -> bool {
        self.epoch == 0 && self.nonce == [0; NONCE_LEN] && self.tag == [0; TAG_LEN]
    }
}

/// Which epochs a chunk or map page may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochBounds {
    /// The oldest, from the map; zero where none was written when the file was last settled.
    pub floor: u32,
    /// What has no floor is newer than this.
    pub settled: u32,
    /// The newest.
    pub ceiling: u32,
}

impl EpochBounds {
    /// Checks that there may be nothing.
    ///
    /// # Errors
    /// [`FormatError::Erased`] where there was something.
    pub fn check_hole(self) -> Result<(), FormatError> {
        if self.floor == 0 { Ok(()) } else { Err(FormatError::Erased) }
    }

    /// Checks an epoch.
    ///
    /// # Errors
    /// [`FormatError::Replayed`] if it is too old, [`FormatError::Forged`] if it is too new.
    pub fn check(self, epoch: u32) -> Result<(), FormatError> {
        let old = match self.floor {
            0 => epoch <= self.settled,
            floor => epoch < floor,
        };
        match epoch {
            _ if old => Err(FormatError::Replayed),
            epoch if epoch > self.ceiling => Err(FormatError::Forged),
            _ => Ok(()),
        }
    }
}

/// Associated data of a chunk: binds it to its place and time. Volume and file are bound by the
/// content key; master key and version by nothing, so that re-wrapping rewrites no data.
pub fn chunk_aad(chunk: u64, epoch: u32) -> [u8; AAD_LEN] {
    aad(CHUNK_LABEL, epoch, chunk)
}

fn map_aad(page: MapPage, epoch: u32) -> [u8; AAD_LEN] {
    aad(MAP_LABEL, epoch, u64::from(page.level) << 56 | page.index)
}

fn aad(label: [u8; 4], epoch: u32, place: u64) -> [u8; AAD_LEN] {
    let mut out = [0; AAD_LEN];
    Writer::new(&mut out).bytes(&label).u32(epoch).u64(place);
    out
}

/// Seals a map page.
///
/// # Errors
/// [`FormatError::Impossible`] when there is no randomness.
pub fn seal_map(
    key: &Key,
    page: MapPage,
    epoch: u32,
    floors: &MapTable,
) -> Result<[u8; PAGE_LEN], FormatError> {
    let mut plaintext = [0; PAGE_LEN - UNIT_HEAD_LEN];
    let mut w = Writer::new(&mut plaintext);
    for &floor in floors {
        w.u32(floor);
    }
    let mut out = [0; PAGE_LEN];
    let (head, ciphertext) = out.split_at_mut(UNIT_HEAD_LEN);
    let mut nonce = [0; NONCE_LEN];
    getrandom::fill(&mut nonce).map_err(|_| FormatError::Impossible)?;
    let tag = seal_one(key, &nonce, &map_aad(page, epoch), &plaintext, ciphertext);
    Writer::new(head).bytes(&nonce).bytes(&tag).u32(epoch);
    Ok(out)
}

/// Opens a map page, or reads a hole as a table of zeros where the floor allows one.
///
/// # Errors
/// [`FormatError::Erased`], [`FormatError::Replayed`] or [`FormatError::Forged`].
pub fn open_map(
    key: &Key,
    page: MapPage,
    bytes: &[u8; PAGE_LEN],
    bounds: EpochBounds,
) -> Result<MapTable, FormatError> {
    let mut table = [0; ENTRIES as usize];
    if bytes.iter().all(|&b| b == 0) {
        return bounds.check_hole().map(|()| table);
    }
    let Some((head, ciphertext)) = bytes.split_first_chunk() else { return Err(FormatError::Impossible) };
    let head = UnitHead::parse(head);
    bounds.check(head.epoch)?;
    let mut plaintext = [0; PAGE_LEN - UNIT_HEAD_LEN];
    open_one(key, &head.nonce, &map_aad(page, head.epoch), ciphertext, &mut plaintext, &head.tag)?;
    for (entry, bytes) in table.iter_mut().zip(plaintext.as_chunks::<4>().0) {
        *entry = u32::from_le_bytes(*bytes);
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_page_is_bound_to_its_place_and_epoch() {
        let key = Key::random().unwrap();
        let page = MapPage { level: 1, index: 3 };
        let mut table = [0; ENTRIES as usize];
        table[1015] = 77;
        let sealed = seal_map(&key, page, 5, &table).unwrap();
        let bounds = |floor, settled, ceiling| EpochBounds { floor, settled, ceiling };
        let open = |page, bytes, bounds| open_map(&key, page, bytes, bounds);
        assert_eq!(open(page, &sealed, bounds(5, 0, 5)), Ok(table));
        assert_eq!(open(page, &sealed, bounds(6, 0, 9)), Err(FormatError::Replayed));
        assert_eq!(open(page, &sealed, bounds(0, 4, 9)), Ok(table));
        assert_eq!(open(page, &sealed, bounds(0, 5, 9)), Err(FormatError::Replayed));
        assert_eq!(open(page, &sealed, bounds(0, 0, 4)), Err(FormatError::Forged));
        for elsewhere in [MapPage { level: 2, index: 3 }, MapPage { level: 1, index: 4 }] {
            assert_eq!(open(elsewhere, &sealed, bounds(0, 0, 9)), Err(FormatError::Forged));
        }
        assert_eq!(open(page, &[0; PAGE_LEN], bounds(1, 0, 9)), Err(FormatError::Erased));
        assert_eq!(open(page, &[0; PAGE_LEN], bounds(0, 3, 9)), Ok([0; ENTRIES as usize]));
    }
}
