//! `netloom bench`: times a model, compiled or eager.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use netloom::device::Choice;
use netloom::eager::Eager;
use netloom::formats::{npz, write_whole};
use netloom::ir::cost::{self, Flops};
use netloom::ir::{DType, Tensor};
use netloom::memory;
use netloom::nn::layers::summary;
use netloom::nn::training::{PREDICT, TRAIN_STEP};
use netloom::nn::zoo::Net;
use netloom::plan::Plan;
use netloom::profile::{self, KernelCost};
use netloom::roofline::Limits;
use netloom::train::model::median;
use netloom::{Cpu, Device, Error, Session};

#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    open: super::model::Open,
    /// Time the training step instead of prediction
    #[arg(long)]
    train: bool,
    /// Run operation by operation, and compare that with the compiled model: time, kernels, bytes, allocations, memory
    #[arg(long)]
    eager: bool,
    /// Examples in a batch
    #[arg(long)]
    batch: Option<usize>,
    /// Weights (safetensors), netloom's own or under PyTorch's names
    #[arg(long)]
    weights: Option<PathBuf>,
    /// Arrays by input name (.npz); a single array goes to the single input
    #[arg(long)]
    input: Option<PathBuf>,
    /// The results expected (.npz, array `output` or by output name); prints the greatest difference, and its share of the greatest magnitude
    #[arg(long)]
    expect: Option<PathBuf>,
    /// Training steps on the batch before timing; prints the loss before and after
    #[arg(long, default_value_t = 0)]
    replay: usize,
    /// What states without weights start from
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How long to measure
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Show what each kernel costs, run one at a time
    #[arg(long, conflicts_with = "eager")]
    kernels: bool,
    /// Write a trace of one run, kernel by kernel with nodes and source lines, for Perfetto or chrome://tracing
    #[arg(long, value_name = "FILE", conflicts_with_all = ["eager", "kernels"])]
    profile: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    tuned: super::tuned::Tune,
    #[command(flatten)]
    machine: super::Machine,
}

/// Something that runs an entry again and again.
enum Engine {
    Compiled(Box<Session>),
    Eager(Box<Eager>),
}

impl Engine {
    fn run(&mut self, entry: &str, inputs: &[&Tensor], outputs: &mut [Tensor]) -> Result<(), Error> {
        match self {
            Engine::Compiled(session) => session.run(entry, inputs, outputs),
            Engine::Eager(eager) => eager.run(entry, inputs, outputs),
        }
    }
}

pub fn run(options: &Options) -> Result<(), Error> {
    if let Some(limit) = options.tuned.tune {
        let ready = Ready::on(&options.machine, options)?;
        let inputs = arguments(&ready.plan, options.input.as_deref())?;
        let inputs: Vec<&Tensor> = inputs.iter().collect();
        let entries = [(ready.entry.as_str(), &inputs[..])];
        super::tuned::store(
            &options.open.model,
            &ready.begun.program,
            &ready.begun.session,
            &entries,
            limit,
        )?;
    }
    let machine = options.machine.with_stored(&options.open.model)?;
    time(options, Ready::on(&machine, options)?, &machine.cpu()?)
}

/// A model ready to be timed.
struct Ready {
    name: String,
    net: Option<&'static Net>,
    entry: String,
    plan: Plan,
    choice: Choice,
    begun: super::Begun,
}

impl Ready {
    /// The model that options name, on a machine.
    fn on(machine: &super::Machine, options: &Options) -> Result<Ready, Error> {
        let mut choice = machine.choice()?;
        let arrays = options.input.as_deref().map(npz::load).transpose()?;
        let wanted = if options.train { TRAIN_STEP } else { PREDICT };
        let mut model = super::model::read(&options.open, options.batch, wanted, arrays.as_deref().unwrap_or(&[]))?;
        let entry = match &model.program.entries[..] {
            [only] => only.name.clone(),
            _ => wanted.to_owned(),
        };
        model.entry(&entry)?;
        model.program = model.program.only(&entry);
        let weights = super::model::weights(options.weights.as_deref(), model.net)?;
        if options.weights.is_some() {
            weights.check(&model.program)?;
        }
        let mut begun = super::begin(machine, &mut choice, model.program, weights, &entry, options.seed)?;
        begun.session.prepare()?;
        let plan = begun.session.executable().plan(&entry);
        Ok(Ready {
            name: model.name,
            net: model.net,
            plan: plan.cloned().expect("an entry of the program"),
            entry,
            choice,
            begun,
        })
    }
}

