//! Pieces of the bodies: polynomials, and floats taken apart into sign, exponent and fraction.
//!
//! Every piece is branch-free and works on whole lanes: `f32` through 32-bit integers, `f64` through 64-bit ones.

use crate::dtype::DType;
use crate::kernel::build::X;

/// A number for each precision.
pub(super) struct Both {
    pub f32: f64,
    pub f64: f64,
}

impl Both {
    /// The one for this value's precision.
    pub fn of<'k>(&self, x: X<'k>) -> X<'k> {
        match x.dtype() {
            DType::F64 => x.lit(self.f64),
            _ => x.lit(self.f32),
        }
    }
}

/// A polynomial for each precision, lowest degree first.
pub(super) struct Poly {
    pub f32: &'static [f64],
    pub f64: &'static [f64],
}

impl Poly {
    /// The value at `x`, by Horner's rule.
    pub fn at<'k>(&self, x: X<'k>) -> X<'k> {
        horner(self.coefficients(x), x)
    }

    /// The value at `x`, even and odd powers apart: a chain of half as many dependent steps, for a body that little else fills.
    pub fn at_by_halves<'k>(&self, x: X<'k>) -> X<'k> {
        let coefficients = self.coefficients(x);
        let every_other = |from: usize| -> Vec<f64> { coefficients[from..].iter().copied().step_by(2).collect() };
        let square = x * x;
        horner(&every_other(1), square).fma(x, horner(&every_other(0), square))
    }

    fn coefficients(&self, x: X<'_>) -> &'static [f64] {
        match x.dtype() {
            DType::F64 => self.f64,
            _ => self.f32,
        }
    }
}

fn horner<'k>(coefficients: &[f64], x: X<'k>) -> X<'k> {
    let (last, rest) = coefficients.split_last().expect("a polynomial has a coefficient");
    rest.iter().rev().fold(x.lit(*last), |sum, &c| sum.fma(x, x.lit(c)))
}

/// How a float type lies in memory.
#[derive(Clone, Copy)]
pub(crate) struct Format {
    /// The unsigned integer of the same size.
    pub unsigned: DType,
    /// The signed integer of the same size.
    pub signed: DType,
    /// Bits of the fraction.
    pub fraction: i32,
    /// What is added to the exponent.
    pub bias: i32,
}

impl Format {
    /// The format of a float.
    pub fn of(x: X<'_>) -> Format {
        Format::of_type(x.dtype())
    }

    /// The format of a float type that has arithmetic.
    pub fn of_type(dtype: DType) -> Format {
        match dtype {
            DType::F64 => Format {
                unsigned: DType::U64,
                signed: DType::I64,
                fraction: 52,
                bias: 1023,
            },
            _ => Format {
                unsigned: DType::U32,
                signed: DType::I32,
                fraction: 23,
                bias: 127,
            },
        }
    }

    /// Adding this to a float rounds it to an integer, held in the low bits: 1.5 · 2^fraction.
    pub fn rounder(self) -> f64 {
        1.5 * 2f64.powi(self.fraction)
    }

    /// What the lowest bit of the exponent is of a whole number: `2^-fraction`.
    pub fn unit(self) -> f64 {
        2f64.powi(-self.fraction)
    }

    /// The least normal number.
    pub fn least_normal(self) -> f64 {
        2f64.powi(1 - self.bias)
    }

    /// An integer moved to where the exponent stands.
    pub fn to_exponent<'k>(self, integer: X<'k>) -> X<'k> {
        integer.shl(integer.int(i128::from(self.fraction)))
    }

    /// The sign bit alone, as an unsigned integer.
    pub fn sign_bit<'k>(self, x: X<'k>) -> X<'k> {
        let bits = x.bitcast(self.unsigned);
        bits.and(bits.int(1 << (self.fraction + if self.fraction == 52 { 11 } else { 8 })))
    }
}

/// `magnitude`, which has no sign, with the sign of `sign`.
pub(super) fn copy_sign<'k>(magnitude: X<'k>, sign: X<'k>) -> X<'k> {
    let format = Format::of(sign);
    let bits = magnitude.bitcast(format.unsigned).or(format.sign_bit(sign));
    bits.bitcast(magnitude.dtype())
}

/// `x` between two limits; NaN stays NaN.
pub(super) fn limit<'k>(x: X<'k>, low: f64, high: f64) -> X<'k> {
    // The machine's max and min give their second operand if either is NaN.
    let x = x.lit(low).max(x);
    x.lit(high).min(x)
}
