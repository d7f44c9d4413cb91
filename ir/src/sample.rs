//! Random valid graphs and inputs for tests: engines are compared on them, gradients checked.
//!
//! A graph is read from a string of choices, so that a property test shrinks it by shrinking bytes.

use std::sync::Arc;

use crate::builder::{Builder, Val, broadcast_shapes};
use crate::dtype::{DType, Scalar};
use crate::graph::Graph;
use crate::kernel::Combine;
use crate::ops::compound::Steps;
use crate::ops::map::{MapDef, Types};
use crate::ops::{Conv, Fold, Gather, Map, Op, View, Window};
use crate::tensor::{Tensor, Type};

/// A value may have this many elements at most, so that the oracle is quick.
const MOST_ELEMENTS: usize = 256;

/// Elementwise functions that are smooth, and bounded or linear, so that any chain of them can be differentiated numerically.
const UNARY: [&str; 6] = ["neg", "tanh", "sin", "cos", "sigmoid", "atan"];

/// A graph of maps, folds, views, contractions, convolutions, pools, gathers and scans over inputs of a float type. Every value that
/// nothing reads is an output.
pub fn graph(choices: &[u8], dtype: DType) -> Graph {
    let b = Builder::new();
    let mut choices = Choices { bytes: choices };
    let rank = 1 + choices.below(4);
    let shape: Vec<usize> = (0..rank).map(|_| 1 + choices.below(4)).collect();
    let mut vals = vec![b.input("x", dtype, shape)];
    while !choices.bytes.is_empty() {
        // Mostly the latest value, so that chains grow deep.
        let back = choices.below(vals.len().min(3));
        let val = vals[vals.len() - 1 - back];
        let next = grow(&b, val, &vals, &mut choices);
        assert!(!next.is_poison(), "a step made an invalid node: {:?}", b.problems());
        if next.ty().count() <= MOST_ELEMENTS {
            vals.push(next);
        }
    }
    let last = vals[vals.len() - 1];
    let graph = b.finish([("y0", last)]).expect("every step was valid");
    let users = graph.users();
    let unread = vals
        .iter()
        .filter(|val| val.id() != last.id() && users[val.id().at()].is_empty());
    let mut outputs = vec![("y0".to_owned(), last)];
    outputs.extend(unread.enumerate().map(|(place, &val)| (format!("y{}", place + 1), val)));
    b.finish(outputs).expect("every step was valid")
}

/// A tensor for each input of a graph: floats in [-1, 1], integers from 0 to 3, booleans.
pub fn inputs(graph: &Graph, seed: u64) -> Vec<(String, Tensor)> {
    let mut seed = seed;
    let named = graph.inputs().iter().map(|&id| {
        let Op::Input(input) = &graph.node(id).op else {
            unreachable!("{id} is listed as an input")
        };
        (input.name.clone(), tensor(&input.ty, &mut seed))
    });
    named.collect()
}

/// A tensor of such elements; `seed` advances.
pub fn tensor(ty: &Type, seed: &mut u64) -> Tensor {
    let mut draws = SplitMix(*seed);
    let elements: Vec<Scalar> = (0..ty.count())
        .map(|_| {
            let unit = draws.unit();
            match ty.dtype.is_float() {
                true => Scalar::Float(2.0 * unit - 1.0),
                false => Scalar::Int((4.0 * unit) as i128),
            }
        })
        .collect();
    *seed = draws.0;
    Tensor::from_scalars(ty.dtype, ty.shape.clone(), elements)
}

/// SplitMix64 (G. Steele, D. Lea, C. Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014): numbers for tests and for
/// arranging data; those inside a network are Philox's.
#[derive(Clone, Debug)]
pub struct SplitMix(pub u64);

impl SplitMix {
    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A number within a range.
    pub fn between(&mut self, (low, high): (f64, f64)) -> f64 {
        low + (high - low) * self.unit()
    }

    /// A number from 0 to `count` - 1: the high half of a 64×64 product maps the draw there without a visible bias.
    pub fn below(&mut self, count: usize) -> usize {
        ((u128::from(self.bits()) * count as u128) >> 64) as usize
    }
}

