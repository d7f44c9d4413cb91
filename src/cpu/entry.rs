//! Entries: a plan as one function, and the barrier its kernels wait at.
//!
//! In: a [`Plan`]. Out: `extern "C" fn(call: *const Call, worker: u64, workers: u64)`, which every worker
//! enters once a run. It computes addresses, calls kernels and waits where the plan says; it allocates nothing and calls nothing of the
//! runtime but [`Call::wait`].

use cranelift::codegen::Context;
use cranelift::codegen::ir::{AtomicRmwOp, BlockArg, FuncRef, StackSlotData, StackSlotKind};
use cranelift::codegen::isa::TargetIsa;
use cranelift::prelude::types::{I8, I64};
use cranelift::prelude::{
    Block, FunctionBuilder, FunctionBuilderContext, InstBuilder, IntCC, MemFlagsData, Signature, Value,
};
use cranelift_module::{FuncId, Linkage, Module, ModuleError};
use hashbrown::HashMap;

use super::Error;
use super::emit::compile::{Compiled, compile, import};
use super::emit::{BARRIER, barrier_signature, kernel_signature};
use crate::plan::{ALIGN, Base, Place, Plan, SHARED_COPY_BYTES, Step};

/// Bytes at the start of the arena that barriers use; zero before the first run.
pub const ARENA_HEADER_BYTES: usize = 2 * ALIGN;

/// The number of workers that have arrived at the present barrier, at the start of the arena.
const ARRIVED: i32 = 0;
/// The number of barriers passed, on a cache line of its own, for the waiting watch it.
const PASSED: i32 = ALIGN as i32;

/// Looks at a barrier before [`Call::wait`] is called: some tens of microseconds.
const SPINS: i64 = 20_000;

/// The number of the barrier among what an entry calls; those of the kernels come after it.
const CALL_BARRIER: u32 = 0;

/// What an entry is given: where everything is.
#[repr(C)]
#[derive(Debug)]
pub struct Call {
    /// One address for each argument, in order.
    pub inputs: *const *const u8,
    /// One address for each result, in order.
    pub outputs: *const *mut u8,
    /// The block of states, aligned to [`ALIGN`].
    pub states: *mut u8,
    /// The block of constants, aligned to [`ALIGN`].
    pub constants: *const u8,
    /// The arena, aligned to [`ALIGN`]: [`arena_bytes`] of them.
    pub arena: *mut u8,
    /// Called now and then by a worker that waits, if given.
    pub wait: Option<extern "C" fn()>,
}

pub(super) const INPUTS: i32 = 0;
pub(super) const OUTPUTS: i32 = 8;
pub(super) const STATES: i32 = 16;
pub(super) const CONSTANTS: i32 = 24;
pub(super) const ARENA: i32 = 32;
pub(super) const WAIT: i32 = 40;
/// The length of a [`Call`].
pub(super) const CALL_BYTES: u32 = 48;

/// An entry's function.
pub type EntryFn = unsafe extern "C" fn(call: *const Call, worker: u64, workers: u64);

/// Bytes of arena that a plan needs with so many workers.
pub fn arena_bytes(plan: &Plan, workers: usize) -> usize {
    ARENA_HEADER_BYTES + plan.shared_bytes + plan.worker_bytes * workers
}

