//! Vector loops: assembled where the level has the body, 128-bit CLIF where four lanes at a time can say it, one lane at a time otherwise.
//!
//! The virtual lanes of each accumulation lie on the stack, as elements in memory. All three forms leave the same bits there.

use std::rc::Rc;

use cranelift::codegen::ir::{BlockArg, StackSlotData, StackSlotKind};
use cranelift::prelude::types::{F32X4, I32, I32X4, I64};
use cranelift::prelude::{FloatCC, FunctionBuilder, InstBuilder, IntCC, MemFlagsData, Type, Value};
use netloom_ir::kernel::nest::LANES;
use netloom_ir::kernel::{AxisId, Bind, Combine, ExprId, LocalId, Prim, Stmt};
use netloom_ir::{DType, Scalar};
use target_lexicon::Architecture;

use super::callees::Callee;
use super::finish::Finished;
use super::prim::{emit_combine, emit_const, emit_pack, emit_unpack, memory_type};
use super::{Cx, memory, trusted};
use crate::cpu::isa::Level;
use crate::cpu::lanes::{Slot, analyse};
use crate::cpu::wide::{self, Body, Origin, Sink, ValueId};
use crate::hoist::{Hoist, Writes};

/// A vector loop whose body is the same code in every lane.
pub(super) struct Vector {
    /// What the loop around supplies.
    pub slots: Vec<Slot>,
    pub strides: Vec<i64>,
    pub code: Code,
}

/// A serial loop with nothing in it but a vector loop of a length that does not change.
pub(super) struct Rows<'b> {
    /// The number of lanes of a row.
    pub lanes: ExprId,
    body: &'b [Stmt],
}

pub(super) enum Code {
    /// A function `fn(slots, count, rows)`.
    Assembled(u32),
    /// Together with the tile before.
    Finished(Finished),
    /// To be spelled here, [`STEP`] lanes at a time.
    Clif(Body),
}

/// Lanes of a 128-bit vector of 32-bit elements.
const STEP: i64 = 4;

/// One accumulation of a vector loop.
#[derive(Clone, Copy)]
pub(super) struct Accumulation {
    local: LocalId,
    with: Combine,
    dtype: DType,
    /// Where its virtual lanes are.
    lanes: Value,
}

