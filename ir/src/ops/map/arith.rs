//! Arithmetic.

use super::poly::copy_sign;
use super::{Law, MapDef, Types};
use crate::autodiff::Vjp;
use crate::builder::Val;
use crate::dtype::{DType, Scalar};
use crate::kernel::Prim;
use crate::kernel::build::X;

/// The rows.
pub static TABLE: &[&MapDef] = &[
    &ADD, &SUB, &MUL, &DIV, &REM, &MOD, &NEG, &ABS, &SIGN, &SQRT, &MAX, &MIN, &FMA,
];

/// `a + b`
pub static ADD: MapDef = MapDef {
    name: "add",
    doc: "a + b",
    arity: 2,
    types: Types::Number,
    eval: |x, _| match *x {
        [Scalar::Float(a), Scalar::Float(b)] => Scalar::Float(a + b),
        _ => Scalar::Int(x[0].as_i128() + x[1].as_i128()),
    },
    body: |x| x[0] + x[1],
    grad: |v| vec![Some(v.seed), Some(v.seed)],
    // Not 0, because -0 + 0 is 0.
    laws: &[Law::Commutative, Law::RightIdentity(-0.0)],
    domain: &[(-10.0, 10.0), (-10.0, 10.0)],
    ulps: 0,
};

/// `a - b`
pub static SUB: MapDef = MapDef {
    name: "sub",
    doc: "a - b",
    arity: 2,
    types: Types::Number,
    eval: |x, _| match *x {
        [Scalar::Float(a), Scalar::Float(b)] => Scalar::Float(a - b),
        _ => Scalar::Int(x[0].as_i128() - x[1].as_i128()),
    },
    body: |x| x[0] - x[1],
    grad: |v| vec![Some(v.seed), Some(-v.seed)],
    laws: &[Law::RightIdentity(0.0)],
    domain: &[(-10.0, 10.0), (-10.0, 10.0)],
    ulps: 0,
};

/// `a * b`
pub static MUL: MapDef = MapDef {
    name: "mul",
    doc: "a * b",
    arity: 2,
    types: Types::Number,
    eval: |x, _| match *x {
        [Scalar::Float(a), Scalar::Float(b)] => Scalar::Float(a * b),
        _ => Scalar::Int(x[0].as_i128().wrapping_mul(x[1].as_i128())),
    },
    body: |x| x[0] * x[1],
    grad: |v| vec![Some(v.seed * v.args[1]), Some(v.seed * v.args[0])],
    laws: &[Law::Commutative, Law::RightIdentity(1.0)],
    domain: &[(-10.0, 10.0), (-10.0, 10.0)],
    ulps: 0,
};

/// `a / b`
pub static DIV: MapDef = MapDef {
    name: "div",
    doc: "a / b; integers truncate towards zero, and division by zero gives 0",
    arity: 2,
    types: Types::Number,
    eval: |x, _| match *x {
        [Scalar::Float(a), Scalar::Float(b)] => Scalar::Float(a / b),
        _ => Scalar::Int(x[0].as_i128().checked_div(x[1].as_i128()).unwrap_or(0)),
    },
    body: |x| x[0] / x[1],
    grad: |v| vec![Some(v.seed / v.args[1]), Some(-(v.seed * v.out) / v.args[1])],
    laws: &[Law::RightIdentity(1.0)],
    domain: &[(-10.0, 10.0), (0.5, 10.0)],
    ulps: 0,
};

/// `-a`
pub static NEG: MapDef = MapDef {
    name: "neg",
    doc: "-a",
    arity: 1,
    types: Types::Signed,
    eval: |x, _| match x[0] {
        Scalar::Float(a) => Scalar::Float(-a),
        a => Scalar::Int(-a.as_i128()),
    },
    body: |x| -x[0],
    grad: |v| vec![Some(-v.seed)],
    laws: &[Law::Involution],
    domain: &[(-10.0, 10.0)],
    ulps: 0,
};

