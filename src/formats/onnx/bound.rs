//! A model with open extents, compiled for each binding that it is run with.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{folder, program_of};
use crate::compile::{Executable, compile};
use crate::device::Device;
use crate::error::Error;

/// Extents by name, sorted.
type Extents = Vec<(String, usize)>;

/// A model whose extents are bound when it is run. One executable is kept for each binding, the most recently used ones, as many as asked for.
///
/// ```no_run
/// use netloom::formats::onnx::bound::Model;
/// use netloom::{Cpu, Session};
/// # fn main() -> Result<(), netloom::Error> {
/// let mut model = Model::open("model.onnx".as_ref(), "predict", Cpu::native().into(), 4)?;
/// let executable = model.executable(&[("batch".to_owned(), 8)])?;
/// let session = Session::new(executable, 1, 0)?;
/// # Ok(())
/// # }
/// ```
pub struct Model {
    path: PathBuf,
    model: super::Model,
    entry: String,
    device: Device,
    most: usize,
    /// By binding, the most recently used last.
    kept: Vec<(Extents, Arc<Executable>)>,
}

impl Model {
    /// The model in a file, to be run as an entry of that name on a device; at least one executable is kept.
    ///
    /// # Errors
    /// If the file cannot be read or is no model.
    pub fn open(path: &Path, entry: &str, device: Device, most: usize) -> Result<Model, Error> {
        Ok(Model {
            path: path.to_owned(),
            model: super::Model::load(path)?,
            entry: entry.to_owned(),
            device,
            most: most.max(1),
            kept: Vec::new(),
        })
    }

    /// The model for these extents: compiled, unless that binding is kept.
    ///
    /// # Errors
    /// Everything that is wrong with the model for these extents, or that the device cannot run it.
    pub fn executable(&mut self, extents: &[(String, usize)]) -> Result<Arc<Executable>, Error> {
        let mut binding = extents.to_vec();
        binding.sort();
        binding.dedup();
        if let Some(place) = self.kept.iter().position(|(known, _)| *known == binding) {
            let found = self.kept.remove(place);
            let executable = Arc::clone(&found.1);
            self.kept.push(found);
            return Ok(executable);
        }
        let program = program_of(&self.model, &self.entry, &binding, &[], Some(folder(&self.path)))
            .map_err(|refusal| Error::file(&self.path, refusal))?;
        let executable = Arc::new(compile(&program.prepared_for(&self.device.target()), &self.device)?);
        if self.kept.len() == self.most {
            self.kept.remove(0);
        }
        self.kept.push((binding, Arc::clone(&executable)));
        Ok(executable)
    }
}
