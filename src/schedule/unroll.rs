//! Folds of few elements as the terms that they combine: a depthwise convolution then reads its taps and writes its result in one vector
//! loop, as an elementwise function of them.

use std::collections::{BTreeSet, HashMap};

use netloom_ir::kernel::{AxisId, BufferId, Expr, ExprId, Operands};

use super::contract::Form;
use super::draft::{Draft, Grain, Task};

/// The most terms of a fold, those of a window of 5 by 5, and the most loads of a term.
const MOST_TERMS: usize = 25;
const MOST_LOADS: usize = 2;

/// The same tasks with such folds spelled out, where neighbouring elements of the result combine neighbours of what is loaded, so that they are
/// lanes of a vector. What is a contraction has better loops.
pub fn unroll(draft: &mut Draft, mut tasks: Vec<Task>) -> Vec<Task> {
    for task in &mut tasks {
        while let Some(fold) = candidate(draft, task).or_else(|| transform(draft, task)) {
            let terms = spelled(draft, fold);
            task.value = draft.replace(&HashMap::from([(fold, terms)]), task.value);
        }
    }
    tasks
}

/// A fold of a task that is computed anew for every element, of few terms, along the lanes.
fn candidate(draft: &mut Draft, task: &Task) -> Option<ExprId> {
    let &lane = task.over.last()?;
    let parallel: BTreeSet<AxisId> = (task.over.iter().copied())
        .filter(|&axis| draft.extent(axis) > 1)
        .collect();
    let folds = draft.folds(&[task.value]);
    folds.into_iter().find(|&fold| {
        let Expr::Fold { over, value, .. } = draft.source.get(fold).clone() else {
            return false;
        };
        let loads: Vec<(BufferId, Operands)> = (draft.below(&[value]).into_iter())
            .filter_map(|id| match draft.source.get(id) {
                Expr::Load { buffer, index, .. } => Some((*buffer, index.clone())),
                _ => None,
            })
            .collect();
        (1..=MOST_TERMS).contains(&draft.count(&over))
            && draft.folds(&[value]).is_empty()
            && parallel.is_subset(&draft.free(fold))
            && (1..=MOST_LOADS).contains(&loads.len())
            && loads.into_iter().all(|(buffer, index)| {
                let address = draft.address(buffer, &index);
                address.is_some_and(|address| matches!(address.factor(lane), 0 | 1))
            })
            && Form::of(draft, fold, task).is_none()
    })
}

/// On a GPU a fold of few terms within another one, their factors known: the outer one is computed in blocks, whose results share them.
fn transform(draft: &Draft, task: &Task) -> Option<ExprId> {
    if draft.grain != Grain::Elements {
        return None;
    }
    let parallel: BTreeSet<AxisId> = task.over.iter().copied().collect();
    let is_known = |id: ExprId| matches!(draft.source.get(id), Expr::Load { buffer, .. } if draft.source.constants().contains_key(buffer));
    draft.folds(&[task.value]).into_iter().find(|&fold| {
        let Expr::Fold { over, value, .. } = draft.source.get(fold) else {
            unreachable!("a fold")
        };
        (1..=MOST_TERMS).contains(&draft.count(over))
            && draft.folds(&[*value]).is_empty()
            && !draft.free(fold).is_subset(&parallel)
            && draft.below(&[*value]).into_iter().any(is_known)
    })
}

/// The terms of a fold, combined from the first to the last.
fn spelled(draft: &mut Draft, fold: ExprId) -> ExprId {
    let Expr::Fold { with, over, value } = draft.source.get(fold).clone() else {
        unreachable!("a fold")
    };
    let extents: Vec<usize> = over.iter().map(|&axis| draft.extent(axis)).collect();
    let term = |draft: &mut Draft, number: usize| {
        let mut rest = number;
        let mut known = HashMap::new();
        for (&axis, &extent) in over.iter().zip(&extents).rev() {
            let digit = draft.source.int((rest % extent) as i64);
            known.insert(draft.source.axis(axis), digit);
            rest /= extent;
        }
        draft.replace(&known, value)
    };
    let first = term(draft, 0);
    (1..draft.count(&over)).fold(first, |combined, number| {
        let next = term(draft, number);
        with.apply(&mut draft.source, combined, next)
    })
}
