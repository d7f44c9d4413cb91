//! Blocks in registers: on a GPU an invocation computes several neighbouring results of a fold, so that what it loads serves many of them.
//!
//! The results that an invocation computes, and the innermost folded axes (the taps of a convolution), are written out; loads of the same
//! element then become one, as equal expressions do. Each result is folded in order, so blocks change no bit. A block at the end of an axis
//! is moved back over its neighbour, and stores what is its own.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use netloom_ir::kernel::index::affine;
use netloom_ir::kernel::{AxisId, Bind, Combine, Expr, ExprId, LocalId, Prim, Stmt};
use netloom_ir::{DType, Target};

use super::draft::{Draft, Grain, Task};

/// What a load costs, and a term of a sum, in cycles for a subgroup; measured on lavapipe, where a load gathers what its invocations ask
/// for. On a GPU the ratio is of the same order.
const LOAD: usize = 30;
const TERM: usize = 2;
/// The most terms written out in one turn of the innermost loop: more takes long to compile.
const MOST_TERMS: usize = 576;
/// The most expressions written out of what follows the fold: more is a phase of its own, where it is written once.
const MOST_AFTER: usize = 4096;
/// Results along one axis.
const ALONG: [usize; 12] = [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16];

/// How a fold is blocked.
pub struct Block {
    pub fold: ExprId,
    /// How many results an invocation computes along each parallel axis.
    along: Vec<(AxisId, usize)>,
    /// How many of the folded axes, the innermost ones, are written out.
    taps: usize,
    /// What all of it takes, in cycles.
    pub cost: usize,
}

impl Block {
    /// The cheapest block for tasks whose only fold has a result for each of their elements; `None` if that is a single result.
    pub fn of(draft: &Draft, tasks: &[Task], folds: &[ExprId], target: &Target) -> Option<Block> {
        let (Grain::Elements, &[fold]) = (draft.grain, folds) else {
            return None;
        };
        let Expr::Fold { over, value, .. } = draft.source.get(fold).clone() else {
            unreachable!("a fold")
        };
        let free = draft.free(fold);
        let parallel: Vec<AxisId> = (tasks[0].over.iter().copied())
            .filter(|&axis| draft.extent(axis) > 1)
            .collect();
        if parallel.is_empty() || !parallel.iter().all(|axis| free.contains(axis)) {
            return None;
        }
        let loads = Loads::below(draft, value);
        let mut best: Option<(usize, Block)> = None;
        for taps in 0..=over.len() {
            let (around, taps_axes) = over.split_at(over.len() - taps);
            let written: usize = draft.count(taps_axes);
            if written > MOST_TERMS || taps > 0 && draft.extent(taps_axes[0]) > 16 {
                break;
            }
            let rounds = draft.count(around);
            for along in choices(
                draft,
                &parallel,
                target.vector_registers.min(MOST_TERMS / written.max(1)),
            ) {
                let mut counts: BTreeMap<AxisId, usize> = along.iter().copied().collect();
                counts.extend(taps_axes.iter().map(|&axis| (axis, draft.extent(axis))));
                let invocations: usize = along
                    .iter()
                    .map(|&(axis, each)| draft.extent(axis).div_ceil(each))
                    .product();
                let terms: usize = counts.values().product();
                let each = loads.distinct(&counts) * LOAD + terms * TERM;
                let cost = invocations.next_multiple_of(8).max(target.invocations) * rounds * each;
                if best.as_ref().is_none_or(|(least, _)| cost < *least) {
                    best = Some((
                        cost,
                        Block {
                            fold,
                            along,
                            taps,
                            cost,
                        },
                    ));
                }
            }
        }
        let (_, block) = best?;
        (block.along.iter().any(|&(_, each)| each > 1)).then_some(block)
    }

    /// Whether so much follows the fold that it must not be written out for every result.
    pub fn is_long(&self, draft: &Draft, tasks: &[Task]) -> bool {
        let results: usize = self.along.iter().map(|(_, each)| each).product();
        let roots: Vec<ExprId> = tasks.iter().map(|task| task.value).collect();
        let after = draft.below(&roots).len() - draft.below(&[self.fold]).len();
        after * results > MOST_AFTER
    }
}

