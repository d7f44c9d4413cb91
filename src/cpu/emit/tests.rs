//! Nests by hand, run as native code.

use netloom_ir::kernel::{
    Axis, AxisId, Bind, Buffer, BufferId, Combine, Exprs, Local, LocalId, Nest, Prim, Role, Stmt,
};
use netloom_ir::layout::{Digit, Layout};
use netloom_ir::tensor::Type;
use netloom_ir::{DType, Scalar};

use crate::cpu::Error;
use crate::cpu::isa::{Cpu, Level};
use crate::cpu::jit::{Jit, KernelFn};
use crate::cpu::object::Object;

/// Memory aligned as the ABI asks.
#[derive(Clone)]
#[repr(align(64))]
struct Line([u8; 64]);

/// What a machine of each level runs, as far as this one can.
fn cpus() -> Vec<Cpu> {
    let native = Cpu::native();
    [Level::Portable, Level::Avx2, Level::Avx512]
        .map(|level| Cpu {
            level,
            ..native.clone()
        })
        .into_iter()
        .chain([Cpu {
            level: Level::Portable,
            has_fma: false,
            ..native.clone()
        }])
        .filter(|cpu| cpu.check_host().is_ok())
        .collect()
}

/// Runs a nest with each worker in turn, and gives the bytes of all its buffers. Only for nests without a barrier.
fn run(cpu: &Cpu, nest: &Nest, contents: &[Vec<u8>], workers: u64) -> Vec<Vec<u8>> {
    let mut jit = Jit::new(cpu).expect("a host CPU");
    let function = jit.emit(nest).expect("the nest compiles");
    jit.finish().expect("the code links");
    let mut memory: Vec<Vec<Line>> = contents
        .iter()
        .map(|bytes| {
            let mut lines = vec![Line([0; 64]); bytes.len().div_ceil(64)];
            for (at, &byte) in bytes.iter().enumerate() {
                lines[at / 64].0[at % 64] = byte;
            }
            lines
        })
        .collect();
    let addresses: Vec<*mut u8> = memory.iter_mut().map(|lines| lines.as_mut_ptr().cast()).collect();
    // SAFETY: the address is that of a kernel in `jit`, which is alive.
    let kernel: KernelFn = unsafe { std::mem::transmute(jit.address(function)) };
    for worker in 0..workers {
        // SAFETY: one address for each buffer, each of at least that buffer's size and aligned to 64 bytes.
        unsafe { kernel(addresses.as_ptr(), std::ptr::null(), worker, workers) };
    }
    contents
        .iter()
        .zip(memory)
        .map(|(bytes, lines)| lines.iter().flat_map(|line| line.0).take(bytes.len()).collect())
        .collect()
}

fn nest(axes: &[usize], buffers: &[(Type, Role)], locals: &[DType]) -> Nest {
    Nest {
        name: String::from("test"),
        axes: axes
            .iter()
            .enumerate()
            .map(|(at, &extent)| Axis {
                name: format!("a{at}"),
                extent,
            })
            .collect(),
        buffers: buffers
            .iter()
            .enumerate()
            .map(|(at, (ty, role))| Buffer {
                name: format!("b{at}"),
                ty: ty.clone(),
                role: *role,
            })
            .collect(),
        locals: locals
            .iter()
            .enumerate()
            .map(|(at, &dtype)| Local {
                name: format!("l{at}"),
                dtype,
            })
            .collect(),
        exprs: Exprs::default(),
        body: Vec::new(),
    }
}

fn looped(nest: &mut Nest, axis: u32, bind: Bind, body: Vec<Stmt>) -> Stmt {
    let extent = nest.exprs.int(nest.axes[axis as usize].extent as i64);
    Stmt::Loop {
        axis: AxisId(axis),
        extent,
        bind,
        body,
    }
}

fn bytes(dtype: DType, values: impl IntoIterator<Item = Scalar>) -> Vec<u8> {
    values
        .into_iter()
        .flat_map(|value| value.to_bits(dtype).to_le_bytes().into_iter().take(dtype.size_bytes()))
        .collect()
}

