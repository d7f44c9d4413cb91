//! Overfitting and what helps: `cargo run --release --example overfitting [OUT]` draws `OUT/overfitting.svg`.
//!
//! A net with 670,000 weights learns 300 digits by heart, while it gets worse on others. Dropout, weight penalties and stopping in time
//! close the gap.

use std::path::{Path, PathBuf};

use netloom::Error;
use netloom::nn::layers::{Activation, Dense, Dropout};
use netloom::nn::{Loss, Optimiser, Rate, Sequential, Training};
use netloom::train::model::ModelOptions;
use netloom::train::report::{Chart, Series, charts};
use netloom::train::{Dataset, EarlyStopping, FitOptions, Model};

/// What one way of training ends with: the loss on the data it learnt, and on others.
#[derive(Debug)]
struct Ending {
    training: f64,
    validation: f64,
}

/// Trains the same net on the same data, with some of the remedies.
fn trained(title: &str, dropout: f64, l2: f64, patience: Option<usize>) -> Result<(Ending, Chart), Error> {
    let digits = Dataset::digits()?.0.flattened();
    let train = digits.select(&(0..300).collect::<Vec<_>>());
    let validation = digits.select(&(1000..2000).collect::<Vec<_>>());
    let mut net = Sequential::new().then(Dropout(0.5 * dropout));
    for _ in 0..2 {
        net = net.then(Dense::new(512)).then(Activation::Relu).then(Dropout(dropout));
    }
    let training = Training {
        l2,
        ..Training::new(Loss::CategoricalCrossEntropy, Optimiser::adam(), Rate::Constant(1e-3))
    };
    let mut model = Model::compile(net.then(Dense::new(10)), &training, &train, ModelOptions::new(50))?;
    let mut stop = patience.map(EarlyStopping::new);
    let history = model.fit(
        &train,
        FitOptions {
            epochs: 50,
            validation: Some(&validation),
            callbacks: stop.iter_mut().map(|stop| stop as _).collect(),
            ..FitOptions::default()
        },
    )?;
    let epochs = history.epochs.iter();
    let losses = |of: &dyn Fn(&netloom::train::Epoch) -> f64| epochs.clone().map(of).collect::<Vec<f64>>();
    let series = vec![
        Series::counted(
            "training",
            losses(&|epoch| epoch.training.map_or(f64::NAN, |scores| scores.loss)),
        ),
        Series::counted(
            "validation",
            losses(&|epoch| epoch.validation.map_or(f64::NAN, |scores| scores.loss)),
        ),
    ];
    let ending = Ending {
        training: model.evaluate(&train)?.loss,
        validation: model.evaluate(&validation)?.loss,
    };
    Ok((ending, Chart::new(title, "epoch", "loss", series)))
}

fn run(out: &Path) -> Result<[Ending; 4], Error> {
    let (plain, a) = trained("nothing", 0.0, 0.0, None)?;
    let (dropout, b) = trained("dropout", 0.6, 0.0, None)?;
    let (penalty, c) = trained("L2 0.003", 0.0, 3e-3, None)?;
    let (early, d) = trained("early stopping", 0.0, 0.0, Some(3))?;
    charts(&out.join("overfitting.svg"), 2, &[a, b, c, d])?;
    Ok([plain, dropout, penalty, early])
}

fn main() -> Result<(), Error> {
    let endings = run(&std::env::args().nth(1).map_or("out".into(), PathBuf::from))?;
    for (name, Ending { training, validation }) in ["nothing", "dropout", "L2", "early stopping"].iter().zip(endings) {
        println!("{name:<16} training loss {training:.4}, validation loss {validation:.4}");
    }
    Ok(())
}

#[test]
fn remedies_close_the_gap() {
    let out = tempfile::tempdir().unwrap();
    let [plain, remedies @ ..] = run(out.path()).unwrap();
    assert!(
        plain.training < 0.01 && plain.validation > 20.0 * plain.training,
        "{plain:?}"
    );
    for remedy in &remedies {
        assert!(
            remedy.validation - remedy.training < plain.validation - plain.training,
            "{plain:?} {remedy:?}"
        );
    }
}
