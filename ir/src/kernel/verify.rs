//! Checks nests before code is made of them: a nest that passes touches no memory outside its buffers.

mod kernel;

use std::cell::Cell;
use std::fmt;

use hashbrown::HashSet;

pub use kernel::verify_kernel;

use super::index::Linear;
use super::nest::LANES;
use super::{
    AxisId, Bind, Buffer, BufferId, Contract, Expr, ExprId, LocalId, Nest, Operand, Prim, Product, Role, Stmt, pieces,
};
use crate::dtype::DType;
use crate::layout::Layout;
use crate::target::TargetKind;

/// How many cases of `min`, `max` and uneven loops a proof of one bound distinguishes, one inside another.
const CASES: usize = 4;

/// How many bounds a proof of one bound asks for: beyond, what ranges tell must do, so that
/// proofs of a hostile text end. Every network of the zoo is proved within it.
const STEPS: usize = 1 << 14;

/// The most elements of a tile: more than any machine's registers hold.
const MOST_TILE: usize = 4096;

/// The most bytes of scratch: more than machines have memory.
const MOST_SCRATCH: usize = 1 << 40;

/// The most statements and expressions of a nest whose loops are unrolled: what is emitted is bounded, whatever a text asks for.
const MOST_CODE: usize = 1 << 21;

/// The most iterations of an `Item` loop: more than devices have invocations in a workgroup.
const MOST_ITEMS: usize = 1 << 12;

/// A rule that a nest breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// The statement that breaks it, counted from 0 in the order in which they are read; none if it is the nest as a whole.
    pub stmt: Option<usize>,
    /// How.
    pub message: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Every rule of [`super::nest`] that can be proved from the nest alone, with what is wrong otherwise:
///
/// - every load, unless guarded, every store and every element of a tile lies within its buffer, for all values of the axes;
/// - each axis is bound once on a path, by a loop no longer than its extent, before it is used;
/// - vector loops hold only stores, accumulations and prefetches, which stand nowhere else;
/// - outside `Workers` loops only locals and worker scratch are written, on a GPU only locals, inside there is neither barrier nor another
///   `Workers` loop;
/// - a local is written before it is read, on a GPU since the last barrier;
/// - `Group` and `Item` loops, group scratch and barriers within stand where [`super::nest`] says, all invocations of a workgroup reach the same of
///   them, and what they share only accumulations of an `Item` loop's own change in it;
/// - there are no statements for another kind of machine;
/// - inputs are not written, and types agree.
pub fn verify(nest: &Nest) -> Result<(), Vec<Broken>> {
    let mut check = Check::new(nest, None);
    check.whole();
    if check.broken.is_empty() {
        Ok(())
    } else {
        Err(check.broken)
    }
}

/// How many bytes of each buffer, from its beginning, a nest that passes touches at most: fewer than the buffer has where a value is part of a whole,
/// whose layout it shares.
pub fn reach(nest: &Nest) -> Vec<usize> {
    let mut check = Check::new(nest, Some(vec![0; nest.buffers.len()]));
    check.whole();
    let buffers = nest.buffers.iter().zip(check.reach.into_iter().flatten());
    buffers
        .map(|(buffer, elements)| elements * buffer.ty.dtype.size_bytes())
        .collect()
}

