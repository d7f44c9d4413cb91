//! Running the entries of a session.

use std::sync::Arc;
use std::time::Duration;

use netloom_ir::Tensor;
use netloom_ir::graph::NodeId;
use netloom_ir::kernel::Nest;
use vulkano::buffer::Subbuffer;
use vulkano::query::{QueryPool, QueryPoolCreateInfo, QueryResultFlags, QueryType};

use super::Error;
use super::code::{Pipeline, kernels};
use super::commands::{Apart, Command, Lister, Listing, Ports, Segment};
use super::device::Device;
use super::modules::Kernel;
use super::player::{Player, Sizes};
use super::record::Recorded;
use super::submit::filled;
use crate::plan::{KernelCall, KernelId, Plan};

/// Pipelines of plans, and the plans as commands.
pub struct Code {
    device: Arc<Device>,
    plans: Vec<Plan>,
    kernels: Vec<Kernel>,
    pipelines: Arc<[Pipeline]>,
    entries: Vec<(Ports, Vec<Segment<Vec<Command>>>)>,
    sizes: Sizes,
    constants: Subbuffer<[u8]>,
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
        let (pipelines, kernels) = kernels(device, nests)?;
        let entries = plans.iter().map(|plan| {
            let ports = Ports::of(&plan.inputs, &plan.outputs);
            let listing = whole(plan, &kernels, device, &ports, Apart::None);
            (ports, listing.segments)
        });
        Ok(Code {
            entries: entries.collect(),
            sizes: Sizes::of(&plans, &kernels, state_bytes),
            device: Arc::clone(device),
            plans,
            kernels,
            pipelines: pipelines.into(),
            constants: filled(device, constants)?,
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

/// An entry from its arguments, in staging, to its results there.
fn whole(plan: &Plan, kernels: &[Kernel], device: &Device, ports: &Ports, apart: Apart) -> Listing {
    let mut lister = Lister::new(kernels, &device.traits, ports, apart);
    lister.arguments();
    lister.steps(&plan.steps);
    lister.results();
    lister.finish()
}

/// The most queries of a clock: kernels beyond half as many are not timed. A guess.
const MOST_QUERIES: u32 = 16384;

/// An entry that notes how long its kernels take.
pub struct Timed {
    entry: usize,
    recorded: Recorded,
    /// The kernels run, in order, and the nodes that they compute.
    kernels: Vec<(KernelId, Vec<NodeId>)>,
    clock: Arc<QueryPool>,
    /// Seconds of a tick.
    period: f64,
}

/// The memory of one session, and its entries as commands.
pub struct Runner {
    code: Arc<Code>,
    player: Player,
}

impl Runner {
    /// Memory for the code. States are zero.
    ///
    /// # Errors
    /// If there is not enough, or the driver refuses.
    pub fn new(code: Arc<Code>) -> Result<Runner, Error> {
        let constants = code.constants.clone();
        Ok(Runner {
            player: Player::new(&code.device, &code.pipelines, code.sizes, constants, &code.entries)?,
            code,
        })
    }

    /// The code.
    pub fn code(&self) -> &Code {
        &self.code
    }

    /// Bytes of arena and scratch.
    pub fn arena_bytes(&self) -> usize {
        (self.code.sizes.arena + self.code.sizes.scratch) as usize
    }

    /// Bytes of the block of states.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn read_states(&self, offset: usize, bytes: usize) -> Result<Vec<u8>, Error> {
        self.player.read_states(offset, bytes)
    }

    /// Replaces bytes of the block of states.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn write_states(&mut self, offset: usize, bytes: &[u8]) -> Result<(), Error> {
        self.player.write_states(offset, bytes)
    }

    /// Runs an entry on tensors of the plan's types.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn run(&mut self, entry: usize, inputs: &[&Tensor], outputs: &mut [Tensor]) -> Result<(), Error> {
        self.player.run(entry, None, inputs, outputs)
    }

    /// How long the driver has taken to submit and to wait, in all runs so far: what else a run takes is the host's own.
    pub fn driver_time(&self) -> Duration {
        self.player.driver_time()
    }

    /// An entry that notes how long its kernels take, run one at a time.
    ///
    /// # Errors
    /// If the device has no clock, or refuses.
    pub fn timed(&self, entry: usize) -> Result<Timed, Error> {
        let device = &self.code.device;
        let family = device.queue.queue_family_index() as usize;
        let physical = device.device.physical_device();
        if physical.queue_family_properties()[family]
            .timestamp_valid_bits
            .is_none()
        {
            return Err(Error::Refused {
                doing: "timing kernels".to_owned(),
                reason: "the device's compute queue has no clock: leave out `--kernels`".to_owned(),
            });
        }
        let info = QueryPoolCreateInfo {
            query_count: MOST_QUERIES,
            ..QueryPoolCreateInfo::query_type(QueryType::Timestamp)
        };
        let clock = QueryPool::new(Arc::clone(&device.device), info).map_err(Error::of("making a clock"))?;
        let (plan, (ports, _)) = (&self.code.plans[entry], &self.code.entries[entry]);
        let listing = whole(plan, &self.code.kernels, device, ports, Apart::Stamps);
        Ok(Timed {
            entry,
            recorded: self.player.record(&listing.segments, &clock)?,
            kernels: listing.timed,
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
        (self.player).run(timed.entry, Some(&timed.recorded), inputs, outputs)?;
        let (mut calls, mut first) = (Vec::new(), None);
        for (number, (kernel, nodes)) in timed.kernels.iter().enumerate().take(MOST_QUERIES as usize / 2) {
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
