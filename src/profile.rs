//! Profiles: what each kernel of a compiled entry costs, run one at a time, in sum or as a trace of one run.
//!
//! On a CPU the entry is improved and cut as [`compile`](crate::compile()) does; its kernels are then called by the host in the plan's order, so that
//! each can be timed. What the plan saves besides, memory written over and calls from the host, is not seen. On Vulkan the device notes the time
//! before and after each kernel of the plan.

#[cfg(feature = "vulkan")]
use std::sync::Arc;
use std::time::{Duration, Instant};

use netloom_ir::graph::Graph;
use netloom_ir::kernel::{Expr, Kernel, Prim, Work};
use netloom_ir::program::Program;
use netloom_ir::{Loc, Tensor, fuse, text};
use serde_json::json;

use crate::compile::improved;
#[cfg(feature = "vulkan")]
use crate::compile::{assemble, lower};
use crate::cpu::dispatch::Dispatcher;
use crate::cpu::isa::Cpu;
use crate::cpu::memory::Block;
use crate::device::Device;
use crate::error::Error;
#[cfg(feature = "vulkan")]
use crate::gpu;
use crate::layout::Layouts;
use crate::plan::{self, KernelCall, Kernels, Memory, Outline};
use crate::session::Session;

/// What a kernel costs in one run of its entry.
#[derive(Clone, Debug)]
pub struct KernelCost {
    /// Its name in dumps.
    pub name: String,
    /// What it computes, as dumps show it.
    pub algorithm: String,
    /// How often it runs.
    pub runs: usize,
    /// Floating-point operations of all those runs, as the kernel is written: a fused multiply-add counts twice.
    pub flops: f64,
    /// Bytes of the buffers they read and write, each counted once a run.
    pub bytes: usize,
    /// The least time that all of them took together.
    pub time: Duration,
}

/// The most runs of which the fastest counts.
const MOST_RUNS: usize = 200;
/// The fewest: the first one also faults pages in.
const FEWEST_RUNS: usize = 3;

/// Runs an entry several times, kernel by kernel, for about as long as `limit`, and gives the costs of its kernels, in their order.
/// States are as in `session`, which runs the same program on the same device.
///
/// # Errors
/// If the program is wrong or has no such entry, there is no code for the device, it has no clock, or there is not enough memory.
///
/// # Panics
/// If the tensors are not of the entry's types.
pub fn kernels(
    program: &Program,
    entry: &str,
    session: &Session,
    inputs: &[&Tensor],
    limit: Duration,
) -> Result<Vec<KernelCost>, Error> {
    match &session.executable().device {
        Device::Cpu(cpu) => on_cpu(program, entry, cpu, session, inputs, limit),
        #[cfg(feature = "vulkan")]
        device @ Device::Vulkan(_) => on_vulkan(program, entry, device, session, inputs, limit),
    }
}

/// The host calls the kernels of the outline one by one.
fn on_cpu(
    program: &Program,
    entry: &str,
    cpu: &Cpu,
    session: &Session,
    inputs: &[&Tensor],
    limit: Duration,
) -> Result<Vec<KernelCost>, Error> {
    let mut profiler = Profiler::new(program, entry, cpu, session)?;
    let mut states = profiler.states(session)?;
    let least = least(limit, || {
        profiler.run(&mut states, inputs)?;
        Ok(profiler.dispatcher.take_times())
    })?;
    Ok(costs(&profiler.kernels, least))
}

/// An entry whose kernels the host calls one by one.
pub(crate) struct Profiler {
    graph: Graph,
    pub(crate) kernels: Kernels,
    outline: Outline,
    memory: Memory,
    dispatcher: Dispatcher,
    outputs: Vec<Tensor>,
}

