//! Schedules: from what is computed to how, for one machine.
//!
//! In: a `Kernel`. Out: a `Nest` with the same buffers in the same order, then scratch. Emitters decide nothing further.
//!
//! A kernel becomes one or more *phases* with barriers between them. A fold that does not fit into the loops of what uses it, or that
//! is long, is a phase of its own: it is *staged* in scratch that all workers share. What is staged, and how long sums are cut, depends on
//! shapes alone, so the bits of results do not depend on the CPU. A GPU's schedules differ by numbers: shares are single elements, and
//! there are no lanes ([`Grain`]).

mod blocks;
mod chain;
mod collapse;
mod contract;
mod draft;
mod fold;
mod matrix;
mod narrow;
mod panels;
mod prefix;
mod product;
mod registers;
mod rows;
mod scatter;
mod sliding;
mod sort;
mod stretch;
mod taps;
mod tiles;
mod turn;
mod unroll;
mod winograd;
mod workgroup;

use std::collections::{BTreeSet, HashMap};

use netloom_ir::decisions::Decision;
use netloom_ir::kernel::{AxisId, Bind, Expr, ExprId, Kernel, Nest, Operands, Prim, Product, Role, Stmt, Work};
use netloom_ir::{DType, Target};

use contract::Form;
use draft::{Draft, Grain, Task};
use fold::Plan;
use panels::Panels;
use registers::Block;
use rows::Rows;
use taps::Taps;
use tiles::Tiles;
use turn::Turn;
use workgroup::{Choice, Together};

/// With fewer shares than this some of many workers have nothing to do.
const SHARES: usize = 16;

/// Makes every decision for a kernel.
pub fn choose(kernel: &Kernel, target: &Target) -> Nest {
    let narrowed = target.f16.then(|| narrow::narrowed(kernel));
    let kernel = narrowed.as_ref().unwrap_or(kernel);
    let mut draft = Draft::new(kernel, target);
    let (name, mut phases, alone) = match &kernel.work {
        Work::Stores(stores) => {
            let tasks: Vec<Task> = stores.iter().map(Task::of).collect();
            let tasks = blocks::spell(&mut draft, tasks);
            let tasks = unroll::unroll(&mut draft, tasks);
            let tasks = collapse::collapse(&mut draft, tasks);
            let tasks = stretch::stretch(&mut draft, tasks);
            let alone = match draft.decisions.get(Decision::Alone) {
                Some(decided) => decided == 1,
                None => draft::cost(&draft, &tasks) < target.share_from,
            };
            ("stores", stores_phases(&mut draft, tasks, target, alone), alone)
        }
        Work::Prefix { store, with, exclusive } => {
            let mut task = Task::of(store);
            let mut phases = stage_folds(&mut draft, &mut task, target);
            phases.push(prefix::schedule(&mut draft, &task, *with, *exclusive));
            ("prefix", phases, false)
        }
        Work::Scatter {
            initial,
            updates,
            index,
            axis,
            with,
            value,
        } => {
            let mut phases = stores_phases(&mut draft, vec![Task::of(initial)], target, false);
            let mut update = Task {
                buffer: initial.buffer,
                over: updates.clone(),
                index: index.clone(),
                value: *value,
            };
            phases.extend(stage_folds(&mut draft, &mut update, target));
            phases.push(scatter::schedule(&mut draft, &update, *axis, *with));
            ("scatter", phases, false)
        }
        Work::Sort { store, descending } => {
            let mut task = Task::of(store);
            let mut phases = stage_folds(&mut draft, &mut task, target);
            phases.push(sort::schedule(&mut draft, &task, *descending));
            ("sort", phases, false)
        }
    };
    if alone {
        phases.iter_mut().for_each(run_by_one);
        phases = vec![fold::once(&mut draft, phases)];
    }
    let mut body = Vec::new();
    for phase in phases {
        if !body.is_empty() {
            body.push(Stmt::Barrier);
        }
        body.push(phase);
    }
    draft.nest(name, body)
}

/// Takes the sharing out of a loop that one worker will run.
fn run_by_one(stmt: &mut Stmt) {
    if let Stmt::Loop { bind, .. } = stmt
        && *bind == Bind::Workers
    {
        *bind = Bind::Serial;
    }
}

