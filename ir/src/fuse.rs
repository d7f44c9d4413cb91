//! Cutting a graph into regions: which nodes share a kernel, and why not more.
//!
//! Nodes are visited users first. Each is either *stored*, written to memory by one region, or *inlined* into every region that needs it.
//! A region is asked for a node along known axes ([`Follow`]), and that decides:
//!
//! - Light nodes (maps, views, iota, random, gather, pools of small windows) are inlined where that computes nothing twice, or only what is cheap.
//! - A fold is inlined as a row statistic: at a prefix of the parallel axes, where it is computed once a row.
//! - A contraction (einsum, conv, pool of a large window) is inlined where its elements and the region's points are the same, so that what follows it
//!   rides on it as an epilogue; one a region, and with no fold. Products with small constant matrices, one of the other, are computed together.
//! - What must be stored is written by a region that computes it at every point anyway, if one does and no cycle arises:
//!   so Adam's three results, or a row's statistic, are further outputs of one kernel.
//! - Parts that make up a large tensor, one behind the other in memory, are stored: they are written where they belong, and joining costs nothing.
//! - What is stored for itself joins a region of the same shape that reads the same tensor.
//!
//! Every search is bounded, so the time is linear in the graph.

mod given;

use std::collections::{HashMap, HashSet};
use std::fmt;

pub use given::{Given, Wrong, check, cut, foreign, without_foreign};

use crate::dtype::DType;
use crate::graph::{Graph, Node, NodeId};
use crate::kernel::build::{X, known};
use crate::kernel::{Expr, Exprs, Prim};
use crate::ops::{MapDef, Op, View};
use crate::pieces;

/// The most primitives of one kernel.
const MOST_PRIMS: u32 = 256;
/// The most nodes of one kernel: views have no primitives, but a kernel is built by asking through them.
const MOST_NODES: usize = 256;
/// The most outputs of one kernel.
const MOST_OUTPUTS: usize = 8;
/// The most tensors that fusion makes a kernel read or, where a fold's result is kept for others, need room for: with the outputs 32, as many as a
/// Vulkan kernel can be told of in the 128 bytes of push constants that every device has.
const MOST_TENSORS: usize = 24;
/// The greatest weight that is computed twice rather than stored: a guess, about what a load costs.
const CHEAP: u32 = 4;
/// The greatest weight, along one path, of what is computed more than once.
const MOST_REPEATED: u32 = 8;
/// The greatest weight that is computed while an operand of a contraction is packed: a guess.
const MOST_PACKED: u32 = 8;
/// Regions searched for a cycle before one is assumed.
const MOST_SEARCHED: usize = 64;
/// A fold over no more elements than this is computed by each worker for itself rather than in a kernel of its own: a guess.
const TINY: usize = 4096;
/// Joined parts of so many elements are written where they belong, not computed by who reads them: a guess.
const MANY_JOINED: usize = 1024;
/// Elements of each part that lie one behind the other in what is joined, or more: a guess. Shorter ones are no lines for vectors.
const LONG_RUN: usize = 64;

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
    /// What becomes of it, if a text gives that.
    pub given: Option<Given>,
}

/// What kind of step a region becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegionKind {
    /// A kernel.
    Kernel,
    /// One scan, if or while (the only node), with plans of its own for its bodies; `outputs` are its parts.
    Compound,
}

/// If a node joins parts that lie one behind the other in memory, or in lines as long as pay, and those are computed element by element or as
/// contractions, the parts: whoever computes them can write them where they belong. Reshapes of parts that lie one behind the other are looked
/// through.
pub fn joined_parts(graph: &Graph, id: NodeId) -> Option<Vec<NodeId>> {
    let node = graph.node(id);
    let Op::View(View::Concat(axis)) = node.op else {
        return None;
    };
    let (shape, count) = (&node.ty().shape, node.ty().count());
    let is_in_a_row = shape[..axis].iter().all(|&extent| extent == 1);
    let is_short = |part: &NodeId| graph.ty(*part).shape[axis..].iter().product::<usize>() < LONG_RUN;
    if count < MANY_JOINED || !is_in_a_row && node.args.iter().any(is_short) {
        return None;
    }
    let mut parts: Vec<NodeId> = Vec::new();
    for &arg in &node.args {
        let mut part = arg;
        while is_in_a_row && let Op::View(View::Reshape(_)) = graph.node(part).op {
            part = graph.node(part).args[0];
        }
        let is_computed = matches!(
            graph.node(part).op,
            Op::Map(_) | Op::Fold(_) | Op::Einsum(_) | Op::Conv(_) | Op::Random(_)
        );
        let is_output = graph.outputs.iter().any(|(_, output)| *output == part);
        if !is_computed || is_output || parts.contains(&part) {
            return None;
        }
        parts.push(part);
    }
    (parts.len() > 1).then_some(parts)
}

/// Cuts a graph into regions, in an order in which each reads only inputs, constants and earlier regions' outputs.
///
/// Every output of the graph that is computed, and nothing else that need not be, is written to memory. Inputs and constants of more than
/// one element are read in place and belong to no region; an output that is itself an input or a constant has no region.
/// A graph that says how it is cut is cut so.
pub fn regions(graph: &Graph) -> Vec<Region> {
    if graph.is_cut() {
        return graph.regions().to_vec();
    }
    let live = graph.live();
    let mut cut = Cut::new(graph);
    for (id, node) in graph.nodes().rev().filter(|(id, _)| live[id.at()]) {
        match &node.op {
            Op::Input(_) | Op::Const(_) => {}
            Op::Part(_) => cut.part(id, node.args[0]),
            Op::Scan(_) | Op::If(_) | Op::While(_) => cut.compound(id),
            _ => cut.place(id),
        }
    }
    cut.finish()
}

