//! Contractions by the workgroups of a GPU: a workgroup computes a tile of the result, steps of the sum at a time, for which it copies the panels of
//! both factors into memory that it shares, so that each element is read once for a whole line of the tile.
//!
//! Each invocation has several results in registers, as in [`super::registers`], and each result is summed in order, so tiles change no bit. Factors
//! are any expressions: images gathered for a convolution, or what an activation makes of them.

use std::collections::{BTreeSet, HashMap};

use netloom_ir::Target;
use netloom_ir::kernel::{AxisId, Bind, BufferId, Combine, Expr, ExprId, LocalId, Prim, Role, Stmt};

use super::draft::{Draft, Task};

/// The side of a tile, whose results lie along rows and columns.
const SIDE: usize = 64;
/// Steps of the sum for which panels are shared at once: both take 8 KiB of `f32`, half of what every device has.
const DEPTH: usize = 16;
/// Invocations along a tile's columns and rows: what every device has in a workgroup. Each has 4 by 8 results: 12 reads of shared memory for 32 terms.
const ACROSS: usize = 16;
const DOWN: usize = 8;
/// Fewer tiles leave a GPU idle. A guess.
const FEW_TILES: usize = 32;
/// The most bytes of an element in a panel.
const MOST_BYTES: usize = 4;
/// The most expressions written out of what follows, and of a term: more is a phase of its own.
const MOST_AFTER: usize = 4096;
const MOST_TERM: usize = 64;

/// A contraction whose results are a whole number of rows by columns, for each of a batch.
pub struct Panels {
    pub fold: ExprId,
    /// Axes that both factors have, or of one element: a tile is of one of these.
    batch: Vec<AxisId>,
    rows: Side,
    columns: Side,
    over: Vec<AxisId>,
}

/// A factor with the axes that it alone has.
struct Side {
    factor: ExprId,
    axes: Vec<AxisId>,
    /// Whether its neighbours lie along these axes, not along the sum.
    is_along: bool,
}

impl Panels {
    /// The tiles of a fold of tasks that is such a contraction and has enough of them.
    pub fn of(draft: &mut Draft, tasks: &[Task], folds: &[ExprId], target: &Target) -> Option<Panels> {
        folds
            .iter()
            .find_map(|&fold| Panels::of_fold(draft, tasks, fold, target))
    }

    fn of_fold(draft: &mut Draft, tasks: &[Task], fold: ExprId, target: &Target) -> Option<Panels> {
        let (over, args) = draft.factors(fold)?;
        let dtype = draft.source.dtype(fold);
        let free = draft.free(fold);
        let parallel: BTreeSet<AxisId> = tasks[0].over.iter().copied().collect();
        // The product itself is one more.
        let is_small = draft.below(&args).len() < MOST_TERM;
        let is_plain = target.workgroups && draft.folds(&args).is_empty() && is_small;
        if !is_plain || dtype.size_bytes() > MOST_BYTES || !free.is_subset(&parallel) || args[0] == args[1] {
            return None;
        }
        let own = [0, 1].map(|at| draft.free(args[at]));
        let results: Vec<AxisId> = tasks[0]
            .over
            .iter()
            .copied()
            .filter(|axis| free.contains(axis))
            .collect();
        let part = |first: bool, second: bool| -> Vec<AxisId> {
            let has = |axis: &&AxisId| [own[0].contains(axis), own[1].contains(axis)] == [first, second];
            results.iter().filter(has).copied().collect()
        };
        let mut sides = [(args[0], part(true, false)), (args[1], part(false, true))];
        // Neighbouring invocations write neighbours.
        let written = draft.address(tasks[0].buffer, &tasks[0].index);
        let is_contiguous = |axis: &AxisId| written.as_ref().is_some_and(|written| written.factor(*axis) == 1);
        if sides[0].1.iter().any(is_contiguous) {
            sides.reverse();
        }
        let is_single = |axis: &&AxisId| !free.contains(axis) && draft.extent(**axis) == 1;
        let single: Vec<AxisId> = tasks[0].over.iter().filter(is_single).copied().collect();
        let batch = [part(true, true), single].concat();
        let [rows, columns] = sides.each_ref().map(|(_, axes)| draft.count(axes));
        let tiles = draft.count(&batch) * rows.div_ceil(SIDE) * columns.div_ceil(SIDE);
        let is_large = rows >= SIDE / 2 && columns >= SIDE / 2 && draft.count(&over) >= DEPTH && tiles >= FEW_TILES;
        if !is_large {
            return None;
        }
        let [rows, columns] = sides.map(|(factor, axes)| Side {
            is_along: is_along(draft, factor, &axes),
            factor,
            axes,
        });
        Some(Panels {
            fold,
            batch,
            rows,
            columns,
            over,
        })
    }

