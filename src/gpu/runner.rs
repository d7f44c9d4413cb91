//! Running entries: a session's memory on the device.

use std::sync::Arc;
use std::time::Duration;

use netloom_ir::Tensor;
use netloom_ir::kernel::Nest;
use vulkano::buffer::Subbuffer;
use vulkano::query::{QueryPool, QueryPoolCreateInfo, QueryResultFlags, QueryType};

use super::Error;
use super::code::{ALIGN, Kernel, kernels};
use super::device::{Device, Home};
use super::record::{self, Areas, FLAG_BYTES, Ports, Recorded};
use super::submit::{Submitter, download, filled, give, take, upload};
use crate::buffers::Buffers;
use crate::plan::{KernelCall, Plan};

/// Pipelines of plans.
pub struct Code {
    device: Arc<Device>,
    plans: Vec<Plan>,
    kernels: Vec<Kernel>,
    constants: Subbuffer<[u8]>,
    state_bytes: usize,
}

impl Code {
    /// Compiles every kernel, and uploads the constants.
    ///
    /// # Errors
    /// If the device lacks something or refuses.
    pub fn new(
        device: &Arc<Device>,
        nests: &[Nest],
        plans: Vec<Plan>,
        constants: &[u8],
        state_bytes: usize,
    ) -> Result<Code, Error> {
        Ok(Code {
            kernels: kernels(device, nests)?,
            device: Arc::clone(device),
            plans,
            constants: filled(device, constants)?,
            state_bytes,
        })
    }

    /// The plans of the entries, in order.
    pub fn plans(&self) -> &[Plan] {
        &self.plans
    }

    /// What it runs on.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }
}

/// The most queries of a clock: kernels beyond half as many are not timed. A guess.
const MOST_QUERIES: u32 = 16384;

/// An entry that notes how long its kernels take.
pub struct Timed {
    entry: usize,
    recorded: Recorded,
    clock: Arc<QueryPool>,
    /// Seconds of a tick.
    period: f64,
}

/// The memory of one session, and its entries as commands.
pub struct Runner {
    code: Arc<Code>,
    areas: Areas,
    entries: Vec<(Ports, Recorded)>,
    submitter: Submitter,
    arena_bytes: usize,
}

impl Runner {
    /// Memory for the code. States are zero.
    ///
    /// # Errors
    /// If there is not enough, or the driver refuses.
    pub fn new(code: Arc<Code>) -> Result<Runner, Error> {
        let device = &code.device;
        let ports: Vec<Ports> = (code.plans.iter())
            .map(|plan| Ports::of(&plan.inputs, &plan.outputs))
            .collect();
        let port_bytes = ports.iter().map(|ports| ports.bytes).max().unwrap_or(0);
        let arena_bytes = code.plans.iter().map(|plan| plan.shared_bytes).max().unwrap_or(0);
        let scratch_bytes = code
            .kernels
            .iter()
            .map(|kernel| kernel.scratch_bytes)
            .max()
            .unwrap_or(0);
        let areas = Areas {
            states: device.block(code.state_bytes as u64, Home::Device)?,
            constants: code.constants.clone(),
            arena: device.block(arena_bytes as u64, Home::Device)?,
            scratch: device.block(scratch_bytes, Home::Device)?,
            ports: device.block(port_bytes, Home::Device)?,
            staging: device.block(port_bytes.next_multiple_of(ALIGN) + FLAG_BYTES, Home::Host)?,
            temps: Buffers::new(0),
        };
        let entries = code
            .plans
            .iter()
            .zip(ports)
            .map(|(plan, ports)| {
                let recorded = record::record(device, &code.kernels, plan, &areas, &ports, None)?;
                Ok((ports, recorded))
            })
            .collect::<Result<_, Error>>()?;
        let submitter = Submitter::new(device)?;
        let mut runner = Runner {
            areas,
            entries,
            submitter,
            arena_bytes: arena_bytes + scratch_bytes as usize,
            code,
        };
        runner.write_states(0, &vec![0; runner.code.state_bytes])?;
        Ok(runner)
    }

    /// The code.
    pub fn code(&self) -> &Code {
        &self.code
    }

