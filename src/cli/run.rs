//! `netloom run`: applies a model to arrays.

use std::path::{Path, PathBuf};

use clap::Args;
#[cfg(feature = "vulkan")]
use netloom::Device;
use netloom::Error;
use netloom::ahead::manifest;
use netloom::ahead::run::Running;
#[cfg(feature = "vulkan")]
use netloom::ahead::vulkan;
use netloom::formats::npz;
use netloom::ir::watch::Watched;
use netloom::nn::training::PREDICT;

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
    /// Fail if a result holds a NaN or an infinity, and name the operation that made the first
    #[arg(long)]
    nan: bool,
    #[command(flatten)]
    machine: super::Machine,
}

pub fn run(options: &Options) -> Result<(), Error> {
    let arrays = npz::load(&options.input)?;
    let folder = Path::new(&options.open.model);
    let as_compiled = || match (&options.weights, options.nan) {
        (None, false) => Ok(()),
        (Some(_), _) => Err(Error::Usage(
            "an artefact has its weights already; leave out `--weights`, or compile it with them".to_owned(),
        )),
        (None, true) => Err(Error::Usage(
            "an artefact holds no checks for NaN; run the model that it was compiled from with `--nan`".to_owned(),
        )),
    };
    if folder.join(manifest::FILE).exists() {
        as_compiled()?;
        let mut artefact = Running::open(folder, options.machine.threads(), options.seed)?;
        return npz::save(&options.output, &artefact.call(&options.entry, &arrays)?);
    }
    #[cfg(feature = "vulkan")]
    if folder.join(vulkan::PLAN).exists() {
        let Device::Vulkan(device) = options.machine.device()? else {
            let message = "the artefact is for Vulkan; add `--device vulkan`";
            return Err(Error::Usage(message.to_owned()));
        };
        as_compiled()?;
        let mut artefact = vulkan::Playing::open(folder, &device)?;
        return npz::save(&options.output, &artefact.call(&options.entry, &arrays)?);
    }
    let machine = options.machine.with_stored(&options.open.model)?;
    let batch = arrays.first().and_then(|(_, array)| array.shape().first().copied());
    let mut model = super::model::read(&options.open, batch, &options.entry, &arrays)?;
    let mut entries = model.program.entries.iter_mut();
    let entry = entries.find(|entry| options.nan && entry.name == options.entry);
    let watched = entry.map(|entry| {
        let watched = Watched::new(&entry.graph);
        let results: Vec<String> = entry.graph.outputs.iter().map(|(name, _)| name.clone()).collect();
        entry.graph = watched.graph.clone();
        (watched, results)
    });
    let weights = super::model::weights(options.weights.as_deref(), model.net)?;
    if options.weights.is_some() {
        weights.check(&model.program)?;
    }
    let mut choice = machine.choice()?;
    let begun = super::begin(
        &machine,
        &mut choice,
        model.program,
        weights,
        &options.entry,
        options.seed,
    )?;
    let mut session = begun.session;
    let arrays: Vec<_> = (arrays.into_iter())
        .filter(|(name, _)| !model.bound.contains(name))
        .collect();
    // A single array goes to the single argument, whatever its name.
    let plan = session.executable().plan(&options.entry);
    let only = plan.and_then(|plan| match (&plan.inputs[..], arrays.len()) {
        ([port], 1) => Some(port.name.clone()),
        _ => None,
    });
    let arguments = arrays.iter();
    let arguments: Vec<_> = arguments
        .map(|(name, array)| (only.as_deref().unwrap_or(name), array))
        .collect();
    let mut results = session.call(&options.entry, &arguments)?;
    if let Some((watched, own)) = watched {
        let level = |wanted: &str| {
            let (_, value) = results.iter().find(|(name, _)| name == wanted)?;
            Some(value.get(0).as_f64())
        };
        if let Some(culprit) = watched.culprit(level) {
            return Err(Error::Usage(culprit.to_string()));
        }
        results.retain(|(name, _)| own.contains(name));
    }
    npz::save(&options.output, &results)
}
