//! Barriers between steps that touch the same bytes.

use netloom_ir::kernel::{Bind, Expr, Nest, Stmt};
use netloom_ir::kernel::{Role, nest};

use super::{Kernels, Place, Step};

/// Bytes from which a copy is shared by the workers; smaller ones are done by the first.
pub(crate) const SHARED_COPY_BYTES: usize = 32 << 10;

/// Accesses that a step is compared with: after so many a barrier costs nothing beside the work since the last one, and keeps the
/// comparisons linear in the steps.
const MOST_OPEN: usize = 512;

/// Inserts the barriers that the steps need beside those that they have, and tells whether any step is shared by several workers. Where none is,
/// none is needed.
pub(super) fn insert(steps: &mut Vec<Step>, kernels: &Kernels) -> bool {
    let shared = are_shared(steps, kernels);
    if shared {
        insert_in(steps, kernels, &mut Vec::new());
    }
    shared
}

/// Whether several workers share in any of the steps.
pub(super) fn are_shared(steps: &[Step], kernels: &Kernels) -> bool {
    steps.iter().any(|step| is_parallel(step, kernels))
}

/// The number of a step, counted in the order in which they are read, behind which a barrier is missing.
pub(super) fn missing(steps: &[Step], kernels: &Kernels) -> Option<usize> {
    let mut fenced = steps.to_vec();
    insert(&mut fenced, kernels);
    first_inserted(steps, &fenced, &mut 0)
}

/// The step behind which `fenced` has a barrier that `steps` have not; `next` is the number of their first.
fn first_inserted(steps: &[Step], fenced: &[Step], next: &mut usize) -> Option<usize> {
    for (at, wanted) in fenced.iter().enumerate() {
        let Some(found) = steps
            .get(at)
            .filter(|found| (**found == Step::Barrier) == (*wanted == Step::Barrier))
        else {
            return next.checked_sub(1);
        };
        *next += 1;
        for (body, fenced) in found.bodies().into_iter().zip(wanted.bodies()) {
            if let Some(found) = first_inserted(body, fenced, next) {
                return Some(found);
            }
        }
    }
    None
}

#[derive(Clone)]
struct Access {
    place: Place,
    writes: bool,
    /// Whether several workers share in it; otherwise the first worker did it alone, in order.
    parallel: bool,
}

impl Access {
    /// Whether the two must not be in progress at once in any iteration of the enclosing repeats, which are run so many times.
    fn clashes(&self, other: &Access, repeats: &[usize]) -> bool {
        (self.writes || other.writes) && (self.parallel || other.parallel) && self.place.meets(&other.place, repeats)
    }
}

/// Inserts the barriers of steps within repeats that are run so many times, outermost first.
fn insert_in(steps: &mut Vec<Step>, kernels: &Kernels, repeats: &mut Vec<usize>) {
    // What has been touched since the last barrier.
    let mut open: Vec<Access> = Vec::new();
    let mut with_barriers = Vec::with_capacity(steps.len());
    for mut step in std::mem::take(steps) {
        match &mut step {
            // Loops and branches begin and end with all workers together; so bodies are looked at one by one.
            Step::Repeat { times, body } => {
                repeats.push(*times);
                fence_body(body, kernels, repeats);
                repeats.pop();
            }
            Step::Branch { then, otherwise, .. } => {
                fence_body(then, kernels, repeats);
                fence_body(otherwise, kernels, repeats);
            }
            Step::While { condition, body, .. } => {
                fence_body(condition, kernels, repeats);
                fence_body(body, kernels, repeats);
            }
            Step::Kernel { .. } | Step::Copy { .. } | Step::Count { .. } => {
                let accesses = accesses(&step, kernels);
                let clash = accesses
                    .iter()
                    .any(|new| open.iter().any(|old| old.clashes(new, repeats)));
                if clash || open.len() >= MOST_OPEN {
                    with_barriers.push(Step::Barrier);
                    open.clear();
                }
                open.extend(accesses);
                with_barriers.push(step);
                continue;
            }
            Step::Barrier => {
                open.clear();
                with_barriers.push(step);
                continue;
            }
        }
        if !open.is_empty() {
            with_barriers.push(Step::Barrier);
            open.clear();
        }
        with_barriers.push(step);
    }
    *steps = with_barriers;
}