impl<'a> Check<'a> {
    fn new(nest: &'a Nest, reach: Option<Vec<usize>>) -> Check<'a> {
        Check {
            nest,
            reach,
            open: Vec::new(),
            in_workers: false,
            in_lanes: false,
            group: None,
            items: [None; 3],
            copies: 1,
            code: 0,
            steps: Cell::new(0),
            checked: Vec::new(),
            set: HashSet::new(),
            present: None,
            seen: 0,
            broken: Vec::new(),
        }
    }

    fn whole(&mut self) {
        let scratch = self
            .nest
            .buffers
            .iter()
            .filter(|buffer| !matches!(buffer.role, Role::Input | Role::Output));
        let bytes = scratch
            .map(|buffer| buffer.ty.len_bytes())
            .fold(0, usize::saturating_add);
        self.require(bytes <= MOST_SCRATCH, || {
            format!("{bytes} bytes of scratch are too many")
        });
        self.block(&self.nest.body);
        self.present = None;
        let code = self.code;
        self.require(code <= MOST_CODE, || {
            format!("unrolled, the nest has {code} statements and expressions, which is too many")
        });
    }
}

/// What stands around a statement within a `Group` loop.
#[derive(Clone, Debug, Default)]
struct Around {
    /// The dimensions whose `Item` loops are open.
    open: [bool; 3],
    /// Whether the innermost loop is one of them.
    is_item: bool,
    /// Whether some invocations may not come here.
    may_part: bool,
    /// The locals that several invocations share.
    shared: HashSet<LocalId>,
}

struct Check<'a> {
    nest: &'a Nest,
    /// How many elements of each buffer are touched at most so far, from its beginning, if that is asked for.
    reach: Option<Vec<usize>>,
    /// The loops around, with their extents.
    open: Vec<(AxisId, ExprId)>,
    in_workers: bool,
    in_lanes: bool,
    /// What is around within a `Group` loop, if there is one.
    group: Option<Around>,
    /// The extents of the `Item` loops of this part between barriers, by dimension.
    items: [Option<usize>; 3],
    /// How often unrolled loops around copy what is here.
    copies: usize,
    /// The number of statements and expressions with all their copies.
    code: usize,
    /// How many bounds the present proof has asked for.
    steps: Cell<usize>,
    /// The expressions found right inside each of the loops around.
    checked: Vec<HashSet<ExprId>>,
    /// The locals written before the statement looked at.
    set: HashSet<LocalId>,
    /// The number of the statement looked at.
    present: Option<usize>,
    /// How many statements have been looked at.
    seen: usize,
    broken: Vec<Broken>,
}

