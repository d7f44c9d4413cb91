//! Runs a nest on host tensors: the meaning of a [`Nest`], which every emitter must match bit for bit.
//!
//! The workers are simulated one after another between barriers, so a nest whose results depend on their number, or that lacks a
//! barrier, gives different bits for different numbers. The invocations of a workgroup run one after another too, and what they share is watched: one
//! that reads what another has written, or writes what another has touched, with no barrier between is a panic. Scratch and outputs start as
//! garbage (every bit set).

use std::collections::HashMap;

use super::{
    AxisId, Bind, BufferId, Combine, Contract, Expr, ExprId, Exprs, LocalId, Nest, Operand, Prim, Product, Role, Stmt,
    nest::LANES, pieces,
};
use crate::dtype::{DType, Scalar};
use crate::tensor::{Tensor, Type, unravel};

/// Runs the nest with `workers` workers; `inputs` in the order of its input buffers, the results in that of its output buffers.
///
/// # Panics
/// If an input's type is not its buffer's, or the nest breaks a rule of [`super::nest`], such as an index outside a buffer.
pub fn run(nest: &Nest, inputs: &[Tensor], workers: usize) -> Vec<Tensor> {
    let mut given = inputs.iter();
    let shared = nest.buffers.iter().map(|buffer| match buffer.role {
        Role::Input => Memory::from_tensor(given.next().expect("a tensor for each input"), &buffer.ty),
        Role::Output | Role::SharedScratch => Memory::garbage(&buffer.ty),
        Role::WorkerScratch | Role::GroupScratch => Memory {
            bits: Vec::new(),
            ..Memory::garbage(&buffer.ty)
        },
    });
    let mut machine = Machine {
        nest,
        shared: shared.collect(),
        workers: Vec::new(),
    };
    assert!(given.next().is_none(), "more tensors than inputs");
    machine.workers = (0..workers)
        .map(|number| Worker {
            number,
            axes: vec![0; nest.axes.len()],
            locals: nest.locals.iter().map(|local| Scalar::zero(local.dtype)).collect(),
            scratch: nest
                .buffers
                .iter()
                .map(|buffer| {
                    let is_own = matches!(buffer.role, Role::WorkerScratch | Role::GroupScratch);
                    is_own.then(|| Memory::garbage(&buffer.ty))
                })
                .collect(),
            item: [None; 3],
            touched: HashMap::new(),
            values: vec![(0, Scalar::Bool(false)); nest.exprs.len()],
            clock: 0,
            pending: Vec::new(),
        })
        .collect();
    machine.run_together(&nest.body);
    let outputs = nest
        .buffers
        .iter()
        .zip(&machine.shared)
        .filter(|(buffer, _)| buffer.role == Role::Output);
    outputs.map(|(buffer, memory)| memory.to_tensor(&buffer.ty)).collect()
}

/// A buffer's elements in the order of memory, as bits.
struct Memory {
    dtype: DType,
    bits: Vec<u64>,
}

impl Memory {
    fn garbage(ty: &Type) -> Memory {
        let ones = u64::MAX >> (64 - 8 * ty.dtype.size_bytes());
        Memory {
            dtype: ty.dtype,
            bits: vec![ones; ty.layout.len(&ty.shape)],
        }
    }

    /// The tensor may have another shape of as many elements.
    fn from_tensor(tensor: &Tensor, ty: &Type) -> Memory {
        let count = ty.shape.iter().product::<usize>();
        let given = tensor.shape().iter().product::<usize>();
        assert_eq!((tensor.dtype(), given), (ty.dtype, count), "type of an input");
        let mut memory = Memory {
            dtype: ty.dtype,
            bits: vec![0; ty.layout.len(&ty.shape)],
        };
        for (position, element) in tensor.scalars().enumerate() {
            memory.set(ty.layout.offset(&ty.shape, &unravel(&ty.shape, position)), element);
        }
        memory
    }

    fn to_tensor(&self, ty: &Type) -> Tensor {
        let size = ty.dtype.size_bytes();
        let bits =
            (0..ty.count()).map(|position| self.bits[ty.layout.offset(&ty.shape, &unravel(&ty.shape, position))]);
        let bytes = bits
            .flat_map(|bits| bits.to_le_bytes().into_iter().take(size))
            .collect();
        Tensor::from_bytes(ty.dtype, ty.shape.clone(), bytes)
    }

