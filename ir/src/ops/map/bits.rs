//! Integers and booleans bit by bit.

use super::{Law, MapDef, Types};
use crate::dtype::{DType, Scalar};
use crate::kernel::build::X;

/// The rows.
pub static TABLE: &[&MapDef] = &[&AND, &OR, &XOR, &NOT, &SHL, &SHR, &POPCOUNT];

/// Defines a row that combines two values bit by bit.
macro_rules! bitwise {
    ($(#[$doc:meta])* $row:ident, $name:literal, $op:tt, $body:expr, $laws:expr) => {
        $(#[$doc])*
        pub static $row: MapDef = MapDef {
            name: $name,
            doc: concat!("a ", stringify!($op), " b, bit by bit"),
            arity: 2,
            types: Types::Bits,
            eval: |x, _| match *x {
                [Scalar::Bool(a), Scalar::Bool(b)] => Scalar::Bool(a $op b),
                _ => Scalar::Int(x[0].as_i128() $op x[1].as_i128()),
            },
            body: $body,
            grad: |_| vec![None, None],
            laws: $laws,
            domain: &[(-100.0, 100.0), (-100.0, 100.0)],
            ulps: 0,
        };
    };
}

bitwise!(
    /// `a & b`
    AND, "and", &, |x| x[0].and(x[1]), &[Law::Commutative, Law::RightZero(0.0)]
);
bitwise!(
    /// `a | b`
    OR, "or", |, |x| x[0].or(x[1]), &[Law::Commutative, Law::RightIdentity(0.0)]
);
bitwise!(
    /// `a ^ b`
    XOR, "xor", ^, |x| x[0].xor(x[1]), &[Law::Commutative, Law::RightIdentity(0.0)]
);

/// Every bit flipped.
pub static NOT: MapDef = MapDef {
    name: "not",
    doc: "a with every bit flipped",
    arity: 1,
    types: Types::Bits,
    eval: |x, _| match x[0] {
        Scalar::Bool(a) => Scalar::Bool(!a),
        a => Scalar::Int(!a.as_i128()),
    },
    body: |x| x[0].not(),
    grad: |_| vec![None],
    laws: &[Law::Involution],
    domain: &[(-100.0, 100.0)],
    ulps: 0,
};

/// The width of an integer type in bits.
fn width(dtype: DType) -> i128 {
    8 * dtype.size_bytes() as i128
}

/// `a << b`
pub static SHL: MapDef = MapDef {
    name: "shl",
    doc: "a << b; 0 if b is negative or not below the width",
    arity: 2,
    types: Types::Int,
    eval: |x, dtype| {
        let (a, b) = (x[0].as_i128(), x[1].as_i128());
        Scalar::Int(if (0..width(dtype)).contains(&b) { a << b } else { 0 })
    },
    body: |x| x[0].shl(x[1]),
    grad: |_| vec![None, None],
    laws: &[Law::RightIdentity(0.0)],
    domain: &[(-100.0, 100.0), (0.0, 8.0)],
    ulps: 0,
};

/// `a >> b`
pub static SHR: MapDef = MapDef {
    name: "shr",
    doc: "a >> b, keeping the sign; only the sign is left if b is negative or not below the width",
    arity: 2,
    types: Types::Int,
    eval: |x, dtype| {
        let (a, b) = (x[0].as_i128(), x[1].as_i128());
        Scalar::Int(if (0..width(dtype)).contains(&b) {
            a >> b
        } else {
            a >> 127
        })
    },
    body: |x| x[0].shr(x[1]),
    grad: |_| vec![None, None],
    laws: &[Law::RightIdentity(0.0)],
    domain: &[(-100.0, 100.0), (0.0, 8.0)],
    ulps: 0,
};

/// The number of bits set.
pub static POPCOUNT: MapDef = MapDef {
    name: "popcount",
    doc: "the number of bits set in a",
    arity: 1,
    types: Types::Int,
    eval: |x, dtype| Scalar::Int(i128::from(x[0].to_bits(dtype).count_ones())),
    body: |x| popcount(x[0]),
    grad: |_| vec![None],
    laws: &[],
    domain: &[(-100.0, 100.0)],
    ulps: 0,
};

/// Sums of neighbouring bits, then pairs, then nibbles, and the bytes by a product (Warren, "Hacker's Delight", 5-1).
fn popcount(x: X<'_>) -> X<'_> {
    let unsigned = match x.dtype().size_bytes() {
        1 => DType::U8,
        2 => DType::U16,
        4 => DType::U32,
        _ => DType::U64,
    };
    let bits = x.bitcast(unsigned);
    let every = |byte: i128| bits.int(byte * (i128::from(u64::MAX) / 255));
    let pairs = bits - bits.shr(bits.int(1)).and(every(0x55));
    let nibbles = pairs.and(every(0x33)) + pairs.shr(bits.int(2)).and(every(0x33));
    let bytes = (nibbles + nibbles.shr(bits.int(4))).and(every(0x0f));
    let sum = (bytes * every(1)).shr(bits.int(width(unsigned) - 8));
    sum.bitcast(x.dtype())
}
