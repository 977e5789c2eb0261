//! Vectors of one block: AES-NI with PCLMULQDQ (Westmere, Bulldozer, and later).

use std::arch::x86_64::*;

use crate::crypto::kernel::entry::kernel;
use crate::crypto::kernel::isa::{BLOCK_LEN, Block, Isa};

kernel! {
    /// The proof that this CPU has what the kernel needs.
    AesNi, "aesni", is_x86_feature_detected: "aes", "pclmulqdq", "ssse3"
}

impl Isa for AesNi {
    type Vector = __m128i;

    const BLOCKS: usize = 1;

    #[inline(always)]
    fn load(self, bytes: &[u8]) -> __m128i {
        assert_eq!(bytes.len(), Self::BYTES);
        // SAFETY: `self` proves that the CPU has the instruction, and there are as many bytes.
        unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
    }

    #[inline(always)]
    fn store(self, vector: __m128i, bytes: &mut [u8]) {
        assert_eq!(bytes.len(), Self::BYTES);
        // SAFETY: `self` proves that the CPU has the instruction, and there are as many bytes.
        unsafe { _mm_storeu_si128(bytes.as_mut_ptr().cast(), vector) }
    }

    #[inline(always)]
    fn load_last(self, blocks: &[u8]) -> __m128i {
        self.load(blocks)
    }

    #[inline(always)]
    fn store_last(self, vector: __m128i, blocks: &mut [u8]) {
        self.store(vector, blocks);
    }

    #[inline(always)]
    fn first(self, vector: __m128i) -> Block {
        let mut block = [0; BLOCK_LEN];
        self.store(vector, &mut block);
        block
    }

    #[inline(always)]
    fn splat(self, block: &Block) -> __m128i {
        self.load(block)
    }

    #[inline(always)]
    fn xor(self, a: __m128i, b: __m128i) -> __m128i {
        // SAFETY: `self` proves that the CPU has the instruction.
        unsafe { _mm_xor_si128(a, b) }
    }

    #[inline(always)]
    fn sum(self, vector: __m128i) -> Block {
        self.first(vector)
    }

    #[inline(always)]
    fn add_words(self, a: __m128i, b: __m128i) -> __m128i {
        // SAFETY: `self` proves that the CPU has the instruction.
        unsafe { _mm_add_epi32(a, b) }
    }

    #[inline(always)]
    fn round(self, state: __m128i, key: __m128i) -> __m128i {
        // SAFETY: `self` proves that the CPU has the instruction.
        unsafe { _mm_aesenc_si128(state, key) }
    }

    #[inline(always)]
    fn last_round(self, state: __m128i, key: __m128i) -> __m128i {
        // SAFETY: `self` proves that the CPU has the instruction.
        unsafe { _mm_aesenclast_si128(state, key) }
    }

    #[inline(always)]
    fn last_word(self, vector: __m128i) -> __m128i {
        // SAFETY: `self` proves that the CPU has the instruction.
        unsafe { _mm_shuffle_epi32::<0xff>(vector) }
    }

    #[inline(always)]
    fn last_word_rotated(self, vector: __m128i) -> __m128i {
        let bytes = self.splat(&[13, 14, 15, 12, 13, 14, 15, 12, 13, 14, 15, 12, 13, 14, 15, 12]);
        // SAFETY: `self` proves that the CPU has the instruction.
        unsafe { _mm_shuffle_epi8(vector, bytes) }
    }

    #[inline(always)]
    fn prefix_xor(self, vector: __m128i) -> __m128i {
        // SAFETY: `self` proves that the CPU has the instruction.
        let shifted = unsafe { _mm_bslli_si128::<4>(vector) };
        let pairs = self.xor(vector, shifted);
        // SAFETY: `self` proves that the CPU has the instruction.
        let shifted = unsafe { _mm_bslli_si128::<8>(pairs) };
        self.xor(pairs, shifted)
    }

    #[inline(always)]
    fn first_halves(self, a: __m128i, b: __m128i) -> __m128i {
        // SAFETY: `self` proves that the CPU has the instruction.
        unsafe { _mm_unpacklo_epi64(a, b) }
    }

    #[inline(always)]
    fn swap_halves(self, vector: __m128i) -> __m128i {
        // SAFETY: `self` proves that the CPU has the instruction.
        unsafe { _mm_shuffle_epi32::<0x4e>(vector) }
    }

    #[inline(always)]
    fn multiply_halves<const HALVES: i32>(self, a: __m128i, b: __m128i) -> __m128i {
        // SAFETY: `self` proves that the CPU has the instruction.
        unsafe { _mm_clmulepi64_si128::<HALVES>(a, b) }
    }
}
