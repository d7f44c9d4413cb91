//! Operators that make, rearrange and measure tensors.

use netloom_ir::{DType, Scalar, Tensor, Val};

use super::Row;
use crate::formats::onnx::node::{Cx, Done, axes, axis};
use crate::formats::onnx::tensors;

pub static TABLE: &[Row] = &[
    Row("Identity", |cx| Ok(vec![cx.arg(0)?])),
    Row("Constant", constant),
    Row("ConstantOfShape", constant_of_shape),
    Row("Range", range),
    Row("EyeLike", eye_like),
    Row("Shape", shape),
    Row("Size", |cx| {
        let count = cx.arg(0)?.ty().count();
        Ok(vec![ints(cx, &[], &[count as i64])])
    }),
    Row("Reshape", reshape),
    Row("Flatten", flatten),
    Row("Squeeze", squeeze),
    Row("Unsqueeze", unsqueeze),
    Row("Transpose", transpose),
    Row("Expand", expand),
    Row("Tile", tile),
    Row("Concat", concat),
    Row("Split", split),
    Row("Slice", slice),
    Row("Pad", pad),
    Row("CenterCropPad", center_crop_pad),
    Row("Trilu", trilu),
    Row("DepthToSpace", depth_to_space),
    Row("SpaceToDepth", space_to_depth),
    Row("ReverseSequence", reverse_sequence),
    Row("Dropout", dropout),
];

/// A constant of `i64`.
pub fn ints<'g>(cx: &Cx<'_, 'g>, shape: &[usize], values: &[i64]) -> Val<'g> {
    cx.b.constant(Tensor::from_i64(shape, values))
}

fn constant<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let floats = |values: &[f64], shape: &[usize]| {
        let elements: Vec<Scalar> = values.iter().map(|&x| Scalar::Float(x)).collect();
        cx.b.constant(Tensor::from_scalars(DType::F32, shape, elements))
    };
    if let Some(tensor) = cx.tensor("value")? {
        return Ok(vec![cx.b.constant(tensor)]);
    }
    if cx.has("value_float") {
        return Ok(vec![floats(&[cx.float("value_float", 0.0)], &[])]);
    }
    if let Some(values) = cx.floats("value_floats") {
        return Ok(vec![floats(&values, &[values.len()])]);
    }
    if cx.has("value_int") {
        return Ok(vec![ints(cx, &[], &[cx.int("value_int", 0)])]);
    }
    if let Some(values) = cx.ints("value_ints") {
        return Ok(vec![ints(cx, &[values.len()], &values)]);
    }
    Err("its value is of a kind that is not supported".to_owned())
}

/// The extents that an operand gives.
fn extents(cx: &Cx<'_, '_>, place: usize) -> Result<Vec<usize>, String> {
    let given = cx.known_ints(place, "shape")?.ok_or("the shape is missing")?;
    tensors::extents(&given)
}

fn constant_of_shape<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let shape = extents(cx, 0)?;
    let value = match cx.tensor("value")? {
        Some(tensor) if tensor.count() == 1 => tensor.reshaped([]),
        Some(tensor) => return Err(format!("its value must be one number, found {}", tensor.ty())),
        None => Tensor::scalar(DType::F32, Scalar::Float(0.0)),
    };
    Ok(vec![cx.b.constant(value).broadcast(shape)])
}

fn range<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let dtype = cx.arg(0)?.dtype();
    let number = |place: usize, what: &str| -> Result<f64, String> {
        cx.known_number(place, what)?
            .ok_or_else(|| format!("the {what} is missing"))
    };
    let (start, limit, delta) = (number(0, "start")?, number(1, "limit")?, number(2, "delta")?);
    let count = ((limit - start) / delta).ceil().max(0.0);
    if !count.is_finite() || count >= 1e9 {
        return Err(format!("a range from {start} to {limit} by {delta} is too long"));
    }
    let steps = cx.b.iota(dtype, [count as usize], 0);
    Ok(vec![steps * delta + start])
}

