//! ONNX's preview of training: optimisers and gradients.

use netloom_ir::{Val, autodiff};

use super::Row;
use crate::formats::onnx::node::{Cx, Done};

/// The operators of the domain `ai.onnx.preview.training`.
pub static TABLES: &[&[Row]] = &[&[
    Row("Gradient", gradient),
    Row("Adagrad", |cx| update(cx, 1, adagrad)),
    Row("Adam", |cx| update(cx, 2, adam)),
    Row("Momentum", |cx| update(cx, 1, momentum)),
]];

fn gradient<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let names = cx.texts("xs").unwrap_or_default();
    let value = |name: &str| cx.value(name).ok_or_else(|| format!("there is no value `{name}`"));
    let of = value(&cx.text("y", ""))?;
    let wrt: Vec<Val<'g>> = names.iter().map(|name| value(name)).collect::<Result<_, _>>()?;
    Ok(autodiff::grad(of.sum_all(), &wrt))
}

/// What an optimiser is given for one tensor: its value, gradient and moments.
struct Parameter<'g> {
    rate: Val<'g>,
    step: Val<'g>,
    value: Val<'g>,
    gradient: Val<'g>,
    moments: Vec<Val<'g>>,
}

/// Runs an optimiser's rule for each tensor. Operands: the rate, the step, then all values, all gradients, all first moments …;
/// results: all values, all first moments ….
fn update<'g>(
    cx: &Cx<'_, 'g>,
    moments: usize,
    rule: fn(&Cx<'_, 'g>, Parameter<'g>) -> Result<Vec<Val<'g>>, String>,
) -> Done<'g> {
    let all = cx.all()?;
    let (&[rate, step], tensors) = all.split_first_chunk::<2>().ok_or("operands are missing")?;
    let count = tensors.len() / (2 + moments);
    cx.expect(tensors.len() == count * (2 + moments), "an incomplete list of tensors")?;
    let mut columns = vec![Vec::new(); 1 + moments];
    for place in 0..count {
        let group: Vec<Val<'g>> = tensors.iter().copied().skip(place).step_by(count).collect();
        let value = group[0];
        let results = rule(
            cx,
            Parameter {
                rate: rate.cast(value.dtype()),
                step,
                value,
                gradient: group[1] + value * cx.float("norm_coefficient", 0.0),
                moments: group[2..].to_vec(),
            },
        )?;
        columns
            .iter_mut()
            .zip(results)
            .for_each(|(column, result)| column.push(result));
    }
    Ok(columns.concat())
}

fn adagrad<'g>(cx: &Cx<'_, 'g>, parameter: Parameter<'g>) -> Done<'g> {
    let Parameter {
        rate,
        step,
        value,
        gradient,
        moments,
    } = parameter;
    let rate = rate / (step.cast(value.dtype()) * cx.float("decay_factor", 0.0) + 1.0);
    let squares = moments[0] + gradient * gradient;
    let next = value - rate * gradient / (squares.sqrt() + cx.float("epsilon", 1e-6));
    Ok(vec![next, squares])
}

fn adam<'g>(cx: &Cx<'_, 'g>, parameter: Parameter<'g>) -> Done<'g> {
    let Parameter {
        rate,
        step,
        value,
        gradient,
        moments,
    } = parameter;
    let (alpha, beta) = (cx.float("alpha", 0.9), cx.float("beta", 0.999));
    let first = moments[0] * alpha + gradient * (1.0 - alpha);
    let second = moments[1] * beta + gradient * gradient * (1.0 - beta);
    let steps = step.cast(value.dtype());
    let power = |base: f64| value.lit(base).pow(steps);
    let corrected = rate * (1.0 - power(beta)).sqrt() / (1.0 - power(alpha));
    let rate = steps.gt(0.0).select(corrected, rate);
    let next = value - rate * first / (second.sqrt() + cx.float("epsilon", 1e-6));
    Ok(vec![
        next * (1.0 - cx.float("norm_coefficient_post", 0.0)),
        first,
        second,
    ])
}

fn momentum<'g>(cx: &Cx<'_, 'g>, parameter: Parameter<'g>) -> Done<'g> {
    let Parameter {
        rate,
        step,
        value,
        gradient,
        moments,
    } = parameter;
    let (alpha, beta) = (cx.float("alpha", 0.0), cx.float("beta", 1.0));
    let beta = step.gt(0.0).select(value.lit(beta), value.lit(1.0));
    let moment = moments[0] * alpha + beta * gradient;
    let direction = match cx.text("mode", "standard").as_str() {
        "standard" => moment,
        "nesterov" => gradient + moment * alpha,
        other => return Err(format!("the mode `{other}` is not supported")),
    };
    Ok(vec![value - rate * direction, moment])
}
