//! What the learning rate does: `cargo run --release --example learning_rates [OUT]` draws `OUT/learning_rates.svg`.

use std::path::{Path, PathBuf};

use netloom::Error;
use netloom::nn::layers::{Activation, Dense};
use netloom::nn::{Loss, Optimiser, Rate, Sequential, Training};
use netloom::train::model::ModelOptions;
use netloom::train::report::{Chart, Series, charts};
use netloom::train::{Dataset, FitOptions, Model};

/// The objective of each epoch at this rate.
fn objectives(rate: f64, data: &Dataset) -> Result<Vec<f64>, Error> {
    let net = Sequential::new()
        .then(Dense::new(64))
        .then(Activation::Tanh)
        .then(Dense::new(10));
    let training = Training::new(Loss::CategoricalCrossEntropy, Optimiser::Sgd, Rate::Constant(rate));
    let mut model = Model::compile(net, &training, data, ModelOptions::new(50))?;
    let options = FitOptions {
        epochs: 15,
        diverged_at: Some(3.0),
        ..FitOptions::default()
    };
    Ok(model
        .fit(data, options)?
        .epochs
        .iter()
        .map(|epoch| epoch.objective)
        .collect())
}

/// The last objective of each rate, and what is said of one that is far too great.
fn run(out: &Path) -> Result<([f64; 4], String), Error> {
    let data = Dataset::digits()?.0.flattened().select(&(0..2000).collect::<Vec<_>>());
    let (mut last, mut series) = ([0.0; 4], Vec::new());
    for (place, rate) in [0.1, 0.05, 0.01, 0.001].into_iter().enumerate() {
        let objectives = objectives(rate, &data)?;
        last[place] = objectives.last().copied().unwrap_or(f64::NAN);
        series.push(Series::counted(format!("α = {rate}"), objectives));
    }
    let chart = Chart::new("The objective by learning rate", "epoch", "objective", series);
    charts(&out.join("learning_rates.svg"), 1, &[chart])?;
    let verdict = objectives(1e4, &data).map_or_else(|error| error.to_string(), |found| format!("{found:?}"));
    Ok((last, verdict))
}

fn main() -> Result<(), Error> {
    let (last, verdict) = run(&std::env::args().nth(1).map_or("out".into(), PathBuf::from))?;
    println!("objectives after 15 epochs: {last:.3?}\nα = 10000: {verdict}");
    Ok(())
}

#[test]
fn greater_rates_learn_faster_until_they_diverge() {
    let out = tempfile::tempdir().unwrap();
    let (last, verdict) = run(out.path()).unwrap();
    assert!(last.is_sorted(), "{last:?}");
    assert!(verdict.starts_with("the training diverges"), "{verdict}");
}
