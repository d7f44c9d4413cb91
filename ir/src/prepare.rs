//! What an entry computes from states alone, computed once when they are loaded.
//!
//! A state that no entry updates is a constant between two loads. [`Program::prepared`] folds factors of such states into the kernels
//! of convolutions, so that batch normalisation costs an addition in prediction; then every value that depends on nothing else
//! becomes a state of its own, which the entry [`PREPARE`] computes. A training program is left as it is, for its states change.
//!
//! The fold changes the order of multiplications, so results agree to rounding, not to the bit: a pass may not do that.

use std::collections::{HashMap, HashSet};

use crate::graph::{Graph, NodeId, Rebuild};
use crate::ops::map::arith;
use crate::ops::source::Input;
use crate::ops::{Map, Op, View};
use crate::pieces;
use crate::program::{Entry, Init, Program, State};
use crate::target::{Target, TargetKind};
use crate::winograd;

/// The entry that computes prepared states from others.
pub const PREPARE: &str = "prepare";

impl Program {
    /// The same program with what depends on constant states alone computed by an entry of its own, [`PREPARE`], to be run whenever states
    /// are loaded. States that only it reads remain.
    #[must_use]
    pub fn prepared(&self) -> Program {
        self.prepared_by(Graph::clone)
    }

    /// The same for a machine, with filters made ready for how it computes convolutions: on a GPU by Winograd's algorithm, if they may be; on a CPU with a
    /// matrix unit in pieces, where that is faster.
    #[must_use]
    pub fn prepared_for(&self, target: &Target) -> Program {
        let frozen = self.constant_states();
        self.prepared_by(|graph| {
            let depends = dependences(graph, &frozen);
            let changes = |id: NodeId| depends[id.at()] == Depends::Run;
            match target.kind {
                TargetKind::Vulkan if target.winograd => winograd::spelled(graph, changes),
                TargetKind::Cpu if target.pieces => pieces::spelled(graph, target, changes),
                TargetKind::Vulkan | TargetKind::Cpu => graph.clone(),
            }
        })
    }

    /// The same, where graphs are rewritten after scales have moved into kernels.
    fn prepared_by(&self, rewrite: impl Fn(&Graph) -> Graph) -> Program {
        let frozen = self.constant_states();
        let is_cut = self.entries.iter().any(|entry| entry.graph.is_cut());
        if frozen.is_empty() || self.entry(PREPARE).is_some() || is_cut {
            return self.clone();
        }
        let mut program = self.clone();
        let mut prepare = Prepare {
            graph: Graph::new(),
            states: HashMap::new(),
            first_free: 0,
        };
        for entry in &mut program.entries {
            let folded = rewrite(&fold_scales(&entry.graph, &frozen));
            entry.graph = prepare.hoist(&folded, &frozen, &mut program.states);
        }
        if !prepare.states.is_empty() {
            program.entries.push(Entry {
                name: PREPARE.to_owned(),
                graph: prepare.graph,
            });
        }
        program
    }

    /// The same program with the elements of these states given when a session begins, once and for all: what only [`PREPARE`] reads
    /// becomes its argument, so that it need not be kept; the others are [`Init::Given`].
    #[must_use]
    pub fn given(mut self, is_given: impl Fn(&State) -> bool) -> Program {
        let mut read_later: HashSet<&str> = HashSet::new();
        for entry in &self.entries {
            let outputs = entry.graph.outputs.iter().map(|(name, _)| name.as_str());
            read_later.extend(outputs);
            if entry.name != PREPARE {
                let inputs = entry.graph.inputs().iter();
                read_later.extend(inputs.filter_map(|&id| match &entry.graph.node(id).op {
                    Op::Input(input) => Some(input.name.as_str()),
                    _ => None,
                }));
            }
        }
        self.states.retain_mut(|state| {
            let is_given = state.init != Init::Prepared && is_given(state);
            if is_given {
                state.init = Init::Given;
            }
            !is_given || read_later.contains(state.name.as_str())
        });
        self
    }

    /// The names of the states that no entry updates.
    fn constant_states(&self) -> HashSet<String> {
        let outputs = self.entries.iter().flat_map(|entry| &entry.graph.outputs);
        let updated: HashSet<&str> = outputs.map(|(name, _)| name.as_str()).collect();
        let names = self.states.iter().map(|state| &state.name);
        names.filter(|name| !updated.contains(name.as_str())).cloned().collect()
    }
}

