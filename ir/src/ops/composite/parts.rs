//! Floats taken apart and put together: whole part and fraction, mantissa and exponent, and the numbers beside them.

use crate::builder::Val;
use crate::dtype::DType;
use crate::ops::map::methods::Operand;
use crate::ops::map::poly::Format;

/// The parts of floats.
impl<'g> Val<'g> {
    /// The fraction and the whole part, both with the sign of `x`.
    ///
    /// ```
    /// # use netloom_ir::{builder::Builder, dtype::DType, oracle, tensor::Tensor};
    /// let b = Builder::new();
    /// let (fraction, whole) = b.input("x", DType::F32, [2]).modf();
    /// let graph = b.finish([("fraction", fraction), ("whole", whole)])?;
    /// let found = oracle::run(&graph, &[("x", Tensor::from_f32([2], &[2.25, -0.5]))]).unwrap();
    /// assert_eq!((found[0].1.to_f32(), found[1].1.to_f32()), (vec![0.25, -0.5], vec![2.0, -0.0]));
    /// # Ok::<(), netloom_ir::error::Problems>(())
    /// ```
    #[track_caller]
    pub fn modf(self) -> (Val<'g>, Val<'g>) {
        let whole = self.trunc();
        // An infinity less itself is no number.
        let fraction = self.is_inf().select(self.lit(0.0), self - whole);
        (fraction.copysign(self), whole)
    }

    /// `x · 2^exponent` for whole exponents, rounded once.
    #[track_caller]
    pub fn ldexp(self, exponent: Val<'g>) -> Val<'g> {
        let dtype = self.dtype();
        if dtype.size_bytes() == 2 {
            return self.cast(DType::F32).ldexp(exponent).cast(dtype);
        }
        let Format { fraction, bias, .. } = Format::of_type(dtype);
        let (most, least) = (f64::from(bias), f64::from(1 - bias));
        // Beyond these every number is 0 or infinite. Powers that are no normal numbers are multiplied in three steps; a step downwards leaves
        // enough for those after it that only the last one rounds (musl's `scalbn`).
        let mut rest = exponent.cast(DType::I32).clamp(-3.0 * most, 3.0 * most);
        let mut product = self;
        for _ in 0..3 {
            let step = rest
                .lt(least)
                .select(rest.lit(least + f64::from(fraction + 1)), rest.min(most));
            product = product * step.cast(dtype).exp2();
            rest = rest - step;
        }
        product
    }

    /// The mantissa, `½ ≤ |m| < 1`, and the exponent, an `i32`, of `x = m · 2^e`. Zeros, infinities and NaN are their own mantissas, with exponent 0.
    #[track_caller]
    pub fn frexp(self) -> (Val<'g>, Val<'g>) {
        let dtype = self.dtype();
        if dtype.size_bytes() == 2 {
            let (mantissa, exponent) = self.cast(DType::F32).frexp();
            return (mantissa.cast(dtype), exponent);
        }
        let Format {
            signed, fraction, bias, ..
        } = Format::of_type(dtype);
        let is_plain = self.is_finite() & self.ne(0.0);
        let x = is_plain.select(self, 1.0);
        // Denormals have no exponent in their bits: they are made normal.
        let is_denormal = x.abs().lt(2f64.powi(1 - bias));
        let lift = is_denormal.select(x.lit(2f64.powi(fraction + 1)), 1.0);
        let bits = (x * lift).abs().bitcast(signed);
        let lifted = (bits >> bits.lit(f64::from(fraction))) - f64::from(bias - 1);
        let exponent = lifted - is_denormal.select(lifted.lit(f64::from(fraction + 1)), 0.0);
        let exponent = is_plain.select(exponent, 0.0).cast(DType::I32);
        (self.ldexp(-exponent), exponent)
    }

    /// The next float after `x` towards `other`.
    #[track_caller]
    pub fn next_after(self, other: impl Operand<'g>) -> Val<'g> {
        let other = other.beside(self);
        let signed = match self.dtype().size_bytes() {
            2 => DType::I16,
            _ => Format::of_type(self.dtype()).signed,
        };
        let bits = self.bitcast(signed);
        // Floats of one sign are in the order of their bits.
        let is_away = self.lt(other).eq(self.gt(0.0));
        let next = (bits + is_away.select(bits.lit(1.0), -1.0)).bitcast(self.dtype());
        let least = bits.lit(1.0).bitcast(self.dtype()).copysign(other);
        let next = self.eq(0.0).select(least, next);
        let next = self.eq(other).select(other, next);
        (self.is_nan() | other.is_nan()).select(self + other, next)
    }

    /// The distance from `x` to the next float away from 0, with the sign of `x`.
    #[track_caller]
    pub fn spacing(self) -> Val<'g> {
        self.next_after(self.lit(f64::INFINITY).copysign(self)) - self
    }
}

#[cfg(test)]
mod tests {
    use crate::builder::{Builder, Val};
    use crate::dtype::{DType, Scalar};
    use crate::oracle;
    use crate::tensor::Tensor;

