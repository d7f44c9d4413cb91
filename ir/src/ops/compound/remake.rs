//! Bodies made anew from others: with other inputs, which may stand for what was computed, and other outputs.

use std::sync::Arc;

use crate::graph::{Graph, NodeId};
use crate::ops::source::Input;
use crate::ops::{Op, View};
use crate::tensor::{Tensor, Type};

/// A body in the making: first its inputs, in order, then what its outputs need.
pub(crate) struct Remake<'a> {
    from: &'a Graph,
    to: Graph,
    /// What has become of the old nodes.
    ids: Vec<Option<NodeId>>,
}

impl<'a> Remake<'a> {
    pub(crate) fn new(from: &'a Graph) -> Remake<'a> {
        Remake {
            from,
            to: Graph::new(),
            ids: vec![None; from.len()],
        }
    }

    /// The next input is one that the old body has too.
    pub(crate) fn keep(&mut self, input: NodeId) -> NodeId {
        let Op::Input(Input { name, ty }) = &self.from.node(input).op else {
            unreachable!("only an input is kept as one")
        };
        self.input(name, ty, &[input])
    }

    /// The next input stands for some old nodes. The name is taken as it is, or with a number if there is such an input.
    pub(crate) fn input(&mut self, name: &str, ty: &Type, stands_for: &[NodeId]) -> NodeId {
        let mut names = std::iter::once(name.to_owned()).chain((0..).map(|number| format!("{name}_{number}")));
        let name = names.find(|name| self.to.input(name).is_none());
        let name = name.expect("some number is free");
        let id = self.push(Op::Input(Input { name, ty: ty.clone() }), Vec::new());
        for old in stands_for {
            self.ids[old.at()] = Some(id);
        }
        id
    }

    /// An old node is this scalar everywhere. No input may follow.
    pub(crate) fn literal(&mut self, old: NodeId, scalar: Arc<Tensor>) {
        let shape = self.from.ty(old).shape.clone();
        let scalar = self.push(Op::Const(scalar), Vec::new());
        let repeated = match shape.is_empty() {
            true => scalar,
            false => self.push(Op::View(View::Broadcast(shape)), vec![scalar]),
        };
        self.ids[old.at()] = Some(repeated);
    }

    /// A new node.
    pub(crate) fn push(&mut self, op: Op, args: Vec<NodeId>) -> NodeId {
        let pushed = self.to.push(op, args, crate::error::Loc::None);
        pushed.unwrap_or_else(|problem| panic!("a body was given an invalid node: {problem}"))
    }

    /// What an old node is now; what it needs is copied.
    pub(crate) fn copy(&mut self, wanted: NodeId) -> NodeId {
        let mut needed = vec![false; wanted.at() + 1];
        needed[wanted.at()] = true;
        for at in (0..=wanted.at()).rev() {
            if needed[at] && self.ids[at].is_none() {
                let args = &self.from.node(NodeId(at as u32)).args;
                args.iter().for_each(|arg| needed[arg.at()] = true);
            }
        }
        for at in (0..=wanted.at()).filter(|&at| needed[at]) {
            if self.ids[at].is_some() {
                continue;
            }
            let node = self.from.node(NodeId(at as u32));
            let known = |arg: &NodeId| self.ids[arg.at()].expect("operands come before their users");
            let args = node.args.iter().map(known).collect();
            let copied = self.to.push(node.op.clone(), args, node.loc.clone());
            self.ids[at] = Some(copied.unwrap_or_else(|problem| panic!("a copy of a valid node: {problem}")));
        }
        self.ids[wanted.at()].expect("it has just been copied")
    }

    /// The body that gives these.
    pub(crate) fn finish(mut self, outputs: &[NodeId]) -> Arc<Graph> {
        let named = outputs.iter().enumerate().map(|(place, &id)| (format!("y{place}"), id));
        self.to.outputs = named.collect();
        Arc::new(self.to)
    }
}
