//! Eager execution on a device: the host goes through the steps, gives each result a buffer of its own, and submits one kernel at a time,
//! without waiting for it.

use std::ops::Range;
use std::sync::Arc;

use netloom_ir::Tensor;
use netloom_ir::kernel::Role;

use super::Error;
use super::code::{ALIGN, Kernel, kernels};
use super::device::{Device, Home};
use super::record::{Areas, FLAG_BYTES, Ports, Recorded, Recorder};
use super::submit::{Submitter, download, filled, give, take};
use crate::buffers::Buffers;
use crate::plan::{Base, Kernels, Outline, Step};

/// Called after each step with its number and the bytes of the results it wrote; ends the run by giving `false`.
pub type Observe<'a> = dyn FnMut(usize, &[&[u8]]) -> bool + 'a;

/// Kernels, each compiled once, and the memory to run them on.
pub struct Dispatcher {
    device: Arc<Device>,
    kernels: Vec<Kernel>,
    /// Which of a kernel's buffers are results.
    results: Vec<Range<usize>>,
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
        let kernels = kernels(device, made.nests())?;
        let results = made.nests().iter().map(|nest| {
            let count = |role| nest.buffers.iter().filter(|buffer| buffer.role == role).count();
            let inputs = count(Role::Input);
            inputs..inputs + count(Role::Output)
        });
        let scratch_bytes = kernels.iter().map(|kernel| kernel.scratch_bytes).max().unwrap_or(0);
        let ports = outlines
            .iter()
            .map(|outline| Ports::of(&outline.inputs, &outline.outputs).bytes);
        let port_bytes = ports.max().unwrap_or(0);
        let temps = outlines.iter().map(|outline| outline.temps.len()).max().unwrap_or(0);
        Ok(Dispatcher {
            results: results.collect(),
            areas: Areas {
                states: filled(device, states)?,
                constants: filled(device, constants)?,
                arena: device.block(0, Home::Device)?,
                scratch: device.block(scratch_bytes, Home::Device)?,
                ports: device.block(port_bytes, Home::Device)?,
                staging: device.block(port_bytes.next_multiple_of(ALIGN) + FLAG_BYTES, Home::Host)?,
                temps: Buffers::new(temps),
            },
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

    /// Runs the steps of an outline. With `observe`, each step is waited for.
    ///
    /// # Errors
    /// If there is not enough memory, or the device is lost.
    pub fn run(
        &mut self,
        outline: &Outline,
        inputs: &[&Tensor],
        outputs: &mut [Tensor],
        observe: Option<&mut Observe<'_>>,
    ) -> Result<(), Error> {
        let ports = Ports::of(&outline.inputs, &outline.outputs);
        give(&self.areas.staging, &ports, inputs)?;
        let mut pending = Vec::new();
        let done = self.submit(outline, &ports, observe, &mut pending);
        // Nothing that is still running may be dropped, whatever has happened.
        let settled = self.submitter.settle();
        self.areas.temps.give_back_all();
        done.and(settled)?;
        take(&self.areas.staging, &ports, outputs)
    }

    /// Submits everything; what must be kept until it has run goes to `pending`.
    fn submit(
        &mut self,
        outline: &Outline,
        ports: &Ports,
        mut observe: Option<&mut Observe<'_>>,
        pending: &mut Vec<Recorded>,
    ) -> Result<(), Error> {
        self.enqueue(ports, pending, |recorder| recorder.arguments(&outline.inputs))?;
        for (number, step) in outline.steps.iter().enumerate() {
            self.allot(step, outline)?;
            self.enqueue(ports, pending, |recorder| recorder.steps(std::slice::from_ref(step)))?;
            if let Some(observe) = &mut observe {
                self.submitter.settle()?;
                let written = self.written(step, ports)?;
                let written: Vec<&[u8]> = written.iter().map(Vec::as_slice).collect();
                if !observe(number, &written) {
                    break;
                }
            }
            for temp in &outline.freed_after[number] {
                self.areas.temps.give_back(*temp);
            }
        }
        self.enqueue(ports, pending, |recorder| recorder.results(&outline.outputs))
    }

    /// Records something and submits it.
    fn enqueue(
        &mut self,
        ports: &Ports,
        pending: &mut Vec<Recorded>,
        record: impl FnOnce(&mut Recorder<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut recorder = Recorder::new(&self.device, &self.kernels, &self.areas, ports).alone();
        record(&mut recorder)?;
        pending.push(recorder.finish()?);
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

    /// What a step has written, if it is a kernel.
    fn written(&self, step: &Step, ports: &Ports) -> Result<Vec<Vec<u8>>, Error> {
        let Step::Kernel { kernel, buffers, .. } = step else {
            return Ok(Vec::new());
        };
        let recorder = Recorder::new(&self.device, &self.kernels, &self.areas, ports);
        let places = buffers[self.results[kernel.0].clone()].iter();
        places
            .map(|place| {
                let (buffer, start) = recorder.locate(place);
                download(&self.device, buffer, start, place.bytes)
            })
            .collect()
    }
}