    fn get(&self, offset: usize) -> Scalar {
        Scalar::from_bits(self.bits[offset], self.dtype)
    }

    fn set(&mut self, offset: usize, value: Scalar) {
        self.bits[offset] = value.to_bits(self.dtype);
    }
}

/// What one worker keeps to itself.
struct Worker {
    number: usize,
    axes: Vec<i64>,
    locals: Vec<Scalar>,
    scratch: Vec<Option<Memory>>,
    /// Which invocation of a workgroup runs, by dimension; all along those that no loop is bound to.
    item: Item,
    /// Who has touched elements of a workgroup's scratch since its last barrier, and whether that wrote.
    touched: HashMap<(BufferId, usize), Touched>,
    /// The value of each expression and the time it was computed; it holds while the clock stands still.
    values: Vec<(u64, Scalar)>,
    clock: u64,
    /// A stack for walking expressions.
    pending: Vec<ExprId>,
}

/// An invocation of a workgroup, by dimension.
type Item = [Option<usize>; 3];

/// Who has touched an element.
#[derive(Clone, Copy)]
struct Touched {
    /// The last who did.
    by: Item,
    /// Whether there was another.
    by_others: bool,
    /// Whether it was written.
    is_written: bool,
}

/// What an invocation of a workgroup keeps to itself.
#[derive(Clone)]
struct Invocation {
    item: Item,
    axes: Vec<i64>,
    locals: Vec<Scalar>,
}

struct Machine<'a> {
    nest: &'a Nest,
    shared: Vec<Memory>,
    workers: Vec<Worker>,
}

impl Machine<'_> {
    /// Runs statements outside `Workers` loops: each worker as far as the next barrier, one after another.
    fn run_together(&mut self, body: &[Stmt]) {
        for segment in body.chunk_by(|a, b| !has_barrier(a) && !has_barrier(b)) {
            match segment {
                [Stmt::Barrier] => {}
                [
                    Stmt::Loop {
                        axis,
                        extent,
                        bind,
                        body,
                    },
                ] if has_barrier(&segment[0]) => {
                    assert!(
                        matches!(bind, Bind::Serial | Bind::Unroll),
                        "a barrier in a {bind:?} loop"
                    );
                    for iteration in 0..self.same_for_all(*extent).as_i128() as i64 {
                        for worker in &mut self.workers {
                            worker.axes[axis.at()] = iteration;
                            worker.clock += 1;
                        }
                        self.run_together(body);
                    }
                }
                [
                    Stmt::If {
                        condition,
                        then,
                        otherwise,
                    },
                ] if has_barrier(&segment[0]) => {
                    let taken = self.same_for_all(*condition).is_nonzero();
                    self.run_together(if taken { then } else { otherwise });
                }
                _ => {
                    let count = self.workers.len();
                    for worker in &mut self.workers {
                        let mut run = Run {
                            nest: self.nest,
                            shared: &mut self.shared,
                            worker,
                            workers: count,
                        };
                        run.block(segment);
                    }
                }
            }
        }
    }

    /// The value of an expression that decides whether a barrier is reached.
    fn same_for_all(&mut self, id: ExprId) -> Scalar {
        let count = self.workers.len();
        let values: Vec<Scalar> = (self.workers.iter_mut())
            .map(|worker| {
                Run {
                    nest: self.nest,
                    shared: &mut self.shared,
                    worker,
                    workers: count,
                }
                .eval(id)
            })
            .collect();
        assert!(
            values.iter().all(|value| *value == values[0]),
            "workers differ on whether they reach a barrier"
        );
        values[0]
    }
}

fn has_barrier(stmt: &Stmt) -> bool {
    match stmt {
        Stmt::Barrier => true,
        // Such are the group's own.
        Stmt::Loop { bind: Bind::Group, .. } => false,
        Stmt::Loop { body, .. } => body.iter().any(has_barrier),
        Stmt::If { then, otherwise, .. } => then.iter().chain(otherwise).any(has_barrier),
        _ => false,
    }
}

