//! `netloom compile`: a model ahead of time.

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use netloom::nn::training::{PREDICT, TRAIN_STEP};
use netloom::{Cpu, Error, Session, ahead, compile};

#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    open: super::model::Open,
    /// What is compiled: predict or train, or an entry's name
    #[arg(long, default_value = "predict")]
    entry: String,
    /// The system compiled for, such as aarch64-unknown-linux-gnu; by default this one
    #[arg(long)]
    target: Option<String>,
    /// What is written
    #[arg(long, value_enum, default_value = "obj")]
    emit: Emit,
    /// Examples in a batch
    #[arg(long)]
    batch: Option<usize>,
    /// Weights (safetensors), netloom's own or under PyTorch's names
    #[arg(long)]
    weights: Option<PathBuf>,
    /// What states without weights start from
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The folder written to
    #[arg(short, long)]
    out: PathBuf,
    #[command(flatten)]
    machine: super::Machine,
}

#[derive(Clone, Copy, ValueEnum)]
enum Emit {
    /// An object file
    Obj,
}

pub fn run(options: &Options) -> Result<(), Error> {
    let Emit::Obj = options.emit;
    let cpu = match &options.target {
        Some(triple) => Cpu::for_triple(
            triple,
            Some(options.machine.cpu.as_str()).filter(|cpu| *cpu != "native"),
        )?,
        None => options.machine.cpu()?,
    };
    let entry = match options.entry.as_str() {
        "predict" => PREDICT,
        "train" => TRAIN_STEP,
        other => other,
    };
    let model = super::model::read(&options.open, options.batch, entry, &[])?;
    let program = model.program.only(entry).prepared();
    if program.entries.is_empty() {
        let names: Vec<&str> = model.program.entries.iter().map(|entry| entry.name.as_str()).collect();
        return Err(Error::Unknown(format!(
            "`{}` has no entry `{entry}`; it has {}",
            model.name,
            names.join(", ")
        )));
    }
    // States start here, whatever system the code is for.
    let executable = compile(&program, Cpu::native())?;
    let mut session = Session::new(Arc::new(executable), options.machine.threads(), options.seed)?;
    if let Some(path) = &options.weights {
        super::model::load_weights(&mut session, model.net, path)?;
    }
    // What can be computed before the program runs is in the states file; the object need not compute it.
    session.prepare()?;
    for file in ahead::write(&program.only(entry), &session, &cpu, &model.name, &options.out)? {
        eprintln!("wrote {}", file.display());
    }
    Ok(())
}