/// The phases of stores, in order.
fn stores_phases(draft: &mut Draft, tasks: Vec<Task>, target: &Target, alone: bool) -> Vec<Stmt> {
    let mut phases = Vec::new();
    for mut group in groups(tasks) {
        loop {
            match next(draft, &group, target, alone) {
                Step::Stage(id) => stage(draft, &mut group, id, target, alone, &mut phases),
                Step::Cut(fold, length) => {
                    let pieces = cut(draft, fold, length);
                    put(draft, &mut group, fold, pieces.whole);
                    stage(draft, &mut group, pieces.piece, target, alone, &mut phases);
                }
                Step::Order(fold, axis) => {
                    let ordered = draft.outermost(fold, axis);
                    put(draft, &mut group, fold, ordered);
                }
                Step::Pad(load) => pad(draft, &mut group, load, target, alone, &mut phases),
                Step::Winograd(form) => {
                    phases.extend(winograd::schedule(draft, &group, &form, target));
                    break;
                }
                Step::Matrix(form) => {
                    phases.extend(matrix::schedule(draft, &group, &form));
                    break;
                }
                Step::Slide(form) => {
                    phases.push(sliding::schedule(draft, &group, &form, target));
                    break;
                }
                Step::Contract(form) => {
                    phases.extend(contract::schedule(draft, &group, &form, target));
                    break;
                }
                Step::Product(product) => {
                    phases.push(Stmt::Product(product));
                    break;
                }
                Step::Block(block) => {
                    phases.push(registers::schedule(draft, &group, &block));
                    break;
                }
                Step::Turn(turn) => {
                    phases.push(turn::schedule(draft, &group, &turn));
                    break;
                }
                Step::Panels(panels) => {
                    phases.push(panels::schedule(draft, &group, &panels));
                    break;
                }
                Step::Tiles(tiles) => {
                    phases.push(tiles::schedule(draft, &group, &tiles));
                    break;
                }
                Step::Together(together) => {
                    phases.push(workgroup::schedule(draft, &group, &together));
                    break;
                }
                Step::Rows(rows) => {
                    phases.push(rows::schedule(draft, &group, &rows));
                    break;
                }
                Step::Loops(plan) => {
                    phases.push(fold::schedule(draft, &group, plan));
                    break;
                }
            }
        }
    }
    phases
}

/// What to do next with tasks that share their loops.
enum Step {
    /// Compute an expression in a phase of its own.
    Stage(ExprId),
    /// Copy the tensor that an expression loads from, with the zeros around it.
    Pad(ExprId),
    /// Fold along an axis outside all others.
    Order(ExprId, AxisId),
    /// Cut a fold into pieces of about so many elements.
    Cut(ExprId, usize),
    /// Write the loops: of a convolution by Winograd's algorithm.
    Winograd(winograd::Form),
    /// Write the loops: of a contraction by a matrix unit.
    Matrix(matrix::Form),
    /// Write the loops: of a contraction whose sum is cut.
    Slide(sliding::Form),
    /// Write the loops: of a contraction.
    Contract(Form),
    /// Leave it to the shader of matrix products.
    Product(Product),
    /// Write the loops: of a contraction by workgroups.
    Panels(Panels),
    /// Write the loops: of reads against the grain by workgroups.
    Tiles(Tiles),
    /// Write the loops: of folds by workgroups.
    Together(Together),
    /// Write the loops: of a fold in blocks.
    Block(Block),
    /// Write the loops: of results of few lanes each.
    Rows(Rows),
    /// Write the loops: of a copy against the grain.
    Turn(Turn),
    /// Write the loops: of anything else.
    Loops(Plan),
}

/// Tasks over the same axes share their loops.
fn groups(tasks: Vec<Task>) -> Vec<Vec<Task>> {
    let mut groups: Vec<Vec<Task>> = Vec::new();
    for task in tasks {
        match groups.iter_mut().find(|group| group[0].over == task.over) {
            Some(group) => group.push(task),
            None => groups.push(vec![task]),
        }
    }
    groups
}

