//! The operations: a few structural classes, each in its own file with everything that is known about it.
//!
//! Passes match on [`Op`]; everything else goes through [`Rules`]. Elementwise functions are rows of the table in [`map`].
//! What can be written with these is a function over the builder in [`composite`], not an op.

pub mod composite;
pub mod compound;
pub mod conv;
pub mod einsum;
pub mod fold;
pub mod gather;
pub mod map;
pub mod pool;
pub mod random;
pub mod sort;
pub mod source;
pub mod view;

use std::sync::Arc;

pub use compound::{Branch, Loop, Scan};
pub use conv::Conv;
pub use einsum::Einsum;
pub use fold::{Fold, Prefix};
pub use gather::{Gather, Scatter};
pub use map::{Map, MapDef};
pub use pool::Pool;
pub use random::Random;
pub use sort::Sort;
pub use source::{Input, Iota};
pub use view::View;

use crate::autodiff::Vjp;
use crate::builder::Val;
use crate::dtype::DType;
use crate::kernel::ExprId;
use crate::kernel::build::KernelCx;
use crate::tensor::{Tensor, Type};

/// What a node does: a structural class with its attributes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// A value given at run time, by name: an argument or a state.
    Input(Input),
    /// A constant tensor.
    Const(Arc<Tensor>),
    /// `0, 1, 2, …` along one axis.
    Iota(Iota),
    /// An elementwise function of operands of one shape.
    Map(Map),
    /// A reduction over axes, which vanish.
    Fold(Fold),
    /// A cumulative reduction along an axis.
    Prefix(Prefix),
    /// The same elements at other places: reshape, permute, broadcast, slice, pad, flip, concat, windows.
    View(View),
    /// A product of two tensors summed over shared axes.
    Einsum(Einsum),
    /// An N-dimensional convolution.
    Conv(Conv),
    /// A reduction over sliding windows.
    Pool(Pool),
    /// Slices chosen by an index tensor.
    Gather(Gather),
    /// The transpose of gather: updates combined into slices chosen by an index tensor.
    Scatter(Scatter),
    /// Random bits from a counter.
    Random(Random),
    /// The order that sorts an axis.
    Sort(Sort),
    /// A loop with a fixed number of steps over slices of its operands.
    Scan(Scan),
    /// One of two bodies.
    If(Branch),
    /// A loop while a condition holds.
    While(Loop),
    /// One result of a node that has several.
    Part(usize),
}

impl Op {
    /// The rules of this op's class.
    pub fn rules(&self) -> &dyn Rules {
        match self {
            Op::Input(op) => op,
            Op::Const(op) => op,
            Op::Iota(op) => op,
            Op::Map(op) => op,
            Op::Fold(op) => op,
            Op::Prefix(op) => op,
            Op::View(op) => op,
            Op::Einsum(op) => op,
            Op::Conv(op) => op,
            Op::Pool(op) => op,
            Op::Gather(op) => op,
            Op::Scatter(op) => op,
            Op::Random(op) => op,
            Op::Sort(op) => op,
            Op::Scan(op) => op,
            Op::If(op) => op,
            Op::While(op) => op,
            Op::Part(op) => op,
        }
    }

    /// The name in the text form.
    pub fn name(&self) -> &'static str {
        self.rules().name()
    }
}

/// All that is known about a class of ops, answered by each class in its own file. There are no default methods, so that a
/// new class must answer every question.
pub trait Rules {
    /// The name in the text form, e.g. `einsum`; it may depend on the attributes (`add`, `reshape`).
    fn name(&self) -> &'static str;

    /// The attributes in the text form, in order; [`crate::text`] prints them after the name and parses them back.
    fn attrs(&self) -> Vec<(&'static str, Attr)>;

    /// The types of the results.
    ///
    /// # Errors
    /// What does not fit, as a sentence without the op's name: "axis `k` is 64 on the left and 32 on the right".
    fn infer(&self, args: &[&Type]) -> Result<Vec<Type>, String>;

    /// The results, from the definition, in exact scalars rounded to the node's type: obvious loops, never fast ones.
    fn eval(&self, args: &[&Tensor]) -> Vec<Tensor>;

    /// For each operand, its share of the gradient as graph, given the gradient of the results; `None` where there is none
    /// (integers, indices, shapes).
    fn grad<'g>(&self, vjp: &Vjp<'_, 'g>) -> Vec<Option<Val<'g>>>;

    /// The value of the result at the index `cx.index()`, as a kernel expression; `None` for ops that are kernels of their own
    /// form (prefix, scatter, sort) or of several kernels (scan, if, while).
    fn kernel(&self, cx: &mut KernelCx<'_>) -> Option<ExprId>;
}

/// An attribute's value in the text form.
#[derive(Clone, Debug, PartialEq)]
pub enum Attr {
    /// A whole number.
    Int(i64),
    /// A list of whole numbers, `[1,2]`.
    Ints(Vec<i64>),
    /// `true` or `false`.
    Bool(bool),
    /// A string in quotes.
    Text(String),
    /// A word without quotes, such as `max`.
    Word(&'static str),
    /// An element type.
    DType(DType),
    /// A type.
    Type(Type),
    /// A constant's elements.
    Tensor(Arc<Tensor>),
    /// A body.
    Graph(Arc<crate::graph::Graph>),
}
