//! Constant folding: ops on constants become constants.

use std::borrow::Cow;

use super::{push_splat, splat};
use crate::graph::{Graph, Node, NodeId};
use crate::layout::Layout;
use crate::ops::{Op, Rules, View};
use crate::target::Target;
use crate::tensor::Tensor;

/// Constants of more elements are left to the program's `prepare` entry, which runs compiled.
const MAX_ELEMENTS: usize = 4096;
/// The most products that are summed here.
const MAX_PRODUCTS: usize = 1 << 16;

/// Replaces small ops whose operands are all constants by their value, from the op's definition. A constant with one value everywhere
/// becomes a broadcast of a scalar, which costs nothing.
pub fn fold_constants(graph: &Graph, _target: &Target) -> Graph {
    graph.rebuild(|to, node, args| {
        if let Op::Const(tensor) = &node.op {
            return match uniform(tensor) {
                Some(scalar) => push_splat(to, scalar.into(), tensor.shape()),
                None => to.push(node.op.clone(), args),
            };
        }
        let value = value(&to.graph, node, args);
        match value {
            Some(value) => match uniform(&value) {
                Some(scalar) => push_splat(to, scalar.into(), value.shape()),
                None => to.push(Op::Const(value.into()), &[]),
            },
            None => to.push(node.op.clone(), args),
        }
    })
}

/// The value of a node of the new graph, if it is to be folded.
fn value(graph: &Graph, node: &Node, args: &[NodeId]) -> Option<Tensor> {
    let is_dense_and_small =
        node.types.len() == 1 && node.ty().layout == Layout::Dense && node.ty().count() <= MAX_ELEMENTS;
    if args.is_empty() || !is_dense_and_small || !may_fold(graph, node, args) {
        return None;
    }
    let values: Vec<Cow<'_, Tensor>> = args.iter().map(|&arg| constant(graph, arg)).collect::<Option<_>>()?;
    let values: Vec<&Tensor> = values.iter().map(AsRef::as_ref).collect();
    node.op.rules().eval(&values).pop()
}

/// The value of a node, if it is a small constant or a small broadcast of a scalar.
fn constant(graph: &Graph, id: NodeId) -> Option<Cow<'_, Tensor>> {
    let node = graph.node(id);
    match &node.op {
        Op::Const(tensor) if tensor.count() <= MAX_ELEMENTS => Some(Cow::Borrowed(tensor)),
        Op::View(view @ View::Broadcast(_)) if node.ty().count() <= MAX_ELEMENTS => {
            let scalar = splat(graph, id)?;
            view.eval(&[scalar]).pop().map(Cow::Owned)
        }
        _ => None,
    }
}

fn may_fold(graph: &Graph, node: &Node, args: &[NodeId]) -> bool {
    match &node.op {
        // A broadcast scalar is the cheapest form already.
        Op::View(View::Broadcast(_)) => !matches!(graph.ty(args[0]).shape.as_slice(), []),
        Op::Map(_) | Op::Fold(_) | Op::Prefix(_) | Op::View(_) | Op::Pool(_) => true,
        Op::Gather(_) | Op::Scatter(_) | Op::Sort(_) | Op::Random(_) => true,
        Op::Einsum(_) | Op::Conv(_) => {
            let counts = args.iter().map(|&arg| graph.ty(arg).count());
            counts.fold(1, usize::saturating_mul) <= MAX_PRODUCTS
        }
        // Bodies may run for any time.
        Op::Scan(_) | Op::If(_) | Op::While(_) | Op::Part(_) => false,
        Op::Input(_) | Op::Const(_) | Op::Iota(_) => false,
    }
}

/// The one value of a constant with several equal elements.
fn uniform(tensor: &Tensor) -> Option<Tensor> {
    let size = tensor.dtype().size_bytes();
    if tensor.shape().is_empty() || tensor.count() == 0 {
        return None;
    }
    let first = &tensor.bytes()[..size];
    let is_uniform = tensor.bytes().chunks(size).all(|element| element == first);
    is_uniform.then(|| Tensor::from_bytes(tensor.dtype(), [], first.to_vec()))
}
