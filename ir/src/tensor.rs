//! Types of values, and tensors on the host.

use std::borrow::Cow;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::{Deref, Range};
use std::sync::{Arc, OnceLock};

use crate::dtype::{DType, Scalar};
use crate::layout::Layout;

/// The type of one value: element type, static shape, physical layout.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Type {
    /// The element type.
    pub dtype: DType,
    /// Extents, outermost first; empty for a scalar; an extent may be zero.
    pub shape: Vec<usize>,
    /// Where the elements lie. Values of graphs are dense; the compiler gives kernels' buffers and states their layouts.
    pub layout: Layout,
}

impl Type {
    /// A dense tensor type.
    pub fn new(dtype: DType, shape: impl Into<Vec<usize>>) -> Type {
        Type {
            dtype,
            shape: shape.into(),
            layout: Layout::Dense,
        }
    }

    /// The number of axes.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// The number of logical elements.
    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether the type can be computed with: no extent exceeds 2^31 and the whole 2^47 bytes, so that no index or size that is derived
    /// from it overflows, and the layout gives each element a place of its own.
    ///
    /// # Errors
    /// What is wrong, as a sentence without the place.
    pub fn check(&self) -> Result<(), String> {
        if let Some(extent) = self.shape.iter().find(|extent| **extent > 1 << 31) {
            return Err(format!("the extent {extent} exceeds 2^31"));
        }
        self.layout.check(&self.shape)?;
        // Extents of zero are left out: a part of an empty tensor's shape must not overflow either.
        let extents: Vec<usize> = match &self.layout {
            Layout::Dense => self.shape.clone(),
            Layout::Digits(digits) => digits.iter().map(|digit| digit.extent).collect(),
        };
        let len_bytes = extents
            .iter()
            .try_fold(self.dtype.size_bytes(), |len, &extent| len.checked_mul(extent.max(1)));
        match len_bytes {
            Some(len_bytes) if len_bytes <= 1 << 47 => Ok(()),
            _ => Err(format!("a tensor of type {self} exceeds 2^47 bytes")),
        }
    }

    /// The same type without a layout.
    pub fn dense(&self) -> Type {
        Type::new(self.dtype, self.shape.clone())
    }

    /// The bytes of a tensor of this dtype and shape as they lie in this layout; padding is zero.
    pub fn arranged<'t>(&self, tensor: &'t Tensor) -> Cow<'t, [u8]> {
        if self.layout == Layout::Dense {
            return Cow::Borrowed(&tensor.bytes);
        }
        let mut bytes = vec![0; self.len_bytes()];
        self.arrange(tensor.bytes(), &mut bytes);
        Cow::Owned(bytes)
    }

    /// Writes elements, given row after row, where they lie in this layout; padding, which is zero, is left as it is.
    pub fn arrange(&self, from: &[u8], to: &mut [u8]) {
        match (&self.layout, self.dtype.size_bytes()) {
            (Layout::Dense, _) => to.copy_from_slice(from),
            (_, 1) => self.layout.arrange::<1>(&self.shape, from, to),
            (_, 2) => self.layout.arrange::<2>(&self.shape, from, to),
            (_, 4) => self.layout.arrange::<4>(&self.shape, from, to),
            (_, _) => self.layout.arrange::<8>(&self.shape, from, to),
        }
    }

    /// The tensor whose elements lie so in memory.
    pub fn restored(&self, bytes: Vec<u8>) -> Tensor {
        if self.layout == Layout::Dense {
            return Tensor::from_bytes(self.dtype, self.shape.clone(), bytes);
        }
        let size = self.dtype.size_bytes();
        let mut tensor = Tensor::zeros(self.dtype, self.shape.clone());
        let mut places = bytes.chunks_exact(size);
        let to = tensor.bytes_mut();
        self.layout.visit(&self.shape, &mut |position| {
            let place = places.next().expect("as many places as the layout has");
            if let Some(position) = position {
                to[position * size..][..size].copy_from_slice(place);
            }
        });
        tensor
    }

    /// Bytes in memory, padding included.
    pub fn len_bytes(&self) -> usize {
        self.layout.len(&self.shape) * self.dtype.size_bytes()
    }
}

impl fmt::Display for Type {
    /// `f32[8,64]`, followed by the layout in braces unless dense.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{}", self.dtype, Shape(&self.shape), self.layout)
    }
}

/// A shape as the text form prints it: `[8,64]`.
pub struct Shape<'a>(pub &'a [usize]);

impl fmt::Display for Shape<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let extents: Vec<String> = self.0.iter().map(usize::to_string).collect();
        write!(f, "[{}]", extents.join(","))
    }
}

