//! Networks by name: one file a family, each network a function from its sizes to layers.
//!
//! Parameters have PyTorch's names: the parts of a network are called as torchvision calls them, or numbered where it numbers them, and
//! what a layer asks for is called as PyTorch calls it (`weight`, `bias`, `running_mean`, `running_var`). So weights that torchvision
//! saved load by name; [`weights`] says what differs.

pub mod alexnet;
pub mod convnet;
pub mod densenet;
pub mod googlenet;
pub mod lenet;
pub mod mobilenet;
pub mod recurrent;
pub mod resnet;
pub mod small;
pub mod squeezenet;
pub mod vgg;
pub mod weights;

use netloom_ir::{DType, Type};

use super::layers::Sequential;
use super::{Loss, Optimiser, Rate, Training};
use crate::error::Error;

pub use weights::from_torch;

/// A network with the task it is usually given.
#[derive(Clone, Copy, Debug)]
pub struct Net {
    /// The name.
    pub name: &'static str,
    /// What it is, in one line.
    pub about: &'static str,
    /// Its layers.
    pub layers: fn() -> Sequential,
    /// One example: element type and shape, without the batch.
    pub example: &'static [usize],
    /// One target: `None` is a class label, otherwise `f32` values of this shape.
    pub target: Option<&'static [usize]>,
    /// Examples in a batch of training.
    pub batch: usize,
    /// The usual training.
    pub training: fn() -> Training,
    /// The network that is meant where one of this name is to be trained, if not itself: the form for small pictures.
    pub trained_as: Option<&'static str>,
}

impl Net {
    /// The type of a batch of examples.
    pub fn input(&self, batch: usize) -> Type {
        Type::new(DType::F32, with_batch(batch, self.example))
    }

    /// The type of a batch of targets.
    pub fn target(&self, batch: usize) -> Type {
        match self.target {
            None => Type::new(DType::I64, [batch]),
            Some(shape) => Type::new(DType::F32, with_batch(batch, shape)),
        }
    }

    /// The network that is meant where this one is to be trained.
    pub fn for_training(&'static self) -> &'static Net {
        let meant = NETS.iter().copied().find(|net| Some(net.name) == self.trained_as);
        meant.unwrap_or(self)
    }
}

/// How wide a network is: every inner layer has this share of the channels or units of its published form. A. Howard et al., "MobileNets", 2017, call it
/// the width multiplier.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Width(pub f64);

impl Width {
    /// As published.
    pub const FULL: Width = Width(1.0);

    /// The number of channels where the published form has so many; at least one.
    pub fn of(self, channels: usize) -> usize {
        ((channels as f64 * self.0).round() as usize).max(1)
    }
}

fn with_batch(batch: usize, shape: &[usize]) -> Vec<usize> {
    std::iter::once(batch).chain(shape.iter().copied()).collect()
}

/// Every network.
pub static NETS: &[&Net] = &[
    &small::TINY,
    &small::MLP,
    &small::AUTOENCODER,
    &lenet::LENET,
    &convnet::CONVNET,
    &recurrent::LSTM,
    &alexnet::ALEXNET,
    &alexnet::ALEXNET_2012,
    &vgg::VGG16,
    &vgg::VGG19,
    &resnet::RESNET18,
    &resnet::RESNET18_CIFAR,
    &resnet::RESNET18_IMAGENET,
    &resnet::RESNET34,
    &resnet::RESNET50,
    &squeezenet::SQUEEZENET,
    &squeezenet::SQUEEZENET_1_0,
    &googlenet::GOOGLENET,
    &googlenet::GOOGLENET_2014,
    &mobilenet::MOBILENET_V2,
    &densenet::DENSENET121,
];

/// What the networks for ImageNet have in common.
const IMAGENET: Net = Net {
    name: "",
    about: "",
    layers: Sequential::new,
    example: &[3, 224, 224],
    target: None,
    batch: 32,
    training: || classify(Optimiser::Momentum(0.9)),
    trained_as: None,
};

/// The training of a classifier.
fn classify(optimiser: Optimiser) -> Training {
    Training::new(Loss::CategoricalCrossEntropy, optimiser, Rate::Constant(0.01))
}

/// The network of that name.
///
/// # Errors
/// If there is none; the message names the nearest.
pub fn find(name: &str) -> Result<&'static Net, Error> {
    let found = NETS.iter().copied().find(|net| net.name == name);
    found.ok_or_else(|| {
        let mut names: Vec<&str> = NETS.iter().map(|net| net.name).collect();
        names.sort_by_key(|known| strsim::damerau_levenshtein(name, known));
        Error::Unknown(format!(
            "there is no network `{name}`; did you mean {}?",
            names[..names.len().min(3)].join(", ")
        ))
    })
}
