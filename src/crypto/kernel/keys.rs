//! The keys of a group of messages: derived, expanded and raised to powers side by side.
//!
//! AES-256-GCM-SIV has keys of its own for every nonce. One after the other they would cost as
//! much as a kilobyte of data: each is a chain of instructions that wait for one another. So
//! the blocks of a vector, and several vectors, belong to different messages here.

use zeroize::optimization_barrier;

use super::aes::{self, ROUNDS, RoundKeys, Schedule};
use super::isa::{BLOCK_LEN, Block, Isa};
use super::polyval::multiply;
use crate::crypto::aead::Nonce;
use crate::secret::KEY_LEN;

/// Messages whose keys are made side by side: a multiple of the blocks in any vector.
pub(super) const GROUP: usize = 8;
/// Most vectors that are hashed between two reductions.
pub(super) const STRIDE: usize = 8;
/// As many for messages of fewer than `2 * SHORT_STRIDE` vectors.
pub(super) const SHORT_STRIDE: usize = 2;

/// Most blocks in a vector.
pub(super) const MAX_BLOCKS: usize = 4;
/// Most blocks after the last vector of a message: the rest of the text, and the lengths.
const MAX_AFTER: usize = 2;
/// Blocks that are encrypted to derive keys for a nonce (RFC 8452, section 4).
const DERIVED: usize = 6;

const ZERO: Block = [0; BLOCK_LEN];

/// Round keys of the key that others are derived from.
#[repr(align(64))]
pub(super) struct MasterKey([Block; ROUNDS + 1]);

impl MasterKey {
    /// Room for a key.
    pub(super) const fn new() -> Self {
        Self([ZERO; ROUNDS + 1])
    }

    /// Sets the key.
    #[inline(always)]
    pub(super) fn expand<I: Isa>(&mut self, isa: I, key: &[u8; KEY_LEN]) {
        let (halves, _) = key.as_chunks();
        aes::expand(isa, [[isa.splat(&halves[0])], [isa.splat(&halves[1])]], self);
    }
}

impl<I: Isa> Schedule<I, 1> for MasterKey {
    #[inline(always)]
    fn put(&mut self, isa: I, round: usize, [key]: [I::Vector; 1]) {
        self.0[round] = isa.first(key);
    }
}

impl<I: Isa> RoundKeys<I> for &MasterKey {
    #[inline(always)]
    fn round_key(self, isa: I, round: usize) -> I::Vector {
        isa.splat(&self.0[round])
    }
}

impl Drop for MasterKey {
    fn drop(&mut self) {
        self.0 = [ZERO; ROUNDS + 1];
        optimization_barrier(self);
    }
}

/// One block for each message of a group.
type Row = [Block; GROUP];

/// What a group's messages are encrypted and hashed with.
#[repr(C, align(64))]
pub(super) struct GroupKeys {
    /// Round keys of AES.
    rounds: [Row; ROUNDS + 1],
    /// Powers of the key H of POLYVAL: Hᴸ, H²ᴸ, …, with L blocks in a vector.
    strides: [Row; STRIDE],
    /// Powers of H: H, H², …
    powers: [Row; MAX_BLOCKS + MAX_AFTER],
    /// The same, but message by message and the highest first, as a vector takes them.
    descending: [[Block; MAX_BLOCKS + MAX_AFTER]; GROUP],
}

impl GroupKeys {
    /// Room for the keys of a group.
    pub(super) const fn new() -> Self {
        Self {
            rounds: [[ZERO; GROUP]; ROUNDS + 1],
            strides: [[ZERO; GROUP]; STRIDE],
            powers: [[ZERO; GROUP]; MAX_BLOCKS + MAX_AFTER],
            descending: [[ZERO; MAX_BLOCKS + MAX_AFTER]; GROUP],
        }
    }

