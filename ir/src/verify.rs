//! Whether a graph is what every stage may rely on.
//!
//! [`Graph::push`] makes nothing else, so a graph that fails here was put together wrongly: by a pass, or through its public
//! fields. The rules, for a graph and the bodies in it:
//!
//! 1. The operands of a node come before it.
//! 2. The types of a node are what its op infers from theirs; there is at least one.
//! 3. Every type can be computed with: sizes within bounds, layouts that give each element its place ([`Type::check`](crate::Type::check)).
//! 4. No two nodes have equal op and operands.
//! 5. Inputs have distinct names, and the list of inputs holds them all, in order.
//! 6. Outputs are nodes of the graph with one result, and have distinct names.
//! 7. If the graph says how it is cut, it can be cut so ([`fuse::check`]).
//!
//! What each op asks of its operands, and of its bodies' inputs and outputs, is its class's [`Rules::infer`](crate::ops::Rules::infer).

use std::collections::{HashMap, HashSet};

use crate::error::{Problem, Problems};
use crate::fuse;
use crate::graph::{Graph, Node, NodeId};
use crate::ops::{Attr, Op};
use crate::tensor::Type;

/// Checks every rule of the module's text.
///
/// # Errors
/// Everything that is wrong, each with the node's place.
#[allow(
    clippy::mutable_key_type,
    reason = "a tensor's only interior mutability is its hash, computed once from what it owns"
)]
pub fn verify(graph: &Graph) -> Result<(), Problems> {
    let mut problems = Vec::new();
    let mut known: HashMap<(&Op, &[NodeId]), NodeId> = HashMap::with_capacity(graph.len());
    for (id, node) in graph.nodes() {
        if let Some(problem) = check_node(graph, id, node) {
            problems.push(problem);
        }
        if let Some(earlier) = known.insert((&node.op, &node.args), id) {
            problems.push(wrong(id, node, format!("equals {earlier}")));
        }
        for (name, body) in bodies(&node.op) {
            if let Err(Problems(inner)) = verify(&body) {
                problems.extend(inner.into_iter().map(|mut problem| {
                    problem.notes.push(format!("in `{name}` of {id}"));
                    problem
                }));
            }
        }
    }
    check_inputs(graph, &mut problems);
    check_outputs(graph, &mut problems);
    if graph.is_cut()
        && problems.is_empty()
        && let Err(wrong) = fuse::check(graph, graph.regions())
    {
        problems.extend(wrong.into_iter().map(|fuse::Wrong { region, message, .. }| {
            let region = region.map_or(String::new(), |number| format!("region {number}: "));
            Problem::new(format!("{region}{message}"), crate::Loc::None)
        }));
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(Problems(problems))
    }
}

/// Whether an op holds graphs.
pub fn has_bodies(op: &Op) -> bool {
    matches!(op, Op::Scan(_) | Op::If(_) | Op::While(_))
}

/// The graphs that an op holds, with the names of the attributes that hold them.
pub fn bodies(op: &Op) -> Vec<(&'static str, std::sync::Arc<Graph>)> {
    if !has_bodies(op) {
        return Vec::new();
    }
    let attrs = op.rules().attrs().into_iter();
    attrs
        .filter_map(|(name, attr)| match attr {
            Attr::Graph(body) => Some((name, body)),
            _ => None,
        })
        .collect()
}

fn check_node(graph: &Graph, id: NodeId, node: &Node) -> Option<Problem> {
    if let Some(arg) = node.args.iter().find(|arg| **arg >= id) {
        return Some(wrong(id, node, format!("the operand {arg} does not come before it")));
    }
    let show = |types: &[Type]| types.iter().map(Type::to_string).collect::<Vec<_>>().join(", ");
    match graph.infer(&node.op, &node.args) {
        Err(message) => Some(wrong(id, node, message)),
        Ok(types) if types != node.types => {
            let (found, expected) = (show(&node.types), show(&types));
            Some(wrong(id, node, format!("has type {found}, its rule says {expected}")))
        }
        Ok(types) if types.is_empty() => Some(wrong(id, node, "has no result")),
        Ok(types) => types
            .iter()
            .find_map(|ty| ty.check().err())
            .map(|message| wrong(id, node, message)),
    }
}

