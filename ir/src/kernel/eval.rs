//! Runs a [`Kernel`] on host tensors, store by store and fold by fold: what a region means, before any decision.
//!
//! Against the oracle it blames fusion or [`build`](super::build); against [`interp`](super::interp) it blames a schedule.

use std::collections::HashMap;

use super::{AxisId, Combine, Expr, ExprId, Exprs, Kernel, Prim, Role, Store, Work};
use crate::dtype::Scalar;
use crate::tensor::{Tensor, unravel};

/// The outputs, in the order of the output buffers, given the inputs in that of the input buffers.
///
/// # Panics
/// If an input's type is not its buffer's, or an unguarded load leaves its buffer.
pub fn run(kernel: &Kernel, inputs: &[Tensor]) -> Vec<Tensor> {
    let mut given = inputs.iter();
    let tensors = kernel.buffers.iter().map(|buffer| match buffer.role {
        Role::Input => given.next().expect("a tensor for each input").clone(),
        _ => Tensor::zeros(buffer.ty.dtype, buffer.ty.shape.clone()),
    });
    let mut place = Place {
        kernel,
        exprs: kernel.exprs.clone(),
        tensors: tensors.collect(),
        at: vec![0; kernel.axes.len()],
        values: HashMap::new(),
    };
    match &kernel.work {
        Work::Stores(stores) => stores.iter().for_each(|store| place.store(store)),
        Work::Prefix { store, with, exclusive } => place.prefix(store, *with, *exclusive),
        Work::Sort { store, descending } => place.sort(store, *descending),
        Work::Scatter {
            initial,
            updates,
            index,
            axis,
            with,
            value,
        } => {
            place.store(initial);
            for point in points(&place.extents(updates)) {
                place.go(updates, &point);
                let mut at: Vec<i128> = index.iter().map(|&id| place.eval(id).as_i128()).collect();
                let shape = place.tensors[initial.buffer.at()].shape().to_vec();
                if !(0..shape[*axis] as i128).contains(&at[*axis]) {
                    continue;
                }
                let position = flatten(&shape, at.drain(..));
                let mut new = place.eval(*value);
                if let Some(with) = with {
                    new = place.combine(*with, place.tensors[initial.buffer.at()].get(position), new, *value);
                }
                place.tensors[initial.buffer.at()].set(position, new);
            }
        }
    }
    let outputs = kernel.buffers.iter().zip(place.tensors);
    outputs
        .filter(|(buffer, _)| buffer.role == Role::Output)
        .map(|(_, tensor)| tensor)
        .collect()
}

/// Where in the loops we are.
struct Place<'a> {
    kernel: &'a Kernel,
    /// The kernel's, and what combining two constants adds.
    exprs: Exprs,
    tensors: Vec<Tensor>,
    at: Vec<usize>,
    /// The value here of each expression met so far; an expression is a DAG, which as a tree may be exponentially larger.
    values: HashMap<ExprId, Scalar>,
}

