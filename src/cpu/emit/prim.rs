//! Each primitive in CLIF, for every element type, with the bits that [`Prim::eval`] gives.
//!
//! A `bool` is an `i8` holding 0 or 1; `f16` and `bf16` are held as the `f32` of the same value and rounded after each operation;
//! every other type is the CLIF type of its size. Nothing here calls a function, but `Fma` on an x86-64 without the instruction.

use cranelift::codegen::ir::immediates::{Ieee32, Ieee64};
use cranelift::prelude::types::{F32, F64, I8, I16, I32, I64};
use cranelift::prelude::{FloatCC, FunctionBuilder, InstBuilder, IntCC, MemFlagsData, Type, Value};
use netloom_ir::kernel::{Combine, Prim};
use netloom_ir::{DType, Scalar};

/// The CLIF type of a value while it is computed with.
pub fn clif_type(dtype: DType) -> Type {
    match dtype {
        DType::F16 | DType::BF16 | DType::F32 => F32,
        DType::F64 => F64,
        _ => memory_type(dtype),
    }
}

/// The CLIF type of an element in memory.
pub fn memory_type(dtype: DType) -> Type {
    match dtype {
        DType::Bool | DType::U8 | DType::I8 => I8,
        DType::U16 | DType::I16 | DType::F16 | DType::BF16 => I16,
        DType::U32 | DType::I32 => I32,
        DType::U64 | DType::I64 => I64,
        DType::F32 => F32,
        DType::F64 => F64,
    }
}

/// A constant, from its bits in memory.
pub fn emit_const(b: &mut FunctionBuilder, dtype: DType, bits: u64) -> Value {
    match dtype {
        DType::F16 | DType::BF16 | DType::F32 => {
            let value = Scalar::from_bits(bits, dtype).as_f64() as f32;
            b.ins().f32const(Ieee32::with_bits(value.to_bits()))
        }
        DType::F64 => b.ins().f64const(Ieee64::with_bits(bits)),
        _ => int_const(b, memory_type(dtype), bits as i64),
    }
}

/// An integer constant of a CLIF type; bits above its width are dropped.
fn int_const(b: &mut FunctionBuilder, ty: Type, value: i64) -> Value {
    let mask = u64::MAX >> (64 - ty.bits());
    b.ins().iconst(ty, (value as u64 & mask) as i64)
}

/// An element as it is read from memory, turned into the value computed with.
pub fn emit_unpack(b: &mut FunctionBuilder, dtype: DType, element: Value) -> Value {
    match dtype {
        DType::F16 => unpack_f16(b, element),
        DType::BF16 => {
            let wide = b.ins().uextend(I32, element);
            let bits = shift_left(b, wide, 16);
            b.ins().bitcast(F32, MemFlagsData::new(), bits)
        }
        _ => element,
    }
}

/// The inverse of [`emit_unpack`]; a float is rounded to nearest even.
pub fn emit_pack(b: &mut FunctionBuilder, dtype: DType, value: Value) -> Value {
    match dtype {
        DType::F16 => pack_f16(b, value),
        DType::BF16 => pack_bf16(b, value),
        _ => value,
    }
}

/// `f16` bits to the `f32` of the same value, after F. Giesen's `half_to_float_fast2`.
fn unpack_f16(b: &mut FunctionBuilder, half: Value) -> Value {
    let wide = b.ins().uextend(I32, half);
    let magnitude = band(b, wide, 0x7fff);
    let sign = b.ins().bxor(wide, magnitude);
    let sign = shift_left(b, sign, 16);
    let shifted = shift_left(b, magnitude, 13);
    let rebias = int_const(b, I32, (127 - 15) << 23);
    let normal = b.ins().iadd(shifted, rebias);
    // Infinity and NaN have the greatest exponent in both formats.
    let special = b.ins().iadd(normal, rebias);
    // A subnormal is `magnitude · 2^-24`, exact in f32.
    let count = b.ins().fcvt_from_sint(F32, magnitude);
    let unit = b.ins().f32const(Ieee32::with_bits((127 - 24) << 23));
    let subnormal = b.ins().fmul(count, unit);
    let subnormal = b.ins().bitcast(I32, MemFlagsData::new(), subnormal);
    let least_special = int_const(b, I32, 0x7c00);
    let least_normal = int_const(b, I32, 0x0400);
    let is_special = b
        .ins()
        .icmp(IntCC::UnsignedGreaterThanOrEqual, magnitude, least_special);
    let is_subnormal = b.ins().icmp(IntCC::UnsignedLessThan, magnitude, least_normal);
    let bits = b.ins().select(is_special, special, normal);
    let bits = b.ins().select(is_subnormal, subnormal, bits);
    let bits = b.ins().bor(bits, sign);
    b.ins().bitcast(F32, MemFlagsData::new(), bits)
}