fn eye_like<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let like = cx.arg(0)?.ty();
    let dtype = cx.dtype("dtype", like.dtype)?;
    cx.expect(like.rank() == 2, "an operand that is no matrix")?;
    let places = |axis: usize| cx.b.iota(DType::I64, like.shape.clone(), axis);
    Ok(vec![(places(0) + cx.int("k", 0) as f64).eq(places(1)).cast(dtype)])
}

fn shape<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let shape = cx.arg(0)?.shape();
    let rank = shape.len() as i64;
    let place = |name: &str, default: i64| {
        let given = cx.int(name, default);
        (if given < 0 { given + rank } else { given }).clamp(0, rank) as usize
    };
    let (start, end) = (place("start", 0), place("end", rank));
    let part: Vec<i64> = shape[start..end.max(start)]
        .iter()
        .map(|&extent| extent as i64)
        .collect();
    Ok(vec![ints(cx, &[part.len()], &part)])
}

fn reshape<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let x = cx.arg(0)?;
    let given = match cx.known_ints(1, "shape")? {
        Some(given) => given,
        None => cx.ints("shape").ok_or("the shape is missing")?,
    };
    let keeps_zero = cx.flag("allowzero", false);
    let mut shape = Vec::new();
    for (place, &extent) in given.iter().enumerate() {
        shape.push(match extent {
            0 if !keeps_zero => *x
                .shape()
                .get(place)
                .ok_or_else(|| format!("there is no axis {place} to copy"))? as i64,
            -1.. => extent,
            _ => return Err(format!("the extent {extent} is negative")),
        });
    }
    let known: i64 = shape
        .iter()
        .filter(|&&extent| extent != -1)
        .try_fold(1i64, |product, &extent| product.checked_mul(extent))
        .ok_or("the shape is too large")?;
    let open = shape.iter().filter(|&&extent| extent == -1).count();
    if open > 1 {
        return Err("more than one extent is -1".to_owned());
    }
    let count = x.ty().count() as i64;
    for extent in shape.iter_mut().filter(|extent| **extent == -1) {
        if known == 0 || count % known != 0 {
            return Err(format!("{} cannot have the shape {given:?}", x.ty()));
        }
        *extent = count / known;
    }
    Ok(vec![x.reshape(tensors::extents(&shape)?)])
}

fn flatten<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let x = cx.arg(0)?;
    let given = cx.int("axis", 1);
    let place = usize::try_from(if given < 0 { given + x.rank() as i64 } else { given });
    let place = place
        .ok()
        .filter(|&place| place <= x.rank())
        .ok_or_else(|| format!("there is no axis {given}"))?;
    let shape = x.shape();
    Ok(vec![x.reshape([
        shape[..place].iter().product::<usize>(),
        shape[place..].iter().product(),
    ])])
}

/// The axes that an attribute gave before opset 13, and an operand since.
fn given_axes(cx: &Cx<'_, '_>) -> Result<Option<Vec<i64>>, String> {
    Ok(match cx.known_ints(1, "axes")? {
        Some(given) => Some(given),
        None => cx.ints("axes"),
    })
}

fn squeeze<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let x = cx.arg(0)?;
    let axes = match given_axes(cx)? {
        Some(given) => axes(&given, x.rank())?,
        None => (0..x.rank()).filter(|&axis| x.shape()[axis] == 1).collect(),
    };
    Ok(vec![x.squeeze(axes)])
}

fn unsqueeze<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let x = cx.arg(0)?;
    let given = given_axes(cx)?.ok_or("the axes are missing")?;
    Ok(vec![x.unsqueeze(axes(&given, x.rank() + given.len())?)])
}

fn transpose<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let x = cx.arg(0)?;
    let order = match cx.ints("perm") {
        Some(given) => given
            .iter()
            .map(|&one| axis(one, x.rank()))
            .collect::<Result<Vec<_>, _>>()?,
        None => (0..x.rank()).rev().collect(),
    };
    Ok(vec![x.permute(order)])
}

fn expand<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let (x, wanted) = (cx.arg(0)?, extents(cx, 1)?);
    let shape = netloom_ir::builder::broadcast_shapes(&[x.shape(), wanted.clone()]);
    let shape = shape.ok_or_else(|| format!("{} does not broadcast with {wanted:?}", x.ty()))?;
    Ok(vec![x.broadcast(shape)])
}