impl Cx<'_> {
    /// The common code of a loop's lanes, if it has one. Asked again for the same body, it answers the same.
    pub(super) fn vector(&mut self, axis: AxisId, body: &[Stmt]) -> Option<Rc<Vector>> {
        self.vector_of(None, axis, body)
    }

    /// A serial loop's body as rows, if that is all there is in it and all rows have common code.
    pub(super) fn rows<'b>(&mut self, axis: AxisId, body: &'b [Stmt]) -> Option<(Rows<'b>, Rc<Vector>)> {
        let [
            Stmt::Loop {
                axis: lane,
                extent: lanes,
                bind: Bind::Lanes,
                body,
            },
        ] = body
        else {
            return None;
        };
        if self.callees.cpu.level == Level::Portable || self.facts(*lanes).axes.contains(&axis) {
            return None;
        }
        let rows = Rows { lanes: *lanes, body };
        self.vector_of(Some(axis), *lane, body).map(|vector| (rows, vector))
    }

    pub(super) fn vector_of(&mut self, rows: Option<AxisId>, axis: AxisId, body: &[Stmt]) -> Option<Rc<Vector>> {
        // The nest's statements stay where they are while the function is made, so an address names a body.
        let key = (rows, body.as_ptr().addr());
        if let Some(vector) = self.vectors.get(&key) {
            return vector.clone();
        }
        let vector = match analyse(&mut self.nest, rows, axis, body) {
            None => None,
            Some(lanes) => {
                let code = if self.callees.cpu.level > Level::Portable {
                    self.callee(Callee::Lanes(lanes.body)).map(Code::Assembled)
                } else {
                    let has_vectors = !matches!(self.callees.cpu.triple.architecture, Architecture::Riscv64(_));
                    (has_vectors && fits(&lanes.body)).then_some(Code::Clif(lanes.body))
                };
                let (slots, strides) = (lanes.slots, lanes.strides);
                code.map(|code| Rc::new(Vector { slots, strides, code }))
            }
        };
        self.vectors.insert(key, vector.clone());
        vector
    }

    pub(super) fn emit_lanes(&mut self, axis: AxisId, extent: ExprId, entered: bool, body: &[Stmt]) {
        let mut accumulations = Vec::new();
        for stmt in body {
            if let &Stmt::Accumulate { local, with, .. } = stmt {
                let dtype = self.nest.locals[local.at()].dtype;
                let lanes = self.emit_identities(with, dtype);
                accumulations.push(Accumulation {
                    local,
                    with,
                    dtype,
                    lanes,
                });
            }
        }
        let zero = self.builder.ins().iconst(I64, 0);
        let count = self.value(extent);
        match self.vector(axis, body) {
            None => self.emit_each_lane(axis, (zero, count, entered), body, &accumulations),
            Some(vector) => {
                let slots = self.emit_slots(&vector.slots, &accumulations);
                match &vector.code {
                    Code::Assembled(function) => {
                        let one = self.builder.ins().iconst(I64, 1);
                        // A single row needs no strides.
                        let words = self.emit_words(&slots, &[]);
                        self.emit_call(*function, &[words, count, one]);
                    }
                    Code::Finished(_) => unreachable!("a tile has rows"),
                    Code::Clif(code) => {
                        let whole = self.emit_vectors(code, &slots, count);
                        self.emit_each_lane(axis, (whole, count, false), body, &accumulations);
                    }
                }
                self.forget(&Writes::of(body));
            }
        }
        for accumulation in accumulations {
            let lanes = self.emit_fold_lanes(&accumulation);
            self.combine_local(accumulation.local, accumulation.with, lanes);
        }
    }

    /// All rows in one call.
    pub(super) fn emit_rows(&mut self, extent: ExprId, rows: &Rows, vector: &Vector) {
        match &vector.code {
            Code::Assembled(function) => {
                let (rows_count, count) = (self.value(extent), self.value(rows.lanes));
                let zero = self.builder.ins().iconst(I64, 0);
                let rows_count = self.builder.ins().smax(rows_count, zero);
                let slots = self.emit_slots(&vector.slots, &[]);
                let words = self.emit_words(&slots, &vector.strides);
                self.emit_call(*function, &[words, count, rows_count]);
            }
            Code::Finished(finished) => self.emit_finished(extent, rows, &vector.slots, finished),
            Code::Clif(_) => unreachable!("rows have assembled code"),
        }
        self.forget(&Writes::of(rows.body));
    }

    /// The lanes `from .. to` one by one.
    fn emit_each_lane(
        &mut self,
        axis: AxisId,
        (from, to, entered): (Value, Value, bool),
        body: &[Stmt],
        accumulations: &[Accumulation],
    ) {
        self.emit_range(axis, from, to, entered, |cx, at| {
            cx.read_ahead(body);
            let mut next = accumulations.iter();
            for stmt in body {
                match stmt {
                    Stmt::Store { buffer, index, value } => cx.emit_store(*buffer, index, *value),
                    Stmt::Accumulate { value, .. } => {
                        let accumulation = next.next().expect("one an accumulation");
                        let value = cx.value(*value);
                        emit_step(&mut cx.builder, accumulation, at, value);
                    }
                    Stmt::Prefetch { .. } => {}
                    _ => unreachable!("a vector loop holds only stores, accumulations and prefetches"),
                }
            }
        })
    }

    /// What each slot holds: an address, or the value of a scalar.
    pub(super) fn emit_slots(&mut self, slots: &[Slot], accumulations: &[Accumulation]) -> Vec<(Value, Option<DType>)> {
        let mut values = Vec::new();
        for slot in slots {
            values.push(match slot {
                Slot::Address(buffer, offset) => {
                    let place = self.places.at(&mut self.nest, *buffer, *offset);
                    let pointer = self.pointer(&place);
                    let constant = self.builder.ins().iconst(I64, place.constant);
                    (self.builder.ins().iadd(pointer, constant), None)
                }
                Slot::Scalar(id) => (self.value(*id), Some(self.nest.exprs.dtype(*id))),
                Slot::Accumulator(at) => (accumulations[*at].lanes, None),
            });
        }
        values
    }

    /// Slots and strides on the stack; gives their address.
    pub(super) fn emit_words(&mut self, slots: &[(Value, Option<DType>)], strides: &[i64]) -> Value {
        let words = slots.len() + strides.len();
        let stack = StackSlotData::new(StackSlotKind::ExplicitSlot, 8 * words as u32, 3);
        let stack = self.builder.create_sized_stack_slot(stack);
        let address = self.builder.ins().stack_addr(I64, stack, 0);
        for (at, &(value, scalar)) in slots.iter().enumerate() {
            let value = match scalar {
                Some(dtype) => emit_pack(&mut self.builder, dtype, value),
                None => value,
            };
            self.builder.ins().store(trusted(), value, address, 8 * at as i32);
        }
        for (at, &stride) in strides.iter().enumerate() {
            let stride = self.builder.ins().iconst(I64, stride);
            self.builder
                .ins()
                .store(trusted(), stride, address, 8 * (slots.len() + at) as i32);
        }
        address
    }

    /// Runs the code for all whole vectors below `count`, and gives their number of lanes.
    fn emit_vectors(&mut self, code: &Body, slots: &[(Value, Option<DType>)], count: Value) -> Value {
        let b = &mut self.builder;
        let mask = b.ins().iconst(I64, -STEP);
        let whole = b.ins().band(count, mask);
        let zero = b.ins().iconst(I64, 0);
        // What is the same in every lane is spread before the loop.
        let spread: Vec<Option<Value>> = code
            .values
            .iter()
            .map(|value| match *value {
                wide::Value::Const(dtype, bits) => Some(splat_const(b, dtype, bits)),
                wide::Value::Scalar(dtype, origin) => Some(splat(b, dtype, slots[code.origins[origin].slot].0)),
                _ => None,
            })
            .collect();
        let block = b.create_block();
        let exit = b.create_block();
        let at = b.append_block_param(block, I64);
        let any = b.ins().icmp(IntCC::SignedGreaterThan, whole, zero);
        b.ins().brif(any, block, &[BlockArg::Value(zero)], exit, &[]);
        b.switch_to_block(block);
        let size = b.ins().iconst(I64, 4);
        let offset = b.ins().imul(at, size);
        let mut values: Vec<Value> = Vec::new();
        for (value, spread) in code.values.iter().zip(spread) {
            let value = match (value, spread) {
                (_, Some(value)) => value,
                (&wide::Value::Load(dtype, origin), _) => {
                    let Origin { slot, bytes } = code.origins[origin];
                    let address = b.ins().iadd(slots[slot].0, offset);
                    // As integers: a load of floats would be folded into `cmpps`, which without AVX faults unless it is aligned.
                    let bits = b.ins().load(I32X4, memory(), address, bytes);
                    reinterpret(b, vector_type(dtype), bits)
                }
                (wide::Value::Lane, _) => {
                    let first = b.ins().ireduce(I32, at);
                    let first = b.ins().splat(I32X4, first);
                    let bytes: Vec<u8> = (0..STEP as i32).flat_map(i32::to_le_bytes).collect();
                    let numbers = b.func.dfg.constants.insert(bytes.into());
                    let numbers = b.ins().vconst(I32X4, numbers);
                    b.ins().iadd(first, numbers)
                }
                (wide::Value::Prim(prim, dtype, args), _) => {
                    let from = code.dtype(args[0]);
                    let operands: Vec<Value> = args.iter().map(|arg| values[arg.0 as usize]).collect();
                    let amount = args.get(1).and_then(|arg| constant(code, *arg));
                    emit_vector_prim(b, *prim, *dtype, from, &operands, amount)
                }
                _ => unreachable!("`fits` refuses masked loads, gathers, columns and elements for all lanes"),
            };
            values.push(value);
        }
        for sink in &code.sinks {
            match *sink {
                Sink::Store(_, origin, value) | Sink::Stream(_, origin, value) => {
                    let Origin { slot, bytes } = code.origins[origin];
                    let address = b.ins().iadd(slots[slot].0, offset);
                    b.ins().store(memory(), values[value.0 as usize], address, bytes);
                }
                Sink::Prefetch(..) => {}
                Sink::Accumulate(dtype, origin, with, value) => {
                    let slot = code.origins[origin].slot;
                    let mask = b.ins().iconst(I64, 4 * LANES as i64 - 1);
                    let lane = b.ins().band(offset, mask);
                    let address = b.ins().iadd(slots[slot].0, lane);
                    let state = b.ins().load(vector_type(dtype), trusted(), address, 0);
                    let state = emit_vector_combine(b, with, dtype, state, values[value.0 as usize]);
                    b.ins().store(trusted(), state, address, 0);
                }
            }
        }
        let step = b.ins().iconst(I64, STEP);
        let next = b.ins().iadd(at, step);
        let more = b.ins().icmp(IntCC::SignedLessThan, next, whole);
        b.ins().brif(more, block, &[BlockArg::Value(next)], exit, &[]);
        b.seal_block(block);
        b.switch_to_block(exit);
        b.seal_block(exit);
        whole
    }

    /// The address of [`LANES`] identities of a combiner on the stack.
    fn emit_identities(&mut self, with: Combine, dtype: DType) -> Value {
        let size = dtype.size_bytes() as u32;
        let stack = StackSlotData::new(StackSlotKind::ExplicitSlot, LANES as u32 * size, 6);
        let stack = self.builder.create_sized_stack_slot(stack);
        let address = self.builder.ins().stack_addr(I64, stack, 0);
        let identity = emit_const(&mut self.builder, dtype, with.identity(dtype).to_bits(dtype));
        let identity = emit_pack(&mut self.builder, dtype, identity);
        for lane in 0..LANES as u32 {
            let offset = (lane * size) as i32;
            self.builder.ins().store(trusted(), identity, address, offset);
        }
        address
    }

    /// The virtual lanes combined pairwise.
    fn emit_fold_lanes(&mut self, accumulation: &Accumulation) -> Value {
        let &Accumulation { with, dtype, .. } = accumulation;
        let b = &mut self.builder;
        let mut lanes: Vec<Value> = (0..LANES)
            .map(|lane| {
                let offset = (lane * dtype.size_bytes()) as i32;
                let state = b.ins().load(memory_type(dtype), trusted(), accumulation.lanes, offset);
                emit_unpack(b, dtype, state)
            })
            .collect();
        while lanes.len() > 1 {
            let upper = lanes.split_off(lanes.len() / 2);
            for (lane, upper) in lanes.iter_mut().zip(upper) {
                *lane = emit_combine(b, with, dtype, *lane, upper);
            }
        }
        lanes[0]
    }
}

