//! Each primitive in SPIR-V, for every element type, with the bits that `Prim::eval` gives.
//!
//! Integers of up to 32 bits are held in 32, extended by their sign if they have one; `f16` and `bf16` are held as the `f32` of the same
//! value and rounded after each operation. So a device needs 8- and 16-bit memory, but no arithmetic of that width. Where f16 arithmetic was asked
//! for, `f16` are held as such, and what Vulkan rounds correctly is computed so: all but divisions, roots and fused products.

use netloom_ir::kernel::{Combine, Prim};
use netloom_ir::{DType, Scalar};
use rspirv::spirv::{GlslStd450Op, Op, Word};

use super::fma::emit_fma;
use crate::gpu::device::Traits;
use crate::gpu::spirv::{Kind, Writer};

/// The kind of a value while it is computed with.
pub fn register(dtype: DType, traits: &Traits) -> Kind {
    match dtype {
        DType::F16 if traits.f16 => Kind::F16,
        DType::Bool => Kind::Bool,
        DType::U8 | DType::U16 | DType::U32 | DType::I8 | DType::I16 | DType::I32 => Kind::U32,
        DType::U64 | DType::I64 => Kind::U64,
        DType::F16 | DType::BF16 | DType::F32 => Kind::F32,
        DType::F64 => Kind::F64,
    }
}

/// The kind of an element in memory.
pub fn memory(dtype: DType, traits: &Traits) -> Kind {
    match dtype {
        DType::F16 if traits.f16 => Kind::F16,
        DType::Bool | DType::U8 | DType::I8 => Kind::U8,
        DType::U16 | DType::I16 | DType::F16 | DType::BF16 => Kind::U16,
        other => register(other, traits),
    }
}

/// Spells primitives for a device.
pub struct Prims<'a> {
    /// The module.
    pub w: &'a mut Writer,
    /// What the device does.
    pub traits: &'a Traits,
}

