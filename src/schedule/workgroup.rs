//! Folds by the workgroups of a GPU, where there are fewer results than invocations, or where neighbours along a fold are neighbours in memory.
//!
//! A workgroup has one result: its invocations take every so many elements each, so that neighbours read neighbours, combine them in order, and all of
//! theirs pairwise. What follows from the result along further axes, as in a softmax, they write in the same way. Where instead results are neighbours
//! in memory, as in sums of columns, a workgroup has several of these, and several invocations for each.

use std::collections::{BTreeSet, HashMap};

use netloom_ir::Target;
use netloom_ir::kernel::{AxisId, Bind, Expr, ExprId, Prim, Stmt};

use super::draft::{Draft, Task};

/// Invocations of a workgroup: every device takes so many. A guess that more would wait for each other longer.
const ITEMS: usize = 128;
/// The fewest elements of a fold: below, most of a workgroup has nothing to do. A guess.
const LEAST: usize = 32;
/// Results that a workgroup has side by side: elements of 4 bytes fill two sectors of a GPU's memory.
const COLUMNS: usize = 16;
/// Where there are few results, folds of several times as many elements are cut into pieces of so many, for more workgroups: 32 for each
/// invocation. A guess.
const PIECE: usize = 32 * ITEMS;
/// What follows from few results is written by workgroups of its own, if it is more than this for each. A guess.
const MOST_AFTER: usize = 8 * ITEMS;

/// What to do with tasks of which some folds are for workgroups.
pub enum Choice {
    /// Cut a fold into pieces of so many elements.
    Cut(ExprId, usize),
    /// Compute one in a phase of its own.
    Stage(ExprId),
    /// Write the loops.
    Fold(Together),
}

/// The loops of tasks whose folds depend on the same axes.
pub struct Together {
    folds: Vec<ExprId>,
    /// The axes of results.
    results: Vec<AxisId>,
    /// The one of these along which results are neighbours, if a workgroup has several.
    columns: Option<AxisId>,
    /// The axes along which something follows from each result.
    rest: Vec<AxisId>,
}

/// The loops for tasks over the same axes, or what must come before; nothing if no fold is for workgroups.
pub fn choose(draft: &mut Draft, tasks: &[Task], folds: &[ExprId], target: &Target) -> Option<Choice> {
    if !target.workgroups {
        return None;
    }
    let parallel: BTreeSet<AxisId> = tasks[0].over.iter().copied().collect();
    let ours = folds.iter().copied();
    let ours: Vec<ExprId> = ours.filter(|&fold| is_ours(draft, fold, &parallel)).collect();
    let is_idle = |draft: &Draft, results: usize| results * ITEMS < draft.few;
    for &fold in &ours {
        let (count, results) = (draft.count(&draft.folded(fold)), draft.count(&draft.free(fold)));
        if count > 4 * PIECE && is_idle(draft, results) {
            return Some(Choice::Cut(fold, PIECE));
        }
    }
    let &first = ours.first()?;
    let free = draft.free(first);
    let (results, rest): (Vec<AxisId>, Vec<AxisId>) =
        (tasks[0].over.iter()).partition(|axis| free.contains(axis) || draft.extent(**axis) == 1);
    let columns = columns(draft, first);
    let is_alone = tasks.iter().all(|task| task.value == first);
    let are_alike = |draft: &Draft, fold: &ExprId| ours.contains(fold) && draft.free(*fold) == free;
    let fits = folds.iter().all(|fold| are_alike(draft, fold));
    let is_long = draft.count(&rest) > MOST_AFTER && is_idle(draft, draft.count(&results));
    match fits && (rest.is_empty() || columns.is_none() && !is_long) {
        true => Some(Choice::Fold(Together {
            folds: folds.to_vec(),
            results,
            columns,
            rest,
        })),
        false => (!is_alone).then_some(Choice::Stage(first)),
    }
}

