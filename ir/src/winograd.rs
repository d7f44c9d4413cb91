//! Convolutions with 3×3 filters and stride 1 by Winograd's algorithm: its matrices, and whole convolutions as graphs.
//!
//! `F(m, 3)` computes `m` results of a correlation with 3 taps from `n = m + 2` elements by `n` multiplications:
//! `y = Aᵀ · ((G · g) ⊙ (Bᵀ · d))` (Winograd, "Arithmetic complexity of computations", 1980; Lavin and Gray, "Fast algorithms for
//! convolutional neural networks", 2016). The matrices follow from `n - 1` points, at which polynomials are evaluated, and infinity.
//!
//! A schedule for CPUs computes convolutions so while they lie in a cache. For GPUs [`spelled`] does: there every transform is a kernel, and
//! those of filters, which are larger than the image of a late layer, must be computed once, by [`crate::prepare`].

use crate::builder::{Builder, Val};
use crate::graph::{Graph, NodeId, Rebuild};
use crate::ops::{Conv, Op};
use crate::{DType, Tensor, Type};

/// Taps of a filter along one axis.
pub const TAPS: usize = 3;

/// The points, in pairs that differ in their sign, so that products with them share their halves. Smaller or larger ones lose digits.
const POINTS: [f64; 7] = [0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5];

/// A matrix by rows.
pub type Matrix = Vec<Vec<f64>>;

/// The matrices of `F(m, 3)`.
pub struct Transforms {
    /// `Aᵀ`, `m × n`.
    pub output: Matrix,
    /// `G`, `n × 3`.
    pub filter: Matrix,
    /// `Bᵀ`, `n × n`.
    pub input: Matrix,
}

impl Transforms {
    /// For `m` results: 2, 4 or 6.
    pub fn of(m: usize) -> Transforms {
        let points = &POINTS[..m + 1];
        let power = |point: f64, exponent: usize| point.powi(exponent as i32);
        // The product of `x - q` over all points but one, by coefficients, the constant first.
        let product = |without: Option<usize>| -> Vec<f64> {
            let mut coefficients = vec![1.0];
            for (_, &q) in points.iter().enumerate().filter(|&(at, _)| Some(at) != without) {
                let shifted = std::iter::once(0.0).chain(coefficients.iter().copied());
                let scaled = coefficients.iter().map(|c| -q * c).chain([0.0]);
                coefficients = shifted.zip(scaled).map(|(a, b)| a + b).collect();
            }
            coefficients
        };
        let n = m + TAPS - 1;
        let mut output: Matrix = (0..m)
            .map(|row| points.iter().map(|&point| power(point, row)).collect())
            .collect();
        output
            .iter_mut()
            .enumerate()
            .for_each(|(row, entries)| entries.push(if row + 1 == m { 1.0 } else { 0.0 }));
        let (mut filter, mut input) = (Matrix::new(), Matrix::new());
        for (at, &point) in points.iter().enumerate() {
            let others = points.iter().enumerate().filter(|&(other, _)| other != at);
            let scale: f64 = others.map(|(_, &q)| point - q).product();
            filter.push((0..TAPS).map(|tap| power(point, tap) / scale).collect());
            let mut row = product(Some(at));
            row.resize(n, 0.0);
            input.push(row);
        }
        filter.push((0..TAPS).map(|tap| if tap + 1 == TAPS { 1.0 } else { 0.0 }).collect());
        input.push(product(None));
        Transforms { output, filter, input }
    }
}

/// Multiplications and additions by a CPU's vectors in a nanosecond of one core of the machine of `BENCHMARKS.md`; what counts are ratios.
pub const RATE: f64 = 55.0;

/// How a CPU computes a convolution by squares.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// The results along a side of a square.
    pub size: usize,
    /// Whether all filters are transformed first, and groups of squares go through them one after the other; or all squares are, and filters go through
    /// these, some at a time.
    pub filters_first: bool,
    /// What that takes, in nanoseconds of one core.
    pub time: f64,
}

