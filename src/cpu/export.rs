//! What an object exports: entries that a C program calls, and the check of the CPU.
//!
//! `int32_t NAME_ENTRY(const netloom_call *call)` checks what it is given, chooses the code for the batch, and runs it: alone, or with the
//! caller's threads through one callback. What it returns is a [`Status`]. The check of the CPU is assembled from instructions that every
//! x86-64 has; that it has passed is kept in the arena, which belongs to one run at a time, so that nothing is global.

use cranelift::codegen::ir::{BlockArg, StackSlotData, StackSlotKind};
use cranelift::prelude::types::{I32, I64};
use cranelift::prelude::{AbiParam, FunctionBuilder, FunctionBuilderContext, InstBuilder, IntCC, MemFlagsData, Value};
use cranelift_module::{DataId, FuncId, Linkage, Module};
use iced_x86::IcedError;
use iced_x86::code_asm::{AsmRegister32, CodeAssembler, CodeLabel, eax, ebx, ecx, edx, rax, rbx, rdi, rsi};
use target_lexicon::Architecture;

use super::Error;
use super::emit::barrier_signature;
use super::entry::{self, define};
use super::isa::{Cpu, Level, amx};
use crate::plan::ALIGN;

/// The version of what the header declares: it grows when a program compiled with an old header would misuse a new object.
pub const ABI_VERSION: u32 = 1;

/// What an exported entry returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Status {
    /// It ran.
    Ok = 0,
    /// The CPU lacks an instruction, or the system does not keep its registers.
    Cpu = 1,
    /// The arena or the block of states is missing or not aligned to 64 bytes.
    Block = 2,
    /// There is no code for the batch.
    Batch = 3,
}

impl Status {
    /// The status of that number.
    pub fn from_code(code: i32) -> Option<Status> {
        [Status::Ok, Status::Cpu, Status::Block, Status::Batch]
            .into_iter()
            .find(|status| *status as i32 == code)
    }
}

/// What the caller passes; the C header declares the same struct.
#[repr(C)]
#[derive(Debug)]
pub struct ExportCall {
    /// One address for each argument, in order.
    pub inputs: *const *const u8,
    /// One address for each result, in order.
    pub outputs: *const *mut u8,
    /// The block of states; null for the values within the object, if it has any.
    pub states: *mut u8,
    /// The arena, zeroed before its first run.
    pub arena: *mut u8,
    /// Examples in the batch; 0 for the first that there is code for.
    pub batch: u64,
    /// The number of workers that `parallel` starts; 0 is 1.
    pub workers: u64,
    /// Calls `task(argument, worker, workers)` for each worker, all at the same time, and returns when all have returned; null runs alone.
    pub parallel: Option<Parallel>,
    /// Passed to `parallel`.
    pub context: *mut std::ffi::c_void,
    /// Called now and then by a worker that waits, if given.
    pub wait: Option<extern "C" fn()>,
}

/// What the object hands to the caller's threads.
pub type Task = unsafe extern "C" fn(argument: *const std::ffi::c_void, worker: u64, workers: u64);

/// The callback that runs a task on the caller's threads.
pub type Parallel =
    unsafe extern "C" fn(context: *mut std::ffi::c_void, task: Task, argument: *const std::ffi::c_void, workers: u64);

/// An exported entry.
pub type ExportFn = unsafe extern "C" fn(call: *const ExportCall) -> i32;

const INPUTS: i32 = 0;
const OUTPUTS: i32 = 8;
const STATES: i32 = 16;
const ARENA: i32 = 24;
const BATCH: i32 = 32;
const WORKERS: i32 = 40;
const PARALLEL: i32 = 48;
const CONTEXT: i32 = 56;
const WAIT: i32 = 64;

/// Where the arena keeps which code the CPU runs, counted from 1, once it has been checked: beside the count of workers at a barrier.
const CHECKED: i32 = 8;