/// Combines a value into the virtual lane of iteration `at`.
fn emit_step(b: &mut FunctionBuilder, accumulation: &Accumulation, at: Value, value: Value) {
    let &Accumulation { with, dtype, lanes, .. } = accumulation;
    let mask = b.ins().iconst(I64, LANES as i64 - 1);
    let lane = b.ins().band(at, mask);
    let size = b.ins().iconst(I64, dtype.size_bytes() as i64);
    let offset = b.ins().imul(lane, size);
    let address = b.ins().iadd(lanes, offset);
    let state = b.ins().load(memory_type(dtype), trusted(), address, 0);
    let state = emit_unpack(b, dtype, state);
    let state = emit_combine(b, with, dtype, state, value);
    let state = emit_pack(b, dtype, state);
    b.ins().store(trusted(), state, address, 0);
}

/// Whether four lanes at a time can say a body: 32-bit elements, conditions that stay in registers, and what CLIF has for vectors.
fn fits(body: &Body) -> bool {
    let is_wide = |dtype| matches!(dtype, DType::F32 | DType::I32 | DType::U32);
    let values = body.values.iter().all(|value| match value {
        wide::Value::Const(dtype, _) | wide::Value::Scalar(dtype, _) => is_wide(*dtype) || *dtype == DType::Bool,
        wide::Value::Lane => true,
        wide::Value::Load(dtype, _) => is_wide(*dtype),
        wide::Value::MaskedLoad(..)
        | wide::Value::Column(..)
        | wide::Value::Gather(..)
        | wide::Value::MaskedGather(..)
        | wide::Value::Spread(..) => false,
        wide::Value::Prim(prim, dtype, args) => {
            let known = is_wide(*dtype) || *dtype == DType::Bool;
            known
                && match prim {
                    Prim::Rem | Prim::MulHi => false,
                    Prim::Div => dtype.is_float(),
                    // Vectors shift all lanes by one amount.
                    Prim::Shl | Prim::Shr => constant(body, args[1]).is_some_and(|by| by < 32),
                    Prim::Bitcast => *dtype != DType::Bool && body.dtype(args[0]) != DType::Bool,
                    _ => true,
                }
        }
    });
    let sinks = body.sinks.iter().all(|sink| match sink {
        Sink::Store(dtype, ..) | Sink::Stream(dtype, ..) | Sink::Accumulate(dtype, ..) => is_wide(*dtype),
        Sink::Prefetch(..) => true,
    });
    values && sinks
}

