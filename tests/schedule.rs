//! Every kernel of graphs of every form, scheduled for every kind of CPU and GPU: the nest is proved inside its buffers, gives what the
//! oracle gives, and the same bits for every machine of a kind and any number of workers.

use netloom::compile::lower;
use netloom::ir::builder::{Builder, Val};
use netloom::ir::decisions::{Decision, Decisions, Tuned};
use netloom::ir::kernel::{
    self, Buffer, BufferId, Expr, Exprs, Kernel, Limit, Matrix, Nest, Product, Role, Stmt, Strides, interp, verify,
};
use netloom::ir::ops::{Conv, Window};
use netloom::ir::target::{Matrices, Target, TargetKind};
use netloom::ir::{DType, Graph, Op, Program, Scalar, Tensor, Type, fuse, oracle};
use netloom::nn::training::program;
use netloom::nn::zoo;
use netloom::schedule;

/// Machines: kind, lanes, registers, invocations, bytes of operands of hand-written products, whether workgroups work together. Those of a list
/// give the same bits.
type Machine = (TargetKind, usize, usize, usize, usize, bool);
/// The list whose CPU has a matrix unit, which computes whatever it can.
const WITH_UNIT: usize = 4;
const MACHINES: [&[Machine]; 5] = [
    &[
        (TargetKind::Cpu, 4, 16, 1, 0, false),
        (TargetKind::Cpu, 8, 16, 1, 0, false),
        (TargetKind::Cpu, 16, 32, 1, 0, false),
    ],
    // Blocks of several sizes, and products left to the shader.
    &[
        (TargetKind::Vulkan, 4, 64, 8, 0, false),
        (TargetKind::Vulkan, 4, 256, 128, 0, false),
        (TargetKind::Vulkan, 4, 256, 128, 1 << 20, false),
    ],
    // So many invocations that each computes single elements, and long sums are cut sooner.
    &[(TargetKind::Vulkan, 4, 64, 1 << 20, 0, false)],
    // Workgroups that fold together.
    &[(TargetKind::Vulkan, 4, 64, 16384, 0, true)],
    &[(TargetKind::Cpu, 16, 32, 1, 0, false)],
];
const WORKERS: [usize; 4] = [1, 3, 2, 7];

/// A GPU that leaves large products to the shader.
const GPU: Target = Target {
    kind: TargetKind::Vulkan,
    vector_lanes: 4,
    vector_registers: 64,
    invocations: 128,
    share_from: 0,
    product_bytes: 1 << 27,
    workgroups: false,
    winograd: true,
    f16: false,
    pieces: false,
    matrices: None,
    tuned: Tuned::NOTHING,
};

/// Small multiples of 1/8, whose sums and products are exact in f32, so that their order does not matter.
fn element(dtype: DType, position: usize) -> Scalar {
    let value = (position * 7919 + 13) % 31;
    match dtype {
        DType::F32 | DType::F64 | DType::F16 | DType::BF16 => Scalar::Float((value as f64 - 15.0) / 8.0),
        _ => Scalar::Int(value as i128).cast(dtype),
    }
}

/// Checks every kernel of a graph, fused and not; results may differ from the oracle's by `tolerance` times the largest.
fn check(name: &str, tolerance: f64, build: impl for<'g> Fn(&'g Builder) -> Val<'g>) {
    let builder = Builder::new();
    let result = build(&builder);
    let graph = builder
        .finish([("y", result)])
        .unwrap_or_else(|problems| panic!("{name}: {problems}"));
    check_graph(name, tolerance, &graph);
}

