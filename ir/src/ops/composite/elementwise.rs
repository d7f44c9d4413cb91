//! Elementwise functions over the builder: arithmetic and activations.

use crate::builder::Val;
use crate::ops::map::methods::Operand;

/// Elementwise arithmetic.
impl<'g> Val<'g> {
    /// `x²`
    #[track_caller]
    pub fn square(self) -> Val<'g> {
        self * self
    }

    /// `1 / x`
    #[track_caller]
    pub fn reciprocal(self) -> Val<'g> {
        1.0 / self
    }

    /// `1 / √x`
    #[track_caller]
    pub fn rsqrt(self) -> Val<'g> {
        1.0 / self.sqrt()
    }

    /// `x` moved to the nearer limit if it is outside them.
    #[track_caller]
    pub fn clamp(self, low: impl Operand<'g>, high: impl Operand<'g>) -> Val<'g> {
        self.max(low).min(high)
    }

    /// 1 where `x > 0`, otherwise 0.
    #[track_caller]
    pub fn step(self) -> Val<'g> {
        self.gt(0.0).cast(self.dtype())
    }
}

/// Activations.
impl<'g> Val<'g> {
    /// `max(x, 0)`
    #[track_caller]
    pub fn relu(self) -> Val<'g> {
        self.max(0.0)
    }

    /// `x` between 0 and 6.
    #[track_caller]
    pub fn relu6(self) -> Val<'g> {
        self.clamp(0.0, 6.0)
    }

    /// `x` above 0, `slope · x` below.
    #[track_caller]
    pub fn leaky_relu(self, slope: impl Operand<'g>) -> Val<'g> {
        self.gt(0.0).select(self, self * slope.beside(self))
    }

    /// `x` above 0, `alpha · (e^x - 1)` below.
    #[track_caller]
    pub fn elu(self, alpha: f64) -> Val<'g> {
        self.gt(0.0).select(self, self.not_above_zero().expm1() * alpha)
    }

    /// ELU with the constants under which activations normalise themselves (Klambauer et al., 2017).
    #[track_caller]
    pub fn selu(self) -> Val<'g> {
        self.elu(1.673_263_242_354_377_2) * 1.050_700_987_355_480_5
    }

    /// ELU with a continuous derivative: `alpha · (e^(x/alpha) - 1)` below 0 (Barron, 2017).
    #[track_caller]
    pub fn celu(self, alpha: f64) -> Val<'g> {
        self.gt(0.0)
            .select(self, (self.not_above_zero() / alpha).expm1() * alpha)
    }

    /// `min(0, x)`: keeps what is not selected finite, so that its gradient is 0 and not NaN. A tie is the second operand's, so
    /// that the gradient at 0 is that from below.
    #[track_caller]
    fn not_above_zero(self) -> Val<'g> {
        self.lit(0.0).min(self)
    }

    /// `x · Φ(x)`, where `Φ` is the normal distribution (Hendrycks and Gimpel, 2016).
    #[track_caller]
    pub fn gelu(self) -> Val<'g> {
        self * 0.5 * ((self * std::f64::consts::FRAC_1_SQRT_2).erf() + 1.0)
    }

    /// GELU by its approximation with `tanh`.
    #[track_caller]
    pub fn gelu_tanh(self) -> Val<'g> {
        let scale = std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2;
        let inner = (self + self.square() * self * 0.044715) * scale;
        self * 0.5 * (inner.tanh() + 1.0)
    }

    /// GELU by its approximation with the sigmoid, `x · σ(1.702 x)`.
    #[track_caller]
    pub fn gelu_sigmoid(self) -> Val<'g> {
        self * (self * 1.702).sigmoid()
    }

    /// `x · σ(x)`, also called swish.
    #[track_caller]
    pub fn silu(self) -> Val<'g> {
        self * self.sigmoid()
    }

    /// `ln σ(x)`, without overflow.
    #[track_caller]
    pub fn log_sigmoid(self) -> Val<'g> {
        -(-self).softplus()
    }

    /// `x / (1 + |x|)`
    #[track_caller]
    pub fn softsign(self) -> Val<'g> {
        self / (self.abs() + 1.0)
    }

    /// `x · tanh(ln(1 + e^x))` (Misra, 2019).
    #[track_caller]
    pub fn mish(self) -> Val<'g> {
        self * self.softplus().tanh()
    }

    /// `slope · x + offset` between 0 and 1; ONNX takes 0.2 and 0.5, PyTorch 1/6 and 0.5.
    #[track_caller]
    pub fn hard_sigmoid(self, slope: f64, offset: f64) -> Val<'g> {
        (self * slope + offset).clamp(0.0, 1.0)
    }

    /// `x · (x/6 + ½)`, the second factor between 0 and 1 (Howard et al., 2019).
    #[track_caller]
    pub fn hard_swish(self) -> Val<'g> {
        self * self.hard_sigmoid(1.0 / 6.0, 0.5)
    }

    /// `x` between -1 and 1.
    #[track_caller]
    pub fn hard_tanh(self) -> Val<'g> {
        self.clamp(-1.0, 1.0)
    }

    /// `x` above `threshold`, otherwise 0.
    #[track_caller]
    pub fn thresholded_relu(self, threshold: f64) -> Val<'g> {
        self.gt(threshold).select(self, 0.0)
    }

    /// `x` moved towards 0 by `bias`, and 0 within `threshold` of it.
    #[track_caller]
    pub fn shrink(self, threshold: f64, bias: f64) -> Val<'g> {
        let below = self.lt(-threshold).select(self + bias, 0.0);
        self.gt(threshold).select(self - bias, below)
    }
}
