//! Reductions.

use netloom_ir::kernel::Combine;
use netloom_ir::{DType, Val};

use super::Row;
use crate::formats::onnx::node::{Cx, Done, axes, axis};

pub static TABLE: &[Row] = &[
    Row("ReduceSum", |cx| fold(cx, |x, axes| x.sum(axes))),
    Row("ReduceProd", |cx| fold(cx, |x, axes| x.prod(axes))),
    Row("ReduceMean", |cx| fold(cx, |x, axes| x.mean(axes))),
    Row("ReduceMax", |cx| {
        fold(cx, |x, axes| {
            if x.dtype() == DType::Bool {
                x.any(axes)
            } else {
                x.max_over(axes)
            }
        })
    }),
    Row("ReduceMin", |cx| {
        fold(cx, |x, axes| {
            if x.dtype() == DType::Bool {
                x.all(axes)
            } else {
                x.min_over(axes)
            }
        })
    }),
    Row("ReduceL1", |cx| fold(cx, |x, axes| x.abs().sum(axes))),
    Row("ReduceL2", |cx| fold(cx, |x, axes| root((x * x).sum(axes)))),
    Row("ReduceSumSquare", |cx| fold(cx, |x, axes| (x * x).sum(axes))),
    Row("ReduceLogSum", |cx| fold(cx, |x, axes| x.sum(axes).log())),
    Row("ReduceLogSumExp", |cx| fold(cx, log_sum_exp)),
    Row("ArgMax", |cx| best(cx, |x, axis| x.argmax(axis))),
    Row("ArgMin", |cx| best(cx, |x, axis| x.argmin(axis))),
    Row("CumSum", |cx| running(cx, Val::cumsum, Combine::Sum)),
    Row("CumProd", |cx| running(cx, Val::cumprod, Combine::Product)),
    Row("Softmax", |cx| rows(cx, Val::softmax)),
    Row("LogSoftmax", |cx| rows(cx, Val::log_softmax)),
    Row("Hardmax", |cx| rows(cx, hardmax)),
];

fn fold<'g>(cx: &Cx<'_, 'g>, apply: fn(Val<'g>, Vec<usize>) -> Val<'g>) -> Done<'g> {
    let x = cx.arg(0)?;
    let given = match cx.known_ints(1, "axes")? {
        Some(given) => given,
        None => cx.ints("axes").unwrap_or_default(),
    };
    let mut over = axes(&given, x.rank())?;
    if over.is_empty() {
        if cx.flag("noop_with_empty_axes", false) {
            // Nothing is folded, but each element is still, say, squared.
            return Ok(vec![apply(x.unsqueeze([x.rank()]), vec![x.rank()])]);
        }
        over = (0..x.rank()).collect();
    }
    let mut kept = x.shape();
    over.iter().for_each(|&axis| kept[axis] = 1);
    let folded = match over.is_empty() {
        true => apply(x.reshape([1]), vec![0]).reshape([]),
        false => apply(x, over),
    };
    Ok(vec![if cx.flag("keepdims", true) {
        folded.reshape(kept)
    } else {
        folded
    }])
}

/// The square root; of whole numbers, its whole part.
fn root(x: Val<'_>) -> Val<'_> {
    match x.dtype().is_float() {
        true => x.sqrt(),
        false => x.cast(DType::F64).sqrt().cast(x.dtype()),
    }
}

fn log_sum_exp<'g>(x: Val<'g>, axes: Vec<usize>) -> Val<'g> {
    let max = x.max_over(axes.clone());
    // A row of infinities is not shifted, as ∞ - ∞ is NaN.
    let shift = max.is_finite().select(max, 0.0);
    let shifted = x - shift.spread(&axes, &x.shape());
    shifted.exp().sum(axes).log() + shift
}

fn best<'g>(cx: &Cx<'_, 'g>, apply: fn(Val<'g>, usize) -> Val<'g>) -> Done<'g> {
    let x = cx.arg(0)?;
    let axis = cx.axis("axis", 0, x.rank())?;
    let found = match cx.flag("select_last_index", false) {
        true => -apply(x.flip([axis]), axis) + (x.shape()[axis] as f64 - 1.0),
        false => apply(x, axis),
    };
    Ok(vec![if cx.flag("keepdims", true) {
        found.unsqueeze([axis])
    } else {
        found
    }])
}

fn running<'g>(cx: &Cx<'_, 'g>, inclusive: fn(Val<'g>, usize) -> Val<'g>, with: Combine) -> Done<'g> {
    let x = cx.arg(0)?;
    let wanted = cx.known_number(1, "axis")?.ok_or("the axis is missing")?;
    let axis = axis(wanted as i64, x.rank())?;
    let turned = |x: Val<'g>| if cx.flag("reverse", false) { x.flip([axis]) } else { x };
    let x = turned(x);
    let sums = match cx.flag("exclusive", false) {
        true => x.prefix(with, axis, true),
        false => inclusive(x, axis),
    };
    Ok(vec![turned(sums)])
}

/// A function of rows: along one axis, before opset 13 along all axes from `axis` on together.
fn rows<'g>(cx: &Cx<'_, 'g>, apply: fn(Val<'g>, usize) -> Val<'g>) -> Done<'g> {
    let x = cx.arg(0)?;
    if cx.opset >= 13 {
        return Ok(vec![apply(x, cx.axis("axis", -1, x.rank())?)]);
    }
    let axis = cx.axis("axis", 1, x.rank())?;
    let shape = x.shape();
    let flat = x.reshape([shape[..axis].iter().product(), shape[axis..].iter().product::<usize>()]);
    Ok(vec![apply(flat, 1).reshape(shape)])
}

/// 1 at the first greatest element along the axis, 0 elsewhere.
fn hardmax<'g>(x: Val<'g>, axis: usize) -> Val<'g> {
    let places = x.builder().iota(DType::I64, x.shape(), axis);
    let best = x.argmax(axis).spread(&[axis], &x.shape());
    places.eq(best).cast(x.dtype())
}
