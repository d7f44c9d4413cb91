//! Windows with weights of their own.

use netloom_ir::builder::Val;

use super::Layer;
use crate::nn::init::Initialiser;
use crate::nn::scope::Scope;

/// Like a convolution in two dimensions, but each place has filters of its own: `weight` is `[places, channels × kernel², filters]`, `bias`
/// `[filters, height, width]` of the result. What a convolution would be if it did not share its weights.
#[derive(Clone, Debug)]
pub struct LocallyConnected {
    /// The number of output channels.
    pub filters: usize,
    /// The side of a window.
    pub kernel: usize,
    /// The distance between windows.
    pub stride: usize,
}

impl Layer for LocallyConnected {
    fn describe(&self) -> String {
        format!("LocallyConnected({}, {side}×{side})", self.filters, side = self.kernel)
    }

    #[track_caller]
    fn build<'g>(&self, scope: &Scope<'g>, x: Val<'g>) -> Val<'g> {
        if x.is_poison() {
            return x;
        }
        let &[batch, channels, _, _] = x.shape().as_slice() else {
            let message = format!(
                "locally connected: takes [batch, channels, height, width], found {}",
                x.ty()
            );
            return scope.builder().problem(message);
        };
        let (side, step) = ([self.kernel; 2], [self.stride; 2]);
        let windows = x.windows(&[2, 3], &side, &step, &[1, 1]);
        let &[_, _, height, width, ..] = windows.shape().as_slice() else {
            return windows;
        };
        let (places, inputs) = (height * width, channels * self.kernel * self.kernel);
        let windows = windows.permute([2, 3, 0, 1, 4, 5]).reshape([places, batch, inputs]);
        // Xavier's rule for one window, the weight's own extents being no fans.
        let spread = (6.0 / (inputs + self.filters) as f64).sqrt() as f32;
        let weight = scope.parameter("weight", [places, inputs, self.filters], &Initialiser::Uniform(spread));
        let bias = scope.parameter("bias", [self.filters, height, width], &Initialiser::Zeros);
        let y = Val::einsum("pbi,pif->bfp", &[windows, weight]);
        y.reshape([batch, self.filters, height, width]) + bias
    }
}
