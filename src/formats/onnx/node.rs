//! What an operator's row sees of its node: operands, attributes, and values known while importing.

use std::sync::Arc;

use netloom_ir::{Builder, DType, Tensor, Val};

use super::import::{Importer, Scope};
use super::proto::{AttributeProto, GraphProto, NodeProto};
use super::tensors;

/// What a row gives: the node's results in order, or why there are none.
pub type Done<'g> = Result<Vec<Val<'g>>, String>;

/// A node at its row.
pub struct Cx<'a, 'g> {
    /// What is built into.
    pub b: &'g Builder,
    /// The version of the operator's set.
    pub opset: i64,
    pub(super) node: &'a NodeProto,
    pub(super) args: Vec<Option<Val<'g>>>,
    pub(super) importer: &'a Importer<'a, 'g>,
    pub(super) scope: &'a Scope<'a, 'g>,
}

impl<'g> Cx<'_, 'g> {
    /// An operand that must be there.
    pub fn arg(&self, place: usize) -> Result<Val<'g>, String> {
        self.optional(place)
            .ok_or_else(|| format!("operand {place} is missing"))
    }

    /// An operand that may be left out.
    pub fn optional(&self, place: usize) -> Option<Val<'g>> {
        self.args.get(place).copied().flatten()
    }

    /// All operands, none of them left out; at least one.
    pub fn all(&self) -> Result<Vec<Val<'g>>, String> {
        if self.args.is_empty() {
            return Err("it has no operands".to_owned());
        }
        (0..self.args.len()).map(|place| self.arg(place)).collect()
    }

    /// The number of operands, those left out included.
    pub fn operand_count(&self) -> usize {
        self.args.len()
    }

    /// The value of that name around the node.
    pub fn value(&self, name: &str) -> Option<Val<'g>> {
        self.scope.get(name)
    }

    /// The number of results that the node names.
    pub fn result_count(&self) -> usize {
        self.node.output.len()
    }

    /// Whether the node names this result.
    pub fn wants(&self, result: usize) -> bool {
        self.node.output.get(result).is_some_and(|name| !name.is_empty())
    }

    /// The elements of a value.
    pub fn known(&self, val: Val<'g>, what: &str) -> Result<Arc<Tensor>, String> {
        self.importer
            .known(val)
            .map_err(|reason| format!("its {what} must be known: {reason}"))
    }

    /// The whole numbers of an operand, if it is there.
    pub fn known_ints(&self, place: usize, what: &str) -> Result<Option<Vec<i64>>, String> {
        self.optional(place)
            .map(|val| {
                let tensor = self.known(val, what)?;
                Ok(tensor.scalars().map(|x| x.as_i128() as i64).collect())
            })
            .transpose()
    }

    /// The single number of an operand, if it is there.
    pub fn known_number(&self, place: usize, what: &str) -> Result<Option<f64>, String> {
        self.optional(place)
            .map(|val| {
                let tensor = self.known(val, what)?;
                match tensor.count() {
                    1 => Ok(tensor.get(0).as_f64()),
                    _ => Err(format!("its {what} must be one number, found {}", tensor.ty())),
                }
            })
            .transpose()
    }

    fn attribute(&self, name: &str) -> Option<&AttributeProto> {
        self.node.attribute.iter().find(|attribute| attribute.name() == name)
    }

    /// Whether the attribute is given.
    pub fn has(&self, name: &str) -> bool {
        self.attribute(name).is_some()
    }

    /// A whole number.
    pub fn int(&self, name: &str, default: i64) -> i64 {
        self.attribute(name).map_or(default, |attribute| attribute.i())
    }

    /// A choice written as 0 or 1.
    pub fn flag(&self, name: &str, default: bool) -> bool {
        self.int(name, default.into()) != 0
    }

    /// A number.
    pub fn float(&self, name: &str, default: f64) -> f64 {
        self.attribute(name)
            .map_or(default, |attribute| f64::from(attribute.f()))
    }

    /// A word.
    pub fn text(&self, name: &str, default: &str) -> String {
        let found = self.attribute(name).map(|attribute| attribute.s());
        found.map_or_else(
            || default.to_owned(),
            |bytes| String::from_utf8_lossy(bytes).into_owned(),
        )
    }

    /// Words.
    pub fn texts(&self, name: &str) -> Option<Vec<String>> {
        let found = self.attribute(name)?;
        let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
        Some(found.strings.iter().map(text).collect())
    }

    /// Whole numbers.
    pub fn ints(&self, name: &str) -> Option<Vec<i64>> {
        self.attribute(name).map(|attribute| attribute.ints.clone())
    }

    /// Whole numbers from 0.
    pub fn sizes(&self, name: &str) -> Result<Option<Vec<usize>>, String> {
        let ints = self.ints(name);
        let sizes = ints.map(|ints| tensors::extents(&ints)).transpose();
        sizes.map_err(|reason| format!("`{name}`: {reason}"))
    }

    /// Numbers.
    pub fn floats(&self, name: &str) -> Option<Vec<f64>> {
        let found = self.attribute(name)?;
        Some(found.floats.iter().map(|&x| f64::from(x)).collect())
    }

    /// A tensor.
    pub fn tensor(&self, name: &str) -> Result<Option<Tensor>, String> {
        let found = self.attribute(name).and_then(|attribute| attribute.t.as_ref());
        let tensor = found.map(|proto| tensors::tensor(proto, self.importer.binding.folder));
        tensor.transpose().map_err(|reason| format!("`{name}`: {reason}"))
    }

    /// A body.
    pub fn graph(&self, name: &str) -> Result<&GraphProto, String> {
        let found = self.attribute(name).and_then(|attribute| attribute.g.as_ref());
        found.ok_or_else(|| format!("the body `{name}` is missing"))
    }

    /// The results of a body on these values.
    pub fn body(&self, graph: &GraphProto, args: &[Val<'g>]) -> Done<'g> {
        self.importer.body(graph, self.scope, args)
    }

    /// An element type given by number.
    pub fn dtype(&self, name: &str, default: DType) -> Result<DType, String> {
        match self.has(name) {
            true => tensors::dtype(self.int(name, 0) as i32),
            false => Ok(default),
        }
    }

    /// An axis given by number, from the end if negative.
    pub fn axis(&self, name: &str, default: i64, rank: usize) -> Result<usize, String> {
        axis(self.int(name, default), rank)
    }

    /// Refuses an attribute that is not as expected.
    pub fn expect(&self, holds: bool, what: &str) -> Result<(), String> {
        if holds {
            Ok(())
        } else {
            Err(format!("{what} is not supported"))
        }
    }
}

/// An axis of so many, counted from the end if negative.
pub fn axis(axis: i64, rank: usize) -> Result<usize, String> {
    let from_start = if axis < 0 { axis + rank as i64 } else { axis };
    let found = usize::try_from(from_start).ok().filter(|&axis| axis < rank);
    found.ok_or_else(|| format!("there is no axis {axis} among {rank}"))
}

/// Axes, ascending and distinct.
pub fn axes(given: &[i64], rank: usize) -> Result<Vec<usize>, String> {
    let mut axes = given
        .iter()
        .map(|&one| axis(one, rank))
        .collect::<Result<Vec<_>, _>>()?;
    axes.sort_unstable();
    match axes.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(format!("the axis {} is given twice", pair[0])),
        None => Ok(axes),
    }
}
