//! Sums that read four neighbours at once.
//!
//! A serial loop that adds up what lies side by side fetches a texel of four elements for every four iterations, and adds them one after the other as
//! before, so no bit changes. lavapipe takes as long for a texel of four as for one of one: it reads 22 GB/s instead of 7.

use netloom_ir::DType;
use netloom_ir::kernel::index::{self, Linear};
use netloom_ir::kernel::nest::FOUR;
use netloom_ir::kernel::{AxisId, Bind, BufferId, Expr, ExprId, Exprs, Nest, Stmt};

use super::super::device::Traits;

/// The most expressions of what is added: it is written out four times. A guess.
const MOST: usize = 24;
/// The fewest iterations: whether the tensor begins at a multiple of four is asked first, and lavapipe runs an iteration of the other loop too. With 16
/// the sums of a batch's channels took 12 % longer than before.
const FEWEST: i64 = 32;

/// A load that a loop over an axis may do four at a time.
#[derive(Clone, Copy, Debug)]
pub struct Four {
    /// The axis.
    pub axis: AxisId,
    /// What the loop adds.
    pub value: ExprId,
    /// The load, whose elements are neighbours along the axis.
    pub load: ExprId,
    /// What it reads.
    pub buffer: BufferId,
}

/// All of a nest, for a device on which that is quicker.
pub fn of(nest: &Nest, traits: &Traits) -> Vec<Four> {
    let mut sums = Vec::new();
    if traits.texels > 0 {
        visit(&nest.body, &nest.exprs, &mut sums);
    }
    let mut found = Vec::new();
    if sums.is_empty() {
        return found;
    }
    let mut exprs = nest.exprs.clone();
    for (axis, value) in sums {
        let below = nest.exprs.below(&[value]);
        if below.len() <= MOST {
            let fours = below
                .iter()
                .filter_map(|&load| four(nest, &mut exprs, (axis, value), load));
            found.extend(fours);
        }
    }
    found
}

/// Every long loop of a multiple of four iterations that does nothing but add, with what it adds.
fn visit(body: &[Stmt], exprs: &Exprs, sums: &mut Vec<(AxisId, ExprId)>) {
    for stmt in body {
        match stmt {
            Stmt::Loop {
                axis,
                extent,
                bind,
                body,
            } => match body[..] {
                [Stmt::Accumulate { value, .. }] => {
                    let has_fours = exprs.as_int(*extent).is_some_and(has_fours);
                    if *bind == Bind::Serial && has_fours {
                        sums.push((*axis, value));
                    }
                }
                _ => visit(body, exprs, sums),
            },
            Stmt::If { then, otherwise, .. } => {
                visit(then, exprs, sums);
                visit(otherwise, exprs, sums);
            }
            _ => {}
        }
    }
}

/// Whether a loop of so many iterations is done four at a time.
pub fn has_fours(extent: i64) -> bool {
    extent >= FEWEST && extent % FOUR as i64 == 0
}

/// The load, if it reads neighbours along the axis and begins at a multiple of four.
fn four(nest: &Nest, exprs: &mut Exprs, (axis, value): (AxisId, ExprId), load: ExprId) -> Option<Four> {
    let Expr::Load {
        buffer,
        index,
        guarded: false,
    } = exprs.get(load).clone()
    else {
        return None;
    };
    let ty = &nest.buffers[buffer.at()].ty;
    let offset = index::offset(exprs, ty, &index);
    let Linear { terms, constant } = Linear::of(exprs, offset);
    let own = exprs.axis(axis);
    let (along, others): (Vec<_>, Vec<_>) = terms.into_iter().partition(|(term, _)| *term == own);
    // What the axis also moves by way of a division has a term of its own, which must then go on in fours as well.
    let moves = |term: ExprId| exprs.below(&[term]).contains(&own);
    let in_fours = |by: i64| by % FOUR as i64 == 0;
    let is_regular = others.iter().all(|&(term, by)| in_fours(by) && !moves(term));
    let is_four = matches!(along[..], [(_, 1)]) && is_regular && in_fours(constant);
    (is_four && ty.dtype == DType::F32).then_some(Four {
        axis,
        value,
        load,
        buffer,
    })
}
