//! The contraction tile as machine code: `C (+)= Σ_k A_k ⊗ B_k`, C in registers.

use netloom_ir::DType;

use super::isa::Level;

/// A tile with everything known: [`netloom_ir::kernel::Contract`] without the places.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tile {
    /// `F32` or `F64`.
    pub dtype: DType,
    /// Rows of C.
    pub rows: usize,
    /// Columns of C, a multiple of 16.
    pub columns: usize,
    /// The nested loops of the sum, outermost first.
    pub k: Vec<usize>,
    /// The stride between rows of A, in elements.
    pub a_across: usize,
    /// The stride of A along each loop of `k`, in elements.
    pub a_along: Vec<usize>,
    /// The stride of B along each loop of `k`, in elements; along columns it is 1.
    pub b_along: Vec<usize>,
    /// The stride between rows of C, in elements.
    pub c_across: usize,
    /// Whether the sum starts from C's contents.
    pub accumulate: bool,
}

/// The bytes of a System V function `fn(a: *const T, b: *const T, c: *mut T)`.
///
/// # Panics
/// If the level is `Portable`, which has no assembled code, or the tile needs more registers than it has.
pub fn assemble(tile: &Tile, level: Level) -> Vec<u8> {
    let _ = (tile, level);
    todo!()
}
