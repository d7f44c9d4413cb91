//! The later stages of a lowered program as text.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;

use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};
use netloom_ir::fuse::{self, Given, Region, RegionKind};
use netloom_ir::kernel::Nest;
use netloom_ir::layout::Layout;
use netloom_ir::{Entry, Graph, NodeId, Program};
use target_lexicon::Architecture;

use crate::compile::Lowered;
use crate::cpu::emit::Listing;
use crate::cpu::isa::Cpu;
use crate::cpu::object::Object;
use crate::device::Device;
use crate::error::Error;
#[cfg(feature = "vulkan")]
use crate::gpu;
use crate::plan::{Base, KernelId, Kernels, Place, Plan, Step};

/// How a listing begins, before its stage.
const LISTING: &str = "; netloom dump --stage ";

/// A listing of a stage: its first line says what it is, in case it is taken for a model.
pub fn headed(stage: &str, text: &str) -> String {
    format!("{LISTING}{stage}\n{text}")
}

/// Why a text is no model, if it is a listing.
pub fn why_no_model(text: &str) -> Option<String> {
    let stage = text.strip_prefix(LISTING)?.lines().next()?;
    Some(match stage {
        "clif" | "asm" | "spirv" => format!("the text lists the stage {stage}: machine code is final"),
        _ => format!("the text lists the stage {stage} by itself, without the graph"),
    })
}

/// The distinct kernels: what each computes.
pub fn kernels(lowered: &Lowered) -> String {
    let every = (0..lowered.kernels.len()).map(KernelId);
    every.map(|id| format!("{}\n", lowered.kernels.kernel(id))).collect()
}

/// The schedules of the distinct kernels.
pub fn nests(lowered: &Lowered) -> String {
    lowered.kernels.nests().iter().map(|nest| format!("{nest}\n")).collect()
}

/// The program with its graphs cut, and each region with its kernel, unless it came with more: what goes on from the stage of kernels.
pub fn built(program: &Program, lowered: &Lowered) -> Program {
    given(program, lowered, &|kernels, graph, region, layouts| {
        let kernel = || kernels.kernel_of(graph, region, layouts).map(Arc::new);
        region.given.clone().or_else(|| kernel().map(Given::Kernel))
    })
}

/// The same with each region's schedule: what goes on from the stage of nests.
pub fn scheduled(program: &Program, lowered: &Lowered) -> Program {
    given(program, lowered, &|kernels, graph, region, layouts| {
        let nest = kernels.nest_of(graph, region, layouts).cloned();
        nest.map(Arc::new).map(Given::Nest)
    })
}

/// What a program's text gives of a region of a graph whose values have these layouts.
type Give = dyn Fn(&Kernels, &Graph, &Region, &HashMap<NodeId, Layout>) -> Option<Given>;

fn given(program: &Program, lowered: &Lowered, give: &Give) -> Program {
    let entry = |entry: &Entry| {
        let (name, graph) = (lowered.graphs.iter())
            .find(|(name, _)| *name == entry.name)
            .expect("every entry is lowered");
        let graph = with_given(&fuse::cut(graph), &lowered.layouts.entry(name), &lowered.kernels, give);
        Entry { graph, ..entry.clone() }
    };
    Program {
        entries: program.entries.iter().map(entry).collect(),
        ..program.clone()
    }
}

fn with_given(graph: &Graph, layouts: &HashMap<NodeId, Layout>, kernels: &Kernels, give: &Give) -> Graph {
    // All within a body is dense.
    let changed = graph.with_bodies(|body| with_given(body, &HashMap::new(), kernels, give));
    let region = |region: &Region| Region {
        given: match region.kind {
            // What is joined has no kernel.
            RegionKind::Kernel => give(kernels, graph, region, layouts),
            RegionKind::Compound => None,
        },
        ..region.clone()
    };
    changed.with_regions(graph.regions().iter().map(region).collect())
}

/// The steps of every entry, and where everything lies.
pub fn plans(lowered: &Lowered) -> String {
    let mut written = String::new();
    for slot in &lowered.memory.states {
        let _ = writeln!(written, "state {}: {} at {}", slot.name, slot.ty, slot.offset);
    }
    for plan in &lowered.plans {
        written += &plan_text(plan, lowered);
    }
    written
}

fn plan_text(plan: &Plan, lowered: &Lowered) -> String {
    let workers = if plan.parallel {
        "shared by the workers"
    } else {
        "one worker"
    };
    let mut written = format!(
        "entry {}: {workers}, arena {} bytes and {} for each worker\n",
        plan.name, plan.shared_bytes, plan.worker_bytes
    );
    for (kind, ports) in [("argument", &plan.inputs), ("result", &plan.outputs)] {
        for (number, port) in ports.iter().enumerate() {
            let _ = writeln!(written, "  {kind} {number} {}: {}", port.name, port.ty);
        }
    }
    steps_text(&plan.steps, lowered, 1, &mut written);
    written
}

