//! Every class of contraction, window and loop: its gradients at orders 1 and 2 against finite differences, and its kernel
//! and those of its gradients against the oracle.

mod support;

use netloom_ir::ops::compound::Steps;
use netloom_ir::ops::{Conv, ConvTranspose, Window};
use netloom_ir::{Builder, DType, Graph, Val, autodiff, fuse, sample};
use support::differences::{check_gradients, total, with_gradients};
use support::kernels::check_kernels;

/// Checks the graph that `build` makes of inputs `x0`, `x1` … of these shapes. Gives the number of elements compared.
fn check(name: &str, shapes: &[&[usize]], build: impl for<'b> Fn(&'b Builder, &[Val<'b>]) -> Vec<Val<'b>>) -> usize {
    let graph = graph_of(shapes, build);
    let differentiated = with_gradients(&graph, 1);
    let inputs = sample::inputs(&differentiated, 7);
    // A thousand additions of numbers no greater than the greatest result, at 2^-53 each.
    let tolerance = 1e3 * f64::EPSILON;
    check_kernels(
        name,
        &differentiated,
        &fuse::singletons(&differentiated),
        &inputs,
        tolerance,
    );
    check_kernels(
        name,
        &differentiated,
        &fuse::regions(&differentiated),
        &inputs,
        tolerance,
    );
    check_gradients(name, &graph, &sample::inputs(&graph, 7), 2)
}

fn graph_of(shapes: &[&[usize]], build: impl for<'b> Fn(&'b Builder, &[Val<'b>]) -> Vec<Val<'b>>) -> Graph {
    let b = Builder::new();
    let input = |(place, shape): (usize, &&[usize])| b.input(&format!("x{place}"), DType::F64, *shape);
    let inputs: Vec<Val<'_>> = shapes.iter().enumerate().map(input).collect();
    let outputs = build(&b, &inputs);
    let named = outputs
        .into_iter()
        .enumerate()
        .map(|(place, val)| (format!("y{place}"), val));
    b.finish(named).unwrap_or_else(|problems| panic!("{problems}"))
}

#[test]
fn einsum() {
    let cases: &[(&str, &[&[usize]])] = &[
        ("mk,kn->mn", &[&[2, 3], &[3, 4]]),
        ("mk,kn->nm", &[&[2, 3], &[3, 1]]),
        ("bik,bkj->bij", &[&[2, 2, 3], &[2, 3, 2]]),
        ("i,j->ij", &[&[3], &[2]]),
        ("i,i->", &[&[4], &[4]]),
        ("ab,bc->c", &[&[2, 3], &[3, 2]]),
        ("ab,cd->", &[&[2, 2], &[3, 1]]),
        ("a,->a", &[&[3], &[]]),
        ("mk,kn->mn", &[&[2, 0], &[0, 3]]),
        ("mk,kn->mn", &[&[0, 2], &[2, 3]]),
        ("ij,jk,kl->il", &[&[2, 3], &[3, 2], &[2, 2]]),
        ("ii->i", &[&[3, 3]]),
        ("ii", &[&[3, 3]]),
        ("iji->j", &[&[2, 3, 2]]),
        ("ijk->ki", &[&[2, 3, 2]]),
        ("ii,ij->j", &[&[2, 2], &[2, 3]]),
        ("ab,bc", &[&[2, 3], &[3, 2]]),
    ];
    for (spec, shapes) in cases {
        let compared = check(spec, shapes, |_, x| vec![Val::einsum(spec, x)]);
        let elements: usize = shapes.iter().map(|shape| shape.iter().product::<usize>()).sum();
        assert_eq!(compared, 2 * elements, "every element of {spec} is smooth");
    }
}

#[test]
fn matmul_follows_numpy() {
    let cases: &[(&[usize], &[usize], &[usize])] = &[
        (&[2, 3], &[3, 4], &[2, 4]),
        (&[3], &[3, 4], &[4]),
        (&[2, 3], &[3], &[2]),
        (&[3], &[3], &[]),
        (&[5, 2, 3], &[3, 2], &[5, 2, 2]),
        (&[2, 3], &[4, 3, 1], &[4, 2, 1]),
        (&[2, 1, 2, 3], &[4, 3, 2], &[2, 4, 2, 2]),
        (&[1, 2, 3], &[1, 3, 2], &[1, 2, 2]),
        (&[3], &[2, 3, 2], &[2, 2]),
    ];
    for (left, right, expected) in cases {
        let name = format!("{left:?} @ {right:?}");
        let graph = graph_of(&[left, right], |_, x| vec![x[0].matmul(x[1])]);
        assert_eq!(graph.ty(graph.outputs[0].1).shape, *expected, "{name}");
        check_gradients(&name, &graph, &sample::inputs(&graph, 3), 2);
    }
}

#[test]
fn conv() {
    let unit = Conv::unit;
    let cases: Vec<(&[usize], &[usize], Conv)> = vec![
        (&[2, 2, 5], &[3, 2, 3], unit(1)),
        (
            &[1, 2, 7],
            &[2, 2, 3],
            Conv {
                stride: vec![2],
                pad_low: vec![1],
                pad_high: vec![2],
                ..unit(1)
            },
        ),
        // The last element is in no window: the input's gradient there is zero.
        (
            &[1, 1, 6],
            &[1, 1, 3],
            Conv {
                stride: vec![2],
                ..unit(1)
            },
        ),
        (
            &[1, 1, 6],
            &[1, 1, 2],
            Conv {
                stride: vec![3],
                kernel_dilation: vec![2],
                ..unit(1)
            },
        ),
        (
            &[1, 1, 4],
            &[1, 1, 3],
            Conv {
                input_dilation: vec![2],
                pad_low: vec![2],
                pad_high: vec![1],
                ..unit(1)
            },
        ),
        (
            &[2, 1, 4],
            &[2, 1, 2],
            Conv {
                stride: vec![2],
                input_dilation: vec![3],
                kernel_dilation: vec![2],
                pad_low: vec![1],
                ..unit(1)
            },
        ),
        (
            &[1, 1, 6],
            &[1, 1, 2],
            Conv {
                pad_low: vec![-1],
                pad_high: vec![-2],
                ..unit(1)
            },
        ),
        (
            &[1, 1, 4],
            &[1, 1, 2],
            Conv {
                pad_low: vec![-1],
                input_dilation: vec![2],
                stride: vec![2],
                ..unit(1)
            },
        ),
        (&[2, 4, 3], &[6, 2, 2], Conv { groups: 2, ..unit(1) }),
        (
            &[2, 3, 4],
            &[6, 1, 3],
            Conv {
                groups: 3,
                pad_low: vec![1],
                pad_high: vec![1],
                stride: vec![2],
                ..unit(1)
            },
        ),
        (
            &[1, 2, 4, 5],
            &[2, 2, 3, 2],
            Conv {
                stride: vec![1, 2],
                pad_low: vec![1, 0],
                pad_high: vec![1, 1],
                ..unit(2)
            },
        ),
        (
            &[1, 4, 3, 3],
            &[2, 2, 2, 2],
            Conv {
                groups: 2,
                kernel_dilation: vec![2, 1],
                ..unit(2)
            },
        ),
        (
            &[1, 1, 3, 2, 3],
            &[2, 1, 2, 1, 2],
            Conv {
                pad_low: vec![0, 1, 0],
                ..unit(3)
            },
        ),
        // No batch, no channels, no output channels, windows over padding only.
        (&[0, 2, 4], &[3, 2, 3], unit(1)),
        (&[2, 0, 4], &[3, 0, 3], unit(1)),
        (&[2, 2, 4], &[0, 2, 3], unit(1)),
        (
            &[1, 1, 0],
            &[1, 1, 2],
            Conv {
                pad_low: vec![1],
                pad_high: vec![2],
                ..unit(1)
            },
        ),
        // No spatial axis: a matrix product.
        (&[3, 2], &[4, 2], unit(0)),
    ];
    for (input, kernel, conv) in cases {
        let name = format!("{input:?} {kernel:?} {conv:?}");
        let compared = check(&name, &[input, kernel], |_, x| vec![x[0].conv(x[1], conv.clone())]);
        let elements = input.iter().product::<usize>() + kernel.iter().product::<usize>();
        assert_eq!(compared, 2 * elements, "every element of {name} is smooth");
    }
}

#[test]
fn transposed_conv() {
    let unit = ConvTranspose::unit;
    type Case<'a> = (&'a [usize], &'a [usize], ConvTranspose, &'a [usize]);
    let cases: Vec<Case<'_>> = vec![
        (&[1, 2, 3], &[2, 3, 3], unit(1), &[1, 3, 5]),
        (
            &[1, 4, 3],
            &[4, 1, 3],
            ConvTranspose {
                stride: vec![2],
                pad_low: vec![1],
                pad_high: vec![1],
                out_pad: vec![1],
                groups: 2,
                ..unit(1)
            },
            &[1, 2, 6],
        ),
        (
            &[1, 1, 2, 3],
            &[1, 2, 2, 2],
            ConvTranspose {
                stride: vec![1, 3],
                dilation: vec![2, 1],
                ..unit(2)
            },
            &[1, 2, 4, 8],
        ),
    ];
    for (input, kernel, transpose, expected) in cases {
        let name = format!("{input:?} {kernel:?} {transpose:?}");
        let graph = graph_of(&[input, kernel], |_, x| {
            vec![x[0].conv_transpose(x[1], transpose.clone())]
        });
        assert_eq!(graph.ty(graph.outputs[0].1).shape, expected, "{name}");
        check_gradients(&name, &graph, &sample::inputs(&graph, 5), 2);
    }
}

