//! Layers without parameters: activations and dropout.

use netloom_ir::DType;
use netloom_ir::builder::Val;

use super::Layer;
use crate::nn::scope::Scope;

/// An elementwise function, or the softmax of the last axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// 1 where `x > 0`, else 0; its gradient is 0.
    Step,
    /// Hyperbolic tangent.
    Tanh,
    /// `1 / (1 + e^-x)`.
    Sigmoid,
    /// `max(x, 0)`.
    Relu,
    /// `min(max(x, 0), 6)`.
    Relu6,
    /// `x` where positive, else this slope times `x`.
    LeakyRelu(f64),
    /// `x Φ(x)`, with the error function.
    Gelu,
    /// `x sigmoid(x)`.
    Silu,
    /// `log(1 + e^x)`.
    Softplus,
    /// `e^x` over its sum along the last axis.
    Softmax,
}

impl Layer for Activation {
    fn describe(&self) -> String {
        format!("{self:?}")
    }

    #[track_caller]
    fn build<'g>(&self, scope: &Scope<'g>, x: Val<'g>) -> Val<'g> {
        let y = self.of(x);
        if scope.is_training()
            && !y.is_poison()
            && let Some(share) = self.quiet_share(x, y)
        {
            scope.observe(self.describe(), share);
        }
        y
    }
}

impl Activation {
    /// The function of a value.
    #[track_caller]
    pub fn of<'g>(self, x: Val<'g>) -> Val<'g> {
        match self {
            Activation::Step => x.step(),
            Activation::Tanh => x.tanh(),
            Activation::Sigmoid => x.sigmoid(),
            Activation::Relu => x.relu(),
            Activation::Relu6 => x.relu6(),
            Activation::LeakyRelu(slope) => x.leaky_relu(slope),
            Activation::Gelu => x.gelu(),
            Activation::Silu => x.silu(),
            Activation::Softplus => x.softplus(),
            Activation::Softmax => x.softmax(x.rank().saturating_sub(1)),
        }
    }

    /// Of results `y` for `x`, both `[batch, …]`, the share that passes no gradient on: of ReLUs those units that are 0 for the whole batch
    /// ("dead"), of sigmoid and tanh those elements whose slope is below a twentieth of the steepest ("saturated"). `None` for other functions.
    fn quiet_share<'g>(self, x: Val<'g>, y: Val<'g>) -> Option<Val<'g>> {
        let share = |quiet: Val<'g>| {
            let axes: Vec<usize> = (0..quiet.rank()).collect();
            quiet.cast(DType::F32).mean(axes)
        };
        match self {
            Activation::Relu | Activation::Relu6 => {
                // Told from `x`, which is stored for the gradient; `y` may never be.
                Some(share(x.max_over([0]).le(0.0)))
            }
            Activation::Sigmoid => Some(share((y * (1.0 - y)).lt(0.25 / 20.0))),
            Activation::Tanh => Some(share((1.0 - y * y).lt(1.0 / 20.0))),
            _ => None,
        }
    }
}

/// In training, zeroes each element with this probability and divides the others by the probability of staying, so that the mean is
/// kept; otherwise does nothing. N. Srivastava et al., "Dropout", JMLR 2014.
#[derive(Clone, Copy, Debug)]
pub struct Dropout(pub f64);

impl Layer for Dropout {
    fn describe(&self) -> String {
        format!("Dropout({})", self.0)
    }

    #[track_caller]
    fn build<'g>(&self, scope: &Scope<'g>, x: Val<'g>) -> Val<'g> {
        if !(0.0..1.0).contains(&self.0) {
            return scope
                .builder()
                .problem(format!("dropout: the probability lies in [0, 1), found {}", self.0));
        }
        if !scope.is_training() || self.0 == 0.0 || x.is_poison() {
            return x;
        }
        let stays = scope.uniform(x.shape()).lt(1.0 - self.0);
        stays.select(x * (1.0 / (1.0 - self.0)), x.lit(0.0))
    }
}
