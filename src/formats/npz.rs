//! Arrays by name, as NumPy's `savez` stores them.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;

use ndarray::{ArrayD, IxDyn};
use ndarray_npy::{NpzWriter, ReadNpyError, ReadNpyExt, WriteNpzError};
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
pub fn parse(file: impl Read + Seek) -> Result<Vec<(String, Tensor)>, String> {
    let mut archive = ZipArchive::new(file).map_err(|reason| format!("not a valid .npz file: {reason}"))?;
    (0..archive.len())
        .map(|number| {
            let mut member = archive.by_index(number).map_err(|reason| reason.to_string())?;
            let name = member.name().trim_end_matches(".npy").to_owned();
            let claimed = member.size();
            let most = claimed.min(member.compressed_size().saturating_mul(MOST_PACKED));
            let mut bytes = Vec::new();
            memory::check(usize::try_from(most).unwrap_or(usize::MAX))
                .map_err(|reason| format!("array `{name}`: {reason}"))?;
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

/// One array: of the first type that the file's header agrees with.
fn read(file: &[u8]) -> Result<Tensor, String> {
    check_length(file)?;
    let mut refused = String::new();
    for dtype in DType::ALL {
        let found = by_dtype!(dtype, T => {
            ArrayD::<T>::read_npy(file).map(|array| {
                let bytes = array.iter().flat_map(|x| x.to_le_bytes()).collect();
                Tensor::from_bytes(dtype, array.shape(), bytes)
            })
        }, other => match dtype {
            DType::Bool => ArrayD::<bool>::read_npy(file).map(|array| {
                Tensor::from_bytes(dtype, array.shape(), array.iter().map(|&x| u8::from(x)).collect())
            }),
            _ => continue,
        });
        match found {
            Ok(tensor) => return Ok(tensor),
            Err(reason @ ReadNpyError::WrongDescriptor(_)) => refused = reason.to_string(),
            Err(reason) => return Err(reason.to_string()),
        }
    }
    Err(refused)
}

/// Whether there is a byte at least for each element that the header claims: the reader takes memory for what is claimed.
fn check_length(file: &[u8]) -> Result<(), String> {
    let header = &file[..file.len().min(MOST_HEADER_BYTES)];
    let text = String::from_utf8_lossy(header);
    let claimed = text
        .split_once("'shape'")
        .and_then(|(_, rest)| rest.split_once('(')?.1.split_once(')'));
    let Some((extents, _)) = claimed else {
        return Err("its header names no shape".to_owned());
    };
    let mut extents = extents.split(',').map(str::trim).filter(|extent| !extent.is_empty());
    let count = extents.try_fold(1usize, |count, extent| {
        count.checked_mul(extent.trim_end_matches('L').parse().ok()?)
    });
    match count {
        Some(count) if count <= file.len() => Ok(()),
        _ => Err(format!(
            "its header claims more elements than the {} bytes of the array can hold",
            file.len()
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
