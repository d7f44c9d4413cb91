//! Graphs from elsewhere, such as pretrained networks in ONNX, as layers whose constants are trained or frozen.

use netloom_ir::builder::Val;
use netloom_ir::{DType, Graph, NodeId, Op};

use super::Layer;
use crate::error::Error;
use crate::nn::init::Initialiser;
use crate::nn::scope::Scope;

/// A graph with one input and one output as a layer: its `f32` constants of more than one element are parameters, `constant0`, `constant1` and so on in
/// the order of the graph, that start as they are. It takes batches of the size the graph was made for.
#[derive(Clone, Debug)]
pub struct Imported {
    graph: Graph,
}

impl Imported {
    /// The whole of a graph.
    ///
    /// # Errors
    /// If it has not one input and one output.
    pub fn new(graph: Graph) -> Result<Imported, Error> {
        match (graph.inputs(), graph.outputs.as_slice()) {
            ([_], [_]) => Ok(Imported { graph }),
            (inputs, outputs) => Err(Error::Usage(format!(
                "a layer is a graph with one input and one output, found {} and {}",
                inputs.len(),
                outputs.len()
            ))),
        }
    }

    /// The graph up to what its last matrix or kernel is applied to: what a network has found in an example before it names classes.
    ///
    /// # Errors
    /// If nothing in the graph is multiplied with constants.
    pub fn without_head(mut self) -> Result<Imported, Error> {
        let live = self.graph.live();
        let mut follows = vec![false; self.graph.len()];
        let mut last: Option<NodeId> = None;
        for (id, node) in self.graph.nodes().filter(|(id, _)| live[id.at()]) {
            let from_input: Vec<NodeId> = node.args.iter().copied().filter(|arg| follows[arg.at()]).collect();
            follows[id.at()] = matches!(node.op, Op::Input(_)) || !from_input.is_empty();
            if let (Op::Conv(_) | Op::Einsum(_), [data]) = (&node.op, from_input.as_slice()) {
                last = Some(*data);
            }
        }
        let last = last.ok_or_else(|| Error::Usage("nothing in the graph is multiplied with constants".to_owned()))?;
        self.graph.outputs[0].1 = last;
        Ok(self)
    }
}

impl Layer for Imported {
    fn describe(&self) -> String {
        format!(
            "Imported({} nodes)",
            self.graph.live().iter().filter(|live| **live).count()
        )
    }

    #[track_caller]
    fn build<'g>(&self, scope: &Scope<'g>, x: Val<'g>) -> Val<'g> {
        let (b, wanted) = (scope.builder(), self.graph.ty(self.graph.inputs()[0]));
        if x.is_poison() || x.ty() != *wanted {
            let message = format!("imported: the graph was made for {wanted}, found {}", x.ty());
            return if x.is_poison() { x } else { b.problem(message) };
        }
        let live = self.graph.live();
        let mut vals = vec![x; self.graph.len()];
        let mut constants = 0;
        for (id, node) in self.graph.nodes().filter(|(id, _)| live[id.at()]) {
            vals[id.at()] = match &node.op {
                Op::Input(_) => x,
                Op::Const(tensor) if tensor.dtype() == DType::F32 && tensor.count() > 1 => {
                    let name = format!("constant{constants}");
                    constants += 1;
                    let init = Initialiser::Tensor(tensor.as_ref().clone());
                    scope.parameter(&name, tensor.shape(), &init)
                }
                op => {
                    let args: Vec<Val<'g>> = node.args.iter().map(|arg| vals[arg.at()]).collect();
                    b.push(op.clone(), &args)
                }
            };
        }
        vals[self.graph.outputs[0].1.at()]
    }
}
