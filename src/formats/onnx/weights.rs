//! A model as a program: its weights are states, so that what depends on them alone is computed once and they are not printed with the graph.

use std::collections::HashSet;

use netloom_ir::ops::source::Input;
use netloom_ir::program::SEED;
use netloom_ir::{Entry, Graph, Init, Loc, NodeId, Op, Program, State};

/// The program of one entry in which those constants that are initialisers of the model, are numbers of a float type, and have more than
/// one element are states of the initialisers' names.
pub(super) fn program(entry: &str, graph: Graph, initialisers: &HashSet<&str>) -> Program {
    let live = graph.live();
    let mut taken: HashSet<String> = (graph.outputs.iter())
        .map(|(name, _)| name.clone())
        .chain([SEED.to_owned()])
        .collect();
    for &id in graph.inputs() {
        if let Op::Input(input) = &graph.node(id).op {
            taken.insert(input.name.clone());
        }
    }
    let mut states = Vec::new();
    let mut to = Graph::new();
    let mut new_ids = vec![NodeId(u32::MAX); graph.len()];
    // Inputs first, as text wants them.
    for &id in graph.inputs() {
        let node = graph.node(id);
        new_ids[id.at()] = copy(&mut to, node.op.clone(), Vec::new(), &node.loc);
    }
    for (id, node) in graph.nodes() {
        let (Op::Const(tensor), Loc::Import(name)) = (&node.op, &node.loc) else {
            continue;
        };
        let is_weight = live[id.at()] && tensor.dtype().is_float() && tensor.count() > 1;
        if !is_weight || !initialisers.contains(&**name) {
            continue;
        }
        let numbered = (2..).map(|number| format!("{name}.{number}"));
        let free = std::iter::once(name.to_string())
            .chain(numbered)
            .find(|name| !taken.contains(name));
        let name = free.expect("numbers do not end");
        taken.insert(name.clone());
        let ty = node.ty().clone();
        let input = Input {
            name: name.clone(),
            ty: ty.clone(),
        };
        new_ids[id.at()] = copy(&mut to, Op::Input(input), Vec::new(), &node.loc);
        states.push(State {
            name,
            ty,
            init: Init::Tensor(tensor.clone()),
        });
    }
    for (id, node) in graph.nodes() {
        if new_ids[id.at()] == NodeId(u32::MAX) {
            let args = node.args.iter().map(|arg| new_ids[arg.at()]).collect();
            new_ids[id.at()] = copy(&mut to, node.op.clone(), args, &node.loc);
        }
    }
    let outputs = graph.outputs.iter();
    to.outputs = outputs.map(|(name, id)| (name.clone(), new_ids[id.at()])).collect();
    Program {
        states,
        entries: vec![Entry {
            name: entry.to_owned(),
            graph: to,
        }],
    }
}

fn copy(to: &mut Graph, op: Op, args: Vec<NodeId>, loc: &Loc) -> NodeId {
    to.push(op, args, loc.clone()).expect("a copy of a valid node")
}