impl Choice {
    /// The quickest of those that have this size and put that first, where that is given. The smallest squares save too little to be tried unasked.
    pub fn best(
        shape: [usize; 3],
        channels: usize,
        filters: usize,
        (size, filters_first): (Option<usize>, Option<bool>),
    ) -> Option<Choice> {
        let is_open = |choice: &Choice| {
            size.map_or(choice.size > 2, |given| given == choice.size)
                && filters_first.is_none_or(|given| given == choice.filters_first)
        };
        let choices = Choice::all(shape, channels, filters).filter(is_open);
        choices.min_by(|a, b| a.time.total_cmp(&b.time))
    }

    /// All there are, their times by a model fitted to 17 layers of ResNet-18, GoogLeNet and VGG-16. Of the result the number of images, height and width; channels
    /// of image and result are in blocks of 16.
    fn all([images, down, along]: [usize; 3], channels: usize, filters: usize) -> impl Iterator<Item = Choice> {
        /// Channels of a block.
        const LANES: f64 = 16.0;
        /// Squares and filters of a tile.
        const TILE: [usize; 2] = [14, 32];
        /// Bytes that stay in a second cache until they are read again.
        const NEAR: f64 = 1.8e6;
        /// Of these, bytes in a nanosecond: half are in the cache of the other of two workers.
        const NEAR_RATE: f64 = 25.0;
        // Nanoseconds to transform a square of the image or of the result, and a filter, each of a block of channels; and the bytes of all filters, or of
        // all squares, that come from far away in a nanosecond: as many streams as a square has places.
        let models = [
            (2, [30.0, 60.0], [42.0, 46.0]),
            (4, [70.0, 58.0], [42.0, 46.0]),
            (6, [225.0, 75.0], [12.0, 22.0]),
        ];
        models.into_iter().flat_map(move |(size, [square, filter], rates)| {
            let squares = images * down.div_ceil(size) * along.div_ceil(size);
            let places = ((size + TAPS - 1) * (size + TAPS - 1)) as f64;
            let products = places * (squares * channels * filters) as f64 / RATE;
            let sides = squares as f64 * (channels + filters) as f64 / LANES * square;
            let transforms = sides + channels as f64 * filters as f64 / LANES * filter;
            let moves = |count: usize, of: usize, reads: usize, rate: f64| {
                let bytes = places * (count * of * size_of::<f32>()) as f64;
                // Written, for which a line is read first, and read for each of the other side.
                bytes.min(NEAR) / NEAR_RATE + (bytes - NEAR).max(0.0) * (2 + reads) as f64 / rate
            };
            [true, false].map(|filters_first| Choice {
                size,
                filters_first,
                time: products
                    + transforms
                    + match filters_first {
                        true => moves(filters, channels, squares.div_ceil(TILE[0]), rates[0]),
                        false => moves(squares, channels, filters.div_ceil(TILE[1]), rates[1]),
                    },
            })
        })
    }
}

/// Whether a convolution is of stride 1, with filters of 3×3.
pub fn applies(conv: &Conv, kernel: &Type) -> bool {
    let unit = Conv {
        pad_low: conv.pad_low.clone(),
        pad_high: conv.pad_high.clone(),
        ..Conv::unit(2)
    };
    let crops = conv.pad_low.iter().chain(&conv.pad_high).any(|&pad| pad < 0);
    *conv == unit && !crops && matches!(kernel.shape[..], [_, _, TAPS, TAPS])
}

/// Results along a side of a square, and the elements of the image that they are computed from.
const SIZE: usize = 4;
const REACH: usize = SIZE + TAPS - 1;

/// The same graph with convolutions whose kernel does not change between runs computed by Winograd's algorithm, where that is faster.
///
/// It rounds differently, so it is no pass.
pub(crate) fn spelled(graph: &Graph, changes: impl Fn(NodeId) -> bool) -> Graph {
    graph.rebuild(|to, node, args| match &node.op {
        Op::Conv(conv) if !changes(node.args[1]) && pays(conv, node.ty(), graph.ty(node.args[1])) => {
            let body = by_squares(conv, graph.ty(node.args[0]), graph.ty(node.args[1]), node.ty());
            inline(to, &body, args)
        }
        _ => to.push(node.op.clone(), args),
    })
}

