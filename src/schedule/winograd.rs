//! Convolutions with 3×3 filters and stride 1 by Winograd's algorithm: fewer multiplications, between transforms that are sums.
//!
//! The image is cut into squares that overlap. Of each, `V = Bᵀ · d · B` is computed, of each filter `U = G · g · Gᵀ`; at each of the `n²`
//! places within the square, the sums over channels are a product of matrices, `M = V · U`, and `Aᵀ · M · A` is a square of the result.
//! What is computed from the sum is computed from that square, while it is in the first cache.
//!
//! Which convolutions are computed so, and in squares of which size, depends on shapes alone: so do the bits of the results.

mod transform;

use std::collections::{BTreeSet, HashMap};

use netloom_ir::decisions::Decision;
use netloom_ir::kernel::index::affine;
use netloom_ir::kernel::nest::LANES;
use netloom_ir::kernel::{AxisId, Bind, BufferId, Contract, Expr, ExprId, Operand, Prim, Role, Stmt};
use netloom_ir::winograd::{Choice, RATE, TAPS, Transforms};
use netloom_ir::{DType, Scalar, Target};

use super::contract::{self, most_rows};
use super::draft::{Draft, Task};
use transform::product;

/// Elements after each of the `n²` matrices, so that they do not fall into the same sets of a cache.
const APART: usize = 48;
/// Bytes of transformed filters that a worker keeps in its second cache.
const FILTER_BYTES: usize = 512 << 10;

/// A fold that Winograd's algorithm computes faster than a contraction.
#[derive(Clone, Debug)]
pub struct Form {
    /// The fold.
    pub fold: ExprId,
    image: BufferId,
    /// The image's index.
    index: Vec<ExprId>,
    filter: ExprId,
    /// Down the image, and along its lines.
    directions: [Direction; 2],
    /// The axes of the result of which only the image depends, and only the filter, but for [`Form::column`].
    images: Vec<AxisId>,
    filters: Vec<AxisId>,
    /// The axis of the result along the lanes: [`LANES`] filters side by side.
    column: AxisId,
    /// The axes of channels around the innermost one, which runs along the lanes of the image.
    channels: Vec<AxisId>,
    lane: AxisId,
    choice: Choice,
}

/// A direction in which a filter moves over the image.
#[derive(Clone, Copy, Debug)]
struct Direction {
    /// The place in the image's index.
    place: usize,
    /// The axis of the result, and that of the taps.
    along: AxisId,
    tap: AxisId,
    /// The first element of the image that the first result is computed from; negative where that is padding.
    first: i64,
    /// Whether the taps run against the image.
    flipped: bool,
}

impl Form {
    /// The convolution that a contraction is, if it is one that is faster so.
    pub fn of(draft: &mut Draft, form: &contract::Form, target: &Target) -> Option<Form> {
        if !target.winograd || form.dtype != DType::F32 || form.along_rows || draft.extent(form.column) != LANES {
            return None;
        }
        let Expr::Load { buffer, index, .. } = draft.source.get(form.a).clone() else {
            return None;
        };
        let (a_free, b_free) = (draft.free(form.a), draft.free(form.b));
        let sums: BTreeSet<AxisId> = form.k.iter().copied().collect();
        if a_free.intersection(&b_free).any(|axis| !sums.contains(axis)) {
            return None;
        }
        let mut directions = Vec::new();
        for (place, &at) in index.iter().enumerate() {
            let address = affine(&draft.source, at)?;
            let is_tap = |axis: AxisId| sums.contains(&axis) && b_free.contains(&axis) && draft.extent(axis) == TAPS;
            let (along, tap, factor) = match *address.terms.as_slice() {
                [(a, 1), (b, factor)] if is_tap(b) && !sums.contains(&a) => (a, b, factor),
                [(b, factor), (a, 1)] if is_tap(b) && !sums.contains(&a) => (a, b, factor),
                _ => continue,
            };
            if factor.abs() == 1 {
                directions.push(Direction {
                    place,
                    along,
                    tap,
                    first: address.constant - if factor < 0 { TAPS as i64 - 1 } else { 0 },
                    flipped: factor < 0,
                });
            }
        }
        let directions: [Direction; 2] = directions.try_into().ok()?;
        let moving = directions.map(|direction| [direction.along, direction.tap]).concat();
        let is_still = |axis: &AxisId| !moving.contains(axis);
        // Nothing else of the image's index moves with them.
        for (place, &at) in index.iter().enumerate() {
            if directions.iter().all(|direction| direction.place != place) && !draft.free(at).iter().all(is_still) {
                return None;
            }
        }
        let mut channels: Vec<AxisId> = form.k.iter().copied().filter(is_still).collect();
        let lane = channels.pop()?;
        let (_, address) = (buffer, draft.address(buffer, &index)?);
        if address.factor(lane) != 1 || draft.extent(lane) != LANES {
            return None;
        }
        let only = |free: &BTreeSet<AxisId>, but: &[AxisId]| -> Vec<AxisId> {
            let kept = |axis: &AxisId| !sums.contains(axis) && !but.contains(axis);
            free.iter().copied().filter(kept).collect()
        };
        let mut found = Form {
            fold: form.fold,
            image: buffer,
            index: index.to_vec(),
            filter: form.b,
            directions,
            images: only(&a_free, &moving),
            filters: only(&b_free, &[form.column]),
            column: form.column,
            channels,
            lane,
            choice: Choice {
                size: 0,
                filters_first: false,
                time: 0.0,
            },
        };
        found.choice = found.best(draft)?;
        Some(found)
    }

