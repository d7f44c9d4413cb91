//! Products in `f32` by a matrix unit that multiplies `bf16`: each operand in three pieces.
//!
//! An `f32` has 24 significant bits, a `bf16` eight, so `x = x₀ + x₁ + x₂` where `x₀` is `x` rounded to `bf16`, `x₁` what is left rounded again, and
//! `x₂` what is left then, with no error. Of the nine products of pieces the six of [`PAIRS`] are summed; the other three
//! are below 2⁻²⁶ of the product, less than an `f32` rounds away (G. Henry et al., "Leveraging the bfloat16 artificial intelligence datatype for
//! higher-precision computations", 2019). The unit has no subnormal numbers: what is below 2⁻¹²⁶ counts as 0, so elements below some 2⁻¹¹⁰ lose digits. An
//! infinite element has no pieces: what is computed from it is NaN.
//!
//! **Memory.** The sum is cut into blocks of [`DEPTH`] terms. Of `A` a row of such a block lies together. Of `B` the columns lie in blocks of [`SIDE`], and of such a block and one of
//! the sum term `k` of column `j` is the one of number `(k / 2 · SIDE + j) · 2 + k % 2`. Buffers are of `bf16` or `u16`, its bits, or of `u32`: the bits of two
//! terms, the first in the low half.
//!
//! **Order.** An element of `C` takes up one block of terms after the other, and of each the pairs of pieces in their order: [`multiply`].

use crate::dtype::DType;

/// Terms of a block of the sum.
pub const DEPTH: usize = 32;
/// Rows, and columns, that the unit computes at once.
pub const SIDE: usize = 16;
/// The number of pieces.
pub const PIECES: usize = 3;
/// Which pieces of `A` and `B` are multiplied, in this order: from one to the next only one side changes.
pub const PAIRS: [(usize, usize); 6] = [(2, 0), (1, 0), (1, 1), (0, 1), (0, 0), (0, 2)];

/// Terms of a block of `B`.
pub const BLOCK: usize = DEPTH * SIDE;

/// The terms that an element of a buffer of this type holds, if it may hold any.
pub fn terms_in(dtype: DType) -> Option<usize> {
    match dtype {
        DType::BF16 | DType::U16 => Some(1),
        DType::U32 => Some(2),
        _ => None,
    }
}

/// Term `number` of what an element's bits hold.
pub fn term(bits: u64, number: usize) -> f32 {
    f32::from_bits((bits as u32 >> (16 * number)) << 16)
}

/// `c + Σ a · b` as the unit of x86-64 computes it (`TDPBF16PS`): terms of even and of odd number by a fused multiply-add each, from zero, then
/// the two sums added, then their sum to `c`; numbers below the normal ones are 0 wherever they occur.
pub fn multiply(c: f32, terms: impl IntoIterator<Item = (f32, f32)>) -> f32 {
    let mut sums = [0.0f32; 2];
    for (number, (a, b)) in terms.into_iter().enumerate() {
        let sum = &mut sums[number % 2];
        let (a, b) = (normal(a), normal(b));
        let close = f64::from(a) * f64::from(b) + f64::from(*sum);
        *sum = match close.abs() < LEAST {
            true => 0.0f32.copysign(close as f32),
            false => a.mul_add(b, *sum),
        };
    }
    normal(normal(c) + normal(sums[0] + sums[1]))
}

/// What is less is 0: with 24 digits and any exponent it is still rounded to less than the least normal number.
const LEAST: f64 = f32::MIN_POSITIVE as f64 * (1.0 - 1.0 / (1 << 25) as f64);

fn normal(x: f32) -> f32 {
    if x.is_subnormal() { 0.0f32.copysign(x) } else { x }
}
