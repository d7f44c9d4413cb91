//! Graphs that say how they are cut, so that the text of a later stage is read and gone on from: by the compiler's own choice ([`cut`]), or by
//! whoever wrote the text, whose regions are checked as every other stage's result is.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use super::{
    MOST_NODES, MOST_OUTPUTS, Region, RegionKind, are_transforms, inputs_of, is_contraction, joined_parts, places,
    regions,
};
use crate::error::Problem;
use crate::graph::{Graph, NodeId};
use crate::kernel::verify::{Broken, verify, verify_kernel};
use crate::kernel::{Buffer, Kernel, Nest, Role};
use crate::ops::Op;
use crate::target::Target;
use crate::verify::{bodies, has_bodies};

/// The most values at different indices that one kernel computes: what bounds a kernel, whatever regions a text asks for.
const MOST_VALUES: usize = 4096;

/// The graph with its regions, and so every body in it.
#[must_use]
pub fn cut(graph: &Graph) -> Graph {
    let cut = graph.with_bodies(cut);
    let regions = regions(&cut);
    cut.with_regions(regions)
}

/// What a text gives of what becomes of a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Given {
    /// What each element of its results is, for which a schedule is then chosen.
    Kernel(Arc<Kernel>),
    /// Its loops with every decision made.
    Nest(Arc<Nest>),
}

impl Given {
    /// The nest, if it is one for another machine than this.
    fn foreign_nest(&self, target: &Target) -> Option<&Nest> {
        match self {
            Given::Nest(nest) if nest.kind != target.kind || nest.has_pieces() && !target.pieces => Some(nest),
            Given::Nest(_) | Given::Kernel(_) => None,
        }
    }
}

impl fmt::Display for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Given::Kernel(kernel) => kernel.fmt(f),
            Given::Nest(nest) => nest.fmt(f),
        }
    }
}

impl Region {
    /// A region of these nodes, in graph order, that writes these results; what it reads, and whether it is a kernel, follow.
    pub fn new(graph: &Graph, mut nodes: Vec<NodeId>, outputs: Vec<NodeId>, stopped: Vec<(NodeId, String)>) -> Region {
        nodes.sort_unstable();
        nodes.dedup();
        let is_compound = nodes.iter().any(|&id| has_bodies(&graph.node(id).op));
        Region {
            kind: if is_compound {
                RegionKind::Compound
            } else {
                RegionKind::Kernel
            },
            inputs: inputs_of(graph, &nodes),
            nodes,
            outputs,
            stopped,
            given: None,
        }
    }
}

/// What is wrong with regions of a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// The number of the region; none if one is missing.
    pub region: Option<usize>,
    /// The number of the statement of its kernel or nest, if it is one's fault ([`Broken`]).
    pub stmt: Option<usize>,
    /// What it is.
    pub message: String,
}

/// Whether every stage after this one can rely on these regions of a graph.
///
/// # Errors
/// Everything that is wrong.
pub fn check(graph: &Graph, regions: &[Region]) -> Result<(), Vec<Wrong>> {
    let mut wrong = Vec::new();
    let mut written: HashSet<NodeId> = HashSet::new();
    let parts: HashSet<NodeId> = graph.ids().filter_map(|id| joined_parts(graph, id)).flatten().collect();
    for (number, region) in regions.iter().enumerate() {
        let found = match region.kind {
            RegionKind::Compound => compound_problem(graph, region),
            RegionKind::Kernel => kernel_problem(graph, region),
        };
        let is_late = |id: &&NodeId| !is_given(&graph.node(**id).op) && !written.contains(id);
        let late = region.inputs.iter().find(is_late).map(|id| {
            format!("the region reads {id}, which no region before it writes: let it hold {id} too, or let one before it write {id}")
        });
        let twice = region.outputs.iter().find(|id| !written.insert(**id));
        let twice = twice.map(|id| format!("{id} is written twice: let one region write it, once"));
        let broken = match (&found, &region.given) {
            (None, Some(given)) => check_given(graph, region, given, &parts).err().unwrap_or_default(),
            _ => Vec::new(),
        };
        let own = [found, late, twice].into_iter().flatten();
        let own = own.map(|message| Broken { stmt: None, message });
        wrong.extend(own.chain(broken).map(|Broken { stmt, message }| Wrong {
            region: Some(number),
            stmt,
            message,
        }));
    }
    for (name, id) in &graph.outputs {
        if !is_given(&graph.node(*id).op) && !written.contains(id) {
            wrong.push(Wrong {
                region: None,
                stmt: None,
                message: format!("no region writes {id}, the output `{name}`"),
            });
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong) }
}

