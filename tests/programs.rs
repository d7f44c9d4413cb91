//! Programs: states, results that are not computed, loops, branches, random streams.

mod support;

use std::collections::HashMap;
use std::sync::Arc;

use netloom::ir::builder::{Builder, Val};
use netloom::ir::ops::compound::Steps;
use netloom::ir::ops::{Conv, Window};
use netloom::ir::{DType, Entry, Graph, Init, Op, Program, Scalar, State, Tensor, autodiff, oracle, sample};
use netloom::{Cpu, Session, compile};
use support::{Allowed, Case, THREADS, check, cpus, different_bits};

/// A program with one entry `run` over these states.
fn program(graph: Graph, states: &[(&str, Tensor)]) -> Program {
    let states = states.iter().map(|(name, start)| State {
        name: (*name).to_owned(),
        ty: start.ty(),
        init: Init::Tensor(Arc::new(start.clone())),
    });
    Program {
        states: states.collect(),
        entries: vec![Entry {
            name: "run".to_owned(),
            graph,
        }],
    }
}

/// Runs a program three times on every engine; results and states are the oracle's within `tolerance` of the greatest, and have the same
/// bits everywhere.
fn check_states(graph: &Graph, states: &[(&str, Tensor)], arguments: &[(&str, Tensor)], tolerance: f64) {
    const RUNS: usize = 3;
    let mut now: HashMap<&str, Tensor> = states.iter().chain(arguments).cloned().collect();
    let mut expected = Vec::new();
    for _ in 0..RUNS {
        let read = |id: &netloom::ir::NodeId| match &graph.node(*id).op {
            Op::Input(input) => input.name.as_str(),
            other => unreachable!("{other:?} among the inputs"),
        };
        let inputs: Vec<(&str, Tensor)> = graph
            .inputs()
            .iter()
            .map(|id| (read(id), now[read(id)].clone()))
            .collect();
        expected = oracle::run(graph, &inputs).expect("inputs fit");
        for (name, _) in states {
            if let Some((_, next)) = expected.iter().find(|(output, _)| output == name) {
                now.insert(name, next.clone());
            }
        }
    }
    let program = program(graph.clone(), states);
    let run = |mut session: Session| {
        let arguments: Vec<(&str, &Tensor)> = arguments.iter().map(|(name, x)| (*name, x)).collect();
        let mut results = Vec::new();
        for _ in 0..RUNS {
            results = session
                .call("run", &arguments)
                .unwrap_or_else(|error| panic!("{error}"));
        }
        results.extend(session.states());
        for (name, expected) in &expected {
            let (_, found) = results
                .iter()
                .find(|(known, _)| known == name)
                .expect("each output is a result or state");
            assert_eq!(found.ty(), expected.ty(), "`{name}`");
            let greatest = expected.scalars().map(|x| x.as_f64().abs()).fold(1.0, f64::max);
            for (x, y) in found.scalars().zip(expected.scalars()) {
                let apart = (x.as_f64() - y.as_f64()).abs();
                assert!(
                    apart <= tolerance * greatest,
                    "`{name}` is {found:?}, should be {expected:?} on {}\n{graph}",
                    session.executable().device
                );
            }
        }
        results
    };
    let mut first: Option<Vec<(String, Tensor)>> = None;
    for cpu in cpus() {
        let executable = Arc::new(compile(&program, &cpu).unwrap_or_else(|error| panic!("{error}")));
        for threads in THREADS {
            let results = run(Session::new(Arc::clone(&executable), threads, 0).expect("memory"));
            let first = first.get_or_insert_with(|| results.clone());
            for ((name, found), (_, known)) in results.iter().zip(first) {
                assert_eq!(
                    different_bits(found, known),
                    None,
                    "`{name}` on {} with {threads} workers",
                    cpu.name()
                );
            }
        }
    }
    #[cfg(feature = "vulkan")]
    if let Some(device) = support::vulkan() {
        let executable = compile(&program, Arc::clone(&device)).unwrap_or_else(|error| panic!("{error}"));
        run(Session::new(executable.into(), 1, 0).expect("memory"));
        assert_eq!(device.messages(), [""; 0]);
    }
}

