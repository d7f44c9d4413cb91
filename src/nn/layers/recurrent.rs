//! Recurrent layers over `[batch, time, features]`: loops over time as [`scan`](netloom_ir::Builder::scan), whose gradient is
//! backpropagation through time.
//!
//! What does not depend on the step before, the projection of the inputs, is one contraction for all steps, outside of the loop.

use netloom_ir::builder::Val;
use netloom_ir::ops::compound::Steps;
use netloom_ir::{DType, Tensor};

use super::Layer;
use crate::nn::init::Initialiser;
use crate::nn::scope::Scope;

/// What happens at a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell {
    /// `h' = tanh(x W + h U + b)`; J. Elman, "Finding structure in time", 1990.
    Simple,
    /// Gates `r`, `z` and a candidate `n = tanh(x W + b + r (h U + c))`; `h' = (1 - z) n + z h`; K. Cho et al., EMNLP 2014, in the form that
    /// PyTorch and Keras compute.
    Gru,
    /// Gates `i`, `f`, `o` and a candidate `g`; `c' = f c + i g`, `h' = o tanh(c')`; S. Hochreiter, J. Schmidhuber, "Long short-term
    /// memory", 1997, with the forget gate of F. Gers et al., 2000.
    Lstm,
}

/// A recurrent layer. `weight_ih` is `[features, gates × units]`, `weight_hh` `[units, gates × units]`, the gates in PyTorch's order, `bias_ih` `[gates × units]`;
/// a GRU also has `bias_hh`, `[units]`, for its candidate. The result is that of the last step, `[batch, units]`, or of every step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recurrent {
    /// What happens at a step.
    pub cell: Cell,
    /// The length of what one step hands to the next.
    pub units: usize,
    /// Whether every step gives a result: `[batch, time, units]`.
    pub sequences: bool,
    /// Whether the last step comes first.
    pub reverse: bool,
    /// Whether a run starts where the last one of the same mode ended, example by example: training is truncated backpropagation through time.
    pub stateful: bool,
    /// Steps of an example in which every feature is this value are passed over: for sequences of different lengths.
    pub padding: Option<f64>,
}

/// What the states are called in which runs hand on what steps do: `NAME.training` and `NAME.inference`.
pub const CARRIED: [&str; 2] = ["hidden", "cell"];

impl Recurrent {
    /// The result of the last step of such cells, forwards, without memory between runs.
    pub fn new(cell: Cell, units: usize) -> Recurrent {
        Recurrent {
            cell,
            units,
            sequences: false,
            reverse: false,
            stateful: false,
            padding: None,
        }
    }

    /// A layer of LSTM cells.
    pub fn lstm(units: usize) -> Recurrent {
        Recurrent::new(Cell::Lstm, units)
    }

    /// The same with a result for each step.
    #[must_use]
    pub fn sequences(self) -> Recurrent {
        Recurrent {
            sequences: true,
            ..self
        }
    }

    /// The same with memory between runs.
    #[must_use]
    pub fn stateful(self) -> Recurrent {
        Recurrent { stateful: true, ..self }
    }

    /// The same passing over steps that are all this value.
    #[must_use]
    pub fn padding(self, value: f64) -> Recurrent {
        let padding = Some(value);
        Recurrent { padding, ..self }
    }

    /// What one step hands to the next at the beginning.
    fn start<'g>(&self, scope: &Scope<'g>, batch: usize) -> Vec<Val<'g>> {
        let zeros = Tensor::zeros(DType::F32, [batch, self.units]);
        let names = CARRIED.into_iter().take(self.cell.carried());
        match self.stateful {
            true => names
                .map(|name| scope.state(&kept(scope, name), zeros.clone()))
                .collect(),
            false => names.map(|_| scope.builder().constant(zeros.clone())).collect(),
        }
    }
}

/// The name of a state that runs of the scope's mode hand on: evaluation must not disturb training.
fn kept(scope: &Scope<'_>, name: &str) -> String {
    format!("{name}.{}", if scope.is_training() { "training" } else { "inference" })
}

impl Cell {
    fn gates(self) -> usize {
        match self {
            Cell::Simple => 1,
            Cell::Gru => 3,
            Cell::Lstm => 4,
        }
    }

    /// The number of values that a step hands on.
    fn carried(self) -> usize {
        if self == Cell::Lstm { 2 } else { 1 }
    }

    /// The next carried values, from the projected inputs, the last ones, the recurrent weight and the candidate's bias.
    fn next<'b>(self, x: Val<'b>, carried: &[Val<'b>], weight: Val<'b>, bias: Option<Val<'b>>) -> Vec<Val<'b>> {
        let h = carried[0];
        // Gates lie one behind the other, so that each is contiguous, and so is each one's gradient in theirs.
        let units = h.shape()[1];
        let weight = weight.reshape([units, self.gates(), units]);
        let hidden = Val::einsum("bk,kgu->gbu", &[h, weight]);
        let gate = |of: Val<'b>, at: usize| of.slice(0, at, at + 1).squeeze([0]);
        match self {
            Cell::Simple => vec![gate(x + hidden, 0).tanh()],
            Cell::Gru => {
                let both = |at: usize| (gate(x, at) + gate(hidden, at)).sigmoid();
                let (reset, keep) = (both(0), both(1));
                let inner = gate(hidden, 2);
                let candidate = (gate(x, 2) + reset * bias.map_or(inner, |bias| inner + bias)).tanh();
                vec![candidate + keep * (h - candidate)]
            }
            Cell::Lstm => {
                let sum = x + hidden;
                let [input, forget, output] = [0, 1, 3].map(|at| gate(sum, at).sigmoid());
                let c = forget * carried[1] + input * gate(sum, 2).tanh();
                vec![output * c.tanh(), c]
            }
        }
    }

    /// Zeros, but for the forget gate, which starts open; R. Jozefowicz et al., ICML 2015.
    fn bias(self, units: usize) -> Initialiser {
        if self != Cell::Lstm {
            return Initialiser::Zeros;
        }
        let start: Vec<f32> = (0..4 * units).map(|at| f32::from(u8::from(at / units == 1))).collect();
        Initialiser::Tensor(Tensor::from_f32([4 * units], &start))
    }
}

impl Layer for Recurrent {
    fn describe(&self) -> String {
        format!("{:?}({})", self.cell, self.units)
    }

