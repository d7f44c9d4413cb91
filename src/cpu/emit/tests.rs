//! Nests by hand, run as native code.

use cranelift_module::FuncId;
use netloom_ir::kernel::pieces::{BLOCK, DEPTH, PIECES, SIDE, terms_in};
use netloom_ir::kernel::verify::verify;
use netloom_ir::kernel::{
    Axis, AxisId, Bind, Buffer, BufferId, Combine, Contract, ExprId, Exprs, Local, LocalId, Nest, Operand, Prim, Role,
    Stmt, interp,
};
use netloom_ir::layout::{Digit, Layout};
use netloom_ir::target::TargetKind;
use netloom_ir::tensor::Type;
use netloom_ir::{DType, Scalar, Tensor};

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
            has_amx: false,
            ..native.clone()
        })
        .into_iter()
        .chain([
            Cpu {
                level: Level::Portable,
                has_fma: false,
                has_amx: false,
                ..native.clone()
            },
            Cpu {
                level: Level::Avx512,
                has_amx: true,
                ..native.clone()
            },
        ])
        .filter(|cpu| cpu.check_host().is_ok())
        .collect()
}

/// A nest's code.
fn compile(cpu: &Cpu, nest: &Nest) -> (Jit, FuncId) {
    let mut jit = Jit::new(cpu).expect("a host CPU");
    let function = jit.emit(std::slice::from_ref(nest)).expect("the nest compiles")[0];
    jit.finish().expect("the code links");
    (jit, function)
}

/// Runs a nest with each worker in turn, and gives the bytes of all its buffers. Only for nests without a barrier.
fn run(code: &(Jit, FuncId), contents: &[Vec<u8>], workers: u64) -> Vec<Vec<u8>> {
    run_shared(code, contents, workers, &[])
}

/// As `run`, with buffers in the memory of others: of each pair, the first lies where the second lies.
fn run_shared(
    (jit, function): &(Jit, FuncId),
    contents: &[Vec<u8>],
    workers: u64,
    shared: &[(usize, usize)],
) -> Vec<Vec<u8>> {
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
    let mut addresses: Vec<*mut u8> = memory.iter_mut().map(|lines| lines.as_mut_ptr().cast()).collect();
    for &(buffer, of) in shared {
        addresses[buffer] = addresses[of];
    }
    // SAFETY: the address is that of a kernel in `jit`, which is alive.
    let kernel: KernelFn = unsafe { std::mem::transmute(jit.address(*function)) };
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
    let mut exprs = Exprs::default();
    for &extent in axes {
        exprs.add_axis(extent);
    }
    Nest {
        name: String::from("test"),
        kind: TargetKind::Cpu,
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
        layouts: Vec::new(),
        locals: locals
            .iter()
            .enumerate()
            .map(|(at, &dtype)| Local {
                name: format!("l{at}"),
                dtype,
            })
            .collect(),
        exprs,
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
        Prim::Unlikely => uniform(bool),
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
    let results = run(&compile(cpu, &nest), &contents, 1);
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
            let results = run(&compile(&cpu, &nest), &[x, vec![0; 4 * out.count()]], 3);
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
            let results = run(&compile(&cpu, &nest), &[x, vec![0; 240]], 1);
            assert_eq!(results[1], expected, "{bind:?} on {:?}", cpu.level);
        }
    }
}

/// Compares native code on every CPU and with several workers to the interpreter, bit for bit but for NaN.
fn check(nest: &Nest, inputs: &[Tensor]) {
    let expected = interp::run(nest, inputs, 1);
    let mut given = inputs.iter();
    let contents: Vec<Vec<u8>> = nest
        .buffers
        .iter()
        .map(|buffer| match buffer.role {
            Role::Input => given.next().expect("a tensor for each input").bytes().to_vec(),
            _ => vec![0xff; buffer.ty.len_bytes()],
        })
        .collect();
    for cpu in cpus().into_iter().filter(|cpu| cpu.has_amx || !nest.has_pieces()) {
        let code = compile(&cpu, nest);
        for workers in [1, 3] {
            let memory = run(&code, &contents, workers);
            let outputs = nest
                .buffers
                .iter()
                .zip(&memory)
                .filter(|(buffer, _)| buffer.role == Role::Output);
            for ((buffer, found), expected) in outputs.zip(&expected) {
                let dtype = buffer.ty.dtype;
                for (at, (expected, found)) in expected.scalars().zip(scalars(dtype, found)).enumerate() {
                    assert!(
                        same(expected, found, dtype),
                        "element {at} of `{}` is {expected:?}, {:?} code with {workers} workers gives {found:?}",
                        buffer.name,
                        cpu.level,
                    );
                }
            }
        }
    }
}

