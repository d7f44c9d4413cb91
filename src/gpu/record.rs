//! Plans as command buffers, recorded once.
//!
//! Steps follow each other in one command buffer as far as the host need not look: repeats are written out, so every address is known, and
//! a barrier stands only where a command touches bytes that an earlier one since the last barrier has written, or writes what it
//! has touched. Where a plan branches, the segments of both sides are recorded, and the host reads the condition between them.

use std::collections::HashMap;
use std::sync::Arc;

use netloom_ir::graph::NodeId;
use vulkano::DeviceSize;
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
use super::code::{ALIGN, Kernel};
use super::device::Device;
use crate::buffers::Buffers;
use crate::plan::{Base, KernelId, Place, Plan, Port, Step, TempId};

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

/// Where the arguments and results of an entry lie among the ports.
#[derive(Clone, Debug)]
pub struct Ports {
    /// By argument.
    pub inputs: Vec<u64>,
    /// By result.
    pub outputs: Vec<u64>,
    /// In all.
    pub bytes: u64,
}

impl Ports {
    /// One after the other.
    pub fn of(inputs: &[Port], outputs: &[Port]) -> Ports {
        let mut bytes = 0;
        let mut place = |length: usize| {
            let at = bytes;
            bytes += (length as u64).next_multiple_of(ALIGN);
            at
        };
        Ports {
            inputs: inputs.iter().map(|port| place(port.ty.len_bytes())).collect(),
            outputs: outputs.iter().map(|port| place(port.ty.len_bytes())).collect(),
            bytes,
        }
    }
}

/// A part of a run.
pub enum Segment {
    /// Commands.
    Run(CommandBuffer),
    /// Whichever side the flag says.
    Branch {
        /// Run if the flag is set.
        then: Vec<Segment>,
        /// Run otherwise.
        otherwise: Vec<Segment>,
    },
    /// `condition`, then, while it sets the flag, `body` and `condition` again.
    While {
        /// Sets the flag.
        condition: Vec<Segment>,
        /// One round.
        body: Vec<Segment>,
    },
}

/// An entry ready to be submitted.
pub struct Recorded {
    /// What runs.
    pub segments: Vec<Segment>,
    /// The kernels run, in order, if they are timed, and the nodes that they compute, unless they are of a body.
    pub timed: Vec<(KernelId, Vec<NodeId>)>,
    /// What the commands refer to.
    _sets: Vec<Arc<DescriptorSet>>,
}

/// Records an entry. With a `clock`, kernels run one at a time, and the one with number `i` notes its beginning in query `2 i` and its end in
/// the next, as far as there are queries.
///
/// # Errors
/// If a tensor is larger than the device allows, or the driver refuses.
pub fn record(
    device: &Device,
    kernels: &[Kernel],
    plan: &Plan,
    areas: &Areas,
    ports: &Ports,
    clock: Option<&Arc<QueryPool>>,
) -> Result<Recorded, Error> {
    let mut recorder = Recorder {
        clock,
        ..Recorder::new(device, kernels, areas, ports)
    };
    recorder.arguments(&plan.inputs)?;
    recorder.steps(&plan.steps)?;
    recorder.results(&plan.outputs)?;
    recorder.finish()
}

/// A piece of memory of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Area {
    States,
    Constants,
    Arena,
    Scratch,
    Ports,
    Staging,
    Temp(TempId),
}

/// Bytes of an area.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Range {
    area: Area,
    start: u64,
    bytes: u64,
}

impl Range {
    fn overlaps(&self, other: &Range) -> bool {
        self.area == other.area && self.start < other.start + other.bytes && other.start < self.start + self.bytes
    }
}

/// What a command does with memory.
struct Access {
    range: Range,
    writes: bool,
}

/// Steps on their way into command buffers.
pub struct Recorder<'a> {
    device: &'a Device,
    kernels: &'a [Kernel],
    areas: &'a Areas,
    ports: &'a Ports,
    clock: Option<&'a Arc<QueryPool>>,
    timed: Vec<(KernelId, Vec<NodeId>)>,
    /// The commands being recorded, if any.
    commands: Option<RecordingCommandBuffer>,
    /// What has been touched since the last barrier.
    open: Vec<Access>,
    /// The iteration numbers of the enclosing repeats, outermost first.
    iterations: Vec<usize>,
    /// The number of enclosing repeats, branches and loops.
    depth: usize,
    sets: HashMap<(KernelId, Vec<Range>), Arc<DescriptorSet>>,
    segments: Vec<Segment>,
    /// Whether each kernel has a command buffer to itself.
    is_alone: bool,
}