/// Whether a convolution is one of these, and large enough.
///
/// The costs are cycles of a subgroup for a square and a pair of channels, counted from the loads and what a load takes on lavapipe, and for a
/// square and a channel, from the time that transforms take there beside the products.
fn pays(conv: &Conv, result: &Type, kernel: &Type) -> bool {
    /// A convolution computed directly, the products of transformed ones, and the transforms of an image and of a result.
    const DIRECT: f64 = 634.0;
    const PRODUCTS: f64 = 216.0;
    const IMAGE: f64 = 5700.0;
    const RESULT: f64 = 3500.0;
    let &[filters, channels, ..] = &kernel.shape[..] else {
        return false;
    };
    if !applies(conv, kernel) || result.dtype != DType::F32 || result.count() == 0 {
        return false;
    }
    let [down, along] = squares(result);
    let waste = (down * along * SIZE * SIZE) as f64 / (result.shape[2] * result.shape[3]) as f64;
    let (filters, channels) = (filters as f64, channels as f64);
    let transformed = PRODUCTS * filters * channels + IMAGE * channels + RESULT * filters;
    waste * transformed < 0.8 * DIRECT * filters * channels
}

/// How many squares cover each image, down and along: a multiple of four of all images, as the shader of matrix products reads so many at once.
fn squares(result: &Type) -> [usize; 2] {
    let [down, mut along] = [2, 3].map(|axis: usize| result.shape[axis].div_ceil(SIZE));
    while !(result.shape[0] * down * along).is_multiple_of(4) {
        along += 1;
    }
    [down, along]
}

/// The graph from image and kernel to result.
fn by_squares(conv: &Conv, image: &Type, kernel: &Type, result: &Type) -> Graph {
    let transforms = Transforms::of(SIZE);
    let b = Builder::new();
    let [x, w] = [("x", image), ("w", kernel)].map(|(name, ty)| b.input(name, ty.dtype, ty.shape.clone()));
    let [input, filter, output] =
        [&transforms.input, &transforms.filter, &transforms.output].map(|rows| matrix(&b, rows));
    let squares = squares(result);
    let low = [0, 1].map(|way: usize| conv.pad_low[way] as usize);
    let high = [0, 1].map(|way: usize| squares[way] * SIZE + TAPS - 1 - image.shape[2 + way] - low[way]);
    let padded = x.pad([0, 0, low[0], low[1]], [0, 0, high[0], high[1]], 0.0);
    // `Bᵀ · d · B`, down the squares and then along their lines: one kernel.
    let image = padded.windows(&[2, 3], &[REACH; 2], &[SIZE; 2], &[1; 2]);
    let down = Val::einsum("ncyxkl,rk->rcnyxl", &[image, input]);
    let squared = Val::einsum("rcnyxl,sl->rscnyx", &[down, input]);
    let filters = Val::einsum("ockl,rk->rocl", &[w, filter]);
    // Each filter's channels one behind the other: with few squares its elements come from memory, and so in long rows.
    let filters = Val::einsum("rocl,sl->rsoc", &[filters, filter]);
    let products = Val::einsum("rscnyx,rsoc->rsonyx", &[squared, filters]);
    let up = Val::einsum("rsonyx,ir->noyisx", &[products, output]);
    let whole = Val::einsum("noyisx,js->noyixj", &[up, output]);
    let [images, channels, lines, columns] = result.shape[..] else {
        unreachable!("a convolution of images")
    };
    let whole = whole.reshape([images, channels, squares[0] * SIZE, squares[1] * SIZE]);
    let whole = whole.slice(2, 0, lines).slice(3, 0, columns);
    b.finish([("y", whole)]).expect("a graph of valid nodes")
}

/// A constant matrix.
fn matrix<'b>(b: &'b Builder, rows: &Matrix) -> Val<'b> {
    let elements: Vec<f32> = rows.iter().flatten().map(|&element| element as f32).collect();
    b.constant(Tensor::from_f32([rows.len(), rows[0].len()], &elements))
}

