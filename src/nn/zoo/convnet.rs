//! A small convolutional net with batch normalisation, for pictures of 28×28.

use super::{Net, classify};
use crate::nn::layers::{Activation, BatchNorm, Conv, Dense, Flatten, Pool};
use crate::nn::{Optimiser, Sequential};

pub(super) static CONVNET: Net = Net {
    name: "convnet",
    about: "three normalised 3×3 convolutions with pooling, then one dense layer",
    layers: convnet,
    example: &[1, 28, 28],
    target: None,
    batch: 64,
    training: || classify(Optimiser::Momentum(0.9)),
    trained_as: None,
};

/// Three normalised convolutions of 32, 64 and 128 filters, each halving the picture, then 10 dense: in the manner of VGG, a quarter of LeNet's
/// parameters.
pub fn convnet() -> Sequential {
    let mut net = Sequential::new();
    for filters in [32, 64, 128] {
        net = net
            .then(Conv::d2(filters, 3).padding(1).without_bias())
            .then(BatchNorm::default())
            .then(Activation::Relu)
            .then(Pool::max2(2));
    }
    net.then(Flatten).then(Dense::new(10))
}
