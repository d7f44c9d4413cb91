//! Models in ONNX: read as graphs, written from graphs.
//!
//! A node of a model becomes what a row of [`ops`] builds of it: a function over the builder, never a kernel of its own. Shapes are
//! static here: names of extents are bound when the model is read, and where an operator's result depends on a value (a shape to
//! reshape to, a list of axes), that value must be known. It is, if it is an initialiser or computed from initialisers and shapes; if it is
//! an input of the model, the reader binds the input ([`Binding::values`]), which then is no argument of the graph.
//!
//! [`proto`] is the file format as prost generates it from ONNX's definition; [`tensors`] converts tensors, `import` walks a model,
//! `node` is what one operator sees of its node, [`export`] writes.

pub mod bound;
pub mod export;
mod import;
mod node;
pub mod ops;
#[allow(missing_docs, clippy::all, clippy::pedantic, rustdoc::all)]
#[rustfmt::skip]
pub mod proto;
pub mod tensors;
mod weights;

use std::collections::{BTreeSet, HashSet};
use std::path::Path;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use netloom_ir::tensor::Keeper;
use netloom_ir::{Graph, Problem, Problems, Program, Tensor};
use prost::Message;

use crate::cpu::mapped::Mapped;
use crate::error::Error;

/// What a model leaves open and its reader decides.
#[derive(Clone, Copy, Debug, Default)]
pub struct Binding<'a> {
    /// Extents by name: that of a symbolic dimension, or `INPUT.AXIS` for one without a name.
    pub extents: &'a [(String, usize)],
    /// Inputs by name that are these constants, and no arguments of the graph.
    pub values: &'a [(String, Tensor)],
    /// Where files with elements of tensors lie; without it there are none.
    pub folder: Option<&'a Path>,
}

/// Why a model cannot be read.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// Everything that is wrong or not supported, with the nodes' names.
    pub problems: Problems,
    /// The inputs whose values would have to be known for more of the model to be read.
    pub inputs: BTreeSet<String>,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.problems)?;
        if !self.inputs.is_empty() {
            let names: Vec<String> = self.inputs.iter().map(|name| format!("`{name}`")).collect();
            write!(f, "\n  = bind the value of {}", names.join(", "))?;
        }
        Ok(())
    }
}

/// The graph of the model in a file for these inputs; see [`parse_for`].
///
/// # Errors
/// If the file cannot be read, is not an ONNX model, or cannot be imported; all reasons at once.
pub fn load_for(path: &Path, extents: &[(String, usize)], inputs: &[(String, Tensor)]) -> Result<Graph, Error> {
    let model = Model::load(path)?;
    import_for(&model, extents, inputs, Some(folder(path))).map_err(|refusal| Error::file(path, refusal))
}

/// The program of the model in a file for these inputs; see [`program_for`].
///
/// # Errors
/// As [`load_for`].
pub fn load_program_for(
    entry: &str,
    path: &Path,
    extents: &[(String, usize)],
    inputs: &[(String, Tensor)],
) -> Result<Program, Error> {
    let model = Model::load(path)?;
    program_of(&model, entry, extents, inputs, Some(folder(path))).map_err(|refusal| Error::file(path, refusal))
}

/// The folder that a model's file lies in.
fn folder(path: &Path) -> &Path {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new("."))
}

/// A model as a program of one entry, for these inputs as [`parse_for`]; its weights, the initialisers of float types, are states.
///
/// # Errors
/// Everything that is wrong with it.
pub fn program_for(
    entry: &str,
    bytes: &[u8],
    extents: &[(String, usize)],
    inputs: &[(String, Tensor)],
    folder: Option<&Path>,
) -> Result<Program, Refusal> {
    program_of(&Model::decode(bytes, folder)?, entry, extents, inputs, folder)
}

fn program_of(
    model: &Model,
    entry: &str,
    extents: &[(String, usize)],
    inputs: &[(String, Tensor)],
    folder: Option<&Path>,
) -> Result<Program, Refusal> {
    let graph = import_for(model, extents, inputs, folder)?;
    Ok(weights::program(entry, graph, &model.initialiser_names()))
}

/// A model whose initialisers have been taken out of the file's form, so that their elements are in memory once, however often it is imported.
struct Model {
    proto: proto::ModelProto,
    /// Of the main graph, in order; or what is wrong with one.
    initialisers: Vec<Result<Arc<Tensor>, String>>,
}

