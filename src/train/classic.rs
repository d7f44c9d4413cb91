//! What was there before deep networks, or feeds on what they find: to compare them with, and to build upon.
//!
//! Principal components stand on nalgebra; Boltzmann machines, nearest neighbours and support vector machines are graphs like any
//! network, compiled for any device; naive Bayes counts.
//!
//! Reading order: [`pca`], [`rbm`], [`neighbours`], [`svm`], [`bayes`].

pub mod bayes;
pub mod neighbours;
pub mod pca;
pub mod rbm;
pub mod svm;

pub use bayes::NaiveBayes;
pub use neighbours::Neighbours;
pub use pca::Pca;
pub use rbm::{Chains, Rbm, RbmEpoch, RbmOptions, Visible};
pub use svm::{Kernel, Svm};

use netloom_ir::{DType, Tensor};

use super::dataset::Dataset;
use crate::error::Error;

/// The number of examples, and of values in each, whatever their shape.
fn rows(data: &Tensor) -> Result<(usize, usize), Error> {
    match data.shape() {
        [count, rest @ ..] if *count > 0 => Ok((*count, rest.iter().product())),
        _ => Err(Error::Usage(format!(
            "at least one example is needed, found {}",
            data.ty()
        ))),
    }
}

/// The examples as `f32` rows, and how many they are and how long; the targets must be classes.
fn classified(data: &Dataset) -> Result<(Tensor, usize, usize), Error> {
    let (count, width) = rows(&data.inputs)?;
    if data.targets.dtype() != DType::I64 || data.targets.shape().len() != 1 {
        return Err(Error::Usage(format!(
            "classes are needed as targets, found {}",
            data.targets.ty()
        )));
    }
    Ok((as_rows(&data.inputs, count, width), count, width))
}

fn as_rows(inputs: &Tensor, count: usize, width: usize) -> Tensor {
    Tensor::from_f32([count, width], &inputs.to_f32())
}
