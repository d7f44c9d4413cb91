//! Nests: loops with every decision made.
//!
//! Made by `schedule`, checked by [`super::verify`], run by [`super::interp`], spelled by the emitters, which decide nothing.
//!
//! **Semantics.** Statements run in order. All workers run the same nest (SPMD): a `Workers` loop gives each worker a
//! contiguous share of its iterations (of `n`, worker `w` of `workers` runs those from `w · c` to `(w + 1) · c`, where `c` is `n / workers`
//! rounded up, so a single iteration is worker 0's); code outside any `Workers` loop is run by every worker and may write only locals and
//! worker scratch. `Barrier` waits for all workers and stands outside `Workers` loops.
//!
//! **Neighbouring stores are one step.** Of `Store`s that stand next to each other, all values and indices are evaluated before any
//! of them writes; in a `Lanes` loop this holds for each lane. So an output may lie over an operand that those stores read only at the very
//! elements they write.
//!
//! **The summation tree is explicit.** An `Accumulate` in serial loops combines in iteration order. An `Accumulate` whose
//! innermost enclosing loop is bound to `Lanes` combines into [`LANES`] virtual lanes, iteration `i` into lane `i % LANES`,
//! each starting at the combiner's identity; when the loop ends, the lanes combine pairwise (`l` with `l + 8`, then
//! `+ 4`, `+ 2`, `+ 1`) and the result combines once with the local: `local = local ∘ lanes`. So results have the same bits
//! with vectors of any width. A `Contract` sums over `k` in order, one FMA each, per element.

use super::{Axis, AxisId, Buffer, BufferId, Combine, ExprId, Exprs, LocalId};
use crate::dtype::DType;

/// Virtual lanes of a vector loop, on every machine.
pub const LANES: usize = 16;

/// A kernel with every decision made.
#[derive(Clone, Debug)]
pub struct Nest {
    /// A name for dumps and symbols, e.g. `k3_einsum_add_max`.
    pub name: String,
    /// Loop variables; each is bound by exactly one loop on any path.
    pub axes: Vec<Axis>,
    /// The kernel's inputs and outputs in their order, then scratch. A schedule may see one in another shape of as many elements.
    pub buffers: Vec<Buffer>,
    /// Scalar registers.
    pub locals: Vec<Local>,
    /// Every expression, without `Fold`.
    pub exprs: Exprs,
    /// What runs.
    pub body: Vec<Stmt>,
}

/// A scalar register, private to a worker.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Local {
    /// The name in dumps, unique within the nest.
    pub name: String,
    /// Its type.
    pub dtype: DType,
}

/// How the iterations of a loop are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bind {
    /// In order.
    Serial,
    /// In order, copied out; for small constant extents.
    Unroll,
    /// As vectors. The body holds only `Store`, `Accumulate` and `Prefetch`; iterations are independent but for `Accumulate`.
    Lanes,
    /// Shared among the workers, each a contiguous range. Not nested in another `Workers` loop.
    Workers,
    /// On a GPU: workgroups of dimension 0 to 2.
    Group(u8),
    /// On a GPU: invocations of a workgroup, dimension 0 to 2.
    Item(u8),
}

/// One statement of a nest.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Stmt {
    /// Runs `body` for every value of `axis` from 0 to `extent` - 1.
    Loop {
        /// The variable; its [`Axis::extent`] bounds every value that `extent` takes.
        axis: AxisId,
        /// The number of iterations: an `i64` expression over outer axes, usually constant.
        extent: ExprId,
        /// How.
        bind: Bind,
        /// The statements repeated.
        body: Vec<Stmt>,
    },
    /// Runs one of two bodies; the condition is a `bool` over outer axes and locals.
    If {
        /// The condition.
        condition: ExprId,
        /// Run if true.
        then: Vec<Stmt>,
        /// Run otherwise.
        otherwise: Vec<Stmt>,
    },
    /// `local = value`.
    Set {
        /// The register written.
        local: LocalId,
        /// Its new value.
        value: ExprId,
    },
    /// `local = local ∘ value`; see the module's text for the order.
    Accumulate {
        /// The register updated.
        local: LocalId,
        /// How.
        with: Combine,
        /// What enters.
        value: ExprId,
    },
    /// `buffer[index] = value`, the index logical and provably inside.
    Store {
        /// The buffer written.
        buffer: BufferId,
        /// One `i64` an axis.
        index: Vec<ExprId>,
        /// The element.
        value: ExprId,
    },
    /// In a `Lanes` loop: `buffer[index]` will be read soon, so it may be brought closer. No effect on what is computed, and the index may
    /// lie outside.
    Prefetch {
        /// The buffer that will be read.
        buffer: BufferId,
        /// One `i64` an axis.
        index: Vec<ExprId>,
    },
    /// The batch-reduce tile: a small matrix product over a long sum.
    Contract(Contract),
    /// On a GPU, outside any loop: whole products of matrices, by a shader written by hand.
    Product(Product),
    /// All workers have done what stands above before any does what stands below.
    Barrier,
}

