//! Takes a `Lanes` loop apart: which of its values each lane computes, and what the loop around must supply.

use netloom_ir::kernel::{AxisId, BufferId, ExprId, Nest, Stmt};

use super::wide::Body;

/// A vector loop ready to be called: the body, and where each of its slots comes from.
#[derive(Clone, Debug)]
pub struct Lanes {
    /// What each lane does.
    pub body: Body,
    /// For each slot, what the surrounding code computes and puts there.
    pub slots: Vec<Slot>,
}

/// What a slot holds.
#[derive(Clone, Debug)]
pub enum Slot {
    /// The address of an element: buffer and its offset in elements of memory at lane 0, an `i64` expression without the lane axis.
    Address(BufferId, ExprId),
    /// A scalar that is the same in every lane.
    Scalar(ExprId),
    /// The address of 16 virtual lanes on the stack, for the accumulation of that number in the loop's body.
    Accumulator(usize),
}

/// Takes apart a loop over `axis` bound to lanes. May add expressions to the nest. `None` if the body needs what [`Body`] cannot say
/// (then CLIF runs it).
pub fn analyse(nest: &mut Nest, axis: AxisId, body: &[Stmt]) -> Option<Lanes> {
    let _ = (nest, axis, body);
    todo!()
}