/// The same without fusion, for the eager mode: a region for every operation. As in eager frameworks, views that only read elements at
/// other places (reshape, permute, broadcast, slice, flip) cost nothing: they are part of the operations that read them.
pub fn singletons(graph: &Graph) -> Vec<Region> {
    let (live, users) = (graph.live(), graph.users());
    let mut is_stored = vec![false; graph.len()];
    for (_, id) in &graph.outputs {
        is_stored[id.at()] = true;
    }
    for (_, node) in graph.nodes() {
        if matches!(node.op, Op::Scan(_) | Op::If(_) | Op::While(_)) {
            node.args.iter().for_each(|arg| is_stored[arg.at()] = true);
        }
    }
    let is_inlined = |id: NodeId| is_free(&graph.node(id).op) && !is_stored[id.at()];
    let regions = graph
        .ids()
        .filter(|&id| live[id.at()] && !is_inlined(id))
        .filter_map(|id| match &graph.node(id).op {
            // Parts are the outputs of their region, not regions.
            Op::Input(_) | Op::Const(_) | Op::Part(_) => None,
            Op::Scan(_) | Op::If(_) | Op::While(_) => {
                Some(Region::new(graph, vec![id], users[id.at()].clone(), Vec::new()))
            }
            _ => {
                let mut nodes = vec![id];
                let mut next = 0;
                while let Some(&reader) = nodes.get(next) {
                    let views = graph.node(reader).args.iter().copied().filter(|&arg| is_inlined(arg));
                    let new: Vec<NodeId> = views.filter(|view| !nodes.contains(view)).collect();
                    nodes.extend(new);
                    next += 1;
                }
                Some(Region::new(graph, nodes, vec![id], Vec::new()))
            }
        });
    regions.collect()
}

/// Whether an op is a view that eager frameworks give without touching an element.
fn is_free(op: &Op) -> bool {
    match op {
        Op::View(view) => match view {
            View::Reshape(_) | View::Permute(_) | View::Broadcast(_) | View::Slice { .. } | View::Flip(_) => true,
            View::Pad { .. } | View::Concat(_) | View::Windows { .. } => false,
        },
        _ => false,
    }
}

/// Whether two contractions, one of the other, are with small constants, as the transforms of Winograd's algorithm are along either axis of a square.
fn are_transforms(graph: &Graph, inner: NodeId, outer: NodeId) -> bool {
    let is_transform = |id: NodeId| {
        let node = graph.node(id);
        let is_small = |arg: &NodeId| known(graph, *arg).is_some();
        matches!(node.op, Op::Einsum(_)) && node.args.iter().any(is_small)
    };
    graph.node(outer).args.contains(&inner) && is_transform(outer) && is_transform(inner)
}

/// Whether a node's value stands in the code of every kernel that needs it: a constant of one element.
fn is_immediate(graph: &Graph, id: NodeId) -> bool {
    matches!(&graph.node(id).op, Op::Const(tensor) if tensor.count() == 1)
}

/// What the nodes of a region read from memory, in the order in which they are met. Bodies read all their operands there.
fn inputs_of(graph: &Graph, nodes: &[NodeId]) -> Vec<NodeId> {
    let inside: HashSet<NodeId> = nodes.iter().copied().collect();
    let mut seen = HashSet::new();
    let reads = |&id: &NodeId| {
        let node = graph.node(id);
        let has_bodies = matches!(node.op, Op::Scan(_) | Op::If(_) | Op::While(_));
        let from_memory = move |&arg: &NodeId| has_bodies || !is_immediate(graph, arg);
        node.args.iter().copied().filter(from_memory)
    };
    nodes
        .iter()
        .flat_map(reads)
        .filter(|arg| !inside.contains(arg) && seen.insert(*arg))
        .collect()
}

/// How one axis of a node's index follows the loops of a region that asks for the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Follow {
    /// It is this parallel axis.
    Axis(u32),
    /// It is an axis that a fold of the region runs over.
    Reduced,
    /// It has one place.
    One,
    /// Anything else.
    Other,
}

/// That a region needs a node.
#[derive(Clone, Debug)]
struct Demand {
    region: usize,
    /// By axis of the node.
    follows: Vec<Follow>,
    /// The number of steps of the folds around.
    steps: f64,
    /// The weight that may still be computed here, inside the operand of a contraction.
    packed: Option<u32>,
    /// The weight, from the region's results to here, of what is computed more than once; in quarters.
    repeated: u32,
    /// How often the code of the node stands in the region: a pool of a small window asks for each place apart.
    copies: u32,
    /// Whether a reshape on the way splits or joins axes, so that the node is not computed in its own order.
    is_regrouped: bool,
}

/// A region being made.
#[derive(Debug, Default)]
struct Draft {
    shape: Vec<usize>,
    nodes: Vec<NodeId>,
    outputs: Vec<NodeId>,
    /// What it reads of what other regions write.
    reads: Vec<NodeId>,
    /// The operands of its nodes that it does not compute, each once: what it reads, unless some of them are inlined yet.
    operands: Vec<NodeId>,
    stopped: Vec<(NodeId, String)>,
    prims: u32,
    contractions: Vec<NodeId>,
    folds: usize,
    /// Prefix, scatter, sort and ops with bodies take neither a contraction nor a fold nor further outputs.
    is_special: bool,
    /// Its parts are written where they belong.
    is_join: bool,
}

/// The state of [`regions`].
struct Cut<'a> {
    graph: &'a Graph,
    is_output: Vec<bool>,
    user_count: Vec<u32>,
    /// Whether a node can ride on a contraction as its epilogue: on the newest one that it needs, with nothing needed that is newer.
    rides: Vec<bool>,
    /// The last of the nodes that a node needs, itself included, which are not computed element by element.
    newest: Vec<Option<NodeId>>,
    drafts: Vec<Draft>,
    /// For each node not yet visited, who needs it.
    demands: Vec<Vec<Demand>>,
    /// The ops with bodies that need a node in memory, as regions.
    needed_in_memory: Vec<Vec<usize>>,
    /// The region that writes a node.
    writer: Vec<Option<usize>>,
    /// The region that last asked for a node, as a candidate for others that read it.
    last_reader: Vec<Option<usize>>,
    costs: HashMap<(&'static str, DType), Cost>,
    /// Which search last saw a region.
    seen: Vec<u32>,
    search: u32,
}

/// What computing one element takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cost {
    prims: u32,
    /// In units of an addition.
    pub(crate) weight: u32,
}

