//! Gather and scatter: slices along one axis chosen by an index tensor. Each is the other's transpose.
//!
//! Choosing along several axes at once (`gather_nd`), or element by element (`take_along_axis`), is a composite: a
//! reshape that merges the axes and arithmetic on the indices.

use crate::kernel::Combine;
use crate::ops::{Attrs, Op};

/// Operands `x`, `indices` (an integer type). The result has shape
/// `x.shape[..axis] ++ indices.shape ++ x.shape[axis + 1..]`; an index outside the axis reads as the nearest inside.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Gather {
    /// The axis of `x` that is indexed.
    pub axis: usize,
}

/// Operands `x`, `indices`, `updates`, the last of gather's result shape. The result is `x` with each update combined into the
/// slice it names, in row-major order of `indices`; an index outside the axis is dropped.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Scatter {
    /// The axis of `x` that is indexed.
    pub axis: usize,
    /// How an update enters; `None` replaces.
    pub with: Option<Combine>,
}

/// The op of that name, if it is of this class.
pub fn parse(name: &str, attrs: &Attrs) -> Option<Result<Op, String>> {
    let gather = || {
        Ok(Op::Gather(Gather {
            axis: attrs.size("axis")?,
        }))
    };
    let scatter = |with: Option<Combine>| {
        let axis = attrs.size("axis")?;
        Ok(Op::Scatter(Scatter { axis, with }))
    };
    if name == "gather" {
        return Some(gather());
    }
    let combines = std::iter::once(None).chain(Combine::ALL.into_iter().map(Some));
    let with = combines.into_iter().find(|&with| scatter_name(with) == name)?;
    Some(scatter(with))
}

fn scatter_name(with: Option<Combine>) -> &'static str {
    match with {
        None => "scatter",
        Some(Combine::Sum) => "scatter_sum",
        Some(Combine::Product) => "scatter_prod",
        Some(Combine::Max) => "scatter_max",
        Some(Combine::Min) => "scatter_min",
        Some(Combine::Any) => "scatter_any",
        Some(Combine::All) => "scatter_all",
    }
}

impl crate::ops::Rules for Gather {
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

impl crate::ops::Rules for Scatter {
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