/// What a node's value depends on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Depends {
    /// Nothing: it is the same in every program.
    Constant,
    /// Constant states.
    Frozen,
    /// Arguments, states that change, or random numbers.
    Run,
}

fn dependences(graph: &Graph, frozen: &HashSet<String>) -> Vec<Depends> {
    let mut depends: Vec<Depends> = Vec::with_capacity(graph.len());
    for (_, node) in graph.nodes() {
        let operands = node.args.iter().map(|arg| depends[arg.at()]).max();
        depends.push(match &node.op {
            Op::Input(input) if frozen.contains(&input.name) => Depends::Frozen,
            Op::Input(_) => Depends::Run,
            // A body is not looked into, and what makes noise is not the same twice.
            Op::Random(_) | Op::Scan(_) | Op::If(_) | Op::While(_) | Op::Part(_) => Depends::Run,
            Op::Const(_) | Op::Iota(_) => Depends::Constant,
            Op::Map(_)
            | Op::Fold(_)
            | Op::Prefix(_)
            | Op::View(_)
            | Op::Einsum(_)
            | Op::Conv(_)
            | Op::Pool(_)
            | Op::Gather(_)
            | Op::Scatter(_)
            | Op::Sort(_) => operands.unwrap_or(Depends::Constant),
        });
    }
    depends
}

/// Multiplies the kernel of a convolution by what each channel of its result, with an addition between or without, is multiplied by:
/// `(x * w + b) · s = x * (w · s) + b · s` for `w`, `b` and `s` that are constant between loads.
fn fold_scales(graph: &Graph, frozen: &HashSet<String>) -> Graph {
    let scales = Scales {
        graph,
        depends: dependences(graph, frozen),
        users: graph.users().iter().map(Vec::len).collect(),
        outputs: graph.outputs.iter().map(|(_, id)| *id).collect(),
    };
    graph.rebuild(|to, node, args| {
        if node.op == Op::Map(Map(&arith::MUL)) {
            for (product, factor) in [(0, 1), (1, 0)] {
                if let Some(folded) =
                    scales.fold(to, [node.args[product], node.args[factor]], args[product], args[factor])
                {
                    return folded;
                }
            }
        }
        to.push(node.op.clone(), args)
    })
}

/// A graph in which factors are looked for.
struct Scales<'a> {
    graph: &'a Graph,
    depends: Vec<Depends>,
    users: Vec<usize>,
    outputs: HashSet<NodeId>,
}

impl Scales<'_> {
    /// `value · factor` with the factor folded into a kernel, if it can be: `old` are the two nodes, `value` and `factor` their new ids.
    fn fold(&self, to: &mut Rebuild, old: [NodeId; 2], value: NodeId, factor: NodeId) -> Option<NodeId> {
        let channels = self.channels(old[1])?;
        if !self.is_scalable(old[0]) {
            return None;
        }
        let factor = along(to, to.graph.node(factor).args[0], channels);
        Some(scaled(to, value, factor, channels))
    }

    /// The number of channels, if a value is one constant for each of them (axis 1), repeated along the other axes.
    fn channels(&self, id: NodeId) -> Option<usize> {
        let node = self.graph.node(id);
        let Op::View(View::Broadcast(shape)) = &node.op else {
            return None;
        };
        let given = &self.graph.ty(node.args[0]).shape;
        let missing = shape.len().checked_sub(given.len())?;
        let extent = |axis: usize| if axis < missing { 1 } else { given[axis - missing] };
        let channels = *shape.get(1)?;
        let others = (0..shape.len()).filter(|axis| *axis != 1);
        let is_channel = self.depends[id.at()] != Depends::Run
            && extent(1) == channels
            && others.map(extent).all(|extent| extent == 1);
        is_channel.then_some(channels)
    }

    /// Whether a value is a convolution with a constant kernel, or one to which a constant is added for each channel, used once.
    fn is_scalable(&self, id: NodeId) -> bool {
        let node = self.graph.node(id);
        if self.users[id.at()] != 1 || self.outputs.contains(&id) {
            return false;
        }
        match &node.op {
            Op::Conv(_) => self.depends[node.args[1].at()] != Depends::Run,
            Op::Map(map) if [Map(&arith::ADD), Map(&arith::SUB)].contains(map) => {
                self.channels(node.args[1]).is_some() && self.is_scalable(node.args[0])
            }
            _ => false,
        }
    }
}

