//! Pooling: a reduction over sliding windows of the trailing (spatial) axes.

/// What a pool computes of each window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PoolKind {
    /// The greatest element; padding never wins. NaN propagates.
    Max,
    /// The place in the window, in row-major order, of the first greatest element, as `u8`: a window has at most 256 places.
    /// The gradient of `Max` compares with it.
    ArgMax,
    /// The sum; padding counts zero. The average is this divided by a constant.
    Sum,
}

/// Slides a window along the last `size.len()` axes: output `p` covers inputs `p * stride + t * dilation - pad_low`.
///
/// Every window holds at least one element that is not padding.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pool {
    /// What is computed.
    pub kind: PoolKind,
    /// The window's extent along each spatial axis.
    pub size: Vec<usize>,
    /// The distance between windows.
    pub stride: Vec<usize>,
    /// Padding before.
    pub pad_low: Vec<usize>,
    /// Padding after.
    pub pad_high: Vec<usize>,
    /// The distance between elements of a window.
    pub dilation: Vec<usize>,
}

/// The op of that name, if it is of this class.
pub fn parse(_name: &str, _attrs: &crate::ops::Attrs) -> Option<Result<crate::ops::Op, String>> {
    None
}

impl crate::ops::Rules for Pool {
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