    /// What takes the least time of what is not decided, if that is decided or clearly less than a contraction takes.
    fn best(&self, draft: &Draft) -> Option<Choice> {
        let [down, along] = self.directions.map(|direction| draft.extent(direction.along));
        let (images, channels, filters) = (
            draft.count(&self.images),
            self.channel_count(draft),
            self.filter_count(draft),
        );
        let direct = (images * down * along * channels * filters * TAPS * TAPS) as f64 / RATE;
        let size = draft.decisions.get(Decision::Winograd);
        let filters_first = draft.decisions.get(Decision::FiltersFirst).map(|decided| decided == 1);
        let best = Choice::best([images, down, along], channels, filters, (size, filters_first))?;
        (size.is_some() || best.time < 0.8 * direct).then_some(best)
    }

    fn channel_count(&self, draft: &Draft) -> usize {
        draft.count(&self.channels) * LANES
    }

    fn filter_count(&self, draft: &Draft) -> usize {
        draft.count(&self.filters) * LANES
    }

    /// The number of squares of that size of all images.
    fn squares(&self, draft: &Draft, size: usize) -> usize {
        let sides = self.directions.map(|it| draft.extent(it.along).div_ceil(size));
        draft.count(&self.images) * sides[0] * sides[1]
    }

    /// Whether a task ranges over exactly the axes of the fold's result.
    pub fn spans(&self, task: &Task) -> bool {
        let moving = self.directions.map(|direction| direction.along);
        let axes = self
            .images
            .iter()
            .chain(&self.filters)
            .chain(&moving)
            .chain([&self.column]);
        axes.copied().collect::<BTreeSet<_>>() == task.over.iter().copied().collect()
    }
}

/// The loops, as phases.
pub fn schedule(draft: &mut Draft, tasks: &[Task], form: &Form, target: &Target) -> Vec<Stmt> {
    let plan = Plan::of(draft, form, target);
    if plan.filters_at_once {
        plan.by_squares(draft, tasks)
    } else {
        plan.by_filters(draft, tasks)
    }
}

/// A form with the sizes of its loops.
struct Plan<'f> {
    form: &'f Form,
    transforms: Transforms,
    /// The results along a side of a square, and the elements that they are computed from.
    size: usize,
    reach: usize,
    /// All squares, and how many of them are the rows of a tile.
    squares: usize,
    rows: usize,
    /// Blocks of channels, and how many of them are summed over at once.
    blocks: usize,
    each: usize,
    /// Filters side by side in a tile, and how many tiles hold all.
    columns: usize,
    panels: usize,
    /// Whether all filters are transformed first, or those of a panel where they are used.
    filters_at_once: bool,
    /// The matrices of one phase and of the next, where squares and columns of the image lie on the way, and those of the result.
    image: BufferId,
    filter: BufferId,
    product: BufferId,
    patch: BufferId,
    half: BufferId,
    result: BufferId,
}

