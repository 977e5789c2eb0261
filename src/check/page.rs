//! Header pages: which of their parts, each of which is there twice, are good.
//!
//! A page can be put together from either head and either slot. The first combination that is
//! authentic is what the page ought to be; a part that differs from it is damaged. Without keys the
//! newest combination with right checksums takes that place.

use super::finding::Part;
use crate::codec::Reader;
use crate::format::head::{HEAD_LEN, Head, Kind};
use crate::format::page::{HEAD_COPY_OFFSET, Page};
use crate::format::slot::{SLOT_LEN, SLOT_OFFSETS, Slot};
use crate::format::{FormatError, PAGE_LEN};

pub(super) type PageBytes = [u8; PAGE_LEN];

/// Where each part lies.
const PARTS: [(Part, usize, usize); 4] = [
    (Part::Head(0), 0, HEAD_LEN),
    (Part::Slot(0), SLOT_OFFSETS[0], SLOT_LEN),
    (Part::Slot(1), SLOT_OFFSETS[1], SLOT_LEN),
    (Part::Head(1), HEAD_COPY_OFFSET, HEAD_LEN),
];

/// A page put together from parts whose checksums are right.
pub(super) struct Candidate {
    pub(super) bytes: PageBytes,
    pub(super) page: Page,
}

impl Candidate {
    /// Sequence number of its slots.
    pub(super) fn sequence(&self) -> u64 {
        self.page.slots().first().map_or(0, |slot| slot.sequence)
    }
}

/// Everything that a page may be: what a reader takes it for comes first. There is at least one.
///
/// # Errors
/// As [`Page::parse`].
pub(super) fn candidates(bytes: &PageBytes, kind: Kind) -> Result<Vec<Candidate>, FormatError> {
    // A reader's verdict on the page counts where it is none about damage.
    let refuses = |e: &FormatError| {
        matches!(e, FormatError::Blank | FormatError::UnknownVersion(_) | FormatError::UnknownFeatures(_))
    };
    if let Some(error) = Page::parse(bytes, kind).err().filter(refuses) {
        return Err(error);
    }
    let mut heads: Vec<&[u8]> = [&bytes[..HEAD_LEN], &bytes[HEAD_COPY_OFFSET..]].into();
    heads.retain(|head| Reader::new(head).array().is_ok_and(|head| Head::parse(&head).is_ok()));
    heads.dedup();
    let mut slots: Vec<(u64, &[u8])> = SLOT_OFFSETS
        .iter()
        .map(|&at| &bytes[at..at + SLOT_LEN])
        .filter_map(|slot| Some((Slot::parse(&Reader::new(slot).array().ok()?)?.sequence, slot)))
        .collect();
    slots.sort_by_key(|(sequence, _)| std::cmp::Reverse(*sequence));
    slots.dedup();
    let mut refused = if heads.is_empty() { FormatError::NotKmsfs } else { FormatError::NoValidSlot };
    let mut found = Vec::new();
    for head in heads {
        for (_, slot) in &slots {
            let bytes = compose(head, slot);
            match Page::parse(&bytes, kind) {
                Ok(page) => found.push(Candidate { bytes, page }),
                Err(error) => refused = error,
            }
        }
    }
    if found.is_empty() { Err(refused) } else { Ok(found) }
}

/// The parts of a page that are not what they ought to be.
pub(super) fn differences(bytes: &PageBytes, good: &PageBytes) -> Vec<Part> {
    let differs = |&(_, at, len): &(Part, usize, usize)| bytes[at..at + len] != good[at..at + len];
    PARTS.iter().filter(|part| differs(part)).map(|(part, ..)| *part).collect()
}

fn compose(head: &[u8], slot: &[u8]) -> PageBytes {
    let mut page = [0; PAGE_LEN];
    page[..HEAD_LEN].copy_from_slice(head);
    for at in SLOT_OFFSETS {
        page[at..at + SLOT_LEN].copy_from_slice(slot);
    }
    page[HEAD_COPY_OFFSET..].copy_from_slice(head);
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Id;
    use crate::format::slot::Wrapped;
    use crate::format::state::STATE_LEN;
    use crate::secret::Key;

    fn sample(sequence: u64) -> PageBytes {
        let head = Head::new(Kind::File, Id([1; 16]), Id([2; 16]), Id([3; 16]));
        let key = Key::take_from(&mut [5; 32]);
        Page::build(&head, sequence, &Wrapped::default(), &[6; 32], None, &[8; STATE_LEN], &key).unwrap()
    }

    #[test]
    fn a_good_page_has_one_candidate_and_it_is_itself() {
        let page = sample(1);
        let found = candidates(&page, Kind::File).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(differences(&page, &found[0].bytes), []);
    }

    #[test]
    fn every_part_is_named_by_its_damage() {
        for (part, at, len) in PARTS {
            for byte in [at, at + len - 1] {
                let good = sample(1);
                let mut page = good;
                page[byte] ^= 1;
                let found = candidates(&page, Kind::File).unwrap();
                assert_eq!(found[0].bytes, good);
                assert_eq!(differences(&page, &found[0].bytes), [part], "byte {byte}");
            }
        }
    }

    #[test]
    fn the_newer_slot_comes_first() {
        let mut page = sample(2);
        let (at, len) = (SLOT_OFFSETS[0], SLOT_LEN);
        page[at..at + len].copy_from_slice(&sample(1)[at..at + len]);
        let found = candidates(&page, Kind::File).unwrap();
        assert_eq!(found.iter().map(Candidate::sequence).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(differences(&page, &found[0].bytes), [Part::Slot(0)]);
    }

    #[test]
    fn what_has_no_candidate_says_why() {
        let refused = |page: &PageBytes| candidates(page, Kind::File).err();
        assert_eq!(refused(&[0; PAGE_LEN]), Some(FormatError::Blank));
        assert_eq!(refused(&[7; PAGE_LEN]), Some(FormatError::NotKmsfs));
        let mut page = sample(1);
        for at in SLOT_OFFSETS {
            page[at] ^= 1;
        }
        assert_eq!(refused(&page), Some(FormatError::NoValidSlot));
        assert_eq!(candidates(&sample(1), Kind::Directory).err(), Some(FormatError::WrongKind));
    }
}
