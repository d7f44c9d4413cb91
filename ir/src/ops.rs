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

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;

pub use compound::{Branch, Loop, Scan};
pub use conv::{Conv, ConvTranspose};
pub use einsum::Einsum;
pub use fold::{Fold, Prefix};
pub use gather::{Gather, Scatter};
pub use map::{Map, MapDef};
pub use pool::{Pool, Window};
pub use random::Random;
pub use sort::Sort;
pub use source::{Input, Iota};
pub use view::View;

use crate::autodiff::Vjp;
use crate::builder::Val;
use crate::dtype::DType;
use crate::graph::Graph;
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

/// The op of that name with these attributes: the inverse of [`Rules::name`] and [`Rules::attrs`].
///
/// # Errors
/// No class has an op of that name, an attribute is missing, of another kind, unknown, or given twice; what is wrong, as a
/// sentence without the op's name.
pub fn parse(name: &str, attrs: &Attrs) -> Result<Op, String> {
    /// A class's answer; `None` if the name is not one of its.
    type Parse = fn(&str, &Attrs) -> Option<Result<Op, String>>;
    let classes: [Parse; 11] = [
        map::parse,
        view::parse,
        fold::parse,
        einsum::parse,
        conv::parse,
        pool::parse,
        gather::parse,
        source::parse,
        random::parse,
        sort::parse,
        compound::parse,
    ];
    let found = classes.iter().find_map(|class| class(name, attrs));
    let op = found.ok_or_else(|| "there is no op of this name".to_owned())??;
    attrs.check_all_asked()?;
    Ok(op)
}

/// The types of exactly `N` operands, for [`Rules::infer`].
pub(crate) fn operands<'a, const N: usize>(args: &[&'a Type]) -> Result<[&'a Type; N], String> {
    let plural = if N == 1 { "" } else { "s" };
    <[&Type; N]>::try_from(args).map_err(|_| format!("takes {N} operand{plural}, found {}", args.len()))
}

/// Whether `ty` has that axis.
pub(crate) fn check_axis(ty: &Type, axis: usize) -> Result<(), String> {
    if axis < ty.rank() {
        return Ok(());
    }
    let plural = if ty.rank() == 1 { "axis" } else { "axes" };
    Err(format!(
        "there is no axis {axis} in {ty}, which has {} {plural}",
        ty.rank()
    ))
}

/// Whether `ty` has those axes, and they are ascending and distinct, so that equal ops are written alike.
pub(crate) fn check_axes(ty: &Type, axes: &[usize]) -> Result<(), String> {
    axes.iter().try_for_each(|&axis| check_axis(ty, axis))?;
    match axes.is_sorted_by(|a, b| a < b) {
        true => Ok(()),
        false => Err(format!(
            "axes must be ascending and distinct, found {}",
            Attr::sizes(axes)
        )),
    }
}

/// Whether the attribute `name` has one value for each of `count` axes.
pub(crate) fn check_len(name: &str, values: &[usize], count: usize) -> Result<(), String> {
    match values.len() == count {
        true => Ok(()),
        false => Err(format!(
            "`{name}` must have {count} values, one an axis, found {}",
            Attr::sizes(values)
        )),
    }
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
    Word(String),
    /// An element type.
    DType(DType),
    /// A type.
    Type(Type),
    /// A constant's elements.
    Tensor(Arc<Tensor>),
    /// A body.
    Graph(Arc<Graph>),
}

impl Attr {
    /// A whole number that is not negative.
    pub fn size(value: usize) -> Attr {
        Attr::Int(value as i64)
    }

    /// A list of whole numbers that are not negative.
    pub fn sizes(values: &[usize]) -> Attr {
        Attr::Ints(values.iter().map(|&value| value as i64).collect())
    }
}

/// As error messages show it: short values as the text form writes them, tensors and bodies by what they are.
impl fmt::Display for Attr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Attr::Int(value) => write!(f, "{value}"),
            Attr::Ints(values) => {
                let values: Vec<String> = values.iter().map(i64::to_string).collect();
                write!(f, "[{}]", values.join(","))
            }
            Attr::Bool(value) => write!(f, "{value}"),
            Attr::Text(value) => write!(f, "{value:?}"),
            Attr::Word(value) => f.write_str(value),
            Attr::DType(value) => write!(f, "{value}"),
            Attr::Type(value) => write!(f, "{value}"),
            Attr::Tensor(value) => write!(f, "a constant {}", value.ty()),
            Attr::Graph(_) => f.write_str("a body"),
        }
    }
}

