//! What a kernel needs of an instruction set.

/// 128 bits: a block of AES, or an element of POLYVAL's field with the coefficient of x⁰ in the
/// lowest bit of the first byte.
pub(super) type Block = [u8; BLOCK_LEN];

/// Bytes in a block.
pub(super) const BLOCK_LEN: usize = 16;

/// An instruction set that works on vectors of one or more blocks.
///
/// A value of an implementing type is the proof that the CPU has the set: there is no way to it
/// but detection. So its operations are safe, and all that is built of them is safe code whose
/// slices are checked; `unsafe` stays within the implementations.
///
/// Every operation is `#[inline(always)]`, and so are the functions built of them, up to the
/// entry points of a kernel, which enable the instruction set for all that was inlined.
pub(super) trait Isa: Copy {
    /// Some blocks, side by side.
    type Vector: Copy;

    /// Blocks in a vector.
    const BLOCKS: usize;
    /// Bytes in a vector.
    const BYTES: usize = Self::BLOCKS * BLOCK_LEN;

    /// A vector of `BYTES` bytes.
    fn load(self, bytes: &[u8]) -> Self::Vector;

    /// The inverse of `load`.
    fn store(self, vector: Self::Vector, bytes: &mut [u8]);

    /// At most a vector's number of blocks, at the end of a vector that begins with zeros.
    fn load_last(self, blocks: &[u8]) -> Self::Vector;

    /// The inverse of `load_last`; the vector's first blocks are left out.
    fn store_last(self, vector: Self::Vector, blocks: &mut [u8]);

    /// A vector's first block.
    fn first(self, vector: Self::Vector) -> Block;

    /// The same block everywhere.
    fn splat(self, block: &Block) -> Self::Vector;

    /// Exclusive or.
    fn xor(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;

    /// The exclusive or of a vector's blocks.
    fn sum(self, vector: Self::Vector) -> Block;

    /// Sums of 32-bit words, without carries.
    fn add_words(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;

    /// A round of AES, other than the last, on each block.
    fn round(self, state: Self::Vector, key: Self::Vector) -> Self::Vector;

    /// The last round of AES on each block.
    fn last_round(self, state: Self::Vector, key: Self::Vector) -> Self::Vector;

    /// The last word of each block in all four of its words.
    fn last_word(self, vector: Self::Vector) -> Self::Vector;

    /// The last word of each block, its bytes rotated as AES's RotWord does, in all four of its
    /// words.
    fn last_word_rotated(self, vector: Self::Vector) -> Self::Vector;

    /// In each block, the exclusive or of each word and all words before it.
    fn prefix_xor(self, vector: Self::Vector) -> Self::Vector;

    /// The first halves of the blocks of `a` and `b`, as one block.
    fn first_halves(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;

    /// The halves of each block exchanged.
    fn swap_halves(self, vector: Self::Vector) -> Self::Vector;

    /// In each block, the carry-less product of the half of `a` that bit 0 of `HALVES` chooses
    /// and the half of `b` that bit 4 chooses; 1 is the second half.
    fn multiply_halves<const HALVES: i32>(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
}