fn check_graph(name: &str, tolerance: f64, graph: &Graph) {
    let tensors: Vec<(String, Tensor)> = (graph.inputs().iter())
        .map(|&id| {
            let Op::Input(input) = &graph.node(id).op else {
                unreachable!("{id} is an input")
            };
            let ty = graph.ty(id);
            let elements = (0..ty.count()).map(|position| element(ty.dtype, position));
            (
                input.name.clone(),
                Tensor::from_scalars(ty.dtype, ty.shape.clone(), elements),
            )
        })
        .collect();
    let inputs: Vec<(&str, Tensor)> = tensors
        .iter()
        .map(|(name, tensor)| (&name[..], tensor.clone()))
        .collect();
    let values = oracle::run_all(graph, &inputs).unwrap_or_else(|problems| panic!("{name}: {problems}"));
    for (cut, regions) in [("fused", fuse::regions(graph)), ("single", fuse::singletons(graph))] {
        for region in &regions {
            check_region(&format!("{name}, {cut}, {region:?}"), tolerance, graph, region, &values);
        }
    }
}

fn check_region(
    name: &str,
    tolerance: f64,
    graph: &Graph,
    region: &fuse::Region,
    values: &[Vec<std::sync::Arc<Tensor>>],
) {
    let kernel = kernel::build::build(graph, region);
    let given: Vec<Tensor> = region
        .inputs
        .iter()
        .map(|id| Tensor::clone(&values[id.at()][0]))
        .collect();
    let wanted: Vec<&Tensor> = region.outputs.iter().map(|id| &*values[id.at()][0]).collect();
    for (list, machines) in MACHINES.iter().enumerate() {
        let mut tuned = Tuned::NOTHING;
        if list == WITH_UNIT {
            tuned.set(kernel.key(), Decisions::default().with(Decision::Matrix, 1));
        }
        let mut first: Option<Vec<Tensor>> = None;
        for &(kind, vector_lanes, vector_registers, invocations, product_bytes, workgroups) in *machines {
            let target = Target {
                kind,
                vector_lanes,
                vector_registers,
                invocations,
                share_from: match kind {
                    TargetKind::Cpu => Target::SHARE_FROM,
                    TargetKind::Vulkan => 0,
                },
                product_bytes,
                workgroups,
                winograd: true,
                pieces: list == WITH_UNIT,
                f16: kind == TargetKind::Vulkan,
                matrices: (product_bytes > 0).then_some(Matrices {
                    rows: 16,
                    columns: 8,
                    depth: 8,
                    bytes: product_bytes,
                }),
                tuned: tuned.clone(),
            };
            check_nest(name, tolerance, &kernel, &target, &given, &wanted, &mut first);
        }
    }
}

/// Runs the nest for one machine; it gives what is wanted, and the bits that the first machine gave.
fn check_nest(
    name: &str,
    tolerance: f64,
    kernel: &Kernel,
    target: &Target,
    given: &[Tensor],
    wanted: &[&Tensor],
    first: &mut Option<Vec<Tensor>>,
) {
    let nest = schedule::choose(kernel, target);
    assert_eq!(verify::verify(&nest), Ok(()), "{name}\n{nest:#?}");
    let outputs = nest.buffers.iter().filter(|buffer| buffer.role == Role::Output);
    assert_eq!(outputs.count(), wanted.len());
    let workers = match target.kind {
        TargetKind::Cpu => &WORKERS[..],
        TargetKind::Vulkan => &WORKERS[..2],
    };
    for &workers in workers {
        let results = interp::run(&nest, given, workers);
        let Some(first) = first else {
            for (wanted, result) in wanted.iter().zip(&results) {
                close(name, tolerance, wanted, result);
            }
            *first = Some(results);
            continue;
        };
        assert_eq!(first, &results, "{name}: {target:?}, {workers} workers");
    }
}

fn close(name: &str, tolerance: f64, expected: &Tensor, found: &Tensor) {
    let most = expected
        .scalars()
        .map(|x| x.as_f64().abs())
        .filter(|x| x.is_finite())
        .fold(0.0, f64::max);
    for (position, (a, b)) in expected.scalars().zip(found.scalars()).enumerate() {
        let (a, b) = (a.as_f64(), b.as_f64());
        let same = a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= tolerance * most;
        assert!(same, "{name}: element {position} is {b}, not {a}");
    }
}

