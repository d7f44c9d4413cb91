//! Sessions: an executable with states of its own.
//!
//! ```
//! use netloom::ir::{Builder, DType, Program, Tensor};
//! use netloom::{Cpu, Session, compile};
//! # fn main() -> Result<(), netloom::Error> {
//! let b = Builder::new();
//! let x = b.input("x", DType::F32, [4]);
//! let graph = b.finish([("y", x * x + 1.0)])?;
//! let executable = compile(&Program::pure("predict", graph), &Cpu::native())?;
//! let mut session = Session::new(executable.into(), 1, 0)?;
//! let results = session.call("predict", &[("x", &Tensor::from_f32([4], &[0.0, 1.0, 2.0, 3.0]))])?;
//! assert_eq!(results[0].1.to_f32(), [1.0, 2.0, 5.0, 10.0]);
//! # Ok(())
//! # }
//! ```

use std::borrow::Cow;
use std::cmp::Reverse;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use netloom_ir::prepare::PREPARE;
use netloom_ir::{DType, Scalar, Tensor, Type};

use crate::compile::{Code, Executable, INIT};
use crate::cores;
use crate::cpu::runner::{self, is_of_type};
use crate::error::Error;
#[cfg(feature = "vulkan")]
use crate::gpu;
use crate::memory;
use crate::plan::{Base, Plan, Port, StateSlot};
use crate::weights::{Weight, Weights};

/// An executable with memory, threads, and states of its own.
pub struct Session {
    executable: Arc<Executable>,
    runner: Runner,
    /// Whether a state has changed since the entry [`PREPARE`] was run.
    is_stale: bool,
    /// Whether the elements that states start with are not kept.
    is_once: bool,
}

/// The memory of a session and what runs there.
enum Runner {
    Cpu(Box<runner::Runner>),
    #[cfg(feature = "vulkan")]
    Vulkan(Box<gpu::runner::Runner>),
}

impl Runner {
    fn read_states(&self, offset: usize, bytes: usize) -> Result<Vec<u8>, Error> {
        match self {
            Runner::Cpu(runner) => Ok(runner.states()[offset..][..bytes].to_vec()),
            #[cfg(feature = "vulkan")]
            Runner::Vulkan(runner) => Ok(runner.read_states(offset, bytes)?),
        }
    }

    fn clear_states(&mut self, offset: usize, bytes: usize) -> Result<(), Error> {
        match self {
            Runner::Cpu(runner) => runner.states_mut()[offset..][..bytes].fill(0),
            #[cfg(feature = "vulkan")]
            Runner::Vulkan(runner) => runner.write_states(offset, &vec![0; bytes])?,
        }
        Ok(())
    }

    fn write_states(&mut self, offset: usize, bytes: &[u8]) -> Result<(), Error> {
        match self {
            Runner::Cpu(runner) => runner.states_mut()[offset..][..bytes.len()].copy_from_slice(bytes),
            #[cfg(feature = "vulkan")]
            Runner::Vulkan(runner) => runner.write_states(offset, bytes)?,
        }
        Ok(())
    }
}

