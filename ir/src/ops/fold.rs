//! Reductions, whole (`fold`) and cumulative (`prefix`).

use crate::kernel::Combine;
use crate::ops::{Attrs, Op};

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

/// The op of that name, if it is of this class.
pub fn parse(name: &str, attrs: &Attrs) -> Option<Result<Op, String>> {
    let fold = |with: Combine| {
        let axes = attrs.sizes("axes")?;
        Ok(Op::Fold(Fold { with, axes }))
    };
    let prefix = |with: Combine| {
        let axis = attrs.size("axis")?;
        let exclusive = attrs.flag("exclusive")?;
        Ok(Op::Prefix(Prefix { with, axis, exclusive }))
    };
    let find = |names: fn(Combine) -> &'static str| Combine::ALL.into_iter().find(|&with| names(with) == name);
    find(fold_name).map(fold).or_else(|| find(prefix_name).map(prefix))
}

fn fold_name(with: Combine) -> &'static str {
    match with {
        Combine::Sum => "sum",
        Combine::Product => "prod",
        Combine::Max => "fold_max",
        Combine::Min => "fold_min",
        Combine::Any => "any",
        Combine::All => "all",
    }
}

fn prefix_name(with: Combine) -> &'static str {
    match with {
        Combine::Sum => "cumsum",
        Combine::Product => "cumprod",
        Combine::Max => "cummax",
        Combine::Min => "cummin",
        Combine::Any => "cumany",
        Combine::All => "cumall",
    }
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
