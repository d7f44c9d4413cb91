//! Checks kernels before schedules are made of them: of one that passes, every result is one value of the right type at each element, made of
//! nothing but elements of its inputs.

use std::collections::HashSet;

use super::Broken;
use crate::dtype::DType;
use crate::kernel::index::is_within;
use crate::kernel::{Axis, AxisId, Buffer, BufferId, Combine, Expr, ExprId, Kernel, Role, Store, Work};
use crate::ops::fold::check_combines;

/// The most expressions of a kernel: what schedules ask about them is bounded, whatever a text holds.
const MOST_EXPRS: usize = 1 << 16;

/// The most axes that a value depends on at once: those of the tensors are fewer.
const MOST_FREE: usize = 128;

/// The most values that a kernel combines for all its results, so that no count of them overflows.
const MOST_POINTS: usize = 1 << 56;

/// Every rule of kernels, with what is wrong otherwise:
///
/// - the parallel axes are the index of each store, each once, and as long as what is written; each output is stored once;
/// - every load, unless guarded, lies within its buffer, an input, for all values of the axes;
/// - an axis that is not parallel is folded by one fold and used within it alone, or is one that an update ranges over;
/// - types agree.
///
/// # Errors
/// Everything that is wrong.
pub fn verify_kernel(kernel: &Kernel) -> Result<(), Vec<Broken>> {
    let mut check = Check {
        kernel,
        facts: Vec::new(),
        folded: HashSet::new(),
        stored: HashSet::new(),
        present: None,
        broken: Vec::new(),
    };
    let count = kernel.exprs.len();
    if check.require(count <= MOST_EXPRS, || {
        format!("a kernel of {count} expressions is too large: cut its region into several")
    }) {
        check.work();
    }
    match check.broken.is_empty() {
        true => Ok(()),
        false => Err(check.broken),
    }
}

/// What is known of an expression.
struct Facts {
    /// The axes that it depends on, ascending.
    free: Vec<AxisId>,
    /// How many values are combined for one of it.
    points: usize,
}

struct Check<'a> {
    kernel: &'a Kernel,
    /// Of the expressions looked at: all up to some id, since operands come before users.
    facts: Vec<Facts>,
    /// The axes of all folds so far.
    folded: HashSet<AxisId>,
    /// What is stored so far.
    stored: HashSet<BufferId>,
    /// The number of the statement looked at.
    present: Option<usize>,
    broken: Vec<Broken>,
}

