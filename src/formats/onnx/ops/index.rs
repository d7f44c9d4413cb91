//! Operators that choose elements by index, order them, or find them.

use netloom_ir::kernel::Combine;
use netloom_ir::{DType, Val};

use super::Row;
use super::shape::ints;
use crate::formats::onnx::node::{Cx, Done, axis};

pub static TABLE: &[Row] = &[
    Row("Gather", gather),
    Row("GatherElements", gather_elements),
    Row("GatherND", gather_nd),
    Row("ScatterElements", scatter_elements),
    Row("Scatter", scatter_elements),
    Row("ScatterND", scatter_nd),
    Row("OneHot", one_hot),
    Row("TopK", top_k),
    Row("NonZero", non_zero),
    Row("Compress", compress),
    Row("Unique", unique),
    Row("NonMaxSuppression", non_max_suppression),
];

/// Indices from 0: negative ones count from the end of an axis.
fn from_start<'g>(indices: Val<'g>, extent: usize) -> Val<'g> {
    let indices = indices.cast(DType::I64);
    indices.lt(0.0).select(indices + extent as f64, indices)
}

fn gather<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let x = cx.arg(0)?;
    let axis = cx.axis("axis", 0, x.rank())?;
    Ok(vec![x.gather(from_start(cx.arg(1)?, x.shape()[axis]), axis)])
}

/// The distance between neighbours along each axis in row-major order.
fn strides(shape: &[usize]) -> Vec<usize> {
    (0..shape.len())
        .map(|axis| shape[axis + 1..].iter().product())
        .collect()
}

/// For each index along `axis`, the row-major position in `shape` of the element that it names.
fn positions<'g>(indices: Val<'g>, shape: &[usize], axis: usize) -> Val<'g> {
    let strides = strides(shape);
    let parts = (0..shape.len()).map(|other| {
        let place = match other == axis {
            true => from_start(indices, shape[axis]),
            false => indices.builder().iota(DType::I64, indices.shape(), other),
        };
        place * strides[other] as f64
    });
    parts.reduce(|sum, part| sum + part).expect("an axis")
}

fn gather_elements<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let (x, indices) = (cx.arg(0)?, cx.arg(1)?);
    let axis = cx.axis("axis", 0, x.rank())?;
    cx.expect(indices.rank() == x.rank(), "an index of another rank")?;
    let flat = x.reshape([x.ty().count()]);
    Ok(vec![flat.gather(positions(indices, &x.shape(), axis), 0)])
}

/// For indices whose last axis names places along the axes of `shape` after `batch`: the row-major positions of the slices, and the
/// number of axes that are named, those of the batch included.
fn slice_positions<'g>(indices: Val<'g>, shape: &[usize], batch: usize) -> Result<(Val<'g>, usize), String> {
    let outer = indices.rank().checked_sub(1).ok_or("the indices have no axis")?;
    let named = batch.saturating_add(indices.shape()[outer]);
    if named > shape.len() || batch > outer || named > 32 {
        return Err(format!("{named} places are named in {} axes", shape.len()));
    }
    let strides = strides(&shape[..named]);
    let b = indices.builder();
    let mut sum = b.full(DType::I64, &indices.shape()[..outer], 0.0);
    for (axis, &stride) in strides.iter().enumerate() {
        let place = match axis.checked_sub(batch) {
            None => b.iota(DType::I64, &indices.shape()[..outer], axis),
            Some(part) => from_start(indices.slice(outer, part, part + 1).squeeze([outer]), shape[axis]),
        };
        sum = sum + place * stride as f64;
    }
    Ok((sum, named))
}

fn gather_nd<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let (x, indices) = (cx.arg(0)?, cx.arg(1)?);
    let shape = x.shape();
    let batch = usize::try_from(cx.int("batch_dims", 0)).map_err(|_| "`batch_dims` is negative")?;
    let (places, named) = slice_positions(indices, &shape, batch)?;
    let rows = x.reshape([&[shape[..named].iter().product()], &shape[named..]].concat());
    Ok(vec![rows.gather(places, 0)])
}

fn combine(cx: &Cx<'_, '_>) -> Result<Option<Combine>, String> {
    match cx.text("reduction", "none").as_str() {
        "none" => Ok(None),
        "add" => Ok(Some(Combine::Sum)),
        "mul" => Ok(Some(Combine::Product)),
        "max" => Ok(Some(Combine::Max)),
        "min" => Ok(Some(Combine::Min)),
        other => Err(format!("the reduction `{other}` is not supported")),
    }
}

