//! Symbolic reverse-mode gradients: graph in, graph out.
//!
//! A reverse walk over the nodes; what each op contributes is its class's [`Rules::grad`](crate::ops::Rules::grad), so no op's
//! name appears here. Rules are written with the builder, in the same ops, so gradients of gradients work.

use crate::builder::{Builder, Val};
use crate::error::{Problem, Problems};
use crate::graph::{Graph, Node, NodeId};
use crate::ops::Op;

/// What a gradient rule is given: the node, its operands and results as values, and the gradients that arrive at its results.
pub struct Vjp<'a, 'g> {
    /// The graph being extended.
    pub to: &'g Builder,
    /// The node differentiated.
    pub node: &'a Node,
    /// Its operands.
    pub args: Vec<Val<'g>>,
    /// The node itself; for a node with several results take them with [`Val::part`].
    pub out: Val<'g>,
    /// The gradient of the single result. For a node with several, that of the first that has one.
    pub seed: Val<'g>,
    /// The gradient of each result; `None` where none arrives.
    pub seeds: Vec<Option<Val<'g>>>,
    /// For each operand, whether its gradient is wanted; a rule may give others too, they are dropped.
    pub wanted: Vec<bool>,
}

/// Adds to `to` the gradient of the scalar `loss` with respect to each of `wrt`, and gives the gradients. Where `loss` does not depend
/// on a value its gradient is zeros.
pub fn grad<'g>(loss: Val<'g>, wrt: &[Val<'g>]) -> Vec<Val<'g>> {
    let seed = loss.lit(1.0);
    grad_from(&[(loss, seed)], wrt)
}

/// As [`grad`], from any number of values with the gradient that arrives at each.
pub fn grad_from<'g>(seeds: &[(Val<'g>, Val<'g>)], wrt: &[Val<'g>]) -> Vec<Val<'g>> {
    let _ = (
        seeds,
        wrt,
        Problem::new("", crate::error::Loc::None),
        NodeId(0),
        Op::Part(0),
        Graph::new(),
        Problems(vec![]),
    );
    todo!()
}