/// Barriers within a body, and one at its end, so that iterations do not overlap.
fn fence_body(body: &mut Vec<Step>, kernels: &Kernels, repeats: &mut Vec<usize>) {
    insert_in(body, kernels, repeats);
    if body.last() != Some(&Step::Barrier) {
        body.push(Step::Barrier);
    }
}

fn accesses(step: &Step, kernels: &Kernels) -> Vec<Access> {
    let parallel = is_parallel(step, kernels);
    let access = |(place, writes): (&Place, bool)| Access {
        place: place.clone(),
        writes,
        parallel,
    };
    touched(step, kernels).into_iter().map(access).collect()
}

/// The places that a step touches itself, those that belong to a worker aside, and whether it writes there.
pub(super) fn touched<'s>(step: &'s Step, kernels: &Kernels) -> Vec<(&'s Place, bool)> {
    match step {
        Step::Kernel { kernel, buffers, .. } => {
            let places = buffers.iter().zip(&kernels.nest(*kernel).buffers);
            places
                .filter(|(_, buffer)| !matches!(buffer.role, Role::WorkerScratch | Role::GroupScratch))
                .map(|(place, buffer)| (place, buffer.role != Role::Input))
                .collect()
        }
        Step::Copy { from, to } => vec![(from, false), (to, true)],
        Step::Count { to, .. } => vec![(to, true)],
        Step::Branch { condition: place, .. } | Step::While { go_on: place, .. } => vec![(place, false)],
        Step::Barrier | Step::Repeat { .. } => Vec::new(),
    }
}

/// Whether several workers share in a step.
fn is_parallel(step: &Step, kernels: &Kernels) -> bool {
    match step {
        Step::Kernel { kernel, .. } => is_shared_kernel(kernels.nest(*kernel)),
        Step::Copy { from, .. } => from.bytes >= SHARED_COPY_BYTES,
        Step::Count { .. } | Step::Barrier => false,
        Step::Repeat { .. } | Step::Branch { .. } | Step::While { .. } => {
            step.bodies().into_iter().any(|body| are_shared(body, kernels))
        }
    }
}

/// Whether several workers have something to do in a kernel.
pub(crate) fn is_shared_kernel(nest: &Nest) -> bool {
    is_shared(nest, &nest.body)
}

/// Whether statements have a loop whose iterations several workers share.
fn is_shared(nest: &Nest, body: &[nest::Stmt]) -> bool {
    body.iter().any(|stmt| match stmt {
        Stmt::Loop {
            bind: Bind::Workers,
            extent,
            ..
        } => !matches!(nest.exprs.get(*extent), Expr::Const(_, 0 | 1)),
        Stmt::Loop { body, .. } => is_shared(nest, body),
        Stmt::If { then, otherwise, .. } => is_shared(nest, then) || is_shared(nest, otherwise),
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::super::Base;
    use super::*;
    use crate::cpu::isa::Cpu;

    #[test]
    fn steps_of_a_loop_wait_where_they_meet_in_some_iteration() {
        const BYTES: usize = SHARED_COPY_BYTES;
        const TIMES: usize = 3 << 20;
        let place = |base: Base, offset: usize, stride: usize| Place {
            base,
            offset,
            strides: vec![stride as isize],
            bytes: BYTES,
        };
        // What the first copy writes, what the second reads, and whether they meet.
        let cases = [
            (place(Base::Arena, 0, BYTES), place(Base::Arena, BYTES, BYTES), false),
            (place(Base::Arena, 0, BYTES), place(Base::Arena, BYTES / 2, BYTES), true),
            (
                place(Base::Arena, 0, BYTES),
                place(Base::Arena, (TIMES - 1) * BYTES, 0),
                true,
            ),
            (
                place(Base::Arena, 0, BYTES),
                place(Base::Arena, TIMES * BYTES, 0),
                false,
            ),
            (place(Base::Arena, 0, BYTES), place(Base::States, 0, BYTES), false),
        ];
        for (written, read, meet) in cases {
            let copies = [
                (place(Base::Input(0), 0, 0), written),
                (read, place(Base::Output(0), 0, 0)),
            ];
            let body = copies.map(|(from, to)| Step::Copy { from, to }).to_vec();
            let mut steps = vec![Step::Repeat { times: TIMES, body }];
            assert!(insert(&mut steps, &Kernels::new(Cpu::native().target())));
            let Step::Repeat { body, .. } = &steps[0] else {
                panic!("a loop")
            };
            assert_eq!(body.len(), if meet { 4 } else { 3 }, "{body:?}");
        }
    }
}
