//! Artefacts in this process: what a C program does with one, for `netloom run` and tests.

use std::fs::File;
use std::path::Path;
use std::str::FromStr;

use netloom_ir::{DType, Scalar, Tensor, Type};
use target_lexicon::Triple;

use super::Emit;
use super::link::{self, Scratch};
use super::manifest::{Manifest, PortRow};
use crate::compile::INIT;
use crate::cpu::library::{Caller, Library};
use crate::cpu::memory::Block;
use crate::error::Error;
use crate::plan::Port;

/// An artefact with memory of its own.
pub struct Running {
    /// What there is.
    pub manifest: Manifest,
    caller: Caller,
}

impl Running {
    /// Opens an artefact's folder, run by so many workers; states are read from its file, or made from `seed`.
    ///
    /// An object or a static library is linked by the C compiler first.
    ///
    /// # Errors
    /// If the folder has no artefact for this system, or it cannot be linked or read.
    pub fn open(folder: &Path, workers: usize, seed: u64) -> Result<Running, Error> {
        let manifest = Manifest::load(folder)?;
        let path = folder.join(&manifest.library);
        let library = match manifest.emit {
            Emit::Sharedlib => Library::open(&path)?,
            form @ (Emit::Obj | Emit::Staticlib) => {
                let triple = Triple::from_str(&manifest.target).map_err(|reason| Error::file(&path, reason))?;
                let code = std::fs::read(&path).map_err(|reason| Error::file(&path, reason))?;
                let linked = link::shared(&code, form, "code.so", &triple, None)?;
                // Once open, the file may go.
                let scratch = Scratch::new()?;
                let file = scratch.0.join("code.so");
                std::fs::write(&file, linked).map_err(|reason| Error::file(&file, reason))?;
                Library::open(&file)?
            }
        };
        let variants = manifest.entries.iter().flat_map(|entry| &entry.variants);
        let arena = variants.map(|variant| variant.arena.shared_bytes + variant.arena.worker_bytes * workers.max(1));
        let state_bytes = if manifest.takes_states() {
            manifest.state_bytes
        } else {
            0
        };
        let states = match &manifest.states_file {
            // In place: a first result needs no copy of the weights.
            Some(file) => {
                let path = folder.join(file);
                let states = File::open(&path).and_then(|file| Block::of_file(&file, state_bytes));
                states.map_err(|reason| Error::file(&path, reason))?
            }
            None => Block::zeroed(state_bytes)?,
        };
        let caller = Caller::new(library, states, arena.max().unwrap_or(0), workers)?;
        let mut running = Running { manifest, caller };
        if running.manifest.states_file.is_none()
            && let Some(init) = running.manifest.entry(INIT).cloned()
        {
            let seed = Tensor::scalar(DType::U64, Scalar::Int(i128::from(seed)));
            let inputs = vec![&seed; init.variants[0].inputs.len()];
            running.caller.call(&init.symbol, 0, &inputs, &mut [])?;
        }
        Ok(running)
    }

    /// The block of states.
    pub fn states(&self) -> &[u8] {
        self.caller.states.bytes()
    }

    /// Runs an entry with arguments by name, for the size of batch that they have, and gives its results with their names. A single
    /// array goes to the single argument.
    ///
    /// # Errors
    /// If there is no such entry, an argument is missing, unknown or of another type, or the code does not run on this CPU.
    pub fn call(&mut self, entry: &str, arguments: &[(String, Tensor)]) -> Result<Vec<(String, Tensor)>, Error> {
        let Some(found) = self.manifest.entry(entry).cloned() else {
            let names: Vec<&str> = self.manifest.entries.iter().map(|entry| entry.name.as_str()).collect();
            return Err(Error::Unknown(format!(
                "there is no entry `{entry}`; the artefact has {}",
                names.join(", ")
            )));
        };
        let takes = found.variants.iter().map(|variant| ports(&variant.inputs));
        let (number, inputs) = fitting(entry, &takes.collect::<Result<Vec<_>, Error>>()?, arguments)?;
        let variant = &found.variants[number];
        let gives = ports(&variant.outputs)?;
        let mut outputs: Vec<Tensor> = gives.iter().map(|port| zeros(&port.ty)).collect();
        self.caller
            .call(&found.symbol, variant.batch.unwrap_or(0), &inputs, &mut outputs)?;
        Ok(gives.into_iter().map(|port| port.name).zip(outputs).collect())
    }
}

/// A result before it is computed.
pub(super) fn zeros(ty: &Type) -> Tensor {
    Tensor::zeros(ty.dtype, ty.shape.clone())
}

/// Which of several lists of arguments, one for each size of batch, these are, in its order. A single array is the single argument.
///
/// # Errors
/// If they are none of them.
pub(super) fn fitting<'a>(
    entry: &str,
    takes: &[Vec<Port>],
    arguments: &'a [(String, Tensor)],
) -> Result<(usize, Vec<&'a Tensor>), Error> {
    for (number, ports) in takes.iter().enumerate() {
        let given = |port: &Port| {
            let only = ports.len() == 1 && arguments.len() == 1;
            let mut known = arguments.iter();
            let (_, tensor) = known.find(|(name, _)| only || *name == port.name)?;
            (tensor.ty() == port.ty).then_some(tensor)
        };
        let inputs: Option<Vec<&Tensor>> = ports.iter().map(given).collect();
        if let Some(inputs) = inputs.filter(|inputs| inputs.len() == arguments.len()) {
            return Ok((number, inputs));
        }
    }
    let listed = |ports: &Vec<Port>| -> String {
        let ports: Vec<String> = ports
            .iter()
            .map(|port| format!("`{}`: {}", port.name, port.ty))
            .collect();
        ports.join(", ")
    };
    let takes: Vec<String> = takes.iter().map(listed).collect();
    let found: Vec<String> = (arguments.iter())
        .map(|(name, tensor)| format!("`{name}`: {}", tensor.ty()))
        .collect();
    Err(Error::Usage(format!(
        "`{entry}` takes {}; found {}",
        takes.join(", or "),
        found.join(", ")
    )))
}

fn ports(rows: &[PortRow]) -> Result<Vec<Port>, Error> {
    let port = |row: &PortRow| {
        Ok(Port {
            name: row.name.clone(),
            ty: ty(row)?,
        })
    };
    rows.iter().map(port).collect()
}

fn ty(port: &PortRow) -> Result<Type, Error> {
    let dtype = DType::from_name(&port.dtype)
        .ok_or_else(|| Error::Usage(format!("the manifest names the unknown type `{}`", port.dtype)))?;
    Ok(Type::new(dtype, port.shape.clone()))
}