/// Times it in the way that options say.
fn time(options: &Options, ready: Ready, cpu: &Cpu) -> Result<(), Error> {
    let Ready {
        name,
        net,
        entry,
        plan,
        choice,
        begun,
    } = ready;
    let super::Begun {
        mut session,
        program,
        compile,
        load,
        planned,
    } = begun;
    let threads = options.machine.threads();
    let device = choice.device;
    let stages = session.executable().stages.clone();
    let is_cpu = matches!(device, Device::Cpu(_));
    let tuned = session.executable().tuned_count;
    let inputs = arguments(&plan, options.input.as_deref())?;
    let inputs: Vec<&Tensor> = inputs.iter().collect();
    let seconds = Duration::from_secs_f64(options.seconds.max(0.0));
    if options.kernels {
        let limits = Limits::measure(&device, threads)?;
        let costs = profile::kernels(&program, &entry, &session, &inputs, seconds)?;
        print_kernels(costs, &limits, options.json);
        return Ok(());
    }
    if let Some(path) = &options.profile {
        let slices = profile::slices(&program, &entry, &session, &inputs)?;
        write_whole(path, |file| file.write_all(profile::trace(&entry, &slices).as_bytes()))?;
        eprintln!("wrote {}: {} kernels", path.display(), slices.len());
        return Ok(());
    }
    let mut outputs = session.results(&entry)?;
    let compiled = (options.eager)
        .then(|| compiled_row(&mut session, &entry, &inputs, seconds))
        .transpose()?;
    let mut engine = if options.eager {
        Engine::Eager(Box::new(Eager::new(&program, &device, threads, &session)?))
    } else {
        Engine::Compiled(Box::new(session))
    };

    engine.run(&entry, &inputs, &mut outputs)?;
    // Now, as the plan knows nothing of what is expected.
    let peak = peak_rss_bytes();
    let first = outputs.clone();
    for _ in 0..options.replay {
        engine.run(&entry, &inputs, &mut outputs)?;
    }
    let replayed = outputs.clone();
    let error = options
        .expect
        .as_deref()
        .map(|path| greatest_difference(&plan, &first, path))
        .transpose()?;

    let (median_ms, min_ms, runs) = timed(seconds, &mut || engine.run(&entry, &inputs, &mut outputs))?;
    let (kernels, bytes_moved, arena_bytes, allocations) = match &engine {
        Engine::Compiled(session) => (plan.kernel_runs(), plan.bytes_moved(), session.arena_bytes(), 0),
        Engine::Eager(eager) => (
            eager.kernel_runs(&entry),
            eager.bytes_moved(&entry),
            eager.peak_bytes(),
            eager.allocations(&entry),
        ),
    };
    let stages: serde_json::Map<_, _> = (stages.0.iter())
        .map(|(stage, took)| ((*stage).to_owned(), milliseconds(*took).into()))
        .collect();
    let flops = program
        .entry(&entry)
        .map_or(Flops::default(), |entry| cost::total(&entry.graph));
    let mut report = serde_json::json!({
        "model": name,
        "entry": entry,
        "device": device.name(),
        "fell_back": choice.fell_back,
        "cpu": is_cpu.then(|| cpu.name()),
        "threads": threads,
        "mode": if options.eager { "eager" } else { "compiled" },
        "tuned": tuned,
        "seed": options.seed,
        "batch": plan.inputs.first().and_then(|port| port.ty.shape.first()),
        "median_ms": median_ms,
        "min_ms": min_ms,
        "runs": runs,
        "compile_ms": milliseconds(compile),
        "load_ms": milliseconds(load),
        "stages_ms": stages,
        "parameters": net.map(parameter_count).transpose()?,
        "flops": flops.all,
        "contraction_share": flops.contractions / flops.all.max(1.0),
        "kernels": kernels,
        "bytes_moved": bytes_moved,
        "arena_bytes": arena_bytes,
        "allocations": allocations,
        "planned_bytes": planned.map(|planned| planned.bytes()),
        "peak_rss_bytes": peak,
    });
    if options.train && options.replay > 0 {
        report["loss_first"] = first[0].get(0).as_f64().into();
        report["loss_replayed"] = replayed[0].get(0).as_f64().into();
    }
    if let Some(error) = error {
        report["max_abs_err"] = error.greatest.into();
        report["max_rel_err"] = (error.greatest / error.scale).into();
    }
    if let Some(compiled) = &compiled {
        report["compiled"] = compiled.clone();
    }
    if options.json {
        super::print_json(&report);
    } else if let Some(compiled) = &compiled {
        print_comparison(&report, compiled);
    } else {
        for (name, value) in report.as_object().into_iter().flatten() {
            println!("{name:<16} {value}");
        }
    }
    Ok(())
}

