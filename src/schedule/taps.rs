//! Taps outside the image: where an axis of a sum walks over the zeros around a tensor, tiles near its border leave those terms out.
//!
//! The axis becomes the outermost of the sum, whether or not tiles can leave terms out, so that doing so changes no bit.

use std::collections::HashMap;

use netloom_ir::DType;
use netloom_ir::kernel::index::{Affine, affine};
use netloom_ir::kernel::{AxisId, Bind, Contract, Expr, ExprId, Operand, Prim, Stmt};

use super::contract::{Form, begin};
use super::draft::Draft;

/// What it costs to go on with a tile's sum, in steps of it. A guess.
const RESUME: usize = 8;

/// An axis of a sum that walks over zeros.
#[derive(Clone, Debug)]
pub struct Taps {
    pub axis: AxisId,
    /// The index along the tensor's axis at the first tap.
    place: Affine,
    /// Where along it the tensor begins and ends.
    within: (i64, i64),
}

impl Taps {
    /// The axis that saves most, if one saves more than it costs. This depends on shapes alone.
    pub fn of(draft: &Draft, form: &Form) -> Option<Taps> {
        let mut found = Vec::new();
        for side in [form.a, form.b] {
            if let Expr::Load { buffer, index, .. } = draft.source.get(side)
                && let Some(within) = draft.within.get(buffer)
            {
                let axes = index.iter().zip(within);
                found.extend(axes.filter_map(|(&at, &within)| Taps::along(draft, form, at, within)));
            }
        }
        found.into_iter().max_by_key(|(saved, _)| *saved).map(|(_, taps)| taps)
    }

    /// The axis of the sum in an index, and how many steps of it an average tile may leave out.
    fn along(draft: &Draft, form: &Form, at: ExprId, within: (i64, i64)) -> Option<(usize, Taps)> {
        let mut place = affine(&draft.source, at)?;
        let summed = place.terms.iter().filter(|(axis, _)| form.k.contains(axis));
        let &[&(axis, 1)] = &summed.collect::<Vec<_>>()[..] else {
            return None;
        };
        place.terms.retain(|(term, _)| *term != axis);
        // The rows and columns of a tile are at several places.
        let mut terms = place.terms.iter();
        if terms.any(|(term, _)| [form.row, form.column].contains(term)) {
            return None;
        }
        let (extent, (begin, end)) = (draft.extent(axis) as i64, within);
        let (mut low, mut high) = (place.constant, place.constant);
        for &(term, factor) in &place.terms {
            let reach = factor * (draft.extent(term) as i64 - 1);
            (low, high) = (low + reach.min(0), high + reach.max(0));
        }
        let has_taps = low + extent > begin && high < end;
        if !has_taps {
            return None;
        }
        let taken: i64 = (low..=high)
            .map(|at| (end - at).min(extent) - (begin - at).max(0))
            .sum();
        let all = extent * (high - low + 1);
        let saved = draft.count(&form.k) * (all - taken) as usize / all as usize;
        (saved > RESUME * (extent - 1) as usize).then_some((saved, Taps { axis, place, within }))
    }

    /// Whether all tiles of a task are at one place.
    pub fn is_over(&self, outer: &[AxisId]) -> bool {
        self.place.terms.iter().all(|(axis, _)| outer.contains(axis))
    }

    /// A tile's sum, whose outermost axis this is, over the taps from the first to the last that meet the tensor.
    pub fn sum(&self, draft: &mut Draft, contract: &Contract, known: &HashMap<ExprId, ExprId>) -> Vec<Stmt> {
        let place = begin(draft, &self.place, &[], known);
        let extent = draft.extent(self.axis);
        let [begin, end, all, zero, one] =
            [self.within.0, self.within.1, extent as i64, 0, 1].map(|value| draft.exprs.int(value));
        let before = draft.i64(Prim::Sub, begin, place);
        let first = draft.i64(Prim::Max, before, zero);
        let after = draft.i64(Prim::Sub, end, place);
        let past = draft.i64(Prim::Min, after, all);
        let more = draft.axis("tap", extent - 1);
        let more_value = draft.exprs.axis(more);
        let second = draft.i64(Prim::Add, first, one);
        let next = draft.i64(Prim::Add, second, more_value);
        // Said again for the prover, which need not see that the taps end before the last.
        let next = draft.clamp(next, extent);
        let rest = draft.i64(Prim::Sub, past, second);
        let rest = draft.i64(Prim::Max, rest, zero);
        let go_on = Stmt::Contract(at_tap(draft, contract, next, true));
        vec![
            Stmt::Contract(at_tap(draft, contract, first, contract.accumulate)),
            Stmt::Loop {
                axis: more,
                extent: rest,
                bind: Bind::Serial,
                body: vec![go_on],
            },
        ]
    }
}

/// The terms of a sum at one place of its outermost axis.
fn at_tap(draft: &mut Draft, contract: &Contract, tap: ExprId, accumulate: bool) -> Contract {
    let mut side = |operand: &Operand| {
        let stride = draft.exprs.int(operand.along[0] as i64);
        let offset = draft.exprs.prim(Prim::Mul, DType::I64, &[tap, stride]);
        Operand {
            start: draft.i64(Prim::Add, operand.start, offset),
            along: operand.along[1..].to_vec(),
            ..operand.clone()
        }
    };
    Contract {
        a: side(&contract.a),
        b: side(&contract.b),
        k: contract.k[1..].to_vec(),
        accumulate,
        ..contract.clone()
    }
}