/// A value that is scalable, in the new graph, times one factor a channel.
fn scaled(to: &mut Rebuild, value: NodeId, factor: NodeId, channels: usize) -> NodeId {
    let node = to.graph.node(value).clone();
    match &node.op {
        Op::Conv(_) => {
            let shape = to.graph.ty(node.args[1]).shape.clone();
            let mut column = vec![1; shape.len()];
            column[0] = channels;
            let factor = to.push(Op::View(View::Reshape(column)), &[factor]);
            let factor = to.push(Op::View(View::Broadcast(shape)), &[factor]);
            let kernel = to.push(Op::Map(Map(&arith::MUL)), &[node.args[1], factor]);
            to.push(node.op, &[node.args[0], kernel])
        }
        _ => {
            let inner = scaled(to, node.args[0], factor, channels);
            let added = to.graph.node(node.args[1]).args[0];
            let added = along(to, added, channels);
            let added = to.push(Op::Map(Map(&arith::MUL)), &[added, factor]);
            let shape = node.ty().shape.clone();
            let mut column = vec![1; shape.len()];
            column[1] = channels;
            let added = to.push(Op::View(View::Reshape(column)), &[added]);
            let added = to.push(Op::View(View::Broadcast(shape)), &[added]);
            to.push(node.op, &[inner, added])
        }
    }
}

/// One value a channel as a vector.
fn along(to: &mut Rebuild, value: NodeId, channels: usize) -> NodeId {
    if to.graph.ty(value).shape == [channels] {
        return value;
    }
    to.push(Op::View(View::Reshape(vec![channels])), &[value])
}

/// The entry in the making.
struct Prepare {
    graph: Graph,
    /// The state that each of its results becomes.
    states: HashMap<NodeId, String>,
    /// The number that the next name is tried with.
    first_free: usize,
}

impl Prepare {
    /// The graph with its constant parts computed by this entry; arguments stay, states that are no longer read do not.
    fn hoist(&mut self, graph: &Graph, frozen: &HashSet<String>, states: &mut Vec<State>) -> Graph {
        let depends = dependences(graph, frozen);
        let live = graph.live();
        let roots = roots(graph, &depends, &live);
        let moved = self.copies(graph, &roots, states);
        let mut to = Graph::new();
        let mut new_ids = vec![NodeId(u32::MAX); graph.len()];
        let mut push =
            |op: &Op, args: Vec<NodeId>, loc| to.push(op.clone(), args, loc).expect("a copy of a valid node");
        let is_needed = needed(graph, &roots);
        for &id in graph.inputs() {
            let node = graph.node(id);
            let Op::Input(input) = &node.op else { continue };
            if is_needed[id.at()] || !frozen.contains(&input.name) {
                new_ids[id.at()] = push(&node.op, Vec::new(), node.loc.clone());
            }
        }
        for &root in &roots {
            let input = Op::Input(Input {
                name: moved[&root].clone(),
                ty: graph.ty(root).clone(),
            });
            new_ids[root.at()] = push(&input, Vec::new(), graph.node(root).loc.clone());
        }
        for (id, node) in graph.nodes() {
            let is_input = matches!(node.op, Op::Input(_));
            if is_needed[id.at()] && !is_input && !moved.contains_key(&id) {
                let args = node.args.iter().map(|arg| new_ids[arg.at()]).collect();
                new_ids[id.at()] = push(&node.op, args, node.loc.clone());
            }
        }
        let outputs = graph.outputs.iter();
        to.outputs = outputs.map(|(name, id)| (name.clone(), new_ids[id.at()])).collect();
        to
    }

