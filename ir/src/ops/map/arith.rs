//! Arithmetic: add, sub, mul, div, neg …

use super::{Law, MapDef, Types};
use crate::dtype::Scalar;

/// The rows.
pub static TABLE: &[&MapDef] = &[&ADD, &SUB, &MUL, &DIV, &NEG];

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
    laws: &[Law::Commutative, Law::RightIdentity(0.0)],
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