/// Whether a node's value lies in memory before any region runs.
fn is_given(op: &Op) -> bool {
    matches!(op, Op::Input(_) | Op::Const(_))
}

fn compound_problem(graph: &Graph, region: &Region) -> Option<String> {
    let [id] = region.nodes[..] else {
        return Some("an op with bodies is a region of its own".to_owned());
    };
    let is_part = |output: &NodeId| {
        let node = graph.node(*output);
        matches!(node.op, Op::Part(_)) && node.args == [id]
    };
    let other = region.outputs.iter().find(|output| !is_part(output));
    other.map(|output| format!("the region writes {output}, which is no part of {id}"))
}

fn kernel_problem(graph: &Graph, region: &Region) -> Option<String> {
    let ops = || region.nodes.iter().map(|&id| (id, &graph.node(id).op));
    if region.outputs.is_empty() || region.outputs.len() > MOST_OUTPUTS {
        let count = region.outputs.len();
        return Some(format!(
            "a region writes from 1 to {MOST_OUTPUTS} values, this one {count}"
        ));
    }
    if region.nodes.len() > MOST_NODES {
        return Some(format!(
            "a region holds at most {MOST_NODES} nodes, this one {}",
            region.nodes.len()
        ));
    }
    if let Some(output) = region.outputs.iter().find(|output| !region.nodes.contains(output)) {
        return Some(format!("the region writes {output} and does not hold it"));
    }
    if let Some((id, op)) = ops().find(|(_, op)| is_given(op) || matches!(op, Op::Part(_))) {
        return Some(format!(
            "{id}, of `{}`, is read from memory: no region holds it",
            op.name()
        ));
    }
    let is_special = |op: &Op| matches!(op, Op::Prefix(_) | Op::Scatter(_) | Op::Sort(_));
    let contractions = ops().filter(|(_, op)| is_contraction(op)).map(|(id, _)| id);
    let contractions: Vec<NodeId> = contractions.collect();
    let folds = ops().any(|(_, op)| matches!(op, Op::Fold(_)));
    let is_alone = match contractions[..] {
        [] => true,
        [_] => !folds,
        [inner, outer] => !folds && are_transforms(graph, inner, outer),
        _ => false,
    };
    if let Some((id, op)) = ops().find(|(_, op)| is_special(op)) {
        if region.outputs != [id] || !contractions.is_empty() || ops().filter(|(_, op)| is_special(op)).count() > 1 {
            let name = op.name();
            return Some(format!(
                "`{name}`, {id}, is all that its region writes, and stands with no contraction or other of its kind"
            ));
        }
    } else if !is_alone {
        return Some("a region has one contraction, or folds; put the others into regions before it".to_owned());
    }
    let shape = |id: &NodeId| &graph.ty(*id).shape;
    let widest = region.outputs.iter().max_by_key(|id| shape(id).len())?;
    if let Some(other) = region.outputs.iter().find(|id| !shape(widest).starts_with(shape(id))) {
        return Some(format!(
            "one region cannot write both {widest} and {other}: the shape of one must begin with the other's"
        ));
    }
    let too_large =
        || format!("the region computes more than {MOST_VALUES} values at different indices: cut it into several");
    (!is_small(graph, region)).then(too_large)
}

/// What is wrong with a region's kernel or nest: it reads and writes what its region does, and nothing else, within its buffers.
fn check_given(graph: &Graph, region: &Region, given: &Given, parts: &HashSet<NodeId>) -> Result<(), Vec<Broken>> {
    let other = |message| vec![Broken { stmt: None, message }];
    match given {
        Given::Kernel(kernel) => {
            let is_it = |found: &Buffer, id: NodeId| found.ty == *graph.ty(id);
            check_buffers(graph, region, "kernel", &kernel.buffers, is_it).map_err(other)?;
            verify_kernel(kernel)
        }
        Given::Nest(nest) => {
            // A schedule may see a tensor in another shape, and a part with the layout of its whole: the planner, who knows where that lies, checks
            // how far the nest goes.
            let is_alike = |found: &Buffer, id: NodeId| {
                let (ty, count) = (graph.ty(id), found.ty.count());
                found.ty.dtype == ty.dtype
                    && (count == ty.count() || count > ty.count() && parts.contains(&id))
                    && found.ty.layout.len(&found.ty.shape) == count
            };
            check_buffers(graph, region, "nest", &nest.buffers, is_alike).map_err(other)?;
            verify(nest)
        }
    }
}

