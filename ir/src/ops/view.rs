//! Views: the same elements at other places. They cost nothing where they fuse, a copy where they do not.

use std::sync::Arc;

use crate::ops::{Attrs, Op};
use crate::tensor::Tensor;

/// A rearrangement of elements.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum View {
    /// The same elements in row-major order under another shape.
    Reshape(Vec<usize>),
    /// Axis `k` of the result is axis `order[k]` of the operand.
    Permute(Vec<usize>),
    /// Repeats to a shape, by NumPy's rule: shapes align at the last axis, an extent of 1 repeats, missing axes are 1.
    Broadcast(Vec<usize>),
    /// For each axis `start, start + step, …`, `count` elements; all within the operand. Steps are at least 1.
    Slice {
        /// The first element along each axis.
        start: Vec<usize>,
        /// The distance between elements along each axis.
        step: Vec<usize>,
        /// The number of elements along each axis.
        count: Vec<usize>,
    },
    /// Puts `low` elements before, `high` after, and `inner` between neighbours, along each axis, all of value `fill`.
    Pad {
        /// Elements added before the first.
        low: Vec<usize>,
        /// Elements added after the last.
        high: Vec<usize>,
        /// Elements added between each two neighbours.
        inner: Vec<usize>,
        /// A scalar of the operand's type.
        fill: Arc<Tensor>,
    },
    /// Reverses the order along some axes.
    Flip(Vec<usize>),
    /// One operand after the other along an axis; one or more operands.
    Concat(usize),
    /// Sliding windows: each of some axes becomes two, the window's number there, and, appended after all axes in the same order,
    /// the place within the window: `y[.., o, .., t] = x[.., o * stride + t * dilation, ..]`.
    Windows {
        /// The axes slid along, ascending and distinct.
        axes: Vec<usize>,
        /// The window's size along each.
        size: Vec<usize>,
        /// The distance between windows along each.
        stride: Vec<usize>,
        /// The distance between elements of a window along each.
        dilation: Vec<usize>,
    },
}

/// The op of that name, if it is of this class.
pub fn parse(name: &str, attrs: &Attrs) -> Option<Result<Op, String>> {
    let slice = || {
        Ok(View::Slice {
            start: attrs.sizes("start")?,
            step: attrs.sizes("step")?,
            count: attrs.sizes("count")?,
        })
    };
    let pad = || {
        Ok(View::Pad {
            low: attrs.sizes("low")?,
            high: attrs.sizes("high")?,
            inner: attrs.sizes("inner")?,
            fill: attrs.tensor("fill")?,
        })
    };
    let windows = || {
        Ok(View::Windows {
            axes: attrs.sizes("axes")?,
            size: attrs.sizes("size")?,
            stride: attrs.sizes("stride")?,
            dilation: attrs.sizes("dilation")?,
        })
    };
    let view = match name {
        "reshape" => attrs.sizes("").map(View::Reshape),
        "permute" => attrs.sizes("").map(View::Permute),
        "broadcast" => attrs.sizes("").map(View::Broadcast),
        "slice" => slice(),
        "pad" => pad(),
        "flip" => attrs.sizes("").map(View::Flip),
        "concat" => attrs.size("axis").map(View::Concat),
        "windows" => windows(),
        _ => return None,
    };
    Some(view.map(Op::View))
}

impl crate::ops::Rules for View {
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
