//! From a program to an executable: the stages, composed here and nowhere else.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cranelift_module::Linkage;
use netloom_ir::builder::Builder;
use netloom_ir::error::{Problem, Problems};
use netloom_ir::fuse;
use netloom_ir::graph::Graph;
use netloom_ir::passes;
use netloom_ir::prepare::PREPARE;
use netloom_ir::program::{Entry, Init, Program, SEED, State};
use netloom_ir::{DType, Target, Tensor};

use crate::cpu::emit::Emitter;
use crate::cpu::entry::emit_barrier;
use crate::cpu::export::{self, LevelCode, emit_check, emit_export};
use crate::cpu::isa::{Cpu, Place};
use crate::cpu::object::Object;
use crate::cpu::runner;
use crate::device::Device;
use crate::error::Error;
#[cfg(feature = "vulkan")]
use crate::gpu;
use crate::layout::Layouts;
use crate::memory::{self, Planned};
use crate::plan::kernels::Makers;
use crate::plan::{self, Cut, Kernels, Memory, Plan, Port, StateSlot};

/// The entry that computes the first values of states from `seed`, a `u64` scalar; present if any state starts from a graph.
pub const INIT: &str = "init";

/// How long each stage took.
#[derive(Clone, Debug, Default)]
pub struct Stages(pub Vec<(&'static str, Duration)>);

impl Stages {
    /// Runs a stage and adds its time to what it took before.
    pub fn time<T>(&mut self, stage: &'static str, run: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = run();
        self.add(stage, start.elapsed());
        result
    }

    /// Adds to the time of a stage.
    pub fn add(&mut self, stage: &'static str, took: Duration) {
        match self.0.iter_mut().find(|(name, _)| *name == stage) {
            Some((_, total)) => *total += took,
            None => self.0.push((stage, took)),
        }
    }

    /// All stages together.
    pub fn total(&self) -> Duration {
        self.0.iter().map(|(_, took)| *took).sum()
    }
}

/// A program up to code: improved graphs, kernels, plans. What `dump` shows and what emission reads.
#[derive(Clone, Debug)]
pub struct Lowered {
    /// The entries after the passes, [`INIT`] included.
    pub graphs: Vec<(String, Graph)>,
    /// One plan for each entry, in the same order.
    pub plans: Vec<Plan>,
    /// The distinct kernels.
    pub kernels: Kernels,
    /// Places of states, and the constants.
    pub memory: Memory,
    /// Where elements lie.
    pub layouts: Layouts,
    /// States that start with given elements.
    pub given: Vec<(String, Arc<Tensor>)>,
    /// How long it took.
    pub stages: Stages,
}

/// Checks, improves, cuts, builds, schedules and plans a program.
///
/// # Errors
/// Everything that is wrong with the program.
pub fn lower(program: &Program, target: &Target) -> Result<Lowered, Error> {
    program.verify()?;
    let mut stages = Stages::default();
    let graphs = stages.time("improve", || improved(program, target));
    let layouts = stages.time("layout", || Layouts::choose(&graphs, &program.states, target));
    let mut lowered = plan_graphs(&program.states, graphs, &layouts, fuse::regions, target, Makers::USUAL)?;
    for (stage, took) in std::mem::replace(&mut lowered.stages, stages).0 {
        lowered.stages.add(stage, took);
    }
    Ok(lowered)
}

/// The graphs of all entries after the passes, [`INIT`]'s included: what layouts are chosen for.
pub(crate) fn improved(program: &Program, target: &Target) -> Vec<(String, Graph)> {
    let entries = program.entries.iter().cloned().chain(init_entry(program));
    entries
        .map(|entry| (entry.name, passes::run(&entry.graph, target, &mut |_| {})))
        .collect()
}

/// The same from improved graphs on, whose values have these layouts.
///
/// # Errors
/// If a text gave a graph its nests or its plan, what is wrong with them, or that they are for another machine; if a schedule leaves its buffers: of a
/// kernel that a text gives it may.
pub(crate) fn plan_graphs(
    states: &[State],
    graphs: Vec<(String, Graph)>,
    layouts: &Layouts,
    cut: Cut,
    target: &Target,
    makers: Makers,
) -> Result<Lowered, Error> {
    let foreign = graphs.iter().flat_map(|(_, graph)| fuse::foreign(graph, target));
    let foreign: Vec<Problem> = foreign.collect();
    if !foreign.is_empty() {
        return Err(Error::Foreign(Problems(foreign)));
    }
    let mut stages = Stages::default();
    let mut layouts = layouts.clone();
    let mut memory = Memory::new(states, &layouts);
    let mut kernels = Kernels::made_by(makers, target.clone());
    let mut plans = Vec::new();
    for (name, graph) in &graphs {
        let start = Instant::now();
        let before = kernels.stages.total();
        plans.push(plan::plan(name, graph, cut, &mut layouts, &mut memory, &mut kernels)?);
        stages.add("plan", start.elapsed() - (kernels.stages.total() - before));
    }
    for &(stage, took) in &kernels.stages.0 {
        stages.add(stage, took);
    }
    stages.time("verify", || kernels.verify())?;
    let given = states
        .iter()
        .filter_map(|state| match &state.init {
            Init::Tensor(tensor) => Some((state.name.clone(), Arc::clone(tensor))),
            Init::Graph(_) | Init::Prepared | Init::Given | Init::Data => None,
        })
        .collect();
    Ok(Lowered {
        graphs,
        plans,
        kernels,
        memory,
        layouts,
        given,
        stages,
    })
}

/// One entry for the first values of all states that start from a graph.
fn init_entry(program: &Program) -> Option<Entry> {
    let builder = Builder::new();
    let mut outputs = Vec::new();
    for state in &program.states {
        if let Init::Graph(graph) = &state.init {
            let seed = graph
                .inputs()
                .iter()
                .map(|_| builder.input(SEED, DType::U64, []))
                .collect::<Vec<_>>();
            outputs.push((state.name.clone(), builder.inline(graph, &seed)[0]));
        }
    }
    if outputs.is_empty() {
        return None;
    }
    let graph = builder
        .finish(outputs)
        .expect("`Program::verify` has checked the graphs that states start from");
    Some(Entry {
        name: INIT.to_owned(),
        graph,
    })
}

/// The code of a program, with its plans.
pub(crate) enum Code {
    /// Machine code.
    Cpu(Arc<runner::Code>),
    /// Compute pipelines.
    #[cfg(feature = "vulkan")]
    Vulkan(Arc<gpu::runner::Code>),
}

/// A compiled program.
pub struct Executable {
    /// What it runs on.
    pub device: Device,
    /// The code.
    pub(crate) code: Code,
    /// Where each state lies.
    pub states: Vec<StateSlot>,
    /// States that start with given elements; [`INIT`] makes the others.
    pub(crate) given: Vec<(String, Arc<Tensor>)>,
    /// The number of distinct kernels.
    pub kernel_count: usize,
    /// Of how many of them something is decided by [`Target::tuned`].
    pub tuned_count: usize,
    /// How long each stage of compilation took.
    pub stages: Stages,
}

impl Executable {
    /// The plans of the entries.
    pub fn plans(&self) -> &[Plan] {
        match &self.code {
            Code::Cpu(code) => code.plans(),
            #[cfg(feature = "vulkan")]
            Code::Vulkan(code) => code.plans(),
        }
    }

    /// What running an entry will take with so many threads, where that is known: on a CPU whose system tells what the process has.
    pub fn memory(&self, entry: &str, threads: usize) -> Option<Planned> {
        let (states, arena) = match &self.code {
            Code::Cpu(code) => (code.state_bytes(), code.arena_bytes(threads)),
            #[cfg(feature = "vulkan")]
            Code::Vulkan(_) => return None,
        };
        let bytes = |ports: &[Port]| ports.iter().map(|port| port.ty.len_bytes()).sum::<usize>();
        let plan = self.plan(entry)?;
        let arguments = self.plan(PREPARE).map_or(0, |prepare| bytes(&prepare.inputs));
        Some(Planned {
            process: memory::resident()?,
            process_at_most: memory::most_resident()?,
            states,
            prepared_from: arguments,
            arena,
            ports: bytes(&plan.inputs) + bytes(&plan.outputs),
        })
    }

    /// The plan of the entry of that name.
    pub fn plan(&self, entry: &str) -> Option<&Plan> {
        self.plans().iter().find(|plan| plan.name == entry)
    }
}

/// Compiles a program for a device of this machine: a [`Cpu`] or a [`Device`].
///
/// # Errors
/// Everything that is wrong with the program; or that the device cannot run it.
pub fn compile(program: &Program, device: impl Into<Device>) -> Result<Executable, Error> {
    let device = device.into();
    let lowered = lower(program, &device.target())?;
    assemble(&device, lowered)
}

/// Emits a lowered program for a device of this machine.
pub(crate) fn assemble(device: &Device, mut lowered: Lowered) -> Result<Executable, Error> {
    let mut stages = std::mem::take(&mut lowered.stages);
    let (kernel_count, tuned_count) = (lowered.kernels.len(), lowered.kernels.tuned_count());
    let (states, given) = (lowered.memory.states.clone(), lowered.given.clone());
    let code = match device {
        Device::Cpu(cpu) => Code::Cpu(Arc::new(runner::Code::emit(
            cpu,
            lowered.kernels.nests(),
            lowered.plans,
            &lowered.memory,
            &mut stages,
        )?)),
        #[cfg(feature = "vulkan")]
        Device::Vulkan(device) => {
            let Lowered {
                plans, kernels, memory, ..
            } = lowered;
            let code = stages.time("emit", || {
                gpu::runner::Code::new(device, kernels.nests(), plans, &memory.constants, memory.state_bytes)
            })?;
            Code::Vulkan(Arc::new(code))
        }
    };
    Ok(Executable {
        device: device.clone(),
        code,
        states,
        given,
        kernel_count,
        tuned_count,
        stages,
    })
}

/// What an object file offers.
#[derive(Clone, Debug)]
pub struct Exports {
    /// What its symbols begin with, a C identifier.
    pub prefix: String,
    /// The entries, each exported as `PREFIX_NAME`.
    pub entries: Vec<Export>,
    /// The values of the states, if they are to be within the object.
    pub states: Option<Vec<u8>>,
}

/// An exported entry: one or several entries of the program, chosen by the size of the batch.
#[derive(Clone, Debug)]
pub struct Export {
    /// Its name, a C identifier.
    pub name: String,
    /// The program's entries, each with its size of batch if there are several.
    pub variants: Vec<(Option<u64>, String)>,
}

/// Emits a program as an object file: lowered for one CPU, or for several levels of an architecture, the best first, among which the code
/// chooses as it runs.
///
/// # Errors
/// If there is no code for the target.
///
/// # Panics
/// If an export names an entry that the program has not, or there is no level.
pub fn object(levels: &[(Cpu, Lowered)], exports: &Exports) -> Result<Vec<u8>, Error> {
    let prefix = &exports.prefix;
    let (least, lowered) = levels.last().expect("a level at least");
    // Layouts follow from shapes alone, so all levels share one block of states.
    assert!(
        levels
            .iter()
            .all(|(_, other)| other.memory.states == lowered.memory.states)
    );
    let mut object = Object::new(least, prefix)?;
    let states = (exports.states.as_ref())
        .map(|bytes| object.data(&format!("{prefix}_states"), Linkage::Export, bytes))
        .transpose()?;
    let barrier = emit_barrier(object.parts().0)?;
    let mut exported: Vec<Vec<LevelCode>> = vec![Vec::new(); exports.entries.len()];
    for (cpu, lowered) in levels {
        let is_least = cpu == least;
        // Symbols of the others name their level.
        let own = match is_least {
            true => prefix.clone(),
            false => format!("{prefix}_{}", cpu.name().replace('-', "_")),
        };
        let constants = object.data(&format!("{own}_constants"), Linkage::Local, &lowered.memory.constants)?;
        let mut beside = match levels {
            [_] => None,
            _ => Some(Emitter::new(cpu, Place::Object)?),
        };
        let (module, emitter) = object.parts();
        let emitter = beside.as_mut().unwrap_or(emitter);
        // Beside what is exported, so that symbols tell where time goes.
        let variants = exports.entries.iter().flat_map(|export| &export.variants);
        let entries: Vec<_> = variants
            .map(|(_, entry)| {
                let plan = lowered.plans.iter().find(|plan| plan.name == *entry);
                let plan = plan.expect("an export names an entry of the program");
                (format!("entry_{own}_{entry}"), plan)
            })
            .collect();
        let functions = emitter.emit_entries(module, lowered.kernels.nests(), barrier, &entries)?;
        let mut functions = entries.iter().zip(functions);
        let linkage = if is_least { Linkage::Export } else { Linkage::Local };
        let (check, is_needed) = emit_check(module, &format!("{own}_check"), linkage, cpu)?;
        for (Export { variants, .. }, exported) in exports.entries.iter().zip(&mut exported) {
            let emitted = variants.iter().zip(&mut functions);
            let emitted = emitted.map(|((batch, _), ((_, plan), function))| export::Variant {
                batch: *batch,
                function,
                parallel: plan.parallel,
            });
            exported.push(LevelCode {
                check: is_needed.then_some(check),
                constants,
                variants: emitted.collect(),
            });
        }
    }
    let shared = export::Shared {
        states,
        has_states: lowered.memory.state_bytes > 0,
    };
    for (Export { name, .. }, levels) in exports.entries.iter().zip(&exported) {
        emit_export(object.parts().0, &format!("{prefix}_{name}"), levels, &shared)?;
    }
    Ok(object.finish()?)
}