/// The bits of a value that is constant.
fn constant(body: &Body, id: ValueId) -> Option<u64> {
    match body.values[id.0 as usize] {
        wide::Value::Const(_, bits) => Some(bits),
        _ => None,
    }
}

/// Four lanes of a type; a `bool` is all ones or all zeros.
fn vector_type(dtype: DType) -> Type {
    match dtype {
        DType::F32 => F32X4,
        _ => I32X4,
    }
}

fn splat_const(b: &mut FunctionBuilder, dtype: DType, bits: u64) -> Value {
    let element = match dtype {
        DType::Bool => b.ins().iconst(I32, if bits == 0 { 0 } else { i64::from(u32::MAX) }),
        _ => emit_const(b, dtype, bits),
    };
    b.ins().splat(vector_type(dtype), element)
}

fn splat(b: &mut FunctionBuilder, dtype: DType, scalar: Value) -> Value {
    let element = match dtype {
        DType::Bool => {
            let wide = b.ins().uextend(I32, scalar);
            b.ins().ineg(wide)
        }
        _ => scalar,
    };
    b.ins().splat(vector_type(dtype), element)
}

/// The same bits as a vector of another element type.
fn reinterpret(b: &mut FunctionBuilder, to: Type, value: Value) -> Value {
    if b.func.dfg.value_type(value) == to {
        value
    } else {
        b.ins().bitcast(to, MemFlagsData::new(), value)
    }
}