impl Profiler {
    /// For the threads of `session`, which may run the entry by another schedule.
    pub(crate) fn new(program: &Program, entry: &str, cpu: &Cpu, session: &Session) -> Result<Profiler, Error> {
        program.verify()?;
        let target = cpu.target();
        let mut graphs = improved(program, &target);
        let layouts = Layouts::choose(&graphs, &program.states, &target);
        let mut memory = Memory::new(&program.states, &layouts);
        let mut kernels = Kernels::new(target);
        let found = graphs.iter().position(|(name, _)| name == entry);
        let (_, graph) = graphs.swap_remove(found.ok_or_else(|| no_entry(entry))?);
        let outline = plan::outline(entry, &graph, fuse::regions, &layouts, &mut memory, &mut kernels)?;
        let outlines = std::slice::from_ref(&outline);
        let dispatcher = Dispatcher::new(&kernels, outlines, &memory, cpu, session.threads())?;
        Ok(Profiler {
            graph,
            kernels,
            outline,
            memory,
            dispatcher,
            outputs: session.results(entry)?,
        })
    }

    /// States as they are in a session. Where they lie follows from shapes alone, so that all schedules of a program can run on one block of them.
    pub(crate) fn states(&self, session: &Session) -> Result<Block, Error> {
        Ok(Block::of(&self.memory.state_values(session)?)?)
    }

    fn run(&mut self, states: &mut Block, inputs: &[&Tensor]) -> Result<(), Error> {
        let outputs = &mut self.outputs;
        Ok(self.dispatcher.run(&self.outline, states, inputs, outputs)?)
    }

    /// Runs the entry; gives what the calls of each kernel took together.
    pub(crate) fn times(&mut self, states: &mut Block, inputs: &[&Tensor]) -> Result<Vec<Duration>, Error> {
        self.run(states, inputs)?;
        Ok((self.dispatcher.take_times().into_iter())
            .map(|(_, took)| took)
            .collect())
    }
}

/// The plan itself, its commands told to note the time between kernels.
#[cfg(feature = "vulkan")]
fn on_vulkan(
    program: &Program,
    entry: &str,
    device: &Device,
    session: &Session,
    inputs: &[&Tensor],
    limit: Duration,
) -> Result<Vec<KernelCost>, Error> {
    let mut profiler = VulkanProfiler::new(program, entry, device, session)?;
    let least = least(limit, || {
        let mut times = vec![(0, Duration::ZERO); profiler.kernels.len()];
        for call in profiler.run(inputs)? {
            times[call.kernel.0].0 += 1;
            times[call.kernel.0].1 += call.took;
        }
        Ok(times)
    })?;
    Ok(costs(&profiler.kernels, least))
}

/// An entry whose kernels note the time.
#[cfg(feature = "vulkan")]
struct VulkanProfiler {
    graph: Graph,
    kernels: Kernels,
    session: Session,
    timed: gpu::runner::Timed,
    outputs: Vec<Tensor>,
}

#[cfg(feature = "vulkan")]
impl VulkanProfiler {
    fn new(program: &Program, entry: &str, device: &Device, session: &Session) -> Result<VulkanProfiler, Error> {
        let lowered = lower(program, &device.target())?;
        let number = lowered.plans.iter().position(|plan| plan.name == entry);
        let number = number.ok_or_else(|| no_entry(entry))?;
        let (graph, kernels) = (lowered.graphs[number].1.clone(), lowered.kernels.clone());
        let executable = Arc::new(assemble(device, lowered)?);
        let mut own = session.copied(executable)?;
        let runner = own.on_vulkan().expect("a session of a program compiled for Vulkan");
        let timed = runner.timed(number)?;
        Ok(VulkanProfiler {
            graph,
            kernels,
            timed,
            session: own,
            outputs: session.results(entry)?,
        })
    }

    fn run(&mut self, inputs: &[&Tensor]) -> Result<Vec<KernelCall>, Error> {
        let runner = self
            .session
            .on_vulkan()
            .expect("a session of a program compiled for Vulkan");
        Ok(runner.run_timed(&self.timed, inputs, &mut self.outputs)?)
    }
}

fn no_entry(entry: &str) -> Error {
    Error::Unknown(format!("there is no entry `{entry}`"))
}

