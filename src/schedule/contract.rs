//! Contractions: blocks of `Σ_k A[m, k] · B[k, n]` by the batch-reduce tile, with whatever is computed from them.
//!
//! The sum is never split, so the sizes of the tile, which depend on the machine, change no bit. Tiles at the edges are moved back over
//! their neighbours (rows) or hold columns that nobody reads, so one size of tile does.

use std::collections::{BTreeSet, HashMap};

use netloom_ir::decisions::Decision;
use netloom_ir::kernel::index::Affine;
use netloom_ir::kernel::{AxisId, Bind, BufferId, Contract, Expr, ExprId, Lines, Operand, Prim, Role, Stmt};
use netloom_ir::{DType, Target};

use super::draft::{Draft, Task};
use super::fold::once;
use super::taps::Taps;
use super::turn::SIDE;

/// Bytes of the panels that one task computes side by side: half of a second-level cache of 1 MiB, so that they stay there from one block
/// of rows to the next.
const STRIP_BYTES: usize = 512 << 10;
/// The sets of the caches, as bytes after which addresses fall into the same set again, and the lines that a set holds, as found in most
/// processors: what is read again and again must not take more.
const FIRST_CACHE: (usize, usize) = (4 << 10, 8);
const SECOND_CACHE: (usize, usize) = (128 << 10, 8);
/// The second cache of most processors with AVX-512 (Intel's for servers, AMD's since Zen 5; Zen 4 has the one above).
const WIDE_SECOND_CACHE: (usize, usize) = (128 << 10, 16);
/// Tiles of so many rows read a panel of B seldom enough to share the second cache's sets with no one; lower ones have half of them.
const HIGH_TILE: usize = 12;

/// Whether `count` lines so many bytes apart do not fit into a cache because they share too few of its sets.
fn crowds(count: usize, bytes: usize, (period, ways): (usize, usize)) -> bool {
    let powers = 1 << bytes.trailing_zeros().min(period.trailing_zeros());
    bytes > 64 && count > ways * (period / powers)
}

/// A side of so many bytes has left the second cache before it is read again.
const FAR_BYTES: usize = 256 << 10;
/// How far ahead it is brought back: about what is read in the time that takes. Measured: at 2 KiB a tile still waits.
const AHEAD_BYTES: usize = 8 << 10;
/// The same in steps of the sum, where these are so far apart that each is a line of its own.
const AHEAD_STEPS: usize = 16;

/// So many vectors of sums in flight hide the latency of a fused multiply-add, and of what they wait for in the second cache.
const ENOUGH_SUMS: usize = 14;
/// With fewer a tile waits for them.
const FEWEST_SUMS: usize = 12;

/// The rows of a tile that cost as much as reading B for it.
const READING: usize = 6;

/// The columns of a result of one row that make a tile worth while, and the bytes of a matrix that lies in the second cache from one vector to
/// the next: a larger one comes from memory, which the loops of a fold read faster.
const WIDE_ROW: usize = 64;
const NEAR_BYTES: usize = 1 << 20;

/// The longest sum whose side is packed only to fill more lanes: then a panel of it is read from the second cache. A guess.
const MOST_PACKED: usize = 8192;

/// A fold that is a contraction.
#[derive(Clone, Debug)]
pub struct Form {
    /// The fold.
    pub fold: ExprId,
    pub dtype: DType,
    /// The axes summed over.
    pub k: Vec<AxisId>,
    /// The side whose rows are the tile's rows.
    pub a: ExprId,
    /// The side whose columns run along the lanes.
    pub b: ExprId,
    /// The axis of the tile's rows.
    pub row: AxisId,
    /// Where a row is a line of an image: the axis along it, all of which is rows of the tile.
    line: Option<AxisId>,
    /// The axis of the tile's columns.
    pub column: AxisId,
    /// Every other axis of the result.
    pub outer: Vec<AxisId>,
    /// Whether the result is contiguous along the tile's rows, rather than its columns.
    pub along_rows: bool,
}

