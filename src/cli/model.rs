//! The `MODEL` argument: a netloom text file, an ONNX model, or the name of a network.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use clap::Args;
use netloom::formats::{onnx, safetensors};
use netloom::ir::{Entry, Program, Tensor, text};
use netloom::nn::training::{self, PREDICT};
use netloom::nn::zoo::{self, Net};
use netloom::weights::Weights;
use netloom::{Error, dump};

/// A model as a program.
pub struct Model {
    /// The name without folder and ending.
    pub name: String,
    /// What it does.
    pub program: Program,
    /// The network it was made from, if it has a name in the zoo.
    pub net: Option<&'static Net>,
    /// Inputs that are constants of the program, since a shape depends on them.
    pub bound: Vec<String>,
}

impl Model {
    /// The entry of that name, or an error that lists those there are.
    pub fn entry(&self, name: &str) -> Result<&Entry, Error> {
        self.program.entry(name).ok_or_else(|| {
            let names: Vec<&str> = self.program.entries.iter().map(|entry| entry.name.as_str()).collect();
            let known = names.join(", ");
            Error::Unknown(format!("`{}` has no entry `{name}`; it has {known}", self.name))
        })
    }
}

/// What a command is told about the model that it reads.
#[derive(Args, Clone)]
pub struct Open {
    /// A netloom text file, an ONNX model, or the name of a network
    pub model: String,
    /// An extent that an ONNX model leaves open, by its name or as INPUT.AXIS; may be given several times
    #[arg(long = "shape", value_name = "NAME=EXTENT", value_parser = extent)]
    pub extents: Vec<(String, usize)>,
}

fn extent(text: &str) -> Result<(String, usize), String> {
    let (name, extent) = text
        .rsplit_once('=')
        .ok_or("it is written NAME=EXTENT, as in batch=1")?;
    let extent = extent.parse().map_err(|_| format!("`{extent}` is no extent"))?;
    Ok((name.to_owned(), extent))
}

/// Reads a model, to use an entry of it; one in ONNX for these inputs, as far as they are known. A network of the zoo is made for that many
/// examples in a batch, by default one to predict and a usual batch to train; to predict, nothing else is made.
pub fn read(open: &Open, batch: Option<usize>, entry: &str, inputs: &[(String, Tensor)]) -> Result<Model, Error> {
    let model = open.model.as_str();
    let path = Path::new(model);
    let stem = || {
        let stem = path.file_stem();
        stem.map_or_else(|| model.to_owned(), |stem| stem.to_string_lossy().into_owned())
    };
    if path.extension().is_some_and(|ending| ending == "onnx") {
        let program = onnx::load_program_for(PREDICT, path, &open.extents, inputs)?;
        let graph = &program.entries[0].graph;
        let is_bound = |name: &String| graph.input(name).is_none();
        let bound = inputs.iter().map(|(name, _)| name.clone()).filter(is_bound).collect();
        return Ok(Model {
            name: stem(),
            program,
            net: None,
            bound,
        });
    }
    // A folder that is called as a network, such as its artefact, is no model.
    let is_file = path.exists() && !(path.is_dir() && zoo::find(model).is_ok());
    if path.extension().is_some() || is_file {
        let source = std::fs::read_to_string(path).map_err(|reason| Error::file(path, reason))?;
        if let Some(reason) = dump::why_no_model(&source) {
            return Err(Error::Usage(format!(
                "{model}: {reason}. Dump an earlier stage to go on from, as `netloom dump MODEL --stage nest -o FILE.nl` does (or plan, kernel, regions, or optimized)"
            )));
        }
        // Large constants lie in the file that `netloom dump -o` writes beside the text.
        let beside = path.with_extension("safetensors");
        let stored: HashMap<String, Arc<Tensor>> = match beside.exists() {
            true => safetensors::load(&beside)?
                .into_iter()
                .map(|(name, tensor)| (name, Arc::new(tensor)))
                .collect(),
            false => HashMap::new(),
        };
        let mut program = text::parse_program_with(model, &source, &|name| stored.get(name).cloned())?;
        // A graph is what a model predicts, whatever its file calls it.
        if let ([only], PREDICT) = (&mut program.entries[..], entry) {
            PREDICT.clone_into(&mut only.name);
        }
        return Ok(Model {
            name: stem(),
            program,
            net: None,
            bound: Vec::new(),
        });
    }
    let net = zoo::find(model)?;
    let name = net.name.to_owned();
    if entry == PREDICT {
        let program = training::predictor(&(net.layers)(), &net.input(batch.unwrap_or(1)))?;
        return Ok(Model {
            name,
            program,
            net: Some(net),
            bound: Vec::new(),
        });
    }
    let net = net.for_training();
    let batch = batch.unwrap_or(net.batch);
    let program = training::program(
        &(net.layers)(),
        &net.input(batch),
        &net.target(batch),
        &(net.training)(),
    )?;
    Ok(Model {
        name,
        program,
        net: Some(net),
        bound: Vec::new(),
    })
}

/// The weights in a file, if one is named.
pub fn weights(path: Option<&Path>, net: Option<&Net>) -> Result<Weights, Error> {
    path.map_or(Ok(Weights::default()), |path| Weights::open(path, net))
}
