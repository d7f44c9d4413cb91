//! The meaning of a graph: every node in order, from its definition, in exact scalars rounded to the node's type.
//!
//! Slow and obvious on purpose; what engines are compared with. Layouts do not matter here: tensors on the host are dense.

use std::sync::Arc;

use crate::error::{Loc, Problem, Problems};
use crate::graph::{Graph, NodeId};
use crate::ops::Op;
use crate::tensor::{Shape, Tensor};

/// The outputs of a graph, by name, in order.
///
/// # Errors
/// Every input that is missing, unknown, given twice, or of another type than declared.
pub fn run(graph: &Graph, inputs: &[(&str, Tensor)]) -> Result<Vec<(String, Tensor)>, Problems> {
    let inputs = bind(graph, inputs)?;
    let values = evaluate(graph, &inputs, Keep::Outputs);
    let outputs = graph.outputs.iter().map(|(name, id)| {
        let value = values[id.at()].first().expect("an output is kept");
        (name.clone(), Tensor::clone(value))
    });
    Ok(outputs.collect())
}

/// The results of every node, by [`NodeId::at`]; for comparing an engine with the oracle node by node.
///
/// # Errors
/// As [`run`].
pub fn run_all(graph: &Graph, inputs: &[(&str, Tensor)]) -> Result<Vec<Vec<Arc<Tensor>>>, Problems> {
    let inputs = bind(graph, inputs)?;
    Ok(evaluate(graph, &inputs, Keep::All))
}

/// The outputs of a body, whose inputs are given by position and have the right types.
pub(crate) fn run_body(body: &Graph, inputs: &[Arc<Tensor>]) -> Vec<Arc<Tensor>> {
    assert_eq!(inputs.len(), body.inputs().len(), "inputs of a body");
    let values = evaluate(body, inputs, Keep::Outputs);
    let outputs = body.outputs.iter().map(|(_, id)| values[id.at()][0].clone());
    outputs.collect()
}

/// The tensor of each input of the graph, in the graph's order.
fn bind(graph: &Graph, inputs: &[(&str, Tensor)]) -> Result<Vec<Arc<Tensor>>, Problems> {
    let mut problems = Vec::new();
    let mut bound = Vec::new();
    for &id in graph.inputs() {
        let node = graph.node(id);
        let Op::Input(input) = &node.op else {
            unreachable!("{id} is listed as an input")
        };
        let mut given = inputs.iter().filter(|(name, _)| *name == input.name);
        let Some((name, tensor)) = given.next() else {
            let message = format!("input `{}` of type {} is missing", input.name, input.ty);
            problems.push(Problem::new(message, node.loc.clone()));
            continue;
        };
        if given.next().is_some() {
            problems.push(Problem::new(format!("input `{name}` is given twice"), node.loc.clone()));
        }
        if tensor.dtype() != input.ty.dtype || tensor.shape() != input.ty.shape {
            let wanted = format!("{}{}", input.ty.dtype, Shape(&input.ty.shape));
            let message = format!("input `{name}` is declared as {wanted}, found {}", tensor.ty());
            problems.push(Problem::new(message, node.loc.clone()));
        }
        bound.push(Arc::new(tensor.clone()));
    }
    for (name, tensor) in inputs {
        if graph.input(name).is_none() {
            let message = format!("there is no input `{name}`, found one of type {}", tensor.ty());
            problems.push(Problem::new(message, Loc::None));
        }
    }
    if problems.is_empty() {
        Ok(bound)
    } else {
        Err(Problems(problems))
    }
}

/// Which values outlive their last reader.
#[derive(Clone, Copy, PartialEq)]
enum Keep {
    All,
    Outputs,
}

