//! `netloom check`: the oracle, the interpreter, the CPU and Vulkan against each other.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use netloom::check::{Compiled, Difference, Engine, Interpreter, Options as Checking, Outcome, check};
use netloom::formats::npz;
use netloom::ir::graph::NodeId;
use netloom::ir::program::Entry;
use netloom::ir::{Op, Program, Target, Tensor, fuse, passes, sample};
use netloom::nn::training::PREDICT;
use netloom::plan::kernels::Makers;
use netloom::weights::Weights;
use netloom::{Device, Error, Session, compile};

#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    open: super::model::Open,
    /// Name the pass or stage that is to blame for a difference
    #[arg(long)]
    bisect: bool,
    /// Arrays by input name (.npz); a single array goes to the single input; by default made up from the seed
    #[arg(long)]
    input: Option<PathBuf>,
    /// Weights (safetensors), netloom's own or under PyTorch's names
    #[arg(long)]
    weights: Option<PathBuf>,
    /// The entry to check
    #[arg(long, default_value = PREDICT)]
    entry: String,
    /// Examples in a batch
    #[arg(long)]
    batch: Option<usize>,
    /// What states without weights, and inputs without a file, come from
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Leave out the interpreter, which takes long for large models
    #[arg(long)]
    quick: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    machine: super::Machine,
}

pub fn run(options: &Options) -> Result<(), Error> {
    let arrays = options.input.as_deref().map(npz::load).transpose()?.unwrap_or_default();
    let model = super::model::read(&options.open, options.batch, &options.entry, &arrays)?;
    model.entry(&options.entry)?;
    let program = model.program.only(&options.entry);
    let machine = options.machine.with_stored(&options.open.model)?;
    let (cpu, threads) = (machine.cpu()?, machine.threads());

    // Those for which a program is prepared alike are checked together.
    let mut engines: Vec<Vec<Box<dyn Engine>>> = vec![vec![Box::new(Compiled::on(&cpu, threads))]];
    if !options.quick {
        engines[0].insert(0, Box::new(Interpreter::of(cpu.target())));
    }
    // Vulkan is checked wherever there is one, by name if it was named.
    let named = Some(options.machine.device.as_str()).filter(|name| name.starts_with("vulkan"));
    let asked = Device::named(named.unwrap_or("vulkan"), cpu.clone(), machine.f16_arithmetic);
    match (asked, named) {
        (Ok(choice), _) => engines.push(vec![Box::new(Compiled::on(choice.device, 1))]),
        (Err(error), Some(_)) => return Err(error),
        (Err(error), None) => eprintln!("note: not checked on Vulkan: {error}"),
    }

    let mut found: BTreeMap<String, Vec<Outcome>> = BTreeMap::new();
    for mut engines in engines {
        // As the engines' machine has it prepared; the CPU computes what the states are.
        let target = engines[0].target();
        let program = without_foreign(program.prepared_for(&target), &target);
        let computed = without_foreign(program.clone(), &cpu.target());
        let mut session = Session::new(Arc::new(compile(&computed, &cpu)?), threads, options.seed)?;
        if let Some(path) = &options.weights {
            Weights::open(path, model.net)?.put(&program, &mut session)?;
        }
        session.prepare()?;
        for entry in &program.entries {
            let inputs = inputs(options, entry, &program, &session, &arrays)?;
            let checking = Checking {
                passes: passes::PASSES,
                makers: Makers::USUAL,
                bisect: options.bisect,
            };
            let outcomes = check(&program, &entry.name, &inputs, &mut engines, checking)?;
            found.entry(entry.name.clone()).or_default().extend(outcomes);
        }
    }
    report(options, &found);
    let wrong = found.values().flatten();
    match wrong.filter(|outcome| outcome.difference.is_some()).count() {
        0 => Ok(()),
        count => Err(Error::Usage(format!(
            "{count} of the engines differ from the oracle by more than rounding explains"
        ))),
    }
}

/// The program without schedules for another machine: there the compiler's own are checked.
fn without_foreign(mut program: Program, target: &Target) -> Program {
    for entry in &mut program.entries {
        entry.graph = fuse::without_foreign(&entry.graph, target);
    }
    program
}

/// What an entry is checked with: states as they are in the session, arguments as they were given, or made up.
fn inputs(
    options: &Options,
    entry: &Entry,
    program: &Program,
    session: &Session,
    arrays: &[(String, Tensor)],
) -> Result<Vec<(String, Tensor)>, Error> {
    let mut seed = options.seed;
    let only = (entry.name == options.entry && arrays.len() == 1).then(|| &arrays[0].1);
    let value = |&id: &NodeId| {
        let Op::Input(input) = &entry.graph.node(id).op else {
            unreachable!("`inputs` lists inputs")
        };
        let given = arrays.iter().find(|(name, _)| *name == input.name);
        let value = match program.state(&input.name) {
            Some(_) => session.state(&input.name)?,
            None => match given.map(|(_, array)| array).or(only) {
                Some(array) => array.clone(),
                None => sample::tensor(&input.ty, &mut seed),
            },
        };
        Ok((input.name.clone(), value))
    };
    entry.graph.inputs().iter().map(value).collect()
}

fn report(options: &Options, entries: &BTreeMap<String, Vec<Outcome>>) {
    if options.json {
        let entries = entries.iter().map(|(name, outcomes)| {
            let outcomes: Vec<_> = outcomes.iter().map(json).collect();
            serde_json::json!({ "entry": name, "engines": outcomes })
        });
        super::print_json(&serde_json::json!({ "model": options.open.model, "entries": entries.collect::<Vec<_>>() }));
        return;
    }
    for (name, outcomes) in entries {
        for outcome in outcomes {
            let Outcome {
                engine, pieces, share, ..
            } = outcome;
            match &outcome.difference {
                None => println!("{name}: {engine}: {pieces} kernels as the oracle, at most {share:.2} of the bound"),
                Some(difference) => print!("{name}: {engine}: {}", text(difference)),
            }
        }
    }
}

fn text(difference: &Difference) -> String {
    let Difference {
        what,
        loc,
        kernel,
        element,
        found,
        expected,
        allowed,
        blame,
    } = difference;
    let mut text = format!(
        "first difference at {what}, {loc}\n  element {element} is {found:?}, should be {expected:?} within {allowed:e}\n"
    );
    if let Some(kernel) = kernel {
        text += &format!("  computed by kernel `{kernel}`\n");
    }
    if let Some(blame) = blame {
        text += &format!("  to blame: {blame}\n");
    }
    text
}

fn json(outcome: &Outcome) -> serde_json::Value {
    let difference = outcome.difference.as_ref().map(|difference| {
        serde_json::json!({
            "what": difference.what,
            "loc": difference.loc.to_string(),
            "kernel": difference.kernel,
            "element": difference.element,
            "found": difference.found.as_f64(),
            "expected": difference.expected.as_f64(),
            "allowed": difference.allowed,
            "blame": difference.blame,
        })
    });
    serde_json::json!({
        "engine": outcome.engine,
        "kernels": outcome.pieces,
        "share_of_bound": outcome.share,
        "difference": difference,
    })
}