/// The row-major index of the `position`-th element of `shape`.
pub fn unravel(shape: &[usize], position: usize) -> Vec<usize> {
    let mut index = vec![0; shape.len()];
    let mut rest = position;
    for axis in (0..shape.len()).rev() {
        index[axis] = rest % shape[axis];
        rest /= shape[axis];
    }
    index
}

/// Dense elements on the host, with their type. The bytes are little-endian, row-major.
#[derive(Clone)]
pub struct Tensor {
    dtype: DType,
    shape: Vec<usize>,
    bytes: Bytes,
    hash: OnceLock<u64>,
}

/// The bytes of a tensor.
#[derive(Clone)]
enum Bytes {
    /// Its own.
    Own(Vec<u8>),
    /// Somebody's.
    Shared(Arc<dyn Keeper>),
}

/// Who keeps the bytes of tensors as they are: a file that is mapped, perhaps.
pub trait Keeper: Send + Sync {
    /// The bytes.
    fn bytes(&self) -> &[u8];

    /// Says that these bytes will hardly be read again, so that whoever holds them in memory need not.
    fn leave(&self, range: Range<usize>);
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Own(bytes) => bytes,
            Bytes::Shared(keeper) => keeper.bytes(),
        }
    }
}

impl Tensor {
    /// A tensor from its bytes.
    ///
    /// # Panics
    /// If the number of bytes is not what the type needs; readers of files check before they call.
    pub fn from_bytes(dtype: DType, shape: impl Into<Vec<usize>>, bytes: Vec<u8>) -> Tensor {
        Tensor::made(dtype, shape.into(), Bytes::Own(bytes))
    }

    /// A tensor whose bytes are somebody else's; they are copied when they are overwritten.
    ///
    /// # Panics
    /// As [`Tensor::from_bytes`].
    pub fn shared(dtype: DType, shape: impl Into<Vec<usize>>, keeper: Arc<dyn Keeper>) -> Tensor {
        Tensor::made(dtype, shape.into(), Bytes::Shared(keeper))
    }

    /// Says that these of its bytes will hardly be read again.
    pub fn leave(&self, range: Range<usize>) {
        match &self.bytes {
            Bytes::Own(_) => {}
            Bytes::Shared(keeper) => keeper.leave(range),
        }
    }

    fn made(dtype: DType, shape: Vec<usize>, bytes: Bytes) -> Tensor {
        let expected = shape.iter().product::<usize>() * dtype.size_bytes();
        assert_eq!(bytes.len(), expected, "bytes of a {dtype}{} tensor", Shape(&shape));
        Tensor {
            dtype,
            shape,
            bytes,
            hash: OnceLock::new(),
        }
    }

    /// A tensor of zeros.
    pub fn zeros(dtype: DType, shape: impl Into<Vec<usize>>) -> Tensor {
        let shape = shape.into();
        let len_bytes = shape.iter().product::<usize>() * dtype.size_bytes();
        Tensor {
            dtype,
            shape,
            bytes: Bytes::Own(vec![0; len_bytes]),
            hash: OnceLock::new(),
        }
    }

    /// A rank-0 tensor.
    pub fn scalar(dtype: DType, value: Scalar) -> Tensor {
        Tensor::from_scalars(dtype, [], [value])
    }

    /// A tensor from its elements in row-major order, each cast to `dtype`.
    ///
    /// # Panics
    /// If the number of elements is not the shape's.
    pub fn from_scalars(
        dtype: DType,
        shape: impl Into<Vec<usize>>,
        elements: impl IntoIterator<Item = Scalar>,
    ) -> Tensor {
        let size = dtype.size_bytes();
        let bytes = elements
            .into_iter()
            .flat_map(|element| element.cast(dtype).to_bits(dtype).to_le_bytes().into_iter().take(size))
            .collect();
        Tensor::from_bytes(dtype, shape, bytes)
    }

    /// The tensor whose element at each index is what `element` gives, cast to `dtype`.
    pub fn from_fn(dtype: DType, shape: impl Into<Vec<usize>>, mut element: impl FnMut(&[usize]) -> Scalar) -> Tensor {
        let shape = shape.into();
        let count = shape.iter().product();
        let elements: Vec<Scalar> = (0..count).map(|position| element(&unravel(&shape, position))).collect();
        Tensor::from_scalars(dtype, shape, elements)
    }

    /// An f32 tensor from its elements in row-major order.
    ///
    /// # Panics
    /// If the number of elements is not the shape's.
    pub fn from_f32(shape: impl Into<Vec<usize>>, elements: &[f32]) -> Tensor {
        Tensor::from_bytes(
            DType::F32,
            shape,
            elements.iter().flat_map(|x| x.to_le_bytes()).collect(),
        )
    }