/// Sizes around a vector, a tile and a block.
const SIZES: [usize; 9] = [0, 1, 2, 15, 16, 17, 33, 67, 300];

#[test]
fn maps() {
    for n in SIZES {
        check("flat", 0.0, |b| {
            b.input("x", DType::F32, [n]) * b.input("y", DType::F32, [n]) + 1.0
        });
        check("transposed", 0.0, |b| {
            b.input("x", DType::F32, [n, 5]).transpose() + b.input("y", DType::F32, [5, n])
        });
        check("turned", 0.0, |b| {
            b.input("x", DType::F32, [2, n, 70]).permute([2, 0, 1])
        });
        check("rows", 0.0, |b| {
            b.input("x", DType::F32, [3, n]) + b.input("y", DType::F32, [n]).broadcast([3, n])
        });
    }
    // Each line is read for several lines that are written; of many, each for itself.
    for by in [2, 3, 7] {
        check("enlarged", 0.0, |b| {
            let x = b.input("x", DType::F32, [3, 8, 1, 9, 1]);
            x.broadcast([3, 8, by, 9, by]).reshape([3, 8 * by, 9 * by]) + 1.0
        });
        check("enlarged and scaled", 0.0, |b| {
            let x = b.input("x", DType::F32, [2, 8, 1, 9, 1]);
            let x = x.broadcast([2, 8, by, 9, by]).reshape([2, 8 * by, 9 * by]);
            x * b.input("y", DType::F32, [2, 8 * by, 9 * by])
        });
    }
    check("long", 0.0, |b| b.input("x", DType::F32, [3, 7001]) + 1.0);
    check("tanh", 1e-6, |b| b.input("x", DType::F32, [2, 50]).tanh());
}

/// The states of a cell, the second a long chain on the first, which is stored: in lanes they are two loops.
#[test]
fn long_chains() {
    for n in [15, 300, 5000] {
        let b = Builder::new();
        let [gates, state] = ["gates", "state"].map(|name| b.input(name, DType::F32, [n]));
        let state = gates.sigmoid() * state + (gates * 0.5).tanh() * gates.sigmoid();
        let hidden = state.tanh() * (gates * 2.0).sigmoid();
        // A longer chain that has nothing to do with them.
        let other = (gates.sin() * 0.5).tanh().sigmoid().atan();
        let graph = b
            .finish([("state", state), ("hidden", hidden), ("other", other)])
            .unwrap();
        check_graph("cell", 1e-6, &graph);
        let kernel = kernel::build::build(&graph, &fuse::regions(&graph)[0]);
        let nest = schedule::choose(&kernel, &netloom::Cpu::native().target());
        let links = nest.buffers.iter().filter(|buffer| buffer.name.starts_with("link"));
        assert_eq!(links.count(), 2, "the state and a gate are handed on");
    }
}

#[test]
fn folds() {
    for n in SIZES {
        check("row sums", 0.0, |b| b.input("x", DType::F32, [5, n]).sum([1]));
        check("column sums", 0.0, |b| b.input("x", DType::F32, [5, n]).sum([0]));
        check("tall column sums", 0.0, |b| b.input("x", DType::F32, [n, 20]).sum([0]));
        check("everything", 0.0, |b| b.input("x", DType::F32, [3, n, 4]).sum_all());
        check("channels", 0.0, |b| b.input("x", DType::F32, [2, 3, n]).sum([0, 2]));
        check("channels of many", 0.0, |b| {
            b.input("x", DType::F32, [67, 3, n]).sum([0, 2])
        });
        check("integers", 0.0, |b| b.input("x", DType::I32, [5, n]).max_over([1]));
    }
    check("long row", 0.0, |b| b.input("x", DType::F32, [10007]).sum_all());
    check("long rows", 0.0, |b| b.input("x", DType::F32, [2, 9001]).max_over([1]));
    check("long columns", 0.0, |b| b.input("x", DType::F32, [5003, 3]).sum([0]));
}