/// `mask ? yes : no` in each lane.
fn choose(b: &mut FunctionBuilder, mask: Value, yes: Value, no: Value) -> Value {
    let ty = b.func.dfg.value_type(yes);
    let mask = reinterpret(b, ty, mask);
    b.ins().bitselect(mask, yes, no)
}

fn compare(b: &mut FunctionBuilder, from: DType, float: FloatCC, int: IntCC, x: Value, y: Value) -> Value {
    match (from.is_float(), from.is_signed()) {
        (true, _) => b.ins().fcmp(float, x, y),
        (false, true) => b.ins().icmp(int, x, y),
        (false, false) => b.ins().icmp(int.unsigned(), x, y),
    }
}

/// A primitive in four lanes; `amount` is the second operand where that is constant.
fn emit_vector_prim(
    b: &mut FunctionBuilder,
    prim: Prim,
    dtype: DType,
    from: DType,
    args: &[Value],
    amount: Option<u64>,
) -> Value {
    let (float, signed) = (dtype.is_float(), dtype.is_signed());
    match (prim, args) {
        (Prim::Add, &[x, y]) if float => b.ins().fadd(x, y),
        (Prim::Sub, &[x, y]) if float => b.ins().fsub(x, y),
        (Prim::Mul, &[x, y]) if float => b.ins().fmul(x, y),
        (Prim::Div, &[x, y]) => b.ins().fdiv(x, y),
        (Prim::Fma, &[x, y, z]) => b.ins().fma(x, y, z),
        (Prim::Max, &[x, y]) if float => {
            let greater = b.ins().fcmp(FloatCC::GreaterThan, x, y);
            choose(b, greater, x, y)
        }
        (Prim::Min, &[x, y]) if float => {
            let less = b.ins().fcmp(FloatCC::LessThan, x, y);
            choose(b, less, x, y)
        }
        (Prim::Sqrt, &[x]) => b.ins().sqrt(x),
        (Prim::Neg, &[x]) if float => b.ins().fneg(x),
        (Prim::Abs, &[x]) if float => b.ins().fabs(x),
        (Prim::Floor, &[x]) => b.ins().floor(x),
        (Prim::Ceil, &[x]) => b.ins().ceil(x),
        (Prim::Trunc, &[x]) => b.ins().trunc(x),
        (Prim::Nearest, &[x]) => b.ins().nearest(x),
        (Prim::Add, &[x, y]) => b.ins().iadd(x, y),
        (Prim::Sub, &[x, y]) => b.ins().isub(x, y),
        (Prim::Mul, &[x, y]) => b.ins().imul(x, y),
        // As masks, `true` is the lesser when signed and the greater when unsigned, which `bool` is.
        (Prim::Max, &[x, y]) if signed => b.ins().smax(x, y),
        (Prim::Max, &[x, y]) => b.ins().umax(x, y),
        (Prim::Min, &[x, y]) if signed => b.ins().smin(x, y),
        (Prim::Min, &[x, y]) => b.ins().umin(x, y),
        (Prim::Neg, &[x]) => b.ins().ineg(x),
        (Prim::Abs, &[x]) if signed => b.ins().iabs(x),
        (Prim::Abs, &[x]) => x,
        (Prim::Eq, &[x, y]) => compare(b, from, FloatCC::Equal, IntCC::Equal, x, y),
        (Prim::Lt, &[x, y]) => compare(b, from, FloatCC::LessThan, IntCC::SignedLessThan, x, y),
        (Prim::Le, &[x, y]) => compare(b, from, FloatCC::LessThanOrEqual, IntCC::SignedLessThanOrEqual, x, y),
        (Prim::And, &[x, y]) => b.ins().band(x, y),
        (Prim::Or, &[x, y]) => b.ins().bor(x, y),
        (Prim::Xor, &[x, y]) => b.ins().bxor(x, y),
        (Prim::Shl | Prim::Shr, &[x, _]) => {
            let by = b.ins().iconst(I32, amount.expect("`fits` asks for a constant") as i64);
            match (prim, signed) {
                (Prim::Shl, _) => b.ins().ishl(x, by),
                (_, true) => b.ins().sshr(x, by),
                (_, false) => b.ins().ushr(x, by),
            }
        }
        (Prim::Select, &[mask, yes, no]) => choose(b, mask, yes, no),
        (Prim::Unlikely, &[mask]) => mask,
        (Prim::Cast, &[x]) => emit_vector_cast(b, from, dtype, x),
        (Prim::Bitcast, &[x]) => reinterpret(b, vector_type(dtype), x),
        _ => unreachable!("`fits` refuses `{}` of {}", prim.name(), from),
    }
}

