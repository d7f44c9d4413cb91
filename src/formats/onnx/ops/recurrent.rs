//! Recurrent layers, as scans over time.

use netloom_ir::ops::compound::{Step, Steps};
use netloom_ir::{Builder, DType, Val};

use super::Row;
use crate::formats::onnx::node::{Cx, Done};

pub static TABLE: &[Row] = &[
    Row("RNN", |cx| layer(cx, Cell::Rnn)),
    Row("GRU", |cx| layer(cx, Cell::Gru)),
    Row("LSTM", |cx| layer(cx, Cell::Lstm)),
];

/// What a layer does at each step.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cell {
    Rnn,
    Gru,
    Lstm,
}

impl Cell {
    /// Gates, whose weights stand below one another.
    fn gates(self) -> usize {
        match self {
            Cell::Rnn => 1,
            Cell::Gru => 3,
            Cell::Lstm => 4,
        }
    }

    /// The activations of one direction.
    fn activations(self) -> &'static [&'static str] {
        match self {
            Cell::Rnn => &["Tanh"],
            Cell::Gru => &["Sigmoid", "Tanh"],
            Cell::Lstm => &["Sigmoid", "Tanh", "Tanh"],
        }
    }
}

/// An activation by name, with its constants.
#[derive(Clone)]
struct Activation {
    name: String,
    alpha: f64,
    beta: f64,
}

impl Activation {
    fn new(name: &str, alpha: Option<f64>, beta: Option<f64>) -> Result<Activation, String> {
        let (default_alpha, default_beta) = match name {
            "Relu" | "Tanh" | "Sigmoid" | "Softsign" | "Softplus" => (0.0, 0.0),
            "LeakyRelu" => (0.01, 0.0),
            "HardSigmoid" => (0.2, 0.5),
            "Elu" | "ThresholdedRelu" => (1.0, 0.0),
            "Affine" | "ScaledTanh" => (1.0, 1.0),
            other => return Err(format!("the activation `{other}` is not supported")),
        };
        Ok(Activation {
            name: name.to_owned(),
            alpha: alpha.unwrap_or(default_alpha),
            beta: beta.unwrap_or(default_beta),
        })
    }

    fn apply<'b>(&self, x: Val<'b>) -> Val<'b> {
        match self.name.as_str() {
            "Relu" => x.relu(),
            "Tanh" => x.tanh(),
            "Sigmoid" => x.sigmoid(),
            "Softsign" => x.softsign(),
            "Softplus" => x.softplus(),
            "LeakyRelu" => x.leaky_relu(self.alpha),
            "HardSigmoid" => x.hard_sigmoid(self.alpha, self.beta),
            "Elu" => x.elu(self.alpha),
            "ThresholdedRelu" => x.thresholded_relu(self.alpha),
            "Affine" => x * self.alpha + self.beta,
            "ScaledTanh" => (x * self.beta).tanh() * self.alpha,
            other => unreachable!("`{other}` was refused"),
        }
    }
}

/// What one direction's steps need beside tensors.
struct Plan {
    cell: Cell,
    hidden: usize,
    activations: Vec<Activation>,
    clip: Option<f64>,
    input_forget: bool,
    linear_before_reset: bool,
    has_lengths: bool,
}

