//! Every op on every engine: compiled for each level that this machine runs, with 1 and 3 workers, and eager, against the oracle.

mod support;

use netloom::ir::builder::{Builder, Val};
use netloom::ir::kernel::Combine;
use netloom::ir::ops::map::{MapDef, TABLE};
use netloom::ir::ops::{Conv, Map, Op, Rules, Window};
use netloom::ir::sample::{SplitMix, is_claimed, operand_types, special_operands};
use netloom::ir::{DType, Graph, Scalar, Tensor, Type};

use support::{Allowed, Case, check, cpus};

/// Sizes around the sixteen lanes, and a prime.
const SIZES: [usize; 6] = [0, 1, 15, 16, 17, 37];

/// The type of a row's result, if it takes these.
fn result(def: &'static MapDef, dtypes: &[DType]) -> Option<DType> {
    let types: Vec<Type> = dtypes.iter().map(|&dtype| Type::new(dtype, [])).collect();
    Map(def)
        .infer(&types.iter().collect::<Vec<_>>())
        .ok()
        .map(|types| types[0].dtype)
}

/// Operands for a row: every combination of special values, then values within the domain.
fn samples(def: &MapDef, dtypes: &[DType]) -> Vec<Vec<Scalar>> {
    let mut random = SplitMix(0x5eed);
    let mut all = special_operands(dtypes);
    for _ in 0..200 {
        let inside = |(&dtype, &range): (&DType, &(f64, f64))| Scalar::from_f64(random.between(range), dtype);
        all.push(dtypes.iter().zip(def.domain).map(inside).collect());
    }
    all.retain(|operands| is_claimed(def, operands));
    all
}

/// How far code may be from the definition.
fn allowed(def: &MapDef, dtype: DType) -> Allowed {
    match (def.ulps, dtype) {
        // Which of two zeros is the greater is nobody's promise.
        (0, _) if matches!(def.name, "max" | "min") && dtype.is_float() => Allowed::Relative(0.0),
        (0, _) => Allowed::Places(0),
        // A result within a few last places of f32 rounds to the same half or its neighbour.
        (_, DType::F16 | DType::BF16) => Allowed::Places(1),
        // The definition is itself evaluated in f64, to within one.
        (ulps, DType::F64) => Allowed::Places(u64::from(ulps) + 1),
        (ulps, _) => Allowed::Places(u64::from(ulps)),
    }
}

fn row_case(def: &'static MapDef, dtypes: &[DType], shape: &[usize], samples: &[Vec<Scalar>]) -> Case {
    let b = Builder::new();
    let count = shape.iter().product();
    let inputs: Vec<(String, Tensor)> = (dtypes.iter().enumerate())
        .map(|(place, &dtype)| {
            let elements = samples.iter().cycle().take(count).map(|operands| operands[place]);
            (format!("x{place}"), Tensor::from_scalars(dtype, shape, elements))
        })
        .collect();
    let vals: Vec<Val<'_>> = inputs.iter().map(|(name, x)| b.input(name, x.dtype(), shape)).collect();
    let y = Val::map(def, &vals);
    Case {
        name: format!("{} {} {shape:?}", def.name, dtypes[dtypes.len() - 1]),
        graph: b
            .finish([("y", y)])
            .unwrap_or_else(|problems| panic!("{}: {problems}", def.name)),
        inputs,
        allowed: allowed(def, result(def, dtypes).expect("operands that fit")),
    }
}

