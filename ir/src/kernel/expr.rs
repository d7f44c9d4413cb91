//! Expressions: what a kernel computes at one index.
//!
//! Expressions live in one arena, [`Exprs`], and are interned: equal expressions have equal ids, so a kernel is a DAG and a
//! common subexpression is computed once. Operands come before users. Index arithmetic is ordinary `i64` arithmetic.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashMap, HashTable};
use smallvec::SmallVec;

use super::Prim;
use crate::dtype::{DType, Scalar};
use crate::tensor::Tensor;

/// Defines an index into one of a kernel's arenas.
macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub u32);

        impl $name {
            /// The position in its arena.
            pub fn at(self) -> usize {
                self.0 as usize
            }
        }
    };
}
id!(
    /// An expression in [`Exprs`].
    ExprId
);
id!(
    /// A loop variable: a position in `axes`.
    AxisId
);
id!(
    /// A tensor in memory: a position in `buffers`.
    BufferId
);
id!(
    /// A scalar register of a nest: a position in `locals`.
    LocalId
);

/// How two partial results of a fold become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the variants are their own documentation")]
pub enum Combine {
    Sum,
    Product,
    Max,
    Min,
    Any,
    All,
}

impl Combine {
    /// Every combiner, in order.
    pub const ALL: [Combine; 6] = [
        Combine::Sum,
        Combine::Product,
        Combine::Max,
        Combine::Min,
        Combine::Any,
        Combine::All,
    ];

    /// The name in the text form.
    pub fn name(self) -> &'static str {
        match self {
            Combine::Sum => "sum",
            Combine::Product => "prod",
            Combine::Max => "max",
            Combine::Min => "min",
            Combine::Any => "any",
            Combine::All => "all",
        }
    }

    /// What a fold over nothing gives. For floats, max starts at -∞ and min at +∞.
    pub fn identity(self, dtype: DType) -> Scalar {
        match (self, dtype.int_range()) {
            (Combine::Sum, _) => Scalar::zero(dtype),
            (Combine::Product, _) => Scalar::one(dtype),
            (Combine::Max, Some((low, _))) => Scalar::Int(low),
            (Combine::Min, Some((_, high))) => Scalar::Int(high),
            (Combine::Max, None) if dtype.is_float() => Scalar::Float(f64::NEG_INFINITY),
            (Combine::Min, None) if dtype.is_float() => Scalar::Float(f64::INFINITY),
            (Combine::Max | Combine::Any, _) => Scalar::Bool(false),
            (Combine::Min | Combine::All, _) => Scalar::Bool(true),
        }
    }

    /// The primitive that combines two numbers; see [`Combine::apply`] for NaN.
    pub fn prim(self) -> Prim {
        match self {
            Combine::Sum => Prim::Add,
            Combine::Product => Prim::Mul,
            Combine::Max => Prim::Max,
            Combine::Min => Prim::Min,
            Combine::Any => Prim::Or,
            Combine::All => Prim::And,
        }
    }

    /// Adds to `exprs` the combination of `state` with one more `value`.
    ///
    /// Max and min of floats propagate NaN, as NumPy's do: once the state is NaN it stays.
    pub fn apply(self, exprs: &mut Exprs, state: ExprId, value: ExprId) -> ExprId {
        let dtype = exprs.dtype(value);
        let prim = self.prim();
        // `Prim::Max` and `Prim::Min` give the second operand if either is NaN: a NaN value enters by itself, and a
        // NaN state is kept by hand.
        let combined = exprs.prim(prim, dtype, &[state, value]);
        if dtype.is_float() && matches!(self, Combine::Max | Combine::Min) {
            let is_number = exprs.prim(Prim::Eq, DType::Bool, &[state, state]);
            exprs.prim(Prim::Select, dtype, &[is_number, combined, state])
        } else {
            combined
        }
    }
}

/// The operands of an expression: few, so that most need no memory of their own.
pub type Operands = SmallVec<[ExprId; 4]>;

/// One expression. Operands are ids below its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Expr {
    /// A constant, as its bits in memory.
    Const(DType, u64),
    /// The value of a loop variable, an `i64`.
    Axis(AxisId),
    /// An element of a buffer at a *logical* index, one `i64` an axis.
    ///
    /// Unguarded, every index must provably lie within the buffer's shape. Guarded, an element outside reads as zero.
    Load {
        /// The buffer read.
        buffer: BufferId,
        /// The logical index.
        index: Operands,
        /// Whether reads outside the shape give zero.
        guarded: bool,
    },
    /// A primitive, the type of its result, and its operands.
    Prim(Prim, DType, Operands),
    /// The combination of `value` over every value of the `over` axes, taken in row-major order of `over`. In kernels only.
    Fold {
        /// How partial results combine.
        with: Combine,
        /// The axes folded away, outermost first.
        over: Vec<AxisId>,
        /// The value folded, which may use the `over` axes.
        value: ExprId,
    },
    /// The present value of a scalar register. In nests only.
    Local(LocalId, DType),
}

