//! A loop's body seen from outside: what depends on what, and values of it computed there.

use super::every_step::{self, Outer};
use crate::graph::{Graph, NodeId, Rebuild};
use crate::ops::{Op, Scan};

/// What a value of a body depends on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    /// Constants: it is the same in every step.
    Fixed,
    /// The entries of this step, too.
    Step,
    /// The steps before, the number of the step, or random draws.
    Loop,
}

/// The nodes of a body, and those of their values that are known outside.
pub(super) struct Outside<'a> {
    pub body: &'a Graph,
    length: usize,
    pub levels: Vec<Level>,
    known: Vec<Option<Outer>>,
}

impl<'a> Outside<'a> {
    /// `body`: the scan's, or one that computes the same; `args`: the scan's operands.
    pub fn new(scan: &Scan, body: &'a Graph, args: &[NodeId]) -> Outside<'a> {
        let mut levels = vec![Level::Loop; body.len()];
        let mut known = vec![None; body.len()];
        let named = scan.carried + scan.sliced;
        for (place, (&input, &id)) in body.inputs().iter().zip(args).enumerate().skip(scan.carried) {
            let is_stack = place < named;
            levels[input.at()] = if is_stack { Level::Step } else { Level::Fixed };
            known[input.at()] = Some(Outer { id, is_stack });
        }
        for (id, node) in body.nodes() {
            let operands = node.args.iter().map(|arg| levels[arg.at()]).max();
            levels[id.at()] = match &node.op {
                Op::Input(_) => levels[id.at()],
                Op::Random(_) => Level::Loop,
                _ => operands.unwrap_or(Level::Fixed),
            };
        }
        Outside {
            body,
            length: scan.length,
            levels,
            known,
        }
    }

    /// Whether this is a contraction with a value that is the same in every step, for the sake of which the steps' operands are worth
    /// bringing together: as one contraction it reads that value once.
    pub fn is_batchable(&self, id: NodeId, level: Level) -> bool {
        let node = self.body.node(id);
        let levels = || node.args.iter().map(|arg| self.levels[arg.at()]);
        matches!(node.op, Op::Einsum(_)) && levels().min() == Some(Level::Fixed) && levels().max() == Some(level)
    }

    /// Says where the values of a node are.
    pub fn learn(&mut self, id: NodeId, outer: Outer) {
        self.known[id.at()] = Some(outer);
    }

    /// What is known of a node.
    pub fn known(&self, id: NodeId) -> Option<Outer> {
        self.known[id.at()]
    }

    /// Whether [`Outside::compute`] can, given what is known: every node that depends on steps has a form for all of them.
    pub fn is_computable(&self, id: NodeId) -> bool {
        self.missing(id).into_iter().all(|id| {
            let op = &self.body.node(id).op;
            match self.levels[id.at()] {
                Level::Fixed => !matches!(op, Op::Input(_)),
                Level::Step | Level::Loop => every_step::has_form(op),
            }
        })
    }

    /// The nodes to be computed for a node to be known, operands first.
    fn missing(&self, id: NodeId) -> Vec<NodeId> {
        let mut needed = vec![false; id.at() + 1];
        needed[id.at()] = true;
        for at in (0..=id.at()).rev() {
            if needed[at] && self.known[at].is_none() {
                let args = &self.body.node(NodeId(at as u32)).args;
                args.iter().for_each(|arg| needed[arg.at()] = true);
            }
        }
        let missing = (0..=id.at()).filter(|&at| needed[at] && self.known[at].is_none());
        missing.map(|at| NodeId(at as u32)).collect()
    }

    /// Computes a node outside, for all steps at once or once for all steps.
    pub fn compute(&mut self, to: &mut Rebuild, id: NodeId) -> Outer {
        for id in self.missing(id) {
            let node = self.body.node(id);
            let operands: Vec<Outer> = (node.args.iter())
                .map(|arg| self.known[arg.at()].expect("operands are computed first"))
                .collect();
            let is_stack = operands.iter().any(|operand| operand.is_stack);
            let id_outside = match is_stack {
                true => every_step::push(to, &node.op, node.ty(), &operands, self.length),
                false => {
                    let args: Vec<NodeId> = operands.iter().map(|operand| operand.id).collect();
                    to.push(node.op.clone(), &args)
                }
            };
            self.learn(
                id,
                Outer {
                    id: id_outside,
                    is_stack,
                },
            );
        }
        self.known[id.at()].expect("it has just been computed")
    }
}
