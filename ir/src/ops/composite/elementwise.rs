//! Elementwise functions over the builder: arithmetic and activations.

use crate::builder::Val;
use crate::dtype::DType;
use crate::ops::map::methods::Operand;

/// Elementwise arithmetic.
impl<'g> Val<'g> {
    /// `x²`
    #[track_caller]
    pub fn square(self) -> Val<'g> {
        self * self
    }

    /// `1 / x`
    #[track_caller]
    pub fn reciprocal(self) -> Val<'g> {
        1.0 / self
    }

    /// `1 / √x`
    #[track_caller]
    pub fn rsqrt(self) -> Val<'g> {
        1.0 / self.sqrt()
    }

    /// `x` moved to the nearer limit if it is outside them.
    #[track_caller]
    pub fn clamp(self, low: impl Operand<'g>, high: impl Operand<'g>) -> Val<'g> {
        self.max(low).min(high)
    }

    /// 1 where `x > 0`, otherwise 0.
    #[track_caller]
    pub fn step(self) -> Val<'g> {
        self.gt(0.0).cast(self.dtype())
    }
}

/// More of NumPy's functions of elements.
impl<'g> Val<'g> {
    /// `⌊x / other⌋`, as Python's `//`; of integers too.
    #[track_caller]
    pub fn floor_div(self, other: impl Operand<'g>) -> Val<'g> {
        let other = other.beside(self);
        (self - self.modulo(other)) / other
    }

    /// `√(x² + other²)`, without overflow.
    #[track_caller]
    pub fn hypot(self, other: impl Operand<'g>) -> Val<'g> {
        let (a, b) = (self.abs(), other.beside(self).abs());
        let (most, least) = (a.max(b), a.min(b));
        // The ratio of zeros or infinities is no number, and adds nothing.
        let is_plain = most.gt(0.0) & most.lt(f64::INFINITY);
        let ratio = is_plain.select(least, 0.0) / is_plain.select(most, 1.0);
        most * (ratio * ratio + 1.0).sqrt()
    }

    /// `ln(e^x + e^other)`, without overflow.
    #[track_caller]
    pub fn logaddexp(self, other: impl Operand<'g>) -> Val<'g> {
        let other = other.beside(self);
        // Infinities of one sign have no difference.
        let distance = self.eq(other).select(self.lit(0.0), (self - other).abs());
        self.max(other) + (-distance).exp().log1p()
    }

    /// `log2(2^x + 2^other)`, without overflow.
    #[track_caller]
    pub fn logaddexp2(self, other: impl Operand<'g>) -> Val<'g> {
        let other = other.beside(self);
        let distance = self.eq(other).select(self.lit(0.0), (self - other).abs());
        self.max(other) + (-distance).exp2().log1p() * std::f64::consts::LOG2_E
    }

    /// The greatest common divisor of integers, not negative; 0 of zeros. By Euclid's algorithm, until all elements are found.
    #[track_caller]
    pub fn gcd(self, other: impl Operand<'g>) -> Val<'g> {
        let (a, b) = (self.magnitude(), other.beside(self).magnitude());
        // The greater of both says what shape they have together.
        let greater = a.max(b);
        if greater.is_poison() || !greater.dtype().is_int() {
            return self
                .builder()
                .problem(format!("gcd: divisors are of integers, not of {}", greater.ty()));
        }
        let carried = [a, b].map(|x| x.broadcast(greater.shape()));
        let found = self.builder().while_(
            &carried,
            &[],
            |_, pair, _| {
                let is_left = pair[1].ne(0.0);
                is_left.any((0..is_left.rank()).collect::<Vec<usize>>())
            },
            |_, pair, _| {
                let (a, b) = (pair[0], pair[1]);
                let is_found = b.eq(0.0);
                let rest = a % is_found.select(b.lit(1.0), b);
                vec![is_found.select(a, b), is_found.select(b, rest)]
            },
        );
        found[0]
    }

    /// The least common multiple of integers, not negative; 0 if one of them is 0.
    #[track_caller]
    pub fn lcm(self, other: impl Operand<'g>) -> Val<'g> {
        let other = other.beside(self);
        let divisor = self.gcd(other);
        let divisor = divisor.eq(0.0).select(divisor.lit(1.0), divisor);
        self.magnitude() / divisor * other.magnitude()
    }

    /// `|x|`, of unsigned integers too.
    #[track_caller]
    fn magnitude(self) -> Val<'g> {
        if self.dtype().is_signed() { self.abs() } else { self }
    }

    /// Whether each element has a sign: -0 has.
    #[track_caller]
    pub fn has_sign(self) -> Val<'g> {
        let signed = match self.dtype().size_bytes() {
            _ if !self.dtype().is_float() => self.dtype(),
            2 => DType::I16,
            4 => DType::I32,
            _ => DType::I64,
        };
        self.bitcast(signed).lt(0.0)
    }

    /// `|x|` with the sign of `other`.
    #[track_caller]
    pub fn copysign(self, other: impl Operand<'g>) -> Val<'g> {
        let magnitude = self.abs();
        other.beside(self).has_sign().select(-magnitude, magnitude)
    }

    /// The real cube root, by the power and a step of Newton's method.
    #[track_caller]
    pub fn cbrt(self) -> Val<'g> {
        let is_plain = self.is_finite() & self.ne(0.0);
        let x = is_plain.select(self.abs(), 1.0);
        let rough = x.pow(1.0 / 3.0);
        let root = rough - (rough - x / (rough * rough)) * (1.0 / 3.0);
        is_plain.select(root.copysign(self), self)
    }

    /// 0 below 0, 1 above, `at_zero` at 0; NaN stays.
    #[track_caller]
    pub fn heaviside(self, at_zero: impl Operand<'g>) -> Val<'g> {
        let at_zero = at_zero.beside(self);
        let step = self.is_nan().select(self, self.step());
        self.eq(0.0).select(at_zero, step)
    }

    /// NaN replaced by 0, infinities by the greatest and least number of the type.
    #[track_caller]
    pub fn nan_to_num(self) -> Val<'g> {
        let most = match self.dtype() {
            DType::F16 => 65504.0,
            DType::BF16 => f64::from_bits(0x47ef_e000_0000_0000),
            DType::F32 => f64::from(f32::MAX),
            DType::F64 => f64::MAX,
            _ => return self,
        };
        self.is_nan().select(self.lit(0.0), self.clamp(-most, most))
    }

    /// `x · ln other`, and 0 where `x` is 0.
    #[track_caller]
    pub fn xlogy(self, other: impl Operand<'g>) -> Val<'g> {
        let (other, is_zero) = (other.beside(self), self.eq(0.0));
        let safe = is_zero.select(other.lit(1.0), other);
        self * safe.log()
    }

    /// `sin(πx) / (πx)`, and 1 at 0.
    #[track_caller]
    pub fn sinc(self) -> Val<'g> {
        let angle = self * std::f64::consts::PI;
        let safe = self.eq(0.0).select(angle.lit(1.0), angle);
        self.eq(0.0).select(self.lit(1.0), safe.sin() / safe)
    }

    /// The greater of two, or the one that is not NaN.
    #[track_caller]
    pub fn fmax(self, other: impl Operand<'g>) -> Val<'g> {
        let other = other.beside(self);
        let most = other.is_nan().select(self, self.max(other));
        self.is_nan().select(other, most)
    }

    /// The smaller of two, or the one that is not NaN.
    #[track_caller]
    pub fn fmin(self, other: impl Operand<'g>) -> Val<'g> {
        let other = other.beside(self);
        let least = other.is_nan().select(self, self.min(other));
        self.is_nan().select(other, least)
    }

    /// Degrees as radians.
    #[track_caller]
    pub fn radians(self) -> Val<'g> {
        self * (std::f64::consts::PI / 180.0)
    }

    /// Radians as degrees.
    #[track_caller]
    pub fn degrees(self) -> Val<'g> {
        self * (180.0 / std::f64::consts::PI)
    }
}

/// Activations.
impl<'g> Val<'g> {
    /// `max(x, 0)`
    #[track_caller]
    pub fn relu(self) -> Val<'g> {
        self.max(0.0)
    }

    /// `x` between 0 and 6.
    #[track_caller]
    pub fn relu6(self) -> Val<'g> {
        self.clamp(0.0, 6.0)
    }

    /// `x` above 0, `slope · x` below.
    #[track_caller]
    pub fn leaky_relu(self, slope: impl Operand<'g>) -> Val<'g> {
        self.gt(0.0).select(self, self * slope.beside(self))
    }

    /// `x` above 0, `alpha · (e^x - 1)` below.
    #[track_caller]
    pub fn elu(self, alpha: f64) -> Val<'g> {
        self.gt(0.0).select(self, self.not_above_zero().expm1() * alpha)
    }

    /// ELU with the constants under which activations normalise themselves (Klambauer et al., 2017).
    #[track_caller]
    pub fn selu(self) -> Val<'g> {
        self.elu(1.673_263_242_354_377_2) * 1.050_700_987_355_480_5
    }

    /// ELU with a continuous derivative: `alpha · (e^(x/alpha) - 1)` below 0 (Barron, 2017).
    #[track_caller]
    pub fn celu(self, alpha: f64) -> Val<'g> {
        self.gt(0.0)
            .select(self, (self.not_above_zero() / alpha).expm1() * alpha)
    }