/// Values where functions go wrong: zeros, the ends of the denormal and normal ranges, the neighbours of 1, infinities, NaN; the
/// ends of a range of integers.
pub fn specials(dtype: DType) -> Vec<Scalar> {
    if let Some((low, high)) = dtype.int_range() {
        let values = [low, low + 1, -2, -1, 0, 1, 2, 3, 7, 8, 31, 63, high - 1, high];
        return values
            .into_iter()
            .filter(|value| (low..=high).contains(value))
            .map(Scalar::Int)
            .collect();
    }
    if dtype == DType::Bool {
        return vec![Scalar::Bool(false), Scalar::Bool(true)];
    }
    let one = Scalar::Float(1.0).to_bits(dtype);
    let infinity = Scalar::Float(f64::INFINITY).to_bits(dtype);
    let least_normal = 1 << infinity.trailing_zeros();
    let bits = [
        0,
        1,
        2,
        least_normal - 1,
        least_normal,
        one - 1,
        one,
        one + 1,
        infinity - 1,
        infinity,
    ];
    let positive = bits.into_iter().map(|bits| Scalar::from_bits(bits, dtype).as_f64());
    let positive: Vec<f64> = positive.chain([0.5, 2.0, 3.0, 10.0]).collect();
    let negative = positive.iter().map(|value| -value);
    let all = positive.iter().copied().chain(negative).chain([f64::NAN]);
    all.map(Scalar::Float).collect()
}

/// Every combination of special values of these types.
pub fn special_operands(dtypes: &[DType]) -> Vec<Vec<Scalar>> {
    dtypes.iter().fold(vec![vec![]], |all, &dtype| {
        let longer = |prefix: &Vec<Scalar>| {
            let values = specials(dtype).into_iter();
            values
                .map(|value| [prefix.as_slice(), &[value]].concat())
                .collect::<Vec<_>>()
        };
        all.iter().flat_map(longer).collect()
    })
}

/// The operand types that a row of the table takes, each uniform but for `select`.
pub fn operand_types(def: &MapDef) -> Vec<Vec<DType>> {
    let operands = |dtype: DType| {
        let mut dtypes = vec![dtype; def.arity];
        if def.types == Types::Select {
            dtypes[0] = DType::Bool;
        }
        dtypes
    };
    let all = DType::ALL.into_iter().map(operands);
    all.filter(|dtypes| def.types.result(dtypes).is_ok()).collect()
}

/// Whether a row's claim of accuracy extends to these operands: arguments of periodic functions and quotients of remainders are bounded.
pub fn is_claimed(def: &MapDef, operands: &[Scalar]) -> bool {
    match (def.name, operands) {
        ("sin" | "cos" | "tan", [x]) => !(1e5..f64::INFINITY).contains(&x.as_f64().abs()),
        ("rem" | "mod", &[Scalar::Float(a), Scalar::Float(b)]) => {
            let quotient = (a / b).abs();
            a.is_infinite() || b == 0.0 || quotient.is_nan() || quotient < 4e6
        }
        _ => true,
    }
}

struct Choices<'a> {
    bytes: &'a [u8],
}

impl Choices<'_> {
    /// A number below `count`; 0 when the choices are at their end.
    fn below(&mut self, count: usize) -> usize {
        let Some((&first, rest)) = self.bytes.split_first() else {
            return 0;
        };
        self.bytes = rest;
        usize::from(first) % count
    }
}

/// One more value, made of `val` and perhaps others.
fn grow<'g>(b: &'g Builder, val: Val<'g>, vals: &[Val<'g>], choices: &mut Choices<'_>) -> Val<'g> {
    match choices.below(10) {
        0 | 1 => unary(val, choices),
        2 | 3 => binary(val, vals, choices),
        4 => fold(val, choices),
        5 => view(val, choices),
        6 => contract(b, val, choices),
        7 => slide(b, val, choices),
        8 => gather(b, val, choices),
        _ => scan(b, val, choices),
    }
}