#[test]
fn rows_of_several_passes() {
    for n in [1, 15, 16, 17, 67] {
        check("softmax", 1e-6, |b| b.input("x", DType::F32, [5, n]).softmax(1));
        check("softmax along the columns", 1e-6, |b| {
            b.input("x", DType::F32, [5, n]).softmax(0)
        });
    }
    check("long softmax", 1e-6, |b| b.input("x", DType::F32, [2, 9001]).softmax(1));
    check("share of the sum", 1e-6, |b| {
        let x = b.input("x", DType::F32, [40, 700]).abs() + 1.0;
        x / x.sum_all().broadcast([40, 700])
    });
}

#[test]
fn contractions() {
    for n in [1, 2, 15, 16, 17, 67] {
        check("mn", 0.0, |b| {
            b.input("x", DType::F32, [n, 8])
                .matmul(b.input("y", DType::F32, [8, 18]))
        });
        check("k", 0.0, |b| {
            b.input("x", DType::F32, [7, n])
                .matmul(b.input("y", DType::F32, [n, 33]))
        });
        check("n", 0.0, |b| {
            b.input("x", DType::F32, [7, 9])
                .matmul(b.input("y", DType::F32, [9, n]))
        });
        check("transposed", 0.0, |b| {
            Val::einsum(
                "km,nk->mn",
                &[b.input("x", DType::F32, [11, 13]), b.input("y", DType::F32, [n, 11])],
            )
        });
        check("batch", 0.0, |b| {
            Val::einsum(
                "bmk,bkn->bmn",
                &[b.input("x", DType::F32, [2, 3, 8]), b.input("y", DType::F32, [2, 8, n])],
            )
        });
        // Several blocks of rows for each packed matrix.
        check("batch against the grain", 0.0, |b| {
            Val::einsum(
                "bmk,bnk->bmn",
                &[
                    b.input("x", DType::F32, [2, 67, 8]),
                    b.input("y", DType::F32, [2, n, 8]),
                ],
            )
        });
        check("f64", 0.0, |b| {
            b.input("x", DType::F64, [n, 8])
                .matmul(b.input("y", DType::F64, [8, 18]))
        });
    }
    // Of few rows: tiles are wider, and the columns may be several axes, or lie against the grain.
    for m in [1, 2, 3, 5] {
        for n in [63, 64, 136] {
            check("few rows", 0.0, |b| {
                b.input("x", DType::F32, [m, 9])
                    .matmul(b.input("w", DType::F32, [9, n]))
            });
            check("few rows against the grain", 0.0, |b| {
                Val::einsum(
                    "mk,nk->mn",
                    &[b.input("x", DType::F32, [m, 9]), b.input("w", DType::F32, [n, 9])],
                )
            });
            check("gates of few rows", 0.0, |b| {
                let gates = Val::einsum(
                    "mk,kgn->gmn",
                    &[b.input("h", DType::F32, [m, 9]), b.input("w", DType::F32, [9, 4, n])],
                );
                gates + b.input("x", DType::F32, [4, m, n])
            });
        }
    }
    // Large enough for the shader of products, whose operands are contiguous along either axis.
    for (spec, x, w) in [
        ("bmk,bkn->bmn", [2, 36, 64], [2, 64, 44]),
        ("bkm,bnk->bnm", [2, 64, 36], [2, 44, 64]),
        ("bmk,bnk->mbn", [2, 37, 64], [2, 45, 64]),
        ("bkm,bkn->bmn", [2, 64, 40], [2, 64, 52]),
    ] {
        check(spec, 0.0, |b| {
            let [x, w] = [("x", x), ("w", w)].map(|(name, shape)| b.input(name, DType::F32, shape));
            Val::einsum(spec, &[x, w])
        });
    }
    check("dense", 1e-6, |b| {
        let x = b
            .input("x", DType::F32, [40, 70])
            .matmul(b.input("w", DType::F32, [70, 50]));
        (x + b.input("b", DType::F32, [50]).broadcast([40, 50])).tanh()
    });
    check("halves", 0.0, |b| {
        let product = b
            .input("x", DType::F16, [32, 24])
            .matmul(b.input("w", DType::F16, [24, 40]));
        product * b.input("s", DType::F16, [32, 40])
    });
    check("integers", 0.0, |b| {
        b.input("x", DType::I32, [5, 8])
            .matmul(b.input("y", DType::I32, [8, 18]))
    });
    check("long", 0.0, |b| {
        b.input("x", DType::F32, [3, 9001])
            .matmul(b.input("y", DType::F32, [9001, 4]))
    });
}

