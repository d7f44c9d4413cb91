//! Loops over the same operands that carry the same values, as one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::replace_scans;
use crate::graph::{Graph, NodeId};
use crate::ops::{Op, Scan};
use crate::target::Target;

/// Makes one scan of those over the same operands that carry the same values; it stacks what any of them does. So what a gradient asks to
/// be saved is saved by the loop whose gradient it is.
pub fn merge(graph: &Graph, _target: &Target) -> Graph {
    let plan = Merged::of_all(graph);
    let mut wholes: HashMap<NodeId, NodeId> = HashMap::new();
    replace_scans(graph, |to, _, old, args| {
        let (first, results) = plan.member.get(&old)?;
        let whole = *wholes
            .entry(*first)
            .or_insert_with(|| to.push(Op::Scan(plan.scans[first].clone()), args));
        Some(results.iter().map(|&part| to.push(Op::Part(part), &[whole])).collect())
    })
}

/// Which scans become one.
#[derive(Default)]
struct Merged {
    /// By the first of several, what they become.
    scans: HashMap<NodeId, Scan>,
    /// For each scan that is one of several, the first of them, and the results of the common one that its own are.
    member: HashMap<NodeId, (NodeId, Vec<usize>)>,
}

impl Merged {
    fn of_all(graph: &Graph) -> Merged {
        let live = graph.live();
        let mut alike: BTreeMap<_, Vec<(NodeId, &Scan)>> = BTreeMap::new();
        for (id, node) in graph.nodes().filter(|(id, _)| live[id.at()]) {
            if let Op::Scan(scan) = &node.op {
                let key = (
                    &node.args,
                    scan.length,
                    scan.carried,
                    scan.sliced,
                    scan.counted,
                    scan.reverse,
                );
                alike.entry(key).or_default().push((id, scan));
            }
        }
        let mut merged = Merged::default();
        for scans in alike.into_values().filter(|scans| scans.len() > 1) {
            merged.add(&scans);
        }
        merged
    }

    /// Makes one of those that carry what the first does.
    fn add(&mut self, scans: &[(NodeId, &Scan)]) {
        let (first, scan) = scans[0];
        let mut body = Graph::clone(&scan.body);
        let mut results: Vec<NodeId> = body.outputs.iter().map(|(_, id)| *id).collect();
        for &(id, other) in scans {
            let copied = copied(&mut body, &other.body);
            if copied[..scan.carried] != results[..scan.carried] {
                continue;
            }
            let carried = 0..scan.carried;
            let stacked = copied[scan.carried..].iter().map(|&result| {
                let known = results[scan.carried..].iter().position(|&other| other == result);
                known.map_or_else(
                    || {
                        results.push(result);
                        results.len() - 1
                    },
                    |at| scan.carried + at,
                )
            });
            let places = carried.chain(stacked).collect();
            self.member.insert(id, (first, places));
        }
        body.outputs = results
            .iter()
            .enumerate()
            .map(|(place, &id)| (format!("y{place}"), id))
            .collect();
        let body = Arc::new(body);
        self.scans.insert(first, Scan { body, ..scan.clone() });
    }
}

/// Adds the nodes of a body to another over the same inputs, and gives its results there.
fn copied(to: &mut Graph, body: &Graph) -> Vec<NodeId> {
    let mut ids = vec![NodeId(u32::MAX); body.len()];
    for (&old, &new) in body.inputs().iter().zip(to.inputs()) {
        ids[old.at()] = new;
    }
    for (id, node) in body.nodes() {
        if !matches!(node.op, Op::Input(_)) {
            let args = node.args.iter().map(|arg| ids[arg.at()]).collect();
            let copied = to.push(node.op.clone(), args, node.loc.clone());
            ids[id.at()] = copied.unwrap_or_else(|problem| panic!("a copy of a valid node: {problem}"));
        }
    }
    body.outputs.iter().map(|(_, id)| ids[id.at()]).collect()
}
