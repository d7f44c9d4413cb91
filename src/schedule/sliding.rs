//! Contractions whose long sums slide a few steps over each other, as gradients of filters do: `Σ image[y + tap] · gradient[y]`.
//!
//! For each tap a tile would stream both operands from far away. So the sum is cut into pieces whose operands stay in the first cache, and
//! each piece is added to the tiles of all taps before the next one is read. A tile's sum still runs in the order of `k`, one fused
//! multiply-add each, from where the piece before left it in memory: no bit changes.

use std::collections::HashMap;

use netloom_ir::kernel::index::Affine;
use netloom_ir::kernel::nest::LANES;
use netloom_ir::kernel::{AxisId, Bind, Contract, ExprId, Operand, Role, Stmt};
use netloom_ir::{Scalar, Target};

use super::contract::{self, begin, direct, most_rows};
use super::draft::{Draft, Task};

/// Bytes of both operands of a piece: with what the taps reach beyond them they fit a first cache of 32 KiB.
const PIECE_BYTES: usize = 24 << 10;
/// Below this the operands of a whole sum stay in the second cache, from where a tile reads them fast enough.
const LEAST_BYTES: usize = 64 << 10;

/// A contraction in pieces.
#[derive(Clone, Debug)]
pub struct Form {
    contraction: contract::Form,
    /// The axes of the result that move one operand by less than it reaches.
    taps: Vec<AxisId>,
    /// The other axes of the result, but for the tile's: what is shared among workers.
    outer: Vec<AxisId>,
    /// The axes of the sum from this one on are summed within a piece, of this axis so many steps at once.
    within: usize,
    step: usize,
}

impl Form {
    /// The form that a contraction has, if both sides can be read where they lie and one slides over the other.
    pub fn of(draft: &mut Draft, form: &contract::Form) -> Option<Form> {
        if form.along_rows || draft.extent(form.column) != LANES {
            return None;
        }
        let (_, a) = direct(draft, form.a, &[&form.k[..], &[form.row]].concat())?;
        let (_, b) = direct(draft, form.b, &form.k)?;
        if b.factor(form.column) != 1 {
            return None;
        }
        let slides = |axis: &AxisId| [&a, &b].into_iter().any(|side| slides(draft, side, &form.k, *axis));
        let (taps, outer): (Vec<AxisId>, Vec<AxisId>) = form.outer.iter().copied().partition(slides);
        let bytes = (draft.extent(form.row) + LANES) * form.dtype.size_bytes();
        if taps.is_empty() || draft.count(&form.k) * bytes < LEAST_BYTES {
            return None;
        }
        // As many of the innermost steps as fit a piece.
        let most = (PIECE_BYTES / bytes).max(1);
        let mut within = form.k.len() - 1;
        while within > 0 && draft.count(&form.k[within..]) < most {
            within -= 1;
        }
        let inside = draft.count(&form.k[within + 1..]);
        let extent = draft.extent(form.k[within]);
        let fits = |step: &usize| extent.is_multiple_of(*step) && step * inside <= most;
        let step = (1..=extent).rev().find(fits).unwrap_or(1);
        Some(Form {
            contraction: form.clone(),
            taps,
            outer,
            within,
            step,
        })
    }
}

/// Whether an axis of the result moves an operand along an axis of the sum, which goes farther.
fn slides(draft: &Draft, side: &Affine, k: &[AxisId], axis: AxisId) -> bool {
    let (by, count) = (side.factor(axis), draft.extent(axis) as i64);
    by > 0
        && k.iter().any(|&along| {
            let (step, extent) = (side.factor(along), draft.extent(along) as i64);
            let meets = step > 0 && (by % step == 0 && by < step * extent || step % by == 0 && count * by > step);
            meets && extent >= count
        })
}

