//! From a region to its kernel: each op says what its value is at an index, and this asks.
//!
//! A node of the region is asked for its value wherever a user needs one, and remembered by node and index; a value that the region
//! reads from memory becomes a load. So fusion is a matter of which nodes the region holds, and no op knows of it.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::ops::{Add, Div, Mul, Neg, Sub};
use std::sync::Arc;

use super::{Axis, AxisId, Buffer, BufferId, Combine, Expr, ExprId, Exprs, Kernel, Prim, Role, Store, Work, index};
use crate::dtype::{DType, Scalar};
use crate::fuse::Region;
use crate::graph::{Graph, NodeId};
use crate::ops::{Op, Prefix, Scatter, Sort};
use crate::tensor::{Tensor, Type};

/// Constants of so many elements may become numbers in the code: Winograd's largest matrix has as many.
const MOST_KNOWN: usize = 64;

/// What a node holds, if it is a constant whose elements may become numbers in the code.
pub(crate) fn known(graph: &Graph, id: NodeId) -> Option<&Arc<Tensor>> {
    match &graph.node(id).op {
        Op::Const(tensor) => Some(tensor).filter(|tensor| tensor.count() <= MOST_KNOWN),
        _ => None,
    }
}

/// The kernel of a region of kind [`RegionKind::Kernel`](crate::fuse::RegionKind::Kernel).
///
/// The parallel axes are those of the output with the most; every other output's shape is a prefix of its shape. A prefix, scatter or
/// sort is its region's only output, with what computes its operands around it.
///
/// # Panics
/// If the region is not one that [`regions`](crate::fuse::regions) or [`singletons`](crate::fuse::singletons) could make.
pub fn build(graph: &Graph, region: &Region) -> Kernel {
    let mut buffers = Vec::new();
    let mut add = |&id: &NodeId, role| {
        let name = match &graph.node(id).op {
            Op::Input(input) => input.name.clone(),
            _ => format!("{id}"),
        };
        let ty = graph.ty(id).clone();
        buffers.push(Buffer { name, ty, role });
    };
    region.inputs.iter().for_each(|id| add(id, Role::Input));
    region.outputs.iter().for_each(|id| add(id, Role::Output));
    let mut exprs = Exprs::default();
    exprs.know(graph, &region.inputs);
    let exprs = RefCell::new(exprs);
    let lowering = Lowering {
        graph,
        inlined: region.nodes.iter().copied().collect(),
        inputs: region
            .inputs
            .iter()
            .zip(0..)
            .map(|(&id, at)| (id, BufferId(at)))
            .collect(),
        exprs: &exprs,
        axes: RefCell::default(),
        values: RefCell::default(),
    };
    let outputs: Vec<(NodeId, BufferId)> = region
        .outputs
        .iter()
        .zip(region.inputs.len() as u32..)
        .map(|(&id, at)| (id, BufferId(at)))
        .collect();
    let (parallel, work) = match (&graph.node(region.outputs[0]).op, outputs.as_slice()) {
        (Op::Prefix(op), &[output]) => lowering.prefix(op, output),
        (Op::Sort(op), &[output]) => lowering.sort(op, output),
        (Op::Scatter(op), &[output]) => lowering.scatter(op, output),
        _ => lowering.stores(&outputs),
    };
    let axes = lowering.axes.into_inner();
    let exprs = exprs.into_inner();
    let kernel = Kernel {
        axes,
        parallel,
        buffers,
        exprs,
        work,
    };
    kernel.in_order()
}

impl Exprs {
    /// Learns what small constants hold among the values that are buffers, the first of a kernel.
    pub(crate) fn know(&mut self, graph: &Graph, inputs: &[NodeId]) {
        for (&id, at) in inputs.iter().zip(0..) {
            if let Some(tensor) = known(graph, id) {
                self.add_constant(BufferId(at), Arc::clone(tensor));
            }
        }
    }
}

/// A region on its way to becoming a kernel.
struct Lowering<'a> {
    graph: &'a Graph,
    /// The region's nodes.
    inlined: HashSet<NodeId>,
    /// What the region reads.
    inputs: HashMap<NodeId, BufferId>,
    exprs: &'a RefCell<Exprs>,
    axes: RefCell<Vec<Axis>>,
    /// The value of each node at each index asked for so far.
    values: RefCell<HashMap<(NodeId, Vec<ExprId>), ExprId>>,
}

