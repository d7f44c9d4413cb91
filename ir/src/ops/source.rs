//! Nodes without operands: inputs, constants, coordinates; and `part`, which takes a result out of several.

use std::sync::Arc;

use crate::autodiff::Vjp;
use crate::builder::Val;
use crate::dtype::{DType, Scalar};
use crate::kernel::ExprId;
use crate::kernel::build::KernelCx;
use crate::ops::{Attr, Attrs, Op, Rules, check_axis, operands};
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

impl Rules for Input {
    fn name(&self) -> &'static str {
        "input"
    }

    fn attrs(&self) -> Vec<(&'static str, Attr)> {
        vec![
            ("", Attr::Text(self.name.clone())),
            ("type", Attr::Type(self.ty.clone())),
        ]
    }

    fn infer(&self, args: &[&Type]) -> Result<Vec<Type>, String> {
        let [] = operands(args)?;
        Ok(vec![self.ty.clone()])
    }

    fn eval(&self, _args: &[&Tensor]) -> Vec<Tensor> {
        unreachable!("the value of input `{}` is given, not computed", self.name)
    }

    fn grad<'g>(&self, _vjp: &Vjp<'_, 'g>) -> Vec<Option<Val<'g>>> {
        Vec::new()
    }

    fn kernel(&self, _cx: &mut KernelCx<'_>) -> Option<ExprId> {
        // An input is a buffer; it belongs to no region.
        None
    }
}

impl Rules for Arc<Tensor> {
    fn name(&self) -> &'static str {
        "const"
    }

    fn attrs(&self) -> Vec<(&'static str, Attr)> {
        vec![("", Attr::Tensor(self.clone()))]
    }

    fn infer(&self, args: &[&Type]) -> Result<Vec<Type>, String> {
        let [] = operands(args)?;
        Ok(vec![self.ty()])
    }

    fn eval(&self, _args: &[&Tensor]) -> Vec<Tensor> {
        vec![Tensor::clone(self)]
    }

    fn grad<'g>(&self, _vjp: &Vjp<'_, 'g>) -> Vec<Option<Val<'g>>> {
        Vec::new()
    }

    fn kernel(&self, cx: &mut KernelCx<'_>) -> Option<ExprId> {
        // One element is an immediate; more are a buffer, which belongs to no region.
        (self.count() == 1).then(|| cx.constant(self.dtype(), self.get(0)).id())
    }
}

impl Rules for Iota {
    fn name(&self) -> &'static str {
        "iota"
    }

    fn attrs(&self) -> Vec<(&'static str, Attr)> {
        let ty = Type::new(self.dtype, self.shape.clone());
        vec![("", Attr::Type(ty)), ("axis", Attr::size(self.axis))]
    }

    fn infer(&self, args: &[&Type]) -> Result<Vec<Type>, String> {
        let [] = operands(args)?;
        let ty = Type::new(self.dtype, self.shape.clone());
        if self.dtype == DType::Bool {
            return Err("counts in integers or floats, found bool".to_owned());
        }
        check_axis(&ty, self.axis)?;
        Ok(vec![ty])
    }

    fn eval(&self, _args: &[&Tensor]) -> Vec<Tensor> {
        let count = |index: &[usize]| Scalar::Int(index[self.axis] as i128);
        vec![Tensor::from_fn(self.dtype, self.shape.clone(), count)]
    }

    fn grad<'g>(&self, _vjp: &Vjp<'_, 'g>) -> Vec<Option<Val<'g>>> {
        Vec::new()
    }

    fn kernel(&self, cx: &mut KernelCx<'_>) -> Option<ExprId> {
        let count = cx.index()[self.axis];
        Some(cx.x(count).cast(self.dtype).id())
    }
}

/// `part`: the operand is a node with several results, which are what `infer` and `eval` are given.
impl Rules for usize {
    fn name(&self) -> &'static str {
        "part"
    }

    fn attrs(&self) -> Vec<(&'static str, Attr)> {
        vec![("", Attr::size(*self))]
    }

    fn infer(&self, results: &[&Type]) -> Result<Vec<Type>, String> {
        match results.get(*self) {
            Some(&ty) => Ok(vec![ty.clone()]),
            None => Err(format!("there are {} results, none has number {self}", results.len())),
        }
    }

    fn eval(&self, results: &[&Tensor]) -> Vec<Tensor> {
        vec![results[*self].clone()]
    }

    fn grad<'g>(&self, _vjp: &Vjp<'_, 'g>) -> Vec<Option<Val<'g>>> {
        // The gradient of one result among several enters its node's rule through `Vjp::seeds`.
        vec![None]
    }

    fn kernel(&self, _cx: &mut KernelCx<'_>) -> Option<ExprId> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{assert_round_trip, infer_error};

    #[test]
    fn iota_counts_along_its_axis() {
        let iota = |dtype, shape: &[usize], axis| Iota {
            dtype,
            shape: shape.to_vec(),
            axis,
        };
        assert_eq!(iota(DType::I64, &[2, 3], 0).eval(&[])[0].to_i64(), [0, 0, 0, 1, 1, 1]);
        assert_eq!(
            iota(DType::F32, &[2, 3], 1).eval(&[])[0].to_f32(),
            [0., 1., 2., 0., 1., 2.]
        );
        let wrapped = iota(DType::U8, &[257], 0).eval(&[])[0].to_i64();
        assert_eq!((wrapped[255], wrapped[256]), (255, 0));
        assert_eq!(iota(DType::I32, &[0, 3], 1).eval(&[])[0].count(), 0);
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let iota = |dtype, shape: &[usize]| {
            Op::Iota(Iota {
                dtype,
                shape: shape.to_vec(),
                axis: 0,
            })
        };
        let ty = Type::new(DType::F32, [2]);
        for (op, args, expected) in [
            (
                iota(DType::I64, &[]),
                vec![],
                "there is no axis 0 in i64[], which has 0 axes",
            ),
            (
                iota(DType::Bool, &[2]),
                vec![],
                "counts in integers or floats, found bool",
            ),
            (iota(DType::I64, &[2]), vec![&ty], "takes 0 operands, found 1"),
            (Op::Part(1), vec![&ty], "there are 1 results, none has number 1"),
        ] {
            assert_eq!(infer_error(&op, &args), expected);
        }
    }

    #[test]
    fn text_attributes_round_trip() {
        let ty = Type::new(DType::F32, [2, 0]);
        assert_round_trip(Op::Input(Input {
            name: "x".to_owned(),
            ty,
        }));
        assert_round_trip(Op::Const(Arc::new(Tensor::from_f32([2], &[1.0, f32::NAN]))));
        assert_round_trip(Op::Iota(Iota {
            dtype: DType::U8,
            shape: vec![3, 4],
            axis: 1,
        }));
        assert_round_trip(Op::Part(3));
    }
}