/// The loops, as one phase.
pub fn schedule(draft: &mut Draft, tasks: &[Task], form: &Form, target: &Target) -> Stmt {
    let Form { within, step, .. } = *form;
    let contract::Form {
        dtype,
        row,
        column,
        ref k,
        ..
    } = form.contraction;
    let zero = draft.int(0);
    let (m, taps) = (draft.extent(row), draft.count(&form.taps));
    // Rows that were computed twice would be summed twice.
    let most = most_rows(draft, dtype, target, LANES);
    let rows = (1..=most.min(m))
        .rev()
        .find(|&rows| m.is_multiple_of(rows))
        .unwrap_or(1);
    let sums = draft.scratch("sums", dtype, vec![taps, m, LANES], Role::WorkerScratch);

    let (task, shares) = draft.share(&form.outer);
    let mut known: HashMap<ExprId, ExprId> = (form.outer.iter().zip(shares))
        .map(|(&axis, value)| (draft.source.axis(axis), value))
        .collect();

    let places = ["tap", "row", "column"].into_iter().zip([taps, m, LANES]);
    let places: Vec<AxisId> = places.map(|(name, extent)| draft.axis(name, extent)).collect();
    let index = places.iter().map(|&axis| draft.exprs.axis(axis)).collect();
    let store = Stmt::Store {
        buffer: sums,
        index,
        value: draft.exprs.constant(dtype, Scalar::zero(dtype)),
    };
    let lanes = draft.all(places[2], Bind::Lanes, vec![store]);
    let clear = draft.nested(&places[..2], vec![lanes]);

    // The pieces: the axes of the sum around the one that is cut, then its parts.
    let part = draft.axis("part", draft.extent(k[within]) / step);
    let part_value = draft.exprs.axis(part);
    let from = draft.mul_add(part_value, step, zero);
    let tap = draft.axis("tap", taps);
    let tap_value = draft.exprs.axis(tap);
    let tile = draft.axis("tile", m / rows);
    let tile_value = draft.exprs.axis(tile);
    let first_row = draft.mul_add(tile_value, rows, zero);
    let mut at: HashMap<ExprId, ExprId> = known.clone();
    at.extend(draft.known_at(&form.taps, tap_value));
    for (place, &axis) in k.iter().enumerate() {
        let value = match place.cmp(&within) {
            std::cmp::Ordering::Less => draft.exprs.axis(axis),
            std::cmp::Ordering::Equal => from,
            std::cmp::Ordering::Greater => zero,
        };
        at.insert(draft.source.axis(axis), value);
    }
    at.insert(draft.source.axis(row), first_row);
    at.insert(draft.source.axis(column), zero);
    let side = |draft: &mut Draft, id: ExprId, across: Option<AxisId>| {
        let (buffer, address) = direct(draft, id, k).expect("sides are read where they lie");
        Operand {
            buffer,
            start: begin(draft, &address, &[], &at),
            across: across.map_or(1, |axis| address.factor(axis) as usize),
            lines: None,
            pieces: None,
            along: k[within..].iter().map(|&axis| address.factor(axis) as usize).collect(),
        }
    };
    let a = side(draft, form.contraction.a, Some(row));
    let b = side(draft, form.contraction.b, None);
    let start = draft.mul_add(tap_value, m, first_row);
    let c = Operand {
        buffer: sums,
        start: draft.mul_add(start, LANES, zero),
        across: LANES,
        lines: None,
        pieces: None,
        along: Vec::new(),
    };
    let inside = k[within + 1..].iter().map(|&axis| draft.extent(axis));
    let contract = Stmt::Contract(Contract {
        dtype,
        rows,
        columns: LANES,
        k: std::iter::once(step).chain(inside).collect(),
        a,
        b,
        c,
        accumulate: true,
        ahead: 0,
    });
    let around: Vec<AxisId> = k[..within].iter().copied().chain([part, tap, tile]).collect();
    let sum = draft.nested(&around, vec![contract]);

    // What is computed from the sums.
    let places = ["tap", "row"].into_iter().zip([taps, m]);
    let places: Vec<AxisId> = places.map(|(name, extent)| draft.axis(name, extent)).collect();
    let [tap_value, row_value, column_value] = [places[0], places[1], column].map(|axis| draft.exprs.axis(axis));
    known.extend(draft.known_at(&form.taps, tap_value));
    known.insert(draft.source.axis(row), row_value);
    let load = draft
        .exprs
        .load(sums, dtype, vec![tap_value, row_value, column_value], false);
    known.insert(form.contraction.fold, load);
    let stores = draft.stores(tasks, &mut known);
    let lanes = draft.all(column, Bind::Lanes, stores);
    let write = draft.nested(&places, vec![lanes]);
    draft.all(task, Bind::Workers, [clear, sum, write].concat())
}
