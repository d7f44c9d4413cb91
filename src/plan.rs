//! Plans: the steps of an entry, and where every value lies.
//!
//! In: a graph cut into regions, each scheduled. Out: [`Plan`], a list of steps over places in memory, which `cpu::entry` turns into
//! one machine-code function. A plan is SPMD: every worker runs every step and takes its share; [`Step::Barrier`] stands only where one
//! step touches bytes that another touched since the last one.
//!
//! Memory: arguments and results are the caller's; states and constants are one block each; everything else shares one arena, whose
//! offsets [`arena`] finds from lifetimes. A kernel writes over an operand where every element is read just before the same
//! element is written ([`alias`]). A state is updated in place if nothing reads it later; regions are ordered so that readers come first
//! where they can; otherwise the new value is copied at the end.

pub mod alias;
pub mod arena;
mod barriers;
mod flow;
mod gaps;
mod given;
mod joins;
pub mod kernels;
mod order;
pub mod verify;

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use netloom_ir::fuse::{Region, RegionKind};
use netloom_ir::graph::{Graph, NodeId};
use netloom_ir::kernel::Role;
use netloom_ir::layout::Layout;
use netloom_ir::ops::{Branch, Loop, Op, Scan};
pub use netloom_ir::plan::{Base, KernelId, Place, Port, Step, TempId};
use netloom_ir::plan::{Given, walk_mut};
use netloom_ir::target::TargetKind;
use netloom_ir::{Init, Problems, Tensor, Type};

pub use arena::ALIGN;
use arena::Temps;
pub(crate) use barriers::{SHARED_COPY_BYTES, is_shared_kernel};
pub use given::given;
pub use kernels::Kernels;
use verify::Broken;

use crate::error::Error;
use crate::layout::Layouts;
use crate::session::Session;

/// One call of a kernel in a run that is timed.
#[derive(Clone, Debug)]
pub struct KernelCall {
    /// Which.
    pub kernel: KernelId,
    /// The nodes that it computes, unless they are of a body.
    pub nodes: Vec<NodeId>,
    /// When it began, from the beginning of the run.
    pub start: Duration,
    /// How long it took.
    pub took: Duration,
}

impl Plan {
    /// The number of kernels that one run starts.
    pub fn kernel_runs(&self) -> usize {
        self.steps.iter().map(Step::kernel_runs).sum()
    }

    /// Whether a step touches these bytes of a block.
    pub fn touches(&self, base: Base, bytes: Range<usize>) -> bool {
        let mut found = false;
        let mut visit = |place: &Place| {
            let overlaps = place.offset < bytes.end && bytes.start < place.offset + place.bytes;
            found |= place.base == base && overlaps;
        };
        self.steps.iter().for_each(|step| step.places(&mut visit));
        found
    }

    /// Bytes that the kernels and copies of one run read and write.
    pub fn bytes_moved(&self) -> usize {
        self.steps.iter().map(Step::bytes_moved).sum()
    }
}

/// A state's place in the block of states.
#[derive(Clone, Debug, PartialEq)]
pub struct StateSlot {
    /// Its name.
    pub name: String,
    /// Its type, with the layout it has in every entry.
    pub ty: Type,
    /// Bytes from the start of the block.
    pub offset: usize,
    /// Whether it is saved: neither computed from other states nor examples.
    pub is_saved: bool,
    /// Whether whoever makes a session gives its first elements.
    pub is_given: bool,
}

/// The steps of one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The entry's name.
    pub name: String,
    /// Arguments, in order.
    pub inputs: Vec<Port>,
    /// Results, in order; states written are not among them.
    pub outputs: Vec<Port>,
    /// What runs.
    pub steps: Vec<Step>,
    /// Bytes of arena that the workers share.
    pub shared_bytes: usize,
    /// Bytes of arena that each worker has to itself.
    pub worker_bytes: usize,
    /// Whether more than one worker has anything to do.
    pub parallel: bool,
}

