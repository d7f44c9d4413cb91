//! Circular and hyperbolic functions, and their inverses.
//!
//! Sine, cosine and tangent reduce by multiples of π/2 held in three parts (Cody and Waite, "Software Manual for the Elementary
//! Functions", 1980), each product exact in its fused multiply-add: accurate for `|x| ≤ 10⁵`, gradually less so beyond.
//! The polynomials interpolate at Chebyshev nodes, in relative error, and were computed to 60 digits.

use super::exponential::{log1p, quarter_expm1, quarter_expm1_within, unary, unless_tiny};
use super::poly::{Both, Format, Poly, copy_sign};
use super::{MapDef, Types};
use crate::dtype::{DType, Scalar};
use crate::kernel::build::X;

/// The rows.
pub static TABLE: &[&MapDef] = &[
    &SIN, &COS, &TAN, &ASIN, &ACOS, &ATAN, &ATAN2, &SINH, &COSH, &TANH, &ASINH, &ACOSH, &ATANH,
];

/// `(sin r - r) / r³` in `r²`, for `|r| ≤ π/4`.
const SIN_TAIL: Poly = Poly {
    f32: &[-0.166666642, 0.00833274703, -0.00019587639],
    f64: &[
        -0.16666666666666666,
        0.008333333333333331,
        -0.0001984126984126504,
        2.755731921932058e-06,
        -2.50521062259944e-08,
        1.6058530596645953e-10,
        -7.586636882825159e-13,
    ],
};

/// `(cos r - 1 + r²/2) / r⁴` in `r²`, for `|r| ≤ π/4`.
const COS_TAIL: Poly = Poly {
    f32: &[0.0416666642, -0.00138883013, 2.45476895e-05],
    f64: &[
        0.041666666666666664,
        -0.0013888888888888887,
        2.4801587301584632e-05,
        -2.755731922139249e-07,
        2.0876755787492604e-09,
        -1.1470460319209511e-11,
        4.745838412531023e-14,
    ],
};

/// π/2 as an unrounded sum, each part rounded down: as all are positive, the reduction of -0 is -0.
const HALF_PI: [Both; 3] = [
    Both {
        f32: 1.570796251296997,
        f64: std::f64::consts::FRAC_PI_2,
    },
    Both {
        f32: 7.549789415861596e-08,
        f64: 6.123233995736765e-17,
    },
    Both {
        f32: 5.390302529957765e-15,
        f64: 1.0828566739219139e-32,
    },
];

/// Sine and cosine of the rest of `x` after the nearest multiple of π/2, and an unsigned integer whose low two bits are those
/// of the multiple.
fn reduced_sin_cos(x: X<'_>) -> (X<'_>, X<'_>, X<'_>) {
    let format = Format::of(x);
    let rounder = x.lit(format.rounder());
    let rounded = x.fma(x.lit(std::f64::consts::FRAC_2_PI), rounder);
    let quarter = rounded - rounder;
    let r = HALF_PI.iter().fold(x, |r, part| quarter.fma(-part.of(x), r));
    let (z, one) = (r * r, x.lit(1.0));
    let sin = r * SIN_TAIL.at(z).fma(z, one);
    let cos = COS_TAIL.at(z).fma(z * z, z.fma(x.lit(-0.5), one));
    (sin, cos, rounded.bitcast(format.unsigned))
}

