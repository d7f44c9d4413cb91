//! Both sides in pieces: the image place by place, and a filter that is not in pieces yet.

use std::collections::HashMap;

use netloom_ir::kernel::pieces::{PIECES, SIDE};
use netloom_ir::kernel::{AxisId, Bind, BufferId, ExprId, Prim, Role, Stmt};
use netloom_ir::{DType, Scalar};

use super::{Plan, VECTOR};
use crate::schedule::draft::Draft;

impl Plan<'_> {
    /// Where `A` in pieces is.
    pub(super) fn image(&self, draft: &mut Draft) -> BufferId {
        let (copies, role) = match self.is_local {
            true => (1, Role::WorkerScratch),
            false => (draft.count(&self.form.outer), Role::SharedScratch),
        };
        let shape = vec![copies, self.blocks, self.phases_count(), self.height, PIECES, SIDE];
        draft.scratch("image", DType::U32, shape, role)
    }

    /// All of `A` in pieces, by all workers: each most of what it reads itself.
    pub(super) fn split_all(&self, draft: &mut Draft, image: BufferId) -> Stmt {
        let lines = (SIDE / self.pitches[0]).max(1);
        let part = draft.axis("part", self.places[0].div_ceil(lines));
        let (task, values) = draft.share(&[&self.form.outer[..], &[part]].concat());
        let (&part, outer) = values.split_last().expect("a part");
        let zero = draft.int(0);
        let line = draft.mul_add(part, lines, zero);
        let place = draft.mul_add(line, self.pitches[0], zero);
        let body = self.split(draft, image, outer, (line, lines), place);
        draft.all(task, Bind::Workers, body)
    }

    /// The loops that put lines of `A` in pieces, from one on and at most so many, to where this place is.
    pub(super) fn split(
        &self,
        draft: &mut Draft,
        buffer: BufferId,
        outer: &[ExprId],
        (first, lines): (ExprId, usize),
        start: ExprId,
    ) -> Vec<Stmt> {
        let form = self.form;
        let zero = draft.int(0);
        let block = draft.axis("block", self.blocks);
        let lane = draft.axis("lane", VECTOR);
        let mut index = form.index.clone();
        let (mut phase_axes, mut place_axes) = (Vec::new(), Vec::new());
        for (number, way) in form.ways.iter().enumerate() {
            let phase = draft.axis("phase", self.phases[number]);
            let place = draft.axis("place", self.places[number]);
            if let Some(window) = way.window {
                let [first, stride] = [window.first, window.stride as i64].map(|value| draft.source.int(value));
                let [phase, place] = [phase, place].map(|axis| draft.source.axis(axis));
                let steps = draft.source.prim(Prim::Mul, DType::I64, &[place, stride]);
                let start = draft.source.prim(Prim::Add, DType::I64, &[steps, phase]);
                index[window.place] = draft.source.prim(Prim::Add, DType::I64, &[start, first]);
            }
            phase_axes.push(phase);
            place_axes.push(place);
        }
        let leaves_out = self.phases.iter().any(|&count| count > 1);
        let load = draft
            .source
            .load(form.image, DType::F32, index, form.guarded || leaves_out);
        let (&outermost, within) = place_axes.split_first().expect("a way");
        let lines = lines.min(self.places[0]);
        let line = draft.axis("line", lines);
        let line_value = draft.exprs.axis(line);
        let mut at: HashMap<AxisId, ExprId> = HashMap::new();
        at.extend(form.outer.iter().copied().zip(outer.iter().copied()));
        at.insert(outermost, draft.i64(Prim::Add, first, line_value));
        for &axis in phase_axes.iter().chain(within).chain([&block]) {
            at.insert(axis, draft.exprs.axis(axis));
        }
        let mut known = self.ones(draft);
        for (&axis, &value) in &at {
            known.insert(draft.source.axis(axis), value);
        }
        for (way, place) in form.ways.iter().zip(&place_axes) {
            known.insert(draft.source.axis(way.along), at[place]);
        }
        let lane_value = draft.exprs.axis(lane);
        let terms = [0, 1].map(|half| {
            let (number, is_inside) = self.half(draft, at[&block], half);
            let mut known = known.clone();
            self.channels(draft, number, lane_value, &mut known);
            let value = draft.import(&mut known, load);
            let nothing = draft.exprs.constant(DType::F32, Scalar::zero(DType::F32));
            let value = match is_inside {
                Some(is_inside) => draft.exprs.prim(Prim::Select, DType::F32, &[is_inside, value, nothing]),
                None => value,
            };
            pieces_of(draft, value)
        });
        let flat = |draft: &mut Draft, axes: &[AxisId], extents: &[usize]| {
            axes.iter()
                .zip(extents)
                .fold(zero, |sum, (axis, &extent)| draft.mul_add(sum, extent, at[axis]))
        };
        let number = match self.is_local {
            true => zero,
            false => self.copy_number(draft, outer),
        };
        let phase = flat(draft, &phase_axes, &self.phases);
        let place = flat(draft, within, &self.places[1..]);
        let place = draft.mul_add(line_value, self.pitches[0], place);
        let place = draft.i64(Prim::Add, start, place);
        let pairs = pairs(draft, terms);
        let stores = pairs.into_iter().enumerate().map(|(piece, value)| {
            let piece = draft.int(piece);
            Stmt::Store {
                buffer,
                index: vec![number, at[&block], phase, place, piece, lane_value],
                value,
            }
        });
        let stores: Vec<Stmt> = stores.collect();
        let lanes = draft.all(lane, Bind::Lanes, stores);
        // What lies closest in the tensor runs innermost.
        let (around, inside) = match form.is_by_rows {
            true => (vec![], [within, &[block]].concat()),
            false => (vec![block], within.to_vec()),
        };
        let lines = Stmt::Loop {
            axis: line,
            extent: draft.rest(self.places[0], first, lines),
            bind: Bind::Serial,
            body: draft.nested(&inside, vec![lanes]),
        };
        draft.nested(&[around, phase_axes].concat(), vec![lines])
    }

    /// All panels of `B` in pieces, by all workers.
    pub(super) fn pack_all(&self, draft: &mut Draft, buffer: BufferId) -> Stmt {
        let block = draft.axis("block", self.column_blocks);
        let depth = draft.axis("depth", self.blocks);
        let (task, values) = draft.share(&[block, depth]);
        let body = self.pack(draft, buffer, values[0], values[1]);
        draft.all(task, Bind::Workers, body)
    }

    /// The loops that put a block of columns into its place, for one block of the sum.
    fn pack(&self, draft: &mut Draft, buffer: BufferId, block: ExprId, depth: ExprId) -> Vec<Stmt> {
        let form = self.form;
        let zero = draft.int(0);
        let pair = draft.axis("pair", SIDE);
        let lane = draft.axis("lane", SIDE);
        let [pair_value, lane_value] = [pair, lane].map(|axis| draft.exprs.axis(axis));
        let mut known = self.ones(draft);
        let mut tap_value = zero;
        let taps: Vec<AxisId> = self.taps.iter().map(|window| window.tap).collect();
        for window in &self.taps {
            let (tap, extent) = (draft.exprs.axis(window.tap), draft.extent(window.tap));
            tap_value = draft.mul_add(tap_value, extent, tap);
            let last = draft.int(extent - 1);
            let value = if window.flipped {
                draft.i64(Prim::Sub, last, tap)
            } else {
                tap
            };
            known.insert(draft.source.axis(window.tap), value);
        }
        let valid = self.column(draft, block, lane_value, &mut known);
        let terms = [0, 1].map(|half| {
            let (number, _) = self.half(draft, depth, half);
            let mut known = known.clone();
            self.channels(draft, number, pair_value, &mut known);
            let value = draft.import(&mut known, form.b);
            pieces_of(draft, value)
        });
        let pairs = pairs(draft, terms);
        let stores = pairs.into_iter().enumerate().map(|(piece, value)| {
            let piece = draft.int(piece);
            Stmt::Store {
                buffer,
                index: vec![block, depth, tap_value, piece, pair_value, lane_value],
                value,
            }
        });
        let stores: Vec<Stmt> = stores.collect();
        let lanes = Stmt::Loop {
            axis: lane,
            extent: valid,
            bind: Bind::Lanes,
            body: stores,
        };
        let axes = [&taps[..], &[pair]].concat();
        draft.nested(&axes, vec![lanes])
    }

    /// The number of one of the two blocks of channels of a block of the sum, and whether there is such a block, if that is to be asked; if not, the last.
    fn half(&self, draft: &mut Draft, block: ExprId, half: usize) -> (ExprId, Option<ExprId>) {
        let half = draft.int(half);
        let number = draft.mul_add(block, 2, half);
        if self.vectors.is_multiple_of(2) {
            return (number, None);
        }
        let last = draft.int(self.vectors - 1);
        let is_inside = draft.exprs.prim(Prim::Le, DType::Bool, &[number, last]);
        (draft.i64(Prim::Min, number, last), Some(is_inside))
    }

    /// What stands for the axes of the channels: vector `number`, and an element of it.
    fn channels(&self, draft: &mut Draft, number: ExprId, within: ExprId, known: &mut HashMap<ExprId, ExprId>) {
        let (&lane, others) = self.form.channels.split_last().expect("an axis of channels");
        let mut extents: Vec<usize> = others.iter().map(|&axis| draft.extent(axis)).collect();
        extents.push(draft.extent(lane) / VECTOR);
        let digits = draft.digits(number, &extents);
        for (&axis, &digit) in others.iter().zip(&digits) {
            known.insert(draft.source.axis(axis), digit);
        }
        let value = draft.mul_add(*digits.last().expect("a digit"), VECTOR, within);
        known.insert(draft.source.axis(lane), value);
    }

    /// The axes of the sum of one term.
    fn ones(&self, draft: &mut Draft) -> HashMap<ExprId, ExprId> {
        let zero = draft.int(0);
        let fold = draft.folded(self.form.fold).into_iter();
        let ones: Vec<AxisId> = fold.filter(|&axis| draft.extent(axis) == 1).collect();
        ones.into_iter().map(|axis| (draft.source.axis(axis), zero)).collect()
    }
}

