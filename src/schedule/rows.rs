//! Results of few lanes each, as those of windows over images in blocks of channels: a line of them, one row of lanes after the other, is one call of
//! assembled code. Where windows reach beyond the image, the ends of the line stand apart, so that between them nothing asks whether it is inside.

use std::collections::HashMap;
use std::ops::Range;

use netloom_ir::kernel::index::affine;
use netloom_ir::kernel::{AxisId, Bind, Expr, Prim, Stmt};

use super::draft::{Draft, Grain, Task};
use super::fold::Plan;

/// From so many lanes on a row is worth a call of its own.
const MANY_LANES: usize = 64;
/// A shorter line is not worth two ends. A guess.
const SHORT_LINE: usize = 4;

/// The loops.
pub struct Rows {
    /// The axes shared among workers.
    outer: Vec<AxisId>,
    /// The axis whose every place is a row.
    line: AxisId,
    /// The places at which all windows are inside along the line.
    inside: Range<usize>,
    lane: AxisId,
}

impl Rows {
    /// The loops of tasks over the same axes without folds, if their lanes are few.
    pub fn of(draft: &Draft, tasks: &[Task], plan: &Plan) -> Option<Rows> {
        let (lane, (&line, outer)) = (plan.lane?, plan.outer.split_last()?);
        let roots: Vec<_> = tasks.iter().map(|task| task.value).collect();
        let is_long = draft.extent(line) >= SHORT_LINE && draft.count(outer) >= super::SHARES;
        let is_narrow = draft.grain == Grain::Blocks && draft.extent(lane) < MANY_LANES;
        if !is_long || !is_narrow || !draft.folds(&roots).is_empty() {
            return None;
        }
        let mut inside = 0..draft.extent(line);
        for id in draft.below(&roots) {
            let Expr::Load {
                buffer,
                index,
                guarded: true,
            } = draft.source.get(id)
            else {
                continue;
            };
            let shape = &draft.buffers[buffer.at()].ty.shape;
            for (&at, &extent) in index.iter().zip(shape) {
                let Some(address) = affine(&draft.source, at) else {
                    continue;
                };
                // Of an index that other axes move too, no place is always inside.
                if let [(axis, step @ 1..)] = address.terms[..]
                    && axis == line
                {
                    // The first places at which the index is not below 0, and not below the extent.
                    let [from, to] = [0, extent as i64].map(|limit| (limit - address.constant).max(0) as usize);
                    let [from, to] = [from, to].map(|distance| distance.div_ceil(step as usize));
                    inside = inside.start.max(from)..inside.end.min(to);
                }
            }
        }
        (!inside.is_empty()).then(|| Rows {
            outer: outer.to_vec(),
            line,
            inside,
            lane,
        })
    }
}

/// The loops for tasks over the same axes.
pub fn schedule(draft: &mut Draft, tasks: &[Task], rows: &Rows) -> Stmt {
    let Rows {
        outer,
        line,
        inside,
        lane,
    } = rows;
    let (task, numbers) = draft.share(outer);
    let known: HashMap<_, _> = (outer.iter().map(|&axis| draft.source.axis(axis)))
        .zip(numbers)
        .collect();
    let mut body = Vec::new();
    for part in [0..inside.start, inside.clone(), inside.end..draft.extent(*line)] {
        if part.is_empty() {
            continue;
        }
        let row = draft.axis("row", part.len());
        let (start, row_value) = (draft.int(part.start), draft.exprs.axis(row));
        let at = draft.i64(Prim::Add, start, row_value);
        let mut known = known.clone();
        known.insert(draft.source.axis(*line), at);
        let stores = draft.stores(tasks, &mut known);
        let lanes = draft.all(*lane, Bind::Lanes, stores);
        body.push(draft.all(row, Bind::Serial, vec![lanes]));
    }
    draft.all(task, Bind::Workers, body)
}