/// Numbers without a pattern, between -1 and 1.
fn noise(dtype: DType, shape: &[usize]) -> Tensor {
    let mut state = 1u64;
    let scalars = (0..shape.iter().product()).map(|_| {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        Scalar::from_f64((state >> 33) as f64 / (1u64 << 30) as f64 - 1.0, dtype)
    });
    Tensor::from_scalars(dtype, shape, scalars.collect::<Vec<_>>())
}

#[test]
fn contractions_sum_in_the_same_order_everywhere() {
    for dtype in [DType::F32, DType::F64] {
        for (rows, columns, k) in [
            (1, 16, vec![7]),
            (3, 16, vec![3, 5]),
            (1, 32, vec![1, 4, 2]),
            (3, 16, vec![]),
        ] {
            let (products, width) = (k.iter().product::<usize>(), columns + 3);
            // A is read backwards through its loops, B through rows of a wider matrix.
            let mut along: Vec<usize> = vec![1; k.len()];
            for at in (1..k.len()).rev() {
                along[at - 1] = along[at] * k[at];
            }
            let shapes = [vec![rows, products], vec![products, width]];
            let types = shapes.clone().map(|shape| Type::new(dtype, shape));
            let scratch = Type::new(dtype, [rows, columns]);
            let buffers = [
                (types[0].clone(), Role::Input),
                (types[1].clone(), Role::Input),
                (scratch.clone(), Role::WorkerScratch),
                (scratch, Role::Output),
            ];
            let mut nest = nest(&[rows, columns], &buffers, &[]);
            let (zero, two) = (nest.exprs.int(0), nest.exprs.int(2));
            let operand = |buffer, start, across, along| Operand {
                buffer: BufferId(buffer),
                start,
                across,
                lines: None,
                pieces: None,
                along,
            };
            for (accumulate, start) in [(false, two), (true, zero)] {
                nest.body.push(Stmt::Contract(Contract {
                    dtype,
                    rows,
                    columns,
                    k: k.clone(),
                    a: operand(0, zero, products, along.clone()),
                    b: operand(1, start, 1, along.iter().map(|along| along * width).collect()),
                    c: operand(2, zero, columns, Vec::new()),
                    accumulate,
                    ahead: 0,
                }));
            }
            let index = vec![nest.exprs.axis(AxisId(0)), nest.exprs.axis(AxisId(1))];
            let value = nest.exprs.load(BufferId(2), dtype, index.clone(), false);
            let store = Stmt::Store {
                buffer: BufferId(3),
                index,
                value,
            };
            let body = looped(&mut nest, 1, Bind::Serial, vec![store]);
            let body = looped(&mut nest, 0, Bind::Workers, vec![body]);
            nest.body.push(body);
            check(&nest, &shapes.map(|shape| noise(dtype, &shape)));
        }
    }
}

/// Two contractions in pieces of which the second goes on from the first, with room between all that they read and write: lengths of the operands and
/// the nest.
fn in_pieces([rows, columns]: [usize; 2], k: &[usize], dtypes: [DType; 2]) -> ([usize; 2], Nest) {
    // Where each block of terms begins, with room before every other loop, so that some run on evenly; and the end.
    let along = |block: usize| {
        let mut end = block;
        let mut strides = vec![0; k.len()];
        for at in (0..k.len()).rev() {
            strides[at] = end;
            end = end * k[at].max(1) + at % 2 * block;
        }
        (strides, end)
    };
    let [a_block, b_block] =
        [(DEPTH, dtypes[0]), (BLOCK, dtypes[1])].map(|(terms, dtype)| terms / terms_in(dtype).expect("pieces"));
    let ((a_along, a_row), (b_along, b_side)) = (along(a_block), along(b_block));
    let (a_across, b_across) = (a_row + 5, b_side + 2);
    let [a_piece, b_piece] = [rows * a_across + 3, columns / SIDE * b_across + 7];
    let lengths = [PIECES * a_piece + 2, PIECES * b_piece + 2];
    let c_across = columns + 3;
    let scratch = Type::new(DType::F32, [rows, c_across]);
    let buffers = [
        (Type::new(dtypes[0], [lengths[0]]), Role::Input),
        (Type::new(dtypes[1], [lengths[1]]), Role::Input),
        (scratch, Role::WorkerScratch),
        (Type::new(DType::F32, [rows, columns]), Role::Output),
    ];
    let mut nest = nest(&[rows, columns], &buffers, &[]);
    let (zero, two) = (nest.exprs.int(0), nest.exprs.int(2));
    let operand = |buffer, start, across, pieces, along: &[usize]| Operand {
        buffer: BufferId(buffer),
        start,
        across,
        lines: None,
        pieces,
        along: along.to_vec(),
    };
    for (accumulate, start) in [(false, two), (true, zero)] {
        nest.body.push(Stmt::Contract(Contract {
            dtype: DType::F32,
            rows,
            columns,
            k: k.to_vec(),
            a: operand(0, start, a_across, Some(a_piece), &a_along),
            b: operand(1, start, b_across, Some(b_piece), &b_along),
            c: operand(2, zero, c_across, None, &[]),
            accumulate,
            ahead: 0,
        }));
    }
    let index = vec![nest.exprs.axis(AxisId(0)), nest.exprs.axis(AxisId(1))];
    let value = nest.exprs.load(BufferId(2), DType::F32, index.clone(), false);
    let store = Stmt::Store {
        buffer: BufferId(3),
        index,
        value,
    };
    let body = looped(&mut nest, 1, Bind::Serial, vec![store]);
    let body = looped(&mut nest, 0, Bind::Workers, vec![body]);
    nest.body.push(body);
    (lengths, nest)
}

