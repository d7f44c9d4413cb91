//! An op of a loop's body, on the values of all steps at once.

use crate::graph::{NodeId, Rebuild};
use crate::ops::{Einsum, Fold, Op, View};
use crate::tensor::Type;

/// A value outside of a loop.
#[derive(Clone, Copy)]
pub(super) struct Outer {
    pub id: NodeId,
    /// Whether its first axis counts steps; otherwise it is the same in each.
    pub is_stack: bool,
}

/// Whether [`push`] knows the op.
pub(super) fn has_form(op: &Op) -> bool {
    match op {
        Op::Map(_) | Op::Fold(_) | Op::Einsum(_) => true,
        Op::View(View::Windows { .. }) => false,
        Op::View(_) => true,
        Op::Input(_) | Op::Const(_) | Op::Iota(_) | Op::Prefix(_) | Op::Conv(_) | Op::Pool(_) | Op::Gather(_) => false,
        Op::Scatter(_) | Op::Random(_) | Op::Sort(_) | Op::Scan(_) | Op::If(_) | Op::While(_) | Op::Part(_) => false,
    }
}

/// The stack of what an op gives in each of `length` steps; `ty` is one entry's. At least one operand is a stack.
pub(super) fn push(to: &mut Rebuild, op: &Op, ty: &Type, operands: &[Outer], length: usize) -> NodeId {
    let with_steps = |shape: &[usize]| [&[length], shape].concat();
    let one_more = |axes: &[usize]| axes.iter().map(|axis| axis + 1).collect::<Vec<usize>>();
    let repeated = |to: &mut Rebuild, operand: &Outer| match operand.is_stack {
        true => operand.id,
        false => {
            let shape = with_steps(&to.graph.ty(operand.id).shape);
            to.push(Op::View(View::Broadcast(shape)), &[operand.id])
        }
    };
    let op = match op {
        Op::Map(map) => {
            let args: Vec<NodeId> = operands.iter().map(|operand| repeated(to, operand)).collect();
            return to.push(Op::Map(*map), &args);
        }
        Op::Einsum(einsum) => {
            let time = einsum.free_letter();
            let letters = |letters: &[char], is_stack: bool| -> Vec<char> {
                is_stack
                    .then_some(time)
                    .into_iter()
                    .chain(letters.iter().copied())
                    .collect()
            };
            Op::Einsum(Einsum {
                left: letters(&einsum.left, operands[0].is_stack),
                right: letters(&einsum.right, operands[1].is_stack),
                out: letters(&einsum.out, true),
            })
        }
        Op::Fold(fold) => Op::Fold(Fold {
            axes: one_more(&fold.axes),
            ..fold.clone()
        }),
        Op::View(View::Concat(axis)) => {
            let args: Vec<NodeId> = operands.iter().map(|operand| repeated(to, operand)).collect();
            return to.push(Op::View(View::Concat(axis + 1)), &args);
        }
        Op::View(View::Broadcast(shape)) => {
            let entry = to.graph.ty(operands[0].id).shape[1..].to_vec();
            let missing = vec![1; shape.len() - entry.len()];
            let aligned = with_steps(&[missing, entry].concat());
            let aligned = to.push(Op::View(View::Reshape(aligned)), &[operands[0].id]);
            return to.push(Op::View(View::Broadcast(with_steps(shape))), &[aligned]);
        }
        Op::View(view) => Op::View(match view {
            View::Reshape(_) => View::Reshape(with_steps(&ty.shape)),
            View::Permute(order) => View::Permute([vec![0], one_more(order)].concat()),
            View::Slice { start, step, count } => View::Slice {
                start: [&[0], start.as_slice()].concat(),
                step: [&[1], step.as_slice()].concat(),
                count: with_steps(count),
            },
            View::Pad { low, high, inner, fill } => {
                let [low, high, inner] = [low, high, inner].map(|axes| [&[0], axes.as_slice()].concat());
                let fill = fill.clone();
                View::Pad { low, high, inner, fill }
            }
            View::Flip(axes) => View::Flip(one_more(axes)),
            View::Broadcast(_) | View::Concat(_) | View::Windows { .. } => unreachable!("not asked for"),
        }),
        op => unreachable!("`{}` has no form for all steps", op.name()),
    };
    let args: Vec<NodeId> = operands.iter().map(|operand| operand.id).collect();
    to.push(op, &args)
}
