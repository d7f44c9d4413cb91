//! Takes a `Lanes` loop apart: which of its values each lane computes, and what the loop around must supply.
//!
//! In: a loop of a nest. Out: a [`Body`] for [`super::wide`], and for each of its slots the expression that [`super::emit`] computes
//! once, before the loop. Whatever does not depend on the lane is a slot, addresses above all, so that loops that differ only in
//! where they work have equal bodies.
//!
//! Index arithmetic is `i64` in the nest and `I32` in the lanes: sums and products are right modulo 2^32 anyway, and
//! comparisons, quotients and conversions are taken over only where the ranges of their operands fit.

use std::collections::BTreeMap;

use netloom_ir::DType;
use netloom_ir::kernel::index::{Linear, Terms, is_within, offset};
use netloom_ir::kernel::{AxisId, Buffer, BufferId, Expr, ExprId, Exprs, Nest, Prim, Stmt};

use super::wide::{Body, Origin, Sink, Value, ValueId};

/// A vector loop ready to be called: the body, and where each of its slots comes from.
#[derive(Clone, Debug)]
pub struct Lanes {
    /// What each lane does.
    pub body: Body,
    /// For each slot, what the surrounding code computes and puts there.
    pub slots: Vec<Slot>,
    /// For each slot, the bytes by which an address moves from row to row; zero without rows.
    pub strides: Vec<i64>,
}

/// What a slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// The address of an element: buffer and its offset in elements of memory at lane 0 of row 0, an `i64` expression without those axes.
    /// Of a guarded load it may lie outside the buffer, in lanes that do not read.
    Address(BufferId, ExprId),
    /// A scalar that is the same in every lane.
    Scalar(ExprId),
    /// The address of 16 virtual lanes on the stack, for that one, in order, of the `Accumulate`s in the loop's body.
    Accumulator(usize),
}

/// What is made from so many bytes and has as many is written past the caches: memory is what it waits for, and a line that is written there is first brought
/// from it, half as much again to move. What is made from less, as the results of contractions are, waits for other things.
const STREAM_BYTES: usize = 32 << 20;

/// Takes apart a loop over `axis` bound to lanes, together with a serial loop over `rows` directly around it, if one is given. May add
/// expressions to the nest. `None` if the body needs what [`Body`] cannot say (then CLIF runs it), or is more than streams that move
/// evenly from row to row.
pub fn analyse(nest: &mut Nest, rows: Option<AxisId>, axis: AxisId, body: &[Stmt]) -> Option<Lanes> {
    if nest.axes[axis.at()].extent > i32::MAX as usize {
        return None;
    }
    let mut analysis = Analysis {
        buffers: &nest.buffers,
        exprs: &mut nest.exprs,
        axis,
        rows,
        depends: Vec::new(),
        body: Body::default(),
        slots: Vec::new(),
        values: BTreeMap::new(),
        indices: BTreeMap::new(),
        lane: None,
    };
    if let (Some(rows), [Stmt::Store { buffer, index, value }]) = (rows, body)
        && let Some(sink) = analysis.column(rows, (*buffer, index), *value)
    {
        analysis.body.sinks.push(sink);
        let strides = analysis.strides()?;
        return Some(analysis.share(strides));
    }
    let large: Vec<BufferId> = (0..analysis.buffers.len() as u32)
        .map(BufferId)
        .filter(|buffer| analysis.buffers[buffer.at()].ty.len_bytes() >= STREAM_BYTES)
        .collect();
    let accumulates = body.iter().any(|stmt| matches!(stmt, Stmt::Accumulate { .. }));
    let (mut stored, mut accumulations) = (Vec::new(), 0);
    for stmt in body {
        let sink = match stmt {
            Stmt::Store { buffer, index, value } => {
                if analysis.reads(&stored, *value) {
                    return None;
                }
                stored.push(*buffer);
                let dtype = analysis.buffers[buffer.at()].ty.dtype;
                let is_cold = large.contains(buffer) && analysis.reads(&large, *value);
                let value = analysis.value(*value)?;
                let slot = analysis.contiguous(*buffer, index)?;
                match is_cold && dtype.size_bytes() == 4 && !accumulates {
                    true => Sink::Stream(dtype, slot, value),
                    false => Sink::Store(dtype, slot, value),
                }
            }
            Stmt::Prefetch { buffer, index } => {
                let dtype = analysis.buffers[buffer.at()].ty.dtype;
                Sink::Prefetch(dtype, analysis.contiguous(*buffer, index)?)
            }
            // Each row would begin anew.
            Stmt::Accumulate { .. } if rows.is_some() => return None,
            Stmt::Accumulate { with, value, .. } => {
                if analysis.reads(&stored, *value) {
                    return None;
                }
                let dtype = analysis.exprs.dtype(*value);
                let value = analysis.value(*value)?;
                let slot = analysis.slot(Slot::Accumulator(accumulations));
                accumulations += 1;
                Sink::Accumulate(dtype, slot, *with, value)
            }
            Stmt::Loop { .. }
            | Stmt::If { .. }
            | Stmt::Set { .. }
            | Stmt::Contract(_)
            | Stmt::Product(_)
            | Stmt::Barrier => return None,
        };
        analysis.body.sinks.push(sink);
    }
    let strides = analysis.strides()?;
    Some(analysis.share(strides))
}