fn tile<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let (x, repeats) = (cx.arg(0)?, extents(cx, 1)?);
    if repeats.len() != x.rank() {
        return Err(format!(
            "{} has {} axes, found {} repeats",
            x.ty(),
            x.rank(),
            repeats.len()
        ));
    }
    let shape = x.shape();
    let beside: Vec<usize> = shape.iter().flat_map(|&extent| [1, extent]).collect();
    let repeated: Vec<usize> = repeats
        .iter()
        .zip(&shape)
        .flat_map(|(&by, &extent)| [by, extent])
        .collect();
    let whole: Vec<usize> = repeats
        .iter()
        .zip(&shape)
        .map(|(&by, &extent)| by.saturating_mul(extent))
        .collect();
    Ok(vec![x.reshape(beside).broadcast(repeated).reshape(whole)])
}

fn concat<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let parts = cx.all()?;
    let axis = cx.axis("axis", if cx.opset < 4 { 1 } else { 0 }, parts[0].rank())?;
    Ok(vec![Val::concat(&parts, axis)])
}

fn split<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let x = cx.arg(0)?;
    let axis = cx.axis("axis", 0, x.rank())?;
    let given = match cx.known_ints(1, "split")? {
        Some(given) => Some(given),
        None => cx.ints("split"),
    };
    let extents = match given {
        Some(given) => tensors::extents(&given)?,
        None => {
            let count = cx.int("num_outputs", cx.result_count() as i64);
            let count = usize::try_from(count)
                .ok()
                .filter(|count| (1..=1 << 16).contains(count))
                .ok_or("the number of parts is missing")?;
            let (extent, part) = (x.shape()[axis], x.shape()[axis].div_ceil(count));
            (0..count)
                .map(|place| (extent.saturating_sub(place * part)).min(part))
                .collect()
        }
    };
    if extents.iter().sum::<usize>() != x.shape()[axis] {
        return Err(format!("{} does not split into {extents:?} along axis {axis}", x.ty()));
    }
    Ok(x.split(axis, &extents))
}

fn slice<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let x = cx.arg(0)?;
    let take = |place: usize, name: &str| -> Result<Option<Vec<i64>>, String> {
        Ok(match cx.known_ints(place, name)? {
            Some(given) => Some(given),
            None => cx.ints(name),
        })
    };
    let starts = take(1, "starts")?.ok_or("`starts` is missing")?;
    let ends = take(2, "ends")?.ok_or("`ends` is missing")?;
    let over = take(3, "axes")?.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = take(4, "steps")?.unwrap_or_else(|| vec![1; starts.len()]);
    if ends.len() != starts.len() || over.len() != starts.len() || steps.len() != starts.len() {
        return Err("`starts`, `ends`, `axes` and `steps` differ in length".to_owned());
    }
    let shape = x.shape();
    let (mut start, mut step, mut count) = (vec![0; x.rank()], vec![1; x.rank()], shape.clone());
    let mut turned = Vec::new();
    for (place, &given) in over.iter().enumerate() {
        let axis = axis(given, x.rank())?;
        let extent = shape[axis] as i64;
        let inside = |at: i64| if at < 0 { at.saturating_add(extent) } else { at };
        match steps[place] {
            0 => return Err("a step is 0".to_owned()),
            by @ 1.. => {
                let (from, to) = (
                    inside(starts[place]).clamp(0, extent),
                    inside(ends[place]).clamp(0, extent),
                );
                start[axis] = from.min(extent.max(1) - 1).max(0) as usize;
                step[axis] = by.min(extent.max(1)) as usize;
                count[axis] = ((to - from).max(0) as usize).div_ceil(by as usize);
            }
            by => {
                // Backwards: the same elements turned around.
                let (from, to) = (
                    inside(starts[place]).clamp(-1, extent - 1),
                    inside(ends[place]).clamp(-1, extent - 1),
                );
                let back = by.saturating_neg().min(extent.max(1)) as usize;
                count[axis] =
                    ((from - to).max(0) as usize).div_ceil(by.unsigned_abs().try_into().unwrap_or(usize::MAX));
                step[axis] = back;
                let last = from - (count[axis].max(1) as i64 - 1) * back as i64;
                start[axis] = last.max(0) as usize;
                turned.push(axis);
            }
        }
        if count[axis] == 0 {
            (start[axis], step[axis]) = (0, 1);
        }
    }
    turned.sort_unstable();
    turned.dedup();
    let part = x.slice_steps(start, step, count);
    Ok(vec![if turned.is_empty() { part } else { part.flip(turned) }])
}