#[test]
fn contractions_in_pieces_have_the_bits_of_their_definition() {
    if !cpus().iter().any(|cpu| cpu.has_amx) {
        eprintln!("skipped: contractions in pieces are not run, as this machine has no AMX");
        return;
    }
    // Of the small ones products and sums are subnormal; an infinity or a NaN spoils a row or a column alone.
    let small = [
        0.0,
        -0.0,
        2.6e-20,
        -1.3e-19,
        1e-40,
        1.2e-38,
        0.5f64.powi(63),
        -0.5f64.powi(75),
    ];
    let special = [f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 3.3e38];
    let pairs = [DType::U32; 2];
    for (side, dtypes) in [
        ([16, 16], pairs),
        ([16, 32], [DType::U16, DType::BF16]),
        ([32, 16], [DType::BF16, DType::U32]),
        ([32, 32], pairs),
    ] {
        for k in [&[][..], &[3], &[2, 1, 3], &[2, 2, 2], &[4, 0]] {
            let (lengths, nest) = in_pieces(side, k, dtypes);
            verify(&nest).expect("a valid nest");
            let operands = |numbers: &dyn Fn(usize) -> Tensor| {
                [0, 1].map(|side: usize| {
                    let (dtype, length) = (dtypes[side], lengths[side]);
                    let bits = numbers(terms_in(dtype).expect("pieces") * length).bytes().to_vec();
                    Tensor::from_bytes(dtype, [length], bits)
                })
            };
            check(&nest, &operands(&|length| noise(DType::BF16, &[length])));
            for specials in [0, 4] {
                let edges = |length: usize| {
                    let values = (0..length).map(|at| match at * at % 1009 {
                        which if which < specials => special[which],
                        which => small[which % small.len()],
                    });
                    let values = values.map(|value| Scalar::from_f64(value, DType::BF16));
                    Tensor::from_scalars(DType::BF16, [length], values.collect::<Vec<_>>())
                };
                check(&nest, &operands(&edges));
            }
        }
    }
}

/// Schedules make no such nests, but a text may.
#[test]
fn contractions_in_pieces_without_code_are_refused() {
    let native = Cpu::native();
    let lacks = Cpu {
        has_amx: false,
        ..native.clone()
    };
    let [many, few] = [&[2; 14][..], &[2]].map(|k| in_pieces([16; 2], k, [DType::U32; 2]).1);
    let mut far = few.clone();
    if let Stmt::Contract(contract) = &mut far.body[0] {
        contract.a.pieces = Some(1 << 30);
    }
    let reason = "with so many loops, or so far apart";
    let with_unit: Vec<Cpu> = cpus().into_iter().filter(|cpu| cpu.has_amx).collect();
    let here = (with_unit.into_iter()).flat_map(|cpu| [&many, &far].map(|nest| (cpu.clone(), nest.clone(), reason)));
    for (cpu, nest, reason) in [(lacks, few, "without a matrix unit")].into_iter().chain(here) {
        let mut jit = Jit::new(&cpu).expect("a host CPU");
        let error = jit.emit(&[nest]).expect_err("no code").to_string();
        assert!(error.contains(reason), "{error}");
    }
}

