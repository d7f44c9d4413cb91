//! Gradients that vanish, and how weights should start: `cargo run --release --example gradients [OUT]` draws `OUT/gradients.svg` and
//! `OUT/initialisation.svg`.
//!
//! Ten layers. With sigmoids and uniform weights hardly any gradient reaches the first layer; with ReLU and Xavier's rule all learn. The
//! measures are taken within the compiled training step.

use std::path::{Path, PathBuf};
use std::time::Instant;

use netloom::ir::Tensor;
use netloom::nn::layers::{Activation, Dense};
use netloom::nn::training::{TRAIN_STEP, WATCHED_STEP};
use netloom::nn::zoo::lenet::lenet;
use netloom::nn::{Initialiser, Loss, Optimiser, Rate, Sequential, Training};
use netloom::train::classic::{Chains, Rbm, RbmOptions, Visible};
use netloom::train::model::ModelOptions;
use netloom::train::report::{Chart, Series, charts};
use netloom::train::{Dataset, FitOptions, Health, Model};
use netloom::{Cpu, Error};

const LAYERS: usize = 10;
const WIDTH: usize = 64;

/// Ten layers whose weights start so, each with its bias.
fn deep(activation: Activation, mut start: impl FnMut(usize) -> [Initialiser; 2]) -> Sequential {
    let mut net = Sequential::new();
    for layer in 0..LAYERS {
        let [weight_init, bias_init] = start(layer);
        let units = if layer + 1 == LAYERS { 10 } else { WIDTH };
        net = net.then(Dense {
            weight_init,
            bias_init,
            ..Dense::new(units)
        });
        if layer + 1 < LAYERS {
            net = net.then(activation);
        }
    }
    net
}

/// Objectives and health, epoch by epoch.
fn trained(net: Sequential, data: &Dataset, epochs: usize) -> Result<(Vec<f64>, Vec<Health>), Error> {
    let training = Training {
        health: true,
        ..Training::new(
            Loss::CategoricalCrossEntropy,
            Optimiser::Momentum(0.9),
            Rate::Constant(0.01),
        )
    };
    let mut model = Model::compile(net, &training, data, ModelOptions::new(50))?;
    let history = model.fit(
        data,
        FitOptions {
            epochs,
            ..FitOptions::default()
        },
    )?;
    Ok((
        history.epochs.iter().map(|epoch| epoch.objective).collect(),
        history.health,
    ))
}

/// Weights and hidden biases of nine Boltzmann machines, one above the other.
fn pretrained(data: &Dataset) -> Result<Vec<[Initialiser; 2]>, Error> {
    let options = RbmOptions {
        hidden: WIDTH,
        visible: Visible::Bernoulli,
        chains: Chains::FromData(1),
        rate: 0.1,
        momentum: 0.5,
        decay: 1e-4,
        batch: 50,
        seed: 0,
    };
    let stack = Rbm::stack(&data.inputs, &[options; LAYERS - 1], 5, &Cpu::native().into(), 1)?;
    let start = |machine: &Rbm| {
        let [weight, _, bias]: [Tensor; 3] = machine.weights()?;
        Ok([Initialiser::Tensor(weight), Initialiser::Tensor(bias)])
    };
    stack.iter().map(start).collect()
}

