//! Operators that read between elements: resizing, and sampling at given places.

use netloom_ir::{DType, Scalar, Tensor, Val};

use super::Row;
use super::linear::{Reach, spatial, with_bias};
use super::shape::ints;
use crate::formats::onnx::node::{Cx, Done, axis};
use crate::formats::onnx::tensors;

pub static TABLE: &[Row] = &[
    Row("Resize", resize),
    Row("Upsample", resize),
    Row("GridSample", grid_sample),
    Row("AffineGrid", affine_grid),
    Row("RoiAlign", roi_align),
    Row("DeformConv", deform_conv),
];

/// What an output element along one axis is: a weighted sum of elements, or nothing of them.
struct Taps {
    /// For each output element, the same number of places and weights.
    rows: Vec<Vec<(i64, f64)>>,
    /// Whether the place asked for is outside, so that a given value stands there.
    outside: Vec<bool>,
}

/// How to resize one axis.
struct Resizing {
    extent: usize,
    wanted: usize,
    /// The extent wanted before it was rounded, which coordinates go by.
    length: f64,
    scale: f64,
    /// The part of the axis that is shown, for `tf_crop_and_resize`.
    region: (f64, f64),
}

impl Resizing {
    /// The place on the operand of an element of the result.
    fn place(&self, coordinates: &str, at: usize) -> Result<f64, String> {
        let (extent, wanted, at) = (self.extent as f64, self.length, at as f64);
        Ok(match coordinates {
            "half_pixel" => (at + 0.5) / self.scale - 0.5,
            "half_pixel_symmetric" => {
                let adjustment = self.wanted as f64 / (self.scale * extent);
                extent / 2.0 * (1.0 - adjustment) + (at + 0.5) / self.scale - 0.5
            }
            "pytorch_half_pixel" if wanted > 1.0 => (at + 0.5) / self.scale - 0.5,
            "align_corners" if wanted > 1.0 => at * (extent - 1.0) / (wanted - 1.0),
            "pytorch_half_pixel" | "align_corners" => 0.0,
            "asymmetric" => at / self.scale,
            "tf_half_pixel_for_nn" => (at + 0.5) / self.scale,
            "tf_crop_and_resize" => {
                let (start, end) = self.region;
                match wanted > 1.0 {
                    true => start * (extent - 1.0) + at * (end - start) * (extent - 1.0) / (wanted - 1.0),
                    false => 0.5 * (start + end) * (extent - 1.0),
                }
            }
            other => return Err(format!("the coordinates `{other}` are not supported")),
        })
    }
}

/// The cubic convolution kernel (R. Keys, 1981).
fn cubic(distance: f64, a: f64) -> f64 {
    let x = distance.abs();
    match x {
        _ if x <= 1.0 => ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0,
        _ if x < 2.0 => ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a,
        _ => 0.0,
    }
}