/// Whether a workgroup's invocations meet in a statement, or part there.
fn meets(stmt: &Stmt) -> bool {
    match stmt {
        Stmt::Barrier => true,
        Stmt::Loop { bind, body, .. } => matches!(bind, Bind::Item(_)) || body.iter().any(meets),
        _ => false,
    }
}

fn is_accumulate(stmt: &Stmt) -> bool {
    matches!(stmt, Stmt::Accumulate { .. })
}

/// One worker running.
struct Run<'a, 'n> {
    nest: &'n Nest,
    shared: &'a mut Vec<Memory>,
    worker: &'a mut Worker,
    workers: usize,
}

impl Run<'_, '_> {
    fn block(&mut self, body: &[Stmt]) {
        for stmt in body {
            self.stmt(stmt);
        }
    }

    fn stmt(&mut self, stmt: &Stmt) {
        match stmt {
            Stmt::Loop {
                axis,
                extent,
                bind,
                body,
            } => {
                let extent = self.index(*extent).max(0) as usize;
                assert!(
                    extent <= self.nest.axes[axis.at()].extent,
                    "a loop longer than its axis"
                );
                let range = match bind {
                    Bind::Workers | Bind::Group => {
                        let share = extent.div_ceil(self.workers);
                        let first = (self.worker.number * share).min(extent);
                        first..(first + share).min(extent)
                    }
                    _ => 0..extent,
                };
                let mut lanes = match bind {
                    Bind::Lanes => self.lanes(body),
                    _ => Vec::new(),
                };
                for iteration in range {
                    self.worker.axes[axis.at()] = iteration as i64;
                    self.worker.clock += 1;
                    match bind {
                        Bind::Lanes => self.lane(iteration % LANES, body, &mut lanes),
                        Bind::Group => self.group(body),
                        _ => self.block(body),
                    }
                }
                self.worker.clock += 1;
                for Accumulator { local, with, lanes } in lanes {
                    let all = self.pairwise(local, with, lanes.to_vec());
                    self.accumulate(local, with, all);
                }
            }
            Stmt::If {
                condition,
                then,
                otherwise,
            } => {
                let taken = self.eval(*condition).is_nonzero();
                self.block(if taken { then } else { otherwise });
            }
            Stmt::Set { local, value } => {
                self.worker.locals[local.at()] = self.eval(*value);
                self.worker.clock += 1;
            }
            Stmt::Accumulate { local, with, value } => {
                let value = self.eval(*value);
                self.accumulate(*local, *with, value);
            }
            Stmt::Store { buffer, index, value } => {
                let value = self.eval(*value);
                let at: Vec<i64> = index.iter().map(|&id| self.index(id)).collect();
                let ty = &self.nest.buffers[buffer.at()].ty;
                let inside = at
                    .iter()
                    .zip(&ty.shape)
                    .all(|(&at, &extent)| (0..extent as i64).contains(&at));
                assert!(inside, "store to `{}` at {at:?}", self.nest.buffers[buffer.at()].name);
                let at: Vec<usize> = at.iter().map(|&at| at as usize).collect();
                let offset = ty.layout.offset(&ty.shape, &at);
                self.touch(*buffer, offset, true);
                self.memory(*buffer).set(offset, value);
                self.worker.clock += 1;
            }
            Stmt::Prefetch { .. } => {}
            Stmt::Contract(contract) => self.contract(contract),
            Stmt::Product(product) => self.product(product),
            Stmt::Barrier => unreachable!("a barrier inside a `Workers` loop"),
        }
    }

    /// Values combined: each of the first half with one of the second, until there is one.
    fn pairwise(&self, local: LocalId, with: Combine, mut values: Vec<Scalar>) -> Scalar {
        assert!(
            values.len().is_power_of_two(),
            "{} values combine pairwise",
            values.len()
        );
        let dtype = self.nest.locals[local.at()].dtype;
        while values.len() > 1 {
            let upper = values.split_off(values.len() / 2);
            for (value, other) in values.iter_mut().zip(upper) {
                *value = combine(with, dtype, *value, other);
            }
        }
        values[0]
    }

