//! petgraph's visit traits for `&Graph`, so that its algorithms and its drawing work here.
//!
//! Edges go from operand to user; a node that has the same operand twice has two edges. To walk the other way, from results to
//! what they need, wrap the graph in [`petgraph::visit::Reversed`].

use std::iter::{Copied, Map};
use std::ops::Range;
use std::slice;

use petgraph::Direction;
use petgraph::visit::{
    Data, EdgeCount, EdgeRef, GraphBase, GraphProp, IntoEdgeReferences, IntoEdges, IntoNeighbors,
    IntoNeighborsDirected, IntoNodeIdentifiers, IntoNodeReferences, NodeCompactIndexable, NodeCount, NodeIndexable,
    Visitable,
};

use super::{Graph, Node, NodeId};

/// The edges of a graph by operand: those of node `n` are `users[starts[n]..starts[n + 1]]`.
#[derive(Clone, Debug)]
pub(super) struct Edges {
    starts: Vec<usize>,
    edges: Vec<Edge>,
    users: Vec<NodeId>,
}

/// An edge: `source` is the operand at `place` of `target`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edge {
    source: NodeId,
    target: NodeId,
    place: usize,
}

impl Graph {
    fn edge_table(&self) -> &Edges {
        self.edges.get_or_init(|| {
            let mut starts = vec![0; self.len() + 1];
            for (_, node) in self.nodes() {
                for arg in &node.args {
                    starts[arg.at() + 1] += 1;
                }
            }
            for at in 0..self.len() {
                starts[at + 1] += starts[at];
            }
            let nowhere = Edge {
                source: NodeId(0),
                target: NodeId(0),
                place: 0,
            };
            let mut edges = vec![nowhere; starts[self.len()]];
            let mut next = starts.clone();
            for (target, node) in self.nodes() {
                for (place, &source) in node.args.iter().enumerate() {
                    edges[next[source.at()]] = Edge { source, target, place };
                    next[source.at()] += 1;
                }
            }
            let users = edges.iter().map(|edge| edge.target).collect();
            Edges { starts, edges, users }
        })
    }

    fn edge_range(&self, id: NodeId) -> Range<usize> {
        let starts = &self.edge_table().starts;
        starts[id.at()]..starts[id.at() + 1]
    }
}

impl EdgeRef for Edge {
    type NodeId = NodeId;
    type EdgeId = (NodeId, usize);
    type Weight = usize;

    fn source(&self) -> NodeId {
        self.source
    }

    fn target(&self) -> NodeId {
        self.target
    }

    fn weight(&self) -> &usize {
        &self.place
    }

    fn id(&self) -> (NodeId, usize) {
        (self.target, self.place)
    }
}

impl GraphBase for Graph {
    type NodeId = NodeId;
    /// A user and the place of its operand.
    type EdgeId = (NodeId, usize);
}

impl Data for Graph {
    type NodeWeight = Node;
    /// The place of the operand.
    type EdgeWeight = usize;
}

impl GraphProp for Graph {
    type EdgeType = petgraph::Directed;
}

impl NodeCount for Graph {
    fn node_count(&self) -> usize {
        self.len()
    }
}

impl EdgeCount for Graph {
    fn edge_count(&self) -> usize {
        self.edge_table().edges.len()
    }
}

impl NodeIndexable for Graph {
    fn node_bound(&self) -> usize {
        self.len()
    }

    fn to_index(&self, id: NodeId) -> usize {
        id.at()
    }

    fn from_index(&self, at: usize) -> NodeId {
        NodeId(u32::try_from(at).expect("fewer than 2^32 nodes"))
    }
}

impl NodeCompactIndexable for Graph {}

impl Visitable for Graph {
    type Map = Visited;

    fn visit_map(&self) -> Visited {
        Visited(vec![false; self.len()])
    }

    fn reset_map(&self, map: &mut Visited) {
        *map = self.visit_map();
    }
}

/// The nodes that a walk has seen.
#[derive(Clone, Debug, Default)]
pub struct Visited(Vec<bool>);

impl petgraph::visit::VisitMap<NodeId> for Visited {
    fn visit(&mut self, id: NodeId) -> bool {
        !std::mem::replace(&mut self.0[id.at()], true)
    }

    fn is_visited(&self, id: &NodeId) -> bool {
        self.0[id.at()]
    }

    fn unvisit(&mut self, id: NodeId) -> bool {
        std::mem::replace(&mut self.0[id.at()], false)
    }
}

