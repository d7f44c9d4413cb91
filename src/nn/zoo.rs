//! Networks by name.
//!
//! Each is one function from nothing to layers; [`find`] knows their names.

use std::cell::RefCell;
use std::rc::Rc;

use netloom_ir::builder::Builder;
use netloom_ir::{DType, Tensor, Type};

use super::layers::{Activation, Conv, Dense, Flatten, Layer, Pool, Sequential};
use super::scope::{Mode, Scope, States};
use super::{Initialiser, Loss, Optimiser, Rate, Training};
use crate::error::Error;

/// A network with the task it is usually given.
pub struct Net {
    /// The name.
    pub name: &'static str,
    /// What it is, in one line.
    pub about: &'static str,
    /// Its layers.
    pub layers: fn() -> Sequential,
    /// One example: element type and shape, without the batch.
    pub example: &'static [usize],
    /// One target: `None` is a class label, otherwise `f32` values of this shape.
    pub target: Option<&'static [usize]>,
    /// Examples in a batch.
    pub batch: usize,
    /// The usual training.
    pub training: fn() -> Training,
}

impl Net {
    /// The type of a batch of examples.
    pub fn input(&self, batch: usize) -> Type {
        Type::new(DType::F32, with_batch(batch, self.example))
    }

    /// The type of a batch of targets.
    pub fn target(&self, batch: usize) -> Type {
        match self.target {
            None => Type::new(DType::I64, [batch]),
            Some(shape) => Type::new(DType::F32, with_batch(batch, shape)),
        }
    }
}

fn with_batch(batch: usize, shape: &[usize]) -> Vec<usize> {
    std::iter::once(batch).chain(shape.iter().copied()).collect()
}

/// Every network.
pub static NETS: &[Net] = &[
    Net {
        name: "tiny",
        about: "2-8-8-1 with tanh, for two classes of points",
        layers: tiny,
        example: &[2],
        target: Some(&[1]),
        batch: 10,
        training: || Training::new(Loss::BinaryCrossEntropy, Optimiser::Sgd, Rate::Constant(0.01)),
    },
    Net {
        name: "mlp",
        about: "784-512-512-10 with ReLU",
        layers: mlp,
        example: &[784],
        target: None,
        batch: 64,
        training: || Training::new(Loss::CategoricalCrossEntropy, Optimiser::Sgd, Rate::Constant(0.01)),
    },
    Net {
        name: "lenet",
        about: "two convolutions with pooling, then 500 and 10 dense, in the manner of LeNet-5",
        layers: lenet,
        example: &[1, 28, 28],
        target: None,
        batch: 64,
        training: || Training::new(Loss::CategoricalCrossEntropy, Optimiser::Sgd, Rate::Constant(0.01)),
    },
    Net {
        name: "autoencoder",
        about: "784-256-64-16 and back, with sigmoids",
        layers: autoencoder,
        example: &[784],
        target: Some(&[784]),
        batch: 128,
        training: || Training::new(Loss::MeanSquaredError, Optimiser::adam(), Rate::Constant(1e-3)),
    },
];

/// The network of that name.
///
/// # Errors
/// If there is none; the message names the nearest.
pub fn find(name: &str) -> Result<&'static Net, Error> {
    NETS.iter().find(|net| net.name == name).ok_or_else(|| {
        let mut names: Vec<&str> = NETS.iter().map(|net| net.name).collect();
        names.sort_by_key(|known| strsim::damerau_levenshtein(name, known));
        Error::Unknown(format!(
            "there is no network `{name}`; did you mean {}?",
            names[..names.len().min(3)].join(", ")
        ))
    })
}

/// The states of a network from tensors under PyTorch's names and in its layouts: names agree, but PyTorch stores the weight of a
/// dense layer as `[out, in]`.
///
/// # Errors
/// If a tensor is missing, unknown or of another shape.
pub fn from_torch(net: &Net, tensors: Vec<(String, Tensor)>) -> Result<Vec<(String, Tensor)>, Error> {
    let builder = Builder::new();
    let states = Rc::new(RefCell::new(States::default()));
    let scope = Scope::new(&builder, Mode::Inference, Rc::clone(&states));
    let x = builder.input("x", DType::F32, net.input(1).shape);
    (net.layers)().build(&scope, x);
    let states = states.borrow();
    let mut problems = Vec::new();
    let mut converted = Vec::new();
    for (name, tensor) in tensors {
        // A counter that only PyTorch's cumulative averages read.
        if name.ends_with("num_batches_tracked") {
            continue;
        }
        let tensor = if states.is_transposed_in_torch(&name) {
            transposed(&tensor)
        } else {
            tensor
        };
        match states.states().iter().find(|state| state.name == name) {
            None => problems.push(format!("`{name}` is unknown")),
            Some(state) if state.ty != tensor.ty() => {
                problems.push(format!("`{name}` is {}, the network has {}", tensor.ty(), state.ty));
            }
            Some(_) => converted.push((name, tensor)),
        }
    }
    let missing = states
        .trainable()
        .iter()
        .filter(|name| !converted.iter().any(|(known, _)| known == *name));
    problems.extend(missing.map(|name| format!("`{name}` is missing")));
    if problems.is_empty() {
        return Ok(converted);
    }
    Err(Error::Usage(format!(
        "these are not the weights of `{}`: {}",
        net.name,
        problems.join("; ")
    )))
}

/// A matrix with rows and columns exchanged; other tensors as they are.
fn transposed(tensor: &Tensor) -> Tensor {
    let &[rows, columns] = tensor.shape() else {
        return tensor.clone();
    };
    let elements = (0..rows * columns).map(|at| tensor.get(at % rows * columns + at / rows));
    Tensor::from_scalars(tensor.dtype(), [columns, rows], elements)
}

/// 2-8-8-1 with tanh.
pub fn tiny() -> Sequential {
    Sequential::new()
        .then(Dense::new(8))
        .then(Activation::Tanh)
        .then(Dense::new(8))
        .then(Activation::Tanh)
        .then(Dense::new(1))
}

/// 784-512-512-10 with ReLU.
pub fn mlp() -> Sequential {
    Sequential::new()
        .then(Dense::new(512).init(Initialiser::HeUniform))
        .then(Activation::Relu)
        .then(Dense::new(512).init(Initialiser::HeUniform))
        .then(Activation::Relu)
        .then(Dense::new(10))
}

/// Two convolutions with max pooling, then 500 and 10 dense; after Y. LeCun et al., "Gradient-based learning applied to document
/// recognition", 1998, with ReLU and the widths that Caffe's example made usual.
pub fn lenet() -> Sequential {
    Sequential::new()
        .then(Conv::d2(20, 5))
        .then(Activation::Relu)
        .then(Pool::max2(2))
        .then(Conv::d2(50, 5))
        .then(Activation::Relu)
        .then(Pool::max2(2))
        .then(Flatten)
        .then(Dense::new(500).init(Initialiser::HeUniform))
        .then(Activation::Relu)
        .then(Dense::new(10))
}

/// 784-256-64-16 and back, with sigmoids but at the code.
pub fn autoencoder() -> Sequential {
    let mut net = Sequential::new();
    for (place, units) in [256, 64, 16, 64, 256, 784].into_iter().enumerate() {
        net = net.then(Dense::new(units));
        if place != 2 {
            net = net.then(Activation::Sigmoid);
        }
    }
    net
}
