//! The product of two tensors summed over axes: every dense contraction.

/// `out[..] = Σ left[..] · right[..]`, in Einstein's notation: each axis has a letter; letters of the operands that the result
/// lacks are summed over. Letters within one list are distinct. An operand's axis may be in neither the other nor the result:
/// then that operand is summed over it.
///
/// In the text form the three lists are one string: `"mk,kn->mn"`. The builder takes any number of operands and splits them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Einsum {
    /// The left operand's axes.
    pub left: Vec<char>,
    /// The right operand's axes.
    pub right: Vec<char>,
    /// The result's axes.
    pub out: Vec<char>,
}

/// The op of that name, if it is of this class.
pub fn parse(_name: &str, _attrs: &crate::ops::Attrs) -> Option<Result<crate::ops::Op, String>> {
    None
}

impl crate::ops::Rules for Einsum {
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