    /// `min(0, x)`: keeps what is not selected finite, so that its gradient is 0 and not NaN. A tie is the second operand's, so
    /// that the gradient at 0 is that from below.
    #[track_caller]
    fn not_above_zero(self) -> Val<'g> {
        self.lit(0.0).min(self)
    }

    /// `x · Φ(x)`, where `Φ` is the normal distribution (Hendrycks and Gimpel, 2016).
    #[track_caller]
    pub fn gelu(self) -> Val<'g> {
        self * 0.5 * ((self * std::f64::consts::FRAC_1_SQRT_2).erf() + 1.0)
    }

    /// GELU by its approximation with `tanh`.
    #[track_caller]
    pub fn gelu_tanh(self) -> Val<'g> {
        let scale = std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2;
        let inner = (self + self.square() * self * 0.044715) * scale;
        self * 0.5 * (inner.tanh() + 1.0)
    }

    /// GELU by its approximation with the sigmoid, `x · σ(1.702 x)`.
    #[track_caller]
    pub fn gelu_sigmoid(self) -> Val<'g> {
        self * (self * 1.702).sigmoid()
    }

    /// `x · σ(x)`, also called swish.
    #[track_caller]
    pub fn silu(self) -> Val<'g> {
        self * self.sigmoid()
    }

    /// `ln σ(x)`, without overflow.
    #[track_caller]
    pub fn log_sigmoid(self) -> Val<'g> {
        -(-self).softplus()
    }

    /// `x / (1 + |x|)`
    #[track_caller]
    pub fn softsign(self) -> Val<'g> {
        self / (self.abs() + 1.0)
    }

    /// `x · tanh(ln(1 + e^x))` (Misra, 2019).
    #[track_caller]
    pub fn mish(self) -> Val<'g> {
        self * self.softplus().tanh()
    }

    /// `slope · x + offset` between 0 and 1; ONNX takes 0.2 and 0.5, PyTorch 1/6 and 0.5.
    #[track_caller]
    pub fn hard_sigmoid(self, slope: f64, offset: f64) -> Val<'g> {
        (self * slope + offset).clamp(0.0, 1.0)
    }

    /// `x · (x/6 + ½)`, the second factor between 0 and 1 (Howard et al., 2019).
    #[track_caller]
    pub fn hard_swish(self) -> Val<'g> {
        self * self.hard_sigmoid(1.0 / 6.0, 0.5)
    }

    /// `x` between -1 and 1.
    #[track_caller]
    pub fn hard_tanh(self) -> Val<'g> {
        self.clamp(-1.0, 1.0)
    }

    /// `x` above `threshold`, otherwise 0.
    #[track_caller]
    pub fn thresholded_relu(self, threshold: f64) -> Val<'g> {
        self.gt(threshold).select(self, 0.0)
    }

    /// `x` moved towards 0 by `bias`, and 0 within `threshold` of it.
    #[track_caller]
    pub fn shrink(self, threshold: f64, bias: f64) -> Val<'g> {
        let below = self.lt(-threshold).select(self + bias, 0.0);
        self.gt(threshold).select(self - bias, below)
    }
}

