//! Loops: what need not be done step by step moves out of their bodies, and what nobody asks for goes.
//!
//! Passes over scans. [`merge`] makes one loop of several over the same operands, as a gradient leaves them; [`hoist`] moves work
//! in front of a loop, [`sink`] behind it; [`trim`] drops operands and results.

mod every_step;
pub mod hoist;
pub mod merge;
mod outside;
pub mod sink;
pub mod trim;

use std::collections::HashMap;

use crate::graph::{Graph, NodeId, Rebuild};
use crate::ops::{Op, Scan};

/// The graph with scans of at least one step replaced: `replace` is given a scan, its old id and its new operands; it gives what stands for
/// each result, or nothing if the scan stays as it is.
fn replace_scans(
    graph: &Graph,
    mut replace: impl FnMut(&mut Rebuild, &Scan, NodeId, &[NodeId]) -> Option<Vec<NodeId>>,
) -> Graph {
    let mut results: HashMap<NodeId, Vec<NodeId>> = HashMap::new();
    graph.rebuild(|to, node, args| match &node.op {
        Op::Scan(scan) if scan.length > 0 => {
            let old = to.old;
            match replace(to, scan, old, args) {
                // Only parts use a scan, so what stands for the whole is not seen.
                Some(parts) => {
                    let whole = parts[0];
                    results.insert(old, parts);
                    whole
                }
                None => to.push(node.op.clone(), args),
            }
        }
        Op::Part(part) => match results.get(&node.args[0]) {
            Some(parts) => parts[*part],
            None => to.push(node.op.clone(), args),
        },
        op => to.push(op.clone(), args),
    })
}