    /// Whether it is all that the tasks fold, for each of their elements, and little follows it; otherwise it is to be staged.
    pub fn fits(&self, draft: &Draft, tasks: &[Task], folds: &[ExprId]) -> bool {
        let roots: Vec<ExprId> = tasks.iter().map(|task| task.value).collect();
        let after = draft.below(&roots).len() - draft.below(&[self.fold]).len();
        let free = draft.free(self.fold);
        let spans = tasks[0]
            .over
            .iter()
            .all(|&axis| free.contains(&axis) || draft.extent(axis) == 1);
        let results = SIDE * SIDE / (ACROSS * DOWN);
        folds.len() == 1 && spans && after * results <= MOST_AFTER
    }
}

/// Whether the first tensor that a factor reads is contiguous along the innermost of some axes.
fn is_along(draft: &mut Draft, factor: ExprId, axes: &[AxisId]) -> bool {
    let innermost = axes.iter().rev().copied().find(|&axis| draft.extent(axis) > 1);
    let load = draft
        .below(&[factor])
        .into_iter()
        .find_map(|id| match draft.source.get(id) {
            Expr::Load { buffer, index, .. } => Some((*buffer, index.clone())),
            _ => None,
        });
    let address = load.and_then(|(buffer, index)| draft.address(buffer, &index));
    innermost
        .zip(address)
        .is_some_and(|(axis, address)| address.factor(axis) == 1)
}

/// What a schedule writes down about one side.
struct Panel {
    /// Memory that the workgroup shares: steps by places along the tile.
    buffer: BufferId,
    /// The first place of the tile, and how many there are in all.
    start: ExprId,
    count: usize,
}

