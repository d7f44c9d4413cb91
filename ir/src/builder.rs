//! Building graphs in Rust: values with operators.
//!
//! ```
//! use netloom_ir::{Builder, DType};
//! let b = Builder::new();
//! let x = b.input("x", DType::F32, [8, 64]);
//! let y = x * x + 1.0;
//! let graph = b.finish([("y", y)]).unwrap();
//! ```
//!
//! Nothing here fails at once: a wrong operation is remembered with its place, its result is ignored by what follows, and
//! [`Builder::finish`] reports all of them.

use std::cell::RefCell;
use std::ops::{Add, Div, Mul, Neg, Sub};
use std::sync::Arc;

use crate::dtype::{DType, Scalar};
use crate::error::{Loc, Problem, Problems};
use crate::graph::{Graph, Node, NodeId};
use crate::ops::map::{self, MapDef};
use crate::ops::{Input, Iota, Map, Op, Random, View};
use crate::tensor::{Shape, Tensor, Type};

/// The result of an operation that was wrong; operations on it are silent.
const POISON: NodeId = NodeId(u32::MAX);

/// A graph under construction.
#[derive(Debug, Default)]
pub struct Builder {
    state: RefCell<State>,
}

#[derive(Debug, Default)]
struct State {
    graph: Graph,
    problems: Vec<Problem>,
    /// The place given to every node instead of the caller's, while a model is imported.
    place: Option<Loc>,
    next_stream: u32,
}

impl Builder {
    /// An empty graph.
    pub fn new() -> Builder {
        Builder::default()
    }

    /// Goes on building from a graph; its nodes keep their ids.
    pub fn from_graph(graph: Graph) -> Builder {
        let next_stream = graph.nodes().map(|(_, node)| streams_of(&node.op)).max().unwrap_or(0);
        Builder {
            state: RefCell::new(State {
                graph,
                next_stream,
                ..State::default()
            }),
        }
    }

    /// An empty graph for a body of an op in `outer`: its random draws differ from those of `outer`, provided that
    /// [`Builder::take_streams`] follows, and its nodes have the place that those of `outer` have.
    pub(crate) fn for_body(outer: &Builder) -> Builder {
        let outer = outer.state.borrow();
        Builder {
            state: RefCell::new(State {
                place: outer.place.clone(),
                next_stream: outer.next_stream,
                ..State::default()
            }),
        }
    }

    /// Keeps later random draws different from those that a body has made.
    pub(crate) fn take_streams(&self, body: &Builder) {
        let mut state = self.state.borrow_mut();
        state.next_stream = state.next_stream.max(body.state.borrow().next_stream);
    }

    /// Adds the nodes of another graph, its inputs replaced by these values in order, and gives its outputs in order.
    ///
    /// # Panics
    /// If the inputs are not as many as the graph's, or not of their types.
    pub fn inline<'g>(&'g self, graph: &Graph, inputs: &[Val<'g>]) -> Vec<Val<'g>> {
        let vals = self.inline_all(graph, inputs);
        graph.outputs.iter().map(|(_, id)| vals[id.at()]).collect()
    }

    /// The same, but gives what each node has become; dead ones are ignored.
    pub(crate) fn inline_all<'g>(&'g self, graph: &Graph, inputs: &[Val<'g>]) -> Vec<Val<'g>> {
        assert_eq!(inputs.len(), graph.inputs().len(), "inputs of the graph inlined");
        let live = graph.live();
        let mut vals = vec![self.val(POISON); graph.len()];
        for (&id, &val) in graph.inputs().iter().zip(inputs) {
            assert_eq!(*graph.ty(id), val.ty(), "type of input {id} of the graph inlined");
            vals[id.at()] = val;
        }
        for (id, node) in graph.nodes().filter(|(id, _)| live[id.at()]) {
            if !matches!(node.op, Op::Input(_)) {
                let args: Vec<Val<'g>> = node.args.iter().map(|arg| vals[arg.at()]).collect();
                let place = self.set_place(Some(node.loc.clone()));
                vals[id.at()] = self.push(node.op.clone(), &args);
                self.set_place(place);
            }
        }
        vals
    }

    /// Gives nodes made from now on this place instead of the caller's line; `None` ends that. Returns what held before.
    pub fn set_place(&self, place: Option<Loc>) -> Option<Loc> {
        std::mem::replace(&mut self.state.borrow_mut().place, place)
    }

    /// A copy of a node.
    pub fn node(&self, id: NodeId) -> Node {
        self.state.borrow().graph.node(id).clone()
    }

    /// The value of a node.
    pub fn val(&self, id: NodeId) -> Val<'_> {
        Val { to: self, id }
    }

    /// The value of the input of that name, if it was declared.
    pub fn find_input(&self, name: &str) -> Option<Val<'_>> {
        let id = self.state.borrow().graph.input(name)?;
        Some(self.val(id))
    }