/// What all plans of an executable share.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Where each state lies.
    pub states: Vec<StateSlot>,
    /// Bytes of the block of states.
    pub state_bytes: usize,
    /// The block of constants.
    pub constants: Vec<u8>,
    placed: HashMap<u64, Vec<(Arc<Tensor>, usize)>>,
}

impl Memory {
    /// Lays out the states of a program.
    pub fn new(states: &[netloom_ir::State], layouts: &Layouts) -> Memory {
        let mut memory = Memory::default();
        for state in states {
            let offset = memory.state_bytes;
            let layout = layouts.state(&state.name);
            memory.states.push(StateSlot {
                name: state.name.clone(),
                ty: Type {
                    layout,
                    ..state.ty.clone()
                },
                offset,
                is_saved: !matches!(state.init, Init::Prepared | Init::Data),
                is_given: state.init == Init::Given,
            });
            memory.state_bytes = (offset + state.ty.len_bytes()).next_multiple_of(ALIGN);
        }
        memory
    }

    /// The block of states as they are in a session of a program that has them too.
    ///
    /// # Errors
    /// If the session lacks a state.
    pub fn state_values(&self, session: &Session) -> Result<Vec<u8>, Error> {
        let mut values = vec![0; self.state_bytes];
        for slot in &self.states {
            let value = session.state(&slot.name)?;
            values[slot.offset..][..slot.ty.len_bytes()].copy_from_slice(&slot.ty.arranged(&value));
        }
        Ok(values)
    }

    fn state(&self, name: &str) -> Option<&StateSlot> {
        self.states.iter().find(|slot| slot.name == name)
    }

    /// The place of a constant; equal ones share it.
    fn constant(&mut self, tensor: &Arc<Tensor>) -> Place {
        let known = self.placed.entry(tensor.content_hash()).or_default();
        if let Some((_, offset)) = known.iter().find(|(other, _)| other == tensor) {
            return Place::new(Base::Constants, *offset, tensor.bytes().len());
        }
        let offset = self.constants.len();
        self.constants.extend(tensor.bytes());
        self.constants.resize(self.constants.len().next_multiple_of(ALIGN), 0);
        known.push((Arc::clone(tensor), offset));
        Place::new(Base::Constants, offset, tensor.bytes().len())
    }
}

/// How a graph is cut: [`netloom_ir::fuse::regions`] or [`netloom_ir::fuse::singletons`].
pub type Cut = fn(&Graph) -> Vec<Region>;

/// The steps of one entry before its values have places in an arena: what eager execution runs.
#[derive(Clone, Debug)]
pub struct Outline {
    /// The entry's name.
    pub name: String,
    /// Arguments, in order.
    pub inputs: Vec<Port>,
    /// Results, in order.
    pub outputs: Vec<Port>,
    /// What runs; places may be temps.
    pub steps: Vec<Step>,
    /// The length of each temp in bytes.
    pub temps: Vec<usize>,
    /// For each step, the temps that no later one uses.
    pub freed_after: Vec<Vec<usize>>,
    /// Bytes of scratch that each worker has to itself.
    pub worker_bytes: usize,
}