    /// Copies what the roots depend on into this entry, and gives the state that each root becomes.
    fn copies(&mut self, graph: &Graph, roots: &[NodeId], states: &mut Vec<State>) -> HashMap<NodeId, String> {
        let mut is_copied = vec![false; graph.len()];
        roots.iter().for_each(|root| is_copied[root.at()] = true);
        for (id, node) in graph.nodes().rev() {
            if is_copied[id.at()] {
                node.args.iter().for_each(|arg| is_copied[arg.at()] = true);
            }
        }
        let mut copies = vec![NodeId(u32::MAX); graph.len()];
        // Inputs first, as text wants them.
        let is_input = |(_, node): &(NodeId, &crate::graph::Node)| matches!(node.op, Op::Input(_));
        let others = graph.nodes().filter(|node| !is_input(node));
        for (id, node) in graph.nodes().filter(is_input).chain(others) {
            if is_copied[id.at()] {
                let args = node.args.iter().map(|arg| copies[arg.at()]).collect();
                let copy = self.graph.push(node.op.clone(), args, node.loc.clone());
                copies[id.at()] = copy.expect("a copy of a valid node");
            }
        }
        let named = roots.iter().map(|root| {
            let copy = copies[root.at()];
            let name = self.states.get(&copy).cloned().unwrap_or_else(|| {
                let name = self.new_name(states);
                states.push(State {
                    name: name.clone(),
                    ty: graph.ty(*root).clone(),
                    init: Init::Prepared,
                });
                self.graph.outputs.push((name.clone(), copy));
                self.states.insert(copy, name.clone());
                name
            });
            (*root, name)
        });
        named.collect()
    }

    fn new_name(&mut self, states: &[State]) -> String {
        loop {
            let name = format!("prepared.{}", self.first_free);
            self.first_free += 1;
            if !states.iter().any(|state| state.name == name) {
                return name;
            }
        }
    }
}

/// The last nodes that depend on constant states alone, views taken off, and the sums of pieces: those make nothing, and a repeated value is larger.
fn roots(graph: &Graph, depends: &[Depends], live: &[bool]) -> Vec<NodeId> {
    let mut found = Vec::new();
    let mut consider = |id: NodeId| {
        let mut id = pieces::joined(graph, id).unwrap_or(id);
        while let Op::View(View::Reshape(_) | View::Permute(_) | View::Broadcast(_)) = &graph.node(id).op {
            id = graph.node(id).args[0];
        }
        let is_computed = !matches!(graph.node(id).op, Op::Input(_));
        if depends[id.at()] == Depends::Frozen && is_computed {
            found.push(id);
        }
    };
    for (id, node) in graph.nodes().filter(|(id, _)| live[id.at()]) {
        if depends[id.at()] == Depends::Run {
            node.args.iter().for_each(|&arg| consider(arg));
        }
    }
    graph.outputs.iter().for_each(|&(_, id)| consider(id));
    found.sort_unstable();
    found.dedup();
    found
}

/// Which nodes are still needed where the roots are given.
fn needed(graph: &Graph, roots: &[NodeId]) -> Vec<bool> {
    let mut needed = vec![false; graph.len()];
    graph.outputs.iter().for_each(|(_, id)| needed[id.at()] = true);
    for (id, node) in graph.nodes().rev() {
        if needed[id.at()] && roots.binary_search(&id).is_err() {
            node.args.iter().for_each(|arg| needed[arg.at()] = true);
        }
    }
    needed
}

#[cfg(test)]
mod tests {
    use crate::text;

    fn prepared(source: &str) -> String {
        text::parse_program("p", source)
            .expect("a program")
            .prepared()
            .to_string()
    }