impl Session {
    /// Memory for an executable; states start from `seed`. On a CPU it is run by `threads` workers.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn new(executable: Arc<Executable>, threads: usize, seed: u64) -> Result<Session, Error> {
        if let Some(slot) = executable.states.iter().find(|slot| slot.is_given) {
            return Err(not_given(&slot.name));
        }
        let mut session = Session::zeroed(executable, threads)?;
        session.begin(seed)?;
        Ok(session)
    }

    /// The same for a program that [`Weights::begin`] made: its states start from these weights. It cannot be reset, and weights that others are
    /// prepared from are not among its states: what has been used is freed, so that a large model is in memory once.
    ///
    /// # Errors
    /// If they are not the program's weights, or there is not enough memory.
    pub fn with_weights(
        executable: Arc<Executable>,
        threads: usize,
        seed: u64,
        weights: Weights,
    ) -> Result<Session, Error> {
        let mut session = Session::zeroed(executable, threads)?;
        session.is_once = true;
        session.run_init(seed)?;
        session.take(weights)?;
        Ok(session)
    }

    /// Sets the states that are given, and computes those that are prepared from what is an argument.
    fn take(&mut self, mut weights: Weights) -> Result<(), Error> {
        let executable = Arc::clone(&self.executable);
        let mut given = Vec::new();
        for slot in executable.states.iter().filter(|slot| slot.is_given) {
            let weight = weights.take(&slot.name).ok_or_else(|| not_given(&slot.name))?;
            if weight.ty() != slot.ty.dense() {
                return Err(misfit_state(slot, &weight.ty()));
            }
            given.push((slot, weight));
        }
        match &mut self.runner {
            Runner::Cpu(runner) => {
                write_all(given, runner.states_mut());
            }
            #[cfg(feature = "vulkan")]
            Runner::Vulkan(_) => {
                for (slot, weight) in given {
                    self.set_state(&slot.name, &weight.tensor())?;
                }
            }
        }
        let arguments = executable.plan(PREPARE).map_or(&[][..], |plan| &plan.inputs);
        if arguments.is_empty() {
            return Ok(());
        }
        let tensors = arguments.iter().map(|port| {
            let weight = weights.take(&port.name).ok_or_else(|| not_given(&port.name))?;
            Ok(weight.tensor())
        });
        let tensors = tensors.collect::<Result<Vec<_>, Error>>()?;
        let tensors: Vec<&Tensor> = tensors.iter().map(|tensor| &**tensor).collect();
        self.run_entry(PREPARE, &tensors, &mut [])?;
        self.is_stale = false;
        Ok(())
    }

    /// A session whose states are zero.
    pub(crate) fn zeroed(executable: Arc<Executable>, threads: usize) -> Result<Session, Error> {
        let runner = match &executable.code {
            Code::Cpu(code) => Runner::Cpu(Box::new(runner::Runner::new(Arc::clone(code), threads)?)),
            #[cfg(feature = "vulkan")]
            Code::Vulkan(code) => Runner::Vulkan(Box::new(gpu::runner::Runner::new(Arc::clone(code))?)),
        };
        Ok(Session {
            executable,
            runner,
            is_stale: true,
            is_once: false,
        })
    }

    /// A session of the same program compiled otherwise for the same device, with a copy of the states.
    pub(crate) fn copied(&self, executable: Arc<Executable>) -> Result<Session, Error> {
        assert_eq!(executable.states, self.executable.states, "states of one program");
        let mut copy = Session::zeroed(executable, self.threads())?;
        for slot in &self.executable.states {
            let bytes = self.runner.read_states(slot.offset, slot.ty.len_bytes())?;
            copy.runner.write_states(slot.offset, &bytes)?;
        }
        copy.is_stale = self.is_stale;
        Ok(copy)
    }

    /// Exchanges the states with those of another session on the CPU whose executable has them at the same places.
    pub(crate) fn exchange_states(&mut self, other: &mut Session) {
        assert_eq!(self.executable.states, other.executable.states, "places of states");
        match (&mut self.runner, &mut other.runner) {
            (Runner::Cpu(own), Runner::Cpu(other)) => own.exchange_states(other),
            #[cfg(feature = "vulkan")]
            _ => unreachable!("only sessions on the CPU take turns"),
        }
        std::mem::swap(&mut self.is_stale, &mut other.is_stale);
    }

    /// What is run.
    pub fn executable(&self) -> &Executable {
        &self.executable
    }

    /// The number of workers; 1 on a device.
    pub fn threads(&self) -> usize {
        match &self.runner {
            Runner::Cpu(runner) => runner.workers(),
            #[cfg(feature = "vulkan")]
            Runner::Vulkan(_) => 1,
        }
    }

    /// Bytes of arena that the runs share.
    pub fn arena_bytes(&self) -> usize {
        match &self.runner {
            Runner::Cpu(runner) => runner.arena_bytes(),
            #[cfg(feature = "vulkan")]
            Runner::Vulkan(runner) => runner.arena_bytes(),
        }
    }

    /// Gives every state its first value.
    ///
    /// # Errors
    /// If the device is lost, or the session was made by [`Session::with_weights`].
    pub fn reset(&mut self, seed: u64) -> Result<(), Error> {
        if self.is_once {
            return Err(Error::Usage(
                "a session that has used up its weights has no first values to go back to".to_owned(),
            ));
        }
        for slot in &self.executable.states {
            self.runner.clear_states(slot.offset, slot.ty.len_bytes())?;
        }
        self.begin(seed)
    }

    /// Gives states that are zero their first values.
    fn begin(&mut self, seed: u64) -> Result<(), Error> {
        self.is_stale = true;
        self.run_init(seed)?;
        let executable = Arc::clone(&self.executable);
        let mut given = executable.given.iter();
        given.try_for_each(|(name, tensor)| self.set_state(name, tensor))
    }

    /// Gives the states that start from a graph their first values.
    fn run_init(&mut self, seed: u64) -> Result<(), Error> {
        if let Some(plan) = self.executable.plan(INIT) {
            let seed = Tensor::scalar(DType::U64, Scalar::Int(i128::from(seed)));
            let inputs: Vec<&Tensor> = plan.inputs.iter().map(|_| &seed).collect();
            self.run_entry(INIT, &inputs, &mut [])?;
        }
        Ok(())
    }

    /// Computes the states that depend on others alone, if one of those has changed: [`Session::run`] does so where it must.
    ///
    /// # Errors
    /// None that a valid executable can cause.
    pub fn prepare(&mut self) -> Result<(), Error> {
        if self.is_stale && self.executable.plan(PREPARE).is_some() {
            let is_whole = self.executable.plan(PREPARE).is_some_and(|plan| plan.inputs.is_empty());
            if !is_whole {
                return Err(Error::Usage(
                    "a state has changed that others are prepared from, and the weights beside it are used up"
                        .to_owned(),
                ));
            }
            self.run_entry(PREPARE, &[], &mut [])?;
        }
        self.is_stale = false;
        Ok(())
    }

    /// Runs an entry: arguments and results in the order of its plan's ports. Allocates nothing.
    ///
    /// # Errors
    /// If there is no such entry, or the tensors' number or types are not the ports'.
    pub fn run(&mut self, entry: &str, inputs: &[&Tensor], outputs: &mut [Tensor]) -> Result<(), Error> {
        self.prepare()?;
        self.run_entry(entry, inputs, outputs)
    }

    /// How long the driver of a Vulkan device has taken to submit and to wait, in all runs so far; what else they took was the host's own.
    /// `None` on a CPU.
    pub fn driver_time(&self) -> Option<Duration> {
        match &self.runner {
            Runner::Cpu(_) => None,
            #[cfg(feature = "vulkan")]
            Runner::Vulkan(runner) => Some(runner.driver_time()),
        }
    }

    /// What runs it on a Vulkan device, if it is one.
    #[cfg(feature = "vulkan")]
    pub(crate) fn on_vulkan(&mut self) -> Option<&mut gpu::runner::Runner> {
        match &mut self.runner {
            Runner::Cpu(_) => None,
            Runner::Vulkan(runner) => Some(runner),
        }
    }

    fn run_entry(&mut self, entry: &str, inputs: &[&Tensor], outputs: &mut [Tensor]) -> Result<(), Error> {
        let Some(number) = self.executable.plans().iter().position(|plan| plan.name == entry) else {
            return Err(self.unknown_entry(entry));
        };
        let plan = &self.executable.plans()[number];
        let inputs_fit = inputs.len() == plan.inputs.len()
            && inputs.iter().zip(&plan.inputs).all(|(x, port)| is_of_type(x, &port.ty));
        let outputs_fit = outputs.len() == plan.outputs.len()
            && outputs
                .iter()
                .zip(&plan.outputs)
                .all(|(y, port)| is_of_type(y, &port.ty));
        if !inputs_fit {
            let found: Vec<&Tensor> = inputs.to_vec();
            return Err(misfit(entry, "arguments", &plan.inputs, &found));
        }
        if !outputs_fit {
            let found: Vec<&Tensor> = outputs.iter().collect();
            return Err(misfit(entry, "results", &plan.outputs, &found));
        }
        match &mut self.runner {
            Runner::Cpu(runner) => runner.run(number, inputs, outputs),
            #[cfg(feature = "vulkan")]
            Runner::Vulkan(runner) => runner.run(number, inputs, outputs)?,
        }
        Ok(())
    }

    /// Runs an entry with arguments by name, and gives its results with their names.
    ///
    /// # Errors
    /// If there is no such entry, or an argument is missing, unknown or of another type.
    pub fn call(&mut self, entry: &str, arguments: &[(&str, &Tensor)]) -> Result<Vec<(String, Tensor)>, Error> {
        let plan = self.executable.plan(entry).ok_or_else(|| self.unknown_entry(entry))?;
        if let Some((name, _)) = arguments
            .iter()
            .find(|(name, _)| !plan.inputs.iter().any(|port| port.name == *name))
        {
            return Err(Error::Usage(format!(
                "`{entry}` has no argument `{name}`; it takes {}",
                ports_text(&plan.inputs)
            )));
        }
        let inputs = plan
            .inputs
            .iter()
            .map(|port| {
                let given = arguments.iter().find(|(name, _)| *name == port.name);
                given
                    .map(|(_, tensor)| *tensor)
                    .ok_or_else(|| Error::Usage(format!("`{entry}` needs an argument `{}`: {}", port.name, port.ty)))
            })
            .collect::<Result<Vec<&Tensor>, Error>>()?;
        let mut outputs = new_results(plan)?;
        let names: Vec<String> = plan.outputs.iter().map(|port| port.name.clone()).collect();
        self.run(entry, &inputs, &mut outputs)?;
        Ok(names.into_iter().zip(outputs).collect())
    }

    /// Tensors for the results of an entry, to be passed to [`Session::run`].
    ///
    /// # Errors
    /// If there is no such entry, or not enough memory.
    pub fn results(&self, entry: &str) -> Result<Vec<Tensor>, Error> {
        let plan = self.executable.plan(entry);
        new_results(plan.ok_or_else(|| self.unknown_entry(entry))?)
    }

    /// The present value of a state.
    ///
    /// # Errors
    /// If there is no such state.
    pub fn state(&self, name: &str) -> Result<Tensor, Error> {
        let slot = self.slot(name)?;
        let bytes = self.runner.read_states(slot.offset, slot.ty.len_bytes())?;
        Ok(slot.ty.restored(bytes))
    }

    /// Replaces the value of a state.
    ///
    /// # Errors
    /// If there is no such state, or it has another type.
    pub fn set_state(&mut self, name: &str, value: &Tensor) -> Result<(), Error> {
        let slot = self.slot(name)?;
        if !is_of_type(value, &slot.ty.dense()) {
            return Err(misfit_state(slot, &value.ty()));
        }
        let bytes = slot.ty.arranged(value);
        self.write(name, bytes)
    }

    /// Replaces the first bytes of a state.
    fn write(&mut self, name: &str, bytes: Cow<'_, [u8]>) -> Result<(), Error> {
        let offset = self.slot(name)?.offset;
        let prepare = self.executable.plan(PREPARE);
        let is_prepared_from = prepare.is_some_and(|plan| plan.touches(Base::States, offset..offset + bytes.len()));
        self.runner.write_states(offset, &bytes)?;
        self.is_stale |= is_prepared_from;
        Ok(())
    }

    /// Replaces the first slices of a state along its outermost axis: examples that a program gathers its batches from.
    ///
    /// # Errors
    /// If there is no such state, it has slices of another type or fewer of them, or they do not lie one after the other.
    pub fn set_rows(&mut self, name: &str, rows: &Tensor) -> Result<(), Error> {
        let slot = self.slot(name)?;
        let has = |shape: &[usize]| shape.first().copied().unwrap_or(0);
        let fits = rows.dtype() == slot.ty.dtype
            && rows.shape().get(1..) == slot.ty.shape.get(1..)
            && has(rows.shape()) <= has(&slot.ty.shape);
        if !fits || slot.ty != slot.ty.dense() {
            return Err(Error::Usage(format!(
                "state `{name}` is {}, which does not begin with {}",
                slot.ty,
                rows.ty()
            )));
        }
        self.write(name, Cow::Borrowed(rows.bytes()))
    }

    /// Every state that is neither computed from others nor examples, with its name, in the program's order.
    pub fn states(&self) -> Vec<(String, Tensor)> {
        let slots = self.executable.states.iter().filter(|slot| slot.is_saved);
        let names: Vec<String> = slots.map(|slot| slot.name.clone()).collect();
        names
            .into_iter()
            .map(|name| {
                let value = self.state(&name).expect("the name of a state");
                (name, value)
            })
            .collect()
    }

    fn slot(&self, name: &str) -> Result<&StateSlot, Error> {
        self.executable
            .states
            .iter()
            .find(|slot| slot.name == name)
            .ok_or_else(|| {
                let names: Vec<String> = self
                    .executable
                    .states
                    .iter()
                    .map(|slot| format!("`{}`", slot.name))
                    .collect();
                Error::Unknown(format!(
                    "there is no state `{name}`; the states are {}",
                    names.join(", ")
                ))
            })
    }

    fn unknown_entry(&self, entry: &str) -> Error {
        let names: Vec<String> = self
            .executable
            .plans()
            .iter()
            .map(|plan| format!("`{}`", plan.name))
            .collect();
        Error::Unknown(format!(
            "there is no entry `{entry}`; the entries are {}",
            names.join(", ")
        ))
    }
}