    /// Bytes of arena and scratch.
    pub fn arena_bytes(&self) -> usize {
        self.arena_bytes
    }

    /// Bytes of the block of states.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn read_states(&self, offset: usize, bytes: usize) -> Result<Vec<u8>, Error> {
        download(&self.code.device, &self.areas.states, offset as u64, bytes)
    }

    /// Replaces bytes of the block of states.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn write_states(&mut self, offset: usize, bytes: &[u8]) -> Result<(), Error> {
        upload(&self.code.device, &self.areas.states, offset as u64, bytes)
    }

    /// Runs an entry on tensors of the plan's types.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn run(&mut self, entry: usize, inputs: &[&Tensor], outputs: &mut [Tensor]) -> Result<(), Error> {
        let (ports, recorded) = &self.entries[entry];
        run(&self.areas, &mut self.submitter, ports, recorded, inputs, outputs)
    }

    /// How long the driver has taken to submit and to wait, in all runs so far: what else a run takes is the host's own.
    pub fn driver_time(&self) -> Duration {
        self.submitter.driver_time()
    }

    /// An entry that notes how long its kernels take, run one at a time.
    ///
    /// # Errors
    /// If the device has no clock, or refuses.
    pub fn timed(&self, entry: usize) -> Result<Timed, Error> {
        let device = &self.code.device;
        let plan = &self.code.plans[entry];
        let family = device.queue.queue_family_index() as usize;
        let physical = device.device.physical_device();
        if physical.queue_family_properties()[family]
            .timestamp_valid_bits
            .is_none()
        {
            return Err(Error::Refused {
                doing: "timing kernels".to_owned(),
                reason: "the device's compute queue has no clock; leave out `--kernels`".to_owned(),
            });
        }
        let info = QueryPoolCreateInfo {
            query_count: MOST_QUERIES,
            ..QueryPoolCreateInfo::query_type(QueryType::Timestamp)
        };
        let clock = QueryPool::new(Arc::clone(&device.device), info).map_err(Error::of("making a clock"))?;
        let (ports, _) = &self.entries[entry];
        let recorded = record::record(device, &self.code.kernels, plan, &self.areas, ports, Some(&clock))?;
        Ok(Timed {
            entry,
            recorded,
            clock,
            period: f64::from(physical.properties().timestamp_period) * 1e-9,
        })
    }

    /// Runs such an entry: the calls of its kernels, in order.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn run_timed(
        &mut self,
        timed: &Timed,
        inputs: &[&Tensor],
        outputs: &mut [Tensor],
    ) -> Result<Vec<KernelCall>, Error> {
        let (ports, _) = &self.entries[timed.entry];
        run(
            &self.areas,
            &mut self.submitter,
            ports,
            &timed.recorded,
            inputs,
            outputs,
        )?;
        let (mut calls, mut first) = (Vec::new(), None);
        for (number, (kernel, nodes)) in timed.recorded.timed.iter().enumerate().take(MOST_QUERIES as usize / 2) {
            let queries = 2 * number as u32..2 * number as u32 + 2;
            let mut ticks = [0u64; 2];
            // What stands in a branch that was not taken has no time.
            let there = timed.clock.get_results(queries, &mut ticks, QueryResultFlags::empty());
            if there.map_err(Error::of("reading the clock"))? {
                let first = *first.get_or_insert(ticks[0]);
                let since = |from: u64, to: u64| Duration::from_secs_f64(to.saturating_sub(from) as f64 * timed.period);
                calls.push(KernelCall {
                    kernel: *kernel,
                    nodes: nodes.clone(),
                    start: since(first, ticks[0]),
                    took: since(ticks[0], ticks[1]),
                });
            }
        }
        Ok(calls)
    }
}

/// Hands over the arguments, runs the commands, takes the results.
fn run(
    areas: &Areas,
    submitter: &mut Submitter,
    ports: &Ports,
    recorded: &Recorded,
    inputs: &[&Tensor],
    outputs: &mut [Tensor],
) -> Result<(), Error> {
    give(&areas.staging, ports, inputs)?;
    submitter.run(&recorded.segments, &areas.staging)?;
    take(&areas.staging, ports, outputs)
}
