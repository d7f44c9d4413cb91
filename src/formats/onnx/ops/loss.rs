//! Losses.

use netloom_ir::{DType, Val};

use super::Row;
use crate::formats::onnx::node::Cx;

pub static TABLE: &[Row] = &[
    Row("NegativeLogLikelihoodLoss", |cx| Ok(vec![likelihood(cx, cx.arg(0)?)?])),
    Row("SoftmaxCrossEntropyLoss", |cx| {
        let logarithms = cx.arg(0)?.log_softmax(1);
        Ok(vec![likelihood(cx, logarithms)?, logarithms])
    }),
];

/// Minus the logarithm at each label, weighted, and reduced as asked.
fn likelihood<'g>(cx: &Cx<'_, 'g>, logarithms: Val<'g>) -> Result<Val<'g>, String> {
    let labels = cx.arg(1)?.cast(DType::I64);
    let shape = logarithms.shape();
    cx.expect(shape.len() >= 2, "an operand without classes")?;
    let wanted = labels.spread(&[1], &shape);
    let hit = cx.b.iota(DType::I64, shape.clone(), 1).eq(wanted);
    let weights = match cx.optional(2) {
        Some(weights) => weights
            .reshape([vec![shape[1]], vec![1; shape.len() - 2]].concat())
            .broadcast(shape),
        None => cx.b.full(logarithms.dtype(), shape, 1.0),
    };
    let mut weight = hit.select(weights, 0.0).sum([1]);
    let mut loss = -hit.select(logarithms * weights, 0.0).sum([1]);
    if cx.has("ignore_index") {
        let ignored = labels.eq(cx.int("ignore_index", 0) as f64);
        weight = ignored.select(weight * 0.0, weight);
        loss = ignored.select(loss.lit(0.0), loss);
    }
    match cx.text("reduction", "mean").as_str() {
        "none" => Ok(loss),
        "sum" => Ok(loss.sum_all()),
        "mean" => Ok(loss.sum_all() / weight.sum_all()),
        other => Err(format!("the reduction `{other}` is not supported")),
    }
}