/// The bits of an `f32`'s pieces, each in the high half of a `u32`.
fn pieces_of(draft: &mut Draft, x: ExprId) -> [ExprId; PIECES] {
    let [half, high] =
        [0x8000, -0x1_0000_i64].map(|bits| draft.exprs.constant(DType::U32, Scalar::Int(i128::from(bits as u32))));
    let mut rest = x;
    let mut found = Vec::new();
    for piece in 0..PIECES {
        let mut bits = draft.exprs.prim(Prim::Bitcast, DType::U32, &[rest]);
        // What is left for the last one has no more digits than it holds.
        if piece + 1 < PIECES {
            bits = draft.exprs.prim(Prim::Add, DType::U32, &[bits, half]);
        }
        bits = draft.exprs.prim(Prim::And, DType::U32, &[bits, high]);
        found.push(bits);
        let value = draft.exprs.prim(Prim::Bitcast, DType::F32, &[bits]);
        rest = draft.exprs.prim(Prim::Sub, DType::F32, &[rest, value]);
    }
    found.try_into().expect("three pieces")
}

/// Pairs of the pieces of two numbers, the first in the low half.
fn pairs(draft: &mut Draft, [low, high]: [[ExprId; PIECES]; 2]) -> Vec<ExprId> {
    let sixteen = draft.exprs.constant(DType::U32, Scalar::Int(16));
    let halves = low.into_iter().zip(high);
    let pair = |(low, high): (ExprId, ExprId)| {
        let low = draft.exprs.prim(Prim::Shr, DType::U32, &[low, sixteen]);
        draft.exprs.prim(Prim::Or, DType::U32, &[low, high])
    };
    halves.map(pair).collect()
}