fn scatter_elements<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let (x, indices, updates) = (cx.arg(0)?, cx.arg(1)?, cx.arg(2)?);
    let axis = cx.axis("axis", 0, x.rank())?;
    let shape = x.shape();
    cx.expect(
        indices.shape() == updates.shape() && indices.rank() == x.rank(),
        "an index of another shape than the updates",
    )?;
    let count = indices.ty().count();
    let places = positions(indices, &shape, axis).reshape([count]);
    let flat = x.reshape([x.ty().count()]);
    Ok(vec![
        flat.scatter(places, updates.reshape([count]), 0, combine(cx)?)
            .reshape(shape),
    ])
}

fn scatter_nd<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let (x, indices, updates) = (cx.arg(0)?, cx.arg(1)?, cx.arg(2)?);
    let shape = x.shape();
    let (places, named) = slice_positions(indices, &shape, 0)?;
    let count = places.ty().count();
    let row = &shape[named..];
    let rows = x.reshape([&[shape[..named].iter().product()], row].concat());
    let updates = updates.reshape([&[count], row].concat());
    Ok(vec![
        rows.scatter(places.reshape([count]), updates, 0, combine(cx)?)
            .reshape(shape),
    ])
}

fn one_hot<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let (indices, values) = (cx.arg(0)?, cx.arg(2)?);
    let depth = cx.known_number(1, "depth")?.ok_or("the depth is missing")?;
    cx.expect((0.0..1e9).contains(&depth), "a depth outside 0 to 10⁹")?;
    let depth = depth as usize;
    let place = axis(cx.int("axis", -1), indices.rank() + 1)?;
    let (off, on) = (values.slice(0, 0, 1).reshape([]), values.slice(0, 1, 2).reshape([]));
    let mut shape = indices.shape();
    shape.insert(place, depth);
    let wanted = from_start(indices, depth).spread(&[place], &shape);
    let hit = cx.b.iota(DType::I64, shape, place).eq(wanted);
    Ok(vec![hit.select(on, off)])
}

fn top_k<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let x = cx.arg(0)?;
    let axis = cx.axis("axis", -1, x.rank())?;
    let count = cx.known_number(1, "count")?.unwrap_or(cx.int("k", 0) as f64) as usize;
    cx.expect(count <= x.shape()[axis], "a count beyond the axis")?;
    let order = x.argsort(axis, cx.flag("largest", true)).slice(axis, 0, count);
    Ok(vec![x.take_along_axis(order, axis), order])
}

/// Operators whose result has a shape that depends on values, on known values.
fn listed<'g>(cx: &Cx<'_, 'g>, shape: &[usize], values: Vec<usize>) -> Val<'g> {
    let values: Vec<i64> = values.into_iter().map(|value| value as i64).collect();
    ints(cx, shape, &values)
}

fn non_zero<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let x = cx.known(cx.arg(0)?, "operand")?;
    let found: Vec<Vec<usize>> = (0..x.count())
        .filter(|&at| x.get(at).is_nonzero())
        .map(|at| netloom_ir::tensor::unravel(x.shape(), at))
        .collect();
    let rank = x.shape().len();
    let by_axis = (0..rank)
        .flat_map(|axis| found.iter().map(move |index| index[axis]))
        .collect();
    Ok(vec![listed(cx, &[rank, found.len()], by_axis)])
}

fn compress<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let x = cx.arg(0)?;
    let chosen = cx.known(cx.arg(1)?, "condition")?;
    let places: Vec<usize> = (0..chosen.count()).filter(|&at| chosen.get(at).is_nonzero()).collect();
    let (x, axis) = match cx.has("axis") {
        true => (x, cx.axis("axis", 0, x.rank())?),
        false => (x.reshape([x.ty().count()]), 0),
    };
    cx.expect(
        places.iter().all(|&place| place < x.shape()[axis]),
        "a condition beyond the axis",
    )?;
    Ok(vec![x.gather(listed(cx, &[places.len()], places), axis)])
}