fn floats(shape: &[usize], seed: u64) -> Tensor {
    sample::tensor(&netloom::ir::Type::new(DType::F32, shape.to_vec()), &mut { seed })
}

#[test]
fn two_states_change_places() {
    let b = Builder::new();
    let (p, q) = (b.input("p", DType::F32, [37]), b.input("q", DType::F32, [37]));
    let graph = b.finish([("p", q), ("q", p), ("sum", p + q)]).expect("a graph");
    check_states(&graph, &[("p", floats(&[37], 1)), ("q", floats(&[37], 2))], &[], 0.0);
}

#[test]
fn three_states_go_round_while_they_change() {
    let b = Builder::new();
    let [p, q, r] = ["p", "q", "r"].map(|name| b.input(name, DType::F32, [5, 7]));
    let graph = b
        .finish([("p", q + 1.0), ("q", r * 0.5), ("r", p.permute([1, 0]).reshape([5, 7]))])
        .expect("a graph");
    let states = [
        ("p", floats(&[5, 7], 1)),
        ("q", floats(&[5, 7], 2)),
        ("r", floats(&[5, 7], 3)),
    ];
    check_states(&graph, &states, &[], 0.0);
}

#[test]
fn readers_elsewhere_see_a_state_as_it_was() {
    let b = Builder::new();
    let w = b.input("w", DType::F32, [17, 19]);
    let (x, d) = (b.input("x", DType::F32, [23, 17]), b.input("d", DType::F32, [23, 19]));
    // A dense layer's step: the new weight beside the gradient of its input, which reads the old one.
    let dw = Val::einsum("bi,bo->io", &[x, d]);
    let dx = Val::einsum("bo,io->bi", &[d, w]);
    let y = x.matmul(w);
    let graph = b
        .finish([("w", w - dw * 0.125), ("dx", dx), ("y", y), ("flipped", w.flip([0]))])
        .expect("a graph");
    let arguments = [("x", floats(&[23, 17], 2)), ("d", floats(&[23, 19], 3))];
    check_states(&graph, &[("w", floats(&[17, 19], 1))], &arguments, 1e-5);
}

#[test]
fn a_reader_may_need_the_update() {
    let b = Builder::new();
    let (w, x) = (b.input("w", DType::F32, [31]), b.input("x", DType::F32, [31]));
    let next = w * 0.5 + x;
    // One result reads the old value and the new one, through a fold of it.
    let mixed = w.flip([0]) * next.sum([0]).broadcast([31]);
    let graph = b
        .finish([("w", next), ("mixed", mixed), ("old", w), ("new", next)])
        .expect("a graph");
    check_states(&graph, &[("w", floats(&[31], 1))], &[("x", floats(&[31], 2))], 1e-5);
}

#[test]
fn results_that_nothing_computes() {
    let b = Builder::new();
    let x = b.input("x", DType::F32, [3, 5]);
    let s = b.input("s", DType::F32, [3, 5]);
    let constant = b.constant(floats(&[4], 9));
    let y = x + s;
    let graph = b
        .finish([
            ("input", x),
            ("again", x),
            ("state", s),
            ("constant", constant),
            ("y", y),
            ("same", y),
            ("s", y),
        ])
        .expect("a graph");
    check_states(&graph, &[("s", floats(&[3, 5], 1))], &[("x", floats(&[3, 5], 2))], 0.0);
}

#[test]
fn a_state_of_no_elements_and_one_that_only_starts() {
    let b = Builder::new();
    let (nothing, kept) = (b.input("nothing", DType::F32, [0, 3]), b.input("kept", DType::F32, []));
    let graph = b
        .finish([("nothing", nothing * 2.0), ("y", kept + 1.0)])
        .expect("a graph");
    let kept = Tensor::from_f32([], &[0.5]);
    check_states(
        &graph,
        &[("nothing", Tensor::zeros(DType::F32, [0, 3])), ("kept", kept)],
        &[],
        0.0,
    );
}

