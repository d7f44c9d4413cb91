//! Convolution in any number of dimensions, closed under differentiation: both its gradients are convolutions.

/// `y[n, o, p…] = Σ_{c, t…} x[n, c, q…] · w[o, c, t…]` (cross-correlation, as in every framework), where along each spatial
/// axis the *dilated* input, with `input_dilation - 1` zeros between neighbours, is read at
/// `p * stride + t * kernel_dilation - pad_low`, outside of which it is zero.
///
/// Shapes: x `[N, C, S…]`, w `[O, C / groups, K…]`, y `[N, O, P…]` with
/// `P = ((S - 1) * input_dilation + 1 + pad_low + pad_high - ((K - 1) * kernel_dilation + 1)) / stride + 1`.
/// Output channels are in `groups` equal runs, each seeing its run of input channels.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Conv {
    /// The distance between windows along each spatial axis.
    pub stride: Vec<usize>,
    /// Zeros before the first element; negative crops.
    pub pad_low: Vec<i64>,
    /// Zeros after the last element; negative crops.
    pub pad_high: Vec<i64>,
    /// 1 + the number of zeros between input neighbours.
    pub input_dilation: Vec<usize>,
    /// The distance between kernel elements on the input.
    pub kernel_dilation: Vec<usize>,
    /// The number of channel groups.
    pub groups: usize,
}

/// The op of that name, if it is of this class.
pub fn parse(_name: &str, _attrs: &crate::ops::Attrs) -> Option<Result<crate::ops::Op, String>> {
    None
}

impl crate::ops::Rules for Conv {
    fn name(&self) -> &'static str {
        todo!()
    }

    fn attrs(&self) -> Vec<(&'static str, crate::ops::Attr)> {
        todo!()
    }

    fn infer(&self, _args: &[&crate::tensor::Type]) -> Result<Vec<crate::tensor::Type>, String> {
        todo!()
    }

    fn eval(&self, _args: &[&crate::tensor::Tensor]) -> Vec<crate::tensor::Tensor> {
        todo!()
    }

    fn grad<'g>(&self, _vjp: &crate::autodiff::Vjp<'_, 'g>) -> Vec<Option<crate::builder::Val<'g>>> {
        todo!()
    }

    fn kernel(&self, _cx: &mut crate::kernel::build::KernelCx<'_>) -> Option<crate::kernel::ExprId> {
        todo!()
    }
}