fn check_rows(rows: &[&'static MapDef]) {
    let cpus = cpus();
    for &def in rows {
        let mut cases = Vec::new();
        for dtypes in operand_types(def) {
            let samples = samples(def, &dtypes);
            cases.push(row_case(def, &dtypes, &[samples.len()], &samples));
            let last = dtypes[dtypes.len() - 1];
            if matches!(last, DType::F32 | DType::I32 | DType::Bool) {
                // Within the domain, from the end of the samples.
                let inside: Vec<Vec<Scalar>> = samples.iter().rev().take(199).cloned().collect();
                cases.extend(SIZES.iter().map(|&size| row_case(def, &dtypes, &[size], &inside)));
                cases.push(row_case(def, &dtypes, &[], &inside));
                cases.push(row_case(def, &dtypes, &[3, 0, 2], &inside));
            }
        }
        check(&cpus, &[1, 3], &cases);
    }
}

/// One test for each file of the table, so that they run beside each other.
macro_rules! tables {
    ($($name:ident: $place:expr),+ $(,)?) => {
        $(#[test]
        fn $name() {
            check_rows(TABLE[$place]);
        })+

        #[test]
        fn every_table_is_swept() {
            assert_eq!([$($place),+], *(0..TABLE.len()).collect::<Vec<_>>());
        }
    };
}

tables! { arithmetic: 0, bits: 1, comparisons: 2, conversions: 3, exponentials: 4, rounding: 5, trigonometry: 6 }

/// Small multiples of 1/8, whose sums and products are exact in f32, so that their order does not matter.
fn element(dtype: DType, position: usize) -> Scalar {
    let value = (position * 7919 + 13) % 31;
    match dtype.is_float() {
        true => Scalar::Float((value as f64 - 15.0) / 8.0),
        false => Scalar::Int(value as i128).cast(dtype),
    }
}

fn exact(ty: &Type) -> Tensor {
    Tensor::from_scalars(
        ty.dtype,
        ty.shape.clone(),
        (0..ty.count()).map(|position| element(ty.dtype, position)),
    )
}

fn inputs_of(graph: &Graph) -> Vec<(String, Tensor)> {
    let named = graph.inputs().iter().map(|&id| {
        let Op::Input(input) = &graph.node(id).op else {
            unreachable!("{id} is an input")
        };
        (input.name.clone(), exact(&input.ty))
    });
    named.collect()
}

/// A case of exact inputs, so that results are exact too.
fn exact_case(name: String, build: impl for<'g> FnOnce(&'g Builder) -> Val<'g>) -> Case {
    let b = Builder::new();
    let y = build(&b);
    let graph = b
        .finish([("y", y)])
        .unwrap_or_else(|problems| panic!("{name}: {problems}"));
    let inputs = inputs_of(&graph);
    Case {
        name,
        graph,
        inputs,
        allowed: Allowed::Places(0),
    }
}

const FOLDED: [DType; 7] = [
    DType::F32,
    DType::F64,
    DType::F16,
    DType::BF16,
    DType::I32,
    DType::U8,
    DType::I64,
];

#[test]
fn folds() {
    let mut cases = Vec::new();
    for dtype in FOLDED {
        for with in [Combine::Sum, Combine::Max, Combine::Min] {
            for size in SIZES {
                for axes in [&[0][..], &[1], &[0, 1]] {
                    let shape = [size, if axes == [0] { 17 } else { 5 }];
                    cases.push(exact_case(format!("{with:?} {dtype} {shape:?} over {axes:?}"), |b| {
                        b.input("x", dtype, shape).fold(with, axes)
                    }));
                }
            }
        }
    }
    for size in SIZES {
        for with in [Combine::Any, Combine::All] {
            cases.push(exact_case(format!("{with:?} {size}"), |b| {
                b.input("x", DType::Bool, [3, size]).fold(with, [1])
            }));
        }
        cases.push(exact_case(format!("product {size}"), |b| {
            b.input("x", DType::I64, [3, size]).prod([1])
        }));
    }
    check(&cpus(), &[1, 3], &cases);
}

