//! Artefacts in this process: what a C program does with one, for `netloom run` and tests.

use std::fs::File;
use std::path::Path;
use std::str::FromStr;

use netloom_ir::{DType, Scalar, Tensor, Type};
use target_lexicon::Triple;

use super::Emit;
use super::link::{self, Scratch};
use super::manifest::{EntryRow, Manifest, PortRow, VariantRow};
use crate::compile::INIT;
use crate::cpu::library::{Caller, Library};
use crate::cpu::memory::Block;
use crate::error::Error;

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
        let (variant, inputs) = fitting(&found, arguments)?;
        let mut outputs: Vec<Tensor> = (variant.outputs.iter())
            .map(|port| ty(port).map(|ty| Tensor::zeros(ty.dtype, ty.shape)))
            .collect::<Result<_, Error>>()?;
        self.caller
            .call(&found.symbol, variant.batch.unwrap_or(0), &inputs, &mut outputs)?;
        Ok(variant
            .outputs
            .iter()
            .map(|port| port.name.clone())
            .zip(outputs)
            .collect())
    }
}

/// The variant of an entry that the arguments fit, with them in order.
fn fitting<'a, 'b>(
    entry: &'a EntryRow,
    arguments: &'b [(String, Tensor)],
) -> Result<(&'a VariantRow, Vec<&'b Tensor>), Error> {
    for variant in &entry.variants {
        let mut inputs = Vec::new();
        for port in &variant.inputs {
            let only = variant.inputs.len() == 1 && arguments.len() == 1;
            let given = arguments.iter().find(|(name, _)| only || *name == port.name);
            if let Some((_, tensor)) = given
                && tensor.ty() == ty(port)?
            {
                inputs.push(tensor);
            }
        }
        if inputs.len() == variant.inputs.len() && arguments.len() == inputs.len() {
            return Ok((variant, inputs));
        }
    }
    let found: Vec<String> = (arguments.iter())
        .map(|(name, tensor)| format!("`{name}`: {}", tensor.ty()))
        .collect();
    let takes = entry.variants.iter().map(|variant| {
        let ports = variant
            .inputs
            .iter()
            .map(|port| Ok(format!("`{}`: {}", port.name, ty(port)?)));
        Ok(ports.collect::<Result<Vec<_>, Error>>()?.join(", "))
    });
    Err(Error::Usage(format!(
        "`{}` takes {}; found {}",
        entry.name,
        takes.collect::<Result<Vec<_>, Error>>()?.join(", or "),
        found.join(", ")
    )))
}

fn ty(port: &PortRow) -> Result<Type, Error> {
    let dtype = DType::from_name(&port.dtype)
        .ok_or_else(|| Error::Usage(format!("the manifest names the unknown type `{}`", port.dtype)))?;
    Ok(Type::new(dtype, port.shape.clone()))
}
