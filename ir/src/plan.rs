//! Plans as data: the steps of an entry, and where in memory each of them reads and writes.
//!
//! Who makes plans is the crate `netloom`, from regions with their schedules. A text of the stage `plan` gives them too: [`Given`] is what it says,
//! by names; the compiler finds the kernels and checks every step before it goes on.

mod text;

use std::ops::Range;
use std::sync::Arc;

use crate::error::{Loc, Problem};
use crate::graph::NodeId;
use crate::tensor::{Tensor, Type};

pub(crate) use text::Named;

/// A value in the arena that has no place yet: a position among those of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TempId(pub usize);

/// A kernel: a position among those of an executable, or among [`Given::kernels`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KernelId(pub usize);

/// What an address counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Base {
    /// Argument of that number.
    Input(usize),
    /// Result of that number.
    Output(usize),
    /// The block of states.
    States,
    /// The block of constants.
    Constants,
    /// The arena, shared by the workers.
    Arena,
    /// The part of the arena that belongs to the worker.
    Worker,
    /// A value whose place in the arena is not yet decided; none is left in a finished plan.
    Temp(TempId),
}

/// Where a value lies: `base + offset + Σ stride · iteration`, in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// What the address counts from.
    pub base: Base,
    /// Bytes from there.
    pub offset: usize,
    /// Bytes for each iteration of the enclosing repeats, outermost first; missing ones are 0.
    pub strides: Vec<isize>,
    /// The length in bytes.
    pub bytes: usize,
}

impl Place {
    /// A place that stays where it is.
    pub fn new(base: Base, offset: usize, bytes: usize) -> Place {
        Place {
            base,
            offset,
            strides: Vec::new(),
            bytes,
        }
    }

    /// Whether this and another share bytes in some iteration of the repeats around both, which run so many times, outermost first.
    pub fn meets(&self, other: &Place, repeats: &[usize]) -> bool {
        let stride = |place: &Place, depth: usize| place.strides.get(depth).copied().unwrap_or(0) as i128;
        let moves = repeats.iter().enumerate();
        // How far this one moves towards or past the other.
        let sway = sway(moves.map(|(depth, &times)| (stride(self, depth) - stride(other, depth), times)));
        let [own, others] = [self, other].map(|place| place.offset as i128..place.offset as i128 + place.bytes as i128);
        self.base == other.base
            && own.start.saturating_add(sway.start) < others.end
            && others.start < own.end.saturating_add(sway.end)
    }

    /// From its first byte in any iteration of the repeats around to behind its last.
    pub fn reach(&self, repeats: &[usize]) -> Range<i128> {
        let moves = self.strides.iter().zip(repeats);
        let sway = sway(moves.map(|(&stride, &times)| (stride as i128, times)));
        let start = self.offset as i128;
        start.saturating_add(sway.start)..(start + self.bytes as i128).saturating_add(sway.end)
    }
}

/// How far something moves back and forth at most, by so many bytes with each iteration of repeats that run so many times. What a text says of them may be
/// anything.
fn sway(moves: impl Iterator<Item = (i128, usize)>) -> Range<i128> {
    let ways = moves.map(|(stride, times)| stride.saturating_mul(times.saturating_sub(1) as i128));
    ways.fold(0..0, |sway, way| {
        sway.start.saturating_add(way.min(0))..sway.end.saturating_add(way.max(0))
    })
}

/// One step of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Runs a kernel on these buffers.
    Kernel {
        /// Which.
        kernel: KernelId,
        /// One place for each buffer of its nest.
        buffers: Vec<Place>,
        /// The nodes computed, for dumps and profiles.
        nodes: Vec<NodeId>,
    },
    /// Copies bytes between places that do not overlap.
    Copy {
        /// Read.
        from: Place,
        /// Written, of the same length.
        to: Place,
    },
    /// Writes the iteration number of the innermost repeat (or, `from_end`, its mirror image) as an `i64`.
    Count {
        /// Written.
        to: Place,
        /// If the repeat runs backwards, its number of iterations.
        from_end: Option<usize>,
    },
    /// All workers wait for each other.
    Barrier,
    /// Runs the body a fixed number of times.
    Repeat {
        /// How often.
        times: usize,
        /// What.
        body: Vec<Step>,
    },
    /// Runs one of two bodies.
    Branch {
        /// A `bool`.
        condition: Place,
        /// Run if true.
        then: Vec<Step>,
        /// Run otherwise.
        otherwise: Vec<Step>,
    },
    /// Runs `condition`, then, while it left true, `body` and `condition` again.
    While {
        /// Computes the condition.
        condition: Vec<Step>,
        /// Where it leaves it, a `bool`.
        go_on: Place,
        /// One round.
        body: Vec<Step>,
    },
}

impl Step {
    /// The lists of steps within it, in the order in which they are read.
    pub fn bodies(&self) -> [&[Step]; 2] {
        match self {
            Step::Kernel { .. } | Step::Copy { .. } | Step::Count { .. } | Step::Barrier => [&[], &[]],
            Step::Repeat { body, .. } => [body, &[]],
            Step::Branch { then, otherwise, .. } => [then, otherwise],
            Step::While { condition, body, .. } => [condition, body],
        }
    }