    /// Adds a node.
    #[track_caller]
    pub fn push(&self, op: Op, args: &[Val<'_>]) -> Val<'_> {
        let ids: Vec<NodeId> = args.iter().map(|arg| arg.id).collect();
        if ids.contains(&POISON) {
            return self.val(POISON);
        }
        let caller = Loc::caller();
        let mut state = self.state.borrow_mut();
        let loc = state.place.clone().unwrap_or(caller);
        let id = match state.graph.push(op, ids, loc) {
            Ok(id) => id,
            Err(problem) => {
                state.problems.push(problem);
                POISON
            }
        };
        drop(state);
        self.val(id)
    }

    /// Remembers that something is wrong here, and gives a value that is ignored by what follows.
    #[track_caller]
    pub fn problem(&self, message: impl Into<String>) -> Val<'_> {
        let caller = Loc::caller();
        let mut state = self.state.borrow_mut();
        let loc = state.place.clone().unwrap_or(caller);
        state.problems.push(Problem::new(message, loc));
        drop(state);
        self.val(POISON)
    }

    /// Remembers the problems of another builder, and gives a value that is ignored by what follows.
    pub fn report(&self, problems: Problems) -> Val<'_> {
        self.state.borrow_mut().problems.extend(problems.0);
        self.val(POISON)
    }

    /// Declares an input.
    #[track_caller]
    pub fn input(&self, name: &str, dtype: DType, shape: impl Into<Vec<usize>>) -> Val<'_> {
        let ty = Type::new(dtype, shape);
        if let Some(known) = self.find_input(name) {
            if known.ty() == ty {
                return known;
            }
            return self.problem(format!(
                "input: `{name}` is declared as {} and again as {ty}",
                known.ty()
            ));
        }
        self.push(
            Op::Input(Input {
                name: name.to_owned(),
                ty,
            }),
            &[],
        )
    }

    /// A constant tensor.
    #[track_caller]
    pub fn constant(&self, tensor: impl Into<Arc<Tensor>>) -> Val<'_> {
        self.push(Op::Const(tensor.into()), &[])
    }

    /// A constant scalar.
    #[track_caller]
    pub fn scalar(&self, dtype: DType, value: f64) -> Val<'_> {
        self.constant(Tensor::scalar(dtype, Scalar::from_f64(value, dtype)))
    }

    /// A tensor with every element equal to `value`.
    #[track_caller]
    pub fn full(&self, dtype: DType, shape: impl Into<Vec<usize>>, value: f64) -> Val<'_> {
        self.scalar(dtype, value).broadcast(shape)
    }

    /// `0, 1, 2, …` along one axis.
    #[track_caller]
    pub fn iota(&self, dtype: DType, shape: impl Into<Vec<usize>>, axis: usize) -> Val<'_> {
        self.push(
            Op::Iota(Iota {
                dtype,
                shape: shape.into(),
                axis,
            }),
            &[],
        )
    }

    /// The four random words of each of so many counters, different for each call; see [`Random`].
    #[track_caller]
    pub fn random_words<'g>(&'g self, key: Val<'g>, step: Val<'g>, counters: usize) -> [Val<'g>; 4] {
        let stream = {
            let mut state = self.state.borrow_mut();
            state.next_stream += 1;
            state.next_stream - 1
        };
        let shape = vec![counters];
        [0, 1, 2, 3].map(|word| {
            let shape = shape.clone();
            self.push(Op::Random(Random { shape, word, stream }), &[key, step])
        })
    }

    /// The number of nodes so far; [`Builder::finish`] keeps their ids.
    pub fn len(&self) -> usize {
        self.state.borrow().graph.len()
    }

    /// Whether there is no node yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The graph with these outputs.
    ///
    /// # Errors
    /// Everything that was wrong, in order.
    pub fn finish<'g>(
        &self,
        outputs: impl IntoIterator<Item = (impl Into<String>, Val<'g>)>,
    ) -> Result<Graph, Problems> {
        // Taking the next output may itself add nodes.
        let outputs = outputs.into_iter().map(|(name, val)| (name.into(), val.id)).collect();
        let state = self.state.borrow();
        if !state.problems.is_empty() {
            return Err(Problems(state.problems.clone()));
        }
        let mut graph = state.graph.clone();
        graph.outputs = outputs;
        Ok(graph)
    }

    /// What is wrong so far.
    pub fn problems(&self) -> Vec<Problem> {
        self.state.borrow().problems.clone()
    }
}

