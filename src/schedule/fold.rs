//! Maps and folds: elements along vector lanes, rows folded in lanes, columns folded into a row of scratch.

use std::collections::{BTreeSet, HashMap};

use netloom_ir::DType;
use netloom_ir::kernel::index::substitute;
use netloom_ir::kernel::{AxisId, Bind, Expr, ExprId, Prim, Role, Stmt};

use super::chain::Cut;
use super::draft::{Draft, Grain, Task};

/// Elements of one share of a long vector loop: enough to hide the cost of starting it, and few enough to share out evenly.
const SHARE: usize = 4096;
/// Elements of a row of scratch that columns are folded into; it stays in the first-level cache.
const ROW: usize = 1024;
/// The fewest columns that one worker folds together: eight sums of 16 lanes under way hide how long an addition takes.
const STRIP: usize = 128;
/// A matrix of so many elements comes from memory when its columns are folded. Measured with `f32` and AVX-512, one thread reads strips of
/// 256 columns at 10 GB/s, strips of [`ROW`] at 17, and at 22 if [`ROWS`] are folded at once.
const LARGE: usize = 1 << 20;
/// Rows folded into a row of scratch at once, in order: between them the sums stay in registers.
const ROWS: usize = 8;
/// How far ahead the rows of a large matrix are brought closer, which no prefetcher of the machine does fast enough for a single stream. A guess.
const AHEAD_BYTES: usize = 8 << 10;
/// The most expressions of a fold's value that are written out for several rows.
const SIMPLE: usize = 24;

/// The order of the loops.
pub struct Plan {
    /// The axis along vector lanes.
    pub lane: Option<AxisId>,
    /// The others, outermost first: those that folds use, then those that only stores range over.
    pub outer: Vec<AxisId>,
}

impl Plan {
    /// The plan for tasks over the same axes with these folds.
    pub fn of(draft: &mut Draft, tasks: &[Task], folds: &[ExprId]) -> Plan {
        let lane = match draft.grain {
            Grain::Blocks => lane_axis(draft, &tasks[0], folds),
            Grain::Elements => None,
        };
        let used: Vec<BTreeSet<AxisId>> = folds.iter().map(|&fold| draft.free(fold)).collect();
        let mut outer: Vec<AxisId> = tasks[0]
            .over
            .iter()
            .copied()
            .filter(|&axis| Some(axis) != lane)
            .collect();
        outer.sort_by_key(|axis| std::cmp::Reverse(used.iter().filter(|used| used.contains(axis)).count()));
        Plan { lane, outer }
    }

    /// A fold to be cut into pieces of so many elements: one so long that these are more accurate, or give more workers something to do,
    /// or one of the columns of a large matrix, of which workers then read strips as wide as [`ROW`].
    pub fn long(&self, draft: &Draft, folds: &[ExprId]) -> Option<(ExprId, usize)> {
        let parallel = self.parallel();
        folds.iter().copied().find_map(|fold| {
            let Expr::Fold { over, .. } = draft.source.get(fold) else {
                unreachable!("a fold")
            };
            let free = draft.free(fold);
            if !free.is_subset(&parallel) {
                return None;
            }
            let lane = self.lane.filter(|lane| free.contains(lane));
            let (count, results, long) = (draft.count(over), draft.count(&free), draft.grain.long());
            let is_long = count > long && (lane.is_some() || results < draft.few);
            let width = lane.map_or(0, |lane| draft.extent(lane).min(ROW));
            let pieces = (super::SHARES * width)
                .div_ceil(results.max(1))
                .max(count.div_ceil(long));
            let is_large = lane.is_some() && pieces > 1 && count * results >= LARGE;
            (is_long || is_large).then_some((fold, if is_large { count / pieces } else { long / 2 }))
        })
    }

