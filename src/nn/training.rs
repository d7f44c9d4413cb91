//! From a network, a loss and an optimiser to a program: the training step is one entry, gradient and update included.

use std::cell::RefCell;
use std::rc::Rc;

use netloom_ir::autodiff;
use netloom_ir::builder::{Builder, Val};
use netloom_ir::program::{Entry, Program};
use netloom_ir::tensor::Type;
use netloom_ir::{DType, Tensor};

use super::layers::Layer;
use super::losses::Loss;
use super::optimisers::{Optimiser, Rate};
use super::scope::{Mode, STEP, Scope, States};
use crate::error::Error;

/// The entry that makes one step: arguments `x` and `y`, result `loss`, what is minimised: penalties included.
pub const TRAIN_STEP: &str = "train_step";
/// The same step, which also measures how it fares: further results [`HEALTH`]. What is trained gets the same bits from either, so that a
/// training may measure as rarely as it looks.
pub const WATCHED_STEP: &str = "watched_step";
/// The entry that measures without training: arguments `x` and `y`, results `losses`, one for each example, and `scores`.
pub const EVALUATE: &str = "evaluate";
/// The entry that applies the network: argument `x`, result `scores`.
pub const PREDICT: &str = "predict";

/// What [`WATCHED_STEP`] gives besides the loss: for each trained matrix or kernel, in the order of
/// [`Observed::weights`], the norm of its gradient; the norm of its update over its own; and for each activation, in the order of
/// [`Observed::activations`], the share of its units or elements that pass no gradient on (see [`Scope::observe`]).
pub const HEALTH: [&str; 3] = ["gradient_norms", "update_ratios", "quiet_shares"];

/// What the results [`HEALTH`] are about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Trained parameters of rank 2 and more.
    pub weights: Vec<String>,
    /// Activations: the scope and the kind.
    pub activations: Vec<(String, String)>,
}

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
    /// Factors of the rate for parameters whose names start so; the last one that fits counts. With 0 they stay as they are, and the step
    /// computes no gradient for them.
    pub rate_factors: Vec<(String, f64)>,
    /// How much each class counts in the loss of training, if not all the same; the loss is then a weighted mean.
    pub class_weights: Option<Vec<f32>>,
    /// Whether there is also a step that measures how gradients, weights and activations fare: the entry [`WATCHED_STEP`].
    pub health: bool,
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
            rate_factors: Vec::new(),
            class_weights: None,
            health: false,
        }
    }

    /// The factor of the rate for the parameter of that name.
    fn rate_factor(&self, name: &str) -> f64 {
        let fits = |(start, _): &&(String, f64)| name.strip_prefix(start.as_str()).is_some();
        self.rate_factors
            .iter()
            .rev()
            .find(fits)
            .map_or(1.0, |(_, factor)| *factor)
    }

    /// The loss that training makes small.
    fn objective<'g>(&self, scores: Val<'g>, target: Val<'g>) -> Val<'g> {
        let Some(weights) = &self.class_weights else {
            return self.loss.of(scores, target);
        };
        let (losses, b) = (self.loss.each(scores, target), scores.builder());
        if losses.is_poison() || target.dtype() != DType::I64 {
            return b.problem(format!("class weights: targets are no classes but {}", target.ty()));
        }
        let weights = b.constant(Tensor::from_f32([weights.len()], weights)).gather(target, 0);
        (losses * weights).sum_all() / weights.sum_all()
    }
}

/// The program that trains a network on batches of type `input` (the first axis is the batch) with targets of type `target`.
///
/// # Errors
/// Everything that does not fit, with the places in the network's code.
pub fn program(net: &dyn Layer, input: &Type, target: &Type, training: &Training) -> Result<Program, Error> {
    Ok(watched_program(net, input, target, training)?.0)
}