fn check_inputs(graph: &Graph, problems: &mut Vec<Problem>) {
    let mut names: HashSet<&str> = HashSet::new();
    let mut listed = graph.inputs().iter();
    for (id, node) in graph.nodes() {
        let Op::Input(input) = &node.op else { continue };
        if !names.insert(&input.name) {
            problems.push(wrong(id, node, format!("there are two inputs `{}`", input.name)));
        }
        if listed.next() != Some(&id) {
            problems.push(wrong(
                id,
                node,
                format!("`{}` is not in its place in the list of inputs", input.name),
            ));
        }
    }
}

fn check_outputs(graph: &Graph, problems: &mut Vec<Problem>) {
    let mut names: HashSet<&str> = HashSet::new();
    for (name, id) in &graph.outputs {
        if !names.insert(name) {
            problems.push(Problem::new(
                format!("there are two outputs `{name}`"),
                crate::Loc::None,
            ));
        }
        if id.at() >= graph.len() {
            problems.push(Problem::new(
                format!("the output `{name}` is {id}, which does not exist"),
                crate::Loc::None,
            ));
        } else if graph.node(*id).types.len() != 1 {
            let count = graph.node(*id).types.len();
            let message = format!("the output `{name}` has {count} results; take one of them with `part`");
            problems.push(wrong(*id, graph.node(*id), message));
        }
    }
}

fn wrong(id: NodeId, node: &Node, message: impl std::fmt::Display) -> Problem {
    Problem::new(format!("{}: node {id}: {message}", node.op.name()), node.loc.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Builder, DType, Loc, text};

    fn found(graph: &Graph) -> Vec<String> {
        match verify(graph) {
            Ok(()) => Vec::new(),
            Err(Problems(problems)) => problems.into_iter().map(|problem| problem.message).collect(),
        }
    }

    #[test]
    fn what_push_cannot_see_is_found() {
        let b = Builder::new();
        let x = b.input("x", DType::F32, [2]);
        let mut graph = b.finish([("y", -x)]).unwrap();
        assert_eq!(found(&graph), [""; 0]);
        let twice = Op::Input(crate::ops::Input {
            name: "x".to_owned(),
            ty: Type::new(DType::F64, []),
        });
        graph.push(twice, vec![], Loc::None).unwrap();
        graph.outputs.push(("y".to_owned(), NodeId(0)));
        graph.outputs.push(("z".to_owned(), NodeId(7)));
        let expected = [
            "input: node %2: there are two inputs `x`",
            "there are two outputs `y`",
            "the output `z` is %7, which does not exist",
        ];
        assert_eq!(found(&graph), expected);
    }

    #[test]
    fn bodies_are_checked_too() {
        let source = "graph(c: bool[], x: f32[2]) {
            %0 = if c, x then=graph(x: f32[2]) {
                return x
            } otherwise=graph(x: f32[2]) {
                return x
            }
            %1 = part 0 %0
            return %1
        }";
        let graph = text::parse("branch", source).unwrap();
        assert_eq!(found(&graph), [""; 0]);
        let broken = graph.rebuild(|to, node, args| match &node.op {
            Op::If(branch) => {
                let mut then = Graph::clone(&branch.then);
                let late = Op::Input(crate::ops::Input {
                    name: "x".to_owned(),
                    ty: Type::new(DType::F64, []),
                });
                then.push(late, vec![], Loc::None).unwrap();
                // Both bodies alike, so that the op itself finds nothing wrong with them.
                let body = std::sync::Arc::new(then);
                let x = Op::Const(crate::Tensor::zeros(DType::F64, []).into());
                let x = to.push(x, &[]);
                let branch = crate::ops::Branch {
                    then: body.clone(),
                    otherwise: body,
                };
                to.push(Op::If(branch), &[args[0], args[1], x])
            }
            op => to.push(op.clone(), args),
        });
        let expected = "input: node %1: there are two inputs `x`";
        assert_eq!(found(&broken), [expected; 2]);
    }
}
