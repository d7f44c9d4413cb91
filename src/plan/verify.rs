//! Checks plans before code is made of them: a plan that passes touches no byte outside its blocks.
//!
//! The planner's own plans are checked in debug builds, those with something that a text gave in all. What is proved is that nothing goes wrong, not that the
//! steps compute what the graph says: that is for `netloom check`.

use std::cmp::Ordering;
use std::ops::Range;

use netloom_ir::graph::Graph;
use netloom_ir::kernel::verify::reach;
use netloom_ir::kernel::{Buffer, Nest, Role};
use netloom_ir::plan::walk;
use netloom_ir::{Loc, Problem, Problems};

use super::{ALIGN, Base, Kernels, Memory, Place, Plan, StateSlot, Step, alias, barriers, flow};

/// A rule that a plan breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// The step that breaks it, counted from 0 in the order in which they are read; none if it is the plan as a whole.
    pub step: Option<usize>,
    /// How.
    pub message: String,
}

/// Every rule of plans, with what is wrong otherwise:
///
/// - each place lies within its block in every iteration of the repeats around it, at a multiple of its elements' size;
/// - a kernel has a place for each buffer of its nest, as long as it, or as what the nest touches of it; where two overlap of which one is written, the rule of [`alias`] allows it;
/// - arguments and constants are not written, nor states that are no results of the entry; what belongs to one worker lies in the worker's part;
/// - what a step reads in the arena has been written in this run, and at the end every result has;
/// - a barrier stands wherever [`barriers`] puts one.
pub fn verify(plan: &Plan, graph: &Graph, memory: &Memory, kernels: &Kernels) -> Result<(), Vec<Broken>> {
    let updated = memory.states.iter().filter_map(|slot| {
        let (_, next) = graph.outputs.iter().find(|(name, _)| *name == slot.name)?;
        Some((slot, graph.input(&slot.name) == Some(*next)))
    });
    let updated: Vec<(&StateSlot, bool)> = updated.collect();
    let mut check = Check {
        plan,
        kernels,
        memory,
        updated: updated.iter().map(|(slot, _)| *slot).collect(),
        repeats: Vec::new(),
        next: 0,
        broken: Vec::new(),
    };
    for (what, bytes) in [("shared", plan.shared_bytes), ("each worker's", plan.worker_bytes)] {
        if !bytes.is_multiple_of(ALIGN) {
            check.broken.push(Broken {
                step: None,
                message: format!("the {what} part of the arena, {bytes} bytes, is no multiple of {ALIGN}"),
            });
        }
    }
    check.steps(&plan.steps);
    let mut broken = check.broken;
    if broken.is_empty() {
        let changed = updated.iter().filter(|(_, stays)| !stays);
        let changed: Vec<_> = changed.map(|(slot, _)| (slot.name.clone(), bytes_of(slot))).collect();
        broken = flow::unwritten(plan, &changed, kernels);
        broken.extend(barriers::missing(&plan.steps, kernels).map(|step| Broken {
            step: Some(step),
            message: "a `barrier` is missing behind this step: what comes next touches bytes that another worker may still be at".to_owned(),
        }));
    }
    if broken.is_empty() { Ok(()) } else { Err(broken) }
}

/// Whether what a text gave as the nests of steps stays within the places of their buffers, wherever these come to lie.
///
/// # Errors
/// Every buffer that does not fit.
pub(super) fn fits(steps: &[Step], kernels: &Kernels) -> Result<(), Problems> {
    let mut found = Vec::new();
    walk(steps, &mut |step| {
        if let Step::Kernel { kernel, buffers, .. } = step {
            let nest = kernels.nest(*kernel);
            let wrong = misfits(nest, buffers).into_iter();
            found.extend(wrong.map(|message| Problem::new(format!("nest `{}`: {message}", nest.name), Loc::None)));
        }
    });
    if found.is_empty() { Ok(()) } else { Err(Problems(found)) }
}

