//! Data sets: examples with targets, read from files or embedded, split and shuffled.

use std::io::Read;
use std::path::Path;

use netloom_ir::sample::SplitMix;
use netloom_ir::{DType, Tensor};

use crate::error::Error;
use crate::formats::npz;

/// Examples and their targets: the first axis of both counts examples.
#[derive(Clone, Debug, PartialEq)]
pub struct Dataset {
    /// What a network is given.
    pub inputs: Tensor,
    /// What it should say: `i64` classes `[n]`, or values.
    pub targets: Tensor,
}

/// The greatest size that a file in the IDX format may unpack to.
const IDX_LIMIT_BYTES: u64 = 1 << 30;

impl Dataset {
    /// Examples with targets.
    ///
    /// # Errors
    /// If their numbers differ.
    pub fn new(inputs: Tensor, targets: Tensor) -> Result<Dataset, Error> {
        match (inputs.shape().first(), targets.shape().first()) {
            (Some(a), Some(b)) if a == b => Ok(Dataset { inputs, targets }),
            _ => Err(Error::Usage(format!(
                "a data set needs as many targets as inputs, found {} and {}",
                inputs.ty(),
                targets.ty()
            ))),
        }
    }

    /// Pictures and labels from two IDX files, gzip or not; grey values become `f32` in [0, 1] with one channel, `[n, 1, h, w]`.
    ///
    /// # Errors
    /// If a file cannot be read, is no IDX file, or is cut short.
    pub fn from_idx(images: &Path, labels: &Path) -> Result<Dataset, Error> {
        let read = |path: &Path| std::fs::read(path).map_err(|reason| Error::file(path, reason));
        let pictures = idx(&read(images)?).map_err(|reason| Error::file(images, reason))?;
        let classes = idx(&read(labels)?).map_err(|reason| Error::file(labels, reason))?;
        Dataset::from_bytes_tensors(pictures, classes)
    }

    /// Two arrays of an `.npz` file: inputs become `f32`; whole numbers as targets are classes, others become `f32`.
    ///
    /// # Errors
    /// If the file cannot be read, lacks an array, a value is not finite, or their numbers of examples differ.
    pub fn from_npz(path: &Path, inputs: &str, targets: &str) -> Result<Dataset, Error> {
        let arrays = npz::load(path)?;
        let array = |name: &str| {
            let found = arrays.iter().find(|(known, _)| known == name).map(|(_, tensor)| tensor);
            found.ok_or_else(|| {
                let names: Vec<&str> = arrays.iter().map(|(name, _)| name.as_str()).collect();
                Error::file(
                    path,
                    format!("there is no array `{name}`; the arrays are {}", names.join(", ")),
                )
            })
        };
        let floats = |name: &str, tensor: &Tensor| {
            let values = tensor.to_f32();
            match values.iter().position(|value| !value.is_finite()) {
                None => Ok(Tensor::from_f32(tensor.shape(), &values)),
                Some(at) => {
                    let message = format!("array `{name}`, {}: element {at} is {}", tensor.ty(), values[at]);
                    Err(Error::file(path, message))
                }
            }
        };
        let (given, wanted) = (array(inputs)?, array(targets)?);
        let wanted = match wanted.dtype().is_int() {
            true => Tensor::from_i64(wanted.shape(), &wanted.to_i64()),
            false => floats(targets, wanted)?,
        };
        Dataset::new(floats(inputs, given)?, wanted).map_err(|reason| Error::file(path, reason))
    }

    /// The handwritten digits in this library: 8,000 to train on, 1,000 to test on; `[n, 1, 28, 28]` in [0, 1]. From MNIST, CC BY-SA 3.0.
    #[cfg(feature = "demo")]
    pub fn digits() -> Result<(Dataset, Dataset), Error> {
        let unpack = |name: &str, bytes: &[u8]| idx(bytes).map_err(|reason| Error::file(name, reason));
        macro_rules! embedded {
            ($name:literal) => {
                unpack(
                    $name,
                    include_bytes!(concat!("../../examples/data/mnist/", $name)),
                )?
            };
        }
        let train = Dataset::from_bytes_tensors(
            embedded!("train-images-idx3-ubyte.gz"),
            embedded!("train-labels-idx1-ubyte.gz"),
        )?;
        let test = Dataset::from_bytes_tensors(
            embedded!("test-images-idx3-ubyte.gz"),
            embedded!("test-labels-idx1-ubyte.gz"),
        )?;
        Ok((train, test))
    }

