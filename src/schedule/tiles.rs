//! Reads against the grain on a GPU: tensors whose neighbours lie along another axis than those of the result, as in transposed matrices. A workgroup
//! reads a square of such a tensor along its lines into memory that it shares, and writes a square of the result along the other ones.

use std::collections::HashMap;

use netloom_ir::kernel::{AxisId, Bind, ExprId, Prim, Role, Stmt};
use netloom_ir::{DType, Target};

use super::draft::{Draft, Task};

/// The side of a square: neighbours enough to fill lines of the cache, in a quarter of what the smallest devices let a workgroup share.
const SIDE: usize = 32;
/// Invocations across a square, of which each row takes one.
const ROWS: usize = 4;
/// The fewest neighbours: of fewer, most of a square is empty. A guess.
const LEAST: usize = SIDE / 2;
/// The most bytes of squares: what every device lets a workgroup share.
const MOST_BYTES: usize = 16 << 10;

/// Tasks that read some tensors against the grain.
pub struct Tiles {
    /// The loads, each along the same lines.
    loads: Vec<ExprId>,
    /// The axes of squares.
    outer: Vec<AxisId>,
    /// The axis along which lies what is read.
    row: AxisId,
    /// The axis along which lies what is written.
    lane: AxisId,
}

impl Tiles {
    /// Those of tasks over the same axes, which have no folds.
    pub fn of(draft: &mut Draft, tasks: &[Task], target: &Target) -> Option<Tiles> {
        if !target.workgroups {
            return None;
        }
        let Task {
            buffer, over, index, ..
        } = tasks[0].clone();
        let written = draft.address(buffer, &index)?;
        let is_long = |draft: &Draft, axis: AxisId| draft.extent(axis) >= LEAST;
        let lane = (over.iter().copied()).find(|&axis| written.factor(axis) == 1 && is_long(draft, axis))?;
        let values: Vec<ExprId> = tasks.iter().map(|task| task.value).collect();
        let (mut loads, mut row, mut bytes) = (Vec::new(), None, 0);
        for id in draft.below(&values) {
            let Some((_, address)) = draft.load_address(id) else {
                continue;
            };
            let is_row = |axis: &AxisId| address.factor(*axis) == 1 && *axis != lane && is_long(draft, *axis);
            let own = over.iter().copied().find(is_row);
            bytes += square(draft.source.dtype(id));
            if own.is_some() && (row.is_none() || row == own) && address.factor(lane) > 1 && bytes <= MOST_BYTES {
                row = own;
                loads.push(id);
            } else {
                bytes -= square(draft.source.dtype(id));
            }
        }
        let row = row?;
        Some(Tiles {
            loads,
            outer: over.into_iter().filter(|&axis| axis != row && axis != lane).collect(),
            row,
            lane,
        })
    }
}

/// The bytes of a square in memory that a workgroup shares, where small types take four.
fn square(dtype: DType) -> usize {
    SIDE * (SIDE + 1) * dtype.size_bytes().max(4)
}

/// A square's place along one of its axes.
struct Edge {
    axis: AxisId,
    extent: usize,
    start: ExprId,
}

impl Edge {
    /// Where something so far from the start is: clamped, with the condition under which it need not be, unless that always holds.
    fn at(&self, draft: &mut Draft, offset: ExprId) -> (ExprId, Option<ExprId>) {
        let wanted = draft.i64(Prim::Add, self.start, offset);
        if self.extent.is_multiple_of(SIDE) {
            return (wanted, None);
        }
        let (at, is_inside) = draft.edge(wanted, self.extent);
        (at, Some(is_inside))
    }
}

/// The loops.
pub fn schedule(draft: &mut Draft, tasks: &[Task], tiles: &Tiles) -> Stmt {
    let sides = [tiles.row, tiles.lane];
    let blocks = sides.map(|axis| draft.axis("square", draft.extent(axis).div_ceil(SIDE)));
    let shared: Vec<AxisId> = tiles.outer.iter().copied().chain(blocks).collect();
    let (group, numbers) = draft.share(&shared);
    let known: HashMap<ExprId, ExprId> = draft.known(&tiles.outer, &numbers).into_iter().collect();
    let zero = draft.int(0);
    let [row, lane] = [0, 1].map(|side| Edge {
        axis: sides[side],
        extent: draft.extent(sides[side]),
        start: draft.mul_add(numbers[tiles.outer.len() + side], SIDE, zero),
    });
    let [across, down, step] =
        [("across", SIDE), ("down", ROWS), ("step", SIDE / ROWS)].map(|(name, count)| draft.axis(name, count));
    let [first, own, number] = [across, down, step].map(|axis| draft.exprs.axis(axis));
    let second = draft.mul_add(number, ROWS, own);

    let mut inside = known.clone();
    for (edge, offset) in [(&row, first), (&lane, second)] {
        let (at, _) = edge.at(draft, offset);
        inside.insert(draft.source.axis(edge.axis), at);
    }
    let mut outside = known;
    let mut conditions = Vec::new();
    for (edge, offset) in [(&row, second), (&lane, first)] {
        let (at, condition) = edge.at(draft, offset);
        outside.insert(draft.source.axis(edge.axis), at);
        conditions.extend(condition);
    }
    let mut read = Vec::new();
    for &load in &tiles.loads {
        let dtype = draft.source.dtype(load);
        // A line is one element longer, so that its column lies in other banks of the memory.
        let tile = draft.scratch("tile", dtype, vec![SIDE, SIDE + 1], Role::GroupScratch);
        read.push(Stmt::Store {
            buffer: tile,
            index: vec![second, first],
            value: draft.import(&mut inside, load),
        });
        outside.insert(load, draft.exprs.load(tile, dtype, vec![first, second], false));
    }
    let stores = draft.stores(tasks, &mut outside);
    let write = draft.under(conditions, stores);
    let mut square = |body| {
        let steps = draft.all(step, Bind::Unroll, body);
        let downwards = draft.all(down, Bind::Item(1), vec![steps]);
        draft.all(across, Bind::Item(0), vec![downwards])
    };
    let body = vec![square(read), Stmt::Barrier, square(write)];
    draft.all(group, Bind::Group, body)
}