fn taps(cx: &Cx<'_, '_>, axis: &Resizing, default_coordinates: &str) -> Result<Taps, String> {
    let coordinates = cx.text("coordinate_transformation_mode", default_coordinates);
    let mode = cx.text("mode", "nearest");
    let nearest = cx.text(
        "nearest_mode",
        if cx.opset < 11 { "floor" } else { "round_prefer_floor" },
    );
    let a = cx.float("cubic_coeff_a", -0.75);
    let (exclude, smooth) = (cx.flag("exclude_outside", false), cx.flag("antialias", false));
    let last = axis.extent as i64 - 1;
    let mut result = Taps {
        rows: Vec::new(),
        outside: Vec::new(),
    };
    for at in 0..axis.wanted {
        let place = axis.place(&coordinates, at)?;
        let is_outside = coordinates == "tf_crop_and_resize" && !(0.0..=last as f64).contains(&place);
        let floor = place.floor();
        let narrow = if smooth { axis.scale.min(1.0) } else { 1.0 };
        let spread = |reach: f64, weight: &dyn Fn(f64) -> f64| -> Vec<(i64, f64)> {
            let first = (-reach / narrow).floor() as i64 + 1;
            let row = (first..=1 - first).map(|step| {
                let distance = (step as f64 - (place - floor)) * narrow;
                (floor as i64 + step, weight(distance))
            });
            row.collect()
        };
        let mut row: Vec<(i64, f64)> = match mode.as_str() {
            "nearest" => {
                let at = match nearest.as_str() {
                    "round_prefer_floor" => (place - 0.5).ceil(),
                    "round_prefer_ceil" => (place + 0.5).floor(),
                    "floor" => floor,
                    "ceil" => place.ceil(),
                    other => return Err(format!("the rounding `{other}` is not supported")),
                };
                vec![(at as i64, 1.0)]
            }
            "linear" | "bilinear" => spread(1.0, &|distance| (1.0 - distance.abs()).max(0.0)),
            "cubic" => spread(2.0, &|distance| cubic(distance, a)),
            other => return Err(format!("the mode `{other}` is not supported")),
        };
        if exclude {
            row.iter_mut()
                .filter(|(at, _)| !(0..=last).contains(at))
                .for_each(|(_, weight)| *weight = 0.0);
        }
        let sum: f64 = row.iter().map(|(_, weight)| weight).sum();
        row.iter_mut()
            .for_each(|(at, weight)| (*at, *weight) = ((*at).clamp(0, last.max(0)), *weight / sum));
        result.rows.push(row);
        result.outside.push(is_outside);
    }
    Ok(result)
}

fn resize<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let mut x = cx.arg(0)?;
    let rank = x.rank();
    // Before opset 11 the scales are operand 1, or an attribute, and the coordinates those of a plain division.
    let modern = cx.opset >= 11;
    let numbers = |place: usize, what: &str| -> Result<Option<Vec<f64>>, String> {
        let Some(val) = cx.optional(place).filter(|val| val.ty().count() > 0) else {
            return Ok(None);
        };
        Ok(Some(cx.known(val, what)?.scalars().map(|x| x.as_f64()).collect()))
    };
    let scales = match numbers(if modern { 2 } else { 1 }, "scales")? {
        Some(scales) => Some(scales),
        None => cx.floats("scales"),
    };
    let sizes = if modern { numbers(3, "sizes")? } else { None };
    let over: Vec<usize> = match cx.ints("axes") {
        Some(given) => given.iter().map(|&one| axis(one, rank)).collect::<Result<_, _>>()?,
        None => (0..rank).collect(),
    };
    let crops = cx.text("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize";
    let region = if crops { numbers(1, "region")? } else { None };
    let shape = x.shape();
    let fits = |list: &Option<Vec<f64>>, count: usize| list.as_ref().is_none_or(|list| list.len() == count);
    cx.expect(
        fits(&scales, over.len()) && fits(&sizes, over.len()) && fits(&region, 2 * over.len()),
        "a list for other axes",
    )?;
    // One scale for all axes keeps the ratio of sides.
    let policy = cx.text("keep_aspect_ratio_policy", "stretch");
    let ratios = sizes.as_ref().map(|sizes| -> Vec<f64> {
        sizes
            .iter()
            .zip(&over)
            .map(|(size, &axis)| size / shape[axis] as f64)
            .collect()
    });
    let common = match (policy.as_str(), &ratios) {
        ("not_larger", Some(ratios)) => Some(ratios.iter().copied().fold(f64::INFINITY, f64::min)),
        ("not_smaller", Some(ratios)) => Some(ratios.iter().copied().fold(0.0, f64::max)),
        _ => None,
    };
    let mut outside: Option<Val<'g>> = None;
    for (place, &axis) in over.iter().enumerate() {
        let extent = shape[axis];
        let (scale, wanted) = match (&scales, &sizes, common) {
            (_, Some(_), Some(scale)) => (scale, (scale * extent as f64 + 0.5).floor()),
            (_, Some(sizes), None) => (sizes[place] / extent as f64, sizes[place]),
            (Some(scales), None, _) => (scales[place], (extent as f64 * scales[place]).floor()),
            (None, None, _) => return Err("neither scales nor sizes are given".to_owned()),
        };
        cx.expect(
            (0.0..1e6).contains(&wanted) && scale > 0.0 && extent > 0,
            "a size outside 0 to 10⁶",
        )?;
        let region = region
            .as_ref()
            .map_or((0.0, 1.0), |region| (region[place], region[place + over.len()]));
        let exact = sizes.is_none().then_some(scale * extent as f64);
        let resizing = Resizing {
            extent,
            wanted: wanted as usize,
            length: exact.unwrap_or(wanted),
            scale,
            region,
        };
        if resizing.wanted == extent && scale == 1.0 && !crops {
            continue;
        }
        let taps = taps(cx, &resizing, if modern { "half_pixel" } else { "asymmetric" })?;
        x = apply(cx, x, axis, &taps);
        if taps.outside.contains(&true) {
            let elements: Vec<Scalar> = taps.outside.iter().map(|&is| Scalar::Bool(is)).collect();
            let mut along = vec![1; rank];
            along[axis] = elements.len();
            let mask = cx.b.constant(Tensor::from_scalars(DType::Bool, along, elements));
            outside = Some(outside.map_or(mask, |known| known | mask));
        }
    }
    let fill = cx.float("extrapolation_value", 0.0);
    Ok(vec![match outside {
        Some(outside) => outside.broadcast(x.shape()).select(x.lit(fill).broadcast(x.shape()), x),
        None => x,
    }])
}