#[test]
fn a_counter_counts() {
    let b = Builder::new();
    let step = b.input("step", DType::U64, []);
    let graph = b
        .finish([("step", step + step.lit(1.0)), ("now", step)])
        .expect("a graph");
    check_states(
        &graph,
        &[("step", Tensor::scalar(DType::U64, Scalar::Int((1 << 40) + 7)))],
        &[],
        0.0,
    );
}

/// The step of a net that begins with `body(x, w, v)`, over the filters `w` and `v`, on images.
fn check_filters(
    name: &str,
    images: [usize; 4],
    filters: [[usize; 4]; 2],
    body: impl for<'g> Fn(Val<'g>, Val<'g>, Val<'g>) -> Val<'g>,
) {
    println!("{name}");
    let b = Builder::new();
    let x = b.input("x", DType::F32, images);
    let [w, v] = [("w", filters[0]), ("v", filters[1])].map(|(name, shape)| b.input(name, DType::F32, shape));
    let y = body(x, w, v);
    let gradients = autodiff::grad((y * y).sum_all(), &[w, v, x]);
    let graph = b
        .finish([
            ("w", w - gradients[0] * 1e-6),
            ("v", v - gradients[1] * 1e-6),
            ("y", y),
            ("dx", gradients[2]),
        ])
        .unwrap_or_else(|problems| panic!("{name}: {problems}"));
    let states = [("w", floats(&filters[0], 1)), ("v", floats(&filters[1], 2))];
    check_states(&graph, &states, &[("x", floats(&images, 3))], 1e-4);
}

#[test]
fn convolutions_by_winograd() {
    let conv = |pad: i64| Conv {
        pad_low: vec![pad; 2],
        pad_high: vec![pad; 2],
        ..Conv::unit(2)
    };
    // The last squares of a line and of the image are cut, and the last group of them is moved back over what lies under the result.
    check_filters("many squares", [1, 32, 23, 14], [[32, 32, 3, 3]; 2], |x, w, v| {
        let y = x.conv(w, conv(1)).relu();
        (y.conv(v, conv(1)) + y).tanh()
    });
    check_filters(
        "few squares",
        [1, 128, 8, 8],
        [[32, 128, 3, 3], [128, 32, 3, 3]],
        |x, w, v| x.conv(w, conv(1)).relu().conv(v, conv(1)),
    );
    check_filters(
        "several images",
        [3, 16, 9, 11],
        [[48, 16, 3, 3], [32, 48, 3, 3]],
        |x, w, v| x.conv(w, conv(0)).sigmoid().conv(v, conv(2)).tanh(),
    );
}

#[test]
fn winograd_is_chosen_unless_it_is_forbidden() {
    let net = netloom::nn::zoo::find("resnet18").expect("a network");
    let program = netloom::nn::training::predictor(&(net.layers)(), &net.input(1)).expect("a valid network");
    let count = |winograd: bool| {
        let cpu = Cpu {
            winograd,
            ..Cpu::native()
        };
        let lowered = netloom::compile::lower(&program, &cpu.target()).expect("it lowers");
        let nests = netloom::dump::nests(&lowered);
        nests.matches("scratch product_").count()
    };
    // Thirteen of its convolutions have 3x3 filters and stride 1; two pairs of them are kernels that are equal.
    assert_eq!([count(true), count(false)], [11, 0]);
}

#[test]
fn gradients_of_filters_in_pieces() {
    let conv = |stride: usize, pad: i64| Conv {
        stride: vec![stride; 2],
        pad_low: vec![pad; 2],
        pad_high: vec![pad; 2],
        ..Conv::unit(2)
    };
    // Pieces of several lines, of strided ones, of one line, of several images.
    for (name, images, stride, filter) in [
        ("lines", [1, 16, 36, 24], 1, [32, 16, 3, 3]),
        ("strided lines", [2, 16, 40, 24], 2, [16, 16, 3, 3]),
        ("long lines", [1, 16, 5, 300], 1, [16, 16, 3, 3]),
        ("several images", [12, 32, 7, 7], 1, [16, 32, 5, 5]),
    ] {
        let conv = conv(stride, filter[2] as i64 / 2);
        let second = [16, filter[0], 1, 1];
        check_filters(name, images, [filter, second], |x, w, v| {
            x.conv(w, conv.clone()).relu().conv(v, Conv::unit(2))
        });
    }
}

