//! Vectors of one block: NEON with the instructions for AES and for PMULL.

use std::arch::aarch64::*;
use std::arch::is_aarch64_feature_detected;

use super::entry::kernel;
use super::isa::{BLOCK_LEN, Block, Isa};
use super::leaked;
use crate::crypto::aead::Aead;

/// The kernel that runs on this CPU, if any.
pub(super) fn kernels() -> impl Iterator<Item = &'static dyn Aead> {
    Neon::detect().map(leaked).into_iter()
}

kernel! {
    /// The proof that this CPU has what the kernel needs.
    Neon, "neon", is_aarch64_feature_detected: "neon", "aes"; and "pmull"
}

impl Isa for Neon {
    type Vector = uint8x16_t;

    const BLOCKS: usize = 1;

    #[inline(always)]
    fn load(self, bytes: &[u8]) -> uint8x16_t {
        assert_eq!(bytes.len(), Self::BYTES);
        // SAFETY: `self` proves that the CPU has the instruction, and there are as many bytes.
        unsafe { vld1q_u8(bytes.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, vector: uint8x16_t, bytes: &mut [u8]) {
        assert_eq!(bytes.len(), Self::BYTES);
        // SAFETY: `self` proves that the CPU has the instruction, and there are as many bytes.
        unsafe { vst1q_u8(bytes.as_mut_ptr(), vector) }
    }

    #[inline(always)]
    fn load_last(self, blocks: &[u8]) -> uint8x16_t {
        self.load(blocks)
    }

    #[inline(always)]
    fn store_last(self, vector: uint8x16_t, blocks: &mut [u8]) {
        self.store(vector, blocks);
    }

    #[inline(always)]
    fn first(self, vector: uint8x16_t) -> Block {
        let mut block = [0; BLOCK_LEN];
        self.store(vector, &mut block);
        block
    }

    #[inline(always)]
    fn splat(self, block: &Block) -> uint8x16_t {
        self.load(block)
    }

    #[inline(always)]
    fn xor(self, a: uint8x16_t, b: uint8x16_t) -> uint8x16_t {
        // SAFETY: `self` proves that the CPU has the instruction.
        unsafe { veorq_u8(a, b) }
    }

    #[inline(always)]
    fn sum(self, vector: uint8x16_t) -> Block {
        self.first(vector)
    }

    #[inline(always)]
    fn add_words(self, a: uint8x16_t, b: uint8x16_t) -> uint8x16_t {
        let (a, b) = (words(a), words(b));
        // SAFETY: `self` proves that the CPU has the instruction.
        let sum = unsafe { vaddq_u32(a, b) };
        from_words(sum)
    }

    #[inline(always)]
    fn round(self, state: uint8x16_t, key: uint8x16_t) -> uint8x16_t {
        let zero = self.splat(&[0; BLOCK_LEN]);
        // SAFETY: `self` proves that the CPU has the instruction.
        let substituted = unsafe { vaeseq_u8(state, zero) };
        // SAFETY: `self` proves that the CPU has the instruction.
        let mixed = unsafe { vaesmcq_u8(substituted) };
        self.xor(mixed, key)
    }

    #[inline(always)]
    fn last_round(self, state: uint8x16_t, key: uint8x16_t) -> uint8x16_t {
        let zero = self.splat(&[0; BLOCK_LEN]);
        // SAFETY: `self` proves that the CPU has the instruction.
        let substituted = unsafe { vaeseq_u8(state, zero) };
        self.xor(substituted, key)
    }

    #[inline(always)]
    fn last_word(self, vector: uint8x16_t) -> uint8x16_t {
        let vector = words(vector);
        // SAFETY: `self` proves that the CPU has the instruction.
        let word = unsafe { vdupq_laneq_u32::<3>(vector) };
        from_words(word)
    }

    #[inline(always)]
    fn last_word_rotated(self, vector: uint8x16_t) -> uint8x16_t {
        let bytes = self.splat(&[13, 14, 15, 12, 13, 14, 15, 12, 13, 14, 15, 12, 13, 14, 15, 12]);
        // SAFETY: `self` proves that the CPU has the instruction.
        unsafe { vqtbl1q_u8(vector, bytes) }
    }

    #[inline(always)]
    fn prefix_xor(self, vector: uint8x16_t) -> uint8x16_t {
        let zero = self.splat(&[0; BLOCK_LEN]);
        // SAFETY: `self` proves that the CPU has the instruction.
        let shifted = unsafe { vextq_u8::<12>(zero, vector) };
        let pairs = self.xor(vector, shifted);
        // SAFETY: `self` proves that the CPU has the instruction.
        let shifted = unsafe { vextq_u8::<8>(zero, pairs) };
        self.xor(pairs, shifted)
    }

    #[inline(always)]
    fn first_halves(self, a: uint8x16_t, b: uint8x16_t) -> uint8x16_t {
        let swapped = self.swap_halves(a);
        // SAFETY: `self` proves that the CPU has the instruction.
        unsafe { vextq_u8::<8>(swapped, b) }
    }

    #[inline(always)]
    fn swap_halves(self, vector: uint8x16_t) -> uint8x16_t {
        // SAFETY: `self` proves that the CPU has the instruction.
        unsafe { vextq_u8::<8>(vector, vector) }
    }

    #[inline(always)]
    fn multiply_halves<const HALVES: i32>(self, a: uint8x16_t, b: uint8x16_t) -> uint8x16_t {
        let [a, b] = [half(a, HALVES & 0x01 != 0), half(b, HALVES & 0x10 != 0)];
        // SAFETY: `self` proves that the CPU has the instruction.
        let product = unsafe { vmull_p64(a, b) };
        // SAFETY: NEON is part of every CPU that this is compiled for.
        unsafe { vreinterpretq_u8_p128(product) }
    }
}

#[inline(always)]
fn words(vector: uint8x16_t) -> uint32x4_t {
    // SAFETY: NEON is part of every CPU that this is compiled for.
    unsafe { vreinterpretq_u32_u8(vector) }
}

#[inline(always)]
fn from_words(vector: uint32x4_t) -> uint8x16_t {
    // SAFETY: NEON is part of every CPU that this is compiled for.
    unsafe { vreinterpretq_u8_u32(vector) }
}

/// The first or the second half of a vector.
#[inline(always)]
fn half(vector: uint8x16_t, second: bool) -> u64 {
    // SAFETY: NEON is part of every CPU that this is compiled for.
    let halves = unsafe { vreinterpretq_u64_u8(vector) };
    if second {
        // SAFETY: NEON is part of every CPU that this is compiled for.
        unsafe { vgetq_lane_u64::<1>(halves) }
    } else {
        // SAFETY: NEON is part of every CPU that this is compiled for.
        unsafe { vgetq_lane_u64::<0>(halves) }
    }
}