/// Each element along an axis as a weighted sum.
fn apply<'g>(cx: &Cx<'_, 'g>, x: Val<'g>, axis: usize, taps: &Taps) -> Val<'g> {
    let count = taps.rows.len();
    let mut along = vec![1; x.rank()];
    along[axis] = count;
    let most = taps.rows.first().map_or(0, Vec::len);
    let parts = (0..most)
        .filter(|&tap| taps.rows.iter().any(|row| row[tap].1 != 0.0))
        .map(|tap| {
            let places: Vec<i64> = taps.rows.iter().map(|row| row[tap].0).collect();
            let read = x.gather(ints(cx, &[count], &places), axis);
            if taps.rows.iter().all(|row| row[tap].1 == 1.0) {
                return read;
            }
            let weights: Vec<Scalar> = taps.rows.iter().map(|row| Scalar::Float(row[tap].1)).collect();
            read * cx.b.constant(Tensor::from_scalars(x.dtype(), along.clone(), weights))
        });
    parts.reduce(|sum, part| sum + part).unwrap_or_else(|| {
        let mut shape = x.shape();
        shape[axis] = count;
        cx.b.full(x.dtype(), shape, 0.0)
    })
}

/// The elements of `x`, `[N, C, S…]`, at whole places along the spatial axes; zeros outside. Places are broadcast to `[N, C, …]`.
fn read<'g>(x: Val<'g>, places: &[Val<'g>], shape: &[usize]) -> Val<'g> {
    let b = x.builder();
    let sizes = x.shape();
    let along = |axis: usize| b.iota(DType::I64, shape.to_vec(), axis);
    let mut position = along(0) * sizes[1] as f64 + along(1);
    let mut inside: Option<Val<'g>> = None;
    for (place, &size) in places.iter().zip(&sizes[2..]) {
        let place = place.cast(DType::I64).broadcast(shape);
        let here = place.ge(0.0) & place.lt(size as f64);
        inside = Some(inside.map_or(here, |known| known & here));
        position = position * size as f64 + place.clamp(0.0, size as f64 - 1.0);
    }
    let elements = x.reshape([x.ty().count()]).gather(position, 0);
    match inside {
        Some(inside) => inside.select(elements, 0.0),
        None => elements,
    }
}

/// The weights and places of the neighbours of a fractional place along one axis.
type Neighbours<'g> = Vec<(Val<'g>, Val<'g>)>;

fn neighbours<'g>(place: Val<'g>, mode: &str) -> Result<Neighbours<'g>, String> {
    match mode {
        "nearest" => Ok(vec![(place.lit(1.0), place.round())]),
        "linear" | "bilinear" => {
            let floor = place.floor();
            let after = place - floor;
            Ok(vec![(1.0 - after, floor), (after, floor + 1.0)])
        }
        "cubic" | "bicubic" => {
            const A: f64 = -0.75;
            let floor = place.floor();
            let after = place - floor;
            let near = |x: Val<'g>| ((x * (A + 2.0)) - (A + 3.0)) * x * x + 1.0;
            let far = |x: Val<'g>| ((x * A - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
            Ok(vec![
                (far(after + 1.0), floor - 1.0),
                (near(after), floor),
                (near(1.0 - after), floor + 1.0),
                (far(2.0 - after), floor + 2.0),
            ])
        }
        other => Err(format!("the mode `{other}` is not supported")),
    }
}

