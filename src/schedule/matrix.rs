//! Contractions by a matrix unit: `f32` in three pieces of `bf16`, see [`netloom_ir::kernel::pieces`].
//!
//! Both sides are put in pieces, which any number of tiles then reads. Of `A`, whose rows are places of an image, its channels, in blocks, lie
//! side by side at each place, with the zeros around the image; where windows overlap, each place is stored once, and a tap is a distance. Rows run
//! on from line to line of such a copy, over what lies between lines and is not part of the result. Of `B` each block of columns is one line of memory
//! from its beginning to its end; a filter that is in pieces already, see [`netloom_ir::pieces`], lies so.
//!
//! A block of the sum takes up two blocks of channels: its terms `2 · i` and `2 · i + 1` are channel `i` of the one and of the other.
//!
//! Both sides of a tile come from the second cache: tiles of so many rows of `A` as fit in there go through all panels of columns.
//!
//! Which contractions are computed so depends on shapes alone.

mod form;
mod split;

use std::collections::HashMap;

use netloom_ir::DType;
use netloom_ir::kernel::pieces::{DEPTH, PIECES, SIDE};
use netloom_ir::kernel::{Bind, BufferId, Contract, ExprId, Operand, Prim, Role, Stmt};
use netloom_ir::tensor::unravel;

use super::draft::{Draft, Task};
pub use form::Form;
use form::{Way, Window};

/// Rows and columns of a tile: two of the unit's either way.
const TILE: usize = 2 * SIDE;
/// Channels of a block, and elements that a vector loop puts in pieces at once: half a row of a block of the sum.
const VECTOR: usize = DEPTH / 2;
/// `B` is near if it has no more bytes: it stays in the second cache.
const NEAR_BYTES: usize = 1 << 20;
/// Bytes of `A` that go through all of `B` before the next, and the least number of tiles: where `B` is near, and where it is not.
const NEAR: (usize, usize) = (64 << 10, 1);
const FAR: (usize, usize) = (1 << 20, 4);
/// From so many groups of rows on, each is put in pieces where it is used.
const GROUPS: usize = 4;
/// Blocks of the sum by which filters are fetched ahead, where they come from far away.
const AHEAD: usize = 8;

/// A form with the sizes of what it works with.
struct Plan<'f> {
    form: &'f Form,
    /// The copy of `A`: blocks of the sum, channels' blocks that fill them, elements of a line's neighbours that strides leave out, and places along each way.
    blocks: usize,
    vectors: usize,
    phases: Vec<usize>,
    places: Vec<usize>,
    /// Places of a copy from one to the next along each way.
    pitches: Vec<usize>,
    /// Lines of the copy along the outermost way, which tiles read beyond those that there are, and the places of all.
    lines: usize,
    height: usize,
    /// Groups of tiles, the tiles of the largest, and whether each has a copy of its own.
    groups: usize,
    most: usize,
    is_local: bool,
    /// Whether `B` comes from far away.
    is_far: bool,
    taps: Vec<Window>,
    /// Blocks of columns, those of a tile, and tiles.
    column_blocks: usize,
    side_by_side: usize,
    panels: usize,
    tiles: usize,
}

