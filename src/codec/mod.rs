//! Little-endian, bounds-checked reading and writing of fixed layouts.
//!
//! Everything that parses bytes from disk goes through [`Reader`]: it cannot panic and cannot read
//! past its input.

use thiserror::Error;

/// The input ended before the value did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("unexpected end of data")]
pub struct Truncated;

/// Reads values from the front of a slice.
#[derive(Debug, Clone)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Starts at the first byte of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next `len` bytes.
    ///
    /// # Errors
    /// [`Truncated`] when fewer are left; nothing is consumed then. The same holds for every
    /// method here.
    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8], Truncated> {
        let (head, tail) = self.0.split_at_checked(len).ok_or(Truncated)?;
        self.0 = tail;
        Ok(head)
    }

    /// The next `N` bytes as an array.
    ///
    /// # Errors
    /// [`Truncated`].
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Truncated> {
        let (head, tail) = self.0.split_first_chunk::<N>().ok_or(Truncated)?;
        self.0 = tail;
        Ok(*head)
    }

    /// One byte.
    ///
    /// # Errors
    /// [`Truncated`].
    pub fn u8(&mut self) -> Result<u8, Truncated> {
        self.array::<1>().map(|[b]| b)
    }

    /// A little-endian 16-bit number.
    ///
    /// # Errors
    /// [`Truncated`].
    pub fn u16(&mut self) -> Result<u16, Truncated> {
        self.array().map(u16::from_le_bytes)
    }

    /// A little-endian 32-bit number.
    ///
    /// # Errors
    /// [`Truncated`].
    pub fn u32(&mut self) -> Result<u32, Truncated> {
        self.array().map(u32::from_le_bytes)
    }

    /// A little-endian 64-bit number.
    ///
    /// # Errors
    /// [`Truncated`].
    pub fn u64(&mut self) -> Result<u64, Truncated> {
        self.array().map(u64::from_le_bytes)
    }

    /// A byte string behind its 16-bit length.
    ///
    /// # Errors
    /// [`Truncated`].
    pub fn string16(&mut self) -> Result<&'a [u8], Truncated> {
        let len = self.u16()?;
        self.bytes(usize::from(len))
    }

    /// What has not been read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.0
    }
}

/// Writes values to the front of a fixed buffer. The caller sizes the buffer; writing past its
/// end is a bug in a layout constant and panics in [`Writer::bytes`], the only place that can.
#[derive(Debug)]
pub struct Writer<'a> {
    buffer: &'a mut [u8],
    at: usize,
}

impl<'a> Writer<'a> {
    /// Starts at the first byte of `buffer`.
    pub fn new(buffer: &'a mut [u8]) -> Self {
        Self { buffer, at: 0 }
    }

    /// Appends `bytes`.
    ///
    /// # Panics
    /// When the buffer is full: layouts are sized by constants that tests check.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.buffer[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
        self
    }

    /// Appends one byte.
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes(&[value])
    }

    /// Appends a little-endian 16-bit number.
    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    /// Appends a little-endian 32-bit number.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    /// Appends a little-endian 64-bit number.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    /// Bytes written so far.
    pub fn position(&self) -> usize {
        self.at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_what_was_written() {
        let mut buffer = [0; 18];
        let mut w = Writer::new(&mut buffer);
        w.u8(1).u16(0x0203).u32(0x0405_0607).u64(8).bytes(b"abc");
        assert_eq!(w.position(), 18);
        let mut r = Reader::new(&buffer);
        assert_eq!(r.u8(), Ok(1));
        assert_eq!(r.u16(), Ok(0x0203));
        assert_eq!(r.u32(), Ok(0x0405_0607));
        assert_eq!(r.u64(), Ok(8));
        assert_eq!(r.array::<3>(), Ok(*b"abc"));
        assert_eq!(r.u8(), Err(Truncated));
    }

    #[test]
    fn a_string_longer_than_the_input_is_truncated() {
        assert_eq!(Reader::new(&[5, 0, 1, 2]).string16(), Err(Truncated));
        assert_eq!(Reader::new(&[2, 0, 1, 2]).string16(), Ok(&[1, 2][..]));
    }
}
