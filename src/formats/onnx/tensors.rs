//! ONNX's tensors to ours and back.

use std::ops::Range;
use std::path::{Component, Path};
use std::sync::Arc;

use netloom_ir::tensor::Keeper;
use netloom_ir::{DType, Scalar, Tensor, Type};

use bytes::Bytes;

use crate::cpu::mapped::Mapped;

use super::proto::tensor_proto::{DataLocation, DataType};
use super::proto::{StringStringEntryProto, TensorProto};

/// Each element type that both have.
const TYPES: &[(DataType, DType)] = &[
    (DataType::Float, DType::F32),
    (DataType::Double, DType::F64),
    (DataType::Float16, DType::F16),
    (DataType::Bfloat16, DType::BF16),
    (DataType::Bool, DType::Bool),
    (DataType::Uint8, DType::U8),
    (DataType::Uint16, DType::U16),
    (DataType::Uint32, DType::U32),
    (DataType::Uint64, DType::U64),
    (DataType::Int8, DType::I8),
    (DataType::Int16, DType::I16),
    (DataType::Int32, DType::I32),
    (DataType::Int64, DType::I64),
];

/// Our element type for ONNX's number of one.
///
/// # Errors
/// If netloom has no such type.
pub fn dtype(number: i32) -> Result<DType, String> {
    let data_type =
        DataType::try_from(number).map_err(|_| format!("there is no element type with the number {number}"))?;
    let row = TYPES.iter().find(|(theirs, _)| *theirs == data_type);
    row.map(|(_, ours)| *ours)
        .ok_or_else(|| format!("netloom has no element type {}", data_type.as_str_name()))
}

/// ONNX's number of our element type.
pub fn number(dtype: DType) -> i32 {
    let row = TYPES.iter().find(|(_, ours)| *ours == dtype);
    row.expect("ONNX has all of our types").0 as i32
}

/// A tensor's elements; those in other files are read from `folder`, and from nowhere else.
///
/// # Errors
/// What is wrong with it.
pub fn tensor(proto: &TensorProto, folder: Option<&Path>) -> Result<Tensor, String> {
    elements(proto, proto.raw_data.clone(), folder, None)
}

/// The same, but takes the raw bytes over; they may lie in this file.
///
/// # Errors
/// What is wrong with it.
pub fn take(proto: &mut TensorProto, folder: Option<&Path>, file: Option<&Mapped>) -> Result<Tensor, String> {
    let raw = proto.raw_data.take();
    elements(proto, raw, folder, file)
}

fn elements(
    proto: &TensorProto,
    raw: Option<Bytes>,
    folder: Option<&Path>,
    file: Option<&Mapped>,
) -> Result<Tensor, String> {
    let dtype = dtype(proto.data_type())?;
    let shape = extents(&proto.dims)?;
    let ty = Type::new(dtype, shape.clone());
    ty.check()?;
    if proto.segment.is_some() {
        return Err("it is stored in segments, which is not supported".to_owned());
    }
    let count = ty.count();
    let wanted = count * dtype.size_bytes();
    let bytes: Arc<dyn Keeper> = if proto.data_location() == DataLocation::External {
        Arc::new(external(&proto.external_data, wanted, folder)?)
    } else if let Some(raw) = raw {
        match file.and_then(|file| file.part(&raw)) {
            Some(part) => Arc::new(part),
            None => Arc::new(Raw(raw)),
        }
    } else {
        return typed(proto, &ty);
    };
    let found = bytes.bytes();
    if found.len() != wanted {
        return Err(format!("{ty} has {wanted} bytes, found {}", found.len()));
    }
    if dtype == DType::Bool {
        // Others may write any byte for true.
        let bytes = found.iter().map(|&byte| u8::from(byte != 0)).collect();
        return Ok(Tensor::from_bytes(dtype, shape, bytes));
    }
    Ok(Tensor::shared(dtype, shape, bytes))
}

/// All bytes of a file.
pub(super) struct Whole(pub Arc<Mapped>);