struct Analysis<'n> {
    buffers: &'n [Buffer],
    exprs: &'n mut Exprs,
    axis: AxisId,
    rows: Option<AxisId>,
    /// For each expression, whether it depends on the lane, and whether on the row; as long as the arena was when last asked.
    depends: Vec<[bool; 2]>,
    body: Body,
    slots: Vec<Slot>,
    /// What has been translated, in the lanes' terms.
    values: BTreeMap<ExprId, ValueId>,
    /// The same of index expressions, as `I32`; apart, those only used where a guard holds.
    indices: BTreeMap<(ExprId, bool), ValueId>,
    lane: Option<ValueId>,
}

impl Analysis<'_> {
    /// Whether an expression depends on the lane.
    fn depends(&mut self, id: ExprId) -> bool {
        self.depends_on(id)[0]
    }

    /// Whether an expression depends on the row.
    fn changes(&mut self, id: ExprId) -> bool {
        self.depends_on(id)[1]
    }

    fn depends_on(&mut self, id: ExprId) -> [bool; 2] {
        for at in self.depends.len()..self.exprs.len() {
            let id = ExprId(at as u32);
            let depends = match *self.exprs.get(id) {
                Expr::Axis(axis) => [axis == self.axis, Some(axis) == self.rows],
                _ => {
                    let operands = self.exprs.operands(id).iter().map(|operand| self.depends[operand.at()]);
                    operands.fold([false; 2], |[lane, row], of| [lane | of[0], row | of[1]])
                }
            };
            self.depends.push(depends);
        }
        self.depends[id.at()]
    }

    /// Whether an expression loads from one of the buffers.
    fn reads(&self, buffers: &[BufferId], id: ExprId) -> bool {
        let (mut open, mut seen) = (vec![id], vec![false; id.at() + 1]);
        while let Some(id) = open.pop() {
            if std::mem::replace(&mut seen[id.at()], true) {
                continue;
            }
            match self.exprs.get(id) {
                Expr::Load { buffer, .. } if buffers.contains(buffer) => return true,
                _ => open.extend(self.exprs.operands(id)),
            }
        }
        false
    }

    fn slot(&mut self, slot: Slot) -> usize {
        self.slots.iter().position(|&known| known == slot).unwrap_or_else(|| {
            self.slots.push(slot);
            self.slots.len() - 1
        })
    }

    fn push(&mut self, value: Value) -> ValueId {
        self.body.values.push(value);
        ValueId(self.body.values.len() as u32 - 1)
    }

    fn prim(&mut self, prim: Prim, dtype: DType, args: &[ValueId]) -> ValueId {
        self.push(Value::Prim(prim, dtype, args.to_vec()))
    }

    fn int(&mut self, value: i64) -> ValueId {
        self.push(Value::Const(DType::I32, u64::from(value as u32)))
    }

    /// A value in the lanes' terms.
    fn value(&mut self, id: ExprId) -> Option<ValueId> {
        // Operands have lower ids than their users, so translating in ascending order finds them done.
        let (mut open, mut wanted) = (vec![id], Vec::new());
        while let Some(id) = open.pop() {
            if self.values.contains_key(&id) || wanted.contains(&id) {
                continue;
            }
            wanted.push(id);
            if self.depends(id)
                && let Expr::Prim(_, _, args) = self.exprs.get(id)
            {
                open.extend(args.iter().filter(|&&arg| self.exprs.dtype(arg) != DType::I64));
            }
        }
        wanted.sort_unstable();
        for id in wanted {
            let value = self.translate(id)?;
            self.values.insert(id, value);
        }
        Some(self.values[&id])
    }

    fn translate(&mut self, id: ExprId) -> Option<ValueId> {
        let dtype = self.exprs.dtype(id);
        if matches!(dtype, DType::I64 | DType::U64 | DType::F64) {
            return None;
        }
        if !self.depends(id) {
            return self.invariant(id);
        }
        match self.exprs.get(id).clone() {
            Expr::Load { buffer, index, guarded } => self.load(buffer, &index, guarded),
            Expr::Prim(prim, dtype, args) if self.exprs.dtype(args[0]) == DType::I64 => {
                let wraps = prim == Prim::Cast && dtype.is_int();
                if !wraps && !args.iter().all(|&arg| self.fits(arg)) {
                    return None;
                }
                let args: Option<Vec<ValueId>> = args.iter().map(|&arg| self.index(arg, false)).collect();
                match (prim, args?.as_slice()) {
                    (Prim::Cast, &[arg]) if dtype == DType::I32 => Some(arg),
                    (Prim::Cast | Prim::Eq | Prim::Lt | Prim::Le, args) => Some(self.prim(prim, dtype, args)),
                    _ => None,
                }
            }
            Expr::Prim(prim, dtype, args) => {
                let args: Option<Vec<ValueId>> = args.iter().map(|arg| self.values.get(arg).copied()).collect();
                Some(self.prim(prim, dtype, &args?))
            }
            Expr::Const(..) | Expr::Axis(_) | Expr::Fold { .. } | Expr::Local(..) => None,
        }
    }

    /// A value that is the same in every lane: of all rows, or an element that is read anew for each.
    fn invariant(&mut self, id: ExprId) -> Option<ValueId> {
        if let Expr::Const(dtype, bits) = *self.exprs.get(id) {
            return Some(self.push(Value::Const(dtype, bits)));
        }
        let dtype = self.exprs.dtype(id);
        if !self.changes(id) {
            let slot = self.slot(Slot::Scalar(id));
            return Some(self.push(Value::Scalar(dtype, slot)));
        }
        match self.exprs.get(id).clone() {
            Expr::Load {
                buffer,
                index,
                guarded: false,
            } if matches!(dtype, DType::F32 | DType::I32 | DType::U32) => {
                let place = offset(self.exprs, &self.buffers[buffer.at()].ty, &index);
                let slot = self.slot(Slot::Address(buffer, place));
                Some(self.push(Value::Spread(dtype, slot)))
            }
            _ => None,
        }
    }

    /// How far the addresses move from row to row; they then stand for those of the first.
    fn strides(&mut self) -> Option<Vec<i64>> {
        let mut slots = std::mem::take(&mut self.slots);
        let mut strides = Vec::new();
        for slot in &mut slots {
            let mut stride = 0;
            if let (Slot::Address(buffer, place), Some(rows)) = (&mut *slot, self.rows) {
                let mut first = Linear::of(self.exprs, *place);
                let is_row = |exprs: &Exprs, x: ExprId| *exprs.get(x) == Expr::Axis(rows);
                if let Some(at) = first.terms.iter().position(|&(x, _)| is_row(self.exprs, x)) {
                    stride = first.terms.remove(at).1;
                }
                if first.terms.iter().any(|&(x, _)| self.changes(x)) {
                    return None;
                }
                *place = first.build(self.exprs);
                stride *= self.buffers[buffer.at()].ty.dtype.size_bytes() as i64;
            }
            strides.push(stride);
        }
        self.slots = slots;
        Some(strides)
    }

    /// The same with one slot for all streams that stay equally far apart.
    fn share(self, strides: Vec<i64>) -> Lanes {
        let Analysis {
            buffers,
            exprs,
            mut body,
            slots: apart,
            ..
        } = self;
        let mut shared = Lanes {
            body: Body::default(),
            slots: Vec::new(),
            strides: Vec::new(),
        };
        /// The buffer, what the address is the sum of but for a constant, and the stride.
        type Family = (BufferId, Terms, i64);
        // The slot of each family, and the constant there.
        let mut known: BTreeMap<Family, (usize, i64)> = BTreeMap::new();
        for (slot, stride) in apart.into_iter().zip(strides) {
            let mut origin = Origin {
                slot: shared.slots.len(),
                bytes: 0,
            };
            if let Slot::Address(buffer, at) = slot {
                let Linear { terms, constant } = Linear::of(exprs, at);
                let start = constant * buffers[buffer.at()].ty.dtype.size_bytes() as i64;
                let &mut (slot, first) = known.entry((buffer, terms, stride)).or_insert((origin.slot, start));
                if let Ok(bytes) = i32::try_from(start - first) {
                    origin = Origin { slot, bytes };
                }
            }
            body.origins.push(origin);
            if origin.slot == shared.slots.len() {
                shared.slots.push(slot);
                shared.strides.push(stride);
            }
        }
        Lanes { body, ..shared }
    }

    /// The address of an element as what stays, an expression, and the terms that move with the lane.
    fn address(&mut self, buffer: BufferId, index: &[ExprId]) -> (ExprId, Terms) {
        let place = offset(self.exprs, &self.buffers[buffer.at()].ty, index);
        self.split(place)
    }

    fn split(&mut self, id: ExprId) -> (ExprId, Terms) {
        let mut stays = Linear::of(self.exprs, id);
        let moves: Terms = stays.terms.iter().copied().filter(|&(x, _)| self.depends(x)).collect();
        stays.terms.retain(|term| !moves.contains(term));
        (stays.build(self.exprs), moves)
    }

    fn is_lane(&self, moves: &[(ExprId, i64)]) -> bool {
        matches!(moves, &[(x, 1)] if *self.exprs.get(x) == Expr::Axis(self.axis))
    }

    /// The slot of a stream that the index walks element by element.
    fn contiguous(&mut self, buffer: BufferId, index: &[ExprId]) -> Option<usize> {
        let (start, moves) = self.address(buffer, index);
        self.is_lane(&moves).then(|| self.slot(Slot::Address(buffer, start)))
    }

    /// The store of a column, if rows of what is stored are columns of what is loaded.
    fn column(&mut self, rows: AxisId, (to, at): (BufferId, &[ExprId]), value: ExprId) -> Option<Sink> {
        let Expr::Load {
            buffer,
            index,
            guarded: false,
        } = self.exprs.get(value).clone()
        else {
            return None;
        };
        let dtype = self.buffers[buffer.at()].ty.dtype;
        let (start, moves) = self.address(buffer, &index);
        let &[(lane, pitch @ 2..)] = &moves[..] else {
            return None;
        };
        // The bytes of a square's lines are what an instruction adds to an address.
        let pitch = i32::try_from(pitch)
            .ok()
            .filter(|pitch| pitch.checked_mul(4 * 16).is_some())?;
        let row = self.exprs.axis(rows);
        let is_column = *self.exprs.get(lane) == Expr::Axis(self.axis)
            && Linear::of(self.exprs, start).terms.contains(&(row, 1))
            && dtype.size_bytes() == 4;
        let to = self.contiguous(to, at).filter(|_| is_column)?;
        let from = self.slot(Slot::Address(buffer, start));
        let column = self.push(Value::Column(dtype, from, pitch));
        Some(Sink::Store(dtype, to, column))
    }

    fn load(&mut self, buffer: BufferId, index: &[ExprId], guarded: bool) -> Option<ValueId> {
        let dtype = self.buffers[buffer.at()].ty.dtype;
        let mask = if guarded { self.guard(buffer, index)? } else { None };
        let (start, moves) = self.address(buffer, index);
        let slot = self.slot(Slot::Address(buffer, start));
        if self.is_lane(&moves) {
            return Some(self.push(match mask {
                None => Value::Load(dtype, slot),
                Some(mask) => Value::MaskedLoad(dtype, slot, mask),
            }));
        }
        let offsets = Linear {
            terms: moves.clone(),
            constant: 0,
        };
        let (low, high) = offsets.range(self.exprs)?;
        if i32::try_from(low).is_err() || i32::try_from(high).is_err() {
            return None;
        }
        let offset = self.sum(&moves, None, mask.is_some())?;
        Some(self.push(match mask {
            None => Value::Gather(dtype, slot, offset),
            Some(mask) => Value::MaskedGather(dtype, slot, offset, mask),
        }))
    }

    /// The lanes in which an index lies within its buffer; `Some(None)` if that is all of them.
    fn guard(&mut self, buffer: BufferId, index: &[ExprId]) -> Option<Option<ValueId>> {
        let shape = &self.buffers[buffer.at()].ty.shape;
        let (mut everywhere, mut mask): (Option<ExprId>, Option<ValueId>) = (None, None);
        for (&id, &extent) in index.iter().zip(shape) {
            if is_within(self.exprs, id, extent) {
                continue;
            }
            if self.depends(id) {
                if !self.fits(id) || extent > i32::MAX as usize {
                    return None;
                }
                // As an unsigned number, a negative index is beyond every extent.
                let place = self.index(id, false)?;
                let place = self.prim(Prim::Bitcast, DType::U32, &[place]);
                let extent = self.push(Value::Const(DType::U32, extent as u64));
                let inside = self.prim(Prim::Lt, DType::Bool, &[place, extent]);
                mask = Some(match mask {
                    None => inside,
                    Some(mask) => self.prim(Prim::And, DType::Bool, &[mask, inside]),
                });
            } else {
                let (zero, extent) = (self.exprs.int(0), self.exprs.int(extent as i64));
                for (low, prim, high) in [(zero, Prim::Le, id), (id, Prim::Lt, extent)] {
                    let inside = self.exprs.prim(prim, DType::Bool, &[low, high]);
                    everywhere = Some(match everywhere {
                        None => inside,
                        Some(all) => self.exprs.prim(Prim::And, DType::Bool, &[all, inside]),
                    });
                }
            }
        }
        let everywhere = match everywhere {
            Some(condition) => Some(self.invariant(condition)?),
            None => None,
        };
        Some(match (everywhere, mask) {
            (Some(all), Some(mask)) => Some(self.prim(Prim::And, DType::Bool, &[all, mask])),
            (all, mask) => all.or(mask),
        })
    }

    /// Whether an `i64` expression is always an `i32`.
    fn fits(&self, id: ExprId) -> bool {
        let fits = |value: i64| i32::try_from(value).is_ok();
        self.exprs.range(id).is_some_and(|(low, high)| fits(low) && fits(high))
    }

    /// An `i64` expression modulo 2^32. With `guarded`, what it is matters only in lanes where the index of a load is inside.
    fn index(&mut self, id: ExprId, guarded: bool) -> Option<ValueId> {
        if let Some(&known) = self.indices.get(&(id, guarded)) {
            return Some(known);
        }
        let value = match self.exprs.get(id).clone() {
            Expr::Axis(axis) if axis == self.axis => match self.lane {
                Some(lane) => lane,
                None => {
                    let lane = self.push(Value::Lane);
                    *self.lane.insert(lane)
                }
            },
            _ => {
                let (stays, moves) = self.split(id);
                if moves[..] == [(id, 1)] {
                    self.atom(id, guarded)?
                } else {
                    self.sum(&moves, Some(stays), guarded)?
                }
            }
        };
        self.indices.insert((id, guarded), value);
        Some(value)
    }

    /// A sum of multiples, and of what stays the same.
    fn sum(&mut self, moves: &[(ExprId, i64)], stays: Option<ExprId>, guarded: bool) -> Option<ValueId> {
        let mut sum = match stays {
            Some(stays) if self.exprs.as_int(stays) != Some(0) => {
                let low = self.exprs.prim(Prim::Cast, DType::I32, &[stays]);
                Some(self.invariant(low)?)
            }
            _ => None,
        };
        for &(x, factor) in moves {
            let mut term = self.index(x, guarded)?;
            if factor != 1 {
                let factor = self.int(factor);
                term = self.prim(Prim::Mul, DType::I32, &[term, factor]);
            }
            sum = Some(match sum {
                None => term,
                Some(sum) => self.prim(Prim::Add, DType::I32, &[term, sum]),
            });
        }
        Some(sum.unwrap_or_else(|| self.int(0)))
    }

    /// What is neither a sum nor a multiple.
    fn atom(&mut self, id: ExprId, guarded: bool) -> Option<ValueId> {
        let Expr::Prim(prim, _, args) = self.exprs.get(id).clone() else {
            return None;
        };
        match (prim, args.as_slice()) {
            (Prim::Mul, &[a, b]) => {
                let (a, b) = (self.index(a, guarded)?, self.index(b, guarded)?);
                Some(self.prim(Prim::Mul, DType::I32, &[a, b]))
            }
            (Prim::Max | Prim::Min, &[a, b]) if self.fits(a) && self.fits(b) => {
                let (a, b) = (self.index(a, guarded)?, self.index(b, guarded)?);
                Some(self.prim(prim, DType::I32, &[a, b]))
            }
            (Prim::Select, &[condition, yes, no]) => {
                let condition = self.value(condition)?;
                let (yes, no) = (self.index(yes, guarded)?, self.index(no, guarded)?);
                Some(self.prim(Prim::Select, DType::I32, &[condition, yes, no]))
            }
            (Prim::Div | Prim::Rem, &[a, b]) => {
                let by = self.exprs.as_int(b).filter(|&by| (1..1 << 31).contains(&by))?;
                // Inside its buffer, an index is not negative.
                let is_natural = guarded || self.exprs.range(a).is_some_and(|(low, _)| low >= 0);
                if !is_natural || !self.fits(a) {
                    return None;
                }
                let a = self.index(a, guarded)?;
                let quotient = self.quotient(a, by as u64);
                if prim == Prim::Div {
                    return Some(quotient);
                }
                let by = self.int(by);
                let whole = self.prim(Prim::Mul, DType::I32, &[quotient, by]);
                Some(self.prim(Prim::Sub, DType::I32, &[a, whole]))
            }
            (Prim::Cast, &[a]) => {
                let from = self.exprs.dtype(a);
                let a = self.value(a)?;
                match from {
                    DType::I32 => Some(a),
                    _ if from.is_float() => None,
                    _ => Some(self.prim(Prim::Cast, DType::I32, &[a])),
                }
            }
            _ => None,
        }
    }

    /// `a / by` for `0 <= a < 2^31`: a multiplication by `2^(31+l) / by`, rounded up, `l` being the bits of `by - 1`
    /// (Granlund and Montgomery, "Division by invariant integers using multiplication", 1994).
    fn quotient(&mut self, a: ValueId, by: u64) -> ValueId {
        if by == 1 {
            return a;
        }
        let bits = 64 - (by - 1).leading_zeros();
        let magic = (1u64 << (31 + bits)).div_ceil(by);
        let natural = self.prim(Prim::Bitcast, DType::U32, &[a]);
        let magic = self.push(Value::Const(DType::U32, magic));
        let mut quotient = self.prim(Prim::MulHi, DType::U32, &[natural, magic]);
        if bits > 1 {
            let shift = self.push(Value::Const(DType::U32, u64::from(bits - 1)));
            quotient = self.prim(Prim::Shr, DType::U32, &[quotient, shift]);
        }
        self.prim(Prim::Bitcast, DType::I32, &[quotient])
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use netloom_ir::dtype::Scalar;
    use netloom_ir::kernel::{Axis, Combine, Local, LocalId, Role};
    use netloom_ir::layout::{Digit, Layout};
    use netloom_ir::target::TargetKind;
    use netloom_ir::tensor::Type;

    use super::super::machine::{Machine, levels};
    use super::super::wide::lower;
    use super::*;

    /// A nest under construction: buffer 0 is written, axis 0 is the outer one, axis 1 the lanes.
    struct Build {
        nest: Nest,
        outer: ExprId,
        lane: ExprId,
    }

    const OUTER: usize = 5;
    const LANE: AxisId = AxisId(1);

    fn build(lanes: usize, types: &[Type]) -> Build {
        let mut exprs = Exprs::default();
        let axes = [("o", OUTER), ("l", lanes)].map(|(name, extent)| {
            exprs.add_axis(extent);
            Axis {
                name: name.to_string(),
                extent,
            }
        });
        let (outer, lane) = (exprs.axis(AxisId(0)), exprs.axis(LANE));
        let buffers = types.iter().enumerate().map(|(at, ty)| Buffer {
            name: format!("b{at}"),
            ty: ty.clone(),
            role: if at == 0 { Role::Output } else { Role::Input },
        });
        Build {
            nest: Nest {
                name: "k".to_string(),
                kind: TargetKind::Cpu,
                axes: axes.to_vec(),
                buffers: buffers.collect(),
                layouts: Vec::new(),
                locals: vec![Local {
                    name: "sum".to_string(),
                    dtype: DType::F32,
                }],
                exprs,
                body: Vec::new(),
            },
            outer,
            lane,
        }
    }

    impl Build {
        fn load(&mut self, buffer: u32, index: &[ExprId], guarded: bool) -> ExprId {
            let dtype = self.nest.buffers[buffer as usize].ty.dtype;
            self.nest.exprs.load(BufferId(buffer), dtype, index.to_vec(), guarded)
        }

        /// `factor * x + constant`
        fn affine(&mut self, x: ExprId, factor: i64, constant: i64) -> ExprId {
            let (factor, constant) = (self.nest.exprs.int(factor), self.nest.exprs.int(constant));
            let product = self.nest.exprs.prim(Prim::Mul, DType::I64, &[x, factor]);
            self.nest.exprs.prim(Prim::Add, DType::I64, &[product, constant])
        }

        fn prim(&mut self, prim: Prim, dtype: DType, args: &[ExprId]) -> ExprId {
            self.nest.exprs.prim(prim, dtype, args)
        }

        /// `b0[o, l] = value`
        fn store(&self, value: ExprId) -> Stmt {
            Stmt::Store {
                buffer: BufferId(0),
                index: vec![self.outer, self.lane],
                value,
            }
        }
    }

    /// The buffers of a nest in memory, some numbers in each.
    fn memory(nest: &Nest) -> Vec<Vec<u8>> {
        let mut next = 1u64;
        nest.buffers
            .iter()
            .map(|buffer| {
                let dtype = buffer.ty.dtype;
                let numbers = (0..buffer.ty.layout.len(&buffer.ty.shape)).flat_map(|_| {
                    next = next.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    let bits = Scalar::from_f64(((next >> 40) % 2001) as f64 / 8.0 - 125.0, dtype).to_bits(dtype);
                    bits.to_le_bytes()[..dtype.size_bytes()].to_vec()
                });
                numbers.collect()
            })
            .collect()
    }

    fn element(memory: &[u8], dtype: DType, at: usize) -> Scalar {
        let mut bits = [0; 8];
        let size = dtype.size_bytes();
        bits[..size].copy_from_slice(&memory[at * size..][..size]);
        Scalar::from_bits(u64::from_le_bytes(bits), dtype)
    }

    /// An expression by definition.
    fn eval(nest: &Nest, memory: &[Vec<u8>], axes: [usize; 2], id: ExprId) -> Scalar {
        let of = |&id: &ExprId| eval(nest, memory, axes, id);
        match nest.exprs.get(id) {
            Expr::Const(dtype, bits) => Scalar::from_bits(*bits, *dtype),
            Expr::Axis(axis) => Scalar::Int(axes[axis.at()] as i128),
            Expr::Load { buffer, index, .. } => {
                let ty = &nest.buffers[buffer.at()].ty;
                let index: Vec<i128> = index.iter().map(|id| of(id).as_i128()).collect();
                let inside = index
                    .iter()
                    .zip(&ty.shape)
                    .all(|(&at, &extent)| (0..extent as i128).contains(&at));
                let index: Vec<usize> = index.iter().map(|&at| at as usize).collect();
                match inside {
                    true => element(&memory[buffer.at()], ty.dtype, ty.layout.offset(&ty.shape, &index)),
                    false => Scalar::zero(ty.dtype),
                }
            }
            Expr::Prim(prim, dtype, args) => {
                let values: Vec<Scalar> = args.iter().map(of).collect();
                prim.eval(*dtype, nest.exprs.dtype(args[0]), &values)
            }
            Expr::Fold { .. } | Expr::Local(..) => panic!("not in these nests"),
        }
    }

    /// What stands in the slots for one value of the outer axis, which may be none that a row's first element depends on.
    fn slots(nest: &Nest, memory: &mut [Vec<u8>], slots: &[Slot], outer: usize) -> Vec<u64> {
        let axes = [outer, usize::MAX];
        let values = slots.iter().map(|slot| match *slot {
            Slot::Address(buffer, start) => {
                let start = eval(nest, memory, axes, start).as_i128() as i64;
                let size = nest.buffers[buffer.at()].ty.dtype.size_bytes() as i64;
                (memory[buffer.at()].as_mut_ptr() as u64).wrapping_add_signed(start * size)
            }
            Slot::Scalar(id) => eval(nest, memory, axes, id).to_bits(nest.exprs.dtype(id)),
            Slot::Accumulator(_) => panic!("only stores here"),
        });
        values.collect()
    }

    /// Runs a loop that stores into buffer 0 both ways for every value of the outer axis, and, where it can be said so, all of them as
    /// rows; gives the body of one.
    fn check(mut build: Build, body: &[Stmt]) -> Body {
        let lanes = analyse(&mut build.nest, None, LANE, body).expect("a body");
        let rows = analyse(&mut build.nest, Some(AxisId(0)), LANE, body);
        let nest = &build.nest;
        let count = nest.axes[1].extent;
        for level in levels() {
            let mut expected = memory(nest);
            for outer in 0..OUTER {
                for lane in 0..count {
                    for stmt in body {
                        let Stmt::Store { buffer, index, value } = stmt else {
                            continue;
                        };
                        let ty = &nest.buffers[buffer.at()].ty;
                        let bits = eval(nest, &expected, [outer, lane], *value)
                            .to_bits(ty.dtype)
                            .to_le_bytes();
                        let index: Vec<usize> = index
                            .iter()
                            .map(|&id| eval(nest, &[], [outer, lane], id).as_i128() as usize)
                            .collect();
                        let (at, size) = (ty.layout.offset(&ty.shape, &index), ty.dtype.size_bytes());
                        expected[buffer.at()][at * size..][..size].copy_from_slice(&bits[..size]);
                    }
                }
            }
            let code = Machine::new(&lower(&lanes.body, level).expect("code").assemble(level));
            let mut found = memory(nest);
            for outer in 0..OUTER {
                let mut slots = slots(nest, &mut found, &lanes.slots, outer);
                // SAFETY: the loop stays within the buffers, as the definition has just shown.
                unsafe { code.wide()(slots.as_mut_ptr(), count as u64, 1) };
            }
            assert_eq!(found, expected, "{level:?} {:#?}", lanes.body);
            if let Some(rows) = &rows {
                let code = Machine::new(&lower(&rows.body, level).expect("code").assemble(level));
                let mut found = memory(nest);
                let mut slots = slots(nest, &mut found, &rows.slots, usize::MAX);
                slots.extend(rows.strides.iter().map(|&stride| stride as u64));
                // SAFETY: as above, and a stride stands behind the slots for each.
                unsafe { code.wide()(slots.as_mut_ptr(), count as u64, OUTER as u64) };
                assert_eq!(found, expected, "rows, {level:?} {:#?}", rows.body);
            }
        }
        lanes.body
    }

    #[test]
    fn elements_of_a_row_are_read_anew_for_each() {
        for lanes in [1, 8, 15, 16, 37] {
            let shape = [OUTER, lanes];
            let mut build = build(lanes, &[float(&shape), float(&shape), float(&[OUTER])]);
            let [outer, lane] = [build.outer, build.lane];
            let [x, bias] = [build.load(1, &[outer, lane], false), build.load(2, &[outer], false)];
            let sum = build.prim(Prim::Add, DType::F32, &[x, bias]);
            let stmt = build.store(sum);
            let rows = analyse(&mut build.nest, Some(AxisId(0)), LANE, std::slice::from_ref(&stmt)).expect("rows");
            assert!(rows.body.values.iter().any(|value| matches!(value, Value::Spread(..))));
            check(build, &[stmt]);
        }
    }

    fn float(shape: &[usize]) -> Type {
        Type::new(DType::F32, shape)
    }

    #[test]
    fn contiguous_loads_scalars_and_the_lane_itself() {
        let mut build = build(37, &[float(&[5, 37]), float(&[5, 37]), float(&[5])]);
        let x = build.load(1, &[build.outer, build.lane], false);
        let a = build.load(2, &[build.outer], false);
        let number = build.affine(build.lane, 3, -7);
        let number = build.prim(Prim::Add, DType::I64, &[number, build.outer]);
        let number = build.prim(Prim::Cast, DType::F32, &[number]);
        let value = build.prim(Prim::Fma, DType::F32, &[x, a, number]);
        let stmt = build.store(value);
        let body = check(build, &[stmt]);
        assert_eq!(
            body.values
                .iter()
                .filter(|value| matches!(value, Value::Load(..)))
                .count(),
            1
        );
        assert_eq!(body.slots(), 4);
    }

    #[test]
    fn other_strides_are_gathered() {
        for (factor, shape) in [(1, [37, 5]), (2, [80, 5])] {
            let mut build = build(37, &[float(&[5, 37]), float(&shape)]);
            let row = build.affine(build.lane, factor, 2 * (factor - 1));
            let value = build.load(1, &[row, build.outer], false);
            let stmt = build.store(value);
            let body = check(build, &[stmt]);
            assert!(body.values.iter().any(|value| matches!(value, Value::Gather(..))));
        }
    }

    #[test]
    fn guards_become_masks() {
        for (factor, dy, dx) in [(1, -1, -1), (1, 1, 1), (2, 0, -3), (-1, 0, 36)] {
            let mut build = build(37, &[float(&[5, 37]), float(&[5, 37])]);
            let (y, x) = (build.affine(build.outer, 1, dy), build.affine(build.lane, factor, dx));
            let value = build.load(1, &[y, x], true);
            let stmt = build.store(value);
            check(build, &[stmt]);
        }
    }

    #[test]
    fn blocked_layouts_divide_by_constants() {
        for block in [3, 5, 7, 8, 16] {
            let blocks = 37usize.div_ceil(block);
            let digit = |axis, step, extent| Digit { axis, step, extent };
            let blocked = Type {
                layout: Layout::Digits(vec![digit(1, block, blocks), digit(0, 1, 5), digit(1, 1, block)]),
                ..float(&[5, 37])
            };
            for shift in [0, -2] {
                let mut build = build(37, &[float(&[5, 37]), blocked.clone()]);
                let x = build.affine(build.lane, 1, shift);
                let value = build.load(1, &[build.outer, x], true);
                let stmt = build.store(value);
                check(build, &[stmt]);
            }
        }
    }

    #[test]
    fn comparisons_of_indices_choose() {
        let mut build = build(37, &[float(&[5, 37]), float(&[5, 37])]);
        let x = build.load(1, &[build.outer, build.lane], false);
        let diagonal = build.affine(build.outer, 4, 3);
        let below = build.prim(Prim::Lt, DType::Bool, &[build.lane, diagonal]);
        let negative = build.prim(Prim::Neg, DType::F32, &[x]);
        let value = build.prim(Prim::Select, DType::F32, &[below, x, negative]);
        let stmt = build.store(value);
        check(build, &[stmt]);
    }

    #[test]
    fn loops_that_differ_in_their_place_have_one_body() {
        let bodies = [0, 3].map(|column| {
            let mut build = build(37, &[float(&[5, 37]), float(&[9, 40])]);
            let (y, x) = (
                build.affine(build.outer, 1, column),
                build.affine(build.lane, 1, column),
            );
            let value = build.load(1, &[y, x], false);
            let stmt = build.store(value);
            check(build, &[stmt])
        });
        assert_eq!(bodies[0], bodies[1]);
    }

    #[test]
    fn accumulations_are_numbered_and_what_a_body_cannot_say_is_left() {
        let mut wanted = build(37, &[float(&[5, 37]), float(&[5, 37]), Type::new(DType::F64, [5, 37])]);
        let (outer, lane) = (wanted.outer, wanted.lane);
        let x = wanted.load(1, &[outer, lane], false);
        let store = wanted.store(x);
        let accumulate = Stmt::Accumulate {
            local: LocalId(0),
            with: Combine::Sum,
            value: x,
        };
        let lanes = analyse(&mut wanted.nest, None, LANE, &[accumulate, store.clone()]).expect("a body");
        assert!(lanes.slots.contains(&Slot::Accumulator(0)));

        let double = wanted.load(2, &[outer, lane], false);
        let narrowed = wanted.prim(Prim::Cast, DType::F32, &[double]);
        let again = wanted.load(0, &[outer, lane], false);
        let transposed = Stmt::Store {
            buffer: BufferId(0),
            index: vec![lane, outer],
            value: x,
        };
        let refused = [
            vec![wanted.store(narrowed)],
            vec![store.clone(), wanted.store(again)],
            vec![transposed],
            vec![Stmt::Barrier],
        ];
        for body in refused {
            assert!(analyse(&mut wanted.nest, None, LANE, &body).is_none(), "{body:?}");
        }
    }
}
