//! ResNet: blocks with a way around them. K. He, X. Zhang, S. Ren, J. Sun, "Deep residual learning for image recognition", CVPR 2016.

use super::{IMAGENET, Net, Width, classify};
use crate::nn::layers::{Activation, BatchNorm, Block, Conv, Dense, GlobalPool, Pool, PoolOf, Residual};
use crate::nn::{Layer, Optimiser, Sequential};

pub(super) static RESNET18: Net = Net {
    name: "resnet18",
    about: "eight blocks of two 3×3 convolutions",
    layers: || resnet(Kind::Basic, [2, 2, 2, 2], Width::FULL, 1000),
    trained_as: Some("resnet18_cifar"),
    ..IMAGENET
};

pub(super) static RESNET18_CIFAR: Net = Net {
    name: "resnet18_cifar",
    about: "the same for pictures of 32×32: a smaller first convolution, no pooling after it",
    layers: || resnet_small(Kind::Basic, [2, 2, 2, 2], Width::FULL, 10),
    example: &[3, 32, 32],
    target: None,
    batch: 32,
    training: || classify(Optimiser::Momentum(0.9)),
    trained_as: None,
};

pub(super) static RESNET18_IMAGENET: Net = Net {
    name: "resnet18_imagenet",
    about: "the same, for pictures of 224×224 in training too",
    layers: RESNET18.layers,
    ..IMAGENET
};

pub(super) static RESNET34: Net = Net {
    name: "resnet34",
    about: "sixteen blocks of two 3×3 convolutions",
    layers: || resnet(Kind::Basic, [3, 4, 6, 3], Width::FULL, 1000),
    ..IMAGENET
};

pub(super) static RESNET50: Net = Net {
    name: "resnet50",
    about: "sixteen blocks of 1×1, 3×3 and 1×1 convolutions",
    layers: || resnet(Kind::Bottleneck, [3, 4, 6, 3], Width::FULL, 1000),
    ..IMAGENET
};

/// What the blocks of a ResNet are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Two 3×3 convolutions.
    Basic,
    /// 1×1, 3×3 and 1×1 convolutions, the last four times as wide.
    Bottleneck,
}

/// Four stages of so many blocks each, for pictures of about 224×224.
pub fn resnet(kind: Kind, blocks: [usize; 4], width: Width, classes: usize) -> Sequential {
    let stem = Sequential::new()
        .named("conv1", conv(width.of(64), 7).stride(2).padding(3))
        .named("bn1", BatchNorm::default())
        .here(Activation::Relu)
        .here(Pool::max2(3).stride(2).padding(1));
    stages(stem, kind, blocks, width, classes)
}

/// The same for pictures of about 32×32.
pub fn resnet_small(kind: Kind, blocks: [usize; 4], width: Width, classes: usize) -> Sequential {
    let stem = Sequential::new()
        .named("conv1", conv(width.of(64), 3).padding(1))
        .named("bn1", BatchNorm::default())
        .here(Activation::Relu);
    stages(stem, kind, blocks, width, classes)
}

fn stages(mut net: Sequential, kind: Kind, blocks: [usize; 4], width: Width, classes: usize) -> Sequential {
    let mut channels = width.of(64);
    for ((count, inner), number) in blocks.into_iter().zip([64, 128, 256, 512]).zip(1..) {
        let inner = width.of(inner);
        let mut stage = Sequential::new();
        for place in 0..count {
            let stride = if place == 0 && number > 1 { 2 } else { 1 };
            stage = stage.then(block(kind, channels, inner, stride));
            channels = kind.expansion() * inner;
        }
        net = net.named(format!("layer{number}"), stage);
    }
    net.here(GlobalPool(PoolOf::Average)).named("fc", Dense::new(classes))
}

impl Kind {
    /// How many times wider a block's result is than its inner convolutions.
    fn expansion(self) -> usize {
        match self {
            Kind::Basic => 1,
            Kind::Bottleneck => 4,
        }
    }
}

/// `relu(convolutions(x) + x)`, with a 1×1 convolution on the way around where the shapes differ.
fn block(kind: Kind, channels: usize, width: usize, stride: usize) -> impl Layer {
    let out = kind.expansion() * width;
    let inner = match kind {
        Kind::Basic => Sequential::new()
            .named("conv1", conv(width, 3).stride(stride).padding(1))
            .named("bn1", BatchNorm::default())
            .here(Activation::Relu)
            .named("conv2", conv(width, 3).padding(1))
            .named("bn2", BatchNorm::default()),
        Kind::Bottleneck => Sequential::new()
            .named("conv1", conv(width, 1))
            .named("bn1", BatchNorm::default())
            .here(Activation::Relu)
            .named("conv2", conv(width, 3).stride(stride).padding(1))
            .named("bn2", BatchNorm::default())
            .here(Activation::Relu)
            .named("conv3", conv(out, 1))
            .named("bn3", BatchNorm::default()),
    };
    let mut sum = Residual::around(inner);
    if stride != 1 || channels != out {
        let projection = Sequential::new()
            .then(conv(out, 1).stride(stride))
            .then(BatchNorm::default());
        sum = sum.shortcut("downsample", projection);
    }
    Block::new(
        format!("{kind:?}({width})"),
        Sequential::new().here(sum).here(Activation::Relu),
    )
}

fn conv(filters: usize, kernel: usize) -> Conv {
    Conv::d2(filters, kernel).without_bias()
}
