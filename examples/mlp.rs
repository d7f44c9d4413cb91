//! A classifier of handwritten digits in twenty lines: `cargo run --release --example mlp`.

use netloom::nn::layers::{Activation, Dense};
use netloom::nn::{Loss, Optimiser, Rate, Sequential, Training};
use netloom::train::model::ModelOptions;
use netloom::train::{Dataset, FitOptions, Model};
use netloom::{Cpu, Error};

fn main() -> Result<(), Error> {
    let (train, test) = Dataset::digits()?;
    let (train, test) = (train.flattened(), test.flattened());
    let net = Sequential::new()
        .then(Dense::new(128))
        .then(Activation::Relu)
        .then(Dense::new(10));
    let training = Training::new(Loss::CategoricalCrossEntropy, Optimiser::adam(), Rate::Constant(1e-3));
    let options = ModelOptions {
        batch: 50,
        threads: 1,
        seed: 0,
        device: Cpu::native().into(),
    };
    let mut model = Model::compile(net, &training, &train, options)?;
    print!("{}", model.summary()?);
    model.fit(
        &train,
        FitOptions {
            epochs: 3,
            ..FitOptions::default()
        },
    )?;
    let scores = model.evaluate(&test)?;
    println!("{scores:?}");
    assert!(scores.accuracy.is_some_and(|accuracy| accuracy > 0.9));
    Ok(())
}

#[test]
fn it_learns() {
    main().unwrap();
}