impl<'a> Recorder<'a> {
    /// Nothing yet, for steps on these buffers.
    pub fn new(device: &'a Device, kernels: &'a [Kernel], areas: &'a Areas, ports: &'a Ports) -> Recorder<'a> {
        Recorder {
            device,
            kernels,
            areas,
            ports,
            clock: None,
            timed: Vec::new(),
            commands: None,
            open: Vec::new(),
            iterations: Vec::new(),
            depth: 0,
            sets: HashMap::new(),
            segments: Vec::new(),
            is_alone: false,
        }
    }

    /// The same, but that each kernel has a command buffer to itself.
    pub fn alone(self) -> Recorder<'a> {
        Recorder { is_alone: true, ..self }
    }

    /// What runs.
    ///
    /// # Errors
    /// If the driver refuses.
    pub fn finish(mut self) -> Result<Recorded, Error> {
        self.end()?;
        Ok(Recorded {
            segments: self.segments,
            timed: self.timed,
            _sets: self.sets.into_values().collect(),
        })
    }

    /// Copies arguments to the device.
    ///
    /// # Errors
    /// If the driver refuses.
    pub fn arguments(&mut self, inputs: &[Port]) -> Result<(), Error> {
        let ports = self.ports;
        self.transfer(inputs, &ports.inputs, (Area::Staging, Area::Ports))
    }

    /// Copies results to the host.
    ///
    /// # Errors
    /// If the driver refuses.
    pub fn results(&mut self, outputs: &[Port]) -> Result<(), Error> {
        let ports = self.ports;
        self.transfer(outputs, &ports.outputs, (Area::Ports, Area::Staging))
    }

    /// Copies tensors to the same places of another area.
    fn transfer(&mut self, ports: &[Port], starts: &[u64], (from, to): (Area, Area)) -> Result<(), Error> {
        for (port, &start) in ports.iter().zip(starts) {
            let bytes = port.ty.len_bytes() as u64;
            let [from, to] = [from, to].map(|area| Range { area, start, bytes });
            self.copy(from, to)?;
        }
        Ok(())
    }

    /// Steps, one after the other.
    ///
    /// # Errors
    /// If a tensor is larger than the device allows, or the driver refuses.
    pub fn steps(&mut self, steps: &[Step]) -> Result<(), Error> {
        for step in steps {
            match step {
                Step::Kernel { kernel, buffers, nodes } => {
                    self.kernel(*kernel, buffers, if self.depth > 0 { &[] } else { nodes })?;
                    if self.is_alone {
                        self.end()?;
                    }
                }
                Step::Copy { from, to } => {
                    let (from, to) = (self.range(from), self.range(to));
                    self.copy(from, to)?;
                }
                Step::Count { to, from_end } => {
                    let iteration = *self.iterations.last().expect("a count stands in a repeat");
                    let value = from_end.map_or(iteration, |times| times - 1 - iteration);
                    let to = self.range(to);
                    self.write(to, value as u64)?;
                }
                // The plan's barriers are for the workers of a CPU.
                Step::Barrier => {}
                Step::Repeat { times, body } => {
                    for iteration in 0..*times {
                        self.iterations.push(iteration);
                        self.body(body)?;
                        self.iterations.pop();
                    }
                }
                Step::Branch {
                    condition,
                    then,
                    otherwise,
                } => {
                    self.flag(condition)?;
                    let then = self.apart(then)?;
                    let otherwise = self.apart(otherwise)?;
                    self.segments.push(Segment::Branch { then, otherwise });
                }
                Step::While { condition, go_on, body } => {
                    self.end()?;
                    let outer = std::mem::take(&mut self.segments);
                    self.body(condition)?;
                    self.flag(go_on)?;
                    let condition = std::mem::replace(&mut self.segments, outer);
                    let body = self.apart(body)?;
                    self.segments.push(Segment::While { condition, body });
                }
            }
        }
        Ok(())
    }

    /// The steps of a body: their kernels' nodes are not the entry's.
    fn body(&mut self, steps: &[Step]) -> Result<(), Error> {
        self.depth += 1;
        let done = self.steps(steps);
        self.depth -= 1;
        done
    }

    /// Steps as segments of their own.
    fn apart(&mut self, steps: &[Step]) -> Result<Vec<Segment>, Error> {
        let outer = std::mem::take(&mut self.segments);
        self.body(steps)?;
        self.end()?;
        Ok(std::mem::replace(&mut self.segments, outer))
    }

    /// Copies a condition to where the host looks, and ends the segment.
    fn flag(&mut self, condition: &Place) -> Result<(), Error> {
        let from = self.range(condition);
        let to = Range {
            area: Area::Staging,
            start: self.areas.staging.size() - FLAG_BYTES,
            bytes: 1,
        };
        self.copy(from, to)?;
        self.end()
    }

    fn range(&self, place: &Place) -> Range {
        let (area, start) = match place.base {
            Base::Input(number) => (Area::Ports, self.ports.inputs[number]),
            Base::Output(number) => (Area::Ports, self.ports.outputs[number]),
            Base::States => (Area::States, 0),
            Base::Constants => (Area::Constants, 0),
            Base::Arena => (Area::Arena, 0),
            Base::Worker => (Area::Scratch, 0),
            Base::Temp(temp) => (Area::Temp(temp), 0),
        };
        let strides = place.strides.iter().zip(&self.iterations);
        let moved: isize = strides.map(|(stride, &iteration)| stride * iteration as isize).sum();
        let start = start as i64 + place.offset as i64 + moved as i64;
        Range {
            area,
            start: u64::try_from(start).expect("a place lies within its area"),
            bytes: place.bytes as u64,
        }
    }

    fn area(&self, area: Area) -> &'a Subbuffer<[u8]> {
        match area {
            Area::States => &self.areas.states,
            Area::Constants => &self.areas.constants,
            Area::Arena => &self.areas.arena,
            Area::Scratch => &self.areas.scratch,
            Area::Ports => &self.areas.ports,
            Area::Staging => &self.areas.staging,
            Area::Temp(temp) => (self.areas.temps.get(temp.0)).expect("a result has a buffer before it is touched"),
        }
    }

    /// The command buffer, begun if there is none.
    fn commands(&mut self) -> Result<&mut RecordingCommandBuffer, Error> {
        if self.commands.is_none() {
            self.commands = Some(begin(self.device, CommandBufferUsage::MultipleSubmit)?);
            self.open.clear();
        }
        Ok(self.commands.as_mut().expect("begun above"))
    }

    /// Ends the segment of commands, if there is one.
    fn end(&mut self) -> Result<(), Error> {
        if let Some(commands) = self.commands.take() {
            self.segments.push(Segment::Run(finish(commands)?));
        }
        Ok(())
    }

    /// Puts a barrier where the next command needs one.
    fn fence(&mut self, accesses: Vec<Access>) -> Result<(), Error> {
        let clashes = |new: &Access| {
            let mut open = self.open.iter();
            open.any(|old| (old.writes || new.writes) && old.range.overlaps(&new.range))
        };
        let clash = accesses.iter().any(clashes);
        let commands = self.commands()?;
        if clash {
            barrier(commands, PipelineStages::empty())?;
            self.open.clear();
        }
        self.open.extend(accesses);
        Ok(())
    }

    fn copy(&mut self, from: Range, to: Range) -> Result<(), Error> {
        if from.bytes == 0 {
            return Ok(());
        }
        self.fence(vec![
            Access {
                range: from,
                writes: false,
            },
            Access {
                range: to,
                writes: true,
            },
        ])?;
        let (source, target) = (self.area(from.area).clone(), self.area(to.area).clone());
        copy(self.commands()?, (&source, from.start), (&target, to.start), from.bytes)
    }

    fn write(&mut self, to: Range, value: u64) -> Result<(), Error> {
        self.fence(vec![Access {
            range: to,
            writes: true,
        }])?;
        let area = self.area(to.area).clone();
        let commands = self.commands()?;
        let target: Subbuffer<[u8; 8]> = area.slice(to.start..to.start + 8).reinterpret();
        // SAFETY: the range lies in the buffer, which `Areas` keeps; `fence` has ordered the command among the others.
        unsafe { commands.update_buffer(&target, &value.to_le_bytes()) }
            .map_err(|error| Error::of("recording")(error.into()))?;
        Ok(())
    }

    fn kernel(&mut self, id: KernelId, places: &[Place], nodes: &[NodeId]) -> Result<(), Error> {
        let kernel = &self.kernels[id.0];
        let ranges: Vec<Range> = places
            .iter()
            .zip(&kernel.buffers)
            .map(|(place, buffer)| match buffer.scratch {
                Some((start, bytes)) => Range {
                    area: Area::Scratch,
                    start,
                    bytes,
                },
                None => self.range(place),
            })
            .collect();
        // Where each binding begins, as devices want it aligned; the kernel is told how far from there its tensor begins.
        let alignment = self.device.traits.binding_alignment;
        let starts: Vec<u64> = ranges.iter().map(|range| range.start / alignment * alignment).collect();
        let set = self.set(id, &ranges, &starts)?;
        self.stamp(2 * self.timed.len() as u32)?;
        for phase in &kernel.phases {
            // What the binding spans counts, for the validation layers cannot know what the kernel leaves alone.
            let accesses = phase.touched.iter().map(|&(buffer, writes)| Access {
                range: Range {
                    start: starts[buffer],
                    bytes: ranges[buffer].start - starts[buffer] + ranges[buffer].bytes,
                    ..ranges[buffer]
                },
                writes,
            });
            self.fence(accesses.collect())?;
            let commands = self.commands()?;
            // SAFETY: pipeline, layout and set are made for each other by `code`; `Recorded` keeps the set and the set its buffers.
            let done = unsafe {
                (commands.bind_pipeline_compute(&phase.pipeline))
                    .and_then(|commands| {
                        commands.bind_descriptor_sets(
                            PipelineBindPoint::Compute,
                            &kernel.layout,
                            0,
                            &[set.as_raw()],
                            &[],
                        )
                    })
                    .map(|_| ())
            };
            done.map_err(|error| Error::of("recording")(error.into()))?;
            for (number, (range, start)) in ranges.iter().zip(&starts).enumerate() {
                let element = ((range.start - start) / kernel.buffers[number].element_bytes) as u32;
                // SAFETY: the word lies within the layout's range of push constants.
                unsafe { commands.push_constants(&kernel.layout, 4 * number as u32, &element) }
                    .map_err(|error| Error::of("recording")(error.into()))?;
            }
            // SAFETY: the verifier has proved that the nest stays within its buffers, whose ranges are bound here; `fence` has ordered the
            // command among the others.
            unsafe { commands.dispatch(phase.groups) }.map_err(|error| Error::of("recording")(error.into()))?;
        }
        self.stamp(2 * self.timed.len() as u32 + 1)?;
        self.timed.extend(self.clock.map(|_| (id, nodes.to_vec())));
        Ok(())
    }

    /// Waits for what stands above, and notes the time.
    fn stamp(&mut self, query: u32) -> Result<(), Error> {
        let Some(clock) = self.clock.filter(|clock| query < clock.query_count()) else {
            return Ok(());
        };
        let commands = self.commands()?;
        barrier(commands, PipelineStages::empty())?;
        // SAFETY: the query lies in the pool, which the caller keeps while the commands may run, and is reset before each use.
        let done = unsafe {
            (commands.reset_query_pool(clock, query..query + 1))
                .and_then(|commands| commands.write_timestamp(clock, query, PipelineStage::ComputeShader))
        };
        done.map_err(|error| Error::of("recording")(error.into()))?;
        self.open.clear();
        Ok(())
    }

    /// The descriptor set for a kernel on these ranges.
    fn set(&mut self, id: KernelId, ranges: &[Range], starts: &[u64]) -> Result<Arc<DescriptorSet>, Error> {
        let key = (id, ranges.to_vec());
        if let Some(set) = self.sets.get(&key) {
            return Ok(Arc::clone(set));
        }
        let kernel = &self.kernels[id.0];
        let mut writes = Vec::new();
        for ((range, &start), buffer) in ranges.iter().zip(starts).zip(&kernel.buffers) {
            let area = self.area(range.area);
            let end = range.start + range.bytes;
            // Where a tensor has no elements, something is bound all the same, and never touched.
            let bound = |start: u64, end: u64| match start < end {
                true => area.clone().slice(start..end),
                false => area.clone().slice(0..area.size().min(ALIGN)),
            };
            let window = match buffer.bindings.len() {
                1 => DeviceSize::MAX,
                _ => self.device.traits.window_bytes(),
            };
            for (number, binding) in (0..).zip(buffer.bindings.clone()) {
                let start = start + number * window.min(end);
                let end = end.min(start.saturating_add(window));
                writes.push(WriteDescriptorSet::buffer(binding, bound(start, end)));
            }
            let views = [
                (buffer.views.one, Format::R32_SFLOAT),
                (buffer.views.four, Format::R32G32B32A32_SFLOAT),
            ];
            for (binding, format) in views.into_iter().filter_map(|(view, format)| Some((view?, format))) {
                let info = BufferViewCreateInfo {
                    format,
                    ..BufferViewCreateInfo::default()
                };
                let view = BufferView::new(bound(start, end), info).map_err(Error::of("viewing a tensor"))?;
                writes.push(WriteDescriptorSet::buffer_view(binding, view));
            }
        }
        let set = DescriptorSet::new(
            self.device.descriptors.clone(),
            Arc::clone(&kernel.set_layout),
            writes,
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
