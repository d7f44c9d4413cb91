//! Submission: commands to the device's queue, and bytes between host and device.

use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use netloom_ir::Tensor;
use vulkano::buffer::{BufferReadGuard, BufferWriteGuard, Subbuffer};
use vulkano::command_buffer::{CommandBuffer, CommandBufferUsage};
use vulkano::sync::fence::Fence;
use vulkano::{Validated, VulkanError, VulkanObject};

use super::Error;
use super::commands::{Ports, Segment};
use super::device::{Device, Home};
use super::record::{self, FLAG_BYTES};

/// Submits commands, and decides between them where a condition does.
pub struct Submitter {
    device: Arc<Device>,
    fence: Fence,
    driver_time: Duration,
}

impl Submitter {
    /// For the queue of a device.
    ///
    /// # Errors
    /// If the driver refuses.
    pub fn new(device: &Arc<Device>) -> Result<Submitter, Error> {
        Ok(Submitter {
            device: Arc::clone(device),
            fence: new_fence(device)?,
            driver_time: Duration::ZERO,
        })
    }

    /// How long the driver has taken to submit and to wait, so far.
    pub fn driver_time(&self) -> Duration {
        self.driver_time
    }

    /// Runs segments one after the other, to the end; conditions are found in `staging`.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn run(&mut self, segments: &[Segment<CommandBuffer>], staging: &Subbuffer<[u8]>) -> Result<(), Error> {
        for segment in segments {
            match segment {
                Segment::Run(commands) => {
                    let start = Instant::now();
                    submit_and_wait(&self.device, commands, &self.fence)?;
                    self.driver_time += start.elapsed();
                }
                Segment::Branch { then, otherwise } => match flag(staging)? {
                    true => self.run(then, staging)?,
                    false => self.run(otherwise, staging)?,
                },
                Segment::While { condition, body } => {
                    self.run(condition, staging)?;
                    while flag(staging)? {
                        self.run(body, staging)?;
                        self.run(condition, staging)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Waits until everything that was submitted has run.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn settle(&self) -> Result<(), Error> {
        // SAFETY: `with` locks the only queue.
        let done = self.device.queue.with(|mut queue| queue.wait_idle());
        done.map_err(lost)
    }

    /// Submits segments without waiting for them where no condition needs it; they must be kept until [`Submitter::settle`] has ended.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn enqueue(&mut self, segments: &[Segment<CommandBuffer>], staging: &Subbuffer<[u8]>) -> Result<(), Error> {
        for segment in segments {
            match segment {
                Segment::Run(commands) => submit(&self.device, commands, None)?,
                // The host is about to look at what was submitted before.
                Segment::Branch { .. } | Segment::While { .. } => {
                    self.settle()?;
                    self.run(std::slice::from_ref(segment), staging)?;
                }
            }
        }
        Ok(())
    }
}

/// The condition last copied to the host.
fn flag(staging: &Subbuffer<[u8]>) -> Result<bool, Error> {
    let staging = host_read(staging)?;
    Ok(staging[staging.len() - FLAG_BYTES as usize] != 0)
}

/// Puts arguments where the device takes them.
///
/// # Errors
/// If the driver refuses.
pub fn give(staging: &Subbuffer<[u8]>, ports: &Ports, inputs: &[&Tensor]) -> Result<(), Error> {
    let mut staging = host_write(staging)?;
    for (tensor, port) in inputs.iter().zip(&ports.inputs) {
        staging[port.start as usize..][..tensor.bytes().len()].copy_from_slice(tensor.bytes());
    }
    Ok(())
}

/// Takes results from where the device has put them.
///
/// # Errors
/// If the driver refuses.
pub fn take(staging: &Subbuffer<[u8]>, ports: &Ports, outputs: &mut [Tensor]) -> Result<(), Error> {
    let staging = host_read(staging)?;
    for (tensor, port) in outputs.iter_mut().zip(&ports.outputs) {
        let bytes = tensor.bytes().len();
        tensor
            .bytes_mut()
            .copy_from_slice(&staging[port.start as usize..][..bytes]);
    }
    Ok(())
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

/// Submits commands and waits until they, and all that were submitted before, have run.
fn submit_and_wait(device: &Device, commands: &CommandBuffer, fence: &Fence) -> Result<(), Error> {
    submit(device, commands, Some(fence))?;
    fence.wait(None).map_err(lost)?;
    // SAFETY: the submission that used it has ended.
    unsafe { fence.reset() }.map_err(Error::of("running"))
}

/// Submits commands, which the caller keeps until a fence after them has been waited for.
fn submit(device: &Device, commands: &CommandBuffer, fence: Option<&Fence>) -> Result<(), Error> {
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
    let function = device.device.fns().v1_0.queue_submit;
    // SAFETY: `Submission` is laid out as the specification says. The buffers that the commands refer to are the session's, which is
    // borrowed by the caller until it has waited; the commands are not pending, for each run waits for its last submission; `with` locks the queue.
    let result = device.queue.with(|_| unsafe {
        function(
            device.queue.handle(),
            1,
            ptr::from_ref(&submission).cast(),
            fence.map(Fence::handle).unwrap_or_default(),
        )
    });
    result.result().map_err(|code| lost(VulkanError::from(code)))
}

fn lost(error: VulkanError) -> Error {
    Error::of("running")(Validated::Error(error))
}

fn host_write(buffer: &Subbuffer<[u8]>) -> Result<BufferWriteGuard<'_, [u8]>, Error> {
    buffer.write().map_err(|error| Error::Refused {
        doing: "writing to memory shared with the device".to_owned(),
        reason: error.to_string(),
    })
}

fn host_read(buffer: &Subbuffer<[u8]>) -> Result<BufferReadGuard<'_, [u8]>, Error> {
    buffer.read().map_err(|error| Error::Refused {
        doing: "reading from memory shared with the device".to_owned(),
        reason: error.to_string(),
    })
}

/// Copies bytes to the device.
///
/// # Errors
/// If there is no memory to stage them, or the device is lost.
pub fn upload(device: &Device, to: &Subbuffer<[u8]>, offset: u64, bytes: &[u8]) -> Result<(), Error> {
    if bytes.is_empty() {
        return Ok(());
    }
    let staging = device.block(bytes.len() as u64, Home::Host)?;
    host_write(&staging)?[..bytes.len()].copy_from_slice(bytes);
    transfer(device, (&staging, 0), (to, offset), bytes.len() as u64)
}

/// A block of the device that holds these bytes.
///
/// # Errors
/// If there is no memory, or the device is lost.
pub fn filled(device: &Device, bytes: &[u8]) -> Result<Subbuffer<[u8]>, Error> {
    let block = device.block(bytes.len() as u64, Home::Device)?;
    upload(device, &block, 0, bytes)?;
    Ok(block)
}

/// Copies bytes from the device.
///
/// # Errors
/// If there is no memory to stage them, or the device is lost.
pub fn download(device: &Device, from: &Subbuffer<[u8]>, offset: u64, bytes: usize) -> Result<Vec<u8>, Error> {
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
    submit_and_wait(device, &record::finish(commands)?, &new_fence(device)?)
}
