//! The command line: one file a subcommand.
//!
//! Exit status 0 is success, 1 means that the work failed, 2 that it was asked for wrongly. With `--json` one JSON object goes to standard
//! output and everything else to standard error.

mod bench;
mod check;
mod compile;
mod demo;
mod devices;
mod diff;
mod dump;
mod export;
mod model;
#[cfg(feature = "playground")]
mod playground;
mod run;
mod train;
mod tuned;

use std::io::Write;
use std::num::NonZeroUsize;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand};
use netloom::device::Choice;
use netloom::formats::write_whole;
use netloom::ir::decisions::Tuned;
use netloom::ir::{Program, Target};
use netloom::memory::Planned;
use netloom::weights::Weights;
use netloom::{Cpu, Device, Error, Executable, Session, cpu};

/// A compiler and runtime for neural networks.
#[derive(Parser)]
#[command(name = "netloom", version, about, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The tour: train on embedded digits, look into the compiler, compare with eager, save and load
    Demo(demo::Options),
    /// Train a network
    Train(train::Options),
    /// Apply a model to arrays
    Run(run::Options),
    /// Compile a model ahead of time: an object file, a C header, the weights
    Compile(compile::Options),
    /// Show a model at a stage of the compiler
    Dump(dump::Options),
    /// Write a model as ONNX
    Export(export::Options),
    /// Show what differs between two models, or what a pass changes in one
    Diff(diff::Options),
    /// Time a model, compiled or eager
    Bench(bench::Options),
    /// Compare the oracle, the interpreter, the CPU and Vulkan on a model, kernel by kernel
    Check(check::Options),
    /// Serve a page to this machine's browser, on which small nets are built and trained
    #[cfg(feature = "playground")]
    Playground(playground::Options),
    /// List the devices found
    Devices(devices::Options),
}

/// Writes to the file that was asked for, or to standard output.
fn write(out: Option<&Path>, text: &str) -> Result<(), Error> {
    match out {
        Some(path) => write_whole(path, |file| file.write_all(text.as_bytes())),
        None => {
            // A reader such as `head` may close the pipe; that is no failure.
            let _ = std::io::stdout().write_all(text.as_bytes());
            Ok(())
        }
    }
}

/// What every command that runs something takes.
#[derive(Args, Clone)]
struct Machine {
    /// Worker threads; by default one for each core
    #[arg(long)]
    threads: Option<NonZeroUsize>,
    /// The CPU to compile for: native, x86-64, x86-64-v3, x86-64-v4 or, with a matrix unit on Linux, x86-64-v4-amx; for `compile` also several,
    /// between commas, of which the code takes the best that it finds
    #[arg(long, default_value = "native")]
    cpu: String,
    /// Compute all convolutions directly: those of 3x3 filters that Winograd's algorithm makes faster round a little more
    #[arg(long)]
    direct: bool,
    /// Where it runs: cpu, vulkan, vulkan:N (see `netloom devices`), or auto: a GPU if there is one
    #[arg(long, default_value = "cpu")]
    device: String,
    /// On Vulkan, let f16 be added, subtracted and multiplied as such instead of in f32; `netloom devices` says where it may be asked for
    #[arg(long)]
    f16_arithmetic: bool,
    /// What is stored beside the model of its schedules.
    #[arg(skip)]
    stored: Option<tuned::Stored>,
}

impl Machine {
    /// The number of threads.
    fn threads(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        self.threads.map_or_else(cores, usize::from)
    }

    /// The CPU.
    fn cpu(&self) -> Result<Cpu, Error> {
        Ok(self.allow(Cpu::named(&self.cpu)?))
    }

    /// The same with what is stored beside a model.
    fn with_stored(&self, model: &str) -> Result<Machine, Error> {
        let stored = tuned::read(model)?;
        Ok(Machine { stored, ..self.clone() })
    }

