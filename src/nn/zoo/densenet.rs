//! DenseNet: every layer sees the results of all before it. G. Huang et al., "Densely connected convolutional networks", CVPR 2017.

use super::{IMAGENET, Net};
use crate::nn::layers::{Activation, BatchNorm, Block, Branches, Conv, Dense, GlobalPool, Pool, PoolOf};
use crate::nn::{Layer, Sequential};

pub(super) static DENSENET121: Net = Net {
    name: "densenet121",
    about: "four blocks of 6, 12, 24 and 16 densely connected layers",
    layers: || densenet(32, &[6, 12, 24, 16], 1000),
    ..IMAGENET
};

/// Blocks of so many layers, each of which adds `growth` channels; between blocks the channels and the extents are halved.
pub fn densenet(growth: usize, blocks: &[usize], classes: usize) -> Sequential {
    let mut channels = 2 * growth;
    let mut features = Sequential::new()
        .named("conv0", Conv::d2(channels, 7).stride(2).padding(3).without_bias())
        .named("norm0", BatchNorm::default())
        .here(Activation::Relu)
        .here(Pool::max2(3).stride(2).padding(1));
    for (&layers, number) in blocks.iter().zip(1..) {
        let mut block = Sequential::new();
        for layer in 1..=layers {
            block = block.named(format!("denselayer{layer}"), dense_layer(growth));
        }
        features = features.named(format!("denseblock{number}"), block);
        channels += layers * growth;
        if number < blocks.len() {
            channels /= 2;
            features = features.named(format!("transition{number}"), transition(channels));
        }
    }
    let features = features.named("norm5", BatchNorm::default()).here(Activation::Relu);
    Sequential::new()
        .named("features", features)
        .here(GlobalPool(PoolOf::Average))
        .named("classifier", Dense::new(classes))
}

/// The input, and behind its channels those of a 3×3 convolution of a 1×1 convolution of it.
fn dense_layer(growth: usize) -> impl Layer {
    let new = Sequential::new()
        .named("norm1", BatchNorm::default())
        .here(Activation::Relu)
        .named("conv1", Conv::d2(4 * growth, 1).without_bias())
        .named("norm2", BatchNorm::default())
        .here(Activation::Relu)
        .named("conv2", Conv::d2(growth, 3).padding(1).without_bias());
    let identity = Sequential::new();
    Block::new(
        format!("DenseLayer({growth})"),
        Branches::new().here(identity).here(new),
    )
}

fn transition(channels: usize) -> impl Layer {
    let layers = Sequential::new()
        .named("norm", BatchNorm::default())
        .here(Activation::Relu)
        .named("conv", Conv::d2(channels, 1).without_bias())
        .here(Pool::average2(2));
    Block::new(format!("Transition({channels})"), layers)
}
