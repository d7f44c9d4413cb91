//! Optimisers: from a parameter and its gradient to the parameter's next value, as graph.

use netloom_ir::builder::Val;
use netloom_ir::{DType, Tensor};

use super::scope::Scope;

/// A rule for updating parameters. Moments and the like are states beside the parameter, named `PARAMETER.momentum` and so on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Optimiser {
    /// Gradient descent: `w -= rate * g`.
    Sgd,
    /// With momentum: `v = momentum * v + g; w -= rate * v` (PyTorch's form).
    Momentum(f64),
    /// Nesterov's: `v = momentum * v + g; w -= rate * (g + momentum * v)`; I. Sutskever et al., ICML 2013.
    Nesterov(f64),
    /// Divides by a running root mean square: `s = decay * s + (1 - decay) * g²; w -= rate * g / (√s + epsilon)`; T. Hinton, 2012.
    RmsProp {
        /// The share of the past in the running mean.
        decay: f64,
        /// Added to the root.
        epsilon: f64,
    },
    /// Divides by the root of the sum of all squares: `s += g²; w -= rate * g / (√s + epsilon)`; J. Duchi et al., JMLR 2011.
    Adagrad {
        /// Added to the root.
        epsilon: f64,
    },
    /// Bias-corrected first and second moments; D. Kingma, J. Ba, "Adam", ICLR 2015.
    Adam {
        /// The share of the past in the first moment.
        beta1: f64,
        /// The share of the past in the second moment.
        beta2: f64,
        /// Added to the root of the second moment.
        epsilon: f64,
    },
    /// Adam with weight decay apart from the gradient: `w -= rate * decay * w` besides; I. Loshchilov, F. Hutter, ICLR 2019.
    AdamW {
        /// The share of the past in the first moment.
        beta1: f64,
        /// The share of the past in the second moment.
        beta2: f64,
        /// Added to the root of the second moment.
        epsilon: f64,
        /// The share of each weight that is taken away, times the rate.
        decay: f64,
    },
}

impl Optimiser {
    /// Adam with the paper's constants.
    pub fn adam() -> Optimiser {
        Optimiser::Adam {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
        }
    }

    /// The next value of `parameter`, given its gradient and the learning rate, an `f32` scalar.
    pub fn next<'g>(
        self,
        scope: &Scope<'g>,
        name: &str,
        parameter: Val<'g>,
        gradient: Val<'g>,
        rate: Val<'g>,
    ) -> Val<'g> {
        let scope = scope.enter(name);
        let moment = |name: &str| scope.state(name, Tensor::zeros(DType::F32, parameter.shape()));
        match self {
            Optimiser::Sgd => parameter - gradient * rate,
            Optimiser::Momentum(momentum) => {
                let velocity = moment("momentum") * momentum + gradient;
                scope.update("momentum", velocity);
                parameter - velocity * rate
            }
            Optimiser::Nesterov(momentum) => {
                let velocity = moment("momentum") * momentum + gradient;
                scope.update("momentum", velocity);
                parameter - (gradient + velocity * momentum) * rate
            }
            Optimiser::RmsProp { decay, epsilon } => {
                let square = moment("square") * decay + gradient * gradient * (1.0 - decay);
                scope.update("square", square);
                parameter - gradient * rate / (square.sqrt() + epsilon)
            }
            Optimiser::Adagrad { epsilon } => {
                let square = moment("square") + gradient * gradient;
                scope.update("square", square);
                parameter - gradient * rate / (square.sqrt() + epsilon)
            }
            Optimiser::Adam { beta1, beta2, epsilon } => {
                parameter - adam(&scope, &moment, gradient, [beta1, beta2, epsilon], rate)
            }
            Optimiser::AdamW {
                beta1,
                beta2,
                epsilon,
                decay,
            } => {
                let kept = parameter * (1.0 - rate * decay);
                kept - adam(&scope, &moment, gradient, [beta1, beta2, epsilon], rate)
            }
        }
    }
}

/// Adam's step; see [`Optimiser::Adam`].
fn adam<'g>(
    scope: &Scope<'g>,
    moment: &dyn Fn(&str) -> Val<'g>,
    gradient: Val<'g>,
    [beta1, beta2, epsilon]: [f64; 3],
    rate: Val<'g>,
) -> Val<'g> {
    let first = moment("first") * beta1 + gradient * (1.0 - beta1);
    let second = moment("second") * beta2 + gradient * gradient * (1.0 - beta2);
    scope.update("first", first);
    scope.update("second", second);
    // The corrections 1 - βᵗ depend on the step alone: scalars, computed once a run. The second's root, by which the root of each element
    // would be divided, multiplies the fraction instead (the end of Kingma and Ba's section 2).
    let steps = scope.step().cast(DType::F32) + 1.0;
    let correction = |beta: f64| -(steps * beta.ln()).expm1();
    let root = correction(beta2).sqrt();
    let size = rate * root / correction(beta1);
    first * size / (second.sqrt() + root * epsilon)
}

/// The learning rate as a function of the number of steps done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    /// Always the same.
    Constant(f64),
    /// `start * factor^(step / every)`, the exponent a whole number.
    Steps {
        /// The first rate.
        start: f64,
        /// What it is multiplied by.
        factor: f64,
        /// Steps between multiplications.
        every: u64,
    },
    /// `start * factor^(step / every)`, smoothly.
    Exponential {
        /// The first rate.
        start: f64,
        /// What it is multiplied by.
        factor: f64,
        /// Steps after which it has been multiplied once.
        every: u64,
    },
    /// Half a cosine from `start` to `end` over `steps`, then `end`; with a linear rise from 0 over the first `warm_up` steps. I. Loshchilov,
    /// F. Hutter, "SGDR", ICLR 2017.
    Cosine {
        /// The greatest rate.
        start: f64,
        /// The last rate.
        end: f64,
        /// The length.
        steps: u64,
        /// Steps of rising.
        warm_up: u64,
    },
}

impl Rate {
    /// The rate of this run, an `f32` scalar.
    pub fn now<'g>(self, scope: &Scope<'g>) -> Val<'g> {
        let step = || scope.step().cast(DType::F32);
        match self {
            Rate::Constant(rate) => scope.builder().scalar(DType::F32, rate),
            Rate::Steps { start, factor, every } => {
                ((step() / every.max(1) as f64).floor() * factor.ln()).exp() * start
            }
            Rate::Exponential { start, factor, every } => (step() * (factor.ln() / every.max(1) as f64)).exp() * start,
            Rate::Cosine {
                start,
                end,
                steps,
                warm_up,
            } => {
                let rise = ((step() + 1.0) / warm_up.max(1) as f64).min(1.0);
                let progress = ((step() - warm_up as f64) / steps.max(1) as f64).max(0.0).min(1.0);
                let fall = (progress * std::f64::consts::PI).cos() * (0.5 * (start - end)) + 0.5 * (start + end);
                fall * rise
            }
        }
    }
}