/// Runs for about so long; gives the median and the least time of a run in milliseconds, and the number of runs.
fn timed(limit: Duration, run: &mut dyn FnMut() -> Result<(), Error>) -> Result<(f64, f64, usize), Error> {
    let mut times = Vec::new();
    let until = Instant::now() + limit;
    while times.len() < 5 || Instant::now() < until && times.len() < 200_000 {
        let start = Instant::now();
        run()?;
        times.push(start.elapsed());
    }
    let middle = milliseconds(median(&mut times));
    Ok((middle, milliseconds(times[0]), times.len()))
}

/// What the compiled model takes, to be set beside eager execution; its states are as they were.
fn compiled_row(
    session: &mut Session,
    entry: &str,
    inputs: &[&Tensor],
    limit: Duration,
) -> Result<serde_json::Value, Error> {
    let states = session.states();
    let mut outputs = session.results(entry)?;
    session.run(entry, inputs, &mut outputs)?;
    let (median_ms, min_ms, runs) = timed(limit, &mut || session.run(entry, inputs, &mut outputs))?;
    states
        .iter()
        .try_for_each(|(name, value)| session.set_state(name, value))?;
    session.prepare()?;
    let plan = session.executable().plan(entry).expect("it has just been run");
    Ok(serde_json::json!({
        "median_ms": median_ms,
        "min_ms": min_ms,
        "runs": runs,
        "kernels": plan.kernel_runs(),
        "bytes_moved": plan.bytes_moved(),
        "arena_bytes": session.arena_bytes(),
        "allocations": 0,
    }))
}

/// Compiled beside eager, and how many times the one is the other.
fn print_comparison(eager: &serde_json::Value, compiled: &serde_json::Value) {
    println!("{:<14} {:>16} {:>16} {:>8}", "", "compiled", "eager", "ratio");
    for (name, field) in [
        ("median ms", "median_ms"),
        ("least ms", "min_ms"),
        ("kernels", "kernels"),
        ("bytes moved", "bytes_moved"),
        ("peak bytes", "arena_bytes"),
        ("allocations", "allocations"),
    ] {
        let number = |of: &serde_json::Value| of[field].as_f64().unwrap_or(0.0);
        let (a, b) = (number(compiled), number(eager));
        let ratio = if a > 0.0 {
            format!("{:.2}", b / a)
        } else {
            String::new()
        };
        let digits = if field.ends_with("_ms") { 4 } else { 0 };
        println!("{name:<14} {a:>16.digits$} {b:>16.digits$} {ratio:>8}");
    }
}

/// The kernels by the time that they lose against what the machine could do at most.
fn print_kernels(mut costs: Vec<KernelCost>, limits: &Limits, json: bool) {
    let total: Duration = costs.iter().map(|cost| cost.time).sum();
    let lost = |cost: &KernelCost| (cost.time.as_secs_f64() - limits.seconds(cost.flops, cost.bytes)).max(0.0);
    costs.sort_by(|a, b| lost(b).total_cmp(&lost(a)));
    if json {
        let rows = costs.iter().map(|cost| {
            serde_json::json!({
                "name": cost.name,
                "runs": cost.runs,
                "flops": cost.flops,
                "bytes": cost.bytes,
                "ms": milliseconds(cost.time),
                "lost_ms": lost(cost) * 1e3,
            })
        });
        super::print_json(&serde_json::json!({
            "total_ms": milliseconds(total),
            "peak_gflops": limits.flops.map(|rate| rate / 1e9),
            "bandwidth_gb_s": limits.bytes / 1e9,
            "kernels": rows.collect::<Vec<_>>(),
        }));
        return;
    }
    let peak = limits
        .flops
        .map_or("not measured".to_owned(), |rate| format!("{:.1} Gflop/s", rate / 1e9));
    println!(
        "peak {peak}, bandwidth {:.1} GB/s; shares of these, sorted by the time lost against them\n",
        limits.bytes / 1e9
    );
    println!(
        "{:>9} {:>9} {:>6} {:>5} {:>9} {:>8} {:>6} {:>9} {:>7} {:>6}  kernel",
        "lost ms", "ms", "share", "runs", "Mflop", "Gflop/s", "peak", "kB", "GB/s", "bandw."
    );
    let percent = |part: f64| format!("{:.0}%", 100.0 * part);
    for cost in &costs {
        let seconds = cost.time.as_secs_f64().max(1e-9);
        let (flops, bytes) = (cost.flops / seconds, cost.bytes as f64 / seconds);
        println!(
            "{:9.4} {:9.4} {:5.1}% {:5} {:9.2} {:8.1} {:>6} {:9.1} {:7.1} {:>6}  {}",
            lost(cost) * 1e3,
            seconds * 1e3,
            100.0 * seconds / total.as_secs_f64().max(1e-9),
            cost.runs,
            cost.flops / 1e6,
            flops / 1e9,
            limits.flops.map_or("–".to_owned(), |rate| percent(flops / rate)),
            cost.bytes as f64 / 1e3,
            bytes / 1e9,
            percent(bytes / limits.bytes),
            cost.name,
        );
    }
    println!(
        "{:9.4} {:9.4} 100.0%  all",
        costs.iter().map(lost).sum::<f64>() * 1e3,
        milliseconds(total)
    );
}