#[cfg(test)]
mod tests {
    use crate::autodiff::check::{check_gradients, sample};
    use crate::builder::{Builder, Val};
    use crate::dtype::{DType, Scalar};
    use crate::oracle;
    use crate::tensor::Tensor;

    const NAN: f64 = f64::NAN;
    const INF: f64 = f64::INFINITY;

    type Function = for<'g> fn(Val<'g>, Val<'g>) -> Val<'g>;

    /// Functions with pairs of operands and what NumPy gives for them.
    static CASES: &[(&str, Function, &[[f64; 3]])] = &[
        (
            "floor_div",
            |x, y| x.floor_div(y),
            &[[7.0, 2.0, 3.0], [-7.0, 2.0, -4.0], [7.0, -2.0, -4.0], [6.0, 3.0, 2.0]],
        ),
        (
            "hypot",
            |x, y| x.hypot(y),
            &[
                [3.0, -4.0, 5.0],
                [0.0, 0.0, 0.0],
                [-INF, 1.0, INF],
                [3e200, 4e200, 5e200],
                [0.0, NAN, NAN],
            ],
        ),
        (
            "logaddexp",
            |x, y| x.logaddexp(y),
            &[
                [0.0, 0.0, std::f64::consts::LN_2],
                [1000.0, 0.0, 1000.0],
                [-INF, -INF, -INF],
                [-INF, 2.0, 2.0],
                [INF, 1.0, INF],
                [NAN, 1.0, NAN],
            ],
        ),
        (
            "logaddexp2",
            |x, y| x.logaddexp2(y),
            &[
                [0.0, 0.0, 1.0],
                [1000.0, 0.0, 1000.0],
                [-INF, -INF, -INF],
                [3.0, 3.0, 4.0],
            ],
        ),
        (
            "copysign",
            |x, y| x.copysign(y),
            &[[3.0, -0.0, -3.0], [-3.0, 0.0, 3.0], [-2.0, -INF, -2.0]],
        ),
        (
            "cbrt",
            |x, _| x.cbrt(),
            &[
                [27.0, 0.0, 3.0],
                [-8.0, 0.0, -2.0],
                [0.0, 0.0, 0.0],
                [-INF, 0.0, -INF],
                [NAN, 0.0, NAN],
            ],
        ),
        (
            "heaviside",
            |x, y| x.heaviside(y),
            &[[-2.0, 0.5, 0.0], [0.0, 0.5, 0.5], [3.0, 0.5, 1.0], [NAN, 0.5, NAN]],
        ),
        (
            "nan_to_num",
            |x, _| x.nan_to_num(),
            &[
                [NAN, 0.0, 0.0],
                [INF, 0.0, f64::MAX],
                [-INF, 0.0, f64::MIN],
                [2.0, 0.0, 2.0],
            ],
        ),
        (
            "xlogy",
            |x, y| x.xlogy(y),
            &[[0.0, 0.0, 0.0], [0.0, INF, 0.0], [2.0, 1.0, 0.0], [1.0, 0.0, -INF]],
        ),
        (
            "sinc",
            |x, _| x.sinc(),
            &[[0.0, 0.0, 1.0], [0.5, 0.0, std::f64::consts::FRAC_2_PI]],
        ),
        (
            "fmax",
            |x, y| x.fmax(y),
            &[[1.0, 2.0, 2.0], [NAN, 2.0, 2.0], [1.0, NAN, 1.0], [NAN, NAN, NAN]],
        ),
        (
            "fmin",
            |x, y| x.fmin(y),
            &[[1.0, 2.0, 1.0], [NAN, 2.0, 2.0], [1.0, NAN, 1.0], [NAN, NAN, NAN]],
        ),
        ("radians", |x, _| x.radians(), &[[180.0, 0.0, std::f64::consts::PI]]),
        ("degrees", |x, _| x.degrees(), &[[std::f64::consts::PI, 0.0, 180.0]]),
    ];

