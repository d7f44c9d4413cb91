//! Weights under PyTorch's names.
//!
//! | PyTorch | here |
//! |---|---|
//! | names, convolution kernels, biases, norms and their statistics | the same |
//! | `weight` of a dense layer, `[out, in]` | `[in, out]` |
//! | `num_batches_tracked`, read by nothing but cumulative averages | not kept |
//! | `aux1`, `aux2` of GoogLeNet | in training only |
//! | `weight_ih_l0`, `weight_hh_l0` of a recurrent layer | `weight_ih`, `weight_hh` |
//! | `bias_ih_l0` and `bias_hh_l0` of an LSTM or a simple cell | their sum, `bias_ih` |

use std::cell::RefCell;
use std::rc::Rc;

use netloom_ir::builder::Builder;
use netloom_ir::{DType, Tensor};

use super::Net;
use crate::error::Error;
use crate::nn::layers::Layer;
use crate::nn::scope::{Mode, Scope, States};
use crate::weights::{Weight, Weights};

/// The weights of a network from tensors under PyTorch's names and in its layouts.
///
/// # Errors
/// If a tensor is missing, unknown or of another shape.
pub fn from_torch(net: &Net, tensors: Vec<(String, Tensor)>) -> Result<Weights, Error> {
    // What prediction needs must be there; what training has besides may be.
    let needed = states_of(net, Mode::Inference);
    let known = states_of(net, Mode::Training);
    let mut problems = Vec::new();
    let mut converted: Vec<(String, Weight)> = Vec::new();
    for (name, tensor) in with_one_bias(tensors, &known) {
        if name.ends_with("num_batches_tracked") {
            continue;
        }
        let weight = match known.is_transposed_in_torch(&name) {
            true => Weight::transposed(tensor),
            false => tensor.into(),
        };
        match known.states().iter().find(|state| state.name == name) {
            None => problems.push(format!("`{name}` is unknown")),
            Some(state) if state.ty != weight.ty() => {
                problems.push(format!("`{name}` is {}, the network has {}", weight.ty(), state.ty));
            }
            Some(_) => converted.push((name, weight)),
        }
    }
    let is_there = |name: &str| converted.iter().any(|(known, _)| known == name);
    let missing = needed.states().iter().filter(|state| !is_there(&state.name));
    problems.extend(missing.map(|state| format!("`{}` is missing", state.name)));
    if problems.is_empty() {
        return Ok(converted.into_iter().collect());
    }
    Err(Error::Usage(format!(
        "these are not the weights of `{}`: {}",
        net.name,
        problems.join("; ")
    )))
}

/// The tensors of recurrent layers without the number of the layer, and biases that only occur as a sum added up.
fn with_one_bias(tensors: Vec<(String, Tensor)>, known: &States) -> Vec<(String, Tensor)> {
    let plain = |name: String| name.strip_suffix("_l0").map(str::to_owned).unwrap_or(name);
    let mut tensors: Vec<(String, Tensor)> = tensors.into_iter().map(|(name, x)| (plain(name), x)).collect();
    let is_known = |name: &str| known.states().iter().any(|state| state.name == name);
    let second = |(name, _): &(String, Tensor)| name.ends_with("bias_hh") && !is_known(name);
    while let Some(at) = tensors.iter().position(second) {
        let (name, other) = tensors.swap_remove(at);
        let name = name.replace("bias_hh", "bias_ih");
        let first = tensors
            .iter_mut()
            .find(|(known, x)| *known == name && x.ty() == other.ty());
        match first {
            Some((_, bias)) => {
                let sum: Vec<f32> = bias.to_f32().iter().zip(other.to_f32()).map(|(a, b)| a + b).collect();
                *bias = Tensor::from_f32(bias.shape(), &sum);
            }
            None => tensors.push((name, other)),
        }
    }
    tensors
}

fn states_of(net: &Net, mode: Mode) -> States {
    let builder = Builder::new();
    let states = Rc::new(RefCell::new(States::default()));
    {
        let scope = Scope::new(&builder, mode, Rc::clone(&states));
        let x = builder.input("x", DType::F32, net.input(1).shape);
        (net.layers)().build(&scope, x);
    }
    states.take()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_biases_of_an_lstm_are_added() {
        let net = super::super::find("lstm").unwrap();
        let tensor = |shape: &[usize], value: f32| Tensor::from_f32(shape, &vec![value; shape.iter().product()]);
        let tensors = [
            ("rnn.weight_ih_l0", tensor(&[512, 64], 1.0)),
            ("rnn.weight_hh_l0", tensor(&[512, 128], 2.0)),
            ("rnn.bias_ih_l0", tensor(&[512], 3.0)),
            ("rnn.bias_hh_l0", tensor(&[512], 4.0)),
            ("out.weight", tensor(&[10, 128], 5.0)),
            ("out.bias", tensor(&[10], 6.0)),
        ];
        let named = |tensors: &[(&str, Tensor)]| tensors.iter().map(|(n, x)| ((*n).to_owned(), x.clone())).collect();
        let converted = from_torch(net, named(&tensors)).unwrap();
        let tensor = |name: &str| converted.clone().take(name).expect("a weight").tensor();
        assert_eq!(tensor("rnn.bias_ih").to_f32(), [7.0; 512]);
        assert_eq!(tensor("rnn.weight_hh").shape(), [128, 512]);
        let wrong = from_torch(net, named(&tensors[..2])).unwrap_err().to_string();
        assert!(wrong.contains("`rnn.bias_ih` is missing"), "{wrong}");
    }
}