/// A problem for each region of a graph, and of the bodies in it, that comes with a nest for another machine than this.
pub fn foreign(graph: &Graph, target: &Target) -> Vec<Problem> {
    let kind = target.kind;
    let own = graph.regions().iter().filter_map(|region| {
        let Nest { name, kind: other, .. } = region.given.as_ref()?.foreign_nest(target)?;
        let (message, note) = if *other == kind {
            (
                format!("the nest `{name}` has contractions in pieces, and the program is compiled for a CPU without a matrix unit"),
                String::from("leave the nest out, and one is chosen; or take `--cpu x86-64-v4-amx`, where the machine has it"),
            )
        } else {
            (
                format!("the nest `{name}` is for {other}, and the program is compiled for {kind}"),
                format!(
                    "leave the nest out, and one is chosen; or take `--device {other}`, or dump the model with `--device {kind}`"
                ),
            )
        };
        let mut problem = Problem::new(message, graph.node(region.outputs[0]).loc.clone());
        problem.notes.push(note);
        Some(problem)
    });
    let bodies = graph.nodes().flat_map(|(_, node)| bodies(&node.op));
    own.chain(bodies.flat_map(|(_, body)| foreign(&body, target))).collect()
}

/// The graph without these nests.
#[must_use]
pub fn without_foreign(graph: &Graph, target: &Target) -> Graph {
    let changed = graph.with_bodies(|body| without_foreign(body, target));
    let regions = graph.regions().iter().map(|region| Region {
        given: (region.given.clone()).filter(|given| given.foreign_nest(target).is_none()),
        ..region.clone()
    });
    changed.with_regions(regions.collect())
}

fn check_buffers(
    graph: &Graph,
    region: &Region,
    what: &str,
    buffers: &[Buffer],
    is_alike: impl Fn(&Buffer, NodeId) -> bool,
) -> Result<(), String> {
    if region.kind == RegionKind::Compound {
        return Err(format!("an op with bodies has no {what}: its bodies have"));
    }
    let roles = [(&region.inputs, Role::Input), (&region.outputs, Role::Output)];
    let values = roles
        .into_iter()
        .flat_map(|(ids, role)| ids.iter().map(move |&id| (id, role)));
    let mut buffers = buffers.iter();
    for (id, role) in values {
        let (ty, verb) = (graph.ty(id), if role == Role::Input { "reads" } else { "writes" });
        let is_there = |found: &Buffer| found.role == role && is_alike(found, id);
        if !buffers.next().is_some_and(is_there) {
            return Err(format!(
                "the region {verb} {id}, a {ty}, and its {what} has no buffer for that in its place"
            ));
        }
    }
    match buffers.find(|buffer| matches!(buffer.role, Role::Input | Role::Output)) {
        Some(Buffer { name, .. }) => Err(format!(
            "the {what} has the buffer `{name}`, which its region neither reads nor writes"
        )),
        None => Ok(()),
    }
}

/// Whether a kernel computes no more values than it may. A node is computed once for each way on which its index changes from the region's
/// results to it: on the same way its value is known, as it is to all operands of an elementwise function.
fn is_small(graph: &Graph, region: &Region) -> bool {
    let mut ways: HashMap<NodeId, HashSet<u64>> = HashMap::new();
    let mut count = 0;
    for &id in region.nodes.iter().rev() {
        let mut own = ways.remove(&id).unwrap_or_default();
        if region.outputs.contains(&id) {
            own.insert(0);
        }
        count += own.len();
        let node = graph.node(id);
        if count * places(node) as usize > MOST_VALUES {
            return false;
        }
        for (place, arg) in node.args.iter().enumerate() {
            let on = ways.entry(*arg).or_default();
            match node.op {
                Op::Map(_) => on.extend(&own),
                _ => on.extend(own.iter().flat_map(|&way| {
                    (0..places(node)).map(move |copy| {
                        let mut hasher = DefaultHasher::new();
                        (way, id, place, copy).hash(&mut hasher);
                        hasher.finish()
                    })
                })),
            }
        }
    }
    true
}