fn pad<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let x = cx.arg(0)?;
    let rank = x.rank();
    let given = match cx.known_ints(1, "pads")? {
        Some(given) => given,
        None => cx
            .ints("pads")
            .or_else(|| cx.ints("paddings"))
            .ok_or("the padding is missing")?,
    };
    let over: Vec<usize> = match cx.known_ints(3, "axes")? {
        Some(given) => given.iter().map(|&one| axis(one, rank)).collect::<Result<_, _>>()?,
        None => (0..rank).collect(),
    };
    if given.len() != 2 * over.len() {
        return Err(format!(
            "{} axes need {} numbers, found {}",
            over.len(),
            2 * over.len(),
            given.len()
        ));
    }
    let (mut low, mut high) = (vec![0i64; rank], vec![0i64; rank]);
    for (place, &axis) in over.iter().enumerate() {
        (low[axis], high[axis]) = (given[place], given[place + over.len()]);
    }
    // Negative padding cuts off.
    let cut = |pads: &[i64]| -> Vec<usize> { pads.iter().map(|&pad| pad.min(0).unsigned_abs() as usize).collect() };
    let (cut_low, cut_high) = (cut(&low), cut(&high));
    let count: Option<Vec<usize>> = (x.shape().iter().zip(cut_low.iter().zip(&cut_high)))
        .map(|(&extent, (&low, &high))| extent.checked_sub(low)?.checked_sub(high))
        .collect();
    let count = count.ok_or_else(|| format!("{} is cut to nothing", x.ty()))?;
    let x = x.slice_steps(cut_low, vec![1; rank], count);
    let grow = |pads: &[i64]| -> Vec<usize> { pads.iter().map(|&pad| pad.max(0) as usize).collect() };
    let (low, high) = (grow(&low), grow(&high));
    match cx.text("mode", "constant").as_str() {
        "constant" => {
            let fill = match cx.optional(2) {
                Some(fill) => cx.known(fill, "fill")?.get(0).as_f64(),
                None => cx.float("value", 0.0),
            };
            Ok(vec![x.pad(low, high, fill)])
        }
        "edge" => reading(cx, x, &low, &high, |at, extent| at.clamp(0, extent - 1)),
        "wrap" => reading(cx, x, &low, &high, |at, extent| at.rem_euclid(extent)),
        "reflect" => reading(cx, x, &low, &high, |at, extent| {
            let period = (2 * (extent - 1)).max(1);
            let at = at.rem_euclid(period);
            if at < extent { at } else { period - at }
        }),
        other => Err(format!("the mode `{other}` is not supported")),
    }
}

/// The padded tensor whose elements are those of `x` that `place` names along each axis.
fn reading<'g>(cx: &Cx<'_, 'g>, x: Val<'g>, low: &[usize], high: &[usize], place: fn(i64, i64) -> i64) -> Done<'g> {
    let mut x = x;
    for axis in (0..x.rank()).filter(|&axis| low[axis] + high[axis] > 0) {
        let extent = x.shape()[axis];
        let count = low[axis] + extent + high[axis];
        if extent == 0 || count > 1 << 24 {
            return Err(format!("an axis of extent {extent} cannot be padded to {count}"));
        }
        let from = |at: usize| place(at as i64 - low[axis] as i64, extent as i64);
        let places: Vec<i64> = (0..count).map(from).collect();
        x = x.gather(ints(cx, &[count], &places), axis);
    }
    Ok(vec![x])
}