impl Expr {
    fn operands_mut(&mut self) -> &mut [ExprId] {
        match self {
            Expr::Const(..) | Expr::Axis(_) | Expr::Local(..) => &mut [],
            Expr::Load { index, .. } => index,
            Expr::Prim(_, _, args) => args,
            Expr::Fold { value, .. } => std::slice::from_mut(value),
        }
    }
}

/// An arena of interned expressions with their types and ranges.
///
/// It knows the extents of the axes it was told of ([`Exprs::add_axis`]): ranges of indices, and with them simplification and
/// proofs of bounds, rest on these. Of small constants it knows the elements ([`Exprs::add_constant`]): where one is loaded from a place that is
/// known, it is a number in the code.
#[derive(Clone, Debug, Default)]
pub struct Exprs {
    exprs: Vec<Expr>,
    dtypes: Vec<DType>,
    /// The least and greatest value of each integer expression, where known.
    ranges: Vec<Option<(i64, i64)>>,
    /// Each expression by its hash.
    ids: HashTable<(u64, ExprId)>,
    hasher: DefaultHashBuilder,
    /// By axis; the same as in the kernel's or nest's `axes`.
    extents: Vec<usize>,
    constants: BTreeMap<BufferId, Arc<Tensor>>,
}

impl Exprs {
    /// Says what a buffer, which is only read, holds.
    pub fn add_constant(&mut self, buffer: BufferId, tensor: Arc<Tensor>) {
        self.constants.insert(buffer, tensor);
    }

    /// The buffers of which it is known what they hold.
    pub fn constants(&self) -> &BTreeMap<BufferId, Arc<Tensor>> {
        &self.constants
    }

    /// The next axis, counted from 0, taking the values 0 to `extent` - 1. The kernel or nest that has these expressions keeps an
    /// [`Axis`](super::Axis) of the same extent at this position.
    pub fn add_axis(&mut self, extent: usize) -> AxisId {
        self.extents.push(extent);
        AxisId(self.extents.len() as u32 - 1)
    }

    /// The extent of an axis, if it was added.
    pub fn extent(&self, axis: AxisId) -> Option<usize> {
        self.extents.get(axis.at()).copied()
    }

    /// The least and greatest value of an integer expression; `None` if nothing is known, or if it may wrap.
    pub fn range(&self, id: ExprId) -> Option<(i64, i64)> {
        self.ranges[id.at()]
    }

    /// The expression of that id.
    pub fn get(&self, id: ExprId) -> &Expr {
        &self.exprs[id.at()]
    }

    /// The type of the expression's value.
    pub fn dtype(&self, id: ExprId) -> DType {
        self.dtypes[id.at()]
    }

    /// The number of expressions.
    pub fn len(&self) -> usize {
        self.exprs.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.exprs.is_empty()
    }

    /// Every id, operands before users.
    pub fn ids(&self) -> impl Iterator<Item = ExprId> + use<> {
        (0..self.exprs.len() as u32).map(ExprId)
    }

    /// Adds an expression of a type, or finds its equal. Simplification is [`super::index`]'s part.
    pub fn intern(&mut self, expr: Expr, dtype: DType) -> ExprId {
        let hash = self.hasher.hash_one(&expr);
        if let Some(id) = self.find_hashed(&expr, hash) {
            return id;
        }
        let id = ExprId(self.exprs.len() as u32);
        self.ranges.push(super::index::range_of(self, &expr, dtype));
        self.exprs.push(expr);
        self.dtypes.push(dtype);
        self.ids.insert_unique(hash, (hash, id), |&(hash, _)| hash);
        id
    }

    /// The id of an expression, if it is in the arena.
    pub fn find(&self, expr: &Expr) -> Option<ExprId> {
        self.find_hashed(expr, self.hasher.hash_one(expr))
    }

    fn find_hashed(&self, expr: &Expr, hash: u64) -> Option<ExprId> {
        let found = self.ids.find(hash, |&(_, id)| self.get(id) == expr);
        found.map(|&(_, id)| id)
    }

    /// A constant.
    pub fn constant(&mut self, dtype: DType, value: Scalar) -> ExprId {
        self.intern(Expr::Const(dtype, value.cast(dtype).to_bits(dtype)), dtype)
    }

    /// An `i64` constant, for indices.
    pub fn int(&mut self, value: i64) -> ExprId {
        self.intern(Expr::Const(DType::I64, value as u64), DType::I64)
    }