impl<'f> Plan<'f> {
    fn of(draft: &Draft, form: &'f Form) -> Plan<'f> {
        let vectors = draft.count(&form.channels) / VECTOR;
        let reach = |way: &Way| way.window.map_or(0, |w| w.step * (draft.extent(w.tap) - 1) / w.stride);
        let places: Vec<usize> = form
            .ways
            .iter()
            .map(|way| draft.extent(way.along) + reach(way))
            .collect();
        let pitches: Vec<usize> = (0..places.len()).map(|at| places[at + 1..].iter().product()).collect();
        let along = |of: &dyn Fn(&Way) -> usize| -> usize {
            form.ways.iter().zip(&pitches).map(|(way, pitch)| of(way) * pitch).sum()
        };
        let rows = along(&|way| draft.extent(way.along) - 1) + 1;
        let tiles = rows.div_ceil(TILE);
        let lanes = *form.columns.last().expect("an axis of columns");
        let column_blocks = draft.count(&form.columns[..form.columns.len() - 1]) * draft.extent(lanes).div_ceil(SIDE);
        let side_by_side = column_blocks.min(TILE / SIDE);
        let blocks = vectors.div_ceil(2);
        let phases: Vec<usize> = (form.ways.iter())
            .map(|way| way.window.map_or(1, |window| window.stride))
            .collect();
        let taps: Vec<Window> = form.ways.iter().filter_map(|way| way.window).collect();
        let taps_count: usize = draft.count(taps.iter().map(|window| &window.tap));
        let is_far = column_blocks * blocks * taps_count * PIECES * SIDE * SIDE * size_of::<u32>() > NEAR_BYTES;
        let (bytes, least) = if is_far { FAR } else { NEAR };
        // Lines that two groups read are put in pieces by both.
        let least = least.max((pitches[0] + along(&reach)).div_ceil(TILE));
        let tile_bytes = TILE * blocks * phases.iter().product::<usize>() * Plan::PLACE * size_of::<u32>();
        // An even number, for two workers.
        let groups = match tiles / (bytes / tile_bytes).max(least) {
            _ if tiles < 2 * least => 1,
            groups => groups.max(2).next_multiple_of(2).min(tiles),
        };
        let most = tiles.div_ceil(groups);
        let is_local = groups * draft.count(&form.outer) >= GROUPS;
        let pitch = pitches[0];
        let lines = match is_local {
            true => (pitch - 1 + most * TILE + along(&reach)).div_ceil(pitch),
            false => (tiles * TILE + along(&reach)).div_ceil(pitch).max(places[0]),
        };
        Plan {
            form,
            blocks,
            vectors,
            phases,
            places,
            pitches,
            lines,
            height: lines * pitch,
            groups,
            most,
            is_local,
            is_far,
            taps,
            column_blocks,
            side_by_side,
            panels: column_blocks.div_ceil(side_by_side),
            tiles,
        }
    }
}

/// The loops, as phases.
pub fn schedule(draft: &mut Draft, tasks: &[Task], form: &Form) -> Vec<Stmt> {
    let plan = Plan::of(draft, form);
    let image = plan.image(draft);
    let sums = draft.scratch(
        "tile",
        DType::F32,
        vec![TILE, plan.side_by_side * SIDE],
        Role::WorkerScratch,
    );
    let along = form.ways.last().expect("a way").along;
    let stored = draft.address(tasks[0].buffer, &tasks[0].index);
    let is_turned = draft.extent(along) > 1 && stored.is_some_and(|address| address.factor(along) == 1);
    let turned = is_turned.then(|| {
        draft.scratch(
            "turned",
            DType::F32,
            vec![plan.side_by_side * SIDE, TILE],
            Role::WorkerScratch,
        )
    });
    let mut phases = Vec::new();
    if !plan.is_local {
        phases.push(plan.split_all(draft, image));
    }
    let panels = match form.ready {
        Some(ready) => ready,
        None => {
            let shape = plan.panel_shape(draft, plan.panels * plan.side_by_side);
            let panels = draft.scratch("panels", DType::U32, shape, Role::SharedScratch);
            phases.push(plan.pack_all(draft, panels));
            panels
        }
    };
    // Tiles of a group go through a panel of columns one after the other.
    let [group, panel, tile] = [("group", plan.groups), ("panel", plan.panels), ("tile", plan.most)]
        .map(|(name, extent)| draft.axis(name, extent));
    let mut shared = [&form.outer[..], &[group]].concat();
    if !plan.is_local {
        shared.push(panel);
    }
    let (task, values) = draft.share(&shared);
    let (outer, inner) = values.split_at(form.outer.len());
    let rows = plan.rows(draft, inner[0]);
    let panel_value = inner.get(1).copied().unwrap_or_else(|| draft.exprs.axis(panel));
    // A single one is the first, which the prover need not find out.
    let tile_value = match plan.most {
        1 => draft.int(0),
        _ => draft.exprs.axis(tile),
    };
    let number = draft.i64(Prim::Add, rows.first, tile_value);
    let tiles = Stmt::Loop {
        axis: tile,
        extent: rows.count,
        bind: Bind::Serial,
        body: plan.tile(
            draft,
            tasks,
            (image, panels, sums, turned),
            outer,
            (&rows, tile_value, number),
            panel_value,
        ),
    };
    let body = match plan.is_local {
        true => {
            let zero = draft.int(0);
            let split = plan.split(draft, image, outer, (rows.line, plan.lines), zero);
            [split, draft.nested(&[panel], vec![tiles])].concat()
        }
        false => vec![tiles],
    };
    phases.push(draft.all(task, Bind::Workers, body));
    phases
}

/// The tiles of a group.
struct Rows {
    /// The first, and how many there are.
    first: ExprId,
    count: ExprId,
    /// The line that the first begins in, and how many rows come before it in this line.
    line: ExprId,
    before: ExprId,
}

impl Plan<'_> {
    /// Elements of a place of the copy of `A`: pairs of terms.
    const PLACE: usize = PIECES * SIDE;