    fn from_bytes_tensors(pictures: Tensor, classes: Tensor) -> Result<Dataset, Error> {
        let &[count, height, width] = pictures.shape() else {
            return Err(Error::Usage(format!(
                "pictures have the shape [n, height, width], found {}",
                pictures.ty()
            )));
        };
        let grey: Vec<f32> = pictures.bytes().iter().map(|&byte| f32::from(byte) / 255.0).collect();
        let labels: Vec<i64> = classes.bytes().iter().map(|&byte| i64::from(byte)).collect();
        Dataset::new(
            Tensor::from_f32([count, 1, height, width], &grey),
            Tensor::from_i64([labels.len()], &labels),
        )
    }

    /// The number of examples.
    pub fn len(&self) -> usize {
        self.inputs.shape().first().copied().unwrap_or(0)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The examples at these positions.
    ///
    /// # Panics
    /// If a position is not below [`Dataset::len`].
    pub fn select(&self, positions: &[usize]) -> Dataset {
        let mut picked = Dataset {
            inputs: Tensor::zeros(self.inputs.dtype(), batch_shape(&self.inputs, positions.len())),
            targets: Tensor::zeros(self.targets.dtype(), batch_shape(&self.targets, positions.len())),
        };
        self.copy_into(positions, &mut picked);
        picked
    }

    /// Copies the examples at these positions over the first ones of `batch`, whose rest stays as it is. Allocates nothing.
    ///
    /// # Panics
    /// If `batch` has fewer examples than there are positions, or other shapes.
    pub fn copy_into(&self, positions: &[usize], batch: &mut Dataset) {
        copy_rows(&self.inputs, positions, &mut batch.inputs);
        copy_rows(&self.targets, positions, &mut batch.targets);
    }

    /// Two parts: `1 - share` of the examples, and `share` of them, drawn at random from `seed`.
    ///
    /// # Errors
    /// If `share` is not between 0 and 1.
    pub fn split(&self, share: f64, seed: u64) -> Result<(Dataset, Dataset), Error> {
        if !(0.0..=1.0).contains(&share) {
            return Err(Error::Usage(format!("a share lies between 0 and 1, found {share}")));
        }
        let order = shuffled(self.len(), seed);
        let (held, kept) = order.split_at((self.len() as f64 * share).round() as usize);
        Ok((self.select(kept), self.select(held)))
    }

    /// The same with every example flattened: `[n, elements]`.
    #[must_use]
    pub fn flattened(self) -> Dataset {
        let count = self.len();
        let width = self.inputs.shape()[1..].iter().product();
        Dataset {
            inputs: self.inputs.reshaped([count, width]),
            targets: self.targets,
        }
    }

    /// The number of classes: one more than the greatest label. Zero if the targets are not classes.
    pub fn classes(&self) -> usize {
        if self.targets.dtype() != DType::I64 || self.targets.shape().len() != 1 {
            return 0;
        }
        self.targets
            .to_i64()
            .into_iter()
            .max()
            .map_or(0, |greatest| usize::try_from(greatest + 1).unwrap_or(0))
    }
}

impl Dataset {
    /// The place and the value of the first label that is none of so many classes.
    pub fn label_beyond(&self, classes: usize) -> Option<(usize, i64)> {
        let is_beyond = |label: &i64| usize::try_from(*label).map_or(true, |label| label >= classes);
        let labels = self.targets.to_i64().into_iter();
        labels.enumerate().find(|(_, label)| is_beyond(label))
    }