fn next(draft: &mut Draft, group: &[Task], target: &Target, alone: bool) -> Step {
    let roots: Vec<ExprId> = group.iter().map(|task| task.value).collect();
    let folds = draft.folds(&roots);
    // On a GPU a contraction is a fold like others, whose results are computed in blocks.
    let form = match draft.grain {
        Grain::Blocks => folds.iter().find_map(|&fold| Form::of(draft, fold, &group[0])),
        Grain::Elements => None,
    };
    let Some(form) = form else {
        if let Some((fold, product)) = product::find(draft, group, &folds, target) {
            return match product {
                Some(product) => Step::Product(product),
                None => Step::Stage(fold),
            };
        }
        if let Some(panels) = Panels::of(draft, group, &folds, target) {
            return match panels.fits(draft, group, &folds) {
                true => Step::Panels(panels),
                false => Step::Stage(panels.fold),
            };
        }
        if let Some(choice) = workgroup::choose(draft, group, &folds, target) {
            return match choice {
                Choice::Cut(fold, length) => Step::Cut(fold, length),
                Choice::Stage(fold) => Step::Stage(fold),
                Choice::Fold(together) => Step::Together(together),
            };
        }
        if folds.is_empty()
            && let Some(tiles) = Tiles::of(draft, group, target)
        {
            return Step::Tiles(tiles);
        }
        let plan = Plan::of(draft, group, &folds);
        return match (plan.long(draft, &folds), plan.misfit(draft, group, &folds, alone)) {
            (Some((fold, length)), _) => Step::Cut(fold, length),
            (None, Some(fold)) => Step::Stage(fold),
            (None, None) => match Block::of(draft, group, &folds, target) {
                Some(block) if block.is_long(draft, group) => Step::Stage(block.fold),
                Some(block) => Step::Block(block),
                None => match (Turn::of(draft, group, &plan), Rows::of(draft, group, &plan)) {
                    (Some(turn), _) => Step::Turn(turn),
                    (None, Some(rows)) => Step::Rows(rows),
                    (None, None) => Step::Loops(plan),
                },
            },
        };
    };
    if let Some(&nested) = draft.folds(&[form.a, form.b]).first() {
        return Step::Stage(nested);
    }
    if let Some(form) = matrix::Form::of(draft, &form, target) {
        return match folds.len() == 1 && form.spans(&group[0]) {
            true => Step::Matrix(form),
            false => Step::Stage(form.fold),
        };
    }
    if let Some(form) = winograd::Form::of(draft, &form, target) {
        return match folds.len() == 1 && form.spans(&group[0]) {
            true => Step::Winograd(form),
            false => Step::Stage(form.fold),
        };
    }
    if let Some(side) = [form.b, form.a].into_iter().find(|&side| form.is_padded(draft, side)) {
        Step::Pad(side)
    } else if let Some(taps) = Taps::of(draft, &form).filter(|taps| form.k[0] != taps.axis) {
        Step::Order(form.fold, taps.axis)
    } else if form.is_narrow(draft) {
        Step::Cut(form.fold, draft.grain.long() / 2)
    } else if folds.len() > 1 || !form.spans(&group[0]) {
        Step::Stage(form.fold)
    } else if let Some(form) = sliding::Form::of(draft, &form) {
        Step::Slide(form)
    } else if !form.reads_a(draft) {
        Step::Stage(form.a)
    } else {
        Step::Contract(form)
    }
}

/// Computes an expression in phases of its own, into scratch, and reads it from there.
fn stage(draft: &mut Draft, group: &mut [Task], id: ExprId, target: &Target, alone: bool, phases: &mut Vec<Stmt>) {
    // New axes, those of pieces, stand outermost, so that what is staged is contiguous along the same axes as the result.
    let free = draft.free(id);
    let parallel = &group[0].over;
    let (inner, mut over): (Vec<AxisId>, Vec<AxisId>) = free.iter().partition(|axis| parallel.contains(axis));
    let folded = !matches!(draft.source.get(id), Expr::Fold { .. });
    if folded {
        // An operand of a contraction: its sum's axes are innermost, in their order.
        let roots: Vec<ExprId> = group.iter().map(|task| task.value).collect();
        let folds = draft.folds(&roots).into_iter();
        let summed: Vec<AxisId> = folds.flat_map(|fold| draft.folded(fold)).collect();
        over.sort_by_key(|axis| summed.iter().position(|other| other == axis));
        over = inner.into_iter().chain(over).collect();
    } else {
        over.extend(inner);
    }
    let dtype = draft.source.dtype(id);
    let shape = over.iter().map(|&axis| draft.extent(axis)).collect();
    let buffer = draft.scratch("staged", dtype, shape, Role::SharedScratch);
    let index: Vec<ExprId> = over.iter().map(|&axis| draft.source.axis(axis)).collect();
    let task = Task {
        buffer,
        over,
        index: index.clone(),
        value: id,
    };
    phases.extend(stores_phases(draft, vec![task], target, alone));
    let load = draft.source.load(buffer, dtype, index, false);
    let known = HashMap::from([(id, load)]);
    for task in group {
        task.value = draft.replace(&known, task.value);
        task.index = task.index.iter().map(|&at| draft.replace(&known, at)).collect();
    }
}