    /// A fold that these loops would compute again and again, or that leaves workers idle.
    pub fn misfit(&self, draft: &Draft, tasks: &[Task], folds: &[ExprId], alone: bool) -> Option<ExprId> {
        let parallel = self.parallel();
        let shares = |used: &BTreeSet<AxisId>| draft.count(&self.outer[..depth(&self.outer, used)]);
        folds.iter().copied().find(|&fold| {
            let free = draft.free(fold);
            // What is folded as a whole needs no other place.
            if tasks.iter().all(|task| task.value == fold) {
                return false;
            }
            let around = match free.is_subset(&parallel) {
                true => &self.outer[..depth(&self.outer, &free)],
                false => &self.outer[..],
            };
            let again = draft.count(around.iter().filter(|axis| !free.contains(axis)));
            let in_lanes = self.lane.is_some_and(|lane| free.contains(&lane));
            let after = draft.count(&tasks[0].over)
                / draft
                    .count(&free.intersection(&parallel).copied().collect::<Vec<_>>())
                    .max(1);
            // Where elements are shared out, what follows a fold is shared by more invocations than the fold.
            let coarse = draft.grain == Grain::Elements && after > 1;
            again > 1 || coarse || (!alone && !in_lanes && after > SHARE && shares(&free) < super::SHARES)
        })
    }

    fn parallel(&self) -> BTreeSet<AxisId> {
        self.outer.iter().copied().chain(self.lane).collect()
    }
}

/// The loops for tasks over the same axes.
pub fn schedule(draft: &mut Draft, tasks: &[Task], plan: Plan) -> Stmt {
    let Plan { lane, mut outer } = plan;
    let roots: Vec<ExprId> = tasks.iter().map(|task| task.value).collect();
    let folds = draft.folds(&roots);
    let mut known = HashMap::new();
    let mut lanes = None;
    if let Some(lane) = lane {
        let used: Vec<BTreeSet<AxisId>> = folds.iter().map(|&fold| draft.free(fold)).collect();
        let depth = used
            .iter()
            .filter(|used| used.contains(&lane))
            .map(|used| depth(&outer, used))
            .max();
        let share = (draft.count(&tasks[0].over) / 16).next_multiple_of(16);
        let block = match depth {
            Some(_) => share.clamp(STRIP, ROW),
            None => share.clamp(256, SHARE),
        };
        let extent = draft.extent(lane);
        let inner = draft.axis("lane", extent.min(block));
        let mut at = draft.exprs.axis(inner);
        let mut count = draft.int(extent);
        let mut blocks = None;
        if extent > block {
            let axis = draft.axis("block", extent.div_ceil(block));
            outer.insert(depth.unwrap_or(outer.len()), axis);
            let number = draft.exprs.axis(axis);
            let zero = draft.int(0);
            let start = draft.mul_add(number, block, zero);
            at = draft.i64(Prim::Add, start, at);
            count = draft.rest(extent, start, block);
            blocks = Some(axis);
        }
        known.insert(draft.source.axis(lane), at);
        lanes = Some(Lanes {
            axis: inner,
            of: lane,
            blocks,
            count,
        });
    }
    let mut loops = Loops {
        draft,
        known,
        lanes,
        bound: BTreeSet::new(),
        done: BTreeSet::new(),
    };
    let first = loops.first_depth(tasks, &outer);
    let Some(shared) = loops.share(&outer[..first]) else {
        let body = loops.level(tasks, &outer, 0);
        return once(loops.draft, body);
    };
    let body = loops.level(tasks, &outer, first);
    loops.draft.all(shared, Bind::Workers, body)
}

/// Statements run by one worker.
pub fn once(draft: &mut Draft, body: Vec<Stmt>) -> Stmt {
    let one = draft.axis("once", 1);
    draft.all(one, Bind::Workers, body)
}

/// The number of loops of `outer` that must stand around something that uses some axes.
fn depth(outer: &[AxisId], used: &BTreeSet<AxisId>) -> usize {
    outer
        .iter()
        .rposition(|axis| used.contains(axis))
        .map_or(0, |last| last + 1)
}

/// The parallel axis that runs along the lanes: the one along which stores are contiguous, unless folds use it and are contiguous
/// along their own.
fn lane_axis(draft: &mut Draft, task: &Task, folds: &[ExprId]) -> Option<AxisId> {
    let address = draft.address(task.buffer, &task.index);
    let contiguous = |axis: &&AxisId| address.as_ref().is_some_and(|address| address.factor(**axis) == 1);
    let lane = *task.over.iter().rev().find(contiguous).or(task.over.last())?;
    for &fold in folds {
        if !draft.free(fold).contains(&lane) {
            continue;
        }
        let Expr::Fold { over, value, .. } = draft.source.get(fold).clone() else {
            continue;
        };
        let innermost = *over.last().expect("a fold over an axis");
        for id in draft.below(&[value]) {
            if let Some((_, address)) = draft.load_address(id)
                && address.factor(innermost) == 1
                && !matches!(address.factor(lane), 0 | 1)
                && draft.extent(innermost) >= draft.extent(lane).min(16)
            {
                return None;
            }
        }
    }
    Some(lane)
}

