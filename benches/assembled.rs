//! The assembled code against what the machine can do, measured in the same run: contraction tiles against the FMA peak and the
//! `gemm` crate, a polynomial exponential against libm, an addition in memory against `memcpy`.
//!
//! Every figure is the least of many runs; the ratios are what to compare between machines.

use std::hint::black_box;
use std::time::{Duration, Instant};

use iced_x86::code_asm::{CodeAssembler, rdi};
use iced_x86::{Code, Instruction, Register};
use memmap2::{Mmap, MmapMut};
use netloom::cpu::isa::Level;
use netloom::cpu::tile::{self, Tile};
use netloom::cpu::wide::{self, Body, Sink, Value, ValueId};
use netloom_ir::DType;
use netloom_ir::kernel::Prim;

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
        product(level);
        exponential(level);
        addition(level);
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

/// A body's function; the code must outlive it.
fn body_function(code: &Mmap) -> unsafe extern "sysv64" fn(*const u64, u64) {
    // SAFETY: `wide::assemble` made the bytes, for this signature.
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
        a_across: depth,
        a_along: vec![1],
        b_along: vec![columns],
        c_across,
        accumulate: true,
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

/// A product of 512×512 matrices: B packed panel by panel, then tiles down each panel.
fn product(level: Level) {
    const N: usize = 512;
    let (rows, columns) = if level == Level::Avx512 { (14, 32) } else { (6, 16) };
    let codes = [rows, N % rows].map(|rows| executable(&tile::assemble(&tile_of(rows, columns, N, N), level)));
    let (a, b, mut c) = (vec![0.5f32; N * N], vec![0.25f32; N * N], vec![0f32; N * N]);
    let mut panel = vec![0f32; N * columns];
    let ours = least(|| {
        for left in (0..N).step_by(columns) {
            for (row, packed) in panel.chunks_exact_mut(columns).enumerate() {
                packed.copy_from_slice(&b[row * N + left..][..columns]);
            }
            for top in (0..N).step_by(rows) {
                let code = &codes[usize::from(N - top < rows)];
                // SAFETY: the tile's rows and columns lie within the matrices.
                unsafe {
                    tile_function(code)(a[top * N..].as_ptr(), panel.as_ptr(), c[top * N + left..].as_mut_ptr());
                }
            }
        }
    });
    let theirs = least(|| {
        let n = N as isize;
        // SAFETY: the three are N×N matrices.
        unsafe {
            gemm::gemm(
                N,
                N,
                N,
                c.as_mut_ptr(),
                1,
                n,
                true,
                a.as_ptr(),
                1,
                n,
                b.as_ptr(),
                1,
                n,
                1.0f32,
                1.0f32,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
    });
    let rate = |seconds: f64| 2.0 * (N * N * N) as f64 / seconds / 1e9;
    println!(
        "{level:?} {N}³: {:.1} GFLOP/s; the gemm crate {:.1}",
        rate(ours),
        rate(theirs)
    );
}

/// A body that maps one stream to another.
fn map(build: impl FnOnce(&mut Vec<Value>, ValueId) -> ValueId) -> Body {
    let mut values = vec![Value::Load(DType::F32, 0)];
    let result = build(&mut values, ValueId(0));
    Body {
        values,
        sinks: vec![Sink::Store(DType::F32, 1, result)],
        slots: 2,
    }
}

fn exponential(level: Level) {
    let body = map(|values, x| {
        let mut push = |value: Value| {
            values.push(value);
            ValueId(values.len() as u32 - 1)
        };
        // e^x = 2^n · e^r, r = x - n ln 2, e^r by its series.
        let scale = push(Value::Const(DType::F32, u64::from(std::f32::consts::LOG2_E.to_bits())));
        let product = push(Value::Prim(Prim::Mul, DType::F32, vec![x, scale]));
        let n = push(Value::Prim(Prim::Nearest, DType::F32, vec![product]));
        let ln2 = push(Value::Const(DType::F32, u64::from((-std::f32::consts::LN_2).to_bits())));
        let r = push(Value::Prim(Prim::Fma, DType::F32, vec![n, ln2, x]));
        let mut sum = push(Value::Const(DType::F32, u64::from((1.0f32 / 720.0).to_bits())));
        for factorial in [120.0f32, 24.0, 6.0, 2.0, 1.0, 1.0] {
            let next = push(Value::Const(DType::F32, u64::from((1.0 / factorial).to_bits())));
            sum = push(Value::Prim(Prim::Fma, DType::F32, vec![sum, r, next]));
        }
        let whole = push(Value::Prim(Prim::Cast, DType::I32, vec![n]));
        let bits = push(Value::Const(DType::I32, 23));
        let exponent = push(Value::Prim(Prim::Shl, DType::I32, vec![whole, bits]));
        let sum = push(Value::Prim(Prim::Bitcast, DType::I32, vec![sum]));
        let result = push(Value::Prim(Prim::Add, DType::I32, vec![sum, exponent]));
        push(Value::Prim(Prim::Bitcast, DType::F32, vec![result]))
    });
    let code = executable(&wide::assemble(&body, level).expect("code"));
    let x: Vec<f32> = (0..4096).map(|at| at as f32 / 512.0 - 4.0).collect();
    let mut y = vec![0f32; x.len()];
    let slots = [x.as_ptr() as u64, y.as_mut_ptr() as u64];
    // SAFETY: both streams have as many elements.
    let ours = least(|| unsafe { body_function(&code)(slots.as_ptr(), x.len() as u64) });
    assert!((y[0] - x[0].exp()).abs() < 1e-5, "the body is an exponential");
    let libm = least(|| y.iter_mut().zip(&x).for_each(|(y, x)| *y = black_box(*x).exp()));
    let each = |seconds: f64| 1e9 * seconds / x.len() as f64;
    println!("{level:?} exp: {:.3} ns an element; libm {:.3}", each(ours), each(libm));
}

fn addition(level: Level) {
    const N: usize = 16 << 20;
    let body = map(|values, x| {
        values.push(Value::Load(DType::F32, 2));
        values.push(Value::Prim(Prim::Add, DType::F32, vec![x, ValueId(1)]));
        ValueId(2)
    });
    let code = executable(&wide::assemble(&Body { slots: 3, ..body }, level).expect("code"));
    let (a, b, mut c) = (vec![1f32; N], vec![2f32; N], vec![0f32; N]);
    let slots = [a.as_ptr() as u64, c.as_mut_ptr() as u64, b.as_ptr() as u64];
    // SAFETY: the three streams have as many elements.
    let ours = least(|| unsafe { body_function(&code)(slots.as_ptr(), N as u64) });
    let copy = least(|| black_box(&mut c).copy_from_slice(&a));
    let rate = |streams: usize, seconds: f64| (streams * 4 * N) as f64 / seconds / 1e9;
    println!(
        "{level:?} add of 64 MiB: {:.1} GB/s over three streams; memcpy {:.1} over two",
        rate(3, ours),
        rate(2, copy)
    );
}