/// Writes each weight to its place in the block of states; all cores share them, as they share what was compiled before.
fn write_all(given: Vec<(&StateSlot, Weight)>, states: &mut [u8]) {
    let mut given = given;
    given.sort_by_key(|(slot, _)| slot.offset);
    let (mut places, mut rest, mut start) = (Vec::new(), states, 0);
    for (slot, weight) in given {
        let (_, after) = rest.split_at_mut(slot.offset - start);
        let (place, after) = after.split_at_mut(slot.ty.len_bytes());
        (rest, start) = (after, slot.offset + slot.ty.len_bytes());
        places.push((slot, weight, place));
    }
    // As they lie in their file: what has been read of it is left behind, and neighbours would fetch it again.
    places.sort_by_key(|(_, weight, _)| Reverse(weight.address()));
    let places = Mutex::new(places);
    let write = || {
        while let Some((slot, weight, place)) = next(&places) {
            weight.write(&slot.ty, place);
        }
    };
    std::thread::scope(|scope| {
        (1..cores::count()).for_each(|_| drop(scope.spawn(write)));
        write();
    });
}

fn next<T>(of: &Mutex<Vec<T>>) -> Option<T> {
    of.lock().unwrap_or_else(PoisonError::into_inner).pop()
}

fn not_given(name: &str) -> Error {
    Error::Usage(format!(
        "the elements of `{name}` are to be given: make the session by `Session::with_weights`"
    ))
}

fn misfit_state(slot: &StateSlot, found: &Type) -> Error {
    Error::Usage(format!("state `{}` is {}, found {found}", slot.name, slot.ty.dense()))
}

fn new_results(plan: &Plan) -> Result<Vec<Tensor>, Error> {
    memory::check(plan.outputs.iter().map(|port| port.ty.len_bytes()).sum())?;
    let results = plan.outputs.iter();
    Ok(results
        .map(|port| Tensor::zeros(port.ty.dtype, port.ty.shape.clone()))
        .collect())
}

fn ports_text(ports: &[Port]) -> String {
    let texts: Vec<String> = ports
        .iter()
        .map(|port| format!("`{}`: {}", port.name, port.ty))
        .collect();
    if texts.is_empty() {
        "none".to_owned()
    } else {
        texts.join(", ")
    }
}

fn misfit(entry: &str, what: &str, ports: &[Port], found: &[&Tensor]) -> Error {
    let found: Vec<String> = found.iter().map(|tensor| tensor.ty().to_string()).collect();
    Error::Usage(format!(
        "`{entry}`: {what} are {}, found {}",
        ports_text(ports),
        found.join(", ")
    ))
}