#[test]
fn pool() {
    let cases: Vec<(&[usize], Window)> = vec![
        (&[2, 6], Window::tiling([2])),
        (
            &[1, 7],
            Window {
                stride: vec![2],
                pad_low: vec![1],
                pad_high: vec![1],
                ..Window::sliding([3])
            },
        ),
        (
            &[1, 7],
            Window {
                dilation: vec![2],
                stride: vec![3],
                pad_low: vec![2],
                ..Window::sliding([2])
            },
        ),
        (&[2, 4, 4], Window::tiling([2, 2])),
        (
            &[1, 5, 4],
            Window {
                stride: vec![2, 1],
                pad_low: vec![1, 0],
                pad_high: vec![0, 1],
                ..Window::sliding([3, 2])
            },
        ),
        (&[3, 2, 3], Window::sliding([1, 2, 2])),
        // The window reaches further than a stride's gap: some elements are in no window.
        (
            &[1, 8],
            Window {
                stride: vec![4],
                ..Window::sliding([2])
            },
        ),
        (&[0, 4], Window::tiling([2])),
    ];
    for (shape, window) in cases {
        let name = format!("{shape:?} {window:?}");
        check(&name, &[shape], |_, x| vec![x[0].max_pool(window.clone())]);
        check(&name, &[shape], |_, x| vec![x[0].sum_pool(window.clone())]);
        check(&name, &[shape], |_, x| vec![x[0].avg_pool(window.clone())]);
        check(&name, &[shape], |_, x| vec![x[0].avg_pool_with_padding(window.clone())]);
    }
    check("global", &[&[2, 2, 3, 2]], |_, x| {
        vec![x[0].global_avg_pool(), x[0].global_max_pool()]
    });
}

