//! Pooling, and other operators over windows.

use netloom_ir::ops::pool::{Pool, PoolKind, Window};
use netloom_ir::{DType, Op, Val};

use super::Row;
use super::linear::{Reach, spatial};
use crate::formats::onnx::node::{Cx, Done};
use crate::formats::onnx::tensors;

pub static TABLE: &[Row] = &[
    Row("MaxPool", max_pool),
    Row("AveragePool", average_pool),
    Row("LpPool", lp_pool),
    Row("GlobalMaxPool", |cx| Ok(vec![cx.arg(0)?.global_max_pool()])),
    Row("GlobalAveragePool", |cx| Ok(vec![cx.arg(0)?.global_avg_pool()])),
    Row("GlobalLpPool", global_lp_pool),
    Row("MaxUnpool", max_unpool),
    Row("LRN", lrn),
    Row("Col2Im", col2im),
];

/// The window that the attributes describe, and how many of the places after are there only because of `ceil_mode`.
fn window(cx: &Cx<'_, '_>, x: Val<'_>) -> Result<(Window, Vec<usize>), String> {
    let sizes = spatial(x)?;
    let kernel = cx.sizes("kernel_shape")?.ok_or("`kernel_shape` is missing")?;
    let mut reach = Reach::of(cx, &sizes, kernel)?;
    let mut excess = vec![0; sizes.len()];
    if cx.flag("ceil_mode", false) {
        for axis in 0..sizes.len() {
            let extent = (reach.kernel[axis].max(1) as i64 - 1) * reach.dilation[axis] as i64 + 1;
            let stride = reach.stride[axis] as i64;
            let whole = sizes[axis] as i64 + reach.low[axis] + reach.high[axis];
            let mut windows = (whole - extent + stride - 1).div_euclid(stride) + 1;
            // A window that would begin in the padding after is left out.
            if (windows - 1) * stride >= sizes[axis] as i64 + reach.low[axis] {
                windows -= 1;
            }
            let missing = (windows - 1) * stride + extent - whole;
            if missing > 0 {
                excess[axis] = missing as usize;
                reach.high[axis] += missing;
            }
        }
    }
    Ok((
        Window {
            size: reach.kernel,
            stride: reach.stride,
            pad_low: tensors::extents(&reach.low)?,
            pad_high: tensors::extents(&reach.high)?,
            dilation: reach.dilation,
        },
        excess,
    ))
}

fn max_pool<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let x = cx.arg(0)?;
    let (window, _) = window(cx, x)?;
    let most = x.max_pool(window.clone());
    if !cx.wants(1) {
        return Ok(vec![most]);
    }
    let kind = PoolKind::ArgMax;
    let place =
        cx.b.push(
            Op::Pool(Pool {
                kind,
                window: window.clone(),
            }),
            &[x],
        )
        .cast(DType::I64);
    if place.is_poison() {
        return Ok(vec![place]);
    }
    // The position of the greatest element in the whole tensor.
    let (shape, sizes) = (place.shape(), spatial(x)?);
    let along = |axis: usize| cx.b.iota(DType::I64, shape.clone(), axis);
    let mut position = along(0) * x.shape()[1] as f64 + along(1);
    let (mut across, rank) = (1, sizes.len());
    let mut inner = cx.b.full(DType::I64, shape.clone(), 0.0);
    let column_major = cx.flag("storage_order", false);
    let order: Vec<usize> = if column_major {
        (0..rank).collect()
    } else {
        (0..rank).rev().collect()
    };
    for axis in order {
        let after: usize = window.size[axis + 1..].iter().product();
        let tap = (place / after as f64) % cx.b.scalar(DType::I64, window.size[axis] as f64);
        let at = along(2 + axis) * window.stride[axis] as f64 + tap * window.dilation[axis] as f64;
        inner = inner + (at - window.pad_low[axis] as f64) * across as f64;
        across *= sizes[axis];
    }
    position = position * across as f64 + inner;
    Ok(vec![most, position])
}

fn average_pool<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let x = cx.arg(0)?;
    let (window, excess) = window(cx, x)?;
    if !cx.flag("count_include_pad", false) {
        return Ok(vec![x.avg_pool(window)]);
    }
    // The padding that is asked for counts, that which only completes the last window does not.
    let beside = |pads: &[usize]| [&[0, 0], pads].concat();
    let asked: Vec<usize> = window
        .pad_high
        .iter()
        .zip(&excess)
        .map(|(&pad, &excess)| pad - excess)
        .collect();
    let padded = x.pad(beside(&window.pad_low), beside(&asked), 0.0);
    let rest = Window {
        pad_low: vec![0; excess.len()],
        pad_high: excess,
        ..window
    };
    Ok(vec![padded.avg_pool(rest)])
}

/// `(Σ |x|^p)^(1/p)`, given how to sum.
fn norm<'g>(x: Val<'g>, p: f64, sum: impl Fn(Val<'g>) -> Val<'g>) -> Val<'g> {
    match p {
        1.0 => sum(x.abs()),
        2.0 => sum(x * x).sqrt(),
        p => sum(x.abs().pow(p)).pow(1.0 / p),
    }
}