/// Whether a fold with a result for some of the parallel axes is one for workgroups: there are few results, or each has elements of its own, side by
/// side, which invocations of their own would read far from each other.
fn is_ours(draft: &mut Draft, fold: ExprId, parallel: &BTreeSet<AxisId>) -> bool {
    let (over, free) = (draft.folded(fold), draft.free(fold));
    let count = draft.count(&over);
    if !free.is_subset(parallel) || count < LEAST {
        return false;
    }
    let are_own = |draft: &Draft| {
        let loads = draft.below(&[fold]).into_iter();
        let mut loads = loads.filter(|&id| matches!(draft.source.get(id), Expr::Load { .. }));
        loads.all(|load| {
            let axes = draft.free(load);
            let moves = over.iter().any(|axis| axes.contains(axis));
            !moves || free.iter().all(|axis| axes.contains(axis) || draft.extent(*axis) == 1)
        })
    };
    draft.count(&free) < draft.few || count >= ITEMS && are_own(draft) && columns(draft, fold).is_none()
}

/// The axis of results along which the largest tensor that a fold reads is contiguous, if it is not so along the fold.
fn columns(draft: &mut Draft, fold: ExprId) -> Option<AxisId> {
    let (over, free) = (draft.folded(fold), draft.free(fold));
    let innermost = over.iter().rev().copied().find(|&axis| draft.extent(axis) > 1);
    let mut largest: Option<(usize, Option<AxisId>)> = None;
    for id in draft.below(&[fold]) {
        let Expr::Load { buffer, index, .. } = draft.source.get(id).clone() else {
            continue;
        };
        let elements = draft.count(&draft.free(id));
        let Some(address) = draft.address(buffer, &index) else {
            continue;
        };
        let is_column = |axis: &&AxisId| address.factor(**axis) == 1 && draft.extent(**axis) >= COLUMNS;
        let along = innermost.is_some_and(|axis| address.factor(axis) == 1);
        let column = free.iter().find(is_column).filter(|_| !along).copied();
        if largest.is_none_or(|(most, _)| elements > most) {
            largest = Some((elements, column));
        }
    }
    largest.and_then(|(_, column)| column)
}

/// The loops.
pub fn schedule(draft: &mut Draft, tasks: &[Task], together: &Together) -> Stmt {
    match together.columns {
        Some(column) => columns_of(draft, tasks, together, column),
        None => lines_of(draft, tasks, together),
    }
}

/// A workgroup for each result.
fn lines_of(draft: &mut Draft, tasks: &[Task], together: &Together) -> Stmt {
    let longest = together
        .folds
        .iter()
        .map(|&fold| draft.count(&draft.folded(fold)))
        .max();
    let items = longest.unwrap_or(1).next_power_of_two().min(ITEMS);
    let (group, numbers) = draft.share(&together.results);
    let mut known = draft.known(&together.results, &numbers).into_iter().collect();
    let item = draft.axis("item", items);
    let mut body = fold_all(draft, &mut known, &together.folds, (item, 0));
    if together.rest.is_empty() {
        body.extend(draft.stores(tasks, &mut known));
    } else {
        let extents: Vec<usize> = together.rest.iter().map(|&axis| draft.extent(axis)).collect();
        let strided = Strided::over(draft, &extents, item);
        known.extend(draft.known(&together.rest, &strided.digits));
        let stores = draft.stores(tasks, &mut known);
        let steps = strided.all(stores);
        body.push(draft.all(item, Bind::Item(0), vec![steps]));
    }
    draft.all(group, Bind::Group, body)
}

/// A workgroup for several results side by side.
fn columns_of(draft: &mut Draft, tasks: &[Task], together: &Together, column: AxisId) -> Stmt {
    let extent = draft.extent(column);
    let block = draft.axis("block", extent.div_ceil(COLUMNS));
    let others = together.results.iter().copied().filter(|&axis| axis != column);
    let mut shared: Vec<AxisId> = others.collect();
    let others = shared.clone();
    shared.push(block);
    let (group, numbers) = draft.share(&shared);
    let mut known: HashMap<ExprId, ExprId> = draft.known(&others, &numbers).into_iter().collect();
    let [item, line] = [("column", COLUMNS), ("line", ITEMS / COLUMNS)].map(|(name, count)| draft.axis(name, count));
    let own = draft.exprs.axis(item);
    let wanted = draft.mul_add(numbers[others.len()], COLUMNS, own);
    let (at, is_inside) = match extent.is_multiple_of(COLUMNS) {
        true => (wanted, None),
        false => {
            let (at, is_inside) = draft.edge(wanted, extent);
            (at, Some(is_inside))
        }
    };
    known.insert(draft.source.axis(column), at);
    let mut body = fold_all(draft, &mut known, &together.folds, (line, 1));
    let stores = draft.stores(tasks, &mut known);
    body.extend(draft.under(is_inside, stores));
    let columns = draft.all(item, Bind::Item(0), body);
    draft.all(group, Bind::Group, vec![columns])
}

