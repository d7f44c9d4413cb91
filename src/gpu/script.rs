//! Plans as scripts: SPIR-V modules and commands over a few areas of memory, for programs that have Vulkan but not netloom.
//!
//! In: a lowered program. Out: a [`Script`], data alone, whose text form the C host of [`crate::ahead::vulkan`] plays. As when a plan is recorded,
//! repeats are written out and barriers stand where commands touch the same bytes; what the host would have to look at, a branch or a loop of
//! unknown length, has no form here.

use std::fmt::Write;

use netloom_ir::kernel::{Nest, Role};

use super::Error;
use super::code::ALIGN;
use super::device::Traits;
use super::emit;
use super::record::Ports;
use super::spirv;
use crate::compile::Lowered;
use crate::plan::{Base, Place, Plan, Port, Step};

/// Work groups in one dimension that every device takes (`maxComputeWorkGroupCount`).
const MOST_GROUPS: u64 = 65535;

/// The modules and commands of a program.
#[derive(Clone, Debug)]
pub struct Script {
    /// Each part of each kernel.
    pub modules: Vec<Module>,
    /// The entries' commands.
    pub entries: Vec<EntryScript>,
    /// Bytes of the areas, in the order of [`Area`].
    pub area_bytes: [u64; 5],
}

/// A part of a kernel.
#[derive(Clone, Debug)]
pub struct Module {
    /// Its SPIR-V.
    pub words: Vec<u32>,
    /// How many storage buffers it is given, at bindings from 0.
    pub bindings: u32,
    /// Work groups.
    pub groups: [u64; 2],
}

/// One entry.
#[derive(Clone, Debug)]
pub struct EntryScript {
    /// Its name.
    pub name: String,
    /// Arguments, each with its place among the ports.
    pub inputs: Vec<(Port, u64)>,
    /// Results, each with its place among the ports.
    pub outputs: Vec<(Port, u64)>,
    /// What runs.
    pub commands: Vec<Command>,
}

/// A piece of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Area {
    /// The block of states.
    States,
    /// The block of constants.
    Constants,
    /// What steps share.
    Arena,
    /// What invocations have to themselves.
    Scratch,
    /// Arguments and results.
    Ports,
}

/// Bytes of an area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    area: Area,
    start: u64,
    bytes: u64,
}

impl Range {
    fn overlaps(&self, other: &Range) -> bool {
        self.area == other.area && self.start < other.start + other.bytes && other.start < self.start + self.bytes
    }
}

/// One command.
#[derive(Clone, Debug)]
pub enum Command {
    /// Everything above comes before everything below.
    Barrier,
    /// Runs a module.
    Dispatch {
        /// Which.
        module: usize,
        /// What its bindings span.
        bound: Vec<Range>,
        /// Its push constants.
        push: Vec<u32>,
    },
    /// Copies bytes.
    Copy {
        /// Read.
        from: Range,
        /// Written.
        to: Range,
    },
    /// Writes a number of eight bytes.
    Write {
        /// Where.
        to: Range,
        /// What.
        value: u64,
    },
}

/// The script of a lowered program for devices of these traits.
///
/// # Errors
/// If a kernel needs what they lack, or an entry has a branch or a loop of unknown length.
pub fn script(lowered: &Lowered, traits: &Traits) -> Result<Script, Error> {
    let mut modules = Vec::new();
    let mut kernels = Vec::new();
    for nest in lowered.kernels.nests() {
        kernels.push(Kernel::new(nest, traits, &mut modules)?);
    }
    let mut entries = Vec::new();
    let mut port_bytes = 0;
    for plan in &lowered.plans {
        let ports = Ports::of(&plan.inputs, &plan.outputs);
        port_bytes = ports.bytes.max(port_bytes);
        let mut flat = Flat {
            kernels: &kernels,
            traits,
            ports: &ports,
            iterations: Vec::new(),
            commands: Vec::new(),
            open: Vec::new(),
        };
        flat.steps(plan, &plan.steps)?;
        entries.push(EntryScript {
            name: plan.name.clone(),
            inputs: plan.inputs.iter().cloned().zip(ports.inputs.iter().copied()).collect(),
            outputs: plan
                .outputs
                .iter()
                .cloned()
                .zip(ports.outputs.iter().copied())
                .collect(),
            commands: flat.commands,
        });
    }
    let arena = lowered.plans.iter().map(|plan| plan.shared_bytes as u64).max();
    let scratch = kernels.iter().map(|kernel| kernel.scratch_bytes).max();
    Ok(Script {
        modules,
        entries,
        area_bytes: [
            lowered.memory.state_bytes as u64,
            lowered.memory.constants.len() as u64,
            arena.unwrap_or(0),
            scratch.unwrap_or(0),
            port_bytes,
        ],
    })
}