#[test]
fn convolutions() {
    for (stride, pad) in [(1, 0_i64), (1, 1), (2, 1)] {
        check("conv", 0.0, |b| {
            let conv = Conv {
                stride: vec![stride; 2],
                pad_low: vec![pad; 2],
                pad_high: vec![pad; 2],
                ..Conv::unit(2)
            };
            b.input("x", DType::F32, [2, 3, 9, 20])
                .conv(b.input("w", DType::F32, [5, 3, 3, 3]), conv)
        });
    }
    check("pool", 0.0, |b| {
        b.input("x", DType::F32, [2, 3, 8, 12]).max_pool(Window::tiling([2, 2]))
    });
}

/// Filters that reach far over the border of a small image: tiles near the border leave out the terms that are nothing but zeros.
#[test]
fn taps_outside_the_image() {
    for (pad, side) in [(4_i64, 12), (6, 8)] {
        let b = Builder::new();
        let conv = Conv {
            pad_low: vec![pad; 2],
            pad_high: vec![pad; 2],
            ..Conv::unit(2)
        };
        let [x, w] =
            [("x", [2, 6, side, side]), ("w", [7, 6, 5, 5])].map(|(name, shape)| b.input(name, DType::F32, shape));
        let graph = b.finish([("y", x.conv(w, conv))]).unwrap();
        check_graph(&format!("{pad} outside"), 0.0, &graph);
        let kernel = kernel::build::build(&graph, &fuse::regions(&graph)[0]);
        let nest = schedule::choose(&kernel, &netloom::Cpu::native().target()).to_string();
        // Beyond the furthest taps there are whole lines of zeros: then the sum is not cut.
        assert_eq!(nest.contains("for tap"), pad < 5, "{nest}");
    }
}