/// The attributes that the text form gives to one op, in order, with getters that say what is wrong.
///
/// The empty name is that of the one attribute an op may have without a name, e.g. the shape in `broadcast [8,16] %1`.
/// Every getter marks its attribute as asked for; what no getter asked for is unknown, and [`parse`] refuses it.
#[derive(Clone, Debug, Default)]
pub struct Attrs {
    given: Vec<Given>,
}

#[derive(Clone, Debug)]
struct Given {
    name: String,
    value: Attr,
    asked: Cell<bool>,
}

impl<N: Into<String>> FromIterator<(N, Attr)> for Attrs {
    fn from_iter<I: IntoIterator<Item = (N, Attr)>>(attrs: I) -> Attrs {
        let given = attrs.into_iter().map(|(name, value)| Given {
            name: name.into(),
            value,
            asked: Cell::new(false),
        });
        Attrs { given: given.collect() }
    }
}

impl Attrs {
    /// The value of that name, if given.
    pub fn get(&self, name: &str) -> Option<&Attr> {
        let given = self.given.iter().find(|given| given.name == name)?;
        given.asked.set(true);
        Some(&given.value)
    }

    /// A whole number.
    ///
    /// # Errors
    /// As every getter: it is missing, or something else.
    pub fn int(&self, name: &str) -> Result<i64, String> {
        self.take(name, "a whole number", |value| match value {
            Attr::Int(value) => Some(*value),
            _ => None,
        })
    }

    /// A whole number that is not negative.
    ///
    /// # Errors
    /// It is missing, or something else.
    pub fn size(&self, name: &str) -> Result<usize, String> {
        self.take(name, "a whole number from 0", |value| match value {
            Attr::Int(value) => usize::try_from(*value).ok(),
            _ => None,
        })
    }

    /// A list of whole numbers.
    ///
    /// # Errors
    /// It is missing, or something else.
    pub fn ints(&self, name: &str) -> Result<Vec<i64>, String> {
        self.take(name, "a list of whole numbers", |value| match value {
            Attr::Ints(values) => Some(values.clone()),
            _ => None,
        })
    }

    /// A list of whole numbers that are not negative.
    ///
    /// # Errors
    /// It is missing, or something else.
    pub fn sizes(&self, name: &str) -> Result<Vec<usize>, String> {
        self.take(name, "a list of whole numbers from 0", |value| match value {
            Attr::Ints(values) => values.iter().map(|&value| usize::try_from(value).ok()).collect(),
            _ => None,
        })
    }

    /// A choice that is `false` when not given.
    ///
    /// # Errors
    /// It is something else.
    pub fn flag(&self, name: &str) -> Result<bool, String> {
        if self.get(name).is_none() {
            return Ok(false);
        }
        self.take(name, "`true` or `false`", |value| match value {
            Attr::Bool(value) => Some(*value),
            _ => None,
        })
    }

    /// A string.
    ///
    /// # Errors
    /// It is missing, or something else.
    pub fn text(&self, name: &str) -> Result<String, String> {
        self.take(name, "a string in quotes", |value| match value {
            Attr::Text(value) => Some(value.clone()),
            _ => None,
        })
    }

    /// A word.
    ///
    /// # Errors
    /// It is missing, or something else.
    pub fn word(&self, name: &str) -> Result<String, String> {
        self.take(name, "a word", |value| match value {
            Attr::Word(value) => Some(value.clone()),
            _ => None,
        })
    }

    /// An element type.
    ///
    /// # Errors
    /// It is missing, or something else.
    pub fn dtype(&self, name: &str) -> Result<DType, String> {
        self.take(name, "an element type such as f32", |value| match value {
            Attr::DType(value) => Some(*value),
            _ => None,
        })
    }

