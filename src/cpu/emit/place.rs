//! Where an element lies: its address as a chain of sums, and the condition under which it may be read.
//!
//! An offset is taken apart into terms, and the terms are gathered by the loop that moves them, outermost first. So what an outer loop
//! fixes is added outside, and an innermost loop adds one term.

use std::collections::HashMap;

use netloom_ir::kernel::{AxisId, BufferId, Expr, ExprId, Exprs, Nest, Prim, Stmt};
use netloom_ir::{DType, Scalar};

/// The address of one element, and when it exists.
#[derive(Clone, Debug)]
pub struct Place {
    /// The tensor.
    pub buffer: BufferId,
    /// The part of the offset that never changes, in bytes.
    pub constant: i64,
    /// The parts that do, outermost first.
    pub steps: Vec<Step>,
    /// For a guarded load that is not provably inside: whether it is.
    pub guard: Guard,
}

/// One addition to an address.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// What is added, in bytes.
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

/// Makes places for one nest, and remembers them.
pub struct Places {
    /// The number of loops around each axis's own loop.
    depths: Vec<usize>,
    depth_of: HashMap<ExprId, usize>,
    places: HashMap<ExprId, Place>,
    ranges: HashMap<ExprId, (i128, i128)>,
}

impl Places {
    /// For a nest that has not been given expressions of ours yet.
    pub fn new(nest: &Nest) -> Places {
        let mut depths = vec![0; nest.axes.len()];
        note_depths(&nest.body, 0, &mut depths);
        Places {
            depths,
            depth_of: HashMap::new(),
            places: HashMap::new(),
            ranges: HashMap::new(),
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

    fn make(&mut self, nest: &mut Nest, buffer: BufferId, index: &[ExprId], guarded: bool) -> Place {
        let ty = nest.buffers[buffer.at()].ty.clone();
        let size = ty.dtype.size_bytes() as i64;
        let mut sum = Sum::default();
        let mut radix = size;
        for digit in ty.layout.digits(&ty.shape).iter().rev() {
            let mut part = index[digit.axis];
            if digit.step > 1 {
                let step = nest.exprs.int(digit.step as i64);
                part = nest.exprs.prim(Prim::Div, DType::I64, &[part, step]);
            }
            // The outermost digit of an axis needs no remainder: an index is inside its shape.
            if ty.shape[digit.axis] > digit.step * digit.extent {
                let extent = nest.exprs.int(digit.extent as i64);
                part = nest.exprs.prim(Prim::Rem, DType::I64, &[part, extent]);
            }
            sum.add(&nest.exprs, part, radix);
            radix *= digit.extent as i64;
        }
        let guard = if guarded {
            self.guard(nest, &ty.shape, index)
        } else {
            Guard::Always
        };
        Place {
            buffer,
            constant: sum.constant,
            steps: self.steps(&mut nest.exprs, sum.terms),
            guard,
        }
    }

    /// The terms by the depth of the innermost loop that moves them, as a chain of sums.
    fn steps(&mut self, exprs: &mut Exprs, terms: Vec<(ExprId, i64)>) -> Vec<Step> {
        let mut by_depth: Vec<(usize, ExprId, i64)> = terms
            .into_iter()
            .map(|(term, factor)| (self.depth(exprs, term), term, factor))
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
            let (low, high) = self.range(nest, at);
            let extent = extent as i128;
            if high < 0 || low >= extent {
                return Guard::Never;
            }
            let exprs = &mut nest.exprs;
            let condition = match (low >= 0, high < extent) {
                (true, true) => continue,
                (true, false) => {
                    let extent = exprs.int(extent as i64);
                    exprs.prim(Prim::Lt, DType::Bool, &[at, extent])
                }
                (false, true) => {
                    let zero = exprs.int(0);
                    exprs.prim(Prim::Le, DType::Bool, &[zero, at])
                }
                (false, false) => {
                    // One unsigned comparison says both.
                    let unsigned = exprs.prim(Prim::Cast, DType::U64, &[at]);
                    let extent = exprs.constant(DType::U64, Scalar::Int(extent));
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

    /// The least and the greatest value that an integer can take.
    pub fn range(&mut self, nest: &Nest, id: ExprId) -> (i128, i128) {
        if let Some(&range) = self.ranges.get(&id) {
            return range;
        }
        let any = nest.exprs.dtype(id).int_range().unwrap_or((0, 1));
        let found = match nest.exprs.get(id) {
            Expr::Const(..) => match nest.exprs.as_const(id) {
                Some(Scalar::Int(value)) => (value, value),
                _ => any,
            },
            &Expr::Axis(AxisId(axis)) => (0, (nest.axes[axis as usize].extent as i128 - 1).max(0)),
            Expr::Prim(prim, _, args) if nest.exprs.dtype(id).is_int() => {
                let (prim, args) = (*prim, args.clone());
                // A float or `bool` operand, of a conversion, says nothing.
                if args.iter().all(|&arg| nest.exprs.dtype(arg).is_int()) {
                    let ranges: Vec<_> = args.iter().map(|&arg| self.range(nest, arg)).collect();
                    range_of(prim, &ranges).unwrap_or(any)
                } else if prim == Prim::Select {
                    let (yes, no) = (self.range(nest, args[1]), self.range(nest, args[2]));
                    (yes.0.min(no.0), yes.1.max(no.1))
                } else {
                    any
                }
            }
            _ => any,
        };
        // What may wrap can be anything.
        let range = if found.0 < any.0 || found.1 > any.1 { any } else { found };
        self.ranges.insert(id, range);
        range
    }
}

/// The range of a primitive's exact result, where its operands' ranges say something.
fn range_of(prim: Prim, args: &[(i128, i128)]) -> Option<(i128, i128)> {
    Some(match (prim, args) {
        (Prim::Add, &[a, b]) => (a.0 + b.0, a.1 + b.1),
        (Prim::Sub, &[a, b]) => (a.0 - b.1, a.1 - b.0),
        (Prim::Mul, &[a, b]) => {
            let products = [
                a.0.checked_mul(b.0)?,
                a.0.checked_mul(b.1)?,
                a.1.checked_mul(b.0)?,
                a.1.checked_mul(b.1)?,
            ];
            (*products.iter().min()?, *products.iter().max()?)
        }
        (Prim::Div, &[a, b]) if b.0 > 0 => {
            let quotients = [a.0 / b.0, a.0 / b.1, a.1 / b.0, a.1 / b.1];
            (*quotients.iter().min()?, *quotients.iter().max()?)
        }
        (Prim::Rem, &[a, b]) if b.0 > 0 => {
            let most = b.1 - 1;
            (if a.0 < 0 { a.0.max(-most) } else { 0 }, a.1.min(most).max(0))
        }
        (Prim::Max, &[a, b]) => (a.0.max(b.0), a.1.max(b.1)),
        (Prim::Min, &[a, b]) => (a.0.min(b.0), a.1.min(b.1)),
        (Prim::Neg, &[a]) => (-a.1, -a.0),
        (Prim::Cast, &[a]) => a,
        _ => return None,
    })
}

/// A linear combination.
#[derive(Default)]
struct Sum {
    constant: i64,
    terms: Vec<(ExprId, i64)>,
}

impl Sum {
    /// Adds `factor · id`, taken apart as far as it is linear.
    fn add(&mut self, exprs: &Exprs, id: ExprId, factor: i64) {
        let constant = |id| match exprs.as_const(id) {
            Some(Scalar::Int(value)) => i64::try_from(value).ok(),
            _ => None,
        };
        if let Some(value) = constant(id) {
            self.constant += value * factor;
            return;
        }
        match exprs.get(id) {
            Expr::Prim(Prim::Add, _, args) => {
                self.add(exprs, args[0], factor);
                self.add(exprs, args[1], factor);
            }
            Expr::Prim(Prim::Sub, _, args) => {
                self.add(exprs, args[0], factor);
                self.add(exprs, args[1], -factor);
            }
            Expr::Prim(Prim::Neg, _, args) => self.add(exprs, args[0], -factor),
            Expr::Prim(Prim::Mul, _, args) => match (constant(args[0]), constant(args[1])) {
                (_, Some(by)) => self.add(exprs, args[0], factor * by),
                (Some(by), _) => self.add(exprs, args[1], factor * by),
                _ => self.add_term(id, factor),
            },
            _ => self.add_term(id, factor),
        }
    }

    fn add_term(&mut self, id: ExprId, factor: i64) {
        match self.terms.iter_mut().find(|term| term.0 == id) {
            Some(term) => term.1 += factor,
            None => self.terms.push((id, factor)),
        }
        self.terms.retain(|term| term.1 != 0);
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
            Stmt::Set { .. } | Stmt::Accumulate { .. } | Stmt::Store { .. } | Stmt::Contract(_) | Stmt::Barrier => {}
        }
    }
}
