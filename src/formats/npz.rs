//! Arrays by name, as NumPy's `savez` stores them.

use std::borrow::Cow;
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

use flate2::Crc;
use flate2::bufread::DeflateDecoder;
use ndarray::{ArrayD, IxDyn};
use ndarray_npy::{ReadNpyExt, WriteNpyError, WriteNpyExt};
use netloom_ir::{DType, Tensor};
use rawzip::path::EntryPath;
use rawzip::{CompressionMethod, ZipArchive, ZipArchiveWriter, ZipSliceEntry, ZipVerification};

use super::write_whole;
use crate::cpu::mapped::Mapped;
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
        let mut archive = ZipArchiveWriter::new(BufWriter::new(file));
        for (name, tensor) in arrays {
            let path = format!("{name}.npy");
            let (mut member, check) = archive
                .new_file(EntryPath::verbatim(path.as_bytes()))
                .start()
                .map_err(io::Error::other)?;
            let mut checked = check.wrap(&mut member);
            write(BufWriter::new(&mut checked), tensor).map_err(io::Error::other)?;
            let (_, sums) = checked.finish().map_err(io::Error::other)?;
            member.finish(sums).map_err(io::Error::other)?;
        }
        archive.finish().map_err(io::Error::other)?.flush()
    })
}

/// Writes one array.
fn write(file: impl Write, tensor: &Tensor) -> Result<(), WriteNpyError> {
    let shape = IxDyn(tensor.shape());
    let fits = "a tensor has as many elements as its shape";
    by_dtype!(tensor.dtype(), T => {
        let elements = tensor.bytes().chunks_exact(size_of::<T>());
        let elements = elements.map(|bytes| T::from_le_bytes(bytes.try_into().expect("chunks of that size"))).collect();
        ArrayD::<T>::from_shape_vec(shape, elements).expect(fits).write_npy(file)
    }, other => match tensor.dtype() {
        DType::Bool => {
            let elements = tensor.bytes().iter().map(|&byte| byte != 0).collect();
            ArrayD::<bool>::from_shape_vec(shape, elements).expect(fits).write_npy(file)
        }
        _ => ArrayD::from_shape_vec(shape, tensor.to_f32()).expect(fits).write_npy(file),
    })
}

/// Reads every array, in the file's order.
///
/// # Errors
/// If the file cannot be read, is not well formed, or holds a type that netloom has not.
pub fn load(path: &Path) -> Result<Vec<(String, Tensor)>, Error> {
    let file = Mapped::open(path).map_err(|reason| Error::file(path, reason))?;
    parse(&file).map_err(|reason| Error::file(path, reason))
}

/// The same from a file's bytes.
///
/// # Errors
/// What is wrong with them.
pub fn parse(file: &[u8]) -> Result<Vec<(String, Tensor)>, String> {
    let broken = |reason| format!("not a valid .npz file: {reason}");
    let archive = ZipArchive::from_slice(file).map_err(broken)?;
    let mut arrays = Vec::new();
    for member in archive.entries() {
        let member = member.map_err(broken)?;
        let path = member.file_path();
        let name = String::from_utf8_lossy(path.as_ref())
            .trim_end_matches(".npy")
            .to_owned();
        let tensor = (archive.get_entry(member.wayfinder()))
            .map_err(|reason| reason.to_string())
            .and_then(|packed| read(&unpacked(packed, member.compression_method())?))
            .map_err(|reason| format!("array `{name}`: {reason}"))?;
        arrays.push((name, tensor));
    }
    match archive.entries_hint() {
        claimed if claimed == arrays.len() as u64 => Ok(arrays),
        claimed => Err(format!("it claims {claimed} arrays, and there are {}", arrays.len())),
    }
}

/// The contents of a member, whose sums must be right. Memory is taken for what its bytes can hold, whatever it claims.
fn unpacked<'a>(packed: ZipSliceEntry<'a>, method: CompressionMethod) -> Result<Cow<'a, [u8]>, String> {
    let claims = packed.claim_verifier();
    let contents = match method {
        CompressionMethod::STORE => Cow::Borrowed(packed.data()),
        CompressionMethod::DEFLATE => {
            let claimed = claims.uncompressed_size;
            let most = claimed.min((packed.data().len() as u64).saturating_mul(MOST_PACKED));
            memory::check(usize::try_from(most).unwrap_or(usize::MAX)).map_err(|reason| reason.to_string())?;
            let mut contents = Vec::new();
            (DeflateDecoder::new(packed.data()).take(claimed))
                .read_to_end(&mut contents)
                .map_err(|reason| reason.to_string())?;
            Cow::Owned(contents)
        }
        other => return Err(format!("it is packed by a method that netloom does not read: {other}")),
    };
    let mut sum = Crc::new();
    sum.update(&contents);
    let found = ZipVerification {
        crc: sum.sum(),
        uncompressed_size: contents.len() as u64,
    };
    claims.valid(found).map_err(|reason| reason.to_string())?;
    Ok(contents)
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
    let header = header(file)?;
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

/// What a file says of its array: its length stands in two bytes in files of version 1, and in four since. The reader takes memory for what is claimed.
fn header(file: &[u8]) -> Result<Cow<'_, str>, String> {
    let (start, length) = match *file {
        [_, _, _, _, _, _, 1, _, a, b, ..] => (10, u16::from_le_bytes([a, b]).into()),
        [_, _, _, _, _, _, _, _, a, b, c, d, ..] => (12, u32::from_le_bytes([a, b, c, d])),
        _ => return Err("it ends within its header".to_owned()),
    };
    if length > MOST_HEADER_BYTES {
        return Err(format!(
            "its header claims {length} bytes, and none has more than {MOST_HEADER_BYTES}"
        ));
    }
    let text = file.get(start..).and_then(|rest| rest.get(..length as usize));
    let text = text.ok_or_else(|| format!("it ends within its header of {length} bytes"))?;
    Ok(String::from_utf8_lossy(text))
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
const MOST_HEADER_BYTES: u32 = 10_000;

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
