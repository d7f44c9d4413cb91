//! What was there before deep networks, to compare them with.
//!
//! Reading order: [`pca`].

pub mod pca;

pub use pca::Pca;

use netloom_ir::Tensor;

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
