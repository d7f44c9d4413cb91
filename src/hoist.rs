//! What can be computed before a loop: what an expression depends on, and what a piece of a nest changes. Both emitters ask.

use hashbrown::HashSet;
use netloom_ir::kernel::{AxisId, BufferId, Expr, ExprId, LocalId, Nest, Role, Stmt};
use smallvec::{Array, SmallVec};

use crate::place::{Place, Places};

/// What an expression depends on that can change while a nest runs.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The axes it varies along.
    pub axes: SmallVec<[AxisId; 6]>,
    /// The registers it reads.
    pub locals: SmallVec<[LocalId; 4]>,
    /// Tensors that the nest writes too.
    pub buffers: SmallVec<[BufferId; 4]>,
    /// Whether it reads any memory.
    pub reads: bool,
}

/// The facts of a nest's expressions, as far as they were asked for.
#[derive(Debug, Default)]
pub struct Known(Vec<Facts>);

impl Known {
    /// Learns about an expression. Operands have smaller ids, so facts are known for a beginning of the arena.
    fn learn(&mut self, nest: &Nest, id: ExprId) {
        while self.0.len() <= id.at() {
            let next = ExprId(self.0.len() as u32);
            let mut facts = Facts::default();
            for operand in nest.exprs.operands(next) {
                let operand = &self.0[operand.at()];
                union(&mut facts.axes, &operand.axes);
                union(&mut facts.locals, &operand.locals);
                union(&mut facts.buffers, &operand.buffers);
                facts.reads |= operand.reads;
            }
            match nest.exprs.get(next) {
                Expr::Axis(axis) => facts.axes.push(*axis),
                Expr::Local(local, _) => facts.locals.push(*local),
                Expr::Load { buffer, .. } => {
                    facts.reads = true;
                    if nest.buffers[buffer.at()].role != Role::Input {
                        union(&mut facts.buffers, &[*buffer]);
                    }
                }
                Expr::Const(..) | Expr::Prim(..) | Expr::Fold { .. } => {}
            }
            self.0.push(facts);
        }
    }
}

/// What a piece of a nest changes.
#[derive(Clone, Debug, Default)]
pub struct Writes {
    /// Registers set.
    pub locals: SmallVec<[LocalId; 4]>,
    /// Tensors written.
    pub buffers: SmallVec<[BufferId; 4]>,
    /// Other workers may have written any tensor that is not an input.
    pub barrier: bool,
}

impl Writes {
    /// Everything that a body changes.
    pub fn of(body: &[Stmt]) -> Writes {
        let mut writes = Writes::default();
        writes.add(body);
        writes
    }

    fn add(&mut self, body: &[Stmt]) {
        for stmt in body {
            match stmt {
                Stmt::Loop { body, .. } => self.add(body),
                Stmt::If { then, otherwise, .. } => {
                    self.add(then);
                    self.add(otherwise);
                }
                Stmt::Set { local, .. } | Stmt::Accumulate { local, .. } => union(&mut self.locals, &[*local]),
                Stmt::Store { buffer, .. } => union(&mut self.buffers, &[*buffer]),
                Stmt::Contract(contract) => union(&mut self.buffers, &[contract.c.buffer]),
                Stmt::Product(product) => union(&mut self.buffers, &[product.c.buffer]),
                Stmt::Prefetch { .. } => {}
                Stmt::Barrier => self.barrier = true,
            }
        }
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.locals.is_empty() && self.buffers.is_empty() && !self.barrier
    }

    /// Whether an expression with those facts may have another value afterwards.
    pub fn change(&self, facts: &Facts) -> bool {
        facts.locals.iter().any(|local| self.locals.contains(local))
            || facts.buffers.iter().any(|buffer| self.buffers.contains(buffer))
            || (self.barrier && !facts.buffers.is_empty())
    }
}

/// Adds to a set, kept as a list, whatever it lacks.
fn union<T: Copy + PartialEq, A: Array<Item = T>>(set: &mut SmallVec<A>, more: &[T]) {
    for item in more {
        if !set.contains(item) {
            set.push(*item);
        }
    }
}

/// An emitter that computes parts of expressions early.
pub trait Hoist {
    /// The nest, the places of its elements, and the facts of its expressions.
    fn parts(&mut self) -> (&mut Nest, &mut Places, &mut Known);

    /// The facts known so far.
    fn known(&self) -> &Known;

    /// Whether the loop over an axis is around us.
    fn is_bound(&self, axis: AxisId) -> bool;

    /// Computes an expression here.
    fn compute(&mut self, id: ExprId);

    /// Adds up an address here.
    fn compute_pointer(&mut self, place: &Place);

    /// What an expression depends on.
    fn facts(&mut self, id: ExprId) -> &Facts {
        let (nest, _, known) = self.parts();
        known.learn(nest, id);
        &known.0[id.at()]
    }

    /// What must be computed before an expression: for a load, its address.
    fn operands(&mut self, id: ExprId) -> Vec<ExprId> {
        let (nest, places, _) = self.parts();
        places.operands(nest, id)
    }

    /// Whether an expression can be computed here, and has the same value throughout a piece of the nest below. Under a condition,
    /// memory is not read: the condition may be what keeps the read inside.
    fn is_fixed(&mut self, id: ExprId, writes: &Writes, conditional: bool) -> bool {
        self.facts(id);
        let facts = &self.known().0[id.at()];
        facts.axes.iter().all(|&axis| self.is_bound(axis)) && !writes.change(facts) && !(conditional && facts.reads)
    }

    /// Computes the largest parts of an expression that can be known here.
    fn hoist_expr(&mut self, root: ExprId, writes: &Writes, conditional: bool, seen: &mut HashSet<ExprId>) {
        let mut stack = vec![root];
        while let Some(id) = stack.pop() {
            if !seen.insert(id) {
                continue;
            }
            let (nest, ..) = self.parts();
            if matches!(nest.exprs.get(id), Expr::Const(..) | Expr::Axis(_) | Expr::Local(..)) {
                continue;
            }
            if self.is_fixed(id, writes, conditional) {
                self.compute(id);
                continue;
            }
            let (nest, places, _) = self.parts();
            if matches!(nest.exprs.get(id), Expr::Load { .. }) {
                let place = places.of(nest, id);
                self.hoist_place(&place, writes, conditional, seen);
            }
            stack.extend(self.operands(id));
        }
    }

    /// Adds up as much of an address as can be known here.
    fn hoist_place(&mut self, place: &Place, writes: &Writes, conditional: bool, seen: &mut HashSet<ExprId>) {
        let fixed = place
            .steps
            .iter()
            .take_while(|step| self.is_fixed(step.add, writes, conditional))
            .count();
        let mut outer = place.clone();
        outer.steps.truncate(fixed);
        self.compute_pointer(&outer);
        for step in &place.steps[fixed..] {
            self.hoist_expr(step.add, writes, conditional, seen);
        }
    }
}
