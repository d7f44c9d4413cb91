//! Contractions: blocks of `Σ_k A[m, k] · B[k, n]` by the batch-reduce tile, with whatever is computed from them.
//!
//! The sum is never split, so the sizes of the tile, which depend on the machine, change no bit. Tiles at the edges are moved back over
//! their neighbours (rows) or hold columns that nobody reads, so one size of tile does.

use std::collections::{BTreeSet, HashMap};

use netloom_ir::kernel::index::Affine;
use netloom_ir::kernel::{AxisId, Bind, BufferId, Combine, Contract, Expr, ExprId, Operand, Prim, Role, Stmt};
use netloom_ir::{DType, Target};

use super::draft::{Draft, Task};
use super::fold::once;

/// A fold that is a contraction.
#[derive(Clone, Debug)]
pub struct Form {
    /// The fold.
    pub fold: ExprId,
    dtype: DType,
    /// The axes summed over.
    k: Vec<AxisId>,
    /// The side whose rows are the tile's rows.
    pub a: ExprId,
    /// The side whose columns run along the lanes.
    pub b: ExprId,
    /// The axis of the tile's rows.
    row: AxisId,
    /// The axis of the tile's columns.
    column: AxisId,
    /// Every other axis of the result.
    outer: Vec<AxisId>,
}

impl Form {
    /// The contraction that a fold is, if it is one, for results stored by `task`.
    pub fn of(draft: &mut Draft, fold: ExprId, task: &Task) -> Option<Form> {
        let Expr::Fold {
            with: Combine::Sum,
            over: k,
            value,
        } = draft.source.get(fold).clone()
        else {
            return None;
        };
        let dtype = draft.source.dtype(fold);
        let Expr::Prim(Prim::Mul, _, args) = draft.source.get(value).clone() else {
            return None;
        };
        if !matches!(dtype, DType::F32 | DType::F64) {
            return None;
        }
        let [x, y] = [args[0], args[1]].map(|side| draft.free(side));
        let only = |side: &BTreeSet<AxisId>, other: &BTreeSet<AxisId>| -> Vec<AxisId> {
            side.iter()
                .copied()
                .filter(|axis| !other.contains(axis) && !k.contains(axis))
                .collect()
        };
        let sides = [(args[0], only(&x, &y)), (args[1], only(&y, &x))];
        if sides.iter().any(|(_, axes)| draft.count(axes) < 2) {
            return None;
        }
        let stored = draft.address(task.buffer, &task.index);
        let contiguous = |axis: &&AxisId| stored.as_ref().is_some_and(|address| address.factor(**axis) == 1);
        let swap = match sides
            .iter()
            .position(|(_, axes)| axes.iter().find(contiguous).is_some())
        {
            Some(place) => place == 0,
            None => draft.count(&sides[0].1) > draft.count(&sides[1].1),
        };
        let [(a, m), (b, n)] = if swap {
            let [x, y] = sides.clone();
            [y, x]
        } else {
            sides.clone()
        };
        let row = *m
            .iter()
            .max_by_key(|&&axis| draft.extent(axis))
            .expect("an axis of rows");
        let column = *n.iter().find(contiguous).or(n.last()).expect("an axis of columns");
        let axes = draft.free(fold);
        let outer = axes.into_iter().filter(|&axis| axis != row && axis != column).collect();
        Some(Form {
            fold,
            dtype,
            k,
            a,
            b,
            row,
            column,
            outer,
        })
    }

    /// Whether the tile can read A where it lies.
    pub fn reads_a(&self, draft: &mut Draft) -> bool {
        direct(draft, self.a, &[&self.k[..], &[self.row]].concat()).is_some()
    }

    /// Whether a task ranges over exactly the axes of the contraction's result.
    pub fn spans(&self, task: &Task) -> bool {
        let axes: BTreeSet<AxisId> = self.outer.iter().copied().chain([self.row, self.column]).collect();
        axes == task.over.iter().copied().collect() && self.outer.iter().all(|axis| !self.k.contains(axis))
    }

    /// Whether so few tiles have such long sums that these must be cut to give several workers something to do.
    pub fn is_narrow(&self, draft: &Draft) -> bool {
        let tiles =
            draft.count(&self.outer) * draft.extent(self.row).div_ceil(16) * draft.extent(self.column).div_ceil(16);
        tiles < 8 && draft.count(&self.k) > super::LONG
    }
}

/// Where a side lies, if it is a tensor read with constant strides that are not negative.
fn direct(draft: &mut Draft, side: ExprId, along: &[AxisId]) -> Option<(BufferId, Affine)> {
    let (buffer, address) = draft.load_address(side)?;
    along
        .iter()
        .all(|&axis| address.factor(axis) >= 0)
        .then_some((buffer, address))
}