/// The code of an entry for one size of batch.
#[derive(Clone, Copy, Debug)]
pub struct Variant {
    /// Examples in a batch, if the artefact has several sizes.
    pub batch: Option<u64>,
    /// The entry's function, of [`entry::spell`].
    pub function: FuncId,
    /// Whether several workers have anything to do.
    pub parallel: bool,
}

/// The code of an entry for one level of the CPU.
#[derive(Clone, Debug)]
pub struct LevelCode {
    /// The check of the CPU, if there is anything to check.
    pub check: Option<FuncId>,
    /// The block of constants.
    pub constants: DataId,
    /// The sizes of batch.
    pub variants: Vec<Variant>,
}

/// What all exported entries of an object share.
#[derive(Clone, Copy, Debug)]
pub struct Shared {
    /// The values of the states, if they are within the object.
    pub states: Option<DataId>,
    /// Whether there are states.
    pub has_states: bool,
}

/// Defines and exports `int32_t SYMBOL(const netloom_call *call)`, which runs the first of the levels that the CPU has.
pub fn emit_export(
    module: &mut dyn Module,
    symbol: &str,
    levels: &[LevelCode],
    shared: &Shared,
) -> Result<FuncId, Error> {
    let mut signature = module.make_signature();
    signature.params.push(AbiParam::new(I64));
    signature.returns.push(AbiParam::new(I32));
    let id = module
        .declare_function(symbol, Linkage::Export, &signature)
        .map_err(Error::module)?;
    let mut context = module.make_context();
    context.func.signature = signature;
    let mut functions = FunctionBuilderContext::new();
    let mut builder = FunctionBuilder::new(&mut context.func, &mut functions);
    let flags = MemFlagsData::trusted();

    let entry = builder.create_block();
    builder.append_block_params_for_function_params(entry);
    builder.switch_to_block(entry);
    let call = builder.block_params(entry)[0];
    let leave = builder.create_block();
    let status = builder.append_block_param(leave, I32);
    let load = |builder: &mut FunctionBuilder<'_>, offset| builder.ins().load(I64, flags, call, offset);

    let arena = load(&mut builder, ARENA);
    let mut states = load(&mut builder, STATES);
    if let Some(within) = shared.states {
        let within = module.declare_data_in_func(within, builder.func);
        let within = builder.ins().symbol_value(I64, within);
        states = builder.ins().select(states, states, within);
    }
    let low_bits = builder.ins().bor(arena, states);
    let misaligned = builder.ins().band_imm_u(low_bits, ALIGN as i64 - 1);
    leave_if(&mut builder, misaligned, leave, Status::Block);
    let missing = builder.ins().icmp_imm_u(IntCC::Equal, arena, 0);
    leave_if(&mut builder, missing, leave, Status::Block);
    if shared.has_states {
        let missing = builder.ins().icmp_imm_u(IntCC::Equal, states, 0);
        leave_if(&mut builder, missing, leave, Status::Block);
    }
    let [inputs, outputs, wait] = [INPUTS, OUTPUTS, WAIT].map(|offset| load(&mut builder, offset));
    let batch = load(&mut builder, BATCH);
    let slot = StackSlotData::new(StackSlotKind::ExplicitSlot, entry::CALL_BYTES, 3);
    let slot = builder.create_sized_stack_slot(slot);
    for (value, offset) in [
        (inputs, entry::INPUTS),
        (outputs, entry::OUTPUTS),
        (states, entry::STATES),
        (arena, entry::ARENA),
        (wait, entry::WAIT),
    ] {
        builder.ins().stack_store(I64, value, slot, offset);
    }
    let argument = builder.ins().stack_addr(I64, slot, 0);
    let chosen = emit_choice(module, &mut builder, arena, leave, levels);
    for (number, level) in (1..).zip(levels) {
        let [mine, others] = std::array::from_fn(|_| builder.create_block());
        match number == levels.len() as i64 {
            true => {
                builder.ins().jump(mine, &[]);
            }
            false => {
                let is_mine = builder.ins().icmp_imm_u(IntCC::Equal, chosen, number);
                builder.ins().brif(is_mine, mine, &[], others, &[]);
            }
        }
        builder.switch_to_block(mine);
        let constants = module.declare_data_in_func(level.constants, builder.func);
        let constants = builder.ins().symbol_value(I64, constants);
        builder.ins().stack_store(I64, constants, slot, entry::CONSTANTS);
        for (place, variant) in level.variants.iter().enumerate() {
            let [run, next] = std::array::from_fn(|_| builder.create_block());
            match variant.batch {
                None => {
                    builder.ins().jump(run, &[]);
                }
                Some(size) => {
                    let mut fits = builder.ins().icmp_imm_u(IntCC::Equal, batch, size as i64);
                    if place == 0 {
                        let any = builder.ins().icmp_imm_u(IntCC::Equal, batch, 0);
                        fits = builder.ins().bor(fits, any);
                    }
                    builder.ins().brif(fits, run, &[], next, &[]);
                }
            }
            builder.switch_to_block(run);
            emit_run(module, &mut builder, call, argument, variant);
            let done = builder.ins().iconst(I32, Status::Ok as i64);
            builder.ins().jump(leave, &[BlockArg::Value(done)]);
            builder.switch_to_block(next);
        }
        let unknown = builder.ins().iconst(I32, Status::Batch as i64);
        builder.ins().jump(leave, &[BlockArg::Value(unknown)]);
        builder.switch_to_block(others);
    }
    let unknown = builder.ins().iconst(I32, Status::Batch as i64);
    builder.ins().jump(leave, &[BlockArg::Value(unknown)]);

    builder.switch_to_block(leave);
    builder.ins().return_(&[status]);
    builder.seal_all_blocks();
    builder.finalize(module.target_config());
    define(module, id, context)
}