fn lp_pool<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let x = cx.arg(0)?;
    let (window, _) = window(cx, x)?;
    Ok(vec![norm(x, cx.int("p", 2) as f64, |x| x.sum_pool(window.clone()))])
}

fn global_lp_pool<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let x = cx.arg(0)?;
    spatial(x)?;
    let axes: Vec<usize> = (2..x.rank()).collect();
    Ok(vec![norm(x, cx.int("p", 2) as f64, |x| {
        x.sum(axes.clone()).unsqueeze(axes.clone())
    })])
}

fn max_unpool<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let (x, places) = (cx.arg(0)?, cx.arg(1)?);
    let sizes = spatial(x)?;
    let kernel = cx.sizes("kernel_shape")?.ok_or("`kernel_shape` is missing")?;
    let reach = Reach::of(cx, &sizes, kernel)?;
    let shape = match cx.known_ints(2, "output shape")? {
        Some(given) => tensors::extents(&given)?,
        None => {
            let back = (0..sizes.len()).map(|axis| {
                let whole = (sizes[axis] as i64 - 1) * reach.stride[axis] as i64 + reach.kernel[axis] as i64;
                whole - reach.low[axis] - reach.high[axis]
            });
            [&x.shape()[..2], &tensors::extents(&back.collect::<Vec<_>>())?].concat()
        }
    };
    // Places count within the tensor that was pooled, whose shape is the one without `output_shape`.
    let count = x.ty().count();
    let flat = cx.b.full(x.dtype(), [shape.iter().product::<usize>()], 0.0);
    let filled = flat.scatter(places.reshape([count]), x.reshape([count]), 0, None);
    Ok(vec![filled.reshape(shape)])
}

fn lrn<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let x = cx.arg(0)?;
    let sizes = spatial(x)?;
    let size = cx.int("size", 0).clamp(1, 1 << 16) as usize;
    let (alpha, beta, bias) = (cx.float("alpha", 1e-4), cx.float("beta", 0.75), cx.float("bias", 1.0));
    let shape = x.shape();
    // Channels last, so that a window slides along them.
    let rows = (x * x)
        .reshape([shape[0], shape[1], sizes.iter().product::<usize>()])
        .permute([0, 2, 1]);
    let window = Window {
        pad_low: vec![(size - 1) / 2],
        pad_high: vec![size - 1 - (size - 1) / 2],
        ..Window::sliding([size])
    };
    let sums = rows.sum_pool(window).permute([0, 2, 1]).reshape(shape);
    Ok(vec![x / (sums * (alpha / size as f64) + bias).pow(beta)])
}

fn col2im<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let x = cx.arg(0)?;
    let image = tensors::extents(&cx.known_ints(1, "image shape")?.ok_or("the image shape is missing")?)?;
    let block = tensors::extents(&cx.known_ints(2, "block shape")?.ok_or("the block shape is missing")?)?;
    cx.expect(
        x.rank() == 3 && image.len() == block.len(),
        "an operand of another rank",
    )?;
    let reach = Reach::of(cx, &image, block.clone())?;
    let taps: usize = block.iter().product();
    let (batch, channels) = (x.shape()[0], x.shape()[1] / taps.max(1));
    let padded: Vec<i64> = (0..image.len())
        .map(|axis| image[axis] as i64 + reach.low[axis] + reach.high[axis])
        .collect();
    let padded = tensors::extents(&padded)?;
    let windows: Vec<usize> = (0..image.len())
        .map(|axis| {
            let extent = (block[axis] - 1) * reach.dilation[axis] + 1;
            (padded[axis].saturating_sub(extent)) / reach.stride[axis] + 1
        })
        .collect();
    // [N, C, K…, P…]: each tap's elements go back to where that tap of each window read.
    let split = x.reshape([&[batch, channels], block.as_slice(), windows.as_slice()].concat());
    let whole = [&[batch, channels], padded.as_slice()].concat();
    let mut sum = cx.b.full(x.dtype(), whole.clone(), 0.0);
    for tap in 0..taps {
        let index = netloom_ir::tensor::unravel(&block, tap);
        let mut part = split;
        for &at in index.iter() {
            part = part.slice(2, at, at + 1).squeeze([2]);
        }
        let start: Vec<usize> = index
            .iter()
            .zip(&reach.dilation)
            .map(|(at, dilation)| at * dilation)
            .collect();
        let step = [&[1, 1], reach.stride.as_slice()].concat();
        sum = sum + part.unslice(&[&[0, 0], start.as_slice()].concat(), &step, &whole);
    }
    let start: Vec<usize> = tensors::extents(&reach.low)?;
    let start = [&[0, 0], start.as_slice()].concat();
    let count = [&[batch, channels], image.as_slice()].concat();
    Ok(vec![sum.slice_steps(start, vec![1; count.len()], count)])
}