    #[test]
    fn numpys_functions_give_what_numpy_gives() {
        for &(name, function, rows) in CASES {
            let b = Builder::new();
            let [x, y] = ["x", "y"].map(|name| b.input(name, DType::F64, [rows.len()]));
            let graph = b.finish([("z", function(x, y))]).expect("a graph");
            let column = |at: usize| {
                let column = rows.iter().map(move |row| Scalar::Float(row[at]));
                Tensor::from_scalars(DType::F64, [rows.len()], column)
            };
            let found = oracle::run(&graph, &[("x", column(0)), ("y", column(1))]).expect("inputs fit");
            for (row, found) in rows.iter().zip(found[0].1.scalars()) {
                let (found, expected) = (found.as_f64(), row[2]);
                let is_near = (found - expected).abs() <= 4.0 * f64::EPSILON * expected.abs();
                let is_same = found == expected || found.is_nan() && expected.is_nan();
                assert!(is_near || is_same, "{name} of {row:?} is {found}");
            }
        }
    }

    #[test]
    fn numpys_functions_have_gradients() {
        let inputs = [sample(&[6]), sample(&[2, 6])];
        let of = |name: &str| CASES.iter().find(|case| case.0 == name).expect("a case").1;
        for name in [
            "hypot",
            "logaddexp",
            "logaddexp2",
            "copysign",
            "cbrt",
            "sinc",
            "fmax",
            "fmin",
            "radians",
        ] {
            let function = of(name);
            check_gradients(name, &inputs, |x| function(x[0] + x[1] * 0.25, x[1] * 1.5));
        }
        check_gradients("xlogy", &inputs, |x| (x[0] + x[1] * 0.25).xlogy(x[1] * x[1] + 0.5));
    }