    /// Parts of the copy that strides make.
    fn phases_count(&self) -> usize {
        self.phases.iter().product()
    }

    fn taps_count(&self, draft: &Draft) -> usize {
        draft.count(self.taps.iter().map(|window| &window.tap))
    }

    /// Elements of a block of columns.
    fn block_len(&self, draft: &Draft) -> usize {
        self.blocks * self.taps_count(draft) * PIECES * SIDE * SIDE
    }

    fn panel_shape(&self, draft: &Draft, blocks: usize) -> Vec<usize> {
        vec![blocks, self.blocks, self.taps_count(draft), PIECES, SIDE, SIDE]
    }

    /// The tiles of a group; groups differ by one at most.
    fn rows(&self, draft: &mut Draft, group: ExprId) -> Rows {
        let zero = draft.int(0);
        let one = draft.int(1);
        let [groups, most, pitch] = [self.groups, self.most, self.pitches[0]].map(|value| draft.int(value));
        let next = draft.i64(Prim::Add, group, one);
        let [first, end] = [group, next].map(|group| {
            let tiles = draft.mul_add(group, self.tiles, zero);
            draft.i64(Prim::Div, tiles, groups)
        });
        let count = draft.i64(Prim::Sub, end, first);
        let row = draft.mul_add(first, TILE, zero);
        Rows {
            first,
            count: draft.i64(Prim::Min, count, most),
            line: draft.i64(Prim::Div, row, pitch),
            before: draft.i64(Prim::Rem, row, pitch),
        }
    }

    /// The number of the copy that is for some values of the outer axes.
    fn copy_number(&self, draft: &mut Draft, outer: &[ExprId]) -> ExprId {
        let zero = draft.int(0);
        (self.form.outer.iter().zip(outer)).fold(zero, |number, (&axis, &value)| {
            draft.mul_add(number, draft.extent(axis), value)
        })
    }

    /// What stands for the axes of the columns, of one in a block of them, and how many the block has.
    fn column(&self, draft: &mut Draft, block: ExprId, lane: ExprId, known: &mut HashMap<ExprId, ExprId>) -> ExprId {
        let (&last, others) = self.form.columns.split_last().expect("an axis of columns");
        let extents: Vec<usize> = others.iter().map(|&axis| draft.extent(axis)).collect();
        let zero = draft.int(0);
        if draft.extent(last) != SIDE {
            for &axis in others {
                known.insert(draft.source.axis(axis), zero);
            }
            let first = draft.mul_add(block, SIDE, zero);
            let value = draft.i64(Prim::Add, first, lane);
            known.insert(draft.source.axis(last), value);
            return draft.rest(draft.extent(last), first, SIDE);
        }
        let digits = draft.digits(block, &extents);
        for (&axis, digit) in others.iter().zip(digits) {
            known.insert(draft.source.axis(axis), digit);
        }
        known.insert(draft.source.axis(last), lane);
        draft.int(SIDE)
    }

