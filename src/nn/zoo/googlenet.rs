//! GoogLeNet: convolutions of several sizes side by side. C. Szegedy et al., "Going deeper with convolutions", CVPR 2015.
//!
//! In training two further classifiers look at the middle of the network ([`Auxiliary`]); prediction has none.

use super::{IMAGENET, Net, Width};
use crate::nn::layers::{
    Activation, AdaptiveAveragePool, Auxiliary, BatchNorm, Block, Branches, Conv, Dense, Dropout, Flatten, GlobalPool,
    LocalResponseNorm, Pool, PoolOf,
};
use crate::nn::{Initialiser, Layer, Sequential};

pub(super) static GOOGLENET: Net = Net {
    name: "googlenet",
    about: "nine inception modules with batch normalisation",
    layers: || googlenet(Width::FULL, 1000),
    ..IMAGENET
};

pub(super) static GOOGLENET_2014: Net = Net {
    name: "googlenet_2014",
    about: "nine inception modules as first published: 5×5 convolutions, local response normalisation",
    layers: || googlenet_2014(Width::FULL, 1000),
    ..IMAGENET
};

/// The paper's table 1: the 1×1, reduced and 3×3, reduced and 5×5 channels of each module, and those behind its pooling.
const MODULES: [(&str, [usize; 6]); 9] = [
    ("inception3a", [64, 96, 128, 16, 32, 32]),
    ("inception3b", [128, 128, 192, 32, 96, 64]),
    ("inception4a", [192, 96, 208, 16, 48, 64]),
    ("inception4b", [160, 112, 224, 24, 64, 64]),
    ("inception4c", [128, 128, 256, 24, 64, 64]),
    ("inception4d", [112, 144, 288, 32, 64, 64]),
    ("inception4e", [256, 160, 320, 32, 128, 128]),
    ("inception5a", [256, 160, 320, 32, 128, 128]),
    ("inception5b", [384, 192, 384, 48, 128, 128]),
];

/// The weight of each further classifier's loss.
const AUXILIARY: f64 = 0.3;

/// As torchvision has it: batch normalisation, and 3×3 where the paper has 5×5.
pub fn googlenet(width: Width, classes: usize) -> Sequential {
    let conv = |filters: usize, kernel: usize| Conv::d2(width.of(filters), kernel);
    let stem = Sequential::new()
        .named("conv1", normalised(conv(64, 7).stride(2).padding(3)))
        .here(Pool::max2(3).stride(2).ceil())
        .named("conv2", normalised(conv(64, 1)))
        .named("conv3", normalised(conv(192, 3).padding(1)))
        .here(Pool::max2(3).stride(2).ceil());
    let last_pool = || Pool::max2(2).ceil();
    let head = || {
        auxiliary(
            AdaptiveAveragePool::new(&[4, 4]),
            normalised(conv(128, 1)),
            width,
            classes,
        )
    };
    tower(
        stem,
        last_pool,
        |channels| inception(channels.map(|count| width.of(count)), 3, normalised),
        head,
        0.2,
        classes,
    )
}

/// As published.
pub fn googlenet_2014(width: Width, classes: usize) -> Sequential {
    let norm = || LocalResponseNorm {
        size: 5,
        alpha: 1e-4,
        beta: 0.75,
        k: 1.0,
    };
    let conv = |filters: usize, kernel: usize| Conv::d2(width.of(filters), kernel);
    let stem = Sequential::new()
        .named("conv1", plain(conv(64, 7).stride(2).padding(3)))
        .here(Pool::max2(3).stride(2).ceil())
        .here(norm())
        .named("conv2", plain(conv(64, 1)))
        .named("conv3", plain(conv(192, 3).padding(1)))
        .here(norm())
        .here(Pool::max2(3).stride(2).ceil());
    let last_pool = || Pool::max2(3).stride(2).ceil();
    let head = || auxiliary(Pool::average2(5).stride(3), plain(conv(128, 1)), width, classes);
    tower(
        stem,
        last_pool,
        |channels| inception(channels.map(|count| width.of(count)), 5, plain),
        head,
        0.4,
        classes,
    )
}

/// The modules with the poolings between them, the further classifiers, and the last one.
fn tower<M: Layer + 'static, H: Layer + 'static>(
    stem: Sequential,
    last_pool: impl Fn() -> Pool,
    module: impl Fn([usize; 6]) -> M,
    head: impl Fn() -> H,
    dropped: f64,
    classes: usize,
) -> Sequential {
    let mut net = stem;
    for (name, channels) in MODULES {
        net = net.named(name, module(channels));
        net = match name {
            "inception3b" => net.here(Pool::max2(3).stride(2).ceil()),
            "inception4a" => net.named("aux1", Auxiliary::new(AUXILIARY, head())),
            "inception4d" => net.named("aux2", Auxiliary::new(AUXILIARY, head())),
            "inception4e" => net.here(last_pool()),
            _ => net,
        };
    }
    net.here(GlobalPool(PoolOf::Average))
        .here(Dropout(dropped))
        .named("fc", Dense::new(classes))
}

/// Four branches, joined; `large` is the kernel of the third.
fn inception<C: Layer + 'static>(channels: [usize; 6], large: usize, conv: impl Fn(Conv) -> C) -> impl Layer {
    let [one, reduced_3, three, reduced_5, five, pooled] = channels;
    let after = |first: C, second: C| Sequential::new().then(first).then(second);
    let pool = Pool::max2(3).stride(1).padding(1).ceil();
    let branches = Branches::new()
        .named("branch1", conv(Conv::d2(one, 1)))
        .named(
            "branch2",
            after(conv(Conv::d2(reduced_3, 1)), conv(Conv::d2(three, 3).padding(1))),
        )
        .named(
            "branch3",
            after(
                conv(Conv::d2(reduced_5, 1)),
                conv(Conv::d2(five, large).padding(large / 2)),
            ),
        )
        .named("branch4", Sequential::new().then(pool).then(conv(Conv::d2(pooled, 1))));
    Block::new(format!("Inception({})", one + three + five + pooled), branches)
}

/// A classifier for training.
fn auxiliary(pool: impl Layer + 'static, conv: impl Layer + 'static, width: Width, classes: usize) -> Sequential {
    Sequential::new()
        .here(pool)
        .named("conv", conv)
        .here(Flatten)
        .named("fc1", Dense::new(width.of(1024)).init(Initialiser::HeUniform))
        .here(Activation::Relu)
        .here(Dropout(0.7))
        .named("fc2", Dense::new(classes))
}

fn normalised(conv: Conv) -> Sequential {
    let norm = BatchNorm {
        epsilon: 1e-3,
        ..BatchNorm::default()
    };
    Sequential::new()
        .named("conv", conv.without_bias())
        .named("bn", norm)
        .here(Activation::Relu)
}

fn plain(conv: Conv) -> Sequential {
    Sequential::new().named("conv", conv).here(Activation::Relu)
}