/// What does not fit its place: a part of a whole shares its layout, and ends before it does; all else is as long as its place.
fn misfits(nest: &Nest, places: &[Place]) -> Vec<String> {
    let pairs = || nest.buffers.iter().zip(places);
    let is_part = |(buffer, place): (&Buffer, &Place)| place.bytes < buffer.ty.len_bytes();
    let touched = match pairs().any(is_part) {
        true => reach(nest),
        false => Vec::new(),
    };
    let misfit = |(at, (buffer, place)): (usize, (&Buffer, &Place))| {
        let len = buffer.ty.len_bytes();
        let is_scratch = matches!(buffer.role, Role::WorkerScratch | Role::SharedScratch);
        let fits = match place.bytes.cmp(&len) {
            _ if buffer.role == Role::GroupScratch => place.bytes == 0,
            Ordering::Less => !is_scratch && touched[at] <= place.bytes,
            Ordering::Equal => true,
            Ordering::Greater => is_scratch,
        };
        (!fits).then(|| format!("`{}` of {len} bytes does not fit {place}", buffer.name))
    };
    pairs().enumerate().filter_map(misfit).collect()
}

fn bytes_of(slot: &StateSlot) -> Range<usize> {
    slot.offset..slot.offset + slot.ty.len_bytes()
}

struct Check<'a> {
    plan: &'a Plan,
    kernels: &'a Kernels,
    memory: &'a Memory,
    /// The states that are results of the entry.
    updated: Vec<&'a StateSlot>,
    /// How often the repeats around run, outermost first.
    repeats: Vec<usize>,
    /// The number of the next step.
    next: usize,
    broken: Vec<Broken>,
}