impl Place<'_> {
    fn extents(&self, axes: &[AxisId]) -> Vec<usize> {
        axes.iter().map(|axis| self.kernel.axes[axis.at()].extent).collect()
    }

    fn go(&mut self, axes: &[AxisId], point: &[usize]) {
        for (axis, &value) in axes.iter().zip(point) {
            self.at[axis.at()] = value;
        }
        self.values.clear();
    }

    fn write(&mut self, store: &Store, value: Scalar) {
        let index: Vec<i128> = store.index.iter().map(|&id| self.eval(id).as_i128()).collect();
        let tensor = &mut self.tensors[store.buffer.at()];
        let position = flatten(tensor.shape(), index.into_iter());
        tensor.set(position, value);
    }

    fn store(&mut self, store: &Store) {
        let axes: Vec<AxisId> = (0..store.over as u32).map(AxisId).collect();
        for point in points(&self.extents(&axes)) {
            self.go(&axes, &point);
            let value = self.eval(store.value);
            self.write(store, value);
        }
    }

    fn prefix(&mut self, store: &Store, with: Combine, exclusive: bool) {
        let axes: Vec<AxisId> = (0..store.over as u32).map(AxisId).collect();
        let identity = with.identity(self.exprs.dtype(store.value));
        let mut state = identity;
        for point in points(&self.extents(&axes)) {
            self.go(&axes, &point);
            if point.last() == Some(&0) {
                state = identity;
            }
            let value = self.eval(store.value);
            let next = self.combine(with, state, value, store.value);
            self.write(store, if exclusive { state } else { next });
            state = next;
        }
    }

    fn sort(&mut self, store: &Store, descending: bool) {
        let axes: Vec<AxisId> = (0..store.over as u32).map(AxisId).collect();
        let extents = self.extents(&axes);
        let (&length, rows) = extents.split_last().expect("the axis sorted");
        for row in points(rows) {
            self.go(&axes, &row);
            let last = axes.len() - 1;
            let mut order: Vec<(Scalar, usize)> = (0..length)
                .map(|position| {
                    self.go(&axes[last..], &[position]);
                    (self.eval(store.value), position)
                })
                .collect();
            order.sort_by(|(a, _), (b, _)| {
                let nan = |x: &Scalar| matches!(x, Scalar::Float(x) if x.is_nan());
                let ascending = match (a, b) {
                    (Scalar::Float(a), Scalar::Float(b)) => a.partial_cmp(b),
                    _ => Some(a.as_i128().cmp(&b.as_i128())),
                };
                match ascending {
                    Some(order) if descending => order.reverse(),
                    Some(order) => order,
                    None => nan(a).cmp(&nan(b)),
                }
            });
            for (position, (_, source)) in order.into_iter().enumerate() {
                self.go(&axes[last..], &[position]);
                self.write(store, Scalar::Int(source as i128));
            }
        }
    }

    /// As [`Combine::apply`] says.
    fn combine(&mut self, with: Combine, state: Scalar, value: Scalar, like: ExprId) -> Scalar {
        let dtype = self.exprs.dtype(like);
        let (state, value) = (self.exprs.constant(dtype, state), self.exprs.constant(dtype, value));
        let combined = with.apply(&mut self.exprs, state, value);
        self.exprs.as_const(combined).expect("constants fold")
    }

    fn eval(&mut self, id: ExprId) -> Scalar {
        if let Some(&value) = self.values.get(&id) {
            return value;
        }
        let value = self.eval_here(id);
        self.values.insert(id, value);
        value
    }

    fn eval_here(&mut self, id: ExprId) -> Scalar {
        match self.exprs.get(id).clone() {
            Expr::Const(dtype, bits) => Scalar::from_bits(bits, dtype),
            Expr::Axis(axis) => Scalar::Int(self.at[axis.at()] as i128),
            Expr::Load { buffer, index, guarded } => {
                let index: Vec<i128> = index.iter().map(|&place| self.eval(place).as_i128()).collect();
                let tensor = &self.tensors[buffer.at()];
                let within = index
                    .iter()
                    .zip(tensor.shape())
                    .all(|(place, &extent)| (0..extent as i128).contains(place));
                match (within, guarded) {
                    (true, _) => tensor.get(flatten(tensor.shape(), index.into_iter())),
                    (false, true) => Scalar::zero(tensor.dtype()),
                    (false, false) => panic!("an unguarded load at {index:?} of {}", tensor.ty()),
                }
            }
            // Lazy, so that the side not taken may be anything.
            Expr::Prim(Prim::Select, _, args) => match self.eval(args[0]).is_nonzero() {
                true => self.eval(args[1]),
                false => self.eval(args[2]),
            },
            Expr::Prim(prim, dtype, args) => {
                let values: Vec<Scalar> = args.iter().map(|&arg| self.eval(arg)).collect();
                prim.eval(dtype, self.exprs.dtype(args[0]), &values)
            }
            Expr::Fold { with, over, value } => {
                let mut state = with.identity(self.exprs.dtype(id));
                for point in points(&self.extents(&over)) {
                    self.go(&over, &point);
                    let next = self.eval(value);
                    state = self.combine(with, state, next, value);
                }
                state
            }
            Expr::Local(..) => unreachable!("a local in a kernel"),
        }
    }
}

/// Every index within a shape, in row-major order.
fn points(shape: &[usize]) -> impl Iterator<Item = Vec<usize>> + use<> {
    let shape = shape.to_vec();
    (0..shape.iter().product()).map(move |position| unravel(&shape, position))
}

fn flatten(shape: &[usize], index: impl Iterator<Item = i128>) -> usize {
    shape.iter().zip(index).fold(0, |position, (&extent, place)| {
        assert!(
            (0..extent as i128).contains(&place),
            "place {place} on an axis of {extent}"
        );
        position * extent + place as usize
    })
}