/// Plans one entry: `graph`, whose inputs and outputs named like a state are that state, and whose values have these layouts; what is joined
/// may give its parts others. On a CPU a graph may come with its plan.
///
/// # Errors
/// If a text gave the graph its plan or its nests, what is wrong with them together.
///
/// # Panics
/// In debug builds, if the planner breaks a rule.
pub fn plan(
    name: &str,
    graph: &Graph,
    cut: Cut,
    layouts: &mut Layouts,
    memory: &mut Memory,
    kernels: &mut Kernels,
) -> Result<Plan, Problems> {
    let Draft {
        inputs,
        outputs,
        mut steps,
        temps,
        worker_bytes,
        layouts: final_layouts,
    } = draft(graph, cut, true, layouts.entry(name), memory, kernels)?;
    layouts.set_entry(name, final_layouts);
    let given = graph.plan().filter(|_| kernels.target().kind == TargetKind::Cpu);
    let plan = match given {
        Some(given) => given::taken(name, given, [inputs, outputs], memory, kernels)?,
        None => {
            let (offsets, shared_bytes) = temps.assign();
            resolve(&mut steps, &offsets);
            let parallel = barriers::insert(&mut steps, kernels);
            Plan {
                name: name.to_owned(),
                inputs,
                outputs,
                steps,
                shared_bytes,
                worker_bytes,
                parallel,
            }
        }
    };
    if !graph.is_cut() && !cfg!(debug_assertions) {
        return Ok(plan);
    }
    let Err(broken) = verify::verify(&plan, graph, memory, kernels) else {
        return Ok(plan);
    };
    let unplaced = Given::default();
    let given = given.map_or(&unplaced, Arc::as_ref);
    let problems = broken
        .into_iter()
        .map(|Broken { step, message }| given.problem(step, message));
    let problems = Problems(problems.collect());
    assert!(graph.is_cut(), "the plan of `{name}` is not valid: {problems}");
    Err(problems)
}

/// Plans one entry for eager execution: a temp of its own for every result, or for what it is joined to, written once.
///
/// # Errors
/// If a text gave the graph its nests, those that do not fit.
pub fn outline(
    name: &str,
    graph: &Graph,
    cut: Cut,
    layouts: &Layouts,
    memory: &mut Memory,
    kernels: &mut Kernels,
) -> Result<Outline, Problems> {
    let Draft {
        inputs,
        outputs,
        steps,
        temps,
        worker_bytes,
        layouts: _,
    } = draft(graph, cut, false, layouts.entry(name), memory, kernels)?;
    let mut last_use = vec![None; temps.len()];
    for (number, step) in steps.iter().enumerate() {
        step.places(&mut |place| {
            if let Base::Temp(temp) = place.base {
                last_use[temp.0] = Some(number);
            }
        });
    }
    let mut freed_after = vec![Vec::new(); steps.len()];
    for (temp, last) in last_use.into_iter().enumerate() {
        if let Some(last) = last {
            freed_after[last].push(temp);
        }
    }
    Ok(Outline {
        name: name.to_owned(),
        inputs,
        outputs,
        steps,
        temps: temps.sizes(),
        freed_after,
        worker_bytes,
    })
}

/// A plan whose values have no places yet.
struct Draft {
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    steps: Vec<Step>,
    temps: Temps,
    worker_bytes: usize,
    layouts: HashMap<NodeId, Layout>,
}

/// The steps of an entry; with `reuse` kernels write over operands that die. Nests that a text gave may not fit.
fn draft(
    graph: &Graph,
    cut: Cut,
    reuse: bool,
    layouts: HashMap<NodeId, Layout>,
    memory: &mut Memory,
    kernels: &mut Kernels,
) -> Result<Draft, Problems> {
    let mut inputs = Vec::new();
    let mut given = HashMap::new();
    for &id in graph.inputs() {
        let Op::Input(input) = &graph.node(id).op else {
            unreachable!("`inputs` lists inputs")
        };
        let bytes = input.ty.len_bytes();
        let place = match memory.state(&input.name) {
            Some(slot) => Place::new(Base::States, slot.offset, bytes),
            None => {
                inputs.push(Port {
                    name: input.name.clone(),
                    ty: input.ty.clone(),
                });
                Place::new(Base::Input(inputs.len() - 1), 0, bytes)
            }
        };
        given.insert(id, place);
    }
    let mut outputs = Vec::new();
    let mut wanted = Vec::new();
    for (name, id) in &graph.outputs {
        let ty = graph.ty(*id);
        let place = match memory.state(name) {
            Some(slot) => Place::new(Base::States, slot.offset, ty.len_bytes()),
            None => {
                outputs.push(Port {
                    name: name.clone(),
                    ty: ty.clone(),
                });
                Place::new(Base::Output(outputs.len() - 1), 0, ty.len_bytes())
            }
        };
        wanted.push((*id, place));
    }
    let mut planner = Planner {
        cut,
        reuse,
        memory,
        kernels,
        temps: Temps::default(),
        worker_bytes: 0,
        depth: 0,
        layouts,
    };
    let mut steps = Vec::new();
    planner.graph(graph, given, wanted, &mut steps);
    let Planner {
        temps,
        worker_bytes,
        layouts,
        ..
    } = planner;
    if graph.is_cut() {
        verify::fits(&steps, kernels)?;
    }
    Ok(Draft {
        inputs,
        outputs,
        steps,
        temps,
        worker_bytes,
        layouts,
    })
}

