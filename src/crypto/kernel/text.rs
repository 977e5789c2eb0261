//! How a message's bytes are divided, and the two things that are done to them: hashing, and
//! the key stream.
//!
//! ```text
//! associated data | head           | body                     | rest            | lengths
//!                   0..L-1 blocks    vectors of L blocks each   part of a block
//! ```
//!
//! The head takes up what is not a multiple of L blocks, so that the last vector of the body ends
//! where the powers of H for it are known beforehand. It stands at the *end* of a vector of its
//! own, with what comes of the associated data before it and zeros at the beginning, which a hash
//! by Horner's rule does not notice.

use super::aes;
use super::isa::{BLOCK_LEN, Block, Isa};
use super::keys::{MAX_BLOCKS, MessageKeys, SHORT_STRIDE, STRIDE};
use super::polyval::{Products, multiply};
use crate::crypto::aead::{Nonce, Tag};

/// Where a text is divided.
#[derive(Clone, Copy)]
pub(super) struct Division {
    /// Bytes of the head.
    pub(super) head: usize,
    /// Bytes of head and body.
    pub(super) whole: usize,
    /// Bytes of all.
    pub(super) len: usize,
}

impl Division {
    /// That of a text of `len` bytes.
    #[inline(always)]
    pub(super) fn of<I: Isa>(_: I, len: usize) -> Self {
        let whole = len - len % BLOCK_LEN;
        Self { head: whole % I::BYTES, whole, len }
    }
}

/// How many powers of Hᴸ a message of `len` bytes needs, as it is hashed by so many vectors at a
/// time at most.
#[inline(always)]
pub(super) fn strides<I: Isa>(_: I, len: usize) -> usize {
    if len / I::BYTES < 2 * SHORT_STRIDE { SHORT_STRIDE } else { STRIDE }
}

/// The hash of a message, as far as it was computed.
#[derive(Clone, Copy)]
pub(super) struct Hash<'k, I: Isa> {
    isa: I,
    keys: MessageKeys<'k>,
    /// The sum by position, without the product with H that comes with the next block.
    sum: I::Vector,
}

impl<'k, I: Isa> Hash<'k, I> {
    /// Begins with the associated data; `head` bytes of text will come first.
    #[inline(always)]
    pub(super) fn new(isa: I, keys: MessageKeys<'k>, aad: &[u8], head: usize) -> Self {
        let mut sum = isa.splat(&[0; BLOCK_LEN]);
        // One block after the other: a chunk has one or two. The last is not multiplied yet, as
        // it takes its place before the head.
        let mut blocks = aad.chunks(BLOCK_LEN);
        if let Some(first) = blocks.next() {
            sum = isa.splat(&padded(first));
            let key = keys.power(isa, 1);
            for block in blocks {
                sum = isa.xor(multiply(isa, sum, key), isa.splat(&padded(block)));
            }
            let mut blocks = [0; MAX_BLOCKS * BLOCK_LEN];
            let before_head = I::BYTES - head - BLOCK_LEN;
            blocks[before_head..][..BLOCK_LEN].copy_from_slice(&isa.first(sum));
            sum = isa.load(&blocks[..I::BYTES]);
        }
        Self { isa, keys, sum }
    }

    /// Adds the head, at the end of a vector that begins with zeros.
    #[inline(always)]
    pub(super) fn add_head(&mut self, head: I::Vector) {
        self.sum = self.isa.xor(self.sum, head);
    }

    /// Adds whole vectors.
    #[inline(always)]
    pub(super) fn add<const N: usize>(&mut self, vectors: &[I::Vector; N]) {
        let isa = self.isa;
        let mut products = Products::of(isa, self.sum, self.keys.stride(isa, N));
        for (n, vector) in vectors[..N - 1].iter().enumerate() {
            products = products.plus(isa, *vector, self.keys.stride(isa, N - 1 - n));
        }
        self.sum = isa.xor(products.reduce(isa), vectors[N - 1]);
    }

    /// Adds the vectors of a part of the body.
    #[inline(always)]
    pub(super) fn add_body(&mut self, mut body: &[u8]) {
        body = self.add_groups::<STRIDE>(body);
        body = self.add_groups::<4>(body);
        body = self.add_groups::<2>(body);
        self.add_groups::<1>(body);
    }

    #[inline(always)]
    fn add_groups<'b, const N: usize>(&mut self, body: &'b [u8]) -> &'b [u8] {
        let groups = body.chunks_exact(N * I::BYTES);
        let left = groups.remainder();
        for group in groups {
            self.add(&load::<I, N>(self.isa, group));
        }
        left
    }

    /// The tag, after `rest`, the part of a block that is left.
    #[inline(always)]
    pub(super) fn tag(self, nonce: &Nonce, rest: &[u8], aad_len: usize, len: usize) -> Tag {
        let (isa, keys) = (self.isa, self.keys);
        let lengths = (8 * aad_len as u128) | (8 * len as u128) << 64;
        let lengths = isa.load_last(&lengths.to_le_bytes());
        let products = if rest.is_empty() {
            Products::of(isa, self.sum, keys.powers(isa, 1))
        } else {
            let rest = isa.load_last(&padded(rest));
            Products::of(isa, self.sum, keys.powers(isa, 2)).plus(isa, rest, keys.power(isa, 2))
        };
        let mut hash = isa.sum(products.plus(isa, lengths, keys.power(isa, 1)).reduce(isa));
        for (byte, nonce) in hash.iter_mut().zip(nonce) {
            *byte ^= nonce;
        }
        hash[BLOCK_LEN - 1] &= 0x7f;
        let [tag] = aes::encrypt(isa, keys, [isa.splat(&hash)]);
        isa.first(tag)
    }
}

