//! AES-256 on vectors of blocks: key expansion for as many keys as there are blocks, and
//! encryption.

use super::isa::{BLOCK_LEN, Block, Isa};

/// Rounds of AES-256.
pub(super) const ROUNDS: usize = 14;

/// Round constants of the key expansion (FIPS 197, section 5.2), in every word.
const CONSTANTS: [Block; 7] = {
    let mut constants = [[0; BLOCK_LEN]; 7];
    let mut at = 0;
    while at < 7 * BLOCK_LEN {
        constants[at / BLOCK_LEN][at % BLOCK_LEN] = 1 << (at / BLOCK_LEN);
        at += 4;
    }
    constants
};

/// Expands keys that are given by their first and second halves, one in each block of the
/// vectors, and hands the round keys to `put`, from round 0 on.
///
/// A round key is the one two before it, run through a prefix sum, plus a substituted word of the
/// one before it. The substitution is the last round of AES on a block of four equal words, which
/// its rotation of rows does not change: no table, and shorter than `AESKEYGENASSIST`.
#[inline(always)]
pub(super) fn expand<I: Isa, const N: usize>(
    isa: I,
    halves: [[I::Vector; N]; 2],
    schedule: &mut impl Schedule<I, N>,
) {
    let [mut even, mut odd] = halves;
    schedule.put(isa, 0, even);
    schedule.put(isa, 1, odd);
    let zero = isa.splat(&[0; BLOCK_LEN]);
    for (pair, constant) in CONSTANTS.iter().enumerate() {
        let constant = isa.splat(constant);
        for n in 0..N {
            let word = isa.last_round(isa.last_word_rotated(odd[n]), constant);
            even[n] = isa.xor(isa.prefix_xor(even[n]), word);
        }
        schedule.put(isa, 2 * pair + 2, even);
        if 2 * pair + 2 == ROUNDS {
            return;
        }
        for n in 0..N {
            let word = isa.last_round(isa.last_word(even[n]), zero);
            odd[n] = isa.xor(isa.prefix_xor(odd[n]), word);
        }
        schedule.put(isa, 2 * pair + 3, odd);
    }
}

/// Where round keys go.
pub(super) trait Schedule<I: Isa, const N: usize> {
    /// Keeps the keys of a round.
    fn put(&mut self, isa: I, round: usize, keys: [I::Vector; N]);
}

/// Where the round keys come from that encrypt vectors of blocks.
pub(super) trait RoundKeys<I: Isa>: Copy {
    /// The key of a round.
    fn round_key(self, isa: I, round: usize) -> I::Vector;
}

/// One key's schedule, for all blocks.
impl<I: Isa> RoundKeys<I> for &[Block; ROUNDS + 1] {
    #[inline(always)]
    fn round_key(self, isa: I, round: usize) -> I::Vector {
        isa.splat(&self[round])
    }
}

/// Encrypts `N` vectors side by side.
#[inline(always)]
pub(super) fn encrypt<I: Isa, const N: usize>(
    isa: I,
    keys: impl RoundKeys<I>,
    mut blocks: [I::Vector; N],
) -> [I::Vector; N] {
    let key = keys.round_key(isa, 0);
    for block in &mut blocks {
        *block = isa.xor(*block, key);
    }
    for round in 1..ROUNDS {
        let key = keys.round_key(isa, round);
        for block in &mut blocks {
            *block = isa.round(*block, key);
        }
    }
    let key = keys.round_key(isa, ROUNDS);
    for block in &mut blocks {
        *block = isa.last_round(*block, key);
    }
    blocks
}