/// A product of so many rows and columns in tiles of 4 by 16, of which two results are made; tiles at the edges are moved back over their neighbours.
fn finished_in_tiles(m: usize, n: usize) -> Nest {
    let k = 7;
    let float = |shape: &[usize]| Type::new(DType::F32, shape);
    let buffers = [
        (float(&[m, k]), Role::Input),
        (float(&[k, n]), Role::Input),
        (float(&[n]), Role::Input),
        (float(&[m, n]), Role::Input),
        (float(&[4, 16]), Role::WorkerScratch),
        (float(&[m, n]), Role::Output),
        (float(&[m, n]), Role::Output),
    ];
    let mut nest = nest(&[m.div_ceil(4), n.div_ceil(16), 4, 16], &buffers, &[]);
    let [task, panel, row, lane] = [0, 1, 2, 3].map(|axis| nest.exprs.axis(AxisId(axis)));
    let int = |nest: &mut Nest, prim, a, b: i64| {
        let b = nest.exprs.int(b);
        nest.exprs.prim(prim, DType::I64, &[a, b])
    };
    let sum = |nest: &mut Nest, prim, a, b| nest.exprs.prim(prim, DType::I64, &[a, b]);
    // Of an axis: where its tile's own begin, where the tile does, how many are its own, the index, and that in the tile.
    let place = |nest: &mut Nest, tile, size: usize, extent: usize, value| {
        let first = int(nest, Prim::Mul, tile, size as i64);
        let start = int(nest, Prim::Min, first, (extent - size) as i64);
        let all = nest.exprs.int(extent as i64);
        let rest = sum(nest, Prim::Sub, all, first);
        let own = int(nest, Prim::Min, rest, size as i64);
        let at = sum(nest, Prim::Add, first, value);
        (start, own, at, sum(nest, Prim::Sub, at, start))
    };
    let (start_row, own_rows, at_row, in_row) = place(&mut nest, task, 4, m, row);
    let (start_column, own_columns, at_column, in_column) = place(&mut nest, panel, 16, n, lane);
    let a_start = int(&mut nest, Prim::Mul, start_row, k as i64);
    let zero = nest.exprs.int(0);
    let operand = |buffer, start, across, along| Operand {
        buffer: BufferId(buffer),
        start,
        across,
        lines: None,
        pieces: None,
        along,
    };
    let tile = Stmt::Contract(Contract {
        dtype: DType::F32,
        rows: 4,
        columns: 16,
        k: vec![k],
        a: operand(0, a_start, k, vec![1]),
        b: operand(1, start_column, 1, vec![n]),
        c: operand(4, zero, 16, Vec::new()),
        accumulate: false,
        ahead: 0,
    });
    let load = |nest: &mut Nest, buffer, index: &[ExprId]| {
        nest.exprs.load(BufferId(buffer), DType::F32, index.to_vec(), false)
    };
    let float = |nest: &mut Nest, prim, args: &[ExprId]| nest.exprs.prim(prim, DType::F32, args);
    let product = load(&mut nest, 4, &[in_row, in_column]);
    let bias = load(&mut nest, 2, &[at_column]);
    let (none, half) = (
        nest.exprs.constant(DType::F32, Scalar::Float(0.0)),
        nest.exprs.constant(DType::F32, Scalar::Float(0.5)),
    );
    let biased = float(&mut nest, Prim::Add, &[product, bias]);
    let positive = float(&mut nest, Prim::Max, &[none, biased]);
    let other = load(&mut nest, 3, &[at_row, at_column]);
    let part = float(&mut nest, Prim::Mul, &[product, half]);
    let less = float(&mut nest, Prim::Sub, &[other, part]);
    let store = |buffer, value| Stmt::Store {
        buffer: BufferId(buffer),
        index: vec![at_row, at_column],
        value,
    };
    let walk = |axis, extent, bind, body| Stmt::Loop {
        axis: AxisId(axis),
        extent,
        bind,
        body,
    };
    let lanes = walk(3, own_columns, Bind::Lanes, vec![store(5, positive), store(6, less)]);
    let rows = walk(2, own_rows, Bind::Serial, vec![lanes]);
    let panels = looped(&mut nest, 1, Bind::Serial, vec![tile, rows]);
    let tasks = looped(&mut nest, 0, Bind::Workers, vec![panels]);
    nest.body.push(tasks);
    nest
}

