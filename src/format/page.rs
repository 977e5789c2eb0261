//! A header page: head, two slots, a copy of the head.

use super::head::{HEAD_LEN, Head, Kind};
use super::slot::{COMMITMENT_LEN, SLOT_LEN, SLOT_OFFSETS, SealedKey, Slot, Wrapped};
use super::state::STATE_LEN;
use super::{FormatError, PAGE_LEN};
use crate::codec::Reader;
use crate::secret::Key;

/// Offset of the head's second copy.
pub const HEAD_COPY_OFFSET: usize = PAGE_LEN - HEAD_LEN;

/// A page as read: nothing in it is authenticated before [`Page::open`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// What the object is.
    pub head: Head,
    head_bytes: [u8; HEAD_LEN],
    /// The undamaged slots, the newest first.
    slots: Vec<Slot>,
}

impl Page {
    /// Reads a page, taking the head's copy and the other slot where one is damaged.
    ///
    /// # Errors
    /// Any [`FormatError`] of a head, [`FormatError::Blank`] for a page of zeros, and
    /// [`FormatError::WrongKind`].
    pub fn parse(bytes: &[u8; PAGE_LEN], kind: Kind) -> Result<Self, FormatError> {
        if bytes.iter().all(|&b| b == 0) {
            return Err(FormatError::Blank);
        }
        let (head, head_bytes) = match parse_head(bytes, 0) {
            Err(FormatError::NotKmsfs) => parse_head(bytes, HEAD_COPY_OFFSET)?,
            first => first?,
        };
        if head.kind != kind {
            return Err(FormatError::WrongKind);
        }
        let [first, second] = SLOT_OFFSETS.map(|at| &bytes[at..at + SLOT_LEN]);
        let parse = |slot: &[u8]| Slot::parse(&Reader::new(slot).array().ok()?);
        let one = parse(first);
        // Both are written alike, and mostly found so.
        let other = if first == second { one.clone() } else { parse(second) };
        let mut slots: Vec<Slot> = one.into_iter().chain(other).collect();
        slots.sort_by_key(|slot| std::cmp::Reverse(slot.sequence));
        if slots.is_empty() {
            return Err(FormatError::NoValidSlot);
        }
        Ok(Self { head, head_bytes, slots })
    }

    /// The slots to try, the newest first; there is at least one.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Opens a slot's sealed state.
    ///
    /// # Errors
    /// [`FormatError::Forged`].
    pub fn open(&self, slot: &Slot, header_key: &Key) -> Result<[u8; STATE_LEN], FormatError> {
        slot.open(header_key, &self.head_bytes)
    }

    /// Builds a page whose two slots are alike. `previous` is for a file that is being re-encrypted.
    ///
    /// # Errors
    /// As [`Slot::seal`].
    pub fn build(
        head: &Head,
        sequence: u64,
        wrapped: &Wrapped,
        commitment: &[u8; COMMITMENT_LEN],
        previous: Option<&SealedKey>,
        state: &[u8; STATE_LEN],
        header_key: &Key,
    ) -> Result<[u8; PAGE_LEN], FormatError> {
        let head_bytes = head.encode();
        let slot = Slot::seal(sequence, wrapped, commitment, previous, state, header_key, &head_bytes)?;
        let mut page = [0; PAGE_LEN];
        page[..HEAD_LEN].copy_from_slice(&head_bytes);
        for at in SLOT_OFFSETS {
            page[at..at + SLOT_LEN].copy_from_slice(&slot);
        }
        page[HEAD_COPY_OFFSET..].copy_from_slice(&head_bytes);
        Ok(page)
    }
}

fn parse_head(bytes: &[u8; PAGE_LEN], at: usize) -> Result<(Head, [u8; HEAD_LEN]), FormatError> {
    let head_bytes = Reader::new(&bytes[at..]).array()?;
    Ok((Head::parse(&head_bytes)?, head_bytes))
}

#[cfg(test)]
mod tests {
    use super::super::Id;
    use super::*;

    fn sample() -> (Head, Wrapped, Key, [u8; PAGE_LEN]) {
        let head = Head::new(Kind::File, Id([1; 16]), Id([2; 16]), Id([3; 16]));
        let wrapped = Wrapped { key_arn: "arn:aws:kms:x".into(), key_version: 7, blob: vec![9; 100] };
        let key = Key::take_from(&mut [5; 32]);
        let page = Page::build(&head, 4, &wrapped, &[6; 32], None, &[8; STATE_LEN], &key).unwrap();
        (head, wrapped, key, page)
    }

    #[test]
    fn a_page_opens_to_what_was_sealed() {
        let (head, wrapped, key, bytes) = sample();
        let page = Page::parse(&bytes, Kind::File).unwrap();
        assert_eq!(page.head, head);
        for slot in page.slots() {
            assert_eq!((slot.sequence, &slot.wrapped), (4, &wrapped));
            assert_eq!(page.open(slot, &key).unwrap(), [8; STATE_LEN]);
        }
    }

    #[test]
    fn any_flipped_bit_is_refused_or_survived_by_the_other_copy() {
        let (head, _, key, bytes) = sample();
        for at in 0..PAGE_LEN {
            let mut damaged = bytes;
            damaged[at] ^= 0x10;
            let page = Page::parse(&damaged, Kind::File).unwrap();
            assert_eq!(page.head, head, "byte {at}");
            let good = page.slots().iter().filter(|s| page.open(s, &key) == Ok([8; STATE_LEN])).count();
            assert!(good >= 1, "byte {at}");
        }
    }

    #[test]
    fn a_repaired_checksum_does_not_help_a_forger() {
        let (_, _, key, bytes) = sample();
        let mut head = Head::parse(&Reader::new(&bytes).array().unwrap()).unwrap();
        head.object = Id([0xee; 16]);
        let mut forged = bytes;
        forged[..HEAD_LEN].copy_from_slice(&head.encode());
        let page = Page::parse(&forged, Kind::File).unwrap();
        assert!(page.slots().iter().all(|slot| page.open(slot, &key) == Err(FormatError::Forged)));
    }

    #[test]
    fn each_malformed_page_has_its_own_error() {
        let (_, _, _, bytes) = sample();
        assert_eq!(Page::parse(&[0; PAGE_LEN], Kind::File), Err(FormatError::Blank));
        assert_eq!(Page::parse(&[1; PAGE_LEN], Kind::File), Err(FormatError::NotKmsfs));
        assert_eq!(Page::parse(&bytes, Kind::Volume), Err(FormatError::WrongKind));
        let mut slotless = bytes;
        slotless[600] ^= 1;
        slotless[2200] ^= 1;
        assert_eq!(Page::parse(&slotless, Kind::File), Err(FormatError::NoValidSlot));
        for (at, error) in [(8, FormatError::UnknownVersion(2)), (12, FormatError::UnknownFeatures(3))] {
            let mut newer = bytes;
            newer[at] ^= 3;
            let checksum = crate::crypto::kdf::sha256(&[&newer[..HEAD_LEN - 32]]);
            newer[HEAD_LEN - 32..HEAD_LEN].copy_from_slice(&checksum);
            assert_eq!(Page::parse(&newer, Kind::File), Err(error));
        }
    }

    proptest::proptest! {
        #[test]
        fn parsing_never_panics(seed in proptest::collection::vec(0u8.., 64), at in 0usize..4032) {
            let (_, _, key, mut bytes) = sample();
            bytes[at..at + 64].copy_from_slice(&seed);
            if let Ok(page) = Page::parse(&bytes, Kind::File) {
                for slot in page.slots() {
                    let _ = page.open(slot, &key);
                }
            }
        }
    }
}
