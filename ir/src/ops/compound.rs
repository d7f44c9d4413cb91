//! Ops that hold body graphs: scan, if, while.
//!
//! A body is a graph whose inputs are matched by position. Bodies see nothing outside: what they need from around them is an
//! operand and a body input.

use std::sync::Arc;

use crate::graph::Graph;

/// A loop of fixed length with carried values.
///
/// Operands: `carried` initial values, then `sliced` tensors whose first axis has `length` entries, then constants.
/// Body inputs, in the same order: the carried values, one entry of each sliced tensor (its first axis gone), the
/// constants, and, if `counted`, the step number as an `i64` scalar. Body outputs: the next carried values, then any number of
/// values to stack. Results: the last carried values, then the stacked values with a new first axis of `length`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Scan {
    /// The body.
    pub body: Arc<Graph>,
    /// The number of steps.
    pub length: usize,
    /// The number of carried values.
    pub carried: usize,
    /// The number of sliced operands.
    pub sliced: usize,
    /// Whether the body's last input is the step number.
    pub counted: bool,
    /// Takes entries from last to first, and stacks so too; the step number still counts entries.
    pub reverse: bool,
}

/// Operands: a `bool` scalar, then the operands of both bodies, which have the same inputs and output types. Results: those of
/// the body chosen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Branch {
    /// Run if the condition is true.
    pub then: Arc<Graph>,
    /// Run otherwise.
    pub otherwise: Arc<Graph>,
}

/// Operands: `carried` initial values, then constants. `condition` gives a `bool` scalar, `body` the next carried values;
/// both see the carried values and the constants. Results: the last carried values. No gradient (the number of steps is data): use
/// scan for a loop that is differentiated.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Loop {
    /// Whether to go on.
    pub condition: Arc<Graph>,
    /// One step.
    pub body: Arc<Graph>,
    /// The number of carried values.
    pub carried: usize,
}

/// The op of that name, if it is of this class.
pub fn parse(_name: &str, _attrs: &crate::ops::Attrs) -> Option<Result<crate::ops::Op, String>> {
    None
}

impl crate::ops::Rules for Scan {
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

impl crate::ops::Rules for Branch {
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

impl crate::ops::Rules for Loop {
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