    /// What a workgroup does in one iteration.
    fn group(&mut self, body: &[Stmt]) {
        for (memory, buffer) in self.worker.scratch.iter_mut().zip(&self.nest.buffers) {
            if buffer.role == Role::GroupScratch {
                *memory = Some(Memory::garbage(&buffer.ty));
            }
        }
        self.worker.touched.clear();
        let mut all = vec![Invocation {
            item: [None; 3],
            axes: self.worker.axes.clone(),
            locals: self.worker.locals.clone(),
        }];
        self.together(&mut all, body);
    }

    /// Runs statements for several invocations of a workgroup: each as far as where they meet, one after another.
    fn together(&mut self, all: &mut [Invocation], body: &[Stmt]) {
        for segment in body.chunk_by(|a, b| !meets(a) && !meets(b)) {
            match segment {
                [Stmt::Barrier] => self.worker.touched.clear(),
                [
                    Stmt::Loop {
                        axis,
                        bind: Bind::Item(dimension),
                        body,
                        ..
                    },
                ] => {
                    for invocation in all.iter_mut() {
                        self.items(invocation, *axis, *dimension, body);
                    }
                }
                [Stmt::Loop { axis, extent, body, .. }] if meets(&segment[0]) => {
                    let extent = self.nest.exprs.as_int(*extent).expect("all know how often they meet");
                    for iteration in 0..extent {
                        all.iter_mut()
                            .for_each(|invocation| invocation.axes[axis.at()] = iteration);
                        self.together(all, body);
                    }
                }
                _ => {
                    for invocation in all.iter_mut() {
                        self.alone(invocation, |run| run.block(segment));
                    }
                }
            }
        }
    }

    /// A loop over invocations, each with what the one around has; accumulations of the loop's own combine.
    fn items(&mut self, outer: &mut Invocation, axis: AxisId, dimension: u8, body: &[Stmt]) {
        let all = (0..self.nest.axes[axis.at()].extent).map(|number| {
            let mut inner = outer.clone();
            inner.item[usize::from(dimension)] = Some(number);
            inner.axes[axis.at()] = number as i64;
            inner
        });
        let mut all: Vec<Invocation> = all.collect();
        for part in body.chunk_by(|a, b| is_accumulate(a) == is_accumulate(b)) {
            if !is_accumulate(&part[0]) {
                self.together(&mut all, part);
                continue;
            }
            for stmt in part {
                let Stmt::Accumulate { local, with, value } = *stmt else {
                    unreachable!("accumulations")
                };
                let mut values = Vec::new();
                for invocation in &mut all {
                    self.alone(invocation, |run| values.push(run.eval(value)));
                }
                let combined = self.pairwise(local, with, values);
                self.alone(outer, |run| run.accumulate(local, with, combined));
            }
        }
    }

    /// Runs something as one of a workgroup's invocations.
    fn alone(&mut self, invocation: &mut Invocation, run: impl FnOnce(&mut Self)) {
        let mut swap = |run: &mut Self| {
            let worker = &mut *run.worker;
            std::mem::swap(&mut worker.axes, &mut invocation.axes);
            std::mem::swap(&mut worker.locals, &mut invocation.locals);
            std::mem::swap(&mut worker.item, &mut invocation.item);
            worker.clock += 1;
        };
        swap(self);
        run(self);
        swap(self);
    }

    /// Notes that the present invocation touches an element; none may who would have had to wait for another.
    fn touch(&mut self, buffer: BufferId, offset: usize, writes: bool) {
        if self.nest.buffers[buffer.at()].role != Role::GroupScratch {
            return;
        }
        // What all along a dimension would write, the first writes.
        let item = self.worker.item;
        let by = if writes {
            item.map(|at| Some(at.unwrap_or(0)))
        } else {
            item
        };
        let now = Touched {
            by,
            by_others: false,
            is_written: writes,
        };
        let before = self.worker.touched.entry((buffer, offset)).or_insert(now);
        let is_other = before.by != by || before.by_others;
        let name = &self.nest.buffers[buffer.at()].name;
        assert!(
            !(is_other && (writes || before.is_written)),
            "`{name}` is touched by {by:?} and {:?} with no barrier between",
            before.by
        );
        *before = Touched {
            by,
            by_others: is_other,
            is_written: before.is_written || writes,
        };
    }