/// A convolution as a product whose second matrix is gathered: the limits keep it inside, and give zeros around the image.
#[test]
fn convolutions_are_products() {
    let b = Builder::new();
    let conv = Conv {
        pad_low: vec![1; 2],
        pad_high: vec![1; 2],
        ..Conv::unit(2)
    };
    let x = b.input("x", DType::F32, [1, 2, 4, 5]);
    let y = x.conv(b.input("w", DType::F32, [3, 2, 3, 3]), conv);
    let graph = b.finish([("y", y)]).expect("a graph");
    let given = graph.inputs().iter().map(|&id| {
        let ty = graph.ty(id);
        let elements = (0..ty.count()).map(|position| element(ty.dtype, position));
        Tensor::from_scalars(ty.dtype, ty.shape.clone(), elements.collect::<Vec<_>>())
    });
    let given: Vec<Tensor> = given.collect();
    let named = [("x", given[0].clone()), ("w", given[1].clone())];
    let expected = oracle::run(&graph, &named).expect("the oracle runs it");

    let place = |start: i64, first: &[i64], second: &[i64]| Strides {
        start,
        batch: 0,
        first: first.to_vec(),
        second: second.to_vec(),
    };
    let matrix = |buffer: u32, place: Strides| Matrix {
        buffer: BufferId(buffer),
        place,
        fours: None,
    };
    let limit = |extent, stride, first: &[i64], second: &[i64]| Limit {
        extent,
        stride,
        place: place(-1, first, second),
    };
    let buffer = |name: &str, shape: &[usize], role| Buffer {
        name: name.to_owned(),
        ty: Type::new(DType::F32, shape),
        role,
    };
    let product = Product {
        batch: 1,
        rows: 3,
        columns: vec![4, 5],
        depth: vec![2, 3, 3],
        tile_rows: 3,
        a: matrix(1, place(0, &[18], &[9, 3, 1])),
        b: matrix(0, place(-6, &[20, 5, 1], &[5, 1])),
        limits: vec![limit(4, 5, &[0, 1, 0], &[1, 0]), limit(5, 1, &[0, 0, 1], &[0, 1])],
        c: matrix(2, place(0, &[20], &[5, 1])),
    };
    let mut nest = Nest {
        name: "product".to_owned(),
        kind: TargetKind::Vulkan,
        axes: Vec::new(),
        buffers: vec![
            buffer("x", &[1, 2, 4, 5], Role::Input),
            buffer("w", &[3, 2, 3, 3], Role::Input),
            buffer("y", &[1, 3, 4, 5], Role::Output),
        ],
        layouts: Vec::new(),
        locals: Vec::new(),
        exprs: Exprs::default(),
        body: vec![Stmt::Product(product.clone())],
    };
    assert_eq!(verify::verify(&nest), Ok(()));
    for workers in WORKERS {
        assert_eq!(interp::run(&nest, &given, workers)[0], expected[0].1);
    }
    nest.body = vec![Stmt::Product(Product {
        limits: product.limits[..1].to_vec(),
        ..product
    })];
    let problems = verify::verify(&nest).expect_err("a column of the image may be missed");
    assert!(
        problems[0].message.contains("B of a product may lie outside"),
        "{problems:?}"
    );
}

#[test]
fn prefixes_scatters_sorts() {
    for n in [1, 2, 15, 17, 67] {
        check("cumsum along rows", 0.0, |b| b.input("x", DType::F32, [3, n]).cumsum(1));
        check("cumsum along columns", 0.0, |b| {
            b.input("x", DType::F32, [3, n]).cumsum(0)
        });
        check("gather", 0.0, |b| {
            b.input("x", DType::F32, [31, n])
                .gather(b.input("i", DType::I64, [9]), 0)
        });
        check("scatter", 0.0, |b| {
            b.input("x", DType::F32, [20, n]).scatter_add(
                b.input("i", DType::I64, [9]),
                b.input("u", DType::F32, [9, n]),
                0,
            )
        });
        check("sort", 0.0, |b| b.input("x", DType::F32, [3, n]).argsort(1, false));
        check("sort downwards", 0.0, |b| {
            b.input("x", DType::F32, [n, 3]).argsort(0, true)
        });
    }
}