/// The weighted sum of all neighbours in every spatial axis.
fn interpolate<'g>(x: Val<'g>, axes: &[Neighbours<'g>], shape: &[usize]) -> Val<'g> {
    let mut corners: Vec<(Option<Val<'g>>, Vec<Val<'g>>)> = vec![(None, Vec::new())];
    for axis in axes {
        let longer = |(weight, places): &(Option<Val<'g>>, Vec<Val<'g>>)| -> Vec<_> {
            let row = axis.iter().map(|&(factor, place)| {
                let weight = weight.map_or(factor, |weight| weight * factor);
                (Some(weight), [places.as_slice(), &[place]].concat())
            });
            row.collect()
        };
        corners = corners.iter().flat_map(longer).collect();
    }
    let parts = corners.into_iter().map(|(weight, places)| {
        let element = read(x, &places, shape);
        weight.map_or(element, |weight| element * weight.cast(element.dtype()))
    });
    parts.reduce(|sum, part| sum + part).expect("a corner")
}

fn grid_sample<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let (x, grid) = (cx.arg(0)?, cx.arg(1)?);
    let sizes = spatial(x)?;
    let rank = sizes.len();
    cx.expect(
        grid.rank() == rank + 2 && grid.shape()[rank + 1] == rank,
        "a grid of another rank",
    )?;
    let aligned = cx.flag("align_corners", false);
    let mode = cx.text("mode", "linear");
    let padding = cx.text("padding_mode", "zeros");
    let out = &grid.shape()[1..rank + 1];
    let shape = [&x.shape()[..2], out].concat();
    let mut axes = Vec::new();
    for (axis, &size) in sizes.iter().enumerate() {
        // The last number of the grid is for the first spatial axis.
        let number = rank - 1 - axis;
        let wanted = grid
            .slice(rank + 1, number, number + 1)
            .squeeze([rank + 1])
            .unsqueeze([1]);
        let size = size as f64;
        let mut place = match aligned {
            true => (wanted + 1.0) * ((size - 1.0) / 2.0),
            false => ((wanted + 1.0) * size - 1.0) * 0.5,
        };
        let (low, high) = if aligned { (0.0, size - 1.0) } else { (-0.5, size - 0.5) };
        let inside = |place: Val<'g>| match padding.as_str() {
            "border" => place.clamp(0.0, size - 1.0),
            "reflection" => {
                let range = (high - low).max(f64::MIN_POSITIVE);
                let turn = (place - low).modulo(2.0 * range);
                turn.gt(range).select(turn * -1.0 + (2.0 * range + low), turn + low)
            }
            _ => place,
        };
        cx.expect(
            matches!(padding.as_str(), "zeros" | "border" | "reflection"),
            "this padding",
        )?;
        if mode == "nearest" {
            place = place.round();
        }
        let found = neighbours(inside(place), &mode)?;
        axes.push(
            found
                .into_iter()
                .map(|(weight, place)| (weight, inside(place).round()))
                .collect(),
        );
    }
    Ok(vec![interpolate(x, &axes, &shape)])
}