/// What commands know of a kernel.
struct Kernel {
    /// The first of its modules, and for each the buffers that it touches, with whether it writes.
    first: usize,
    touched: Vec<Vec<(usize, bool)>>,
    /// By buffer: its bindings, the bytes of an element, and where it lies in scratch.
    buffers: Vec<(std::ops::Range<u32>, u64, Option<Range>)>,
    scratch_bytes: u64,
}

impl Kernel {
    fn new(nest: &Nest, traits: &Traits, modules: &mut Vec<Module>) -> Result<Kernel, Error> {
        let bindings = emit::bindings(nest, traits);
        let bound = bindings.last().map_or(0, |last| last.end);
        let (first, mut touched) = (modules.len(), Vec::new());
        for phase in emit::emit(nest, traits)?.iter().filter(|phase| phase.invocations > 0) {
            let groups = phase.invocations.div_ceil(phase.group.into());
            let rows = groups.div_ceil(MOST_GROUPS);
            modules.push(Module {
                words: spirv::words(&phase.module),
                bindings: bound,
                groups: [groups.div_ceil(rows), rows],
            });
            touched.push(phase.touched.clone());
        }
        let mut scratch_bytes = 0;
        let buffers = nest.buffers.iter().zip(bindings).map(|(buffer, bindings)| {
            let scratch = (buffer.role == Role::WorkerScratch).then(|| {
                let (start, bytes) = (scratch_bytes, emit::bytes(nest, buffer));
                scratch_bytes += bytes.next_multiple_of(ALIGN);
                Range {
                    area: Area::Scratch,
                    start,
                    bytes,
                }
            });
            (bindings, buffer.ty.dtype.size_bytes() as u64, scratch)
        });
        Ok(Kernel {
            first,
            touched,
            buffers: buffers.collect(),
            scratch_bytes,
        })
    }
}

/// A plan on its way into commands.
struct Flat<'a> {
    kernels: &'a [Kernel],
    traits: &'a Traits,
    ports: &'a Ports,
    /// The iteration numbers of the enclosing repeats, outermost first.
    iterations: Vec<usize>,
    commands: Vec<Command>,
    /// What has been touched since the last barrier, and whether it was written.
    open: Vec<(Range, bool)>,
}