    /// A weight for each class such that all count the same, rare or not, and the mean over the examples is 1; 0 for a class without examples.
    pub fn class_weights(&self) -> Vec<f32> {
        let mut counts = vec![0usize; self.classes()];
        for label in self.targets.to_i64() {
            if let Some(count) = usize::try_from(label).ok().and_then(|label| counts.get_mut(label)) {
                *count += 1;
            }
        }
        let present = counts.iter().filter(|count| **count > 0).count();
        let weight = |&count: &usize| {
            if count == 0 {
                0.0
            } else {
                self.len() as f32 / (present * count) as f32
            }
        };
        counts.iter().map(weight).collect()
    }
}

/// The shape of `tensor` with another number of examples.
pub fn batch_shape(tensor: &Tensor, count: usize) -> Vec<usize> {
    std::iter::once(count)
        .chain(tensor.shape().iter().skip(1).copied())
        .collect()
}

/// Copies the rows of `from` at these positions over the first ones of `to`.
pub(super) fn copy_rows(from: &Tensor, positions: &[usize], to: &mut Tensor) {
    let row: usize = from.shape()[1..].iter().product::<usize>() * from.dtype().size_bytes();
    let (source, target) = (from.bytes(), to.bytes_mut());
    for (place, &position) in positions.iter().enumerate() {
        target[place * row..][..row].copy_from_slice(&source[position * row..][..row]);
    }
}

/// The numbers 0 to `count` - 1 in an order drawn from `seed`; the same on every machine.
///
/// Fisher and Yates' shuffle.
pub fn shuffled(count: usize, seed: u64) -> Vec<usize> {
    let mut draws = SplitMix(seed);
    let mut order: Vec<usize> = (0..count).collect();
    for at in (1..count).rev() {
        order.swap(at, draws.below(at + 1));
    }
    order
}

/// The bytes of an IDX file (MNIST's format) of unsigned bytes, gzip or not.
fn idx(file: &[u8]) -> Result<Tensor, String> {
    let mut unpacked = Vec::new();
    let bytes = if file.starts_with(&[0x1f, 0x8b]) {
        let reader = flate2::read::GzDecoder::new(file);
        reader
            .take(IDX_LIMIT_BYTES + 1)
            .read_to_end(&mut unpacked)
            .map_err(|reason| format!("gzip: {reason}"))?;
        unpacked.as_slice()
    } else {
        file
    };
    if bytes.len() as u64 > IDX_LIMIT_BYTES {
        return Err(format!("unpacks to more than {IDX_LIMIT_BYTES} bytes"));
    }
    let &[0, 0, 8, rank, ref rest @ ..] = bytes else {
        let start: Vec<String> = bytes.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        return Err(format!(
            "not an IDX file of bytes: it starts with {}, not 00 00 08",
            start.join(" ")
        ));
    };
    let rank = usize::from(rank);
    if rest.len() < 4 * rank {
        return Err(format!(
            "cut short at byte {}: the header lists {rank} extents",
            bytes.len()
        ));
    }
    let (header, data) = rest.split_at(4 * rank);
    let shape: Vec<usize> = header
        .chunks_exact(4)
        .map(|word| u32::from_be_bytes([word[0], word[1], word[2], word[3]]) as usize)
        .collect();
    let count = shape
        .iter()
        .try_fold(1usize, |count, &extent| count.checked_mul(extent));
    match count {
        Some(count) if count == data.len() => Ok(Tensor::from_bytes(DType::U8, shape, data.to_vec())),
        _ => Err(format!(
            "the header says {shape:?}, but {} bytes of data follow",
            data.len()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shuffles_are_permutations_and_reproducible() {
        for count in [0, 1, 2, 17, 1000] {
            let mut order = shuffled(count, 7);
            assert_eq!(order, shuffled(count, 7));
            order.sort_unstable();
            assert_eq!(order, (0..count).collect::<Vec<_>>());
        }
    }

    #[test]
    fn idx_files_say_what_is_wrong() {
        let good = [0, 0, 8, 2, 0, 0, 0, 1, 0, 0, 0, 2, 5, 6];
        assert_eq!(idx(&good).unwrap(), Tensor::from_bytes(DType::U8, [1, 2], vec![5, 6]));
        for (file, wanted) in [
            (&good[..13], "the header says [1, 2], but 1 bytes of data follow"),
            (&good[..9], "cut short at byte 9"),
            (
                &[0, 0, 9, 1][..],
                "not an IDX file of bytes: it starts with 00 00 09 01",
            ),
            (&[][..], "not an IDX file of bytes"),
            (
                &[0, 0, 8, 3, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255][..],
                "the header says",
            ),
        ] {
            let message = idx(file).unwrap_err();
            assert!(message.starts_with(wanted), "{message}");
        }
    }

    #[cfg(feature = "demo")]
    #[test]
    fn the_digits_are_there() {
        let (train, test) = Dataset::digits().unwrap();
        assert_eq!((train.len(), test.len(), train.classes()), (8000, 1000, 10));
        assert_eq!(train.inputs.shape(), [8000, 1, 28, 28]);
        assert!(train.inputs.to_f32().iter().all(|grey| (0.0..=1.0).contains(grey)));
    }
}
