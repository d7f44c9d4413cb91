//! Moving views to where they cost nothing, or where they meet another and vanish.
//!
//! A broadcast moves towards the results, so that ops run before the elements multiply; a permute moves towards the inputs or into
//! an einsum, which reads and writes its axes in any order. Views of views become one, and views that do nothing vanish.

use super::{push_splat, splat};
use crate::graph::{Graph, Node, NodeId, Rebuild};
use crate::kernel::Combine;
use crate::layout::Layout;
use crate::ops::{Einsum, Fold, Map, Op, View};
use crate::target::Target;

/// Moves, merges and drops views.
pub fn move_views(graph: &Graph, _target: &Target) -> Graph {
    let (live, mut use_counts) = (graph.live(), vec![0_u32; graph.len()]);
    for (_, node) in graph.nodes().filter(|(id, _)| live[id.at()]) {
        for arg in &node.args {
            use_counts[arg.at()] += 1;
        }
    }
    for (_, id) in &graph.outputs {
        use_counts[id.at()] += 1;
    }
    graph.rebuild(|to, node, args| {
        // A layout is chosen for a tensor as it stands; what has one is not moved.
        let is_dense = node.types.iter().all(|ty| ty.layout == Layout::Dense)
            && args
                .iter()
                .all(|&arg| to.graph.node(arg).types.iter().all(|ty| ty.layout == Layout::Dense));
        if !is_dense {
            return to.push(node.op.clone(), args);
        }
        let is_last_use = |operand: usize| use_counts[node.args[operand].at()] == 1;
        let moved = match &node.op {
            Op::View(view) => match args {
                [arg] => return push_view(to, view, *arg, is_last_use(0)),
                _ => None,
            },
            Op::Map(map) => {
                broadcast_of_map(to, *map, node, args).or_else(|| join_of_maps(to, *map, args, is_last_use))
            }
            Op::Fold(fold) => fold_of_view(to, fold, args[0]),
            Op::Einsum(einsum) => Some(einsum_of_views(to, einsum, args)),
            Op::Input(_) | Op::Const(_) | Op::Iota(_) | Op::Prefix(_) | Op::Conv(_) | Op::Pool(_) => None,
            Op::Gather(_) | Op::Scatter(_) | Op::Random(_) | Op::Sort(_) => None,
            Op::Scan(_) | Op::If(_) | Op::While(_) | Op::Part(_) => None,
        };
        moved.unwrap_or_else(|| to.push(node.op.clone(), args))
    })
}

/// A view of a node, merged with what it meets there. `is_last_use`: nothing else uses the node.
fn push_view(to: &mut Rebuild, view: &View, arg: NodeId, is_last_use: bool) -> NodeId {
    let shape = to.graph.ty(arg).shape.clone();
    if is_noop(view, &shape) {
        return arg;
    }
    if let Some(result) = shape_of_selection(view, &shape)
        && let Some(scalar) = splat(&to.graph, arg).cloned()
    {
        return push_splat(to, scalar, &result);
    }
    let node = to.graph.node(arg);
    let merged = match (&node.op, view) {
        (Op::View(inner), _) => merge(inner, view).map(|view| (view, node.args[0])),
        _ => None,
    };
    if let Some((view, inner)) = merged {
        // The node in between was the last that could merge with what is below it, so this ends after one step.
        return if is_noop(&view, &to.graph.ty(inner).shape) {
            inner
        } else {
            to.push(Op::View(view), &[inner])
        };
    }
    let View::Permute(order) = view else {
        return to.push(Op::View(view.clone()), &[arg]);
    };
    match (&node.op, is_last_use) {
        (Op::Einsum(einsum), true) => {
            let out = order.iter().map(|&axis| einsum.out[axis]).collect();
            let (op, args) = (Op::Einsum(Einsum { out, ..einsum.clone() }), node.args.clone());
            to.push(op, &args)
        }
        (Op::Map(map), true) if node.args.iter().all(|&arg| absorbs_permute(&to.graph, arg)) => {
            let (map, args) = (*map, node.args.clone());
            let args: Vec<NodeId> = args.iter().map(|&arg| push_view(to, view, arg, false)).collect();
            to.push(Op::Map(map), &args)
        }
        _ => to.push(Op::View(view.clone()), &[arg]),
    }
}

