//! Products that a GPU leaves to a shader written by hand (`shaders/product.comp`), where that is faster than a generated kernel: of matrices, and
//! convolutions with both of their gradients, whose matrices are gathered from the image as they are read. Of halves, where that was asked for, to its
//! cooperative matrices.
//!
//! Such a product is a phase of its own: what is computed from it reads it from scratch. The shader reads four neighbouring elements at
//! a time where operands are contiguous along one of their axes, and start and go on at multiples of four.

use std::cmp::Reverse;

use netloom_ir::DType;
use netloom_ir::Target;
use netloom_ir::kernel::index::{Affine, affine, is_within};
use netloom_ir::kernel::nest::FOUR;
use netloom_ir::kernel::{Along, AxisId, BufferId, Expr, ExprId, Limit, Matrix, Prim, Product, Strides};
use netloom_ir::target::Matrices;

use super::draft::{Draft, Task};
use super::registers::Block;

/// The columns that a group computes, and the most rows.
const COLUMNS: usize = 32;
const MOST_ROWS: usize = 16;
/// Fewer tiles than this leave the device idle.
const FEW_TILES: usize = 8;
/// The most axes that columns and depths stand for, and the most limits.
const MOST_AXES: usize = 3;
const MOST_LIMITS: usize = 2;

/// Nanoseconds, measured on lavapipe, for a step of a tile's sum: to read elements, one or four at once, for every invocation; to find out whether
/// they lie within limits; to multiply and add a row. To write an element, more than a generated kernel takes; to write it to scratch and read it
/// again; for a dispatch.
const FETCH: f64 = 8.2;
const LIMITED: f64 = 10.0;
const ROW: f64 = 1.44;
const STORED: f64 = 3.0;
const STAGED: f64 = 4.0;
const DISPATCH: f64 = 18e3;
/// A generated kernel's nanoseconds for one of the cycles that [`Block::cost`] counts, an eighth of a subgroup's: so that the shader is taken where
/// `shaders/ahead.rs` finds it ahead, and not for convolutions whose taps share what a generated kernel reads.
const CYCLE: f64 = 0.018;

/// A fold that is better computed by the shader; with what to tell it, if it is the only thing that is stored. Otherwise it is to be staged.
pub fn find(draft: &mut Draft, tasks: &[Task], folds: &[ExprId], target: &Target) -> Option<(ExprId, Option<Product>)> {
    if target.product_bytes == 0 && target.matrices.is_none() {
        return None;
    }
    folds.iter().find_map(|&fold| match tasks {
        [task] if task.value == fold => {
            let stored = draft.address(task.buffer, &task.index)?;
            let product = of(draft, fold, task.buffer, &stored, 0.0, target)?;
            Some((fold, Some(product)))
        }
        _ => {
            let stored = staged(draft, fold);
            of(draft, fold, tasks[0].buffer, &stored, 1.0, target).map(|_| (fold, None))
        }
    })
}

/// Where the elements of a fold lie in scratch of its own.
fn staged(draft: &Draft, fold: ExprId) -> Affine {
    let mut stride = 1;
    let terms = draft.free(fold).into_iter().rev().map(|axis| {
        let term = (axis, stride as i64);
        stride *= draft.extent(axis);
        term
    });
    let mut terms: Vec<_> = terms.collect();
    terms.reverse();
    Affine { terms, constant: 0 }
}

/// What is multiplied: an element of a tensor, 0 outside of it.
struct Factor {
    buffer: BufferId,
    address: Affine,
    /// The indices that may lie outside: extent and stride of their axes.
    limits: Vec<(usize, usize, Affine)>,
}

impl Factor {
    fn of(draft: &mut Draft, id: ExprId) -> Option<Factor> {
        // Halves are multiplied in `f32`.
        let id = match draft.source.get(id) {
            Expr::Prim(Prim::Cast, DType::F32, args) if draft.source.dtype(args[0]) == DType::F16 => args[0],
            _ => id,
        };
        let Expr::Load { buffer, index, guarded } = draft.source.get(id).clone() else {
            return None;
        };
        let address = draft.address(buffer, &index)?;
        let mut limits = Vec::new();
        let mut stride = 1;
        let shape = draft.buffers[buffer.at()].ty.shape.clone();
        for (&at, extent) in index.iter().zip(shape).rev() {
            if guarded && !is_within(&draft.source, at, extent) {
                limits.push((extent, stride, affine(&draft.source, at)?));
            }
            stride *= extent;
        }
        Some(Factor {
            buffer,
            address,
            limits,
        })
    }
}

