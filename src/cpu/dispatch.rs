//! Eager execution: the host goes through the steps, gives each result a buffer of its own, and calls one kernel at a time.

use std::time::{Duration, Instant};

use netloom_ir::Tensor;
use netloom_ir::graph::NodeId;

use super::Error;
use super::entry::{ARENA_HEADER_BYTES, Call, emit_barrier};
use super::isa::Cpu;
use super::jit::{Jit, KernelFn};
use super::memory::Block;
use super::runner::is_of_type;
use super::threads::{Pool, yield_to_others};
use crate::buffers::Buffers;
use crate::plan::{ALIGN, Base, KernelCall, KernelId, Kernels, Memory, Outline, Place, Step, is_shared_kernel};

/// Kernels, each compiled once, and the memory and threads to call them.
pub struct Dispatcher {
    /// Owns the memory that `functions` point into.
    _jit: Jit,
    kernels: Vec<Callable>,
    constants: Block,
    state_bytes: usize,
    /// What barriers and worker scratch need.
    arena: Block,
    worker_bytes: usize,
    pool: Pool,
    temps: Buffers<Block>,
    /// The calls of kernels so far, if they are to be remembered.
    calls: Option<Vec<KernelCall>>,
}

/// A kernel ready to be called.
#[derive(Clone)]
struct Callable {
    function: KernelFn,
    /// Whether several workers share in it.
    shared: bool,
    /// How often it has run, and for how long, since the times were last taken.
    times: (usize, Duration),
}

/// The memory of one run that is the caller's.
struct Frame<'a> {
    outline: &'a Outline,
    states: *mut u8,
    inputs: Vec<*mut u8>,
    outputs: Vec<*mut u8>,
    /// The iteration numbers of the enclosing repeats, outermost first.
    iterations: Vec<usize>,
    /// The number of enclosing repeats, branches and loops.
    depth: usize,
    /// When the run began.
    begun: Instant,
}

// SAFETY: the pool's threads touch the memory only within `run`; the code is immutable.
unsafe impl Send for Dispatcher {}

impl Dispatcher {
    /// Compiles the kernels of some outlines.
    ///
    /// # Errors
    /// If there is no code for the CPU or not enough memory.
    pub fn new(
        kernels: &Kernels,
        outlines: &[Outline],
        memory: &Memory,
        cpu: &Cpu,
        threads: usize,
    ) -> Result<Dispatcher, Error> {
        let mut jit = Jit::new(cpu)?;
        emit_barrier(jit.parts().0)?;
        let ids = jit.emit(kernels.nests())?;
        jit.finish()?;
        let callables = ids
            .into_iter()
            .zip(kernels.nests())
            .map(|(id, nest)| {
                let address = jit.address(id);
                // SAFETY: `Jit::emit` defines functions of the kernel ABI.
                let function = unsafe { std::mem::transmute::<*const u8, KernelFn>(address) };
                Callable {
                    function,
                    shared: is_shared_kernel(nest),
                    times: Default::default(),
                }
            })
            .collect();
        let pool = Pool::new(threads)?;
        let worker_bytes = outlines.iter().map(|outline| outline.worker_bytes).max().unwrap_or(0);
        let temps = outlines.iter().map(|outline| outline.temps.len()).max().unwrap_or(0);
        Ok(Dispatcher {
            _jit: jit,
            kernels: callables,
            constants: Block::of(&memory.constants)?,
            state_bytes: memory.state_bytes,
            arena: Block::zeroed(ARENA_HEADER_BYTES + worker_bytes * pool.workers())?,
            worker_bytes,
            pool,
            temps: Buffers::new(temps),
            calls: None,
        })
    }

    /// From now on remembers every call of a kernel; gives those since this was last asked.
    pub fn take_calls(&mut self) -> Vec<KernelCall> {
        self.calls.replace(Vec::new()).unwrap_or_default()
    }

    /// The most bytes of results alive at once, so far.
    pub fn peak_bytes(&self) -> usize {
        self.temps.peak_bytes()
    }

    /// Buffers allocated so far.
    pub fn allocations(&self) -> usize {
        self.temps.allocations()
    }

    /// How often each kernel has run, and for how long, since this was last asked.
    pub fn take_times(&mut self) -> Vec<(usize, Duration)> {
        self.kernels
            .iter_mut()
            .map(|kernel| std::mem::take(&mut kernel.times))
            .collect()
    }

    /// Runs the steps of an outline on a block of states.
    ///
    /// # Panics
    /// If arguments or results are not of the outline's types, or the states not as many bytes as the outlines' memory has.
    pub fn run(
        &mut self,
        outline: &Outline,
        states: &mut Block,
        inputs: &[&Tensor],
        outputs: &mut [Tensor],
    ) -> Result<(), Error> {
        assert_eq!(states.bytes().len(), self.state_bytes, "bytes of states");
        assert!(inputs.len() == outline.inputs.len() && outputs.len() == outline.outputs.len());
        let fits = |tensor: &Tensor, port: &crate::plan::Port| is_of_type(tensor, &port.ty);
        assert!(
            inputs
                .iter()
                .zip(&outline.inputs)
                .all(|(tensor, port)| fits(tensor, port))
        );
        assert!(
            outputs
                .iter()
                .zip(&outline.outputs)
                .all(|(tensor, port)| fits(tensor, port))
        );
        let inputs: Vec<*mut u8> = inputs.iter().map(|tensor| tensor.bytes().as_ptr().cast_mut()).collect();
        let outputs: Vec<*mut u8> = outputs
            .iter_mut()
            .map(|tensor| tensor.bytes_mut().as_mut_ptr())
            .collect();
        let mut frame = Frame {
            outline,
            states: states.address(),
            inputs,
            outputs,
            iterations: Vec::new(),
            depth: 0,
            begun: Instant::now(),
        };
        for (number, step) in outline.steps.iter().enumerate() {
            self.step(step, &mut frame)?;
            for &temp in &outline.freed_after[number] {
                self.temps.give_back(temp);
            }
        }
        self.temps.give_back_all();
        Ok(())
    }

