//! Element types, and the exact scalar that the oracle and constant folding compute with.

use std::fmt;

/// The type of one element.
///
/// `F16` and `BF16` are storage types: arithmetic on them is done in `F32` and rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the variants are their own documentation")]
pub enum DType {
    Bool,
    U8,
    U16,
    U32,
    U64,
    I8,
    I16,
    I32,
    I64,
    F16,
    BF16,
    F32,
    F64,
}

impl DType {
    /// Every element type, in order.
    pub const ALL: [DType; 13] = {
        use DType::*;
        [Bool, U8, U16, U32, U64, I8, I16, I32, I64, F16, BF16, F32, F64]
    };

    /// The name in the text form, e.g. `f32`.
    pub fn name(self) -> &'static str {
        match self {
            DType::Bool => "bool",
            DType::U8 => "u8",
            DType::U16 => "u16",
            DType::U32 => "u32",
            DType::U64 => "u64",
            DType::I8 => "i8",
            DType::I16 => "i16",
            DType::I32 => "i32",
            DType::I64 => "i64",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            DType::F32 => "f32",
            DType::F64 => "f64",
        }
    }

    /// The type of that name.
    pub fn from_name(name: &str) -> Option<DType> {
        DType::ALL.into_iter().find(|dtype| dtype.name() == name)
    }

    /// Bytes that one element takes in memory; a `bool` takes one, 0 or 1.
    pub const fn size_bytes(self) -> usize {
        match self {
            DType::Bool | DType::U8 | DType::I8 => 1,
            DType::U16 | DType::I16 | DType::F16 | DType::BF16 => 2,
            DType::U32 | DType::I32 | DType::F32 => 4,
            DType::U64 | DType::I64 | DType::F64 => 8,
        }
    }

    /// `f16`, `bf16`, `f32` or `f64`.
    pub fn is_float(self) -> bool {
        matches!(self, DType::F16 | DType::BF16 | DType::F32 | DType::F64)
    }

    /// A signed or unsigned integer; `bool` is not one.
    pub fn is_int(self) -> bool {
        !self.is_float() && self != DType::Bool
    }

    /// A float or a signed integer.
    pub fn is_signed(self) -> bool {
        self.is_float() || matches!(self, DType::I8 | DType::I16 | DType::I32 | DType::I64)
    }

    /// The least and greatest value of an integer type; `None` for floats and `bool`.
    pub fn int_range(self) -> Option<(i128, i128)> {
        let bits = 8 * self.size_bytes() as u32;
        match (self.is_int(), self.is_signed()) {
            (false, _) => None,
            (true, true) => Some((-(1 << (bits - 1)), (1 << (bits - 1)) - 1)),
            (true, false) => Some((0, (1 << bits) - 1)),
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One element, held exactly: the oracle computes on these and rounds each result to its node's type.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs, reason = "the variants are their own documentation")]
pub enum Scalar {
    Float(f64),
    Int(i128),
    Bool(bool),
}

impl Scalar {
    /// Zero of a type.
    pub fn zero(dtype: DType) -> Scalar {
        Scalar::from_f64(0.0, dtype)
    }

    /// One of a type.
    pub fn one(dtype: DType) -> Scalar {
        Scalar::from_f64(1.0, dtype)
    }

    /// The value as `dtype` holds it: rounded to nearest for floats, truncated towards zero and saturated for
    /// integers (NaN becomes 0), non-zero for `bool`.
    pub fn from_f64(value: f64, dtype: DType) -> Scalar {
        Scalar::Float(value).cast(dtype)
    }

    /// Converts between kinds: float to integer truncates and saturates (NaN gives 0), integer to integer wraps,
    /// anything to `bool` asks whether it differs from zero.
    pub fn cast(self, dtype: DType) -> Scalar {
        if dtype == DType::Bool {
            return Scalar::Bool(self.is_nonzero());
        }
        if dtype.is_float() {
            return Scalar::Float(self.as_f64()).round(dtype);
        }
        match self {
            Scalar::Float(value) => {
                let (low, high) = dtype.int_range().expect("an integer type");
                Scalar::Int((value as i128).clamp(low, high))
            }
            Scalar::Int(_) | Scalar::Bool(_) => Scalar::Int(self.as_i128()).round(dtype),
        }
    }

    /// The nearest value that `dtype` can hold, of the same kind: floats round to nearest even (`F16` and `BF16` from the `F32` next to
    /// the value, as machines do), integers wrap.
    pub fn round(self, dtype: DType) -> Scalar {
        match self {
            Scalar::Float(value) => Scalar::Float(match dtype {
                DType::F16 => half::f16::from_f32(value as f32).to_f64(),
                DType::BF16 => half::bf16::from_f32(value as f32).to_f64(),
                DType::F32 => f64::from(value as f32),
                _ => value,
            }),
            Scalar::Int(value) => Scalar::Int(match dtype.int_range() {
                Some((low, high)) => low + (value - low).rem_euclid(high - low + 1),
                None => value,
            }),
            Scalar::Bool(_) => self,
        }
    }

    /// The value as a float; `true` is 1.
    pub fn as_f64(self) -> f64 {
        match self {
            Scalar::Float(value) => value,
            Scalar::Int(value) => value as f64,
            Scalar::Bool(value) => f64::from(u8::from(value)),
        }
    }

    /// The value as an integer, floats truncated; `true` is 1.
    pub fn as_i128(self) -> i128 {
        match self {
            Scalar::Float(value) => value as i128,
            Scalar::Int(value) => value,
            Scalar::Bool(value) => i128::from(value),
        }
    }

    /// Whether the value differs from zero (NaN does).
    pub fn is_nonzero(self) -> bool {
        match self {
            Scalar::Float(value) => value != 0.0,
            Scalar::Int(value) => value != 0,
            Scalar::Bool(value) => value,
        }
    }

    /// The bits of the value in memory as `dtype`, in the low end of the result.
    pub fn to_bits(self, dtype: DType) -> u64 {
        match dtype {
            DType::Bool => u64::from(self.is_nonzero()),
            DType::F16 => u64::from(half::f16::from_f32(self.as_f64() as f32).to_bits()),
            DType::BF16 => u64::from(half::bf16::from_f32(self.as_f64() as f32).to_bits()),
            DType::F32 => u64::from((self.as_f64() as f32).to_bits()),
            DType::F64 => self.as_f64().to_bits(),
            _ => {
                let mask = u64::MAX >> (64 - 8 * dtype.size_bytes());
                self.cast(dtype).as_i128() as u64 & mask
            }
        }
    }

    /// The value that these bits hold as `dtype`; inverse of [`Scalar::to_bits`].
    pub fn from_bits(bits: u64, dtype: DType) -> Scalar {
        match dtype {
            DType::Bool => Scalar::Bool(bits != 0),
            DType::F16 => Scalar::Float(half::f16::from_bits(bits as u16).to_f64()),
            DType::BF16 => Scalar::Float(half::bf16::from_bits(bits as u16).to_f64()),
            DType::F32 => Scalar::Float(f64::from(f32::from_bits(bits as u32))),
            DType::F64 => Scalar::Float(f64::from_bits(bits)),
            _ => Scalar::Int(i128::from(bits)).round(dtype),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_is_found_by_its_name() {
        for dtype in DType::ALL {
            assert_eq!(DType::from_name(dtype.name()), Some(dtype));
        }
    }

    #[test]
    fn bits_round_trip() {
        for dtype in DType::ALL {
            for value in [0.0, 1.0, 2.0, 100.0, -3.0, 0.5] {
                let scalar = Scalar::from_f64(value, dtype);
                assert_eq!(
                    Scalar::from_bits(scalar.to_bits(dtype), dtype),
                    scalar,
                    "{value} as {dtype}"
                );
            }
        }
    }

    #[test]
    fn integers_wrap_and_floats_saturate() {
        assert_eq!(Scalar::Int(300).cast(DType::U8), Scalar::Int(44));
        assert_eq!(Scalar::Int(200).cast(DType::I8), Scalar::Int(-56));
        assert_eq!(Scalar::Float(300.7).cast(DType::U8), Scalar::Int(255));
        assert_eq!(Scalar::Float(f64::NAN).cast(DType::I32), Scalar::Int(0));
    }
}
