//! Adjacent axes that every access walks as one become one; so do axes too short for vector lanes. What elementwise tasks then read and
//! write by an address that is a sum is one line of elements.

use std::collections::{BTreeSet, HashMap};

use netloom_ir::kernel::index::offset;
use netloom_ir::kernel::{AxisId, BufferId, Expr, ExprId, Operands, Prim};
use netloom_ir::{DType, Type};

use super::draft::{Draft, Task};

/// A loop over fewer lanes than this takes in the loop around it: setting up vector lanes costs more than dividing a flat index. A guess.
const SHORT: usize = 16;

/// The same tasks with as few axes as their accesses allow, so that an elementwise kernel is one flat loop.
pub fn collapse(draft: &mut Draft, mut tasks: Vec<Task>) -> Vec<Task> {
    while let Some((outer, inner)) = candidate(draft, &tasks).or_else(|| short(draft, &tasks)) {
        let factor = draft.extent(inner);
        let joint = draft.axis("flat", draft.extent(outer) * factor);
        let value = draft.source.axis(joint);
        let size = draft.source.int(factor as i64);
        let known = HashMap::from([
            (
                draft.source.axis(outer),
                draft.source.prim(Prim::Div, DType::I64, &[value, size]),
            ),
            (
                draft.source.axis(inner),
                draft.source.prim(Prim::Rem, DType::I64, &[value, size]),
            ),
        ]);
        for task in &mut tasks {
            task.over = join(&task.over, outer, inner, joint);
            let joined = |axes: &[AxisId]| join(axes, outer, inner, joint);
            let roots: Vec<ExprId> = task.index.iter().copied().chain([task.value]).collect();
            let roots = draft.rewrite(&roots, &mut known.clone(), joined, |_, _, index| index);
            let (value, index) = roots.split_last().expect("a value");
            (task.value, task.index) = (*value, index.to_vec());
        }
    }
    flatten(draft, tasks)
}

/// Tensors of tasks without folds as lines of elements, where each access is a sum of multiples of axes: whatever cuts an axis into blocks
/// later meets no remainders that it would have to put together again.
fn flatten(draft: &mut Draft, tasks: Vec<Task>) -> Vec<Task> {
    let roots: Vec<ExprId> = tasks.iter().map(|task| task.value).collect();
    let mut accesses: Vec<(BufferId, Operands, bool)> = (tasks.iter())
        .map(|task| (task.buffer, task.index[..].into(), false))
        .collect();
    for id in draft.below(&roots) {
        if let Expr::Load { buffer, index, guarded } = draft.source.get(id).clone() {
            accesses.push((buffer, index, guarded));
        }
    }
    // What is contracted is told by the axes of its tensors.
    let has_folds = !draft.folds(&roots).is_empty();
    let is_divided = |draft: &Draft, index: &[ExprId]| {
        let is_division = |id: &ExprId| matches!(draft.source.get(*id), Expr::Prim(Prim::Div, ..));
        draft.below(index).iter().any(is_division)
    };
    let divided: BTreeSet<BufferId> = (accesses.iter())
        .filter(|(_, index, _)| !has_folds || is_divided(draft, index))
        .map(|(buffer, ..)| *buffer)
        .collect();
    let shaped: BTreeSet<BufferId> = (accesses.into_iter())
        .filter(|(buffer, index, guarded)| {
            *guarded || !divided.contains(buffer) || draft.address(*buffer, index).is_none()
        })
        .map(|(buffer, ..)| buffer)
        .collect();
    let line = |draft: &mut Draft, buffer: BufferId, index: Vec<ExprId>| match shaped.contains(&buffer) {
        true => index,
        false => {
            let ty = draft.buffers[buffer.at()].ty.clone();
            vec![offset(&mut draft.source, &ty, &index)]
        }
    };
    let mut known = HashMap::new();
    draft.rewrite(&roots, &mut known, <[AxisId]>::to_vec, line);
    let tasks = (tasks.into_iter())
        .map(|task| Task {
            index: line(draft, task.buffer, task.index),
            value: known[&task.value],
            ..task
        })
        .collect();
    for (at, buffer) in draft.buffers.iter_mut().enumerate() {
        if !shaped.contains(&BufferId(at as u32)) {
            buffer.ty = Type::new(buffer.ty.dtype, vec![buffer.ty.shape.iter().product()]);
        }
    }
    tasks
}