fn unary<'g>(val: Val<'g>, choices: &mut Choices<'_>) -> Val<'g> {
    let name = UNARY[choices.below(UNARY.len())];
    let Map(def) = Map::named(name).expect("a row of the table");
    Val::map(def, &[val])
}

fn binary<'g>(val: Val<'g>, vals: &[Val<'g>], choices: &mut Choices<'_>) -> Val<'g> {
    let other = vals[choices.below(vals.len())];
    let fits = broadcast_shapes(&[val.shape(), other.shape()])
        .is_some_and(|shape| shape.iter().product::<usize>() <= MOST_ELEMENTS);
    let other = if fits { other } else { val.lit(0.75) };
    match choices.below(4) {
        0 => val + other,
        1 => val - other,
        2 => val * other,
        _ => val / (other * other + 1.0),
    }
}

fn fold<'g>(val: Val<'g>, choices: &mut Choices<'_>) -> Val<'g> {
    if val.rank() == 0 {
        return val * 0.5;
    }
    let axes: Vec<usize> = match choices.below(3) {
        0 => vec![choices.below(val.rank())],
        1 => vec![val.rank() - 1],
        _ => (0..val.rank()).collect(),
    };
    let with = [Combine::Sum, Combine::Sum, Combine::Max, Combine::Min][choices.below(4)];
    let keep = choices.below(2) == 1;
    let mut kept = val.shape();
    axes.iter().for_each(|&axis| kept[axis] = 1);
    let folded = val.builder().push(Op::Fold(Fold { with, axes }), &[val]);
    // What normalisations do: the fold meets the tensor it came from.
    if keep { val - folded.reshape(kept) } else { folded }
}

fn view<'g>(val: Val<'g>, choices: &mut Choices<'_>) -> Val<'g> {
    let (rank, shape) = (val.rank(), val.shape());
    if rank == 0 {
        return val.broadcast([3]);
    }
    let axis = choices.below(rank);
    let along = |value: usize| -> Vec<usize> { (0..rank).map(|other| if other == axis { value } else { 0 }).collect() };
    let push = |view: View| val.builder().push(Op::View(view), &[val]);
    match choices.below(8) {
        0 => val.reshape([shape.iter().product()]),
        1 => {
            let mut order: Vec<usize> = (0..rank).collect();
            order.swap(axis, choices.below(rank));
            val.permute(order)
        }
        2 => val.broadcast([&[2], shape.as_slice()].concat()),
        3 => {
            let step = 1 + choices.below(2);
            let mut count = shape.clone();
            count[axis] = shape[axis].div_ceil(step);
            let mut steps = vec![1; rank];
            steps[axis] = step;
            push(View::Slice {
                start: vec![0; rank],
                step: steps,
                count,
            })
        }
        4 => push(View::Pad {
            low: along(choices.below(2)),
            high: along(choices.below(2)),
            inner: along(choices.below(2)),
            fill: Arc::new(Tensor::scalar(val.dtype(), Scalar::from_f64(0.25, val.dtype()))),
        }),
        5 => push(View::Flip(vec![axis])),
        6 => val.builder().push(Op::View(View::Concat(axis)), &[val, val * 0.5]),
        _ => push(View::Windows {
            axes: vec![axis],
            size: vec![1 + choices.below(shape[axis].min(2))],
            stride: vec![1 + choices.below(2)],
            dilation: vec![1],
        }),
    }
}

/// A weight of this graph: a new input.
fn weight<'g>(b: &'g Builder, like: Val<'g>, shape: Vec<usize>) -> Val<'g> {
    let taken = (0..).find(|place| b.find_input(&format!("w{place}")).is_none());
    let place = taken.expect("fewer inputs than numbers");
    b.input(&format!("w{place}"), like.dtype(), shape)
}

