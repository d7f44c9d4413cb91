//! The graph: nodes in order, operands before users, equal nodes merged.
//!
//! Written by [`Builder`](crate::builder::Builder), the text parser, the gradient and the passes; read by everything.
//!
//! Invariants (checked by [`verify`](crate::verify)): the operands of a node come before it; its types are what its op
//! infers from theirs, and can be computed with ([`Type::check`]); no two nodes have equal op and operands; inputs have distinct
//! names.
//!
//! To petgraph's algorithms a `&Graph` is a directed graph whose edges go the way of the data, from operand to user.

mod petgraph;

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, OnceLock};

use hashbrown::HashTable;

use crate::error::{Loc, Problem};
use crate::fuse::Region;
use crate::ops::{Branch, Loop, Op, Scan};
use crate::plan::Given;
use crate::tensor::Type;

/// A node: a position in its graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

impl NodeId {
    /// The position in the graph.
    pub fn at(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for NodeId {
    /// `%7`, as the text form writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "%{}", self.0)
    }
}

/// One operation and its results.
#[derive(Clone, Debug)]
pub struct Node {
    /// What it does.
    pub op: Op,
    /// Its operands, each with a single result.
    pub args: Vec<NodeId>,
    /// The types of its results: one, but for ops with bodies, whose results [`Op::Part`] takes apart.
    pub types: Vec<Type>,
    /// Where it came from.
    pub loc: Loc,
}

impl Node {
    /// The type of the single result.
    ///
    /// # Panics
    /// If the node has not exactly one result; only `Op::Part` may take such a node as operand.
    pub fn ty(&self) -> &Type {
        assert_eq!(self.types.len(), 1, "a node with one result");
        &self.types[0]
    }
}

/// A static dataflow graph; see the module's documentation.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    nodes: Vec<Node>,
    inputs: Vec<NodeId>,
    /// The results, by name, in order. Names are distinct.
    pub outputs: Vec<(String, NodeId)>,
    /// Each node by the hash of its op and operands.
    interned: HashTable<(u64, NodeId)>,
    hasher: RandomState,
    /// How it is cut, once that is decided; who adds a node leaves it undecided.
    regions: Vec<Region>,
    /// Where its values lie and what runs, once that is decided too.
    plan: Option<Arc<Given>>,
    /// Found when petgraph first asks for them, forgotten when a node is added.
    edges: OnceLock<petgraph::Edges>,
}

impl Graph {
    /// An empty graph.
    pub fn new() -> Graph {
        Graph::default()
    }

    /// Adds a node, or finds its equal: infers the types, or says what is wrong.
    ///
    /// # Errors
    /// If the op's rule refuses the operands' types.
    pub fn push(&mut self, op: Op, args: Vec<NodeId>, loc: Loc) -> Result<NodeId, Problem> {
        let key = self.hasher.hash_one((&op, &args));
        let is_equal = |&(other, id): &(u64, NodeId)| {
            let node = &self.nodes[id.at()];
            other == key && node.op == op && node.args == args
        };
        if let Some(&(_, id)) = self.interned.find(key, is_equal) {
            return Ok(id);
        }
        let checked = self.infer(&op, &args).and_then(|types| {
            types.iter().try_for_each(Type::check)?;
            Ok(types)
        });
        let types = checked.map_err(|message| {
            let mut problem = Problem::new(format!("{}: {message}", op.name()), loc.clone());
            problem.notes = args
                .iter()
                .map(|&arg| format!("{arg}: {}", self.types_text(arg)))
                .collect();
            problem
        })?;
        let id = NodeId(u32::try_from(self.nodes.len()).expect("fewer than 2^32 nodes"));
        if matches!(op, Op::Input(_)) {
            self.inputs.push(id);
        }
        self.nodes.push(Node { op, args, types, loc });
        self.edges.take();
        self.regions.clear();
        self.plan = None;
        self.interned.insert_unique(key, (key, id), |&(key, _)| key);
        Ok(id)
    }

    /// The types of the results of an op on these operands.
    ///
    /// # Errors
    /// What does not fit, as a sentence without the op's name.
    pub(crate) fn infer(&self, op: &Op, args: &[NodeId]) -> Result<Vec<Type>, String> {
        if let Op::Part(part) = op {
            let [arg] = args else {
                return Err(format!("takes one operand, found {}", args.len()));
            };
            let types = &self.nodes[arg.at()].types;
            let ty = types
                .get(*part)
                .ok_or_else(|| format!("there are {} results, none has number {part}", types.len()))?;
            return Ok(vec![ty.clone()]);
        }
        let types: Vec<&Type> = args
            .iter()
            .map(|arg| match self.nodes[arg.at()].types.as_slice() {
                [ty] => Ok(ty),
                many => Err(format!(
                    "operand {arg} has {} results; take one of them with `part`",
                    many.len()
                )),
            })
            .collect::<Result<_, _>>()?;
        op.rules().infer(&types)
    }

    fn types_text(&self, id: NodeId) -> String {
        let types: Vec<String> = self.nodes[id.at()].types.iter().map(Type::to_string).collect();
        types.join(", ")
    }

