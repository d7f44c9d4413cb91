//! Running entries: a session's memory on the device, and submission.

use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use netloom_ir::kernel::{Axis, Bind, Buffer, BufferId, Exprs, Nest, Prim, Role, Stmt};
use netloom_ir::{DType, Scalar, Tensor, Type};
use vulkano::buffer::Subbuffer;
use vulkano::command_buffer::{CommandBuffer, CommandBufferUsage};
use vulkano::query::{QueryPool, QueryPoolCreateInfo, QueryResultFlags, QueryType};
use vulkano::sync::fence::Fence;
use vulkano::{Validated, VulkanError, VulkanObject};

use super::Error;
use super::code::{ALIGN, Kernel};
use super::device::{Device, Home};
use super::record::{self, Areas, FLAG_BYTES, Ports, Recorded, Segment};
use crate::plan::{Base, KernelId, Kernels, Memory, Place, Plan, Port, Step};

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
    pub fn new(device: &Arc<Device>, kernels: &Kernels, plans: Vec<Plan>, memory: &Memory) -> Result<Code, Error> {
        let kernels = kernels
            .nests()
            .iter()
            .map(|nest| Kernel::new(device, nest))
            .collect::<Result<Vec<_>, _>>()?;
        if let Some(cache) = &device.cache {
            cache.save();
        }
        let constants = device.block(memory.constants.len() as u64, Home::Device)?;
        upload(device, &constants, 0, &memory.constants)?;
        Ok(Code {
            device: Arc::clone(device),
            plans,
            kernels,
            constants,
            state_bytes: memory.state_bytes,
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
    fence: Fence,
    arena_bytes: usize,
}

impl Runner {
    /// Memory for the code. States are zero.
    ///
    /// # Errors
    /// If there is not enough, or the driver refuses.
    pub fn new(code: Arc<Code>) -> Result<Runner, Error> {
        let device = &code.device;
        let ports: Vec<Ports> = code.plans.iter().map(Ports::of).collect();
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
        let fence = new_fence(device)?;
        let mut runner = Runner {
            areas,
            entries,
            fence,
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
        self.submit_all(ports, recorded, inputs, outputs)
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

    /// Runs such an entry: its kernels in order, each with the time that it took.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn run_timed(
        &mut self,
        timed: &Timed,
        inputs: &[&Tensor],
        outputs: &mut [Tensor],
    ) -> Result<Vec<(KernelId, Duration)>, Error> {
        let (ports, _) = &self.entries[timed.entry];
        self.submit_all(ports, &timed.recorded, inputs, outputs)?;
        let mut times = Vec::new();
        for (number, &kernel) in timed.recorded.timed.iter().enumerate().take(MOST_QUERIES as usize / 2) {
            let queries = 2 * number as u32..2 * number as u32 + 2;
            let mut ticks = [0u64; 2];
            // What stands in a branch that was not taken has no time.
            let there = timed.clock.get_results(queries, &mut ticks, QueryResultFlags::empty());
            if there.map_err(Error::of("reading the clock"))? {
                let seconds = ticks[1].saturating_sub(ticks[0]) as f64 * timed.period;
                times.push((kernel, Duration::from_secs_f64(seconds)));
            }
        }
        Ok(times)
    }

    fn submit_all(
        &self,
        ports: &Ports,
        recorded: &Recorded,
        inputs: &[&Tensor],
        outputs: &mut [Tensor],
    ) -> Result<(), Error> {
        {
            let mut staging = host_write(&self.areas.staging)?;
            for (tensor, &at) in inputs.iter().zip(&ports.inputs) {
                staging[at as usize..][..tensor.bytes().len()].copy_from_slice(tensor.bytes());
            }
        }
        self.segments(&recorded.segments)?;
        let staging = host_read(&self.areas.staging)?;
        for (tensor, &at) in outputs.iter_mut().zip(&ports.outputs) {
            let bytes = tensor.bytes().len();
            tensor.bytes_mut().copy_from_slice(&staging[at as usize..][..bytes]);
        }
        Ok(())
    }

    fn segments(&self, segments: &[Segment]) -> Result<(), Error> {
        for segment in segments {
            match segment {
                Segment::Run(commands) => submit(&self.code.device, commands, &self.fence)?,
                Segment::Branch { then, otherwise } => match self.flag()? {
                    true => self.segments(then)?,
                    false => self.segments(otherwise)?,
                },
                Segment::While { condition, body } => {
                    self.segments(condition)?;
                    while self.flag()? {
                        self.segments(body)?;
                        self.segments(condition)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The condition last copied to the host.
    fn flag(&self) -> Result<bool, Error> {
        let staging = host_read(&self.areas.staging)?;
        Ok(staging[staging.len() - FLAG_BYTES as usize] != 0)
    }
}

fn new_fence(device: &Device) -> Result<Fence, Error> {
    Fence::new(Arc::clone(&device.device), Default::default()).map_err(Error::of("making a fence"))
}

/// `VkSubmitInfo`: vulkano submits only what its own builder has recorded.
#[repr(C)]
struct Submission {
    kind: i32,
    next: *const c_void,
    wait_count: u32,
    waits: *const c_void,
    wait_stages: *const c_void,
    command_count: u32,
    commands: *const c_void,
    signal_count: u32,
    signals: *const c_void,
}

/// `VK_STRUCTURE_TYPE_SUBMIT_INFO`
const SUBMISSION: i32 = 4;

/// Submits commands and waits until they have run.
fn submit(device: &Device, commands: &CommandBuffer, fence: &Fence) -> Result<(), Error> {
    let handle = commands.handle();
    let submission = Submission {
        kind: SUBMISSION,
        next: ptr::null(),
        wait_count: 0,
        waits: ptr::null(),
        wait_stages: ptr::null(),
        command_count: 1,
        commands: ptr::from_ref(&handle).cast(),
        signal_count: 0,
        signals: ptr::null(),
    };
    let lost = |error| Error::of("running")(Validated::Error(error));
    let function = device.device.fns().v1_0.queue_submit;
    // SAFETY: `Submission` is laid out as the specification says. The buffers that the commands refer to are the session's, which is
    // borrowed by the caller; the commands are not pending, for every submission is waited for below; `with` locks the queue.
    let result = device.queue.with(|_| unsafe {
        function(
            device.queue.handle(),
            1,
            ptr::from_ref(&submission).cast(),
            fence.handle(),
        )
    });
    result.result().map_err(|code| lost(VulkanError::from(code)))?;
    fence.wait(None).map_err(lost)?;
    // SAFETY: the submission that used it has ended.
    unsafe { fence.reset() }.map_err(Error::of("running"))
}

fn host_write(buffer: &Subbuffer<[u8]>) -> Result<vulkano::buffer::BufferWriteGuard<'_, [u8]>, Error> {
    buffer.write().map_err(|error| Error::Refused {
        doing: "writing to memory shared with the device".to_owned(),
        reason: error.to_string(),
    })
}

fn host_read(buffer: &Subbuffer<[u8]>) -> Result<vulkano::buffer::BufferReadGuard<'_, [u8]>, Error> {
    buffer.read().map_err(|error| Error::Refused {
        doing: "reading from memory shared with the device".to_owned(),
        reason: error.to_string(),
    })
}

/// Copies bytes to the device.
fn upload(device: &Device, to: &Subbuffer<[u8]>, offset: u64, bytes: &[u8]) -> Result<(), Error> {
    if bytes.is_empty() {
        return Ok(());
    }
    let staging = device.block(bytes.len() as u64, Home::Host)?;
    host_write(&staging)?[..bytes.len()].copy_from_slice(bytes);
    transfer(device, (&staging, 0), (to, offset), bytes.len() as u64)
}

/// Copies bytes from the device.
fn download(device: &Device, from: &Subbuffer<[u8]>, offset: u64, bytes: usize) -> Result<Vec<u8>, Error> {
    if bytes == 0 {
        return Ok(Vec::new());
    }
    let staging = device.block(bytes as u64, Home::Host)?;
    transfer(device, (from, offset), (&staging, 0), bytes as u64)?;
    Ok(host_read(&staging)?[..bytes].to_vec())
}

fn transfer(
    device: &Device,
    from: (&Subbuffer<[u8]>, u64),
    to: (&Subbuffer<[u8]>, u64),
    bytes: u64,
) -> Result<(), Error> {
    let mut commands = record::begin(device, CommandBufferUsage::OneTimeSubmit)?;
    record::copy(&mut commands, from, to, bytes)?;
    submit(device, &record::finish(commands)?, &new_fence(device)?)
}

/// Finds out whether the device's multiplication with addition rounds once, for `f32` or `f64`: Vulkan lets it round twice.
///
/// # Errors
/// If the device refuses.
pub fn fuses(device: &Arc<Device>, dtype: DType) -> Result<bool, Error> {
    // The last bit of x², which a product rounded by itself loses.
    let half = match dtype {
        DType::F64 => 27,
        _ => 12,
    };
    let x = 1.0 + f64::powi(2.0, -half);
    let z = -(1.0 + f64::powi(2.0, 1 - half));
    let code = Code {
        device: Arc::clone(device),
        plans: vec![one_fma_plan(dtype)],
        kernels: vec![Kernel::new(device, &one_fma(dtype))?],
        constants: device.block(0, Home::Device)?,
        state_bytes: 0,
    };
    let mut runner = Runner::new(Arc::new(code))?;
    let scalar = |value| Tensor::scalar(dtype, Scalar::Float(value));
    let mut result = [scalar(0.0)];
    runner.run(0, &[&scalar(x), &scalar(z)], &mut result)?;
    Ok(result[0].get(0).as_f64() == f64::powi(2.0, -2 * half))
}

/// `y = x · x + z`
fn one_fma(dtype: DType) -> Nest {
    let mut exprs = Exprs::default();
    let once = exprs.add_axis(1);
    let [x, z] = [0, 1].map(|number| exprs.load(BufferId(number), dtype, vec![], false));
    let value = exprs.prim(Prim::Fma, dtype, &[x, x, z]);
    let extent = exprs.int(1);
    let buffer = |name: &str, role| Buffer {
        name: name.to_owned(),
        ty: Type::new(dtype, []),
        role,
    };
    let store = Stmt::Store {
        buffer: BufferId(2),
        index: vec![],
        value,
    };
    Nest {
        name: "one_fma".to_owned(),
        axes: vec![Axis {
            name: "once".to_owned(),
            extent: 1,
        }],
        buffers: vec![
            buffer("x", Role::Input),
            buffer("z", Role::Input),
            buffer("y", Role::Output),
        ],
        locals: Vec::new(),
        exprs,
        body: vec![Stmt::Loop {
            axis: once,
            extent,
            bind: Bind::Workers,
            body: vec![store],
        }],
    }
}

fn one_fma_plan(dtype: DType) -> Plan {
    let port = |name: &str| Port {
        name: name.to_owned(),
        ty: Type::new(dtype, []),
    };
    let place = |base| Place {
        base,
        offset: 0,
        strides: Vec::new(),
        bytes: dtype.size_bytes(),
    };
    Plan {
        name: "one_fma".to_owned(),
        inputs: vec![port("x"), port("z")],
        outputs: vec![port("y")],
        steps: vec![Step::Kernel {
            kernel: KernelId(0),
            buffers: [Base::Input(0), Base::Input(1), Base::Output(0)].map(place).to_vec(),
            nodes: Vec::new(),
        }],
        shared_bytes: 0,
        worker_bytes: 0,
        parallel: false,
    }
}
