//! Nests: loops with every decision made.
//!
//! Made by `schedule`, checked by [`super::verify`], run by [`super::interp`], spelled by the emitters, which decide nothing.
//!
//! **Semantics.** Statements run in order. All workers run the same nest (SPMD): a `Workers` loop gives each worker a
//! contiguous share of its iterations (of `n`, worker `w` of `workers` runs those from `w · c` to `(w + 1) · c`, where `c` is `n / workers`
//! rounded up, so a single iteration is worker 0's); code outside any `Workers` loop is run by every worker and may write only locals and
//! worker scratch. `Barrier` waits for all workers and stands outside `Workers` loops. On a GPU there is a worker for each iteration, and a
//! barrier is the end of all of them: locals are forgotten, and outside `Workers` loops nothing but locals is written.
//!
//! **Workgroups.** On a GPU, a `Group` loop gives each iteration to a workgroup, whose invocations share what is outside `Item` loops: its values
//! are the same for all, and what it stores one of them stores. Each iteration of an `Item` loop is an invocation's; loops of other dimensions
//! nest, and a dimension has one extent throughout. What an iteration sets is its own, and forgotten when the loop ends. Within a `Group` loop,
//! `Barrier` waits for the group's invocations: in between, none reads what another writes to [`Role::GroupScratch`](super::Role::GroupScratch).
//! `Item` loops and barriers stand in loops of constant extent, never under a condition, so that all reach them.
//!
//! **Neighbouring stores are one step.** Of `Store`s that stand next to each other, all values and indices are evaluated before any
//! of them writes; in a `Lanes` loop this holds for each lane. So an output may lie over an operand that those stores read only at the very
//! elements they write.
//!
//! **The summation tree is explicit.** An `Accumulate` in serial loops combines in iteration order. An `Accumulate` whose
//! innermost enclosing loop is bound to `Lanes` combines into [`LANES`] virtual lanes, iteration `i` into lane `i % LANES`,
//! each starting at the combiner's identity; when the loop ends, the lanes combine pairwise (`l` with `l + 8`, then
//! `+ 4`, `+ 2`, `+ 1`) and the result combines once with the local: `local = local ∘ lanes`. So results have the same bits
//! with vectors of any width. An `Accumulate` whose innermost enclosing loop is bound to `Item` does the same with its `n` iterations, a power of
//! two: when the loop ends, `i` combines with `i + n/2`, then `+ n/4`, and so on to `+ 1`, and the result with the local of what is around.
//! So results have the same bits with subgroups of any size, and without. A `Contract` sums over `k` in order, one FMA each, per element; in pieces,
//! as [`super::pieces`] says.

use super::{Axis, AxisId, Buffer, BufferId, Combine, ExprId, Exprs, LocalId};
use crate::dtype::DType;
use crate::layout::Layout;
use crate::target::TargetKind;
use crate::tensor::unravel;

/// Virtual lanes of a vector loop, on every machine.
pub const LANES: usize = 16;

/// A kernel with every decision made.
#[derive(Clone, Debug)]
pub struct Nest {
    /// A name for dumps and symbols, e.g. `k3_einsum_add_max`.
    pub name: String,
    /// What kind of machine it is for. One for another may rely on other layouts, and hold statements that there is no code for.
    pub kind: TargetKind,
    /// Loop variables; each is bound by exactly one loop on any path.
    pub axes: Vec<Axis>,
    /// The kernel's inputs and outputs in their order, then scratch. A schedule may see one in another shape of as many elements.
    pub buffers: Vec<Buffer>,
    /// How inputs and outputs lie in memory, in their order, whatever shapes the schedule sees; those that are missing are dense.
    pub layouts: Vec<Layout>,
    /// Scalar registers.
    pub locals: Vec<Local>,
    /// Every expression, without `Fold`.
    pub exprs: Exprs,
    /// What runs.
    pub body: Vec<Stmt>,
}

impl Nest {
    /// Whether a part of it is run by a shader written by hand.
    pub fn has_products(&self) -> bool {
        self.body.iter().any(|stmt| matches!(stmt, Stmt::Product(_)))
    }

    /// Whether a contraction in it is in pieces.
    pub fn has_pieces(&self) -> bool {
        fn has_pieces(body: &[Stmt]) -> bool {
            body.iter().any(|stmt| match stmt {
                Stmt::Loop { body, .. } => has_pieces(body),
                Stmt::If { then, otherwise, .. } => has_pieces(then) || has_pieces(otherwise),
                Stmt::Contract(contract) => contract.is_in_pieces(),
                _ => false,
            })
        }
        has_pieces(&self.body)
    }
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
    /// On a GPU: workgroups. Not nested in another `Group` or `Workers` loop.
    Group,
    /// On a GPU: invocations of a workgroup, dimension 0 to 2; those along dimension 0 are neighbours.
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
    /// On a CPU, the batch-reduce tile: a small matrix product over a long sum.
    Contract(Contract),
    /// On a GPU, outside any loop: whole products of matrices, by a shader written by hand.
    Product(Product),
    /// All workers have done what stands above before any does what stands below; within a `Group` loop, all invocations of the group.
    Barrier,
}

