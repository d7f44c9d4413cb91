//! Nodes without operands: inputs, constants, coordinates; and `part`, which takes a result out of several.

use std::sync::Arc;

use crate::dtype::DType;
use crate::ops::{Attrs, Op};
use crate::tensor::{Tensor, Type};

/// A value given at run time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Input {
    /// The name, distinct among the graph's inputs.
    pub name: String,
    /// Its type.
    pub ty: Type,
}

/// `0, 1, 2, …` along one axis, constant along the others.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Iota {
    /// The element type, an integer or a float.
    pub dtype: DType,
    /// The shape of the result.
    pub shape: Vec<usize>,
    /// The axis counted.
    pub axis: usize,
}

/// The op of that name, if it is of this class.
pub fn parse(name: &str, attrs: &Attrs) -> Option<Result<Op, String>> {
    let input = || {
        let name = attrs.text("")?;
        let ty = attrs.ty("type")?;
        Ok(Op::Input(Input { name, ty }))
    };
    let iota = || {
        let Type { dtype, shape, .. } = attrs.ty("")?;
        let axis = attrs.size("axis")?;
        Ok(Op::Iota(Iota { dtype, shape, axis }))
    };
    match name {
        "input" => Some(input()),
        "const" => Some(attrs.tensor("").map(Op::Const)),
        "iota" => Some(iota()),
        "part" => Some(attrs.size("").map(Op::Part)),
        _ => None,
    }
}

impl crate::ops::Rules for Input {
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

impl crate::ops::Rules for Iota {
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

impl crate::ops::Rules for Arc<Tensor> {
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

impl crate::ops::Rules for usize {
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
