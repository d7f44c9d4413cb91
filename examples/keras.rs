//! Keras' three nets, as the same chains: `cargo run --release --example keras [OUT]` draws `OUT/keras.svg`.
//!
//! | Keras | netloom |
//! |---|---|
//! | `model = Sequential([` | `let net = Sequential::new()` |
//! | `Dense(64, activation="relu"),` | `.then(Dense::new(64)).then(Activation::Relu)` |
//! | `LSTM(32),` | `.then(Recurrent::lstm(32))` |
//! | `Conv2D(32, 3, activation="relu"),` | `.then(Conv::d2(32, 3)).then(Activation::Relu)` |
//! | `MaxPooling2D(2), Flatten(), Dropout(0.5),` | `.then(Pool::max2(2)).then(Flatten).then(Dropout(0.5))` |
//! | `])` | `;` |
//! | `model.compile("adam", SparseCategoricalCrossentropy(from_logits=True))` | `let mut model = Model::compile(net, &training, &train, ModelOptions::new(32))?;` |
//! | `model.fit(x, y, epochs=5, batch_size=32)` | `model.fit(&train, FitOptions { epochs: 5, ..FitOptions::default() })?;` |
//! | `model.evaluate(x_test, y_test)` | `model.evaluate(&test)?` |
//!
//! What differs: pictures have their channels first, an activation is a layer of its own, and the loss takes scores, not probabilities.

use std::path::{Path, PathBuf};

use netloom::Error;
use netloom::ir::Tensor;
use netloom::nn::layers::{Activation, Conv, Dense, Dropout, Flatten, Pool, Recurrent};
use netloom::nn::{Loss, Optimiser, Rate, Sequential, Training};
use netloom::train::model::ModelOptions;
use netloom::train::report::{Chart, Series, charts};
use netloom::train::{Dataset, FitOptions, Model};

/// ```python
/// Sequential([Dense(64, activation="relu"), Dense(64, activation="relu"), Dense(10)])
/// ```
fn feed_forward() -> Sequential {
    Sequential::new()
        .then(Dense::new(64))
        .then(Activation::Relu)
        .then(Dense::new(64))
        .then(Activation::Relu)
        .then(Dense::new(10))
}

/// ```python
/// Sequential([LSTM(32, return_sequences=True), LSTM(32), Dense(10)])
/// ```
fn recurrent() -> Sequential {
    Sequential::new()
        .then(Recurrent::lstm(32).sequences())
        .then(Recurrent::lstm(32))
        .then(Dense::new(10))
}

/// ```python
/// Sequential([Conv2D(16, 3, activation="relu"), MaxPooling2D(2), Conv2D(32, 3, activation="relu"), MaxPooling2D(2),
///             Flatten(), Dropout(0.5), Dense(10)])
/// ```
fn convolutional() -> Sequential {
    Sequential::new()
        .then(Conv::d2(16, 3))
        .then(Activation::Relu)
        .then(Pool::max2(2))
        .then(Conv::d2(32, 3))
        .then(Activation::Relu)
        .then(Pool::max2(2))
        .then(Flatten)
        .then(Dropout(0.5))
        .then(Dense::new(10))
}

/// The accuracy on test digits after each epoch, of a net that is given digits in this shape.
fn accuracies(net: Sequential, shape: &[usize], examples: usize, epochs: usize) -> Result<Vec<f64>, Error> {
    let (train, test) = Dataset::digits()?;
    let shaped = |data: Dataset| {
        let inputs: Tensor = data.inputs.clone().reshaped([&[data.len()], shape].concat());
        Dataset { inputs, ..data }
    };
    let train = shaped(train.select(&(0..examples).collect::<Vec<_>>()));
    let test = shaped(test);
    let training = Training::new(Loss::CategoricalCrossEntropy, Optimiser::adam(), Rate::Constant(2e-3));
    let mut model = Model::compile(net, &training, &train, ModelOptions::new(32))?;
    let options = FitOptions {
        epochs,
        validation: Some(&test),
        ..FitOptions::default()
    };
    let history = model.fit(&train, options)?;
    let accuracy = history.epochs.iter().filter_map(|epoch| epoch.validation?.accuracy);
    Ok(accuracy.collect())
}

/// Last accuracies of the three nets; the recurrent one reads a digit row by row.
fn run(out: &Path, examples: usize, epochs: usize) -> Result<[f64; 3], Error> {
    let all = [
        accuracies(feed_forward(), &[784], examples, epochs)?,
        accuracies(recurrent(), &[28, 28], examples, epochs)?,
        accuracies(convolutional(), &[1, 28, 28], examples, epochs)?,
    ];
    let last = all.each_ref().map(|found| found.last().copied().unwrap_or(0.0));
    let names = ["feed-forward", "recurrent", "convolutional"];
    let series = names
        .into_iter()
        .zip(all)
        .map(|(name, found)| Series::counted(name, found));
    let chart = Chart::new(
        "Keras' three nets on digits",
        "epoch",
        "test accuracy",
        series.collect(),
    );
    charts(&out.join("keras.svg"), 1, &[chart])?;
    Ok(last)
}

fn main() -> Result<(), Error> {
    let [feed_forward, recurrent, convolutional] =
        run(&std::env::args().nth(1).map_or("out".into(), PathBuf::from), 8000, 5)?;
    println!("feed-forward {feed_forward:.3}, recurrent {recurrent:.3}, convolutional {convolutional:.3}");
    Ok(())
}

#[test]
fn all_three_learn() {
    let out = tempfile::tempdir().unwrap();
    let [feed_forward, recurrent, convolutional] = run(out.path(), 1000, 2).unwrap();
    assert!(
        feed_forward > 0.75 && recurrent > 0.3 && convolutional > 0.75,
        "{feed_forward} {recurrent} {convolutional}"
    );
}
