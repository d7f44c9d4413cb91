//! Support vector machines, one against the rest, trained and applied as compiled graphs.
//!
//! By the representer theorem the best function is `f(x) = Σ a_j k(x_j, x)`; in the space of such functions the objective
//! `|f|² / 2 + c Σ max(0, 1 - y f(x))²` has the gradient `a - 2 c y max(0, 1 - y f(x))`, which Nesterov's method follows: strongly convex,
//! so the error falls geometrically. The squared hinge is that of liblinear's default. A constant added to the kernel serves as the bias.

use netloom_ir::builder::{Builder, Val};
use netloom_ir::ops::compound::Steps;
use netloom_ir::{DType, Program, Tensor};

use super::{as_rows, classified, rows};
use crate::compile::compile;
use crate::device::Device;
use crate::error::Error;
use crate::session::Session;
use crate::train::dataset::Dataset;
use crate::train::metrics::best_classes;
use crate::train::model::in_batches;

/// How alike two examples are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kernel {
    /// `x · y`: the boundary is a plane.
    Linear,
    /// `exp(-gamma |x - y|²)`.
    Rbf {
        /// One over twice the square of the bumps' width.
        gamma: f64,
    },
}

impl Kernel {
    /// The likeness of each row of `x` with each row of `y`.
    fn of<'g>(self, x: Val<'g>, y: Val<'g>) -> Val<'g> {
        let product = x.matmul(y.transpose());
        let likeness = match self {
            Kernel::Linear => product,
            Kernel::Rbf { gamma } => {
                let square = |x: Val<'g>| (x * x).sum([1]);
                let distance = square(x).unsqueeze([1]) + square(y) - product * 2.0;
                (distance * -gamma).exp()
            }
        };
        likeness + 1.0
    }
}

/// A trained machine.
pub struct Svm {
    session: Session,
    width: usize,
    coefficients: Tensor,
}

/// Examples that are judged at once.
const BATCH: usize = 32;
/// Steps of Nesterov's method. With the step 1 / L and strong convexity 1 the error falls by `1 - √(1 / L)` a step; L is about twice
/// c times the number of examples, so this suffices for some thousands.
const STEPS: usize = 500;
const TRAIN: &str = "train";
const SCORES: &str = "scores";

impl Svm {
    /// Finds the best function of each class; `c` is the weight of the errors.
    ///
    /// # Errors
    /// If the targets are no classes, or the device fails.
    pub fn fit(data: &Dataset, kernel: Kernel, c: f64, device: &Device, threads: usize) -> Result<Svm, Error> {
        let (known, count, width) = classified(data)?;
        let classes = data.classes();
        let b = Builder::new();
        let x = b.input("x", DType::F32, [count, width]);
        let signs = b.input("labels", DType::I64, [count]).one_hot(classes, DType::F32) * 2.0 - 1.0;
        let likeness = kernel.of(x, x);
        // The greatest eigenvalue is at most the greatest sum of a row.
        let smoothness = likeness.abs().sum([1]).max_over([0]) * (2.0 * c) + 1.0;
        let root = smoothness.sqrt();
        let start = b.full(DType::F32, [count, classes], 0.0);
        let steps = Steps {
            length: STEPS,
            carried: vec![start, start],
            sliced: Vec::new(),
            constants: vec![likeness, signs, smoothness, (root - 1.0) / (root + 1.0)],
            reverse: false,
        };
        let (last, _) = b.scan(steps, |_, step| {
            let &[likeness, signs, smoothness, momentum] = step.constants.as_slice() else {
                unreachable!("four constants were given")
            };
            let (at, ahead) = (step.carried[0], step.carried[1]);
            let slack = (1.0 - signs * likeness.matmul(ahead)).max(0.0);
            let next = ahead - (ahead - signs * slack * (2.0 * c)) / smoothness;
            (vec![next, next + (next - at) * momentum], Vec::new())
        });
        let program = Program::pure(TRAIN, b.finish([("coefficients", last[0])])?);
        let mut session = Session::new(compile(&program, device)?.into(), threads, 0)?;
        let results = session.call(TRAIN, &[("x", &known), ("labels", &data.targets)])?;
        let coefficients = results[0].1.clone();

        let b = Builder::new();
        let x = b.input("x", DType::F32, [BATCH, width]);
        let scores = kernel.of(x, b.constant(known)).matmul(b.constant(coefficients.clone()));
        let program = Program::pure(SCORES, b.finish([(SCORES, scores)])?);
        let session = Session::new(compile(&program, device)?.into(), threads, 0)?;
        Ok(Svm {
            session,
            width,
            coefficients,
        })
    }

    /// How much each example counts in the function of each class, `[examples, classes]`: 0 for all but the support vectors.
    pub fn coefficients(&self) -> &Tensor {
        &self.coefficients
    }

    /// What each class's function says of each example, `[n, classes]`: positive for yes.
    ///
    /// # Errors
    /// If the examples are not like those of the training.
    pub fn scores(&mut self, inputs: &Tensor) -> Result<Tensor, Error> {
        let (count, width) = rows(inputs)?;
        if width != self.width {
            let message = format!(
                "support vectors: {} values in an example are needed, found {}",
                self.width,
                inputs.ty()
            );
            return Err(Error::Usage(message));
        }
        in_batches(&mut self.session, SCORES, BATCH, &as_rows(inputs, count, width))
    }

    /// The class of each example.
    ///
    /// # Errors
    /// As [`Svm::scores`].
    pub fn predict(&mut self, inputs: &Tensor) -> Result<Vec<usize>, Error> {
        Ok(best_classes(&self.scores(inputs)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cpu;

    fn data() -> Dataset {
        let points = Tensor::from_f32([4, 2], &[-1.0, -1.0, 1.0, 1.0, -1.0, 1.0, 1.0, -1.0]);
        Dataset::new(points, Tensor::from_i64([4], &[0, 0, 1, 1])).unwrap()
    }

    /// No plane divides the exclusive or; bumps do.
    #[test]
    fn bumps_solve_the_exclusive_or_and_planes_do_not() {
        let device = Cpu::native().into();
        let data = data();
        let right = |kernel: Kernel| {
            let mut svm = Svm::fit(&data, kernel, 10.0, &device, 1).unwrap();
            let found = svm.predict(&data.inputs).unwrap();
            found
                .iter()
                .zip(data.targets.to_i64())
                .filter(|(a, b)| **a as i64 == *b)
                .count()
        };
        assert_eq!(right(Kernel::Rbf { gamma: 0.5 }), 4);
        assert!(right(Kernel::Linear) < 4);
    }

    /// At the optimum the gradient is zero: `a = 2 c y max(0, 1 - y f)`.
    #[test]
    fn the_optimum_is_reached() {
        let device = Cpu::native().into();
        let data = data();
        let c = 3.0;
        let mut svm = Svm::fit(&data, Kernel::Rbf { gamma: 0.3 }, c, &device, 1).unwrap();
        let scores = svm.scores(&data.inputs).unwrap().to_f32();
        let labels = data.targets.to_i64();
        for (at, &a) in svm.coefficients().to_f32().iter().enumerate() {
            let y = if labels[at / 2] == (at % 2) as i64 { 1.0 } else { -1.0 };
            let wanted = 2.0 * c * y * (1.0 - y * f64::from(scores[at])).max(0.0);
            assert!((f64::from(a) - wanted).abs() < 1e-3, "{at}: {a}, wanted {wanted}");
        }
    }
}