fn affine_grid<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let theta = cx.arg(0)?;
    let size = tensors::extents(&cx.known_ints(1, "size")?.ok_or("the size is missing")?)?;
    let rank = size.len().saturating_sub(2);
    cx.expect(
        (2..=3).contains(&rank) && theta.shape() == [size[0], rank, rank + 1],
        "a grid of this rank",
    )?;
    let out = &size[2..];
    let aligned = cx.flag("align_corners", false);
    let element = |index: &[usize]| {
        let (at, number) = (&index[..rank], index[rank]);
        if number == rank {
            return Scalar::Float(1.0);
        }
        let axis = rank - 1 - number;
        let (at, count) = (at[axis] as f64, out[axis] as f64);
        Scalar::Float(match aligned {
            true if count > 1.0 => 2.0 * at / (count - 1.0) - 1.0,
            true => -1.0,
            false => (2.0 * at + 1.0) / count - 1.0,
        })
    };
    let base =
        cx.b.constant(Tensor::from_fn(theta.dtype(), [out, &[rank + 1]].concat(), element));
    let rows: usize = out.iter().product();
    let grid = base.reshape([rows, rank + 1]).matmul(theta.transpose());
    Ok(vec![grid.reshape([&size[..1], out, &[rank]].concat())])
}

fn roi_align<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let (x, rois, batches) = (cx.arg(0)?, cx.arg(1)?, cx.arg(2)?);
    let sizes = spatial(x)?;
    cx.expect(sizes.len() == 2 && rois.rank() == 2, "an operand of another rank")?;
    cx.expect(cx.text("mode", "avg") == "avg", "the mode `max`")?;
    let out = [cx.int("output_height", 1), cx.int("output_width", 1)];
    let out = tensors::extents(&out)?;
    let samples = cx.int("sampling_ratio", 0);
    let scale = cx.float("spatial_scale", 1.0);
    let coordinates = cx.text(
        "coordinate_transformation_mode",
        if cx.opset < 16 {
            "output_half_pixel"
        } else {
            "half_pixel"
        },
    );
    let half = if coordinates == "half_pixel" { 0.5 } else { 0.0 };
    // With a ratio of 0 each region has as many samples as its size asks for, so regions must be known and alike.
    let samples: [usize; 2] = match samples {
        1.. => [samples as usize; 2],
        _ => {
            let known = cx.known(rois, "regions")?;
            let count = |row: usize, axis: usize| {
                let side = (known.at(&[row, 3 - axis]).as_f64() - known.at(&[row, 1 - axis]).as_f64()) * scale;
                let side = if half == 0.0 { side.max(1.0) } else { side };
                (side / out[axis] as f64).ceil().max(1.0) as usize
            };
            let all = |axis: usize| -> Result<usize, String> {
                let first = count(0, axis);
                cx.expect(
                    (0..known.shape()[0]).all(|row| count(row, axis) == first),
                    "regions of several sizes",
                )?;
                Ok(first)
            };
            [all(0)?, all(1)?]
        }
    };
    let count = rois.shape()[0];
    let channels = x.shape()[1];
    // Each region is a picture of its own: [R, C, H, W].
    let own = x.gather(batches, 0);
    let shape = [count, channels, out[0] * samples[0], out[1] * samples[1]];
    let corner = |place: usize| rois.slice(1, place, place + 1).squeeze([1]) * scale - half;
    let mut axes = Vec::new();
    let mut inside: Option<Val<'g>> = None;
    for axis in 0..2 {
        let (start, end) = (corner(1 - axis), corner(3 - axis));
        let side = if half == 0.0 {
            (end - start).max(1.0)
        } else {
            end - start
        };
        let points = out[axis] * samples[axis];
        let mut along = vec![1, 1, 1, 1];
        along[2 + axis] = points;
        let offset: Vec<Scalar> = (0..points)
            .map(|at| Scalar::Float((at as f64 + 0.5) / points as f64))
            .collect();
        let offset = cx.b.constant(Tensor::from_scalars(x.dtype(), along, offset));
        let wide = |val: Val<'g>| val.reshape([count, 1, 1, 1]);
        let place = wide(start) + wide(side) * offset;
        let size = sizes[axis] as f64;
        let here = place.ge(-1.0) & place.le(size);
        inside = Some(inside.map_or(here, |known| known & here));
        axes.push(neighbours(place.clamp(0.0, size - 1.0), "linear")?);
    }
    let found = interpolate(own, &axes, &shape);
    let found = match inside {
        Some(inside) => inside.broadcast(shape).select(found, 0.0),
        None => found,
    };
    let apart = found.reshape([count, channels, out[0], samples[0], out[1], samples[1]]);
    Ok(vec![apart.mean([3, 5])])
}