    /// The virtual lanes of a loop's accumulations, at their identities.
    fn lanes(&self, body: &[Stmt]) -> Vec<Accumulator> {
        let accumulations = body.iter().filter_map(|stmt| match *stmt {
            Stmt::Accumulate { local, with, .. } => Some((local, with)),
            _ => None,
        });
        accumulations
            .map(|(local, with)| {
                let identity = with.identity(self.nest.locals[local.at()].dtype);
                Accumulator {
                    local,
                    with,
                    lanes: [identity; LANES],
                }
            })
            .collect()
    }

    /// One iteration of a vector loop.
    fn lane(&mut self, lane: usize, body: &[Stmt], accumulators: &mut [Accumulator]) {
        let mut next = accumulators.iter_mut();
        for stmt in body {
            match stmt {
                Stmt::Store { .. } | Stmt::Prefetch { .. } => self.stmt(stmt),
                Stmt::Accumulate { value, .. } => {
                    let value = self.eval(*value);
                    let Accumulator { local, with, lanes } = next.next().expect("one for each accumulation");
                    lanes[lane] = combine(*with, self.nest.locals[local.at()].dtype, lanes[lane], value);
                }
                _ => panic!("a vector loop holds {stmt:?}"),
            }
        }
    }

    fn accumulate(&mut self, local: LocalId, with: Combine, value: Scalar) {
        let dtype = self.nest.locals[local.at()].dtype;
        let state = &mut self.worker.locals[local.at()];
        *state = combine(with, dtype, *state, value);
        self.worker.clock += 1;
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
            accumulate,
            ahead: _,
        } = *contract;
        if contract.is_in_pieces() {
            return self.contract_pieces(contract);
        }
        assert_eq!(columns % LANES, 0, "columns of a tile");
        assert_eq!(b.across, 1, "columns of B are contiguous");
        let [a_start, b_start, c_start] = [a, b, c].map(|side| self.index(side.start) as usize);
        let depth: usize = k.iter().product();
        for row in 0..rows {
            for column in 0..columns {
                let at = c_start + c.row(row) + column;
                let mut sum = if accumulate {
                    self.memory(c.buffer).get(at)
                } else {
                    Scalar::zero(dtype)
                };
                for step in 0..depth {
                    let step = unravel(k, step);
                    let along = |side: &Operand| {
                        side.along
                            .iter()
                            .zip(&step)
                            .map(|(stride, at)| stride * at)
                            .sum::<usize>()
                    };
                    let left = self.memory(a.buffer).get(a_start + a.row(row) + along(a));
                    let right = self.memory(b.buffer).get(b_start + column + along(b));
                    sum = Prim::Fma.eval(dtype, dtype, &[left, right, sum]);
                }
                self.memory(c.buffer).set(at, sum);
            }
        }
        self.worker.clock += 1;
    }

    fn contract_pieces(&mut self, contract: &Contract) {
        let Contract { a, b, c, .. } = contract;
        let [a_start, b_start, c_start] = [a, b, c].map(|side| self.index(side.start) as usize);
        let blocks: usize = contract.k.iter().product();
        let piece = |side: &Operand, number: usize| side.pieces.map_or(0, |stride| number * stride);
        for (row, column) in (0..contract.rows).flat_map(|row| (0..contract.columns).map(move |column| (row, column))) {
            let at = c_start + c.row(row) + column;
            let mut sum = match contract.accumulate {
                true => self.memory(c.buffer).get(at).as_f64() as f32,
                false => 0.0,
            };
            for block in 0..blocks {
                let block = unravel(&contract.k, block);
                let along =
                    |side: &Operand| -> usize { side.along.iter().zip(&block).map(|(stride, at)| stride * at).sum() };
                let a_block = a_start + a.row(row) + along(a);
                let b_block = b_start + column / pieces::SIDE * b.across + along(b);
                for (left, right) in pieces::PAIRS {
                    let [left, right] = [a_block + piece(a, left), b_block + piece(b, right)];
                    let terms: Vec<(f32, f32)> = (0..pieces::DEPTH)
                        .map(|k| {
                            let number = (k / 2 * pieces::SIDE + column % pieces::SIDE) * 2 + k % 2;
                            (self.term(a.buffer, left, k), self.term(b.buffer, right, number))
                        })
                        .collect();
                    sum = pieces::multiply(sum, terms);
                }
            }
            self.memory(c.buffer).set(at, Scalar::from_f64(sum.into(), DType::F32));
        }
        self.worker.clock += 1;
    }

    /// The term of that number of a block that begins with this element.
    fn term(&mut self, buffer: BufferId, start: usize, number: usize) -> f32 {
        let dtype = self.nest.buffers[buffer.at()].ty.dtype;
        let each = pieces::terms_in(dtype).expect("a buffer of pieces");
        let element = self.memory(buffer).get(start + number / each);
        pieces::term(element.to_bits(dtype), number % each)
    }

    /// The first worker computes it.
    fn product(&mut self, product: &Product) {
        let Product {
            batch, rows, a, b, c, ..
        } = product;
        let [columns, depth] = [&product.columns[..], &product.depth[..]];
        let count = |extents: &[usize]| extents.iter().product::<usize>();
        let is_outside = |number: usize, k: (usize, &[usize]), j: (usize, &[usize])| {
            let mut limits = product.limits.iter();
            limits.any(|limit| !(0..limit.extent as i64).contains(&limit.place.at(number, k, j)))
        };
        for number in 0..if self.worker.number == 0 { *batch } else { 0 } {
            for (row, column) in (0..*rows).flat_map(|row| (0..count(columns)).map(move |column| (row, column))) {
                let (i, j) = ((row, &[*rows][..]), (column, columns));
                let mut sum = Scalar::zero(DType::F32);
                for step in 0..count(depth) {
                    let k = (step, depth);
                    let left = self.memory(a.buffer).get(a.place.at(number, i, k) as usize);
                    let right = match is_outside(number, k, j) {
                        true => Scalar::zero(DType::F32),
                        false => self.memory(b.buffer).get(b.place.at(number, k, j) as usize),
                    };
                    sum = Prim::Fma.eval(DType::F32, DType::F32, &[left, right, sum]);
                }
                self.memory(c.buffer).set(c.place.at(number, i, j) as usize, sum);
            }
        }
        self.worker.clock += 1;
    }

    fn memory(&mut self, buffer: super::BufferId) -> &mut Memory {
        match &mut self.worker.scratch[buffer.at()] {
            Some(own) => own,
            None => &mut self.shared[buffer.at()],
        }
    }

    fn index(&mut self, id: ExprId) -> i64 {
        self.eval(id).as_i128() as i64
    }

    /// The value of an expression now: every expression below it that is not yet known, operands first.
    fn eval(&mut self, id: ExprId) -> Scalar {
        let exprs = &self.nest.exprs;
        let mut pending = std::mem::take(&mut self.worker.pending);
        pending.push(id);
        while let Some(&top) = pending.last() {
            let clock = self.worker.clock;
            let known = |id: ExprId| self.worker.values[id.at()].0 == clock + 1;
            let before = pending.len();
            if !known(top) {
                pending.extend(exprs.operands(top).iter().copied().filter(|&operand| !known(operand)));
            }
            if pending.len() == before {
                pending.pop();
                if !known(top) {
                    let value = self.compute(exprs, top);
                    self.worker.values[top.at()] = (clock + 1, value);
                }
            }
        }
        self.worker.pending = pending;
        self.worker.values[id.at()].1
    }

    /// The value of an expression whose operands are known.
    fn compute(&mut self, exprs: &Exprs, id: ExprId) -> Scalar {
        match exprs.get(id) {
            Expr::Const(dtype, bits) => Scalar::from_bits(*bits, *dtype),
            Expr::Axis(axis) => Scalar::Int(i128::from(self.worker.axes[axis.at()])),
            Expr::Local(local, _) => self.worker.locals[local.at()],
            Expr::Prim(prim, dtype, args) => {
                let mut values = [Scalar::Bool(false); 3];
                for (value, arg) in values.iter_mut().zip(args) {
                    *value = self.worker.values[arg.at()].1;
                }
                prim.eval(*dtype, exprs.dtype(args[0]), &values[..args.len()])
            }
            Expr::Load { buffer, index, guarded } => {
                let ty = &self.nest.buffers[buffer.at()].ty;
                let at: Vec<i128> = index.iter().map(|id| self.worker.values[id.at()].1.as_i128()).collect();
                if at
                    .iter()
                    .zip(&ty.shape)
                    .all(|(at, &extent)| (0..extent as i128).contains(at))
                {
                    let at: Vec<usize> = at.iter().map(|&at| at as usize).collect();
                    let offset = ty.layout.offset(&ty.shape, &at);
                    self.touch(*buffer, offset, false);
                    self.memory(*buffer).get(offset)
                } else {
                    assert!(guarded, "load of `{}` at {at:?}", self.nest.buffers[buffer.at()].name);
                    Scalar::zero(ty.dtype)
                }
            }
            Expr::Fold { .. } => unreachable!("a fold in a nest"),
        }
    }
}