    /// The same, to be changed.
    pub fn bodies_mut(&mut self) -> [&mut [Step]; 2] {
        match self {
            Step::Kernel { .. } | Step::Copy { .. } | Step::Count { .. } | Step::Barrier => [&mut [], &mut []],
            Step::Repeat { body, .. } => [body, &mut []],
            Step::Branch { then, otherwise, .. } => [then, otherwise],
            Step::While { condition, body, .. } => [condition, body],
        }
    }

    /// The places that it touches itself.
    pub fn own_places_mut(&mut self) -> Vec<&mut Place> {
        match self {
            Step::Kernel { buffers, .. } => buffers.iter_mut().collect(),
            Step::Copy { from, to } => vec![from, to],
            Step::Count { to, .. } => vec![to],
            Step::Branch { condition: place, .. } | Step::While { go_on: place, .. } => vec![place],
            Step::Barrier | Step::Repeat { .. } => Vec::new(),
        }
    }

    /// Every place that the step and those within it touch.
    pub fn places(&self, visit: &mut impl FnMut(&Place)) {
        walk(std::slice::from_ref(self), &mut |step| match step {
            Step::Kernel { buffers, .. } => buffers.iter().for_each(&mut *visit),
            Step::Copy { from, to } => [from, to].into_iter().for_each(&mut *visit),
            Step::Count { to: place, .. }
            | Step::Branch { condition: place, .. }
            | Step::While { go_on: place, .. } => visit(place),
            Step::Barrier | Step::Repeat { .. } => {}
        });
    }

    /// Bytes that the step's kernels and copies read and write, each buffer once a call; a body of unknown length counts once.
    pub fn bytes_moved(&self) -> usize {
        let sum = |steps: &[Step]| steps.iter().map(Step::bytes_moved).sum::<usize>();
        match self {
            Step::Kernel { buffers, .. } => {
                let shared = buffers.iter().filter(|place| place.base != Base::Worker);
                shared.map(|place| place.bytes).sum()
            }
            Step::Copy { from, .. } => 2 * from.bytes,
            Step::Count { to, .. } => to.bytes,
            Step::Barrier => 0,
            Step::Repeat { times, body } => times * sum(body),
            Step::Branch { then, otherwise, .. } => sum(then).max(sum(otherwise)),
            Step::While { condition, body, .. } => sum(condition) + sum(body),
        }
    }

    /// The number of kernels that the step starts; a body of unknown length counts once.
    pub fn kernel_runs(&self) -> usize {
        let sum = |steps: &[Step]| steps.iter().map(Step::kernel_runs).sum::<usize>();
        match self {
            Step::Kernel { .. } => 1,
            Step::Copy { .. } | Step::Count { .. } | Step::Barrier => 0,
            Step::Repeat { times, body } => times * sum(body),
            Step::Branch { then, otherwise, .. } => sum(then).max(sum(otherwise)),
            Step::While { condition, body, .. } => sum(condition) + sum(body),
        }
    }
}

/// Every step, those within others too, in the order in which they are read.
pub fn walk<'a>(steps: &'a [Step], visit: &mut impl FnMut(&'a Step)) {
    for step in steps {
        visit(step);
        step.bodies().into_iter().for_each(|body| walk(body, visit));
    }
}

/// The same, to be changed.
pub fn walk_mut(steps: &mut [Step], visit: &mut impl FnMut(&mut Step)) {
    for step in steps {
        visit(step);
        step.bodies_mut().into_iter().for_each(|body| walk_mut(body, visit));
    }
}

/// An argument or result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Its type, dense.
    pub ty: Type,
}

/// What the text of a plan says.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// Arguments, in order.
    pub inputs: Vec<Port>,
    /// Results, in order; states written are not among them.
    pub outputs: Vec<Port>,
    /// The states that steps touch, each with where it begins in the block of states.
    pub states: Vec<(Port, usize)>,
    /// The constants that steps read, each with where it begins in the block of constants.
    pub constants: Vec<(Arc<Tensor>, usize)>,
    /// Bytes of arena that the workers share.
    pub shared_bytes: usize,
    /// Bytes of arena that each worker has to itself.
    pub worker_bytes: usize,
    /// The names of the nests that steps run, each once.
    pub kernels: Vec<String>,
    /// What runs.
    pub steps: Vec<Step>,
    /// For the plan itself and then for each step, in the order in which they are read, a problem there but for its message; nothing if no text is
    /// at hand.
    pub spots: Vec<Problem>,
}

impl Given {
    /// The text of the plan of an entry of that name.
    pub fn text(&self, entry: &str) -> String {
        Named(entry, self).to_string()
    }

    /// A problem with a step, counted from 0 in the order in which they are read, or with the plan as a whole.
    pub fn problem(&self, step: Option<usize>, message: String) -> Problem {
        let spot = self.spots.get(step.map_or(0, |step| step + 1)).cloned();
        Problem {
            message,
            ..spot.unwrap_or_else(|| Problem::new("", Loc::None))
        }
    }
}

/// Two are equal if they say the same; places in texts do not count.
impl PartialEq for Given {
    fn eq(&self, other: &Given) -> bool {
        let Given {
            inputs,
            outputs,
            states,
            constants,
            shared_bytes,
            worker_bytes,
            kernels,
            steps,
            spots: _,
        } = other;
        (&self.inputs, &self.outputs, &self.states) == (inputs, outputs, states)
            && (&self.constants, &self.kernels, &self.steps) == (constants, kernels, steps)
            && (self.shared_bytes, self.worker_bytes) == (*shared_bytes, *worker_bytes)
    }
}

impl Eq for Given {}
