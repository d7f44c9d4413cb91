//! Elementwise functions: a table of rows, each with everything that is known about the function.
//!
//! Operands and result have one shape; broadcasting is explicit in the graph (the builder inserts it). A new function is a
//! new row in one of the files below and nothing else: text form, gradient, oracle, kernels and tests all read the row.

pub mod arith;
pub mod bits;
pub mod compare;
pub mod convert;
pub mod exponential;
pub mod methods;
pub(crate) mod poly;
pub mod round;
#[cfg(test)]
mod tests;
pub mod trig;

use std::hash::{Hash, Hasher};

use crate::autodiff::Vjp;
use crate::builder::Val;
use crate::dtype::{DType, Scalar};
use crate::kernel::ExprId;
use crate::kernel::build::{KernelCx, X};
use crate::ops::{Attr, Rules};
use crate::tensor::{Tensor, Type};

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
    /// The exact function, from the definition: operands as the node's types hold them, the type of the first, and the
    /// result before rounding to the node's type.
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

/// An equation that holds for a row, for passes to use: bit for bit, for NaN, infinities and both zeros too (a NaN counts as any
/// other). Where a type does not hold the constant, it says nothing; integers hold -0 as 0.
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

/// The op of that name, if it is a row of the table.
pub fn parse(name: &str, _attrs: &crate::ops::Attrs) -> Option<Result<crate::ops::Op, String>> {
    Map::named(name).map(|map| Ok(crate::ops::Op::Map(map)))
}

impl Types {
    /// The type of the result for operands of these types, or what does not fit.
    pub(crate) fn result(self, args: &[DType]) -> Result<DType, String> {
        let first = args[0];
        let uniform = match self {
            Types::Select => &args[1..],
            _ => args,
        };
        if let Some(other) = uniform.iter().find(|&&dtype| dtype != uniform[0]) {
            return Err(format!(
                "operands have types {} and {other}; convert one with `to_{other}` or `to_{}`",
                uniform[0], uniform[0]
            ));
        }
        let (fits, takes, result) = match self {
            Types::Number => (first != DType::Bool, "a number", first),
            Types::Float => (first.is_float(), "a float", first),
            Types::Signed => (first.is_signed(), "a float or signed integer", first),
            Types::Int => (first.is_int(), "an integer", first),
            Types::Bits => (!first.is_float(), "an integer or bool", first),
            Types::Logic => (first == DType::Bool, "bool", first),
            Types::Compare => (true, "anything", DType::Bool),
            Types::Test => (first.is_float(), "a float", DType::Bool),
            Types::Select => (first == DType::Bool, "bool first", uniform[0]),
            Types::To(to) => (true, "anything", to),
            Types::BitsTo(to) => {
                let (from, to_size) = (first.size_bytes(), to.size_bytes());
                // A `bool` in memory is 0 or 1 and nothing else, so arbitrary bits must not become one.
                let fits = from == to_size && (to != DType::Bool || first == DType::Bool);
                if !fits {
                    return Err(format!(
                        "the bits of {first} are {from} bytes, those of {to} are {to_size}"
                    ));
                }
                (true, "the same size", to)
            }
        };
        match fits {
            true => Ok(result),
            false => Err(format!("takes {takes}, found {first}")),
        }
    }
}

impl MapDef {
    /// The body for operands in a kernel: `f16` and `bf16` are computed in `f32`, and the result converted to `dtype`.
    pub fn apply<'k>(&self, args: &[X<'k>], dtype: DType) -> X<'k> {
        // Conversions and choices move halves as they are.
        if matches!(self.types, Types::To(_) | Types::BitsTo(_) | Types::Select) {
            return (self.body)(args);
        }
        let widen = |x: &X<'k>| match x.dtype() {
            DType::F16 | DType::BF16 => x.cast(DType::F32),
            _ => *x,
        };
        let args: Vec<X<'k>> = args.iter().map(widen).collect();
        (self.body)(&args).cast(dtype)
    }
}

impl Rules for Map {
    fn name(&self) -> &'static str {
        self.0.name
    }

    fn attrs(&self) -> Vec<(&'static str, Attr)> {
        Vec::new()
    }

    fn infer(&self, args: &[&Type]) -> Result<Vec<Type>, String> {
        if args.len() != self.0.arity {
            return Err(format!("takes {} operands, found {}", self.0.arity, args.len()));
        }
        let first = args[0];
        for other in &args[1..] {
            if (&other.shape, &other.layout) != (&first.shape, &first.layout) {
                return Err(format!(
                    "operands must have one shape and layout, found {first} and {other}; broadcast them first"
                ));
            }
        }
        let dtypes: Vec<DType> = args.iter().map(|ty| ty.dtype).collect();
        let dtype = self.0.types.result(&dtypes)?;
        Ok(vec![Type { dtype, ..first.clone() }])
    }

    fn eval(&self, args: &[&Tensor]) -> Vec<Tensor> {
        let dtypes: Vec<DType> = args.iter().map(|arg| arg.dtype()).collect();
        let dtype = self
            .0
            .types
            .result(&dtypes)
            .expect("operands that fit, as the graph was inferred");
        let elements = (0..args[0].count()).map(|position| {
            let operands: Vec<Scalar> = args.iter().map(|arg| arg.get(position)).collect();
            (self.0.eval)(&operands, dtypes[0]).round(dtype)
        });
        vec![Tensor::from_scalars(dtype, args[0].shape(), elements)]
    }

    fn grad<'g>(&self, vjp: &Vjp<'_, 'g>) -> Vec<Option<Val<'g>>> {
        (self.0.grad)(vjp)
    }

    fn kernel(&self, cx: &mut KernelCx<'_>) -> Option<ExprId> {
        let index = cx.index().to_vec();
        let args: Vec<ExprId> = (0..cx.arg_count()).map(|arg| cx.arg(arg, index.clone())).collect();
        let args: Vec<X<'_>> = args.into_iter().map(|arg| cx.x(arg)).collect();
        Some(self.0.apply(&args, cx.out_type().dtype).id())
    }
}
