//! `netloom dump`: a model at a stage of the compiler.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use netloom::compile::lower;
use netloom::formats::safetensors;
use netloom::ir::{Entry, Graph, Program, Target, Tensor, fuse, passes, text};
use netloom::nn::training::{PREDICT, TRAIN_STEP};
use netloom::page::html;
use netloom::{Device, Error, Session, compile, dump, profile};

#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    open: super::model::Open,
    /// graph, grad, optimized, a pass's name, regions, kernel, nest, clif, asm, spirv (with --device vulkan) or plan
    #[arg(long, default_value = "graph")]
    stage: String,
    /// How graphs are written; html is a page of everything: graph, regions, loops, code, memory
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// The entry shown; by default `predict`, and for the stage grad `train_step`
    #[arg(long)]
    entry: Option<String>,
    /// Examples in a batch
    #[arg(long)]
    batch: Option<usize>,
    /// Where it is written, instead of standard output. Graphs, regions, kernels and nests as text are then a whole program, from which every command goes on: weights and
    /// other large constants are put beside it, in a file of the same name that ends in `.safetensors`
    #[arg(short, long)]
    out: Option<PathBuf>,
    /// Run the entry's kernels for a second, so that the page shows what each takes
    #[arg(long)]
    measure: bool,
    #[command(flatten)]
    machine: super::Machine,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Format {
    Text,
    Dot,
    Json,
    Html,
}

pub fn run(options: &Options) -> Result<(), Error> {
    let machine = options.machine.with_stored(&options.open.model)?;
    let device = machine.device()?;
    let target = machine.target(&device);
    let usual = match options.stage.as_str() {
        "grad" => TRAIN_STEP,
        _ => PREDICT,
    };
    let wanted = options.entry.as_deref().unwrap_or(usual);
    let model = super::model::read(&options.open, options.batch, wanted, &[])?;
    let name = match (&model.program.entries[..], &options.entry) {
        ([only], None) => only.name.clone(),
        _ => wanted.to_owned(),
    };
    model.entry(&name)?;
    let program = match options.stage.as_str() {
        "graph" | "grad" => model.program.only(&name),
        _ => model.program.only(&name).prepared_for(&target),
    };
    if options.format == Format::Html {
        let program = model.program.only(&name).prepared_for(&target);
        let page = page(options, &device, &target, &model.name, &program, &name)?;
        return super::write(options.out.as_deref(), &page);
    }
    let lowered = || lower(&program, &target);
    let listed = match (options.stage.as_str(), &device) {
        ("kernel", _) if let Some(out) = &options.out => {
            return write_program(out, &dump::built(&program, &lowered()?));
        }
        ("kernel", _) => dump::kernels(&lowered()?),
        ("nest", Device::Cpu(_)) if let Some(out) = &options.out => {
            return write_program(out, &dump::scheduled(&program, &lowered()?));
        }
        ("nest", _) => dump::nests(&lowered()?),
        ("plan", _) => dump::plans(&lowered()?),
        ("clif", Device::Cpu(cpu)) => dump::clif(&lowered()?, cpu)?,
        ("asm", Device::Cpu(cpu)) => dump::assembly(&lowered()?, cpu)?,
        ("spirv", Device::Cpu(_)) => {
            return Err(Error::Usage("SPIR-V is for Vulkan: add `--device vulkan`".to_owned()));
        }
        #[cfg(feature = "vulkan")]
        ("spirv", Device::Vulkan(device)) => dump::spirv(&lowered()?, device)?,
        #[cfg(feature = "vulkan")]
        (stage @ ("clif" | "asm"), Device::Vulkan(_)) => {
            return Err(Error::Usage(format!(
                "there is no `{stage}` of kernels for {device}: leave `--device` out, or see the stage spirv"
            )));
        }
        (stage, _) => {
            let entries = program.entries.iter().map(|entry| {
                let graph = graph_at(stage, &entry.graph, &target)?;
                Ok(Entry { graph, ..entry.clone() })
            });
            let entries = entries.collect::<Result<Vec<_>, Error>>()?;
            let graph = &entries[0].graph;
            let written = match (options.format, &options.out) {
                (Format::Text | Format::Html, Some(out)) => return write_program(out, &Program { entries, ..program }),
                (Format::Text | Format::Html, None) => graph.to_string(),
                (Format::Dot, _) => text::dot(graph),
                (Format::Json, _) => text::to_json(graph),
            };
            return super::write(options.out.as_deref(), &written);
        }
    };
    super::write(options.out.as_deref(), &dump::headed(&options.stage, &listed))
}

/// A graph at a stage at which it is a graph still.
fn graph_at(stage: &str, graph: &Graph, target: &Target) -> Result<Graph, Error> {
    match stage {
        "graph" | "grad" => Ok(graph.clone()),
        "optimized" => Ok(passes::run(graph, target, &mut |_| {})),
        "regions" => Ok(fuse::cut(&passes::run(graph, target, &mut |_| {}))),
        pass => after_pass(graph, target, pass).ok_or_else(|| {
            let known: Vec<&str> = passes::PASSES.iter().map(|pass| pass.name).collect();
            Error::Unknown(format!(
                "there is no stage `{pass}`; the stages are graph, grad, optimized, regions, kernel, nest, clif, asm, spirv, plan, and \
                 after each pass: {}",
                known.join(", ")
            ))
        }),
    }
}

/// Writes a program as text from which every command goes on, and its large constants beside it.
fn write_program(out: &Path, program: &Program) -> Result<(), Error> {
    let stored = text::stored(program);
    if !stored.is_empty() {
        let tensors = stored
            .into_iter()
            .map(|(name, tensor)| (name, Arc::unwrap_or_clone(tensor)));
        safetensors::save(&out.with_extension("safetensors"), &tensors.collect::<Vec<_>>())?;
    }
    super::write(Some(out), &format!("{program:#}"))
}

/// The page of an entry.
fn page(
    options: &Options,
    device: &Device,
    target: &Target,
    title: &str,
    program: &Program,
    entry: &str,
) -> Result<String, Error> {
    let costs = match options.measure {
        false => None,
        true => {
            let session = Session::new(Arc::new(compile(program, device)?), options.machine.threads(), 0)?;
            let inputs = super::bench::made_up_arguments(&session, entry)?;
            let inputs: Vec<&Tensor> = inputs.iter().collect();
            let limit = Duration::from_secs(1);
            Some(profile::kernels(program, entry, &session, &inputs, limit)?)
        }
    };
    let lowered = lower(program, target)?;
    html(title, entry, &lowered, device, costs.as_deref())
}

/// The graph after the last run of a pass, if there is one of that name.
fn after_pass(graph: &Graph, target: &Target, pass: &str) -> Option<Graph> {
    passes::PASSES.iter().find(|known| known.name == pass)?;
    let mut found = None;
    passes::run(graph, target, &mut |step| {
        if step.pass == pass {
            found = Some(step.graph.clone());
        }
    });
    found
}