/// Whether a quarter turn is odd.
fn is_odd(quarter: X<'_>) -> X<'_> {
    let one = quarter.int(1);
    quarter.and(one).eq(one)
}

/// The sine of `x` moved forward by a number of quarter turns.
fn sin_ahead(x: X<'_>, quarters: i128) -> X<'_> {
    let format = Format::of(x);
    let (sin, cos, quarter) = reduced_sin_cos(x);
    let quarter = quarter + quarter.int(quarters);
    let value = is_odd(quarter).select(cos, sin);
    // Bit 1 of the quarter turn is the sign.
    let to_sign = i128::from(if x.dtype() == DType::F64 { 62 } else { 30 });
    let sign = quarter.and(quarter.int(2)).shl(quarter.int(to_sign));
    value.bitcast(format.unsigned).xor(sign).bitcast(x.dtype())
}

fn tan(x: X<'_>) -> X<'_> {
    let (sin, cos, quarter) = reduced_sin_cos(x);
    let odd = is_odd(quarter);
    odd.select(cos, sin) / odd.select(-sin, cos)
}

/// `(atan t - t) / t³` in `t²`, for `|t| ≤ 1`.
const ATAN_TAIL: Poly = Poly {
    f32: &[
        -0.333333313,
        0.199997395,
        -0.142785683,
        0.110337645,
        -0.0865688026,
        0.0625016913,
        -0.0358715393,
        0.0135077713,
        -0.00238699722,
    ],
    f64: &[
        -0.3333333333333333,
        0.1999999999999753,
        -0.14285714285384132,
        0.11111111093490827,
        -0.09090908590891934,
        0.07692298971033217,
        -0.06666564699289104,
        0.05881506877793656,
        -0.052579733342841106,
        0.04737749579527779,
        -0.04260356632601652,
        0.03749486812535247,
        -0.031277189066996385,
        0.023696731580048622,
        -0.015535152475414177,
        0.008368931178450162,
        -0.0034958859739163094,
        0.0010496035084968515,
        -0.00019996189377901382,
        1.806195461861215e-05,
    ],
};

/// `turns · π/2 - x`.
fn half_pi_minus<'k>(turns: f64, x: X<'k>) -> X<'k> {
    let [high, low, _] = &HALF_PI;
    high.of(x) * turns - (x - low.of(x) * turns)
}

/// `atan t` for `|t| ≤ 1`.
fn atan_reduced(t: X<'_>) -> X<'_> {
    let z = t * t;
    t * ATAN_TAIL.at(z).fma(z, t.lit(1.0))
}

fn atan(x: X<'_>) -> X<'_> {
    let (magnitude, one) = (x.abs(), x.lit(1.0));
    // min(1, |x|) / max(1, |x|) is |x| or its inverse, and NaN of NaN.
    let angle = atan_reduced(one.min(magnitude) / one.max(magnitude));
    let angle = one.lt(magnitude).select(half_pi_minus(1.0, angle), angle);
    copy_sign(angle, x)
}

fn atan2<'k>(y: X<'k>, x: X<'k>) -> X<'k> {
    let format = Format::of(x);
    let (rise, run) = (y.abs(), x.abs());
    let (least, most) = (rise.min(run), rise.max(run));
    // 0/0 and ∞/∞ stand for the directions 0 and 45°.
    let ratio = least.eq(most).select(x.lit(1.0), least / most);
    let ratio = most.eq(x.lit(0.0)).select(most, ratio);
    let angle = atan_reduced(ratio);
    let angle = run.lt(rise).select(half_pi_minus(1.0, angle), angle);
    let bits = x.bitcast(format.signed);
    let behind = bits.lt(bits.int(0));
    let angle = behind.select(half_pi_minus(2.0, angle), angle);
    let known = x.eq(x).and(y.eq(y));
    known.select(copy_sign(angle, y), x.lit(f64::NAN))
}

/// `(asin t - t) / t³` in `t²`, for `|t| ≤ ½`.
const ASIN_TAIL: Poly = Poly {
    f32: &[0.166666731, 0.0749885291, 0.0450018942, 0.0265506636, 0.0380939618],
    f64: &[
        0.16666666666666666,
        0.07500000000000119,
        0.04464285714255019,
        0.030381944475693704,
        0.022372157435623815,
        0.017352816768546473,
        0.013963775787848137,
        0.011566511821890942,
        0.009621402747344831,
        0.009322101501082774,
        0.0030350071727267636,
        0.019579201619744684,
        -0.019277545928584553,
        0.029635026263546548,
    ],
};

/// Whether `|x| > ½`, and then `asin √((1 - |x|)/2)`, otherwise `asin |x|`.
fn asin_reduced(x: X<'_>) -> (X<'_>, X<'_>) {
    let magnitude = x.abs();
    let large = x.lit(0.5).lt(magnitude);
    let z = large.select((1.0 - magnitude) * 0.5, magnitude * magnitude);
    let t = large.select(z.sqrt(), magnitude);
    (large, t * ASIN_TAIL.at(z).fma(z, x.lit(1.0)))
}

fn asin(x: X<'_>) -> X<'_> {
    let (large, angle) = asin_reduced(x);
    let angle = large.select(half_pi_minus(1.0, angle + angle), angle);
    copy_sign(angle, x)
}

fn acos(x: X<'_>) -> X<'_> {
    let (large, angle) = asin_reduced(x);
    let twice = angle + angle;
    let behind = x.lt(x.lit(0.0));
    let far = behind.select(half_pi_minus(2.0, twice), twice);
    let near = half_pi_minus(1.0, behind.select(-angle, angle));
    large.select(far, near)
}

/// With `q = (e^|x| - 1)/4`: `sinh |x| = 2q + q/(2q + ½)`, which overflows no earlier than the result.
fn sinh(x: X<'_>) -> X<'_> {
    let quarter = quarter_expm1(x.abs());
    let half = quarter + quarter;
    unless_tiny(x, copy_sign(half + quarter / (half + 0.5), x))
}

/// With `w = e^|x|/2`: `cosh x = w + 1/(4w)`.
fn cosh(x: X<'_>) -> X<'_> {
    let quarter = quarter_expm1(x.abs());
    let half = quarter + quarter + 0.5;
    half + 0.25 / half
}

/// With `t = e^(2|x|) - 1`: `tanh |x| = t/(t + 2)`.
fn tanh(x: X<'_>) -> X<'_> {
    let magnitude = x.abs();
    let t = quarter_expm1_within(x.lit(44.0).min(magnitude + magnitude)) * 4.0;
    copy_sign(t / (t + 2.0), x)
}

/// Whether 1 is nothing beside `x`, so that `asinh x` and `acosh x` are `ln 2x`; the squares of all else are finite.
fn is_vast(x: X<'_>) -> X<'_> {
    const LIMIT: Both = Both {
        f32: (1u64 << 30) as f64,
        f64: (1u64 << 60) as f64,
    };
    LIMIT.of(x).lt(x)
}

fn asinh(x: X<'_>) -> X<'_> {
    let magnitude = x.abs();
    let square = magnitude * magnitude;
    let vast = is_vast(magnitude);
    let rest = magnitude + square / ((square + 1.0).sqrt() + 1.0);
    let log = log1p(vast.select(magnitude, rest)) + vast.select(x.lit(std::f64::consts::LN_2), x.lit(0.0));
    unless_tiny(x, copy_sign(log, x))
}

fn acosh(x: X<'_>) -> X<'_> {
    let above = x - 1.0;
    let vast = is_vast(x);
    let rest = above + above.fma(above, above + above).sqrt();
    let log = log1p(vast.select(above, rest)) + vast.select(x.lit(std::f64::consts::LN_2), x.lit(0.0));
    above.lt(x.lit(0.0)).select(x.lit(f64::NAN), log)
}

fn atanh(x: X<'_>) -> X<'_> {
    let magnitude = x.abs();
    let log = log1p((magnitude + magnitude) / (1.0 - magnitude)) * 0.5;
    unless_tiny(x, copy_sign(log, x))
}

unary!(
    /// The sine.
    SIN, "sin", "the sine of a; accurate for |a| ≤ 10⁵", f64::sin, |x| sin_ahead(x, 0),
    |v| vec![Some(v.seed * v.args[0].cos())], (-10.0, 10.0), 4
);
unary!(
    /// The cosine.
    COS, "cos", "the cosine of a; accurate for |a| ≤ 10⁵", f64::cos, |x| sin_ahead(x, 1),
    |v| vec![Some(-(v.seed * v.args[0].sin()))], (-10.0, 10.0), 4
);
unary!(
    /// The tangent.
    TAN, "tan", "the tangent of a; accurate for |a| ≤ 10⁵", f64::tan, tan,
    |v| vec![Some(v.seed * (v.out * v.out + 1.0))], (-1.5, 1.5), 4
);
unary!(
    /// The angle in [-π/2, π/2] whose sine is a.
    ASIN, "asin", "the angle in [-π/2, π/2] whose sine is a", f64::asin, asin,
    |v| vec![Some(v.seed / (1.0 - v.args[0] * v.args[0]).sqrt())], (-0.99, 0.99), 4
);
unary!(
    /// The angle in [0, π] whose cosine is a.
    ACOS, "acos", "the angle in [0, π] whose cosine is a", f64::acos, acos,
    |v| vec![Some(-(v.seed / (1.0 - v.args[0] * v.args[0]).sqrt()))], (-0.99, 0.99), 4
);
unary!(
    /// The angle in [-π/2, π/2] whose tangent is a.
    ATAN, "atan", "the angle in [-π/2, π/2] whose tangent is a", f64::atan, atan,
    |v| vec![Some(v.seed / (v.args[0] * v.args[0] + 1.0))], (-10.0, 10.0), 4
);
unary!(
    /// The hyperbolic sine.
    SINH, "sinh", "the hyperbolic sine of a", f64::sinh, sinh,
    |v| vec![Some(v.seed * v.args[0].cosh())], (-5.0, 5.0), 4
);
unary!(
    /// The hyperbolic cosine.
    COSH, "cosh", "the hyperbolic cosine of a", f64::cosh, cosh,
    |v| vec![Some(v.seed * v.args[0].sinh())], (-5.0, 5.0), 4
);
unary!(
    /// The hyperbolic tangent.
    TANH, "tanh", "the hyperbolic tangent of a", f64::tanh, tanh,
    |v| vec![Some(v.seed * (1.0 - v.out * v.out))], (-5.0, 5.0), 4
);
unary!(
    /// The number whose hyperbolic sine is a.
    ASINH, "asinh", "the number whose hyperbolic sine is a", libm::asinh, asinh,
    |v| vec![Some(v.seed / (v.args[0] * v.args[0] + 1.0).sqrt())], (-10.0, 10.0), 4
);
unary!(
    /// The positive number whose hyperbolic cosine is a.
    ACOSH, "acosh", "the positive number whose hyperbolic cosine is a", // `libm::acosh` gives numbers below 1, where there are none.
    |x: f64| if x < 1.0 { f64::NAN } else { libm::acosh(x) }, acosh,
    |v| vec![Some(v.seed / (v.args[0] * v.args[0] - 1.0).sqrt())], (1.1, 10.0), 4
);
unary!(
    /// The number whose hyperbolic tangent is a.
    ATANH, "atanh", "the number whose hyperbolic tangent is a", libm::atanh, atanh,
    |v| vec![Some(v.seed / (1.0 - v.args[0] * v.args[0]))], (-0.9, 0.9), 4
);

/// The angle of the point `(b, a)`.
pub static ATAN2: MapDef = MapDef {
    name: "atan2",
    doc: "the angle in [-π, π] of the point whose ordinate is a and whose abscissa is b",
    arity: 2,
    types: Types::Float,
    eval: |x, _| Scalar::Float(x[0].as_f64().atan2(x[1].as_f64())),
    body: |x| atan2(x[0], x[1]),
    grad: |v| {
        let (y, x) = (v.args[0], v.args[1]);
        let share = v.seed / (x * x + y * y);
        vec![Some(share * x), Some(-(share * y))]
    },
    laws: &[],
    domain: &[(0.1, 5.0), (-5.0, 5.0)],
    ulps: 4,
};
