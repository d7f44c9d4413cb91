//! Barriers between steps that touch the same bytes.

use netloom_ir::kernel::{Bind, Expr, Nest, Stmt};
use netloom_ir::kernel::{Role, nest};

use super::{Base, Kernels, Place, Step};

/// Bytes from which a copy is shared by the workers; smaller ones are done by the first.
pub(crate) const SHARED_COPY_BYTES: usize = 32 << 10;

/// Accesses that a step is compared with: after so many a barrier costs nothing beside the work since the last one, and keeps the
/// comparisons linear in the steps.
const MOST_OPEN: usize = 512;

/// Inserts the barriers that the steps need, and tells whether any step is shared by several workers. Where none is, there are no
/// barriers.
pub(super) fn insert(steps: &mut Vec<Step>, kernels: &Kernels) -> bool {
    if !steps.iter().any(|step| is_parallel(step, kernels)) {
        return false;
    }
    let mut open = Open::default();
    insert_in(steps, kernels, &mut open);
    true
}

/// What has been touched since the last barrier.
#[derive(Default)]
struct Open {
    accesses: Vec<Access>,
}

#[derive(Clone)]
struct Access {
    base: Base,
    from: isize,
    to: isize,
    writes: bool,
    /// Whether several workers share in it; otherwise the first worker did it alone, in order.
    parallel: bool,
}

impl Access {
    fn clashes(&self, other: &Access) -> bool {
        self.base == other.base
            && (self.writes || other.writes)
            && (self.parallel || other.parallel)
            && self.from < other.to
            && other.from < self.to
    }
}

fn insert_in(steps: &mut Vec<Step>, kernels: &Kernels, open: &mut Open) {
    let mut with_barriers = Vec::with_capacity(steps.len());
    for mut step in std::mem::take(steps) {
        match &mut step {
            // Loops and branches begin and end with all workers together; so bodies are looked at one by one.
            Step::Repeat { body, .. } => fence_body(body, kernels),
            Step::Branch { then, otherwise, .. } => {
                fence_body(then, kernels);
                fence_body(otherwise, kernels);
            }
            Step::While { condition, body, .. } => {
                fence_body(condition, kernels);
                fence_body(body, kernels);
            }
            Step::Kernel { .. } | Step::Copy { .. } | Step::Count { .. } => {
                let accesses = accesses(&step, kernels);
                let clash = accesses
                    .iter()
                    .any(|new| open.accesses.iter().any(|old| old.clashes(new)));
                if clash || open.accesses.len() >= MOST_OPEN {
                    with_barriers.push(Step::Barrier);
                    open.accesses.clear();
                }
                open.accesses.extend(accesses);
                with_barriers.push(step);
                continue;
            }
            Step::Barrier => {}
        }
        if !open.accesses.is_empty() {
            with_barriers.push(Step::Barrier);
            open.accesses.clear();
        }
        with_barriers.push(step);
    }
    *steps = with_barriers;
}

/// Barriers within a body, and one at its end, so that iterations do not overlap.
fn fence_body(body: &mut Vec<Step>, kernels: &Kernels) {
    insert_in(body, kernels, &mut Open::default());
    body.push(Step::Barrier);
}

fn accesses(step: &Step, kernels: &Kernels) -> Vec<Access> {
    let parallel = is_parallel(step, kernels);
    let access = |place: &Place, writes: bool| {
        // Within a body a place may move with the iteration; its reach over all of them is what counts.
        let reach: isize = place.strides.iter().map(|stride| stride.abs() * (1 << 20)).sum();
        let from = place.offset as isize - reach;
        Access {
            base: place.base,
            from,
            to: (place.offset + place.bytes) as isize + reach,
            writes,
            parallel,
        }
    };
    match step {
        Step::Kernel { kernel, buffers, .. } => {
            let nest = kernels.nest(*kernel);
            buffers
                .iter()
                .zip(&nest.buffers)
                .filter(|(_, buffer)| buffer.role != Role::WorkerScratch)
                .map(|(place, buffer)| access(place, buffer.role != Role::Input))
                .collect()
        }
        Step::Copy { from, to } => vec![access(from, false), access(to, true)],
        Step::Count { to, .. } => vec![access(to, true)],
        _ => Vec::new(),
    }
}

/// Whether several workers share in a step.
fn is_parallel(step: &Step, kernels: &Kernels) -> bool {
    match step {
        Step::Kernel { kernel, .. } => is_shared_kernel(kernels.nest(*kernel)),
        Step::Copy { from, .. } => from.bytes >= SHARED_COPY_BYTES,
        Step::Count { .. } | Step::Barrier => false,
        Step::Repeat { body, .. } => body.iter().any(|step| is_parallel(step, kernels)),
        Step::Branch { then, otherwise, .. } => then.iter().chain(otherwise).any(|step| is_parallel(step, kernels)),
        Step::While { condition, body, .. } => condition.iter().chain(body).any(|step| is_parallel(step, kernels)),
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