    /// Makes the keys for `nonces`, at most `GROUP` of them. `ALL` is `GROUP` divided by the
    /// blocks in a vector. `strides` powers are made of those for several vectors at a time.
    #[inline(always)]
    pub(super) fn derive<'n, I: Isa, const ALL: usize>(
        &mut self,
        isa: I,
        master: &MasterKey,
        nonces: impl ExactSizeIterator<Item = &'n Nonce>,
        strides: usize,
    ) {
        let count = nonces.len();
        let mut blocks = [ZERO; GROUP];
        for (block, nonce) in blocks.iter_mut().zip(nonces) {
            block[4..].copy_from_slice(nonce);
        }
        if count <= I::BLOCKS {
            self.derive_vectors::<I, 1>(isa, master, &blocks, strides);
        } else {
            self.derive_vectors::<I, ALL>(isa, master, &blocks, strides);
        }
    }

    #[inline(always)]
    fn derive_vectors<I: Isa, const N: usize>(
        &mut self,
        isa: I,
        master: &MasterKey,
        nonces: &Row,
        strides: usize,
    ) {
        let nonces = load::<I, N>(isa, nonces);
        let mut derived = [nonces; DERIVED];
        let mut counter = ZERO;
        for (index, blocks) in derived.iter_mut().enumerate() {
            counter[0] = index as u8;
            let counter = isa.splat(&counter);
            for block in blocks.iter_mut() {
                *block = isa.xor(*block, counter);
            }
            *blocks = aes::encrypt(isa, master, *blocks);
        }
        // Half of each block is a part of a key: two for POLYVAL, four for AES.
        let hash_key = join(isa, derived[0], derived[1]);
        let halves = [join(isa, derived[2], derived[3]), join(isa, derived[4], derived[5])];
        aes::expand(isa, halves, self);
        self.raise(isa, hash_key, strides);
    }

    /// Makes powers of H. Each is the product of two of about half its exponent, so that most need
    /// not wait for one another.
    #[inline(always)]
    fn raise<I: Isa, const N: usize>(&mut self, isa: I, hash_key: [I::Vector; N], strides: usize) {
        store::<I, N>(isa, hash_key, &mut self.powers[0]);
        for exponent in 2..=I::BLOCKS + MAX_AFTER {
            product::<I, N>(isa, &mut self.powers, exponent);
        }
        self.strides[0] = self.powers[I::BLOCKS - 1];
        for exponent in 2..=strides {
            product::<I, N>(isa, &mut self.strides, exponent);
        }
        for (message, descending) in self.descending.iter_mut().enumerate() {
            for exponent in 1..=I::BLOCKS + MAX_AFTER {
                descending[I::BLOCKS + MAX_AFTER - exponent] = self.powers[exponent - 1][message];
            }
        }
    }

    /// The keys of a message of the group.
    #[inline(always)]
    pub(super) fn message(&self, index: usize) -> MessageKeys<'_> {
        assert!(index < GROUP);
        MessageKeys { group: self, index }
    }
}

impl<I: Isa, const N: usize> Schedule<I, N> for GroupKeys {
    #[inline(always)]
    fn put(&mut self, isa: I, round: usize, keys: [I::Vector; N]) {
        store(isa, keys, &mut self.rounds[round]);
    }
}

impl Drop for GroupKeys {
    fn drop(&mut self) {
        let Self { rounds, strides, powers, descending } = self;
        rounds.as_flattened_mut().fill(ZERO);
        strides.as_flattened_mut().fill(ZERO);
        powers.as_flattened_mut().fill(ZERO);
        descending.as_flattened_mut().fill(ZERO);
        optimization_barrier(self);
    }
}

/// The first `N` vectors of a row.
#[inline(always)]
fn load<I: Isa, const N: usize>(isa: I, row: &Row) -> [I::Vector; N] {
    let mut vectors = [isa.splat(&ZERO); N];
    for (vector, bytes) in vectors.iter_mut().zip(row.as_flattened().chunks_exact(I::BYTES)) {
        *vector = isa.load(bytes);
    }
    vectors
}

#[inline(always)]
fn store<I: Isa, const N: usize>(isa: I, vectors: [I::Vector; N], row: &mut Row) {
    for (vector, bytes) in vectors.into_iter().zip(row.as_flattened_mut().chunks_exact_mut(I::BYTES)) {
        isa.store(vector, bytes);
    }
}

#[inline(always)]
fn join<I: Isa, const N: usize>(isa: I, a: [I::Vector; N], b: [I::Vector; N]) -> [I::Vector; N] {
    let mut joined = a;
    for n in 0..N {
        joined[n] = isa.first_halves(a[n], b[n]);
    }
    joined
}

/// Sets the row of a power from two rows before it; the first row is of exponent 1.
#[inline(always)]
fn product<I: Isa, const N: usize>(isa: I, rows: &mut [Row], exponent: usize) {
    let half = exponent / 2;
    let (mut a, b) = (load::<I, N>(isa, &rows[half - 1]), load::<I, N>(isa, &rows[exponent - half - 1]));
    for n in 0..N {
        a[n] = multiply(isa, a[n], b[n]);
    }
    store(isa, a, &mut rows[exponent - 1]);
}

/// What one message is encrypted and hashed with.
#[derive(Clone, Copy)]
pub(super) struct MessageKeys<'k> {
    group: &'k GroupKeys,
    /// Less than `GROUP`.
    index: usize,
}

impl MessageKeys<'_> {
    /// Hᴸ to the power of `exponent`, with L blocks in a vector; at most `STRIDE`.
    #[inline(always)]
    pub(super) fn stride<I: Isa>(self, isa: I, exponent: usize) -> I::Vector {
        isa.splat(&self.group.strides[exponent - 1][self.index])
    }

    /// Consecutive powers of H for the blocks of a vector after which `after` blocks come: the
    /// last of them is for what stands before those.
    #[inline(always)]
    pub(super) fn powers<I: Isa>(self, isa: I, after: usize) -> I::Vector {
        let bytes = self.group.descending[self.index].as_flattened();
        isa.load(&bytes[(MAX_AFTER - after) * BLOCK_LEN..][..I::BYTES])
    }

    /// H to the power of `exponent`, at most `MAX_AFTER`.
    #[inline(always)]
    pub(super) fn power<I: Isa>(self, isa: I, exponent: usize) -> I::Vector {
        isa.splat(&self.group.powers[exponent - 1][self.index])
    }
}

impl<I: Isa> RoundKeys<I> for MessageKeys<'_> {
    #[inline(always)]
    fn round_key(self, isa: I, round: usize) -> I::Vector {
        isa.splat(&self.group.rounds[round][self.index])
    }
}
