//! `netloom compile`: a model ahead of time.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use netloom::ahead::{self, Artefact, States};
use netloom::ir::prepare::PREPARE;
use netloom::ir::{Program, Tensor};
use netloom::nn::training::{PREDICT, TRAIN_STEP};
use netloom::{Cpu, Device, Error, Session, compile};

#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    open: super::model::Open,
    /// What is compiled: predict or train, or entries' names
    #[arg(long, default_value = "predict", value_delimiter = ',')]
    entry: Vec<String>,
    /// The system compiled for, such as aarch64-unknown-linux-gnu; by default this one
    #[arg(long)]
    target: Option<String>,
    /// What is written
    #[arg(long, value_enum, default_value = "obj")]
    emit: Emit,
    /// Examples in a batch; with several sizes the caller chooses
    #[arg(long, value_delimiter = ',')]
    batch: Vec<usize>,
    /// Weights (safetensors), netloom's own or under PyTorch's names
    #[arg(long)]
    weights: Option<PathBuf>,
    /// Put the weights into the object instead of a file beside it
    #[arg(long)]
    embed: bool,
    /// What states without weights start from
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Write a Rust crate around the code too; makes a static library
    #[arg(long)]
    rust: bool,
    /// The C compiler that makes shared libraries; by default cc, or the target's of Debian's name
    #[arg(long)]
    linker: Option<String>,
    /// The folder written to
    #[arg(short, long)]
    out: PathBuf,
    #[command(flatten)]
    tuned: super::tuned::Tune,
    #[command(flatten)]
    machine: super::Machine,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Emit {
    /// An object file
    Obj,
    /// A static library, made by ar
    Staticlib,
    /// A shared library, made by the C compiler
    Sharedlib,
}

/// The levels of a CPU that the code is for, the best first.
fn cpus_for(options: &Options, machine: &super::Machine) -> Result<Vec<Cpu>, Error> {
    let named = |name: &str| {
        let cpu = match &options.target {
            Some(triple) => Cpu::for_triple(triple, Some(name).filter(|name| *name != "native"))?,
            None => Cpu::named(name)?,
        };
        Ok(machine.allow(cpu))
    };
    machine.cpu.split(',').map(named).collect()
}

pub fn run(options: &Options) -> Result<(), Error> {
    let mut machine = options.machine.with_stored(&options.open.model)?;
    let mut cpus = cpus_for(options, &machine)?;
    let emit = match (options.emit, options.rust) {
        (Emit::Sharedlib, true) => {
            return Err(Error::Usage(
                "`--rust` links a static library; leave out `--emit sharedlib`".to_owned(),
            ));
        }
        (Emit::Staticlib, _) | (_, true) => ahead::Emit::Staticlib,
        (Emit::Obj, false) => ahead::Emit::Obj,
        (Emit::Sharedlib, false) => ahead::Emit::Sharedlib,
    };
    let wanted = options.entry.iter().map(|entry| match entry.as_str() {
        "predict" => PREDICT,
        "train" => TRAIN_STEP,
        other => other,
    });
    let wanted: Vec<&str> = wanted.collect();
    // A network of the zoo is read with all its entries if any but `predict` is wanted.
    let first = wanted.iter().find(|entry| **entry != PREDICT).unwrap_or(&PREDICT);
    let batches: Vec<Option<usize>> = match &options.batch[..] {
        [] => vec![None],
        several => several.iter().copied().map(Some).collect(),
    };
    let mut models = Vec::new();
    for &batch in &batches {
        models.push((batch, super::model::read(&options.open, batch, first, &[])?));
    }
    let (name, net) = (models[0].1.name.clone(), models[0].1.net);
    for (_, model) in &models {
        for entry in &wanted {
            model.entry(entry)?;
        }
    }
    let programs = models
        .into_iter()
        .map(|(batch, model)| (batch.unwrap_or(0) as u64, model.program))
        .collect();
    let (whole, entries) = ahead::merged(programs, &wanted)?;
    let is_inference = whole.is_inference();
    let states = match (is_inference, options.embed) {
        (true, true) => States::Within,
        (false, true) => {
            return Err(Error::Usage(
                "`--embed` makes weights read-only, and training changes them; leave it out".to_owned(),
            ));
        }
        (false, false) if options.weights.is_none() => States::Init,
        _ => States::File,
    };
    let mut weights = super::model::weights(options.weights.as_deref(), net)?;
    if options.weights.is_some() {
        weights.check(&whole)?;
    }
    // States start here, whatever system code for CPUs is for.
    let here = match (options.machine.device.as_str(), options.tuned.tune) {
        ("cpu", None) if !options.machine.f16_arithmetic => machine.allow(Cpu::native()).into(),
        ("cpu", Some(_)) if !options.machine.f16_arithmetic => cpus[0].clone().into(),
        _ => options.machine.device()?,
    };
    let program = match is_inference {
        true => whole.prepared_for(&machine.target(&here)),
        false => whole.clone(),
    };
    let begun = weights.begin(program.clone());
    let executable = compile(&begun, &here)?;
    machine.say_stored(&executable);
    let mut session = Session::with_weights(executable.into(), options.machine.threads(), options.seed, weights)?;
    // What can be computed before the program runs is among the states; the object need not compute it.
    session.prepare()?;
    let names: Vec<&str> = (whole.entries.iter().map(|entry| entry.name.as_str()))
        .filter(|name| *name != PREPARE)
        .collect();
    if let Some(limit) = options.tuned.tune {
        tune(options, &begun, &session, &names, limit)?;
        machine = options.machine.with_stored(&options.open.model)?;
        cpus = cpus_for(options, &machine)?;
    }
    let artefact = Artefact {
        name: &name,
        program: &program.with_entries(&names),
        entries: &entries,
        cpus: &cpus,
        session: &session,
        states,
        emit,
        linker: options.linker.as_deref(),
        rust: options.rust,
    };
    let files = match &here {
        Device::Cpu(_) => ahead::write(&artefact, &options.out)?,
        #[cfg(feature = "vulkan")]
        Device::Vulkan(device) => ahead::vulkan::write(&artefact, device, &options.out)?,
    };
    for file in files {
        eprintln!("wrote {}", file.display());
    }
    Ok(())
}

/// Stores what is faster for entries, timed with made-up arguments.
fn tune(options: &Options, program: &Program, session: &Session, names: &[&str], limit: Duration) -> Result<(), Error> {
    let made_up = |name: &&str| super::bench::made_up_arguments(session, name);
    let arguments = names.iter().map(made_up).collect::<Result<Vec<_>, _>>()?;
    let arguments: Vec<Vec<&Tensor>> = arguments.iter().map(|tensors| tensors.iter().collect()).collect();
    let entries = names.iter().copied().zip(arguments.iter().map(Vec::as_slice));
    let entries: Vec<_> = entries.collect();
    super::tuned::store(&options.open.model, program, session, &entries, limit)
}
