//! Operands and results of loops that nobody needs, or that are known outside.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::replace_scans;
use crate::graph::{Graph, NodeId, Rebuild};
use crate::ops::compound::remake::Remake;
use crate::ops::{Op, Scan, View};
use crate::passes::splat;
use crate::target::Target;

/// Drops the results of scans that nothing uses and what only they need; what every step carries on unchanged becomes a constant; numbers
/// move into the body; equal operands and equal results become one, and stacks of what the loop is given are taken from there.
pub fn trim(graph: &Graph, _target: &Target) -> Graph {
    let live = graph.live();
    let mut used: HashMap<NodeId, HashSet<usize>> = HashMap::new();
    for (_, node) in graph.nodes().filter(|(id, _)| live[id.at()]) {
        if let Op::Part(part) = node.op {
            used.entry(node.args[0]).or_default().insert(part);
        }
    }
    let none = HashSet::new();
    replace_scans(graph, |to, scan, old, args| {
        trimmed(to, scan, args, used.get(&old).unwrap_or(&none))
    })
}

/// What has become of a result.
#[derive(Clone, Copy)]
enum Result {
    /// Nothing uses it.
    Unused,
    /// It is this value.
    Known(NodeId),
    /// Each entry of it is this value.
    Repeated(NodeId),
    /// It is a result of the new scan.
    Part(usize),
}

fn trimmed(to: &mut Rebuild, scan: &Scan, given: &[NodeId], used: &HashSet<usize>) -> Option<Vec<NodeId>> {
    let body = &*scan.body;
    let named = scan.carried + scan.sliced;
    let inputs = body.inputs();
    let results: Vec<NodeId> = body.outputs.iter().map(|(_, id)| *id).collect();
    let kept = kept_results(scan, used);
    let needed = needed_nodes(body, kept.iter().map(|&place| results[place]));

    let mut remade = Remake::new(body);
    let (mut carried, mut sliced, mut constants, mut literals) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (place, (&input, &arg)) in inputs.iter().zip(given).enumerate() {
        let is_fixed = if place < scan.carried {
            results[place] == input
        } else {
            place >= named
        };
        let is_kept = needed[input.at()] || place < scan.carried && kept.contains(&place);
        if !is_kept {
            continue;
        }
        match splat(&to.graph, arg) {
            Some(scalar) if is_fixed || place >= scan.carried => literals.push((input, scalar.clone())),
            _ if is_fixed => add(&mut constants, arg, input),
            _ if place < scan.carried => carried.push((arg, vec![input])),
            _ => add(&mut sliced, arg, input),
        }
    }
    for (_, stands_for) in carried.iter().chain(&sliced).chain(&constants) {
        let Op::Input(input) = &body.node(stands_for[0]).op else {
            unreachable!("a body's input")
        };
        remade.input(&input.name, &input.ty, stands_for);
    }
    let count = inputs.get(given.len()).filter(|count| needed[count.at()]);
    count.into_iter().for_each(|&count| _ = remade.keep(count));
    for (input, scalar) in literals {
        remade.literal(input, scalar);
    }

    let first_stack = carried.len();
    let mut outputs: Vec<NodeId> = Vec::new();
    let mut found = vec![Result::Unused; results.len()];
    // Carried ones come first.
    for &place in &kept {
        let input = inputs[..given.len()].iter().position(|&input| input == results[place]);
        found[place] = match input {
            Some(input) if input == place || (scan.carried..named).contains(&input) && place >= scan.carried => {
                Result::Known(given[input])
            }
            Some(input) if place >= scan.carried && (input >= named || results[input] == inputs[input]) => {
                Result::Repeated(given[input])
            }
            _ => {
                let copied = remade.copy(results[place]);
                let known = outputs.iter().skip(first_stack).position(|&other| other == copied);
                let number = known.map_or(outputs.len(), |at| first_stack + at);
                if number == outputs.len() {
                    outputs.push(copied);
                }
                Result::Part(number)
            }
        };
    }
    let args = [&carried, &sliced, &constants].map(|list| list.iter().map(|(arg, _)| *arg));
    let new_args: Vec<NodeId> = args.into_iter().flatten().collect();
    if new_args == given && outputs.len() == results.len() && scan.counted == count.is_some() {
        return None;
    }
    let whole = (!outputs.is_empty()).then(|| {
        let scan = Scan {
            body: remade.finish(&outputs),
            length: scan.length,
            carried: carried.len(),
            sliced: sliced.len(),
            counted: count.is_some(),
            reverse: scan.reverse,
        };
        to.push(Op::Scan(scan), &new_args)
    });
    let result = |(place, found): (usize, Result)| match (found, whole) {
        (Result::Known(id), _) => id,
        (Result::Repeated(id), _) => {
            let shape = [&[scan.length], body.ty(results[place]).shape.as_slice()].concat();
            to.push(Op::View(View::Broadcast(shape)), &[id])
        }
        (Result::Part(number), Some(whole)) => to.push(Op::Part(number), &[whole]),
        // Nobody sees it.
        (Result::Part(_) | Result::Unused, _) => whole.unwrap_or(NodeId(0)),
    };
    Some(found.into_iter().enumerate().map(result).collect())
}

/// An operand, or one more input that stands for the same.
fn add(list: &mut Vec<(NodeId, Vec<NodeId>)>, arg: NodeId, input: NodeId) {
    match list.iter_mut().find(|(known, _)| *known == arg) {
        Some((_, stands_for)) => stands_for.push(input),
        None => list.push((arg, vec![input])),
    }
}

/// The results that are used, and carried values that those need.
fn kept_results(scan: &Scan, used: &HashSet<usize>) -> BTreeSet<usize> {
    let (body, mut kept) = (&*scan.body, used.iter().copied().collect::<BTreeSet<usize>>());
    loop {
        let needed = needed_nodes(body, kept.iter().map(|&place| body.outputs[place].1));
        let before = kept.len();
        kept.extend((0..scan.carried).filter(|&place| needed[body.inputs()[place].at()]));
        if kept.len() == before {
            return kept;
        }
    }
}

/// For each node of a body, whether one of these depends on it.
fn needed_nodes(body: &Graph, of: impl Iterator<Item = NodeId>) -> Vec<bool> {
    let mut needed = vec![false; body.len()];
    of.for_each(|id| needed[id.at()] = true);
    for (id, node) in body.nodes().rev() {
        if needed[id.at()] {
            node.args.iter().for_each(|arg| needed[arg.at()] = true);
        }
    }
    needed
}
