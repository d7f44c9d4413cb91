//! Layers that bring values to mean 0 and variance 1.

use netloom_ir::Tensor;
use netloom_ir::builder::Val;
use netloom_ir::ops::Window;

use super::Layer;
use crate::nn::init::Initialiser;
use crate::nn::scope::Scope;

/// Normalises each channel (axis 1) over the batch and all other axes; S. Ioffe, C. Szegedy, "Batch normalization", ICML 2015.
///
/// In training the batch's mean and variance are used, and running ones kept (the unbiased variance, as PyTorch keeps it); otherwise the
/// running ones are used. Parameters `weight` and `bias`, states `running_mean` and `running_var`, each `[channels]`.
#[derive(Clone, Copy, Debug)]
pub struct BatchNorm {
    /// The share of the new statistics in the running ones.
    pub momentum: f64,
    /// Added to the variance.
    pub epsilon: f64,
}

impl Default for BatchNorm {
    fn default() -> BatchNorm {
        BatchNorm {
            momentum: 0.1,
            epsilon: 1e-5,
        }
    }
}

impl Layer for BatchNorm {
    fn describe(&self) -> String {
        "BatchNorm".to_owned()
    }

    #[track_caller]
    fn build<'g>(&self, scope: &Scope<'g>, x: Val<'g>) -> Val<'g> {
        if x.is_poison() {
            return x;
        }
        if x.rank() < 2 {
            return scope
                .builder()
                .problem(format!("batch norm: takes [batch, channels, …], found {}", x.ty()));
        }
        let shape = x.shape();
        let channels = shape[1];
        let others: Vec<usize> = (0..x.rank()).filter(|&axis| axis != 1).collect();
        let mut along = vec![1; x.rank() - 1];
        along[0] = channels;
        let weight = scope.parameter("weight", [channels], &Initialiser::Constant(1.0));
        let bias = scope.parameter("bias", [channels], &Initialiser::Zeros);
        let running_mean = scope.state("running_mean", Tensor::zeros(x.dtype(), [channels]));
        let running_var = scope.state("running_var", Tensor::from_f32([channels], &vec![1.0; channels]));
        let (mean, variance) = if scope.is_training() {
            let mean = x.mean(others.clone());
            let centred = x - mean.reshape(along.clone());
            let variance = (centred * centred).mean(others.clone());
            let count: usize = others.iter().map(|&axis| shape[axis]).product();
            let unbiased = variance * (count as f64 / (count.max(2) - 1) as f64);
            let blend = |old: Val<'g>, new: Val<'g>| old * (1.0 - self.momentum) + new * self.momentum;
            scope.update("running_mean", blend(running_mean, mean));
            scope.update("running_var", blend(running_var, unbiased));
            (mean, variance)
        } else {
            (running_mean, running_var)
        };
        let scale = weight / (variance + self.epsilon).sqrt();
        let shift = bias - mean * scale;
        x * scale.reshape(along.clone()) + shift.reshape(along)
    }
}

/// Normalises the last axis; J. Ba, J. Kiros, G. Hinton, "Layer normalization", 2016. Parameters `weight` and `bias`, each as long as the last
/// axis.
#[derive(Clone, Copy, Debug)]
pub struct LayerNorm {
    /// Added to the variance.
    pub epsilon: f64,
}

impl Default for LayerNorm {
    fn default() -> LayerNorm {
        LayerNorm { epsilon: 1e-5 }
    }
}

impl Layer for LayerNorm {
    fn describe(&self) -> String {
        "LayerNorm".to_owned()
    }

    #[track_caller]
    fn build<'g>(&self, scope: &Scope<'g>, x: Val<'g>) -> Val<'g> {
        let shape = x.shape();
        let Some((&width, outer)) = shape.split_last() else {
            return x;
        };
        let last = outer.len();
        let kept: Vec<usize> = outer.iter().copied().chain([1]).collect();
        let weight = scope.parameter("weight", [width], &Initialiser::Constant(1.0));
        let bias = scope.parameter("bias", [width], &Initialiser::Zeros);
        let centred = x - x.mean([last]).reshape(kept.clone());
        let variance = (centred * centred).mean([last]).reshape(kept);
        centred / (variance + self.epsilon).sqrt() * weight + bias
    }
}

/// Divides each element by a power of the squares around it in neighbouring channels: `x / (k + alpha / size · Σ x²)^beta`, the sum over
/// `size` channels; A. Krizhevsky et al., "ImageNet classification with deep convolutional neural networks", NIPS 2012 (whose alpha is
/// not divided by the size).
#[derive(Clone, Copy, Debug)]
pub struct LocalResponseNorm {
    /// The number of channels in a neighbourhood: half of them before, and one fewer after if it is even.
    pub size: usize,
    /// The factor of the mean square.
    pub alpha: f64,
    /// The exponent.
    pub beta: f64,
    /// Added to the mean square.
    pub k: f64,
}

impl Layer for LocalResponseNorm {
    fn describe(&self) -> String {
        format!("LocalResponseNorm({})", self.size)
    }

    #[track_caller]
    fn build<'g>(&self, scope: &Scope<'g>, x: Val<'g>) -> Val<'g> {
        if x.is_poison() {
            return x;
        }
        if x.rank() < 2 || self.size == 0 {
            return scope.builder().problem(format!(
                "local response norm: takes [batch, channels, …] and a size of at least 1, found {x} and {}",
                self.size
            ));
        }
        // A window along the channels, axis 1 of all but the batch: 1 along the others.
        let along = |channels: usize, others: usize| {
            let mut sizes = vec![others; x.rank() - 1];
            sizes[0] = channels;
            sizes
        };
        let squares = (x * x).sum_pool(Window {
            pad_low: along(self.size / 2, 0),
            pad_high: along((self.size - 1) / 2, 0),
            ..Window::sliding(along(self.size, 1))
        });
        x / (squares * (self.alpha / self.size as f64) + self.k).pow(self.beta)
    }
}