    fn step(&mut self, step: &Step, frame: &mut Frame<'_>) -> Result<(), Error> {
        match step {
            Step::Kernel { kernel, buffers, nodes } => self.kernel(*kernel, buffers, nodes, frame),
            Step::Copy { from, to } => {
                let (source, target) = (self.address(from, frame, 0)?, self.address(to, frame, 0)?);
                // SAFETY: a plan's copies are between places of equal length that do not overlap.
                unsafe { std::ptr::copy_nonoverlapping(source, target, from.bytes) };
                Ok(())
            }
            Step::Count { to, from_end } => {
                let iteration = *frame.iterations.last().expect("a count stands in a repeat");
                let value = from_end.map_or(iteration, |times| times - 1 - iteration) as i64;
                let target = self.address(to, frame, 0)?;
                // SAFETY: the place has the 8 bytes of an `i64`.
                unsafe { target.cast::<i64>().write_unaligned(value) };
                Ok(())
            }
            Step::Barrier => Ok(()),
            Step::Repeat { times, body } => {
                for iteration in 0..*times {
                    frame.iterations.push(iteration);
                    self.inner(body, frame)?;
                    frame.iterations.pop();
                }
                Ok(())
            }
            Step::Branch {
                condition,
                then,
                otherwise,
            } => {
                let body = if self.truth(condition, frame)? { then } else { otherwise };
                self.inner(body, frame)
            }
            Step::While { condition, go_on, body } => loop {
                self.inner(condition, frame)?;
                if !self.truth(go_on, frame)? {
                    return Ok(());
                }
                self.inner(body, frame)?;
            },
        }
    }

    /// The steps of a body.
    fn inner(&mut self, steps: &[Step], frame: &mut Frame<'_>) -> Result<(), Error> {
        frame.depth += 1;
        let done = steps.iter().try_for_each(|step| self.step(step, frame));
        frame.depth -= 1;
        done
    }

    fn kernel(
        &mut self,
        kernel: KernelId,
        buffers: &[Place],
        nodes: &[NodeId],
        frame: &Frame<'_>,
    ) -> Result<(), Error> {
        let Callable { function, shared, .. } = self.kernels[kernel.0].clone();
        let workers = if shared { self.pool.workers() } else { 1 };
        let mut addresses = Vec::with_capacity(workers);
        for worker in 0..workers {
            let mut own = Vec::with_capacity(buffers.len());
            for place in buffers {
                own.push(self.address(place, frame, worker)?);
            }
            addresses.push(own);
        }
        let call = Call {
            inputs: std::ptr::null(),
            outputs: std::ptr::null(),
            states: frame.states,
            constants: self.constants.address(),
            arena: self.arena.address(),
            wait: Some(yield_to_others),
        };
        let parts = Parts {
            call: &call,
            addresses: &addresses,
        };
        let task = |worker: usize| {
            let (call, addresses) = parts.get();
            // SAFETY: the nest was verified; its buffers have the lengths its plan gave them, scratch is each worker's own.
            unsafe {
                function(
                    addresses[worker].as_ptr(),
                    std::ptr::from_ref(call).cast(),
                    worker as u64,
                    workers as u64,
                )
            }
        };
        let start = Instant::now();
        if shared {
            self.pool.run(&task)
        } else {
            task(0)
        }
        let took = start.elapsed();
        let (runs, time) = &mut self.kernels[kernel.0].times;
        *runs += 1;
        *time += took;
        if let Some(calls) = &mut self.calls {
            calls.push(KernelCall {
                kernel,
                nodes: if frame.depth > 0 { Vec::new() } else { nodes.to_vec() },
                start: start - frame.begun,
                took,
            });
        }
        Ok(())
    }

    fn truth(&mut self, place: &Place, frame: &Frame<'_>) -> Result<bool, Error> {
        let address = self.address(place, frame, 0)?;
        // SAFETY: the place is a `bool` that a step before wrote.
        Ok(unsafe { address.read() } != 0)
    }

    fn address(&mut self, place: &Place, frame: &Frame<'_>, worker: usize) -> Result<*mut u8, Error> {
        let base = match place.base {
            Base::Input(number) => frame.inputs[number],
            Base::Output(number) => frame.outputs[number],
            Base::States => frame.states,
            Base::Constants => self.constants.address(),
            Base::Worker => self
                .arena
                .address()
                .wrapping_add(ARENA_HEADER_BYTES + worker * self.worker_bytes),
            Base::Arena => unreachable!("an outline has no arena"),
            Base::Temp(temp) => {
                let bytes = frame.outline.temps[temp.0].next_multiple_of(ALIGN);
                self.temps.take(temp.0, bytes, || Block::zeroed(bytes))?.address()
            }
        };
        let moved: isize = place
            .strides
            .iter()
            .zip(&frame.iterations)
            .map(|(stride, &iteration)| stride * iteration as isize)
            .sum();
        Ok(base.wrapping_add(place.offset).wrapping_offset(moved))
    }
}

/// What every worker of a kernel is given.
struct Parts<'a> {
    call: &'a Call,
    addresses: &'a [Vec<*mut u8>],
}

impl<'a> Parts<'a> {
    fn get(&self) -> (&'a Call, &'a [Vec<*mut u8>]) {
        (self.call, self.addresses)
    }
}

// SAFETY: workers only read the lists; what the addresses point to they share as the nest's `Workers` loops and barriers allow.
unsafe impl Sync for Parts<'_> {}