    /// The value of a loop variable.
    pub fn axis(&mut self, axis: AxisId) -> ExprId {
        self.intern(Expr::Axis(axis), DType::I64)
    }

    /// The present value of a scalar register.
    pub fn local(&mut self, local: LocalId, dtype: DType) -> ExprId {
        self.intern(Expr::Local(local, dtype), dtype)
    }

    /// An element of a buffer whose element type is `dtype`; the number itself, where that is known.
    pub fn load(&mut self, buffer: BufferId, dtype: DType, index: impl Into<Operands>, guarded: bool) -> ExprId {
        let index = index.into();
        if let Some(tensor) = self.constants.get(&buffer).filter(|_| !guarded) {
            let places = index.iter().zip(tensor.shape());
            let row_major = places.into_iter().try_fold(0, |row, (&at, &extent)| {
                let at = usize::try_from(self.as_int(at)?).ok()?;
                (at < extent).then_some(row * extent + at)
            });
            if let Some(place) = row_major {
                let element = tensor.get(place);
                return self.constant(dtype, element);
            }
        }
        self.intern(Expr::Load { buffer, index, guarded }, dtype)
    }

    /// A fold of `value` over axes; over none it is the value itself.
    pub fn fold(&mut self, with: Combine, over: Vec<AxisId>, value: ExprId) -> ExprId {
        if over.is_empty() {
            return value;
        }
        let dtype = self.dtype(value);
        self.intern(Expr::Fold { with, over, value }, dtype)
    }

    /// A primitive with result type `dtype`; constant operands are folded, and integer identities simplified, by
    /// [`super::index::simplify`].
    ///
    /// # Panics
    /// If the number of operands is not the primitive's.
    pub fn prim(&mut self, prim: Prim, dtype: DType, args: &[ExprId]) -> ExprId {
        assert_eq!(args.len(), prim.arity(), "operands of `{}`", prim.name());
        match super::index::simplify(self, prim, dtype, args) {
            Some(simpler) => simpler,
            None => self.intern(Expr::Prim(prim, dtype, args.into()), dtype),
        }
    }

    /// The constant that an expression is, if it is one.
    pub fn as_const(&self, id: ExprId) -> Option<Scalar> {
        match *self.get(id) {
            Expr::Const(dtype, bits) => Some(Scalar::from_bits(bits, dtype)),
            _ => None,
        }
    }

    /// The constant that an `i64` expression is, if it is one.
    pub fn as_int(&self, id: ExprId) -> Option<i64> {
        match *self.get(id) {
            Expr::Const(DType::I64, bits) => Some(bits as i64),
            _ => None,
        }
    }

    /// Every expression that some are made of, themselves included, operands first.
    pub fn below(&self, roots: &[ExprId]) -> BTreeSet<ExprId> {
        let (mut seen, mut open) = (BTreeSet::new(), roots.to_vec());
        while let Some(id) = open.pop() {
            if seen.insert(id) {
                open.extend(self.operands(id));
            }
        }
        seen
    }

    /// The same in the order in which they are read: operands before users, from left to right.
    pub fn in_order(&self, roots: &[ExprId]) -> Vec<ExprId> {
        let (mut order, mut is_met) = (Vec::new(), vec![false; self.len()]);
        // What is closed has had its operands.
        let mut open: Vec<(ExprId, bool)> = roots.iter().rev().map(|&id| (id, false)).collect();
        while let Some((id, is_closed)) = open.pop() {
            if is_closed {
                order.push(id);
            } else if !std::mem::replace(&mut is_met[id.at()], true) {
                open.push((id, true));
                open.extend(self.operands(id).iter().rev().map(|&operand| (operand, false)));
            }
        }
        order
    }

    /// An arena of only what some are made of, numbered in the order in which it is read, and the new ids by the old.
    pub fn only(&self, roots: &[ExprId]) -> (Exprs, HashMap<ExprId, ExprId>) {
        let mut only = Exprs {
            extents: self.extents.clone(),
            constants: self.constants.clone(),
            ..Exprs::default()
        };
        let mut ids = HashMap::new();
        for id in self.in_order(roots) {
            let mut expr = self.get(id).clone();
            expr.operands_mut()
                .iter_mut()
                .for_each(|operand| *operand = ids[operand]);
            ids.insert(id, only.intern(expr, self.dtype(id)));
        }
        (only, ids)
    }

    /// The direct operands of an expression, index operands of loads included.
    pub fn operands(&self, id: ExprId) -> &[ExprId] {
        match self.get(id) {
            Expr::Const(..) | Expr::Axis(_) | Expr::Local(..) => &[],
            Expr::Load { index, .. } => index,
            Expr::Prim(_, _, args) => args,
            Expr::Fold { value, .. } => std::slice::from_ref(value),
        }
    }
}