/// The rows and columns of a tile: as many as the registers hold, nearly dividing the result's. At least 8 sums in flight hide the latency
/// of a fused multiply-add; measured, any such tile is at 98 % of an AVX-512 machine's peak, and 6 rows of 2 vectors at AVX2's.
fn tile(dtype: DType, target: &Target, m: usize, n: usize) -> (usize, usize) {
    let columns = if n > 16 && n.next_multiple_of(32) <= n.next_multiple_of(16) * 21 / 20 {
        32
    } else {
        16
    };
    let columns = if target.vector_registers < 32 { 16 } else { columns };
    let vectors = (columns * dtype.size_bytes()).div_ceil(4 * target.vector_lanes);
    let sums = match (target.vector_registers, target.vector_lanes) {
        (32.., _) => 28,
        (_, 8..) => 12,
        _ => 8,
    };
    let most = (sums / vectors).max(1);
    (m.div_ceil(m.div_ceil(most)), columns)
}

/// The loops for tasks that range over the contraction's axes.
pub fn schedule(draft: &mut Draft, tasks: &[Task], form: &Form, target: &Target) -> Stmt {
    let Form {
        dtype,
        row,
        column,
        ref k,
        ref outer,
        ..
    } = *form;
    let (m, n) = (draft.extent(row), draft.extent(column));
    let (rows, columns) = tile(dtype, target, m, n);
    let (tiles, panels) = (m.div_ceil(rows), n.div_ceil(columns));
    let depth = draft.count(k);

    // A task is one panel of columns for a group of tiles of rows.
    let others = draft.count(outer) * panels;
    let groups = tiles.min(16usize.div_ceil(others.max(1)));
    let each = tiles.div_ceil(groups);
    let groups = tiles.div_ceil(each);
    let task = draft.axis("task", others * groups);
    let mut rest = draft.exprs.axis(task);
    let mut split = |draft: &mut Draft, extent: usize| {
        let extent = draft.int(extent);
        let digit = draft.i64(Prim::Rem, rest, extent);
        rest = draft.i64(Prim::Div, rest, extent);
        digit
    };
    let group = split(draft, groups);
    let panel = split(draft, panels);
    let mut known = HashMap::new();
    for &axis in outer.iter().rev() {
        let digit = split(draft, draft.extent(axis));
        known.insert(draft.source.axis(axis), digit);
    }
    let zero = draft.int(0);
    let first_column = draft.mul_add(panel, columns, zero);
    let lane = draft.axis("lane", columns.min(n));
    let valid_columns = draft.rest(n, first_column, columns);
    let lane_value = draft.exprs.axis(lane);
    let at_column = draft.i64(Prim::Add, first_column, lane_value);
    known.insert(draft.source.axis(column), at_column);

    let mut body = Vec::new();
    let extents: Vec<usize> = k.iter().map(|&axis| draft.extent(axis)).collect();
    let (b, shift) = match side_b(draft, form, columns, tiles, &known, first_column) {
        Some(direct) => direct,
        None => {
            let panel = draft.scratch("panel", dtype, vec![depth, columns], Role::WorkerScratch);
            let mut at = zero;
            for &axis in k {
                let value = draft.exprs.axis(axis);
                at = draft.mul_add(at, draft.extent(axis), value);
            }
            let value = draft.import(&mut known, form.b);
            let store = Stmt::Store {
                buffer: panel,
                index: vec![at, lane_value],
                value,
            };
            let mut pack = Stmt::Loop {
                axis: lane,
                extent: valid_columns,
                bind: Bind::Lanes,
                body: vec![store],
            };
            for &axis in k.iter().rev() {
                pack = draft.all(axis, Bind::Serial, vec![pack]);
            }
            body.push(pack);
            (
                Operand {
                    buffer: panel,
                    start: zero,
                    across: 1,
                    along: strides(&extents, columns),
                },
                zero,
            )
        }
    };

    // The last tile is moved back to end with the rows.
    let tile = draft.axis("tile", each);
    let tile_value = draft.exprs.axis(tile);
    let number = draft.mul_add(group, each, tile_value);
    let first_row = draft.mul_add(number, rows, zero);
    let last = draft.int(m - rows);
    let start = draft.i64(Prim::Min, first_row, last);
    let a = {
        let (buffer, address) =
            direct(draft, form.a, &[&k[..], &[row]].concat()).expect("A is staged unless it can be read where it lies");
        known.insert(draft.source.axis(row), start);
        Operand {
            buffer,
            start: begin(draft, &address, k, &known),
            across: address.factor(row) as usize,
            along: k.iter().map(|&axis| address.factor(axis) as usize).collect(),
        }
    };
    let scratch = draft.scratch("tile", dtype, vec![rows, columns], Role::WorkerScratch);
    let c = Operand {
        buffer: scratch,
        start: zero,
        across: columns,
        along: vec![],
    };
    let contract = Stmt::Contract(Contract {
        dtype,
        rows,
        columns,
        k: extents,
        a,
        b,
        c,
        accumulate: false,
    });

    let valid_rows = draft.rest(m, first_row, rows);
    let inner = draft.axis("row", rows);
    let inner_value = draft.exprs.axis(inner);
    let at_row = draft.i64(Prim::Add, first_row, inner_value);
    // What is computed from the tile was not imported yet, unless it is part of B.
    let mut known: HashMap<ExprId, ExprId> = (known.into_iter())
        .filter(|(id, _)| matches!(draft.source.get(*id), Expr::Axis(axis) if *axis != row && !k.contains(axis)))
        .collect();
    known.insert(draft.source.axis(row), at_row);
    let tile_row = draft.i64(Prim::Sub, at_row, start);
    let tile_column = draft.i64(Prim::Add, lane_value, shift);
    let sum = draft.exprs.load(scratch, dtype, vec![tile_row, tile_column], false);
    known.insert(form.fold, sum);
    let stores = (tasks.iter())
        .map(|task| Stmt::Store {
            buffer: task.buffer,
            index: task.index.iter().map(|&id| draft.import(&mut known, id)).collect(),
            value: draft.import(&mut known, task.value),
        })
        .collect();
    let lanes = Stmt::Loop {
        axis: lane,
        extent: valid_columns,
        bind: Bind::Lanes,
        body: stores,
    };
    let write = Stmt::Loop {
        axis: inner,
        extent: valid_rows,
        bind: Bind::Serial,
        body: vec![lanes],
    };
    let first_tile = draft.mul_add(group, each, zero);
    let count = draft.rest(tiles, first_tile, each);
    body.push(Stmt::Loop {
        axis: tile,
        extent: count,
        bind: Bind::Serial,
        body: vec![contract, write],
    });
    if others * groups == 0 {
        return once(draft, Vec::new());
    }
    draft.all(task, Bind::Workers, body)
}

