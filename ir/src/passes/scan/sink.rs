//! Work moved behind loops: contractions of what a step gives, for all steps at once.

use std::collections::BTreeSet;

use super::every_step::{Outer, has_form};
use super::outside::{Level, Outside};
use super::replace_scans;
use crate::graph::{Graph, NodeId, Rebuild};
use crate::ops::compound::remake::Remake;
use crate::ops::{Op, Scan};
use crate::target::Target;

/// So many times more bytes may be stacked than the results have that are computed from them.
const MOST_STACKED: usize = 4;

/// Where no later step needs a contraction with something that is the same in every step, stacks its operand instead and computes it, with
/// all that follows, behind the loop: the gradient of a recurrent net's inputs, the projection of its outputs.
pub fn sink(graph: &Graph, _target: &Target) -> Graph {
    replace_scans(graph, |to, scan, _, args| sunk(to, scan, args))
}

fn sunk(to: &mut Rebuild, scan: &Scan, args: &[NodeId]) -> Option<Vec<NodeId>> {
    let body = &*scan.body;
    let mut outside = Outside::new(scan, body, args);
    let moved = movable(scan, &outside);
    let results: Vec<NodeId> = body.outputs.iter().map(|(_, id)| *id).collect();
    let is_moved = |id: &NodeId| moved.contains(id);
    // What is stacked: the results that stay, and what those that go are computed from.
    let mut stacked: Vec<NodeId> = Vec::new();
    for &id in results[scan.carried..].iter().filter(|id| !is_moved(id)) {
        stacked.push(id);
    }
    let before = stacked.len();
    for arg in moved.iter().flat_map(|id| &body.node(*id).args) {
        let is_given = is_moved(arg) || outside.levels[arg.at()] == Level::Fixed || outside.known(*arg).is_some();
        if !is_given && !stacked.contains(arg) {
            stacked.push(*arg);
        }
    }
    let bytes = |ids: &[NodeId]| ids.iter().map(|&id| body.ty(id).len_bytes()).sum::<usize>();
    let gone: Vec<NodeId> = results[scan.carried..].iter().copied().filter(is_moved).collect();
    if gone.is_empty() || bytes(&stacked[before..]) > MOST_STACKED * bytes(&gone) {
        return None;
    }
    let mut remade = Remake::new(body);
    body.inputs().iter().for_each(|&id| _ = remade.keep(id));
    let outputs = results[..scan.carried].iter().chain(&stacked);
    let outputs: Vec<NodeId> = outputs.map(|&id| remade.copy(id)).collect();
    let scan = Scan {
        body: remade.finish(&outputs),
        ..scan.clone()
    };
    let carried = scan.carried;
    let whole = to.push(Op::Scan(scan), args);
    for (place, &id) in stacked.iter().enumerate() {
        let id_outside = to.push(Op::Part(carried + place), &[whole]);
        outside.learn(
            id,
            Outer {
                id: id_outside,
                is_stack: true,
            },
        );
    }
    let result = |(place, &id): (usize, &NodeId)| match place < carried {
        true => to.push(Op::Part(place), &[whole]),
        false => outside.compute(to, id).id,
    };
    Some(results.iter().enumerate().map(result).collect())
}

/// The contractions that move, and all that follows from them.
fn movable(scan: &Scan, outside: &Outside<'_>) -> BTreeSet<NodeId> {
    let body = outside.body;
    let live = body.live();
    let mut is_carried_on = vec![false; body.len()];
    for (_, id) in &body.outputs[..scan.carried] {
        is_carried_on[id.at()] = true;
    }
    // From the end: whether the next step needs it, or whether something follows that has no form for all steps.
    let mut is_blocked = vec![false; body.len()];
    for (id, node) in body.nodes().rev() {
        is_blocked[id.at()] |= is_carried_on[id.at()] || !has_form(&node.op);
        if live[id.at()] && is_blocked[id.at()] {
            node.args.iter().for_each(|arg| is_blocked[arg.at()] = true);
        }
    }
    let mut moved = BTreeSet::new();
    for (id, node) in body.nodes().filter(|(id, _)| live[id.at()] && !is_blocked[id.at()]) {
        if outside.is_batchable(id, Level::Loop) || node.args.iter().any(|arg| moved.contains(arg)) {
            moved.insert(id);
        }
    }
    moved
}