/// The same, with what its health is measured of.
///
/// # Errors
/// As [`program`].
pub fn watched_program(
    net: &dyn Layer,
    input: &Type,
    target: &Type,
    training: &Training,
) -> Result<(Program, Observed), Error> {
    let states = Rc::new(RefCell::new(States::default()));
    let (plain, mut observed) = train_step(TRAIN_STEP, net, input, target, training, &states)?;
    let mut entries = vec![plain];
    if training.health {
        let (watched, of) = train_step(WATCHED_STEP, net, input, target, training, &states)?;
        entries.push(watched);
        observed = of;
    }
    entries.extend([
        inference(EVALUATE, net, input, Some((target, training.loss)), &states)?,
        inference(PREDICT, net, input, None, &states)?,
    ]);
    let states = states.borrow().states().to_vec();
    Ok((Program { states, entries }, observed))
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
    entry: &str,
    net: &dyn Layer,
    input: &Type,
    target: &Type,
    training: &Training,
    states: &Rc<RefCell<States>>,
) -> Result<(Entry, Observed), Error> {
    let builder = Builder::new();
    let scope = Scope::new(&builder, Mode::Training, Rc::clone(states));
    let x = builder.input("x", input.dtype, input.shape.clone());
    let y = builder.input("y", target.dtype, target.shape.clone());
    let loss = training.objective(net.build(&scope, x), y);
    let further = scope.further_scores();
    let loss = further.into_iter().fold(loss, |sum, (scores, weight)| {
        sum + training.objective(scores, y) * weight
    });
    let is_trained = |name: &String| training.rate_factor(name) != 0.0;
    let names: Vec<String> = states
        .borrow()
        .trainable()
        .iter()
        .filter(|name| is_trained(name))
        .cloned()
        .collect();
    let parameters: Vec<Val<'_>> = names.iter().filter_map(|name| builder.find_input(name)).collect();
    let objective = regularised(&scope, loss, &parameters, training);
    let gradients = clipped(&autodiff::grad(objective, &parameters), training.clip_norm);
    let rate = training.rate.now(&scope);
    let (mut health, is_watched) = (Health::default(), entry == WATCHED_STEP);
    for ((name, &parameter), gradient) in names.iter().zip(&parameters).zip(gradients) {
        let factor = training.rate_factor(name);
        let rate = if factor == 1.0 { rate } else { rate * factor };
        let next = training.optimiser.next(&scope, name, parameter, gradient, rate);
        if is_watched && parameter.rank() >= 2 {
            health.weigh(name, parameter, gradient, next);
        }
        scope.update(name, next);
    }
    let step = scope.step();
    scope.update(STEP, step + step.lit(1.0));
    let mut outputs = vec![("loss".to_owned(), objective)];
    if is_watched {
        outputs.extend(health.results(&scope));
    }
    outputs.extend(scope.updates());
    let graph = builder.finish(outputs)?;
    let activations = scope
        .observations()
        .into_iter()
        .map(|(name, kind, _)| (name, kind))
        .collect();
    let weights = health.weights;
    let entry = Entry {
        name: entry.to_owned(),
        graph,
    };
    Ok((entry, Observed { weights, activations }))
}

/// The measures of a training step; see [`HEALTH`].
#[derive(Default)]
struct Health<'g> {
    weights: Vec<String>,
    gradient_norms: Vec<Val<'g>>,
    update_ratios: Vec<Val<'g>>,
}

impl<'g> Health<'g> {
    fn weigh(&mut self, name: &str, parameter: Val<'g>, gradient: Val<'g>, next: Val<'g>) {
        let norm = |x: Val<'g>| (x * x).sum_all().sqrt();
        self.weights.push(name.to_owned());
        self.gradient_norms.push(norm(gradient));
        self.update_ratios
            .push(norm(next - parameter) / norm(parameter).max(1e-30));
    }

    fn results(&self, scope: &Scope<'g>) -> Vec<(String, Val<'g>)> {
        let stacked = |measures: &[Val<'g>]| match measures {
            [] => scope.builder().full(DType::F32, [0], 0.0),
            _ => Val::stack(measures, 0),
        };
        let quiet: Vec<Val<'g>> = scope.observations().into_iter().map(|(_, _, share)| share).collect();
        let measures = [
            stacked(&self.gradient_norms),
            stacked(&self.update_ratios),
            stacked(&quiet),
        ];
        HEALTH.into_iter().map(str::to_owned).zip(measures).collect()
    }
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
    let results = loss.into_iter().chain([("scores", scores)]);
    let outputs = results.map(|(name, val)| (name.to_owned(), val)).chain(scope.updates());
    Ok(Entry {
        name: name.to_owned(),
        graph: builder.finish(outputs)?,
    })
}