    /// A tile: its sums, and what is computed from them.
    fn tile(
        &self,
        draft: &mut Draft,
        tasks: &[Task],
        (image, panels, sums, turned): (BufferId, BufferId, BufferId, Option<BufferId>),
        outer: &[ExprId],
        (rows, within, tile): (&Rows, ExprId, ExprId),
        panel: ExprId,
    ) -> Vec<Stmt> {
        let form = self.form;
        let zero = draft.int(0);
        let phases = self.phases_count();
        let plane = self.height * Self::PLACE;
        // A pair is one element where this schedule has packed it.
        let per_pair = if form.ready.is_some() { 2 } else { 1 };
        let (row, start) = match self.is_local {
            true => (draft.mul_add(within, TILE, rows.before), zero),
            false => {
                let number = self.copy_number(draft, outer);
                let start = draft.mul_add(number, self.blocks * phases * plane, zero);
                (draft.mul_add(tile, TILE, zero), start)
            }
        };
        let a_start = draft.mul_add(row, Self::PLACE, start);
        let first_block = draft.mul_add(panel, self.side_by_side, zero);
        let b_start = draft.mul_add(first_block, self.block_len(draft) * per_pair, zero);
        let side = SIDE * SIDE * per_pair;
        let tap_len = PIECES * side;
        let taps: Vec<usize> = self.taps.iter().map(|window| draft.extent(window.tap)).collect();
        let columns = self.side_by_side * SIDE;
        let across = self.block_len(draft) * per_pair;
        let contract = |a: ExprId,
                        b: ExprId,
                        k: Vec<usize>,
                        a_along: Vec<usize>,
                        b_along: Vec<usize>,
                        accumulate: bool,
                        across: usize| {
            let operand = |buffer, start, across, pieces, along| Operand {
                buffer,
                start,
                across,
                lines: None,
                pieces,
                along,
            };
            Stmt::Contract(Contract {
                dtype: DType::F32,
                rows: TILE,
                columns,
                k,
                a: operand(image, a, Self::PLACE, Some(SIDE), a_along),
                b: operand(panels, b, across, Some(side), b_along),
                c: operand(sums, zero, columns, None, Vec::new()),
                accumulate,
                ahead: if self.is_far && form.ready.is_some() {
                    AHEAD * tap_len
                } else {
                    0
                },
            })
        };
        let taps_count: usize = taps.iter().product();
        let mut body = Vec::new();
        if phases == 1 {
            let strides = self.form.ways.iter().zip(&self.pitches);
            let steps = strides.filter_map(|(way, pitch)| Some(way.window?.step * pitch * Self::PLACE));
            let a_along = std::iter::once(plane).chain(steps).collect();
            let b_taps = (0..taps.len()).map(|at| taps[at + 1..].iter().product::<usize>() * tap_len);
            let b_along = std::iter::once(taps_count * tap_len).chain(b_taps).collect();
            let k = std::iter::once(self.blocks).chain(taps.iter().copied()).collect();
            body.push(contract(a_start, b_start, k, a_along, b_along, false, across));
        } else {
            // Where strides leave places out, a tap's are not evenly apart.
            for tap in 0..taps_count {
                let digits = unravel(&taps, tap);
                let (mut place, mut phase, mut next) = (0, 0, digits.iter());
                for ((way, pitch), count) in form.ways.iter().zip(&self.pitches).zip(&self.phases) {
                    let distance = way.window.map_or(0, |window| window.step * next.next().expect("a tap"));
                    place += distance / count * pitch;
                    phase = phase * count + distance % count;
                }
                let moved = draft.int(phase * plane + place * Self::PLACE);
                let a = draft.i64(Prim::Add, a_start, moved);
                let moved = draft.int(tap * tap_len);
                let b = draft.i64(Prim::Add, b_start, moved);
                body.push(contract(
                    a,
                    b,
                    vec![self.blocks],
                    vec![phases * plane],
                    vec![taps_count * tap_len],
                    tap > 0,
                    across,
                ));
            }
        }
        body.extend(self.write(draft, tasks, (sums, turned), outer, (tile, panel)));
        body
    }

