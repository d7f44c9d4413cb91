//! The `MODEL` argument: a netloom text file, or the name of a network.

use std::path::Path;

use netloom::Error;
use netloom::formats::safetensors;
use netloom::ir::{Program, text};
use netloom::nn::training;
use netloom::nn::zoo::{self, Net};
use netloom::session::Session;

/// A model as a program.
pub struct Model {
    /// The name without folder and ending.
    pub name: String,
    /// What it does.
    pub program: Program,
    /// The network it was made from, if it has a name in the zoo.
    pub net: Option<&'static Net>,
}

/// Reads a model: for a network of the zoo with that many examples in a batch.
pub fn read(model: &str, batch: Option<usize>) -> Result<Model, Error> {
    let path = Path::new(model);
    if path.extension().is_some() || path.exists() {
        let source = std::fs::read_to_string(path).map_err(|reason| Error::file(path, reason))?;
        let program = text::parse_program(model, &source)?;
        let name = path
            .file_stem()
            .map_or_else(|| model.to_owned(), |stem| stem.to_string_lossy().into_owned());
        return Ok(Model {
            name,
            program,
            net: None,
        });
    }
    let net = zoo::find(model)?;
    let batch = batch.unwrap_or(net.batch);
    let program = training::program(
        &(net.layers)(),
        &net.input(batch),
        &net.target(batch),
        &(net.training)(),
    )?;
    Ok(Model {
        name: net.name.to_owned(),
        program,
        net: Some(net),
    })
}

/// Replaces states by the tensors of a safetensors file: netloom's own, or for a network of the zoo one under PyTorch's names.
pub fn load_weights(session: &mut Session, net: Option<&Net>, path: &Path) -> Result<(), Error> {
    let mut tensors = safetensors::load(path)?;
    if let Some(net) = net {
        let own = tensors.iter().any(|(name, _)| name == netloom::nn::scope::STEP);
        if !own {
            tensors = zoo::from_torch(net, tensors)?;
        }
    }
    tensors
        .iter()
        .try_for_each(|(name, tensor)| session.set_state(name, tensor))
}