    /// A type.
    ///
    /// # Errors
    /// It is missing, or something else.
    pub fn ty(&self, name: &str) -> Result<Type, String> {
        self.take(name, "a type such as f32[8,64]", |value| match value {
            Attr::Type(value) => Some(value.clone()),
            _ => None,
        })
    }

    /// A constant.
    ///
    /// # Errors
    /// It is missing, or something else.
    pub fn tensor(&self, name: &str) -> Result<Arc<Tensor>, String> {
        self.take(name, "a constant", |value| match value {
            Attr::Tensor(value) => Some(value.clone()),
            _ => None,
        })
    }

    /// A body.
    ///
    /// # Errors
    /// It is missing, or something else.
    pub fn graph(&self, name: &str) -> Result<Arc<Graph>, String> {
        self.take(name, "a body", |value| match value {
            Attr::Graph(value) => Some(value.clone()),
            _ => None,
        })
    }

    fn take<T>(&self, name: &str, wanted: &str, pick: impl Fn(&Attr) -> Option<T>) -> Result<T, String> {
        let shown = show_name(name);
        let value = self
            .get(name)
            .ok_or_else(|| format!("{shown} is missing: it is {wanted}"))?;
        pick(value).ok_or_else(|| format!("{shown} must be {wanted}, found {value}"))
    }

    fn check_all_asked(&self) -> Result<(), String> {
        let Some(place) = self.given.iter().position(|given| !given.asked.get()) else {
            return Ok(());
        };
        let name = &self.given[place].name;
        let before = self.given[..place].iter().any(|given| given.name == *name);
        let wrong = if before {
            "is given twice"
        } else {
            "is not one that this op has"
        };
        Err(format!("{} {wrong}", show_name(name)))
    }
}

fn show_name(name: &str) -> String {
    match name {
        "" => "the attribute without a name".to_owned(),
        _ => format!("attribute `{name}`"),
    }
}

/// What is wrong with an op of operands of these types, for tests.
#[cfg(test)]
pub(crate) fn infer_error(op: &Op, args: &[&Type]) -> String {
    match op.rules().infer(args) {
        Ok(types) => panic!("`{}` accepts these operands and gives {types:?}", op.name()),
        Err(message) => message,
    }
}

/// Asserts that an op's name and attributes say all about it, for tests.
#[cfg(test)]
pub(crate) fn assert_round_trip(op: Op) {
    let attrs = op.rules().attrs().into_iter().collect();
    assert_eq!(parse(op.name(), &attrs).as_ref(), Ok(&op));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn getters_say_what_is_wrong() {
        let attrs: Attrs = [("axis", Attr::Ints(vec![1, 2])), ("step", Attr::Int(-1))]
            .into_iter()
            .collect();
        let expected = "attribute `axis` must be a whole number, found [1,2]";
        assert_eq!(attrs.int("axis"), Err(expected.to_owned()));
        assert_eq!(attrs.sizes("axis"), Ok(vec![1, 2]));
        let expected = "attribute `step` must be a whole number from 0, found -1";
        assert_eq!(attrs.size("step"), Err(expected.to_owned()));
        let expected = "attribute `with` is missing: it is a word";
        assert_eq!(attrs.word("with"), Err(expected.to_owned()));
        let expected = "the attribute without a name is missing: it is a list of whole numbers from 0";
        assert_eq!(attrs.sizes(""), Err(expected.to_owned()));
        assert_eq!(attrs.flag("exclusive"), Ok(false));
    }

    #[test]
    fn attributes_that_nobody_asked_for_are_refused() {
        let axes = || ("axes", Attr::Ints(vec![0]));
        let parsed = |attrs: Vec<(&str, Attr)>| parse("sum", &attrs.into_iter().collect()).map(|_| ());
        assert_eq!(parsed(vec![axes()]), Ok(()));
        let expected = "attribute `axes` is given twice";
        assert_eq!(parsed(vec![axes(), axes()]), Err(expected.to_owned()));
        let expected = "attribute `keep` is not one that this op has";
        assert_eq!(
            parsed(vec![axes(), ("keep", Attr::Bool(true))]),
            Err(expected.to_owned())
        );
    }
}
