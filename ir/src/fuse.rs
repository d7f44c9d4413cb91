//! Cutting a graph into regions: which nodes share a kernel, and why not more.

use crate::graph::{Graph, NodeId};

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
    let _ = graph;
    todo!()
}