fn emit_vector_cast(b: &mut FunctionBuilder, from: DType, to: DType, value: Value) -> Value {
    match (from, to) {
        _ if from == to => value,
        (DType::Bool, _) => {
            let one = splat_const(b, to, Scalar::one(to).to_bits(to));
            let mask = reinterpret(b, vector_type(to), value);
            b.ins().band(mask, one)
        }
        (_, DType::Bool) => {
            let zero = splat_const(b, from, 0);
            compare(b, from, FloatCC::NotEqual, IntCC::NotEqual, value, zero)
        }
        (DType::I32, DType::F32) => b.ins().fcvt_from_sint(F32X4, value),
        (DType::U32, DType::F32) => b.ins().fcvt_from_uint(F32X4, value),
        (DType::F32, DType::I32) => b.ins().fcvt_to_sint_sat(I32X4, value),
        (DType::F32, DType::U32) => b.ins().fcvt_to_uint_sat(I32X4, value),
        _ => value,
    }
}

/// [`emit_combine`] in four lanes.
fn emit_vector_combine(b: &mut FunctionBuilder, with: Combine, dtype: DType, state: Value, value: Value) -> Value {
    let prim = match with {
        Combine::Sum => Prim::Add,
        Combine::Product => Prim::Mul,
        Combine::Max => Prim::Max,
        Combine::Min => Prim::Min,
        Combine::Any => Prim::Or,
        Combine::All => Prim::And,
    };
    let combined = emit_vector_prim(b, prim, dtype, dtype, &[state, value], None);
    if dtype.is_float() && matches!(with, Combine::Max | Combine::Min) {
        let is_number = b.ins().fcmp(FloatCC::Equal, state, state);
        choose(b, is_number, combined, state)
    } else {
        combined
    }
}