/// The number, from 1, of the first level that the CPU has: found at the first run of an arena, which keeps it. Leaves if there is none.
fn emit_choice(
    module: &mut dyn Module,
    builder: &mut FunctionBuilder<'_>,
    arena: Value,
    leave: cranelift::prelude::Block,
    levels: &[LevelCode],
) -> Value {
    let flags = MemFlagsData::trusted();
    if levels.iter().all(|level| level.check.is_none()) {
        return builder.ins().iconst(I64, 1);
    }
    let [ask, go_on] = std::array::from_fn(|_| builder.create_block());
    let chosen = builder.append_block_param(go_on, I64);
    let known = builder.ins().load(I64, flags, arena, CHECKED);
    builder.ins().brif(known, go_on, &[BlockArg::Value(known)], ask, &[]);
    builder.switch_to_block(ask);
    for (number, check) in (1..).zip(levels.iter().filter_map(|level| level.check)) {
        let [has, lacks] = std::array::from_fn(|_| builder.create_block());
        let check = module.declare_func_in_func(check, builder.func);
        let asked = builder.ins().call(check, &[]);
        let status = builder.inst_results(asked)[0];
        builder.ins().brif(status, lacks, &[], has, &[]);
        builder.switch_to_block(has);
        let number = builder.ins().iconst(I64, number);
        builder.ins().store(flags, number, arena, CHECKED);
        builder.ins().jump(go_on, &[BlockArg::Value(number)]);
        builder.switch_to_block(lacks);
    }
    let none = builder.ins().iconst(I32, Status::Cpu as i64);
    builder.ins().jump(leave, &[BlockArg::Value(none)]);
    builder.switch_to_block(go_on);
    chosen
}

/// Returns the status if the condition is not 0, and goes on otherwise.
fn leave_if(builder: &mut FunctionBuilder<'_>, condition: Value, leave: cranelift::prelude::Block, status: Status) {
    let go_on = builder.create_block();
    let status = builder.ins().iconst(I32, status as i64);
    builder
        .ins()
        .brif(condition, leave, &[BlockArg::Value(status)], go_on, &[]);
    builder.switch_to_block(go_on);
}

