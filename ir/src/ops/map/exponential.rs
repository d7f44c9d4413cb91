//! Exponentials and logarithms, and what is built from them.
//!
//! `exp` and its relatives reduce by `x = k·ln 2 + r`, `|r| ≤ ln 2 / 2`, in two steps of which the first is exact (Cody and Waite,
//! "Software Manual for the Elementary Functions", 1980); the logarithms split `x = 2^e · m`, `√½ ≤ m < √2`, on the bits, as
//! FreeBSD's msun does. The polynomials interpolate at Chebyshev nodes, in relative error, and were computed to 60 digits.

use super::poly::{Both, Format, Poly, copy_sign, limit};
use super::{Law, MapDef, Types};
use crate::dtype::{DType, Scalar};
use crate::kernel::build::X;

/// The rows.
pub static TABLE: &[&MapDef] = &[
    &EXP, &EXP2, &EXPM1, &LOG, &LOG2, &LOG10, &LOG1P, &SIGMOID, &SOFTPLUS, &ERF, &POW,
];

/// `(e^r - 1 - r) / r²` for `|r| ≤ ln 2 / 2`.
const EXP_TAIL: Poly = Poly {
    f32: &[0.5, 0.166665763, 0.0416665524, 0.00836335029, 0.00139263971],
    f64: &[
        0.5,
        0.1666666666666667,
        0.04166666666666667,
        0.00833333333332597,
        0.0013888888888883629,
        0.00019841269875401043,
        2.4801587325962223e-05,
        2.7557254666098247e-06,
        2.755727311887771e-07,
        2.5105521666108532e-08,
        2.0914904528759253e-09,
    ],
};

/// `(2^r - 1) / r` for `|r| ≤ ½`.
const EXP2_TAIL: Poly = Poly {
    f32: &[
        0.693147182,
        0.240226507,
        0.0555035695,
        0.00961808302,
        0.00133908633,
        0.000154531634,
    ],
    f64: &[
        std::f64::consts::LN_2,
        0.24022650695910072,
        0.055504108664821625,
        0.00961812910762848,
        0.001333355814640647,
        0.00015403530393370734,
        1.5252733841556773e-05,
        1.3215486808705563e-06,
        1.0178057087733941e-07,
        7.0548973041554995e-09,
        4.4558179083360645e-10,
        2.5729324177362305e-11,
    ],
};

/// `ln 2` in two parts: a whole number of exponents times the first is exact (fdlibm).
const LN_2_HIGH: Both = Both {
    f32: 0.693145751953125,
    f64: 0.693_147_180_369_123_8,
};
const LN_2_LOW: Both = Both {
    f32: 1.428_606_820_309_417_3e-6,
    f64: 1.908_214_929_270_587_7e-10,
};

/// `x` as `k·ln 2 + r`: an integer whose low bits are `k + bias`, and `r`. Of NaN, `r` is NaN.
fn reduce<'k>(x: X<'k>) -> (X<'k>, X<'k>) {
    let format = Format::of(x);
    let rounder = x.lit(format.rounder() + f64::from(format.bias));
    let rounded = x.fma(x.lit(std::f64::consts::LOG2_E), rounder);
    let k = rounded - rounder;
    let r = k.fma(-LN_2_HIGH.of(x), x);
    let r = k.fma(-LN_2_LOW.of(x), r);
    (rounded.bitcast(format.unsigned), r)
}

/// `2^k` from an integer whose low bits are `k + bias`, where that is a normal number.
fn power<'k>(k: X<'k>, like: X<'k>) -> X<'k> {
    Format::of(like).to_exponent(k).bitcast(like.dtype())
}

/// `⌊k/2⌋` and `⌈k/2⌉`, all with the bias: their powers are normal numbers where `2^k` is not.
fn halves<'k>(k: X<'k>, like: X<'k>) -> (X<'k>, X<'k>) {
    let twice = k + k.int(i128::from(Format::of(like).bias));
    let low = twice.shr(k.int(1));
    (low, twice - low)
}

