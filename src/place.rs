//! Where an element lies: its address as a chain of sums, and the condition under which it may be read. Both emitters spell these.
//!
//! An offset is taken apart into terms, and the terms are gathered by the loop that moves them, outermost first. So what an outer loop
//! fixes is added outside, and an innermost loop adds one term.

use hashbrown::HashMap;
use netloom_ir::kernel::index::{self, Linear};
use netloom_ir::kernel::{BufferId, Expr, ExprId, Exprs, Nest, Prim, Stmt};
use netloom_ir::{DType, Scalar};

/// The address of one element, and when it exists.
#[derive(Clone, Debug)]
pub struct Place {
    /// The tensor.
    pub buffer: BufferId,
    /// The part of the offset that never changes, in the unit of [`Places`].
    pub constant: i64,
    /// The parts that do, outermost first.
    pub steps: Vec<Step>,
    /// For a guarded load that is not provably inside: whether it is.
    pub guard: Guard,
}

/// One addition to an address.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// What is added, in the unit of [`Places`].
    pub add: ExprId,
    /// All that has been added so far; its name, so that places which share a beginning share the sum.
    pub sum: ExprId,
}

/// When a load may touch memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// Always: the index is inside.
    Always,
    /// Where this `bool` holds.
    Where(ExprId),
    /// Never: the tensor has no element there.
    Never,
}

/// What addresses count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes, as a CPU's do.
    Bytes,
    /// Elements of the tensor, as an index into a GPU's buffer does.
    Elements,
}

/// Makes places for one nest, and remembers them.
pub struct Places {
    unit: Unit,
    /// The number of loops around each axis's own loop.
    depths: Vec<usize>,
    depth_of: HashMap<ExprId, usize>,
    places: HashMap<ExprId, Place>,
}

impl Places {
    /// For a nest that has not been given expressions of ours yet.
    pub fn new(nest: &Nest, unit: Unit) -> Places {
        let mut depths = vec![0; nest.axes.len()];
        note_depths(&nest.body, 0, &mut depths);
        Places {
            unit,
            depths,
            depth_of: HashMap::new(),
            places: HashMap::new(),
        }
    }

    /// The place of an element, given as a load of it.
    pub fn of(&mut self, nest: &mut Nest, load: ExprId) -> Place {
        if let Some(place) = self.places.get(&load) {
            return place.clone();
        }
        let Expr::Load { buffer, index, guarded } = nest.exprs.get(load).clone() else {
            unreachable!("only loads have places")
        };
        let place = self.make(nest, buffer, &index, guarded);
        self.places.insert(load, place.clone());
        place
    }

    /// What must be computed before an expression: for a load, its address.
    pub fn operands(&mut self, nest: &mut Nest, id: ExprId) -> Vec<ExprId> {
        if !matches!(nest.exprs.get(id), Expr::Load { .. }) {
            return nest.exprs.operands(id).to_vec();
        }
        let place = self.of(nest, id);
        let steps = place.steps.iter().map(|step| step.add);
        match place.guard {
            Guard::Always => steps.collect(),
            Guard::Where(condition) => steps.chain([condition]).collect(),
            Guard::Never => Vec::new(),
        }
    }

    fn make(&mut self, nest: &mut Nest, buffer: BufferId, index: &[ExprId], guarded: bool) -> Place {
        let ty = nest.buffers[buffer.at()].ty.clone();
        let offset = index::offset(&mut nest.exprs, &ty, index);
        let guard = if guarded {
            self.guard(nest, &ty.shape, index)
        } else {
            Guard::Always
        };
        Place {
            guard,
            ..self.at(nest, buffer, offset)
        }
    }

    /// The place of the element at an offset, in elements of memory.
    pub fn at(&mut self, nest: &mut Nest, buffer: BufferId, offset: ExprId) -> Place {
        let size = match self.unit {
            Unit::Bytes => nest.buffers[buffer.at()].ty.dtype.size_bytes(),
            Unit::Elements => 1,
        };
        let mut sum = Linear::default();
        sum.add(&Linear::of(&nest.exprs, offset), size as i64);
        Place {
            buffer,
            constant: sum.constant,
            steps: self.steps(&mut nest.exprs, &sum.terms),
            guard: Guard::Always,
        }
    }