fn layer<'g>(cx: &Cx<'_, 'g>, cell: Cell) -> Done<'g> {
    let batch_first = cx.flag("layout", false);
    let turned = |val: Val<'g>| if batch_first { val.permute([1, 0, 2]) } else { val };
    let (x, w, r) = (cx.arg(0)?, cx.arg(1)?, cx.arg(2)?);
    cx.expect(
        x.rank() == 3 && w.rank() == 3 && r.rank() == 3,
        "an operand of another rank",
    )?;
    let x = turned(x);
    let (time, batch) = (x.shape()[0], x.shape()[1]);
    let (hidden, count) = (r.shape()[2], w.shape()[0]);
    let backwards: &[bool] = match cx.text("direction", "forward").as_str() {
        "forward" => &[false],
        "reverse" => &[true],
        "bidirectional" => &[false, true],
        other => return Err(format!("the direction `{other}` is not supported")),
    };
    cx.expect(backwards.len() == count, "weights for another number of directions")?;
    let names = cx.texts("activations");
    let (alphas, betas) = (cx.floats("activation_alpha"), cx.floats("activation_beta"));
    let per_direction = cell.activations().len();
    let lengths = cx.optional(4);
    let mut stacks = Vec::new();
    let (mut last_hidden, mut last_cell) = (Vec::new(), Vec::new());
    for (direction, &back) in backwards.iter().enumerate() {
        let of = |val: Val<'g>| val.slice(0, direction, direction + 1).squeeze([0]);
        let activations = (0..per_direction).map(|place| {
            let at = direction * per_direction + place;
            let given = names.as_ref().and_then(|names| names.get(at));
            let constant = |list: &Option<Vec<f64>>| list.as_ref().and_then(|list| list.get(at).copied());
            Activation::new(
                given.map_or(cell.activations()[place], String::as_str),
                constant(&alphas),
                constant(&betas),
            )
        });
        let plan = Plan {
            cell,
            hidden,
            activations: activations.collect::<Result<_, _>>()?,
            clip: cx.has("clip").then(|| cx.float("clip", 0.0)),
            input_forget: cx.flag("input_forget", false),
            linear_before_reset: cx.flag("linear_before_reset", false),
            has_lengths: lengths.is_some(),
        };
        let start = |place: usize| match cx.optional(place) {
            Some(initial) => of(turned(initial)),
            None => cx.b.full(x.dtype(), [batch, hidden], 0.0),
        };
        let gates = cell.gates() * hidden;
        let bias = cx.optional(3).map(of);
        let zeros = || cx.b.full(x.dtype(), [gates], 0.0);
        let (input_bias, state_bias) = match bias {
            Some(bias) => (bias.slice(0, 0, gates), bias.slice(0, gates, 2 * gates)),
            None => (zeros(), zeros()),
        };
        // What does not depend on the state is one product over all steps.
        let given = x.matmul(of(w).transpose()) + input_bias;
        let mut carried = vec![start(5)];
        if cell == Cell::Lstm {
            carried.push(start(6));
        }
        let mut constants = vec![of(r).transpose(), state_bias];
        constants.push(match (cell, cx.optional(7)) {
            (Cell::Lstm, Some(peepholes)) => of(peepholes),
            _ => cx.b.full(x.dtype(), [3 * hidden], 0.0),
        });
        constants.push(match lengths {
            Some(lengths) => lengths.cast(DType::I64),
            None => cx.b.full(DType::I64, [batch], 0.0),
        });
        let steps = Steps {
            length: time,
            carried,
            sliced: vec![given],
            constants,
            reverse: back,
        };
        let (last, stacked) = cx.b.scan(steps, |b, step| plan.step(b, step));
        stacks.push(stacked[0]);
        last_hidden.push(last[0]);
        last_cell.extend(last.get(1).copied());
    }
    // [time, directions, batch, hidden] and [directions, batch, hidden], or with the batch first.
    let place = if batch_first { 1 } else { 0 };
    let whole = Val::stack(&stacks, 1);
    let whole = if batch_first {
        whole.permute([2, 0, 1, 3])
    } else {
        whole
    };
    let mut results = vec![whole, Val::stack(&last_hidden, place)];
    if cell == Cell::Lstm {
        results.push(Val::stack(&last_cell, place));
    }
    Ok(results)
}

impl Plan {
    fn step<'b>(&self, b: &'b Builder, step: Step<'b>) -> (Vec<Val<'b>>, Vec<Val<'b>>) {
        let &[recurrent, state_bias, peepholes, lengths] = step.constants.as_slice() else {
            unreachable!("there are four constants")
        };
        let (given, hidden) = (step.sliced[0], step.carried[0]);
        let part = |val: Val<'b>, gate: usize| {
            let axis = val.rank() - 1;
            val.slice(axis, gate * self.hidden, (gate + 1) * self.hidden)
        };
        let clipped = |x: Val<'b>| self.clip.map_or(x, |most| x.clamp(-most, most));
        let apply = |place: usize, x: Val<'b>| self.activations[place].apply(clipped(x));
        let mut next = match self.cell {
            Cell::Rnn => vec![apply(0, given + hidden.matmul(recurrent) + state_bias)],
            Cell::Gru => {
                let both = hidden.matmul(recurrent) + state_bias;
                let update = apply(0, part(given, 0) + part(both, 0));
                let reset = apply(0, part(given, 1) + part(both, 1));
                let candidate = if self.linear_before_reset {
                    part(given, 2) + reset * part(both, 2)
                } else {
                    part(given, 2) + (reset * hidden).matmul(part(recurrent, 2)) + part(state_bias, 2)
                };
                let candidate = apply(1, candidate);
                vec![(1.0 - update) * candidate + update * hidden]
            }
            Cell::Lstm => {
                let memory = step.carried[1];
                let all = given + hidden.matmul(recurrent) + state_bias;
                // In ONNX's order: input, output, forget, candidate; peepholes: input, output, forget.
                let input = apply(0, part(all, 0) + part(peepholes, 0) * memory);
                let forget = match self.input_forget {
                    true => 1.0 - input,
                    false => apply(0, part(all, 2) + part(peepholes, 2) * memory),
                };
                let candidate = apply(1, part(all, 3));
                let memory = forget * memory + input * candidate;
                let output = apply(0, part(all, 1) + part(peepholes, 1) * memory);
                vec![output * self.activations[2].apply(memory), memory]
            }
        };
        let mut row = next[0];
        if self.has_lengths {
            // Beyond its end a sequence stays as it was, and gives zeros.
            let shape = row.shape();
            let inside = lengths.gt(step.entry).spread(&[1], &shape);
            row = inside.select(row, b.full(row.dtype(), shape, 0.0));
            next = next
                .into_iter()
                .zip(&step.carried)
                .map(|(new, &old)| inside.select(new, old))
                .collect();
        }
        (next, vec![row])
    }
}
