//! Which contractions are for a matrix unit: one side is an image, or rows, the other a filter in pieces or what may be put in them.

use std::collections::BTreeSet;

use netloom_ir::decisions::Decision;
use netloom_ir::kernel::index::affine;
use netloom_ir::kernel::pieces::{DEPTH, PIECES, SIDE};
use netloom_ir::kernel::{AxisId, BufferId, Expr, ExprId, Prim};
use netloom_ir::{DType, Target};

use super::{TILE, VECTOR};
use crate::schedule::contract;
use crate::schedule::draft::{Draft, Task};

/// Of lines of so many rows each begins with a tile of its own.
const LONG: usize = 2 * TILE;

/// A contraction that a matrix unit computes faster.
#[derive(Clone, Debug)]
pub struct Form {
    pub fold: ExprId,
    /// The tensor of `A`, and its index.
    pub(super) image: BufferId,
    pub(super) index: Vec<ExprId>,
    pub(super) guarded: bool,
    pub(super) b: ExprId,
    /// The tensor of `B`, if it is in pieces and lies as the unit reads it.
    pub(super) ready: Option<BufferId>,
    /// The axes of the result that only `A` depends on, as they lie in it, outermost first: copies of their own, then those of a copy's rows.
    pub(super) outer: Vec<AxisId>,
    pub(super) ways: Vec<Way>,
    /// The axes of the sum that are no taps; the last runs along the lanes.
    pub(super) channels: Vec<AxisId>,
    /// Whether a row's channels lie closer together than rows do.
    pub(super) is_by_rows: bool,
    /// The axes of the result that only `B` depends on; the last runs along the lanes.
    pub(super) columns: Vec<AxisId>,
}

/// An axis of the result along which rows run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    pub(super) along: AxisId,
    pub(super) window: Option<Window>,
}

/// How a filter moves over an image along one of its axes: `image[first + stride * along + step * tap]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub(super) tap: AxisId,
    /// The place in the image's index.
    pub(super) place: usize,
    pub(super) first: i64,
    pub(super) stride: usize,
    pub(super) step: usize,
    /// Whether `tap` counts down.
    pub(super) flipped: bool,
}

impl Form {
    /// The form of a contraction that this unit computes faster than vectors.
    pub fn of(draft: &mut Draft, form: &contract::Form, target: &Target) -> Option<Form> {
        if !target.pieces || form.dtype != DType::F32 {
            return None;
        }
        let is_decided = draft.decisions.get(Decision::Matrix) == Some(1);
        // What moves by more than it reads is a window only where a filter in pieces says so.
        let ways = [
            (form.a, form.b, true),
            (form.b, form.a, true),
            (form.a, form.b, false),
            (form.b, form.a, false),
        ];
        ways.into_iter()
            .filter_map(|(a, b, overlap)| Form::with(draft, form, (a, b), overlap))
            .find(|found| found.ready.is_some() || is_decided)
    }

    /// Whether a task ranges over exactly the axes of the contraction's result.
    pub fn spans(&self, task: &Task) -> bool {
        let ways = self.ways.iter().map(|way| &way.along);
        let axes = self.outer.iter().chain(ways).chain(&self.columns);
        axes.copied().collect::<BTreeSet<_>>() == task.over.iter().copied().collect()
    }

