//! POLYVAL (RFC 8452, section 3) on vectors of blocks.
//!
//! The field is GF(2¹²⁸) modulo P = x¹²⁸ + x¹²⁷ + x¹²⁶ + x¹²¹ + 1, its product a·b·x⁻¹²⁸. The hash of
//! blocks B₁ … Bₙ under H is B₁·Hⁿ + … + Bₙ·H. With L blocks in a vector, each position of the
//! vector sums up every L-th block in steps of Hᴸ on its own, and the positions are brought
//! together once, at the end of a message, by multiplication with the consecutive powers of H.
//!
//! Products are summed up before they are reduced: a reduction costs half a product, so a group
//! of vectors takes one for all.

use super::isa::{Block, Isa};

/// x⁶³ + x⁶² + x⁵⁷: the terms of P between 1 and x¹²⁸, divided by x⁶⁴.
const MIDDLE_OF_P: Block = {
    let mut block = [0; 16];
    block[7] = 0xc2;
    block
};

/// Products that were not reduced yet: `low` + `middle`·x⁶⁴ + `high`·x¹²⁸ in each block.
#[derive(Clone, Copy)]
pub(super) struct Products<V> {
    low: V,
    middle: V,
    high: V,
}

impl<V: Copy> Products<V> {
    /// The product of two vectors, block by block.
    #[inline(always)]
    pub(super) fn of<I: Isa<Vector = V>>(isa: I, a: V, b: V) -> Self {
        Self {
            low: isa.multiply_halves::<0x00>(a, b),
            middle: isa.xor(isa.multiply_halves::<0x01>(a, b), isa.multiply_halves::<0x10>(a, b)),
            high: isa.multiply_halves::<0x11>(a, b),
        }
    }

    /// The sum with another product.
    #[inline(always)]
    pub(super) fn plus<I: Isa<Vector = V>>(self, isa: I, a: V, b: V) -> Self {
        let other = Self::of(isa, a, b);
        Self {
            low: isa.xor(self.low, other.low),
            middle: isa.xor(self.middle, other.middle),
            high: isa.xor(self.high, other.high),
        }
    }

    /// The sum as elements of the field.
    ///
    /// The lowest 64 bits times P are added, which makes them vanish, as P ends in 1; what is
    /// left is divided by x⁶⁴. So `low` becomes a summand of `middle`, and likewise `middle` one
    /// of `high`.
    #[inline(always)]
    pub(super) fn reduce<I: Isa<Vector = V>>(self, isa: I) -> V {
        fold(isa, fold(isa, self.low, self.middle), self.high)
    }
}

/// `upper` + `lower`·x⁻⁶⁴.
#[inline(always)]
fn fold<I: Isa>(isa: I, lower: I::Vector, upper: I::Vector) -> I::Vector {
    let times_p = isa.multiply_halves::<0x00>(lower, isa.splat(&MIDDLE_OF_P));
    isa.xor(isa.xor(upper, isa.swap_halves(lower)), times_p)
}

/// The product of two vectors of elements, block by block.
#[inline(always)]
pub(super) fn multiply<I: Isa>(isa: I, a: I::Vector, b: I::Vector) -> I::Vector {
    Products::of(isa, a, b).reduce(isa)
}
