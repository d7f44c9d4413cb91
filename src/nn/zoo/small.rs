//! Small networks: points, flat digits.

use super::{Net, classify};
use crate::nn::layers::{Activation, Dense};
use crate::nn::{Initialiser, Loss, Optimiser, Rate, Sequential, Training};

pub(super) static TINY: Net = Net {
    name: "tiny",
    about: "2-8-8-1 with tanh, for two classes of points",
    layers: tiny,
    example: &[2],
    target: Some(&[1]),
    batch: 10,
    training: || Training::new(Loss::BinaryCrossEntropy, Optimiser::Sgd, Rate::Constant(0.01)),
    trained_as: None,
};

pub(super) static MLP: Net = Net {
    name: "mlp",
    about: "784-512-512-10 with ReLU",
    layers: mlp,
    example: &[784],
    target: None,
    batch: 64,
    training: || classify(Optimiser::Sgd),
    trained_as: None,
};

pub(super) static AUTOENCODER: Net = Net {
    name: "autoencoder",
    about: "784-256-64-16 and back, with sigmoids",
    layers: autoencoder,
    example: &[784],
    target: Some(&[784]),
    batch: 128,
    training: || Training::new(Loss::MeanSquaredError, Optimiser::adam(), Rate::Constant(1e-3)),
    trained_as: None,
};

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
