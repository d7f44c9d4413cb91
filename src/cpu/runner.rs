//! Running entries: blocks of memory, and the call into machine code.

use std::sync::Arc;
use std::time::Instant;

use netloom_ir::kernel::Nest;
use netloom_ir::{Tensor, Type};

use super::Error;
use super::entry::{Call, EntryFn, arena_bytes, emit_barrier};
use super::isa::Cpu;
use super::jit::Jit;
use super::memory::Block;
use super::threads::{Pool, yield_to_others};
use crate::compile::Stages;
use crate::plan::{Memory, Plan};

/// Machine code of plans, ready to be called.
pub struct Code {
    /// Owns the memory that `entries` point into.
    _jit: Jit,
    plans: Vec<Plan>,
    /// By plan.
    entries: Vec<EntryFn>,
    constants: Block,
    state_bytes: usize,
}

// SAFETY: the code is immutable once finished and holds no thread-bound state; `Jit` is only kept so that it is freed last.
unsafe impl Send for Code {}
// SAFETY: as above.
unsafe impl Sync for Code {}

impl Code {
    /// Emits the kernels and plans of one program into this process, and notes how long that took.
    ///
    /// # Errors
    /// If this machine cannot run code for the CPU, or there is no code or no memory for it.
    pub fn emit(
        cpu: &Cpu,
        nests: &[Nest],
        plans: Vec<Plan>,
        memory: &Memory,
        stages: &mut Stages,
    ) -> Result<Code, Error> {
        let mut jit = Jit::new(cpu)?;
        let start = Instant::now();
        let barrier = emit_barrier(jit.parts().0)?;
        let entries: Vec<_> = plans
            .iter()
            .map(|plan| (format!("entry_{}", plan.name), plan))
            .collect();
        let (module, emitter) = jit.parts();
        let functions = emitter.emit_entries(module, nests, barrier, &entries)?;
        stages.add("emit", start.elapsed());
        stages.time("link", || jit.finish())?;
        let entries = functions
            .into_iter()
            .map(|function| {
                // SAFETY: the address is that of a function emitted for an entry above, which has this type, and `jit` is kept as long.
                unsafe { std::mem::transmute::<*const u8, EntryFn>(jit.address(function)) }
            })
            .collect();
        Ok(Code {
            _jit: jit,
            plans,
            entries,
            constants: Block::of(&memory.constants)?,
            state_bytes: memory.state_bytes,
        })
    }

    /// The plans of the entries, in order.
    pub fn plans(&self) -> &[Plan] {
        &self.plans
    }

    /// Bytes of the block of states.
    pub fn state_bytes(&self) -> usize {
        self.state_bytes
    }

    /// Bytes of an arena for so many workers.
    pub fn arena_bytes(&self, workers: usize) -> usize {
        let plans = self.plans.iter().map(|plan| arena_bytes(plan, workers));
        plans.max().unwrap_or(0)
    }
}

/// The memory and threads of one session.
pub struct Runner {
    code: Arc<Code>,
    states: Block,
    arena: Block,
    pool: Pool,
    inputs: Vec<*const u8>,
    outputs: Vec<*mut u8>,
}

// SAFETY: the pointers in `inputs` and `outputs` are only used within `run`.
unsafe impl Send for Runner {}

impl Runner {
    /// Memory for the code, with so many workers. States are zero.
    pub fn new(code: Arc<Code>, threads: usize) -> Result<Runner, Error> {
        let pool = Pool::new(threads)?;
        let arena = code.arena_bytes(pool.workers());
        let inputs = code.plans().iter().map(|plan| plan.inputs.len()).max().unwrap_or(0);
        let outputs = code.plans().iter().map(|plan| plan.outputs.len()).max().unwrap_or(0);
        Ok(Runner {
            states: Block::zeroed(code.state_bytes)?,
            arena: Block::zeroed(arena)?,
            pool,
            inputs: Vec::with_capacity(inputs),
            outputs: Vec::with_capacity(outputs),
            code,
        })
    }

    /// The code.
    pub fn code(&self) -> &Code {
        &self.code
    }

    /// The number of workers.
    pub fn workers(&self) -> usize {
        self.pool.workers()
    }

    /// Bytes of arena.
    pub fn arena_bytes(&self) -> usize {
        self.arena.bytes().len()
    }

    /// The block of states.
    pub fn states(&self) -> &[u8] {
        self.states.bytes()
    }

    /// Takes turns with another of the same states: they go to that one, and its own come here.
    pub fn exchange_states(&mut self, other: &mut Runner) {
        assert_eq!(self.code.state_bytes, other.code.state_bytes, "states of one program");
        std::mem::swap(&mut self.states, &mut other.states);
    }

    /// The block of states, to be overwritten.
    pub fn states_mut(&mut self) -> &mut [u8] {
        self.states.bytes_mut()
    }

    /// Runs an entry. Allocates nothing.
    ///
    /// # Panics
    /// If the arguments' or results' number or types are not the plan's; [`crate::session`] checks before.
    pub fn run(&mut self, entry: usize, inputs: &[&Tensor], outputs: &mut [Tensor]) {
        let (plan, function) = (&self.code.plans[entry], self.code.entries[entry]);
        assert_eq!(inputs.len(), plan.inputs.len(), "arguments");
        assert_eq!(outputs.len(), plan.outputs.len(), "results");
        self.inputs.clear();
        for (tensor, port) in inputs.iter().zip(&plan.inputs) {
            assert!(is_of_type(tensor, &port.ty), "argument `{}`", port.name);
            self.inputs.push(tensor.bytes().as_ptr());
        }
        self.outputs.clear();
        for (tensor, port) in outputs.iter_mut().zip(&plan.outputs) {
            assert!(is_of_type(tensor, &port.ty), "result `{}`", port.name);
            self.outputs.push(tensor.bytes_mut().as_mut_ptr());
        }
        let call = Call {
            inputs: self.inputs.as_ptr(),
            outputs: self.outputs.as_ptr(),
            states: self.states.address(),
            constants: self.code.constants.address(),
            arena: self.arena.address(),
            wait: Some(yield_to_others),
        };
        if plan.parallel {
            let call = SharedCall(&call);
            let workers = self.pool.workers() as u64;
            self.pool.run(&|worker| {
                // SAFETY: the function was emitted from `plan`, whose verified nests stay within their buffers; these have the
                // types checked above, states and constants are the executable's own, the arena is large enough for
                // `workers`, and every worker enters once.
                unsafe { function(call.address(), worker as u64, workers) }
            });
        } else {
            // SAFETY: as above, with one worker.
            unsafe { function(&call, 0, 1) }
        }
    }
}

/// A call that several workers read.
struct SharedCall<'a>(&'a Call);

impl SharedCall<'_> {
    fn address(&self) -> *const Call {
        self.0
    }
}

// SAFETY: workers only read the struct; what it points to they share as the plan's barriers allow.
unsafe impl Sync for SharedCall<'_> {}

/// Whether a tensor has a type, compared without allocating.
pub fn is_of_type(tensor: &Tensor, ty: &Type) -> bool {
    tensor.dtype() == ty.dtype && tensor.shape() == ty.shape
}