fn scalars(dtype: DType, bytes: &[u8]) -> Vec<Scalar> {
    bytes
        .chunks(dtype.size_bytes())
        .map(|chunk| {
            let mut bits = [0; 8];
            bits[..chunk.len()].copy_from_slice(chunk);
            Scalar::from_bits(u64::from_le_bytes(bits), dtype)
        })
        .collect()
}

/// Values at the edges of a type and between.
fn samples(dtype: DType) -> Vec<Scalar> {
    match dtype.int_range() {
        Some((low, high)) => [
            low,
            low + 1,
            -129,
            -128,
            -2,
            -1,
            0,
            1,
            2,
            3,
            7,
            31,
            32,
            63,
            64,
            100,
            high / 2 + 1,
            high - 1,
            high,
        ]
        .into_iter()
        .filter(|value| (low..=high).contains(value))
        .map(Scalar::Int)
        .collect(),
        None if dtype == DType::Bool => vec![Scalar::Bool(false), Scalar::Bool(true)],
        None => [
            0.0,
            -0.0,
            0.5,
            1.0,
            -1.0,
            1.5,
            2.5,
            -2.5,
            0.1,
            3e-8,
            6e-8,
            -6.1e-5,
            2049.0,
            65504.0,
            65520.0,
            1e-40,
            1e-45,
            3.4e38,
            1e300,
            255.5,
            -129.0,
            2147483648.0,
            4294967296.0,
            9.3e18,
            1.9e19,
            -1e30,
            16777217.0,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::NAN,
        ]
        .into_iter()
        .map(|value| Scalar::from_f64(value, dtype))
        .collect(),
    }
}

/// Equal, where any NaN is any other.
fn same(a: Scalar, b: Scalar, dtype: DType) -> bool {
    match (a, b) {
        (Scalar::Float(a), Scalar::Float(b)) if a.is_nan() || b.is_nan() => a.is_nan() && b.is_nan(),
        _ => a.to_bits(dtype) == b.to_bits(dtype),
    }
}

/// The operand types that a primitive with a result of `dtype` can have.
fn signatures(prim: Prim, dtype: DType) -> Vec<Vec<DType>> {
    let (float, int, bool) = (dtype.is_float(), dtype.is_int(), dtype == DType::Bool);
    let uniform = |applies: bool| {
        if applies {
            vec![vec![dtype; prim.arity()]]
        } else {
            Vec::new()
        }
    };
    match prim {
        Prim::Add | Prim::Sub | Prim::Mul | Prim::Div | Prim::Neg | Prim::Abs => uniform(float || int),
        Prim::Fma | Prim::Sqrt | Prim::Floor | Prim::Ceil | Prim::Trunc | Prim::Nearest => uniform(float),
        Prim::Rem | Prim::Shl | Prim::Shr => uniform(int),
        Prim::Max | Prim::Min => uniform(true),
        Prim::And | Prim::Or | Prim::Xor => uniform(int || bool),
        Prim::MulHi => uniform(dtype == DType::U32),
        Prim::Eq | Prim::Lt | Prim::Le if bool => DType::ALL.map(|from| vec![from; 2]).to_vec(),
        Prim::Eq | Prim::Lt | Prim::Le => Vec::new(),
        Prim::Select => vec![vec![DType::Bool, dtype, dtype]],
        Prim::Cast => DType::ALL.map(|from| vec![from]).to_vec(),
        Prim::Bitcast => DType::ALL
            .into_iter()
            .filter(|from| from.size_bytes() == dtype.size_bytes())
            .map(|from| vec![from])
            .collect(),
    }
}

/// Every combination of samples, one operand a row.
fn combinations(from: &[DType]) -> Vec<Vec<Scalar>> {
    let mut rows = vec![Vec::new()];
    for &dtype in from {
        rows = rows
            .iter()
            .flat_map(|row| {
                samples(dtype)
                    .into_iter()
                    .map(move |sample| [row.as_slice(), &[sample]].concat())
            })
            .collect();
    }
    // Three floats make 27,000 combinations; every 7th, a number prime to them, is enough.
    if rows.len() > 10_000 {
        rows.into_iter().step_by(7).collect()
    } else {
        rows
    }
}

#[test]
fn every_primitive_of_every_type_gives_the_bits_of_eval() {
    for cpu in cpus() {
        for prim in Prim::ALL {
            for dtype in DType::ALL {
                for from in signatures(prim, dtype) {
                    check_prim(&cpu, prim, dtype, &from);
                }
            }
        }
    }
}