/// Defines the function that kernels and entries call to wait for each other: `fn(call, worker, workers)`.
///
/// The last to arrive resets the count and advances the number of barriers passed, which the others watch.
pub fn emit_barrier(module: &mut dyn Module) -> Result<FuncId, Error> {
    let signature = barrier_signature(module.isa());
    let id = module
        .declare_function(BARRIER, Linkage::Local, &signature)
        .map_err(Error::module)?;
    let mut context = module.make_context();
    context.func.signature = signature;
    let mut functions = FunctionBuilderContext::new();
    let mut builder = FunctionBuilder::new(&mut context.func, &mut functions);
    let flags = MemFlagsData::trusted();

    let [entry, meet, last, watch, look, pause, call_wait, reset, done] =
        std::array::from_fn(|_| builder.create_block());
    builder.append_block_params_for_function_params(entry);
    builder.switch_to_block(entry);
    let (call, workers) = (builder.block_params(entry)[0], builder.block_params(entry)[2]);
    let alone = builder.ins().icmp_imm_u(IntCC::UnsignedLessThanOrEqual, workers, 1);
    builder.ins().brif(alone, done, &[], meet, &[]);

    builder.switch_to_block(meet);
    let arena = builder.ins().load(I64, flags, call, ARENA);
    let passed_at = builder.ins().iadd_imm_s(arena, i64::from(PASSED));
    let passed = builder.ins().atomic_load(I64, flags, passed_at);
    let one = builder.ins().iconst(I64, 1);
    let arrived_at = builder.ins().iadd_imm_s(arena, i64::from(ARRIVED));
    let before = builder.ins().atomic_rmw(I64, flags, AtomicRmwOp::Add, arrived_at, one);
    let others = builder.ins().iadd_imm_s(workers, -1);
    let is_last = builder.ins().icmp(IntCC::Equal, before, others);
    let spins = builder.ins().iconst(I64, SPINS);
    builder.ins().brif(is_last, last, &[], watch, &[BlockArg::Value(spins)]);

    builder.switch_to_block(last);
    let zero = builder.ins().iconst(I64, 0);
    builder.ins().atomic_store(flags, zero, arrived_at);
    let next = builder.ins().iadd_imm_s(passed, 1);
    builder.ins().atomic_store(flags, next, passed_at);
    builder.ins().jump(done, &[]);

    let left = builder.append_block_param(watch, I64);
    builder.switch_to_block(watch);
    let now = builder.ins().atomic_load(I64, flags, passed_at);
    let still = builder.ins().icmp(IntCC::Equal, now, passed);
    builder.ins().brif(still, look, &[], done, &[]);

    builder.switch_to_block(look);
    let fewer = builder.ins().iadd_imm_s(left, -1);
    let is_long = builder.ins().icmp_imm_u(IntCC::Equal, fewer, 0);
    builder
        .ins()
        .brif(is_long, pause, &[], watch, &[BlockArg::Value(fewer)]);

    builder.switch_to_block(pause);
    let wait = builder.ins().load(I64, flags, call, WAIT);
    builder.ins().brif(wait, call_wait, &[], reset, &[]);

    builder.switch_to_block(call_wait);
    let wait_signature = builder.import_signature(module.make_signature());
    builder.ins().call_indirect(wait_signature, wait, &[]);
    builder.ins().jump(reset, &[]);

    builder.switch_to_block(reset);
    // After a long wait look only once between two pauses.
    let one_more = builder.ins().iconst(I64, 1);
    builder.ins().jump(watch, &[BlockArg::Value(one_more)]);

    builder.switch_to_block(done);
    builder.ins().return_(&[]);
    builder.seal_all_blocks();
    builder.finalize(module.target_config());
    define(module, id, context)
}

/// Makes an entry's function. What it calls are numbers in a list: the barrier, then the kernels in order.
pub fn spell(plan: &Plan, isa: &dyn TargetIsa) -> Result<Compiled, ModuleError> {
    let mut context = Context::new();
    context.func.signature = barrier_signature(isa);
    let mut functions = FunctionBuilderContext::new();
    let mut builder = FunctionBuilder::new(&mut context.func, &mut functions);
    let entry = builder.create_block();
    builder.append_block_params_for_function_params(entry);
    builder.switch_to_block(entry);
    let &[call, worker, workers] = builder.block_params(entry) else {
        unreachable!("the signature has three")
    };
    let buffer_count = longest_buffer_list(&plan.steps);
    let slot = StackSlotData::new(StackSlotKind::ExplicitSlot, (8 * buffer_count.max(1)) as u32, 3);
    let slot = builder.create_sized_stack_slot(slot);
    let flags = MemFlagsData::trusted();
    let [inputs, outputs, states, constants, arena] =
        [INPUTS, OUTPUTS, STATES, CONSTANTS, ARENA].map(|offset| builder.ins().load(I64, flags, call, offset));
    let own = builder.ins().imul_imm_s(worker, plan.worker_bytes as i64);
    let own = builder.ins().iadd(arena, own);
    let own = builder
        .ins()
        .iadd_imm_s(own, (ARENA_HEADER_BYTES + plan.shared_bytes) as i64);
    let arena = builder.ins().iadd_imm_s(arena, ARENA_HEADER_BYTES as i64);
    let buffers = builder.ins().stack_addr(I64, slot, 0);
    let mut cx = Cx {
        isa,
        builder,
        functions: HashMap::new(),
        parallel: plan.parallel,
        call,
        worker,
        workers,
        bases: Bases {
            inputs,
            outputs,
            states,
            constants,
            arena,
            own,
        },
        buffers,
        iterations: Vec::new(),
    };
    cx.steps(&plan.steps);
    let Cx { mut builder, .. } = cx;
    builder.ins().return_(&[]);
    builder.seal_all_blocks();
    builder.finalize(isa.frontend_config());
    compile(&mut context, isa)
}