    #[track_caller]
    fn build<'g>(&self, scope: &Scope<'g>, x: Val<'g>) -> Val<'g> {
        if x.is_poison() {
            return x;
        }
        let &[batch, length, features] = x.shape().as_slice() else {
            let message = format!("recurrent: takes [batch, time, features], found {}", x.ty());
            return scope.builder().problem(message);
        };
        let (cell, units) = (self.cell, self.units);
        let width = cell.gates() * units;
        let weight = scope.matrix("weight_ih", [features, width], &Initialiser::XavierUniform);
        let recurrent = scope.matrix("weight_hh", [units, width], &Initialiser::Orthogonal(1.0));
        let bias = scope.parameter("bias_ih", [width], &cell.bias(units));
        let by_gate = weight.reshape([features, cell.gates(), units]);
        let projected = Val::einsum("btf,fgu->tgbu", &[x, by_gate]);
        let mut sliced = vec![projected + bias.reshape([cell.gates(), 1, units])];
        if let Some(value) = self.padding {
            sliced.push(x.permute([1, 0, 2]).ne(value).any([2]).unsqueeze([2]));
        }
        let mut constants = vec![recurrent];
        if cell == Cell::Gru {
            constants.push(scope.parameter("bias_hh", [units], &Initialiser::Zeros));
        }
        let (sequences, reverse) = (self.sequences, self.reverse);
        let carried = self.start(scope, batch);
        let steps = Steps {
            length,
            carried,
            sliced,
            constants,
            reverse,
        };
        let (last, stacked) = scope.builder().scan(steps, |_, step| {
            let bias = step.constants.get(1).copied();
            let mut next = cell.next(step.sliced[0], &step.carried, step.constants[0], bias);
            if let Some(&is_there) = step.sliced.get(1) {
                let is_there = is_there.broadcast([batch, units]);
                let pairs = next.iter().zip(&step.carried);
                next = pairs.map(|(&new, &old)| is_there.select(new, old)).collect();
            }
            let stacked = if sequences { vec![next[0]] } else { Vec::new() };
            (next, stacked)
        });
        if self.stateful {
            let kept = |name: &str| kept(scope, name);
            CARRIED
                .iter()
                .zip(&last)
                .for_each(|(name, &value)| scope.update(&kept(name), value));
        }
        match stacked.first() {
            Some(stacked) => stacked.permute([1, 0, 2]),
            None => last[0],
        }
    }
}

/// A layer forwards and the same backwards, their results side by side: `[batch, …, 2 × units]`. M. Schuster, K. Paliwal, 1997.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bidirectional(pub Recurrent);

impl Layer for Bidirectional {
    fn describe(&self) -> String {
        format!("Bidirectional({})", self.0.describe())
    }

    #[track_caller]
    fn build<'g>(&self, scope: &Scope<'g>, x: Val<'g>) -> Val<'g> {
        let backwards = Recurrent {
            reverse: !self.0.reverse,
            ..self.0
        };
        let parts = [
            self.0.build(&scope.enter("forward"), x),
            backwards.build(&scope.enter("backward"), x),
        ];
        match parts.iter().find(|part| part.is_poison()) {
            Some(poison) => *poison,
            None => Val::concat(&parts, parts[0].rank() - 1),
        }
    }
}

/// A layer applied to every step of `[batch, time, …]` alike, with the same parameters: frames of a film to their features.
pub struct TimeDistributed {
    layer: Box<dyn Layer>,
}

impl TimeDistributed {
    /// Each step by this layer.
    pub fn new(layer: impl Layer + 'static) -> TimeDistributed {
        TimeDistributed { layer: Box::new(layer) }
    }
}

impl Layer for TimeDistributed {
    fn describe(&self) -> String {
        format!("TimeDistributed({})", self.layer.describe())
    }

    #[track_caller]
    fn build<'g>(&self, scope: &Scope<'g>, x: Val<'g>) -> Val<'g> {
        if x.is_poison() {
            return x;
        }
        let shape = x.shape();
        let &[batch, time, ref step @ ..] = shape.as_slice() else {
            let message = format!("time distributed: takes [batch, time, …], found {}", x.ty());
            return scope.builder().problem(message);
        };
        // Steps are examples to the layer.
        let with = |first: &[usize], rest: &[usize]| [first, rest].concat();
        let y = self.layer.build(scope, x.reshape(with(&[batch * time], step)));
        match y.shape().split_first() {
            Some((_, rest)) if !y.is_poison() => y.reshape(with(&[batch, time], rest)),
            _ => y,
        }
    }
}