fn check_prim(cpu: &Cpu, prim: Prim, dtype: DType, from: &[DType]) {
    let rows = combinations(from);
    let count = rows.len();
    let mut buffers: Vec<(Type, Role)> = from
        .iter()
        .map(|&from| (Type::new(from, [count]), Role::Input))
        .collect();
    buffers.push((Type::new(dtype, [count]), Role::Output));
    let mut nest = nest(&[count], &buffers, &[]);
    let axis = nest.exprs.axis(AxisId(0));
    let args: Vec<_> = (0..from.len())
        .map(|at| nest.exprs.load(BufferId(at as u32), from[at], vec![axis], false))
        .collect();
    let value = nest.exprs.prim(prim, dtype, &args);
    let store = Stmt::Store {
        buffer: BufferId(from.len() as u32),
        index: vec![axis],
        value,
    };
    let body = looped(&mut nest, 0, Bind::Serial, vec![store]);
    nest.body.push(body);
    let mut contents: Vec<Vec<u8>> = (0..from.len())
        .map(|at| bytes(from[at], rows.iter().map(|row| row[at])))
        .collect();
    contents.push(vec![0; count * dtype.size_bytes()]);
    let results = run(cpu, &nest, &contents, 1);
    for (row, found) in rows.iter().zip(scalars(dtype, &results[from.len()])) {
        let expected = prim.eval(dtype, from[0], row);
        assert!(
            same(expected, found, dtype),
            "`{}` {from:?} -> {dtype} of {row:?} is {expected:?}, {:?} code gives {found:?}",
            prim.name(),
            cpu.level,
        );
    }
}

/// `out[j, i] = x[i, j]` outside the diagonal band, with x in blocks of 3 columns, padded, and a guarded read one past the end.
#[test]
fn addresses_follow_layouts_guards_and_workers() {
    let (rows, columns) = (5, 7);
    let digit = |axis, step, extent| Digit { axis, step, extent };
    let blocked = Type {
        layout: Layout::Digits(vec![digit(1, 3, 3), digit(0, 1, rows), digit(1, 1, 3)]),
        ..Type::new(DType::F32, [rows, columns])
    };
    let out = Type::new(DType::F32, [columns + 1, rows]);
    for cpu in cpus() {
        for (outer, inner) in [
            (Bind::Serial, Bind::Serial),
            (Bind::Workers, Bind::Unroll),
            (Bind::Workers, Bind::Lanes),
        ] {
            let buffers = [(blocked.clone(), Role::Input), (out.clone(), Role::Output)];
            let mut nest = nest(&[columns + 1, rows], &buffers, &[]);
            let (j, i) = (nest.exprs.axis(AxisId(0)), nest.exprs.axis(AxisId(1)));
            let value = nest.exprs.load(BufferId(0), DType::F32, vec![i, j], true);
            let store = Stmt::Store {
                buffer: BufferId(1),
                index: vec![j, i],
                value,
            };
            let body = looped(&mut nest, 1, inner, vec![store]);
            let body = looped(&mut nest, 0, outer, vec![body]);
            nest.body.push(body);
            let mut x = vec![0.0f32; 3 * rows * 3];
            for i in 0..rows {
                for j in 0..columns {
                    x[blocked.layout.offset(&blocked.shape, &[i, j])] = (i * 10 + j) as f32;
                }
            }
            let x: Vec<u8> = x.iter().flat_map(|x| x.to_le_bytes()).collect();
            let results = run(&cpu, &nest, &[x, vec![0; 4 * out.count()]], 3);
            for (at, found) in scalars(DType::F32, &results[1]).into_iter().enumerate() {
                let (j, i) = (at / rows, at % rows);
                let expected = if j < columns { (i * 10 + j) as f64 } else { 0.0 };
                assert_eq!(
                    found,
                    Scalar::Float(expected),
                    "at [{j},{i}], loops {outer:?} {inner:?}"
                );
            }
        }
    }
}