impl IntoNodeIdentifiers for &Graph {
    type NodeIdentifiers = Map<Range<u32>, fn(u32) -> NodeId>;

    fn node_identifiers(self) -> Self::NodeIdentifiers {
        let count = u32::try_from(self.len()).expect("fewer than 2^32 nodes");
        (0..count).map(NodeId)
    }
}

impl<'g> IntoNodeReferences for &'g Graph {
    type NodeRef = (NodeId, &'g Node);
    type NodeReferences = std::iter::Zip<Map<Range<u32>, fn(u32) -> NodeId>, slice::Iter<'g, Node>>;

    fn node_references(self) -> Self::NodeReferences {
        self.node_identifiers().zip(&self.nodes)
    }
}

impl<'g> IntoNeighbors for &'g Graph {
    type Neighbors = Copied<slice::Iter<'g, NodeId>>;

    fn neighbors(self, id: NodeId) -> Self::Neighbors {
        self.neighbors_directed(id, Direction::Outgoing)
    }
}

impl<'g> IntoNeighborsDirected for &'g Graph {
    type NeighborsDirected = Copied<slice::Iter<'g, NodeId>>;

    fn neighbors_directed(self, id: NodeId, direction: Direction) -> Self::NeighborsDirected {
        let found = match direction {
            Direction::Outgoing => &self.edge_table().users[self.edge_range(id)],
            Direction::Incoming => &self.node(id).args,
        };
        found.iter().copied()
    }
}

impl<'g> IntoEdgeReferences for &'g Graph {
    type EdgeRef = Edge;
    type EdgeReferences = Copied<slice::Iter<'g, Edge>>;

    fn edge_references(self) -> Self::EdgeReferences {
        self.edge_table().edges.iter().copied()
    }
}

impl<'g> IntoEdges for &'g Graph {
    type Edges = Copied<slice::Iter<'g, Edge>>;

    fn edges(self, id: NodeId) -> Self::Edges {
        self.edge_table().edges[self.edge_range(id)].iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use petgraph::algo::{connected_components, dominators, has_path_connecting, toposort};
    use petgraph::visit::Reversed;

    use super::*;
    use crate::{Builder, DType};

    /// `x + x` into `neg`, then a diamond: `neg` is multiplied with its own double.
    fn diamond() -> Graph {
        let b = Builder::new();
        let x = b.input("x", DType::F32, [4]);
        let low = -(x + x);
        let out = low * (low + low);
        b.finish([("y", out)]).unwrap()
    }

    #[test]
    fn operands_come_first_in_topological_order() {
        let graph = diamond();
        let order = toposort(&graph, None).unwrap();
        let rank = |id: NodeId| order.iter().position(|&other| other == id).unwrap();
        assert_eq!(order.len(), graph.len());
        for (id, node) in graph.nodes() {
            assert!(node.args.iter().all(|&arg| rank(arg) < rank(id)), "{id}");
        }
    }

    #[test]
    fn both_sides_of_a_diamond_are_dominated_by_its_ends() {
        let graph = diamond();
        let [x, sum, low, double, out] = [0, 1, 2, 3, 4].map(NodeId);
        let down = dominators::simple_fast(&graph, x);
        assert_eq!(down.immediate_dominator(out), Some(low));
        let up = dominators::simple_fast(Reversed(&graph), out);
        assert_eq!(up.immediate_dominator(low), Some(out));
        assert_eq!(up.immediate_dominator(sum), Some(low));
        assert_eq!(up.immediate_dominator(double), Some(out));
    }

    #[test]
    fn edges_follow_the_data_and_know_their_place() {
        let mut graph = diamond();
        assert_eq!(graph.edge_count(), 7);
        let edges: Vec<(NodeId, NodeId, usize)> = (&graph)
            .edges(NodeId(2))
            .map(|edge| (edge.source, edge.target, edge.place))
            .collect();
        let [low, double, out] = [2, 3, 4].map(NodeId);
        assert_eq!(edges, [(low, double, 0), (low, double, 1), (low, out, 0)]);
        assert!(has_path_connecting(&graph, NodeId(0), out, None));
        assert!(!has_path_connecting(&graph, out, NodeId(0), None));
        assert_eq!(connected_components(&graph), 1);
        // A node added later is seen.
        let neg = graph.node(low).op.clone();
        let new = graph.push(neg, vec![out], crate::Loc::None).unwrap();
        assert_eq!((&graph).neighbors(out).collect::<Vec<_>>(), [new]);
    }
}