    /// An i64 tensor from its elements in row-major order.
    ///
    /// # Panics
    /// If the number of elements is not the shape's.
    pub fn from_i64(shape: impl Into<Vec<usize>>, elements: &[i64]) -> Tensor {
        Tensor::from_bytes(
            DType::I64,
            shape,
            elements.iter().flat_map(|x| x.to_le_bytes()).collect(),
        )
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The extents.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The dense type.
    pub fn ty(&self) -> Type {
        Type::new(self.dtype, self.shape.clone())
    }

    /// The number of elements.
    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }

    /// The elements' bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The elements' bytes, to be overwritten.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.hash = OnceLock::new();
        if let Bytes::Shared(keeper) = &self.bytes {
            self.bytes = Bytes::Own(keeper.bytes().to_vec());
        }
        match &mut self.bytes {
            Bytes::Own(bytes) => bytes,
            Bytes::Shared(_) => unreachable!("copied above"),
        }
    }

    /// The element at a row-major position.
    pub fn get(&self, position: usize) -> Scalar {
        let size = self.dtype.size_bytes();
        let mut bits = [0; 8];
        bits[..size].copy_from_slice(&self.bytes[position * size..][..size]);
        Scalar::from_bits(u64::from_le_bytes(bits), self.dtype)
    }

    /// The element at an index.
    pub fn at(&self, index: &[usize]) -> Scalar {
        self.get(Layout::Dense.offset(&self.shape, index))
    }

    /// Replaces the element at a row-major position.
    pub fn set(&mut self, position: usize, value: Scalar) {
        let size = self.dtype.size_bytes();
        let bits = value.cast(self.dtype).to_bits(self.dtype).to_le_bytes();
        self.bytes_mut()[position * size..][..size].copy_from_slice(&bits[..size]);
    }

    /// Every element in row-major order.
    pub fn scalars(&self) -> impl Iterator<Item = Scalar> + '_ {
        (0..self.count()).map(|position| self.get(position))
    }

    /// Every element as f32, in row-major order.
    pub fn to_f32(&self) -> Vec<f32> {
        self.scalars().map(|x| x.as_f64() as f32).collect()
    }

    /// Every element as i64, in row-major order.
    pub fn to_i64(&self) -> Vec<i64> {
        self.scalars().map(|x| x.as_i128() as i64).collect()
    }

    /// The same elements under another shape.
    ///
    /// # Panics
    /// If the shapes have different numbers of elements.
    pub fn reshaped(self, shape: impl Into<Vec<usize>>) -> Tensor {
        Tensor::made(self.dtype, shape.into(), self.bytes)
    }

    /// A hash of type and contents, computed once.
    pub fn content_hash(&self) -> u64 {
        *self.hash.get_or_init(|| {
            let mut hasher = DefaultHasher::new();
            (self.dtype, &self.shape, &self.bytes[..]).hash(&mut hasher);
            hasher.finish()
        })
    }
}

/// Equality is of bits, so that a NaN equals itself and -0 differs from 0.
impl PartialEq for Tensor {
    fn eq(&self, other: &Tensor) -> bool {
        self.dtype == other.dtype && self.shape == other.shape && *self.bytes == *other.bytes
    }
}

impl Eq for Tensor {}

impl Hash for Tensor {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // Equal graphs hold equal tensors, but few tensors begin and end alike: that spares reading all of a large model.
        const ENDS: usize = 256;
        let (bytes, len) = (self.bytes(), self.bytes.len());
        (self.dtype, &self.shape).hash(state);
        (&bytes[..len.min(ENDS)], &bytes[len.saturating_sub(ENDS)..]).hash(state);
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.ty())?;
        f.debug_list()
            .entries(self.scalars().take(16).map(Scalar::as_f64))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shared_is_copied_when_it_is_overwritten() {
        struct Four([u8; 4]);
        impl Keeper for Four {
            fn bytes(&self) -> &[u8] {
                &self.0
            }

            fn leave(&self, _: Range<usize>) {}
        }
        let four = Arc::new(Four([1, 2, 3, 4]));
        let mut tensor = Tensor::shared(DType::U8, [2, 2], Arc::clone(&four) as Arc<dyn Keeper>);
        assert_eq!(tensor, Tensor::from_bytes(DType::U8, [2, 2], vec![1, 2, 3, 4]));
        tensor.set(3, Scalar::Int(9));
        assert_eq!(tensor.bytes(), [1, 2, 3, 9]);
        assert_eq!(four.0, [1, 2, 3, 4]);
    }
}
