//! Products in pieces are as exact as chains of fused multiply-adds.

use netloom_ir::kernel::pieces::{DEPTH, PAIRS, PIECES, multiply};
use netloom_ir::{DType, Scalar};

/// A number as the sum of three that a `bf16` holds.
fn split(x: f32) -> [f32; PIECES] {
    let mut rest = x;
    [(); PIECES].map(|()| {
        let piece = Scalar::from_bits(
            Scalar::from_f64(rest.into(), DType::BF16).to_bits(DType::BF16),
            DType::BF16,
        );
        let piece = piece.as_f64() as f32;
        rest -= piece;
        piece
    })
}

/// Numbers without a pattern of so many magnitudes, from 1 downwards.
fn numbers(count: usize, magnitudes: u64, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        state >> 33
    };
    (0..count)
        .map(|_| (next() as f32 / (1u32 << 30) as f32 - 1.0) / (1u64 << (next() % magnitudes)) as f32)
        .collect()
}

#[test]
fn pieces_are_the_number() {
    for x in numbers(10_000, 60, 3) {
        let [a, b, c] = split(x);
        assert_eq!(f64::from(a) + f64::from(b) + f64::from(c), f64::from(x));
    }
}

/// What the unit gives; a sum is subnormal if it would be after rounding with a further exponent.
#[test]
fn what_is_below_the_normal_numbers_is_zero() {
    let least = f32::MIN_POSITIVE;
    let [half, eighth] = [2f32.powi(-63), 2f32.powi(-75)];
    let place = |terms: &[(f32, f32)]| terms.iter().flat_map(|&term| [term, (0.0, 0.0)]).collect::<Vec<_>>();
    for (c, terms, expected) in [
        (1e-40, vec![], 0.0),
        (0.0, vec![(half, half)], least),
        (0.0, vec![(half, half / 2.0)], 0.0),
        (1.0, vec![(1e-40, 1e30)], 1.0),
        (0.0, vec![(half, half), (-eighth, eighth)], 0.0),
        (0.0, vec![(half, half), (-eighth / 2.0, eighth)], least),
        (0.0, vec![(half, half), (-eighth / 2.0, 1.0078125 * eighth)], 0.0),
        (0.0, vec![(half, half), (-eighth / 4.0, eighth)], least),
    ] {
        assert_eq!(multiply(c, place(&terms)), expected, "{c:e} and {terms:?}");
    }
}

/// Errors are in parts of the sum of the terms' magnitudes, which is what they grow with.
#[test]
fn sums_are_as_exact_as_fused_ones() {
    for (length, magnitudes) in [(64, 1), (256, 1), (256, 20), (1024, 1), (1024, 8)] {
        let mut greatest = [0.0f64; 2];
        for sample in 0..300 {
            let [a, b] = [1, 2].map(|side| numbers(length, magnitudes, 1000 * sample + side));
            let terms = || a.iter().zip(&b).map(|(&a, &b)| f64::from(a) * f64::from(b));
            let (exact, scale) = (terms().sum::<f64>(), terms().map(f64::abs).sum::<f64>());
            let fused = a.iter().zip(&b).fold(0.0f32, |sum, (a, b)| a.mul_add(*b, sum));
            let [a, b] = [&a, &b].map(|side| side.iter().map(|&x| split(x)).collect::<Vec<_>>());
            let mut sum = 0.0;
            for (a, b) in a.chunks(DEPTH).zip(b.chunks(DEPTH)) {
                for (left, right) in PAIRS {
                    sum = multiply(sum, a.iter().zip(b).map(|(a, b)| (a[left], b[right])));
                }
            }
            for (greatest, found) in greatest.iter_mut().zip([sum, fused]) {
                *greatest = greatest.max((f64::from(found) - exact).abs() / scale);
            }
        }
        let [pieces, fused] = greatest;
        assert!(
            pieces <= fused,
            "{length} terms: {pieces:e}, by fused multiply-adds {fused:e}"
        );
    }
}
