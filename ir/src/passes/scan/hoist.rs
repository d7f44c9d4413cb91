//! Work moved in front of loops: what is the same in every step, and contractions of what a step is given, for all steps at once.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::outside::{Level, Outside};
use super::replace_scans;
use crate::graph::{Graph, NodeId, Rebuild};
use crate::ops::compound::remake::Remake;
use crate::ops::{Einsum, Op, Scan, View};
use crate::passes::splat;
use crate::target::Target;

/// Computes what is the same in every step before the loop, and contractions of entries with it as one contraction over all steps: the
/// projection of a recurrent net's inputs. What is only elementwise stays, for in the loop it fuses and need not be stored.
pub fn hoist(graph: &Graph, _target: &Target) -> Graph {
    replace_scans(graph, |to, scan, _, args| hoisted(to, scan, args))
}

fn hoisted(to: &mut Rebuild, scan: &Scan, args: &[NodeId]) -> Option<Vec<NodeId>> {
    let body = with_rows_contiguous(scan, args);
    let mut outside = Outside::new(scan, &body, args);
    let moved = movable(&outside);
    if moved.is_empty() {
        return None;
    }
    let named = scan.carried + scan.sliced;
    let (inputs, mut new_args) = (body.inputs(), args[..named].to_vec());
    let mut remade = Remake::new(&body);
    inputs[..named].iter().for_each(|&id| _ = remade.keep(id));
    let (steps, fixed): (Vec<NodeId>, Vec<NodeId>) =
        (moved.iter()).partition(|id| outside.levels[id.at()] == Level::Step);
    let mut declare = |remade: &mut Remake<'_>, name: &str, ids: &[NodeId], new_args: &mut Vec<NodeId>| {
        for &id in ids {
            remade.input(name, body.ty(id), &[id]);
            new_args.push(outside.compute(to, id).id);
        }
    };
    declare(&mut remade, "every", &steps, &mut new_args);
    let constants = args.len() - named;
    inputs[named..][..constants].iter().for_each(|&id| _ = remade.keep(id));
    new_args.extend(&args[named..]);
    declare(&mut remade, "fixed", &fixed, &mut new_args);
    inputs[named + constants..].iter().for_each(|&id| _ = remade.keep(id));
    let outputs: Vec<NodeId> = body.outputs.iter().map(|(_, id)| remade.copy(*id)).collect();
    let whole = to.push(
        Op::Scan(Scan {
            body: remade.finish(&outputs),
            sliced: scan.sliced + steps.len(),
            ..scan.clone()
        }),
        &new_args,
    );
    Some(
        (0..outputs.len())
            .map(|part| to.push(Op::Part(part), &[whole]))
            .collect(),
    )
}

/// What is moved: the last nodes that can be and are worth it.
fn movable(outside: &Outside<'_>) -> Vec<NodeId> {
    let body = outside.body;
    let live = body.live();
    let mut candidates: BTreeSet<NodeId> = BTreeSet::new();
    for (id, node) in body.nodes().filter(|(id, _)| live[id.at()]) {
        if outside.is_batchable(id, Level::Step) && outside.is_computable(id) {
            candidates.insert(id);
        }
        if outside.levels[id.at()] > Level::Fixed {
            let fixed = node.args.iter().filter(|arg| outside.levels[arg.at()] == Level::Fixed);
            candidates.extend(fixed.filter_map(|&arg| computed(body, arg, matches!(node.op, Op::Einsum(_)))));
        }
    }
    // Those that the body would still read.
    let mut needed = vec![false; body.len()];
    body.outputs.iter().for_each(|(_, id)| needed[id.at()] = true);
    for (id, node) in body.nodes().rev() {
        if needed[id.at()] && !candidates.contains(&id) {
            node.args.iter().for_each(|arg| needed[arg.at()] = true);
        }
    }
    candidates.into_iter().filter(|id| needed[id.at()]).collect()
}

/// The node below the views of a fixed one, if it takes computing: views are free where they fuse, but for a permute in front of a contraction.
fn computed(body: &Graph, mut id: NodeId, is_contracted: bool) -> Option<NodeId> {
    loop {
        let node = body.node(id);
        match &node.op {
            Op::View(View::Permute(_)) if is_contracted => return Some(id),
            Op::View(View::Concat(_)) => return Some(id),
            Op::View(_) => id = node.args[0],
            Op::Input(_) | Op::Const(_) | Op::Iota(_) => return None,
            _ => return (node.types.len() == 1 && splat(body, id).is_none()).then_some(id),
        }
    }
}

/// The body with each fixed operand of a contraction such that the elements of a row follow one another, with a permute where that is
/// another order: a contraction packs what does not lie so, in every step.
fn with_rows_contiguous(scan: &Scan, args: &[NodeId]) -> Arc<Graph> {
    let outside = Outside::new(scan, &scan.body, args);
    let is_turned = |node: &crate::graph::Node, place: usize| -> Option<(Einsum, Vec<usize>)> {
        let Op::Einsum(einsum) = &node.op else { return None };
        let levels = [0, 1].map(|place: usize| outside.levels[node.args[place].at()]);
        let is_fixed = levels[place] == Level::Fixed && levels[1 - place] == Level::Loop;
        let [own, other] = match place {
            0 => [&einsum.left, &einsum.right],
            _ => [&einsum.right, &einsum.left],
        };
        let is_column = |letter: &char| einsum.out.contains(letter) && !other.contains(letter);
        let is_to_turn = is_fixed && !own.last().is_none_or(is_column) && own.iter().any(is_column);
        is_to_turn.then(|| {
            let axes = |columns: bool| (0..own.len()).filter(move |&axis| is_column(&own[axis]) == columns);
            let order: Vec<usize> = axes(false).chain(axes(true)).collect();
            let letters: Vec<char> = order.iter().map(|&axis| own[axis]).collect();
            let mut einsum = einsum.clone();
            *(if place == 0 {
                &mut einsum.left
            } else {
                &mut einsum.right
            }) = letters;
            (einsum, order)
        })
    };
    let is_any = |node: &crate::graph::Node| [0, 1].into_iter().any(|place| is_turned(node, place).is_some());
    if !scan.body.nodes().any(|(_, node)| is_any(node)) {
        return scan.body.clone();
    }
    Arc::new(scan.body.rebuild(|to, node, args| {
        match [0, 1]
            .into_iter()
            .find_map(|place| Some((place, is_turned(node, place)?)))
        {
            Some((place, (einsum, order))) => {
                let mut args = args.to_vec();
                args[place] = to.push(Op::View(View::Permute(order)), &[args[place]]);
                to.push(Op::Einsum(einsum), &args)
            }
            None => to.push(node.op.clone(), args),
        }
    }))
}
