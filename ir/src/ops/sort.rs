//! Sorting, as the order that sorts.

use crate::ops::{Attrs, Op};

/// `i64` positions such that gathering along `axis` by them gives the axis in order; stable; NaN last.
///
/// Sorting values, top-k and the median are composites: sort, slice, gather.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sort {
    /// The axis sorted.
    pub axis: usize,
    /// Largest first.
    pub descending: bool,
}

/// The op of that name, if it is of this class.
pub fn parse(name: &str, attrs: &Attrs) -> Option<Result<Op, String>> {
    let sort = || {
        let axis = attrs.size("axis")?;
        let descending = attrs.flag("descending")?;
        Ok(Op::Sort(Sort { axis, descending }))
    };
    (name == "sort").then(sort)
}

impl crate::ops::Rules for Sort {
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