#[test]
fn tiles_are_finished_in_registers() {
    for (m, n) in [(8, 32), (17, 32), (8, 40), (17, 40), (4, 16)] {
        let nest = finished_in_tiles(m, n);
        let shapes: [&[usize]; 4] = [&[m, 7], &[7, n], &[n], &[m, n]];
        check(&nest, &shapes.map(|shape| noise(DType::F32, shape)));
        for cpu in cpus().into_iter().filter(|cpu| cpu.level > Level::Portable) {
            let mut object = Object::listed(&cpu, "test").expect("an object");
            let (module, emitter) = object.parts();
            emitter
                .emit(module, std::slice::from_ref(&nest))
                .expect("the nest compiles");
            let listing = emitter.listing().expect("what was emitted");
            let names: Vec<&str> = listing.functions.iter().map(|(name, _)| &name[..]).collect();
            // What does not fill a tile goes through memory.
            let is_whole = n % 16 == 0;
            assert!(names.contains(&"finished_0"), "{names:?}");
            assert_eq!(names.contains(&"tile_0"), !is_whole, "{names:?}");
        }
    }
}

#[test]
fn every_combiner_keeps_its_virtual_lanes() {
    for dtype in DType::ALL {
        for with in Combine::ALL {
            let applies = match with {
                Combine::Sum | Combine::Product => dtype != DType::Bool,
                Combine::Max | Combine::Min => true,
                Combine::Any | Combine::All => dtype == DType::Bool,
            };
            if !applies {
                continue;
            }
            for count in [0, 1, 16, 37] {
                let row = Type::new(dtype, [2, count]);
                let buffers = [(row, Role::Input), (Type::new(dtype, [2]), Role::Output)];
                let mut nest = nest(&[2, count], &buffers, &[dtype]);
                let (row, at) = (nest.exprs.axis(AxisId(0)), nest.exprs.axis(AxisId(1)));
                let local = LocalId(0);
                let value = nest.exprs.load(BufferId(0), dtype, vec![row, at], false);
                let folding = looped(&mut nest, 1, Bind::Lanes, vec![Stmt::Accumulate { local, with, value }]);
                let identity = nest.exprs.constant(dtype, with.identity(dtype));
                let total = nest.exprs.local(local, dtype);
                let store = Stmt::Store {
                    buffer: BufferId(1),
                    index: vec![row],
                    value: total,
                };
                let body = vec![Stmt::Set { local, value: identity }, folding, store];
                let body = looped(&mut nest, 0, Bind::Serial, body);
                nest.body.push(body);
                check(&nest, &[noise(dtype, &[2, count])]);
                let all = samples(dtype);
                let edges = (0..2 * count).map(|at| all[at % all.len()]).collect::<Vec<_>>();
                check(&nest, &[Tensor::from_scalars(dtype, [2, count], edges)]);
            }
        }
    }
}

/// Every primitive on 32-bit elements in a vector loop, with whole vectors and a rest.
#[test]
fn vector_loops_give_the_bits_of_the_interpreter() {
    for prim in Prim::ALL {
        for dtype in [DType::F32, DType::I32, DType::U32] {
            for from in signatures(prim, dtype) {
                let rows = combinations(&from);
                let rows: Vec<_> = rows.iter().step_by(rows.len() / 200 + 1).collect();
                check_vector(prim, dtype, &from, &rows);
            }
        }
    }
}

fn check_vector(prim: Prim, dtype: DType, from: &[DType], rows: &[&Vec<Scalar>]) {
    let count = rows.len();
    let mut buffers: Vec<(Type, Role)> = from
        .iter()
        .map(|&from| (Type::new(from, [count]), Role::Input))
        .collect();
    buffers.push((Type::new(dtype, [2, count]), Role::Output));
    let mut nest = nest(&[2, count], &buffers, &[]);
    let (row, at) = (nest.exprs.axis(AxisId(0)), nest.exprs.axis(AxisId(1)));
    let args: Vec<_> = (0..from.len())
        .map(|operand| {
            nest.exprs
                .load(BufferId(operand as u32), from[operand], vec![at], false)
        })
        .collect();
    let value = nest.exprs.prim(prim, dtype, &args);
    let value = match dtype {
        DType::F32 => value,
        // The second row differs from the first by what the loop around gives.
        _ => {
            let row = nest.exprs.prim(Prim::Cast, dtype, &[row]);
            nest.exprs.prim(Prim::Xor, dtype, &[value, row])
        }
    };
    let store = Stmt::Store {
        buffer: BufferId(from.len() as u32),
        index: vec![row, at],
        value,
    };
    let body = looped(&mut nest, 1, Bind::Lanes, vec![store]);
    let body = looped(&mut nest, 0, Bind::Workers, vec![body]);
    nest.body.push(body);
    let column = |operand: usize| rows.iter().map(move |row| row[operand]);
    let inputs: Vec<Tensor> = (0..from.len())
        .map(|operand| Tensor::from_scalars(from[operand], [count], column(operand)))
        .collect();
    check(&nest, &inputs);
}

