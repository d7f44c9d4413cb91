//! The table's functions as methods of [`Val`].
//!
//! Operands are broadcast to one shape. Where a second operand may be a number, it takes the type of the first.

use std::ops::{BitAnd, BitOr, BitXor, Not, Rem, Shl, Shr};

use super::{arith, bits, compare, convert, exponential, round, trig};
use crate::builder::Val;
use crate::dtype::DType;

/// What may stand beside a value: another value, or a number.
pub trait Operand<'g> {
    /// As a value; a number takes the type of `like`.
    fn beside(self, like: Val<'g>) -> Val<'g>;
}

impl<'g> Operand<'g> for Val<'g> {
    fn beside(self, _like: Val<'g>) -> Val<'g> {
        self
    }
}

impl<'g> Operand<'g> for f64 {
    #[track_caller]
    fn beside(self, like: Val<'g>) -> Val<'g> {
        like.lit(self)
    }
}

/// Defines methods for rows of one operand.
macro_rules! unary {
    ($($(#[$doc:meta])* $method:ident => $row:expr;)*) => {
        impl<'g> Val<'g> {
            $($(#[$doc])*
            #[track_caller]
            pub fn $method(self) -> Val<'g> {
                Val::map(&$row, &[self])
            })*
        }
    };
}

/// Defines methods for rows of two operands, the second a value or a number.
macro_rules! binary {
    ($($(#[$doc:meta])* $method:ident => $row:expr;)*) => {
        impl<'g> Val<'g> {
            $($(#[$doc])*
            #[track_caller]
            pub fn $method(self, other: impl Operand<'g>) -> Val<'g> {
                Val::map(&$row, &[self, other.beside(self)])
            })*
        }
    };
}

unary! {
    /// Without its sign.
    abs => arith::ABS;
    /// -1 below 0, 1 above; zeros and NaN give themselves.
    sign => arith::SIGN;
    /// The square root.
    sqrt => arith::SQRT;
    /// The number of bits set.
    popcount => bits::POPCOUNT;
    /// Whether each element is NaN.
    is_nan => compare::IS_NAN;
    /// Whether each element is an infinity.
    is_inf => compare::IS_INF;
    /// Whether each element is neither NaN nor an infinity.
    is_finite => compare::IS_FINITE;
    /// `e^x`
    exp => exponential::EXP;
    /// `2^x`
    exp2 => exponential::EXP2;
    /// `e^x - 1`, accurate near 0.
    expm1 => exponential::EXPM1;
    /// The natural logarithm.
    log => exponential::LOG;
    /// The logarithm to base 2.
    log2 => exponential::LOG2;
    /// The logarithm to base 10.
    log10 => exponential::LOG10;
    /// `ln(1 + x)`, accurate near 0.
    log1p => exponential::LOG1P;
    /// `1 / (1 + e^-x)`
    sigmoid => exponential::SIGMOID;
    /// `ln(1 + e^x)`, without overflow.
    softplus => exponential::SOFTPLUS;
    /// The error function.
    erf => exponential::ERF;
    /// The greatest whole number not above.
    floor => round::FLOOR;
    /// The least whole number not below.
    ceil => round::CEIL;
    /// The nearest whole number, halves to even.
    round => round::ROUND;
    /// Without what stands after the point.
    trunc => round::TRUNC;
    /// The sine; accurate for `|x| ≤ 10⁵`.
    sin => trig::SIN;
    /// The cosine; accurate for `|x| ≤ 10⁵`.
    cos => trig::COS;
    /// The tangent; accurate for `|x| ≤ 10⁵`.
    tan => trig::TAN;
    /// The angle in [-π/2, π/2] with this sine.
    asin => trig::ASIN;
    /// The angle in [0, π] with this cosine.
    acos => trig::ACOS;
    /// The angle in [-π/2, π/2] with this tangent.
    atan => trig::ATAN;
    /// The hyperbolic sine.
    sinh => trig::SINH;
    /// The hyperbolic cosine.
    cosh => trig::COSH;
    /// The hyperbolic tangent.
    tanh => trig::TANH;
    /// The number with this hyperbolic sine.
    asinh => trig::ASINH;
    /// The positive number with this hyperbolic cosine.
    acosh => trig::ACOSH;
    /// The number with this hyperbolic tangent.
    atanh => trig::ATANH;
}

binary! {
    /// The remainder of floored division, with the sign of `other`, as Python's `%`.
    modulo => arith::MOD;
    /// The greater of two, NaN if either is.
    max => arith::MAX;
    /// The smaller of two, NaN if either is.
    min => arith::MIN;
    /// `self == other`
    eq => compare::EQ;
    /// `self != other`; true if either is NaN.
    ne => compare::NE;
    /// `self < other`
    lt => compare::LT;
    /// `self <= other`
    le => compare::LE;
    /// `self > other`
    gt => compare::GT;
    /// `self >= other`
    ge => compare::GE;
    /// `self` to a power; NaN for negative values unless `other` is whole.
    pow => exponential::POW;
    /// The angle of the point with ordinate `self` and abscissa `other`, in [-π, π].
    atan2 => trig::ATAN2;
}

impl<'g> Val<'g> {
    /// `self·b + c`, rounded once.
    #[track_caller]
    pub fn fma(self, b: impl Operand<'g>, c: impl Operand<'g>) -> Val<'g> {
        Val::map(&arith::FMA, &[self, b.beside(self), c.beside(self)])
    }

    /// For a `bool`: `yes` where this is true, otherwise `no`.
    #[track_caller]
    pub fn select(self, yes: Val<'g>, no: impl Operand<'g>) -> Val<'g> {
        Val::map(&compare::SELECT, &[self, yes, no.beside(yes)])
    }

    /// Converts to a type: floats to integers truncate and saturate, NaN to 0; integers wrap; `bool` asks whether the value is
    /// not 0. The value itself if it has that type already.
    #[track_caller]
    pub fn cast(self, dtype: DType) -> Val<'g> {
        if self.is_poison() || self.dtype() == dtype {
            return self;
        }
        Val::map(convert::to(dtype), &[self])
    }

    /// The bits as another type of the same size; the value itself if it has that type already.
    #[track_caller]
    pub fn bitcast(self, dtype: DType) -> Val<'g> {
        if self.is_poison() || self.dtype() == dtype {
            return self;
        }
        match convert::bits_to(dtype) {
            Some(row) => Val::map(row, &[self]),
            None => self.builder().problem(format!(
                "bitcast: not all bits are a {dtype}; compare with zero instead"
            )),
        }
    }
}

/// Implements an operator of two values.
macro_rules! operator {
    ($($trait:ident, $method:ident, $row:expr;)*) => {
        $(impl<'g> $trait for Val<'g> {
            type Output = Val<'g>;
            #[track_caller]
            fn $method(self, other: Val<'g>) -> Val<'g> {
                Val::map(&$row, &[self, other])
            }
        })*
    };
}
operator! {
    Rem, rem, arith::REM;
    BitAnd, bitand, bits::AND;
    BitOr, bitor, bits::OR;
    BitXor, bitxor, bits::XOR;
    Shl, shl, bits::SHL;
    Shr, shr, bits::SHR;
}

impl<'g> Rem<f64> for Val<'g> {
    type Output = Val<'g>;
    #[track_caller]
    fn rem(self, other: f64) -> Val<'g> {
        self % self.lit(other)
    }
}

impl<'g> Not for Val<'g> {
    type Output = Val<'g>;
    #[track_caller]
    fn not(self) -> Val<'g> {
        Val::map(&bits::NOT, &[self])
    }
}