    /// The form with these sides, if they lie as it needs, with windows that overlap or all there are.
    fn with(draft: &mut Draft, form: &contract::Form, (a, b): (ExprId, ExprId), overlap: bool) -> Option<Form> {
        let Expr::Load { buffer, index, guarded } = draft.source.get(a).clone() else {
            return None;
        };
        let (a_free, b_free) = (draft.free(a), draft.free(b));
        let of_result = |axis: &&AxisId| !form.k.contains(axis);
        let rows: Vec<AxisId> = a_free.iter().filter(of_result).copied().collect();
        let mut columns: Vec<AxisId> = b_free.iter().filter(of_result).copied().collect();
        let is_summed = |axis: &AxisId| a_free.contains(axis) && b_free.contains(axis);
        if rows.is_empty() || columns.is_empty() || rows.iter().any(|axis| b_free.contains(axis)) {
            return None;
        }
        let windows = windows(draft, &index, &rows, &form.k, overlap)?;
        let is_tap = |axis: &AxisId| windows.iter().any(|(_, window)| window.tap == *axis);
        let mut channels: Vec<AxisId> = form.k.iter().copied().filter(|axis| !is_tap(axis)).collect();
        let address = draft.address(buffer, &index)?;
        channels.retain(|&axis| draft.extent(axis) > 1);
        channels.sort_by_key(|&axis| std::cmp::Reverse(address.factor(axis)));
        let lane = *channels.last()?;
        if !draft.extent(lane).is_multiple_of(VECTOR)
            || !form.k.iter().all(|axis| draft.extent(*axis) == 1 || is_summed(axis))
        {
            return None;
        }
        let mut ways: Vec<Way> = (rows.into_iter())
            .map(|along| Way {
                along,
                window: windows
                    .iter()
                    .find(|(axis, _)| *axis == along)
                    .map(|(_, window)| *window),
            })
            .collect();
        ways.sort_by_key(|way| std::cmp::Reverse(address.factor(way.along)));
        // Rows run over what lies between lines, but not over what lies between images.
        let within = ways.split_off(ways.iter().position(|way| way.window.is_some()).unwrap_or(0));
        let is_short = |way: &Way| way.window.is_none() && draft.extent(way.along) == 1;
        let (short, mut within): (Vec<Way>, Vec<Way>) = within.into_iter().partition(is_short);
        ways.extend(short);
        // Nor do they go on from line to line where lines are long.
        while let [first, rest @ ..] = &within[..]
            && first.window.is_none()
            && !rest.is_empty()
            && draft.count(rest.iter().map(|way| &way.along)) >= LONG
        {
            ways.push(within.remove(0));
        }
        if within.is_empty() || !windows.is_empty() && within.len() > 2 {
            return None;
        }
        // From one vector of a row to the next.
        let step = match (draft.extent(lane), channels.iter().rev().nth(1)) {
            (VECTOR, None) => i64::MAX,
            (VECTOR, Some(&next)) => address.factor(next),
            _ => VECTOR as i64,
        };
        // The columns that lie side by side run along the lanes, if there are enough of them or no others.
        let column = form.column;
        let lanes = match columns.iter().position(|&axis| axis == column) {
            Some(place) => columns.remove(place),
            None => columns.pop()?,
        };
        if draft.count(&columns) > 1 && draft.extent(lanes) != SIDE {
            return None;
        }
        columns.push(lanes);
        let taps: Vec<AxisId> = within.iter().filter_map(|way| Some(way.window?.tap)).collect();
        Some(Form {
            fold: form.fold,
            image: buffer,
            index: index.to_vec(),
            guarded,
            b,
            ready: ready(draft, b, &columns, &channels, &taps),
            outer: ways.into_iter().map(|way| way.along).collect(),
            is_by_rows: within.last().is_some_and(|way| address.factor(way.along) > step),
            ways: within,
            channels,
            columns,
        })
    }
}