/// `C[i, j] (+)= Σ_k A[i, k] · B[k, j]` for a tile of C held in registers (Georganas et al., 2019).
///
/// `k` runs over the loops of `k` in row-major order. All offsets and strides are in elements of *memory*, so operands must be
/// buffers whose layout the schedule knows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Contract {
    /// The element type of all three: `F32` or `F64`.
    pub dtype: DType,
    /// Rows of the tile.
    pub rows: usize,
    /// Columns of the tile, a multiple of [`LANES`].
    pub columns: usize,
    /// The nested loops whose product is the length of the sum, outermost first.
    pub k: Vec<usize>,
    /// `A`: `across` is the stride from row to row; elements are broadcast.
    pub a: Operand,
    /// `B`: `across` is 1; a row of the tile is `columns` contiguous elements.
    pub b: Operand,
    /// `C`: scratch, row-major, `across` the stride from row to row; `along` is empty.
    pub c: Operand,
    /// Whether the sum starts from the tile's present contents rather than from zero.
    pub accumulate: bool,
    /// How many elements of memory past what is read of `B` are brought closer meanwhile, where `B` comes from far away; 0 if it is near.
    /// No effect on what is computed.
    pub ahead: usize,
}

/// Rows of a tile that run along lines of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lines {
    /// The number of rows in a line.
    pub length: usize,
    /// The stride in elements from line to line.
    pub pitch: usize,
}

impl Operand {
    /// Where a row of the tile starts, in elements from where the tile does.
    pub fn row(&self, row: usize) -> usize {
        match self.lines {
            Some(Lines { length, pitch }) => row / length * pitch + row % length * self.across,
            None => row * self.across,
        }
    }
}

/// One side of a [`Contract`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Operand {
    /// The tensor.
    pub buffer: BufferId,
    /// The element where the tile starts: an `i64` expression over outer axes.
    pub start: ExprId,
    /// The stride in elements across the tile's rows.
    pub across: usize,
    /// Of `A`: where the rows are several lines, how these follow each other.
    pub lines: Option<Lines>,
    /// The stride in elements along each loop of `k`.
    pub along: Vec<usize>,
}

/// `C[i, j] = Σ_k A[i, k] · B[k, j]` in `f32`, for each of a batch; sums in order, one FMA each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Product {
    /// How many there are.
    pub batch: usize,
    /// Extent of `i`.
    pub rows: usize,
    /// Extent of `j`.
    pub columns: usize,
    /// Extent of `k`.
    pub depth: usize,
    /// How many rows the shader computes at once.
    pub tile_rows: usize,
    /// Read.
    pub a: Matrix,
    /// Read.
    pub b: Matrix,
    /// Written: an output or scratch that all share.
    pub c: Matrix,
}

/// One side of a [`Product`]: where its elements lie, in elements of memory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Matrix {
    /// The tensor, whose first element is the first of the matrices.
    pub buffer: BufferId,
    /// The stride from one of the batch to the next.
    pub batch: usize,
    /// The stride along the first axis.
    pub first: usize,
    /// The stride along the second.
    pub second: usize,
}

impl Matrix {
    /// The place of an element.
    pub fn at(&self, batch: usize, first: usize, second: usize) -> usize {
        batch * self.batch + first * self.first + second * self.second
    }
}