/// The axes with one in place of two neighbours.
fn join(axes: &[AxisId], outer: AxisId, inner: AxisId, joint: AxisId) -> Vec<AxisId> {
    let kept = axes.iter().copied().filter(|&axis| axis != inner);
    kept.map(|axis| if axis == outer { joint } else { axis }).collect()
}

/// The two innermost axes of tasks without folds, if the inner one is short.
fn short(draft: &Draft, tasks: &[Task]) -> Option<(AxisId, AxisId)> {
    let over = &tasks.first()?.over;
    let &[.., outer, inner] = over.as_slice() else {
        return None;
    };
    let roots: Vec<ExprId> = tasks.iter().map(|task| task.value).collect();
    let is_worth = draft.extent(inner) < SHORT && draft.extent(outer) > 1;
    (is_worth && tasks.iter().all(|task| task.over == *over) && draft.folds(&roots).is_empty())
        .then_some((outer, inner))
}

/// Two axes that are neighbours wherever one of them is, and that every access walks as one.
fn candidate(draft: &mut Draft, tasks: &[Task]) -> Option<(AxisId, AxisId)> {
    let roots: Vec<ExprId> = tasks
        .iter()
        .flat_map(|task| task.index.iter().copied().chain([task.value]))
        .collect();
    let mut lists: Vec<Vec<AxisId>> = tasks.iter().map(|task| task.over.clone()).collect();
    let mut addresses = Vec::new();
    let mut fixed = Vec::new();
    // Whatever an index computes is covered by the address; an axis used as a value, or in an address that is not affine, stays.
    let mut values: Vec<ExprId> = tasks.iter().map(|task| task.value).collect();
    let mut seen = std::collections::BTreeSet::new();
    while let Some(id) = values.pop() {
        if !seen.insert(id) {
            continue;
        }
        match draft.source.get(id).clone() {
            Expr::Load { index, .. } => match draft.load_address(id) {
                Some((_, address)) => addresses.push(address),
                None => index.iter().for_each(|&at| fixed.extend(draft.free(at))),
            },
            Expr::Axis(axis) => fixed.push(axis),
            _ => values.extend(draft.source.operands(id)),
        }
    }
    for task in tasks {
        match draft.address(task.buffer, &task.index) {
            Some(address) => addresses.push(address),
            None => fixed.extend(task.over.iter().copied()),
        }
    }
    for fold in draft.folds(&roots) {
        if let Expr::Fold { over, .. } = draft.source.get(fold) {
            lists.push(over.clone());
        }
    }
    // An axis of one element is no one's neighbour.
    for list in &mut lists {
        list.retain(|&axis| draft.extent(axis) != 1);
    }
    let pairs: Vec<(AxisId, AxisId)> = lists
        .iter()
        .flat_map(|list| list.windows(2).map(|pair| (pair[0], pair[1])))
        .collect();
    pairs.into_iter().find(|&(outer, inner)| {
        let size = draft.extent(inner) as i64;
        !fixed.contains(&outer)
            && !fixed.contains(&inner)
            && lists.iter().all(|list| {
                let [a, b] = [outer, inner].map(|axis| list.iter().position(|&other| other == axis));
                (a.is_none() && b.is_none()) || matches!((a, b), (Some(a), Some(b)) if b == a + 1)
            })
            && addresses
                .iter()
                .all(|address| address.factor(outer) == address.factor(inner) * size)
    })
}
