//! Vectors of four blocks: AVX-512 with VAES and VPCLMULQDQ (Ice Lake, Zen 4, and later).

use std::arch::x86_64::*;

use crate::crypto::kernel::entry::kernel;
use crate::crypto::kernel::isa::{BLOCK_LEN, Block, Isa};

kernel! {
    /// The proof that this CPU has what the kernel needs.
    Avx512, "avx512", is_x86_feature_detected:
    "avx512f", "avx512bw", "avx512dq", "avx512vl", "vaes", "vpclmulqdq"
}

impl Avx512 {
    #[inline(always)]
    fn load_two_blocks(self, bytes: &[u8]) -> __m256i {
        assert_eq!(bytes.len(), 2 * BLOCK_LEN);
        // SAFETY: `self` proves that the CPU has the instruction, and there are as many bytes.
        unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
    }

    #[inline(always)]
    fn store_two_blocks(self, blocks: __m256i, bytes: &mut [u8]) {
        assert_eq!(bytes.len(), 2 * BLOCK_LEN);
        // SAFETY: `self` proves that the CPU has the instruction, and there are as many bytes.
        unsafe { _mm256_storeu_si256(bytes.as_mut_ptr().cast(), blocks) }
    }
}

impl Isa for Avx512 {
    type Vector = __m512i;

    const BLOCKS: usize = 4;

    #[inline(always)]
    fn load(self, bytes: &[u8]) -> __m512i {
        assert_eq!(bytes.len(), Self::BYTES);
        // SAFETY: `self` proves that the CPU has the instruction, and there are as many bytes.
        unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
    }

    #[inline(always)]
    fn store(self, vector: __m512i, bytes: &mut [u8]) {
        assert_eq!(bytes.len(), Self::BYTES);
        // SAFETY: `self` proves that the CPU has the instruction, and there are as many bytes.
        unsafe { _mm512_storeu_si512(bytes.as_mut_ptr().cast(), vector) }
    }

    #[inline(always)]
    fn load_last(self, blocks: &[u8]) -> __m512i {
        // SAFETY: `self` proves that the CPU has the instruction.
        let zero = unsafe { _mm512_setzero_si512() };
        match blocks.len() / BLOCK_LEN {
            0 => zero,
            1 => {
                let block = load_block(blocks);
                // SAFETY: `self` proves that the CPU has the instruction.
                unsafe { _mm512_inserti32x4::<3>(zero, block) }
            }
            2 => {
                let blocks = self.load_two_blocks(blocks);
                // SAFETY: `self` proves that the CPU has the instruction.
                unsafe { _mm512_inserti64x4::<1>(zero, blocks) }
            }
            3 => {
                let (block, blocks) = blocks.split_at(BLOCK_LEN);
                let (block, blocks) = (load_block(block), self.load_two_blocks(blocks));
                // SAFETY: `self` proves that the CPU has the instruction.
                let blocks = unsafe { _mm512_inserti64x4::<1>(zero, blocks) };
                // SAFETY: `self` proves that the CPU has the instruction.
                unsafe { _mm512_inserti32x4::<1>(blocks, block) }
            }
            _ => self.load(blocks),
        }
    }

    #[inline(always)]
    fn store_last(self, vector: __m512i, blocks: &mut [u8]) {
        match blocks.len() / BLOCK_LEN {
            0 => {}
            // SAFETY: `self` proves that the CPU has the instruction.
            1 => store_block(unsafe { _mm512_extracti32x4_epi32::<3>(vector) }, blocks),
            // SAFETY: `self` proves that the CPU has the instruction.
            2 => self.store_two_blocks(unsafe { _mm512_extracti64x4_epi64::<1>(vector) }, blocks),
            3 => {
                let (block, blocks) = blocks.split_at_mut(BLOCK_LEN);
                // SAFETY: `self` proves that the CPU has the instruction.
                store_block(unsafe { _mm512_extracti32x4_epi32::<1>(vector) }, block);
                // SAFETY: `self` proves that the CPU has the instruction.
                self.store_two_blocks(unsafe { _mm512_extracti64x4_epi64::<1>(vector) }, blocks);
            }
            _ => self.store(vector, blocks),
        }
    }

