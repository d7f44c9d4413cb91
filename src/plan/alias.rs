//! Whether a kernel may write an output over an operand.

use std::collections::HashSet;

use netloom_ir::kernel::{BufferId, Expr, ExprId, Nest, Stmt};

/// Whether buffers `input` and `output` of the nest may be the same memory: the types agree, and every read of `input` stands in the
/// statement list that stores `output`, at the element that is stored there. (Emitters evaluate the values of neighbouring stores
/// before they store any.)
pub fn in_place(nest: &Nest, input: usize, output: usize) -> bool {
    let (input, output) = (BufferId(input as u32), BufferId(output as u32));
    let types_agree = nest.buffers[input.at()].ty == nest.buffers[output.at()].ty;
    types_agree && in_place_in(nest, &nest.body, input, output)
}

/// The same for one list of statements and those within.
fn in_place_in(nest: &Nest, body: &[Stmt], input: BufferId, output: BufferId) -> bool {
    let stored: Vec<&[ExprId]> = body
        .iter()
        .filter_map(|stmt| match stmt {
            Stmt::Store { buffer, index, .. } if *buffer == output => Some(index.as_slice()),
            _ => None,
        })
        .collect();
    let only_stores = body.iter().all(|stmt| matches!(stmt, Stmt::Store { .. }));
    body.iter().all(|stmt| match stmt {
        Stmt::Loop { extent, body, .. } => {
            reads(nest, *extent, input).is_empty() && in_place_in(nest, body, input, output)
        }
        Stmt::If {
            condition,
            then,
            otherwise,
        } => {
            reads(nest, *condition, input).is_empty()
                && in_place_in(nest, then, input, output)
                && in_place_in(nest, otherwise, input, output)
        }
        Stmt::Set { value, .. } | Stmt::Accumulate { value, .. } => reads(nest, *value, input).is_empty(),
        Stmt::Store { value, index, .. } => {
            let in_index = index.iter().any(|&id| !reads(nest, id, input).is_empty());
            let read = reads(nest, *value, input);
            !in_index && (read.is_empty() || (only_stores && read.iter().all(|at| stored == [at.as_slice()])))
        }
        Stmt::Contract(contract) => [&contract.a, &contract.b].iter().all(|operand| operand.buffer != input),
        Stmt::Barrier => true,
    })
}

/// The indices at which an expression reads a buffer.
fn reads(nest: &Nest, root: ExprId, buffer: BufferId) -> Vec<Vec<ExprId>> {
    let mut found = Vec::new();
    let mut seen = HashSet::new();
    let mut open = vec![root];
    while let Some(id) = open.pop() {
        if !seen.insert(id) {
            continue;
        }
        if let Expr::Load {
            buffer: read, index, ..
        } = nest.exprs.get(id)
            && *read == buffer
        {
            found.push(index.clone());
        }
        open.extend(nest.exprs.operands(id));
    }
    found
}
