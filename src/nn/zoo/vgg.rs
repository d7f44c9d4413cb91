//! VGG: 3×3 convolutions alone. K. Simonyan, A. Zisserman, "Very deep convolutional networks for large-scale image recognition",
//! ICLR 2015.

use super::{IMAGENET, Net};
use crate::nn::layers::{Activation, AdaptiveAveragePool, Conv, Dense, Dropout, Flatten, Pool};
use crate::nn::{Initialiser, Sequential};

pub(super) static VGG16: Net = Net {
    name: "vgg16",
    about: "thirteen 3×3 convolutions and three dense layers",
    layers: || vgg(&D, 4096, 1000),
    ..IMAGENET
};

pub(super) static VGG19: Net = Net {
    name: "vgg19",
    about: "sixteen 3×3 convolutions and three dense layers",
    layers: || vgg(&E, 4096, 1000),
    ..IMAGENET
};

/// The paper's configuration D, VGG-16: convolutions and channels between poolings.
const D: [(usize, usize); 5] = [(2, 64), (2, 128), (3, 256), (3, 512), (3, 512)];
/// Configuration E, VGG-19.
const E: [(usize, usize); 5] = [(2, 64), (2, 128), (4, 256), (4, 512), (4, 512)];

/// Stages of so many convolutions with so many channels, each ending in a pooling; then three dense layers.
pub fn vgg(stages: &[(usize, usize)], units: usize, classes: usize) -> Sequential {
    let mut features = Sequential::new();
    for &(convolutions, channels) in stages {
        for _ in 0..convolutions {
            features = features.then(Conv::d2(channels, 3).padding(1)).then(Activation::Relu);
        }
        features = features.then(Pool::max2(2));
    }
    let classifier = Sequential::new()
        .then(Dense::new(units).init(Initialiser::HeUniform))
        .then(Activation::Relu)
        .then(Dropout(0.5))
        .then(Dense::new(units).init(Initialiser::HeUniform))
        .then(Activation::Relu)
        .then(Dropout(0.5))
        .then(Dense::new(classes));
    Sequential::new()
        .named("features", features)
        .here(AdaptiveAveragePool::new(&[7, 7]))
        .here(Flatten)
        .named("classifier", classifier)
}
