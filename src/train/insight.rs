//! What happens inside a trained network: the activations of its layers, and where it looks.

use std::cell::RefCell;
use std::rc::Rc;

use netloom_ir::builder::{Builder, Val};
use netloom_ir::{Entry, Program, Tensor, autodiff};

use super::model::Model;
use crate::compile::compile;
use crate::error::Error;
use crate::nn::scope::States;
use crate::nn::{Layer, Mode, Scope};
use crate::session::Session;

/// What each layer makes of some inputs, with its kind, from the input on.
///
/// # Errors
/// If the inputs do not fit.
pub fn activations(model: &mut Model, inputs: &Tensor) -> Result<Vec<(String, Tensor)>, Error> {
    inspected(model, inputs, |net, scope, x| {
        let Some(chain) = net.chain() else {
            return vec![(net.describe(), net.build(scope, x))];
        };
        let mut x = x;
        let layers = chain.layers(scope);
        layers
            .map(|(scope, layer)| {
                x = layer.build(&scope, x);
                (layer.describe(), x)
            })
            .collect()
    })
}

/// How much the greatest score of each input changes with each of its elements: the absolute gradient, shaped like the inputs.
///
/// K. Simonyan et al., "Deep inside convolutional networks", 2014.
///
/// # Errors
/// If the inputs do not fit, or the scores are not `[batch, classes]`.
pub fn saliency(model: &mut Model, inputs: &Tensor) -> Result<Tensor, Error> {
    let mut results = inspected(model, inputs, |net, scope, x| {
        let best = net.build(scope, x).max_over([1]);
        vec![("saliency".to_owned(), autodiff::grad(best.sum_all(), &[x])[0].abs())]
    })?;
    Ok(results.remove(0).1)
}

/// The results of a graph over the model's network with the model's present weights.
fn inspected(
    model: &mut Model,
    inputs: &Tensor,
    build: impl for<'g> FnOnce(&dyn Layer, &Scope<'g>, Val<'g>) -> Vec<(String, Val<'g>)>,
) -> Result<Vec<(String, Tensor)>, Error> {
    const INSPECT: &str = "inspect";
    let states = Rc::new(RefCell::new(States::default()));
    let b = Builder::new();
    let scope = Scope::new(&b, Mode::Inference, Rc::clone(&states));
    let results = build(model.net(), &scope, b.input("x", inputs.dtype(), inputs.shape()));
    // Layers of the same kind have the same name; those of results differ.
    let names: Vec<String> = results.iter().map(|(name, _)| name.clone()).collect();
    let graph = b.finish(
        results
            .into_iter()
            .enumerate()
            .map(|(at, (_, val))| (at.to_string(), val)),
    )?;
    let states = states.borrow().states().to_vec();
    let entry = Entry {
        name: INSPECT.to_owned(),
        graph,
    };
    let program = Program {
        states,
        entries: vec![entry],
    };
    let device = model.options().device.clone();
    let mut session = Session::new(compile(&program, &device)?.into(), model.options().threads, 0)?;
    let own: Vec<String> = session.states().into_iter().map(|(name, _)| name).collect();
    for name in own {
        let value = model.session().state(&name)?;
        session.set_state(&name, &value)?;
    }
    let found = session.call(INSPECT, &[("x", inputs)])?;
    Ok(names
        .into_iter()
        .zip(found.into_iter().map(|(_, tensor)| tensor))
        .collect())
}
