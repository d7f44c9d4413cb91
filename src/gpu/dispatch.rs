//! Eager execution on a device: the host goes through the steps, gives each result a buffer of its own, and submits one kernel at a time,
//! without waiting for it.

use std::sync::Arc;

use netloom_ir::Tensor;

use super::Error;
use super::code::{Pipeline, kernels};
use super::commands::{Apart, Lister, Ports};
use super::device::{Device, Home};
use super::modules::{ALIGN, Kernel};
use super::record::{Areas, FLAG_BYTES, Recorded, record};
use super::submit::{Submitter, filled, give, take};
use crate::buffers::Buffers;
use crate::plan::{Base, Kernels, Outline, Step};

/// Kernels, each compiled once, and the memory to run them on.
pub struct Dispatcher {
    device: Arc<Device>,
    pipelines: Vec<Pipeline>,
    kernels: Vec<Kernel>,
    areas: Areas,
    submitter: Submitter,
}

impl Dispatcher {
    /// Compiles the kernels of some outlines.
    ///
    /// # Errors
    /// If the device lacks something or refuses, or there is not enough memory.
    pub fn new(
        made: &Kernels,
        outlines: &[Outline],
        constants: &[u8],
        states: &[u8],
        device: &Arc<Device>,
    ) -> Result<Dispatcher, Error> {
        let (pipelines, kernels) = kernels(device, made.nests())?;
        let scratch_bytes = kernels.iter().map(|kernel| kernel.scratch_bytes).max().unwrap_or(0);
        let ports = outlines
            .iter()
            .map(|outline| Ports::of(&outline.inputs, &outline.outputs).bytes);
        let port_bytes = ports.max().unwrap_or(0);
        let temps = outlines.iter().map(|outline| outline.temps.len()).max().unwrap_or(0);
        Ok(Dispatcher {
            areas: Areas {
                states: filled(device, states)?,
                constants: filled(device, constants)?,
                arena: device.block(0, Home::Device)?,
                scratch: device.block(scratch_bytes, Home::Device)?,
                ports: device.block(port_bytes, Home::Device)?,
                staging: device.block(port_bytes.next_multiple_of(ALIGN) + FLAG_BYTES, Home::Host)?,
                temps: Buffers::new(temps),
            },
            pipelines,
            kernels,
            submitter: Submitter::new(device)?,
            device: Arc::clone(device),
        })
    }

    /// The most bytes of results alive at once, so far.
    pub fn peak_bytes(&self) -> usize {
        self.areas.temps.peak_bytes()
    }

    /// Buffers allocated so far.
    pub fn allocations(&self) -> usize {
        self.areas.temps.allocations()
    }

    /// Runs the steps of an outline.
    ///
    /// # Errors
    /// If there is not enough memory, or the device is lost.
    pub fn run(&mut self, outline: &Outline, inputs: &[&Tensor], outputs: &mut [Tensor]) -> Result<(), Error> {
        let ports = Ports::of(&outline.inputs, &outline.outputs);
        give(&self.areas.staging, &ports, inputs)?;
        let mut pending = Vec::new();
        let done = self.submit(outline, &ports, &mut pending);
        // Nothing that is still running may be dropped, whatever has happened.
        let settled = self.submitter.settle();
        self.areas.temps.give_back_all();
        done.and(settled)?;
        take(&self.areas.staging, &ports, outputs)
    }

    /// Submits everything; what must be kept until it has run goes to `pending`.
    fn submit(&mut self, outline: &Outline, ports: &Ports, pending: &mut Vec<Recorded>) -> Result<(), Error> {
        self.enqueue(ports, pending, |lister| lister.arguments())?;
        for (number, step) in outline.steps.iter().enumerate() {
            self.allot(step, outline)?;
            self.enqueue(ports, pending, |lister| lister.steps(std::slice::from_ref(step)))?;
            for temp in &outline.freed_after[number] {
                self.areas.temps.give_back(*temp);
            }
        }
        self.enqueue(ports, pending, |lister| lister.results())
    }

    /// Records something and submits it.
    fn enqueue(
        &mut self,
        ports: &Ports,
        pending: &mut Vec<Recorded>,
        list: impl FnOnce(&mut Lister<'_>),
    ) -> Result<(), Error> {
        let mut lister = Lister::new(&self.kernels, &self.device.traits, ports, Apart::Lists);
        list(&mut lister);
        let segments = lister.finish().segments;
        pending.push(record(&self.device, &self.pipelines, &self.areas, None, &segments)?);
        let segments = &pending.last().expect("it has just been put there").segments;
        self.submitter.enqueue(segments, &self.areas.staging)
    }

    /// Gives every result that a step touches a buffer.
    fn allot(&mut self, step: &Step, outline: &Outline) -> Result<(), Error> {
        let mut touched = Vec::new();
        step.places(&mut |place| {
            if let Base::Temp(temp) = place.base {
                touched.push(temp.0);
            }
        });
        for temp in touched {
            let bytes = outline.temps[temp].next_multiple_of(ALIGN as usize);
            let make = || self.device.block(bytes as u64, Home::Device);
            self.areas.temps.take(temp, bytes, make)?;
        }
        Ok(())
    }
}
