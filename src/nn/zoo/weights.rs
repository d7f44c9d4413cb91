//! Weights under PyTorch's names.
//!
//! | PyTorch | here |
//! |---|---|
//! | names, convolution kernels, biases, norms and their statistics | the same |
//! | `weight` of a dense layer, `[out, in]` | `[in, out]` |
//! | `num_batches_tracked`, read by nothing but cumulative averages | not kept |
//! | `aux1`, `aux2` of GoogLeNet | in training only |

use std::cell::RefCell;
use std::rc::Rc;

use netloom_ir::builder::Builder;
use netloom_ir::{DType, Tensor};

use super::Net;
use crate::error::Error;
use crate::nn::layers::Layer;
use crate::nn::scope::{Mode, Scope, States};

/// The states of a network from tensors under PyTorch's names and in its layouts.
///
/// # Errors
/// If a tensor is missing, unknown or of another shape.
pub fn from_torch(net: &Net, tensors: Vec<(String, Tensor)>) -> Result<Vec<(String, Tensor)>, Error> {
    // What prediction needs must be there; what training has besides may be.
    let needed = states_of(net, Mode::Inference);
    let known = states_of(net, Mode::Training);
    let mut problems = Vec::new();
    let mut converted: Vec<(String, Tensor)> = Vec::new();
    for (name, tensor) in tensors {
        if name.ends_with("num_batches_tracked") {
            continue;
        }
        let tensor = if known.is_transposed_in_torch(&name) {
            transposed(&tensor)
        } else {
            tensor
        };
        match known.states().iter().find(|state| state.name == name) {
            None => problems.push(format!("`{name}` is unknown")),
            Some(state) if state.ty != tensor.ty() => {
                problems.push(format!("`{name}` is {}, the network has {}", tensor.ty(), state.ty));
            }
            Some(_) => converted.push((name, tensor)),
        }
    }
    let is_there = |name: &str| converted.iter().any(|(known, _)| known == name);
    let missing = needed.states().iter().filter(|state| !is_there(&state.name));
    problems.extend(missing.map(|state| format!("`{}` is missing", state.name)));
    if problems.is_empty() {
        return Ok(converted);
    }
    Err(Error::Usage(format!(
        "these are not the weights of `{}`: {}",
        net.name,
        problems.join("; ")
    )))
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

/// A matrix with rows and columns exchanged; other tensors as they are.
fn transposed(tensor: &Tensor) -> Tensor {
    let &[rows, columns] = tensor.shape() else {
        return tensor.clone();
    };
    let size = tensor.dtype().size_bytes();
    let from = tensor.bytes();
    let mut bytes = vec![0; from.len()];
    // By squares, so that both sides stay in the first cache: VGG's first dense layer has 100 million elements.
    const SIDE: usize = 32;
    for row in (0..rows).step_by(SIDE) {
        for column in (0..columns).step_by(SIDE) {
            for r in row..rows.min(row + SIDE) {
                for c in column..columns.min(column + SIDE) {
                    bytes[(c * rows + r) * size..][..size].copy_from_slice(&from[(r * columns + c) * size..][..size]);
                }
            }
        }
    }
    Tensor::from_bytes(tensor.dtype(), [columns, rows], bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_is_transposed_whatever_its_size() {
        for (rows, columns) in [(0, 3), (1, 1), (3, 2), (33, 64), (65, 31)] {
            let elements: Vec<f32> = (0..rows * columns).map(|at| at as f32).collect();
            let found = transposed(&Tensor::from_f32([rows, columns], &elements));
            assert_eq!(found.shape(), [columns, rows]);
            for at in 0..rows * columns {
                let expected = (at % rows * columns + at / rows) as f64;
                assert_eq!(found.get(at).as_f64(), expected, "{rows}×{columns} at {at}");
            }
        }
    }
}
