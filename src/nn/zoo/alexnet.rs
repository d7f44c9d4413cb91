//! AlexNet, in torchvision's form and in that of the first paper.

use super::{IMAGENET, Net, Width};
use crate::nn::layers::{Activation, AdaptiveAveragePool, Conv, Dense, Dropout, Flatten, LocalResponseNorm, Pool};
use crate::nn::{Initialiser, Sequential};

pub(super) static ALEXNET: Net = Net {
    name: "alexnet",
    about: "five convolutions and three dense layers, without groups",
    layers: || alexnet(Width::FULL, 4096, 1000),
    ..IMAGENET
};

pub(super) static ALEXNET_2012: Net = Net {
    name: "alexnet_2012",
    about: "the same as first published: in two groups, with local response normalisation",
    layers: || alexnet_2012(Width::FULL, 4096, 1000),
    example: &[3, 227, 227],
    ..IMAGENET
};

/// A. Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014, as torchvision has it.
pub fn alexnet(width: Width, units: usize, classes: usize) -> Sequential {
    let conv = |filters: usize, kernel: usize| Conv::d2(width.of(filters), kernel);
    let features = Sequential::new()
        .then(conv(64, 11).stride(4).padding(2))
        .then(Activation::Relu)
        .then(Pool::max2(3).stride(2))
        .then(conv(192, 5).padding(2))
        .then(Activation::Relu)
        .then(Pool::max2(3).stride(2))
        .then(conv(384, 3).padding(1))
        .then(Activation::Relu)
        .then(conv(256, 3).padding(1))
        .then(Activation::Relu)
        .then(conv(256, 3).padding(1))
        .then(Activation::Relu)
        .then(Pool::max2(3).stride(2));
    Sequential::new()
        .named("features", features)
        .here(AdaptiveAveragePool::new(&[6, 6]))
        .here(Flatten)
        .named("classifier", classifier(units, classes))
}

/// A. Krizhevsky, I. Sutskever, G. Hinton, "ImageNet classification with deep convolutional neural networks", NIPS 2012.
pub fn alexnet_2012(width: Width, units: usize, classes: usize) -> Sequential {
    let norm = || LocalResponseNorm {
        size: 5,
        // The paper's 1e-4 is not divided by the size.
        alpha: 5e-4,
        beta: 0.75,
        k: 2.0,
    };
    let conv = |filters: usize, kernel: usize| Conv::d2(width.of(filters), kernel);
    let features = Sequential::new()
        .then(conv(96, 11).stride(4))
        .then(Activation::Relu)
        .then(norm())
        .then(Pool::max2(3).stride(2))
        .then(conv(256, 5).padding(2).groups(2))
        .then(Activation::Relu)
        .then(norm())
        .then(Pool::max2(3).stride(2))
        .then(conv(384, 3).padding(1))
        .then(Activation::Relu)
        .then(conv(384, 3).padding(1).groups(2))
        .then(Activation::Relu)
        .then(conv(256, 3).padding(1).groups(2))
        .then(Activation::Relu)
        .then(Pool::max2(3).stride(2));
    Sequential::new()
        .named("features", features)
        .here(Flatten)
        .named("classifier", classifier(units, classes))
}

fn classifier(units: usize, classes: usize) -> Sequential {
    Sequential::new()
        .then(Dropout(0.5))
        .then(Dense::new(units).init(Initialiser::HeUniform))
        .then(Activation::Relu)
        .then(Dropout(0.5))
        .then(Dense::new(units).init(Initialiser::HeUniform))
        .then(Activation::Relu)
        .then(Dense::new(classes))
}
