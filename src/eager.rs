//! Eager execution: the same graphs, one kernel for each operation, a buffer for each result.
//!
//! What PyTorch does without its compiler, with our kernels and threads: the honest baseline for what compilation brings. Since every
//! value is there for a moment, it also finds the first one that is no number.

use netloom_ir::graph::{Graph, NodeId};
use netloom_ir::ops::Op;
use netloom_ir::program::Program;
use netloom_ir::{DType, Tensor, fuse};

use crate::cpu;
use crate::device::Device;
use crate::error::Error;
#[cfg(feature = "vulkan")]
use crate::gpu;
use crate::layout::Layouts;
use crate::plan::{self, Kernels, Memory, Outline, Step};
use crate::session::Session;

/// A program to be run operation by operation.
pub struct Eager {
    graphs: Vec<Graph>,
    outlines: Vec<Outline>,
    dispatcher: Dispatcher,
    counted: Vec<usize>,
}

/// What calls the kernels.
enum Dispatcher {
    Cpu(Box<cpu::dispatch::Dispatcher>),
    #[cfg(feature = "vulkan")]
    Vulkan(Box<gpu::dispatch::Dispatcher>),
}

/// Called after each step with its number and the bytes of the results it wrote; ends the run by giving `false`.
type Observe<'a> = dyn FnMut(usize, &[&[u8]]) -> bool + 'a;

impl Dispatcher {
    fn run(
        &mut self,
        outline: &Outline,
        inputs: &[&Tensor],
        outputs: &mut [Tensor],
        observe: Option<&mut Observe<'_>>,
    ) -> Result<(), Error> {
        match self {
            Dispatcher::Cpu(dispatcher) => {
                dispatcher.run(outline, inputs, outputs, observe.unwrap_or(&mut |_, _| true))?;
            }
            #[cfg(feature = "vulkan")]
            Dispatcher::Vulkan(dispatcher) => dispatcher.run(outline, inputs, outputs, observe)?,
        }
        Ok(())
    }

    fn allocations(&self) -> usize {
        match self {
            Dispatcher::Cpu(dispatcher) => dispatcher.allocations(),
            #[cfg(feature = "vulkan")]
            Dispatcher::Vulkan(dispatcher) => dispatcher.allocations(),
        }
    }

    fn peak_bytes(&self) -> usize {
        match self {
            Dispatcher::Cpu(dispatcher) => dispatcher.peak_bytes(),
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
        let graphs: Vec<Graph> = program.entries.iter().map(|entry| entry.graph.clone()).collect();
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
            .collect();
        let states = memory.state_values(session)?;
        let (constants, states) = (&memory.constants, &states);
        let dispatcher = match &device {
            Device::Cpu(cpu) => {
                let new = cpu::dispatch::Dispatcher::new(&kernels, &outlines, constants, states, cpu, threads)?;
                Dispatcher::Cpu(Box::new(new))
            }
            #[cfg(feature = "vulkan")]
            Device::Vulkan(device) => {
                let new = gpu::dispatch::Dispatcher::new(&kernels, &outlines, constants, states, device)?;
                Dispatcher::Vulkan(Box::new(new))
            }
        };
        let counted = vec![0; outlines.len()];
        Ok(Eager {
            graphs,
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
        self.dispatcher.run(&self.outlines[number], inputs, outputs, None)?;
        self.counted[number] = self.dispatcher.allocations() - before;
        Ok(())
    }

    /// Runs an entry and names the first operation, with the place it came from, whose result holds a NaN or an infinity though none of its
    /// operands does.
    ///
    /// # Errors
    /// As [`Eager::run`].
    pub fn first_not_finite(
        &mut self,
        entry: &str,
        inputs: &[&Tensor],
        outputs: &mut [Tensor],
    ) -> Result<Option<String>, Error> {
        let number = self.number(entry)?;
        let (graph, outline) = (&self.graphs[number], &self.outlines[number]);
        let mut found = None;
        let mut observe = |step: usize, written: &[&[u8]]| {
            let Step::Kernel { nodes, .. } = &outline.steps[step] else {
                return true;
            };
            let Some(&id) = nodes.last() else { return true };
            if !graph.node(id).types.iter().all(|ty| ty.dtype.is_float())
                || written.iter().all(|bytes| finite(graph, id, bytes))
            {
                return true;
            }
            let node = graph.node(id);
            found = Some(format!("{id} = {} ({}) at {}", node.op.name(), node.types[0], node.loc));
            false
        };
        self.dispatcher.run(outline, inputs, outputs, Some(&mut observe))?;
        Ok(found)
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

/// Whether all elements of a node's result are numbers. Minus infinity is what maxima start from, so constants do not count.
fn finite(graph: &Graph, id: NodeId, bytes: &[u8]) -> bool {
    let node = graph.node(id);
    if matches!(node.op, Op::Const(_) | Op::View(_)) {
        return true;
    }
    let dtype: DType = node.types[0].dtype;
    let count = bytes.len() / dtype.size_bytes();
    Tensor::from_bytes(dtype, [count], bytes.to_vec())
        .scalars()
        .all(|value| value.as_f64().is_finite())
}