/// What the shader of products reads four at a time begins at a multiple of four elements: tensors of so many are placed at such, parts of what is
/// joined and steps of loops too, and of others the shader reads single elements.
#[test]
fn what_is_read_by_fours_begins_at_fours() {
    let target = GPU;
    let mut placed = 0;
    for (net, batch) in [("lstm", 4), ("squeezenet", 2), ("googlenet", 1)] {
        let net = zoo::find(net).expect("a network");
        let whole = program(
            &(net.layers)(),
            &net.input(batch),
            &net.target(batch),
            &(net.training)(),
        );
        let lowered = lower(&whole.expect("a program"), &target).expect("it lowers");
        for step in lowered.plans.iter().flat_map(|plan| &plan.steps) {
            step.places(&mut |place| {
                if place.bytes.is_multiple_of(16) {
                    assert!(place.offset.is_multiple_of(16), "{}: {place:?}", net.name);
                    assert!(
                        place.strides.iter().all(|stride| stride % 16 == 0),
                        "{}: {place:?}",
                        net.name
                    );
                    placed += 1;
                }
            });
        }
    }
    assert!(placed > 1000, "{placed} places");

    let by_fours = |more: usize| {
        let b = Builder::new();
        let x = b.input("x", DType::F32, [64 * 64 + more]).slice(0, 0, 64 * 64);
        let product = x.reshape([64, 64]).matmul(b.input("w", DType::F32, [64, 512]));
        let graph = b.finish([("y", product)]).expect("a graph");
        let lowered = lower(&Program::pure("run", graph), &target).expect("it lowers");
        let is_x = |nest: &Nest, side: &Matrix| nest.buffers[side.buffer.at()].ty.count() == 64 * 64 + more;
        let nests = lowered.kernels.nests().iter();
        let products = nests.filter_map(|nest| match &nest.body[0] {
            Stmt::Product(product) => [&product.a, &product.b].into_iter().find(|side| is_x(nest, side)),
            _ => None,
        });
        products.map(|side| side.fours.is_some()).collect::<Vec<_>>()
    };
    assert_eq!(by_fours(4), [true]);
    assert_eq!(by_fours(1), [false]);
}