impl Check<'_> {
    fn require(&mut self, holds: bool, message: impl FnOnce() -> String) {
        if !holds {
            self.broken.push(Broken {
                stmt: self.present,
                message: message(),
            });
        }
    }

    fn name(&self, buffer: BufferId) -> &str {
        &self.nest.buffers[buffer.at()].name
    }

    fn block(&mut self, body: &[Stmt]) {
        self.checked.push(HashSet::new());
        for stmt in body {
            self.stmt(stmt);
        }
        self.checked.pop();
    }

    fn stmt(&mut self, stmt: &Stmt) {
        let on_gpu = self.nest.kind == TargetKind::Vulkan;
        self.present = Some(self.seen);
        self.seen += 1;
        self.code = self.code.saturating_add(self.copies);
        if self.in_lanes {
            let allowed = matches!(
                stmt,
                Stmt::Store { .. } | Stmt::Accumulate { .. } | Stmt::Prefetch { .. }
            );
            self.require(allowed, || {
                "a vector loop holds something other than stores and accumulations".into()
            });
        }
        match stmt {
            Stmt::Loop {
                axis,
                extent,
                bind,
                body,
            } => self.enter(*axis, *extent, *bind, body),
            Stmt::If {
                condition,
                then,
                otherwise,
            } => {
                self.expr(*condition, DType::Bool);
                let outside = self.group.clone();
                if let Some(group) = &mut self.group {
                    group.may_part = true;
                }
                self.block(then);
                self.block(otherwise);
                self.group = outside;
            }
            Stmt::Set { local, value } => {
                self.expr(*value, self.nest.locals[local.at()].dtype);
                self.is_own(*local);
                self.set.insert(*local);
            }
            Stmt::Accumulate { local, value, .. } => {
                self.expr(*value, self.nest.locals[local.at()].dtype);
                self.is_set(*local);
                match &self.group {
                    Some(Around {
                        is_item: true,
                        may_part,
                        ..
                    }) => {
                        let is_common = !may_part;
                        self.require(is_common, || "invocations accumulate together under a condition".into());
                    }
                    _ => self.is_own(*local),
                }
            }
            Stmt::Store { buffer, index, value } => {
                self.written(*buffer);
                self.expr(*value, self.nest.buffers[buffer.at()].ty.dtype);
                index.iter().for_each(|&at| self.expr(at, DType::I64));
                self.within(*buffer, index, "store to");
            }
            Stmt::Prefetch { index, .. } => {
                let in_lanes = self.in_lanes;
                self.require(in_lanes, || "a prefetch stands outside a vector loop".into());
                index.iter().for_each(|&at| self.expr(at, DType::I64));
            }
            Stmt::Contract(contract) => {
                self.require(!on_gpu, || "there is no code for tiles on a GPU".into());
                self.contract(contract);
            }
            Stmt::Product(product) => {
                self.require(on_gpu, || "there is no shader of products on a CPU".into());
                self.product(product);
            }
            Stmt::Barrier => {
                let in_group = self.group.is_some();
                self.require(in_group || !self.in_workers, || {
                    "a barrier stands inside a `Workers` loop".into()
                });
                if in_group {
                    self.meets("a barrier");
                    self.checked.iter_mut().for_each(HashSet::clear);
                } else if on_gpu {
                    self.items = [None; 3];
                    self.set.clear();
                    self.checked.iter_mut().for_each(HashSet::clear);
                }
            }
        }
    }

    fn enter(&mut self, axis: AxisId, extent: ExprId, bind: Bind, body: &[Stmt]) {
        let copies = self.copies;
        let name = &self.nest.axes[axis.at()].name;
        let again = self.open.iter().any(|&(open, _)| open == axis);
        self.require(!again, || format!("axis `{name}` is bound again inside its own loop"));
        self.expr(extent, DType::I64);
        let most = self.nest.axes[axis.at()].extent as i64;
        let length = Linear::of(&self.nest.exprs, extent);
        let short = self.greatest(&length).is_some_and(|high| high <= most);
        self.require(short, || format!("the loop over `{name}` may be longer than {most}"));
        if bind == Bind::Unroll {
            self.copies = self.copies.saturating_mul(self.nest.axes[axis.at()].extent.max(1));
            let is_known = self.nest.exprs.as_int(extent).is_some();
            self.require(is_known, || {
                format!("the loop over `{name}` is unrolled, and its length is not known")
            });
        }
        let is_idle = bind == Bind::Lanes && body.is_empty();
        self.require(!is_idle, || format!("the vector loop over `{name}` does nothing"));
        // Code for many at once counts down from the length; a serial loop of less than nothing just ends.
        let is_counted = bind == Bind::Serial || self.is_dead() || self.low(&length).is_some_and(|low| low >= 0);
        self.require(is_counted, || {
            format!("the loop over `{name}` may have a negative length")
        });
        let shared = matches!(bind, Bind::Workers | Bind::Group);
        self.require(!(shared && self.in_workers), || {
            format!("the `Workers` loop over `{name}` is inside another")
        });
        let outside = (self.in_workers, self.in_lanes, copies);
        let (group, set) = (self.group.clone(), self.set.clone());
        self.in_workers |= shared;
        self.in_lanes |= bind == Bind::Lanes;
        match bind {
            Bind::Group => self.enter_group(),
            Bind::Item(dimension) => self.enter_item(axis, extent, dimension, body),
            Bind::Serial | Bind::Unroll | Bind::Lanes | Bind::Workers => {
                let is_known = self.nest.exprs.as_int(extent).is_some();
                if let Some(group) = &mut self.group {
                    group.is_item = false;
                    group.may_part |= !is_known;
                }
            }
        }
        self.open.push((axis, extent));
        self.block(body);
        self.open.pop();
        if let Bind::Group | Bind::Item(_) = bind {
            // What an invocation has set is forgotten.
            self.set = set;
        }
        self.group = group;
        (self.in_workers, self.in_lanes, self.copies) = outside;
    }

    fn enter_group(&mut self) {
        let on_gpu = self.nest.kind == TargetKind::Vulkan;
        self.require(on_gpu, || "there are no workgroups on a CPU".into());
        self.group = Some(Around::default());
    }

    fn enter_item(&mut self, axis: AxisId, extent: ExprId, dimension: u8, body: &[Stmt]) {
        self.meets("an `Item` loop");
        let (name, at) = (&self.nest.axes[axis.at()].name, usize::from(dimension));
        let count = self.nest.axes[axis.at()].extent;
        let is_whole = self.nest.exprs.as_int(extent) == Some(count as i64) && (1..=MOST_ITEMS).contains(&count);
        self.require(is_whole, || {
            format!("the `Item` loop over `{name}` is not one of 1 to {MOST_ITEMS}")
        });
        let is_alike = self.items[at].is_none_or(|other| other == count);
        self.require(is_alike, || {
            format!("the `Item` loop over `{name}` is not as long as another of dimension {dimension}")
        });
        self.items[at] = Some(count);
        let combines = body.iter().any(|stmt| matches!(stmt, Stmt::Accumulate { .. }));
        self.require(!combines || count.is_power_of_two(), || {
            format!("{count} iterations of `{name}` do not combine pairwise")
        });
        let Some(group) = &mut self.group else { return };
        let again = std::mem::replace(&mut group.open[at], true);
        group.is_item = true;
        group.shared = self.set.clone();
        self.require(!again, || {
            format!("dimension {dimension} of a workgroup is bound twice")
        });
    }

    /// All invocations of a workgroup come here equally often.
    fn meets(&mut self, what: &str) {
        let all_do = self.group.as_ref().map(|group| !group.may_part);
        self.require(all_do.is_some(), || format!("{what} stands outside any `Group` loop"));
        self.require(all_do != Some(false), || {
            format!("{what} stands where not all invocations of a workgroup come equally often")
        });
    }

    /// A local is not one that invocations share.
    fn is_own(&mut self, local: LocalId) {
        let is_shared = self.group.as_ref().is_some_and(|group| group.shared.contains(&local));
        let name = &self.nest.locals[local.at()].name;
        self.require(!is_shared, || {
            format!("`{name}` is shared by invocations, and one writes it")
        });
    }

    /// Scratch of a workgroup is touched within one.
    fn reachable(&mut self, buffer: BufferId) {
        let Buffer { name, role, .. } = &self.nest.buffers[buffer.at()];
        let is_there = match role {
            Role::GroupScratch => self.group.is_some(),
            // Each invocation would have its own, and what is outside `Item` loops is for all.
            Role::WorkerScratch => self.group.is_none(),
            Role::Input | Role::Output | Role::SharedScratch => true,
        };
        self.require(is_there, || format!("there is no `{name}` here"));
    }

    fn written(&mut self, buffer: BufferId) {
        self.reachable(buffer);
        let role = self.nest.buffers[buffer.at()].role;
        let name = self.name(buffer).to_owned();
        self.require(role != Role::Input, || format!("input `{name}` is written"));
        let own = role == Role::WorkerScratch && self.nest.kind == TargetKind::Cpu || self.in_workers;
        self.require(own, || format!("`{name}` is written outside any `Workers` loop"));
    }

    fn is_set(&mut self, local: LocalId) {
        let is_set = self.set.contains(&local);
        let name = &self.nest.locals[local.at()].name;
        self.require(is_set, || format!("`{name}` is read before it is written"));
    }

    fn expr(&mut self, root: ExprId, dtype: DType) {
        let found = self.nest.exprs.dtype(root);
        self.require(found == dtype, || {
            format!("a value of type {found} stands where {dtype} is needed")
        });
        let mut open = vec![root];
        while let Some(id) = open.pop() {
            if self.checked.iter().any(|checked| checked.contains(&id)) {
                continue;
            }
            self.checked.last_mut().expect("inside a block").insert(id);
            self.code = self.code.saturating_add(self.copies);
            open.extend(self.nest.exprs.operands(id));
            match self.nest.exprs.get(id) {
                Expr::Axis(axis) => {
                    let bound = self.open.iter().any(|(open, _)| open == axis);
                    let name = &self.nest.axes[axis.at()].name;
                    self.require(bound, || format!("axis `{name}` is used outside its loop"));
                }
                Expr::Load { buffer, index, guarded } => {
                    self.reachable(*buffer);
                    match guarded {
                        true => self.touch(*buffer, index),
                        false => self.within(*buffer, index, "load of"),
                    }
                }
                Expr::Local(local, _) => self.is_set(*local),
                Expr::Fold { .. } => self.require(false, || "a fold is left in the nest".into()),
                _ => {}
            }
        }
    }

    /// Proves that a logical index lies within a buffer.
    fn within(&mut self, buffer: BufferId, index: &[ExprId], what: &str) {
        let shape = &self.nest.buffers[buffer.at()].ty.shape;
        let name = self.name(buffer).to_owned();
        self.require(index.len() == shape.len(), || {
            format!("{what} `{name}` with {} indices", index.len())
        });
        for (place, (&at, &extent)) in index.iter().zip(shape).enumerate() {
            let linear = Linear::of(&self.nest.exprs, at);
            let inside = self.is_inside(&linear, extent as i64);
            self.require(inside, || {
                format!("{what} `{name}`: index {place} may lie outside 0..{extent}")
            });
        }
        self.touch(buffer, index);
    }

    /// Notes how far an access may reach that happens only within the buffer.
    fn touch(&mut self, buffer: BufferId, index: &[ExprId]) {
        if self.reach.is_none() || self.is_dead() {
            return;
        }
        let ty = &self.nest.buffers[buffer.at()].ty;
        let along = index.iter().zip(&ty.shape).map(|(&at, &extent)| {
            let high = self.greatest(&Linear::of(&self.nest.exprs, at));
            high.map_or(extent, |high| extent.min(high.max(0) as usize + 1))
                .saturating_sub(1)
        });
        let last = match ty.layout {
            Layout::Dense => along.zip(&ty.shape).fold(0, |last, (at, extent)| last * extent + at),
            Layout::Digits(_) => ty.layout.len(&ty.shape).saturating_sub(1),
        };
        self.reaches(buffer, last + 1);
    }

    fn reaches(&mut self, buffer: BufferId, elements: usize) {
        if let Some(reach) = &mut self.reach {
            reach[buffer.at()] = reach[buffer.at()].max(elements);
        }
    }

    fn is_inside(&self, index: &Linear, extent: i64) -> bool {
        self.is_dead()
            || (self.low(index).is_some_and(|low| low >= 0) && self.greatest(index).is_some_and(|high| high < extent))
    }

    /// Whether a loop around never runs.
    fn is_dead(&self) -> bool {
        self.open.iter().any(|&(axis, extent)| {
            self.nest.axes[axis.at()].extent == 0 || self.nest.exprs.range(extent).is_some_and(|(_, high)| high <= 0)
        })
    }

    fn low(&self, linear: &Linear) -> Option<i64> {
        let mut negative = Linear::default();
        negative.add(linear, -1);
        self.greatest(&negative).and_then(i64::checked_neg)
    }

    /// The greatest value of a sum, as far as it can be proved.
    fn greatest(&self, linear: &Linear) -> Option<i64> {
        self.steps.set(0);
        self.high(linear, CASES)
    }

    /// The same with so many cases one inside another: by the ranges of its terms, or by cases.
    fn high(&self, linear: &Linear, cases: usize) -> Option<i64> {
        let exprs = &self.nest.exprs;
        let mut best = linear.range(exprs).map(|(_, high)| high);
        let mut tighten = |bound: Option<i64>| best = [best, bound].into_iter().flatten().min();
        self.steps.set(self.steps.get() + 1);
        if cases == 0 || self.steps.get() > STEPS {
            return best;
        }
        for &(term, factor) in &linear.terms {
            let with = |value: ExprId, less: i64| {
                let mut rest = linear.clone();
                rest.terms.retain(|&mut (other, _)| other != term);
                let mut sum = rest.plus(&Linear::of(exprs, value), factor)?;
                sum.constant = sum.constant.checked_sub(less.checked_mul(factor)?)?;
                self.high(&sum, cases - 1)
            };
            match exprs.get(term) {
                // The variable of a loop is below the loop's extent.
                Expr::Axis(axis) if factor > 0 => {
                    let extent = self
                        .open
                        .iter()
                        .find(|(open, _)| open == axis)
                        .map(|&(_, extent)| extent);
                    if let Some(extent) = extent.filter(|&extent| exprs.as_const(extent).is_none()) {
                        tighten(with(self.if_it_runs(extent), 1));
                    }
                }
                Expr::Prim(Prim::Div, _, args) if factor > 0 => {
                    let by = exprs
                        .as_const(args[1])
                        .map(|by| by.as_i128() as i64)
                        .filter(|&by| by > 0);
                    let dividend = self.high(&Linear::of(exprs, args[0]), cases - 1);
                    if let Some((by, dividend)) = by.zip(dividend) {
                        let mut rest = linear.clone();
                        rest.terms.retain(|&mut (other, _)| other != term);
                        let bound = self.high(&rest, cases - 1);
                        tighten(bound.and_then(|rest| rest.checked_add((dividend / by).checked_mul(factor)?)));
                        tighten(self.joint_quotient(&rest, args[0], by, factor, cases - 1));
                        // Whole multiples of the divisor are no more than what is divided.
                        if factor % by == 0 && exprs.range(args[0]).is_some_and(|(low, _)| low >= 0) {
                            let sum = rest.plus(&Linear::of(exprs, args[0]), factor / by);
                            tighten(sum.and_then(|sum| self.high(&sum, cases - 1)));
                        }
                    }
                }
                Expr::Prim(prim @ (Prim::Min | Prim::Max), _, args) => {
                    let [a, b] = [with(args[0], 0), with(args[1], 0)];
                    if (*prim == Prim::Min) == (factor > 0) {
                        // Both are bounds.
                        tighten(a);
                        tighten(b);
                    } else {
                        // It is one of them.
                        tighten(a.zip(b).map(|(a, b)| a.max(b)));
                    }
                }
                _ => {}
            }
        }
        best
    }

    /// The extent of a loop that runs, so that it is at least 1: `max(x, 0)` is `x` then.
    fn if_it_runs(&self, extent: ExprId) -> ExprId {
        let exprs = &self.nest.exprs;
        match exprs.get(extent) {
            Expr::Prim(Prim::Max, _, args) => {
                let is_low = |id: ExprId| exprs.range(id).is_some_and(|(_, high)| high <= 0);
                match [is_low(args[0]), is_low(args[1])] {
                    [false, true] => args[0],
                    [true, false] => args[1],
                    _ => extent,
                }
            }
            _ => extent,
        }
    }

    /// A bound of `factor · (dividend / by) + rest` that keeps what the two depend on together: whole multiples of `factor` in the rest
    /// enter the quotient, `dividend / by + t = (dividend + t · by) / by`.
    fn joint_quotient(&self, rest: &Linear, dividend: ExprId, by: i64, factor: i64, cases: usize) -> Option<i64> {
        let exprs = &self.nest.exprs;
        // Division rounds down only from there on.
        if exprs.range(dividend)?.0 < 0 {
            return None;
        }
        let mut apart = rest.clone();
        apart.terms.retain(|&mut (_, other)| other % factor != 0);
        let mut joint = Linear::of(exprs, dividend);
        for &(term, other) in rest.terms.iter().filter(|&&(_, other)| other % factor == 0) {
            joint = joint.plus(&Linear::of(exprs, term), (other / factor).checked_mul(by)?)?;
        }
        let joint = self.high(&joint, cases).filter(|&high| high >= 0)?;
        (joint / by).checked_mul(factor)?.checked_add(self.high(&apart, cases)?)
    }

    fn product(&mut self, product: &Product) {
        let Product {
            batch, rows, a, b, c, ..
        } = product;
        let (rows, columns, depth) = (&[*rows][..], &product.columns[..], &product.depth[..]);
        let is_outermost = self.open.is_empty();
        self.require(is_outermost, || "a product stands in a loop".into());
        let mut extents = [*batch]
            .into_iter()
            .chain([rows, columns, depth].into_iter().flatten().copied());
        self.require(extents.all(|extent| extent > 0), || "a product of nothing".into());
        let types @ [left, right, sum] = [a, b, c].map(|side| self.nest.buffers[side.buffer.at()].ty.dtype);
        let is_taken = matches!(
            types,
            [DType::F32, DType::F32, DType::F32] | [DType::F16, DType::F16, DType::F32]
        );
        self.require(is_taken, || format!("a product of {left} and {right} in {sum}"));
        let written = self.nest.buffers[c.buffer.at()].role;
        self.require(matches!(written, Role::Output | Role::SharedScratch), || {
            "a product's C is neither output nor shared scratch".into()
        });
        for (name, side, first, second, limits) in [
            ("A", a, rows, depth, &[][..]),
            ("B", b, depth, columns, &product.limits),
            ("C", c, rows, columns, &[]),
        ] {
            let ty = &self.nest.buffers[side.buffer.at()].ty;
            let is_dense = ty.layout == Layout::default();
            // What has a limit lies within it; the rest of the place is a sum without conditions.
            let rest = (limits.iter()).fold(side.place.clone(), |place, limit| {
                place.without(limit.stride as i64, &limit.place)
            });
            let (low, high) = rest.range(*batch, first, second);
            let reach = limits
                .iter()
                .map(|limit| (limit.extent as i64 - 1) * limit.stride as i64);
            let last = high + reach.sum::<i64>();
            let is_inside = low >= 0 && last < ty.count() as i64;
            self.require(is_dense, || format!("{name} of a product has a layout"));
            self.reaches(side.buffer, last.max(0) as usize + 1);
            self.require(is_inside, || format!("{name} of a product may lie outside its buffer"));
            let is_read_so = side.fours.is_none_or(|along| side.has_fours(along, (first, second)));
            self.require(is_read_so && (limits.is_empty() || side.fours.is_none()), || {
                format!("{name} of a product cannot be read by fours")
            });
        }
    }

    /// The terms in an element of an operand in pieces.
    fn terms_in(&self, side: &Operand) -> usize {
        pieces::terms_in(self.nest.buffers[side.buffer.at()].ty.dtype).unwrap_or(1)
    }

    /// What a tile in pieces keeps to besides.
    fn pieces(&mut self, contract: &Contract) {
        let Contract { rows, columns, .. } = *contract;
        let is_whole = |count: usize| count.is_multiple_of(pieces::SIDE) && count <= 2 * pieces::SIDE;
        let both = contract.b.pieces.is_some() && contract.c.pieces.is_none();
        self.require(both, || "a tile has one side in pieces".into());
        self.require(contract.dtype == DType::F32, || "a tile in pieces is not of f32".into());
        self.require(is_whole(rows) && is_whole(columns), || {
            format!("a tile in pieces of {rows} by {columns}")
        });
        self.require(contract.a.lines.is_none(), || {
            "rows of a tile in pieces are in lines".into()
        });
    }

    fn contract(&mut self, contract: &Contract) {
        let Contract {
            dtype,
            rows,
            columns,
            ref k,
            ref a,
            ref b,
            ref c,
            ..
        } = *contract;
        self.require(matches!(dtype, DType::F32 | DType::F64), || {
            format!("a tile of {dtype}")
        });
        self.require(rows > 0, || "a tile without rows".into());
        let is_small = rows.saturating_mul(columns) <= MOST_TILE;
        self.require(is_small, || format!("a tile of {rows} by {columns}"));
        if !is_small {
            return;
        }
        self.require(columns > 0 && columns % LANES == 0, || {
            format!("a tile of {columns} columns")
        });
        let in_pieces = contract.is_in_pieces();
        if in_pieces {
            self.pieces(contract);
        } else {
            self.require(b.across == 1, || "columns of a tile's B are not contiguous".into());
        }
        self.require(c.across >= columns, || "rows of a tile's C overlap".into());
        self.written(c.buffer);
        let scratch = matches!(
            self.nest.buffers[c.buffer.at()].role,
            Role::WorkerScratch | Role::SharedScratch
        );
        self.require(scratch, || "a tile's C is not scratch".into());
        // How many steps across a side has, and what it reads from each place besides the first element.
        let [rows_end, columns_end] = match in_pieces {
            true => [(a, pieces::DEPTH), (b, pieces::BLOCK)].map(|(side, terms)| terms / self.terms_in(side) - 1),
            false => [0, 0],
        };
        let steps = if in_pieces { columns / pieces::SIDE } else { columns };
        for (name, side, count, along, end) in [
            ("A", a, rows, &k[..], rows_end),
            ("B", b, steps, &k[..], columns_end),
            ("C", c, rows, &[][..], columns.saturating_sub(1)),
        ] {
            let Operand {
                buffer,
                start,
                along: ref strides,
                ..
            } = *side;
            let lines_are_long = side.lines.is_none_or(|lines| lines.length > 0);
            self.require(lines_are_long, || format!("{name} of a tile has lines of no length"));
            if !lines_are_long {
                continue;
            }
            self.expr(start, DType::I64);
            let ty = &self.nest.buffers[buffer.at()].ty;
            let (found, len) = (ty.dtype, ty.layout.len(&ty.shape));
            let is_right = match in_pieces && name != "C" {
                true => pieces::terms_in(found).is_some(),
                false => found == dtype,
            };
            self.require(is_right, || format!("a tile of {dtype} has {name} of {found}"));
            self.require(strides.len() == along.len(), || {
                format!("{name} of a tile has {} strides", strides.len())
            });
            let end = end
                + side
                    .pieces
                    .map_or(0, |stride| stride.saturating_mul(pieces::PIECES - 1));
            let reach = strides
                .iter()
                .zip(along)
                .map(|(stride, extent)| stride * extent.saturating_sub(1))
                .sum::<usize>()
                + (0..count).map(|row| side.row(row)).max().unwrap_or(0)
                + end;
            let start = Linear::of(&self.nest.exprs, start);
            let inside = along.contains(&0) || self.is_inside(&start, len as i64 - reach as i64);
            self.require(inside, || format!("{name} of a tile may lie outside its buffer"));
            if self.reach.is_some() && !along.contains(&0) {
                let high = self
                    .greatest(&start)
                    .map_or(len, |high| high.max(0) as usize + reach + 1);
                self.reaches(buffer, high.min(len));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{Axis, Exprs};
    use crate::tensor::Type;

    /// `y[i] = x[i + shift]` in blocks of 4 over 10 elements.
    fn blocks(shift: i64, role: Role, bind: Bind) -> Nest {
        let mut exprs = Exprs::default();
        let [block, lane] = [exprs.add_axis(3), exprs.add_axis(4)];
        let [number, inner] = [block, lane].map(|axis| exprs.axis(axis));
        let [three, four, ten, shift] = [3, 4, 10, shift].map(|value| exprs.int(value));
        let mut prim = |prim, a, b| exprs.prim(prim, DType::I64, &[a, b]);
        let start = prim(Prim::Mul, number, four);
        let at = prim(Prim::Add, start, inner);
        let from = prim(Prim::Add, at, shift);
        let rest = prim(Prim::Sub, ten, start);
        let count = prim(Prim::Min, rest, four);
        let value = exprs.load(BufferId(0), DType::F32, vec![from], false);
        let buffer = |name: &str, role| Buffer {
            name: name.into(),
            ty: Type::new(DType::F32, [10]),
            role,
        };
        let axis = |name: &str, extent| Axis {
            name: name.into(),
            extent,
        };
        let store = Stmt::Store {
            buffer: BufferId(1),
            index: vec![at],
            value,
        };
        let lanes = Stmt::Loop {
            axis: lane,
            extent: count,
            bind: Bind::Lanes,
            body: vec![store],
        };
        Nest {
            name: "copy".into(),
            kind: TargetKind::Cpu,
            axes: vec![axis("block", 3), axis("lane", 4)],
            buffers: vec![buffer("x", Role::Input), buffer("y", role)],
            layouts: Vec::new(),
            locals: vec![],
            exprs,
            body: vec![Stmt::Loop {
                axis: block,
                extent: three,
                bind,
                body: vec![lanes],
            }],
        }
    }

    #[test]
    fn uneven_blocks_are_proved_inside() {
        assert_eq!(verify(&blocks(0, Role::Output, Bind::Workers)), Ok(()));
    }

    #[test]
    fn each_broken_rule_is_named() {
        let wrong = |shift, role, bind| {
            verify(&blocks(shift, role, bind))
                .expect_err("a broken rule")
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("; ")
        };
        let outside = "load of `x`: index 0 may lie outside 0..10";
        assert_eq!(wrong(1, Role::Output, Bind::Workers), outside);
        assert_eq!(wrong(-1, Role::Output, Bind::Workers), outside);
        assert_eq!(wrong(0, Role::Input, Bind::Workers), "input `y` is written");
        assert_eq!(
            wrong(0, Role::Output, Bind::Serial),
            "`y` is written outside any `Workers` loop"
        );
        let holds = "a vector loop holds something other than stores and accumulations";
        assert_eq!(
            wrong(0, Role::Output, Bind::Lanes),
            format!("{holds}; `y` is written outside any `Workers` loop")
        );
    }
}