/// Built from other functions, but as exact as one.
#[test]
fn parts_of_floats_and_divisors() {
    let mut cases = Vec::new();
    for dtype in [DType::F32, DType::F64, DType::F16] {
        for size in SIZES {
            cases.push(exact_case(format!("ldexp {dtype} {size}"), |b| {
                let x = b.input("x", dtype, [size]);
                x.ldexp(b.input("n", DType::I32, [size]) * 7.0)
            }));
            cases.push(exact_case(format!("frexp {dtype} {size}"), |b| {
                let (mantissa, exponent) = b.input("x", dtype, [size]).frexp();
                mantissa + exponent.cast(dtype)
            }));
            cases.push(exact_case(format!("next_after {dtype} {size}"), |b| {
                let [x, y] = ["x", "y"].map(|name| b.input(name, dtype, [size]));
                (x * 3.0).next_after(y)
            }));
        }
    }
    for (dtype, size) in [(DType::I32, 17), (DType::I64, 5), (DType::U8, 64)] {
        cases.push(exact_case(format!("gcd {dtype} {size}"), |b| {
            let x = b.input("x", dtype, [size]) * 6.0;
            x.gcd(b.input("y", dtype, [3, size]) * 4.0)
        }));
    }
    check(&cpus(), &[1, 3], &cases);
}

#[test]
fn long_sums_lose_no_more_than_their_order_may() {
    let cases: Vec<Case> = [4095, 4096, 4097, 20011]
        .map(|size| {
            let b = Builder::new();
            let x = b.input("x", DType::F32, [size]);
            let graph = b.finish([("y", x.sum_all())]).expect("a graph");
            let mut random = SplitMix(size as u64);
            let elements = (0..size).map(|_| Scalar::Float(random.between((-1.0, 1.0)) as f32 as f64));
            let x = Tensor::from_scalars(DType::F32, [size], elements);
            // Each of n additions errs by half a last place of a partial sum, which no order makes greater than the sum of magnitudes.
            let magnitudes: f64 = x.scalars().map(|x| x.as_f64().abs()).sum();
            let allowed = Allowed::Relative(size as f64 * f64::from(f32::EPSILON) / 2.0 * magnitudes);
            Case {
                name: format!("sum {size}"),
                graph,
                inputs: vec![("x".to_owned(), x)],
                allowed,
            }
        })
        .into();
    check(&cpus(), &[1, 2, 3, 7], &cases);
}

/// A part of something joined may begin anywhere, and what reads several neighbours at once wants to begin at multiples of them.
#[test]
fn parts_at_odd_places_are_summed_and_multiplied() {
    for before in 1..5 {
        let case = exact_case(format!("part after {before}"), |b| {
            let (head, x) = (
                b.input("head", DType::F32, [before]),
                b.input("x", DType::F32, [64 * 64]),
            );
            let part = x * 2.0;
            let whole = Val::concat(&[head, part], 0);
            let square = part.reshape([64, 64]);
            // Small whole numbers: sums are exact in any order.
            let total = part.round().sum_all();
            let product = square.round().matmul(square.round());
            whole + (total + product.sum_all()).broadcast([before + 64 * 64])
        });
        check(&cpus(), &[1], &[case]);
    }
}

#[test]
fn prefixes_sorts_and_choices_of_the_greatest() {
    let mut cases = Vec::new();
    for size in SIZES {
        for (name, with) in [("sum", Combine::Sum), ("max", Combine::Max), ("min", Combine::Min)] {
            for (axis, exclusive) in [(0, false), (1, true)] {
                cases.push(exact_case(format!("prefix {name} {size} {axis}"), |b| {
                    b.input("x", DType::F32, [size, 5]).prefix(with, axis, exclusive)
                }));
            }
        }
        for axis in [0, 1] {
            for descending in [false, true] {
                cases.push(exact_case(format!("sort {size} {axis} {descending}"), |b| {
                    b.input("x", DType::F32, [size, 5]).argsort(axis, descending)
                }));
            }
        }
        if size > 0 {
            cases.push(exact_case(format!("argmax {size}"), |b| {
                b.input("x", DType::F32, [3, size]).argmax(1)
            }));
            cases.push(exact_case(format!("argmin {size}"), |b| {
                b.input("x", DType::F32, [size, 3]).argmin(0)
            }));
        }
    }
    check(&cpus(), &[1, 3], &cases);
}

