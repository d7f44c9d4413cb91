//! LeNet: digits by convolution.

use super::{Net, classify};
use crate::nn::layers::{Activation, Conv, Dense, Flatten, Pool};
use crate::nn::{Initialiser, Optimiser, Sequential};

pub(super) static LENET: Net = Net {
    name: "lenet",
    about: "two convolutions with pooling, then 500 and 10 dense, in the manner of LeNet-5",
    layers: lenet,
    example: &[1, 28, 28],
    target: None,
    batch: 64,
    training: || classify(Optimiser::Sgd),
    trained_as: None,
};

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