/// The remainder of truncated division.
pub static REM: MapDef = MapDef {
    name: "rem",
    doc: "a - b·trunc(a / b), with the sign of a, as C's fmod; exact while |a / b| is below 2^23 (f64: 2^52); integers by zero give 0",
    arity: 2,
    types: Types::Number,
    eval: |x, _| match *x {
        [Scalar::Float(a), Scalar::Float(b)] => Scalar::Float(a % b),
        _ => Scalar::Int(x[0].as_i128().checked_rem(x[1].as_i128()).unwrap_or(0)),
    },
    body: |x| rem(x[0], x[1]),
    grad: |v| {
        let quotient = (v.args[0] / v.args[1]).trunc();
        vec![Some(v.seed), Some(-(v.seed * quotient))]
    },
    laws: &[],
    domain: &[(-10.0, 10.0), (0.5, 10.0)],
    ulps: 0,
};

fn rem<'k>(a: X<'k>, b: X<'k>) -> X<'k> {
    if a.dtype().is_int() {
        return a.rem(b);
    }
    let zero = a.lit(0.0);
    let (dividend, divisor) = (a.abs(), b.abs());
    let quotient = (dividend / divisor).trunc();
    let rest = (-quotient).fma(divisor, dividend);
    // The rounded quotient may have reached the next whole number.
    let rest = rest.lt(zero).select(rest + divisor, rest);
    // A finite number is its own remainder by infinity, where the products above are NaN.
    let whole = dividend.lt(divisor).select(dividend, rest);
    copy_sign(whole, a)
}

/// The remainder of floored division.
pub static MOD: MapDef = MapDef {
    name: "mod",
    doc: "a - b·floor(a / b), with the sign of b, as Python's %; exact where `rem` is; integers by zero give 0",
    arity: 2,
    types: Types::Number,
    eval: |x, _| match *x {
        [Scalar::Float(a), Scalar::Float(b)] => {
            let rest = a % b;
            Scalar::Float(match rest == 0.0 {
                true => 0f64.copysign(b),
                false if (rest < 0.0) != (b < 0.0) => rest + b,
                false => rest,
            })
        }
        _ => {
            let (a, b) = (x[0].as_i128(), x[1].as_i128());
            let rest = a.checked_rem(b).unwrap_or(0);
            Scalar::Int(if rest != 0 && (rest < 0) != (b < 0) {
                rest + b
            } else {
                rest
            })
        }
    },
    body: |x| {
        let (rest, b) = (rem(x[0], x[1]), x[1]);
        let zero = rest.int(0);
        let apart = rest.lt(zero).xor(b.lt(zero));
        let moved = apart.select(rest + b, rest);
        let none = if b.dtype().is_int() { zero } else { copy_sign(zero, b) };
        rest.eq(zero).select(none, moved)
    },
    grad: |v| {
        let quotient = (v.args[0] / v.args[1]).floor();
        vec![Some(v.seed), Some(-(v.seed * quotient))]
    },
    laws: &[],
    domain: &[(-10.0, 10.0), (0.5, 10.0)],
    ulps: 1,
};

/// `|a|`
pub static ABS: MapDef = MapDef {
    name: "abs",
    doc: "a without its sign",
    arity: 1,
    types: Types::Signed,
    eval: |x, _| match x[0] {
        Scalar::Float(a) => Scalar::Float(a.abs()),
        a => Scalar::Int(a.as_i128().abs()),
    },
    body: |x| x[0].abs(),
    grad: |v| vec![Some(v.seed * v.args[0].sign())],
    laws: &[Law::Idempotent],
    domain: &[(-10.0, 10.0)],
    ulps: 0,
};

/// `-1`, `0` or `1`
pub static SIGN: MapDef = MapDef {
    name: "sign",
    doc: "-1 below 0, 1 above; zeros and NaN give themselves",
    arity: 1,
    types: Types::Signed,
    eval: |x, _| match x[0] {
        Scalar::Float(a) if a == 0.0 || a.is_nan() => Scalar::Float(a),
        Scalar::Float(a) => Scalar::Float(a.signum()),
        a => Scalar::Int(a.as_i128().signum()),
    },
    body: |x| {
        let (x, zero) = (x[0], x[0].int(0));
        zero.lt(x).select(x.int(1), x.lt(zero).select(x.int(-1), x))
    },
    // Flat on both sides of the step.
    grad: |_| vec![None],
    laws: &[Law::Idempotent],
    domain: &[(-10.0, 10.0)],
    ulps: 0,
};

