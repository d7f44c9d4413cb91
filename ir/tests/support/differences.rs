//! Gradients against central finite differences of the oracle, in f64.

use netloom_ir::kernel::Combine;
use netloom_ir::ops::Fold;
use netloom_ir::{Builder, Graph, Op, Tensor, Val, autodiff, oracle, sample};

/// The sum of all elements.
pub fn total(val: Val<'_>) -> Val<'_> {
    let axes = (0..val.rank()).collect::<Vec<_>>();
    if axes.is_empty() {
        return val;
    }
    let fold = Fold {
        with: Combine::Sum,
        axes,
    };
    val.builder().push(Op::Fold(fold), &[val])
}

/// A scalar that every element of `val` enters with a weight of its own, and not linearly, so that gradients of gradients do not
/// vanish.
pub fn mixed<'g>(val: Val<'g>, seed: u64) -> Val<'g> {
    let mut seed = seed;
    let weights = val.builder().constant(sample::tensor(&val.ty(), &mut seed));
    total(val * val * weights + val * weights)
}

/// The graph with further outputs: `loss`, a mix of its outputs; `d0` …, the gradient of `loss` with respect to each float input; if
/// `order` is 2, the same again for a mix of those.
pub fn with_gradients(graph: &Graph, order: u32) -> Graph {
    let b = Builder::from_graph(graph.clone());
    let floats = graph.inputs().iter().filter(|&&id| graph.ty(id).dtype.is_float());
    let wrt: Vec<Val<'_>> = floats.map(|&id| b.val(id)).collect();
    let mut mixing: Vec<Val<'_>> = graph.outputs.iter().map(|&(_, id)| b.val(id)).collect();
    let mut loss = b.scalar(netloom_ir::DType::F64, 0.0);
    for round in 0..order {
        loss = mixing
            .iter()
            .enumerate()
            .fold(b.scalar(netloom_ir::DType::F64, 0.0), |sum, (place, &val)| {
                sum + mixed(val, u64::from(round) * 100 + place as u64)
            });
        mixing = autodiff::grad(loss, &wrt);
    }
    let gradients = mixing
        .iter()
        .enumerate()
        .map(|(place, &val)| (format!("d{place}"), val));
    b.finish(std::iter::once(("loss".to_owned(), loss)).chain(gradients))
        .unwrap_or_else(|problems| panic!("{problems}"))
}

/// Compares the gradients of order 1 to `orders` of a mix of the graph's outputs with finite differences, at every element of every
/// float input, but for elements where the differences themselves show a kink. Gives the number of elements compared.
pub fn check_gradients(name: &str, graph: &Graph, inputs: &[(String, Tensor)], orders: u32) -> usize {
    (1..=orders)
        .map(|order| check_order(name, &with_gradients(graph, order), inputs, order))
        .sum()
}

fn check_order(name: &str, graph: &Graph, inputs: &[(String, Tensor)], order: u32) -> usize {
    let run = |inputs: &[(String, Tensor)]| -> Vec<Tensor> {
        let inputs: Vec<(&str, Tensor)> = inputs
            .iter()
            .map(|(name, tensor)| (name.as_str(), tensor.clone()))
            .collect();
        let outputs = oracle::run(graph, &inputs).unwrap_or_else(|problems| panic!("{name}: {problems}"));
        outputs.into_iter().map(|(_, tensor)| tensor).collect()
    };
    let gradients = run(inputs).split_off(1);
    // Only the loss is needed from here on.
    let mut loss_graph = graph.clone();
    loss_graph.outputs.truncate(1);
    let loss = |inputs: &[(&str, Tensor)]| -> f64 {
        let outputs = oracle::run(&loss_graph, inputs).unwrap_or_else(|problems| panic!("{name}: {problems}"));
        outputs[0].1.get(0).as_f64()
    };
    let mut compared = 0;
    let mut moved: Vec<(&str, Tensor)> = inputs
        .iter()
        .map(|(name, tensor)| (name.as_str(), tensor.clone()))
        .collect();
    let floats = (0..inputs.len()).filter(|&place| inputs[place].1.dtype().is_float());
    for (place, gradient) in floats.zip(&gradients) {
        for element in 0..gradient.count() {
            let at = inputs[place].1.get(element).as_f64();
            let mut difference = |step: f64| {
                let mut side = |to: f64| {
                    moved[place].1.set(element, netloom_ir::Scalar::Float(to));
                    loss(&moved)
                };
                let slope = (side(at + step) - side(at - step)) / (2.0 * step);
                side(at);
                slope
            };
            let [near, far, farther] = [1e-4, 2e-4, 4e-4].map(&mut difference);
            let found = gradient.get(element).as_f64();
            // A central difference errs by the third derivative times step² / 6, so that a step twice as long differs by three
            // times this error: far - near = 3 error. What is left after subtracting it is of order step⁴, and rounding.
            let extrapolated = |near: f64, far: f64| near - (far - near) / 3.0;
            let expected = extrapolated(near, far);
            let scale = 1.0 + found.abs() + near.abs();
            // Where longer steps say something else, there is a kink, or too much of a curve, between them.
            if (expected - extrapolated(far, farther)).abs() > 1e-7 * scale {
                continue;
            }
            compared += 1;
            let (input, error) = (&inputs[place].0, (found - expected).abs());
            assert!(
                error < 1e-6 * scale,
                "{name}: gradient of order {order} at `{input}`[{element}] is {found}, by differences {expected}"
            );
        }
    }
    compared
}
