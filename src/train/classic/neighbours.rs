//! The k nearest neighbours: an example is what most of the examples like it are.
//!
//! T. Cover, P. Hart, "Nearest neighbor pattern classification", 1967. One compiled kernel chain: distances as a matrix product, a
//! partial sort, votes.

use netloom_ir::builder::Builder;
use netloom_ir::{DType, Program, Tensor};

use super::{as_rows, classified, rows};
use crate::compile::compile;
use crate::device::Device;
use crate::error::Error;
use crate::session::Session;
use crate::train::dataset::Dataset;
use crate::train::metrics::best_classes;
use crate::train::model::in_batches;

/// Examples that are remembered, and the compiled search among them.
pub struct Neighbours {
    session: Session,
    width: usize,
}

/// Examples that are looked up at once.
const BATCH: usize = 32;
const VOTES: &str = "votes";

impl Neighbours {
    /// Remembers the examples; `k` of them will vote. Among equally many votes the lowest class wins.
    ///
    /// # Errors
    /// If the targets are no classes, or there are fewer than `k` examples, or `k` is 0.
    pub fn fit(data: &Dataset, k: usize, device: &Device, threads: usize) -> Result<Neighbours, Error> {
        let (known, count, width) = classified(data)?;
        if k == 0 || k > count {
            return Err(Error::Usage(format!("of {count} examples, {k} cannot be the nearest")));
        }
        let b = Builder::new();
        let x = b.input("x", DType::F32, [BATCH, width]);
        let (known, labels) = (b.constant(known), b.constant(data.targets.clone()));
        // |x - y|² without |x|², which is the same for all y.
        let distance = (known * known).sum([1]) - x.matmul(known.transpose()) * 2.0;
        let (_, nearest) = (-distance).top_k(k, 1);
        let votes = labels.gather(nearest, 0).one_hot(data.classes(), DType::F32).sum([1]);
        let program = Program::pure(VOTES, b.finish([(VOTES, votes)])?);
        let session = Session::new(compile(&program, device)?.into(), threads, 0)?;
        Ok(Neighbours { session, width })
    }

    /// The class of each example.
    ///
    /// # Errors
    /// If the examples are not like those remembered.
    pub fn predict(&mut self, inputs: &Tensor) -> Result<Vec<usize>, Error> {
        let (count, width) = rows(inputs)?;
        if width != self.width {
            let message = format!(
                "nearest neighbours: {} values in an example are needed, found {}",
                self.width,
                inputs.ty()
            );
            return Err(Error::Usage(message));
        }
        Ok(best_classes(&in_batches(
            &mut self.session,
            VOTES,
            BATCH,
            &as_rows(inputs, count, width),
        )?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cpu;

    #[test]
    fn the_majority_of_the_nearest_wins() {
        let line = Tensor::from_f32([5, 1], &[0.0, 1.0, 2.0, 10.0, 11.0]);
        let data = Dataset::new(line, Tensor::from_i64([5], &[0, 0, 1, 2, 2])).unwrap();
        let device = Cpu::native().into();
        let queries = Tensor::from_f32([3, 1], &[1.9, 0.4, 10.4]);
        for (k, expected) in [(1, [1, 0, 2]), (3, [0, 0, 2])] {
            let mut neighbours = Neighbours::fit(&data, k, &device, 1).unwrap();
            assert_eq!(neighbours.predict(&queries).unwrap(), expected);
        }
        assert!(Neighbours::fit(&data, 6, &device, 1).is_err());
    }
}
