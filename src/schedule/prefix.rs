//! Cumulative folds: in order along one axis, in vector lanes along a neighbour where that is contiguous.

use std::collections::HashMap;

use netloom_ir::kernel::{AxisId, Bind, Combine, Prim, Role, Stmt};

use super::draft::{Draft, Grain, Task};

/// Elements of the row of states that one worker carries along.
const ROW: usize = 64;

/// The loops for `buffer[index] = value(0) ∘ … ∘ value(i)` along the last axis of `task`, which holds no folds.
pub fn schedule(draft: &mut Draft, task: &Task, with: Combine, exclusive: bool) -> Stmt {
    let dtype = draft.source.dtype(task.value);
    let (&axis, others) = task.over.split_last().expect("an axis to fold along");
    let identity = draft.exprs.constant(dtype, with.identity(dtype));
    let address = draft.address(task.buffer, &task.index);
    let contiguous = |axis: &AxisId| address.as_ref().is_some_and(|address| address.factor(*axis) == 1);
    let lane = others
        .iter()
        .copied()
        .find(contiguous)
        .filter(|_| draft.grain == Grain::Blocks);
    let Some(lane) = lane else {
        let (shared, values) = draft.share(others);
        let mut known: HashMap<_, _> = others.iter().map(|&axis| draft.source.axis(axis)).zip(values).collect();
        let local = draft.local(with.name(), dtype);
        let index = task.index.iter().map(|&at| draft.import(&mut known, at)).collect();
        let value = draft.import(&mut known, task.value);
        let state = draft.exprs.local(local, dtype);
        let mut steps = vec![
            Stmt::Accumulate { local, with, value },
            Stmt::Store {
                buffer: task.buffer,
                index,
                value: state,
            },
        ];
        if exclusive {
            steps.reverse();
        }
        let along = draft.all(axis, Bind::Serial, steps);
        return draft.all(shared, Bind::Workers, vec![Stmt::Set { local, value: identity }, along]);
    };
    let extent = draft.extent(lane);
    let blocks = draft.axis("block", extent.div_ceil(ROW));
    let mut outer: Vec<AxisId> = others.iter().copied().filter(|&axis| axis != lane).collect();
    outer.push(blocks);
    let (shared, values) = draft.share(&outer);
    let zero = draft.int(0);
    let start = draft.mul_add(*values.last().expect("a block"), ROW, zero);
    let count = draft.rest(extent, start, ROW);
    let mut known: HashMap<_, _> = outer.iter().map(|&axis| draft.source.axis(axis)).zip(values).collect();
    let inner = draft.axis("lane", extent.min(ROW));
    let inner_value = draft.exprs.axis(inner);
    known.insert(draft.source.axis(lane), draft.i64(Prim::Add, start, inner_value));
    let row = draft.scratch(with.name(), dtype, vec![extent.min(ROW)], Role::WorkerScratch);
    let at = vec![inner_value];
    let index = task.index.iter().map(|&at| draft.import(&mut known, at)).collect();
    let value = draft.import(&mut known, task.value);
    let before = draft.exprs.load(row, dtype, at.clone(), false);
    let after = with.apply(&mut draft.exprs, before, value);
    let lanes = |body| Stmt::Loop {
        axis: inner,
        extent: count,
        bind: Bind::Lanes,
        body,
    };
    let result = if exclusive { before } else { after };
    // The result is written first: both are made from the state before.
    let step = lanes(vec![
        Stmt::Store {
            buffer: task.buffer,
            index,
            value: result,
        },
        Stmt::Store {
            buffer: row,
            index: at.clone(),
            value: after,
        },
    ]);
    let along = draft.all(axis, Bind::Serial, vec![step]);
    let begin = lanes(vec![Stmt::Store {
        buffer: row,
        index: at,
        value: identity,
    }]);
    draft.all(shared, Bind::Workers, vec![begin, along])
}