impl Form {
    /// The contraction that a fold is, if it is one, for results stored by `task`.
    pub fn of(draft: &mut Draft, fold: ExprId, task: &Task) -> Option<Form> {
        let (k, args) = draft.factors(fold)?;
        let dtype = draft.source.dtype(fold);
        if !matches!(dtype, DType::F32 | DType::F64) {
            return None;
        }
        let [x, y] = args.map(|side| draft.free(side));
        let only = |side: &BTreeSet<AxisId>, other: &BTreeSet<AxisId>| -> Vec<AxisId> {
            side.iter()
                .copied()
                .filter(|axis| !other.contains(axis) && !k.contains(axis))
                .collect()
        };
        let sides = [(args[0], only(&x, &y)), (args[1], only(&y, &x))];
        let counts = sides.each_ref().map(|(_, axes)| draft.count(axes));
        if counts.contains(&0) || sides.iter().any(|(_, axes)| axes.is_empty()) {
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
        let row = rows_axis(draft, a, &m);
        let column = *n.iter().find(contiguous).or(n.last()).expect("an axis of columns");
        let axes = draft.free(fold);
        let mut outer: Vec<AxisId> = axes.into_iter().filter(|&axis| axis != row && axis != column).collect();
        // The larger side is walked once, the smaller one again and again.
        let [small, large] = match draft.count(&draft.free(a)) > draft.count(&draft.free(b)) {
            true => [&n, &m],
            false => [&m, &n],
        };
        outer.sort_by_key(|axis| large.contains(axis).cmp(&small.contains(axis)).reverse());
        if counts.contains(&1) {
            let columns = draft.count(&n);
            let is_near = columns >= WIDE_ROW && draft.count(&k) * columns * dtype.size_bytes() <= NEAR_BYTES;
            let address = direct(draft, b, &[&k[..], &[column]].concat()).filter(|_| is_near);
            address.filter(|(_, address)| address.factor(column) == 1)?;
        }
        let form = Form {
            fold,
            dtype,
            k,
            a,
            b,
            row,
            line: None,
            column,
            outer,
            along_rows: false,
        };
        Some(match form.is_better_transposed(draft) {
            true => Form {
                a: form.b,
                b: form.a,
                row: form.column,
                column: form.row,
                along_rows: true,
                ..form
            },
            false => form,
        })
    }

    /// Whether to compute the transposed result: then A, the smaller side, is packed, not B, which must be read against the grain.
    fn is_better_transposed(&self, draft: &mut Draft) -> bool {
        let (a_free, k) = (draft.free(self.a), &self.k);
        let Some((_, address)) = direct(draft, self.b, &[&k[..], &[self.column]].concat()) else {
            return false;
        };
        let (m, n) = (draft.extent(self.row), draft.extent(self.column));
        let once = a_free.iter().all(|axis| k.contains(axis) || *axis == self.row);
        let full = |extent: usize| extent as f64 / extent.next_multiple_of(16) as f64;
        let against = address.factor(self.column) != 1 && self.outer.is_empty() && m <= n;
        let empty = full(n) < 0.5 && full(m) > 2.0 * full(n) && draft.count(k) <= MOST_PACKED;
        once && (against || empty)
    }

    /// The same with several short lines of an image in a tile, where one would not fill it.
    fn in_lines(&self, draft: &mut Draft, target: &Target) -> Form {
        let (form, length) = (self.clone(), draft.extent(self.row));
        if self.along_rows
            || length >= ENOUGH_SUMS
            || 2 * length
                > most_rows(
                    draft,
                    self.dtype,
                    target,
                    tile_columns(draft, self.dtype, target, ENOUGH_SUMS, draft.extent(self.column)),
                )
        {
            return form;
        }
        let Some((_, address)) = direct(draft, self.a, &[&self.k[..], &[self.row]].concat()) else {
            return form;
        };
        let (a_free, b_free) = (draft.free(self.a), draft.free(self.b));
        let is_across = |axis: &&AxisId| {
            let pitch = address.factor(**axis);
            a_free.contains(axis) && !b_free.contains(axis) && pitch >= length as i64 * address.factor(self.row)
        };
        let next = self
            .outer
            .iter()
            .filter(is_across)
            .min_by_key(|&&axis| address.factor(axis));
        next.map_or(form.clone(), |&row| Form {
            row,
            line: Some(self.row),
            outer: form.outer.iter().copied().filter(|&axis| axis != row).collect(),
            ..form
        })
    }

    /// Whether the tile can read A where it lies.
    pub fn reads_a(&self, draft: &mut Draft) -> bool {
        direct(draft, self.a, &[&self.k[..], &[self.row]].concat()).is_some()
    }

    /// Whether a side is a tensor with zeros around it which is read several times: a copy with the zeros can be read where it lies.
    pub fn is_padded(&self, draft: &Draft, side: ExprId) -> bool {
        let Expr::Load {
            buffer,
            index,
            guarded: true,
        } = draft.source.get(side)
        else {
            return false;
        };
        let ranges: Option<Vec<(i64, i64)>> = index.iter().map(|&at| draft.source.range(at)).collect();
        let Some(ranges) = ranges else { return false };
        let padded = ranges
            .iter()
            .map(|(low, high)| (high - low + 1) as usize)
            .product::<usize>();
        let axes: Vec<AxisId> = draft.free(side).into_iter().collect();
        let is_affine = |at: &ExprId| netloom_ir::kernel::index::affine(&draft.source, *at).is_some();
        let shape = &draft.buffers[buffer.at()].ty.shape;
        padded <= 4 * shape.iter().product::<usize>() && padded < draft.count(&axes) && index.iter().all(is_affine)
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
        tiles < 8 && draft.count(&self.k) > draft.grain.long()
    }
}

/// The axis of A that is best for a tile's rows: one that fills a tile, and of those the one whose rows lie closest.
fn rows_axis(draft: &mut Draft, a: ExprId, all: &[AxisId]) -> AxisId {
    let address = draft.load_address(a).map(|(_, address)| address);
    let apart = |axis: AxisId| address.as_ref().map_or(0, |address| address.factor(axis).abs());
    let mut axes: Vec<AxisId> = all.iter().copied().filter(|&axis| draft.extent(axis) > 1).collect();
    axes.sort_by_key(|&axis| apart(axis));
    // Two neighbours can be the lines of an image.
    let fills = |place: usize| {
        let extent = |place: usize| axes.get(place).map_or(1, |&axis| draft.extent(axis));
        extent(place) >= ENOUGH_SUMS || extent(place) > 1 && extent(place) * extent(place + 1) >= ENOUGH_SUMS
    };
    let best = (0..axes.len()).find(|&place| fills(place));
    let longest = || all.iter().copied().max_by_key(|&axis| draft.extent(axis));
    best.map(|place| axes[place]).or_else(longest).expect("an axis of rows")
}

/// Where a side lies, if it is a tensor read with constant strides that are not negative.
pub fn direct(draft: &mut Draft, side: ExprId, along: &[AxisId]) -> Option<(BufferId, Affine)> {
    let (buffer, address) = draft.load_address(side)?;
    along
        .iter()
        .all(|&axis| address.factor(axis) >= 0)
        .then_some((buffer, address))
}

/// The rows and columns of a tile: nearly as many as the registers hold, so that they leave few rows of the last tile empty; what a tile reads of
/// B costs as much as half a row more. Measured, any tile with [`ENOUGH_SUMS`] is at 98 % of an AVX-512 machine's peak, and 6 rows of 2 vectors at
/// AVX2's.
fn tile(draft: &Draft, dtype: DType, target: &Target, m: usize, n: usize) -> (usize, usize) {
    let columns = tile_columns(draft, dtype, target, m, n);
    let most = most_rows(draft, dtype, target, columns);
    let least = FEWEST_SUMS.div_ceil(vectors(dtype, target, columns)).min(most);
    let cost = |rows: &usize| m.div_ceil(*rows) * (2 * rows + 1);
    let rows = (least..=most).rev().min_by_key(cost).expect("a tile has a row");
    (m.div_ceil(m.div_ceil(rows)), columns)
}

/// The columns of a tile of a result of so many rows and columns: more of them where rows are so few that the sums in flight would not hide
/// the latency of an addition.
fn tile_columns(draft: &Draft, dtype: DType, target: &Target, m: usize, n: usize) -> usize {
    let is_full = n > 16 && n.next_multiple_of(32) <= n.next_multiple_of(16) * 21 / 20;
    let has_choice = target.vector_registers >= 32;
    let usual = if is_full && has_choice { 32 } else { 16 };
    let wide = (most_rows(draft, dtype, target, 16) / m.max(1)).min(n.div_ceil(16));
    if m * vectors(dtype, target, usual) >= ENOUGH_SUMS || 16 * wide <= usual {
        let decided = draft.decisions.get(Decision::Columns).filter(|_| has_choice);
        return decided.unwrap_or(usual);
    }
    // Of those that leave the fewest lanes empty the widest.
    let waste = |each: &usize| (n.div_ceil(16 * each) * each, std::cmp::Reverse(*each));
    16 * (wide / 2 + 1..=wide).min_by_key(waste).expect("a width")
}

/// The vectors of so many columns.
fn vectors(dtype: DType, target: &Target, columns: usize) -> usize {
    (columns * dtype.size_bytes()).div_ceil(4 * target.vector_lanes)
}

/// The most rows of a tile of so many columns.
pub fn most_rows(draft: &Draft, dtype: DType, target: &Target, columns: usize) -> usize {
    let vectors = vectors(dtype, target, columns);
    let sums = match (target.vector_registers, target.vector_lanes) {
        (32.., _) => 28,
        (_, 8..) => 12,
        _ => 8,
    };
    let decided = draft.decisions.get(Decision::Rows).unwrap_or(usize::MAX);
    (sums / vectors).clamp(1, decided)
}

/// How many of `count` tiles side by side one task computes before it writes them, so that what is written runs along many lanes: about
/// 128, or twice that where there are tasks enough, if it is not decided.
fn side_by_side(draft: &Draft, count: usize, size: usize, others: usize) -> usize {
    let usual = if others < 16 { 128 } else { 256 };
    let most = (draft.decisions.get(Decision::Strip).unwrap_or(usual) / size).max(1);
    let waste = |each: &usize| (count.next_multiple_of(*each), std::cmp::Reverse(*each));
    (most / 2 + 1..=most)
        .min_by_key(waste)
        .map_or(1, |each| each.min(count))
}

/// The loops for tasks that range over the contraction's axes, as phases.
pub fn schedule(draft: &mut Draft, tasks: &[Task], form: &Form, target: &Target) -> Vec<Stmt> {
    let taps = Taps::of(draft, form);
    let form = &form.in_lines(draft, target);
    let Form {
        dtype,
        row,
        line,
        column,
        ref k,
        ref outer,
        along_rows,
        ..
    } = *form;
    let length = line.map_or(1, |line| draft.extent(line));
    let band = Band::of(draft, form, target);
    let outer: Vec<AxisId> = (outer.iter().copied())
        .filter(|&axis| band.as_ref().is_none_or(|band| band.axis != axis))
        .collect();
    let taps = taps.filter(|taps| taps.is_over(&outer));
    let m = draft.extent(row);
    let n = band.as_ref().map_or(draft.extent(column), |band| band.columns);
    // Rows are counted in lines from here on.
    let (rows, columns) = match line {
        None => tile(draft, dtype, target, m, n),
        Some(_) => {
            let columns = tile_columns(draft, dtype, target, m * length, n);
            let most = most_rows(draft, dtype, target, columns) / length;
            // Every tile reads all of its side of B, which costs as much as some rows; what two tiles share is computed twice.
            let cost = |lines: &usize| m.div_ceil(*lines) * (lines * length + READING);
            ((1..=most).min_by_key(cost).expect("a line fits into a tile"), columns)
        }
    };
    let (tiles, panels) = (m.div_ceil(rows), n.div_ceil(columns));
    let bands = band.as_ref().map_or(1, |band| band.count);
    let others = draft.count(&outer) * bands;
    let (high, wide) = match along_rows {
        true => (side_by_side(draft, tiles, rows, others * panels).min(m / rows), 1),
        false if band.is_some() => (1, panels),
        false => {
            let fit = STRIP_BYTES / (draft.count(k) * columns * dtype.size_bytes()).max(1);
            (1, side_by_side(draft, panels, columns, others * tiles).min(fit.max(1)))
        }
    };
    let (blocks, strips) = (tiles.div_ceil(high), panels.div_ceil(wide));
    // As many tiles as blocks hold need no more rows than this.
    let rows = m.div_ceil(blocks * high);
    let source = source(draft, form, target, columns * wide, (m, rows));
    let b_free = draft.free(form.b);
    let b_outer: Vec<AxisId> = outer.iter().copied().filter(|axis| b_free.contains(axis)).collect();
    // A task is a strip of panels for one block of rows, or for all where it must pack the strip first. Where that makes few tasks, the strips are
    // packed once for all of them, and a task is a block again.
    let source = match source {
        Source::Packed { shared: false } if others * strips < super::SHARES && blocks > 1 => {
            Source::Packed { shared: true }
        }
        source => source,
    };
    let groups = match source {
        Source::Packed { shared: false } => 1,
        _ => blocks,
    };
    let each = blocks.div_ceil(groups);
    let groups = blocks.div_ceil(each);
    if others * groups == 0 {
        return vec![once(draft, Vec::new())];
    }

    let task = draft.axis("task", others * strips * groups);
    let mut rest = draft.exprs.axis(task);
    let mut split = |draft: &mut Draft, extent: usize| {
        let extent = draft.int(extent);
        let digit = draft.i64(Prim::Rem, rest, extent);
        rest = draft.i64(Prim::Div, rest, extent);
        digit
    };
    // A worker walks its part of the larger side for all of the smaller one: what it made of that part in the kernel before lies in its
    // core's cache, not in another's.
    let a_free = draft.free(form.a);
    let is_tall = draft.count(&a_free) > draft.count(&b_free);
    let is_around = |axis: &&AxisId| !is_tall || a_free.contains(axis);
    let (around, within) = outer.split_at(outer.iter().take_while(is_around).count());
    let mut known = HashMap::new();
    // Nothing lies within unless the rows are of the larger side.
    let [inner, middle] = if is_tall { [strips, groups] } else { [groups, strips] };
    let inner = split(draft, inner);
    for &axis in within.iter().rev() {
        let digit = split(draft, draft.extent(axis));
        known.insert(draft.source.axis(axis), digit);
    }
    let middle = split(draft, middle);
    for &axis in around.iter().rev() {
        let digit = split(draft, draft.extent(axis));
        known.insert(draft.source.axis(axis), digit);
    }
    let (group, strip) = if is_tall { (middle, inner) } else { (inner, middle) };
    let zero = draft.int(0);
    // The last band is moved back to end with the result's.
    let band = band.map(|band| {
        let number = split(draft, bands);
        let first = draft.mul_add(number, band.lines, zero);
        let last = draft.int(draft.extent(band.axis) - band.lines);
        let start = draft.i64(Prim::Min, first, last);
        known.insert(draft.source.axis(band.axis), start);
        (band, first, start)
    });
    let first_panel = draft.mul_add(strip, wide, zero);
    let (panel, panel_value) = turn(draft, "panel", wide);
    let panel_count = draft.rest(panels, first_panel, wide);
    let strip_column = draft.mul_add(strip, wide * columns, zero);
    // Where the lines of a band begin, no panel has to; elsewhere each is written when it is summed.
    let (first_column, panel_shift, width, run) = match band {
        Some(_) => {
            let shift = draft.mul_add(panel_value, columns, zero);
            (strip_column, shift, wide * columns, draft.extent(column))
        }
        None => {
            let first = draft.mul_add(panel_value, columns, strip_column);
            (first, zero, columns, columns.min(n))
        }
    };
    let valid_columns = match band {
        Some(_) => draft.int(run),
        None => draft.rest(n, first_column, columns),
    };

    let (mut phases, mut body) = (Vec::new(), Vec::new());
    let (b, shift) = match source {
        Source::Direct => direct_b(draft, form, width, &known, first_column, panel_shift),
        Source::Packed { shared } => {
            let (part, count) = match shared {
                true => (Part::Whole(&b_outer), panels),
                false => (Part::From(strip_column), wide),
            };
            let (buffer, pack) = pack(draft, form, columns, count, &known, part);
            let number = if shared {
                let mut at = zero;
                for &axis in &b_outer {
                    let key = draft.source.axis(axis);
                    at = draft.mul_add(at, draft.extent(axis), known[&key]);
                }
                let first = draft.mul_add(at, panels, first_panel);
                draft.i64(Prim::Add, first, panel_value)
            } else {
                panel_value
            };
            if shared {
                phases.push(pack)
            } else {
                body.push(pack)
            }
            let extents: Vec<usize> = k.iter().map(|&axis| draft.extent(axis)).collect();
            let start = draft.mul_add(number, draft.count(k) * columns, zero);
            (
                Operand {
                    buffer,
                    start,
                    across: 1,
                    lines: None,
                    pieces: None,
                    along: strides(&extents, columns),
                },
                zero,
            )
        }
    };

    // The last block is moved back to end with the rows.
    let (block, block_value) = turn(draft, "block", each);
    let number = draft.mul_add(group, each, block_value);
    let first_row = draft.mul_add(number, high * rows, zero);
    let last = draft.int(m - high * rows);
    let start = draft.i64(Prim::Min, first_row, last);
    let (tile, tile_value) = turn(draft, "tile", high);
    let tile_row = draft.mul_add(tile_value, rows, zero);
    let height = high * rows;
    let (a, copy) = side_a(draft, form, (start, tile_row), (rows, height), wide, &mut known);
    let scratch = draft.scratch("tile", dtype, vec![height * length, width], Role::WorkerScratch);
    let c = Operand {
        buffer: scratch,
        start: draft.mul_add(tile_row, length * width, panel_shift),
        across: width,
        lines: None,
        pieces: None,
        along: vec![],
    };
    let contract = Contract {
        dtype,
        rows: rows * length,
        columns,
        k: k.iter().map(|&axis| draft.extent(axis)).collect(),
        a,
        b,
        c,
        accumulate: false,
        ahead: match source {
            Source::Direct => ahead(draft, form),
            Source::Packed { .. } => 0,
        },
    };
    let sums = match taps {
        Some(taps) => taps.sum(draft, &contract, &known),
        None => vec![Stmt::Contract(contract)],
    };

    let valid_rows = draft.rest(m, first_row, height);
    let [inner_row, inner_column] = [draft.axis("row", height), draft.axis("column", run)];
    let [row_value, column_value] = [inner_row, inner_column].map(|axis| draft.exprs.axis(axis));
    let at_row = draft.i64(Prim::Add, first_row, row_value);
    let at_column = draft.i64(Prim::Add, first_column, column_value);
    // What is computed from the tile was not imported yet, unless it is part of B.
    let mut known: HashMap<ExprId, ExprId> = (known.into_iter())
        .filter(|(id, _)| matches!(draft.source.get(*id), Expr::Axis(axis) if *axis != row && !k.contains(axis)))
        .collect();
    known.insert(draft.source.axis(row), at_row);
    known.insert(draft.source.axis(column), at_column);
    let mut scratch_row = draft.i64(Prim::Sub, at_row, start);
    let within = line.map(|line| {
        let axis = draft.axis("within", length);
        let value = draft.exprs.axis(axis);
        known.insert(draft.source.axis(line), value);
        scratch_row = draft.mul_add(scratch_row, length, value);
        (axis, draft.int(length))
    });
    let mut scratch_column = draft.i64(Prim::Add, column_value, shift);
    let by_panel = !along_rows && band.is_none();
    let lines = band.map(|(band, first, start)| {
        let axis = draft.axis("line", band.lines);
        let value = draft.exprs.axis(axis);
        let at = draft.i64(Prim::Add, first, value);
        known.insert(draft.source.axis(band.axis), at);
        let place = draft.i64(Prim::Sub, at, start);
        scratch_column = draft.mul_add(place, band.pitch, scratch_column);
        (axis, draft.rest(draft.extent(band.axis), first, band.lines))
    });
    let sum = draft
        .exprs
        .load(scratch, dtype, vec![scratch_row, scratch_column], false);
    known.insert(form.fold, sum);
    let stores = draft.stores(tasks, &mut known);
    let loops = [(inner_row, valid_rows), (inner_column, valid_columns)];
    let [(lane, lanes), (serial, steps)] = if along_rows { loops } else { [loops[1], loops[0]] };
    let write = Stmt::Loop {
        axis: lane,
        extent: lanes,
        bind: Bind::Lanes,
        body: stores,
    };
    let serial = within.into_iter().chain(lines).chain([(serial, steps)]);
    let write = serial.fold(write, |body, (axis, extent)| Stmt::Loop {
        axis,
        extent,
        bind: Bind::Serial,
        body: vec![body],
    });
    // A single turn needs no loop.
    let walk = |axis: Option<AxisId>, extent: ExprId, body: Vec<Stmt>| match axis {
        None => body,
        Some(axis) => vec![Stmt::Loop {
            axis,
            extent,
            bind: Bind::Serial,
            body,
        }],
    };
    let tile_count = draft.int(high);
    let written = if by_panel {
        walk(panel, panel_count, sums.into_iter().chain([write]).collect())
    } else {
        let sums = walk(tile, tile_count, walk(panel, panel_count, sums));
        sums.into_iter().chain([write]).collect()
    };
    let first_block = draft.mul_add(group, each, zero);
    let count = draft.rest(blocks, first_block, each);
    body.extend(walk(block, count, copy.into_iter().chain(written).collect()));
    phases.push(draft.all(task, Bind::Workers, body));
    phases
}

/// The axis of a loop and its value, which is 0 where there is a single turn.
fn turn(draft: &mut Draft, name: &str, extent: usize) -> (Option<AxisId>, ExprId) {
    if extent == 1 {
        return (None, draft.int(0));
    }
    let axis = draft.axis(name, extent);
    (Some(axis), draft.exprs.axis(axis))
}

/// Lines of an image as one line: where the columns of a result are so few that they leave lanes empty, and the lines of B lie a little
/// further apart than they are long, the tiles run over several lines at once, with what lies between them, which nobody reads.
struct Band {
    /// The axis across lines.
    axis: AxisId,
    /// How far the lines of B lie apart.
    pitch: usize,
    /// Lines of a band.
    lines: usize,
    /// Bands.
    count: usize,
    /// Columns of a band.
    columns: usize,
}

impl Band {
    /// The most columns of a band.
    const COLUMNS: usize = 256;

