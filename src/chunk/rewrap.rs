//! Exchanging the wrapping of a file's data key: one write of the header page, both slots alike, with
//! the state that they had. No chunk is read or written, and any crash leaves the old wrapping or
//! the new one, each of which holds the same data key.

use super::file::SealedFile;
use super::{Backing, ChunkError};
use crate::format::head::{Head, Kind};
use crate::format::page::Page;
use crate::format::schedule::FileKeys;
use crate::format::slot::Wrapped;
use crate::format::{FormatError, PAGE_LEN};

impl<B: Backing> SealedFile<B> {
    /// Puts another wrapping of the data key, which `keys` are derived from, into the header. Not
    /// durable before a flush.
    ///
    /// # Errors
    /// When the header cannot be written; which wrapping it has then is not known, and the file
    /// goes on with the old one.
    pub fn rewrap(&self, keys: &FileKeys, wrapped: Wrapped) -> Result<(), ChunkError> {
        let mut shape = self.shape.write();
        let before = std::mem::replace(&mut shape.wrapped, wrapped);
        let written = self.write_header(&mut shape, keys);
        if written.is_err() {
            shape.wrapped = before;
        }
        written
    }
}

/// The header of a file that is not open: as much of it as re-wrapping needs.
pub struct ClosedHeader {
    bytes: [u8; PAGE_LEN],
    page: Page,
    wrapped: Wrapped,
}

impl ClosedHeader {
    /// Reads a header. Nothing in it is authenticated yet.
    ///
    /// # Errors
    /// [`ChunkError::Io`], and [`ChunkError::Header`] with any [`FormatError`].
    pub fn read<B: Backing>(backing: &B) -> Result<Self, ChunkError> {
        let mut bytes = [0; PAGE_LEN];
        backing.read_at(&mut bytes, 0)?;
        let page = Page::parse(&bytes, Kind::File)?;
        let wrapped = page.slots().first().ok_or(FormatError::NoValidSlot)?.wrapped.clone();
        Ok(Self { bytes, page, wrapped })
    }

    /// The page as it was taken apart, if these are the bytes that it was read as.
    pub(super) fn into_page_if(self, bytes: &[u8; PAGE_LEN]) -> Option<Page> {
        (self.bytes == *bytes).then_some(self.page)
    }

    /// What the file is.
    pub fn head(&self) -> &Head {
        &self.page.head
    }

    /// The wrapped data key.
    pub fn wrapped(&self) -> &Wrapped {
        &self.wrapped
    }

    /// Whether the file is being re-encrypted.
    pub fn is_being_reencrypted(&self) -> bool {
        self.page.slots().first().is_some_and(|slot| slot.previous.is_some())
    }

    /// The page to take this one's place, with another wrapping of the data key that `keys` are
    /// derived from.
    ///
    /// # Errors
    /// [`FormatError::Forged`] if the header does not open under `keys`, and as
    /// [`Page::build`].
    pub fn rewrapped(&self, keys: &FileKeys, wrapped: &Wrapped) -> Result<[u8; PAGE_LEN], FormatError> {
        let newest = self.page.slots().first().ok_or(FormatError::NoValidSlot)?;
        let opened = self.page.slots().iter().find_map(|slot| {
            let state = self.page.open(slot, &keys.header).ok()?;
            (slot.commitment == keys.commitment).then_some((slot, state))
        });
        let (slot, state) = opened.ok_or(FormatError::Forged)?;
        let (sequence, previous) = (newest.sequence + 1, slot.previous.as_ref());
        Page::build(&self.page.head, sequence, wrapped, &keys.commitment, previous, &state, &keys.header)
    }

    /// Whether the backing file still has exactly this header.
    ///
    /// # Errors
    /// As pread(2).
    pub fn is_still_there<B: Backing>(&self, backing: &B) -> Result<bool, ChunkError> {
        let mut bytes = [0; PAGE_LEN];
        backing.read_at(&mut bytes, 0)?;
        Ok(bytes == self.bytes)
    }
}
