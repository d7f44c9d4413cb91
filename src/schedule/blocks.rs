//! Blocked tensors as what they are in memory: an axis for each digit of the layout, and loops over blocks and within blocks.
//!
//! Whatever follows sees dense tensors of more axes, whose addresses are sums of multiples of loop variables.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use netloom_ir::kernel::index::Linear;
use netloom_ir::kernel::{AxisId, BufferId, Expr, ExprId, Prim};
use netloom_ir::layout::{Digit, Layout};
use netloom_ir::{DType, Type};

use super::draft::{Draft, Task};

/// Spells out the layouts of all buffers in the tasks, and splits the axes that walk along blocks.
pub fn spell(draft: &mut Draft, tasks: Vec<Task>) -> Vec<Task> {
    if draft.buffers.iter().all(|buffer| buffer.ty.layout == Layout::Dense) {
        return tasks;
    }
    let roots: Vec<ExprId> = tasks
        .iter()
        .flat_map(|task| task.index.iter().copied().chain([task.value]))
        .collect();
    let mut split = Split::default();
    for id in draft.below(&roots) {
        if let Expr::Load { buffer, index, .. } = draft.source.get(id).clone() {
            split.along(draft, buffer, &index);
        }
    }
    for task in &tasks {
        split.along(draft, task.buffer, &task.index);
    }
    let (parts, mut known) = split.parts(draft);
    draft.rewrite(&roots, &mut known, |over| axes(&parts, over), digits);
    let tasks: Vec<Task> = (tasks.into_iter())
        .map(|task| {
            let index = task.index.iter().map(|id| known[id]).collect();
            Task {
                buffer: task.buffer,
                over: axes(&parts, &task.over),
                index: digits(draft, task.buffer, index),
                value: known[&task.value],
            }
        })
        .collect();
    for buffer in &mut draft.buffers {
        let shape = buffer
            .ty
            .layout
            .digits(&buffer.ty.shape)
            .iter()
            .map(|digit| digit.extent)
            .collect::<Vec<_>>();
        buffer.ty = Type::new(buffer.ty.dtype, shape);
    }
    in_order(draft, tasks)
}

/// For each axis that is split, the ones over blocks, outermost first, and the one within.
type Parts = BTreeMap<AxisId, Vec<AxisId>>;

/// Axes that are split, and the sizes of their blocks.
#[derive(Default)]
struct Split {
    steps: BTreeMap<AxisId, BTreeSet<usize>>,
}

impl Split {
    /// Splits the axes that walk element by element along blocks of a buffer.
    fn along(&mut self, draft: &mut Draft, buffer: BufferId, index: &[ExprId]) {
        let ty = draft.buffers[buffer.at()].ty.clone();
        for Digit { axis, step, .. } in ty.layout.digits(&ty.shape) {
            if step == 1 {
                continue;
            }
            for (term, factor) in Linear::of(&draft.source, index[axis]).terms {
                if let Expr::Axis(walked) = *draft.source.get(term)
                    && factor == 1
                    && draft.extent(walked).is_multiple_of(step)
                    && draft.extent(walked) > step
                {
                    self.steps.entry(walked).or_default().insert(step);
                }
            }
        }
    }

    /// The axes, and what stands for each that is split.
    fn parts(self, draft: &mut Draft) -> (Parts, HashMap<ExprId, ExprId>) {
        let (mut parts, mut known) = (Parts::new(), HashMap::new());
        for (walked, steps) in self.steps {
            let (mut left, mut value) = (draft.extent(walked), draft.source.int(0));
            let mut part = |draft: &mut Draft, name: &str, step: usize| {
                let axis = draft.axis(name, left / step);
                let [at, size] = [draft.source.axis(axis), draft.source.int(step as i64)];
                let start = draft.source.prim(Prim::Mul, DType::I64, &[at, size]);
                value = draft.source.prim(Prim::Add, DType::I64, &[value, start]);
                left = step;
                axis
            };
            let mut own: Vec<AxisId> = Vec::new();
            // Blocks of blocks, where they are whole ones.
            let mut around = 0;
            for step in steps.into_iter().rev() {
                if usize::is_multiple_of(around, step) {
                    own.push(part(draft, "outer", step));
                    around = step;
                }
            }
            own.push(part(draft, "inner", 1));
            parts.insert(walked, own);
            known.insert(draft.source.axis(walked), value);
        }
        (parts, known)
    }
}

/// The axes in place of some: what is within blocks last, as it lies in memory.
fn axes(parts: &Parts, axes: &[AxisId]) -> Vec<AxisId> {
    let outer = axes.iter().flat_map(|axis| match parts.get(axis) {
        Some(parts) => parts[..parts.len() - 1].to_vec(),
        None => vec![*axis],
    });
    let inner = axes.iter().filter_map(|axis| parts.get(axis)?.last().copied());
    outer.chain(inner).collect()
}

/// The digits of an index, rounded down where it is negative, so that a guard stays exact.
fn digits(draft: &mut Draft, buffer: BufferId, index: Vec<ExprId>) -> Vec<ExprId> {
    let ty = draft.buffers[buffer.at()].ty.clone();
    let digits = ty.layout.digits(&ty.shape).into_iter();
    digits
        .map(|Digit { axis, step, extent }| {
            let (mut value, whole) = (index[axis], extent * step >= ty.shape[axis]);
            if step == 1 && whole {
                return value;
            }
            let (low, _) = draft.source.range(value).expect("an index along blocks has a range");
            let block = if whole { step } else { step * extent } as i64;
            let blocks = ((-low).max(0) + block - 1) / block;
            let op = |draft: &mut Draft, prim: Prim, a: ExprId, b: i64| {
                let b = draft.source.int(b);
                draft.source.prim(prim, DType::I64, &[a, b])
            };
            value = op(draft, Prim::Add, value, blocks * block);
            value = op(draft, Prim::Div, value, step as i64);
            match whole {
                true => op(draft, Prim::Sub, value, blocks),
                false => op(draft, Prim::Rem, value, extent as i64),
            }
        })
        .collect()
}

/// The tasks with their axes in the order in which the widest result lies in memory.
fn in_order(draft: &mut Draft, mut tasks: Vec<Task>) -> Vec<Task> {
    let Some(widest) = tasks.iter().max_by_key(|task| task.over.len()).cloned() else {
        return tasks;
    };
    let Some(address) = draft.address(widest.buffer, &widest.index) else {
        return tasks;
    };
    for task in &mut tasks {
        // Ties are axes of one element.
        task.over.sort_by_key(|&axis| std::cmp::Reverse(address.factor(axis)));
    }
    tasks
}