    /// The terms by the depth of the innermost loop that moves them, as a chain of sums.
    fn steps(&mut self, exprs: &mut Exprs, terms: &[(ExprId, i64)]) -> Vec<Step> {
        let mut by_depth: Vec<(usize, ExprId, i64)> = terms
            .iter()
            .map(|&(term, factor)| (self.depth(exprs, term), term, factor))
            .collect();
        by_depth.sort();
        let mut steps: Vec<Step> = Vec::new();
        for group in by_depth.chunk_by(|a, b| a.0 == b.0) {
            let mut add: Option<ExprId> = None;
            for &(_, term, factor) in group {
                let factor = exprs.int(factor);
                let part = exprs.prim(Prim::Mul, DType::I64, &[term, factor]);
                add = Some(match add {
                    Some(add) => exprs.prim(Prim::Add, DType::I64, &[add, part]),
                    None => part,
                });
            }
            let add = add.expect("a group has a term");
            let sum = match steps.last() {
                Some(step) => exprs.prim(Prim::Add, DType::I64, &[step.sum, add]),
                None => add,
            };
            steps.push(Step { add, sum });
        }
        steps
    }

    /// The condition that an index is inside, without the halves that are known.
    fn guard(&mut self, nest: &mut Nest, shape: &[usize], index: &[ExprId]) -> Guard {
        if shape.contains(&0) {
            return Guard::Never;
        }
        let mut conditions = Vec::new();
        for (&extent, &at) in shape.iter().zip(index) {
            let (low, high) = nest.exprs.range(at).unwrap_or((i64::MIN, i64::MAX));
            let extent = extent as i64;
            if high < 0 || low >= extent {
                return Guard::Never;
            }
            let exprs = &mut nest.exprs;
            let condition = match (low >= 0, high < extent) {
                (true, true) => continue,
                (true, false) => {
                    let extent = exprs.int(extent);
                    exprs.prim(Prim::Lt, DType::Bool, &[at, extent])
                }
                (false, true) => {
                    let zero = exprs.int(0);
                    exprs.prim(Prim::Le, DType::Bool, &[zero, at])
                }
                (false, false) => {
                    // One unsigned comparison says both.
                    let unsigned = exprs.prim(Prim::Cast, DType::U64, &[at]);
                    let extent = exprs.constant(DType::U64, Scalar::Int(extent.into()));
                    exprs.prim(Prim::Lt, DType::Bool, &[unsigned, extent])
                }
            };
            conditions.push((self.depth(&nest.exprs, at), condition));
        }
        conditions.sort();
        let all = conditions.into_iter().map(|(_, condition)| condition);
        match all.reduce(|all, one| nest.exprs.prim(Prim::And, DType::Bool, &[all, one])) {
            Some(condition) => Guard::Where(condition),
            None => Guard::Always,
        }
    }

    /// The depth of the innermost loop that an expression depends on, plus one; 0 if on none.
    fn depth(&mut self, exprs: &Exprs, id: ExprId) -> usize {
        if let Some(&depth) = self.depth_of.get(&id) {
            return depth;
        }
        let depth = match exprs.get(id) {
            Expr::Axis(axis) => self.depths[axis.at()] + 1,
            // A register may change at any depth.
            Expr::Local(..) => usize::MAX,
            _ => exprs
                .operands(id)
                .iter()
                .map(|&operand| self.depth(exprs, operand))
                .max()
                .unwrap_or(0),
        };
        self.depth_of.insert(id, depth);
        depth
    }
}

fn note_depths(body: &[Stmt], depth: usize, depths: &mut [usize]) {
    for stmt in body {
        match stmt {
            Stmt::Loop { axis, body, .. } => {
                depths[axis.at()] = depths[axis.at()].max(depth);
                note_depths(body, depth + 1, depths);
            }
            Stmt::If { then, otherwise, .. } => {
                note_depths(then, depth, depths);
                note_depths(otherwise, depth, depths);
            }
            Stmt::Set { .. }
            | Stmt::Accumulate { .. }
            | Stmt::Store { .. }
            | Stmt::Prefetch { .. }
            | Stmt::Contract(_)
            | Stmt::Product(_)
            | Stmt::Barrier => {}
        }
    }
}