    /// The bands that fill the lanes best, if better than single lines do.
    fn of(draft: &mut Draft, form: &Form, target: &Target) -> Option<Band> {
        let length = draft.extent(form.column);
        let (_, address) = direct(draft, form.b, &[&form.k[..], &[form.column]].concat())?;
        if form.along_rows || address.factor(form.column) != 1 {
            return None;
        }
        let a_free = draft.free(form.a);
        let is_pitch = |pitch: i64| (length as i64..=2 * length as i64).contains(&pitch);
        let axis =
            (form.outer.iter().copied()).find(|&axis| !a_free.contains(&axis) && is_pitch(address.factor(axis)))?;
        let (pitch, extent) = (address.factor(axis) as usize, draft.extent(axis));
        let rows = draft.extent(form.row);
        let padded = |n: usize| n.next_multiple_of(tile(draft, form.dtype, target, rows, n).1);
        let band = |lines: usize| Band {
            axis,
            pitch,
            lines,
            count: extent.div_ceil(lines),
            columns: (lines - 1) * pitch + length,
        };
        let best = (1..=extent)
            .map(band)
            .filter(|band| band.columns <= Band::COLUMNS)
            .min_by_key(|band| band.count * padded(band.columns))?;
        let fills = best.count * padded(best.columns) * 20 < extent * padded(length) * 19;
        let (width, high) = (
            padded(best.columns),
            tile(draft, form.dtype, target, rows, best.columns).0,
        );
        (fills && matches!(source(draft, form, target, width, (rows, high)), Source::Direct)).then_some(best)
    }
}

/// A for the tile that starts at a row of the block that starts at `start`, and what copies the block first: rows whose lines crowd the
/// first cache are read from a copy in which they do not. Of all rows `known` then says where the tile's lie.
fn side_a(
    draft: &mut Draft,
    form: &Form,
    (start, tile_row): (ExprId, ExprId),
    (rows, height): (usize, usize),
    wide: usize,
    known: &mut HashMap<ExprId, ExprId>,
) -> (Operand, Option<Stmt>) {
    let Form { dtype, row, ref k, .. } = *form;
    let (buffer, address) =
        direct(draft, form.a, &[&k[..], &[row]].concat()).expect("A is staged unless it can be read where it lies");
    let key = draft.source.axis(row);
    let innermost = *k.last().expect("a sum over an axis");
    let across = address.factor(form.line.unwrap_or(row)) as usize;
    let crowded = crowds(rows, across * dtype.size_bytes(), FIRST_CACHE);
    if !crowded || wide < 4 || address.factor(innermost) != 1 || form.line.is_some() {
        let at = draft.i64(Prim::Add, start, tile_row);
        known.insert(key, at);
        let lines = form.line.map(|line| {
            known.insert(draft.source.axis(line), draft.exprs.int(0));
            Lines {
                length: draft.extent(line),
                pitch: address.factor(row) as usize,
            }
        });
        let operand = Operand {
            buffer,
            start: begin(draft, &address, k, known),
            across,
            lines,
            pieces: None,
            along: k.iter().map(|&axis| address.factor(axis) as usize).collect(),
        };
        return (operand, None);
    }
    // An odd number of lines from row to row.
    let length = draft.count(k).next_multiple_of(32) + 16;
    let copy = draft.scratch("rows", dtype, vec![height, length], Role::WorkerScratch);
    let copied = draft.axis("copied", height);
    let copied_value = draft.exprs.axis(copied);
    let from = draft.i64(Prim::Add, start, copied_value);
    let mut inside = known.clone();
    inside.insert(key, from);
    let zero = draft.int(0);
    let mut at = zero;
    for &axis in k {
        let value = draft.exprs.axis(axis);
        at = draft.mul_add(at, draft.extent(axis), value);
    }
    let value = draft.import(&mut inside, form.a);
    let store = Stmt::Store {
        buffer: copy,
        index: vec![copied_value, at],
        value,
    };
    let lanes = draft.all(innermost, Bind::Lanes, vec![store]);
    let rows_loop = draft.all(copied, Bind::Serial, vec![lanes]);
    let stmt = (k[..k.len() - 1].iter().rev()).fold(rows_loop, |body, &axis| draft.all(axis, Bind::Serial, vec![body]));
    let extents: Vec<usize> = k.iter().map(|&axis| draft.extent(axis)).collect();
    let operand = Operand {
        buffer: copy,
        start: draft.mul_add(tile_row, length, zero),
        across: length,
        lines: None,
        pieces: None,
        along: strides(&extents, 1),
    };
    (operand, Some(stmt))
}

/// Where the tile reads B.
enum Source {
    /// Where it lies.
    Direct,
    /// In panels, packed once for all workers, or by each for itself.
    Packed { shared: bool },
}

/// Where B is best read, for tiles side by side of so many columns together, and a result of so many rows in tiles of so many.
fn source(draft: &mut Draft, form: &Form, target: &Target, width: usize, (rows, high): (usize, usize)) -> Source {
    let Form {
        column,
        ref k,
        ref outer,
        ..
    } = *form;
    let free = draft.free(form.b);
    // What several tasks would pack each for itself is packed once.
    let packed = Source::Packed {
        shared: draft.count(outer) <= 1 || draft.count(outer.iter().filter(|axis| !free.contains(axis))) > 1,
    };
    let Some((buffer, address)) = direct(draft, form.b, k) else {
        return packed;
    };
    let ty = &draft.buffers[buffer.at()].ty;
    let limit = ty.layout.len(&ty.shape) as i64 - width as i64 - reach(draft, &address, k);
    // A panel that is read many times and thrown out each time is copied; measured, the copy costs as much as what a hundred rows gain.
    let again = |&axis: &AxisId| {
        let bytes = address.factor(axis) as usize * form.dtype.size_bytes();
        let (period, ways) = match target.vector_registers {
            32.. => WIDE_SECOND_CACHE,
            _ => SECOND_CACHE,
        };
        crowds(
            draft.extent(axis),
            bytes,
            (period, if high < HIGH_TILE { ways / 2 } else { ways }),
        )
    };
    if address.factor(column) != 1 || limit < 0 || (rows >= 112 && k.iter().any(again)) {
        return packed;
    }
    Source::Direct
}

/// How far ahead of the tile B is brought closer: where there is much of it, it lies far away, and no prefetcher of the machine follows
/// rows that are pages apart.
fn ahead(draft: &mut Draft, form: &Form) -> usize {
    let size = form.dtype.size_bytes();
    let bytes = draft.count(&draft.free(form.b)) * size;
    let innermost = *form.k.last().expect("a sum over an axis");
    // A single row already loads as fast as the cache gives.
    let is_far = bytes >= FAR_BYTES && draft.extent(form.row) > 1;
    let usual = if is_far { AHEAD_BYTES } else { 0 };
    match (
        draft.decisions.get(Decision::Ahead).unwrap_or(usual),
        direct(draft, form.b, &form.k),
    ) {
        (0, _) | (_, None) => 0,
        (bytes, Some((_, address))) => (bytes / size).max(address.factor(innermost) as usize * AHEAD_STEPS),
    }
}

/// How far the elements of one sum lie apart.
fn reach(draft: &Draft, address: &Affine, k: &[AxisId]) -> i64 {
    k.iter()
        .map(|&axis| address.factor(axis) * (draft.extent(axis) as i64 - 1))
        .sum()
}

/// What is packed together.
enum Part<'a> {
    /// All panels, for all values of these axes, by all workers.
    Whole(&'a [AxisId]),
    /// Those from a column on, by one worker.
    From(ExprId),
}

/// Panels of B one after the other, and the loops that pack them.
fn pack(
    draft: &mut Draft,
    form: &Form,
    columns: usize,
    panels: usize,
    known: &HashMap<ExprId, ExprId>,
    part: Part<'_>,
) -> (BufferId, Stmt) {
    let Form {
        dtype, column, ref k, ..
    } = *form;
    let (outer, from, role) = match part {
        Part::Whole(outer) => (outer, None, Role::SharedScratch),
        Part::From(column) => (&[][..], Some(column), Role::WorkerScratch),
    };
    let n = draft.extent(column);
    let shape = vec![draft.count(outer) * panels, draft.count(k), columns];
    let buffer = draft.scratch("panels", dtype, shape, role);
    let panel = draft.axis("packed", panels);
    let lane = draft.axis("lane", columns.min(n));
    let mut known = known.clone();
    let zero = draft.int(0);
    // Against the grain, rows are columns of B, of which a line of the cache holds several.
    let is_turned = direct(draft, form.b, k)
        .is_some_and(|(_, address)| k.len() == 1 && address.factor(k[0]) == 1 && address.factor(column) > 1);
    let mut rows = None;
    // By all workers together, the panels and the outermost axis of the sum are shared out.
    let (task, inner, number, panel) = if from.is_none() {
        let extent = draft.extent(k[0]);
        let part = match is_turned {
            true => draft.axis("square", extent.div_ceil(SIDE)),
            false => k[0],
        };
        let axes: Vec<AxisId> = outer.iter().copied().chain([panel, part]).collect();
        let (task, values) = draft.share(&axes);
        let mut number = zero;
        for (&axis, &value) in axes.iter().zip(&values) {
            known.insert(draft.source.axis(axis), value);
            if axis != part {
                number = draft.mul_add(number, draft.extent(axis), value);
            }
        }
        if is_turned {
            let row = draft.axis("row", extent.min(SIDE));
            let start = draft.mul_add(values[outer.len() + 1], SIDE, zero);
            let row_value = draft.exprs.axis(row);
            let at = draft.i64(Prim::Add, start, row_value);
            known.insert(draft.source.axis(k[0]), at);
            rows = Some((row, draft.rest(extent, start, SIDE)));
        }
        (task, &k[1..], number, values[outer.len()])
    } else {
        let value = draft.exprs.axis(panel);
        (panel, &k[..], value, value)
    };
    let mut at = zero;
    for &axis in k {
        let key = draft.source.axis(axis);
        let value = known.get(&key).copied().unwrap_or_else(|| draft.exprs.axis(axis));
        at = draft.mul_add(at, draft.extent(axis), value);
    }
    let first = draft.mul_add(panel, columns, from.unwrap_or(zero));
    let lane_value = draft.exprs.axis(lane);
    let at_column = draft.i64(Prim::Add, first, lane_value);
    known.insert(draft.source.axis(column), at_column);
    // No more than there are, said again for the prover, which need not see that `first` is not negative.
    let valid = draft.rest(n, first, columns.min(n));
    let valid = draft.i64(Prim::Max, valid, zero);
    let value = draft.import(&mut known, form.b);
    let store = Stmt::Store {
        buffer,
        index: vec![number, at, lane_value],
        value,
    };
    let lanes = Stmt::Loop {
        axis: lane,
        extent: valid,
        bind: Bind::Lanes,
        body: vec![store],
    };
    let rows = rows.into_iter().fold(lanes, |body, (axis, extent)| Stmt::Loop {
        axis,
        extent,
        bind: Bind::Serial,
        body: vec![body],
    });
    let body = draft.nested(inner, vec![rows]);
    (
        buffer,
        draft.all(task, if from.is_none() { Bind::Workers } else { Bind::Serial }, body),
    )
}

/// The strides of nested loops over contiguous elements of a size.
fn strides(extents: &[usize], size: usize) -> Vec<usize> {
    (0..extents.len())
        .map(|place| extents[place + 1..].iter().product::<usize>() * size)
        .collect()
}

/// B where it lies, and how far its columns are shifted within the tiles: columns past the last are read too, and ignored, and where
/// those would lie outside the buffer the tiles are moved back.
fn direct_b(
    draft: &mut Draft,
    form: &Form,
    width: usize,
    known: &HashMap<ExprId, ExprId>,
    first_column: ExprId,
    panel: ExprId,
) -> (Operand, ExprId) {
    let Form { column, ref k, .. } = *form;
    let (buffer, address) = direct(draft, form.b, k).expect("B can be read where it lies");
    let ty = &draft.buffers[buffer.at()].ty;
    let limit = ty.layout.len(&ty.shape) as i64 - width as i64 - reach(draft, &address, k);
    let mut known = known.clone();
    known.insert(draft.source.axis(column), first_column);
    let wanted = begin(draft, &address, k, &known);
    let limit = draft.int(limit as usize);
    let first = draft.i64(Prim::Min, wanted, limit);
    let shift = draft.i64(Prim::Sub, wanted, first);
    let along = k.iter().map(|&axis| address.factor(axis) as usize).collect();
    let start = draft.i64(Prim::Add, first, panel);
    (
        Operand {
            buffer,
            start,
            across: 1,
            lines: None,
            pieces: None,
            along,
        },
        shift,
    )
}

/// The address where a tile starts.
pub fn begin(draft: &mut Draft, address: &Affine, k: &[AxisId], known: &HashMap<ExprId, ExprId>) -> ExprId {
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