/// The results of every node that is kept; those of others are empty.
fn evaluate(graph: &Graph, inputs: &[Arc<Tensor>], keep: Keep) -> Vec<Vec<Arc<Tensor>>> {
    let live = match keep {
        Keep::All => vec![true; graph.len()],
        Keep::Outputs => graph.live(),
    };
    let dies_after = last_readers(graph, keep);
    let mut values: Vec<Vec<Arc<Tensor>>> = vec![Vec::new(); graph.len()];
    for (&id, tensor) in graph.inputs().iter().zip(inputs) {
        values[id.at()] = vec![tensor.clone()];
    }
    for (id, node) in graph.nodes().filter(|(id, _)| live[id.at()]) {
        match &node.op {
            Op::Input(_) => {}
            Op::Const(tensor) => values[id.at()] = vec![tensor.clone()],
            Op::Part(part) => values[id.at()] = vec![values[node.args[0].at()][*part].clone()],
            op => {
                let args: Vec<&Tensor> = node.args.iter().map(|arg| &*values[arg.at()][0]).collect();
                let results = op.rules().eval(&args);
                check_types(graph, id, &results);
                values[id.at()] = results.into_iter().map(Arc::new).collect();
            }
        }
        for dead in &dies_after[id.at()] {
            values[dead.at()] = Vec::new();
        }
    }
    values
}

/// For each node, the operands that no node after it reads.
fn last_readers(graph: &Graph, keep: Keep) -> Vec<Vec<NodeId>> {
    let mut dies_after = vec![Vec::new(); graph.len()];
    if keep == Keep::All {
        return dies_after;
    }
    let live = graph.live();
    let mut read_later = vec![false; graph.len()];
    for (_, id) in &graph.outputs {
        read_later[id.at()] = true;
    }
    for (id, node) in graph.nodes().rev().filter(|(id, _)| live[id.at()]) {
        for &arg in &node.args {
            if !std::mem::replace(&mut read_later[arg.at()], true) {
                dies_after[id.at()].push(arg);
            }
        }
    }
    dies_after
}

/// A class whose `eval` and `infer` disagree is wrong, and is named at once.
fn check_types(graph: &Graph, id: NodeId, results: &[Tensor]) {
    let node = graph.node(id);
    let name = node.op.name();
    assert_eq!(
        results.len(),
        node.types.len(),
        "results of {id} = {name} in the oracle"
    );
    for (result, ty) in results.iter().zip(&node.types) {
        assert_eq!(result.dtype(), ty.dtype, "element type of {id} = {name} in the oracle");
        assert_eq!(result.shape(), ty.shape, "shape of {id} = {name} in the oracle");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Builder, DType};

    fn twice_plus() -> Graph {
        let b = Builder::new();
        let x = b.input("x", DType::F32, [2]);
        let y = b.input("y", DType::F32, [2]);
        b.finish([("sum", x + x + y), ("same", x)]).expect("a graph")
    }

    #[test]
    fn outputs_come_by_name_in_order() {
        let graph = twice_plus();
        let inputs = [
            ("y", Tensor::from_f32([2], &[10.0, 20.0])),
            ("x", Tensor::from_f32([2], &[1.0, 2.0])),
        ];
        let outputs = run(&graph, &inputs).expect("inputs fit");
        let outputs: Vec<(&str, Vec<f32>)> = outputs
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_f32()))
            .collect();
        assert_eq!(outputs, [("sum", vec![12.0, 24.0]), ("same", vec![1.0, 2.0])]);
        let all = run_all(&graph, &inputs).expect("inputs fit");
        assert!(all.iter().all(|results| results.len() == 1));
        assert_eq!(all[graph.outputs[0].1.at()][0].to_f32(), [12.0, 24.0]);
    }

    #[test]
    fn every_wrong_input_is_reported() {
        let inputs = [
            ("x", Tensor::from_f32([3], &[1.0, 2.0, 3.0])),
            ("z", Tensor::from_i64([], &[1])),
        ];
        let problems = run(&twice_plus(), &inputs).expect_err("three things are wrong");
        let messages: Vec<&str> = problems.0.iter().map(|problem| problem.message.as_str()).collect();
        assert_eq!(
            messages,
            [
                "input `x` is declared as f32[2], found f32[3]",
                "input `y` of type f32[2] is missing",
                "there is no input `z`, found one of type i64[]",
            ]
        );
    }
}