fn contract<'g>(b: &'g Builder, val: Val<'g>, choices: &mut Choices<'_>) -> Val<'g> {
    let shape = val.shape();
    let Some(&last) = shape.last() else {
        return val * weight(b, val, vec![2]);
    };
    match choices.below(3) {
        0 => val.matmul(weight(b, val, vec![last, 1 + choices.below(3)])),
        1 => val.matmul(weight(b, val, vec![last])),
        // Contracts all but the first axis with the value itself: a Gram matrix.
        _ => {
            let rows = val.reshape([shape[0], shape[1..].iter().product()]);
            Val::einsum("ik,jk->ij", &[rows, rows])
        }
    }
}

/// A convolution or a pool over one or two spatial axes.
fn slide<'g>(b: &'g Builder, val: Val<'g>, choices: &mut Choices<'_>) -> Val<'g> {
    let shape = val.shape();
    let spatial = match shape.len() {
        0 => return val.broadcast([2, 1]),
        1..=3 => 1,
        _ => 2,
    };
    // [.., C, S…] with everything before the channels as the batch.
    let first = shape.len() - spatial;
    let channels = if first == 0 { 1 } else { shape[first - 1] };
    let batch = shape[..first.saturating_sub(1)].iter().product();
    let image: Vec<usize> = [batch, channels]
        .into_iter()
        .chain(shape[first..].iter().copied())
        .collect();
    let val = val.reshape(image);
    let sizes = &shape[first..];
    let taps: Vec<usize> = sizes.iter().map(|&size| 1 + choices.below(size.min(3))).collect();
    let stride: Vec<usize> = sizes.iter().map(|_| 1 + choices.below(2)).collect();
    if choices.below(2) == 0 {
        let groups = if channels % 2 == 0 { 1 + choices.below(2) } else { 1 };
        let kernel: Vec<usize> = [groups * (1 + choices.below(2)), channels / groups]
            .into_iter()
            .chain(taps)
            .collect();
        let conv = Conv {
            stride,
            pad_low: sizes.iter().map(|_| choices.below(2) as i64).collect(),
            pad_high: sizes.iter().map(|_| choices.below(2) as i64).collect(),
            input_dilation: sizes.iter().map(|_| 1 + choices.below(2)).collect(),
            groups,
            ..Conv::unit(spatial)
        };
        return val.conv(weight(b, val, kernel), conv);
    }
    // Padding smaller than the window leaves no window of padding only.
    let pad_low = taps.iter().map(|&tap| choices.below(tap)).collect();
    let window = Window {
        stride,
        pad_low,
        ..Window::sliding(taps)
    };
    match choices.below(3) {
        0 => val.max_pool(window),
        1 => val.sum_pool(window),
        _ => val.avg_pool(window),
    }
}

fn gather<'g>(b: &'g Builder, val: Val<'g>, choices: &mut Choices<'_>) -> Val<'g> {
    if val.rank() == 0 {
        return val * val;
    }
    let axis = choices.below(val.rank());
    let extent = val.shape()[axis];
    let indices: Vec<i64> = (0..1 + choices.below(4))
        .map(|_| choices.below(extent) as i64)
        .collect();
    let indices = b.constant(Tensor::from_i64([indices.len()], &indices));
    b.push(Op::Gather(Gather { axis }), &[val, indices])
}

/// A recurrence along the first axis: its last state beside the stack of all.
fn scan<'g>(b: &'g Builder, val: Val<'g>, choices: &mut Choices<'_>) -> Val<'g> {
    let shape = val.shape();
    let Some((&length, entry)) = shape.split_first() else {
        return val + val;
    };
    let steps = Steps {
        length,
        carried: vec![b.full(val.dtype(), entry, 0.5)],
        sliced: vec![val],
        constants: vec![weight(b, val, entry.to_vec())],
        reverse: choices.below(2) == 1,
    };
    let (last, stacked) = b.scan(steps, |_, step| {
        let state = step.carried[0] * step.constants[0] + step.sliced[0];
        (vec![state], vec![state * state])
    });
    match choices.below(3) {
        0 => last[0],
        1 => stacked[0],
        _ => stacked[0] - last[0],
    }
}