#[test]
fn views() {
    let mut cases = Vec::new();
    for dtype in [DType::F32, DType::U8, DType::F16, DType::I64, DType::Bool] {
        for size in SIZES {
            let mut push = |name: &str, build: for<'g> fn(Val<'g>, usize) -> Val<'g>| {
                let name = format!("{name} {dtype} {size}");
                cases.push(exact_case(name, |b| build(b.input("x", dtype, [2, size, 3]), size)));
            };
            push("permute", |x, _| x.permute([2, 0, 1]));
            push("reshape", |x, size| x.reshape([3 * size, 2]));
            push("broadcast", |x, size| x.broadcast([4, 2, size, 3]));
            push("flip", |x, _| x.flip([1, 2]));
            push("slice", |x, size| x.slice(1, size / 3, size - size / 4));
            push("pad", |x, _| x.pad([1, 2, 0], [0, 3, 1], 1.0));
            push("concat", |x, _| Val::concat(&[x, x.flip([0]), x], 1));
            if size > 2 {
                push("windows", |x, _| x.windows(&[1], &[3], &[2], &[1]));
            }
        }
    }
    check(&cpus(), &[1, 3], &cases);
}

#[test]
fn contractions() {
    let mut cases = Vec::new();
    for dtype in [DType::F32, DType::F64, DType::F16, DType::BF16, DType::I32] {
        for (m, n, k) in [
            (1, 1, 1),
            (15, 16, 17),
            (17, 15, 16),
            (0, 3, 4),
            (3, 0, 4),
            (3, 4, 0),
            (37, 33, 29),
            (1, 37, 16),
            (37, 1, 16),
        ] {
            for spec in ["mk,kn->mn", "km,kn->mn", "mk,nk->mn", "km,nk->nm"] {
                cases.push(exact_case(format!("{spec} {dtype} {m} {n} {k}"), |b| {
                    let extent = |axis: char| match axis {
                        'm' => m,
                        'n' => n,
                        _ => k,
                    };
                    let shape = |axes: &str| axes.chars().map(extent).collect::<Vec<usize>>();
                    let (a, w) = (
                        b.input("a", dtype, shape(&spec[..2])),
                        b.input("w", dtype, shape(&spec[3..5])),
                    );
                    Val::einsum(spec, &[a, w])
                }));
            }
        }
        cases.push(exact_case(format!("batched {dtype}"), |b| {
            b.input("a", dtype, [3, 5, 7]).matmul(b.input("w", dtype, [3, 7, 17]))
        }));
        cases.push(exact_case(format!("dot {dtype}"), |b| {
            b.input("a", dtype, [37]).dot(b.input("w", dtype, [37]))
        }));
        let outer = exact_case(format!("outer {dtype}"), |b| {
            b.input("a", dtype, [17]).outer(b.input("w", dtype, [5]))
        });
        // A sum of one product: whether it begins from 0, and so is never -0, is nobody's promise.
        cases.push(Case {
            allowed: Allowed::Relative(0.0),
            ..outer
        });
    }
    check(&cpus(), &[1, 3], &cases);
}

/// Products whose sums are cut, or go on in another tile: exact ones, and numbers of which every order of summation shows.
#[test]
fn large_products() {
    let mut cases = Vec::new();
    for (dtype, m, n, k) in [
        (DType::F32, 1, 1010, 1100),
        (DType::F64, 1, 1010, 1100),
        (DType::F32, 1, 130, 9001),
        (DType::F32, 130, 100, 1100),
    ] {
        let exact = exact_case(format!("exact {dtype} {m} {n} {k}"), |b| {
            b.input("a", dtype, [m, k]).matmul(b.input("w", dtype, [k, n]))
        });
        let mut random = SplitMix(k as u64);
        let mut inputs = inputs_of(&exact.graph);
        for (_, x) in &mut inputs {
            let elements = (0..x.count()).map(|_| Scalar::Float(random.between((-1.0, 1.0)) as f32 as f64));
            *x = Tensor::from_scalars(dtype, x.shape().to_vec(), elements);
        }
        cases.push(Case {
            name: format!("{dtype} {m} {n} {k}"),
            graph: exact.graph.clone(),
            inputs,
            // Of k additions each errs by half a last place of a partial sum, which is at most k.
            allowed: Allowed::Relative((k * k) as f64 * f64::from(f32::EPSILON) / 2.0),
        });
        cases.push(exact);
    }
    check(&cpus(), &[1, 2, 3, 7], &cases);
}

