//! SqueezeNet: AlexNet's accuracy with a fiftieth of its parameters. F. Iandola et al., "SqueezeNet", 2016.

use super::{IMAGENET, Net, Width};
use crate::nn::layers::{Activation, Block, Branches, Conv, Dropout, GlobalPool, Pool, PoolOf};
use crate::nn::{Layer, Sequential};

pub(super) static SQUEEZENET: Net = Net {
    name: "squeezenet",
    about: "eight fire modules, version 1.1",
    layers: || squeezenet(Width::FULL, 1000),
    ..IMAGENET
};

pub(super) static SQUEEZENET_1_0: Net = Net {
    name: "squeezenet_1_0",
    about: "eight fire modules as first published",
    layers: || squeezenet_1_0(Width::FULL, 1000),
    ..IMAGENET
};

/// Version 1.1, with 2.4 times fewer operations.
pub fn squeezenet(width: Width, classes: usize) -> Sequential {
    let fire = |squeezed: usize, expanded: usize| fire(width.of(squeezed), width.of(expanded));
    let features = Sequential::new()
        .then(Conv::d2(width.of(64), 3).stride(2))
        .then(Activation::Relu)
        .then(pool())
        .then(fire(16, 64))
        .then(fire(16, 64))
        .then(pool())
        .then(fire(32, 128))
        .then(fire(32, 128))
        .then(pool())
        .then(fire(48, 192))
        .then(fire(48, 192))
        .then(fire(64, 256))
        .then(fire(64, 256));
    Sequential::new()
        .named("features", features)
        .named("classifier", classifier(classes))
}

/// Version 1.0, the paper's.
pub fn squeezenet_1_0(width: Width, classes: usize) -> Sequential {
    let fire = |squeezed: usize, expanded: usize| fire(width.of(squeezed), width.of(expanded));
    let features = Sequential::new()
        .then(Conv::d2(width.of(96), 7).stride(2))
        .then(Activation::Relu)
        .then(pool())
        .then(fire(16, 64))
        .then(fire(16, 64))
        .then(fire(32, 128))
        .then(pool())
        .then(fire(32, 128))
        .then(fire(48, 192))
        .then(fire(48, 192))
        .then(fire(64, 256))
        .then(pool())
        .then(fire(64, 256));
    Sequential::new()
        .named("features", features)
        .named("classifier", classifier(classes))
}

fn pool() -> Pool {
    Pool::max2(3).stride(2).ceil()
}

/// A 1×1 convolution to few channels, then 1×1 and 3×3 convolutions side by side.
fn fire(squeezed: usize, expanded: usize) -> impl Layer {
    let expand = Branches::new()
        .named("expand1x1", Conv::d2(expanded, 1))
        .named("expand3x3", Conv::d2(expanded, 3).padding(1));
    let layers = Sequential::new()
        .named("squeeze", Conv::d2(squeezed, 1))
        .here(Activation::Relu)
        .here(expand)
        .here(Activation::Relu);
    Block::new(format!("Fire({squeezed}, {expanded})"), layers)
}

fn classifier(classes: usize) -> Sequential {
    Sequential::new()
        .then(Dropout(0.5))
        .then(Conv::d2(classes, 1))
        .then(Activation::Relu)
        .then(GlobalPool(PoolOf::Average))
}
