//! `netloom demo`: the tour.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use netloom::compile::lower;
use netloom::eager::Eager;
use netloom::ir::{Tensor, fuse};
use netloom::nn::training::{TRAIN_STEP, program};
use netloom::nn::zoo;
use netloom::train::model::median;
use netloom::train::{Augmentation, Dataset};
use netloom::{Device, Error, Session, compile};

use super::train::{Data, Fit, RATE, SHIFT, fit};

#[derive(Args)]
pub struct Options {
    /// Times that every example is seen
    #[arg(long, default_value_t = 12)]
    epochs: usize,
    /// What weights and the order of examples are drawn from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where weights, logs and pictures go
    #[arg(long, default_value = "out/demo")]
    out: PathBuf,
    /// Print one JSON object at the end
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    machine: super::Machine,
}

pub fn run(options: &Options) -> Result<(), Error> {
    let net = zoo::find("lenet")?;
    let data = Data::read(net, None, options.seed)?;
    eprintln!(
        "1. Training {} on {} handwritten digits; {} to choose by, {} to test on\n",
        net.name,
        data.train.len(),
        data.validation.len(),
        data.test.len()
    );
    let plan = Fit {
        net,
        rate: RATE,
        batch: net.batch,
        epochs: options.epochs,
        seed: options.seed,
        resume: None,
        patience: None,
        dropout: None,
        augment: Augmentation::shift(SHIFT, options.seed),
        balance: false,
        out: &options.out,
        nan: false,
        machine: &options.machine,
    };
    let (mut model, report) = fit(&plan, &data)?;
    for file in &report.files {
        eprintln!("wrote {}", options.out.join(file).display());
    }

    eprintln!("\n2. What the compiler made of the training step\n");
    let device = model.executable().device.clone();
    let program = program(
        &(net.layers)(),
        &net.input(net.batch),
        &net.target(net.batch),
        &plan.training(&data),
    )?
    .only(TRAIN_STEP);
    let lowered = lower(&program, &device.target())?;
    let nodes = program.entries[0].graph.len();
    let (_, improved) = &lowered.graphs[0];
    let executable = Arc::new(compile(&program, &device)?);
    let step = executable.plan(TRAIN_STEP).expect("the program has this entry");
    eprintln!("nodes          {nodes}, after the passes {}", improved.len());
    eprintln!("regions        {}", fuse::regions(improved).len());
    eprintln!("kernels        {} to run for a step", step.kernel_runs());
    eprintln!("arena          {} bytes", step.shared_bytes);
    for (stage, took) in &executable.stages.0 {
        eprintln!("{stage:<14} {:.2} ms", took.as_secs_f64() * 1e3);
    }
    eprintln!(
        "compile        {:.2} ms in all",
        executable.stages.total().as_secs_f64() * 1e3
    );

    match &device {
        Device::Cpu(_) => eprintln!("\n3. Compiled against eager, the same kernels' tiles and threads\n"),
        #[cfg(feature = "vulkan")]
        Device::Vulkan(_) => eprintln!("\n3. Compiled against eager, both on {device}\n"),
    }
    let batch = data.train.select(&(0..net.batch).collect::<Vec<_>>());
    let mut session = Session::new(Arc::clone(&executable), options.machine.threads(), options.seed)?;
    let mut eager = Eager::new(&program, &device, options.machine.threads(), &session)?;
    let mut loss = session.results(TRAIN_STEP)?;
    let compiled = step_time(&batch, &mut loss, &mut |inputs, loss| {
        session.run(TRAIN_STEP, inputs, loss)
    })?;
    let by_operation = step_time(&batch, &mut loss, &mut |inputs, loss| {
        eager.run(TRAIN_STEP, inputs, loss)
    })?;
    eprintln!("compiled       {compiled:.3} ms a step, {} kernels", step.kernel_runs());
    eprintln!(
        "eager          {by_operation:.3} ms a step, {} kernels, {} buffers",
        eager.kernel_runs(TRAIN_STEP),
        eager.allocations(TRAIN_STEP)
    );
    eprintln!("ratio          {:.2}", by_operation / compiled);

    eprintln!("\n4. Loading the saved weights again\n");
    let before = model.evaluate(&data.test)?;
    model.session().reset(options.seed + 1)?;
    model.load(&options.out.join("weights.safetensors"))?;
    let after = model.evaluate(&data.test)?;
    if before != after {
        return Err(Error::Training(format!(
            "the loaded weights score {after:?}, the saved ones {before:?}"
        )));
    }
    eprintln!(
        "the same {} test digits, the same answers: accuracy {:.2} %",
        data.test.len(),
        100.0 * after.accuracy.unwrap_or(0.0)
    );
    if options.json {
        super::print_json(&report.json(net.name, options.machine.threads()));
    }
    Ok(())
}

type Step<'a> = dyn FnMut(&[&Tensor], &mut [Tensor]) -> Result<(), Error> + 'a;

/// The median time of a step in milliseconds.
fn step_time(batch: &Dataset, loss: &mut [Tensor], step: &mut Step<'_>) -> Result<f64, Error> {
    let inputs = [&batch.inputs, &batch.targets];
    let mut times: Vec<Duration> = Vec::new();
    for _ in 0..40 {
        let start = Instant::now();
        step(&inputs, loss)?;
        times.push(start.elapsed());
    }
    Ok(median(&mut times).as_secs_f64() * 1e3)
}
