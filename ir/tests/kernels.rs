//! The kernel of each structural op gives, at each index, what the oracle gives, and reads only inside its operands.

use std::sync::Arc;

use netloom_ir::kernel::{Combine, build, eval};
use netloom_ir::ops::{Fold, Gather, Iota, Op, Prefix, Random, Scatter, Sort, View};
use netloom_ir::{Builder, DType, Scalar, Tensor, Val, fuse, oracle};

/// Asserts that the kernel of `op` of these operands gives what the oracle gives.
fn check(op: Op, args: &[Tensor]) {
    let name = format!("{op:?}");
    let b = Builder::new();
    let names: Vec<String> = (0..args.len()).map(|arg| format!("x{arg}")).collect();
    let input = |(name, arg): (&String, &Tensor)| b.input(name, arg.dtype(), arg.shape());
    let vals: Vec<Val<'_>> = names.iter().zip(args).map(input).collect();
    let graph = b
        .finish([("y", b.push(op, &vals))])
        .unwrap_or_else(|problems| panic!("{name}: {problems}"));
    let inputs: Vec<(&str, Tensor)> = names.iter().map(String::as_str).zip(args.iter().cloned()).collect();
    let expected = oracle::run(&graph, &inputs).expect("inputs fit").remove(0).1;
    let regions = fuse::singletons(&graph);
    let [region] = regions.as_slice() else {
        panic!("{name}: {} regions", regions.len())
    };
    let position = |id| graph.inputs().iter().position(|input| input == id).expect("an input");
    let inputs: Vec<Tensor> = region.inputs.iter().map(|id| args[position(id)].clone()).collect();
    let found = eval::run(&build::build(&graph, region), &inputs);
    assert_eq!(found, [expected], "{name} of {args:?}");
}

/// `1, 2, 3, …`, whose sums and products are exact, so that the order of a fold does not matter.
fn counted(dtype: DType, shape: &[usize]) -> Tensor {
    let count = shape.iter().product::<usize>() as i128;
    Tensor::from_scalars(dtype, shape, (1..=count).map(Scalar::Int))
}

#[test]
fn views() {
    let slice = |start: &[usize], step: &[usize], count: &[usize]| View::Slice {
        start: start.to_vec(),
        step: step.to_vec(),
        count: count.to_vec(),
    };
    let pad = |low: &[usize], high: &[usize], inner: &[usize], fill: f32| View::Pad {
        low: low.to_vec(),
        high: high.to_vec(),
        inner: inner.to_vec(),
        fill: Arc::new(Tensor::from_f32([], &[fill])),
    };
    let x = counted(DType::F32, &[2, 6, 4]);
    for shape in [
        &[2, 6, 4][..],
        &[12, 4],
        &[2, 24],
        &[48],
        &[4, 3, 4],
        &[2, 3, 2, 4],
        &[3, 16],
        &[1, 8, 1, 6, 1],
    ] {
        check(Op::View(View::Reshape(shape.to_vec())), std::slice::from_ref(&x));
    }
    let fills = [0.0, 7.5, -0.0].map(|fill| {
        [
            pad(&[0, 0, 0], &[0, 0, 0], &[0, 0, 0], fill),
            pad(&[1, 0, 2], &[0, 3, 1], &[0, 0, 0], fill),
            pad(&[0, 0, 0], &[0, 0, 0], &[1, 2, 0], fill),
            pad(&[3, 4, 0], &[5, 0, 1], &[2, 1, 0], fill),
        ]
    });
    let views = [
        View::Permute(vec![2, 0, 1]),
        View::Broadcast(vec![3, 2, 6, 4]),
        slice(&[0, 1, 3], &[1, 2, 1], &[2, 3, 1]),
        View::Flip(vec![0, 2]),
        View::Windows {
            axes: vec![1, 2],
            size: vec![3, 2],
            stride: vec![2, 1],
            dilation: vec![1, 2],
        },
    ];
    for view in views.into_iter().chain(fills.into_iter().flatten()) {
        check(Op::View(view), std::slice::from_ref(&x));
    }
    check(Op::View(View::Broadcast(vec![4, 3])), &[counted(DType::F32, &[1, 3])]);
    check(Op::View(View::Reshape(vec![])), &[counted(DType::F32, &[1, 1])]);
    check(Op::View(View::Reshape(vec![1, 1])), &[counted(DType::F32, &[])]);
    let parts = [2, 0, 1, 3].map(|extent| counted(DType::F32, &[2, extent]));
    check(Op::View(View::Concat(1)), &parts);
    check(Op::View(View::Concat(1)), &parts[..2]);
    check(Op::View(pad(&[2], &[1], &[0], 7.5)), &[counted(DType::F32, &[0])]);
}