impl<'a> Cut<'a> {
    fn new(graph: &'a Graph) -> Cut<'a> {
        let mut is_output = vec![false; graph.len()];
        for (_, id) in &graph.outputs {
            is_output[id.at()] = true;
        }
        let mut user_count = vec![0; graph.len()];
        let mut rides = vec![false; graph.len()];
        let mut newest: Vec<Option<NodeId>> = vec![None; graph.len()];
        for (id, node) in graph.nodes() {
            for arg in &node.args {
                user_count[arg.at()] += 1;
            }
            let same_count = |arg: &&NodeId| graph.ty(**arg).count() == node.ty().count();
            let riding = node.args.iter().filter(|arg| rides[arg.at()]);
            let under = match &node.op {
                Op::Map(_) | Op::View(View::Reshape(_) | View::Permute(_)) => {
                    riding.clone().filter(same_count).map(|arg| newest[arg.at()]).max()
                }
                _ => None,
            };
            let before = node.args.iter().map(|arg| newest[arg.at()]).max().flatten();
            let is_light = matches!(
                node.op,
                Op::Input(_) | Op::Const(_) | Op::Iota(_) | Op::Random(_) | Op::Map(_) | Op::View(_)
            );
            let at = id.at();
            if is_contraction(&node.op) {
                (rides[at], newest[at]) = (true, Some(id));
            } else if let Some(contraction) = under.filter(|&contraction| contraction == before) {
                (rides[at], newest[at]) = (true, contraction);
            } else if is_light && riding.count() == 0 {
                newest[at] = before;
            } else {
                newest[at] = Some(id);
            }
        }
        Cut {
            graph,
            is_output,
            user_count,
            rides,
            newest,
            drafts: Vec::new(),
            demands: vec![Vec::new(); graph.len()],
            needed_in_memory: vec![Vec::new(); graph.len()],
            writer: vec![None; graph.len()],
            last_reader: vec![None; graph.len()],
            costs: HashMap::new(),
            seen: Vec::new(),
            search: 0,
        }
    }

    fn add_draft(&mut self, draft: Draft) -> usize {
        self.drafts.push(draft);
        self.seen.push(0);
        self.drafts.len() - 1
    }

    /// A result of an op with bodies: that op's region writes it.
    fn part(&mut self, id: NodeId, of: NodeId) {
        let region = match self.writer[of.at()] {
            Some(region) => region,
            None => self.add_draft(Draft {
                nodes: vec![of],
                is_special: true,
                ..Draft::default()
            }),
        };
        self.writer[of.at()] = Some(region);
        self.drafts[region].outputs.push(id);
        let demands = std::mem::take(&mut self.demands[id.at()]);
        self.store(id, region, &demands, "it is the result of an op with bodies");
    }

    fn compound(&mut self, id: NodeId) {
        let region = self.writer[id.at()].expect("a live op with bodies has a live part");
        for &arg in &self.graph.node(id).args {
            self.needed_in_memory[arg.at()].push(region);
        }
    }

    /// Decides where a node is computed.
    fn place(&mut self, id: NodeId) {
        let node = self.graph.node(id);
        let demands = std::mem::take(&mut self.demands[id.at()]);
        let is_join = joined_parts(self.graph, id).is_some();
        let inlined = match is_join {
            true => Err("its parts are written where they belong".to_owned()),
            false => self.may_inline_everywhere(id, node, &demands),
        };
        let Err(reason) = inlined else {
            for region in regions_of(&demands) {
                self.inline(id, region, &demands);
            }
            return;
        };
        let demanding = regions_of(&demands);
        let host = demanding
            .iter()
            .copied()
            .find(|&region| !is_join && self.may_write(id, node, region, &demands));
        if let Some(host) = host {
            self.inline(id, host, &demands);
            self.drafts[host].outputs.push(id);
            self.store(id, host, &demands, &reason);
            return;
        }
        let sibling = self.sibling(id, node, &demanding);
        let region = match sibling.or_else(|| self.fellow(id, node, &demanding)) {
            Some(region) => region,
            None => self.add_draft(Draft {
                shape: loop_shape(node),
                is_special: is_join || matches!(node.op, Op::Prefix(_) | Op::Scatter(_) | Op::Sort(_)),
                is_join,
                ..Draft::default()
            }),
        };
        self.store(id, region, &demands, &reason);
        self.drafts[region].outputs.push(id);
        let own = Demand {
            region,
            follows: loop_follows(node),
            steps: 1.0,
            packed: None,
            repeated: 0,
            copies: 1,
            is_regrouped: false,
        };
        self.inline(id, region, &[own]);
    }

    /// Records that `region` writes the node and the other regions that need it read it.
    fn store(&mut self, id: NodeId, region: usize, demands: &[Demand], reason: &str) {
        self.writer[id.at()] = Some(region);
        let in_memory = std::mem::take(&mut self.needed_in_memory[id.at()]);
        for reader in regions_of(demands).into_iter().chain(in_memory) {
            if reader != region {
                self.drafts[reader].reads.push(id);
                self.drafts[reader].stopped.push((id, reason.to_owned()));
            }
        }
    }

    /// Makes a region compute the node wherever it asks for it, and so ask for the operands.
    fn inline(&mut self, id: NodeId, region: usize, demands: &[Demand]) {
        let node = self.graph.node(id);
        let cost = self.cost(node);
        let many = regions_of(demands).len() > 1;
        let copies = copies(region, demands);
        let draft = &mut self.drafts[region];
        draft.nodes.push(id);
        draft.operands.retain(|known| *known != id);
        for &arg in node.args.iter().filter(|arg| !is_literal(self.graph.node(**arg))) {
            if !draft.operands.contains(&arg) {
                draft.operands.push(arg);
            }
        }
        draft.prims += cost.prims * copies;
        draft.contractions.extend(is_contraction(&node.op).then_some(id));
        draft.folds += usize::from(matches!(node.op, Op::Fold(_)));
        for demand in demands.iter().filter(|demand| demand.region == region) {
            let repeats = many || self.times(id, demand) > 1.25;
            let repeated = demand.repeated + if repeats { (4 * cost.weight).max(1) } else { 0 };
            for (place, &arg) in node.args.iter().enumerate() {
                if is_leaf(&self.graph.node(arg).op) {
                    self.last_reader[arg.at()] = Some(region);
                    continue;
                }
                let follows = through(self.graph, node, place, &demand.follows);
                let packed = match &node.op {
                    Op::Einsum(_) => Some(MOST_PACKED),
                    // Pieces are what a matrix unit reads.
                    Op::Conv(_) if pieces::joined(self.graph, arg).is_some() => Some(MOST_PACKED),
                    // Each element is read for many results, and zeros around are copied in from memory.
                    Op::Conv(_) => Some(0),
                    _ => demand.packed.map(|left| left.saturating_sub(cost.weight)),
                };
                let steps = demand.steps * steps(self.graph, node);
                let is_regrouped = demand.is_regrouped || regroups(self.graph, node);
                self.ask(
                    arg,
                    Demand {
                        region,
                        follows,
                        steps,
                        packed,
                        repeated,
                        copies: demand.copies.saturating_mul(places(node)),
                        is_regrouped,
                    },
                );
            }
        }
    }

    fn ask(&mut self, id: NodeId, demand: Demand) {
        self.last_reader[id.at()] = Some(demand.region);
        let known = self.demands[id.at()]
            .iter_mut()
            .rev()
            .take(4)
            .find(|known| known.region == demand.region && known.follows == demand.follows);
        match known {
            Some(known) => {
                known.repeated = known.repeated.max(demand.repeated);
                known.steps = known.steps.max(demand.steps);
                known.copies = known.copies.max(demand.copies);
                known.is_regrouped |= demand.is_regrouped;
                known.packed = match (known.packed, demand.packed) {
                    (Some(a), Some(b)) => Some(a.min(b)),
                    (a, b) => a.or(b),
                };
            }
            None => self.demands[id.at()].push(demand),
        }
    }

    /// How many times a region computes each element of a node, on average. What does not use the inner loops is computed outside them.
    fn times(&self, id: NodeId, demand: &Demand) -> f64 {
        if demand.packed.is_some() {
            return 1.0;
        }
        let shape = &self.drafts[demand.region].shape;
        let loops = demand.follows.iter().map(|follow| match follow {
            Follow::Axis(axis) => *axis as usize + 1,
            Follow::Other => shape.len(),
            Follow::Reduced | Follow::One => 0,
        });
        let points: f64 = shape[..loops.max().unwrap_or(0)]
            .iter()
            .map(|&extent| extent as f64)
            .product();
        let is_inside = demand
            .follows
            .iter()
            .any(|follow| matches!(follow, Follow::Reduced | Follow::Other));
        let points = if is_inside { points * demand.steps } else { points };
        points / self.graph.ty(id).count().max(1) as f64
    }

    /// Whether the node need not be stored, or why it must.
    fn may_inline_everywhere(&mut self, id: NodeId, node: &Node, demands: &[Demand]) -> Result<(), String> {
        if self.is_output[id.at()] {
            return Err("it is an output of the graph".to_owned());
        }
        if !self.needed_in_memory[id.at()].is_empty() {
            return Err("an op with bodies needs it in memory".to_owned());
        }
        if matches!(node.op, Op::Prefix(_) | Op::Scatter(_) | Op::Sort(_)) {
            return Err(format!("`{}` is a kernel of its own form", node.op.name()));
        }
        let regions = regions_of(demands);
        for &region in &regions {
            self.fits(id, node, region, demands)?;
        }
        if is_contraction(&node.op) || matches!(node.op, Op::Fold(_)) {
            return match regions.len() {
                1 => Ok(()),
                count => Err(format!("{count} regions need it, and it is not computed twice")),
            };
        }
        let cost = self.cost(node);
        let times: f64 = regions
            .iter()
            .map(|&region| {
                // Several places of one row are one computation: the schedule keeps the row.
                let times = demands
                    .iter()
                    .filter(|demand| demand.region == region)
                    .map(|demand| self.times(id, demand));
                times.fold(0.0, f64::max)
            })
            .sum();
        if times > 1.25 && cost.weight > CHEAP {
            return Err(format!("it would be computed {times:.1} times"));
        }
        if self.newest[id.at()].is_some() && matches!(node.op, Op::Map(_)) && regions.len() > 1 {
            let whole = |arg: &&NodeId| self.graph.ty(**arg).count() == node.ty().count();
            let read = node.args.iter().filter(whole);
            let reads_one = read.filter(|arg| !is_view(&self.graph.node(**arg).op)).count() == 1;
            if !(reads_one && self.is_made_from_stored(id, node, cost)) {
                return Err(match self.rides[id.at()] {
                    true => "it rides on the contraction before it".to_owned(),
                    false => format!("{} regions need it, and it comes after a fold", regions.len()),
                });
            }
        }
        let most = demands.iter().map(|demand| demand.repeated).max().unwrap_or(0);
        let repeats = regions.len() > 1 || times > 1.25;
        if repeats && most + (4 * cost.weight).max(1) > 4 * MOST_REPEATED {
            return Err("too much would be computed more than once".to_owned());
        }
        Ok(())
    }

    /// How many tensors a region reads or needs room for when it computes this node too.
    fn tensors_with(&self, region: usize, id: NodeId, node: &Node) -> usize {
        let operands = &self.drafts[region].operands;
        let new = node.args.iter().enumerate().filter(|(place, arg)| {
            let is_known = operands.contains(arg) || node.args[..*place].contains(arg);
            !is_known && !is_literal(self.graph.node(**arg))
        });
        let folds = self.drafts[region].folds + usize::from(matches!(node.op, Op::Fold(_)));
        operands.len() - usize::from(operands.contains(&id)) + new.count() + folds
    }

    /// Whether a region can compute the node wherever it asks for it, or why not.
    fn fits(&mut self, id: NodeId, node: &Node, region: usize, demands: &[Demand]) -> Result<(), String> {
        let cost = self.cost(node);
        let draft = &self.drafts[region];
        let prims = cost.prims.saturating_mul(copies(region, demands));
        if draft.prims + prims > MOST_PRIMS || draft.nodes.len() >= MOST_NODES {
            return Err(format!("the kernel has {} primitives already", draft.prims));
        }
        if self.tensors_with(region, id, node) > MOST_TENSORS {
            return Err("the kernel has as many tensors as a device can bind".to_owned());
        }
        if draft.is_join && !matches!(node.op, Op::View(View::Reshape(_))) {
            return Err("it is written where it belongs".to_owned());
        }
        let name = node.op.name();
        let here = || demands.iter().filter(|demand| demand.region == region);
        if is_contraction(&node.op) {
            if draft.is_special {
                return Err(format!("`{name}` is computed in tiles, this region is not"));
            }
            if let &[outer, ref others @ ..] = &draft.contractions[..] {
                return match others.is_empty() && are_transforms(self.graph, id, outer) {
                    true => Ok(()),
                    false => Err("a kernel has one contraction".to_owned()),
                };
            }
            if draft.folds > 0 {
                return Err(format!("`{name}` is computed in tiles, and the region folds rows"));
            }
            if !here().all(|demand| self.is_bijection(id, demand)) {
                return Err(format!("`{name}` is not needed once at each point"));
            }
            return Ok(());
        }
        if let Op::Fold(fold) = &node.op {
            if !draft.contractions.is_empty() || draft.is_special {
                return Err(format!("`{name}` does not fit in a kernel of this form"));
            }
            let operand = self.graph.ty(node.args[0]);
            let is_tiny = operand.count() <= TINY;
            let is_row = here().all(|demand| {
                let all_one = demand.follows.iter().all(|follow| *follow == Follow::One);
                let is_whole = draft.shape.iter().product::<usize>() <= 1;
                is_prefix(&demand.follows) && (!all_one || is_whole || is_tiny || fold.axes.is_empty())
            });
            return match is_row {
                true => Ok(()),
                false => Err(format!("`{name}` is not a statistic of the region's rows")),
            };
        }
        for demand in here() {
            if let Some(left) = demand.packed {
                match &node.op {
                    Op::View(_) | Op::Iota(_) => {}
                    Op::Map(_) if self.rides[id.at()] => return Err("it rides on the contraction before it".to_owned()),
                    Op::Map(_) if demand.is_regrouped => {
                        return Err("an operand of a contraction is computed in its own order".to_owned());
                    }
                    Op::Map(_) if cost.weight <= left => {}
                    _ => return Err("an operand of a contraction computes only what is cheap".to_owned()),
                }
            } else if self.rides[id.at()]
                && matches!(node.op, Op::Map(_))
                && !self.is_bijection(id, demand)
                && !self.is_made_from_stored(id, node, cost)
            {
                return Err("it rides on the contraction before it".to_owned());
            }
        }
        Ok(())
    }

    /// Whether repeating a little beats storing it, as what it is made from has other users and is stored anyway.
    fn is_made_from_stored(&self, id: NodeId, node: &Node, cost: Cost) -> bool {
        let count = self.graph.ty(id).count();
        let computed = |arg: &&NodeId| self.newest[arg.at()].is_some() && self.graph.ty(**arg).count() == count;
        cost.weight <= 2
            && node
                .args
                .iter()
                .filter(computed)
                .all(|arg| self.user_count[arg.at()] > 1)
    }

    /// Whether each element of the node is needed at exactly one point of the region's loops, and at each point one.
    fn is_bijection(&self, id: NodeId, demand: &Demand) -> bool {
        let shape = &self.drafts[demand.region].shape;
        let mut axes: Vec<u32> = Vec::new();
        for follow in &demand.follows {
            match follow {
                Follow::Axis(axis) => axes.push(*axis),
                Follow::One => {}
                Follow::Reduced | Follow::Other => return false,
            }
        }
        axes.sort_unstable();
        axes.dedup();
        let reached: usize = axes.iter().map(|&axis| shape[axis as usize]).product();
        let count = self.graph.ty(id).count();
        reached == count && count == shape.iter().product::<usize>()
    }

    /// Whether a region that needs the node can also write it: it computes it at every point of its outer loops, and no cycle arises.
    fn may_write(&mut self, id: NodeId, node: &Node, region: usize, demands: &[Demand]) -> bool {
        let draft = &self.drafts[region];
        if draft.is_special
            || draft.outputs.len() >= MOST_OUTPUTS
            || matches!(node.op, Op::Prefix(_) | Op::Scatter(_) | Op::Sort(_))
        {
            return false;
        }
        let shape = &node.ty().shape;
        let is_own_index = |demand: &Demand| {
            let straight = demand
                .follows
                .iter()
                .zip(0..)
                .all(|(follow, axis)| *follow == Follow::Axis(axis));
            demand.region == region && demand.packed.is_none() && straight
        };
        if !draft.shape.starts_with(shape) || !demands.iter().any(is_own_index) {
            return false;
        }
        // A reader of a fold's operand must not be made to wait for the whole kernel's rows for the sake of a scalar.
        if shape.is_empty() && !draft.shape.is_empty() && !matches!(node.op, Op::Fold(_)) {
            return false;
        }
        self.fits(id, node, region, demands).is_ok() && !self.reaches(region, demands, id)
    }

    /// A region that reads what the node reads, loops over the same shape, and can compute and write it too.
    fn sibling(&mut self, id: NodeId, node: &Node, demanding: &[usize]) -> Option<usize> {
        let graph = self.graph;
        let shape = match &node.op {
            // An epilogue has a better place.
            Op::Map(_) if self.rides[id.at()] => return None,
            Op::Map(_) => &node.ty().shape,
            Op::Pool(pool) if pool.is_small() => &node.ty().shape,
            // A statistic of rows joins those that fold the same rows.
            Op::Fold(fold) => {
                let operand = &graph.ty(node.args[0]).shape;
                let is_row = fold
                    .axes
                    .iter()
                    .copied()
                    .eq(operand.len() - fold.axes.len()..operand.len());
                if !is_row {
                    return None;
                }
                operand
            }
            _ => return None,
        };
        self.shared_reads(node).into_iter().find_map(|shared| {
            let region = self.last_reader[shared.at()]?;
            self.takes_in(region, id, node, shape, demanding).then_some(region)
        })
    }

    /// A region that can write a part of what is joined, one that writes another part or reads what it is made from: parts of a gradient
    /// are mostly made from the same values.
    fn fellow(&mut self, id: NodeId, node: &Node, demanding: &[usize]) -> Option<usize> {
        if !matches!(node.op, Op::Map(_) | Op::Random(_)) || self.rides[id.at()] {
            return None;
        }
        let mut joins = demanding
            .iter()
            .filter(|&&region| self.drafts[region].is_join)
            .peekable();
        joins.peek()?;
        let parts = joins.flat_map(|&join| &self.drafts[join].reads);
        let writers = parts.filter_map(|part| self.writer[part.at()]);
        let made_from = self.made_from(id);
        let readers = made_from.iter().filter_map(|from| self.last_reader[from.at()]);
        let candidates: Vec<usize> = writers.chain(readers).collect();
        (candidates.into_iter()).find(|&region| self.takes_in(region, id, node, &node.ty().shape, demanding))
    }

    /// Whether a region over this shape can compute and write a node that `demanding` regions need.
    fn takes_in(&mut self, region: usize, id: NodeId, node: &Node, shape: &[usize], demanding: &[usize]) -> bool {
        let cost = self.cost(node);
        let draft = &self.drafts[region];
        let fits = draft.prims + cost.prims <= MOST_PRIMS
            && draft.nodes.len() < MOST_NODES
            && draft.outputs.len() < MOST_OUTPUTS
            && self.tensors_with(region, id, node) <= MOST_TENSORS
            && draft.shape == *shape
            && (draft.folds > 0 || !matches!(node.op, Op::Fold(_)))
            && !draft.is_special
            && draft.contractions.is_empty()
            && !draft.outputs.iter().any(|output| self.rides[output.at()]);
        fits && !demanding.contains(&region) && !self.reaches_any(region, demanding, id)
    }

    /// What a node reads at its own elements that another region may read too.
    fn shared_reads(&self, node: &Node) -> Vec<NodeId> {
        let graph = self.graph;
        match &node.op {
            Op::Pool(_) => node.args.clone(),
            Op::Fold(_) => {
                // Rows are taken apart in several ways.
                let mut found = node.args.clone();
                found.extend(self.made_from(node.args[0]));
                found
            }
            _ => {
                let count = node.ty().count();
                let same =
                    |&&arg: &&NodeId| count > 1 && graph.ty(arg).count() == count && !is_view(&graph.node(arg).op);
                let shared = |&arg: &NodeId| match &graph.node(arg).op {
                    // The greatest of a window and where it is are found by the same comparisons.
                    Op::Pool(pool) if pool.is_small() => graph.node(arg).args[0],
                    _ => arg,
                };
                node.args.iter().filter(same).map(shared).collect()
            }
        }
    }

    /// What a node is computed from at its own elements, a few maps deep.
    fn made_from(&self, id: NodeId) -> Vec<NodeId> {
        let (graph, mut found) = (self.graph, vec![id]);
        for next in 0..8 {
            let Some(&id) = found.get(next) else { break };
            if let Node {
                op: Op::Map(_), args, ..
            } = graph.node(id)
            {
                let is_same = |arg: &&NodeId| graph.ty(**arg).count() == graph.ty(found[0]).count();
                let args = args.iter().filter(is_same);
                found.extend(
                    args.filter(|arg| !is_view(&graph.node(**arg).op))
                        .copied()
                        .collect::<Vec<_>>(),
                );
            }
        }
        found.split_off(1)
    }

    fn reaches(&mut self, region: usize, demands: &[Demand], id: NodeId) -> bool {
        let others: Vec<usize> = regions_of(demands)
            .into_iter()
            .filter(|&other| other != region)
            .collect();
        self.reaches_any(region, &others, id)
    }

    /// Whether `region` reads, directly or not, what one of the regions `others`, which all need node `id`, writes; or the search takes long.
    fn reaches_any(&mut self, region: usize, others: &[usize], id: NodeId) -> bool {
        let others: HashSet<usize> = others.iter().chain(&self.needed_in_memory[id.at()]).copied().collect();
        if others.is_empty() {
            return false;
        }
        self.search += 1;
        let mut open = vec![region];
        let mut steps = 0;
        while let Some(region) = open.pop() {
            for read in &self.drafts[region].reads {
                steps += 1;
                let writer = self.writer[read.at()].expect("what is read is written");
                if others.contains(&writer) || steps > MOST_SEARCHED {
                    return true;
                }
                if self.seen[writer] != self.search {
                    self.seen[writer] = self.search;
                    open.push(writer);
                }
            }
        }
        false
    }

    fn cost(&mut self, node: &Node) -> Cost {
        let flat = |cost| Cost {
            prims: cost,
            weight: cost,
        };
        match &node.op {
            Op::Map(map) => {
                let dtypes: Vec<DType> = node.args.iter().map(|&arg| self.graph.ty(arg).dtype).collect();
                let key = (map.0.name, dtypes.last().copied().unwrap_or(node.ty().dtype));
                match self.costs.get(&key) {
                    Some(cost) => *cost,
                    None => {
                        let cost = map_cost(map.0, &dtypes, node.ty().dtype);
                        self.costs.insert(key, cost);
                        cost
                    }
                }
            }
            Op::View(View::Concat(_)) => flat(2 * node.args.len() as u32),
            Op::View(View::Pad { .. }) => flat(2),
            Op::View(View::Reshape(_)) => Cost { prims: 1, weight: 0 },
            Op::View(_) => flat(0),
            Op::Iota(_) | Op::Fold(_) => flat(1),
            Op::Einsum(_) | Op::Conv(_) => flat(4),
            Op::Pool(pool) if pool.is_small() => flat(5 * places(node)),
            Op::Pool(_) => flat(4),
            Op::Gather(_) => flat(4),
            // A quarter of the generator: the words of a counter share a kernel.
            Op::Random(_) => flat(20),
            Op::Input(_) | Op::Const(_) | Op::Part(_) => flat(0),
            Op::Prefix(_) | Op::Scatter(_) | Op::Sort(_) | Op::Scan(_) | Op::If(_) | Op::While(_) => flat(1),
        }
    }

    /// The regions, each after those that write what it reads, and otherwise in the order of the graph.
    fn finish(self) -> Vec<Region> {
        let mut order = Vec::new();
        let mut is_placed = vec![false; self.drafts.len()];
        for first in (0..self.drafts.len()).rev() {
            let mut open = vec![(first, false)];
            while let Some((region, reads_done)) = open.pop() {
                if is_placed[region] {
                    continue;
                }
                if reads_done {
                    is_placed[region] = true;
                    order.push(region);
                    continue;
                }
                open.push((region, true));
                let reads = self.drafts[region].reads.iter();
                let before = reads.map(|read| self.writer[read.at()].expect("what is read is written"));
                open.extend(
                    before
                        .filter(|&region| !is_placed[region])
                        .map(|region| (region, false)),
                );
            }
        }
        let mut drafts: Vec<Option<Draft>> = self.drafts.into_iter().map(Some).collect();
        let take = |region: usize| {
            let mut draft = drafts[region].take().expect("each region once");
            draft.outputs.sort_unstable();
            Region::new(self.graph, draft.nodes, draft.outputs, draft.stopped)
        };
        order.into_iter().map(take).collect()
    }
}

/// The regions that ask, each once, in the order of their first demand.
fn regions_of(demands: &[Demand]) -> Vec<usize> {
    let mut regions: Vec<usize> = demands.iter().map(|demand| demand.region).collect();
    regions.sort_unstable();
    regions.dedup();
    regions
}

/// How often the code of a node stands in a region that asks for it so.
fn copies(region: usize, demands: &[Demand]) -> u32 {
    let here = demands.iter().filter(|demand| demand.region == region);
    here.map(|demand| demand.copies).max().unwrap_or(1)
}

/// The number of places at which a node asks for its operand, each with code of its own.
fn places(node: &Node) -> u32 {
    match &node.op {
        Op::Pool(pool) if pool.is_small() => pool.window.size.iter().product::<usize>() as u32,
        _ => 1,
    }
}

/// Whether a node is a reshape that splits or joins axes.
fn regroups(graph: &Graph, node: &Node) -> bool {
    let Op::View(View::Reshape(shape)) = &node.op else {
        return false;
    };
    let axes: Vec<Follow> = (0..shape.len() as u32).map(Follow::Axis).collect();
    reshaped(shape, &axes, &graph.ty(node.args[0]).shape).contains(&Follow::Other)
}

fn is_leaf(op: &Op) -> bool {
    matches!(op, Op::Input(_) | Op::Const(_))
}

/// Whether a node stands in the code as a number.
fn is_literal(node: &Node) -> bool {
    matches!(node.op, Op::Const(_)) && node.ty().count() == 1
}

fn is_view(op: &Op) -> bool {
    matches!(op, Op::View(_) | Op::Iota(_) | Op::Const(_))
}

fn is_contraction(op: &Op) -> bool {
    match op {
        Op::Einsum(_) | Op::Conv(_) => true,
        Op::Pool(pool) => !pool.is_small(),
        _ => false,
    }
}

/// Whether these are the outermost axes in order.
fn is_prefix(follows: &[Follow]) -> bool {
    let axes = follows.iter().filter(|follow| **follow != Follow::One);
    axes.zip(0..).all(|(follow, axis)| *follow == Follow::Axis(axis))
}

/// The extents of the parallel loops of a region made for this node.
fn loop_shape(node: &Node) -> Vec<usize> {
    let mut shape = node.ty().shape.clone();
    if let Op::Prefix(crate::ops::Prefix { axis, .. }) | Op::Sort(crate::ops::Sort { axis, .. }) = &node.op {
        let extent = shape.remove(*axis);
        shape.push(extent);
    }
    shape
}

/// How the node's own index follows those loops.
fn loop_follows(node: &Node) -> Vec<Follow> {
    let shape = &node.ty().shape;
    let axes = 0..shape.len() as u32;
    let mut follows: Vec<Follow> = axes.map(Follow::Axis).collect();
    if let Op::Prefix(crate::ops::Prefix { axis, .. }) | Op::Sort(crate::ops::Sort { axis, .. }) = &node.op {
        let last = follows.pop().expect("the axis itself");
        follows.insert(*axis, last);
    }
    follows
}

/// The number of steps of the fold that a node is.
fn steps(graph: &Graph, node: &Node) -> f64 {
    let shape = |arg: usize| &graph.ty(node.args[arg]).shape;
    let product = |extents: &mut dyn Iterator<Item = usize>| extents.map(|extent| extent as f64).product::<f64>();
    match &node.op {
        Op::Fold(fold) => product(&mut fold.axes.iter().map(|&axis| shape(0)[axis])),
        Op::Pool(pool) => product(&mut pool.window.size.iter().copied()),
        _ => 1.0,
    }
}

/// How the index of operand `place` follows the loops, where the node's own follows them so.
fn through(graph: &Graph, node: &Node, place: usize, follows: &[Follow]) -> Vec<Follow> {
    let shape = &graph.ty(node.args[place]).shape;
    let rank = shape.len();
    let unless = |is_moved: bool, axis: usize| if is_moved { Follow::Other } else { follows[axis] };
    let mut found: Vec<Follow> = match &node.op {
        Op::Map(_) => follows.to_vec(),
        Op::Fold(fold) => {
            let mut kept = follows.iter().copied();
            let follow = |axis| match fold.axes.contains(&axis) {
                true => Follow::Reduced,
                false => kept.next().expect("an axis that is not folded is the result's"),
            };
            (0..rank).map(follow).collect()
        }
        Op::View(view) => match view {
            View::Reshape(_) => reshaped(&node.ty().shape, follows, shape),
            View::Permute(order) => {
                let mut found = vec![Follow::One; rank];
                for (&axis, &follow) in order.iter().zip(follows) {
                    found[axis] = follow;
                }
                found
            }
            View::Broadcast(_) => follows[follows.len() - rank..].to_vec(),
            View::Slice { start, step, count } => {
                let is_whole = |axis: usize| start[axis] == 0 && step[axis] == 1 && count[axis] == shape[axis];
                (0..rank).map(|axis| unless(!is_whole(axis), axis)).collect()
            }
            View::Pad { low, inner, .. } => {
                let result = &node.ty().shape;
                let is_whole = |axis: usize| low[axis] == 0 && inner[axis] == 0 && result[axis] == shape[axis];
                (0..rank).map(|axis| unless(!is_whole(axis), axis)).collect()
            }
            View::Flip(axes) => (0..rank).map(|axis| unless(axes.contains(&axis), axis)).collect(),
            View::Concat(along) => (0..rank)
                .map(|axis| unless(axis == *along && node.args.len() > 1, axis))
                .collect(),
            View::Windows { axes, .. } => (0..rank).map(|axis| unless(axes.contains(&axis), axis)).collect(),
        },
        Op::Einsum(einsum) => {
            let letters = if place == 0 { &einsum.left } else { &einsum.right };
            let at = |letter| einsum.out.iter().position(|other| other == letter);
            letters
                .iter()
                .map(|letter| at(letter).map_or(Follow::Reduced, |axis| follows[axis]))
                .collect()
        }
        Op::Conv(_) => {
            let (outer, spatial) = if place == 0 {
                (0, Follow::Other)
            } else {
                (1, Follow::Reduced)
            };
            let mut found = vec![spatial; rank];
            found[0] = follows[outer];
            found[1] = Follow::Reduced;
            found
        }
        Op::Pool(pool) => (0..rank)
            .map(|axis| unless(axis + pool.window.size.len() >= rank, axis))
            .collect(),
        Op::Gather(gather) => {
            let indexed = graph.ty(node.args[1]).rank();
            match place {
                0 => {
                    let after = gather.axis + indexed;
                    let follow = |axis: usize| match axis.cmp(&gather.axis) {
                        std::cmp::Ordering::Less => follows[axis],
                        std::cmp::Ordering::Equal => Follow::Other,
                        std::cmp::Ordering::Greater => follows[after + axis - gather.axis - 1],
                    };
                    (0..rank).map(follow).collect()
                }
                _ => follows[gather.axis..gather.axis + indexed].to_vec(),
            }
        }
        Op::Prefix(_) | Op::Sort(_) => follows.to_vec(),
        Op::Scatter(_) if place == 0 => follows.to_vec(),
        // Updates are taken in order, whatever loops over the result there are.
        Op::Scatter(_) => vec![Follow::Reduced; rank],
        Op::Random(_) => vec![Follow::One; rank],
        Op::Input(_) | Op::Const(_) | Op::Iota(_) | Op::Scan(_) | Op::If(_) | Op::While(_) | Op::Part(_) => {
            unreachable!("`{}` asks for no operand at an index", node.op.name())
        }
    };
    for (follow, &extent) in found.iter_mut().zip(shape) {
        if extent == 1 {
            *follow = Follow::One;
        }
    }
    found
}

/// The axes of a reshape's operand: those that the reshape leaves alone follow as the result's do.
fn reshaped(to: &[usize], follows: &[Follow], from: &[usize]) -> Vec<Follow> {
    let real = |shape: &[usize]| -> Vec<usize> { (0..shape.len()).filter(|&axis| shape[axis] != 1).collect() };
    let (to_axes, from_axes) = (real(to), real(from));
    let same = |pair: &(&usize, &usize)| to[*pair.0] == from[*pair.1];
    let before = to_axes.iter().zip(&from_axes).take_while(same).count();
    let left = (to_axes.len() - before).min(from_axes.len() - before);
    let after = to_axes
        .iter()
        .rev()
        .zip(from_axes.iter().rev())
        .take(left)
        .take_while(same)
        .count();
    let mut found = vec![Follow::One; from.len()];
    for (position, &axis) in from_axes.iter().enumerate() {
        let from_end = from_axes.len() - position;
        found[axis] = if position < before {
            follows[to_axes[position]]
        } else if from_end <= after {
            follows[to_axes[to_axes.len() - from_end]]
        } else {
            Follow::Other
        };
    }
    found
}

/// What the body of a row costs, counted on the body itself.
pub(crate) fn map_cost(def: &'static MapDef, dtypes: &[DType], result: DType) -> Cost {
    let exprs = std::cell::RefCell::new(Exprs::default());
    let load = |(at, &dtype): (usize, &DType)| {
        let id = exprs
            .borrow_mut()
            .load(crate::kernel::BufferId(at as u32), dtype, Vec::new(), false);
        X::new(&exprs, id)
    };
    let args: Vec<X<'_>> = dtypes.iter().enumerate().map(load).collect();
    def.apply(&args, result);
    let exprs = exprs.borrow();
    let weight = |id| match exprs.get(id) {
        Expr::Prim(Prim::Div | Prim::Rem | Prim::Sqrt, ..) => 4,
        Expr::Prim(..) => 1,
        _ => 0,
    };
    let weights: Vec<u32> = exprs.ids().map(weight).collect();
    Cost {
        prims: weights.iter().filter(|&&weight| weight > 0).count() as u32,
        weight: weights.iter().sum(),
    }
}

/// As dumps show it: the nodes, what is read and written, and why it is not larger.
impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |ids: &[NodeId]| ids.iter().map(NodeId::to_string).collect::<Vec<_>>().join(" ");
        let kind = match self.kind {
            RegionKind::Kernel => "kernel",
            RegionKind::Compound => "compound",
        };
        let (nodes, inputs, outputs) = (list(&self.nodes), list(&self.inputs), list(&self.outputs));
        write!(f, "{kind} {nodes} | reads {inputs} | writes {outputs}")?;
        for (id, reason) in &self.stopped {
            write!(f, "\n    without {id}: {reason}")?;
        }
        Ok(())
    }
}
