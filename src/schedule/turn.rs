//! Copies against the grain, whose rows are columns of what they read: square by square, so that a line of the cache that is read serves all of its
//! elements.

use std::collections::HashMap;

use netloom_ir::kernel::{AxisId, Bind, Prim, Stmt};

use super::draft::{Draft, Grain, Task};
use super::fold::Plan;

/// The side of a square that one worker turns: as many lines and pages as the first caches hold on both sides.
pub const SIDE: usize = 64;

/// The loops.
pub struct Turn {
    /// The axes of squares.
    outer: Vec<AxisId>,
    /// The axis along which lies what is read.
    row: AxisId,
    /// The axis along which lies what is written.
    lane: AxisId,
}

impl Turn {
    /// The loops of a task that copies a tensor so.
    pub fn of(draft: &mut Draft, tasks: &[Task], plan: &Plan) -> Option<Turn> {
        let ([task], Some(lane), Grain::Blocks) = (tasks, plan.lane, draft.grain) else {
            return None;
        };
        let (_, address) = draft.load_address(task.value)?;
        let is_row = |axis: &AxisId| address.factor(*axis) == 1 && draft.extent(*axis) > 1;
        let row = plan.outer.iter().copied().find(is_row)?;
        (address.factor(lane) > 1).then(|| Turn {
            outer: plan.outer.iter().copied().filter(|&axis| axis != row).collect(),
            row,
            lane,
        })
    }
}

/// The loops of the task.
pub fn schedule(draft: &mut Draft, tasks: &[Task], turn: &Turn) -> Stmt {
    let sides = [turn.row, turn.lane].map(|axis| (axis, draft.extent(axis)));
    let squares = sides.map(|(_, extent)| draft.axis("square", extent.div_ceil(SIDE)));
    let shared: Vec<AxisId> = turn.outer.iter().copied().chain(squares).collect();
    let (task, numbers) = draft.share(&shared);
    let mut known: HashMap<_, _> = (shared.iter().map(|&axis| draft.source.axis(axis)))
        .zip(numbers.iter().copied())
        .collect();
    let zero = draft.int(0);
    let [(row, rows), (lane, lanes)] = [(0, "row"), (1, "lane")].map(|(side, name)| {
        let (of, extent) = sides[side];
        let inner = draft.axis(name, extent.min(SIDE));
        let start = draft.mul_add(numbers[turn.outer.len() + side], SIDE, zero);
        let value = draft.exprs.axis(inner);
        let at = draft.i64(Prim::Add, start, value);
        known.insert(draft.source.axis(of), at);
        (inner, draft.rest(extent, start, SIDE))
    });
    let line = Stmt::Loop {
        axis: lane,
        extent: lanes,
        bind: Bind::Lanes,
        body: draft.stores(tasks, &mut known),
    };
    let square = Stmt::Loop {
        axis: row,
        extent: rows,
        bind: Bind::Serial,
        body: vec![line],
    };
    draft.all(task, Bind::Workers, vec![square])
}
