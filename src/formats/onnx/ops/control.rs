//! Branches and loops.
//!
//! A loop whose number of steps is known is unrolled; a branch whose condition is known is that branch, any other computes both and
//! selects.

use netloom_ir::{DType, Val};

use super::Row;
use super::shape::ints;
use crate::formats::onnx::node::{Cx, Done, axis};

pub static TABLE: &[Row] = &[Row("If", branch), Row("Loop", repeat), Row("Scan", scan)];

/// Steps that a loop is unrolled to.
const MOST_STEPS: usize = 1024;

fn branch<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let condition = cx.arg(0)?;
    let side = |name: &str| cx.body(cx.graph(name)?, &[]);
    if let Ok(known) = cx.known(condition, "condition") {
        cx.expect(known.count() == 1, "a condition that is not one truth value")?;
        return side(if known.get(0).is_nonzero() {
            "then_branch"
        } else {
            "else_branch"
        });
    }
    let (then, otherwise) = (side("then_branch")?, side("else_branch")?);
    cx.expect(
        then.len() == otherwise.len(),
        "branches with different numbers of results",
    )?;
    let pairs = then.into_iter().zip(otherwise);
    let chosen = pairs.map(|(yes, no)| {
        let fits = yes.is_poison() || no.is_poison() || yes.ty() == no.ty();
        cx.expect(
            fits,
            "a branch whose results differ in type, with a condition that is not known,",
        )?;
        Ok(condition.reshape([]).select(yes, no))
    });
    chosen.collect()
}

fn repeat<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let body = cx.graph("body")?;
    let most = cx.known_number(0, "number of steps")?;
    let mut condition = cx.optional(1);
    let mut carried: Vec<Val<'g>> = (2..cx.operand_count())
        .map(|place| cx.arg(place))
        .collect::<Result<_, _>>()?;
    let mut stacks: Vec<Vec<Val<'g>>> = vec![Vec::new(); cx.result_count().saturating_sub(carried.len())];
    let mut step = 0;
    while most.is_none_or(|most| (step as f64) < most) {
        if let Some(condition) = condition {
            let goes_on = cx.known(condition, "condition")?;
            if !goes_on.scalars().all(|x| x.is_nonzero()) {
                break;
            }
        }
        cx.expect(step < MOST_STEPS, "a loop of more than 1024 steps")?;
        let always = cx.b.full(DType::Bool, [], 1.0);
        let args = [
            &[ints(cx, &[], &[step as i64]), condition.unwrap_or(always)],
            carried.as_slice(),
        ]
        .concat();
        let results = cx.body(body, &args)?;
        cx.expect(results.len() > carried.len(), "a body with too few results")?;
        // Without a condition of its own, the loop ends by its number of steps or the body's word.
        condition = Some(results[0]);
        let (next, rows) = results[1..].split_at(carried.len());
        carried = next.to_vec();
        stacks.iter_mut().zip(rows).for_each(|(stack, row)| stack.push(*row));
        step += 1;
    }
    for stack in stacks {
        cx.expect(!stack.is_empty(), "stacking the results of a loop without steps")?;
        carried.push(Val::stack(&stack, 0));
    }
    Ok(carried)
}

fn scan<'g>(cx: &Cx<'_, 'g>) -> Done<'g> {
    let body = cx.graph("body")?;
    if cx.opset >= 9 {
        return steps(cx, body, &cx.all()?);
    }
    // Opset 8: lengths, then everything with a batch.
    cx.expect(cx.optional(0).is_none(), "a scan over sequences of several lengths")?;
    let operands: Vec<Val<'g>> = (1..cx.operand_count())
        .map(|place| cx.arg(place))
        .collect::<Result<_, _>>()?;
    let batch = operands
        .first()
        .and_then(|val| val.shape().first().copied())
        .ok_or("there is no batch")?;
    cx.expect(batch <= MOST_STEPS && batch > 0, "a batch of this size")?;
    let mut results: Vec<Vec<Val<'g>>> = Vec::new();
    for example in 0..batch {
        let part = |val: &Val<'g>| val.slice(0, example, example + 1).squeeze([0]);
        let parts: Vec<Val<'g>> = operands.iter().map(part).collect();
        results.push(steps(cx, body, &parts)?);
    }
    let count = results[0].len();
    Ok((0..count)
        .map(|result| Val::stack(&results.iter().map(|row| row[result]).collect::<Vec<_>>(), 0))
        .collect())
}

/// A scan over the first axes, unrolled.
fn steps<'g>(cx: &Cx<'_, 'g>, body: &crate::formats::onnx::proto::GraphProto, operands: &[Val<'g>]) -> Done<'g> {
    let sliced = cx.int("num_scan_inputs", 1).clamp(0, operands.len() as i64) as usize;
    let (initial, sliced) = operands.split_at(operands.len() - sliced);
    let each = |name: &str, count: usize| cx.ints(name).unwrap_or_else(|| vec![0; count]);
    let directions = each(
        if cx.opset >= 9 {
            "scan_input_directions"
        } else {
            "directions"
        },
        sliced.len(),
    );
    let given = each("scan_input_axes", sliced.len());
    cx.expect(
        given.len() == sliced.len() && directions.len() == sliced.len(),
        "axes for other operands",
    )?;
    let axes: Vec<usize> = given
        .iter()
        .zip(sliced)
        .map(|(&one, val)| axis(one, val.rank()))
        .collect::<Result<_, _>>()?;
    let lengths: Vec<usize> = sliced.iter().zip(&axes).map(|(val, &axis)| val.shape()[axis]).collect();
    let length = *lengths.first().ok_or("nothing is scanned")?;
    cx.expect(
        lengths.iter().all(|&other| other == length),
        "a scan over different lengths",
    )?;
    cx.expect((1..=MOST_STEPS).contains(&length), "a scan of this length")?;
    let mut carried = initial.to_vec();
    let mut stacks: Vec<Vec<Val<'g>>> = Vec::new();
    for step in 0..length {
        let entries = sliced.iter().zip(&axes).zip(&directions).map(|((val, &axis), &back)| {
            let at = if back == 1 { length - 1 - step } else { step };
            val.slice(axis, at, at + 1).squeeze([axis])
        });
        let args: Vec<Val<'g>> = carried.iter().copied().chain(entries).collect();
        let results = cx.body(body, &args)?;
        cx.expect(results.len() >= carried.len(), "a body with too few results")?;
        let (next, rows) = results.split_at(carried.len());
        stacks.resize(rows.len(), Vec::new());
        stacks.iter_mut().zip(rows).for_each(|(stack, row)| stack.push(*row));
        carried = next.to_vec();
    }
    let (out_axes, out_back) = (
        each("scan_output_axes", stacks.len()),
        each("scan_output_directions", stacks.len()),
    );
    for (place, mut stack) in stacks.into_iter().enumerate() {
        if out_back.get(place) == Some(&1) {
            stack.reverse();
        }
        let axis = axis(out_axes.get(place).copied().unwrap_or(0), stack[0].rank() + 1)?;
        carried.push(Val::stack(&stack, axis));
    }
    Ok(carried)
}