/// Defines a function that has been built.
pub(super) fn define(module: &mut dyn Module, id: FuncId, mut context: Context) -> Result<FuncId, Error> {
    module.define_function(id, &mut context).map_err(Error::module)?;
    Ok(id)
}

fn longest_buffer_list(steps: &[Step]) -> usize {
    let lengths = steps.iter().map(|step| match step {
        Step::Kernel { buffers, .. } => buffers.len(),
        Step::Repeat { body, .. } => longest_buffer_list(body),
        Step::Branch { then, otherwise, .. } => longest_buffer_list(then).max(longest_buffer_list(otherwise)),
        Step::While { condition, body, .. } => longest_buffer_list(condition).max(longest_buffer_list(body)),
        Step::Copy { .. } | Step::Count { .. } | Step::Barrier => 0,
    });
    lengths.max().unwrap_or(0)
}

/// Addresses known throughout the function.
struct Bases {
    inputs: Value,
    outputs: Value,
    states: Value,
    constants: Value,
    arena: Value,
    own: Value,
}

/// The function under construction.
struct Cx<'f> {
    isa: &'f dyn TargetIsa,
    builder: FunctionBuilder<'f>,
    /// What it calls, by its number.
    functions: HashMap<u32, FuncRef>,
    /// Whether several workers enter; otherwise worker 0 is alone and nothing is asked about it.
    parallel: bool,
    call: Value,
    worker: Value,
    workers: Value,
    bases: Bases,
    /// The address of the list of buffers passed to kernels.
    buffers: Value,
    /// The iteration numbers of the enclosing repeats, outermost first.
    iterations: Vec<Value>,
}