/// An `f32` to `f16` bits, rounded to nearest even, after F. Giesen's `float_to_half_fast3_rtne`.
fn pack_f16(b: &mut FunctionBuilder, value: Value) -> Value {
    let bits = b.ins().bitcast(I32, MemFlagsData::new(), value);
    let magnitude = band(b, bits, 0x7fff_ffff);
    let sign = b.ins().bxor(bits, magnitude);
    let sign = shift_right(b, sign, 16);

    // Beyond the largest finite value: infinity, or a quiet NaN that keeps the upper bits of its payload.
    let infinity = int_const(b, I32, 0x7c00);
    let payload = shift_right(b, magnitude, 13);
    let payload = band(b, payload, 0x03ff);
    let quiet = int_const(b, I32, 0x7e00);
    let nan = b.ins().bor(payload, quiet);
    let f32_infinity = int_const(b, I32, 255 << 23);
    let is_nan = b.ins().icmp(IntCC::UnsignedGreaterThan, magnitude, f32_infinity);
    let special = b.ins().select(is_nan, nan, infinity);

    // Adding 0.5 lets the adder round a value below the normal range at the place of the last bit of a subnormal.
    let half = int_const(b, I32, (127 - 1) << 23);
    let half_value = b.ins().bitcast(F32, MemFlagsData::new(), half);
    let magnitude_value = b.ins().bitcast(F32, MemFlagsData::new(), magnitude);
    let aligned = b.ins().fadd(magnitude_value, half_value);
    let aligned = b.ins().bitcast(I32, MemFlagsData::new(), aligned);
    let subnormal = b.ins().isub(aligned, half);

    // In the normal range, round in integers; a carry runs into the exponent, as it should.
    let odd = shift_right(b, magnitude, 13);
    let odd = band(b, odd, 1);
    let rebias = int_const(b, I32, ((15 - 127) << 23) + 0xfff);
    let normal = b.ins().iadd(magnitude, rebias);
    let normal = b.ins().iadd(normal, odd);
    let normal = shift_right(b, normal, 13);

    let least_special = int_const(b, I32, (127 + 16) << 23);
    let least_normal = int_const(b, I32, (127 - 14) << 23);
    let is_special = b
        .ins()
        .icmp(IntCC::UnsignedGreaterThanOrEqual, magnitude, least_special);
    let is_subnormal = b.ins().icmp(IntCC::UnsignedLessThan, magnitude, least_normal);
    let packed = b.ins().select(is_subnormal, subnormal, normal);
    let packed = b.ins().select(is_special, special, packed);
    let packed = b.ins().bor(packed, sign);
    b.ins().ireduce(I16, packed)
}

/// An `f32` to `bf16` bits, rounded to nearest even.
fn pack_bf16(b: &mut FunctionBuilder, value: Value) -> Value {
    let bits = b.ins().bitcast(I32, MemFlagsData::new(), value);
    let upper = shift_right(b, bits, 16);
    let quiet = int_const(b, I32, 0x40);
    let nan = b.ins().bor(upper, quiet);
    let odd = band(b, upper, 1);
    let below_half = int_const(b, I32, 0x7fff);
    let rounded = b.ins().iadd(bits, below_half);
    let rounded = b.ins().iadd(rounded, odd);
    let rounded = shift_right(b, rounded, 16);
    let is_nan = b.ins().fcmp(FloatCC::Unordered, value, value);
    let packed = b.ins().select(is_nan, nan, rounded);
    b.ins().ireduce(I16, packed)
}

fn band(b: &mut FunctionBuilder, value: Value, mask: i64) -> Value {
    let mask = int_const(b, I32, mask);
    b.ins().band(value, mask)
}

fn shift_left(b: &mut FunctionBuilder, value: Value, by: i64) -> Value {
    let by = int_const(b, I32, by);
    b.ins().ishl(value, by)
}

fn shift_right(b: &mut FunctionBuilder, value: Value, by: i64) -> Value {
    let by = int_const(b, I32, by);
    b.ins().ushr(value, by)
}