/// A branch that changes a register and memory which the code below reads again.
#[test]
fn branches_forget_what_they_change() {
    let ty = Type::new(DType::I32, [6]);
    let buffers = [
        (ty.clone(), Role::Input),
        (ty.clone(), Role::WorkerScratch),
        (ty, Role::Output),
    ];
    let mut nest = nest(&[6], &buffers, &[DType::I32]);
    let at = nest.exprs.axis(AxisId(0));
    let local = LocalId(0);
    let register = nest.exprs.local(local, DType::I32);
    let x = nest.exprs.load(BufferId(0), DType::I32, vec![at], false);
    let kept = nest.exprs.load(BufferId(1), DType::I32, vec![at], false);
    let zero = nest.exprs.constant(DType::I32, Scalar::Int(0));
    let condition = nest.exprs.prim(Prim::Lt, DType::Bool, &[zero, x]);
    let doubled = nest.exprs.prim(Prim::Add, DType::I32, &[register, register]);
    let both = nest.exprs.prim(Prim::Add, DType::I32, &[doubled, kept]);
    let store = |buffer, value| Stmt::Store {
        buffer: BufferId(buffer),
        index: vec![at],
        value,
    };
    let body = vec![
        Stmt::Set { local, value: x },
        store(1, doubled),
        Stmt::If {
            condition,
            then: vec![Stmt::Set { local, value: both }, store(1, both)],
            otherwise: vec![Stmt::Accumulate {
                local,
                with: Combine::Sum,
                value: kept,
            }],
        },
        store(2, both),
    ];
    let body = looped(&mut nest, 0, Bind::Serial, body);
    nest.body.push(body);
    check(
        &nest,
        &[Tensor::from_scalars(
            DType::I32,
            [6],
            [-3, 0, 5, 1, -1, 100].map(Scalar::Int),
        )],
    );
}

/// Two stores, the first over the operand that the second reads.
#[test]
fn an_output_may_lie_over_an_operand() {
    let count = 37;
    let ty = Type::new(DType::F32, [count]);
    let roles = [Role::Input, Role::Input, Role::Output, Role::Output];
    for cpu in cpus() {
        for bind in [Bind::Serial, Bind::Lanes] {
            let mut nest = nest(&[count], &roles.map(|role| (ty.clone(), role)), &[]);
            let at = nest.exprs.axis(AxisId(0));
            let x = nest.exprs.load(BufferId(0), DType::F32, vec![at], false);
            let y = nest.exprs.load(BufferId(1), DType::F32, vec![at], false);
            let doubled = nest.exprs.prim(Prim::Add, DType::F32, &[y, y]);
            let product = nest.exprs.prim(Prim::Mul, DType::F32, &[x, y]);
            let store = |buffer, value| Stmt::Store {
                buffer: BufferId(buffer),
                index: vec![at],
                value,
            };
            let body = looped(&mut nest, 0, bind, vec![store(2, doubled), store(3, product)]);
            nest.body.push(body);
            let (x, y) = (noise(DType::F32, &[count]), Tensor::from_f32([count], &[3.0; 37]));
            let contents = [
                x.bytes().to_vec(),
                y.bytes().to_vec(),
                vec![0; 4 * count],
                vec![0; 4 * count],
            ];
            let found = run_shared(&compile(&cpu, &nest), &contents, 1, &[(2, 0)]);
            assert_eq!(
                scalars(DType::F32, &found[0]),
                vec![Scalar::Float(6.0); count],
                "{bind:?} on {cpu:?}"
            );
            let expected: Vec<Scalar> = x.to_f32().iter().map(|x| Scalar::Float(f64::from(x * 3.0))).collect();
            assert_eq!(scalars(DType::F32, &found[3]), expected, "{bind:?} on {cpu:?}");
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
        emitter
            .emit(module, std::slice::from_ref(&nest))
            .expect("the nest compiles");
        let bytes = object.finish().expect("an object file");
        assert!(bytes.len() > 200, "{triple}");
    }
}
