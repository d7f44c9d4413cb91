//! Lists of commands as command buffers, recorded once.

use std::collections::HashMap;
use std::sync::Arc;

use vulkano::buffer::Subbuffer;
use vulkano::buffer::view::{BufferView, BufferViewCreateInfo};
use vulkano::command_buffer::{
    BufferCopy, CommandBuffer, CommandBufferBeginInfo, CommandBufferLevel, CommandBufferUsage, CopyBufferInfo,
    RecordingCommandBuffer,
};
use vulkano::descriptor_set::{DescriptorSet, WriteDescriptorSet};
use vulkano::format::Format;
use vulkano::pipeline::PipelineBindPoint;
use vulkano::query::QueryPool;
use vulkano::sync::{AccessFlags, DependencyInfo, MemoryBarrier, PipelineStage, PipelineStages};

use super::Error;
use super::code::Pipeline;
use super::commands::{self, Area, Command, Segment, Span};
use super::device::Device;
use super::modules::{ALIGN, Binding};
use crate::buffers::Buffers;

/// The buffers of a session, or of eager execution.
pub struct Areas {
    /// States.
    pub states: Subbuffer<[u8]>,
    /// Constants.
    pub constants: Subbuffer<[u8]>,
    /// What the steps of a run share.
    pub arena: Subbuffer<[u8]>,
    /// What invocations have to themselves.
    pub scratch: Subbuffer<[u8]>,
    /// Arguments and results, on the device.
    pub ports: Subbuffer<[u8]>,
    /// The same on the host, then [`FLAG_BYTES`] for a condition.
    pub staging: Subbuffer<[u8]>,
    /// Results that have buffers of their own.
    pub temps: Buffers<Subbuffer<[u8]>>,
}

/// Bytes at the end of staging.
pub const FLAG_BYTES: u64 = ALIGN;

impl Areas {
    fn of(&self, area: Area) -> Subbuffer<[u8]> {
        match area {
            Area::States => self.states.clone(),
            Area::Constants => self.constants.clone(),
            Area::Arena => self.arena.clone(),
            Area::Scratch => self.scratch.clone(),
            Area::Ports => self.ports.clone(),
            Area::Staging => self.staging.clone(),
            Area::Flag => self.staging.clone().slice(self.staging.size() - FLAG_BYTES..),
            Area::Temp(temp) => {
                let result = self.temps.get(temp.0);
                result.expect("a result has a buffer before it is touched").clone()
            }
        }
    }
}

/// An entry ready to be submitted.
pub struct Recorded {
    /// What runs.
    pub segments: Vec<Segment<CommandBuffer>>,
    /// What the commands refer to.
    _sets: Vec<Arc<DescriptorSet>>,
}

/// Records lists of commands; the stamp with number `i` goes to query `i` of the `clock`, as far as there are queries.
///
/// # Errors
/// If the driver refuses.
pub fn record(
    device: &Device,
    pipelines: &[Pipeline],
    areas: &Areas,
    clock: Option<&Arc<QueryPool>>,
    segments: &[Segment<Vec<Command>>],
) -> Result<Recorded, Error> {
    let mut recorder = Recorder {
        device,
        pipelines,
        areas,
        clock,
        stamps: 0,
        sets: HashMap::new(),
    };
    Ok(Recorded {
        segments: commands::map(segments, &mut |list| recorder.list(list))?,
        _sets: recorder.sets.into_values().collect(),
    })
}

/// Commands on their way into command buffers.
struct Recorder<'a> {
    device: &'a Device,
    pipelines: &'a [Pipeline],
    areas: &'a Areas,
    clock: Option<&'a Arc<QueryPool>>,
    /// How many there have been.
    stamps: u32,
    sets: HashMap<(usize, Vec<Span>), Arc<DescriptorSet>>,
}

