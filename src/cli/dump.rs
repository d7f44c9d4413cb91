//! `netloom dump`: a model at a stage of the compiler.

use std::io::Write;

use clap::{Args, ValueEnum};
use netloom::compile::lower;
use netloom::ir::{Graph, fuse, passes, text};
use netloom::nn::training::{PREDICT, TRAIN_STEP};
use netloom::{Cpu, Error, dump};

#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    open: super::model::Open,
    /// graph, grad, optimized, a pass's name, regions, kernel, nest, clif, asm or plan
    #[arg(long, default_value = "graph")]
    stage: String,
    /// How graphs are written
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// The entry shown; by default `predict`, and for the stage grad `train_step`
    #[arg(long)]
    entry: Option<String>,
    /// Examples in a batch
    #[arg(long)]
    batch: Option<usize>,
    #[command(flatten)]
    machine: super::Machine,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Dot,
    Json,
}

pub fn run(options: &Options) -> Result<(), Error> {
    let cpu = options.machine.cpu()?;
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
    let names: Vec<&str> = model.program.entries.iter().map(|entry| entry.name.as_str()).collect();
    let program = match options.stage.as_str() {
        "graph" | "grad" => model.program.only(&name),
        _ => model.program.only(&name).prepared(),
    };
    let Some(entry) = program.entries.first() else {
        return Err(Error::Unknown(format!(
            "`{}` has no entry `{name}`; it has {}",
            model.name,
            names.join(", ")
        )));
    };
    let shown = |graph: &Graph| match options.format {
        Format::Text => graph.to_string(),
        Format::Dot => text::dot(graph),
        Format::Json => text::to_json(graph),
    };
    let written = match options.stage.as_str() {
        "graph" | "grad" => shown(&entry.graph),
        "optimized" => shown(&passes::run(&entry.graph, &cpu.target(), &mut |_| {})),
        "regions" => {
            let graph = passes::run(&entry.graph, &cpu.target(), &mut |_| {});
            fuse::regions(&graph)
                .iter()
                .enumerate()
                .map(|(number, region)| format!("region {number}: {region}\n"))
                .collect()
        }
        "kernel" | "nest" | "plan" | "clif" | "asm" => {
            let lowered = lower(&program, &cpu.target())?;
            match options.stage.as_str() {
                "kernel" => dump::kernels(&lowered),
                "nest" => dump::nests(&lowered),
                "plan" => dump::plans(&lowered),
                "clif" => dump::clif(&lowered, &cpu)?,
                _ => dump::assembly(&lowered, &cpu)?,
            }
        }
        pass => match after_pass(&entry.graph, &cpu, pass) {
            Some(graph) => shown(&graph),
            None => {
                let known: Vec<&str> = passes::PASSES.iter().map(|pass| pass.name).collect();
                return Err(Error::Unknown(format!(
                    "there is no stage `{pass}`; the stages are graph, grad, optimized, regions, kernel, nest, clif, asm, \
                     plan, and after each pass: {}",
                    known.join(", ")
                )));
            }
        },
    };
    // A reader such as `head` may close the pipe; that is no failure.
    let _ = std::io::stdout().write_all(written.as_bytes());
    Ok(())
}

/// The graph after the last run of a pass.
fn after_pass(graph: &Graph, cpu: &Cpu, pass: &str) -> Option<Graph> {
    let mut found = None;
    passes::run(graph, &cpu.target(), &mut |step| {
        if step.pass == pass {
            found = Some(step.graph.clone());
        }
    });
    found
}