impl<'f> Plan<'f> {
    fn of(draft: &mut Draft, form: &'f Form, target: &Target) -> Plan<'f> {
        let size = form.choice.size;
        let reach = size + TAPS - 1;
        let places = reach * reach;
        let wide = draft.count(&form.filters).is_multiple_of(2) && target.vector_registers >= 32;
        let columns = if wide { 2 * LANES } else { LANES };
        let panels = form.filter_count(draft) / columns;
        let squares = form.squares(draft, size);
        let most = most_rows(draft, DType::F32, target, columns);
        let rows = squares.div_ceil(squares.div_ceil(most));
        let groups = squares.div_ceil(rows);
        let channels = form.channel_count(draft);
        let blocks = channels / LANES;
        let bytes = |elements: usize| places * elements * size_of::<f32>();
        let filters_at_once = form.choice.filters_first;
        let fits = |each: &usize| blocks.is_multiple_of(*each) && bytes(each * LANES * columns) <= FILTER_BYTES;
        let each = match filters_at_once {
            true => blocks,
            false => (1..=blocks).rev().find(fits).unwrap_or(1),
        };
        let groups_at_once = if filters_at_once { 1 } else { groups };
        let mut matrices = |name: &str, counts: usize, elements: usize, role: Role| {
            draft.scratch(name, DType::F32, vec![counts * places, elements + APART], role)
        };
        let role = |at_once: bool| {
            if at_once {
                Role::SharedScratch
            } else {
                Role::WorkerScratch
            }
        };
        let image = matrices("image", 1, groups_at_once * rows * channels, role(!filters_at_once));
        let filter_count = if filters_at_once { panels } else { 1 };
        let filter = matrices("filter", filter_count, each * LANES * columns, role(filters_at_once));
        let product = matrices("product", 1, groups_at_once * rows * columns, Role::WorkerScratch);
        let mut square =
            |name: &str, shape: [usize; 3]| draft.scratch(name, DType::F32, shape.to_vec(), Role::WorkerScratch);
        Plan {
            form,
            transforms: Transforms::of(size),
            size,
            reach,
            squares,
            rows,
            blocks,
            each,
            columns,
            panels,
            filters_at_once,
            image,
            filter,
            product,
            patch: square("patch", [reach, reach, LANES]),
            half: square("half", [reach, reach, columns]),
            result: square("result", [size, size, columns]),
        }
    }

    /// All filters are transformed; then workers share the squares.
    fn by_squares(&self, draft: &mut Draft, tasks: &[Task]) -> Vec<Stmt> {
        let (panel, block) = (draft.axis("panel", self.panels), draft.axis("block", self.blocks));
        let (task, values) = draft.share(&[panel, block]);
        let body = self.filter(draft, values[0], values[1], values[1], values[0]);
        let filters = draft.all(task, Bind::Workers, body);

        let zero = draft.int(0);
        let groups = self.squares.div_ceil(self.rows);
        let group = draft.axis("group", groups);
        let value = draft.exprs.axis(group);
        let first = self.first_square(draft, value);
        let (row, square) = self.square(draft, first);
        let block = draft.axis("block", self.blocks);
        let block_value = draft.exprs.axis(block);
        let row_value = draft.exprs.axis(row);
        let input = self.input(draft, square, block_value, zero, row_value);
        let input = draft.all(block, Bind::Serial, input);
        let input = draft.all(row, Bind::Serial, vec![input]);

        let panel = draft.axis("panel", self.panels);
        let panel_value = draft.exprs.axis(panel);
        let products = self.products(draft, zero, panel_value, zero, false);
        let output = self.outputs(draft, tasks, value, zero, panel_value);
        let across = draft.all(panel, Bind::Serial, vec![products, output]);
        vec![filters, draft.all(group, Bind::Workers, vec![input, across])]
    }

    /// All squares are transformed; then workers share the filters.
    fn by_filters(&self, draft: &mut Draft, tasks: &[Task]) -> Vec<Stmt> {
        let groups = self.squares.div_ceil(self.rows);
        let (group, block) = (draft.axis("group", groups), draft.axis("block", self.blocks));
        let (task, values) = draft.share(&[group, block]);
        let first = self.first_square(draft, values[0]);
        let (row, square) = self.square(draft, first);
        let row_value = draft.exprs.axis(row);
        let input = self.input(draft, square, values[1], values[0], row_value);
        let input = draft.all(row, Bind::Serial, input);
        let squares = draft.all(task, Bind::Workers, vec![input]);

        let zero = draft.int(0);
        let panel = draft.axis("panel", self.panels);
        let panel_value = draft.exprs.axis(panel);
        let mut body = Vec::new();
        let part = draft.axis("part", self.blocks / self.each);
        let part_value = draft.exprs.axis(part);
        let is_cut = self.blocks > self.each;
        if is_cut {
            body.push(self.clear(draft));
        }
        let block = draft.axis("block", self.each);
        let block_value = draft.exprs.axis(block);
        let from = draft.mul_add(part_value, self.each, block_value);
        let filter = self.filter(draft, panel_value, from, block_value, zero);
        let filter = draft.all(block, Bind::Serial, filter);
        let first_block = draft.mul_add(part_value, self.each, zero);
        let group = draft.axis("group", groups);
        let group_value = draft.exprs.axis(group);
        let products = self.products(draft, first_block, zero, group_value, is_cut);
        let products = match products {
            // The panel of a place stays in the first cache.
            Stmt::Loop { axis, body, .. } => {
                let all = draft.all(group, Bind::Serial, body);
                draft.all(axis, Bind::Serial, vec![all])
            }
            other => other,
        };
        body.push(draft.all(part, Bind::Serial, vec![filter, products]));
        let group = draft.axis("group", groups);
        let group_value = draft.exprs.axis(group);
        let output = self.outputs(draft, tasks, group_value, group_value, panel_value);
        body.push(draft.all(group, Bind::Serial, vec![output]));
        vec![squares, draft.all(panel, Bind::Workers, body)]
    }

    /// The first square of a group; the last group is moved back to end with the squares.
    fn first_square(&self, draft: &mut Draft, group: ExprId) -> ExprId {
        let zero = draft.int(0);
        let first = draft.mul_add(group, self.rows, zero);
        let last = draft.int(self.squares - self.rows);
        draft.i64(Prim::Min, first, last)
    }

    /// An axis over the squares of a group, and the number of its square.
    fn square(&self, draft: &mut Draft, first: ExprId) -> (AxisId, ExprId) {
        let row = draft.axis("square", self.rows);
        let value = draft.exprs.axis(row);
        (row, draft.i64(Prim::Add, first, value))
    }

    /// Where a square's results are: the values of the axes of images, and the first result down and along the lines.
    fn corner(&self, draft: &mut Draft, square: ExprId) -> (HashMap<ExprId, ExprId>, [ExprId; 2]) {
        let sides = self
            .form
            .directions
            .map(|it| draft.extent(it.along).div_ceil(self.size));
        let extents: Vec<usize> = (self.form.images.iter().map(|&axis| draft.extent(axis)))
            .chain(sides)
            .collect();
        let mut digits = draft.digits(square, &extents);
        let zero = draft.int(0);
        let sides = digits.split_off(self.form.images.len());
        let first = [0, 1].map(|at: usize| draft.mul_add(sides[at], self.size, zero));
        let images = self.form.images.iter().map(|&axis| draft.source.axis(axis));
        (images.zip(digits).collect(), first)
    }

    /// `V` of a block of channels of a square, into a row of a group's matrices.
    fn input(&self, draft: &mut Draft, square: ExprId, block: ExprId, group: ExprId, row: ExprId) -> Vec<Stmt> {
        let Form { image, lane, .. } = *self.form;
        let reach = self.reach;
        let (mut known, corner) = self.corner(draft, square);
        let extents: Vec<usize> = self.form.channels.iter().map(|&axis| draft.extent(axis)).collect();
        let values = draft.digits(block, &extents);
        known.extend(
            self.form
                .channels
                .iter()
                .map(|&axis| draft.source.axis(axis))
                .zip(values),
        );
        // The element at some place of the image.
        let at = |draft: &mut Draft, [y, x]: [ExprId; 2]| -> Vec<ExprId> {
            let mut index: Vec<ExprId> = Vec::new();
            for (place, &id) in self.form.index.iter().enumerate() {
                index.push(match self.form.directions.iter().position(|it| it.place == place) {
                    Some(0) => y,
                    Some(_) => x,
                    None => draft.import(&mut known.clone(), id),
                });
            }
            index
        };
        let shape = draft.buffers[image.at()].ty.shape.clone();
        let extents = self.form.directions.map(|it| shape[it.place]);
        let first: [ExprId; 2] = [0, 1].map(|way: usize| {
            let first = draft.exprs.int(self.form.directions[way].first);
            draft.i64(Prim::Add, corner[way], first)
        });
        let add = |draft: &mut Draft, a: ExprId, by: usize| {
            let by = draft.int(by);
            draft.i64(Prim::Add, a, by)
        };

        // Down the columns, from the image where the square lies within it, otherwise from a copy with zeros.
        let column = draft.axis("column", reach);
        let column_value = draft.exprs.axis(column);
        let lane_value = draft.exprs.axis(lane);
        let down = |draft: &mut Draft, element: &dyn Fn(&mut Draft, usize) -> ExprId| {
            let elements: Vec<ExprId> = (0..reach).map(|row| element(draft, row)).collect();
            let sums = product(&mut draft.exprs, &self.transforms.input, &elements);
            let stores = self.stores(draft, sums, self.half, |draft, at| {
                vec![draft.int(at), column_value, lane_value]
            });
            let lanes = draft.all(lane, Bind::Lanes, stores);
            draft.all(column, Bind::Serial, vec![lanes])
        };
        let patch = self.patch;
        let from_patch = down(draft, &|draft, row| {
            let row = draft.int(row);
            draft
                .exprs
                .load(patch, DType::F32, vec![row, column_value, lane_value], false)
        });
        let copy = self.copy(draft, first, extents, &at);
        let mut outside = copy;
        outside.push(from_patch);
        let is_wide = extents.iter().all(|&extent| extent >= reach);
        let mut body = if is_wide {
            // Clamped, so that the prover sees that it is inside even where it is not run.
            let inside = [0, 1].map(|way: usize| draft.clamp(first[way], extents[way] - reach + 1));
            let from_image = down(draft, &|draft, row| {
                let y = add(draft, inside[0], row);
                let x = draft.i64(Prim::Add, inside[1], column_value);
                let index = at(draft, [y, x]);
                draft.exprs.load(image, DType::F32, index, false)
            });
            let [y, x] = [0, 1].map(|way: usize| draft.exprs.prim(Prim::Eq, DType::Bool, &[first[way], inside[way]]));
            let condition = draft.exprs.prim(Prim::And, DType::Bool, &[y, x]);
            vec![Stmt::If {
                condition,
                then: vec![from_image],
                otherwise: outside,
            }]
        } else {
            outside
        };

        // Along the rows.
        let line = draft.axis("line", reach);
        let line_value = draft.exprs.axis(line);
        let elements: Vec<ExprId> = (0..reach)
            .map(|column| {
                let column = draft.int(column);
                draft
                    .exprs
                    .load(self.half, DType::F32, vec![line_value, column, lane_value], false)
            })
            .collect();
        let sums = product(&mut draft.exprs, &self.transforms.input, &elements);
        let number = draft.mul_add(group, self.blocks, block);
        let place = draft.mul_add(number, self.rows, row);
        let place = draft.mul_add(place, LANES, lane_value);
        let stores = self.stores(draft, sums, self.image, |draft, at| {
            let at = draft.int(at);
            vec![draft.mul_add(line_value, reach, at), place]
        });
        let lanes = draft.all(lane, Bind::Lanes, stores);
        body.push(draft.all(line, Bind::Serial, vec![lanes]));
        body
    }

    /// Copies what lies within the image of a square that starts at `first` into the patch, and zeros around it.
    fn copy(
        &self,
        draft: &mut Draft,
        first: [ExprId; 2],
        extents: [usize; 2],
        at: &dyn Fn(&mut Draft, [ExprId; 2]) -> Vec<ExprId>,
    ) -> Vec<Stmt> {
        let Form { image, lane, .. } = *self.form;
        let lane_value = draft.exprs.axis(lane);
        let zero = draft.int(0);
        let nothing = draft.exprs.constant(DType::F32, Scalar::zero(DType::F32));
        let axes = [draft.axis("row", self.reach), draft.axis("column", self.reach)];
        let index = axes.map(|axis| draft.exprs.axis(axis));
        let clear = Stmt::Store {
            buffer: self.patch,
            index: vec![index[0], index[1], lane_value],
            value: nothing,
        };
        let clear = draft.all(lane, Bind::Lanes, vec![clear]);
        let clear = draft.nested(&axes, vec![clear]);

        let (mut axes, mut from, mut to, mut counts) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for way in 0..2 {
            let start = draft.i64(Prim::Max, first[way], zero);
            let skipped = draft.i64(Prim::Sub, start, first[way]);
            let [extent, reach] = [extents[way], self.reach].map(|value| draft.int(value));
            let left = draft.i64(Prim::Sub, extent, start);
            let room = draft.i64(Prim::Sub, reach, skipped);
            let count = draft.i64(Prim::Min, left, room);
            let axis = self.axis_of(draft, "copied", count, self.reach);
            let value = draft.exprs.axis(axis);
            axes.push(axis);
            counts.push(count);
            from.push(draft.i64(Prim::Add, start, value));
            to.push(draft.i64(Prim::Add, skipped, value));
        }
        let index = at(draft, [from[0], from[1]]);
        let store = Stmt::Store {
            buffer: self.patch,
            index: vec![to[0], to[1], lane_value],
            value: draft.exprs.load(image, DType::F32, index, false),
        };
        let lanes = draft.all(lane, Bind::Lanes, vec![store]);
        let copy = axes
            .iter()
            .zip(counts)
            .rev()
            .fold(lanes, |body, (&axis, extent)| Stmt::Loop {
                axis,
                extent,
                bind: Bind::Serial,
                body: vec![body],
            });
        clear.into_iter().chain([copy]).collect()
    }

    /// `U` of a block of channels of a panel of filters, into block `to` of those matrices.
    fn filter(&self, draft: &mut Draft, panel: ExprId, block: ExprId, to: ExprId, matrices: ExprId) -> Vec<Stmt> {
        let Form { column, lane, .. } = *self.form;
        let side = draft.axis("side", self.columns / LANES);
        let side_value = draft.exprs.axis(side);
        let number = draft.mul_add(panel, self.columns / LANES, side_value);
        let mut known = self.filters(draft, number);
        let extents: Vec<usize> = self.form.channels.iter().map(|&axis| draft.extent(axis)).collect();
        // The taps of a block of channels, by columns.
        let mut taps_of = |draft: &mut Draft, block: ExprId| -> Vec<Vec<ExprId>> {
            let values = draft.digits(block, &extents);
            known.extend((self.form.channels.iter().map(|&axis| draft.source.axis(axis))).zip(values));
            let tap = |draft: &mut Draft, y: usize, x: usize| {
                let mut known = known.clone();
                for (direction, tap) in self.form.directions.iter().zip([y, x]) {
                    let tap = if direction.flipped { TAPS - 1 - tap } else { tap };
                    known.insert(draft.source.axis(direction.tap), draft.exprs.int(tap as i64));
                }
                draft.import(&mut known, self.form.filter)
            };
            (0..TAPS)
                .map(|x| (0..TAPS).map(|y| tap(draft, y, x)).collect())
                .collect()
        };
        // Filters come from far away, in an order that no prefetcher foresees.
        let one = draft.int(1);
        let next = draft.i64(Prim::Add, block, one);
        let next = taps_of(draft, next).concat();
        let prefetches = next.iter().filter_map(|&tap| match draft.exprs.get(tap) {
            Expr::Load { buffer, index, .. } => Some(Stmt::Prefetch {
                buffer: *buffer,
                index: index.to_vec(),
            }),
            _ => None,
        });
        let mut body: Vec<Stmt> = prefetches.collect();
        // Down the columns of taps, then along the rows.
        let columns: Vec<Vec<ExprId>> = (taps_of(draft, block).iter())
            .map(|taps| product(&mut draft.exprs, &self.transforms.filter, taps))
            .collect();
        let mut sums = Vec::new();
        for row in 0..self.reach {
            let taps: Vec<ExprId> = columns.iter().map(|column| column[row]).collect();
            sums.extend(product(&mut draft.exprs, &self.transforms.filter, &taps));
        }
        let [lane_value, column_value] = [lane, column].map(|axis| draft.exprs.axis(axis));
        let at = draft.mul_add(to, LANES, lane_value);
        let at = draft.mul_add(at, self.columns / LANES, side_value);
        let at = draft.mul_add(at, LANES, column_value);
        let places = self.reach * self.reach;
        let stores = self.stores(draft, sums, self.filter, |draft, place| {
            let place = draft.int(place);
            vec![draft.mul_add(matrices, places, place), at]
        });
        body.extend(stores);
        let lanes = draft.all(column, Bind::Lanes, body);
        draft.nested(&[side, lane], vec![lanes])
    }

    /// The values of the axes of filters for a block of them.
    fn filters(&self, draft: &mut Draft, number: ExprId) -> HashMap<ExprId, ExprId> {
        let extents: Vec<usize> = self.form.filters.iter().map(|&axis| draft.extent(axis)).collect();
        let values = draft.digits(number, &extents);
        let axes = self.form.filters.iter().map(|&axis| draft.source.axis(axis));
        axes.zip(values).collect()
    }

    /// `M` of a group of squares and a panel, from the block of channels on, at every place.
    fn products(&self, draft: &mut Draft, block: ExprId, matrices: ExprId, group: ExprId, accumulate: bool) -> Stmt {
        let place = draft.axis("place", self.reach * self.reach);
        let value = draft.exprs.axis(place);
        let zero = draft.int(0);
        let start = |draft: &mut Draft, buffer: BufferId, matrix: ExprId, element: ExprId| {
            let pitch = draft.buffers[buffer.at()].ty.shape[1];
            draft.mul_add(matrix, pitch, element)
        };
        let number = draft.mul_add(group, self.blocks, block);
        let element = draft.mul_add(number, self.rows * LANES, zero);
        let a = start(draft, self.image, value, element);
        let matrix = draft.mul_add(matrices, self.reach * self.reach, value);
        let b = start(draft, self.filter, matrix, zero);
        let element = draft.mul_add(group, self.rows * self.columns, zero);
        let c = start(draft, self.product, value, element);
        let operand = |buffer, start, across, along: &[usize]| Operand {
            buffer,
            start,
            across,
            lines: None,
            pieces: None,
            along: along.to_vec(),
        };
        let contract = Stmt::Contract(Contract {
            dtype: DType::F32,
            rows: self.rows,
            columns: self.columns,
            k: vec![self.each, LANES],
            a: operand(self.image, a, LANES, &[self.rows * LANES, 1]),
            b: operand(self.filter, b, 1, &[LANES * self.columns, self.columns]),
            c: operand(self.product, c, self.columns, &[]),
            accumulate,
            ahead: 0,
        });
        draft.all(place, Bind::Serial, vec![contract])
    }

    /// Zeros in all of `M`.
    fn clear(&self, draft: &mut Draft) -> Stmt {
        let shape = draft.buffers[self.product.at()].ty.shape.clone();
        let axes = [draft.axis("place", shape[0]), draft.axis("element", shape[1])];
        let index = axes.map(|axis| draft.exprs.axis(axis)).to_vec();
        let value = draft.exprs.constant(DType::F32, Scalar::zero(DType::F32));
        let store = Stmt::Store {
            buffer: self.product,
            index,
            value,
        };
        let lanes = draft.all(axes[1], Bind::Lanes, vec![store]);
        draft.all(axes[0], Bind::Serial, vec![lanes])
    }

    /// The results of a group of squares for a panel of filters. Each is written once, for what it is computed from may lie where it is
    /// written.
    fn outputs(&self, draft: &mut Draft, tasks: &[Task], group: ExprId, matrix: ExprId, panel: ExprId) -> Stmt {
        let zero = draft.int(0);
        let first = draft.mul_add(group, self.rows, zero);
        let (axis, square) = self.square(draft, first);
        let start = self.first_square(draft, group);
        let row = draft.i64(Prim::Sub, square, start);
        let row = draft.mul_add(matrix, self.rows, row);
        let body = self.output(draft, tasks, square, row, panel);
        Stmt::Loop {
            axis,
            extent: draft.rest(self.squares, first, self.rows),
            bind: Bind::Serial,
            body,
        }
    }

    /// The results of a square for a panel of filters, from a row of the products, and what tasks make of them.
    fn output(&self, draft: &mut Draft, tasks: &[Task], square: ExprId, row: ExprId, panel: ExprId) -> Vec<Stmt> {
        let (reach, size) = (self.reach, self.size);
        // Down the columns of `M`, then along the rows.
        let (column, lane) = (draft.axis("column", reach), draft.axis("lane", self.columns));
        let [column_value, lane_value] = [column, lane].map(|axis| draft.exprs.axis(axis));
        let at = draft.mul_add(row, self.columns, lane_value);
        let elements: Vec<ExprId> = (0..reach)
            .map(|line| {
                let first = draft.int(line * reach);
                let place = draft.i64(Prim::Add, first, column_value);
                draft.exprs.load(self.product, DType::F32, vec![place, at], false)
            })
            .collect();
        let sums = product(&mut draft.exprs, &self.transforms.output, &elements);
        let stores = self.stores(draft, sums, self.half, |draft, line| {
            vec![draft.int(line), column_value, lane_value]
        });
        let lanes = draft.all(lane, Bind::Lanes, stores);
        let down = draft.all(column, Bind::Serial, vec![lanes]);

        let line = draft.axis("line", size);
        let line_value = draft.exprs.axis(line);
        let elements: Vec<ExprId> = (0..reach)
            .map(|column| {
                let column = draft.int(column);
                draft
                    .exprs
                    .load(self.half, DType::F32, vec![line_value, column, lane_value], false)
            })
            .collect();
        let sums = product(&mut draft.exprs, &self.transforms.output, &elements);
        let stores = self.stores(draft, sums, self.result, |draft, column| {
            vec![line_value, draft.int(column), lane_value]
        });
        let lanes = draft.all(lane, Bind::Lanes, stores);
        let along = draft.all(line, Bind::Serial, vec![lanes]);

        // What of it lies within the result.
        let (mut known, corner) = self.corner(draft, square);
        let side = draft.axis("side", self.columns / LANES);
        let side_value = draft.exprs.axis(side);
        let number = draft.mul_add(panel, self.columns / LANES, side_value);
        known.extend(self.filters(draft, number));
        let (mut axes, mut values, mut counts) = (Vec::new(), Vec::new(), Vec::new());
        for (way, direction) in self.form.directions.iter().enumerate() {
            let count = draft.rest(draft.extent(direction.along), corner[way], size);
            let axis = self.axis_of(draft, "written", count, size);
            let value = draft.exprs.axis(axis);
            let at = draft.i64(Prim::Add, corner[way], value);
            known.insert(draft.source.axis(direction.along), at);
            axes.push(axis);
            values.push(value);
            counts.push(count);
        }
        let column_value = draft.exprs.axis(self.form.column);
        let at = draft.mul_add(side_value, LANES, column_value);
        let sum = draft
            .exprs
            .load(self.result, DType::F32, vec![values[0], values[1], at], false);
        known.insert(self.form.fold, sum);
        let stores = draft.stores(tasks, &mut known);
        let write = draft.all(self.form.column, Bind::Lanes, stores);
        let write = axes
            .iter()
            .zip(counts)
            .rev()
            .fold(write, |body, (&axis, extent)| Stmt::Loop {
                axis,
                extent,
                bind: Bind::Serial,
                body: vec![body],
            });
        vec![down, along, draft.all(side, Bind::Serial, vec![write])]
    }

    /// The axis of a loop of so many iterations, at most `most`.
    fn axis_of(&self, draft: &mut Draft, name: &str, count: ExprId, most: usize) -> AxisId {
        let extent = draft.exprs.as_int(count).map_or(most, |count| count.max(0) as usize);
        draft.axis(name, extent)
    }

    /// Values into a buffer, each at its index.
    fn stores(
        &self,
        draft: &mut Draft,
        values: Vec<ExprId>,
        buffer: BufferId,
        index: impl Fn(&mut Draft, usize) -> Vec<ExprId>,
    ) -> Vec<Stmt> {
        let stores = values.into_iter().enumerate().map(|(at, value)| Stmt::Store {
            buffer,
            index: index(draft, at),
            value,
        });
        stores.collect()
    }
}