/// What makes a fold a product whose elements are `stored` in a buffer, `stagings` times.
fn of(
    draft: &mut Draft,
    fold: ExprId,
    buffer: BufferId,
    stored: &Affine,
    stagings: f64,
    target: &Target,
) -> Option<Product> {
    let (over, args) = draft.factors(fold).filter(|_| draft.source.dtype(fold) == DType::F32)?;
    let (x, y) = (Factor::of(draft, args[0])?, Factor::of(draft, args[1])?);
    let of_halves = match [x.buffer, y.buffer].map(|buffer| draft.buffers[buffer.at()].ty.dtype) {
        [DType::F16, DType::F16] => Some(target.matrices?),
        [DType::F32, DType::F32] => None,
        _ => return None,
    };
    let most_bytes = of_halves.map_or(target.product_bytes, |matrices| matrices.bytes);
    let fits = |buffer: BufferId| draft.buffers[buffer.at()].ty.len_bytes() <= most_bytes;
    if x.buffer == y.buffer || ![x.buffer, y.buffer, buffer].into_iter().all(fits) {
        return None;
    }
    let mut results: Vec<AxisId> = draft.free(fold).into_iter().collect();
    results.sort_by_key(|&axis| Reverse(stored.factor(axis).abs()));
    let ways = [(&x, &y), (&y, &x)].into_iter();
    let mut products =
        ways.filter_map(|(left, right)| multiplied(draft, (left, right), &results, &over, (buffer, stored)));
    if let Some(matrices) = of_halves {
        return products.find_map(|product| in_matrices(draft, product, matrices));
    }
    let products = products.filter_map(best_rows);
    let (cost, product) = products.min_by(|(one, _), (other, _)| one.total_cmp(other))?;
    let elements = draft.count(&results) as f64;
    let cost = cost + stagings * (DISPATCH + STAGED * elements) + STORED * elements;
    let alone = Task {
        buffer,
        over: results,
        index: Vec::new(),
        value: fold,
    };
    let generated = Block::of(draft, &[alone], &[fold], target)?.cost as f64 * CYCLE;
    (tiles(&product) >= FEW_TILES && cost <= generated).then_some(product)
}

/// The product of a matrix, whose rows are the first axis of the result, and another one.
fn multiplied(
    draft: &Draft,
    (left, right): (&Factor, &Factor),
    results: &[AxisId],
    over: &[AxisId],
    (buffer, stored): (BufferId, &Affine),
) -> Option<Product> {
    if !left.limits.is_empty() || right.limits.len() > MOST_LIMITS {
        return None;
    }
    let limits = right.limits.iter().map(|(_, _, index)| index);
    let sums: Vec<&Affine> = [&left.address, &right.address, stored]
        .into_iter()
        .chain(limits)
        .collect();
    let part = |axes: &[AxisId], in_left: bool, in_right: bool| {
        let own = axes.iter().copied().filter(|&axis| {
            let has = |sum: &&Affine| sum.factor(axis) != 0;
            draft.extent(axis) > 1
                && has(&sums[0]) == in_left
                && (has(&sums[1]) || sums[3..].iter().any(has)) == in_right
        });
        Joint::all(draft, &own.collect::<Vec<_>>(), &sums)
    };
    let (batch, rows) = (part(results, true, true), part(results, true, false));
    let (columns, depth) = (part(results, false, true), part(over, true, true));
    let count = |joints: &[Joint]| joints.iter().map(|joint| joint.extent).product::<usize>();
    let all = count(&batch) * count(&rows) * count(&columns) * count(&depth);
    let fits = batch.len() <= 1 && rows.len() <= 1 && columns.len() <= MOST_AXES && depth.len() <= MOST_AXES;
    if all != draft.count(results) * draft.count(over) || !fits {
        return None;
    }
    // Of each group of axes there is one at least.
    let [batch, rows, columns, depth] = [batch, rows, columns, depth].map(|joints| match joints.is_empty() {
        true => vec![Joint::single(sums.len())],
        false => joints,
    });
    let extents = |joints: &[Joint]| joints.iter().map(|joint| joint.extent).collect::<Vec<_>>();
    let place = |sum: usize, first: &[Joint], second: &[Joint]| Strides {
        start: sums[sum].constant,
        batch: batch[0].strides[sum],
        first: first.iter().map(|joint| joint.strides[sum]).collect(),
        second: second.iter().map(|joint| joint.strides[sum]).collect(),
    };
    let matrix = |buffer: BufferId, place: Strides| Matrix {
        buffer,
        place,
        fours: None,
    };
    let mut product = Product {
        batch: batch[0].extent,
        rows: rows[0].extent,
        columns: extents(&columns),
        depth: extents(&depth),
        tile_rows: 0,
        a: matrix(left.buffer, place(0, &rows, &depth)),
        b: matrix(right.buffer, place(1, &depth, &columns)),
        limits: (right.limits.iter().zip(3..))
            .map(|(&(extent, stride, _), sum)| Limit {
                extent,
                stride,
                place: place(sum, &depth, &columns),
            })
            .collect(),
        c: matrix(buffer, place(2, &rows, &columns)),
    };
    if product.depth.len() == 1 && product.depth[0].is_multiple_of(FOUR) {
        let by_fours = |side: &Matrix, firsts: &[usize], seconds: &[usize]| {
            // Tensors that are so many elements begin at multiples of four, wherever they lie: the planner aligns them to that.
            let is_aligned = draft.buffers[side.buffer.at()].ty.count().is_multiple_of(FOUR);
            let mut ways = [Along::Second, Along::First].into_iter();
            ways.find(|&along| is_aligned && side.has_fours(along, (firsts, seconds)))
        };
        product.a.fours = by_fours(&product.a, &[product.rows], &product.depth);
        if product.a.fours.is_some() && product.limits.is_empty() {
            product.b.fours = by_fours(&product.b, &product.depth, &product.columns);
        }
    }
    Some(product)
}