/// The square root.
pub static SQRT: MapDef = MapDef {
    name: "sqrt",
    doc: "the square root of a",
    arity: 1,
    types: Types::Float,
    eval: |x, _| Scalar::Float(x[0].as_f64().sqrt()),
    body: |x| x[0].sqrt(),
    grad: |v| vec![Some(v.seed * 0.5 / v.out)],
    laws: &[],
    domain: &[(0.1, 10.0)],
    ulps: 0,
};

/// Of two values one, by the machine's comparison `prim`; NaN if either is NaN.
fn choose<'k>(prim: Prim, a: X<'k>, b: X<'k>) -> X<'k> {
    let dtype = a.dtype();
    // The machine gives its second operand if either is NaN, so a constant goes first, and otherwise a NaN `a` is kept by hand.
    match (dtype.is_float(), a.as_const(), b.as_const()) {
        (false, ..) => a.prim(prim, dtype, &[b]),
        (true, Some(c), _) if !c.as_f64().is_nan() => a.prim(prim, dtype, &[b]),
        (true, _, Some(c)) if !c.as_f64().is_nan() => b.prim(prim, dtype, &[a]),
        _ => a.eq(a).select(a.prim(prim, dtype, &[b]), a),
    }
}

/// The greater of two.
pub static MAX: MapDef = MapDef {
    name: "max",
    doc: "the greater of a and b, NaN if either is; of 0 and -0 either",
    arity: 2,
    types: Types::Number,
    eval: |x, _| match *x {
        [Scalar::Float(a), Scalar::Float(b)] => Scalar::Float(if a.is_nan() || a > b { a } else { b }),
        _ => Scalar::Int(x[0].as_i128().max(x[1].as_i128())),
    },
    body: |x| choose(Prim::Max, x[0], x[1]),
    // A tie is b's, so that max(a, 0) is flat at 0. The result is greater than b where a is, and a need not be kept for that.
    grad: |v| share(v, v.out.gt(v.args[1])),
    laws: &[Law::RightIdentity(f64::NEG_INFINITY)],
    domain: &[(-10.0, 10.0), (-10.0, 10.0)],
    ulps: 0,
};

/// The smaller of two.
pub static MIN: MapDef = MapDef {
    name: "min",
    doc: "the smaller of a and b, NaN if either is; of 0 and -0 either",
    arity: 2,
    types: Types::Number,
    eval: |x, _| match *x {
        [Scalar::Float(a), Scalar::Float(b)] => Scalar::Float(if a.is_nan() || a < b { a } else { b }),
        _ => Scalar::Int(x[0].as_i128().min(x[1].as_i128())),
    },
    body: |x| choose(Prim::Min, x[0], x[1]),
    grad: |v| share(v, v.out.lt(v.args[1])),
    laws: &[Law::RightIdentity(f64::INFINITY)],
    domain: &[(-10.0, 10.0), (-10.0, 10.0)],
    ulps: 0,
};

/// The gradient goes to the first operand where `first` holds, otherwise to the second.
fn share<'g>(v: &Vjp<'_, 'g>, first: Val<'g>) -> Vec<Option<Val<'g>>> {
    let zero = v.seed.lit(0.0);
    vec![Some(first.select(v.seed, zero)), Some(first.select(zero, v.seed))]
}

/// `a·b + c`
pub static FMA: MapDef = MapDef {
    name: "fma",
    doc: "a·b + c, rounded once",
    arity: 3,
    types: Types::Float,
    eval: |x, dtype| {
        let (a, b, c) = (x[0].as_f64(), x[1].as_f64(), x[2].as_f64());
        Scalar::Float(match dtype {
            DType::F64 => libm::fma(a, b, c),
            _ => f64::from(libm::fmaf(a as f32, b as f32, c as f32)),
        })
    },
    body: |x| x[0].fma(x[1], x[2]),
    grad: |v| vec![Some(v.seed * v.args[1]), Some(v.seed * v.args[0]), Some(v.seed)],
    laws: &[],
    domain: &[(-10.0, 10.0), (-10.0, 10.0), (-10.0, 10.0)],
    ulps: 0,
};
