//! Conversions between element types: of the value, and of the bits.

use super::{MapDef, Types};
use crate::dtype::{DType, Scalar};

/// The rows: one for each type converted to.
pub static TABLE: &[&MapDef] = &[
    &TO_BOOL,
    &TO_U8,
    &TO_U16,
    &TO_U32,
    &TO_U64,
    &TO_I8,
    &TO_I16,
    &TO_I32,
    &TO_I64,
    &TO_F16,
    &TO_BF16,
    &TO_F32,
    &TO_F64,
    &BITS_TO_U8,
    &BITS_TO_U16,
    &BITS_TO_U32,
    &BITS_TO_U64,
    &BITS_TO_I8,
    &BITS_TO_I16,
    &BITS_TO_I32,
    &BITS_TO_I64,
    &BITS_TO_F16,
    &BITS_TO_BF16,
    &BITS_TO_F32,
    &BITS_TO_F64,
];

/// The row that converts to a type.
pub fn to(dtype: DType) -> &'static MapDef {
    find(Types::To(dtype)).expect("a row for every type")
}

/// The row that reads bits as a type; `None` for `bool`, which not all bits are.
pub fn bits_to(dtype: DType) -> Option<&'static MapDef> {
    find(Types::BitsTo(dtype))
}

fn find(types: Types) -> Option<&'static MapDef> {
    TABLE.iter().copied().find(|def| def.types == types)
}

/// Defines the row that converts to a type.
macro_rules! to {
    ($row:ident, $name:literal, $dtype:ident) => {
        #[doc = concat!("Converts: `", $name, "`.")]
        pub static $row: MapDef = MapDef {
            name: $name,
            doc: "a converted: floats to integers truncate and saturate, NaN to 0; integers wrap; bool asks whether a is not 0",
            arity: 1,
            types: Types::To(DType::$dtype),
            eval: |x, _| x[0].cast(DType::$dtype),
            body: |x| x[0].cast(DType::$dtype),
            grad: |v| {
                let from = v.args[0].dtype();
                let smooth = from.is_float() && v.seed.dtype().is_float();
                vec![smooth.then(|| v.seed.cast(from))]
            },
            laws: &[],
            domain: &[(-300.0, 300.0)],
            ulps: 0,
        };
    };
}
to!(TO_BOOL, "to_bool", Bool);
to!(TO_U8, "to_u8", U8);
to!(TO_U16, "to_u16", U16);
to!(TO_U32, "to_u32", U32);
to!(TO_U64, "to_u64", U64);
to!(TO_I8, "to_i8", I8);
to!(TO_I16, "to_i16", I16);
to!(TO_I32, "to_i32", I32);
to!(TO_I64, "to_i64", I64);
to!(TO_F16, "to_f16", F16);
to!(TO_BF16, "to_bf16", BF16);
to!(TO_F32, "to_f32", F32);
to!(TO_F64, "to_f64", F64);

/// Defines the row that reads bits as a type.
macro_rules! bits_to {
    ($row:ident, $name:literal, $dtype:ident) => {
        #[doc = concat!("Reads the bits of a type of the same size: `", $name, "`.")]
        pub static $row: MapDef = MapDef {
            name: $name,
            doc: "the bits of a, of another type of the same size",
            arity: 1,
            types: Types::BitsTo(DType::$dtype),
            eval: |x, from| Scalar::from_bits(x[0].to_bits(from), DType::$dtype),
            body: |x| x[0].bitcast(DType::$dtype),
            grad: |_| vec![None],
            laws: &[],
            domain: &[(-300.0, 300.0)],
            ulps: 0,
        };
    };
}
bits_to!(BITS_TO_U8, "bits_to_u8", U8);
bits_to!(BITS_TO_U16, "bits_to_u16", U16);
bits_to!(BITS_TO_U32, "bits_to_u32", U32);
bits_to!(BITS_TO_U64, "bits_to_u64", U64);
bits_to!(BITS_TO_I8, "bits_to_i8", I8);
bits_to!(BITS_TO_I16, "bits_to_i16", I16);
bits_to!(BITS_TO_I32, "bits_to_i32", I32);
bits_to!(BITS_TO_I64, "bits_to_i64", I64);
bits_to!(BITS_TO_F16, "bits_to_f16", F16);
bits_to!(BITS_TO_BF16, "bits_to_bf16", BF16);
bits_to!(BITS_TO_F32, "bits_to_f32", F32);
bits_to!(BITS_TO_F64, "bits_to_f64", F64);