/// `C[i, j] (+)= Σ_k A[i, k] · B[k, j]` for a tile of C held in registers (Georganas et al., 2019).
///
/// `k` runs over the loops of `k` in row-major order. All offsets and strides are in elements of *memory*, so operands must be
/// buffers whose layout the schedule knows.
///
/// **In pieces** ([`Operand::pieces`]) a matrix unit computes it: see [`super::pieces`] for what an operand is then, and what is summed in which order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Contract {
    /// The element type of all three: `F32` or `F64`.
    pub dtype: DType,
    /// Rows of the tile.
    pub rows: usize,
    /// Columns of the tile, a multiple of [`LANES`].
    pub columns: usize,
    /// The nested loops whose product is the length of the sum, outermost first; in pieces, the number of [`DEPTH`](super::pieces::DEPTH)s that it has.
    pub k: Vec<usize>,
    /// `A`: `across` is the stride from row to row; elements are broadcast.
    pub a: Operand,
    /// `B`: `across` is 1; a row of the tile is `columns` contiguous elements. In pieces, `across` is the stride between blocks of columns.
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

impl Contract {
    /// Whether its operands are in pieces.
    pub fn is_in_pieces(&self) -> bool {
        self.a.pieces.is_some()
    }
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
    /// Of `A` and `B`, where each element is given as three `bf16`: the stride in elements of the buffer from one piece to the next.
    pub pieces: Option<usize>,
    /// The stride in elements along each loop of `k`.
    pub along: Vec<usize>,
}

/// `C[i, j] = Σ_k A[i, k] · B[k, j]` in `f32`, for each of a batch; sums in order, one FMA each, but of halves, which cooperative matrices sum in
/// an order of their own. `j` and `k` stand for several axes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Product {
    /// How many there are.
    pub batch: usize,
    /// Extent of `i`.
    pub rows: usize,
    /// Extents of the axes of `j`, outermost first.
    pub columns: Vec<usize>,
    /// Extents of the axes of `k`.
    pub depth: Vec<usize>,
    /// How many rows are computed at once.
    pub tile_rows: usize,
    /// Read; its first axis is `i`.
    pub a: Matrix,
    /// Read; its first axes are those of `k`.
    pub b: Matrix,
    /// What `B` is 0 outside of.
    pub limits: Vec<Limit>,
    /// Written: an output or scratch that all share.
    pub c: Matrix,
}

/// One side of a [`Product`]: a tensor, and where its elements lie, in elements of memory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Matrix {
    /// The tensor.
    pub buffer: BufferId,
    /// Where in it.
    pub place: Strides,
    /// Of what is read: whether four neighbours are read at once, and along which axes.
    pub fours: Option<Along>,
}

/// The axes of a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Along {
    /// The first.
    First,
    /// The second.
    Second,
}

/// How many neighbours are read at once.
pub const FOUR: usize = 4;

impl Matrix {
    /// Whether four neighbours can be read at once: along axes that are one, of stride 1; everything else goes on by multiples of four.
    pub fn has_fours(&self, along: Along, (firsts, seconds): (&[usize], &[usize])) -> bool {
        let Strides {
            start,
            batch,
            first,
            second,
        } = &self.place;
        let (strides, extents, across) = match along {
            Along::First => (first, firsts, second),
            Along::Second => (second, seconds, first),
        };
        let others = [start, batch].into_iter().chain(across);
        strides[..] == [1]
            && extents[0].is_multiple_of(FOUR)
            && others.into_iter().all(|stride| stride % FOUR as i64 == 0)
    }
}

/// An index along an axis of `B`'s tensor that may lie outside.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Limit {
    /// The axis' extent.
    pub extent: usize,
    /// Its stride in elements of memory.
    pub stride: usize,
    /// The index.
    pub place: Strides,
}

/// A sum over the axes of a matrix, and over the batch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Strides {
    /// What is added.
    pub start: i64,
    /// The stride from one of the batch to the next.
    pub batch: i64,
    /// The strides along the first axes, outermost first.
    pub first: Vec<i64>,
    /// The strides along the second axes.
    pub second: Vec<i64>,
}

impl Strides {
    /// The sum for one of the batch, at flat indices along the first and the second axes of these extents.
    pub fn at(&self, batch: usize, (first, firsts): (usize, &[usize]), (second, seconds): (usize, &[usize])) -> i64 {
        let along = |strides: &[i64], flat: usize, extents: &[usize]| -> i64 {
            let index = unravel(extents, flat);
            strides.iter().zip(index).map(|(stride, at)| stride * at as i64).sum()
        };
        self.start
            + self.batch * batch as i64
            + along(&self.first, first, firsts)
            + along(&self.second, second, seconds)
    }

    /// The least and the greatest sum, for so many of a batch and axes of these extents.
    pub fn range(&self, batch: usize, firsts: &[usize], seconds: &[usize]) -> (i64, i64) {
        let strides = [self.batch].into_iter().chain(self.first.iter().copied());
        let strides = strides.chain(self.second.iter().copied());
        let extents = [batch].into_iter().chain(firsts.iter().copied());
        let extents = extents.chain(seconds.iter().copied());
        strides
            .zip(extents)
            .fold((self.start, self.start), |(low, high), (stride, extent)| {
                let reach = stride * (extent as i64 - 1);
                (low + reach.min(0), high + reach.max(0))
            })
    }

    /// This without so many times another sum over the same axes.
    #[must_use]
    pub fn without(&self, times: i64, other: &Strides) -> Strides {
        let less = |own: &[i64], others: &[i64]| own.iter().zip(others).map(|(a, b)| a - times * b).collect();
        Strides {
            start: self.start - times * other.start,
            batch: self.batch - times * other.batch,
            first: less(&self.first, &other.first),
            second: less(&self.second, &other.second),
        }
    }
}
