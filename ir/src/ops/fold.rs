//! Reductions, whole (`fold`) and cumulative (`prefix`).

use crate::kernel::Combine;

/// Combines all elements along some axes, which vanish from the shape: `sum`, `prod`, `max`, `min`, `any`, `all`.
///
/// The mean, argmax and argmin are composites.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Fold {
    /// How elements combine.
    pub with: Combine,
    /// The axes folded, ascending and distinct.
    pub axes: Vec<usize>,
}

/// Combines each element with those before it along an axis: `cumsum`, `cumprod`, `cummax`, `cummin`.
///
/// From the end instead: flip before and after.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Prefix {
    /// How elements combine.
    pub with: Combine,
    /// The axis.
    pub axis: usize,
    /// Whether an element's own value is left out; the first result is then the identity.
    pub exclusive: bool,
}

impl crate::ops::Rules for Fold {
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

impl crate::ops::Rules for Prefix {
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