/// Runs the code of one size of batch, with the caller's threads if it has any use for them.
fn emit_run(
    module: &mut dyn Module,
    builder: &mut FunctionBuilder<'_>,
    call: Value,
    argument: Value,
    variant: &Variant,
) {
    let flags = MemFlagsData::trusted();
    let function = module.declare_func_in_func(variant.function, builder.func);
    let [alone, done] = std::array::from_fn(|_| builder.create_block());
    if variant.parallel {
        let [ask, together] = std::array::from_fn(|_| builder.create_block());
        let parallel = builder.ins().load(I64, flags, call, PARALLEL);
        builder.ins().brif(parallel, ask, &[], alone, &[]);
        builder.switch_to_block(ask);
        let workers = builder.ins().load(I64, flags, call, WORKERS);
        let several = builder.ins().icmp_imm_u(IntCC::UnsignedGreaterThan, workers, 1);
        builder.ins().brif(several, together, &[], alone, &[]);
        builder.switch_to_block(together);
        let context = builder.ins().load(I64, flags, call, CONTEXT);
        let task = builder.ins().func_addr(I64, function);
        let mut signature = module.make_signature();
        signature.params.extend([I64; 4].map(AbiParam::new));
        let signature = builder.import_signature(signature);
        builder
            .ins()
            .call_indirect(signature, parallel, &[context, task, argument, workers]);
        builder.ins().jump(done, &[]);
    } else {
        builder.ins().jump(alone, &[]);
    }
    builder.switch_to_block(alone);
    debug_assert_eq!(barrier_signature(module.isa()).params.len(), 3);
    let [worker, workers] = [0, 1].map(|number| builder.ins().iconst(I64, number));
    builder.ins().call(function, &[argument, worker, workers]);
    builder.ins().jump(done, &[]);
    builder.switch_to_block(done);
}

/// Defines `int32_t SYMBOL(void)`, which returns [`Status::Ok`] or [`Status::Cpu`].
///
/// The second of the results says whether there is anything to check: only an x86-64 may lack what the code uses.
pub fn emit_check(module: &mut dyn Module, symbol: &str, linkage: Linkage, cpu: &Cpu) -> Result<(FuncId, bool), Error> {
    let mut signature = module.make_signature();
    signature.returns.push(AbiParam::new(I32));
    let id = module
        .declare_function(symbol, linkage, &signature)
        .map_err(Error::module)?;
    if cpu.triple.architecture == Architecture::X86_64 {
        let code = assemble_check(cpu).expect("instructions of the check encode");
        module
            .define_function_bytes(id, 16, &code, &[])
            .map_err(Error::module)?;
        return Ok((id, true));
    }
    let mut context = module.make_context();
    context.func.signature = signature;
    let mut functions = FunctionBuilderContext::new();
    let mut builder = FunctionBuilder::new(&mut context.func, &mut functions);
    let block = builder.create_block();
    builder.switch_to_block(block);
    let fine = builder.ins().iconst(I32, Status::Ok as i64);
    builder.ins().return_(&[fine]);
    builder.seal_all_blocks();
    builder.finalize(module.target_config());
    Ok((define(module, id, context)?, false))
}

/// Where CPUID tells of an instruction set: leaf, register, bits (Intel SDM 2A, CPUID; AMD APM 3, E.4.1).
type Bits = (u32, AsmRegister32, u32);