/// Replaces a guarded load by a load from a copy of its tensor, in which what is outside lies around it as zeros.
fn pad(draft: &mut Draft, group: &mut [Task], id: ExprId, target: &Target, alone: bool, phases: &mut Vec<Stmt>) {
    let Expr::Load { buffer, index, .. } = draft.source.get(id).clone() else {
        unreachable!("a load")
    };
    let dtype = draft.source.dtype(id);
    let ranges: Vec<(i64, i64)> = index
        .iter()
        .map(|&at| draft.source.range(at).expect("an index with a range"))
        .collect();
    let shape: Vec<usize> = ranges.iter().map(|(low, high)| (high - low + 1) as usize).collect();
    let over: Vec<AxisId> = shape.iter().map(|&extent| draft.axis("padded", extent)).collect();
    let places: Vec<ExprId> = over.iter().map(|&axis| draft.source.axis(axis)).collect();
    let moved = |draft: &mut Draft, at: ExprId, by: i64| {
        let by = draft.source.int(by);
        draft.source.prim(Prim::Add, DType::I64, &[at, by])
    };
    let lows = || ranges.iter().map(|(low, _)| *low);
    let from: Operands = places
        .iter()
        .zip(lows())
        .map(|(&at, low)| moved(draft, at, low))
        .collect();
    let value = draft.source.load(buffer, dtype, from, true);
    let copy = draft.scratch("padded", dtype, shape, Role::SharedScratch);
    let extents = draft.buffers[buffer.at()].ty.shape.clone();
    let within = extents.into_iter().zip(lows());
    let within = within.map(|(extent, low)| (-low, extent as i64 - low)).collect();
    draft.within.insert(copy, within);
    let task = Task {
        buffer: copy,
        over,
        index: places,
        value,
    };
    phases.extend(stores_phases(draft, vec![task], target, alone));
    let to: Operands = index
        .iter()
        .zip(lows())
        .map(|(&at, low)| moved(draft, at, -low))
        .collect();
    let load = draft.source.load(copy, dtype, to, false);
    put(draft, group, id, load);
}

/// Puts one expression in the place of another in what tasks store.
fn put(draft: &mut Draft, group: &mut [Task], from: ExprId, to: ExprId) {
    let known = HashMap::from([(from, to)]);
    for task in group {
        task.value = draft.replace(&known, task.value);
    }
}

/// Computes every fold in a task's index and value in phases of its own.
fn stage_folds(draft: &mut Draft, task: &mut Task, target: &Target) -> Vec<Stmt> {
    let mut phases = Vec::new();
    loop {
        let roots: Vec<ExprId> = task.index.iter().copied().chain([task.value]).collect();
        let parallel: BTreeSet<AxisId> = task.over.iter().copied().collect();
        let folds = draft.folds(&roots);
        let Some(&fold) = folds.iter().rfind(|&&fold| draft.free(fold).is_subset(&parallel)) else {
            return phases;
        };
        stage(draft, std::slice::from_mut(task), fold, target, false, &mut phases);
    }
}

/// A fold cut into pieces.
struct Pieces {
    /// The fold over one piece, depending on a new axis.
    piece: ExprId,
    /// The combination of all pieces, and of the rest that did not fill one.
    whole: ExprId,
}

/// Cuts a fold into pieces of at most so many elements: along its outermost axis, so that each piece runs over whole lines, unless one step
/// of that is too long; then along its longest.
fn cut(draft: &mut Draft, fold: ExprId, length: usize) -> Pieces {
    let Expr::Fold { with, over, .. } = draft.source.get(fold).clone() else {
        unreachable!("a fold")
    };
    let longest = || over.iter().max_by_key(|&&axis| draft.extent(axis));
    let is_short = |axis: &&AxisId| draft.count(&over) <= length * draft.extent(**axis);
    let axis = *(over.first().filter(is_short))
        .or_else(longest)
        .expect("a fold over an axis");
    let extent = draft.extent(axis);
    let others = draft.count(&over) / extent;
    let length = (length / others).clamp(1, extent);
    let count = extent / length;
    let number = draft.axis("piece", count);
    let inner = draft.axis("part", length);
    let [number_value, inner_value] = [number, inner].map(|axis| draft.source.axis(axis));
    let size = draft.source.int(length as i64);
    let start = draft.source.prim(Prim::Mul, DType::I64, &[number_value, size]);
    let at = draft.source.prim(Prim::Add, DType::I64, &[start, inner_value]);
    let piece = draft.refold(fold, axis, inner, at);
    let mut whole = draft.source.fold(with, vec![number], piece);
    let rest = extent - count * length;
    if rest > 0 {
        let inner = draft.axis("rest", rest);
        let inner_value = draft.source.axis(inner);
        let start = draft.source.int((count * length) as i64);
        let at = draft.source.prim(Prim::Add, DType::I64, &[start, inner_value]);
        let rest = draft.refold(fold, axis, inner, at);
        whole = with.apply(&mut draft.source, whole, rest);
    }
    Pieces { piece, whole }
}