/// The loops.
pub fn schedule(draft: &mut Draft, tasks: &[Task], panels: &Panels) -> Stmt {
    let Panels {
        fold,
        batch,
        rows,
        columns,
        over,
    } = panels;
    let dtype = draft.source.dtype(*fold);
    let blocks = [rows, columns].map(|side| draft.axis("tile", draft.count(&side.axes).div_ceil(SIDE)));
    let shared: Vec<AxisId> = batch.iter().copied().chain(blocks).collect();
    let (group, numbers) = draft.share(&shared);
    let known: HashMap<ExprId, ExprId> = draft.known(batch, &numbers).into_iter().collect();
    let [across, down] = [("across", ACROSS), ("down", DOWN)].map(|(name, count)| draft.axis(name, count));
    let [column, row] = [across, down].map(|axis| draft.exprs.axis(axis));
    let item = draft.mul_add(row, ACROSS, column);

    let depth = draft.count(over);
    let turn = draft.axis("turn", depth.div_ceil(DEPTH));
    let turn_value = draft.exprs.axis(turn);
    let zero = draft.int(0);
    let first_step = draft.mul_add(turn_value, DEPTH, zero);
    let step = draft.axis("step", DEPTH.min(depth));
    let step_value = draft.exprs.axis(step);

    let mut copy = Vec::new();
    let [own_rows, own_columns] = [(rows, 0), (columns, 1)].map(|(side, number)| {
        let start = draft.mul_add(numbers[batch.len() + number], SIDE, zero);
        let panel = Panel {
            // A line is one element longer, so that elements of neighbouring steps lie in other banks of the memory.
            buffer: draft.scratch("panel", dtype, vec![DEPTH, SIDE + 1], Role::GroupScratch),
            start,
            count: draft.count(&side.axes),
        };
        copy.push(copied(draft, side, &panel, &known, (over, first_step), item));
        panel
    });

    let mut sums: Vec<(usize, usize, LocalId)> = Vec::new();
    for down in 0..SIDE / DOWN {
        for across in 0..SIDE / ACROSS {
            sums.push((down, across, draft.local("sum", dtype)));
        }
    }
    let none = draft.exprs.constant(dtype, Combine::Sum.identity(dtype));
    let mut body: Vec<Stmt> = (sums.iter())
        .map(|&(_, _, local)| Stmt::Set { local, value: none })
        .collect();
    let mut shared_element = |panel: &Panel, own: ExprId, number: usize, size: usize| {
        let further = draft.int(number * size);
        let at = draft.i64(Prim::Add, own, further);
        draft.exprs.load(panel.buffer, dtype, vec![step_value, at], false)
    };
    let left: Vec<ExprId> = (0..SIDE / DOWN)
        .map(|number| shared_element(&own_rows, row, number, DOWN))
        .collect();
    let right: Vec<ExprId> = (0..SIDE / ACROSS)
        .map(|number| shared_element(&own_columns, column, number, ACROSS))
        .collect();
    let terms = sums.iter().map(|&(down, across, local)| Stmt::Accumulate {
        local,
        with: Combine::Sum,
        value: draft.exprs.prim(Prim::Mul, dtype, &[left[down], right[across]]),
    });
    let terms = terms.collect();
    let steps = Stmt::Loop {
        axis: step,
        extent: match depth.is_multiple_of(DEPTH) {
            true => draft.int(DEPTH),
            false => draft.rest(depth, first_step, DEPTH),
        },
        bind: Bind::Serial,
        body: terms,
    };
    let mut turns = copy;
    turns.extend([Stmt::Barrier, steps, Stmt::Barrier]);
    body.push(draft.all(turn, Bind::Serial, turns));

    for (down, across, local) in sums {
        let mut known = known.clone();
        known.insert(*fold, draft.exprs.local(local, dtype));
        let mut conditions = Vec::new();
        for (side, panel, own, further) in [
            (rows, &own_rows, row, down * DOWN),
            (columns, &own_columns, column, across * ACROSS),
        ] {
            let further = draft.int(further);
            let within = draft.i64(Prim::Add, own, further);
            let wanted = draft.i64(Prim::Add, panel.start, within);
            let mut at = wanted;
            if !panel.count.is_multiple_of(SIDE) {
                let (clamped, is_inside) = draft.edge(wanted, panel.count);
                at = clamped;
                conditions.push(is_inside);
            }
            known.extend(draft.known_at(&side.axes, at));
        }
        let stores = draft.stores(tasks, &mut known);
        body.extend(draft.under(conditions, stores));
    }
    let downwards = draft.all(down, Bind::Item(1), body);
    let tile = draft.all(across, Bind::Item(0), vec![downwards]);
    draft.all(group, Bind::Group, vec![tile])
}

/// Copies some steps of a factor along a tile: neighbouring invocations take neighbours. What is outside is read where it is not, and not used.
fn copied(
    draft: &mut Draft,
    side: &Side,
    panel: &Panel,
    known: &HashMap<ExprId, ExprId>,
    (over, first): (&[AxisId], ExprId),
    item: ExprId,
) -> Stmt {
    let each = draft.axis("copy", SIDE * DEPTH / (ACROSS * DOWN));
    let number = draft.exprs.axis(each);
    let flat = draft.mul_add(number, ACROSS * DOWN, item);
    let [step, place] = match side.is_along {
        true => {
            let digits = draft.digits(flat, &[DEPTH, SIDE]);
            [digits[0], digits[1]]
        }
        false => {
            let digits = draft.digits(flat, &[SIDE, DEPTH]);
            [digits[1], digits[0]]
        }
    };
    let mut known = known.clone();
    for (axes, start, own, size, count) in [
        (&side.axes[..], panel.start, place, SIDE, panel.count),
        (over, first, step, DEPTH, draft.count(over)),
    ] {
        let wanted = draft.i64(Prim::Add, start, own);
        let at = match count.is_multiple_of(size) {
            true => wanted,
            false => draft.clamp(wanted, count),
        };
        known.extend(draft.known_at(axes, at));
    }
    let store = Stmt::Store {
        buffer: panel.buffer,
        index: vec![step, place],
        value: draft.import(&mut known, side.factor),
    };
    draft.all(each, Bind::Unroll, vec![store])
}
