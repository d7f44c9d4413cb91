//! For tests: gradients of orders 1 and 2 against finite differences of the oracle.

use crate::builder::{Builder, Val};
use crate::dtype::{DType, Scalar};
use crate::tensor::Tensor;

#[path = "../../tests/support/differences.rs"]
mod differences;

/// Asserts that the gradient of `build` with respect to each input, and the gradient of that gradient, are what differences say.
/// The inputs lie where the function is smooth.
pub(crate) fn check_gradients(name: &str, inputs: &[Tensor], build: impl for<'g> Fn(&[Val<'g>]) -> Val<'g>) {
    let b = Builder::new();
    let named = |(place, input): (usize, &Tensor)| (format!("x{place}"), input.clone());
    let inputs: Vec<(String, Tensor)> = inputs.iter().enumerate().map(named).collect();
    let args: Vec<Val<'_>> = inputs
        .iter()
        .map(|(name, input)| b.input(name, DType::F64, input.shape()))
        .collect();
    let graph = b
        .finish([("y", build(&args))])
        .unwrap_or_else(|problems| panic!("{name}: {problems}"));
    let compared = differences::check_gradients(name, &graph, &inputs, 2);
    let elements: usize = inputs.iter().map(|(_, input)| input.count()).sum();
    assert_eq!(compared, 2 * elements, "{name} is not smooth at every element");
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