/// Replaces temps by their places in the arena.
fn resolve(steps: &mut [Step], offsets: &[usize]) {
    walk_mut(steps, &mut |step| {
        for place in step.own_places_mut() {
            if let Base::Temp(temp) = place.base {
                place.base = Base::Arena;
                place.offset += offsets[temp.0];
            }
        }
    });
}

/// Where the values of a carried value lie that is stacked.
struct History {
    /// A stack of what enters each step.
    before: Place,
    /// A stack of what leaves it.
    after: Place,
    /// What enters the first step.
    first: Place,
    /// What leaves the last.
    last: Place,
}

/// The state of planning one entry.
struct Planner<'a> {
    cut: Cut,
    /// Whether outputs may take the place of operands that die.
    reuse: bool,
    memory: &'a mut Memory,
    kernels: &'a mut Kernels,
    temps: Temps,
    worker_bytes: usize,
    /// The number of enclosing repeats.
    depth: usize,
    /// The layouts of the graph's values.
    layouts: HashMap<NodeId, Layout>,
}

impl Planner<'_> {
    /// Plans a graph whose inputs lie at `given` and whose results are to lie at the places in `wanted`.
    fn graph(
        &mut self,
        graph: &Graph,
        given: HashMap<NodeId, Place>,
        wanted: Vec<(NodeId, Place)>,
        steps: &mut Vec<Step>,
    ) {
        let regions = order::readers_first(graph, (self.cut)(graph), &given, &wanted);
        let last_read = last_reads(graph, &regions);
        let mut places = given;
        for (id, node) in graph.nodes() {
            if let Op::Const(tensor) = &node.op
                && last_read.contains_key(&id)
            {
                places.insert(id, self.memory.constant(tensor));
            }
        }
        let mut wanted_at: HashMap<NodeId, Vec<usize>> = HashMap::new();
        for (at, (id, _)) in wanted.iter().enumerate() {
            wanted_at.entry(*id).or_default().push(at);
        }
        let mut unwritten: Vec<Option<(NodeId, Place)>> = wanted.into_iter().map(Some).collect();
        let joins = self.joins(graph, &regions, &wanted_at);
        let mut part_places: HashMap<NodeId, Place> = HashMap::new();
        for (&whole, parts) in &joins {
            let at = wanted_at.get(&whole).and_then(|at| at.first().copied());
            let is_free = |(_, place): &(NodeId, Place)| !places.values().any(|given| given.base == place.base);
            let free = at.filter(|&at| unwritten[at].as_ref().is_some_and(is_free));
            let place = match free.and_then(|at| unwritten[at].take()) {
                Some((_, place)) => place,
                None => self.temps.place_for_later(graph.ty(whole).len_bytes()),
            };
            for part in parts {
                part_places.insert(
                    part.id,
                    Place {
                        offset: place.offset + part.offset,
                        bytes: part.bytes,
                        ..place.clone()
                    },
                );
            }
            places.insert(whole, place);
        }
        let is_run = |region: &&Region| !region.outputs.iter().any(|id| joins.contains_key(id));
        let run = regions.iter().filter(is_run);
        let run: Vec<&Region> = run.filter(|region| region.kind == RegionKind::Kernel).collect();
        let mut kernels = self.kernels.add(graph, &run, &self.layouts).into_iter();
        for (time, region) in regions.iter().enumerate().filter(|(_, region)| is_run(region)) {
            let mut fixed = Vec::new();
            for &id in &region.outputs {
                if let Some(place) = part_places.get(&id) {
                    fixed.push(id);
                    places.insert(id, place.clone());
                    continue;
                }
                let bytes = graph.ty(id).len_bytes();
                // A result is written where it is wanted, unless that place still holds a state that someone reads.
                let direct = wanted_at.get(&id).into_iter().flatten().find(|&&at| {
                    unwritten[at]
                        .as_ref()
                        .is_some_and(|(_, place)| !is_read_later(graph, place, region, time, &places, &last_read))
                });
                let place = match direct.and_then(|&at| unwritten[at].take()) {
                    Some((_, place)) => {
                        fixed.push(id);
                        place
                    }
                    None => self.temps.place(bytes),
                };
                places.insert(id, place);
            }
            match region.kind {
                RegionKind::Kernel => {
                    // A part may be read after the whole has been, and the whole after a part.
                    let is_joined = |id: &NodeId| joins.contains_key(id) || part_places.contains_key(id);
                    let dying = |id: &NodeId| last_read.get(id) == Some(&time) && !is_joined(id);
                    let kernel = kernels.next().expect("one for each such region");
                    self.kernel(kernel, region, &mut places, &fixed, dying, steps);
                }
                RegionKind::Compound => self.compound(graph, region, &mut places, &fixed, steps),
            }
        }
        self.copy_results(unwritten.into_iter().flatten().collect(), &places, steps);
    }

    /// Copies results to where they are wanted, as if all at once: a source that is itself overwritten is saved first.
    fn copy_results(&mut self, wanted: Vec<(NodeId, Place)>, places: &HashMap<NodeId, Place>, steps: &mut Vec<Step>) {
        let moves: Vec<(Place, Place)> = wanted
            .into_iter()
            .map(|(id, to)| (places[&id].clone(), to))
            .filter(|(from, to)| from != to && to.bytes > 0)
            .collect();
        let targets: HashSet<&Place> = moves.iter().map(|(_, to)| to).collect();
        let mut saved = Vec::new();
        for (from, to) in &moves {
            let source = if targets.contains(from) {
                let temp = self.temps.place(from.bytes);
                self.step(
                    steps,
                    Step::Copy {
                        from: from.clone(),
                        to: temp.clone(),
                    },
                );
                temp
            } else {
                from.clone()
            };
            saved.push((source, to.clone()));
        }
        for (from, to) in saved {
            self.step(steps, Step::Copy { from, to });
        }
    }

    /// Appends a kernel step, letting outputs take the place of operands that die here. Outputs in `fixed` stay where they are.
    fn kernel(
        &mut self,
        kernel: KernelId,
        region: &Region,
        places: &mut HashMap<NodeId, Place>,
        fixed: &[NodeId],
        dying: impl Fn(&NodeId) -> bool,
        steps: &mut Vec<Step>,
    ) {
        let nest = self.kernels.nest(kernel);
        let mut taken = Vec::new();
        let mut late_copies = Vec::new();
        for (number, &id) in region.outputs.iter().enumerate() {
            let output = region.inputs.len() + number;
            let place = places[&id].clone();
            if fixed.contains(&id) {
                // A state (or carried value) written by a kernel that also reads it: each element must be read just before
                // it is written.
                let clash = region.inputs.iter().enumerate().any(|(input, other)| {
                    places[other] == place && place.bytes > 0 && !alias::in_place(nest, input, output)
                });
                if clash {
                    let temp = self.temps.place(place.bytes);
                    places.insert(id, temp.clone());
                    late_copies.push(Step::Copy { from: temp, to: place });
                }
                continue;
            }
            let reused = region.inputs.iter().enumerate().find(|(input, other)| {
                let from = &places[other];
                self.reuse
                    && dying(other)
                    && !taken.contains(&from.base)
                    && self.temps.is_local(from)
                    && from.bytes == place.bytes
                    && place.bytes > 0
                    && alias::in_place(nest, *input, output)
            });
            if let Some((_, other)) = reused {
                let from = places[other].clone();
                taken.push(from.base);
                places.insert(id, from);
            }
        }
        let mut buffers: Vec<Place> = region
            .inputs
            .iter()
            .chain(&region.outputs)
            .map(|id| places[id].clone())
            .collect();
        let mut worker_bytes = 0;
        for buffer in &nest.buffers[buffers.len()..] {
            let bytes = buffer.ty.len_bytes().next_multiple_of(ALIGN);
            buffers.push(match buffer.role {
                Role::WorkerScratch => {
                    worker_bytes += bytes;
                    Place::new(Base::Worker, worker_bytes - bytes, bytes)
                }
                // The device has a place for it.
                Role::GroupScratch => Place::new(Base::Worker, 0, 0),
                _ => self.temps.place(bytes),
            });
        }
        self.worker_bytes = self.worker_bytes.max(worker_bytes);
        self.step(
            steps,
            Step::Kernel {
                kernel,
                buffers,
                nodes: region.nodes.clone(),
            },
        );
        for copy in late_copies {
            self.step(steps, copy);
        }
    }

    /// Appends the steps of a loop or branch, whose outputs in `fixed` stay where they are.
    fn compound(
        &mut self,
        graph: &Graph,
        region: &Region,
        places: &mut HashMap<NodeId, Place>,
        fixed: &[NodeId],
        steps: &mut Vec<Step>,
    ) {
        let [id] = region.nodes[..] else {
            unreachable!("a compound region is one node")
        };
        let node = graph.node(id);
        let args: Vec<Place> = node.args.iter().map(|arg| places[arg].clone()).collect();
        let output_of = |part: usize| {
            let is_part = |output: &&NodeId| {
                let output = graph.node(**output);
                output.op == Op::Part(part) && output.args == [id]
            };
            region.outputs.iter().find(is_part).copied()
        };
        let mut results: Vec<Place> = node
            .types
            .iter()
            .enumerate()
            .map(|(part, ty)| match output_of(part) {
                Some(output) => places[&output].clone(),
                None => self.temps.place(ty.len_bytes()),
            })
            .collect();
        match &node.op {
            Op::Scan(scan) => {
                let is_free = |part: usize| output_of(part).is_none_or(|output| !fixed.contains(&output));
                let histories = self.histories(scan, &mut results, is_free);
                for (part, place) in results.iter().enumerate() {
                    if let Some(output) = output_of(part) {
                        places.insert(output, place.clone());
                    }
                }
                self.scan(scan, &args, results, &histories, steps);
            }
            Op::If(branch) => self.branch(branch, &args, results, steps),
            Op::While(repeat) => self.while_loop(repeat, &args, results, steps),
            _ => unreachable!("a compound region holds a scan, if or while"),
        }
    }

    /// Finds the carried values that are stacked too, as they enter or as they leave each step, and gives each a history: its value before
    /// the first step and after every step, one behind the other. A step then reads one entry and writes the next, and nothing is copied.
    /// The results that are part of it move there if they are free to.
    fn histories(
        &mut self,
        scan: &Scan,
        results: &mut [Place],
        is_free: impl Fn(usize) -> bool,
    ) -> Vec<Option<History>> {
        let body = &scan.body;
        let of = |carried: usize| {
            let len_bytes = results[carried].bytes;
            let stacked_as = |id: NodeId| -> Vec<usize> {
                let is_it = |part: &usize| body.outputs[*part].1 == id && is_free(*part);
                (scan.carried..results.len()).filter(is_it).collect()
            };
            let (before, after) = (stacked_as(body.inputs()[carried]), stacked_as(body.outputs[carried].1));
            let is_kept = len_bytes > 0 && scan.length > 0 && !(before.is_empty() && after.is_empty());
            is_kept.then_some((carried, len_bytes, before, after))
        };
        let kept: Vec<_> = (0..scan.carried).map(of).collect();
        let mut taken = HashSet::new();
        let history = |kept: Option<(usize, usize, Vec<usize>, Vec<usize>)>| {
            let (carried, len_bytes, before, after) = kept?;
            let whole = self.temps.place(len_bytes * (scan.length + 1));
            let part = |first: usize, count: usize| Place {
                offset: first * len_bytes,
                bytes: count * len_bytes,
                ..whole.clone()
            };
            let (early, late) = (part(0, scan.length), part(1, scan.length));
            let (first, last) = (part(0, 1), part(scan.length, 1));
            let history = match scan.reverse {
                false => History {
                    before: early,
                    after: late,
                    first,
                    last,
                },
                true => History {
                    before: late,
                    after: early,
                    first: last,
                    last: first,
                },
            };
            let moves = before.into_iter().map(|part| (part, &history.before));
            let moves = moves.chain(after.into_iter().map(|part| (part, &history.after)));
            let moves = moves.chain(is_free(carried).then_some((carried, &history.last)));
            for (part, place) in moves {
                // A result that two values have is in the history of the first.
                if taken.insert(part) {
                    self.temps.give_up(&results[part]);
                    results[part] = place.clone();
                }
            }
            Some(history)
        };
        kept.into_iter().map(history).collect()
    }

    fn scan(
        &mut self,
        scan: &Scan,
        args: &[Place],
        results: Vec<Place>,
        histories: &[Option<History>],
        steps: &mut Vec<Step>,
    ) {
        let (carried, rest) = args.split_at(scan.carried);
        let (sliced, constants) = rest.split_at(scan.sliced);
        let (state, stacked) = results.split_at(scan.carried);
        let entry = |place: &Place, depth: usize| {
            let bytes = place.bytes / scan.length.max(1);
            let (first, stride) = match scan.reverse {
                false => (0, bytes as isize),
                true => (bytes * scan.length.saturating_sub(1), -(bytes as isize)),
            };
            let mut strides = place.strides.clone();
            strides.resize(depth, 0);
            strides.push(stride);
            Place {
                base: place.base,
                offset: place.offset + first,
                strides,
                bytes,
            }
        };
        // Without a history a carried value lives in its result's place, one iteration's after the other's.
        let pairs = || state.iter().zip(histories);
        let first: Vec<Place> = pairs()
            .map(|(state, history)| history.as_ref().map_or(state, |history| &history.first).clone())
            .collect();
        self.copy_in(carried, &first, steps);
        let mut given: Vec<Place> = pairs()
            .map(|(state, history)| match history {
                Some(history) => entry(&history.before, self.depth),
                None => state.clone(),
            })
            .collect();
        given.extend(sliced.iter().map(|place| entry(place, self.depth)));
        given.extend(constants.iter().cloned());
        let next = pairs().map(|(state, history)| match history {
            Some(history) => entry(&history.after, self.depth),
            None => state.clone(),
        });
        let wanted: Vec<Place> = next
            .chain(stacked.iter().map(|place| entry(place, self.depth)))
            .collect();
        let start = self.temps.open();
        stacked
            .iter()
            .chain(state)
            .chain(&first)
            .for_each(|place| self.temps.touch(place));
        let mut body = Vec::new();
        self.depth += 1;
        if scan.counted {
            let count = self.temps.place(8);
            let from_end = scan.reverse.then_some(scan.length);
            self.step(
                &mut body,
                Step::Count {
                    to: count.clone(),
                    from_end,
                },
            );
            given.push(count);
        }
        self.body(&scan.body, &given, &wanted, &mut body);
        self.depth -= 1;
        let touched = args.iter().chain(&results).chain(&first);
        touched.for_each(|place| self.temps.touch(place));
        self.temps.close(start);
        steps.push(Step::Repeat {
            times: scan.length,
            body,
        });
        for (state, history) in state.iter().zip(histories) {
            if let Some(history) = history
                && history.last != *state
            {
                let (from, to) = (history.last.clone(), state.clone());
                self.step(steps, Step::Copy { from, to });
            }
        }
    }

    fn branch(&mut self, branch: &Branch, args: &[Place], results: Vec<Place>, steps: &mut Vec<Step>) {
        let start = self.temps.open();
        args.iter().for_each(|place| self.temps.touch(place));
        let (mut then, mut otherwise) = (Vec::new(), Vec::new());
        self.body(&branch.then, &args[1..], &results, &mut then);
        self.body(&branch.otherwise, &args[1..], &results, &mut otherwise);
        args.iter().chain(&results).for_each(|place| self.temps.touch(place));
        self.temps.close(start);
        steps.push(Step::Branch {
            condition: args[0].clone(),
            then,
            otherwise,
        });
    }

    fn while_loop(&mut self, repeat: &Loop, args: &[Place], results: Vec<Place>, steps: &mut Vec<Step>) {
        let (carried, constants) = args.split_at(repeat.carried);
        self.copy_in(carried, &results, steps);
        let mut given = results.clone();
        given.extend(constants.iter().cloned());
        let start = self.temps.open();
        results.iter().for_each(|place| self.temps.touch(place));
        let go_on = self.temps.place(1);
        let (mut condition, mut body) = (Vec::new(), Vec::new());
        self.body(&repeat.condition, &given, std::slice::from_ref(&go_on), &mut condition);
        self.body(&repeat.body, &given, &results, &mut body);
        args.iter()
            .chain(&results)
            .chain([&go_on])
            .for_each(|place| self.temps.touch(place));
        self.temps.close(start);
        steps.push(Step::While { condition, go_on, body });
    }

    /// Copies the first carried values to where the loop keeps them.
    fn copy_in(&mut self, carried: &[Place], state: &[Place], steps: &mut Vec<Step>) {
        for (from, to) in carried.iter().zip(state) {
            if from.bytes > 0 {
                self.step(
                    steps,
                    Step::Copy {
                        from: from.clone(),
                        to: to.clone(),
                    },
                );
            }
        }
    }

    fn body(&mut self, graph: &Graph, given: &[Place], wanted: &[Place], steps: &mut Vec<Step>) {
        let given = graph.inputs().iter().copied().zip(given.iter().cloned()).collect();
        let wanted = graph
            .outputs
            .iter()
            .map(|(_, id)| *id)
            .zip(wanted.iter().cloned())
            .collect();
        // What goes in and out of a body is dense, and so is all within.
        let outside = std::mem::take(&mut self.layouts);
        self.graph(graph, given, wanted, steps);
        self.layouts = outside;
    }

    fn step(&mut self, steps: &mut Vec<Step>, step: Step) {
        self.temps.advance();
        step.places(&mut |place| self.temps.touch(place));
        steps.push(step);
    }
}

/// For each value read from memory, the last region that reads it; results of the graph are read after all regions.
fn last_reads(graph: &Graph, regions: &[Region]) -> HashMap<NodeId, usize> {
    let mut last = HashMap::new();
    for (time, region) in regions.iter().enumerate() {
        for &id in &region.inputs {
            last.insert(id, time);
        }
    }
    for (_, id) in &graph.outputs {
        last.insert(*id, regions.len());
    }
    last
}

/// Whether the old contents of `place`, which an input names, are read after `region` has written it, or by it in a way that no kernel can
/// arrange. (A kernel that reads and writes the same place is judged by [`alias::in_place`].)
fn is_read_later(
    graph: &Graph,
    place: &Place,
    region: &Region,
    time: usize,
    places: &HashMap<NodeId, Place>,
    last_read: &HashMap<NodeId, usize>,
) -> bool {
    graph
        .inputs()
        .iter()
        .filter(|input| places.get(input) == Some(place))
        .any(|input| match last_read.get(input) {
            Some(&read) if read == time => region.kind == RegionKind::Compound,
            Some(&read) => read > time,
            None => false,
        })
}
