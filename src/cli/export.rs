//! `netloom export`: a model as ONNX.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use netloom::formats::onnx;
use netloom::ir::Tensor;
use netloom::nn::training::{PREDICT, TRAIN_STEP};
use netloom::weights::Weights;
use netloom::{Cpu, Error, Session, compile};

#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    open: super::model::Open,
    /// What is written: predict or train, or an entry's name
    #[arg(long, default_value = "predict")]
    entry: String,
    /// Examples in a batch
    #[arg(long)]
    batch: Option<usize>,
    /// Weights (safetensors), netloom's own or under PyTorch's names
    #[arg(long)]
    weights: Option<PathBuf>,
    /// What states without weights start from
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The file written
    #[arg(short, long)]
    out: PathBuf,
}

pub fn run(options: &Options) -> Result<(), Error> {
    let wanted = match options.entry.as_str() {
        "predict" => PREDICT,
        "train" => TRAIN_STEP,
        other => other,
    };
    let model = super::model::read(&options.open, options.batch, wanted, &[])?;
    let entry = model.entry(wanted)?;
    let program = model.program.only(wanted);
    let mut session = Session::new(Arc::new(compile(&program, Cpu::native())?), 1, options.seed)?;
    if let Some(path) = &options.weights {
        Weights::open(path, model.net)?.put(&program, &mut session)?;
    }
    let states: Vec<(String, Tensor)> = session.states();
    onnx::export::save(&options.out, &entry.graph, &states)?;
    eprintln!("wrote {}", options.out.display());
    Ok(())
}