fn deform_conv<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let (x, kernel, offset) = (cx.arg(0)?, cx.arg(1)?, cx.arg(2)?);
    let (sizes, taps) = (spatial(x)?, spatial(kernel)?);
    cx.expect(sizes.len() == 2, "a deformable convolution of another rank")?;
    let reach = Reach::of(cx, &sizes, taps.clone())?;
    let groups = tensors::extents(&[cx.int("group", 1)])?[0].max(1);
    let offset_groups = tensors::extents(&[cx.int("offset_group", 1)])?[0].max(1);
    let (batch, channels, tap_count) = (x.shape()[0], x.shape()[1], taps[0] * taps[1]);
    let out = spatial(offset)?;
    cx.expect(
        channels.is_multiple_of(offset_groups) && kernel.shape()[0].is_multiple_of(groups),
        "incomplete groups",
    )?;
    let each = channels / offset_groups;
    // [N, groups, taps, 2, P, Q] → for each channel, each tap, each place.
    let offsets = offset.reshape([batch, offset_groups, tap_count, 2, out[0], out[1]]);
    let per_channel = |val: Val<'g>| {
        let wide = val
            .unsqueeze([2])
            .broadcast([batch, offset_groups, each, tap_count, out[0], out[1]]);
        wide.reshape([batch, channels, tap_count, out[0], out[1]])
    };
    let shape = [batch, channels, tap_count, out[0], out[1]];
    let mut axes = Vec::new();
    for axis in 0..2 {
        let moved = per_channel(offsets.slice(3, axis, axis + 1).squeeze([3]));
        let base = Tensor::from_fn(x.dtype(), [tap_count, out[0], out[1]], |index| {
            let tap = if axis == 0 {
                index[0] / taps[1]
            } else {
                index[0] % taps[1]
            };
            let window = index[1 + axis] * reach.stride[axis];
            Scalar::Float((window + tap * reach.dilation[axis]) as f64 - reach.low[axis] as f64)
        });
        axes.push(neighbours(moved + cx.b.constant(base), "linear")?);
    }
    let mut columns = interpolate(x, &axes, &shape);
    if let Some(mask) = cx.optional(4) {
        columns = columns * per_channel(mask.reshape([batch, offset_groups, tap_count, out[0], out[1]]));
    }
    let (own, results) = (channels / groups, kernel.shape()[0] / groups);
    let columns = columns.reshape([batch, groups, own * tap_count, out[0] * out[1]]);
    let kernel = kernel.reshape([groups, results, own * tap_count]);
    let product = Val::einsum("gok,ngkp->ngop", &[kernel, columns]);
    Ok(vec![with_bias(
        product.reshape([batch, groups * results, out[0], out[1]]),
        cx.optional(3),
    )])
}
