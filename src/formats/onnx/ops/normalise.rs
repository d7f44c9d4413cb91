//! Normalisation.

use netloom_ir::{DType, Val};

use super::Row;
use crate::formats::onnx::node::{Cx, Done, axes, axis};

pub static TABLE: &[Row] = &[
    Row("BatchNormalization", batch),
    Row("InstanceNormalization", instance),
    Row("LayerNormalization", layer),
    Row("RMSNormalization", rms),
    Row("GroupNormalization", group),
    Row("LpNormalization", lp),
    Row("MeanVarianceNormalization", mean_variance),
];

/// One number a channel, beside `[N, C, S…]`.
fn by_channel<'g>(val: Val<'g>, rank: usize) -> Val<'g> {
    val.reshape([val.shape(), vec![1; rank.saturating_sub(2)]].concat())
}

fn batch<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let x = cx.arg(0)?;
    let rank = x.rank();
    let wide = |place: usize| -> Result<Val<'g>, String> { Ok(by_channel(cx.arg(place)?, rank)) };
    let (scale, shift, epsilon) = (wide(1)?, wide(2)?, cx.float("epsilon", 1e-5));
    let normal = |mean: Val<'g>, variance: Val<'g>| {
        let narrow = (x - mean) / (variance + epsilon).sqrt().cast(x.dtype()) * scale + shift;
        narrow.cast(x.dtype())
    };
    if !cx.flag("training_mode", false) {
        cx.expect(!cx.wants(1), "training by a batch normalisation before opset 14")?;
        return Ok(vec![normal(wide(3)?, wide(4)?)]);
    }
    let over: Vec<usize> = (0..rank).filter(|&axis| axis != 1).collect();
    let (mean, variance) = (x.mean(over.clone()), x.variance(over));
    let momentum = cx.float("momentum", 0.9);
    let running = |old: Val<'g>, new: Val<'g>| old * momentum + new * (1.0 - momentum);
    Ok(vec![
        normal(by_channel(mean, rank), by_channel(variance, rank)),
        running(cx.arg(3)?, mean),
        running(cx.arg(4)?, variance),
    ])
}

fn instance<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let x = cx.arg(0)?;
    let (scale, shift) = (by_channel(cx.arg(1)?, x.rank()), by_channel(cx.arg(2)?, x.rank()));
    let over: Vec<usize> = (2..x.rank()).collect();
    Ok(vec![x.standardise(over, cx.float("epsilon", 1e-5)) * scale + shift])
}

/// The element type that moments are computed in.
fn stash(cx: &Cx<'_, '_>, x: Val<'_>) -> Result<DType, String> {
    // Half precision is widened; `f64` is never narrowed.
    let wanted = cx.dtype("stash_type", DType::F32)?;
    Ok(if x.dtype() == DType::F64 { DType::F64 } else { wanted })
}

fn layer<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let x = cx.arg(0)?;
    let first = cx.axis("axis", -1, x.rank())?;
    let over: Vec<usize> = (first..x.rank()).collect();
    let wide = x.cast(stash(cx, x)?);
    let mean = wide.mean(over.clone()).unsqueeze(over.clone());
    let distance = wide - mean;
    let variance = (distance * distance).mean(over.clone()).unsqueeze(over);
    let inverse = (variance + cx.float("epsilon", 1e-5)).rsqrt();
    let scaled = (distance * inverse).cast(x.dtype()) * cx.arg(1)?;
    let whole = match cx.optional(2) {
        Some(shift) => scaled + shift,
        None => scaled,
    };
    Ok(vec![whole, mean, inverse])
}

fn rms<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let x = cx.arg(0)?;
    let first = cx.axis("axis", -1, x.rank())?;
    let over: Vec<usize> = (first..x.rank()).collect();
    let wide = x.cast(stash(cx, x)?);
    let square = (wide * wide).mean(over.clone()).unsqueeze(over);
    let normal = wide / (square + cx.float("epsilon", 1e-5)).sqrt();
    Ok(vec![normal.cast(x.dtype()) * cx.arg(1)?])
}

fn group<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let (x, scale, shift) = (cx.arg(0)?, cx.arg(1)?, cx.arg(2)?);
    let shape = x.shape();
    let groups = cx.int("num_groups", 1).max(1) as usize;
    cx.expect(
        shape.len() >= 2 && shape[1].is_multiple_of(groups),
        "channels that are no whole groups",
    )?;
    let apart = [&[shape[0], groups, shape[1] / groups], &shape[2..]].concat();
    let over: Vec<usize> = (2..apart.len()).collect();
    let wide = x.reshape(apart.clone()).cast(stash(cx, x)?);
    let normal = wide.standardise(over, cx.float("epsilon", 1e-5)).cast(x.dtype());
    // Until opset 20 scales were one a group.
    if scale.shape() == [groups] && cx.opset < 21 {
        let per_group = |val: Val<'g>| val.reshape([&[groups], vec![1; apart.len() - 2].as_slice()].concat());
        return Ok(vec![(normal * per_group(scale) + per_group(shift)).reshape(shape)]);
    }
    let rank = shape.len();
    Ok(vec![
        normal.reshape(shape) * by_channel(scale, rank) + by_channel(shift, rank),
    ])
}

fn lp<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let x = cx.arg(0)?;
    let axis = axis(cx.int("axis", -1), x.rank())?;
    let norm = match cx.int("p", 2) {
        1 => x.abs().sum([axis]),
        2 => (x * x).sum([axis]).sqrt(),
        p => return Err(format!("the norm of order {p} is not supported")),
    };
    let norm = norm.spread(&[axis], &x.shape());
    // A row of zeros stays one.
    Ok(vec![norm.eq(0.0).select(x * 0.0, x / norm)])
}

fn mean_variance<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let x = cx.arg(0)?;
    let over = axes(&cx.ints("axes").unwrap_or_else(|| vec![0, 2, 3]), x.rank())?;
    let distance = x - x.mean(over.clone()).spread(&over, &x.shape());
    let deviation = (distance * distance)
        .mean(over.clone())
        .sqrt()
        .spread(&over, &x.shape());
    Ok(vec![distance / (deviation + 1e-9)])
}
