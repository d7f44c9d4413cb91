//! Elementwise functions: a table of rows, each with everything that is known about the function.
//!
//! Operands and result have one shape; broadcasting is explicit in the graph (the builder inserts it). A new function is a
//! new row in one of the files below and nothing else: text form, gradient, oracle, kernels and tests all read the row.

pub mod arith;
pub mod bits;
pub mod compare;
pub mod convert;
pub mod exponential;
pub mod round;
pub mod trig;

use std::hash::{Hash, Hasher};

use crate::autodiff::Vjp;
use crate::builder::Val;
use crate::dtype::{DType, Scalar};
use crate::kernel::build::X;

/// Every elementwise function, grouped by file.
pub static TABLE: &[&[&MapDef]] = &[
    arith::TABLE,
    bits::TABLE,
    compare::TABLE,
    convert::TABLE,
    exponential::TABLE,
    round::TABLE,
    trig::TABLE,
];

/// A row of the table: one elementwise function.
pub struct MapDef {
    /// The name in the text form.
    pub name: &'static str,
    /// What it computes, in one line.
    pub doc: &'static str,
    /// The number of operands.
    pub arity: usize,
    /// The element types it takes and gives.
    pub types: Types,
    /// The exact function, from the definition: operands as the node's types hold them, the result before rounding.
    pub eval: fn(&[Scalar], DType) -> Scalar,
    /// The function over primitives, for the machine; the operands' type tells the precision wanted.
    pub body: for<'k> fn(&[X<'k>]) -> X<'k>,
    /// The gradient with respect to each operand, as graph; `None` where there is none.
    pub grad: for<'g> fn(&Vjp<'_, 'g>) -> Vec<Option<Val<'g>>>,
    /// Equations that passes may use.
    pub laws: &'static [Law],
    /// For each operand, the range of values at which tests sample it.
    pub domain: &'static [(f64, f64)],
    /// How closely `body` in f32 follows `eval`, in units in the last place, over the whole domain.
    pub ulps: u32,
}

/// The element types of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Types {
    /// Any number, operands and result alike.
    Number,
    /// A float, operands and result alike.
    Float,
    /// A float or signed integer, operands and result alike.
    Signed,
    /// An integer, operands and result alike.
    Int,
    /// An integer or `bool`, operands and result alike.
    Bits,
    /// Booleans only.
    Logic,
    /// Operands of one type, any; the result is a `bool`.
    Compare,
    /// A float; the result is a `bool`.
    Test,
    /// A `bool`, then two operands of one type, any, which is the result's.
    Select,
    /// Any operand; the result is of this type.
    To(DType),
    /// An operand of any type of the same size; the result is of this type.
    BitsTo(DType),
}

/// An equation that holds for a row, for passes to use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Law {
    /// `f(a, b) = f(b, a)`
    Commutative,
    /// `f(a, c) = a` for this constant.
    RightIdentity(f64),
    /// `f(a, c) = c` for this constant, NaN and infinities included.
    RightZero(f64),
    /// `f(f(a)) = a`
    Involution,
    /// `f(f(a)) = f(a)`
    Idempotent,
}

/// An elementwise op: a row of the table.
#[derive(Clone, Copy)]
pub struct Map(pub &'static MapDef);

impl Map {
    /// The row of that name.
    pub fn named(name: &str) -> Option<Map> {
        TABLE
            .iter()
            .copied()
            .flatten()
            .copied()
            .find(|def| def.name == name)
            .map(Map)
    }
}

impl PartialEq for Map {
    fn eq(&self, other: &Map) -> bool {
        self.0.name == other.0.name
    }
}

impl Eq for Map {}

impl Hash for Map {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.name.hash(state);
    }
}

impl std::fmt::Debug for Map {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.name)
    }
}

impl crate::ops::Rules for Map {
    fn name(&self) -> &'static str {
        todo!()
    }

    fn attrs(&self) -> Vec<(&'static str, crate::ops::Attr)> {
        todo!()
    }

    fn infer(&self, _args: &[&crate::tensor::Type]) -> Result<Vec<crate::tensor::Type>, String> {
        todo!()
    }

    fn eval(&self, _args: &[&crate::tensor::Tensor]) -> Vec<crate::tensor::Tensor> {
        todo!()
    }

    fn grad<'g>(&self, _vjp: &crate::autodiff::Vjp<'_, 'g>) -> Vec<Option<crate::builder::Val<'g>>> {
        todo!()
    }

    fn kernel(&self, _cx: &mut crate::kernel::build::KernelCx<'_>) -> Option<crate::kernel::ExprId> {
        todo!()
    }
}
