//! A nest in the making, and questions about the expressions it is made from.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use netloom_ir::decisions::Decisions;
use netloom_ir::kernel::index::{self, Affine};
use netloom_ir::kernel::{
    Axis, AxisId, Bind, Buffer, BufferId, Combine, Expr, ExprId, Exprs, Kernel, Local, LocalId, Nest, Prim, Role, Stmt,
    Store,
};
use netloom_ir::layout::Layout;
use netloom_ir::target::TargetKind;
use netloom_ir::{DType, Target, Type};

/// Values that are written in one set of loops: `buffer[index] = value` for all values of the `over` axes.
#[derive(Clone, Debug)]
pub struct Task {
    pub buffer: BufferId,
    pub over: Vec<AxisId>,
    pub index: Vec<ExprId>,
    pub value: ExprId,
}

impl Task {
    /// A store of a kernel.
    pub fn of(store: &Store) -> Task {
        let over = (0..store.over as u32).map(AxisId).collect();
        Task {
            buffer: store.buffer,
            over,
            index: store.index.clone(),
            value: store.value,
        }
    }
}

/// How finely work is shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grain {
    /// Among few workers: blocks, which each walks in vector lanes.
    Blocks,
    /// Among the many invocations of a GPU: single elements.
    Elements,
}

impl Grain {
    /// The grain of a machine.
    fn of(target: &Target) -> Grain {
        match target.kind {
            TargetKind::Cpu => Grain::Blocks,
            TargetKind::Vulkan => Grain::Elements,
        }
    }

    /// A fold over more elements than this is cut, if it has fewer than [`Draft::few`] results. On a GPU a guess.
    pub fn long(self) -> usize {
        match self {
            Grain::Blocks => 4096,
            Grain::Elements => 256,
        }
    }
}

/// The nest so far. Both arenas know the same axes.
pub struct Draft {
    kind: TargetKind,
    pub grain: Grain,
    /// What cost models need not decide.
    pub decisions: Decisions,
    /// Fewer shares than this leave the machine idle.
    pub few: usize,
    /// What is computed: the kernel's expressions, with folds.
    pub source: Exprs,
    /// The nest's expressions.
    pub exprs: Exprs,
    pub axes: Vec<Axis>,
    pub buffers: Vec<Buffer>,
    /// How the kernel's buffers lie, whatever shapes they are seen in.
    layouts: Vec<Layout>,
    pub locals: Vec<Local>,
    /// Of copies with zeros around, what lies within these along each axis: from where on, and up to where.
    pub within: HashMap<BufferId, Vec<(i64, i64)>>,
}

impl Draft {
    pub fn new(kernel: &Kernel, target: &Target) -> Draft {
        let mut exprs = Exprs::default();
        for axis in &kernel.axes {
            exprs.add_axis(axis.extent);
        }
        for (&buffer, tensor) in kernel.exprs.constants() {
            exprs.add_constant(buffer, Arc::clone(tensor));
        }
        Draft {
            kind: target.kind,
            grain: Grain::of(target),
            decisions: target.tuned.of(kernel),
            few: match target.kind {
                TargetKind::Cpu => 64,
                TargetKind::Vulkan => target.invocations.max(1024),
            },
            source: kernel.exprs.clone(),
            exprs,
            axes: kernel.axes.clone(),
            buffers: kernel.buffers.clone(),
            layouts: kernel.buffers.iter().map(|buffer| buffer.ty.layout.clone()).collect(),
            locals: Vec::new(),
            within: HashMap::new(),
        }
    }

    pub fn nest(self, name: &str, body: Vec<Stmt>) -> Nest {
        let Draft {
            kind,
            exprs,
            axes,
            buffers,
            layouts,
            locals,
            ..
        } = self;
        Nest {
            name: name.into(),
            kind,
            axes,
            buffers,
            layouts,
            locals,
            exprs,
            body,
        }
    }

