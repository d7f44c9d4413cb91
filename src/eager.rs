//! Eager execution: the same graphs, one kernel for each operation, a buffer for each result.
//!
//! What PyTorch does without its compiler, with our kernels and threads: the honest baseline for what compilation brings.

use netloom_ir::program::Program;
use netloom_ir::{Tensor, fuse};

use crate::cpu;
use crate::cpu::memory::Block;
use crate::device::Device;
use crate::error::Error;
#[cfg(feature = "vulkan")]
use crate::gpu;
use crate::layout::Layouts;
use crate::plan::{self, Kernels, Memory, Outline, Step};
use crate::session::Session;

/// A program to be run operation by operation.
pub struct Eager {
    outlines: Vec<Outline>,
    dispatcher: Dispatcher,
    counted: Vec<usize>,
}

/// What calls the kernels.
enum Dispatcher {
    Cpu(Box<cpu::dispatch::Dispatcher>, Block),
    #[cfg(feature = "vulkan")]
    Vulkan(Box<gpu::dispatch::Dispatcher>),
}

impl Dispatcher {
    fn run(&mut self, outline: &Outline, inputs: &[&Tensor], outputs: &mut [Tensor]) -> Result<(), Error> {
        match self {
            Dispatcher::Cpu(dispatcher, states) => dispatcher.run(outline, states, inputs, outputs)?,
            #[cfg(feature = "vulkan")]
            Dispatcher::Vulkan(dispatcher) => dispatcher.run(outline, inputs, outputs)?,
        }
        Ok(())
    }

    fn allocations(&self) -> usize {
        match self {
            Dispatcher::Cpu(dispatcher, _) => dispatcher.allocations(),
            #[cfg(feature = "vulkan")]
            Dispatcher::Vulkan(dispatcher) => dispatcher.allocations(),
        }
    }

    fn peak_bytes(&self) -> usize {
        match self {
            Dispatcher::Cpu(dispatcher, _) => dispatcher.peak_bytes(),
            #[cfg(feature = "vulkan")]
            Dispatcher::Vulkan(dispatcher) => dispatcher.peak_bytes(),
        }
    }
}

impl Eager {
    /// Compiles a kernel for each distinct operation; states start as they are in `session`, which runs the same program. On a CPU the
    /// kernels are run by `threads` workers.
    ///
    /// # Errors
    /// If the program is wrong, or there is no code for the device.
    pub fn new(
        program: &Program,
        device: impl Into<Device>,
        threads: usize,
        session: &Session,
    ) -> Result<Eager, Error> {
        program.verify()?;
        let device = device.into();
        let layouts = Layouts::dense();
        let mut memory = Memory::new(&program.states, &layouts);
        let mut kernels = Kernels::new(device.target());
        let outlines: Vec<Outline> = program
            .entries
            .iter()
            .map(|entry| {
                plan::outline(
                    &entry.name,
                    &entry.graph,
                    fuse::singletons,
                    &layouts,
                    &mut memory,
                    &mut kernels,
                )
            })
            .collect::<Result<_, _>>()?;
        let states = memory.state_values(session)?;
        let dispatcher = match &device {
            Device::Cpu(cpu) => {
                let new = cpu::dispatch::Dispatcher::new(&kernels, &outlines, &memory, cpu, threads)?;
                Dispatcher::Cpu(Box::new(new), Block::of(&states)?)
            }
            #[cfg(feature = "vulkan")]
            Device::Vulkan(device) => {
                let constants = &memory.constants;
                let new = gpu::dispatch::Dispatcher::new(&kernels, &outlines, constants, &states, device)?;
                Dispatcher::Vulkan(Box::new(new))
            }
        };
        let counted = vec![0; outlines.len()];
        Ok(Eager {
            outlines,
            dispatcher,
            counted,
        })
    }

    /// Runs an entry; see [`Session::run`].
    ///
    /// # Errors
    /// If there is no such entry or not enough memory.
    ///
    /// # Panics
    /// If the tensors are not of the entry's types.
    pub fn run(&mut self, entry: &str, inputs: &[&Tensor], outputs: &mut [Tensor]) -> Result<(), Error> {
        let number = self.number(entry)?;
        let before = self.dispatcher.allocations();
        self.dispatcher.run(&self.outlines[number], inputs, outputs)?;
        self.counted[number] = self.dispatcher.allocations() - before;
        Ok(())
    }

    /// The number of kernels that one run of an entry starts.
    pub fn kernel_runs(&self, entry: &str) -> usize {
        self.number(entry).map_or(0, |number| {
            self.outlines[number].steps.iter().map(Step::kernel_runs).sum()
        })
    }

    /// Bytes that the kernels of one run of an entry read and write.
    pub fn bytes_moved(&self, entry: &str) -> usize {
        self.number(entry).map_or(0, |number| {
            self.outlines[number].steps.iter().map(Step::bytes_moved).sum()
        })
    }

    /// Buffers allocated by the last run of an entry.
    pub fn allocations(&self, entry: &str) -> usize {
        self.number(entry).map_or(0, |number| self.counted[number])
    }

    /// The most bytes of results alive at once, so far.
    pub fn peak_bytes(&self) -> usize {
        self.dispatcher.peak_bytes()
    }

    fn number(&self, entry: &str) -> Result<usize, Error> {
        let known = self.outlines.iter().position(|outline| outline.name == entry);
        known.ok_or_else(|| Error::Unknown(format!("there is no entry `{entry}`")))
    }
}
