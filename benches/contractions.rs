//! Contractions against what the machine can do, measured in the same run: tiles against the FMA peak, whole products against it and
//! the `gemm` crate.
//!
//! Every figure is the least of many runs; the ratios are what to compare between machines.

use std::sync::Arc;
use std::time::{Duration, Instant};

use iced_x86::code_asm::{CodeAssembler, rdi};
use iced_x86::{Code, Instruction, Register};
use memmap2::{Mmap, MmapMut};
use netloom::cpu::isa::Level;
use netloom::cpu::tile::{self, Tile};
use netloom::ir::program::Program;
use netloom::ir::{Builder, DType, Tensor};
use netloom::{Cpu, Session, compile};

fn main() {
    let mut levels = Vec::new();
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        levels.push(Level::Avx2);
    }
    if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512dq") {
        levels.push(Level::Avx512);
    }
    for level in levels {
        tiles(level);
        products(level);
    }
}

/// Seconds of the fastest of the runs that fit in a third of a second, at least five.
fn least(mut run: impl FnMut()) -> f64 {
    let (mut least, start, mut runs) = (Duration::MAX, Instant::now(), 0);
    while runs < 5 || start.elapsed() < Duration::from_millis(300) {
        let begin = Instant::now();
        run();
        least = least.min(begin.elapsed());
        runs += 1;
    }
    least.as_secs_f64()
}

fn executable(bytes: &[u8]) -> Mmap {
    let mut code = MmapMut::map_anon(bytes.len()).expect("memory for code");
    code.copy_from_slice(bytes);
    code.make_exec().expect("executable memory")
}

/// A tile's function; the code must outlive it.
fn tile_function(code: &Mmap) -> unsafe extern "sysv64" fn(*const f32, *const f32, *mut f32) {
    // SAFETY: `tile::assemble` made the bytes, for this signature.
    unsafe { std::mem::transmute(code.as_ptr()) }
}

/// f32 GFLOP/s of FMAs that wait for nothing: twelve independent chains.
fn peak(level: Level) -> f64 {
    let (code, zero, lanes) = match level {
        Level::Avx512 => (Code::EVEX_Vfmadd231ps_zmm_k1z_zmm_zmmm512b32_er, Register::ZMM0, 16.0),
        _ => (Code::VEX_Vfmadd231ps_ymm_ymm_ymmm256, Register::YMM0, 8.0),
    };
    let mut asm = CodeAssembler::new(64).expect("64 is a bitness");
    let mut top = asm.create_label();
    asm.set_label(&mut top).expect("a fresh label");
    for chain in 0..12 {
        let fma = Instruction::with3(code, zero + chain, zero + 13, zero + 14).expect("an FMA");
        asm.add_instruction(fma).expect("an FMA");
    }
    asm.dec(rdi).expect("a counter");
    asm.jne(top).expect("a loop");
    asm.vzeroupper().expect("an end");
    asm.ret().expect("an end");
    let code = executable(&asm.assemble(0).expect("a loop"));
    // SAFETY: the bytes are a function that takes the number of turns.
    let run: unsafe extern "sysv64" fn(u64) = unsafe { std::mem::transmute(code.as_ptr()) };
    let turns = 100_000;
    // SAFETY: it touches only registers that a call may change.
    12.0 * 2.0 * lanes * turns as f64 / least(|| unsafe { run(turns) }) / 1e9
}

fn tile_of(rows: usize, columns: usize, depth: usize, c_across: usize) -> Tile {
    Tile {
        dtype: DType::F32,
        rows,
        columns,
        k: vec![depth],
        a_rows: (0..rows).map(|row| row * depth).collect(),
        a_along: vec![1],
        b_along: vec![columns],
        c_across,
        accumulate: true,
        ahead: 0,
    }
}

fn tiles(level: Level) {
    let shapes: &[(usize, usize)] = match level {
        Level::Avx512 => &[
            (14, 32),
            (15, 32),
            (13, 32),
            (12, 32),
            (8, 48),
            (9, 48),
            (6, 64),
            (4, 64),
            (28, 16),
            (1, 128),
        ],
        _ => &[(6, 16), (5, 16), (4, 16), (3, 32), (2, 32), (1, 64)],
    };
    for &(rows, columns) in shapes {
        for depth in [256, 512] {
            let code = executable(&tile::assemble(&tile_of(rows, columns, depth, columns), level));
            let (a, b) = (vec![0.5f32; rows * depth], vec![0.25f32; depth * columns]);
            let mut c = vec![0f32; rows * columns];
            let repeat = 50;
            // SAFETY: the operands are as long as the tile reaches.
            let seconds = least(|| unsafe {
                (0..repeat).for_each(|_| tile_function(&code)(a.as_ptr(), b.as_ptr(), c.as_mut_ptr()));
            });
            let rate = (2 * rows * columns * depth * repeat) as f64 / seconds / 1e9;
            let peak = peak(level);
            println!(
                "{level:?} tile {rows:2}×{columns:3} k={depth}: {rate:6.1} GFLOP/s, {:5.1} % of {peak:.1}",
                100.0 * rate / peak
            );
        }
    }
}

/// Products of square matrices through `compile` and `Session::run`, against the `gemm` crate, in turns.
fn products(level: Level) {
    let cpu = match level {
        Level::Avx512 => Cpu::native(),
        _ => Cpu::named("x86-64-v3").expect("a known processor"),
    };
    let peak = peak(level);
    for n in [64, 128, 256, 512, 1024, 2048] {
        let builder = Builder::new();
        let [x, y] = ["a", "b"].map(|name| builder.input(name, DType::F32, [n, n]));
        let graph = builder.finish([("c", x.matmul(y))]).expect("a product");
        let executable = Arc::new(compile(&Program::pure("product", graph), &cpu).expect("code for this machine"));
        let mut session = Session::new(executable, 1, 0).expect("memory");
        let (a, b, mut c) = (vec![0.5f32; n * n], vec![0.25f32; n * n], vec![0f32; n * n]);
        let inputs = [&a, &b].map(|values| Tensor::from_f32([n, n], values));
        let mut outputs = [Tensor::zeros(DType::F32, [n, n])];
        let mut ours = || {
            session
                .run("product", &[&inputs[0], &inputs[1]], &mut outputs)
                .expect("the tensors fit");
        };
        let mut theirs = || {
            let stride = n as isize;
            // SAFETY: the three are n×n matrices.
            unsafe {
                gemm::gemm(
                    n,
                    n,
                    n,
                    c.as_mut_ptr(),
                    1,
                    stride,
                    false,
                    a.as_ptr(),
                    1,
                    stride,
                    b.as_ptr(),
                    1,
                    stride,
                    0.0f32,
                    1.0f32,
                    false,
                    false,
                    false,
                    gemm::Parallelism::None,
                );
            }
        };
        let (mut seconds, mut other) = (f64::MAX, f64::MAX);
        for _ in 0..3 {
            seconds = seconds.min(least(&mut ours));
            other = other.min(least(&mut theirs));
        }
        let rate = |seconds: f64| 2.0 * (n * n * n) as f64 / seconds / 1e9;
        println!(
            "{level:?} {n:4}³: {:6.1} GFLOP/s, {:5.1} % of {peak:.1}; the gemm crate {:6.1}",
            rate(seconds),
            100.0 * rate(seconds) / peak,
            rate(other)
        );
    }
}