impl<'a> Lowering<'a> {
    fn add_axis(&self, prefix: char, extent: usize) -> AxisId {
        let mut axes = self.axes.borrow_mut();
        let same = axes.iter().filter(|axis| axis.name.starts_with(prefix)).count();
        axes.push(Axis {
            name: format!("{prefix}{same}"),
            extent,
        });
        self.exprs.borrow_mut().add_axis(extent)
    }

    /// New axes `i0`, `i1`, … of these extents, as expressions.
    fn parallel_axes(&self, extents: &[usize]) -> Vec<ExprId> {
        let axes: Vec<AxisId> = extents.iter().map(|&extent| self.add_axis('i', extent)).collect();
        axes.into_iter()
            .map(|axis| self.exprs.borrow_mut().axis(axis))
            .collect()
    }

    fn stores(&self, outputs: &[(NodeId, BufferId)]) -> (usize, Work) {
        let shape = |id: NodeId| &self.graph.ty(id).shape;
        let widest = outputs.iter().map(|&(id, _)| shape(id)).max_by_key(|shape| shape.len());
        let widest = widest.expect("a region has an output");
        let axes = self.parallel_axes(widest);
        let stores = outputs.iter().map(|&(id, buffer)| {
            let over = shape(id).len();
            assert_eq!(
                shape(id)[..],
                widest[..over],
                "the shape of output {id} is a prefix of the widest"
            );
            let index = axes[..over].to_vec();
            Store {
                buffer,
                over,
                value: self.own_value(id, index.clone()),
                index,
            }
        });
        (widest.len(), Work::Stores(stores.collect()))
    }

    fn prefix(&self, op: &Prefix, output: (NodeId, BufferId)) -> (usize, Work) {
        let store = self.along(op.axis, output);
        let (with, exclusive) = (op.with, op.exclusive);
        let parallel = store.over;
        let work = Work::Prefix { store, with, exclusive };
        (parallel, work)
    }

    fn sort(&self, op: &Sort, output: (NodeId, BufferId)) -> (usize, Work) {
        let store = self.along(op.axis, output);
        let descending = op.descending;
        (store.over, Work::Sort { store, descending })
    }

    /// The only operand of an op that works along one axis, with that axis last among the parallel ones.
    fn along(&self, axis: usize, (id, buffer): (NodeId, BufferId)) -> Store {
        let shape = &self.graph.ty(id).shape;
        let mut extents = shape.clone();
        let extent = extents.remove(axis);
        extents.push(extent);
        let mut index = self.parallel_axes(&extents);
        let last = index.pop().expect("the axis itself");
        index.insert(axis, last);
        let operand = self.graph.node(id).args[0];
        Store {
            buffer,
            over: shape.len(),
            value: self.value(operand, index.clone()),
            index,
        }
    }

    fn scatter(&self, op: &Scatter, (id, buffer): (NodeId, BufferId)) -> (usize, Work) {
        let &[start, indices, updates] = self.graph.node(id).args.as_slice() else {
            unreachable!("`scatter` has three operands");
        };
        let place = self.parallel_axes(&self.graph.ty(id).shape);
        let initial = Store {
            buffer,
            over: place.len(),
            value: self.value(start, place.clone()),
            index: place,
        };
        let extents = &self.graph.ty(updates).shape;
        let axes: Vec<AxisId> = extents.iter().map(|&extent| self.add_axis('u', extent)).collect();
        let at: Vec<ExprId> = axes.iter().map(|&axis| self.exprs.borrow_mut().axis(axis)).collect();
        let value = self.value(updates, at.clone());
        let indexed = op.axis..op.axis + self.graph.ty(indices).rank();
        let chosen = self.value(indices, at[indexed.clone()].to_vec());
        let chosen = X::new(self.exprs, chosen).cast(DType::I64).id();
        let mut index = at;
        index.splice(indexed, [chosen]);
        let work = Work::Scatter {
            updates: axes,
            index,
            axis: op.axis,
            with: op.with,
            value,
            initial,
        };
        (self.graph.ty(id).rank(), work)
    }