#[test]
fn scan() {
    for reverse in [false, true] {
        for length in [0, 1, 3] {
            let shapes: [&[usize]; 4] = [&[2], &[length, 2], &[2, 2], &[]];
            let name = format!("a cell over {length} steps, reverse {reverse}");
            let compared = check(&name, &shapes, |b, x| {
                let steps = Steps {
                    length,
                    carried: vec![x[0], x[3]],
                    sliced: vec![x[1]],
                    constants: vec![x[2]],
                    reverse,
                };
                let (last, stacked) = b.scan(steps, |_, step| {
                    let (state, scale) = (step.carried[0], step.carried[1]);
                    let next = state.matmul(step.constants[0]) * scale + step.sliced[0] * state;
                    (vec![next, scale * 0.5], vec![next * next, scale])
                });
                [last, stacked].concat()
            });
            assert_eq!(
                compared,
                2 * (2 + 2 * length + 4 + 1),
                "every element of {name} is smooth"
            );
        }
    }
}

#[test]
fn scan_differentiates_around_integers_and_unused_results() {
    let name = "a counter beside the state";
    let compared = check(name, &[&[2], &[3, 2]], |b, x| {
        let steps = Steps {
            length: 3,
            carried: vec![x[0], b.scalar(DType::I64, 1.0)],
            sliced: vec![x[1]],
            constants: vec![],
            reverse: false,
        };
        let (_, stacked) = b.scan(steps, |_, step| {
            let count = step.carried[1] + step.entry;
            let next = step.carried[0] * step.sliced[0];
            (vec![next, count], vec![next * next, count])
        });
        vec![stacked[0]]
    });
    assert_eq!(compared, 2 * 8);
}