/// Folds, one after the other, those at once that run over as much and do not need each other.
fn fold_all(draft: &mut Draft, known: &mut HashMap<ExprId, ExprId>, folds: &[ExprId], item: (AxisId, u8)) -> Vec<Stmt> {
    let mut body = Vec::new();
    let mut rest = folds;
    while let Some(&first) = rest.first() {
        let extents = |draft: &Draft, fold: ExprId| -> Vec<usize> {
            let over = draft.folded(fold).into_iter();
            over.map(|axis| draft.extent(axis)).collect()
        };
        let of_first = extents(draft, first);
        let mut count = 1;
        while let Some(&next) = rest.get(count) {
            let below = draft.below(&[next]);
            let needs = rest[..count].iter().any(|fold| below.contains(fold));
            if needs || extents(draft, next) != of_first {
                break;
            }
            count += 1;
        }
        body.extend(fold_some(draft, known, &rest[..count], &of_first, item));
        rest = &rest[count..];
    }
    body
}

/// Folds over the same extents in one loop.
fn fold_some(
    draft: &mut Draft,
    known: &mut HashMap<ExprId, ExprId>,
    folds: &[ExprId],
    extents: &[usize],
    (item, dimension): (AxisId, u8),
) -> Vec<Stmt> {
    let strided = Strided::over(draft, extents, item);
    let (mut before, mut own, mut steps, mut all) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut results = Vec::new();
    for &fold in folds {
        let Expr::Fold { with, over, value } = draft.source.get(fold).clone() else {
            unreachable!("a fold")
        };
        let dtype = draft.source.dtype(fold);
        let identity = draft.exprs.constant(dtype, with.identity(dtype));
        let [local, part] = [with.name(), "part"].map(|name| draft.local(name, dtype));
        before.push(Stmt::Set { local, value: identity });
        own.push(Stmt::Set {
            local: part,
            value: identity,
        });
        let mut inside = known.clone();
        inside.extend(draft.known(&over, &strided.digits));
        let value = draft.import(&mut inside, value);
        steps.push(Stmt::Accumulate {
            local: part,
            with,
            value,
        });
        let value = draft.exprs.local(part, dtype);
        all.push(Stmt::Accumulate { local, with, value });
        results.push((fold, draft.exprs.local(local, dtype)));
    }
    own.push(strided.all(steps));
    own.extend(all);
    known.extend(results);
    before.push(draft.all(item, Bind::Item(dimension), own));
    before
}

/// The loop of an invocation that takes every so many points of several axes.
struct Strided {
    axis: AxisId,
    extent: ExprId,
    /// The indices along the axes.
    digits: Vec<ExprId>,
}

impl Strided {
    fn over(draft: &mut Draft, extents: &[usize], item: AxisId) -> Strided {
        let (count, items) = (extents.iter().product::<usize>(), draft.extent(item));
        let axis = draft.axis("step", count.div_ceil(items));
        let own = draft.exprs.axis(item);
        let extent = match count.is_multiple_of(items) {
            true => draft.int(count / items),
            false => {
                let [end, by] = [count + items - 1, items].map(|value| draft.int(value));
                let rest = draft.i64(Prim::Sub, end, own);
                draft.i64(Prim::Div, rest, by)
            }
        };
        let step = draft.exprs.axis(axis);
        let at = draft.mul_add(step, items, own);
        Strided {
            axis,
            extent,
            digits: draft.digits(at, extents),
        }
    }

    fn all(&self, body: Vec<Stmt>) -> Stmt {
        Stmt::Loop {
            axis: self.axis,
            extent: self.extent,
            bind: Bind::Serial,
            body,
        }
    }
}
