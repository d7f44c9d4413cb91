//! Quantised operators: whole numbers that stand for `(q - zero) · scale`.

use netloom_ir::{DType, Val};

use super::Row;
use super::linear::{convolution, with_bias};
use crate::formats::onnx::node::{Cx, Done};

pub static TABLE: &[Row] = &[
    Row("QuantizeLinear", quantize),
    Row("DequantizeLinear", dequantize),
    Row("DynamicQuantizeLinear", dynamic),
    Row("MatMulInteger", |cx| {
        Ok(vec![
            rows(cx.arg(0)?, cx.optional(2)).matmul(columns(cx.arg(1)?, cx.optional(3))),
        ])
    }),
    Row("ConvInteger", |cx| {
        Ok(vec![convolution(
            cx,
            columns(cx.arg(0)?, cx.optional(2)),
            channels(cx.arg(1)?, cx.optional(3)),
        )?])
    }),
    Row("QLinearMatMul", matmul),
    Row("QLinearConv", conv),
];

/// Scales or zeros beside a tensor: one number, one along `axis`, or one for each block along it.
fn beside<'g>(val: Val<'g>, x: Val<'g>, axis: usize, block: usize) -> Result<Val<'g>, String> {
    let shape = x.shape();
    if val.ty().count() == 1 && block == 0 {
        return Ok(val.reshape([]));
    }
    if block == 0 {
        return Ok(val.reshape([val.shape(), vec![1; shape.len() - axis - 1]].concat()));
    }
    // Each number is repeated over its block; the last block may be short.
    let found = val.shape();
    if found.len() != shape.len() || found[axis].saturating_mul(block) < shape[axis] {
        return Err(format!(
            "{} are no blocks of {block} along axis {axis} of {}",
            val.ty(),
            x.ty()
        ));
    }
    let mut repeated = found.clone();
    repeated.insert(axis + 1, block);
    let mut whole = found.clone();
    whole[axis] *= block;
    Ok(val
        .unsqueeze([axis + 1])
        .broadcast(repeated)
        .reshape(whole)
        .slice(axis, 0, shape[axis]))
}

fn place(cx: &Cx<'_, '_>, x: Val<'_>) -> Result<(usize, usize), String> {
    let axis = match x.rank() {
        0 => 0,
        rank => cx.axis("axis", if rank == 1 { 0 } else { 1 }, rank)?,
    };
    let block = usize::try_from(cx.int("block_size", 0)).map_err(|_| "`block_size` is negative")?;
    Ok((axis, block))
}

/// `x / scale + zero`, rounded to even and saturated.
fn round_to<'g>(ratio: Val<'g>, zero: Option<Val<'g>>, dtype: DType) -> Val<'g> {
    let whole = ratio.round();
    let moved = match zero {
        Some(zero) => whole + zero.cast(whole.dtype()),
        None => whole,
    };
    moved.cast(dtype)
}

fn quantize<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let (x, scale) = (cx.arg(0)?, cx.arg(1)?);
    let (axis, block) = place(cx, x)?;
    let zero = cx.optional(2);
    let dtype = match (zero, cx.int("output_dtype", 0)) {
        (Some(zero), _) => zero.dtype(),
        (None, 0) => DType::U8,
        (None, _) => cx.dtype("output_dtype", DType::U8)?,
    };
    let scale = beside(scale, x, axis, block)?.cast(DType::F32);
    let zero = zero.map(|zero| beside(zero, x, axis, block)).transpose()?;
    Ok(vec![round_to(x.cast(DType::F32) / scale, zero, dtype)])
}

fn dequantize<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let (x, scale) = (cx.arg(0)?, cx.arg(1)?);
    let (axis, block) = place(cx, x)?;
    let mut whole = x.cast(DType::I32);
    if let Some(zero) = cx.optional(2) {
        whole = whole - beside(zero, x, axis, block)?.cast(DType::I32);
    }
    Ok(vec![whole.cast(scale.dtype()) * beside(scale, x, axis, block)?])
}

fn dynamic<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let x = cx.arg(0)?;
    let all: Vec<usize> = (0..x.rank()).collect();
    let (low, high) = (x.min_over(all.clone()).min(0.0), x.max_over(all).max(0.0));
    let scale = (high - low) / 255.0;
    // Nothing but zeros is quantised with any scale.
    let safe = scale.eq(0.0).select(scale.lit(1.0), scale);
    let zero = (-low / safe).clamp(0.0, 255.0).round().cast(DType::U8);
    Ok(vec![round_to(x / safe, Some(zero), DType::U8), scale, zero])
}

/// The whole numbers less their zero, as `i32`; a list of zeros is one a row.
fn rows<'g>(x: Val<'g>, zero: Option<Val<'g>>) -> Val<'g> {
    less(x, zero, |zero| zero.unsqueeze([1]))
}

/// The same; a list of zeros is one a column.
fn columns<'g>(x: Val<'g>, zero: Option<Val<'g>>) -> Val<'g> {
    less(x, zero, |zero| zero)
}

/// The same for a kernel; a list of zeros is one an output channel.
fn channels<'g>(x: Val<'g>, zero: Option<Val<'g>>) -> Val<'g> {
    let rank = x.rank();
    less(x, zero, move |zero| {
        zero.reshape([zero.shape(), vec![1; rank - 1]].concat())
    })
}

fn less<'g>(x: Val<'g>, zero: Option<Val<'g>>, list: impl Fn(Val<'g>) -> Val<'g>) -> Val<'g> {
    let x = x.cast(DType::I32);
    match zero {
        None => x,
        Some(zero) if zero.ty().count() == 1 => x - zero.reshape([]).cast(DType::I32),
        Some(zero) if zero.rank() == 1 => x - list(zero.cast(DType::I32)),
        Some(zero) => x - zero.cast(DType::I32),
    }
}

/// A scale as a number, or a list of them in its place.
fn scale_of<'g>(scale: Val<'g>, list: impl Fn(Val<'g>) -> Val<'g>) -> Val<'g> {
    let scale = scale.cast(DType::F32);
    match (scale.ty().count(), scale.rank()) {
        (1, _) => scale.reshape([]),
        (_, 1) => list(scale),
        _ => scale,
    }
}

fn matmul<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let product = rows(cx.arg(0)?, cx.optional(2)).matmul(columns(cx.arg(3)?, cx.optional(5)));
    let scale = scale_of(cx.arg(1)?, |scale| scale.unsqueeze([1])) * scale_of(cx.arg(4)?, |scale| scale);
    let scale = scale / scale_of(cx.arg(6)?, |scale| scale.unsqueeze([1]));
    let zero = cx.arg(7)?;
    let wide = match zero.ty().count() {
        1 => zero.reshape([]),
        _ => zero,
    };
    Ok(vec![round_to(
        product.cast(DType::F32) * scale,
        Some(wide),
        zero.dtype(),
    )])
}

fn conv<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let product = convolution(
        cx,
        columns(cx.arg(0)?, cx.optional(2)),
        channels(cx.arg(3)?, cx.optional(5)),
    )?;
    let sum = with_bias(product, cx.optional(8));
    let rank = sum.rank();
    let per_channel = move |scale: Val<'g>| scale.reshape([scale.shape(), vec![1; rank - 2]].concat());
    let scale = scale_of(cx.arg(1)?, per_channel) * scale_of(cx.arg(4)?, per_channel);
    let scale = scale / scale_of(cx.arg(6)?, per_channel);
    let zero = cx.arg(7)?;
    Ok(vec![round_to(
        sum.cast(DType::F32) * scale,
        Some(zero.reshape([])),
        zero.dtype(),
    )])
}
