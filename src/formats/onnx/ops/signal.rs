//! Windows and Fourier transforms, as products with constant matrices.

use netloom_ir::{DType, Scalar, Tensor, Val};

use super::Row;
use crate::formats::onnx::node::{Cx, Done, axis};

pub static TABLE: &[Row] = &[
    Row("HannWindow", |cx| cosines(cx, &[0.5, 0.5])),
    Row("HammingWindow", |cx| cosines(cx, &[25.0 / 46.0, 21.0 / 46.0])),
    Row("BlackmanWindow", |cx| cosines(cx, &[0.42, 0.5, 0.08])),
    Row("DFT", dft),
    Row("STFT", stft),
];

/// The longest transform: its matrix is computed while importing.
const MOST_POINTS: usize = 4096;

/// `Σ (-1)^k a_k cos(2πkn/N)`
fn cosines<'g>(cx: &Cx<'_, 'g>, factors: &[f64]) -> Done<'g> {
    let size = cx.known_number(0, "size")?.ok_or("the size is missing")?;
    cx.expect((0.0..=16_777_216.0).contains(&size), "a window of this size")?;
    let size = size as usize;
    let dtype = cx.dtype("output_datatype", DType::F32)?;
    let period = if cx.flag("periodic", true) {
        size as f64
    } else {
        size as f64 - 1.0
    };
    let element = |index: &[usize]| {
        let angle = 2.0 * std::f64::consts::PI * index[0] as f64 / period;
        let terms = factors.iter().enumerate().map(|(k, factor)| {
            let sign = if k % 2 == 0 { 1.0 } else { -1.0 };
            sign * factor * (k as f64 * angle).cos()
        });
        Scalar::Float(terms.sum())
    };
    Ok(vec![cx.b.constant(Tensor::from_fn(dtype, [size], element))])
}

/// `[points, bins]`: the real and the imaginary part of `e^(∓2πi·n·k/points)`.
fn waves<'g>(cx: &Cx<'_, 'g>, dtype: DType, points: usize, rows: usize, bins: usize, inverse: bool) -> [Val<'g>; 2] {
    let wave = |of: fn(f64) -> f64, sign: f64| {
        let element = |index: &[usize]| {
            let turn = (index[0] * index[1] % points) as f64 / points as f64;
            Scalar::Float(sign * of(2.0 * std::f64::consts::PI * turn))
        };
        cx.b.constant(Tensor::from_fn(dtype, [rows, bins], element))
    };
    [wave(f64::cos, 1.0), wave(f64::sin, if inverse { 1.0 } else { -1.0 })]
}

/// The transform of the second-last axis; the last is the real and the imaginary part, or the real part alone.
fn transform<'g>(cx: &Cx<'_, 'g>, x: Val<'g>, points: usize, bins: usize, inverse: bool) -> Val<'g> {
    let last = x.rank() - 1;
    let rows = x.shape()[last - 1];
    let [re, im] = waves(cx, x.dtype(), points, rows, bins, inverse);
    let part = |place: usize| x.slice(last, place, place + 1).squeeze([last]);
    let (real, imaginary) = match x.shape()[last] {
        1 => (part(0).matmul(re), part(0).matmul(im)),
        _ => (
            part(0).matmul(re) - part(1).matmul(im),
            part(0).matmul(im) + part(1).matmul(re),
        ),
    };
    let whole = Val::stack(&[real, imaginary], last);
    if inverse { whole / points as f64 } else { whole }
}

fn dft<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let x = cx.arg(0)?;
    let rank = x.rank();
    cx.expect(
        rank >= 2 && (1..=2).contains(&x.shape()[rank - 1]),
        "an operand without complex numbers",
    )?;
    let given = match cx.known_number(2, "axis")? {
        Some(given) => given as i64,
        None => cx.int("axis", if cx.opset < 20 { 1 } else { -2 }),
    };
    let along = axis(given, rank)?;
    cx.expect(along + 1 < rank, "a transform along the last axis")?;
    let points = match cx.known_number(1, "length")? {
        Some(length) => length.max(0.0) as usize,
        None => x.shape()[along],
    };
    cx.expect((1..=MOST_POINTS).contains(&points), "a transform of this length")?;
    let (inverse, onesided) = (cx.flag("inverse", false), cx.flag("onesided", false));
    cx.expect(!(inverse && onesided), "a one-sided inverse")?;
    let mut order: Vec<usize> = (0..rank).collect();
    order.swap(along, rank - 2);
    let moved = x.permute(order.clone());
    // Missing points are zeros, surplus ones are left out.
    let found = moved.shape()[rank - 2];
    let fitted = if found >= points {
        moved.slice(rank - 2, 0, points)
    } else {
        let mut high = vec![0; rank];
        high[rank - 2] = points - found;
        moved.pad(vec![0; rank], high, 0.0)
    };
    let bins = if onesided { points / 2 + 1 } else { points };
    Ok(vec![transform(cx, fitted, points, bins, inverse).permute(order)])
}

fn stft<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let x = cx.arg(0)?;
    cx.expect(
        x.rank() == 3 && (1..=2).contains(&x.shape()[2]),
        "a signal of another rank",
    )?;
    let step = cx.known_number(1, "step")?.unwrap_or(1.0).max(1.0) as usize;
    let window = cx.optional(2);
    let length = match (cx.known_number(3, "frame length")?, window) {
        (Some(length), _) => length.max(1.0) as usize,
        (None, Some(window)) => window.shape()[0],
        (None, None) => x.shape()[1],
    };
    cx.expect(
        length <= MOST_POINTS && length <= x.shape()[1],
        "a frame of this length",
    )?;
    // [batch, frames, parts, length] → [batch, frames, length, parts]
    let mut frames = x.windows(&[1], &[length], &[step], &[1]).permute([0, 1, 3, 2]);
    if let Some(window) = window {
        frames = frames * window.reshape([length, 1]);
    }
    let bins = if cx.flag("onesided", true) {
        length / 2 + 1
    } else {
        length
    };
    Ok(vec![transform(cx, frames, length, bins, false)])
}