/// `value·2^k`, where `far` says that `2^k` may not be a normal number.
fn scale<'k>(value: X<'k>, k: X<'k>, far: X<'k>) -> X<'k> {
    let (low, high) = halves(k, value);
    far.select(value * power(low, value) * power(high, value), value * power(k, value))
}

/// Whether `x` is so great or small that `2^k` of [`reduce`] may not be a normal number.
fn is_far(x: X<'_>) -> X<'_> {
    let near = match x.dtype() {
        DType::F64 => 708.0,
        _ => 87.0,
    };
    x.lit(near).le(x.abs()).unlikely()
}

/// `e^x`, correct in the denormal range too.
fn exp(x: X<'_>) -> X<'_> {
    let far = is_far(x);
    let (k, r) = reduce(far.select(limit_exponent(x), x));
    scale(exp_reduced(r), k, far)
}

fn limit_exponent(x: X<'_>) -> X<'_> {
    match x.dtype() {
        DType::F64 => limit(x, -746.0, 710.0),
        _ => limit(x, -104.0, 89.0),
    }
}

fn exp_reduced(r: X<'_>) -> X<'_> {
    let one = r.lit(1.0);
    EXP_TAIL.at(r).fma(r, one).fma(r, one)
}

/// `e^r - 1`.
fn expm1_reduced(r: X<'_>) -> X<'_> {
    EXP_TAIL.at(r).fma(r * r, r)
}

/// `2^x`: whole numbers give exact powers.
fn exp2(x: X<'_>) -> X<'_> {
    let format = Format::of(x);
    let far = x.lit(f64::from(format.bias - 1)).le(x.abs()).unlikely();
    let limited = match x.dtype() {
        DType::F64 => limit(x, -1076.0, 1024.0),
        _ => limit(x, -151.0, 128.0),
    };
    let x = far.select(limited, x);
    let rounder = x.lit(format.rounder() + f64::from(format.bias));
    let rounded = x + rounder;
    let r = x - (rounded - rounder);
    let value = EXP2_TAIL.at(r).fma(r, x.lit(1.0));
    scale(value, rounded.bitcast(format.unsigned), far)
}

/// `(e^x - 1) / 4`, which does not overflow where `sinh` does not.
pub(super) fn quarter_expm1(x: X<'_>) -> X<'_> {
    quarter_expm1_within(match x.dtype() {
        DType::F64 => limit(x, -40.0, 710.6),
        _ => limit(x, -40.0, 89.5),
    })
}

/// [`quarter_expm1`] of what is at least -40 and so small that the result is finite.
pub(super) fn quarter_expm1_within(x: X<'_>) -> X<'_> {
    let (k, r) = reduce(x);
    let scale = power(k - k.int(2), x);
    scale.fma(expm1_reduced(r), scale - 0.25)
}

/// `value`, or `x` itself where `x` is so small that the function is `x` to the last place; keeps -0 and denormals.
pub(super) fn unless_tiny<'k>(x: X<'k>, value: X<'k>) -> X<'k> {
    let tiny = match x.dtype() {
        DType::F64 => 2f64.powi(-60),
        _ => 2f64.powi(-28),
    };
    x.abs().lt(x.lit(tiny)).select(x, value)
}

fn expm1(x: X<'_>) -> X<'_> {
    unless_tiny(x, quarter_expm1(x) * 4.0)
}

/// `1 / (1 + e^-x)`; far from 0 as `2^-h / (2^-h + 2^l·e^r)` where `-x = (h + l)·ln 2 + r`, so that neither end overflows.
fn sigmoid<'k>(x: X<'k>) -> X<'k> {
    let far = is_far(x);
    let limited = match x.dtype() {
        DType::F64 => limit(-x, -746.0, 746.0),
        _ => limit(-x, -104.0, 104.0),
    };
    let (k, r) = reduce(far.select(limited, -x));
    let (low, high) = halves(k, x);
    let inverse = power(k.int(i128::from(2 * Format::of(x).bias)) - high, x);
    let (k, inverse) = (far.select(low, k), far.select(inverse, x.lit(1.0)));
    inverse / exp_reduced(r).fma(power(k, x), inverse)
}

/// `(ln(1 + f) - f + f²/2) / f³` for `√½ ≤ 1 + f ≤ √2`, with half a unit in the last place of `f32` as the greatest error of the logarithm
/// (R. Lawson's iteration); in `f64`, `(2·atanh(s) - 2s) / s³` in `s²`, as in fdlibm.
const LOG_TAIL: Poly = Poly {
    f32: &[
        0.333339095,
        -0.250013381,
        0.199630633,
        -0.16577585,
        0.149147689,
        -0.142674863,
        0.0870043486,
    ],
    f64: &[
        0.666666666666667,
        0.3999999999989889,
        0.28571428626253836,
        0.22222211089379496,
        0.1818289243253687,
        0.15331611722055008,
        0.14617807153417325,
    ],
};

/// `ln(1 + f)` for `√½ ≤ 1 + f ≤ √2`.
fn log_reduced(f: X<'_>) -> X<'_> {
    log_from(f, f)
}

/// `ln(1 + f)`, where `√½ ≤ 1 + f ≤ √2`, as the sum of `first`, which is `f`, and the rest of its series.
fn log_from<'k>(first: X<'k>, f: X<'k>) -> X<'k> {
    match f.dtype() {
        DType::F64 => {
            let s = f / (f + 2.0);
            let z = s * s;
            let half_square = f * f * 0.5;
            first - (half_square - s * (half_square + z * LOG_TAIL.at(z)))
        }
        _ => LOG_TAIL.at_by_halves(f).fma(f, f.lit(-0.5)).fma(f * f, first),
    }
}

/// The exponent `e`, as a signed integer, for which `√½ ≤ x / 2^e < √2`; `x` is positive and normal.
fn exponent(x: X<'_>) -> X<'_> {
    let format = Format::of(x);
    let root = x.lit(std::f64::consts::FRAC_1_SQRT_2).bitcast(format.signed);
    (x.bitcast(format.signed) - root).shr(root.int(i128::from(format.fraction)))
}

/// The bits of what the logarithm is where it need not be computed: -∞ of zero, NaN of what is below, `x` itself at ∞ and NaN; 0 elsewhere. Choices between 0
/// and all bits are no instruction, others against 0 are one.
fn log_limit(x: X<'_>) -> X<'_> {
    let format = Format::of(x);
    let bits = x.bitcast(format.signed);
    let (zero, ones) = (bits.int(0), bits.int(-1));
    let above = x.lt(x.lit(f64::INFINITY)).select(zero, bits);
    let at_zero = x.eq(x.lit(0.0));
    let at_zero = at_zero.select(x.lit(f64::NEG_INFINITY).bitcast(format.signed), zero);
    let below = x.lt(x.lit(0.0)).select(ones, zero);
    above.or(at_zero).or(below)
}

/// Whether `x` is not a positive, normal, finite number. The bits of these follow each other, so that one comparison tells, once they begin at the least integer.
fn is_unusual(x: X<'_>) -> X<'_> {
    let format = Format::of(x);
    let bits_of = |value: f64| x.lit(value).bitcast(format.signed);
    let (infinity, least_normal) = (bits_of(f64::INFINITY), bits_of(format.least_normal()));
    let least = x.lit(-0.0).bitcast(format.signed);
    let from_least = x.bitcast(format.signed) + (least - least_normal);
    (infinity - least_normal + least - least.int(1)).lt(from_least)
}

/// `ln x` as `e·2^-fraction·ln 2 + ln m`, where `fraction` is the count of bits after the point: `e` and `ln m`. The limits are in `ln m`.
fn log_parts(x: X<'_>) -> (X<'_>, X<'_>) {
    let format = Format::of(x);
    let unusual = is_unusual(x).unlikely();
    // Denormals are made normal; what that adds to the exponent is taken off again.
    let places = format.fraction + 1;
    let lifted = unusual.select(x * 2f64.powi(places), x).bitcast(format.signed);
    let root = x.lit(std::f64::consts::FRAC_1_SQRT_2).bitcast(format.signed);
    let whole = (lifted - root).and(root.int(-1 << format.fraction));
    let f = (lifted - whole).bitcast(x.dtype()) - 1.0;
    let e = unusual.select(whole - root.int(i128::from(places) << format.fraction), whole);
    // Of zero and infinity f is 0, of NaN and what is negative it is a number: with the limit's bits it is the limit.
    let limited = f.bitcast(format.signed).or(log_limit(x)).bitcast(x.dtype());
    (e.cast(x.dtype()), log_from(unusual.select(limited, f), f))
}

fn log(x: X<'_>) -> X<'_> {
    let (e, log) = log_parts(x);
    e.fma(x.lit(std::f64::consts::LN_2 * Format::of(x).unit()), log)
}

fn log2(x: X<'_>) -> X<'_> {
    let (e, log) = log_parts(x);
    log.fma(x.lit(std::f64::consts::LOG2_E), e * Format::of(x).unit())
}

fn log10(x: X<'_>) -> X<'_> {
    let (e, log) = log_parts(x);
    // log10(2) in two parts, the second for what rounding the first left out.
    const LOW: Both = Both {
        f32: std::f64::consts::LOG10_2 - (std::f64::consts::LOG10_2 as f32) as f64,
        f64: -2.8037281277851704e-18,
    };
    let e = e * Format::of(x).unit();
    let rest = log.fma(x.lit(std::f64::consts::LOG10_E), e * LOW.of(x));
    e.fma(x.lit(std::f64::consts::LOG10_2), rest)
}

/// `ln(1 + x)`: the exponent is that of the rounded sum, the fraction `(1 + x)/2^e - 1` is taken from `x` itself, without rounding the
/// sum (after N. Juffa's `log1pf`).
pub(super) fn log1p(x: X<'_>) -> X<'_> {
    let limit = log_limit(x + 1.0).bitcast(x.dtype());
    unless_tiny(x, is_unusual(x + 1.0).unlikely().select(limit, log1p_inside(x)))
}

/// [`log1p`] for `-1 < x < ∞`, but for the sign of -0.
fn log1p_inside(x: X<'_>) -> X<'_> {
    let format = Format::of(x);
    let e = exponent(x + 1.0);
    let shift = format.to_exponent(e);
    let scaled = (x.bitcast(format.signed) - shift).bitcast(x.dtype());
    // Four times 2^-e, because 2^-e itself may be denormal.
    let unit = (x.lit(4.0).bitcast(format.signed) - shift).bitcast(x.dtype());
    let f = scaled + unit.fma(x.lit(0.25), x.lit(-1.0));
    e.cast(x.dtype()).fma(x.lit(std::f64::consts::LN_2), log_reduced(f))
}

/// `ln(1 + e^x)` as `max(x, 0) + ln(1 + e^-|x|)`, which does not overflow.
fn softplus(x: X<'_>) -> X<'_> {
    // The machine's maximum gives its second operand if either is NaN.
    x.lit(0.0).max(x) + log1p_inside(exp(-x.abs()))
}

/// `erf(x)/x - 1` in `x²`, for `|x| ≤ 1`.
const ERF_NEAR: Poly = Poly {
    f32: &[
        0.128379166,
        -0.37612626,
        0.112835944,
        -0.0268542115,
        0.00518908724,
        -0.00080168643,
        7.87587487e-05,
    ],
    f64: &[
        0.1283791670955126,
        -0.3761263890318375,
        0.11283791670954879,
        -0.026866170645076792,
        0.0052239776248180145,
        -0.000854832698083379,
        0.0001205533111164271,
        -1.4925595266831182e-05,
        1.6461000484121368e-06,
        -1.6350312701054695e-07,
        1.4659775274047436e-08,
        -1.1372848856791674e-09,
        5.957176147748911e-11,
    ],
};

/// For `1 ≤ x`: `erf(x)` in `x - 5/2`, up to 4; in `f64`, `e^(x²)·erfc(x)` in `(x - 2)/(x + 2)`, up to 6.
const ERF_FAR: Poly = Poly {
    f32: &[
        0.999593019,
        0.00217818026,
        -0.00544570247,
        0.00835182425,
        -0.00862251408,
        0.00610891636,
        -0.00279777893,
        0.000560654385,
        0.00025899912,
        -0.000270835997,
        8.09334233e-05,
        1.78376249e-05,
        -1.56674851e-05,
        4.87990064e-07,
        8.83796645e-07,
    ],
    f64: &[
        0.25539567631050575,
        -0.4271858474139585,
        0.24165819424246585,
        -0.07897858101570611,
        0.0037328924043978336,
        0.006997461736971578,
        -0.00084714325299195,
        -0.0009819769411038642,
        4.355558686575482e-05,
        0.00017435947400205157,
        2.7527175557227246e-05,
        -2.7562209161129353e-05,
        -1.3998283772784976e-05,
        1.3058577122278017e-06,
        4.011749647325067e-06,
        1.272567661840228e-06,
        -1.1352571477273627e-06,
    ],
};

fn erf(x: X<'_>) -> X<'_> {
    let magnitude = x.abs();
    let near = ERF_NEAR.at(x * x).fma(x, x);
    let far = match x.dtype() {
        DType::F64 => {
            let limited = x.lit(6.0).min(magnitude);
            let t = (limited - 2.0) / (limited + 2.0);
            let (k, r) = reduce(-(limited * limited));
            1.0 - exp_reduced(r) * power(k, x) * ERF_FAR.at(t)
        }
        _ => ERF_FAR.at(x.lit(4.0).min(magnitude) - 2.5),
    };
    magnitude.lt(x.lit(1.0)).select(near, copy_sign(far, x))
}

/// A number as an unrounded sum, the first term being the sum rounded.
#[derive(Clone, Copy)]
struct Sum<'k>(X<'k>, X<'k>);

/// The sum of two numbers without rounding, given that `|a| ≥ |b|` (Dekker, 1971).
fn sum<'k>(a: X<'k>, b: X<'k>) -> Sum<'k> {
    let total = a + b;
    Sum(total, b - (total - a))
}

/// The product of two numbers without rounding.
fn product<'k>(a: X<'k>, b: X<'k>) -> Sum<'k> {
    let total = a * b;
    Sum(total, a.fma(b, -total))
}

/// `(2·atanh(s) - 2s - ⅔s³) / s⁵` in `s²`, for `|s| ≤ 3 - 2√2`.
const POW_TAIL: Poly = Poly {
    f32: &[0.400000006, 0.285715312, 0.222047299, 0.191213295],
    f64: &[
        0.4,
        0.2857142857142937,
        0.22222222221652765,
        0.18181818336099848,
        0.1538459488700718,
        0.1333480879881234,
        0.11706126464563398,
        0.11724327060846747,
    ],
};

/// `x^y` by a logarithm of twice the precision: `ln x = e·ln 2 + 2·atanh(s)`, `s = (m - 1)/(m + 1)`.
fn pow<'k>(x: X<'k>, y: X<'k>) -> X<'k> {
    let format = Format::of(x);
    let base = x.abs();
    let lift = format.fraction + 1;
    let denormal = base.lt(x.lit(format.least_normal()));
    let lifted = denormal.select(base * 2f64.powi(lift), base);
    let e = exponent(lifted);
    let m = (lifted.bitcast(format.signed) - format.to_exponent(e)).bitcast(x.dtype());
    let e = e.cast(x.dtype()) + denormal.select(x.lit(-f64::from(lift)), x.lit(0.0));

    // s = (m - 1)/(m + 1) as a sum. m - 1 is exact; m + 1 is d + d_low.
    let (n, d) = (m - 1.0, m + 1.0);
    let d_low = m - (d - 1.0);
    let s = n / d;
    let s_low = (-s).fma(d_low, (-s).fma(d, n)) / d;

    // 2·atanh(s) = 2s + s³·(2/3 + s²·tail): the cube as a sum, times 2/3 as a sum.
    let Sum(z, z_rest) = product(s, s);
    let z_low = (s + s).fma(s_low, z_rest);
    let tail = POW_TAIL.at(z);
    const TWO_THIRDS_LOW: Both = Both {
        f32: 2.0 / 3.0 - (2.0f64 / 3.0) as f32 as f64,
        f64: 3.700743415417188e-17,
    };
    let two_thirds = x.lit(2.0 / 3.0);
    let Sum(t, t_rest) = product(tail, z);
    let Sum(p, p_rest) = sum(two_thirds, t);
    let p_low = p_rest + (tail.fma(z_low, t_rest) + TWO_THIRDS_LOW.of(x));
    let Sum(c, c_rest) = product(z, s);
    let c_low = z_low.fma(s, z.fma(s_low, c_rest));
    let Sum(w, w_rest) = product(c, p);
    let w_low = c.fma(p_low, c_low.fma(p, w_rest));
    let Sum(l, l_rest) = sum(s + s, w);
    let l_low = l_rest + ((s_low + s_low) + w_low);

    // ln x = e·ln 2 + that. Either e is 0, or the first term is the greater.
    let Sum(log, rest) = sum(e * LN_2_HIGH.of(x), l);
    let Sum(log, log_low) = sum(log, rest + e.fma(LN_2_LOW.of(x), l_low));

    // e^(y·ln x): what the product rounds off enters after the reduction.
    let huge = x.lit(match x.dtype() {
        DType::F64 => 1100.0,
        _ => 200.0,
    });
    let total = (-huge).max(huge.min(y * log));
    let low = total
        .abs()
        .lt(huge)
        .select(y.fma(log_low, y.fma(log, -total)), x.lit(0.0));
    let far = is_far(total);
    let (k, r) = reduce(far.select(limit_exponent(total), total));
    let value = exp_reduced(r);
    pow_limits(x, y, scale(value.fma(low, value), k, far))
}

/// Sign and special cases of C's `pow` (C17, F.10.4.4), given `|x|^y` where both are finite and `x` is not 0.
fn pow_limits<'k>(x: X<'k>, y: X<'k>, magnitude: X<'k>) -> X<'k> {
    let (base, one, zero, infinity) = (x.abs(), x.lit(1.0), x.lit(0.0), x.lit(f64::INFINITY));
    let endless = base.eq(infinity);
    let grows = endless.eq(zero.lt(y));
    let limit = grows.select(infinity, zero);
    let magnitude = endless.or(base.eq(zero)).select(limit, magnitude);
    let magnitude = base.eq(one).select(one, magnitude);

    let half = y * 0.5;
    let whole = y.trunc().eq(y);
    let odd = whole.and(half.trunc().eq(half).not());
    let signed = odd.select(copy_sign(magnitude, x), magnitude);
    let undefined = x.lt(zero).and(base.lt(infinity)).and(whole.not());
    let undefined = undefined.or(x.is_nan()).or(y.is_nan());
    let result = undefined.select(x.lit(f64::NAN), signed);
    y.eq(zero).or(x.eq(one)).select(one, result)
}

/// Defines a row of one float.
macro_rules! unary {
    ($(#[$doc:meta])* $row:ident, $name:literal, $text:literal, $eval:expr, $body:expr, $grad:expr, $domain:expr, $ulps:literal) => {
        $(#[$doc])*
        pub static $row: MapDef = MapDef {
            name: $name,
            doc: $text,
            arity: 1,
            types: Types::Float,
            eval: |x, _| Scalar::Float($eval(x[0].as_f64())),
            body: |x| $body(x[0]),
            grad: $grad,
            laws: &[],
            domain: &[$domain],
            ulps: $ulps,
        };
    };
}
pub(super) use unary;

unary!(
    /// `e^a`
    EXP, "exp", "e^a", f64::exp, exp, |v| vec![Some(v.seed * v.out)], (-20.0, 20.0), 2
);
unary!(
    /// `2^a`
    EXP2, "exp2", "2^a", f64::exp2, exp2, |v| vec![Some(v.seed * v.out * std::f64::consts::LN_2)], (-20.0, 20.0), 2
);
unary!(
    /// `e^a - 1`, accurate near 0.
    EXPM1, "expm1", "e^a - 1, accurate near 0", f64::exp_m1, expm1, |v| vec![Some(v.seed * (v.out + 1.0))], (-5.0, 5.0), 3
);
unary!(
    /// The natural logarithm.
    LOG, "log", "the natural logarithm of a", f64::ln, log, |v| vec![Some(v.seed / v.args[0])], (0.1, 20.0), 2
);
unary!(
    /// The logarithm to base 2.
    LOG2, "log2", "the logarithm of a to base 2", f64::log2, log2,
    |v| vec![Some(v.seed / (v.args[0] * std::f64::consts::LN_2))], (0.1, 20.0), 4
);
unary!(
    /// The logarithm to base 10.
    LOG10, "log10", "the logarithm of a to base 10", f64::log10, log10,
    |v| vec![Some(v.seed / (v.args[0] * std::f64::consts::LN_10))], (0.1, 20.0), 4
);
unary!(
    /// `ln(1 + a)`, accurate near 0.
    LOG1P, "log1p", "the natural logarithm of 1 + a, accurate near 0", f64::ln_1p, log1p,
    |v| vec![Some(v.seed / (v.args[0] + 1.0))], (-0.9, 20.0), 3
);
unary!(
    /// `1 / (1 + e^-a)`
    SIGMOID, "sigmoid", "1 / (1 + e^-a)",
    // e^x below: 1 + e^-x would overflow where the result is still a denormal.
    |x: f64| if x < 0.0 { x.exp() / (1.0 + x.exp()) } else { 1.0 / (1.0 + (-x).exp()) },
    sigmoid, |v| vec![Some(v.seed * (v.out * (1.0 - v.out)))], (-20.0, 20.0), 4
);
unary!(
    /// `ln(1 + e^a)`
    SOFTPLUS, "softplus", "ln(1 + e^a)",
    |x: f64| x.max(0.0) + if x.is_nan() { x } else { (-x.abs()).exp().ln_1p() },
    softplus, |v| vec![Some(v.seed * v.args[0].sigmoid())], (-20.0, 20.0), 4
);
unary!(
    /// The error function.
    ERF, "erf", "the error function, 2/√π · ∫ e^-t² dt from 0 to a", libm::erf, erf,
    |v| vec![Some(v.seed * (-(v.args[0] * v.args[0])).exp() * std::f64::consts::FRAC_2_SQRT_PI)], (-4.0, 4.0), 4
);

/// `a^b`
pub static POW: MapDef = MapDef {
    name: "pow",
    doc: "a^b; NaN for negative a unless b is whole",
    arity: 2,
    types: Types::Float,
    eval: |x, _| Scalar::Float(x[0].as_f64().powf(x[1].as_f64())),
    body: |x| pow(x[0], x[1]),
    grad: |v| {
        let (a, b) = (v.args[0], v.args[1]);
        // 0^b does not change with b > 0, although ln 0 is infinite.
        let log = a.eq(0.0).select(a.lit(0.0), a.log());
        vec![Some(v.seed * (b * a.pow(b - 1.0))), Some(v.seed * (v.out * log))]
    },
    laws: &[Law::RightIdentity(1.0)],
    domain: &[(0.1, 5.0), (-3.0, 3.0)],
    ulps: 4,
};