/// The check of the CPU as x86-64 code: CPUID for instructions, XCR0 for the registers that the system keeps; those of the matrix unit it is asked for.
fn assemble_check(cpu: &Cpu) -> Result<Vec<u8>, IcedError> {
    // SSE3, SSSE3, SSE4.1, SSE4.2, POPCNT.
    let mut first = 1 | 1 << 9 | 1 << 19 | 1 << 20 | 1 << 23;
    let mut registers = 0;
    let mut further: Vec<Bits> = Vec::new();
    if cpu.has_fma || cpu.level >= Level::Avx2 {
        // FMA, OSXSAVE, AVX; the system keeps xmm and ymm.
        first |= 1 << 12 | 1 << 27 | 1 << 28;
        registers = 0b110;
    }
    let avx512 = cpu.level >= Level::Avx512;
    if cpu.level >= Level::Avx2 {
        // BMI1, AVX2, BMI2, then F, DQ, BW, VL; LZCNT.
        let wide = if avx512 {
            1 << 16 | 1 << 17 | 1 << 30 | 1 << 31
        } else {
            0
        };
        further.push((7, ebx, 1 << 3 | 1 << 5 | 1 << 8 | wide));
        further.push((0x8000_0001, ecx, 1 << 5));
    }
    if avx512 {
        // The masks, and the upper halves of zmm.
        registers |= 0b1110_0000;
    }
    if cpu.has_amx {
        registers |= amx::XCR0;
        further.push((amx::LEAF, edx, amx::EDX));
    }

    let mut asm = CodeAssembler::new(64)?;
    let mut lacks = asm.create_label();
    asm.push(rbx)?;
    all_bits(&mut asm, (1, ecx, first), lacks)?;
    if registers != 0 {
        asm.xor(ecx, ecx)?;
        asm.xgetbv()?;
        asm.and(eax, registers)?;
        asm.cmp(eax, registers)?;
        asm.jne(lacks)?;
    }
    for (leaf, register, bits) in further {
        // A leaf beyond the last one answers with something else.
        asm.mov(eax, leaf & 0x8000_0000)?;
        asm.cpuid()?;
        asm.cmp(eax, leaf as i32)?;
        asm.jb(lacks)?;
        all_bits(&mut asm, (leaf, register, bits), lacks)?;
    }
    if cpu.has_amx {
        // The whole process is given it, and may ask again.
        asm.mov(rdi, amx::REQUEST)?;
        asm.mov(rsi, amx::TILE_DATA)?;
        asm.mov(rax, amx::ARCH_PRCTL)?;
        asm.syscall()?;
        asm.test(rax, rax)?;
        asm.jne(lacks)?;
    }
    asm.xor(eax, eax)?;
    asm.pop(rbx)?;
    asm.ret()?;
    asm.set_label(&mut lacks)?;
    asm.mov(eax, Status::Cpu as i32)?;
    asm.pop(rbx)?;
    asm.ret()?;
    asm.assemble(0)
}

/// Jumps to `lacks` unless CPUID's leaf has all the bits in the register.
fn all_bits(asm: &mut CodeAssembler, (leaf, register, bits): Bits, lacks: CodeLabel) -> Result<(), IcedError> {
    asm.mov(eax, leaf)?;
    asm.xor(ecx, ecx)?;
    asm.cpuid()?;
    asm.and(register, bits as i32)?;
    asm.cmp(register, bits as i32)?;
    asm.jne(lacks)
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;
    use crate::cpu::jit::Jit;

    /// What the assembled check says on this machine, for code of another CPU.
    fn checked(cpu: &Cpu) -> i32 {
        let mut jit = Jit::new(&Cpu::named("x86-64").expect("a known name")).expect("it runs everywhere");
        let (check, _) = emit_check(jit.parts().0, "check", Linkage::Export, cpu).expect("it is defined");
        jit.finish().expect("it links");
        // SAFETY: `emit_check` defines a function of this type, and `jit` outlives the call.
        let check = unsafe { std::mem::transmute::<*const u8, extern "C" fn() -> i32>(jit.address(check)) };
        check()
    }

    #[test]
    fn the_check_says_what_the_standard_library_says() {
        for name in ["x86-64", "x86-64-v3", "x86-64-v4", "x86-64-v4-amx"] {
            let Ok(cpu) = Cpu::named(name) else {
                eprintln!("not checked: this system has no `{name}`");
                continue;
            };
            assert_eq!(checked(&cpu) == 0, cpu.check_host().is_ok(), "{name}");
        }
    }
}