    #[test]
    fn whole_numbers_divide_downwards() {
        let b = Builder::new();
        let [x, y] = [[7, -7, 7, -7], [2, 2, -2, -2]].map(|row| b.constant(Tensor::from_i64([4], &row)));
        let graph = b
            .finish([("q", x.floor_div(y)), ("s", x.has_sign().cast(DType::I64))])
            .expect("a graph");
        let found = oracle::run(&graph, &[]).expect("no inputs");
        assert_eq!(found[0].1.to_i64(), [3, -4, -4, 3]);
        assert_eq!(found[1].1.to_i64(), [0, 1, 0, 1]);
    }

    #[test]
    fn whole_numbers_have_common_divisors_and_multiples() {
        let b = Builder::new();
        let [x, y] = [[12, -12, 0, 0, 7, 1_836_311_903], [18, 8, 5, 0, 1, 1_134_903_170]];
        let [x, y] = [x, y].map(|row| b.constant(Tensor::from_i64([6], &row)));
        let bytes = y.cast(DType::U8);
        let outputs = [("gcd", x.gcd(y)), ("lcm", x.lcm(y)), ("of bytes", bytes.gcd(6.0))];
        let found = oracle::run(&b.finish(outputs).expect("a graph"), &[]).expect("no inputs");
        assert_eq!(found[0].1.to_i64(), [6, 4, 5, 0, 1, 1]);
        assert_eq!(found[1].1.to_i64(), [36, 24, 0, 0, 7, 1_836_311_903 * 1_134_903_170]);
        let divisors: Vec<i64> = found[2].1.scalars().map(|x| x.as_i128() as i64).collect();
        assert_eq!(divisors, [6, 2, 1, 6, 1, 2]);
    }

    #[test]
    fn divisors_of_floats_are_refused() {
        let b = Builder::new();
        let x = b.input("x", DType::F32, [3]);
        let problems = b.finish([("y", x.gcd(2.0))]).expect_err("floats have none");
        assert!(
            problems
                .to_string()
                .contains("gcd: divisors are of integers, not of f32[3]"),
            "{problems}"
        );
    }
}