fn unique<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let val = cx.arg(0)?;
    let (val, axis) = match cx.has("axis") {
        true => (val, cx.axis("axis", 0, val.rank())?),
        false => (val.reshape([val.ty().count()]), 0),
    };
    let x = cx.known(val, "operand")?;
    let shape = x.shape();
    let (outer, extent): (usize, usize) = (shape[..axis].iter().product(), shape[axis]);
    let inner: usize = shape[axis + 1..].iter().product();
    let key = |entry: usize| -> Vec<f64> {
        let row = |before: usize| (0..inner).map(move |after| (before * extent + entry) * inner + after);
        (0..outer).flat_map(row).map(|at| x.get(at).as_f64()).collect()
    };
    let keys: Vec<Vec<f64>> = (0..extent).map(key).collect();
    let order = |a: usize, b: usize| {
        let pairs = keys[a].iter().zip(&keys[b]).map(|(a, b)| a.total_cmp(b));
        pairs.fold(std::cmp::Ordering::Equal, std::cmp::Ordering::then)
    };
    // The first entry of each kind.
    let mut firsts: Vec<usize> = Vec::new();
    let mut kind_of: Vec<usize> = Vec::new();
    let mut by_key: Vec<usize> = (0..extent).collect();
    by_key.sort_by(|&a, &b| order(a, b).then(a.cmp(&b)));
    let mut first_of = vec![0; extent];
    for (place, &entry) in by_key.iter().enumerate() {
        let same = place > 0 && order(by_key[place - 1], entry).is_eq();
        first_of[entry] = if same { first_of[by_key[place - 1]] } else { entry };
        if !same {
            firsts.push(entry);
        }
    }
    if !cx.flag("sorted", true) {
        firsts.sort_unstable();
    }
    for &first in &first_of {
        kind_of.push(
            firsts
                .iter()
                .position(|&known| known == first)
                .expect("each entry has a kind"),
        );
    }
    let counts = (0..firsts.len())
        .map(|kind| kind_of.iter().filter(|&&other| other == kind).count())
        .collect();
    let count = firsts.len();
    Ok(vec![
        val.gather(listed(cx, &[count], firsts.clone()), axis),
        listed(cx, &[count], firsts),
        listed(cx, &[extent], kind_of),
        listed(cx, &[count], counts),
    ])
}

fn non_max_suppression<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let boxes = cx.known(cx.arg(0)?, "boxes")?;
    let scores = cx.known(cx.arg(1)?, "scores")?;
    let most = cx.known_number(2, "greatest number of boxes")?.unwrap_or(0.0) as usize;
    let overlap = cx.known_number(3, "greatest overlap")?.unwrap_or(0.0);
    let least = cx.known_number(4, "least score")?;
    let (&[batches, count, 4], &[_, classes, _]) = (boxes.shape(), scores.shape()) else {
        return Err(format!("boxes {} and scores {} do not fit", boxes.ty(), scores.ty()));
    };
    if scores.shape() != [batches, classes, count] {
        return Err(format!("boxes {} and scores {} do not fit", boxes.ty(), scores.ty()));
    }
    let centred = cx.flag("center_point_box", false);
    // Two opposite corners, in order.
    let corners = |batch: usize, at: usize| -> [f64; 4] {
        let [a, b, c, d] = [0, 1, 2, 3].map(|part| boxes.at(&[batch, at, part]).as_f64());
        match centred {
            true => [b - d / 2.0, a - c / 2.0, b + d / 2.0, a + c / 2.0],
            false => [a.min(c), b.min(d), a.max(c), b.max(d)],
        }
    };
    let area = |corner: [f64; 4]| (corner[2] - corner[0]) * (corner[3] - corner[1]);
    let shared = |a: [f64; 4], b: [f64; 4]| {
        let side = |axis: usize| (a[axis + 2].min(b[axis + 2]) - a[axis].max(b[axis])).max(0.0);
        let both = side(0) * side(1);
        both / (area(a) + area(b) - both)
    };
    let mut chosen = Vec::new();
    for batch in 0..batches {
        for class in 0..classes {
            let score = |at: usize| scores.at(&[batch, class, at]).as_f64();
            let mut order: Vec<usize> = (0..count)
                .filter(|&at| least.is_none_or(|least| score(at) > least))
                .collect();
            order.sort_by(|&a, &b| score(b).total_cmp(&score(a)));
            let mut kept: Vec<usize> = Vec::new();
            for at in order {
                if kept.len() < most
                    && kept
                        .iter()
                        .all(|&other| shared(corners(batch, at), corners(batch, other)) <= overlap)
                {
                    kept.push(at);
                    chosen.extend([batch, class, at]);
                }
            }
        }
    }
    Ok(vec![listed(cx, &[chosen.len() / 3, 3], chosen)])
}