    /// Whether a value is a load whose own guard makes it zero wherever `index` is outside a type's shape.
    fn guards(&self, value: ExprId, ty: &Type, index: &[ExprId]) -> bool {
        let exprs = self.exprs.borrow();
        let Expr::Load {
            buffer,
            index: loaded,
            guarded: true,
        } = exprs.get(value)
        else {
            return false;
        };
        let (&id, _) = (self.inputs.iter())
            .find(|(_, at)| *at == buffer)
            .expect("a load is from an input");
        let is_guarded = |place: ExprId, extent: usize| {
            let mut guards = loaded.iter().zip(&self.graph.ty(id).shape);
            guards.any(|guard| guard == (&place, &extent))
        };
        let mut places = index.iter().zip(&ty.shape);
        places.all(|(&place, &extent)| index::is_within(&exprs, place, extent) || is_guarded(place, extent))
    }

    /// The value of a node at an index within its shape: computed here, loaded, or a constant.
    fn value(&self, id: NodeId, at: Vec<ExprId>) -> ExprId {
        if self.inlined.contains(&id) {
            return self.own_value(id, at);
        }
        let ty = self.graph.ty(id);
        if let Some(&buffer) = self.inputs.get(&id) {
            // An index that is inside, but not provably, is guarded too, so that every load can be trusted.
            let guarded = !self.is_within(ty, &at);
            return self.exprs.borrow_mut().load(buffer, ty.dtype, at, guarded);
        }
        match &self.graph.node(id).op {
            Op::Const(tensor) if tensor.count() == 1 => self.exprs.borrow_mut().constant(ty.dtype, tensor.get(0)),
            op => panic!(
                "{id}, a `{}`, is neither in its user's region nor read by it",
                op.name()
            ),
        }
    }

    /// The value at an index of a node that is in the region.
    fn own_value(&self, id: NodeId, at: Vec<ExprId>) -> ExprId {
        let key = (id, at);
        if let Some(&value) = self.values.borrow().get(&key) {
            return value;
        }
        let op = &self.graph.node(id).op;
        let value = op.rules().kernel(&mut KernelCx {
            lowering: self,
            node: id,
            index: key.1.clone(),
        });
        let value = value.unwrap_or_else(|| panic!("`{}` has no value at one index", op.name()));
        self.values.borrow_mut().insert(key, value);
        value
    }

    fn is_within(&self, ty: &Type, at: &[ExprId]) -> bool {
        let exprs = self.exprs.borrow();
        assert_eq!(at.len(), ty.rank(), "one index an axis of {ty}");
        at.iter()
            .zip(&ty.shape)
            .all(|(&place, &extent)| index::is_within(&exprs, place, extent))
    }
}

/// What an op's [`Rules::kernel`](crate::ops::Rules::kernel) is given: the index wanted, and access to its operands' values.
pub struct KernelCx<'a> {
    lowering: &'a Lowering<'a>,
    node: NodeId,
    index: Vec<ExprId>,
}

impl<'a> KernelCx<'a> {
    /// The index at which the result is wanted, one `i64` an axis.
    ///
    /// It is within the result's shape wherever the value is used; under a guard ([`KernelCx::arg_or_zero`]) the expressions
    /// may leave it, and what comes out is then not looked at.
    pub fn index(&self) -> &[ExprId] {
        &self.index
    }