    /// A new axis.
    pub fn axis(&mut self, name: &str, extent: usize) -> AxisId {
        self.source.add_axis(extent);
        let axis = self.exprs.add_axis(extent);
        assert_eq!(axis.at(), self.axes.len(), "the arenas know the draft's axes");
        self.axes.push(Axis {
            name: format!("{name}_{}", axis.at()),
            extent,
        });
        axis
    }

    pub fn extent(&self, axis: AxisId) -> usize {
        self.axes[axis.at()].extent
    }

    /// The number of points of several axes.
    pub fn count<'a>(&self, axes: impl IntoIterator<Item = &'a AxisId>) -> usize {
        axes.into_iter().map(|&axis| self.extent(axis)).product()
    }

    pub fn scratch(&mut self, name: &str, dtype: DType, shape: Vec<usize>, role: Role) -> BufferId {
        let name = format!("{name}_{}", self.buffers.len());
        self.buffers.push(Buffer {
            name,
            ty: Type::new(dtype, shape),
            role,
        });
        BufferId(self.buffers.len() as u32 - 1)
    }

    pub fn local(&mut self, name: &str, dtype: DType) -> LocalId {
        self.locals.push(Local {
            name: format!("{name}_{}", self.locals.len()),
            dtype,
        });
        LocalId(self.locals.len() as u32 - 1)
    }

    pub fn int(&mut self, value: usize) -> ExprId {
        self.exprs.int(value as i64)
    }

    pub fn i64(&mut self, prim: Prim, a: ExprId, b: ExprId) -> ExprId {
        self.exprs.prim(prim, DType::I64, &[a, b])
    }

    /// `a * factor + b`
    pub fn mul_add(&mut self, a: ExprId, factor: usize, b: ExprId) -> ExprId {
        let factor = self.int(factor);
        let product = self.i64(Prim::Mul, a, factor);
        self.i64(Prim::Add, product, b)
    }

    /// How many of `extent` elements there are from `start` on, at most `most`.
    pub fn rest(&mut self, extent: usize, start: ExprId, most: usize) -> ExprId {
        let [extent, most] = [extent, most].map(|value| self.int(value));
        let rest = self.i64(Prim::Sub, extent, start);
        self.i64(Prim::Min, rest, most)
    }

    /// A loop over all values of an axis; none if there is only one statement list to run once.
    pub fn all(&mut self, axis: AxisId, bind: Bind, body: Vec<Stmt>) -> Stmt {
        let extent = self.int(self.extent(axis));
        Stmt::Loop {
            axis,
            extent,
            bind,
            body,
        }
    }

    /// One axis that stands for several, to be shared among workers, and the value of each of them.
    pub fn share(&mut self, axes: &[AxisId]) -> (AxisId, Vec<ExprId>) {
        let task = self.axis("task", self.count(axes));
        let extents: Vec<usize> = axes.iter().map(|&axis| self.extent(axis)).collect();
        let number = self.exprs.axis(task);
        (task, self.digits(number, &extents))
    }

    /// The digits of a number, the outermost first.
    pub fn digits(&mut self, number: ExprId, extents: &[usize]) -> Vec<ExprId> {
        let mut rest = number;
        let mut digits = Vec::new();
        for (place, &extent) in extents.iter().enumerate().rev() {
            let extent = self.int(extent);
            digits.push(match place {
                0 => rest,
                _ => self.i64(Prim::Rem, rest, extent),
            });
            rest = self.i64(Prim::Div, rest, extent);
        }
        digits.reverse();
        digits
    }

    /// `index` moved to the nearest place in `0..extent`.
    pub fn clamp(&mut self, index: ExprId, extent: usize) -> ExprId {
        let [first, last] = [0, extent.saturating_sub(1)].map(|value| self.int(value));
        let raised = self.i64(Prim::Max, index, first);
        self.i64(Prim::Min, raised, last)
    }

    /// What something of `extent` elements has at a place, which may lie beyond: the nearest place in it, and whether that is the one.
    pub fn edge(&mut self, wanted: ExprId, extent: usize) -> (ExprId, ExprId) {
        let last = self.int(extent - 1);
        let is_inside = self.exprs.prim(Prim::Le, DType::Bool, &[wanted, last]);
        (self.clamp(wanted, extent), is_inside)
    }

    /// Statements that run where all of these hold.
    pub fn under(&mut self, conditions: impl IntoIterator<Item = ExprId>, body: Vec<Stmt>) -> Vec<Stmt> {
        let all = conditions
            .into_iter()
            .reduce(|one, other| self.exprs.prim(Prim::And, DType::Bool, &[one, other]));
        match all {
            None => body,
            Some(condition) => vec![Stmt::If {
                condition,
                then: body,
                otherwise: Vec::new(),
            }],
        }
    }

    /// What stands in the nest for axes.
    pub fn known(&mut self, axes: &[AxisId], values: &[ExprId]) -> Vec<(ExprId, ExprId)> {
        let keys = axes.iter().map(|&axis| self.source.axis(axis));
        keys.zip(values.iter().copied()).collect()
    }

    /// What stands in the nest for axes, from the number of a point of theirs.
    pub fn known_at(&mut self, axes: &[AxisId], number: ExprId) -> Vec<(ExprId, ExprId)> {
        let extents: Vec<usize> = axes.iter().map(|&axis| self.extent(axis)).collect();
        let digits = self.digits(number, &extents);
        self.known(axes, &digits)
    }

    /// Nested loops.
    pub fn nested(&mut self, axes: &[AxisId], body: Vec<Stmt>) -> Vec<Stmt> {
        axes.iter()
            .rev()
            .fold(body, |body, &axis| vec![self.all(axis, Bind::Serial, body)])
    }

    /// The value in the nest of an expression of the source, with replacements.
    pub fn import(&mut self, known: &mut HashMap<ExprId, ExprId>, id: ExprId) -> ExprId {
        index::substitute(&self.source, &mut self.exprs, known, id)
    }

    /// What tasks store, with replacements.
    pub fn stores(&mut self, tasks: &[Task], known: &mut HashMap<ExprId, ExprId>) -> Vec<Stmt> {
        let stores = tasks.iter().map(|task| Stmt::Store {
            buffer: task.buffer,
            index: task.index.iter().map(|&id| self.import(known, id)).collect(),
            value: self.import(known, task.value),
        });
        stores.collect()
    }

    /// The same expression of the source with one replaced.
    pub fn replace(&mut self, known: &HashMap<ExprId, ExprId>, id: ExprId) -> ExprId {
        let from = self.source.clone();
        index::substitute(&from, &mut self.source, &mut known.clone(), id)
    }

    /// Rewrites expressions of the source with replacements, which what is rewritten joins, the axes of their folds, and the indices of their
    /// loads.
    pub fn rewrite(
        &mut self,
        roots: &[ExprId],
        known: &mut HashMap<ExprId, ExprId>,
        axes: impl Fn(&[AxisId]) -> Vec<AxisId>,
        index: impl Fn(&mut Draft, BufferId, Vec<ExprId>) -> Vec<ExprId>,
    ) -> Vec<ExprId> {
        for id in self.below(roots) {
            if known.contains_key(&id) {
                continue;
            }
            let dtype = self.source.dtype(id);
            let new = |operands: &[ExprId]| -> Vec<ExprId> { operands.iter().map(|operand| known[operand]).collect() };
            let new = match self.source.get(id).clone() {
                Expr::Load {
                    buffer,
                    index: at,
                    guarded,
                } => {
                    let at = index(self, buffer, new(&at));
                    self.source.load(buffer, dtype, at, guarded)
                }
                Expr::Prim(prim, dtype, args) => self.source.prim(prim, dtype, &new(&args)),
                Expr::Fold { with, over, value } => self.source.fold(with, axes(&over), known[&value]),
                Expr::Const(..) | Expr::Axis(_) | Expr::Local(..) => id,
            };
            known.insert(id, new);
        }
        roots.iter().map(|id| known[id]).collect()
    }

    /// The same fold with one of its axes replaced by another, in the value too.
    pub fn refold(&mut self, fold: ExprId, axis: AxisId, by: AxisId, at: ExprId) -> ExprId {
        let Expr::Fold { with, mut over, value } = self.source.get(fold).clone() else {
            unreachable!("a fold")
        };
        let known = HashMap::from([(self.source.axis(axis), at)]);
        let value = self.replace(&known, value);
        over.iter_mut()
            .filter(|kept| **kept == axis)
            .for_each(|kept| *kept = by);
        self.source.fold(with, over, value)
    }

    /// The same fold along one of its axes outside all others.
    pub fn outermost(&mut self, fold: ExprId, axis: AxisId) -> ExprId {
        let Expr::Fold { with, over, value } = self.source.get(fold).clone() else {
            unreachable!("a fold")
        };
        let others = over.into_iter().filter(|&other| other != axis);
        let over = [axis].into_iter().chain(others).collect();
        self.source.fold(with, over, value)
    }

    /// The axes of a fold.
    pub fn folded(&self, fold: ExprId) -> Vec<AxisId> {
        match self.source.get(fold) {
            Expr::Fold { over, .. } => over.clone(),
            _ => unreachable!("a fold"),
        }
    }

    /// Every expression of the source below one, itself included, operands first.
    pub fn below(&self, roots: &[ExprId]) -> Vec<ExprId> {
        self.source.below(roots).into_iter().collect()
    }

    /// The axes and the two factors of a fold that sums products.
    pub fn factors(&self, fold: ExprId) -> Option<(Vec<AxisId>, [ExprId; 2])> {
        let Expr::Fold {
            with: Combine::Sum,
            over,
            value,
        } = self.source.get(fold)
        else {
            return None;
        };
        match self.source.get(*value) {
            Expr::Prim(Prim::Mul, _, args) => Some((over.clone(), [args[0], args[1]])),
            _ => None,
        }
    }

    /// The folds below some expressions, inner ones first.
    pub fn folds(&self, roots: &[ExprId]) -> Vec<ExprId> {
        let mut folds = self.below(roots);
        folds.retain(|&id| matches!(self.source.get(id), Expr::Fold { .. }));
        folds
    }

    /// The axes that an expression of the source depends on.
    pub fn free(&self, root: ExprId) -> BTreeSet<AxisId> {
        let mut free: HashMap<ExprId, BTreeSet<AxisId>> = HashMap::new();
        for id in self.below(&[root]) {
            let mut axes: BTreeSet<AxisId> = self
                .source
                .operands(id)
                .iter()
                .flat_map(|operand| free[operand].iter().copied())
                .collect();
            match self.source.get(id) {
                Expr::Axis(axis) => drop(axes.insert(*axis)),
                Expr::Fold { over, .. } => axes.retain(|axis| !over.contains(axis)),
                _ => {}
            }
            free.insert(id, axes);
        }
        free.remove(&root).expect("the root is below itself")
    }

    /// The address of an element, as a sum of multiples of axes.
    pub fn address(&mut self, buffer: BufferId, at: &[ExprId]) -> Option<Affine> {
        let ty = self.buffers[buffer.at()].ty.clone();
        let offset = index::offset(&mut self.source, &ty, at);
        index::affine(&self.source, offset)
    }

    /// The address of a load that is never outside, as a sum of multiples of axes.
    pub fn load_address(&mut self, id: ExprId) -> Option<(BufferId, Affine)> {
        match self.source.get(id).clone() {
            Expr::Load {
                buffer,
                index,
                guarded: false,
            } => Some((buffer, self.address(buffer, &index)?)),
            _ => None,
        }
    }
}

/// How much work some expressions are: elements times primitives, folds times their length.
pub fn cost(draft: &Draft, tasks: &[Task]) -> usize {
    let mut total = 0usize;
    for task in tasks {
        let points = draft.count(&task.over);
        let below = draft.below(&[task.value]);
        total = total.saturating_add(points.saturating_mul(below.len()));
        for &id in &below {
            if let Expr::Fold { over, value, .. } = draft.source.get(id) {
                let results = draft.count(&draft.free(id)).saturating_mul(draft.count(over));
                total = total.saturating_add(results.saturating_mul(draft.below(&[*value]).len()));
            }
        }
    }
    total
}
