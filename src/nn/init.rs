//! How parameters start.

use netloom_ir::builder::{Builder, Val};
use netloom_ir::program::Init;
use netloom_ir::{DType, Tensor};

use super::scope::init_graph;

/// The distribution that a parameter's first elements are drawn from.
///
/// *Fan in* and *fan out* are the numbers of inputs and outputs that one output and one input of the layer are connected with. For a
/// matrix `[in, out]` they are its extents, for a convolution kernel `[out, in, k…]` the channels times the kernel's size.
#[derive(Clone, Debug, PartialEq)]
pub enum Initialiser {
    /// All zero.
    Zeros,
    /// All equal.
    Constant(f32),
    /// Uniform in [-e, e].
    Uniform(f32),
    /// Normal with mean 0 and this standard deviation.
    Gaussian(f32),
    /// Uniform in ±√(6 / (fan in + fan out)); X. Glorot, Y. Bengio, "Understanding the difficulty of training deep feedforward neural
    /// networks", AISTATS 2010.
    XavierUniform,
    /// Normal with variance 2 / (fan in + fan out); as above.
    XavierNormal,
    /// Uniform in ±√(6 / fan in); K. He et al., "Delving deep into rectifiers", ICCV 2015.
    HeUniform,
    /// Normal with variance 2 / fan in; as above.
    HeNormal,
    /// Uniform in ±1 / √(fan in): PyTorch's default for dense and convolutional layers, weights and biases.
    FanInUniform,
    /// Orthogonal rows or columns (whichever are fewer) times a gain; A. Saxe et al., "Exact solutions to the nonlinear dynamics of
    /// learning in deep linear neural networks", ICLR 2014. The matrix is `[first extent, the rest]`.
    Orthogonal(f32),
    /// Given elements.
    Tensor(Tensor),
}

impl Initialiser {
    /// The initial value of a parameter of `shape`, whose random numbers are those of `stream`.
    pub fn graph(&self, shape: &[usize], stream: u32) -> Init {
        let (fan_in, fan_out) = fans(shape);
        match self {
            Initialiser::Zeros => Init::Tensor(Tensor::zeros(DType::F32, shape).into()),
            Initialiser::Constant(value) => full(shape, *value),
            Initialiser::Tensor(tensor) => Init::Tensor(tensor.clone().into()),
            Initialiser::Uniform(e) => uniform(shape, stream, f64::from(*e)),
            Initialiser::XavierUniform => uniform(shape, stream, (6.0 / (fan_in + fan_out)).sqrt()),
            Initialiser::HeUniform => uniform(shape, stream, (6.0 / fan_in).sqrt()),
            Initialiser::FanInUniform => uniform(shape, stream, 1.0 / fan_in.sqrt()),
            Initialiser::Gaussian(deviation) => normal(shape, stream, f64::from(*deviation)),
            Initialiser::XavierNormal => normal(shape, stream, (2.0 / (fan_in + fan_out)).sqrt()),
            Initialiser::HeNormal => normal(shape, stream, (2.0 / fan_in).sqrt()),
            Initialiser::Orthogonal(gain) => orthogonal(shape, stream, f64::from(*gain)),
        }
    }
}

/// Fan in and fan out of a parameter; see [`Initialiser`].
fn fans(shape: &[usize]) -> (f64, f64) {
    let (fan_in, fan_out) = match *shape {
        [] => (1, 1),
        [n] => (n, n),
        [inputs, outputs] => (inputs, outputs),
        [outputs, inputs, ref kernel @ ..] => {
            let size: usize = kernel.iter().product();
            (inputs * size, outputs * size)
        }
    };
    (fan_in.max(1) as f64, fan_out.max(1) as f64)
}

fn full(shape: &[usize], value: f32) -> Init {
    let count = shape.iter().product();
    Init::Tensor(Tensor::from_f32(shape, &vec![value; count]).into())
}

/// The step that a parameter's numbers are drawn at. Training steps count from 0, so no run draws the same.
fn own_step(b: &Builder, stream: u32) -> Val<'_> {
    let step = u64::MAX - u64::from(stream);
    b.constant(Tensor::from_bytes(DType::U64, [], step.to_le_bytes().to_vec()))
}

fn uniform(shape: &[usize], stream: u32, e: f64) -> Init {
    Init::Graph(init_graph(|b, seed| b.uniform(seed, own_step(b, stream), shape) * (2.0 * e) - e).into())
}

fn normal(shape: &[usize], stream: u32, deviation: f64) -> Init {
    Init::Graph(init_graph(|b, seed| b.normal(seed, own_step(b, stream), shape) * deviation).into())
}

/// A Gaussian matrix made orthogonal by Newton and Schulz's iteration for the polar factor, which needs matrix products alone:
/// X ← 1.5 X - 0.5 X Xᵀ X, from X scaled to a norm below √3. (Å. Björck, C. Bowie, "An iterative algorithm for computing the best
/// estimate of an orthogonal matrix", 1971.) The polar factor of a Gaussian matrix is uniform over the orthogonal matrices.
fn orthogonal(shape: &[usize], stream: u32, gain: f64) -> Init {
    let rows = shape.first().copied().unwrap_or(1);
    let columns = shape.iter().skip(1).product::<usize>();
    let (few, many) = (rows.min(columns), rows.max(columns));
    let graph = init_graph(|b, seed| {
        let mut x = b.normal(seed, own_step(b, stream), [few, many]);
        x = x / (x * x).sum([0, 1]).sqrt();
        // The least singular value of a square Gaussian matrix is about 1/n of the greatest, and grows by 1.5 a step.
        for _ in 0..ORTHOGONAL_STEPS {
            let square = Val::einsum("ik,jk->ij", &[x, x]);
            x = x * 1.5 - Val::einsum("ij,jk->ik", &[square, x]) * 0.5;
        }
        let x = if rows <= columns { x } else { x.permute([1, 0]) };
        x.reshape(shape) * gain
    });
    Init::Graph(graph.into())
}

/// Steps of the iteration in [`orthogonal`]: 1.5^32 is 4e5, so matrices of some thousand rows converge.
const ORTHOGONAL_STEPS: usize = 32;