impl Check<'_> {
    fn steps(&mut self, steps: &[Step]) {
        for step in steps {
            self.next += 1;
            match step {
                Step::Kernel { kernel, buffers, .. } => self.kernel(self.kernels.nest(*kernel), buffers),
                Step::Copy { from, to } => self.copy(from, to),
                Step::Count { to, .. } => {
                    self.require(!self.repeats.is_empty(), || {
                        "`count` stands outside any repeat".to_owned()
                    });
                    self.value(to, 8, "a count");
                    self.writable(to);
                }
                Step::Barrier | Step::Repeat { .. } => {}
                Step::Branch { condition: place, .. } | Step::While { go_on: place, .. } => {
                    self.value(place, 1, "a condition");
                }
            }
            match step {
                // Steps that never run may lie anywhere: what they are to read and write has no elements.
                Step::Repeat { times: 0, body } => walk(body, &mut |_| self.next += 1),
                Step::Repeat { times, body } => {
                    self.repeats.push(*times);
                    self.steps(body);
                    self.repeats.pop();
                }
                _ => step.bodies().into_iter().for_each(|body| self.steps(body)),
            }
        }
    }

    fn require(&mut self, holds: bool, message: impl FnOnce() -> String) {
        if !holds {
            self.broken.push(Broken {
                step: Some(self.next - 1),
                message: message(),
            });
        }
    }

    /// A kernel and the places of its buffers.
    fn kernel(&mut self, nest: &Nest, places: &[Place]) {
        let (found, wanted) = (places.len(), nest.buffers.len());
        self.require(found == wanted, || {
            format!("the nest has {wanted} buffers, the step {found} places")
        });
        if found != wanted {
            return;
        }
        for message in misfits(nest, places) {
            self.require(false, || message);
        }
        for (buffer, place) in nest.buffers.iter().zip(places) {
            let name = &buffer.name;
            self.within(place, buffer.ty.dtype.size_bytes());
            let is_workers = place.base == Base::Worker;
            match buffer.role {
                Role::Input => {}
                Role::Output => self.writable(place),
                Role::SharedScratch => {
                    let is_shared = place.base == Base::Arena;
                    self.require(is_shared, || {
                        format!("`{name}` is scratch of the kernel: its place is in the arena")
                    });
                }
                Role::WorkerScratch => {
                    self.require(is_workers, || {
                        format!("`{name}` is each worker's own: its place begins with `worker`")
                    });
                }
                Role::GroupScratch => {}
            }
            let may_be_workers = matches!(buffer.role, Role::WorkerScratch | Role::GroupScratch);
            self.require(!is_workers || may_be_workers, || {
                format!("`{name}` is shared by the workers: its place cannot begin with `worker`")
            });
        }
        for second in 0..found {
            for first in 0..second {
                if !self.may_meet(nest, places, first, second) {
                    let [one, other] = [first, second].map(|at| &nest.buffers[at].name);
                    let (place, over) = (&places[first], &places[second]);
                    self.require(false, || {
                        format!("`{one}` at {place} and `{other}` at {over} overlap, and one is written")
                    });
                }
            }
        }
    }

    /// Whether two buffers of a kernel may lie as they do.
    fn may_meet(&self, nest: &Nest, places: &[Place], first: usize, second: usize) -> bool {
        let (buffers, ends) = (
            [first, second].map(|at| &nest.buffers[at]),
            [first, second].map(|at| &places[at]),
        );
        let is_read_only = buffers.iter().all(|buffer| buffer.role == Role::Input);
        if is_read_only || self.are_apart(ends[0], ends[1]) {
            return true;
        }
        let is_in_place = ends[0] == ends[1]
            && [Role::Input, Role::Output] == buffers.map(|buffer| buffer.role)
            && alias::in_place(nest, first, second);
        // Parts of one whole lie in each other's lines.
        let are_parts = [0, 1].iter().all(|&at| ends[at].bytes < buffers[at].ty.len_bytes());
        is_in_place || are_parts && ends[0].offset != ends[1].offset
    }

    /// Whether two places share no byte in any iteration.
    fn are_apart(&self, one: &Place, other: &Place) -> bool {
        one.bytes == 0 || other.bytes == 0 || !one.meets(other, &self.repeats)
    }

    fn copy(&mut self, from: &Place, to: &Place) {
        [from, to].into_iter().for_each(|place| self.shared(place));
        self.writable(to);
        self.require(from.bytes == to.bytes, || {
            format!("{} bytes are copied to {}", from.bytes, to.bytes)
        });
        let are_apart = self.are_apart(from, to);
        self.require(are_apart, || format!("{from} is copied to {to}, which it overlaps"));
    }

    /// A value of so many bytes, which all workers see.
    fn value(&mut self, place: &Place, bytes: usize, what: &str) {
        self.require(place.bytes == bytes, || {
            format!("{what} has {bytes} bytes, {place} has {}", place.bytes)
        });
        self.within(place, bytes);
        self.shared(place);
    }

    fn shared(&mut self, place: &Place) {
        self.within(place, 1);
        self.require(place.base != Base::Worker, || {
            format!("{place} is each worker's own: only scratch of kernels is")
        });
    }

    /// Whether a place lies within its block in every iteration of the repeats around, at multiples of so many bytes.
    fn within(&mut self, place: &Place, align: usize) {
        let block = match place.base {
            Base::Input(number) => self.plan.inputs.get(number).map(|port| port.ty.len_bytes()),
            Base::Output(number) => self.plan.outputs.get(number).map(|port| port.ty.len_bytes()),
            Base::States => Some(self.memory.state_bytes),
            Base::Constants => Some(self.memory.constants.len()),
            Base::Arena => Some(self.plan.shared_bytes),
            Base::Worker => Some(self.plan.worker_bytes),
            Base::Temp(_) => None,
        };
        let Some(block) = block else {
            return self.require(false, || format!("{place} begins where nothing is"));
        };
        let depth = self.repeats.len();
        self.require(place.strides.len() <= depth, || {
            format!("{place} moves with more repeats than the {depth} around it")
        });
        let bytes = place.reach(&self.repeats);
        let inside = bytes.start >= 0 && bytes.end <= block as i128;
        self.require(inside, || {
            format!(
                "{place} reaches from {} to {}, its block from 0 to {block}",
                bytes.start, bytes.end
            )
        });
        let in_one = place.base != Base::States || self.slot(&bytes).is_some() || bytes.is_empty();
        self.require(!inside || in_one, || format!("{place} lies in no one state"));
        let steps = place.strides.iter().map(|stride| stride.unsigned_abs());
        let is_aligned = steps.chain([place.offset]).all(|step| step.is_multiple_of(align));
        self.require(is_aligned, || {
            format!("{place} is not aligned to the {align} bytes of an element")
        });
    }

    /// The state in which bytes lie.
    fn slot(&self, bytes: &Range<i128>) -> Option<&StateSlot> {
        let holds = |slot: &&StateSlot| {
            let own = bytes_of(slot);
            own.start as i128 <= bytes.start && bytes.end <= own.end as i128
        };
        self.memory.states.iter().find(holds)
    }

    /// Whether a step may write there.
    fn writable(&mut self, place: &Place) {
        match place.base {
            Base::Input(_) | Base::Constants => {
                self.require(false, || format!("{place} is written and may only be read"))
            }
            Base::States => {
                let bytes = place.reach(&self.repeats);
                let slot = self.slot(&bytes).filter(|slot| !self.updated.contains(slot));
                let name = slot.map(|slot| slot.name.clone());
                self.require(name.is_none(), || {
                    format!(
                        "{place} is written: the state `{}` is no result of the entry",
                        name.unwrap_or_default()
                    )
                });
            }
            Base::Output(_) | Base::Arena | Base::Worker | Base::Temp(_) => {}
        }
    }
}
