//! Matrix products that a GPU leaves to a shader written by hand (`shaders/product.comp`), where that is faster than a generated kernel.
//!
//! Such a product is a phase of its own: what is computed from it reads it from scratch. The shader reads four neighbouring elements at
//! a time, so operands must be contiguous along one of their axes, and start and go on at multiples of four.

use netloom_ir::DType;
use netloom_ir::Target;
use netloom_ir::kernel::index::Affine;
use netloom_ir::kernel::{AxisId, BufferId, Combine, Expr, ExprId, Matrix, Prim, Product};

use super::draft::{Draft, Task};
use super::registers;

/// The columns that a group computes, and the most rows.
const COLUMNS: usize = 32;
const MOST_ROWS: usize = 16;
/// Fewer tiles than this leave the device idle.
const FEW_TILES: usize = 8;
/// Elements read at once.
const QUAD: usize = 4;

/// Nanoseconds, measured on lavapipe: to read the operands of a tile for four steps of the sum, and for these steps of one row of it; to write an
/// element to scratch and read it again; for a dispatch.
const READ: f64 = 49.0;
const ROW: f64 = 5.75;
const STAGED: f64 = 4.0;
const DISPATCH: f64 = 18e3;
/// A generated kernel's nanoseconds for one of the cycles that [`registers`] counts, an eighth of a subgroup's.
const CYCLE: f64 = 0.0242;

/// A fold that is better computed by the shader; with what to tell it, if it is the only thing that is stored. Otherwise it is to be staged.
pub fn find(draft: &mut Draft, tasks: &[Task], folds: &[ExprId], target: &Target) -> Option<(ExprId, Option<Product>)> {
    if target.product_bytes == 0 {
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

/// What makes a fold a product whose elements are `stored` in a buffer, `stagings` times.
fn of(
    draft: &mut Draft,
    fold: ExprId,
    buffer: BufferId,
    stored: &Affine,
    stagings: f64,
    target: &Target,
) -> Option<Product> {
    let Expr::Fold {
        with: Combine::Sum,
        over,
        value,
    } = draft.source.get(fold).clone()
    else {
        return None;
    };
    let Expr::Prim(Prim::Mul, DType::F32, args) = draft.source.get(value).clone() else {
        return None;
    };
    let (x, y) = (draft.load_address(args[0])?, draft.load_address(args[1])?);
    let fits = |buffer: BufferId| draft.buffers[buffer.at()].ty.len_bytes() <= target.product_bytes;
    let starts = [&x.1, &y.1, stored].iter().all(|address| address.constant == 0);
    if x.0 == y.0 || !starts || ![x.0, y.0, buffer].into_iter().all(fits) {
        return None;
    }
    let mut results: Vec<AxisId> = draft.free(fold).into_iter().collect();
    results.sort_by_key(|&axis| std::cmp::Reverse(stored.factor(axis)));
    let mut best: Option<(f64, Product)> = None;
    for (left, right) in [(&x, &y), (&y, &x)] {
        let part = |axes: &[AxisId], in_left: bool, in_right: bool| {
            let has = |address: &Affine, axis| address.factor(axis) != 0;
            let own = axes.iter().copied().filter(|&axis| {
                draft.extent(axis) > 1 && has(&left.1, axis) == in_left && has(&right.1, axis) == in_right
            });
            Joint::of(draft, &own.collect::<Vec<_>>(), [&left.1, &right.1, stored])
        };
        let (Some(batch), Some(rows), Some(columns), Some(depth)) = (
            part(&results, true, true),
            part(&results, true, false),
            part(&results, false, true),
            part(&over, true, true),
        ) else {
            continue;
        };
        let all: usize = [&batch, &rows, &columns, &depth]
            .iter()
            .map(|joint| joint.extent)
            .product();
        if all != draft.count(&results) * draft.count(&over) {
            continue;
        }
        let matrix = |side: usize, buffer: BufferId, first: &Joint, second: &Joint| Matrix {
            buffer,
            batch: batch.strides[side],
            first: first.strides[side],
            second: second.strides[side],
        };
        let a = matrix(0, left.0, &rows, &depth);
        let b = matrix(1, right.0, &depth, &columns);
        let is_along_rows = a.second != 1;
        if !depth.extent.is_multiple_of(QUAD)
            || !in_quads(&a, (rows.extent, depth.extent))
            || !in_quads(&b, (depth.extent, columns.extent))
        {
            continue;
        }
        let steps = (depth.extent / QUAD) as f64;
        let side_by_side = batch.extent * columns.extent.div_ceil(COLUMNS);
        let cost = |height: usize| {
            let tiles = (side_by_side * rows.extent.div_ceil(height)) as f64;
            tiles * steps * (READ + ROW * height as f64)
        };
        let heights = (1..=MOST_ROWS.min(rows.extent)).filter(|height| !is_along_rows || height.is_multiple_of(QUAD));
        let Some(tile_rows) = heights.min_by(|&one, &other| cost(one).total_cmp(&cost(other))) else {
            continue;
        };
        let after = stagings * (DISPATCH + STAGED * draft.count(&results) as f64);
        let cost = cost(tile_rows) + after;
        let is_few = side_by_side * rows.extent.div_ceil(tile_rows) < FEW_TILES;
        if is_few
            || cost > generated(rows.extent, columns.extent) * all as f64
            || best.as_ref().is_some_and(|(least, _)| *least <= cost)
        {
            continue;
        }
        let product = Product {
            batch: batch.extent,
            rows: rows.extent,
            columns: columns.extent,
            depth: depth.extent,
            tile_rows,
            a,
            b,
            c: matrix(2, buffer, &rows, &columns),
        };
        best = Some((cost, product));
    }
    best.map(|(_, product)| product)
}

/// What a term of a sum takes in a generated kernel, measured with blocks of up to 16 by 16 results; smaller ones take as long on lavapipe.
fn generated(rows: usize, columns: usize) -> f64 {
    let [rows, columns] = [rows, columns].map(|extent| extent.min(16) as f64);
    CYCLE * (registers::LOAD as f64 * (1.0 / rows + 1.0 / columns) + registers::TERM as f64)
}

/// Whether four neighbours along one axis can be read at once.
fn in_quads(side: &Matrix, (first, second): (usize, usize)) -> bool {
    let along = |extent: usize, stride: usize, across: usize| {
        stride == 1
            && [extent, across, side.batch]
                .iter()
                .all(|count| count.is_multiple_of(QUAD))
    };
    along(second, side.second, side.first) || along(first, side.first, side.second)
}

/// Axes that are one: in memory they follow each other everywhere.
struct Joint {
    extent: usize,
    /// In each of the operands and the result.
    strides: [usize; 3],
}

impl Joint {
    /// The axes, outermost first.
    fn of(draft: &Draft, axes: &[AxisId], addresses: [&Affine; 3]) -> Option<Joint> {
        let stride = |address: &Affine, axis: AxisId| usize::try_from(address.factor(axis)).ok();
        let Some((&inner, outer)) = axes.split_last() else {
            return Some(Joint {
                extent: 1,
                strides: [0; 3],
            });
        };
        let mut strides = [0; 3];
        for (place, address) in addresses.into_iter().enumerate() {
            strides[place] = stride(address, inner)?;
        }
        let mut extent = draft.extent(inner);
        for &axis in outer.iter().rev() {
            for (place, address) in addresses.into_iter().enumerate() {
                if stride(address, axis)? != strides[place] * extent {
                    return None;
                }
            }
            extent *= draft.extent(axis);
        }
        Some(Joint { extent, strides })
    }
}