/// The number of trained elements.
fn parameter_count(net: &Net) -> Result<usize, Error> {
    let rows = summary(&(net.layers)(), &net.input(1))?;
    Ok(rows.iter().map(|row| row.parameters).sum())
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Made-up arguments of an entry.
pub fn made_up_arguments(session: &Session, entry: &str) -> Result<Vec<Tensor>, Error> {
    let plan = session.executable().plan(entry);
    let plan = plan.ok_or_else(|| Error::Unknown(format!("there is no entry `{entry}`")))?;
    arguments(plan, None)
}

/// The arguments of an entry: from a file, or made up, the same each time.
fn arguments(plan: &Plan, path: Option<&Path>) -> Result<Vec<Tensor>, Error> {
    let Some(path) = path else {
        memory::check(plan.inputs.iter().map(|port| port.ty.len_bytes()).sum())?;
        return Ok(plan
            .inputs
            .iter()
            .map(|port| made_up(port.ty.dtype, &port.ty.shape))
            .collect());
    };
    let arrays = npz::load(path)?;
    plan.inputs
        .iter()
        .map(|port| {
            let by_name = arrays
                .iter()
                .find(|(name, _)| *name == port.name || name == "input" && port.name == "x");
            let only = (plan.inputs.len() == 1 && arrays.len() == 1).then(|| &arrays[0]);
            let found = by_name.or(only).map(|(_, array)| array.clone());
            found.ok_or_else(|| {
                Error::file(
                    path,
                    format!("there is no array for the argument `{}`: {}", port.name, port.ty),
                )
            })
        })
        .collect()
}

/// Values spread over [-1, 1], or small whole numbers.
fn made_up(dtype: DType, shape: &[usize]) -> Tensor {
    let count: usize = shape.iter().product();
    let spread = (0..count).map(|at| (at as u32).wrapping_mul(2_654_435_769));
    match dtype {
        DType::I64 => Tensor::from_i64(shape, &spread.map(|x| i64::from(x >> 16) % 10).collect::<Vec<_>>()),
        _ => Tensor::from_scalars(
            dtype,
            shape,
            spread.map(|x| netloom::ir::Scalar::Float(f64::from(x) / f64::from(1u32 << 31) - 1.0)),
        ),
    }
}

/// How far results are from those expected.
struct Difference {
    /// The greatest `|a - b|`.
    greatest: f64,
    /// The greatest `|b|` of the same result.
    scale: f64,
}

fn greatest_difference(plan: &Plan, outputs: &[Tensor], path: &Path) -> Result<Difference, Error> {
    let arrays = npz::load(path)?;
    let mut found: Option<Difference> = None;
    for (port, output) in plan.outputs.iter().zip(outputs) {
        let expected = arrays
            .iter()
            .find(|(name, _)| *name == port.name || name == "output" && plan.outputs.len() == 1);
        let Some((name, expected)) = expected else { continue };
        if expected.shape() != output.shape() {
            return Err(Error::file(
                path,
                format!("`{name}` is {}, the model gives {}", expected.ty(), output.ty()),
            ));
        }
        // Not `f64::max`, which forgets a NaN.
        let greatest = |numbers: &mut dyn Iterator<Item = f64>| {
            numbers.fold(0.0, |most, number| if number <= most { most } else { number })
        };
        let pairs = output.scalars().zip(expected.scalars());
        let here = Difference {
            greatest: greatest(&mut pairs.map(|(a, b)| (a.as_f64() - b.as_f64()).abs())),
            scale: greatest(&mut expected.scalars().map(|b| b.as_f64().abs())),
        };
        found = match found {
            Some(known) if known.greatest >= here.greatest => Some(known),
            _ => Some(here),
        };
    }
    found.ok_or_else(|| Error::file(path, "holds no array named like a result or `output`"))
}

/// The most memory this process has had, where the system tells.
fn peak_rss_bytes() -> Option<u64> {
    // Elsewhere what follows must do, which on Linux counts what started this process too.
    if let Some(bytes) = memory::most_resident() {
        return Some(bytes as u64);
    }
    #[cfg(unix)]
    {
        use nix::sys::resource::{UsageWho, getrusage};
        let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
        // Linux counts in KiB, macOS in bytes.
        let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
        u64::try_from(usage.max_rss()).ok().map(|rss| rss * unit)
    }
    #[cfg(not(unix))]
    None
}
