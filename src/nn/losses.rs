//! Losses: scalars to be made small. Each is the mean over the batch.

use netloom_ir::builder::Val;

/// What training minimises.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Loss {
    /// The mean squared difference, over all elements.
    MeanSquaredError,
    /// The mean absolute difference, over all elements.
    MeanAbsoluteError,
    /// Half the square of small differences, `delta * (|d| - delta / 2)` beyond `delta`; P. Huber, 1964.
    Huber(f64),
    /// `max(0, 1 - y * score)` for targets -1 and 1.
    Hinge,
    /// The cross entropy of targets in [0, 1] with the sigmoid of the scores, computed from the scores.
    BinaryCrossEntropy,
    /// The cross entropy of integer labels `[batch, …]` with the softmax of the scores `[batch, …, classes]`, computed from the scores.
    CategoricalCrossEntropy,
}

impl Loss {
    /// The mean loss of a batch of scores, a scalar.
    #[track_caller]
    pub fn of<'g>(self, scores: Val<'g>, target: Val<'g>) -> Val<'g> {
        self.each(scores, target).mean([0])
    }

    /// The loss of each example, `[batch]`.
    #[track_caller]
    pub fn each<'g>(self, scores: Val<'g>, target: Val<'g>) -> Val<'g> {
        if scores.is_poison() || target.is_poison() {
            return scores
                .builder()
                .problem("loss: not computed, for its operands are wrong");
        }
        if self == Loss::CategoricalCrossEntropy {
            let (shape, classes) = (target.shape(), scores.shape().last().copied().unwrap_or(0));
            if shape.len() < 2 || scores.shape()[..scores.rank() - 1] != shape {
                return scores.cross_entropy(target);
            }
            let count: usize = shape.iter().product();
            let losses = scores.reshape([count, classes]).cross_entropy(target.reshape([count]));
            return losses
                .reshape(shape.clone())
                .mean((1..shape.len()).collect::<Vec<usize>>());
        }
        if scores.shape() != target.shape() {
            let (scores_ty, target_ty) = (scores.ty(), target.ty());
            return scores.builder().problem(format!(
                "loss: scores are {scores_ty} and targets {target_ty}; the shapes must agree"
            ));
        }
        let elements = match self {
            Loss::MeanSquaredError => {
                let difference = scores - target;
                difference * difference
            }
            Loss::MeanAbsoluteError => (scores - target).abs(),
            Loss::Huber(delta) => {
                let distance = (scores - target).abs();
                let near = distance * distance * 0.5;
                let far = (distance - 0.5 * delta) * delta;
                distance.le(delta).select(near, far)
            }
            Loss::Hinge => (1.0 - scores * target).max(0.0),
            // log(1 + e^s) - t s; softplus neither overflows nor has a kink at 0.
            Loss::BinaryCrossEntropy => scores.softplus() - scores * target,
            Loss::CategoricalCrossEntropy => unreachable!("answered above"),
        };
        let rest: Vec<usize> = (1..scores.rank()).collect();
        elements.mean(rest)
    }
}