    /// The node of that id.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.at()]
    }

    /// The type of a node's single result.
    pub fn ty(&self, id: NodeId) -> &Type {
        self.nodes[id.at()].ty()
    }

    /// The number of nodes.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is no node.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Every id, operands before users.
    pub fn ids(&self) -> impl DoubleEndedIterator<Item = NodeId> + ExactSizeIterator + use<> {
        (0..self.nodes.len() as u32).map(NodeId)
    }

    /// Every node with its id, operands before users.
    pub fn nodes(&self) -> impl DoubleEndedIterator<Item = (NodeId, &Node)> {
        self.ids().zip(&self.nodes)
    }

    /// The inputs, in the order they were declared.
    pub fn inputs(&self) -> &[NodeId] {
        &self.inputs
    }

    /// The input of that name.
    pub fn input(&self, name: &str) -> Option<NodeId> {
        self.inputs
            .iter()
            .copied()
            .find(|&id| matches!(&self.node(id).op, Op::Input(input) if input.name == name))
    }

    /// For each node, the nodes that use it, in order, once each.
    pub fn users(&self) -> Vec<Vec<NodeId>> {
        let mut users: Vec<Vec<NodeId>> = vec![Vec::new(); self.len()];
        for (id, node) in self.nodes() {
            for arg in &node.args {
                if users[arg.at()].last() != Some(&id) {
                    users[arg.at()].push(id);
                }
            }
        }
        users
    }

    /// For each node, whether an output depends on it.
    pub fn live(&self) -> Vec<bool> {
        let mut live = vec![false; self.len()];
        for (_, id) in &self.outputs {
            live[id.at()] = true;
        }
        for (id, node) in self.nodes().rev() {
            if live[id.at()] {
                for arg in &node.args {
                    live[arg.at()] = true;
                }
            }
        }
        live
    }

    /// How the graph is cut, if that is decided, as the text of a later stage says it; else nothing.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// Whether it is decided how the graph is cut.
    pub fn is_cut(&self) -> bool {
        !self.regions.is_empty()
    }

    /// The same graph, cut so. [`crate::verify`] checks whether it can be.
    #[must_use]
    pub fn with_regions(self, regions: Vec<Region>) -> Graph {
        Graph {
            regions,
            plan: None,
            ..self
        }
    }

    /// The plan of the entry that the graph is, as the text of that stage says it; else nothing.
    pub fn plan(&self) -> Option<&Arc<Given>> {
        self.plan.as_ref()
    }

    /// The same graph, planned so. Whoever goes on from the plan checks it.
    #[must_use]
    pub fn with_plan(self, plan: Arc<Given>) -> Graph {
        Graph {
            plan: Some(plan),
            ..self
        }
    }

    /// The same graph with every body of a loop or branch changed.
    #[must_use]
    pub fn with_bodies(&self, change: impl Fn(&Graph) -> Graph) -> Graph {
        let changed = |body: &Arc<Graph>| Arc::new(change(body));
        self.rebuild(|to, node, args| {
            let op = match &node.op {
                Op::Scan(scan) => Op::Scan(Scan {
                    body: changed(&scan.body),
                    ..scan.clone()
                }),
                Op::If(branch) => Op::If(Branch {
                    then: changed(&branch.then),
                    otherwise: changed(&branch.otherwise),
                }),
                Op::While(repeat) => Op::While(Loop {
                    condition: changed(&repeat.condition),
                    body: changed(&repeat.body),
                    carried: repeat.carried,
                }),
                op => op.clone(),
            };
            to.push(op, args)
        })
    }

    /// A new graph made node by node: `make` is given the graph so far, each live node in order (inputs always, and first), and the
    /// new ids of its operands, and returns the new id. Dead nodes vanish and equal ones merge. What a pass is made of.
    ///
    /// # Panics
    /// If `make` pushes an invalid node: then a pass is wrong.
    pub fn rebuild(&self, mut make: impl FnMut(&mut Rebuild, &Node, &[NodeId]) -> NodeId) -> Graph {
        let live = self.live();
        let mut to = Rebuild {
            graph: Graph::new(),
            loc: Loc::None,
            old: NodeId(u32::MAX),
        };
        let mut new_ids = vec![NodeId(u32::MAX); self.len()];
        let is_input = |(_, node): &(NodeId, &Node)| matches!(node.op, Op::Input(_));
        let others = self.nodes().filter(|node| !is_input(node) && live[node.0.at()]);
        for (id, node) in self.nodes().filter(is_input).chain(others) {
            let args: Vec<NodeId> = node.args.iter().map(|arg| new_ids[arg.at()]).collect();
            to.loc = node.loc.clone();
            to.old = id;
            new_ids[id.at()] = make(&mut to, node, &args);
        }
        to.graph.outputs = self
            .outputs
            .iter()
            .map(|(name, id)| (name.clone(), new_ids[id.at()]))
            .collect();
        to.graph
    }
}

/// Two graphs are equal if they have equal nodes in the same order, equal outputs, and are cut and planned alike; places do not count.
impl PartialEq for Graph {
    fn eq(&self, other: &Graph) -> bool {
        self.outputs == other.outputs
            && self.regions == other.regions
            && self.plan == other.plan
            && self.nodes.len() == other.nodes.len()
            && self
                .nodes
                .iter()
                .zip(&other.nodes)
                .all(|(a, b)| a.op == b.op && a.args == b.args && a.types == b.types)
    }
}

impl Eq for Graph {}

impl std::hash::Hash for Graph {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.outputs.hash(state);
        for node in &self.nodes {
            (&node.op, &node.args).hash(state);
        }
    }
}

/// The graph that a pass is building; nodes pushed take the place of the node they replace.
#[derive(Debug)]
pub struct Rebuild {
    /// The graph so far.
    pub graph: Graph,
    /// The place of the node being replaced.
    pub loc: Loc,
    /// The id that the node being replaced had.
    pub old: NodeId,
}

impl Rebuild {
    /// Adds a node.
    ///
    /// # Panics
    /// If its operands do not fit: passes make only valid nodes.
    pub fn push(&mut self, op: Op, args: &[NodeId]) -> NodeId {
        match self.graph.push(op, args.to_vec(), self.loc.clone()) {
            Ok(id) => id,
            Err(problem) => panic!("a pass made an invalid node: {problem}"),
        }
    }
}