#[test]
fn branch() {
    for taken in [0.0, 1.0] {
        let compared = check("a choice", &[&[2], &[2]], |b, x| {
            let condition = b.scalar(DType::Bool, taken);
            b.if_(
                condition,
                x,
                |_, x| vec![x[0] * x[1] * x[1], x[0]],
                |_, x| vec![x[0] + x[1], x[1] * x[1]],
            )
        });
        assert_eq!(compared, 2 * 4);
    }
}

#[test]
fn a_while_has_no_gradient_and_says_what_to_use() {
    let b = Builder::new();
    let x = b.input("x", DType::F64, []);
    let limit = b.scalar(DType::F64, 100.0);
    let result = b.while_(
        &[x],
        &[limit],
        |_, carried, constants| Val::map(&netloom_ir::ops::map::compare::LT, &[carried[0], constants[0]]),
        |_, carried, _| vec![carried[0] * 2.0],
    );
    let gradients = autodiff::grad(result[0], &[x]);
    let problems = b.finish([("dx", gradients[0])]).expect_err("a while has no gradient");
    let expected = "while: has no gradient, because its number of steps is data; use `scan` with a fixed number of steps \
                    and an `if` in its body";
    assert_eq!(problems.0.len(), 1);
    assert_eq!(problems.0[0].message, expected);
}

#[test]
fn wrong_requests_are_reported() {
    let b = Builder::new();
    let x = b.input("x", DType::F64, [2]);
    let n = b.input("n", DType::I64, [2]);
    autodiff::grad(x * x, &[x]);
    autodiff::grad(total(x), &[n]);
    autodiff::grad_from(&[(x * x, total(x))], &[x]);
    for problem in b.problems() {
        assert!(
            problem.loc.to_string().contains("gradients.rs"),
            "the place is the caller's: {}",
            problem.loc
        );
    }
    let messages: Vec<String> = b.problems().into_iter().map(|problem| problem.message).collect();
    assert_eq!(
        messages,
        [
            "grad: the loss must be a float scalar, found %2: f64[2]; sum it, or use `grad_from`",
            "grad: only a float has a gradient, found %1: i64[2]; convert it and use the result",
            "grad: the gradient that arrives at %2: f64[2] must have its type, found %3: f64[]",
        ]
    );
}

#[test]
fn any_node_can_be_asked_for() {
    let b = Builder::new();
    let x = b.input("x", DType::F64, []);
    let square = x * x;
    let loss = square * x;
    let aside = b.input("aside", DType::F64, [2]);
    let gradients = autodiff::grad(loss, &[x, square, loss, aside]);
    let named = ["x", "square", "loss", "aside"].into_iter().zip(gradients);
    let graph = b.finish(named).expect("a graph");
    let scalar = |value: f64| netloom_ir::Tensor::scalar(DType::F64, netloom_ir::Scalar::Float(value));
    let inputs = [
        ("x", scalar(3.0)),
        ("aside", netloom_ir::Tensor::zeros(DType::F64, [2])),
    ];
    let outputs = netloom_ir::oracle::run(&graph, &inputs).expect("inputs fit");
    let values: Vec<Vec<f64>> = outputs
        .iter()
        .map(|(_, value)| value.scalars().map(|x| x.as_f64()).collect())
        .collect();
    assert_eq!(values, [vec![27.0], vec![3.0], vec![1.0], vec![0.0, 0.0]]);
}

#[test]
fn long_chains_take_no_stack() {
    let b = Builder::new();
    let x = b.input("x", DType::F64, []);
    let y = (0..30_000).fold(x, |y, _| y + x);
    let gradient = autodiff::grad(y, &[x])[0];
    let graph = b.finish([("dx", gradient)]).expect("a graph");
    let at = netloom_ir::Tensor::scalar(DType::F64, netloom_ir::Scalar::Float(2.0));
    let outputs = netloom_ir::oracle::run(&graph, &[("x", at)]).expect("inputs fit");
    assert_eq!(outputs[0].1.get(0).as_f64(), 30_001.0);
}