/// Adds the nodes of a graph, with these for its inputs, and gives its only result.
pub(crate) fn inline(to: &mut Rebuild, body: &Graph, args: &[NodeId]) -> NodeId {
    let live = body.live();
    let mut new_ids = vec![NodeId(u32::MAX); body.len()];
    for (&input, &arg) in body.inputs().iter().zip(args) {
        new_ids[input.at()] = arg;
    }
    for (id, node) in body.nodes().filter(|(id, _)| live[id.at()]) {
        if !matches!(node.op, Op::Input(_)) {
            let args: Vec<NodeId> = node.args.iter().map(|arg| new_ids[arg.at()]).collect();
            new_ids[id.at()] = to.push(node.op.clone(), &args);
        }
    }
    new_ids[body.outputs[0].1.at()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{oracle, sample};

    #[test]
    fn the_transforms_compute_a_correlation() {
        let times = |matrix: &Matrix, vector: &[f64]| -> Vec<f64> {
            let row = |row: &Vec<f64>| row.iter().zip(vector).map(|(a, b)| a * b).sum();
            matrix.iter().map(row).collect()
        };
        for m in [2, 4, 6] {
            let Transforms { output, filter, input } = Transforms::of(m);
            let taps = [0.3, -1.7, 2.2];
            let signal: Vec<f64> = (0..m + 2).map(|at| (at * at % 7) as f64 - 2.5).collect();
            let products: Vec<f64> = (times(&filter, &taps).iter().zip(times(&input, &signal)))
                .map(|(a, b)| a * b)
                .collect();
            for (at, found) in times(&output, &products).into_iter().enumerate() {
                let expected: f64 = (0..TAPS).map(|tap| taps[tap] * signal[at + tap]).sum();
                assert!(
                    (found - expected).abs() < 1e-12,
                    "F({m}, 3) result {at}: {found}, not {expected}"
                );
            }
        }
    }

    /// Layers of VGG-16, GoogLeNet and ResNet-18: what was measured to be fastest, or within an eighth of that.
    #[test]
    fn what_is_small_enough_to_stay_near_is_first() {
        for (channels, filters, side, expected) in [
            (64, 64, 224, (6, true)),
            (64, 128, 112, (4, true)),
            (64, 192, 56, (4, true)),
            (128, 192, 28, (6, false)),
            (256, 512, 28, (6, false)),
            (256, 256, 14, (4, false)),
            (512, 512, 7, (4, false)),
        ] {
            let best = Choice::best([1, side, side], channels, filters, (None, None)).expect("a choice");
            let found = (best.size, best.filters_first);
            assert_eq!(found, expected, "{channels} channels, {filters} filters, {side}×{side}");
        }
    }

    /// Heights and widths about a square's side, one and several images, padding of every width.
    #[test]
    fn a_spelled_convolution_is_the_convolution() {
        for (size, images, pad) in [
            ([4, 4], 1, 1),
            ([7, 9], 2, 1),
            ([6, 11], 1, 0),
            ([3, 5], 1, 2),
            ([13, 8], 2, 1),
        ] {
            let b = Builder::new();
            let x = b.input("x", DType::F32, [images, 5, size[0], size[1]]);
            let w = b.input("w", DType::F32, [6, 5, 3, 3]);
            let conv = Conv {
                pad_low: vec![pad; 2],
                pad_high: vec![pad, 1],
                ..Conv::unit(2)
            };
            let direct = b.finish([("y", x.conv(w, conv.clone()))]).expect("a graph");
            let body = by_squares(&conv, &x.ty(), &w.ty(), &x.conv(w, conv.clone()).ty());
            let inputs = sample::inputs(&direct, 3);
            let inputs: Vec<(&str, Tensor)> = inputs.iter().map(|(name, x)| (name.as_str(), x.clone())).collect();
            let [expected, found] = [&direct, &body].map(|graph| {
                let results = oracle::run(graph, &inputs).unwrap_or_else(|problems| panic!("{problems}"));
                results[0].1.to_f32()
            });
            let greatest = expected.iter().fold(0.0f32, |most, x| most.max(x.abs()));
            for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
                assert!(
                    (found - expected).abs() <= 1e-5 * greatest,
                    "{size:?}, {pad}: [{at}] is {found}, not {expected}"
                );
            }
        }
    }
}
