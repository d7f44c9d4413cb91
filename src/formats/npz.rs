//! Arrays by name, as NumPy's `savez` stores them.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use ndarray::{ArrayD, IxDyn};
use ndarray_npy::{NpzWriter, ReadNpyExt, WriteNpzError};
use netloom_ir::{DType, Tensor};
use zip::ZipArchive;

use super::write_whole;
use crate::error::Error;
use crate::memory;

/// Expands to a `match` on an element type with `$code` for each that NumPy shares with Rust, `$T` being the Rust type.
macro_rules! by_dtype {
    ($dtype:expr, $T:ident => $code:expr, other => $other:expr) => {
        by_dtype!(@ $dtype, $T, $code, $other,
            U8 u8, U16 u16, U32 u32, U64 u64, I8 i8, I16 i16, I32 i32, I64 i64, F32 f32, F64 f64)
    };
    (@ $dtype:expr, $T:ident, $code:expr, $other:expr, $($variant:ident $rust:ty),+) => {
        match $dtype {
            $(DType::$variant => { type $T = $rust; $code })+
            _ => $other,
        }
    };
}

/// Writes arrays by name; `f16` and `bf16` become `f32`.
///
/// # Errors
/// If the file cannot be written.
pub fn save(path: &Path, arrays: &[(String, Tensor)]) -> Result<(), Error> {
    write_whole(path, |file| {
        let mut archive = NpzWriter::new(std::io::BufWriter::new(file));
        for (name, tensor) in arrays {
            add(&mut archive, name, tensor).map_err(std::io::Error::other)?;
        }
        archive.finish().map_err(std::io::Error::other)?;
        Ok(())
    })
}

type Archive<'a> = NpzWriter<std::io::BufWriter<&'a mut File>>;

fn add(archive: &mut Archive<'_>, name: &str, tensor: &Tensor) -> Result<(), WriteNpzError> {
    let shape = IxDyn(tensor.shape());
    let fits = "a tensor has as many elements as its shape";
    by_dtype!(tensor.dtype(), T => {
        let elements = tensor.bytes().chunks_exact(size_of::<T>());
        let elements = elements.map(|bytes| T::from_le_bytes(bytes.try_into().expect("chunks of that size"))).collect();
        archive.add_array(name, &ArrayD::<T>::from_shape_vec(shape, elements).expect(fits))
    }, other => match tensor.dtype() {
        DType::Bool => {
            let elements = tensor.bytes().iter().map(|&byte| byte != 0).collect();
            archive.add_array(name, &ArrayD::<bool>::from_shape_vec(shape, elements).expect(fits))
        }
        _ => archive.add_array(name, &ArrayD::from_shape_vec(shape, tensor.to_f32()).expect(fits)),
    })
}

/// Reads every array, in the file's order.
///
/// # Errors
/// If the file cannot be read, is not well formed, or holds a type that netloom has not.
pub fn load(path: &Path) -> Result<Vec<(String, Tensor)>, Error> {
    let file = File::open(path).map_err(|reason| Error::file(path, reason))?;
    parse(file).map_err(|reason| Error::file(path, reason))
}

/// The same from a file's bytes.
///
/// # Errors
/// What is wrong with them.
pub fn parse(mut file: impl Read + Seek) -> Result<Vec<(String, Tensor)>, String> {
    let length = file.seek(SeekFrom::End(0)).map_err(|reason| reason.to_string())?;
    let mut archive = ZipArchive::new(file).map_err(|reason| format!("not a valid .npz file: {reason}"))?;
    (0..archive.len())
        .map(|number| {
            let mut member = archive.by_index(number).map_err(|reason| reason.to_string())?;
            let name = member.name().trim_end_matches(".npy").to_owned();
            let claimed = member.size();
            let most = claimed.min(member.compressed_size().min(length).saturating_mul(MOST_PACKED));
            memory::check(usize::try_from(most).unwrap_or(usize::MAX))
                .map_err(|reason| format!("array `{name}`: {reason}"))?;
            let mut bytes = Vec::with_capacity(most.min(length) as usize);
            (member.by_ref().take(claimed))
                .read_to_end(&mut bytes)
                .map_err(|reason| reason.to_string())
                .and_then(|_| read(&bytes))
                .map(|tensor| (name.clone(), tensor))
                .map_err(|reason| format!("array `{name}`: {reason}"))
        })
        .collect()
}