#[test]
fn folds() {
    for axes in [&[0][..], &[1], &[0, 2], &[0, 1, 2]] {
        for (with, dtype) in [
            (Combine::Sum, DType::F32),
            (Combine::Sum, DType::F16),
            (Combine::Product, DType::I64),
            (Combine::Max, DType::F64),
            (Combine::Min, DType::U8),
            (Combine::Any, DType::Bool),
            (Combine::All, DType::Bool),
        ] {
            check(
                Op::Fold(Fold {
                    with,
                    axes: axes.to_vec(),
                }),
                &[counted(dtype, &[2, 3, 2])],
            );
        }
    }
    check(
        Op::Fold(Fold {
            with: Combine::Max,
            axes: vec![1],
        }),
        &[counted(DType::F32, &[2, 0])],
    );
}

#[test]
fn gathers_clamp_every_type_of_index() {
    for dtype in [DType::U8, DType::I8, DType::I32, DType::U32, DType::I64, DType::U64] {
        let (low, high) = dtype.int_range().expect("an integer type");
        let indices = [0, 2, low, high, 3, 1].map(Scalar::Int);
        let indices = Tensor::from_scalars(dtype, [2, 3], indices);
        check(
            Op::Gather(Gather { axis: 1 }),
            &[counted(DType::F32, &[2, 3, 2]), indices],
        );
    }
}

#[test]
fn counters_and_random_bits() {
    check(
        Op::Iota(Iota {
            dtype: DType::U8,
            shape: vec![2, 300],
            axis: 1,
        }),
        &[],
    );
    check(
        Op::Iota(Iota {
            dtype: DType::F32,
            shape: vec![2, 3],
            axis: 0,
        }),
        &[],
    );
    let scalar = |value: u64| Tensor::scalar(DType::U64, Scalar::Int(i128::from(value)));
    let random = Random {
        shape: vec![3, 50],
        word: 2,
        stream: 9,
    };
    check(
        Op::Random(random),
        &[scalar(0x0123_4567_89ab_cdef), scalar((5 << 32) + 6)],
    );
}

#[test]
fn kernels_of_their_own_form() {
    let x = counted(DType::F64, &[2, 4, 3]);
    for axis in 0..3 {
        for exclusive in [false, true] {
            for with in [Combine::Sum, Combine::Product, Combine::Max, Combine::Min] {
                check(Op::Prefix(Prefix { with, axis, exclusive }), std::slice::from_ref(&x));
            }
        }
        for descending in [false, true] {
            check(Op::Sort(Sort { axis, descending }), std::slice::from_ref(&x));
        }
    }
    let nan = f32::NAN;
    for descending in [false, true] {
        let x = Tensor::from_f32([2, 4], &[2.0, nan, -0.0, 0.0, nan, nan, 1.0, -1.0]);
        check(Op::Sort(Sort { axis: 1, descending }), &[x]);
    }
    for with in [
        None,
        Some(Combine::Sum),
        Some(Combine::Product),
        Some(Combine::Max),
        Some(Combine::Min),
    ] {
        let indices = Tensor::from_i64([2, 2], &[1, 3, 1, -2]);
        let operands = [x.clone(), indices, counted(DType::F64, &[2, 2, 2, 3])];
        check(Op::Scatter(Scatter { axis: 1, with }), &operands);
    }
}
