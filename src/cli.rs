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

use std::io::Write;
use std::num::NonZeroUsize;
use std::path::Path;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use netloom::device::Choice;
use netloom::formats::write_whole;
use netloom::ir::Target;
use netloom::memory::Planned;
use netloom::{Cpu, Device, Error, Executable, cpu};

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
    /// The CPU to compile for: native, x86-64, x86-64-v3 or x86-64-v4; for `compile` also several, between commas, of which the code takes
    /// the best that it finds
    #[arg(long, default_value = "native")]
    cpu: String,
    /// Compute all convolutions directly: those of 3x3 filters that Winograd's algorithm makes faster round a little more
    #[arg(long)]
    direct: bool,
    /// Where it runs: cpu, vulkan, vulkan:N (see `netloom devices`), or auto: a GPU if there is one
    #[arg(long, default_value = "cpu")]
    device: String,
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

    /// A CPU with what is allowed on it.
    fn allow(&self, cpu: Cpu) -> Cpu {
        Cpu {
            winograd: !self.direct,
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
        Device::named(&self.device, self.cpu()?)
    }

    /// The device, for what nothing can stand in for.
    fn device(&self) -> Result<Device, Error> {
        Ok(self.choice()?.device)
    }
}

/// What is made into a session on a device: the CPU, which is tried last and once, takes it, so that nobody else keeps it.
fn hand<T: Clone>(device: &Device, given: &mut Option<T>) -> T {
    let given = match device {
        Device::Cpu(_) => given.take(),
        #[cfg(feature = "vulkan")]
        Device::Vulkan(_) => given.clone(),
    };
    given.expect("the CPU is tried last and once")
}

/// Says how much memory running an entry will take, where that is known.
fn say_memory(executable: &Executable, entry: &str, threads: usize) -> Option<Planned> {
    let planned = executable.memory(entry, threads);
    if let Some(planned) = &planned {
        eprintln!("{planned}");
    }
    planned
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