impl Model {
    fn load(path: &Path) -> Result<Model, Error> {
        let file = Mapped::open(path).map_err(|reason| Error::file(path, reason))?;
        let file = Arc::new(file);
        // Raw elements stay in the file, which their tensors keep open.
        let bytes = Bytes::from_owner(tensors::Whole(Arc::clone(&file)));
        let model = Model::decode_in(bytes, Some(folder(path)), Some(&file));
        // What is read from here on has mappings of its own.
        file.leave(0..file.len());
        model.map_err(|refusal| Error::file(path, refusal))
    }

    fn decode(bytes: &[u8], folder: Option<&Path>) -> Result<Model, Refusal> {
        Model::decode_in(bytes, folder, None)
    }

    fn decode_in(bytes: impl Buf, folder: Option<&Path>, file: Option<&Mapped>) -> Result<Model, Refusal> {
        let decoded = proto::ModelProto::decode(bytes);
        let mut proto = decoded.map_err(|reason| refusal(format!("not an ONNX model: {reason}")))?;
        let tensors = proto.graph.iter_mut().flat_map(|graph| &mut graph.initializer);
        let initialisers = tensors
            .map(|proto| tensors::take(proto, folder, file).map(Arc::new))
            .collect();
        Ok(Model { proto, initialisers })
    }

    fn initialiser_names(&self) -> HashSet<&str> {
        let all = self.proto.graph.iter().flat_map(|graph| &graph.initializer);
        all.map(|proto| proto.name()).collect()
    }
}

/// The graph of a model for these inputs: open extents are theirs, and inputs whose values decide a shape are bound to them.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse_for(
    bytes: &[u8],
    extents: &[(String, usize)],
    inputs: &[(String, Tensor)],
    folder: Option<&Path>,
) -> Result<Graph, Refusal> {
    import_for(&Model::decode(bytes, folder)?, extents, inputs, folder)
}

fn import_for(
    model: &Model,
    extents: &[(String, usize)],
    inputs: &[(String, Tensor)],
    folder: Option<&Path>,
) -> Result<Graph, Refusal> {
    let mut extents = extents.to_vec();
    for (name, tensor) in inputs {
        let along = tensor.shape().iter().enumerate();
        extents.extend(along.map(|(axis, &extent)| (format!("{name}.{axis}"), extent)));
    }
    let mut values: Vec<(String, Tensor)> = Vec::new();
    loop {
        let binding = Binding {
            extents: &extents,
            values: &values,
            folder,
        };
        let refusal = match import::import(model, binding) {
            Ok(graph) => return Ok(graph),
            Err(refusal) => refusal,
        };
        let wanted = |name: &str| refusal.inputs.contains(name) && !values.iter().any(|(known, _)| known == name);
        let more: Vec<(String, Tensor)> = inputs.iter().filter(|(name, _)| wanted(name)).cloned().collect();
        if more.is_empty() {
            return Err(refusal);
        }
        values.extend(more);
    }
}

/// The graph of the model in these bytes.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse(bytes: &[u8], binding: Binding<'_>) -> Result<Graph, Refusal> {
    import::import(&Model::decode(bytes, binding.folder)?, binding)
}

/// The names of a model's inputs, initialisers left out, in order.
///
/// # Errors
/// If it is no model.
pub fn names(bytes: &[u8]) -> Result<Vec<String>, String> {
    let model = proto::ModelProto::decode(bytes).map_err(|reason| format!("not an ONNX model: {reason}"))?;
    let graph = model.graph.unwrap_or_default();
    let is_given = |name: &str| graph.initializer.iter().any(|proto| proto.name() == name);
    let names = graph.input.iter().map(|info| info.name().to_owned());
    Ok(names.filter(|name| !is_given(name)).collect())
}

/// The tensor in the bytes of a `.pb` file, as ONNX's tests have them.
///
/// # Errors
/// What is wrong with it.
pub fn parse_tensor(bytes: &[u8]) -> Result<(String, Tensor), String> {
    let proto = proto::TensorProto::decode(bytes).map_err(|reason| format!("not an ONNX tensor: {reason}"))?;
    let tensor = tensors::tensor(&proto, None)?;
    Ok((proto.name().to_owned(), tensor))
}

/// A refusal for one reason.
fn refusal(message: String) -> Refusal {
    Refusal {
        problems: Problem::new(message, netloom_ir::Loc::None).into(),
        inputs: BTreeSet::new(),
    }
}