impl Flat<'_> {
    fn steps(&mut self, plan: &Plan, steps: &[Step]) -> Result<(), Error> {
        for step in steps {
            match step {
                Step::Kernel { kernel, buffers, .. } => self.kernel(&self.kernels[kernel.0], buffers),
                Step::Copy { from, to } => {
                    let (from, to) = (self.range(from), self.range(to));
                    if from.bytes > 0 {
                        self.push(vec![(from, false), (to, true)], Command::Copy { from, to });
                    }
                }
                Step::Count { to, from_end } => {
                    let iteration = *self.iterations.last().expect("a count stands in a repeat");
                    let value = from_end.map_or(iteration, |times| times - 1 - iteration) as u64;
                    let to = self.range(to);
                    self.push(vec![(to, true)], Command::Write { to, value });
                }
                // The plan's barriers are for the workers of a CPU.
                Step::Barrier => {}
                Step::Repeat { times, body } => {
                    for iteration in 0..*times {
                        self.iterations.push(iteration);
                        self.steps(plan, body)?;
                        self.iterations.pop();
                    }
                }
                Step::Branch { .. } | Step::While { .. } => {
                    return Err(Error::Refused {
                        doing: format!("writing entry `{}` for Vulkan", plan.name),
                        reason: "it has a branch, or a loop whose length its values decide, which an artefact for Vulkan cannot hold; compile \
                                 it for the CPU"
                            .to_owned(),
                    });
                }
            }
        }
        Ok(())
    }

    fn range(&self, place: &Place) -> Range {
        let (area, start) = match place.base {
            Base::Input(number) => (Area::Ports, self.ports.inputs[number]),
            Base::Output(number) => (Area::Ports, self.ports.outputs[number]),
            Base::States => (Area::States, 0),
            Base::Constants => (Area::Constants, 0),
            Base::Arena => (Area::Arena, 0),
            Base::Worker => (Area::Scratch, 0),
            Base::Temp(_) => unreachable!("a finished plan has no temps"),
        };
        let strides = place.strides.iter().zip(&self.iterations);
        let moved: isize = strides.map(|(stride, &iteration)| stride * iteration as isize).sum();
        let start = start as i64 + place.offset as i64 + moved as i64;
        Range {
            area,
            start: u64::try_from(start).expect("a place lies within its area"),
            bytes: place.bytes as u64,
        }
    }

    /// A command, with a barrier before it if it needs one.
    fn push(&mut self, accesses: Vec<(Range, bool)>, command: Command) {
        let clashes = |(new, writes): &(Range, bool)| {
            let mut open = self.open.iter();
            open.any(|(old, written)| (*written || *writes) && old.overlaps(new))
        };
        if accesses.iter().any(clashes) {
            self.commands.push(Command::Barrier);
            self.open.clear();
        }
        self.open.extend(accesses);
        self.commands.push(command);
    }

    fn kernel(&mut self, kernel: &Kernel, places: &[Place]) {
        let buffers = places.iter().zip(&kernel.buffers);
        let ranges: Vec<Range> = buffers
            .map(|(place, (_, _, scratch))| scratch.unwrap_or_else(|| self.range(place)))
            .collect();
        // Bindings begin where any device lets them; the kernel is told how far from there its tensor begins.
        let starts: Vec<u64> = ranges.iter().map(|range| range.start / ALIGN * ALIGN).collect();
        let mut bound = Vec::new();
        let mut push = Vec::new();
        for ((range, &start), (bindings, element_bytes, _)) in ranges.iter().zip(&starts).zip(&kernel.buffers) {
            push.push(((range.start - start) / element_bytes) as u32);
            let end = range.start + range.bytes;
            let window = match bindings.len() {
                1 => u64::MAX,
                _ => self.traits.window_bytes(),
            };
            for number in 0..bindings.len() as u64 {
                let start = start + number * window.min(end);
                // Where a tensor has no elements, something is bound all the same, and never touched.
                let (start, bytes) = match start < end {
                    true => (start, (end - start).min(window)),
                    false => (0, 0),
                };
                bound.push(Range { start, bytes, ..*range });
            }
        }
        for (number, touched) in kernel.touched.iter().enumerate() {
            let accesses = touched.iter().map(|&(buffer, writes)| {
                let (range, start) = (ranges[buffer], starts[buffer]);
                let bytes = range.start - start + range.bytes;
                (Range { start, bytes, ..range }, writes)
            });
            let command = Command::Dispatch {
                module: kernel.first + number,
                bound: bound.clone(),
                push: push.clone(),
            };
            self.push(accesses.collect(), command);
        }
    }
}

impl Script {
    /// The text of the plan, a command a line; `names` are what the files of the areas' first contents and of the modules are called.
    pub fn text(&self, areas: &[&str; 5], module: impl Fn(usize) -> String) -> String {
        let mut text = String::from("netloom-vulkan 1\n");
        for (bytes, file) in self.area_bytes.iter().zip(areas) {
            let _ = writeln!(text, "area {bytes} {file}");
        }
        let _ = writeln!(text, "modules {}", self.modules.len());
        for (number, of) in self.modules.iter().enumerate() {
            let [columns, rows] = of.groups;
            let _ = writeln!(text, "module {} {} {columns} {rows}", module(number), of.bindings);
        }
        for entry in &self.entries {
            let _ = writeln!(text, "entry {}", crate::ahead::identifier(&entry.name));
            for (kind, ports) in [("input", &entry.inputs), ("output", &entry.outputs)] {
                for (port, at) in ports {
                    let _ = writeln!(
                        text,
                        "{kind} {} {at} {}",
                        crate::ahead::identifier(&port.name),
                        port.ty.len_bytes()
                    );
                }
            }
            for command in &entry.commands {
                let _ = match command {
                    Command::Barrier => writeln!(text, "barrier"),
                    Command::Copy { from, to } => writeln!(text, "copy {from} {to}"),
                    Command::Write { to, value } => writeln!(text, "write {to} {value}"),
                    Command::Dispatch { module, bound, push } => {
                        let bound: String = bound.iter().map(|range| format!(" {range}")).collect();
                        let push: String = push.iter().map(|word| format!(" {word}")).collect();
                        let count = push.split_whitespace().count();
                        writeln!(text, "dispatch {module}{bound} {count}{push}")
                    }
                };
            }
            text += "end\n";
        }
        text
    }
}

impl std::fmt::Display for Range {
    /// The area's number, where in it, how long.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}", self.area as usize, self.start, self.bytes)
    }
}
