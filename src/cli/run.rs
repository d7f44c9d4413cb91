//! `netloom run`: applies a model to arrays.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use netloom::ahead::manifest;
use netloom::ahead::run::Running;
use netloom::formats::npz;
use netloom::nn::training::PREDICT;
use netloom::{Error, Session, compile};

#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    open: super::model::Open,
    /// Arrays by input name (.npz); a single array goes to the single input
    #[arg(long)]
    input: PathBuf,
    /// Where the results go, by output name (.npz)
    #[arg(long)]
    output: PathBuf,
    /// The entry to run
    #[arg(long, default_value = PREDICT)]
    entry: String,
    /// Weights (safetensors), netloom's own or under PyTorch's names
    #[arg(long)]
    weights: Option<PathBuf>,
    /// What states without weights start from
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    machine: super::Machine,
}

pub fn run(options: &Options) -> Result<(), Error> {
    let arrays = npz::load(&options.input)?;
    let folder = Path::new(&options.open.model);
    if folder.join(manifest::FILE).exists() {
        if options.weights.is_some() {
            let message = "an artefact has its weights already; leave out `--weights`, or compile it with them";
            return Err(Error::Usage(message.to_owned()));
        }
        let mut artefact = Running::open(folder, options.machine.threads(), options.seed)?;
        return npz::save(&options.output, &artefact.call(&options.entry, &arrays)?);
    }
    let batch = arrays.first().and_then(|(_, array)| array.shape().first().copied());
    let model = super::model::read(&options.open, batch, &options.entry, &arrays)?;
    let executable = Arc::new(compile(&model.program.prepared(), options.machine.device()?)?);
    let mut session = Session::new(Arc::clone(&executable), options.machine.threads(), options.seed)?;
    if let Some(path) = &options.weights {
        super::model::load_weights(&mut session, model.net, path)?;
    }
    let arrays: Vec<_> = (arrays.into_iter())
        .filter(|(name, _)| !model.bound.contains(name))
        .collect();
    let only = executable
        .plan(&options.entry)
        .filter(|plan| plan.inputs.len() == 1 && arrays.len() == 1);
    let arguments: Vec<_> = match only {
        Some(plan) => vec![(plan.inputs[0].name.as_str(), &arrays[0].1)],
        None => arrays.iter().map(|(name, array)| (name.as_str(), array)).collect(),
    };
    let results = session.call(&options.entry, &arguments)?;
    npz::save(&options.output, &results)
}