/// A row's mean in a register, then the row divided by it: what depends on the register is computed once a row, after it is known.
#[test]
fn registers_change_between_loops() {
    let ty = Type::new(DType::F32, [3, 20]);
    for cpu in cpus() {
        for bind in [Bind::Serial, Bind::Lanes] {
            let buffers = [(ty.clone(), Role::Input), (ty.clone(), Role::Output)];
            let mut nest = nest(&[3, 20, 20], &buffers, &[DType::F32]);
            let (row, a, b) = (
                nest.exprs.axis(AxisId(0)),
                nest.exprs.axis(AxisId(1)),
                nest.exprs.axis(AxisId(2)),
            );
            let sum = LocalId(0);
            let zero = nest.exprs.constant(DType::F32, Scalar::Float(0.0));
            let entering = nest.exprs.load(BufferId(0), DType::F32, vec![row, a], false);
            let entered = vec![Stmt::Accumulate {
                local: sum,
                with: Combine::Sum,
                value: entering,
            }];
            let summing = looped(&mut nest, 1, bind, entered);
            let x = nest.exprs.load(BufferId(0), DType::F32, vec![row, b], false);
            let total = nest.exprs.local(sum, DType::F32);
            let inverse = nest.exprs.constant(DType::F32, Scalar::Float(1.0));
            let inverse = nest.exprs.prim(Prim::Div, DType::F32, &[inverse, total]);
            let value = nest.exprs.prim(Prim::Mul, DType::F32, &[x, inverse]);
            let store = Stmt::Store {
                buffer: BufferId(1),
                index: vec![row, b],
                value,
            };
            let scaling = looped(&mut nest, 2, bind, vec![store]);
            let set = Stmt::Set {
                local: sum,
                value: zero,
            };
            let body = looped(&mut nest, 0, Bind::Serial, vec![set, summing, scaling]);
            nest.body.push(body);
            let x: Vec<f32> = (0..60).map(|at| 1.0 / (at as f32 + 1.0)).collect();
            let mut expected = Vec::new();
            for row in x.chunks(20) {
                let total = match bind {
                    Bind::Lanes => {
                        let mut lanes = [0.0f32; 16];
                        row.iter().enumerate().for_each(|(at, x)| lanes[at % 16] += x);
                        for half in [8, 4, 2, 1] {
                            (0..half).for_each(|lane| lanes[lane] += lanes[lane + half]);
                        }
                        0.0 + lanes[0]
                    }
                    _ => row.iter().fold(0.0, |sum, x| sum + x),
                };
                expected.extend(row.iter().flat_map(|x| (x * (1.0 / total)).to_le_bytes()));
            }
            let x = x.iter().flat_map(|x| x.to_le_bytes()).collect();
            let results = run(&cpu, &nest, &[x, vec![0; 240]], 1);
            assert_eq!(results[1], expected, "{bind:?} on {:?}", cpu.level);
        }
    }
}

#[test]
fn every_target_gets_an_object_file() {
    for triple in [
        "x86_64-unknown-linux-gnu",
        "x86_64-pc-windows-msvc",
        "x86_64-apple-darwin",
        "aarch64-unknown-linux-gnu",
        "aarch64-apple-darwin",
        "riscv64gc-unknown-linux-gnu",
    ] {
        let cpu = Cpu::for_triple(triple, None).expect("a known triple");
        let mut object = match Object::new(&cpu, "test") {
            Ok(object) => object,
            // Cranelift is built with this machine's architecture alone.
            Err(Error::Unsupported { .. }) if cpu.check_host().is_err() => continue,
            Err(error) => panic!("{triple}: {error}"),
        };
        let ty = Type::new(DType::F16, [32]);
        let mut nest = nest(&[32], &[(ty.clone(), Role::Input), (ty, Role::Output)], &[]);
        let axis = nest.exprs.axis(AxisId(0));
        let x = nest.exprs.load(BufferId(0), DType::F16, vec![axis], false);
        let value = nest.exprs.prim(Prim::Fma, DType::F16, &[x, x, x]);
        let store = Stmt::Store {
            buffer: BufferId(1),
            index: vec![axis],
            value,
        };
        let body = looped(&mut nest, 0, Bind::Lanes, vec![store]);
        nest.body.extend([body, Stmt::Barrier]);
        let (module, emitter) = object.parts();
        emitter.emit(module, &nest).expect("the nest compiles");
        let bytes = object.finish().expect("an object file");
        assert!(bytes.len() > 200, "{triple}");
    }
}