/// How often each kernel runs, and the least time that it takes.
fn least(
    limit: Duration,
    mut run: impl FnMut() -> Result<Vec<(usize, Duration)>, Error>,
) -> Result<Vec<(usize, Duration)>, Error> {
    let mut least: Vec<(usize, Duration)> = Vec::new();
    let until = Instant::now() + limit;
    for number in 0..MOST_RUNS {
        if number >= FEWEST_RUNS && Instant::now() >= until {
            break;
        }
        let took = run()?;
        least = match least.is_empty() {
            true => took,
            false => took
                .into_iter()
                .zip(least)
                .map(|((runs, new), (_, old))| (runs, new.min(old)))
                .collect(),
        };
    }
    Ok(least)
}

/// The costs of kernels that took so long, without those that did not run.
fn costs(kernels: &Kernels, times: Vec<(usize, Duration)>) -> Vec<KernelCost> {
    let all = times.into_iter().zip(kernels.ids()).filter(|((runs, _), _)| *runs > 0);
    all.map(|((runs, time), id)| {
        let (kernel, nest) = (kernels.kernel(id), kernels.nest(id));
        KernelCost {
            name: nest.name.clone(),
            algorithm: kernel.to_string(),
            runs,
            flops: flops(kernel) * runs as f64,
            bytes: bytes(kernel) * runs,
            time,
        }
    })
    .collect()
}

/// One call of a kernel in a run.
#[derive(Clone, Debug)]
pub struct Slice {
    /// The kernel's name in dumps.
    pub kernel: String,
    /// The nodes it computes, as text; those of a body are not named.
    pub nodes: Vec<String>,
    /// Where those were written, each place once.
    pub places: Vec<String>,
    /// Floating-point operations, as [`KernelCost::flops`].
    pub flops: f64,
    /// Bytes of its buffers.
    pub bytes: usize,
    /// When it began, from the beginning of the run.
    pub start: Duration,
    /// How long it took.
    pub took: Duration,
}

/// The calls of kernels in the fastest of a few runs of an entry.
///
/// # Errors
/// As [`kernels`].
///
/// # Panics
/// As [`kernels`].
pub fn slices(program: &Program, entry: &str, session: &Session, inputs: &[&Tensor]) -> Result<Vec<Slice>, Error> {
    match &session.executable().device {
        Device::Cpu(cpu) => {
            let mut profiler = Profiler::new(program, entry, cpu, session)?;
            let mut states = profiler.states(session)?;
            profiler.dispatcher.take_calls();
            let calls = fastest(|| {
                profiler.run(&mut states, inputs)?;
                Ok(profiler.dispatcher.take_calls())
            })?;
            Ok(sliced(&profiler.graph, &profiler.kernels, calls))
        }
        #[cfg(feature = "vulkan")]
        device @ Device::Vulkan(_) => {
            let mut profiler = VulkanProfiler::new(program, entry, device, session)?;
            let calls = fastest(|| profiler.run(inputs))?;
            Ok(sliced(&profiler.graph, &profiler.kernels, calls))
        }
    }
}

/// The calls of the fastest of some runs.
fn fastest(mut run: impl FnMut() -> Result<Vec<KernelCall>, Error>) -> Result<Vec<KernelCall>, Error> {
    let mut fastest: Option<(Duration, Vec<KernelCall>)> = None;
    for _ in 0..FEWEST_RUNS + 2 {
        let calls = run()?;
        let took = calls.iter().map(|call| call.took).sum();
        if fastest.as_ref().is_none_or(|(least, _)| took < *least) {
            fastest = Some((took, calls));
        }
    }
    Ok(fastest.map_or(Vec::new(), |(_, calls)| calls))
}

fn sliced(graph: &Graph, kernels: &Kernels, calls: Vec<KernelCall>) -> Vec<Slice> {
    let slice = |call: KernelCall| {
        let nodes = &call.nodes;
        let mut places: Vec<String> = Vec::new();
        for place in nodes
            .iter()
            .map(|&id| &graph.node(id).loc)
            .filter(|loc| **loc != Loc::None)
        {
            let place = place.to_string();
            if !places.contains(&place) {
                places.push(place);
            }
        }
        let kernel = kernels.kernel(call.kernel);
        Slice {
            kernel: kernels.nest(call.kernel).name.clone(),
            nodes: nodes.iter().map(|&id| text::summary(graph, id)).collect(),
            places,
            flops: flops(kernel),
            bytes: bytes(kernel),
            start: call.start,
            took: call.took,
        }
    };
    calls.into_iter().map(slice).collect()
}

