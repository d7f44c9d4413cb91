//! MobileNetV2: convolutions of one channel each between 1×1 ones. M. Sandler et al., "MobileNetV2: inverted residuals and linear
//! bottlenecks", CVPR 2018.

use super::{IMAGENET, Net};
use crate::nn::layers::{Activation, BatchNorm, Block, Conv, Dense, Dropout, GlobalPool, PoolOf, Residual};
use crate::nn::{Layer, Sequential};

pub(super) static MOBILENET_V2: Net = Net {
    name: "mobilenet_v2",
    about: "seventeen inverted residual blocks",
    layers: || mobilenet_v2(1000),
    ..IMAGENET
};

/// The paper's table 2: expansion, channels, blocks, stride of the first.
const STAGES: [(usize, usize, usize, usize); 7] = [
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
];

/// The whole network at width 1.
pub fn mobilenet_v2(classes: usize) -> Sequential {
    let mut features = Sequential::new().then(normalised(Conv::d2(32, 3).stride(2).padding(1)));
    let mut channels = 32;
    for (expansion, width, blocks, first_stride) in STAGES {
        for place in 0..blocks {
            let stride = if place == 0 { first_stride } else { 1 };
            features = features.then(inverted_residual(channels, expansion, width, stride));
            channels = width;
        }
    }
    let features = features.then(normalised(Conv::d2(1280, 1)));
    let classifier = Sequential::new().then(Dropout(0.2)).then(Dense::new(classes));
    Sequential::new()
        .named("features", features)
        .here(GlobalPool(PoolOf::Average))
        .named("classifier", classifier)
}

/// Widened by 1×1, filtered channel by channel, narrowed by 1×1 without activation; with a way around where the shapes agree.
fn inverted_residual(channels: usize, expansion: usize, width: usize, stride: usize) -> impl Layer {
    let hidden = channels * expansion;
    let mut layers = Sequential::new();
    if expansion != 1 {
        layers = layers.then(normalised(Conv::d2(hidden, 1)));
    }
    let layers = layers
        .then(normalised(Conv::d2(hidden, 3).stride(stride).padding(1).groups(hidden)))
        .then(Conv::d2(width, 1).without_bias())
        .then(BatchNorm::default());
    let block = Sequential::new().named("conv", layers);
    let name = format!("InvertedResidual({hidden}, {width})");
    if stride == 1 && channels == width {
        Block::new(name, Residual::around(block))
    } else {
        Block::new(name, block)
    }
}

fn normalised(conv: Conv) -> Sequential {
    Sequential::new()
        .then(conv.without_bias())
        .then(BatchNorm::default())
        .then(Activation::Relu6)
}