#[test]
fn convolutions_and_pools() {
    let mut cases = Vec::new();
    for dtype in [DType::F32, DType::F64, DType::F16] {
        for size in [3, 15, 16, 17] {
            for (stride, pad, groups) in [(1, 0, 1), (2, 1, 1), (1, 2, 2), (3, 1, 4)] {
                cases.push(exact_case(
                    format!("conv {dtype} {size} {stride} {pad} {groups}"),
                    |b| {
                        let x = b.input("x", dtype, [2, 4, size, size]);
                        let w = b.input("w", dtype, [8, 4 / groups, 3, 3]);
                        let unit = Conv::unit(2);
                        x.conv(
                            w,
                            Conv {
                                stride: vec![stride; 2],
                                pad_low: vec![pad; 2],
                                pad_high: vec![pad; 2],
                                groups,
                                ..unit
                            },
                        )
                    },
                ));
            }
            type Pooling = for<'g> fn(Val<'g>, Window) -> Val<'g>;
            let pools: [(&str, Pooling); 2] = [
                ("max", |x, window| x.max_pool(window)),
                ("sum", |x, window| x.sum_pool(window)),
            ];
            for (name, pool) in pools {
                cases.push(exact_case(format!("pool {name} {dtype} {size}"), |b| {
                    pool(b.input("x", dtype, [2, 3, size, size]), Window::tiling([2, 2]))
                }));
                cases.push(exact_case(format!("sliding pool {name} {dtype} {size}"), |b| {
                    let window = Window {
                        pad_low: vec![1, 1],
                        ..Window::sliding([3, 2])
                    };
                    pool(b.input("x", dtype, [2, 3, size, size]), window)
                }));
            }
        }
    }
    cases.push(exact_case("conv1".to_owned(), |b| {
        b.input("x", DType::F32, [2, 3, 37])
            .conv(b.input("w", DType::F32, [5, 3, 4]), Conv::unit(1))
    }));
    cases.push(exact_case("conv of nothing".to_owned(), |b| {
        b.input("x", DType::F32, [0, 3, 8])
            .conv(b.input("w", DType::F32, [5, 3, 4]), Conv::unit(1))
    }));
    check(&cpus(), &[1, 3], &cases);
}

#[test]
fn gathers_scatters_counters_and_random_bits() {
    let mut cases = Vec::new();
    for size in SIZES.into_iter().filter(|&size| size > 0) {
        for index in [DType::I64, DType::U8, DType::I32] {
            for axis in [0, 1] {
                cases.push(exact_case(format!("gather {index} {size} {axis}"), |b| {
                    b.input("x", DType::F32, [size, size])
                        .gather(b.input("i", index, [7]), axis)
                }));
            }
        }
        for with in [None, Some(Combine::Sum), Some(Combine::Max), Some(Combine::Min)] {
            cases.push(exact_case(format!("scatter {with:?} {size}"), |b| {
                let (x, i) = (b.input("x", DType::F32, [size, 17]), b.input("i", DType::I64, [9]));
                x.scatter(i, b.input("u", DType::F32, [9, 17]), 0, with)
            }));
        }
    }
    for size in SIZES {
        cases.push(exact_case(format!("iota {size}"), |b| b.iota(DType::F32, [3, size], 1)));
        cases.push(exact_case(format!("random {size}"), |b| {
            let (key, step) = (b.input("key", DType::U64, []), b.input("step", DType::U64, []));
            b.random_bits(key, step, [size, 5])
        }));
    }
    check(&cpus(), &[1, 3], &cases);
}
