//! The most that a core computes: fused multiply-adds in chains that wait for nothing.

use super::Error;
use super::isa::Cpu;

/// Floating-point operations of `f32` a second of one core, with the vectors of that CPU; `None` where its code is not assembled.
///
/// # Errors
/// If this machine cannot run code for the CPU.
#[cfg(target_arch = "x86_64")]
pub fn peak(cpu: &Cpu) -> Result<Option<f64>, Error> {
    use std::time::{Duration, Instant};

    use cranelift::codegen::isa::CallConv;
    use cranelift::prelude::AbiParam;
    use cranelift::prelude::types::I64;
    use cranelift_module::Linkage;

    use super::jit::Jit;

    const TURNS: u64 = 100_000;
    const RUNS: usize = 20;
    let Some((code, flops)) = chains(cpu) else {
        return Ok(None);
    };
    let mut jit = Jit::new(cpu)?;
    let (module, _) = jit.parts();
    let mut signature = module.make_signature();
    signature.call_conv = CallConv::SystemV;
    signature.params.push(AbiParam::new(I64));
    let function = module
        .declare_function("peak", Linkage::Local, &signature)
        .map_err(Error::module)?;
    module
        .define_function_bytes(function, 16, &code, &[])
        .map_err(Error::module)?;
    jit.finish()?;
    // SAFETY: `chains` made the bytes for this signature, and `jit` outlives the calls below.
    let run: unsafe extern "sysv64" fn(u64) = unsafe { std::mem::transmute(jit.address(function)) };
    let mut least = Duration::MAX;
    for _ in 0..RUNS {
        let start = Instant::now();
        // SAFETY: `Jit::new` has checked that this machine has the instructions; they touch only registers that a call may change.
        unsafe { run(TURNS) };
        least = least.min(start.elapsed());
    }
    Ok(Some((flops * TURNS) as f64 / least.as_secs_f64()))
}

/// The same where nothing is assembled.
///
/// # Errors
/// None.
#[cfg(not(target_arch = "x86_64"))]
pub fn peak(_cpu: &Cpu) -> Result<Option<f64>, Error> {
    Ok(None)
}

/// A System V function of the number of turns, and the operations of a turn: twelve chains, more than the latency of an FMA times the units of
/// any processor so far.
#[cfg(target_arch = "x86_64")]
fn chains(cpu: &Cpu) -> Option<(Vec<u8>, u64)> {
    use iced_x86::code_asm::{CodeAssembler, rdi};
    use iced_x86::{Code, IcedError, Instruction, Register};

    use super::isa::Level;

    const CHAINS: u32 = 12;
    const FACTORS: u32 = 2;
    let (code, first, lanes) = match cpu.level {
        Level::Portable => return None,
        Level::Avx2 => (Code::VEX_Vfmadd231ps_ymm_ymm_ymmm256, Register::YMM0, 8),
        Level::Avx512 => (Code::EVEX_Vfmadd231ps_zmm_k1z_zmm_zmmm512b32_er, Register::ZMM0, 16),
    };
    let assemble = || -> Result<Vec<u8>, IcedError> {
        let mut asm = CodeAssembler::new(64)?;
        // Zeros, so that no chain meets numbers that a processor computes slowly.
        for register in (0..CHAINS + FACTORS).map(|number| Register::XMM0 + number) {
            let zero = Instruction::with3(Code::VEX_Vpxor_xmm_xmm_xmmm128, register, register, register)?;
            asm.add_instruction(zero)?;
        }
        let mut top = asm.create_label();
        asm.set_label(&mut top)?;
        for chain in 0..CHAINS {
            let [a, b] = [0, 1].map(|factor| first + CHAINS + factor);
            asm.add_instruction(Instruction::with3(code, first + chain, a, b)?)?;
        }
        asm.dec(rdi)?;
        asm.jne(top)?;
        asm.vzeroupper()?;
        asm.ret()?;
        asm.assemble(0)
    };
    let bytes = assemble().expect("instructions of a loop encode");
    Some((bytes, u64::from(CHAINS) * 2 * lanes))
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn a_core_computes_something() {
        for name in ["x86-64-v3", "x86-64-v4"] {
            let cpu = Cpu::named(name).expect("a known processor");
            if cpu.check_host().is_ok() {
                let flops = peak(&cpu).expect("it runs").expect("it is assembled");
                assert!(flops > 1e8, "{name}: {flops}");
            }
        }
        let portable = Cpu::named("x86-64").expect("a known processor");
        assert_eq!(peak(&portable).expect("nothing is run"), None);
    }
}
