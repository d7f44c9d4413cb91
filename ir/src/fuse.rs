//! Cutting a graph into regions: which nodes share a kernel, and why not more.

use std::collections::HashSet;

use crate::graph::{Graph, NodeId};
use crate::ops::Op;

/// Nodes that become one kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// What kind of step the region becomes.
    pub kind: RegionKind,
    /// The nodes computed, in graph order. A cheap node may be in several regions, recomputed in each.
    pub nodes: Vec<NodeId>,
    /// The values read from memory, each once: the kernel's input buffers, in this order. Results of nodes with several are
    /// named by their `Op::Part`, never by the node.
    pub inputs: Vec<NodeId>,
    /// The values written to memory: the kernel's output buffers, in this order.
    pub outputs: Vec<NodeId>,
    /// Neighbours that the region did not take, each with the reason, for dumps.
    pub stopped: Vec<(NodeId, String)>,
}

/// What kind of step a region becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegionKind {
    /// A kernel.
    Kernel,
    /// One scan, if or while (the only node), with plans of its own for its bodies; `outputs` are its parts.
    Compound,
}

/// Cuts a graph into regions, in an order in which each reads only inputs, constants and earlier regions' outputs.
///
/// Every output of the graph, and nothing else that need not be, is written to memory. Inputs and constants of more than one element are
/// read in place and belong to no region.
pub fn regions(graph: &Graph) -> Vec<Region> {
    let _ = graph;
    todo!()
}

/// The same without fusion, for the eager mode: a region for every node that is not an input or constant.
pub fn singletons(graph: &Graph) -> Vec<Region> {
    let (live, users) = (graph.live(), graph.users());
    let regions = graph
        .ids()
        .filter(|id| live[id.at()])
        .filter_map(|id| match &graph.node(id).op {
            // Parts are the outputs of their region, not regions.
            Op::Input(_) | Op::Const(_) | Op::Part(_) => None,
            Op::Scan(_) | Op::If(_) | Op::While(_) => Some(compound(graph, id, &users[id.at()])),
            _ => Some(Region {
                kind: RegionKind::Kernel,
                nodes: vec![id],
                inputs: inputs_of(graph, &[id]),
                outputs: vec![id],
                stopped: Vec::new(),
            }),
        });
    regions.collect()
}

/// The region of an op with bodies; `users` are its parts.
fn compound(graph: &Graph, id: NodeId, users: &[NodeId]) -> Region {
    Region {
        kind: RegionKind::Compound,
        nodes: vec![id],
        inputs: inputs_of(graph, &[id]),
        outputs: users.to_vec(),
        stopped: Vec::new(),
    }
}

/// Whether a node's value stands in the code of every kernel that needs it: a constant of one element.
fn is_immediate(graph: &Graph, id: NodeId) -> bool {
    matches!(&graph.node(id).op, Op::Const(tensor) if tensor.count() == 1)
}

/// What the nodes of a kernel read from memory, in the order in which they are met.
fn inputs_of(graph: &Graph, nodes: &[NodeId]) -> Vec<NodeId> {
    let inside: HashSet<NodeId> = nodes.iter().copied().collect();
    let mut seen = HashSet::new();
    let args = nodes.iter().flat_map(|&id| graph.node(id).args.iter().copied());
    args.filter(|&arg| !inside.contains(&arg) && !is_immediate(graph, arg) && seen.insert(arg))
        .collect()
}