    #[test]
    fn a_scale_moves_into_the_kernel_and_what_states_give_is_computed_once() {
        let source = "\
state w: f32[2,3,1,1] = f32[2,3,1,1] [1.0,2.0,3.0,4.0,5.0,6.0]
state b: f32[2] = f32[2] [1.0,2.0]
state s: f32[2] = f32[2] [3.0,4.0]
entry predict = graph(x: f32[1,3,4,4], w: f32[2,3,1,1], b: f32[2], s: f32[2]) {
  %0 = conv x, w stride=[1,1] pad_low=[0,0] pad_high=[0,0] input_dilation=[1,1] kernel_dilation=[1,1] groups=1
  %1 = reshape [2,1,1] b
  %2 = broadcast [1,2,4,4] %1
  %3 = add %0, %2
  %4 = reshape [2,1,1] s
  %5 = broadcast [1,2,4,4] %4
  %6 = mul %5, %3
  return y = %6
}
";
        let expected = "\
state w: f32[2,3,1,1] = f32[2,3,1,1] [1.0,2.0,3.0,4.0,5.0,6.0]
state b: f32[2] = f32[2] [1.0,2.0]
state s: f32[2] = f32[2] [3.0,4.0]
state prepared.0: f32[2,3,1,1] = prepared
state prepared.1: f32[2] = prepared
entry predict = graph(x: f32[1,3,4,4], prepared.0: f32[2,3,1,1], prepared.1: f32[2]) {
  %3: f32[1,2,4,4] = conv x, prepared.0 stride=[1,1] pad_low=[0,0] pad_high=[0,0] input_dilation=[1,1] kernel_dilation=[1,1] groups=1
  %4: f32[1,2,1,1] = reshape [1,2,1,1] prepared.1
  %5: f32[1,2,4,4] = broadcast [1,2,4,4] %4
  %6: f32[1,2,4,4] = add %3, %5
  return y = %6
}
entry prepare = graph(w: f32[2,3,1,1], b: f32[2], s: f32[2]) {
  %3: f32[2,1,1] = reshape [2,1,1] b
  %4: f32[2,1,1] = reshape [2,1,1] s
  %5: f32[2] = reshape [2] %4
  %6: f32[2,1,1,1] = reshape [2,1,1,1] %5
  %7: f32[2,3,1,1] = broadcast [2,3,1,1] %6
  %8: f32[2,3,1,1] = mul w, %7
  %9: f32[2] = reshape [2] %3
  %10: f32[2] = mul %9, %5
  return prepared.0 = %8, prepared.1 = %10
}
";
        let found = prepared(source);
        assert_eq!(found, expected);
        // It parses back.
        let again = text::parse_program("p", &found).expect("a program");
        assert_eq!(again.to_string(), found);
    }

    #[test]
    fn what_is_given_once_is_an_argument_of_what_alone_reads_it() {
        let source = "\
state w: f32[2] = f32[2] [1.0,2.0]
state b: f32[2] = f32[2] [3.0,4.0]
state c: f32[2] = f32[2] [5.0,6.0]
entry predict = graph(x: f32[2], w: f32[2], b: f32[2], c: f32[2]) {
  %0 = exp w
  %1 = add x, %0
  %2 = add %1, b
  %3 = add %2, c
  return y = %3
}
";
        let program = text::parse_program("p", source).expect("a program").prepared();
        let given = program.given(|state| state.name != "c");
        given.verify().expect("it is valid");
        let states: Vec<String> = given.to_string().lines().take(3).map(str::to_owned).collect();
        let expected = [
            "state b: f32[2] = given",
            "state c: f32[2] = f32[2] [5.0,6.0]",
            "state prepared.0: f32[2] = prepared",
        ];
        assert_eq!(states, expected);
        let printed = given.to_string();
        assert!(printed.contains("entry prepare = graph(w: f32[2])"), "{printed}");
        assert_eq!(text::parse_program("p", &printed).expect("a program"), given);
    }

    #[test]
    fn states_that_change_are_left_alone() {
        let source = "\
state w: f32[2] = f32[2] [1.0,2.0]
entry train = graph(w: f32[2]) {
  %0 = neg w
  return w = %0
}
entry predict = graph(x: f32[2], w: f32[2]) {
  %0 = exp w
  %1 = add x, %0
  return y = %1
}
";
        let program = text::parse_program("p", source).expect("a program");
        assert_eq!(program.prepared(), program);
    }

    #[test]
    fn a_value_of_two_entries_is_computed_once() {
        let entry = |name: &str| {
            format!(
                "entry {name} = graph(x: f32[2], w: f32[2]) {{\n  %0 = exp w\n  %1 = add x, %0\n  return {name}_y = %1\n}}\n"
            )
        };
        let source = format!("state w: f32[2] = f32[2] [1.0,2.0]\n{}{}", entry("one"), entry("two"));
        let program = text::parse_program("p", &source).expect("a program").prepared();
        program.verify().expect("it is valid");
        let names: Vec<&str> = program.states.iter().map(|state| state.name.as_str()).collect();
        assert_eq!(names, ["w", "prepared.0"]);
        assert_eq!(program.prepared(), program);
    }
}