#[test]
fn only_long_sums_over_images_are_cut_into_pieces() {
    let net = netloom::nn::zoo::find("resnet18_cifar").expect("a network");
    let program = netloom::nn::training::program(&(net.layers)(), &net.input(2), &net.target(2), &(net.training)());
    let lowered = netloom::compile::lower(&program.expect("a valid network"), &Cpu::native().target());
    let nests = netloom::dump::nests(&lowered.expect("it lowers"));
    // Of two pictures: those of 32 × 32 pixels, of three channels and of 64, and of 16 × 16, with stride 2 and 1.
    assert_eq!(nests.matches("scratch sums_").count(), 4);
}

#[test]
fn images_and_filters_in_blocks() {
    let conv = |stride: usize, pad: i64, groups: usize| Conv {
        stride: vec![stride; 2],
        pad_low: vec![pad; 2],
        pad_high: vec![pad; 2],
        groups,
        ..Conv::unit(2)
    };
    let square = |size: usize, stride: usize, pad: usize| Window {
        size: vec![size; 2],
        stride: vec![stride; 2],
        pad_low: vec![pad; 2],
        pad_high: vec![pad; 2],
        dilation: vec![1; 2],
    };
    check_filters("flattened", [2, 3, 7, 5], [[16, 3, 3, 3], [32, 16, 3, 3]], |x, w, v| {
        let y = x.conv(w, conv(1, 1, 1)).relu().conv(v, conv(2, 1, 1));
        y.reshape([2, 32 * 4 * 3])
    });
    check_filters(
        "residual",
        [2, 16, 7, 5],
        [[16, 16, 3, 3], [16, 16, 1, 1]],
        |x, w, v| {
            let y = x.conv(w, conv(1, 1, 1)).relu();
            (x.conv(v, conv(1, 0, 1)) + y).tanh()
        },
    );
    check_filters("pooled", [2, 3, 7, 5], [[32, 3, 3, 3], [16, 32, 3, 3]], |x, w, v| {
        let y = x.conv(w, conv(1, 1, 1)).max_pool(square(3, 2, 1));
        y.conv(v, conv(1, 1, 1)).avg_pool(square(2, 1, 0)).mean([2, 3])
    });
    check_filters(
        "concatenated",
        [2, 16, 7, 5],
        [[32, 16, 1, 1], [16, 48, 3, 3]],
        |x, w, v| {
            let y = Val::concat(&[x.conv(w, conv(1, 0, 1)), x.relu()], 1);
            y.conv(v, conv(1, 0, 1))
        },
    );
    check_filters(
        "uneven channels",
        [2, 5, 7, 5],
        [[24, 5, 3, 3], [16, 24, 3, 3]],
        |x, w, v| x.conv(w, conv(1, 1, 1)).sigmoid().conv(v, conv(1, 0, 1)),
    );
    check_filters("grouped", [2, 32, 7, 5], [[32, 16, 3, 3], [32, 1, 3, 3]], |x, w, v| {
        x.conv(w, conv(1, 1, 2)).relu().conv(v, conv(2, 1, 32))
    });
    check_filters(
        "channels padded, cropped and normalised",
        [2, 16, 7, 5],
        [[32, 16, 1, 1], [16, 16, 1, 1]],
        |x, w, v| {
            let y = x
                .conv(w, conv(1, 0, 1))
                .slice(1, 5, 21)
                .pad([0, 8, 1, 0], [0, 8, 0, 1], 0.5);
            let over_channels = Window {
                size: vec![5, 1, 1],
                stride: vec![1; 3],
                pad_low: vec![2, 0, 0],
                pad_high: vec![2, 0, 0],
                dilation: vec![1; 3],
            };
            let y = y / (y * y).sum_pool(over_channels).max(y.lit(1.0));
            y.slice(1, 16, 32).conv(v, conv(1, 0, 1))
        },
    );
}