/// Whether a permute of this node is no new node.
fn absorbs_permute(graph: &Graph, id: NodeId) -> bool {
    splat(graph, id).is_some() || matches!(graph.node(id).op, Op::View(View::Permute(_)))
}

/// Whether a view of a tensor of this shape is that tensor.
fn is_noop(view: &View, shape: &[usize]) -> bool {
    match view {
        View::Reshape(to) | View::Broadcast(to) => to == shape,
        View::Permute(order) => order.iter().copied().eq(0..shape.len()),
        // A slice of every element has steps of 1, but along axes of at most one element.
        View::Slice { count, .. } => count == shape,
        View::Pad { low, high, inner, .. } => {
            let is_inside = shape
                .iter()
                .zip(inner)
                .all(|(&extent, &inner)| inner == 0 || extent <= 1);
            is_inside && low.iter().chain(high).all(|&added| added == 0)
        }
        View::Flip(axes) => axes.iter().all(|&axis| shape[axis] <= 1),
        View::Concat(_) => true,
        View::Windows { axes, .. } => axes.is_empty(),
    }
}

/// The shape of a view whose elements are all elements of its operand; `None` if it may have others.
fn shape_of_selection(view: &View, shape: &[usize]) -> Option<Vec<usize>> {
    match view {
        View::Reshape(to) | View::Broadcast(to) => Some(to.clone()),
        View::Permute(order) => Some(order.iter().map(|&axis| shape[axis]).collect()),
        View::Slice { count, .. } => Some(count.clone()),
        View::Flip(_) => Some(shape.to_vec()),
        View::Pad { .. } | View::Concat(_) | View::Windows { .. } => None,
    }
}

/// One view that does what `inner` and then `outer` do.
fn merge(inner: &View, outer: &View) -> Option<View> {
    match (inner, outer) {
        (View::Reshape(_), View::Reshape(to)) => Some(View::Reshape(to.clone())),
        (View::Broadcast(_), View::Broadcast(to)) => Some(View::Broadcast(to.clone())),
        (View::Permute(inner), View::Permute(outer)) => {
            Some(View::Permute(outer.iter().map(|&axis| inner[axis]).collect()))
        }
        (View::Flip(inner), View::Flip(outer)) => {
            let one_sided = |these: &[usize], those: &[usize]| -> Vec<usize> {
                these.iter().copied().filter(|axis| !those.contains(axis)).collect()
            };
            let mut axes = one_sided(inner, outer);
            axes.extend(one_sided(outer, inner));
            axes.sort_unstable();
            Some(View::Flip(axes))
        }
        (
            View::Slice { start, step, .. },
            View::Slice {
                start: outer_start,
                step: outer_step,
                count,
            },
        ) => {
            // Where nothing is taken, the start is of no meaning and must lie within.
            let starts = start.iter().zip(step).zip(outer_start.iter().zip(count));
            Some(View::Slice {
                start: starts
                    .map(|((start, step), (outer, count))| if *count == 0 { 0 } else { start + step * outer })
                    .collect(),
                step: step
                    .iter()
                    .zip(outer_step)
                    .map(|(inner, outer)| inner * outer)
                    .collect(),
                count: count.clone(),
            })
        }
        _ => None,
    }
}

/// `f(broadcast(x), broadcast(y), c) = broadcast(f(x, y, c))` where `x` and `y` have one shape and `c` is one number.
fn broadcast_of_map(to: &mut Rebuild, map: Map, node: &Node, args: &[NodeId]) -> Option<NodeId> {
    let mut source: Option<Vec<usize>> = None;
    for &arg in args {
        if splat(&to.graph, arg).is_some() {
            continue;
        }
        let found = to.graph.node(arg);
        let Op::View(View::Broadcast(_)) = found.op else {
            return None;
        };
        let shape = &to.graph.ty(found.args[0]).shape;
        if source.get_or_insert_with(|| shape.clone()) != shape {
            return None;
        }
    }
    let source = source.unwrap_or_default();
    if node.ty().shape == source {
        return None;
    }
    let sources: Vec<NodeId> = args
        .iter()
        .map(|&arg| match splat(&to.graph, arg).cloned() {
            Some(scalar) => push_splat(to, scalar, &source),
            None => to.graph.node(arg).args[0],
        })
        .collect();
    let small = to.push(Op::Map(map), &sources);
    Some(to.push(Op::View(View::Broadcast(node.ty().shape.clone())), &[small]))
}

