//! The scalar primitives that every kernel is made of: the whole instruction set that an emitter must spell.

use crate::dtype::{DType, Scalar};

/// One scalar primitive. The result type stands beside it in [`Expr::Prim`](super::Expr::Prim); operands have that
/// type too unless the line says otherwise. Integers wrap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Prim {
    /// `a + b`
    Add,
    /// `a - b`
    Sub,
    /// `a * b`
    Mul,
    /// `a / b`; integers truncate towards zero, and division by zero gives 0.
    Div,
    /// The remainder of `Div`, with the sign of `a`; integers only; by zero it gives 0.
    Rem,
    /// `a * b + c` with one rounding; floats only.
    Fma,
    /// `a > b ? a : b`, hence `b` if either is NaN (the machine's `maxps`).
    Max,
    /// `a < b ? a : b`, hence `b` if either is NaN.
    Min,
    /// Square root; floats only.
    Sqrt,
    /// `-a`; flips the sign bit of a float.
    Neg,
    /// `|a|`; clears the sign bit of a float.
    Abs,
    /// Rounds down; floats only.
    Floor,
    /// Rounds up; floats only.
    Ceil,
    /// Rounds towards zero; floats only.
    Trunc,
    /// Rounds to nearest, ties to even; floats only.
    Nearest,
    /// `a == b`, a `bool`; operands of one type.
    Eq,
    /// `a < b`, a `bool`; operands of one type; false on NaN.
    Lt,
    /// `a <= b`, a `bool`; operands of one type; false on NaN.
    Le,
    /// Bitwise and; integers and `bool`.
    And,
    /// Bitwise or; integers and `bool`.
    Or,
    /// Bitwise exclusive or; integers and `bool`.
    Xor,
    /// `a << b`, 0 if `b` is not below the width; integers.
    Shl,
    /// `a >> b`, arithmetic for signed types; `b` not below the width acts as width - 1 (signed) or gives 0.
    Shr,
    /// The high 32 bits of the 64-bit product; `u32` only (Philox).
    MulHi,
    /// `a ? b : c`, where `a` is a `bool`.
    Select,
    /// `a`, a `bool` that holds for few elements: code may pass over what is chosen only where it holds.
    Unlikely,
    /// Converts `a`, of any type, as [`Scalar::cast`] does.
    Cast,
    /// The bits of `a`, of another type of the same size.
    Bitcast,
}

impl Prim {
    /// Every primitive, in order.
    pub const ALL: [Prim; 28] = {
        use Prim::*;
        [
            Add, Sub, Mul, Div, Rem, Fma, Max, Min, Sqrt, Neg, Abs, Floor, Ceil, Trunc, Nearest, Eq, Lt, Le, And, Or,
            Xor, Shl, Shr, MulHi, Select, Unlikely, Cast, Bitcast,
        ]
    };

