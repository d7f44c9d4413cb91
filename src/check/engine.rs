//! What is checked: engines, each of which runs pieces in its own way.

use std::sync::Arc;

use netloom_ir::kernel::{Nest, Role, interp};
use netloom_ir::{DType, Program, Target, Tensor};

use crate::compile::{Lowered, assemble, compile};
use crate::device::{Device, Floats};
use crate::error::Error;
use crate::plan::Step;
use crate::session::Session;

/// Something that runs pieces: entries without states.
pub trait Engine {
    /// Its name in reports.
    fn name(&self) -> String;

    /// What its schedules are made for.
    fn target(&self) -> Target;

    /// What it promises of floats of a type.
    fn floats(&self, dtype: DType) -> Floats;

    /// Takes the pieces of an entry.
    ///
    /// # Errors
    /// If it cannot run them.
    fn load(&mut self, pieces: &Lowered) -> Result<(), Error>;

    /// The results of a piece; `None` if this engine does not run such a one.
    ///
    /// # Errors
    /// If a device is lost.
    fn run(&mut self, piece: usize, inputs: &[Tensor]) -> Result<Option<Vec<Tensor>>, Error>;

    /// The outputs of a whole entry and the new values of states, by name; `None` if it knows pieces alone.
    ///
    /// # Errors
    /// If it cannot run the program.
    fn run_whole(
        &mut self,
        program: &Program,
        entry: &str,
        inputs: &[(String, Tensor)],
    ) -> Result<Option<Vec<(String, Tensor)>>, Error>;
}

/// Nests as [`interp`] runs them, scheduled for a device; what is no single kernel (scan, if, while) it leaves out.
pub struct Interpreter {
    target: Target,
    nests: Vec<Option<Nest>>,
}

impl Interpreter {
    /// For nests made for a target.
    pub fn of(target: Target) -> Interpreter {
        Interpreter {
            target,
            nests: Vec::new(),
        }
    }
}

impl Engine for Interpreter {
    fn name(&self) -> String {
        "interpreter".to_owned()
    }

    fn target(&self) -> Target {
        self.target.clone()
    }

    fn floats(&self, _dtype: DType) -> Floats {
        Floats::IEEE
    }

    fn load(&mut self, pieces: &Lowered) -> Result<(), Error> {
        let nest = |steps: &[Step]| match steps {
            [Step::Kernel { kernel, .. }] => Some(pieces.kernels.nest(*kernel).clone()),
            _ => None,
        };
        self.nests = pieces.plans.iter().map(|plan| nest(&plan.steps)).collect();
        Ok(())
    }

    fn run(&mut self, piece: usize, inputs: &[Tensor]) -> Result<Option<Vec<Tensor>>, Error> {
        Ok(self.nests[piece].as_ref().map(|nest| interpreted(nest, inputs, 2)))
    }

    fn run_whole(
        &mut self,
        _program: &Program,
        _entry: &str,
        _inputs: &[(String, Tensor)],
    ) -> Result<Option<Vec<(String, Tensor)>>, Error> {
        Ok(None)
    }
}

/// What a nest makes of tensors whose elements lie as it expects them.
pub fn interpreted(nest: &Nest, inputs: &[Tensor], workers: usize) -> Vec<Tensor> {
    let buffers = nest.buffers.iter().filter(|buffer| buffer.role == Role::Input);
    let inputs: Vec<Tensor> = (buffers.zip(inputs))
        .map(|(buffer, x)| x.clone().reshaped(buffer.ty.shape.clone()))
        .collect();
    interp::run(nest, &inputs, workers)
}

/// Code on a device.
pub struct Compiled {
    device: Device,
    threads: usize,
    session: Option<Session>,
}

impl Compiled {
    /// For a device, with so many workers if it is a CPU.
    pub fn on(device: impl Into<Device>, threads: usize) -> Compiled {
        Compiled {
            device: device.into(),
            threads,
            session: None,
        }
    }
}

impl Engine for Compiled {
    fn name(&self) -> String {
        self.device.name()
    }

    fn target(&self) -> Target {
        self.device.target()
    }

    fn floats(&self, dtype: DType) -> Floats {
        self.device.floats(dtype)
    }

    fn load(&mut self, pieces: &Lowered) -> Result<(), Error> {
        let executable = assemble(&self.device, pieces.clone())?;
        self.session = Some(Session::new(Arc::new(executable), self.threads, 0)?);
        Ok(())
    }

    fn run(&mut self, piece: usize, inputs: &[Tensor]) -> Result<Option<Vec<Tensor>>, Error> {
        let session = self.session.as_mut().expect("pieces are loaded before they are run");
        let entry = session.executable().plans()[piece].name.clone();
        let mut results = session.results(&entry)?;
        session.run(&entry, &inputs.iter().collect::<Vec<_>>(), &mut results)?;
        Ok(Some(results))
    }

    fn run_whole(
        &mut self,
        program: &Program,
        entry: &str,
        inputs: &[(String, Tensor)],
    ) -> Result<Option<Vec<(String, Tensor)>>, Error> {
        let executable = Arc::new(compile(program, &self.device)?);
        let mut session = Session::new(Arc::clone(&executable), self.threads, 0)?;
        let ports = executable.plan(entry).map_or(&[][..], |plan| &plan.inputs);
        let given = ports
            .iter()
            .filter_map(|port| inputs.iter().find(|(name, _)| *name == port.name));
        let given: Vec<(&str, &Tensor)> = given.map(|(name, x)| (name.as_str(), x)).collect();
        let mut results = session.call(entry, &given)?;
        for slot in &executable.states {
            results.push((slot.name.clone(), session.state(&slot.name)?));
        }
        Ok(Some(results))
    }
}