/// Every way to take some results along each axis, at most so many in all.
fn choices(draft: &Draft, axes: &[AxisId], most: usize) -> Vec<Vec<(AxisId, usize)>> {
    axes.iter().fold(vec![Vec::new()], |choices, &axis| {
        let extent = draft.extent(axis);
        let longer = |choice: Vec<(AxisId, usize)>| {
            let so_far: usize = choice.iter().map(|(_, each)| each).product();
            let own = ALONG
                .into_iter()
                .filter(move |&each| each <= extent && so_far * each <= most.max(1));
            own.map(move |each| [&choice[..], &[(axis, each)]].concat())
        };
        choices.into_iter().flat_map(longer).collect()
    })
}

/// The loads of a fold's value.
struct Loads(Vec<Load>);

struct Load {
    /// What the index is along each axis of the tensor.
    index: Vec<Dimension>,
    /// The axes of the index, each with its extent.
    axes: Vec<(AxisId, usize)>,
    /// Whether it is known what the tensor holds.
    is_known: bool,
}

/// An index along an axis of a tensor.
enum Dimension {
    /// A sum of multiples of axes.
    Affine(Vec<(AxisId, i64)>),
    /// Something that depends on these.
    Other(BTreeSet<AxisId>),
}

impl Dimension {
    /// What it depends on.
    fn axes(&self) -> Vec<AxisId> {
        match self {
            Dimension::Affine(terms) => terms.iter().map(|(axis, _)| *axis).collect(),
            Dimension::Other(axes) => axes.iter().copied().collect(),
        }
    }
}

impl Loads {
    fn below(draft: &Draft, value: ExprId) -> Loads {
        let dimension = |&at: &ExprId| match affine(&draft.source, at) {
            Some(sum) => Dimension::Affine(sum.terms),
            None => Dimension::Other(draft.free(at)),
        };
        let load = |id| match draft.source.get(id) {
            Expr::Load { buffer, index, .. } => {
                let index: Vec<Dimension> = index.iter().map(dimension).collect();
                let axes: BTreeSet<AxisId> = index.iter().flat_map(Dimension::axes).collect();
                Some(Load {
                    axes: axes.into_iter().map(|axis| (axis, draft.extent(axis))).collect(),
                    index,
                    is_known: draft.source.constants().contains_key(buffer),
                })
            }
            _ => None,
        };
        Loads(draft.below(&[value]).into_iter().filter_map(load).collect())
    }

    /// How many different elements are loaded where axes take so many values each.
    fn distinct(&self, counts: &BTreeMap<AxisId, usize>) -> usize {
        let count = |axis: &AxisId| counts.get(axis).copied().unwrap_or(1);
        let along = |dimension: &Dimension| match dimension {
            Dimension::Other(axes) => axes.iter().map(count).product(),
            Dimension::Affine(terms) => {
                let moving: Vec<(usize, i64)> = (terms.iter())
                    .map(|(axis, factor)| (count(axis), *factor))
                    .filter(|(count, _)| *count > 1)
                    .collect();
                match moving[..] {
                    [] => 1,
                    [(count, _)] => count,
                    _ => sums(&moving),
                }
            }
        };
        // Indices along two axes of a tensor that follow from one, as a pixel's line and column from its number, move together.
        let together = |load: &Load| load.axes.iter().map(|(axis, _)| count(axis)).product::<usize>();
        // What is known, at places that are all written out, are numbers in the code.
        let is_number = |load: &Load| load.is_known && load.axes.iter().all(|(axis, extent)| count(axis) == *extent);
        let distinct = |load: &Load| match is_number(load) {
            true => 0,
            false => load.index.iter().map(along).product::<usize>().min(together(load)),
        };
        self.0.iter().map(distinct).sum()
    }
}

/// How many values a sum of multiples takes.
fn sums(terms: &[(usize, i64)]) -> usize {
    let start = BTreeSet::from([0]);
    let all = terms.iter().fold(start, |sums, &(count, factor)| {
        let more = |sum: i64| (0..count as i64).map(move |at| sum + at * factor);
        sums.into_iter().flat_map(more).collect()
    });
    all.len()
}

/// One of the results that an invocation computes.
struct Point {
    /// What stands in the nest for the parallel axes.
    known: HashMap<ExprId, ExprId>,
    /// Whether it is this invocation's to store, where it may not be.
    owned: Option<ExprId>,
    sum: LocalId,
}