/// The strides of nested loops over contiguous elements of a size.
fn strides(extents: &[usize], size: usize) -> Vec<usize> {
    (0..extents.len())
        .map(|place| extents[place + 1..].iter().product::<usize>() * size)
        .collect()
}

/// B where it lies, and how far its columns are shifted within the tile: columns past the last are read too, and ignored, and where
/// those would lie outside the buffer the tile is moved back. `None` if B must be packed, or better is.
fn side_b(
    draft: &mut Draft,
    form: &Form,
    columns: usize,
    tiles: usize,
    known: &HashMap<ExprId, ExprId>,
    first_column: ExprId,
) -> Option<(Operand, ExprId)> {
    let Form { column, ref k, .. } = *form;
    let (buffer, address) = direct(draft, form.b, k)?;
    let ty = &draft.buffers[buffer.at()].ty;
    let reach: i64 = k
        .iter()
        .map(|&axis| address.factor(axis) * (draft.extent(axis) as i64 - 1))
        .sum();
    let limit = ty.layout.len(&ty.shape) as i64 - columns as i64 - reach;
    // A panel read many times with wide strides takes few sets of the cache, so it is copied; a copy costs one pass of tiles at most.
    let sparse = k
        .iter()
        .map(|&axis| address.factor(axis))
        .max()
        .is_some_and(|stride| stride > 4 * columns as i64);
    if address.factor(column) != 1 || limit < 0 || (sparse && tiles >= 4 && draft.count(k) >= 64) {
        return None;
    }
    let mut known = known.clone();
    known.insert(draft.source.axis(column), first_column);
    let wanted = begin(draft, &address, k, &known);
    let limit = draft.int(limit as usize);
    let start = draft.i64(Prim::Min, wanted, limit);
    let shift = draft.i64(Prim::Sub, wanted, start);
    let along = k.iter().map(|&axis| address.factor(axis) as usize).collect();
    Some((
        Operand {
            buffer,
            start,
            across: 1,
            along,
        },
        shift,
    ))
}

/// The address where a tile starts.
fn begin(draft: &mut Draft, address: &Affine, k: &[AxisId], known: &HashMap<ExprId, ExprId>) -> ExprId {
    let mut start = draft.exprs.int(address.constant);
    for &(axis, factor) in &address.terms {
        if !k.contains(&axis) {
            let key = draft.source.axis(axis);
            let factor = draft.exprs.int(factor);
            let term = draft.i64(Prim::Mul, known[&key], factor);
            start = draft.i64(Prim::Add, start, term);
        }
    }
    start
}