/// The product of halves by cooperative matrices, if it is made of whole ones. Who asked for them wants them, whatever they cost.
fn in_matrices(draft: &Draft, product: Product, matrices: Matrices) -> Option<Product> {
    let Product {
        rows,
        columns,
        depth,
        a,
        b,
        c,
        limits,
        ..
    } = &product;
    let ([columns], [depth]) = (&columns[..], &depth[..]) else {
        return None;
    };
    let is_whole = rows.is_multiple_of(matrices.rows)
        && columns.is_multiple_of(matrices.columns)
        && depth.is_multiple_of(matrices.depth);
    // Vulkan wants lines of a matrix, contiguous along one of its axes, at multiples of 16 bytes; the planner places so tensors that are as large.
    let is_aligned = |side: &Matrix, along_first: bool| {
        let ty = &draft.buffers[side.buffer.at()].ty;
        let sixteen = 16 / ty.dtype.size_bytes();
        let Strides {
            start,
            batch,
            first,
            second,
        } = &side.place;
        let others = match (first[0], second[0]) {
            (other, 1) => [*start, *batch, other],
            (1, other) if along_first => [*start, *batch, other],
            _ => return false,
        };
        ty.count().is_multiple_of(sixteen) && others.iter().all(|stride| stride % sixteen as i64 == 0)
    };
    let fits = limits.is_empty() && is_whole && is_aligned(a, true) && is_aligned(b, true) && is_aligned(c, false);
    fits.then(|| Product {
        tile_rows: matrices.rows,
        a: Matrix {
            fours: None,
            ..a.clone()
        },
        b: Matrix {
            fours: None,
            ..b.clone()
        },
        ..product.clone()
    })
}

/// The number of tiles.
fn tiles(product: &Product) -> usize {
    let columns: usize = product.columns.iter().product();
    product.batch * product.rows.div_ceil(product.tile_rows) * columns.div_ceil(COLUMNS)
}

/// The product in the cheapest tiles, and what it takes.
fn best_rows(product: Product) -> Option<(f64, Product)> {
    let is_along_rows = product.a.fours == Some(Along::First);
    let heights = (1..=MOST_ROWS.min(product.rows)).filter(|height| !is_along_rows || height.is_multiple_of(FOUR));
    let steps = product.depth.iter().product::<usize>() as f64;
    let costs = heights.map(|tile_rows| {
        let product = Product {
            tile_rows,
            ..product.clone()
        };
        let eights = tile_rows.div_ceil(8) as f64;
        let read_of_a = match product.a.fours {
            Some(Along::First) => 0.5,
            Some(Along::Second) => eights / 4.0,
            None => eights,
        };
        let read_of_b = if product.b.fours.is_some() { 1.0 } else { 4.0 };
        let limited = if product.limits.is_empty() { 0.0 } else { LIMITED };
        let step = FETCH * (read_of_a + read_of_b) + limited + ROW * tile_rows as f64;
        (tiles(&product) as f64 * steps * step, product)
    });
    costs.min_by(|(one, _), (other, _)| one.total_cmp(other))
}

/// Axes that are one: each of some sums goes on along them by one stride.
struct Joint {
    extent: usize,
    /// In each of the sums.
    strides: Vec<i64>,
}

impl Joint {
    /// What has one value.
    fn single(sums: usize) -> Joint {
        Joint {
            extent: 1,
            strides: vec![0; sums],
        }
    }

    /// The axes, outermost first, as few as they are.
    fn all(draft: &Draft, axes: &[AxisId], sums: &[&Affine]) -> Vec<Joint> {
        let mut joints: Vec<Joint> = Vec::new();
        for &axis in axes {
            let extent = draft.extent(axis);
            let strides: Vec<i64> = sums.iter().map(|sum| sum.factor(axis)).collect();
            match joints.last_mut() {
                Some(outer)
                    if (outer.strides.iter().zip(&strides)).all(|(outer, inner)| *outer == inner * extent as i64) =>
                {
                    *outer = Joint {
                        extent: outer.extent * extent,
                        strides,
                    };
                }
                _ => joints.push(Joint { extent, strides }),
            }
        }
        joints
    }
}