fn steps_text(steps: &[Step], lowered: &Lowered, depth: usize, written: &mut String) {
    let margin = "  ".repeat(depth);
    for step in steps {
        match step {
            Step::Kernel { kernel, buffers, nodes } => {
                let places: Vec<String> = buffers.iter().map(place_text).collect();
                let nodes: Vec<String> = nodes.iter().map(ToString::to_string).collect();
                let name = &lowered.kernels.nest(*kernel).name;
                let _ = writeln!(written, "{margin}{name}({})  // {}", places.join(", "), nodes.join(" "));
            }
            Step::Copy { from, to } => {
                let _ = writeln!(
                    written,
                    "{margin}copy {} -> {}, {} bytes",
                    place_text(from),
                    place_text(to),
                    from.bytes
                );
            }
            Step::Count { to, .. } => {
                let _ = writeln!(written, "{margin}count -> {}", place_text(to));
            }
            Step::Barrier => {
                let _ = writeln!(written, "{margin}barrier");
            }
            Step::Repeat { times, body } => {
                let _ = writeln!(written, "{margin}repeat {times}");
                steps_text(body, lowered, depth + 1, written);
            }
            Step::Branch {
                condition,
                then,
                otherwise,
            } => {
                let _ = writeln!(written, "{margin}if {}", place_text(condition));
                steps_text(then, lowered, depth + 1, written);
                let _ = writeln!(written, "{margin}else");
                steps_text(otherwise, lowered, depth + 1, written);
            }
            Step::While { condition, go_on, body } => {
                let _ = writeln!(written, "{margin}while {}", place_text(go_on));
                steps_text(condition, lowered, depth + 1, written);
                let _ = writeln!(written, "{margin}do");
                steps_text(body, lowered, depth + 1, written);
            }
        }
    }
}

fn place_text(place: &Place) -> String {
    let base = match place.base {
        Base::Input(number) => format!("argument{number}"),
        Base::Output(number) => format!("result{number}"),
        Base::States => "states".to_owned(),
        Base::Constants => "constants".to_owned(),
        Base::Arena => "arena".to_owned(),
        Base::Worker => "worker".to_owned(),
        Base::Temp(temp) => format!("temp{}", temp.0),
    };
    let strides: String = place.strides.iter().map(|stride| format!("{stride:+}i")).collect();
    format!("{base}+{}{strides}", place.offset)
}

/// The functions of the distinct kernels in Cranelift's language.
///
/// # Errors
/// If there is no code for the CPU.
pub fn clif(lowered: &Lowered, cpu: &Cpu) -> Result<String, Error> {
    Ok(listing(lowered, cpu)?.clif)
}

/// The machine code of the distinct kernels, with the assembled bodies and tiles that they call, disassembled.
///
/// # Errors
/// If there is no code for the CPU, or it is no x86-64.
pub fn assembly(lowered: &Lowered, cpu: &Cpu) -> Result<String, Error> {
    if cpu.triple.architecture != Architecture::X86_64 {
        return Err(Error::Usage(format!(
            "machine code is shown for x86-64 alone, not for {}",
            cpu.triple
        )));
    }
    let mut written = String::new();
    for (name, code) in listing(lowered, cpu)?.functions {
        written += &function_text(&name, &code);
    }
    Ok(written)
}

fn listing(lowered: &Lowered, cpu: &Cpu) -> Result<Listing, Error> {
    let mut object = Object::listed(cpu, "listing")?;
    let (module, emitter) = object.parts();
    emitter.emit(module, lowered.kernels.nests())?;
    Ok(emitter.listing().cloned().unwrap_or_default())
}

/// What one kernel becomes on a device, by stage: Cranelift's language and machine code, or SPIR-V.
///
/// # Errors
/// If there is no code for the device.
pub fn kernel_code(nest: &Nest, device: &Device) -> Result<Vec<(&'static str, String)>, Error> {
    match device {
        Device::Cpu(cpu) => {
            let mut object = Object::listed(cpu, "listing")?;
            let (module, emitter) = object.parts();
            emitter.emit(module, std::slice::from_ref(nest))?;
            let Listing { clif, functions } = emitter.listing().cloned().unwrap_or_default();
            let mut stages = vec![("clif", clif)];
            if cpu.triple.architecture == Architecture::X86_64 {
                let each = functions.iter().map(|(name, code)| function_text(name, code));
                stages.push(("asm", each.collect()));
            }
            Ok(stages)
        }
        #[cfg(feature = "vulkan")]
        Device::Vulkan(device) => Ok(vec![("spirv", spirv_text(nest, device)?)]),
    }
}

/// The SPIR-V of the distinct kernels, disassembled: a module for each part between barriers.
///
/// # Errors
/// If the device lacks what a kernel computes with.
#[cfg(feature = "vulkan")]
pub fn spirv(lowered: &Lowered, device: &gpu::device::Device) -> Result<String, Error> {
    let nests = lowered.kernels.nests().iter();
    nests.map(|nest| spirv_text(nest, device)).collect()
}

#[cfg(feature = "vulkan")]
fn spirv_text(nest: &Nest, device: &gpu::device::Device) -> Result<String, Error> {
    use rspirv::binary::Disassemble;
    let phases = gpu::emit::emit(nest, &device.traits)?;
    let texts = phases.iter().enumerate().map(|(number, phase)| {
        let (name, invocations) = (&nest.name, phase.invocations);
        format!(
            "; {name}, part {number}, {invocations} invocations\n{}\n\n",
            phase.module.disassemble()
        )
    });
    Ok(texts.collect())
}

fn function_text(name: &str, code: &[u8]) -> String {
    format!("{name}: {} bytes\n{}", code.len(), disassembled(code))
}

fn disassembled(code: &[u8]) -> String {
    let mut formatter = IntelFormatter::new();
    let mut written = String::new();
    for instruction in Decoder::with_ip(64, code, 0, DecoderOptions::NONE) {
        let _ = write!(written, "  {:6x}  ", instruction.ip());
        formatter.format(&instruction, &mut written);
        written.push('\n');
    }
    written
}