fn case(
    name: &str,
    allowed: f64,
    seed: u64,
    build: impl for<'g> FnOnce(&'g Builder) -> Vec<(String, Val<'g>)>,
) -> Case {
    let b = Builder::new();
    let outputs = build(&b);
    let graph = b
        .finish(outputs)
        .unwrap_or_else(|problems| panic!("{name}: {problems}"));
    let inputs = sample::inputs(&graph, seed);
    Case {
        name: name.to_owned(),
        graph,
        inputs,
        allowed: Allowed::Relative(allowed),
    }
}

/// A recurrence with everything a scan has: two carried values, a sliced one, a constant, the entry's number, and a stack.
fn recurrence<'g>(b: &'g Builder, length: usize, width: usize, reverse: bool, dtype: DType) -> Vec<(String, Val<'g>)> {
    let steps = Steps {
        length,
        carried: vec![b.input("h", dtype, [width]), b.input("c", dtype, [])],
        sliced: vec![b.input("xs", dtype, [length, width])],
        constants: vec![b.input("w", dtype, [width, width])],
        reverse,
    };
    let wrt = [steps.carried[0], steps.sliced[0], steps.constants[0]];
    let (last, stacked) = b.scan(steps, |_, step| {
        let (h, c) = (step.carried[0], step.carried[1]);
        let next = (h.matmul(step.constants[0]) + step.sliced[0]).tanh();
        let count = step.entry.cast(h.dtype());
        (vec![next, c * 0.5 + count], vec![next * c])
    });
    let loss = (stacked[0] * stacked[0]).sum_all() + (last[0] * last[0]).sum_all();
    let gradients = autodiff::grad(loss, &wrt);
    let names = ["last", "count", "stack", "loss"]
        .into_iter()
        .zip([last[0], last[1], stacked[0], loss]);
    let gradients = gradients
        .into_iter()
        .enumerate()
        .map(|(place, val)| (format!("d{place}"), val));
    names
        .map(|(name, val)| (name.to_owned(), val))
        .chain(gradients)
        .collect()
}

#[test]
fn parts_are_written_where_they_belong() {
    // What else is asked for: nothing; the whole, which is then written to its place at once; a part, which is then not written within the whole.
    let joined = |also: usize| {
        case(&format!("joined {also}"), 1e-11, 3, |b| {
            let x = b.input("x", DType::F64, [4, 32, 16]);
            let row = |at: usize| x.slice(0, at, at + 1).squeeze([0]);
            let parts: Vec<Val<'_>> = (0..4).map(|at| row(at).tanh() * row((at + 1) % 4)).collect();
            let whole = Val::concat(&parts.iter().map(|part| part.unsqueeze([0])).collect::<Vec<_>>(), 0);
            // Read by a kernel that could write over it, and a part of it after that.
            let later = (whole * whole).exp();
            let rest = parts[1].matmul(later.sum([0, 1]).reshape([16, 1]).broadcast([16, 16]));
            let loss = (whole * whole).sum_all() + rest.sum_all();
            let mut outputs = vec![("later".to_owned(), later), ("rest".to_owned(), rest)];
            outputs.extend(
                [("whole", whole), ("part", parts[2])]
                    .into_iter()
                    .take(also)
                    .map(|(n, v)| (n.to_owned(), v)),
            );
            outputs.push(("dx".to_owned(), autodiff::grad(loss, &[x])[0]));
            outputs
        })
    };
    // In blocks of 16 channels; the last joins what fills no blocks.
    let channels = |pictures: usize, counts: &[usize]| {
        case(&format!("channels {counts:?} of {pictures}"), 1e-5, 4, |b| {
            let mut x = b.input("x", DType::F32, [pictures, 32, 8, 8]);
            let same = Conv {
                pad_low: vec![1; 2],
                pad_high: vec![1; 2],
                ..Conv::unit(2)
            };
            for round in 0..2 {
                let branch = |(at, &count): (usize, &usize)| {
                    let w = b.input(&format!("w{round}{at}"), DType::F32, [count, x.shape()[1], 3, 3]);
                    let y = x.conv(w, same.clone());
                    if at == 0 { y } else { y.max(y.lit(0.0)) }
                };
                let parts: Vec<Val<'_>> = counts.iter().enumerate().map(branch).collect();
                x = Val::concat(&parts, 1);
            }
            vec![("x".to_owned(), x)]
        })
    };
    // Rows of what is joined, with the lines of the other parts between their own.
    let lines = || {
        case("lines", 1e-11, 5, |b| {
            let [x, y] = [96, 64].map(|width| b.input(&format!("x{width}"), DType::F64, [12, width]));
            let w = b.input("w", DType::F64, [64, 80]);
            let whole = Val::concat(&[x.tanh(), y.matmul(w), x * 2.0 + 1.0], 1);
            let loss = (whole.exp() * 0.01).sum_all();
            let mut outputs = vec![
                ("sums".to_owned(), whole.sum([0])),
                ("whole".to_owned(), whole.softmax(1)),
            ];
            outputs.extend(
                (["dx", "dy", "dw"].into_iter())
                    .zip(autodiff::grad(loss, &[x, y, w]))
                    .map(|(n, v)| (n.to_owned(), v)),
            );
            outputs
        })
    };
    check(
        &cpus(),
        &[1, 3],
        &[
            joined(0),
            joined(1),
            joined(2),
            lines(),
            channels(1, &[16, 48, 32]),
            channels(1, &[24, 16]),
            channels(3, &[16, 48, 32]),
            channels(3, &[24, 16]),
        ],
    );
    for (case, kernels) in [(channels(1, &[16, 32]), 5), (channels(3, &[16, 32]), 5), (joined(0), 8)] {
        let program = Program::pure("run", case.graph);
        let plan = compile(&program, Cpu::native()).expect("a valid program");
        let plan = plan.plan("run").expect("an entry");
        assert_eq!(plan.kernel_runs(), kernels, "{}", case.name);
    }
}