/// The key stream of a message: the encrypted counter. The counter is a block's first 32 bits and
/// wraps around within them.
#[derive(Clone, Copy)]
pub(super) struct KeyStream<'k, I: Isa> {
    isa: I,
    keys: MessageKeys<'k>,
    counters: I::Vector,
}

impl<'k, I: Isa> KeyStream<'k, I> {
    /// Begins so that the stream starts with the last `head` bytes of a vector, or if that is none
    /// with the next one.
    #[inline(always)]
    pub(super) fn new(isa: I, keys: MessageKeys<'k>, tag: &Tag, head: usize) -> Self {
        let mut first = *tag;
        first[BLOCK_LEN - 1] |= 0x80;
        let first = isa.splat(&first);
        let skipped = if head == 0 { 0 } else { (I::BYTES - head) / BLOCK_LEN };
        let positions = isa.load(&POSITIONS.as_flattened()[..I::BYTES]);
        let positions = isa.add_words(positions, isa.splat(&counter((skipped as u32).wrapping_neg())));
        Self { isa, keys, counters: isa.add_words(first, positions) }
    }

    /// The next vectors.
    #[inline(always)]
    pub(super) fn next<const N: usize>(&mut self) -> [I::Vector; N] {
        let isa = self.isa;
        let step = isa.splat(&counter(I::BLOCKS as u32));
        let mut blocks = [self.counters; N];
        for block in &mut blocks {
            *block = self.counters;
            self.counters = isa.add_words(self.counters, step);
        }
        aes::encrypt(isa, self.keys, blocks)
    }

    /// Encrypts or decrypts vectors, and returns the outcome.
    #[inline(always)]
    pub(super) fn apply<const N: usize>(&mut self, input: &[u8], output: &mut [u8]) -> [I::Vector; N] {
        let isa = self.isa;
        let mut vectors = self.next::<N>();
        for (n, vector) in vectors.iter_mut().enumerate() {
            let range = n * I::BYTES..(n + 1) * I::BYTES;
            *vector = isa.xor(*vector, isa.load(&input[range.clone()]));
            isa.store(*vector, &mut output[range]);
        }
        vectors
    }

    /// Encrypts or decrypts the body of a message.
    #[inline(always)]
    pub(super) fn apply_body(&mut self, input: &[u8], output: &mut [u8]) {
        let (input, output) = self.apply_groups::<STRIDE>(input, output);
        let (input, output) = self.apply_groups::<4>(input, output);
        let (input, output) = self.apply_groups::<2>(input, output);
        self.apply_groups::<1>(input, output);
    }

    /// Encrypts or decrypts as many groups of `N` vectors as there are; returns what is left.
    #[inline(always)]
    fn apply_groups<'t, const N: usize>(
        &mut self,
        input: &'t [u8],
        output: &'t mut [u8],
    ) -> (&'t [u8], &'t mut [u8]) {
        let whole = input.len() / (N * I::BYTES) * (N * I::BYTES);
        let (input, input_left) = input.split_at(whole);
        let (output, output_left) = output.split_at_mut(whole);
        for (input, output) in input.chunks_exact(N * I::BYTES).zip(output.chunks_exact_mut(N * I::BYTES)) {
            self.apply::<N>(input, output);
        }
        (input_left, output_left)
    }

    /// Encrypts or decrypts a head, if there is one.
    #[inline(always)]
    pub(super) fn apply_head(&mut self, input: &[u8], output: &mut [u8]) {
        if input.is_empty() {
            return;
        }
        let isa = self.isa;
        let [stream] = self.next::<1>();
        isa.store_last(isa.xor(stream, isa.load_last(input)), output);
    }

    /// Encrypts or decrypts the part of a block that is left, if there is one.
    #[inline(always)]
    pub(super) fn apply_rest(&mut self, input: &[u8], output: &mut [u8]) {
        if input.is_empty() {
            return;
        }
        let [stream] = self.next::<1>();
        let stream = self.isa.first(stream);
        for ((output, input), stream) in output.iter_mut().zip(input).zip(stream) {
            *output = input ^ stream;
        }
    }
}

/// Block n has the counter n.
const POSITIONS: [Block; MAX_BLOCKS] = [counter(0), counter(1), counter(2), counter(3)];

/// A block of which only the counter is not zero.
#[inline(always)]
const fn counter(value: u32) -> Block {
    (value as u128).to_le_bytes()
}

/// Up to a block, with zeros after it.
#[inline(always)]
fn padded(bytes: &[u8]) -> Block {
    let mut block = [0; BLOCK_LEN];
    block[..bytes.len()].copy_from_slice(bytes);
    block
}

/// As many vectors as there are in `bytes`.
#[inline(always)]
pub(super) fn load<I: Isa, const N: usize>(isa: I, bytes: &[u8]) -> [I::Vector; N] {
    let mut vectors = [isa.splat(&[0; BLOCK_LEN]); N];
    for (n, vector) in vectors.iter_mut().enumerate() {
        *vector = isa.load(&bytes[n * I::BYTES..(n + 1) * I::BYTES]);
    }
    vectors
}
