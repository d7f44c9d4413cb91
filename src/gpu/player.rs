//! Memory on the device, and entries that run in it.

use std::sync::Arc;
use std::time::Duration;

use netloom_ir::Tensor;
use vulkano::buffer::Subbuffer;
use vulkano::query::QueryPool;

use super::Error;
use super::code::Pipeline;
use super::commands::{Command, Ports, Segment};
use super::device::{Device, Home};
use super::modules::{ALIGN, Kernel};
use super::record::{Areas, FLAG_BYTES, Recorded, record};
use super::submit::{Submitter, download, give, take, upload};
use crate::buffers::Buffers;
use crate::plan::Plan;

/// Bytes of the areas that entries share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// The block of states.
    pub states: u64,
    /// What the steps of a run share.
    pub arena: u64,
    /// What invocations have to themselves.
    pub scratch: u64,
}

impl Sizes {
    /// What plans and kernels need.
    pub fn of(plans: &[Plan], kernels: &[Kernel], state_bytes: usize) -> Sizes {
        Sizes {
            states: state_bytes as u64,
            arena: plans.iter().map(|plan| plan.shared_bytes as u64).max().unwrap_or(0),
            scratch: kernels.iter().map(|kernel| kernel.scratch_bytes).max().unwrap_or(0),
        }
    }
}

/// Entries as commands, and the memory that they run in.
pub struct Player {
    device: Arc<Device>,
    pipelines: Arc<[Pipeline]>,
    areas: Areas,
    entries: Vec<(Ports, Recorded)>,
    submitter: Submitter,
}

impl Player {
    /// Memory for entries, recorded. Each begins by taking its arguments from staging and ends by putting its results there. States are zero.
    ///
    /// # Errors
    /// If there is not enough, or the driver refuses.
    pub fn new<'a>(
        device: &Arc<Device>,
        pipelines: &Arc<[Pipeline]>,
        sizes: Sizes,
        constants: Subbuffer<[u8]>,
        entries: impl IntoIterator<Item = &'a (Ports, Vec<Segment<Vec<Command>>>)> + Clone,
    ) -> Result<Player, Error> {
        let port_bytes = entries
            .clone()
            .into_iter()
            .map(|(ports, _)| ports.bytes)
            .max()
            .unwrap_or(0);
        let areas = Areas {
            states: device.block(sizes.states, Home::Device)?,
            constants,
            arena: device.block(sizes.arena, Home::Device)?,
            scratch: device.block(sizes.scratch, Home::Device)?,
            ports: device.block(port_bytes, Home::Device)?,
            staging: device.block(port_bytes.next_multiple_of(ALIGN) + FLAG_BYTES, Home::Host)?,
            temps: Buffers::new(0),
        };
        let entries = entries.into_iter().map(|(ports, segments)| {
            let recorded = record(device, pipelines, &areas, None, segments)?;
            Ok((ports.clone(), recorded))
        });
        let mut player = Player {
            entries: entries.collect::<Result<_, Error>>()?,
            areas,
            submitter: Submitter::new(device)?,
            pipelines: Arc::clone(pipelines),
            device: Arc::clone(device),
        };
        player.write_states(0, &vec![0; sizes.states as usize])?;
        Ok(player)
    }

    /// Commands on this memory whose stamps go to a clock.
    ///
    /// # Errors
    /// If the driver refuses.
    pub fn record(&self, segments: &[Segment<Vec<Command>>], clock: &Arc<QueryPool>) -> Result<Recorded, Error> {
        record(&self.device, &self.pipelines, &self.areas, Some(clock), segments)
    }

    /// Bytes of the block of states.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn read_states(&self, offset: usize, bytes: usize) -> Result<Vec<u8>, Error> {
        download(&self.device, &self.areas.states, offset as u64, bytes)
    }

    /// Replaces bytes of the block of states.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn write_states(&mut self, offset: usize, bytes: &[u8]) -> Result<(), Error> {
        upload(&self.device, &self.areas.states, offset as u64, bytes)
    }

    /// Hands over the arguments of an entry, runs it, takes the results; or runs what was recorded of it in another way.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn run(
        &mut self,
        entry: usize,
        otherwise: Option<&Recorded>,
        inputs: &[&Tensor],
        outputs: &mut [Tensor],
    ) -> Result<(), Error> {
        let (ports, recorded) = &self.entries[entry];
        give(&self.areas.staging, ports, inputs)?;
        let segments = &otherwise.unwrap_or(recorded).segments;
        self.submitter.run(segments, &self.areas.staging)?;
        take(&self.areas.staging, ports, outputs)
    }

    /// How long the driver has taken to submit and to wait, in all runs so far: what else a run takes is the host's own.
    pub fn driver_time(&self) -> Duration {
        self.submitter.driver_time()
    }
}