impl Cx<'_> {
    fn steps(&mut self, steps: &[Step]) {
        for step in steps {
            match step {
                Step::Kernel { kernel, buffers, .. } => self.kernel(kernel.0, buffers),
                Step::Copy { from, to } => self.copy(from, to),
                Step::Count { to, from_end } => self.first_worker(|cx| cx.count(to, *from_end)),
                Step::Barrier => {
                    let barrier = self.function(CALL_BARRIER, barrier_signature);
                    let arguments = [self.call, self.worker, self.workers];
                    self.builder.ins().call(barrier, &arguments);
                }
                Step::Repeat { times, body } => self.repeat(*times, body),
                Step::Branch {
                    condition,
                    then,
                    otherwise,
                } => self.branch(condition, then, otherwise),
                Step::While { condition, go_on, body } => self.while_loop(condition, go_on, body),
            }
        }
    }

    fn kernel(&mut self, kernel: usize, buffers: &[Place]) {
        for (at, place) in buffers.iter().enumerate() {
            let address = self.address(place);
            self.builder
                .ins()
                .store(MemFlagsData::trusted(), address, self.buffers, 8 * at as i32);
        }
        let function = self.function(CALL_BARRIER + 1 + kernel as u32, kernel_signature);
        let arguments = [self.buffers, self.call, self.worker, self.workers];
        self.builder.ins().call(function, &arguments);
    }

    fn function(&mut self, number: u32, signature: fn(&dyn TargetIsa) -> Signature) -> FuncRef {
        let (function, isa) = (&mut *self.builder.func, self.isa);
        *(self.functions.entry(number)).or_insert_with(|| import(function, number, signature(isa), true))
    }

    fn copy(&mut self, from: &Place, to: &Place) {
        if self.parallel && from.bytes >= SHARED_COPY_BYTES {
            // Each worker copies a share of whole cache lines.
            let lines = self.builder.ins().iconst(I64, from.bytes.div_ceil(ALIGN) as i64);
            let up = self.builder.ins().iadd(lines, self.workers);
            let up = self.builder.ins().iadd_imm_s(up, -1);
            let share = self.builder.ins().udiv(up, self.workers);
            let share = self.builder.ins().imul_imm_s(share, ALIGN as i64);
            let end = self.builder.ins().iconst(I64, from.bytes as i64);
            let start = self.builder.ins().imul(self.worker, share);
            let start = self.builder.ins().umin(start, end);
            let stop = self.builder.ins().iadd(start, share);
            let stop = self.builder.ins().umin(stop, end);
            let length = self.builder.ins().isub(stop, start);
            let source = self.address(from);
            let source = self.builder.ins().iadd(source, start);
            let target = self.address(to);
            let target = self.builder.ins().iadd(target, start);
            self.builder
                .call_memcpy(self.isa.frontend_config(), target, source, length);
        } else {
            self.first_worker(|cx| {
                let (source, target) = (cx.address(from), cx.address(to));
                let length = cx.builder.ins().iconst(I64, from.bytes as i64);
                cx.builder.call_memcpy(cx.isa.frontend_config(), target, source, length);
            });
        }
    }

    fn count(&mut self, to: &Place, from_end: Option<usize>) {
        let iteration = *self.iterations.last().expect("a count stands in a repeat");
        let value = match from_end {
            Some(times) => {
                let last = self.builder.ins().iconst(I64, times as i64 - 1);
                self.builder.ins().isub(last, iteration)
            }
            None => iteration,
        };
        let address = self.address(to);
        self.builder.ins().store(MemFlagsData::trusted(), value, address, 0);
    }

    /// Code that only worker 0 runs.
    fn first_worker(&mut self, code: impl FnOnce(&mut Self)) {
        if !self.parallel {
            return code(self);
        }
        let (run, join) = (self.builder.create_block(), self.builder.create_block());
        self.builder.ins().brif(self.worker, join, &[], run, &[]);
        self.builder.switch_to_block(run);
        code(self);
        self.builder.ins().jump(join, &[]);
        self.builder.switch_to_block(join);
    }

    fn repeat(&mut self, times: usize, body: &[Step]) {
        let [head, run, done]: [Block; 3] = std::array::from_fn(|_| self.builder.create_block());
        let zero = self.builder.ins().iconst(I64, 0);
        self.builder.ins().jump(head, &[BlockArg::Value(zero)]);
        let iteration = self.builder.append_block_param(head, I64);
        self.builder.switch_to_block(head);
        let more = self
            .builder
            .ins()
            .icmp_imm_u(IntCC::UnsignedLessThan, iteration, times as i64);
        self.builder.ins().brif(more, run, &[], done, &[]);
        self.builder.switch_to_block(run);
        self.iterations.push(iteration);
        self.steps(body);
        self.iterations.pop();
        let next = self.builder.ins().iadd_imm_s(iteration, 1);
        self.builder.ins().jump(head, &[BlockArg::Value(next)]);
        self.builder.switch_to_block(done);
    }

    fn branch(&mut self, condition: &Place, then: &[Step], otherwise: &[Step]) {
        let [yes, no, join]: [Block; 3] = std::array::from_fn(|_| self.builder.create_block());
        let condition = self.truth(condition);
        self.builder.ins().brif(condition, yes, &[], no, &[]);
        for (block, steps) in [(yes, then), (no, otherwise)] {
            self.builder.switch_to_block(block);
            self.steps(steps);
            self.builder.ins().jump(join, &[]);
        }
        self.builder.switch_to_block(join);
    }

    fn while_loop(&mut self, condition: &[Step], go_on: &Place, body: &[Step]) {
        let [head, run, done]: [Block; 3] = std::array::from_fn(|_| self.builder.create_block());
        self.builder.ins().jump(head, &[]);
        self.builder.switch_to_block(head);
        self.steps(condition);
        let go_on = self.truth(go_on);
        self.builder.ins().brif(go_on, run, &[], done, &[]);
        self.builder.switch_to_block(run);
        self.steps(body);
        self.builder.ins().jump(head, &[]);
        self.builder.switch_to_block(done);
    }

    fn truth(&mut self, place: &Place) -> Value {
        let address = self.address(place);
        // Not `trusted`: another worker wrote it, so the load must stay where it is.
        self.builder.ins().load(I8, MemFlagsData::new(), address, 0)
    }

    fn address(&mut self, place: &Place) -> Value {
        let flags = MemFlagsData::trusted();
        let base = match place.base {
            Base::Input(number) => self
                .builder
                .ins()
                .load(I64, flags, self.bases.inputs, 8 * number as i32),
            Base::Output(number) => self
                .builder
                .ins()
                .load(I64, flags, self.bases.outputs, 8 * number as i32),
            Base::States => self.bases.states,
            Base::Constants => self.bases.constants,
            Base::Arena => self.bases.arena,
            Base::Worker => self.bases.own,
            Base::Temp(_) => unreachable!("a finished plan has no temps"),
        };
        let mut address = self.builder.ins().iadd_imm_s(base, place.offset as i64);
        for (&stride, &iteration) in place.strides.iter().zip(&self.iterations) {
            if stride != 0 {
                let moved = self.builder.ins().imul_imm_s(iteration, stride as i64);
                address = self.builder.ins().iadd(address, moved);
            }
        }
        address
    }
}