/// Rounds an `f32` to a type that is held as `f32`.
fn round(b: &mut FunctionBuilder, dtype: DType, value: Value) -> Value {
    match dtype {
        DType::F16 | DType::BF16 => {
            let packed = emit_pack(b, dtype, value);
            emit_unpack(b, dtype, packed)
        }
        _ => value,
    }
}

/// A primitive of operands whose first has type `from`, with a result of type `dtype`.
pub fn emit_prim(b: &mut FunctionBuilder, prim: Prim, dtype: DType, from: DType, args: &[Value]) -> Value {
    match (prim, args) {
        (Prim::Select, &[condition, yes, no]) => b.ins().select(condition, yes, no),
        (Prim::Unlikely, &[condition]) => condition,
        (Prim::Cast, &[value]) => emit_cast(b, from, dtype, value),
        (Prim::Bitcast, &[value]) => emit_bitcast(b, from, dtype, value),
        (Prim::Eq, &[x, y]) => compare(b, from, FloatCC::Equal, IntCC::Equal, x, y),
        (Prim::Lt, &[x, y]) => compare(b, from, FloatCC::LessThan, IntCC::SignedLessThan, x, y),
        (Prim::Le, &[x, y]) => compare(b, from, FloatCC::LessThanOrEqual, IntCC::SignedLessThanOrEqual, x, y),
        _ if dtype.is_float() => {
            let value = emit_float(b, prim, args);
            round(b, dtype, value)
        }
        _ => emit_int(b, prim, dtype, args),
    }
}

/// A combiner's step, as [`Combine::apply`] spells it.
pub fn emit_combine(b: &mut FunctionBuilder, with: Combine, dtype: DType, state: Value, value: Value) -> Value {
    let prim = match with {
        Combine::Sum => Prim::Add,
        Combine::Product => Prim::Mul,
        Combine::Max => Prim::Max,
        Combine::Min => Prim::Min,
        Combine::Any => Prim::Or,
        Combine::All => Prim::And,
    };
    let combined = emit_prim(b, prim, dtype, dtype, &[state, value]);
    if dtype.is_float() && matches!(with, Combine::Max | Combine::Min) {
        let is_number = b.ins().fcmp(FloatCC::Equal, state, state);
        b.ins().select(is_number, combined, state)
    } else {
        combined
    }
}

fn compare(b: &mut FunctionBuilder, from: DType, float: FloatCC, int: IntCC, x: Value, y: Value) -> Value {
    match (from.is_float(), from.is_signed()) {
        (true, _) => b.ins().fcmp(float, x, y),
        (false, true) => b.ins().icmp(int, x, y),
        (false, false) => b.ins().icmp(int.unsigned(), x, y),
    }
}

fn emit_float(b: &mut FunctionBuilder, prim: Prim, args: &[Value]) -> Value {
    match (prim, args) {
        (Prim::Add, &[x, y]) => b.ins().fadd(x, y),
        (Prim::Sub, &[x, y]) => b.ins().fsub(x, y),
        (Prim::Mul, &[x, y]) => b.ins().fmul(x, y),
        (Prim::Div, &[x, y]) => b.ins().fdiv(x, y),
        (Prim::Fma, &[x, y, z]) => b.ins().fma(x, y, z),
        (Prim::Max, &[x, y]) => {
            let greater = b.ins().fcmp(FloatCC::GreaterThan, x, y);
            b.ins().select(greater, x, y)
        }
        (Prim::Min, &[x, y]) => {
            let less = b.ins().fcmp(FloatCC::LessThan, x, y);
            b.ins().select(less, x, y)
        }
        (Prim::Sqrt, &[x]) => b.ins().sqrt(x),
        (Prim::Neg, &[x]) => b.ins().fneg(x),
        (Prim::Abs, &[x]) => b.ins().fabs(x),
        (Prim::Floor, &[x]) => b.ins().floor(x),
        (Prim::Ceil, &[x]) => b.ins().ceil(x),
        (Prim::Trunc, &[x]) => b.ins().trunc(x),
        (Prim::Nearest, &[x]) => b.ins().nearest(x),
        _ => unreachable!("`{}` of {} floats", prim.name(), args.len()),
    }
}

