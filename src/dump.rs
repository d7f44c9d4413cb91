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
use crate::plan::{self, KernelId, Kernels};

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
        // Whether a shader multiplies matrices is for its costs to say each time.
        let nest = kernels
            .nest_of(graph, region, layouts)
            .filter(|nest| !nest.has_products());
        let nest = nest.cloned().map(Arc::new).map(Given::Nest);
        nest.or_else(|| region.given.clone())
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

/// The program with its graphs cut, each region with its schedule, and each entry with its plan: what goes on from the stage of plans.
pub fn planned(program: &Program, lowered: &Lowered) -> Program {
    let entry = |Entry { name, graph }: Entry| {
        let plan = lowered.plans.iter().find(|plan| plan.name == name);
        let plan = plan::given(plan.expect("every entry is lowered"), &lowered.memory, &lowered.kernels);
        Entry {
            name,
            graph: graph.with_plan(Arc::new(plan)),
        }
    };
    let Program { states, entries } = scheduled(program, lowered);
    Program {
        states,
        entries: entries.into_iter().map(entry).collect(),
    }
}

/// The steps of every entry, and where everything lies.
pub fn plans(lowered: &Lowered) -> String {
    let plans = lowered.plans.iter();
    let texts = plans.map(|plan| plan::given(plan, &lowered.memory, &lowered.kernels).text(&plan.name));
    let why_dense = lowered.layouts.why_all_dense();
    let why_dense = why_dense.map(|why| format!("; every tensor is dense: {why}\n"));
    why_dense.into_iter().chain(texts).collect()
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