    #[inline(always)]
    fn first(self, vector: __m512i) -> Block {
        let mut block = [0; BLOCK_LEN];
        // SAFETY: `self` proves that the CPU has the instruction.
        store_block(unsafe { _mm512_castsi512_si128(vector) }, &mut block);
        block
    }

    #[inline(always)]
    fn splat(self, block: &Block) -> __m512i {
        let block = load_block(block);
        // SAFETY: `self` proves that the CPU has the instruction.
        unsafe { _mm512_broadcast_i32x4(block) }
    }

    #[inline(always)]
    fn xor(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: `self` proves that the CPU has the instruction.
        unsafe { _mm512_xor_si512(a, b) }
    }

    #[inline(always)]
    fn sum(self, vector: __m512i) -> Block {
        // SAFETY: `self` proves that the CPU has the instruction.
        let other_half = unsafe { _mm512_shuffle_i64x2::<0b01_00_11_10>(vector, vector) };
        let halves = self.xor(vector, other_half);
        // SAFETY: `self` proves that the CPU has the instruction.
        let neighbours = unsafe { _mm512_shuffle_i64x2::<0b10_11_00_01>(halves, halves) };
        self.first(self.xor(halves, neighbours))
    }

    #[inline(always)]
    fn add_words(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: `self` proves that the CPU has the instruction.
        unsafe { _mm512_add_epi32(a, b) }
    }

    #[inline(always)]
    fn round(self, state: __m512i, key: __m512i) -> __m512i {
        // SAFETY: `self` proves that the CPU has the instruction.
        unsafe { _mm512_aesenc_epi128(state, key) }
    }

    #[inline(always)]
    fn last_round(self, state: __m512i, key: __m512i) -> __m512i {
        // SAFETY: `self` proves that the CPU has the instruction.
        unsafe { _mm512_aesenclast_epi128(state, key) }
    }

    #[inline(always)]
    fn last_word(self, vector: __m512i) -> __m512i {
        // SAFETY: `self` proves that the CPU has the instruction.
        unsafe { _mm512_shuffle_epi32::<0xff>(vector) }
    }

    #[inline(always)]
    fn last_word_rotated(self, vector: __m512i) -> __m512i {
        let bytes = self.splat(&[13, 14, 15, 12, 13, 14, 15, 12, 13, 14, 15, 12, 13, 14, 15, 12]);
        // SAFETY: `self` proves that the CPU has the instruction.
        unsafe { _mm512_shuffle_epi8(vector, bytes) }
    }

    #[inline(always)]
    fn prefix_xor(self, vector: __m512i) -> __m512i {
        // SAFETY: `self` proves that the CPU has the instruction.
        let shifted = unsafe { _mm512_bslli_epi128::<4>(vector) };
        let pairs = self.xor(vector, shifted);
        // SAFETY: `self` proves that the CPU has the instruction.
        let shifted = unsafe { _mm512_bslli_epi128::<8>(pairs) };
        self.xor(pairs, shifted)
    }

    #[inline(always)]
    fn first_halves(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: `self` proves that the CPU has the instruction.
        unsafe { _mm512_unpacklo_epi64(a, b) }
    }

    #[inline(always)]
    fn swap_halves(self, vector: __m512i) -> __m512i {
        // SAFETY: `self` proves that the CPU has the instruction.
        unsafe { _mm512_shuffle_epi32::<0x4e>(vector) }
    }

    #[inline(always)]
    fn multiply_halves<const HALVES: i32>(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: `self` proves that the CPU has the instruction.
        unsafe { _mm512_clmulepi64_epi128::<HALVES>(a, b) }
    }
}

#[inline(always)]
fn load_block(bytes: &[u8]) -> __m128i {
    assert_eq!(bytes.len(), BLOCK_LEN);
    // SAFETY: every x86-64 CPU has the instruction, and there are as many bytes.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

#[inline(always)]
fn store_block(block: __m128i, bytes: &mut [u8]) {
    assert_eq!(bytes.len(), BLOCK_LEN);
    // SAFETY: every x86-64 CPU has the instruction, and there are as many bytes.
    unsafe { _mm_storeu_si128(bytes.as_mut_ptr().cast(), block) }
}
