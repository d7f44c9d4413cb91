//! Random bits: Philox 4x32-10, counter-based, the same on every backend.
//!
//! J. Salmon, M. Moraes, R. Dror, D. Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.

/// A tensor of independent random `u32`, a pure function of its operands and attributes.
///
/// Operands: `key` (`u64` scalar, the seed) and `step` (`u64` scalar, which the program increments at each run). Let element `e` in
/// row-major order have block `b = e / 64 * 16 + e % 16` and word `w = e / 16 % 4`; its value is word `w` of
/// Philox4x32-10 with key `(key_low, key_high)` and counter `(b, stream, step_low, step_high)`. (Four vectors of 16 lanes then
/// come from one round of the generator.)
///
/// Uniforms, normals and Bernoulli masks are composites over the bits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Random {
    /// The shape of the result.
    pub shape: Vec<usize>,
    /// A number that the builder makes distinct for each draw of a program, so that two dropouts never share bits.
    pub stream: u32,
}

use crate::ops::{Attrs, Op};

/// The op of that name, if it is of this class.
pub fn parse(name: &str, attrs: &Attrs) -> Option<Result<Op, String>> {
    let random = || {
        let shape = attrs.sizes("")?;
        let stream = attrs.int("stream")?;
        let stream = u32::try_from(stream)
            .map_err(|_| format!("attribute `stream` must be from 0 to {}, found {stream}", u32::MAX))?;
        Ok(Op::Random(Random { shape, stream }))
    };
    (name == "random").then(random)
}

impl crate::ops::Rules for Random {
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