/// One more than the greatest random stream in an op and its bodies; 0 if there is none.
fn streams_of(op: &Op) -> u32 {
    let inside = |body: &Graph| body.nodes().map(|(_, node)| streams_of(&node.op)).max().unwrap_or(0);
    match op {
        Op::Random(random) => random.stream + 1,
        Op::Scan(scan) => inside(&scan.body),
        Op::If(branch) => inside(&branch.then).max(inside(&branch.otherwise)),
        Op::While(repeat) => inside(&repeat.condition).max(inside(&repeat.body)),
        _ => 0,
    }
}

/// A value in a graph under construction: the single result of a node.
#[derive(Clone, Copy, Debug)]
pub struct Val<'g> {
    to: &'g Builder,
    id: NodeId,
}

impl<'g> Val<'g> {
    /// The builder.
    pub fn builder(self) -> &'g Builder {
        self.to
    }

    /// The node.
    pub fn id(self) -> NodeId {
        self.id
    }

    /// Whether this is the result of a wrong operation, which [`Builder::finish`] will report.
    pub fn is_poison(self) -> bool {
        self.id == POISON
    }

    /// The type; that of an `f32` scalar if an operation before this was wrong.
    pub fn ty(self) -> Type {
        if self.is_poison() {
            return Type::new(DType::F32, []);
        }
        self.to.state.borrow().graph.ty(self.id).clone()
    }

    /// The element type.
    pub fn dtype(self) -> DType {
        self.ty().dtype
    }

    /// The extents.
    pub fn shape(self) -> Vec<usize> {
        self.ty().shape
    }

    /// The number of axes.
    pub fn rank(self) -> usize {
        self.ty().rank()
    }

    /// A scalar constant of this value's type.
    #[track_caller]
    pub fn lit(self, value: f64) -> Val<'g> {
        self.to.scalar(self.dtype(), value)
    }

    /// Result `part` of a node with several.
    #[track_caller]
    pub fn part(self, part: usize) -> Val<'g> {
        self.to.push(Op::Part(part), &[self])
    }

    /// An elementwise function of operands that are broadcast to one shape first.
    #[track_caller]
    pub fn map(def: &'static MapDef, args: &[Val<'g>]) -> Val<'g> {
        let to = args[0].to;
        if args.iter().any(|arg| arg.is_poison()) {
            return to.val(POISON);
        }
        let shapes: Vec<Vec<usize>> = args.iter().map(|arg| arg.shape()).collect();
        let Some(shape) = broadcast_shapes(&shapes) else {
            let found: Vec<String> = args.iter().map(|arg| arg.ty().to_string()).collect();
            return to.problem(format!(
                "{}: shapes do not broadcast to one: {}",
                def.name,
                found.join(" and ")
            ));
        };
        let args: Vec<Val<'g>> = args.iter().map(|arg| arg.broadcast(shape.clone())).collect();
        to.push(Op::Map(Map(def)), &args)
    }

    /// Repeats to a shape by NumPy's rule; the value itself if it has that shape already.
    #[track_caller]
    pub fn broadcast(self, shape: impl Into<Vec<usize>>) -> Val<'g> {
        let shape = shape.into();
        if self.is_poison() || self.shape() == shape {
            return self;
        }
        self.to.push(Op::View(View::Broadcast(shape)), &[self])
    }

    /// The same elements in row-major order under another shape; the value itself if it has that shape already.
    #[track_caller]
    pub fn reshape(self, shape: impl Into<Vec<usize>>) -> Val<'g> {
        let shape = shape.into();
        if self.is_poison() || self.shape() == shape {
            return self;
        }
        self.to.push(Op::View(View::Reshape(shape)), &[self])
    }

    /// Reorders axes: axis `k` of the result is axis `order[k]` of this; the value itself if that is the order already.
    #[track_caller]
    pub fn permute(self, order: impl Into<Vec<usize>>) -> Val<'g> {
        let order = order.into();
        if self.is_poison() || order.iter().copied().eq(0..self.rank()) {
            return self;
        }
        self.to.push(Op::View(View::Permute(order)), &[self])
    }
}