impl Recorder<'_> {
    fn list(&mut self, list: &[Command]) -> Result<CommandBuffer, Error> {
        let mut commands = begin(self.device, CommandBufferUsage::MultipleSubmit)?;
        for command in list {
            match command {
                Command::Barrier => barrier(&mut commands, PipelineStages::empty())?,
                Command::Dispatch { module, bound, push } => self.dispatch(&mut commands, *module, bound, push)?,
                Command::Copy { from, to } => {
                    let [source, target] = [from, to].map(|span| self.areas.of(span.area));
                    copy(&mut commands, (&source, from.start), (&target, to.start), from.bytes)?;
                }
                Command::Write { to, value } => {
                    let range = to.start..to.start + 8;
                    let target: Subbuffer<[u8; 8]> = self.areas.of(to.area).slice(range).reinterpret();
                    // SAFETY: the range lies in the buffer, which the areas keep; the list has barriers where commands need them.
                    unsafe { commands.update_buffer(&target, &value.to_le_bytes()) }
                        .map_err(|error| Error::of("recording")(error.into()))?;
                }
                Command::Stamp => self.stamp(&mut commands)?,
            }
        }
        finish(commands)
    }

    fn dispatch(
        &mut self,
        commands: &mut RecordingCommandBuffer,
        module: usize,
        bound: &[Span],
        push: &[u32],
    ) -> Result<(), Error> {
        let set = self.set(module, bound)?;
        let pipeline = &self.pipelines[module];
        // SAFETY: pipeline, layout and set are made for each other by `code`; `Recorded` keeps the set and the set its buffers. Each word lies
        // within the layout's range of push constants. The verifier has proved that the nest stays within its buffers, whose spans are
        // bound here; the list has barriers where commands need them.
        let done = unsafe {
            (commands.bind_pipeline_compute(&pipeline.code))
                .and_then(|commands| {
                    let point = PipelineBindPoint::Compute;
                    commands.bind_descriptor_sets(point, &pipeline.layout, 0, &[set.as_raw()], &[])
                })
                .and_then(|commands| {
                    (0..).zip(push).try_fold(commands, |commands, (number, word)| {
                        commands.push_constants(&pipeline.layout, 4 * number, word)
                    })
                })
                .and_then(|commands| commands.dispatch(pipeline.groups))
        };
        done.map_err(|error| Error::of("recording")(error.into()))?;
        Ok(())
    }

    fn stamp(&mut self, commands: &mut RecordingCommandBuffer) -> Result<(), Error> {
        let query = self.stamps;
        self.stamps += 1;
        let Some(clock) = self.clock.filter(|clock| query < clock.query_count()) else {
            return Ok(());
        };
        barrier(commands, PipelineStages::empty())?;
        // SAFETY: the query lies in the pool, which the caller keeps while the commands may run, and is reset before each use.
        let done = unsafe {
            (commands.reset_query_pool(clock, query..query + 1))
                .and_then(|commands| commands.write_timestamp(clock, query, PipelineStage::ComputeShader))
        };
        done.map_err(|error| Error::of("recording")(error.into()))?;
        Ok(())
    }

    /// The descriptor set for a module on these spans.
    fn set(&mut self, module: usize, bound: &[Span]) -> Result<Arc<DescriptorSet>, Error> {
        let key = (module, bound.to_vec());
        if let Some(set) = self.sets.get(&key) {
            return Ok(Arc::clone(set));
        }
        let pipeline = &self.pipelines[module];
        let write = |(number, (span, binding)): (u32, (&Span, &Binding))| {
            let area = self.areas.of(span.area);
            // Where a tensor has no elements, something is bound all the same, and never touched.
            let shown = match span.bytes {
                0 => 0..area.size().min(ALIGN),
                bytes => span.start..span.start + bytes,
            };
            let shown = area.slice(shown);
            let format = match binding {
                Binding::Buffer => return Ok(WriteDescriptorSet::buffer(number, shown)),
                Binding::One => Format::R32_SFLOAT,
                Binding::Four => Format::R32G32B32A32_SFLOAT,
            };
            let info = BufferViewCreateInfo {
                format,
                ..BufferViewCreateInfo::default()
            };
            let view = BufferView::new(shown, info).map_err(Error::of("viewing a tensor"))?;
            Ok(WriteDescriptorSet::buffer_view(number, view))
        };
        let writes = (0..).zip(bound.iter().zip(&pipeline.bindings)).map(write);
        let set = DescriptorSet::new(
            self.device.descriptors.clone(),
            Arc::clone(&pipeline.set_layout),
            writes.collect::<Result<Vec<_>, Error>>()?,
            [],
        )
        .map_err(Error::of("binding a kernel's tensors"))?;
        self.sets.insert(key, Arc::clone(&set));
        Ok(set)
    }
}

/// Begins commands, which see what was submitted before.
pub fn begin(device: &Device, usage: CommandBufferUsage) -> Result<RecordingCommandBuffer, Error> {
    let info = CommandBufferBeginInfo {
        usage,
        ..CommandBufferBeginInfo::default()
    };
    let mut commands = RecordingCommandBuffer::new(
        device.commands.clone(),
        device.queue.queue_family_index(),
        CommandBufferLevel::Primary,
        info,
    )
    .map_err(Error::of("recording"))?;
    barrier(&mut commands, PipelineStages::empty())?;
    Ok(commands)
}

/// Ends commands; what they wrote is there for the host.
pub fn finish(mut commands: RecordingCommandBuffer) -> Result<CommandBuffer, Error> {
    barrier(&mut commands, PipelineStages::HOST)?;
    // SAFETY: recording began and no render pass or query is open.
    unsafe { commands.end() }.map_err(|error| Error::of("recording")(error.into()))
}

/// Everything above comes before everything below, and before the `host` stage if given.
fn barrier(commands: &mut RecordingCommandBuffer, host: PipelineStages) -> Result<(), Error> {
    let stages = PipelineStages::COMPUTE_SHADER | PipelineStages::ALL_TRANSFER;
    let writes = AccessFlags::SHADER_WRITE | AccessFlags::TRANSFER_WRITE;
    let mut sees = writes | AccessFlags::SHADER_READ | AccessFlags::TRANSFER_READ;
    if !host.is_empty() {
        sees |= AccessFlags::HOST_READ;
    }
    let all = MemoryBarrier {
        src_stages: stages,
        src_access: writes,
        dst_stages: stages | host,
        dst_access: sees,
        ..MemoryBarrier::default()
    };
    let dependency = DependencyInfo {
        memory_barriers: [all].into_iter().collect(),
        ..DependencyInfo::default()
    };
    // SAFETY: a global memory barrier refers to no resource.
    unsafe { commands.pipeline_barrier(&dependency) }.map_err(|error| Error::of("recording")(error.into()))?;
    Ok(())
}

/// Copies bytes from one buffer to another, or within one where they do not overlap.
pub fn copy(
    commands: &mut RecordingCommandBuffer,
    (source, from): (&Subbuffer<[u8]>, u64),
    (target, to): (&Subbuffer<[u8]>, u64),
    bytes: u64,
) -> Result<(), Error> {
    let region = BufferCopy {
        src_offset: from,
        dst_offset: to,
        size: bytes,
        ..BufferCopy::default()
    };
    let info = CopyBufferInfo {
        regions: [region].into_iter().collect(),
        ..CopyBufferInfo::buffers(source.clone(), target.clone())
    };
    // SAFETY: both ranges lie in their buffers, which the caller keeps until the commands have run, and orders them among others.
    unsafe { commands.copy_buffer(&info) }.map_err(|error| Error::of("recording")(error.into()))?;
    Ok(())
}
