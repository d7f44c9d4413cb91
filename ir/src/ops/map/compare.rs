//! Comparisons, tests and the choice between two values.

use super::{Law, MapDef, Types};
use crate::dtype::Scalar;
use crate::kernel::build::X;

/// The rows.
pub static TABLE: &[&MapDef] = &[&EQ, &NE, &LT, &LE, &GT, &GE, &IS_NAN, &IS_INF, &IS_FINITE, &SELECT];

/// Defines a row that compares two values of any type; a comparison with NaN is false, but for `ne`.
macro_rules! comparison {
    ($(#[$doc:meta])* $row:ident, $name:literal, $text:literal, $op:tt, $body:expr, $laws:expr) => {
        $(#[$doc])*
        pub static $row: MapDef = MapDef {
            name: $name,
            doc: $text,
            arity: 2,
            types: Types::Compare,
            eval: |x, _| {
                Scalar::Bool(match *x {
                    [Scalar::Int(a), Scalar::Int(b)] => a $op b,
                    [Scalar::Bool(a), Scalar::Bool(b)] => a $op b,
                    _ => x[0].as_f64() $op x[1].as_f64(),
                })
            },
            body: $body,
            grad: |_| vec![None, None],
            laws: $laws,
            domain: &[(-2.0, 2.0), (-2.0, 2.0)],
            ulps: 0,
        };
    };
}

comparison!(
    /// `a == b`
    EQ, "eq", "a == b", ==, |x| x[0].eq(x[1]), &[Law::Commutative]
);
comparison!(
    /// `a != b`
    NE, "ne", "a != b; true if either is NaN", !=, |x| x[0].eq(x[1]).not(), &[Law::Commutative]
);
comparison!(
    /// `a < b`
    LT, "lt", "a < b", <, |x| x[0].lt(x[1]), &[]
);
comparison!(
    /// `a <= b`
    LE, "le", "a <= b", <=, |x| x[0].le(x[1]), &[]
);
comparison!(
    /// `a > b`
    GT, "gt", "a > b", >, |x| x[1].lt(x[0]), &[]
);
comparison!(
    /// `a >= b`
    GE, "ge", "a >= b", >=, |x| x[1].le(x[0]), &[]
);

/// Defines a row that asks something about a float.
macro_rules! test {
    ($(#[$doc:meta])* $row:ident, $name:literal, $text:literal, $eval:expr, $body:expr) => {
        $(#[$doc])*
        pub static $row: MapDef = MapDef {
            name: $name,
            doc: $text,
            arity: 1,
            types: Types::Test,
            eval: |x, _| Scalar::Bool($eval(x[0].as_f64())),
            body: $body,
            grad: |_| vec![None],
            laws: &[],
            domain: &[(-2.0, 2.0)],
            ulps: 0,
        };
    };
}

fn infinity(x: X<'_>) -> X<'_> {
    x.lit(f64::INFINITY)
}

test!(
    /// Whether a float is NaN.
    IS_NAN, "is_nan", "whether a is NaN", f64::is_nan, |x| x[0].is_nan()
);
test!(
    /// Whether a float is an infinity.
    IS_INF, "is_inf", "whether a is an infinity", f64::is_infinite, |x| x[0].abs().eq(infinity(x[0]))
);
test!(
    /// Whether a float is neither NaN nor an infinity.
    IS_FINITE, "is_finite", "whether a is neither NaN nor an infinity", f64::is_finite,
    |x| x[0].abs().lt(infinity(x[0]))
);

/// `a ? b : c`
pub static SELECT: MapDef = MapDef {
    name: "select",
    doc: "b where a is true, otherwise c",
    arity: 3,
    types: Types::Select,
    eval: |x, _| if x[0].is_nonzero() { x[1] } else { x[2] },
    body: |x| x[0].select(x[1], x[2]),
    grad: |v| {
        let zero = v.seed.lit(0.0);
        vec![
            None,
            Some(v.args[0].select(v.seed, zero)),
            Some(v.args[0].select(zero, v.seed)),
        ]
    },
    laws: &[],
    domain: &[(0.0, 1.0), (-2.0, 2.0), (-2.0, 2.0)],
    ulps: 0,
};