/// The shape that NumPy's rule broadcasts these to.
pub fn broadcast_shapes(shapes: &[Vec<usize>]) -> Option<Vec<usize>> {
    let rank = shapes.iter().map(Vec::len).max()?;
    let mut result = vec![1; rank];
    for shape in shapes {
        for (extent, wanted) in shape.iter().rev().zip(result.iter_mut().rev()) {
            match (*extent, *wanted) {
                (1, _) => {}
                (found, 1) => *wanted = found,
                (found, known) if found == known => {}
                _ => return None,
            }
        }
    }
    Some(result)
}

/// Implements a binary operator for values and numbers on either side.
macro_rules! operator {
    ($trait:ident, $method:ident, $def:expr) => {
        impl<'g> $trait for Val<'g> {
            type Output = Val<'g>;
            #[track_caller]
            fn $method(self, other: Val<'g>) -> Val<'g> {
                Val::map($def, &[self, other])
            }
        }

        impl<'g> $trait<f64> for Val<'g> {
            type Output = Val<'g>;
            #[track_caller]
            fn $method(self, other: f64) -> Val<'g> {
                Val::map($def, &[self, self.lit(other)])
            }
        }

        impl<'g> $trait<Val<'g>> for f64 {
            type Output = Val<'g>;
            #[track_caller]
            fn $method(self, other: Val<'g>) -> Val<'g> {
                Val::map($def, &[other.lit(self), other])
            }
        }
    };
}
operator!(Add, add, &map::arith::ADD);
operator!(Sub, sub, &map::arith::SUB);
operator!(Mul, mul, &map::arith::MUL);
operator!(Div, div, &map::arith::DIV);

impl<'g> Neg for Val<'g> {
    type Output = Val<'g>;
    #[track_caller]
    fn neg(self) -> Val<'g> {
        Val::map(&map::arith::NEG, &[self])
    }
}

/// As error messages show it.
impl std::fmt::Display for Val<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ty = self.ty();
        write!(f, "{}: {}{}", self.id, ty.dtype, Shape(&ty.shape))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Outputs may be an iterator that adds nodes as it goes.
    #[test]
    fn outputs_may_be_built_last() {
        let b = Builder::new();
        let x = b.input("x", DType::F32, [3]);
        let graph = b.finish([1.0, 2.0].into_iter().map(|scale| (scale.to_string(), x * scale)));
        assert_eq!(graph.map(|graph| graph.outputs.len()).ok(), Some(2));
    }
}