/// The virtual lanes of one accumulation.
struct Accumulator {
    local: LocalId,
    with: Combine,
    lanes: [Scalar; LANES],
}

/// `state ∘ value`, as [`Combine::apply`] spells it: a NaN stays.
fn combine(with: Combine, dtype: DType, state: Scalar, value: Scalar) -> Scalar {
    match (with.prim(), state) {
        (Prim::Max | Prim::Min, Scalar::Float(state_value)) if state_value.is_nan() => state,
        (prim, _) => prim.eval(dtype, dtype, &[state, value]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{Axis, Buffer, Local};
    use crate::target::TargetKind;

    /// `y[] = Σ x[i]` in lanes: 17 elements, so that one lane takes two and the order shows in the bits.
    #[test]
    fn lanes_combine_pairwise() {
        let mut exprs = Exprs::default();
        let [zero, extent, one] = [
            exprs.constant(DType::F32, Scalar::Float(0.0)),
            exprs.int(17),
            exprs.int(1),
        ];
        let (i, w) = (AxisId(0), AxisId(1));
        let at = exprs.axis(i);
        let element = exprs.load(BufferId(0), DType::F32, vec![at], false);
        let sum = exprs.local(LocalId(0), DType::F32);
        let buffer = |name: &str, shape: &[usize], role| Buffer {
            name: name.into(),
            ty: Type::new(DType::F32, shape),
            role,
        };
        let axis = |name: &str, extent| Axis {
            name: name.into(),
            extent,
        };
        let nest = Nest {
            name: "sum".into(),
            kind: TargetKind::Cpu,
            axes: vec![axis("i", 17), axis("w", 1)],
            buffers: vec![buffer("x", &[17], Role::Input), buffer("y", &[], Role::Output)],
            layouts: Vec::new(),
            locals: vec![Local {
                name: "sum".into(),
                dtype: DType::F32,
            }],
            exprs,
            body: vec![Stmt::Loop {
                axis: w,
                extent: one,
                bind: Bind::Workers,
                body: vec![
                    Stmt::Set {
                        local: LocalId(0),
                        value: zero,
                    },
                    Stmt::Loop {
                        axis: i,
                        extent,
                        bind: Bind::Lanes,
                        body: vec![Stmt::Accumulate {
                            local: LocalId(0),
                            with: Combine::Sum,
                            value: element,
                        }],
                    },
                    Stmt::Store {
                        buffer: BufferId(1),
                        index: vec![],
                        value: sum,
                    },
                ],
            }],
        };
        let x: Vec<f32> = (0..17).map(|i| 1.0 + 0.1 * i as f32).collect();
        let mut lanes: Vec<f32> = x[..16].to_vec();
        lanes[0] += x[16];
        for half in [8, 4, 2, 1] {
            lanes = (0..half).map(|lane| lanes[lane] + lanes[lane + half]).collect();
        }
        for workers in 1..4 {
            let result = run(&nest, &[Tensor::from_f32([17], &x)], workers);
            assert_eq!(result[0].to_f32(), [0.0 + lanes[0]]);
        }
    }
}