    /// Says what code for the CPU was made by, if anything was stored.
    fn say_stored(&self, executable: &Executable) {
        if let (Some(stored), Device::Cpu(_)) = (&self.stored, &executable.device) {
            stored.say(executable);
        }
    }

    /// A CPU with what is allowed on it, and decided for it.
    fn allow(&self, cpu: Cpu) -> Cpu {
        Cpu {
            winograd: !self.direct,
            tuned: self.stored.clone().map_or(Tuned::NOTHING, |stored| stored.tuned),
            ..cpu
        }
    }

    /// What a program is prepared for on a device.
    fn target(&self, device: &Device) -> Target {
        Target {
            winograd: !self.direct,
            ..device.target()
        }
    }

    /// The device.
    fn choice(&self) -> Result<Choice, Error> {
        Device::named(&self.device, self.cpu()?, self.f16_arithmetic)
    }

    /// The device, for what nothing can stand in for.
    fn device(&self) -> Result<Device, Error> {
        Ok(self.choice()?.device)
    }
}

/// A session that is ready to run.
struct Begun {
    session: Session,
    /// What it runs.
    program: Program,
    /// How long compiling took.
    compile: Duration,
    /// How long it took to give the session its states.
    load: Duration,
    /// What running the entry will take, where that is known.
    planned: Option<Planned>,
}

/// Compiles a program for the first device of a choice that takes it, says how much memory running an entry will take, and begins a session with these
/// weights. The CPU, which is tried last and once, takes program and weights over, so that elements go as they are copied.
fn begin(
    machine: &Machine,
    choice: &mut Choice,
    program: Program,
    weights: Weights,
    entry: &str,
    seed: u64,
) -> Result<Begun, Error> {
    let mut given = Some((program, weights));
    let begun = choice.make(|device| {
        let start = Instant::now();
        let given = match device {
            Device::Cpu(_) => given.take(),
            #[cfg(feature = "vulkan")]
            Device::Vulkan(_) => given.clone(),
        };
        let (program, mut weights) = given.expect("the CPU is tried last and once");
        let prepared = program.prepared_for(&machine.target(device));
        drop(program);
        let program = weights.begin(prepared);
        let executable = netloom::compile(&program, device)?;
        let compile = start.elapsed();
        machine.say_stored(&executable);
        let planned = executable.memory(entry, machine.threads());
        if let Some(planned) = &planned {
            eprintln!("{planned}");
        }
        let start = Instant::now();
        let session = Session::with_weights(executable.into(), machine.threads(), seed, weights)?;
        Ok(Begun {
            session,
            program,
            compile,
            load: start.elapsed(),
            planned,
        })
    })?;
    say_fallback(choice);
    Ok(begun)
}

/// Says why the CPU stands in for a device, if it does.
fn say_fallback(choice: &Choice) {
    for reason in &choice.fell_back {
        eprintln!("note: running on the CPU: {reason}");
    }
}

/// Parses the command line and does what it says.
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.command {
        Command::Demo(options) => demo::run(&options),
        Command::Train(options) => train::run(&options),
        Command::Run(options) => run::run(&options),
        Command::Compile(options) => compile::run(&options),
        Command::Dump(options) => dump::run(&options),
        Command::Diff(options) => diff::run(&options),
        Command::Export(options) => export::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Check(options) => check::run(&options),
        #[cfg(feature = "playground")]
        Command::Playground(options) => playground::run(&options),
        Command::Devices(options) => devices::run(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            let is_misuse = match &error {
                Error::Unknown(_) => true,
                Error::Cpu(reason) => {
                    matches!(reason, cpu::Error::UnknownCpu { .. } | cpu::Error::UnknownTriple { .. })
                }
                _ => false,
            };
            ExitCode::from(if is_misuse { 2 } else { 1 })
        }
    }
}

/// Prints one JSON object to standard output.
fn print_json(value: &serde_json::Value) {
    println!("{value}");
}