impl Prims<'_> {
    /// A constant, from its bits in memory.
    pub fn emit_const(&mut self, dtype: DType, bits: u64) -> Word {
        let kind = register(dtype, self.traits);
        let bits = match dtype {
            DType::F16 | DType::BF16 if kind == Kind::F32 => {
                u64::from((Scalar::from_bits(bits, dtype).as_f64() as f32).to_bits())
            }
            DType::I8 => u64::from(i32::from(bits as i8) as u32),
            DType::I16 => u64::from(i32::from(bits as i16) as u32),
            _ => bits,
        };
        self.w.constant(kind, bits)
    }

    /// An element as it is read from memory, turned into the value computed with.
    pub fn emit_unpack(&mut self, dtype: DType, element: Word) -> Word {
        match dtype {
            DType::Bool => {
                let wide = self.w.op(Op::UConvert, Kind::U32, &[element]);
                self.is_nonzero(wide)
            }
            DType::U8 | DType::U16 => self.w.op(Op::UConvert, Kind::U32, &[element]),
            DType::I8 | DType::I16 => self.w.op(Op::SConvert, Kind::U32, &[element]),
            DType::F16 | DType::BF16 if memory(dtype, self.traits) == Kind::U16 => {
                let wide = self.w.op(Op::UConvert, Kind::U32, &[element]);
                self.widen_half(dtype, wide)
            }
            _ => element,
        }
    }

    /// The inverse of [`Prims::emit_unpack`]; a float is rounded to nearest even.
    pub fn emit_pack(&mut self, dtype: DType, value: Word) -> Word {
        let bits = match dtype {
            DType::Bool => self.number_of(Kind::U32, value),
            DType::F16 | DType::BF16 if memory(dtype, self.traits) == Kind::U16 => self.narrow_to_half(dtype, value),
            _ => value,
        };
        match memory(dtype, self.traits) {
            narrow @ (Kind::U8 | Kind::U16) => self.w.op(Op::UConvert, narrow, &[bits]),
            _ => bits,
        }
    }

    fn is_nonzero(&mut self, value: Word) -> Word {
        let zero = self.w.u32(0);
        self.w.op(Op::INotEqual, Kind::Bool, &[value, zero])
    }

    fn number_of(&mut self, kind: Kind, value: Word) -> Word {
        let one = match kind {
            Kind::F32 => u64::from(1f32.to_bits()),
            Kind::F64 => 1f64.to_bits(),
            _ => 1,
        };
        let (zero, one) = (self.w.constant(kind, 0), self.w.constant(kind, one));
        self.w.select(kind, value, one, zero)
    }

    /// The bits of a half, in 32, as the `f32` of the same value.
    fn widen_half(&mut self, dtype: DType, bits: Word) -> Word {
        match dtype {
            DType::BF16 => {
                let by = self.w.u32(16);
                let bits = self.w.op(Op::ShiftLeftLogical, Kind::U32, &[bits, by]);
                self.w.bitcast(Kind::F32, bits)
            }
            _ => self.unpack_f16(bits),
        }
    }

    /// An `f32` as the bits of a half, in 32, rounded to nearest even.
    fn narrow_to_half(&mut self, dtype: DType, value: Word) -> Word {
        match dtype {
            DType::BF16 => self.pack_bf16(value),
            _ => self.pack_f16(value),
        }
    }

    fn and(&mut self, value: Word, mask: u32) -> Word {
        let mask = self.w.u32(mask);
        self.w.op(Op::BitwiseAnd, Kind::U32, &[value, mask])
    }

    fn int(&mut self, op: Op, a: Word, b: Word) -> Word {
        self.w.op(op, Kind::U32, &[a, b])
    }

    fn shift(&mut self, op: Op, value: Word, by: u32) -> Word {
        let by = self.w.u32(by);
        self.int(op, value, by)
    }

    /// `f16` bits to the `f32` of the same value, after F. Giesen's `half_to_float_fast2`.
    fn unpack_f16(&mut self, half: Word) -> Word {
        let magnitude = self.and(half, 0x7fff);
        let sign = self.int(Op::BitwiseXor, half, magnitude);
        let sign = self.shift(Op::ShiftLeftLogical, sign, 16);
        let shifted = self.shift(Op::ShiftLeftLogical, magnitude, 13);
        let rebias = self.w.u32((127 - 15) << 23);
        let normal = self.int(Op::IAdd, shifted, rebias);
        // Infinity and NaN have the greatest exponent in both formats.
        let special = self.int(Op::IAdd, normal, rebias);
        // A subnormal is `magnitude · 2^-24`, exact in f32.
        let count = self.w.op(Op::ConvertUToF, Kind::F32, &[magnitude]);
        let unit = self.w.constant(Kind::F32, (127 - 24) << 23);
        let subnormal = self.w.exact(Op::FMul, Kind::F32, &[count, unit]);
        let subnormal = self.w.bitcast(Kind::U32, subnormal);
        let [least_special, least_normal] = [0x7c00, 0x0400].map(|bits| self.w.u32(bits));
        let is_special = self
            .w
            .op(Op::UGreaterThanEqual, Kind::Bool, &[magnitude, least_special]);
        let is_subnormal = self.w.op(Op::ULessThan, Kind::Bool, &[magnitude, least_normal]);
        let bits = self.w.select(Kind::U32, is_special, special, normal);
        let bits = self.w.select(Kind::U32, is_subnormal, subnormal, bits);
        let bits = self.int(Op::BitwiseOr, bits, sign);
        self.w.bitcast(Kind::F32, bits)
    }

    /// An `f32` to `f16` bits, rounded to nearest even, after F. Giesen's `float_to_half_fast3_rtne`.
    fn pack_f16(&mut self, value: Word) -> Word {
        let bits = self.w.bitcast(Kind::U32, value);
        let magnitude = self.and(bits, 0x7fff_ffff);
        let sign = self.int(Op::BitwiseXor, bits, magnitude);
        let sign = self.shift(Op::ShiftRightLogical, sign, 16);

        // Beyond the largest finite value: infinity, or a quiet NaN that keeps the upper bits of its payload.
        let infinity = self.w.u32(0x7c00);
        let payload = self.shift(Op::ShiftRightLogical, magnitude, 13);
        let payload = self.and(payload, 0x03ff);
        let quiet = self.w.u32(0x7e00);
        let nan = self.int(Op::BitwiseOr, payload, quiet);
        let f32_infinity = self.w.u32(255 << 23);
        let is_nan = self.w.op(Op::UGreaterThan, Kind::Bool, &[magnitude, f32_infinity]);
        let special = self.w.select(Kind::U32, is_nan, nan, infinity);

        // Adding 0.5 lets the adder round a value below the normal range at the place of the last bit of a subnormal.
        let half = self.w.u32((127 - 1) << 23);
        let half_value = self.w.constant(Kind::F32, (127 - 1) << 23);
        let magnitude_value = self.w.bitcast(Kind::F32, magnitude);
        let aligned = self.w.exact(Op::FAdd, Kind::F32, &[magnitude_value, half_value]);
        let aligned = self.w.bitcast(Kind::U32, aligned);
        let subnormal = self.int(Op::ISub, aligned, half);

        // In the normal range, round in integers; a carry runs into the exponent, as it should.
        let odd = self.shift(Op::ShiftRightLogical, magnitude, 13);
        let odd = self.and(odd, 1);
        let rebias = self.w.u32((((15 - 127) << 23) + 0xfff) as u32);
        let normal = self.int(Op::IAdd, magnitude, rebias);
        let normal = self.int(Op::IAdd, normal, odd);
        let normal = self.shift(Op::ShiftRightLogical, normal, 13);

        let [least_special, least_normal] = [(127 + 16) << 23, (127 - 14) << 23].map(|bits| self.w.u32(bits));
        let is_special = self
            .w
            .op(Op::UGreaterThanEqual, Kind::Bool, &[magnitude, least_special]);
        let is_subnormal = self.w.op(Op::ULessThan, Kind::Bool, &[magnitude, least_normal]);
        let packed = self.w.select(Kind::U32, is_subnormal, subnormal, normal);
        let packed = self.w.select(Kind::U32, is_special, special, packed);
        self.int(Op::BitwiseOr, packed, sign)
    }

    /// An `f32` to `bf16` bits, rounded to nearest even.
    fn pack_bf16(&mut self, value: Word) -> Word {
        let bits = self.w.bitcast(Kind::U32, value);
        let upper = self.shift(Op::ShiftRightLogical, bits, 16);
        let quiet = self.w.u32(0x40);
        let nan = self.int(Op::BitwiseOr, upper, quiet);
        let odd = self.and(upper, 1);
        let below_half = self.w.u32(0x7fff);
        let rounded = self.int(Op::IAdd, bits, below_half);
        let rounded = self.int(Op::IAdd, rounded, odd);
        let rounded = self.shift(Op::ShiftRightLogical, rounded, 16);
        let magnitude = self.and(bits, 0x7fff_ffff);
        let infinity = self.w.u32(255 << 23);
        let is_nan = self.w.op(Op::UGreaterThan, Kind::Bool, &[magnitude, infinity]);
        self.w.select(Kind::U32, is_nan, nan, rounded)
    }

    /// A float as the `f32` of the same value, if it is held in 16 bits.
    fn widen(&mut self, dtype: DType, value: Word) -> Word {
        match register(dtype, self.traits) {
            Kind::F16 => self.w.op(Op::FConvert, Kind::F32, &[value]),
            _ => value,
        }
    }

    /// The inverse of [`Prims::widen`]; rounds to nearest even.
    fn narrow(&mut self, dtype: DType, value: Word) -> Word {
        match register(dtype, self.traits) {
            Kind::F16 => self.w.op(Op::FConvert, Kind::F16, &[value]),
            _ => value,
        }
    }

    /// Rounds what was computed of a type to it.
    fn round(&mut self, dtype: DType, value: Word) -> Word {
        match dtype {
            DType::F16 if self.traits.f16 => self.narrow(dtype, value),
            DType::F16 | DType::BF16 => {
                let bits = self.narrow_to_half(dtype, value);
                self.widen_half(dtype, bits)
            }
            _ => value,
        }
    }

    /// Cuts the result of 32-bit arithmetic to an integer type that is held in 32 bits.
    fn wrap(&mut self, dtype: DType, value: Word) -> Word {
        let sign_extended = |prims: &mut Self, by| {
            let up = prims.shift(Op::ShiftLeftLogical, value, by);
            prims.shift(Op::ShiftRightArithmetic, up, by)
        };
        match dtype {
            DType::U8 => self.and(value, 0xff),
            DType::U16 => self.and(value, 0xffff),
            DType::I8 => sign_extended(self, 24),
            DType::I16 => sign_extended(self, 16),
            _ => value,
        }
    }

    /// A primitive of operands whose first has type `from`, with a result of type `dtype`.
    pub fn emit_prim(&mut self, prim: Prim, dtype: DType, from: DType, args: &[Word]) -> Word {
        match (prim, args) {
            (Prim::Select, &[condition, yes, no]) => self.w.select(register(dtype, self.traits), condition, yes, no),
            (Prim::Unlikely, &[condition]) => condition,
            (Prim::Cast, &[value]) => self.emit_cast(from, dtype, value),
            (Prim::Bitcast, &[value]) => self.emit_bitcast(from, dtype, value),
            (Prim::Eq | Prim::Lt | Prim::Le, &[x, y]) => self.compare(prim, from, x, y),
            _ if dtype.is_float() => self.emit_rounded(prim, dtype, args),
            _ if dtype == DType::Bool => self.emit_bool(prim, args),
            _ => {
                let value = self.emit_int(prim, dtype, args);
                self.wrap(dtype, value)
            }
        }
    }

    /// A combiner's step, as [`Combine::apply`] spells it. A sum of floats may be contracted with the product that enters it: its order
    /// is given, the rounding of its terms is not.
    pub fn emit_combine(&mut self, with: Combine, dtype: DType, state: Word, value: Word) -> Word {
        if with == Combine::Sum && matches!(dtype, DType::F32 | DType::F64) {
            return self.w.op(Op::FAdd, register(dtype, self.traits), &[state, value]);
        }
        let combined = self.emit_prim(with.prim(), dtype, dtype, &[state, value]);
        if dtype.is_float() && matches!(with, Combine::Max | Combine::Min) {
            let is_number = self.w.op(Op::FOrdEqual, Kind::Bool, &[state, state]);
            self.w.select(register(dtype, self.traits), is_number, combined, state)
        } else {
            combined
        }
    }

    fn compare(&mut self, prim: Prim, from: DType, x: Word, y: Word) -> Word {
        if from == DType::Bool {
            return match prim {
                Prim::Eq => self.w.op(Op::LogicalEqual, Kind::Bool, &[x, y]),
                Prim::Lt => {
                    let not = self.w.op(Op::LogicalNot, Kind::Bool, &[x]);
                    self.w.op(Op::LogicalAnd, Kind::Bool, &[not, y])
                }
                _ => {
                    let not = self.w.op(Op::LogicalNot, Kind::Bool, &[x]);
                    self.w.op(Op::LogicalOr, Kind::Bool, &[not, y])
                }
            };
        }
        let op = match (prim, from.is_float(), from.is_signed()) {
            (Prim::Eq, true, _) => Op::FOrdEqual,
            (Prim::Lt, true, _) => Op::FOrdLessThan,
            (_, true, _) => Op::FOrdLessThanEqual,
            (Prim::Eq, false, _) => Op::IEqual,
            (Prim::Lt, false, true) => Op::SLessThan,
            (Prim::Lt, false, false) => Op::ULessThan,
            (_, false, true) => Op::SLessThanEqual,
            (_, false, false) => Op::ULessThanEqual,
        };
        self.w.op(op, Kind::Bool, &[x, y])
    }

    fn emit_bool(&mut self, prim: Prim, args: &[Word]) -> Word {
        let op = match prim {
            Prim::And | Prim::Min => Op::LogicalAnd,
            Prim::Or | Prim::Max => Op::LogicalOr,
            Prim::Xor => Op::LogicalNotEqual,
            _ => unreachable!("`{}` of booleans", prim.name()),
        };
        self.w.op(op, Kind::Bool, args)
    }

    /// A primitive of floats, rounded to their type. Of halves that are held as such Vulkan rounds sums and products correctly, quotients and roots
    /// not, and a fused product with addition rounds twice here as in `f32`.
    fn emit_rounded(&mut self, prim: Prim, dtype: DType, args: &[Word]) -> Word {
        let kind = register(dtype, self.traits);
        if kind == Kind::F16 && !matches!(prim, Prim::Div | Prim::Sqrt | Prim::Fma) {
            return self.emit_float(prim, kind, args);
        }
        let args: Vec<Word> = args.iter().map(|&arg| self.widen(dtype, arg)).collect();
        let kind = if kind == Kind::F64 { kind } else { Kind::F32 };
        let value = self.emit_float(prim, kind, &args);
        self.round(dtype, value)
    }

    fn emit_float(&mut self, prim: Prim, kind: Kind, args: &[Word]) -> Word {
        let rounding = match prim {
            Prim::Sqrt => Some(GlslStd450Op::Sqrt),
            Prim::Abs => Some(GlslStd450Op::FAbs),
            Prim::Floor => Some(GlslStd450Op::Floor),
            Prim::Ceil => Some(GlslStd450Op::Ceil),
            Prim::Trunc => Some(GlslStd450Op::Trunc),
            Prim::Nearest => Some(GlslStd450Op::RoundEven),
            _ => None,
        };
        if let Some(op) = rounding {
            return self.w.arithmetic(op, kind, args);
        }
        match (prim, args) {
            (Prim::Add, _) => self.w.exact(Op::FAdd, kind, args),
            (Prim::Sub, _) => self.w.exact(Op::FSub, kind, args),
            (Prim::Mul, _) => self.w.exact(Op::FMul, kind, args),
            (Prim::Div, _) => self.w.exact(Op::FDiv, kind, args),
            (Prim::Neg, _) => self.w.exact(Op::FNegate, kind, args),
            (Prim::Fma, &[x, y, z]) => self.emit_fma(kind, x, y, z),
            (Prim::Max, &[x, y]) => {
                let greater = self.w.op(Op::FOrdGreaterThan, Kind::Bool, args);
                self.w.select(kind, greater, x, y)
            }
            (Prim::Min, &[x, y]) => {
                let less = self.w.op(Op::FOrdLessThan, Kind::Bool, args);
                self.w.select(kind, less, x, y)
            }
            _ => unreachable!("`{}` of {} floats", prim.name(), args.len()),
        }
    }

    /// `x · y + z` with one rounding. Where the device rounds twice it is computed in a wider type or in integers.
    fn emit_fma(&mut self, kind: Kind, x: Word, y: Word, z: Word) -> Word {
        match kind {
            _ if self.traits.fuses(kind) => self.w.arithmetic(GlslStd450Op::Fma, kind, &[x, y, z]),
            Kind::F32 if self.traits.float64 => self.fma_by_f64(x, y, z),
            _ => emit_fma(self.w, kind, [x, y, z]),
        }
    }

    /// In f64 the product of two `f32` is exact; the sum is rounded to odd, so that rounding it again to `f32` rounds once
    /// (S. Boldo and G. Melquiond, "Emulation of a FMA and correctly rounded sums: proved algorithms using rounding to odd", 2008).
    fn fma_by_f64(&mut self, x: Word, y: Word, z: Word) -> Word {
        let wide = Kind::F64;
        let [x, y, z] = [x, y, z].map(|value| self.w.op(Op::FConvert, wide, &[value]));
        let product = self.w.exact(Op::FMul, wide, &[x, y]);
        let (sum, error) = self.two_sum(wide, product, z);
        let zero = self.w.constant(wide, 0);
        let bits = self.w.bitcast(Kind::U64, sum);
        let [zero_bits, one] = [0, 1].map(|value| self.w.constant(Kind::U64, value));
        let minus_one = self.w.constant(Kind::U64, u64::MAX);
        let last = self.w.op(Op::BitwiseAnd, Kind::U64, &[bits, one]);
        let is_even = self.w.op(Op::IEqual, Kind::Bool, &[last, zero_bits]);
        let is_inexact = self.w.op(Op::FOrdNotEqual, Kind::Bool, &[error, zero]);
        let is_up = self.w.op(Op::FOrdGreaterThan, Kind::Bool, &[error, zero]);
        let is_positive = self.w.op(Op::FOrdGreaterThan, Kind::Bool, &[sum, zero]);
        // Away from zero the magnitude, and with it the bits, grow.
        let grows = self.w.op(Op::LogicalEqual, Kind::Bool, &[is_up, is_positive]);
        let step = self.w.select(Kind::U64, grows, one, minus_one);
        let is_moved = self.w.op(Op::LogicalAnd, Kind::Bool, &[is_even, is_inexact]);
        let moved = self.w.op(Op::IAdd, Kind::U64, &[bits, step]);
        let odd = self.w.select(Kind::U64, is_moved, moved, bits);
        let odd = self.w.bitcast(wide, odd);
        self.w.op(Op::FConvert, Kind::F32, &[odd])
    }

    /// A sum and its error (O. Møller, 1965; D. Knuth).
    fn two_sum(&mut self, kind: Kind, x: Word, y: Word) -> (Word, Word) {
        let sum = self.w.exact(Op::FAdd, kind, &[x, y]);
        let of_y = self.w.exact(Op::FSub, kind, &[sum, x]);
        let of_x = self.w.exact(Op::FSub, kind, &[sum, of_y]);
        let lost_y = self.w.exact(Op::FSub, kind, &[y, of_y]);
        let lost_x = self.w.exact(Op::FSub, kind, &[x, of_x]);
        (sum, self.w.exact(Op::FAdd, kind, &[lost_x, lost_y]))
    }

    fn emit_int(&mut self, prim: Prim, dtype: DType, args: &[Word]) -> Word {
        let kind = register(dtype, self.traits);
        let signed = dtype.is_signed();
        let zero = self.w.constant(kind, 0);
        match (prim, args) {
            (Prim::Add, _) => self.w.op(Op::IAdd, kind, args),
            (Prim::Sub, _) => self.w.op(Op::ISub, kind, args),
            (Prim::Mul, _) => self.w.op(Op::IMul, kind, args),
            (Prim::And, _) => self.w.op(Op::BitwiseAnd, kind, args),
            (Prim::Or, _) => self.w.op(Op::BitwiseOr, kind, args),
            (Prim::Xor, _) => self.w.op(Op::BitwiseXor, kind, args),
            (Prim::Div | Prim::Rem, &[x, y]) => self.emit_division(prim, kind, signed, x, y),
            (Prim::Max | Prim::Min, &[x, y]) => {
                let less = self.compare(Prim::Lt, dtype, x, y);
                let (yes, no) = if prim == Prim::Min { (x, y) } else { (y, x) };
                self.w.select(kind, less, yes, no)
            }
            (Prim::Neg, &[x]) => self.w.op(Op::ISub, kind, &[zero, x]),
            (Prim::Abs, &[x]) if signed => {
                let negated = self.w.op(Op::ISub, kind, &[zero, x]);
                let is_negative = self.w.op(Op::SLessThan, Kind::Bool, &[x, zero]);
                self.w.select(kind, is_negative, negated, x)
            }
            (Prim::Abs, &[x]) => x,
            (Prim::Shl | Prim::Shr, &[x, y]) => {
                let bits = 8 * dtype.size_bytes() as u64;
                let (width, most) = (self.w.constant(kind, bits), self.w.constant(kind, bits - 1));
                let is_within = self.w.op(Op::ULessThan, Kind::Bool, &[y, width]);
                let by = self.w.select(kind, is_within, y, most);
                if prim == Prim::Shr && signed {
                    return self.w.op(Op::ShiftRightArithmetic, kind, &[x, by]);
                }
                let op = match prim {
                    Prim::Shl => Op::ShiftLeftLogical,
                    _ => Op::ShiftRightLogical,
                };
                let shifted = self.w.op(op, kind, &[x, by]);
                self.w.select(kind, is_within, shifted, zero)
            }
            (Prim::MulHi, _) => {
                let pair = self.w.pair();
                let product = self.w.typed(Op::UMulExtended, pair, args);
                self.w.extract(Kind::U32, product, 1)
            }
            _ => unreachable!("`{}` of {} integers", prim.name(), args.len()),
        }
    }

    /// Division where nothing is undefined: by zero it gives 0, and the least value divided by -1 wraps.
    fn emit_division(&mut self, prim: Prim, kind: Kind, signed: bool, x: Word, y: Word) -> Word {
        let [zero, one] = [0, 1].map(|value| self.w.constant(kind, value));
        let by_zero = self.w.op(Op::IEqual, Kind::Bool, &[y, zero]);
        let safe = self.w.select(kind, by_zero, one, y);
        if !signed {
            let op = if prim == Prim::Div { Op::UDiv } else { Op::UMod };
            let result = self.w.op(op, kind, &[x, safe]);
            return self.w.select(kind, by_zero, zero, result);
        }
        let minus_one = self
            .w
            .constant(kind, if kind == Kind::U64 { u64::MAX } else { u32::MAX.into() });
        let by_minus_one = self.w.op(Op::IEqual, Kind::Bool, &[y, minus_one]);
        let safe = self.w.select(kind, by_minus_one, one, safe);
        let (op, of_minus_one) = match prim {
            Prim::Div => (Op::SDiv, self.w.op(Op::ISub, kind, &[zero, x])),
            _ => (Op::SRem, zero),
        };
        let result = self.w.op(op, kind, &[x, safe]);
        let result = self.w.select(kind, by_minus_one, of_minus_one, result);
        self.w.select(kind, by_zero, zero, result)
    }

    /// Division of an index by a positive constant, in unsigned arithmetic where it is known not to be negative.
    pub fn emit_division_by(&mut self, prim: Prim, kind: Kind, x: Word, by: i64, non_negative: bool) -> Word {
        let divisor = self.w.constant(kind, by as u64);
        let op = match (prim, non_negative) {
            (Prim::Div, true) => Op::UDiv,
            (Prim::Rem, true) => Op::UMod,
            (Prim::Div, false) => Op::SDiv,
            _ => Op::SRem,
        };
        self.w.op(op, kind, &[x, divisor])
    }

    fn emit_cast(&mut self, from: DType, to: DType, value: Word) -> Word {
        if from == to {
            return value;
        }
        if Kind::F16 == register(from, self.traits) {
            let wide = self.widen(from, value);
            return self.emit_cast(DType::F32, to, wide);
        }
        let kind = register(to, self.traits);
        if kind == Kind::F16 {
            let wide = self.emit_cast(from, DType::F32, value);
            return self.narrow(to, wide);
        }
        match (from, to) {
            (_, DType::Bool) if from.is_float() => {
                let zero = self.w.constant(register(from, self.traits), 0);
                self.w.op(Op::FUnordNotEqual, Kind::Bool, &[value, zero])
            }
            (_, DType::Bool) => {
                let zero = self.w.constant(register(from, self.traits), 0);
                self.w.op(Op::INotEqual, Kind::Bool, &[value, zero])
            }
            (DType::Bool, _) => self.number_of(kind, value),
            _ if from.is_float() && to.is_float() => {
                let value = match register(from, self.traits) == kind {
                    true => value,
                    false => self.w.op(Op::FConvert, kind, &[value]),
                };
                self.round(to, value)
            }
            _ if to.is_float() => {
                let value = self.int_to_float(from, kind, value);
                self.round(to, value)
            }
            _ if from.is_float() => self.float_to_int(register(from, self.traits), to, value),
            _ => {
                let value = self.resize(from, kind, value);
                self.wrap(to, value)
            }
        }
    }

    /// An integer in 32 or 64 bits: extended by its sign if it has one, or cut.
    pub fn resize(&mut self, from: DType, to: Kind, value: Word) -> Word {
        match (register(from, self.traits), to) {
            (Kind::U32, Kind::U64) if from.is_signed() => self.w.op(Op::SConvert, to, &[value]),
            (Kind::U32, Kind::U64) | (Kind::U64, Kind::U32) => self.w.op(Op::UConvert, to, &[value]),
            _ => value,
        }
    }

    /// A 64-bit integer is rounded to `f64` first, as [`Scalar`] does, where the device has it.
    fn int_to_float(&mut self, from: DType, to: Kind, value: Word) -> Word {
        let op = if from.is_signed() {
            Op::ConvertSToF
        } else {
            Op::ConvertUToF
        };
        if register(from, self.traits) == Kind::U64 && to == Kind::F32 && self.traits.float64 {
            let wide = self.w.op(op, Kind::F64, &[value]);
            return self.w.op(Op::FConvert, Kind::F32, &[wide]);
        }
        self.w.op(op, to, &[value])
    }

    /// Truncates and saturates; NaN gives 0. What is converted is always within the range, where alone conversion is defined.
    fn float_to_int(&mut self, from: Kind, to: DType, value: Word) -> Word {
        let kind = register(to, self.traits);
        let (low, high) = to.int_range().expect("an integer type");
        let mut float = |value: f64| match from {
            Kind::F64 => self.w.constant(from, value.to_bits()),
            _ => self.w.f32(value as f32),
        };
        // Both powers of two, or zero, so exact in either type; conversion truncates what lies less than one below `low`.
        let (least, beyond) = (float(low as f64), float((high + 1) as f64));
        let zero_float = float(0.0);
        let is_low = self.w.op(Op::FOrdLessThan, Kind::Bool, &[value, least]);
        let is_high = self.w.op(Op::FOrdGreaterThanEqual, Kind::Bool, &[value, beyond]);
        let is_number = self.w.op(Op::FOrdEqual, Kind::Bool, &[value, value]);
        let is_outside = self.w.op(Op::LogicalOr, Kind::Bool, &[is_low, is_high]);
        let safe = self.w.select(from, is_outside, zero_float, value);
        let safe = self.w.select(from, is_number, safe, zero_float);
        let op = if to.is_signed() {
            Op::ConvertFToS
        } else {
            Op::ConvertFToU
        };
        let inside = self.w.op(op, kind, &[safe]);
        let [low, high] = [low, high].map(|value| {
            let mask = if kind == Kind::U64 { u64::MAX } else { u32::MAX.into() };
            self.w.constant(kind, value as u64 & mask)
        });
        let result = self.w.select(kind, is_low, low, inside);
        self.w.select(kind, is_high, high, result)
    }

    fn emit_bitcast(&mut self, from: DType, to: DType, value: Word) -> Word {
        let bits = match from {
            DType::Bool => self.number_of(Kind::U32, value),
            DType::F16 | DType::BF16 => {
                let wide = self.widen(from, value);
                self.narrow_to_half(from, wide)
            }
            DType::F32 => self.w.bitcast(Kind::U32, value),
            DType::F64 => self.w.bitcast(Kind::U64, value),
            _ => value,
        };
        match to {
            DType::Bool => self.is_nonzero(bits),
            DType::F16 | DType::BF16 => {
                let bits = self.and(bits, 0xffff);
                let wide = self.widen_half(to, bits);
                self.narrow(to, wide)
            }
            DType::F32 => self.w.bitcast(Kind::F32, bits),
            DType::F64 => self.w.bitcast(Kind::F64, bits),
            _ => self.wrap(to, bits),
        }
    }
}