#[test]
fn scans_and_their_gradients() {
    let mut cases = Vec::new();
    for length in [0, 1, 2, 7] {
        for reverse in [false, true] {
            for (dtype, allowed) in [(DType::F32, 1e-4), (DType::F64, 1e-11)] {
                let name = format!("scan {length} {reverse} {dtype}");
                cases.push(case(&name, allowed, 5, |b| recurrence(b, length, 5, reverse, dtype)));
            }
        }
    }
    check(&cpus(), &[1, 3], &cases);
}

#[test]
fn scans_in_scans() {
    let nested = |length: usize, inner: usize| {
        case(&format!("nested {length} {inner}"), 1e-11, 3, |b| {
            let xs = b.input("xs", DType::F64, [length, inner, 3]);
            let w = b.input("w", DType::F64, [3]);
            let steps = Steps {
                length,
                carried: vec![b.input("h", DType::F64, [3])],
                sliced: vec![xs],
                constants: vec![w],
                reverse: false,
            };
            let (last, stacked) = b.scan(steps, |b, step| {
                let inside = Steps {
                    length: inner,
                    carried: vec![step.carried[0]],
                    sliced: vec![step.sliced[0]],
                    constants: vec![step.constants[0]],
                    reverse: true,
                };
                let (last, stacked) = b.scan(inside, |_, step| {
                    let next = (step.carried[0] * step.constants[0] + step.sliced[0]).tanh();
                    (vec![next], vec![next * step.entry.cast(DType::F64)])
                });
                (vec![last[0]], vec![stacked[0]])
            });
            let loss = (stacked[0] * stacked[0]).sum_all() + last[0].sum_all();
            let mut outputs = vec![("last".to_owned(), last[0]), ("stack".to_owned(), stacked[0])];
            let gradients = autodiff::grad(loss, &[xs, w]).into_iter().enumerate();
            outputs.extend(gradients.map(|(place, val)| (format!("d{place}"), val)));
            outputs
        })
    };
    check(
        &cpus(),
        &[1, 3],
        &[nested(3, 4), nested(1, 1), nested(2, 0), nested(0, 2)],
    );
}

