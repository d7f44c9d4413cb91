//! For tests: gradients of orders 1 and 2 against finite differences of the oracle.

use super::grad;
use crate::builder::{Builder, Val};
use crate::dtype::{DType, Scalar};
use crate::oracle;
use crate::tensor::Tensor;

/// The step of the central differences, whose error is then about 1e-10 for values near 1.
const STEP: f64 = 1e-5;
const TOLERANCE: f64 = 1e-6;

/// Asserts that the gradient of `build` with respect to each input, and the gradient of that gradient, are what differences say.
/// The inputs lie where the function is smooth.
pub(crate) fn check_gradients(name: &str, inputs: &[Tensor], build: impl for<'g> Fn(&[Val<'g>]) -> Val<'g>) {
    let b = Builder::new();
    let names: Vec<String> = (0..inputs.len()).map(|input| format!("x{input}")).collect();
    let args: Vec<Val<'_>> = names
        .iter()
        .zip(inputs)
        .map(|(name, input)| b.input(name, DType::F64, input.shape()))
        .collect();
    let first = weighted_sum(build(&args));
    let first_grads = grad(first, &args);
    let second = first_grads.iter().map(|&val| weighted_sum(val));
    let second = second
        .reduce(|sum, term| sum + term)
        .expect("an input to differentiate");
    let second_grads = grad(second, &args);
    let outputs = [vec![first, second], first_grads, second_grads].concat();
    let outputs = outputs
        .into_iter()
        .enumerate()
        .map(|(place, val)| (place.to_string(), val));
    let graph = b
        .finish(outputs)
        .unwrap_or_else(|problems| panic!("{name}: {problems}"));
    let run = |inputs: &[Tensor]| -> Vec<Tensor> {
        let inputs: Vec<(&str, Tensor)> = names.iter().map(String::as_str).zip(inputs.iter().cloned()).collect();
        let outputs = oracle::run(&graph, &inputs).expect("inputs of the declared types");
        outputs.into_iter().map(|(_, value)| value).collect()
    };
    let found = run(inputs);
    for (input, tensor) in inputs.iter().enumerate() {
        for place in 0..tensor.count() {
            let at = |step: f64| {
                let mut moved = inputs.to_vec();
                moved[input].set(place, Scalar::Float(tensor.get(place).as_f64() + step));
                run(&moved)
            };
            let (low, high) = (at(-STEP), at(STEP));
            for order in 0..2 {
                let value = |run: &[Tensor]| run[order].get(0).as_f64();
                let expected = (value(&high) - value(&low)) / (2.0 * STEP);
                let found = found[2 + order * inputs.len() + input].get(place).as_f64();
                assert!(
                    (expected - found).abs() <= TOLERANCE * (1.0 + expected.abs()),
                    "{name}: order {}, element {place} of input {input}: differences say {expected}, the graph {found}",
                    order + 1
                );
            }
        }
    }
}

/// `f64` elements without pattern, none two equal, between -2 and 2 and at least 0.01 from 0.
pub(crate) fn sample(shape: &[usize]) -> Tensor {
    let element = |place: usize| {
        let value = 2.0 * (place as f64 * 2.399_963 + 0.7).sin();
        Scalar::Float(if value.abs() < 0.01 { value + 0.05 } else { value })
    };
    let count = shape.iter().product();
    Tensor::from_scalars(DType::F64, shape, (0..count).map(element))
}

/// A scalar on which every element has an influence of its own.
fn weighted_sum(val: Val<'_>) -> Val<'_> {
    let count = val.ty().count();
    let weights = (0..count).map(|place| Scalar::Float(1.0 + 0.3 * (place as f64 * 1.7).cos()));
    let weights = Tensor::from_scalars(DType::F64, val.shape(), weights);
    (val * val.builder().constant(weights)).sum_all()
}
