//! Vectors of two blocks: AVX2 with VAES and VPCLMULQDQ (Alder Lake, Zen 3, and later).

use std::arch::x86_64::*;

use crate::crypto::kernel::entry::kernel;
use crate::crypto::kernel::isa::{BLOCK_LEN, Block, Isa};

kernel! {
    /// The proof that this CPU has what the kernel needs.
    Vaes256, "vaes256", is_x86_feature_detected: "avx2", "aes", "pclmulqdq", "vaes", "vpclmulqdq"
}

impl Isa for Vaes256 {
    type Vector = __m256i;

    const BLOCKS: usize = 2;

    #[inline(always)]
    fn load(self, bytes: &[u8]) -> __m256i {
        assert_eq!(bytes.len(), Self::BYTES);
        // SAFETY: `self` proves that the CPU has the instruction, and there are as many bytes.
        unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
    }

    #[inline(always)]
    fn store(self, vector: __m256i, bytes: &mut [u8]) {
        assert_eq!(bytes.len(), Self::BYTES);
        // SAFETY: `self` proves that the CPU has the instruction, and there are as many bytes.
        unsafe { _mm256_storeu_si256(bytes.as_mut_ptr().cast(), vector) }
    }

    #[inline(always)]
    fn load_last(self, blocks: &[u8]) -> __m256i {
        if blocks.len() == Self::BYTES {
            return self.load(blocks);
        }
        let block = load_block(blocks);
        // SAFETY: `self` proves that the CPU has the instruction.
        let zero = unsafe { _mm256_setzero_si256() };
        // SAFETY: `self` proves that the CPU has the instruction.
        unsafe { _mm256_inserti128_si256::<1>(zero, block) }
    }

    #[inline(always)]
    fn store_last(self, vector: __m256i, blocks: &mut [u8]) {
        if blocks.len() == Self::BYTES {
            return self.store(vector, blocks);
        }
        // SAFETY: `self` proves that the CPU has the instruction.
        store_block(unsafe { _mm256_extracti128_si256::<1>(vector) }, blocks);
    }

    #[inline(always)]
    fn first(self, vector: __m256i) -> Block {
        let mut block = [0; BLOCK_LEN];
        // SAFETY: `self` proves that the CPU has the instruction.
        store_block(unsafe { _mm256_castsi256_si128(vector) }, &mut block);
        block
    }

    #[inline(always)]
    fn splat(self, block: &Block) -> __m256i {
        let block = load_block(block);
        // SAFETY: `self` proves that the CPU has the instruction.
        unsafe { _mm256_broadcastsi128_si256(block) }
    }

    #[inline(always)]
    fn xor(self, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: `self` proves that the CPU has the instruction.
        unsafe { _mm256_xor_si256(a, b) }
    }

    #[inline(always)]
    fn sum(self, vector: __m256i) -> Block {
        // SAFETY: `self` proves that the CPU has the instruction.
        let swapped = unsafe { _mm256_permute2x128_si256::<0x01>(vector, vector) };
        self.first(self.xor(vector, swapped))
    }

    #[inline(always)]
    fn add_words(self, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: `self` proves that the CPU has the instruction.
        unsafe { _mm256_add_epi32(a, b) }
    }

    #[inline(always)]
    fn round(self, state: __m256i, key: __m256i) -> __m256i {
        // SAFETY: `self` proves that the CPU has the instruction.
        unsafe { _mm256_aesenc_epi128(state, key) }
    }

    #[inline(always)]
    fn last_round(self, state: __m256i, key: __m256i) -> __m256i {
        // SAFETY: `self` proves that the CPU has the instruction.
        unsafe { _mm256_aesenclast_epi128(state, key) }
    }

    #[inline(always)]
    fn last_word(self, vector: __m256i) -> __m256i {
        // SAFETY: `self` proves that the CPU has the instruction.
        unsafe { _mm256_shuffle_epi32::<0xff>(vector) }
    }

    #[inline(always)]
    fn last_word_rotated(self, vector: __m256i) -> __m256i {
        let bytes = self.splat(&[13, 14, 15, 12, 13, 14, 15, 12, 13, 14, 15, 12, 13, 14, 15, 12]);
        // SAFETY: `self` proves that the CPU has the instruction.
        unsafe { _mm256_shuffle_epi8(vector, bytes) }
    }

    #[inline(always)]
    fn prefix_xor(self, vector: __m256i) -> __m256i {
        // SAFETY: `self` proves that the CPU has the instruction.
        let shifted = unsafe { _mm256_bslli_epi128::<4>(vector) };
        let pairs = self.xor(vector, shifted);
        // SAFETY: `self` proves that the CPU has the instruction.
        let shifted = unsafe { _mm256_bslli_epi128::<8>(pairs) };
        self.xor(pairs, shifted)
    }

    #[inline(always)]
    fn first_halves(self, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: `self` proves that the CPU has the instruction.
        unsafe { _mm256_unpacklo_epi64(a, b) }
    }

    #[inline(always)]
    fn swap_halves(self, vector: __m256i) -> __m256i {
        // SAFETY: `self` proves that the CPU has the instruction.
        unsafe { _mm256_shuffle_epi32::<0x4e>(vector) }
    }

    #[inline(always)]
    fn multiply_halves<const HALVES: i32>(self, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: `self` proves that the CPU has the instruction.
        unsafe { _mm256_clmulepi64_epi128::<HALVES>(a, b) }
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