    /// The loops that compute what is stored from a tile.
    fn write(
        &self,
        draft: &mut Draft,
        tasks: &[Task],
        (sums, turned): (BufferId, Option<BufferId>),
        outer: &[ExprId],
        (tile, panel): (ExprId, ExprId),
    ) -> Vec<Stmt> {
        let form = self.form;
        let zero = draft.int(0);
        let mut known: HashMap<ExprId, ExprId> = HashMap::new();
        for (&axis, &value) in form.outer.iter().zip(outer) {
            known.insert(draft.source.axis(axis), value);
        }
        let (&Way { along, .. }, lines) = form.ways.split_last().expect("a way");
        let row = draft.axis("row", TILE.min(draft.extent(along)));
        let row_value = draft.exprs.axis(row);
        let first = draft.mul_add(tile, TILE, zero);
        let mut loops = Vec::new();
        let (value, scratch_row, valid) = if lines.is_empty() {
            let value = draft.i64(Prim::Add, first, row_value);
            (value, row_value, draft.rest(draft.extent(along), first, TILE))
        } else {
            let (length, pitch) = (draft.extent(along), *self.places.last().expect("a way"));
            let extents: Vec<usize> = lines.iter().map(|way| draft.extent(way.along)).collect();
            let (all, most) = (extents.iter().product(), (TILE - 1) / pitch + 2);
            let line = draft.axis("line", most.min(all));
            let pitch_value = draft.int(pitch);
            let first_line = draft.i64(Prim::Div, first, pitch_value);
            let line_value = draft.exprs.axis(line);
            let number = draft.i64(Prim::Add, first_line, line_value);
            loops.push((line, draft.rest(all, first_line, most.min(all))));
            let digits = draft.digits(number, &extents);
            for (way, digit) in lines.iter().zip(digits) {
                // No more than there are, said again for the prover, which does not see through the division.
                let last = draft.int(draft.extent(way.along) - 1);
                let digit = draft.i64(Prim::Min, digit, last);
                known.insert(draft.source.axis(way.along), digit);
            }
            // How far the tile begins within the line, or the line within the tile.
            let start = draft.mul_add(number, pitch, zero);
            let before = draft.i64(Prim::Sub, first, start);
            let after = draft.i64(Prim::Sub, start, first);
            let [before, after] = [before, after].map(|distance| draft.i64(Prim::Max, distance, zero));
            let (length, height) = (draft.int(length), draft.int(TILE));
            let left = draft.i64(Prim::Sub, length, before);
            let room = draft.i64(Prim::Sub, height, after);
            let valid = draft.i64(Prim::Min, left, room);
            let valid = draft.i64(Prim::Max, valid, zero);
            let value = draft.i64(Prim::Add, before, row_value);
            (value, draft.i64(Prim::Add, after, row_value), valid)
        };
        known.insert(draft.source.axis(along), value);
        loops.push((row, valid));
        let first_block = draft.mul_add(panel, self.side_by_side, zero);
        let side = draft.axis("side", self.side_by_side);
        let lane = draft.axis("column", SIDE);
        let [side_value, lane_value] = [side, lane].map(|axis| draft.exprs.axis(axis));
        let block = draft.i64(Prim::Add, first_block, side_value);
        let columns = self.column(draft, block, lane_value, &mut known);
        loops.insert(
            0,
            (side, draft.rest(self.column_blocks, first_block, self.side_by_side)),
        );
        let scratch_column = draft.mul_add(side_value, SIDE, lane_value);
        let (from, index) = match turned {
            Some(turned) => (turned, vec![scratch_column, scratch_row]),
            None => (sums, vec![scratch_row, scratch_column]),
        };
        let sum = draft.exprs.load(from, DType::F32, index, false);
        known.insert(form.fold, sum);
        let body = draft.stores(tasks, &mut known);
        // The innermost loop is along what lies side by side in the result.
        let place = if turned.is_some() { loops.len() - 1 } else { loops.len() };
        loops.insert(place, (lane, columns));
        let (innermost, around) = loops.split_last().expect("loops over rows and columns");
        let lanes = Stmt::Loop {
            axis: innermost.0,
            extent: innermost.1,
            bind: Bind::Lanes,
            body,
        };
        let write = around.iter().rev().fold(lanes, |body, &(axis, extent)| Stmt::Loop {
            axis,
            extent,
            bind: Bind::Serial,
            body: vec![body],
        });
        let turn = turned.map(|turned| self.turn(draft, sums, turned));
        turn.into_iter().chain([write]).collect()
    }

    /// The loops that turn a tile.
    fn turn(&self, draft: &mut Draft, sums: BufferId, turned: BufferId) -> Stmt {
        let column = draft.axis("column", self.side_by_side * SIDE);
        let row = draft.axis("row", TILE);
        let [column_value, row_value] = [column, row].map(|axis| draft.exprs.axis(axis));
        let store = Stmt::Store {
            buffer: turned,
            index: vec![column_value, row_value],
            value: draft.exprs.load(sums, DType::F32, vec![row_value, column_value], false),
        };
        let lanes = draft.all(row, Bind::Lanes, vec![store]);
        draft.all(column, Bind::Serial, vec![lanes])
    }
}