#[test]
fn branches() {
    let branch = |taken: bool| {
        let mut case = case(&format!("if {taken}"), 1e-11, 4, |b| {
            let (condition, x) = (b.input("condition", DType::Bool, []), b.input("x", DType::F64, [17]));
            let results = b.if_(
                condition,
                &[x],
                |_, x| vec![x[0] * x[0], x[0]],
                |_, x| vec![x[0].sin(), x[0].sum([0]).broadcast([17])],
            );
            let loss = (results[0] * 3.0 + results[1]).sum_all();
            let d = autodiff::grad(loss, &[x])[0];
            vec![
                ("a".to_owned(), results[0]),
                ("b".to_owned(), results[1]),
                ("d".to_owned(), d),
            ]
        });
        case.inputs[0].1 = Tensor::scalar(DType::Bool, Scalar::Bool(taken));
        case
    };
    check(&cpus(), &[1, 3], &[branch(true), branch(false)]);
}

#[test]
fn loops_that_end_by_a_condition() {
    let until = |limit: f64| {
        let mut case = case(&format!("while {limit}"), 1e-11, 4, |b| {
            let (x, limit) = (b.input("x", DType::F64, [17]), b.input("limit", DType::F64, []));
            let results = b.while_(
                &[x, b.scalar(DType::I64, 0.0)],
                &[limit],
                |_, carried, constants| (carried[0] * carried[0]).sum_all().lt(constants[0]),
                |_, carried, _| vec![carried[0] * 1.5, carried[1] + carried[1].lit(1.0)],
            );
            vec![("x".to_owned(), results[0]), ("count".to_owned(), results[1])]
        });
        case.inputs[1].1 = Tensor::scalar(DType::F64, Scalar::Float(limit));
        case
    };
    // Not once, once or a few times, many times.
    check(&cpus(), &[1, 3], &[until(0.0), until(10.0), until(1e6)]);
}

#[test]
fn draws_are_the_oracles_and_never_shared() {
    let b = Builder::new();
    let (key, step) = (b.input("key", DType::U64, []), b.input("step", DType::U64, []));
    let x = b.input("x", DType::F32, [64, 32]);
    let first = b.random_bits(key, step, [64, 32]);
    let second = b.random_bits(key, step, [64, 32]);
    let mask = |bits: Val<'_>| bits.lt(f64::from(1u32 << 31)).id();
    let drop = |x: Val<'_>, bits: Val<'_>| b.val(mask(bits)).select(x * 2.0, x.lit(0.0)).id();
    let y = b.val(drop(x, first));
    let z = b.val(drop(y, second));
    let d = autodiff::grad(z.sum_all(), &[x])[0];
    let graph = b
        .finish([
            ("first", first),
            ("second", second),
            ("y", y),
            ("z", z),
            ("d", d),
            ("step", step + step.lit(1.0)),
        ])
        .expect("a graph");
    let ones = Tensor::from_f32([64, 32], &[1.0; 64 * 32]);
    let scalar = |value: i128| Tensor::scalar(DType::U64, Scalar::Int(value));
    let states = [
        ("key", scalar(0x0123_4567_89ab_cdef)),
        ("step", scalar(u32::MAX.into())),
    ];
    check_states(&graph, &states, &[("x", ones.clone())], 0.0);

    let mut session = support::session(&program(graph, &states), cpus().last().expect("a CPU"), 2);
    let mut seen: Vec<Tensor> = Vec::new();
    for _ in 0..3 {
        let results: HashMap<String, Tensor> = session
            .call("run", &[("x", &ones)])
            .expect("it runs")
            .into_iter()
            .collect();
        // The gradient passes exactly where the value passed: one mask, forward and backward.
        assert_eq!(results["z"], results["d"]);
        for name in ["first", "second"] {
            let bits = results[name].clone();
            for other in &seen {
                let equal = bits.scalars().zip(other.scalars()).filter(|(a, b)| a == b).count();
                assert!(equal <= 1, "{equal} of {} words are drawn twice", bits.count());
            }
            seen.push(bits);
        }
    }
}