/// The tensor of a filter in pieces, if an operand is the sum of these and they lie as tiles read them: `[O/16, C/32, taps…, 3, 16 of C, 16 of O, 2 of C/16]`.
fn ready(draft: &mut Draft, b: ExprId, columns: &[AxisId], channels: &[AxisId], taps: &[AxisId]) -> Option<BufferId> {
    let mut open = vec![b];
    let mut pieces = Vec::new();
    while let Some(id) = open.pop() {
        match draft.source.get(id) {
            Expr::Prim(Prim::Add, _, args) if open.len() + pieces.len() < PIECES => open.extend(args.iter().copied()),
            Expr::Prim(Prim::Cast, _, args) => match draft.source.get(args[0]) {
                Expr::Load {
                    buffer,
                    index,
                    guarded: false,
                } => pieces.push((*buffer, index.to_vec())),
                _ => return None,
            },
            _ => return None,
        }
    }
    let &(buffer, ref first) = pieces.first()?;
    let ty = &draft.buffers[buffer.at()].ty;
    let rank = first.len();
    let place = rank.checked_sub(4)?;
    if ty.dtype != DType::BF16
        || pieces.len() != PIECES
        || ty.shape[place..] != [PIECES, SIDE, SIDE, 2]
        || ty.shape[0] > 1 && !ty.shape[0].is_multiple_of(TILE / SIDE)
    {
        return None;
    }
    // What the element's digits are, apart from the piece.
    let zero = draft.source.int(0);
    let axis = |draft: &mut Draft, axis: Option<&AxisId>| axis.map_or(zero, |&axis| draft.source.axis(axis));
    let (&lanes, others) = columns.split_last()?;
    let op = |draft: &mut Draft, prim: Prim, a: ExprId, b: usize| {
        let b = draft.source.int(b as i64);
        draft.source.prim(prim, DType::I64, &[a, b])
    };
    let column = draft.source.axis(lanes);
    let [block, within] = match draft.extent(lanes) {
        SIDE if others.len() < 2 => [axis(draft, others.first()), column],
        _ if others.is_empty() => [Prim::Div, Prim::Rem].map(|prim| op(draft, prim, column, SIDE)),
        _ => return None,
    };
    let mut channel = zero;
    for &axis in channels {
        let (at, extent) = (draft.source.axis(axis), draft.extent(axis));
        channel = op(draft, Prim::Mul, channel, extent);
        channel = draft.source.prim(Prim::Add, DType::I64, &[channel, at]);
    }
    let depth = op(draft, Prim::Div, channel, DEPTH);
    let lane = op(draft, Prim::Rem, channel, VECTOR);
    let half = op(draft, Prim::Div, channel, VECTOR);
    let half = op(draft, Prim::Rem, half, 2);
    let taps: Vec<ExprId> = taps.iter().map(|&tap| draft.source.axis(tap)).collect();
    let mut numbers: Vec<usize> = Vec::new();
    for (_, index) in pieces.iter().filter(|piece| piece.0 == buffer) {
        let is_still = |&at: &ExprId| draft.source.range(at) == Some((0, 0));
        let index: Vec<ExprId> = index.iter().map(|at| if is_still(at) { zero } else { *at }).collect();
        let moved: Vec<ExprId> = index[2..place].iter().copied().filter(|&at| at != zero).collect();
        let is_there = index[..2] == [block, depth] && moved == taps && index[place + 1..] == [lane, within, half];
        let number = draft.source.as_const(index[place])?.as_i128() as usize;
        if !is_there || numbers.contains(&number) {
            return None;
        }
        numbers.push(number);
    }
    (numbers.len() == PIECES).then_some(buffer)
}

/// The axes of the result that move a window, one which overlaps the next or any, with these windows; nothing if some index is no sum.
fn windows(
    draft: &Draft,
    index: &[ExprId],
    rows: &[AxisId],
    k: &[AxisId],
    overlap: bool,
) -> Option<Vec<(AxisId, Window)>> {
    let sums: Vec<_> = (index.iter())
        .map(|&at| affine(&draft.source, at))
        .collect::<Option<_>>()?;
    let mut found = Vec::new();
    for (place, sum) in sums.iter().enumerate() {
        let is_long = |term: &&(AxisId, i64)| draft.extent(term.0) > 1;
        let terms: Vec<(AxisId, i64)> = sum.terms.iter().filter(is_long).copied().collect();
        let ((along, stride), (tap, step)) = match terms[..] {
            [a, b] if rows.contains(&a.0) && k.contains(&b.0) => (a, b),
            [b, a] if rows.contains(&a.0) && k.contains(&b.0) => (a, b),
            _ => continue,
        };
        let reach = step * (draft.extent(tap) as i64 - 1);
        let is_here_alone = |axis: AxisId| {
            let others = sums.iter().enumerate().filter(|&(other, _)| other != place);
            others.flat_map(|(_, sum)| &sum.terms).all(|&(other, _)| other != axis)
        };
        if stride > 0 && (reach.abs() >= stride || !overlap) && is_here_alone(along) && is_here_alone(tap) {
            found.push((
                along,
                Window {
                    tap,
                    place,
                    first: sum.constant + reach.min(0),
                    stride: stride as usize,
                    step: step.unsigned_abs() as usize,
                    flipped: step < 0,
                },
            ));
        }
    }
    Some(found)
}