/// The loops for tasks over the same axes.
pub fn schedule(draft: &mut Draft, tasks: &[Task], block: &Block) -> Stmt {
    let Expr::Fold { with, over, value } = draft.source.get(block.fold).clone() else {
        unreachable!("a fold")
    };
    let dtype = draft.source.dtype(block.fold);
    let blocks: Vec<AxisId> = (block.along.iter())
        .map(|&(axis, each)| draft.axis("block", draft.extent(axis).div_ceil(each)))
        .collect();
    let (task, numbers) = draft.share(&blocks);
    let single = (tasks[0].over.iter().copied()).filter(|axis| block.along.iter().all(|(known, _)| known != axis));
    let zero = draft.int(0);
    let first = single.map(|axis| (draft.source.axis(axis), zero)).collect();
    let mut points = vec![(first, None)];
    for (&(axis, each), number) in block.along.iter().zip(numbers) {
        points = along(draft, points, axis, each, number);
    }
    let mut points: Vec<Point> = points
        .into_iter()
        .map(|(known, owned)| Point {
            known,
            owned,
            sum: draft.local(with.name(), dtype),
        })
        .collect();

    let identity = draft.exprs.constant(dtype, with.identity(dtype));
    let mut body: Vec<Stmt> = (points.iter())
        .map(|point| Stmt::Set {
            local: point.sum,
            value: identity,
        })
        .collect();
    let (around, taps) = over.split_at(over.len() - block.taps);
    let terms = terms(draft, &points, with, value, taps);
    body.extend(draft.nested(around, terms));
    for point in &mut points {
        let sum = draft.exprs.local(point.sum, dtype);
        point.known.insert(block.fold, sum);
        let mut stores: Vec<Stmt> = Vec::new();
        for task in tasks {
            let index = task
                .index
                .iter()
                .map(|&id| draft.import(&mut point.known, id))
                .collect();
            stores.push(Stmt::Store {
                buffer: task.buffer,
                index,
                value: draft.import(&mut point.known, task.value),
            });
        }
        match point.owned {
            None => body.extend(stores),
            Some(condition) => body.push(Stmt::If {
                condition,
                then: stores,
                otherwise: Vec::new(),
            }),
        }
    }
    draft.all(task, Bind::Workers, body)
}

/// The results at `each` places along an axis, from where block `number` starts.
fn along(
    draft: &mut Draft,
    points: Vec<(HashMap<ExprId, ExprId>, Option<ExprId>)>,
    axis: AxisId,
    each: usize,
    number: ExprId,
) -> Vec<(HashMap<ExprId, ExprId>, Option<ExprId>)> {
    let extent = draft.extent(axis);
    let key = draft.source.axis(axis);
    let zero = draft.int(0);
    let first = draft.mul_add(number, each, zero);
    let is_whole = extent.is_multiple_of(each);
    let last = draft.int(extent - each);
    let start = if each == extent {
        zero
    } else if is_whole {
        first
    } else {
        draft.i64(Prim::Min, first, last)
    };
    let mut all = Vec::new();
    for (known, owned) in points {
        for step in 0..each {
            let step = draft.int(step);
            let at = draft.i64(Prim::Add, start, step);
            let mut known = known.clone();
            known.insert(key, at);
            let owned = match (is_whole, owned) {
                (true, owned) => owned,
                (false, owned) => {
                    let own = draft.exprs.prim(Prim::Le, DType::Bool, &[first, at]);
                    Some(match owned {
                        Some(owned) => draft.exprs.prim(Prim::And, DType::Bool, &[owned, own]),
                        None => own,
                    })
                }
            };
            all.push((known, owned));
        }
    }
    all
}

/// One turn of the loops around: every tap in order, for every result.
fn terms(draft: &mut Draft, points: &[Point], with: Combine, value: ExprId, taps: &[AxisId]) -> Vec<Stmt> {
    let extents: Vec<usize> = taps.iter().map(|&axis| draft.extent(axis)).collect();
    let mut body = Vec::new();
    for tap in 0..extents.iter().product() {
        let at = netloom_ir::tensor::unravel(&extents, tap);
        for point in points {
            let mut known = point.known.clone();
            for (&axis, &at) in taps.iter().zip(&at) {
                let key = draft.source.axis(axis);
                known.insert(key, draft.int(at));
            }
            body.push(Stmt::Accumulate {
                local: point.sum,
                with,
                value: draft.import(&mut known, value),
            });
        }
    }
    body
}
