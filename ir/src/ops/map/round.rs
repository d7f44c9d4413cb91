//! Rounding to whole numbers.

use super::{Law, MapDef, Types};
use crate::dtype::Scalar;

/// The rows.
pub static TABLE: &[&MapDef] = &[&FLOOR, &CEIL, &ROUND, &TRUNC];

/// Defines a row that rounds to a whole number.
macro_rules! rounding {
    ($(#[$doc:meta])* $row:ident, $name:literal, $text:literal, $eval:expr, $body:expr) => {
        $(#[$doc])*
        pub static $row: MapDef = MapDef {
            name: $name,
            doc: $text,
            arity: 1,
            types: Types::Float,
            eval: |x, _| Scalar::Float($eval(x[0].as_f64())),
            body: |x| $body(x[0]),
            // Flat between the steps, which have no gradient.
            grad: |_| vec![None],
            laws: &[Law::Idempotent],
            domain: &[(-10.0, 10.0)],
            ulps: 0,
        };
    };
}

rounding!(
    /// The greatest whole number not above.
    FLOOR, "floor", "the greatest whole number not above a", f64::floor, crate::kernel::build::X::floor
);
rounding!(
    /// The least whole number not below.
    CEIL, "ceil", "the least whole number not below a", f64::ceil, crate::kernel::build::X::ceil
);
rounding!(
    /// The nearest whole number, halves to even.
    ROUND, "round", "the nearest whole number, halves to even", f64::round_ties_even, crate::kernel::build::X::nearest
);
rounding!(
    /// Without what stands after the point.
    TRUNC, "trunc", "a without its fraction", f64::trunc, crate::kernel::build::X::trunc
);
