//! The instruction sets of x86-64.

mod aesni;
mod avx512;
mod vaes256;

use super::leaked;
use crate::crypto::aead::Aead;

/// The kernels that run on this CPU, the slowest first.
pub(super) fn kernels() -> impl Iterator<Item = &'static dyn Aead> {
    [
        aesni::AesNi::detect().map(leaked),
        vaes256::Vaes256::detect().map(leaked),
        avx512::Avx512::detect().map(leaked),
    ]
    .into_iter()
    .flatten()
}