impl AsRef<[u8]> for Whole {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Bytes of a model that is in memory.
struct Raw(Bytes);

impl Keeper for Raw {
    fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn leave(&self, _: Range<usize>) {}
}

/// The elements in the field that is for their type.
fn typed(proto: &TensorProto, ty: &Type) -> Result<Tensor, String> {
    let floats = |values: &[f32]| -> Vec<Scalar> { values.iter().map(|&x| Scalar::Float(f64::from(x))).collect() };
    let elements: Vec<Scalar> = match ty.dtype {
        DType::F32 => floats(&proto.float_data),
        DType::F64 => proto.double_data.iter().map(|&x| Scalar::Float(x)).collect(),
        DType::I64 => proto.int64_data.iter().map(|&x| Scalar::Int(x.into())).collect(),
        DType::U32 | DType::U64 => proto.uint64_data.iter().map(|&x| Scalar::Int(x.into())).collect(),
        // The bits of halves.
        DType::F16 | DType::BF16 => (proto.int32_data.iter())
            .map(|&x| Scalar::from_bits(x as u64 & 0xffff, ty.dtype))
            .collect(),
        DType::Bool => proto.int32_data.iter().map(|&x| Scalar::Bool(x != 0)).collect(),
        DType::U8 | DType::U16 | DType::I8 | DType::I16 | DType::I32 => (proto.int32_data.iter())
            .map(|&x| Scalar::Int(x.into()).cast(ty.dtype))
            .collect(),
    };
    if elements.len() != ty.count() {
        return Err(format!("{ty} has {} elements, found {}", ty.count(), elements.len()));
    }
    Ok(Tensor::from_scalars(ty.dtype, ty.shape.clone(), elements))
}

/// Elements in a file beside the model.
fn external(entries: &[StringStringEntryProto], wanted: usize, folder: Option<&Path>) -> Result<Mapped, String> {
    let entry = |key: &str| {
        let found = entries.iter().find(|entry| entry.key() == key);
        found.map(|entry| entry.value().to_owned())
    };
    let number = |key: &str| -> Result<Option<u64>, String> {
        let parse = |text: String| text.parse().map_err(|_| format!("`{key}` is no number: {text}"));
        entry(key).map(parse).transpose()
    };
    let location = entry("location").ok_or("its elements are in a file that is not named")?;
    let folder = folder.ok_or_else(|| format!("its elements are in `{location}`, and the model has no folder"))?;
    let relative = Path::new(&location);
    if !relative.components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(format!("its elements are outside the model's folder, in `{location}`"));
    }
    let offset = number("offset")?.unwrap_or(0);
    let length = number("length")?.unwrap_or(wanted as u64);
    if length != wanted as u64 {
        return Err(format!("it has {wanted} bytes, `{location}` holds {length}"));
    }
    let open = || -> std::io::Result<Mapped> {
        // A link could lead out of the folder.
        let path = folder.join(relative).canonicalize()?;
        if !path.starts_with(folder.canonicalize()?) {
            return Err(std::io::Error::other("it leads outside the model's folder"));
        }
        Mapped::open_part(&path, offset, length)
    };
    open().map_err(|reason| format!("reading `{location}`: {reason}"))
}

/// Extents, none of them negative.
pub fn extents(dims: &[i64]) -> Result<Vec<usize>, String> {
    let extent = |&dim: &i64| usize::try_from(dim).map_err(|_| format!("the extent {dim} is negative"));
    dims.iter().map(extent).collect()
}

/// A tensor as ONNX stores it, its elements as raw bytes.
pub fn to_proto(name: &str, tensor: &Tensor) -> TensorProto {
    TensorProto {
        name: Some(name.to_owned()),
        dims: tensor.shape().iter().map(|&extent| extent as i64).collect(),
        data_type: Some(number(tensor.dtype())),
        raw_data: Some(Bytes::copy_from_slice(tensor.bytes())),
        ..TensorProto::default()
    }
}