    /// The type of the result.
    pub fn out_type(&self) -> &'a Type {
        self.lowering.graph.ty(self.node)
    }

    /// The number of operands.
    pub fn arg_count(&self) -> usize {
        self.args().len()
    }

    /// The type of operand `arg`.
    pub fn arg_type(&self, arg: usize) -> &'a Type {
        self.lowering.graph.ty(self.args()[arg])
    }

    fn args(&self) -> &'a [NodeId] {
        &self.lowering.graph.node(self.node).args
    }

    /// The value of operand `arg` at an index that is within its shape.
    pub fn arg(&mut self, arg: usize, index: Vec<ExprId>) -> ExprId {
        self.lowering.value(self.args()[arg], index)
    }

    /// The value of operand `arg` at an index, or zero where the index is outside its shape.
    pub fn arg_or_zero(&mut self, arg: usize, index: Vec<ExprId>) -> ExprId {
        let (id, ty) = (self.args()[arg], self.arg_type(arg));
        let value = self.lowering.value(id, index.clone());
        if self.lowering.is_within(ty, &index) || self.lowering.guards(value, ty, &index) {
            return value;
        }
        let mut within: Option<X<'a>> = None;
        for (&place, &extent) in index.iter().zip(&ty.shape) {
            let place = self.x(place);
            let here = self.int(0).le(place).and(place.lt(self.int(extent as i64)));
            within = Some(within.map_or(here, |others| others.and(here)));
        }
        let zero = self.constant(ty.dtype, Scalar::zero(ty.dtype));
        match within {
            Some(within) => within.select(self.x(value), zero).id(),
            None => value,
        }
    }

    /// A new axis to fold over, taking the values 0 to `extent` - 1.
    pub fn fold_axis(&mut self, extent: usize) -> AxisId {
        self.lowering.add_axis('r', extent)
    }

    /// Combines `value` over axes made by [`KernelCx::fold_axis`].
    pub fn fold(&mut self, with: Combine, over: Vec<AxisId>, value: ExprId) -> ExprId {
        self.lowering.exprs.borrow_mut().fold(with, over, value)
    }

    /// `state` with one more `value`.
    pub fn combine(&self, with: Combine, state: X<'a>, value: X<'a>) -> X<'a> {
        self.x(with.apply(&mut self.lowering.exprs.borrow_mut(), state.id(), value.id()))
    }

    /// The value of a fold axis.
    pub fn axis(&self, axis: AxisId) -> X<'a> {
        self.x(self.lowering.exprs.borrow_mut().axis(axis))
    }

    /// An `i64` constant.
    pub fn int(&self, value: i64) -> X<'a> {
        self.x(self.lowering.exprs.borrow_mut().int(value))
    }

    /// A constant.
    pub fn constant(&self, dtype: DType, value: Scalar) -> X<'a> {
        self.x(self.lowering.exprs.borrow_mut().constant(dtype, value))
    }

    /// An expression as a handle with operators.
    pub fn x(&self, id: ExprId) -> X<'a> {
        X {
            exprs: self.lowering.exprs,
            id,
        }
    }
}

/// An expression under construction: a handle with operators, for map bodies and index arithmetic.
#[derive(Clone, Copy)]
pub struct X<'k> {
    exprs: &'k RefCell<Exprs>,
    id: ExprId,
}

#[allow(
    clippy::should_implement_trait,
    reason = "bodies read as the list of primitives they are"
)]
impl<'k> X<'k> {
    /// A handle to an expression.
    pub fn new(exprs: &'k RefCell<Exprs>, id: ExprId) -> X<'k> {
        X { exprs, id }
    }

    /// The expression.
    pub fn id(self) -> ExprId {
        self.id
    }

    /// The type of its value.
    pub fn dtype(self) -> DType {
        self.exprs.borrow().dtype(self.id)
    }

    /// The value, if it is a constant.
    pub fn as_const(self) -> Option<Scalar> {
        self.exprs.borrow().as_const(self.id)
    }

    /// A constant of this value's type.
    pub fn lit(self, value: f64) -> X<'k> {
        self.constant(Scalar::from_f64(value, self.dtype()))
    }