/// The lane axis split into blocks.
struct Lanes {
    /// The loop's variable.
    axis: AxisId,
    /// The axis of the kernel that it is part of.
    of: AxisId,
    /// The axis of blocks, if there is more than one.
    blocks: Option<AxisId>,
    /// The number of iterations.
    count: ExprId,
}

/// Loops that fold columns.
struct Pass {
    /// The axes.
    over: Vec<AxisId>,
    /// What a step folds, in order.
    values: Vec<ExprId>,
    /// What a step some way ahead will fold.
    later: Vec<ExprId>,
}

struct Loops<'a> {
    draft: &'a mut Draft,
    /// What stands in the nest for axes and folds of the source.
    known: HashMap<ExprId, ExprId>,
    lanes: Option<Lanes>,
    /// The axes of the source whose loops are open.
    bound: BTreeSet<AxisId>,
    /// The folds computed.
    done: BTreeSet<ExprId>,
}

impl Loops<'_> {
    /// The axes whose loops must be open before an expression can be computed (in vector lanes).
    fn needs(&self, id: ExprId) -> BTreeSet<AxisId> {
        let mut needs = self.draft.free(id);
        if let Some(lanes) = &self.lanes
            && needs.remove(&lanes.of)
        {
            needs.extend(lanes.blocks);
        }
        needs
    }

    fn uses_lane(&self, id: ExprId) -> bool {
        self.lanes
            .as_ref()
            .is_some_and(|lanes| self.draft.free(id).contains(&lanes.of))
    }

    fn task_depth(&self, task: &Task, outer: &[AxisId]) -> usize {
        let mut over: BTreeSet<AxisId> = task.over.iter().copied().collect();
        if let Some(lanes) = &self.lanes
            && over.remove(&lanes.of)
        {
            over.extend(lanes.blocks);
        }
        depth(outer, &over)
    }

    /// The number of loops that have nothing between them.
    fn first_depth(&self, tasks: &[Task], outer: &[AxisId]) -> usize {
        let roots: Vec<ExprId> = tasks.iter().map(|task| task.value).collect();
        let folds = self.draft.folds(&roots).into_iter();
        // A fold inside another is computed with it.
        let parallel: BTreeSet<AxisId> = tasks.iter().flat_map(|task| task.over.iter().copied()).collect();
        let own = folds.filter(|&fold| self.draft.free(fold).is_subset(&parallel));
        let folds = own.map(|fold| depth(outer, &self.needs(fold)));
        let stores = tasks.iter().map(|task| self.task_depth(task, outer));
        folds.chain(stores).min().unwrap_or(0)
    }

    /// Makes one axis of several, to be shared among workers.
    fn share(&mut self, axes: &[AxisId]) -> Option<AxisId> {
        self.bound.extend(axes);
        match axes {
            [] => None,
            [axis] => Some(*axis),
            _ => {
                let (shared, numbers) = self.draft.share(axes);
                let keys = axes.iter().map(|&axis| self.draft.exprs.axis(axis));
                let values: HashMap<ExprId, ExprId> = keys.collect::<Vec<_>>().into_iter().zip(numbers).collect();
                // The start and count of a block, and whatever else was made with these axes, are restated.
                let from = self.draft.exprs.clone();
                for known in self.known.values_mut() {
                    *known = substitute(&from, &mut self.draft.exprs, &mut values.clone(), *known);
                }
                if let Some(lanes) = &mut self.lanes {
                    lanes.count = substitute(&from, &mut self.draft.exprs, &mut values.clone(), lanes.count);
                }
                for &axis in axes {
                    let value = values[&self.draft.exprs.axis(axis)];
                    let key = self.draft.source.axis(axis);
                    self.known.insert(key, value);
                }
                Some(shared)
            }
        }
    }

    /// What stands inside the first `level` loops.
    fn level(&mut self, tasks: &[Task], outer: &[AxisId], level: usize) -> Vec<Stmt> {
        let roots: Vec<ExprId> = tasks.iter().map(|task| task.value).collect();
        let mut body = self.due(&roots);
        let here: Vec<&Task> = tasks
            .iter()
            .filter(|task| self.task_depth(task, outer) == level)
            .collect();
        let (wide, narrow): (Vec<&Task>, Vec<&Task>) = here
            .into_iter()
            .partition(|task| self.lanes.as_ref().is_some_and(|lanes| task.over.contains(&lanes.of)));
        body.extend(narrow.into_iter().map(|task| self.store(task)).collect::<Vec<_>>());
        if !wide.is_empty() {
            body.extend(self.wide_stores(&wide));
        }
        if level < outer.len() && tasks.iter().any(|task| self.task_depth(task, outer) > level) {
            self.bound.insert(outer[level]);
            let inner = self.level(tasks, outer, level + 1);
            self.bound.remove(&outer[level]);
            body.push(self.draft.all(outer[level], Bind::Serial, inner));
        }
        body
    }

    /// Stores in lanes: one loop, or two where each element is a long chain.
    fn wide_stores(&mut self, tasks: &[&Task]) -> Vec<Stmt> {
        let Some(Cut { links, is_second }) = Cut::of(self.draft, tasks) else {
            let stores = tasks.iter().map(|task| self.store(task)).collect();
            return vec![self.lane_loop(stores)];
        };
        let known = self.known.clone();
        let lanes = self.lanes.as_ref().expect("a lane axis");
        let (at, width) = (self.draft.exprs.axis(lanes.axis), self.draft.extent(lanes.axis));
        let (second, first): (Vec<_>, Vec<_>) = tasks.iter().zip(is_second).partition(|(_, is_second)| *is_second);
        let mut stores: Vec<Stmt> = first.into_iter().map(|(task, _)| self.store(task)).collect();
        let mut handed_on = Vec::new();
        for link in links {
            let dtype = self.draft.source.dtype(link);
            let row = self.draft.scratch("link", dtype, vec![width], Role::WorkerScratch);
            stores.push(Stmt::Store {
                buffer: row,
                index: vec![at],
                value: self.value(link),
            });
            handed_on.push((link, self.draft.exprs.load(row, dtype, vec![at], false)));
        }
        let before = self.lane_loop(stores);
        self.known.extend(handed_on);
        let stores = second.into_iter().map(|(task, _)| self.store(task)).collect();
        let after = self.lane_loop(stores);
        self.known = known;
        vec![before, after]
    }

    fn lane_loop(&mut self, body: Vec<Stmt>) -> Stmt {
        let lanes = self.lanes.as_ref().expect("a lane axis");
        Stmt::Loop {
            axis: lanes.axis,
            extent: lanes.count,
            bind: Bind::Lanes,
            body,
        }
    }

    fn value(&mut self, id: ExprId) -> ExprId {
        self.draft.import(&mut self.known, id)
    }

    fn store(&mut self, task: &Task) -> Stmt {
        let index = task.index.iter().map(|&id| self.value(id)).collect();
        Stmt::Store {
            buffer: task.buffer,
            index,
            value: self.value(task.value),
        }
    }

    /// Computes every fold below some expressions whose axes are all bound and that is not yet computed.
    fn due(&mut self, roots: &[ExprId]) -> Vec<Stmt> {
        let mut body = Vec::new();
        for fold in self.draft.folds(roots) {
            if !self.done.contains(&fold) && self.needs(fold).is_subset(&self.bound) {
                self.done.insert(fold);
                self.fold(fold, &mut body);
            }
        }
        body
    }

    fn fold(&mut self, fold: ExprId, body: &mut Vec<Stmt>) {
        let Expr::Fold { with, over, value } = self.draft.source.get(fold).clone() else {
            unreachable!("a fold")
        };
        let dtype = self.draft.source.dtype(fold);
        let identity = self.draft.exprs.constant(dtype, with.identity(dtype));
        if self.uses_lane(fold) {
            let lanes = self.lanes.as_ref().expect("a lane axis");
            let at = vec![self.draft.exprs.axis(lanes.axis)];
            let width = self.draft.extent(lanes.axis);
            let row = self.draft.scratch(with.name(), dtype, vec![width], Role::WorkerScratch);
            let state = self.draft.exprs.load(row, dtype, at.clone(), false);
            body.push(self.lane_loop(vec![Stmt::Store {
                buffer: row,
                index: at.clone(),
                value: identity,
            }]));
            let elements = self.draft.count(&over) * self.draft.count(&self.draft.free(fold));
            let ahead = (elements >= LARGE).then(|| AHEAD_BYTES.div_ceil(ROWS * width * dtype.size_bytes()));
            for Pass { over, values, later } in self.passes(over, value, ahead) {
                let step = self.over(&over, &values, &mut |loops| {
                    let mut body = loops.prefetches(&later);
                    let value = values.iter().fold(state, |state, &value| {
                        let value = loops.value(value);
                        with.apply(&mut loops.draft.exprs, state, value)
                    });
                    body.push(Stmt::Store {
                        buffer: row,
                        index: at.clone(),
                        value,
                    });
                    loops.lane_loop(body)
                });
                body.extend(step);
            }
            self.known.insert(fold, state);
        } else {
            let local = self.draft.local(with.name(), dtype);
            body.push(Stmt::Set { local, value: identity });
            let step = self.over(&over, &[value], &mut |loops| {
                let value = loops.value(value);
                Stmt::Accumulate { local, with, value }
            });
            body.extend(step);
            let state = self.draft.exprs.local(local, dtype);
            self.known.insert(fold, state);
        }
    }

    /// Brings what some values read along the lanes closer.
    fn prefetches(&mut self, values: &[ExprId]) -> Vec<Stmt> {
        let mut loads = self.draft.below(values);
        loads.retain(|&id| self.uses_lane(id) && matches!(self.draft.source.get(id), Expr::Load { .. }));
        let prefetch = |id| match self.value(id) {
            load if let Expr::Load { buffer, index, .. } = self.draft.exprs.get(load).clone() => Some(Stmt::Prefetch {
                buffer,
                index: index.to_vec(),
            }),
            _ => None,
        };
        loads.into_iter().filter_map(prefetch).collect()
    }

    /// The loops that fold columns, one after the other. Steps take [`ROWS`] rows each where there are so many, which changes no bit; these
    /// say what is read so many steps ahead, if any.
    fn passes(&mut self, over: Vec<AxisId>, value: ExprId, ahead: Option<usize>) -> Vec<Pass> {
        let (&axis, outer) = over.split_last().expect("a fold over an axis");
        let extent = self.draft.extent(axis);
        let is_simple = self.draft.below(&[value]).len() <= SIMPLE && self.draft.folds(&[value]).is_empty();
        // The rows that are left over come last, so there must be no axis around.
        if extent < ROWS || !is_simple || !(outer.is_empty() || extent.is_multiple_of(ROWS)) {
            return vec![Pass {
                over,
                values: vec![value],
                later: Vec::new(),
            }];
        }
        let mut pass = |first: usize, count: usize, rows: usize| {
            let axis_of_steps = self.draft.axis("row", count);
            let step = self.draft.source.axis(axis_of_steps);
            let mut from = |start: usize| -> Vec<ExprId> {
                let rows = (0..rows).map(|row| {
                    let [size, row] = [rows, start + row].map(|value| self.draft.source.int(value as i64));
                    let start = self.draft.source.prim(Prim::Mul, DType::I64, &[step, size]);
                    let at = self.draft.source.prim(Prim::Add, DType::I64, &[start, row]);
                    let known = HashMap::from([(self.draft.source.axis(axis), at)]);
                    self.draft.replace(&known, value)
                });
                rows.collect()
            };
            Pass {
                over: outer.iter().copied().chain([axis_of_steps]).collect(),
                values: from(first),
                later: ahead.map_or(Vec::new(), |steps| from(first + steps * rows)),
            }
        };
        let rest = extent % ROWS;
        let mut passes = vec![pass(0, extent / ROWS, ROWS)];
        passes.extend((rest > 0).then(|| pass(extent - rest, rest, 1)));
        passes
    }

    /// The loops over a fold's axes; inner folds are computed as soon as their axes are bound.
    fn over(&mut self, over: &[AxisId], values: &[ExprId], step: &mut dyn FnMut(&mut Self) -> Stmt) -> Vec<Stmt> {
        let mut body = self.due(values);
        match over {
            [] => body.push(step(self)),
            [axis, rest @ ..] => {
                self.bound.insert(*axis);
                let inner = self.over(rest, values, step);
                self.bound.remove(axis);
                let bind = match (&inner[..], self.draft.grain) {
                    ([Stmt::Accumulate { .. }], Grain::Blocks) => Bind::Lanes,
                    _ => Bind::Serial,
                };
                body.push(self.draft.all(*axis, bind, inner));
            }
        }
        body
    }
}
