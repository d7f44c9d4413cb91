//! Tensors by name, as Hugging Face's safetensors format stores them.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use ::safetensors::tensor::{Dtype, SafeTensors, TensorView};
use netloom_ir::tensor::Keeper;
use netloom_ir::{DType, Tensor};

use super::write_whole;
use crate::cpu::mapped::Mapped;
use crate::error::Error;

/// Saves tensors as safetensors, sorted by name as that format does; nothing but names, types, shapes and elements is in the file.
///
/// # Errors
/// If the file cannot be written.
pub fn save(path: &Path, tensors: &[(String, Tensor)]) -> Result<(), Error> {
    write(path, tensors, None)
}

/// Saves tensors as [`save`] does, with a note that [`note`] reads.
///
/// # Errors
/// If the file cannot be written.
pub fn save_with_note(path: &Path, tensors: &[(String, Tensor)], name: &str, note: &str) -> Result<(), Error> {
    write(path, tensors, Some(HashMap::from([(name.to_owned(), note.to_owned())])))
}

/// The note of that name in a safetensors file, if there is one.
///
/// # Errors
/// If the file cannot be read or is not well formed.
pub fn note(path: &Path, name: &str) -> Result<Option<String>, Error> {
    let bytes = Mapped::open(path).map_err(|reason| Error::file(path, reason))?;
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|reason| Error::file(path, reason))?;
    let notes = header.metadata().as_ref();
    Ok(notes.and_then(|notes| notes.get(name).cloned()))
}

fn write(path: &Path, tensors: &[(String, Tensor)], notes: Option<HashMap<String, String>>) -> Result<(), Error> {
    let views = tensors
        .iter()
        .map(|(name, tensor)| {
            let view = TensorView::new(stored_dtype(tensor.dtype()), tensor.shape().to_vec(), tensor.bytes());
            view.map(|view| (name.as_str(), view))
                .map_err(|reason| Error::file(path, reason))
        })
        .collect::<Result<Vec<_>, Error>>()?;
    let bytes = ::safetensors::serialize(views, notes).map_err(|reason| Error::file(path, reason))?;
    write_whole(path, |file| file.write_all(&bytes))
}

/// The tensors of a safetensors file, in order of name. Their elements stay in the file until they are used.
///
/// # Errors
/// If the file cannot be read or is not well formed, or holds a type that netloom has not.
pub fn load(path: &Path) -> Result<Vec<(String, Tensor)>, Error> {
    let file = Mapped::open(path).map_err(|reason| Error::file(path, reason))?;
    let tensor = |(dtype, shape, data): (DType, &[usize], &[u8])| {
        let part = file.part(data).expect("the data are the file's");
        Tensor::shared(dtype, shape, Arc::new(part))
    };
    let tensors = read(&file, tensor).map_err(|reason| Error::file(path, reason));
    // What is read from here on has mappings of its own.
    file.leave(0..file.len());
    tensors
}

/// The tensors in the bytes of a safetensors file, in order of name.
///
/// # Errors
/// What is wrong with them.
pub fn parse(bytes: &[u8]) -> Result<Vec<(String, Tensor)>, String> {
    read(bytes, |(dtype, shape, data)| {
        Tensor::from_bytes(dtype, shape, data.to_vec())
    })
}

fn read(bytes: &[u8], tensor: impl Fn((DType, &[usize], &[u8])) -> Tensor) -> Result<Vec<(String, Tensor)>, String> {
    let file = SafeTensors::deserialize(bytes).map_err(|reason| format!("not a valid safetensors file: {reason}"))?;
    let mut tensors = file
        .tensors()
        .into_iter()
        .map(|(name, view)| {
            let dtype = loaded_dtype(view.dtype())
                .ok_or_else(|| format!("`{name}` has the type {:?}, which netloom has not", view.dtype()))?;
            Ok((name, tensor((dtype, view.shape(), view.data()))))
        })
        .collect::<Result<Vec<_>, String>>()?;
    tensors.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(tensors)
}

fn stored_dtype(dtype: DType) -> Dtype {
    match dtype {
        DType::Bool => Dtype::BOOL,
        DType::U8 => Dtype::U8,
        DType::U16 => Dtype::U16,
        DType::U32 => Dtype::U32,
        DType::U64 => Dtype::U64,
        DType::I8 => Dtype::I8,
        DType::I16 => Dtype::I16,
        DType::I32 => Dtype::I32,
        DType::I64 => Dtype::I64,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::F32 => Dtype::F32,
        DType::F64 => Dtype::F64,
    }
}

fn loaded_dtype(dtype: Dtype) -> Option<DType> {
    DType::ALL.into_iter().find(|&ours| stored_dtype(ours) == dtype)
}