/// Slices as a trace for `chrome://tracing` and Perfetto: JSON, times in microseconds.
pub fn trace(entry: &str, slices: &[Slice]) -> String {
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    let event = |slice: &Slice| {
        let seconds = slice.took.as_secs_f64().max(1e-9);
        json!({
            "name": slice.kernel,
            "cat": "kernel",
            "ph": "X",
            "pid": 1,
            "tid": 1,
            "ts": micros(slice.start),
            "dur": micros(slice.took),
            "args": {
                "nodes": slice.nodes,
                "source": slice.places,
                "flops": slice.flops,
                "bytes": slice.bytes,
                "Gflop/s": slice.flops / seconds / 1e9,
                "GB/s": slice.bytes as f64 / seconds / 1e9,
            },
        })
    };
    let name = |kind: &str, name: &str| json!({"name": kind, "ph": "M", "pid": 1, "tid": 1, "args": {"name": name}});
    let named = [name("process_name", "netloom"), name("thread_name", entry)];
    let events: Vec<serde_json::Value> = named.into_iter().chain(slices.iter().map(event)).collect();
    json!({ "displayTimeUnit": "ns", "traceEvents": events }).to_string()
}

/// Bytes of a kernel's buffers.
fn bytes(kernel: &Kernel) -> usize {
    kernel.buffers.iter().map(|buffer| buffer.ty.len_bytes()).sum()
}

/// The floating-point operations of a kernel in which each expression is computed once for all axes that it depends on.
fn flops(kernel: &Kernel) -> f64 {
    let exprs = &kernel.exprs;
    let roots = match &kernel.work {
        Work::Stores(stores) => stores.iter().map(|store| store.value).collect(),
        Work::Prefix { store, .. } | Work::Sort { store, .. } => vec![store.value],
        Work::Scatter { initial, value, .. } => vec![initial.value, *value],
    };
    let mut needed = vec![false; exprs.len()];
    for root in roots {
        needed[root.at()] = true;
    }
    let ids: Vec<_> = exprs.ids().collect();
    for &id in ids.iter().rev() {
        if needed[id.at()] {
            exprs
                .operands(id)
                .iter()
                .for_each(|operand| needed[operand.at()] = true);
        }
    }
    let mut total = 0.0;
    let mut depends: Vec<Vec<bool>> = Vec::with_capacity(ids.len());
    for &id in &ids {
        let mut axes = vec![false; kernel.axes.len()];
        for operand in exprs.operands(id) {
            axes.iter_mut()
                .zip(&depends[operand.at()])
                .for_each(|(axis, inner)| *axis |= inner);
        }
        let points = |axes: &[bool]| -> f64 {
            (kernel.axes.iter().zip(axes))
                .filter(|(_, depends)| **depends)
                .map(|(axis, _)| axis.extent as f64)
                .product()
        };
        let each = match exprs.get(id) {
            Expr::Prim(Prim::Fma, ..) => 2.0,
            Expr::Prim(Prim::Select | Prim::Unlikely | Prim::Cast | Prim::Bitcast, ..) => 0.0,
            Expr::Prim(..) | Expr::Fold { .. } => 1.0,
            Expr::Const(..) | Expr::Axis(_) | Expr::Local(..) | Expr::Load { .. } => 0.0,
        };
        if needed[id.at()] && exprs.dtype(id).is_float() {
            total += each * points(&axes);
        }
        match exprs.get(id) {
            Expr::Axis(axis) => axes[axis.0 as usize] = true,
            Expr::Fold { over, .. } => over.iter().for_each(|axis| axes[axis.0 as usize] = false),
            _ => {}
        }
        depends.push(axes);
    }
    total
}