/// Integers and `bool`, which behaves as an unsigned integer of one bit wherever a primitive takes it.
fn emit_int(b: &mut FunctionBuilder, prim: Prim, dtype: DType, args: &[Value]) -> Value {
    let ty = clif_type(dtype);
    let signed = dtype.is_signed();
    match (prim, args) {
        (Prim::Add, &[x, y]) => b.ins().iadd(x, y),
        (Prim::Sub, &[x, y]) => b.ins().isub(x, y),
        (Prim::Mul, &[x, y]) => b.ins().imul(x, y),
        (Prim::Div | Prim::Rem, &[x, y]) => emit_division(b, prim, ty, signed, x, y),
        (Prim::Max, &[x, y]) => {
            let greater = compare(b, dtype, FloatCC::GreaterThan, IntCC::SignedGreaterThan, x, y);
            b.ins().select(greater, x, y)
        }
        (Prim::Min, &[x, y]) => {
            let less = compare(b, dtype, FloatCC::LessThan, IntCC::SignedLessThan, x, y);
            b.ins().select(less, x, y)
        }
        (Prim::Neg, &[x]) => b.ins().ineg(x),
        (Prim::Abs, &[x]) if signed => {
            let negated = b.ins().ineg(x);
            let zero = int_const(b, ty, 0);
            let is_negative = b.ins().icmp(IntCC::SignedLessThan, x, zero);
            b.ins().select(is_negative, negated, x)
        }
        (Prim::Abs, &[x]) => x,
        (Prim::And, &[x, y]) => b.ins().band(x, y),
        (Prim::Or, &[x, y]) => b.ins().bor(x, y),
        (Prim::Xor, &[x, y]) => b.ins().bxor(x, y),
        (Prim::Shl | Prim::Shr, &[x, y]) => {
            let width = int_const(b, ty, i64::from(ty.bits()));
            let within = b.ins().icmp(IntCC::UnsignedLessThan, y, width);
            if prim == Prim::Shr && signed {
                let most = int_const(b, ty, i64::from(ty.bits()) - 1);
                let by = b.ins().select(within, y, most);
                b.ins().sshr(x, by)
            } else {
                let shifted = if prim == Prim::Shl {
                    b.ins().ishl(x, y)
                } else {
                    b.ins().ushr(x, y)
                };
                let zero = int_const(b, ty, 0);
                b.ins().select(within, shifted, zero)
            }
        }
        (Prim::MulHi, &[x, y]) => {
            let x = b.ins().uextend(I64, x);
            let y = b.ins().uextend(I64, y);
            let product = b.ins().imul(x, y);
            let by = int_const(b, I64, 32);
            let high = b.ins().ushr(product, by);
            b.ins().ireduce(I32, high)
        }
        _ => unreachable!("`{}` of {} integers", prim.name(), args.len()),
    }
}

/// Division where nothing may trap: by zero it gives 0, and the least value divided by -1 wraps.
fn emit_division(b: &mut FunctionBuilder, prim: Prim, ty: Type, signed: bool, x: Value, y: Value) -> Value {
    let zero = int_const(b, ty, 0);
    let one = int_const(b, ty, 1);
    let by_zero = b.ins().icmp(IntCC::Equal, y, zero);
    let safe = b.ins().select(by_zero, one, y);
    if !signed {
        let result = if prim == Prim::Div {
            b.ins().udiv(x, safe)
        } else {
            b.ins().urem(x, safe)
        };
        return b.ins().select(by_zero, zero, result);
    }
    let minus_one = int_const(b, ty, -1);
    let by_minus_one = b.ins().icmp(IntCC::Equal, y, minus_one);
    let safe = b.ins().select(by_minus_one, one, safe);
    let (result, of_minus_one) = match prim {
        Prim::Div => (b.ins().sdiv(x, safe), b.ins().ineg(x)),
        _ => (b.ins().srem(x, safe), zero),
    };
    let result = b.ins().select(by_minus_one, of_minus_one, result);
    b.ins().select(by_zero, zero, result)
}

/// Division of an `i64` by a constant: `x / by` or `x % by`, in unsigned arithmetic where `x` is known not to be negative.
pub fn emit_division_by(b: &mut FunctionBuilder, prim: Prim, x: Value, by: i64, non_negative: bool) -> Value {
    let divisor = b.ins().iconst(I64, by);
    match (prim, non_negative) {
        (Prim::Div, true) if (by as u64).is_power_of_two() => {
            let shift = b.ins().iconst(I64, i64::from(by.trailing_zeros()));
            b.ins().ushr(x, shift)
        }
        (Prim::Rem, true) if (by as u64).is_power_of_two() => {
            let mask = b.ins().iconst(I64, by - 1);
            b.ins().band(x, mask)
        }
        (Prim::Div, true) => b.ins().udiv(x, divisor),
        (Prim::Rem, true) => b.ins().urem(x, divisor),
        (Prim::Div, false) => b.ins().sdiv(x, divisor),
        (Prim::Rem, false) => b.ins().srem(x, divisor),
        _ => unreachable!("`{}` is no division", prim.name()),
    }
}