/// Reads the array of a `.npy` file.
///
/// # Errors
/// If the file cannot be read, is not well formed, or holds a type that netloom has not.
pub fn load_array(path: &Path) -> Result<Tensor, Error> {
    let bytes = std::fs::read(path).map_err(|reason| Error::file(path, reason))?;
    read(&bytes).map_err(|reason| Error::file(path, reason))
}

/// One array, of the type that the file's header names.
fn read(file: &[u8]) -> Result<Tensor, String> {
    let header = String::from_utf8_lossy(&file[..file.len().min(MOST_HEADER_BYTES)]);
    check_length(&header, file.len())?;
    let descriptor = value_of(&header, "'descr'", '\'', '\'').unwrap_or_default();
    let code = descriptor.trim_start_matches(['<', '>', '|', '=']);
    let dtype = DType::ALL.into_iter().find(|&dtype| numpy_code(dtype) == Some(code));
    let dtype = dtype.ok_or_else(|| format!("its elements are of type `{descriptor}`, which netloom does not read"))?;
    let tensor = by_dtype!(dtype, T => {
        ArrayD::<T>::read_npy(file).map(|array| {
            let array = array.as_standard_layout();
            let elements = array.as_slice().expect("the standard layout is contiguous");
            let mut bytes = vec![0; size_of_val(elements)];
            for (place, element) in bytes.chunks_exact_mut(size_of::<T>()).zip(elements) {
                place.copy_from_slice(&element.to_le_bytes());
            }
            Tensor::from_bytes(dtype, array.shape(), bytes)
        })
    }, other => ArrayD::<bool>::read_npy(file).map(|array| {
        Tensor::from_bytes(dtype, array.shape(), array.iter().map(|&x| u8::from(x)).collect())
    }));
    tensor.map_err(|reason| reason.to_string())
}

/// What NumPy calls a type, its order of bytes aside.
fn numpy_code(dtype: DType) -> Option<&'static str> {
    Some(match dtype {
        DType::Bool => "b1",
        DType::U8 => "u1",
        DType::U16 => "u2",
        DType::U32 => "u4",
        DType::U64 => "u8",
        DType::I8 => "i1",
        DType::I16 => "i2",
        DType::I32 => "i4",
        DType::I64 => "i8",
        DType::F32 => "f4",
        DType::F64 => "f8",
        DType::F16 | DType::BF16 => return None,
    })
}

/// What stands between two letters after a key of the header.
fn value_of<'a>(header: &'a str, key: &str, open: char, close: char) -> Option<&'a str> {
    let (_, rest) = header.split_once(key)?;
    let (value, _) = rest.split_once(open)?.1.split_once(close)?;
    Some(value)
}

/// Whether there is a byte at least for each element that the header claims: the reader takes memory for what is claimed.
fn check_length(header: &str, file_bytes: usize) -> Result<(), String> {
    let Some(extents) = value_of(header, "'shape'", '(', ')') else {
        return Err("its header names no shape".to_owned());
    };
    let mut extents = extents.split(',').map(str::trim).filter(|extent| !extent.is_empty());
    let count = extents.try_fold(1usize, |count, extent| {
        count.checked_mul(extent.trim_end_matches('L').parse().ok()?)
    });
    match count {
        Some(count) if count <= file_bytes => Ok(()),
        _ => Err(format!(
            "its header claims more elements than the {file_bytes} bytes of the array can hold"
        )),
    }
}

/// A byte of the archive holds no more bytes than these: deflate's bound. What a member claims beyond that is not so.
const MOST_PACKED: u64 = 1032;

/// A header names a type and a shape; NumPy's own reader refuses longer ones.
const MOST_HEADER_BYTES: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("arrays.npz");
        let arrays: Vec<(String, Tensor)> = DType::ALL
            .into_iter()
            .filter(|dtype| !matches!(dtype, DType::F16 | DType::BF16))
            .map(|dtype| {
                let elements = [0, 1, 1].map(|x| netloom_ir::Scalar::Int(x).cast(dtype));
                (dtype.name().to_owned(), Tensor::from_scalars(dtype, [3, 1], elements))
            })
            .collect();
        save(&path, &arrays).unwrap();
        assert_eq!(load(&path).unwrap(), arrays);
    }

    #[test]
    fn a_broken_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("broken.npz");
        std::fs::write(&path, b"PK nothing").unwrap();
        let message = load(&path).unwrap_err().to_string();
        assert!(message.contains("broken.npz: not a valid .npz file"), "{message}");
    }
}
