//! From a network, a loss and an optimiser to a program: the training step is one entry, gradient and update included.

use std::cell::RefCell;
use std::rc::Rc;

use netloom_ir::autodiff;
use netloom_ir::builder::{Builder, Val};
use netloom_ir::program::{Entry, Program};
use netloom_ir::tensor::Type;

use super::layers::Layer;
use super::losses::Loss;
use super::optimisers::{Optimiser, Rate};
use super::scope::{Mode, STEP, Scope, States};
use crate::error::Error;

/// The entry that makes one step: arguments `x` and `y`, result `loss`, what is minimised: penalties included.
pub const TRAIN_STEP: &str = "train_step";
/// The entry that measures without training: arguments `x` and `y`, results `losses`, one for each example, and `scores`.
pub const EVALUATE: &str = "evaluate";
/// The entry that applies the network: argument `x`, result `scores`.
pub const PREDICT: &str = "predict";

/// How a network is trained.
#[derive(Clone, Debug, PartialEq)]
pub struct Training {
    /// What is minimised.
    pub loss: Loss,
    /// How parameters follow their gradients.
    pub optimiser: Optimiser,
    /// The learning rate.
    pub rate: Rate,
    /// Times the sum of absolute weights, added to the objective; biases and norms' parameters (rank below 2) are left out.
    pub l1: f64,
    /// Times half the sum of squared weights, added to the objective; likewise.
    pub l2: f64,
    /// The greatest allowed norm of the whole gradient; longer ones are scaled to it.
    pub clip_norm: Option<f64>,
}

impl Training {
    /// Plain: no regularisation, no clipping.
    pub fn new(loss: Loss, optimiser: Optimiser, rate: Rate) -> Training {
        Training {
            loss,
            optimiser,
            rate,
            l1: 0.0,
            l2: 0.0,
            clip_norm: None,
        }
    }
}

/// The program that trains a network on batches of type `input` (the first axis is the batch) with targets of type `target`.
///
/// # Errors
/// Everything that does not fit, with the places in the network's code.
pub fn program(net: &dyn Layer, input: &Type, target: &Type, training: &Training) -> Result<Program, Error> {
    let states = Rc::new(RefCell::new(States::default()));
    let entries = vec![
        train_step(net, input, target, training, &states)?,
        inference(EVALUATE, net, input, Some((target, training.loss)), &states)?,
        inference(PREDICT, net, input, None, &states)?,
    ];
    let states = states.borrow().states().to_vec();
    Ok(Program { states, entries })
}

/// The program that only applies a network.
///
/// # Errors
/// Everything that does not fit.
pub fn predictor(net: &dyn Layer, input: &Type) -> Result<Program, Error> {
    let states = Rc::new(RefCell::new(States::default()));
    let entries = vec![inference(PREDICT, net, input, None, &states)?];
    let states = states.borrow().states().to_vec();
    Ok(Program { states, entries })
}

fn train_step(
    net: &dyn Layer,
    input: &Type,
    target: &Type,
    training: &Training,
    states: &Rc<RefCell<States>>,
) -> Result<Entry, Error> {
    let builder = Builder::new();
    let scope = Scope::new(&builder, Mode::Training, Rc::clone(states));
    let x = builder.input("x", input.dtype, input.shape.clone());
    let y = builder.input("y", target.dtype, target.shape.clone());
    let loss = training.loss.of(net.build(&scope, x), y);
    let further = scope.further_scores();
    let loss = further
        .into_iter()
        .fold(loss, |sum, (scores, weight)| sum + training.loss.of(scores, y) * weight);
    let names = states.borrow().trainable().to_vec();
    let parameters: Vec<Val<'_>> = names.iter().filter_map(|name| builder.find_input(name)).collect();
    let objective = regularised(&scope, loss, &parameters, training);
    let gradients = clipped(&autodiff::grad(objective, &parameters), training.clip_norm);
    let rate = training.rate.now(&scope);
    for ((name, &parameter), gradient) in names.iter().zip(&parameters).zip(gradients) {
        let next = training.optimiser.next(&scope, name, parameter, gradient, rate);
        scope.update(name, next);
    }
    let step = scope.step();
    scope.update(STEP, step + step.lit(1.0));
    let outputs = std::iter::once(("loss".to_owned(), objective)).chain(scope.updates());
    Ok(Entry {
        name: TRAIN_STEP.to_owned(),
        graph: builder.finish(outputs)?,
    })
}

fn regularised<'g>(scope: &Scope<'g>, loss: Val<'g>, parameters: &[Val<'g>], training: &Training) -> Val<'g> {
    let mut objective = scope.penalties().into_iter().fold(loss, |sum, penalty| sum + penalty);
    for weight in parameters.iter().filter(|parameter| parameter.rank() >= 2) {
        if training.l1 != 0.0 {
            objective = objective + weight.abs().sum_all() * training.l1;
        }
        if training.l2 != 0.0 {
            objective = objective + (*weight * *weight).sum_all() * (0.5 * training.l2);
        }
    }
    objective
}

/// Gradients scaled so that their joint Euclidean norm is at most `greatest`.
fn clipped<'g>(gradients: &[Val<'g>], greatest: Option<f64>) -> Vec<Val<'g>> {
    let Some(greatest) = greatest else {
        return gradients.to_vec();
    };
    let squares = gradients.iter().map(|gradient| (*gradient * *gradient).sum_all());
    let Some(square) = squares.reduce(|a, b| a + b) else {
        return Vec::new();
    };
    let norm = square.sqrt();
    let scale = (norm.lit(greatest) / norm.max(1e-12)).min(1.0);
    gradients.iter().map(|gradient| *gradient * scale).collect()
}

fn inference(
    name: &str,
    net: &dyn Layer,
    input: &Type,
    target: Option<(&Type, Loss)>,
    states: &Rc<RefCell<States>>,
) -> Result<Entry, Error> {
    let builder = Builder::new();
    let scope = Scope::new(&builder, Mode::Inference, Rc::clone(states));
    let x = builder.input("x", input.dtype, input.shape.clone());
    let target = target.map(|(ty, loss)| (builder.input("y", ty.dtype, ty.shape.clone()), loss));
    let scores = net.build(&scope, x);
    let loss = target.map(|(y, loss)| ("losses", loss.each(scores, y)));
    let outputs = loss.into_iter().chain([("scores", scores)]);
    Ok(Entry {
        name: name.to_owned(),
        graph: builder.finish(outputs)?,
    })
}
