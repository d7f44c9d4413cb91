//! Kernels and nests: a region of the graph as loops.
//!
//! A [`Kernel`] is the algorithm: what each element of each output is, as an expression over loop axes. [`build`] makes it
//! from a region. A [`Nest`] is the same with every decision made: loops in order, split and bound to lanes or workers,
//! staging buffers, contraction tiles. Schedules make it, emitters spell it, [`interp`] runs it.
//!
//! Reading order: [`prim`], [`expr`], this file, [`index`], [`build`], [`nest`], [`pieces`], [`verify`], [`text`], [`eval`], [`interp`].

pub mod build;
pub mod eval;
pub mod expr;
pub mod index;
pub mod interp;
pub mod nest;
pub mod pieces;
pub mod prim;
pub mod text;
pub mod verify;

pub use expr::{AxisId, BufferId, Combine, Expr, ExprId, Exprs, LocalId, Operands};
pub use nest::{Along, Bind, Contract, Limit, Lines, Local, Matrix, Nest, Operand, Product, Stmt, Strides};
pub use prim::Prim;

use std::hash::{Hash, Hasher};

use fnv::FnvHasher;

use crate::tensor::Type;

/// A loop variable: takes every value from 0 to `extent` - 1.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Axis {
    /// The name in dumps, unique within the kernel.
    pub name: String,
    /// The number of values (in a nest: the most it can be, see [`nest::Stmt::Loop`]).
    pub extent: usize,
}

/// What a kernel does with a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Only read.
    Input,
    /// Written; read only at the element about to be written.
    Output,
    /// Written, then read, by this kernel alone; one copy for each worker, not preserved between runs.
    WorkerScratch,
    /// Written, then read after a barrier, by this kernel alone; one copy for all workers.
    SharedScratch,
    /// On a GPU, the same within a workgroup: small memory close to its invocations, one copy for each `Group` iteration, forgotten after it.
    GroupScratch,
}

/// A tensor in memory that a kernel reads or writes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Buffer {
    /// The name in dumps, unique within the kernel.
    pub name: String,
    /// Element type, logical shape, physical layout.
    pub ty: Type,
    /// What it is for.
    pub role: Role,
}

/// One result of a kernel: `buffer[index] = value` for every value of the axes in `over`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Store {
    /// The buffer written; each element at most once.
    pub buffer: BufferId,
    /// The parallel axes this store ranges over: a prefix of the kernel's parallel axes.
    pub over: usize,
    /// The logical index written.
    pub index: Vec<ExprId>,
    /// The value, with folds over further axes.
    pub value: ExprId,
}

impl Store {
    fn roots_mut(&mut self) -> impl Iterator<Item = &mut ExprId> {
        self.index.iter_mut().chain([&mut self.value])
    }
}

/// The algorithm of one region: loops without order, tiles or threads.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Loop variables: the parallel ones first, then those that folds and updates introduce.
    pub axes: Vec<Axis>,
    /// The number of leading parallel axes.
    pub parallel: usize,
    /// Inputs and outputs, in the order of the executable's arguments.
    pub buffers: Vec<Buffer>,
    /// Every expression, see [`Kernel::in_order`].
    pub exprs: Exprs,
    /// What is computed.
    pub work: Work,
}

/// The shapes that a kernel's computation can have.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Work {
    /// Each output element is one expression: maps, folds, contractions, gathers and whatever fused with them.
    Stores(Vec<Store>),
    /// `buffer[index] = value(0) ∘ … ∘ value(i)` along the last parallel axis.
    Prefix {
        /// The result at each element; `value` is what enters there.
        store: Store,
        /// How values combine.
        with: Combine,
        /// Whether an element's own value is left out.
        exclusive: bool,
    },
    /// `buffer = initial`, then for every point of the `updates` axes in row-major order, `buffer[index] = buffer[index] ∘ value`
    /// where the index along `axis` is loaded, and an update outside the shape is dropped.
    Scatter {
        /// The starting value of each output element.
        initial: Store,
        /// The axes, among those after the parallel ones, that the updates range over.
        updates: Vec<AxisId>,
        /// The logical index of each update.
        index: Vec<ExprId>,
        /// The axis of the output whose index is data.
        axis: usize,
        /// How an update enters; `None` replaces.
        with: Option<Combine>,
        /// The update.
        value: ExprId,
    },
    /// `buffer[index]` = the stable order (an argsort, `i64`) of `key` along the last parallel axis; NaN sorts last.
    Sort {
        /// The result; `value` is the key at that element.
        store: Store,
        /// Largest first.
        descending: bool,
    },
}

impl Work {
    /// The expressions that it is made of, as they are read.
    pub fn roots(&self) -> Vec<ExprId> {
        self.clone().roots_mut().into_iter().map(|id| *id).collect()
    }

    /// The same of other expressions.
    #[must_use]
    pub fn with_roots(&self, new: impl Fn(ExprId) -> ExprId) -> Work {
        let mut work = self.clone();
        work.roots_mut().into_iter().for_each(|id| *id = new(*id));
        work
    }

    fn roots_mut(&mut self) -> Vec<&mut ExprId> {
        match self {
            Work::Stores(stores) => stores.iter_mut().flat_map(Store::roots_mut).collect(),
            Work::Prefix { store, .. } | Work::Sort { store, .. } => store.roots_mut().collect(),
            Work::Scatter {
                initial, index, value, ..
            } => initial.roots_mut().chain(index).chain([value]).collect(),
        }
    }
}

impl Kernel {
    /// The same with its expressions numbered as they are read, and no others: kernels are equal that read alike, however they were made.
    #[must_use]
    pub fn in_order(self) -> Kernel {
        let (exprs, ids) = self.exprs.only(&self.work.roots());
        let work = self.work.with_roots(|id| ids[&id]);
        Kernel { exprs, work, ..self }
    }

    /// A number that kernels have in common if they are the same code: the same in every process, so that files may name kernels by it.
    pub fn key(&self) -> u64 {
        let mut hasher = FnvHasher::default();
        self.parts().hash(&mut hasher);
        self.exprs.ids().for_each(|id| self.exprs.get(id).hash(&mut hasher));
        self.exprs.constants().iter().for_each(|known| known.hash(&mut hasher));
        hasher.finish()
    }

    /// Whether two kernels are the same code, by whatever names.
    pub fn is_same(&self, other: &Kernel) -> bool {
        self.parts() == other.parts()
            && self.exprs.len() == other.exprs.len()
            && self.exprs.constants() == other.exprs.constants()
            && self.exprs.ids().all(|id| self.exprs.get(id) == other.exprs.get(id))
    }

    /// What makes kernels the same code, beside their expressions: everything but names.
    fn parts(&self) -> (Vec<usize>, usize, Vec<(&Type, Role)>, &Work) {
        let axes = self.axes.iter().map(|axis| axis.extent).collect();
        let buffers = self.buffers.iter().map(|buffer| (&buffer.ty, buffer.role)).collect();
        (axes, self.parallel, buffers, &self.work)
    }
}

impl PartialEq for Kernel {
    fn eq(&self, other: &Kernel) -> bool {
        (&self.axes, &self.buffers) == (&other.axes, &other.buffers) && self.is_same(other)
    }
}

impl Eq for Kernel {}