    const NAN: f64 = f64::NAN;
    const INF: f64 = f64::INFINITY;
    /// The least number of `f32`, and of its normal numbers.
    const LEAST: f64 = 1.401298464324817e-45;
    const NORMAL: f64 = 1.1754943508222875e-38;

    /// The results in `f32`, as numbers.
    fn results(columns: [&[f64]; 2], function: impl for<'g> Fn(Val<'g>, Val<'g>) -> [Val<'g>; 2]) -> [Vec<f64>; 2] {
        let b = Builder::new();
        let rows = columns[0].len();
        let [x, y] = ["x", "y"].map(|name| b.input(name, DType::F32, [rows]));
        let [first, second] = function(x, y);
        let graph = b.finish([("first", first), ("second", second)]).expect("a graph");
        let tensor =
            |at: usize| Tensor::from_scalars(DType::F32, [rows], columns[at].iter().map(|&x| Scalar::Float(x)));
        let found = oracle::run(&graph, &[("x", tensor(0)), ("y", tensor(1))]).expect("inputs fit");
        [0, 1].map(|at| found[at].1.scalars().map(|x| x.as_f64()).collect())
    }

    #[track_caller]
    fn assert_same(found: &[f64], expected: &[f64]) {
        // Bits, so that the signs of zeros count; every NaN is the same.
        let bits = |x: &f64| if x.is_nan() { NAN.to_bits() } else { x.to_bits() };
        let [found_bits, expected_bits] = [found, expected].map(|row| row.iter().map(bits).collect::<Vec<_>>());
        assert_eq!(found_bits, expected_bits, "{found:?} instead of {expected:?}");
    }

    /// What NumPy gives.
    #[test]
    fn numbers_are_whole_and_fraction() {
        let x = [2.25, -2.25, -0.0, 7.0, INF, -INF, NAN];
        let [fraction, whole] = results([&x, &x], |x, _| x.modf().into());
        assert_same(&fraction, &[0.25, -0.25, -0.0, 0.0, 0.0, -0.0, NAN]);
        assert_same(&whole, &[2.0, -2.0, -0.0, 7.0, INF, -INF, NAN]);
    }

    #[test]
    fn numbers_are_mantissa_and_exponent() {
        let x = [1.0, -0.75, 10.0, 3.0 * LEAST, -LEAST, NORMAL, 0.0, -0.0, INF, NAN];
        let [mantissa, exponent] = results([&x, &x], |x, _| x.frexp().into());
        assert_same(&mantissa, &[0.5, -0.75, 0.625, 0.75, -0.5, 0.5, 0.0, -0.0, INF, NAN]);
        assert_same(&exponent, &[1.0, 0.0, 4.0, -147.0, -148.0, -125.0, 0.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn powers_of_two_are_multiplied_without_rounding_twice() {
        let three_halves = 1.5 * 2f64.powi(-30);
        let x = [
            1.5,
            1.0,
            LEAST,
            1.0,
            1.0,
            three_halves,
            1.0 + 2f64.powi(-23),
            INF,
            NAN,
            -0.0,
            3.0,
        ];
        let n = [4.0, -149.0, 276.0, 200.0, -200.0, -103.0, -127.0, -9.0, 3.0, 7.0, -1e6];
        let [product, _] = results([&x, &n], |x, n| [x.ldexp(n.cast(DType::I64)); 2]);
        let just_above = 2f64.powi(-127);
        let expected = [
            24.0,
            LEAST,
            2f64.powi(127),
            INF,
            0.0,
            1.5 * 2f64.powi(-133),
            just_above,
            INF,
            NAN,
            -0.0,
            0.0,
        ];
        assert_same(&product, &expected);
    }

    #[test]
    fn neighbours_are_one_bit_apart() {
        let x = [1.0, 1.0, -1.0, 0.0, -0.0, LEAST, NORMAL, INF, 2.0, NAN];
        let y = [2.0, 0.0, -2.0, -1.0, 5.0, -1.0, 0.0, 0.0, 2.0, 1.0];
        let [next, spacing] = results([&x, &y], |x, y| [x.next_after(y), x.spacing()]);
        let ulp = f64::from(f32::EPSILON);
        let most = f64::from(f32::MAX);
        let expected = [
            1.0 + ulp,
            1.0 - ulp / 2.0,
            -1.0 - ulp,
            -LEAST,
            LEAST,
            0.0,
            NORMAL - LEAST,
            most,
            2.0,
            NAN,
        ];
        assert_same(&next, &expected);
        assert_same(
            &spacing,
            &[ulp, ulp, -ulp, LEAST, -LEAST, LEAST, LEAST, NAN, 2.0 * ulp, NAN],
        );
    }
}