fn center_crop_pad<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let mut x = cx.arg(0)?;
    let wanted = extents(cx, 1)?;
    let over: Vec<usize> = match cx.ints("axes") {
        Some(given) => given.iter().map(|&one| axis(one, x.rank())).collect::<Result<_, _>>()?,
        None => (0..x.rank()).collect(),
    };
    for (&axis, &wanted) in over.iter().zip(&wanted) {
        let found = x.shape()[axis];
        if found >= wanted {
            let start = (found - wanted) / 2;
            x = x.slice(axis, start, start + wanted);
        } else {
            let (mut low, mut high) = (vec![0; x.rank()], vec![0; x.rank()]);
            low[axis] = (wanted - found) / 2;
            high[axis] = wanted - found - low[axis];
            x = x.pad(low, high, 0.0);
        }
    }
    Ok(vec![x])
}

fn trilu<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let x = cx.arg(0)?;
    cx.expect(x.rank() >= 2, "an operand without matrices")?;
    let shift = cx.known_number(1, "diagonal")?.unwrap_or(0.0);
    let matrix = x.shape()[x.rank() - 2..].to_vec();
    let places = |axis: usize| cx.b.iota(DType::I64, matrix.clone(), axis);
    // A shift beyond the matrix is one to its end.
    let shift = shift.clamp(-(1e9), 1e9);
    let distance = places(1) - places(0);
    let kept = match cx.flag("upper", true) {
        true => distance.ge(shift),
        false => distance.le(shift),
    };
    Ok(vec![kept.broadcast(x.shape()).select(x, 0.0)])
}

/// The batch, channels, height, width of a picture.
fn picture(x: Val<'_>) -> Result<[usize; 4], String> {
    <[usize; 4]>::try_from(x.shape()).map_err(|_| format!("{} is no batch of pictures", x.ty()))
}

fn depth_to_space<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let x = cx.arg(0)?;
    let [n, c, h, w] = picture(x)?;
    let by = cx.int("blocksize", 0) as usize;
    if by == 0 || by > 1 << 16 || !c.is_multiple_of(by * by) {
        return Err(format!("{c} channels are no blocks of {by}×{by}"));
    }
    let rest = c / (by * by);
    let apart = match cx.text("mode", "DCR").as_str() {
        "DCR" => x.reshape([n, by, by, rest, h, w]).permute([0, 3, 4, 1, 5, 2]),
        "CRD" => x.reshape([n, rest, by, by, h, w]).permute([0, 1, 4, 2, 5, 3]),
        other => return Err(format!("the mode `{other}` is not supported")),
    };
    Ok(vec![apart.reshape([n, rest, h * by, w * by])])
}

fn space_to_depth<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let x = cx.arg(0)?;
    let [n, c, h, w] = picture(x)?;
    let by = cx.int("blocksize", 0) as usize;
    if by == 0 || !h.is_multiple_of(by) || !w.is_multiple_of(by) {
        return Err(format!("{h}×{w} does not divide into blocks of {by}×{by}"));
    }
    let apart = x.reshape([n, c, h / by, by, w / by, by]).permute([0, 3, 5, 1, 2, 4]);
    Ok(vec![apart.reshape([n, c * by * by, h / by, w / by])])
}

fn reverse_sequence<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let (x, lengths) = (cx.arg(0)?, cx.arg(1)?);
    let (batch, time) = (cx.axis("batch_axis", 1, x.rank())?, cx.axis("time_axis", 0, x.rank())?);
    let places = cx.b.iota(DType::I64, x.shape(), time);
    let others: Vec<usize> = (0..x.rank()).filter(|&axis| axis != batch).collect();
    let lengths = lengths.cast(DType::I64).spread(&others, &x.shape());
    let turned = places.lt(lengths).select(lengths - 1.0 - places, places);
    Ok(vec![x.take_along_axis(turned, time)])
}

/// Nothing is dropped but in training, whose random choices no reference can check.
fn dropout<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let x = cx.arg(0)?;
    let training = cx.known_number(2, "mode")?.unwrap_or(0.0) != 0.0;
    let ratio = cx.known_number(1, "ratio")?.unwrap_or_else(|| cx.float("ratio", 0.5));
    cx.expect(!training || ratio == 0.0, "dropping at random, as in training,")?;
    Ok(vec![x, cx.b.full(DType::Bool, x.shape(), 1.0)])
}