    /// An integer constant of this value's type.
    pub fn int(self, value: i128) -> X<'k> {
        self.constant(Scalar::Int(value))
    }

    fn constant(self, value: Scalar) -> X<'k> {
        let dtype = self.dtype();
        X {
            id: self.exprs.borrow_mut().constant(dtype, value),
            ..self
        }
    }

    /// A primitive with this and further operands, its result of type `dtype`.
    pub fn prim(self, prim: Prim, dtype: DType, rest: &[X<'k>]) -> X<'k> {
        let args: Vec<ExprId> = std::iter::once(self.id).chain(rest.iter().map(|x| x.id)).collect();
        X {
            id: self.exprs.borrow_mut().prim(prim, dtype, &args),
            ..self
        }
    }

    fn same(self, prim: Prim, rest: &[X<'k>]) -> X<'k> {
        self.prim(prim, self.dtype(), rest)
    }

    /// `self * b + c`, rounded once.
    pub fn fma(self, b: X<'k>, c: X<'k>) -> X<'k> {
        self.same(Prim::Fma, &[b, c])
    }

    /// [`Prim::Max`]: `self > b ? self : b`.
    pub fn max(self, b: X<'k>) -> X<'k> {
        self.same(Prim::Max, &[b])
    }

    /// [`Prim::Min`]: `self < b ? self : b`.
    pub fn min(self, b: X<'k>) -> X<'k> {
        self.same(Prim::Min, &[b])
    }

    /// Square root.
    pub fn sqrt(self) -> X<'k> {
        self.same(Prim::Sqrt, &[])
    }

    /// Absolute value.
    pub fn abs(self) -> X<'k> {
        self.same(Prim::Abs, &[])
    }

    /// Rounds down.
    pub fn floor(self) -> X<'k> {
        self.same(Prim::Floor, &[])
    }

    /// Rounds up.
    pub fn ceil(self) -> X<'k> {
        self.same(Prim::Ceil, &[])
    }

    /// Rounds towards zero.
    pub fn trunc(self) -> X<'k> {
        self.same(Prim::Trunc, &[])
    }

    /// Rounds to nearest, ties to even.
    pub fn nearest(self) -> X<'k> {
        self.same(Prim::Nearest, &[])
    }

    /// The remainder of integer division, with the sign of `self`.
    pub fn rem(self, b: X<'k>) -> X<'k> {
        self.same(Prim::Rem, &[b])
    }

    /// `self == b`.
    pub fn eq(self, b: X<'k>) -> X<'k> {
        self.prim(Prim::Eq, DType::Bool, &[b])
    }

    /// `self < b`.
    pub fn lt(self, b: X<'k>) -> X<'k> {
        self.prim(Prim::Lt, DType::Bool, &[b])
    }

    /// `self <= b`.
    pub fn le(self, b: X<'k>) -> X<'k> {
        self.prim(Prim::Le, DType::Bool, &[b])
    }

    /// Whether this is NaN.
    pub fn is_nan(self) -> X<'k> {
        self.eq(self).not()
    }

    /// Bitwise (or logical) and.
    pub fn and(self, b: X<'k>) -> X<'k> {
        self.same(Prim::And, &[b])
    }

    /// Bitwise (or logical) or.
    pub fn or(self, b: X<'k>) -> X<'k> {
        self.same(Prim::Or, &[b])
    }

    /// Bitwise (or logical) exclusive or.
    pub fn xor(self, b: X<'k>) -> X<'k> {
        self.same(Prim::Xor, &[b])
    }

    /// Bitwise (or logical) complement.
    pub fn not(self) -> X<'k> {
        match self.dtype() {
            DType::Bool => self.xor(self.constant(Scalar::Bool(true))),
            _ => self.xor(self.int(-1)),
        }
    }

    /// `self << b`.
    pub fn shl(self, b: X<'k>) -> X<'k> {
        self.same(Prim::Shl, &[b])
    }

    /// `self >> b`.
    pub fn shr(self, b: X<'k>) -> X<'k> {
        self.same(Prim::Shr, &[b])
    }

    /// For a `bool`: the same, said to hold for few elements. What a choice by it takes then may cost much.
    pub fn unlikely(self) -> X<'k> {
        self.same(Prim::Unlikely, &[])
    }

    /// For a `bool`: `self ? yes : no`.
    pub fn select(self, yes: X<'k>, no: X<'k>) -> X<'k> {
        self.prim(Prim::Select, yes.dtype(), &[yes, no])
    }

    /// Converts to a type.
    pub fn cast(self, dtype: DType) -> X<'k> {
        if self.dtype() == dtype {
            self
        } else {
            self.prim(Prim::Cast, dtype, &[])
        }
    }

    /// The same bits as another type of the same size.
    pub fn bitcast(self, dtype: DType) -> X<'k> {
        if self.dtype() == dtype {
            self
        } else {
            self.prim(Prim::Bitcast, dtype, &[])
        }
    }
}

/// Implements a binary operator for handles, and for a handle and a number on either side.
macro_rules! operator {
    ($trait:ident, $method:ident, $prim:expr) => {
        impl<'k> $trait for X<'k> {
            type Output = X<'k>;
            fn $method(self, other: X<'k>) -> X<'k> {
                self.same($prim, &[other])
            }
        }

        impl<'k> $trait<f64> for X<'k> {
            type Output = X<'k>;
            fn $method(self, other: f64) -> X<'k> {
                self.same($prim, &[self.lit(other)])
            }
        }

        impl<'k> $trait<X<'k>> for f64 {
            type Output = X<'k>;
            fn $method(self, other: X<'k>) -> X<'k> {
                other.lit(self).same($prim, &[other])
            }
        }
    };
}
operator!(Add, add, Prim::Add);
operator!(Sub, sub, Prim::Sub);
operator!(Mul, mul, Prim::Mul);
operator!(Div, div, Prim::Div);

impl<'k> Neg for X<'k> {
    type Output = X<'k>;
    fn neg(self) -> X<'k> {
        self.same(Prim::Neg, &[])
    }
}