fn emit_cast(b: &mut FunctionBuilder, from: DType, to: DType, value: Value) -> Value {
    if from == to {
        return value;
    }
    match (from.is_float(), to.is_float()) {
        _ if to == DType::Bool => {
            if from.is_float() {
                let zero = emit_const(b, from, 0);
                b.ins().fcmp(FloatCC::NotEqual, value, zero)
            } else {
                let zero = int_const(b, clif_type(from), 0);
                b.ins().icmp(IntCC::NotEqual, value, zero)
            }
        }
        (true, true) => {
            let value = match (from, to) {
                (DType::F64, _) => b.ins().fdemote(F32, value),
                (_, DType::F64) => b.ins().fpromote(F64, value),
                _ => value,
            };
            round(b, to, value)
        }
        (false, true) => {
            let value = int_to_float(b, from, to, value);
            round(b, to, value)
        }
        (true, false) => float_to_int(b, to, value),
        (false, false) => resize(b, from, clif_type(to), value),
    }
}

/// The value in a CLIF integer type of any width: extended by its sign if it has one, or cut.
fn resize(b: &mut FunctionBuilder, from: DType, to: Type, value: Value) -> Value {
    match (clif_type(from).bits().cmp(&to.bits()), from.is_signed()) {
        (std::cmp::Ordering::Less, true) => b.ins().sextend(to, value),
        (std::cmp::Ordering::Less, false) => b.ins().uextend(to, value),
        (std::cmp::Ordering::Equal, _) => value,
        (std::cmp::Ordering::Greater, _) => b.ins().ireduce(to, value),
    }
}

/// An integer to `f32` or `f64`. A 64-bit integer is rounded to `f64` first, as [`Scalar`] does.
fn int_to_float(b: &mut FunctionBuilder, from: DType, to: DType, value: Value) -> Value {
    let ty = clif_type(to);
    match from {
        DType::I64 | DType::U64 => {
            let float = match from {
                DType::I64 => b.ins().fcvt_from_sint(F64, value),
                _ => b.ins().fcvt_from_uint(F64, value),
            };
            if ty == F32 { b.ins().fdemote(F32, float) } else { float }
        }
        DType::U32 => {
            let wide = b.ins().uextend(I64, value);
            b.ins().fcvt_from_sint(ty, wide)
        }
        _ => {
            let wide = resize(b, from, I32, value);
            b.ins().fcvt_from_sint(ty, wide)
        }
    }
}

/// Truncates and saturates; NaN gives 0.
fn float_to_int(b: &mut FunctionBuilder, to: DType, value: Value) -> Value {
    match to {
        DType::U32 => b.ins().fcvt_to_uint_sat(I32, value),
        DType::U64 => b.ins().fcvt_to_uint_sat(I64, value),
        DType::I32 => b.ins().fcvt_to_sint_sat(I32, value),
        DType::I64 => b.ins().fcvt_to_sint_sat(I64, value),
        _ => {
            let (low, high) = to.int_range().expect("an integer type");
            let wide = b.ins().fcvt_to_sint_sat(I32, value);
            let low = int_const(b, I32, low as i64);
            let high = int_const(b, I32, high as i64);
            let below = b.ins().icmp(IntCC::SignedLessThan, wide, low);
            let wide = b.ins().select(below, low, wide);
            let above = b.ins().icmp(IntCC::SignedGreaterThan, wide, high);
            let wide = b.ins().select(above, high, wide);
            b.ins().ireduce(clif_type(to), wide)
        }
    }
}

fn emit_bitcast(b: &mut FunctionBuilder, from: DType, to: DType, value: Value) -> Value {
    let bits = emit_pack(b, from, value);
    let (present, wanted) = (memory_type(from), memory_type(to));
    let bits = if present == wanted {
        bits
    } else {
        b.ins().bitcast(wanted, MemFlagsData::new(), bits)
    };
    match to {
        DType::Bool if from != DType::Bool => {
            let zero = int_const(b, I8, 0);
            b.ins().icmp(IntCC::NotEqual, bits, zero)
        }
        _ => emit_unpack(b, to, bits),
    }
}