/// `f(concat(x, y), c) = concat(f(x, c), f(y, c))` where `c` is one number and nothing else uses the whole: each part then rides on what
/// computes it.
fn join_of_maps(to: &mut Rebuild, map: Map, args: &[NodeId], is_last_use: impl Fn(usize) -> bool) -> Option<NodeId> {
    let is_splat = |to: &Rebuild, at: usize| splat(&to.graph, args[at]).is_some();
    let mut others = (0..args.len()).filter(|&at| !is_splat(to, at));
    let (Some(whole), None) = (others.next(), others.next()) else {
        return None;
    };
    let found = to.graph.node(args[whole]);
    let Op::View(View::Concat(axis)) = found.op else {
        return None;
    };
    if !is_last_use(whole) {
        return None;
    }
    let parts: Vec<NodeId> = (found.args.clone().into_iter())
        .map(|part| {
            let shape = to.graph.ty(part).shape.clone();
            let operands: Vec<NodeId> = (args.iter())
                .map(|&arg| match splat(&to.graph, arg).cloned() {
                    Some(scalar) => push_splat(to, scalar, &shape),
                    None => part,
                })
                .collect();
            to.push(Op::Map(map), &operands)
        })
        .collect();
    Some(to.push(Op::View(View::Concat(axis)), &parts))
}

/// Drops axes that hold copies from a fold that counts copies once, and takes a permute past a fold that still meets the elements
/// in the same order.
fn fold_of_view(to: &mut Rebuild, fold: &Fold, arg: NodeId) -> Option<NodeId> {
    let inner = to.graph.node(arg);
    let source = *inner.args.first()?;
    match &inner.op {
        Op::View(View::Broadcast(shape)) => {
            let counts_once = matches!(fold.with, Combine::Max | Combine::Min | Combine::Any | Combine::All);
            let small = to.graph.ty(source).shape.clone();
            let added = shape.len() - small.len();
            let is_copied = fold.axes.iter().all(|&axis| axis < added && shape[axis] > 0);
            if !counts_once || !is_copied {
                return None;
            }
            let kept = |axis: &usize| !fold.axes.contains(axis);
            let shape: Vec<usize> = (0..shape.len()).filter(kept).map(|axis| shape[axis]).collect();
            Some(push_view(to, &View::Broadcast(shape), source, false))
        }
        Op::View(View::Permute(order)) => {
            let axes: Vec<usize> = fold.axes.iter().map(|&axis| order[axis]).collect();
            if !axes.is_sorted() {
                return None;
            }
            // What remains of the order, counted among the axes that remain.
            let rest = order.iter().filter(|axis| !axes.contains(axis));
            let rest = rest
                .map(|axis| axis - axes.iter().filter(|folded| *folded < axis).count())
                .collect();
            let folded = to.push(Op::Fold(Fold { axes, ..fold.clone() }), &[source]);
            Some(push_view(to, &View::Permute(rest), folded, false))
        }
        _ => None,
    }
}

/// An einsum that reads its operands through their permutes.
fn einsum_of_views(to: &mut Rebuild, einsum: &Einsum, args: &[NodeId]) -> NodeId {
    let mut einsum = einsum.clone();
    let mut args = args.to_vec();
    for (arg, letters) in args.iter_mut().zip([&mut einsum.left, &mut einsum.right]) {
        let node = to.graph.node(*arg);
        if let Op::View(View::Permute(order)) = &node.op {
            let mut source = letters.clone();
            for (letter, &axis) in letters.iter().zip(order) {
                source[axis] = *letter;
            }
            *letters = source;
            *arg = node.args[0];
        }
    }
    to.push(Op::Einsum(einsum), &args)
}
