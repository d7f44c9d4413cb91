//! Lines that are written from one line that is read, as by the gradients of pools and by enlargements: each becomes a store of one loop, which
//! reads what they share once, and walks evenly where a quotient would not.

use std::collections::HashMap;

use netloom_ir::DType;
use netloom_ir::kernel::{AxisId, Expr, ExprId, Prim};

use super::draft::{Draft, Grain, Task};

/// The most lines written together.
const MOST_LINES: usize = 4;

/// The same tasks, without folds, with such lines spelled out.
pub fn stretch(draft: &mut Draft, tasks: Vec<Task>) -> Vec<Task> {
    let Some((line, lines)) = candidate(draft, &tasks) else {
        return tasks;
    };
    let step = draft.axis("step", draft.extent(line) / lines);
    let key = draft.source.axis(line);
    let mut written = Vec::new();
    for place in 0..lines {
        let [size, place] = [lines, place].map(|value| draft.source.int(value as i64));
        let step_value = draft.source.axis(step);
        let start = draft.source.prim(Prim::Mul, DType::I64, &[step_value, size]);
        let at = draft.source.prim(Prim::Add, DType::I64, &[start, place]);
        let known = HashMap::from([(key, at)]);
        written.extend(tasks.iter().map(|task| {
            Task {
                buffer: task.buffer,
                over: task
                    .over
                    .iter()
                    .map(|&axis| if axis == line { step } else { axis })
                    .collect(),
                index: task.index.iter().map(|&id| draft.replace(&known, id)).collect(),
                value: draft.replace(&known, task.value),
            }
        }));
    }
    written
}

/// The axis of lines, directly around the lanes, and by what all that is read divides it.
fn candidate(draft: &Draft, tasks: &[Task]) -> Option<(AxisId, usize)> {
    let over = &tasks.first()?.over;
    let &[.., line, _] = over.as_slice() else {
        return None;
    };
    let roots: Vec<ExprId> = tasks.iter().map(|task| task.value).collect();
    let is_even = draft.grain == Grain::Blocks && tasks.iter().all(|task| task.over == *over);
    if !is_even || !draft.folds(&roots).is_empty() {
        return None;
    }
    let by = draft
        .below(&roots)
        .into_iter()
        .find_map(|id| match draft.source.get(id) {
            Expr::Prim(Prim::Div, DType::I64, args) if *draft.source.get(args[0]) == Expr::Axis(line) => {
                draft.source.as_int(args[1])
            }
            _ => None,
        })?;
    let by = usize::try_from(by).ok()?;
    ((2..=MOST_LINES / tasks.len()).contains(&by) && draft.extent(line).is_multiple_of(by)).then_some((line, by))
}