/// Products with small constants along both axes of a square are one kernel. On a GPU an invocation computes a square, its sums along the one axis
/// once for all results along the other, and constants are numbers in the code; on a CPU what is between is kept in memory.
#[test]
fn transforms_of_squares() {
    fn transformed(b: &Builder, to: usize, dtype: DType) -> Val<'_> {
        let elements = (0..to * 6).map(|at| Scalar::Float((at * 5 % 7) as f64 - 3.0));
        let matrix = b.constant(Tensor::from_scalars(dtype, [to, 6], elements));
        let down = Val::einsum("ckl,ik->cil", &[b.input("x", dtype, [9, 6, 6]), matrix]);
        Val::einsum("cil,jl->ijc", &[down, matrix])
    }
    for to in [1, 2, 4, 6, 10] {
        check("squares", 1e-6, |b| transformed(b, to, DType::F32));
        check("squares and what follows", 1e-6, |b| {
            (transformed(b, to, DType::F32) + b.input("bias", DType::F32, [9])).relu()
        });
        check("squares of halves", 2e-3, |b| transformed(b, to, DType::F16));
    }
    let gpu = Target { invocations: 1, ..GPU };
    let b = Builder::new();
    let y = transformed(&b, 4, DType::F32);
    let lowered = lower(&Program::pure("run", b.finish([("y", y)]).expect("a graph")), &gpu).expect("it lowers");
    let [nest] = lowered.kernels.nests() else {
        panic!("{} kernels", lowered.kernels.nests().len())
    };
    assert!(!nest.body.contains(&Stmt::Barrier), "{nest}");
    let loads: Vec<_> = (nest.exprs.ids())
        .filter_map(|id| match nest.exprs.get(id) {
            Expr::Load { buffer, .. } => Some(nest.buffers[buffer.at()].ty.shape.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(loads, vec![vec![9, 6, 6]; 36], "{nest}");
}

/// Halves are left to matrices that fit: whole, contiguous along one axis, with lines at multiples of 16 bytes.
#[test]
fn products_of_halves_are_left_to_matrices_that_fit() {
    let is_left = |spec: &str, x: &[usize], w: &[usize], dtype: DType, matrices: Option<Matrices>| {
        let target = Target {
            kind: TargetKind::Vulkan,
            vector_lanes: 4,
            vector_registers: 64,
            invocations: 128,
            share_from: 0,
            product_bytes: 0,
            workgroups: false,
            winograd: true,
            f16: true,
            pieces: false,
            matrices,
            tuned: Tuned::NOTHING,
        };
        let b = Builder::new();
        let [x, w] = [("x", x), ("w", w)].map(|(name, shape)| b.input(name, dtype, shape));
        let graph = b.finish([("y", Val::einsum(spec, &[x, w]))]).expect("a graph");
        let lowered = lower(&Program::pure("run", graph), &target).expect("it lowers");
        let mut stmts = lowered.kernels.nests().iter().flat_map(|nest| &nest.body);
        stmts.any(|stmt| matches!(stmt, Stmt::Product(_)))
    };
    let matrices = Some(Matrices {
        rows: 16,
        columns: 8,
        depth: 16,
        bytes: 1 << 16,
    });
    for (spec, x, w, fits) in [
        ("mk,kn->mn", &[32, 48][..], &[48, 24][..], true),
        ("km,nk->mn", &[48, 32], &[24, 48], true),
        ("bmk,bkn->bmn", &[3, 32, 48], &[3, 48, 24], true),
        ("mk,kn->mn", &[31, 48], &[48, 24], false),
        ("mk,kn->mn", &[32, 40], &[40, 24], false),
        ("mk,kn->mn", &[32, 48], &[48, 23], false),
        // Of columns a twelfth of a line apart nothing is contiguous.
        ("mks,kns->mns", &[32, 48, 12], &[48, 24, 12], false),
        // Too large to be bound at once.
        ("mk,kn->mn", &[32, 1040], &[1040, 24], false),
    ] {
        assert_eq!(is_left(spec, x, w, DType::F16, matrices), fits, "{spec} {x:?} {w:?}");
        assert!(!is_left(spec, x, w, DType::F16, None), "{spec} {x:?} {w:?}");
        assert!(!is_left(spec, x, w, DType::F32, matrices), "{spec} {x:?} {w:?}");
    }
}

/// Invocations of a workgroup turn a square through memory that they share, and combine pairwise: what a text says is what the interpreter does, and it
/// finds where they do not wait for each other.
#[test]
fn invocations_combine_pairwise_and_wait_for_each_other() {
    let nest = |barrier: &str| {
        let text = format!(
            "graph(x: f32[2,16]) {{
                y = sum x axes=[1]
                region y = y
                    nest by_hand on vulkan {{
                        in x: f32[2,16]
                        out y: f32[2]
                        group scratch tile: f32[16]
                        local all: f32
                        for row < 2 group {{
                            for i < 16 item 0 {{
                                tile[15 - i] = x[row, i]
                            }}
                            {barrier}
                            all = 0.0
                            for i < 16 item 0 {{
                                all sum= tile[i]
                            }}
                            y[row] = all
                        }}
                    }}
                return y
            }}"
        );
        let program =
            netloom::ir::text::parse_program("model.nl", &text).unwrap_or_else(|problems| panic!("{problems}"));
        let lowered = lower(&program, &GPU).expect("it lowers");
        lowered.kernels.nests()[0].clone()
    };
    let x: Vec<f32> = (0..32).map(|i| 1.0 + 0.1 * i as f32).collect();
    let given = [Tensor::from_f32([2, 16], &x)];
    let pairwise = |row: &[f32]| {
        let mut values: Vec<f32> = row.iter().rev().copied().collect();
        while values.len() > 1 {
            let upper = values.split_off(values.len() / 2);
            values.iter_mut().zip(upper).for_each(|(value, other)| *value += other);
        }
        values[0]
    };
    for workers in [1, 2, 3] {
        let found = interp::run(&nest("barrier"), &given, workers);
        assert_eq!(found[0].to_f32(), [pairwise(&x[..16]), pairwise(&x[16..])]);
    }
    let unsettled = nest("");
    let run = std::panic::AssertUnwindSafe(|| interp::run(&unsettled, &given, 1));
    let found = std::panic::catch_unwind(run).expect_err("nobody waits");
    let said = found.downcast_ref::<String>().expect("a message");
    assert!(
        said.contains("`tile` is touched by") && said.contains("with no barrier between"),
        "{said}"
    );
}