    /// The name in the text form.
    pub fn name(self) -> &'static str {
        match self {
            Prim::Add => "add",
            Prim::Sub => "sub",
            Prim::Mul => "mul",
            Prim::Div => "div",
            Prim::Rem => "rem",
            Prim::Fma => "fma",
            Prim::Max => "max",
            Prim::Min => "min",
            Prim::Sqrt => "sqrt",
            Prim::Neg => "neg",
            Prim::Abs => "abs",
            Prim::Floor => "floor",
            Prim::Ceil => "ceil",
            Prim::Trunc => "trunc",
            Prim::Nearest => "nearest",
            Prim::Eq => "eq",
            Prim::Lt => "lt",
            Prim::Le => "le",
            Prim::And => "and",
            Prim::Or => "or",
            Prim::Xor => "xor",
            Prim::Shl => "shl",
            Prim::Shr => "shr",
            Prim::MulHi => "mulhi",
            Prim::Select => "select",
            Prim::Unlikely => "unlikely",
            Prim::Cast => "cast",
            Prim::Bitcast => "bitcast",
        }
    }

    /// The number of operands.
    pub fn arity(self) -> usize {
        match self {
            Prim::Fma | Prim::Select => 3,
            Prim::Sqrt
            | Prim::Neg
            | Prim::Abs
            | Prim::Floor
            | Prim::Ceil
            | Prim::Trunc
            | Prim::Nearest
            | Prim::Unlikely
            | Prim::Cast
            | Prim::Bitcast => 1,
            _ => 2,
        }
    }

    /// The type of the result for operands of these types, converted `to` a type or not; nothing if the primitive does not take them.
    pub fn infer(self, to: Option<DType>, args: &[DType]) -> Option<DType> {
        use DType::{Bool, U32};
        let first = *args.first()?;
        let same = args.iter().all(|&dtype| dtype == first);
        let is_int = same && first.is_int();
        let is_number = same && first != Bool;
        let (takes, result) = match self {
            Prim::Add | Prim::Sub | Prim::Mul | Prim::Div | Prim::Neg | Prim::Abs => (is_number, first),
            Prim::Max | Prim::Min => (same, first),
            Prim::Rem | Prim::Shl | Prim::Shr => (is_int, first),
            Prim::Fma | Prim::Sqrt | Prim::Floor | Prim::Ceil | Prim::Trunc | Prim::Nearest => {
                (same && first.is_float(), first)
            }
            Prim::Eq | Prim::Lt | Prim::Le => (same, Bool),
            Prim::And | Prim::Or | Prim::Xor => (is_int || same && first == Bool, first),
            Prim::MulHi => (same && first == U32, first),
            Prim::Select => (first == Bool && args.get(1) == args.get(2), *args.get(1)?),
            Prim::Unlikely => (first == Bool, Bool),
            Prim::Cast => (true, to?),
            Prim::Bitcast => (first.size_bytes() == to?.size_bytes(), to?),
        };
        (takes && args.len() == self.arity()).then_some(result)
    }

    /// The value, exactly as machines compute it: `dtype` is the result's type, `from` that of the first operand.
    ///
    /// Floats are rounded to `dtype` after the exact operation (`F16` and `BF16` compute in `F32` first).
    pub fn eval(self, dtype: DType, from: DType, args: &[Scalar]) -> Scalar {
        let float = |value: f64| Scalar::Float(value).round(dtype);
        let int = |value: i128| Scalar::Int(value).round(dtype);
        match (self, args) {
            (Prim::Select, &[condition, yes, no]) => {
                if condition.is_nonzero() {
                    yes
                } else {
                    no
                }
            }
            (Prim::Unlikely, &[a]) => a,
            (Prim::Cast, &[a]) => a.cast(dtype),
            (Prim::Bitcast, &[a]) => Scalar::from_bits(a.to_bits(from), dtype),
            (Prim::Fma, &[Scalar::Float(a), Scalar::Float(b), Scalar::Float(c)]) => match dtype {
                DType::F64 => Scalar::Float(libm::fma(a, b, c)),
                _ => Scalar::Float(f64::from(libm::fmaf(a as f32, b as f32, c as f32))).round(dtype),
            },
            (_, &[Scalar::Float(a)]) => float(match self {
                Prim::Sqrt => a.sqrt(),
                Prim::Neg => -a,
                Prim::Abs => a.abs(),
                Prim::Floor => a.floor(),
                Prim::Ceil => a.ceil(),
                Prim::Trunc => a.trunc(),
                Prim::Nearest => a.round_ties_even(),
                _ => unreachable!("`{}` of one float", self.name()),
            }),
            (_, &[Scalar::Float(a), Scalar::Float(b)]) => match self {
                Prim::Eq => Scalar::Bool(a == b),
                Prim::Lt => Scalar::Bool(a < b),
                Prim::Le => Scalar::Bool(a <= b),
                Prim::Add => float(a + b),
                Prim::Sub => float(a - b),
                Prim::Mul => float(a * b),
                Prim::Div => float(a / b),
                Prim::Max => float(if a > b { a } else { b }),
                Prim::Min => float(if a < b { a } else { b }),
                _ => unreachable!("`{}` of two floats", self.name()),
            },
            (_, &[Scalar::Int(a)]) => int(match self {
                Prim::Neg => -a,
                Prim::Abs => a.abs(),
                _ => unreachable!("`{}` of one integer", self.name()),
            }),
            (_, &[Scalar::Int(a), Scalar::Int(b)]) => match self {
                Prim::Eq => Scalar::Bool(a == b),
                Prim::Lt => Scalar::Bool(a < b),
                Prim::Le => Scalar::Bool(a <= b),
                Prim::Add => int(a + b),
                Prim::Sub => int(a - b),
                // Two `u64` can overflow; the low 128 bits of the product hold the low 64.
                Prim::Mul => int(a.wrapping_mul(b)),
                Prim::Div => int(if b == 0 { 0 } else { a / b }),
                Prim::Rem => int(if b == 0 { 0 } else { a % b }),
                Prim::Max => int(a.max(b)),
                Prim::Min => int(a.min(b)),
                Prim::And => int(a & b),
                Prim::Or => int(a | b),
                Prim::Xor => int(a ^ b),
                Prim::Shl => int(if (0..8 * dtype.size_bytes() as i128).contains(&b) {
                    a << b
                } else {
                    0
                }),
                Prim::Shr => {
                    let width = 8 * dtype.size_bytes() as i128;
                    match ((0..width).contains(&b), dtype.is_signed()) {
                        (true, _) => int(a >> b),
                        (false, true) => int(a >> (width - 1)),
                        (false, false) => Scalar::Int(0),
                    }
                }
                Prim::MulHi => int((a * b) >> 32),
                _ => unreachable!("`{}` of two integers", self.name()),
            },
            (_, &[Scalar::Bool(a), Scalar::Bool(b)]) => Scalar::Bool(match self {
                Prim::Eq => a == b,
                Prim::Lt => !a & b,
                Prim::Le => !a | b,
                Prim::And => a & b,
                Prim::Or => a | b,
                Prim::Xor => a ^ b,
                Prim::Max => a | b,
                Prim::Min => a & b,
                _ => unreachable!("`{}` of two booleans", self.name()),
            }),
            _ => unreachable!("`{}` of {args:?}", self.name()),
        }
    }
}