impl Check<'_> {
    fn require(&mut self, holds: bool, message: impl FnOnce() -> String) -> bool {
        if !holds {
            self.broken.push(Broken {
                stmt: self.present,
                message: message(),
            });
        }
        holds
    }

    fn axis(&self, axis: AxisId) -> &Axis {
        &self.kernel.axes[axis.at()]
    }

    fn points(&self, axes: &[AxisId]) -> usize {
        let extents = axes.iter().map(|&axis| self.axis(axis).extent.max(1));
        extents.fold(1, usize::saturating_mul)
    }

    fn work(&mut self) {
        let kernel = self.kernel;
        self.present = Some(0);
        match &kernel.work {
            Work::Stores(stores) => {
                for (number, store) in stores.iter().enumerate() {
                    self.present = Some(number);
                    self.store(store);
                    self.value(store.value, kernel.buffers[store.buffer.at()].ty.dtype);
                }
            }
            Work::Prefix { store, with, .. } => {
                self.along(store, "prefix");
                self.combines(*with, kernel.exprs.dtype(store.value));
                self.value(store.value, kernel.buffers[store.buffer.at()].ty.dtype);
            }
            Work::Sort { store, .. } => {
                self.along(store, "order");
                let dtype = kernel.buffers[store.buffer.at()].ty.dtype;
                self.require(dtype == DType::I64, || format!("an order is of i64, not of {dtype}"));
            }
            Work::Scatter {
                initial,
                updates,
                index,
                axis,
                with,
                value,
            } => {
                let ty = &kernel.buffers[initial.buffer.at()].ty;
                self.store(initial);
                self.value(initial.value, ty.dtype);
                self.present = Some(1);
                if let Some(with) = with {
                    self.combines(*with, ty.dtype);
                }
                self.require(*axis < ty.rank(), || format!("there is no axis {axis} of {ty}"));
                let roots: Vec<ExprId> = index.iter().chain([value]).copied().collect();
                self.roots(&roots, updates);
                self.value(*value, ty.dtype);
                let others = index.iter().zip(&ty.shape).enumerate();
                for (place, (&at, &extent)) in others.filter(|(place, _)| place != axis) {
                    self.within(initial.buffer, "update of", place, at, extent);
                }
            }
        }
        self.present = None;
        for (buffer, number) in kernel.buffers.iter().zip(0..) {
            let is_stored = buffer.role != Role::Output || self.stored.contains(&BufferId(number));
            self.require(is_stored, || format!("nothing stores `{}`", buffer.name));
        }
    }

    /// A store in which elements depend on others along the last parallel axis.
    fn along(&mut self, store: &Store, what: &str) {
        self.store(store);
        let kernel = self.kernel;
        self.require(store.over > 0 && store.over == kernel.parallel, || {
            format!("a {what} is along the last parallel axis, which it stores at")
        });
    }

    /// A store at each element of its buffer, once.
    fn store(&mut self, store: &Store) {
        let kernel = self.kernel;
        let Buffer { name, ty, role } = &kernel.buffers[store.buffer.at()];
        self.require(*role == Role::Output, || format!("`{name}` is stored, and no output"));
        let is_new = self.stored.insert(store.buffer);
        self.require(is_new, || format!("`{name}` is stored twice"));
        let axes = store.index.iter().map(|&at| match kernel.exprs.get(at) {
            Expr::Axis(axis) if axis.at() < kernel.parallel.min(store.over) => Some(*axis),
            _ => None,
        });
        let axes: Vec<AxisId> = axes.flatten().collect();
        let extents = axes.iter().map(|&axis| self.axis(axis).extent);
        let is_whole = extents.eq(ty.shape.iter().copied()) && axes.iter().collect::<HashSet<_>>().len() == store.over;
        self.require(is_whole, || {
            format!("a store to `{name}` is at the first parallel axes, one for each axis of {ty} and as long")
        });
        let over: Vec<AxisId> = (0..store.over as u32).map(AxisId).collect();
        self.roots(&[store.value], &over);
    }

    /// What a statement over these axes is made of.
    fn roots(&mut self, roots: &[ExprId], over: &[AxisId]) {
        for &root in roots {
            while self.facts.len() <= root.at() {
                let facts = self.expr(ExprId(self.facts.len() as u32));
                self.facts.push(facts);
            }
            let Facts { free, points } = &self.facts[root.at()];
            let points = points.saturating_mul(self.points(over));
            if let Some(axis) = free.iter().copied().find(|axis| !over.contains(axis)) {
                let name = &self.kernel.axes[axis.at()].name;
                self.require(false, || match axis.at() < self.kernel.parallel {
                    true => format!("axis `{name}` is not one of this statement"),
                    false => format!("axis `{name}` is used outside its fold"),
                });
            }
            self.require(points <= MOST_POINTS, || {
                format!("more than {MOST_POINTS} values are combined for a result")
            });
        }
    }

    /// Whether the value of a statement has the type of what it is stored to.
    fn value(&mut self, value: ExprId, dtype: DType) {
        let found = self.kernel.exprs.dtype(value);
        self.require(found == dtype, || {
            format!("a value of type {found} stands where {dtype} is needed")
        });
    }

    fn combines(&mut self, with: Combine, dtype: DType) {
        if let Err(message) = check_combines(with, dtype) {
            self.require(false, || format!("`{}` {message}", with.name()));
        }
    }

    fn within(&mut self, buffer: BufferId, what: &str, place: usize, at: ExprId, extent: usize) {
        let kernel = self.kernel;
        let name = &kernel.buffers[buffer.at()].name;
        self.require(is_within(&kernel.exprs, at, extent), || {
            format!("{what} `{name}`: index {place} may lie outside 0..{extent}")
        });
    }

    /// One expression, whose operands are known.
    fn expr(&mut self, id: ExprId) -> Facts {
        let kernel = self.kernel;
        let exprs = &kernel.exprs;
        let operands = exprs.operands(id).iter().map(|operand| &self.facts[operand.at()]);
        let mut free: Vec<AxisId> = operands.clone().flat_map(|facts| facts.free.iter().copied()).collect();
        let mut points = operands.map(|facts| facts.points).max().unwrap_or(1);
        free.sort_unstable();
        free.dedup();
        let dtype = exprs.dtype(id);
        match exprs.get(id) {
            Expr::Const(..) => {}
            Expr::Axis(axis) => free.push(*axis),
            Expr::Load { buffer, index, guarded } => {
                let Buffer { name, ty, role } = &kernel.buffers[buffer.at()];
                self.require(*role == Role::Input, || format!("`{name}` is read, and no input"));
                for (place, (&at, &extent)) in index.iter().zip(&ty.shape).enumerate().filter(|_| !guarded) {
                    self.within(*buffer, "load of", place, at, extent);
                }
            }
            Expr::Prim(prim, to, args) => {
                let types: Vec<DType> = args.iter().map(|&arg| exprs.dtype(arg)).collect();
                let is_taken = prim.infer(Some(*to), &types) == Some(dtype);
                self.require(is_taken, || format!("`{}` does not give {dtype} here", prim.name()));
            }
            Expr::Fold { with, over, value } => {
                self.combines(*with, exprs.dtype(*value));
                for &axis in over {
                    let name = &self.kernel.axes[axis.at()].name;
                    let is_other = match &kernel.work {
                        Work::Scatter { updates, .. } => updates.contains(&axis),
                        _ => false,
                    };
                    self.require(axis.at() >= kernel.parallel && !is_other, || {
                        format!("axis `{name}` is folded, and results have it")
                    });
                    let is_new = self.folded.insert(axis);
                    self.require(is_new, || format!("axis `{name}` is folded twice"));
                }
                free.retain(|axis| !over.contains(axis));
                points = points.saturating_mul(self.points(over));
            }
            Expr::Local(..) => drop(self.require(false, || "a local is left in the kernel".to_owned())),
        }
        if !self.require(free.len() <= MOST_FREE, || {
            format!("a value depends on more than {MOST_FREE} axes")
        }) {
            free.clear();
        }
        Facts { free, points }
    }
}