/// What comes of it.
struct Findings {
    /// The first layer's gradient over the last's in the first epoch: with sigmoids and uniform weights, with ReLU and Xavier's rule.
    ratios: [f64; 2],
    /// What is said of the first of these nets.
    verdicts: Vec<String>,
    /// The last objective of each way to start.
    last: Vec<(&'static str, f64)>,
}

fn run(out: &Path) -> Result<Findings, Error> {
    let data = Dataset::digits()?.0.flattened().select(&(0..1000).collect::<Vec<_>>());
    let plain = |init: Initialiser| move |_: usize| [init.clone(), Initialiser::Zeros];
    let (_, ill) = trained(deep(Activation::Sigmoid, plain(Initialiser::Uniform(0.1))), &data, 1)?;
    let (_, well) = trained(deep(Activation::Relu, plain(Initialiser::XavierUniform)), &data, 1)?;
    let norms =
        |name: &str, health: &Health| Series::counted(name, health.weights.iter().map(|weight| weight.gradient));
    let series = vec![norms("sigmoid, uniform ±0.1", &ill[0]), norms("ReLU, Xavier", &well[0])];
    let chart = Chart::new("The gradient that reaches each layer", "layer", "norm", series).logarithmic();
    charts(&out.join("gradients.svg"), 1, &[chart])?;

    let (mut series, mut last) = (Vec::new(), Vec::new());
    let mut stack = pretrained(&data)?;
    stack.push([Initialiser::XavierUniform, Initialiser::Zeros]);
    let ways: [(&str, Sequential); 6] = [
        (
            "uniform ±0.1, sigmoid",
            deep(Activation::Sigmoid, plain(Initialiser::Uniform(0.1))),
        ),
        (
            "uniform ±0.1, ReLU",
            deep(Activation::Relu, plain(Initialiser::Uniform(0.1))),
        ),
        (
            "Gaussian 0.1, ReLU",
            deep(Activation::Relu, plain(Initialiser::Gaussian(0.1))),
        ),
        (
            "Xavier, ReLU",
            deep(Activation::Relu, plain(Initialiser::XavierUniform)),
        ),
        ("He, ReLU", deep(Activation::Relu, plain(Initialiser::HeNormal))),
        ("RBMs, sigmoid", deep(Activation::Sigmoid, |layer| stack[layer].clone())),
    ];
    for (name, net) in ways {
        let (objectives, _) = trained(net, &data, 15)?;
        last.push((name, objectives.last().copied().unwrap_or(f64::NAN)));
        series.push(Series::counted(name, objectives));
    }
    let chart = Chart::new("Ten layers from different starts", "epoch", "objective", series);
    charts(&out.join("initialisation.svg"), 1, &[chart])?;
    let ratio = |health: &[Health]| health[0].first_to_last().unwrap_or(f64::NAN);
    Ok(Findings {
        ratios: [ratio(&ill), ratio(&well)],
        verdicts: ill[0].verdicts(),
        last,
    })
}

/// The least times in milliseconds of LeNet's step and of the one that also measures, in turn.
fn cost() -> Result<[f64; 2], Error> {
    let (data, _) = Dataset::digits()?;
    let training = Training {
        health: true,
        ..Training::new(Loss::CategoricalCrossEntropy, Optimiser::adam(), Rate::Constant(1e-3))
    };
    let mut model = Model::compile(lenet(), &training, &data, ModelOptions::new(64))?;
    let batch = data.select(&(0..64).collect::<Vec<_>>());
    let mut least = [f64::INFINITY; 2];
    for _ in 0..150 {
        for (entry, least) in [TRAIN_STEP, WATCHED_STEP].into_iter().zip(&mut least) {
            let mut results = model.session().results(entry)?;
            let start = Instant::now();
            model
                .session()
                .run(entry, &[&batch.inputs, &batch.targets], &mut results)?;
            *least = least.min(1e3 * start.elapsed().as_secs_f64());
        }
    }
    Ok(least)
}

fn main() -> Result<(), Error> {
    let Findings {
        ratios: [ill, well],
        verdicts,
        last,
    } = run(&std::env::args().nth(1).map_or("out".into(), PathBuf::from))?;
    println!("first layer's gradient over the last's: sigmoid and uniform {ill:.0e}, ReLU and Xavier {well:.2}");
    println!("{}", verdicts.join("\n"));
    last.iter()
        .for_each(|(name, objective)| println!("{name:<24} {objective:.3}"));
    let [plain, watched] = cost()?;
    let share = watched / plain - 1.0;
    println!(
        "a step of LeNet takes {plain:.2} ms, one that measures {watched:.2} ms; one in an epoch of 112 makes it {:.2} % longer",
        100.0 * share / 112.0
    );
    Ok(())
}

#[test]
fn gradients_vanish_where_they_should() {
    let out = tempfile::tempdir().unwrap();
    let Findings {
        ratios: [ill, well],
        verdicts,
        last,
    } = run(out.path()).unwrap();
    assert!(ill < 1e-4 && well > 1e-2, "{ill} {well}");
    assert!(
        verdicts
            .iter()
            .any(|verdict| verdict.starts_with("vanishing: `0.weight` gets")),
        "{verdicts:?}"
    );
    let objective = |name: &str| last.iter().find(|(known, _)| *known == name).unwrap().1;
    assert!(objective("uniform ±0.1, sigmoid") > 2.2, "{last:?}");
    assert!(objective("He, ReLU") < 0.5, "{last:?}");
    assert!(
        objective("RBMs, sigmoid") < objective("uniform ±0.1, sigmoid"),
        "{last:?}"
    );
}
