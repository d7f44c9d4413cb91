//! Vulkan: what a recorded step costs the host beyond the driver's own submission and wait; and how long it takes from nothing to a first
//! result, without and with what an earlier start has kept on disk.
//!
//! `cargo bench -p netloom-benches --bench vulkan -- [steps|starts] [DEVICE]`

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use netloom::gpu::device::{Device, Options};
use netloom::ir::{Init, Program, Tensor};
use netloom::nn::training::{PREDICT, TRAIN_STEP, program};
use netloom::nn::zoo;
use netloom::{Session, compile};

/// How this program calls itself for a start of its own.
const START: &str = "start";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let number = arguments.iter().find_map(|arg| arg.parse().ok());
    if arguments.first().is_some_and(|arg| arg == START) {
        return start(&arguments[1], number);
    }
    let wants = |part: &str| {
        !arguments
            .iter()
            .any(|arg| ["steps", "starts"].contains(&arg.as_str()) && arg != part)
    };
    let device = match Device::open(&Options::usual(number)) {
        Ok(device) => device,
        Err(error) => return println!("{error}"),
    };
    println!("{device:?}");
    for net in ["tiny", "mlp", "lenet"].into_iter().filter(|_| wants("steps")) {
        steps(net, &device);
    }
    for net in ["squeezenet", "resnet18"].into_iter().filter(|_| wants("starts")) {
        let folder = tempfile::tempdir().expect("a folder");
        let cold = start_time(net, number, folder.path());
        let warm = (0..3).map(|_| start_time(net, number, folder.path()));
        let [cold, warm] = [cold, warm.min().expect("three")].map(|took| took.as_secs_f64());
        println!(
            "{net:>10} first result after {cold:.2} s; after {warm:.2} s with what is kept on disk, {:.1} times as fast",
            cold / warm
        );
    }
}

/// The training step of a network, as a program with its arguments.
fn training(net: &str) -> (Program, [Tensor; 2]) {
    let net = zoo::find(net).expect("a network of the zoo");
    let (input, target) = (net.input(net.batch), net.target(net.batch));
    let program = program(&(net.layers)(), &input, &target, &(net.training)()).expect("a valid network");
    let arguments = [input, target].map(|ty| Tensor::zeros(ty.dtype, ty.shape));
    (program.only(TRAIN_STEP), arguments)
}

/// The median time of a step, that of the driver within it, and the host's own.
fn steps(net: &str, device: &Arc<Device>) {
    let (program, [x, y]) = training(net);
    let executable = compile(&program, Arc::clone(device)).expect("a valid program");
    let mut session = Session::new(executable.into(), 1, 0).expect("memory");
    let mut loss = session.results(TRAIN_STEP).expect("an entry");
    let driver = |session: &Session| session.driver_time().expect("a session on Vulkan");
    let mut times = Vec::new();
    let until = Instant::now() + Duration::from_secs(3);
    while times.len() < 20 || Instant::now() < until {
        let (start, before) = (Instant::now(), driver(&session));
        session.run(TRAIN_STEP, &[&x, &y], &mut loss).expect("a step");
        let (all, driver) = (start.elapsed(), driver(&session) - before);
        times.push((all - driver, driver, all));
    }
    let median = |of: fn(&(Duration, Duration, Duration)) -> Duration| {
        let mut times: Vec<Duration> = times.iter().map(of).collect();
        times.sort_unstable();
        times[times.len() / 2].as_secs_f64() * 1e6
    };
    let (host, driver, all) = (median(|t| t.0), median(|t| t.1), median(|t| t.2));
    println!("{net:>10} step {all:.1} µs: driver {driver:.1} µs, host {host:.1} µs");
}

/// The time of a process that starts, compiles and runs once, from what the folder keeps.
fn start_time(net: &str, number: Option<usize>, folder: &Path) -> Duration {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command
        .arg(START)
        .arg(net)
        .args(number.map(|number| number.to_string()));
    // Mesa keeps what it compiles in a folder of its own.
    command.env("NETLOOM_CACHE", folder.join("netloom"));
    command.env("MESA_SHADER_CACHE_DIR", folder.join("mesa"));
    let start = Instant::now();
    let done = command.status().expect("it starts");
    assert!(done.success(), "the start of {net} failed");
    start.elapsed()
}

/// Compiles a network for inference and runs it once; says how long each part took.
fn start(net: &str, number: Option<usize>) {
    let mut parts = Vec::new();
    let mut last = Instant::now();
    let mut lap = |what: &'static str| {
        parts.push((what, last.elapsed()));
        last = Instant::now();
    };
    let found = zoo::find(net).expect("a network of the zoo");
    let (input, target) = (found.input(1), found.target(1));
    let program = program(&(found.layers)(), &input, &target, &(found.training)()).expect("a valid network");
    let mut program = program.only(PREDICT).prepared();
    // As if weights had been read from a file.
    for state in &mut program.states {
        if let Init::Graph(_) = state.init {
            state.init = Init::Tensor(Arc::new(Tensor::zeros(state.ty.dtype, state.ty.shape.clone())));
        }
    }
    lap("graph");
    let device = Device::open(&Options::usual(number)).expect("a device");
    lap("device");
    let executable = compile(&program, device).expect("a valid program");
    let stages = executable.stages.clone();
    lap("compile");
    let mut session = Session::new(executable.into(), 1, 0).expect("memory");
    session.prepare().expect("weights");
    lap("session");
    let x = Tensor::zeros(input.dtype, input.shape);
    let mut scores = session.results(PREDICT).expect("an entry");
    session.run(PREDICT, &[&x], &mut scores).expect("a run");
    lap("run");
    let text = |parts: &[(&str, Duration)]| {
        let parts: Vec<String> = (parts.iter())
            .map(|(what, took)| format!("{what} {:.0}", took.as_secs_f64() * 1e3))
            .collect();
        parts.join(", ")
    };
    println!("{:>10} {} ms (compile: {})", "", text(&parts), text(&stages.0));
}
